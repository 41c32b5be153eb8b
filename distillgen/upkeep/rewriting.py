"""Writes a version anew without some rows: all others as they were, in their order and split, under a new digest."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from distillgen.dataset.card import write_card
from distillgen.dataset.labels import count_labels
from distillgen.dataset.manifest import FILE_NAME, FileEntry, Manifest
from distillgen.dataset.publication import SIDECARS, is_of_dates
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged
from distillgen.excluded import FORGOTTEN, forgotten_record
from distillgen.files import JsonlFile, disk_errors, file_sha256, masked, sync_folder, write_atomically
from distillgen.upkeep.check import MADE_LATER
from distillgen.upkeep.exchange import exchange
from distillgen.upkeep.findings import DATA_FILE
from distillgen.upkeep.manifests import as_written, digest_of, dumped
from distillgen.upkeep.mending import lines_of, of_path, student_of, unpacked

CARD = "README.md"
STEP = "forget"  # in the funnel
_FORGOTTEN = b'"rule":"' + FORGOTTEN.encode() + b'"'

Treat: TypeAlias = Callable[[bytes], bytes | None]  # of a record's line: the line that stays, None for a row that goes


@dataclass(frozen=True)
class Erasure:
    """What is erased from a version: `treat` says what becomes of each line of a sidecar, `published` are the ids of
    training rows, `count` how many rows go in all, and `tombstones` what the manifest says of it, of each id."""

    treat: Treat
    published: frozenset[str]
    count: int
    tombstones: Sequence[Mapping[str, Any]]


def records_of(version: Version, name: str) -> Iterator[bytes]:
    """Yield the lines of a sidecar. Raises Damaged, at its end, when it is not as it was published."""
    import hashlib

    path = version.folder / f"{name}.jsonl.zst"
    entry = version.manifest.files.get(path.name)
    sha = hashlib.sha256()
    try:
        for line in lines_of(unpacked(of_path(path))):
            sha.update(line + b"\n")
            yield line
    except OSError as error:
        raise _damaged(f"cannot be read: {error.strerror}", path) from None
    if entry is None or entry.content_sha256 not in (None, sha.hexdigest()):
        raise _damaged("is not as it was published", path)


def _damaged(what: str, path: Path) -> Damaged:
    return Damaged(what, where=str(path), fix="`distillgen repair` first, then this command again")


def erased_in(version: Version) -> Iterator[str]:
    """Yield the ids that a version tells of as erased: its tombstones, and its `rejected`. Raises Damaged."""
    yield from (str(tombstone.get("id")) for tombstone in version.manifest.forgotten)
    for line in records_of(version, "rejected"):
        if _FORGOTTEN in line and (record := orjson.loads(line)).get("rule") == FORGOTTEN:
            yield str(record.get("id"))


def staging_of(folder: Path) -> Path:
    """Return where a version is written anew: a build clears what a crash leaves there."""
    return folder.with_name(f".staging-v-{folder.name}")


def rewrite(version: Version, erasure: Erasure, links: dict[str, Path]) -> str:
    """Put a version without some rows in the place of one; return its digest. Raises DiskFull, NotWritable, Damaged.

    `links` are files that were written anew so far, by sha256: those that versions share stay shared.
    """
    staging = staging_of(version.folder)
    with disk_errors(staging):
        shutil.rmtree(staging, ignore_errors=True)
        (staging / "data").mkdir(parents=True)
    written = _Writing(version, staging, erasure, links)
    digest = written.write()
    with disk_errors(staging):
        if written.rows:
            sync_folder(staging / "data")
        else:
            (staging / "data").rmdir()  # an empty folder is no part of a version
        sync_folder(staging)
    exchange(staging, version.folder)
    with disk_errors(staging):
        shutil.rmtree(staging)  # which is the old one now
        sync_folder(version.folder.parent)
    for name, entry in written.entries.items():
        links.setdefault(entry.sha256, version.folder / name)
    return digest


class _Writing:
    """One version that is written anew, in a folder of its own."""

    def __init__(self, version: Version, staging: Path, erasure: Erasure, links: Mapping[str, Path]) -> None:
        self._version, self._staging, self._erasure, self._links = version, staging, erasure, links
        self._old = version.manifest.files
        self._table: dict[str, Any] = orjson.loads((version.folder / FILE_NAME).read_bytes())
        self._gone: dict[str, list[bytes]] = {}  # split -> lines that went
        self.entries: dict[str, FileEntry] = {}
        self.rows = 0

    def write(self) -> str:
        """Write every file; return the digest of the content."""
        splits = {split: rows for split in self._version.split_names() if (rows := self._data(split))}
        self.rows = sum(splits.values())
        if sum(map(len, self._gone.values())) < len(self._erasure.published):
            raise _damaged("lacks a row that its provenance tells of", self._version.folder / "data")
        for name in SIDECARS:
            self._sidecar(name)
        for name in self._old:
            if name != CARD and name.split("/")[0] not in MADE_LATER and not _is_written(name):
                self._take_over(self._version.folder / name, name, self._old[name])
        table = self._described(splits)
        card = write_card(Manifest.model_validate({**table, "files": {}}), self._features(), self._sample()).encode()
        write_atomically(self._staging / CARD, card)
        self.entries[CARD] = FileEntry(bytes=len(card), sha256=file_sha256(self._staging / CARD))
        # In their old order, so that a manifest differs in what is different.
        order = [name for name in self._old if name in self.entries] + list(self.entries)
        table["files"] = dumped({name: self.entries[name] for name in dict.fromkeys(order)})
        write_atomically(self._staging / FILE_NAME, as_written(table))
        for name in (CARD, FILE_NAME):
            (self._staging / name).chmod(masked(0o444))
        return str(table["digest"])

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _data(self, split: str) -> int:
        """Write the data files of a split; return its rows. A file that loses none of its rows is shared."""
        files: list[tuple[Path, FileEntry, bool]] = []
        for number, path in enumerate(self._version.data_files(split)):
            name = path.relative_to(self._version.folder).as_posix()
            if not any(_id_of(line) in self._erasure.published for line in lines_of(of_path(path))):
                files.append((path, self._old[name], True))
                continue
            if file_sha256(path) != self._old[name].sha256:
                raise _damaged("is not as it was published", path)
            spare = JsonlFile(self._staging / "data" / f".{split}-{number:05d}")
            for line in lines_of(of_path(path)):
                if _id_of(line) in self._erasure.published:
                    self._gone.setdefault(split, []).append(line)
                else:
                    spare.write(orjson.Fragment(line))
            entry = _closed(spare)
            if spare.rows:
                files.append((spare.path, entry, False))
            else:
                spare.path.unlink()
        for number, (path, entry, is_old) in enumerate(files):
            name = f"data/{split}-{number:05d}-of-{len(files):05d}.jsonl"
            self._take_over(path, name, entry) if is_old else self._settle(path, name, entry)
        return sum(entry.rows or 0 for _, entry, _ in files)

    def _sidecar(self, name: str) -> None:
        """Write one of the sidecars; of the rows that were erased, now or before, `rejected` tells at its end."""
        lines = records_of(self._version, name)
        file = JsonlFile(self._staging / f".{name}.jsonl.zst")
        forgotten = {str(each["id"]) for each in self._erasure.tombstones} if name == "rejected" else set()
        for line in lines:
            if name == "rejected" and _FORGOTTEN in line and orjson.loads(line)["rule"] == FORGOTTEN:
                if self._erasure.treat(line) is not None:
                    forgotten.add(orjson.loads(line)["id"])
            elif (kept := self._erasure.treat(line)) is not None:
                file.write(orjson.Fragment(kept))
        for row_id in sorted(forgotten):
            file.write(forgotten_record(row_id))
        self._settle(file.path, f"{name}.jsonl.zst", _closed(file))

    # -- files ---------------------------------------------------------------------------------------------------------

    def _settle(self, path: Path, name: str, entry: FileEntry) -> None:
        """Give a file that was written its name; where another version has the same one, that is shared."""
        target = self._staging / name
        with disk_errors(target):
            path.chmod(masked(0o444))
            path.rename(target)
        same = self._links.get(entry.sha256) or self._old_file(entry.sha256)
        if same is not None:
            _share(same, target)
        self.entries[name] = entry

    def _old_file(self, sha256: str) -> Path | None:
        return next((self._version.folder / name for name, each in self._old.items() if each.sha256 == sha256), None)

    def _take_over(self, path: Path, name: str, entry: FileEntry) -> None:
        """Have a file of the old version in the new one."""
        target = self._staging / name
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:  # a file system without links
                shutil.copy2(path, target)
                with target.open("rb") as copy:
                    os.fsync(copy.fileno())
        self.entries[name] = entry

    # -- what is said of it --------------------------------------------------------------------------------------------

    def _described(self, splits: Mapping[str, int]) -> dict[str, Any]:
        """Return the manifest's fields but for the files. What the run did stays as it was: the last step is ours."""
        table = dict(self._table)
        before = [step for step in table["funnel"] if step.get("step") == STEP]
        count = self._erasure.count + sum(step["in"] for step in before)
        step = {
            "step": STEP,
            "in": count,
            "born": 0,
            "merged": 0,
            "out": 0,
            "rejected": {FORGOTTEN: count},
            "failed": {},
        }
        table["funnel"] = [*(step for step in table["funnel"] if step.get("step") != STEP), step]
        table |= {"rows": self.rows, "splits": dict(splits), "digest": digest_of(self.entries)}
        if lengths := table.get("lengths"):
            table["lengths"] = {
                split: found for split, each in lengths.items() if (found := self._lengths(split, each))
            }
        if "only_dates" in table:
            dates = {split: self._only_dates(split) for split in splits}
            table["only_dates"] = {split: names for split, names in dates.items() if names}
        if table.get("labels"):
            table["labels"] = count_labels({split: self._lines(split) for split in splits})
        before_it = {"digest_before": self._version.manifest.digest}
        table[FORGOTTEN] = [*table.get(FORGOTTEN, ()), *({**each, **before_it} for each in self._erasure.tombstones)]
        return table

    def _lengths(self, split: str, lengths: Mapping[str, int]) -> dict[str, int]:
        """Return how many rows have lines of how many bits of bytes, without those that went: see Publication."""
        left = dict(lengths)
        for line in self._gone.get(split, ()):
            bits = str(len(line).bit_length())
            left[bits] = left.get(bits, 0) - 1
        return {bits: rows for bits, rows in left.items() if rows > 0}

    def _only_dates(self, split: str) -> list[str]:
        """Return the columns of a split in which every text is a date now: looks no further than there is any."""
        before = list(self._table["only_dates"].get(split, ()))
        if split not in self._gone:
            return before
        names: list[str] | None = None
        for name in self.entries:
            if (found := DATA_FILE.fullmatch(name)) is None or found["split"] != split:
                continue
            for line in lines_of(of_path(self._staging / name)):
                row = orjson.loads(line)
                names = [each for each in (row if names is None else names) if is_of_dates(row.get(each))]
                if not names:
                    return []
        return names or []

    def _lines(self, split: str) -> Iterator[bytes]:
        """Yield the lines of a split as they are written anew."""
        for name in self.entries:
            if (found := DATA_FILE.fullmatch(name)) and found["split"] == split:
                yield from lines_of(of_path(self._staging / name))

    def _sample(self) -> dict[str, Any] | None:
        """Return the row that was published first, which the card shows."""
        first = next(lines_of(unpacked(of_path(self._staging / "provenance.jsonl.zst"))), None)
        wanted = "" if first is None else orjson.loads(first)["id"]
        for name in self.entries:
            if wanted and DATA_FILE.fullmatch(name):
                for line in lines_of(of_path(self._staging / name)):
                    if _id_of(line) == wanted:
                        return dict(orjson.loads(line))
        return None

    def _features(self) -> list[dict[str, Any]]:
        student = student_of(self._table["recipe"]) if self._table.get("recipe") else None
        if student is not None:
            return student.features
        turns = [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
        return [
            {"name": name, "list": turns} if isinstance(value, list) else {"name": name, "dtype": "string"}
            for name, value in (self._sample() or {}).items()
        ]


def _is_written(name: str) -> bool:
    return name.removesuffix(".jsonl.zst") in SIDECARS or DATA_FILE.fullmatch(name) is not None


def _closed(file: JsonlFile) -> FileEntry:
    file.close()
    size = file.path.stat().st_size
    return FileEntry(bytes=size, sha256=file.sha256, rows=file.rows, content_sha256=file.content_sha256)


def _share(same: Path, target: Path) -> None:
    """Replace a file by a link to one that equals it, where the file system can."""
    spare = target.with_name(f".link-{target.name}")
    try:
        os.link(same, spare)
        spare.rename(target)
    except OSError:
        spare.unlink(missing_ok=True)


def _id_of(line: bytes) -> str:
    """Return the id of a training row, which distillgen writes first."""
    if line.startswith(b'{"id":"'):
        return line[7 : line.find(b'"', 7)].decode(errors="replace")
    return str(orjson.loads(line).get("id", ""))
