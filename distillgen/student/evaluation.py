"""The evaluation of a student: the same questions to teacher, base and student; scored, timed and priced."""

import asyncio
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from distillgen.files import Lock, utc
from distillgen.processes import processors
from distillgen.settings import TeacherSettings
from distillgen.state import EVALUATE_LOCK, state_folder
from distillgen.steps.mathematics import Mathematics
from distillgen.student import scores
from distillgen.student.asking import Answers
from distillgen.student.contestants import Contestant
from distillgen.student.evaluation_plan import BASE, EQUAL, STUDENT, TEACHER, Plan
from distillgen.student.evaluation_request import EvaluationRequest
from distillgen.student.judging import Judged, Match, compare
from distillgen.student.progress import OnEvent
from distillgen.student.questions import Question
from distillgen.student.scratch import sweep
from distillgen.student.timing import take_times, time_of_own
from distillgen.teacher.cost import FREE, find_prices
from distillgen.teacher.replies import TokenUsage

FORMAT = "evaluation/1"
HOUR = 3600
Figures = dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """What came of an evaluation: `figures`, as schemas/student-evaluate.schema.json describes them, and `answers`: to
    each question what everybody said, and whether that is right (None: nobody knows)."""

    figures: Figures
    answers: Sequence[Figures]


def evaluate(request: EvaluationRequest, on_event: OnEvent) -> Figures:
    """Return the figures. See `evaluating`."""
    return asyncio.run(evaluating(request, on_event)).figures


async def evaluating(request: EvaluationRequest, on_event: OnEvent) -> Evaluated:
    """Ask, time and score; everything that was answered is kept, so that the same request goes on where it stopped.

    Raises UsageError for what cannot be asked or compared, NotFound where the student's version is not in the project,
    Locked where another one is at work in the project, and what asking raises.
    """
    state = state_folder(request.project, request.state)
    with Lock(state / EVALUATE_LOCK):  # two at once would pay for answers twice
        sweep(state)
        plan = Plan(request, on_event)
        plan.check()
        said = await plan.ask_all()
        speeds = await take_times(plan.timed, plan.questions.asked, request.time, plan.state, on_event)
        score = _Score(plan, said, speeds)
        return Evaluated(await score.evaluation(), list(score.answers()))


