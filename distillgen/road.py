"""How rows travel: all steps at once, asking out of order, order restored where it matters, memory flat.

A position is one outcome that enters a run of row steps. Positions are settled as answers come and leave in order.
"""

import asyncio
import contextlib
import functools
import pickle
import tempfile
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol, TypeAlias, TypeGuard

from distillgen.errors import RowFailed
from distillgen.rows import Failure, Outcome, Row
from distillgen.teacher.several import Answer, Question

LOOK_AHEAD = 100_000  # positions between the oldest unsettled one and the newest
IN_MEMORY = 1_000  # settled positions that wait for their turn in memory (four for each row in flight, if those
# are more, because replies of one moment come in any order); the others wait in a file
PIPE_ROWS = 256  # rows read ahead from a pipe
BREATH = 64  # positions after which others get a turn


class RowStep(Protocol):
    """A plain function from a row to what becomes of it."""

    @property
    def name(self) -> str:
        """How the step is called in provenance, rejections and the funnel."""

    def __call__(self, row: Row) -> Sequence[Outcome]:
        """Return the row changed, several rows, or a rejection."""


class AskingStep(Protocol):
    """A row step that needs a teacher: it says what to ask and what to make of a reply; the road does the asking."""

    @property
    def name(self) -> str:
        """How the step is called in provenance, rejections and the funnel."""

    def questions(self, row: Row) -> Sequence[Question]:
        """Return one question per sample. Raises RowFailed when the row does not fit the prompt."""

    def stored(self, question: Question) -> Answer | None:
        """Return the stored answer, None when a teacher must be asked."""

    async def ask(self, question: Question) -> Answer:
        """Return a teacher's answer. Raises RowFailed, or the error that stops the run."""

    def ask_again(self, question: Question, answer: Answer) -> Question | None:
        """Return what to ask after an answer that is of no use as it is, None when it will do or is the last."""

    def row_of(self, row: Row, sample: int) -> Row:
        """Return the row that a sample of another makes, before it has an answer."""

    def rows(self, row: Row, sample: int, answer: Answer) -> Iterable[Outcome]:
        """Return what becomes of a row with the answer to one of its questions."""


class StreamStep(Protocol):
    """A step that sees rows in seed order and remembers some of them."""

    is_stream: bool

    @property
    def name(self) -> str:
        """How the step is called in provenance, rejections and the funnel."""

    def __call__(self, row: Row) -> Outcome:
        """Return the row or a rejection."""


Step: TypeAlias = RowStep | AskingStep | StreamStep


def is_asking(step: Step) -> TypeGuard[AskingStep]:
    """Whether a step needs a teacher."""
    return hasattr(step, "questions")


def is_stream(step: Step) -> TypeGuard[StreamStep]:
    """Whether a step must see rows in order."""
    return hasattr(step, "is_stream")


Outcomes: TypeAlias = AsyncGenerator[Outcome, None]
Place: TypeAlias = tuple[int, ...]
Tally: TypeAlias = Callable[[str, Sequence[Outcome], bool], None]


Drain: TypeAlias = Callable[[], Awaitable[None]]


async def let_go() -> None:
    """Wait for nothing: what is under way is given up."""


def travel(
    outcomes: Outcomes, steps: Sequence[Step], *, tally: Tally, spool: Path, in_flight: int, drain: Drain = let_go
) -> Outcomes:
    """Return what becomes of every row, in the order in which they came; close it to stop what is under way.

    `tally` hears what a step made of each row, and whether that row was born there (a second sample);
    `spool` is the folder for what memory shall not hold;
    `in_flight` is how many rows may wait for answers at once;
    `drain` is awaited when the road ends early, before rows that wait for answers are given up.
    """

    def row_steps(outcomes: Outcomes, run: Sequence[Step]) -> Outcomes:
        if not run:
            return outcomes
        walk = Walk(tuple(run), tally)
        return in_order(outcomes, walk.start, beside=walk.samples, spool=spool, in_flight=in_flight, drain=drain)

    run: list[Step] = []
    for step in steps:
        if is_stream(step):
            outcomes = _in_stream(row_steps(outcomes, run), step, tally)
            run = []
        else:
            run.append(step)
    return row_steps(outcomes, run)


async def _in_stream(outcomes: Outcomes, step: StreamStep, tally: Tally) -> Outcomes:
    async with contextlib.aclosing(outcomes):
        async for outcome in outcomes:
            if isinstance(outcome, Row):
                result = step(outcome)
                tally(step.name, (result,), False)
                yield result
            else:
                yield outcome


