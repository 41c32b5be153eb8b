"""A teacher, composed: stored answers -> samples together -> retries -> budget -> limits -> commit -> chat.

See `_Workshop.teacher`.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from distillgen.errors import BudgetSpent, DistillgenError
from distillgen.files import digest, room_for_files
from distillgen.recipe import Recipe, Source
from distillgen.settings import TeacherSettings
from distillgen.teacher import providers
from distillgen.teacher.answers import Account, AnswerStore
from distillgen.teacher.asking import Asks, Endpoint, Reply, Request
from distillgen.teacher.budget import Budget, Budgeted, Outgoing, Purse
from distillgen.teacher.cost import FREE, Meter
from distillgen.teacher.embedded import EmbeddedServer
from distillgen.teacher.identity import Identity, RequestMaker, identify, in_flight_cap, weights_of
from distillgen.teacher.keeping import Committed, Missing, Stored
from distillgen.teacher.limits import Limited, Pool
from distillgen.teacher.replies import TokenUsage
from distillgen.teacher.retries import Retrying
from distillgen.teacher.sent import SentNotes
from distillgen.teacher.sharing import Share
from distillgen.teacher.together import Together

if TYPE_CHECKING:
    from distillgen.teacher.batch import Batches

DRAIN_SECONDS = 10.0
SPARE_FILES = 64  # that a run opens besides its connections
Located: TypeAlias = Callable[[], Awaitable[Endpoint]]


class Teacher:
    """What the road asks: makes requests with their keys, serves stored replies, asks for the others."""

    def __init__(
        self, identity: Identity, settings: TeacherSettings, stored: Stored, pool: Pool, committed: Committed,
        meter: Meter,
    ) -> None:  # fmt: skip
        self.identity, self.settings, self.pool, self.meter = identity, settings, pool, meter
        self._stored, self._committed = stored, committed
        self._maker = RequestMaker(identity, settings)
        self.is_out: DistillgenError | None = None  # why it is asked no more in this run
        self.batches: Batches | None = None  # where it is asked in batches

    @property
    def notes(self) -> list[str]:
        """What somebody should know of this run, and nothing of it a reason to stop."""
        return [*self.pool.notes, *(self.batches.notes if self.batches is not None else ())]

    def give_up(self, why: DistillgenError) -> None:
        """Ask no more: the teacher is down or out of quota, and another one answers in its place."""
        if self.is_out is None:
            self.is_out = why
            self.pool.close(why)

    def go_offline(self) -> None:
        """Serve stored answers only from now on."""
        self._stored.offline = True

    @property
    def calls(self) -> int:
        """How many completions this run has asked for."""
        return self._committed.calls

    @property
    def usage(self) -> TokenUsage:
        """The tokens of this run's calls."""
        return self._committed.usage

    @property
    def nanousd(self) -> int:
        """What this run's calls cost, in billionths of a dollar, as far as their prices are known."""
        return self._committed.nanousd

    @property
    def unpriced(self) -> int:
        """How many of this run's calls have a cost that is not known."""
        return self._committed.unpriced

    @property
    def missing(self) -> Missing:
        """Offline: what would have to be asked for."""
        return self._stored.missing

    def requests(
        self, messages: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any] | None, samples: range
    ) -> list[Request]:
        """Return the requests for some samples of a prompt, with their keys."""
        return self._maker.make(messages, schema=schema, samples=samples)

    def request_again(self, request: Request, messages: Sequence[Mapping[str, Any]], *, ask: int) -> Request:
        """Return the request that asks once more, after a reply that was of no use."""
        return self._maker.again(request, messages, ask=ask)

    def stored(self, request: Request) -> Reply | None:
        """Return the stored reply to a request, None when it must be asked for."""
        return self._stored.stored(request)

    async def complete(self, request: Request) -> Reply:
        """Return a reply that is committed to disk. Raises RowFailed, or the error that stops the run."""
        return await self._stored.complete(request)


