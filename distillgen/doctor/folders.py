"""Whether the folders that a build writes to have room, can be written and locked, and can hold links."""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from distillgen.doctor.findings import Finding, broken, note, warning, well
from distillgen.errors import UsageError
from distillgen.state import require_local, user_state_folder
from distillgen.teacher.models import cache_folder

LEAST_BYTES = 200_000_000
FEW_BYTES = 2_000_000_000
LEAST_FILES = 1_000
CHILD_SECONDS = 20.0
REFUSED, TAKEN = 3, 4
# What a second process does with the file that the first has locked: it says by its exit status what came of it.
_SECOND = f"""
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit({REFUSED})
sys.exit({TAKEN})
"""
PROJECT, STATE, CACHE, TEMPORARY, HERE = "project", "state", "cache", "temporary", "current"
NEEDED = {PROJECT, STATE, TEMPORARY}
Places = Mapping[str, Path]  # what a folder is for -> the folder that is there: itself, or what it will be made in


def examine(project: Path | None, state: Path | None, mounts: str | None = None) -> Iterator[Finding]:
    """Yield what is found of a project's folder and its state folder, the cache and the temporary folder.

    Without a project it is the current folder that is looked at. `mounts` is a mount table, see `require_local`.
    Nothing is left behind.
    """
    places: dict[str, Path] = {}
    for name, folder in ((PROJECT, project), (STATE, state), (CACHE, cache_folder())):
        if folder is not None:
            places[name] = nearest(folder)
    if project is None:
        with contextlib.suppress(OSError):  # it may have been removed
            places[HERE] = Path.cwd()
    try:
        places[TEMPORARY] = Path(tempfile.gettempdir())
    except OSError as error:
        yield broken("disk", f"no temporary folder: {error.strerror}", "set TMPDIR to a folder that can be written")
    yield from _room(places)
    writable = {name: folder for name, folder in places.items() if not _refusal(folder)}
    yield from _writing(places, writable)
    if state is not None:
        yield from _network(PROJECT, project or state, mounts)
        yield from _network(STATE, state, mounts)
    yield from _locking({name: writable[name] for name in (STATE, PROJECT) if name in writable})
    yield _sharing()
    if PROJECT in writable:
        yield _linking(writable[PROJECT])


def nearest(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  (not resolve: a link in it is the user's own choice)
    for each in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            if each.is_dir():
                return each
    return Path(folder.anchor)


def _room(places: Places) -> Iterator[Finding]:
    """Yield the free space of each file system once."""
    systems: dict[int, dict[str, Path]] = {}
    for name, folder in places.items():
        with contextlib.suppress(OSError):
            systems.setdefault(folder.stat().st_dev, {})[name] = folder
    for held in systems.values():
        folder = next(iter(held.values()))
        free, files = shutil.disk_usage(folder).free, os.statvfs(folder)
        what = f"{free / 1e9:,.1f} GB free in {folder} (for: {', '.join(held)})"
        fix = "free some space there, or choose another folder: `--state`, DISTILLGEN_STATE, DISTILLGEN_CACHE, TMPDIR"
        if free < LEAST_BYTES:
            yield (broken if NEEDED & held.keys() else warning)("disk", what, fix)
        elif free < FEW_BYTES:
            yield warning("disk", what, fix)
        else:
            yield well("disk", what)
        if files.f_files and files.f_favail < LEAST_FILES:
            what = f"{files.f_favail:,} more files fit on the file system of {folder}"
            yield (broken if NEEDED & held.keys() else warning)("disk", what, "remove files that nobody needs there")


def _refusal(folder: Path) -> str:
    """Return why a file cannot be written in a folder, "" when it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def _writing(places: Places, writable: Places) -> Iterator[Finding]:
    if writable:
        yield well("write", f"can be written: {', '.join(f'{name} {path}' for name, path in writable.items())}")
    for name, folder in places.items():
        if name not in writable:
            what = f"the {name} folder cannot be written: {folder}: {_refusal(folder) or 'it changed just now'}"
            fix = "make it writable, or choose another folder"
            yield broken("write", what, fix) if name in NEEDED else note("write", what, fix)


def _network(name: str, folder: Path, mounts: str | None) -> Iterator[Finding]:
    try:
        require_local(folder, mounts)
    except UsageError as error:
        [problem] = error.problems
        if name == STATE:
            yield broken("locks", problem.what, problem.fix)
        else:  # datasets may lie there: they are written whole and renamed
            kind = problem.what.rpartition("(")[2].rstrip(")")
            what = f"the project folder {folder} is on a network file system ({kind}): builds are slower there"
            yield note("locks", what, "keep the project on a local disk, and `distillgen push` what is to be shared")


def _locking(places: Places) -> Iterator[Finding]:
    """Yield whether locks hold, once for each file system."""
    seen: set[int] = set()
    for name, folder in places.items():
        if (system := folder.stat().st_dev) in seen:
            continue
        seen.add(system)
        problem = lock_problem(folder)
        if problem:
            fix = "keep it on a local disk: `--state DIR`, DISTILLGEN_STATE; else two builds may harm each other"
            yield broken("locks", f"locks do not work in the {name} folder {folder}: {problem}", fix)
        else:
            yield well("locks", f"a lock in {folder} keeps a second process out")


def lock_problem(folder: Path) -> str:
    """Lock a file in a folder and let a second process try; return what is wrong, "" when it was refused."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            command = [sys.executable, "-I", "-S", "-c", _SECOND, file.name]
            second = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                timeout=CHILD_SECONDS, check=False,
            )  # fmt: skip
    except OSError as error:
        return error.strerror or type(error).__name__
    except subprocess.SubprocessError:
        return f"a second process hung for {CHILD_SECONDS:g} s"
    if second.returncode == TAKEN:
        return "two processes got the same lock"
    return "" if second.returncode == REFUSED else f"a second process ended with {second.returncode}"


def _sharing() -> Finding:
    """Return whether the processes of this user find each other, to share the limits of an endpoint."""
    fix = "set XDG_STATE_HOME to a folder of your own on a local disk; else each process asks as if it were alone"
    try:
        folder = user_state_folder() / "limits"
    except OSError as error:
        return warning("limits", f"no folder to share limits in: {error.filename}: {error.strerror}", fix)
    problem = lock_problem(nearest(folder))
    if problem:
        return warning("limits", f"limits cannot be shared with other processes in {folder}: {problem}", fix)
    return well("limits", f"processes of this user share limits in {folder}")


def _linking(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as within:
            first = Path(within) / "first"
            first.write_bytes(b"doctor")
            os.link(first, Path(within) / "second")
    except OSError as error:
        what = f"no hard links in {folder} ({errno.errorcode.get(error.errno or 0, 'error')}): equal files of versions "
        return note("links", what + "take their space twice", "`distillgen gc --keep N` removes old versions")
    return well("links", f"versions can share equal files in {folder} (hard links)")
