"""Quality steps in a pipe: rows of anybody's through steps, in order, in flat memory; what they refuse goes aside."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from distillgen.checking import Check, Maker, Means
from distillgen.earlier import Place
from distillgen.errors import Problem, RecipeInvalid, SeedsInvalid, UsageError, nearest
from distillgen.foreign import ANSWER, columns_of, put_back
from distillgen.recipe import check_recipe
from distillgen.road import in_thread, travel
from distillgen.rows import Outcome, Rejection, Row
from distillgen.seeds import read_stream
from distillgen.shapes import close
from distillgen.tally import Tally

PIPE = "standard input"
IN_FLIGHT = 64  # rows that may wait for a program at once
SKIP_FIX = "mend it, or go over such lines: --skip-bad-rows"


class ForeignRows:
    """The rows of a stream of JSON lines; `skipped` counts the bad lines gone over, `read` the rows."""

    def __init__(self, stream: IO[bytes], columns: Sequence[str], *, skip_bad: bool) -> None:
        self._stream, self._columns, self._skip_bad = stream, columns, skip_bad
        self.skipped = self.read = 0

    def __iter__(self) -> Iterator[Row]:
        for place, found in read_stream(PIPE, self._stream, "jsonl"):
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
            yield Row(row_id, row_id, None, columns, ({"of": found},))

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
    """Return a row as it came, with the texts that steps changed in their places."""
    return put_back(row.trail[0]["of"], row.columns)


def prepare_step(
    step: Mapping[str, Any], options: Mapping[str, str], folder: Path, main: str
) -> tuple[Maker, list[Problem]]:
    """Check one step as a recipe states it, with `main` for the column of the answer; return its maker and warnings.

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
    return check.makers[0], check.warnings


async def sift(rows: ForeignRows, make: Maker, tally: Tally, write: Callable[[Outcome], None], spool: Path) -> None:
    """Take rows through a step and hand every outcome to `write`, in order. Raises DistillgenError."""
    here = Path.cwd()
    step = make(Means({}, spool, Place(here, here)))
    outcomes = travel(in_thread(rows), [step], tally=tally.step, spool=spool, in_flight=IN_FLIGHT)
    try:
        async with contextlib.aclosing(outcomes):
            async for outcome in outcomes:
                write(outcome)
    finally:
        await close([step])


def reason_of(rejection: Rejection) -> dict[str, str]:
    """Return why a row was refused, as it is written beside it."""
    return {"step": rejection.step, "rule": rejection.rule, "detail": rejection.detail}
