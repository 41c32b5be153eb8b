"""Rows of a version that somebody wants to see: published ones, or those that were left out, by split, rule or id."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, NotFound, UsageError, nearest
from distillgen.files import read_jsonl

Kind: TypeAlias = Literal["published", "rejected", "failed"]
Found: TypeAlias = dict[str, Any]
REASONS = {"provenance": ("split",), "rejected": ("rule", "detail"), "failed": ("cause", "detail")}  # texts of a record


def rows_of(
    version: Version, kind: Kind, *, split: str | None = None, rule: str | None = None, row_id: str | None = None
) -> Iterator[Found]:
    """Yield training rows, or the records of rows that were left out, in order.

    Raises NotFound with what there is for a split, rule, cause or id that no row has; UsageError for a split of rows
    that are in none.
    """
    if kind == "published":
        rows = training_rows(version, split)
    elif split is not None:
        raise UsageError(f"{kind} rows are in no split", fix="leave `--split` out")
    else:
        rows = records_of(version, kind)
    if rule is not None:
        _require_rule(version, kind, rule)
        rows = (row for row in rows if rule in (row.get("rule"), row.get("cause")))
    if row_id is not None:
        return iter([_by_id(version, kind, rows, row_id)])
    return rows


def training_rows(version: Version, split: str | None = None) -> Iterator[Found]:
    """Yield the rows of a version, or of a split, in order: conversations, or pairs of answers.

    Raises Damaged with file and line where a line is no such row; NotFound when there is no such split.
    """
    for name in version.split_names(split):
        for path in version.data_files(name):
            yield from _checked(path, _is_training_row)


def records_of(version: Version, kind: str) -> Iterator[Found]:
    """Yield the records of a sidecar: `provenance`, `rejected` or `failed`. Raises Damaged with file and line."""
    return _checked(version.folder / f"{kind}.jsonl.zst", lambda record: _is_record(record, REASONS[kind]))


def _checked(path: Path, is_whole: Callable[[Found], bool]) -> Iterator[Found]:
    for line, row in enumerate(read_jsonl(path), 1):
        if not is_whole(row):
            raise no_row(path, line)
        yield row


def no_row(path: Path, line: int) -> Damaged:
    """Return the error that says that a line of a file is nothing that a version holds."""
    return Damaged("not a row", where=f"{path}:{line}", fix="distillgen check tells more, repair may mend it")


def _is_training_row(row: Found) -> bool:
    """Say whether a row is what `training_row` makes."""
    lists = ("messages",) if "messages" in row else ("prompt", "chosen", "rejected")
    has_texts = isinstance(row.get("id"), str) and isinstance(row.get("reasoning", ""), str)
    return has_texts and all(_are_turns(row.get(name)) for name in lists)


def _are_turns(turns: Any) -> bool:
    return bool(turns) and _is_list_of_tables(turns) and all(
        isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in turns
    )  # fmt: skip


def _is_record(record: Found, reasons: Iterable[str]) -> bool:
    """Say whether a record has what every one has, with what says of it why it is where it is."""
    texts = (
        record.get("id"),
        record.get("origin"),
        record.get("parent") or "",
        *(record.get(name) for name in reasons),
    )
    if not all(isinstance(text, str) for text in texts) or not isinstance(record.get("columns"), dict):
        return False
    steps: Any = record.get("steps")
    return _is_list_of_tables(steps) and all(
        isinstance(step.get("step"), str) and all(map(_is_reply, (step, *(step.get("scores") or ())))) for step in steps
    )


def _is_reply(noted: Any) -> bool:
    """Say whether the tokens that were noted of a reply, if any, can be counted."""
    if not isinstance(noted, dict):
        return False
    tokens = noted.get("tokens") or {"prompt": 0, "completion": 0}
    if not isinstance(tokens, dict) or not tokens.keys() >= {"prompt", "completion"}:
        return False
    return all(isinstance(count, int) for count in tokens.values())


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _require_rule(version: Version, kind: Kind, rule: str) -> None:
    known: Counter[str] = Counter()
    for step in version.manifest.funnel:
        known += Counter(step.get("failed" if kind == "failed" else "rejected", {}))
    if rule not in known:
        raise NotFound(
            f"{version.label} has no row {kind} by {rule[:80]!r}", where=str(version.folder),
            fix=nearest(rule, known) or f"no row was {kind}",
        )  # fmt: skip


def _by_id(version: Version, kind: Kind, rows: Iterable[Found], row_id: str) -> Found:
    for row in rows:
        if row["id"] == row_id:
            return row
    raise NotFound(
        f"{version.label} has no {kind} row {row_id[:80]!r}", where=str(version.folder),
        fix=f"`distillgen trace ID {version.label}` tells what became of a row",
    )  # fmt: skip


def pick(rows: Iterator[Found], most: int, *, sample: bool) -> list[Found]:
    """Return the first rows; as a sample, rows from all over, which are the same as long as the version is."""
    return heapq.nsmallest(most, rows, key=_lot) if sample else list(islice(rows, most))


def _lot(row: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(row["id"].encode()).digest()
