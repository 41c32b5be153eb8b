"""What alike means: texts become sets of hashed word n-grams (shingles), compared by real Jaccard similarity, and
MinHash signatures whose bands lead to candidates.

Everything is done for many texts at once, in NumPy, because Python's own loop over words is what costs: the texts are
joined into one buffer, in which words are found and hashed eight bytes at a time. VERSION changes when hashes do.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import regex
import xxhash
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint64]

VERSION = 1  # of words, hashes and signatures; saved indexes of another one are of no use
PERMUTATIONS = 128
SEED = 1
SHINGLE_WORDS = 3
RECALL_AT_THRESHOLD = 0.98

CHUNK_CHARACTERS = 1 << 19  # joined at once: more falls out of the processor's cache
CHUNK_SHINGLES = 1 << 15
MANY = 8  # sets from which on comparing them together is faster
LONG_WORD = 64  # bytes; longer ones are rare and hashed one by one

# Scripts that write no spaces are taken character by character.
SPACELESS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_SPACELESS = regex.compile(SPACELESS)
_IN_WORD = regex.compile(r"[\p{L}\p{N}\p{M}_]")
# From a character beyond ASCII to the last such one before an ASCII letter: only that needs a closer look.
_FOREIGN = re.compile(r"[^\x00-\x7f](?:[^A-Za-z0-9]*[^\x00-\x7f])?")

_LETTERS = b"abcdefghijklmnopqrstuvwxyz"
_LOWER = bytes.maketrans(_LETTERS.upper(), _LETTERS)
_NO_WORD = bytes(each for each in range(128) if not chr(each).isalnum() and each != ord("_"))
_TO_WORDS = _LOWER.translate(bytes.maketrans(_NO_WORD, b" " * len(_NO_WORD)))
# 0xff, which no UTF-8 holds, ends a text.
_TO_LINES = _LOWER.translate(bytes.maketrans(b"\t\n\v\f\r\x1c\x1d\x1e\x1f\xff", b" " * 9 + b"\x1f"))

_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)


class ShingleSets(NamedTuple):
    """The shingles of several rows, row after row: each row's sorted, none twice. They stop at `ends[row]`."""

    hashes: Hashes
    ends: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each row's shingles begin."""
        return np.concatenate((self.ends[:1] * 0, self.ends[:-1]))

    def of(self, row: int) -> Hashes:
        """Return the shingles of one row."""
        return self.hashes[(self.ends[row - 1] if row else 0) : self.ends[row]]


class Fingerprints(NamedTuple):
    """What is compared of rows: xxh3_128 digests as two 64-bit numbers each, whether there is any text, shingles."""

    digests: Hashes
    has_text: NDArray[np.bool_]
    sets: ShingleSets


def fingerprints(texts: Sequence[str], *, columns: int = 1, words: int | None = SHINGLE_WORDS) -> Fingerprints:
    """Return the fingerprints of rows, each of which has as many of the texts as there are columns.

    A digest is that of the texts as `normalise` in text.py evens them out, joined by a byte 0x1f. Shingles are all runs
    of so many words, all words when there are fewer, none when `words` is None. A word is a run of letters, digits,
    marks and underscores, without regard to case and compatibility forms (NFKC).
    """
    lines: list[bytes] = []
    hashes: list[Hashes] = []
    ends = [np.zeros(1, np.int64)]
    for chunk in _chunks(texts, columns):
        folded = [_folded(text) for text in chunk]
        encoded = _encoded(folded)
        lines += _lines(encoded, columns)
        if words is not None:
            is_plain = all(map(str.isascii, folded))
            found = _sorted_sets(*_shingles(encoded if is_plain else _encoded(map(_spelled, folded)), columns, words))
            hashes.append(found.hashes)
            ends.append(ends[-1][-1] + found.ends)
    digests = b"".join(map(xxhash.xxh3_128_digest, lines))
    has_text = np.fromiter((bool(line.strip(b"\x1f")) for line in lines), np.bool_, len(lines))
    together = np.concatenate([np.empty(0, np.uint64), *hashes])
    all_ends = np.zeros(len(lines), np.int64) if words is None else np.concatenate(ends)[1:]
    return Fingerprints(
        np.frombuffer(digests, "<u8").reshape(-1, 2).astype(np.uint64), has_text, ShingleSets(together, all_ends)
    )


def jaccard(left: Hashes, right: Hashes) -> float:
    """Return the share of shingles that two sorted sets have in common."""
    both = np.concatenate((left, right))
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    union = len(both) - shared
    return shared / union if union else 0.0


