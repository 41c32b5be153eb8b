"""Reads the figures of a run from time to time, and reckons from what has changed: speeds, time left, cost in all."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distillgen.errors import WAITING
from distillgen.tally import Tally

if TYPE_CHECKING:
    from distillgen.teacher import Teacher
    from distillgen.teacher.limits import Pool

SPEED_SECONDS = 10.0  # of which calls and tokens per second are the mean
OUTLOOK_SECONDS = 60.0  # of which the time left is reckoned
LEAST_SECONDS, LEAST_SEEDS = 2.0, 5  # before there is something to reckon from


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the teachers of one pool of limits are asked, in calls or tokens per second, and how fast they may be.

    `limit` is None where none is in sight. `origin` says where it is from: set, stated, learned, starting. `token_use`
    and `token_limit` are of the kind of tokens whose limit is used most, None without such a limit.
    """

    name: str
    in_flight: int
    calls: float
    limit: float | None
    origin: str
    is_paused: bool = False
    token_use: float | None = None
    token_limit: float | None = None
    token_origin: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run has come to, and where it is going, at one moment. None is what cannot be known yet.

    `seeds` have come to the end of the road, out of `total`; `wanted` are the rows at which the run ends. `share` is
    the part of the run that is done. Of the rows that `failed`, `waiting` are not lost but not asked yet, or asked in a
    batch that is not in yet. `usd_in_all` is what the whole run is likely to cost.
    """

    rows: int
    wanted: int | None
    seeds: int
    total: int | None
    rejected: int
    failed: int
    calls: int
    in_flight: int
    prompt_tokens: int
    completion_tokens: int
    completion_tokens_per_second: float
    usd: float
    unpriced_calls: int
    usd_in_all: float | None
    seconds: float
    seconds_left: float | None
    share: float | None
    speeds: list[Speed] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    last_error: str = ""
    waiting: int = 0


class Recent:
    """What counters that only grow came to in the last minute. Times are seconds of a steady clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[object, float]]] = deque()

    def note(self, now: float, counters: Mapping[object, float]) -> None:
        """Remember their values, once a second at most."""
        while len(self._samples) > 1 and self._samples[1][0] <= now - OUTLOOK_SECONDS:
            self._samples.popleft()
        if not self._samples or now - self._samples[-1][0] >= 1.0:
            self._samples.append((now, counters))

    def forget(self) -> None:
        """Begin anew."""
        self._samples.clear()

    def growth(self, name: object, value: float, now: float, within: float) -> tuple[float, float]:
        """Return by how much a counter has grown to `value`, and in how many seconds, looking back so far at most."""
        for at, counters in self._samples:
            if at >= now - within and name in counters:
                return value - counters[name], now - at
        return 0.0, 0.0

    def per_second(self, name: object, value: float, now: float) -> float:
        """Return the speed of a counter."""
        grown, seconds = self.growth(name, value, now, SPEED_SECONDS)
        return max(grown, 0.0) / seconds if seconds > 0.2 else 0.0


