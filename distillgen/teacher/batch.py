"""Batch mode: requests go out as files, answers come back within a day, under the same keys as live ones.

A batch is written down before it is sent (`Record`), with its digest, which its metadata carry too: whatever is cut
off in between, the next run finds the batch by that digest and pays nothing twice.
Costs some 100 bytes of memory for each request that is queued or under way; bodies and answers stay on disk.
"""

import asyncio
import contextlib
import hashlib
import json
import time
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final, TypeAlias, TypeVar

import aiohttp
import httpx
import openai
import orjson
from openai.types import Batch, FileObject

from distillgen.errors import Damaged, DistillgenError, RequestsRefused, RowFailed, TeacherUnavailable
from distillgen.files import digest, disk_errors, sync_folder, write_atomically
from distillgen.teacher.asking import Endpoint, Fault, Reply, Request
from distillgen.teacher.replies import Malformed, read_reply
from distillgen.teacher.verdicts import verdict

LINE_URL: Final = "/v1/chat/completions"
METADATA = "distillgen_digest"
KEY_BYTES = 32  # 64 characters in hex, which is the longest custom_id that every provider takes
ENDED = {"completed", "expired", "cancelled", "failed"}
LIMIT_CODES = {"token_limit_exceeded", "rate_limit_exceeded"}  # too much waits at the provider: nothing is wrong
NOT_RUN = {"batch_expired", "batch_cancelled"}
CLOCKS_APART_SECONDS = 86_400.0  # how far the provider's clock may be from ours
LISTED_WITHIN_SECONDS = 60.0  # a batch that is not listed after that was never created
MOST_BATCHES = 3  # that may bring no usable answer to a request before its row fails
ALL_REFUSED = 20  # a batch of at least so many requests, all refused, is the recipe's fault
GROUP_ANSWERS, GROUP_BYTES = 500, 16 * 1024 * 1024  # stored, and committed, together
MAX_LINE_BYTES = 64 * 1024 * 1024
FOREIGN_ERRORS = (openai.OpenAIError, httpx.HTTPError, aiohttp.ClientError, OSError, zlib.error, ValueError)

Put: TypeAlias = Callable[[bytes, bytes], Awaitable[None]]
T = TypeVar("T", Batch, FileObject)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one file of requests may hold."""

    requests: int = 50_000
    bytes: int = 200_000_000


OPENAI_LIMITS = BatchLimits()


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


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one batch: a small JSON file, and its keys in a file beside it while it is under way.

    Until the provider names it, it has no `batch_id`; without a `file_id` its file was not even sent.
    `refused` and `faulty` hold, for a key in hex, the cause and the server's words: a refusal is for good, a fault
    (an unusable answer, an error of the server) is one of `MOST_BATCHES`.
    """

    number: int
    endpoint: str
    model: str
    digest: str  # sha256 of the file of requests
    requests: int
    bytes: int
    written: float  # Unix time
    status: str = "submitting"  # later the provider's word for it
    file_id: str = ""
    batch_id: str = ""
    completed: int = 0
    is_over: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    faulty: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """What its file of requests is called at the provider."""
        return f"distillgen-{self.digest}.jsonl"


class _Ledger:
    """The records of one teacher's batches in a folder; each is on disk when `write` returns."""

    def __init__(self, folder: Path, endpoint: str, model: str) -> None:
        self.folder = folder
        self.tag = digest(endpoint.encode(), model.encode())[:8]
        self.records = {
            record.number: record for record in map(_read_record, sorted(folder.glob(f"{self.tag}-*.json")))
        }

    @property
    def under_way(self) -> list[Record]:
        """The batches that still have something to bring, oldest first."""
        return [record for record in self.records.values() if not record.is_over]

    def next_number(self) -> int:
        """Return a number that no batch had."""
        return max(self.records, default=0) + 1

    def add(self, record: Record, keys: bytes) -> None:
        """Write a new record, its keys first."""
        write_atomically(self._path(record, "keys"), keys)
        self.write(record)

    def write(self, record: Record) -> None:
        """Write a record as it is now; one that is over needs its keys no more."""
        write_atomically(self._path(record, "json"), orjson.dumps(record, option=orjson.OPT_INDENT_2))
        self.records[record.number] = record
        if record.is_over:
            self._path(record, "keys").unlink(missing_ok=True)

    def drop(self, record: Record) -> None:
        """Forget a batch that never was."""
        self._path(record, "json").unlink()
        sync_folder(self.folder)
        self._path(record, "keys").unlink(missing_ok=True)
        del self.records[record.number]

    def keys(self, record: Record) -> list[bytes]:
        """Return the keys of a batch under way. Raises Damaged."""
        path = self._path(record, "keys")
        content = path.read_bytes() if path.exists() else b""
        if len(content) != KEY_BYTES * record.requests:
            raise _damaged(path)
        return _split(content)

    def _path(self, record: Record, suffix: str) -> Path:
        return self.folder / f"{self.tag}-{record.number:06d}.{suffix}"


