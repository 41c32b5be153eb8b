"""The step `bootstrap`: grows a pool of rows in rounds, each made from examples out of the pool (self-instruct).

Wang et al., Self-Instruct (2023), https://arxiv.org/abs/2212.10560: the loop of the paper, with a pool that stands
still during a round, so that a round is the same in whatever order its answers arrive.
"""

import contextlib
import hashlib
import math
import random
from collections.abc import AsyncGenerator, Callable, Sequence

from distillgen.errors import WAITING
from distillgen.rows import Failure, Outcome, Rejection, Row, SeedEnd
from distillgen.shapes import Outcomes, Step, Tally, is_stream
from distillgen.step_settings import BootstrapStep
from distillgen.steps.text import text_of

EXAMPLES = "examples"  # the column that a draw starts with


class Bootstrap:
    """A step with a road of its own: `inner` are the steps of a round."""

    def __init__(self, name: str, settings: BootstrapStep, inner: Sequence[Step]) -> None:
        self.name, self.settings, self.inner = name, settings, inner

    async def grow(self, outcomes: Outcomes, go: Callable[[Outcomes], Outcomes], tally: Tally) -> Outcomes:
        """Yield the incoming rows, then what each round makes, as long as there is room and every draw is decided.

        A round whose answers are not all there is the last one of this run: the next would draw from another pool
        once they are. Rows beyond `rows` are rejected, not given up: their answers are paid for.
        """
        pool: list[Row] = []
        marks_ends = False
        async with contextlib.aclosing(outcomes):
            async for outcome in outcomes:
                marks_ends = marks_ends or isinstance(outcome, SeedEnd)
                if isinstance(outcome, Row):
                    pool.append(outcome)
                    tally(self.name, (outcome,) if self.settings.keep_seeds else (), 1)
                if self.settings.keep_seeds or not isinstance(outcome, Row):
                    yield outcome
        self._prime(pool)
        incoming, drawn = len(pool), 0
        for number in range(self.settings.rounds if pool else 0):
            draws = self._draws(pool, incoming, number, drawn)
            drawn += len(draws)
            is_decided = True
            async with contextlib.aclosing(go(_listed(draws, marks_ends))) as made:
                async for outcome in made:
                    if isinstance(outcome, Row):
                        outcome = self._take_in(outcome, pool, incoming)
                        tally(self.name, (outcome,), 0)
                    if isinstance(outcome, Failure):
                        is_decided = is_decided and outcome.lasting and outcome.cause not in WAITING
                    yield outcome
            if not is_decided or not self._missing(len(pool) - incoming):
                return

    def _take_in(self, row: Row, pool: list[Row], incoming: int) -> Row | Rejection:
        """Put a new row into the pool, unless that has all it needs."""
        if not self._missing(len(pool) - incoming):
            return Rejection(row, self.name, "enough", f"{self.settings.rows} rows were made before it")
        row = row._replace(columns={name: value for name, value in row.columns.items() if name != EXAMPLES})
        pool.append(row)
        return row

    def _missing(self, made: int) -> float:
        """Return how many rows are still wanted."""
        return math.inf if self.settings.rows is None else max(self.settings.rows - made, 0)

    def _prime(self, pool: Sequence[Row]) -> None:
        """Show the incoming rows to the inner stream steps, so that what is made is compared with them too."""
        for step in self.inner:
            if is_stream(step):
                for start in range(0, len(pool), step.block_rows):
                    step(pool[start : start + step.block_rows])

    def _draws(self, pool: Sequence[Row], incoming: int, number: int, drawn: int) -> list[Row]:
        """Return the rows that set out in a round: each shows other examples, drawn by a hash of round and index.

        They are no more than are likely to be needed, going by what came of the `drawn` ones before.
        """
        made = len(pool) - incoming
        likely = self._missing(made) * drawn / made if made else math.inf
        rows = []
        for index in range(max(math.ceil(min(likely, self.settings.draws)), 1)):
            name = f"{self.name}-{number + 1}-{index + 1}"
            shown = self._drawn(pool, incoming, name)
            record = {"step": self.name, "round": number + 1, "draw": index + 1, "examples": [row.id for row in shown]}
            texts = [text_of(row, self.settings.show) for row in shown]
            rows.append(Row(name, name, None, {EXAMPLES: texts}, (record,)))
        return rows

    def _drawn(self, pool: Sequence[Row], incoming: int, name: str) -> list[Row]:
        """Return different rows of the pool, `from_seeds` of them at least from those that came in."""
        chance = random.Random(hashlib.sha256(name.encode()).digest())
        wanted = min(self.settings.examples, len(pool))
        seeds = chance.sample(range(incoming), min(self.settings.from_seeds, incoming, wanted))
        others = [each for each in chance.sample(range(len(pool)), wanted) if each not in seeds]
        chosen = seeds + others[: wanted - len(seeds)]
        chance.shuffle(chosen)
        return [pool[each] for each in chosen]


async def _listed(rows: Sequence[Row], marks_ends: bool) -> AsyncGenerator[Outcome, None]:
    for row in rows:
        yield row
        if marks_ends:
            yield SeedEnd(row.origin, is_made=True)
