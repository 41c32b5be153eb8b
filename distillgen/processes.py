"""What worker processes have in common: how many there may be, and that none outlives the one that started it."""

import contextlib
import multiprocessing
import os
import threading


def processors() -> int:
    """Return how many processors this process may use."""
    with contextlib.suppress(AttributeError):  # macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """End this process when the one that started it is gone, `kill -9` included."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
