"""Copies of a row beside the versions that held it: caches, leftovers, logs, and what batches say of its requests."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from distillgen.files import write_atomically
from distillgen.teacher.batch_records import KEY_BYTES
from distillgen.upkeep.aside import ASIDE
from distillgen.upkeep.check import exchanged_versions
from distillgen.upkeep.repair import LEFTOVERS

_NO_KEY = bytes(KEY_BYTES)  # in a batch, in the place of one whose answer is not wanted any more
_OF_RUNS = (
    ("spool/*", "what a run did not hold in memory"),
    ("logs/*", "a log, which may hold it"),
    ("batches/queue-*.jsonl", "requests of a run that was killed"),
)


def leftovers_in(home: Path) -> list[Path]:
    """Return what a crash left in a dataset's folder."""
    return sorted({*exchanged_versions(home), *(path for pattern in LEFTOVERS for path in home.glob(pattern))})


def copies_beside(homes: Iterable[Path], state: Path, digests: Collection[str]) -> list[tuple[Path, str]]:
    """Return what may hold a copy, and why it goes: in datasets' folders, and in the state folder.

    `digests` are those of the versions that held the row.
    """
    found: list[tuple[Path, str]] = []
    for home in sorted(homes):
        if (home / ASIDE).is_dir():
            found.append((home / ASIDE, "damaged bytes that a repair put aside, which may hold it"))
        found += [(path, "left by a crash") for path in leftovers_in(home)]
    known = {digest[:32] for digest in digests}
    indexes = sorted((state / "near").glob("*/*/*"))
    found += [(index, "an index of rows, which is made anew") for index in indexes if index.name in known]
    for pattern, what in _OF_RUNS:
        found += [(path, what) for path in sorted(state.glob(pattern))]
    return found


# -- batches ---------------------------------------------------------------------------------------------------------


def asked_in_batches(state: Path, keys: Collection[bytes]) -> list[Path]:
    """Return the files of batches in which any of some requests stands: to be answered still."""
    return [path for path in _files(state, "*.keys") if not set(_cut(path)).isdisjoint(keys)]


def told_in_batches(state: Path, keys: Collection[bytes]) -> list[Path]:
    """Return the records of batches that keep what a server said of any of some requests."""
    names = {key.hex() for key in keys}
    return [
        path
        for path in _files(state, "*.json")
        if any(not names.isdisjoint(told) for _, told in _told_in(_record(path)))
    ]


def strike_out(path: Path, keys: Collection[bytes]) -> None:
    """Have a batch's answers to some requests not be taken in, and what its server said of them not kept."""
    if path.suffix == ".keys":
        write_atomically(path, b"".join(_NO_KEY if key in keys else key for key in _cut(path)))
        return
    record, names = _record(path), {key.hex() for key in keys}
    for name, told in _told_in(record):
        record[name] = {key: said for key, said in told.items() if key not in names}
    write_atomically(path, orjson.dumps(record, option=orjson.OPT_INDENT_2))


def _record(path: Path) -> dict[str, Any]:
    """Return the record of a batch: nothing of a file that holds none."""
    try:
        record = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}


def _told_in(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the fields of a record that keep what a server said, by keys of requests."""
    for name in ("refused", "faulty"):
        if isinstance(told := record.get(name), dict):
            yield name, told


def _files(state: Path, pattern: str) -> list[Path]:
    return sorted(path for path in (state / "batches").glob(pattern) if path.is_file())


def _cut(path: Path) -> list[bytes]:
    """Return the keys of a batch."""
    keys = path.read_bytes()
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
