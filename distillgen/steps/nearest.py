"""Which rows of a block are kept: each is compared with the rows that were kept before it, and with no others."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distillgen.steps.near_index import ROW_BITS, ROW_MASK, Block, Numbers, Part, pairs_within
from distillgen.steps.similarity import jaccards

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
    """A row that another equals or has a key in common with: of a source or, when that is None, of the block itself.

    How alike rows of the block are is None here: it is not found before it is known which of them are kept.
    """

    source: Source | None
    number: int
    is_equal: bool
    similarity: float | None = None


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
    equal = next((each for each in candidates if each.is_equal), None)
    if equal is not None:
        return Found(_name(block, equal))
    if near is None or not candidates:
        return None
    similarities = [each.similarity for each in candidates if each.similarity is not None]
    own = [block.sets.of(each.number) for each in candidates[len(similarities) :]]  # the block's stand last
    similarities += jaccards(block.sets.of(place), own)
    most = max(similarities)
    return Found(_name(block, candidates[similarities.index(most)]), "Jaccard", most) if most >= near else None


def _name(block: Block, candidate: _Candidate | _Meant) -> str:
    source, number = candidate.source, candidate.number
    return block.names[number] if source is None else source.prefix + source.part.name(number)


def _candidates(block: Block, sources: Sequence[Source], limits: Limits) -> dict[int, list[_Candidate]]:
    """Return the rows that a row of the block, known by its place, may be like, the earliest first.

    Of each source there is one at most, the nearest.
    """
    found: dict[int, list[_Candidate]] = defaultdict(list)
    for source in sources:
        for place, candidate in _nearest_of(block, source, *_alike(block, source, limits)):
            found[place].append(candidate)
    for place, number, is_equal in zip(*(each.tolist() for each in _alike(block, None, limits)), strict=True):
        found[place].append(_Candidate(None, number, is_equal))
    return found


def _alike(block: Block, source: Source | None, limits: Limits) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
    """Return the pairs of rows that are to be looked at more closely, sorted, and whether the two are equal."""
    places, numbers = _pairs(block, source)
    is_equal = (block.records["digest"][places] == _records(block, source)["digest"][numbers]).all(axis=1)
    wanted = is_equal.copy()
    if limits.near is not None:  # two sets cannot share more than the smaller one has
        sizes = block.sets.ends - block.sets.starts
        others = source.part.sizes(numbers) if source else sizes[numbers]
        least, largest = np.minimum(sizes[places], others), np.maximum(sizes[places], others)
        wanted |= least / np.maximum(largest, 1) >= limits.near
    wanted &= _are_compared(block, source, places, numbers, limits)
    return places[wanted], numbers[wanted], is_equal[wanted]


def _nearest_of(
    block: Block, source: Source, places: Numbers, numbers: Numbers, is_equal: NDArray[np.bool_]
) -> Iterator[tuple[int, _Candidate]]:
    """Yield, with the place of each row of the block, the first row of a source that equals it, else the first of the
    most alike. Shingles are held a piece at a time."""
    equal, first = np.unique(places[is_equal], return_index=True)
    for place, number in zip(equal.tolist(), numbers[is_equal][first].tolist(), strict=True):
        yield place, _Candidate(source, number, True, 1.0)
    unequal = ~np.isin(places, equal)
    places, numbers = places[unequal], numbers[unequal]
    alike, at = np.unique(numbers, return_inverse=True)
    nearest: dict[int, _Candidate] = {}
    for piece in source.part.in_pieces(alike):
        sets = source.part.sets(alike[piece])
        inside = (at >= piece.start) & (at < piece.stop)
        spots = zip(places[inside].tolist(), (at[inside] - piece.start).tolist(), strict=True)
        for place, group in groupby(spots, itemgetter(0)):
            theirs = [spot for _, spot in group]
            similarities = jaccards(block.sets.of(place), [sets.of(spot) for spot in theirs])
            most = max(similarities)
            if place not in nearest or most > (nearest[place].similarity or 0):
                number = int(alike[piece.start + theirs[similarities.index(most)]])
                nearest[place] = _Candidate(source, number, False, most)
    yield from nearest.items()


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
