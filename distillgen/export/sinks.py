"""Where exported rows go: JSON lines, CSV that a spreadsheet cannot be harmed by, or Parquet with a stated schema."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Protocol

import orjson

from distillgen.errors import ExtraMissing

# How a formula begins, however many apostrophes stand before it; in East Asian spreadsheets with full-width signs too.
_RISKY = re.compile("'*[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")
PROTECTION = "'"
GROUP_ROWS = 5000  # of Parquet, written together
GROUP_BYTES = 64_000_000  # the same where rows are long, so that memory stays flat


class Sink(Protocol):
    """Takes rows, many at a time; `close` ends the file, but leaves its stream open."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows."""

    def close(self) -> None:
        """Write what belongs at the end."""


class JsonLines:
    """One JSON object a line."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows."""
        self._out.write(b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows]))

    def close(self) -> None:
        """Nothing belongs at the end."""


class Csv:
    """RFC 4180 in UTF-8 without a mark at its start, a header first.

    A cell that a spreadsheet would take for a formula gets an apostrophe before it; so does one that begins with
    apostrophes and would be one after them, so that taking one away gives every cell back.
    """

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._names: list[str] | None = None

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows, all of the same columns."""
        held = io.StringIO(newline="")
        writer = csv.writer(held, lineterminator="\r\n")
        if self._names is None and rows:
            self._names = list(rows[0])
            writer.writerow(self._names)
        writer.writerows([[safe_cell(cell) for cell in row.values()] for row in rows])
        self._out.write(held.getvalue().encode())

    def close(self) -> None:
        """Nothing belongs at the end."""


def safe_cell(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return PROTECTION + text if _RISKY.match(text) else text


class Parquet:
    """Parquet, Zstandard-compressed, of the columns that the first rows have. Raises ExtraMissing without pyarrow."""

    def __init__(self, out: IO[bytes]) -> None:
        require_pyarrow()
        self._out = out
        self._schema: Any = None
        self._writer: Any = None
        self._held: list[Any] = []  # record batches

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take rows; write a row group when there are enough of them."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if rows and self._writer is None:
            self._schema = pa.schema([(name, _type_of(name, rows)) for name in rows[0]])
            self._writer = pq.ParquetWriter(self._out, self._schema, compression="zstd")
        if rows:
            self._held.append(pa.RecordBatch.from_pylist(rows, schema=self._schema))
        if sum(each.num_rows for each in self._held) >= GROUP_ROWS or _size(self._held) >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_batches(self._held).combine_chunks())
        self._held = []

    def close(self) -> None:
        """Write what is held, and the footer."""
        if self._held:
            self._write_group()
        if self._writer is not None:
            self._writer.close()


def _size(held: Iterable[Any]) -> int:
    return sum(each.nbytes for each in held)


def require_pyarrow() -> None:
    """Raise ExtraMissing when Parquet cannot be written here."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ExtraMissing("Parquet needs pyarrow", fix="pip install 'distillgen[parquet]'") from None


def _type_of(name: str, rows: Iterable[Mapping[str, Any]]) -> Any:
    """Return a column's type: text, or a list of turns whose keys are texts. Nothing is guessed from the texts."""
    import pyarrow as pa

    cells = [row[name] for row in rows]
    if isinstance(cells[0], str):
        return pa.string()
    keys = dict.fromkeys(key for turns in cells for turn in turns for key in turn)
    return pa.list_(pa.struct([(key, pa.string()) for key in keys]))


SINKS: Mapping[str, Callable[[IO[bytes]], Sink]] = {".jsonl": JsonLines, ".csv": Csv, ".parquet": Parquet}
