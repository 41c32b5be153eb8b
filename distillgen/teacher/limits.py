"""How hard a teacher may be asked: how many requests may be under way at once, and how many may be sent per minute."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from distillgen.errors import RowFailed
from distillgen.files import canonical
from distillgen.recipe import LimitSettings
from distillgen.teacher.asking import Asks, Reply, Request
from distillgen.teacher.replies import TokenUsage, read_reply

MARGIN = 0.995  # of a stated limit is used: what the network bunches up must still fit the server's window
WINDOW_SECONDS = 60.0
CATCH_UP_SECONDS = 0.1  # a late timer may be made up for, where the margin leaves room for it
CATCH_UP_LIMIT = 400  # per minute; below that, 0.1 s would be more than the margin


class Pace:
    """Spaces grants so that no window of 60 s holds more than a limit: amounts per minute, of requests or of tokens.

    Holds no clock: it is told the time, in seconds of any steady clock.
    """

    def __init__(self, per_minute: int) -> None:
        self._seconds_each = WINDOW_SECONDS / (per_minute * MARGIN)
        self._slack = CATCH_UP_SECONDS if per_minute >= CATCH_UP_LIMIT else 0.0
        self._free_at = float("-inf")

    def grant(self, amount: float, now: float) -> float:
        """Reserve an amount; return how many seconds to wait before it may be used."""
        start = max(self._free_at, now - self._slack)
        self._free_at = start + amount * self._seconds_each
        return max(0.0, start - now)

    def settle(self, reserved: float, used: float) -> None:
        """Correct a reservation once it is known what was really used."""
        self._free_at += (used - reserved) * self._seconds_each


class TokenEstimate:
    """Guesses the tokens of a request before it is sent, from its bytes; learns from the usage of earlier replies."""

    WEIGHT = 0.1

    def __init__(self) -> None:
        self._per_byte = 0.25
        self._completion: float | None = None

    def expect(self, body: Mapping[str, Any]) -> TokenUsage:
        """Return the tokens that a request is likely to use; until a reply is seen, all that it may use."""
        most = body.get("max_completion_tokens") or body.get("max_tokens") or 1024
        completion = most if self._completion is None else min(most, self._completion * 1.1)
        return TokenUsage(prompt=round(_size(body) * self._per_byte) + 1, completion=round(completion))

    def learn(self, body: Mapping[str, Any], usage: TokenUsage) -> None:
        """Move towards what a reply really used."""
        self._per_byte += self.WEIGHT * (usage.prompt / _size(body) - self._per_byte)
        before = usage.completion if self._completion is None else self._completion
        self._completion = before + self.WEIGHT * (usage.completion - before)


def _size(body: Mapping[str, Any]) -> int:
    return len(canonical(body["messages"]))


class Limited:
    """Lets at most `cap` requests be under way, and sends them at the stated rates, in the order in which they came.

    A request is under way until its reply is on disk, so that a crash loses at most `cap` of them. The rate is asked
    last, right before sending, so that what waited for a turn cannot be sent in a bunch.
    `sent` holds the tasks under way: what a stop must wait for.
    """

    def __init__(
        self,
        inner: Asks,
        cap: int,
        limits: LimitSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._inner, self._clock, self._sleep = inner, clock, sleep
        self._room = asyncio.Semaphore(cap)
        self._estimate = TokenEstimate()
        self._paces = [
            (Pace(per_minute), amount)
            for per_minute, amount in (
                (limits.requests_per_minute, lambda _: 1),
                (limits.tokens_per_minute, lambda usage: usage.prompt + usage.completion),
                (limits.input_tokens_per_minute, lambda usage: usage.prompt),
                (limits.output_tokens_per_minute, lambda usage: usage.completion),
            )
            if per_minute is not None
        ]
        self.is_closed = False
        self.sent: set[asyncio.Task[Any]] = set()

    async def complete(self, request: Request) -> Reply:
        """Ask when there is room and the rate allows it. Once `is_closed` is set, nothing more is sent."""
        async with self._room:
            expected = await self._wait_for_rate(request)
            if self.is_closed:
                raise RowFailed("not_sent", "the run is ending", lasting=False)
            task = asyncio.current_task()
            assert task is not None
            self.sent.add(task)
            try:
                reply = await self._inner.complete(request)
            finally:
                self.sent.discard(task)
        if expected is not None and (usage := read_reply(reply.raw).usage):
            self._settle(request, expected, usage)
        return reply

    async def _wait_for_rate(self, request: Request) -> TokenUsage | None:
        if not self._paces:
            return None
        expected = self._estimate.expect(request.body)
        now = self._clock()
        wait = max(pace.grant(amount(expected), now) for pace, amount in self._paces)
        if wait > 0:
            await self._sleep(wait)
        return expected

    def _settle(self, request: Request, expected: TokenUsage, usage: TokenUsage) -> None:
        self._estimate.learn(request.body, usage)
        for pace, amount in self._paces:
            pace.settle(amount(expected), amount(usage))
