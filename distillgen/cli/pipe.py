"""Command `generate`."""

import contextlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

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
from distillgen.cli.options import Set, SkipBad, State, UnknownPrice, on_budget
from distillgen.cli.running import progress, say_notes, say_stopping

if TYPE_CHECKING:
    from distillgen.recipe import Recipe, Source
    from distillgen.rows import Outcome
    from distillgen.tally import Tally


@guarded
def generate(
    prompt: Annotated[
        str,
        typer.Option(
            "--prompt",
            "-p",
            metavar="NAME",
            help="A template: see `distillgen prompts`.",
            autocompletion=completion.prompts,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="PROVIDER/MODEL, or a model of --base-url.",
            autocompletion=completion.teachers,
        ),
    ],
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider",
            metavar="NAME",
            help="A preset: see `distillgen teachers`.",
            show_default=False,
            autocompletion=completion.providers,
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="Any OpenAI-compatible endpoint.", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", metavar="N", min=1, help="Completions of each prompt.")] = 1,
    each: Annotated[bool, typer.Option("--each", help="One row per element of a list answer.")] = False,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="LABEL", help="One of the closed set, for prompts that label. Repeat it."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            min=1,
            metavar="N",
            help="Tokens of a reply at most. Default: the endpoint's.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            min=0,
            metavar="T",
            help="Sampling temperature. Default: the endpoint's.",
            show_default=False,
        ),
    ] = None,
    rejected: RejectedFile = None,
    failed: Annotated[
        Path | None,
        typer.Option("--failed", metavar="FILE", help="Write rows without an answer there.", show_default=False),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Make no call: stored answers only.")] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="USD", help="Spend at most so many US dollars in this run.", show_default=False
        ),
    ] = None,
    allow_unknown_price: UnknownPrice = False,
    skip_bad_seeds: SkipBad = False,
    state: State = None,
    set_: Set = None,
    line_buffered: LineBuffered = False,
) -> None:
    """Ask a teacher about each row of standard input.

    The rows go to standard output with its answers. They are JSON lines; they leave in the order in which they
    came, as soon as they may. Answers are kept in .distillgen, as those of a build: the same command asks nothing
    twice.

    \b
    Examples:
      distillgen generate -p explain -m deepseek/deepseek-flash < topics.jsonl
      head topics.jsonl | distillgen generate -p explain -m embedded/smollm2-135m
      distillgen generate -p answer -m m --base-url http://127.0.0.1:8000/v1 < q

    \b
    Exit status:
      0 done   2 options or rows are wrong   3 some rows failed for now
      4 key absent or refused   5 budget or quota used up   7 teacher unavailable
      12 disk full   129, 130, 143 stopped by a signal   141 the reader went away
    """
    from distillgen.pipe import recipe_of, run
    from distillgen.preparation import prepare_recipe
    from distillgen.report import console
    from distillgen.tally import Tally

    sampling = {"max_tokens": max_tokens, "temperature": temperature}
    recipe, source = recipe_of(
        Path.cwd(),
        model=model,
        teacher={
            "provider": provider,
            "base_url": base_url,
            "sampling": {key: value for key, value in sampling.items() if value is not None},
        },
        step={"prompt": prompt, "samples": samples, "each": each, "labels": labels or []},
        overrides=(*(set_ or ()), *on_budget(budget)),
    )
    prepared = prepare_recipe(
        recipe, source, skip_bad_seeds=skip_bad_seeds, will_ask=not offline, has_student=False,
        allow_unknown_price=allow_unknown_price, state=state,
    )  # fmt: skip
    for warning in prepared.warnings:
        console.say(f"warning: {warning}", style="yellow")
    _say_terms(recipe, source)
    tally = Tally()
    standard_input("generate")
    with contextlib.ExitStack() as files:
        aside = [opened(path, files) for path in (rejected, failed)]

        async def work() -> None:
            out = Outlet(each=line_buffered)
            writer = _Writer(tally, out, *aside)
            async with progress(tally, None, rows_on_stdout=True):
                await pour(run(prepared, tally, writer.write, offline=offline), out)

        run_until_stopped(work(), say_stopping)
    say_notes(tally)
    say_what_was_left_out(tally)
    if tally.passing_failures:
        again = "run it without --offline to ask for them" if offline else "run the same command again to mend them"
        console.say(f"last failure: {tally.last_failure}\n{again}", style="yellow")
        raise typer.Exit(3)


def _say_terms(recipe: "Recipe", source: "Source") -> None:
    """Say in one line that terms or a licence stand against training on the answers, if they do.

    A pipe publishes nothing and stops for nothing; but rows that leave it have no record that would say so later.
    """
    from distillgen.report.console import say
    from distillgen.terms import weigh

    against = [
        each for each in weigh(recipe, source, {"main"}).verdict.judgements
        if each.stance in ("restricted", "prohibited") and not each.is_accepted
    ]  # fmt: skip
    if against:
        said = ", ".join(f"{each.entry.id} ({each.entry.who}, {each.stance})" for each in against)
        say(
            f"terms: training on these answers may not be allowed: {said}; see `distillgen terms {against[0].entry.id}`"
        )


class _Writer:
    """Writes rows to standard output, and what was left out where it was asked for."""

    def __init__(self, tally: "Tally", out: Outlet, rejected: IO[bytes] | None, failed: IO[bytes] | None) -> None:
        self._tally, self._out, self._rejected, self._failed = tally, out, rejected, failed

    async def write(self, outcome: "Outcome") -> None:
        """Write one outcome."""
        from distillgen.files import json_line
        from distillgen.rows import Failure, Rejection, Row

        if isinstance(outcome, Row):
            await self._out.write(json_line(dict(outcome.columns)))
            self._tally.published += 1
        elif isinstance(outcome, Rejection):
            said = {"rule": outcome.rule, "detail": outcome.detail}
            await self._out.put_aside(self._rejected, {**outcome.row.columns, LEFT_OUT: said})
        elif isinstance(outcome, Failure):
            said = {"cause": outcome.cause, "detail": outcome.detail, "attempts": str(outcome.attempts)}
            await self._out.put_aside(self._failed, {**outcome.row.columns, LEFT_OUT: said})
