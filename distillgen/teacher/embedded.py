"""The embedded teacher: starts llama.cpp in a child process on loopback when first asked, and ends it with the run."""

import asyncio
import contextlib
import importlib.util
import os
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import orjson

from distillgen.errors import EmbeddedMissing, TeacherUnavailable
from distillgen.files import disk_errors, dumps
from distillgen.teacher.asking import Endpoint
from distillgen.teacher.models import Weights

START_SECONDS = 300.0
# How threads wait for each other. Those that go on looking collapse to a tenth of the speed beside any other busy
# process; those that sleep at once cost a small model a fifth of its speed. libgomp goes by the number of looks before
# the policy, other runtimes know the policy alone.
WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "500"}
ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def require_runtime() -> None:
    """Raise EmbeddedMissing with the exact command when the runtime is not installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise EmbeddedMissing(
            "the embedded teacher's runtime is not installed", fix="pip install 'distillgen[embedded]'"
        )


def compact(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a request whose labels come on one line: line breaks and indents took half of the tokens.

    The runtime does not tell of a schema that its llguidance cannot read, and holds the model to nothing then; so this
    is for closed sets alone. Source: https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
    """
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    if "grammar" in body or not _is_of_labels(schema):
        return body
    rest = {name: value for name, value in body.items() if name != "response_format"}
    return {**rest, "grammar": f"%llguidance {{}}\nstart: %json {dumps({**schema, 'x-guidance': ONE_LINE})}"}


def _is_of_labels(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is that of an object whose values are words of closed sets."""
    values = schema.get("properties", {}).values()
    return (
        bool(values) and schema.keys() <= {"type", "properties", "required", "additionalProperties"}
        and all(isinstance(value, dict) and value.keys() <= {"type", "enum"} for value in values)
        and all(value.get("enum") and all(isinstance(word, str) for word in value["enum"]) for value in values)
    )  # fmt: skip


class EmbeddedServer:
    """One child process for one set of weights; `endpoint()` starts it on demand and says where it listens."""

    def __init__(self, weights: Weights, log: Path) -> None:
        self.weights = weights
        self._log = log
        self._starting = asyncio.Lock()
        self._process: Process | None = None
        self._endpoint: Endpoint | None = None

    async def __aenter__(self) -> "EmbeddedServer":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop()

    async def endpoint(self) -> Endpoint:
        """Return where the server listens. Raises TeacherUnavailable when it cannot start or has ended."""
        if self._endpoint is None:
            async with self._starting:
                if self._endpoint is None:
                    self._endpoint = await self._start()
        if self._process is not None and self._process.returncode is not None:
            raise TeacherUnavailable(
                f"the embedded teacher ended (exit status {self._process.returncode}); {self._last_words()}",
                where=str(self._log),
                fix="was there enough memory? Run the same command again; every answer is kept",
            )
        return self._endpoint

    async def _start(self) -> Endpoint:
        require_runtime()
        key = secrets.token_urlsafe(32)
        with disk_errors(self._log):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            log: IO[bytes] = self._log.open("wb")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "distillgen.teacher.embedded_server", stdin=PIPE, stdout=PIPE, stderr=log,
                # Its own session: Ctrl-C in the terminal is for the parent, which drains before it ends the child.
                start_new_session=True,
                env={**os.environ, **WAITING, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        settings = {
            "path": str(self.weights.path), "name": self.weights.name, "key": key, "parent": os.getpid(),
            "slots": self.weights.slots, "context": self.weights.context, "threads": os.cpu_count() or 2,
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(settings) + b"\n")
        said = await self._first_word()
        return Endpoint(f"{said['url']}/v1", key, compact if said["compact"] else None)

    async def _first_word(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            raise TeacherUnavailable(f"the embedded teacher was not ready within {START_SECONDS:g} s") from None
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError:
            said = {}
        if "url" in said:
            return dict(said)
        raise TeacherUnavailable(
            f"the embedded teacher could not start: {said.get('error') or self._last_words()}",
            where=str(self._log),
            fix=f"is {self.weights.path} a chat model that llama.cpp can load, and is there memory?",
        )

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return "it left no log"
        return f"its last words: {lines[-1][:300]!r}" if lines else "it said nothing"

    async def stop(self) -> None:
        """End the child: close its pipe, then SIGTERM, then SIGKILL. Safe to call twice."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
