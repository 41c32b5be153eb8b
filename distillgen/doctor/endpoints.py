"""Asks the teachers' endpoints which models they have, all at the same time, and tells apart what can go wrong."""

import asyncio
import contextlib
import email.utils
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from distillgen.doctor.findings import Finding, broken, note, quoted, warning, well
from distillgen.doctor.keys import is_unknown
from distillgen.doctor.network import ServerClock, shown
from distillgen.errors import CredentialsError, DistillgenError, nearest
from distillgen.settings import TeacherSettings
from distillgen.teacher import providers
from distillgen.teacher.asking import Endpoint

if TYPE_CHECKING:
    import httpx

SECONDS = 15.0  # for all endpoints together: they are asked at once
MOST_BYTES = 16 * 1024 * 1024
MOST_LISTED = 20
MOST_NAME = 80
NOT_FOUND = 404
TAKEN = {400, 401, 403, 405, 415, 422}  # what a server says to GET where it takes POST
Trouble = Literal["name", "refused", "tls", "proxy", "timeout", "network"]
Key = Literal["there", "missing", "unnamed"]
FIXES: Mapping[Trouble, str] = {
    "name": "check the host in `base_url`, and the network (VPN, DNS)",
    "refused": "is the server started? Check host and port in `base_url`",
    "tls": "check `base_url`, the clock, and SSL_CERT_FILE if your network has a certificate authority of its own",
    "proxy": "check the proxy variables; NO_PROXY names the hosts that are asked directly",
    "timeout": "is the network up, and does a firewall or a missing proxy hold it back?",
    "network": "check `base_url` and the network, or try later",
}


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of asking one endpoint for its models: trouble on the way, or a status and what it said.

    `models` is None when what came is no list of them. `words` are the server's or the system's, without the key.
    """

    url: str
    through: str = ""  # the proxy, as it may be shown
    trouble: Trouble | None = None
    status: int = 0
    words: str = ""
    is_page: bool = False
    models: tuple[str, ...] | None = None
    takes_completions: bool = False  # asked only where there is no list of models
    clock: ServerClock | None = None


def ask(teachers: Mapping[str, TeacherSettings], folder: Path, seconds: float = SECONDS) -> dict[str, Heard]:
    """Return what came of each teacher that has an address; those that share address and key are asked for once.

    It takes `seconds` at most, whatever the network does; Ctrl-C ends it.
    """
    asked = {name: endpoint for name, settings in teachers.items() if (endpoint := _endpoint(settings, folder))}
    distinct = {(endpoint.url, endpoint.key): endpoint for endpoint in asked.values()}
    if not distinct:
        return {}
    came = dict(zip(distinct, asyncio.run(_ask_all(list(distinct.values()), seconds)), strict=True))
    return {name: came[endpoint.url, endpoint.key] for name, endpoint in asked.items()}


def _endpoint(settings: TeacherSettings, folder: Path) -> Endpoint | None:
    """Return where a teacher is asked, without a key where it has none; None when there is nothing to be asked."""
    if settings.provider == providers.EMBEDDED or is_unknown(settings):
        return None
    try:
        url = providers.url_of(settings)
    except DistillgenError:
        return None
    try:
        return Endpoint(url, providers.find_key(settings, folder))
    except CredentialsError:
        return Endpoint(url)


async def _ask_all(endpoints: list[Endpoint], seconds: float) -> list[Heard]:
    return await asyncio.gather(*(_ask(endpoint, seconds) for endpoint in endpoints))


async def _ask(endpoint: Endpoint, seconds: float) -> Heard:
    from distillgen.teacher.chat import open_client, proxy_of

    try:
        proxy = proxy_of(endpoint.url)
        through = shown(str(proxy.url)) if proxy else ""
    except DistillgenError as error:  # of a kind that cannot be used, or no address
        return Heard(endpoint.url, trouble="proxy", words=error.problems[0].what)
    try:
        async with asyncio.timeout(seconds):
            await _look_up(str(proxy.url) if proxy else endpoint.url)
            async with open_client(endpoint.url, 2) as client:
                response, body = await _get(client, endpoint, "models")
                heard = _heard(endpoint, through, response, body)
                if response.status_code == NOT_FOUND:  # a gateway may have completions, and no list of models
                    response, _ = await _get(client, endpoint, "chat/completions")
                    return replace(heard, takes_completions=response.status_code in TAKEN)
                return heard
    except TimeoutError:
        return Heard(endpoint.url, through, "timeout", words=f"no answer within {seconds:g} s")
    except DistillgenError as error:  # the environment names certificates that cannot be used
        return Heard(endpoint.url, through, "tls", words=error.problems[0].what)
    except Exception as error:  # whatever the network brings; its own words may hold the key or a proxy's password
        trouble, words = _trouble(error)
        return Heard(endpoint.url, through, trouble, words=words)


async def _look_up(url: str) -> None:
    """Resolve a host's name. Raises OSError.

    The thread is nobody's: the loop's own are waited for, and a resolver may hang for longer than anybody has time.
    """
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    found: asyncio.Future[Exception | None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not found.done():
            found.set_result(error)

    def look() -> None:
        error: Exception | None = None
        try:
            socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as came:
            error = came
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=look, daemon=True).start()
    if (error := await found) is not None:
        raise error


async def _get(client: "httpx.AsyncClient", endpoint: Endpoint, path: str) -> "tuple[httpx.Response, bytes]":
    """Ask for something; return the reply and its body, in which the key is not repeated."""
    request = client.build_request("GET", f"{endpoint.url}/{path}", headers=dict(endpoint.headers))
    response = await client.send(request, stream=True)
    try:
        return response, endpoint.without_key(await _body(response))
    finally:
        await response.aclose()


async def _body(response: "httpx.Response") -> bytes:
    """Return a body, its beginning when it is far too large for a list of models."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if size > MOST_BYTES:
            break
    return b"".join(chunks)


