"""The folder that an export is written into: which may be, one export at a time, all files or none, nothing left over.

A file in the making is `.exporting-PID-NAME` beside the one it will be. Whoever writes holds a kernel lock on the
folder itself, which ends with its process: so what has such a name when the lock is had is of a dead process.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distillgen.dataset.manifest import FILE_NAME
from distillgen.dataset.room import on_stop, when_full
from distillgen.dataset.versions import Version
from distillgen.errors import Locked, NotWritable, UsageError
from distillgen.files import disk_errors, sync_folder

_VERSION = re.compile(r"v[0-9]{4,9}")  # the name of a version's folder
_SPARE = re.compile(r"\.exporting-[0-9]+-.+", re.DOTALL)
RECIPE = "recipe.toml"
_OWN = ("datasets", ".distillgen")  # folders of a project that hold nothing but its own files


def may_stand_in(folder: Path, version: Version | None) -> None:
    """Raise UsageError where a project keeps its own files, but for a version's `exports`; NotWritable for a file.

    Without a version, for rows of a pipe, a project is told from its recipe.
    """
    place, home = folder.resolve(), version.folder.resolve() if version is not None else None
    for above in (place, *place.parents):
        is_numbered = _VERSION.fullmatch(above.name) is not None
        is_sibling = home is not None and above.parent == home.parent
        is_version = above == home or (is_numbered and (is_sibling or (above / FILE_NAME).is_file()))
        if is_version:
            if place.relative_to(above).parts[:1] == ("exports",):
                break
            raise _refused(folder, "belongs to a version, which never changes", version)
    else:
        project = _project_of(place, home)
        if project and place.is_relative_to(project) and place.relative_to(project).parts[:1] in [(n,) for n in _OWN]:
            raise _refused(folder, "is where the project keeps its own files", version)
    if folder.exists() and not folder.is_dir():
        raise NotWritable(
            f"{folder} is no folder, and an export has a file for each split",
            fix="choose a folder; for one file: --split NAME > FILE",
        )


def _project_of(place: Path, home: Path | None) -> Path | None:
    """Return the project that a version is of, or else the one around a folder; None where there is none."""
    if home is not None:
        return home.parent.parent.parent if home.parent.parent.name == _OWN[0] else None
    return next((above for above in place.parents if (above / RECIPE).is_file()), None)


def _refused(folder: Path, why: str, version: Version | None) -> UsageError:
    exports = f", or {version.folder / 'exports'}" if version is not None else ""
    return UsageError(f"{folder} {why}", fix=f"choose another folder{exports}")


class Spares:
    """Files in the making in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spares: dict[Path, Path] = {}

    def add(self, name: str) -> Path:
        """Return where to write what will be the file `name`. Raises NotWritable where a folder has that name."""
        path = self._folder / name
        if path.is_dir():
            raise NotWritable(f"{path} is a folder", fix="choose another folder")
        self._spares[path] = self._folder / f".exporting-{os.getpid()}-{name}"
        return self._spares[path]

    def put_in_place(self) -> list[Path]:
        """Give the files their names, in the order in which they were added; return them."""
        for path, spare in self._spares.items():
            spare.rename(path)
        sync_folder(self._folder)
        return list(self._spares)

    def remove(self) -> None:
        """Remove what has not been put in place."""
        for spare in self._spares.values():
            with suppress(OSError):
                spare.unlink(missing_ok=True)


@contextmanager
def files_for(folder: Path) -> Iterator[Spares]:
    """Yield the files in the making of a folder, which is made if need be; whatever happens, none is left over.

    Sweeps those of exports that were killed. Raises Locked while another export writes there, and what a disk may do.
    """
    left = "what stood there before is as it was"
    with on_stop(left), when_full(left), disk_errors(folder):
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        handle, spares = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), Spares(folder)
        try:
            if not _lock(handle, folder):
                is_new = False  # somebody else may be at work in it
            else:
                _sweep(folder)
            try:
                yield spares
            except BaseException:
                spares.remove()
                if is_new:
                    with suppress(OSError):  # something else is in it
                        folder.rmdir()
                raise
        finally:
            os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    """Lock a folder; return whether that can be done on its file system. Raises Locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(
            f"another export is being written into {folder}", fix="wait for it to end, or choose another folder"
        ) from None
    except OSError:  # some network file systems lock no folder
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove what exports left that were killed. What cannot be removed is in nobody's way."""
    with os.scandir(folder) as entries:
        files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    for name in filter(_SPARE.fullmatch, files):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
