"""A scripted provider of batches: a real HTTP server on loopback that speaks OpenAI's file-and-batch protocol."""

import asyncio
import itertools
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from loopback import Body, Say, answer

MAX_UPLOAD = 300_000_000
Line = tuple[bool, bytes]  # whether it goes into the output file (or the error file), and its bytes


@dataclass(frozen=True)
class Plan:
    """How one batch goes: when it ends (after so many looks), how, and which share of it was run."""

    ends: str = "completed"
    polls: int = 0
    share: float = 1.0
    errors: tuple[Body, ...] = ()
    mangle: Callable[[list[Line]], list[Line]] = list


@dataclass
class Known:
    """A batch as the server knows it."""

    plan: Plan
    shown: Body
    lines: list[bytes] = field(repr=False, default_factory=list)
    looks: int = 0


class BatchServer:
    """`plan` gives the next batches their fate, `faults` go first, by route.

    `behave` answers each line when a file of results is fetched, so that a huge one needs no memory.

    `asked` holds the body of every request in every batch that was created: what would be paid for.
    A request that comes to `hold_at` is held there: a route, or `uploaded` and `created`: done, but nobody knows.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, Known] = {}
        self.seen: list[str] = []
        self.keys: list[str] = []
        self.behave: Callable[[Body], Say] = answer
        self.faults: dict[str, deque[Say]] = {}
        self.drops_after_create = 0
        self.files_are_cut = False
        self.hold_at = ""
        self.is_held = threading.Event()
        self._plans: deque[Plan] = deque()
        self._numbers = itertools.count(1)
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
    def asked(self) -> list[Body]:
        """What would be paid for: the bodies in every batch that was not turned down."""
        return [
            json.loads(line)["body"]
            for known in self.batches.values()
            if known.plan.ends != "failed"
            for line in known.lines
        ]

    def plan(self, *plans: Plan) -> None:
        """Decide how the next batches go; those after them complete at once."""
        self._plans.extend(plans)

    def fault(self, route: str, says: Iterable[Say]) -> None:
        """Answer the next requests of a route (`POST /batches`) with these."""
        self.faults.setdefault(route, deque()).extend(says)

    def count(self, route: str) -> int:
        """How often a route was asked."""
        return self.seen.count(route)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=MAX_UPLOAD, middlewares=[self._first])
        app.add_routes([
            web.post("/v1/files", self._upload), web.get("/v1/files", self._files),
            web.delete("/v1/files/{id}", self._delete), web.get("/v1/files/{id}/content", self._content),
            web.post("/v1/batches", self._create), web.get("/v1/batches", self._list),
            web.get("/v1/batches/{id}", self._retrieve), web.post("/v1/batches/{id}/cancel", self._cancel),
        ])  # fmt: skip
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):  # those that are held
            task.cancel()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    @web.middleware
    async def _first(self, request: web.Request, handler: Any) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = f"{request.method} {(resource.canonical if resource else request.path).removeprefix('/v1')}"
        self.seen.append(route)
        self.keys.append(request.headers.get("authorization", ""))
        await self._hold(route)
        if self.faults.get(route):
            await request.read()
            said = self.faults[route].popleft()
            if said.reset and request.transport:
                request.transport.abort()
            headers = {"Content-Type": "application/json", **said.headers}
            return web.Response(status=said.status, body=said.body, headers=headers)
        return await handler(request)

    async def _hold(self, place: str) -> None:
        if place == self.hold_at:
            self.is_held.set()
            await asyncio.Event().wait()

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert form["purpose"] == "batch" and isinstance(file, web.FileField)
        name = f"file-{next(self._numbers)}"
        with file.file:
            self.files[name] = (file.filename, file.file.read())
        await self._hold("uploaded")
        return web.json_response(self._shown_file(name))

    def _shown_file(self, name: str) -> Body:
        filename, content = self.files[name]
        shown = {"id": name, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        return {**shown, "filename": filename, "purpose": "batch", "status": "processed"}

    async def _files(self, request: web.Request) -> web.Response:
        newest = [self._shown_file(name) for name in reversed(self.files)]
        return web.json_response({"object": "list", "data": newest, "has_more": False})

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if self.files.pop(name, None) is None:
            return _no_such("file", name)
        return web.json_response({"id": name, "object": "file", "deleted": True})

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked["input_file_id"] not in self.files:
            return _no_such("file", asked["input_file_id"])
        assert asked["completion_window"] == "24h" and asked["endpoint"] == "/v1/chat/completions"
        name = f"batch_{next(self._numbers)}"
        lines = self.files[asked["input_file_id"]][1].splitlines()
        shown = {**asked, "id": name, "object": "batch", "created_at": int(time.time()), "status": "validating"}
        known = Known(self._plans.popleft() if self._plans else Plan(), shown, lines)
        known.shown["request_counts"] = {"total": len(lines), "completed": 0, "failed": 0}
        self.batches[name] = known
        await self._hold("created")
        if self.drops_after_create:
            self.drops_after_create -= 1
            assert request.transport
            request.transport.abort()
        return web.json_response(known.shown)

    async def _list(self, request: web.Request) -> web.Response:
        newest = [known.shown for known in reversed(self.batches.values())]
        if after := request.query.get("after"):
            newest = newest[[shown["id"] for shown in newest].index(after) + 1 :]
        page = newest[: int(request.query.get("limit", 20))]
        return web.json_response({"object": "list", "data": page, "has_more": len(page) < len(newest)})

    async def _retrieve(self, request: web.Request) -> web.Response:
        known = self.batches.get(request.match_info["id"])
        if known is None:
            return _no_such("batch", request.match_info["id"])
        known.looks += 1
        if known.looks > known.plan.polls:
            self._end(known)
        else:
            known.shown["status"] = "in_progress"
        return web.json_response(known.shown)

    async def _cancel(self, request: web.Request) -> web.Response:
        known = self.batches[request.match_info["id"]]
        known.plan = Plan(ends="cancelled", share=known.plan.share)
        return web.json_response({**known.shown, "status": "cancelling"})

    def _end(self, known: Known) -> None:
        known.shown["status"] = known.plan.ends
        if known.plan.ends == "failed":
            known.shown["errors"] = {"object": "list", "data": list(known.plan.errors)}
            return
        kinds = [is_output for is_output, _ in self._results(known)]
        counts = {"total": len(known.lines), "completed": sum(kinds), "failed": len(kinds) - sum(kinds)}
        known.shown["request_counts"] = counts
        known.shown["output_file_id"] = f"output-{known.shown['id']}" if any(kinds) else None
        known.shown["error_file_id"] = f"errors-{known.shown['id']}" if not all(kinds) else None

    def _results(self, known: Known) -> Iterator[Line]:
        """Yield the lines of both files, out of order."""
        lines = list(known.lines)
        random.Random(len(lines)).shuffle(lines)
        results = (self._result(line, number < known.plan.share * len(lines)) for number, line in enumerate(lines))
        return results if known.plan.mangle is list else iter(known.plan.mangle(list(results)))

    def _result(self, line: bytes, is_run: bool) -> Line:
        asked = json.loads(line)
        if not is_run:
            words = "This request could not be executed before the completion window expired."
            return False, result(asked["custom_id"], error={"code": "batch_expired", "message": words})
        said = self.behave(asked["body"])
        try:
            body = json.loads(said.body)
        except ValueError:
            body = said.body.decode()
        return said.status == 200, result(asked["custom_id"], said.status, body)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        kind, _, batch = request.match_info["id"].partition("-")
        known = self.batches.get(batch)
        if known is None:
            return _no_such("file", request.match_info["id"])
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        lines = (line + b"\n" for is_output, line in self._results(known) if is_output == (kind == "output"))
        while chunk := b"".join(itertools.islice(lines, 3)):
            await response.write(chunk)
            if self.files_are_cut:
                assert request.transport
                request.transport.abort()
                break
        return response

    def close(self) -> None:
        """Stop the server."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def result(custom_id: str, status: int = 200, body: Any = None, *, error: Body | None = None) -> bytes:
    """Return one line of an output or error file."""
    response = None if error else {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": "x", "custom_id": custom_id, "response": response, "error": error}).encode()


def _no_such(kind: str, name: str) -> web.Response:
    words = f"No such {kind}: {name}"
    return web.json_response({"error": {"message": words, "type": "invalid_request_error", "code": None}}, status=404)
