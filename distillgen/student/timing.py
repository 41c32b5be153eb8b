"""How fast contestants answer: some questions asked anew, of one contestant after the other and round again, so that
what else the machine does meets all of them."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillgen.student.asking import Answers, collect, opened, prepared_for
from distillgen.student.contestants import Contestant
from distillgen.student.generating import in_thread
from distillgen.student.progress import OnEvent
from distillgen.student.questions import Question, in_lots
from distillgen.student.scratch import scratch
from distillgen.teacher.answers import AnswerStore

BLOCKS = 2  # how often each contestant has its turn
WARM_UP = 4  # questions before each turn that do not count: the model is loaded and its caches are filled
FEWEST = 2


@dataclass
class Clock:
    """What was measured of one contestant: replies within some seconds, and how long each question took."""

    questions: int = 0
    seconds: float = 0.0
    each: list[float] = field(default_factory=list)

    def speed(self, at_once: int, how: str) -> dict[str, Any] | None:
        """Return the figures for the evaluation, None where nothing was measured."""
        if not self.questions or self.seconds <= 0:
            return None
        return {
            "questions": self.questions, "seconds": round(self.seconds, 3),
            "per_second": round(self.questions / self.seconds, 4),
            "seconds_each": round(sum(self.each) / len(self.each), 4) if self.each else 0.0, "at_once": at_once,
            "how": how,
        }  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """The questions of one turn: those before it that do not count, and those that do."""

    warm_up: Sequence[Question]
    timed: Sequence[Question]


def turns_of(questions: Sequence[Question], count: int) -> list[Turn]:
    """Return the turns of each contestant, of `count` questions in all, none of them twice. No turn: too few."""
    lots = in_lots(questions)
    warm = min(WARM_UP, len(lots) // (2 * BLOCKS))
    size = min(count, len(lots) - BLOCKS * warm) // BLOCKS
    if size < 1 or warm < 1:
        return [Turn(lots[:1], lots[1 : count + 1])] if len(lots) >= FEWEST and count > 0 else []
    timed = [lots[number * size : (number + 1) * size] for number in range(BLOCKS)]
    rest = lots[BLOCKS * size :]
    return [Turn(rest[number * warm : (number + 1) * warm], timed[number]) for number in range(BLOCKS)]


async def take_times(
    contestants: Sequence[Contestant], questions: Sequence[Question], count: int, state: Path, on_event: OnEvent
) -> dict[str, dict[str, Any] | None]:
    """Return the speed of each contestant by name, of `count` questions asked anew; none of it is kept.

    Those who may cost money are not among them. Raises what asking raises.
    """
    free = [contestant for contestant in contestants if contestant.is_free]
    clocks = {contestant.name: Clock() for contestant in free}
    turns = turns_of(questions, count)
    for number, turn in enumerate(turns):
        for contestant in free:
            await _time(contestant, turn, clocks[contestant.name], state)
            done, of = (number + 1) * len(turn.timed), len(turns) * len(turn.timed)
            on_event({"event": "asked", "who": f"{contestant.name} by the clock", "done": done, "of": of})
    asked = sum(len(turn.warm_up) + len(turn.timed) for turn in turns)
    found: dict[str, dict[str, Any] | None] = {}
    for contestant in free:
        clock = clocks[contestant.name]
        how = f"asked anew, in {len(turns)} turns by turns with the others; {asked - clock.questions} more do not count"
        found[contestant.name] = clock.speed(contestant.at_once, how)
    return found


async def _time(contestant: Contestant, turn: Turn, clock: Clock, state: Path) -> None:
    if contestant.folder is not None:
        await _time_transformers(contestant, turn, clock, state)
        return
    with contextlib.ExitStack() as held:
        alone = held.enter_context(scratch(state))
        timed = held.enter_context(prepared_for(contestant, turn.timed, alone))
        async with opened(timed) as (teachers, store):
            with prepared_for(contestant, turn.warm_up, alone) as warm_up:
                replies = await collect(contestant.name, turn.warm_up, warm_up, teachers, _let_be, _let_be)
                began = max((at for at, _ in store.times(_keys(replies))), default=time.time())
            replies = await collect(contestant.name, turn.timed, timed, teachers, _let_be, _let_be)
            _count(clock, store, replies, began, len(turn.timed))


def _count(clock: Clock, store: AnswerStore, replies: Sequence[Any], began: float, questions: int) -> None:
    times = [(at, seconds) for at, seconds in store.times(_keys(replies)) if at > began]
    if not times:
        return
    clock.questions += questions
    clock.seconds += max(at for at, _ in times) - began
    clock.each += [sum(seconds or 0.0 for _, seconds in times) / questions] * questions


def _keys(replies: Sequence[Any]) -> list[bytes]:
    return [bytes.fromhex(reply["key"]) for reply in replies]


def _let_be(*_: Any) -> None:
    """Take what nobody wants to know."""


async def _time_transformers(contestant: Contestant, turn: Turn, clock: Clock, state: Path) -> None:
    """Take the seconds of the batches that come behind the warm-up's questions, or of the last where none does."""
    with scratch(state) as alone:
        answers = await in_thread(contestant, [*turn.warm_up, *turn.timed], alone, _let_be, anew=True)
    batches: dict[float, tuple[int, float]] = {}
    for at, seconds in answers.received:
        batches[at] = (batches.get(at, (0, 0.0))[0] + 1, seconds or 0.0)
    passed = 0
    for number, (size, seconds) in enumerate(batches.values(), 1):
        if passed >= len(turn.warm_up) or number == len(batches):
            clock.questions += size
            clock.seconds += seconds
            clock.each += [seconds] * size
        passed += size


def time_of_own(answers: Answers, contestant: Contestant, questions: int) -> dict[str, Any] | None:
    """Return the speed of the calls that this evaluation made anyway, of somebody who is not asked for the clock.

    None where everything was stored by now.
    """
    times = [(at, seconds) for at, seconds in answers.received if seconds is not None]
    if len(times) < FEWEST or not answers.replies:
        return None
    clock = Clock()
    share = len(times) / len(answers.replies)  # a question may take several replies, or be stored
    clock.questions = max(round(questions * share), 1)
    clock.seconds = max(at for at, _ in times) - min(at - seconds for at, seconds in times)
    clock.each = [sum(seconds for _, seconds in times) / clock.questions] * clock.questions
    return clock.speed(contestant.at_once, "of the calls of this evaluation, at the provider's speed on that day")
