"""A run while it goes on, and its summary when it is over, on standard error."""

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells
from rich.text import Text

from distillgen.errors import WAITING
from distillgen.report.console import clock, counts, note, safe, say, stderr
from distillgen.report.screen import Screen, can_draw, is_same_terminal, leaves_when_stopped, size_of
from distillgen.report.signs import Signs, dollars, price
from distillgen.report.watch import Figures, Speed, Watch
from distillgen.tally import StepCount, Tally

if TYPE_CHECKING:
    from rich.console import Console

REFRESH_SECONDS = 0.25
LINE_SECONDS = 30.0
MOST_STEPS, MOST_POOLS, MOST_CAUSES = 5, 4, 3
BAR_CELLS = 40
TOLD = (
    "total", "rows", "rejected", "failed", "calls", "in_flight", "prompt_tokens", "completion_tokens", "usd",
    "unpriced_calls",
)  # fmt: skip
MOST_NAME = 24  # cells
BOLD, YELLOW, PLAIN = "bold", "yellow", ""

Line = tuple[str, str]  # a text and the name of its style


class Progress:
    """Shows a tally while it grows: a few live lines on a terminal, one plain line every half minute elsewhere.

    Live lines and rows do not go together on one terminal. `rows_on_stdout` says whether the command prints rows; when
    not given, one that does not know how many seeds there are is taken for a part of a pipe.
    """

    def __init__(self, tally: Tally, total: int | None, *, rows_on_stdout: bool | None = None) -> None:
        self._tally, self._watch = tally, Watch(tally, total)
        self._console = stderr()
        prints_rows = total is None if rows_on_stdout is None else rows_on_stdout
        self._is_live = (
            not self._console.quiet
            and can_draw(sys.stderr)
            and not (prints_rows and is_same_terminal(sys.stdout, sys.stderr))
        )

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show it for the time of a block."""
        async with contextlib.AsyncExitStack() as ends:
            tasks = [asyncio.create_task(self._lines())]
            if self._is_live:
                screen = ends.enter_context(Screen(sys.stderr, paint=paint_of(self._console)))
                ends.enter_context(leaves_when_stopped(screen))
                tasks.append(asyncio.create_task(self._live(screen)))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _live(self, screen: Screen) -> None:
        signs = Signs.of(screen.stream)
        while True:
            figures = self._watch.read()
            if size := size_of(screen.stream):
                lines = picture(figures, self._tally.steps, columns=size[0], rows=size[1], signs=signs)
                # In a thread: a terminal that was told to wait (Ctrl-S) must not hold up the run.
                await asyncio.to_thread(screen.draw, lines)
            await asyncio.sleep(REFRESH_SECONDS)

    async def _lines(self) -> None:
        """Say a line now and then; where there are live lines, to a log file only."""
        while True:
            figures = self._watch.read()
            ticks = max(round(LINE_SECONDS), 1)
            for _ in range(ticks):
                await asyncio.sleep(LINE_SECONDS / ticks)
                figures = self._watch.read()
            tell = note if self._is_live else say
            text = line(figures, self._tally.steps, Signs.of(sys.stderr))
            tell(text, event="progress", **told(figures, seeds=self._tally.seeds))


def told(figures: Figures, *, seeds: int) -> dict[str, Any]:
    """Return the figures for a log of events; `seeds` were read."""
    return {name: getattr(figures, name) for name in TOLD} | {"seeds": seeds, "seconds": round(figures.seconds, 3)}


def paint_of(console: "Console") -> dict[str, str]:
    """Return the escapes for our styles, as far as a console takes any."""
    if console.color_system is None:
        return {}
    return {BOLD: "\x1b[1m"} | ({} if console.no_color else {YELLOW: "\x1b[33m"})


def picture(figures: Figures, steps: Mapping[str, StepCount], *, columns: int, rows: int, signs: Signs) -> list[Line]:
    """Return the figures as lines that fit a terminal, whatever its size; the most important first.

    The last column stays free: terminals differ in what they do once it is written to.
    """
    width = max(columns - 1, 1)
    lines = [(text, BOLD) for text in _bar(figures, width, signs)]
    for style, parts in parts_of(figures, signs):
        words = [cut(part, width, signs) for part in parts] if style == YELLOW else parts  # of errors the start will do
        lines += [(text, style) for text in flow(words, width, signs)]
    lines += [(text, YELLOW) for text in reasons(steps, width, signs)]
    return [(cut(text, width, signs), style) for text, style in lines][: max(rows - 1, 1)]


def line(figures: Figures, steps: Mapping[str, StepCount], signs: Signs) -> str:
    """Return the same figures on one line, however long."""
    parts = [part for _, several in parts_of(figures, signs) for part in several]
    return signs.between.join([*times(figures), *parts, *reasons(steps, 10_000, signs)])


def _bar(figures: Figures, width: int, signs: Signs) -> list[str]:
    """Return how far the run is with a bar, without it where there is no room, and below one another if need be."""
    words = signs.between.join(times(figures))
    cells = min(BAR_CELLS, width - cell_len(words) - 2)
    if figures.share is None or cells < 4:
        return list(flow(list(times(figures)), width, signs))
    done = int(figures.share * cells)
    return [f"{signs.done * done}{signs.open * (cells - done)}  {words}"]


def times(figures: Figures) -> Iterator[str]:
    """Yield how far the run is, how long it has taken, and how long it is likely to take."""
    if figures.share is not None:
        yield f"{int(figures.share * 100)}%"
    if figures.seconds_left is not None:
        yield f"about {clock(figures.seconds_left)} left"
    yield f"{clock(figures.seconds)} so far"


def parts_of(figures: Figures, signs: Signs) -> Iterator[tuple[str, list[str]]]:
    """Yield the figures in groups, each with its style: rows; calls; tokens; money; errors."""
    total = f" of {figures.total:,}" if figures.total is not None else ""
    wanted = f" of {figures.wanted:,} wanted" if figures.wanted is not None else ""
    yield BOLD, [
        f"rows {figures.rows:,}{wanted}", f"seeds {figures.seeds:,}{total}",
        f"rejected {figures.rejected:,}", f"failed {figures.failed - figures.waiting:,}",
        *([f"waiting {figures.waiting:,}"] if figures.waiting else []),
    ]  # fmt: skip
    calls = [f"calls {figures.calls:,}", f"{figures.in_flight:,} in flight"]
    if len(figures.speeds) == 1:
        yield PLAIN, [*calls, *speed_parts(figures.speeds[0])]
    else:
        each = f"{rate(sum(speed.calls for speed in figures.speeds))} calls/s"
        yield PLAIN, [*calls, each]
        for speed in figures.speeds[:MOST_POOLS]:
            name = cut(safe(speed.name), MOST_NAME, signs)
            yield PLAIN, [f"  {name}: {speed.in_flight:,} in flight", *speed_parts(speed)]
    yield PLAIN, [
        f"tokens {figures.prompt_tokens:,} in", f"{figures.completion_tokens:,} out",
        f"{figures.completion_tokens_per_second:,.0f} out/s",
    ]  # fmt: skip
    yield PLAIN, list(cost_parts(figures))
    if figures.errors:
        number = sum(figures.errors.values())
        yield YELLOW, [f"errors {number:,}: {counts(figures.errors, MOST_CAUSES)}"]
        yield YELLOW, [f"last error {one_line(figures.last_error)}"]


def speed_parts(speed: Speed) -> Iterator[str]:
    """Yield how fast a pool is asked, and what the limit is and where it is from."""
    if speed.is_paused:
        yield "paused: most requests fail, one is sent now and then"
    limit = "no limit known" if speed.limit is None else f"of {rate(speed.limit)} ({ORIGINS[speed.origin]})"
    yield f"{rate(speed.calls)} calls/s {limit}" if speed.limit is not None else f"{rate(speed.calls)} calls/s"
    if speed.token_use is not None and speed.token_limit is not None:
        yield f"{rate(speed.token_use)} tokens/s of {rate(speed.token_limit)} ({ORIGINS[speed.token_origin]})"


ORIGINS = {"set": "set", "stated": "stated", "learned": "learned", "starting": "no limit met yet"}


def cost_parts(figures: Figures) -> Iterator[str]:
    """Yield what was spent, and what the whole run is likely to cost."""
    yield f"cost {price(figures.usd, figures.unpriced_calls, figures.calls)}"
    if figures.usd_in_all is not None:
        yield f"about {dollars(figures.usd_in_all)} in all"


def rate(per_second: float) -> str:
    """Return a speed with as many digits as matter: 0.33, 8.3, 83, 8,300."""
    digits = 0 if per_second >= 10 or not per_second else 1 if per_second >= 1 else 2
    return f"{per_second:,.{digits}f}"


def one_line(text: str, most: int = 200) -> str:
    """Return words of a server or a model as one line that can do nothing to a terminal."""
    return safe(" ".join(text[: 4 * most].split()))[:most]


def reasons(steps: Mapping[str, StepCount], width: int, signs: Signs) -> list[str]:
    """Return a line for each step that left rows out: why and how many, as many reasons as fit."""
    lines = []
    for name, step in steps.items():
        if left_out := Counter({why: n for why, n in (step.rejected + step.failed).items() if why not in WAITING}):
            lines.append(reason_line(cut(safe(name), MOST_NAME, signs), left_out, width, signs))
    if len(lines) > MOST_STEPS:
        lines[MOST_STEPS - 1 :] = [f"  and {len(lines) - MOST_STEPS + 1} more steps that left rows out"]
    return lines


def reason_line(name: str, left_out: Counter[str], width: int, signs: Signs) -> str:
    """Return `filter left out 40: length 31, exact_duplicate 9`; what does not fit ends it as a whole."""
    text = f"{name} left out {left_out.total():,}:"
    for place, (reason, number) in enumerate(left_out.most_common()):
        part = f"{',' if place else ''} {safe(reason)} {number:,}"
        room = width - cell_len(text) - (0 if place + 1 == len(left_out) else cell_len(signs.cut) + 2)
        if cell_len(part) > room:
            return f"{text}{',' if place else ''} {signs.cut}"
        text += part
    return text


def flow(parts: Sequence[str], width: int, signs: Signs) -> Iterator[str]:
    """Yield lines of as many parts as fit side by side; a part that is too long for a line is broken between words, for
    a figure that is cut is a wrong one."""
    text = ""
    for part in parts:
        longer = f"{text}{signs.between}{part}" if text else part
        if text and cell_len(longer) > width:
            yield from broken(text, width)
            text = f"  {part}"
        else:
            text = longer
    yield from broken(text, width)


def broken(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a text between words, all but the first after four blanks."""
    line = text[: len(text) - len(text.lstrip())]
    for place, word in enumerate(text.split()):
        longer = f"{line} {word}" if place else line + word
        if place and cell_len(longer) > width:
            yield line
            line = f"    {word}"
        else:
            line = longer
    yield line


