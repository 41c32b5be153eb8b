"""Versions in a store that fsspec knows: written so that no reader sees half of one, and read."""

import contextlib
import fcntl
import io
import os
import posixpath
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from distillgen.dataset.manifest import FILE_NAME
from distillgen.dataset.versions import folder_of
from distillgen.errors import (
    CredentialsError,
    CredentialsRefused,
    Damaged,
    DistillgenError,
    ExtraMissing,
    Locked,
    NotFound,
    RemoteUnavailable,
    UsageError,
)
from distillgen.files import disk_errors, written_whole
from distillgen.remote.address import StoreAddress
from distillgen.remote.source import MANIFEST_LIMIT

LATEST = "latest"
BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}  # stores that have no folders
_BLOCK = 1024 * 1024
_VERSION = re.compile(r"v(\d{4,9})", re.ASCII)
_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_SENDING = ".sending-"  # before the name of a file on its way into a folder; then the machine and the process
_SENDER = re.compile(re.escape(_SENDING) + r"(?P<machine>.+)-(?P<process>\d{1,9})-[^-]+", re.ASCII)
_FORGOTTEN_AFTER_SECONDS = 24 * 3600.0
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (of another store: what its fsspec package asks for)"  # noqa: E501


class Store:
    """A folder of a store that holds datasets as a project does: NAME/v0003/ and NAME/latest, a file of one line."""

    def __init__(self, address: StoreAddress) -> None:
        self.address, self.is_local = address, False
        try:
            import fsspec
        except ImportError:
            raise ExtraMissing("sharing through a store needs fsspec", fix="pip install 'distillgen[remote]'") from None
        with self._errors():  # some connect here
            try:
                # What was listed before must not be taken for what is there now.
                self._files, self._root = fsspec.core.url_to_fs(address.url, use_listings_cache=False)
            except ImportError as error:
                extra = "pip install 'distillgen[s3]'" if address.url.startswith("s3") else str(error)[:200]
                raise ExtraMissing(f"{address.shown} needs a package that is not installed", fix=extra) from None
            except (ValueError, TypeError):
                raise UsageError(f"{address.shown} is no address of a store", fix="s3://, file:// or a path") from None
        self.is_local = "file" in _tuple(self._files.protocol)

    def path(self, *parts: str) -> str:
        """Return the path of something below the folder, as the store names it."""
        return posixpath.join(self._root, *parts)

    def datasets(self) -> list[str]:
        """Return the datasets that are there."""
        with self._errors():
            names = [posixpath.basename(entry.rstrip("/")) for entry in self._files.ls(self._root, detail=False)]
            return sorted(name for name in names if _NAME.fullmatch(name) and self._is_there(self.path(name, LATEST)))

    def versions(self, name: str) -> list[int]:
        """Return the numbers of the whole versions of a dataset; of one without a manifest somebody is still busy."""
        with self._errors():
            try:
                entries = self._files.ls(self.path(name), detail=False)
            except FileNotFoundError:
                return []
            numbers = [int(m[1]) for e in entries if (m := _VERSION.fullmatch(posixpath.basename(e.rstrip("/"))))]
            return sorted(n for n in numbers if self._is_there(self.path(name, _folder(n), FILE_NAME)))

    def _is_there(self, path: str) -> bool:
        """Whether there is something; fsspec's own `exists` takes a store that does not answer for one without it."""
        try:
            self._files.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def latest(self, name: str) -> int | None:
        """Return the number that `latest` names."""
        path = self.path(name, LATEST)
        if self.is_project(name):
            said = str(Path(path).readlink())
        else:
            try:
                said = self.read(path, 1000).decode(errors="replace").strip()
            except NotFound:
                return None
        found = _VERSION.fullmatch(said)
        return int(found[1]) if found else None

    def is_project(self, name: str) -> bool:
        """Whether it is the folder of datasets of a project on this machine: there `latest` is a link."""
        return self.is_local and Path(self.path(name, LATEST)).is_symlink()

    def sizes(self, name: str, number: int) -> dict[str, int]:
        """Return the files below a version's folder with their sizes in bytes."""
        home = self.path(name, _folder(number))
        with self._errors():
            try:
                found = self._files.find(home, detail=True)
            except FileNotFoundError:
                return {}
        # A store may hold an empty object that stands for a folder.
        return {
            posixpath.relpath(path, home): entry["size"] for path, entry in found.items() if path.rstrip("/") != home
        }

    def read(self, path: str, limit: int) -> bytes:
        """Return a small file. Raises NotFound."""
        with self._errors(), self._opened(path) as file:
            content: bytes = file.read(limit)
            return content

    def fetch(self, path: str, target: Path, size: int) -> None:
        """Bring a file here."""
        with self._errors(), self._opened(path) as file:
            left = size + 1  # one byte beyond tells that the file is not the one listed
            with disk_errors(target), target.open("wb") as out:
                while left and (block := file.read(min(_BLOCK, left))):
                    out.write(block)
                    left -= len(block)

    def _opened(self, path: str) -> Any:
        """Open a file there; in a folder, nothing that could keep a reader waiting, as a pipe does."""
        if self.is_local:
            mode = Path(path).stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise Damaged("is no file", where=path, fix="a copy that is whole")
        return self._files.open(path, "rb")

    def put(self, source: Path, path: str) -> None:
        """Send a file."""
        if self.is_local:
            with source.open("rb") as file:
                self._place(file, Path(path))
            return
        with self._errors():
            if not BUCKETS & set(_tuple(self._files.protocol)):  # there it would make a bucket of a slip of the pen
                self._files.makedirs(posixpath.dirname(path), exist_ok=True)
            self._files.put_file(str(source), path)

    def _place(self, content: IO[bytes], target: Path) -> None:
        """Write a file of a folder whole or not at all, and lastingly."""
        with written_whole(target, self._home(target), f"{_SENDING}{_machine()}-{os.getpid()}-") as out:
            shutil.copyfileobj(content, out, _BLOCK)

    def _home(self, target: Path) -> Path:
        """Return the dataset's folder that a path is in: what is left of a copy there is no part of a version."""
        return Path(self._root) / target.relative_to(self._root).parts[0]

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Let nobody else push into a dataset's folder from this machine, and clear what killed pushes left there.

        Raises Locked. The lock is the folder's own, so that it leaves no file that another user could not open; where
        a file system has none, nobody is kept out.
        """
        if not self.is_local:
            yield
            return
        home = Path(self.path(name))
        with disk_errors(home):
            home.mkdir(parents=True, exist_ok=True)
            handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not _locked(handle):
                raise Locked(
                    "another push is at work there", where=str(home), fix="run the same command again after it"
                )
            _clear(home)
            yield
        finally:
            os.close(handle)

    def clear(self, name: str) -> None:
        """Clear what killed pushes left in a dataset's folder, unless one is at work there, or it is not ours to do."""
        if self.is_local and Path(self.path(name)).is_dir():
            with contextlib.suppress(DistillgenError), self.held(name):
                pass

    def write(self, content: bytes, path: str) -> None:
        """Write a small file whole or not at all."""
        if self.is_local:
            self._place(io.BytesIO(content), Path(path))
            return
        with self._errors():
            self._files.pipe_file(path, content)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what a store says into an error that tells what to do; never with the store's whole message."""
        where = self.address.shown
        try:
            yield
        except DistillgenError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                "nothing of that name there", where=where, fix="the address, or the dataset's name"
            ) from None
        except OSError as error:
            if self.is_local:  # what is written there is written elsewhere, see `_place`
                what = f"cannot read {error.filename or self._root}: {error.strerror or type(error).__name__}"
                raise UsageError(what, fix="who may read it, or another copy") from None
            if isinstance(error, PermissionError):
                raise CredentialsRefused(f"access denied{self._words(error)}", where=where, fix=_KEYS) from None
            raise self._unavailable(error) from None
        except Exception as error:  # every store's package has its own
            kind = type(error).__name__
            if "Credential" in kind or "Token" in kind or "ProfileNotFound" in kind:
                raise CredentialsError("no credentials for this store", where=where, fix=_KEYS) from None
            raise self._unavailable(error) from None

    def _unavailable(self, error: Exception) -> RemoteUnavailable:
        return RemoteUnavailable(
            f"the store does not answer as it should: {type(error).__name__}{self._words(error)}",
            where=self.address.shown,
            fix="the address, the network (AWS_ENDPOINT_URL for an S3-compatible store), or later; "
            "no half version is left",
        )

    def _words(self, error: Exception) -> str:
        """Return the beginning of what a store says, nothing where it may repeat a secret of the address."""
        return f": {str(error)[:120]!r}" if self.address.is_plain else ""