class Watch:
    """Reads a tally from time to time, and reckons from what has changed. `total` is the number of seeds, if known."""

    def __init__(self, tally: Tally, total: int | None) -> None:
        self._tally, self._total = tally, total
        self._recent = Recent()
        self._first_call: tuple[float, float] | None = None  # seeds passed and rows published before it
        self._before = (0.0, 0.0)  # seeds passed and rows published at the last look
        self._last_error = ""
        self._met: dict[Pool | None, int] = {}  # faults of each, and failures of rows, at the last look

    def read(self, now: float | None = None) -> Figures:
        """Return the figures of this moment."""
        now = time.monotonic() if now is None else now
        tally = self._tally
        calls, (prompt, completion), passed = tally.calls, tally.tokens, tally.seeds_passed
        self._look_back(calls, passed)
        pools = tally.pools
        counters: dict[object, float] = {"seeds": passed, "rows": tally.published, "completion": completion}
        for pool, teachers in pools.items():
            counters.update({(pool, kind): used for kind, used in used_of(teachers).items()})
        speeds = [self._speed(pool, teachers, counters, now) for pool, teachers in pools.items()]
        speed = self._recent.per_second("completion", completion, now)
        share, left, seeds_left = self._outlook(counters, now)
        self._recent.note(now, counters)
        return Figures(
            rows=tally.published, wanted=tally.wanted, seeds=int(passed) + tally.known, total=self._total,
            rejected=tally.rejected, failed=tally.failed, calls=calls, in_flight=tally.in_flight,
            prompt_tokens=prompt, completion_tokens=completion, completion_tokens_per_second=speed,
            usd=tally.usd, unpriced_calls=tally.unpriced, usd_in_all=self._usd_in_all(counters, seeds_left),
            seconds=now - tally.started, seconds_left=left, share=share, speeds=speeds,
            errors=self._errors(pools), last_error=self._last_error,
            waiting=sum(number for cause, number in tally.causes.items() if cause in WAITING),
        )  # fmt: skip

    def _look_back(self, calls: int, passed: float) -> None:
        """Begin anew with the first call, for stored answers are fast and free, and where rows take the road again."""
        if passed < self._before[0]:
            self._recent.forget()
        if calls and self._first_call is None:
            self._recent.forget()
            self._first_call = self._before
        self._before = (passed, float(self._tally.published))

    def _speed(
        self, pool: "Pool", teachers: Sequence["Teacher"], counters: Mapping[object, float], now: float
    ) -> Speed:
        def use(kind: str) -> float:
            return self._recent.per_second((pool, kind), counters[pool, kind], now)

        limits = {limit.kind: limit for limit in pool.in_force}
        requests = limits.pop("requests", None)
        tokens = max(limits.values(), key=lambda limit: use(limit.kind) / limit.per_minute, default=None)
        return Speed(
            name="+".join(teacher.identity.name for teacher in teachers), in_flight=pool.in_flight,
            calls=use("requests"), limit=requests.per_minute / 60 if requests else None,
            origin=requests.origin if requests else "", is_paused=pool.breaker.is_open,
            token_use=use(tokens.kind) if tokens else None, token_limit=tokens.per_minute / 60 if tokens else None,
            token_origin=tokens.origin if tokens else "",
        )  # fmt: skip

    def _outlook(
        self, counters: Mapping[object, float], now: float
    ) -> tuple[float | None, float | None, tuple[str, float] | None]:
        """Return the share that is done, the seconds left, and the seeds or rows that are left."""
        tally = self._tally
        if tally.wanted is not None:
            counter, whole = "rows", float(tally.wanted)
        elif self._total is not None:
            counter, whole = "seeds", float(self._total - tally.known)
        else:
            return None, None, None
        if whole <= 0:
            return None, None, None
        done = counters[counter]
        left = max(whole - done, 0.0)
        grown, seconds = self._recent.growth(counter, done, now, OUTLOOK_SECONDS)
        reckoned = left * seconds / grown if seconds >= LEAST_SECONDS and grown >= LEAST_SEEDS and left else None
        return min(done / whole, 1.0), reckoned, (counter, left)

    def _usd_in_all(self, counters: Mapping[object, float], ahead: tuple[str, float] | None) -> float | None:
        """Return what was spent and what the rest costs if it costs as much; None while too little is known."""
        usd = self._tally.usd
        if ahead is None or self._first_call is None or not usd:
            return None
        counter, left = ahead
        paid = counters[counter] - self._first_call[counter == "rows"]
        return usd + left * usd / paid if paid >= LEAST_SEEDS else None

    def _errors(self, pools: "Mapping[Pool, object]") -> dict[str, int]:
        """Return how often each cause was met, the commonest first: by requests, and else by rows. Notes the last."""
        errors: Counter[str] = Counter()
        for pool in pools:
            errors += pool.faults
        for cause, number in self._tally.causes.items():
            if cause not in WAITING:
                errors[cause] = max(errors[cause], number)
        last: dict[Pool | None, tuple[int, str]] = {None: (self._tally.causes.total(), self._tally.last_failure)}
        last |= {pool: (pool.faults.total(), pool.last_fault) for pool in pools}
        for where, (number, words) in last.items():
            if number != self._met.get(where, 0) and words.partition(":")[0] not in WAITING:
                self._last_error = words
            self._met[where] = number
        return dict(errors.most_common())


def used_of(teachers: Iterable["Teacher"]) -> dict[str, float]:
    """Return what the teachers of a pool have used so far of what limits count."""
    calls = prompt = completion = 0
    for teacher in teachers:
        calls += teacher.calls
        prompt += teacher.usage.prompt
        completion += teacher.usage.completion
    return {
        "requests": calls, "tokens": prompt + completion, "input_tokens": prompt, "output_tokens": completion,
    }  # fmt: skip
