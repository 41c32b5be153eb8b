"""How hard a teacher may be asked: a pool for each endpoint and model lets requests through one by one, in order."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from distillgen.errors import RowFailed
from distillgen.settings import LimitSettings
from distillgen.teacher.asking import Asks, Fault, Reply, Request
from distillgen.teacher.breaker import Breaker
from distillgen.teacher.learning import Learned
from distillgen.teacher.pace import Pace
from distillgen.teacher.rate_headers import read_limits
from distillgen.teacher.replies import NOTHING, TokenUsage

NEVER = float("inf")
MAX_HOLD_SECONDS = 120.0  # a server's clock may be wrong, and a limit per day is none on sending
TOO_FAST = "http_429"
AMOUNTS: Mapping[str, Callable[[TokenUsage], int]] = {
    "requests": lambda usage: 1,
    "tokens": lambda usage: usage.prompt + usage.completion,
    "input_tokens": lambda usage: usage.prompt,
    "output_tokens": lambda usage: usage.completion,
}


class Parts(Protocol):
    """Among how many processes a limit is divided: see sharing.Share."""

    @property
    def silent_until(self) -> float:
        """Before this time nothing is sent: a newcomer lets the others make room."""

    @property
    def problem(self) -> str:
        """Why the shares may be wrong, nothing when all is well."""

    def parts(self, now: float) -> int:
        """Return how many share the limit, this process included."""


class Alone:
    """Nobody else uses the limit."""

    silent_until, problem = 0.0, ""

    def parts(self, now: float) -> int:
        """Return 1."""
        return 1


class TokenEstimate:
    """Guesses the tokens of a request before it is sent, from its bytes; learns from the usage of earlier replies."""

    WEIGHT = 0.1

    def __init__(self) -> None:
        self._per_byte = 0.25
        self._completion: float | None = None

    def expect(self, request: Request) -> TokenUsage:
        """Return the tokens that a request is likely to use; until a reply is seen, all that it may use."""
        most = request.max_tokens or 1024
        completion = most if self._completion is None else min(most, self._completion * 1.1)
        return TokenUsage(prompt=round(request.prompt_bytes * self._per_byte) + 1, completion=round(completion))

    def learn(self, request: Request, usage: TokenUsage) -> None:
        """Move towards what a reply really used."""
        self._per_byte += self.WEIGHT * (usage.prompt / max(request.prompt_bytes, 1) - self._per_byte)
        before = usage.completion if self._completion is None else self._completion
        self._completion = before + self.WEIGHT * (usage.completion - before)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in force: so many `requests`, `tokens`, `input_tokens` or `output_tokens` a minute, for this process.

    It was set in the recipe, stated by the server's headers, or learned from what the server refuses; while nothing was
    refused, the start of a run is slow all the same.
    """

    kind: str
    per_minute: float
    origin: Literal["set", "stated", "learned", "starting"]


