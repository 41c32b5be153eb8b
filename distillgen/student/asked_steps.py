"""The steps of a recipe that answer a question, and the columns that they read and write."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from distillgen.errors import UsageError
from distillgen.prompts import Prompt, load_prompt
from distillgen.step_settings import GenerateStep, JudgeStep
from distillgen.steps.generate import labels_of, written_columns
from distillgen.student.scratch import prompt_folder

Table: TypeAlias = Mapping[str, Any]


def asking_steps(recipe: Table, prompts: Mapping[str, str], shown: set[str]) -> list[dict[str, Any]]:
    """Return the steps that answer a question: those that make it (what the student is shown) are not among them."""
    kept: list[dict[str, Any]] = []
    lost: set[str] = set()  # columns that steps write which are left out
    with prompt_folder(prompts) as folder:
        for step in recipe["steps"]:
            writes = set(columns_written(step, folder))
            is_asking = step["use"] in ("generate", "judge")
            is_possible = step["use"] == "select" and not {step.get("by"), step.get("where")} & lost
            if (is_asking and not writes & shown) or is_possible:
                kept.append(dict(step))
            else:
                lost |= writes
    if not any(step["use"] == "generate" for step in kept):
        raise UsageError(
            f"no step of {recipe.get('name')} answers what the student is shown",
            fix="leave the teacher out: --teacher none",
        )
    if not any(step["use"] == "select" for step in kept):  # nothing chooses among samples: one is asked for
        kept = [_once(step) if step["use"] == "generate" else step for step in kept]
    return kept


def _once(step: dict[str, Any]) -> dict[str, Any]:
    compared = step.get("teacher") if step.get("compare") else None
    first = {"teacher": next(iter(compared))} if compared else {}
    return {**step, "samples": 1, "compare": False, **first}


def columns_written(step: Table, folder: Path) -> list[str]:
    """Return the columns that a step writes."""
    if step["use"] == "generate":
        settings = GenerateStep.model_validate(dict(step))
        return written_columns(load_prompt(settings.prompt, folder), settings)
    if step["use"] in ("judge", "verify"):
        return [str(step.get("write", "score" if step["use"] == "judge" else "verified"))]
    return []


def columns_read(step: Table, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the columns that a step reads, each with the prompt that names it."""
    prompt: Prompt
    settings: GenerateStep | JudgeStep
    if step["use"] == "generate":
        settings = GenerateStep.model_validate(dict(step))
        prompt = load_prompt(settings.prompt, folder)
        given = {*settings.values, *(["labels"] if labels_of(prompt, settings) else [])}
    elif step["use"] == "judge":
        settings = JudgeStep.model_validate(dict(step))
        prompt = load_prompt(settings.prompt or ("judge_pair" if settings.pair else "judge"), folder)
        given = {*settings.values, "rubric", *(["first", "second"] if settings.pair else [])}
        for column in settings.pair or ():
            yield column, prompt.name
    else:
        return
    for variable in sorted(prompt.needs - given):
        yield settings.read.get(variable, variable), prompt.name
