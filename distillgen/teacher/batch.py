"""Batch mode: requests go out as files, answers come back within a day, under the same keys as live ones.

A batch is written down before it is sent (`Record`), with its digest, which its metadata carry too: whatever is cut
off in between, the next run finds the batch by that digest and pays nothing twice.
Costs some 100 bytes of memory for each request that is queued or under way; bodies and answers stay on disk.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import openai
from openai.types import Batch

from distillgen.errors import BatchRefused, DistillgenError, RequestsRefused, RowFailed, TeacherUnavailable
from distillgen.teacher.asking import Fault, Reply, Request
from distillgen.teacher.batch_api import BatchApi
from distillgen.teacher.batch_lines import write_line
from distillgen.teacher.batch_records import OPENAI_LIMITS, BatchLimits, Ledger, Part, Queue, Record
from distillgen.teacher.batch_results import Put, Tally, store
from distillgen.teacher.verdicts import verdict

ENDED = {"completed", "expired", "cancelled", "failed"}
LIMIT_CODES = {"token_limit_exceeded", "rate_limit_exceeded"}  # too much waits at the provider: nothing is wrong
CLOCKS_APART_SECONDS = 86_400.0  # how far the provider's clock may be from ours
LISTED_WITHIN_SECONDS = 60.0  # a batch that is not listed after that was never created
MOST_BATCHES = 3  # that may bring no usable answer to a request before its row fails
ALL_REFUSED = 20  # a batch of at least so many requests, all refused, is the recipe's fault


@dataclass(frozen=True, slots=True)
class Pending:
    """A batch under way, or requests that could not be sent yet (`id` is empty, `reason` says why).

    `submitted_at` is Unix time in seconds.
    """

    id: str
    status: str
    requests: int
    completed: int
    submitted_at: float | None
    reason: str = ""
    bytes: int = 0


class Batches:
    """The batches of one teacher: `collect` before the road, `queue` on it, `submit` after it.

    `folder` holds the state. Only batches of the same `endpoint` and `model` are touched; `teacher` is for messages.
    `client` may retry: a batch is created with one attempt alone. `notes` is what a user should hear of.
    """

    def __init__(
        self, folder: Path, client: openai.AsyncOpenAI, *, teacher: str, endpoint: str, model: str,
        limits: BatchLimits = OPENAI_LIMITS, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._api = BatchApi(client)
        self._teacher, self._endpoint, self._model = teacher, endpoint, model
        self._limits, self._now = limits, now
        self._ledger = Ledger(folder, endpoint, model)
        self._queue = Queue(self._ledger.folder, self._ledger.tag, limits)
        self._held = ""  # why nothing is sent in this run
        self._stop: DistillgenError | None = None
        self._under_way = {key for record in self._ledger.under_way for key in self._ledger.keys(record)}
        self._failed: dict[bytes, tuple[str, str, bool]] = {}
        self._faults: Counter[bytes] = Counter()
        self.notes: list[str] = []
        for record in self._ledger.records.values():
            self._remember(record)

    @property
    def pending(self) -> list[Pending]:
        """What is under way, oldest first, and what could not be sent."""
        under_way = [
            Pending(each.batch_id, each.status, each.requests, each.completed, each.written, bytes=each.bytes)
            for each in self._ledger.under_way
        ]
        if self._queue:
            under_way.append(Pending("", "queued", len(self._queue), 0, None, self._held))
        return under_way

    def is_pending(self, key: bytes) -> bool:
        """Whether a request is in a batch under way."""
        return key in self._under_way

    def queue(self, request: Request, afford: Callable[[Request], bool] = lambda _: True) -> RowFailed:
        """Put a request into the next batch, unless it is in one or was refused; return what to tell its row.

        `afford` is asked before a new one is taken in: whether its worst case can be paid.
        """
        key = request.key
        if key in self._under_way:
            return RowFailed("in_batch", "its batch is under way", lasting=False)
        if key in self._failed:
            cause, words, is_lasting = self._failed[key]
            return RowFailed(cause, words, lasting=is_lasting, attempts=max(1, self._faults[key]))
        if key not in self._queue:
            line = write_line(request)
            if len(line) > self._limits.bytes:
                return RowFailed("oversize", f"a request of {len(line):,} bytes fits no batch file", lasting=True)
            if not afford(request):
                return RowFailed("over_budget", "the budget of this run does not allow it", lasting=False)
            self._queue.add(key, line)
        return RowFailed("queued", "it goes out with the next batch", lasting=False)

    async def collect(self, put: Put) -> None:
        """Store what the batches under way have brought: `put(key, body of a reply)` returns once it is committed.

        What was cut off here is done again by the next run, at no cost.
        Raises TeacherUnavailable, CredentialsRefused, QuotaSpent or RequestsRefused, the latter two after everything
        that could be collected was.
        """
        with self._our_errors():
            await self._find_unnamed()
            over_limit = [
                (record, words)
                for record in self._ledger.under_way
                if record.batch_id and (words := await self._look(record, put))
            ]
        is_full = len(self._ledger.under_way) > len(over_limit)
        for record, words in over_limit:
            self._over_limit(record, words, is_full)
        self._queue.limits = self._file_limits()
        if self._stop is not None:
            raise self._stop

    async def submit(self) -> None:
        """Send what was queued, one batch for each file. What the provider's limits hold back waits for the next run.

        Raises TeacherUnavailable, CredentialsRefused, QuotaSpent or BatchRefused.
        """
        try:
            with self._our_errors():
                for part in self._queue.parts():
                    if not self._held:
                        await self._send(part)
                    if self._held:
                        break
        finally:
            self._queue.close()
        if not self.pending:
            self._forgive()

    async def _find_unnamed(self) -> None:
        """Adopt the batches that were created without our hearing of it; drop those that never were."""
        unnamed = [record for record in self._ledger.under_way if not record.batch_id]
        await self._adopt([record for record in unnamed if record.file_id])
        for record in unnamed:
            if self._ledger.records[record.number].batch_id:
                continue
            if not record.file_id:
                self._drop(record)
                await self._api.delete_file_named(record.file_name)
            elif self._now() - record.written > LISTED_WITHIN_SECONDS:
                self._drop(record)
                await self._api.delete_file(record.file_id)

    async def _adopt(self, records: Iterable[Record]) -> None:
        """Look for batches by the digest in their metadata, newest first, as far back as the oldest record."""
        wanted = {record.digest: record for record in records}
        if not wanted:
            return
        known = {record.batch_id for record in self._ledger.records.values()}
        since = min(record.written for record in wanted.values()) - CLOCKS_APART_SECONDS
        async with contextlib.aclosing(self._api.made_since(since)) as made:
            async for digest, batch in made:
                if batch.id not in known and (found := wanted.pop(digest, None)) is not None:
                    self._name(found, batch)
                if not wanted:
                    return

    def _name(self, record: Record, batch: Batch) -> None:
        completed = (batch.request_counts.completed if batch.request_counts else 0) or 0
        status = (batch.status or "unknown").lower()
        named = replace(record, batch_id=batch.id, status=status, completed=completed)
        if named != record:
            self._ledger.write(named)

    async def _look(self, record: Record, put: Put) -> str:
        """Take what a batch has to bring; return the provider's words when it was more than may wait there at once."""
        try:
            batch = await self._api.look_up(record.batch_id)
        except Fault as fault:
            if fault.status != 404:
                raise
            self.notes.append(f"{self._teacher} does not know batch {record.batch_id} any more; it is asked for again")
            self._close(replace(record, status="lost"))
            return ""
        self._name(record, batch)
        record = self._ledger.records[record.number]
        if record.status == "failed":
            return self._rejected(record, batch)
        if record.status in ENDED:
            tally = Tally(self._teacher, self._model, set(self._ledger.keys(record)))
            for file_id in (batch.output_file_id, batch.error_file_id):
                if file_id:
                    await self._read(file_id, tally, put)
            self._conclude(record, tally)
        return ""

    def _rejected(self, record: Record, batch: Batch) -> str:
        """Close a batch that the provider did not begin, unless it was only too much: then return its words."""
        errors = (batch.errors.data if batch.errors else None) or []
        first = errors[0] if errors else None
        words = self._api.clean((first.message if first else "") or "no words")
        if any(error.code in LIMIT_CODES for error in errors):
            return words
        place = f"line {first.line}: " if first and first.line else ""
        fault = Fault("status", place + words, status=400, code=(first.code if first else "") or "")
        self._stop = self._stop or self._as_ours(fault)
        self._close(record)
        return ""

    def _over_limit(self, record: Record, words: str, is_full: bool) -> None:
        """Wait when other batches fill the provider's queue; send smaller ones when this one alone was too much."""
        if is_full or record.requests == 1:
            self._held = words
            self._close(replace(record, status="over_limit"))
            return
        self.notes.append(f"{self._teacher} takes no batch of {record.bytes:,} bytes ({words}); smaller ones are sent")
        self._close(replace(record, status="too_large"))

    def _file_limits(self) -> BatchLimits:
        """Return the provider's limits, or half of what it found too large: tokens go with bytes."""
        halves = [each.bytes // 2 for each in self._ledger.records.values() if each.status == "too_large"]
        return replace(self._limits, bytes=min([self._limits.bytes, *halves]))

    async def _read(self, file_id: str, tally: Tally, put: Put) -> None:
        try:
            async with contextlib.aclosing(self._api.lines(file_id)) as lines:
                await store(lines, tally, put)
        except Fault as fault:
            if fault.status != 404:
                raise
            self.notes.append(f"{self._teacher} does not have file {file_id} any more: {fault.words}")

    def _conclude(self, record: Record, tally: Tally) -> None:
        """Close a batch whose files were read: what brought no answer is free to be asked again."""
        self._stop = self._stop or tally.stop
        if len(tally.refused) == record.requests >= ALL_REFUSED:
            words = next(iter(tally.refused.values()))[1]
            self._stop = self._stop or RequestsRefused(
                f"{self._teacher} refused all {record.requests:,} requests of a batch: {words}",
                fix="check `model`, `sampling` and the prompt of this recipe",
            )
            tally.refused.clear()
        self.notes += tally.notes(record)
        self._close(
            replace(record, completed=tally.stored, counts=tally.counts(), refused=tally.refused, faulty=tally.faulty)
        )

    def _close(self, record: Record) -> None:
        self._under_way.difference_update(self._ledger.keys(record))
        record = replace(record, is_over=True)
        self._ledger.write(record)
        self._remember(record)

    def _drop(self, record: Record) -> None:
        self._under_way.difference_update(self._ledger.keys(record))
        self._ledger.drop(record)

    def _remember(self, record: Record) -> None:
        """Know from now on which rows fail, and why."""
        for name, (cause, words) in record.refused.items():
            self._failed[bytes.fromhex(name)] = (cause, words, True)
        for name, (cause, words) in record.faulty.items():
            key = bytes.fromhex(name)
            self._faults[key] += 1
            if self._faults[key] >= MOST_BATCHES:
                self._failed[key] = (cause, f"{words} (in {self._faults[key]} batches)", False)

    def _forgive(self) -> None:
        """Let the next run ask anew for what only brought faults: this one ends without anything under way."""
        for record in list(self._ledger.records.values()):
            if record.faulty:
                self._ledger.write(replace(record, faulty={}))

    async def _send(self, part: Part) -> None:
        """Submit one file. Written down first: its keys and digest, then the file's id, then the batch's."""
        record = Record(
            number=self._ledger.next_number(), endpoint=self._endpoint, model=self._model, digest=part.digest,
            requests=part.requests, bytes=part.bytes, written=self._now(),
        )  # fmt: skip
        self._ledger.add(record, bytes(part.keys))
        self._under_way.update(self._ledger.keys(record))
        try:
            with part.open() as file:
                file_id = await self._api.upload(record.file_name, file)
        except Fault:
            self._drop(record)
            raise
        record = replace(record, file_id=file_id, written=self._now())
        self._ledger.write(record)
        try:
            batch = await self._api.create(file_id, record.digest)
        except Fault as fault:
            await self._not_named(record, fault)
        else:
            self._name(record, batch)

    async def _not_named(self, record: Record, fault: Fault) -> None:
        """Find out what a fault of creating a batch means: it may exist all the same, unless it was refused."""
        if fault.kind == "status" and fault.status < 500 and fault.status not in (408, 409):
            self._drop(record)
            await self._api.delete_file(record.file_id)
            if not fault.is_limit or verdict(fault, self._teacher, self._model) is not None:
                raise fault
            self._held = fault.words
            return
        await self._adopt([record])
        if not self._ledger.records[record.number].batch_id:
            raise fault

    @contextlib.contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except Fault as fault:
            raise self._as_ours(fault) from None

    def _as_ours(self, fault: Fault) -> DistillgenError:
        if fault.status in (404, 405):
            return BatchRefused(
                f"{self._teacher} has no batch API at this address: {fault}",
                fix='take `mode = "batch"` out, or check `base_url` (up to and with /v1)',
            )
        meant = verdict(fault, self._teacher, self._model)
        if isinstance(meant, RowFailed):
            return BatchRefused(
                f"{self._teacher} refused a batch: {fault.words}",
                fix="check `model`, `sampling` and the prompt of this recipe; nothing of that batch was run",
            )
        return meant or TeacherUnavailable(
            f"{self._teacher} does not answer: {fault}",
            fix="run the same command again later; what is under way is written down, and nothing is paid twice",
        )


class Batched:
    """The layer that asks in batches: it never returns a reply, for those of batches are in the store."""

    def __init__(self, batches: Batches, afford: Callable[[Request], bool] = lambda _: True) -> None:
        self._batches, self._afford = batches, afford

    async def complete(self, request: Request) -> Reply:
        """Queue the request. Raises RowFailed: `queued`, `in_batch`, `over_budget`, or why it was refused."""
        raise self._batches.queue(request, self._afford)
