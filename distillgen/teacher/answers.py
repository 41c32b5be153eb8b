"""The answer store: every reply ever received, raw, keyed by what was asked, and on disk before anything reads it."""

import asyncio
import contextlib
import functools
import queue
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distillgen.errors import Damaged, DiskFull, DistillgenError, NewerFormat, NotWritable, RowFailed
from distillgen.files import canonical, digest, disk_errors, dumps
from distillgen.teacher.asking import Asks, Reply, Request
from distillgen.teacher.replies import TokenUsage, read_reply

FORMAT = 1
APPLICATION_ID = 0x44474131  # "DGA1"
GROUP_SECONDS = 0.005  # how long a commit waits for company; far below the 100 ms that the design allows
GROUP_ROWS = 1000

_SCHEMA = f"""
CREATE TABLE answers (
    key BLOB PRIMARY KEY NOT NULL,   -- see request_key
    reply BLOB NOT NULL,             -- the body of the HTTP reply as it arrived
    digest BLOB NOT NULL,            -- sha256 of key and reply
    received REAL NOT NULL,          -- Unix time
    seconds REAL,                    -- latency of the request
    teacher TEXT NOT NULL            -- endpoint identity and model, for people
);
CREATE TABLE damaged (key BLOB NOT NULL, reply BLOB, digest BLOB, found REAL NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""


def request_key(body: Mapping[str, Any], *, endpoint: str, sample: int = 0, ask: int = 0, epoch: int = 0) -> bytes:
    """Return the 32-byte key of one completion: what is asked, of whom, which sample, which ask, which epoch.

    `n`, `stream` and every other matter of transport must not be in `body`. The keys of an object are sorted, but for
    those of a schema: the order of its properties is the order in which a constrained reply is written.
    """
    if "response_format" in body:
        body = {**body, "response_format": dumps(body["response_format"])}
    asked = {"body": body, "endpoint": endpoint, "sample": sample, "ask": ask, "epoch": epoch}
    return bytes.fromhex(digest(canonical(asked)))


@dataclass(slots=True)
class _Entry:
    key: bytes
    reply: Reply
    teacher: str
    committed: asyncio.Future[None]


class AnswerStore:
    """SQLite in WAL mode with synchronous FULL: one thread writes in groups, anybody reads.

    `failure` is why the last commit did not succeed: nothing should be paid for that cannot be kept.
    Raises NewerFormat, NotWritable, DiskFull, or Damaged when the file is not a database at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self.failure: DistillgenError | None = None
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._store_errors():
            self._reader = self._connect()
            self._prepare(self._reader)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=60)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
        elif version > FORMAT:
            raise NewerFormat(
                f"the answer store has format {version}, this distillgen knows {FORMAT}",
                where=str(self.path),
                fix="pip install --upgrade distillgen",
            )
        elif connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise Damaged(
                "not an answer store of distillgen", where=str(self.path), fix="move it away; a new one is made"
            )
        connection.execute("COMMIT")

    @contextlib.contextmanager
    def _store_errors(self) -> Any:
        try:
            yield
        except sqlite3.Error as error:
            raise self._as_ours(error) from error

    def _as_ours(self, error: sqlite3.Error) -> DistillgenError:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
            return DiskFull(
                f"cannot write the answer store: {error}",
                where=str(self.path),
                fix="free some space and run the same command again; every committed answer is kept",
            )
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return NotWritable(
                f"cannot write the answer store: {error}", where=str(self.path), fix="make the folder writable"
            )
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return Damaged(
                f"the answer store is damaged: {error}",
                where=str(self.path),
                fix="keep a copy; `sqlite3 FILE .recover` saves what can be read",
            )
        return NotWritable(f"the answer store: {error}", where=str(self.path))

    def get(self, key: bytes) -> bytes | None:
        """Return the reply to a request, None when there is none; a damaged one is set aside and counts as none."""
        with self._store_errors():
            found = self._reader.execute("SELECT reply, digest FROM answers WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        reply, checksum = found
        if bytes.fromhex(digest(key, reply)) == checksum:
            return bytes(reply)
        self._set_aside(key)
        return None

    def _set_aside(self, key: bytes) -> None:
        self.damaged += 1
        with self._store_errors():
            self._reader.execute("BEGIN IMMEDIATE")
            self._reader.execute(
                "INSERT INTO damaged SELECT key, reply, digest, ? FROM answers WHERE key = ?", (time.time(), key)
            )
            self._reader.execute("DELETE FROM answers WHERE key = ?", (key,))
            self._reader.execute("COMMIT")

    def count(self) -> int:
        """Return how many answers are stored."""
        with self._store_errors():
            return int(self._reader.execute("SELECT count(*) FROM answers").fetchone()[0])

    async def put(self, key: bytes, reply: Reply, teacher: str) -> None:
        """Store one reply; returns when it is committed to disk."""
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="answer-store", daemon=True)
            self._writer.start()
        entry = _Entry(key, reply, teacher, asyncio.get_running_loop().create_future())
        self._queue.put(entry)
        await entry.committed

    def _write(self) -> None:
        connection: sqlite3.Connection | None = None
        is_open = True
        while is_open:
            entries = [self._queue.get()]
            time.sleep(GROUP_SECONDS)
            while len(entries) < GROUP_ROWS and not self._queue.empty():
                entries.append(self._queue.get())
            is_open = None not in entries
            group = [entry for entry in entries if entry is not None]
            if not group:
                continue
            try:
                connection = connection or self._connect()
                _insert(connection, group)
            except sqlite3.Error as error:
                self.failure = self._as_ours(error)
                _tell(group, self.failure)
            else:
                _tell(group, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Commit what is queued and close. Safe to call twice."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
            self._writer = None
        self._reader.close()


def _insert(connection: sqlite3.Connection, group: Iterable[_Entry]) -> None:
    now = time.time()
    rows = [
        (
            entry.key,
            entry.reply.raw,
            bytes.fromhex(digest(entry.key, entry.reply.raw)),
            now,
            entry.reply.seconds,
            entry.teacher,
        )
        for entry in group
    ]
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _tell(group: list[_Entry], error: DistillgenError | None) -> None:
    """Wake those who wait for the commit, on their own loop."""

    def wake() -> None:
        for entry in group:
            if not entry.committed.done():
                entry.committed.set_exception(error) if error else entry.committed.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
        group[0].committed.get_loop().call_soon_threadsafe(wake)


class KeepsAnswers(Protocol):
    """What a layer needs of a store."""

    @property
    def failure(self) -> DistillgenError | None:
        """Why replies can no longer be stored, None when they can."""

    def get(self, key: bytes) -> bytes | None:
        """Return the stored reply or None."""

    async def put(self, key: bytes, reply: Reply, teacher: str) -> None:
        """Store a reply; returns when it is safe."""


class Committed:
    """Commits every decided reply before it passes it on: what a caller sees is on disk."""

    def __init__(self, inner: Asks, store: KeepsAnswers, *, teacher: str) -> None:
        self._inner, self._store, self._teacher = inner, store, teacher

    async def complete(self, request: Request) -> Reply:
        """Return the reply once it is on disk. Sends nothing more once a reply could not be stored."""
        if self._store.failure is not None:
            raise self._store.failure
        reply = await self._inner.complete(request)
        await self._store.put(request.key, reply, self._teacher)
        return reply


class Stored:
    """Serves stored answers, and asks for the others once, however many rows want them.

    `calls` and `usage` count what this run asked for; offline, `missing` holds the keys that it would have asked for.
    """

    def __init__(self, inner: Asks, store: KeepsAnswers, *, offline: bool = False) -> None:
        self._inner, self._store, self._offline = inner, store, offline
        self._asking: dict[bytes, asyncio.Task[Reply]] = {}
        self.calls = 0
        self.usage = TokenUsage()
        self.missing: set[bytes] = set()

    def stored(self, request: Request) -> Reply | None:
        """Return the stored reply, None when the teacher must be asked."""
        raw = self._store.get(request.key)
        return None if raw is None else Reply(raw)

    async def complete(self, request: Request) -> Reply:
        """Return the stored reply or a new one."""
        if found := self.stored(request):
            return found
        if self._offline:
            self.missing.add(request.key)
            raise RowFailed("not_stored", "no stored answer, and the build is offline", lasting=False)
        task = self._asking.get(request.key)
        if task is None:
            task = self._asking[request.key] = asyncio.create_task(self._ask(request))
            task.add_done_callback(functools.partial(self._done, request.key))
        # Shielded: what was sent is paid for, so it is received and stored even if this row is given up.
        return await asyncio.shield(task)

    def _done(self, key: bytes, task: asyncio.Task[Reply]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # those who wait for it have it; nobody else needs to hear of it

    async def _ask(self, request: Request) -> Reply:
        reply = await self._inner.complete(request)
        self.calls += 1
        self.usage += read_reply(reply.raw).usage or TokenUsage()
        return reply

    async def drain(self, sent: Collection[asyncio.Task[Any]], seconds: float) -> None:
        """Give up at once what is not `sent`, and wait at most `seconds` until what was is received and stored."""
        tasks = list(self._asking.values())
        for task in tasks:
            if task not in sent:
                task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
