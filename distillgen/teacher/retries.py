"""Which faults are asked again, which fail the row, which stop the run; and how long to wait before the next try."""

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable

import tenacity

from distillgen.errors import (
    CredentialsRefused,
    DistillgenError,
    ModelMissing,
    QuotaSpent,
    RequestsRefused,
    RowFailed,
    TeacherUnavailable,
)
from distillgen.teacher.asking import Asks, Fault, Reply, Request

MAX_ATTEMPTS = 6
MAX_ATTEMPTS_UNPROVEN = 3  # nobody wants to wait half a minute to learn of a wrong port
MAX_WAIT_SECONDS = 120.0
MAX_LIMITED_SECONDS = 900.0
REFUSED_AT_FIRST = 20
FAILED_IN_A_ROW = 20
TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
QUOTA_CODES = {"insufficient_quota", "insufficient_balance", "billing_hard_limit_reached"}
MODERATION_CODES = {"content_policy_violation", "content_filter", "moderation", "moderation_blocked"}


def judge(fault: Fault, teacher: str, model: str) -> DistillgenError | RowFailed | None:
    """Return what a fault means: an error that stops the run, a failed row, or None to ask again."""
    if fault.kind == "oversize":
        return RowFailed("oversize", fault.words, lasting=True)
    if fault.kind != "status":
        return None
    if fault.status == 401:
        return CredentialsRefused(
            f"{teacher} refused the key: {fault.words}",
            fix="check the key; `distillgen doctor` shows where it is read from",
        )
    if fault.status == 402 or fault.code in QUOTA_CODES:
        return QuotaSpent(
            f"{teacher} says that credit or quota is used up: {fault.words}",
            fix="top up and run the same command again; every answer so far is kept",
        )
    if fault.status == 403:
        if fault.code in MODERATION_CODES or "moderation" in fault.words.lower():
            return RowFailed("moderation", fault.words, lasting=True)
        return CredentialsRefused(f"{teacher} forbids this: {fault.words}", fix="check what the key may do")
    if fault.status == 404:
        return ModelMissing(
            f"{teacher} does not have {model!r} at this address: {fault.words}",
            fix="check `model` and `base_url`; `distillgen doctor` lists what the endpoint has",
        )
    if fault.status in TRANSIENT or fault.status >= 500:
        return None
    if 300 <= fault.status < 400:
        return TeacherUnavailable(f"{teacher}: {fault.words}", fix="put the final address into `base_url`")
    return RowFailed(f"refused_{fault.status}", fault.words, lasting=True)


def retry_after_seconds(value: str, *, now: float) -> float | None:
    """Read a Retry-After header: seconds or an HTTP date; capped; None when it says nothing usable."""
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return None
    return min(max(seconds, 0.0), MAX_WAIT_SECONDS) if seconds == seconds else None


_jitter = tenacity.wait_random_exponential(multiplier=1, max=60)


def wait_seconds(state: tenacity.RetryCallState) -> float:
    """Wait as long as the server asks, else with full jitter: up to 1 s, 2 s, 4 s ... 60 s."""
    fault = state.outcome.exception() if state.outcome else None
    asked = retry_after_seconds(fault.retry_after, now=time.time()) if isinstance(fault, Fault) else None
    return _jitter(state) if asked is None else asked


class Retrying:
    """Asks again where that may help. The first request of a teacher goes alone, so a wrong key costs one call."""

    def __init__(
        self, inner: Asks, *, teacher: str, model: str, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._inner = inner
        self._teacher, self._model, self._sleep = teacher, model, sleep
        self._first = asyncio.Lock()
        self._is_proven = False
        self._decided = 0
        self._refused = 0
        self._failed_in_a_row = 0

    async def complete(self, request: Request) -> Reply:
        """Return the reply of the attempt that brought one. Raises RowFailed, or the error that stops the run."""
        if self._is_proven:
            return await self._attempts(request)
        async with self._first:
            if not self._is_proven:
                reply = await self._attempts(request)
                self._is_proven = True
                return reply
        return await self._attempts(request)

    async def _attempts(self, request: Request) -> Reply:
        counted = 0

        def is_over(state: tenacity.RetryCallState) -> bool:
            """A 429 uses up no attempt, only time."""
            nonlocal counted
            fault = state.outcome.exception() if state.outcome else None
            if isinstance(fault, Fault) and fault.status == 429:
                return (state.seconds_since_start or 0) > MAX_LIMITED_SECONDS
            counted += 1
            return counted >= (MAX_ATTEMPTS if self._is_proven else MAX_ATTEMPTS_UNPROVEN)

        attempts = tenacity.AsyncRetrying(
            stop=is_over,
            wait=wait_seconds,
            sleep=self._sleep,
            reraise=True,
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, Fault) and self._judge(e) is None),
        )
        try:
            reply: Reply = await attempts(self._inner.complete, request)
        except Fault as fault:
            raise self._conclude(fault, counted) from None
        self._decided += 1
        self._failed_in_a_row = 0
        return reply

    def _judge(self, fault: Fault) -> DistillgenError | RowFailed | None:
        return judge(fault, self._teacher, self._model)

    def _conclude(self, fault: Fault, attempts: int) -> DistillgenError | RowFailed:
        """Decide what the last fault of a row means for the row and for the run."""
        verdict = self._judge(fault)
        if isinstance(verdict, RowFailed):
            self._decided += 1
            self._refused += 1
            self._is_proven = True  # it answers: the row may be at fault
            if self._decided == self._refused >= REFUSED_AT_FIRST:
                return RequestsRefused(
                    f"{self._teacher} refused the first {self._refused} requests: {fault.words}",
                    fix="check `model`, `sampling` and the prompt of this recipe",
                )
            return verdict
        if verdict is not None:
            return verdict
        self._failed_in_a_row += 1
        if not self._is_proven or self._failed_in_a_row >= FAILED_IN_A_ROW:
            return TeacherUnavailable(
                f"{self._teacher} does not answer: {fault}",
                fix="check the address, or run the same command again later; every answer so far is kept",
            )
        cause = f"http_{fault.status}" if fault.kind == "status" else fault.kind
        return RowFailed(cause, f"{fault} (after {attempts} attempts)", lasting=False)
