"""Commands that keep datasets whole: `check` and `repair`."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli import completion
from distillgen.cli.guard import guarded
from distillgen.cli.locks import patient

if TYPE_CHECKING:
    from distillgen.errors import Problem
    from distillgen.upkeep.check import Checked
    from distillgen.upkeep.findings import Finding
    from distillgen.upkeep.repair import Repaired

TOLD = 20  # findings that people see; programs see all


@guarded
def check(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=completion.datasets,
            help="All versions of a dataset; or one: name@3, name@latest, a version's folder. Default: all there are.",
            show_default=False,
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at names, sizes and the manifest's figures only; read no file.")
    ] = False,
    project: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:
    """Check that versions are what was published.

    Every checksum, line, id and count is compared; what differs is named with file, line and row.

    \b
    Examples:
      distillgen check
      distillgen check demo@3
      distillgen check demo --json | jq .findings

    \b
    Exit status:
      0 whole   2 written by a newer distillgen   8 damaged
      10 no such dataset or version
    """
    from distillgen.errors import Damaged, NotFound
    from distillgen.schemas import document
    from distillgen.upkeep.check import check_all

    if not project.is_dir():
        raise NotFound(f"no folder {str(project)!r}")
    all_checked = []
    for checked in check_all(project / "datasets", name, fast=fast):
        all_checked.append(checked)
        if not as_json:
            _say(checked, fast=fast)
    found = [(checked, finding) for checked in all_checked for finding in checked.findings]
    if as_json:
        print(document("check", _as_json(all_checked)))
        if found:
            raise typer.Exit(Damaged.exit_status)
    if found:
        raise Damaged("damaged", problems=_problems(found))
    for checked in all_checked:
        if checked.newer is not None:
            raise checked.newer


def _say(checked: "Checked", *, fast: bool) -> None:
    """Print one line for a version; nothing for a dataset's folder that is as it should be."""
    from distillgen.report.console import number, say

    if checked.findings:
        say(f"{checked.label}: {number(len(checked.findings), 'finding')}", style="red")
    elif checked.newer is not None:
        say(f"{checked.label}: not checked, its format is newer", style="yellow")
    elif checked.files:
        read = "sizes and figures only" if fast else f"{checked.size:,} bytes read"
        say(f"{checked.label}: whole; {number(checked.rows, 'row')} in {number(checked.files, 'file')}, {read}")


def _problems(found: "list[tuple[Checked, Finding]]") -> "list[Problem]":
    from distillgen.errors import Problem

    problems = [_problem(checked.folder, finding) for checked, finding in found[:TOLD]]
    if len(found) > TOLD:
        problems.append(Problem(f"... and {len(found) - TOLD:,} more; `--json` tells all"))
    last = problems[-1]
    fix = _other_fix([finding for _, finding in found]) or (
        "`distillgen repair` says what it can mend; else a copy does, or moving its folder away and building: "
        "stored answers cost nothing"
    )
    return [*problems[:-1], Problem(last.what, last.where, fix)]


def _other_fix(findings: "list[Finding]") -> str | None:
    """Return what helps where nothing is damaged: all of it may not be read, or stands under another number."""
    if all(each.what.endswith(os.strerror(errno.EACCES)) for each in findings):
        return "make it readable for whoever runs this"
    if all(each.kind == "place" for each in findings):
        return "give each folder the name of its version again; move a copy away"
    return None


def _problem(folder: Path, finding: "Finding") -> "Problem":
    from distillgen.errors import Problem
    from distillgen.upkeep.findings import shown

    what = f"row {shown(finding.row)} {finding.what}" if finding.row is not None else finding.what
    line = f":{finding.line}" if finding.line is not None else ""
    return Problem(what, f"{folder / _printable(finding.file)}{line}" if finding.file else str(folder))


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _as_json(all_checked: "list[Checked]") -> dict[str, Any]:
    return {
        "whole": not any(checked.findings or checked.newer for checked in all_checked),
        "versions": [
            {
                "version": checked.label,
                "folder": str(checked.folder),
                "rows": checked.rows,
                "files": checked.files,
                "bytes_read": checked.size,
                "newer_format": checked.newer is not None,
                "findings": len(checked.findings),
            }
            for checked in all_checked
        ],
        "findings": [
            _finding_as_json(checked.label, checked.folder, finding)
            for checked in all_checked
            for finding in checked.findings
        ],
    }


