"""Fenced code in Markdown: what stands in it, and the text without it."""

from typing import NamedTuple


class Block(NamedTuple):
    """A fenced block: the first word behind its fence in lower case, its lines, and whether it was closed."""

    language: str
    code: str
    is_closed: bool


class Parted(NamedTuple):
    """A text without its fences, and the blocks in them, in order. Only the last of these can be unclosed."""

    prose: str
    blocks: list[Block]


def part(text: str) -> Parted:
    """Return a text parted by its fences (https://spec.commonmark.org/0.31.2/#fenced-code-blocks), in one pass."""
    if "```" not in text and "~~~" not in text:
        return Parted(text, [])
    prose: list[str] = []
    blocks: list[Block] = []
    code: list[str] = []
    fence = language = ""
    indent = 0
    for line in text.split("\n"):
        stripped = line.strip()
        if not fence:
            opened = _opened(stripped) if stripped.startswith(("```", "~~~")) else None
            if opened is None:
                prose.append(line)
            else:
                fence, language = opened
                indent, code = len(line) - len(line.lstrip()), []
        elif stripped.startswith(fence) and not stripped.strip(fence[0]):
            blocks.append(Block(language, "\n".join(code), True))
            fence = ""
        else:
            code.append(line[min(indent, len(line) - len(line.lstrip())) :])
    if fence:
        blocks.append(Block(language, "\n".join(code), False))
    return Parted("\n".join(prose), blocks)


def _opened(line: str) -> tuple[str, str] | None:
    """Return a fence and the language behind it, None for code within a line (```so```), which opens nothing."""
    info = line.lstrip(line[0])
    if line[0] == "`" and "`" in info:
        return None
    words = info.strip("{}. \t").split(None, 1)
    return line[: len(line) - len(info)], words[0].lower() if words else ""
