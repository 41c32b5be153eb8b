"""THE road in one screen: recipe -> seeds -> prompts -> teacher -> quality -> dataset."""

import contextlib
import platform
import tempfile
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distillgen import __version__
from distillgen.dataset.manifest import Manifest
from distillgen.dataset.splits import split_of
from distillgen.dataset.training_rows import training_row
from distillgen.dataset.versions import Publication, Version
from distillgen.errors import NothingToPublish, RowFailed, SeedsEmpty, Unfinished
from distillgen.files import Lock
from distillgen.preparation import Prepared
from distillgen.prompts import Messages
from distillgen.road import Outcomes, Step, in_thread, travel
from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.steps.generate import Generate
from distillgen.steps.text import text_of
from distillgen.tally import StepCount, Tally
from distillgen.teacher import Teacher, open_teachers
from distillgen.teacher.answers import AnswerStore

BESIDE = 64  # rows a plan may hold at once: it never waits for an answer


@dataclass
class Options:
    """What a command says about one run, besides the recipe."""

    limit: int | None = None
    publish: bool = True
    offline: bool = False


@dataclass
class Result:
    """What came of a run. `version` is None when nothing was published: nothing new, or not asked to."""

    version: Version | None
    unchanged: Version | None
    tally: Tally


async def build(prepared: Prepared, options: Options, tally: Tally) -> Result:
    """Take a recipe to a published version, or go on where an earlier run stopped. Raises DistillgenError."""
    recipe, state = prepared.recipe, prepared.state
    with (
        Lock(state / "lock"),
        contextlib.closing(AnswerStore(state / "answers.sqlite")) as store,
        contextlib.closing(Publication(prepared.home, recipe)) as publication,
    ):
        async with open_teachers(
            recipe, prepared.source, prepared.teachers_used, store, state=state, offline=options.offline
        ) as teachers:
            tally.teachers = teachers
            seeds = read_seeds(prepared, options, tally, publication.inherited)
            steps = prepared.steps(teachers)
            outcomes = travel(seeds, steps, tally=tally.step, spool=state / "spool", in_flight=rows_at_once(teachers))
            async with contextlib.aclosing(outcomes):
                async for outcome in outcomes:
                    keep(outcome, publication, prepared, tally)
        return publish(publication, prepared, options, tally)


def rows_at_once(teachers: dict[str, Teacher]) -> int:
    """Return how many rows may wait for answers: twice what may be in flight, so that no teacher idles."""
    return 2 * sum(teacher.max_in_flight for teacher in teachers.values()) + 8


async def read_seeds(prepared: Prepared, options: Options, tally: Tally, known: Container[str] = ()) -> Outcomes:
    """Yield the seeds as rows, but for those whose ids are `known`; a slow pipe holds up nothing."""
    rows: Iterator[Row] = islice(prepared.seeds, options.limit)
    if prepared.seeds.is_stdin:
        async for row in in_thread(rows):
            tally.seeds += 1
            if row.id not in known:
                yield row
    else:
        for row in rows:
            tally.seeds += 1
            if row.id not in known:
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
    else:
        publication.rejected(outcome)


def publish(publication: Publication, prepared: Prepared, options: Options, tally: Tally) -> Result:
    """Publish what was kept, unless it cannot or need not be. Raises Unfinished or NothingToPublish."""
    tally.skipped_seeds = prepared.seeds.skipped
    if options.offline and (missing := tally.causes.get("not_stored", 0)):
        raise Unfinished(
            f"{missing:,} answers are not stored, and this build is offline", fix="run it without --offline"
        )
    if not tally.seeds:
        raise SeedsEmpty("not a single seed", where=", ".join(prepared.recipe.seeds.paths))
    if not publication.splits:
        if tally.passing_failures:
            raise Unfinished(f"no row was made: {tally.why_empty()}", fix="run the same command again later")
        raise NothingToPublish("no row is left to publish", fix=tally.why_empty())
    digest = publication.finish()
    parent = publication.parent
    is_partial = options.limit is not None
    if parent is not None and parent.manifest.digest == digest and parent.manifest.is_partial == is_partial:
        return Result(None, parent, tally)
    if not options.publish:
        return Result(None, None, tally)
    manifest = describe(prepared, options, publication, digest, tally)
    return Result(publication.publish(manifest, prepared.student.features), None, tally)


