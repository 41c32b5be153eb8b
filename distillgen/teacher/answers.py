"""The answer store: every reply ever received, raw, keyed by what was asked, and what all of them cost."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tenacity

from distillgen.errors import Damaged, DiskFull, DistillgenError, Locked, NewerFormat, NotWritable
from distillgen.files import canonical, digest_bytes, disk_errors, dumps
from distillgen.teacher.asking import Reply
from distillgen.teacher.replies import NOTHING, TokenUsage
from distillgen.teacher.sent import Unknown, logs, read_notes

FORMAT = 2
APPLICATION_ID = 0x44474131  # "DGA1"
GROUP_SECONDS = 0.005  # how long a commit waits for company; far below the 100 ms that the design allows
GROUP_ROWS = 1000
AHEAD = 256  # answers that are read together
LET_BE = 1000  # look-ups, after reading together was of no use
PATIENCE = 60  # seconds to wait for another process that writes
CACHE_KIB = 24_576  # of pages: the inner ones of an index of many millions of keys, and what was just read

_TABLES = {
    1: """
CREATE TABLE answers (
    key BLOB PRIMARY KEY NOT NULL,   -- see request_key
    reply BLOB NOT NULL,             -- the body of the HTTP reply as it arrived
    digest BLOB NOT NULL,            -- sha256 of key and reply
    received REAL NOT NULL,          -- Unix time
    seconds REAL,                    -- latency of the request
    teacher TEXT NOT NULL            -- endpoint identity and model, for people
);
CREATE TABLE damaged (key BLOB NOT NULL, reply BLOB, digest BLOB, found REAL NOT NULL);
""",
    2: """
CREATE TABLE spending (              -- one row for each run, dataset and teacher
    run TEXT NOT NULL, dataset TEXT NOT NULL, teacher TEXT NOT NULL,
    started REAL NOT NULL,           -- Unix time of its first reply
    calls INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    nanousd INTEGER NOT NULL,        -- what the replies cost, in billionths of a dollar
    unpriced INTEGER NOT NULL,       -- replies whose cost is not known
    PRIMARY KEY (run, dataset, teacher)
);
CREATE TABLE unknown (               -- requests that were sent and whose outcome nobody knows
    run TEXT NOT NULL, dataset TEXT NOT NULL, key BLOB NOT NULL,
    nanousd INTEGER                  -- the most that it may have cost; null when no price is known
);
CREATE TABLE taken_in (run TEXT PRIMARY KEY NOT NULL);   -- runs whose notes are in `unknown`
""",
}


def request_key(body: Mapping[str, Any], *, endpoint: str, sample: int = 0, ask: int = 0, epoch: int = 0) -> bytes:
    """Return the 32-byte key of one completion: what is asked, of whom, which sample, which ask, which epoch.

    `n`, `stream` and every other matter of transport must not be in `body`. The keys of an object are sorted, but for
    those of a schema: the order of its properties is the order in which a constrained reply is written.
    """
    if "response_format" in body:
        body = {**body, "response_format": dumps(body["response_format"])}
    return digest_bytes(canonical({"body": body, "endpoint": endpoint, "sample": sample, "ask": ask, "epoch": epoch}))


@dataclass(frozen=True, slots=True)
class Account:
    """Where a reply is charged: run, dataset, and teacher (endpoint identity and model, for people)."""

    run: str = ""
    dataset: str = ""
    teacher: str = ""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a reply cost: tokens as the server counted them, and billionths of a dollar (None: unknown)."""

    usage: TokenUsage = NOTHING
    nanousd: int | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a dataset, or all of them, cost so far. `nanousd` and `unknown_nanousd` are billionths of a dollar."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    nanousd: int = 0
    unpriced: int = 0
    unknown: int = 0
    unknown_nanousd: int = 0


@dataclass(slots=True)
class _Entry:
    key: bytes
    reply: Reply
    account: Account
    charge: Charge
    committed: asyncio.Future[None]


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")


@tenacity.retry(
    retry=tenacity.retry_if_exception(_is_busy), wait=tenacity.wait_random(0.01, 0.05),
    stop=tenacity.stop_after_delay(PATIENCE), reraise=True,
)  # fmt: skip
def _use_wal(connection: sqlite3.Connection) -> None:
    """Turn WAL on; SQLite does not wait for a process that does the same just then, whatever its time-out."""
    connection.execute("PRAGMA journal_mode = WAL")


