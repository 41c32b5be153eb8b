"""What is to be trained on what: the order, what of it changes the student, and which splits are used for what."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillgen.dataset.versions import Version
from distillgen.errors import UsageError
from distillgen.export.options import Reasoning
from distillgen.export.trainers.settings import VALIDATION
from distillgen.files import canonical, digest, file_sha256
from distillgen.processes import processors
from distillgen.student.settings import MOST_TOKENS, TrainingSettings

if TYPE_CHECKING:
    from distillgen.student.base import Base

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")  # their versions change the result
NOT_RESULT = ("keep_checkpoints",)  # settings that change nothing of the student


@dataclass(frozen=True)
class Order:
    """What is to be trained on what, and how. `terms` is what the student's manifest says of the teachers' terms."""

    version: Version
    base: "Base"
    out: Path
    settings: TrainingSettings
    long: Literal["error", "drop", "truncate"] = "error"
    reasoning: Reasoning = "think"
    gguf: Literal["q8_0", "f16", "none"] = "q8_0"
    terms: Mapping[str, Any] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """Where the training is done."""
        out = self.out.absolute()
        return out.parent / f".{out.name}.training"


def split_to_train(version: Version) -> str:
    """Return the split to train on: `train`, else the first that is not for watching or testing.

    Raises UsageError where there is none, or it is empty.
    """
    splits = version.manifest.splits
    names = [name for name in splits if name == "train" or name not in (*VALIDATION, "test")]
    name = "train" if "train" in names else next(iter(names), None)
    if name is None or not splits[name]:
        there = ", ".join(f"{each} ({count:,} rows)" for each, count in splits.items()) or "none"
        what = "no split to train on" if name is None else f"no rows in the split {name!r}"
        raise UsageError(
            f"{version.label} has {what}; its splits: {there}", where=str(version.folder),
            fix="write [dataset] splits = { train = 0.9, validation = 0.1 } into the recipe and build again",
        )  # fmt: skip
    return name


def split_to_watch(version: Version) -> str | None:
    """Return the split by which the training is stopped in time, None where there is none with rows."""
    splits, trained = version.manifest.splits, split_to_train(version)
    return next((name for name in VALIDATION if splits.get(name) and name != trained), None)


def effective(order: Order) -> Order:
    """Return the order with every setting as it will be. Raises UsageError for one that the base does not bear."""
    settings, context = order.settings, order.base.context or MOST_TOKENS
    if settings.max_tokens > context:
        raise UsageError(
            f"max_tokens = {settings.max_tokens:,} is more than the {context:,} tokens that {order.base.name} reads",
            fix=f"--set max_tokens={context}, or another base",
        )
    changes = {
        "max_tokens": settings.max_tokens or min(context, MOST_TOKENS),
        "threads": settings.threads or processors(),
    }
    return replace(order, settings=settings.model_copy(update=changes))


def asked_for(order: Order) -> dict[str, Any]:
    """Return all that changes the student, as order.json keeps it."""
    manifest = order.version.manifest
    settings = {key: value for key, value in order.settings.model_dump().items() if key not in NOT_RESULT}
    software = {name: _installed(name) for name in PACKAGES}
    return {
        "dataset": manifest.name, "dataset_digest": manifest.digest,
        "train": {name: manifest.splits[name] for name in [split_to_train(order.version)]},
        "validation": {name: manifest.splits[name] for name in [split_to_watch(order.version)] if name},
        "base": order.base.sha256, "wording": wording(order.base.folder),
        "settings": settings, "long": order.long, "reasoning": order.reasoning,
        "software": software,
    }  # fmt: skip


def wording(folder: Path) -> str:
    """Return the digest of what makes tokens of a conversation: tokenizer and chat template."""
    kinds = ("*token*.json", "*.jinja", "*.model", "vocab*", "merges.txt")
    files = sorted({path for kind in kinds for path in folder.glob(kind) if path.is_file()})
    return digest(*(part for path in files for part in (path.name.encode(), file_sha256(path).encode())))


def _installed(package: str) -> str:
    try:
        return installed(package)
    except PackageNotFoundError:
        return "not installed"


def order_digest(asked: Mapping[str, Any], gguf: str) -> str:
    """Return the digest of what the user asked for: not of software and threads, which a finished student outlives."""
    settings = {key: value for key, value in asked["settings"].items() if key != "threads"}
    return digest(canonical({**asked, "settings": settings, "software": {}, "gguf": gguf}))


def differences(there: Any, asked: Mapping[str, Any], before: str = "", most: int = 4) -> list[str]:
    """Return where two orders differ, the first few."""
    found: list[str] = []
    for key, value in asked.items():
        old = there.get(key) if isinstance(there, dict) else None
        if isinstance(value, dict) and isinstance(old, dict):
            found += differences(old, value, f"{key}.")
        elif old != value:
            found.append(f"{before}{key} was {str(old)[:40]}, is {str(value)[:40]}")
    return found[:most]
