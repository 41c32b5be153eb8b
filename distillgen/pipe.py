"""The command `generate`: seeds from a pipe through one teacher to a pipe, streamed, in order, with the same store."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from distillgen.errors import UsageError, nearest
from distillgen.pipeline import Options, set_out
from distillgen.preparation import Prepared
from distillgen.recipe import Recipe, Source, check_recipe
from distillgen.rows import Outcome
from distillgen.tally import Tally
from distillgen.teacher import open_teachers, providers
from distillgen.teacher.answers import AnswerStore

NAME = "generate"
OPTIONS = {
    "steps[0]": "--prompt", "steps[0].prompt": "--prompt", "steps[0].samples": "--samples", "steps[0].each": "--each",
    "steps[0].labels": "--label", "teachers.main.provider": "--provider", "teachers.main.base_url": "--base-url",
    "teachers.main.model": "--model", "teachers.main.sampling.max_tokens": "--max-tokens",
    "teachers.main.sampling.temperature": "--temperature", "budget.usd": "--budget",
}  # fmt: skip


def recipe_of(
    folder: Path, *, model: str, teacher: Mapping[str, Any], step: Mapping[str, Any], overrides: tuple[str, ...]
) -> tuple[Recipe, Source]:
    """Return the recipe that the options stand for: one step, seeds from standard input.

    `model` may be PROVIDER/MODEL. Raises UsageError or RecipeInvalid.
    """
    provider, slash, name = model.partition("/")
    known = [*providers.presets(), providers.EMBEDDED]
    whom = {key: value for key, value in teacher.items() if value not in (None, {})}
    if "provider" not in whom and "base_url" not in whom:
        if not slash or provider not in known:
            raise UsageError(
                f"whom to ask? --model {model!r} names no provider",
                fix=f"--model PROVIDER/MODEL, or --provider, or --base-url ({nearest(provider, known)})",
            )
        whom["provider"], model = provider, name
    table = {
        "name": NAME,
        "seeds": {"path": "-"},
        "teachers": {"main": {**whom, "model": model}},
        "steps": [{"use": "generate", **{key: value for key, value in step.items() if value not in (None, [])}}],
    }
    recipe, source = check_recipe(table, folder / "options", overrides=overrides, options=OPTIONS)
    if recipe.teachers["main"].mode == "batch":
        raise UsageError("a pipe does not wait a day for a batch", fix="use `distillgen build` with a recipe")
    return recipe, source


async def run(
    prepared: Prepared, tally: Tally, write: Callable[[Outcome], Awaitable[None]], *, offline: bool = False
) -> None:
    """Hand every outcome to `write`, in the order of the seeds. Raises DistillgenError."""
    with contextlib.closing(AnswerStore(prepared.state / "answers.sqlite")) as store:
        store.take_in_notes()
        async with open_teachers(
            prepared.recipe, prepared.source, prepared.teachers_used, store, state=prepared.state, offline=offline
        ) as teachers:
            tally.teachers = teachers
            steps = prepared.steps(teachers)  # one, which holds nothing
            outcomes = set_out(prepared, Options(), tally, teachers, steps)
            async with contextlib.aclosing(outcomes):
                async for outcome in outcomes:
                    await write(outcome)
