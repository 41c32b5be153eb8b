"""The step `judge`: teachers score a row by a rubric, or say which of two texts is better.

Zheng et al., Judging LLM-as-a-Judge (2023), https://arxiv.org/abs/2306.05685: a judge favours the text that it reads
first, and texts of its own; so a pair is shown in both orders, and no judge scores what it wrote itself.
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from distillgen.errors import RowFailed
from distillgen.prompts import Messages, Prompt
from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.step_settings import GenerateStep, JudgeStep
from distillgen.steps.generate import Generate, seen_by_template
from distillgen.steps.text import text_of
from distillgen.steps.written import record_of
from distillgen.teacher import Teacher, several
from distillgen.teacher.several import Answer, Question

VOTES = {"first": 1.0, "second": 0.0, "tie": 0.5}  # how much of a vote the text that is shown first gets
ANSWER = "answer"  # the template's variable for what is judged
AS_SHOWN, SWAPPED = False, True


class Seat(NamedTuple):
    """One question about a row: who is asked, and whether the second text of a pair is shown first."""

    judge: str
    is_swapped: bool


class Verdict(NamedTuple):
    """What one judge said: its score, or its vote for the first column of the pair, and the record of it."""

    seat: Seat
    score: float
    record: Mapping[str, Any]


Miss: TypeAlias = tuple[Seat, RowFailed]


@dataclass(frozen=True)
class Judge:
    """A row step that needs the answers of all its judges at once.

    `writers` are the teachers of the recipe: what a judge wrote under another name is its own all the same.
    """

    name: str
    settings: JudgeStep
    prompt: Prompt
    judges: Mapping[str, Teacher]
    writers: Mapping[str, Teacher] = field(default_factory=dict)

    @functools.cached_property
    def _asking(self) -> Generate:
        """What asks, and reads replies, as any other step does."""
        rubric = {} if self.settings.rubric is None else {"rubric": self.settings.rubric}
        values = {**self.settings.values, **rubric}
        step = GenerateStep(use="generate", prompt=self.prompt.name, values=values, read=self.settings.read)
        chosen = several.each(tuple(self.judges.values()))
        return Generate(self.name, step, self.prompt, (), chosen, schema=self.prompt.settings.json_schema)

    # -- asking ------------------------------------------------------------------------------------------------------

    def render(self, row: Row, *, is_swapped: bool = False) -> Messages:
        """Return the messages for a row. Raises RowFailed when it does not fit the prompt."""
        seen = seen_by_template(row.columns, self._asking.settings)
        if self.settings.pair:
            shown = reversed(self.settings.pair) if is_swapped else self.settings.pair
            for variable, column in zip(("first", "second"), shown, strict=True):
                if column not in row.columns:
                    raise RowFailed("template", f"the row has no column {column!r} to compare", lasting=True)
                seen[variable] = text_of(row, column)
        return self.prompt.render(seen)

    def questions(self, row: Row) -> list[Question]:
        """Return a question for each judge, for a pair in both orders. Raises RowFailed when nobody may be asked."""
        fair = self._fair_judges(row)
        ask_each = several.each([self.judges[name] for name in fair])
        schema = self.prompt.settings.json_schema
        return [
            question
            for is_swapped in self._orders
            for question in ask_each(row.id, self.render(row, is_swapped=is_swapped), schema)
        ]

    def stored(self, question: Question) -> Answer | None:
        """Return the stored answer, None when the judge must be asked."""
        return self._asking.stored(question)

    async def ask(self, question: Question) -> Answer:
        """Return the judge's answer, committed to disk. Raises RowFailed, or the error that stops the run."""
        return await self._asking.ask(question)

    def ask_again(self, question: Question, answer: Answer) -> Question | None:
        """Return the question with the reply and what is wrong with it, once, when it does not follow its schema."""
        return self._asking.ask_again(question, answer)

    @property
    def _orders(self) -> tuple[bool, ...]:
        return (AS_SHOWN, SWAPPED) if self.settings.pair else (AS_SHOWN,)

    def _seats(self, row: Row) -> list[Seat]:
        """Return who is asked what, in the order of the questions."""
        fair = self._fair_judges(row)
        return [Seat(name, is_swapped) for is_swapped in self._orders for name in fair]

    def _fair_judges(self, row: Row) -> list[str]:
        """Return the judges who did not write what they would judge. Raises RowFailed when none is left."""
        if self.settings.own_answers:
            return list(self.judges)
        written = (record_of(row.trail, column) for column in self._judged)
        authors = {record["teacher"] for record in written if record and record.get("teacher")}
        fair = [name for name in self.judges if not any(self._is_same(name, author) for author in authors)]
        if not fair:
            fix = "add another judge, or own_answers = true"
            raise RowFailed("own_answer", f"every judge wrote this answer itself; {fix}", lasting=True)
        return fair

    @functools.cached_property
    def _judged(self) -> list[str]:
        """The columns that are judged: of a template without the variable `answer`, all that it reads."""
        if self.settings.pair:
            return self.settings.pair
        variables = {ANSWER} if ANSWER in self.prompt.needs else self.prompt.needs
        return [self.settings.read.get(variable, variable) for variable in sorted(variables)]

    def _is_same(self, judge: str, author: str) -> bool:
        """Whether two names in [teachers] are of the same model at the same endpoint."""
        writer = self.writers.get(author) or self.judges.get(author)
        if judge == author or writer is None:
            return judge == author
        mine, other = self.judges[judge].identity, writer.identity
        return (mine.endpoint, mine.model) == (other.endpoint, other.model)

    # -- what they said ----------------------------------------------------------------------------------------------

    def joined(self, row: Row, answers: Sequence[Answer | RowFailed]) -> list[Outcome]:
        """Return the row with its score, its rejection, or its failure when a judge may still answer or none did."""
        seats = self._seats(row)
        verdicts: list[Verdict] = []
        misses: list[Miss] = []
        for seat, answer in zip(seats, answers, strict=True):
            try:
                verdicts.append(self._verdict(row, seat, answer))
            except RowFailed as failed:
                misses.append((seat, failed))
        if passing := [miss for miss in misses if miss[1].is_waiting or not miss[1].lasting]:
            return [self._failure(row, *passing[0])]
        silent = {seat.judge for seat, _ in misses}  # of a pair both orders count, or none
        verdicts = [verdict for verdict in verdicts if verdict.seat.judge not in silent]
        if not verdicts:
            return [self._failure(row, *misses[0])]
        record: dict[str, Any] = {"step": self.name, "prompt": self.prompt.name, "wrote": [self.settings.write]}
        if left_out := sorted(self.judges.keys() - {seat.judge for seat in seats}):
            record["left_out"] = left_out  # they wrote it
        if misses:
            record["missing"] = [{"judge": s.judge, "cause": f.cause, "detail": f.detail} for s, f in misses]
        return [self._compared(row, verdicts, record) if self.settings.pair else self._scored(row, verdicts, record)]

    def _verdict(self, row: Row, seat: Seat, answer: Answer | RowFailed) -> Verdict:
        """Read one answer. Raises RowFailed when it is none, or says nothing that counts."""
        if isinstance(answer, RowFailed):
            raise answer.anew()
        read = self._asking.rows(Row(row.id, row.origin, row.parent, {}), 0, answer)[0]
        if isinstance(read, Failure):
            raise RowFailed(read.cause, read.detail, lasting=read.lasting, attempts=read.attempts)
        assert isinstance(read, Row)  # without checks, and without `each`, nothing is rejected
        asked = read.trail[-1]
        said = {name: value for name, value in read.columns.items() if name in self._asking.schema["properties"]}  # type: ignore[index]
        record = {"judge": seat.judge, "model": asked["model"], "key": asked["key"], "tokens": asked["tokens"], **said}
        if not self.settings.pair:
            return Verdict(seat, _score(said.get("score")), record)
        vote = _vote(said.get("winner"))
        order = list(reversed(self.settings.pair)) if seat.is_swapped else self.settings.pair
        return Verdict(seat, 1 - vote if seat.is_swapped else vote, {**record, "order": order})

    def _failure(self, row: Row, seat: Seat, failed: RowFailed) -> Failure:
        detail = f"judge {seat.judge!r}: {failed.detail}"
        return Failure(row, self.name, failed.cause, detail, failed.lasting, failed.attempts, failed.last_reply)

    def _scored(self, row: Row, verdicts: Sequence[Verdict], record: Mapping[str, Any]) -> Outcome:
        """Return the row with the mean of the scores, or its rejection."""
        score = round(statistics.fmean(verdict.score for verdict in verdicts), 4)
        row = row.passed(
            {**record, "score": score, "scores": [verdict.record for verdict in verdicts]},
            **{self.settings.write: score},
        )
        said = ", ".join(f"{verdict.seat.judge} {verdict.score:g}" for verdict in verdicts)
        return self._high_enough(row, score, said)

    def _compared(self, row: Row, verdicts: Sequence[Verdict], record: Mapping[str, Any]) -> Outcome:
        """Return the row with the better text in the first column of the pair, or its rejection."""
        assert self.settings.pair is not None
        one, other = self.settings.pair
        votes = sum(verdict.score for verdict in verdicts)
        against = len(verdicts) - votes
        score = round(max(votes, against) / len(verdicts), 4)
        columns = {self.settings.write: score}
        if is_exchanged := votes < against:
            columns |= {one: row.columns[other], other: row.columns[one]}
        by_judge: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            by_judge.setdefault(verdict.seat.judge, []).append(verdict)
        row = row.passed(
            {
                **record,
                "pair": [one, other],
                "score": score,
                "scores": [verdict.record for verdict in verdicts],
                "exchanged": is_exchanged,
                "orders_agree": {judge: ab.score == ba.score for judge, (ab, ba) in by_judge.items()},
            },
            **columns,
        )
        words = [f"{judge}: {ab.record['winner']}, {ba.record['winner']}" for judge, (ab, ba) in by_judge.items()]
        said = f"votes {votes:g} : {against:g} ({'; '.join(words)})"
        if votes == against:
            return Rejection(row, self.name, "tie", said)
        return self._high_enough(row, score, said)

    def _high_enough(self, row: Row, score: float, said: str) -> Outcome:
        least = self.settings.min_score
        if least is None or score >= least:
            return row
        return Rejection(row, self.name, "low_score", f"score {score:g} ({said}), wants {least:g}")