def describe(prepared: Prepared, options: Options, publication: Publication, digest: str, tally: Tally) -> Manifest:
    """Return the manifest of the version in the making."""
    recipe, seeds = prepared.recipe, prepared.seeds
    used = {prompt.name: prompt.source for prompt in prepared.prompts.values()}
    return Manifest(
        name=recipe.name,
        version=publication.number,
        parent=publication.parent.manifest.version if publication.parent else None,
        digest=digest,
        is_partial=options.limit is not None,
        rows=sum(publication.splits.values()),
        splits=publication.splits,
        recipe=recipe.model_dump(mode="json", exclude_unset=True),
        overrides=dict(prepared.source.overrides),
        prompts=used,
        seeds={"path": recipe.seeds.paths, "count": seeds.count, "sha256": seeds.sha256, "skipped": seeds.skipped},
        teachers={name: dict(teacher.identity.facts) for name, teacher in tally.teachers.items()},
        funnel=tally.funnel(),
        files={},
        software={"distillgen": __version__, "python": platform.python_version()},
        run=tally.run(finished=time.time()),
    )


async def foresee(prepared: Prepared, options: Options) -> dict[str, Any]:
    """Return what a build would do, by going down the road with stored answers only: rows, calls, rendered prompts."""
    tally = Tally()
    path = prepared.state / "answers.sqlite"
    with tempfile.TemporaryDirectory() as spare:  # a plan leaves no trace in a project without a store
        store = AnswerStore(path if path.exists() else Path(spare) / "answers.sqlite")
        with contextlib.closing(store):
            async with open_teachers(
                prepared.recipe, prepared.source, prepared.teachers_used, store, state=prepared.state, offline=True
            ) as teachers:
                steps = prepared.steps(teachers)
                first: dict[str, Messages] = {}
                seeds = read_seeds(prepared, options, tally)
                outcomes = travel(seeds, steps, tally=tally.step, spool=Path(spare), in_flight=BESIDE)
                async with contextlib.aclosing(outcomes):
                    async for outcome in outcomes:
                        _note_prompt(outcome, steps, first)
    return {
        "recipe": prepared.recipe.name,
        "seeds": tally.seeds,
        "skipped_seeds": prepared.seeds.skipped,
        "steps": [_outlook(step, tally) for step in steps],
        "prompts": [
            {
                "step": s.name,
                "prompt": s.prompt.name,
                "teacher": s.teacher.identity.name,
                "model": s.teacher.identity.model,
                "messages": first[s.name],
            }
            for s in steps
            if isinstance(s, Generate) and s.name in first
        ],
        "warnings": [str(warning) for warning in prepared.warnings],
    }


def _note_prompt(outcome: Outcome, steps: Sequence[Step], first: dict[str, Messages]) -> None:
    """Keep the first prompt that can be rendered for each asking step."""
    row = outcome if isinstance(outcome, Row) else outcome.row
    for step in steps:
        if isinstance(step, Generate) and step.name not in first:
            with contextlib.suppress(RowFailed):
                first[step.name] = step.render(row)


def _outlook(step: Step, tally: Tally) -> dict[str, Any]:
    """Return what is known of one step: calls it needs, answers it has, calls that depend on others' answers."""
    count = tally.steps.get(step.name, StepCount())
    outlook: dict[str, Any] = {"step": step.name, "rows": count.rows_in + count.born}
    if isinstance(step, Generate):
        calls = count.failed.get("not_stored", 0)
        outlook |= {"calls": calls, "stored": count.rows_in * step.settings.samples - calls}
        before = (
            list(tally.steps)[: list(tally.steps).index(step.name)] if step.name in tally.steps else list(tally.steps)
        )
        waiting = sum(tally.steps[name].failed.get("not_stored", 0) for name in before)
        if waiting:
            outlook["more"] = waiting * step.settings.samples
    return outlook