def _heard(endpoint: Endpoint, through: str, response: "httpx.Response", body: bytes) -> Heard:
    from distillgen.teacher.replies import read_error

    is_page = "html" in response.headers.get("content-type", "").lower() or body.lstrip()[:1] == b"<"
    if 300 <= response.status_code < 400:
        target = urlsplit(response.headers.get("location", "")).hostname
        words = f"it redirects to {target or 'another path'}, which is not followed with a key"
    else:
        words = "" if is_page or response.status_code == 200 else read_error(body)[0]
    models = None if is_page or response.status_code != 200 else _read_models(body)
    clock = _clock(endpoint.url, response.headers)
    return Heard(endpoint.url, through, None, response.status_code, words, is_page, models, clock=clock)


def _read_models(body: bytes) -> tuple[str, ...] | None:
    """Return the ids in a list of models, None when it is none."""
    import orjson

    try:
        said: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    listed = said.get("data") if isinstance(said, dict) else said
    if not isinstance(listed, list):
        return None
    return tuple(each["id"] for each in listed if isinstance(each, dict) and isinstance(each.get("id"), str))


def _clock(url: str, headers: Mapping[str, str]) -> ServerClock | None:
    """Compare this machine's clock with a reply's Date; a reply out of a cache (Age) has an old one."""
    try:
        said = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return None if headers.get("age", "0").strip() != "0" else ServerClock(urlsplit(url).netloc, time.time() - said)


def _trouble(error: Exception) -> tuple[Trouble, str]:
    """Tell what went wrong on the way, in the system's words."""
    import aiohttp
    import httpx

    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        return "proxy", f"the proxy answers HTTP {cause.status}" + (" (it wants a user)" if cause.status == 407 else "")
    if isinstance(cause, aiohttp.ClientProxyConnectionError):
        return "proxy", f"the proxy cannot be reached: {_system_words(cause.os_error)}"
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        verify = getattr(cause.certificate_error, "verify_message", "") or "its certificate is not trusted"
        return "tls", f"its certificate is refused: {verify}"
    if isinstance(cause, aiohttp.ClientSSLError):
        reason = getattr(cause.os_error, "reason", "") or "no reason given"
        return "tls", f"no secure connection: {reason.replace('_', ' ').lower()}"
    if isinstance(cause, socket.gaierror | aiohttp.ClientConnectorDNSError | UnicodeError):
        return "name", "its name cannot be resolved"
    if isinstance(cause, ConnectionRefusedError) or getattr(cause, "errno", None) == errno.ECONNREFUSED:
        return "refused", "the connection is refused"
    if isinstance(cause, TimeoutError) or isinstance(error, httpx.TimeoutException):
        return "timeout", "no connection in time"
    return "network", _system_words(cause)


