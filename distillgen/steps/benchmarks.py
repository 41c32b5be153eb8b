"""Benchmark files read into items, and the table of their word n-grams by which a copy of an item is found in a text.

The rule: stock phrases, n-grams that are in more than `stock` texts of the benchmarks, are cut out of these texts. Of
the words in the n-grams that are left, the share that lies in n-grams which another text has too is the coverage. A
text of fewer words than an n-gram is a single one. N-grams are compared by 64-bit hashes.

The table takes some 140 bytes per n-gram of the benchmarks, and nothing for the texts that are looked at.
"""

import bisect
import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from distillgen.errors import Problem, SeedsInvalid, SeedsMissing, UsageError, nearest
from distillgen.files import dumps
from distillgen.seeds import read_rows
from distillgen.steps.similarity import SPACELESS
from distillgen.steps.text import normalise

MIN_WORDS = 5  # of a text: shorter ones ("42", "all of the above") cannot be told from chance
ID_COLUMNS = ("id", "task_id", "question_id", "item_id", "unique_id")  # as benchmarks call them
_READABLE = "is a file whose name ends in .jsonl, .csv, .parquet or .txt (also .gz, .zst)"
_ROOM = 8  # places of the filter per hash in it, or up to twice as many: one in so many of the others passes it

_PLAIN = bytes(code if code < 128 and (chr(code).isalnum() or code == ord("_")) else ord(" ") for code in range(256))
_TYPOGRAPHY = re.compile("[‘’“”„–—…•·«»×÷°€£→\u00a0]")  # no words, nor parts of words, after NFKC
# As near-duplicates are compared: scripts that write no spaces are taken character by character.
_WORD = regex.compile(rf"{SPACELESS}|[\p{{L}}\p{{N}}\p{{M}}_]+")


def words_of(text: str) -> list[bytes]:
    """Return the words of a text in NFKC and without case, as UTF-8; whatever stands between them is left out."""
    plain = text if text.isascii() else _TYPOGRAPHY.sub(" ", text)  # ’ and — are often all that is not ASCII
    if plain.isascii():
        return plain.encode().lower().translate(_PLAIN).split()
    return [word.encode() for word in _WORD.findall(normalise(text))]


def plain_text(value: Any) -> str:
    """Return a column as the text that is compared: the strings within lists and objects are taken as they are, so
    that no JSON escape hides a word; numbers are written as in JSON."""
    if isinstance(value, str):
        return value
    parts: list[str] = []
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, dict | list):
            left.extend(reversed(list(value.values()) if isinstance(value, dict) else value))
        elif value is not None:
            parts.append(dumps(value))
    return "\n".join(parts)


