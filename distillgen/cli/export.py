"""Command `export`: a version in a format that trainers and people take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from distillgen.cli.guard import find_in_project, guarded
from distillgen.cli.lines import standard_output


class Format(StrEnum):
    """The formats, and the trainers that a folder can be made for; the same names as in export/."""

    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt-completion"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PREFERENCE = "preference"
    UNPAIRED_PREFERENCE = "unpaired-preference"
    TEXT = "text"
    LABELS = "labels"
    PARQUET = "parquet"
    CSV = "csv"
    TRL = "trl"
    AXOLOTL = "axolotl"
    LLAMA_FACTORY = "llama-factory"
    MLX = "mlx"
    UNSLOTH = "unsloth"
    TORCHTUNE = "torchtune"
    TOGETHER = "together"
    FIREWORKS = "fireworks"
    OPENAI = "openai"


class Reasoning(StrEnum):
    """Where reasoning traces go."""

    THINK = "think"
    REASONING_CONTENT = "reasoning_content"
    THINKING = "thinking"
    DROP = "drop"


@guarded
def export(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A dataset: name, name@3, name@latest, or a version's folder.")
    ],
    form: Annotated[
        Format, typer.Option("--format", help="The format to write, or the trainer to write for.")
    ] = Format.MESSAGES,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Write a file per split here. Default: standard output.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="One split only.")] = None,
    reasoning: Annotated[
        Reasoning,
        typer.Option(
            "--reasoning",
            help="Where the reasoning trace goes: <think> in the answer, a key of the answer so named, or nowhere.",
        ),
    ] = Reasoning.THINK,
    as_text: Annotated[
        bool | None,
        typer.Option(
            "--text/--messages",
            help="prompt-completion as texts or as lists of messages. Default: texts where every row is one question "
            "and one answer.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(
            "--template",
            metavar="FILE",
            help="The chat template for text: a Jinja file, a tokenizer_config.json, or the model's folder.",
            show_default=False,
        ),
    ] = None,
    project: Annotated[Path, typer.Option("--project", help="The project's folder.")] = Path(),
) -> None:
    """Write a version in a format that trainers take, to a folder or to standard output.

    Each row is checked by the format's own rules first; what a format cannot carry is refused, and nothing is written.

    \b
    Examples:
      distillgen export demo --format messages | head -1
      distillgen export demo@2 --format prompt-completion -o out
      distillgen export demo --format text --template models/student -o out
      distillgen export demo --format axolotl -o axolotl

    \b
    Exit status:
      0 written   2 the rows do not fit the format   8 damaged
      10 no such dataset, version or split   12 disk full
      141 the reader went away
    """
    from distillgen.errors import UsageError
    from distillgen.export.formats import FORMATS
    from distillgen.export.options import Options
    from distillgen.export.trainers import TRAINERS, bundle
    from distillgen.export.write import export_folder, export_to
    from distillgen.report.console import say

    if template is not None and form != Format.TEXT:
        raise UsageError(f"{form.value} takes no chat template", fix="--format text --template FILE")
    if as_text is not None and form != Format.PROMPT_COMPLETION:
        raise UsageError(f"--text and --messages say nothing about {form.value}", fix="--format prompt-completion")
    version = find_in_project(name, project)
    options = Options(reasoning.value, as_text)
    if template is not None:
        from distillgen.export.chat_template import read_template

        options = Options(reasoning.value, as_text, read_template(template))
    if form.value in TRAINERS:
        if folder is None:
            raise UsageError(f"{form.value} writes several files", fix=f"-o DIR, say `-o {form.value}`")
        paths = bundle(folder, version, TRAINERS[form.value], options, split=split)
    elif folder is None:
        with standard_output() as out:
            export_to(out, version, FORMATS[form.value], options, split=split)
        return
    else:
        paths = export_folder(folder, version, FORMATS[form.value], options, split=split)
    for path in paths:
        say(f"wrote {path}")
