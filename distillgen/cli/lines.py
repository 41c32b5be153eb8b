"""What the commands of a pipe share: JSON lines out, each at once; files for what is left out; what is said at the end.

JSON is UTF-8, whatever the terminal speaks.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from distillgen.tally import Tally

RejectedFile = Annotated[
    Path | None,
    typer.Option("--rejected", metavar="FILE", help="Write rows that were left out there.", show_default=False),
]


def opened(path: Path | None, files: contextlib.ExitStack) -> IO[bytes] | None:
    """Open a file to write rows to, if one is named."""
    from distillgen.files import disk_errors

    if path is None:
        return None
    with disk_errors(path):
        return files.enter_context(path.open("wb"))


LEFT_OUT = "left_out"  # the key of the reason beside a row that was left out: no format of rows has it


def write_row(file: IO[bytes] | None, row: dict[str, Any]) -> None:
    """Write one row, if there is a file for it: see write_line."""
    from distillgen.files import json_line

    if file is not None:
        write_line(file, json_line(row))


def write_line(file: IO[bytes], line: bytes) -> None:
    """Write one line at once. Raises DiskFull or NotWritable, BrokenPipeError when nobody reads."""
    with _written(file):
        file.write(line + b"\n")
        file.flush()


@contextlib.contextmanager
def _written(file: IO[bytes]) -> Iterator[None]:
    """Turn a refusal to write to an open file into an error that says what to do; not that nobody reads."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        from distillgen.files import disk_errors

        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # else its rest is tried again at the end, in vain
        with disk_errors(file.name):
            raise error from None


@contextlib.contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Open standard output for many lines. Raises DiskFull or NotWritable, BrokenPipeError when nobody reads."""
    out = sys.stdout.buffer
    with _written(out):
        yield out
        out.flush()


def say_what_was_left_out(tally: "Tally") -> None:
    """Print how many rows were rejected and failed, and why."""
    from distillgen.report import console

    if tally.rejected or tally.failed:
        reasons = console.counts(dict(tally.reasons()))
        console.say(f"{tally.rejected:,} rejected, {tally.failed:,} failed: {reasons}", style="yellow")
