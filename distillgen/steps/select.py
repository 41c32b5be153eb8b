"""The step `select`: chooses among all samples of one parent, and says of each other one why it was not chosen.

Majority vote: Wang et al., Self-Consistency (2022), https://arxiv.org/abs/2203.11171.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from distillgen.rows import Outcome, Rejection, Row
from distillgen.step_settings import SelectStep
from distillgen.steps.comparing import number_in, short
from distillgen.steps.text import normalise, text_of

END_MARKS = " .,;:!?…。，；：！？"  # they make no difference to a vote


class Vote(NamedTuple):
    """What an answer says, as it is compared and as it is shown."""

    choice: Hashable
    said: str


class Rated(NamedTuple):
    """A row that may be kept, and what it is compared by: what it votes for, its score, or its length."""

    row: Row
    value: Any


class Group(NamedTuple):
    """The samples of one parent: all of them, and those that are still rows."""

    samples: int
    answered: int


Results: TypeAlias = dict[str, Outcome | None]  # row id -> what becomes of the row, None when it is part of another


class Select:
    """A group step. Samples count in the order of the outcomes; `column` is what votes or is measured."""

    is_group = True

    def __init__(self, name: str, settings: SelectStep, column: str) -> None:
        self.name, self.settings, self.column = name, settings, column
        ways: Mapping[str, tuple[Callable[[Row], Any], Callable[[Sequence[Rated], Group], Results]]] = {
            "majority": (self._vote, self._majority),
            "best": (self._score, self._best),
            "shortest": (self._length, self._by_length),
            "longest": (self._length, self._by_length),
            "pair": (self._score, self._pair),
        }
        self._measure, self._choose = ways[settings.keep]

    def __call__(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return what becomes of the rows among the outcomes, in their order; the two rows of a pair become one."""
        rows = [outcome for outcome in outcomes if isinstance(outcome, Row)]
        group = Group(len(outcomes), len(rows))
        least = max(self.settings.min_samples, 2 if self.settings.keep == "pair" else 1)
        if group.answered < least:
            left = f"{group.answered} of {_samples(group)} {'is' if group.answered == 1 else 'are'} left"
            return [self._no(row, "too_few_samples", f"{left}, needs {least}") for row in rows]
        results: Results = {}
        rated: list[Rated] = []
        for row in rows:
            value = self._ineligible(row) or self._measure(row)
            if isinstance(value, Rejection):
                results[row.id] = value
            else:
                rated.append(Rated(row, value))
        if rated:
            results |= self._choose(rated, group)
        return [result for row in rows if (result := results[row.id]) is not None]

    def _no(self, row: Row, rule: str, detail: str) -> Rejection:
        return Rejection(row, self.name, rule, detail)

    def _yes(self, row: Row, group: Group, **figures: Any) -> Row:
        """Return the row that is kept, with what was chosen from on its trail."""
        return row.passed({"step": self.name, "keep": self.settings.keep, **group._asdict(), **figures})

    # -- what a row is compared by: a value, or why it cannot be kept ------------------------------------------------

    def _ineligible(self, row: Row) -> Rejection | None:
        """Refuse a row whose `where` is not true: `true`, or a number above 0."""
        if (where := self.settings.where) is None:
            return None
        value = row.columns.get(where)
        is_true = value if isinstance(value, bool) else is_number(value) and value > 0
        return None if is_true else self._no(row, "not_eligible", _said(row, where))

    def _vote(self, row: Row) -> Any:
        text = text_of(row, self.column)
        if self.settings.compare == "number":
            if (number := number_in(text)) is None:
                return self._no(row, "no_vote", f"no number in {_quoted(text)}")
            return Vote(number.value, number.text)
        if not (normal := normalise(text)):
            return self._no(row, "no_vote", f"{self.column} is empty")
        return Vote(normal.rstrip(END_MARKS) or normal, text)

    def _score(self, row: Row) -> Any:
        by = str(self.settings.by)
        value = row.columns.get(by)
        if is_number(value) or (isinstance(value, bool) and self.settings.keep == "pair"):
            return value
        return self._no(row, "no_score", _said(row, by))

    def _length(self, row: Row) -> Any:
        return len(text_of(row, self.column)) or self._no(row, "no_text", f"{self.column} is empty")

    # -- which is kept -----------------------------------------------------------------------------------------------

    def _majority(self, rated: Sequence[Rated], group: Group) -> Results:
        """Keep the first of the rows that agree with most others; of equal numbers, the vote that came first wins."""
        votes: dict[Hashable, list[Rated]] = {}
        for each in rated:
            votes.setdefault(each.value.choice, []).append(each)
        winners = max(votes.values(), key=len)
        agreement, least = len(winners) / group.samples, self.settings.min_agreement
        if agreement < least:
            detail = f"{len(winners)} of {group.samples} agree ({agreement:.2f}), wants {least:g}"
            return {each.row.id: self._no(each.row, "low_agreement", detail) for each in rated}
        kept, (choice, said) = winners[0]
        others = f"{len(winners)} of {group.samples} say {_quoted(said)}"
        results: Results = {}
        for row, vote in rated:
            if vote.choice == choice:
                results[row.id] = self._no(row, "not_selected", f"agrees with {kept.id}")
            else:
                results[row.id] = self._no(row, "outvoted", f"says {_quoted(vote.said)}, {others}")
        return results | {kept.id: self._yes(kept, group, agreement=round(agreement, 4))}

    def _best(self, rated: Sequence[Rated], group: Group) -> Results:
        """Keep the row with the highest score, the first of equal ones."""
        best = max(rated, key=_value)
        its = f"best {best.row.id} has {best.value:g}"
        results: Results = {
            row.id: self._no(row, "not_selected", f"{self.settings.by} {value:g}, {its}") for row, value in rated
        }
        return results | {best.row.id: self._yes(best.row, group)}

    def _by_length(self, rated: Sequence[Rated], group: Group) -> Results:
        """Keep the row whose text has fewest or most characters, the first of equal ones."""
        best = (min if self.settings.keep == "shortest" else max)(rated, key=_value)
        results: Results = {
            row.id: self._no(row, "not_selected", f"{value} characters, {best.row.id} has {best.value}")
            for row, value in rated
        }
        return results | {best.row.id: self._yes(best.row, group)}

    def _pair(self, rated: Sequence[Rated], group: Group) -> Results:
        """Make one row of the highest and the lowest score whose texts differ, the first of equal ones."""
        chosen = max(rated, key=_value)
        text = normalise(text_of(chosen.row, self.column))
        others = [each for each in rated if normalise(text_of(each.row, self.column)) != text]
        rejected = min(others, key=_value, default=chosen)
        gap = chosen.value - rejected.value
        if gap <= 0 or gap < self.settings.min_gap:
            detail = self._why_no_pair(rated, others, gap, group)
            return {each.row.id: self._no(each.row, "no_pair", detail) for each in rated}
        named = f"{chosen.row.id} and {rejected.row.id} are the pair"
        results: Results = {each.row.id: self._no(each.row, "not_selected", named) for each in rated}
        return results | {chosen.row.id: self._paired(chosen, rejected, group), rejected.row.id: None}

    def _paired(self, chosen: Rated, rejected: Rated, group: Group) -> Row:
        """Return the chosen row with both texts; its trail holds that of the rejected row, as far as they differ."""
        trails = zip(chosen.row.trail, rejected.row.trail, strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda both: both[0] == both[1], trails))
        row = self._yes(
            chosen.row, group, on=self.column,
            chosen={"id": chosen.row.id, "score": chosen.value},
            rejected={"id": rejected.row.id, "score": rejected.value, "steps": rejected.row.trail[common:]},
        )  # fmt: skip
        texts = {"chosen": text_of(chosen.row, self.column), "rejected": text_of(rejected.row, self.column)}
        return row._replace(columns={**row.columns, **texts})

    def _why_no_pair(self, rated: Sequence[Rated], others: Sequence[Rated], gap: float, group: Group) -> str:
        values = {each.value for each in rated}
        if all(isinstance(value, bool) for value in values) and len(values) == 1:
            return f"no {'wrong' if True in values else 'right'} answer among {_samples(group)}"
        if len(values) == 1:
            return f"all scores are {values.pop():g}"
        if not others:
            return f"all say the same: {_quoted(text_of(rated[0].row, self.column))}"
        if gap <= 0:
            return f"the texts that differ have no lower score than {max(values):g}"
        return f"the scores are {gap:g} apart, wants {self.settings.min_gap:g}"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number that can be compared: no boolean, no NaN, no infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def _value(rated: Rated) -> Any:
    return rated.value


def _samples(group: Group) -> str:
    return f"{group.samples} sample{'' if group.samples == 1 else 's'}"


def _said(row: Row, column: str) -> str:
    """Say what stands in a column in which something else was wanted."""
    if (value := row.columns.get(column)) is None:
        return f"{column} is missing"
    return f"{column} is {_quoted(value) if isinstance(value, str) else short(text_of(row, column))}"


def _quoted(text: str) -> str:
    return repr(short(" ".join(text.split())))
