"""Checks the steps of a recipe as a row would meet them, and says how each is made once a run has what it needs."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from distillgen.dataset.training_rows import StudentTemplates
from distillgen.earlier import PREVIOUS, Place, check_earlier, open_earlier
from distillgen.errors import DistillgenError, Problem, PromptInvalid, PromptMissing, nearest
from distillgen.prompts import Prompt, Template, load_prompt, parse_at
from distillgen.recipe import Key, Recipe, Source, step_name
from distillgen.shapes import Step
from distillgen.step_settings import (
    BenchmarkSettings,
    BootstrapStep,
    DecontaminateStep,
    DeduplicateStep,
    FilterStep,
    GenerateStep,
    JudgeStep,
    RuleSetting,
    SelectStep,
    VerifyStep,
)
from distillgen.step_settings import Step as StepSettings
from distillgen.steps.deduplicate import Deduplicate
from distillgen.steps.filter import Filter
from distillgen.steps.generate import Generate, labels_of, list_property, reply_schema, written_columns
from distillgen.steps.judge import Judge, highest_score, wrong_prompt
from distillgen.steps.rules import Context, Rule, RuleProblem, bind_rule, settings_of
from distillgen.structured import wrong_schema
from distillgen.teacher import Teacher, several

if TYPE_CHECKING:
    from distillgen.steps.benchmarks import Item

T = TypeVar("T")
LABELS_FIX = 'labels = ["positive", "negative"]   (in a pipe: --label positive --label negative)'


@dataclass(frozen=True)
class Means:
    """What a run gives to its steps. `spool` is the folder for what memory shall not hold."""

    teachers: Mapping[str, Teacher]
    spool: Path
    place: Place
    prefer_first: bool = False

    def of(self, names: Sequence[str]) -> dict[str, Teacher]:
        """Return some of the teachers, in the order of their names."""
        return {name: self.teachers[name] for name in names}


Maker: TypeAlias = Callable[[Means], Step]


class Check:
    """Walks the steps knowing which columns a row has at each, and collects what is wrong.

    `makers` make the steps, in order, for a run; `wanted_of_seeds` is what the seeds must have.
    """

    def __init__(self, recipe: Recipe, source: Source, *, main: str = "answer") -> None:
        self.recipe, self.source = recipe, source
        self.problems: list[Problem] = []
        self.errors: list[DistillgenError] = []
        self.warnings: list[Problem] = []
        self.makers: list[Maker] = []
        self.prompts: dict[Key, Prompt] = {}
        self.wanted_of_seeds: set[str] = set()
        self.teachers_used: set[str] = set()
        self._seed_columns: set[str] | None = None
        self._written: set[str] = set()
        self._told: dict[str, tuple[str, ...]] = {}  # column -> the fixed texts of the prompt that writes it
        self._main = main  # the column that was written last, which steps look at unless they name another
        self._is_blind = False  # a prompt that cannot be read: what it writes is unknown
        self._is_made = False  # the rows are not seeds any more: they have the columns that were written, no others

    def steps(self, seed_columns: Mapping[str, Any] | None) -> None:
        """Check every step, and what the seeds must have; None means that their columns cannot be known yet."""
        self._seed_columns = None if seed_columns is None else set(seed_columns)
        for name in self.recipe.seeds.id:
            self._want(name, self.source.problem(f"no seed column {name!r}", ("seeds", "id")))
        for index, step in enumerate(self.recipe.steps):
            self.makers.append(self._step(("steps", index), step))
        if by := self.recipe.dataset.split_by:
            self._want(by, self.source.problem(f"no column {by!r} to split by", ("dataset", "split_by")))

    def _step(self, place: Key, step: StepSettings) -> Maker:
        checks: dict[type, Callable[[Key, Any], Maker]] = {
            GenerateStep: self._generate, FilterStep: self._filter, DeduplicateStep: self._deduplicate,
            DecontaminateStep: self._decontaminate, VerifyStep: self._verify, JudgeStep: self._judge,
            SelectStep: self._select, BootstrapStep: self._bootstrap,
        }  # fmt: skip
        return checks[type(step)](place, step)

    def _want(self, column: str, problem: Problem) -> None:
        """Note that rows must have a column by now: from a step, else from the seeds."""
        if column in self._written or self._is_blind:
            return
        seeds = set[str]() if self._is_made else self._seed_columns
        if seeds is not None and column not in seeds:
            if not seeds and not self._is_made:
                return  # no seed could be read, which is reported by itself
            hint = nearest(column, seeds | self._written)
            self.problems.append(Problem(problem.what, problem.where, problem.fix or hint))
            return
        self.wanted_of_seeds.add(column)

    def _try(self, make: Callable[..., T], *arguments: Any) -> T | None:
        """Return what is made, or None and keep the error."""
        try:
            return make(*arguments)
        except DistillgenError as error:
            self.errors.append(error)
            return None

    @property
    def _place(self) -> Place:
        return Place(self.source.folder, self.source.folder / "datasets" / self.recipe.name)

    def _want_at(self, column: str, what: str, *key: str | int) -> None:
        self._want(column, self.source.problem(f"no column {column!r} {what}", key))

    # -- the steps that ask ------------------------------------------------------------------------------------------

    def _generate(self, place: Key, step: GenerateStep) -> Maker:
        names = self.recipe.teachers_of(step, place)
        self.teachers_used.update(names)
        was_blind, self._is_blind = self._is_blind, True
        prompt = self._load(step.prompt, place)
        if prompt is None:
            return _never
        self._is_blind = was_blind
        labels = labels_of(prompt, step)
        prompt = self._bind(prompt, {**step.values, **({"labels": labels} if labels else {})}, place)
        self._output(place, prompt, step)
        self._want_variables(prompt, step.values, step.read, place)
        sampling = [self.recipe.teachers[name].sampling for name in names]
        columns = written_columns(prompt, step, has_logprobs=any(each.get("logprobs") for each in sampling))
        self._renames(place, prompt, step)
        self._main = columns[0]
        self._written |= set(columns)
        self._told |= dict.fromkeys(columns, prompt.fixed_texts)
        # The checks of a prompt that writes a list are for its elements.
        applies = step.checks and (step.each or list_property(prompt) is None)
        checks = self._own_checks(prompt) if applies else []
        if step.samples > 1 and any(each.get("temperature") == 0 for each in sampling):
            self.warnings.append(
                self.source.problem("several samples at temperature 0 are all alike", (*place, "samples"))
            )
        schema = reply_schema(prompt, step)
        return lambda means: Generate(
            step_name(place, step), step, prompt, checks, several.chooser(step, means.of(names)),
            prefer_first=means.prefer_first, schema=schema,
        )  # fmt: skip

    def _judge(self, place: Key, step: JudgeStep) -> Maker:
        names = self.recipe.teachers_of(step, place)
        self.teachers_used.update(names)
        prompt = self._load(step.prompt or ("judge_pair" if step.pair else "judge"), place)
        if prompt is None:
            self._written.add(step.write)
            return _never
        values = {**step.values, **({"rubric": step.rubric} if step.rubric is not None else {})}
        prompt = self._bind(prompt, values, place)
        if wrong := wrong_prompt(prompt, is_pair=bool(step.pair)):
            self.problems.append(self.source.problem(wrong, (*place, "prompt")))
        elif (step.min_score or 0) > (highest := highest_score(prompt, is_pair=bool(step.pair))):
            what = f"`min_score` is {step.min_score:g}, but the highest score of prompt {prompt.name!r} is {highest:g}"
            self.problems.append(self.source.problem(what, (*place, "min_score")))
        given = {**values, **({"first": "", "second": ""} if step.pair else {})}
        self._want_variables(prompt, given, step.read, place)
        for column in step.pair or ():
            self._want_at(column, "to compare", *place, "pair")
        self._written.add(step.write)
        return lambda means: Judge(step_name(place, step), step, prompt, means.of(names), means.teachers)

    def _load(self, name: str, place: Key) -> Prompt | None:
        try:
            return load_prompt(name, self.source.folder)
        except PromptMissing as error:
            self.problems.append(self.source.problem(error.problems[0].what, (*place, "prompt"), error.problems[0].fix))
        except PromptInvalid as error:
            self.errors.append(error)
        return None

    def _bind(self, prompt: Prompt, values: Mapping[str, Any], place: Key) -> Prompt:
        self.prompts[place] = prompt = prompt.bind(values)
        return prompt

    def _want_variables(self, prompt: Prompt, values: Mapping[str, Any], read: Mapping[str, str], place: Key) -> None:
        """Want the columns that fill the variables of a prompt."""
        for variable in sorted(prompt.needs - values.keys()):
            what = f"prompt {prompt.name!r} names {variable!r}, which no seed column or step provides"
            self._want(read.get(variable, variable), Problem(what, prompt.where(variable)))
        for variable in read.keys() - prompt.needs - prompt.settings.values.keys():
            what = f"prompt {prompt.name!r} has no variable {variable!r}"
            self.problems.append(self.source.problem(what, (*place, "read", variable), nearest(variable, prompt.needs)))

    def _renames(self, place: Key, prompt: Prompt, step: GenerateStep) -> None:
        own = written_columns(prompt, step.model_copy(update={"write": {}}))
        for name in step.write.keys() - {"logprobs", *prompt.settings.columns, "reasoning", *own}:
            what = f"prompt {prompt.name!r} does not write {name!r}"
            self.problems.append(
                self.source.problem(what, (*place, "write", name), nearest(name, prompt.settings.columns))
            )

    def _output(self, place: Key, prompt: Prompt, step: GenerateStep) -> None:
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
            return [bind_rule(setting, self._main, self._context) for setting in prompt.settings.checks]
        except RuleProblem as error:
            self.errors.append(PromptInvalid(f"in `checks`: {error.what}", where=str(prompt.path), fix=error.fix))
            return []

    # -- the steps that look -----------------------------------------------------------------------------------------

    @property
    def _context(self) -> Context:
        return Context(self.source.folder, dict(self._told))

    def _filter(self, place: Key, step: FilterStep) -> Maker:
        rules = list(self._rules(place, step))
        return lambda means: Filter(step_name(place, step), rules)

    def _rules(self, place: Key, step: FilterStep) -> Iterator[Rule]:
        try:
            settings = settings_of(step, self._main)
        except RuleProblem as error:
            self.problems.append(self.source.problem(error.what, (*place, error.key), error.fix))
            return
        for setting, number in settings:
            key = (*place, "preset") if number is None else (*place, "rules", number)
            try:
                rule = bind_rule(setting, self._main, self._context)
            except RuleProblem as error:
                inside = (*key, error.key) if error.key and isinstance(setting, dict) and number is not None else key
                self.problems.append(_named(self.source.problem(error.what, inside, error.fix), setting, self.source))
                continue
            except DistillgenError as error:  # an extra that is not installed
                self.errors.append(error)
                continue
            self._want_at(rule.column, f"for rule {rule.name!r}", *key)
            yield rule

    def _deduplicate(self, place: Key, step: DeduplicateStep) -> Maker:
        for column in step.columns:
            self._want_at(column, "to compare", *place, "on")
        if step.against == PREVIOUS and not self.recipe.dataset.append:
            what = "without `append` every row takes the road again, and is in the version before"
            self.problems.append(self.source.problem(what, (*place, "against"), "set `append = true` under [dataset]"))
        self._try(check_earlier, step, self._place)
        if step.meaning is not None:
            from distillgen.steps.semantic import require_embedding

            self._try(require_embedding)
        name = step_name(place, step)
        return lambda means: Deduplicate(
            name, step.columns, step.near, words=step.words, bands=step.bands, samples=step.samples,
            meaning=step.meaning, earlier=open_earlier(step, name, means.place, means.spool),
            remembers=step.against == PREVIOUS, spool=means.spool,
        )  # fmt: skip

    def _decontaminate(self, place: Key, step: DecontaminateStep) -> Maker:
        from distillgen.steps.benchmarks import Benchmarks
        from distillgen.steps.decontaminate import Decontaminate

        for column in step.columns or ():
            self._want_at(column, "to check", *place, "on")
        benchmarks = self._try(lambda: Benchmarks.build(self._items(step), words=step.words, stock=step.stock))
        if benchmarks is None:
            return _never
        self.warnings += benchmarks.warnings()
        columns = step.columns or self._seen_by_student()
        return lambda means: Decontaminate(step_name(place, step), columns, benchmarks, step.coverage)

    def _items(self, step: DecontaminateStep) -> "Iterator[Item]":
        from distillgen.steps.benchmarks import read_benchmark

        for stated in step.against:
            benchmark = BenchmarkSettings(path=stated) if isinstance(stated, str) else stated
            yield from read_benchmark(self.source.folder / benchmark.path, benchmark.columns, name=benchmark.name)

    def _seen_by_student(self) -> list[str]:
        """Return the columns that the student's templates name, each of which is a text by itself."""
        named = [] if self.recipe.student.prompt is not None else ["messages"]
        for template in self._student_templates.values():
            named += sorted(template.needs) if template is not None else []
        return list(dict.fromkeys(named))

    def _verify(self, place: Key, step: VerifyStep) -> Maker:
        from distillgen.steps.mathematics import require_mathematics
        from distillgen.steps.sandbox import Limits, find_sandbox
        from distillgen.steps.verify import verify_step, wrong_pattern

        answer = step.answer or self._main
        self._want_at(answer, "to check", *place, "answer")
        self._want_at(step.reference, "to check against", *place, "reference")
        if step.extract and (wrong := wrong_pattern(step.extract)):
            self.problems.append(self.source.problem(f"`extract` {wrong}", (*place, "extract")))
        if step.how == "math":
            self._try(require_mathematics)
        sandbox = self._try(find_sandbox) if step.how == "code" else None
        if step.keep == "all":
            self._written.add(step.write)
        limits = Limits(seconds=step.seconds, memory_mb=step.memory_mb)
        return lambda means: verify_step(
            step_name(place, step), step.how, answer=answer, reference=step.reference, extract=step.extract,
            keep=step.keep, write=step.write, tolerance=step.tolerance, sandbox=sandbox, limits=limits,
        )  # fmt: skip

    def _select(self, place: Key, step: SelectStep) -> Maker:
        from distillgen.steps.select import Select

        column = step.on or self._main
        self._want_at(column, "to choose by", *place, "on")
        for key in ("by", "where"):
            if name := getattr(step, key):
                self._want_at(name, "to choose by", *place, key)
        if step.keep == "pair":
            self._written |= {"chosen", "rejected"}
        return lambda means: Select(step_name(place, step), step, column)

    def _bootstrap(self, place: Key, step: BootstrapStep) -> Maker:
        from distillgen.steps.bootstrap import EXAMPLES, Bootstrap

        self._want_at(step.show, "to show as an example", *place, "show")
        if self.recipe.dataset.append:
            what = "a bootstrap grows its pool from all seeds, and `append` sends only new ones"
            fix = "set `append = false` and raise `rounds` or `rows`: stored answers cost nothing"
            self.problems.append(self.source.problem(what, place, fix))
        if self.recipe.dataset.target_rows is not None:
            what = "`target_rows` ends a run after some seed, and a bootstrap needs all of them"
            self.problems.append(self.source.problem(what, ("dataset", "target_rows"), "set `rows` of the bootstrap"))
        self._is_made, self._written = True, {EXAMPLES}
        inner = [self._step((*place, "steps", number), each) for number, each in enumerate(step.steps)]
        self._written.discard(EXAMPLES)
        self._want_at(step.show, "is written by its steps: it is what the next round shows", *place, "show")
        name = step_name(place, step)
        return lambda means: Bootstrap(name, step, [make(means) for make in inner])

    # -- the student -------------------------------------------------------------------------------------------------

    def student(self) -> StudentTemplates:
        """Compile the [student] table and check the columns that it names."""
        compiled = self._student_templates
        completion = compiled["completion"] or Template.parse("")
        student = StudentTemplates(
            compiled["system"], compiled["prompt"], completion, compiled["reasoning"], compiled["rejected"]
        )
        for key, name in self._student_needs(compiled):
            self._want(
                name,
                self.source.problem(
                    f"[student] names {name!r}, which no seed column or step provides", ("student", key)
                ),
            )
        if self.recipe.student.prompt is None:
            fix = 'add `prompt = "{{ ... }}"` to [student], or seeds with `messages`'
            self._want("messages", self.source.problem("the student has no prompt", ("student",), fix))
        return student

    @functools.cached_property
    def _student_templates(self) -> dict[str, Template | None]:
        """The templates of the [student] table, compiled once: each mistake in them is told once."""
        texts = {key: getattr(self.recipe.student, key) for key in StudentTemplates.__dataclass_fields__}
        return {key: None if text is None else self._template(text, ("student", key)) for key, text in texts.items()}

    def _student_needs(self, compiled: Mapping[str, Template | None]) -> Iterator[tuple[str, str]]:
        for key, template in compiled.items():
            for name in sorted(template.needs - self._written if template else ()):
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


def _never(means: Means) -> Step:
    """Stand for a step that cannot be made: its problem ends the preparation."""
    raise AssertionError("a recipe with problems is not run")
