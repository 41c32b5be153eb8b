"""Command `report`: a version, or two side by side, as one HTML file."""

import contextlib
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from distillgen.cli import completion
from distillgen.cli.guard import find_in_project, guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distillgen.dataset.versions import Version
    from distillgen.report.page import Section

MOST_ROWS = 10_000


@guarded
def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A dataset: name, name@3, name@latest, or a version's folder.",
            autocompletion=completion.datasets,
        ),
    ],
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A second version, to compare the first with.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The file to write. Default: NAME-vN.html here.", show_default=False
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", min=0, metavar="N", help="Put at most N rows of each kind in it, from all over.")
    ] = MOST_ROWS,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="Put every row in it.")] = False,
    student: Annotated[
        Path | None,
        typer.Option(
            "--student", metavar="DIR", show_default=False,
            help="Begin with a student that was trained on it: its losses, and its evaluation.",
        ),
    ] = None,
    project: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")] = Path(),
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="Where the answers are kept, for speed.", show_default=False),
    ] = None,
) -> None:  # fmt: skip
    """Write a version, or two side by side, as one HTML file.

    The file needs no server and no network. It shows the funnel, what was left out and why, money and tokens, speed,
    lengths, scores, labels, rows that are alike, splits and terms, and lets you search the rows and the rows that were
    left out. Of two versions it shows what is different between them.

    \b
    Examples:
      distillgen report demo
      distillgen report demo@2 -o demo.html --all-rows
      distillgen report demo@1 demo@2
      distillgen report demo --student model
      distillgen report demo -o - | gzip > demo.html.gz

    \b
    Exit status:
      0 written   2 the file cannot be written   8 damaged
      10 no such dataset or version   12 disk full
      141 the reader went away
    """
    from distillgen.report.comparison_report import write_comparison
    from distillgen.report.version_report import write_report
    from distillgen.state import state_folder

    version = find_in_project(name, project)
    newer = None if other is None else find_in_project(other, project)
    more = [] if student is None else _of_student(student, version, newer)
    path = (
        output
        if output is not None
        else Path(f"{'-'.join(_file_name(each) for each in (version, newer) if each)}.html")
    )
    with _target(path) as target:
        if newer is None:
            store = state_folder(project, state) / "answers.sqlite"
            write_report(target, version, store, None if all_rows else rows, more)
        else:
            write_comparison(target, version, newer, sys.maxsize if all_rows else rows)


def _of_student(folder: Path, version: "Version", other: "Version | None") -> "list[Section]":
    """Return what the report says of a student. Raises UsageError for one that was trained on other rows."""
    from distillgen.errors import UsageError
    from distillgen.student.folder import read_student
    from distillgen.student.page import student_sections

    trained = read_student(folder)
    on = trained.manifest.dataset
    if other is not None or on["digest"] != version.manifest.digest:
        what = (
            "a report of two versions has no student"
            if other is not None
            else (f"the student was trained on {on['name']}@{on['version']}, not on {version.label}")
        )
        raise UsageError(what, where=str(folder), fix=f"distillgen report {on['name']}@{on['version']} --student DIR")
    return student_sections(trained.manifest, trained.evaluation())


@contextlib.contextmanager
def _target(path: Path) -> "Iterator[Path | IO[bytes]]":
    """Yield where the report goes, and say so once it is there. Raises UsageError where no report can go."""
    from distillgen.cli.lines import standard_output
    from distillgen.errors import UsageError
    from distillgen.report.console import say
    from distillgen.report.page import require_file

    if path == Path("-"):
        if sys.stdout.isatty():
            raise UsageError("standard output is a terminal, and the report is for a browser", fix="-o FILE, or a pipe")
        with standard_output() as out:
            yield out
        return
    require_file(path)
    yield path
    if path.is_file():
        say(f"wrote {path} ({_size(path.stat().st_size)}); open it in a browser")


def _size(of_bytes: int) -> str:
    return f"{of_bytes / 1e6:,.1f} MB" if of_bytes >= 1e6 else f"{of_bytes / 1e3:,.0f} kB"


def _file_name(version: "Version") -> str:
    return f"{version.manifest.name}-v{version.manifest.version}"
