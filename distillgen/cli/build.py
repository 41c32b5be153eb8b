"""Commands `plan` and `build`."""

import contextlib
import gc
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli.guard import guarded, project_recipe, run_until_stopped
from distillgen.cli.locks import SkipIfLocked, Wait, WaitAtMost, patiently
from distillgen.errors import DistillgenError, Locked, UsageError

if TYPE_CHECKING:
    from distillgen.last_run import LastRun
    from distillgen.pipeline import Options, Result
    from distillgen.preparation import Prepared
    from distillgen.tally import Tally
    from distillgen.teacher.batch import Pending

Recipe = Annotated[
    Path | None,
    typer.Argument(
        metavar="RECIPE", help="A recipe, or a folder with recipe.toml. Default: ./recipe.toml.", show_default=False
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the recipe for this run, e.g. steps.0.samples=4."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, metavar="N", help="Take the first N seeds only; the version is marked partial. Default: all."
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad-seeds", help="Go over seed lines that cannot be read; they are counted.")
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="Keep answers and locks there. Default: DISTILLGEN_STATE, else .distillgen beside the recipe.",
        show_default=False,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        metavar="USD",
        help="Spend at most so many US dollars in this run. Default: the recipe's.",
        show_default=False,
    ),
]
UnknownPrice = Annotated[
    bool, typer.Option("--allow-unknown-price", help="On a budget, ask teachers too whose price is not known.")
]


@guarded
def build(
    recipe: Recipe = None,
    limit: Limit = None,
    publish: Annotated[
        bool, typer.Option("--publish/--no-publish", help="Without publishing: show rows, keep the answers.")
    ] = True,
    offline: Annotated[bool, typer.Option("--offline", help="Make no call: stored answers only.")] = False,
    budget: Budget = None,
    publish_partial: Annotated[
        bool,
        typer.Option(
            "--publish-partial", help="When budget, quota or teacher end the run: publish the seeds decided so far."
        ),
    ] = False,
    allow_unknown_price: UnknownPrice = False,
    prefer_first: Annotated[
        bool,
        typer.Option("--prefer-first", help="Of several teachers ask the first, even where another has answered."),
    ] = False,
    skip_bad_seeds: SkipBad = False,
    state: State = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics", metavar="FILE", show_default=False,
            help="Write figures of the run there as OpenMetrics text, for a node exporter.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came of it as JSON, for programs.")] = False,
    set_: Set = None,
    wait: Wait = False,
    wait_at_most: WaitAtMost = None,
    skip_if_locked: SkipIfLocked = False,
) -> None:  # fmt: skip
    """Run a recipe and publish a dataset version.

    The same command goes on after any stop. Every reply is on disk before it is used: nothing paid for is lost,
    nothing is paid for twice.

    \b
    Examples:
      distillgen build
      distillgen build --limit 5 --no-publish
      distillgen build --budget 2.50 --publish-partial
      distillgen build my/recipe.toml --set teachers.main.epoch=1
      distillgen build /srv/demo --quiet --skip-if-locked --log-file build.log

    \b
    Exit status:
      0 done, also when nothing changed
      2 recipe, seeds or files are wrong; nothing was sent
      3 unfinished: run it again, or a batch is under way
      4 key absent or refused   5 budget or quota used up
      6 no row to publish   7 teacher unavailable
      8 a file is damaged   9 terms not accepted
      11 another build is running
      12 disk full   129, 130, 143 stopped by a signal
    """
    from distillgen.last_run import on_record
    from distillgen.pipeline import Options
    from distillgen.preparation import prepare
    from distillgen.recipe import recipe_file
    from distillgen.state import state_folder
    from distillgen.tally import Tally

    path = recipe_file(project_recipe(recipe))
    options = Options(
        limit=limit, publish=publish, offline=offline, publish_partial=publish_partial, prefer_first=prefer_first
    )
    told = _Told(as_json)

    def attempt() -> None:
        tally = Tally()
        with on_record(path, state_folder(path.parent, state), metrics) as run, _noted(run), told.unless_locked(tally):
            prepared = prepare(
                path, overrides=(*(set_ or ()), *on_budget(budget)), skip_bad_seeds=skip_bad_seeds,
                will_ask=not offline, allow_unknown_price=allow_unknown_price, state=state,
            )  # fmt: skip
            run.follow(prepared.recipe.name, tally)
            result = _built(prepared, options, tally)
            run.version = result.version.label if result.version else None
            run.unchanged = result.unchanged.label if result.unchanged else None
            told.tell(result)
            _conclude(prepared, options, result)

    with told.always():
        patiently(attempt, wait=wait, wait_at_most=wait_at_most, skip_if_locked=skip_if_locked)


