"""The remedy for a damaged version: what each file must be, where that is found again, and what is to be written.

Nothing is changed here: the outcome is a list of actions, each with what it says to people. A file is taken for mended
only where a checksum says so: the manifest's for the whole file, provenance's for a line, the seal for the manifest.
"""

import functools
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from distillgen.dataset.card import write_card
from distillgen.dataset.manifest import FILE_NAME, FileEntry, Manifest
from distillgen.dataset.publication import ROWS_PER_FILE, SIDECARS
from distillgen.dataset.training_rows import StudentTemplates
from distillgen.upkeep import mending
from distillgen.upkeep.aside import Home
from distillgen.upkeep.check import MADE_LATER, Checked, check_funnel, is_as_published, is_regular, walk
from distillgen.upkeep.findings import DATA_FILE, PROVENANCE, REJECTED, Finding, kind_of, shown
from distillgen.upkeep.manifests import (
    Salvaged,
    as_written,
    completed,
    digest_of,
    dumped,
    entry_of,
    entry_of_lines,
    is_manifest,
    is_name,
    salvage,
)
from distillgen.upkeep.mending import Content, DataFile, Expected, Lines
from distillgen.upkeep.rows_left import RowsOfFile, objects_in, provenance_left
from distillgen.upkeep.scan import Scan, scan_all
from distillgen.upkeep.siblings import Siblings

CARD, FAILED = "README.md", "failed.jsonl.zst"
MOST_FILES = 100_000  # of a split, of which names are believed
OURS = re.compile(r"(.*/)?\.(link-|mend-|manifest\.json\.|README\.md\.).*")  # names of what we had in the making


@dataclass(frozen=True)
class Mend:
    """One thing that is done, or would be: to which file, what is wrong with it, how it is mended.

    Not exact: what stands there then is not byte for byte what was published.
    """

    label: str
    file: str
    what: str
    how: str
    is_exact: bool = True


@dataclass(frozen=True)
class Action:
    """A mend and the work that it takes."""

    mend: Mend
    do: Callable[[], None]


