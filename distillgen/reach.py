"""How far a run goes: to the seed that makes enough rows, or to the first seed of which something is not decided."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence

from distillgen.rows import Failure, Outcome, Row, SeedEnd
from distillgen.shapes import Outcomes
from distillgen.tally import Tally

PRIOR = 16  # seeds that are taken to have made a row each before anything is known: two early refusals prove nothing


class LookAhead:
    """How far asking may run ahead of a target: as many seeds as the rows still wanted are likely to need.

    What the steps make of a seed is counted once all of it has passed, so that the figures of a version are those of
    its seeds, not of the ones that ran ahead. `wanted` is None when there is no target.
    """

    def __init__(self, wanted: int | None, tally: Tally) -> None:
        self._wanted, self._tally = wanted, tally
        self._fed = 0
        self._places: dict[str, int] = {}  # of the seeds that are not settled
        self._has_asked = self._is_over = False
        self._settled = asyncio.Event()
        self._counted: dict[str, list[tuple[str, Sequence[Outcome], int]]] = {}

    @property
    def is_reached(self) -> bool:
        """Whether there are enough rows, those whose answers come with a batch counted in."""
        return self._wanted is not None and self._made >= self._wanted

    @property
    def _made(self) -> int:
        causes = self._tally.causes
        return self._tally.published + causes["queued"] + causes["in_batch"]

    def step(self, name: str, results: Sequence[Outcome], rows_in: int = 1) -> None:
        """Hold what a step made of a row until its seed is settled: see Tally.step."""
        if not results:  # merged into others, which are held
            self._tally.step(name, results, rows_in)
            return
        self._counted.setdefault(origin_of(results[0]), []).append((name, results, rows_in))

    def settle(self, end: SeedEnd) -> None:
        """Count a seed of which everything has passed."""
        for held in self._counted.pop(end.origin, ()):
            self._tally.step(*held)
        self._tally.settled += not end.is_made
        self._places.pop(end.origin, None)
        self._is_over = self.is_reached
        self._settled.set()

    async def room(self, origin: str) -> None:
        """Wait until one more seed may set out."""
        await self._within(self._fed, self._likely)
        self._places[origin] = self._fed
        self._fed += 1

    async def leave(self, origin: str) -> None:
        """Wait until a teacher may be asked about a seed: first of all until stored answers alone are not enough."""
        if self._wanted is None:
            return
        place = self._places[origin]
        if not self._has_asked:
            await self._within(place, lambda wanted: 1)
        self._has_asked = True
        await self._within(place, self._likely)

    async def _within(self, place: int, reach: Callable[[int], int]) -> None:
        while self._wanted is not None and (self._is_over or place - self._tally.settled >= reach(self._wanted)):
            self._settled.clear()
            await self._settled.wait()

    def _likely(self, wanted: int) -> int:
        """Return how many seeds the rows that are still wanted are likely to need, going by those settled so far."""
        rows_a_seed = (self._made + PRIOR) / (self._tally.settled + PRIOR)
        return max(1, math.ceil((wanted - self._made) / rows_a_seed))


def origin_of(outcome: Outcome) -> str:
    """Return the id of the seed that an outcome came of."""
    if isinstance(outcome, SeedEnd | Row):
        return outcome.origin
    return outcome.row.origin


async def until_reached(outcomes: Outcomes, ahead: LookAhead) -> Outcomes:
    """Pass outcomes on up to the end of the seed that makes enough rows."""
    async with contextlib.aclosing(outcomes):
        async for outcome in outcomes:
            yield outcome
            if isinstance(outcome, SeedEnd):
                ahead.settle(outcome)
                if ahead.is_reached:
                    return


async def while_decided(outcomes: Outcomes) -> Outcomes:
    """Pass a seed's outcomes on once all of them are known; end before the first seed that lacks an answer."""
    held: list[Outcome] = []
    async with contextlib.aclosing(outcomes):
        async for outcome in outcomes:
            held.append(outcome)
            if not isinstance(outcome, SeedEnd):
                continue
            if any(isinstance(each, Failure) and each.cause == "not_stored" for each in held):
                return
            for each in held:
                yield each
            held = []
