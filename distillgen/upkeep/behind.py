"""The stored answers behind a row that must go: those to which its recipe alone leads, and the rows that share them."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from distillgen.dataset.publication import SIDECARS
from distillgen.dataset.versions import Version
from distillgen.errors import DistillgenError, Problem
from distillgen.preparation import Prepared
from distillgen.recipe import read_recipe
from distillgen.rows import Outcome, Row
from distillgen.tally import Tally
from distillgen.teacher.answers import AnswerStore
from distillgen.upkeep.beside import asked_in_batches
from distillgen.upkeep.holdings import Target, keys_in, label_of, versions_in
from distillgen.upkeep.lookups import look_up, readied
from distillgen.upkeep.rewriting import records_of


@dataclass
class Behind:
    """What the recipes of a project tell of a row: keys of answers, the datasets that asked, the seed's places."""

    keys: set[bytes] = field(default_factory=set)
    homes: set[Path] = field(default_factory=set)
    seeds: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def in_recipes(
    project: Path, state: Path, homes: Sequence[Path], target: Target, *, is_held: bool
) -> Behind:  # fmt: skip
    """Look into the recipes for the seed's place, and for answers about it that no row names.

    Those are first replies that were asked again, those of failed rows, those of a build that is not finished.
    `is_held` tells whether a version holds the row: one sample that none holds is asked about nowhere.
    """
    found, by_name = Behind(), {home.name: home for home in homes}
    for path in sorted(project.glob("*.toml")):
        try:
            name = read_recipe(path)[0].name
            if name not in by_name:
                continue
            prepared = readied(path, state)
            places = list(prepared.seeds.places(target.origin))
        except DistillgenError as error:
            what = f"this recipe cannot be followed: {error.problems[0].what}"
            fix = "answers that no version tells of are not looked for there, nor is the place of the seed"
            found.warnings.append(Problem(what, str(path), fix))
            continue
        found.seeds += [f"{place} ({row.id})" for place, row in places]
        seed = next((row for _, row in places if row.id == target.origin), None)
        store = state / "answers.sqlite"
        if seed is not None and store.is_file() and (is_held or found.homes or target.is_seed):
            keys = _looked_up(prepared, store, seed)
            keys -= _named_by_others(homes, target, keys)
            if count_stored(store, keys) or asked_in_batches(state, keys):
                found.keys |= keys
                found.homes.add(by_name[name])
    found.seeds = list(dict.fromkeys(found.seeds))
    return found


def _looked_up(prepared: Prepared, store: Path, seed: Row) -> set[bytes]:
    """Return the keys that a build would look up about one seed, as far as stored answers lead."""

    async def alone(_: Tally) -> AsyncGenerator[Outcome, None]:
        yield seed

    keys: set[bytes] = set()
    with tempfile.TemporaryDirectory() as state:  # no index is kept of this
        asyncio.run(look_up(replace(prepared, state=Path(state)), store, alone, keys.add))
    return keys


def _named_by_others(homes: Iterable[Path], target: Target, keys: set[bytes]) -> set[bytes]:
    """Return those of some keys that rows of the same seed name which stay: none when the whole seed goes."""
    named = set[bytes]()
    if target.is_seed:
        return named
    for home in homes:
        for version in versions_in(home):
            for name in SIDECARS:
                for line in records_of(version, name):
                    if target.is_near(line) and target.treated(line) is not None:
                        named |= keys & keys_in(line)
    return named


def count_stored(store: Path, keys: Collection[bytes]) -> int:
    """Return how many answers are stored under some keys."""
    with contextlib.closing(AnswerStore(store)) as answers:
        return answers.held(keys)


def erase_stored(store: Path, keys: Iterable[bytes]) -> int:
    """Erase answers for good; return how many there were. Raises DiskFull or NotWritable."""
    with contextlib.closing(AnswerStore(store)) as answers:
        return answers.erase(sorted(keys))


# -- rows that share them --------------------------------------------------------------------------------------------


def rows_that_share(homes: Iterable[Path], target: Target, keys: set[bytes]) -> dict[str, list[str]]:
    """Return rows that stay and were made by the same answers, with the versions that hold them. Raises Damaged."""
    others = dict[str, list[str]]()
    for home in homes:
        for version in versions_in(home):
            _share_in(version, target, keys, others)
    return others


def _share_in(version: Version, target: Target, keys: set[bytes], others: dict[str, list[str]]) -> None:
    for name in SIDECARS:
        for line in records_of(version, name):
            if not keys.isdisjoint(keys_in(line)) and target.treated(line) is not None:
                others.setdefault(orjson.loads(line)["id"], []).append(label_of(version))
