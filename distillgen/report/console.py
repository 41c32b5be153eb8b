"""What a person sees of a run in a terminal, a log, or a mail from cron. Writes to standard error only."""

import asyncio
import contextlib
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distillgen.tally import Tally

REFRESH_SECONDS = 0.25
LINE_SECONDS = 30.0
# Control characters of C0 (but tab and newline) and C1, and what turns the direction of writing round.
_HOSTILE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def safe(text: str) -> str:
    """Return text that can do nothing to a terminal: control and direction characters become visible escapes."""
    return _HOSTILE.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text
    )


def stderr() -> Console:
    """Return the console for people. Nothing in what it prints is taken for markup."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say(text: str, *, style: str = "") -> None:
    """Print one message for people."""
    stderr().print(Text(safe(text), style=style))


def number(count: int, noun: str) -> str:
    """Return `1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def counts(numbers: Mapping[str, int], most: int = 4) -> str:
    """Return counts on one line: `length 3, exact_duplicate 1`."""
    parts = [f"{name} {number:,}" for name, number in list(numbers.items())[:most]]
    return ", ".join(parts + (["..."] if len(numbers) > most else []))


class Progress:
    """Shows a tally while it grows: a few live lines on a terminal, one plain line every half minute elsewhere."""

    def __init__(self, tally: Tally, total: int | None) -> None:
        self._tally, self._total = tally, total
        self._console = stderr()

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show it for the time of a block."""
        task = asyncio.create_task(self._live() if self._console.is_terminal else self._lines())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _live(self) -> None:
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._picture(), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)

    async def _lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_SECONDS)
            self._console.print(safe(f"{self._rows()} · {self._asked()}"))

    def _done(self) -> int:
        return self._tally.published + self._tally.rejected + self._tally.failed

    def _rows(self) -> str:
        total = f" of {self._total:,}" if self._total is not None else ""
        tally = self._tally
        left_out = f"rejected {tally.rejected:,} · failed {tally.failed:,}"
        return f"seeds {tally.seeds:,}{total} · rows {tally.published:,} · {left_out}"

    def _asked(self) -> str:
        prompt, completion = self._tally.tokens
        seconds = max(time.monotonic() - self._tally.started, 0.001)
        return (
            f"calls {self._tally.calls:,} ({self._tally.in_flight:,} in flight) · tokens {prompt:,} in, "
            f"{completion:,} out, {completion / seconds:,.0f}/s · {money(self._tally)} · {clock(seconds)}"
        )

    def _picture(self) -> Group:
        lines: list[Any] = []
        if self._total:
            width = min(shutil.get_terminal_size().columns - 2, 78)
            lines.append(ProgressBar(total=self._total, completed=min(self._done(), self._total), width=width))
        lines += [Text(safe(self._rows()), style="bold"), Text(safe(self._asked()))]
        for name, step in self._tally.steps.items():
            if left_out := step.rejected + step.failed:
                lines.append(Text(safe(f"  {name}: {counts(dict(left_out.most_common()))}"), style="yellow"))
        return Group(*lines)


def money(tally: Tally) -> str:
    """Return what a run's calls cost: `$0.0123`, with how many calls of unknown price if there are any."""
    if tally.unpriced and tally.unpriced == tally.calls:
        return "cost unknown"
    return f"${tally.usd:,.4f}" + (f" and {tally.unpriced:,} calls of unknown price" if tally.unpriced else "")


def clock(seconds: float) -> str:
    """Return a duration as people read it: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def conversation(row: Mapping[str, Any]) -> Iterable[Text]:
    """Yield a training row as a conversation, or as one with two endings, made safe for a terminal."""
    yield Text(safe(f"── {row['id']}"), style="dim")
    for turn in row.get("messages") or row["prompt"]:
        if turn["role"] == "assistant" and row.get("reasoning"):
            yield Text.assemble(("reasoning: ", "dim"), (safe(row["reasoning"]), "dim"))
        yield _turn(turn["role"], turn["content"])
    for ending in ("chosen", "rejected"):
        for turn in row.get(ending, ()):
            yield _turn(turn["role"], turn["content"], f" ({ending})")


def _turn(role: str, content: str, ending: str = "") -> Text:
    styles = {"user": "cyan", "assistant": "green", "system": "magenta"}
    style = "red" if ending == " (rejected)" else styles.get(role, "")
    return Text.assemble((f"{safe(role)}{ending}: ", f"bold {style}"), safe(content))


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    """Return a plain table, its cells made safe for a terminal. Columns that end in `#` are numbers."""
    drawn = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        head = Text(safe(column.rstrip("#")))
        drawn.add_column(head, justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(safe(str(cell))) for cell in row))
    return drawn


def summary(tally: Tally, *, skipped: int) -> None:
    """Print what became of the rows, step by step, and what was asked."""
    console = stderr()
    rows = []
    for name, step in tally.steps.items():
        rows.append(
            [
                name,
                f"{step.rows_in + step.born:,}",
                f"{step.out:,}",
                counts(dict(step.rejected.most_common())) or "-",
                counts(dict(step.failed)) or "-",
            ]
        )
    console.print(table("", ["step", "rows in#", "rows out#", "rejected", "failed"], rows))
    prompt, completion = tally.tokens
    seconds = time.monotonic() - tally.started
    asked = f"calls {tally.calls:,} · tokens {prompt:,} in, {completion:,} out"
    console.print(f"{asked} · {money(tally)} · {clock(seconds)}")
    if skipped:
        console.print(f"bad seeds skipped: {skipped:,}")