async def drain(teachers: Iterable[Teacher]) -> None:
    """Send nothing more; wait at most ten seconds until what is under way is received and stored."""
    pools = {teacher.pool for teacher in teachers}
    for pool in pools:
        pool.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            await asyncio.gather(*(pool.emptied() for pool in pools))


@contextlib.asynccontextmanager
async def open_teachers(
    recipe: Recipe, source: Source, used: set[str], store: AnswerStore, *, state: Path, offline: bool = False
) -> AsyncIterator[dict[str, Teacher]]:
    """Yield the teachers of a recipe by name."""
    async with contextlib.AsyncExitStack() as stack:
        workshop = _Workshop(recipe, source.folder, store, state, offline, stack)
        yield {name: await workshop.teacher(name) for name in sorted(used)}


class _Workshop:
    """Puts the teachers of a run together, and what they share: pools of limits, and the notes of what is sent."""

    def __init__(
        self, recipe: Recipe, folder: Path, store: AnswerStore, state: Path, offline: bool,
        stack: contextlib.AsyncExitStack,
    ) -> None:  # fmt: skip
        self._recipe, self._folder, self._store, self._state = recipe, folder, store, state
        self._offline, self._stack = offline, stack
        self._notes = SentNotes(state, recipe.name)
        self._pools: dict[str, Pool] = {}
        self._purse = purse_of(recipe, store)
        stack.callback(self._notes.close)

    async def teacher(self, name: str) -> Teacher:
        """Put the layers together: a stored answer costs no turn, every retry waits for a turn again, and a turn lasts
        until the reply is on disk."""
        settings = self._recipe.teachers[name]
        identity = identify(name, settings, self._folder)
        where = await locate(name, settings, self._folder, self._state, self._stack, offline=self._offline)
        account = Account(self._notes.run, self._recipe.name, f"{identity.endpoint} {identity.model}")
        pool = self._pool(settings, identity)
        meter = Meter(settings)
        asks: Asks = OnDemand(settings, where, self._stack)
        if settings.mode == "batch" and not self._offline:
            committed = Committed(asks, self._store, self._notes, meter, account)
            return await self._in_batches(identity, settings, where, pool, committed, meter)
        # A teacher without a price is one whose unknown price the owner has allowed.
        is_paid = self._purse is not None and meter.prices is not None and meter.prices is not FREE
        outgoing = Outgoing(asks) if is_paid else None  # who notes what may be billed must be asked for it again
        committed = Committed(outgoing or asks, self._store, self._notes, meter, account)
        asks = Limited(committed, pool)
        if self._purse is not None and outgoing is not None:
            asks = Budgeted(asks, self._purse, outgoing, worst=meter.worst_case, cost=meter.charge)
        retrying = Retrying(asks, teacher=f"teacher {name!r}", model=identity.model, breaker=pool.breaker)
        stored = Stored(Together(retrying, self._store), self._store, offline=self._offline)
        return Teacher(identity, settings, stored, pool, committed, meter)

    async def _in_batches(
        self, identity: Identity, settings: TeacherSettings, where: Located, pool: Pool, committed: Committed,
        meter: Meter,
    ) -> Teacher:  # fmt: skip
        """Return a teacher that queues what is asked; answers are collected by a later run, stored as live ones are."""
        from distillgen.teacher.batch import Batched, Batches
        from distillgen.teacher.chat import open_openai

        client = await self._stack.enter_async_context(open_openai(await where(), max_connections=4))
        batches = Batches(
            self._state / "batches", client, teacher=f"teacher {identity.name!r}", endpoint=identity.endpoint,
            model=identity.model,
        )  # fmt: skip
        purse = self._purse

        def afford(request: Request) -> bool:
            worst = meter.worst_case(request)
            return purse is None or worst is None or purse.spend_now(worst)

        if purse is not None and (prices := meter.prices) is not None:
            longest = settings.sampling.get("max_tokens") or settings.sampling.get("max_completion_tokens") or 0
            for each in batches.pending:
                purse.count_in(prices.worst_case(each.bytes, longest * each.requests), "budget.usd_total")
        stored = Stored(Batched(batches, afford), self._store)
        teacher = Teacher(identity, settings, stored, pool, committed, meter)
        teacher.batches = batches

        async def put(key: bytes, raw: bytes) -> None:
            if self._store.get(key) is None:  # else a run that was cut off here has counted its cost
                await committed.keep(key, Request(key, {"messages": []}), Reply(raw))

        await batches.collect(put)
        return teacher

    def _pool(self, settings: TeacherSettings, identity: Identity) -> Pool:
        """Return the pool of an endpoint, model and key: several teachers of a recipe may be the same one."""
        if settings.provider == providers.EMBEDDED or self._offline:
            return Pool(in_flight_cap(settings), settings.limits, learns=False)
        key = providers.find_key(settings, self._folder) or ""
        secret = digest(providers.url_of(settings).encode(), identity.model.encode(), key.encode())
        cap = in_flight_cap(settings)
        room = room_for_files(cap + SPARE_FILES) - SPARE_FILES
        if secret not in self._pools:
            share = self._stack.enter_context(Share(secret[:32]))
            self._pools[secret] = Pool(cap, settings.limits, share=share)
        pool = self._pools[secret]
        pool.tighten(min(cap, max(room, 1)), settings.limits)
        if room < cap:
            pool.note(f"at most {pool.cap:,} requests in flight: no more files may be open (`ulimit -n`)")
        return pool