def jaccards(one: Hashes, others: Sequence[Hashes]) -> list[float]:
    """Return how alike a sorted set is to each of several."""
    if len(others) < MANY or not len(one):
        return [jaccard(one, other) for other in others]
    sizes = np.fromiter(map(len, others), np.int64, len(others))
    together = np.concatenate(others)
    found = one[np.minimum(np.searchsorted(one, together), len(one) - 1)] == together
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(found)))
    ends = np.cumsum(sizes)
    shared = before[ends] - before[ends - sizes]
    similarities: list[float] = (shared / (len(one) + sizes - shared)).tolist()
    return similarities


def bands_for(threshold: float) -> tuple[int, int]:
    """Return (bands, rows) that find a pair at the threshold with 98 % probability: 18 x 7 at 0.8, 25 x 5 at 0.7.

    Pairs above it are found more surely still. The most rows that do are taken, for few candidates; datasketch's own
    choice, 9 x 13 at 0.8, loses a fifth of the pairs.
    """
    for rows in range(PERMUTATIONS // 2, 0, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL_AT_THRESHOLD:
            return bands, rows
    return PERMUTATIONS, 1


def signatures(sets: ShingleSets, permutations: int = PERMUTATIONS) -> NDArray[np.uint32]:
    """Return the MinHash signature of every row, shape (rows, permutations).

    The values are those of datasketch 2's `MinHash(num_perm=128, seed=1, hashfunc=int)`, scheme "affine32", fed with
    the low 32 bits of the shingles; of its 128 permutations the first ones.
    """
    result = np.full((permutations, len(sets.ends)), 0xFFFFFFFF, np.uint32)
    starts = sets.starts
    filled = np.flatnonzero(sets.ends > starts)
    hashes = _mix32(sets.hashes.astype(np.uint32))
    at = 0
    while at < len(filled):
        stop = np.searchsorted(sets.ends[filled], starts[filled[at]] + CHUNK_SHINGLES, side="right")
        some = filled[at : max(int(stop), at + 1)]
        begin = starts[some[0]]
        result[:, some] = _minima(hashes[begin : sets.ends[some[-1]]], starts[some] - begin, permutations)
        at += len(some)
    return result.T


def band_keys(signed: NDArray[np.uint32], bands: int, rows: int) -> Hashes:
    """Return a hash of every band of every signature, shape (signatures, bands); the band's number is part of it."""
    by_band = signed.T[: bands * rows].reshape(bands, rows, len(signed))
    keys = np.repeat(np.arange(1, bands + 1, dtype=np.uint64)[:, None], len(signed), axis=1)
    for place in range(rows):
        keys *= _STEP
        keys ^= by_band[:, place]
    return mix64(keys * _STEP).T


def mix64(values: Hashes) -> Hashes:
    """Return MurmurHash3's 64-bit finaliser of values: a bijection after which every bit depends on every other."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(33)
    return values


def _chunks(texts: Sequence[str], columns: int) -> Iterator[Sequence[str]]:
    """Cut texts, between rows, into runs of about as many characters as are best joined at once."""
    characters = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))[columns - 1 :: columns]
    start = 0
    while start < len(characters):
        before = characters[start - 1] if start else 0
        stop = max(int(np.searchsorted(characters, before + CHUNK_CHARACTERS, side="right")), start + 1)
        yield texts[start * columns : stop * columns]
        start = stop


def _folded(text: str) -> str:
    """Return a text without compatibility forms and case; the case of ASCII texts is left to a table of bytes."""
    if text.isascii():
        return text
    return re.sub(r"\s", " ", unicodedata.normalize("NFKC", text).casefold())


class _Spelling(dict[int, str]):
    """How a character is written in a text of words: as it is, alone between spaces, or as a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _SPACELESS.match(character):
            spelled = f" {character} "
        else:
            spelled = character if _IN_WORD.match(character) else " "
        self[code] = spelled
        return spelled


_SPELLING = _Spelling()


def _spelled(text: str) -> str:
    """Return a folded text in which only ASCII characters part words: white space, punctuation and the like."""
    return text if text.isascii() else _FOREIGN.sub(lambda found: found[0].translate(_SPELLING), text)


def _encoded(texts: Iterable[str]) -> list[bytes]:
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def _lines(texts: Sequence[bytes], columns: int) -> list[bytes]:
    """Return each row's folded texts in small letters, every run of white space a single space, 0x1f between them."""
    buffer = np.frombuffer(b"\xff".join([*texts, b""]).translate(_TO_LINES), np.uint8)
    is_space = buffer == ord(" ")
    is_kept = np.ones(len(buffer), np.bool_)
    np.logical_not(is_space[1:] & is_space[:-1], out=is_kept[1:])
    pieces = [piece.strip(b" ") for piece in buffer[is_kept].tobytes().split(b"\x1f")[:-1]]
    if columns == 1:
        return pieces
    return [b"\x1f".join(pieces[start : start + columns]) for start in range(0, len(pieces), columns)]


def _shingles(texts: Sequence[bytes], columns: int, size: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the shingles of every row in their order in the text, and how many each row has."""
    text_ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    starts, words = _words(b" ".join([*texts, b""]).translate(_TO_WORDS))
    return _runs(words, np.searchsorted(starts, text_ends[columns - 1 :: columns]), size)


def _words(text: bytes) -> tuple[NDArray[np.int64], Hashes]:
    """Return where every word of a text begins, and its hash. What parts words is a space."""
    padded = text + b" " * 8
    is_word = np.zeros(len(text) + 2, np.bool_)
    is_word[1:-1] = np.frombuffer(text, np.uint8) != ord(" ")
    edges = np.flatnonzero(is_word[1:] != is_word[:-1])
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    eight = np.ndarray((len(text) + 1,), np.dtype("<u8"), padded, strides=(1,))  # the 8 bytes from every place on
    hashes = mix64(eight[starts] & _FIRST_BYTES[np.minimum(lengths, 8)])
    for done in range(8, LONG_WORD, 8):
        longer = np.flatnonzero(lengths > done)
        if not len(longer):
            break
        more = eight[starts[longer] + done] & _FIRST_BYTES[np.minimum(lengths[longer] - done, 8)]
        hashes[longer] = mix64(hashes[longer] * _STEP ^ more)
    for word in np.flatnonzero(lengths > LONG_WORD).tolist():
        hashes[word] = xxhash.xxh3_64_intdigest(text[starts[word] : starts[word] + lengths[word]])
    return starts, hashes


def _runs(words: Hashes, ends: NDArray[np.int64], size: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of all runs of `size` words of every row (of all its words when it has fewer), and how many."""
    starts = np.concatenate((ends[:1] * 0, ends[:-1]))
    counts = ends - starts
    padded = np.concatenate((words, np.zeros(size - 1, np.uint64)))
    runs = _hash_of_run([padded[place : place + len(words)] for place in range(size)])
    is_start = np.ones(len(words), np.bool_)
    has_words = counts > 0
    for back in range(1, size):
        is_start[np.maximum(ends - back, starts)[has_words]] = False
    is_start[starts[has_words]] = True
    for few in range(1, size):
        short = starts[counts == few]
        runs[short] = _hash_of_run([words[short + place] for place in range(few)])
    return runs[is_start], np.maximum(counts - size + 1, np.minimum(counts, 1))


def _hash_of_run(words: Sequence[Hashes]) -> Hashes:
    total = np.full(len(words[0]), len(words), np.uint64)
    for each in words:
        total *= _STEP
        total += each
    return mix64(total)


def _sorted_sets(hashes: Hashes, counts: NDArray[np.int64]) -> ShingleSets:
    ends = np.cumsum(counts)
    for start, stop in pairwise([0, *ends.tolist()]):
        hashes[start:stop].sort()
    first = np.ones(len(hashes), np.bool_)
    np.not_equal(hashes[1:], hashes[:-1], out=first[1:])
    first[(ends - counts)[counts > 0]] = True  # equal to the last one of the row before
    before = np.zeros(len(hashes) + 1, np.int64)
    np.cumsum(first, out=before[1:])
    return ShingleSets(hashes[first], before[ends])


def _mix32(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return MurmurHash3's 32-bit finaliser, with which datasketch begins."""
    values = values ^ (values >> np.uint32(16))
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    return values


def _permutations() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the factors and terms of the permutations, drawn as datasketch draws them."""
    draw = np.random.RandomState(SEED)
    factors = draw.randint(0, 1 << 31, PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, draw.randint(0, 1 << 32, PERMUTATIONS, dtype=np.uint32)


_FACTORS, _TERMS = _permutations()


def _minima(hashes: NDArray[np.uint32], starts: NDArray[np.int64], permutations: int) -> NDArray[np.uint32]:
    """Return the least value of every permutation (first axis) among the hashes of every row."""
    result = np.empty((permutations, len(starts)), np.uint32)
    together = max(CHUNK_SHINGLES // len(hashes), 1)  # several at once, if there are few hashes
    permuted = np.empty((min(together, permutations), len(hashes)), np.uint32)
    for start in range(0, permutations, together):
        some = slice(start, min(start + together, permutations))
        into = permuted[: some.stop - start]
        np.multiply(hashes, _FACTORS[some, None], out=into)
        np.add(into, _TERMS[some, None], out=into)
        np.minimum.reduceat(into, starts, axis=1, out=result[some])
    return result
