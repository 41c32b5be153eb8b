"""What a recipe may say of each step, and what is checked of it by itself."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from distillgen.settings import Settings


def _kind(teacher: Any) -> str:
    """Tell what is meant, so that a mistake in it is reported once and not for each kind."""
    return "weights" if isinstance(teacher, dict) else "list" if isinstance(teacher, list) else "name"


Whom: TypeAlias = Annotated[
    Annotated[str, Tag("name")] | Annotated[list[str], Tag("list")] | Annotated[dict[str, float], Tag("weights")],
    Discriminator(_kind),
]


class GenerateStep(Settings):
    """Ask a teacher about each row."""

    use: Literal["generate"] = Field(description="which step this is")
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

    use: Literal["filter"] = Field(description="which step this is")
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


def _listed(one_or_many: str | list[str]) -> list[str]:
    return [one_or_many] if isinstance(one_or_many, str) else list(one_or_many)


class DeduplicateStep(Settings):
    """Keep the first of equal or nearly equal rows."""

    use: Literal["deduplicate"] = Field(description="which step this is")
    on: str | list[str] = Field(default="answer", description="column or columns that are compared")
    near: float | None = Field(
        default=None, ge=0.3, le=1.0, description="Jaccard similarity of word n-grams that counts as the same"
    )
    words: int = Field(default=3, ge=1, le=10, description="words of an n-gram")
    bands: list[int] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="of the sketch: their number, and rows of one; default: by `near`",
    )
    meaning: float | None = Field(
        default=None, ge=0.5, le=1.0, description="cosine similarity of embeddings that counts as the same"
    )
    samples: Literal["keep", "compare"] = Field(
        default="keep", description="keep: samples of one prompt are not compared with each other"
    )
    against: Literal["previous"] | list[str] = Field(
        default=[], description='"previous": the version that is appended to; or a list of datasets and files'
    )
    against_column: str | None = Field(default=None, description="the column of `against` files; default: as `on`")

    @property
    def columns(self) -> list[str]:
        """The column or columns as a list."""
        return _listed(self.on)

    @field_validator("on")
    @classmethod
    def _some(cls, on: str | list[str]) -> str | list[str]:
        if not on:
            raise ValueError("name at least one column")
        return on

    @model_validator(mode="after")
    def _possible(self) -> "DeduplicateStep":
        if self.against_column is not None and (self.against == "previous" or len(self.columns) > 1):
            raise ValueError("`against_column` goes with a list as `against` and a single column as `on`")
        if self.bands is not None:
            if self.near is None:
                raise ValueError("`bands` goes with `near`")
            if min(self.bands) < 1 or self.bands[0] * self.bands[1] > 128:
                raise ValueError("`bands` must be two numbers above 0 whose product is at most 128")
        return self


class BenchmarkSettings(Settings):
    """A benchmark that no row may hold."""

    path: str = Field(description="a file: jsonl, csv, parquet or txt (one item a line)")
    columns: list[str] = Field(default=[], description="its columns that count, each apart; default: all texts")
    name: str | None = Field(default=None, description="how rejections call it; default: the file's name")


class DecontaminateStep(Settings):
    """Refuse rows that hold items of a benchmark."""

    use: Literal["decontaminate"] = Field(description="which step this is")
    against: list[str | BenchmarkSettings] = Field(min_length=1, description="benchmark files, or tables with `path`")
    on: str | list[str] | None = Field(
        default=None, description="columns that are checked, each apart; default: those that [student] names"
    )
    words: int = Field(default=8, ge=3, le=30, description="words of an n-gram")
    coverage: float = Field(default=0.5, gt=0, le=1, description="share of an item's words that counts as holding it")
    stock: int = Field(
        default=10, ge=1, description="n-grams that more items than this share are stock phrases: ignored"
    )

    @property
    def columns(self) -> list[str] | None:
        """The columns as a list, None for those that the student sees."""
        return None if self.on is None else _listed(self.on)


class VerifyStep(Settings):
    """Check an answer against a reference."""

    use: Literal["verify"] = Field(description="which step this is")
    how: Literal["exact", "choice", "number", "math", "json", "code"] = Field(description="how the two are compared")
    answer: str | None = Field(default=None, description="the column that is checked; default: what was written last")
    reference: str = Field(default="reference", description="the column with the right answer, or the tests of code")
    extract: str = Field(default="", description="regular expression whose group is the answer within the reference")
    tolerance: float = Field(default=0.0, ge=0, lt=1, description="relative difference of numbers that is still right")
    keep: Literal["right", "all"] = Field(default="right", description="right: wrong rows are rejected")
    write: str = Field(default="verified", description="with keep = all: the column that says whether it is right")
    seconds: float = Field(
        default=10, gt=0, le=600, description="code: processor time of a run; four times that on the clock"
    )
    memory_mb: int = Field(default=512, ge=64, le=65_536, description="code: memory limit of a run")


class JudgeStep(Settings):
    """Have a teacher score rows by a rubric, or say which of two texts is better."""

    use: Literal["judge"] = Field(description="which step this is")
    teacher: str | list[str] = Field(
        default="", description="a key of [teachers], or several whose scores are averaged"
    )
    prompt: str | None = Field(
        default=None, description="a template that writes `score`; default: judge, or judge_pair"
    )
    pair: list[str] | None = Field(
        default=None, min_length=2, max_length=2, description="two columns that are compared, in both orders"
    )
    rubric: str | None = Field(default=None, description="what counts; default: the template's")
    values: dict[str, Any] = Field(default={}, description="fixed values for the template, besides the columns")
    read: dict[str, str] = Field(default={}, description="template variable -> column")
    min_score: float | None = Field(default=None, description="rows below are rejected; default: none is")
    own_answers: bool = Field(default=False, description="let a judge score what it wrote itself")
    write: str = Field(default="score", description="the column of the mean score")

    @property
    def teachers(self) -> list[str]:
        """The judges as a list."""
        return _listed(self.teacher)

    @field_validator("teacher")
    @classmethod
    def _some(cls, teacher: str | list[str]) -> str | list[str]:
        if isinstance(teacher, list) and (not teacher or len(set(teacher)) < len(teacher)):
            raise ValueError("name at least one judge, and none twice")
        return teacher


class SelectStep(Settings):
    """Choose among all samples of one parent."""

    use: Literal["select"] = Field(description="which step this is")
    keep: Literal["majority", "best", "shortest", "longest", "pair"] = Field(description="which of them")
    on: str | None = Field(default=None, description="the column that votes or is measured; default: the answer")
    by: str | None = Field(default=None, description="best, pair: the column with the score, or with true and false")
    where: str | None = Field(default=None, description="only samples in which this column is true may be kept")
    compare: Literal["exact", "number"] = Field(default="exact", description="majority: when two answers are the same")
    min_samples: int = Field(default=1, ge=1, description="fewer answered samples: all are rejected")
    min_agreement: float = Field(default=0.0, ge=0, le=1, description="majority: share of all samples that must agree")
    min_gap: float = Field(default=0.0, ge=0, description="pair: difference of the scores that is needed")

    @model_validator(mode="after")
    def _possible(self) -> "SelectStep":
        if self.keep in ("best", "pair") and self.by is None:
            raise ValueError(f'`keep = "{self.keep}"` needs `by`, the column with the score')
        return self


class BootstrapStep(Settings):
    """Grow a pool of rows in rounds, each made from examples out of the pool."""

    use: Literal["bootstrap"] = Field(description="which step this is")
    steps: "list[Step]" = Field(min_length=1, description="what a round does: generate, filter, deduplicate, ...")
    show: str = Field(default="question", description="the column of the pool that is shown as an example")
    examples: int = Field(default=5, ge=1, le=100, description="examples of a draw")
    from_seeds: int = Field(default=0, ge=0, le=100, description="so many of them, at least, from the incoming rows")
    draws: int = Field(default=50, ge=1, le=100_000, description="draws of a round, each a request")
    rounds: int = Field(default=10, ge=1, le=10_000, description="most rounds")
    rows: int | None = Field(default=None, ge=1, description="stop when so many rows were made")
    keep_seeds: bool = Field(default=True, description="the incoming rows go on, before those that were made")

    @model_validator(mode="after")
    def _possible(self) -> "BootstrapStep":
        if self.from_seeds > self.examples:
            raise ValueError("`from_seeds` is more than `examples`")
        inside = [step.use for step in self.steps]
        if inside[0] != "generate":
            raise ValueError("the first of its `steps` must be `generate`")
        if wrong := [use for use in inside if use in ("bootstrap", "select")]:
            raise ValueError(f"`{wrong[0]}` cannot stand inside a bootstrap")
        return self


Step: TypeAlias = Annotated[
    GenerateStep
    | FilterStep
    | DeduplicateStep
    | DecontaminateStep
    | VerifyStep
    | JudgeStep
    | SelectStep
    | BootstrapStep,
    Field(discriminator="use"),
]
BootstrapStep.model_rebuild()
STEPS: dict[str, type[Settings]] = {
    "generate": GenerateStep, "filter": FilterStep, "deduplicate": DeduplicateStep, "decontaminate": DecontaminateStep,
    "verify": VerifyStep, "judge": JudgeStep, "select": SelectStep, "bootstrap": BootstrapStep,
}  # fmt: skip
