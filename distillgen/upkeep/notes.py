"""The note of what is being erased, which outlives a crash: it alone knows then which answers must go still."""

import contextlib
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from distillgen.files import disk_errors, write_atomically
from distillgen.upkeep.aside import remove

FOLDER = "forgetting"  # of notes, in the state folder


@dataclass
class Note:
    """What a run of `forget` had found of some ids: keys of answers, digests of versions, names of datasets."""

    ids: set[str] = field(default_factory=set)
    keys: set[bytes] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    reason: str = ""


def place_of(state: Path, row_ids: Collection[str]) -> Path:
    """Return the file of the note about some ids."""
    name = hashlib.sha256("\n".join(sorted(row_ids)).encode(errors="surrogateescape")).hexdigest()[:32]
    return state / FOLDER / f"{name}.json"


def notes_about(state: Path, row_ids: Collection[str]) -> dict[Path, Note]:
    """Return the notes that runs left which were killed, of any of some ids."""
    found = {path: read_note(path) for path in sorted((state / FOLDER).glob("*.json"))}
    return {path: note for path, note in found.items() if not note.ids.isdisjoint(row_ids)}


def read_note(path: Path) -> Note:
    """Return what an earlier run that was killed had found: nothing where there was none, for a note is whole."""
    try:
        note = orjson.loads(path.read_bytes())
        keys = {bytes.fromhex(key) for key in note["keys"]}
        ids = set(note.get("ids") or [note["id"]])
        return Note(ids, keys, set(note["digests"]), set(note["datasets"]), note["reason"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return Note()


def write_note(path: Path, note: Note) -> None:
    """Write it, where there is a state folder. Raises DiskFull or NotWritable."""
    if not path.parent.parent.is_dir():
        return
    table = {
        "ids": sorted(note.ids), "keys": sorted(key.hex() for key in note.keys), "digests": sorted(note.digests),
        "datasets": sorted(note.datasets), "reason": note.reason,
    }  # fmt: skip
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
    write_atomically(path, orjson.dumps(table))


def remove_note(path: Path) -> None:
    """Remove it, and the folder once it is empty."""
    if path.exists():
        remove(path)
        with contextlib.suppress(OSError):  # another's lies there
            path.parent.rmdir()
