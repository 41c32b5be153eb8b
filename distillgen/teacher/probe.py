"""Asks a teacher one small question, and says what came back: latency, model, tokens, cost, limits it states."""

import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillgen.errors import RequestsRefused, RowFailed, TeacherUnavailable
from distillgen.settings import TeacherSettings
from distillgen.teacher import locate, providers
from distillgen.teacher.asking import Fault
from distillgen.teacher.cost import Meter
from distillgen.teacher.identity import RequestMaker, identify
from distillgen.teacher.rate_headers import read_limits
from distillgen.teacher.verdicts import verdict, web_page

QUESTION = [{"role": "user", "content": "Reply with the one word: ready"}]
ENOUGH_TOKENS = 64  # a model that thinks uses more, and is cut off: that too shows that it answers


async def probe(name: str, settings: TeacherSettings, folder: Path, state: Path) -> dict[str, Any]:
    """Send one request and return what is known from its reply. Raises what a run would be stopped by."""
    from distillgen.teacher.chat import Chat, open_transport

    sampling = {"max_tokens": ENOUGH_TOKENS, **settings.sampling}
    settings = settings.model_copy(update={"sampling": sampling})
    identity = identify(name, settings, folder)
    request = RequestMaker(identity, settings).make(QUESTION, schema=None)[0]
    async with contextlib.AsyncExitStack() as stack:
        where = await locate(name, settings, folder, state, stack)
        endpoint = await where()
        transport = open_transport(endpoint.url, 2)
        stack.push_async_callback(transport.aclose)
        try:
            reply = await Chat(transport, where, timeout_seconds=settings.timeout_seconds).complete(request)
        except Fault as fault:
            meant = verdict(fault, f"teacher {name!r}", identity.model)
            if isinstance(meant, RowFailed):
                raise RequestsRefused(f"teacher {name!r} refuses the request: {fault}") from None
            page = web_page(fault, f"teacher {name!r}")
            raise meant or page or TeacherUnavailable(f"teacher {name!r} does not answer: {fault}") from None
    completion, meter = reply.completion, Meter(settings)
    cost = meter.cost(request, reply)
    return {
        "teacher": name,
        "address": endpoint.url,
        "asked_model": identity.model,
        "model": completion.model or None,
        "seconds": round(reply.seconds or 0.0, 3),
        "text": completion.text[:200],
        "finish_reason": completion.finish_reason,
        "reasoning_source": completion.reasoning_source or None,
        "tokens": asdict(completion.usage) if completion.usage else None,
        "usd": float(cost.usd) if cost.usd is not None else None,
        "usd_from": cost.source if cost.source != "prices" or meter.prices is None else meter.prices.source,
        "learns": settings.provider != providers.EMBEDDED,
        "limits": {kind: asdict(stated) for kind, stated in read_limits(reply.headers or {}, time.time()).items()},
    }
