"""Reads seeds from files, folders and standard input, streamed, and gives each an id that survives reordering."""

import contextlib
import csv
import glob
import gzip
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import jsonlines
import orjson
import zstandard

from distillgen.errors import ExtraMissing, Problem, SeedsEmpty, SeedsInvalid, SeedsMissing, nearest
from distillgen.files import canonical
from distillgen.rows import Row
from distillgen.settings import SeedSettings

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "txt"}
DOCUMENTS = {".txt", ".md", ".markdown", ".rst"}
SHOWN_BAD = 10
DEEPEST = 200  # levels of a row: what writes JSON takes 254, with ours around it
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [left + right for left in _BASE32 for right in _BASE32]
csv.field_size_limit(64 * 1024 * 1024)

Place = str
Reading = Iterator[tuple[Place, dict[str, Any] | Problem]]


@dataclass
class SeedReader:
    """Streams the seeds of one recipe as rows.

    A seed's id is 80 bits of the sha256 of its id columns, in base32; the second identical seed gets `-2` behind it.
    After a pass, `count` is the number of rows, `sha256` their digest, `skipped` the bad lines gone over.
    """

    settings: SeedSettings
    folder: Path
    required: frozenset[str] = frozenset()
    skip_bad: bool = False
    stdin: IO[bytes] | None = None
    count: int = 0
    skipped: int = 0
    _sha: Any = field(default_factory=hashlib.sha256)

    @property
    def is_stdin(self) -> bool:
        """Whether the seeds come once only, through a pipe."""
        return self.settings.paths == ["-"]

    @property
    def sha256(self) -> str:
        """The digest of every seed read so far, in order, ids included."""
        return self._sha.hexdigest()  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Row]:
        self.count, self.skipped, self._sha = 0, 0, hashlib.sha256()
        seen: dict[bytes, bytes] = {}  # 100 bytes a seed: all that grows with their number
        repeats: Counter[bytes] = Counter()
        for place, found in self._readings():
            problem = found if isinstance(found, Problem) else self._lacking(place, found)
            if problem is None and isinstance(found, dict):
                row = self._identified(place, found, seen, repeats)
                if isinstance(row, Row):
                    self.count += 1
                    self._sha.update(canonical([row.id, row.columns]))
                    yield row
                    continue
                problem = row
            if not self.skip_bad and problem is not None:
                raise SeedsInvalid("bad seed", problems=[problem, _HINT])
            self.skipped += 1

    def places(self, *wanted: str) -> Iterator[tuple[Place, Row]]:
        """Yield where the seeds of some ids stand, and identical ones (`-2` behind it), which are rows of their own."""
        bases = {each.partition("-")[0] for each in wanted}
        seen: dict[bytes, bytes] = {}
        repeats: Counter[bytes] = Counter()
        for place, found in self._readings():
            if isinstance(found, Problem) or self._lacking(place, found):
                continue
            row = self._identified(place, found, seen, repeats)
            if isinstance(row, Row) and row.id.partition("-")[0] in bases:
                yield place, row

    def check(self) -> int:
        """Read every line once without sending anything; return how many seeds there are.

        Raises SeedsMissing, SeedsEmpty, or SeedsInvalid with the first bad lines and their number.
        """
        bad: list[Problem] = []
        count = bad_count = 0
        for place, found in self._readings():
            problem = found if isinstance(found, Problem) else self._lacking(place, found)
            if problem is None:
                count += 1
            else:
                bad_count += 1
                if len(bad) < SHOWN_BAD:
                    bad.append(problem)
        if bad and not self.skip_bad:
            more = bad_count - len(bad)
            tail = [Problem(f"... and {more:,} more bad lines")] if more else []
            raise SeedsInvalid("bad seeds", problems=[*bad, *tail, _HINT])
        if not count:
            raise SeedsEmpty(
                "not a single seed", where=", ".join(self.settings.paths), fix="put at least one row into it"
            )
        return count

    def peek(self) -> dict[str, Any] | None:
        """Return the first good seed of files (None for standard input), to know which columns there are."""
        if self.is_stdin:
            return None
        return next((found for _, found in self._readings() if isinstance(found, dict)), None)

    def _readings(self) -> Reading:
        for path in self.settings.paths:
            if path == "-":
                yield from read_stream(
                    "standard input", self.stdin or open(0, "rb", closefd=False), self.settings.format or "jsonl"
                )
            else:
                yield from self._read_path(path)

    def _read_path(self, path: str) -> Reading:
        whole = self.folder / path
        if whole.is_dir():
            yield from _read_documents(whole)
            return
        files = [whole] if whole.exists() else [Path(name) for name in sorted(glob.glob(str(whole), recursive=True))]  # noqa: PTH207  (an absolute pattern)
        if not files:
            raise SeedsMissing(
                f"no seeds at {path!r}", where=str(whole), fix="check `path` under [seeds] in the recipe"
            )
        for file in files:
            yield from read_rows(file, self.settings.format)

    def _lacking(self, place: Place, columns: dict[str, Any]) -> Problem | None:
        if columns.keys() >= self.required and all(name in columns for name in self.settings.id):
            return None
        missing = sorted(self.required.union(self.settings.id) - columns.keys())
        return Problem(f"seed without column {missing[0]!r}", place, nearest(missing[0], columns))

    def _identified(
        self, place: Place, columns: dict[str, Any], seen: dict[bytes, bytes], repeats: Counter[bytes]
    ) -> Row | Problem:
        wanted = {name: columns[name] for name in self.settings.id} if self.settings.id else columns
        key = hashlib.sha256(canonical(wanted)).digest()[:10]
        whole = hashlib.sha256(canonical(columns)).digest()[:10] if self.settings.id else key
        name = _spell(key)
        before = seen.get(key)
        if before is None:
            seen[key] = whole
            return Row(name, name, None, columns)
        if before != whole:
            names = ", ".join(self.settings.id)
            return Problem(
                f"another seed has the same {names}, with other content", place, "add a column to `id` under [seeds]"
            )
        repeats[key] += 1
        name = f"{name}-{repeats[key] + 1}"
        return Row(name, name, None, columns)


