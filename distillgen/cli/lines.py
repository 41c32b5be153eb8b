"""What the commands of a pipe share: rows in from standard input, whole lines out, files for what is left out.

JSON is UTF-8, whatever the terminal speaks.
"""

import asyncio
import contextlib
import os
import select
import stat
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from distillgen.errors import DistillgenError
    from distillgen.tally import Tally

RejectedFile = Annotated[
    Path | None,
    typer.Option("--rejected", metavar="FILE", help="Write rows that were left out there.", show_default=False),
]
LineBuffered = Annotated[
    bool, typer.Option("--line-buffered", help="Write each line by itself, even when many come at once.")
]
LEFT_OUT = "left_out"  # the key of the reason beside a row that was left out: no format of rows has it
TOGETHER = 0.05  # seconds that a line may wait for others to leave with it
BLOCK = 65_536  # bytes of lines that leave without waiting: what a pipe of Linux holds
PIECE = select.PIPE_BUF  # bytes that a pipe with room takes without making the writer wait
PARTING = 2.0  # seconds that a slow reader has to take the last lines of a command that was stopped
LOOK = 0.5  # seconds after which a command with nothing to write looks whether anybody still reads


def standard_input(command: str) -> int:
    """Return the number of standard input. Raises UsageError where it is closed, or a terminal, which sends no rows."""
    from distillgen.errors import UsageError

    fix = f"give it a file or a pipe: distillgen {command} ... < rows.jsonl"
    if sys.__stdin__ is None:
        raise UsageError("standard input is closed", fix=fix)
    if os.isatty(0):
        or_name = "name a dataset, or " if command == "export" else ""
        raise UsageError("rows come from standard input, and that is a terminal", fix=or_name + fix)
    return 0


def _output_number() -> int:
    """Return the number of standard output. Raises NotWritable where it is closed: rows would be lost in silence."""
    if sys.__stdout__ is None:
        from distillgen.errors import NotWritable

        raise NotWritable("standard output is closed", fix="give it a file or a pipe: > rows.jsonl")
    return sys.stdout.fileno()


def opened(path: Path | None, files: contextlib.ExitStack) -> IO[bytes] | None:
    """Open a file to write rows to, if one is named: unbuffered, and two may name the same.

    Raises DiskFull or NotWritable, UsageError for standard input or output, whose rows it would destroy.
    """
    from distillgen.errors import UsageError
    from distillgen.files import disk_errors

    if path is None:
        return None
    with contextlib.suppress(OSError):  # not there, or an end that is closed
        there = path.stat()
        for number, name in ((0, "input"), (1, "output")):
            if stat.S_ISREG(there.st_mode) and os.path.samestat(there, os.fstat(number)):
                raise UsageError(f"standard {name} is this file", where=str(path), fix="choose another file")
    with disk_errors(path):
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
    return files.enter_context(os.fdopen(number, "wb", buffering=0))


def write_row(file: IO[bytes], row: dict[str, Any]) -> None:
    """Write one row. Raises DiskFull or NotWritable, BrokenPipeError when nobody reads."""
    from distillgen.files import json_line

    rest = memoryview(json_line(row) + b"\n")
    with _written(file):
        while rest:
            rest = rest[file.write(rest) :]


class _Way:
    """Where lines leave, standard output or a file for what is left out; `held` are the bytes that have not left."""

    def __init__(self, number: int, name: str) -> None:
        self._number, self._name = number, name
        self._is_file = stat.S_ISREG(os.fstat(number).st_mode)
        self._state = select.poll()
        self._state.register(number, select.POLLOUT)
        self.held = bytearray()

    def is_gone(self) -> bool:
        """Whether nobody reads any more."""
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in self._state.poll(0))

    async def empty(self) -> None:
        """Let leave what is held. Cancelled, it keeps the rest; what is refused is given up, with an error."""
        try:
            while self.held:
                if not (self._is_file or self._state.poll(0)) or not self._write():
                    await self._room()
        except Exception:
            self.held.clear()
            raise

    def _write(self) -> bool:
        """Write a piece that does not make this process wait, of whole lines if it can; a regular file takes all.

        Returns whether there was room for it.
        """
        end = len(self.held) if self._is_file else self.held.rfind(b"\n", 0, PIECE) + 1 or PIECE
        try:
            del self.held[: os.write(self._number, self.held[:end])]
        except BlockingIOError:  # somebody else made the pipe so
            return False
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _refused(error, self._name) from None
        return True

    async def _room(self) -> None:
        """Wait until a piece can be written, or nobody reads."""
        loop, room = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self._number, room.set)
        try:
            await room.wait()
        finally:
            loop.remove_writer(self._number)


