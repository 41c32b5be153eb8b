"""Mixes published versions into a new one: which rows, how many of each, in which order, and under whose terms.

Every parent is read twice. First its rows, for duplicates: of equal ones, that of another split than `train` is kept,
else that of the version named first. Then its provenance, of the rows that were drawn. About 400 bytes a row stay in
memory, the texts never do.
"""

import contextlib
import itertools
import math
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson
import xxhash

from distillgen import __version__
from distillgen.dataset.manifest import Manifest
from distillgen.dataset.publication import Publication
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, NothingToPublish, UsageError
from distillgen.files import Lock, disk_errors, dumps, read_jsonl, safe_name
from distillgen.recipe import Recipe
from distillgen.rows import Rejection, Row
from distillgen.settings import DatasetSettings, SeedSettings, StudentSettings
from distillgen.steps.deduplicate import Deduplicate
from distillgen.teacher.terms import COMPETING, NOT_ADVICE, PURPOSES, STANCES

STEP = "mix"
BLOCK = 4096  # rows that are compared with the others at once
TRAIN = "train"
COMPETING_FROM_MILDEST = ("no", "unknown", "yes")
assert set(COMPETING_FROM_MILDEST) == set(COMPETING)


class Place(NamedTuple):
    """Where a row stands: its lot decides whether it is drawn."""

    lot: int
    id: str
    split: str
    path: Path
    offset: int


@dataclass
class Part:
    """One version that goes into the mix, by which share of the rows, and what is known of its rows."""

    version: Version
    ratio: float
    rows: list[Place] = field(default_factory=list)  # those that are no duplicates; by lot once all are read
    duplicates: dict[str, Rejection] = field(default_factory=dict)
    count: int = 0  # rows drawn

    @property
    def label(self) -> str:
        """`name@3`."""
        return self.version.label

    @property
    def drawn(self) -> list[Place]:
        """The rows that go into the mix, by lot."""
        return self.rows[: self.count]


@dataclass(frozen=True)
class Mixed:
    """What came of it: the version published, or the one that has the same content already; None for a dry run."""

    parts: Sequence[Part]
    terms: Mapping[str, Any]
    version: Version | None
    is_new: bool


def parts_of(words: Sequence[tuple[Version, float]]) -> list[Part]:
    """Return the parts with shares that add up to one. Raises UsageError for what cannot be mixed."""
    total = sum(ratio for _, ratio in words)
    parts = [Part(version, ratio / total) for version, ratio in words]
    seen: dict[str, str] = {}
    for part in parts:
        if part.version.manifest.digest in seen:
            raise UsageError(
                f"{part.label} has the same rows as {seen[part.version.manifest.digest]}", fix="name it once"
            )
        seen[part.version.manifest.digest] = part.label
    kinds = {part.label: _keys(part.version) for part in parts}
    first = next(iter(kinds))
    for label, keys in kinds.items():
        if ("chosen" in keys) != ("chosen" in kinds[first]):
            pairs, others = (label, first) if "chosen" in keys else (first, label)
            raise UsageError(f"{pairs} holds preference pairs, {others} conversations", fix="mix versions of one kind")
    return parts


def _keys(version: Version) -> tuple[str, ...]:
    for split in version.split_names():
        for path in version.data_files(split):
            return tuple(next(read_jsonl(path), ()))
    return ()


