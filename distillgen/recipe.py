"""Reads a recipe and checks it whole before anything is sent; its problems name file, line, key and the nearest key."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from distillgen.errors import Problem, RecipeInvalid, RecipeMissing, RecipeSyntax, UsageError, nearest
from distillgen.files import safe_name
from distillgen.settings import (
    BudgetSettings,
    DatasetSettings,
    GateSettings,
    LimitSettings,
    PriceSettings,
    SeedSettings,
    Settings,
    StudentSettings,
    TeacherSettings,
    TermsSettings,
)
from distillgen.step_settings import STEPS, BenchmarkSettings, BootstrapStep, GenerateStep, JudgeStep, Step
from distillgen.toml_lines import line_of

MAX_RECIPE_BYTES = 1_000_000
OPTIONS = {"budget.usd": "--budget"}  # keys that have an option of their own
Key: TypeAlias = tuple[str | int, ...]  # the way to a key: ("steps", 1, "rules", 2)


class Recipe(Settings):
    """A checked recipe. Paths in it are relative to `Source.folder`."""

    name: str = Field(description="the dataset's name: 1 to 100 of A-Z a-z 0-9 . _ -")
    description: str = Field(default="", description="one line for the card")
    seeds: SeedSettings = Field(description="where the seeds come from")
    teachers: dict[str, TeacherSettings] = Field(default={}, description="who is asked, by the name that steps use")
    steps: list[Step] = Field(min_length=1, description="what happens to each row, in order")
    student: StudentSettings = Field(default=StudentSettings(), description="what the student sees")
    dataset: DatasetSettings = Field(default=DatasetSettings(), description="how rows become a version")
    budget: BudgetSettings = Field(default=BudgetSettings(), description="how much money may be spent")
    terms: TermsSettings = Field(
        default=TermsSettings(), description="what the dataset is for, against which terms are read"
    )

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        return safe_name(name, "dataset name")

    @model_validator(mode="after")
    def _teachers_named(self) -> "Recipe":
        for place, step in self.all_steps():
            if isinstance(step, GenerateStep | JudgeStep):
                self.teachers_of(step, place)
        return self

    def all_steps(self) -> Iterator[tuple[Key, Step]]:
        """Yield every step with the way to it; the steps inside a bootstrap come after it."""
        for index, step in enumerate(self.steps):
            yield ("steps", index), step
            if isinstance(step, BootstrapStep):
                for number, inner in enumerate(step.steps):
                    yield ("steps", index, "steps", number), inner

    def teachers_of(self, step: GenerateStep | JudgeStep, place: Key = ("steps",)) -> list[str]:
        """Return the keys in [teachers] of those that a step may ask, in its order."""
        names = [step.teacher] if isinstance(step.teacher, str) else list(step.teacher)
        if names == [""] and len(self.teachers) == 1:
            return list(self.teachers)
        if not self.teachers:
            raise _Located(f"{step.use} needs a teacher", place, "add a table such as [teachers.main]")
        if names == [""]:
            raise _Located("which teacher?", (*place, "teacher"), nearest("", self.teachers))
        for name in names:
            if name not in self.teachers:
                raise _Located(f"unknown teacher {name!r}", (*place, "teacher"), nearest(name, self.teachers))
        return names


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, by which editors complete and check it as it is written."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "distillgen recipe"}


def step_name(place: Key, step: Step) -> str:
    """Return how a step is called in provenance, rejections and the funnel: `1.generate`, `2.1.generate` inside."""
    numbers = [str(part + 1) for part in place if isinstance(part, int)]
    return ".".join([*numbers, step.use])


class _Located(UsageError, ValueError):
    """A problem found by a check of ours inside pydantic's, with the path of the key."""

    def __init__(self, what: str, path: Key, fix: str) -> None:
        super().__init__(what, fix=fix)
        self.path, self.what, self.fix = path, what, fix


