"""Budgets: never overshot in any order of events; who waits, who stops, and what an attempt of unknown outcome costs."""

import asyncio
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgen.errors import DistillgenError, QuotaSpent, RowFailed, UsageError
from distillgen.teacher.asking import Fault, Reply, Request
from distillgen.teacher.budget import Budget, Budgeted, Outgoing, Purse, reserve_all
from distillgen.teacher.retries import Retrying

MONEY = st.decimals(0, 10, places=4)
SHARES = st.sampled_from([Decimal(0), Decimal("0.1"), Decimal("0.5"), Decimal(1), None])  # None: unknown


@given(limits=st.lists(MONEY, min_size=1, max_size=3), before=MONEY, events=st.lists(st.tuples(MONEY, SHARES, st.integers(0, 9))))  # fmt: skip
def test_budgets_are_never_overshot(
    limits: list[Decimal], before: Decimal, events: list[tuple[Decimal, Decimal | None, int]]
) -> None:
    budgets = [Budget(limit + before, before) for limit in limits]
    reserved: list[Decimal] = []
    spent = Decimal(0)
    for worst, share, which in events:
        fits = all(spent + sum(reserved) + worst <= limit for limit in limits)
        assert reserve_all(budgets, worst) is fits
        reserved += [worst] * fits
        if reserved and which % 2:
            settled = reserved.pop(which % len(reserved))
            for budget in budgets:
                budget.settle_unknown(settled) if share is None else budget.settle(settled, settled * share)
            spent += settled * (1 if share is None else share)
        for budget, limit in zip(budgets, limits, strict=True):
            assert budget.spent == before + spent and budget.reserved == sum(reserved)
            assert budget.left == limit - spent - sum(reserved) >= 0


def test_a_budget_tells_whether_it_is_spent() -> None:
    budget = Budget(1.0)
    assert budget.reserve(Decimal("0.6")) and not budget.reserve(Decimal("0.5")) and not budget.is_spent
    budget.settle(Decimal("0.6"), Decimal("0.4"))
    assert not budget.is_spent and budget.left == Decimal("0.6")
    assert budget.reserve(Decimal("0.5"))
    budget.settle_unknown(Decimal("0.5"))
    assert budget.is_spent and not budget.reserve(Decimal("0.5")) and budget.reserve(Decimal("0.1"))


def test_sums_of_money_are_exact() -> None:
    budget = Budget(0.3)
    for _ in range(3):
        assert budget.reserve(Decimal("0.1"))
        budget.settle_unknown(Decimal("0.1"))
    assert budget.left == 0 and str(budget.spent) == "0.3"


def test_no_limit_counts_all_the_same() -> None:
    budget = Budget(None)
    assert budget.reserve(Decimal(10**9)) and budget.left is None and not budget.is_spent
    budget.settle(Decimal(10**9), Decimal(7))
    assert (budget.spent, budget.reserved) == (7, 0)


def test_a_cost_above_the_worst_case_is_counted_whole() -> None:
    budget = Budget(1.0)
    budget.reserve(Decimal("0.1"))
    budget.settle(Decimal("0.1"), Decimal(3))
    assert budget.spent == 3 and budget.left == -2 and not budget.reserve(Decimal("0.0001"))


def test_all_budgets_or_none() -> None:
    run, total = Budget(1.0), Budget(0.5, name="budget.usd_total")
    assert not reserve_all([run, total], Decimal("0.6")) and run.reserved == total.reserved == 0
    assert reserve_all([run, total], Decimal("0.5")) and run.reserved == total.reserved == Decimal("0.5")


async def settle_tasks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


