"""The report of one version: what its sections say, from its manifest and the numbers of its rows."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from distillgen.dataset.figures import Lengths, Spent, usd_of
from distillgen.dataset.manifest import Manifest
from distillgen.dataset.versions import Version
from distillgen.report.alike import Member
from distillgen.report.console import clock, number
from distillgen.report.drawing import Stage, bar, columns, funnel
from distillgen.report.figures import in_steps
from distillgen.report.numbers import Numbers, numbers_of
from distillgen.report.page import Line, Link, Page, Part, Section, write_page
from distillgen.report.rows_data import blocks, shown_of
from distillgen.report.signs import dollars, price
from distillgen.report.speed_section import speed_parts

FEWEST_BINS, MOST_BINS = 8, 32
MOST_LINES = 20  # of a table of counts; the rest is folded


def write_report(
    target: Path | IO[bytes],
    version: Version,
    store: Path | None,
    most_rows: int | None,
    more: Sequence[Section] = (),
) -> None:
    """Write the report of a version; of each kind of rows at most so many are in it, None for all.

    `store` is the project's file of stored answers, where there is one. The sections of `more` come first. Raises
    Damaged, UsageError, DiskFull.
    """
    numbers = numbers_of(version, store)
    shown = shown_of(version, most_rows)
    write_page(target, page_of(version, numbers, more), shown, blocks(version, shown, numbers.shown_ids))


def page_of(version: Version, numbers: Numbers, more: Sequence[Section] = ()) -> Page:
    """Return what the report of a version says."""
    manifest = version.manifest
    sections = [
        *more,
        Section("funnel", "From seeds to rows", list(_funnel(manifest))),
        Section("parts", "What it is mixed from", list(_parts(manifest))),
        Section("left-out", "Left out, and why", list(_left_out(manifest))),
        Section("cost", "Money and tokens", list(_cost(version, numbers))),
        Section("speed", "Speed", list(speed_parts(manifest.run, numbers.speed))),
        Section("lengths", "Lengths", list(_lengths(numbers))),
        Section("scores", "Scores and labels", list(_scores(version, numbers))),
        Section("duplicates", "Rows that are alike", list(_duplicates(numbers))),
        Section("splits", "Splits", list(shares(["split", "rows", "share"], manifest.splits))),
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
    counted = [
        ("rows", f"{manifest.rows:,}"),
        ("rejected", f"{_left(steps, 'rejected'):,}"),
        ("failed", f"{_left(steps, 'failed'):,}"),
    ]
    if "mix" in manifest.recipe:  # asks nobody
        return counted
    tokens = run.get("tokens", {})
    return [
        *counted,
        ("calls of the run", f"{run.get('calls', 0):,}"),
        ("tokens in", f"{tokens.get('prompt', 0):,}"),
        ("tokens out", f"{tokens.get('completion', 0):,}"),
        ("cost of the run", money_of(run)),
        ("time of the run", clock(run.get("seconds", 0))),
    ]


def money_of(run: Mapping[str, Any]) -> str:
    """Return what a run cost, in words: unknown where prices are not known."""
    return price(run.get("usd", 0), run.get("unpriced_calls", 0), run.get("calls", 0))


def _left(steps: Sequence[Mapping[str, Any]], kind: str) -> int:
    return sum(sum(step.get(kind, {}).values()) for step in steps)


def shares(
    heads: Sequence[str], numbers: Mapping[str, int], heading: str = "", kinds: Mapping[str, str] | None = None
) -> Iterator[Part]:
    """Yield a table of counts, each with its share of all and a bar, the first ones to see and the rest folded.

    `kinds` says of which kind of rows a name is a group in the browser of rows.
    """
    total, most = sum(numbers.values()) or 1, max(numbers.values(), default=0) or 1
    rows = [
        Line([
            Link(name, kind=kinds[name], group=name) if kinds else name, f"{count:,}", f"{count / total:.1%}"
        ], bar(count / most)) for name, count in numbers.items()
    ]  # fmt: skip
    yield Part(heading=heading, heads=heads, rows=rows[:MOST_LINES])
    if rest := rows[MOST_LINES:]:
        counted = sum(list(numbers.values())[MOST_LINES:])
        yield Part(folded=f"and {len(rest):,} more, with {number(counted, 'row')}", heads=heads, rows=rest)


def _funnel(manifest: Manifest) -> Iterator[Part]:
    steps = manifest.funnel
    stages = [Stage("seeds", manifest.seeds.get("count", 0), manifest.seeds.get("count", 0))] if not steps else []
    for step in steps:
        left_out = {**step.get("rejected", {}), **step.get("failed", {})}
        stages.append(Stage(step["step"], step["in"] + step["born"], step["out"], left_out))
    stages += [Stage(f"split {name}", count, count) for name, count in manifest.splits.items()]
    yield Part(
        picture=funnel(stages), is_wide=True,
        note="A bar is as long as the rows that came in: those that went on, and at its end (−) those left out.",
    )  # fmt: skip
    yield Part(
        heads=["step", "rows in", "made more of", "merged", "rejected", "failed", "rows out"],
        rows=[
            Line([
                step["step"], *(f"{step[name]:,}" for name in ("in", "born", "merged")),
                *(f"{sum(step[name].values()):,}" for name in ("rejected", "failed")), f"{step['out']:,}",
            ]) for step in steps
        ],
    )  # fmt: skip


def _parts(manifest: Manifest) -> Iterator[Part]:
    mix = manifest.recipe.get("mix")
    if not isinstance(mix, list):
        return
    yield Part(
        heads=["version", "share", "rows", "duplicates", "held out", "not drawn"],
        rows=[
            Line([
                str(part["version"]), f"{part['ratio']:.1%}",
                *(f"{part.get(name, 0):,}" for name in ("rows", "duplicates", "held_out", "not_drawn")),
            ]) for part in mix
        ],
    )  # fmt: skip


def _left_out(manifest: Manifest) -> Iterator[Part]:
    found, kinds = dict[str, int](), dict[str, str]()
    for step in manifest.funnel:
        for kind in ("rejected", "failed"):
            for reason, count in step.get(kind, {}).items():
                name = f"{step['step']}: {reason}"
                found[name], kinds[name] = found.get(name, 0) + count, kind
    if not found:
        yield Part(text="Nothing was left out.")
        return
    ordered = dict(sorted(found.items(), key=lambda each: -each[1]))
    yield from shares(["step and reason", "rows", "share"], ordered, kinds=kinds)


def _cost(version: Version, numbers: Numbers) -> Iterator[Part]:
    run = version.manifest.run
    if "mix" in version.manifest.recipe:
        yield Part(text="A mix asks no teacher. What its parts cost is on record with each of them.")
    else:
        yield Part(text=f"The run that published this version: {run.get('calls', 0):,} calls, cost {money_of(run)}.")
    if run.get("calls") and run.get("teachers"):
        yield _teachers(run["teachers"])
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


def _teachers(teachers: Mapping[str, Mapping[str, Any]]) -> Part:
    return Part(
        heading="The run, by teacher",
        heads=["teacher", "answered as", "calls", "tokens in", "tokens out", "cost"],
        rows=[
            Line([
                name, ", ".join(each.get("answered_as", {})), f"{each.get('calls', 0):,}",
                *(f"{each.get('tokens', {}).get(way, 0):,}" for way in ("prompt", "completion")), money_of(each),
            ]) for name, each in teachers.items()
        ],
    )  # fmt: skip


def _usd(version: Version, teacher: str, spent: Spent) -> str:
    usd = usd_of(version, teacher, spent)
    return "unknown" if usd is None else dollars(usd)


def _lengths(numbers: Numbers) -> Iterator[Part]:
    for name, lengths in numbers.figures.lengths.items():
        if len(lengths):
            yield distribution(f"Characters of the {name}", lengths)


def distribution(heading: str, lengths: Lengths) -> Part:
    """Return a histogram of whole numbers with its marks."""
    bins = lengths.histogram(number_of_bins(lengths))
    return drawn(heading, lengths, [(low, high, count) for low, high, count in bins])


def number_of_bins(lengths: Lengths) -> int:
    """Return into how many columns numbers are best counted: the more, the more numbers there are."""
    return min(max(2 * math.isqrt(len(lengths)), FEWEST_BINS), MOST_BINS)


def drawn(heading: str, lengths: Lengths, bins: Sequence[tuple[int, int, int]]) -> Part:
    """Return a histogram of bins (from, to, how many) with the marks of what is in them."""
    marks = lengths.quantiles()
    said = {"p0": "least", "p25": "25 %", "p50": "median", "p75": "75 %", "p95": "95 %", "p100": "most"}
    return Part(
        heading=heading,
        picture=columns([(_range(low, high), count) for low, high, count in bins], heading),
        heads=["rows", "mean", *said.values()],
        rows=[Line([f"{len(lengths):,}", f"{lengths.mean:,.0f}", *(f"{marks[mark]:,}" for mark in said)])],
    )


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _scores(version: Version, numbers: Numbers) -> Iterator[Part]:
    for name, values in numbers.figures.scores.items():
        said = (
            f"{number(len(values), 'published row')}, mean {sum(values) / len(values):.3g}, from {min(values):.3g} to"
        )
        picture = columns(list(in_steps(values).items()), name)
        yield Part(heading=name, note=f"{said} {max(values):.3g}", picture=picture)
    learnt = version.manifest.labels
    total = Counter[str]()
    for counts in learnt.values():
        total.update(counts)
    if total:
        yield from _balance(total, learnt)
    for name, found in numbers.figures.labels.items():
        if found != total:
            yield from shares([name, "rows", "share"], dict(found.most_common()), heading=f"Balance of {name}")


def _balance(total: Counter[str], splits: Mapping[str, Mapping[str, int]]) -> Iterator[Part]:
    """Yield how the labels that are learnt are balanced, in all and in each split."""
    heads = ["label", *splits, "all", "share"]
    most = max(total.values())
    lines = [
        Line([
            label, *(f"{counts.get(label, 0):,}" for counts in splits.values()), f"{count:,}",
            f"{count / total.total():.1%}",
        ], bar(count / most)) for label, count in total.most_common()
    ]  # fmt: skip
    yield Part(heading="Balance of labels, by split", heads=heads, rows=lines[:MOST_LINES])
    if rest := lines[MOST_LINES:]:
        yield Part(folded=f"and {len(rest):,} more labels", heads=heads, rows=rest)


def _duplicates(numbers: Numbers) -> Iterator[Part]:
    groups = numbers.alike.largest()
    if not groups:
        return
    counts = numbers.alike.counts
    said = f"{number(counts.total(), 'row')} left out for resemblance to {number(len(counts), 'other row')}"
    yield Part(text=f"{said}. The largest groups, and rows of each:")
    yield Part(
        heads=["kept row", "rows like it", "least similarity"],
        rows=[
            Line([Link(kept, row=kept), f"{count:,}", f"{similarity:.2f}"], bar(count / groups[0][1]))
            for kept, count, similarity in groups
        ],
    )
    for kept, count, _ in groups:
        if numbers.members.get(kept):
            yield Part(
                folded=f"{kept}: {number(count, 'row')} like it",
                heads=["row", "similarity", "text that was compared"],
                rows=[_member(member) for member in numbers.members[kept]],
                are_texts=True,
            )


def _member(member: Member) -> Line:
    like = "kept" if member.similarity is None else "equal" if member.similarity == 1 else f"{member.similarity:.3f}"
    return Line([Link(member.id, row=member.id), like, member.text])


def _terms(terms: Mapping[str, Any]) -> Iterator[Part]:
    if not terms:
        return
    yield Part(text=f"For the purpose {terms['purpose']} (competing: {terms['competing']}): {terms['stance']}.")
    judged = [(name, each) for name, entries in terms.get("teachers", {}).items() for each in entries]
    yield Part(
        heads=["teacher", "verdict", "why", "document", "read"],
        rows=[Line([name, each["verdict"], each["reason"], *_document(each.get("entry") or {})])
              for name, each in judged], are_texts=True,
    )  # fmt: skip
    if terms.get("conditions"):
        yield Part(heading="Conditions", lines=[str(each.get("text", each)) for each in terms["conditions"]])
    if terms.get("note"):
        yield Part(text=str(terms["note"]))
    yield Part(text=str(terms.get("advice", "")), is_quiet=True)


def _document(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return which document an entry rests on and where it is, and when it was read and is to be read again."""
    document = ", ".join(str(entry[name]) for name in ("document", "section", "url") if entry.get(name))
    again = f", again by {entry['review_by']}" if entry.get("review_by") else ""
    return document, f"{entry.get('read') or ''}{again}"


def _recipe(manifest: Manifest) -> Iterator[Part]:
    yield Part(source=json.dumps(manifest.recipe, ensure_ascii=False, indent=2), source_name="recipe")
    for name, text in manifest.prompts.items():
        yield Part(source=text, source_name=f"prompt {name}")
    yield Part(
        source=json.dumps({"seeds": manifest.seeds, "software": manifest.software}, ensure_ascii=False, indent=2),
        source_name="seeds and software",
    )
