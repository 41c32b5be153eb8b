"""The note of what is being erased, which outlives a crash: it alone knows then which answers must go still."""

import contextlib
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from distillgen.files import disk_errors, write_atomically
from distillgen.upkeep.aside import remove

FOLDER = "forgetting"  # of notes, in the state folder


@dataclass
class Note:
    """What a run of `forget` had found of one id: keys of answers, digests of versions, names of datasets."""

    keys: set[bytes] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    reason: str = ""


def place_of(state: Path, row_id: str) -> Path:
    """Return the file of the note about an id."""
    return state / FOLDER / f"{hashlib.sha256(row_id.encode(errors='surrogateescape')).hexdigest()[:32]}.json"


def read_note(path: Path) -> Note:
    """Return what an earlier run that was killed had found: nothing where there was none, for a note is whole."""
    try:
        note = orjson.loads(path.read_bytes())
        keys = {bytes.fromhex(key) for key in note["keys"]}
        return Note(keys, set(note["digests"]), set(note["datasets"]), note["reason"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return Note()


def write_note(path: Path, row_id: str, note: Note) -> None:
    """Write it, where there is a state folder. Raises DiskFull or NotWritable."""
    if not path.parent.parent.is_dir():
        return
    table = {
        "id": row_id, "keys": sorted(key.hex() for key in note.keys), "digests": sorted(note.digests),
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
