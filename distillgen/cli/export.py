"""Command `export`: a version in a format that trainers and people take."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from distillgen.cli.guard import find_in_project, guarded


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
def export(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A dataset: name, name@3, name@latest, or a version's folder.")
    ],
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
    split: Annotated[str | None, typer.Option("--split", help="One split only.")] = None,
    reasoning: Annotated[
        Reasoning,
        typer.Option(
            "--reasoning", help="Where the reasoning trace goes: <think> in the answer, a field beside it, or nowhere."
        ),
    ] = Reasoning.THINK,
    project: Annotated[Path, typer.Option("--project", help="The project's folder.")] = Path(),
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
    from distillgen.export.write import export_folder, export_to
    from distillgen.report.console import say

    version = find_in_project(name, project)
    if folder is None:
        export_to(sys.stdout.buffer, version, form.value, split=split, reasoning=reasoning.value)
        return
    for path in export_folder(folder, version, form.value, split=split, reasoning=reasoning.value):
        say(f"wrote {path}")
