"""THE road in one screen: recipe -> seeds -> prompts -> teacher -> quality -> dataset."""

import asyncio
import contextlib
import math
import platform
import time
from collections.abc import AsyncGenerator, Container, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from distillgen import __version__
from distillgen.dataset.manifest import Manifest
from distillgen.dataset.splits import split_of
from distillgen.dataset.training_rows import training_row
from distillgen.dataset.versions import Publication, Version
from distillgen.errors import (
    BudgetSpent,
    DistillgenError,
    NothingToPublish,
    QuotaSpent,
    SeedsEmpty,
    TeacherUnavailable,
    Unfinished,
)
from distillgen.files import Lock
from distillgen.preparation import Prepared
from distillgen.road import Outcomes, in_thread, travel
from distillgen.rows import Failure, Outcome, Rejection, Row, SeedEnd
from distillgen.steps.text import text_of
from distillgen.tally import Tally
from distillgen.teacher import Teacher, drain, open_teachers
from distillgen.teacher.answers import AnswerStore

if TYPE_CHECKING:
    from distillgen.teacher.batch import Pending

STOPS = (BudgetSpent, QuotaSpent, TeacherUnavailable)  # after which what is decided may be published


@dataclass
class Options:
    """What a command says about one run, besides the recipe."""

    limit: int | None = None
    publish: bool = True
    offline: bool = False
    publish_partial: bool = False
    prefer_first: bool = False


@dataclass
class Result:
    """What came of a run. `version` is None when nothing was published: nothing new, or not asked to.

    `ends` says why the version is a prefix of the seeds: limit, target_rows, stopped; `stop` is what stopped the run;
    `pending` are batches under way: nothing is published before they are in; `notes` are what went wrong with some.
    """

    version: Version | None
    unchanged: Version | None
    tally: Tally
    ends: str = ""
    stop: DistillgenError | None = None
    pending: "list[Pending]" = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def build(prepared: Prepared, options: Options, tally: Tally) -> Result:
    """Take a recipe to a published version, or go on where an earlier run stopped. Raises DistillgenError."""
    recipe, state = prepared.recipe, prepared.state
    stopped: DistillgenError | None = None
    notes: list[str] = []
    with (
        Lock(state / "lock"),
        contextlib.closing(AnswerStore(state / "answers.sqlite")) as store,
        contextlib.closing(Publication(prepared.home, recipe)) as publication,
    ):
        store.take_in_notes()
        async with open_teachers(
            recipe, prepared.source, prepared.teachers_used, store, state=state, offline=options.offline
        ) as teachers:
            tally.teachers = teachers
            road = Road(prepared, options, tally, teachers)
            try:
                await road.go(publication)
                pending = await submit(teachers)
                notes = [note for each in teachers.values() if each.batches for note in each.batches.notes]
                if pending:
                    return Result(None, None, tally, pending=pending, notes=notes)
                if held := tally.causes["over_budget"]:
                    raise BudgetSpent(
                        f"the budget does not allow one of {held:,} requests in this run", fix="raise [budget]"
                    )
            except STOPS as stop:
                if not options.publish_partial:
                    raise
                stopped = stop
                publication.begin_again()
                await road.go_as_far_as_decided(publication)
        result = publish(publication, prepared, options, tally, road.ends)
        result.stop, result.notes = stopped, notes
        return result


async def submit(teachers: dict[str, Teacher]) -> "list[Pending]":
    """Send what was queued for batches; return what is under way."""
    pending: list[Pending] = []
    for teacher in teachers.values():
        if teacher.batches is not None:
            await teacher.batches.submit()
            pending += teacher.batches.pending
    return pending


