"""How somebody is asked when a student is measured: by the road, with answers kept in its store."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from distillgen.errors import DistillgenError, Problem, RowFailed, Unfinished
from distillgen.files import canonical, digest, disk_errors, write_atomically
from distillgen.pipeline import Options, set_out
from distillgen.preparation import Prepared, prepare_recipe
from distillgen.recipe import check_recipe
from distillgen.report.console import safe
from distillgen.rows import Failure, Rejection, Row, SeedEnd
from distillgen.shapes import close
from distillgen.state import EVALUATIONS
from distillgen.steps.text import as_text
from distillgen.student.contestants import Contestant
from distillgen.student.progress import OnEvent
from distillgen.student.questions import Question, replies_behind
from distillgen.student.scratch import prompt_folder
from distillgen.tally import Tally
from distillgen.teacher import Teacher, open_teachers
from distillgen.teacher.answers import AnswerStore

MEASURED = ("base", "student")  # how the names of those begin that are measured, and are no teachers
FILE = "questions.jsonl"
WAIT_SECONDS = 30.0  # without an answer until that is told
UNKNOWN_SAMPLING = "is not known here"  # of `grammar`, which llama.cpp takes
Settled: TypeAlias = Row | Rejection | Failure


@dataclass
class Answers:
    """What a contestant said: by the question's id, None where it gave no answer that can be used.

    `replies` are the records of all replies behind them, `received` the times (Unix time, latency in seconds) of those
    that came in this run. `why_not` counts why questions have no answer, `usd` is what this run spent, as far as prices
    are known.
    """

    texts: dict[str, str | None]
    replies: list[Mapping[str, Any]] = field(default_factory=list)
    received: list[tuple[float, float | None]] = field(default_factory=list)
    why_not: dict[str, int] = field(default_factory=dict)
    usd: float = 0.0

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of the prompts and completions, as far as the servers counted them."""
        counted = [reply["tokens"] for reply in self.replies if reply.get("tokens")]
        return {name: sum(int(each[name]) for each in counted) for name in ("prompt", "completion")}


@contextlib.asynccontextmanager
async def opened(prepared: Prepared) -> AsyncIterator[tuple[dict[str, Teacher], AnswerStore]]:
    """Yield the teachers of a contestant, and the store of its answers."""
    with contextlib.closing(AnswerStore(prepared.state / "answers.sqlite")) as store:
        store.take_in_notes()
        async with open_teachers(
            prepared.recipe, prepared.source, prepared.teachers_used, store, state=prepared.state
        ) as teachers:
            yield teachers, store


@contextlib.contextmanager
def prepared_for(contestant: Contestant, questions: Sequence[Question], state: Path) -> Iterator[Prepared]:
    """Yield a contestant's recipe with the questions as its seeds, checked whole.

    Raises what `prepare_recipe` raises, with the questions and prompts under their own names; TermsNotAccepted.
    """
    with prompt_folder(contestant.prompts, state) as folder:
        with disk_errors(folder):
            lines = (orjson.dumps(_seed(contestant, question)) + b"\n" for question in questions)
            (folder / FILE).write_bytes(b"".join(lines))
        table = {**contestant.table, "seeds": {"path": FILE}}
        try:
            recipe, source = check_recipe(table, folder / "recipe.toml")
            has_student = contestant.completion is not None
            prepared = prepare_recipe(
                recipe, source, state=state, has_student=has_student, allow_unknown_price=contestant.may_be_unpriced
            )
            # Base and student are asked about themselves: what they say is not trained on, and no terms are at stake.
            told = prepared.warnings if contestant.name.startswith(MEASURED) else prepared.cleared()
            prepared.warnings = [each for each in told if UNKNOWN_SAMPLING not in each.what]
        except DistillgenError as error:
            raise _at_its_own_place(error, folder) from None
        yield prepared


def _seed(contestant: Contestant, question: Question) -> Mapping[str, Any]:
    if contestant.prompt == "teacher":
        return question.columns
    return {"id": question.id, "messages": question.messages}


def _at_its_own_place(error: DistillgenError, folder: Path) -> DistillgenError:
    """Return an error without names of places that are not there when somebody reads it."""

    def told(text: str) -> str:
        for name in (f"{folder.resolve()}/", f"{folder}/"):
            text = text.replace(name, "")
        return text.replace("--set teachers.", "teachers.")  # the recipe is in memory, and nobody has set it

    error.problems = tuple(Problem(told(each.what), told(each.where), told(each.fix)) for each in error.problems)
    return error


