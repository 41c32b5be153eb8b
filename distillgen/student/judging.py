"""Which of two answers a judge likes better: each pair is shown in both orders, by the road's own step `judge`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.rows import Row
from distillgen.steps.text import normalise
from distillgen.student.asking import Contestant, OnEvent, Settled, collect, opened, prepared_for, whom
from distillgen.student.questions import Question
from distillgen.student.scores import Verdict

PAIR = ["one", "other"]
SWAPPED: Mapping[Verdict, Verdict] = {"win": "loss", "loss": "win", "tie": "tie"}
Both = tuple[Verdict, Verdict]  # shown as first, shown as second


@dataclass(frozen=True)
class Judging:
    """Who judges, and where from: the recipe whose [teachers] may name the judge, and its folder."""

    judge: str
    recipe: Mapping[str, Any]
    project: Path
    budget: float | None = None

    def contestant(self) -> Contestant:
        """Return the judge as somebody who is asked. Raises UsageError for a name that nobody has."""
        key, settings = whom(self.recipe, self.project, self.judge, {"temperature": 0, "max_tokens": 512})
        table: dict[str, Any] = {
            "name": "evaluation", "teachers": {key: settings},
            "steps": [{"use": "judge", "teacher": key, "pair": PAIR}],
        }  # fmt: skip
        if self.budget is not None:
            table["budget"] = {"usd": self.budget}
        return Contestant(f"the judge {self.judge}", self.judge, "teacher", table, {})


async def compare(
    judging: Judging, questions: Sequence[Question], one: Mapping[str, str | None], other: Mapping[str, str | None],
    state: Path, on_event: OnEvent,
) -> list[Both]:  # fmt: skip
    """Return what the judge says of one's answers against the other's, in both orders, for each question.

    Nobody is asked where the answers are alike (a tie) or one is missing (a loss). A pair of which the judge says
    nothing that can be read is left out. Raises what asking raises.
    """
    found: dict[str, Both] = {}
    asked: list[Question] = []
    for question in questions:
        mine, theirs = (one[question.id] or "").strip(), (other[question.id] or "").strip()
        if normalise(mine) == normalise(theirs):
            found[question.id] = ("tie", "tie")
        elif not mine or not theirs:
            found[question.id] = ("win", "win") if mine else ("loss", "loss")
        else:
            columns = {"question": question.text, "one": mine, "other": theirs}
            asked.append(Question(question.id, columns, question.messages, None, None, None))

    def take(name: str, outcome: Settled) -> None:
        row = outcome if isinstance(outcome, Row) else outcome.row
        said = [score for step in row.trail for score in step.get("scores") or ()]
        if len(said) == len(PAIR):
            as_first, as_second = sorted(said, key=lambda each: each["order"] != PAIR)
            found[name] = (_verdict(as_first), _verdict(as_second))

    if asked:
        judge = judging.contestant()
        with prepared_for(judge, asked, state) as prepared:
            async with opened(prepared) as (teachers, _):
                await collect(judge.name, asked, prepared, teachers, take, on_event)
    return [found[question.id] for question in questions if question.id in found]


def _verdict(said: Mapping[str, Any]) -> Verdict:
    """Return what the judge said of the first column of the pair."""
    if said["winner"] == "tie":
        return "tie"
    verdict: Verdict = "win" if said["winner"] == "first" else "loss"
    return verdict if said["order"] == PAIR else SWAPPED[verdict]