def wrong_prompt(prompt: Prompt, *, is_pair: bool) -> str | None:
    """Say why a judge cannot use a prompt, None when it can."""
    wanted = "winner" if is_pair else "score"
    schema = prompt.settings.json_schema
    found = schema.get("properties", {}).get(wanted)
    if prompt.settings.output != "json" or not isinstance(found, Mapping) or wanted not in schema.get("required", ()):
        return f'its JSON schema must require {wanted!r} (output = "json")'
    if is_pair and not set(found.get("enum", ("",))) <= VOTES.keys():
        return "its `winner` must be one of the labels first, second and tie"
    if is_pair and not {"first", "second"} <= prompt.needs:
        return "it must show the texts `first` and `second`"
    if not is_pair and found.get("type") not in ("number", "integer"):
        return "its `score` must be a number"
    return None


def highest_score(prompt: Prompt, *, is_pair: bool) -> float:
    """Return the highest score that a judge can give: for a pair, all votes."""
    highest = prompt.settings.json_schema["properties"]["score"].get("maximum") if not is_pair else 1.0
    return float(highest) if isinstance(highest, int | float) else math.inf


def _score(said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        raise RowFailed("schema", f"the score is no number: {str(said)[:80]!r}", lasting=True)
    return float(said)


def _vote(said: Any) -> float:
    if not isinstance(said, str) or said not in VOTES:
        raise RowFailed("schema", f"the winner is not first, second or tie: {str(said)[:80]!r}", lasting=True)
    return VOTES[said]
