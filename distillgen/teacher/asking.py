"""What the layers of a teacher pass on: a request with its key, a raw reply, a fault, an endpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from distillgen import __version__

SHORTEST_SECRET = 12  # a shorter key is no secret but a placeholder (`none`, `EMPTY`)


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to ask for: the body for one sample, and the key under which its reply is stored."""

    key: bytes
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """The raw body of a decided reply, how long it took, and the headers that came; stored ones have only the body."""

    raw: bytes
    seconds: float | None = None
    headers: Mapping[str, str] | None = field(default=None, compare=False, repr=False)


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
    def is_unknown(self) -> bool:
        """Whether the request may have been answered, and billed, without our having the answer."""
        return self.kind in ("timeout", "network", "malformed", "oversize")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask and with which key; a key never shows in a repr."""

    url: str
    key: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"

    @property
    def headers(self) -> dict[str, str]:
        """What every request to this endpoint carries."""
        headers = {"Content-Type": "application/json", "User-Agent": f"distillgen/{__version__}"}
        return headers | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def without_key(self, body: bytes) -> bytes:
        """Return a reply in which the server does not repeat the key: replies are stored, and their words are shown."""
        if self.key is None or len(self.key) < SHORTEST_SECRET:
            return body
        return body.replace(self.key.encode(), b"[key]")
