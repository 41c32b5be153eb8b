"""The options that commands which run a recipe share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from distillgen.cli import completion

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


Accept = Annotated[
    list[str] | None,
    typer.Option("--accept", metavar="ID", help="Terms that you take upon yourself, as in [terms] accept."),
]


def purpose(help_: str) -> Any:
    """Return the option that says what something is for."""
    words = completion.one_of(*completion.PURPOSES)
    return typer.Option("--purpose", metavar="PURPOSE", show_default=False, autocompletion=words, help=help_)


def competing(help_: str) -> Any:
    """Return the option that says whether the student competes."""
    words = completion.one_of(*completion.COMPETING)
    return typer.Option("--competing", metavar="WORD", show_default=False, autocompletion=words, help=help_)


def on_budget(usd: float | None) -> tuple[str, ...]:
    """Return the override that --budget stands for."""
    return () if usd is None else (f"budget.usd={float(usd)}",)