class Road:
    """One recipe's seeds on their way into a publication; `ends` says why it did not take all of them."""

    def __init__(self, prepared: Prepared, options: Options, tally: Tally, teachers: dict[str, Teacher]) -> None:
        self._prepared, self._options, self._tally, self._teachers = prepared, options, tally, teachers
        self._target = prepared.recipe.dataset.target_rows
        self._spool = prepared.state / "spool"
        self.ends = "limit" if options.limit is not None else ""

    async def go(self, publication: Publication) -> None:
        """Take every seed down the road, or as many as the target needs."""
        if self._target is None:
            async with contextlib.aclosing(self._outcomes(publication)) as outcomes:
                async for outcome in outcomes:
                    keep(outcome, publication, self._prepared, self._tally)
            return
        ahead = LookAhead(self._target - sum(publication.splits.values()), self._tally)
        if ahead.is_reached:
            self.ends = "target_rows"
            return
        async with contextlib.aclosing(self._outcomes(publication, ahead)) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, SeedEnd):
                    ahead.settle()
                    if ahead.is_reached:
                        self.ends = "target_rows"
                        return
                else:
                    keep(outcome, publication, self._prepared, self._tally)

    async def go_as_far_as_decided(self, publication: Publication) -> None:
        """Take seeds down the road, without a call, until the first one of which something is not decided."""
        for teacher in self._teachers.values():
            teacher.go_offline()
        self._tally.begin_again()
        ahead = LookAhead(
            None if self._target is None else self._target - sum(publication.splits.values()), self._tally
        )
        pending: list[Outcome] = []
        async with contextlib.aclosing(self._outcomes(publication, ahead)) as outcomes:
            async for outcome in outcomes:
                if not isinstance(outcome, SeedEnd):
                    pending.append(outcome)
                    continue
                if any(isinstance(each, Failure) and each.cause == "not_stored" for each in pending):
                    break
                for each in pending:
                    keep(each, publication, self._prepared, self._tally)
                pending = []
                ahead.settle()
                if ahead.is_reached:
                    break
        self.ends = "target_rows" if ahead.is_reached else "stopped"

    def _outcomes(self, publication: Publication, ahead: "LookAhead | None" = None) -> Outcomes:
        teachers = self._teachers
        return travel(
            read_seeds(self._prepared, self._options, self._tally, publication.inherited, ahead),
            self._prepared.steps(teachers, prefer_first=self._options.prefer_first),
            tally=self._tally.step,
            spool=self._spool,
            in_flight=rows_at_once(teachers),
            drain=lambda: drain(teachers.values()),
        )


class LookAhead:
    """How far asking may run ahead of a target: as many seeds as the rows still wanted are likely to need.

    `wanted` is None when there is no target; then seeds are only counted.
    """

    def __init__(self, wanted: int | None, tally: Tally) -> None:
        self._wanted, self._tally = wanted, tally
        self._fed = 0
        self._settled = asyncio.Event()

    @property
    def is_reached(self) -> bool:
        """Whether there are enough rows, those whose answers come with a batch counted in."""
        return self._wanted is not None and self._made >= self._wanted

    @property
    def _made(self) -> int:
        causes = self._tally.causes
        return self._tally.published + causes["queued"] + causes["in_batch"]

    def settle(self) -> None:
        """Count a seed of which everything has passed."""
        self._tally.settled += 1
        self._settled.set()

    async def room(self) -> None:
        """Wait until one more seed may set out."""
        while self._wanted is not None and self._fed - self._tally.settled >= self._likely():
            self._settled.clear()
            await self._settled.wait()
        self._fed += 1

    def _likely(self) -> int:
        """Return how many seeds the rows that are still wanted are likely to need, going by those settled so far."""
        a_seed = (self._made + 1) / (self._tally.settled + 1)
        return max(1, math.ceil(((self._wanted or 0) - self._made) / a_seed))


def rows_at_once(teachers: dict[str, Teacher]) -> int:
    """Return how many rows may wait for answers: twice what may be in flight, so that no teacher idles."""
    return 2 * sum(pool.cap for pool in {teacher.pool for teacher in teachers.values()}) + 8


