"""The rows of a version's data files against their provenance: which line is not as it was published, and which row."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from distillgen.dataset.versions import Version
from distillgen.upkeep.findings import DATA_FILE, PROVENANCE, Finding, What, kind_of, shown
from distillgen.upkeep.scan import Scan, ids_at

Place: TypeAlias = tuple[str, int]  # file and line


@dataclass(frozen=True)
class _Draft:
    """A finding whose row's id is still to be read: it stands on the line `row_at`; `other_at` is another's."""

    finding: Finding
    row_at: Place | None
    other_at: Place | None = None


class Comparison:
    """The rows of the data files against their provenance, which says of each its split and the digest of its line.

    Where provenance is damaged itself, what it says counts only for data files that are damaged too.
    """

    def __init__(self, version: Version, scans: Mapping[str, Scan], damaged: set[str]) -> None:
        self._version, self._scans, self._damaged = version, scans, damaged
        self._names: dict[str, list[str]] = {split: [] for split in version.manifest.splits}
        for name in sorted(name for name in version.manifest.files if DATA_FILE.fullmatch(name)):
            self._names.setdefault(DATA_FILE.fullmatch(name)["split"], []).append(name)  # type: ignore[index]
        self._provenance = scans.get(PROVENANCE, Scan())
        self._is_trusted = PROVENANCE in scans and PROVENANCE not in damaged
        self._drafts: list[_Draft] = []

    def findings(self) -> list[Finding]:
        """Return what differs, and lines that are no rows."""
        others = [name for name in self._scans if kind_of(name) != "data"]
        for name in others:
            for line, what in self._scans[name].flaws:
                self._draft("line", what, (name, line), None)
        if not self._is_all_the_same():
            self._compare()
        return self._with_ids()

    def _draft(self, kind: What, what: str, at: Place, row_at: Place | None, other_at: Place | None = None) -> None:
        self._drafts.append(_Draft(Finding(kind, what, *at), row_at, other_at))

    def _is_all_the_same(self) -> bool:
        """Return whether every row stands where it should, as it should. This is the fast way, and the usual one."""
        import numpy as np

        provenance = self._provenance
        ids, stated, splits = (np.array(each) for each in (provenance.ids, provenance.lines, provenance.splits))
        total = 0
        for split, names in self._names.items():
            scans = [self._scans[name] for name in names if name in self._scans]
            if len(scans) < len(names) or any(each.flaws for each in scans) or provenance.flaws:
                return False
            here = splits == provenance.split_names.get(split, -1)
            found_ids = np.concatenate([np.array(each.ids) for each in scans] or [ids[:0]])
            found = np.concatenate([np.array(each.lines) for each in scans] or [ids[:0]])
            said = stated[here]
            if not np.array_equal(found_ids, ids[here]) or not np.array_equal(found[said != 0], said[said != 0]):
                return False
            total += len(found)
        in_order = np.sort(ids)
        return total == len(ids) and not np.any(in_order[1:] == in_order[:-1])

    def _compare(self) -> None:
        """Go through all rows, and note each that is not where or what it should be."""
        known = self._known()
        self._taken = bytearray(len(self._provenance.ids))
        self._first: dict[int, Place] = {}
        members = self._members()
        for split, names in self._names.items():
            self._compare_split(split, [name for name in names if name in self._scans], known, members.get(split, []))
        for split, names in self._names.items():
            self._note_lost(names, members.get(split, []))
        for split in members.keys() - self._names.keys():
            for number in members[split]:
                if self._is_trusted and self._provenance.ids[number] and not self._taken[number]:
                    at = (PROVENANCE, number + 1)
                    self._draft("split", f"is of split {shown(split)}, which this version has not", at, at)

    def _known(self) -> dict[int, int]:
        """Return the place of each id in provenance, and note ids that are there twice."""
        known: dict[int, int] = {}
        for number, key in enumerate(self._provenance.ids):
            if key and known.setdefault(key, number) != number:
                at = (PROVENANCE, number + 1)
                self._draft("duplicate", "is told twice", at, at, (PROVENANCE, known[key] + 1))
        return known

    def _members(self) -> dict[str, list[int]]:
        """Return the places in provenance of each split's rows, in order."""
        names = {number: name for name, number in self._provenance.split_names.items()}
        members: dict[str, list[int]] = {name: [] for name in names.values()}
        for number, split in enumerate(self._provenance.splits):
            members[names[split]].append(number)
        return members

    def _compare_split(
        self, split: str, names: Sequence[str], known: Mapping[int, int], members: Sequence[int]
    ) -> None:
        rank = {number: place for place, number in enumerate(members)}
        strange: list[
            tuple[Place, int, str]
        ] = []  # lines of no known row, the rank that should be there, what is wrong
        in_order: list[tuple[int, Place]] = []
        following = 0
        for name in names:
            scan, flaws = self._scans[name], dict(self._scans[name].flaws)
            for line, (key, mark) in enumerate(zip(scan.ids, scan.lines, strict=True), 1):
                at = (name, line)
                number = known.get(key)
                if key and self._first.setdefault(key, at) != at:
                    self._draft("duplicate", "stands twice", at, at, self._first[key])
                    continue
                if not key or number is None:
                    strange.append((at, following, flaws.pop(line, "")))
                    following += 1
                    continue
                self._taken[number] = 1
                if number not in rank:
                    self._note(at, "split", f"stands in {shown(split)}, which is not the split of its provenance")
                    continue
                following = rank[number] + 1
                in_order.append((rank[number], at))
                if self._provenance.lines[number] not in (0, mark):
                    self._note(at, "row", "is not as it was published")
            for line, what in flaws.items():
                self._draft("line", what, (name, line), (name, line))
        for at, place, what in strange:
            self._note_strange(at, members[place] if place < len(members) else None, what)
        for at in _out_of_order(in_order):
            self._note(at, "order", "stands out of order")

    def _note(self, at: Place, kind: What, what: str) -> None:
        """Note what provenance tells of a line, if that counts."""
        if self._is_trusted or (kind == "row" and at[0] in self._damaged):
            self._draft(kind, what, at, at)

    def _note_strange(self, at: Place, number: int | None, flaw: str) -> None:
        """Note a line that is no row, or one that nobody published, and which row should be there."""
        is_free = number is not None and not self._taken[number]
        if number is not None and is_free:
            self._taken[number] = 1
        should = (PROVENANCE, number + 1) if number is not None and is_free else None
        if flaw:
            self._draft("line", flaw, at, should)
        elif self._is_trusted and should is not None:
            self._draft("row", "stands where {} was published", at, at, should)
        elif self._is_trusted:
            self._draft("row", "has no provenance: nobody published it", at, at)

    def _note_lost(self, names: Sequence[str], members: Sequence[int]) -> None:
        """Note the rows that no data file holds, where their file is there."""
        if not self._is_trusted:
            return
        start = 0
        for name in names:
            rows = self._version.manifest.files[name].rows or 0
            for line, number in enumerate(members[start : start + rows], 1):
                scan = self._scans.get(name)
                if not self._taken[number] and scan is not None and not scan.trouble:
                    self._draft("lost", "is missing", (name, line), (PROVENANCE, number + 1))
            start += rows

    def _with_ids(self) -> list[Finding]:
        """Return the findings with the ids of their rows, which are read now."""
        wanted: dict[str, set[int]] = {}
        for draft in self._drafts:
            for place in (draft.row_at, draft.other_at):
                if place is not None:
                    wanted.setdefault(place[0], set()).add(place[1])
        ids = {name: ids_at(self._version.folder / name, lines) for name, lines in wanted.items()}
        return [finding for draft in self._drafts if (finding := _finished(draft, ids)) is not None]


