"""Commands `explain` and `schema`."""

from typing import Annotated

import typer

from distillgen.cli import completion
from distillgen.cli.guard import guarded


@guarded
def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE",
            help="An error's code, or the cause of a failed row.",
            show_default=False,
            autocompletion=completion.codes,
        ),
    ] = None,
) -> None:
    """Explain an error by its code, or list all of them.

    It says what the error means, and what usually mends it.

    \b
    Examples:
      distillgen explain DG403
      distillgen explain not_stored

    \b
    Exit status:
      0 explained   10 no such code or cause
    """
    from distillgen.explanations import explain, explanations
    from distillgen.report.console import safe

    if code is not None:
        for line in explain(code).lines():
            print(safe(line))
        return
    for each in explanations():
        print(safe(f"{each.name:<12} {each.means}"))


@guarded
def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="An output: its command, with a dash between words. Default: the recipe.",
            show_default=False,
        ),
    ] = None,
    is_list: Annotated[bool, typer.Option("--list", help="List what there are schemas of.")] = False,
) -> None:
    """Print the JSON schema of a recipe, or of a command's output.

    Editors complete and check recipe.toml by it: begin the file with `#:schema recipe.schema.json`.

    \b
    Examples:
      distillgen schema > recipe.schema.json
      distillgen schema status   # the shape of `distillgen status --json`
      distillgen schema --list

    \b
    Exit status:
      0 printed   10 there is no output of this name
    """
    import json

    from distillgen.recipe import recipe_schema
    from distillgen.schemas import RECIPE, names, schema_of

    if is_list:
        print(f"{RECIPE:<16} a recipe, recipe.toml")
        for each in names():
            print(f"{each:<16} {schema_of(each)['title']}")
        return
    print(json.dumps(recipe_schema() if name in (None, RECIPE) else schema_of(name), indent=2))
