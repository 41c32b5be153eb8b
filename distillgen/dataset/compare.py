"""What is different between two versions: rows by id, the recipe's keys, the funnel, cost and lengths."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import xxhash

from distillgen.dataset.figures import Lengths, answer_of
from distillgen.dataset.manifest import Manifest
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged

SHOWN = 10  # ids of each kind


@dataclass
class Changes:
    """Rows of two versions by id; of each kind the number, and the first few ids.

    `lengths` are those of the answers of both, in characters.
    """

    same: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    ids: dict[str, list[str]] = field(default_factory=lambda: {"added": [], "removed": [], "changed": []})
    lengths: tuple[Lengths, Lengths] = field(default_factory=lambda: (Lengths(), Lengths()))

    @property
    def is_none(self) -> bool:
        """Whether both versions have the same rows, in the same splits."""
        return not (self.added or self.removed or self.changed)

    def note(self, kind: str, row_id: str, most: int) -> None:
        """Count a row of a kind."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.ids[kind]) < most:
            self.ids[kind].append(row_id)


def compare_rows(old: Version, new: Version, most: int = SHOWN) -> Changes:
    """Compare the rows of two versions; a row is changed when its text or its split is. Raises Damaged.

    Memory: some 250 bytes for each row of `old`.
    """
    changes = Changes()
    before: dict[str, bytes] = {}
    for row_id, mark, length in _rows(old):
        before[row_id] = mark
        changes.lengths[0].add(length)
    for row_id, mark, length in _rows(new):
        changes.lengths[1].add(length)
        known = before.pop(row_id, None)
        if known is None:
            changes.note("added", row_id, most)
        elif known != mark:
            changes.note("changed", row_id, most)
        else:
            changes.same += 1
    changes.removed = len(before)
    changes.ids["removed"] = list(itertools.islice(before, most))
    return changes


def _rows(version: Version) -> Iterator[tuple[str, bytes, int]]:
    """Yield id, a digest of split and line, and length of the answer of every row."""
    for split in version.split_names():
        seed = xxhash.xxh64_intdigest(split.encode())
        for path in version.data_files(split):
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        row = orjson.loads(line)
                        yield row["id"], xxhash.xxh3_128_digest(line, seed), len(answer_of(row))
                    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
                        raise Damaged("not a row", where=f"{path}:{number}", fix="distillgen check") from None


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys of two recipes whose values differ, spelled `steps[0].prompt`; None where one has none."""
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def changes_of(manifest: Manifest, others: Iterable[Manifest]) -> list[str]:
    """Return what is not as it was in the version before, in a few words; nothing without one among the others."""
    before = next((each for each in others if (each.name, each.version) == (manifest.name, manifest.parent)), None)
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
