"""A scripted teacher: a real HTTP server on loopback that speaks chat completions, and misbehaves on request."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

Body = dict[str, Any]
BLOCK = 65_536


@dataclass(frozen=True)
class Say:
    """A whole HTTP reply, or a broken one.

    It comes after `wait` seconds: after silence, or after a blank line every `blank` seconds. It comes at once, or a
    byte every `drip` seconds; as one body (`stated` may lie about its length), or in chunks of `chunk` bytes.
    `times` repeats it. `cut` ends it in the middle, inside a chunk; `reset` breaks the connection there and then.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    reset: bool = False
    wait: float = 0.0
    blank: float = 0.0
    drip: float = 0.0
    chunk: int = 0
    stated: int | None = None
    times: int = 1

    def stating(self, **headers: Any) -> "Say":
        """Return the reply with more headers: `retry_after=2` is Retry-After: 2."""
        more = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        return replace(self, headers={**self.headers, **more})


def reply(text: str | None, *, finish: str = "stop", message: Body | None = None, usage: Any = ..., **more: Any) -> Say:
    """A completion."""
    return replies(text, finish=finish, message=message, usage=usage, **more)


def replies(
    *texts: str | None, finish: str = "stop", message: Body | None = None, usage: Any = ..., **more: Any
) -> Say:
    """Several completions of one prompt."""
    used = 11 * len(texts)
    usage = {"prompt_tokens": 7, "completion_tokens": used, "total_tokens": 7 + used} if usage is ... else usage
    choices = [
        {"index": n, "finish_reason": finish, "message": {"role": "assistant", "content": text, **(message or {})}}
        for n, text in enumerate(texts)
    ]
    body = {"id": "x", "object": "chat.completion", "model": "scripted", "choices": choices, "usage": usage, **more}
    return Say(body=json.dumps(body).encode())


def error(status: int, code: str = "", message: str = "no", **headers: Any) -> Say:
    """An HTTP error in the provider's words."""
    body = json.dumps({"error": {"message": message, "code": code, "type": code}}).encode()
    return Say(status, body).stating(**headers)


def zipped(said: Say, keep: int | None = None) -> Say:
    """The same reply compressed; of the compressed bytes only `keep` (counted from the end when negative)."""
    return replace(said, body=gzip.compress(said.body)[:keep], headers={**said.headers, "Content-Encoding": "gzip"})


def answer(body: Body) -> Say:
    """The default behaviour: an answer of its own to each question; constrained output follows the schema."""
    asked = body["messages"][-1]["content"]
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema:
        return reply(json.dumps(_follow(schema, asked)))
    return replies(words(asked), *(words(f"{asked} {n}") for n in range(1, body.get("n", 1))))


def words(asked: str, count: int = 30) -> str:
    """Thirty words that differ from question to question, so that no filter and no deduplication touches them."""
    seed = sum(ord(character) * (place + 1) for place, character in enumerate(asked))
    return f"About {asked.split()[-1][:20]}: " + " ".join(f"w{(seed * 31 + n * n * 7) % 9973}" for n in range(count))


def _follow(schema: Any, asked: str) -> Any:
    if "enum" in schema:
        return schema["enum"][len(asked) % len(schema["enum"])]
    kind = schema.get("type")
    if kind == "object":
        return {name: _follow(inner, f"{asked} {name}") for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_follow(schema["items"], f"{asked} {n}") for n in range(3)]
    return 3 if kind in ("integer", "number") else words(asked, 8)


class Bucket:
    """Behaves like a server with a rate limit: what finds no token in the bucket gets a 429, with or without advice."""

    def __init__(self, per_second: float, burst: int, *, retry_after: float | None = None) -> None:
        self.refused = 0
        self._per_second, self._burst, self._retry_after = per_second, burst, retry_after
        self._tokens, self._at = float(burst), time.monotonic()

    def __call__(self, body: Body) -> Say:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return answer(body)
        self.refused += 1
        limited = error(429, "rate_limit_exceeded", "too fast")
        return limited if self._retry_after is None else limited.stating(retry_after=self._retry_after)


