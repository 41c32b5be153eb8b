"""Batches on disk: a record of each that was sent, and the files of requests that wait for one."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson

from distillgen.errors import Damaged
from distillgen.files import digest, disk_errors, sync_folder, write_atomically

KEY_BYTES = 32  # 64 characters in hex, which is the longest custom_id that every provider takes


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one batch: a small JSON file, and its keys in a file beside it while it is under way.

    Until the provider names it, it has no `batch_id`; without a `file_id` its file was not even sent.
    `refused` and `faulty` hold, for a key in hex, the cause and the server's words: a refusal is for good, a fault
    (an unusable answer, an error of the server) is one of the few that are borne.
    """

    number: int
    endpoint: str
    model: str
    digest: str  # sha256 of the file of requests
    requests: int
    bytes: int
    written: float  # Unix time
    status: str = "submitting"  # later the provider's word for it
    file_id: str = ""
    batch_id: str = ""
    completed: int = 0
    is_over: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    faulty: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """What its file of requests is called at the provider."""
        return f"distillgen-{self.digest}.jsonl"


def batches_under_way(folder: Path) -> list[Record]:
    """Return the batches of every teacher that still have something to bring, oldest first. Raises Damaged."""
    records = map(_read_record, folder.glob("*.json"))
    return sorted((record for record in records if not record.is_over), key=lambda record: record.written)


class Ledger:
    """The records of one teacher's batches in a folder; each is on disk when `write` returns. Raises Damaged."""

    def __init__(self, folder: Path, endpoint: str, model: str) -> None:
        self.folder = folder
        self.tag = digest(endpoint.encode(), model.encode())[:8]
        self.records = {
            record.number: record for record in map(_read_record, sorted(folder.glob(f"{self.tag}-*.json")))
        }

    @property
    def under_way(self) -> list[Record]:
        """The batches that still have something to bring, oldest first."""
        return [record for record in self.records.values() if not record.is_over]

    def next_number(self) -> int:
        """Return a number that no batch had."""
        return max(self.records, default=0) + 1

    def add(self, record: Record, keys: bytes) -> None:
        """Write a new record, its keys first."""
        write_atomically(self._path(record, "keys"), keys)
        self.write(record)

    def write(self, record: Record) -> None:
        """Write a record as it is now; one that is over needs its keys no more."""
        write_atomically(self._path(record, "json"), orjson.dumps(record, option=orjson.OPT_INDENT_2))
        self.records[record.number] = record
        if record.is_over:
            self._path(record, "keys").unlink(missing_ok=True)

    def drop(self, record: Record) -> None:
        """Forget a batch that never was."""
        self._path(record, "json").unlink()
        sync_folder(self.folder)
        self._path(record, "keys").unlink(missing_ok=True)
        del self.records[record.number]

    def keys(self, record: Record) -> list[bytes]:
        """Return the keys of a batch under way. Raises Damaged."""
        path = self._path(record, "keys")
        content = path.read_bytes() if path.exists() else b""
        if len(content) != KEY_BYTES * record.requests:
            raise _damaged(path)
        return _split(content)

    def _path(self, record: Record, suffix: str) -> Path:
        return self.folder / f"{self.tag}-{record.number:06d}.{suffix}"


def _read_record(path: Path) -> Record:
    try:
        return Record(**orjson.loads(path.read_bytes()))
    except (orjson.JSONDecodeError, TypeError):
        raise _damaged(path) from None


def _damaged(path: Path) -> Damaged:
    return Damaged(
        "the note of a batch cannot be read",
        where=str(path),
        fix="move away the files of that number: what the batch brings is then asked for, and paid, again",
    )


def _split(keys: bytes) -> list[bytes]:
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one file of requests may hold."""

    requests: int = 50_000
    bytes: int = 200_000_000


OPENAI_LIMITS = BatchLimits()


class Part:
    """One file of requests, as it will be uploaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = bytearray()
        self.bytes = 0
        self._sha = hashlib.sha256()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("wb")

    @property
    def requests(self) -> int:
        """How many requests it holds."""
        return len(self.keys) // KEY_BYTES

    @property
    def digest(self) -> str:
        """The sha256 of its bytes so far."""
        return self._sha.hexdigest()

    def add(self, key: bytes, line: bytes) -> None:
        """Append the line of one request."""
        with disk_errors(self.path):
            self._file.write(line)
        self._sha.update(line)
        self.keys += key
        self.bytes += len(line)

    def close(self) -> None:
        """Write what is held back. Safe to call twice."""
        with disk_errors(self.path):
            self._file.close()

    def open(self) -> IO[bytes]:
        """Open it for reading."""
        return self.path.open("rb")


class Queue:
    """The requests of this run that wait for a batch, cut into files that keep the limits.

    Not synced and of no use to another run, which makes its own: nothing was paid for yet.
    """

    def __init__(self, folder: Path, tag: str, limits: BatchLimits) -> None:
        self._folder, self._tag, self.limits = folder, tag, limits
        self._parts: list[Part] = []
        self._keys: set[bytes] = set()

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, line: bytes) -> None:
        """Append one request to the last file, or to a new one."""
        if not self._parts or not self._has_room(self._parts[-1], line):
            if self._parts:
                self._parts[-1].close()
            self._parts.append(Part(self._folder / f"queue-{self._tag}-{len(self._parts):06d}.jsonl"))
        self._parts[-1].add(key, line)
        self._keys.add(key)

    def _has_room(self, part: Part, line: bytes) -> bool:
        return part.requests < self.limits.requests and part.bytes + len(line) <= self.limits.bytes

    def parts(self) -> Iterator[Part]:
        """Yield the files; one is no longer in the queue once the next is asked for."""
        if self._parts:
            self._parts[-1].close()
        for part in self._parts:
            yield part
            self._keys.difference_update(_split(bytes(part.keys)))
            part.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what is left on disk, of this run or of one that was killed."""
        for part in self._parts:
            part.close()
        for path in self._folder.glob(f"queue-{self._tag}-*.jsonl"):
            path.unlink()
