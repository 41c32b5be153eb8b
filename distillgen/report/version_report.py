"""The report of one version: what its sections say, from its manifest and the numbers of its rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distillgen.dataset.figures import Lengths, Spent, usd_of
from distillgen.dataset.manifest import Manifest
from distillgen.dataset.versions import Version
from distillgen.report.console import clock
from distillgen.report.drawing import Stage, bar, columns, funnel
from distillgen.report.figures import in_steps
from distillgen.report.numbers import Numbers, numbers_of
from distillgen.report.page import Line, Page, Part, Section, write_page
from distillgen.report.rows_data import blocks, shown_of

BINS = 32
MOST_LABELS = 40


def write_report(path: Path, version: Version, store: Path | None, most_rows: int | None) -> None:
    """Write the report of a version; of each kind of rows at most so many are in it, None for all.

    `store` is the project's file of stored answers, where there is one. Raises Damaged, UsageError, DiskFull.
    """
    numbers = numbers_of(version, store)
    shown = shown_of(version, most_rows)
    write_page(path, page_of(version, numbers), shown, blocks(version, shown))


def page_of(version: Version, numbers: Numbers) -> Page:
    """Return what the report of a version says."""
    manifest = version.manifest
    sections = [
        Section("funnel", "From seeds to rows", list(_funnel(manifest))),
        Section("left-out", "Left out, and why", list(_left_out(manifest))),
        Section("cost", "Money and tokens", list(_cost(version, numbers))),
        Section("speed", "Speed", list(_speed(manifest, numbers))),
        Section("lengths", "Lengths", list(_lengths(numbers))),
        Section("scores", "Scores and labels", list(_scores(numbers))),
        Section("duplicates", "Rows that are alike", list(_duplicates(numbers))),
        Section("splits", "Splits", [shares(["split", "rows", "share"], manifest.splits)]),
        Section("terms", "Terms", list(_terms(manifest.terms))),
        Section("recipe", "Recipe and prompts", list(_recipe(manifest))),
    ]
    return Page(
        title=version.label,
        description=str(manifest.recipe.get("description", "")),
        about=about(manifest),
        tiles=tiles(manifest),
        sections=[section for section in sections if section.parts],
    )


def about(manifest: Manifest) -> str:
    """Return one line on what a version is."""
    said = f"published {manifest.run.get('finished', 'at an unknown time')}, digest {manifest.digest[:16]}"
    if manifest.parent is not None:
        said += f", after version {manifest.parent}"
    return said + (f"; partial ({manifest.ends})" if manifest.is_partial else "")


def tiles(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the figures that stand at the top."""
    run, steps = manifest.run, manifest.funnel
    tokens = run.get("tokens", {})
    return [
        ("rows", f"{manifest.rows:,}"),
        ("rejected", f"{_left(steps, 'rejected'):,}"),
        ("failed", f"{_left(steps, 'failed'):,}"),
        ("calls of the run", f"{run.get('calls', 0):,}"),
        ("tokens in", f"{tokens.get('prompt', 0):,}"),
        ("tokens out", f"{tokens.get('completion', 0):,}"),
        ("cost of the run", money_of(run)),
        ("time of the run", clock(run.get("seconds", 0))),
    ]


def money_of(run: Mapping[str, Any]) -> str:
    """Return what a run cost, in words: unknown where prices are not known."""
    calls, unpriced = run.get("calls", 0), run.get("unpriced_calls", 0)
    if unpriced and unpriced == calls:
        return "unknown"
    return f"${run.get('usd', 0):,.4f}" + (f" and {unpriced:,} calls of unknown price" if unpriced else "")


def _left(steps: Sequence[Mapping[str, Any]], kind: str) -> int:
    return sum(sum(step.get(kind, {}).values()) for step in steps)


def shares(heads: Sequence[str], numbers: Mapping[str, int], heading: str = "") -> Part:
    """Return a table of counts, each with its share of all and a bar."""
    total, most = sum(numbers.values()) or 1, max(numbers.values(), default=0) or 1
    rows = [Line([name, f"{count:,}", f"{count / total:.1%}"], bar(count / most)) for name, count in numbers.items()]
    return Part(heading=heading, heads=heads, rows=rows)


def _funnel(manifest: Manifest) -> Iterator[Part]:
    steps = manifest.funnel
    stages = [Stage("seeds", manifest.seeds.get("count", 0), manifest.seeds.get("count", 0))] if not steps else []
    for step in steps:
        left_out = {**step.get("rejected", {}), **step.get("failed", {})}
        stages.append(Stage(step["step"], step["in"] + step["born"], step["out"], left_out))
    stages += [Stage(f"split {name}", count, count) for name, count in manifest.splits.items()]
    yield Part(picture=funnel(stages))
    yield Part(
        heads=["step", "rows in", "made more of", "merged", "rejected", "failed", "rows out"],
        rows=[
            Line([
                step["step"], *(f"{step[name]:,}" for name in ("in", "born", "merged")),
                *(f"{sum(step[name].values()):,}" for name in ("rejected", "failed")), f"{step['out']:,}",
            ]) for step in steps
        ],
    )  # fmt: skip


