"""Equal shares of one endpoint's limits for a user's processes on one machine; other machines are not seen.

Each process holds a kernel lock on a slot file, which ends with the process however that ends, and counts the locks.
A holder locks a slot exclusively; to count is to try a shared lock and let go at once. So those who count never hinder
one another, and only a holder is ever counted. A count may hinder a newcomer, who takes the next slot then: slots need
not be dense. (Locks of open file descriptions can be tested without being taken, but not portably from Python.)
"""

import contextlib
import fcntl
import math
import os
import time
import weakref
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from distillgen.state import user_state_folder

SLOTS = 64
COUNT_SECONDS = 1.0
SILENT_SECONDS = 60.0  # the window of stated limits: those who were here may have filled it
DOOR_TRIES, DOOR_SECONDS = 100, 0.01

_held: weakref.WeakSet[FileIO] = weakref.WeakSet()


def _let_go() -> None:
    for slot in list(_held):
        slot.close()


# Python opens files with O_CLOEXEC, so a program that is started does not keep the slot; a forked child would, and
# might outlive its parent. To close is enough, and to unlock would be wrong: the lock is the parent's.
os.register_at_fork(after_in_child=_let_go)


class Share:
    """One process's share of the limits of a pool, from entering to leaving; leave as soon as nothing more is sent.

    `pool` is a digest of what the limits belong to: it names a folder, so no key may be read from it. `silent_until` is
    the time of `clock` before which nothing is to be sent, 0 for one who came alone. `problem` says in a few words why
    the shares may be wrong, "" when all is well: where nothing can be locked, a process goes on as if it were alone.
    """

    def __init__(self, pool: str, *, folder: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool, self._limits, self._clock = pool, folder, clock
        self._folder = Path()
        self._slot: FileIO | None = None
        self._parts = 1
        self._count_at = math.inf
        self.problem = ""
        self.silent_until = 0.0

    def __enter__(self) -> "Share":
        try:
            self._folder = (self._limits or user_state_folder() / "limits") / self._pool
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _door(self._folder):
                self._slot = _free_slot(self._folder)
                self._parts = self._count()
        except OSError as error:
            self.problem = self._in_words(error)
            self._leave()
            return self
        if self._slot is None:
            self.problem = f"more than {SLOTS} processes share these limits"
        now = self._clock()
        self._count_at = now + COUNT_SECONDS
        if self._parts > 1:
            self.silent_until = now + SILENT_SECONDS
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def parts(self, now: float) -> int:
        """Return among how many processes the limits are shared, at least 1; counts at most once a second."""
        if now >= self._count_at:
            self._count_at = now + COUNT_SECONDS
            try:
                self._parts = self._count()
            except OSError as error:  # no file handle left, say: the last count is nearer to the truth than 1
                self.problem = self._in_words(error)
        return self._parts

    def _count(self) -> int:
        live = sum(_is_held(path) for path in self._folder.iterdir() if path.name.startswith("slot-"))
        if not live:  # not even our own: some network file systems let everybody have every lock
            raise OSError("locks are not kept here")
        return live + (self._slot is None)

    def _leave(self) -> None:
        # The empty file stays. One who removed it might do so between another's opening and locking it, and nobody
        # would ever see that slot; a killed process removes nothing anyway; and there are never more than SLOTS.
        if self._slot is not None:
            self._slot.close()
        self._count_at = math.inf

    def _in_words(self, error: OSError) -> str:
        return f"{error.filename or self._folder}: {error.strerror or error}"


@contextlib.contextmanager
def _door(folder: Path) -> Iterator[None]:
    """Let newcomers in one by one, so that of those who come at one instant the first sees nobody: it is not silent."""
    with (folder / "door").open("ab", buffering=0) as door:
        for _ in range(DOOR_TRIES):
            if _lock(door, fcntl.LOCK_EX):
                break
            time.sleep(DOOR_SECONDS)
        else:
            raise TimeoutError("another process stands in the door")
        yield


def _free_slot(folder: Path) -> FileIO | None:
    """Take the first free slot; None when there is none."""
    for number in range(1, SLOTS + 1):
        with contextlib.ExitStack() as closing:
            slot = closing.enter_context((folder / f"slot-{number:04d}").open("ab", buffering=0))
            if _lock(slot, fcntl.LOCK_EX):
                closing.pop_all()
                _held.add(slot)
                return slot
    return None


def _is_held(path: Path) -> bool:
    with path.open("rb", buffering=0) as slot:
        return not _lock(slot, fcntl.LOCK_SH)


def _lock(file: FileIO, kind: int) -> bool:
    """Try to lock; False when somebody holds a lock that forbids it. Raises OSError where nothing can be locked."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
