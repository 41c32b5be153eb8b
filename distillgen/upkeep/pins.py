"""Versions that somebody wants to keep: the file `pinned` in a dataset's folder names them, and `gc` lets them be."""

import re
from collections.abc import Callable
from pathlib import Path

from distillgen.dataset.room import when_full
from distillgen.dataset.versions import folder_of
from distillgen.errors import Damaged
from distillgen.files import Lock, disk_errors, write_atomically

FILE_NAME = "pinned"
_LINE = re.compile(r"v?([0-9]{1,9})")


def pinned(home: Path) -> set[int]:
    """Return the numbers of a dataset's pinned versions. Raises Damaged for a line that names none: better keep all."""
    return {number for _, number in _lines(home) if number is not None}


def _lines(home: Path) -> list[tuple[str, int | None]]:
    """Return each line of the file with the number that it names: None for an empty one, and for a comment."""
    path = home / FILE_NAME
    try:
        if path.exists() and not path.is_file():
            raise Damaged("this is no file", where=str(path), fix="move it away, then pin again what shall stay")
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}", where=str(path)) from None
    return [(line, _number(line, f"line {number}", path)) for number, line in enumerate(lines, 1)]


def _number(line: str, which: str, path: Path) -> int | None:
    said = line.partition("#")[0].strip()
    if not said:
        return None
    if (found := _LINE.fullmatch(said)) is None:
        raise Damaged(
            f"{which} names no version: {line[:80]!r}", where=str(path),
            fix="each line names one, as in `v0003`; mend or delete the line",
        )  # fmt: skip
    return int(found[1])


def pin(home: Path, number: int) -> bool:
    """Pin a version; return whether it was not yet. Raises Locked while a build is at work."""
    more = (folder_of(Path(), number).name, number)
    return _change(home, lambda lines: lines if any(each == number for _, each in lines) else [*lines, more])


def unpin(home: Path, number: int) -> bool:
    """Let `gc` have a version when it is old; return whether it was pinned. Raises Locked while a build is at work."""
    return _change(home, lambda lines: [line for line in lines if line[1] != number])


def _change(home: Path, change: Callable[[list[tuple[str, int | None]]], list[tuple[str, int | None]]]) -> bool:
    """Change the lines of the file, which keeps its comments; the last line takes the file with it."""
    with when_full("the pins are as they were"), Lock(home / ".lock"):
        before = _lines(home)
        after = change(before)
        if after == before:
            return False
        if after:
            write_atomically(home / FILE_NAME, "".join(f"{line}\n" for line, _ in after).encode())
        else:
            with disk_errors(home):
                (home / FILE_NAME).unlink()
        return True
