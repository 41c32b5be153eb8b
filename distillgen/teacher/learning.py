"""Finds the rate limit that a server does not state, in requests per second, from what it refuses (HTTP 429)."""

from collections import deque
from math import sqrt

# Start-up: double until something is refused, or until so fast that the rate no longer matters. What is refused by then
# is what was sent in the time that a refusal takes: faster doubling would make it more than a hundred where a limit of
# 50 a second refuses after 0.1 s. A server that has no limit is so delayed a quarter of a second, once.
START_PER_SECOND = 200.0
DOUBLE_SECONDS = 0.1
OPEN_PER_SECOND = 5_000.0

# Afterwards: small cuts, slow climbs. Mean use is about 1 - CUT / 2, refusals about one or two in CYCLE requests.
CUT = 0.015
CYCLE = 3000  # requests in which the rate climbs by one cut: a probe interval that scales with 1 / rate
LEAST_SURE = 100.0
FRESH = 200  # accepted requests after which the next refusal is a new matter
DOUBT = 0.75  # standard errors granted to a measured rate, for servers whose own pace varies
MAX_STEP = 0.05  # of the rate, for one accepted request
MAX_GROWTH = 0.5  # of the rate, within the time of one reply
SLOWEST_PER_SECOND = 0.2  # still sent when everything is refused, to notice the end of that
STARVED_SECONDS = 0.5

CATCH_UP_SECONDS = 0.1  # a timer so late is made up for
IDLE_SECONDS = 1.0  # so long without demand, and the server may have saved up a burst
LOOK_BACK_SECONDS = 0.5
REMEMBERED = 4096  # times of sending, to tell how many requests followed a refused one