def _read_record(path: Path) -> Record:
    try:
        return Record(**orjson.loads(path.read_bytes()))
    except (orjson.JSONDecodeError, TypeError):
        raise _damaged(path) from None


def _damaged(path: Path) -> Damaged:
    return Damaged(
        "the note of a batch cannot be read",
        where=str(path),
        fix="move away the files of that number: what the batch brings is then asked for, and paid, again",
    )


def _split(keys: bytes) -> list[bytes]:
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


class _Part:
    """One file of requests, as it will be uploaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = bytearray()
        self.bytes = 0
        self._sha = hashlib.sha256()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("wb")

    @property
    def requests(self) -> int:
        return len(self.keys) // KEY_BYTES

    @property
    def digest(self) -> str:
        return self._sha.hexdigest()

    def add(self, key: bytes, line: bytes) -> None:
        with disk_errors(self.path):
            self._file.write(line)
        self._sha.update(line)
        self.keys += key
        self.bytes += len(line)

    def close(self) -> None:
        with disk_errors(self.path):
            self._file.close()

    def open(self) -> IO[bytes]:
        return self.path.open("rb")


class _Queue:
    """The requests of this run that wait for a batch, cut into files that keep the limits.

    Not synced and of no use to another run, which makes its own: nothing was paid for yet.
    """

    def __init__(self, folder: Path, tag: str, limits: BatchLimits) -> None:
        self._folder, self._tag, self.limits = folder, tag, limits
        self._parts: list[_Part] = []
        self._keys: set[bytes] = set()

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, line: bytes) -> None:
        """Append one request to the last file, or to a new one."""
        if not self._parts or not self._has_room(self._parts[-1], line):
            if self._parts:
                self._parts[-1].close()
            self._parts.append(_Part(self._folder / f"queue-{self._tag}-{len(self._parts):06d}.jsonl"))
        self._parts[-1].add(key, line)
        self._keys.add(key)

    def _has_room(self, part: _Part, line: bytes) -> bool:
        return part.requests < self.limits.requests and part.bytes + len(line) <= self.limits.bytes

    def parts(self) -> Iterator[_Part]:
        """Yield the files; one is no longer in the queue once the next is asked for."""
        if self._parts:
            self._parts[-1].close()
        for part in self._parts:
            yield part
            self._keys.difference_update(_split(bytes(part.keys)))
            part.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what is left on disk, of this run or of one that was killed."""
        for part in self._parts:
            part.close()
        for path in self._folder.glob(f"queue-{self._tag}-*.jsonl"):
            path.unlink()


@dataclass(slots=True)
class _Tally:
    """What the files of one batch have brought so far; `left` are the keys that nothing final was read for."""

    left: set[bytes]
    stored: int = 0
    answered: int = 0
    ignored: int = 0
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    faulty: dict[str, tuple[str, str]] = field(default_factory=dict)

    def refuse(self, key: bytes, failed: RowFailed) -> None:
        """Count a request that is refused for good."""
        self.left.discard(key)
        self.refused[key.hex()] = (failed.cause, failed.detail)

    def blame(self, key: bytes, fault: Fault) -> None:
        """Count a request that another batch may bring an answer for."""
        self.faulty[key.hex()] = (f"http_{fault.status}" if fault.kind == "status" else fault.kind, str(fault))

    def store(self, key: bytes) -> None:
        """Count a usable answer."""
        self.left.discard(key)
        self.faulty.pop(key.hex(), None)
        self.stored += 1