class AnswerStore:
    """SQLite in WAL mode with synchronous FULL: one thread writes in groups, anybody reads.

    `failure` is why the last commit did not succeed: nothing should be paid for that cannot be kept.
    Raises NewerFormat, NotWritable, DiskFull, or Damaged when the file is not a database at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self.failure: DistillgenError | None = None
        self._waiting: deque[_Entry] = deque()
        self._wake = threading.Event()
        self._is_open = True
        self._writer: threading.Thread | None = None
        self._ahead: dict[bytes, tuple[bytes, bytes]] = {}  # key -> reply and digest
        self._let_be = 0
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._store_errors():
            self._reader = self._connect()
            self._prepare(self._reader)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=PATIENCE)
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        is_new = version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        if version > FORMAT:
            raise NewerFormat(
                f"the answer store has format {version}, this distillgen knows {FORMAT}",
                where=str(self.path),
                fix="pip install --upgrade distillgen",
            )
        if not is_new and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise Damaged(
                "not an answer store of distillgen", where=str(self.path), fix="move it away; a new one is made"
            )
        if version < FORMAT:
            with _transaction(connection):
                version = connection.execute("PRAGMA user_version").fetchone()[0]  # another process may have been here
                for number in range(version + 1, FORMAT + 1):
                    for statement in _TABLES[number].split(";\n"):
                        connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")

    @contextlib.contextmanager
    def _now(self) -> Iterator[sqlite3.Connection]:
        """Look at, or change, what is stored by now and not what `get` saw last."""
        with self._store_errors():
            self._ahead = {}
            if self._reader.in_transaction:
                self._reader.execute("COMMIT")
            yield self._reader

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._as_ours(error) from error

    def _as_ours(self, error: Exception) -> DistillgenError:
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
        try:
            found = self._find(key)
        except sqlite3.Error as error:
            raise self._as_ours(error) from error
        if found is None:
            return None
        reply, checksum = found
        if isinstance(reply, bytes) and digest_bytes(key, reply) == checksum:
            return reply
        self.set_aside(key)
        return None

    def _find(self, key: bytes) -> tuple[bytes, bytes] | None:
        """Look a key up. While every key is found, all of them are read from one snapshot, which spares a lock each;
        a key that is not there is looked for in what is stored by now."""
        if (ahead := self._ahead.pop(key, None)) is not None:
            return ahead
        select = "SELECT rowid, reply, digest FROM answers WHERE key = ?"
        found = self._reader.execute(select, (key,)).fetchone()
        if found is None and self._reader.in_transaction:
            self._reader.execute("COMMIT")
            found = self._reader.execute(select, (key,)).fetchone()
        elif found is not None and not self._reader.in_transaction:
            self._reader.execute("BEGIN")
        elif found is not None:
            self._read_ahead(found[0])
        return None if found is None else (found[1], found[2])

    def _read_ahead(self, row: int) -> None:
        """Read what was stored after a row in one go: a build asks for answers about in the order in which it stored
        them. If most of what was read ahead last time was of no use, it is let be for a while."""
        self._let_be -= 1
        if self._let_be > 0:
            return
        if len(self._ahead) > AHEAD // 2:
            self._ahead, self._let_be = {}, LET_BE
            return
        following = "SELECT key, reply, digest FROM answers WHERE rowid > ? ORDER BY rowid LIMIT ?"
        self._ahead = {key: (reply, digest) for key, reply, digest in self._reader.execute(following, (row, AHEAD))}

    def set_aside(self, key: bytes) -> None:
        """Serve a reply no more: its bytes are not those that were stored, or they are not a completion after all."""
        self.damaged += 1
        with self._now() as connection, _transaction(connection):
            connection.execute(
                "INSERT INTO damaged SELECT key, reply, digest, ? FROM answers WHERE key = ?", (time.time(), key)
            )
            connection.execute("DELETE FROM answers WHERE key = ?", (key,))

    def held(self, keys: Iterable[bytes]) -> int:
        """Return how many replies to these requests there are, damaged ones counted in."""
        with self._now() as connection:
            return sum(
                connection.execute(f"SELECT count(*) FROM {table} WHERE key = ?", (key,)).fetchone()[0]  # noqa: S608
                for key in keys
                for table in ("answers", "damaged")
            )

    def times(self, keys: Iterable[bytes]) -> Iterator[tuple[float, float | None]]:
        """Yield when each reply to these requests came (Unix time) and its latency in seconds; None in a batch."""
        with self._now() as connection:
            for key in keys:
                yield from connection.execute("SELECT received, seconds FROM answers WHERE key = ?", (key,))

    def erase(self, keys: Iterable[bytes]) -> int:
        """Remove replies for good, damaged ones too; return how many there were. What they cost stays on record.

        The file is written anew, so that no byte of them is left in it or in its log. Raises DiskFull when there is no
        room for that, and Locked while another process reads: the replies are gone then, their bytes may be in the log.
        """
        found = 0
        with self._now() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            with _transaction(connection):
                for key in keys:
                    for table in ("answers", "damaged"):
                        found += connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,)).rowcount  # noqa: S608
            self._empty_log(connection)
            connection.execute("VACUUM")  # else what was removed in former times may lie in free pages
            self._empty_log(connection)
        return found

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise Locked("another process reads the answer store", where=str(self.path), fix="wait for it to end")

    def count(self) -> int:
        """Return how many answers are stored."""
        with self._now() as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    def spent(self, dataset: str | None = None) -> Spent:
        """Return what the runs so far cost: of one dataset, or of all."""
        where, which = ("", ()) if dataset is None else (" WHERE dataset = ?", (dataset,))
        with self._now() as connection:
            sums = "sum(calls), sum(prompt_tokens), sum(completion_tokens), sum(nanousd), sum(unpriced)"
            paid = connection.execute(f"SELECT {sums} FROM spending{where}", which).fetchone()  # noqa: S608
            lost = connection.execute(f"SELECT count(*), sum(nanousd) FROM unknown{where}", which).fetchone()  # noqa: S608
        return Spent(*(number or 0 for number in (*paid, *lost)))

    def take_in_notes(self) -> None:
        """Keep what runs that ended sent without learning its outcome, and let their files of notes go.

        A crash in the middle of it is made good by the next call.
        """
        for path in logs(self.path.parent):
            dataset, lost = self.unknown_in(path)
            with self._now() as connection, _transaction(connection):
                is_new = connection.execute("INSERT OR IGNORE INTO taken_in VALUES (?)", (path.name,)).rowcount
                if is_new:
                    connection.executemany(
                        "INSERT INTO unknown VALUES (?, ?, ?, ?)",
                        [(path.name, dataset, each.key, each.nanousd) for each in lost],
                    )
            with disk_errors(path):
                path.unlink(missing_ok=True)

    def unknown_in(self, path: Path) -> tuple[str, list[Unknown]]:
        """Return the dataset and the requests of unknown outcome in a file of notes, but for those stored after all."""
        dataset, unknown = read_notes(path)
        stored = "SELECT 1 FROM answers WHERE key = ?"
        with self._now() as connection:
            lost = [
                each for each in unknown if not (each.is_last and connection.execute(stored, (each.key,)).fetchone())
            ]
        return dataset, lost

    async def put(self, key: bytes, reply: Reply, account: Account, charge: Charge) -> None:
        """Store one reply and what it cost, in one transaction; returns when it is committed to disk."""
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="answer-store", daemon=True)
            self._writer.start()
        entry = _Entry(key, reply, account, charge, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if not self._wake.is_set():  # costs a lock, and most find it set
            self._wake.set()
        await entry.committed

    def _write(self) -> None:
        connection: sqlite3.Connection | None = None
        while self._is_open or self._waiting:
            self._wake.wait()
            time.sleep(GROUP_SECONDS if self._is_open else 0)
            self._wake.clear()
            while group := [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_ROWS))]:
                try:
                    connection = connection or self._connect()
                    with _transaction(connection):
                        _insert(connection, group)
                        _charge(connection, group)
                except Exception as error:  # whatever it is: who waits for the commit must hear of it
                    self.failure = self._as_ours(error)
                    _tell(group, self.failure)
                else:
                    _tell(group, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Commit what is queued and close. Safe to call twice."""
        self._is_open = False
        if self._writer is not None:
            self._wake.set()
            self._writer.join()
            self._writer = None
        self._reader.close()


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _insert(connection: sqlite3.Connection, group: Iterable[_Entry]) -> None:
    now = time.time()
    connection.executemany(
        "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
        [
            (e.key, e.reply.raw, digest_bytes(e.key, e.reply.raw), now, e.reply.seconds, e.account.teacher)
            for e in group
        ],
    )


def _charge(connection: sqlite3.Connection, group: Collection[_Entry]) -> None:
    """Add a group's calls, tokens and cost to its accounts."""
    for account in {entry.account for entry in group}:
        charges = [entry.charge for entry in group if entry.account == account]
        figures = (
            len(charges),
            sum(charge.usage.prompt for charge in charges),
            sum(charge.usage.completion for charge in charges),
            sum(charge.nanousd or 0 for charge in charges),
            sum(charge.nanousd is None for charge in charges),
        )
        connection.execute(
            "INSERT INTO spending VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET calls = calls"
            " + excluded.calls, prompt_tokens = prompt_tokens + excluded.prompt_tokens, completion_tokens ="
            " completion_tokens + excluded.completion_tokens, nanousd = nanousd + excluded.nanousd,"
            " unpriced = unpriced + excluded.unpriced",
            (account.run, account.dataset, account.teacher, time.time(), *figures),
        )


def _tell(group: list[_Entry], error: DistillgenError | None) -> None:
    """Wake those who wait for the commit, on their own loop."""

    def wake() -> None:
        for entry in group:
            if not entry.committed.done():
                entry.committed.set_exception(error) if error else entry.committed.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
        group[0].committed.get_loop().call_soon_threadsafe(wake)
