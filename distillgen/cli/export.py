"""Command `export`: a version in a format that trainers and people take."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillgen.cli.guard import find_in_project, guarded
from distillgen.cli.lines import standard_output

if TYPE_CHECKING:
    from distillgen.errors import UsageError


MOST_NAMED = 5  # files that a warning names
# The names in export/formats.py and export/trainers/, which would make the help slow.
FORMATS = (
    "messages", "prompt-completion", "sharegpt", "alpaca", "preference", "unpaired-preference", "text", "labels",
    "parquet", "csv",
)  # fmt: skip
TRAINERS = (
    "trl", "axolotl", "llama-factory", "mlx", "unsloth", "torchtune", "together", "fireworks", "openai"
)  # fmt: skip


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
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"The format to write: {', '.join(FORMATS)}. Or the trainer to write for: {', '.join(TRAINERS)}.",
            autocompletion=lambda: [*FORMATS, *TRAINERS],
        ),
    ] = FORMATS[0],
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Write a file per split here. Default, and -: standard output.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", metavar="SPLIT", help="One split only. Default: all.")] = None,
    reasoning: Annotated[
        Reasoning,
        typer.Option(
            "--reasoning",
            metavar="WHERE",
            help="Where the reasoning trace goes: think (within the answer), reasoning_content or thinking (a key beside it), "
            "or drop.",
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
    project: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")] = Path(),
) -> None:
    """Write a version in a format that trainers take.

    It goes to a folder or to standard output. Each row is checked by the format's own rules first; what a format cannot carry is refused, and nothing is written.

    \b
    Examples:
      distillgen export demo --format messages | head -1
      distillgen export demo@2 --format prompt-completion -o out
      distillgen export demo --format text --template models/student -o out
      distillgen export demo --format axolotl -o axolotl

    \b
    Exit status:
      0 written   2 the rows do not fit the format   8 damaged
      10 no such dataset, version or split   11 another export is written there
      12 disk full   141 the reader went away
    """
    from distillgen.errors import UsageError
    from distillgen.export.formats import FORMATS as FORMAT_OF
    from distillgen.export.options import Options
    from distillgen.export.trainers import TRAINERS as TRAINER_OF
    from distillgen.export.trainers import bundle
    from distillgen.export.write import export_folder, export_to
    from distillgen.report.console import say

    if form not in (*FORMATS, *TRAINERS):
        raise _no_such_format(form)
    if template is not None and form != "text":
        raise UsageError(f"{form} takes no chat template", fix="--format text --template FILE")
    if as_text is not None and form != "prompt-completion":
        raise UsageError(f"--text and --messages say nothing about {form}", fix="--format prompt-completion")
    version = find_in_project(name, project)
    options = Options(reasoning.value, as_text)
    if template is not None:
        from distillgen.export.chat_template import read_template

        options = Options(reasoning.value, as_text, read_template(template))
    to_folder = folder if folder != Path("-") else None
    if form in TRAINERS:
        if to_folder is None:
            raise UsageError(f"{form} writes several files", fix=f"-o DIR, say `-o {form}`")
        paths = bundle(to_folder, version, TRAINER_OF[form], options, split=split)
    elif to_folder is None:
        with standard_output() as out:
            export_to(out, version, FORMAT_OF[form], options, split=split)
        return
    else:
        paths = export_folder(to_folder, version, FORMAT_OF[form], options, split=split)
    for path in paths:
        say(f"wrote {path}")
    _warn_of_others(to_folder, paths)


def _warn_of_others(folder: Path, paths: list[Path]) -> None:
    """Name the files that stand beside an export and are no part of it: a trainer may open those of an earlier one."""
    from distillgen.report.console import say

    others = sorted(path.name for path in folder.iterdir() if path.is_file() and path not in paths)
    others = [name for name in others if not name.startswith(".")]
    if others:
        named = ", ".join(repr(name[:80]) for name in others[:MOST_NAMED]) + (
            ", ..." if len(others) > MOST_NAMED else ""
        )
        say(f"warning: no part of this export, and a trainer may open it: {named} in {folder}", style="yellow")


def _no_such_format(form: str) -> "UsageError":
    """Return the error that names the nearest format or trainer, and lists them all."""
    from distillgen.errors import UsageError, nearest

    near = nearest(form.casefold(), (*FORMATS, *TRAINERS))
    said = f"{near} " if near.startswith("did you mean") else ""
    return UsageError(
        f"no format {form[:80]!r}",
        fix=f"{said}formats: {', '.join(FORMATS)}; for a trainer: {', '.join(TRAINERS)}",
    )
