"""Saved indexes of kept rows: a folder of immutable files and a header, opened whole or not at all.

The header, `index.json`, is written last. It says with which settings the index was made and lists its parts, the
oldest rows first; a part is six files, named by its content. A grown index links to the parts of the one that it grew
from and adds one of its own. Parts at the end that are no larger than the new one are written into it, so that there
are few of them, and a row is written again only when its part has at least doubled.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from distillgen.files import canonical, disk_errors, masked, sync_folder, write_atomically
from distillgen.steps.known import IndexSettings, Known
from distillgen.steps.near_index import (
    KEY_BITS,
    RECORD,
    ROW_MASK,
    Entries,
    Filter,
    Part,
    Segments,
    block_of,
    dimensions_of,
    entries_of,
    in_blocks,
)
from distillgen.steps.similarity import PERMUTATIONS, SEED, VERSION

FORMAT = 1
HEADER = "index.json"
PIECE = 1 << 20  # bytes read and written at once
TEMPORARY = ".part."
KINDS = ("entries", "filter", "records", "names", "vectors", "shingles")

Chosen: TypeAlias = tuple[Part, NDArray[np.bool_]]  # a part, and which of its rows


@dataclass
class Index:
    """Rows that are there before the first one: a saved index, or one that was filled."""

    settings: IndexSettings
    parts: list[Part]
    folder: Path | None = None  # where it is saved
    header: dict[str, Any] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def close(self) -> None:
        """Let the files go."""
        for part in self.parts:
            part.close()


def index_of(known: Iterable[Known], settings: IndexSettings, spool: Path | None = None) -> Index:
    """Return an index of all these rows, which are not compared with each other; of equal ones the first will do."""
    part = Part.empty(spool, dimensions_of(settings))
    seen: set[tuple[int, ...]] = set()
    for rows in in_blocks(known):
        block = block_of(rows, settings)
        records = block.records
        whole = zip(*records["digest"].T.tolist(), records["group"].tolist(), records["sample"].tolist(), strict=True)
        is_new = np.zeros(len(rows), np.bool_)
        for place, each in enumerate(whole):
            is_new[place] = each not in seen
            seen.add(each)
        part.add(block, is_new)
    return Index(settings, [part])


def save_index(
    folder: Path, settings: IndexSettings, part: Part, published: Collection[str] | None, grown_from: Index | None
) -> None:
    """Save the rows of a part, only those whose names are `published` if given, after those of a saved index.

    Equal rows make equal files. What the folder held before of other indexes is removed.
    """
    new = _chosen(part, published)
    old = _parts_in(grown_from) if grown_from else []
    together = [new]
    while old and len(old[-1][0]) <= sum(int(mask.sum()) for _, mask in together):
        last = old.pop()[0]
        together.insert(0, (last, np.ones(len(last), np.bool_)))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for _, described in old:
            assert grown_from is not None and grown_from.folder is not None
            _link(grown_from.folder, folder, described)
        parts = [described for _, described in old]
        if any(mask.any() for _, mask in together):
            parts.append(_write_part(folder, together))
        sync_folder(folder)
        write_atomically(folder / HEADER, canonical({**_common(settings), "parts": parts}))
        _sweep(folder, parts)


def open_index(folder: Path, settings: IndexSettings) -> Index | None:
    """Open a saved index. None when there is none, it is damaged, or it was made otherwise: make it anew then.

    All files but the shingles are read once, which takes 0.1 s for a million rows that are in the system's cache. Those
    have a checksum in each row's record and are checked when they are used.
    """
    parts: list[Part] = []
    try:
        header = orjson.loads((folder / HEADER).read_bytes())
        if {**header, "parts": []} != {**_common(settings), "parts": []}:
            return None
        for described in header["parts"]:
            part = _open_part(folder, described)
            if part is None:
                break
            parts.append(part)
        else:
            return Index(settings, parts, folder, header)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not there, or not what was written
    for part in parts:
        part.close()
    return None


def _common(settings: IndexSettings) -> dict[str, Any]:
    common = {
        **asdict(settings),
        "format": FORMAT,
        "similarity": VERSION,
        "permutations": PERMUTATIONS,
        "seed": SEED,
        "key_bits": KEY_BITS,
    }
    return {**common, "columns": list(settings.columns)}


def _parts_in(index: Index) -> list[tuple[Part, dict[str, Any]]]:
    assert index.header is not None, "only a saved index can be grown from"
    return list(zip(index.parts, index.header["parts"], strict=True))


def _chosen(part: Part, published: Collection[str] | None) -> Chosen:
    if published is None:
        return part, np.ones(len(part), np.bool_)
    return part, np.fromiter((name in published for name in part.names()), np.bool_, len(part))


def _path(folder: Path, described: dict[str, Any], kind: str) -> Path:
    return folder / f"{described['name']}.{kind}"


def _link(source: Path, target: Path, described: dict[str, Any]) -> None:
    for kind in KINDS:
        old, new = _path(source, described, kind), _path(target, described, kind)
        if new.exists() and new.samefile(old):
            continue
        new.unlink(missing_ok=True)
        try:
            os.link(old, new)
        except OSError:  # another file system, or one without links
            with _file(target, new) as file, old.open("rb") as content:
                shutil.copyfileobj(content, file, PIECE)


@contextlib.contextmanager
def _file(folder: Path, path: Path | None = None) -> Iterator[IO[bytes]]:
    """Write a file under a temporary name, which becomes `path` if it is known, once it is on the disk."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=TEMPORARY, delete=False) as file:
        try:
            yield file
            file.flush()
            os.fchmod(file.fileno(), masked(0o644))
            os.fsync(file.fileno())
            if path is not None:
                Path(file.name).rename(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _write_part(folder: Path, chosen: Sequence[Chosen]) -> dict[str, Any]:
    """Write the six files of a part and return how the header describes it."""
    entries = _entries(chosen)
    contents: dict[str, Iterable[bytes | memoryview]] = {
        "entries": _pieces(entries.astype("<u8", copy=False)),
        "filter": _pieces(Filter.of([entries], len(entries)).bits),
        "records": _pieces(_records(chosen)),
        "vectors": _pieces(np.concatenate([part.vectors[mask] for part, mask in chosen])),
        "names": (piece for part, mask in chosen for piece in _spans(part, mask, "name_end")),
        "shingles": (piece for part, mask in chosen for piece in _spans(part, mask, "shingles_end")),
    }
    written: dict[str, tuple[str, dict[str, Any]]] = {}
    for kind, pieces in contents.items():
        digest = xxhash.xxh3_128()
        with _file(folder) as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            written[kind] = file.name, {"bytes": file.tell(), "xxh3_128": digest.hexdigest()}
    name = xxhash.xxh3_128_hexdigest(canonical([described for _, described in written.values()]))
    described = {
        "name": name,
        "rows": sum(int(mask.sum()) for _, mask in chosen),
        "files": {kind: each for kind, (_, each) in written.items()},
    }
    for kind, (temporary, _) in written.items():
        Path(temporary).rename(_path(folder, described, kind))
    return described


def _entries(chosen: Sequence[Chosen]) -> Entries:
    """Return the entries of the chosen rows, sorted, with the numbers that these have together."""
    runs, before = [np.empty(0, np.uint64)], 0
    for part, mask in chosen:
        entries = part.segments.merged()
        if not mask.all() or before:
            rows = (entries & ROW_MASK).astype(np.int64)
            numbers = before + np.cumsum(mask) - 1
            entries = entries_of(entries[mask[rows]], numbers[rows[mask[rows]]])
        runs.append(entries)
        before += int(mask.sum())
    together = np.concatenate(runs) if len(runs) != 2 else runs[1]
    if len(runs) > 2:
        together.sort(kind="stable")
    return together


def _records(chosen: Sequence[Chosen]) -> NDArray[np.void]:
    """Return the records of the chosen rows, with the ends that their shingles and names have together."""
    records = np.concatenate([part.records[mask] for part, mask in chosen])
    for field in ("shingles_end", "name_end"):
        sizes = [np.diff(part.records[field], prepend=np.uint64(0))[mask] for part, mask in chosen]
        records[field] = np.cumsum(np.concatenate(sizes))
    return records


def _pieces(array: NDArray[Any]) -> Iterator[memoryview]:
    content = np.ascontiguousarray(array).view(np.uint8).data
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


def _spans(part: Part, mask: NDArray[np.bool_], field: str) -> Iterator[bytes]:
    """Yield the shingles or names of the chosen rows as they lie in the part's file."""
    file, size = (part.shingles_file, 8) if field == "shingles_end" else (part.names_file, 1)
    ends = np.concatenate((np.zeros(1, np.int64), part.records[field].astype(np.int64))) * size
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    for start, stop in zip(ends[edges[::2]].tolist(), ends[edges[1::2]].tolist(), strict=True):
        for at in range(start, stop, PIECE):
            yield os.pread(file.fileno(), min(PIECE, stop - at), at)


def _open_part(folder: Path, described: dict[str, Any]) -> Part | None:
    """Open a part, None when a file is not as the header says."""
    arrays: dict[str, NDArray[Any]] = {}
    for kind, dtype in (("entries", "<u8"), ("filter", "u1"), ("records", RECORD), ("names", "u1"), ("vectors", "i1")):
        path, wanted = _path(folder, described, kind), described["files"][kind]
        if path.stat().st_size != wanted["bytes"]:
            return None
        arrays[kind] = np.memmap(path, dtype, "r") if wanted["bytes"] else np.empty(0, dtype)
        if xxhash.xxh3_128_hexdigest(arrays[kind].data) != wanted["xxh3_128"]:
            return None
    rows = len(arrays["records"])
    if rows != described["rows"] or not rows:
        return None
    shingles = _path(folder, described, "shingles")
    if shingles.stat().st_size != described["files"]["shingles"]["bytes"]:
        return None
    segments = Segments([arrays["entries"]], Filter(arrays["filter"]))
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(path.open("rb")) for path in (shingles, _path(folder, described, "names"))]
        opened.pop_all()
        return Part(segments, arrays["records"], arrays["vectors"].reshape(rows, -1), files[0], files[1])


def _sweep(folder: Path, parts: Sequence[dict[str, Any]]) -> None:
    """Remove the files of parts that the header does not name, and what a crash left."""
    wanted = {_path(folder, described, kind) for described in parts for kind in KINDS}
    for path in folder.iterdir():
        if path not in wanted and (path.suffix[1:] in KINDS or path.name.startswith(TEMPORARY)):
            path.unlink(missing_ok=True)
