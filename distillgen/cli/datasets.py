"""Commands `log`, `show` and `export`."""

import json
import sys
from enum import StrEnum
from itertools import islice
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


class Format(StrEnum):
    """The formats that can be written."""

    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt-completion"
    PREFERENCE = "preference"


class Reasoning(StrEnum):
    """Where reasoning traces go."""

    THINK = "think"
    FIELD = "field"
    DROP = "drop"


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

    from distillgen.dataset.manifest import read_manifest
    from distillgen.dataset.versions import folder_of, version_numbers
    from distillgen.errors import NotFound
    from distillgen.report.console import table

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
                        "partial": m.is_partial,
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
            f"{m.name}@{m.version}{' (partial)' if m.is_partial else ''}",
            f"{m.rows:,}",
            ", ".join(f"{k} {v:,}" for k, v in m.splits.items()),
            f"{m.run.get('calls', 0):,}",
            f"{m.run.get('tokens', {}).get('completion', 0):,}",
            m.run.get("finished", ""),
            m.digest[:12],
        ]
        for m in found
    ]
    Console(markup=False, highlight=False).print(
        table("", ["version", "rows#", "splits", "calls#", "tokens out#", "published", "digest"], rows)
    )


@guarded
def show(
    name: Name,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="How many rows.")] = 5,
    split: Split = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="Show rejected rows and why.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Show failed rows and why.")] = False,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Show rows of a version as conversations, or the rows that were left out and why.

    \b
    Examples:
      distillgen show demo
      distillgen show demo@2 --split train -n 20
      distillgen show demo --rejected

    \b
    Exit status:
      0 shown   8 damaged   10 no such dataset, version or split
    """
    from rich.console import Console
    from rich.text import Text

    from distillgen.dataset.export import read_rows
    from distillgen.files import dumps, read_jsonl
    from distillgen.report.console import conversation, safe

    version = find_in_project(name, project)
    if rejected or failed:
        kind = "rejected" if rejected else "failed"
        records = list(islice(read_jsonl(version.folder / f"{kind}.jsonl.zst"), rows))
    else:
        records = [row for _, row in islice(read_rows(version, split), rows)]
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
def export(
    name: Name,
    form: Annotated[Format, typer.Option("--format", help="The format to write.")] = Format.MESSAGES,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Write SPLIT.jsonl files here. Default: standard output.",
            show_default=False,
        ),
    ] = None,
    split: Split = None,
    reasoning: Annotated[
        Reasoning,
        typer.Option(
            "--reasoning", help="Where the reasoning trace goes: <think> in the answer, a field beside it, or nowhere."
        ),
    ] = Reasoning.THINK,
    project: Project = Path(),
) -> None:
    """Write a version in a format that trainers take, to a folder or to standard output.

    \b
    Examples:
      distillgen export demo --format messages | head -1
      distillgen export demo@2 --format prompt-completion -o out

    \b
    Exit status:
      0 written   8 damaged   10 no such dataset, version or split
      12 disk full   141 the reader went away
    """
    from distillgen.dataset.export import export_folder, export_to
    from distillgen.report.console import say

    version = find_in_project(name, project)
    if folder is None:
        export_to(sys.stdout.buffer, version, form.value, split=split, reasoning=reasoning.value)
        return
    for path in export_folder(folder, version, form.value, split=split, reasoning=reasoning.value):
        say(f"wrote {path}")
