"""Asks again: how often, after which wait, within which budget; a teacher that answers nothing stops the run."""

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import tenacity

from distillgen.errors import DistillgenError, RequestsRefused, RowFailed, TeacherUnavailable
from distillgen.teacher.asking import Asks, Fault, Reply, Request
from distillgen.teacher.breaker import Breaker
from distillgen.teacher.verdicts import row_failed, verdict, web_page

MAX_ATTEMPTS = 6
MAX_ATTEMPTS_UNPROVEN = 3  # nobody wants to wait half a minute to learn of a wrong port
FIRST_WAIT_SECONDS = 0.5  # at most, doubled with each attempt: where OpenAI's own client begins too
MAX_WAIT_SECONDS = 120.0
MAX_LIMITED_SECONDS = 900.0
REFUSED_AT_FIRST = 20
RETRIES_AT_LEAST = 100  # in a run; beyond them one retry for every five requests
RETRIES_A_REQUEST = 0.2


def retry_after_seconds(value: str, *, now: float) -> float | None:
    """Read a Retry-After header: seconds or an HTTP date; None when it says nothing usable. `now` is wall time."""
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None


def asked_wait(fault: BaseException | None) -> float | None:
    """Return how many seconds a server asks to wait, None when it does not say."""
    if not isinstance(fault, Fault) or not fault.retry_after:
        return None
    return retry_after_seconds(fault.retry_after, now=time.time())


_jitter = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_SECONDS, max=60)


def wait_seconds(state: tenacity.RetryCallState) -> float:
    """Wait as long as the server asks, two minutes at most; else with full jitter: up to 0.5 s, 1 s, 2 s ... 60 s."""
    asked = asked_wait(state.outcome.exception() if state.outcome else None)
    return _jitter(state) if asked is None else min(asked, MAX_WAIT_SECONDS)


class Patience:
    """What the requests of a run share: the retries that are left to them, and whether the teacher ever answered.

    Retries are limited for a run as a whole, so that a server in trouble is not asked six times as much.
    """

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.is_proven = False
        self._left = float(RETRIES_AT_LEAST)

    @property
    def attempts(self) -> int:
        """How often one request may be sent."""
        return MAX_ATTEMPTS if self.is_proven else MAX_ATTEMPTS_UNPROVEN

    def earn(self) -> None:
        """Count a fresh request."""
        self._left += RETRIES_A_REQUEST

    def spend(self) -> bool:
        """Take one retry; False when none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Retrying:
    """Asks again where that may help. The first request of a teacher goes alone, so a wrong key costs one call.

    Neither a 429 nor a fault while the breaker is open uses up an attempt.
    """

    def __init__(
        self, inner: Asks, *, teacher: str, model: str, breaker: Breaker | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._inner, self._teacher, self._model, self._sleep = inner, teacher, model, sleep
        self._patience = Patience(breaker or Breaker())
        self._first = asyncio.Lock()
        self._stopped: DistillgenError | None = None  # what the first request met: who waited for it asks no more
        self._decided = self._refused = 0

    async def complete(self, request: Request) -> Reply:
        """Return the reply of the attempt that brought one. Raises RowFailed, or the error that stops the run."""
        if self._patience.is_proven:
            return await self._attempts(request)
        async with self._first:
            if self._stopped is not None:
                raise self._stopped.with_traceback(None)  # raised to many: it must not grow
            if not self._patience.is_proven:
                try:
                    reply = await self._attempts(request)
                except DistillgenError as error:
                    self._stopped = error
                    raise
                self._patience.is_proven = True
                return reply
        return await self._attempts(request)

    async def _attempts(self, request: Request) -> Reply:
        self._patience.earn()
        try:
            reply = await self._inner.complete(request)
        except Fault as fault:
            reply = await self._ask_again(request, fault)
        self._decided += 1
        return reply

    async def _ask_again(self, request: Request, first: Fault) -> Reply:
        """Go on after the first attempt brought a fault. Raises what the last fault means."""
        attempts = Attempts(self._inner, request, first, self._patience)
        loop = tenacity.AsyncRetrying(
            stop=attempts.is_over,
            wait=wait_seconds,
            sleep=self._sleep,
            reraise=True,
            retry=tenacity.retry_if_exception(may_help),
        )
        try:
            reply: Reply = await loop(attempts.next)
        except Fault as fault:
            raise self._conclude(fault, attempts) from None
        return reply

    def _conclude(self, fault: Fault, attempts: "Attempts") -> DistillgenError | RowFailed:
        """Decide what the last fault of a row means for the row and for the run."""
        meant = verdict(fault, self._teacher, self._model)
        if isinstance(meant, RowFailed):
            meant.attempts = attempts.number
            self._decided += 1
            self._refused += 1
            self._patience.is_proven = True  # it answers: the row may be at fault
            if self._decided == self._refused >= REFUSED_AT_FIRST:
                return RequestsRefused(
                    f"{self._teacher} refused the first {self._refused} requests: {fault.words}",
                    fix="check `model`, `sampling` and the prompt of this recipe",
                )
            return meant
        if meant is not None:
            return meant
        if not self._patience.is_proven or fault.is_limit:
            return self._unavailable(fault)
        cause = f"http_{fault.status}" if fault.kind == "status" else fault.kind
        return row_failed(cause, fault, lasting=False, attempts=attempts.number, why=attempts.why)

    def _unavailable(self, fault: Fault) -> DistillgenError:
        if page := web_page(fault, self._teacher):
            return page
        wait = asked_wait(fault)
        again = f"in {wait / 60:,.0f} minutes" if wait and wait > MAX_WAIT_SECONDS else "again later"
        return TeacherUnavailable(
            f"{self._teacher} does not answer: {fault}",
            fix=f"check the address, or run the same command {again}; every answer so far is kept",
        )


def may_help(error: BaseException) -> bool:
    """Whether to ask again after an error."""
    return isinstance(error, Fault) and verdict(error, "", "") is None


class Attempts:
    """The attempts of one request, counted; the first has been made already, and brought a fault."""

    def __init__(self, inner: Asks, request: Request, first: Fault, patience: Patience) -> None:
        self._inner, self._request, self._first, self._patience = inner, request, first, patience
        self.number = 0
        self.why = ""  # why there are no more, where it is not their number
        self._used_up = 0

    async def next(self) -> Reply:
        """Make the next attempt. Raises its fault."""
        self.number += 1
        if self.number == 1:
            raise self._first
        return await self._inner.complete(replace(self._request, attempt=self.number))

    def is_over(self, state: tenacity.RetryCallState) -> bool:
        """Whether the last attempt was the last."""
        fault = state.outcome.exception() if state.outcome else None
        if isinstance(fault, Fault) and fault.is_limit:  # costs time, no attempt
            return max(state.seconds_since_start or 0, asked_wait(fault) or 0) > MAX_LIMITED_SECONDS
        if self._patience.breaker.is_open:  # costs neither: it lets one through at a time, and gives up by itself
            return False
        self._used_up += 1
        if self._used_up >= self._patience.attempts:
            return True
        if not self._patience.spend():
            self.why = "; the retries of this run are used up"
            return True
        return False
