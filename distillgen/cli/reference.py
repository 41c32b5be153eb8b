"""Commands `explain` and `schema`."""

from typing import Annotated

import typer

from distillgen.cli.guard import guarded


@guarded
def explain(
    code: Annotated[
        str | None,
        typer.Argument(metavar="CODE", help="An error's code, or the cause of a failed row.", show_default=False),
    ] = None,
) -> None:
    """Explain an error by its code: what it means, and what usually mends it; without a code list all of them.

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
def schema() -> None:
    """Print the JSON schema of a recipe, for editors that complete and check TOML.

    \b
    Examples:
      distillgen schema > recipe.schema.json   # then begin recipe.toml with: #:schema recipe.schema.json

    \b
    Exit status:
      0 printed
    """
    import json

    from distillgen.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))