def _spell(key: bytes) -> str:
    """Return 80 bits in lower-case base32, ten at a time: twice as fast as base64, once for every seed."""
    number = int.from_bytes(key, "big")
    return "".join([_PAIRS[number >> shift & 1023] for shift in (70, 60, 50, 40, 30, 20, 10, 0)])


def read_rows(file: Path, form: str | None = None) -> Reading:
    """Yield each row of a file with its place, or what is wrong with it; the file's name tells the format if not given.

    Raises SeedsMissing and SeedsInvalid for a file that cannot be opened, decompressed, or told the format of.
    """
    with _open(file) as stream:
        yield from read_stream(str(file), stream, form or _format(file))


_HINT = Problem("nothing was sent for these", "", "mend them, or go on without them: --skip-bad-seeds")


def _format(file: Path) -> str:
    name = file.name.removesuffix(".gz").removesuffix(".zst")
    known = FORMATS.get(Path(name).suffix.lower())
    if known is None:
        raise SeedsMissing(
            f"cannot tell the format of {file.name!r}",
            where=str(file),
            fix='name it .jsonl, .csv, .parquet or .txt (also .gz, .zst), or set `format = "jsonl"` under [seeds]',
        )
    return known


@contextlib.contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    try:
        with file.open("rb") as raw:
            if file.suffix == ".gz":
                yield io.BufferedReader(gzip.GzipFile(fileobj=raw))
            elif file.suffix == ".zst":
                yield io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zstandard.ZstdError) as error:
        raise SeedsInvalid(f"cannot decompress: {error}", where=str(file)) from None
    except OSError as error:
        raise SeedsMissing(f"cannot read it: {error.strerror or error}", where=str(file)) from None


