"""Reads rows for export, many at a time, of a version or of a pipe; what is no row is told with its line's number."""

import codecs
import hashlib
import os
import select
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import orjson

from distillgen.dataset.manifest import read_manifest
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, DistillgenError, Locked, Problem, SeedsInvalid, UsageError
from distillgen.seeds import read_json_lines

Row: TypeAlias = dict[str, Any]
AT_ONCE = 100  # rows that are passed on together: few enough to stay in a processor's cache, which triples the speed
MOST_BYTES = 4_000_000  # of lines that are passed on together, so that long rows take no more memory than short ones
PAIR = ("prompt", "chosen", "rejected")
CONVERSATION = ("messages",)
PIPE = "standard input"
READ_BYTES = 1_000_000  # asked of a pipe at once; it gives what it has
_TURN = {"role", "content"}


def first_row(version: Version) -> Row:
    """Return a version's first row, whose columns all its rows have. Raises UsageError when there is no row."""
    for split in version.split_names():
        for path in version.data_files(split):
            for rows in _of_file(path, None, None):
                return rows[0]
    raise UsageError(f"{version.label} holds no rows", where=str(version.folder), fix="export another version")


def batches(version: Version, split: str) -> Iterator[list[Row]]:
    """Yield the rows of a split in order, at most AT_ONCE together.

    Raises Damaged with file and line where a line is not a row with the columns of the version's first one, and with
    the file where its bytes are not those that were published, or there are more or fewer rows than the manifest says;
    Locked where that is because the version was rewritten meanwhile.
    """
    try:
        yield from _batches(version, split)
    except Damaged:
        if _is_another(version):
            what, fix = f"{version.label} was rewritten while it was read", "run the same command again"
            raise Locked(what, where=str(version.folder), fix=fix) from None
        raise


def _is_another(version: Version) -> bool:
    """Say whether another version has come to stand in this one's place, as `forget` does it."""
    try:
        return read_manifest(version.folder) != version.manifest
    except DistillgenError:
        return not version.folder.exists()


def _batches(version: Version, split: str) -> Iterator[list[Row]]:
    count, columns, files = 0, frozenset(first_row(version)), version.data_files(split)
    for path in files:
        entry = version.manifest.files.get(f"data/{path.name}")
        for rows in _of_file(path, columns, entry.sha256 if entry is not None else None):
            count += len(rows)
            yield rows
    if count != (said := version.manifest.splits[split]):
        raise Damaged(
            f"the split {split!r} has {count:,} rows, and the manifest says {said:,}",
            where=str(files[-1] if files else version.folder), fix="distillgen check tells more",
        )  # fmt: skip


def _of_file(path: Path, columns: frozenset[str] | None, sha256: str | None) -> Iterator[list[Row]]:
    held: list[Row] = []
    loads, line, size, found = orjson.loads, 0, 0, hashlib.sha256()
    update = found.update
    try:
        with path.open("rb") as file:
            for line, content in enumerate(file, start=1):
                update(content)
                row = loads(content)
                columns = columns or frozenset(row)
                if row.keys() != columns or not _is_whole(row):
                    raise _damaged(path, line)
                held.append(row)
                size += len(content)
                if len(held) >= AT_ONCE or size >= MOST_BYTES:
                    yield held
                    held, size = [], 0
    except (ValueError, AttributeError, TypeError) as error:
        raise _damaged(path, line) from error
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}", where=str(path)) from None
    if held:
        yield held
    if sha256 is not None and found.hexdigest() != sha256:
        raise Damaged("its bytes are not those that were published", where=str(path), fix="distillgen check tells more")


def _is_whole(row: Row) -> bool:
    """Say whether a row is what a version holds: see dataset/training_rows.py."""
    lists = CONVERSATION if "messages" in row else PAIR
    if len(row) != 1 + len(lists) + ("reasoning" in row) or type(row.get("id")) is not str:
        return False
    return type(row.get("reasoning", "")) is str and all(_are_turns(row.get(name)) for name in lists)


def _are_turns(turns: Any) -> bool:
    if type(turns) is not list or not turns:
        return False
    for turn in turns:
        if turn.keys() != _TURN or type(turn["role"]) is not str or type(turn["content"]) is not str:
            return False
    return True


def _damaged(path: Path, line: int) -> Damaged:
    return Damaged("this line is no row of this version", where=f"{path}:{line}", fix="distillgen check tells more")


def is_pair(row: Mapping[str, Any]) -> bool:
    """Say whether a row is a preference pair; else it is a conversation."""
    return "chosen" in row


class Line(NamedTuple):
    """A line of a pipe: its number, its bytes, and the row that it is."""

    number: int
    raw: bytes
    row: Row


class Arriving:
    """The rows of a pipe, in lists of what has come by then; `skipped` counts the bad lines gone over.

    `out` is the number of a pipe that somebody reads: waiting for rows ends with a BrokenPipeError when nobody does any
    more. Raises SeedsInvalid with the line that is no JSON object, unless `skip_bad`.
    """

    def __init__(self, number: int, out: int | None, *, skip_bad: bool) -> None:
        self._number, self._out, self._skip_bad = number, out, skip_bad
        self.skipped = 0

    def __iter__(self) -> Iterator[list[Line]]:
        before = 0
        for lines in self._lines():
            for start in range(0, len(lines), AT_ONCE):
                rows, problem = self._rows(lines[start : start + AT_ONCE], before + start)
                yield rows
                if problem is not None:
                    raise SeedsInvalid("bad row", problems=[problem])
            before += len(lines)

    def _rows(self, lines: Sequence[bytes], before: int) -> tuple[list[Line], Problem | None]:
        """Return the rows of some lines, those after `before`, as far as there is nothing wrong that may not be."""
        found: list[Line] = []
        for place, row in read_json_lines(PIPE, lines):
            at = int(place.rpartition(":")[2])
            if not isinstance(row, Problem):
                found.append(Line(before + at, lines[at - 1], row))
            elif self._skip_bad:
                self.skipped += 1
            else:
                fix = "mend it, or go over such lines: --skip-bad-rows"
                return found, Problem(row.what, f"{PIPE}:{before + at}", fix)
        return found, None

    def _lines(self) -> Iterator[list[bytes]]:
        """Yield whole lines as they come."""
        begun: list[bytes] = []  # of a line whose end has not come
        while content := self._read():
            *whole, rest = content.split(b"\n")
            if whole:
                whole[0] = b"".join([*begun, whole[0]])
                begun = []
                yield [_without_mark(line) for line in whole]
            if rest:
                begun.append(rest)
        if begun:
            yield [_without_mark(b"".join(begun))]

    def _read(self) -> bytes:
        """Return what has come, b"" at the end."""
        waiting = select.poll()
        waiting.register(self._number, select.POLLIN)
        if self._out is not None:
            waiting.register(self._out, 0)
        events = dict(waiting.poll())
        try:
            content = os.read(self._number, READ_BYTES) if self._number in events else None
        except BlockingIOError:  # somebody else made it so
            return self._read()
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=PIPE) from None
        if content == b"" or self._out not in events:
            return content or b""
        raise BrokenPipeError  # but not where all rows had left


def _without_mark(line: bytes) -> bytes:
    """Return a line without the mark that some files begin with; `cat` brings it into the middle of a stream."""
    return line.removeprefix(codecs.BOM_UTF8)
