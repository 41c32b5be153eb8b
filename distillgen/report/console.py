"""What a person is told, in a terminal, a log, or a mail from cron. Writes to standard error only."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from rich.console import Console

LOG = logging.getLogger("distillgen")
LOG.addHandler(logging.NullHandler())  # in a notebook nothing is printed that nobody asked for
# Control characters of C0 (but tab and newline) and C1, and what turns the direction of writing round.
_HOSTILE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_LEVELS = {"yellow": logging.WARNING, "red": logging.ERROR}
NOTE = logging.INFO - 1  # what is for logs only: a person at the terminal sees it by other means

Color = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a command speaks: whether a person sees what it draws, and in colour or not."""

    is_seen: bool = True
    color: Color = "auto"


SEEN = Manner()
_manner: ContextVar[Manner] = ContextVar("manner", default=SEEN)


@contextlib.contextmanager
def speaking(manner: Manner) -> Iterator[None]:
    """Speak in a manner for the time of a block."""
    token = _manner.set(manner)
    try:
        yield
    finally:
        _manner.reset(token)


def safe(text: str) -> str:
    """Return text that can do nothing to a terminal: control and direction characters become visible escapes."""
    return _HOSTILE.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text
    )


def stderr() -> "Console":
    """Return the console for people. Nothing in what it prints is taken for markup; a quiet command has one that
    prints nothing.
    """
    return console(is_stderr=True, is_seen=_manner.get().is_seen)


def stdout() -> "Console":
    """Return the console for tables and rows that were asked for, which are printed however quiet a command is."""
    return console(is_stderr=False, is_seen=True)


def console(*, is_stderr: bool, is_seen: bool) -> "Console":
    """Return a console whose colour is rich's to decide (a terminal, NO_COLOR, FORCE_COLOR) unless --color did."""
    from rich.console import Console

    color = _manner.get().color
    return Console(
        file=cast(IO[str], _Heedless()) if is_stderr else None, stderr=is_stderr,
        markup=False, highlight=False, emoji=False, soft_wrap=True, quiet=not is_seen,
        force_terminal=True if color == "always" else None, no_color=False if color == "always" else None,
        color_system={"auto": "auto", "always": "standard", "never": None}[color], _environ=_environment(),
    )  # fmt: skip


class _Heedless:
    """Standard error, whichever it is at the moment. That nobody reads it any more, or that a full disk is behind it,
    is no reason to stop paid work.
    """

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def _environment() -> dict[str, str]:
    """Return the environment without a COLUMNS that is no width: rich prints nothing at 0, and fails at `²`."""
    stated = os.environ.get("COLUMNS", "")
    is_width = stated.isascii() and stated.isdecimal() and int(stated) > 0
    return {name: value for name, value in os.environ.items() if name != "COLUMNS" or is_width}


def say(text: str, *, style: str = "", event: str = "message", **fields: Any) -> None:
    """Say one thing, to whoever listens: a terminal, a log file. Yellow is a warning, red an error.

    `event` and `fields` are what a log in JSON says instead of nothing but the text: see docs/cron.md.
    """
    _log(_LEVELS.get(style, logging.INFO), text, style, event, fields)


def note(text: str, *, event: str, **fields: Any) -> None:
    """Note something in the log that a person at the terminal sees by other means."""
    _log(NOTE, text, "", event, fields)


def _log(level: int, text: str, style: str, event: str, fields: Mapping[str, Any]) -> None:
    LOG.log(level, "%s", safe(text), extra={"style": style, "event": event, "fields": fields})


def number(count: int, noun: str) -> str:
    """Return `1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def counts(numbers: Mapping[str, int], most: int = 4) -> str:
    """Return counts on one line: `length 3, exact_duplicate 1`."""
    parts = [f"{name} {number:,}" for name, number in list(numbers.items())[:most]]
    return ", ".join(parts + (["..."] if len(numbers) > most else []))


def clock(seconds: float) -> str:
    """Return a duration as people read it: 42 s, 3 min 05 s, 2 h 10 min, 3 days."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} days"
