"""Command `init`."""

from pathlib import Path
from typing import Annotated

import typer

from distillgen.cli import completion
from distillgen.cli.guard import guarded


@guarded
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new project's folder.")] = Path(),
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", metavar="NAME", help="The ready recipe to start from.", autocompletion=completion.recipes
        ),
    ] = "quickstart",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="An embedded model. Default: the recipe's.",
            show_default=False,
            autocompletion=completion.models,
        ),
    ] = None,
) -> None:
    """Create a small project that builds offline.

    It has a commented recipe, seeds, and a place for prompts of your own.

    \b
    Examples:
      distillgen init demo
      distillgen init graded --recipe preference
      distillgen init demo --model smollm2-135m

    \b
    Exit status:
      0 created   2 there is a recipe already, or no such recipe or model
    """
    from distillgen.project import create
    from distillgen.report.console import say
    from distillgen.teacher.models import find_model, is_installed, models

    written = create(folder, recipe, model)
    for path in written:
        say(f"wrote {path}")
    wanted = next((name for name in models() if f'model = "{name}"' in written[0].read_text(encoding="utf-8")), None)
    steps = [f"cd {folder}"] if folder != Path() else []
    if wanted and not is_installed(find_model(wanted)):
        steps.append(f"distillgen teachers install {wanted}   # {find_model(wanted).bytes / 1e6:,.0f} MB, once")
    say("next: " + "\n      ".join([*steps, "distillgen plan", "distillgen build"]))