def _finished(draft: _Draft, ids: Mapping[str, Mapping[int, str]]) -> Finding | None:
    """Return a finding with its row's id; None for two rows of one digest that have not the same id."""
    row, other = (ids[at[0]].get(at[1]) if at else None for at in (draft.row_at, draft.other_at))
    finding = replace(draft.finding, row=row)
    if draft.other_at is None:
        return finding
    if finding.kind == "duplicate":
        if row != other:
            return None
        return replace(finding, what=f"{finding.what}: first in {draft.other_at[0]}:{draft.other_at[1]}")
    return replace(finding, what=finding.what.format("another row" if other is None else f"row {shown(other)}"))


def _out_of_order(rows: Sequence[tuple[int, Place]]) -> Iterable[Place]:
    """Return the places of the fewest rows without which the ranks of all others rise."""
    tails: list[int] = []  # the least last rank of a rising sequence of each length
    at: list[int] = []  # the row that has it
    before: list[int] = []
    for number, (rank, _) in enumerate(rows):
        length = bisect_left(tails, rank)
        before.append(at[length - 1] if length else -1)
        tails[length : length + 1] = [rank]
        at[length : length + 1] = [number]
    kept, number = set(), at[-1] if at else -1
    while number >= 0:
        kept.add(number)
        number = before[number]
    return [place for number, (_, place) in enumerate(rows) if number not in kept]
