"""The Python API: `build`, `plan` and `load`, for notebooks and scripts. They do what the commands of that name do."""

import asyncio
import json
import threading
import warnings
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distillgen import pipeline
from distillgen.dataset.looking import Kind, records_of, rows_of
from distillgen.dataset.manifest import FILE_NAME
from distillgen.dataset.story import stories_of
from distillgen.dataset.versions import Version, find_version
from distillgen.errors import NotFound
from distillgen.planning import foresee
from distillgen.preparation import Prepared, prepare
from distillgen.tally import Tally

T = TypeVar("T")


@dataclass(frozen=True)
class Dataset:
    """One published version of a dataset. Iterating over it gives its training rows; `len` is their number."""

    version: Version

    def __len__(self) -> int:
        """How many rows a student can see, of all splits."""
        return self.version.manifest.rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the training rows of all splits."""
        return self.rows()

    @property
    def label(self) -> str:
        """`name@3`."""
        return self.version.label

    @property
    def digest(self) -> str:
        """The digest of its content: 64 hexadecimal digits."""
        return self.version.manifest.digest

    @property
    def folder(self) -> Path:
        """Its folder, which `datasets.load_dataset(str(folder))` opens."""
        return self.version.folder

    @property
    def splits(self) -> dict[str, int]:
        """Rows of each split."""
        return dict(self.version.manifest.splits)

    @property
    def manifest(self) -> dict[str, Any]:
        """How it was made, as docs/format.md describes it: recipe, prompts, teachers, terms, funnel, run."""
        found: dict[str, Any] = json.loads((self.folder / FILE_NAME).read_bytes())
        return found

    def rows(self, split: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield training rows: `id`, `messages` (or `prompt`, `chosen`, `rejected`), `reasoning` where there is any.

        Raises NotFound for a split that is not there, Damaged.
        """
        return rows_of(self.version, "published", split=split)

    def provenance(self) -> Iterator[dict[str, Any]]:
        """Yield a record for each row: `split`, `origin`, `parent`, `steps` with what each noted, `columns`."""
        return records_of(self.version, "provenance")

    def rejected(self, rule: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records of rejected rows: `step`, `rule`, `detail` beside those of `provenance`."""
        return self._left_out("rejected", rule)

    def failed(self, cause: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records of failed rows: `step`, `cause`, `detail`, `lasting` beside those of `provenance`."""
        return self._left_out("failed", cause)

    def _left_out(self, kind: Kind, reason: str | None) -> Iterator[dict[str, Any]]:
        return rows_of(self.version, kind, rule=reason)

    def trace(self, row_id: str) -> list[list[str]]:
        """Return the story of a row, or of all rows of a seed, as lines. Raises NotFound."""
        return [list(story.lines()) for story in stories_of(self.version, row_id)]


@dataclass(frozen=True)
class Built:
    """What came of a build. `dataset` is None when nothing was published, and `is_new` False when nothing changed.

    `usd` is what the calls of this run cost in dollars, without the `unpriced_calls`, whose price is not known;
    `pending` counts batches under way, before which nothing is published; `ends` says why it is partial.
    """

    dataset: Dataset | None
    is_new: bool
    rejected: int
    failed: int
    calls: int
    usd: float
    unpriced_calls: int
    pending: int
    ends: str


def build(
    recipe: str | Path = "recipe.toml",
    *,
    limit: int | None = None,
    offline: bool = False,
    budget: float | None = None,
    publish: bool = True,
    publish_partial: bool = False,
    overrides: Mapping[str, str] | None = None,
    state: str | Path | None = None,
) -> Built:
    """Run a recipe and publish a version. `budget` is in dollars, `overrides` are keys with their values as TOML.

    Raises what the command would stop with, all of them DistillgenError with `code` and `exit_status`; what was decided
    is kept, and the same call goes on. Warnings are Python warnings. Works where an event loop runs, as in a notebook.
    """
    prepared = _prepared(recipe, overrides, budget, state, will_ask=not offline)
    for warning in prepared.cleared():
        warnings.warn(str(warning), stacklevel=2)
    tally = Tally()
    options = pipeline.Options(limit=limit, publish=publish, offline=offline, publish_partial=publish_partial)
    result = _run(pipeline.build(prepared, options, tally))
    version = result.version or result.unchanged
    return Built(
        dataset=Dataset(version) if version is not None else None,
        is_new=result.version is not None,
        rejected=tally.rejected,
        failed=tally.failed,
        calls=tally.calls,
        usd=tally.usd,
        unpriced_calls=tally.unpriced,
        pending=len(result.pending),
        ends=result.ends,
    )


def plan(
    recipe: str | Path = "recipe.toml",
    *,
    limit: int | None = None,
    budget: float | None = None,
    overrides: Mapping[str, str] | None = None,
    state: str | Path | None = None,
) -> dict[str, Any]:
    """Return what a build would do, as `distillgen plan --json` prints it. Nothing is sent or written."""
    prepared = _prepared(recipe, overrides, budget, state, will_ask=False)
    outlook = _run(foresee(prepared, pipeline.Options(limit=limit, offline=True)))
    found: dict[str, Any] = json.loads(json.dumps(outlook))
    return found


def load(name: str, project: str | Path = ".") -> Dataset:
    """Return a version: `name`, `name@3`, `name@latest`, `name@sha256:...`, or its folder. Raises NotFound, Damaged."""
    folder = Path(project)
    if not folder.is_dir():
        raise NotFound(f"no folder {str(folder)!r}")
    return Dataset(find_version(name, folder / "datasets"))


def _prepared(
    recipe: str | Path, overrides: Mapping[str, str] | None, budget: float | None, state: str | Path | None, *,
    will_ask: bool,
) -> Prepared:  # fmt: skip
    changes = {**(overrides or {}), **({"budget.usd": str(float(budget))} if budget is not None else {})}
    return prepare(
        Path(recipe), overrides=tuple(f"{key}={value}" for key, value in changes.items()), will_ask=will_ask,
        state=None if state is None else Path(state),
    )  # fmt: skip


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run async work to its end, in a thread of its own where an event loop is at work already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="distillgen")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