@given(
    limit=MONEY,
    events=st.lists(st.tuples(st.sampled_from(["take", "settle", "cancel"]), MONEY, SHARES, st.integers(0, 99))),
)
def test_a_purse_serves_in_order_and_forgets_nobody(limit: Decimal, events: list[Any]) -> None:
    async def main() -> None:
        budget = Budget(limit)
        purse = Purse([budget])
        asked: list[tuple[Decimal, asyncio.Task[None]]] = []
        served: list[int] = []
        held: dict[int, Decimal] = {}

        async def take(number: int, worst: Decimal) -> None:
            try:
                await purse.take(worst)
            except QuotaSpent:
                assert not budget.reserved, "something might have come back"
                raise
            served.append(number)
            held[number] = worst

        async def check() -> None:
            await settle_tasks()
            assert served == sorted(served)
            assert budget.reserved == sum(held.values()) and budget.spent + budget.reserved <= limit
            assert budget.reserved or all(task.done() for _, task in asked), "somebody waits for nothing"

        for what, worst, share, which in events:
            if what == "take":
                asked.append((worst, asyncio.create_task(take(len(asked), worst))))
            elif what == "settle" and held:
                number = sorted(held)[which % len(held)]
                worst = held.pop(number)
                purse.settle(worst, None if share is None else worst * share)
            elif what == "cancel" and asked:
                asked[which % len(asked)][1].cancel()
            await check()
        while held:
            purse.settle(held.pop(min(held)), Decimal(0))
            await check()
        ends = await asyncio.gather(*(task for _, task in asked), return_exceptions=True)
        assert all(end is None or isinstance(end, QuotaSpent | asyncio.CancelledError) for end in ends), ends

    run(main)


def request(name: str = "k", attempt: int = 1) -> Request:
    return Request(name.encode().ljust(32), {"messages": []}, attempt)


class Scripted:
    """Answers with the next line of a script: a reply's cost in dollars, an exception, or a wait for `go`."""

    def __init__(self, *script: Any) -> None:
        self.script, self.sent, self.go = list(script), 0, asyncio.Event()

    async def complete(self, request: Request) -> Reply:
        self.sent += 1
        line = self.script.pop(0) if self.script else "0"
        if isinstance(line, BaseException):
            raise line
        if line == "wait":
            await self.go.wait()
            line = "0"
        return Reply(str(line).encode())


def cost(request: Request, reply: Reply) -> Decimal | None:
    return None if reply.raw == b"?" else Decimal(reply.raw.decode())


def layers(chat: Scripted, *budgets: Budget, worst: str | None = "1") -> Budgeted:
    outgoing = Outgoing(chat)
    price = None if worst is None else Decimal(worst)
    return Budgeted(outgoing, Purse(budgets), outgoing, worst=lambda _: price, cost=cost)


UNKNOWN, REFUSED = Fault("timeout", "no reply"), Fault("status", "busy", status=503)


@pytest.mark.parametrize(
    ("outcome", "spent"),
    [
        pytest.param("0.25", "0.25", id="reply"),
        pytest.param("?", "1", id="reply of unknown cost"),
        pytest.param(UNKNOWN, "1", id="no reply"),
        pytest.param(Fault("malformed", "half a reply"), "1", id="half a reply"),
        pytest.param(REFUSED, "0", id="refused"),
        pytest.param(Fault("connect", "no way"), "0", id="not connected"),
        pytest.param(OSError("disk"), "1", id="lost after sending"),
        pytest.param(asyncio.CancelledError(), "1", id="cancelled after sending"),
    ],
)
def test_what_an_outcome_costs(outcome: Any, spent: str) -> None:
    async def main() -> None:
        run_budget, total = Budget(5.0), Budget(9.0, Decimal(3))
        asked = layers(Scripted(outcome), run_budget, total).complete(request())
        if isinstance(outcome, str):
            await asked
        else:
            with pytest.raises(type(outcome)):
                await asked
        assert (run_budget.spent, total.spent) == (Decimal(spent), 3 + Decimal(spent))
        assert run_budget.reserved == total.reserved == 0

    run(main)


class Closed:
    """A layer in between that no longer lets anything through."""

    async def complete(self, request: Request) -> Reply:
        raise RowFailed("not_sent", "the run is ending", lasting=False)


def test_what_was_not_sent_costs_nothing() -> None:
    async def main() -> None:
        budget = Budget(5.0)
        layer = Budgeted(Closed(), Purse([budget]), Outgoing(Scripted()), worst=lambda _: Decimal(1), cost=cost)
        with pytest.raises(RowFailed, match="not_sent"):
            await layer.complete(request())
        assert (budget.spent, budget.reserved) == (0, 0)

    run(main)


async def no_sleep(seconds: float) -> None:
    pass


