"""What a student's card says of its evaluation: for readers, and for the Hub, which shows figures beside a model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distillgen.dataset.inert import inline, table
from distillgen.student.manifest import StudentManifest
from distillgen.student.tables import (
    MEASURES,
    SCORES,
    UNKNOWN,
    asked_told,
    difference_told,
    f1_told,
    groups_of,
    intervals_told,
    judge_told,
    money_told,
    per_second,
    rate_told,
    ratios_told,
    share_told,
)


def hub_results(manifest: StudentManifest, evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return what the Hub shows beside a model: the student's own figures, where there was gold."""
    found = contestant(evaluation, "student")
    if evaluation is None or found is None or (found.get("score") or {}).get("value") is None:
        return []
    measure = str(evaluation.get("measure"))
    kind = "exact_match" if measure == "exact" else "accuracy"
    metrics = [{"type": kind, "name": SCORES.get(measure, measure), "value": _rounded(found["score"]["value"])}]
    if (found.get("f1") or {}).get("value") is not None:
        metrics.append({"type": "f1", "name": "macro F1", "value": _rounded(found["f1"]["value"])})
    what, name = str((evaluation.get("on") or {}).get("what", "unknown")), str(manifest.dataset["name"])
    is_split = what in (manifest.dataset.get("splits") or {})
    on = {"name": name, "type": name, "split": what} if is_split else {"name": what, "type": what}
    task = "text-classification" if measure == "label" else "text-generation"
    return [{"task": {"type": task}, "dataset": on, "metrics": metrics}]


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def evaluation_section(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Return the table of who was how good, with intervals, and what the student won and lost."""
    if evaluation is None:
        return []
    measure = str(evaluation["measure"])
    lines = [
        "## Evaluation", "",
        f"Asked on {inline(evaluation.get('date', 'an unknown day'))}: {inline(asked_told(evaluation))}. An answer is "
        f"right when {inline(MEASURES.get(measure, measure))}; {inline(intervals_told(evaluation))}. The prompt "
        "`student` is the one above, `teacher` the one that the teacher was asked with.", "",
        *_contestants(evaluation, SCORES.get(measure, measure)), "",
    ]  # fmt: skip
    if told := [*map(difference_told, evaluation.get("differences") or ()), *ratios_told(evaluation)]:
        lines += [*(f"- {inline(each)}" for each in told), ""]
    if any(map(per_second, evaluation["contestants"])):
        cpus = (evaluation.get("machine") or {}).get("cpus")
        machine = f"one machine with {inline(cpus)} processors" if cpus else "one machine"
        lines += [f"Speeds were measured on {machine}; on another they differ.", ""]
    for judged in evaluation.get("judge") or ():
        lines += [inline(judge_told(judged)), ""]
    if groups := _groups(evaluation):
        lines += [*groups, ""]
    return [*lines, "`evaluation.json` has all of it, `report.html` shows it in pictures."]


def _contestants(evaluation: Mapping[str, Any], score: str) -> list[str]:
    """Return who was asked and what came of it; a column where nobody has a figure is left out."""
    contestants: Sequence[Mapping[str, Any]] = evaluation["contestants"]
    named = {
        key: [str(each.get(field, UNKNOWN)) for each in contestants]
        for key, field in (("who", "name"), ("prompt", "prompt"), ("runtime", "runtime"))
    }
    figures = {
        f"{score}#": [share_told(each.get("score")) for each in contestants],
        "macro F1#": [f1_told(each.get("f1")) for each in contestants],
        "agrees with the teacher#": [share_told(each.get("agreement")) for each in contestants],
        "answers a second#": list(map(rate_told, contestants)),
        "US$ for 1,000#": list(map(money_told, contestants)),
    }
    kept = named | {head: cells for head, cells in figures.items() if any(cell != UNKNOWN for cell in cells)}
    return table([*kept], (_inert(row) for row in zip(*kept.values(), strict=True)))


def _inert(cells: Iterable[str]) -> list[str]:
    """Return the cells of a row of a table, inert."""
    return [inline(cell, 200) for cell in cells]


def _groups(evaluation: Mapping[str, Any]) -> list[str]:
    """Return everybody's figure for each group of questions, where they have groups."""
    rows = [
        _inert([name, str(each["name"]), f"{int(found.get('questions') or 0):,}", share_told(found)])
        for name in groups_of(evaluation)
        for each in evaluation["contestants"]
        if (found := (each.get("groups") or {}).get(name))
    ]
    return table(["questions that are", "who", "questions#", "right#"], rows) if rows else []


def contestant(evaluation: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    contestants: Sequence[Mapping[str, Any]] = (evaluation or {}).get("contestants") or ()
    return next((each for each in contestants if each.get("name") == name), None)
