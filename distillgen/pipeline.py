"""THE road in one screen: recipe -> seeds -> prompts -> teacher -> quality -> dataset."""

import asyncio
import contextlib
import functools
import platform
import time
from collections.abc import AsyncGenerator, Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard

from distillgen import __version__
from distillgen.dataset.gate import what_is_missing
from distillgen.dataset.manifest import Manifest
from distillgen.dataset.publication import Publication
from distillgen.dataset.splits import split_of
from distillgen.dataset.training_rows import training_row
from distillgen.dataset.versions import Version
from distillgen.earlier import Memory, is_remembering, sweep_indexes
from distillgen.errors import (
    BudgetSpent,
    DistillgenError,
    GateClosed,
    NothingToPublish,
    Problem,
    QuotaSpent,
    SeedsEmpty,
    TeacherUnavailable,
    Unfinished,
)
from distillgen.excluded import STEP, Excluded
from distillgen.files import Lock
from distillgen.preparation import Prepared
from distillgen.reach import LookAhead, until_reached, while_decided
from distillgen.road import in_thread, travel
from distillgen.rows import Failure, Outcome, Rejection, Row, SeedEnd
from distillgen.shapes import Outcomes, Step, close
from distillgen.steps.text import text_of
from distillgen.tally import Tally
from distillgen.teacher import Teacher, drain, open_teachers
from distillgen.teacher.answers import AnswerStore
from distillgen.terms import says_other_terms
from distillgen.walk import free_to_ask

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
    `pending` are batches under way: nothing is published before they are in. `warnings` are of what went wrong once
    the version was out.
    """

    version: Version | None
    unchanged: Version | None
    tally: Tally
    ends: str = ""
    stop: DistillgenError | None = None
    pending: "list[Pending]" = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


async def build(prepared: Prepared, options: Options, tally: Tally) -> Result:
    """Take a recipe to a published version, or go on where an earlier run stopped. Raises DistillgenError."""
    recipe, state = prepared.recipe, prepared.state
    with (
        Lock(state / "lock"),
        Lock(prepared.home / ".lock"),  # two states may have one dataset
        contextlib.closing(AnswerStore(state / "answers.sqlite")) as store,
        contextlib.closing(Publication(prepared.home, recipe, prepared.left_out())) as publication,
    ):
        store.take_in_notes()
        async with contextlib.AsyncExitStack() as held:  # what steps hold, until the version is published
            return await _build(prepared, options, tally, store, publication, held)


async def _build(
    prepared: Prepared, options: Options, tally: Tally, store: AnswerStore, publication: Publication,
    held: contextlib.AsyncExitStack,
) -> Result:  # fmt: skip
    stopped: DistillgenError | None = None
    async with open_teachers(
        prepared.recipe, prepared.source, prepared.teachers_used, store, state=prepared.state, offline=options.offline
    ) as teachers:
        tally.teachers = teachers
        try:
            ends, memory = await go(prepared, options, tally, teachers, publication, held)
            pending = await submit(teachers, tally)
        except STOPS as stop:
            if not options.publish_partial:
                raise
            stopped, pending = stop, []
            ends, memory = await go_again(prepared, options, tally, teachers, publication, held)
            if not publication.splits:
                raise stop
    if pending:
        return Result(None, None, tally, pending=pending)
    result = publish(publication, prepared, options, tally, ends)
    if result.version is not None:
        result.warnings = memory.save(result.version)
    if not ends:
        result.warnings += publication.left_out.unmatched()
    result.stop = stopped
    return result


async def go(
    prepared: Prepared, options: Options, tally: Tally, teachers: dict[str, Teacher], publication: Publication,
    held: contextlib.AsyncExitStack, *, is_decided: bool = False,
) -> tuple[str, Memory]:  # fmt: skip
    """Take the seeds down the road into a publication, with `is_decided` as far as everything is decided.

    Returns why it did not take all of them (limit, target_rows, stopped; or nothing), and what the next run is to be
    compared with.
    """
    left_out = publication.left_out
    make = functools.partial(prepared.steps, teachers, prefer_first=options.prefer_first, left_out=left_out)
    steps = await asyncio.to_thread(make)  # a step may read long files first, and a signal is heard meanwhile
    held.push_async_callback(close, steps)
    sweep_indexes(prepared.place, steps)
    memory = Memory(prepared.place, {step.name: step for step in steps if is_remembering(step)})
    for rejection in publication.dropped:
        tally.step(rejection.step, (rejection,))
    target = prepared.recipe.dataset.target_rows
    wanted = None if target is None else target - sum(publication.splits.values())
    tally.wanted = wanted
    ahead = LookAhead(wanted, tally) if is_decided or wanted is not None else None
    if ahead is not None and ahead.is_reached:
        return "target_rows", memory
    outcomes = set_out(prepared, options, tally, teachers, steps, publication.inherited, ahead, left_out)
    if is_decided:
        outcomes = while_decided(outcomes)
    if ahead is not None:
        outcomes = until_reached(outcomes, ahead)
    async with contextlib.aclosing(outcomes):
        async for outcome in outcomes:
            if keep(outcome, publication, prepared, tally):
                memory.published(outcome)
    if ahead is not None and ahead.is_reached:
        return "target_rows", memory
    return "stopped" if is_decided else "limit" if options.limit is not None else "", memory


def set_out(
    prepared: Prepared, options: Options, tally: Tally, teachers: dict[str, Teacher], steps: Sequence[Step],
    known: Container[str] = (), ahead: LookAhead | None = None, left_out: Excluded | None = None,
) -> Outcomes:  # fmt: skip
    """Return what becomes of the seeds, but for those `known`, in their order; close it to stop what is under way."""
    return travel(
        read_seeds(prepared, options, tally, known, ahead, left_out), steps,
        tally=tally.step if ahead is None else ahead.step,
        spool=prepared.state / "spool", in_flight=rows_at_once(teachers),
        drain=lambda: drain(teachers.values()),
        leave=free_to_ask if ahead is None else ahead.leave, left_out=left_out.row if left_out else None,
    )  # fmt: skip


async def go_again(
    prepared: Prepared, options: Options, tally: Tally, teachers: dict[str, Teacher], publication: Publication,
    held: contextlib.AsyncExitStack,
) -> tuple[str, Memory]:  # fmt: skip
    """Take the seeds down the road once more, without a call, as far as everything was decided when the run stopped."""
    for teacher in teachers.values():
        teacher.go_offline()
    publication.begin_again()
    tally.begin_again()
    return await go(prepared, options, tally, teachers, publication, held, is_decided=True)


async def submit(teachers: dict[str, Teacher], tally: Tally) -> "list[Pending]":
    """Send what was queued for batches; return what is under way. Raises BudgetSpent when nothing could be paid."""
    pending: list[Pending] = []
    for teacher in teachers.values():
        if teacher.batches is not None:
            await teacher.batches.submit()
            pending += teacher.batches.pending
    if not pending and (held := tally.causes["over_budget"]):
        raise BudgetSpent(f"the budget does not allow one of {held:,} requests in this run", fix="raise [budget]")
    return pending


def rows_at_once(teachers: dict[str, Teacher]) -> int:
    """Return how many rows may wait for answers: twice what may be in flight, so that no teacher idles."""
    return 2 * sum(pool.cap for pool in {teacher.pool for teacher in teachers.values()}) + 8


async def read_seeds(
    prepared: Prepared, options: Options, tally: Tally, known: Container[str] = (), ahead: LookAhead | None = None,
    left_out: Excluded | None = None,
) -> Outcomes:  # fmt: skip
    """Yield the seeds as rows, but for those whose ids are `known`; a slow pipe holds up nothing.

    With `ahead`, seeds wait until they may set out, and the end of each is marked. Those `left_out` come as rejected.
    """
    rows: Iterator[Row] = islice(prepared.seeds, options.limit)
    async for row in in_thread(rows) if prepared.seeds.is_stdin else _at_once(rows):
        tally.seeds += 1
        if row.id in known:
            tally.known += 1
            continue
        outcome: Outcome = row
        if ahead is not None:
            await ahead.room(row.origin)
        if left_out:
            outcome = left_out.seed(row)
            (tally if ahead is None else ahead).step(STEP, (outcome,))
        yield outcome
        if ahead is not None:
            yield SeedEnd(row.origin)


async def _at_once(rows: Iterator[Row]) -> AsyncGenerator[Row, None]:
    for row in rows:
        yield row


def keep(outcome: Outcome, publication: Publication, prepared: Prepared, tally: Tally) -> TypeGuard[Row]:
    """Put one outcome where it belongs: a split, the rejected, or the failed rows. Returns whether it is published."""
    if isinstance(outcome, Row):
        training = training_row(outcome, prepared.student)
        if isinstance(training, Rejection):
            tally.step("student", (training,))
            publication.rejected(training)
            return False
        by = prepared.recipe.dataset.split_by
        split = split_of(text_of(outcome, by) if by else outcome.origin, prepared.recipe.dataset.splits)
        publication.row(split, training, outcome)
        tally.row_published(split, training, outcome.trail)
        return True
    if isinstance(outcome, Failure):
        publication.failed(outcome)
    elif isinstance(outcome, Rejection):
        publication.rejected(outcome)
    return False


def publish(publication: Publication, prepared: Prepared, options: Options, tally: Tally, ends: str) -> Result:
    """Publish what was kept, unless it cannot or need not be. Raises Unfinished or NothingToPublish."""
    tally.skipped_seeds = prepared.seeds.skipped
    if options.offline and (missing := tally.causes.get("not_stored", 0)):
        raise Unfinished(
            f"{missing:,} answers are not stored, and this build is offline", fix="run it without --offline"
        )
    if not tally.seeds and not publication.splits:
        raise SeedsEmpty("not a single seed", where=", ".join(prepared.recipe.seeds.paths))
    if not publication.splits and tally.passing_failures:
        raise Unfinished(f"no row was made: {tally.why_empty()}", fix="run the same command again later")
    if not publication.splits and not options.publish:
        return Result(None, None, tally, ends)
    digest = publication.finish()
    if not publication.splits:
        folder = publication.put_aside(describe(prepared, publication, digest, tally, ends), prepared.student.features)
        raise NothingToPublish(
            f"no row is left to publish: {tally.why_empty()}",
            fix=f"see `distillgen show {folder} --rejected` (or --failed), then change the recipe",
        )
    parent = publication.parent
    is_partial = bool(ends)
    if parent is not None and (parent.manifest.digest, parent.manifest.is_partial) == (digest, is_partial):
        record = parent.manifest.terms
        if not options.publish or not says_other_terms(record, _terms(prepared, publication)):
            return Result(None, parent, tally, ends)
    if not options.publish:
        return Result(None, None, tally, ends)
    manifest = describe(prepared, publication, digest, tally, ends)
    stop_at_gate(manifest, publication, prepared, tally)
    return Result(publication.publish(manifest, prepared.student.features), None, tally, ends)


def stop_at_gate(manifest: Manifest, publication: Publication, prepared: Prepared, tally: Tally) -> None:
    """Raise GateClosed when the rows fall short of the recipe's quality gate, and keep them where they can be seen."""
    short = what_is_missing(
        prepared.recipe.dataset.gate, rows=manifest.rows, published=tally.published, rejected=tally.rejected,
        failed=tally.failed, agreement=tally.mean("agreement"), score=tally.mean("score"),
    )  # fmt: skip
    if short:
        folder = publication.put_aside(manifest, prepared.student.features)
        raise GateClosed(
            f"the quality gate is closed: {'; '.join(short)}",
            fix=f"nothing was published; see `distillgen show {folder} --rejected`, then change the recipe or its gate",
        )


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
        terms=_terms(prepared, publication),
        funnel=tally.funnel(),
        files={},
        software={"distillgen": __version__, "python": platform.python_version()},
        run=tally.run(finished=time.time()),
    )


def _terms(prepared: Prepared, publication: Publication) -> dict[str, Any]:
    """Return what the terms meant when the version was made."""
    if prepared.terms is None:
        return {}
    before = publication.parent.manifest.terms if publication.parent else {}
    return prepared.terms.record(time.strftime("%Y-%m-%d", time.gmtime()), before)
