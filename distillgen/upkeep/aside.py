"""Changes a dataset's folder so that nothing is lost: what is replaced or moved is kept in its `.damaged` folder."""

import os
import shutil
import stat
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from distillgen.files import disk_errors, masked, sync_folder
from distillgen.upkeep.mending import Content

ASIDE = ".damaged"
MAKING = ".mend-"  # before the name of a file that is being mended


@dataclass(frozen=True)
class Home:
    """A dataset's folder; `stamp` is the time, as the names of what is put aside have it. Raises DiskFull, NotWritable.

    Files may be hard links, which other versions share: none is written in place.
    """

    folder: Path
    stamp: str

    def replace(self, path: Path, content: Content, link: Path | None) -> None:
        """Put another file in the place of one: first whole beside it, then the old one kept aside, then one rename.

        `link` is a file with the same bytes, which becomes shared where the file system can.
        """
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            spare = path.with_name(f"{MAKING}{path.name}")
            spare.unlink(missing_ok=True)
            if link is None or not _linked(link, spare):
                _write(spare, content)
            self._keep(path)
            spare.rename(path)
            sync_folder(path.parent)

    def _keep(self, path: Path) -> None:
        """Keep a file, which stays where it is; what is no file moves."""
        if not os.path.lexists(path):
            return
        target = self._place(path)
        if not stat.S_ISREG(path.lstat().st_mode):
            path.rename(target)
        elif not _linked(path, target):
            shutil.copy2(path, target)
            with target.open("rb") as copy:
                os.fsync(copy.fileno())
        sync_folder(target.parent)

    def move_aside(self, path: Path) -> None:
        """Move a file or a folder out of the way."""
        with disk_errors(path):
            target = self._place(path)
            path.rename(target)
            sync_folder(target.parent)
            sync_folder(path.parent)

    def _place(self, path: Path) -> Path:
        """Return a new name for something that is put aside: its own with the time, below `.damaged`."""
        own = path.relative_to(self.folder)
        folder = self.folder / ASIDE / own.parent
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{own.name[:200]}-{self.stamp}"
        names = (name if number == 1 else f"{name}-{number}" for number in count(1))
        return next(folder / each for each in names if not os.path.lexists(folder / each))

    def clear(self, path: Path) -> None:
        """Remove what a crash left behind."""
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, lastingly."""
    with disk_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        sync_folder(path.parent)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        return False
    return True


def _write(path: Path, content: Content) -> None:
    with path.open("wb") as file:
        for block in content():
            file.write(block)
        file.flush()
        os.fchmod(file.fileno(), masked(0o444))
        os.fsync(file.fileno())
