"""Versions on disk, found by name, digest or folder; and `latest`, which names one of them."""

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillgen.dataset.manifest import DAMAGED, FILE_NAME, Manifest, read_manifest
from distillgen.dataset.seal import has_seal, seal_holds
from distillgen.errors import Damaged, DistillgenError, Locked, NewerFormat, NotFound, nearest
from distillgen.files import Lock, safe_name, sync_folder

SHORTEST_DIGEST = 4  # hexadecimal digits that may name a version
EXCHANGING = ".exchanging-"  # before the name of a version in whose place a rewritten one is put just now
MOST_TOLD = 20  # versions that an error names
MOST_NAMED = 200  # characters of a folder that an error names
_FOLDER = re.compile(r"v([0-9]{4,9})")
_NUMBER = re.compile(r"v?([0-9]{1,9})")


@dataclass(frozen=True)
class Version:
    """One published version."""

    folder: Path
    manifest: Manifest

    @property
    def label(self) -> str:
        """`name@3`."""
        return f"{self.manifest.name}@{self.manifest.version}"

    def split_names(self, wanted: str | None = None) -> list[str]:
        """Return the splits, or the one that is wanted. Raises NotFound with what there is."""
        names = list(self.manifest.splits)
        if wanted is None:
            return names
        if wanted not in names:
            raise NotFound(f"{self.label} has no split {wanted!r}", where=str(self.folder), fix=nearest(wanted, names))
        return [wanted]

    def data_files(self, split: str) -> list[Path]:
        """Return the data files of a split, in order. Raises Damaged when one is missing."""
        names = [
            name for name in self.manifest.files if re.fullmatch(rf"data/{re.escape(split)}-\d+-of-\d+\.jsonl", name)
        ]
        for name in names:
            if not (self.folder / name).is_file():
                raise Damaged(f"{self.label} lacks a data file", where=str(self.folder / name), fix=DAMAGED)
        return [self.folder / name for name in sorted(names)]


def version_numbers(home: Path) -> list[int]:
    """Return the numbers of the versions below a dataset's folder, in order."""
    if not home.is_dir():
        return []
    return sorted(
        int(found[1]) for entry in home.iterdir() if (found := _FOLDER.fullmatch(entry.name)) and entry.is_dir()
    )


def folder_of(home: Path, number: int) -> Path:
    """Return the folder of a version."""
    return home / f"v{number:04d}"


def latest(home: Path) -> Version | None:
    """Return the version that `latest` names, None when it names none."""
    link = home / "latest"
    if link.is_symlink():
        name = str(link.readlink())
    elif link.is_file():  # where links are not to be had
        name = link.read_text(encoding="utf-8", errors="replace").strip()
    else:
        return None
    folder = home / name
    return Version(folder, read_manifest(folder)) if _FOLDER.fullmatch(name) and folder.is_dir() else None


def find_version(reference: str, datasets: Path) -> Version:
    """Return the version that `name`, `name@3`, `name@latest`, `name@sha256:ab12` or a version folder's path names.

    A digest may be cut short, to four digits. Raises NotFound with what there is.
    """
    if _is_version(path := Path(reference)):
        return Version(path, read_manifest(path))
    name, _, wanted = reference.partition("@")
    _refuse_folder(name)
    safe_name(name, "dataset name")
    home = datasets / name
    numbers = version_numbers(home)
    if not numbers:
        raise no_dataset(name, datasets)
    if wanted in ("", "latest"):
        found = latest(home)
        return found or Version(folder_of(home, numbers[-1]), read_manifest(folder_of(home, numbers[-1])))
    if wanted.startswith("sha256:"):
        return _by_digest(name, wanted.removeprefix("sha256:").lower(), home, numbers)
    number = int(said[1]) if (said := _NUMBER.fullmatch(wanted)) else -1
    if number not in numbers:
        there = ", ".join(map(str, numbers[-MOST_TOLD:]))
        raise NotFound(f"{name} has no version {wanted[:80]!r}", where=str(home), fix=f"there are {there}")
    return Version(folder_of(home, number), read_manifest(folder_of(home, number)))


def find_home(reference: str, datasets: Path) -> Path:
    """Return the folder of the dataset of which a name means a version, whether that can be read or not.

    Raises NotFound with what there is.
    """
    name = reference.partition("@")[0]
    if _is_version(path := Path(reference)):
        home = path.resolve().parent
        if version_numbers(home):
            return home
        raise NotFound("this version is by itself, no dataset's", where=reference, fix="distillgen stats shows it")
    if name != reference:
        with contextlib.suppress(Damaged, NewerFormat):
            find_version(reference, datasets)
    _refuse_folder(name)
    safe_name(name, "dataset name")
    if not version_numbers(datasets / name):
        raise no_dataset(name, datasets)
    return datasets / name


def homes_in(datasets: Path) -> list[Path]:
    """Return the folders of the datasets of a project, in order."""
    found = sorted(entry for entry in datasets.iterdir() if entry.is_dir()) if datasets.is_dir() else []
    return [home for home in found if not home.name.startswith(".")]


