"""Checkpoints that are whole: the trainer writes its own file by file, so each gets a mark when all of it is on disk.

The mark, `whole.json`, holds size and sha256 of every file and is written last. Without a valid one a checkpoint is as
good as none: the trainer would go on from what is left of it, without a word, to other weights.
"""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from distillgen.files import disk_errors, file_sha256, sync_file, sync_folder, write_atomically

MARK = "whole.json"
STATE = "trainer_state.json"
_FOLDER = re.compile(r"checkpoint-([0-9]{1,12})")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its step, and the best one by the validation split so far, which may be itself."""

    folder: Path
    step: int
    best: str | None
    made_on: dict[str, Any]  # device, precision: what else the weights depend on

    @property
    def state(self) -> dict[str, Any]:
        """What the trainer knew when it was made."""
        found: dict[str, Any] = orjson.loads((self.folder / STATE).read_bytes())
        return found

    @property
    def result(self) -> Path:
        """The folder of the weights that the student gets if training ends here."""
        return self.folder.parent / self.best if self.best else self.folder


def mark(folder: Path, best: str | None, made_on: dict[str, Any]) -> Checkpoint:
    """Put all files of a checkpoint on the disk itself, then mark it as whole."""
    with disk_errors(folder):
        names = sorted(path.name for path in folder.iterdir() if path.name != MARK)
        for name in names:
            sync_file(folder / name)
        sync_folder(folder)
        sync_folder(folder.parent)
    files = {name: [(folder / name).stat().st_size, file_sha256(folder / name)] for name in names}
    said = {"best": best, "made_on": made_on, "files": files}
    write_atomically(folder / MARK, orjson.dumps(said, option=orjson.OPT_INDENT_2))
    return Checkpoint(folder, _step(folder), best, made_on)


def newest(home: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint below a folder, and delete every one that is not whole.

    Whole is one whose best is whole too: that is what the student would be made of.
    """
    whole: dict[str, Checkpoint] = {}
    for folder in checkpoint_folders(home):
        if (found := read_checkpoint(folder)) is not None:
            whole[folder.name] = found
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for found in sorted(whole.values(), key=lambda each: each.step, reverse=True):
        if _holds(found.folder) and (found.best is None or (found.best in whole and _holds(found.result))):
            return found
        shutil.rmtree(found.folder, ignore_errors=True)
    return None


def prune(home: Path, keep: int) -> None:
    """Delete all whole checkpoints but the `keep` newest and the best of each of them."""
    found = sorted(
        (each for each in map(read_checkpoint, checkpoint_folders(home)) if each), key=lambda each: each.step
    )
    kept = {name for each in found[-keep:] for name in (each.folder.name, each.best)}
    for each in found:
        if each.folder.name not in kept:
            (each.folder / MARK).unlink(missing_ok=True)  # first of all: half deleted it must not look whole
            shutil.rmtree(each.folder, ignore_errors=True)


def checkpoint_folders(home: Path) -> Iterable[Path]:
    """Return the folders of checkpoints, whole or not."""
    return [path for path in home.iterdir() if _FOLDER.fullmatch(path.name)] if home.is_dir() else []


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return a checkpoint whose mark names files that are there, each as long as it should be; else None."""
    try:
        said = orjson.loads((folder / MARK).read_bytes())
        if all((folder / name).stat().st_size == size for name, (size, _) in said["files"].items()):
            return Checkpoint(folder, _step(folder), said["best"], said["made_on"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None


def _holds(folder: Path) -> bool:
    """Say whether every file of a marked checkpoint is what was written."""
    try:
        said = orjson.loads((folder / MARK).read_bytes())["files"]
        return all(file_sha256(folder / name) == sha256 for name, (_, sha256) in said.items())
    except (OSError, ValueError):
        return False
