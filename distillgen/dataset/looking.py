"""Rows of a version that somebody wants to see: published ones, or those that were left out, by split, rule or id."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal, TypeAlias

from distillgen.dataset.versions import Version
from distillgen.errors import NotFound, UsageError, nearest
from distillgen.files import read_jsonl

Kind: TypeAlias = Literal["published", "rejected", "failed"]
Found: TypeAlias = dict[str, Any]


def rows_of(
    version: Version, kind: Kind, *, split: str | None = None, rule: str | None = None, row_id: str | None = None
) -> Iterator[Found]:
    """Yield training rows, or the records of rows that were left out, in order.

    Raises NotFound with what there is for a split, rule, cause or id that no row has; UsageError for a split of rows
    that are in none.
    """
    if kind == "published":
        rows = _published(version, split)
    elif split is not None:
        raise UsageError(f"{kind} rows are in no split", fix="leave `--split` out")
    else:
        rows = read_jsonl(version.folder / f"{kind}.jsonl.zst")
    if rule is not None:
        _require_rule(version, kind, rule)
        rows = (row for row in rows if rule in (row.get("rule"), row.get("cause")))
    if row_id is not None:
        return iter([_by_id(version, kind, rows, row_id)])
    return rows


def _published(version: Version, split: str | None) -> Iterator[Found]:
    for name in version.split_names(split):
        for path in version.data_files(name):
            yield from read_jsonl(path)


def _require_rule(version: Version, kind: Kind, rule: str) -> None:
    known: Counter[str] = Counter()
    for step in version.manifest.funnel:
        known += Counter(step.get("failed" if kind == "failed" else "rejected", {}))
    if rule not in known:
        said = ", ".join(f"{name} {count:,}" for name, count in known.most_common())
        raise NotFound(
            f"{version.label} has no row {kind} by {rule!r}", fix=nearest(rule, known) or f"there are: {said}"
        )


def _by_id(version: Version, kind: Kind, rows: Iterable[Found], row_id: str) -> Found:
    for row in rows:
        if row["id"] == row_id:
            return row
    raise NotFound(f"{version.label} has no {kind} row {row_id!r}", fix=f"distillgen trace {row_id} finds it elsewhere")


def pick(rows: Iterator[Found], most: int, *, sample: bool) -> list[Found]:
    """Return the first rows; as a sample, rows from all over, which are the same as long as the version is."""
    return heapq.nsmallest(most, rows, key=_lot) if sample else list(islice(rows, most))


def _lot(row: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(row["id"].encode()).digest()
