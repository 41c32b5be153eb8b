"""One piece of work in a child process: settings go in as a line of JSON, one line comes back, libraries chatter into a
log."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from distillgen.errors import FULL, Damaged, DiskFull, DistillgenError, ExtraMissing, MemoryFull, UsageError
from distillgen.files import disk_errors
from distillgen.teacher.embedded_server import die_with_parent

KINDS: Mapping[str, type[DistillgenError]] = {
    "disk": DiskFull, "memory": MemoryFull, "missing": ExtraMissing, "damaged": Damaged, "usage": UsageError
}  # fmt: skip
LAST_WORDS_BYTES = 4096
# Nothing of the network: all that the work needs is in the files that it is given.
SILENT = {
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore",
}  # fmt: skip


def run_child(
    module: str, settings: Mapping[str, Any], log: Path, *, doing: str, seconds: float | None = None
) -> dict[str, Any]:
    """Run `python -m module` on settings and return the line that it answers with, {} where it ends well without one.

    `doing` is what it does, for the errors: "unpacking X". The child ends with this process, and when it takes longer
    than `seconds`. Raises what the child says went wrong, MemoryFull where it was killed from outside.
    """
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        noise = log.open("wb")
    with noise:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise,
            bufsize=0,  # so that nothing is left to be written to a child that has died
            # Its own session: Ctrl-C in the terminal is for the parent, which then ends the child.
            start_new_session=True, env={**os.environ, **SILENT},
        )  # fmt: skip
    with process:
        try:
            said = _answer(process, {**settings, "parent": os.getpid()}, seconds)
        except subprocess.TimeoutExpired:
            raise UsageError(f"{doing} took longer than {seconds:g} seconds", where=str(log)) from None
        finally:
            process.kill()  # of no effect on one that has ended
    if "answer" in said:
        return dict(said["answer"])
    if "error" in said:
        raise KINDS.get(said.get("kind", ""), UsageError)(
            f"{doing} failed: {said['error']}", where=str(log), fix=str(said.get("fix", ""))
        )
    if process.returncode == 0:
        return {}
    if process.returncode == -9:
        raise MemoryFull(
            f"{doing} was killed from outside, most likely for want of memory", where=str(log),
            fix="end other programs, or use a smaller model",
        )  # fmt: skip
    raise UsageError(
        f"{doing} ended without a word (exit status {process.returncode}); {last_words(log)}", where=str(log)
    )


def _answer(
    process: "subprocess.Popen[bytes]", settings: Mapping[str, Any], seconds: float | None
) -> Mapping[str, Any]:
    """Return the child's line, {} when it ended without one. Its standard input stays open: its end is our own."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(orjson.dumps(settings) + b"\n")
        process.stdin.flush()
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds or 0.0, end)
    if seconds is not None:
        timer.start()
    try:
        lines = process.stdout.read().splitlines()
        process.wait()
    finally:
        timer.cancel()
    if late.is_set() and not lines:
        raise subprocess.TimeoutExpired(process.args, seconds or 0.0)
    try:
        said = orjson.loads(lines[-1]) if lines else {}
    except orjson.JSONDecodeError:
        said = {}
    return said if isinstance(said, dict) else {}


def last_words(log: Path) -> str:
    """Return the last line of a log, as the end of an error."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_WORDS_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return "it left no log"
    return f"its last words: {lines[-1][:300]!r}" if lines else "it said nothing"


def serve_parent(work: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Be the child: do the work on the settings that come in, and answer in one line.

    What libraries print goes to the log. Ends with the parent, `kill -9` included.
    """
    settings = json.loads(sys.stdin.buffer.readline())
    die_with_parent(settings["parent"])
    threading.Thread(target=_watch, daemon=True).start()
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        said: dict[str, Any] = {"answer": dict(work(settings))}
    except BaseException as error:
        traceback.print_exc()  # into the log
        said = _told(error)
    os.write(answers, json.dumps(said).encode() + b"\n")
    os._exit(0 if "answer" in said else 1)


def _watch() -> None:
    """Where no kernel tells (macOS), the end of the pipe does."""
    sys.stdin.buffer.read()
    os._exit(1)


def _told(error: BaseException) -> dict[str, Any]:
    if isinstance(error, DistillgenError):
        kind = next((kind for kind, known in KINDS.items() if type(error) is known), "usage")
        return {"error": error.problems[0].what, "fix": error.problems[0].fix, "kind": kind}
    if isinstance(error, OSError) and error.errno in FULL:
        return {"error": f"no room to write: {error.strerror}", "kind": "disk", "fix": "free some space"}
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return {"error": "there is not enough memory", "kind": "memory", "fix": "use a smaller model"}
    kind = "missing" if isinstance(error, ImportError) else "usage"
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}", "kind": kind}
