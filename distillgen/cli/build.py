"""Commands `plan`, `build` and `status`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillgen.cli.guard import guarded, project_recipe, run_until_stopped

if TYPE_CHECKING:
    from distillgen.pipeline import Options, Result
    from distillgen.preparation import Prepared

Recipe = Annotated[
    Path | None,
    typer.Argument(help="A recipe, or a folder with recipe.toml. Default: ./recipe.toml", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the recipe for this run, e.g. steps.0.samples=4."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="Use the first N seeds only; the version is marked partial."),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad-seeds", help="Go over seed lines that cannot be read; they are counted.")
]


@guarded
def build(
    recipe: Recipe = None,
    limit: Limit = None,
    publish: Annotated[
        bool, typer.Option("--publish/--no-publish", help="Without publishing: show rows, keep the answers.")
    ] = True,
    offline: Annotated[bool, typer.Option("--offline", help="Make no call: stored answers only.")] = False,
    skip_bad_seeds: SkipBad = False,
    set_: Set = None,
) -> None:
    """Run a recipe and publish a dataset version; the same command goes on after any stop.

    Every reply is on disk before it is used: nothing paid for is lost, nothing is paid for twice.

    \b
    Examples:
      distillgen build
      distillgen build --limit 5 --no-publish
      distillgen build my/recipe.toml --set teachers.main.epoch=1

    \b
    Exit status:
      0 done, also when nothing changed
      2 recipe, seeds or files are wrong; nothing was sent
      3 unfinished: run it again
      4 key absent or refused   5 quota used up
      6 no row to publish   7 teacher unavailable
      8 a file is damaged   11 another build is running
      12 disk full   129, 130, 143 stopped by a signal
    """
    from distillgen.pipeline import Options
    from distillgen.preparation import prepare
    from distillgen.report import console

    prepared = prepare(
        project_recipe(recipe), overrides=tuple(set_ or ()), skip_bad_seeds=skip_bad_seeds, will_ask=not offline
    )
    for warning in prepared.warnings:
        console.say(f"warning: {warning}", style="yellow")
    options = Options(limit=limit, publish=publish, offline=offline)
    result = run_until_stopped(
        _build(prepared, options),
        lambda: console.say("stopping: what is under way is received and stored; once more to leave at once"),
    )
    _conclude(prepared, options, result)


async def _build(prepared: "Prepared", options: "Options") -> "Result":
    from distillgen import pipeline
    from distillgen.report.console import Progress
    from distillgen.tally import Tally

    tally = Tally()
    total = prepared.seed_count
    if total is not None and options.limit is not None:
        total = min(total, options.limit)
    async with Progress(tally, total).shown():
        return await pipeline.build(prepared, options, tally)


def _conclude(prepared: "Prepared", options: "Options", result: "Result") -> None:
    """Print the summary, three rows, and the next commands; exit 3 when a rerun may mend rows."""
    from distillgen.report import console

    out = console.stderr()
    console.summary(result.tally, skipped=result.tally.skipped_seeds)
    for row in result.tally.samples:
        for line in console.conversation(row):
            out.print(line)
    splits = ", ".join(f"{count:,} {name}" for name, count in result.tally.splits.items())
    rows = f"{console.number(result.tally.published, 'row')} ({splits})"
    if result.version is not None:
        label = f"{result.version.label}{' (partial: --limit)' if options.limit is not None else ''}"
        console.say(f"published {label}: {rows} in {_short(result.version.folder)}", style="bold green")
        console.say(_next(prepared))
    elif result.unchanged is not None:
        console.say(
            f"nothing changed: {result.unchanged.label} has this content, nothing published", style="bold green"
        )
    else:
        console.say(f"not published, as asked: {rows}; the answers are kept", style="bold")
    if result.tally.passing_failures:
        console.say(
            f"{console.number(result.tally.passing_failures, 'row')} failed for reasons that may pass; "
            f"last: {result.tally.last_failure}\nrun the same command again to mend them",
            style="yellow",
        )
        raise typer.Exit(3)


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
    skip_bad_seeds: SkipBad = False,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """Show what a build would do before anything is sent: rows, stored answers, calls, a rendered prompt.

    \b
    Examples:
      distillgen plan
      distillgen plan recipe.toml --json

    \b
    Exit status:
      0 the recipe can run   2 it cannot
    """
    import asyncio

    from distillgen.pipeline import Options, foresee
    from distillgen.preparation import prepare
    from distillgen.report import console

    prepared = prepare(
        project_recipe(recipe), overrides=tuple(set_ or ()), skip_bad_seeds=skip_bad_seeds, will_ask=False
    )
    outlook = asyncio.run(foresee(prepared, Options(limit=limit, offline=True)))
    if as_json:
        print(json.dumps(outlook, ensure_ascii=False, indent=2))
        return
    for warning in prepared.warnings:
        console.say(f"warning: {warning}", style="yellow")
    print(console.safe(f"recipe   {prepared.recipe.name} ({prepared.source.path})"))
    print(
        f"seeds    {outlook['seeds']:,}"
        + (f" ({outlook['skipped_seeds']:,} bad ones skipped)" if outlook["skipped_seeds"] else "")
    )
    for step in outlook["steps"]:
        words = f"{step['stored']:,} answers stored, {step['calls']:,} calls" if "calls" in step else ""
        more = f", and up to {step['more']:,} more for rows that have no answer yet" if step.get("more") else ""
        print(console.safe(f"{step['step']:<8} {words}{more}".rstrip()))
    for prompt in outlook["prompts"]:
        who = f"{prompt['step']} asks {prompt['teacher']} ({prompt['model']})"
        print(console.safe(f"\n── {who}, prompt {prompt['prompt']}; the first:"))
        for turn in prompt["messages"]:
            print(console.safe(f"{turn['role']}: {turn['content']}"))


@guarded
def status(
    project: Annotated[Path, typer.Option("--project", help="The project's folder.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """Show who is at work in a project, how many answers are stored, and its newest versions.

    \b
    Examples:
      distillgen status
      distillgen status --project my/project --json

    \b
    Exit status:
      0 always, unless the store cannot be read (8)
    """
    from distillgen.dataset.versions import latest
    from distillgen.files import holder
    from distillgen.report import console
    from distillgen.teacher.answers import AnswerStore

    state = project / ".distillgen"
    answers = 0
    if (state / "answers.sqlite").is_file():
        store = AnswerStore(state / "answers.sqlite")
        answers = store.count()
        store.close()
    at_work = holder(state / "lock")
    homes = sorted(entry for entry in (project / "datasets").glob("*") if entry.is_dir())
    found = {home.name: version for home in homes if (version := latest(home)) is not None}
    if as_json:
        versions = {
            name: {"version": v.manifest.version, "rows": v.manifest.rows, "run": v.manifest.run}
            for name, v in found.items()
        }
        print(json.dumps({"at_work": at_work, "stored_answers": answers, "datasets": versions}, indent=2))
        return
    print(console.safe(f"at work   {at_work or 'nobody'}"))
    print(f"answers   {answers:,} stored")
    for version in found.values():
        when = version.manifest.run.get("finished", "at an unknown time")
        print(console.safe(f"dataset   {version.label}: {version.manifest.rows:,} rows, published {when}"))
    if not found:
        print("dataset   none published yet")
