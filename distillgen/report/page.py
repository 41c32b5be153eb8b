"""Writes the report: one HTML file that needs no server, no network and no script for its figures."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from distillgen.errors import UsageError
from distillgen.files import written_whole
from distillgen.report.console import safe
from distillgen.report.rows_data import Shown

BUFFERED = 64  # pieces of the page that are written together


@dataclass(frozen=True)
class Line:
    """A line of a table, and its bar."""

    cells: Sequence[str]
    bar: str = ""  # SVG, as drawing.py makes it


@dataclass(frozen=True)
class Part:
    """A piece of a section: a heading, a text, a list, a picture, a table, or a source to unfold."""

    heading: str = ""
    text: str = ""
    is_quiet: bool = False
    lines: Sequence[str] = ()
    picture: str = ""
    heads: Sequence[str] = ()
    rows: Sequence[Line] = ()
    are_texts: bool = False  # the cells, not numbers
    source: str = ""
    source_name: str = ""

    @property
    def has_bars(self) -> bool:
        """Whether a line of the table has a bar."""
        return any(line.bar for line in self.rows)


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    id: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """What a report says. All texts may be hostile: they reach the file escaped."""

    title: str
    about: str
    tiles: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    description: str = ""


def write_page(path: Path, page: Page, shown: Sequence[Shown], blocks: Iterable[str]) -> None:
    """Write a page, whole or not at all; `blocks` are packed rows, of which one is in memory at a time.

    Raises UsageError when `path` is a folder, NotWritable, DiskFull, and what `blocks` raises.
    """
    if path.is_dir():
        raise UsageError(
            "the report is a file, and this is a folder", where=str(path), fix=f"-o {path / 'report.html'}"
        )
    with written_whole(path, path.parent, f".{path.name[:60]}.") as file:
        for piece in _pieces(page, shown, blocks):
            file.write(piece.encode("utf-8", "backslashreplace"))  # a lone surrogate cannot be UTF-8


def _pieces(page: Page, shown: Sequence[Shown], blocks: Iterable[str]) -> Iterator[str]:
    style, script = _asset("page.css"), _asset("page.js")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined, finalize=_visible
    )
    meta = {"shown": [{"kind": part.kind, "shown": part.shown, "of": part.of} for part in shown]}
    stream = environment.from_string(_asset("page.html")).stream(
        page=page, shown=[part for part in shown if part.of], blocks=blocks,
        meta=jinja2.utils.htmlsafe_json_dumps(meta),
        style=style, style_hash=_hash(style), script=script, script_hash=_hash(script),
    )  # fmt: skip
    stream.enable_buffering(BUFFERED)
    yield from stream


def _visible(value: Any) -> Any:
    """Return a text in which characters that are not seen, or turn writing round, stand as escapes."""
    if not isinstance(value, str):
        return value
    return Markup(safe(value)) if isinstance(value, Markup) else safe(value)  # noqa: S704 (safe() makes no markup)


def _asset(name: str) -> str:
    return files("distillgen.report").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return a text's hash as a content policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
