"""Which of two answers a judge likes better: each pair is shown in both orders, by the road's own step `judge`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillgen.rows import Row
from distillgen.state import EVALUATION
from distillgen.steps.text import normalise
from distillgen.student.asking import Settled, collect, keep_noted, opened, prepared_for, say_warnings
from distillgen.student.contestants import Contestant, terms_of, whom
from distillgen.student.progress import OnEvent
from distillgen.student.questions import Question
from distillgen.student.scores import Verdict

PAIR = ["one", "other"]
SWAPPED: Mapping[Verdict, Verdict] = {"win": "loss", "loss": "win", "tie": "tie"}
NOTHING_LEFT = 1e-9  # dollars: a budget of nothing is none
Both = tuple[Verdict, Verdict]  # shown as first, shown as second


@dataclass(frozen=True)
class Judging:
    """Who judges, and where from: the recipe whose [teachers] may name the judge, and its folder.

    `budget` is in US dollars, for all that is asked in this run.
    """

    judge: str
    recipe: Mapping[str, Any]
    project: Path
    budget: float | None = None
    may_be_unpriced: bool = False

    def contestant(self, spent: float = 0.0) -> Contestant:
        """Return the judge as somebody who is asked, with what is left of the budget. Raises UsageError for a name that
        nobody has."""
        key, settings = whom(self.recipe, self.project, self.judge, {"temperature": 0, "max_tokens": 512})
        budget = {} if self.budget is None else {"usd": max(self.budget - spent, NOTHING_LEFT)}
        table: dict[str, Any] = {
            "name": EVALUATION, "teachers": {key: settings}, "budget": budget, "terms": terms_of(self.recipe),
            "steps": [{"use": "judge", "teacher": key, "pair": PAIR}],
        }  # fmt: skip
        return Contestant(
            f"the judge {self.judge}", self.judge, "teacher", table, {}, may_be_unpriced=self.may_be_unpriced
        )

    def check(self, state: Path) -> None:
        """See that the judge can be asked. Raises what `prepared_for` raises."""
        with prepared_for(self.contestant(), [_pair("check", "?", "one", "other")], state):
            pass


@dataclass(frozen=True)
class Match:
    """Whose answers are held against whose, each by the question's id."""

    of: str
    from_: str
    one: Mapping[str, str | None]
    other: Mapping[str, str | None]


@dataclass
class Judged:
    """What came of a match, by the question's id, and what the judge did not have to see.

    `alike` are pairs of the same answer (ties), `missing` those where one has no answer (its loss), `shown` the others.
    """

    verdicts: dict[str, Both] = field(default_factory=dict)
    alike: int = 0
    missing: int = 0
    shown: int = 0

    def counts(self) -> dict[str, int]:
        """Return how the pairs came about; `unread` are those of which the judge said nothing that can be read."""
        seen = len(self.verdicts) - self.alike - self.missing
        return {"seen": seen, "alike": self.alike, "missing": self.missing, "unread": self.shown - seen}


async def compare(
    judging: Judging, questions: Sequence[Question], matches: Sequence[Match], state: Path, on_event: OnEvent, *,
    spent: float = 0.0,
) -> list[Judged]:  # fmt: skip
    """Return what the judge says of one's answers against the other's, in both orders, for each match.

    A pair of which the judge says nothing that can be read is left out. `spent` is what the budget has gone for by now.
    Raises what asking raises.
    """
    found = [Judged() for _ in matches]
    asked: list[Question] = []
    whose: dict[str, tuple[Judged, str]] = {}
    for number, (judged, match) in enumerate(zip(found, matches, strict=True)):
        for question in questions:
            mine, theirs = ((texts[question.id] or "").strip() for texts in (match.one, match.other))
            if not _is_clear(judged, question.id, mine, theirs):
                asked.append(_pair(f"{number}/{question.id}", question.text, mine, theirs))
                whose[asked[-1].id] = judged, question.id

    def take(name: str, outcome: Settled) -> None:
        row = outcome if isinstance(outcome, Row) else outcome.row
        said = [score for step in row.trail for score in step.get("scores") or ()]
        if len(said) == len(PAIR):
            as_first, as_second = sorted(said, key=lambda each: each["order"] != PAIR)
            judged, question = whose[name]
            judged.verdicts[question] = (_verdict(as_first), _verdict(as_second))

    if asked:
        judge = judging.contestant(spent)
        with prepared_for(judge, asked, state) as prepared:
            say_warnings(prepared, on_event)
            async with opened(prepared) as (teachers, _):
                keep_noted(await collect(judge.name, asked, prepared, teachers, take, on_event), prepared.state)
    return found


def _pair(name: str, question: str, one: str, other: str) -> Question:
    return Question(name, {"question": question, "one": one, "other": other}, (), None, None, None)


def _is_clear(judged: Judged, question: str, mine: str, theirs: str) -> bool:
    """Say whether a pair needs no judge, and count it: the answers are alike (a tie), or one is missing (a loss)."""
    if normalise(mine) == normalise(theirs):
        judged.alike += 1
        judged.verdicts[question] = ("tie", "tie")
    elif not mine or not theirs:
        judged.missing += 1
        judged.verdicts[question] = ("win", "win") if mine else ("loss", "loss")
    else:
        judged.shown += 1
        return False
    return True


def _verdict(said: Mapping[str, Any]) -> Verdict:
    """Return what the judge said of the first column of the pair."""
    if said["winner"] == "tie":
        return "tie"
    verdict: Verdict = "win" if said["winner"] == "first" else "loss"
    return verdict if said["order"] == PAIR else SWAPPED[verdict]
