"""Erases a row, or all rows of a seed: from every version, from what was put aside, and from the stored answers.

The order makes it safe to be killed: first a note of what is to be done, then the record that keeps the rows out of
later builds, then the versions one by one, then the state folder, then the answers; the note goes last. The same
command again goes on from wherever that ended.
"""

import asyncio
import contextlib
import difflib
import hashlib
import re
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from distillgen.dataset.manifest import FILE_NAME, read_manifest
from distillgen.dataset.publication import REFUSED, SIDECARS
from distillgen.dataset.versions import Version, folder_of, homes_in, no_dataset, sweep, version_numbers
from distillgen.errors import Damaged, DistillgenError, Locked, NewerFormat, NotFound, Problem, UsageError
from distillgen.excluded import FORGOTTEN, FORGOTTEN_FILE, covers, origin_of, read_forgotten
from distillgen.files import disk_errors, read_jsonl, safe_name, write_atomically
from distillgen.preparation import Prepared
from distillgen.recipe import read_recipe
from distillgen.rows import Outcome, Row
from distillgen.tally import Tally
from distillgen.teacher.answers import AnswerStore
from distillgen.teacher.batch_records import KEY_BYTES
from distillgen.teacher.sent import logs
from distillgen.upkeep.aside import ASIDE, remove
from distillgen.upkeep.check import MADE_LATER
from distillgen.upkeep.locks import at_rest, of_project
from distillgen.upkeep.lookups import look_up, readied
from distillgen.upkeep.repair import LEFTOVERS
from distillgen.upkeep.rewriting import Erasure, records_of, rewrite

NOTES = "forgetting"  # the folder of notes, in the state folder
NEAR = 5_000  # ids among which the nearest is looked for
LONGEST_REASON = 500  # characters
_KEY = re.compile(rb'"key":"([0-9a-f]{64})"')
_NO_KEY = bytes(KEY_BYTES)  # in a batch, in the place of one whose answer is not wanted any more
_QUOTING = {"outvoted", "no_pair"}  # rules whose detail quotes another sample of the same prompt
_HEAD = (
    "# Rows that were erased with `distillgen forget`. Every build of this dataset reads this file: keep it.\n"
    "# One id a line, as in a file for [dataset] exclude.\n"
)


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
    digest: str = ""  # once it is written anew

    @property
    def count(self) -> int:
        """How many rows go."""
        return sum(map(len, self.rows.values()))


