"""Which rows of a block are kept: each is compared with the rows that were kept before it, and with no others."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distillgen.steps.near_index import ROW_BITS, ROW_MASK, Block, Numbers, Part, pairs_within
from distillgen.steps.similarity import Hashes, jaccards

CROWD = 1 << 17  # pairs with a common key that are held at once; a block that has more is to be cut


class Source(NamedTuple):
    """Rows that were kept before, and what stands before their names in rejections."""

    part: Part
    prefix: str = ""


class Found(NamedTuple):
    """The kept row that another is like, and how much. `jaccard` is None when the two are equal."""

    name: str
    jaccard: float | None


class _Candidate(NamedTuple):
    """A row that another has a key in common with: of a source or, when that is None, of the block itself.

    `shingles` is None when the rows are equal.
    """

    source: Source | None
    number: int
    shingles: Hashes | None


def decide(
    block: Block, sources: Sequence[Source], near: float | None, *, compares_samples: bool
) -> list[Found | None]:  # fmt: skip
    """Return for each row of a block the kept row that it equals, or else is most like; None when it is kept itself.

    Of equally alike rows the earliest is named: the sources in their order, then the block's own. Raises Crowded when
    the block is to be cut.
    """
    candidates = _candidates(block, sources, near, compares_samples)
    decided: list[Found | None] = [None] * len(block.names)
    for place in sorted(candidates):  # a row of the block counts only if it is kept, so it must have been decided
        kept = [each for each in candidates[place] if each.source is not None or decided[each.number] is None]
        decided[place] = _nearest(block, place, kept, near)
    return decided


def _nearest(block: Block, place: int, candidates: Sequence[_Candidate], near: float | None) -> Found | None:
    """Return the first of the candidates that is equal, else the first of the most alike that reach the threshold."""
    alike = [each for each in candidates if each.shingles is not None]
    if len(alike) < len(candidates):
        return Found(_name(block, next(each for each in candidates if each.shingles is None)), None)
    if near is None or not alike:
        return None
    similarities = jaccards(block.sets.of(place), [each.shingles for each in alike if each.shingles is not None])
    most = max(similarities)
    return Found(_name(block, alike[similarities.index(most)]), most) if most >= near else None


def _name(block: Block, candidate: _Candidate) -> str:
    source, number, _ = candidate
    return block.names[number] if source is None else source.prefix + source.part.name(number)


def _candidates(
    block: Block, sources: Sequence[Source], near: float | None, compares_samples: bool
) -> dict[int, list[_Candidate]]:
    """Return the rows that a row of the block, known by its place, may be like, the earliest first."""
    most = CROWD if len(block.names) > 1 else 1 << 62
    found: dict[int, list[_Candidate]] = defaultdict(list)
    sizes = block.sets.ends - block.sets.starts
    for source in (*sources, None):
        places, numbers = _pairs(block, source, most)
        mine = block.records[places]
        theirs = (source.part.records if source else block.records)[numbers]
        is_equal = (mine["digest"] == theirs["digest"]).all(axis=1)
        wanted = is_equal.copy()
        if near is not None:  # two sets cannot share more than the smaller one has
            others = source.part.sizes(numbers) if source else sizes[numbers]
            least, largest = np.minimum(sizes[places], others), np.maximum(sizes[places], others)
            wanted |= least / np.maximum(largest, 1) >= near
        if not compares_samples:
            wanted &= (mine["group"] != theirs["group"]) | (mine["group"] == 0) | (mine["sample"] == theirs["sample"])
        places, numbers, is_equal = places[wanted], numbers[wanted], is_equal[wanted]
        alike, at = np.unique(numbers, return_inverse=True)
        sets = source.part.sets(alike) if source else block.sets
        for place, number, spot, equal in zip(
            places.tolist(), numbers.tolist(), (at if source else numbers).tolist(), is_equal.tolist(), strict=True
        ):
            found[place].append(_Candidate(source, number, None if equal else sets.of(spot)))
    return found


def _pairs(block: Block, source: Source | None, most: int) -> tuple[Numbers, Numbers]:
    """Return the pairs, sorted, of a row of the block and a row of the source (or an earlier one of the block)."""
    if source is None:
        left, right = pairs_within(block.entries, most)
    else:
        left, right = source.part.segments.find(block.entries, most)
    pairs = np.unique(left << ROW_BITS | right)
    return pairs >> ROW_BITS, pairs & int(ROW_MASK)
