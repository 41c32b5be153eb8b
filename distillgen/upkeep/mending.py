"""Finds again what a damaged file held, and takes nothing for it that a checksum does not confirm; writes nothing."""

import contextlib
import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import orjson
import zstandard
from xxhash import xxh3_64_intdigest

from distillgen.dataset.training_rows import StudentTemplates, training_row
from distillgen.files import compressor
from distillgen.prompts import Template
from distillgen.rows import Rejection, Row
from distillgen.settings import StudentSettings

BLOCK = 1024 * 1024
SEARCHED_BYTES = 24 * 1024  # the longest file that is hashed with each of its bits flipped: some seconds
SEARCHED_MANIFEST = 48 * 1024  # the same for manifests, which are worth four times as many
SEARCHED_GAP = 16 * 1024  # the same for lines, by a digest that is cheaper
_SEAL_AT = b',\n  "seal": "'
_SEAL_END = b'"\n}\n'
_TAIL_BYTES = len(_SEAL_AT) + 64 + len(_SEAL_END)

Content: TypeAlias = Callable[[], Iterator[bytes]]  # yields the bytes of a file, from the beginning each time
Lines: TypeAlias = Callable[[], Iterator[bytes]]  # yields lines without their ends, from the first each time


class _Hash(Protocol):
    def update(self, content: bytes, /) -> object: ...
    def copy(self) -> "_Hash": ...
    def hexdigest(self) -> str: ...


def of_path(path: Path, size: int | None = None) -> Content:
    """Return the content of a file, or of its first bytes."""

    def blocks() -> Iterator[bytes]:
        left = size
        with path.open("rb") as file:
            while block := file.read(BLOCK if left is None else min(left, BLOCK)):
                left = None if left is None else left - len(block)
                yield block

    return blocks


def of_inode(path: Path) -> Content:
    """Return the content of a file that may be moved or replaced before it is read: it is opened now."""
    opened = _Opened(path)

    def blocks() -> Iterator[bytes]:
        at = 0
        while block := opened.read(at):
            at += len(block)
            yield block

    return blocks


class _Opened:
    """A file that stays open for as long as anybody may want to read it."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, at: int) -> bytes:
        return os.pread(self._handle, BLOCK, at)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it could not be opened
            os.close(self._handle)


def of_bytes(content: bytes) -> Content:
    """Return content that is in memory."""
    return lambda: iter((content,))


def sha256_of(content: Content) -> str:
    """Return the sha256 of a file's bytes."""
    sha = hashlib.sha256()
    for block in content():
        sha.update(block)
    return sha.hexdigest()


# -- single bits -----------------------------------------------------------------------------------------------------


def unflipped(content: bytes, sha256: str, longest: int = SEARCHED_BYTES) -> bytes | None:
    """Return the content with that one bit turned back by which its sha256 is right; None where there is no such bit,
    or where too many would have to be tried."""
    if len(content) > longest:
        return None
    before: _Hash = hashlib.sha256()
    rest = memoryview(content)
    for at, byte in enumerate(content):
        for bit in range(8):
            sha = before.copy()
            sha.update(bytes((byte ^ 1 << bit,)))
            sha.update(rest[at + 1 :])  # type: ignore[arg-type]
            if sha.hexdigest() == sha256:
                return content[:at] + bytes((byte ^ 1 << bit,)) + content[at + 1 :]
        before.update(bytes((byte,)))
    return None


def unflipped_manifest(content: bytes) -> bytes | None:
    """Return a sealed manifest with that one bit turned back by which its seal holds; None where there is none."""
    body, tail = content[:-_TAIL_BYTES], content[-_TAIL_BYTES:]
    right = _SEAL_AT + hashlib.sha256(body).hexdigest().encode() + _SEAL_END
    if len(tail) == len(right) and sum((a ^ b).bit_count() for a, b in zip(tail, right, strict=True)) == 1:
        return body + right
    if not (tail.startswith(_SEAL_AT) and tail.endswith(_SEAL_END)):
        return None
    found = unflipped(body, tail[len(_SEAL_AT) : -len(_SEAL_END)].decode(errors="replace"), SEARCHED_MANIFEST)
    return None if found is None else found + tail