@dataclass(frozen=True, slots=True)
class Source:
    """A recipe's file as text, so that a problem found anywhere on the road can name its line.

    `options` are the keys that have an option of their own; without a text all keys come from options.
    """

    path: Path
    text: str
    overrides: Mapping[str, Any]
    options: Mapping[str, str] = field(default_factory=lambda: OPTIONS)

    @property
    def folder(self) -> Path:
        """The project: every relative path of the recipe starts here."""
        return self.path.resolve().parent

    def problem(self, what: str, key: Sequence[str | int], fix: str = "") -> Problem:
        """Return a problem at a key of this recipe, named with its line unless it came from an option."""
        dotted = spell(key)
        if any(_is_inside(dotted, name) for name in self.overrides) or not self.text:
            around = [name for name in self.options if _is_inside(dotted, name)]
            return Problem(what, self.options[max(around, key=len)] if around else f"--set {dotted}", fix)
        return Problem(what, f"{self.path}:{line_of(self.text, key)} ({dotted})" if key else str(self.path), fix)


def _is_inside(dotted: str, name: str) -> bool:
    """Whether a key is another one, or stands inside it."""
    return dotted == name or dotted.startswith((f"{name}.", f"{name}["))


def spell(key: Sequence[str | int]) -> str:
    """Return a path of keys as people write it: `steps[1].rules[2]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def recipe_file(path: Path) -> Path:
    """Return the recipe's file, where a path names it or its folder."""
    return path / "recipe.toml" if path.is_dir() else path


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> tuple[Recipe, Source]:
    """Read and check one recipe; `overrides` are KEY=VALUE with dotted keys and TOML values.

    Raises RecipeMissing, RecipeSyntax, or RecipeInvalid with every problem found.
    """
    path = recipe_file(path)
    text = _read_text(path)
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeSyntax(
            f"not valid TOML: {error}", where=str(path), fix="see https://toml.io for the format"
        ) from None
    return check_recipe(table, path, text, overrides)


def check_recipe(
    table: dict[str, Any], path: Path, text: str = "", overrides: Iterable[str] = (),
    options: Mapping[str, str] = OPTIONS,
) -> tuple[Recipe, Source]:  # fmt: skip
    """Check a recipe as a table; without its `text` every problem is named as an option of the command.

    Raises UsageError for a wrong override, RecipeInvalid with every problem found.
    """
    applied = dict(override(table, text_override) for text_override in overrides)
    source = Source(path, text, applied, options)
    try:
        return Recipe.model_validate(table), source
    except ValidationError as error:
        raise RecipeInvalid(_problems(error, table, source)) from None


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise RecipeSyntax(f"larger than {MAX_RECIPE_BYTES:,} bytes", where=str(path), fix="is this a recipe?")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeSyntax(f"not UTF-8 (byte {error.start})", where=str(path)) from None
    except FileNotFoundError:
        raise RecipeMissing(f"no recipe at {path}", fix="`distillgen init` writes one that builds at once") from None
    except OSError as error:
        raise RecipeMissing(f"cannot read {path}: {error.strerror}") from None


def override(
    table: dict[str, Any], assignment: str, what: str = "the recipe", example: str = "steps.0.samples=4"
) -> tuple[str, Any]:
    """Put one KEY=VALUE into a table; return the key as problems spell it, and the value. Raises UsageError, which says
    of `what` that it has no such key, and how it is done.
    """
    key, equals, text = assignment.partition("=")
    parts = [part for part in key.replace("[", ".").replace("]", "").split(".") if part]
    if not equals or not parts:
        raise UsageError(f"--set {assignment!r} is not KEY=VALUE", fix=f"for instance --set {example}")
    try:
        found = tomllib.loads(f"v = {text}")
        value = found["v"] if len(found) == 1 else text  # a line's end would begin another key
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    except RecursionError:
        raise UsageError(f"--set {key}: nested too deeply") from None
    place: Any = table
    path: list[str | int] = []
    for depth, part in enumerate(parts):
        step: str | int = int(part) if isinstance(place, list) and part.isdecimal() and len(part) < 9 else part
        path.append(step)
        is_last = depth == len(parts) - 1
        try:
            if is_last:
                place[step] = value
            else:
                place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
        except (TypeError, IndexError, AttributeError):
            raise UsageError(f"--set {assignment!r}: {what} has no {spell(path)}") from None
    return spell(path), value