def texts_of(columns: Mapping[str, Any], wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the texts of the wanted columns that are there, each with its column; of all but numbers if none is."""
    for column in wanted or columns:
        value = columns.get(column)
        if wanted or isinstance(value, str | list | dict):
            yield column, plain_text(value)


class Item(NamedTuple):
    """One task of a benchmark: its id, else the number of its line or row, and its columns that hold text."""

    benchmark: str
    name: str
    texts: tuple[tuple[str, str], ...]


def read_benchmark(path: Path, columns: Sequence[str] = (), *, name: str | None = None) -> Iterator[Item]:
    """Yield the items of a JSONL, CSV, Parquet or text file; no columns means all that hold text.

    An item without any text comes with no texts. Raises UsageError for a file that is missing or holds no text, a line
    that cannot be read, and a column that no item has.
    """
    name = name or path.name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[0]
    seen: dict[str, None] = {}
    count = 0
    if not path.exists():
        raise UsageError("no such benchmark", where=str(path), fix="check the path: it is relative to the recipe")
    for place, row in rows_of(path, "a benchmark"):
        seen.update(dict.fromkeys(row))
        texts = tuple((column, text) for column, text in texts_of(row, columns) if text.strip())
        count += bool(texts)
        yield Item(name, _item_name(place, row), texts)
    for column in columns:
        if seen and column not in seen:
            raise UsageError(f"no item has a column {column!r}", where=str(path), fix=nearest(column, seen))
    if not count:
        what = "not a single text in this benchmark" if seen else "an empty benchmark"
        raise UsageError(what, where=str(path), fix="name a file with one item a line, and the columns that hold texts")


def rows_of(path: Path, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a file of some kind ("a benchmark"), each with its place. Raises UsageError for what cannot be
    read."""
    try:
        for place, found in read_rows(path):
            if isinstance(found, Problem):
                raise UsageError(found.what, where=found.where or place, fix="mend that line, or take it out")
            yield place, found
    except (SeedsMissing, SeedsInvalid) as error:  # the reader is that of seeds; these are none
        problems = [Problem(each.what, each.where, f"{kind} {_READABLE}") for each in error.problems]
        raise UsageError(str(error), problems=problems) from None


def _item_name(place: str, row: Mapping[str, Any]) -> str:
    for column in ID_COLUMNS:
        value = row.get(column)
        if isinstance(value, int) or (isinstance(value, str) and value.strip()):
            return repr(value)[:80]
    return place.rpartition(":")[2].removeprefix(" row ")


class Overlap(NamedTuple):
    """How much of a benchmark's text is in another text: the share of its words that count, and by which n-grams."""

    coverage: float
    number: int  # of the benchmark's text, counted from the first
    grams: frozenset[int]  # hashes of those that are shared


class Probe(NamedTuple):
    """How n-grams of some sizes (in words) are found fast in a text.

    An n-gram of n words that is shared makes each k-gram in it shared, and one of them starts at a multiple of
    n - k + 1. So only those of a text are looked up, and n-grams only around those that are known.
    """

    sizes: tuple[int, ...]
    anchor: int
    stride: int


class Source(NamedTuple):
    """Where a text of a benchmark comes from."""

    benchmark: str
    item: str
    column: str


@dataclass(frozen=True, eq=False)
class Benchmarks:
    """The hashes of the n-grams of benchmarks, stock phrases left out, and where in their texts each is."""

    sources: Sequence[Source]
    counts: Mapping[str, Counter[str]]  # per benchmark: items, of these empty; texts, of these short, stock
    _starts: NDArray[np.int64]  # of the texts in the words of all, one behind the other, and the end
    _sizes: NDArray[np.int64]  # words of an n-gram, for each text
    _own: NDArray[np.int64]  # how many of the words before a position are in an n-gram that counts
    _hashes: NDArray[np.uint64]  # of the n-grams, sorted
    _firsts: NDArray[np.int64]  # where the positions of each begin, and one more
    _positions: NDArray[np.int64]
    _probes: Sequence[Probe]
    _filter: bytearray  # 1 where the hash of an n-gram or of an anchor falls

    @classmethod
    def build(cls, items: Iterable[Item], *, words: int = 8, stock: int = 10) -> "Benchmarks":
        """Return the table of n-grams of so many words, without those in more than `stock` texts.

        They are counted over the benchmarks and not over the rows, so that the verdict on a row depends on that row
        alone. Raises UsageError when a benchmark has no text that can be checked.
        """
        reading = _Reading(words)
        for item in items:
            reading.add(item)
        return reading.table(stock)

    def overlap(self, text: str) -> Overlap | None:
        """Return the benchmark's text that is covered most, the first of equal ones; None when nothing is shared."""
        grams = self._shared(words_of(text))
        return self._most_covered(list(grams)) if grams else None

    def longest_run(self, text: str, overlap: Overlap) -> str:
        """Return the longest stretch of a text, as words, in which every n-gram is one of those in an overlap."""
        words, size = words_of(text), int(self._sizes[overlap.number])
        length = longest = last = 0
        for start, hashed in enumerate(_hashes(words, size)):
            length = length + 1 if hashed in overlap.grams else 0
            if length > longest:
                longest, last = length, start
        return b" ".join(words[last + 1 - longest : last + size]).decode()

    def warnings(self) -> list[Problem]:
        """Say which texts of the benchmarks are not checked, and why."""
        return [problem for name, count in self.counts.items() for problem in _unchecked(name, count)]

    def _shared(self, words: list[bytes]) -> set[int]:
        """Return which n-grams of the table a text has, by their places in it."""
        known, mask, hashes = self._filter, len(self._filter) - 1, self._hashes.data
        grams = set()
        for sizes, anchor, stride in self._probes:
            for hit in [
                start
                for start in range(0, len(words) - anchor + 1, stride)
                if known[xxh3_64_intdigest(b" ".join(words[start : start + anchor])) & mask]
            ]:
                for size in sizes:
                    for start in range(max(hit - stride + 1, 0), min(hit, len(words) - size) + 1):
                        hashed = xxh3_64_intdigest(b" ".join(words[start : start + size]))
                        if known[hashed & mask]:
                            place = bisect.bisect_left(hashes, hashed)
                            if place < len(hashes) and hashes[place] == hashed:
                                grams.add(place)
        return grams

    def _most_covered(self, grams: Sequence[int]) -> Overlap:
        spans = [self._positions[self._firsts[gram] : self._firsts[gram + 1]] for gram in grams]
        owners, starts = np.repeat(grams, [len(span) for span in spans]), np.concatenate(spans)
        order = np.argsort(starts)
        owners, starts = owners[order], starts[order]
        texts = np.searchsorted(self._starts, starts, side="right") - 1
        nexts = np.append(starts[1:], self._starts[-1])
        covered = self._own[np.minimum(starts + self._sizes[texts], nexts)] - self._own[starts]
        numbers, begins = np.unique(texts, return_index=True)
        whole = self._own[self._starts[numbers + 1]] - self._own[self._starts[numbers]]
        shares = np.add.reduceat(covered, begins) / whole
        best = int(np.argmax(shares))
        mine = self._hashes[owners[texts == numbers[best]]]
        return Overlap(float(shares[best]), int(numbers[best]), frozenset(mine.tolist()))


class _Grams(NamedTuple):
    """N-grams in columns: hash, number of the text, position of the first word, how many words."""

    hashes: NDArray[np.uint64]
    texts: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def only(self, which: NDArray[Any]) -> "_Grams":
        """Return some of them: those marked, or those at the places given."""
        return _Grams(*(column[which] for column in self))


class _Reading:
    """Texts on their way into a table of n-grams of `size` words."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._words: list[bytes] = []  # of all texts, one behind the other
        self._spelled: dict[bytes, bytes] = {}  # each word once, so that it is kept only once
        self._ends, self._hashes = array("q"), array("Q")
        self._sources: list[Source] = []
        self._counts: dict[str, Counter[str]] = {}
        self._known: dict[bytes, int] = {}  # different texts, by digest
        self._read: dict[str, array[int]] = {}  # which of them each benchmark has

    def add(self, item: Item) -> None:
        """Take in the texts of an item that are long enough; of one that was there before, that it is there again."""
        count = self._counts.setdefault(item.benchmark, Counter())
        read = self._read.setdefault(item.benchmark, array("q"))
        count.update(items=1, empty=not item.texts, texts=len(item.texts))
        for column, text in item.texts:
            words = words_of(text)
            if len(words) < MIN_WORDS:
                count["short"] += 1
                continue
            read.append(self._known.setdefault(xxh3_128_digest(b" ".join(words)), len(self._known)))
            if read[-1] < len(self._sources):
                continue
            self._words += [self._spelled.setdefault(word, word) for word in words]
            self._ends.append(len(self._words))
            self._sources.append(Source(item.benchmark, item.name, column))
            self._hashes.extend(_hashes(words, min(self._size, len(words))))

    def table(self, stock: int) -> Benchmarks:
        """Return the table of what was taken in. Raises UsageError when a benchmark has nothing that can be checked."""
        starts = np.concatenate([[0], np.array(self._ends, np.int64)])
        lengths = np.diff(starts)
        sizes = np.minimum(lengths, self._size)
        numbers = lengths - sizes + 1
        texts = np.repeat(np.arange(len(lengths)), numbers)
        places = np.arange(len(texts)) + np.repeat(starts[:-1] - (np.cumsum(numbers) - numbers), numbers)
        grams = _Grams(np.array(self._hashes, np.uint64), texts, places, sizes[texts])
        grams = self._without_stock(grams, stock)
        own = _counted(_covered(grams.starts, grams.sizes, len(self._words)))
        self._account(own[starts[1:]] > own[starts[:-1]])
        grams = grams.only(np.argsort(grams.hashes, kind="stable"))
        hashes, firsts = np.unique(grams.hashes, return_index=True)
        probes = _probes(np.unique(grams.sizes).tolist(), self._size)
        anchors = np.fromiter(self._anchors(grams, probes), np.uint64)
        return Benchmarks(
            self._sources, self._counts, starts, sizes, own, hashes, np.append(firsts, len(grams.starts)), grams.starts,
            probes, _filter_of(hashes, anchors),
        )  # fmt: skip

    def _without_stock(self, grams: _Grams, most: int) -> _Grams:
        """Return the n-grams that hold no word of a stock phrase: one that is in more than so many texts."""
        if not len(grams.hashes):
            return grams
        more_hashes, more_texts = self._short_within(grams)
        hashes, texts = np.append(grams.hashes, more_hashes), np.append(grams.texts, more_texts)
        order = np.lexsort((texts, hashes))
        hashes, texts = hashes[order], texts[order]
        is_new = np.append(True, hashes[1:] != hashes[:-1])
        is_another = is_new | np.append(True, texts[1:] != texts[:-1])
        times = np.add.reduceat(self._times()[texts] * is_another, np.flatnonzero(is_new))
        is_stock = times[np.searchsorted(hashes[is_new], grams.hashes)] > most
        stock = grams.only(is_stock)
        before = _counted(_covered(stock.starts, stock.sizes, len(self._words)))
        return grams.only(before[grams.starts + grams.sizes] == before[grams.starts])

    def _short_within(self, grams: _Grams) -> tuple[Sequence[int], Sequence[int]]:
        """Return the n-grams that are whole short texts once more, with each longer text that holds them."""
        is_short = grams.sizes < self._size
        short: dict[int, set[int]] = {}
        for hashed, size in zip(grams.hashes[is_short].tolist(), grams.sizes[is_short].tolist(), strict=True):
            short.setdefault(size, set()).add(hashed)
        hashes, texts = array("Q"), array("q")
        for number, (start, end) in enumerate(itertools.pairwise([0, *self._ends]) if short else ()):
            for size, known in short.items():
                if size < end - start:
                    hashes.extend(known.intersection(_hashes(self._words[start:end], size)))
                    texts.extend([number] * (len(hashes) - len(texts)))
        return hashes, texts

    def _anchors(self, grams: _Grams, probes: Iterable[Probe]) -> Iterator[int]:
        """Yield the hashes by which each probe finds its n-grams."""
        for probe in probes:
            mine = grams.only(np.isin(grams.sizes, probe.sizes))
            places = np.flatnonzero(_covered(mine.starts, mine.sizes - probe.anchor + 1, len(self._words)))
            for place in places.tolist():
                yield xxh3_64_intdigest(b" ".join(self._words[place : place + probe.anchor]))

    def _times(self) -> NDArray[np.int64]:
        """Return how often each text was read."""
        return np.bincount(np.concatenate([*map(np.array, self._read.values())]), minlength=len(self._sources))

    def _account(self, is_checked: NDArray[np.bool_]) -> None:
        """Count the texts of which stock phrases leave nothing. Raises UsageError when a benchmark has no other."""
        for name, read in self._read.items():
            count = self._counts[name]
            count["stock"] = int(np.count_nonzero(~is_checked[np.array(read, np.int64)]))
            if count["short"] + count["stock"] == count["texts"]:
                problems = [Problem("no text that can be checked", f"benchmark {name!r}"), *_unchecked(name, count)]
                raise UsageError(problems[0].what, problems=problems)


def _hashes(words: Sequence[bytes], size: int) -> Iterator[int]:
    """Yield the 64-bit hashes of the n-grams of a text, in order."""
    return (xxh3_64_intdigest(b" ".join(words[start : start + size])) for start in range(len(words) - size + 1))


def _probes(sizes: Iterable[int], most: int) -> list[Probe]:
    """Return how to find n-grams of these sizes: those of `most` words, which are the many, and the shorter apart."""
    probes = []
    for group in ([size for size in sizes if size == most], [size for size in sizes if size < most]):
        if group:
            anchor = (min(group) + 1) // 2
            probes.append(Probe(tuple(group), anchor, min(group) - anchor + 1))
    return probes


def _covered(starts: NDArray[np.int64], lengths: NDArray[np.int64], total: int) -> NDArray[np.bool_]:
    """Say of each of so many places whether it lies in one of the stretches."""
    steps = np.bincount(starts, minlength=total + 1) - np.bincount(starts + lengths, minlength=total + 1)
    return np.cumsum(steps[:total]) > 0


def _counted(places: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many of the places before each are marked, and before the end."""
    return np.concatenate([[0], np.cumsum(places)])


def _filter_of(*hashes: NDArray[np.uint64]) -> bytearray:
    """Return one byte per place, 1 where one of the hashes falls; the number of places is a power of two."""
    places = 1 << (_ROOM * sum(map(len, hashes))).bit_length()
    filled = bytearray(places)
    view = np.frombuffer(filled, np.uint8)
    for each in hashes:
        view[each & np.uint64(places - 1)] = 1
    return filled


def _unchecked(name: str, count: Counter[str]) -> Iterator[Problem]:
    where = f"benchmark {name!r}"
    if count["empty"]:
        yield Problem(f"{count['empty']:,} of {count['items']:,} items hold no text and are skipped", where)
    if count["short"]:
        what = f"{count['short']:,} of {count['texts']:,} texts have fewer than {MIN_WORDS} words and are not checked"
        yield Problem(what, where, "they cannot be told from chance")
    if count["stock"]:
        what = f"{count['stock']:,} of {count['texts']:,} texts are stock phrases and are not checked"
        yield Problem(what, where, "raise `stock` if many of its texts have most of their words in common")
