"""The arithmetic of limits: paces, the rate that is learned (against simulated servers), and the headers of replies."""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distillgen.teacher.learning import Learned
from distillgen.teacher.pace import Pace
from distillgen.teacher.rate_headers import Stated, read_limits

# Pace


def take(pace: Pace, amount: float, now: float, late: float = 0.0) -> float:
    """Wait as told, with a late timer; return when the amount was granted."""
    while (wait := pace.wait(amount, now)) > 0:
        now += wait + late
    pace.grant(amount, now)
    return now


def assert_law(granted: Iterable[tuple[float, float]], limit: float) -> None:
    """No window of 60 s holds more than the limit; `granted` are times and amounts, in order."""
    inside: deque[tuple[float, float]] = deque()
    total = 0.0
    for at, amount in granted:
        inside.append((at, amount))
        total += amount
        while at - inside[0][0] >= 60 - 1e-9:
            total -= inside.popleft()[1]
        assert total <= limit * (1 + 1e-9)


@given(
    st.integers(1, 100_000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=25),
    st.sampled_from([0.0, 0.003, 0.3]),
)
def test_no_window_of_a_minute_holds_more_than_the_limit(
    limit: int, bursts: list[tuple[float, int, float]], late: float
) -> None:
    """Amounts come in bursts and pauses, timers are late: still at most `limit` in any 60 s."""
    pace, now, granted = Pace(limit), 0.0, []
    for gap, many, share in bursts:
        now += gap
        for _ in range(many):
            amount = max(1, math.floor(share * limit))
            now = take(pace, amount, now, late)
            granted.append((now, amount))
    assert_law(granted, limit)


@given(
    st.integers(10, 5000),
    st.lists(
        st.one_of(
            st.tuples(st.just("grant"), st.integers(1, 400)),
            st.tuples(st.just("change"), st.integers(10, 5000)),
            st.tuples(st.just("pause"), st.floats(0, 90)),
        ),
        max_size=60,
    ),
)
def test_a_change_keeps_what_was_granted(limit: int, steps: list[tuple[str, float]]) -> None:
    """Whatever the limit is at a grant, the minute before it holds no more than that."""
    pace, now, granted = Pace(limit), 0.0, []
    for kind, value in steps:
        if kind == "pause":
            now += value
        elif kind == "change":
            pace.change(limit := int(value), now)
        else:
            amount = min(value, limit)
            now = take(pace, amount, now)
            granted.append((now, amount))
            assert sum(amount for at, amount in granted if now - at < 60 - 1e-9) <= limit
    assert pace.per_minute == limit


@given(
    st.integers(100, 100_000),
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 2), st.floats(0, 20)), min_size=1, max_size=40),
)
def test_what_was_really_used_is_settled_both_ways(limit: int, calls: list[tuple[float, float, float]]) -> None:
    """At every grant, reserved and settled of the last minute together are within the limit, and nobody waits longer
    than it takes for all of it to leave."""
    pace, now, booked = Pace(limit), 0.0, []
    for share, used, gap in calls:
        amount = limit * share
        asked = now
        now = take(pace, amount, now)
        assert now - asked <= 60 + 1e-6
        booked.append((now, amount))
        assert sum(amount for at, amount in booked if now - at < 60 - 1e-9) <= limit * (1 + 1e-9)
        now += gap
        pace.settle(amount, amount * used, now)
        booked.append((now, amount * used - amount))


def used_in(pace: Pace, amount: Callable[[], int], seconds: float, late: Callable[[], float] = lambda: 0.0) -> float:
    now, used = 0.0, 0
    while True:
        asked = amount()
        now = take(pace, asked, now, late())
        if now >= seconds:
            return used
        used += asked


@pytest.mark.parametrize("limit", [60, 500, 3000, 100_000])
def test_a_stated_limit_of_requests_is_used_to_99_percent(limit: int) -> None:
    seconds = 600 if limit < 10_000 else 120
    assert 0.99 <= used_in(Pace(limit), lambda: 1, seconds) / (limit * seconds / 60) <= 1


