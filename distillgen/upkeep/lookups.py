"""Which stored answers a build would look up: its seeds are taken down the road with stored answers only."""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from distillgen.errors import UsageError
from distillgen.preparation import Prepared, prepare
from distillgen.recipe import read_recipe
from distillgen.road import travel
from distillgen.shapes import Outcomes, close
from distillgen.tally import Tally
from distillgen.teacher import open_teachers
from distillgen.teacher.answers import AnswerStore

BESIDE = 64  # rows under way at once: none of them waits for an answer


class _Noting(AnswerStore):
    """An answer store that notes what is looked up."""

    def __init__(self, path: Path, note: Callable[[bytes], None]) -> None:
        super().__init__(path)
        self._note = note

    def get(self, key: bytes) -> bytes | None:
        self._note(key)
        return super().get(key)


async def look_up(
    prepared: Prepared, path: Path, seeds: Callable[[Tally], Outcomes], note: Callable[[bytes], None]
) -> None:
    """Note every key that a build would look up about seeds, as far as the answers stored at `path` lead."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as spare, contextlib.closing(_Noting(path, note)) as store:
        async with open_teachers(
            prepared.recipe, prepared.source, prepared.teachers_used, store, state=prepared.state, offline=True
        ) as teachers:
            steps = prepared.steps(teachers)
            outcomes = travel(seeds(tally), steps, tally=tally.step, spool=Path(spare), in_flight=BESIDE)
            async with contextlib.aclosing(outcomes):
                async for _ in outcomes:
                    pass
            await close(steps)


def readied(recipe: Path, state: Path) -> Prepared:
    """Return a recipe as a build would have it. Raises what is wrong with it, and UsageError for seeds from a pipe."""
    if "-" in read_recipe(recipe)[0].seeds.paths:
        raise UsageError(
            "its seeds come from standard input, so nobody can tell which answers it needs", where=str(recipe),
            fix="keep the seeds in a file, or name other recipes: --recipe FILE, and --even-of for this one",
        )  # fmt: skip
    return prepare(recipe, skip_bad_seeds=True, will_ask=False, allow_unknown_price=True, state=state)
