"""How a student is trained: a small TOML file, checked whole; what it leaves open goes by size of model and rows."""

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from distillgen.errors import Problem, RecipeInvalid, UsageError, nearest
from distillgen.recipe import Source, override, spell
from distillgen.settings import Settings

MOST_BYTES = 1_000_000
MOST_TOKENS = 2048  # of a row, where nothing is said and the model could read more
SMALL = 1_000_000_000  # parameters under which all weights are trained
FEWEST_STEPS = 60  # fewer teach little: measured with 21, 25 and 50 steps
FEW_STEPS = 20  # of an epoch that is looked at and kept once: each time all weights are written
MOST_EPOCHS = 10  # that few rows are repeated to come to these steps


class LoraSettings(Settings):
    """The adapter, where `method` is "lora"; it is merged into the weights at the end."""

    r: int = Field(default=16, ge=1, le=1024, description="rank: how many numbers a change of a matrix is made of")
    alpha: float = Field(default=32.0, gt=0, description="scale of the change; it is divided by the rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of its inputs left out at random")
    target: str | list[str] = Field(
        default="all-linear", description='the layers that get one: "all-linear", or names of modules'
    )


class DpoSettings(Settings):
    """Training on pairs."""

    beta: float = Field(default=0.1, gt=0, description="how firmly the student is held to what the base would say")


class TrainingSettings(Settings):
    """Everything that changes how a student is trained."""

    method: Literal["full", "lora"] = Field(
        description="train all weights, or a small adapter that is merged at the end"
    )
    learning_rate: float = Field(gt=0, le=1, description="the highest; see `warmup` and `schedule`")
    epochs: int = Field(ge=1, le=1000, description="how often each row is seen")
    rows: int = Field(
        default=0,
        ge=0,
        le=2**53,
        description="train on so many of the rows, always the same ones; 0: all",
    )
    batch: int = Field(default=8, ge=1, le=4096, description="rows at once; memory grows with it")
    accumulate: int = Field(default=1, ge=1, le=4096, description="batches to a step: large steps in little memory")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="how the learning rate falls after that"
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="how much weights are drawn to nought")
    max_tokens: int = Field(
        default=0, ge=0, description=f"of a row, answer included; 0: the model's context, at most {MOST_TOKENS:,}"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the arithmetic; auto: bfloat16 where the processor has it. Weights are float32"
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="of the order of rows and of initial values")
    validations: int = Field(
        ge=1, le=1000,
        description="looks at the validation split in an epoch; each makes a checkpoint, also without such a split",
    )  # fmt: skip
    best: Literal["accuracy", "loss"] = Field(
        description="which look's weights are kept: accuracy: of most tokens of the answers that it would have written "
        "(of most pairs in the right order); loss: of least surprise"
    )
    patience: int = Field(
        default=3, ge=0, le=1000, description="looks at the validation split without gain before it stops; 0: never"
    )
    keep_checkpoints: int = Field(default=1, ge=1, le=100, description="newest ones kept, besides the best")
    threads: int = Field(default=0, ge=0, le=4096, description="of the processor; 0: all that are allowed")
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto: a GPU where there is one")
    lora: LoraSettings = Field(default=LoraSettings(), description="the adapter, where `method` is lora")
    dpo: DpoSettings = Field(default=DpoSettings(), description="training on pairs")


@dataclass(frozen=True)
class GivenSettings:
    """What was said of the settings, each key checked: the rest of them goes by what is trained on what."""

    table: Mapping[str, Any]
    source: Source

    def completed(self, *, parameters: int, train_rows: int, are_pairs: bool) -> TrainingSettings:
        """Return the settings in force: what nobody said goes by the model's size in parameters and by the rows."""
        try:
            return TrainingSettings.model_validate(_completed(self.table, parameters, train_rows, are_pairs))
        except ValidationError as error:
            raise RecipeInvalid(_problems(error, self.source)) from None


