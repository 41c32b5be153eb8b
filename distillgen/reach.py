"""How far a run goes: to the seed that makes enough rows, or to the first seed of which something is not decided."""

import asyncio
import contextlib
import math

from distillgen.road import Outcomes
from distillgen.rows import Failure, Outcome, SeedEnd
from distillgen.tally import Tally


class LookAhead:
    """How far asking may run ahead of a target: as many seeds as the rows still wanted are likely to need.

    `wanted` is None when there is no target; then seeds are only counted.
    """

    def __init__(self, wanted: int | None, tally: Tally) -> None:
        self._wanted, self._tally = wanted, tally
        self._fed = 0
        self._settled = asyncio.Event()

    @property
    def is_reached(self) -> bool:
        """Whether there are enough rows, those whose answers come with a batch counted in."""
        return self._wanted is not None and self._made >= self._wanted

    @property
    def _made(self) -> int:
        causes = self._tally.causes
        return self._tally.published + causes["queued"] + causes["in_batch"]

    def settle(self) -> None:
        """Count a seed of which everything has passed."""
        self._tally.settled += 1
        self._settled.set()

    async def room(self) -> None:
        """Wait until one more seed may set out."""
        while self._wanted is not None and self._fed - self._tally.settled >= self._likely(self._wanted):
            self._settled.clear()
            await self._settled.wait()
        self._fed += 1

    def _likely(self, wanted: int) -> int:
        """Return how many seeds the rows that are still wanted are likely to need, going by those settled so far."""
        rows_a_seed = (self._made + 1) / (self._tally.settled + 1)
        return max(1, math.ceil((wanted - self._made) / rows_a_seed))


async def until_reached(outcomes: Outcomes, ahead: LookAhead) -> Outcomes:
    """Pass outcomes on up to the end of the seed that makes enough rows."""
    async with contextlib.aclosing(outcomes):
        async for outcome in outcomes:
            yield outcome
            if isinstance(outcome, SeedEnd):
                ahead.settle()
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
