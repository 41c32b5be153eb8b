"""The signs of lines, tables and bars, as far as an encoding and a locale take them; and how sums are written."""

import os
from dataclasses import dataclass
from typing import IO

C_LOCALES = ("C", "POSIX")
CENTS_FROM, LEAST_USD = 100.0, 0.0001  # dollars: from here on cents will do; below this four digits would say nothing


@dataclass(frozen=True, slots=True)
class Signs:
    """The signs: between figures, where a text is cut, what a bar has behind it and before it, and beside a heading."""

    between: str = " · "
    cut: str = "…"
    done: str = "█"
    open: str = "░"
    rule: str = "──"

    @property
    def is_ascii(self) -> bool:
        """Whether they are plain ASCII."""
        return self == ASCII

    @classmethod
    def of(cls, stream: IO[str] | None) -> "Signs":
        """Return the signs that a stream takes."""
        return ASCII if takes_ascii_alone(stream) else cls()


ASCII = Signs(" | ", "...", "#", "-", "--")


def takes_ascii_alone(stream: IO[str] | None) -> bool:
    """Whether a stream takes no block characters: by its encoding, or since the locale asks for plain text."""
    try:
        "▏█░·…─".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return True
    if os.environ.get("PYTHONIOENCODING") or os.environ.get("PYTHONUTF8") == "1":
        return False
    if stated := os.environ.get("LC_ALL"):
        return stated in C_LOCALES
    # Python itself puts C.UTF-8 in the place of an LC_CTYPE that nobody stated.
    return os.environ.get("LANG") in C_LOCALES and os.environ.get("LC_CTYPE", "") in ("", "C.UTF-8", *C_LOCALES)


def dollars(usd: float) -> str:
    """Return a sum with as many digits as matter: $12,345.68, $1.2346, $0.0123, $0.000012; $0.0000 is nothing."""
    if abs(usd) >= CENTS_FROM:
        return f"${usd:,.2f}"
    if 0 < abs(usd) < LEAST_USD:
        return f"${float(f'{usd:.2g}'):.12f}".rstrip("0")
    return f"${usd:,.4f}"


def price(usd: float, unpriced: int, calls: int) -> str:
    """Return what calls cost: `$0.0123`, with how many calls of unknown price if there are any, or `unknown`."""
    if unpriced and unpriced == calls:
        return "unknown"
    return dollars(usd) + (f" and {unpriced:,} calls of unknown price" if unpriced else "")