def read_stream(name: str, stream: IO[bytes], form: str) -> Reading:
    """Yield each row of an open stream with its place, or what is wrong with it."""
    readers: dict[str, Callable[[str, IO[bytes]], Reading]] = {
        "jsonl": read_json_lines,
        "csv": _read_csv,
        "parquet": _read_parquet,
        "txt": _read_txt,
    }
    return readers[form](name, stream)


def read_json_lines(name: str, stream: Iterable[bytes]) -> Reading:
    """Yield each object of a stream of JSON lines with its place, or what is wrong with the line."""
    number, line = 0, b""

    def numbered() -> Iterator[bytes]:
        nonlocal number, line
        try:
            for number, line in enumerate(stream, 1):  # noqa: B007  (the reader below tells no line numbers)
                yield line
        except EOFError as error:  # a cut-off gzip file, which the reader would take for the end
            raise gzip.BadGzipFile(str(error)) from None

    lines = jsonlines.Reader(numbered(), loads=orjson.loads)
    while True:
        try:
            row = lines.read(skip_empty=True)
        except EOFError:
            return
        except jsonlines.InvalidLineError as error:
            place = f"{name}:{number}"
            reason, _, _ = str(error.__cause__ or error).partition(": line ")  # its "line 1" is inside this line
            yield place, Problem(f"not valid JSON: {reason}", place)
            continue
        place = f"{name}:{number}"
        if not isinstance(row, dict):
            yield place, Problem(f"a JSON {type(row).__name__}, not an object", place)
        elif line.count(b"[") + line.count(b"{") > DEEPEST and _depth(row) > DEEPEST:  # could not be written again
            yield place, Problem(f"nested deeper than {DEEPEST} levels", place)
        else:
            yield place, row


def _depth(value: Any) -> int:
    """Return how many lists and objects stand inside one another."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
    return depth


def _read_csv(name: str, stream: IO[bytes]) -> Reading:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        yield from _read_csv_text(name, text)
    finally:
        text.detach()  # whoever opened the stream closes it


def _read_csv_text(name: str, text: io.TextIOWrapper) -> Reading:
    rows = csv.reader(text, strict=True)
    header: list[str] = []
    while True:
        place = f"{name}:{rows.line_num + 1}"
        try:
            values = next(rows)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            yield place, Problem(f"not valid CSV: {error}", place)
            if isinstance(error, UnicodeDecodeError):
                return  # the decoder has lost its place; nothing behind it can be trusted
            continue
        if not header:
            header = values
            if len(set(header)) < len(header):
                yield place, Problem("two columns of the same name", place)
                return
        elif values:
            if len(values) == len(header):
                yield place, dict(zip(header, values, strict=True))
            else:
                yield place, Problem(f"{len(values)} fields, the header has {len(header)}", place)


def _read_parquet(name: str, stream: IO[bytes]) -> Reading:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ExtraMissing("Parquet files need pyarrow", fix="pip install 'distillgen[parquet]'") from None
    number = 0
    try:
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}: row {number}", orjson.loads(orjson.dumps(row, default=str))
    except (pyarrow.ArrowException, orjson.JSONEncodeError) as error:
        yield f"{name}: row {number + 1}", Problem(f"not valid Parquet: {error}", name)


def _read_txt(name: str, stream: IO[bytes]) -> Reading:
    for number, line in enumerate(stream, 1):
        place = f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            yield place, Problem(f"not UTF-8 (byte {error.start} of the line)", place)
            continue
        if text:
            yield place, {"text": text}


def _read_documents(folder: Path) -> Reading:
    """Yield one seed per text or Markdown file below a folder: `document` and its relative `path`."""
    files: Iterable[Path] = sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in DOCUMENTS and file.is_file()
    )
    for file in files:
        try:
            text = file.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            yield str(file), Problem(f"cannot read the document: {error}", str(file))
            continue
        if text:
            yield str(file), {"document": text, "path": file.relative_to(folder).as_posix()}
        else:
            yield str(file), Problem("an empty document", str(file))
