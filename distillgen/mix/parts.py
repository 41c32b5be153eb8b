"""What goes into a mix: published versions, each with its share of the rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from distillgen.dataset.manifest import FILE_NAME
from distillgen.dataset.seal import FIELD as SEAL
from distillgen.dataset.seal import seal_holds
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, UsageError
from distillgen.files import read_jsonl
from distillgen.rows import Rejection

STEP = "mix"  # in the funnel, and in the provenance of every row
KINDS = ({"id", "messages"}, {"id", "prompt", "chosen", "rejected"})  # columns of a row; `reasoning` may be one more
HELD_OUT = "held_out"  # the rule that leaves a row of `train` out because another split has it too


class Place(NamedTuple):
    """Where a row stands. Rows are drawn in the order of their lots."""

    lot: int
    id: str
    split: str
    path: Path
    offset: int


@dataclass
class Part:
    """One version that goes into the mix.

    `weight` is its share as a whole number, `ratio` as a share of one; `rows` are those that may be drawn, by lot;
    `left_out` tells of the others, by id, why not; `renamed` are ids that a part before it has too. Rows of `train`
    in `asks_held_out` have the prompt of a row of another split, with another answer.
    """

    version: Version
    weight: int
    ratio: float
    rows: list[Place] = field(default_factory=list)
    left_out: dict[str, Rejection] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    asks_held_out: set[str] = field(default_factory=set)
    count: int = 0  # rows drawn

    @property
    def label(self) -> str:
        """`name@3`."""
        return self.version.label

    @property
    def drawn(self) -> list[Place]:
        """The rows that go into the mix, by lot."""
        return self.rows[: self.count]

    @property
    def not_drawn(self) -> int:
        """How many rows could have been drawn too."""
        return len(self.rows) - self.count

    def left_out_by(self, *rules: str) -> int:
        """Return how many rows some rules left out."""
        return sum(each.rule in rules for each in self.left_out.values())


def parts_of(words: Sequence[tuple[Version, Fraction]]) -> list[Part]:
    """Return the parts with shares that add up to one. Raises UsageError for what cannot be mixed, Damaged."""
    scale = math.lcm(*(ratio.denominator for _, ratio in words))
    weights = [int(ratio * scale) for _, ratio in words]
    common, total = math.gcd(*weights), sum(weights)
    parts = [
        Part(version, weight // common, weight / total) for (version, _), weight in zip(words, weights, strict=True)
    ]
    seen: dict[str, str] = {}
    for part in parts:
        digest = part.version.manifest.digest
        if digest in seen:
            raise UsageError(f"{part.label} has the same rows as {seen[digest]}", fix="name it once")
        seen[digest] = part.label
        _require_sealed(part.version)
    kinds = {part.label: keys for part in parts if (keys := keys_of(part.version))}
    for label, keys in kinds.items():
        if {*keys} - {"reasoning"} not in KINDS:
            told = ", ".join(repr(key[:40]) for key in keys[:20])
            raise UsageError(
                f"{label} has rows of {told}: neither conversations nor pairs", fix="leave it out of the mix"
            )
    pairs = [label for label, keys in kinds.items() if "chosen" in keys]
    others = [label for label, keys in kinds.items() if "chosen" not in keys]
    if pairs and others:
        raise UsageError(
            f"{pairs[0]} holds preference pairs, {others[0]} conversations", fix="mix versions of one kind"
        )
    return parts


def _require_sealed(version: Version) -> None:
    """Raise Damaged for a manifest that is not as it was written: it says the terms. Early ones have no seal."""
    path = version.folder / FILE_NAME
    content = path.read_bytes()
    if f'"{SEAL}": "'.encode() in content[-100:] and not seal_holds(content):
        raise Damaged("is not as it was written: its seal does not hold", where=str(path), fix="distillgen repair")


def keys_of(version: Version) -> tuple[str, ...]:
    """Return the columns of a version's rows; of one without rows, none."""
    for split in version.split_names():
        for path in version.data_files(split):
            for row in read_jsonl(path):
                return tuple(row)
    return ()


def all_keys(parts: Sequence[Part]) -> list[str]:
    """Return the columns of the result: all that any part has."""
    return list(dict.fromkeys(key for part in parts for key in keys_of(part.version)))


def new_names(tables: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, str]]:
    """Return what the entries of several datasets' tables are called in one table together.

    Where two differ under one name, the later has its dataset's name before its own.
    """
    united: dict[str, Any] = {}
    names: list[dict[str, str]] = []
    for dataset, table in tables:
        new = {}
        for name, value in table.items():
            free = name
            while free in united and united[free] != value:
                free = f"{dataset}.{free}"
            united[free], new[name] = value, free
        names.append(new)
    return names


def teacher_names(parts: Sequence[Part]) -> list[dict[str, str]]:
    """Return what the teachers of each part are called in the mix: those of one name are one teacher only where they
    are the same and had the same prices, so that what a row cost can be reckoned from the mix alone."""
    return new_names([(part.version.manifest.name, _priced(part)) for part in parts])


def _priced(part: Part) -> dict[str, Any]:
    manifest = part.version.manifest
    return {name: (facts, prices_of(part, name)) for name, facts in manifest.teachers.items()}


def prices_of(part: Part, teacher: str) -> Mapping[str, Any] | None:
    """Return the prices that a part has on record for one of its teachers."""
    asked = part.version.manifest.run.get("teachers", {}).get(teacher, {})
    prices: Mapping[str, Any] | None = asked.get("prices")
    return prices


def united(tables: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the one table."""
    names = new_names(tables)
    return {new[name]: table[name] for (_, table), new in zip(tables, names, strict=True) for name in table}
