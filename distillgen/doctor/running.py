"""What is under way or was left in a project: another run at work, batches, calls sent without an answer."""

from collections.abc import Iterator
from pathlib import Path

from distillgen import status
from distillgen.doctor.findings import Finding, broken, note, well
from distillgen.errors import DistillgenError
from distillgen.report.console import number
from distillgen.state import state_folder


def examine(project: Path, state: Path | None) -> Iterator[Finding]:
    """Yield what is found in the state folder of a project, and what of its versions cannot be read."""
    folder = state_folder(project, state)
    try:
        found = status.examine(project, state)
    except DistillgenError as error:
        yield from _damage(error, folder)
        return
    except OSError as error:
        yield broken("state", f"{error.filename or folder}: {error.strerror}", "make it readable")
        return
    yield from _under_way(found)
    for damage in found.damages:
        yield from _damage(damage, folder)
    if not (found.at_work or found.batches or found.unknown or found.damages):
        yield well("state", f"nothing under way; {number(found.stored_answers or 0, 'stored answer')} in {folder}")


def _damage(error: DistillgenError, folder: Path) -> Iterator[Finding]:
    for problem in error.problems:
        fix = problem.fix or "`distillgen check` tells more, `distillgen repair` may mend it"
        yield broken("state", f"{problem.where or folder}: {error.code} {problem.what}", fix)


def _under_way(found: status.Status) -> Iterator[Finding]:
    if found.at_work:
        what = f"another distillgen is at work here: {found.at_work}"
        yield note("state", what, "wait for it to end; `distillgen status` says how far it is")
    if found.batches:
        what = f"{number(len(found.batches), 'request file')} under way at a provider (batch mode)"
        yield note("state", what, "`distillgen build` fetches what is done")
    if found.unknown:
        calls = number(len(found.unknown), "call")
        what = f"{calls} sent without a known answer (a crash?), which may have been billed"
        yield note("state", what, "`distillgen status` says what they cost at most; the next build asks them again")
