"""The locks that upkeep takes before it changes anything, or only looks at while it says what it would do."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from distillgen.errors import Locked
from distillgen.files import Lock, holder


@contextlib.contextmanager
def at_rest(locks: Iterable[Path], *, will_do: bool) -> Iterator[None]:
    """Hold locks; without `will_do` only see that nobody holds them. Raises Locked."""
    with contextlib.ExitStack() as held:
        for lock in locks:
            if will_do:
                held.enter_context(Lock(lock))
            else:
                _require_idle(lock)
        yield


def of_project(state: Path, homes: Iterable[Path]) -> list[Path]:
    """Return the locks of a state folder, if there is one, and of datasets."""
    return [*([state / "lock"] if state.is_dir() else []), *(home / ".lock" for home in homes)]


def _require_idle(lock: Path) -> None:
    if (who := holder(lock)) is not None:
        raise Locked(f"another distillgen is at work here: {who}", where=str(lock), fix="wait for it to end")