async def locate(
    name: str, settings: TeacherSettings, folder: Path, state: Path, stack: contextlib.AsyncExitStack,
    *, offline: bool = False,
) -> Located:  # fmt: skip
    """Return what says where a teacher is: a fixed address, or an embedded server that starts when first asked."""
    if settings.provider == providers.EMBEDDED and not offline:
        log = state / "logs" / f"embedded-{re.sub('[^A-Za-z0-9_-]', '-', name)}.log"
        server = await stack.enter_async_context(EmbeddedServer(weights_of(settings, folder), log))
        return server.endpoint
    url = "" if settings.provider == providers.EMBEDDED else providers.url_of(settings)
    fixed = Endpoint(url, None if offline else providers.find_key(settings, folder))

    async def endpoint() -> Endpoint:
        return fixed

    return endpoint


def purse_of(recipe: Recipe, store: AnswerStore) -> Purse | None:
    """Return the budgets of a run, what the dataset cost so far counted in; None when the recipe sets none."""
    budgets = []
    if recipe.budget.usd is not None:
        budgets.append(Budget(recipe.budget.usd))
    if recipe.budget.usd_total is not None:
        spent = store.spent(recipe.name)
        so_far = Decimal(spent.nanousd + spent.unknown_nanousd).scaleb(-9)
        budgets.append(Budget(recipe.budget.usd_total, so_far, name="budget.usd_total"))
    return Purse(budgets, stop=BudgetSpent) if budgets else None


class OnDemand:
    """The transport, loaded and opened with the first request: a build that asks nothing need not load it.

    The first request of a teacher goes alone (see Retrying), so there is no race to open it.
    """

    def __init__(self, settings: TeacherSettings, locate: Located, stack: contextlib.AsyncExitStack) -> None:
        self._settings, self._locate, self._stack = settings, locate, stack
        self._chat: Asks | None = None

    async def complete(self, request: Request) -> Reply:
        """Ask over the transport. Raises what it raises."""
        if self._chat is None:
            from distillgen.teacher.chat import Chat, open_transport

            url = (await self._locate()).url
            transport = open_transport(url, in_flight_cap(self._settings) + 8)
            self._stack.push_async_callback(transport.aclose)
            self._chat = Chat(transport, self._locate, timeout_seconds=self._settings.timeout_seconds)
        return await self._chat.complete(request)
