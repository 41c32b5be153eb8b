"""What the layers of a teacher pass on: a request with its key, a raw reply, a fault, an endpoint."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from distillgen import __version__
from distillgen.teacher.replies import Completion, read_reply

SHORTEST_SECRET = 12  # a shorter key is no secret but a placeholder (`none`, `EMPTY`)


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to ask for: the body for one sample, and the key under which its reply is stored.

    `attempt` counts from 1; it is no part of the key. `siblings` are the requests for other samples of the same prompt
    that may be asked together with it; `parts` the keys of all samples that this very call asks for, if there are more.
    """

    key: bytes
    body: Mapping[str, Any]
    sample: int = 0
    attempt: int = 1
    siblings: "Siblings | None" = field(default=None, compare=False, repr=False)
    parts: tuple[bytes, ...] = ()

    @property
    def prompt_bytes(self) -> int:
        """The size of the messages (and of a schema) as they are sent: a prompt has no more tokens than that."""
        return len(orjson.dumps([self.body["messages"], self.body.get("response_format")]))

    @property
    def max_tokens(self) -> int | None:
        """The most tokens that the completions may have, None when the request sets no limit; of two the larger."""
        stated = [self.body.get(name) for name in ("max_tokens", "max_completion_tokens")]
        most = max((length for length in stated if isinstance(length, int)), default=None)
        return None if most is None else most * max(1, len(self.parts))


@dataclass(slots=True)
class Siblings:
    """The requests for several samples of one prompt; `asked` has the replies of those that are asked together.

    `waiting` counts those that wait for it.
    """

    requests: "Sequence[Request]" = ()
    asked: "asyncio.Future[dict[bytes, Reply]] | None" = None
    waiting: int = 0


@dataclass(slots=True)
class Reply:
    """The raw body of a decided reply, how long it took, and the headers that came; stored ones have only the body.

    `parts` are the replies for each sample, where one call asked for several.
    """

    raw: bytes
    seconds: float | None = None
    headers: Mapping[str, str] | None = field(default=None, compare=False, repr=False)
    parts: "tuple[Reply, ...]" = ()
    _completion: Completion | None = field(default=None, compare=False, repr=False)

    @property
    def completion(self) -> Completion:
        """What the body says, read once. Raises Malformed."""
        if self._completion is None:
            self._completion = read_reply(self.raw)
        return self._completion


class Asks(Protocol):
    """What every layer of a teacher does: ask for one completion."""

    async def complete(self, request: Request) -> Reply:
        """Return a decided reply, or raise Fault, RowFailed or a DistillgenError."""


class Fault(Exception):
    """One request that brought no completion. `kind`: connect, timeout, network, status, malformed, oversize."""

    def __init__(
        self,
        kind: str,
        words: str,
        *,
        status: int = 0,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(f"{status} {words}" if status else words)
        self.kind, self.words, self.status, self.code = kind, words, status, code
        self.headers: Mapping[str, str] = headers if headers is not None else {}
        self.body = body

    @property
    def retry_after(self) -> str:
        """What the server said of when to ask again, as it said it."""
        return self.headers.get("retry-after", "")

    @property
    def is_limit(self) -> bool:
        """Whether the server was merely asked too fast."""
        return self.status == 429

    @property
    def is_unknown(self) -> bool:
        """Whether the request may have been answered, and billed, without our having the answer."""
        return self.kind in ("timeout", "network", "malformed", "oversize")

    @property
    def is_trouble(self) -> bool:
        """Whether the server, or the way to it, is in trouble: what a circuit breaker counts."""
        return self.kind in ("connect", "timeout", "network", "malformed") or self.status >= 500


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask and with which key; a key never shows in a repr.

    `wording` writes a request's body as the server there takes it best; what it means stays the same.
    """

    url: str
    key: str | None = None
    wording: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"

    @property
    def headers(self) -> dict[str, str]:
        """What every request to this endpoint carries."""
        headers = {"Content-Type": "application/json", "User-Agent": f"distillgen/{__version__}"}
        return headers | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def content(self, body: Mapping[str, Any]) -> bytes:
        """Return a request's body as it is sent."""
        return orjson.dumps(body if self.wording is None else self.wording(body))

    def without_key(self, body: bytes) -> bytes:
        """Return a reply in which the server does not repeat the key: replies are stored, and their words are shown."""
        if self.key is None or len(self.key) < SHORTEST_SECRET:
            return body
        return body.replace(self.key.encode(), b"[key]")
