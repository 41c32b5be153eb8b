"""The transport: one chat completion asked over one shared connection pool, faults told apart, nothing retried."""

import asyncio
import contextlib
import os
import ssl
import urllib.request
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from distillgen.errors import UsageError
from distillgen.teacher.asking import Endpoint, Fault, Reply, Request
from distillgen.teacher.providers import is_loopback
from distillgen.teacher.replies import Malformed, read_error, split_samples

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_REPLY_BYTES = 64 * 1024 * 1024
CONNECT_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 60.0
FILE_SECONDS = 600.0  # a file of a batch has up to 200 MB
_EXTENSIONS = {"timeout": {"connect": CONNECT_SECONDS}}


def open_transport(url: str, max_connections: int) -> AiohttpTransport:
    """Return the connection pool of a run, flat at thousands in flight; close it with `aclose`.

    Proxies are those of the environment, but for loopback addresses; CA bundles are certifi's, or what SSL_CERT_FILE,
    SSL_CERT_DIR, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE name. No netrc file and no cookie is read.
    """
    context = certificates()

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    return AiohttpTransport(verify=context, client=session, proxy=proxy_of(url))


def open_client(url: str, max_connections: int) -> httpx.AsyncClient:
    """Return an HTTP client over that pool: for the `openai` package, which lists models and handles files."""
    return httpx.AsyncClient(
        transport=open_transport(url, max_connections),
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        follow_redirects=False,
    )


@contextlib.asynccontextmanager
async def open_openai(
    endpoint: Endpoint, *, max_connections: int, max_retries: int = 2
) -> "AsyncIterator[AsyncOpenAI]":
    """Yield the `openai` package's client over such a pool, for the time of a block."""
    from openai import AsyncOpenAI

    async with open_client(endpoint.url, max_connections) as http:
        yield AsyncOpenAI(
            base_url=endpoint.url, api_key=endpoint.key or "none", http_client=http, max_retries=max_retries,  # type: ignore[arg-type]
            timeout=FILE_SECONDS,
        )  # fmt: skip


def proxy_of(url: str) -> httpx.Proxy | None:
    """Return the proxy that the environment wants for an address. Raises UsageError for kinds that cannot be used."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    found = found if "://" in found else f"http://{found}"
    if urlsplit(found).scheme not in ("http", "https"):
        raise UsageError(
            f"the environment names a {urlsplit(found).scheme} proxy for {host}; only http and https can be used",
            fix=f"unset it, or add {host} to NO_PROXY",
        )
    try:
        return httpx.Proxy(found)
    except (httpx.InvalidURL, ValueError):
        raise UsageError(
            f"the environment's proxy for {host} is no address",  # whose words may hold a password
            where=f"{parts.scheme}_proxy or all_proxy",
            fix="write http://host:port; unset it to go without",
        ) from None


def certificates() -> ssl.SSLContext:
    """Return what servers are checked against. Raises UsageError when a bundle that the environment names is absent."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        bundle = os.environ.get(name)
        if bundle and not os.environ.get("SSL_CERT_FILE") and not os.environ.get("SSL_CERT_DIR"):
            try:
                is_folder = Path(bundle).is_dir()
                return ssl.create_default_context(
                    cafile=None if is_folder else bundle, capath=bundle if is_folder else None
                )
            except OSError as error:
                raise UsageError(f"{name}={bundle}: {error.strerror or error}", fix="correct or unset it") from None
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise UsageError(f"cannot read the CA certificates: {error}", fix="check SSL_CERT_FILE, SSL_CERT_DIR") from None


class Chat:
    """Asks an OpenAI-compatible endpoint; `endpoint` is awaited for each request, so a server may start on demand.

    Requests go to the transport directly: cookies, redirects and authentication of the client above it cost as much
    as the sending, and a completion wants none of them.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        endpoint: Callable[[], Awaitable[Endpoint]],
        *,
        timeout_seconds: float,
    ) -> None:
        self._transport, self._locate, self._timeout_seconds = transport, endpoint, timeout_seconds
        self._endpoint = Endpoint("")
        self._url, self._headers = httpx.URL(), httpx.Headers()

    async def complete(self, request: Request) -> Reply:
        """Send one request and return its reply, whole and a completion. Raises Fault otherwise."""
        endpoint = await self._locate()
        if endpoint is not self._endpoint:
            self._aim(endpoint)
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(self._timeout_seconds):  # a read timeout alone, keep-alive bytes can stretch
                status, headers, body = await self._post(endpoint.content(request.body))
        except TimeoutError:
            raise Fault("timeout", f"no reply within {self._timeout_seconds:g} s") from None
        except (httpx.TransportError, aiohttp.ClientError, OSError, zlib.error, UnicodeError) as error:
            raise _transport_fault(error, endpoint.url) from None
        body = endpoint.without_key(body)
        if status != 200:
            raise _status_fault(status, headers, body)
        reply = Reply(body, clock() - started, headers)
        try:
            if request.parts:
                parts = split_samples(body, len(request.parts))
                return replace(reply, parts=tuple(Reply(part, reply.seconds) for part in parts))
            reply.completion  # noqa: B018  (read, to see whether it can be)
        except Malformed as error:
            raise Fault("malformed", str(error), status=200, body=body, headers=headers) from None
        return reply

    def _aim(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url = httpx.URL(f"{endpoint.url}/chat/completions")
        host = self._url.netloc.decode("ascii")
        accepted = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        self._headers = httpx.Headers({"Host": host, **accepted, **endpoint.headers})

    async def _post(self, content: bytes) -> tuple[int, httpx.Headers, bytes]:
        request = httpx.Request("POST", self._url, headers=self._headers, content=content, extensions=_EXTENSIONS)
        response = await self._transport.handle_async_request(request)
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in response.aiter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_REPLY_BYTES:
                    raise Fault("oversize", f"a reply of more than {MAX_REPLY_BYTES:,} bytes", headers=response.headers)
        except httpx.DecodingError as error:
            raise Fault("network", f"the body does not decompress: {error}") from None
        finally:
            await response.aclose()
        return response.status_code, response.headers, b"".join(chunks)


def _transport_fault(error: Exception, url: str) -> Fault:
    """Tell what never left from what did: the transport maps several of aiohttp's errors to one of httpx's."""
    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return Fault("connect", f"the proxy that the environment names does not connect to {url}: {_reason(cause)}")
    if isinstance(cause, aiohttp.ClientConnectorError) or isinstance(error, httpx.ConnectError):
        return Fault("connect", f"cannot connect to {url}: {_reason(cause)}")
    if isinstance(cause, aiohttp.ConnectionTimeoutError):
        return Fault("connect", f"cannot connect to {url} within {CONNECT_SECONDS:g} s")
    if isinstance(cause, aiohttp.ServerTimeoutError | TimeoutError):
        return Fault("timeout", str(error) or "timed out")
    return Fault("network", str(error) or type(error).__name__)


def _reason(error: BaseException) -> str:
    """Return why there is no connection, in the system's words: aiohttp's repeat the address."""
    if isinstance(error, aiohttp.ClientSSLError):  # its number is the library's, not the system's
        return str(error.os_error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
    return str(error)


def _status_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    words, code = read_error(body)
    if 300 <= status < 400:
        words = "redirects to another address, which is not followed with a key"
    return Fault("status", words, status=status, code=code, headers=headers, body=body)