async def read_seeds(
    prepared: Prepared, options: Options, tally: Tally, known: Container[str] = (), ahead: LookAhead | None = None
) -> Outcomes:
    """Yield the seeds as rows, but for those whose ids are `known`; a slow pipe holds up nothing.

    With `ahead`, seeds wait until they may set out, and the end of each is marked.
    """
    rows: Iterator[Row] = islice(prepared.seeds, options.limit)
    async for row in in_thread(rows) if prepared.seeds.is_stdin else _at_once(rows):
        tally.seeds += 1
        if row.id in known:
            continue
        if ahead is None:
            yield row
            continue
        await ahead.room()
        yield row
        yield SeedEnd(row.origin)


async def _at_once(rows: Iterator[Row]) -> AsyncGenerator[Row, None]:
    for row in rows:
        yield row


def keep(outcome: Outcome, publication: Publication, prepared: Prepared, tally: Tally) -> None:
    """Put one outcome where it belongs: a split, the rejected, or the failed rows."""
    if isinstance(outcome, Row):
        training = training_row(outcome, prepared.student)
        if isinstance(training, Rejection):
            tally.step("student", (training,))
            publication.rejected(training)
            return
        by = prepared.recipe.dataset.split_by
        split = split_of(text_of(outcome, by) if by else outcome.origin, prepared.recipe.dataset.splits)
        publication.row(split, training, outcome)
        tally.row_published(split, training)
    elif isinstance(outcome, Failure):
        publication.failed(outcome)
    elif isinstance(outcome, Rejection):
        publication.rejected(outcome)


def publish(publication: Publication, prepared: Prepared, options: Options, tally: Tally, ends: str) -> Result:
    """Publish what was kept, unless it cannot or need not be. Raises Unfinished or NothingToPublish."""
    tally.skipped_seeds = prepared.seeds.skipped
    if options.offline and (missing := tally.causes.get("not_stored", 0)):
        raise Unfinished(
            f"{missing:,} answers are not stored, and this build is offline", fix="run it without --offline"
        )
    if not tally.seeds and not publication.splits:
        raise SeedsEmpty("not a single seed", where=", ".join(prepared.recipe.seeds.paths))
    if not publication.splits:
        if tally.passing_failures:
            raise Unfinished(f"no row was made: {tally.why_empty()}", fix="run the same command again later")
        raise NothingToPublish("no row is left to publish", fix=tally.why_empty())
    digest = publication.finish()
    parent = publication.parent
    is_partial = bool(ends)
    if parent is not None and parent.manifest.digest == digest and parent.manifest.is_partial == is_partial:
        return Result(None, parent, tally, ends)
    if not options.publish:
        return Result(None, None, tally, ends)
    manifest = describe(prepared, publication, digest, tally, ends)
    return Result(publication.publish(manifest, prepared.student.features), None, tally, ends)


def describe(prepared: Prepared, publication: Publication, digest: str, tally: Tally, ends: str) -> Manifest:
    """Return the manifest of the version in the making."""
    recipe, seeds = prepared.recipe, prepared.seeds
    used = {prompt.name: prompt.source for prompt in prepared.prompts.values()}
    return Manifest(
        name=recipe.name,
        version=publication.number,
        parent=publication.parent.manifest.version if publication.parent else None,
        digest=digest,
        is_partial=bool(ends),
        ends=ends,
        rows=sum(publication.splits.values()),
        splits=publication.splits,
        recipe=recipe.model_dump(mode="json", exclude_unset=True),
        overrides=dict(prepared.source.overrides),
        prompts=used,
        seeds={
            "path": recipe.seeds.paths,
            "count": tally.settled if ends in ("target_rows", "stopped") else seeds.count,
            "sha256": None if ends in ("target_rows", "stopped") else seeds.sha256,  # more were read ahead
            "skipped": seeds.skipped,
        },
        teachers={name: dict(teacher.identity.facts) for name, teacher in tally.teachers.items()},
        funnel=tally.funnel(),
        files={},
        software={"distillgen": __version__, "python": platform.python_version()},
        run=tally.run(finished=time.time()),
    )