def _system_words(error: BaseException) -> str:
    """Return the system's word for an error, else only its kind: other words may hold what is secret."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number and number > 0 else type(error).__name__


def examine(teachers: Mapping[str, TeacherSettings], folder: Path, answered: Mapping[str, Heard]) -> Iterator[Finding]:
    """Yield what is found of each teacher's endpoint, or of the embedded one's runtime and weights."""
    for name, settings in teachers.items():
        teacher = f"teacher {name!r}"
        if name in answered:
            yield _judge(teacher, settings, answered[name], key=_key_of(settings, folder))
        else:
            yield _unasked(teacher, settings, folder)


def _key_of(settings: TeacherSettings, folder: Path) -> Key:
    """Say whether an address was asked with a key, without one that is needed, or without any that the recipe knows."""
    try:
        return "there" if providers.find_key(settings, folder) else "unnamed"
    except CredentialsError:
        return "missing"


def _unasked(teacher: str, settings: TeacherSettings, folder: Path) -> Finding:
    if settings.provider == providers.EMBEDDED:
        return _embedded(teacher, settings, folder)
    if is_unknown(settings):
        fix = nearest(str(settings.provider), {*providers.presets(), providers.EMBEDDED})
        return broken("endpoint", f"{teacher}: unknown provider {settings.provider!r}", fix)
    try:
        url = providers.url_of(settings)
    except DistillgenError as error:
        return broken("endpoint", f"{teacher}: {error.problems[0].what}", error.problems[0].fix or "correct `base_url`")
    return broken("endpoint", f"{teacher}: {url} was not asked", "distillgen teachers check")


def _embedded(teacher: str, settings: TeacherSettings, folder: Path) -> Finding:
    """Check runtime and weights of an embedded teacher, without reading gigabytes: an own file by how it begins."""
    from distillgen.teacher.embedded import require_runtime
    from distillgen.teacher.models import find_weights

    try:
        require_runtime()
        if settings.gguf is None:
            return well("embedded", f"{teacher}: {find_weights(settings.model, None).title} is installed")
    except DistillgenError as error:
        return broken(
            "embedded", f"{teacher}: {error.problems[0].what}", error.problems[0].fix or "distillgen teachers"
        )
    path = folder / settings.gguf
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as error:
        return broken("embedded", f"{teacher}: cannot read {path}: {error.strerror}", "correct `gguf` in the recipe")
    if not is_gguf:
        return broken("embedded", f"{teacher}: {path} is not a GGUF file", "name a file that llama.cpp can load")
    return well("embedded", f"{teacher}: {path} is a GGUF file")


def _judge(teacher: str, settings: TeacherSettings, heard: Heard, *, key: Key) -> Finding:
    where = f"{teacher}: {heard.url}" + (f" (through the proxy {heard.through})" if heard.through else "")
    if heard.trouble:
        return broken("endpoint", f"{where} cannot be asked: {heard.words}", FIXES[heard.trouble])
    if heard.status in (401, 403) and key == "missing":
        return well("endpoint", f"{where} answers; it wants the key that is missing")
    said = f": {quoted(heard.words)}" if heard.words else ""
    if heard.status in (401, 403) and key == "unnamed":
        fix = 'under the teacher: api_key_env = "NAME" of the variable that holds it, or api_key_file = "..."'
        return broken("endpoint", f"{where} wants a key, and the recipe names none (HTTP {heard.status}){said}", fix)
    if heard.status in (401, 403):
        fix = "check that the key is this provider's, valid, and allowed to use the API"
        return broken("endpoint", f"{where} refuses the key (HTTP {heard.status}){said}", fix)
    address = "`base_url` is the address of the API, up to and with /v1"
    if heard.takes_completions:
        what = f"{where} has no list of models, but takes completions; whether it has {settings.model!r} is not known"
        return note("endpoint", what, "`distillgen teachers check NAME` sends one small request")
    if heard.status == NOT_FOUND:
        return broken("endpoint", f"{where} has no list of models (HTTP 404){said}", f"check the path: {address}")
    if heard.is_page:
        return broken("endpoint", f"{where} answers with a web page (HTTP {heard.status})", f"check it: {address}")
    if heard.status != 200:
        fix = f"check it: {address}" if heard.status < 429 else "try later; `distillgen teachers check` sends a request"
        level = broken if heard.status < 429 else warning
        return level("endpoint", f"{where} answers HTTP {heard.status}{said}", fix)
    if heard.models is None:
        return broken("endpoint", f"{where} answers, but not with a list of models", f"check it: {address}")
    return _model(where, settings.model, heard.models)


def _model(where: str, model: str | None, listed: tuple[str, ...]) -> Finding:
    if not listed:
        return well("endpoint", f"{where} answers, and lists no models")
    if model is None or _is_listed(model, listed):
        return well("endpoint", f"{where} answers" + (f" and has {model}" if model else ""))
    names = [quoted(name[:MOST_NAME])[1:-1] for name in listed]
    near = nearest(model, names)
    more = f", and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else ""
    fix = f"it has: {', '.join(names[:MOST_LISTED])}{more}"
    return broken(
        "endpoint", f"{where} does not list {model!r}", f"{near}\n{fix}" if near.startswith("did you") else fix
    )


def _is_listed(model: str, listed: tuple[str, ...]) -> bool:
    """Whether a model is in a list: also as `models/NAME` (Gemini), and as the NAME of `NAME:free` (OpenRouter)."""
    return bool({model, f"models/{model}", model.partition(":")[0]} & set(listed))
