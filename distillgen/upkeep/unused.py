"""Stored answers that nothing needs: no version that remains, and no build of the recipes that are here.

What a recipe needs is found by taking its seeds down the road with stored answers only, as `plan` does, and noting
every key that is looked up: re-asked, judged, rejected and failed ones, and those of a build that is not finished.
"""

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from distillgen.dataset.publication import SIDECARS
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, DiskFull, NotWritable
from distillgen.pipeline import Options, read_seeds
from distillgen.preparation import Prepared
from distillgen.teacher.answers import PATIENCE, AnswerStore
from distillgen.teacher.replies import Malformed, read_reply
from distillgen.upkeep.lookups import look_up
from distillgen.upkeep.rewriting import records_of

AT_ONCE = 10_000  # keys that are noted in one go
ROW_BYTES = 150  # of a stored answer besides its reply: key, digest, teacher, and its place in the index
UNRECORDED = "unrecorded"  # stands for who paid for answers that an early distillgen stored
WORTH_IT = 1_000_000  # free bytes in the file from which it is worth writing it anew


@dataclass(frozen=True)
class Unused:
    """Answers that nothing needs. `size` is in bytes, `free` what the file holds in vain already.

    `usd` is their share, by tokens, of what their teachers' replies cost: None where no price is known.
    """

    count: int = 0
    size: int = 0
    free: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0
    stored: int = 0  # answers that there are

    @property
    def is_worth_it(self) -> bool:
        """Whether there is something to give back."""
        return self.count > 0 or self.free >= WORTH_IT


