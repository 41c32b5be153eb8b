"""The two layers around the answer store: `Committed` keeps a reply before it is used, `Stored` serves what is kept."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from distillgen.errors import DistillgenError, RowFailed
from distillgen.teacher.answers import Account, Charge
from distillgen.teacher.asking import Asks, Fault, Reply, Request
from distillgen.teacher.replies import NOTHING, Malformed


class KeepsAnswers(Protocol):
    """What a layer needs of a store."""

    @property
    def failure(self) -> DistillgenError | None:
        """Why replies can no longer be stored, None when they can."""

    def get(self, key: bytes) -> bytes | None:
        """Return the stored reply or None."""

    def set_aside(self, key: bytes) -> None:
        """Serve a stored reply no more."""

    async def put(self, key: bytes, reply: Reply, account: Account, charge: Charge) -> None:
        """Store a reply with what it cost; returns when it is safe."""


class Notes(Protocol):
    """What a layer needs to note what was sent: see sent.SentNotes."""

    def sent(self, key: bytes, nanousd: int | None) -> None:
        """Note that a request is about to be sent, with its worst cost."""

    def decided(self, key: bytes) -> None:
        """Note that its outcome is known."""


class Prices(Protocol):
    """What a layer needs to know of costs, in billionths of a dollar; None when no price is known."""

    def worst(self, request: Request) -> int | None:
        """Return the most that a request can cost."""

    def real(self, request: Request, reply: Reply) -> int | None:
        """Return what a reply cost."""


class Committed:
    """Notes each request before it is sent, and commits every decided reply before it passes it on."""

    def __init__(self, inner: Asks, store: KeepsAnswers, notes: Notes, prices: Prices, account: Account) -> None:
        self._inner, self._store, self._notes = inner, store, notes
        self._prices, self._account = prices, account
        self.calls = 0
        self.usage = NOTHING
        self.nanousd = 0
        self.unpriced = 0

    async def complete(self, request: Request) -> Reply:
        """Return the reply once it is on disk. Sends nothing more once a reply could not be stored."""
        if self._store.failure is not None:
            raise self._store.failure.with_traceback(None)  # raised to many: it must not grow
        self._notes.sent(request.key, self._prices.worst(request))
        try:
            reply = await self._inner.complete(request)
        except Fault as fault:
            if not fault.is_unknown:
                self._notes.decided(request.key)
            raise
        if reply.parts:
            kept = zip(request.parts, reply.parts, strict=True)
            # Shielded: whoever is given up at this moment has paid for all of them.
            await asyncio.shield(asyncio.gather(*(self.keep(key, request, part) for key, part in kept)))
        else:
            await self.keep(request.key, request, reply)
        self._notes.decided(request.key)
        return reply

    async def keep(self, key: bytes, request: Request, reply: Reply) -> None:
        """Commit one reply, and count what it cost."""
        charge = Charge(reply.completion.usage or NOTHING, self._prices.real(request, reply))
        await self._store.put(key, reply, self._account, charge)
        self.calls += 1
        self.usage += charge.usage
        self.nanousd += charge.nanousd or 0
        self.unpriced += charge.nanousd is None


@dataclass
class Missing:
    """What a build without calls would have had to ask for: different requests, their bytes, and their longest replies.

    `unlimited` counts those that set no `max_tokens`.
    """

    keys: set[bytes] = field(default_factory=set)
    prompt_bytes: int = 0
    max_tokens: int = 0
    unlimited: int = 0

    def add(self, request: Request) -> None:
        """Count a request, once."""
        if request.key in self.keys:
            return
        self.keys.add(request.key)
        self.prompt_bytes += request.prompt_bytes
        self.max_tokens += request.max_tokens or 0
        self.unlimited += request.max_tokens is None


class Stored:
    """Serves stored answers, and asks for the others once, however many rows want them.

    Offline it asks for nothing: what is `missing` is counted. `failed` remembers what could not be had in this run.
    """

    def __init__(self, inner: Asks, store: KeepsAnswers, *, offline: bool = False) -> None:
        self._inner, self._store = inner, store
        self.offline = offline
        self._asking: dict[bytes, asyncio.Future[Reply]] = {}
        self.missing = Missing()
        self.failed: dict[bytes, RowFailed] = {}

    def stored(self, request: Request) -> Reply | None:
        """Return the stored reply, None when the teacher must be asked."""
        raw = self._store.get(request.key)
        if raw is None:
            return None
        reply = Reply(raw)
        try:
            reply.completion  # noqa: B018  (read, to see whether it can be)
        except Malformed:  # an earlier distillgen took it for one
            self._store.set_aside(request.key)
            return None
        return reply

    async def complete(self, request: Request) -> Reply:
        """Return the stored reply or a new one."""
        if found := self.stored(request):
            return found
        if self.offline:
            if failed := self.failed.get(request.key):
                raise failed.anew()
            self.missing.add(request)
            raise RowFailed("not_stored", "no stored answer, and the build is offline", lasting=False)
        while (asked := self._asking.get(request.key)) is not None:
            await asyncio.wait([asked])
            if not asked.cancelled():
                return asked.result()
            if found := self.stored(request):  # the row that asked was given up; its answer may have come all the same
                return found
        asked = self._asking[request.key] = asyncio.get_running_loop().create_future()
        try:
            reply = await self._inner.complete(request)
        except asyncio.CancelledError:
            asked.cancel()
            raise
        except BaseException as error:
            asked.set_exception(error)
            asked.exception()  # those who wait for it have it; nobody else needs to hear of it
            if isinstance(error, RowFailed) and not error.is_waiting:
                self.failed[request.key] = error.anew()
            raise
        finally:
            del self._asking[request.key]
        asked.set_result(reply)
        return reply
