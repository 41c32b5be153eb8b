"""Reads a recipe and checks it whole before anything is sent; its problems name file, line, key and the nearest key."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from distillgen.errors import Problem, RecipeInvalid, RecipeMissing, RecipeSyntax, UsageError, nearest
from distillgen.files import safe_name
from distillgen.toml_lines import line_of

MAX_RECIPE_BYTES = 1_000_000
OPTIONS = {"budget.usd": "--budget"}  # keys that have an option of their own


class Settings(BaseModel):
    """Base of every table of a recipe: unknown keys are errors, and a checked recipe does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SeedSettings(Settings):
    """Where the seeds come from, and what makes a seed's id."""

    path: str | list[str] = Field(description='file, glob, folder, list of these, or "-" for standard input')
    id: list[str] = Field(default=[], description="columns that make the id; default: all of them")
    format: Literal["jsonl", "csv", "parquet", "txt"] | None = Field(
        default=None, description="when the file name does not tell; standard input is jsonl unless stated"
    )

    @property
    def paths(self) -> list[str]:
        """The path or paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)


class LimitSettings(Settings):
    """How hard a teacher may be asked."""

    max_in_flight: int | None = Field(default=None, ge=1, le=10_000, description="requests under way at once")
    requests_per_minute: int | None = Field(default=None, ge=1, le=10_000_000, description="requests sent per minute")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="tokens per minute, input and output")
    input_tokens_per_minute: int | None = Field(default=None, ge=1, description="where they are limited apart")
    output_tokens_per_minute: int | None = Field(default=None, ge=1, description="where they are limited apart")


class PriceSettings(Settings):
    """What a teacher costs, in US dollars per million tokens, where the price list does not know it or is wrong."""

    input: float | None = Field(default=None, description="prompt tokens")
    output: float | None = Field(default=None, description="completion tokens, the reasoning trace among them")
    cached_input: float | None = Field(default=None, description="prompt tokens read from the provider's cache")
    batch_factor: float = Field(default=1.0, gt=0, le=1, description="what batch mode costs of that: 0.5 is half")
    free: bool = Field(default=False, description="a server of your own: its answers cost nothing")

    @field_validator("input", "output", "cached_input")
    @classmethod
    def _above_zero(cls, usd: float | None) -> float | None:
        if usd is not None and usd <= 0:
            raise ValueError("must be above 0; what costs nothing is `prices = { free = true }`")
        return usd

    @model_validator(mode="after")
    def _whole(self) -> "PriceSettings":
        if self.free and (self.input or self.output or self.cached_input):
            raise ValueError("`free = true` and a price exclude each other")
        if not self.free and (self.input is None or self.output is None):
            raise ValueError("state both `input` and `output`, or `free = true`")
        return self


class TeacherSettings(Settings):
    """Which model answers, where it is, and how it samples."""

    provider: str | None = Field(default=None, description="a preset: see `distillgen teachers`")
    base_url: str | None = Field(default=None, description="any OpenAI-compatible endpoint, up to and with /v1")
    model: str | None = Field(default=None, description="the model's name at that endpoint")
    gguf: str | None = Field(default=None, description="provider embedded: a GGUF file of your own")
    api_key_env: str | None = Field(default=None, description="environment variable that holds the key")
    api_key_file: str | None = Field(default=None, description="file that holds the key and nothing else")
    allow_http: bool = Field(default=False, description="allow plain http to another machine")
    answers_as: str | None = Field(default=None, description="keep the answers under this name, not under the URL")
    epoch: int = Field(default=0, ge=0, description="raise it to ask everything anew")
    timeout_seconds: float = Field(default=600, gt=0, le=86_400, description="deadline of one request, in all")
    limits: LimitSettings = LimitSettings()
    prices: PriceSettings | None = Field(default=None, description="instead of the price list's")
    mode: Literal["live", "batch"] = Field(default="live", description="batch: cheaper, and answered within a day")
    sampling: dict[str, Any] = Field(default={}, description="temperature, max_tokens, ... as the endpoint names them")


def _kind(teacher: Any) -> str:
    """Tell what is meant, so that a mistake in it is reported once and not for each kind."""
    return "weights" if isinstance(teacher, dict) else "list" if isinstance(teacher, list) else "name"


Whom: TypeAlias = Annotated[
    Annotated[str, Tag("name")] | Annotated[list[str], Tag("list")] | Annotated[dict[str, float], Tag("weights")],
    Discriminator(_kind),
]


class GenerateStep(Settings):
    """Ask a teacher about each row."""

    use: Literal["generate"]
    prompt: str = Field(description="a template: prompts/NAME.toml beside the recipe, else the library's")
    teacher: Whom = Field(
        default="",
        description="a key of [teachers] (may be left out when there is only one); a list: the first that can answer; "
        "a table of weights: one by chance, the same in every run",
    )
    compare: bool = Field(default=False, description="with a list of teachers: each answers every row, a row for each")
    samples: int = Field(default=1, ge=1, le=10_000, description="completions of the same prompt, one row each")
    each: bool = Field(default=False, description="one row per element of a list answer")
    labels: list[str] = Field(default=[], description="the closed set, for prompts with output = labels")
    values: dict[str, Any] = Field(default={}, description="fixed values for the template, besides the columns")
    read: dict[str, str] = Field(default={}, description="template variable -> column")
    write: dict[str, str] = Field(default={}, description="the template's column -> column of the row")
    checks: bool = Field(default=True, description="apply the checks that the template brings")

    @field_validator("teacher")
    @classmethod
    def _some(cls, teacher: str | list[str] | dict[str, float]) -> str | list[str] | dict[str, float]:
        if isinstance(teacher, list | dict) and not teacher:
            raise ValueError("name at least one teacher")
        if isinstance(teacher, list) and len(set(teacher)) < len(teacher):
            raise ValueError("the same teacher twice")
        if isinstance(teacher, dict) and (wrong := [name for name, weight in teacher.items() if weight <= 0]):
            raise ValueError(f"the weight of {wrong[0]!r} must be above 0")
        return teacher

    @model_validator(mode="after")
    def _comparable(self) -> "GenerateStep":
        if self.compare and (not isinstance(self.teacher, list) or self.samples > 1):
            raise ValueError("`compare` goes with a list of teachers and one sample of each")
        return self

    @property
    def sample_count(self) -> int:
        """How many rows a row becomes: its samples, or one for each teacher that is compared."""
        return len(self.teacher) if self.compare else self.samples


RuleSetting: TypeAlias = str | dict[str, Any]


class FilterStep(Settings):
    """Keep the rows that every rule lets pass."""

    use: Literal["filter"]
    preset: str | None = Field(default=None, description="a set of rules: chat, reasoning, labels, strict")
    without: list[str] = Field(default=[], description="rules of the preset that are left out")
    rules: list[RuleSetting] = Field(
        default=[],
        description="names, or tables with `rule` and its parameters; they take the place of the preset's",
    )

    @model_validator(mode="after")
    def _some(self) -> "FilterStep":
        if self.preset is None and not self.rules:
            raise ValueError("name a `preset`, `rules`, or both")
        if self.without and self.preset is None:
            raise ValueError("`without` goes with a `preset`")
        return self


class DeduplicateStep(Settings):
    """Keep the first of equal or nearly equal rows."""

    use: Literal["deduplicate"]
    on: str | list[str] = Field(default="answer", description="column or columns that are compared")
    near: float | None = Field(
        default=None, ge=0.3, le=1.0, description="Jaccard similarity of word triples that counts as the same"
    )

    @property
    def columns(self) -> list[str]:
        """The column or columns as a list."""
        return [self.on] if isinstance(self.on, str) else list(self.on)


Step: TypeAlias = Annotated[GenerateStep | FilterStep | DeduplicateStep, Field(discriminator="use")]
STEPS: dict[str, type[Settings]] = {"generate": GenerateStep, "filter": FilterStep, "deduplicate": DeduplicateStep}


class StudentSettings(Settings):
    """What the student sees, which need not be what the teacher saw."""

    system: str | None = Field(default=None, description="template of the system message")
    prompt: str | None = Field(default=None, description="template of the user's turn; default: the seed's `messages`")
    completion: str = Field(default="{{ answer }}", description="template of what the student shall answer")
    reasoning: str | None = Field(default=None, description="template of the reasoning trace, kept in its own column")


class DatasetSettings(Settings):
    """How rows become a version."""

    splits: dict[str, float] = Field(default={"train": 1.0}, description="name -> share; they add up to 1")
    split_by: str | None = Field(default=None, description="rows that agree in this column stay in one split")
    append: bool = Field(default=False, description="keep the parent's rows, send only new seeds down the road")
    target_rows: int | None = Field(
        default=None, ge=1, description="stop at the first seed that makes so many published rows; then ask nothing"
    )

    @field_validator("splits")
    @classmethod
    def _whole(cls, splits: dict[str, float]) -> dict[str, float]:
        for name, share in splits.items():
            safe_name(name, "split")
            if not 0 < share <= 1:
                raise ValueError(f"share of split {name!r} is {share}, must be above 0 and at most 1")
        if abs(sum(splits.values()) - 1) > 1e-6:
            raise ValueError(f"shares add up to {sum(splits.values()):g}, must be 1")
        return splits


class BudgetSettings(Settings):
    """How much money may be spent. Worst cases are reserved before anything is sent."""

    usd: float | None = Field(default=None, description="US dollars per run; the next run goes on")
    usd_total: float | None = Field(default=None, description="US dollars over the life of the dataset")

    @field_validator("usd", "usd_total")
    @classmethod
    def _above_zero(cls, usd: float | None) -> float | None:
        if usd is not None and usd <= 0:
            raise ValueError("must be above 0; a build that spends nothing is `distillgen build --offline`")
        return usd


class Recipe(Settings):
    """A checked recipe. Paths in it are relative to `Source.folder`."""

    name: str
    description: str = ""
    seeds: SeedSettings
    teachers: dict[str, TeacherSettings] = {}
    steps: list[Step] = Field(min_length=1)
    student: StudentSettings = StudentSettings()
    dataset: DatasetSettings = DatasetSettings()
    budget: BudgetSettings = BudgetSettings()

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        return safe_name(name, "dataset name")

    @model_validator(mode="after")
    def _teachers_named(self) -> "Recipe":
        for index, step in enumerate(self.steps):
            if isinstance(step, GenerateStep):
                self.teachers_of(step, index)
        return self

    def teachers_of(self, step: GenerateStep, index: int = 0) -> list[str]:
        """Return the keys in [teachers] of those that a generate step may ask, in its order."""
        names = [step.teacher] if isinstance(step.teacher, str) else list(step.teacher)
        if names == [""] and len(self.teachers) == 1:
            return list(self.teachers)
        if not self.teachers:
            raise _Located(f"{step.use} needs a teacher", ("steps", index), "add a table such as [teachers.main]")
        if names == [""]:
            raise _Located("which teacher?", ("steps", index, "teacher"), nearest("", self.teachers))
        for name in names:
            if name not in self.teachers:
                raise _Located(f"unknown teacher {name!r}", ("steps", index, "teacher"), nearest(name, self.teachers))
        return names


class _Located(UsageError, ValueError):
    """A problem found by a check of ours inside pydantic's, with the path of the key."""

    def __init__(self, what: str, path: tuple[str | int, ...], fix: str) -> None:
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
        overridden = any(dotted == name or dotted.startswith((f"{name}.", f"{name}[")) for name in self.overrides)
        if overridden or not self.text:
            return Problem(what, self.options.get(dotted, f"--set {dotted}"), fix)
        return Problem(what, f"{self.path}:{line_of(self.text, key)} ({dotted})" if key else str(self.path), fix)


