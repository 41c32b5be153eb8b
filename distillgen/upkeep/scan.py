"""Reads files of a version from end to end, once: their digests, their lines, and what each row is known by.

Many bytes are read by several processes at once, a file each.
"""

import contextlib
import gc
import hashlib
import itertools
import multiprocessing
import os
import signal
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias, cast

import msgspec
import orjson
import zstandard
from xxhash import xxh3_64_intdigest

from distillgen.processes import end_with_parent, processors

BLOCK = 64 * 1024  # what stays in a processor's cache while it is hashed, cut into lines and parsed
BLOCKS_OF_A_STRIPE = 64  # which one of several processes takes of a file that they share
HASHED_AT_ONCE = 4 * 1024 * 1024  # by a thread, which waits up to 5 ms for its turn
LONGEST_LINE = 256 * 1024 * 1024  # no row is so long; a damaged or made-up file may be
MANY_BYTES = 100_000_000  # are sooner read by processes, which take a third of a second to start
MAX_WORKERS = 4

Kind: TypeAlias = Literal["data", "provenance", "rows", "bytes"]
Task: TypeAlias = tuple[Path, Kind]


class _Row(msgspec.Struct, gc=False):
    """What a row is known by. The rest of its line is read over, but must be JSON: no object is made of it."""

    id: str


class _Record(_Row, gc=False):
    """What is compared of a record of provenance."""

    split: str
    xxh3: str | None = None


class _Anything(msgspec.Struct, gc=False):
    """An object."""


_row = msgspec.json.Decoder(_Row).decode
_record = msgspec.json.Decoder(_Record).decode
_anything = msgspec.json.Decoder(_Anything).decode


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass
class Scan:
    """What reading a file found. Of each of its lines 8 bytes by which its row's id is known, and 8 for the line.

    `ids` and `lines` hold xxh3_64, 0 where a line has none; in provenance, `lines` are what it says of the data's
    lines, and `splits` the split of each, as places in `split_names`. `flaws` are (line from 1, what is wrong).
    `trouble` says why the file could not be read to its end.
    """

    size: int = 0
    sha256: str = ""
    content_sha256: str = ""
    rows: int = 0
    ids: "array[int]" = field(default_factory=lambda: array("Q"))
    lines: "array[int]" = field(default_factory=lambda: array("Q"))
    splits: "array[int]" = field(default_factory=lambda: array("I"))
    split_names: dict[str, int] = field(default_factory=dict)
    flaws: list[tuple[int, str]] = field(default_factory=list)
    trouble: str = ""
    pieces: list[tuple[int, int]] = field(default_factory=list)  # of a part: rows before, and places of ids before


def scan(path: Path, kind: Kind, part: int = 0, of: int = 1) -> Scan:
    """Read a file, which may be compressed where its lines are of interest. Raises nothing: what is wrong is found.

    A part of several counts all lines but parses its share only; the first takes the checksums.
    """
    found = Scan()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb", buffering=0) as file:  # noqa: PTH123
            raw = _Hashed(file)
            if kind == "bytes":
                raw.drain()
            elif path.suffix == ".zst":
                unpacked: Any = zstandard.ZstdDecompressor().stream_reader(cast(Any, raw))
                if part:
                    _scan_lines(unpacked, kind, found, part, of)
                    return found
                with ThreadPoolExecutor(1) as thread:
                    content = _Hashed(unpacked, thread)
                    _scan_lines(content, kind, found, part, of)
                    found.content_sha256 = content.hexdigest()
                raw.drain()  # what follows the compressed frame
            else:
                _scan_lines(raw, kind, found, part, of)
                raw.drain()
                found.content_sha256 = raw.hexdigest()
            found.size, found.sha256 = raw.size, raw.hexdigest()
    except OSError as error:
        found.trouble = f"cannot be read: {error.strerror}"
    except zstandard.ZstdError as error:
        found.trouble = f"cannot be unpacked {_after(found.rows)}: {_in_words(error)}"
    return found


def _after(rows: int) -> str:
    return f"after line {rows:,}" if rows else "from its beginning on"


def _in_words(error: zstandard.ZstdError) -> str:
    """Return why a file could not be unpacked, as people say it."""
    said = str(error)
    if "checksum" in said:
        return "what comes out has not the checksum that was packed with it"
    if "Unknown frame" in said:
        return "it is no packed file (zstd)"
    return "its packed bytes are damaged"