def mix(
    name: str, parts: Sequence[Part], datasets: Path, *, rows: int | None, near: float | None, seed: int, is_dry: bool
) -> Mixed:
    """Make the mix a version of `name`. Raises UsageError, NothingToPublish, Damaged, Locked, DiskFull."""
    terms = merged_terms(parts)
    home = datasets / safe_name(name, "dataset name")
    with contextlib.ExitStack() as held:
        if not is_dry:
            held.enter_context(Lock(home / ".lock"))
        _find_duplicates(parts, near, seed)
        _decide_counts(parts, rows)
        if is_dry:
            return Mixed(parts, terms, None, False)
        none = SeedSettings(path=[])  # no road was taken: of a recipe, only these tables are looked at
        recipe = Recipe.model_construct(
            name=name, seeds=none, steps=[], dataset=DatasetSettings(), student=StudentSettings()
        )
        publication = held.enter_context(contextlib.closing(Publication(home, recipe)))
        _write(parts, publication, home)
        digest = publication.finish()
        if publication.parent is not None and publication.parent.manifest.digest == digest:
            return Mixed(parts, terms, publication.parent, False)
        manifest = _describe(name, parts, publication, digest, terms, near, seed)
        return Mixed(parts, terms, publication.publish(manifest, _features(parts)), True)


# -- which rows --------------------------------------------------------------------------------------------------------


def _find_duplicates(parts: Sequence[Part], near: float | None, seed: int) -> None:
    """Read all rows; note of each where it stands, or of which other it is a duplicate."""
    with tempfile.TemporaryDirectory() as spool:
        step = Deduplicate(STEP, ["text"], near, samples="compare", spool=Path(spool))
        try:
            rows = itertools.chain(_rows(parts, seed, is_train=False), _rows(parts, seed, is_train=True))
            while block := list(itertools.islice(rows, BLOCK)):
                outcomes = step([row for _, _, row in block])
                for (part, place, _), outcome in zip(block, outcomes, strict=True):
                    if isinstance(outcome, Rejection):
                        part.duplicates[place.id] = outcome
                    else:
                        part.rows.append(place)
        finally:
            step.close()
    for part in parts:
        part.rows.sort()


def _rows(parts: Sequence[Part], seed: int, *, is_train: bool) -> Iterator[tuple[Part, Place, Row]]:
    for part in parts:
        for split in part.version.split_names():
            if (split == TRAIN) == is_train:
                for path in part.version.data_files(split):
                    for offset, row in _lines(path):
                        lot = xxhash.xxh3_64_intdigest(row["id"].encode(), seed)
                        text = _text_of(row)
                        named = Row(f"{row['id']} of {part.label}", row["id"], None, {"text": text})
                        yield part, Place(lot, row["id"], split, path, offset), named


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    offset = number = 0  # number: of the line that is told of
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007
                row = orjson.loads(line)
                if not isinstance(row["id"], str):
                    raise TypeError
                yield offset, row
                offset += len(line)
    except (ValueError, KeyError, TypeError):
        raise Damaged("this line is no row", where=f"{path}:{number}", fix="distillgen check tells more") from None
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}", where=str(path)) from None


def _text_of(row: Mapping[str, Any]) -> str:
    """Return all that a student would read of a row, as one text."""
    turns = row["messages"] if "messages" in row else [*row["prompt"], *row["chosen"], *row["rejected"]]
    return "\n\n".join(turn["content"] for turn in turns)


def most_rows(parts: Sequence[Part]) -> tuple[int, Part]:
    """Return how many rows a mix with these shares can have, and the part that sets the limit."""
    limit = min(parts, key=lambda part: len(part.rows) / part.ratio)
    return math.floor(len(limit.rows) / limit.ratio + 1e-9), limit


def _decide_counts(parts: Sequence[Part], rows: int | None) -> None:
    """Give each part its number of rows: whole ones that add up, by the largest remainders."""
    most, limit = most_rows(parts)
    if rows is not None and rows > most:
        raise UsageError(
            f"{limit.label} has {len(limit.rows):,} rows that are no duplicates, enough for a mix of {most:,} rows, "
            f"not of {rows:,}",
            fix="ask for fewer rows, give it a smaller share, or build more of them: no row is taken twice",
        )  # fmt: skip
    wanted = most if rows is None else rows
    for part in parts:
        part.count = math.floor(wanted * part.ratio + 1e-9)
    rest = sorted(parts, key=lambda part: part.count - wanted * part.ratio)
    for part in rest[: wanted - sum(part.count for part in parts)]:
        part.count = min(part.count + 1, len(part.rows))
    if not any(part.count for part in parts):
        why = f"every row of {limit.label} is a duplicate of another; leave it out of the mix"
        raise NothingToPublish("no row is left to publish", fix=why)


