"""How much may be spent: the worst case of a request is reserved before it is sent, and settled once it is known."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal

from distillgen.errors import DistillgenError, QuotaSpent, UsageError
from distillgen.teacher.asking import Asks, Fault, Reply, Request

ZERO = Decimal(0)
PER_RUN = "budget.usd"  # the recipe's key
UNBOUNDED_FIX = "set `max_tokens` in the teacher's `sampling`, and its `prices` if the price list does not know it"


class Budget:
    """One limit in US dollars; `spent` and what is reserved never exceed it while nothing costs more than was reserved.

    `name` is the recipe's key, for the message that says it is used up.
    """

    def __init__(self, limit: Decimal | float | None, spent: Decimal = ZERO, *, name: str = PER_RUN) -> None:
        self.limit = None if limit is None else Decimal(str(limit))
        self.spent, self.reserved, self.name = spent, ZERO, name
        self._refused: Decimal | None = None

    @property
    def left(self) -> Decimal | None:
        """What is neither spent nor reserved, None without a limit."""
        return None if self.limit is None else self.limit - self.spent - self.reserved

    @property
    def is_spent(self) -> bool:
        """Whether what was refused last would not fit even if all that is reserved came back."""
        return self.limit is not None and self._refused is not None and self.spent + self._refused > self.limit

    def fits(self, worst: Decimal) -> bool:
        """Whether there is enough left."""
        return self.limit is None or self.spent + self.reserved + worst <= self.limit

    def reserve(self, worst: Decimal) -> bool:
        """Set money aside; False when there is not enough of it."""
        if not self.fits(worst):
            self._refused = worst
            return False
        self.reserved += worst
        return True

    def settle(self, worst: Decimal, real: Decimal) -> None:
        """Put what was really spent in the place of a reservation."""
        self.reserved -= worst
        self.spent += real

    def settle_unknown(self, worst: Decimal) -> None:
        """Count a reservation as spent, since nobody knows."""
        self.settle(worst, worst)


def reserve_all(budgets: Sequence[Budget], worst: Decimal) -> bool:
    """Set money aside in every budget, or in none."""
    for number, budget in enumerate(budgets):
        if not budget.reserve(worst):
            for earlier in budgets[:number]:
                earlier.settle(worst, ZERO)
            return False
    return True


class Purse:
    """The budgets of a run, shared by all of its teachers; money is given out in the order in which it is asked for.

    Who cannot have it waits as long as others hold some that may come back. When nobody does, the run is over.
    """

    def __init__(self, budgets: Sequence[Budget], *, stop: type[DistillgenError] = QuotaSpent) -> None:
        self._budgets, self._stop = tuple(budgets), stop
        self._waiting: deque[tuple[Decimal, asyncio.Future[bool]]] = deque()
        self._end: tuple[str, str] | None = None  # why nobody gets any more, and what to do

    async def take(self, worst: Decimal) -> None:
        """Reserve money, or wait for it. Raises the stop error when it is not to be had; then for everybody."""
        if not self._waiting and self._end is None and reserve_all(self._budgets, worst):
            return
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((worst, turn))
        self._give_out()
        try:
            has_money = await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.result():
                self.settle(worst, ZERO)
            else:
                self._give_out()  # whoever comes next may need less
            raise
        if not has_money:
            assert self._end is not None
            what, fix = self._end
            raise self._stop(what, fix=fix)

    def spend_now(self, worst: Decimal) -> bool:
        """Count money as spent at once, where nothing will come back in this run; False when there is not enough."""
        if self._waiting or self._end is not None or not reserve_all(self._budgets, worst):
            return False
        self.settle(worst, None)
        return True

    def count_in(self, usd: Decimal, name: str) -> None:
        """Count as spent in one of the budgets what earlier runs have under way."""
        for budget in self._budgets:
            if budget.name == name:
                budget.spent += usd

    def settle(self, worst: Decimal, real: Decimal | None) -> None:
        """Return a reservation less what was spent; None when nobody knows, which costs all of it."""
        for budget in self._budgets:
            budget.settle(worst, worst if real is None else real)
        if self._waiting:
            self._give_out()

    def _give_out(self) -> None:
        while self._waiting:
            worst, turn = self._waiting[0]
            if not turn.done():  # a done one was given up
                if self._end is None and not reserve_all(self._budgets, worst):
                    if any(budget.reserved for budget in self._budgets):
                        return
                    self._end = self._why(worst)
                turn.set_result(self._end is None)
            self._waiting.popleft()

    def _why(self, worst: Decimal) -> tuple[str, str]:
        short = next(budget for budget in self._budgets if not budget.fits(worst))
        what = f"{short.name} = {short.limit}"
        if not short.spent:
            what += f" does not pay for one request, which may cost ${worst:.6f}"
            return what, f"raise `{short.name}`, or lower `max_tokens`, whose price is reserved with every request"
        what += f" is used up: ${short.spent:.6f} is spent, and one more request may cost ${worst:.6f}"
        again = ", which may spend as much once more" if short.name == PER_RUN else f" with a larger `{short.name}`"
        return what, f"run the same command again{again}; every answer so far is kept"


class Outgoing:
    """Notes which requests may be billed: those that were sent and not refused. Sits right above the transport."""

    def __init__(self, inner: Asks) -> None:
        self._inner = inner
        self._billable: set[bytes] = set()

    async def complete(self, request: Request) -> Reply:
        """Ask. Raises what the transport raises."""
        self._billable.add(request.key)
        try:
            return await self._inner.complete(request)
        except Fault as fault:
            if not fault.is_unknown:
                self._billable.discard(request.key)
            raise

    def forget(self, request: Request) -> bool:
        """Return whether an attempt may be billed, and forget it."""
        if request.key not in self._billable:
            return False
        self._billable.discard(request.key)
        return True


class Budgeted:
    """Sends a request only when its worst case can be paid. Sits under the retries: every attempt is paid for.

    `worst` says what a request may cost, None when nothing bounds it; `cost` what a reply did cost, None when that is
    not certain.
    """

    def __init__(
        self,
        inner: Asks,
        purse: Purse,
        outgoing: Outgoing,
        *,
        worst: Callable[[Request], Decimal | None],
        cost: Callable[[Request, Reply], Decimal | None],
    ) -> None:
        self._inner, self._purse, self._outgoing = inner, purse, outgoing
        self._worst, self._cost = worst, cost

    async def complete(self, request: Request) -> Reply:
        """Ask when there is money. Raises what the inner layers raise, the stop error of the purse, or UsageError.

        What was never sent, or was refused, costs nothing; what may have been billed without a reply, its worst case.
        """
        worst = self._worst(request)
        if worst is None:
            raise UsageError("a request whose cost nothing bounds cannot be sent on a budget", fix=UNBOUNDED_FIX)
        await self._purse.take(worst)
        real: Decimal | None = None
        try:
            reply = await self._inner.complete(request)
            real = self._cost(request, reply)
            return reply
        finally:
            may_be_billed = self._outgoing.forget(request)
            self._purse.settle(worst, real if may_be_billed else ZERO)