class _Hashed:
    """A stream whose bytes are counted and hashed as they pass: in a thread, if there is one for it."""

    def __init__(self, source: _Source, thread: ThreadPoolExecutor | None = None) -> None:
        self._source, self._thread = source, thread
        self._sha = hashlib.sha256()
        self._held: list[bytes] = []
        self._under_way: Future[None] | None = None
        self.size = self._passed_on = 0

    def read(self, size: int) -> bytes:
        block = self._source.read(size)
        self.size += len(block)
        if self._thread is None:
            self._sha.update(block)
        else:
            self._held.append(block)
            if self.size - self._passed_on >= HASHED_AT_ONCE:
                self._pass_on(self._thread)
        return block

    def _pass_on(self, thread: ThreadPoolExecutor) -> None:
        if self._under_way is not None:
            self._under_way.result()
        self._under_way = thread.submit(self._sha.update, b"".join(self._held))
        self._held, self._passed_on = [], self.size

    def hexdigest(self) -> str:
        """Return the sha256 of all that passed."""
        if self._thread is not None:
            self._pass_on(self._thread)
            assert self._under_way is not None
            self._under_way.result()
        return self._sha.hexdigest()

    def drain(self) -> None:
        """Read what is left."""
        while self.read(BLOCK):
            pass


def _scan_lines(source: _Source, kind: Kind, found: Scan, part: int, of: int) -> None:
    take = {"data": _take_data, "provenance": _take_provenance, "rows": _take_rows}[kind]
    for lines in _blocks_of_lines(source, found, part, of):
        try:
            take(lines, found)
        except _NotARow:
            for line in lines:  # the good ones among them, and what is wrong with the others
                try:
                    take([line], found)
                except _NotARow:
                    _note_flaw(line, kind, found)


_NotARow = (ValueError, OverflowError, msgspec.MsgspecError)


def _blocks_of_lines(source: _Source, found: Scan, part: int = 0, of: int = 1) -> Iterator[list[bytes]]:
    """Yield the whole lines of one block after the other, without their ends. Notes a last line that has no end.

    Of a part only the lines that end in its own stripes are yielded; those of the others are counted.
    """
    held: list[bytes] = []  # the pieces of a line whose end is still to come
    number = 0
    while block := source.read(BLOCK):
        is_mine = number // BLOCKS_OF_A_STRIPE % of == part
        if is_mine and number % BLOCKS_OF_A_STRIPE == 0:
            found.pieces.append((found.rows, len(found.ids)))
        number += 1
        if is_mine:
            lines = block.split(b"\n")
            rest = lines.pop()
            if lines:
                lines[0] = b"".join([*held, lines[0]])
                held.clear()
                yield lines
        else:
            found.rows += block.count(b"\n")
            rest = block[block.rfind(b"\n") + 1 :]
            if len(rest) < len(block):
                held.clear()
        if rest:
            held.append(rest)
            if len(held) > LONGEST_LINE // BLOCK:
                found.flaws.append(
                    (found.rows + 1, f"is longer than {LONGEST_LINE:,} bytes; nothing after it was read")
                )
                return
    if held and is_mine:
        yield [b"".join(held)]
        found.flaws.append((found.rows, "has no end: the file was cut off"))
    elif held:
        found.rows += 1


def _joined(parts: Sequence[Scan]) -> Scan:
    """Return the scan of a whole file from those of its parts."""
    whole = replace(
        parts[0], pieces=[], split_names={}, trouble=next((each.trouble for each in parts if each.trouble), "")
    )
    whole.flaws = sorted(dict.fromkeys(flaw for each in parts for flaw in each.flaws), key=lambda flaw: flaw[0])
    whole.ids, whole.lines = array("Q", bytes(8 * whole.rows)), array("Q", bytes(8 * whole.rows))
    whole.splits = array("I", [0]) * whole.rows
    for each in parts:
        names = [whole.split_names.setdefault(name, len(whole.split_names)) for name in each.split_names]
        is_same = names == list(range(len(names)))
        splits = each.splits if is_same else array("I", map(names.__getitem__, each.splits))
        ends = [start for _, start in each.pieces[1:]] + [len(each.ids)] * bool(each.pieces)
        for (row, start), end in zip(each.pieces, ends, strict=True):
            there, here = slice(row, row + end - start), slice(start, end)
            whole.ids[there], whole.lines[there], whole.splits[there] = each.ids[here], each.lines[here], splits[here]
    return whole


