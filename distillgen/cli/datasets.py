"""Commands that look at versions: `log`, `show`, `trace`, `stats` and `diff`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli import completion
from distillgen.cli.guard import find_in_project, guarded

if TYPE_CHECKING:
    from distillgen.dataset.looking import Kind
    from distillgen.dataset.manifest import Manifest
    from distillgen.dataset.story import Story
    from distillgen.dataset.versions import Version
    from distillgen.errors import DistillgenError
    from distillgen.report.tables import Table

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A dataset: name, name@3, name@latest, or a version's folder.",
        autocompletion=completion.datasets,
    ),
]
Project = Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")]
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="SPLIT", help="One split only. Default: all.", autocompletion=completion.splits),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")]

BAR_OF_ROWS = 10  # characters of the bar in a list of versions
SHOWN_OF_DIGEST = 12


@guarded
def log(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A dataset. Default: all of the project.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """List the versions of a dataset, newest first.

    \b
    Examples:
      distillgen log
      distillgen log my-dataset --json

    \b
    Exit status:
      0 listed   2 a version is of a newer distillgen
      8 one is damaged (the others are listed)   10 no such dataset
    """
    from distillgen.report.console import say, stdout
    from distillgen.schemas import document
    from distillgen.upkeep.pins import pinned

    homes = _homes(name, project)
    found, trouble = _manifests(homes)
    pins = {(home.name, number) for home in homes for number in pinned(home)}
    if as_json:
        listed = [_logged_as_json(m, before, (m.name, m.version) in pins) for m, before in found]
        print(document("log", {"versions": listed}))
    elif found:
        stdout().print(_logged(found, pins))
    for error in trouble[:-1]:
        say(str(error), style="red")
    if trouble:
        raise trouble[-1]


def _homes(name: str | None, project: Path) -> list[Path]:
    """Return the folders of the datasets that `log` lists. Raises NotFound when there is no version."""
    from distillgen.dataset.versions import find_home, homes_in, version_numbers
    from distillgen.errors import NotFound

    datasets = project / "datasets"
    if not project.is_dir():
        raise NotFound(f"no folder {str(project)!r}")
    if name is not None:
        return [find_home(name, datasets)]
    homes = [home for home in homes_in(datasets) if version_numbers(home)]
    if not homes:
        raise NotFound("no dataset here", where=str(datasets), fix="`distillgen build` makes one")
    return homes


def _manifests(homes: list[Path]) -> "tuple[list[tuple[Manifest, Manifest | None]], list[DistillgenError]]":
    """Return the manifests of all versions, the newest of each dataset first, each with its parent's; and what is wrong
    with those that cannot be read."""
    from distillgen.dataset.manifest import read_manifest
    from distillgen.dataset.versions import folder_of, version_numbers
    from distillgen.errors import Damaged, NewerFormat

    found: list[tuple[Manifest, Manifest | None]] = []
    trouble: list[DistillgenError] = []
    for home in homes:
        own: dict[int, Manifest] = {}
        for number in version_numbers(home):
            folder = folder_of(home, number)
            try:
                own[number] = read_manifest(folder)
            except (Damaged, NewerFormat) as error:
                if folder.is_dir():  # else `gc` removed it just now
                    trouble.append(error)
        found += [(own[number], own.get(own[number].parent or 0)) for number in reversed(own)]
    return found, sorted(trouble, key=lambda error: error.exit_status)  # damage last: the last one ends the command


def _logged_as_json(manifest: "Manifest", before: "Manifest | None", is_pinned: bool) -> dict[str, Any]:
    from distillgen.dataset.compare import changes_of

    return {
        "name": manifest.name,
        "version": f"{manifest.name}@{manifest.version}",
        "number": manifest.version,
        "parent": manifest.parent,
        "rows": manifest.rows,
        "splits": manifest.splits,
        "digest": manifest.digest,
        "changed": changes_of(manifest, before),
        "partial": manifest.is_partial,
        "pinned": is_pinned,
        "unconfirmed": sorted(manifest.unconfirmed),
        "run": manifest.run,
    }


def _logged(found: "list[tuple[Manifest, Manifest | None]]", pins: set[tuple[str, int]]) -> "Table":
    """Return the table of versions."""
    from distillgen.dataset.compare import changes_of
    from distillgen.report.signs import dollars
    from distillgen.report.tables import Bar, table

    most = max(m.rows for m, _ in found) or 1
    rows = [
        [
            f"{m.name}@{m.version}{' (partial)' if m.is_partial else ''}"
            + (" (pinned)" if (m.name, m.version) in pins else "")
            + (" (repaired)" if m.unconfirmed else ""),
            f"{m.rows:,}",
            Bar(m.rows / most, BAR_OF_ROWS),
            f"{m.run.get('calls', 0):,}",
            dollars(m.run.get("usd", 0)),
            m.run.get("finished", "")[:16].replace("T", " "),
            m.digest[:SHOWN_OF_DIGEST],
            f"{m.run.get('tokens', {}).get('completion', 0):,}",
            ", ".join(changes_of(m, before)),
        ]
        for m, before in found
    ]
    heads = ["version", "rows#", "|", "calls#", "cost#", "published=", "digest=", "tokens out#", "changed"]
    return table("", heads, rows)


@guarded
def show(
    name: Name,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, metavar="N", help="How many rows.")] = 5,
    split: Split = None,
    sample: Annotated[bool, typer.Option("--sample", help="Rows from all over, the same ones each time.")] = False,
    row_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The row with this id.", show_default=False)
    ] = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="Show rejected rows and why.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Show failed rows and why.")] = False,
    rule: Annotated[
        str | None,
        typer.Option(
            "--rule",
            metavar="RULE",
            help="Those of one rule or cause only.",
            show_default=False,
            autocompletion=completion.rules,
        ),
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Show rows of a version, or those that were left out and why.

    Rows are shown as the conversations that a student would see.

    \b
    Examples:
      distillgen show demo
      distillgen show demo@2 --split train -n 20
      distillgen show demo --sample -n 3
      distillgen show demo --rejected --rule length

    \b
    Exit status:
      0 shown   8 damaged   10 no such dataset, version, split, rule or id
    """
    from rich.text import Text

    from distillgen.dataset.looking import pick, rows_of
    from distillgen.errors import UsageError
    from distillgen.files import dumps
    from distillgen.report.console import safe, stdout
    from distillgen.report.tables import Heading, conversation

    if rejected and failed:
        raise UsageError("rejected rows and failed ones are not shown together", fix="leave one of the two out")
    kind: Kind = "failed" if failed else "rejected" if rejected or rule is not None else "published"
    version = find_in_project(name, project)
    records = pick(rows_of(version, kind, split=split, rule=rule, row_id=row_id), rows, sample=sample)
    if as_json:
        for record in records:
            _print_json(record)
        return
    out = stdout()
    if row_id is None:
        _say_of_how_many(version, kind, len(records), split, rule)
    for record in records:
        if "rule" not in record and "cause" not in record:
            for line in conversation(record):
                out.print(line)
        else:
            reason = f"{record['step']}, {record.get('rule') or record.get('cause')}: {record['detail']}"
            out.print(Heading(f"{record['id']}  {reason}", style="yellow"))
            out.print(Text(safe(dumps(record["columns"]))))