class _Told:
    """What came of a build as one document on standard output, however it ends; printed once, and only if asked for."""

    def __init__(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted

    def tell(self, result: "Result") -> None:
        """Print what came of it."""
        from distillgen.schemas import document

        if self._is_wanted:
            self._is_wanted = False
            print(document("build", outcome(result)))

    @contextlib.contextmanager
    def unless_locked(self, tally: "Tally") -> Iterator[None]:
        """Tell of an error that ends a block, with the figures so far; a lock may be free the next time."""
        from distillgen.pipeline import Result

        try:
            yield
        except Locked:
            raise
        except DistillgenError as error:
            self.tell(Result(None, None, tally, stop=error))
            raise

    @contextlib.contextmanager
    def always(self) -> Iterator[None]:
        """Tell of a build that did not begin because another one is at work."""
        from distillgen.pipeline import Result
        from distillgen.tally import Tally

        not_begun = Result(None, None, Tally(), stop=Locked("another build is at work"))
        try:
            yield
        except Locked:
            self.tell(not_begun)
            raise
        self.tell(not_begun)  # skipped; what came of any other has been told


@contextlib.contextmanager
def _noted(run: "LastRun") -> Iterator[None]:
    """Note a run's figures in the log when a block ends, however it ends."""
    from distillgen.report.console import note

    try:
        yield
    finally:
        run.count()
        figures = run.model_dump(include={
            "dataset", "version", "unchanged", "seeds", "rows", "rejected", "failed", "calls", "prompt_tokens",
            "completion_tokens", "usd", "unpriced_calls",
        })  # fmt: skip
        words = (
            f"{run.rows:,} rows, {run.rejected:,} rejected, {run.failed:,} failed, {run.calls:,} calls, ${run.usd:,.4f}"
        )
        note(words, event="run", **figures)


def _built(prepared: "Prepared", options: "Options", tally: "Tally") -> "Result":
    """Build; say before it what should be known."""
    from distillgen.report import console

    if options.publish_partial and prepared.seeds.is_stdin:
        raise UsageError(
            "--publish-partial goes over the seeds a second time, and a pipe comes once",
            fix="put the seeds into a file",
        )
    for warning in prepared.cleared():
        console.say(f"warning: {warning}", style="yellow")
    return run_until_stopped(_build(prepared, options, tally), say_stopping)


def say_notes(tally: "Tally") -> None:
    """Print what somebody should know of the teachers of a run."""
    from distillgen.report.console import say

    for note in dict.fromkeys(note for teacher in tally.teachers.values() for note in teacher.notes):
        say(f"warning: {note}", style="yellow")


def say_stopping() -> None:
    """Say what the first Ctrl-C does."""
    from distillgen.report.console import say

    say("stopping: what is under way is received and stored; once more to leave at once")


def on_budget(usd: float | None) -> tuple[str, ...]:
    """Return the override that --budget stands for."""
    return () if usd is None else (f"budget.usd={float(usd)}",)


def outcome(result: "Result") -> dict[str, Any]:
    """Return what came of a build, for programs."""
    tally = result.tally
    return {
        "version": result.version.label if result.version else None,
        "unchanged": result.unchanged.label if result.unchanged else None,
        "ends": result.ends or None,
        "stopped_by": result.stop.code if result.stop else None,
        "rows": result.version.manifest.rows if result.version else tally.published,
        "rejected": tally.rejected,
        "failed": tally.failed,
        "calls": tally.calls,
        "usd": tally.usd,
        "unpriced_calls": tally.unpriced,
        "pending": [_pending(batch) for batch in result.pending],
    }


def _pending(batch: "Pending") -> dict[str, Any]:
    from distillgen.files import utc

    submitted = None if batch.submitted_at is None else utc(batch.submitted_at)
    return {**asdict(batch), "id": batch.id or None, "reason": batch.reason or None, "submitted_at": submitted}


async def _build(prepared: "Prepared", options: "Options", tally: "Tally") -> "Result":
    from distillgen import pipeline

    total = prepared.seed_count
    if total is not None and options.limit is not None:
        total = min(total, options.limit)
    async with progress(tally, total, rows_on_stdout=False):
        return await pipeline.build(prepared, options, tally)


def progress(tally: "Tally", total: int | None, *, rows_on_stdout: bool) -> AbstractAsyncContextManager[None]:
    """Return what shows a run's progress while it goes on, and make room for the run."""
    from distillgen.report.progress import Progress

    _collect_less()
    return Progress(tally, total, rows_on_stdout=rows_on_stdout).shown()


def _collect_less() -> None:
    """Thousands of rows are under way at once; to look through them for cycles all the time cost a third of a run."""
    gc.freeze()
    gc.set_threshold(500_000, 50, 100)


def _conclude(prepared: "Prepared", options: "Options", result: "Result") -> None:
    """Print the summary, three rows, and the next commands; exit 3 when a rerun may mend rows."""
    from distillgen.report import console
    from distillgen.report.progress import summary
    from distillgen.report.tables import conversation

    say_notes(result.tally)
    for warning in result.warnings:
        console.say(f"warning: {warning}", style="yellow")
    if result.pending:
        for batch in result.pending:
            name = f"batch {batch.id}" if batch.id else "requests not sent yet"
            reason = f"; {batch.reason}" if batch.reason else ""
            told = f"{name}: {batch.status}, {batch.completed:,} of {batch.requests:,} answered{reason}"
            console.say(told, event="batch", **_pending(batch))
        if held := result.tally.causes["over_budget"]:
            console.say(f"{held:,} requests wait for another run: the budget of this one does not allow them")
        console.say("nothing is published before these are in: run the same command again later", style="yellow")
        raise typer.Exit(3)
    out = console.stderr()
    summary(result.tally, skipped=result.tally.skipped_seeds)
    for row in result.tally.samples:
        for line in conversation(row):
            out.print(line)
    counts = result.version.manifest.splits if result.version is not None else result.tally.splits
    splits = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    rows = f"{console.number(sum(counts.values()), 'row')} ({splits})"
    if result.version is not None:
        label = f"{result.version.label}{ENDS[result.ends]}"
        console.say(
            f"published {label}: {rows} in {_short(result.version.folder)}", style="bold green", event="published",
            version=result.version.label, rows=sum(counts.values()), splits=dict(counts),
        )  # fmt: skip
        console.say(_next(prepared))
    elif result.unchanged is not None:
        console.say(
            f"nothing changed: {result.unchanged.label} has this content, nothing published", style="bold green",
            event="unchanged", version=result.unchanged.label,
        )  # fmt: skip
    else:
        console.say(f"not published, as asked: {rows}; the answers are kept", style="bold")
    if result.stop is not None:
        raise result.stop
    if result.tally.passing_failures:
        console.say(
            f"{console.number(result.tally.passing_failures, 'row')} failed for reasons that may pass; "
            f"last: {result.tally.last_failure}\nrun the same command again to mend them",
            style="yellow",
        )
        raise typer.Exit(3)


ENDS = {
    "": "",
    "limit": " (partial: --limit)",
    "target_rows": " (as many seeds as target_rows needs)",
    "stopped": " (partial: the seeds decided so far)",
}


def _next(prepared: "Prepared") -> str:
    name, folder = prepared.recipe.name, prepared.source.folder
    project = "" if folder == Path.cwd() else f" --project {_short(folder)}"
    return (
        f"next: distillgen show {name}{project}\n"
        f"      distillgen export {name}{project} --format messages -o DIR\n"
        f"      distillgen log{project}"
    )


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


@guarded
def plan(
    recipe: Recipe = None,
    limit: Limit = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", min=1, metavar="N", show_default=False,
            help="Ask for the first N seeds, keep the answers, and plan from what they used. This costs money.",
        ),
    ] = None,
    budget: Budget = None,
    allow_unknown_price: UnknownPrice = False,
    skip_bad_seeds: SkipBad = False,
    state: State = None,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:  # fmt: skip
    """Show what a build would do before anything is sent.

    It counts rows, stored answers, calls and tokens, gives a price range, and renders the first prompt of each step.

    \b
    Examples:
      distillgen plan
      distillgen plan --sample 20
      distillgen plan recipe.toml --json

    \b
    Exit status:
      0 the recipe can run   2 it cannot
      3 --sample: answers are missing   4 key absent or refused
      5 budget or quota used up   7 teacher unavailable
      8 a file is damaged   9 terms not accepted
      11 another build is running
      12 disk full   129, 130, 143 stopped by a signal
    """
    import asyncio

    from distillgen.pipeline import Options
    from distillgen.planning import foresee
    from distillgen.preparation import prepare
    from distillgen.report import console
    from distillgen.schemas import document
    from distillgen.tally import Tally

    prepared = prepare(
        project_recipe(recipe), overrides=(*(set_ or ()), *on_budget(budget)), skip_bad_seeds=skip_bad_seeds,
        will_ask=sample is not None, allow_unknown_price=allow_unknown_price, state=state,
    )  # fmt: skip
    if sample is not None:
        if prepared.terms is not None:
            prepared.terms.require()
        run_until_stopped(_build(prepared, Options(limit=sample, publish=False), Tally()), say_stopping)
    outlook = asyncio.run(foresee(prepared, Options(limit=limit, offline=True)))
    if as_json:
        print(document("plan", outlook))
        return
    for warning in prepared.warnings:
        console.say(f"warning: {warning}", style="yellow")
    print(console.safe(f"recipe   {prepared.recipe.name} ({prepared.source.path})"))
    for line in _outlook(outlook):
        print(console.safe(line))