@pytest.mark.parametrize("limit", [60, 500, 3000, 100_000])
def test_late_timers_are_made_up_for(limit: int) -> None:
    chance = random.Random(1)
    seconds = 600 if limit < 10_000 else 120
    used = used_in(Pace(limit), lambda: 1, seconds, lambda: chance.expovariate(1 / 0.004))
    assert 0.99 <= used / (limit * seconds / 60) <= 1


def test_tokens_use_what_the_law_and_their_order_let_them() -> None:
    """The bound is the best schedule there is: each request as soon as the minute before it has room."""
    chance = random.Random(1)
    amounts = [chance.randint(300, 4000) for _ in range(10_000)]
    queue = iter(amounts)
    used = used_in(Pace(200_000), lambda: next(queue), 3600)
    now, best, inside, total = 0.0, 0, deque[tuple[float, int]](), 0
    for amount in amounts:
        while total + amount > 200_000:
            at, left = inside.popleft()
            total, now = total - left, max(now, at + 60)
        if now >= 3600:
            break
        inside.append((now, amount))
        total, best = total + amount, best + amount
    assert used >= 0.985 * 200_000 * 60
    assert used >= 0.98 * best  # which sends its first minute at once, and is a minute ahead


def test_the_first_after_an_idle_minute_goes_at_once() -> None:
    pace = Pace(100)
    assert pace.wait(100, 5.0) == 0
    pace.grant(100, 5.0)
    assert pace.wait(1, 5.0) == pytest.approx(60)
    assert pace.wait(100, 65.0) == 0


def test_more_than_the_limit_waits_for_an_empty_window() -> None:
    pace = Pace(100)
    pace.grant(40, 0.0)
    assert pace.wait(1000, 10.0) == pytest.approx(50)
    pace.grant(1000, 60.0)
    assert pace.wait(1, 60.0) == pytest.approx(60)


def test_tokens_are_reserved_and_settled() -> None:
    pace = Pace(1000)
    pace.grant(500, 0.0)
    before = pace.wait(100, 0.0)
    assert 29 < before < 31
    pace.settle(500, 100, 0.0)  # it was far less
    assert before - pace.wait(100, 0.0) == pytest.approx(400 * 60 / 995)
    pace.settle(100, 1000, 1.0)  # it was far more: nothing until the grant has left the window
    assert pace.wait(1, 1.0) == pytest.approx(59)


def test_a_hold_is_kept_to_whatever_was_settled() -> None:
    pace = Pace(600)
    pace.grant(1, 0.0)
    pace.hold(30.0)
    pace.hold(20.0)
    pace.settle(1, 0, 1.0)
    assert pace.wait(1, 10.0) == pytest.approx(20)
    assert pace.wait(1, 30.0) == 0


def test_a_window_may_have_another_length() -> None:
    pace = Pace(60, window_seconds=1.0)
    pace.grant(1, 0.0)
    assert pace.wait(1, 0.0) == pytest.approx(1)


# Learned: servers and a client that always has more to send, in simulated time


@dataclass
class Bucket:
    """Lets `rate` requests a second in, and a burst of `burst` seconds' worth."""

    rate: float
    burst: float
    _have: float = field(default=math.inf)
    _at: float = 0.0

    def admits(self, now: float, in_flight: int) -> bool:
        self._have = min(max(1.0, self.burst * self.rate), self._have + (now - self._at) * self.rate)
        self._at = now
        if self._have < 1:
            return False
        self._have -= 1
        return True


@dataclass
class Busy:
    """Lets at most so many be in flight, as DeepSeek does."""

    most: int

    def admits(self, now: float, in_flight: int) -> bool:
        return in_flight < self.most


