"""An evaluation as people read it: its figures in words, and the tables of a terminal, readable without colour."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from rich.console import RenderableType
from rich.text import Text

from distillgen.report.console import number
from distillgen.report.signs import dollars
from distillgen.report.speed_section import duration
from distillgen.report.tables import Bar, Folded, Table, one_line, table

Evaluation: TypeAlias = Mapping[str, Any]  # as schemas/student-evaluate.schema.json describes it
Figures: TypeAlias = Mapping[str, Any]

TEACHER, STUDENT = "teacher", "student"
UNKNOWN = "-"
MEASURES = {
    "label": "the label that an answer states is that of the gold answer",
    "exact": "the answer is the gold answer, but for case, white space, quotes and punctuation at its end",
    "number": "the number that an answer states as its result equals the gold answer's",
    "math": "what an answer states as its result means the same as the gold answer, by math-verify",
    "json": "the answer is JSON and equals the gold answer's, whatever the order of its keys",
}
LEFT_OUT = {
    "overlap": "that the student was trained on, or nearly",
    "duplicates": "like an earlier one",
    "limit": "beyond the limit",
}
SCORES = {
    "label": "accuracy",
    "exact": "exact match",
    "number": "right numbers",
    "math": "right results",
    "json": "equal",
}


# -- words -----------------------------------------------------------------------------------------------------------


def share_told(figure: Figures | None) -> str:
    """Return a share with its interval: `86.3% (83.4 to 89.1)`; without one where there is none, `-` for no figure."""
    if not figure or figure.get("value") is None:
        return UNKNOWN
    return f"{figure['value']:.1%}{_between(figure)}"


def _between(figure: Figures) -> str:
    if figure.get("low") is None or figure.get("high") is None:
        return ""
    return f" ({_points(figure['low'])} to {_points(figure['high'])})"


def _points(share: float) -> str:
    """Return a share in hundredths; a zero has no sign."""
    return f"{100 * share:z.1f}"


def f1_told(figure: Figures | None) -> str:
    """Return an F1 as the field writes it: 0.863."""
    return UNKNOWN if not figure or figure.get("value") is None else f"{figure['value']:.3f}"


def one(name: str) -> str:
    """Return a contestant as it is spoken of: `the student`, `the base with the teacher's prompt`."""
    who, comma, prompt = name.partition(", ")
    return f"the {who} with {prompt}" if comma else f"the {name}"


def difference_told(difference: Figures) -> str:
    """Return a difference in words, with whether its interval shows that there is one."""
    value, of, from_ = difference.get("value"), one(str(difference["of"])), one(str(difference["from"]))
    what = " in agreement with the teacher" if difference.get("what") == "agreement" else ""
    if value is None:
        return f"{of} and {from_} cannot be compared{what}: nothing was counted for both"
    size = f"{abs(100 * value):.1f}"
    told = f"{of} is level with {from_}" if size == "0.0" else (
        f"{of} is {size} {'point' if size == '1.0' else 'points'} {'above' if value > 0 else 'below'} {from_}"
    )  # fmt: skip
    told += what + _between(difference)
    if difference.get("low") is None or difference.get("high") is None:
        return f"{told}: of so few questions nothing can be shown"
    return f"{told}: not shown to differ" if difference["low"] <= 0 <= difference["high"] else told


def ratios_told(evaluation: Evaluation) -> Iterator[str]:
    """Yield how many times the teacher's answers a second each other one gives: `17 times`, `0.4 times`."""
    contestants = evaluation["contestants"]
    pace = next((per_second(each) for each in contestants if each["name"] == TEACHER), None)
    for each in contestants:
        own = per_second(each)
        if each["name"] == TEACHER or not own or not pace:
            continue
        yield f"{one(str(each['name']))} gives {times_told(own / pace)} times the teacher's answers a second"


def times_told(ratio: float) -> str:
    """Return a ratio with as many digits as matter: 17, 5.6, 0.43."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2g}"


def per_second(contestant: Figures) -> float | None:
    """Return a contestant's answers a second, None where they were not measured."""
    speed = contestant.get("speed")
    return None if not speed or speed.get("per_second") is None else float(speed["per_second"])


def rate_told(contestant: Figures) -> str:
    """Return a contestant's answers a second."""
    rate = per_second(contestant)
    return UNKNOWN if rate is None else f"{rate:,.3g}" if rate < 999.5 else f"{rate:,.0f}"


def each_told(contestant: Figures) -> str:
    """Return how long one answer of a contestant took."""
    speed = contestant.get("speed")
    return UNKNOWN if not speed or speed.get("seconds_each") is None else duration(float(speed["seconds_each"]))


def money_told(contestant: Figures) -> str:
    """Return what 1,000 answers of a contestant cost."""
    money = contestant.get("usd_per_1000")
    return UNKNOWN if not money or money.get("value") is None else dollars(float(money["value"]))


def parameters_told(count: float | None) -> str:
    """Return how many numbers a model consists of: 135 M, 1.5 B."""
    if not count:
        return UNKNOWN
    return f"{count / 1e9:.1f} B" if count >= 999.5e6 else f"{count / 1e6:.0f} M" if count >= 10e6 else (
        f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,.0f}"
    )  # fmt: skip


def size_told(count: float | None) -> str:
    """Return how large a file is: 145 MB, 1.1 GB."""
    if not count:
        return UNKNOWN
    return f"{count / 1e9:,.1f} GB" if count >= 999.5e6 else f"{count / 1e6:,.0f} MB" if count >= 10e6 else (
        f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"
    )  # fmt: skip


