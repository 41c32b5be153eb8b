"""Bytes on disk: canonical JSON, digests, JSONL in and out, writing whole or not at all, and the project's lock."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jsonlines
import orjson
import zstandard

from distillgen.errors import FULL, Damaged, DiskFull, DistillgenError, Locked, NameInvalid, NotWritable

FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
HELD_BYTES = 64 * 1024  # of a file in the making that are held back before they are written together
_UMASK = os.umask(0o077)  # it is told only to who sets it
os.umask(_UMASK)
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def canonical(value: Any) -> bytes:
    """Return the one JSON spelling of `value`: UTF-8, sorted keys, no spaces, NaN and infinities as null."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def dumps(value: Any) -> str:
    """Return `value` as one line of JSON, keys in their given order."""
    return orjson.dumps(value).decode()


def json_line(value: Any) -> bytes:
    """Return anybody's `value` as one line of JSON: integers of any size, and half characters, as they came."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def digest(*parts: bytes) -> str:
    """Return the sha256 of the parts, each preceded by its length so that no two lists of parts collide."""
    return digest_bytes(*parts).hex()


def digest_bytes(*parts: bytes) -> bytes:
    """Return the same digest as 32 bytes."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "big"))
        sha.update(part)
    return sha.digest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_name(name: str, what: str) -> str:
    """Return `name` when it can be a file name everywhere: 1 to 100 of A-Z a-z 0-9 . _ - and no leading dot or dash."""
    if not 1 <= len(name) <= 100 or not set(name) <= _NAME_CHARACTERS or name[0] in ".-":
        raise NameInvalid(
            f"{what} {name[:120]!r} cannot be a file name",
            fix="use 1 to 100 of the characters A-Z a-z 0-9 . _ - and start with a letter, a digit or _",
        )
    return name


def room_for_files(wanted: int) -> int:
    """Allow this process as many open files as `wanted` if the system lets it; return how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS has a second limit, which it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn the operating system's refusals to write below `path` into errors that say what to do."""
    try:
        yield
    except OSError as error:
        raise _as_ours(error, str(error.filename or path)) from error


def _as_ours(error: OSError, path: str) -> DistillgenError:
    if error.errno in FULL:
        return DiskFull(
            f"no room to write {path}: {error.strerror}",
            fix="free some space (or raise the quota) and run the same command again; what was decided is kept",
        )
    if error.errno in FORBIDDEN:
        return NotWritable(f"cannot write {path}: {error.strerror}", fix="make it writable or choose another folder")
    return NotWritable(f"cannot write {path}: {error.strerror or error}", fix="choose another folder")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def masked(mode: int) -> int:
    """Return what the user's umask leaves of a mode, which chmod knows nothing of."""
    return mode & ~_UMASK


def sync_file(path: Path) -> None:
    """Make what is in a file survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: temporary name beside it, fsync, rename, fsync of the folder."""
    with written_whole(path, path.parent, f".{path.name}.") as file:
        file.write(content)


