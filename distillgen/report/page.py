"""Writes the report: one HTML file that needs no server, no network and no script for its figures."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import jinja2
from markupsafe import Markup

from distillgen.errors import UsageError
from distillgen.files import output_file
from distillgen.report.console import safe
from distillgen.report.rows_data import Shown

SCRIPTS = ("texts.js", "row.js", "browser.js")
BUFFERED = 64  # pieces of the page that are written together
# What `safe` lets pass, since it harms no terminal: soft hyphens, spaces without width, and the tags of Unicode, in
# which a text can hide another. Joiners stay: Persian and emoji need them. The same as HIDDEN in texts.js.
_UNSEEN = re.compile("[\u00ad\u180e\u200b\u2060-\u2064\U000e0000-\U000e01ef]")


@dataclass(frozen=True)
class Link:
    """A cell that leads into the browser of rows: to a row, by a name that it has, or to all of a kind and a group."""

    text: str
    row: str = ""
    kind: str = ""
    group: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a table, and its bar."""

    cells: Sequence[str | Link]
    bar: str = ""  # SVG, as drawing.py makes it


@dataclass(frozen=True)
class Part:
    """A piece of a section: a heading, a text, a list, a picture, a table, or a source to unfold.

    `folded` is what stands there instead of the table until that is unfolded.
    """

    heading: str = ""
    note: str = ""  # below the heading
    text: str = ""
    is_quiet: bool = False
    lines: Sequence[str] = ()
    picture: str = ""
    heads: Sequence[str] = ()
    rows: Sequence[Line] = ()
    are_texts: bool = False  # the cells, not numbers
    folded: str = ""
    is_wide: bool = False  # a picture that takes the whole width
    source: str = ""
    source_name: str = ""

    @property
    def is_figure(self) -> bool:
        """Whether it is a picture of which two fit side by side."""
        return bool(self.picture) and not self.is_wide

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


def require_file(path: Path) -> None:
    """Raise UsageError when there is a folder where the report shall be."""
    if path.is_dir():
        raise UsageError(
            "the report is a file, and this is a folder", where=str(path), fix=f"-o {path / 'report.html'}"
        )


def write_page(target: Path | IO[bytes], page: Page, shown: Sequence[Shown], blocks: Iterable[str]) -> None:
    """Write a page, to a file whole or not at all; `blocks` are packed rows, of which one is in memory at a time.

    Where nothing is to be `shown`, the page has no browser of rows.

    A link's file is written, not the link; what is no file (a pipe, a device) is written into as it goes.
    Raises UsageError when the target is a folder, NotWritable, DiskFull, and what `blocks` raises.
    """
    if not isinstance(target, Path):
        _write(target, page, shown, blocks)
        return
    require_file(target)
    with output_file(target) as file:
        _write(file, page, shown, blocks)


def _write(file: IO[bytes], page: Page, shown: Sequence[Shown], blocks: Iterable[str]) -> None:
    for piece in _pieces(page, shown, blocks):
        file.write(piece.encode("utf-8", "backslashreplace"))  # a lone surrogate cannot be UTF-8


def _pieces(page: Page, shown: Sequence[Shown], blocks: Iterable[str]) -> Iterator[str]:
    style, script = _asset("page.css"), "".join(map(_asset, SCRIPTS))
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )
    meta = {"shown": [{"kind": part.kind, "shown": part.shown, "of": part.of} for part in shown]}
    stream = environment.from_string(_asset("page.html")).stream(
        page=page, has_rows=bool(shown), shown=[part for part in shown if part.of], blocks=blocks,
        meta=jinja2.utils.htmlsafe_json_dumps(meta),
        style=style, style_hash=_hash(style), script=script, script_hash=_hash(script),
    )  # fmt: skip
    stream.enable_buffering(BUFFERED)
    yield from stream


def _visible(value: Any) -> Any:
    """Return a text in which characters that are not seen, or turn writing round, stand as escapes."""
    if not isinstance(value, str):
        return value
    made = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", safe(value))
    return Markup(made) if isinstance(value, Markup) else made  # noqa: S704 (escapes make no markup)


def _asset(name: str) -> str:
    return files("distillgen.report").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return a text's hash as a content policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
