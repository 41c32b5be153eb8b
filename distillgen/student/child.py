"""Child processes that load the heavy libraries: settings go in as a line of JSON, lines of JSON come back, libraries
chatter into a log. A child ends with its parent, and tells its errors by kind."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import orjson

from distillgen.errors import FULL, Damaged, DiskFull, DistillgenError, ExtraMissing, Locked, MemoryFull, UsageError
from distillgen.files import disk_errors
from distillgen.teacher.embedded_server import die_with_parent

KINDS: Mapping[str, type[DistillgenError]] = {
    "disk": DiskFull, "memory": MemoryFull, "missing": ExtraMissing, "damaged": Damaged, "usage": UsageError,
    "locked": Locked,
}  # fmt: skip
# What libraries say, each by a type of its own, where there is no memory, or no room on the disk.
_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "bad_alloc")
_NO_ROOM = ("No space left", "os error 28", "os error 122", "PytorchStreamWriter failed", "unexpected pos")
LAST_WORDS_BYTES = 4096
# Of torchrun and its like: with these, libraries wait for processes that nobody has started.
OF_LAUNCHERS = frozenset({"WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"})
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
    with noise, started(module, settings, noise) as process:
        said = _answer(process, seconds)
    if said is None:
        raise UsageError(f"{doing} took longer than {seconds:g} seconds", where=str(log))
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


@contextlib.contextmanager
def started(
    module: str, settings: Mapping[str, Any], noise: IO[bytes], **environment: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start `python -m module`, tell it its settings, and have it ended when the block ends.

    Its standard input stays open until then: the end of that is our own, with which the child ends.
    """
    told = json.dumps({**settings, "parent": os.getpid()})  # in ASCII: a path need not be UTF-8
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module],  # -P: no file of the project is taken for a library
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise,
        # Its own session: Ctrl-C in the terminal is for the parent, which then ends the child.
        start_new_session=True,
        env={**{name: text for name, text in os.environ.items() if name not in OF_LAUNCHERS}, **SILENT, **environment},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it has died, of which its end tells
            process.stdin.write(told.encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        process.kill()  # of no effect on one that has ended
        process.wait()
        with contextlib.suppress(BrokenPipeError):  # of what a child that died at once has not read
            process.stdin.close()
        process.stdout.close()


def _answer(process: "subprocess.Popen[bytes]", seconds: float | None) -> Mapping[str, Any] | None:
    """Return the child's line, {} when it ended without one, None when it took longer than `seconds`."""
    assert process.stdout is not None
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
        return None
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
    settings = heard_from_parent(lambda: os._exit(1))
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        said: dict[str, Any] = {"answer": dict(work(settings))}
    except BaseException as error:
        log_error()
        said = told(error)
    os.write(answers, json.dumps(said).encode() + b"\n")
    os._exit(0 if "answer" in said else 1)


def heard_from_parent(gone: Callable[[], None]) -> dict[str, Any]:
    """Return the settings that the parent sends, and from then on call `gone` when there is no parent any more.

    Where the kernel does not tell (macOS), the end of the pipe does. Standard input is empty afterwards: a library that
    asks whether it may run a model's own code would wait for ever, behind whoever reads the pipe.
    """
    settings: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    die_with_parent(settings["parent"])

    def watch() -> None:
        while os.read(0, 4096):
            pass
        gone()

    threading.Thread(target=watch, daemon=True).start()
    sys.stdin = Path(os.devnull).open(encoding="utf-8")
    return settings


def log_error() -> None:
    """Write the error that is being handled into the log. A disk that is full is no reason not to tell of it."""
    with contextlib.suppress(OSError):
        traceback.print_exc()
        sys.stderr.flush()


def told(error: BaseException) -> dict[str, Any]:
    """Return an error as a child tells it: error, kind, fix."""
    kind = kind_of(error)
    if isinstance(error, DistillgenError):
        return {"error": error.problems[0].what, "fix": error.problems[0].fix, "kind": kind}
    if kind == "memory":
        return {"error": "there is not enough memory", "kind": kind, "fix": "use a smaller model"}
    if kind == "disk":
        return {"error": f"no room to write: {as_line(error)}", "kind": kind, "fix": "free some space"}
    return {"error": as_line(error), "kind": kind}


def kind_of(error: BaseException) -> str:
    """Return the kind of an error, one of KINDS: of a library's, by its words too."""
    if isinstance(error, DistillgenError):
        return next((kind for kind, known in KINDS.items() if type(error) is known), "usage")
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
        return "memory"
    if (isinstance(error, OSError) and error.errno in FULL) or any(sign in str(error) for sign in _NO_ROOM):
        return "disk"
    return "missing" if isinstance(error, ImportError) else "usage"


def as_line(error: BaseException) -> str:
    """Return a library's error as one line that is not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
