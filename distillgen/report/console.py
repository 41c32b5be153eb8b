"""What a person is told, in a terminal, a log, or a mail from cron. Writes to standard error only."""

import re
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

# Control characters of C0 (but tab and newline) and C1, and what turns the direction of writing round.
_HOSTILE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def safe(text: str) -> str:
    """Return text that can do nothing to a terminal: control and direction characters become visible escapes."""
    return _HOSTILE.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text
    )


def stderr() -> Console:
    """Return the console for people. Nothing in what it prints is taken for markup."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say(text: str, *, style: str = "") -> None:
    """Print one message for people."""
    stderr().print(Text(safe(text), style=style))


def number(count: int, noun: str) -> str:
    """Return `1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def counts(numbers: Mapping[str, int], most: int = 4) -> str:
    """Return counts on one line: `length 3, exact_duplicate 1`."""
    parts = [f"{name} {number:,}" for name, number in list(numbers.items())[:most]]
    return ", ".join(parts + (["..."] if len(numbers) > most else []))


def clock(seconds: float) -> str:
    """Return a duration as people read it: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
