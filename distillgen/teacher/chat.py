"""The transport: one chat completion asked over one shared HTTP client, faults told apart, nothing retried."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import httpx
import orjson
from httpx_aiohttp import HttpxAiohttpClient

from distillgen import __version__
from distillgen.teacher.providers import is_loopback
from distillgen.teacher.replies import Malformed, read_reply

MAX_REPLY_BYTES = 64 * 1024 * 1024
CONNECT_SECONDS = 30.0
SHORTEST_SECRET = 12  # a shorter key is no secret but a placeholder (`none`, `EMPTY`)


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to ask for: the body for one sample, and the key under which its reply is stored."""

    key: bytes
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """The raw body of a decided reply, and how long it took; stored ones have no latency."""

    raw: bytes
    seconds: float | None = None


class Asks(Protocol):
    """What every layer of a teacher does: ask for one completion."""

    async def complete(self, request: Request) -> Reply:
        """Return a decided reply, or raise Fault, RowFailed or a DistillgenError."""


class Fault(Exception):
    """One request that brought no completion. `kind`: connect, timeout, network, status, malformed, oversize."""

    def __init__(
        self, kind: str, words: str, *, status: int = 0, code: str = "", retry_after: str = "", body: bytes = b""
    ) -> None:
        super().__init__(f"{status} {words}" if status else words)
        self.kind, self.words, self.status, self.code = kind, words, status, code
        self.retry_after, self.body = retry_after, body


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


def open_client(url: str, max_connections: int) -> httpx.AsyncClient:
    """Return the HTTP client of a run: flat at thousands in flight, proxies of the environment but for loopback."""
    return HttpxAiohttpClient(
        limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=60),
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        trust_env=not is_loopback(urlsplit(url).hostname or ""),
        follow_redirects=False,
    )


class Chat:
    """Asks an OpenAI-compatible endpoint; `endpoint` is awaited for each request, so a server may start on demand."""

    def __init__(
        self, client: httpx.AsyncClient, endpoint: Callable[[], Awaitable[Endpoint]], *, timeout_seconds: float
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds

    async def complete(self, request: Request) -> Reply:
        """Send one request and return its reply, whole and a completion. Raises Fault otherwise."""
        endpoint = await self._endpoint()
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._timeout_seconds):  # a read timeout alone, keep-alive bytes can stretch
                status, headers, body = await self._post(endpoint, orjson.dumps(request.body))
        except TimeoutError:
            raise Fault("timeout", f"no reply within {self._timeout_seconds:g} s") from None
        except (httpx.TransportError, OSError, zlib.error, gzip.BadGzipFile) as error:
            raise _transport_fault(error, endpoint.url) from None
        if status != 200:
            raise _status_fault(status, headers, body)
        try:
            read_reply(body)
        except Malformed as error:
            raise Fault("malformed", str(error), status=200, body=body) from None
        return Reply(body, asyncio.get_running_loop().time() - started)

    async def _post(self, endpoint: Endpoint, content: bytes) -> tuple[int, httpx.Headers, bytes]:
        url = f"{endpoint.url}/chat/completions"
        async with self._client.stream("POST", url, content=content, headers=endpoint.headers) as response:
            chunks: list[bytes] = []
            size = 0
            try:
                async for chunk in response.aiter_bytes():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > MAX_REPLY_BYTES:
                        raise Fault("oversize", f"a reply of more than {MAX_REPLY_BYTES:,} bytes")
            except httpx.DecodingError as error:
                raise Fault("network", f"the body does not decompress: {error}") from None
            return response.status_code, response.headers, endpoint.without_key(b"".join(chunks))


def _transport_fault(error: Exception, url: str) -> Fault:
    """Tell what never left from what did: the transport below maps several of its errors to one of httpx's."""
    if isinstance(error.__cause__, aiohttp.ClientConnectorError) or isinstance(error, httpx.ConnectError):
        return Fault("connect", f"cannot connect to {url}: {error}")
    if isinstance(error.__cause__, aiohttp.ServerTimeoutError | TimeoutError):
        return Fault("timeout", str(error) or "timed out")
    return Fault("network", str(error) or type(error).__name__)


def _status_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """Read the provider's error body: the code decides, the words are for people."""
    words, code = body[:300].decode("utf-8", "replace").strip(), ""
    try:
        error = orjson.loads(body)
        error = error[0] if isinstance(error, list) and error else error  # Gemini wraps it in a list
        error = error.get("error", error) if isinstance(error, dict) else error
        if isinstance(error, dict):
            words = str(error.get("message") or words)[:500]
            code = str(error.get("code") or error.get("type") or "")
        elif isinstance(error, str):
            words = error[:500]
    except orjson.JSONDecodeError:
        pass
    if 300 <= status < 400:
        words = "redirects to another address, which is not followed with a key"
    return Fault(
        "status", words or "no words", status=status, code=code, retry_after=headers.get("retry-after", ""), body=body
    )
