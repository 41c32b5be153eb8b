"""Which rows of its parts a mix has, in which order, and under which ids.

All rows of all parts are read before one is drawn. Of equal rows, one of another split than `train` is kept, so that
nobody trains on what is evaluated on; else that of the part named first. The texts are not held.
"""

import hashlib
import heapq
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import xxhash

from distillgen.errors import Damaged, NothingToPublish, UsageError
from distillgen.excluded import FORGOTTEN, FORGOTTEN_FILE, read_forgotten
from distillgen.files import disk_errors
from distillgen.mix.parts import HELD_OUT, STEP, Part, Place, keys_of
from distillgen.rows import Rejection, Row
from distillgen.steps.deduplicate import Deduplicate
from distillgen.steps.text import normalise
from distillgen.upkeep.rewriting import records_of

BLOCK_ROWS = 4096  # compared with the others at once
BLOCK_CHARACTERS = 1 << 24  # the same, of long rows
TRAIN = "train"
_OF_HELD_OUT = re.compile(r"of .* of [^ ]+@\d+ \([^()]+\)(, .*)?")  # how a rejection names a row of another split


class _Read(NamedTuple):
    """A row as it is compared: its name in rejections, and hashes of the conversation and of the prompt alone."""

    part: Part
    place: Place
    row: Row
    conversation: int
    prompt: int  # 0: there is none


def choose(parts: Sequence[Part], home: Path, *, rows: int | None, near: float | None, seed: int) -> None:
    """Decide which rows of each part go into a mix for `home`. Raises UsageError, NothingToPublish, Damaged."""
    with disk_errors("the spool of texts that are compared"):
        _read_all(parts, near, seed, _erased(parts, home))
    _name(parts)
    _draw(parts, rows)


# -- which may be drawn ------------------------------------------------------------------------------------------------


def _read_all(parts: Sequence[Part], near: float | None, seed: int, erased: Sequence[Collection[str]]) -> None:
    """Read all rows; note of each where it stands, or why it is left out."""
    step = Deduplicate(STEP, ["conversation", "reasoning"], near, samples="compare")
    held_out: dict[int, str] = {}  # conversation -> the row that has it
    prompts: set[int] = set()  # of held-out rows
    gone = {part.label: ids for part, ids in zip(parts, erased, strict=True)}
    try:
        for block in _blocks(itertools.chain(_rows(parts, seed, of_train=False), _rows(parts, seed, of_train=True))):
            compared = []
            for read in block:
                if read.place.id in gone[read.part.label]:
                    why = f"erased: {FORGOTTEN_FILE} names it"
                    _leave_out(read, Rejection(read.row, STEP, FORGOTTEN, why))
                    continue
                if read.place.split != TRAIN:
                    held_out.setdefault(read.conversation, read.row.id)
                    prompts.add(read.prompt)
                elif (other := held_out.get(read.conversation)) is not None:
                    _leave_out(read, Rejection(read.row, STEP, HELD_OUT, f"of {other}"))
                    continue
                compared.append(read)
            for read, outcome in zip(compared, step([each.row for each in compared]) if compared else (), strict=True):
                if isinstance(outcome, Rejection):
                    _leave_out(read, outcome)
                    continue
                read.part.rows.append(read.place)
                if read.place.split == TRAIN and read.prompt and read.prompt in prompts:
                    read.part.asks_held_out.add(read.place.id)
    finally:
        step.close()
    for part in parts:
        part.rows.sort()


def _leave_out(read: _Read, rejection: Rejection) -> None:
    if read.place.split == TRAIN and _OF_HELD_OUT.fullmatch(rejection.detail):
        rejection = replace(rejection, rule=HELD_OUT)
    row = Row(read.place.id, read.place.id, None, {})  # without its texts
    read.part.left_out[read.place.id] = replace(rejection, row=row)


def _blocks(rows: Iterator[_Read]) -> Iterator[list[_Read]]:
    block: list[_Read] = []
    characters = 0
    for read in rows:
        block.append(read)
        characters += sum(map(len, read.row.columns.values()))
        if len(block) == BLOCK_ROWS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _rows(parts: Sequence[Part], seed: int, *, of_train: bool) -> Iterator[_Read]:
    """Yield the rows of `train`, or those of all other splits, part after part."""
    for part in parts:
        dataset = f"{part.version.manifest.name}\x1f"
        for split in part.version.split_names():
            if (split == TRAIN) != of_train:
                continue
            named = part.label if split == TRAIN else f"{part.label} ({split})"
            for path in part.version.data_files(split):
                for offset, row_id, conversation, reasoning, prompt in _lines(path, part):
                    # The name is in it: two datasets made from the same seeds do not draw the same ones.
                    lot = xxhash.xxh3_64_intdigest(f"{dataset}{row_id}".encode(), seed)
                    columns = {"conversation": conversation, "reasoning": reasoning}
                    yield _Read(
                        part, Place(lot, row_id, split, path, offset),
                        Row(f"{row_id} of {named}", row_id, None, columns),
                        xxhash.xxh3_128_intdigest(normalise(conversation).encode("utf-8", "surrogatepass")),
                        xxhash.xxh3_64_intdigest(normalise(prompt).encode("utf-8", "surrogatepass")) if prompt else 0,
                    )  # fmt: skip


