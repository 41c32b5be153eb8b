"""The figures of a version, and of two side by side, for a terminal and for programs. Readable without colour."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from distillgen.dataset.compare import Changes, changed_keys, steps_in_order
from distillgen.dataset.figures import Figures, Lengths, histograms, usd_of
from distillgen.dataset.versions import Version
from distillgen.files import dumps
from distillgen.report.console import number
from distillgen.report.signs import dollars
from distillgen.report.tables import Bar, Folded, Table, one_line, table

MOST_LABELS = 12
LEFT_OUT = ("rejected", "failed")
MARKS = (("median", "p50"), ("95 %", "p95"), ("most", "p100"))
BAR_OF_TWO = 12
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
    """Yield the parts of the picture of a version, an empty line between them; of what there is none, none."""
    yield Folded(headline(version), style="bold")
    parts = (_funnel(version), _lengths(figures), _answers(figures), *_shares_of(figures), _teachers(version, figures))
    for part in parts:
        if part is not None:
            yield Text("")
            yield part


def headline(version: Version) -> str:
    """Return how many rows a version has, and in which splits."""
    manifest = version.manifest
    if not manifest.rows:
        return f"{version.label}: no rows"
    splits = ", ".join(f"{count:,} {name}" for name, count in manifest.splits.items())
    return f"{version.label}: {number(manifest.rows, 'row')} ({splits})"


def _funnel(version: Version) -> Table | None:
    """Return the steps with the rows that came in and went on, and below each what it left out, by rule or cause."""
    steps = version.manifest.funnel
    most = max((step["in"] + step["born"] for step in steps), default=0) or 1
    rows: list[list[str | Bar]] = []
    for step in steps:
        rows_in, left_out = step["in"] + step["born"], sum(count for _, _, count in reasons_of(step))
        rows.append([step["step"], f"{rows_in:,}", f"{step['out']:,}", f"{left_out:,}", Bar(step["out"] / most)])
        for kind, reason, count in reasons_of(step):
            rows.append([f"  {kind}: {reason}", "", "", f"{count:,}", Bar(count / most)])
    return table("", ["step", "rows in#", "rows out#", "left out#", "|"], rows) if rows else None


def reasons_of(step: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return (rejected or failed, rule or cause, how many) of a step of the funnel, the most first."""
    found = [(kind, reason, count) for kind in LEFT_OUT for reason, count in step[kind].items() if count]
    return sorted(found, key=lambda each: (LEFT_OUT.index(each[0]), -each[2], each[1]))


def left_out_shown(version: Version, kind: str) -> Table | None:
    """Return how many rows each rule rejected, or failed of each cause, the most first; None when there are none."""
    found: Counter[str] = Counter()
    for step in version.manifest.funnel:
        found.update({reason: count for of, reason, count in reasons_of(step) if of == kind})
    return _shares(f"{kind} by", dict(found.most_common())) if found else None


def shown_of(version: Version, kind: str, shown: int, split: str | None, rule: str | None) -> str:
    """Return of how many rows some are shown: `3 of 1,234 rows of demo@2 (1,100 train, 134 validation)`."""
    manifest = version.manifest
    if kind != "published":
        reasons = [each for step in manifest.funnel for each in reasons_of(step) if each[0] == kind]
        total = sum(count for _, reason, count in reasons if rule in (None, reason))
        return f"{shown:,} of {number(total, 'row')} {kind} in {version.label}" + (f" by {rule}" if rule else "")
    if split is not None:
        return f"{shown:,} of {number(manifest.splits.get(split, 0), 'row')} of {version.label}, split {split}"
    splits = ", ".join(f"{count:,} {name}" for name, count in manifest.splits.items())
    return f"{shown:,} of {number(manifest.rows, 'row')} of {version.label}" + (f" ({splits})" if splits else "")


def _lengths(figures: Figures) -> Table | None:
    rows = [
        [name, f"{len(each):,}", f"{each.mean:,.0f}", *_marks(each)]
        for name, each in figures.lengths.items()
        if len(each)
    ]
    heads = ["characters", "rows#", "mean#", "least#", "median#", "95 %#", "most#"]
    return table("", heads, rows) if rows else None


def _answers(figures: Figures) -> Table | None:
    bins = figures.lengths["answer"].histogram()
    most = max((count for _, _, count in bins), default=0)
    rows = [[_range(low, high), f"{count:,}", Bar(count / most)] for low, high, count in bins]
    return table("", ["characters of answers", "rows#", "|"], rows) if rows else None


