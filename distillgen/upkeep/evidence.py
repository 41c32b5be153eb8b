"""What is known of a damaged version: the files it must have, what is left of them, and which rows each must hold."""

import functools
from collections import Counter
from collections.abc import Mapping

from pydantic import ValidationError

from distillgen.dataset.manifest import FileEntry
from distillgen.dataset.publication import ROWS_PER_FILE, SIDECARS
from distillgen.dataset.training_rows import StudentTemplates
from distillgen.upkeep import mending
from distillgen.upkeep.check import is_as_published, is_regular
from distillgen.upkeep.findings import DATA_FILE, PROVENANCE, kind_of
from distillgen.upkeep.manifests import Salvaged, is_name
from distillgen.upkeep.mending import Content, Expected
from distillgen.upkeep.scan import Scan, scan, scan_all
from distillgen.upkeep.siblings import Siblings
from distillgen.upkeep.worklist import Worklist

CARD = "README.md"


class Evidence:
    """A damaged version as far as it is known.

    `found` is what its manifest says, or what was salvaged of it. `listed` are the files that it must have, each with
    what is said of it, if anything; `odd` are those it lists that no file can be called; `scans` are of what is there.
    """

    def __init__(self, work: Worklist, siblings: Siblings, found: Salvaged) -> None:
        self.work, self.siblings, self.found = work, siblings, found
        self.odd: dict[str, FileEntry | None] = {}
        self.listed = self._files_listed()
        names = [name for name in self.listed if is_regular(work.there.get(name))]
        found_in = scan_all([(work.folder / name, kind_of(name)) for name in names])
        self.scans: Mapping[str, Scan] = dict(zip(names, found_in, strict=True))

    def _files_listed(self) -> dict[str, FileEntry | None]:
        """Return the files that belong to the version: those that its manifest lists, else those that it must have."""
        try:
            listed: dict[str, FileEntry | None] = dict(self.found.files)
        except (ValidationError, AttributeError, TypeError):
            listed = {}
        for name in [name for name in listed if not is_name(name)]:
            self.odd[name] = listed.pop(name)
            self.work.leave("missing", "is no name that a file of a version can have", name)
        if not listed:
            listed = dict.fromkeys(sorted(self._data_files_there()))
        for name in (*(f"{each}.jsonl.zst" for each in SIDECARS), CARD):
            listed.setdefault(name, None)
        return listed

    def _data_files_there(self) -> set[str]:
        """Return the names of all data files that there must be by the names of those that are there.

        How many files a split has is believed where it has so many rows, or most of the files are there.
        """
        found = [match for name in self.work.there if (match := DATA_FILE.fullmatch(name))]
        there, rows = Counter((match["split"], match["of"]) for match in found), self._rows_of_splits()
        return {
            f"data/{split}-{number:05d}-of-{of}.jsonl"
            for (split, of), count in there.items()
            if int(of) <= 2 * count or int(of) == -(-rows.get(split, 0) // ROWS_PER_FILE)
            for number in range(int(of))
        }

    def _rows_of_splits(self) -> Mapping[str, int]:
        """Return how many rows of each split provenance has, as far as it can be read."""
        if not is_regular(self.work.there.get(PROVENANCE)):
            return {}
        found = scan(self.work.folder / PROVENANCE, "provenance")
        count = Counter(found.splits)
        return {split: count[number] for split, number in found.split_names.items()}

    @property
    def data_names(self) -> list[str]:
        """The data files, in order."""
        return sorted(name for name in self.listed if DATA_FILE.fullmatch(name))

    def is_as_published(self, name: str) -> bool:
        """Whether a file is there as the manifest says it was published."""
        entry, found = self.listed[name], self.scans.get(name)
        return entry is not None and found is not None and is_as_published(found, entry) and found.size == entry.bytes

    def is_sound(self, name: str) -> bool:
        """Whether a file of which no checksum is known is what provenance says, or at least what such a file is."""
        found = self.scans.get(name)
        if found is None or found.trouble or found.flaws:
            return False
        if not DATA_FILE.fullmatch(name):
            return True
        rows = self.expected(name)
        if rows is None or len(rows) != found.rows:
            return False
        return all(row.mark in (0, mark) for row, mark in zip(rows, found.lines, strict=True))

    @functools.cached_property
    def provenance(self) -> Content | None:
        """Provenance as it was published, or as it is mended; None when neither is to be had."""
        if PROVENANCE in self.work.contents:
            return self.work.contents[PROVENANCE]
        entry, found = self.listed[PROVENANCE], self.scans.get(PROVENANCE)
        if found is None or found.trouble or found.flaws or (entry is not None and not is_as_published(found, entry)):
            return None
        return mending.of_path(self.work.folder / PROVENANCE)

    @functools.cached_property
    def _splits(self) -> dict[str, list[Expected]]:
        return {} if self.provenance is None else mending.expected_of(self.provenance)

    @property
    def splits_without_file(self) -> list[str]:
        """The splits that provenance knows, of which no data file is known."""
        has_file = {match["split"] for name in self.listed if (match := DATA_FILE.fullmatch(name))}
        return sorted(self._splits.keys() - has_file)

    @functools.cached_property
    def student(self) -> StudentTemplates | None:
        """What the recipe says of the student, None where that is not known."""
        return mending.student_of(self.found.table.get("recipe", {}))

    def expected(self, name: str) -> list[Expected] | None:
        """Return the rows that a data file must hold, None when nobody knows."""
        found = DATA_FILE.fullmatch(name)
        assert found is not None
        rows = self._splits.get(found["split"])
        if rows is None:
            return None
        entry = self.listed[name]
        number, of = int(found["number"]), int(found["of"])
        names = [f"data/{found['split']}-{each:05d}-of-{of:05d}.jsonl" for each in range(number)]
        told = [self.listed.get(each) for each in names]
        start = sum(ROWS_PER_FILE if each is None else each.rows or 0 for each in told)
        stop = start + entry.rows if entry is not None and entry.rows is not None else None
        return rows[start : min(start + ROWS_PER_FILE, len(rows)) if stop is None else stop]
