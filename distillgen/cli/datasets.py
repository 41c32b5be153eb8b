"""Commands that look at versions: `log`, `show`, `trace`, `stats` and `diff`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from distillgen.cli.guard import find_in_project, guarded

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A dataset: name, name@3, name@latest, or a version's folder.")
]
Project = Annotated[Path, typer.Option("--project", help="The project's folder.")]
Split = Annotated[str | None, typer.Option("--split", help="One split only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print it for programs.")]


@guarded
def log(
    name: Annotated[
        str | None, typer.Argument(help="A dataset; default: all of the project.", show_default=False)
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
      0 listed   10 no such dataset
    """
    from rich.console import Console

    from distillgen.dataset.compare import changes_of
    from distillgen.dataset.manifest import read_manifest
    from distillgen.dataset.versions import folder_of, version_numbers
    from distillgen.errors import NotFound
    from distillgen.report.console import table
    from distillgen.upkeep.pins import pinned

    home = project / "datasets"
    if name is not None:
        find_in_project(name, project)
    names = [name.partition("@")[0]] if name else sorted(entry.name for entry in home.glob("*") if entry.is_dir())
    found = [
        read_manifest(folder_of(home / each, number))
        for each in names
        for number in reversed(version_numbers(home / each))
    ]
    if not found:
        raise NotFound("no dataset here", where=str(home), fix="`distillgen build` makes one")
    pins = {(each, number) for each in names for number in pinned(home / each)}
    if as_json:
        print(
            json.dumps(
                [
                    {
                        "name": m.name,
                        "version": m.version,
                        "parent": m.parent,
                        "rows": m.rows,
                        "splits": m.splits,
                        "digest": m.digest,
                        "changed": changes_of(m, found),
                        "partial": m.is_partial,
                        "pinned": (m.name, m.version) in pins,
                        "run": m.run,
                    }
                    for m in found
                ],
                indent=2,
            )
        )
        return
    rows = [
        [
            f"{m.name}@{m.version}{' (partial)' if m.is_partial else ''}"
            + (" (pinned)" if (m.name, m.version) in pins else ""),
            f"{m.rows:,}",
            f"{m.run.get('calls', 0):,}",
            f"{m.run.get('tokens', {}).get('completion', 0):,}",
            f"${m.run.get('usd', 0):,.4f}",
            m.run.get("finished", "")[:16].replace("T", " "),
            m.digest[:12],
            ", ".join(changes_of(m, found)),
        ]
        for m in found
    ]
    Console(markup=False, highlight=False).print(
        table("", ["version", "rows#", "calls#", "tokens out#", "cost#", "published", "digest", "changed"], rows)
    )


@guarded
def show(
    name: Name,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="How many rows.")] = 5,
    split: Split = None,
    sample: Annotated[bool, typer.Option("--sample", help="Rows from all over, the same ones each time.")] = False,
    row_id: Annotated[str | None, typer.Option("--id", help="The row with this id.", show_default=False)] = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="Show rejected rows and why.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Show failed rows and why.")] = False,
    rule: Annotated[
        str | None, typer.Option("--rule", help="Those of one rule or cause only.", show_default=False)
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Show rows of a version as conversations, or the rows that were left out and why.

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
    from rich.console import Console
    from rich.text import Text

    from distillgen.dataset.looking import Kind, pick, rows_of
    from distillgen.files import dumps
    from distillgen.report.console import conversation, safe

    kind: Kind = "failed" if failed else "rejected" if rejected or rule is not None else "published"
    found = rows_of(find_in_project(name, project), kind, split=split, rule=rule, row_id=row_id)
    records = pick(found, rows, sample=sample)
    if as_json:
        for record in records:
            print(dumps(record))
        return
    out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
    for record in records:
        if "rule" not in record and "cause" not in record:
            for line in conversation(record):
                out.print(line)
        else:
            reason = f"{record['step']} · {record.get('rule') or record.get('cause')}: {record['detail']}"
            out.print(Text(safe(f"── {record['id']}  {reason}"), style="yellow"))
            out.print(Text(safe(dumps(record["columns"]))))
    if not records:
        out.print("no such rows")


@guarded
def trace(
    row_id: Annotated[str, typer.Argument(metavar="ID", help="A row's id, or a seed's, of which all rows are told.")],
    name: Name,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Tell a row's story: its seed, what each step did to it, and the split it is in or why it is in none.

    \b
    Examples:
      distillgen trace mzx5k7aq demo
      distillgen trace mzx5k7aq.2 demo@3 --json

    \b
    Exit status:
      0 told   8 damaged   10 no such dataset, version or row
    """
    from rich.console import Console
    from rich.text import Text

    from distillgen.dataset.story import stories_of
    from distillgen.files import dumps
    from distillgen.report.console import safe

    version = find_in_project(name, project)
    stories = stories_of(version, row_id)
    if as_json:
        print(
            dumps([{"fate": each.fate, "end": each.end, **each.record, "training": each.training} for each in stories])
        )
        return
    out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
    for story in stories:
        out.print(Text(safe(f"── {story.record['id']} in {version.label}"), style="bold"))
        for line in story.lines():
            out.print(Text(safe(line)))


@guarded
def stats(name: Name, project: Project = Path(), as_json: AsJson = False) -> None:
    """Print the figures of a version: funnel, lengths, scores, labels, tokens and cost.

    \b
    Examples:
      distillgen stats demo
      distillgen stats demo@2 --json

    \b
    Exit status:
      0 printed   8 damaged   10 no such dataset or version
    """
    from rich.console import Console

    from distillgen.dataset.figures import figures_of
    from distillgen.files import dumps
    from distillgen.report.figures import as_json as figures_as_json
    from distillgen.report.figures import figures_shown

    version = find_in_project(name, project)
    figures = figures_of(version)
    if as_json:
        print(dumps(figures_as_json(version, figures)))
        return
    out = Console(markup=False, highlight=False, emoji=False)
    for part in figures_shown(version, figures):
        out.print(part)


@guarded
def diff(
    old: Annotated[str, typer.Argument(metavar="A", help="The older version, as in `demo@1`.")],
    new: Annotated[str, typer.Argument(metavar="B", help="The newer one.")],
    rows: Annotated[int, typer.Option("-n", "--rows", min=0, help="How many ids of each kind to name.")] = 10,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 when rows differ.")] = False,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what is different between two versions: rows by id, recipe, funnel, cost, lengths.

    \b
    Examples:
      distillgen diff demo@1 demo@2
      distillgen diff demo@1 demo --exit-code > /dev/null || echo changed

    \b
    Exit status:
      0 compared   1 rows differ, with --exit-code   8 damaged   10 no such dataset or version
    """
    from rich.console import Console

    from distillgen.dataset.compare import compare_rows
    from distillgen.files import dumps
    from distillgen.report.figures import comparison_as_json, comparison_shown

    versions = find_in_project(old, project), find_in_project(new, project)
    changes = compare_rows(*versions, most=rows)
    if as_json:
        print(dumps(comparison_as_json(*versions, changes)))
    else:
        out = Console(markup=False, highlight=False, emoji=False)
        for part in comparison_shown(*versions, changes):
            out.print(part)
    if exit_code and not changes.is_none:
        raise typer.Exit(1)
