"""Erases a row, or all rows of a seed: from every version, from what was put aside, and from the stored answers.

The order makes it safe to be killed: first a note of what is to be done, then the record that keeps the rows out of
later builds, then the versions one by one, then the state folder, then the answers; the note goes last. The same
command again goes on from wherever that ended.
"""

import difflib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillgen.dataset.publication import SIDECARS
from distillgen.dataset.versions import homes_in, no_dataset, sweep
from distillgen.errors import Damaged, Locked, NewerFormat, NotFound, Problem, UsageError
from distillgen.excluded import is_id, put_on_record, read_forgotten
from distillgen.files import read_jsonl, safe_name
from distillgen.teacher.sent import logs
from distillgen.upkeep.aside import remove
from distillgen.upkeep.behind import count_stored, erase_stored, in_recipes, rows_that_share
from distillgen.upkeep.beside import asked_in_batches, copies_beside, strike_out, told_in_batches
from distillgen.upkeep.holdings import Holding, Target, holding_of, labels_of_holders, versions_in
from distillgen.upkeep.locks import at_rest, of_project
from distillgen.upkeep.notes import Note, place_of, read_note, remove_note, write_note
from distillgen.upkeep.rewriting import Erasure, rewrite

NEAR = 5_000  # ids among which the nearest is looked for
LONGEST_REASON = 500  # characters
_MIXED = re.compile(r"([a-z0-9.-]{1,100}?)\.mix-[0-9]+(\.|$)")  # of the second part that had this id


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
    if mixed := _MIXED.match(row_id):
        raise UsageError(
            "this is the name of a row in a mix, which the next mix would bring back",
            fix=f"forget {mixed[1]}: it goes with it, here and where it came from",
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
            if is_id(name):
                raise UsageError(f"{name!r} is an id, too", fix="one id at a time; behind it stand names of datasets")
            raise no_dataset(name, datasets)
    return [home for home in homes if home.name in names] if names else homes


class _Work:
    """One look for an id, and what is done about it."""

    def __init__(self, project: Path, state: Path, homes: Sequence[Path], row_id: str, reason: str) -> None:
        self._project, self._state, self._homes, self._reason = project, state, homes, reason
        self._target = Target(row_id)
        self._place = place_of(state, row_id)
        self._digests: set[str] = set()  # of versions that held it
        self._keys: set[bytes] = set()
        self.found = Forgotten(row_id)

    # -- looking -------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Find all that holds the id. Raises NotFound when nothing does, and nothing did."""
        found = self.found
        if not found.row_id.strip():
            raise self._unknown()
        for home in self._homes:
            holdings = (holding_of(version, self._target) for version in versions_in(home))
            found.holdings += [each for each in holdings if each is not None]
        self._digests |= {each.version.manifest.digest for each in found.holdings}
        for each in found.holdings:
            self._keys |= each.keys
        homes = {each.version.folder.parent for each in found.holdings} | self._noted()
        store = self._state / "answers.sqlite"
        found.store = store if store.is_file() else None
        behind = in_recipes(self._project, self._state, self._homes, self._target, is_held=bool(homes))
        found.seeds, found.warnings = behind.seeds, behind.warnings
        self._keys |= behind.keys
        homes |= behind.homes
        self._look_for_others([*self._homes, *self._elsewhere()])
        on_record = {home for home in self._homes if found.row_id in read_forgotten(home)}
        found.known = bool(on_record)
        found.homes = sorted(homes - on_record)
        if not homes and not found.known:
            raise self._unknown()
        if homes:
            found.removed = copies_beside(homes, self._state, self._digests)
            found.batches = [
                *asked_in_batches(self._state, self._keys), *told_in_batches(self._state, self._keys),
            ]  # fmt: skip

    def _noted(self) -> set[Path]:
        """Take in what an earlier run of this command, which was killed, had found; return the datasets concerned."""
        note = read_note(self._place)
        self._keys |= note.keys
        self._digests |= note.digests
        self._reason = self._reason or note.reason
        return {home for home in self._homes if home.name in note.datasets}

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

    def _unknown(self) -> NotFound:
        row_id = self.found.row_id
        said = repr(row_id if len(row_id) <= 80 else f"{row_id[:77]}...")
        near = self._nearest()
        return NotFound(
            f"no version here knows a row or a seed {said}", where=str(self._project / "datasets"),
            fix=f"did you mean {near!r}?" if near else "`distillgen show NAME` prints ids in its first column",
        )  # fmt: skip

    def _nearest(self) -> str | None:
        """Return an id of which half the seed's is the same, else one of the first that is like it."""
        origin = self._target.origin
        halves = {origin[:8], origin[-8:]}
        first = dict[str, None]()
        for record in self._records():
            if halves & {record["origin"][:8], record["origin"][-8:]}:
                return str(record["id"])
            if len(first) < NEAR:
                first[record["id"]] = None
        return next(iter(difflib.get_close_matches(self.found.row_id, first, n=1, cutoff=0.6)), None)

    def _records(self) -> Iterator[dict[str, Any]]:
        for home in self._homes:
            for version in versions_in(home):
                for name in SIDECARS:
                    yield from read_jsonl(version.folder / f"{name}.jsonl.zst")

    # -- doing ---------------------------------------------------------------------------------------------------------

    def do(self) -> None:
        """Erase it. Raises DiskFull or NotWritable; the same command goes on then."""
        found = self.found
        if found.is_nothing and not self._place.exists():
            return
        date = time.strftime("%Y-%m-%d", time.gmtime())
        homes = {each.version.folder.parent for each in found.holdings} | set(found.homes)
        note = Note(self._keys, self._digests, {home.name for home in homes}, self._reason)
        write_note(self._place, found.row_id, note)
        for home in found.homes:
            put_on_record(home, [found.row_id], date)
        self._rewrite(date)
        for path, _ in found.removed:
            remove(path)
        for path in found.batches:
            strike_out(path, self._keys)
        if found.store is not None and self._keys:
            found.answers = erase_stored(found.store, self._keys)
        remove_note(self._place)

    def _rewrite(self, date: str) -> None:
        links: dict[str, Path] = {}
        for each in self.found.holdings:
            tombstone = {"id": self.found.row_id, "date": date, "rows": each.count}
            if self._reason:
                tombstone["reason"] = self._reason
            published = frozenset(each.rows.get("published", ()))
            erasure = Erasure(self.found.row_id, self._target.treated, published, each.count, tombstone)
            each.digest = rewrite(each.version, erasure, links)