def _problems(error: ValidationError, table: Mapping[str, Any], source: Source) -> list[Problem]:
    """Turn pydantic's findings into ours: one per key, in the order of the file."""
    found: dict[tuple[str | int, ...], Problem] = {}
    for entry in error.errors():
        path = _toml_path(entry["loc"], table)
        kind, context = entry["type"], entry.get("ctx", {})
        cause = context.get("error")
        if isinstance(cause, _Located):
            found.setdefault(cause.path, source.problem(cause.what, cause.path, cause.fix))
        elif isinstance(cause, UsageError):
            found.setdefault(path, source.problem(cause.problems[0].what, path, cause.problems[0].fix))
        elif kind == "extra_forbidden":
            found[path] = source.problem(f"unknown key {path[-1]!r}", path, nearest(str(path[-1]), _known(path, table)))
        elif kind == "missing":
            found[path] = source.problem(
                f"missing key {path[-1]!r}", path[:-1], f"add it to {spell(path[:-1]) or 'the top'}"
            )
        elif kind == "union_tag_invalid":
            found[path] = source.problem(
                f"unknown step {context['tag']!r}", (*path, "use"), nearest(context["tag"].strip("'"), STEPS)
            )
        elif kind == "union_tag_not_found":
            found[path] = source.problem("a step without `use`", path, f"known: {', '.join(STEPS)}")
        else:
            said = _say(entry, path)
            found[path] = source.problem(_either(found[path].what, said) if path in found else said, path)
    return list(found.values())


def _say(entry: Any, path: Sequence[str | int]) -> str:
    if entry["type"] == "too_short" and not entry["input"]:
        return f"{str(path[-1])!r} is empty"
    message = entry["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = entry.get("input")
    key = f"{path[-2]}[{path[-1]}]" if isinstance(path[-1], int) else path[-1]
    return message if isinstance(value, dict | list) else f"{key!r} is {value!r}: {message}"


def _either(first: str, other: str) -> str:
    """Join what a key may be, which pydantic says one by one."""
    value, mark, kind = other.partition(": input should be ")
    return f"{first} or {kind}" if mark and first.startswith(value + mark) else first


def _toml_path(loc: tuple[str | int, ...], table: Any) -> tuple[str | int, ...]:
    """Drop from pydantic's location what is not in the file: tags of unions and names of types."""
    path: list[str | int] = []
    for depth, part in enumerate(loc):
        if depth >= 2 and loc[depth - 2] == "steps" and isinstance(loc[depth - 1], int) and part in STEPS:
            continue  # which kind of step it is
        inside = isinstance(table, list) and isinstance(part, int) and part < len(table)
        if inside or (isinstance(table, dict) and part in table):
            table = table[part]
        elif depth < len(loc) - 1 or isinstance(table, str | int | float | list):
            continue
        path.append(part)
    return tuple(path)


def _known(path: Sequence[str | int], table: Any) -> list[str]:
    """List the keys that the table around an unknown key may have."""
    around = list(path[:-1])
    model: type[BaseModel] = Recipe
    if "steps" in around[:1]:
        while around[:1] == ["steps"] and len(around) >= 2:
            table, around = table["steps"][around[1]], around[2:]
        model = BenchmarkSettings if "against" in around else STEPS[table["use"]]
    elif around[:1] == ["teachers"]:
        inner: dict[str | int, type[BaseModel]] = {"limits": LimitSettings, "prices": PriceSettings}
        model = inner.get(around[2], TeacherSettings) if len(around) > 2 else TeacherSettings
    elif around:
        tables: dict[str | int, type[BaseModel]] = {
            "seeds": SeedSettings,
            "student": StudentSettings,
            "dataset": GateSettings if "gate" in around else DatasetSettings,
            "budget": BudgetSettings,
            "terms": TermsSettings,
        }
        model = tables.get(around[0], Recipe)
    return list(model.model_fields)
