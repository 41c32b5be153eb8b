"""Command `report`: a version, or two side by side, as one HTML file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillgen.cli.guard import find_in_project, guarded

if TYPE_CHECKING:
    from distillgen.dataset.versions import Version

MOST_ROWS = 10_000


@guarded
def report(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A dataset: name, name@3, name@latest, or a version's folder.")
    ],
    other: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A second version, to compare the first with.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="The file to write. Default: NAME-vN.html here.", show_default=False),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", min=0, metavar="N", help="Put at most N rows of each kind in it, from all over.")
    ] = MOST_ROWS,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="Put every row in it.")] = False,
    project: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")] = Path(),
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="Where the answers are kept, for speed.", show_default=False),
    ] = None,
) -> None:
    """Write a version, or two side by side, as one HTML file.

    The file needs no server and no network. It shows the funnel, what was left out and why, money and tokens, speed, lengths, scores, labels, rows that are
    alike, splits and terms, and lets you search the rows and the rows that were left out. Of two versions it shows what
    is different between them.

    \b
    Examples:
      distillgen report demo
      distillgen report demo@2 -o demo.html --all-rows
      distillgen report demo@1 demo@2

    \b
    Exit status:
      0 written   2 the file cannot be written   8 damaged
      10 no such dataset or version   12 disk full
    """
    from distillgen.report.comparison_report import write_comparison
    from distillgen.report.console import say
    from distillgen.report.version_report import write_report
    from distillgen.state import state_folder

    version = find_in_project(name, project)
    if other is None:
        path = output if output is not None else Path(f"{_file_name(version)}.html")
        store = state_folder(project, state) / "answers.sqlite"
        write_report(path, version, store, None if all_rows else rows)
    else:
        newer = find_in_project(other, project)
        path = output if output is not None else Path(f"{_file_name(version)}-{_file_name(newer)}.html")
        write_comparison(path, version, newer, sys.maxsize if all_rows else rows)
    say(f"wrote {path} ({path.stat().st_size / 1e6:,.1f} MB); open it in a browser")


def _file_name(version: "Version") -> str:
    return f"{version.manifest.name}-v{version.manifest.version}"
