"""Counts what happens on the road: rows by step, calls and tokens; the figures of progress, funnel and summary."""

import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distillgen.files import utc
from distillgen.rows import Failure, Outcome, Rejection

if TYPE_CHECKING:
    from distillgen.teacher import Teacher
    from distillgen.teacher.limits import Pool

SAMPLES = 3
MEASURED = {"agreement", "score"}  # the figures on a row's trail whose mean is of interest


@dataclass
class StepCount:
    """What one step did. rows in + born = rows out + rejected + failed + merged."""

    rows_in: int = 0
    born: int = 0
    merged: int = 0
    out: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


@dataclass
class Tally:
    """The figures of one run."""

    seeds: int = 0
    settled: int = 0  # seeds of which everything has passed, where that is marked
    known: int = 0  # seeds read whose rows an earlier version has: they take no step
    wanted: int | None = None  # rows at which asking stops, those of earlier versions not counted
    skipped_seeds: int = 0
    published: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    steps: dict[str, StepCount] = field(default_factory=dict)
    road: dict[str, StepCount] = field(default_factory=dict)  # the same, in the order in which seeds reached them
    causes: Counter[str] = field(default_factory=Counter)
    passing_failures: int = 0
    last_failure: str = ""
    samples: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, list[float]] = field(default_factory=dict)  # of published rows: [sum, number] of a figure
    answered: dict[str, Counter[str]] = field(default_factory=dict)  # teacher -> the models that answered for rows
    teachers: "dict[str, Teacher]" = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def step(self, name: str, results: Sequence[Outcome], rows_in: int = 1) -> None:
        """Count what a step made of a row, of none (a further sample of it is born there), or of a group of rows."""
        count = self.steps.get(name)
        if count is None:
            count = self.steps[name] = StepCount()
        if self.seeds and name not in self.road:  # before the first seed come rows of earlier versions, from any step
            self.road[name] = count
        count.rows_in += rows_in
        count.born += max(len(results) - rows_in, 0)
        count.merged += max(rows_in - len(results), 0)
        for result in results:
            if isinstance(result, Rejection):
                count.rejected[result.rule] += 1
            elif isinstance(result, Failure):
                count.failed[result.cause] += 1
                self.causes[result.cause] += 1
                self.passing_failures += not result.lasting
                self.last_failure = f"{result.cause}: {result.detail}"
            else:
                count.out += 1

    def begin_again(self) -> None:
        """Forget what was counted of rows, not of calls: they take the road once more, without a call."""
        fresh = Tally(teachers=self.teachers, started=self.started)
        vars(self).update(vars(fresh))

    def row_published(self, split: str, training: dict[str, Any], trail: Sequence[Mapping[str, Any]]) -> None:
        """Count a row that the student will see, with its scores, and keep the first few to show."""
        self.published += 1
        self.splits[split] += 1
        for record in trail:
            if model := record.get("model"):
                self.answered.setdefault(record["teacher"], Counter())[model] += 1
            for figure in MEASURED & record.keys():
                so_far = self.measured.setdefault(figure, [0.0, 0])
                so_far[0] += record[figure]
                so_far[1] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(training)

    def mean(self, figure: str) -> float | None:
        """Return the mean of `agreement` or `score` over the published rows that have it, None when none has."""
        total, number = self.measured.get(figure, (0.0, 0))
        return total / number if number else None

    @property
    def rejected(self) -> int:
        """How many rows were rejected, by all steps."""
        return sum(count.rejected.total() for count in self.steps.values())

    @property
    def failed(self) -> int:
        """How many rows failed, by all steps."""
        return self.causes.total()

    @property
    def seeds_passed(self) -> float:
        """How many seeds have come as far as the last step that any of them has reached; parts where rows multiply."""
        counts = list(self.road.values())
        passed = float(counts[0].rows_in) if counts else 0.0
        for before, after in itertools.pairwise(counts):
            if before.out > after.rows_in:
                passed *= after.rows_in / before.out
        return passed

    @property
    def calls(self) -> int:
        """How many completions were asked of teachers in this run."""
        return sum(teacher.calls for teacher in self.teachers.values())

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens of this run's calls."""
        prompt = sum(teacher.usage.prompt for teacher in self.teachers.values())
        return prompt, sum(teacher.usage.completion for teacher in self.teachers.values())

    @property
    def usd(self) -> float:
        """What this run's calls cost, in dollars, as far as their prices are known."""
        return sum(teacher.nanousd for teacher in self.teachers.values()) / 1e9

    @property
    def unpriced(self) -> int:
        """How many of this run's calls have a cost that is not known."""
        return sum(teacher.unpriced for teacher in self.teachers.values())

    @property
    def pools(self) -> "dict[Pool, list[Teacher]]":
        """The pools of limits, each with the teachers that share it."""
        pools: dict[Pool, list[Teacher]] = {}
        for teacher in self.teachers.values():
            pools.setdefault(teacher.pool, []).append(teacher)
        return pools

    @property
    def in_flight(self) -> int:
        """How many requests are under way right now."""
        return sum(pool.in_flight for pool in self.pools)

    def reasons(self) -> Mapping[str, int]:
        """Return why rows were left out, the commonest first."""
        total: Counter[str] = Counter()
        for count in self.steps.values():
            total += count.rejected + count.failed
        return dict(total.most_common())

    def why_empty(self) -> str:
        """Say what became of all the rows."""
        reasons = ", ".join(f"{name} {number:,}" for name, number in self.reasons().items())
        return f"of {self.seeds:,} seeds: {reasons}" + (
            f"\nlast failure: {self.last_failure}" if self.last_failure else ""
        )

    def funnel(self) -> list[dict[str, Any]]:
        """Return the figures of every step, as the manifest keeps them."""
        return [
            {
                "step": name,
                "in": c.rows_in,
                "born": c.born,
                "merged": c.merged,
                "out": c.out,
                "rejected": dict(c.rejected),
                "failed": dict(c.failed),
            }
            for name, c in self.steps.items()
        ]

    def run(self, *, finished: float) -> dict[str, Any]:
        """Return what describes the run and not the content."""
        seconds = time.monotonic() - self.started
        prompt, completion = self.tokens
        return {
            "finished": utc(finished),
            "seconds": round(seconds, 3),
            "calls": self.calls,
            "tokens": {"prompt": prompt, "completion": completion},
            "usd": round(self.usd, 9),
            "unpriced_calls": self.unpriced,
            "failed": dict(self.causes),
            "teachers": {name: self._asked(name, teacher) for name, teacher in self.teachers.items()},
        }

    def _asked(self, name: str, teacher: "Teacher") -> dict[str, Any]:
        """Return what a teacher did in this run, at which prices, and who answered for the published rows."""
        prices = teacher.meter.prices
        return {
            "calls": teacher.calls,
            "tokens": {"prompt": teacher.usage.prompt, "completion": teacher.usage.completion},
            "usd": round(teacher.nanousd / 1e9, 9),
            "unpriced_calls": teacher.unpriced,
            "prices": None if prices is None else prices.stated(),
            "answered_as": dict(self.answered.get(name, {})),
        }
