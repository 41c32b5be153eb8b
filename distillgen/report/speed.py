"""How fast replies came: over time, by step and teacher, as the answer store of the project remembers them."""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from distillgen.report.console import clock
from distillgen.report.drawing import bar, columns
from distillgen.report.page import Line, Part

MOMENTS = 48  # parts into which a stretch of time is cut, at the most
REPLIES_IN_ONE = 4  # on average, where there are few
PAUSE = 300.0  # seconds without a reply that end a stretch: another run, or a batch that was waited for
MOST_STRETCHES = 12

Where = tuple[str, str]  # step, teacher


@dataclass(frozen=True)
class Moment:
    """A part of a stretch: when it began (Unix time), how many replies came in it, their latencies (seconds, sorted)."""

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
        return [
            Moment(stretch.first + place * width, replies[place], sorted(seconds[place])) for place in range(count)
        ]

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


def duration(seconds: float) -> str:
    """Return a duration as people read it, of milliseconds as well as of hours."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def speed_parts(run: Mapping[str, Any], speed: Speed) -> Iterator[Part]:
    """Yield what is said of speed: of the run, and of the replies behind a version where they are on record."""
    if run.get("calls") and run.get("seconds"):
        rate = run["calls"] / run["seconds"]
        said = f"The run that published this version: {run['calls']:,} calls in {duration(run['seconds'])}"
        yield Part(text=f"{said}, {rate:,.3g} a second.")
    if not speed.received:
        yield Part(text="When each reply came, and how long it took, is in the answer store of the project that asked, "
                   "which is not here.", is_quiet=True)  # fmt: skip
        return
    stretches = speed.stretches()
    busiest = max(stretches, key=lambda each: each.replies)
    if len(stretches) > 1:
        yield _stretches(stretches)
    if busiest.replies > 1:
        yield from _over_time(speed, busiest)
    yield from _latencies(speed.latencies())


def _stretches(stretches: Sequence[Stretch]) -> Part:
    shown = sorted(sorted(stretches, key=lambda each: -each.replies)[:MOST_STRETCHES], key=lambda each: each.first)
    most = max(each.replies for each in stretches)
    more = f", the {len(shown)} largest of {len(stretches):,}" if len(shown) < len(stretches) else ""
    return Part(
        heading=f"When the replies behind these rows came{more}",
        heads=["from", "lasted", "replies", "a second"],
        rows=[
            Line([
                _moment(each.first), duration(each.seconds), f"{each.replies:,}",
                f"{each.replies / each.seconds:,.3g}" if each.seconds else "",
            ], bar(each.replies / most)) for each in shown
        ],
    )  # fmt: skip


def _over_time(speed: Speed, stretch: Stretch) -> Iterator[Part]:
    moments = speed.over_time(stretch)
    width = max(stretch.seconds / len(moments), 1e-9)
    after = [f"+{duration(moment.began - stretch.first)}" for moment in moments]
    began = f"from {_moment(stretch.first)}, each column {duration(width)}"
    yield Part(
        heading="Replies a second, over time", note=began,
        picture=columns(
            [(label, moment.replies / width) for label, moment in zip(after, moments, strict=True)],
            "Replies a second, over time", said=lambda rate: f"{rate:,.3g}",
        ),
    )  # fmt: skip
    slow = [
        (label, quantile(moment.seconds, 0.5) if moment.seconds else 0.0)
        for label, moment in zip(after, moments, strict=True)
    ]
    if any(seconds for _, seconds in slow):
        heading = "Latency over time, the median"
        yield Part(heading=heading, note=began, picture=columns(slow, heading, said=duration))


def _latencies(found: Mapping[Where, Sequence[float]]) -> Iterator[Part]:
    if not found:
        return
    most = max(quantile(each, 0.5) for each in found.values()) or 1
    yield Part(
        heading="Latency: seconds from the request to its reply, by step and teacher",
        heads=["step", "teacher", "replies", "median", "95 % below", "most"],
        rows=[
            Line([
                step, teacher, f"{len(each):,}", *_marks(each)
            ], bar(quantile(each, 0.5) / most)) for (step, teacher), each in found.items()
        ],
    )  # fmt: skip
    yield Part(text="The bar shows the median. Replies of batches have no latency.", is_quiet=True)


def _marks(ordered: Sequence[float]) -> Iterable[str]:
    return (duration(quantile(ordered, share)) for share in (0.5, 0.95, 1.0))


def _moment(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
