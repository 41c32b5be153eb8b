"""The lowest lines of a terminal, drawn anew in place; what anybody else writes to standard error goes above them.

Not by rich's Live: it hides the cursor, which a second Ctrl-C or kill -9 leaves hidden; it counts lines, which a
terminal that is resized wraps anew; and a terminal that was told to wait (Ctrl-S) stops the run.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO, cast

ERASE = "\r\x1b[J"  # from the first of our lines to the end of the screen
NO_WRAP, WRAP = "\x1b[?7l", "\x1b[?7h"  # a glyph that is wider than we think must not push a line onto the next
SUSPECT = ("", "dumb", "unknown")  # values of TERM
PATIENCE_SECONDS = 0.5


def size_of(stream: TextIO) -> tuple[int, int] | None:
    """Return columns and rows of the terminal behind a stream, None when there is none or it does not say.

    COLUMNS is not asked: it is what somebody wished once, and a line that is too long for the terminal wraps.
    """
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # a closed stream, one without a descriptor, no terminal
        return None
    return (columns, rows or 24) if columns > 0 else None


def can_draw(stream: TextIO | None) -> bool:
    """Whether lines of a stream can be drawn anew: a terminal that says its size and is not known to be dumb.

    What FORCE_COLOR says does not count: it is about colour, and a file is no terminal.
    """
    return stream is not None and os.environ.get("TERM", "") not in SUSPECT and size_of(stream) is not None


def is_same_terminal(one: TextIO | None, other: TextIO | None) -> bool:
    """Whether two streams end in the same terminal."""
    if one is None or other is None or size_of(one) is None or size_of(other) is None:
        return False
    return os.path.sameopenfile(one.fileno(), other.fileno())


def restore_terminal() -> None:
    """Take the live lines off the terminal, if there are any. To be called right before `os._exit`.

    The cursor is never hidden and no mode outlasts a drawing, so that even kill -9 leaves nothing to mend but the lines
    themselves. Waits half a second at most for a terminal that takes nothing.
    """
    screen: Any = sys.stderr
    if isinstance(screen, Screen):
        _patiently(screen.close)


def _patiently(work: Callable[[], None]) -> None:
    """Do what a terminal may hold up for ever, but wait half a second at most."""
    working = threading.Thread(target=work, daemon=True)
    working.start()
    working.join(PATIENCE_SECONDS)


@contextlib.contextmanager
def leaves_when_stopped(screen: "Screen") -> Iterator[None]:
    """Have Ctrl-Z take the lines away before the process stops, so that the shell's prompt stands on a clean line.

    They come back with `fg`. Does nothing where signals are not ours: in a thread, or where a parent ignores this one.
    """
    loop = asyncio.get_running_loop()

    def stop() -> None:
        _patiently(screen.clear)
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)  # goes on here, after SIGCONT
        loop.add_signal_handler(signal.SIGTSTP, stop)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTSTP) != signal.SIG_DFL:
        yield
        return
    loop.add_signal_handler(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTSTP)


class Screen:
    """Stands in for `sys.stderr`: passes on what is written, and draws its own lines below.

    The cursor rests at the start of the first line drawn. From there one escape erases all of them, also after the
    terminal was resized and has wrapped them anew; and whoever writes past this object begins on a fresh line.
    """

    def __init__(self, stream: TextIO, *, paint: Mapping[str, str] | None = None) -> None:
        """`paint` maps the names of styles to escapes that begin them."""
        self.stream, self._paint = stream, paint or {}
        self._lock = threading.RLock()
        self._frame = ""
        self._drawn: object = None  # what the terminal shows, and its size; None where that is not certain
        self._is_at_start = True  # of a line; where another one stopped halfway nothing is drawn
        self._is_closed = False

    def draw(self, lines: Sequence[tuple[str, str]]) -> None:
        """Show these lines, texts with the names of their styles, instead of the last. They must fit the terminal."""
        with self._lock:
            if not self._is_ours():
                self._drawn = None
                return
            drawn = (tuple(lines), size_of(self.stream))
            if self._is_closed or not lines or not self._is_at_start or drawn == self._drawn:
                return  # what is there already is not sent again: the line may be a slow one
            self._drawn = drawn
            self._frame = "\r\n".join(f"{self._painted(*line)}\x1b[K" for line in lines)
            up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
            self._frame = f"\r{NO_WRAP}{self._frame}\x1b[J{up}\r{WRAP}"
            try:
                self._send(self._frame)
            except (OSError, ValueError):  # nobody looks any more, which is no reason to stop
                self._is_closed, self._frame = True, ""

    def _painted(self, text: str, style: str) -> str:
        begin = self._paint.get(style, "")
        return f"{begin}{text}\x1b[0m" if begin else text

    def _is_ours(self) -> bool:
        """Whether we are in the foreground: what runs behind a shell does not draw over its prompt."""
        try:
            return os.tcgetpgrp(self.stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True

    def _send(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def write(self, text: str) -> int:
        """Write a text above the lines."""
        if not text:
            return 0
        with self._lock:
            erase = ERASE if self._frame else ""
            self._is_at_start = text.endswith("\n")
            if not self._is_at_start:
                self._frame, self._drawn = "", None
            self._send(erase + text + self._frame)
        return len(text)

    def clear(self) -> None:
        """Take the lines away until they are drawn again."""
        with self._lock:
            if self._frame and not self._is_closed:
                with contextlib.suppress(OSError, ValueError):
                    self._send(ERASE)
            self._frame, self._drawn = "", None

    def close(self) -> None:
        """Take the lines away; draw no more."""
        with self._lock:
            self.clear()
            self._is_closed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> "Screen":
        sys.stderr = cast(TextIO, self)
        return self

    def __exit__(self, *_: object) -> None:
        if cast(Any, sys.stderr) is self:
            sys.stderr = self.stream
        self.close()