def _outlook(outlook: dict[str, Any]) -> Iterator[str]:
    """Yield a plan as lines for people."""
    skipped = f" ({outlook['skipped_seeds']:,} bad ones skipped)" if outlook["skipped_seeds"] else ""
    yield f"seeds    {outlook['seeds']:,}{skipped}"
    if any(outlook["left_out"].values()):
        words = ", ".join(f"{count:,} {rule}" for rule, count in outlook["left_out"].items() if count)
        yield f"left out {words}: no teacher is asked about them"
    for step in outlook["steps"]:
        words = f"{step['stored']:,} answers stored, {step['calls']:,} calls" if step["calls"] is not None else ""
        words += (
            f"the first of up to {step['rounds']:,} rounds, each of as many calls" if step["rounds"] is not None else ""
        )
        more = f", and up to {step['more']:,} more for rows that have no answer yet" if step["more"] else ""
        yield f"{step['step']:<8} {words}{more}".rstrip()
    for teacher in outlook["teachers"]:
        yield f"teacher  {teacher['teacher']} ({teacher['model']}): {_asked_of(teacher)}"
    if any(step["calls"] for step in outlook["steps"]):
        yield f"cost     {_price(outlook['usd'])}"
    if outlook["target_rows"]:
        yield f"target   {outlook['target_rows']:,} rows: asking stops there, the figures above are for all seeds"
    if outlook["builds"] > 1:
        yield f"builds   {outlook['builds']}: each batch is collected by a later one, and asks for the next step"
    for name, usd in outlook["budget"].items():
        if usd is not None:
            yield f"budget   {name} = {usd:g}"
    yield from _terms_of(outlook["terms"])
    for prompt in outlook["prompts"]:
        yield f"\n── {prompt['step']}, prompt {prompt['prompt']}; the first:"
        for turn in prompt["messages"]:
            yield f"{turn['role']}: {turn['content']}"


