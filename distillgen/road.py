"""How rows travel: all steps at once, asking out of order, order restored where it matters, memory flat.

A position is one outcome that enters a run of row steps. Positions are settled as answers come and leave in order.
What a step is stands in shapes.py; how a position goes through a run of row steps, in walk.py.
"""

import asyncio
import contextlib
import functools
import pickle
import tempfile
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Generic, TypeAlias, TypeVar

from distillgen.files import disk_errors
from distillgen.rows import Outcome, Row, SeedEnd
from distillgen.shapes import (
    GroupStep,
    Outcomes,
    PureStep,
    Step,
    StreamStep,
    Tally,
    is_group,
    is_pure,
    is_rounds,
    is_stream,
)
from distillgen.walk import Leave, LeftOut, Walk, free_to_ask
from distillgen.workers import BLOCK_ROWS, Workers

LOOK_AHEAD = 100_000  # positions between the oldest unsettled one and the newest
IN_MEMORY = 1_000  # settled positions that wait for their turn in memory (four for each row in flight, if those
# are more, because replies of one moment come in any order); the others wait in a file
PIPE_ROWS = 256  # rows read ahead from a pipe
BREATH = 64  # positions after which others get a turn
BLOCK_CHARACTERS = 16_000_000  # of the texts in a block: a reasoning trace may be long
PAUSE = 0.02  # seconds without a row after which a block is closed

S = TypeVar("S")
T = TypeVar("T")
Drain: TypeAlias = Callable[[], Awaitable[None]]


async def let_go() -> None:
    """Wait for nothing: what is under way is given up."""


def travel(
    outcomes: Outcomes, steps: Sequence[Step], *, tally: Tally, spool: Path, in_flight: int, drain: Drain = let_go,
    leave: Leave = free_to_ask, left_out: LeftOut | None = None,
) -> Outcomes:  # fmt: skip
    """Return what becomes of every row, in the order in which they came; close it to stop what is under way.

    `tally` hears what a step made of how many rows: 1, 0 for a further sample, which was born there, or a group;
    `spool` is the folder for what memory shall not hold;
    `in_flight` is how many rows may wait for answers at once;
    `drain` is awaited when the road ends early, before rows that wait for answers are given up;
    `leave` is awaited before a teacher is asked about a row, with the id of the row's seed;
    `left_out` says why a row that an answer makes must not be.
    """

    def row_steps(outcomes: Outcomes, run: Sequence[Step]) -> Outcomes:
        first, last = _without_pure_end(run)
        if first:
            walk = Walk(first, tally, leave, left_out)
            outcomes = in_order(
                outcomes, walk.start, beside=walk.samples, spool=spool, in_flight=in_flight, drain=drain
            )
        return _in_workers(outcomes, Workers(last), tally, spool) if last else outcomes

    run: list[Step] = []
    for step in steps:
        if is_stream(step):
            outcomes = _in_stream(row_steps(outcomes, run), step, tally)
        elif is_group(step):
            outcomes = _in_groups(row_steps(outcomes, run), step, tally)
        elif is_rounds(step):
            go = functools.partial(
                travel, steps=step.inner, tally=tally, spool=spool, in_flight=in_flight, drain=drain, leave=leave,
                left_out=left_out,
            )  # fmt: skip
            outcomes = step.grow(row_steps(outcomes, run), go, tally)
        else:
            run.append(step)
            continue
        run = []
    return row_steps(outcomes, run)


def _without_pure_end(run: Sequence[Step]) -> tuple[tuple[Step, ...], list[PureStep]]:
    """Take the pure steps at the end of a run off, where order is restored anyway."""
    first, last = list(run), list[PureStep]()
    while first and is_pure(step := first[-1]):
        last.insert(0, step)
        first.pop()
    return tuple(first), last