class StoredVersion:
    """A version in a store, to pull from."""

    def __init__(self, store: Store, name: str, number: int) -> None:
        self._store, self._name, self._number = store, name, number

    def manifest(self) -> bytes:
        """See Source."""
        return self._store.read(self._path(FILE_NAME), MANIFEST_LIMIT)

    def sizes(self) -> Mapping[str, int | None]:
        """See Source."""
        return self._store.sizes(self._name, self._number)

    def fetch(self, name: str, folder: Path, size: int) -> None:
        """See Source."""
        self._store.fetch(self._path(name), folder / name, size)

    def _path(self, name: str) -> str:
        return self._store.path(self._name, _folder(self._number), name)


def _locked(handle: int) -> bool:
    """Try to lock a folder; whether nobody else has."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems lock no folders
        return True
    return True


def _clear(home: Path) -> None:
    """Remove what pushes left that are dead: those of this machine at once, those of others a day later."""
    for leftover in home.glob(f"{_SENDING}*"):
        with contextlib.suppress(OSError):
            if _is_dead(leftover.name) or time.time() - leftover.stat().st_mtime > _FORGOTTEN_AFTER_SECONDS:
                leftover.unlink()


def _is_dead(name: str) -> bool:
    """Whether a file was on its way from a process of this machine that is no more."""
    sender = _SENDER.fullmatch(name)
    if sender is None or sender["machine"] != _machine():
        return False
    try:
        os.kill(int(sender["process"]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def _machine() -> str:
    return re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII)[:100]


def _folder(number: int) -> str:
    return folder_of(Path(), number).name


def _tuple(protocol: Any) -> tuple[str, ...]:
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
