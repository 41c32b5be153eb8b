"""A run while it goes on: its progress, what a signal does, and what is said of its teachers afterwards."""

import gc
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillgen.pipeline import Options, Result
    from distillgen.preparation import Prepared
    from distillgen.tally import Tally


async def build(prepared: "Prepared", options: "Options", tally: "Tally") -> "Result":
    from distillgen import pipeline

    total = prepared.seed_count
    if total is not None and options.limit is not None:
        total = min(total, options.limit)
    async with progress(tally, total, rows_on_stdout=False):
        return await pipeline.build(prepared, options, tally)


def progress(tally: "Tally", total: int | None, *, rows_on_stdout: bool) -> AbstractAsyncContextManager[None]:
    """Return what shows a run's progress while it goes on, and make room for the run."""
    from distillgen.report.progress import Progress

    _collect_less()
    return Progress(tally, total, rows_on_stdout=rows_on_stdout).shown()


def _collect_less() -> None:
    """Thousands of rows are under way at once; to look through them for cycles all the time cost a third of a run."""
    gc.freeze()
    gc.set_threshold(500_000, 50, 100)


def say_notes(tally: "Tally") -> None:
    """Print what somebody should know of the teachers of a run."""
    from distillgen.report.console import say

    for note in dict.fromkeys(note for teacher in tally.teachers.values() for note in teacher.notes):
        say(f"warning: {note}", style="yellow")


def say_stopping() -> None:
    """Say what the first Ctrl-C does."""
    from distillgen.report.console import say

    say("stopping: what is under way is received and stored; once more to leave at once")
