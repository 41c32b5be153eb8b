"""Command `export`: a version, or the rows of a pipe, in a format that trainers and people take."""

import contextlib
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from distillgen.cli import completion
from distillgen.cli.guard import find_in_project, guarded
from distillgen.cli.lines import (
    LEFT_OUT,
    LineBuffered,
    RejectedFile,
    opened,
    standard_input,
    standard_output,
    write_row,
)

if TYPE_CHECKING:
    from distillgen.errors import UsageError
    from distillgen.export.formats import Format
    from distillgen.export.options import Options
    from distillgen.export.reading import Line


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


def _column(what: str) -> Any:
    """Return the option that names a column of a pipe's rows."""
    return typer.Option(
        f"--{what}-column", metavar="NAME", show_default=False,
        help=f"The column of the {what}, of rows of a pipe. Default: found in chats, ShareGPT, Alpaca, plain rows.",
    )  # fmt: skip


@guarded
def export(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A dataset: name, name@3, name@latest, or a version's folder. Default, and -: standard input.",
            autocompletion=completion.datasets,
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"The format to write: {', '.join(FORMATS)}. Or the trainer to write for: {', '.join(TRAINERS)}.",
            autocompletion=completion.one_of(*FORMATS, *TRAINERS),
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
    split: Annotated[
        str | None,
        typer.Option(
            "--split", metavar="SPLIT", help="One split only. Default: all.", autocompletion=completion.splits
        ),
    ] = None,
    reasoning: Annotated[
        Reasoning,
        typer.Option(
            "--reasoning",
            metavar="WHERE",
            help="Where the reasoning trace goes: think (in the answer), reasoning_content or thinking (a key beside "
            "it), or drop.",
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
    prompt_column: Annotated[str | None, _column("prompt")] = None,
    answer_column: Annotated[str | None, _column("answer")] = None,
    reasoning_column: Annotated[str | None, _column("reasoning")] = None,
    rejected: RejectedFile = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Go over lines of a pipe that cannot be read.")
    ] = False,
    line_buffered: LineBuffered = False,
    project: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")] = Path(),
) -> None:
    """Write a version, or rows of a pipe, for trainers.

    It goes to a folder or to standard output. Each row is checked by the format's own rules first; what a format
    cannot carry is refused, and nothing is written: of a pipe, nothing more.

    \b
    Examples:
      distillgen export demo --format messages | head -1
      distillgen export demo@2 --format prompt-completion -o out
      distillgen export demo --format text --template models/student -o out
      distillgen export demo --format axolotl -o axolotl
      distillgen export --format sharegpt --answer-column output < rows.jsonl

    \b
    Exit status:
      0 written   2 the rows do not fit the format   8 damaged
      10 no such dataset, version or split   11 another export is written there
      12 disk full   141 the reader went away
    """
    from distillgen.errors import UsageError
    from distillgen.export.formats import FORMATS as FORMAT_OF
    from distillgen.export.options import Options

    if form not in (*FORMATS, *TRAINERS):
        raise _no_such_format(form)
    if template is not None and form != "text":
        raise UsageError(f"{form} takes no chat template", fix="--format text --template FILE")
    if as_text is not None and form != "prompt-completion":
        raise UsageError(f"--text and --messages say nothing about {form}", fix="--format prompt-completion")
    options = Options(reasoning.value, as_text)
    if template is not None:
        from distillgen.export.chat_template import read_template

        options = Options(reasoning.value, as_text, read_template(template))
    to_folder = folder if folder != Path("-") else None
    columns = (prompt_column, answer_column, reasoning_column)
    if name not in (None, "-"):
        if any(columns) or rejected or skip_bad_rows or line_buffered:
            raise UsageError(
                "--prompt-column, --answer-column, --reasoning-column, --rejected, --skip-bad-rows and --line-buffered "
                "are for the rows of a pipe",
                where="export", fix="leave NAME out to read standard input; a version's rows are ready as they are",
            )  # fmt: skip
        _export_version(name, project, form, to_folder, options, split)
    elif form in TRAINERS:
        raise UsageError(
            f"{form} is for a version: its configuration states what is in it",
            fix=f"--format {' or '.join(FORMATS[:2])} for rows of a pipe; or `distillgen build`, then export NAME",
        )
    else:
        source = _Source(columns, split, rejected, skip_bad=skip_bad_rows, each=line_buffered)
        _export_pipe(source, FORMAT_OF[form], to_folder, options)


def _export_version(
    name: str, project: Path, form: str, folder: Path | None, options: "Options", split: str | None
) -> None:
    from distillgen.errors import UsageError
    from distillgen.export.formats import FORMATS as FORMAT_OF
    from distillgen.export.trainers import TRAINERS as TRAINER_OF
    from distillgen.export.trainers import bundle
    from distillgen.export.write import export_folder, export_to

    version = find_in_project(name, project)
    if form in TRAINERS:
        if folder is None:
            raise UsageError(f"{form} writes several files", fix=f"-o DIR, say `-o {form}`")
        _say_written(folder, bundle(folder, version, TRAINER_OF[form], options, split=split))
    elif folder is None:
        with standard_output() as out:
            export_to(out, version, FORMAT_OF[form], options, split=split)
    else:
        _say_written(folder, export_folder(folder, version, FORMAT_OF[form], options, split=split))


class _Source(NamedTuple):
    """Which rows of standard input, and what becomes of the others: the columns of prompt, answer and reasoning."""

    columns: tuple[str | None, str | None, str | None]
    split: str | None
    rejected: Path | None
    skip_bad: bool
    each: bool


def _export_pipe(source: _Source, form: "Format", folder: Path | None, options: "Options") -> None:
    """Write the rows of standard input, as they come."""
    from distillgen.export.from_pipe import Piped, pipe_to, pipe_to_folder
    from distillgen.export.piped import Columns
    from distillgen.export.reading import Arriving
    from distillgen.report.console import number, say

    stdin, left_out = standard_input("export"), 0
    with contextlib.ExitStack() as files:
        aside = opened(source.rejected, files)

        def put_aside(line: "Line", why: str) -> None:
            nonlocal left_out
            assert aside is not None
            left_out += 1
            said = {"step": "export", "rule": form.name, "detail": why}
            write_row(aside, {**json.loads(line.raw), LEFT_OUT: said})

        out = files.enter_context(standard_output()) if folder is None else None
        arriving = Arriving(stdin, out.fileno() if out is not None else None, skip_bad=source.skip_bad)
        rows = Piped(
            arriving, form, options, Columns(*source.columns), split=source.split,
            aside=put_aside if aside is not None else None,
        )  # fmt: skip
        if out is not None:
            pipe_to(out, rows, each=source.each)
        elif folder is not None:
            _say_written(folder, pipe_to_folder(folder, rows))
    if left_out:
        say(f"{number(left_out, 'row')} not written: see {source.rejected}", style="yellow")
    if arriving.skipped:
        say(f"bad rows skipped: {arriving.skipped:,}", style="yellow")


def _say_written(folder: Path, paths: list[Path]) -> None:
    from distillgen.report.console import say

    for path in paths:
        say(f"wrote {path}")
    _warn_of_others(folder, paths)


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
    import difflib

    from distillgen.errors import UsageError

    # Names so short are near to anything: nearer than elsewhere, then.
    near = difflib.get_close_matches(form.casefold(), (*FORMATS, *TRAINERS), n=1, cutoff=0.7)
    said = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(
        f"no format {form[:80]!r}",
        fix=f"{said}formats: {', '.join(FORMATS)}; for a trainer: {', '.join(TRAINERS)}",
    )
