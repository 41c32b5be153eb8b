"""Rows that must not be in a dataset: those of `[dataset] exclude`, and those that `forget` erased, by their ids.

Both are text files of one id a line. A seed is left out before it sets out, a sample before its teacher is asked, an
element of a list as soon as it is a row.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distillgen.errors import Damaged, Problem
from distillgen.files import disk_errors, write_atomically
from distillgen.rows import Rejection, Row

STEP = "exclude"  # in the funnel, of what is left out before any other step
EXCLUDED, FORGOTTEN = "excluded", "forgotten"  # rules
FORGOTTEN_FILE = "forgotten.txt"  # in a dataset's folder
_HEAD = (
    "# Rows that were erased with `distillgen forget`. Every build of this dataset reads this file: keep it.\n"
    "# One id a line, as in a file for [dataset] exclude.\n"
)
TOLD = 10  # problems of one file, and ids of one warning
_HALF = 8  # characters: half of a seed's id
_GLOB = re.compile(r"[*?\[\]]")
_ADDED = re.compile(r"(?:\.[0-9]+)+$")  # what stands behind a seed's id in that of a row
_ID = re.compile(
    r"(?:[a-z2-7]{16}(?:-[0-9]+)?"  # a seed, or one that is there again
    r"|[0-9]+(?:\.[0-9]+)*\.bootstrap-[0-9]+-[0-9]+)"  # a draw of a round
    r"(?:\.[0-9]+)*"
)


class Entry(NamedTuple):
    """Why an id is left out: the rule, and the file and line that name it."""

    rule: str
    where: str


def origin_of(row_id: str) -> str:
    """Return the id of the seed that a row's id begins with."""
    return _ADDED.sub("", row_id)


def parent_of(row_id: str) -> str | None:
    """Return the id of the row that one was made from by sampling, or out of a list; None for a seed's."""
    return row_id.rpartition(".")[0] if _ADDED.search(row_id) else None


def is_id(text: str) -> bool:
    """Whether a text can be the id of a seed or a row."""
    return _ID.fullmatch(text) is not None


def covers(row_id: str, wanted: str) -> bool:
    """Whether a row is the wanted one, or was made from it: `abc.2` is of `abc`, and `abc.2.0` of both."""
    return row_id == wanted or row_id.startswith(f"{wanted}.")


def forgotten_record(row_id: str) -> dict[str, Any]:
    """Return what `rejected` says of a row that was erased: that it was, and nothing of what it held."""
    return {
        "id": row_id, "step": "forget", "rule": FORGOTTEN, "detail": f"erased: {FORGOTTEN_FILE} names it",
        "origin": origin_of(row_id), "parent": parent_of(row_id), "steps": [], "columns": {},
    }  # fmt: skip


# -- the files -------------------------------------------------------------------------------------------------------


def read_excluded(path: Path, shown: str) -> tuple[dict[str, Entry], list[Problem]]:
    """Read an exclude file, which errors and evidence call `shown`; return its ids, and what is wrong with it."""
    if _GLOB.search(shown) and not path.exists():
        return {}, [Problem(f"{shown!r} is a pattern; one file is wanted", "", "put all ids into one file")]
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device may never end
            return {}, [Problem(f"{shown!r} is no file", "", "write one id a line; # begins a comment")]
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return {}, [Problem(f"cannot read {shown!r}: {reason}", "", "write one id a line; # begins a comment")]
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        where = f"{path}:{number}"
        try:
            text = _id_in(line.decode())
        except UnicodeDecodeError as error:
            problems.append(Problem(f"not UTF-8 (byte {error.start} of the line)", where, "save it as UTF-8"))
            continue
        if not text:
            continue
        if wrong := _wrong(text):
            problems.append(Problem(*wrong[:1], where, wrong[1]))
        else:
            entries.setdefault(text, Entry(EXCLUDED, f"{shown}:{number}"))
    if len(problems) > TOLD:
        problems[TOLD:] = [Problem(f"... and {len(problems) - TOLD:,} more lines that are no ids", str(path))]
    return entries, problems


def _id_in(line: str) -> str:
    """Return what stands on a line before a comment."""
    return line.partition("#")[0].strip()


def _wrong(text: str) -> tuple[str, str] | None:
    """Say why a text cannot be an id, and how it can; None when it can."""
    said = repr(text if len(text) <= 80 else f"{text[:77]}...")
    if is_id(text):
        return None
    if _GLOB.search(text):
        return f"{said} is a pattern", "name each id; a seed's id stands for all its rows"
    fix = "a seed's id is 16 of a-z and 2-7, as `distillgen show` prints it; .2 behind it names one of its rows"
    return f"{said} cannot be an id", fix


