"""What the report says of speed: the run's, and that of the replies behind a version where it is on record."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from distillgen.files import utc_for_people
from distillgen.report.console import clock
from distillgen.report.drawing import bar, columns
from distillgen.report.page import Line, Part
from distillgen.report.speed import Speed, Stretch, Where, quantile

MOST_STRETCHES = 12


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
                utc_for_people(each.first), duration(each.seconds), f"{each.replies:,}",
                f"{each.replies / each.seconds:,.3g}" if each.seconds else "",
            ], bar(each.replies / most)) for each in shown
        ],
    )  # fmt: skip


def _over_time(speed: Speed, stretch: Stretch) -> Iterator[Part]:
    moments = speed.over_time(stretch)
    width = max(stretch.seconds / len(moments), 1e-9)
    after = [f"+{duration(moment.began - stretch.first)}" for moment in moments]
    began = f"from {utc_for_people(stretch.first)}, each column {duration(width)}"
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
        heading="Latency by step and teacher, from the request to its reply",
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