class Walk:
    """Takes one position through a run of row steps: at once as far as stored answers reach, the rest as a task.

    `samples` are the tasks of rows that wait for several answers at once.
    """

    def __init__(self, steps: tuple[Step, ...], tally: Tally) -> None:
        self._steps, self._tally = steps, tally
        self._asks = tuple(is_asking(step) for step in steps)
        self.samples: set[asyncio.Task[None]] = set()

    def start(self, outcome: Outcome) -> "list[Outcome] | Awaitable[list[Outcome]]":
        """Return what becomes of a position, or something to await for it when a teacher must be asked."""
        if not isinstance(outcome, Row):
            return [outcome]
        settled: list[tuple[Place, Outcome]] = []
        waiting: list[_Waiting] = []
        self._go(outcome, 0, (), settled, waiting)
        return self._finish(settled, waiting) if waiting else _ordered(settled)

    def _go(
        self, row: Row, index: int, place: Place, settled: "list[tuple[Place, Outcome]]", waiting: "list[_Waiting]"
    ) -> None:
        """Walk a row on from step `index` until it ends or needs an answer that is not stored."""
        if index == len(self._steps):
            settled.append((place, row))
            return
        if not self._asks[index]:
            plain: RowStep = self._steps[index]  # type: ignore[assignment]  # `travel` lets no stream in here
            self._enter(index, place, plain(row), settled, waiting)
            return
        step: AskingStep = self._steps[index]  # type: ignore[assignment]
        try:
            questions = step.questions(row)
        except RowFailed as failed:
            self._enter(index, place, [_failure(row, step.name, failed)], settled, waiting)
            return
        for sample, question in enumerate(questions):
            answer = step.stored(question)
            while answer is not None and (further := step.ask_again(question, answer)) is not None:
                question, answer = further, step.stored(further)
            if answer is None:
                waiting.append((row, index, (*place, sample), sample, question))
            else:
                self._enter(index, (*place, sample), step.rows(row, sample, answer), settled, waiting, sample > 0)

    def _enter(
        self, index: int, place: Place, results: Iterable[Outcome],
        settled: "list[tuple[Place, Outcome]]", waiting: "list[_Waiting]", is_born: bool = False,
    ) -> None:  # fmt: skip
        results = tuple(results)
        self._tally(self._steps[index].name, results, is_born)
        for number, result in enumerate(results):
            if isinstance(result, Row):
                self._go(result, index + 1, (*place, number), settled, waiting)
            else:
                settled.append(((*place, number), result))

    async def _finish(self, settled: "list[tuple[Place, Outcome]]", waiting: "list[_Waiting]") -> list[Outcome]:
        await self._follow_all(waiting, settled)
        return _ordered(settled)

    async def _follow_all(self, waiting: "Sequence[_Waiting]", settled: "list[tuple[Place, Outcome]]") -> None:
        """Follow each. An error of one ends the run; the others go on until the road has drained: they are paid for."""
        if len(waiting) == 1:
            await self._follow(waiting[0], settled)
            return
        tasks = [asyncio.create_task(self._follow(each, settled)) for each in waiting]
        self.samples.update(tasks)
        await asyncio.gather(*tasks)
        self.samples.difference_update(tasks)

    async def _follow(self, waits: "_Waiting", settled: "list[tuple[Place, Outcome]]") -> None:
        """Ask for one answer and walk on from there, as often as it takes."""
        row, index, place, sample, question = waits
        step: AskingStep = self._steps[index]  # type: ignore[assignment]
        results: Iterable[Outcome]
        try:
            answer = await step.ask(question)
            while (further_question := step.ask_again(question, answer)) is not None:
                question = further_question
                answer = step.stored(question) or await step.ask(question)
        except RowFailed as failed:
            if failed.cause == "not_sent":  # the run is ending: the row did not fail, it is given up as the others are
                raise asyncio.CancelledError from None
            results = [_failure(step.row_of(row, sample), step.name, failed)]
        else:
            results = step.rows(row, sample, answer)
        further: list[_Waiting] = []
        self._enter(index, place, results, settled, further, sample > 0)
        if further:
            await self._follow_all(further, settled)


_Waiting: TypeAlias = tuple[Row, int, Place, int, Question]


def _failure(row: Row, step: str, failed: RowFailed) -> Failure:
    return Failure(row, step, failed.cause, failed.detail, failed.lasting, failed.attempts, failed.last_reply)


def _ordered(settled: list[tuple[Place, Outcome]]) -> list[Outcome]:
    if len(settled) > 1:
        settled.sort(key=lambda each: each[0])
    return [outcome for _, outcome in settled]


