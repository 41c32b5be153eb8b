"""What a training or an evaluation shows while it goes on: two live lines on a terminal, a plain line now and then
elsewhere."""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.cells import cell_len

from distillgen.report.console import clock, note, number, say, stderr
from distillgen.report.progress import BAR_CELLS, BOLD, LINE_SECONDS, PLAIN, cut, paint_of
from distillgen.report.screen import Screen, can_draw, size_of
from distillgen.report.signs import Signs

Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]
RECENT_SECONDS, FEWEST = 60.0, 4  # a pace is that of the last minute, and at least of so many events


@contextlib.contextmanager
def shown() -> Iterator[OnEvent]:
    """Yield what takes the events of a training or an evaluation, and shows how far it is."""
    console = stderr()
    with contextlib.ExitStack() as ends:
        screen = None
        if not console.quiet and can_draw(sys.stderr):
            screen = ends.enter_context(Screen(sys.stderr, paint=paint_of(console)))
        yield _Shown(screen).take


class _Shown:
    """Counts what is done, and says it. `work` is what is going on, from its first event to that of the next."""

    def __init__(self, screen: Screen | None) -> None:
        self._screen = screen
        self._said = time.monotonic()
        self._recent: dict[str, deque[tuple[float, int]]] = {}  # work -> when so much was done, of late
        self._facts: dict[str, str] = {}

    def take(self, event: Event) -> None:
        """Take in one event: `step` and `asked` say how far it is, `message` is told as it is."""
        kind = str(event.get("event", ""))
        if kind == "message":
            say(str(event["text"]), style=str(event.get("style", "")))
        elif kind == "rows":
            _tell_rows(event)
        elif kind == "validation":
            told = {"validation loss": f"{event['loss']:.4f}", "accuracy": f"{100 * event['accuracy']:.1f}%"}
            self._facts |= told
            text = ", ".join(f"{name} {value}" for name, value in told.items())
            figures = {name: event[name] for name in ("step", "loss", "accuracy")}
            note(f"{text} at step {event['step']:,}", event=kind, **figures)
        elif kind in ("step", "asked"):
            self._go_on(kind, event)

    def _go_on(self, kind: str, event: Event) -> None:
        work = f"asking {event['who']}" if kind == "asked" else "training"
        done, of = (int(event["step"]), int(event["of"])) if kind == "step" else (int(event["done"]), int(event["of"]))
        if event.get("loss") is not None:
            self._facts["loss"] = f"{event['loss']:.4f}"
        left = self._left(work, done, of)
        facts = [f"{name} {value}" for name, value in self._facts.items()] if kind == "step" else []
        facts += [f"{clock(left)} left"] if left is not None and done < of else []
        self._draw(work, done, of, facts)
        if time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            tell = say if self._screen is None else note
            text = ", ".join([f"{work}: {done:,} of {of:,}", *facts])
            tell(text, event="work", work=work, done=done, of=of, loss=event.get("loss"), seconds_left=left)

    def _left(self, work: str, done: int, of: int) -> float | None:
        """Return the seconds that are left at the pace of late: answers that were stored come all at once."""
        now = time.monotonic()
        recent = self._recent.setdefault(work, deque())
        recent.append((now, done))
        while len(recent) > FEWEST and now - recent[0][0] > RECENT_SECONDS:
            recent.popleft()
        began, before = recent[0]
        return (now - began) / (done - before) * (of - done) if done > before and len(recent) >= FEWEST else None

    def _draw(self, work: str, done: int, of: int, facts: list[str]) -> None:
        if self._screen is None or (size := size_of(self._screen.stream)) is None:
            return
        signs = Signs.of(self._screen.stream)
        width = max(size[0] - 1, 1)
        words = f"{work}: {done:,} of {of:,}"
        cells = max(0, min(BAR_CELLS, width - cell_len(words) - 1))
        full = round(cells * done / of) if of else 0
        first, second = f"{words} {signs.done * full}{signs.open * (cells - full)}", signs.between.join(facts)
        lines = [(cut(first, width, signs), BOLD), (cut(second, width, signs), PLAIN)]
        self._screen.draw(lines[: max(size[1] - 1, 1)])


def _tell_rows(event: Event) -> None:
    """Tell what may not be as people expect it: rows that were too long, and that nothing says when to stop."""
    for what, counted in (("train on", event["train"]), ("validate by", event["validation"])):
        if counted is not None and counted["long"]:
            left_out = counted["dropped"] + counted["without_answer"]
            say(
                f"{number(counted['long'], 'row')} to {what} longer than {event['max_tokens']:,} tokens: "
                f"{left_out:,} left out, {counted['truncated']:,} cut off",
                style="yellow",
            )
        if counted is not None and counted["special"]:
            say(
                f"warning: {number(counted['special'], 'row')} to {what} hold a special token of the base in their "
                "text, which then ends turns and begins others: take them out (rule `special_tokens`), or quote it",
                style="yellow",
            )
    if event["validation"] is None:
        say("no rows to validate by: all epochs are trained, and the last weights are kept")
