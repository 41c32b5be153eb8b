"""The step `deduplicate`: exact duplicates by digest, near-duplicates by MinHash and then by real Jaccard.

Keeps per row 16 bytes for the exact test, and for the near one its shingles (8 bytes each) and its bands.
"""

import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import regex
import xxhash
from numpy.typing import NDArray

from distillgen.rows import Outcome, Rejection, Row
from distillgen.steps.rules import text_of

PERMUTATIONS = 128
SEED = 1
SHINGLE_WORDS = 3
RECALL_AT_THRESHOLD = 0.98
# Scripts that write no spaces are taken character by character.
_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\p{L}\p{N}\p{M}_]+")


def normalise(text: str) -> str:
    """Return the text as it is compared: compatibility forms, case and white space evened out."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


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


class Deduplicate:
    """A stream step: a row is kept unless it equals, or nearly equals, an earlier kept row, which is then named."""

    is_stream = True

    def __init__(self, name: str, columns: Sequence[str], near: float | None) -> None:
        self.name = name
        self._columns, self._near = tuple(columns), near
        self._exact: dict[bytes, str] = {}
        self._kept: dict[str, NDArray[np.uint64]] = {}
        self._lsh: Any = None

    def __call__(self, row: Row) -> Outcome:
        """Return the row, or the rejection that names the earlier row and the similarity."""
        text = "\x1f".join(text_of(row, column) for column in self._columns)
        exact = xxhash.xxh3_128_digest(normalise(text).encode())
        if (first := self._exact.get(exact)) is not None:
            return Rejection(row, self.name, "exact_duplicate", f"of {first}")
        if self._near is not None and (found := self._nearest(row.id, text)):
            return Rejection(row, self.name, "near_duplicate", f"of {found[0]}, Jaccard {found[1]:.3f}")
        self._exact[exact] = row.id
        return row.passed({"step": self.name})

    def _nearest(self, row_id: str, text: str) -> tuple[str, float] | None:
        """Return the earlier kept row that is most alike, if it reaches the threshold; else remember this one."""
        mine = shingles(text)
        if not len(mine):
            return None
        if self._lsh is None:
            from datasketch import MinHashLSH

            self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=bands_for(self._near or 1.0))
        sketch = _sketch(mine)
        candidates = ((jaccard(mine, self._kept[other]), other) for other in self._lsh.query(sketch))
        similarity, other = max(candidates, key=lambda pair: (pair[0], pair[1]), default=(0.0, ""))
        if similarity >= (self._near or 1.0):
            return other, similarity
        self._lsh.insert(row_id, sketch)
        self._kept[row_id] = mine
        return None


@functools.cache
def _empty_sketch() -> Any:
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)


def _sketch(hashes: NDArray[np.uint64]) -> Any:
    """Return datasketch's MinHash of shingle hashes. Its permutations are drawn once, which is most of its cost."""
    sketch = _empty_sketch().copy()
    sketch.update_batch((hashes & np.uint64(0xFFFFFFFF)).tolist())
    return sketch
