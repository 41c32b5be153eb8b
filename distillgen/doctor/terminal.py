"""What output looks like here: terminal or not, its width, colours, and how letters are written."""

import contextlib
import locale
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import TextIO

from distillgen.doctor.findings import Finding, note, quoted, warning, well

NARROW = 40
UTF8 = "export PYTHONUTF8=1   (or LC_ALL=C.UTF-8)"


def examine(environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Yield what is found of the standard streams and of the variables that change how output looks."""
    environment = os.environ if environment is None else environment
    yield _streams(environment)
    yield from _colours(environment)
    yield _letters(environment)


def _is_terminal(stream: TextIO | None) -> bool:
    with contextlib.suppress(ValueError, OSError):  # closed
        return stream is not None and stream.isatty()
    return False


def _streams(environment: Mapping[str, str]) -> Finding:
    out, told = _is_terminal(sys.stdout), _is_terminal(sys.stderr)
    if not out and not told:
        return well("terminal", "no terminal: plain text, no live display")
    width = shutil.get_terminal_size().columns
    columns = environment.get("COLUMNS", "")
    where = "standard output and error" if out and told else "standard output" if out else "standard error"
    if columns and not columns.isdigit():
        return note("terminal", f"COLUMNS is {quoted(columns)}, which is no width", "unset COLUMNS")
    if width < NARROW:
        return note("terminal", f"the terminal has {width} columns: tables are hard to read", "make it wider, or use |")
    return well("terminal", f"{where}: a terminal of {width} columns")


def _colours(environment: Mapping[str, str]) -> Iterator[Finding]:
    term = environment.get("TERM", "")
    is_terminal = _is_terminal(sys.stdout) or _is_terminal(sys.stderr)
    never, force = environment.get("NO_COLOR"), environment.get("FORCE_COLOR")
    if never and force:
        yield note("terminal", "NO_COLOR and FORCE_COLOR are both set", "unset one of them, or use --color")
    elif force and not is_terminal:
        what = "FORCE_COLOR is set: colour codes go into files, pipes and mails, too"
        yield note("terminal", what, "unset FORCE_COLOR there, or use --color never")
    elif never:
        yield well("terminal", "no colours (NO_COLOR is set)")
    if is_terminal and term in ("", "dumb", "unknown"):
        what = f"TERM is {quoted(term)}: no colours and no live display" if term else "TERM is not set: no colours"
        yield note("terminal", what, "export TERM=xterm-256color, if the terminal is an ordinary one")
    elif is_terminal and not _is_known(term):
        what = f"TERM is {quoted(term)}, which this system does not know"
        yield note("terminal", what, "export TERM=xterm-256color, or install its terminfo entry")


def _is_known(term: str) -> bool:
    """Whether the system's table of terminals has an entry; where there is no such table nothing can be told."""
    try:
        import curses
    except ImportError:
        return True
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123  (it wants some file to write to, and writes nothing)
        try:
            curses.setupterm(term, nothing.fileno())
        except curses.error:
            return False
    return True


def _letters(environment: Mapping[str, str]) -> Finding:
    encoding = (getattr(sys.stdout, "encoding", None) or locale.getpreferredencoding(do_setlocale=False)).lower()
    names = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONUTF8", "PYTHONIOENCODING")
    given = ", ".join(f"{name}={environment[name]}" for name in names if environment.get(name)) or "no locale set"
    if encoding.replace("-", "").replace("_", "") == "utf8":
        return well("terminal", f"text is written as UTF-8 ({given})")
    what = f"text is written as {encoding} ({given}): letters that it lacks cannot be shown, or end a command"
    return warning("terminal", what, UTF8)
