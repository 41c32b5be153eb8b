"""Which of several teachers answers a row: the only one, one by weight, the first that can, or each of them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from distillgen.errors import CredentialsError, QuotaSpent, RowFailed, TeacherUnavailable
from distillgen.step_settings import GenerateStep
from distillgen.teacher.asking import Reply, Request

if TYPE_CHECKING:
    from distillgen.teacher import Teacher


class Question(NamedTuple):
    """One sample of a prompt, as each teacher that may answer it would be asked; the first is asked first."""

    candidates: "tuple[tuple[Teacher, Request], ...]"
    ask: int = 0  # 1 for the re-ask of a reply that did not follow its schema


class Answer(NamedTuple):
    """Who answered what, and how."""

    teacher: "Teacher"
    request: Request
    reply: Reply
    ask: int = 0


Messages = Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any] | None
Chosen = Callable[[str, Messages, Schema], list[Question]]  # row id, messages, schema -> a question for each sample


def chooser(step: GenerateStep, teachers: "Mapping[str, Teacher]") -> Chosen:
    """Return what makes a row's questions: by the step's table of weights, list, or only teacher."""
    if isinstance(step.teacher, dict):
        return by_weight(step.teacher, teachers, step.samples)
    asked = tuple(teachers.values())
    if step.compare:
        return each(asked)
    return only(asked[0], step.samples) if len(asked) == 1 else first_able(asked, step.samples)


def only(teacher: "Teacher", samples: int) -> Chosen:
    """Every sample is for the same teacher."""
    numbers = range(samples)

    def questions(row_id: str, messages: Messages, schema: Schema) -> list[Question]:
        return [Question(((teacher, each),)) for each in teacher.requests(messages, schema=schema, samples=numbers)]

    return questions


def first_able(teachers: "Sequence[Teacher]", samples: int) -> Chosen:
    """Every sample is for the first teacher that can answer."""

    def questions(row_id: str, messages: Messages, schema: Schema) -> list[Question]:
        asked = [teacher.requests(messages, schema=schema, samples=range(samples)) for teacher in teachers]
        return [Question(tuple(zip(teachers, requests, strict=True))) for requests in zip(*asked, strict=True)]

    return questions


def each(teachers: "Sequence[Teacher]") -> Chosen:
    """Every teacher gives one sample."""

    def questions(row_id: str, messages: Messages, schema: Schema) -> list[Question]:
        return [_one(teacher, messages, schema, 0) for teacher in teachers]

    return questions


def by_weight(weights: Mapping[str, float], teachers: "Mapping[str, Teacher]", samples: int) -> Chosen:
    """A hash of row id and sample decides, so that a row keeps its teacher in every run."""

    def questions(row_id: str, messages: Messages, schema: Schema) -> list[Question]:
        chosen = [teachers[drawn(weights, row_id, sample)] for sample in range(samples)]
        return [_one(teacher, messages, schema, sample) for sample, teacher in enumerate(chosen)]

    return questions


def _one(teacher: "Teacher", messages: Messages, schema: Schema, sample: int) -> Question:
    request = teacher.requests(messages, schema=schema, samples=range(sample, sample + 1))[0]
    return Question(((teacher, request),))


def drawn(weights: Mapping[str, float], row_id: str, sample: int) -> str:
    """Return the name that a hash of row id and sample draws."""
    mark = hashlib.sha256(f"teacher\0{row_id}\0{sample}".encode()).digest()[:8]
    point = int.from_bytes(mark, "big") / 2**64 * sum(weights.values())
    *others, last = weights
    for name in others:
        point -= weights[name]
        if point < 0:
            return name
    return last


def stored(question: Question, *, prefer_first: bool = False) -> Answer | None:
    """Return the stored answer of the first teacher that has one, None when somebody must be asked.

    With `prefer_first` only the first teacher's counts: it is asked on purpose, whatever others have answered.
    """
    for teacher, request in question.candidates[: 1 if prefer_first else None]:
        if reply := teacher.stored(request):
            return Answer(teacher, request, reply, question.ask)
    return None


def withdraw(question: Question) -> None:
    """Have a sample not asked for together with the others of its prompt, either."""
    for _, request in question.candidates:
        if (family := request.siblings) is not None:
            family.requests = tuple(each for each in family.requests if each.key != request.key)


async def ask(question: Question) -> Answer:
    """Ask the first teacher that is not out; go on to the next when it is down, out of quota, or fails for now.

    Raises what the last of them raises.
    """
    *earlier, (last, request) = question.candidates
    for teacher, its_request in earlier:
        if teacher.is_out:
            continue
        try:
            return Answer(teacher, its_request, await teacher.complete(its_request), question.ask)
        except (TeacherUnavailable, QuotaSpent, CredentialsError) as error:
            teacher.give_up(error)
        except RowFailed as failed:
            if failed.lasting or failed.is_waiting:  # nobody else is asked instead
                raise
    return Answer(last, request, await last.complete(request), question.ask)