class _Score:
    """Turns answers into figures."""

    def __init__(self, plan: Plan, said: Mapping[str, Answers], speeds: Mapping[str, Figures | None]) -> None:
        self._plan, self._said, self._speeds = plan, said, speeds
        self._bootstrap = plan.request.bootstrap
        self._asked: Sequence[Question] = plan.questions.asked
        self._texts = {
            name: [plan.read(answers.texts[each.id]) for each in self._asked] for name, answers in said.items()
        }
        self._right: dict[str, list[bool | None]] = {}
        self._agrees: dict[str, list[bool | None]] = {}

    async def evaluation(self) -> Figures:
        """Return the whole."""
        plan, student = self._plan, self._plan.request.student
        await self._compare()
        made_of = student.manifest.dataset
        return {
            "format": FORMAT,
            "date": utc(time.time()),
            "student": {"name": student.manifest.name, "digest": student.digest},
            "dataset": {name: made_of[name] for name in ("name", "version", "digest")},
            "on": plan.questions.dump(),
            "measure": plan.measure,
            "labels": list(plan.labels),
            "contestants": [self._contestant(*pair) for pair in self._in_order()],
            "differences": self._differences(),
            "judge": await self._judged(),
            "bootstrap": self._bootstrap.dump(),
            "machine": {
                "cpus": processors(), "python": platform.python_version(), "system": platform.system(),
                "processor": platform.machine(),
            },
            "notes": list(plan.notes),
        }  # fmt: skip

    def answers(self) -> Iterator[Figures]:
        """Yield what everybody said to each question, after `evaluation`."""
        for place, question in enumerate(self._asked):
            yield {
                "id": question.id, "question": question.text, "gold": question.gold, "group": question.group,
                "answers": {name: answers.texts[question.id] for name, answers in self._said.items()},
                "right": {name: right[place] for name, right in self._right.items()},
            }  # fmt: skip

    def _in_order(self) -> list[tuple[str, Contestant | None]]:
        """Return who is shown: the teacher first, who may have no contestant where the version holds its answers."""
        known = {contestant.name: contestant for contestant in self._plan.contestants}
        names = [*([TEACHER] if TEACHER in self._said else []), *(name for name in known if name != TEACHER)]
        return [(name, known.get(name)) for name in names]

    async def _compare(self) -> None:
        """Compare all answers with the gold, and with the teacher's."""
        teacher = self._texts.get(TEACHER)
        for name, texts in self._texts.items():
            self._right[name] = await self._verdicts(texts, self._plan.golds)
            if teacher is not None and name != TEACHER:
                self._agrees[name] = await self._verdicts(texts, teacher)

    async def _verdicts(self, texts: Sequence[str | None], references: Sequence[str | None]) -> list[bool | None]:
        if self._plan.measure != "math":
            return scores.verdicts(self._plan.measure, texts, references, self._plan.labels)
        mathematics = Mathematics()
        try:
            return await scores.math_verdicts(mathematics, texts, references)
        finally:
            await mathematics.aclose()

    # -- one contestant ------------------------------------------------------------------------------------------------

    def _contestant(self, name: str, contestant: Contestant | None) -> Figures:
        texts, answers = self._texts[name], self._said[name]
        readable = [scores.is_readable(self._plan.measure, text, self._plan.labels) for text in texts]
        speed = self._speed(name, contestant)
        prompt = contestant.prompt if contestant else "teacher"
        return {
            "name": name,
            "model": self._model(contestant),
            "prompt": prompt,
            "runtime": contestant.runtime if contestant else "the provider",
            "how": self._how(name, contestant),
            "answered": sum(bool(text and text.strip()) for text in texts),
            "unreadable": readable.count(False),
            "score": self._share(self._right[name]),
            **self._by_label(texts),
            "agreement": self._share(self._agrees[name]) if name in self._agrees else None,
            "groups": self._groups(name),
            "tokens": answers.tokens,
            "speed": speed,
            "usd_per_1000": self._usd(contestant, answers, speed),
            "parameters": contestant.parameters if contestant else None,
            "bytes": contestant.bytes if contestant else None,
        }

    def _model(self, contestant: Contestant | None) -> str:
        if contestant is not None:
            return contestant.model
        version = self._plan.version
        teachers = version.manifest.teachers if version is not None else {}
        return ", ".join(str(facts.get("model") or name) for name, facts in teachers.items()) or "unknown"

    def _how(self, name: str, contestant: Contestant | None) -> str:
        if name == TEACHER and self._plan.is_taught:
            return "its answers in the version"
        return contestant.how if contestant else ""

    def _share(self, right: Sequence[bool | None]) -> Figures | None:
        return self._bootstrap.mean(right).dump() if any(each is not None for each in right) else None

    def _by_label(self, texts: Sequence[str | None]) -> Figures:
        """Return macro F1 and the rates of each label, over the questions with gold."""
        labels, pairs = self._plan.labels, zip(self._plan.golds, texts, strict=True)
        read = [
            (gold, scores.label_in(text or "", labels))
            for wanted, text in pairs
            if wanted is not None and (gold := scores.label_in(wanted, labels)) is not None
        ]
        if self._plan.measure != "label" or not read:
            return {"f1": None, "per_label": {}}
        golds, saids = [gold for gold, _ in read], [said for _, said in read]
        return {
            "f1": self._bootstrap.macro_f1(golds, saids).dump(), "per_label": scores.per_label(golds, saids, labels)
        }  # fmt: skip

    def _groups(self, name: str) -> Figures:
        found: dict[str, list[bool | None]] = {}
        for question, right in zip(self._asked, self._right[name], strict=True):
            if question.group is not None and right is not None:
                found.setdefault(question.group, []).append(right)
        return {
            group: {"questions": len(right), **self._bootstrap.mean(right).dump()}
            for group, right in sorted(found.items())
        }

    def _speed(self, name: str, contestant: Contestant | None) -> Figures | None:
        if contestant is None:
            return None
        if contestant.is_free:
            return self._speeds.get(name)  # None of a teacher that could not be asked
        return time_of_own(self._said[name], contestant, len(self._asked))

    def _usd(self, contestant: Contestant | None, answers: Answers, speed: Figures | None) -> Figures | None:
        """Return what 1,000 answers cost: by prices, or by the clock and the stated price of this machine's hour."""
        if contestant is None:
            return None
        by_prices = self._by_prices(contestant, answers)
        if by_prices is not None:
            return {"value": round(float(by_prices * 1000 / len(self._asked)), 6), "from": "prices"}
        hour = self._plan.request.usd_per_hour
        if hour is None or speed is None or not contestant.is_free:
            return None
        seconds = 1000 * speed["seconds"] / speed["questions"]
        return {"value": round(seconds / HOUR * hour, 6), "from": f"${hour:g} an hour"}

    def _by_prices(self, contestant: Contestant, answers: Answers) -> Decimal | None:
        """Return the dollars for all answers, None where a price or a count of tokens is missing, or all is free."""
        if contestant.folder is not None or not answers.replies:
            return None
        now = datetime.now(UTC)
        prices = {
            name: find_prices(TeacherSettings.model_validate(dict(settings)), now)
            for name, settings in contestant.teachers.items()
        }
        total = Decimal(0)
        for reply in answers.replies:
            price = prices.get(str(reply.get("teacher") or reply.get("judge")))
            if price is None or not reply.get("tokens"):
                return None
            tokens = reply["tokens"]
            total += price.cost(
                TokenUsage(
                    tokens["prompt"], tokens["completion"], tokens.get("reasoning", 0), tokens.get("cached", 0),
                    tokens.get("cache_write", 0),
                )
            )  # fmt: skip
        return total if any(price is not FREE for price in prices.values()) else None

    # -- one against another -------------------------------------------------------------------------------------------

    def _differences(self) -> list[Figures]:
        pairs = [(STUDENT, BASE), (STUDENT, BASE + EQUAL), (STUDENT, TEACHER), (STUDENT + EQUAL, TEACHER)]
        there = [(of, from_) for of, from_ in pairs if of in self._right and from_ in self._right]
        found = [self._difference(self._right, *pair) for pair in there] if self._plan.questions.with_gold else []
        if STUDENT in self._agrees and BASE in self._agrees:
            found.append({**self._difference(self._agrees, STUDENT, BASE), "what": "agreement"})
        return found

    def _difference(self, figures: Mapping[str, Sequence[bool | None]], of: str, from_: str) -> Figures:
        return {"of": of, "from": from_, **self._bootstrap.difference(figures[of], figures[from_]).dump()}

    async def _judged(self) -> list[Figures]:
        """Return what a judge says of student and base against the teacher; without one, of the student against the
        base."""
        plan, said = self._plan, self._said
        if plan.judging is None:
            return []
        pairs = [(STUDENT, TEACHER), (BASE, TEACHER)] if TEACHER in said else [(STUDENT, BASE)]
        matches = [Match(of, from_, said[of].texts, said[from_].texts) for of, from_ in pairs if of in said]
        spent = sum(answers.usd for answers in said.values())
        found = await compare(plan.judging, self._asked, matches, plan.state, plan.on_event, spent=spent)
        return [self._match(*pair) for pair in zip(matches, found, strict=True)]

    def _match(self, match: Match, judged: Judged) -> Figures:
        assert self._plan.judging is not None
        in_order = [judged.verdicts[each.id] for each in self._asked if each.id in judged.verdicts]
        return {
            "judge": self._plan.judging.judge, "of": match.of, "from": match.from_, **judged.counts(),
            **scores.judged(in_order, self._bootstrap),
        }  # fmt: skip
