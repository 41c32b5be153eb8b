"""The report of a student, and its sections in that of its version: training, evaluation, what the numbers mean."""

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillgen.report.console import clock, number
from distillgen.report.drawing import Curve, Dot, bar, curves, dots
from distillgen.report.figures import short
from distillgen.report.page import Line, Page, Part, Section, write_page
from distillgen.student.manifest import DESCRIBING, StudentManifest
from distillgen.student.tables import (
    MEASURES,
    SCORES,
    STUDENT,
    TEACHER,
    UNKNOWN,
    Evaluation,
    Figures,
    asked_told,
    difference_told,
    each_told,
    f1_told,
    groups_of,
    intervals_told,
    judge_told,
    money_told,
    one,
    parameters_told,
    per_second,
    rate_told,
    ratios_told,
    share_told,
    size_told,
    times_told,
)

MOST_POINTS = 160  # of a curve: more are taken together
MOST_LINES = 20  # of a table of labels; the rest is folded
MARKS = ((0.0, "0%"), (0.25, "25%"), (0.5, "50%"), (0.75, "75%"), (1.0, "100%"))
MOST_DIFFERENCE, ROUND = 1.0, 0.05  # a scale of differences ends at a multiple of ROUND

MEANINGS = {
    "Right": "the share of the questions with a gold answer that was answered rightly: {right}. An answer that is "
    "missing or unreadable is wrong.",
    "In brackets": "the interval within which the figure lies in {level} of the draws when the questions are drawn "
    "anew; a difference whose interval holds 0 is not shown to be one.",
    "Macro F1": "the mean over the labels of how well each is found, rare ones as much as frequent ones; 1 is "
    "faultless. A contestant that always says the same can be right often, but has a poor F1.",
    "Agreement": "the share of the questions on which it says what the teacher says, mistakes of the teacher included.",
    "Answers a second": "how many answers come in a second when several questions are asked at once; each was asked "
    "with the prompt that stands beside it, and a student's shorter prompt and answer are part of what it gains.",
    "Each takes": "how long one question waits for its answer under that load.",
    "$ per 1,000": "US dollars for 1,000 answers, from the provider's prices, or from measured time and a stated price "
    "for an hour of the machine.",
    "Parameters, size": "of how many numbers the model consists, and the bytes of the weights that were loaded.",
    "Unreadable": "answers in which nothing that is looked for was found, those that never came among them.",
}
WIN_RATE = (
    "pairs that the judge preferred in both orders count as won, and half where the two orders do not agree; 50% means "
    "that neither is preferred."
)
LIMITS = (
    "The intervals speak of the chance in which questions were asked. Another seed of the training gives another "
    "student, whose figures differ by some points too.",
    "Where settings were chosen by their figures on these very questions, the figures are flattered.",
    "What holds for these questions need not hold for questions of another kind, language or time.",
    "A student learns its teacher's mistakes and leanings along with its answers.",
    "Speeds and sizes are those of one machine and one runtime, as stated, and of nothing else that ran there then.",
)
NO_WIDTH = (
    "An interval without width (everything right, or everything wrong) is a limit of the method, and no certainty."
)
NO_GOLD = "No question has a gold answer, so that nothing is said of what is right: agreement is no accuracy."


def student_page(manifest: Mapping[str, Any] | StudentManifest, evaluation: Evaluation | None) -> bytes:
    """Return the whole report of a student as HTML, with its evaluation when there is one."""
    table = _table(manifest)
    page = Page(
        title=f"Student {table.get('name', '')}",
        description=str(_of(table, "dataset").get("description") or ""),
        about=_about(table),
        tiles=list(_tiles(table, evaluation)),
        sections=student_sections(table, evaluation),
    )
    file = io.BytesIO()
    write_page(file, page, [], [])
    return file.getvalue()


