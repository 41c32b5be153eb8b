"""The index of kept rows: sorted band segments that merge, with the rows' shingles and names in files beside them.

A row has an entry for each of its band keys and one for the digest of its whole text: 35 bits of the key and, below
them, the row's number. Segments are sorted arrays of entries; two of like size become one, so there are few. Most of
the keys looked for are in none of them, which a bitmap, the filter, knows without a search. Whatever is found is a
candidate, no more. Memory a row: 152 bytes of entries (18 bands), 19 to 38 of filter, 48 of record.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from distillgen.errors import Damaged, DistillgenError
from distillgen.files import disk_errors
from distillgen.steps.known import IndexSettings, Known
from distillgen.steps.similarity import Hashes, ShingleSets, band_keys, fingerprints, signatures

Entries: TypeAlias = NDArray[np.uint64]
Numbers: TypeAlias = NDArray[np.int64]

KEY_BITS = 35
ROW_BITS = 64 - KEY_BITS
ROW_MASK = np.uint64((1 << ROW_BITS) - 1)
KEY_MASK = ~ROW_MASK
SLOTS = 8  # of the filter for an entry, at least: one key in eight that is not there passes, at most
BLOCK_ROWS = 4096
GAP = 512  # shingles that are read in vain rather than read twice
PIECE_SHINGLES = 1 << 22  # of kept rows that are held at once, unless a single row has more
READ_BYTES = 1 << 26  # at once: the system itself stops before two gigabytes
BLOCK_CHARACTERS = 1 << 23

# What is held of every kept row. `check` is the low half of the sum of its shingles.
RECORD = np.dtype(
    [
        ("digest", "<u8", 2), ("group", "<u8"), ("sample", "<u4"), ("check", "<u4"),
        ("shingles_end", "<u8"), ("name_end", "<u8"),
    ]
)  # fmt: skip


class Crowded(Exception):
    """A block has more candidates than are good to hold at once."""


class Block(NamedTuple):
    """Rows that are compared. The entries, sorted, hold their places in the block; unwanted vectors are empty."""

    names: Sequence[str]
    records: NDArray[np.void]
    has_text: NDArray[np.bool_]
    sets: ShingleSets
    entries: Entries
    vectors: NDArray[np.int8]

    def mark(self, place: int) -> bytes:
        """Return the mark of a row, as `Part.marks` yields it."""
        return _mark(self.names[place], self.records["digest"][place], self.vectors[place])

    def cut(self, start: int, stop: int) -> "Block":
        """Return the block of some of the rows."""
        first = int(self.sets.starts[start])
        sets = ShingleSets(self.sets.hashes[first : self.sets.ends[stop - 1]], self.sets.ends[start:stop] - first)
        places = (self.entries & ROW_MASK).astype(np.int64)
        chosen = (places >= start) & (places < stop)
        entries = entries_of(self.entries[chosen], places[chosen] - start)
        some = slice(start, stop)
        return Block(self.names[some], self.records[some], self.has_text[some], sets, entries, self.vectors[some])


def block_of(known: Sequence[Known], settings: IndexSettings) -> Block:
    """Return all that the comparison needs to know of rows. Rows without any text have no entries."""
    texts = [text for each in known for text in each.texts]
    columns = len(known[0].texts)
    prints = fingerprints(texts, columns=columns, words=settings.words)
    records = np.zeros(len(known), RECORD)
    records["digest"] = prints.digests
    records["group"] = [each.group.of for each in known]
    records["sample"] = [each.group.sample for each in known]
    places = np.flatnonzero(prints.has_text)
    entries = [entries_of(prints.digests[places, 0], places)]
    if settings.words is not None:
        places = np.flatnonzero(prints.sets.ends > prints.sets.starts)
        signed = signatures(prints.sets, settings.bands * settings.band_rows)[places]
        keys = band_keys(signed, settings.bands, settings.band_rows)
        entries.append(entries_of(keys, places[:, None]).ravel())
    together = np.concatenate(entries)
    together.sort()
    vectors = _vectors(known, settings)
    return Block([each.name for each in known], records, prints.has_text, prints.sets, together, vectors)


def _vectors(known: Sequence[Known], settings: IndexSettings) -> NDArray[np.int8]:
    if settings.embedding is None:
        return np.empty((len(known), 0), np.int8)
    from distillgen.steps.semantic import embed

    return embed(["\n".join(each.texts) for each in known])


def _mark(name: str, digest: Hashes, vector: NDArray[np.int8]) -> bytes:
    return xxhash.xxh3_128_digest(name.encode("utf-8", "surrogatepass") + digest.tobytes() + vector.tobytes())


def in_blocks(known: Iterable[Known]) -> Iterator[list[Known]]:
    """Cut rows into blocks that are small enough for memory, whatever the length of their texts."""
    block: list[Known] = []
    characters = 0
    for each in known:
        block.append(each)
        characters += sum(map(len, each.texts))
        if len(block) >= BLOCK_ROWS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def entries_of(keys: Hashes, rows: Numbers) -> Entries:
    """Return the entries of some keys, each with the number of its row."""
    return (keys & KEY_MASK) | rows.astype(np.uint64)


class Filter:
    """Which keys may be there: a bit for the first bits of each."""

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self.bits = bits
        self._shift = np.uint64(64 - (len(bits) * 8 - 1).bit_length())

    @classmethod
    def of(cls, segments: Sequence[Entries], room: int) -> "Filter":
        """Return the filter of some segments, large enough for as many entries as `room`."""
        made = cls(np.zeros(1 << max((room * SLOTS - 1).bit_length() - 3, 0), np.uint8))
        for segment in segments:
            for start in range(0, len(segment), 1 << 20):
                made.add(segment[start : start + (1 << 20)])
        return made

    def add(self, entries: Entries) -> None:
        """Take in sorted entries, at least one."""
        slots = entries >> self._shift
        places = (slots >> np.uint64(3)).astype(np.int64)
        bits = np.left_shift(np.uint8(1), (slots & np.uint64(7)).astype(np.uint8))
        first = np.flatnonzero(np.concatenate(([True], places[1:] != places[:-1])))
        self.bits[places[first]] |= np.bitwise_or.reduceat(bits, first)

    def passed(self, entries: Entries) -> Numbers:
        """Return the places of those whose keys may be there."""
        slots = entries >> self._shift
        bits = self.bits[(slots >> np.uint64(3)).astype(np.int64)]
        return np.flatnonzero((bits >> (slots & np.uint64(7)).astype(np.uint8)) & np.uint8(1))


class Segments:
    """Sorted entries in a few arrays, and the filter of them all."""

    def __init__(self, segments: Sequence[Entries] = (), seen: Filter | None = None) -> None:
        self._segments = [segment for segment in segments if len(segment)]
        self._filter = seen or Filter.of(self._segments, len(self))

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    def add(self, entries: Entries) -> None:
        """Take in sorted entries. A segment is merged into the one before it unless it is much the smaller."""
        if not len(entries):
            return
        self._segments.append(entries)
        while len(self._segments) > 1 and 2 * len(self._segments[-1]) > len(self._segments[-2]):
            last = self._segments.pop()
            self._segments[-1] = _merged([self._segments[-1], last])
        if len(self) * SLOTS > len(self._filter.bits) * 8:
            self._filter = Filter.of(self._segments, len(self))
        else:
            self._filter.add(entries)

    def find(self, wanted: Entries, most: int) -> tuple[Numbers, Numbers]:
        """Return pairs of what has the same key: rows of the sorted `wanted`, and rows here. Raises Crowded."""
        wanted = wanted[self._filter.passed(wanted)]
        keys = wanted & KEY_MASK
        found: list[tuple[Entries, Entries, Numbers, Numbers]] = []
        for segment in self._segments:
            starts = np.searchsorted(segment, keys)
            hits = np.flatnonzero((segment[np.minimum(starts, len(segment) - 1)] & KEY_MASK) == keys)
            starts = starts[hits]
            counts = np.searchsorted(segment, keys[hits] | ROW_MASK, side="right") - starts
            found.append((segment, wanted[hits], starts, counts))
        if sum(int(counts.sum()) for *_, counts in found) > most:
            raise Crowded
        pairs = [
            (np.repeat(rows & ROW_MASK, counts), segment[_ranges(starts, counts)] & ROW_MASK)
            for segment, rows, starts, counts in found
            if len(rows)
        ]
        left = np.concatenate([np.empty(0, np.int64), *(each.astype(np.int64) for each, _ in pairs)])
        return left, np.concatenate([np.empty(0, np.int64), *(each.astype(np.int64) for _, each in pairs)])

    def merged(self) -> Entries:
        """Return all entries, sorted."""
        return _merged(self._segments)


def pairs_within(entries: Entries, most: int) -> tuple[Numbers, Numbers]:
    """Return pairs of rows of a block that have a key in common, the earlier one second. Raises Crowded."""
    keys = entries & KEY_MASK
    is_first = np.concatenate((np.ones(1, np.bool_), keys[1:] != keys[:-1]))[: len(keys)]
    starts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    counts = np.arange(len(keys)) - starts  # those with the same key that stand before it are earlier rows
    later = np.flatnonzero(counts)
    if int(counts.sum()) > most:
        raise Crowded
    rows = (entries & ROW_MASK).astype(np.int64)
    return np.repeat(rows[later], counts[later]), rows[_ranges(starts[later], counts[later])]


def _merged(segments: Sequence[Entries]) -> Entries:
    if len(segments) == 1:
        return segments[0]
    together = np.concatenate([np.empty(0, np.uint64), *segments])
    together.sort(kind="stable")  # which sees that there are sorted runs, and merges them
    return together


def _ranges(starts: Numbers, counts: Numbers) -> Numbers:
    """Return the numbers of all ranges, one range after the other."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(int(ends[-1]) if len(ends) else 0)


