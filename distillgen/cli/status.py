"""Command `status`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillgen.cli.guard import guarded
from distillgen.cli.options import State
from distillgen.errors import Damaged

if TYPE_CHECKING:
    from distillgen.last_run import LastRun
    from distillgen.status import Status


@guarded
def status(
    project: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")] = Path(),
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """Show who is at work, what is stored and what it cost.

    It also shows how the last run ended, what was sent without an answer, batches under way, and the newest versions.

    \b
    Examples:
      distillgen status
      distillgen status --project my/project --json

    \b
    Exit status:
      0 shown, whatever it is   8 something is damaged; the rest is shown
      10 no such folder
    """
    from distillgen.report.console import safe
    from distillgen.schemas import document
    from distillgen.status import as_json as to_json
    from distillgen.status import examine

    found = examine(project, state)
    if as_json:
        print(document("status", to_json(found)))
    else:
        for line in _lines(found):
            print(safe(line))
    if found.damages:
        ended = Damaged("damaged", problems=[problem for error in found.damages for problem in error.problems])
        if len(codes := {error.code for error in found.damages}) == 1:
            [ended.code] = codes  # of a newer format, say: `explain` is to tell of that
        raise ended


def _lines(found: "Status") -> Iterator[str]:
    from distillgen.status import published_at

    yield f"at work   {found.at_work or 'nobody'}"
    if found.last_run is not None:
        yield f"last run  {_ended(found.last_run, found.now)}"
    yield from _spent(found)
    if found.in_flight:
        yield f"in flight {found.in_flight:,} calls"
    for batch in found.batches:
        name = batch["id"] or "not named yet"
        counts = f"{batch['completed']:,} of {batch['requests']:,} when last seen"
        yield f"batch     {name}: {batch['status']}, {counts}"
    for version in found.datasets.values():
        when = published_at(version)
        published = "at an unknown time" if when is None else _when(when, found.now)
        yield f"dataset   {version.label}: {version.manifest.rows:,} rows, published {published}"
    if not found.datasets and not found.damages:
        yield "dataset   none published yet"


def _ended(run: "LastRun", now: float) -> str:
    """Say how a run ended, and when one last ended well."""
    error = f" ({run.error})" if run.error else ""
    words = f"exit status {run.exit_status}{error}, {_when(run.finished, now)}"
    if run.exit_status and run.last_success is not None:
        words += f"; the last that ended with 0: {_when(run.last_success, now)}"
    return words


def _when(then: float, now: float) -> str:
    from distillgen.files import utc
    from distillgen.report.console import clock

    return f"{utc(then)} ({clock(max(now - then, 0))} ago)"


def _spent(found: "Status") -> Iterator[str]:
    from distillgen.report.signs import dollars

    if found.spent is None:
        yield "answers   cannot be read"
        return
    spent = found.spent
    unpriced = f", {spent.unpriced:,} of them at an unknown price" if spent.unpriced else ""
    yield f"answers   {found.stored_answers:,} stored"
    yield f"spent     {dollars(spent.nanousd / 1e9)} for {spent.calls:,} calls{unpriced}"
    if found.unknown_calls:
        worst = f", at most {dollars(found.unknown_usd)}" if found.unknown_usd else ""
        yield f"unknown   {found.unknown_calls:,} calls were sent without an answer and may have been billed{worst}"
