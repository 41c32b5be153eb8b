"""A run while it goes on, and its summary when it is over, on standard error."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from distillgen.report.console import clock, counts, safe, stderr
from distillgen.report.tables import table
from distillgen.tally import Tally

REFRESH_SECONDS = 0.25
LINE_SECONDS = 30.0


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