@contextlib.contextmanager
def written_whole(path: Path, making: Path, prefix: str) -> Iterator[IO[bytes]]:
    """Open a file that comes to stand at `path` when it is whole; until then it is in the folder `making`, under a name
    that begins with `prefix`, on the same file system."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=making, prefix=prefix)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                os.fchmod(file.fileno(), masked(0o644))
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).rename(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def compressor() -> zstandard.ZstdCompressor:
    """Return what compresses every file of a version: quickly, and so that whoever unpacks it sees a flipped bit."""
    return zstandard.ZstdCompressor(level=1, write_checksum=True)


class JsonlFile:
    """Writes one JSONL file (zstd when its name ends so) and knows its digests without reading it again.

    `sha256` is that of the bytes on disk, `content_sha256` that of the lines, which no compressor can change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._content = hashlib.sha256()
        with disk_errors(path):
            self._raw: IO[bytes] = path.open("wb")
        self._out: IO[bytes] = self._raw
        if path.suffix == ".zst":
            self._out = compressor().stream_writer(self._raw, closefd=False)
        self._held = io.BytesIO()  # lines, passed on many at a time: a call for each costs more than the work

    def write(self, row: Any) -> None:
        """Append one row as a line."""
        self.write_line(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def write_line(self, line: bytes) -> None:
        """Append a line that is JSON already, with its end."""
        self._held.write(line)
        self.rows += 1
        if self._held.tell() >= HELD_BYTES:
            self._pass_on()

    def _pass_on(self) -> None:
        """Feed what is held to the file and to the digest."""
        held = self._held.getbuffer()[: self._held.tell()]
        with disk_errors(self.path):
            self._out.write(held)
        self._content.update(held)
        self._held.seek(0)

    def abandon(self) -> None:
        """Let go of a file that nobody will want."""
        with contextlib.suppress(OSError, ValueError):
            self._raw.close()

    def close(self) -> None:
        """Flush to the disk itself; the file is complete afterwards. Safe to call twice."""
        if self._raw.closed:
            return
        self._pass_on()
        with disk_errors(self.path):
            if self._out is not self._raw:
                self._out.close()
            self._raw.flush()
            os.fsync(self._raw.fileno())
            self._raw.close()
        self.content_sha256 = self._content.hexdigest()
        self.sha256 = self.content_sha256 if self._out is self._raw else file_sha256(self.path)


@contextlib.contextmanager
def output_file(target: Path) -> Iterator[IO[bytes]]:
    """Open what somebody named for a result: a file comes to stand there whole or not at all.

    A link's file is written, not the link; what is no file (a pipe, a device) is written into as it goes. Raises
    NotWritable, DiskFull.
    """
    if target.exists() and not target.is_file():
        with disk_errors(target), target.open("wb") as file:
            yield file
        return
    path = target.resolve()
    with written_whole(path, path.parent, f".{path.name[:60]}.") as file:
        yield file


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file that distillgen wrote (zstd when its name ends so).

    Raises Damaged with the line where it is not what was written: no row, or cut off.
    """
    line = 0
    try:
        with path.open("rb") as raw:
            file = io.BufferedReader(_Unpacked(raw)) if path.suffix == ".zst" else raw
            for row in jsonlines.Reader(file, loads=orjson.loads).iter(type=dict):
                line += 1
                yield row
    except jsonlines.InvalidLineError as error:
        raise _damaged("is no row", f"{path}:{error.lineno}") from None
    except (UnicodeDecodeError, zstandard.ZstdError) as error:
        raise _damaged(f"cannot be read after line {line}: {error}", str(path)) from None
    except OSError as error:
        raise _damaged(f"cannot be read: {error.strerror}", str(path)) from None


def _damaged(what: str, where: str) -> Damaged:
    return Damaged(f"this file of a version {what}", where=where, fix="distillgen check tells more, repair may mend it")


class _Unpacked(io.RawIOBase):
    """The content of a zstd file. Raises ZstdError where it was cut off, which zstandard's own reader passes over."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._held = memoryview(b"")

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, into: Any) -> int:
        """Fill a buffer as far as there is content; return how many bytes."""
        while not self._held:
            if self._frame.eof:
                return 0
            block = self._packed.read(4096)  # small: a block may unpack to a thousand times its size
            if not block:
                raise zstandard.ZstdError("it was cut off")  # an EOFError would end the reader of lines in silence
            self._held = memoryview(self._frame.decompress(block))
        count = min(len(into), len(self._held))
        into[:count] = self._held[:count]
        self._held = self._held[count:]
        return count


class Lock:
    """An exclusive kernel lock on a file; it ends with the process that holds it, however that ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def __enter__(self) -> "Lock":
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _locked(handle):
            os.close(handle)
            raise Locked(
                f"another distillgen is at work here: {holder(self._path) or 'unknown process'}",
                where=str(self._path),
                fix="wait for it to end, or stop that process; nothing was sent to a teacher by this command",
            )
        with disk_errors(self._path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} {socket.gethostname()} {int(time.time())}\n".encode(), 0)
        self._handle = handle
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):  # a full disk must not hide the error that ends the run
                os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None


def _locked(handle: int) -> bool:
    """Try for a moment: `holder` may be looking, which holds the lock for some microseconds."""
    for _ in range(10):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, as far as the lock file says so; `since` in seconds since 1970."""

    process: int | None = None
    host: str | None = None
    since: int | None = None

    def __str__(self) -> str:
        if self.since is None:
            return "unknown process"
        return f"process {self.process} on {self.host} since {utc_for_people(self.since)}"


def utc(seconds: float) -> str:
    """Return a time as ISO 8601 to the second: `2026-01-31T02:00:00Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def utc_for_people(seconds: float) -> str:
    """Return a time as people read it: `2026-01-31 02:00:00 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def holder(path: Path) -> Holder | None:
    """Say who holds a lock file, None when nobody does."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(handle, 400, 0).decode(errors="replace").split()
        if len(words) != 3 or not all(word.isdecimal() and len(word) < 12 for word in (words[0], words[2])):
            return Holder()  # edited by hand
        return Holder(int(words[0]), words[1], int(words[2]))
    else:
        return None
    finally:
        os.close(handle)
