"""What is left of a command's work when a disk is full or a signal stops it: told truly, cleared on the way out."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from distillgen.errors import DiskFull, Interrupted

STOPS = (signal.SIGTERM, signal.SIGHUP)  # of SIGINT, Python itself makes an exception
_OF_BUILDS = "what was decided is kept"  # as distillgen/files.py has it, for whoever says nothing else


@contextmanager
def when_full(left: str) -> Iterator[None]:
    """Have a DiskFull that is raised within say what is left of the work of this command."""
    try:
        yield
    except DiskFull as error:
        [problem] = error.problems
        if _OF_BUILDS not in problem.fix:  # it says so already
            raise
        raise DiskFull(problem.what, where=problem.where, fix=problem.fix.replace(_OF_BUILDS, left)) from error


@contextmanager
def on_stop(left: str) -> Iterator[None]:
    """Have a signal that would end the process at once raise Interrupted within, which says what is `left`.

    A signal that somebody ignores (`nohup`) or handles already is left alone; so is all outside of the main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in STOPS if is_main and signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, _: FrameType | None) -> None:
        for each in ours:  # a second one ends it at once
            signal.signal(each, signal.SIG_DFL)
        raise Interrupted(f"stopped; {left}", signal_number=signal.Signals(number))

    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
