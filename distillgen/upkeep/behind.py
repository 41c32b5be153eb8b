"""The stored answers behind a row that must go: those to which its recipe alone leads, and the rows that share them."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
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
    """What the recipes of a project tell of rows: keys of answers, the datasets that asked about which seeds, the
    seeds' places."""

    keys: set[bytes] = field(default_factory=set)
    homes: dict[Path, set[str]] = field(default_factory=dict)  # datasets -> ids of seeds
    seeds: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def in_recipes(
    project: Path, state: Path, homes: Sequence[Path], target: Target, held: Collection[str]
) -> Behind:  # fmt: skip
    """Look into the recipes for the seeds' places, and for answers about them that no row names.

    Those are first replies that were asked again, those of failed rows, those of a build that is not finished.
    `held` are the seeds of which a version holds a row: one sample that none holds is asked about nowhere.
    """
    found, by_name = Behind(), {home.name: home for home in homes}
    for path in sorted(project.glob("*.toml")):
        try:
            name = read_recipe(path)[0].name
            if name not in by_name:
                continue
            prepared = readied(path, state)
            places = list(prepared.seeds.places(*target.origins))
        except DistillgenError as error:
            what = f"this recipe cannot be followed: {error.problems[0].what}"
            fix = "answers that no version tells of are not looked for there, nor is the place of the seed"
            found.warnings.append(Problem(what, str(path), fix))
            continue
        found.seeds += [f"{place} ({row.id})" for place, row in places]
        known = {*held, *(each for ids in found.homes.values() for each in ids)}
        seeds = {row.id: row for _, row in places if row.id in target.origins}
        store = state / "answers.sqlite"
        asked = {
            origin: _looked_up(prepared, store, seed)
            for origin, seed in (seeds.items() if store.is_file() else ())
            if origin in known or target.is_seed(origin)
        }
        _leave_to_others(homes, target, asked)
        for origin, keys in asked.items():
            if count_stored(store, keys) or asked_in_batches(state, keys):
                found.keys |= keys
                found.homes.setdefault(by_name[name], set()).add(origin)
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


def _leave_to_others(homes: Iterable[Path], target: Target, asked: Mapping[str, set[bytes]]) -> None:
    """Take from the keys of each seed those that rows of it name which stay: none when the whole seed goes."""
    partly = [keys for origin, keys in asked.items() if not target.is_seed(origin)]
    if not any(partly):
        return
    for home in homes:
        for version in versions_in(home):
            for name in SIDECARS:
                for line in records_of(version, name):
                    if target.is_near(line) and target.treated(line) is not None:
                        named = keys_in(line)
                        for keys in partly:
                            keys -= named


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
