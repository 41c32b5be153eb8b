"""Writes a mix, and says in its manifest what it was made of."""

import contextlib
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from distillgen import __version__
from distillgen.dataset.figures import replies_of
from distillgen.dataset.manifest import Manifest, read_manifest
from distillgen.dataset.publication import Publication
from distillgen.dataset.room import on_stop, when_full
from distillgen.dataset.versions import Version, latest, locked_home
from distillgen.errors import Damaged, Locked
from distillgen.excluded import FORGOTTEN
from distillgen.files import disk_errors, room_for_files, safe_name, utc
from distillgen.mix.choosing import TRAIN, choose, turns
from distillgen.mix.parts import HELD_OUT, STEP, Part, all_keys, prices_of, teacher_names, united
from distillgen.mix.terms import MixedTerms, Said, weigh_parts
from distillgen.rows import Rejection, Row
from distillgen.upkeep.rewriting import records_of

_WHO = ("teacher", "judge")  # keys under which steps note who answered
SPARE_FILES = 64  # that a process has open besides those it mixes


@dataclass(frozen=True)
class Wanted:
    """What a mix shall be: how many rows (None: as many as the shares allow), from which Jaccard similarity on rows
    are alike (None: when they are equal), which draw, and what its owner says of the terms."""

    rows: int | None = None
    near: float | None = None
    seed: int = 0
    said: Said = field(default_factory=Said)


@dataclass(frozen=True)
class Mixed:
    """What came of it: the version published, or the one that has the same content already; None for a dry run."""

    parts: Sequence[Part]
    terms: MixedTerms
    before: Mapping[str, Any]  # the terms of the version before
    version: Version | None
    is_new: bool

    def splits(self) -> dict[str, dict[str, int]]:
        """Return of each split how many rows each part gives it."""
        found: dict[str, dict[str, int]] = {}
        for part in self.parts:
            for split, count in Counter(place.split for place in part.drawn).items():
                found.setdefault(split, {})[part.label] = count
        return found

    def limit(self) -> Part | None:
        """Return the part that is shortest for its share, None where rows of no other part are left for want of it."""
        shortest = min(self.parts, key=lambda part: len(part.rows) / part.weight)
        return shortest if any(part.not_drawn for part in self.parts if part is not shortest) else None

    def asks_held_out(self) -> int:
        """Return how many rows of `train` have the prompt of a row of another split, with another answer."""
        return sum(
            place.id in part.asks_held_out for part in self.parts if part.asks_held_out for place in part.drawn
        )  # fmt: skip


def mix(name: str, parts: Sequence[Part], datasets: Path, wanted: Wanted, *, is_dry: bool) -> Mixed:
    """Make the mix a version of `name`; when dry, find out only what it would be.

    Raises UsageError, TermsNotAccepted, NothingToPublish, Damaged, Locked, DiskFull.
    """
    terms = weigh_parts(parts, wanted.said)
    home = datasets / safe_name(name, "dataset name")
    with contextlib.ExitStack() as held:
        if not is_dry:
            terms.require()
            left = "nothing was published, and nothing else has changed"
            held.enter_context(on_stop(left))
            held.enter_context(when_full(left))
            held.enter_context(locked_home(home))
        newest = latest(home)
        before = newest.manifest.terms if newest is not None else {}
        choose(parts, home, rows=wanted.rows, near=wanted.near, seed=wanted.seed)
        if is_dry:
            return Mixed(parts, terms, before, None, False)
        splits = _splits(parts)
        publication = held.enter_context(contextlib.closing(Publication(home, None, splits=splits)))
        behind = _write(parts, publication, home)
        digest = publication.finish()
        parent = publication.parent
        if parent is not None and parent.manifest.digest == digest and not parent.manifest.is_partial:
            return Mixed(parts, terms, before, parent, False)
        _require_unchanged(parts)
        manifest = _describe(name, parts, publication, digest, terms, wanted, behind)
        return Mixed(parts, terms, before, publication.publish(manifest, _features(parts)), True)