class Learned:
    """Paces requests at the rate that the server is found to allow; imposes nothing while none was refused.

    One law carries it: at a refusal the server's allowance is used up, so what it accepted between two refusals is what
    it allows in that time, however large its first burst was. Start-up ends with the first refusal: nothing is sent
    until the refusals under way are in, and from then on no rate is kept above what was so measured. Refusals of
    requests sent before a cut count in the measurement but cut no further. A rate well above the limit thus comes down
    at the price of a few refusals, their logarithm growing with time; in steady use one refusal brings one small cut.

    The rate climbs with accepted requests, and only while it holds somebody back. It climbs slowly when much supports
    it, and ever faster when no refusal comes for twice as long as expected: then the limit has risen.

    When all is refused for a while (a window of a minute is used up; too many are in flight) the rate falls very low;
    the first request accepted again brings back the average over the whole time, which is such a server's real limit.

    What `Retry-After` says delays a request, never this. Times are seconds of any steady clock.
    """

    def __init__(self, *, ramps: bool = True) -> None:
        """`ramps = False` starts without a limit: where a stated one already spaces the requests."""
        self._rate: float | None = START_PER_SECOND if ramps else None
        self._is_starting = ramps
        self._is_spaced = not ramps
        self._sent_at_rate = 0
        self._free_at = float("-inf")
        self._is_bound = False  # whether the last request had to wait: only then does the rate show anything
        self._recent: deque[float] = deque(maxlen=REMEMBERED)

        self._cut_at = float("-inf")
        self._calm = 0  # accepted since the last cut
        self._sure = LEAST_SURE  # requests that the rate rests on

        self._empty_at: float | None = None  # a refusal: from here on is measured
        self._sent = self._refused = 0  # since then

        self._began_at: float | None = None
        self._accepted = 0  # since it began
        self._is_starved = False

    @property
    def per_second(self) -> float | None:
        """The rate kept to, None when no limit is in sight."""
        return self._rate

    def wait(self, now: float) -> float:
        """Return in how many seconds a request may be sent, 0 for now."""
        return 0.0 if self._rate is None or self._free_at <= now else self._free_at - now

    def grant(self, now: float) -> None:
        """Note that a request is sent."""
        self._recent.append(now)
        self._sent += 1
        self._accepted += 1  # until it is refused
        if self._began_at is None:
            self._began_at = now
        if self._rate is None:
            return
        late = now - self._free_at
        self._is_bound = late < CATCH_UP_SECONDS
        if late > IDLE_SECONDS:
            self._empty_at = None
        self._free_at = max(self._free_at, now - CATCH_UP_SECONDS) + 1 / self._rate
        if self._is_starting and self._is_bound:
            self._rate = self._ramp(self._rate)

    def _ramp(self, rate: float) -> float | None:
        """Return the rate of start-up after one more request that had to wait."""
        self._sent_at_rate += 1
        if self._sent_at_rate < rate * DOUBLE_SECONDS:
            return rate
        self._sent_at_rate = 0
        if 2 * rate < OPEN_PER_SECOND:
            return 2 * rate
        self._is_starting = False
        return None

    def accepted(self, sent_at: float, now: float) -> None:
        """Learn from a reply: climb. Replies to what was sent before the last cut say nothing of the rate since."""
        if self._rate is None or self._is_starting or not self._is_bound or sent_at < self._cut_at:
            return
        if self._is_starved and self._began_at is not None:
            self._resume(self._rate, self._accepted / (now - self._began_at))
        self._calm += 1
        step = CUT / self._sure
        overdue = self._calm / self._sure - 2
        if overdue > 0:
            step = min(MAX_STEP, step * 2 ** min(32.0, 4 * overdue))
        in_flight = self._rate * (now - sent_at)
        self._rate *= 1 + (step if step * in_flight < MAX_GROWTH else MAX_GROWTH / in_flight)

    def refused(self, sent_at: float, now: float) -> None:
        """Learn from a 429: cut."""
        self._accepted -= 1
        if self._rate is None or self._is_starting:
            self._end_start_up(sent_at, now)
            return
        is_late = sent_at < self._cut_at  # it was under way when the rate was cut
        if self._empty_at is not None and sent_at > self._empty_at:
            self._refused += 1
            if is_late or self._calm <= FRESH:
                self._measure(sent_at, self._empty_at)
        if is_late:
            return
        if self._empty_at is None or self._calm > FRESH:
            self._measure_from(sent_at)
        self._rate = max(SLOWEST_PER_SECOND, self._rate * (1 - CUT))
        self._sure = min(CYCLE, 2 * self._sure + self._calm)
        self._calm, self._cut_at = 0, now

    def _end_start_up(self, sent_at: float, now: float) -> None:
        """Drop to the rate at which was really sent, and let what is under way come in first."""
        began_at = sent_at if self._began_at is None else self._began_at
        since = max(began_at, sent_at - LOOK_BACK_SECONDS)
        self._rate = (self._after(since) + 1) / max(now - since, 0.001)
        self._is_starting = False
        self._free_at = now + (now - sent_at)
        self._calm, self._cut_at = 0, now
        self._measure_from(sent_at)

    def _measure_from(self, sent_at: float) -> None:
        self._empty_at, self._sent, self._refused = sent_at, self._after(sent_at), 0

    def _measure(self, sent_at: float, empty_at: float) -> None:
        """Keep to what was accepted from one refusal to another, rounded up by the request that was almost let in."""
        seconds = sent_at - empty_at
        accepted = max(0, self._sent - self._after(sent_at) - self._refused)
        measured = (accepted + 1 + DOUBT * sqrt(accepted + 1)) / seconds
        if self._rate is not None and measured < self._rate:
            self._rate = max(SLOWEST_PER_SECOND, measured)
            self._sure = max(LEAST_SURE, min(self._sure, accepted))
        # What a stated limit spaces is refused all at once when a window is used up, as after a stall: no slow server.
        if accepted == 0 and (self._is_spaced or seconds > STARVED_SECONDS):
            self._is_starved = True

    def _resume(self, rate: float, average: float) -> None:
        self._rate = max(rate, average)
        self._sure = max(LEAST_SURE, min(CYCLE, self._accepted))
        self._is_starved, self._empty_at = False, None

    def _after(self, at: float) -> int:
        """Return how many requests were sent after a time."""
        count = 0
        for sent_at in reversed(self._recent):
            if sent_at <= at:
                break
            count += 1
        return count
