"""How many requests of one teacher may be under way at once."""

import asyncio
from typing import Any

from distillgen.errors import RowFailed
from distillgen.teacher.asking import Asks, Reply, Request


class InFlight:
    """Lets at most `cap` requests be under way; the others wait their turn, in order.

    A request is under way until its reply is on disk, so that a crash loses at most `cap` of them.
    `sent` holds their tasks: what a stop must wait for.
    """

    def __init__(self, inner: Asks, cap: int) -> None:
        self._inner = inner
        self._room = asyncio.Semaphore(cap)
        self.is_closed = False
        self.sent: set[asyncio.Task[Any]] = set()

    async def complete(self, request: Request) -> Reply:
        """Ask when there is room. Once `is_closed` is set, nothing more is sent."""
        async with self._room:
            if self.is_closed:
                raise RowFailed("not_sent", "the run is ending", lasting=False)
            task = asyncio.current_task()
            assert task is not None
            self.sent.add(task)
            try:
                return await self._inner.complete(request)
            finally:
                self.sent.discard(task)
