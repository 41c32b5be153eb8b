"""The figures of a version, and of two side by side, for a terminal and for programs. Readable without colour."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from distillgen.dataset.compare import Changes, changed_keys
from distillgen.dataset.figures import Figures, Lengths, bar, histogram_lines, usd_of
from distillgen.dataset.versions import Version
from distillgen.files import dumps
from distillgen.report.console import counts, number, safe
from distillgen.report.tables import table

MOST_LABELS = 12
MOST_CHARACTERS = 60  # of a recipe's value in a table


def as_json(version: Version, figures: Figures) -> dict[str, Any]:
    """Return the figures for programs. `usd` is at the prices of the run that published it, null if unknown."""
    return {
        "version": version.label,
        "digest": version.manifest.digest,
        "rows": version.manifest.rows,
        "splits": version.manifest.splits,
        "funnel": version.manifest.funnel,
        "characters": {name: _of(lengths) for name, lengths in figures.lengths.items()},
        "scores": {
            name: {"mean": sum(values) / len(values), "least": min(values), "most": max(values)}
            for name, values in figures.scores.items()
        },
        "labels": {name: dict(found.most_common()) for name, found in figures.labels.items()},
        "teachers": {
            name: {**vars(spent), "usd": usd_of(version, name, spent)} for name, spent in figures.spent.items()
        },
    }


def _of(lengths: Lengths) -> dict[str, Any]:
    return {"rows": len(lengths), "mean": round(lengths.mean, 1), **lengths.quantiles()}


def figures_shown(version: Version, figures: Figures) -> Iterator[RenderableType]:
    """Yield the parts of the picture of a version."""
    manifest = version.manifest
    splits = ", ".join(f"{count:,} {name}" for name, count in manifest.splits.items())
    yield Text(safe(f"{version.label}: {number(manifest.rows, 'row')} ({splits})"), style="bold")
    yield table("", ["step", "rows in#", "rows out#", "rejected", "failed"], _funnel(version))
    rows = [[name, f"{len(each):,}", f"{each.mean:,.0f}", *_marks(each)] for name, each in figures.lengths.items()]
    heads = ["characters", "rows#", "mean#", "least#", "median#", "95 %#", "most#"]
    yield table("", heads, [row for row in rows if row[1] != "0"])
    yield table("", ["characters of answers", "rows#", ""], histogram_lines(figures.lengths["answer"].histogram()))
    for name, values in figures.scores.items():
        yield table("", [name, "rows#", ""], _shares(in_steps(values)))
    for name, found in figures.labels.items():
        yield table("", [name, "rows#", ""], _shares(dict(found.most_common(MOST_LABELS))))
    if figures.spent:
        rows = [
            [name, *(f"{count:,}" for count in (spent.replies, spent.prompt, spent.completion)),
             _usd(usd_of(version, name, spent))] for name, spent in figures.spent.items()
        ]  # fmt: skip
        yield table("", ["teacher", "replies#", "tokens in#", "tokens out#", "cost#"], rows)


def in_steps(values: Sequence[float]) -> dict[str, int]:
    """Return scores counted, the lowest first: each by itself when they are few, else in ten steps."""
    found = Counter(values)
    if len(found) > MOST_LABELS:
        low, width = min(found), (max(found) - min(found)) / 10
        found = Counter(low + width * min(int((value - low) / width), 9) for value in values)
    return {f"{value:.3g}": found[value] for value in sorted(found)}


def _usd(usd: float | None) -> str:
    return "unknown" if usd is None else f"${usd:,.4f}"


def _marks(lengths: Lengths) -> list[str]:
    marks = lengths.quantiles()
    return [f"{marks[name]:,}" if marks else "" for name in ("p0", "p50", "p95", "p100")]


def _shares(numbers: Mapping[str, int]) -> list[list[str]]:
    most = max(numbers.values())
    return [[name, f"{count:,}", bar(count / most)] for name, count in numbers.items()]


def _funnel(version: Version) -> list[list[str]]:
    return [
        [
            step["step"], f"{step['in'] + step['born']:,}", f"{step['out']:,}", counts(step["rejected"]) or "-",
            counts(step["failed"]) or "-",
        ] for step in version.manifest.funnel
    ]  # fmt: skip


# -- two versions ----------------------------------------------------------------------------------------------------


def comparison_as_json(old: Version, new: Version, changes: Changes) -> dict[str, Any]:
    """Return the comparison for programs."""
    return {
        "a": old.label,
        "b": new.label,
        "digests": [old.manifest.digest, new.manifest.digest],
        "rows": {kind: getattr(changes, kind) for kind in ("same", "added", "removed", "changed")},
        "ids": changes.ids,
        "recipe": {key: list(pair) for key, pair in recipe_changes(old, new).items()},
        "funnel": [old.manifest.funnel, new.manifest.funnel],
        "usd": [each.manifest.run.get("usd") for each in (old, new)],
        "characters": [_of(lengths) for lengths in changes.lengths],
    }


def comparison_shown(old: Version, new: Version, changes: Changes) -> Iterator[RenderableType]:
    """Yield the parts of the picture of two versions."""
    heads = ["", f"{old.label}#", f"{new.label}#"]
    said = (
        f"{changes.added:,} added, {changes.removed:,} removed, {changes.changed:,} changed, {changes.same:,} the same"
    )
    yield Text(safe(f"{old.label} -> {new.label}: {said}"), style="bold")
    for sign, kind in (("+", "added"), ("-", "removed"), ("~", "changed")):
        for row_id in changes.ids[kind]:
            yield Text(safe(f"{sign} {row_id}"))
        if (more := getattr(changes, kind) - len(changes.ids[kind])) and changes.ids[kind]:
            yield Text(f"{sign} ... and {more:,} more")
    if different := recipe_changes(old, new):
        yield table("", ["recipe", old.label, new.label], [[key, *map(short, pair)] for key, pair in different.items()])
    yield table("", heads, side_by_side(old, new, changes))


def recipe_changes(old: Version, new: Version) -> dict[str, tuple[Any, Any]]:
    """Return what differs in recipe, prompts and seeds."""
    tables = [
        {**each.manifest.recipe, "prompts": each.manifest.prompts, "seeds of the run": each.manifest.seeds}
        for each in (old, new)
    ]
    return changed_keys(*tables)


def short(value: Any) -> str:
    """Return a value of a recipe on one line, cut to what a table's cell takes."""
    text = "-" if value is None else value if isinstance(value, str) else dumps(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def side_by_side(old: Version, new: Version, changes: Changes) -> list[list[str]]:
    """Return the figures of two versions: what each is of, the old one, the new one."""
    rows = [["rows", *(f"{each.manifest.rows:,}" for each in (old, new))]]
    funnels = [{step["step"]: step for step in each.manifest.funnel} for each in (old, new)]
    for step in dict.fromkeys([*funnels[0], *funnels[1]]):
        rows.append([f"{step}: rows out", *(f"{each[step]['out']:,}" if step in each else "-" for each in funnels)])
        for kind in ("rejected", "failed"):
            for reason in dict.fromkeys(reason for each in funnels for reason in each.get(step, {}).get(kind, ())):
                numbers = (each.get(step, {}).get(kind, {}).get(reason, 0) for each in funnels)
                rows.append([f"{step}: {kind} by {reason}", *(f"{count:,}" for count in numbers)])
    runs = [each.manifest.run for each in (old, new)]
    rows.append(["calls of the run", *(f"{run.get('calls', 0):,}" for run in runs)])
    rows.append(["cost of the run", *(f"${run.get('usd', 0):,.4f}" for run in runs)])
    for name, place in (("median", "p50"), ("95 %", "p95"), ("most", "p100")):
        marks = (lengths.quantiles().get(place, 0) for lengths in changes.lengths)
        rows.append([f"characters of answers: {name}", *(f"{mark:,}" for mark in marks)])
    return rows
