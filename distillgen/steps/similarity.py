"""How alike two texts are: word triples, their real Jaccard similarity, and MinHash sketches that find candidates."""

import functools
from typing import Any

import numpy as np
import regex
import xxhash
from numpy.typing import NDArray

from distillgen.steps.text import normalise

PERMUTATIONS = 128
SEED = 1
SHINGLE_WORDS = 3
RECALL_AT_THRESHOLD = 0.98
# Scripts that write no spaces are taken character by character.
_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\p{L}\p{N}\p{M}_]+")


def shingles(text: str) -> NDArray[np.uint64]:
    """Return the sorted 64-bit hashes of the text's word triples; of all its words when there are fewer."""
    words = _WORD.findall(normalise(text))
    size = min(SHINGLE_WORDS, max(len(words), 1))
    parts = {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}
    return np.fromiter(sorted(xxhash.xxh3_64_intdigest(part.encode()) for part in parts), np.uint64, len(parts))


def jaccard(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> float:
    """Return the share of shingles that two sorted sets have in common."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    union = len(left) + len(right) - shared
    return shared / union if union else 0.0


def bands_for(threshold: float) -> tuple[int, int]:
    """Return (bands, rows) that find a pair at the threshold with 98 % probability: 18 x 7 at 0.8, 25 x 5 at 0.7.

    The most rows that still do are taken, for few candidates; datasketch's own choice loses a fifth of the pairs.
    """
    for rows in range(PERMUTATIONS // 2, 0, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL_AT_THRESHOLD:
            return bands, rows
    return PERMUTATIONS, 1


class KeptTexts:
    """The texts kept so far: 8 bytes per shingle, and datasketch's index of their sketches."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self._threshold = threshold
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=bands_for(threshold))
        self._shingles: dict[str, NDArray[np.uint64]] = {}

    def nearest_or_keep(self, name: str, text: str) -> tuple[str, float] | None:
        """Return the name of the kept text that is most alike, and how much, if that reaches the threshold; else
        keep this text under its name."""
        mine = shingles(text)
        if not len(mine):
            return None
        sketch = sketch_of(mine)
        candidates = ((jaccard(mine, self._shingles[other]), other) for other in self._index.query(sketch))
        similarity, other = max(candidates, default=(0.0, ""))
        if similarity >= self._threshold:
            return other, similarity
        self._index.insert(name, sketch)
        self._shingles[name] = mine
        return None


@functools.cache
def _empty_sketch() -> Any:
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)


def sketch_of(hashes: NDArray[np.uint64]) -> Any:
    """Return datasketch's MinHash of shingle hashes. Its permutations are drawn once, which is most of its cost."""
    sketch = _empty_sketch().copy()
    sketch.update_batch((hashes & np.uint64(0xFFFFFFFF)).tolist())
    return sketch