@dataclass
class Minutes:
    """Lets 60 * `rate` in within each minute of the clock."""

    rate: float
    _minute: int = 0
    _used: int = 0

    def admits(self, now: float, in_flight: int) -> bool:
        if now // 60 != self._minute:
            self._minute, self._used = int(now // 60), 0
        self._used += 1
        return self._used <= 60 * self.rate


@dataclass
class Stalling:
    """Lets `most` in within any 60 s, and stood still from `stall[0]` on: what came then is counted at its end."""

    most: int
    stall: tuple[float, float]
    _taken: deque[float] = field(default_factory=deque)

    def admits(self, now: float, in_flight: int) -> bool:
        counted = self.stall[1] if self.stall[0] <= now < self.stall[1] else now
        while self._taken and self._taken[0] + 60 <= counted:
            self._taken.popleft()
        if len(self._taken) >= self.most:
            return False
        self._taken.append(counted)
        return True


class Spaced(Learned):
    """What a pool with a stated limit waits for: its pace, and what is learned beside it."""

    def __init__(self, per_minute: float) -> None:
        super().__init__(ramps=False)
        self._pace = Pace(per_minute)

    def wait(self, now: float) -> float:
        return max(self._pace.wait(1, now), super().wait(now))

    def grant(self, now: float) -> None:
        self._pace.grant(1, now)
        super().grant(now)


class Boundless:
    """Refuses nothing."""

    def admits(self, now: float, in_flight: int) -> bool:
        return True


@dataclass
class Course:
    """What became of the requests: when each was sent, and whether it was accepted."""

    sent: list[tuple[float, bool]]
    finished: float
    learned: Learned

    def accepted(self, start: float, end: float) -> int:
        return sum(ok for at, ok in self.sent if start <= at < end)

    def refused(self, start: float, end: float) -> int:
        return sum(not ok for at, ok in self.sent if start <= at < end)

    def refused_share(self, start: float, end: float) -> float:
        return self.refused(start, end) / max(1, self.refused(start, end) + self.accepted(start, end))


def simulate(
    server: Bucket | Busy | Minutes | Boundless, *, seconds: float, latency: float, delay: float = 0.1, cap: int = 512,
    seed: int = 0, late: float = 0.0, requests: float = math.inf, learned: Learned | None = None,
    at: Sequence[tuple[float, Callable[[], None]]] = (), idle: tuple[float, float] = (math.inf, math.inf),
) -> Course:  # fmt: skip
    """Send as the learned rate and `cap` allow; a refusal is heard of after `delay`, a reply after about `latency`."""
    chance, learned = random.Random(seed), learned or Learned()
    replies: list[tuple[float, int, float, bool]] = []
    sent: list[tuple[float, bool]] = []
    events, now, busy, waiting = deque(at), 0.0, 0, math.inf
    while now < seconds:
        if events and now >= events[0][0]:
            events.popleft()[1]()
        if idle[0] <= now < idle[1]:
            waiting = idle[1]
        elif len(replies) < cap and len(sent) < requests:
            wait = learned.wait(now)
            if wait <= 0:
                learned.grant(now)
                ok = server.admits(now, busy)
                busy += ok
                sent.append((now, ok))
                spread = chance.lognormvariate(-0.18, 0.6) if latency > 1 else 1.0
                heapq.heappush(replies, (now + (latency * spread if ok else delay), len(sent), now, ok))
                continue
            waiting = now + wait + (chance.expovariate(1 / late) if late else 0.0)
        else:
            waiting = math.inf
        if replies and replies[0][0] <= waiting:
            now, _, sent_at, ok = heapq.heappop(replies)
            busy -= ok
            (learned.accepted if ok else learned.refused)(sent_at, now)
        elif waiting == math.inf:
            break
        else:
            now = waiting
    return Course(sent, now, learned)


@pytest.mark.parametrize("latency", [0.2, 8.0], ids=lambda seconds: f"replies-after-{seconds:g}s")
@pytest.mark.parametrize("delay", [0.005, 0.1], ids=lambda seconds: f"refused-after-{seconds:g}s")
@pytest.mark.parametrize("burst", [0.1, 1.0, 10.0], ids=lambda seconds: f"burst-{seconds:g}s")
@pytest.mark.parametrize("cap", [512, 32], ids=lambda cap: f"cap-{cap}")
def test_an_unstated_limit_is_found_and_used(cap: int, burst: float, delay: float, latency: float) -> None:
    """50 a second: at most 100 refused in the first minute; then 97 % of the limit used and 0.1 % refused.

    Only where a burst of 500 is let in first, and a refusal takes as long as half a reply, are more refused at first.
    """
    first_minute = 300 if burst == 10 and delay == 0.1 else 100
    for seed, late in ((1, 0.0), (2, 0.002)):
        course = simulate(Bucket(50, burst), seconds=660, cap=cap, delay=delay, latency=latency, seed=seed, late=late)
        reachable = min(50, 0.98 * cap / latency)
        assert course.refused(0, 60) <= first_minute
        assert course.accepted(60, 660) >= 0.97 * reachable * 600
        assert course.refused_share(60, 660) <= 0.001


@pytest.mark.parametrize(
    ("rate", "burst", "first_minute"),
    [(8.3, 1.0, 80), (8.3, 10.0, 130), (500, 1.0, 260)],
    ids=lambda value: f"{value:g}",
)
def test_slow_and_fast_limits_are_found_too(rate: float, burst: float, first_minute: int) -> None:
    course = simulate(Bucket(rate, burst), seconds=360, latency=0.2, seed=1)
    assert course.refused(0, 60) <= first_minute
    assert course.accepted(60, 360) >= 0.97 * rate * 300
    assert course.refused_share(60, 360) <= 0.001


def test_a_server_without_a_limit_is_hardly_delayed() -> None:
    unlimited = simulate(Boundless(), seconds=60, latency=0.2, requests=5000, learned=Learned(ramps=False))
    course = simulate(Boundless(), seconds=60, latency=0.2, requests=5000)
    assert unlimited.finished == pytest.approx(2.0)
    assert course.finished - unlimited.finished < 0.45
    assert course.learned.per_second is None and course.learned.wait(course.finished) == 0


@pytest.mark.parametrize("burst", [0.1, 1.0, 10.0], ids=lambda seconds: f"burst-{seconds:g}s")
def test_a_limit_that_doubles_is_found_within_four_minutes(burst: float) -> None:
    server = Bucket(50, burst)
    course = simulate(server, seconds=720, latency=8, cap=1024, at=[(300, lambda: setattr(server, "rate", 100))])
    assert course.accepted(540, 720) >= 0.97 * 100 * 180
    assert course.refused(300, 720) <= 100


@pytest.mark.parametrize("burst", [0.1, 1.0, 10.0], ids=lambda seconds: f"burst-{seconds:g}s")
def test_a_limit_that_halves_is_found_at_once(burst: float) -> None:
    server = Bucket(50, burst)
    course = simulate(server, seconds=600, latency=8, at=[(300, lambda: setattr(server, "rate", 25))])
    assert course.refused(300, 360) <= 120
    assert course.accepted(330, 600) >= 0.97 * 25 * 270
    assert course.refused_share(360, 600) <= 0.002


def test_a_pause_is_not_taken_for_a_slow_server() -> None:
    course = simulate(Bucket(50, 1), seconds=600, latency=0.2, idle=(200, 400))
    assert course.accepted(400, 600) >= 0.97 * 50 * 200
    assert course.refused(400, 600) <= 20


def test_more_in_flight_than_a_server_takes_settles_near_what_it_can_do() -> None:
    for seed in (1, 2):
        course = simulate(Busy(500), seconds=660, latency=8, cap=600, seed=seed)
        assert course.accepted(60, 660) >= 0.75 * 500 / 8 * 600
        assert course.refused_share(60, 660) <= 0.01


def test_a_used_up_minute_is_no_collapse() -> None:
    """All is refused until the next minute; then the rate is the minute's average, not what the refusals left."""
    course = simulate(Minutes(50), seconds=660, latency=0.2)
    assert course.accepted(60, 660) >= 0.9 * 50 * 600
    assert course.refused_share(60, 660) <= 0.005


@pytest.mark.parametrize("stalled", [0.35, 0.4, 0.6, 1.0], ids=lambda seconds: f"stalled-for-{seconds:g}s")
def test_a_stall_costs_a_stated_limit_a_few_refusals_and_no_minute(stalled: float) -> None:
    server = Stalling(3000, (100.0, 100.0 + stalled))
    course = simulate(server, seconds=300, latency=0.2, delay=0.005, learned=Spaced(3000))
    assert 0 < course.refused(0, 300) <= 20
    assert course.accepted(120, 300) >= 0.98 * 3 * 3000


def test_refusals_of_what_was_under_way_cut_only_to_what_is_measured() -> None:
    learned = Learned(ramps=False)
    assert learned.per_second is None
    for number in range(100):
        assert learned.wait(number / 100) == 0
        learned.grant(number / 100)
    learned.refused(0.8, 1.0)  # 0.3 s to 1 s: 70 requests
    assert learned.per_second == pytest.approx(100, rel=0.02)
    assert learned.wait(1.0) == pytest.approx(0.2)  # those under way come in first
    for number in range(81, 100):
        if number % 2:
            learned.refused(number / 100, 1.0 + (number - 80) / 100)
    assert 50 < (learned.per_second or 0) < 75  # every second one was accepted: 50 a second, and some doubt


# Headers


def headers_of(prefix: str, kind: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    values = {"limit": limit, "remaining": remaining, "reset": reset}
    order = "{0}-{2}-{1}" if prefix == "anthropic-ratelimit" else "{0}-{1}-{2}"
    return {order.format(prefix, name, kind): value for name, value in values.items()}


NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
OPENAI, ANTHROPIC = "x-ratelimit", "anthropic-ratelimit"
STATED = {
    "openai-requests": (headers_of(OPENAI, "requests", "10000", "9999", "6ms"), ("requests", 10000, 9999, 0.006)),
    "openai-tokens": (headers_of(OPENAI, "tokens", "200000", "150000", "15s"), ("tokens", 200000, 150000, 15)),
    "openai-large": (headers_of(OPENAI, "tokens", "150000000", "149999967", "0s"), ("tokens", 150e6, 149999967, 0)),
    "openai-used-up": (headers_of(OPENAI, "tokens", "30000", "0", "1m0.5s"), ("tokens", 30000, 0, 60.5)),
    "openai-per-day": (headers_of(OPENAI, "requests", "200", "199", "7m12s"), ("requests", None, 199, 432)),
    "usage-based": (headers_of(OPENAI, "tokens_usage_based", "30000", "29900", "200ms"), ("tokens", 30000, 29900, 0.2)),
    "groq-per-day": (headers_of(OPENAI, "requests", "14400", "14370", "2m59.56s"), ("requests", None, 14370, 179.56)),
    "groq-first": (headers_of(OPENAI, "requests", "14400", "14399", "6s"), ("requests", None, 14399, 6)),
    "groq-large": (headers_of(OPENAI, "requests", "500000", "499999", "172.8ms"), ("requests", None, 499999, 0.1728)),
    "groq-tokens": (headers_of(OPENAI, "tokens", "18000", "17997", "10ms"), ("tokens", 18000, 17997, 0.01)),
    "no-reset": ({"x-ratelimit-limit-requests": "500"}, ("requests", 500, None, None)),
    "azure-unknown": (headers_of(OPENAI, "requests", "-1", "-1", "0"), ("requests", None, None, 0)),
    "azure-zero": (headers_of(OPENAI, "tokens", "0", "0", ""), None),
    "azure-remaining": ({"x-ratelimit-remaining-tokens": "119000"}, ("tokens", None, 119000, None)),
    "fireworks": ({"x-ratelimit-limit-tokens-generated": "36000"}, ("output_tokens", 36000, None, None)),
    "mistral": ({"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "59"}, ("requests", 60, 59, None)),
    "cerebras": (headers_of(OPENAI, "tokens-minute", "60000", "59950", "26.5"), ("tokens", 60000, 59950, 26.5)),
    "cerebras-per-day": (headers_of(OPENAI, "requests-day", "14400", "14399", "33011.4"), None),
    "anthropic": (headers_of(ANTHROPIC, "requests", "4000", "3999", "2023-11-14T22:13:21Z"), ("requests", 4000, 3999, 1)),
    "anthropic-input": (headers_of(ANTHROPIC, "input-tokens", "400000", "200000", "2023-11-14T22:13:50Z"), ("input_tokens", 400000, 200000, 30)),
    "anthropic-output": (headers_of(ANTHROPIC, "output-tokens", "80000", "79000", "2023-11-14T23:13:21+01:00"), ("output_tokens", 80000, 79000, 1)),
    "openrouter": (headers_of(OPENAI, "", "20", "19", "1700000040000"), ("requests", 20, 19, 40)),
    "openrouter-per-day": (headers_of(OPENAI, "", "50", "49", "1700006400000"), ("requests", None, 49, 6400)),
    "epoch-seconds": (headers_of(OPENAI, "", "100", "0", "1700000030"), ("requests", 100, 0, 30)),
    "past": (headers_of(OPENAI, "", "100", "0", "1699999990"), ("requests", None, 0, 0)),
    "together-per-second": (headers_of(OPENAI, "", "10", "9", "1"), ("requests", None, 9, 1)),
    "draft": (headers_of("ratelimit", "", "100, 100;w=60", "50", "30"), ("requests", 100, 50, 30)),
    "draft-ten-seconds": (headers_of("ratelimit", "", "10, 10;w=10, 1000;w=3600", "5", "3"), ("requests", 60, 5, 3)),
    "draft-per-hour": (headers_of("ratelimit", "", "1000, 10;w=1, 1000;window=3600", "5", "30"), ("requests", None, 5, 30)),
    "nonsense": (headers_of(OPENAI, "requests", "many", "some", "soon, Tuesday"), None),
    "infinite": (headers_of(OPENAI, "requests", "inf", "nan", "1e999"), None),
    "other": ({"x-ratelimit-over-limit": "no", "anthropic-ratelimit-unified-status": "allowed"}, None),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "expected"), STATED.values(), ids=STATED.keys())
def test_limits_are_read_as_their_server_means_them(
    headers: dict[str, str], expected: tuple[str, float | None, float | None, float | None] | None
) -> None:
    headers = {name.removesuffix("-"): value for name, value in headers.items()}
    found = read_limits({"date": "x", **headers}, NOW)
    if expected is None:
        assert found == {}
        return
    assert list(found) == [expected[0]]
    stated = found[expected[0]]
    assert (stated.kind, stated.per_minute, stated.remaining) == expected[:3]
    assert stated.reset_seconds == pytest.approx(expected[3])


def test_of_two_statements_the_tighter_counts() -> None:
    plain = headers_of(OPENAI, "tokens", "30000", "29000", "2s")
    usage = headers_of(OPENAI, "tokens_usage_based", "20000", "0", "1m")
    assert read_limits(plain | usage, NOW) == {"tokens": Stated("tokens", 20000, 0, 60)}


def test_the_client_library_s_headers_are_read_whatever_their_case() -> None:
    assert read_limits(httpx.Headers({"Date": "x", "Server": "y"}), NOW) == {}
    headers = httpx.Headers({"Date": "x", "X-RateLimit-Limit-Requests": "60"})
    assert read_limits(headers, NOW) == {"requests": Stated("requests", 60, None, None)}


NAMES = [name.removesuffix("-") for headers, _ in STATED.values() for name in headers]
PIECES = st.one_of(
    st.text(max_size=20),
    st.from_regex(r"-?[0-9]{1,30}(\.[0-9]{0,30})?(ms|s|m|h|d|e9)?", fullmatch=True),
    st.from_regex(r"[0-9]{1,5}-[0-9]{1,2}-[0-9]{1,2}T[0-9:.]{0,12}(Z|[+-][0-9]{2}:[0-9]{2})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,20}(, ?[0-9]{1,12};w=[0-9]{1,12})*", fullmatch=True),
    st.sampled_from([value for headers, _ in STATED.values() for value in headers.values()]),
)


@given(
    st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=20)), PIECES, max_size=8),
    st.floats(0, 4e9),
)
@example({"x-ratelimit-limit": "5", "x-ratelimit-reset": "0001-01-01T00:00:00+23:59"}, 0.0)
@example({"x-ratelimit-limit-tokens": "1" * 400}, 0.0)
def test_whatever_servers_send_never_raises_and_never_misleads(headers: dict[str, str], now: float) -> None:
    for kind, stated in read_limits(headers, now).items():
        assert kind == stated.kind and kind in ("requests", "tokens", "input_tokens", "output_tokens")
        assert stated.per_minute is None or 0 < stated.per_minute < math.inf
        assert stated.remaining is None or 0 <= stated.remaining < math.inf
        assert stated.reset_seconds is None or 0 <= stated.reset_seconds <= 32 * 86400