def read_forgotten(home: Path) -> dict[str, Entry]:
    """Return the rows of a dataset that were erased. Raises Damaged when the file cannot be read: better build none."""
    path = home / FORGOTTEN_FILE
    try:
        if path.exists() and not path.is_file():
            raise Damaged("this is no file", where=str(path), fix="move it away, and put the file of erased rows here")
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}"
        raise Damaged(
            what, where=str(path), fix="mend it; a build without it would ask for erased rows again"
        ) from None
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, 1):
        if row_id := _id_in(line):
            entries.setdefault(row_id, Entry(FORGOTTEN, f"{FORGOTTEN_FILE}:{number}"))
    return entries


def put_on_record(home: Path, row_ids: Iterable[str], said: str) -> list[str]:
    """Have every later build of a dataset leave rows out; return those that were not on record yet.

    `said` stands behind each as a comment. Raises Damaged, DiskFull or NotWritable.
    """
    known = read_forgotten(home)
    new = [each for each in dict.fromkeys(row_ids) if each not in known]
    if new:
        path = home / FORGOTTEN_FILE
        with disk_errors(home):
            before = path.read_text(encoding="utf-8-sig") if path.exists() else _HEAD
        before += "" if before.endswith("\n") else "\n"
        write_atomically(path, (before + "".join(f"{each}  # {said}\n" for each in new)).encode())
    return new


# -- the road --------------------------------------------------------------------------------------------------------


@dataclass
class Near:
    """What was met that is like an id which nothing had."""

    seed: str | None = None
    has_seed: bool = False


class Excluded:
    """The ids that one run leaves out, and which of them it met.

    `unasked` counts, for each step, the samples for which no teacher is asked.
    """

    def __init__(self, entries: Mapping[str, Entry] | None = None) -> None:
        self._entries = dict(entries or {})
        self._met: set[str] = set()
        self.unasked: Counter[str] = Counter()
        self._near = {each: Near() for each, entry in self._entries.items() if entry.rule == EXCLUDED}
        self._halves: dict[str, list[str]] = {}
        for each in self._near:
            origin = origin_of(each)
            for half in (origin[:_HALF], origin[-_HALF:]):
                self._halves.setdefault(half, []).append(each)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def seed(self, row: Row) -> Row | Rejection:
        """Return a seed, or its rejection."""
        if (entry := self._entries.get(row.id)) is not None:
            return self._rejection(row, STEP, entry)
        for half in (row.id[:_HALF], row.id[-_HALF:]):
            for each in self._halves.get(half, ()):
                near = self._near[each]
                near.has_seed = near.has_seed or origin_of(each) == row.id
                near.seed = near.seed or row.id
        return row

    def row(self, row: Row, step: str) -> Rejection | None:
        """Return the rejection of a row that a step is about to make, or just made; None when it may go on."""
        if (entry := self._entries.get(row.id)) is None:
            return None
        is_answered = bool(row.trail) and row.trail[-1]["step"] == step
        self.unasked[step] += not is_answered
        return self._rejection(row, step, entry)

    def of(self, row_id: str, origin: str) -> Entry | None:
        """Return why a row of an earlier version is left out: it, or what it was made from; None when it is not."""
        name: str | None = row_id
        while name is not None and name not in self._entries:
            name = parent_of(name)
        name = name or origin
        if (entry := self._entries.get(name)) is not None:
            self._met.add(name)
        return entry

    def inherited(self, row: Row) -> Rejection | None:
        """Return the rejection of a row of the version that is appended to; None when it stays."""
        entry = self.of(row.id, row.origin)
        return None if entry is None else self._rejection(row, STEP, entry)

    def _rejection(self, row: Row, step: str, entry: Entry) -> Rejection:
        self._met.add(row.id)
        if entry.rule == FORGOTTEN:
            row = Row(row.id, row.origin, row.parent, {})
        return Rejection(row, step, entry.rule, f"{entry.where} names it")

    def unmatched(self) -> list[Problem]:
        """Return a warning when ids of the exclude file were met nowhere, with the nearest that were."""
        left = [each for each in self._near if each not in self._met]
        if not left:
            return []
        file = self._entries[left[0]].where.rpartition(":")[0]
        told = "\n".join(self._hint(each) for each in left[:TOLD])
        more = f"\nand {len(left) - TOLD:,} more" if len(left) > TOLD else ""
        count = f"{len(left):,} of {len(self._near):,} ids"
        return [Problem(f"{count} to exclude are of no seed and no row", file, f"{told}{more}")]

    def _hint(self, row_id: str) -> str:
        line = self._entries[row_id].where.rpartition(":")[2]
        near = self._near[row_id]
        if near.has_seed:
            hint = "; its seed is there, and made no such row"
        else:
            hint = f"; did you mean {near.seed + row_id[len(origin_of(row_id)) :]!r}?" if near.seed else ""
        return f"line {line}: {row_id!r}{hint}"
