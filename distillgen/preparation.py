"""Checks a recipe whole, with its seeds, prompts, rules and teachers, before anything is sent; readies its steps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillgen.dataset.training_rows import StudentTemplates
from distillgen.errors import DistillgenError, Problem, PromptInvalid, PromptMissing, RecipeInvalid, nearest
from distillgen.prompts import Prompt, Template, load_prompt, missing_columns, parse_at
from distillgen.recipe import DeduplicateStep, FilterStep, GenerateStep, Recipe, RuleSetting, Source, read_recipe
from distillgen.road import Step
from distillgen.seeds import SeedReader
from distillgen.state import require_local, state_folder
from distillgen.steps.deduplicate import Deduplicate
from distillgen.steps.filter import Filter
from distillgen.steps.generate import Generate, labels_of, list_property, reply_schema, written_columns
from distillgen.steps.rules import Rule, RuleProblem, bind_rule
from distillgen.steps.structured import wrong_schema
from distillgen.teacher import Teacher, several
from distillgen.teacher.checks import check_teachers

LABELS_FIX = 'labels = ["positive", "negative"]   (in a pipe: --label positive --label negative)'


@dataclass
class Prepared:
    """A recipe that can run: everything that can be known before the first seed is read."""

    recipe: Recipe
    source: Source
    state: Path  # the folder of the answer store, locks and logs
    seeds: SeedReader
    seed_count: int | None
    prompts: dict[int, Prompt]
    rules: dict[int, list[Rule]]
    student: StudentTemplates
    warnings: list[Problem] = field(default_factory=list)

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
        steps = [step for step in self.recipe.steps if isinstance(step, GenerateStep)]
        return {name for step in steps for name in self.recipe.teachers_of(step)}

    def steps(self, teachers: Mapping[str, Teacher], *, prefer_first: bool = False) -> list[Step]:
        """Return the steps of the road, in order, with their teachers."""
        return [self._step(index, teachers, prefer_first) for index in range(len(self.recipe.steps))]

    def _step(self, index: int, teachers: Mapping[str, Teacher], prefer_first: bool) -> Step:
        step, name = self.recipe.steps[index], step_name(self.recipe, index)
        if isinstance(step, GenerateStep):
            prompt = self.prompts[index]
            asked = {key: teachers[key] for key in self.recipe.teachers_of(step)}
            return Generate(
                name, step, prompt, self.rules[index], several.chooser(step, asked), prefer_first=prefer_first,
                schema=reply_schema(prompt, step),
            )  # fmt: skip
        if isinstance(step, FilterStep):
            return Filter(name, self.rules[index])
        return Deduplicate(name, step.columns, step.near)


def step_name(recipe: Recipe, index: int) -> str:
    """Return how a step is called in provenance, rejections and the funnel: `1.generate`."""
    return f"{index + 1}.{recipe.steps[index].use}"


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
    check = _Check(recipe, source)
    reader = SeedReader(recipe.seeds, source.folder, skip_bad=skip_bad_seeds)
    first = reader.peek()
    columns = None if first is None and reader.is_stdin else dict.fromkeys(first or {})
    check.steps(columns)
    student = check.student() if has_student else StudentTemplates(None, None, Template.parse(""), None)
    wrong, warnings = check_teachers(
        recipe, source, check.teachers_used, will_ask=will_ask, allow_unknown_price=allow_unknown_price
    )
    check.problems += [problem for problem in wrong if isinstance(problem, Problem)]
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
        recipe, source, place, reader, count, check.prompts, check.rules, student, [*warnings, *check.warnings]
    )


class _Check:
    """Walks the steps as a row would, knowing which columns it has at each, and collects what is wrong."""

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe, self.source = recipe, source
        self.problems: list[Problem] = []
        self.errors: list[DistillgenError] = []
        self.warnings: list[Problem] = []
        self.prompts: dict[int, Prompt] = {}
        self.rules: dict[int, list[Rule]] = {}
        self.wanted_of_seeds: set[str] = set()
        self.teachers_used: set[str] = set()
        self._seed_columns: set[str] | None = None
        self._written: set[str] = set()
        self._main = "answer"
        self._is_blind = False  # a prompt that cannot be read: what it writes is unknown

    def steps(self, seed_columns: Mapping[str, Any] | None) -> None:
        """Check every step, and what the seeds must have; None means that their columns cannot be known yet."""
        self._seed_columns = None if seed_columns is None else set(seed_columns)
        for name in self.recipe.seeds.id:
            self._want(name, self.source.problem(f"no seed column {name!r}", ("seeds", "id")))
        for index, step in enumerate(self.recipe.steps):
            if isinstance(step, GenerateStep):
                self._generate(index, step)
            elif isinstance(step, FilterStep):
                self.rules[index] = self._rules(step.rules, ("steps", index, "rules"))
            else:
                self._deduplicate(index, step)
        if self.recipe.dataset.split_by:
            problem = self.source.problem(
                f"no column {self.recipe.dataset.split_by!r} to split by", ("dataset", "split_by")
            )
            self._want(self.recipe.dataset.split_by, problem)

    def _want(self, column: str, problem: Problem) -> None:
        """Note that rows must have a column by now: from a step, else from the seeds."""
        if column in self._written or self._is_blind:
            return
        if self._seed_columns is not None and column not in self._seed_columns:
            if not self._seed_columns:
                return  # no seed could be read, which is reported by itself
            hint = nearest(column, self._seed_columns | self._written)
            self.problems.append(Problem(problem.what, problem.where, problem.fix or hint))
            return
        self.wanted_of_seeds.add(column)

    def _generate(self, index: int, step: GenerateStep) -> None:
        place = ("steps", index)
        self.teachers_used.update(self.recipe.teachers_of(step, index))
        was_blind, self._is_blind = self._is_blind, True
        try:
            prompt = load_prompt(step.prompt, self.source.folder)
        except PromptMissing as error:
            self.problems.append(self.source.problem(error.problems[0].what, (*place, "prompt"), error.problems[0].fix))
            return
        except PromptInvalid as error:
            self.errors.append(error)
            return
        self._is_blind = was_blind
        labels = labels_of(prompt, step)
        prompt = prompt.bind({**step.values, **({"labels": labels} if labels else {})})
        self.prompts[index] = prompt
        self._output(place, prompt, step)
        for variable in sorted(prompt.needs - step.values.keys()):
            column = step.read.get(variable, variable)
            self._want(
                column,
                Problem(
                    f"prompt {prompt.name!r} names {variable!r}, which no seed column or step provides",
                    prompt.where(variable),
                ),
            )
        for variable in step.read.keys() - prompt.needs - prompt.settings.values.keys():
            what = f"prompt {prompt.name!r} has no variable {variable!r}"
            self.problems.append(self.source.problem(what, (*place, "read", variable), nearest(variable, prompt.needs)))
        sampling = [self.recipe.teachers[name].sampling for name in self.recipe.teachers_of(step)]
        columns = written_columns(prompt, step, has_logprobs=any(each.get("logprobs") for each in sampling))
        for name in step.write.keys() - {
            "logprobs",
            *prompt.settings.columns,
            "reasoning",
            *written_columns(prompt, step.model_copy(update={"write": {}})),
        }:
            what = f"prompt {prompt.name!r} does not write {name!r}"
            self.problems.append(
                self.source.problem(what, (*place, "write", name), nearest(name, prompt.settings.columns))
            )
        self._main = columns[0]
        self._written |= set(columns)
        # The checks of a prompt that writes a list are for its elements.
        applies = step.checks and (step.each or list_property(prompt) is None)
        self.rules[index] = self._own_checks(prompt) if applies else []
        if step.samples > 1 and any(each.get("temperature") == 0 for each in sampling):
            self.warnings.append(
                self.source.problem("several samples at temperature 0 are all alike", (*place, "samples"))
            )

    def _output(self, place: tuple[str | int, ...], prompt: Prompt, step: GenerateStep) -> None:
        wants_labels = prompt.settings.output == "labels" or "labels" in prompt.settings.values
        if wants_labels and not labels_of(prompt, step):
            self.problems.append(
                self.source.problem(f"prompt {prompt.name!r} needs `labels`, the closed set", place, LABELS_FIX)
            )
        if step.labels and prompt.settings.output == "text":
            self.problems.append(
                self.source.problem(f"prompt {prompt.name!r} writes free text, not labels", (*place, "labels"))
            )
        if len(set(step.labels)) < len(step.labels):
            self.problems.append(self.source.problem("the same label twice", (*place, "labels")))
        if step.each and list_property(prompt) is None:
            self.problems.append(
                self.source.problem(f"prompt {prompt.name!r} writes no list for `each` to take apart", (*place, "each"))
            )
        schema = reply_schema(prompt, step)
        if schema is not None and (wrong := wrong_schema(schema)):
            self.errors.append(PromptInvalid(f"not a JSON schema: {wrong}", where=str(prompt.path)))

    def _own_checks(self, prompt: Prompt) -> list[Rule]:
        try:
            return [bind_rule(setting, self._main) for setting in prompt.settings.checks]
        except RuleProblem as error:
            self.errors.append(PromptInvalid(f"in `checks`: {error.what}", where=str(prompt.path), fix=error.fix))
            return []

    def _rules(self, settings: list[RuleSetting], place: tuple[str | int, ...]) -> list[Rule]:
        rules = []
        for number, setting in enumerate(settings):
            try:
                rule = bind_rule(setting, self._main)
            except RuleProblem as error:
                key = (*place, number, error.key) if error.key and isinstance(setting, dict) else (*place, number)
                self.problems.append(_named(self.source.problem(error.what, key, error.fix), setting, self.source))
                continue
            self._want(
                rule.column, self.source.problem(f"no column {rule.column!r} for rule {rule.name!r}", (*place, number))
            )
            rules.append(rule)
        return rules

    def _deduplicate(self, index: int, step: DeduplicateStep) -> None:
        for column in step.columns:
            self._want(column, self.source.problem(f"no column {column!r} to compare", ("steps", index, "on")))

    def student(self) -> StudentTemplates:
        """Compile the [student] table and check the columns that it names."""
        texts = self.recipe.student
        compiled: dict[str, Template | None] = {}
        for key in ("system", "prompt", "completion", "reasoning"):
            text = getattr(texts, key)
            compiled[key] = self._template(text, ("student", key)) if text is not None else None
        completion = compiled["completion"] or Template.parse("")
        student = StudentTemplates(compiled["system"], compiled["prompt"], completion, compiled["reasoning"])
        for key, name in self._student_needs(compiled):
            self._want(
                name,
                self.source.problem(
                    f"[student] names {name!r}, which no seed column or step provides", ("student", key)
                ),
            )
        if texts.prompt is None:
            fix = 'add `prompt = "{{ ... }}"` to [student], or seeds with `messages`'
            self._want("messages", self.source.problem("the student has no prompt", ("student",), fix))
        return student

    def _student_needs(self, compiled: Mapping[str, Template | None]) -> Iterator[tuple[str, str]]:
        for key, template in compiled.items():
            for name, _ in missing_columns(template.needs if template else (), self._written):
                yield key, name

    def _template(self, text: str, key: tuple[str, ...]) -> Template | None:
        try:
            return parse_at(text, self.source.path, self.source.text, key)
        except PromptInvalid as error:
            self.problems += error.problems
            return None


def _named(problem: Problem, setting: RuleSetting, source: Source) -> Problem:
    """Point a rule's problem at the line where its name stands, when several rules share the key's first line."""
    name = setting if isinstance(setting, str) else setting.get("rule")
    lines = [number for number, line in enumerate(source.text.split("\n"), 1) if f'"{name}"' in line]
    path, _, rest = problem.where.partition(":")
    number, _, key = rest.partition(" ")
    later = [line for line in lines if number.isdigit() and line >= int(number)]
    return Problem(problem.what, f"{path}:{later[0]} {key}", problem.fix) if later else problem
