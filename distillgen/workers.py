"""Takes rows through pure steps in worker processes, when they come faster than one process can take them.

Rows that come slowly are taken here and at once. Steps are sent as their makings and rebuilt there, once.
"""

import asyncio
import functools
import multiprocessing
import pickle
import signal
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, TypeAlias

from distillgen.processes import end_with_parent, processors
from distillgen.rows import Outcome, Row
from distillgen.shapes import PureStep

BLOCK_ROWS = 1_000
FEW_ROWS = 64  # in a block: sooner taken here than sent
WARM_UP = 3_000  # rows before processes are started, which takes half a second
MAX_WORKERS = 4  # about as many as one process can feed

Told: TypeAlias = tuple[str, Sequence[Outcome], int]  # what a tally hears


class Taken(NamedTuple):
    """What became of a block of rows, and what the tally shall hear of it."""

    outcomes: list[Outcome]
    heard: list[Told]


class Workers:
    """Processes for a run of pure steps; none is started before it is worth it."""

    def __init__(self, steps: Sequence[PureStep]) -> None:
        self._steps = tuple(steps)
        self._rows = 0
        self._pool: ProcessPoolExecutor | None = None
        self.count = min(processors(), MAX_WORKERS)

    @functools.cached_property
    def _makings(self) -> bytes:
        return pickle.dumps(self._steps)

    def take(self, block: Sequence[Outcome]) -> list[Taken] | Awaitable[list[Taken]]:
        """Return what becomes of a block, or something to await for it."""
        self._rows += len(block)
        if self.count > 1 and len(block) > FEW_ROWS and self._rows > WARM_UP:
            return self._sent(block)
        return [_take(self._steps, block)]

    async def _sent(self, block: Sequence[Outcome]) -> list[Taken]:
        try:
            return [await asyncio.wrap_future(self._submit(block))]
        except (BrokenProcessPool, OSError, NotImplementedError):  # killed for want of memory; no semaphores here
            self.count = 1
            return [_take(self._steps, block)]

    def _submit(self, block: Sequence[Outcome]) -> Future[Taken]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of something
            self._pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=end_with_parent)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # theirs too: Ctrl-C is ours to handle
        try:
            return self._pool.submit(_take_makings, self._makings, block)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """Let the processes go; blocks that wait are given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _take(steps: Sequence[PureStep], block: Sequence[Outcome]) -> Taken:
    heard: list[Told] = []
    outcomes = list(block)
    for step in steps:
        before, outcomes = outcomes, []
        for outcome in before:
            if isinstance(outcome, Row):
                results = step(outcome)
                heard.append((step.name, results, 1))
                outcomes += results
            else:
                outcomes.append(outcome)
    return Taken(outcomes, heard)


# -- in a worker ---------------------------------------------------------------------------------------------------

_rebuilt = functools.lru_cache(maxsize=8)(pickle.loads)


def _take_makings(makings: bytes, block: Sequence[Outcome]) -> Taken:
    return _take(_rebuilt(makings), block)
