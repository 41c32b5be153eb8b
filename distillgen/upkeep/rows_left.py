"""What is left of a sidecar that nothing brings back: its readable records, and what the data say of the other rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from distillgen.upkeep.mending import Lines, lines_of, of_path


@dataclass(frozen=True)
class RowsOfFile:
    """A sound data file: its split, and the xxh3_64 of each of its lines."""

    split: str
    path: Path
    marks: Sequence[int]


def objects_in(lines: Lines) -> Iterator[bytes]:
    """Yield the lines that are JSON objects."""
    for line in lines():
        try:
            if isinstance(orjson.loads(line), dict):
                yield line
        except orjson.JSONDecodeError:
            continue


def provenance_left(lines: Lines, data: Sequence[RowsOfFile]) -> tuple[Lines, int, int]:
    """Return provenance with the records that the data confirm, and for the other rows what the data say of them; how
    many those are; and how many rows there are. Such a record has no steps and no columns: they are lost."""
    left = _Left(data)

    def put_together() -> Iterator[bytes]:
        return (line for line, _ in left.records(lines))

    return put_together, sum(not is_kept for _, is_kept in left.records(lines)), len(left)


class _Left:
    """The rows of the data files, in order, and where each stands: split and place in it."""

    def __init__(self, data: Sequence[RowsOfFile]) -> None:
        self._rows: dict[str, list[tuple[str, int]]] = {}  # of each split: ids and digests of lines
        for file in data:
            ids = (orjson.loads(line)["id"] for line in lines_of(of_path(file.path)))
            self._rows.setdefault(file.split, []).extend(zip(ids, file.marks, strict=True))
        self._places = {row[0]: (split, at) for split, rows in self._rows.items() for at, row in enumerate(rows)}

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def records(self, lines: Lines) -> Iterator[tuple[bytes, bool]]:
        """Yield a record for each row, and whether it is one of the lines: those keep their order."""
        following = dict.fromkeys(self._rows, 0)
        for line in objects_in(lines):
            split, at = self._place_of(orjson.loads(line))
            if at < following.get(split, 0):
                continue
            yield from self._bare(split, range(following[split], at))
            yield line, True
            following[split] = at + 1
        for split, start in following.items():
            yield from self._bare(split, range(start, len(self._rows[split])))

    def _place_of(self, record: dict[str, Any]) -> tuple[str, int]:
        """Return where the row of a record stands; a place before all others where the data do not confirm it."""
        row_id = record.get("id")
        split, at = self._places.get(row_id, ("", -1)) if isinstance(row_id, str) else ("", -1)
        if at < 0 or record.get("split") != split or record.get("xxh3") != f"{self._rows[split][at][1]:016x}":
            return "", -1
        return split, at

    def _bare(self, split: str, places: range) -> Iterator[tuple[bytes, bool]]:
        for at in places:
            row_id, mark = self._rows[split][at]
            yield orjson.dumps(_bare_record(row_id, f"{mark:016x}", split)), False


def _bare_record(row_id: str, mark: str, split: str) -> dict[str, Any]:
    """Return what a row's line says of it: a seed's id is base32, so what follows a dot was added on the way."""
    origin = row_id.partition(".")[0]
    return {
        "id": row_id, "split": split, "xxh3": mark, "origin": origin, "parent": None, "steps": [], "columns": {},
    }  # fmt: skip