def spell(key: Sequence[str | int]) -> str:
    """Return a path of keys as people write it: `steps[1].rules[2]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> tuple[Recipe, Source]:
    """Read and check one recipe; `overrides` are KEY=VALUE with dotted keys and TOML values.

    Raises RecipeMissing, RecipeSyntax, or RecipeInvalid with every problem found.
    """
    if path.is_dir():
        path = path / "recipe.toml"
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
    applied = dict(_override(table, text_override) for text_override in overrides)
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


def _override(table: dict[str, Any], assignment: str) -> tuple[str, Any]:
    """Put one KEY=VALUE into the table; returns the key as problems spell it, and the value."""
    key, equals, text = assignment.partition("=")
    parts = [part for part in key.replace("[", ".").replace("]", "").split(".") if part]
    if not equals or not parts:
        raise UsageError(f"--set {assignment!r} is not KEY=VALUE", fix="for instance --set steps.0.samples=4")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    place: Any = table
    path: list[str | int] = []
    for depth, part in enumerate(parts):
        step: str | int = int(part) if isinstance(place, list) and part.isdigit() else part
        path.append(step)
        is_last = depth == len(parts) - 1
        try:
            if is_last:
                place[step] = value
            else:
                place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
        except (TypeError, IndexError, AttributeError):
            raise UsageError(f"--set {assignment!r}: the recipe has no {spell(path)}") from None
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
            found.setdefault(path, source.problem(_say(entry, path), path))
    return list(found.values())


def _say(entry: Any, path: Sequence[str | int]) -> str:
    if entry["type"] == "too_short":
        return f"{str(path[-1])!r} is empty"
    message = entry["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = entry.get("input")
    return message if isinstance(value, dict | list) else f"{str(path[-1])!r} is {value!r}: {message}"


def _toml_path(loc: tuple[str | int, ...], table: Any) -> tuple[str | int, ...]:
    """Drop from pydantic's location what is not in the file: tags of unions and names of types."""
    path: list[str | int] = []
    for depth, part in enumerate(loc):
        if depth == 2 and loc[0] == "steps":
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
    if len(path) >= 3 and path[0] == "steps" and isinstance(path[1], int):
        model: type[BaseModel] = STEPS[table["steps"][path[1]]["use"]]
    elif len(path) >= 3 and path[0] == "teachers":
        inner: dict[str | int, type[BaseModel]] = {"limits": LimitSettings, "prices": PriceSettings}
        model = inner.get(path[2], TeacherSettings) if len(path) > 3 else TeacherSettings
    else:
        tables: dict[str | int, type[BaseModel]] = {
            "seeds": SeedSettings,
            "student": StudentSettings,
            "dataset": DatasetSettings,
            "budget": BudgetSettings,
        }
        model = tables.get(path[0], Recipe) if len(path) > 1 else Recipe
    return list(model.model_fields)
