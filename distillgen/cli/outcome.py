"""What came of a build: for people, as a document for programs, and in the log."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distillgen.cli.guard import as_ours, here
from distillgen.cli.running import say_notes
from distillgen.errors import DistillgenError, Interrupted, Locked

if TYPE_CHECKING:
    from distillgen.last_run import LastRun
    from distillgen.pipeline import Options, Result
    from distillgen.preparation import Prepared
    from distillgen.tally import Tally
    from distillgen.teacher.batch import Pending


class Told:
    """What came of a build as one document on standard output, however it ends; printed once, and only if asked for."""

    def __init__(self, is_wanted: bool) -> None:
        from distillgen.tally import Tally

        self._is_wanted, self._tally = is_wanted, Tally()

    def follow(self, tally: "Tally") -> None:
        """Take the figures from a tally, should the build end before there is a result."""
        self._tally = tally

    def tell(self, result: "Result") -> None:
        """Print what came of it."""
        from distillgen.schemas import document

        if self._is_wanted:
            self._is_wanted = False
            print(document("build", outcome(result)))

    @contextlib.contextmanager
    def always(self) -> Iterator[None]:
        """Tell of what ends a block before there is a result, with the figures so far."""
        try:
            yield
        except KeyboardInterrupt:
            self._tell_of(Interrupted("stopped", signal_number=signal.SIGINT))
            raise
        except Exception as error:  # a typer.Exit too, but by then there was a result
            self._tell_of(as_ours(error))
            raise
        self._tell_of(Locked("another build is at work"))  # skipped; what came of any other has been told

    def _tell_of(self, error: DistillgenError) -> None:
        from distillgen.pipeline import Result

        self.tell(Result(None, None, self._tally, stop=error))


@contextlib.contextmanager
def noted(run: "LastRun") -> Iterator[None]:
    """Note a run's figures in the log when a block ends, however it ends."""
    from distillgen.report.console import note
    from distillgen.report.signs import dollars

    try:
        yield
    finally:
        run.count()
        figures = run.model_dump(include={
            "dataset", "version", "unchanged", "seeds", "rows", "rejected", "failed", "calls", "prompt_tokens",
            "completion_tokens", "usd", "unpriced_calls",
        })  # fmt: skip
        left_out = f"{run.rejected:,} rejected, {run.failed:,} failed"
        words = f"{run.rows:,} rows, {left_out}, {run.calls:,} calls, {dollars(run.usd)}"
        note(words, event="run", **figures)


def outcome(result: "Result") -> dict[str, Any]:
    """Return what came of a build, for programs."""
    tally = result.tally
    return {
        "version": result.version.label if result.version else None,
        "unchanged": result.unchanged.label if result.unchanged else None,
        "ends": result.ends or None,
        "stopped_by": result.stop.code if result.stop else None,
        "rows": result.version.manifest.rows if result.version else tally.published,
        "rejected": tally.rejected,
        "failed": tally.failed,
        "calls": tally.calls,
        "usd": tally.usd,
        "unpriced_calls": tally.unpriced,
        "pending": [_pending(batch) for batch in result.pending],
    }


def _pending(batch: "Pending") -> dict[str, Any]:
    from distillgen.files import utc

    submitted = None if batch.submitted_at is None else utc(batch.submitted_at)
    return {**asdict(batch), "id": batch.id or None, "reason": batch.reason or None, "submitted_at": submitted}


def conclude(prepared: "Prepared", options: "Options", result: "Result") -> None:
    """Print the summary, three rows, and the next commands; exit 3 when a rerun may mend rows."""
    from distillgen.report import console
    from distillgen.report.progress import summary
    from distillgen.report.tables import conversation

    say_notes(result.tally)
    for warning in result.warnings:
        console.say(f"warning: {warning}", style="yellow")
    if result.pending:
        for batch in result.pending:
            name = f"batch {batch.id}" if batch.id else "requests not sent yet"
            reason = f"; {batch.reason}" if batch.reason else ""
            told = f"{name}: {batch.status}, {batch.completed:,} of {batch.requests:,} answered{reason}"
            console.say(told, event="batch", **_pending(batch))
        if held := result.tally.causes["over_budget"]:
            console.say(f"{held:,} requests wait for another run: the budget of this one does not allow them")
        console.say("nothing is published before these are in: run the same command again later", style="yellow")
        raise typer.Exit(3)
    out = console.stderr()
    summary(result.tally, skipped=result.tally.skipped_seeds)
    for row in result.tally.samples:
        for line in conversation(row):
            out.print(line)
    counts = result.version.manifest.splits if result.version is not None else result.tally.splits
    splits = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    rows = console.number(sum(counts.values()), "row") + (f" ({splits})" if splits else "")
    if result.version is not None:
        label = f"{result.version.label}{ENDS[result.ends]}"
        console.say(
            f"published {label}: {rows} in {_short(result.version.folder)}", style="bold green", event="published",
            version=result.version.label, rows=sum(counts.values()), splits=dict(counts),
        )  # fmt: skip
        out.print(console.safe(_next(prepared)))  # for a person at the terminal, not for a log
    elif result.unchanged is not None:
        console.say(
            f"nothing changed: {result.unchanged.label} has this content, nothing published", style="bold green",
            event="unchanged", version=result.unchanged.label,
        )  # fmt: skip
    else:
        console.say(f"not published, as asked: {rows}; the answers are kept", style="bold")
    if result.stop is not None:
        raise result.stop
    if result.tally.passing_failures:
        console.say(
            f"{console.number(result.tally.passing_failures, 'row')} failed for reasons that may pass; "
            f"last: {result.tally.last_failure}\nrun the same command again to mend them",
            style="yellow",
        )
        raise typer.Exit(3)


ENDS = {
    "": "",
    "limit": " (partial: --limit)",
    "target_rows": " (as many seeds as target_rows needs)",
    "stopped": " (partial: the seeds decided so far)",
}


def _next(prepared: "Prepared") -> str:
    name, folder = prepared.recipe.name, prepared.source.folder
    project = "" if folder == here() else f" --project {_short(folder)}"
    return (
        f"next: distillgen show {name}{project}\n"
        f"      distillgen report {name}{project}\n"
        f"      distillgen export {name}{project} --format messages -o DIR\n"
        f"      distillgen log{project}"
    )


def _short(path: Path) -> str:
    folder = here()
    return str(path.relative_to(folder)) if folder is not None and path.is_relative_to(folder) else str(path)