def asked_told(evaluation: Evaluation) -> str:
    """Return how many questions of what were asked, and how many were left out."""
    on = evaluation["on"]
    told = f"{number(on['questions'], 'question')} of {on['what']}, {on['with_gold']:,} with gold answers"
    left_out = list(left_out_told(evaluation))
    return told + (f"; left out: {', '.join(left_out)}" if left_out else "")


def left_out_told(evaluation: Evaluation) -> Iterator[str]:
    """Yield for each reason how many questions were not asked: `12 like an earlier one`."""
    for reason, count in (evaluation["on"].get("left_out") or {}).items():
        if count:
            yield f"{count:,} {LEFT_OUT.get(reason, reason)}"


def intervals_told(evaluation: Evaluation) -> str:
    """Return how intervals came about."""
    bootstrap = evaluation["bootstrap"]
    return (
        f"in brackets intervals of {bootstrap['level']:.0%}, by bootstrap of the questions "
        f"({bootstrap['draws']:,} draws, seed {bootstrap['seed']}); differences are paired"
    )


def judge_told(judge: Figures) -> str:
    """Return whom a judge preferred: of all pairs, and of those how many it did not have to see."""
    of, from_ = one(str(judge["of"])), one(str(judge["from"]))
    told = f"{judge['judge']} saw {number(judge['seen'], 'pair')} of answers in both orders"
    unseen = {"alike": "are alike", "missing": "lack an answer"}
    told += "".join(f", {judge[name]:,} more {why}" for name, why in unseen.items() if judge[name])
    if judge["unread"]:
        told += f", and of {judge['unread']:,} more it said nothing that can be read"
    told += f": {of} won {judge['wins']:,}, {from_} {judge['losses']:,}, and {judge['ties']:,} are undecided"
    rate = judge["win_rate"]
    if rate["value"] is None:
        return told
    told += f"; win rate {share_told(rate)}"
    is_open = rate["low"] is not None and rate["low"] <= 0.5 <= rate["high"]
    return told + (": neither is shown to be preferred" if is_open else "")


def groups_of(evaluation: Evaluation) -> list[str]:
    """Return the groups of questions, in the order in which they first come."""
    return list(dict.fromkeys(name for each in evaluation["contestants"] for name in each.get("groups") or ()))


# -- the terminal ----------------------------------------------------------------------------------------------------


def evaluation_shown(evaluation: Evaluation) -> Iterator[RenderableType]:
    """Yield the parts of an evaluation, an empty line between them; of what there is none, none."""
    measure = str(evaluation["measure"])
    yield Folded(one_line(f"{evaluation['student']['name']}: {asked_told(evaluation)}"), style="bold")
    yield Folded(one_line(f"right: {MEASURES.get(measure, measure)}; {intervals_told(evaluation)}"), indent=2)
    parts = (_qualities(evaluation), _costs(evaluation), _groups(evaluation))
    for part in parts:
        if part is not None:
            yield Text("")
            yield part
    if said := [*map(difference_told, evaluation["differences"]), *ratios_told(evaluation)]:
        yield Text("")
        yield from (Folded(one_line(each), indent=2) for each in said)
    if judged := evaluation.get("judge"):
        yield Text("")
        yield from (Folded(one_line(judge_told(each)), indent=2) for each in judged)
    if notes := evaluation.get("notes"):
        yield Text("")
        yield from (Folded(one_line(f"note: {note}"), indent=2) for note in notes)


def _qualities(evaluation: Evaluation) -> Table | None:
    """Return what came of everybody's answers."""
    contestants: Sequence[Figures] = evaluation["contestants"]
    return _of_everybody({
        "who": [str(each["name"]) for each in contestants],
        "right=": [share_told(each.get("score")) for each in contestants],
        "F1#": [f1_told(each.get("f1")) for each in contestants],
        "agreement=": [share_told(each.get("agreement")) for each in contestants],
        "unreadable#": [f"{each['unreadable']:,}" if each["unreadable"] else UNKNOWN for each in contestants],
    })  # fmt: skip


def _costs(evaluation: Evaluation) -> Table | None:
    """Return how fast everybody answered, for how much, and with what."""
    contestants: Sequence[Figures] = evaluation["contestants"]
    return _of_everybody({
        "who": [str(each["name"]) for each in contestants],
        "answers/s#": list(map(rate_told, contestants)),
        "each in#": list(map(each_told, contestants)),
        "$/1,000#": list(map(money_told, contestants)),
        "parameters#": [parameters_told(each.get("parameters")) for each in contestants],
        "size#": [size_told(each.get("bytes")) for each in contestants],
        "model=": [str(each["model"]) for each in contestants],
        "runtime=": [str(each["runtime"]) for each in contestants],
    })  # fmt: skip


def _of_everybody(columns: Mapping[str, Sequence[str]]) -> Table | None:
    """Return a table of contestants; a column in which nobody has a figure is left out."""
    kept = {head: cells for head, cells in columns.items() if any(cell != UNKNOWN for cell in cells)}
    return table("", kept, zip(*kept.values(), strict=True)) if len(kept) > 1 else None


def _groups(evaluation: Evaluation) -> Table | None:
    rows = [
        [name, str(each["name"]), f"{found['questions']:,}", share_told(found), Bar(found.get("value") or 0, 12)]
        for name in groups_of(evaluation)
        for each in evaluation["contestants"]
        if (found := (each.get("groups") or {}).get(name))
    ]
    return table("", ["group", "who=", "questions#", "right=", "|"], rows) if rows else None