def read_settings(path: Path | None, overrides: Sequence[str] = (), seed: int | None = None) -> GivenSettings:
    """Return what is said of the settings: by a file, over that by `overrides` (KEY=VALUE, values as TOML) and `seed`.

    Raises UsageError for a file that cannot be read or an override that is none, RecipeInvalid with every problem
    found, each with line and key.
    """
    text = _read_text(path) if path is not None else ""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(
            f"not valid TOML: {error}", where=str(path), fix="see https://toml.io for the format"
        ) from None
    applied = dict(override(table, assignment, "these settings", "epochs=3") for assignment in overrides)
    if seed is not None:
        table["seed"] = applied["seed"] = seed
    source = Source(path or Path("settings.toml"), text, applied, {"seed": "--seed"} if seed is not None else {})
    given = GivenSettings(table, source)
    given.completed(parameters=1, train_rows=1, are_pairs=False)  # a mistake is told before there is a model to fit
    return given


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"larger than {MOST_BYTES:,} bytes", where=str(path), fix="are these training settings?")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8 (byte {error.start})", where=str(path)) from None
    except OSError as error:
        raise UsageError(f"cannot read the settings: {error.strerror}", where=str(path)) from None


def _completed(table: Mapping[str, Any], parameters: int, rows: int, are_pairs: bool) -> dict[str, Any]:
    """Return the table with what goes by size and rows added where it says nothing."""
    method = table.get("method", "lora" if are_pairs or parameters >= SMALL else "full")
    batch, accumulate = (_count(table.get(name), default) for name, default in (("batch", 8), ("accumulate", 1)))
    rows = min(rows, _count(table.get("rows"), rows))
    steps = math.ceil(max(rows, 1) / (batch * accumulate))  # in an epoch
    epochs = _epochs(rows, steps)
    looks = 1 if steps < FEW_STEPS else 4 if _count(table.get("epochs"), epochs) == 1 else 2
    chosen = {
        "method": method,
        "learning_rate": _learning_rate(method == "full", parameters, are_pairs),
        "epochs": epochs,
        "validations": looks,
        # Among labels of which some are wrong, loss favours the student that is not sure of anything yet: measured with
        # 865 of them, 13 % wrong. Of pairs nearly all are soon in the right order.
        "best": "loss" if are_pairs else "accuracy",
    }
    return {**chosen, **table}


def _count(said: Any, default: int) -> int:
    """Return a number as said, where it is one that counts; what is wrong with it is told by the check of the whole."""
    return said if type(said) is int and said > 0 else default


def _learning_rate(is_full: bool, parameters: int, are_pairs: bool) -> float:
    """Measured for SFT under a billion parameters (135 M: 3e-5 to 1e-4 full, 5e-4 LoRA); the others are customary.

    In full, 1e-4 does as well in the end, but a second epoch of 865 rows first undid a part of what the first had won.
    """
    if are_pairs:
        return 5e-6 if is_full else 5e-5
    if parameters < SMALL:
        return 5e-5 if is_full else 5e-4
    return 2e-5 if is_full else 2e-4


def _epochs(rows: int, steps: int) -> int:
    """Return how often rows are seen that make so many steps: the fewer, the oftener."""
    usual = 3 if rows < 600 else 2 if rows < 5000 else 1
    return max(usual, min(math.ceil(FEWEST_STEPS / steps), MOST_EPOCHS))


def _problems(error: ValidationError, source: Source) -> Iterator[Problem]:
    """Yield one problem a key, as the recipe's are told."""
    told = set()
    for entry in error.errors():
        key = _key_of(entry["loc"])
        if (spelt := spell(key)) in told:
            continue
        told.add(spelt)
        if entry["type"] == "extra_forbidden":
            yield source.problem(f"unknown key {key[-1]!r}", key, nearest(key[-1], _known(key[:-1])))
        else:
            message = entry["msg"][0].lower() + entry["msg"][1:]
            yield source.problem(f"{key[-1]!r} is {entry['input']!r}: {message}", key)


def _key_of(places: Sequence[str | int]) -> list[str]:
    """Return the key that an error is about, without the type that pydantic names behind one that may be of several."""
    key = [part for part in places if isinstance(part, str)]
    return key[:-1] if len(key) > 1 and key[-1] in ("str", "list[str]") and key[-2] == "target" else key


def _known(around: Sequence[str]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {"lora": LoraSettings, "dpo": DpoSettings}
    return list((tables[around[0]] if around else TrainingSettings).model_fields)
