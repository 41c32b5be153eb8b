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
    """Open a file to write rows to, if one is named."""
    from distillgen.files import disk_errors

    if path is None:
        return None
    with disk_errors(path):
        return files.enter_context(path.open("wb"))


def write_row(file: IO[bytes] | None, row: dict[str, Any], *, at_once: bool) -> None:
    """Write one row, if there is a file for it. Raises DiskFull or NotWritable, BrokenPipeError when nobody reads."""
    from distillgen.files import json_line

    if file is not None:
        with _written(file):
            file.write(json_line(row) + b"\n")
            if at_once:
                file.flush()


class Outlet:
    """Standard output at the end of a command of a pipe: whole lines, in order, and an end when nobody reads any more.

    A line that comes alone leaves at once. Of lines that come fast, the first leaves at once and the others together
    with those of the next TOGETHER seconds, or as soon as they fill a BLOCK; `each` and a terminal make every line
    leave by itself. Nothing here keeps the event loop waiting for a slow reader. The files that `put_aside` writes to
    follow the same beat.

    Raises BrokenPipeError when nobody reads, DiskFull and NotWritable.
    """

    def __init__(self, *, each: bool) -> None:
        self._number = _output_number()
        self._each = each or os.isatty(self._number)
        self._is_file = stat.S_ISREG(os.fstat(self._number).st_mode)
        self._state = select.poll()
        self._state.register(self._number, select.POLLOUT)
        self._lines: list[bytes] = []
        self._size = 0
        self._left = 0.0  # when lines left last, monotonic seconds
        self._aside: list[IO[bytes]] = []
        self._some = asyncio.Event()
        self._turn = asyncio.Lock()
        self._has_failed = False

    async def write(self, line: bytes) -> None:
        """Take one line, without its end."""
        self._lines.append(line + b"\n")
        self._size += len(line) + 1
        if self._each or self._size >= BLOCK or time.monotonic() - self._left >= TOGETHER:
            await self.flush()
        elif not self._some.is_set():
            self._some.set()

    def put_aside(self, file: IO[bytes] | None, row: dict[str, Any]) -> None:
        """Write a row to a file for what is left out, if there is one."""
        if file is None:
            return
        write_row(file, row, at_once=self._each)
        if file not in self._aside:
            self._aside.append(file)
        self._some.set()

    async def flush(self) -> None:
        """Let everything leave that was taken."""
        async with self._turn:
            self._some.clear()
            try:
                await self._empty()
            except Exception:
                self._has_failed = True
                raise
            self._left = time.monotonic()

    async def _empty(self) -> None:
        for file in self._aside:
            with _written(file):
                file.flush()
        lines, self._lines, self._size = self._lines, [], 0
        if lines:
            await self._send(b"".join(lines))

    def _is_gone(self) -> bool:
        """Whether nobody reads any more."""
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in self._state.poll(0))

    async def _send(self, content: bytes) -> None:
        """Write all of it, in pieces that do not make this process wait: a regular file takes it whole."""
        rest = memoryview(content)
        while rest:
            if self._is_file or self._state.poll(0):
                try:
                    rest = rest[os.write(self._number, rest if self._is_file else rest[:PIECE]) :]
                except BrokenPipeError:
                    raise
                except BlockingIOError:  # somebody else made the pipe so
                    await self._room()
                except OSError as error:
                    raise _refused(error, "standard output") from None
            else:
                await self._room()

    async def _room(self) -> None:
        """Wait until a piece can be written, or nobody reads."""
        loop, room = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self._number, room.set)
        try:
            await room.wait()
        finally:
            loop.remove_writer(self._number)

    async def attend(self) -> None:
        """Let lines leave that waited long enough, and look now and then whether anybody reads.

        Ends with an error, or when whoever writes has met one: it drains already, which nothing may cut short.
        """
        was_gone = False
        while not self._has_failed:
            try:
                async with asyncio.timeout(LOOK):
                    await self._some.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(TOGETHER)
            if not self._has_failed:
                await self.flush()
                is_gone = self._is_gone()
                if is_gone and was_gone:  # once is no proof: a reader that took everything goes before we have ended
                    raise BrokenPipeError
                was_gone = is_gone


async def pour(work: Coroutine[Any, Any, None], out: Outlet) -> None:
    """Run work that writes to `out`, until all has left.

    When nobody reads any more, or there is no room, the work is cancelled, so that it drains, and that error is raised.
    """
    task, attendant = asyncio.ensure_future(work), asyncio.create_task(out.attend())
    try:
        await asyncio.wait({task, attendant}, return_when=asyncio.FIRST_COMPLETED)
        if attendant.done() and attendant.exception() is None:  # the work met an error itself, and drains
            await asyncio.wait({task})
    except asyncio.CancelledError:
        await _end(task, attendant)
        with contextlib.suppress(Exception):  # that it was stopped says more
            await out.flush()
        raise
    await _end(task, attendant)
    if not attendant.cancelled() and (error := attendant.exception()):
        raise error
    try:
        task.result()
    except BrokenPipeError:
        raise
    except Exception:
        with contextlib.suppress(Exception):  # the first error says more
            await out.flush()
        raise
    await out.flush()


async def _end(*tasks: asyncio.Future[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
