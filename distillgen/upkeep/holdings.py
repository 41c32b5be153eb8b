"""What versions hold of a row that must go: its records, by what became of it, and the keys of its answers."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from distillgen.dataset.manifest import FILE_NAME, read_manifest
from distillgen.dataset.publication import REFUSED, SIDECARS
from distillgen.dataset.versions import Version, folder_of, version_numbers
from distillgen.errors import UsageError
from distillgen.excluded import FORGOTTEN, origin_of
from distillgen.upkeep.check import MADE_LATER
from distillgen.upkeep.rewriting import records_of

_KEY = re.compile(rb'"key":"([0-9a-f]{64})"')
_HASHED = re.compile(rb'"([a-z2-7]{16})')  # how a string begins that may be the id of a row of a seed
FEW = 4  # ids for which a line is sooner looked through for each
_QUOTING = {"outvoted", "no_pair"}  # rules whose detail quotes another sample of the same prompt


@dataclass
class Holding:
    """A version that holds rows which must go: their ids, by what became of them, and the keys of their answers.

    `made_later` are exports and a report, `strays` other things in its folder: neither is in the new one.
    """

    label: str
    version: Version
    rows: dict[str, list[str]] = field(default_factory=dict)  # published, rejected, failed -> ids
    keys: set[bytes] = field(default_factory=set)
    made_later: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    of_ids: Counter[str] = field(default_factory=Counter)  # of each id that is meant: how many rows go for it
    digest: str = ""  # once it is written anew

    @property
    def count(self) -> int:
        """How many rows go."""
        return sum(map(len, self.rows.values()))


class Target:
    """The rows that are meant, seeds with all their rows among them, and what becomes of each record.

    `ids` are those of no row that goes with another of them anyway; `origins` are their seeds.
    """

    def __init__(self, row_ids: Iterable[str]) -> None:
        wanted = dict.fromkeys(row_ids)
        self.ids = [each for each in wanted if _shortest(each, wanted) == each]
        self._ids = frozenset(self.ids)
        self.origins = frozenset(map(origin_of, self.ids))
        # What a shell hands on need be no text.
        by = {origin: origin.encode(errors="surrogateescape") for origin in self.origins}
        hashed = {each for each in by.values() if len(by) > FEW and _HASHED.fullmatch(b'"' + each)}
        self._hashes, self._found_by = frozenset(hashed), [each for each in by.values() if each not in hashed]

    def is_seed(self, origin: str) -> bool:
        """Whether all rows of a seed are meant."""
        return origin in self._ids

    def is_near(self, line: bytes) -> bool:
        """Whether a record's line may be about one of the seeds: a glance, where reading JSON takes time."""
        if self._hashes and not self._hashes.isdisjoint(_HASHED.findall(line)):
            return True
        return any(each in line for each in self._found_by)

    def wanted(self, name: str) -> str | None:
        """Return which of the ids covers that of a row: the row's own, or one of what it was made from."""
        return _shortest(name, self._ids)

    def treated(self, line: bytes) -> bytes | None:
        """Return what becomes of a record's line: None when its row goes."""
        if not self.is_near(line):  # most of them
            return line
        record = orjson.loads(line)
        if self._is_meant(record):
            return None
        return orjson.dumps(record) if self._scrubbed(record) else line

    def _is_meant(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of the row, of one made from it, or of a pair that it is part of."""
        names = [record["id"], record["origin"], record["parent"] or ""]
        for step in record["steps"]:
            if step.get("keep") == "pair":
                names += [step[side]["id"] for side in ("chosen", "rejected")]
        return any(self.wanted(name) is not None for name in names)

    def id_of(self, record: Mapping[str, Any]) -> str:
        """Return for which of the ids a record goes."""
        names = (record["id"], record["origin"], record["parent"] or "")
        found = next(filter(None, map(self.wanted, names)), None)
        of_seed = (each for each in self.ids if origin_of(each) == record["origin"])  # it is a pair's other side
        return found or next(of_seed, self.ids[0])

    def _scrubbed(self, record: dict[str, Any]) -> bool:
        """Take text of the row out of another's record, which stays; return whether there was any."""
        was = orjson.dumps(record)
        if record["origin"] in self.origins and record.get("rule") in _QUOTING:
            gone = ", ".join(each for each in self.ids if origin_of(each) == record["origin"])
            record["detail"] = f"what it said of other samples was erased with {gone}"
        for step in record["steps"]:
            shown, ids = record["columns"].get("examples"), step.get("examples")
            if isinstance(shown, list) and isinstance(ids, list) and len(ids) == len(shown):
                texts = ["" if self.wanted(each) else text for each, text in zip(ids, shown, strict=True)]
                record["columns"]["examples"] = texts
        return orjson.dumps(record) != was


def _shortest(name: str, wanted: Collection[str]) -> str | None:
    """Return the first of a row's beginnings that is wanted: of `a.2.0` that is `a`, then `a.2`, then itself."""
    beginnings = [name]
    while shorter := beginnings[-1].rpartition(".")[0]:
        beginnings.append(shorter)
    return next((each for each in reversed(beginnings) if each in wanted), None)


def holding_of(version: Version, target: Target) -> Holding | None:
    """Return what a version holds of a row, None when it holds nothing. Raises UsageError when it is a link."""
    holding = Holding(label_of(version), version)
    for name in SIDECARS:
        fate = "published" if name == "provenance" else name
        for line in records_of(version, name):
            if target.treated(line) is not None:
                continue
            record = orjson.loads(line)
            if record.get("rule") != FORGOTTEN:
                holding.rows.setdefault(fate, []).append(record["id"])
                holding.of_ids[target.id_of(record)] += 1
                holding.keys |= keys_in(line)
    if not holding.rows:
        return None
    if version.folder.is_symlink():
        raise UsageError(
            f"{holding.label} is a link, and nothing is written through it", where=str(version.folder),
            fix="put the folder itself here, or take the link away and erase the row where it is",
        )  # fmt: skip
    listed = {name.split("/")[0] for name in version.manifest.files} | {FILE_NAME, "data"}
    for path in sorted(version.folder.iterdir()):
        if path.name in MADE_LATER:
            holding.made_later.append(path.name)
        elif path.name not in listed:
            holding.strays.append(path.name)
    return holding


def versions_in(home: Path) -> Iterator[Version]:
    """Yield the versions of a dataset, and what its quality gate refused. Raises Damaged or NewerFormat."""
    folders = [folder_of(home, number) for number in version_numbers(home)]
    for folder in [*folders, *([home / REFUSED] if (home / REFUSED / FILE_NAME).is_file() else [])]:
        yield Version(folder, read_manifest(folder))


def label_of(version: Version) -> str:
    """Return what people call a version: demo@3, demo/refused."""
    name = version.folder.parent.name
    return f"{name}/{REFUSED}" if version.folder.name == REFUSED else f"{name}@{version.manifest.version}"


def keys_in(line: bytes) -> set[bytes]:
    """Return the keys of all requests that a record names."""
    return {bytes.fromhex(key.decode()) for key in _KEY.findall(line)}


def labels_of_holders(home: Path, target: Target) -> list[str]:
    """Return the versions of a dataset that hold a row. Raises Damaged or NewerFormat."""
    return [
        label_of(version)
        for version in versions_in(home)
        if any(
            target.treated(line) is None and orjson.loads(line).get("rule") != FORGOTTEN
            for name in SIDECARS
            for line in records_of(version, name)
        )
    ]
