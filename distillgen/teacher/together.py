"""Several samples of one prompt in one call, where the provider takes `n`; each is stored under a key of its own."""

import asyncio
from collections.abc import Mapping, Sequence

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
        replies = await asyncio.shield(family.asked)
        return replies[request.key] if request.key in replies else await self._inner.complete(request)

    async def _ask(self, requests: Sequence[Request]) -> Mapping[bytes, Reply]:
        missing = [request for request in requests if self._store.get(request.key) is None]
        first = missing[0]
        if len(missing) == 1:
            return {first.key: await self._inner.complete(first)}
        keys = tuple(request.key for request in missing)
        reply = await self._inner.complete(Request(first.key, {**first.body, "n": len(keys)}, parts=keys))
        return dict(zip(keys, reply.parts, strict=True))
