"""Erases rows, or all rows of seeds: from every version, from what was put aside, and from the stored answers.

The order makes it safe to be killed: first a note of what is to be done, then the record that keeps the rows out of
later builds, then the versions one by one, then the state folder, then the answers; the note goes last. The same
command again goes on from wherever that ended.
"""

import difflib
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillgen.dataset.publication import SIDECARS
from distillgen.dataset.room import when_full
from distillgen.dataset.versions import homes_in, no_dataset, sweep
from distillgen.errors import Damaged, Locked, NewerFormat, NotFound, Problem, UsageError
from distillgen.excluded import is_id, origin_of, put_on_record, read_forgotten
from distillgen.files import read_jsonl, safe_name
from distillgen.teacher.sent import logs
from distillgen.upkeep.aside import remove
from distillgen.upkeep.behind import count_stored, erase_stored, in_recipes, rows_that_share
from distillgen.upkeep.beside import asked_in_batches, copies_beside, strike_out, told_in_batches
from distillgen.upkeep.holdings import Holding, Target, holding_of, labels_of_holders, versions_in
from distillgen.upkeep.locks import at_rest, of_project
from distillgen.upkeep.notes import Note, notes_about, place_of, remove_note, write_note
from distillgen.upkeep.rewriting import Erasure, rewrite

NEAR = 5_000  # ids among which the nearest is looked for
TOLD = 10  # ids that a warning names
LONGEST_REASON = 500  # characters
_MIXED = re.compile(r"([a-z0-9.-]{1,100}?)\.mix-[0-9]+(\.|$)")  # of the second part that had this id


@dataclass
class Forgotten:
    """What is erased, or would be. `others` are rows that stay and were made by the same answers: row -> versions.

    `homes` are the datasets whose later builds are told now to leave it out, `seeds` the places where the seed still
    stands, `removed` what else goes; `known` tells whether all of the ids were on record as erased already.
    """

    ids: Sequence[str]
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
    project: Path, state: Path, row_ids: Sequence[str], names: Sequence[str] = (), *, reason: str = "", will_do: bool
) -> Forgotten:
    """Erase rows, or seeds with all their rows, from a project or some of its datasets; or say what would be done.

    Each version is written anew once, however many ids there are. Raises NotFound for a name that nobody knows, or
    when nobody knows any of the ids, Locked while a build or a pipe is at work, Damaged or
    NewerFormat before anything is changed, DiskFull or NotWritable: then the same command goes on.
    """
    if len(reason) > LONGEST_REASON or not reason.isprintable():
        raise UsageError(
            "the reason stands on one line of the manifest", where="--reason", fix=f"up to {LONGEST_REASON} characters"
        )
    if mixed := next(filter(None, map(_MIXED.match, row_ids)), None):
        raise UsageError(
            "this is the name of a row in a mix, which the next mix would bring back",
            fix=f"forget {mixed[1]}: it goes with it, here and where it came from",
        )
    homes = _homes(project / "datasets", names)
    if not homes:
        raise NotFound("no dataset here", where=str(project / "datasets"), fix="`distillgen build` makes one")
    with when_full("it goes on where this ended"), at_rest(of_project(state, homes), will_do=will_do):
        if logs(state, live=True):
            raise Locked("a pipe is at work with these answers", where=str(state), fix="wait for it to end")
        if will_do:
            for home in homes:
                sweep(home)
        work = _Work(project, state, homes, row_ids, reason)
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
            if is_id(name):
                raise UsageError(
                    f"{name!r} is an id, too", fix="one id by itself, or --ids FILE; behind it stand names of datasets"
                )
            raise no_dataset(name, datasets)
    return [home for home in homes if home.name in names] if names else homes


def _cut(row_id: str) -> str:
    return repr(row_id if len(row_id) <= 80 else f"{row_id[:77]}...")