def _unflipped_lines(gap: bytes, marks: Sequence[int]) -> list[bytes] | None:
    """Return the lines of a stretch with the one bit turned back by which each has its digest."""
    if not 0 < len(gap) <= SEARCHED_GAP or 0 in marks:
        return None
    flipped = bytearray(gap)
    for at in range(len(gap)):
        for bit in range(8):
            flipped[at] ^= 1 << bit
            lines = flipped.removesuffix(b"\n").split(b"\n")
            if len(lines) == len(marks) and all(map(_has_mark, lines, marks)):
                return [bytes(line) for line in lines]
            flipped[at] ^= 1 << bit
    return None


def _has_mark(line: bytes | bytearray, mark: int) -> bool:
    return xxh3_64_intdigest(line) == mark


# -- lines -----------------------------------------------------------------------------------------------------------


def lines_of(content: Content) -> Iterator[bytes]:
    """Yield the lines of a file, without their ends."""
    held: list[bytes] = []
    for block in content():
        first, *more = block.split(b"\n")
        held.append(first)
        for line in more:
            yield b"".join(held)
            held = [line]
    if rest := b"".join(held):
        yield rest


def unpacked(content: Content) -> Content:
    """Return what is packed into a compressed file, as far as it can be unpacked; what comes after it is left out."""

    def blocks() -> Iterator[bytes]:
        unpacker = zstandard.ZstdDecompressor().decompressobj()
        with contextlib.suppress(zstandard.ZstdError):
            for block in content():
                for at in range(0, len(block), 4096):  # what comes before the damage in a block is not lost with it
                    if part := unpacker.decompress(block[at : at + 4096]):
                        yield part
                    if unpacker.eof:
                        return

    return blocks


def lines_left(path: Path | None) -> Lines:
    """Return the lines that can be read from a damaged sidecar."""
    if path is None:
        return lambda: iter(())
    return lambda: lines_of(unpacked(of_path(path)))


def content_sha256(lines: Lines) -> str:
    """Return the sha256 of lines, with their ends."""
    return sha256_of(lambda: (line + b"\n" for line in lines()))


def records_of(provenance: Content) -> Iterator[dict[str, Any]]:
    """Yield the records of a compressed sidecar that is whole."""
    return map(orjson.loads, lines_of(unpacked(provenance)))


class Expected(NamedTuple):
    """A row that a data file must hold: its place in provenance, its id, and the xxh3_64 of its line (0: unknown)."""

    number: int
    id: str
    mark: int


def expected_of(provenance: Content) -> dict[str, list[Expected]]:
    """Return the rows of each split, in order."""
    splits: dict[str, list[Expected]] = {}
    for number, record in enumerate(records_of(provenance)):
        row = Expected(number, record["id"], int(record.get("xxh3") or "0", 16))
        splits.setdefault(record["split"], []).append(row)
    return splits


