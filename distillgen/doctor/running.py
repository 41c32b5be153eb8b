"""What is under way or was left in a project: another run at work, batches, calls sent without an answer."""

from collections.abc import Iterator
from pathlib import Path

from distillgen import status
from distillgen.doctor.findings import Finding, broken, note, well
from distillgen.errors import DistillgenError
from distillgen.report.console import number
from distillgen.state import state_folder


def examine(project: Path, state: Path | None) -> Iterator[Finding]:
    """Yield what is found in the state folder of a project."""
    folder = state_folder(project, state)
    try:
        found = status.examine(project, state)
    except DistillgenError as error:
        for problem in error.problems:
            where = problem.where or str(folder)
            yield broken("state", f"{where}: {error.code} {problem.what}", problem.fix or "distillgen check, repair")
        return
    except OSError as error:
        yield broken("state", f"{error.filename or folder}: {error.strerror}", "make it readable")
        return
    if found["at_work"]:
        what = f"another distillgen is at work here: {found['at_work']}"
        yield note("state", what, "wait for it to end; `distillgen status` says how far it is")
    if found["batches"]:
        what = f"{number(len(found['batches']), 'batch')} under way at a provider".replace("batchs", "batches")
        yield note("state", what, "`distillgen build` fetches what is done")
    unknown = found["spent"]["unknown_calls"]
    if unknown:
        what = f"{number(unknown, 'call')} sent without a known answer (a crash?), which may have been billed"
        yield note("state", what, "`distillgen status` shows what they cost at most; the next build asks them again")
    if not (found["at_work"] or found["batches"] or unknown):
        yield well("state", f"nothing under way; {number(found['stored_answers'], 'stored answer')} in {folder}")