def _range(low: int, high: int) -> str:
    """Return what a bin holds."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _shares_of(figures: Figures) -> Iterator[Table]:
    """Yield scores and labels counted."""
    for name, values in figures.scores.items():
        yield _shares(name, in_steps(values))
    for name, found in figures.labels.items():
        shown = dict(found.most_common(MOST_LABELS))
        others = len(found) - len(shown)
        rest = {f"({others:,} more)": found.total() - sum(shown.values())} if others else {}
        yield _shares(name, {**shown, **rest})


def _teachers(version: Version, figures: Figures) -> Table | None:
    rows = [
        [name, *(f"{count:,}" for count in (spent.replies, spent.prompt, spent.completion)),
         _usd(usd_of(version, name, spent))] for name, spent in figures.spent.items()
    ]  # fmt: skip
    return table("", ["teacher", "replies#", "tokens in#", "tokens out#", "cost#"], rows) if rows else None


def in_steps(values: Sequence[float]) -> dict[str, int]:
    """Return scores counted, the lowest first: each by itself when they are few, else in ten steps."""
    found = Counter(values)
    if len(found) > MOST_LABELS:
        low, width = min(found), (max(found) - min(found)) / 10
        found = Counter(low + width * min(int((value - low) / width), 9) for value in values)
    return {f"{value:.3g}": found[value] for value in sorted(found)}


def _usd(usd: float | None) -> str:
    return "unknown" if usd is None else dollars(usd)


def _marks(lengths: Lengths) -> list[str]:
    marks = lengths.quantiles()
    return [f"{marks[name]:,}" if marks else "" for name in ("p0", "p50", "p95", "p100")]


def _shares(name: str, numbers: Mapping[str, int]) -> Table:
    """Return how many there are of each, with what share of all that is; bars are scaled to the most."""
    most, total = max(numbers.values(), default=0) or 1, sum(numbers.values()) or 1
    rows = [[each, f"{count:,}", f"{count / total:.1%}", Bar(count / most)] for each, count in numbers.items()]
    return table("", [f"{name}~", "rows#", "share#", "|"], rows)


# -- two versions ----------------------------------------------------------------------------------------------------


def comparison_as_json(old: Version, new: Version, changes: Changes) -> dict[str, Any]:
    """Return the comparison for programs."""
    return {
        "a": old.label,
        "b": new.label,
        "digests": [old.manifest.digest, new.manifest.digest],
        "rows": {kind: getattr(changes, kind) for kind in ("same", "added", "removed", "changed", "moved")},
        "ids": changes.ids,
        "recipe": {key: list(pair) for key, pair in recipe_changes(old, new).items()},
        "funnel": [old.manifest.funnel, new.manifest.funnel],
        "usd": [each.manifest.run.get("usd") for each in (old, new)],
        "characters": [_of(lengths) for lengths in changes.lengths],
    }


def comparison_shown(old: Version, new: Version, changes: Changes) -> Iterator[RenderableType]:
    """Yield the parts of the picture of two versions."""
    said = ", ".join(f"{getattr(changes, kind):,} {kind}" for kind in ("added", "removed", "changed"))
    moved = f" ({changes.moved:,} of them in another split)" if changes.moved else ""
    yield Folded(f"{old.label} -> {new.label}: {said}{moved}, {changes.same:,} the same", style="bold")
    for sign, kind in (("+", "added"), ("-", "removed"), ("~", "changed")):
        for row_id in changes.ids[kind]:
            yield Text(f"{sign} {one_line(row_id)}")
        if (more := getattr(changes, kind) - len(changes.ids[kind])) and changes.ids[kind]:
            yield Text(f"{sign} ... and {more:,} more")
    if different := recipe_changes(old, new):
        yield Text("")
        yield Text("recipe", style="bold")
        for key, (before, after) in different.items():
            yield Folded(one_line(f"{key}: {short(before)} -> {short(after)}"), indent=4)
    for name, measures in (("rows out", _rows_measured(old, new)), ("run", _runs_measured(old, new))):
        yield Text("")
        yield _beside(name, old, new, measures)
    if any(map(len, changes.lengths)):
        yield Text("")
        yield _beside("characters of answers", old, new, _lengths_measured(changes))
        yield Text("")
        yield _beside("answers by characters", old, new, _bins(changes), is_change_told=False)


@dataclass(frozen=True)
class Measure:
    """A figure of two versions, None where one has no such thing, and the most that a bar of it stands for."""

    name: str
    values: tuple[float | None, float | None]
    most: float
    is_money: bool = False

    def told(self, value: float | None) -> str:
        """Return a value as people read it."""
        return "-" if value is None else dollars(value) if self.is_money else f"{value:,}"

    @property
    def change(self) -> str:
        """The difference, `=` where there is none."""
        old, new = (value or 0 for value in self.values)
        if old == new:
            return "="
        return f"{'+' if new > old else '-'}{self.told(abs(new - old))}"


def _beside(
    name: str, old: Version, new: Version, measures: Iterable[Measure], *, is_change_told: bool = True
) -> Table:
    """Return figures of two versions side by side, a bar after each."""
    rows: list[list[str | Bar]] = []
    for each in measures:
        cells: list[str | Bar] = [each.name]
        for value in each.values:
            cells += [each.told(value), Bar((value or 0) / (each.most or 1), BAR_OF_TWO)]
        rows.append([*cells, *([each.change] if is_change_told else [])])
    return table("", [name, f"{old.label}#", "|", f"{new.label}#", "|", *(["change#"] if is_change_told else [])], rows)


def _rows_measured(old: Version, new: Version) -> list[Measure]:
    """Return the rows of both, those that each step let through, and those it left out, by rule or cause."""
    funnels = [{step["step"]: step for step in each.manifest.funnel} for each in (old, new)]
    steps = [step for funnel in funnels for step in funnel.values()]
    most = max([old.manifest.rows, new.manifest.rows, *(step["in"] + step["born"] for step in steps)])
    found = [Measure("published", (old.manifest.rows, new.manifest.rows), most)]
    for step in steps_in_order(*funnels):
        both = [funnel.get(step) for funnel in funnels]
        found.append(Measure(step, _pair(each["out"] if each else None for each in both), most))
        reasons = [{(kind, reason): count for kind, reason, count in reasons_of(each)} if each else {} for each in both]
        for kind, reason in dict.fromkeys([*reasons[0], *reasons[1]]):
            counted = _pair(
                own.get((kind, reason), 0) if each else None for each, own in zip(both, reasons, strict=True)
            )
            found.append(Measure(f"  {kind}: {reason}", counted, most))
    return found


def _runs_measured(old: Version, new: Version) -> list[Measure]:
    """Return what the runs that published both asked, and what that cost."""
    runs = [each.manifest.run for each in (old, new)]
    calls = _pair(run.get("calls", 0) for run in runs)
    tokens = _pair(run.get("tokens", {}).get("completion", 0) for run in runs)
    usd = _pair(run.get("usd", 0) for run in runs)
    found = [
        ("calls of the run", calls, False),
        ("tokens out of the run", tokens, False),
        ("cost of the run", usd, True),
    ]
    return [Measure(name, pair, max(value or 0 for value in pair), is_money) for name, pair, is_money in found]


def _lengths_measured(changes: Changes) -> list[Measure]:
    marks = [lengths.quantiles() for lengths in changes.lengths]
    most = max(each.get("p100", 0) for each in marks)
    return [Measure(name, _pair(each.get(place) for each in marks), most) for name, place in MARKS]


def _bins(changes: Changes) -> list[Measure]:
    """Return how many answers of both are how long."""
    bins = histograms(changes.lengths)
    most = max((count for _, _, found in bins for count in found), default=0)
    return [Measure(_range(low, high), _pair(found), most) for low, high, found in bins]


def _pair(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    old, new = values
    return old, new


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
    for step in steps_in_order(*funnels):
        rows.append([f"{step}: rows out", *(f"{each[step]['out']:,}" if step in each else "-" for each in funnels)])
        for kind in ("rejected", "failed"):
            for reason in dict.fromkeys(reason for each in funnels for reason in each.get(step, {}).get(kind, ())):
                numbers = (each.get(step, {}).get(kind, {}).get(reason, 0) for each in funnels)
                rows.append([f"{step}: {kind} by {reason}", *(f"{count:,}" for count in numbers)])
    runs = [each.manifest.run for each in (old, new)]
    rows.append(["calls of the run", *(f"{run.get('calls', 0):,}" for run in runs)])
    rows.append(["cost of the run", *(dollars(run.get("usd", 0)) for run in runs)])
    for name, place in MARKS:
        marks = (lengths.quantiles().get(place, 0) for lengths in changes.lengths)
        rows.append([f"characters of answers: {name}", *(f"{mark:,}" for mark in marks)])
    return rows
