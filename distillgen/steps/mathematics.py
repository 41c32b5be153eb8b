"""Whether two mathematical answers mean the same, by math-verify, in child processes that hostile input can only end.

A comparison may explode (sympy evaluates towers of powers), so it is bounded by the kernel: processor time and address
space. math-verify's own time-outs work by signals, which only a main thread has, and are turned off.
"""

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from typing import Any, NamedTuple

import orjson

from distillgen.errors import ExtraMissing
from distillgen.steps.sandbox import end_process, start_process

SECONDS = 5.0  # of processor time for one comparison; on the clock, four times as many
MEMORY_MB = 1024
START_SECONDS = 120.0  # to load sympy, on a machine that has other things to do
SHORT = 200  # characters up to which a text without $ or \boxed may be a formula as a whole
SHOWN = 80
ENDED = "ended math-verify: nested too deeply, or more memory than there is"
_MARKS = ("$", "\\boxed", "\\(", "\\[")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


class Compared(NamedTuple):
    """What came of a comparison. `want` is empty when the reference holds no mathematics, `got` when the answer does.

    `trouble` says why there is no verdict: time, memory, a crash.
    """

    is_right: bool
    got: str = ""
    want: str = ""
    trouble: str = ""


def require_mathematics() -> None:
    """Raise ExtraMissing with the exact command when math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ExtraMissing("math-verify is not installed", fix="pip install 'distillgen[math]'")


class Mathematics:
    """Compares in worker processes, started when needed, at most one per processor, and kept until `aclose`."""

    def __init__(self, *, seconds: float = SECONDS, memory_mb: int = MEMORY_MB) -> None:
        require_mathematics()
        self._seconds, self._memory_mb = seconds, memory_mb
        self._slots = asyncio.Semaphore(os.cpu_count() or 1)
        self._idle: list[Process] = []

    async def compare(self, answer: str, reference: str) -> Compared:
        """Say whether an answer means the same as its reference. Raises OSError when no process can be started."""
        async with self._slots:
            waiting = await self._waiting()
            compared = None if waiting is None else await self._compared(waiting, answer, reference)
            if compared is None or compared.trouble == ENDED:  # what waited may have been ended meanwhile
                compared = await self._compared(await self._start(), answer, reference)
            return compared

    async def _waiting(self) -> Process | None:
        """Return a worker that waits, if there is one; those that have been ended from outside are let go."""
        while self._idle:
            worker = self._idle.pop()
            if worker.returncode is None:
                return worker
            await end_process(worker)
        return None

    async def _compared(self, worker: Process, answer: str, reference: str) -> Compared:
        """Ask a worker; it waits for more afterwards, unless it is of no use any more."""
        try:
            compared = await self._ask(worker, answer, reference)
        except BaseException:
            await end_process(worker)
            raise
        if compared.trouble:
            await end_process(worker)
        else:
            self._idle.append(worker)
        return compared

    async def _start(self) -> Process:
        # Of the environment nothing but what finds modules and libraries: no key is of use here.
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ}
        kept["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path.startswith("/"))
        command = [sys.executable, "-P", "-m", __name__, str(self._seconds), str(self._memory_mb)]
        environment = {**kept, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
        worker = await start_process(command, environment, DEVNULL)
        try:
            assert worker.stdout is not None
            async with asyncio.timeout(START_SECONDS):
                if await worker.stdout.readline() == b"ready\n":
                    return worker
        except TimeoutError:
            await end_process(worker)
            raise OSError(f"math-verify was not ready within {START_SECONDS:g} s") from None
        except BaseException:
            await end_process(worker)
            raise
        await end_process(worker)
        raise ExtraMissing(
            "math-verify does not run here (an antlr4 runtime that it does not know, or too little memory?)",
            fix="pip install --force-reinstall 'distillgen[math]'",
        )

    async def _ask(self, worker: Process, answer: str, reference: str) -> Compared:
        assert worker.stdin is not None and worker.stdout is not None
        clock = 4 * self._seconds
        try:
            async with asyncio.timeout(clock):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    worker.stdin.write(orjson.dumps([_clean(answer), _clean(reference)]) + b"\n")
                    await worker.stdin.drain()
                said = await worker.stdout.readline()
                status = 0 if said.endswith(b"\n") else await worker.wait()
        except TimeoutError:
            return Compared(False, trouble=f"took more than {clock:g} s")
        if said.endswith(b"\n"):
            return Compared(*orjson.loads(said))
        if status == -signal.SIGPROF:
            return Compared(False, trouble=f"took more than {self._seconds:g} s of processor time")
        return Compared(False, trouble=ENDED)

    async def aclose(self) -> None:
        """End the workers. Safe to call twice."""
        while self._idle:
            await end_process(self._idle.pop())


def _clean(text: str) -> str:
    """Return a text that can be UTF-8: half a surrogate pair cannot."""
    return text.encode("utf-8", "replace").decode()


# -- the worker -----------------------------------------------------------------------------------------------------


def compare(answer: str, reference: str, memory_mb: int = MEMORY_MB) -> Compared:
    """Compare in this process, without any bound."""
    from math_verify import verify

    try:
        wanted = _parsed(reference)
        got = _parsed(answer)
        if not wanted or not got:
            return Compared(False, _shown(got), _shown(wanted))
        is_right = bool(verify(wanted, got, timeout_seconds=None, raise_on_error=True))
        return Compared(is_right, _shown(got), _shown(wanted))
    except MemoryError:
        return Compared(False, trouble=f"needed more than {memory_mb} MB of memory")
    except Exception as error:  # whatever sympy trips over: the two could not be shown to be equal
        return Compared(False, trouble=f"math-verify cannot compare them ({type(error).__name__})")


def _parsed(text: str) -> list[Any]:
    """Return what math-verify reads in a text: an expression and its spelling, or nothing."""
    from math_verify import parse

    found: list[Any] = []
    for spelling in _spellings(text):
        found = found or parse(spelling, parsing_timeout=None, raise_on_error=True)
    return found


def is_marked(text: str) -> bool:
    """Whether a text says where its mathematics is."""
    return any(mark in text for mark in _MARKS)


def _spellings(text: str) -> list[str]:
    """Return the ways to read a text, in order: a short line without marks may be a formula, or a word, as a whole."""
    bare = text.strip().rstrip(".").rstrip()
    if is_marked(text) or "\n" in bare or not 0 < len(bare) <= SHORT:
        return [text]
    if not _WORD.search(bare):
        return [f"${bare}$"]
    return [text, f"${bare}$" if "\\" in bare else f"$\\text{{{bare}}}$"]


def _shown(found: list[Any]) -> str:
    return next((each[:SHOWN] for each in reversed(found) if isinstance(each, str)), "")


def _limit(memory_mb: int) -> None:
    """Give up what a comparison does not need."""
    import resource

    from distillgen.steps import sandbox_child

    for limit, most in (
        (resource.RLIMIT_AS, memory_mb * 1024 * 1024), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        with contextlib.suppress(ValueError, OSError):  # macOS does not know them all
            resource.setrlimit(limit, (most, most))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, KeyError):  # one wall more, where there is one
            sandbox_child.refuse_system_calls()


def main() -> None:
    """Run a worker: lines of JSON in, lines of JSON out, until its input ends."""
    seconds, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    compare("$\\frac{x}{2}$", "$0.5x$")  # load everything before the clock runs
    _limit(memory_mb)
    channel.write(b"ready\n")
    channel.flush()
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process, whatever that is doing
        answer, reference = orjson.loads(line)
        said = orjson.dumps([*compare(answer, reference, memory_mb)])
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.write(said + b"\n")
        channel.flush()


if __name__ == "__main__":
    main()