@dataclass
class Forgotten:
    """What is erased, or would be. `others` are rows that stay and were made by the same answers: row -> versions.

    `homes` are the datasets whose later builds are told now to leave it out, `seeds` the places where the seed still
    stands, `removed` what else goes; `known` tells whether the id was on record as erased already.
    """

    row_id: str
    holdings: list[Holding] = field(default_factory=list)
    homes: list[Path] = field(default_factory=list)
    answers: int = 0
    others: dict[str, list[str]] = field(default_factory=dict)
    seeds: list[str] = field(default_factory=list)
    removed: list[tuple[Path, str]] = field(default_factory=list)
    batches: list[Path] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    store: Path | None = None
    known: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing left to do."""
        return not (self.holdings or self.homes or self.answers or self.removed or self.batches)


def forget(
    project: Path, state: Path, row_id: str, names: Sequence[str] = (), *, reason: str = "", will_do: bool
) -> Forgotten:
    """Erase a row, or a seed with all its rows, from a project or some of its datasets; or say what would be done.

    Raises NotFound for an id or a name that nobody knows, Locked while a build or a pipe is at work, Damaged or
    NewerFormat before anything is changed, DiskFull or NotWritable: then the same command goes on.
    """
    if len(reason) > LONGEST_REASON or not reason.isprintable():
        raise UsageError(
            "the reason stands on one line of the manifest", where="--reason", fix=f"up to {LONGEST_REASON} characters"
        )
    homes = _homes(project / "datasets", names)
    with at_rest(of_project(state, homes), will_do=will_do):
        if logs(state, live=True):
            raise Locked("a pipe is at work with these answers", where=str(state), fix="wait for it to end")
        if will_do:
            for home in homes:
                sweep(home)
        work = _Work(project, state, homes, row_id, reason)
        work.look()
        if will_do:
            work.do()
        return work.found


def _homes(datasets: Path, names: Sequence[str]) -> list[Path]:
    homes = homes_in(datasets)
    for name in names:
        if "@" in name:
            raise UsageError(f"{name[:120]!r} names one version", fix="a row goes from all versions: name the dataset")
        if datasets / safe_name(name, "dataset name") not in homes:
            raise no_dataset(name, datasets)
    return [home for home in homes if home.name in names] if names else homes


class _Work:
    """One look for an id, and what is done about it."""

    def __init__(self, project: Path, state: Path, homes: Sequence[Path], row_id: str, reason: str) -> None:
        self._project, self._state, self._homes, self._reason = project, state, homes, reason
        self._id, self._origin = row_id, origin_of(row_id)
        self._note = state / NOTES / f"{hashlib.sha256(row_id.encode()).hexdigest()[:32]}.json"
        self._digests: set[str] = set()  # of versions that held it
        self._keys: set[bytes] = set()
        self.found = Forgotten(row_id)

    # -- looking -------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Find all that holds the id. Raises NotFound when nothing does, and nothing did."""
        found = self.found
        if not self._id.strip():
            raise self._unknown()
        for home in self._homes:
            found.holdings += [
                each for version in _versions_in(home) if (each := self._in_version(version)) is not None
            ]
        self._digests |= {each.version.manifest.digest for each in found.holdings}
        for each in found.holdings:
            self._keys |= each.keys
        homes = {each.version.folder.parent for each in found.holdings}
        self._read_note(homes)
        store = self._state / "answers.sqlite"
        found.store = store if store.is_file() else None
        self._in_recipes(homes)
        self._look_for_others()
        on_record = {home for home in self._homes if self._id in read_forgotten(home)}
        found.known = bool(on_record)
        found.homes = sorted(homes - on_record)
        if not homes and not found.known:
            raise self._unknown()
        if homes:
            self._beside(homes)

    def _in_version(self, version: Version) -> Holding | None:
        """Return what a version holds of it, None when it holds nothing."""
        holding = Holding(_label(version), version)
        for name in SIDECARS:
            fate = "published" if name == "provenance" else name
            for line in records_of(version, name):
                if self._treated(line) is not None:
                    continue
                record = orjson.loads(line)
                if record.get("rule") != FORGOTTEN:
                    holding.rows.setdefault(fate, []).append(record["id"])
                    holding.keys |= _keys_in(line)
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

    def _treated(self, line: bytes) -> bytes | None:
        """Return what becomes of a record's line: None when its row goes."""
        if self._origin.encode() not in line:  # most of them, and reading JSON takes time
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
        return any(covers(name, self._id) for name in names)

    def _scrubbed(self, record: dict[str, Any]) -> bool:
        """Take text of the row out of another's record, which stays; return whether there was any."""
        was = orjson.dumps(record)
        if record["origin"] == self._origin and record.get("rule") in _QUOTING:
            record["detail"] = f"what it said of other samples was erased with {self._id}"
        for step in record["steps"]:
            shown, ids = record["columns"].get("examples"), step.get("examples")
            if isinstance(shown, list) and isinstance(ids, list) and len(ids) == len(shown):
                texts = ["" if covers(each, self._id) else text for each, text in zip(ids, shown, strict=True)]
                record["columns"]["examples"] = texts
        return orjson.dumps(record) != was

    # -- the answers behind it -----------------------------------------------------------------------------------------

    def _read_note(self, homes: set[Path]) -> None:
        """Take in what an earlier run of this command, which was killed, had found."""
        try:
            note = orjson.loads(self._note.read_bytes())
            self._keys |= {bytes.fromhex(key) for key in note["keys"]}
            self._digests |= set(note["digests"])
            homes |= {home for home in self._homes if home.name in note["datasets"]}
            self._reason = self._reason or note["reason"]
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return  # there is none: it is written whole or not at all

    def _in_recipes(self, homes: set[Path]) -> None:
        """Look into the recipes for the seed's place, and for answers about it that no row names: first replies that
        were asked again, those of failed rows, those of a build that is not finished."""
        by_name = {home.name: home for home in self._homes}
        for path in sorted(self._project.glob("*.toml")):
            try:
                name = read_recipe(path)[0].name
                if name not in by_name:
                    continue
                prepared = readied(path, self._state)
                places = list(prepared.seeds.places(self._origin))
            except DistillgenError as error:
                what = f"this recipe cannot be followed: {error.problems[0].what}"
                fix = "answers that no version tells of are not looked for there, nor is the place of the seed"
                self.found.warnings.append(Problem(what, str(path), fix))
                continue
            self.found.seeds += [f"{place} ({row.id})" for place, row in places]
            seed = next((row for _, row in places if row.id == self._origin), None)
            if seed is not None and self.found.store is not None and (homes or self._id == self._origin):
                keys = _looked_up(prepared, self.found.store, seed)
                keys -= self._named_by_others(keys)
                with contextlib.closing(AnswerStore(self.found.store)) as store:
                    is_asked = store.held(keys) > 0 or any(keys & set(_cut(path)) for path in self._batches("*.keys"))
                if is_asked:
                    self._keys |= keys
                    homes.add(by_name[name])
        self.found.seeds = list(dict.fromkeys(self.found.seeds))

    def _named_by_others(self, keys: set[bytes]) -> set[bytes]:
        """Return those of some keys that rows of the same seed name which stay: none when the whole seed goes."""
        named = set[bytes]()
        if self._id == self._origin:
            return named
        for home in self._homes:
            for version in _versions_in(home):
                for name in SIDECARS:
                    for line in records_of(version, name):
                        if self._origin.encode() in line and self._treated(line) is not None:
                            named |= keys & _keys_in(line)
        return named

    def _look_for_others(self) -> None:
        """Count the answers that go, and find the rows that stay and were made by them too."""
        if self.found.store is None or not self._keys:
            return
        with contextlib.closing(AnswerStore(self.found.store)) as store:
            self.found.answers = store.held(self._keys)
        for home in _homes(self._project / "datasets", ()):
            try:
                for version in _versions_in(home):
                    self._look_for_others_in(version)
            except (Damaged, NewerFormat) as error:
                if home in self._homes:
                    raise
                what = f"which of its rows the same answers made is not known: {error.problems[0].what}"
                self.found.warnings.append(Problem(what, str(home)))

    def _look_for_others_in(self, version: Version) -> None:
        for name in SIDECARS:
            for line in records_of(version, name):
                if not self._keys.isdisjoint(_keys_in(line)) and self._treated(line) is not None:
                    self.found.others.setdefault(orjson.loads(line)["id"], []).append(_label(version))

    # -- what lies beside ----------------------------------------------------------------------------------------------

    def _beside(self, homes: Iterable[Path]) -> None:
        """Find copies in the datasets' folders and in the state folder: caches, leftovers, damaged bytes, logs."""
        removed = self.found.removed
        for home in sorted(homes):
            if (home / ASIDE).is_dir():
                removed.append((home / ASIDE, "damaged bytes that a repair put aside, which may hold it"))
            for path in sorted(path for pattern in LEFTOVERS for path in home.glob(pattern)):
                removed.append((path, "left by a crash"))
        for index in sorted((self._state / "near").glob("*/*/*")):
            if index.name in {digest[:32] for digest in self._digests}:
                removed.append((index, "an index of rows, which is made anew"))
        for pattern, what in (
            ("spool/*", "what a run did not hold in memory"), ("logs/*", "a log, which may hold it"),
            ("batches/queue-*.jsonl", "requests of a run that was killed"),
        ):  # fmt: skip
            removed += [(path, what) for path in sorted(self._state.glob(pattern))]
        self.found.batches += [path for path in self._batches("*.keys") if self._keys & set(_cut(path))]
        keys = {key.hex() for key in self._keys}
        for path in self._batches("*.json"):
            with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
                record = orjson.loads(path.read_bytes())
                if not keys.isdisjoint([*record.get("refused", ()), *record.get("faulty", ())]):
                    self.found.batches.append(path)

    def _batches(self, pattern: str) -> list[Path]:
        return sorted((self._state / "batches").glob(pattern))

    def _unknown(self) -> NotFound:
        known = {record["id"]: record["origin"] for record in self._records()}
        halves = {self._origin[:8], self._origin[-8:]}
        near = [each for each, origin in known.items() if halves & {origin[:8], origin[-8:]}]
        near = near or difflib.get_close_matches(self._id, list(known)[:NEAR], n=1, cutoff=0.6)
        said = repr(self._id if len(self._id) <= 80 else f"{self._id[:77]}...")
        return NotFound(
            f"no version here knows a row or a seed {said}", where=str(self._project / "datasets"),
            fix=f"did you mean {near[0]!r}?" if near else "`distillgen show NAME` prints ids in its first column",
        )  # fmt: skip

    def _records(self) -> Iterator[dict[str, Any]]:
        for home in self._homes:
            for version in _versions_in(home):
                for name in SIDECARS:
                    yield from read_jsonl(version.folder / f"{name}.jsonl.zst")

    # -- doing ---------------------------------------------------------------------------------------------------------

    def do(self) -> None:
        """Erase it. Raises DiskFull or NotWritable; the same command goes on then."""
        found = self.found
        if found.is_nothing and not self._note.exists():
            return
        date = time.strftime("%Y-%m-%d", time.gmtime())
        if self._state.is_dir():
            self._write_note()
        for home in found.homes:
            _put_on_record(home, self._id, date)
        self._rewrite(date)
        for path, _ in found.removed:
            remove(path)
        for path in found.batches:
            self._strike_out(path)
        if found.store is not None and self._keys:
            with contextlib.closing(AnswerStore(found.store)) as store:
                found.answers = store.erase(sorted(self._keys))
        self._remove_note()

    def _write_note(self) -> None:
        homes = {each.version.folder.parent for each in self.found.holdings} | set(self.found.homes)
        note = {
            "id": self._id, "keys": sorted(key.hex() for key in self._keys), "digests": sorted(self._digests),
            "datasets": sorted(home.name for home in homes), "reason": self._reason,
        }  # fmt: skip
        with disk_errors(self._note):
            self._note.parent.mkdir(exist_ok=True)
        write_atomically(self._note, orjson.dumps(note))

    def _remove_note(self) -> None:
        if self._note.exists():
            remove(self._note)
            with contextlib.suppress(OSError):  # another's lies there
                self._note.parent.rmdir()

    def _rewrite(self, date: str) -> None:
        links: dict[str, Path] = {}
        for each in self.found.holdings:
            tombstone = {"id": self._id, "date": date, "rows": each.count}
            if self._reason:
                tombstone["reason"] = self._reason
            published = frozenset(each.rows.get("published", ()))
            erasure = Erasure(self._id, self._treated, published, each.count, tombstone)
            each.digest = rewrite(each.version, erasure, links)

    def _strike_out(self, path: Path) -> None:
        """Have a batch's answers to the erased requests not be taken in, and what its server said of them not kept."""
        if path.suffix == ".keys":
            write_atomically(path, b"".join(_NO_KEY if key in self._keys else key for key in _cut(path)))
            return
        record = orjson.loads(path.read_bytes())
        keys = {key.hex() for key in self._keys}
        for name in ("refused", "faulty"):
            record[name] = {key: said for key, said in record.get(name, {}).items() if key not in keys}
        write_atomically(path, orjson.dumps(record, option=orjson.OPT_INDENT_2))