def _left_out(manifest: Manifest) -> Iterator[Part]:
    found = {
        f"{step['step']}: {reason}": count
        for step in manifest.funnel
        for kind in ("rejected", "failed")
        for reason, count in step.get(kind, {}).items()
    }
    if not found:
        yield Part(text="Nothing was left out.")
        return
    yield shares(["step and reason", "rows", "share"], dict(sorted(found.items(), key=lambda each: -each[1])))


def _cost(version: Version, numbers: Numbers) -> Iterator[Part]:
    run = version.manifest.run
    yield Part(text=f"The run that published this version: {run.get('calls', 0):,} calls, {money_of(run)}.")
    if not numbers.asked:
        return
    most = max(spent.completion for spent in numbers.asked.values()) or 1
    yield Part(
        heading="Replies behind these rows, by step and teacher",
        heads=["step", "teacher", "replies", "tokens in", "tokens out", "cost"],
        rows=[
            Line([
                step, teacher, f"{spent.replies:,}", f"{spent.prompt:,}", f"{spent.completion:,}",
                _usd(version, teacher, spent),
            ], bar(spent.completion / most)) for (step, teacher), spent in numbers.asked.items()
        ],
    )  # fmt: skip
    yield Part(
        text="Rows that were left out are counted in; earlier runs may have paid for some. The bar shows tokens out.",
        is_quiet=True,
    )


def _usd(version: Version, teacher: str, spent: Spent) -> str:
    usd = usd_of(version, teacher, spent)
    return "unknown" if usd is None else f"${usd:,.4f}"


def _speed(manifest: Manifest, numbers: Numbers) -> Iterator[Part]:
    speed = numbers.speed
    if not speed.received:
        yield Part(
            text="When replies came is in the answer store of the project that asked, which is not here.", is_quiet=True
        )
        return
    throughput = speed.throughput()
    if throughput:
        width = max(speed.span / len(throughput), 1e-9)
        yield Part(
            heading=f"Replies over time (each column: {_width(width)})",
            picture=columns([(_moment(moment), count) for moment, count in throughput], "Replies over time"),
        )
    lengths = Lengths()
    for seconds in speed.seconds:
        lengths.add(round(seconds * 1000))
    if len(lengths):
        yield distribution("Milliseconds until the reply was there", lengths)


def _width(seconds: float) -> str:
    return clock(seconds) if seconds >= 10 else f"{seconds:.2g} s"


def _moment(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _lengths(numbers: Numbers) -> Iterator[Part]:
    for name, lengths in numbers.figures.lengths.items():
        if len(lengths):
            yield distribution(f"Characters of the {name}", lengths)


def distribution(heading: str, lengths: Lengths) -> Part:
    """Return a histogram of whole numbers with its marks."""
    marks = lengths.quantiles()
    bins = [(_range(low, high), count) for low, high, count in lengths.histogram(BINS)]
    said = {
        "p0": "least",
        "p25": "a quarter below",
        "p50": "median",
        "p75": "a quarter above",
        "p95": "95 % below",
        "p100": "most",
    }
    return Part(
        heading=heading,
        picture=columns(bins, heading),
        heads=["rows", "mean", *said.values()],
        rows=[Line([f"{len(lengths):,}", f"{lengths.mean:,.0f}", *(f"{marks[mark]:,}" for mark in said)])],
    )


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _scores(numbers: Numbers) -> Iterator[Part]:
    for name, values in numbers.figures.scores.items():
        yield Part(heading=name, picture=columns(list(in_steps(values).items()), name))
    for name, found in numbers.figures.labels.items():
        yield shares([name, "rows", "share"], dict(found.most_common(MOST_LABELS)), heading=f"Balance of {name}")


def _duplicates(numbers: Numbers) -> Iterator[Part]:
    clusters = numbers.clusters()
    if not clusters:
        return
    yield Part(
        text=f"{numbers.duplicates.total():,} rows were left out because they resemble one of "
        f"{len(numbers.duplicates):,} kept rows. The largest groups:"
    )
    most = clusters[0][1]
    yield Part(
        heads=["kept row", "rows like it", "least similarity"],
        rows=[
            Line([kept, f"{count:,}", f"{similarity:.2f}" if similarity is not None else ""], bar(count / most))
            for kept, count, similarity in clusters
        ],
    )


def _terms(terms: Mapping[str, Any]) -> Iterator[Part]:
    if not terms:
        return
    yield Part(text=f"For the purpose {terms['purpose']} (competing: {terms['competing']}): {terms['stance']}.")
    judged = [(name, each) for name, entries in terms.get("teachers", {}).items() for each in entries]
    yield Part(lines=[f"{name}: {each['verdict']}: {each['reason']}" for name, each in judged])
    if terms.get("conditions"):
        yield Part(heading="Conditions", lines=[str(each.get("text", each)) for each in terms["conditions"]])
    if terms.get("note"):
        yield Part(text=str(terms["note"]))
    yield Part(text=str(terms.get("advice", "")), is_quiet=True)


def _recipe(manifest: Manifest) -> Iterator[Part]:
    yield Part(source=json.dumps(manifest.recipe, ensure_ascii=False, indent=2), source_name="recipe")
    for name, text in manifest.prompts.items():
        yield Part(source=text, source_name=f"prompt {name}")
    yield Part(
        source=json.dumps({"seeds": manifest.seeds, "software": manifest.software}, ensure_ascii=False, indent=2),
        source_name="seeds and software",
    )