def _splits(parts: Sequence[Part]) -> list[str]:
    """Return the splits of all parts, `train` first, as people expect them."""
    names = dict.fromkeys(split for part in parts for split in part.version.split_names())
    return sorted(names, key=lambda split: split != TRAIN)


def _require_unchanged(parts: Sequence[Part]) -> None:
    """Raise Locked when a part was erased from, or removed, while it was read."""
    for part in parts:
        with contextlib.suppress(Damaged):
            if read_manifest(part.version.folder).digest == part.version.manifest.digest:
                continue
        raise Locked(
            f"{part.label} was changed or removed while it was read", where=str(part.version.folder),
            fix="run the same command again",
        )  # fmt: skip


# -- writing it --------------------------------------------------------------------------------------------------------


@dataclass
class _Behind:
    """What stands behind the rows drawn: their seeds, and of each teacher, by its name in the mix, the models that
    answered, with the replies of each."""

    seeds: set[str] = field(default_factory=set)
    answered: dict[str, Counter[str]] = field(default_factory=dict)

    def take(self, record: Mapping[str, Any]) -> None:
        """Take a row's record in."""
        self.seeds.add(record["origin"])
        for step in record["steps"]:
            for reply in replies_of(step):
                name, model = reply.get("teacher") or reply.get("judge"), reply.get("model")
                if name and model:
                    self.answered.setdefault(name, Counter())[model] += 1


def _write(parts: Sequence[Part], publication: Publication, home: Path) -> _Behind:
    """Write the rows drawn, turn by turn, each with its provenance; return what stands behind them."""
    behind, names = _Behind(), teacher_names(parts)
    with disk_errors(home), contextlib.ExitStack() as held:  # a spool on a full disk cannot even be closed
        spools = []
        for part in parts:
            spool = held.enter_context(tempfile.TemporaryFile(dir=home))
            spools.append((spool, _spool_provenance(part, publication, spool)))
        paths = {place.path for part in parts for place in part.drawn}
        room_for_files(len(paths) + SPARE_FILES)
        files = {path: held.enter_context(_opened(path)) for path in paths}
        keys = all_keys(parts)
        for number, at in _drawn(parts):
            part, (spool, offsets) = parts[number], spools[number]
            place = part.rows[at]
            training, record = _line_at(files[place.path], place.offset), _line_at(spool, offsets[place.id])
            record["steps"] = _renamed(record["steps"], names[number])
            behind.take(record)
            row_id = part.renamed.get(place.id, place.id)
            note = _note(part) if row_id == place.id else {**_note(part), "id": place.id}
            row = Row(row_id, record["origin"], record["parent"], record["columns"], (*record["steps"], note))
            whole = {key: training.get(key, "") for key in keys}
            publication.row(place.split, {**whole, "id": row_id}, row)
    return behind


def _renamed(noted: Any, names: Mapping[str, str]) -> Any:
    """Return what steps noted, with teachers and judges under the names that they have in the mix."""
    if isinstance(noted, list):
        return [_renamed(each, names) for each in noted]
    if not isinstance(noted, dict) or all(old == new for old, new in names.items()):
        return noted
    return {
        key: names.get(value, value) if key in _WHO and isinstance(value, str) else _renamed(value, names)
        for key, value in noted.items()
    }


def _drawn(parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
    """Yield the turns of the rows that are drawn."""
    left = sum(part.count for part in parts)
    for number, at in turns(parts) if left else ():
        if at < parts[number].count:
            yield number, at
            left -= 1
            if not left:
                return


def _note(part: Part) -> dict[str, Any]:
    return {"step": STEP, "from": part.label, "digest": part.version.manifest.digest}


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}", where=str(path)) from None


def _line_at(file: IO[bytes], offset: int) -> dict[str, Any]:
    file.seek(offset)
    row: dict[str, Any] = orjson.loads(file.readline())
    return row


