"""Takes one position through a run of row steps: at once as far as stored answers reach, the rest as a task."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from distillgen.errors import RowFailed
from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.shapes import (
    AskingStep,
    Inquiry,
    JoiningStep,
    RowStep,
    SlowStep,
    Step,
    Tally,
    is_asking,
    is_joining,
    is_slow,
)
from distillgen.teacher import several
from distillgen.teacher.several import Answer, Question

Place: TypeAlias = tuple[int, ...]
Settled: TypeAlias = list[tuple[Place, Outcome]]
Leave: TypeAlias = Callable[[str], Awaitable[None]]
LeftOut: TypeAlias = Callable[[Row, str], Rejection | None]  # of a row that a step makes: why it must not be
Errand: TypeAlias = Callable[[Settled], Awaitable[None]]  # what must be waited for before a row can walk on


async def free_to_ask(origin: str) -> None:
    """Wait for nothing: a teacher may be asked about any seed."""


class Walk:
    """A run of row steps. `samples` are the tasks of rows that wait for several answers at once.

    `leave` is awaited, with the id of the seed that a row comes of, before a teacher is asked about the row.
    `left_out` says which of the rows that answers make are left out: for a sample it is asked before the teacher.
    """

    def __init__(
        self, steps: tuple[Step, ...], tally: Tally, leave: Leave = free_to_ask, left_out: LeftOut | None = None
    ) -> None:
        self._steps, self._tally, self._leave, self._left_out = steps, tally, leave, left_out
        self._starts = tuple(self._start_of(step) for step in steps)
        self.samples: set[asyncio.Task[None]] = set()

    def _start_of(self, step: Step) -> Callable[[Row, int, Place, Settled, list[Errand]], None]:
        if is_asking(step):
            return self._ask
        if is_joining(step):
            return self._ask_all
        return self._set_to_work if is_slow(step) else self._apply

    def start(self, outcome: Outcome) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Return what becomes of a position, or something to await for it when it must be waited for."""
        if not isinstance(outcome, Row):
            return [outcome]
        settled: Settled = []
        errands: list[Errand] = []
        self._go(outcome, 0, (), settled, errands)
        return self._finish(settled, errands) if errands else _ordered(settled)

    def _go(self, row: Row, index: int, place: Place, settled: Settled, errands: list[Errand]) -> None:
        """Walk a row on from step `index` until it ends or must wait."""
        if index == len(self._steps):
            settled.append((place, row))
        else:
            self._starts[index](row, index, place, settled, errands)

    def _apply(self, row: Row, index: int, place: Place, settled: Settled, errands: list[Errand]) -> None:
        step: RowStep = self._steps[index]  # type: ignore[assignment]  # `travel` lets no other shape in here
        self._enter(index, place, step(row), settled, errands)

    def _set_to_work(self, row: Row, index: int, place: Place, settled: Settled, errands: list[Errand]) -> None:
        errands.append(functools.partial(self._work, row, index, place))

    def _ask(self, row: Row, index: int, place: Place, settled: Settled, errands: list[Errand]) -> None:
        step: AskingStep = self._steps[index]  # type: ignore[assignment]
        try:
            questions = step.questions(row)
        except RowFailed as failed:
            self._enter(index, place, [_failure(row, step.name, failed)], settled, errands)
            return
        asked: list[tuple[int, Question]] = []
        for sample, question in enumerate(questions):
            if self._left_out and (left_out := self._left_out(step.row_of(row, sample), step.name)):
                several.withdraw(question)  # before another sample of its family is asked for
                self._enter(index, (*place, sample), [left_out], settled, errands, sample == 0)
            else:
                asked.append((sample, question))
        for sample, question in asked:
            question, answer = _stored(step, question)
            if answer is None:
                errands.append(functools.partial(self._follow, row, index, (*place, sample), sample, question))
            else:
                results = self._made(step, row, sample, answer)
                self._enter(index, (*place, sample), results, settled, errands, sample == 0)

    def _made(self, step: AskingStep, row: Row, sample: int, answer: Answer) -> Iterable[Outcome]:
        """Return what becomes of a row with an answer; of a list's elements some may be left out."""
        made = step.rows(row, sample, answer)
        if self._left_out is None:
            return made
        return [(isinstance(each, Row) and self._left_out(each, step.name)) or each for each in made]

    def _ask_all(self, row: Row, index: int, place: Place, settled: Settled, errands: list[Errand]) -> None:
        step: JoiningStep = self._steps[index]  # type: ignore[assignment]
        try:
            found = [_stored(step, question) for question in step.questions(row)]
        except RowFailed as failed:
            self._enter(index, place, [_failure(row, step.name, failed)], settled, errands)
            return
        answers = [answer for _, answer in found if answer is not None]
        if len(answers) == len(found):
            self._enter(index, place, step.joined(row, answers), settled, errands)
        else:
            errands.append(functools.partial(self._join, row, index, place, found))

    def _enter(
        self, index: int, place: Place, results: Iterable[Outcome], settled: Settled, errands: list[Errand],
        rows_in: int = 1,
    ) -> None:  # fmt: skip
        results = tuple(results)
        self._tally(self._steps[index].name, results, rows_in)
        for number, result in enumerate(results):
            if isinstance(result, Row):
                self._go(result, index + 1, (*place, number), settled, errands)
            else:
                settled.append(((*place, number), result))

    async def _finish(self, settled: Settled, errands: list[Errand]) -> list[Outcome]:
        await self._run(errands, settled)
        return _ordered(settled)

    async def _run(self, errands: Sequence[Errand], settled: Settled) -> None:
        """Run each. An error of one ends the run; the others go on until the road has drained: they are paid for."""
        if len(errands) == 1:
            await errands[0](settled)
            return
        tasks = [asyncio.ensure_future(errand(settled)) for errand in errands]
        self.samples.update(tasks)
        await asyncio.gather(*tasks)
        self.samples.difference_update(tasks)

    async def _walk_on(
        self, index: int, place: Place, results: Iterable[Outcome], settled: Settled, rows_in: int = 1
    ) -> None:
        """Enter what a step made after a wait, as often as it takes."""
        errands: list[Errand] = []
        self._enter(index, place, results, settled, errands, rows_in)
        if errands:
            await self._run(errands, settled)

    async def _work(self, row: Row, index: int, place: Place, settled: Settled) -> None:
        step: SlowStep = self._steps[index]  # type: ignore[assignment]
        await self._walk_on(index, place, await step.work(row), settled)

    async def _follow(
        self, row: Row, index: int, place: Place, sample: int, question: Question, settled: Settled
    ) -> None:
        """Ask for one answer and walk on from there."""
        step: AskingStep = self._steps[index]  # type: ignore[assignment]
        results: Iterable[Outcome]
        await self._leave(row.origin)
        try:
            results = self._made(step, row, sample, await _answered(step, question))
        except RowFailed as failed:
            results = [_failure(step.row_of(row, sample), step.name, failed)]
        await self._walk_on(index, place, results, settled, sample == 0)

    async def _join(
        self, row: Row, index: int, place: Place, found: Sequence[tuple[Question, Answer | None]], settled: Settled
    ) -> None:
        """Ask for the answers that are not stored, all at once, and walk on with all of them."""
        step: JoiningStep = self._steps[index]  # type: ignore[assignment]
        answers: list[Answer | RowFailed | None] = [answer for _, answer in found]
        await self._leave(row.origin)

        async def get(number: int, question: Question, _: Settled) -> None:
            try:
                answers[number] = await _answered(step, question)
            except RowFailed as failed:
                answers[number] = failed

        missing = [
            functools.partial(get, number, question)
            for number, (question, answer) in enumerate(found)
            if answer is None
        ]
        await self._run(missing, settled)
        whole = [answer for answer in answers if answer is not None]
        await self._walk_on(index, place, step.joined(row, whole), settled)


def _stored(step: Inquiry, question: Question) -> tuple[Question, Answer | None]:
    """Return what is left to ask, with None, or the last question with its stored answer that will do."""
    answer = step.stored(question)
    while answer is not None and (further := step.ask_again(question, answer)) is not None:
        question, answer = further, step.stored(further)
    return question, answer


async def _answered(step: Inquiry, question: Question) -> Answer:
    """Return an answer that will do, or is the last. Raises RowFailed, or the error that stops the run."""
    try:
        answer = await step.ask(question)
        while (further := step.ask_again(question, answer)) is not None:
            question = further
            answer = step.stored(question) or await step.ask(question)
    except RowFailed as failed:
        if failed.cause == "not_sent":  # the run is ending: the row did not fail, it is given up as the others are
            raise asyncio.CancelledError from None
        raise
    return answer


def _failure(row: Row, step: str, failed: RowFailed) -> Failure:
    return Failure(row, step, failed.cause, failed.detail, failed.lasting, failed.attempts, failed.last_reply)


def _ordered(settled: Settled) -> list[Outcome]:
    if len(settled) > 1:
        settled.sort(key=lambda each: each[0])
    return [outcome for _, outcome in settled]
