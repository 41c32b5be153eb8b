"""Spaces what is sent so that no window of a minute holds more than a limit; a microsecond a call, holds no clock."""

from collections import deque

MARGIN = 0.995  # of a stated limit is aimed at: what the network bunches up must still fit the server's window
CATCH_UP_SECONDS = 0.1  # a timer so late is made up for
ADVANCE_SECONDS = 1.0  # an amount is paid for up to so long before it is granted; the rest, after
PARTS = 600  # sums that a window is remembered in


class Pace:
    """Grants amounts (requests or tokens) so that no window holds more than a limit, and uses what that law lets it.

    Two rules hold at once. A meter spreads the grants evenly. A tally of the last window keeps the law, for a meter
    alone overshoots by one amount: the first of a window, paid for before the window began. The tally adds up what is
    granted within a tenth of a second, so it holds at most 600 sums, and each comes and goes once.

    Equal requests use 99.5 % of a limit. Tokens of unequal requests, taken in turn, use what no schedule can better: a
    window is full when the next request does not fit (98.9 % for 300 to 4,000 tokens of 200,000 a minute).

    Times are seconds of any steady clock.
    """

    __slots__ = (
        "_held_until", "_in_window", "_is_full", "_limit", "_paid_to", "_part", "_seconds_each", "_sums", "_window",
        "per_minute",
    )  # fmt: skip

    def __init__(self, per_minute: float, window_seconds: float = 60.0) -> None:
        self._window, self._part = window_seconds, window_seconds / PARTS
        self._set(per_minute)
        self._held_until = float("-inf")
        self._paid_to = float("-inf")  # the meter: up to when the time is paid out
        self._sums: deque[list[float]] = deque()  # the tally: [first granted, last granted, amount], oldest first
        self._in_window = 0.0
        self._is_full = False  # whether the tally held the next amount back

    def _set(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._limit = per_minute * self._window / 60
        self._seconds_each = 60 / (per_minute * MARGIN)

    def wait(self, amount: float, now: float) -> float:
        """Return in how many seconds an amount may be granted, 0 for now; one above the limit needs an empty window."""
        sums = self._sums
        while sums and sums[0][1] + self._window <= now:
            self._in_window -= sums.popleft()[2]
        if not sums:
            self._in_window = 0.0  # what rounding left
        paid = amount * self._seconds_each
        ready = self._paid_to + (paid if paid < ADVANCE_SECONDS else ADVANCE_SECONDS)
        if ready < self._held_until:
            ready = self._held_until
        excess = self._in_window + (amount if amount < self._limit else self._limit) - self._limit
        if excess > 0:
            self._is_full = True
            ready = max(ready, self._leaves_at(excess))
        return ready - now if ready > now else 0.0

    def _leaves_at(self, excess: float) -> float:
        """Return when so much of what the window holds will have left it."""
        at = float("-inf")
        for _, last, amount in self._sums:
            at = last + self._window
            excess -= amount
            if excess <= 0:
                break
        return at

    def grant(self, amount: float, now: float) -> None:
        """Take an amount for which `wait` was 0."""
        paid = amount * self._seconds_each
        if self._is_full:  # time that the tally took may be made up for; time without demand may not
            self._is_full = False
            lost_before = now - self._window
        else:
            lost_before = now - CATCH_UP_SECONDS - (paid if paid < ADVANCE_SECONDS else ADVANCE_SECONDS)
        self._charge((lost_before if lost_before > self._paid_to else self._paid_to) + paid, now)
        self._count(amount, now)

    def settle(self, reserved: float, used: float, now: float) -> None:
        """Correct a grant once it is known what was really used: from now on, as servers do."""
        self._charge(self._paid_to + (used - reserved) * self._seconds_each, now)
        self._count(used - reserved, now)

    def change(self, per_minute: float, now: float) -> None:
        """Go on with another limit; what was granted stays granted."""
        if per_minute != self.per_minute:
            owed = (self._paid_to - now) * self.per_minute / per_minute
            self._set(per_minute)
            if owed > 0:
                self._charge(now + owed, now)

    def hold(self, until: float) -> None:
        """Grant nothing before a time: the server said that nothing remains until then."""
        self._held_until = max(self._held_until, until)

    def _charge(self, paid_to: float, now: float) -> None:
        latest = now + self._window - ADVANCE_SECONDS  # after an empty window the next goes at once, whatever was
        self._paid_to = paid_to if paid_to < latest else latest

    def _count(self, amount: float, now: float) -> None:
        self._in_window += amount
        if self._sums and now < self._sums[-1][0] + self._part:
            newest = self._sums[-1]
            newest[1] = now
            newest[2] += amount
        else:
            self._sums.append([now, now, amount])
