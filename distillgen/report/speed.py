"""How fast replies came: over time, by step and teacher, as the answer store of the project remembers them."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

MOMENTS = 48  # parts into which a stretch of time is cut, at the most
REPLIES_IN_ONE = 4  # on average, where there are few
PAUSE = 300.0  # seconds without a reply that end a stretch: another run, or a batch that was waited for

Where = tuple[str, str]  # step, teacher


@dataclass(frozen=True)
class Moment:
    """A part of a stretch: when it began (Unix time), its replies, and their latencies (seconds, sorted)."""

    began: float
    replies: int
    seconds: Sequence[float]


@dataclass(frozen=True)
class Stretch:
    """Replies that came one after another, without a long pause. `first` and `last` are Unix times."""

    first: float
    last: float
    replies: int

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.last - self.first

    @property
    def moments(self) -> int:
        """Into how many parts it is cut."""
        return max(min(MOMENTS, self.replies // REPLIES_IN_ONE), 1)


@dataclass
class Speed:
    """When replies came (Unix time), how long each request took (seconds, NaN in a batch), and whose it was.

    Memory: 18 bytes for each reply.
    """

    received: "array[float]" = field(default_factory=lambda: array("d"))
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    whose: "array[int]" = field(default_factory=lambda: array("H"))
    places: dict[Where, int] = field(default_factory=dict)

    def add(self, where: Where, received: float, seconds: float | None) -> None:
        """Take a reply in; of one that came in a batch there is no latency."""
        self.received.append(received)
        self.seconds.append(math.nan if seconds is None else seconds)
        self.whose.append(self.places.setdefault(where, len(self.places)))

    def stretches(self) -> list[Stretch]:
        """Return the times in which replies came, in order."""
        moments = sorted(self.received)
        cuts = [0, *(place + 1 for place, (a, b) in enumerate(pairwise(moments)) if b - a > PAUSE), len(moments)]
        return [Stretch(moments[low], moments[high - 1], high - low) for low, high in pairwise(cuts) if low < high]

    def over_time(self, stretch: Stretch) -> list[Moment]:
        """Return equal parts of a stretch."""
        count = stretch.moments
        width = max(stretch.seconds / count, 1e-9)
        replies, seconds = [0] * count, [array("d") for _ in range(count)]
        for received, latency in zip(self.received, self.seconds, strict=True):
            if stretch.first <= received <= stretch.last:
                place = min(int((received - stretch.first) / width), count - 1)
                replies[place] += 1
                if not math.isnan(latency):
                    seconds[place].append(latency)
        return [Moment(stretch.first + place * width, replies[place], sorted(seconds[place])) for place in range(count)]

    def latencies(self) -> dict[Where, list[float]]:
        """Return the latencies of each step and teacher, in seconds, sorted; those of batches are not known."""
        found: dict[Where, list[float]] = {}
        names = list(self.places)
        for whose, seconds in zip(self.whose, self.seconds, strict=True):
            if not math.isnan(seconds):
                found.setdefault(names[whose], []).append(seconds)
        return {where: sorted(seconds) for where, seconds in found.items()}


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of sorted values lies."""
    return ordered[round(share * (len(ordered) - 1))]