def student_sections(
    manifest: Mapping[str, Any] | StudentManifest, evaluation: Evaluation | None
) -> list[Section]:  # fmt: skip
    """Return what a report says of a student: the evaluation first, which is what people look for."""
    table = _table(manifest)
    sections = []
    if evaluation is not None:
        sections += [
            Section("student-evaluation", "What was won and lost", list(_evaluated(evaluation))),
            Section("student-speed", "Speed, money and size", list(_speeds(evaluation))),
            Section("student-labels", "Label by label", list(_labels(evaluation))),
            Section("student-groups", "Groups of questions", list(_groups(evaluation))),
            Section("student-meaning", "What the numbers mean", [Part(lines=list(_meanings(evaluation)))]),
            Section("student-limits", "Limits", [Part(lines=list(_limits(evaluation)))]),
        ]
    sections += [
        Section("student-training", "Training", list(_training(table))),
        Section("student-settings", "Settings", list(_settings(table))),
        Section("student-lineage", "Where it comes from", list(_lineage(table, evaluation))),
    ]
    return [section for section in sections if section.parts]


def _table(manifest: Mapping[str, Any] | StudentManifest) -> Mapping[str, Any]:
    return manifest if isinstance(manifest, Mapping) else manifest.model_dump(mode="json")


def _of(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name)
    return found if isinstance(found, Mapping) else {}


# -- the top ---------------------------------------------------------------------------------------------------------


def _about(manifest: Mapping[str, Any]) -> str:
    dataset, base = _of(manifest, "dataset"), _of(manifest, "base")
    label, digest = f"{dataset.get('name', '?')}@{dataset.get('version', '?')}", str(dataset.get("digest", ""))[:16]
    said = f"{base.get('name', '?')}, trained on {label}" + (f" (digest {digest})" if digest else "")
    return f"{said} by distillgen {manifest.get('distillgen', '?')}, {manifest.get('created', 'at an unknown time')}"


def _tiles(manifest: Mapping[str, Any], evaluation: Evaluation | None) -> Iterator[tuple[str, str]]:
    """Yield the figures that stand at the top."""
    if evaluation is not None:
        yield from _won(evaluation)
    training = _of(manifest, "training")
    yield "rows trained on", f"{training.get('train_rows', 0):,}"
    yield "steps", f"{training.get('steps', 0):,}"
    yield "time of training", clock(training.get("seconds", 0))
    yield "parameters", parameters_told(_of(manifest, "base").get("parameters"))


