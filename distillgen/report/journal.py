"""Who hears what a command says: a person at a terminal, a log file, a program that reads events; or, quiet, nobody
until it fails.
"""

import contextlib
import json
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

from distillgen.errors import DistillgenError
from distillgen.report.console import LOG, NOTE, Color, Manner, console, note, say, speaking

SCHEMA = "event/1"  # distillgen/schemas/event.schema.json
MOST_LINES, MOST_CHARACTERS = 10, 1000  # of what a quiet command says when it fails; characters of each line

LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class Listeners:
    """The options by which a person says who hears what."""

    quiet: bool = False
    color: Color = "auto"
    log_file: Path | None = None
    log_format: LogFormat = "text"


@contextlib.contextmanager
def heard(command: str, listeners: Listeners) -> Iterator["Journal"]:
    """Let the listeners hear what is said in a block. Raises NotWritable when the log file cannot be opened."""
    journal = Journal(command, listeners)
    for handler in journal.handlers:
        LOG.addHandler(handler)
    level = LOG.level
    LOG.setLevel(NOTE)
    try:
        with speaking(Manner(is_seen=not listeners.quiet and not journal.is_for_programs, color=listeners.color)):
            yield journal
    finally:
        LOG.setLevel(level)
        for handler in journal.handlers:
            LOG.removeHandler(handler)
            with contextlib.suppress(OSError):  # that the log file cannot be written has been said
                handler.close()


class Journal:
    """The handlers of one command, and the first and last thing that they hear."""

    def __init__(self, command: str, listeners: Listeners) -> None:
        self._command, self._began = command, time.monotonic()
        self.is_for_programs = listeners.log_format == "json" and listeners.log_file is None
        self._person: logging.Handler = _Events(command) if self.is_for_programs else _Terminal()
        if listeners.quiet:
            self._person = _Held(self._person)
        self.handlers: list[logging.Handler] = [self._person]
        if listeners.log_file is not None:
            self.handlers.append(_log_file(listeners.log_file, command, listeners.log_format))

    def begin(self, version: str) -> None:
        """Note that the command has begun."""
        note(f"distillgen {version}", event="started", distillgen=version)

    def end(self, exit_status: int) -> None:
        """Note how it ended. A quiet command says now why it failed."""
        if exit_status and isinstance(self._person, _Held):
            self._person.let_go()
        seconds = round(time.monotonic() - self._began, 3)
        note(f"exit status {exit_status}", event="ended", exit_status=exit_status, seconds=seconds)


def say_error(error: DistillgenError) -> None:
    """Say what ends a command: one block, code first; its parts one by one in events."""
    problems = [{"what": each.what, "where": each.where, "fix": each.fix} for each in error.problems]
    say(str(error), style="red", event="error", code=error.code, exit_status=error.exit_status, problems=problems)


class _Terminal(logging.Handler):
    """A person, who reads the text."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        # A quiet command's own console prints nothing; what is let go at its end is to be read all the same.
        style: str = getattr(record, "style", "")
        console(is_stderr=True, is_seen=True).print(Text(record.getMessage(), style=style))


class _Held(logging.Handler):
    """A person who wants to hear of failures only: what may explain one is held until there is one."""

    def __init__(self, person: logging.Handler) -> None:
        super().__init__(logging.WARNING)
        self._person = person
        self._held: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._held = [*self._held[1 - MOST_LINES :], record]

    def let_go(self) -> None:
        """Say the error, or where none was raised the last warnings, in ten lines at most."""
        errors = [record for record in self._held if record.levelno >= logging.ERROR]
        lines = 0
        for record in errors[-1:] or self._held:
            text = record.getMessage().splitlines()
            if room := max(MOST_LINES - lines, 0):
                if len(text) > room:
                    text = [*text[: room - 1], f"... and {len(text) - room + 1:,} more lines without --quiet"]
                record.msg, record.args = "\n".join(map(_cut, text)), ()
                self._person.handle(record)
            lines += len(text)


def _cut(line: str) -> str:
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 3]}..."


class _Events(logging.StreamHandler[Any]):
    """A program, that reads events from standard error."""

    def __init__(self, command: str) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(_Json(command))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Go on: that nobody reads the events any more is no reason to stop paid work."""


def _log_file(path: Path, command: str, format_: LogFormat) -> logging.Handler:
    from distillgen.files import disk_errors

    with disk_errors(path):
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Json(command) if format_ == "json" else _Lines(command))
    return handler


class _LogFile(logging.handlers.WatchedFileHandler):
    """A log file, which may be moved away by logrotate between two lines."""

    _is_broken = False

    def _open(self) -> TextIOWrapper:
        """Open it; a pipe that nobody reads is refused, where others would wait for ever."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        handle = os.open(self.baseFilename, flags, 0o666)
        os.set_blocking(handle, True)
        return os.fdopen(handle, "a", encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, into a new file where the old one was moved away; its folder may be gone too."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say once that the log cannot be written: a full disk is no reason to stop paid work."""
        if not self._is_broken:
            self._is_broken = True
            why = sys.exception()
            say(f"the log file cannot be written: {os.fspath(self.baseFilename)}: {why}", style="yellow")


class _Lines(logging.Formatter):
    """One line for each thing that is said; a further line of it is indented, so that `grep -A` finds it."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage().replace("\n", "\n    ")
        return f"{_time(record)} {_level(record):<7} {self._command}[{record.process}]: {text}"


class _Json(logging.Formatter):
    """One event for each thing that is said, as one line of JSON."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        head = {
            "schema": SCHEMA, "time": _time(record), "level": _level(record), "command": self._command,
            "process": record.process, "event": getattr(record, "event", "message"), "text": record.getMessage(),
        }  # fmt: skip
        return json.dumps(head | fields)  # ASCII, whatever the locale


def _level(record: logging.LogRecord) -> str:
    return "info" if record.levelno == NOTE else record.levelname.lower()


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
