"""The rows that the report's browser shows: a sample when there are many, packed so that nothing in them is markup."""

import base64
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from distillgen.dataset.looking import records_of, training_rows
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged
from distillgen.report.alike import likeness_of
from distillgen.report.numbers import SIDECARS

IN_A_BLOCK = 500  # rows that are packed together
MOST_TEXT = 100_000  # characters of one text that the page shows
_ROUTINE = {"key", "prompt_sha256", "fingerprint"}


@dataclass(frozen=True)
class Shown:
    """How many rows of a kind the page holds, of how many there are."""

    kind: str
    shown: int
    of: int

    @property
    def is_sample(self) -> bool:
        """Whether some are not in the page."""
        return self.shown < self.of


def shown_of(version: Version, most: int | None) -> list[Shown]:
    """Return how many rows of each kind are in the page when it holds at most so many of each; None: all."""
    funnel = version.manifest.funnel
    there = {
        "published": version.manifest.rows,
        "rejected": sum(sum(step["rejected"].values()) for step in funnel),
        "failed": sum(sum(step["failed"].values()) for step in funnel),
    }
    return [Shown(kind, there[kind] if most is None else min(most, there[kind]), there[kind]) for kind in SIDECARS]


def blocks(version: Version, shown: Iterable[Shown], also: Collection[str] = ()) -> Iterator[str]:
    """Yield the rows of a version that are shown, and those with the ids `also`, in blocks. Raises Damaged."""
    return packed(row for part in shown if part.shown for row in _spread(_rows(version, part.kind), part, also))


def packed(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield rows in blocks: JSON lists, compressed (raw deflate) and written in base64."""
    rows = iter(rows)
    while block := list(islice(rows, IN_A_BLOCK)):
        packer = zlib.compressobj(3, zlib.DEFLATED, -15)
        yield base64.b64encode(packer.compress(orjson.dumps(block)) + packer.flush()).decode()


def _spread(rows: Iterator[dict[str, Any]], part: Shown, also: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield rows from all over, evenly: the same ones each time."""
    if not part.is_sample:
        yield from rows
        return
    for place, row in enumerate(rows):
        if place * part.shown // part.of != (place + 1) * part.shown // part.of or row["id"] in also:
            yield row


def _rows(version: Version, kind: str) -> Iterator[dict[str, Any]]:
    if kind == "published":
        yield from _published(version)
        return
    for record in records_of(version, SIDECARS[kind]):
        yield {
            "id": record["id"],
            "kind": kind,
            "why": record.get("rule") or record.get("cause") or "",
            "step": record["step"],
            "detail": record["detail"],
            **_likeness(record),
            **_story(record),
        }


def _likeness(record: Mapping[str, Any]) -> dict[str, Any]:
    like = likeness_of(record)
    return {} if like is None else {"like": like.kept, "similarity": like.similarity}


def _published(version: Version) -> Iterator[dict[str, Any]]:
    """Yield published rows in the order of their provenance; each split's data files are read along with it."""
    data = {split: training_rows(version, split) for split in version.split_names()}
    for record in records_of(version, "provenance"):
        row = next(data.get(record["split"], iter(())), None)
        if row is None or row["id"] != record["id"]:
            raise Damaged(
                f"row {record['id']} of the provenance is not at its place in the data",
                where=str(version.folder), fix="distillgen check",
            )  # fmt: skip
        yield {
            "id": record["id"],
            "kind": "published",
            "split": record["split"],
            **training(row),
            **_story(record),
        }


def training(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a student sees of a row: its conversation, or one with two endings, and the reasoning."""
    return {
        name: _bounded(row[name]) for name in ("messages", "prompt", "chosen", "rejected", "reasoning") if row.get(name)
    }


def _story(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "origin": record["origin"],
        "parent": record["parent"],
        "columns": {name: _bounded(value) for name, value in record["columns"].items()},
        "steps": [{name: value for name, value in step.items() if name not in _ROUTINE} for step in record["steps"]],
    }


def _bounded(value: Any) -> Any:
    """Cut texts that nobody would read to the end, and say so in them."""
    if isinstance(value, str):
        cut = len(value) - MOST_TEXT
        return value if cut <= 0 else f"{value[:MOST_TEXT]} [... {cut:,} more characters]"
    if isinstance(value, list):
        return [_bounded(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _bounded(each) for name, each in value.items()}
    return value
