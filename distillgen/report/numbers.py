"""What the report of a version counts that its manifest does not: replies by step, duplicates of a row, speed."""

import contextlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillgen.dataset.figures import Figures, Spent, figures_of, replies_of
from distillgen.dataset.looking import records_of
from distillgen.dataset.versions import Version
from distillgen.teacher.answers import AnswerStore

DUPLICATES = {"exact_duplicate", "near_duplicate", "semantic_duplicate"}
MOST_CLUSTERS = 10
MOMENTS = 48  # parts into which the time of a run is cut
SIDECARS = {"published": "provenance", "rejected": "rejected", "failed": "failed"}  # by kind of row
_KEPT = re.compile(r"of (\S+?)(?:, (?:Jaccard|cosine) ([0-9.]+))?")


@dataclass
class Speed:
    """When replies came (Unix time) and how long each request took (seconds), as the answer store remembers them."""

    received: "array[float]" = field(default_factory=lambda: array("d"))
    seconds: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, received: float, seconds: float | None) -> None:
        """Take a reply in; of one that came in a batch there is no latency."""
        self.received.append(received)
        if seconds is not None:
            self.seconds.append(seconds)

    def throughput(self) -> list[tuple[float, int]]:
        """Return (Unix time, replies from then on) for equal parts of the time from the first to the last reply."""
        if len(self.received) < 2:
            return []
        first, last = min(self.received), max(self.received)
        width = max((last - first) / MOMENTS, 1e-9)
        counts = Counter(min(int((moment - first) / width), MOMENTS - 1) for moment in self.received)
        return [(first + place * width, counts[place]) for place in range(MOMENTS)]

    @property
    def span(self) -> float:
        """Seconds from the first reply to the last."""
        return max(self.received) - min(self.received) if self.received else 0.0


@dataclass
class Numbers:
    """The figures of a version's rows, its replies by (step, teacher), how many rows resemble a kept one, and speed."""

    figures: Figures
    asked: dict[tuple[str, str], Spent] = field(default_factory=dict)
    duplicates: Counter[str] = field(default_factory=Counter)
    least_similar: dict[str, float] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)

    def clusters(self) -> list[tuple[str, int, float | None]]:
        """Return (kept row, rows like it that were left out, least similarity), the largest first."""
        return [
            (kept, count, self.least_similar.get(kept)) for kept, count in self.duplicates.most_common(MOST_CLUSTERS)
        ]


def numbers_of(version: Version, store: Path | None) -> Numbers:
    """Return the numbers of a version; `store` is the file of stored answers of its project, for speed. Raises Damaged.

    Memory: some 60 bytes for each row that is left out as a duplicate, 16 for each reply.
    """
    numbers = Numbers(figures_of(version))
    keys = _counted(version, numbers)
    if store is not None and store.is_file():
        with contextlib.closing(AnswerStore(store)) as answers:
            for received, seconds in answers.times(keys):
                numbers.speed.add(received, seconds)
    else:
        for _ in keys:
            pass
    return numbers


def _counted(version: Version, numbers: Numbers) -> Iterator[bytes]:
    """Count all records of a version, and yield the key of each reply behind them once."""
    last: dict[str, str] = {}  # rows that were made from one reply follow each other
    for sidecar in SIDECARS.values():
        for record in records_of(version, sidecar):
            if record.get("rule") in DUPLICATES:
                _note_duplicate(record, numbers)
            for step in record["steps"]:
                for reply in _fresh(step, last):
                    name = reply.get("teacher") or reply["judge"]
                    if reply.get("tokens"):
                        numbers.asked.setdefault((step["step"], name), Spent()).add(reply["tokens"])
                    yield bytes.fromhex(reply["key"])


def _fresh(step: Mapping[str, Any], last: dict[str, str]) -> Iterable[Mapping[str, Any]]:
    for place, reply in enumerate(replies_of(step)):
        where = f"{step['step']}.{place}"
        if isinstance(reply.get("key"), str) and last.get(where) != reply["key"]:
            last[where] = reply["key"]
            yield reply


def _note_duplicate(record: Mapping[str, Any], numbers: Numbers) -> None:
    found = _KEPT.fullmatch(record["detail"])
    if found is None:
        return
    kept, similarity = found[1], float(found[2] or 1)
    numbers.duplicates[kept] += 1
    numbers.least_similar[kept] = min(similarity, numbers.least_similar.get(kept, 1.0))