class Turnstile:
    """Gives settled positions back in order; those that are early wait in memory, beyond `in_memory` in a file."""

    def __init__(self, spool: Path, in_memory: int = IN_MEMORY) -> None:
        self._spool, self._in_memory = spool, in_memory
        self._early: dict[int, list[Outcome] | tuple[int, int]] = {}
        self._file: IO[bytes] | None = None
        self._in_file = 0
        self.next = 0

    def __len__(self) -> int:
        return len(self._early)

    @property
    def is_ready(self) -> bool:
        """Whether the position whose turn it is has been settled."""
        return self.next in self._early

    def put(self, position: int, outcomes: list[Outcome]) -> None:
        """Take in a settled position."""
        if position != self.next and len(self._early) - self._in_file >= self._in_memory:
            self._early[position] = self._to_file(outcomes)
        else:
            self._early[position] = outcomes

    def take(self) -> Iterator[list[Outcome]]:
        """Yield every position whose turn has come."""
        while (held := self._early.pop(self.next, None)) is not None:
            self.next += 1
            yield self._from_file(*held) if isinstance(held, tuple) else held

    def _to_file(self, outcomes: list[Outcome]) -> tuple[int, int]:
        if self._file is None:
            self._spool.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._spool)
        start = self._file.seek(0, 2)
        size = self._file.write(pickle.dumps(outcomes, pickle.HIGHEST_PROTOCOL))
        self._in_file += 1
        return start, size

    def _from_file(self, start: int, size: int) -> list[Outcome]:
        assert self._file is not None
        self._file.seek(start)
        outcomes: list[Outcome] = pickle.loads(self._file.read(size))  # noqa: S301  (an unnamed file of our own)
        self._in_file -= 1
        if not self._in_file:
            self._file.truncate(0)
        return outcomes

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()


async def in_order(
    source: Outcomes,
    start: Callable[[Outcome], "list[Outcome] | Awaitable[list[Outcome]]"],
    *,
    spool: Path,
    in_flight: int,
    look_ahead: int = LOOK_AHEAD,
    drain: Drain = let_go,
    beside: Collection[asyncio.Task[None]] = (),
) -> Outcomes:
    """Yield what `start` makes of every outcome, in the order of the source, with many of them under way.

    `beside` are tasks that those started in their turn; the road's end is theirs too.
    """
    in_memory = max(IN_MEMORY, 4 * in_flight)
    turnstile = Turnstile(spool, in_memory)
    wake, room = asyncio.Event(), asyncio.Event()
    alive: set[asyncio.Task[list[Outcome]]] = set()
    errors: list[BaseException] = []
    position = 0

    def settle(at: int, task: asyncio.Task[list[Outcome]]) -> None:
        alive.discard(task)
        if task.cancelled():
            return
        if error := task.exception():
            errors.append(error)
        else:
            turnstile.put(at, task.result())
        wake.set()
        room.set()

    def is_full() -> bool:
        return (
            len(alive) >= in_flight
            or position - turnstile.next >= look_ahead
            or (turnstile.is_ready and len(turnstile) >= in_memory)
        )

    async def feed() -> None:
        nonlocal position
        async for outcome in source:
            while is_full():
                room.clear()
                await room.wait()
            at, result = position, start(outcome)
            position += 1
            if isinstance(result, list):
                turnstile.put(at, result)
                wake.set()
            else:
                task = asyncio.ensure_future(result)
                alive.add(task)
                task.add_done_callback(functools.partial(settle, at))
            if not position % BREATH:
                await asyncio.sleep(0)

    feeder = asyncio.create_task(feed())
    feeder.add_done_callback(lambda _: wake.set())
    try:
        while True:
            wake.clear()
            for outcomes in turnstile.take():
                for outcome in outcomes:
                    yield outcome
                room.set()
            if errors:
                raise errors[0]
            if feeder.done() and not alive and not turnstile:
                feeder.result()
                return
            if feeder.done() and feeder.exception():
                feeder.result()
            await wake.wait()
    finally:
        feeder.cancel()
        if alive or beside:
            await drain()
        left = (*alive, *beside)
        for task in left:
            task.cancel()
        await asyncio.gather(feeder, *left, return_exceptions=True)
        with contextlib.suppress(Exception):
            await source.aclose()
        turnstile.close()


async def in_thread(rows: Iterable[Row]) -> AsyncGenerator[Row, None]:
    """Yield rows that a thread reads, so that waiting for a pipe holds up nothing. The thread dies with the process."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[Row | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(PIPE_ROWS)

    def put(each: Row | BaseException | None) -> None:
        room.acquire()
        loop.call_soon_threadsafe(waiting.put_nowait, each)

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
            try:
                for row in rows:
                    put(row)
            except Exception as error:
                put(error)
            put(None)

    threading.Thread(target=read, name="pipe", daemon=True).start()
    while (each := await waiting.get()) is not None:
        room.release()
        if isinstance(each, BaseException):
            raise each
        yield each