def _terms_of(terms: dict[str, Any]) -> Iterator[str]:
    """Yield what the terms of the teachers mean, the strictest first."""
    yield f"terms    {terms['stance']} for the purpose {terms['purpose']} (competing: {terms['competing']})"
    yield from (f"         {reason}" for reason in terms["reasons"])
    yield from (f"         condition: {text}" for text in terms["conditions"])
    if terms["stops"]:
        yield f"         a build stops until [terms] accept has {', '.join(terms['stops'])}"
    yield f"         {terms['advice']}"


def _asked_of(teacher: dict[str, Any]) -> str:
    if not teacher["calls"]:
        return "no calls"
    (prompt, most_prompt), (reply, most_reply) = teacher["prompt_tokens"], teacher["completion_tokens"]
    replies = f"{reply:,} to {most_reply:,}" if most_reply is not None else f"{reply:,} or more (no max_tokens)"
    words = f"{teacher['calls']:,} different calls, tokens {prompt:,} to {most_prompt:,} in, {replies} out"
    prices = teacher["prices"] or "nowhere: unknown"
    priced = "free of charge" if prices == "free" else f"prices from {prices}"
    words += f"\n         tokens from {teacher['tokens_from']}; {priced}"
    words += f"\n         cost {_price(teacher['usd'])}"
    at_once = teacher["in_flight_on_budget"]
    if at_once == 0:
        words += "\n         what is left of the budget does not pay for one of them at its worst case"
    elif at_once:
        words += f"\n         the budget's reservations allow {at_once:,} in flight at the worst case of each"
    return words


def _price(usd: list[float | None] | None) -> str:
    """Return a price range in words."""
    if usd is None:
        return "unknown: a price is not known"
    low, high = usd
    if low == high == 0:
        return "nothing"
    return f"${low:,.4f} to ${high:,.4f}" if high is not None else f"${low:,.4f} or more (no max_tokens)"
