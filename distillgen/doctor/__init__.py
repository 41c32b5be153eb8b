"""Looks for what would stop a build on this machine, and says how to mend it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from distillgen.doctor import ages, endpoints, folders, keys, network, packages, running, terminal
from distillgen.doctor.findings import LEVELS, Finding, Level, broken, note, well
from distillgen.errors import DistillgenError
from distillgen.recipe import Recipe, Source, read_recipe
from distillgen.state import state_folder

__all__ = ["LEVELS", "Finding", "Level", "examine"]


def examine(recipe: Path | None, state: Path | None = None) -> Iterator[Finding]:
    """Yield what is found, as it is found: the machine first, then what a recipe needs.

    `state` is the state folder (--state); default: DISTILLGEN_STATE, else beside the recipe.
    """
    now = datetime.now(UTC)
    found: tuple[Recipe, Source] | None = None
    trouble: list[Finding] = []
    if recipe is None:
        trouble = [note("recipe", "no recipe.toml here: only the machine was looked at", "distillgen doctor RECIPE")]
    else:
        try:
            found = read_recipe(recipe)
        except DistillgenError as error:
            trouble = list(_problems(recipe, error))
    project = found[1].folder if found else None
    yield from packages.examine()
    yield from folders.examine(project, None if project is None else state_folder(project, state))
    yield from network.examine()
    yield from terminal.examine()
    yield from ages.of_tables(now, is_needed=found is not None)
    yield from trouble
    if found is None:
        yield network.clock(now, [])
        return
    yield from _needs(*found, state, now)


def _needs(recipe: Recipe, source: Source, state: Path | None, now: datetime) -> Iterator[Finding]:
    """Yield what is found of a recipe: its teachers' keys, prices, terms and addresses, and what is under way."""
    yield well("recipe", f"{source.path}: {recipe.name}")
    yield from running.examine(source.folder, state)
    yield from keys.examine(recipe.teachers, source.folder)
    yield from ages.of_teachers(recipe, source, now)
    answered = endpoints.ask(recipe.teachers, source.folder)
    yield from endpoints.examine(recipe.teachers, source.folder, answered)
    yield network.clock(now, [heard.clock for heard in answered.values() if heard.clock is not None])


def _problems(recipe: Path, error: DistillgenError) -> Iterator[Finding]:
    for problem in error.problems:
        where = problem.where or str(recipe)
        yield broken(
            "recipe", f"{where}: {error.code} {problem.what}", problem.fix or f"distillgen explain {error.code}"
        )
