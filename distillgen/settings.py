"""What a recipe may say, table by table, and what is checked of each by itself; the steps are in step_settings.py."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from distillgen.files import safe_name


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

    @field_validator("path")
    @classmethod
    def _alone(cls, path: str | list[str]) -> str | list[str]:
        if isinstance(path, list) and "-" in path:
            raise ValueError('standard input comes once and alone: path = "-"')
        return path

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
    limits: LimitSettings = Field(default=LimitSettings(), description="how hard it may be asked")
    prices: PriceSettings | None = Field(default=None, description="instead of the price list's")
    mode: Literal["live", "batch"] = Field(default="live", description="batch: cheaper, and answered within a day")
    sampling: dict[str, Any] = Field(default={}, description="temperature, max_tokens, ... as the endpoint names them")


class StudentSettings(Settings):
    """What the student sees, which need not be what the teacher saw."""

    system: str | None = Field(default=None, description="template of the system message")
    prompt: str | None = Field(default=None, description="template of the user's turn; default: the seed's `messages`")
    completion: str = Field(default="{{ answer }}", description="template of what the student shall answer")
    reasoning: str | None = Field(default=None, description="template of the reasoning trace, kept in its own column")
    rejected: str | None = Field(
        default=None, description="template of the worse answer: rows become preference pairs, `completion` the better"
    )


class GateSettings(Settings):
    """What a version must reach; else nothing is published."""

    min_rows: int | None = Field(default=None, ge=1, description="published rows")
    max_rejected: float | None = Field(default=None, ge=0, le=1, description="share of rows that were rejected")
    max_failed: float | None = Field(default=None, ge=0, le=1, description="share of rows that failed")
    min_agreement: float | None = Field(default=None, ge=0, le=1, description="mean agreement of `select` majorities")
    min_score: float | None = Field(default=None, description="mean score of `judge`")


class DatasetSettings(Settings):
    """How rows become a version."""

    splits: dict[str, float] = Field(default={"train": 1.0}, description="name -> share; they add up to 1")
    split_by: str | None = Field(default=None, description="rows that agree in this column stay in one split")
    append: bool = Field(default=False, description="keep the parent's rows, send only new seeds down the road")
    exclude: str | None = Field(default=None, description="file of ids, one a line: rows that must not be in it")
    gate: GateSettings = Field(default=GateSettings(), description="what a version must reach to be published")
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


class TermsSettings(Settings):
    """What the dataset is for, by the owner's own word: what the terms of its teachers are read against."""

    purpose: Literal["evaluation", "research", "internal", "product", "open-weights"] = Field(
        default="internal", description="what is trained on the dataset, if anything, and who gets it"
    )
    competing: Literal["yes", "no", "unknown"] = Field(
        default="unknown", description="whether the student competes with the teachers' owners"
    )
    note: str = Field(default="", description="a note of the owner, for the card")
    accept: list[str] = Field(default=[], description="ids of entries that may stop a build, and shall not")
    strict: bool = Field(default=False, description="stop a build where the terms are unknown, too")


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
