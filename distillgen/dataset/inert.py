"""Makes anybody's text inert in Markdown and YAML: shown as it is, never taken for markup, HTML or front matter."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from distillgen.files import dumps

# What can begin or end markup somewhere in a line: underscores inside a word cannot, and stay readable.
_MARKUP = re.compile(
    r"[\\`*{}\[\]<>#|~$]|&(?=[#a-z])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=[a-z])://|(?<=www)\.", re.IGNORECASE
)
_OPENS_BLOCK = re.compile(r"^(?:[-+=:]|\d+(?=[.)](?:\s|$)))")
_ADDRESS = re.compile(r"https://[A-Za-z0-9./_~%?#=&:+,-]+")
_JOINERS = "\u200c\u200d"  # some scripts, and many emoji, are spelt with them
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, direction and other formats, half characters, line ends
_UNSEEN_IN_YAML = {*_UNSEEN, "Cn", "Co"}  # and what is no character at all


def visible(text: str, kept: str = "") -> str:
    """Return text in which control and direction characters are escapes that can be read. `kept` stay as they are."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if unicodedata.category(character) not in _UNSEEN or character in kept or character in _JOINERS
        else _escape(character)
        for character in text
    )


def inline(text: object, most: int = 2_000) -> str:
    """Return text on one line that can start no markup, wherever it stands."""
    flat = _flat(text, most)
    marked = _MARKUP.sub(lambda found: f"\\{found[0]}", flat)
    return _OPENS_BLOCK.sub(lambda found: f"\\{found[0]}" if not found[0].isdigit() else f"{found[0]}\\", marked)


def code(text: object, most: int = 200) -> str:
    """Return text on one line as code, in a table too, in which nothing can end it."""
    flat = _flat(text, most)
    if "|" in flat:
        return f"<code>{_entities(flat)}</code>"  # a table is cut into cells before code is looked for
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    space = " " if flat[:1] in ("`", "") or flat[-1:] == "`" else ""
    return f"{fence}{space}{flat}{space}{fence}"


def html(text: object, most: int = 200) -> str:
    """Return text on one line for the inside of an HTML element."""
    return _entities(_flat(text, most))


def address(url: object) -> str:
    """Return a link to a plain https address; any other is only shown."""
    return f"<{url}>" if isinstance(url, str) and _ADDRESS.fullmatch(url) else code(url, 500)


def block(text: str) -> list[str]:
    """Return text as an indented code block: nothing in it can end it."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n").split("\n")
    return [f"    {visible(line, kept=chr(9))}".rstrip() for line in lines]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table of cells that are inert already. A head that ends in `#` is of a column of numbers."""
    lines = [
        f"| {' | '.join(head.rstrip('#') for head in heads)} |",
        f"|{'|'.join(' ---: ' if head.endswith('#') else ' --- ' for head in heads)}|",
    ]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def front(key: str, value: Any) -> str:
    """Return a line of front matter. The value is JSON, which is YAML that nothing can break out of."""
    text = dumps(value)
    shown = text if text.isascii() and text.isprintable() else "".join(map(_in_yaml, text))
    return f"{key}: {shown}"


def shortened(text: str, most: int) -> str:
    """Return the beginning of a long text, with how much is left out."""
    return text if len(text) <= most else f"{text[:most]} ... ({len(text) - most:,} more characters)"


def _flat(text: object, most: int) -> str:
    return shortened(visible(" ".join(str(text).split())), most)


def _entities(flat: str) -> str:
    return "".join(f"&#{ord(each)};" if each in "&<>\"'`*_[]{}\\~$|:@" else each for each in flat)


def _escape(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _in_yaml(character: str) -> str:
    """Return an escape of what YAML does not take raw between double quotes, or what cannot be seen."""
    return character if unicodedata.category(character) not in _UNSEEN_IN_YAML else _escape(character)