class Batches:
    """The batches of one teacher: `collect` before the road, `queue` on it, `submit` after it.

    `folder` holds the state. Only batches of the same `endpoint` and `model` are touched; `teacher` is for messages.
    `client` may retry: a batch is created with one attempt alone. `notes` is what a user should hear of.
    """

    def __init__(
        self, folder: Path, client: openai.AsyncOpenAI, *, teacher: str, endpoint: str, model: str,
        limits: BatchLimits = OPENAI_LIMITS, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._client, self._once = client, client.with_options(max_retries=0)
        self._teacher, self._endpoint, self._model = teacher, endpoint, model
        self._limits, self._now = limits, now
        self._without_key = Endpoint(str(client.base_url), client.api_key).without_key
        self._ledger = _Ledger(folder, endpoint, model)
        self._queue = _Queue(self._ledger.folder, self._ledger.tag, limits)
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
            line = _line_of(request)
            if len(line) > self._limits.bytes:
                return RowFailed("oversize", f"a request of {len(line):,} bytes fits no batch file", lasting=True)
            if not afford(request):
                return RowFailed("over_budget", "the budget of this run does not allow it", lasting=False)
            self._queue.add(key, line)
        return RowFailed("queued", "it goes out with the next batch", lasting=False)

    def _file_limits(self) -> BatchLimits:
        """Return the provider's limits, or half of what it found too large: tokens go with bytes."""
        halves = [each.bytes // 2 for each in self._ledger.records.values() if each.status == "too_large"]
        return replace(self._limits, bytes=min([self._limits.bytes, *halves]))

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

        Raises TeacherUnavailable, CredentialsRefused, QuotaSpent or RequestsRefused.
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
                await self._delete_file_named(record.file_name)
            elif self._now() - record.written > LISTED_WITHIN_SECONDS:
                self._drop(record)
                await self._delete_file(record.file_id)

    async def _adopt(self, records: Iterable[Record]) -> None:
        """Look for batches by the digest in their metadata, newest first, as far back as the oldest record."""
        wanted = {record.digest: record for record in records}
        if not wanted:
            return
        known = {record.batch_id for record in self._ledger.records.values()}
        since = min(record.written for record in wanted.values()) - CLOCKS_APART_SECONDS
        try:
            async for batch in self._client.batches.list(limit=100):
                if not wanted or (batch.created_at or since) < since:
                    return
                found = wanted.pop((batch.metadata or {}).get(METADATA, ""), None) if batch.id not in known else None
                if found is not None:
                    self._name(found, batch)
        except (*FOREIGN_ERRORS, AttributeError) as error:  # the client trips over a list that is a web page
            raise self._fault(error) from None

    def _name(self, record: Record, batch: Batch) -> None:
        completed = (batch.request_counts.completed if batch.request_counts else 0) or 0
        status = (batch.status or "unknown").lower()
        named = replace(record, batch_id=batch.id, status=status, completed=completed)
        if named != record:
            self._ledger.write(named)

    async def _look(self, record: Record, put: Put) -> str:
        """Take what a batch has to bring; return the provider's words when it was more than may wait there at once."""
        try:
            batch = await self._ask(self._client.batches.retrieve(record.batch_id))
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
            tally = _Tally(set(self._ledger.keys(record)))
            for file_id in (batch.output_file_id, batch.error_file_id):
                if file_id:
                    await self._read(file_id, tally, put)
            self._conclude(record, tally)
        return ""

    def _rejected(self, record: Record, batch: Batch) -> str:
        """Close a batch that the provider did not begin, unless it was only too much: then return its words."""
        errors = (batch.errors.data if batch.errors else None) or []
        first = errors[0] if errors else None
        words = self._clean((first.message if first else "") or "no words")
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

    async def _read(self, file_id: str, tally: _Tally, put: Put) -> None:
        """Stream one file of results into the store, in groups."""
        group: list[tuple[bytes, bytes]] = []
        size = 0
        try:
            async with contextlib.aclosing(self._lines(file_id)) as lines:
                async for line in lines:
                    if (answer := self._take(line, tally)) is not None:
                        group.append(answer)
                        size += len(line)
                    if len(group) >= GROUP_ANSWERS or size >= GROUP_BYTES:
                        await _put_all(group, put)
                        size = 0
            await _put_all(group, put)
        except Fault as fault:
            if fault.status != 404:
                raise
            self.notes.append(f"{self._teacher} does not have file {file_id} any more: {fault.words}")

    async def _lines(self, file_id: str) -> AsyncGenerator[bytes, None]:
        try:
            async with self._client.files.with_streaming_response.content(file_id) as response:
                async for line in _split_lines(response.iter_bytes()):
                    yield line
        except FOREIGN_ERRORS as error:
            raise self._fault(error) from None

    def _take(self, line: bytes, tally: _Tally) -> tuple[bytes, bytes] | None:
        """Return the answer in a line, None when there is none; the tally hears why."""
        key, found = _read_line(self._without_key(line))
        if key not in tally.left:
            tally.ignored += 1
            return None
        if isinstance(found, bytes):
            tally.answered += 1
            tally.store(key)
            return key, found
        if found is not None and found.code not in NOT_RUN:
            tally.answered += found.kind == "malformed"
            meant = verdict(found, self._teacher, self._model)
            if isinstance(meant, RowFailed):
                tally.refuse(key, meant)
            elif meant is None:
                tally.blame(key, found)
            else:
                self._stop = self._stop or meant
        return None

    def _conclude(self, record: Record, tally: _Tally) -> None:
        """Close a batch whose files were read: what brought no answer is free to be asked again."""
        refused = tally.refused
        if len(refused) == record.requests >= ALL_REFUSED:
            words = next(iter(refused.values()))[1]
            self._stop = self._stop or RequestsRefused(
                f"{self._teacher} refused all {record.requests:,} requests of a batch: {words}",
                fix="check `model`, `sampling` and the prompt of this recipe",
            )
            refused = {}
        again = len(tally.left) - len(tally.faulty)
        if again and record.status != "completed":
            self.notes.append(f"batch {record.batch_id} has {record.status}: {again:,} of its requests were not run")
        if tally.ignored:
            self.notes.append(
                f"batch {record.batch_id}: {tally.ignored:,} lines are of no request in it, or came twice"
            )
        if record.completed > tally.answered:
            missing = record.completed - tally.answered
            self.notes.append(f"batch {record.batch_id}: {missing:,} answers that were counted are not in its files")
        counts = {
            "stored": tally.stored,
            "refused": len(refused),
            "faulty": len(tally.faulty),
            "ignored": tally.ignored,
        }
        self._close(replace(record, completed=tally.stored, counts=counts, refused=refused, faulty=tally.faulty))

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

    async def _send(self, part: _Part) -> None:
        """Submit one file. Written down first: its keys and digest, then the file's id, then the batch's."""
        record = Record(
            number=self._ledger.next_number(), endpoint=self._endpoint, model=self._model, digest=part.digest,
            requests=part.requests, bytes=part.bytes, written=self._now(),
        )  # fmt: skip
        self._ledger.add(record, bytes(part.keys))
        self._under_way.update(self._ledger.keys(record))
        try:
            with part.open() as file:
                uploaded = await self._ask(
                    self._client.files.create(file=(record.file_name, file, "application/jsonl"), purpose="batch")
                )
        except Fault:
            self._drop(record)
            raise
        record = replace(record, file_id=uploaded.id, written=self._now())
        self._ledger.write(record)
        try:
            batch = await self._ask(
                self._once.batches.create(
                    input_file_id=uploaded.id, endpoint=LINE_URL, completion_window="24h",
                    metadata={METADATA: record.digest},
                )
            )  # fmt: skip
        except Fault as fault:
            await self._not_named(record, fault)
        else:
            self._name(record, batch)

    async def _not_named(self, record: Record, fault: Fault) -> None:
        """Find out what a fault of creating a batch means: it may exist all the same, unless it was refused."""
        if fault.kind == "status" and fault.status < 500 and fault.status not in (408, 409):
            self._drop(record)
            await self._delete_file(record.file_id)
            if not fault.is_limit or verdict(fault, self._teacher, self._model) is not None:
                raise fault
            self._held = fault.words
            return
        await self._adopt([record])
        if not self._ledger.records[record.number].batch_id:
            raise fault

    async def _delete_file(self, file_id: str) -> None:
        """Delete a file that no batch uses; it does no harm when that fails."""
        with contextlib.suppress(*FOREIGN_ERRORS):
            await self._client.files.delete(file_id)

    async def _delete_file_named(self, name: str) -> None:
        with contextlib.suppress(*FOREIGN_ERRORS):
            page = await self._client.files.list(purpose="batch", order="desc", limit=100)
            for file in page.data:
                if file.filename == name:
                    await self._client.files.delete(file.id)

    async def _ask(self, call: Awaitable[T]) -> T:
        """Return what the provider said. Raises Fault."""
        try:
            said = await call
        except FOREIGN_ERRORS as error:
            raise self._fault(error) from None
        if not isinstance(getattr(said, "id", None), str):
            raise Fault("malformed", "the reply is no object of the batch API")
        return said

    def _fault(self, error: Exception) -> Fault:
        """Return the client's error as a fault, in words without the key."""
        if isinstance(error, openai.APIStatusError):
            body = self._without_key(error.response.content)
            words, code = _words_of(_parse(body), body)
            return Fault("status", words, status=error.status_code, code=code, body=body)
        words = self._clean(str(error.__cause__ or error)) or type(error).__name__
        return Fault("timeout" if isinstance(error, openai.APITimeoutError) else "network", words)

    def _clean(self, words: str) -> str:
        return self._without_key(words.encode("utf-8", "replace")).decode()[:500]

    @contextlib.contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except Fault as fault:
            raise self._as_ours(fault) from None

    def _as_ours(self, fault: Fault) -> DistillgenError:
        if fault.status in (404, 405):
            return RequestsRefused(
                f"{self._teacher} has no batch API at this address: {fault}",
                fix='take `mode = "batch"` out, or check `base_url` (up to and with /v1)',
            )
        meant = verdict(fault, self._teacher, self._model)
        if isinstance(meant, RowFailed):
            return RequestsRefused(
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


def _line_of(request: Request) -> bytes:
    line = {"custom_id": request.key.hex(), "method": "POST", "url": LINE_URL, "body": request.body}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


async def _put_all(group: list[tuple[bytes, bytes]], put: Put) -> None:
    await asyncio.gather(*(put(key, raw) for key, raw in group))
    group.clear()


async def _split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a stream, split at line feeds alone; of a giant line only the beginning."""
    line = bytearray()
    async for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line += end
            if line.strip():
                yield bytes(line)
            line.clear()
        if len(line) <= MAX_LINE_BYTES:
            line += rest
    if line.strip():
        yield bytes(line)


def _read_line(line: bytes) -> tuple[bytes, bytes | Fault | None]:
    """Return the key of a line (empty when it has none), and the body of its reply, a fault, or None for neither."""
    result = _parse(line)
    try:
        key = bytes.fromhex(result["custom_id"])
    except (KeyError, TypeError, ValueError):
        return b"", None
    response, error = result.get("response"), result.get("error")
    if not isinstance(response, dict):
        words, code = _words_of(error, b"")
        return key, Fault("timeout" if code == "request_timeout" else "network", words, code=code) if error else None
    body, status = _dump(response.get("body")), response.get("status_code")
    if status != 200:
        words, code = _words_of(response.get("body"), body)
        return key, Fault("status", words, status=status if isinstance(status, int) else 500, code=code, body=body)
    try:
        read_reply(body)
    except Malformed as malformed:
        return key, Fault("malformed", str(malformed), status=200, body=body)
    return key, body


def _parse(text: bytes) -> Any:
    """Return the JSON in `text`, None when it is none. Lone surrogates, which the fast reader refuses, pass."""
    for read in (orjson.loads, json.loads):
        with contextlib.suppress(ValueError, RecursionError):
            return read(text)
    return None


def _dump(body: Any) -> bytes:
    """Return the body of a reply as bytes; some servers put it into the line as a string."""
    if isinstance(body, str):
        return body.encode("utf-8", "replace")
    try:
        return orjson.dumps(body)
    except TypeError:
        return json.dumps(body).encode()


def _words_of(body: Any, raw: bytes) -> tuple[str, str]:
    """Return the words and the code of an error's body."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        return str(error.get("message") or "no words")[:500], str(error.get("code") or error.get("type") or "")
    words = error if isinstance(error, str) else raw[:300].decode("utf-8", "replace").strip()
    return words[:500] or "no words", ""
