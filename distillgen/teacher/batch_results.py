"""What the files of one batch bring: answers to store, refusals, faults; and what of it a user should hear."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from distillgen.errors import DistillgenError, RowFailed
from distillgen.teacher.asking import Fault
from distillgen.teacher.batch_lines import read_line
from distillgen.teacher.batch_records import Record
from distillgen.teacher.verdicts import verdict

NOT_RUN = {"batch_expired", "batch_cancelled"}
GROUP_ANSWERS, GROUP_BYTES = 500, 16 * 1024 * 1024  # stored, and committed, together

Put: TypeAlias = Callable[[bytes, bytes], Awaitable[None]]


@dataclass(slots=True)
class Tally:
    """What the files of one batch have brought so far; `left` are the keys that nothing final was read for.

    `refused` and `faulty` are those of a Record; `stop` is what one of the lines says that the run must stop for.
    """

    teacher: str
    model: str
    left: set[bytes]
    stored: int = 0
    answered: int = 0
    ignored: int = 0
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    faulty: dict[str, tuple[str, str]] = field(default_factory=dict)
    stop: DistillgenError | None = None

    def take(self, line: bytes) -> tuple[bytes, bytes] | None:
        """Count a line; return the key and the answer in it, None when there is none."""
        key, found = read_line(line)
        if key not in self.left:
            self.ignored += 1
            return None
        if isinstance(found, bytes):
            self._answer(key)
            return key, found
        if found is not None and found.code not in NOT_RUN:
            self._fault(key, found)
        return None

    def _answer(self, key: bytes) -> None:
        self.left.discard(key)
        self.faulty.pop(key.hex(), None)
        self.answered += 1
        self.stored += 1

    def _fault(self, key: bytes, fault: Fault) -> None:
        self.answered += fault.kind == "malformed"
        meant = verdict(fault, self.teacher, self.model)
        if isinstance(meant, RowFailed):
            self.left.discard(key)
            self.refused[key.hex()] = (meant.cause, meant.detail)
        elif meant is None:  # another batch may bring an answer
            self.faulty[key.hex()] = (f"http_{fault.status}" if fault.kind == "status" else fault.kind, str(fault))
        else:
            self.stop = self.stop or meant

    def counts(self) -> Mapping[str, int]:
        """Return what is kept of it in the record."""
        return {
            "stored": self.stored,
            "refused": len(self.refused),
            "faulty": len(self.faulty),
            "ignored": self.ignored,
        }

    def notes(self, record: Record) -> Iterator[str]:
        """Yield what a user should hear of a batch."""
        not_run = len(self.left) - len(self.faulty)
        if not_run and record.status != "completed":
            yield f"batch {record.batch_id} has {record.status}: {not_run:,} of its requests were not run"
        if self.ignored:
            yield f"batch {record.batch_id}: {self.ignored:,} lines are of no request in it, or came twice"
        if record.completed > self.answered:
            missing = record.completed - self.answered
            yield f"batch {record.batch_id}: {missing:,} answers that were counted are not in its files"


async def store(lines: AsyncIterable[bytes], tally: Tally, put: Put) -> None:
    """Stream one file of results into the store, in groups: `put` returns when an answer is committed."""
    group: list[tuple[bytes, bytes]] = []
    size = 0
    async for line in lines:
        if (answer := tally.take(line)) is not None:
            group.append(answer)
            size += len(line)
        if len(group) >= GROUP_ANSWERS or size >= GROUP_BYTES:
            await _put_all(group, put)
            size = 0
    await _put_all(group, put)


async def _put_all(group: list[tuple[bytes, bytes]], put: Put) -> None:
    await asyncio.gather(*(put(key, raw) for key, raw in group))
    group.clear()