def _finding_as_json(label: str, folder: Path, finding: "Finding") -> dict[str, Any]:
    return {
        "version": label,
        "folder": str(folder),
        "file": finding.file,
        "line": finding.line,
        "row": finding.row,
        "kind": finding.kind,
        "what": finding.what,
    }


@guarded
@patient
def repair(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", show_default=False, autocompletion=completion.datasets,
            help="A dataset with all its versions, or one: name@3. Default: all there are.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it, only say what would be done.")] = False,
    with_loss: Annotated[
        bool,
        typer.Option(
            "--with-loss",
            help="Where provenance, rejected or failed rows cannot be brought back, keep what is left.",
        ),
    ] = False,
    project: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:  # fmt: skip
    """Mend versions where a checksum confirms what was there.

    What a crash left behind is mended too. Damaged bytes are kept. Without --yes nothing is changed.

    \b
    Examples:
      distillgen repair
      distillgen repair demo --yes
      distillgen repair demo@3 --json

    \b
    Exit status:
      0 whole, or can be mended   2 written by a newer distillgen, or not writable
      8 something stays damaged   10 no such dataset or version
      11 a build is at work   12 disk full
    """
    from distillgen.errors import Damaged, NotFound, Problem
    from distillgen.schemas import document
    from distillgen.upkeep.repair import repair_all

    if not project.is_dir():
        raise NotFound(f"no folder {str(project)!r}")
    done = []
    for repaired in repair_all(project / "datasets", name, will_do=yes, with_loss=with_loss):
        done.append(repaired)
        if not as_json:
            _say_mends(repaired)
    stays = [_problem(each.folder, finding) for each in done for finding in each.stays]
    if as_json:
        print(document("repair", _mends_as_json(done, is_done=yes)))
        if stays:
            raise typer.Exit(Damaged.exit_status)
        return
    _say_end(done, is_done=yes)
    if len(stays) > TOLD:
        stays = [*stays[:TOLD], Problem(f"... and {len(stays) - TOLD:,} more; `--json` tells all")]
    if stays:
        last = stays[-1]
        fix = _other_fix([finding for each in done for finding in each.stays]) or (
            "bring it back from a copy, or move its folder away and build: stored answers cost nothing"
        )
        raise Damaged("damaged", problems=[*stays[:-1], Problem(last.what, last.where, fix)])


def _say_mends(repaired: "Repaired") -> None:
    from distillgen.report.console import say

    for mend in repaired.mends:
        where = f"{mend.label} {_printable(mend.file)}".rstrip()
        say(f"{where}: {mend.what}\n    {mend.how}", style="" if mend.is_exact else "yellow")


def _say_end(done: "list[Repaired]", *, is_done: bool) -> None:
    from distillgen.report.console import number, say

    mends = sum(len(each.mends) for each in done)
    if not mends:
        if not any(each.stays for each in done):
            say("nothing to repair: everything is whole")
    elif is_done:
        say(
            f"{number(mends, 'repair')} done; what was damaged is kept in .damaged/ of the dataset's folder",
            style="bold",
        )
    else:
        say(f"{number(mends, 'repair')} can be done; nothing was changed: `--yes` does it", style="bold")


def _mends_as_json(done: "list[Repaired]", *, is_done: bool) -> dict[str, Any]:
    return {
        "done": is_done,
        "whole": not any(each.stays or (each.mends and not is_done) for each in done),
        "repairs": [
            {
                "version": each.label,
                "folder": str(each.folder),
                "file": mend.file,
                "what": mend.what,
                "how": mend.how,
                "exact": mend.is_exact,
            }
            for each in done
            for mend in each.mends
        ],
        "stays": [_finding_as_json(each.label, each.folder, finding) for each in done for finding in each.stays],
    }
