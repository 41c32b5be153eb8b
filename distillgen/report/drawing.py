"""Pictures as SVG: bars, columns, the funnel, curves, dots. Text and numbers are in them: they read without colour.

Plain SVG and no chart library: it is there without JavaScript, prints, is read aloud, needs no exception from the
page's content policy, and weighs what it shows.
"""

import math
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


# -- curves ----------------------------------------------------------------------------------------------------------

DASHES = ("", "7 3", "2 3")  # of the first, the second and the third curve: they are told apart without colour
LOGARITHMIC = 20.0  # times the least value that the most is, from which on a curve stands on a logarithmic scale
LEFT = 48  # room of the scale's numbers


@dataclass(frozen=True)
class Curve:
    """A curve through points (x, y), the x rising."""

    name: str
    points: Sequence[tuple[float, float]]


def curves(
    lines: Sequence[Curve], what: str, along: str, marked: tuple[float, str] | None = None,
    said: Callable[[float], str] = "{:.3g}".format,
) -> Markup:  # fmt: skip
    """Return curves over one x, which is called `along`; `marked` is an x and what is said of it.

    What is no finite number is left out. Where the most is LOGARITHMIC times the least, the scale is logarithmic.
    """
    lines = [Curve(line.name, [each for each in line.points if all(map(math.isfinite, each))]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    scales = _Scales.of([point for line in lines for point in line.points])
    parts = [*_frame(scales, along, said)]
    if marked is not None and scales.least_x <= marked[0] <= scales.most_x:
        parts.append(_mark(scales.x(marked[0]), marked[1]))
    for place, line in enumerate(lines):
        parts += _curve(line, place, scales, said)
    told = "; ".join(_told(line, along, said) for line in lines) + (f"; {marked[1]}" if marked else "")
    return _picture("columns", HALF, TALL + 58, f"{what}. {told}", parts)


@dataclass(frozen=True)
class _Scales:
    """Where a point of a curve stands."""

    least_x: float
    most_x: float
    least_y: float
    most_y: float
    is_logarithmic: bool

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> "_Scales":
        xs, ys = [x for x, _ in points], [y for _, y in points]
        least, most = min(ys), max(ys)
        is_logarithmic = least > 0 and most / least >= LOGARITHMIC
        return cls(min(xs), max(xs), least if is_logarithmic else min(least, 0.0), most, is_logarithmic)

    def x(self, value: float) -> float:
        width = self.most_x - self.least_x
        share = (value - self.least_x) / width if width else 0.5
        return LEFT + share * (HALF - LEFT - 4)

    def y(self, value: float) -> float:
        if self.is_logarithmic:
            low = math.log(self.least_y)
            share = (math.log(value) - low) / (math.log(self.most_y) - low)
        else:
            high = self.most_y - self.least_y
            share = (value - self.least_y) / high if high else 0.5
        return 36 + (1 - share) * TALL

    def marks(self) -> Sequence[float]:
        """The values that are written beside the picture: the most, one in the middle, the least."""
        middle = (
            math.exp(math.log(self.least_y) / 2 + math.log(self.most_y) / 2)
            if self.is_logarithmic
            else self.least_y / 2 + self.most_y / 2
        )
        return (self.most_y, middle, self.least_y) if self.most_y > self.least_y else (self.most_y,)


def _frame(scales: _Scales, along: str, said: Callable[[float], str]) -> Iterator[Markup]:
    """Yield the scale's numbers, with a line across for each, and those along the bottom."""
    for value in scales.marks():
        yield Markup(
            '<path class="axis" d="M{left} {y:.1f} H{width}"/>'
            '<text class="most" x="{end}" y="{below:.1f}" text-anchor="end">{said}</text>'
        ).format(left=LEFT, y=scales.y(value), width=HALF, end=LEFT - 6, below=scales.y(value) + 4, said=said(value))
    for value, anchor in ((scales.least_x, "start"), (scales.most_x, "end")):
        yield Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{} {:,.0f}</text>').format(
            scales.x(value), TALL + 54, anchor, along, value
        )


def _mark(x: float, told: str) -> Markup:
    anchor = "start" if x < HALF / 2 else "end"
    return Markup(
        '<path d="M{x:.1f} 30 V{end}" stroke="currentColor" stroke-dasharray="1 3"/>'
        '<text x="{beside:.1f}" y="{low}" text-anchor="{anchor}">{told}</text>'
    ).format(x=x, end=TALL + 36, beside=x + (4 if anchor == "start" else -4), low=44, anchor=anchor, told=told)


def _curve(line: Curve, place: int, scales: _Scales, said: Callable[[float], str]) -> Iterator[Markup]:
    """Yield a curve, its points where they are few, and its name above with a piece of it."""
    dashes, left = DASHES[place % len(DASHES)], LEFT + place * 150
    path = " ".join(f"{scales.x(x):.1f},{scales.y(y):.1f}" for x, y in line.points)
    stroke = Markup('fill="none" stroke="currentColor" stroke-width="1.5" stroke-dasharray="{}"').format(dashes)
    yield Markup('<polyline points="{}" {}/>').format(path, stroke)
    if len(line.points) <= HALF // 10:
        for x, y in line.points:
            yield Markup(
                '<circle cx="{:.1f}" cy="{:.1f}" r="2.5" fill="currentColor"><title>{}</title></circle>'
            ).format(scales.x(x), scales.y(y), f"{line.name}, {x:,.0f}: {said(y)}")
    yield Markup('<path d="M{} 10 h28" {}/><text x="{}" y="14">{}</text>').format(
        left, stroke, left + 34, _cut(line.name, 18)
    )


def _told(line: Curve, along: str, said: Callable[[float], str]) -> str:
    least = min(line.points, key=lambda point: point[1])
    (first, began), (last, ended) = line.points[0], line.points[-1]
    return (
        f"{line.name}: {said(began)} at {along} {first:,.0f}, {said(ended)} at {along} {last:,.0f}, "
        f"least {said(least[1])} at {along} {least[0]:,.0f}"
    )


# -- dots with intervals ---------------------------------------------------------------------------------------------

ONE_DOT = 42  # height of a dot with its name above


@dataclass(frozen=True)
class Dot:
    """A figure, its interval where there is one, and both as people read them."""

    name: str
    value: float
    low: float | None
    high: float | None
    said: str


def dots(rows: Sequence[Dot], what: str, marks: Sequence[tuple[float, str]]) -> Markup:
    """Return dots with their intervals over one scale, which the marks (value, text) span from the first to the last.

    What lies outside of it stands at its end.
    """
    if not rows:
        return Markup("")
    least, most = marks[0][0], marks[-1][0]

    def place_of(value: float) -> float:
        share = (value - least) / (most - least) if most > least else 0.5
        return 6 + min(max(share, 0.0), 1.0) * (HALF - 12)

    end = len(rows) * ONE_DOT + 6
    parts = list(_scale(marks, place_of, end))
    parts += [_dot(row, place * ONE_DOT, place_of) for place, row in enumerate(rows)]
    told = "; ".join(f"{row.name}: {row.said}" for row in rows)
    return _picture("columns", HALF, end + 20, f"{what}. {told}", parts)


def _scale(marks: Sequence[tuple[float, str]], place_of: Callable[[float], float], end: float) -> Iterator[Markup]:
    for number, (value, text) in enumerate(marks):
        anchor = "start" if number == 0 else "end" if number == len(marks) - 1 else "middle"
        x = place_of(value)
        yield Markup(
            '<path class="axis" d="M{x:.1f} 20 V{end}"/>'
            '<text class="most" x="{at:.1f}" y="{below}" text-anchor="{anchor}">{text}</text>'
        ).format(x=x, end=end, at=x + {"start": -6, "end": 6}.get(anchor, 0), below=end + 14, anchor=anchor, text=text)


def _dot(row: Dot, top: float, place_of: Callable[[float], float]) -> Markup:
    y = top + 30
    interval = Markup("")
    if row.low is not None and row.high is not None:
        interval = Markup(
            '<path d="M{low:.1f} {y} H{high:.1f} M{low:.1f} {above} V{below} M{high:.1f} {above} V{below}" '
            'stroke="currentColor" stroke-width="1.5"/>'
        ).format(low=place_of(row.low), high=place_of(row.high), y=y, above=y - 4, below=y + 4)
    return Markup(
        '<text x="0" y="{text}">{name}</text><text x="{width}" y="{text}" text-anchor="end">{said}</text>{interval}'
        '<circle cx="{x:.1f}" cy="{y}" r="4.5" class="fill"/>'
    ).format(
        text=top + 16, name=_cut(row.name, 40), width=HALF, said=row.said, interval=interval, x=place_of(row.value), y=y
    )  # fmt: skip


def _picture(kind: str, width: float, height: float, told: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, told, Markup("").join(parts)
    )


def _cut(text: str, most: int) -> Markup:
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
