"""Pictures as SVG: bars, columns and the funnel. Text and numbers are in them, so that they read without colour.

Plain SVG and no chart library: it is there without JavaScript, prints, is read aloud, needs no exception from the
page's content policy, and weighs what it shows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH = 640  # units of the funnel, not pixels: it fills the page's width
HALF = 460  # of columns, of which two fit side by side
NARROW = 340  # units of the funnel on a narrow page
LINE, TWO_LINES = 26, 40
TALL = 120  # height of the tallest column
WIDEST = 80  # width of a column, where there are few
ROOM = 100  # width of a label
BAR = 150  # width of the bar in a table's cell


def bar(share: float) -> Markup:
    """Return a bar for a table's cell that fills a share (0 to 1) of its width."""
    width = max(0.0, min(share, 1.0)) * BAR
    return Markup(
        '<svg class="bar" viewBox="0 0 {} 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="fill" width="{:.1f}" height="10"/></svg>'
    ).format(BAR, width)


@dataclass(frozen=True)
class Stage:
    """One line of the funnel: rows that came in, that went on, and that were left out, by reason."""

    name: str
    rows_in: int
    out: int
    left_out: Mapping[str, int] = field(default_factory=dict)


def funnel(stages: Sequence[Stage]) -> Markup:
    """Return the funnel: a line for each stage, as long as its rows, with what was left out at its end.

    Twice: with the names beside the bars, and above them for a page so narrow that the first would not fit. The page's
    style shows one of them.
    """
    most = max((max(stage.rows_in, stage.out) for stage in stages), default=0) or 1
    told = "; ".join(f"{stage.name}: {stage.rows_in:,} in, {stage.out:,} out" for stage in stages)
    return Markup("").join(
        _picture(kind, width, len(stages) * line + 4, f"Funnel. {told}",
                 [place_of(place, stage, room / most) for place, stage in enumerate(stages)])
        for kind, width, line, room, place_of in (
            ("funnel", WIDTH, LINE, WIDTH - 330, _beside), ("funnel narrow", NARROW, TWO_LINES, NARROW, _above),
        )
    )  # fmt: skip


def _beside(place: int, stage: Stage, scale: float) -> Markup:
    top = place * LINE + 4
    end = 196 + sum(_parts_of(stage)) * scale
    return Markup(
        '<text class="name" x="0" y="{mid}">{name}</text>{bars}<text x="{end:.1f}" y="{mid}">{said}</text>'
    ).format(
        mid=top + 14, name=_cut(stage.name, 27), bars=_bars(190, top, 18, stage, scale), end=end, said=_said(stage),
    )  # fmt: skip


def _above(place: int, stage: Stage, scale: float) -> Markup:
    top = place * TWO_LINES + 4
    return Markup(
        '<text class="name" x="0" y="{mid}">{name}</text>'
        '<text x="{end}" y="{mid}" text-anchor="end">{said}</text>{bars}'
    ).format(
        mid=top + 12, name=_cut(stage.name, 27), end=NARROW, said=_said(stage),
        bars=_bars(0, top + 17, 14, stage, scale),
    )  # fmt: skip


def _bars(left: float, top: float, height: float, stage: Stage, scale: float) -> Markup:
    """Return the bar of the rows that went on, and after it that of those that were left out."""
    full, rest = (rows * scale for rows in _parts_of(stage))
    return Markup(
        '<rect class="fill" x="{left}" y="{top}" width="{full:.1f}" height="{height}"/>'
        '<rect class="lost" x="{edge:.1f}" y="{top}" width="{rest:.1f}" height="{height}"/>'
    ).format(left=left, top=top, full=full, edge=left + full, rest=rest, height=height)


def _parts_of(stage: Stage) -> tuple[int, int]:
    """Return the rows that went on, and those that were left out."""
    return min(stage.out, stage.rows_in) if stage.rows_in else stage.out, sum(stage.left_out.values())


def _said(stage: Stage) -> str:
    lost = sum(stage.left_out.values())
    return f"{stage.out:,}" + (f"  (−{lost:,})" if lost else "")


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def columns(bins: Sequence[tuple[str, float]], what: str, said: Callable[[float], str] = _whole) -> Markup:
    """Return a histogram: a column for each (label, value), labels below the first, the middle and the last.

    `said` turns a value into what people read.
    """
    if not bins:
        return Markup("")
    most, step = max(value for _, value in bins), HALF / len(bins)
    parts = [_column(place * step, step, value / (most or 1), f"{label}: {said(value)}")
             for place, (label, value) in enumerate(bins)]  # fmt: skip
    parts += _labels([label for label, _ in bins], step)
    parts.append(Markup('<text class="most" x="0" y="10">most: {}</text>').format(said(most)))
    parts.append(Markup('<path class="axis" d="M0 {y} H{width}"/>').format(y=TALL + 14.5, width=HALF))
    told = "; ".join(f"{label}: {said(value)}" for label, value in bins if value)
    return _picture("columns", HALF, TALL + 36, f"{what}. {told}", parts)


def _column(left: float, step: float, share: float, told: str) -> Markup:
    tall = share * TALL
    return Markup(
        '<rect class="fill" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
    ).format(left + 1, TALL - tall + 14, min(max(step - 2, 0.5), WIDEST), tall, told)


def _labels(labels: Sequence[str], step: float) -> Iterator[Markup]:
    """Yield the labels that stand below: all when they have room, else those of the first, the middle and the last."""
    last = len(labels) - 1
    if step >= ROOM:
        places = [(place, place * step + 1, "start") for place in range(len(labels))]
    else:
        places = [(0, 0.0, "start"), (last // 2, (last // 2 + 0.5) * step, "middle"), (last, float(HALF), "end")]
    for place, x, anchor in places:
        yield Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(x, TALL + 30, anchor, labels[place])


def _picture(kind: str, width: float, height: float, told: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, told, Markup("").join(parts)
    )


def _cut(text: str, most: int) -> Markup:
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