class Loopback:
    """The server. `script` plays replies in order, then `behave` decides; `most` in flight, and a 429 for the others.

    `bodies`, `headers` and `targets` hold what came, `arrived` when (monotonic seconds). `now` and `peak` count the
    requests in flight, `hung_up` those whose client left before its reply was sent whole, `written` the bytes sent.
    It takes requests for any address, as a proxy does that knows the answers.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, most: int = 10_000) -> None:
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.targets: list[str] = []
        self.arrived: list[float] = []
        self.behave: Callable[[Body], Say] = answer
        self.now = self.peak = self.hung_up = self.written = self.crowded = 0
        self.most = most
        self._tls = tls
        self._script: deque[Say] = deque()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    @property
    def url(self) -> str:
        """The base URL for a recipe."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    @property
    def seen(self) -> int:
        """How many completions were asked for."""
        return len(self.bodies)

    @property
    def asked(self) -> list[str]:
        """The last message of every request."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def script(self, replies: Iterable[Say]) -> None:
        """Play these replies next, one per request."""
        self._script.extend(replies)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024, ssl=self._tls)
        server = self._loop.run_until_complete(starting)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                said = self._hear(first, headers, content)
                if not await self._respond(said, reader, writer):
                    break
        writer.close()

    def _hear(self, first: str, headers: dict[str, str], content: bytes) -> Say | None:
        """Return what to say to a request, None when it is not a completion that is asked for."""
        target = first.split()[1]
        if first.startswith("GET"):
            return None
        body = json.loads(content)
        self.bodies.append(body)
        self.headers.append(headers)
        self.targets.append(target)
        self.arrived.append(time.monotonic())
        if self.now >= self.most:
            self.crowded += 1
            return error(429, "too_many_in_flight", "one at a time, please")
        return self._script.popleft() if self._script else self.behave(body)

    async def _respond(self, said: Say | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Say it; return whether the connection is still of use."""
        if said is None:
            models = {"object": "list", "data": [{"id": "scripted", "object": "model"}]}
            return await self._send(Say(body=json.dumps(models).encode()), writer)
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            if said.wait and not said.blank and await _leaves(reader, said.wait):
                self.hung_up += 1
                return False
        finally:
            self.now -= 1
        try:
            return await self._send(said, writer)
        except ConnectionError:
            self.hung_up += 1
            raise

    async def _send(self, said: Say, writer: asyncio.StreamWriter) -> bool:
        if said.reset and not said.cut:
            return _reset(writer)
        size = len(said.body) * said.times
        in_chunks = said.chunk or said.blank
        length = {"Transfer-Encoding": "chunked"} if in_chunks else {"Content-Length": said.stated or size}
        fields = {"Content-Type": "application/json", **length, **said.headers}
        head = f"HTTP/1.1 {said.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
        writer.write(head.encode())
        async for part in _parts(said):
            writer.write(part)
            await writer.drain()
            self.written += len(part)
        await writer.drain()
        if said.reset:
            return _reset(writer)
        return not said.cut and said.stated in (None, size)

    def close(self) -> None:
        """Stop the server; afterwards its port refuses connections. Safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)


async def _parts(said: Say) -> AsyncIterator[bytes]:
    """Yield a body as it goes over the wire."""
    end = time.monotonic() + said.wait
    while said.blank and time.monotonic() < end:
        yield b"1\r\n\n\r\n"
        await asyncio.sleep(said.blank)
    for _ in range(said.times):
        body = said.body[: len(said.body) // 2] if said.cut else said.body
        if said.chunk or said.blank:
            async for part in _chunks(said.body, said.chunk or BLOCK, cut=said.cut):
                yield part
        elif said.drip:
            for place in range(len(body)):
                yield body[place : place + 1]
                await asyncio.sleep(said.drip)
        else:
            yield body


async def _chunks(body: bytes, size: int, *, cut: bool) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        part = body[start : start + size]
        yield f"{len(part):x}\r\n".encode()
        if cut:
            yield part[: len(part) // 2]
            return
        yield part + b"\r\n"
    yield b"0\r\n\r\n"


async def _leaves(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Wait; return at once, and True, when the client hangs up meanwhile."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(1) == b""
    except TimeoutError:
        return False


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Break the connection with a TCP reset."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


@contextlib.contextmanager
def nobody_accepts() -> Iterator[str]:
    """Yield the URL of a port whose queue of connections is full: a connection is neither made nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