def cut(text: str, width: int, signs: Signs) -> str:
    """Return what fits of a text."""
    if cell_len(text) <= width:
        return text
    room = width - cell_len(signs.cut)
    return f"{chop_cells(text, room)[0]}{signs.cut}" if room > 0 else signs.cut[:width]


def summary(tally: Tally, *, skipped: int) -> None:
    """Print what became of the rows, step by step, and what was asked."""
    console = stderr()
    console.width = console.width or 80  # COLUMNS=0
    between = Signs.of(sys.stderr).between
    for place, text in enumerate(step_lines(tally.steps, console.width)):
        console.print(Text(text, style=PLAIN if place else BOLD))
    prompt, completion = tally.tokens
    seconds = time.monotonic() - tally.started
    asked = [
        f"calls {tally.calls:,}", f"tokens {prompt:,} in, {completion:,} out",
        f"cost {price(tally.usd, tally.unpriced, tally.calls)}", clock(seconds),
    ]  # fmt: skip
    console.print(between.join(asked))
    if skipped:
        console.print(f"bad seeds skipped: {skipped:,}")


def step_lines(steps: Mapping[str, StepCount], columns: int) -> Iterator[str]:
    """Yield a table of what became of the rows, step by step; reasons that do not fit go on below."""
    if not steps:
        return
    signs = Signs.of(sys.stderr)
    names = {name: cut(safe(name), MOST_NAME, signs) for name in steps}
    longest = max(4, *(cell_len(name) for name in names.values()))
    yield f"{'step':<{longest}} {'rows in':>9} {'rows out':>9}  left out"
    for name, step in steps.items():
        pad = " " * (longest - cell_len(names[name]))
        head = f"{names[name]}{pad} {step.rows_in + step.born:>9,} {step.out:>9,}  "
        why = [
            [f"{safe(rule)} {number:,}" for rule, number in Counter(left_out).most_common()]
            for left_out in (step.rejected, step.failed)
        ]
        for word, parts in zip(("rejected", "failed"), why, strict=True):
            if parts:
                parts[:] = [f"{word}:", *commas(parts)]
        yield from hanging(head, [part for parts in why for part in parts], columns)


def commas(parts: Sequence[str]) -> list[str]:
    """Return parts with a comma after each but the last."""
    return [*(f"{part}," for part in parts[:-1]), *parts[-1:]]


def hanging(head: str, parts: Sequence[str], columns: int) -> Iterator[str]:
    """Yield a head and after it its parts, on as many lines as they need, below one another."""
    longest = max(map(cell_len, parts), default=0)
    indent = " " * (cell_len(head) if cell_len(head) + longest <= columns else 4)
    text, is_empty = head, True
    for part in parts:
        if cell_len(text) + cell_len(part) + (not is_empty) > columns:
            yield text.rstrip()
            text, is_empty = indent, True
        text, is_empty = f"{text}{'' if is_empty else ' '}{part}", False
    yield text.rstrip()
