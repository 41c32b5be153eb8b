"""Pictures as SVG: bars, columns and the funnel. Text and numbers are in them, so that they read without colour.

Plain SVG and no chart library: it is there without JavaScript, prints, is read aloud, needs no exception from the
page's content policy, and weighs what it shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH = 640  # units of the drawing, not pixels: it fills the page's width
LINE = 26
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
    """Return the funnel: a line for each stage, as long as its rows, with what was left out at its end."""
    most = max((max(stage.rows_in, stage.out) for stage in stages), default=0) or 1
    scale = (WIDTH - 330) / most
    parts = [_line(place, stage, scale) for place, stage in enumerate(stages)]
    told = "; ".join(f"{stage.name}: {stage.rows_in:,} in, {stage.out:,} out" for stage in stages)
    return _picture("funnel", WIDTH, len(stages) * LINE + 4, f"Funnel. {told}", parts)


def _line(place: int, stage: Stage, scale: float) -> Markup:
    top = place * LINE + 4
    kept = min(stage.out, stage.rows_in) if stage.rows_in else stage.out
    lost = sum(stage.left_out.values())
    full, rest = kept * scale, lost * scale
    said = f"{stage.out:,}" + (f"  (−{lost:,})" if lost else "")
    return Markup(
        '<text class="name" x="0" y="{mid}">{name}</text>'
        '<rect class="fill" x="190" y="{top}" width="{full:.1f}" height="18"/>'
        '<rect class="lost" x="{edge:.1f}" y="{top}" width="{rest:.1f}" height="18"/>'
        '<text x="{end:.1f}" y="{mid}">{said}</text>'
    ).format(
        mid=top + 14, top=top, name=_cut(stage.name, 27), full=full, edge=190 + full, rest=rest,
        end=196 + full + rest, said=said,
    )  # fmt: skip


def columns(bins: Sequence[tuple[str, int]], what: str) -> Markup:
    """Return a histogram: a column for each (label, how many), labels below the first, the middle and the last."""
    if not bins:
        return Markup("")
    most, height = max(count for _, count in bins), 120
    step = WIDTH / len(bins)
    parts = []
    for place, (label, count) in enumerate(bins):
        tall = count / (most or 1) * height
        parts.append(
            Markup(
                '<rect class="fill" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {}</title></rect>'
            ).format(place * step + 1, height - tall + 14, max(step - 2, 0.5), tall, label, f"{count:,}")
        )
    for place, anchor in ((0, "start"), (len(bins) // 2, "middle"), (len(bins) - 1, "end")):
        x = {"start": 0.0, "middle": (place + 0.5) * step, "end": float(WIDTH)}[anchor]
        if anchor == "start" or len(bins) > (2 if anchor == "middle" else 1):
            parts.append(
                Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                    x, height + 30, anchor, bins[place][0]
                )
            )
    parts.append(Markup('<text class="most" x="0" y="10">most: {}</text>').format(f"{most:,}"))
    told = "; ".join(f"{label}: {count:,}" for label, count in bins[:60])
    return _picture("columns", WIDTH, height + 36, f"{what}. {told}", parts)


def _picture(kind: str, width: float, height: float, told: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, told, Markup("").join(parts)
    )


def _cut(text: str, most: int) -> Markup:
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