async def ask(contestant: Contestant, questions: Sequence[Question], state: Path, on_event: OnEvent) -> Answers:
    """Return a contestant's answers; those that the store has are not asked for again.

    A question whose row failed for good, or was rejected by the recipe, has no answer. Raises what the road raises,
    and Unfinished where another run of the same command may bring an answer.
    """
    answers = Answers({question.id: None for question in questions})
    causes: dict[str, str] = {}

    def take(question: str, outcome: Settled) -> None:
        if not isinstance(outcome, Row):
            causes.setdefault(question, outcome.cause if isinstance(outcome, Failure) else outcome.rule)
        elif answers.texts[question] is None:  # of several that a recipe makes of one question the first counts
            answers.texts[question] = _said(outcome, contestant)

    with prepared_for(contestant, questions, state) as prepared:
        say_warnings(prepared, on_event)
        began = time.time()
        async with opened(prepared) as (teachers, store):
            answers.replies = await collect(contestant.name, questions, prepared, teachers, take, on_event)
            keep_noted(answers.replies, prepared.state)
            answers.usd = sum(teacher.nanousd for teacher in teachers.values()) / 1e9
            keys = [bytes.fromhex(reply["key"]) for reply in answers.replies]
            answers.received = [(at, seconds) for at, seconds in store.times(keys) if at >= began]
    unanswered = (why for question, why in causes.items() if answers.texts[question] is None)
    answers.why_not = dict(Counter(unanswered))
    return answers


def keep_noted(replies: Sequence[Mapping[str, Any]], state: Path) -> None:
    """Note which stored answers an evaluation needs, for whoever clears up the store: no version says so."""
    keys = sorted({str(reply["key"]) for reply in replies})
    folder = state / EVALUATIONS
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{digest(canonical(keys))[:32]}.json", orjson.dumps(keys))


def say_warnings(prepared: Prepared, on_event: OnEvent) -> None:
    """Tell what somebody should know before a contestant is asked."""
    for warning in prepared.warnings:
        on_event({"event": "message", "text": f"warning: {warning}", "style": "yellow"})


async def collect(
    who: str, questions: Sequence[Question], prepared: Prepared, teachers: dict[str, Teacher],
    take: Callable[[str, Settled], None], on_event: OnEvent,
) -> list[Mapping[str, Any]]:  # fmt: skip
    """Take questions down the road with teachers that are open; hand what becomes of each to `take`, by its id.

    Returns the records of the replies, each once. Raises what the road raises, and Unfinished.
    """
    whose = {row.origin: question.id for row, question in zip(prepared.seeds, questions, strict=True)}
    tally = Tally(teachers=teachers)
    steps = prepared.steps(teachers)
    replies: dict[str, Mapping[str, Any]] = {}
    done: set[str] = set()
    outcomes = set_out(prepared, Options(), tally, teachers, steps)
    waiting = asyncio.create_task(_tell_waits(who, teachers, done, on_event))
    try:
        async with contextlib.aclosing(outcomes):
            async for outcome in outcomes:
                if isinstance(outcome, SeedEnd):
                    continue
                row = outcome if isinstance(outcome, Row) else outcome.row
                replies |= {reply["key"]: reply for reply in replies_behind(row.trail)}
                take(whose[row.origin], outcome)
                if row.origin not in done:
                    done.add(row.origin)
                    on_event({"event": "asked", "who": who, "done": len(done), "of": len(questions)})
    finally:
        waiting.cancel()
        await close(steps)
    if tally.passing_failures:
        raise Unfinished(
            f"{tally.passing_failures:,} questions have no answer of {who} yet: {tally.last_failure}",
            fix="run the same command again: what was answered is kept",
        )
    return list(replies.values())


async def _tell_waits(who: str, teachers: Mapping[str, Teacher], done: set[str], on_event: OnEvent) -> None:
    """Tell now and then that no answer came for a while, and what the server said last."""
    while True:
        before = len(done)
        await asyncio.sleep(WAIT_SECONDS)
        if len(done) == before:
            last = next((teacher.pool.last_fault for teacher in teachers.values() if teacher.pool.last_fault), "")
            text = f"{who}: no answer for {WAIT_SECONDS:g} seconds" + (f"; last error {safe(last)}" if last else "")
            on_event({"event": "message", "text": text, "style": "yellow"})


def _said(row: Row, contestant: Contestant) -> str | None:
    """Return an answer, without a trace that the model was taught to write before it."""
    if contestant.completion is None:
        return as_text(row.columns.get("answer"))
    try:
        return contestant.completion.completion.render(row.columns)
    except RowFailed:
        return None


def taught(questions: Sequence[Question]) -> Answers:
    """Return what the teacher answered when the version was made."""
    replies = {str(reply["key"]): reply for question in questions for reply in question.replies}
    return Answers({question.id: question.taught for question in questions}, list(replies.values()))