class Answers:
    """An answer store as `gc` sees it: what is needed is noted first, then the rest can be counted and removed.

    The keys lie in a temporary table on disk. Raises what an answer store raises.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        AnswerStore(path).close()  # which says what is wrong with it, and brings an older one up to date
        with self._errors():
            self._store = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE, check_same_thread=False)
            self._store.execute("PRAGMA synchronous = FULL")
            self._store.execute("CREATE TEMP TABLE needed (key BLOB PRIMARY KEY NOT NULL) WITHOUT ROWID")
        self._noted: list[tuple[bytes]] = []

    def close(self) -> None:
        """Let the store go."""
        self._store.close()

    # -- what is needed ------------------------------------------------------------------------------------------------

    def need(self, keys: Iterable[bytes]) -> None:
        """Note keys that are needed."""
        for key in keys:
            self._noted.append((key,))
            if len(self._noted) >= AT_ONCE:
                self._pass_on()

    def _pass_on(self) -> None:
        with self._errors():
            self._store.execute("BEGIN")
            self._store.executemany("INSERT OR IGNORE INTO temp.needed VALUES (?)", self._noted)
            self._store.execute("COMMIT")
        self._noted.clear()

    def need_version(self, version: Version) -> None:
        """Note the keys behind the rows of a version: published, rejected and failed. Raises Damaged."""
        for name in SIDECARS:
            try:
                for line in records_of(version, name):
                    self.need(_keys_in(orjson.loads(line)["steps"]))
            except (Damaged, orjson.JSONDecodeError, KeyError, TypeError):
                what = "is not as it was published, so nobody knows which answers it needs"
                where = str(version.folder / f"{name}.jsonl.zst")
                raise Damaged(what, where=where, fix="`distillgen repair` first") from None

    def need_recipe(self, prepared: Prepared) -> None:
        """Note every key that a build of a recipe would look up, whatever limit it has, and whatever it leaves out.

        Rows that are left out now may come back; with them, `bootstrap` draws from another pool.
        """
        left_out = prepared.left_out()
        for without in (None, left_out) if left_out else (None,):
            read = functools.partial(read_seeds, prepared, Options(), left_out=without)
            asyncio.run(look_up(prepared, self._path, read, lambda key: self.need((key,)), without))

    # -- what is not ---------------------------------------------------------------------------------------------------

    def datasets(self) -> set[str]:
        """Return the names of all datasets, and pipes, that paid for answers; one stands for those not on record."""
        unrecorded = "SELECT 1 FROM answers WHERE teacher NOT IN (SELECT teacher FROM spending) LIMIT 1"
        with self._errors():
            names = {name for (name,) in self._store.execute("SELECT DISTINCT dataset FROM spending")}
            return names | {UNRECORDED} if self._store.execute(unrecorded).fetchone() else names

    def unused(self, before: float) -> Unused:
        """Return what is not needed of the answers that came before a time (Unix)."""
        self._pass_on()
        count = size = prompt = completion = 0
        tokens: dict[str, int] = {}
        with self._errors():
            found = self._store.execute(f"SELECT reply, teacher FROM answers WHERE {_UNUSED}", (before,))  # noqa: S608
            for reply, teacher in found:
                count += 1
                size += len(reply) + ROW_BYTES
                said = _tokens_of(reply)
                prompt, completion = prompt + said[0], completion + said[1]
                tokens[teacher] = tokens.get(teacher, 0) + sum(said)
            stored = int(self._store.execute("SELECT count(*) FROM answers").fetchone()[0])
            costs = [self._cost(teacher, share) for teacher, share in tokens.items()]
        usd = None if None in costs else sum(cost for cost in costs if cost is not None)
        return Unused(count, size, self._free(), prompt, completion, usd, stored)

    def _cost(self, teacher: str, tokens: int) -> float | None:
        """Return the dollars that so many tokens of a teacher cost on the average, None when it is not known."""
        sums = "sum(prompt_tokens + completion_tokens), sum(nanousd), sum(unpriced)"
        paid = self._store.execute(f"SELECT {sums} FROM spending WHERE teacher = ?", (teacher,)).fetchone()  # noqa: S608
        of, nanousd, unpriced = (figure or 0 for figure in paid)
        return None if unpriced or not of else nanousd / 1e9 * min(tokens / of, 1)

    def _free(self) -> int:
        pages, size = (self._store.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size"))
        return int(pages) * int(size)

    def remove(self, before: float) -> int:
        """Remove what `unused` told of, and give its space back; return by how many bytes the files shrank.

        Raises DiskFull when there is no room to write the file anew; the answers are gone then, the space is not free.
        """
        self._pass_on()
        was = self._size()
        with self._errors():
            self._store.execute("BEGIN IMMEDIATE")
            try:
                self._store.execute(f"DELETE FROM answers WHERE {_UNUSED}", (before,))  # noqa: S608
                self._store.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._store.execute("ROLLBACK")
                raise
            self._store.execute("VACUUM")
            self._store.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return was - self._size()

    def _size(self) -> int:
        files = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(path.stat().st_size for path in files if path.exists())

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "") or ""
            where, what = str(self._path), f"the answer store: {error}"
            if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
                fix = "free some space and run the same command again; no answer that is needed is lost"
                raise DiskFull(what, where=where, fix=fix) from error
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                fix = "keep a copy; `sqlite3 FILE .recover` saves what can be read"
                raise Damaged(what, where=where, fix=fix) from error
            raise NotWritable(what, where=where) from error


_UNUSED = "received < ? AND NOT EXISTS (SELECT 1 FROM temp.needed WHERE needed.key = answers.key)"


def _keys_in(steps: Any) -> Iterator[bytes]:
    """Yield the keys of requests, wherever steps note them."""
    if isinstance(steps, dict):
        key = steps.get("key")
        if isinstance(key, str) and len(key) == 64:
            with contextlib.suppress(ValueError):
                yield bytes.fromhex(key)
        steps = list(steps.values())
    if isinstance(steps, list):
        for each in steps:
            if isinstance(each, dict | list):
                yield from _keys_in(each)


def _tokens_of(reply: bytes) -> tuple[int, int]:
    try:
        usage = read_reply(reply).usage
    except Malformed:
        return 0, 0
    return (0, 0) if usage is None else (usage.prompt, usage.completion)