def _checks(sets: ShingleSets) -> NDArray[np.uint32]:
    """Return the low half of the sum of each row's shingles."""
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(sets.hashes, dtype=np.uint64)))
    return (sums[sets.ends] - sums[sets.starts]).astype(np.uint32)


def dimensions_of(settings: IndexSettings) -> int:
    """Return how many numbers a row's vector has, none if meaning does not count."""
    if settings.embedding is None:
        return 0
    from distillgen.steps.semantic import DIMENSIONS

    return DIMENSIONS


def _read(handle: int, start: int, count: int) -> Iterator[bytes]:
    """Yield so many bytes of a file, fewer at its end; the system may give less than it is asked for."""
    while count and (part := os.pread(handle, min(count, READ_BYTES), start)):
        yield part
        start, count = start + len(part), count - len(part)


class _Growing:
    """An array that rows can be added to."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self._array, self._count = rows, len(rows)

    @property
    def rows(self) -> NDArray[Any]:
        """What was added so far."""
        return self._array[: self._count]

    def add(self, rows: NDArray[Any]) -> None:
        """Take in more rows."""
        needed = self._count + len(rows)
        if needed > len(self._array):
            larger = np.empty((max(needed, len(self._array) * 3 // 2, 1024), *rows.shape[1:]), self._array.dtype)
            larger[: self._count] = self.rows
            self._array = larger
        self._array[self._count : needed] = rows
        self._count = needed


class Part:
    """Kept rows, numbered from 0 in the order in which they were kept: all those of a run, or some of a saved index."""

    def __init__(
        self, segments: Segments, records: NDArray[np.void], vectors: NDArray[np.int8], shingles: IO[bytes],
        names: IO[bytes],
    ) -> None:  # fmt: skip
        self.segments = segments
        self._records, self._vectors = _Growing(records), _Growing(vectors)
        self.shingles_file, self.names_file = shingles, names

    @classmethod
    def empty(cls, spool: Path | None, dimensions: int = 0) -> "Part":
        """Return a part that rows can be added to. Its files have no names: they end with it, or with the process."""
        folder = spool or Path(tempfile.gettempdir())
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            files = [tempfile.TemporaryFile(dir=folder) for _ in range(2)]
        return cls(Segments(), np.empty(0, RECORD), np.empty((0, dimensions), np.int8), files[0], files[1])

    def __len__(self) -> int:
        return len(self.records)

    @property
    def records(self) -> NDArray[np.void]:
        """The records of the rows."""
        return self._records.rows

    @property
    def vectors(self) -> NDArray[np.int8]:
        """The vectors of the rows."""
        return self._vectors.rows

    def sizes(self, numbers: Numbers) -> Numbers:
        """Return how many shingles some rows have."""
        ends = self.records["shingles_end"]
        before = np.where(numbers > 0, ends[np.maximum(numbers - 1, 0)], 0)
        return (ends[numbers] - before).astype(np.int64)

    def in_pieces(self, numbers: Numbers) -> Iterator[slice]:
        """Cut rows, given in order, into runs whose shingles are small enough for memory, but for single rows."""
        ends = np.cumsum(self.sizes(numbers) + GAP)  # what lies between rows may be read with them
        start = 0
        while start < len(numbers):
            before = ends[start - 1] if start else 0
            stop = max(int(np.searchsorted(ends, before + PIECE_SHINGLES, side="right")), start + 1)
            yield slice(start, stop)
            start = stop

    def sets(self, numbers: Numbers) -> ShingleSets:
        """Return the shingles of some rows, given in order. Raises Damaged when they are not those that were kept."""
        sizes, stops = self.sizes(numbers), self.records["shingles_end"][numbers].astype(np.int64)
        starts = stops - sizes
        cuts = np.flatnonzero(starts[1:] - stops[:-1] > GAP) + 1  # rows that lie close together are read together
        first = np.concatenate((np.zeros(min(1, len(numbers)), np.int64), cuts))
        begins, lengths = starts[first], stops[np.append(cuts, len(numbers))[: len(first)] - 1] - starts[first]
        handle = self.shingles_file.fileno()
        content = b"".join(
            part
            for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True)
            for part in _read(handle, 8 * begin, 8 * length)
        )
        if len(content) == 8 * int(lengths.sum()):
            moved = np.repeat(np.cumsum(lengths) - lengths - begins, np.diff(np.append(first, len(numbers))))
            hashes = np.frombuffer(content, "<u8")[_ranges(starts + moved, sizes)]
            sets = ShingleSets(hashes, np.cumsum(sizes))
            if (_checks(sets) == self.records["check"][numbers]).all():
                return sets
        raise Damaged(
            "the index of earlier rows is not what was written",
            where=str(self.shingles_file.name),
            fix="delete its folder: it is made anew from the rows",
        )

    def marks(self) -> Iterator[bytes]:
        """Yield a hash for each row, in order, of what tells it from others: its name, its texts, what they mean."""
        return map(_mark, self.names(), self.records["digest"], self.vectors)

    def name(self, number: int) -> str:
        """Return the name of a row."""
        start, stop = self._span("name_end", number)
        return os.pread(self.names_file.fileno(), stop - start, start).decode("utf-8", "surrogatepass")

    def names(self) -> Iterator[str]:
        """Yield the names of all rows, in order."""
        for first in range(0, len(self), 1 << 14):
            ends = self.records["name_end"][first : first + (1 << 14)].tolist()
            start = self._span("name_end", first)[0]
            found = os.pread(self.names_file.fileno(), ends[-1] - start, start)
            for begin, end in zip([start, *ends], ends, strict=False):
                yield found[begin - start : end - start].decode("utf-8", "surrogatepass")

    def _span(self, field: str, number: int) -> tuple[int, int]:
        ends = self.records[field]
        return (int(ends[number - 1]) if number else 0), int(ends[number])

    def add(self, block: Block, kept: NDArray[np.bool_]) -> None:
        """Take in the rows of a block that are kept and have text."""
        kept = kept & block.has_text
        places = np.flatnonzero(kept)
        if len(self) + len(places) > int(ROW_MASK):
            raise DistillgenError(f"more than {int(ROW_MASK):,} rows to compare", fix="build the dataset in several")
        starts, ends = block.sets.starts, block.sets.ends
        hashes = block.sets.hashes[np.repeat(kept, ends - starts)]
        names = [block.names[place].encode("utf-8", "surrogatepass") for place in places.tolist()]
        with disk_errors("the spool of the step"):
            self.shingles_file.write(hashes.astype("<u8", copy=False).data)
            self.names_file.write(b"".join(names))
            self.shingles_file.flush()
            self.names_file.flush()
        records = block.records[places]
        records["check"] = _checks(block.sets)[places]
        records["shingles_end"] = self._end("shingles_end") + np.cumsum((ends - starts)[places])
        records["name_end"] = self._end("name_end") + np.cumsum([len(name) for name in names] or np.empty(0, np.int64))
        numbers = len(self) + np.cumsum(kept) - 1
        self._records.add(records)
        self._vectors.add(block.vectors[places])
        places_of_entries = (block.entries & ROW_MASK).astype(np.int64)
        chosen = kept[places_of_entries]
        self.segments.add(entries_of(block.entries[chosen], numbers[places_of_entries[chosen]]))

    def _end(self, field: str) -> int:
        return int(self.records[field][-1]) if len(self) else 0

    def close(self) -> None:
        """Let the files go."""
        self.shingles_file.close()
        self.names_file.close()