def _take_data(lines: Sequence[bytes], found: Scan) -> None:
    _require_text(lines)
    ids = [xxh3_64_intdigest(_row(line).id.encode()) for line in lines]
    found.ids.extend(ids)
    found.lines.extend(map(xxh3_64_intdigest, lines))
    found.rows += len(lines)


def _take_provenance(lines: Sequence[bytes], found: Scan) -> None:
    _require_text(lines)
    rows = [_record(line) for line in lines]
    ids = [xxh3_64_intdigest(row.id.encode()) for row in rows]
    names = found.split_names
    splits = array("I", [names.setdefault(row.split, len(names)) for row in rows])
    stated = array("Q", [int(row.xxh3 or "0", 16) for row in rows])
    found.ids.extend(ids)
    found.splits.extend(splits)
    found.lines.extend(stated)
    found.rows += len(lines)


def _take_rows(lines: Sequence[bytes], found: Scan) -> None:
    _require_text(lines)
    for line in lines:
        _anything(line)
    found.rows += len(lines)


def _require_text(lines: Sequence[bytes]) -> None:
    """Raise ValueError where a line is no UTF-8, which nobody looks at in what is read over."""
    if not all(map(bytes.isascii, lines)):
        for line in lines:
            line.decode()


def _note_flaw(line: bytes, kind: Kind, found: Scan) -> None:
    """Count a line that is not what it should be, and say why."""
    found.rows += 1
    found.flaws.append((found.rows, _flaw(line, kind)))
    if kind == "rows":
        return
    found.ids.append(0)
    found.lines.append(0)
    if kind == "provenance":
        found.splits.append(found.split_names.setdefault("", len(found.split_names)))


def _flaw(line: bytes, kind: Kind) -> str:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "is no JSON" if line else "is empty"
    if not isinstance(row, dict):
        return "is no JSON object"
    if not isinstance(row.get("id"), str):
        return "has no id"
    return "has no split, or no digest of its line" if kind == "provenance" else "is no row"


def scan_all(tasks: Sequence[Task]) -> list[Scan]:
    """Read many files; return what was found of each, in the order given.

    Large ones are read by as many processes as there are processors, at most four.
    """
    workers = min(processors(), MAX_WORKERS, len(tasks))
    if workers > 1 and sum(_size(path) for path, _ in tasks) > MANY_BYTES:
        with contextlib.suppress(BrokenProcessPool, OSError, NotImplementedError):  # no memory, or no semaphores here
            return _scan_by_processes(tasks, workers)
    return [scan(*task) for task in tasks]


def _scan_by_processes(tasks: Sequence[Task], workers: int) -> list[Scan]:
    context = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of something
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # theirs too: Ctrl-C is ours to handle
    try:
        futures = {at: _submitted(pool, tasks[at], workers) for at in _longest_first(tasks)}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        import numpy  # noqa: F401 - what is found is compared with it: loaded while others work

        parts = [[future.result() for future in futures[at]] for at in range(len(tasks))]
        return [_joined(each) if len(each) > 1 else each[0] for each in parts]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare_worker() -> None:
    """Let this process end with its parent, and look for no cycles in JSON."""
    gc.disable()
    end_with_parent()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _longest_first(tasks: Sequence[Task]) -> list[int]:
    """Order tasks by work: provenance takes longest, whatever the size of what it is packed into."""
    return sorted(range(len(tasks)), key=lambda at: (tasks[at][1] == "provenance", _size(tasks[at][0])), reverse=True)


def _submitted(pool: ProcessPoolExecutor, task: Task, workers: int) -> list[Future[Scan]]:
    """Send a file to be read; provenance in as many parts as there are processes, for there is only one file of it."""
    parts = workers if task[1] == "provenance" else 1
    return [pool.submit(scan, *task, part, parts) for part in range(parts)]


def ids_at(path: Path, wanted: set[int]) -> dict[int, str]:
    """Return the ids that stand on some lines of a file, counted from 1; those that cannot be read are left out."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError, zstandard.ZstdError), contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        source: Any = file
        if path.suffix == ".zst":
            source = stack.enter_context(zstandard.ZstdDecompressor().stream_reader(file))
        lines = itertools.chain.from_iterable(_blocks_of_lines(source, Scan()))
        for number, line in enumerate(itertools.islice(lines, max(wanted, default=0)), 1):
            if number in wanted:
                with contextlib.suppress(*_NotARow):
                    found[number] = orjson.loads(line)["id"] + ""
    return found
