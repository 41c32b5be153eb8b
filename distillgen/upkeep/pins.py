"""Versions that somebody wants to keep: the file `pinned` in a dataset's folder names them, and `gc` lets them be."""

import re
from collections.abc import Callable, Collection
from pathlib import Path

from distillgen.dataset.versions import folder_of
from distillgen.errors import Damaged
from distillgen.files import Lock, disk_errors, write_atomically

FILE_NAME = "pinned"
_LINE = re.compile(r"v([0-9]{4,9})")


def pinned(home: Path) -> set[int]:
    """Return the numbers of a dataset's pinned versions. Raises Damaged for a line that names none: better keep all."""
    path = home / FILE_NAME
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}", where=str(path)) from None
    found = {number: _LINE.fullmatch(line.strip()) for number, line in enumerate(lines, 1) if line.strip()}
    for number, match in found.items():
        if match is None:
            raise Damaged(
                f"line {number} names no version: {lines[number - 1][:80]!r}", where=str(path),
                fix="each line names one, as in `v0003`; mend or delete the line",
            )  # fmt: skip
    return {int(match[1]) for match in found.values() if match is not None}


def pin(home: Path, number: int) -> bool:
    """Pin a version; return whether it was not yet. Raises Locked while a build is at work."""
    return _change(home, lambda numbers: numbers | {number})


def unpin(home: Path, number: int) -> bool:
    """Let `gc` have a version when it is old; return whether it was pinned. Raises Locked while a build is at work."""
    return _change(home, lambda numbers: numbers - {number})


def _change(home: Path, change: Callable[[set[int]], set[int]]) -> bool:
    with Lock(home / ".lock"):
        before = pinned(home)
        after = change(before)
        if after == before:
            return False
        if after:
            write_atomically(home / FILE_NAME, _text(after).encode())
        else:
            with disk_errors(home):
                (home / FILE_NAME).unlink()
        return True


def _text(numbers: Collection[int]) -> str:
    return "".join(f"{folder_of(Path(), number).name}\n" for number in sorted(numbers))