async def _in_workers(outcomes: Outcomes, workers: Workers, tally: Tally, spool: Path) -> Outcomes:
    """Take rows through pure steps, block by block: a block is what has come while the one before was taken."""
    ahead = workers.count + 1
    blocks = in_blocks(outcomes, BLOCK_ROWS, pause=0)
    taken = in_order(blocks, workers.take, spool=spool, in_flight=ahead, look_ahead=ahead)
    try:
        async with contextlib.aclosing(taken):
            async for block in taken:
                for told in block.heard:
                    tally(*told)
                for outcome in block.outcomes:
                    yield outcome
    finally:
        workers.close()


async def _in_stream(outcomes: Outcomes, step: StreamStep, tally: Tally) -> Outcomes:
    async with contextlib.aclosing(in_blocks(outcomes, step.block_rows)) as blocks:
        async for block in blocks:
            rows = [outcome for outcome in block if isinstance(outcome, Row)]
            results = iter(step(rows) if rows else ())
            for outcome in block:
                if isinstance(outcome, Row):
                    result = next(results)
                    tally(step.name, (result,), 1)
                    yield result
                else:
                    yield outcome


async def in_blocks(outcomes: Outcomes, size: int, pause: float = PAUSE) -> AsyncGenerator[list[Outcome], None]:
    """Yield outcomes in blocks of at most `size`; a block is closed early when its texts are long, or when nothing more
    comes for `pause` seconds."""
    block: list[Outcome] = []
    characters = 0
    some, full, room = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def fill() -> None:
        nonlocal characters
        async for outcome in outcomes:
            block.append(outcome)
            characters += _characters(outcome)
            some.set()
            if len(block) >= size or characters >= BLOCK_CHARACTERS:
                full.set()
                room.clear()
                await room.wait()

    filler = asyncio.create_task(fill())
    filler.add_done_callback(lambda _: some.set())
    filler.add_done_callback(lambda _: full.set())
    try:
        while not filler.done() or block:
            await some.wait()
            before = 0
            while len(block) > before and not full.is_set():
                before = len(block)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await full.wait()
            ready, block, characters = block, [], 0
            if not filler.done():
                some.clear()
                full.clear()
            room.set()
            if ready:
                yield ready
        filler.result()
    finally:
        filler.cancel()
        await asyncio.gather(filler, return_exceptions=True)
        await outcomes.aclose()


def _characters(outcome: Outcome) -> int:
    columns = outcome.columns.values() if isinstance(outcome, Row) else ()
    return sum(len(value) for value in columns if isinstance(value, str))


async def _in_groups(outcomes: Outcomes, step: GroupStep, tally: Tally) -> Outcomes:
    """Collect what was made from one row, which comes in a row, and pass on what becomes of it."""
    held: list[Outcome] = []

    def settle() -> list[Outcome]:
        rows = sum(isinstance(outcome, Row) for outcome in held)
        if not rows:
            return held
        results = step(held)
        tally(step.name, results, rows)
        return [*(outcome for outcome in held if not isinstance(outcome, Row)), *results]

    async with contextlib.aclosing(outcomes):
        async for outcome in outcomes:
            if held and (isinstance(outcome, SeedEnd) or _parent_of(outcome) != _parent_of(held[0])):
                for settled in settle():
                    yield settled
                held = []
            if isinstance(outcome, SeedEnd):
                yield outcome
            else:
                held.append(outcome)
        for settled in settle():
            yield settled


def _parent_of(outcome: Outcome) -> str:
    """Return the id of the row that an outcome was made from, its own when it was made from none."""
    assert not isinstance(outcome, SeedEnd)
    row = outcome if isinstance(outcome, Row) else outcome.row
    return row.parent or row.id