# -- writing it --------------------------------------------------------------------------------------------------------


def _write(parts: Sequence[Part], publication: Publication, home: Path) -> None:
    """Write the rows drawn, mixed so that a beginning of the file has about the shares of the whole."""
    with contextlib.ExitStack() as held:
        spools = []
        for part in parts:
            with disk_errors(home):
                spool = held.enter_context(tempfile.TemporaryFile(dir=home))
            spools.append((spool, _spool_provenance(part, publication, spool)))
        order = sorted(
            ((place + 0.5) / part.count, number, place)
            for number, part in enumerate(parts)
            for place in range(part.count)
        )
        files = {path: held.enter_context(path.open("rb")) for path in _paths(parts)}
        keys, used = _all_keys(parts), set[str]()
        for _, number, at in order:
            part, (spool, offsets) = parts[number], spools[number]
            place = part.rows[at]
            training, record = _line_at(files[place.path], place.offset), _line_at(spool, offsets[place.id])
            row_id = _free_id(place.id, number, used)
            used.add(row_id)
            note = {"step": STEP, "from": part.label, "digest": part.version.manifest.digest}
            if row_id != place.id:
                note["id"] = place.id
            row = Row(row_id, record["origin"], record["parent"], record["columns"], (*record["steps"], note))
            whole = {key: training.get(key, "") for key in keys}
            publication.row(place.split, {**whole, "id": row_id}, row)


def _paths(parts: Sequence[Part]) -> set[Path]:
    return {place.path for part in parts for place in part.drawn}


def _all_keys(parts: Sequence[Part]) -> list[str]:
    """Return the columns of the result: all that any part has; where a part has no reasoning, it is empty."""
    return list(dict.fromkeys(key for part in parts for key in _keys(part.version)))


def _free_id(row_id: str, number: int, used: set[str]) -> str:
    """Return the id, or for one that another part's row has already, the id with the part's number behind it."""
    free = row_id
    while free in used:
        free = f"{free}~{number + 1}"
    return free


def _line_at(file: IO[bytes], offset: int) -> dict[str, Any]:
    file.seek(offset)
    row: dict[str, Any] = orjson.loads(file.readline())
    return row


def _spool_provenance(part: Part, publication: Publication, spool: IO[bytes]) -> dict[str, int]:
    """Copy the provenance of the rows drawn to a spool; return where each stands. Keep the duplicates as rejected."""
    wanted = {place.id for place in part.drawn}
    offsets: dict[str, int] = {}
    told = 0
    path = part.version.folder / "provenance.jsonl.zst"
    with disk_errors("the spool"):
        for record in read_jsonl(path):
            if record["id"] in wanted:
                offsets[record["id"]] = spool.tell()
                spool.write(dumps(record).encode() + b"\n")
            elif found := part.duplicates.get(record["id"]):
                told += 1
                note = {"step": STEP, "from": part.label, "digest": part.version.manifest.digest}
                row = Row(record["id"], record["origin"], record["parent"], record["columns"], (*record["steps"], note))
                publication.rejected(Rejection(row, STEP, found.rule, found.detail))
        spool.flush()
    if len(offsets) != len(wanted) or told != len(part.duplicates):
        raise Damaged("lacks the record of a row", where=str(path), fix="distillgen check tells more")
    return offsets


# -- what is said of it ------------------------------------------------------------------------------------------------


