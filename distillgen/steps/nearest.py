"""Which rows of a block are kept: each is compared with the rows that were kept before it, and with no others."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distillgen.steps.near_index import ROW_BITS, ROW_MASK, Block, Numbers, Part, pairs_within
from distillgen.steps.similarity import Hashes, jaccards

CROWD = 1 << 17  # pairs with a common key that are held at once; a block that has more is to be cut


class Source(NamedTuple):
    """Rows that were kept before, and what stands before their names in rejections."""

    part: Part
    prefix: str = ""


class Found(NamedTuple):
    """The kept row that another is like, and how much by which measure; both say nothing when the two are equal."""

    name: str
    measure: Literal["", "Jaccard", "cosine"] = ""
    similarity: float = 1.0


class Limits(NamedTuple):
    """From which similarities on rows count as the same, and whether samples of one prompt are compared."""

    near: float | None
    meaning: float | None
    compares_samples: bool


class _Candidate(NamedTuple):
    """A row that another has a key in common with: of a source or, when that is None, of the block itself.

    `shingles` is None when the rows are equal.
    """

    source: Source | None
    number: int
    shingles: Hashes | None


class _Meant(NamedTuple):
    """A row that means much the same as another."""

    source: Source | None
    number: int
    cosine: float


def decide(block: Block, sources: Sequence[Source], limits: Limits) -> list[Found | None]:
    """Return for each row of a block the kept row that it equals, or else is most like; None when it is kept itself.

    What is nearly equal goes before what means the same. Of equally alike rows the earliest is named: the sources in
    their order, then the block's own. Raises Crowded when the block is to be cut.
    """
    candidates = _candidates(block, sources, limits)
    meant = _meant(block, sources, limits)
    decided: list[Found | None] = [None] * len(block.names)

    def is_kept(candidate: _Candidate | _Meant) -> bool:
        return candidate.source is not None or decided[candidate.number] is None

    for place in sorted(candidates.keys() | meant.keys()):  # so that what is kept of the block is known
        alike = [each for each in candidates.get(place, ()) if is_kept(each)]
        decided[place] = _nearest(block, place, alike, limits.near)
        if decided[place] is None:
            closest = max((each for each in meant.get(place, ()) if is_kept(each)), key=_cosine, default=None)
            decided[place] = closest and Found(_name(block, closest), "cosine", closest.cosine)
    return decided


def _cosine(meant: _Meant) -> float:
    return meant.cosine


def _nearest(block: Block, place: int, candidates: Sequence[_Candidate], near: float | None) -> Found | None:
    """Return the first of the candidates that is equal, else the first of the most alike that reach the threshold."""
    alike = [each for each in candidates if each.shingles is not None]
    if len(alike) < len(candidates):
        return Found(_name(block, next(each for each in candidates if each.shingles is None)))
    if near is None or not alike:
        return None
    similarities = jaccards(block.sets.of(place), [each.shingles for each in alike if each.shingles is not None])
    most = max(similarities)
    return Found(_name(block, alike[similarities.index(most)]), "Jaccard", most) if most >= near else None


def _name(block: Block, candidate: _Candidate | _Meant) -> str:
    source, number, _ = candidate
    return block.names[number] if source is None else source.prefix + source.part.name(number)


def _candidates(block: Block, sources: Sequence[Source], limits: Limits) -> dict[int, list[_Candidate]]:
    """Return the rows that a row of the block, known by its place, may be like, the earliest first."""
    found: dict[int, list[_Candidate]] = defaultdict(list)
    sizes = block.sets.ends - block.sets.starts
    for source in (*sources, None):
        places, numbers = _pairs(block, source)
        is_equal = (block.records["digest"][places] == _records(block, source)["digest"][numbers]).all(axis=1)
        wanted = is_equal.copy()
        if limits.near is not None:  # two sets cannot share more than the smaller one has
            others = source.part.sizes(numbers) if source else sizes[numbers]
            least, largest = np.minimum(sizes[places], others), np.maximum(sizes[places], others)
            wanted |= least / np.maximum(largest, 1) >= limits.near
        wanted &= _are_compared(block, source, places, numbers, limits)
        places, numbers, is_equal = places[wanted], numbers[wanted], is_equal[wanted]
        alike, at = np.unique(numbers, return_inverse=True)
        sets = source.part.sets(alike) if source else block.sets
        for place, number, spot, equal in zip(
            places.tolist(), numbers.tolist(), (at if source else numbers).tolist(), is_equal.tolist(), strict=True
        ):
            found[place].append(_Candidate(source, number, None if equal else sets.of(spot)))
    return found


def _meant(block: Block, sources: Sequence[Source], limits: Limits) -> dict[int, list[_Meant]]:
    """Return the rows that mean much the same as a row of the block, the earliest first."""
    found: dict[int, list[_Meant]] = defaultdict(list)
    if limits.meaning is None:
        return found
    from distillgen.steps.semantic import pairs_alike

    for source in (*sources, None):
        theirs = source.part.vectors if source else block.vectors
        places, numbers, cosines = pairs_alike(block.vectors, theirs, limits.meaning, _most(block))
        wanted = _are_compared(block, source, places, numbers, limits)
        if source is None:
            wanted &= numbers < places
        for place, number, cosine in zip(*(each[wanted].tolist() for each in (places, numbers, cosines)), strict=True):
            found[place].append(_Meant(source, number, cosine))
    return found


def _records(block: Block, source: Source | None) -> NDArray[np.void]:
    return source.part.records if source else block.records


def _are_compared(
    block: Block, source: Source | None, places: Numbers, numbers: Numbers, limits: Limits
) -> NDArray[np.bool_]:
    """Return for pairs of rows whether they are other than samples of one prompt."""
    if limits.compares_samples:
        return np.ones(len(places), np.bool_)
    mine, theirs = block.records[places], _records(block, source)[numbers]
    are_compared: NDArray[np.bool_] = mine["group"] != theirs["group"]
    are_compared |= (mine["group"] == 0) | (mine["sample"] == theirs["sample"])
    return are_compared


def _pairs(block: Block, source: Source | None) -> tuple[Numbers, Numbers]:
    """Return the pairs, sorted, of a row of the block and a row of the source (or an earlier one of the block)."""
    if source is None:
        left, right = pairs_within(block.entries, _most(block))
    else:
        left, right = source.part.segments.find(block.entries, _most(block))
    pairs = np.unique(left << ROW_BITS | right)
    return pairs >> ROW_BITS, pairs & int(ROW_MASK)


def _most(block: Block) -> int:
    """Return how many pairs may be held at once. A block of a single row cannot be cut."""
    return CROWD if len(block.names) > 1 else 1 << 62