@contextlib.contextmanager
def locked_home(home: Path) -> Iterator[None]:
    """Hold the lock of a dataset that may be new: where nothing came of it, no folder stays that was not there before.

    Raises Locked, DiskFull, NotWritable.
    """
    new = [folder for folder in (home, home.parent) if not folder.exists()]
    lock = home / ".lock"
    with Lock(lock):
        if not lock.exists():  # whoever held it before us made the folder, and took it away again
            raise Locked("another distillgen was at work here", where=str(lock), fix="run the same command again")
        try:
            yield
        finally:
            if home in new and {path.name for path in home.iterdir()} <= {lock.name}:
                with contextlib.suppress(OSError):  # somebody else puts something there just now
                    lock.unlink()
                    for folder in new:
                        folder.rmdir()


def no_dataset(name: str, datasets: Path) -> NotFound:
    """Return the error that says there is no such dataset, with the nearest that there is."""
    hint = nearest(name, [home.name for home in homes_in(datasets) if version_numbers(home)])
    return NotFound(f"no dataset {name!r}", where=str(datasets), fix=hint or "`distillgen build` makes one")


def _refuse_folder(name: str) -> None:
    """Raise NotFound when somebody names a folder that is no version."""
    try:
        is_folder = "/" in name and Path(name).is_dir()
    except (OSError, ValueError):  # no name of a file at all
        return
    if is_folder:
        raise NotFound(
            f"no version in this folder: there is no {FILE_NAME}", where=name[:MOST_NAMED],
            fix="name a dataset (`distillgen log` lists them) or the folder of a version (.../v0001); "
            "`distillgen repair DATASET` may mend a damaged one",
        )  # fmt: skip


def _is_version(folder: Path) -> bool:
    try:
        return (folder / FILE_NAME).is_file()
    except (OSError, ValueError):  # a name too long for a file, say
        return False


def _by_digest(name: str, beginning: str, home: Path, numbers: Sequence[int]) -> Version:
    """Return the newest version whose content has a digest that begins so."""
    versions, trouble = list[Version](), list[DistillgenError]()
    for number in numbers:
        try:
            versions.append(Version(folder_of(home, number), read_manifest(folder_of(home, number))))
        except (Damaged, NewerFormat) as error:  # which need not be the one that is meant
            trouble.append(error)
    found = [each for each in versions if each.manifest.digest.startswith(beginning)]
    if not found or len(beginning) < SHORTEST_DIGEST:
        if trouble and len(beginning) >= SHORTEST_DIGEST:
            raise trouble[-1]
        raise NotFound(
            f"{name} has no version with the digest {beginning[:80]!r}", where=str(home),
            fix=f"there are {', '.join(f'{each.manifest.digest[:12]} ({each.label})' for each in versions[-5:])}",
        )  # fmt: skip
    if len({each.manifest.digest for each in found}) > 1:
        labels = ", ".join(f"{each.label} ({each.manifest.digest[:12]})" for each in found)
        raise NotFound(
            f"several versions have a digest that begins with {beginning!r}", fix=f"say more of it: {labels}"
        )
    return found[-1]


def point_latest(home: Path, name: str) -> None:
    """Move `latest` to a version, by rename: a reader sees the old one or the new one."""
    spare = home / ".latest"
    spare.unlink(missing_ok=True)
    try:
        spare.symlink_to(name)
    except OSError:
        spare.write_text(f"{name}\n", encoding="utf-8")
    spare.rename(home / "latest")
    sync_folder(home)


def sweep(home: Path) -> None:
    """Clear what a crash left behind: staging folders, and a version that was moved in but not yet named latest.

    A version whose exchange for a rewritten one was cut short gets its name back first. A folder that somebody put
    there is named latest only when it is a whole version of this number.
    """
    for hidden in home.glob(f"{EXCHANGING}*"):
        if (home / hidden.name.removeprefix(EXCHANGING)).exists():
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            hidden.rename(home / hidden.name.removeprefix(EXCHANGING))
    for leftover in home.glob(".staging-v*"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = latest(home)
    named = 0 if found is None else found.manifest.version
    newest = next((number for number in reversed(version_numbers(home)) if number <= named or _stands(home, number)), 0)
    if newest > named:
        point_latest(home, folder_of(home, newest).name)


def _stands(home: Path, number: int) -> bool:
    """Whether a folder is a version that was moved in whole: not half a copy, nor a copy under another number."""
    folder = folder_of(home, number)
    try:
        content, manifest = (folder / FILE_NAME).read_bytes(), read_manifest(folder)
        sizes = {name: (folder / name).stat().st_size for name in manifest.files}
    except (OSError, Damaged, NewerFormat):
        return False
    if (manifest.name, manifest.version) != (home.name, number) or (has_seal(content) and not seal_holds(content)):
        return False
    return all(sizes[name] == entry.bytes for name, entry in manifest.files.items())