def test_every_attempt_is_paid_for() -> None:
    async def main() -> None:
        budget = Budget(5.0)
        chat = Scripted(UNKNOWN, REFUSED, "0.5")
        retrying = Retrying(layers(chat, budget), teacher="t", model="m", sleep=no_sleep)
        assert (await retrying.complete(request())).raw == b"0.5"
        assert chat.sent == 3 and budget.spent == Decimal("1.5") and budget.reserved == 0

    run(main)


def test_a_retry_that_cannot_be_paid_stops_the_run() -> None:
    async def main() -> None:
        budget = Budget(1.5)
        chat = Scripted(UNKNOWN, "0.5")
        with pytest.raises(QuotaSpent, match=r"budget.usd = 1.5 is used up: \$1.000000 is spent, and one more request"):
            await Retrying(layers(chat, budget), teacher="t", model="m", sleep=no_sleep).complete(request())
        assert chat.sent == 1 and budget.spent == 1 and budget.is_spent

    run(main)


def test_who_does_not_fit_waits_for_what_may_come_back() -> None:
    async def main() -> None:
        budget, chat = Budget(1.2), Scripted("wait", "0.1", "0.1")
        layer = layers(chat, budget)
        tasks = [asyncio.create_task(layer.complete(request(name))) for name in "abc"]
        await settle_tasks()
        assert chat.sent == 1 and budget.reserved == 1
        chat.go.set()
        await asyncio.gather(*tasks)
        assert chat.sent == 3 and budget.spent == Decimal("0.2")

    run(main)


def test_when_nothing_can_come_back_everybody_is_told() -> None:
    async def main() -> None:
        budget, chat = Budget(1.5), Scripted("1", "1")
        layer = layers(chat, budget)
        tasks = [asyncio.create_task(layer.complete(request(name))) for name in "abcd"]
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(ends[0], Reply) and all(isinstance(end, QuotaSpent) for end in ends[1:])
        assert chat.sent == 1 and budget.is_spent
        with pytest.raises(QuotaSpent, match="every answer so far is kept"):
            await layer.complete(request())

    run(main)


class OwnStop(DistillgenError):
    """A stop of the caller's."""


def test_money_moves_between_teachers_and_the_error_names_the_budget() -> None:
    async def main() -> None:
        purse = Purse([Budget(None), Budget(1.0, name="budget.usd_total")], stop=OwnStop)
        slow, quick = Scripted("wait"), Scripted()
        first, second = (
            Budgeted(out, purse, out, worst=lambda _: Decimal("0.8"), cost=cost) for out in map(Outgoing, (slow, quick))
        )
        tasks = [asyncio.create_task(layer.complete(request())) for layer in (first, second)]
        await settle_tasks()
        assert (slow.sent, quick.sent) == (1, 0)
        slow.go.set()
        await asyncio.gather(*tasks)
        assert quick.sent == 1
        with pytest.raises(OwnStop, match="budget.usd_total = 1.0 does not pay for one request"):
            await purse.take(Decimal(2))

    run(main)


def test_whoever_gives_up_waiting_holds_nothing() -> None:
    async def main() -> None:
        budget = Budget(1.0)
        purse = Purse([budget])
        await purse.take(Decimal("0.6"))
        large, small = (asyncio.create_task(purse.take(Decimal(worst))) for worst in ("0.9", "0.3"))
        await settle_tasks()
        assert not small.done()  # in order
        large.cancel()
        await settle_tasks()
        assert small.done() and budget.reserved == Decimal("0.9")
        granted = asyncio.create_task(purse.take(Decimal("0.5")))
        await settle_tasks()
        purse.settle(Decimal("0.6"), Decimal(0))  # the turn is given ...
        granted.cancel()  # ... and nobody is there to take it
        await settle_tasks()
        assert granted.cancelled() and budget.reserved == Decimal("0.3")

    run(main)


def test_a_request_without_a_bound_is_not_sent() -> None:
    async def main() -> None:
        chat = Scripted()
        with pytest.raises(UsageError, match="nothing bounds"):
            await layers(chat, Budget(1.0), worst=None).complete(request())
        assert chat.sent == 0

    run(main)