@dataclass
class Remedy:
    """One damaged version. `actions` mend it; `stays` is what nothing mends."""

    home: Home
    checked: Checked
    siblings: Siblings
    with_loss: bool
    date: str
    actions: list[Action] = field(default_factory=list)
    stays: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.checked.folder
        self.there = dict(walk(self.folder))
        self._contents: dict[str, Content] = {}  # of the files that are mended
        self._odd: dict[str, FileEntry | None] = {}  # what it lists that no file can be called
        self._notes: dict[str, str] = {}  # file -> what is not as it was published
        self._is_whole_again = True

    # -- the order of things -------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Find out what mends the version."""
        content = self._manifest_bytes()
        if content is not None and not self._is_manifest_wrong():
            self._mend_files(Salvaged(orjson.loads(content)))
            self._keep_what_stays()
        elif content is not None and (restored := mending.unflipped_manifest(content)) and is_manifest(restored):
            self._write(FILE_NAME, mending.of_bytes(restored), "the one flipped bit is turned back")
            self._mend_files(Salvaged(orjson.loads(restored)))
        else:
            found = salvage(content or b"", self.siblings.manifests())
            self._mend_files(found, is_rebuilt=True)

    def _manifest_bytes(self) -> bytes | None:
        if not is_regular(self.there.get(FILE_NAME)):
            return None
        try:
            return (self.folder / FILE_NAME).read_bytes()
        except OSError:
            return None

    def _is_manifest_wrong(self) -> bool:
        return any(each.kind in ("manifest", "unreadable") and each.file == FILE_NAME for each in self.checked.findings)

    def _keep_what_stays(self) -> None:
        """Note what a sound manifest says wrongly of itself: somebody wrote it so."""
        own = {"count", "digest", "place"}
        self.stays += [each for each in self.checked.findings if each.file == FILE_NAME and each.kind in own]

    def _mend_files(self, found: Salvaged, *, is_rebuilt: bool = False) -> None:
        """Settle each file, the card last but one, and the manifest where it must be another."""
        self.found = found
        self._listed = self._files_listed(found)
        names = [name for name in self._listed if is_regular(self.there.get(name))]
        self._scans = dict(
            zip(names, scan_all([(self.folder / name, kind_of(name)) for name in names]), strict=True)
        )  # fmt: skip
        entries: dict[str, FileEntry | None] = {}
        for name in sorted(self._listed, key=_urgency):
            entries[name] = self._settled(name) if name != CARD else None
        missing = [name for name, entry in entries.items() if entry is None and name != CARD]
        if is_rebuilt:
            missing += [f"data of split {shown(split)}" for split in self._splits_without_file()]
        rows = [name for name in missing if name not in (REJECTED, FAILED)]
        if rows and is_rebuilt and not found.table:
            self._put_whole_aside(rows)
            return
        if missing and is_rebuilt:
            self._stays("manifest", "is damaged, and cannot be made anew while files are", FILE_NAME)
            return
        self._put_strays_aside()
        settled = {name: entry or self._listed[name] for name, entry in entries.items() if name != CARD}
        self._finish({name: entry for name, entry in settled.items() if entry is not None}, is_rebuilt)

    def _files_listed(self, found: Salvaged) -> dict[str, FileEntry | None]:
        """Return the files that belong to the version: those that its manifest lists, else those that it must have."""
        try:
            listed: dict[str, FileEntry | None] = dict(found.files)
        except (ValidationError, AttributeError, TypeError):
            listed = {}
        for name in [name for name in listed if not is_name(name)]:
            self._odd[name] = listed.pop(name)
            self._stays("missing", "is no name that a file of a version can have", name)
        if not listed:
            listed = dict.fromkeys(sorted(self._data_files_there()))
        for name in (*(f"{each}.jsonl.zst" for each in SIDECARS), CARD):
            listed.setdefault(name, None)
        return listed

    def _data_files_there(self) -> set[str]:
        """Return the names of all data files that there must be by the names of those that are there."""
        found = [match for name in self.there if (match := DATA_FILE.fullmatch(name))]
        return {
            f"data/{match['split']}-{number:05d}-of-{match['of']}.jsonl"
            for match in found
            for number in range(min(int(match["of"]), MOST_FILES))
        }

    def _splits_without_file(self) -> list[str]:
        has_file = {match["split"] for name in self._listed if (match := DATA_FILE.fullmatch(name))}
        return sorted(self._splits.keys() - has_file)

    def _finish(self, entries: dict[str, FileEntry], is_rebuilt: bool) -> None:
        """Write the card, and a manifest that says what is there, where the one that is there does not."""
        if is_rebuilt:
            known = self._known(entries)
            table = completed(self.found, known, Manifest.model_fields)
            self._drop_wrong_funnel(table)
        else:
            table = {**self.found.table, "files": {**self.found.table["files"], **dumped(entries)}}
            table["digest"] = digest_of(entries)
        card = self._card(table)
        if card is not None:
            entries[CARD] = card
        table["files"] = dumped({name: entries[name] for name in self._listed if name in entries})
        if not is_rebuilt:
            table["files"] |= dumped({name: entry for name, entry in self._odd.items() if entry is not None})
        if not is_rebuilt and table["files"] == self.found.table["files"]:
            return
        self._write_manifest(table, is_rebuilt)

    def _write_manifest(self, table: dict[str, Any], is_rebuilt: bool) -> None:
        if is_rebuilt and self.found.seal and as_written(table).rstrip().endswith(f'"{self.found.seal}"\n}}'.encode()):
            self._write(FILE_NAME, mending.of_bytes(as_written(table)), "put together again; its seal holds")
            return
        note = {
            "date": self.date,
            "lost": self.found.lost,
            "unverified": [name for name in self.found.unverified if name not in self.found.lost],
            "files": self._notes,
        }
        if (before := self.found.table.get("digest")) not in (None, table["digest"]):
            note["digest_before"] = before
        earlier = self.found.table.get("repaired")
        table["repaired"] = [*(earlier if isinstance(earlier, list) else []), note]
        how = "written anew from what is there"
        if is_rebuilt and self.found.lost:
            how += f"; nobody knows any more: {', '.join(self.found.lost)}"
        if is_rebuilt and note["unverified"]:
            how += f"; taken from the damaged one, and not confirmed: {', '.join(note['unverified'])}"
        self._write(FILE_NAME, mending.of_bytes(as_written(table)), how, is_exact=False)

    def _known(self, entries: Mapping[str, FileEntry]) -> dict[str, Any]:
        """Return what files and folders say of a version."""
        splits: dict[str, int] = {}
        for name, entry in entries.items():
            if found := DATA_FILE.fullmatch(name):
                splits[found["split"]] = splits.get(found["split"], 0) + (entry.rows or 0)
        said = self.found.table.get("splits", {})
        if set(said) == set(splits):
            splits = {split: splits[split] for split in said}
        number = int(self.folder.name[1:])
        parent = self.found.table.get("parent")
        known = {
            "name": self.folder.parent.name, "version": number, "digest": digest_of(entries),
            "rows": sum(splits.values()), "splits": splits, "files": {},
        }  # fmt: skip
        return known if parent is None or parent < number else {**known, "parent": None}

    def _drop_wrong_funnel(self, table: dict[str, Any]) -> None:
        manifest = Manifest.model_validate(table)
        if list(check_funnel(manifest)):
            table["funnel"] = []
            self.found.lost.append("funnel")

    # -- files ---------------------------------------------------------------------------------------------------------

    def _is_found_again(self, name: str, entry: FileEntry, what: str) -> bool:
        """Write a file as it was published, where its bytes are to be had; return whether they are."""
        mended = self._by_checksum(name, entry)
        if mended is None:
            return False
        content, how, link = mended
        self._write(name, content, how, what=what, link=link)
        return True

    def _settled(self, name: str) -> FileEntry | None:
        """Return what the manifest must say of a file once it is mended; None when it cannot be."""
        entry, found = self._listed[name], self._scans.get(name)
        if found is not None and entry is not None and is_as_published(found, entry) and found.size == entry.bytes:
            return entry
        if found is not None and entry is None and self._is_sound(name, found):
            return entry_of(found, name)
        what = self._what_is_wrong(name)
        if entry is not None and self._is_found_again(name, entry, what):
            return entry
        if DATA_FILE.fullmatch(name):
            return self._mend_data(name, entry, what)
        if name.endswith(".zst"):
            return self._mend_sidecar(name, entry, what)
        self._stays("checksum", "is damaged, and nothing tells what it was", name)
        return None

    def _what_is_wrong(self, name: str) -> str:
        told = [each for each in self.checked.findings if each.file == name]
        if not told:
            return "is missing" if name not in self.there else "is not as it was published"
        first = told[0]
        row = f"row {shown(first.row)} " if first.row is not None else ""
        line = f" (line {first.line:,})" if first.line is not None else ""
        more = f", and {len(told) - 1:,} more" if len(told) > 1 else ""
        return f"{row}{first.what}{line}{more}"

    def _is_sound(self, name: str, found: Scan) -> bool:
        """Whether a file of which no checksum is known is what provenance says, or at least what such a file is."""
        if found.trouble or found.flaws:
            return False
        if not DATA_FILE.fullmatch(name):
            return True
        rows = self._expected(name, None)
        if rows is None or len(rows) != found.rows:
            return False
        return all(row.mark in (0, mark) for row, mark in zip(rows, found.lines, strict=True))

    def _by_checksum(self, name: str, entry: FileEntry) -> tuple[Content, str, Path | None] | None:
        """Return a file's bytes where the sha256 of the whole confirms them, how they are found, and where they lie."""
        if (elsewhere := self.siblings.file(entry.sha256, self.there.get(name))) is not None:
            path, label = elsewhere
            return mending.of_path(path), f"{label} has the same file", path
        if name not in self._scans:
            return None
        path = self.folder / name
        size = self.there[name].st_size
        if size > entry.bytes and mending.sha256_of(cut := mending.of_path(path, entry.bytes)) == entry.sha256:
            return cut, f"{size - entry.bytes:,} bytes too many are cut off", None
        has_rows = DATA_FILE.fullmatch(name) and self._provenance is not None  # lines are sooner tried
        if not has_rows and 0 < size == entry.bytes <= mending.SEARCHED_BYTES:
            found = mending.unflipped(path.read_bytes(), entry.sha256)
            if found is not None:
                return mending.of_bytes(found), "the one flipped bit is turned back", None
        return None

    # -- data ----------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _provenance(self) -> Content | None:
        """Provenance as it was published, or as it is mended; None when neither is to be had."""
        if PROVENANCE in self._contents:
            return self._contents[PROVENANCE]
        entry, found = self._listed[PROVENANCE], self._scans.get(PROVENANCE)
        if found is None or found.trouble or found.flaws or (entry is not None and not is_as_published(found, entry)):
            return None
        return mending.of_path(self.folder / PROVENANCE)

    @functools.cached_property
    def _splits(self) -> dict[str, list[Expected]]:
        return {} if self._provenance is None else mending.expected_of(self._provenance)

    @functools.cached_property
    def _student(self) -> StudentTemplates | None:
        return mending.student_of(self.found.table.get("recipe", {}))

    def _expected(self, name: str, entry: FileEntry | None) -> list[Expected] | None:
        """Return the rows that a data file must hold, None when nobody knows."""
        found = DATA_FILE.fullmatch(name)
        assert found is not None
        rows = self._splits.get(found["split"])
        if rows is None:
            return None
        number, of = int(found["number"]), int(found["of"])
        names = [f"data/{found['split']}-{each:05d}-of-{of:05d}.jsonl" for each in range(number)]
        told = [self._listed.get(each) for each in names]
        start = sum(ROWS_PER_FILE if each is None else each.rows or 0 for each in told)
        stop = start + entry.rows if entry is not None and entry.rows is not None else None
        return rows[start : min(start + ROWS_PER_FILE, len(rows)) if stop is None else stop]

    def _mend_data(self, name: str, entry: FileEntry | None, what: str) -> FileEntry | None:
        rows = self._expected(name, entry)
        if rows is None or (entry is not None and entry.rows is not None and len(rows) != entry.rows):
            self._stays("checksum", f"{what}; without its provenance nothing tells what it was", name)
            return None
        data = DataFile(self.folder / name if name in self._scans else None, rows)
        how = self._find_lines(data)
        if data.lost:
            for at in data.lost:
                self.stays.append(Finding("row", "cannot be brought back", name, at + 1, data.id_at(at)))
            self._is_whole_again = False
            return None
        content = data.content()
        if entry is None:
            entry = entry_of_lines(content, len(rows))
        elif mending.sha256_of(content) != entry.sha256:
            self._stays("checksum", f"{what}; put together from its rows it is another file", name)
            return None
        self._write(name, content, how, what=what)
        return entry

    def _find_lines(self, data: DataFile) -> str:
        """Look for the rows that a data file lost where they may be found; return how they were."""
        parts = []
        records = mending.records_of(self._provenance) if self._provenance is not None else ()
        if self._student is not None and (count := data.render(records, self._student)):
            parts.append(f"{count:,} rendered anew from provenance")
        if data.lost and (count := data.take_from(self.siblings.lines())):
            parts.append(f"{count:,} from other versions")
        data.trust_ids()
        if data.lost and (count := data.turn_back()):
            parts.append(f"{count:,} by turning a flipped bit back")
        return f"rows put in order: {', '.join(parts) or 'all of them are in the file'}"

    # -- sidecars ------------------------------------------------------------------------------------------------------

    def _mend_sidecar(self, name: str, entry: FileEntry | None, what: str) -> FileEntry | None:
        """Pack a sidecar anew where what was in it is confirmed; with loss, what is left of it."""
        path = self.folder / name if name in self._scans else None
        lines = mending.lines_left(path)
        if (
            entry is not None
            and entry.content_sha256 is not None
            and mending.content_sha256(lines) == entry.content_sha256
        ):
            return self._repacked(name, entry, lines, "packed anew: what was in it is whole", what)
        of = "an unknown number of" if entry is None or entry.rows is None else f"{entry.rows:,}"
        if not self.with_loss or (entry is None and name == PROVENANCE):
            left = sum(1 for _ in lines())
            can_go = name != PROVENANCE or entry is not None
            more = "; `--with-loss` keeps these and lets the others go" if can_go else ""
            self._stays("checksum", f"{what}; {left:,} of {of} rows can be read{more}", name)
            return None
        if name == PROVENANCE:
            kept = self._provenance_left(lines)
            if kept is None:
                self._stays("checksum", f"{what}; its data files are damaged too, so nothing tells what is left", name)
                return None
            lines = kept
        else:
            lines = functools.partial(objects_in, lines)
        left = sum(1 for _ in lines())
        note = f"{left:,} of {of} rows are left" if name != PROVENANCE else self._notes[name]
        self._notes[name] = note
        return self._repacked(name, entry, lines, f"what is left of it is kept: {note}", what)

    def _repacked(self, name: str, entry: FileEntry | None, lines: Lines, how: str, what: str) -> FileEntry:
        """Have a sidecar written with some lines; return what the manifest must say of it."""
        content = mending.packed(lines)
        made = FileEntry(
            bytes=sum(map(len, content())), sha256=mending.sha256_of(content), rows=sum(1 for _ in lines()),
            content_sha256=mending.content_sha256(lines),
        )  # fmt: skip
        if made != entry:
            self._notes.setdefault(name, "packed anew")
        self._write(name, content, how, what=what, is_exact=made == entry)
        return made

    def _provenance_left(self, lines: Lines) -> Lines | None:
        """Return provenance with what is left of it; None when the data, which say what is lost, are damaged too."""
        rows = []
        for name in self._data_names():
            entry, found = self._listed[name], self._scans.get(name)
            if entry is None or found is None or not is_as_published(found, entry):
                return None
            rows.append(RowsOfFile(DATA_FILE.fullmatch(name)["split"], self.folder / name, found.lines))  # type: ignore[index]
        kept, lost, of = provenance_left(lines, rows)
        self._notes[PROVENANCE] = f"the records of {lost:,} of {of:,} rows are lost"
        return kept

    def _data_names(self) -> list[str]:
        return sorted(name for name in self._listed if DATA_FILE.fullmatch(name))

    # -- card ----------------------------------------------------------------------------------------------------------

    def _card(self, table: Mapping[str, Any]) -> FileEntry | None:
        """Return what the manifest must say of the card, which is written anew where it is not as it was published."""
        entry, found = self._listed[CARD], self._scans.get(CARD)
        if found is not None and entry is not None and is_as_published(found, entry):
            return entry
        if found is not None and entry is None and not found.trouble:
            self._notes[CARD] = "not confirmed"
            return entry_of(found, CARD)
        what = self._what_is_wrong(CARD)
        if entry is not None and self._is_found_again(CARD, entry, what):
            return entry
        manifest = Manifest.model_validate({**table, "files": {}})
        made = [write_card(manifest, self._features(row), row).encode() for row in self._first_rows()]
        for card in made:
            if entry is not None and mending.sha256_of(mending.of_bytes(card)) == entry.sha256:
                self._write(CARD, mending.of_bytes(card), "written anew, as it was", what=what)
                return entry
        if not made:
            self._stays("checksum", what, CARD)
            return entry
        self._notes[CARD] = "written anew"
        how = "written anew from the manifest; it is not byte for byte the one that was published"
        self._write(CARD, mending.of_bytes(made[0]), how, what=what, is_exact=False)
        return FileEntry(bytes=len(made[0]), sha256=mending.sha256_of(mending.of_bytes(made[0])))

    def _first_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the first row of each split: one of them is the card's example."""
        for name in self._data_names():
            if "-00000-of-" in name:
                content = self._contents.get(name)
                if content is None and name in self._scans:
                    content = mending.of_path(self.folder / name)
                line = next(mending.lines_of(content), b"") if content is not None else b""
                if line:
                    yield orjson.loads(line)

    def _features(self, row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        if self._student is not None and self.found.table.get("recipe"):
            return self._student.features
        turns = [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
        return [
            {"name": name, "list": turns} if isinstance(value, list) else {"name": name, "dtype": "string"}
            for name, value in row.items()
        ]

    # -- actions -------------------------------------------------------------------------------------------------------

    def _write(
        self, name: str, content: Content, how: str, *, what: str = "", link: Path | None = None, is_exact: bool = True
    ) -> None:
        """Have a file replaced; what is there is kept aside. `link` is a file of the same bytes, where there is one."""
        self._contents[name] = content
        mend = Mend(self.checked.label, name, what or self._what_is_wrong(name), how, is_exact)
        self.actions.append(Action(mend, lambda: self.home.replace(self.folder / name, content, link)))

    def _stays(self, kind: Any, what: str, name: str) -> None:
        self._is_whole_again = False
        self.stays.append(Finding(kind, what, name))

    def _put_strays_aside(self) -> None:
        folders = {str(parent) for name in self._listed for parent in Path(name).parents}
        gone: list[str] = []
        mends, self.actions = self.actions, []
        for name, status in self.there.items():
            is_folder = name in folders and stat.S_ISDIR(status.st_mode)
            is_known = name in self._listed or name == FILE_NAME or is_folder
            if is_known or name.split("/")[0] in MADE_LATER or any(name.startswith(f"{each}/") for each in gone):
                continue
            gone.append(name)
            self._put_aside(name)
        self.actions += mends  # a stray file may stand where a folder must be

    def _put_aside(self, name: str) -> None:
        path = self.folder / name
        if OURS.fullmatch(name):
            mend = Mend(self.checked.label, name, "was left by a crash", "cleared")
            self.actions.append(Action(mend, lambda: self.home.clear(path)))
        else:
            mend = Mend(self.checked.label, name, "is no part of this version", "moved aside")
            self.actions.append(Action(mend, lambda: self.home.move_aside(path)))

    def _put_whole_aside(self, missing: Sequence[str]) -> None:
        """Have a folder without a manifest, and without files that could stand for one, moved away."""
        self.actions.clear()
        self.stays.clear()
        what = f"has no manifest, and lacks {', '.join(missing[:3])}: a copy that was not finished"
        mend = Mend(self.checked.label, "", what, "the folder is moved aside", is_exact=False)
        self.actions.append(Action(mend, lambda: self.home.move_aside(self.folder)))
        self._is_whole_again = False

    @property
    def will_be_whole(self) -> bool:
        """Whether the version is whole once everything is done."""
        return self._is_whole_again and not self.stays


def _urgency(name: str) -> tuple[bool, bool, str]:
    """Order files: provenance first, which says what the data are; then data, which cards show; then the rest."""
    return name != PROVENANCE, not name.startswith("data/"), name