class _Work:
    """One look for some ids, and what is done about them."""

    def __init__(self, project: Path, state: Path, homes: Sequence[Path], row_ids: Sequence[str], reason: str) -> None:
        self._project, self._state, self._homes, self._reason = project, state, homes, reason
        self._target = Target(row_ids)
        self._place = place_of(state, self._target.ids)
        self._notes = notes_about(state, self._target.ids)
        self._concerned: dict[Path, set[str]] = {}  # datasets, and which of the ids each is told to leave out
        self._digests: set[str] = set()  # of versions that held it
        self._keys: set[bytes] = set()
        self.found = Forgotten(self._target.ids)

    # -- looking -------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Find all that holds the ids. Raises NotFound when nothing does, and nothing did."""
        found = self.found
        if not all(each.strip() for each in found.ids):
            raise self._unknown("")
        for home in self._homes:
            holdings = (holding_of(version, self._target) for version in versions_in(home))
            found.holdings += [each for each in holdings if each is not None]
        self._digests |= {each.version.manifest.digest for each in found.holdings}
        for each in found.holdings:
            self._keys |= each.keys
            self._concern(each.version.folder.parent, each.of_ids)
        self._take_notes()
        store = self._state / "answers.sqlite"
        found.store = store if store.is_file() else None
        held = {origin_of(each) for ids in self._concerned.values() for each in ids}
        behind = in_recipes(self._project, self._state, self._homes, self._target, held)
        found.seeds, found.warnings = behind.seeds, behind.warnings
        self._keys |= behind.keys
        for home, origins in behind.homes.items():
            self._concern(home, [each for each in found.ids if origin_of(each) in origins])
        self._look_for_others([*self._homes, *self._elsewhere()])
        on_record = {home: read_forgotten(home).keys() & set(found.ids) for home in self._homes}
        found.homes = sorted(home for home, ids in self._concerned.items() if not ids <= on_record[home])
        known = set[str]().union(*on_record.values())
        found.known = known >= set(found.ids)
        self._require_known(known.union(*self._concerned.values()))
        if homes := set(self._concerned):
            found.removed = copies_beside(homes, self._state, self._digests)
            found.batches = [
                *asked_in_batches(self._state, self._keys), *told_in_batches(self._state, self._keys),
            ]  # fmt: skip

    def _concern(self, home: Path, ids: Iterable[str]) -> None:
        self._concerned.setdefault(home, set()).update(ids)

    def _take_notes(self) -> None:
        """Take in what earlier runs of this command, which were killed, had found."""
        for note in self._notes.values():
            self._keys |= note.keys
            self._digests |= note.digests
            self._reason = self._reason or note.reason
            for home in self._homes:
                if home.name in note.datasets:
                    self._concern(home, note.ids & set(self.found.ids))

    def _require_known(self, known: Collection[str]) -> None:
        """Raise NotFound when nothing knows any of the ids; warn of those that nothing knows."""
        strange = [each for each in self.found.ids if each not in known]
        if strange and len(strange) == len(self.found.ids):
            raise self._unknown(strange[0])
        if strange:
            told = ", ".join(map(_cut, strange[:TOLD])) + (", ..." if len(strange) > TOLD else "")
            what = (
                f"{len(strange):,} of {len(self.found.ids):,} ids are of no row and no seed that a version here knows"
            )
            self.found.warnings.append(Problem(what, str(self._project / "datasets"), told))

    def _elsewhere(self) -> list[Path]:
        """Warn of datasets that nobody named and that hold it too, such as a mix; return those that can be read."""
        warnings, sound = self.found.warnings, []
        for home in homes_in(self._project / "datasets"):
            if home in self._homes:
                continue
            try:
                labels = labels_of_holders(home, self._target)
                sound.append(home)
            except (Damaged, NewerFormat) as error:
                warnings.append(Problem(f"what it holds is not known: {error.problems[0].what}", str(home)))
                continue
            if labels:
                what = f"{', '.join(labels)}: it is there, too, and stays"
                warnings.append(Problem(what, str(home), "name this dataset as well, or none for all"))
        return sound

    def _look_for_others(self, homes: Sequence[Path]) -> None:
        """Count the answers that go, and find the rows that stay and were made by them too."""
        found = self.found
        if found.store is not None and self._keys:
            found.answers = count_stored(found.store, self._keys)
            found.others = rows_that_share(homes, self._target, self._keys)

    def _unknown(self, row_id: str) -> NotFound:
        near = self._nearest(row_id)
        more = f", nor any of the {len(self.found.ids) - 1:,} others" if len(self.found.ids) > 1 else ""
        return NotFound(
            f"no version here knows a row or a seed {_cut(row_id)}{more}", where=str(self._project / "datasets"),
            fix=f"did you mean {near!r}?" if near else "`distillgen show NAME` prints ids in its first column",
        )  # fmt: skip

    def _nearest(self, row_id: str) -> str | None:
        """Return an id of which half the seed's is the same, else one of the first that is like it."""
        origin = origin_of(row_id)
        halves = {origin[:8], origin[-8:]}
        first = dict[str, None]()
        for record in self._records():
            if halves & {record["origin"][:8], record["origin"][-8:]}:
                return str(record["id"])
            if len(first) < NEAR:
                first[record["id"]] = None
        return next(iter(difflib.get_close_matches(row_id, first, n=1, cutoff=0.6)), None)

    def _records(self) -> Iterator[dict[str, Any]]:
        for home in self._homes:
            for version in versions_in(home):
                for name in SIDECARS:
                    yield from read_jsonl(version.folder / f"{name}.jsonl.zst")

    # -- doing ---------------------------------------------------------------------------------------------------------

    def do(self) -> None:
        """Erase it. Raises DiskFull or NotWritable; the same command goes on then."""
        found = self.found
        if found.is_nothing and not self._notes:
            return
        date = time.strftime("%Y-%m-%d", time.gmtime())
        ids = set(found.ids)
        note = Note(ids, self._keys, self._digests, {home.name for home in self._concerned}, self._reason)
        write_note(self._place, note)
        for home in found.homes:
            put_on_record(home, [each for each in found.ids if each in self._concerned[home]], date)
        self._rewrite(date)
        for path, _ in found.removed:
            remove(path)
        for path in found.batches:
            strike_out(path, self._keys)
        if found.store is not None and self._keys:
            found.answers = erase_stored(found.store, self._keys)
        for path in {self._place, *(path for path, each in self._notes.items() if each.ids <= ids)}:
            remove_note(path)

    def _rewrite(self, date: str) -> None:
        links: dict[str, Path] = {}
        for each in self.found.holdings:
            tombstones = [{"id": name, "date": date, "rows": rows} for name, rows in each.of_ids.items()]
            if self._reason:
                tombstones = [{**tombstone, "reason": self._reason} for tombstone in tombstones]
            published = frozenset(each.rows.get("published", ()))
            erasure = Erasure(self._target.treated, published, each.count, tombstones)
            each.digest = rewrite(each.version, erasure, links)
