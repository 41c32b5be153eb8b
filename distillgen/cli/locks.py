"""What commands that take a project's lock share: they fail at once when another holds it, or wait, or skip."""

import functools
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from distillgen.cli.guard import Given, stoppable, with_options
from distillgen.errors import Locked, UsageError

P = ParamSpec("P")
LOOK_SECONDS = 1.0
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
Wait = Annotated[bool, typer.Option("--wait", help="Wait while another command holds the lock.")]
WaitAtMost = Annotated[
    str | None,
    typer.Option(
        "--wait-at-most",
        metavar="TIME",
        show_default=False,
        help="Wait for the lock, but no longer than 30s, 10m, 2h; then exit status 11.",
    ),
]
SkipIfLocked = Annotated[
    bool, typer.Option("--skip-if-locked", help="While another command holds the lock do nothing: status 0.")
]  # fmt: skip
OPTIONS: Given = {
    "wait": (Wait, False), "wait_at_most": (WaitAtMost, None), "skip_if_locked": (SkipIfLocked, False),
}  # fmt: skip


def patient(command: Callable[P, None]) -> Callable[P, None]:
    """Give a command the options that say what to do about a lock."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        said: dict[str, Any] = {name: kwargs.pop(name) for name in OPTIONS}
        patiently(functools.partial(command, *args, **kwargs), **said)

    return with_options(run, command, OPTIONS)


def patiently(work: Callable[[], None], *, wait: bool, wait_at_most: str | None, skip_if_locked: bool) -> None:
    """Do something that takes a lock, when the lock is free. Raises Locked when nobody wants to wait any longer.

    Locked is raised before anything is sent or changed, so the work is simply begun again, which reads all files anew.
    """
    from distillgen.report.console import say

    patience = _patience(wait=wait, wait_at_most=wait_at_most, skip_if_locked=skip_if_locked)
    until: float | None = None  # from when the lock is found taken
    while True:
        try:
            return work()
        except Locked as busy:
            if skip_if_locked:
                return say(f"skipped: {busy.problems[0].what}", event="skipped")
            until = until or time.monotonic() + patience
            if time.monotonic() >= until:
                raise
            say(f"waiting: {busy.problems[0].what}", event="waiting")
            with stoppable("nothing was sent or changed"):
                _wait_for(busy, until)


def _wait_for(busy: Locked, until: float) -> None:
    """Wait until a lock is free, or time is over."""
    from distillgen.files import holder

    while time.monotonic() < until:
        time.sleep(max(min(LOOK_SECONDS, until - time.monotonic()), 0.0))
        if holder(Path(busy.problems[0].where)) is None:
            return


def _patience(*, wait: bool, wait_at_most: str | None, skip_if_locked: bool) -> float:
    """Return how many seconds to wait. Raises UsageError when the options contradict each other."""
    if skip_if_locked and (wait or wait_at_most):
        raise UsageError("--skip-if-locked and --wait contradict each other", fix="leave one of them out")
    if wait_at_most is not None:
        return seconds_of(wait_at_most, "--wait-at-most")
    return math.inf if wait else 0.0


def seconds_of(text: str, option: str) -> float:
    """Return the seconds of `30s`, `10m`, `12h`, `30d`, `2w`. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip())
    if found is None:
        raise UsageError(f"{option} {text!r} is no time", fix="a number with its unit: 30s, 10m, 12h, 30d, 2w")
    return int(found[1]) * UNITS[found[2]]
