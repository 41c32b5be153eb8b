"""What is different between two versions: rows by id, the recipe's keys, the funnel, cost and lengths."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import xxhash

from distillgen.dataset.figures import Lengths, answer_of
from distillgen.dataset.looking import no_row
from distillgen.dataset.manifest import Manifest
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged

SHOWN = 10  # ids of each kind
MARK_OF_SPLIT = 8  # bytes
MARK = 16 + MARK_OF_SPLIT  # of a row: of its line, then of its split


@dataclass
class Changes:
    """Rows of two versions by id; of each kind the number, and the first ids, `moved` being those of the changed rows
    that are in another split.

    An id is named when its rows, which are one but in a damaged version, are not the same in both versions, and only
    then: with all ids, version A without its rows of these ids, and with version B's rows of them, is version B.
    The order of the rows counts for nothing. `lengths` are those of the answers of both, in characters.
    """

    same: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    moved: int = 0
    ids: dict[str, list[str]] = field(default_factory=lambda: {"added": [], "removed": [], "changed": [], "moved": []})
    lengths: tuple[Lengths, Lengths] = field(default_factory=lambda: (Lengths(), Lengths()))

    @property
    def is_none(self) -> bool:
        """Whether both versions have the same rows, in the same splits."""
        return not (self.added or self.removed or self.changed)

    def note(self, kind: str, row_id: str, most: int | None) -> None:
        """Count a row of a kind."""
        setattr(self, kind, getattr(self, kind) + 1)
        if most is None or len(self.ids[kind]) < most:
            self.ids[kind].append(row_id)


def compare_rows(old: Version, new: Version, most: int | None = SHOWN) -> Changes:
    """Compare the rows of two versions; a row is changed when its text or its split is. Raises Damaged.

    `most` ids of each kind are named, all with None. Memory: some 250 bytes for each row of `old`.
    """
    changes = Changes()
    left: dict[str, bytes] = {}  # of each id of `old`, the marks of the rows to which none of `new` was found
    for row_id, mark, length in _rows(old):
        left[row_id] = left[row_id] + mark if row_id in left else mark
        changes.lengths[0].add(length)
    for row_id, mark, length in _rows(new):
        changes.lengths[1].add(length)
        marks = left.get(row_id)
        if not marks:
            changes.note("added", row_id, most)
        elif mark in (known := _cut(marks)):
            changes.same += 1
            known.remove(mark)
            left[row_id] = b"".join(known)
        else:
            changes.note("changed", row_id, most)
            if known[0][-MARK_OF_SPLIT:] != mark[-MARK_OF_SPLIT:]:
                changes.note("moved", row_id, most)
            left[row_id] = b"".join(known[1:])
    for row_id, marks in left.items():
        for _ in _cut(marks):
            changes.note("removed", row_id, most)
    return changes


def _cut(marks: bytes) -> list[bytes]:
    """Return the marks of rows one by one."""
    return [marks] if len(marks) == MARK else [marks[place : place + MARK] for place in range(0, len(marks), MARK)]


def _rows(version: Version) -> Iterator[tuple[str, bytes, int]]:
    """Yield id, a digest of line and of split, and length of the answer of every row."""
    for split in version.split_names():
        end = xxhash.xxh64_digest(split.encode())
        for path in version.data_files(split):
            number = 0
            try:
                with path.open("rb") as file:
                    for number, line in enumerate(file, 1):
                        row = orjson.loads(line)
                        if type(row["id"]) is not str:
                            raise no_row(path, number)
                        yield row["id"], xxhash.xxh3_128_digest(line.rstrip(b"\n")) + end, len(answer_of(row))
            except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
                raise no_row(path, number) from None
            except OSError as error:
                raise Damaged(f"cannot be read: {error.strerror}", where=str(path)) from None


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys of two recipes whose values differ, spelled `steps[0].prompt`; None where one has none."""
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def steps_in_order(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """Return the steps of two funnels, those of each in its order: what only the newer one has stands behind the step
    that it follows there, or first of all."""
    names, at = list(old), 0
    for name in new:
        if name in names:
            at = names.index(name) + 1
        else:
            names.insert(at, name)
            at += 1
    return names


def changes_of(manifest: Manifest, before: Manifest | None) -> list[str]:
    """Return what is not as it was in the version before, in a few words; nothing without one."""
    if before is None:
        return []
    more = manifest.rows - before.rows
    said = [f"{more:+,} {'row' if abs(more) == 1 else 'rows'}"] if more else []
    parts = ("recipe", "prompts", "seeds", "teachers")
    return said + [part for part in parts if getattr(manifest, part) != getattr(before, part)]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{key}[{number}]")
    else:
        yield key, value
