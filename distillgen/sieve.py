"""Quality steps in a pipe: rows of anybody's through steps, in order, in flat memory; what they refuse goes aside."""

import asyncio
import codecs
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import IO, Any, NamedTuple

from distillgen.checking import Check, Maker, Means
from distillgen.earlier import Place
from distillgen.errors import Problem, RecipeInvalid, SeedsInvalid, UsageError, nearest
from distillgen.files import json_line
from distillgen.foreign import ANSWER, columns_of, put_back
from distillgen.recipe import check_recipe
from distillgen.road import in_thread, travel
from distillgen.rows import Outcome, Rejection, Row
from distillgen.seeds import read_json_lines
from distillgen.shapes import close
from distillgen.tally import Tally

PIPE = "standard input"
IN_FLIGHT = 64  # rows that may wait for a program at once
SKIP_FIX = "mend it, or go over such lines: --skip-bad-rows"


class ForeignRows:
    """The rows of a stream of JSON lines; `skipped` counts the bad lines gone over, `read` the rows."""

    def __init__(self, stream: IO[bytes], columns: AbstractSet[str], *, skip_bad: bool) -> None:
        self._stream, self._columns, self._skip_bad = stream, columns, skip_bad
        self._line = b""
        self.skipped = self.read = 0

    def __iter__(self) -> Iterator[Row]:
        for place, found in read_json_lines(PIPE, self._lines()):
            if isinstance(found, Problem):
                if not self._skip_bad:
                    raise SeedsInvalid("bad row", problems=[Problem(found.what, found.where, SKIP_FIX)])
                self.skipped += 1
                continue
            self.read += 1
            columns = columns_of(found)
            if self.read == 1:
                self._check(columns, place)
            name = found.get("id")
            row_id = name if isinstance(name, str) else f"line {place.rpartition(':')[2]}"
            yield Row(row_id, row_id, None, columns, ({"line": self._line, "seen": columns},))

    def _lines(self) -> Iterator[bytes]:
        for line in self._stream:
            self._line = line.removeprefix(codecs.BOM_UTF8)  # at the start of a file, or where `cat` joined two
            yield self._line

    def _check(self, columns: Mapping[str, Any], place: str) -> None:
        """The first row must have the columns: a name that no row has would let all of them pass, or none."""
        for column in self._columns:
            if column in columns:
                continue
            if column == ANSWER:
                what = "no answer in this row: neither `messages`, `conversations`, `output` nor another known column"
                raise UsageError(what, where=place, fix=f"name it: --column ({', '.join(columns)})")
            raise UsageError(f"no column {column!r}", where=place, fix=nearest(column, columns))


def original(row: Row) -> dict[str, Any]:
    """Return a row as it came, with the texts that steps changed in their places.

    It is read again, by a parser that keeps numbers of any size.
    """
    came = row.trail[0]
    return put_back(json.loads(came["line"]), came["seen"], row.columns)


def line_of(row: Row) -> bytes:
    """Return a row as JSON without a line break: byte for byte as it came, unless a step changed it."""
    came = row.trail[0]
    line: bytes = came["line"].rstrip(b"\r\n")
    return line if row.columns == came["seen"] else json_line(original(row))


class Prepared(NamedTuple):
    """A step that was checked: what makes it, the columns that it looks at, and warnings."""

    make: Maker
    columns: AbstractSet[str]
    warnings: list[Problem]


def prepare_step(step: Mapping[str, Any], options: Mapping[str, str], folder: Path, main: str) -> Prepared:
    """Check one step as a recipe states it, with `main` for the column of the answer.

    Raises RecipeInvalid with every problem found, named as `options` name its keys, or an error of another kind.
    """
    stated = {key: value for key, value in step.items() if value not in (None, [])}
    table = {"name": step["use"], "seeds": {"path": "-"}, "steps": [stated]}
    check = Check(*check_recipe(table, folder / "options", options=options), main=main)
    check.steps(None)
    if check.problems:
        raise RecipeInvalid(check.problems)
    for error in check.errors:
        raise error
    return Prepared(check.makers[0], check.wanted_of_seeds, check.warnings)


async def sift(
    rows: ForeignRows, make: Maker, tally: Tally, write: Callable[[Outcome], Awaitable[None]], spool: Path
) -> None:
    """Take rows through a step and hand every outcome to `write`, in order. Raises DistillgenError."""
    here = Path.cwd()
    step = await asyncio.to_thread(make, Means({}, spool, Place(here, here)))  # it may read long files first
    outcomes = travel(in_thread(rows), [step], tally=tally.step, spool=spool, in_flight=IN_FLIGHT)
    try:
        async with contextlib.aclosing(outcomes):
            async for outcome in outcomes:
                await write(outcome)
    finally:
        await close([step])


def reason_of(rejection: Rejection) -> dict[str, str]:
    """Return why a row was refused, as it is written beside it."""
    return {"step": rejection.step, "rule": rejection.rule, "detail": rejection.detail}