def _features(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return the columns of a training row as a dataset card states them."""
    turns = [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
    texts = {"id", "reasoning"}
    return [
        {"name": key, "dtype": "string"} if key in texts else {"name": key, "list": turns} for key in _all_keys(parts)
    ]


def _describe(
    name: str, parts: Sequence[Part], publication: Publication, digest: str, terms: Mapping[str, Any],
    near: float | None, seed: int,
) -> Manifest:  # fmt: skip
    manifests = [part.version.manifest for part in parts]
    rows = sum(part.count for part in parts)
    rejected: dict[str, int] = {}
    for part in parts:
        for each in part.duplicates.values():
            rejected[each.rule] = rejected.get(each.rule, 0) + 1
    lineage = [
        {
            "version": part.label, "digest": part.version.manifest.digest, "ratio": round(part.ratio, 6),
            "rows": part.count, "duplicates": len(part.duplicates), "not_drawn": len(part.rows) - part.count,
        }
        for part in parts
    ]  # fmt: skip
    funnel = [
        {
            "step": STEP, "in": rows + sum(rejected.values()), "born": 0, "out": rows, "rejected": rejected,
            "failed": {}, "merged": 0,
        }
    ]  # fmt: skip
    return Manifest(
        name=name,
        version=publication.number,
        parent=publication.parent.manifest.version if publication.parent else None,
        digest=digest,
        rows=rows,
        splits=publication.splits,
        recipe={"name": name, "mix": lineage, "near": near, "seed": seed},
        prompts=_united([(each.name, each.prompts) for each in manifests]),
        seeds={"path": [], "count": sum(each.seeds.get("count") or 0 for each in manifests), "sha256": None},
        teachers=_united([(each.name, each.teachers) for each in manifests]),
        terms=dict(terms),
        funnel=funnel,
        files={},
        software={"distillgen": __version__, "python": platform.python_version()},
        run={
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": 0.0, "calls": 0,
            "tokens": {"prompt": 0, "completion": 0}, "usd": 0.0, "unpriced_calls": 0, "failed": {}, "teachers": {},
        },
    )  # fmt: skip


def _united(tables: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return all entries; where two differ under one name, the later has its dataset's name before its own."""
    united: dict[str, Any] = {}
    for dataset, table in tables:
        for name, value in table.items():
            free = name
            while free in united and united[free] != value:
                free = f"{dataset}.{free}"
            united[free] = value
    return united


def merged_terms(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the terms of all parts as one record: the strictest stance, the narrowest purpose, every condition.

    A part without a record counts as unknown. Nothing is judged anew: what a part was made for, it was judged for.
    """
    records = {part.label: part.version.manifest.terms for part in parts}
    known = [each for each in records.values() if each]
    if not known:
        return {}
    unknown = [label for label, each in records.items() if not each]
    stances = [each["stance"] for each in known] + ["unknown"] * bool(unknown)
    conditions = [each for record in known for each in record["conditions"]]
    return {
        "purpose": min((each["purpose"] for each in known), key=PURPOSES.index),
        "competing": max((each["competing"] for each in known), key=COMPETING_FROM_MILDEST.index),
        "note": " ".join(
            [*dict.fromkeys(each["note"] for each in known if each["note"])]
            + [f"No terms are on record for {', '.join(unknown)}."] * bool(unknown)
        ),
        "strict": any(each.get("strict") for each in known),
        "stance": max(stances, key=STANCES.index),
        "stances": {label: each.get("stance", "unknown") for label, each in records.items()},
        "accepted": _earliest([each["accepted"] for each in known]),
        "conditions": list({dumps(each): each for each in conditions}.values()),
        "teachers": _united([(part.version.manifest.name, records[part.label].get("teachers", {})) for part in parts]),
        "advice": NOT_ADVICE,
    }


def _earliest(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return all acceptances; of one entry that was accepted several times, the first."""
    found: dict[str, Any] = {}
    for name, value in itertools.chain.from_iterable(table.items() for table in tables):
        if name not in found or value["date"] < found[name]["date"]:
            found[name] = value
    return found