class DataFile:
    """One damaged, or missing, data file and the rows that it must hold, from which it is put together again."""

    def __init__(self, path: Path | None, rows: Sequence[Expected]) -> None:
        self._path, self._rows = path, rows
        self._found: dict[int, bytes] = {}  # place among the rows -> a line that is not in the file
        self._at: dict[int, tuple[int, int]] = {}  # the same -> offset and length of its line in the file
        wanted = {row.mark: at for at, row in enumerate(rows) if row.mark}
        for offset, line in self._lines():
            if (place := wanted.get(xxh3_64_intdigest(line))) is not None:
                self._at.setdefault(place, (offset, len(line)))

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        if self._path is None or not self._path.stat().st_size:
            return
        with self._mapped() as mapped:
            start = 0
            while start < len(mapped):
                end = mapped.find(b"\n", start)
                end = len(mapped) if end < 0 else end
                yield start, mapped[start:end]
                start = end + 1

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[mmap.mmap]:
        assert self._path is not None
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped

    @property
    def lost(self) -> list[int]:
        """The places of the rows whose line is still to be found."""
        return [at for at in range(len(self._rows)) if at not in self._at and at not in self._found]

    def render(self, records: Iterable[Mapping[str, Any]], student: StudentTemplates) -> int:
        """Render lost rows anew from their records in provenance; return how many came out as they were published."""
        wanted = {self._rows[at].number: at for at in self.lost}
        rendered = 0
        for number, record in enumerate(records if wanted else ()):
            if (at := wanted.get(number)) is None:
                continue
            row = Row(record["id"], record["origin"], record["parent"], record["columns"], tuple(record["steps"]))
            training = training_row(row, student)
            if isinstance(training, Rejection):
                continue
            line = orjson.dumps(training)
            if self._rows[at].mark in (0, xxh3_64_intdigest(line)):
                self._found[at] = line
                rendered += 1
        return rendered

    def take_from(self, lines: Iterable[bytes]) -> int:
        """Take lost rows from other files' lines; return how many are there."""
        wanted = {self._rows[at].mark: at for at in self.lost if self._rows[at].mark}
        before = len(self._found)
        for line in lines if wanted else ():
            if (at := wanted.get(xxh3_64_intdigest(line))) is not None:
                self._found[at] = line
        return len(self._found) - before

    def trust_ids(self) -> None:
        """Take lines of the file for the rows whose ids they have, where nothing is known of the rows but their ids."""
        wanted = {self._rows[at].id: at for at in self.lost if not self._rows[at].mark}
        for offset, line in self._lines() if wanted else ():
            if (at := wanted.get(_id_of(line))) is not None:
                self._at.setdefault(at, (offset, len(line)))

    def turn_back(self) -> int:
        """Find single bits that were flipped in lost lines; return how many rows that brings back."""
        if self._path is None or not self._path.stat().st_size:
            return 0
        before = len(self._found)
        with self._mapped() as mapped:
            for run in _runs(self.lost):
                start = self._end_before(run[0])
                end = self._at[run[-1] + 1][0] if run[-1] + 1 in self._at else len(mapped)
                lines = _unflipped_lines(mapped[start:end], [self._rows[at].mark for at in run])
                self._found.update(zip(run, lines or (), strict=False))
        return len(self._found) - before

    def _end_before(self, at: int) -> int:
        offset, length = self._at.get(at - 1, (-1, 0))
        return offset + length + 1

    def content(self) -> Content:
        """Return the file as it must be; nothing may be lost."""

        def blocks() -> Iterator[bytes]:
            with contextlib.ExitStack() as stack:
                mapped = stack.enter_context(self._mapped()) if self._at else b""
                for at in range(len(self._rows)):
                    if at in self._found:
                        yield self._found[at] + b"\n"
                    else:
                        offset, length = self._at[at]
                        yield mapped[offset : offset + length] + b"\n"

        return blocks

    def id_at(self, at: int) -> str:
        """Return the id of a row."""
        return self._rows[at].id


def _id_of(line: bytes) -> str:
    try:
        return str(orjson.loads(line)["id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Return numbers in runs of consecutive ones."""
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    return [[number for _, number in run] for _, run in runs]


def student_of(recipe: Mapping[str, Any]) -> StudentTemplates | None:
    """Return what a manifest's recipe says of the student, compiled; None where it cannot be."""
    import jinja2
    from pydantic import ValidationError

    try:
        settings = StudentSettings(**recipe.get("student", {}))
        texts = {key: getattr(settings, key) for key in StudentTemplates.__dataclass_fields__}
        compiled = {key: None if text is None else Template.parse(text) for key, text in texts.items()}
    except (ValidationError, jinja2.TemplateError, TypeError, AttributeError):
        return None
    completion = compiled["completion"] or Template.parse("")
    return StudentTemplates(
        compiled["system"], compiled["prompt"], completion, compiled["reasoning"], compiled["rejected"]
    )


def packed(lines: Lines) -> Content:
    """Return lines as a compressed file, packed as a build packs them."""

    def blocks() -> Iterator[bytes]:
        packer = compressor().compressobj()
        for line in lines():
            if block := packer.compress(line + b"\n"):
                yield block
        yield packer.flush()

    return blocks
