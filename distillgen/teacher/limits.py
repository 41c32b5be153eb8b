"""How many requests of one teacher may be under way at once."""

import asyncio

from distillgen.errors import RowFailed
from distillgen.teacher.chat import Asks, Reply, Request


class InFlight:
    """Lets at most `cap` requests be under way; the others wait their turn, in order."""

    def __init__(self, inner: Asks, cap: int) -> None:
        self._inner = inner
        self._room = asyncio.Semaphore(cap)
        self.now = 0
        self.is_closed = False

    async def complete(self, request: Request) -> Reply:
        """Ask when there is room. Once `is_closed` is set, nothing more is sent."""
        async with self._room:
            if self.is_closed:
                raise RowFailed("not_sent", "the run is ending", lasting=False)
            self.now += 1
            try:
                return await self._inner.complete(request)
            finally:
                self.now -= 1