class Pool:
    """The limits of one endpoint, model and key, however many steps and teachers of a recipe share them.

    Send rate and number in flight are separate controls. Requests wait in one queue; whatever changes (a reply, a
    timer, a header) looks at its head only, so that a new limit holds for those that wait already.
    """

    def __init__(
        self, cap: int, limits: LimitSettings, *, share: Parts | None = None, learns: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.cap, self.in_flight = cap, 0
        self.breaker = Breaker()
        self._share, self._clock = share or Alone(), clock
        self._recipe = {kind: value for kind in AMOUNTS if (value := getattr(limits, f"{kind}_per_minute"))}
        self._header: dict[str, float] = {}
        self._paces = {kind: Pace(per_minute) for kind, per_minute in self._recipe.items()}
        self._learned = Learned(ramps="requests" not in self._recipe) if learns else None
        self._estimate = TokenEstimate()
        self._parts = 1
        self._queue: deque[tuple[asyncio.Future[float], TokenUsage]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed: Exception | None = None
        self._notes: list[str] = []
        self.faults: Counter[str] = Counter()  # requests that brought nothing, those asked again too, by cause
        self.last_fault = ""  # its cause and the server's words, as they came

    def note(self, words: str) -> None:
        """Keep what somebody should know of these limits."""
        self._notes.append(words)

    @property
    def notes(self) -> list[str]:
        """What somebody should know of these limits; that they are not shared, for one."""
        problem = self._share.problem
        return [*self._notes, *([f"the limits are not shared with other processes: {problem}"] if problem else [])]

    @property
    def per_minute(self) -> float | None:
        """The rate of requests that this process keeps to right now, None when no limit is in sight."""
        learned = self._learned.per_second if self._learned else None
        rates = [pace.per_minute for kind, pace in self._paces.items() if kind == "requests"]
        return min([*rates, *([learned * 60] if learned is not None else [])], default=None)

    @property
    def in_force(self) -> list[Limit]:
        """The limits that this process keeps to right now, of requests first; empty when none is in sight."""
        limits = []
        for kind, pace in self._paces.items():
            is_set = self._recipe.get(kind, NEVER) <= self._header.get(kind, NEVER)
            limits.append(Limit(kind, pace.per_minute, "set" if is_set else "stated"))
        learned = self._learned.per_second if self._learned is not None else None
        if learned is not None:
            limits.append(Limit("requests", learned * 60, "learned" if self.faults[TOO_FAST] else "starting"))
        least: dict[str, Limit] = {}
        for limit in limits:
            if limit.kind not in least or limit.per_minute < least[limit.kind].per_minute:
                least[limit.kind] = limit
        return sorted(least.values(), key=lambda limit: limit.kind != "requests")

    def tighten(self, cap: int, limits: LimitSettings) -> None:
        """Take in what another teacher of the same endpoint and model states: the lower limit counts."""
        self.cap = min(self.cap, cap)
        for kind in AMOUNTS:
            if value := getattr(limits, f"{kind}_per_minute"):
                self._recipe[kind] = min(value, self._recipe.get(kind, value))
        self._adjust(self._clock())

    def expect(self, request: Request) -> TokenUsage:
        """Return the tokens to reserve for a request; nothing when no limit counts tokens."""
        return self._estimate.expect(request) if self._paces.keys() - {"requests"} else NOTHING

    async def enter(self, expected: TokenUsage, *, first: bool = False) -> float:
        """Wait for a turn (at the head of the queue when `first`); return the time at which it was given.

        Every turn ends with `leave`. Raises why the pool is closed, once it is.
        """
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # raised to many: it must not grow
        now = self._clock()
        if not self._queue and self._wait(expected, now) <= 0:
            self._grant(expected, now)
            return now
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        (self._queue.appendleft if first else self._queue.append)((turn, expected))
        self._let_through()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.breaker.abandoned(turn.result())  # the turn had been given; it may have been that of the probe
                self.leave()
            raise
        return self._clock()

    def leave(self) -> None:
        """End a turn."""
        self.in_flight -= 1
        if not self.in_flight:
            self._empty.set()
        if self._queue:
            self._let_through()

    async def emptied(self) -> None:
        """Wait until nothing is under way."""
        await self._empty.wait()

    def close(self, why: Exception | None = None) -> None:
        """Give no more turns: those who wait for one, and all who come later, are told why."""
        self._closed = why or RowFailed("not_sent", "the run is ending", lasting=False)
        if self._timer is not None:
            self._timer.cancel()
        while self._queue:
            turn, _ = self._queue.popleft()
            if not turn.done():
                turn.set_exception(self._closed)

    def _wait(self, expected: TokenUsage, now: float) -> float:
        """Return how many seconds the head of the queue has to wait; NEVER when only a reply can make room."""
        parts = self._share.parts(now)
        if parts != self._parts:
            self._parts = parts
            self._adjust(now)
        if self.in_flight >= max(1, self.cap // parts):
            return NEVER
        wait = self.breaker.wait(now)
        if self._paces:  # without a stated limit there is none that earlier comers may have used up
            wait = max(wait, self._share.silent_until - now)
        if self._learned is not None:
            wait = max(wait, self._learned.wait(now))
        for kind, pace in self._paces.items():
            wait = max(wait, pace.wait(AMOUNTS[kind](expected), now))
        return wait

    def _grant(self, expected: TokenUsage, now: float) -> None:
        self.in_flight += 1
        self._empty.clear()
        self.breaker.grant()
        if self._learned is not None:
            self._learned.grant(now)
        for kind, pace in self._paces.items():
            pace.grant(AMOUNTS[kind](expected), now)

    def _let_through(self) -> None:
        """Give turns to those at the head of the queue, and set a timer for the next one that must wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            turn, expected = self._queue[0]
            if turn.done():  # its row was given up
                self._queue.popleft()
                continue
            now = self._clock()
            wait = self._wait(expected, now)
            if wait > 0:
                if wait != NEVER:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._let_through)
                return
            self._queue.popleft()
            self._grant(expected, now)
            turn.set_result(now)

    def replied(self, request: Request, expected: TokenUsage, reply: Reply, sent_at: float) -> None:
        """Learn from a reply that was accepted."""
        now = self._clock()
        self.breaker.succeeded()
        if self._learned is not None:
            self._learned.accepted(sent_at, now)
        if reply.headers is not None:
            self._obey(reply.headers, now)
        if expected is not NOTHING and (usage := reply.completion.usage):
            self._estimate.learn(request, usage)
            self._settle(expected, usage, now)

    def refused(self, expected: TokenUsage, fault: Fault, sent_at: float) -> None:
        """Learn from a fault: it was sent too fast, or the server is in trouble. Raises TeacherUnavailable at last."""
        now = self._clock()
        cause = f"http_{fault.status}" if fault.status else fault.kind
        self.faults[cause] += 1
        self.last_fault = f"{cause}: {fault.words}"
        if fault.is_limit and self._learned is not None:
            self._learned.refused(sent_at, now)
        self._obey(fault.headers, now)
        if expected is not NOTHING and not fault.is_unknown:
            self._settle(expected, NOTHING, now)
        if fault.is_trouble:
            self.breaker.failed(now, sent_at)
        else:
            self.breaker.succeeded()

    def _settle(self, expected: TokenUsage, usage: TokenUsage, now: float) -> None:
        for kind, pace in self._paces.items():
            if kind != "requests":
                pace.settle(AMOUNTS[kind](expected), AMOUNTS[kind](usage), now)

    def _obey(self, headers: Mapping[str, str], now: float) -> None:
        """Keep to what the server's headers state; the lower of its limit and the recipe's counts."""
        for kind, stated in read_limits(headers, time.time()).items():
            if stated.per_minute is not None and stated.per_minute != self._header.get(kind):
                self._header[kind] = stated.per_minute
                self._adjust(now)
            if stated.remaining is not None and stated.remaining <= 0 and stated.reset_seconds and kind in self._paces:
                self._paces[kind].hold(now + min(stated.reset_seconds, MAX_HOLD_SECONDS))

    def _adjust(self, now: float) -> None:
        """Bring the paces into line with what is stated, divided among the processes that share it."""
        for kind in self._recipe.keys() | self._header.keys():
            stated = min(self._recipe.get(kind, NEVER), self._header.get(kind, NEVER)) / self._parts
            if kind in self._paces:
                self._paces[kind].change(stated, now)
            else:
                self._paces[kind] = Pace(stated)


class Limited:
    """Asks when the pool gives a turn; the turn lasts until the inner layers are done, the commit to disk included."""

    def __init__(self, inner: Asks, pool: Pool) -> None:
        self._inner, self._pool = inner, pool

    async def complete(self, request: Request) -> Reply:
        """Ask when it is this request's turn; a retry goes to the head of the queue, not behind fresh requests."""
        pool = self._pool
        expected = pool.expect(request)
        sent_at = await pool.enter(expected, first=request.attempt > 1)
        try:
            reply = await self._inner.complete(request)
        except Fault as fault:
            pool.refused(expected, fault, sent_at)
            raise
        except BaseException:
            pool.breaker.abandoned(sent_at)
            raise
        else:
            pool.replied(request, expected, reply, sent_at)
            return reply
        finally:
            pool.leave()
