"""What a step is: the shapes that the road knows. A step has one of them, and nothing else is asked of it."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Protocol, TypeAlias, TypeGuard

from distillgen.errors import RowFailed
from distillgen.rows import Outcome, Row
from distillgen.teacher.several import Answer, Question

Outcomes: TypeAlias = AsyncGenerator[Outcome, None]
Tally: TypeAlias = Callable[[str, Sequence[Outcome], int], None]  # hears of a step, what it made, and of how many rows


class _Named(Protocol):
    @property
    def name(self) -> str:
        """How the step is called in provenance, rejections and the funnel."""


class RowStep(_Named, Protocol):
    """A plain function from a row to what becomes of it."""

    def __call__(self, row: Row) -> Sequence[Outcome]:
        """Return the row changed, several rows, or a rejection."""


class PureStep(RowStep, Protocol):
    """A row step without memory, which `pickle` can send to another process: what it says depends on the row alone."""

    is_pure: bool


class SlowStep(_Named, Protocol):
    """A row step that waits for something else than a teacher: a program that runs, say."""

    async def work(self, row: Row) -> Sequence[Outcome]:
        """Return the row changed, several rows, or a rejection."""


class Inquiry(_Named, Protocol):
    """The part of a row step that needs a teacher: it says what to ask; the road does the asking."""

    def questions(self, row: Row) -> Sequence[Question]:
        """Return the questions about a row. Raises RowFailed when the row does not fit the prompt."""

    def stored(self, question: Question) -> Answer | None:
        """Return the stored answer, None when a teacher must be asked."""

    async def ask(self, question: Question) -> Answer:
        """Return a teacher's answer. Raises RowFailed, or the error that stops the run."""

    def ask_again(self, question: Question, answer: Answer) -> Question | None:
        """Return what to ask after an answer that is of no use as it is, None when it will do or is the last."""


class AskingStep(Inquiry, Protocol):
    """A row step in which each answer makes a row: `generate`."""

    def row_of(self, row: Row, sample: int) -> Row:
        """Return the row that a sample of another makes, before it has an answer."""

    def rows(self, row: Row, sample: int, answer: Answer) -> Iterable[Outcome]:
        """Return what becomes of a row with the answer to one of its questions."""


class JoiningStep(Inquiry, Protocol):
    """A row step that needs all answers about a row at once: `judge`."""

    def joined(self, row: Row, answers: Sequence[Answer | RowFailed]) -> Sequence[Outcome]:
        """Return what becomes of a row with all answers, in the order of its questions."""


class StreamStep(_Named, Protocol):
    """A step that sees rows in seed order and remembers some of them. How they are cut into blocks changes nothing."""

    block_rows: int  # most rows of a block

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Return what becomes of each of the rows."""


class GroupStep(_Named, Protocol):
    """A step that sees together all that was made from one row."""

    is_group: bool

    def __call__(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Return what becomes of the rows among the outcomes; rejected and failed ones are there to be looked at."""


class RoundsStep(_Named, Protocol):
    """A step that takes rows of its own making down a road of its own, round by round: `bootstrap`."""

    inner: "Sequence[Step]"

    def grow(self, outcomes: Outcomes, go: Callable[[Outcomes], Outcomes], tally: "Tally") -> Outcomes:
        """Return what becomes of the rows, and of those it makes; `go` takes these through the inner steps."""


Step: TypeAlias = RowStep | SlowStep | AskingStep | JoiningStep | StreamStep | GroupStep | RoundsStep


def is_asking(step: Step) -> TypeGuard[AskingStep]:
    """Whether each answer of a teacher makes a row."""
    return hasattr(step, "questions") and not is_joining(step)


def is_joining(step: Step) -> TypeGuard[JoiningStep]:
    """Whether a row needs several answers of teachers at once."""
    return hasattr(step, "joined")


def is_pure(step: Step) -> TypeGuard[PureStep]:
    """Whether a step may be applied in any process."""
    return getattr(step, "is_pure", False)


def is_slow(step: Step) -> TypeGuard[SlowStep]:
    """Whether a row must be waited for, though no teacher is asked."""
    return hasattr(step, "work")


def is_stream(step: Step) -> TypeGuard[StreamStep]:
    """Whether a step must see rows in order."""
    return hasattr(step, "block_rows")


def is_group(step: Step) -> TypeGuard[GroupStep]:
    """Whether a step must see together what was made from one row."""
    return hasattr(step, "is_group")


def is_rounds(step: Step) -> TypeGuard[RoundsStep]:
    """Whether a step has a road of its own."""
    return hasattr(step, "grow")


async def close(steps: Iterable[Step]) -> None:
    """Let go of what steps hold: programs that wait for more, files on the spool."""
    for step in steps:
        if is_rounds(step):
            await close(step.inner)
        elif hasattr(step, "aclose"):
            await step.aclose()
        elif hasattr(step, "close"):
            step.close()