def _lines(path: Path, part: Part) -> Iterator[tuple[int, str, str, str, str]]:
    """Yield of each row where its line begins, id, conversation, reasoning and prompt.

    Raises Damaged for a line that is no row, and at the end for a file that is not as it was published.
    """
    offset = number = 0
    sha, keys = hashlib.sha256(), set(keys_of(part.version))
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                sha.update(line)
                row = orjson.loads(line)
                if row.keys() != keys:
                    raise ValueError("another row has other columns")
                prompt, answers = _texts(row)
                conversation = f"{prompt}\n\n{answers}" if prompt else answers
                yield offset, row["id"] + "", conversation, row.get("reasoning", "") + "", prompt
                offset += len(line)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged("this line is no row", where=f"{path}:{number}", fix="distillgen check tells more") from None
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}", where=str(path)) from None
    entry = part.version.manifest.files[f"data/{path.name}"]
    if entry.sha256 != sha.hexdigest():
        fix = f"`distillgen check {part.label}` names the row, `repair` may mend it"
        raise Damaged("is not as it was published", where=str(path), fix=fix)


def _texts(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is asked, and what is answered: the last turn, or of a pair both answers."""
    if "messages" in row:
        asked, answered = row["messages"][:-1], row["messages"][-1:]
    else:
        asked, answered = row["prompt"], [*row["chosen"], *row["rejected"]]
    return "\n\n".join(turn["content"] for turn in asked), "\n\n".join(turn["content"] for turn in answered)


def _erased(parts: Sequence[Part], home: Path) -> list[set[str]]:
    """Return the rows of each part that were erased from the dataset of the mix, or from the part's own.

    The older of two copies of a version may hold them still.
    """
    found = []
    for part in parts:
        erased = {*read_forgotten(home), *read_forgotten(part.version.folder.absolute().parent)}
        ids = set()
        for line in records_of(part.version, "provenance") if erased else ():
            record = orjson.loads(line)
            names = (record["id"], record["origin"], record["parent"] or "")
            if any(beginning in erased for name in names for beginning in _beginnings(name)):
                ids.add(record["id"])
        found.append(ids)
    return found


def _beginnings(name: str) -> Iterator[str]:
    """Yield an id and those that it was made from: `a.2.0`, `a.2`, `a`."""
    while name:
        yield name
        name = name.rpartition(".")[0]


# -- under which id ----------------------------------------------------------------------------------------------------


def _name(parts: Sequence[Part]) -> None:
    """Give another id to rows whose id a part before theirs has: the part's number behind it, as of what is made
    from a row, so that `trace` and `forget` of the first id find both."""
    taken: set[str] = set()
    for number, part in enumerate(parts, 1):
        own = {place.id for place in part.rows}
        for row_id in sorted(own & taken):
            free = f"{row_id}.{STEP}-{number}"
            while free in taken or free in own:
                free = f"{free}.{STEP}-{number}"
            part.renamed[row_id] = free
            taken.add(free)
        taken |= own


# -- how many, in which order ------------------------------------------------------------------------------------------


def turns(parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
    """Yield whose turn it is, as the part's number and the place among its rows by lot; every row has one.

    The part whose share is behind the most comes next (the divisors 1, 3, 5 ... of Sainte-Laguë), so any beginning has
    about the shares of the whole, and a smaller mix is the beginning of a larger one.
    """
    steps = _steps(parts)

    def of_part(number: int) -> Iterator[tuple[int, int, int]]:
        return (
            ((2 * place + 1) * steps[number], number, place) for place in range(len(parts[number].rows))
        )  # fmt: skip

    return ((number, place) for _, number, place in heapq.merge(*map(of_part, range(len(parts)))))


def _steps(parts: Sequence[Part]) -> list[int]:
    """Return how far apart the turns of each part are, as whole numbers, so that none is rounded."""
    multiple = math.lcm(*(part.weight for part in parts))
    return [multiple // part.weight for part in parts]


def _draw(parts: Sequence[Part], rows: int | None) -> None:
    """Give each part its number of rows: as many as are asked for, else as many as the shares allow."""
    steps = _steps(parts)
    lacking, number = min(
        ((2 * len(part.rows) + 1) * step, number) for number, (part, step) in enumerate(zip(parts, steps, strict=True))
    )
    limit = parts[number]
    if not limit.rows:
        why = "every row of it is a duplicate of another, or was erased" if limit.left_out else "it has none"
        raise NothingToPublish(
            f"no row of {limit.label} is left to publish", fix=f"{why}; leave {limit.label} out of the mix"
        )
    # Before the first turn that no row is left for; and no more than would leave a part short of its share.
    in_turn = sum(((lacking - 1) // step + 1) // 2 for step in steps)
    weights = sum(part.weight for part in parts)
    most = min(in_turn, *(len(part.rows) * weights // part.weight for part in parts))
    if rows is not None and rows > most:
        raise UsageError(
            f"{limit.label} has {len(limit.rows):,} row{'s' if len(limit.rows) > 1 else ''} to draw from, enough for a "
            f"mix of {most:,} rows, not of {rows:,}",
            fix="ask for fewer rows, give it a smaller share, or build more of them: no row is taken twice",
        )  # fmt: skip
    drawn = Counter(number for number, _ in itertools.islice(turns(parts), most if rows is None else rows))
    for at, part in enumerate(parts):
        part.count = drawn[at]
