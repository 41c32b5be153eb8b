"""Commands `filter`, `deduplicate`, `decontaminate`: quality steps for anybody's rows, in a pipe."""

import contextlib
import tempfile
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli import completion
from distillgen.cli.guard import guarded, run_until_stopped
from distillgen.cli.lines import (
    LEFT_OUT,
    LineBuffered,
    Outlet,
    RejectedFile,
    opened,
    pour,
    say_what_was_left_out,
    standard_input,
)

if TYPE_CHECKING:
    from distillgen.rows import Outcome

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", "-c", metavar="NAME", show_default=False,
        help="A column to look at; default: the answer, found in messages, ShareGPT, Alpaca and plain rows.",
    ),
]  # fmt: skip
SkipBad = Annotated[bool, typer.Option("--skip-bad-rows", help="Go over lines that cannot be read.")]


@guarded
def filter_(
    preset: Annotated[
        str | None, typer.Option(
            "--preset", "-p", metavar="NAME", show_default=False, autocompletion=completion.presets,
            help="A set of rules: chat, reasoning, labels or strict.",
        )
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule", "-r", metavar="RULE", show_default=False, autocompletion=completion.rules,
            help="A rule, or a TOML table: '{ rule = \"length\", min_words = 5 }'. Repeat it.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without", metavar="RULE", help="Leave a rule of the preset out.", show_default=False,
            autocompletion=completion.rules,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column", "-c", metavar="NAME", show_default=False,
            help="The column that rules look at; default: the answer, found in messages, ShareGPT, Alpaca, plain rows.",
        ),
    ] = None,
    rejected: RejectedFile = None,
    skip_bad_rows: SkipBad = False,
    line_buffered: LineBuffered = False,
) -> None:  # fmt: skip
    """Keep the rows of standard input that every rule lets pass.

    They go to standard output. Rows are JSON lines; they leave as they came, in their order, as soon as they may.
    The rules are those of recipes: see docs/quality.md.

    \b
    Examples:
      distillgen filter --preset chat < rows.jsonl > good.jsonl
      distillgen filter -r '{ rule = "length", min_words = 5 }' < rows.jsonl
      distillgen filter -p chat --without repetition --rejected bad < rows.jsonl
      cat rows.jsonl | distillgen filter -p strict --column output | head -3

    \b
    Exit status:
      0 done   2 options or rows are wrong   12 disk full
      129, 130, 143 stopped by a signal   141 the reader went away
    """
    step: dict[str, Any] = {"use": "filter", "rules": [_setting(each) for each in rule or ()]}
    step |= {"preset": preset, "without": without or []}
    options = {"steps[0]": "--preset", "steps[0].preset": "--preset", "steps[0].without": "--without"}
    options |= {f"steps[0].rules[{number}]": "--rule" for number in range(len(rule or ()))}
    _run(
        step, options, rejected, skip_bad_rows, line_buffered, column or "answer",
        optional={"reasoning"} if preset else set(),
    )  # fmt: skip


@guarded
def deduplicate(
    column: Columns = None,
    near: Annotated[
        float | None,
        typer.Option(
            "--near",
            metavar="T",
            show_default=False,
            help="Jaccard similarity, 0.3 to 1, that counts as the same. Default: equal rows.",
        ),
    ] = None,
    words: Annotated[int, typer.Option("--words", metavar="N", help="Words of an n-gram, 1 to 10.")] = 3,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="NAME",
            show_default=False,
            autocompletion=completion.datasets,
            help="Compare with a dataset or a file too. Repeat it.",
        ),
    ] = None,
    rejected: RejectedFile = None,
    skip_bad_rows: SkipBad = False,
    line_buffered: LineBuffered = False,
) -> None:
    """Keep the first of equal or nearly equal rows.

    They come from standard input and go to standard output. Rows are JSON lines; they leave as they came, in their
    order. Every refused row names the kept row that it is like, and how much.

    \b
    Examples:
      distillgen deduplicate < rows.jsonl > unique.jsonl
      distillgen deduplicate --near 0.8 --rejected twins.jsonl < rows.jsonl
      distillgen deduplicate -c question --against old.jsonl < rows.jsonl

    \b
    Exit status:
      0 done   2 options or rows are wrong   10 no such dataset   12 disk full
      129, 130, 143 stopped by a signal   141 the reader went away
    """
    columns = column or ["answer"]
    step = {"use": "deduplicate", "on": columns, "near": near, "words": words, "against": against or []}
    options = {"steps[0].near": "--near", "steps[0].words": "--words", "steps[0].against": "--against"}
    _run(step, options, rejected, skip_bad_rows, line_buffered)


