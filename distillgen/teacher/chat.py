"""The transport: one chat completion asked over one shared HTTP client, faults told apart, nothing retried."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import aiohttp
import httpx
import orjson
from httpx_aiohttp import HttpxAiohttpClient

from distillgen.teacher.asking import Endpoint, Fault, Reply, Request
from distillgen.teacher.providers import is_loopback
from distillgen.teacher.replies import Malformed, read_reply

MAX_REPLY_BYTES = 64 * 1024 * 1024
CONNECT_SECONDS = 30.0


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
    return Fault("status", words or "no words", status=status, code=code, headers=headers, body=body)
