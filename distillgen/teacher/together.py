"""Several samples of one prompt in one call, where the provider takes `n`; each is stored under a key of its own."""

import asyncio
from collections.abc import Sequence

from distillgen.teacher.asking import Asks, Reply, Request
from distillgen.teacher.keeping import KeepsAnswers


class Together:
    """The first sibling that must be asked asks for all that are not stored; the others wait for their part of it."""

    def __init__(self, inner: Asks, store: KeepsAnswers) -> None:
        self._inner, self._store = inner, store

    async def complete(self, request: Request) -> Reply:
        """Return the reply for this request's sample. Raises what the call for all of them raises."""
        family = request.siblings
        if family is None:
            return await self._inner.complete(request)
        if family.asked is None:
            family.asked = asyncio.ensure_future(self._ask(family.requests))
        family.waiting += 1
        try:
            replies = await asyncio.shield(family.asked)
        except asyncio.CancelledError:
            if family.waiting == 1 and not family.asked.done():  # nobody wants it any more
                family.asked.cancel()
                await asyncio.wait([family.asked])
                family.asked = None
            raise
        finally:
            family.waiting -= 1
        # Taken out: a family refers to itself, so what it holds would stay in memory until the next sweep.
        return replies.pop(request.key) if request.key in replies else await self._inner.complete(request)

    async def _ask(self, requests: Sequence[Request]) -> dict[bytes, Reply]:
        missing = [request for request in requests if self._store.get(request.key) is None]
        first = missing[0]
        if len(missing) == 1:
            return {first.key: await self._inner.complete(first)}
        keys = tuple(request.key for request in missing)
        reply = await self._inner.complete(Request(first.key, {**first.body, "n": len(keys)}, parts=keys))
        return dict(zip(keys, reply.parts, strict=True))
