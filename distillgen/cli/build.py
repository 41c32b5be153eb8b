"""Command `build`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillgen.cli import running
from distillgen.cli.guard import as_ours, guarded, project_recipe, run_until_stopped, stoppable
from distillgen.cli.locks import SkipIfLocked, Wait, WaitAtMost, patiently
from distillgen.cli.options import Budget, Limit, Recipe, Set, SkipBad, State, UnknownPrice, on_budget
from distillgen.cli.outcome import Told, conclude, noted
from distillgen.errors import UsageError

if TYPE_CHECKING:
    from distillgen.pipeline import Options, Result
    from distillgen.preparation import Prepared
    from distillgen.tally import Tally


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
    told = Told(as_json)

    def attempt() -> None:
        tally = Tally()
        with on_record(path, state_folder(path.parent, state), metrics, as_ours) as run, noted(run):
            told.follow(tally)
            with stoppable("nothing was sent"):
                prepared = prepare(
                    path, overrides=(*(set_ or ()), *on_budget(budget)), skip_bad_seeds=skip_bad_seeds,
                    will_ask=not offline, allow_unknown_price=allow_unknown_price, state=state,
                )  # fmt: skip
            run.follow(prepared.recipe.name, tally)
            result = _built(prepared, options, tally)
            run.version = result.version.label if result.version else None
            run.unchanged = result.unchanged.label if result.unchanged else None
            told.tell(result)
            conclude(prepared, options, result)

    with told.always():
        patiently(attempt, wait=wait, wait_at_most=wait_at_most, skip_if_locked=skip_if_locked)


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
    return run_until_stopped(running.build(prepared, options, tally), running.say_stopping)
