"""Finds the line of a key in a TOML text, which the standard library's reader does not tell."""

import re
from collections.abc import Sequence

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"^\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'))*)\s*=")


def line_of(text: str, path: Sequence[str | int]) -> int:
    """Return the 1-based line where `path` (`("steps", 1, "rules", 2)`) stands, or the nearest enclosing one.

    Keys inside inline tables and arrays are found by looking for their name below the key that holds them.
    """
    best, best_depth = 1, 0
    here: tuple[str | int, ...] = ()
    counts: dict[str, int] = {}
    quote = ""
    for number, line in enumerate(text.split("\n"), 1):
        if quote:  # inside a multi-line string nothing is a key
            quote = "" if line.count(quote) % 2 else quote
            continue
        if header := _HEADER.match(line):
            here = _place(_parts(header[2]), header[1] == "[[", counts)
            keys = here
        elif key := _KEY.match(line):
            keys = (*here, *_parts(key[1]))
            quote = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")
        else:
            continue
        depth = _shared(keys, path)
        if depth == len(keys) and depth > best_depth:
            best, best_depth = number, depth
    return _inside(text, best, path[best_depth:])


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _place(parts: list[str], is_array: bool, counts: dict[str, int]) -> tuple[str | int, ...]:
    """Give tables of an array their index; a later sub-table belongs to the last of them."""
    place: list[str | int] = []
    for depth, part in enumerate(parts, 1):
        name = ".".join(parts[:depth])
        place.append(part)
        if depth == len(parts) and is_array:
            counts[name] = counts.get(name, -1) + 1
        if name in counts:
            place.append(counts[name])
    return tuple(place)


def _shared(left: Sequence[str | int], right: Sequence[str | int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _inside(text: str, start: int, rest: Sequence[str | int]) -> int:
    """Look for the named parts of `rest` from line `start` on, up to the next header."""
    lines = text.split("\n")
    for part in rest:
        if isinstance(part, int):
            continue
        wanted = re.compile(rf"[\"']?\b{re.escape(part)}\b[\"']?\s*=|[\"']{re.escape(part)}[\"']")
        for number in range(start, len(lines) + 1):
            if number > start and _HEADER.match(lines[number - 1]):
                return start
            if wanted.search(lines[number - 1]):
                start = number
                break
    return start
