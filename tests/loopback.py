"""A scripted teacher: a real HTTP server on loopback that speaks chat completions, and misbehaves on request."""

import asyncio
import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Say:
    """A whole HTTP reply, or a broken one: `cut` ends the body early, `reset` drops the connection without a word."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    reset: bool = False
    wait: float = 0.0


def reply(text: str | None, *, finish: str = "stop", message: Body | None = None, usage: Any = ..., **more: Any) -> Say:
    """A completion."""
    usage = {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18} if usage is ... else usage
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **(message or {})}}
    body = {"id": "x", "object": "chat.completion", "model": "scripted", "choices": [choice], "usage": usage, **more}
    return Say(body=json.dumps(body).encode())


def error(status: int, code: str = "", message: str = "no", **headers: str) -> Say:
    """An HTTP error in the provider's words."""
    body = json.dumps({"error": {"message": message, "code": code, "type": code}}).encode()
    return Say(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def answer(body: Body) -> Say:
    """The default behaviour: an answer of its own to each question; constrained output follows the schema."""
    asked = body["messages"][-1]["content"]
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema:
        return reply(json.dumps(_follow(schema, asked)))
    return reply(words(asked))


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


class Loopback:
    """The server. `script` plays replies in order, then `behave` decides; `bodies` and `headers` hold what came."""

    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.behave: Callable[[Body], Say] = answer
        self.peak = self._now = 0
        self._script: deque[Say] = deque()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    @property
    def url(self) -> str:
        """The base URL for a recipe."""
        return f"http://127.0.0.1:{self.port}/v1"

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
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024))
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
                if not await self._respond(first, headers, content, writer):
                    break
        writer.close()

    async def _respond(self, first: str, headers: dict[str, str], content: bytes, writer: asyncio.StreamWriter) -> bool:
        if first.startswith("GET") and first.split()[1].endswith("/models"):
            said = Say(body=json.dumps({"object": "list", "data": [{"id": "scripted", "object": "model"}]}).encode())
        else:
            body = json.loads(content)
            self.bodies.append(body)
            self.headers.append(headers)
            self._now += 1
            self.peak = max(self.peak, self._now)
            said = self._script.popleft() if self._script else self.behave(body)
            if said.wait:
                await asyncio.sleep(said.wait)
            self._now -= 1
        if said.reset:
            writer.transport.abort()
            return False
        fields = {"Content-Type": "application/json", "Content-Length": str(len(said.body)), **said.headers}
        head = f"HTTP/1.1 {said.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
        writer.write(head.encode() + (said.body[: len(said.body) // 2] if said.cut else said.body))
        await writer.drain()
        return not said.cut

    def close(self) -> None:
        """Stop the server."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