class Turnstile(Generic[T]):
    """Gives settled positions back in order; those that are early wait in memory, beyond `in_memory` in a file."""

    def __init__(self, spool: Path, in_memory: int = IN_MEMORY) -> None:
        self._spool, self._in_memory = spool, in_memory
        self._early: dict[int, list[T] | tuple[int, int]] = {}
        self._file: IO[bytes] | None = None
        self._in_file = 0
        self.next = 0

    def __len__(self) -> int:
        return len(self._early)

    @property
    def is_ready(self) -> bool:
        """Whether the position whose turn it is has been settled."""
        return self.next in self._early

    def put(self, position: int, outcomes: list[T]) -> None:
        """Take in a settled position."""
        if position != self.next and len(self._early) - self._in_file >= self._in_memory:
            self._early[position] = self._to_file(outcomes)
        else:
            self._early[position] = outcomes

    def take(self) -> Iterator[list[T]]:
        """Yield every position whose turn has come."""
        while (held := self._early.pop(self.next, None)) is not None:
            self.next += 1
            yield self._from_file(*held) if isinstance(held, tuple) else held

    def _to_file(self, outcomes: list[T]) -> tuple[int, int]:
        with disk_errors(self._spool):
            if self._file is None:
                self._spool.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._spool)
            start = self._file.seek(0, 2)
            size = self._file.write(pickle.dumps(outcomes, pickle.HIGHEST_PROTOCOL))
            self._file.flush()
        self._in_file += 1
        return start, size

    def _from_file(self, start: int, size: int) -> list[T]:
        assert self._file is not None
        self._file.seek(start)
        outcomes: list[T] = pickle.loads(self._file.read(size))  # noqa: S301  (an unnamed file of our own)
        self._in_file -= 1
        if not self._in_file:
            self._file.truncate(0)
        return outcomes

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()


async def in_order(
    source: AsyncGenerator[S, None],
    start: Callable[[S], "list[T] | Awaitable[list[T]]"],
    *,
    spool: Path,
    in_flight: int,
    look_ahead: int = LOOK_AHEAD,
    drain: Drain = let_go,
    beside: Collection[asyncio.Task[None]] = (),
) -> AsyncGenerator[T, None]:
    """Yield what `start` makes of every outcome, in the order of the source, with many of them under way.

    `beside` are tasks that those started in their turn; the road's end is theirs too.
    """
    in_memory = max(IN_MEMORY, 4 * in_flight)
    turnstile = Turnstile[T](spool, in_memory)
    wake, room = asyncio.Event(), asyncio.Event()
    alive: set[asyncio.Future[list[T]]] = set()
    errors: list[Exception] = []
    position = 0

    def settle(at: int, task: asyncio.Future[list[T]]) -> None:
        alive.discard(task)
        if task.cancelled():
            return
        try:
            turnstile.put(at, task.result())
        except Exception as error:  # of the task, or of the disk under the spool: nobody hears a callback
            errors.append(error)
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
        left: tuple[asyncio.Future[Any], ...] = (*alive, *beside)
        for task in left:
            task.cancel()
        await asyncio.gather(feeder, *left, return_exceptions=True)
        with contextlib.suppress(Exception):
            await source.aclose()
        turnstile.close()


async def in_thread(rows: Iterable[Row]) -> AsyncGenerator[Row, None]:
    """Yield rows that a thread reads, so that waiting for a pipe holds up nothing. The thread dies with the process."""
    loop = asyncio.get_running_loop()
    read: list[Row | BaseException | None] = []
    some, room = asyncio.Event(), threading.Condition()

    def put(each: Row | BaseException | None) -> None:
        with room:
            while len(read) >= PIPE_ROWS:
                room.wait()
            read.append(each)
            if len(read) == 1:
                loop.call_soon_threadsafe(some.set)

    def work() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
            try:
                for row in rows:
                    put(row)
            except Exception as error:
                put(error)
            put(None)

    threading.Thread(target=work, name="pipe", daemon=True).start()
    while True:
        await some.wait()
        some.clear()
        with room:
            taken = read[:]
            read.clear()
            room.notify()
        for each in taken:
            if isinstance(each, BaseException):
                raise each
            if each is None:
                return
            yield each