@guarded
def decontaminate(
    against: Annotated[
        list[str], typer.Option("--against", metavar="FILE", help="A benchmark: jsonl, csv, parquet, txt. Repeat it.")
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column", "-c", metavar="NAME", show_default=False,
            help="A column to check, each apart; default: prompt and answer.",
        ),
    ] = None,
    benchmark_column: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark-column", metavar="NAME", show_default=False,
            help="A column of the benchmark that counts; default: all texts.",
        ),
    ] = None,
    words: Annotated[int, typer.Option("--words", metavar="N", help="Words of an n-gram, 3 to 30.")] = 8,
    coverage: Annotated[
        float,
        typer.Option(
            "--coverage", metavar="SHARE", help="Share of an item's words, 0 to 1, that counts as holding it."
        ),
    ] = 0.5,
    rejected: RejectedFile = None,
    skip_bad_rows: SkipBad = False,
    line_buffered: LineBuffered = False,
) -> None:  # fmt: skip
    """Keep the rows that hold no item of a benchmark.

    They come from standard input and go to standard output. Rows are JSON lines; they leave as they came, in their
    order, as soon as they may.

    \b
    Examples:
      distillgen decontaminate --against gsm8k-test.jsonl < rows.jsonl
      distillgen decontaminate --against test.csv -c question < rows.jsonl
      distillgen decontaminate --against a.csv --benchmark-column q < rows.jsonl

    \b
    Exit status:
      0 done   2 options, rows or benchmark are wrong   12 disk full
      129, 130, 143 stopped by a signal   141 the reader went away
    """
    columns = column or ["prompt", "answer"]
    files = [{"path": path, "columns": benchmark_column or []} for path in against]
    step = {"use": "decontaminate", "against": files, "on": columns, "words": words, "coverage": coverage}
    options = {f"steps[0].against[{number}]": "--against" for number in range(len(files))}
    options |= {f"steps[0].against[{number}].columns": "--benchmark-column" for number in range(len(files))}
    options |= {"steps[0].words": "--words", "steps[0].coverage": "--coverage"}
    _run(step, options, rejected, skip_bad_rows, line_buffered, optional=set() if column else {"prompt"})


def _setting(text: str) -> Any:
    """Return a rule as a recipe states it: a name, or a TOML table."""
    import tomllib

    if not text.lstrip().startswith("{"):
        return text
    from distillgen.errors import UsageError

    try:
        return tomllib.loads(f"rule = {text}")["rule"]
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"not a TOML table: {error}",
            where="--rule",
            fix="for instance --rule '{ rule = \"length\", min_words = 5 }'",
        ) from None


def _run(
    step: Mapping[str, Any], options: Mapping[str, str], rejected: Path | None, skip_bad: bool,
    line_buffered: bool, main: str = "answer", optional: AbstractSet[str] = frozenset(),
) -> None:  # fmt: skip
    """Take the rows of standard input through one step. The first must have the columns that it looks at.

    `main` is the column of the answer, `optional` are those that rows may lack.
    """
    from distillgen.report import console
    from distillgen.rows import Rejection, Row
    from distillgen.sieve import ForeignRows, line_of, original, prepare_step, reason_of, sift
    from distillgen.tally import Tally

    make, looks_at, warnings = prepare_step(step, options, Path.cwd(), main)
    for warning in warnings:
        console.say(f"warning: {warning}", style="yellow")
    stdin = open(
        standard_input(str(step["use"])), "rb", closefd=False
    )  # a stream of our own: a thread may wait on it to the very end
    tally, rows = Tally(), ForeignRows(stdin, looks_at - optional, skip_bad=skip_bad)
    with contextlib.ExitStack() as files:
        spool = Path(files.enter_context(tempfile.TemporaryDirectory(prefix="distillgen-")))
        aside = opened(rejected, files)

        async def work() -> None:
            out = Outlet(each=line_buffered)

            async def write(outcome: "Outcome") -> None:
                if isinstance(outcome, Row):
                    await out.write(line_of(outcome))
                    tally.published += 1
                elif isinstance(outcome, Rejection) and aside is not None:
                    await out.put_aside(aside, {**original(outcome.row), LEFT_OUT: reason_of(outcome)})

            await pour(sift(rows, make, tally, write, spool), out)

        run_until_stopped(work(), _say_stopping, "rows written so far stay written")
    say_what_was_left_out(tally)
    if rows.skipped:
        console.say(f"bad rows skipped: {rows.skipped:,}", style="yellow")


def _say_stopping() -> None:
    from distillgen.report.console import say

    say("stopping; press Ctrl-C again to leave at once", style="yellow")