def _say_of_how_many(version: "Version", kind: "Kind", shown: int, split: str | None, rule: str | None) -> None:
    """Say of how many rows these are some, to who looks at them; and to everybody that there are none."""
    from distillgen.report.console import say, stderr
    from distillgen.report.figures import left_out_shown, shown_of
    from distillgen.report.tables import is_looked_at

    if not shown:
        where = f"split {split} of {version.label}" if split else version.label
        none = {"published": "there is no row in", "rejected": "no row was rejected in", "failed": "no row failed in"}
        say(f"{none[kind]} {where}")
    elif is_looked_at():
        say(shown_of(version, kind, shown, split, rule), style="bold")
        if kind != "published" and rule is None and (bars := left_out_shown(version, kind)):
            stderr().print(bars)
            stderr().print()


@guarded
def trace(
    row_id: Annotated[str, typer.Argument(metavar="ID", help="A row's id, or a seed's, of which all rows are told.")],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="A dataset, as of `show`; default: the newest of each here.", show_default=False
        ),
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Tell a row's story from its seed to its split.

    It names what each step did to the row, and why it is in no split if it is in none.

    \b
    Examples:
      distillgen trace mzx5k7aq
      distillgen trace mzx5k7aq demo
      distillgen trace mzx5k7aq.2 demo@3 --json

    \b
    Exit status:
      0 told   8 damaged   10 no such dataset, version or row
    """
    from rich.text import Text

    from distillgen.report.console import safe, stdout
    from distillgen.report.tables import Heading
    from distillgen.schemas import document

    stories, trouble = _stories(row_id, name, project)
    if as_json:
        rows = [
            {"version": version.label, "fate": each.fate, "end": each.end, **each.record, "training": each.training,
             "usd": each.usd} for version, each in stories
        ]  # fmt: skip
        print(document("trace", {"rows": rows}))
    else:
        out = stdout()
        for version, story in stories:
            out.print(Heading(f"{story.record['id']} in {version.label}", style="bold"))
            for line in story.lines():
                out.print(Text(safe(line)))
    if trouble is not None:
        raise trouble


def _stories(
    row_id: str, name: str | None, project: Path
) -> "tuple[list[tuple[Version, Story]], DistillgenError | None]":
    """Return the stories of a row in a version, or in the newest of each dataset of a project; and what is wrong with a
    dataset that cannot be read. Raises NotFound when none knows the row, or the error of a dataset that may.
    """
    from distillgen.dataset.story import stories_of
    from distillgen.errors import Damaged, NewerFormat, NotFound

    if name is not None:
        version = find_in_project(name, project)
        return [(version, story) for story in stories_of(version, row_id)], None
    found, labels = [], []
    trouble: DistillgenError | None = None
    for home in _homes(None, project):
        try:
            version = find_in_project(home.name, project)
            labels.append(version.label)
            found += [(version, story) for story in stories_of(version, row_id)]
        except (Damaged, NewerFormat) as error:
            trouble = error
        except NotFound:
            continue
    if not found:
        raise trouble or NotFound(
            f"no dataset here knows the row {row_id[:80]!r}", where=", ".join(labels),
            fix="an older version may: `distillgen trace ID NAME@VERSION`",
        )  # fmt: skip
    return found, trouble


@guarded
def stats(name: Name, project: Project = Path(), as_json: AsJson = False) -> None:
    """Print the figures of a version.

    They are the funnel from seeds to splits, lengths, scores, labels, tokens and cost.

    \b
    Examples:
      distillgen stats demo
      distillgen stats demo@2 --json

    \b
    Exit status:
      0 printed   8 damaged   10 no such dataset or version
    """
    from distillgen.dataset.figures import figures_of
    from distillgen.report.console import stdout
    from distillgen.report.figures import as_json as figures_as_json
    from distillgen.report.figures import figures_shown
    from distillgen.schemas import document

    version = find_in_project(name, project)
    figures = figures_of(version)
    if as_json:
        print(document("stats", figures_as_json(version, figures)))
        return
    out = stdout()
    for part in figures_shown(version, figures):
        out.print(part)


@guarded
def diff(
    old: Annotated[
        str, typer.Argument(metavar="A", help="The older version, as in `demo@1`.", autocompletion=completion.datasets)
    ],
    new: Annotated[str, typer.Argument(metavar="B", help="The newer one.", autocompletion=completion.datasets)],
    rows: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--rows",
            min=0,
            metavar="N",
            help="How many ids of each kind to name. Default: 10, with --json all.",
            show_default=False,
        ),
    ] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 when rows differ.")] = False,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what is different between two versions.

    Rows are compared by id; recipe, funnel, cost and lengths side by side.

    \b
    Examples:
      distillgen diff demo@1 demo@2
      distillgen diff demo@1 demo --exit-code > /dev/null || echo changed

    \b
    Exit status:
      0 compared   1 rows differ, with --exit-code   8 damaged
      10 no such dataset or version
    """
    from distillgen.dataset.compare import SHOWN, compare_rows
    from distillgen.report.console import stdout
    from distillgen.report.figures import comparison_as_json, comparison_shown
    from distillgen.schemas import document

    versions = find_in_project(old, project), find_in_project(new, project)
    changes = compare_rows(*versions, most=SHOWN if rows is None and not as_json else rows)
    if as_json:
        print(document("diff", comparison_as_json(*versions, changes)))
    else:
        out = stdout()
        for part in comparison_shown(*versions, changes):
            out.print(part)
    if exit_code and not changes.is_none:
        raise typer.Exit(1)


def _print_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON, in ASCII alone where something in it could act on a terminal, or not be encoded."""
    from distillgen.files import dumps
    from distillgen.report.console import safe

    text = dumps(value)
    is_utf8 = (getattr(sys.stdout, "encoding", None) or "utf-8").lower() in ("utf-8", "utf8")
    is_plain = indent is None and safe(text) == text and (is_utf8 or text.isascii())
    print(text if is_plain else json.dumps(json.loads(text), indent=indent))