class Outlet:
    """The end of a command of a pipe: whole lines, in order, and an end when nobody reads standard output any more.

    A line that comes alone leaves at once. Of lines that come fast, the first leaves at once and the others together
    with those of the next TOGETHER seconds, or as soon as they fill a BLOCK; `each` and a terminal make every line
    leave by itself. The files that `put_aside` writes to follow the same beat. Nothing here keeps the event loop
    waiting for a slow reader, so that a signal is heard.

    Raises BrokenPipeError when nobody reads, DiskFull and NotWritable.
    """

    def __init__(self, *, each: bool) -> None:
        number = _output_number()
        self._each = each or os.isatty(number)
        self._main = _Way(number, "standard output")
        self._aside: dict[int, _Way] = {}  # by number
        self._left = 0.0  # when lines left last, monotonic seconds
        self._some = asyncio.Event()
        self._turn = asyncio.Lock()
        self.has_failed = False  # whoever writes has met an error, and drains

    async def write(self, line: bytes) -> None:
        """Take one line, without its end."""
        await self._take(self._main, line, at_once=time.monotonic() - self._left >= TOGETHER)

    async def put_aside(self, file: IO[bytes] | None, row: dict[str, Any]) -> None:
        """Take a row for a file for what is left out, if there is one."""
        from distillgen.files import json_line

        if file is not None:
            number = file.fileno()
            way = self._aside.get(number) or self._aside.setdefault(number, _Way(number, str(file.name)))
            await self._take(way, json_line(row), at_once=False)

    async def _take(self, way: _Way, line: bytes, *, at_once: bool) -> None:
        way.held += line
        way.held += b"\n"
        if not (at_once or self._each or len(way.held) >= BLOCK):
            self._some.set()
            return
        try:
            await self.flush()
        except Exception:
            self.has_failed = True
            raise

    async def flush(self) -> None:
        """Let everything leave that was taken."""
        async with self._turn:
            self._some.clear()
            for way in (*self._aside.values(), self._main):
                await way.empty()
            self._left = time.monotonic()

    async def attend(self) -> None:
        """Let lines leave that waited long enough, and look now and then whether anybody reads; ends with an error."""
        was_gone = False
        while True:
            try:
                async with asyncio.timeout(LOOK):
                    await self._some.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(TOGETHER)
            await self.flush()
            is_gone = self._main.is_gone()
            if is_gone and was_gone:  # once is no proof: a reader that took everything goes before we have ended
                raise BrokenPipeError
            was_gone = is_gone


async def pour(work: Coroutine[Any, Any, None], out: Outlet) -> None:
    """Run work that writes to `out`, until all has left.

    When nobody reads any more, or there is no room, the work is cancelled, so that it drains, and that error is raised.
    Cancelled itself, it drains too, and lets leave what a slow reader takes within PARTING seconds.
    """
    try:
        error = await _first_error(work, out)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # that it was stopped says more
            async with asyncio.timeout(PARTING):
                await out.flush()
        raise
    if error is None:
        await out.flush()
        return
    with contextlib.suppress(Exception):  # the first error says more
        await out.flush()
    raise error


async def _first_error(work: Coroutine[Any, Any, None], out: Outlet) -> Exception | None:
    """Run work and attend to its lines until it has ended, or has drained; return the error that ended it, if any."""
    task, attendant = asyncio.ensure_future(work), asyncio.create_task(out.attend())
    ends = asyncio.gather(attendant, task, return_exceptions=True)
    try:
        await asyncio.wait({task, attendant}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        attendant.cancel()
        if not out.has_failed:  # else it drains already, which nothing may cut short
            task.cancel()
        try:
            await asyncio.shield(ends)
        finally:
            await ends  # a signal comes in the middle: it drains already too
    return next((end for end in ends.result() if isinstance(end, Exception)), None)


@contextlib.contextmanager
def _written(file: IO[bytes], what: str = "") -> Iterator[None]:
    """Turn a refusal to write to an open file into an error that says what to do; not that nobody reads."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # else its rest is tried again at the end, in vain
        if isinstance(error, BrokenPipeError):
            raise
        raise _refused(error, what or str(file.name)) from None


def _refused(error: OSError, what: str) -> "DistillgenError":
    """Return what is true of a pipe: there is no state to go on from but the rows that have left."""
    from distillgen.errors import FULL, DiskFull, NotWritable

    if error.errno in FULL:
        fix = "free some space and run the whole pipe again; the rows behind those that were written are not there"
        return DiskFull(f"no room to write {what}: {error.strerror}", fix=fix)
    return NotWritable(f"cannot write {what}: {error.strerror}", fix="choose another file or pipe")


@contextlib.contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Open standard output for many lines. Raises DiskFull or NotWritable, BrokenPipeError when nobody reads."""
    _output_number()
    out = sys.stdout.buffer
    with _written(out, "standard output"):
        yield out
        out.flush()


def say_what_was_left_out(tally: "Tally") -> None:
    """Print how many rows were rejected and failed, and why."""
    from distillgen.report import console

    if tally.rejected or tally.failed:
        reasons = console.counts(dict(tally.reasons()))
        console.say(f"{tally.rejected:,} rejected, {tally.failed:,} failed: {reasons}", style="yellow")