def _won(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    found = {str(each["name"]): each for each in evaluation["contestants"]}
    student, teacher = found.get(STUDENT), found.get(TEACHER)
    if student is None:
        return
    if (score := student.get("score")) and score["value"] is not None:
        yield "right", f"{score['value']:.1%}"
    for each in evaluation["differences"]:
        if each["of"] == STUDENT and each.get("what", "score") == "score" and each["value"] is not None:
            side = "above" if each["value"] >= 0 else "below"
            yield f"{side} {one(str(each['from']))}", f"{abs(100 * each['value']):.1f} points{_doubt(each)}"
    own, pace = per_second(student), per_second(teacher) if teacher else None
    if own and pace:
        yield "the teacher's answers a second", f"{times_told(own / pace)} ×"


def _doubt(difference: Figures) -> str:
    low, high = difference.get("low"), difference.get("high")
    return ", not shown" if low is None or high is None or low <= 0 <= high else ""


# -- the evaluation --------------------------------------------------------------------------------------------------


def _evaluated(evaluation: Evaluation) -> Iterator[Part]:
    yield Part(text=f"{asked_told(evaluation)}, {evaluation.get('date', '')}.", is_quiet=True)
    score = SCORES.get(str(evaluation["measure"]), "right")
    yield from _shares(f"Right answers ({score})", evaluation, "score")
    yield from _differences(evaluation)
    if said := [*map(difference_told, evaluation["differences"]), *ratios_told(evaluation)]:
        yield Part(heading="In words", lines=said)
    heads = ["who", "right", "F1", "agrees with the teacher", "answered", "unreadable"]
    rows = [
        Line([
            str(each["name"]), share_told(each.get("score")), f1_told(each.get("f1")),
            share_told(each.get("agreement")), f"{each['answered']:,}", f"{each['unreadable']:,}",
        ], bar(_value(each.get("score")) or 0)) for each in evaluation["contestants"]
    ]  # fmt: skip
    yield Part(heading="All figures", heads=heads, rows=rows)
    yield from _shares("Agreement with the teacher", evaluation, "agreement")
    if judged := evaluation.get("judge"):
        yield Part(heading="The judge", lines=[f"{judge_told(each)}." for each in judged])
    yield Part(text=f"Above {intervals_told(evaluation)}.", is_quiet=True)


def _value(figure: Figures | None) -> float | None:
    return None if not figure or figure.get("value") is None else float(figure["value"])


def _shares(heading: str, evaluation: Evaluation, figure: str) -> Iterator[Part]:
    """Yield the picture of a share of each contestant."""
    rows = [
        Dot(str(each["name"]), value, found["low"], found["high"], share_told(found))
        for each in evaluation["contestants"]
        if (found := each.get(figure)) and (value := _value(found)) is not None
    ]
    if rows:
        yield Part(
            heading=heading, picture=dots(rows, heading, MARKS), note="A dot is the figure, its line the interval."
        )


def _differences(evaluation: Evaluation) -> Iterator[Part]:
    """Yield the picture of the differences, 0 in its middle."""
    rows = [
        Dot(of_told(each), float(each["value"]), each["low"], each["high"], _signed(each))
        for each in evaluation["differences"]
        if each["value"] is not None
    ]
    if not rows:
        return
    far = max(abs(mark) for row in rows for mark in (row.value, row.low, row.high) if mark is not None)
    end = min(max(math.ceil(far / ROUND - 1e-9), 1) * ROUND, MOST_DIFFERENCE)
    marks = ((-end, f"-{100 * end:.0f} points"), (0.0, "0"), (end, f"+{100 * end:.0f} points"))
    heading = "Differences"
    note = "A line that crosses 0: not shown to differ."
    yield Part(heading=heading, note=note, picture=dots(rows, heading, marks))


def of_told(difference: Figures) -> str:
    """Return what a difference is of: `student - base`, with the figure where it is not the score."""
    what = difference.get("what", "score")
    return f"{difference['of']} − {difference['from']}" + ("" if what == "score" else f", {what}")


def _signed(difference: Figures) -> str:
    told = f"{100 * difference['value']:+z.1f}"
    if difference.get("low") is None or difference.get("high") is None:
        return told
    return f"{told} ({100 * difference['low']:+z.1f} to {100 * difference['high']:+z.1f})"


def _speeds(evaluation: Evaluation) -> Iterator[Part]:
    contestants = evaluation["contestants"]
    most = max((per_second(each) or 0 for each in contestants), default=0) or 1
    yield Part(
        heads=["who", "answers a second", "each takes", "$ per 1,000", "parameters", "size"],
        rows=[
            Line([
                str(each["name"]), rate_told(each), each_told(each), money_told(each),
                parameters_told(each.get("parameters")), size_told(each.get("bytes")),
            ], bar((per_second(each) or 0) / most)) for each in contestants
        ],
    )  # fmt: skip
    yield Part(text="The bar shows answers a second.", is_quiet=True)
    yield Part(
        heading="What was asked", are_texts=True, heads=["who", "model", "runtime", "prompt", "how"],
        rows=[
            Line([
                str(each["name"]), str(each["model"]), str(each["runtime"]), f"the {each['prompt']}'s",
                str(each.get("how") or UNKNOWN),
            ]) for each in contestants
        ],
    )  # fmt: skip
    if hows := list(dict.fromkeys(str(each["speed"]["how"]) for each in contestants if each.get("speed"))):
        yield Part(heading="How that was measured", lines=[*hows, *_prices(contestants), _machine(evaluation)])


def _prices(contestants: Sequence[Figures]) -> Iterator[str]:
    sources = dict.fromkeys(str(each["usd_per_1000"]["from"]) for each in contestants if each.get("usd_per_1000"))
    if sources:
        yield f"Money: from {', '.join(sources)}"


def _machine(evaluation: Evaluation) -> str:
    return "Machine: " + ", ".join(f"{name} {value}" for name, value in _of(evaluation, "machine").items())


def _labels(evaluation: Evaluation) -> Iterator[Part]:
    heads = ["label", "gold", "said", "precision", "recall", "F1"]
    for each in evaluation["contestants"]:
        rows = [
            Line([
                label, f"{found['gold']:,}", f"{found['said']:,}",
                *(f"{found[name]:.1%}" for name in ("precision", "recall")), f"{found['f1']:.3f}",
            ], bar(found["f1"])) for label, found in (each.get("per_label") or {}).items()
        ]  # fmt: skip
        if not rows:
            continue
        yield Part(heading=f"{each['name']}: {share_told(each.get('score'))}", heads=heads, rows=rows[:MOST_LINES])
        if rest := rows[MOST_LINES:]:
            yield Part(folded=f"and {len(rest):,} more labels", heads=heads, rows=rest)


def _groups(evaluation: Evaluation) -> Iterator[Part]:
    for name in groups_of(evaluation):
        found = [
            (str(each["name"]), each["groups"][name])
            for each in evaluation["contestants"]
            if name in (each.get("groups") or {})
        ]
        rows = [
            Dot(who, float(group["value"]), group["low"], group["high"], share_told(group))
            for who, group in found
            if group["value"] is not None
        ]
        questions = number(max(group["questions"] for _, group in found), "question")
        yield Part(
            heading=f"{name}: {questions}", picture=dots(rows, f"Right answers, {name}", MARKS),
            heads=["who", "questions", "right"],
            rows=[Line([who, f"{group['questions']:,}", share_told(group)]) for who, group in found],
        )  # fmt: skip


def _meanings(evaluation: Evaluation) -> Iterator[str]:
    measure = str(evaluation["measure"])
    given = {"right": MEASURES.get(measure, measure), "level": f"{evaluation['bootstrap']['level']:.0%}"}
    for name, said in MEANINGS.items():
        if name != "Macro F1" or measure == "label":
            yield f"{name}: {said.format(**given)}"
    if evaluation.get("judge"):
        yield f"Win rate: {WIN_RATE}"


def _limits(evaluation: Evaluation) -> Iterator[str]:
    yield from (str(note) for note in evaluation.get("notes") or ())
    if not evaluation["on"]["with_gold"]:
        yield NO_GOLD
    yield from LIMITS
    scores = [each["score"] for each in evaluation["contestants"] if each.get("score")]
    if any(score["low"] is not None and score["low"] == score["high"] for score in scores):
        yield NO_WIDTH


# -- the training ----------------------------------------------------------------------------------------------------


def _training(manifest: Mapping[str, Any]) -> Iterator[Part]:
    training = _of(manifest, "training")
    best, losses = training.get("best_step"), _of(training, "loss")
    kept = "" if best is None else f", the weights of step {best:,} kept, the best on the validation split"
    early = "; stopped early, since the validation split gained no more" if training.get("stopped_early") else ""
    steps, spent = number(training.get("steps", 0), "step"), clock(training.get("seconds", 0))
    yield Part(text=f"{steps} in {spent}{kept}{early}.")
    found = {name: _points(losses.get(name, ())) for name in ("train", "validation")}
    if any(found.values()):
        yield from _losses(found, best)
    if accuracy := _points(training.get("accuracy", ())):
        yield _accuracies(accuracy)
    facts = {
        "rows trained on": training.get("train_rows"),
        "rows of the validation split": training.get("validation_rows"),
        "rows longer than the context, dropped or cut as told": training.get("long_rows"),
        "tokens": training.get("tokens"),
        "device": training.get("device"),
        "precision": training.get("precision"),
        "threads": training.get("threads"),
        "most memory": size_told(training.get("peak_bytes")),
        "times it went on after a stop": training.get("resumed"),
    }
    rows = [Line([name, _said(value)]) for name, value in facts.items() if value not in (None, UNKNOWN)]
    yield Part(heading="Rows, tokens, machine", heads=["what", "value"], rows=rows, are_texts=True)


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else short(value)


def _points(points: Any) -> list[tuple[int, float]]:
    """Return the (step, loss) that are numbers."""
    return [(int(step), float(loss)) for step, loss in points if loss is not None and math.isfinite(loss)]


def _losses(found: Mapping[str, Sequence[tuple[int, float]]], best: int | None) -> Iterator[Part]:
    """Yield the loss curve, and its numbers as tables."""
    names = {"train": "training", "validation": "validation"}
    picture = curves(
        [Curve(names[name], thinned(points)) for name, points in found.items()],
        "Loss by step", "step", None if best is None else (best, f"best: step {best:,}"),
    )  # fmt: skip
    yield Part(
        heading="Loss by step", picture=picture, is_wide=True,
        note="How surprised the model is by the answers it learns: less is better, and a validation loss that rises "
        "while that of training falls means that it learns by heart.",
    )  # fmt: skip
    heads = ["step", "loss"]
    for name, points in found.items():
        if points:
            rows = [Line([f"{step:,.0f}", f"{loss:.4g}"]) for step, loss in thinned(points)]
            yield Part(folded=f"the loss of {names[name]} as numbers", heads=heads, rows=rows)


def _accuracies(points: Sequence[tuple[int, float]]) -> Part:
    return Part(
        folded="what of the validation split came out right, as numbers", heads=["step", "accuracy"],
        rows=[Line([f"{step:,.0f}", f"{100 * value:.1f}%"]) for step, value in thinned(points)],
        note="Of the tokens of the answers the share that the student would have written; of pairs the share whose "
        "better answer it prefers.",
    )  # fmt: skip


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most so many points: neighbours become one, at the last of their steps with the mean of the losses."""
    if not points:
        return []
    size = math.ceil(len(points) / most)
    pieces = [points[start : start + size] for start in range(0, len(points), size)]
    return [(piece[-1][0], math.fsum(loss for _, loss in piece) / len(piece)) for piece in pieces]


def _settings(manifest: Mapping[str, Any]) -> Iterator[Part]:
    rows = [Line([str(name), short(value)]) for name, value in _of(manifest, "settings").items()]
    if rows:
        yield Part(heads=["setting", "value"], rows=rows, are_texts=True)


def _lineage(manifest: Mapping[str, Any], evaluation: Evaluation | None) -> Iterator[Part]:
    dataset, base = _of(manifest, "dataset"), _of(manifest, "base")
    teachers = ", ".join(f"{name} ({_model_of(each)})" for name, each in _of(dataset, "teachers").items())
    facts = {
        "dataset": f"{dataset.get('name', '?')}@{dataset.get('version', '?')}",
        "digest of the dataset": dataset.get("digest"),
        "teachers": teachers or None,
        "base": base.get("name"),
        "title of the base": base.get("title"),
        "licence of the base": base.get("licence"),
        "sha256 of the base": base.get("sha256"),
        "context": f"{base['context']:,} tokens" if base.get("context") else None,
    }
    rows = [Line([name, str(value)]) for name, value in facts.items() if value]
    yield Part(heads=["what", "value"], rows=rows, are_texts=True)
    terms = _of(dataset, "terms")
    if conditions := [str(_text_of(each)) for each in terms.get("conditions") or ()]:
        yield Part(heading="Conditions of the teachers' terms", lines=conditions)
    files = {name: entry for name, entry in (manifest.get("files") or {}).items() if name not in DESCRIBING}
    for name, part in (("software", manifest.get("software")), ("files", files)):
        if part:
            yield Part(source=json.dumps(part, ensure_ascii=False, indent=2), source_name=name)
    if evaluation is not None:
        yield Part(source=json.dumps(evaluation, ensure_ascii=False, indent=2), source_name="the evaluation as JSON")


def _text_of(condition: Any) -> Any:
    return condition.get("text", condition) if isinstance(condition, Mapping) else condition


def _model_of(teacher: Any) -> str:
    return str(teacher.get("model", "?")) if isinstance(teacher, Mapping) else str(teacher)
