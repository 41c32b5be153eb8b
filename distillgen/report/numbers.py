"""What the report of a version counts that its manifest does not: replies by step, rows that are alike, speed."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillgen.dataset.figures import Figures, Spent, figures_of, replies_of
from distillgen.dataset.looking import records_of
from distillgen.dataset.versions import Version
from distillgen.report.alike import Groups, Member, members_of
from distillgen.report.speed import Speed, Where
from distillgen.teacher.answers import AnswerStore

_KEY = re.compile("[0-9a-f]{64}")
SIDECARS = {"published": "provenance", "rejected": "rejected", "failed": "failed"}  # by kind of row


@dataclass
class Numbers:
    """The figures of a version's rows, its replies by step and teacher, the rows that are alike, and speed."""

    figures: Figures
    asked: dict[Where, Spent] = field(default_factory=dict)
    alike: Groups = field(default_factory=Groups)
    members: dict[str, list[Member]] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)

    @property
    def shown_ids(self) -> set[str]:
        """The rows that the figures name, which should be in the page."""
        return {member.id for members in self.members.values() for member in members}


def numbers_of(version: Version, store: Path | None) -> Numbers:
    """Return the numbers of a version; `store` is the file of stored answers of its project, for speed. Raises Damaged.

    Memory: some 60 bytes for each row that others resemble, 18 for each reply, and 90 more for each reply where one
    may stand behind several rows.
    """
    numbers = Numbers(figures_of(version))
    replies = _counted(version, numbers)
    if store is not None and store.is_file():
        with contextlib.closing(AnswerStore(store)) as answers:
            _time(replies, answers, numbers.speed)
    else:
        for _ in replies:
            pass
    if numbers.alike.counts:
        records = (records_of(version, name) for name in ("provenance", "rejected"))
        numbers.members = members_of(numbers.alike, version.manifest.recipe, *records)
    return numbers


def _time(replies: Iterable[tuple[Where, bytes]], answers: AnswerStore, speed: Speed) -> None:
    """Note when each reply came. A key is asked for when the one before it is told, so `whose` is that of the last."""
    whose: Where = ("", "")

    def keys() -> Iterator[bytes]:
        nonlocal whose
        for where, key in replies:
            whose = where
            yield key

    for received, seconds in answers.times(keys()):
        speed.add(whose, received, seconds)


def _counted(version: Version, numbers: Numbers) -> Iterator[tuple[Where, bytes]]:
    """Count all records of a version, and yield step, teacher and key of each reply behind them once."""
    is_fresh = _Fresh(are_shared=_are_shared(version))
    for sidecar in SIDECARS.values():
        for record in records_of(version, sidecar):
            numbers.alike.note(record)
            for step in record["steps"]:
                for place, reply in enumerate(replies_of(step)):
                    if is_fresh(f"{step['step']}.{place}", reply):
                        where = (step["step"], str(reply.get("teacher") or reply.get("judge")))
                        if reply.get("tokens"):
                            numbers.asked.setdefault(where, Spent()).add(reply["tokens"])
                        yield where, bytes.fromhex(reply["key"])


def _are_shared(version: Version) -> bool:
    """Say whether one reply may stand behind several rows that do not follow each other."""
    manifest = version.manifest
    return "mix" in manifest.recipe or any(step.get("born") for step in manifest.funnel)


class _Fresh:
    """Says whether a reply has not been met. Rows made from one follow each other, if they met the same fate."""

    def __init__(self, *, are_shared: bool) -> None:
        self._last: dict[str, str] = {}
        self._met: set[int] | None = set() if are_shared else None

    def __call__(self, where: str, reply: Mapping[str, Any]) -> bool:
        key = reply.get("key")
        if not isinstance(key, str) or self._last.get(where) == key or not _KEY.fullmatch(key):
            return False
        self._last[where] = key
        if self._met is None:
            return True
        known, beginning = len(self._met), int(key[:16], 16)
        self._met.add(beginning)
        return len(self._met) > known