# -- small matters ---------------------------------------------------------------------------------------------------


def _versions_in(home: Path) -> Iterator[Version]:
    """Yield the versions of a dataset, and what its quality gate refused. Raises Damaged or NewerFormat."""
    folders = [folder_of(home, number) for number in version_numbers(home)]
    for folder in [*folders, *([home / REFUSED] if (home / REFUSED / FILE_NAME).is_file() else [])]:
        yield Version(folder, read_manifest(folder))


def _label(version: Version) -> str:
    name = version.folder.parent.name
    return f"{name}/{REFUSED}" if version.folder.name == REFUSED else f"{name}@{version.manifest.version}"


def _keys_in(line: bytes) -> set[bytes]:
    """Return the keys of all requests that a record names."""
    return {bytes.fromhex(key.decode()) for key in _KEY.findall(line)}


def _cut(path: Path) -> list[bytes]:
    """Return the keys of a batch."""
    keys = path.read_bytes()
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


def _put_on_record(home: Path, row_id: str, date: str) -> None:
    """Have every later build of a dataset leave a row out."""
    path = home / FORGOTTEN_FILE
    with disk_errors(home):
        before = path.read_text(encoding="utf-8-sig") if path.exists() else _HEAD
    before += "" if before.endswith("\n") else "\n"
    write_atomically(path, f"{before}{row_id}  # {date}\n".encode())


def _looked_up(prepared: Prepared, path: Path, seed: Row) -> set[bytes]:
    """Return the keys that a build would look up about one seed, as far as stored answers lead."""

    async def alone(_: Tally) -> AsyncGenerator[Outcome, None]:
        yield seed

    keys: set[bytes] = set()
    with tempfile.TemporaryDirectory() as state:  # no index is kept of this
        asyncio.run(look_up(replace(prepared, state=Path(state)), path, alone, keys.add))
    return keys