def _spool_provenance(part: Part, publication: Publication, spool: IO[bytes]) -> dict[str, int]:
    """Copy the provenance of the rows drawn to a spool; return where each stands. Keep those left out as rejected."""
    wanted = {place.id for place in part.drawn}
    offsets: dict[str, int] = {}
    told = at = 0
    with disk_errors("the spool of provenance"):
        for line in records_of(part.version, "provenance"):
            record = orjson.loads(line)
            if (row_id := record["id"]) in wanted:
                offsets[row_id] = at
                at += spool.write(line + b"\n")
            elif found := part.left_out.get(row_id):
                told += 1
                steps = (*record["steps"], _note(part))
                row = Row(row_id, record["origin"], record["parent"], record["columns"], steps)
                publication.rejected(Rejection(row, STEP, found.rule, found.detail))
        spool.flush()
    if len(offsets) != len(wanted) or told != len(part.left_out):
        path = part.version.folder / "provenance.jsonl.zst"
        raise Damaged("lacks the record of a row", where=str(path), fix="distillgen check tells more")
    return offsets


# -- what is said of it ------------------------------------------------------------------------------------------------


def _features(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return the columns of a training row as a dataset card states them."""
    turns_of = [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
    texts = {"id", "reasoning"}
    return [
        {"name": key, "dtype": "string"} if key in texts else {"name": key, "list": turns_of} for key in all_keys(parts)
    ]


def lineage(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return what each part gives. `duplicates` are those of any row, `held_out` those among them that would be in
    `train` though another split has them."""
    return [
        {
            "version": part.label, "digest": part.version.manifest.digest, "ratio": round(part.ratio, 6),
            "rows": part.count, "duplicates": len(part.left_out) - part.left_out_by(FORGOTTEN),
            "held_out": part.left_out_by(HELD_OUT), "not_drawn": part.not_drawn,
        }
        for part in parts
    ]  # fmt: skip


def _describe(
    name: str, parts: Sequence[Part], publication: Publication, digest: str, terms: MixedTerms, wanted: Wanted,
    behind: _Behind,
) -> Manifest:  # fmt: skip
    manifests = [part.version.manifest for part in parts]
    rows = sum(part.count for part in parts)
    rejected = Counter(each.rule for part in parts for each in part.left_out.values())
    parent = publication.parent.manifest if publication.parent else None
    funnel = {
        "step": STEP, "in": rows + rejected.total(), "born": 0, "out": rows, "rejected": dict(sorted(rejected.items())),
        "failed": {}, "merged": 0,
    }  # fmt: skip
    return Manifest(
        name=name,
        version=publication.number,
        parent=parent.version if parent else None,
        digest=digest,
        rows=rows,
        splits=publication.splits,
        recipe={"name": name, "mix": lineage(parts), "rows": wanted.rows, "near": wanted.near, "seed": wanted.seed},
        prompts=united([(each.name, each.prompts) for each in manifests]),
        seeds={"path": [], "count": len(behind.seeds), "sha256": None},  # each once, whoever else has it
        teachers=_by_new_names(parts, lambda part, teacher: part.version.manifest.teachers[teacher]),
        terms=terms.record(time.strftime("%Y-%m-%d", time.gmtime()), parent.terms if parent else {}),
        funnel=[funnel],
        files={},
        software={"distillgen": __version__, "python": platform.python_version()},
        run={
            "finished": utc(time.time()), "seconds": 0.0, "calls": 0,
            "tokens": {"prompt": 0, "completion": 0}, "usd": 0.0, "unpriced_calls": 0, "failed": {},
            "teachers": _asked(parts, behind),
        },
    )  # fmt: skip


def _asked(parts: Sequence[Part], behind: _Behind) -> dict[str, Any]:
    """Return what is on record of the teachers whose replies are in the rows: nobody was asked anything for the mix."""
    return {
        name: {
            "calls": 0, "tokens": {"prompt": 0, "completion": 0}, "usd": 0.0, "unpriced_calls": 0, "prices": prices,
            "answered_as": dict(sorted(behind.answered.get(name, {}).items())),
        } for name, prices in _by_new_names(parts, prices_of).items()
    }  # fmt: skip


def _by_new_names(parts: Sequence[Part], of: Callable[[Part, str], Any]) -> dict[str, Any]:
    """Return something of every teacher of the parts, by its name in the mix."""
    return {
        new: of(part, old)
        for part, names in zip(parts, teacher_names(parts), strict=True)
        for old, new in names.items()
    }
