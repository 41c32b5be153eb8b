"""Checks a recipe whole, with its seeds, steps, student and teachers, before anything is sent; readies its steps."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from distillgen.checking import Check, Maker, Means
from distillgen.dataset.training_rows import StudentTemplates
from distillgen.dataset.versions import latest
from distillgen.earlier import Place
from distillgen.errors import DistillgenError, Problem, RecipeInvalid
from distillgen.excluded import Entry, Excluded, read_excluded, read_forgotten
from distillgen.prompts import Prompt, Template
from distillgen.recipe import Key, Recipe, Source, read_recipe
from distillgen.seeds import SeedReader
from distillgen.shapes import Step
from distillgen.state import require_local, state_folder
from distillgen.step_settings import GenerateStep, JudgeStep
from distillgen.teacher import Teacher
from distillgen.teacher.checks import check_teachers
from distillgen.terms import Terms, weigh, wrong_terms


@dataclass
class Prepared:
    """A recipe that can run: everything that can be known before the first seed is read."""

    recipe: Recipe
    source: Source
    state: Path  # the folder of the answer store, locks and logs
    seeds: SeedReader
    seed_count: int | None
    prompts: dict[Key, Prompt]
    makers: list[Maker]
    student: StudentTemplates
    warnings: list[Problem] = field(default_factory=list)
    terms: Terms | None = None  # None where nothing is published
    exclude: Mapping[str, Entry] = field(default_factory=dict)  # what [dataset] exclude names

    @property
    def datasets(self) -> Path:
        """The folder of published datasets."""
        return self.source.folder / "datasets"

    @property
    def home(self) -> Path:
        """The folder of this recipe's dataset."""
        return self.datasets / self.recipe.name

    @property
    def teachers_used(self) -> set[str]:
        """The keys in [teachers] of those that a step asks."""
        asking = [step for _, step in self.recipe.all_steps() if isinstance(step, GenerateStep | JudgeStep)]
        return {name for step in asking for name in self.recipe.teachers_of(step)}

    def steps(
        self, teachers: Mapping[str, Teacher], *, prefer_first: bool = False, left_out: Excluded | None = None
    ) -> list[Step]:
        """Return the steps of the road, in order, with their teachers, as if no row had passed them."""
        means = Means(teachers, self.state / "spool", replace(self.place, left_out=left_out), prefer_first)
        return [make(means) for make in self.makers]

    def left_out(self) -> Excluded:
        """Return what a run leaves out: what the recipe names, and what was erased by now. Raises Damaged."""
        if self.terms is None:
            return Excluded()
        return Excluded({**self.exclude, **read_forgotten(self.home)})

    def cleared(self) -> list[Problem]:
        """Return what somebody should know before a build. Raises TermsNotAccepted, and Damaged of `latest`."""
        if self.terms is None:
            return list(self.warnings)
        self.terms.require()
        newest = latest(self.home)
        before = newest.manifest.terms if newest is not None else {}
        return [*self.warnings, *self.terms.warnings(datetime.date.today(), before)]

    @property
    def place(self) -> Place:
        """Where earlier rows are."""
        return Place(self.source.folder, self.home, self.state)


def prepare(
    path: Path, *, overrides: tuple[str, ...] = (), skip_bad_seeds: bool = False, will_ask: bool = True,
    allow_unknown_price: bool = False, state: Path | None = None,
) -> Prepared:  # fmt: skip
    """Read a recipe and check it whole. Nothing is sent, nothing is written.

    Raises one error with every problem found in the recipe, else the first of another kind.
    """
    return prepare_recipe(
        *read_recipe(path, overrides), skip_bad_seeds=skip_bad_seeds, will_ask=will_ask,
        allow_unknown_price=allow_unknown_price, state=state,
    )  # fmt: skip


def prepare_recipe(
    recipe: Recipe, source: Source, *, skip_bad_seeds: bool = False, will_ask: bool = True,
    allow_unknown_price: bool = False, state: Path | None = None, has_student: bool = True,
) -> Prepared:  # fmt: skip
    """Check a recipe whole, but for its student where none will see the rows. Raises as `prepare` does."""
    check = Check(recipe, source)
    reader = SeedReader(recipe.seeds, source.folder, skip_bad=skip_bad_seeds)
    first = reader.peek()
    columns = None if first is None and reader.is_stdin else dict.fromkeys(first or {})
    check.steps(columns)
    student = check.student() if has_student else StudentTemplates(None, None, Template.parse(""), None, None)
    wrong, warnings = check_teachers(
        recipe, source, check.teachers_used, will_ask=will_ask, allow_unknown_price=allow_unknown_price
    )
    check.problems += [problem for problem in wrong if isinstance(problem, Problem)]
    check.problems += wrong_terms(recipe.terms, source)
    exclude = _excluded(recipe, source, check.problems)
    if columns is not None and not columns:
        reader.check()  # raises: no seed, or none that can be read
    if check.problems:
        raise RecipeInvalid(check.problems)
    for error in [*check.errors, *(problem for problem in wrong if isinstance(problem, DistillgenError))]:
        raise error
    reader.required = frozenset(check.wanted_of_seeds)
    count = None if reader.is_stdin else reader.check()
    place = state_folder(source.folder, state)
    require_local(place)
    return Prepared(
        recipe, source, place, reader, count, check.prompts, check.makers, student, [*warnings, *check.warnings],
        weigh(recipe, source, check.teachers_used) if has_student else None, exclude,
    )  # fmt: skip


def _excluded(recipe: Recipe, source: Source, problems: list[Problem]) -> dict[str, Entry]:
    """Return the ids that the recipe excludes, and note what is wrong with their file."""
    if recipe.dataset.exclude is None:
        return {}
    entries, wrong = read_excluded(source.folder / recipe.dataset.exclude, recipe.dataset.exclude)
    problems += [each if each.where else source.problem(each.what, ("dataset", "exclude"), each.fix) for each in wrong]
    return entries
