"""Which stored answers a build would look up: its seeds are taken down the road with stored answers only."""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillgen.dataset.manifest import Manifest
from distillgen.errors import UsageError
from distillgen.excluded import Excluded
from distillgen.files import dumps
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
    prepared: Prepared, path: Path, seeds: Callable[[Tally], Outcomes], note: Callable[[bytes], None],
    left_out: Excluded | None = None,
) -> None:  # fmt: skip
    """Note every key that a build would look up about seeds, as far as the answers stored at `path` lead."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as spare, contextlib.closing(_Noting(path, note)) as store:
        async with open_teachers(
            prepared.recipe, prepared.source, prepared.teachers_used, store, state=prepared.state, offline=True
        ) as teachers:
            steps = prepared.steps(teachers, left_out=left_out)
            outcomes = travel(seeds(tally), steps, tally=tally.step, spool=Path(spare), in_flight=BESIDE)
            async with contextlib.aclosing(outcomes):
                async for _ in outcomes:
                    pass
            await close(steps)


def readied(recipe: Path, state: Path, overrides: tuple[str, ...] = ()) -> Prepared:
    """Return a recipe as a build would have it. Raises what is wrong with it, and UsageError for seeds from a pipe."""
    if "-" in read_recipe(recipe, overrides)[0].seeds.paths:
        raise UsageError(
            "its seeds come from standard input, so nobody can tell which answers it needs", where=str(recipe),
            fix="keep the seeds in a file, or name other recipes: --recipe FILE, and --even-of for this one",
        )  # fmt: skip
    return prepare(
        recipe, overrides=overrides, skip_bad_seeds=True, will_ask=False, allow_unknown_price=True, state=state
    )


def overridden(manifest: Manifest) -> tuple[str, ...]:
    """Return what was `--set` for the build of a version, as far as it is figures of its steps and teachers.

    A version may come from elsewhere: nothing that it names is opened, run or asked.
    """
    return tuple(
        f"{key}={_figures(value)}"
        for key, value in manifest.overrides.items()
        if key.startswith(("steps[", "teachers.")) and _is_figures(value)
    )


def _is_figures(value: Any) -> bool:
    return all(map(_is_figures, value.values())) if isinstance(value, dict) else isinstance(value, int | float)


def _figures(value: Any) -> str:
    """Spell figures, and tables of them, as TOML does."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dumps(str(key))} = {_figures(each)}" for key, each in value.items()) + "}"
    return dumps(value)
