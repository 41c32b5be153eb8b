"""What somebody wants to know of a student, and what it is asked about by: the version and the recipe behind it."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distillgen.dataset.versions import Version, find_version
from distillgen.errors import NotFound, UsageError
from distillgen.prompts import load_prompt
from distillgen.recipe import read_recipe
from distillgen.student import scores
from distillgen.student.base import Base
from distillgen.student.contestants import NOBODY
from distillgen.student.folder import Student
from distillgen.student.questions import is_file

TIMED = 60  # questions asked anew for the clock
Measure = Literal["auto", "label", "exact", "number", "math", "json"]


@dataclass(frozen=True)
class EvaluationRequest:
    """What somebody wants to know of a student.

    `on` is a file of questions or a split of the student's version; `project` the folder that holds `datasets`, against
    which the recipe's own paths are read. `teacher`: None is the recipe's own, "none" nobody. `time` is how many
    questions are asked anew for the clock. `usd_per_hour` is what the machine costs. `budget` is in US dollars, for
    teacher and judge together.
    """

    student: Student
    on: str
    project: Path
    base: Base | None = None
    why_no_base: str = ""
    teacher: str | None = None
    gold: str | None = None
    measure: Measure = "auto"
    judge: str | None = None
    limit: int | None = None
    time: int = TIMED
    equal_prompts: bool = False
    by: str | None = None
    usd_per_hour: float | None = None
    max_tokens: int | None = None
    recipe: Path | None = None
    state: Path | None = None
    budget: float | None = None
    may_be_unpriced: bool = False
    bootstrap: scores.Bootstrap = field(default_factory=scores.Bootstrap)


def version_for(request: EvaluationRequest) -> Version | None:
    """Return the version that the student was trained on. None where it is not here and can be done without: the
    questions are a file, and the teacher, whom another project may have paid, is not asked."""
    try:
        return version_of(request.student, request.project)
    except NotFound:
        if request.teacher == NOBODY and is_file(request.on):
            return None
        raise


def version_of(student: Student, project: Path) -> Version:
    """Return the version that a student was trained on, found by its digest: its rows are not asked.

    Raises NotFound with what to do about it.
    """
    made_of = student.manifest.dataset
    name, digest = made_of["name"], made_of["digest"]
    with contextlib.suppress(NotFound):
        return find_version(f"{name}@sha256:{digest}", project / "datasets")
    raise NotFound(
        f"the student was trained on {name}@{made_of['version']} ({digest[:12]}), which is not in this project",
        where=str(project / "datasets"),
        fix="name the project that has it (--project DIR), or fetch the version (distillgen pull); or measure without "
        "it: --on FILE --teacher none",
    )


def recipe_of(request: EvaluationRequest, version: Version | None) -> tuple[Mapping[str, Any], Mapping[str, str], Path]:
    """Return the recipe by which the teacher is asked, its prompts, and the folder that its paths start from."""
    kept = request.student.manifest.dataset
    made_by = version.manifest.recipe if version is not None else kept.get("recipe") or {}
    if request.recipe is None:
        prompts = version.manifest.prompts if version is not None else kept.get("prompts") or {}
        return made_by, prompts, request.project
    recipe, source = read_recipe(request.recipe)
    if "mix" not in made_by and recipe.name != kept["name"]:
        raise UsageError(
            f"the student was trained on {kept['name']}, this is the recipe of {recipe.name}", where=str(source.path),
            fix="leave --recipe out: the version holds its own",
        )  # fmt: skip
    named = {name for step in recipe.steps if isinstance(name := getattr(step, "prompt", None), str)}
    own = {name: load_prompt(name, source.folder).source for name in sorted(named)}
    return recipe.model_dump(mode="json", exclude_unset=True), own, source.folder
