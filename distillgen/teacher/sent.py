"""Notes of what was sent: one before each request, one when its outcome is known. What is left may have been billed.

A note is written, not synced: it survives `kill -9`, not a power cut.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

from distillgen.files import disk_errors

_RECORD = struct.Struct("<cq32s")  # what, worst cost in nano-dollars (-1: unknown), key
SENT, DECIDED = b"+", b"-"
PREFIX, SUFFIX = "sent-", ".log"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A request that was sent and whose outcome nobody knows; `nanousd` is its worst cost, None when unknown too."""

    key: bytes
    nanousd: int | None
    is_last: bool  # nothing was noted of this key later: its answer may be stored after all


class SentNotes:
    """The notes of one run, in a file of its own: a line of JSON that names run and dataset, then fixed records."""

    def __init__(self, folder: Path, dataset: str) -> None:
        self.run = secrets.token_hex(8)
        self.path = folder / f"{PREFIX}{self.run}{SUFFIX}"
        self._dataset = dataset
        self._file = -1
        self._is_closed = False

    def _open(self) -> None:
        """Make the file with the first note: a run that sends nothing leaves none.

        It gets its name once it is locked, so that nobody takes it for that of a run that ended.
        """
        head = orjson.dumps({"run": self.run, "dataset": self._dataset, "at": time.time()}) + b"\n"
        spare = self.path.with_suffix(".new")
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            os.write(self._file, head)
            with contextlib.suppress(OSError):  # where nothing can be locked, the project's lock has to do
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            spare.rename(self.path)

    def sent(self, key: bytes, nanousd: int | None) -> None:
        """Note that a request is about to be sent."""
        self._note(SENT, key, nanousd)

    def decided(self, key: bytes) -> None:
        """Note that its outcome is known: the reply is stored, or the server refused it."""
        self._note(DECIDED, key, None)

    def _note(self, what: bytes, key: bytes, nanousd: int | None) -> None:
        if self._is_closed:  # what comes after the end of the run stays unknown
            return
        if self._file < 0:
            self._open()
        record = _RECORD.pack(what, -1 if nanousd is None else nanousd, key)
        try:
            written = os.write(self._file, record)
            if written == len(record):
                return
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)  # or what follows could not be read
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with disk_errors(self.path):
                raise

    def close(self) -> None:
        """Let the file go; what it says is taken into the answer store by the next run."""
        self._is_closed = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def logs(folder: Path, *, live: bool = False) -> list[Path]:
    """Return the files of notes in a state folder: of runs that ended, or (`live`) of those that are at work."""
    return [path for path in sorted(folder.glob(f"{PREFIX}*{SUFFIX}")) if _is_live(path) == live]


def _is_live(path: Path) -> bool | None:
    """Whether the run that writes a file is at work: it holds a kernel lock on it, however it may end.

    None when another process has taken its notes in just now.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def read_notes(path: Path) -> tuple[str, list[Unknown]]:
    """Return the dataset and the requests of unknown outcome in one file; a torn last record does not count.

    There are none in a file that another process has taken in just now.
    """
    open_notes: dict[bytes, list[int | None]] = {}
    last: dict[bytes, bytes] = {}
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return "", []
    with file:
        head = file.readline()
        for what, nanousd, key in _records(file):
            if what == SENT:
                open_notes.setdefault(key, []).append(None if nanousd < 0 else nanousd)
                last[key] = SENT
            elif key in open_notes:
                open_notes[key].pop()
                last[key] = DECIDED
                if not open_notes[key]:  # of a million requests few are open
                    del open_notes[key], last[key]
    unknown = [
        Unknown(key, worst, number == len(costs) and last[key] == SENT)
        for key, costs in open_notes.items()
        for number, worst in enumerate(costs, 1)
    ]
    try:
        dataset = str(orjson.loads(head)["dataset"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        dataset = ""
    return dataset, unknown


def _records(file: IO[bytes]) -> Iterator[tuple[bytes, int, bytes]]:
    while len(record := file.read(_RECORD.size)) == _RECORD.size:
        yield _RECORD.unpack(record)
