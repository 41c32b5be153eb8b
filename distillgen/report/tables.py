"""What people read on standard output: its console, tables that fit any width, bars, conversations; all made safe.

A name is never broken or cut, so that it can be copied and found with `grep`. Where nobody looks (a pipe, a file) a
table is as wide as what it holds, a line for each row. On a terminal texts are folded; what does not fit goes below
its row; and where hardly anything fits, each row is a block of lines.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from distillgen.dataset.figures import bar
from distillgen.report.console import safe
from distillgen.report.signs import Signs

GAP = 2  # between columns
NARROW = 44  # columns of a terminal in which a table that does not fit is told in blocks
USUAL = 80  # columns of a terminal that does not say how many it has
LEAST_TEXT, MOST_LEAST_TEXT, LEAST_LABEL, MOST_LABEL, LEAST_BAR = 20, 40, 12, 40, 6
MOST_BAR = 30
HISTOGRAMS = (("number", "bar"), ("number", "number", "bar"))  # kinds behind the first column
NOTHING = ("", "-")  # cells that need no line of their own

Kind: TypeAlias = Literal["name", "number", "text", "label", "bar"]
KINDS: Mapping[str, Kind] = {"#": "number", "=": "name", "~": "label", "|": "bar"}  # by the last character of a head


# -- standard output -------------------------------------------------------------------------------------------------


def tell(text: str, end: str = "\n") -> None:
    """Print lines as they are, but safe, on standard output."""
    print(safe(text), end=end)


def is_looked_at() -> bool:
    """Whether standard output is a terminal."""
    from distillgen.report.console import stdout

    return room(stdout()) is not None


def room(out: Console) -> int | None:
    """Return the columns of a console's terminal; None where it writes to none, and nothing needs to fit."""
    try:
        if not out.file.isatty():
            return None
        stated = os.environ.get("COLUMNS", "")
        columns = int(stated) if stated.isdecimal() else os.get_terminal_size(out.file.fileno()).columns
    except (OSError, ValueError):  # it is closed, or has no descriptor
        return None
    return columns or USUAL


@dataclass(frozen=True)
class Paper:
    """What is written on: its columns, None where nothing needs to fit, and the signs that it takes."""

    width: int | None
    signs: Signs

    def bar(self, share: float, width: int) -> str:
        """Return a bar that is `share` of `width` characters long."""
        return bar(share, width, is_ascii=self.signs.is_ascii)

    def cut(self, text: str, width: int) -> str:
        """Return a text that takes at most `width` columns, its middle left out where it is longer."""
        if cell_len(text) <= width:
            return text
        ellipsis = self.signs.cut
        left = max(width - len(ellipsis), 0)
        end = set_cell_size(text[::-1], left // 2)[::-1]
        return (set_cell_size(text, left - left // 2) + ellipsis + end)[: max(width, 0)]


def paper(out: Console) -> Paper:
    """Return what a console writes on."""
    return Paper(room(out), Signs.of(out.file))


# -- conversations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heading:
    """A line above a row, with the signs that the console takes."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the line."""
        signs = Signs.of(console.file)
        yield _line(f"{signs.rule} {one_line(self.text)}", self.style)


def conversation(row: Mapping[str, Any]) -> Iterable[RenderableType]:
    """Yield a training row as a conversation, or as one with two endings, made safe for a terminal."""
    yield Heading(row["id"], style="dim")
    for turn in row.get("messages") or row["prompt"]:
        if turn["role"] == "assistant" and row.get("reasoning"):
            yield Speech(Text.assemble(("reasoning: ", "dim"), (safe(row["reasoning"]), "dim")))
        yield _turn(turn["role"], turn["content"])
    for ending in ("chosen", "rejected"):
        for turn in row.get(ending, ()):
            yield _turn(turn["role"], turn["content"], f" ({ending})")


@dataclass(frozen=True)
class Speech:
    """What somebody said. On a terminal its lines go on between words; elsewhere they are what they are."""

    text: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines; blanks within them stay, for it may be code."""
        width = room(console)
        for line in (self.text,) if width is None else self.text.wrap(console, width, overflow="fold"):
            line.no_wrap, line.overflow = True, "ignore"
            if width is not None:
                line.rstrip()
            yield line


def _turn(role: str, content: str, ending: str = "") -> Speech:
    styles = {"user": "cyan", "assistant": "green", "system": "magenta"}
    style = "red" if ending == " (rejected)" else styles.get(role, "")
    return Speech(Text.assemble((f"{safe(role)}{ending}: ", f"bold {style}"), safe(content)))


# -- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A cell that is a bar: `share` (0 to 1) of its column, which is `most` characters wide where there is room."""

    share: float
    most: int = MOST_BAR


@dataclass(frozen=True)
class Folded:
    """A text whose lines are folded between words on a terminal, later lines of each after `indent` blanks."""

    text: str
    indent: int = 0
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        width = room(console)
        for line in safe(self.text).split("\n"):
            for piece in _folded(line, width, self.indent):
                yield _line(piece, self.style)


@dataclass(frozen=True)
class Table:
    """A table whose layout is found when it is known where it is printed."""

    title: str
    heads: Sequence[str]
    kinds: Sequence[Kind]
    rows: Sequence[Sequence[str | Bar]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        if self.title:
            yield _line(self.title, "bold")
        on = paper(console)
        if on.width is None:
            beside: Sequence[int] = range(len(self.heads))
            yield from self._grid(beside, [self._natural(place) for place in beside], (), on)
            return
        for beside, below in self._plans(on.width):
            if widths := self._widths(beside, on.width):
                yield from self._grid(beside, widths, below, on)
                return
        yield from self._blocks(on, on.width)

    def _plans(self, width: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """Yield which columns may stand side by side and which below their row, the best first.

        All; all but bars; ever fewer with the rest below; and the same without bars.
        """
        everything = range(len(self.heads))
        yield everything, ()
        if width < NARROW:
            return
        plain = [place for place in everything if self.kinds[place] != "bar"]
        yield plain, ()
        for with_bars in (True, False):
            for count in range(len(plain) - 1, 1, -1):
                below = plain[count:]
                yield [place for place in (everything if with_bars else plain) if place not in below], below

    def _widths(self, beside: Sequence[int], width: int) -> list[int]:
        """Return the columns' widths, none if they do not fit: texts have room first, then bars, one as much as another
        so that they can be compared."""
        natural = [
            min(self._natural(place), MOST_LABEL) if self.kinds[place] == "label" else self._natural(place)
            for place in beside
        ]
        widths = [_least(self.kinds[place], full) for place, full in zip(beside, natural, strict=True)]
        left = width - sum(widths) - GAP * (len(widths) - 1)
        if left < 0:
            return []
        bars = [place for place, column in enumerate(beside) if self.kinds[column] == "bar"]
        for place in (*(place for place in range(len(widths)) if place not in bars), *bars):
            more = min(natural[place] - widths[place], left // len(bars) if place in bars else left)
            widths[place] += more
            left -= 0 if place in bars else more
        return widths

    def _natural(self, place: int) -> int:
        """Return how wide a column is that has all the room there is."""
        cells = [row[place] for row in self.rows]
        longest = max((cell.most if isinstance(cell, Bar) else cell_len(cell) for cell in cells), default=0)
        return max(cell_len(self.heads[place]), longest)

    def _grid(self, beside: Sequence[int], widths: Sequence[int], below: Sequence[int], on: Paper) -> Iterator[Text]:
        """Yield heads and rows, each row with what does not fit beside the rest below it."""
        kinds = [self.kinds[place] for place in beside]
        if any(self.heads[place] for place in beside):
            yield _line((" " * GAP).join(map(_padded, [self.heads[place] for place in beside], widths, kinds)), "bold")
        for row in self.rows:
            cells = [
                _cell(row[place], width, self.kinds[place], on) for place, width in zip(beside, widths, strict=True)
            ]
            for lines in zip_longest(*cells, fillvalue=""):
                yield _line((" " * GAP).join(map(_padded, lines, widths, kinds)))
            yield from map(_line, self._below(row, below, on))

    def _below(self, row: Sequence[str | Bar], below: Sequence[int], on: Paper) -> Iterator[str]:
        """Yield cells as `head: cell · head: cell`, broken between cells."""
        line, dot = "", on.signs.between
        for place in below:
            cell = row[place]
            if isinstance(cell, Bar) or cell in NOTHING:
                continue
            piece = f"{self.heads[place]}: {cell}" if self.heads[place] else cell
            if line and on.width and cell_len(line) + len(dot) + cell_len(piece) > on.width:
                yield from _folded(line, on.width, 4)
                line = ""
            line = f"{line}{dot}{piece}" if line else f"  {piece}"
        if line:
            yield from _folded(line, on.width, 4)

    def _blocks(self, on: Paper, width: int) -> Iterator[Text]:
        """Yield each row as a block: its name, then a line for each other cell; of a histogram a line and a bar."""
        if self.heads[0]:
            yield from (_line(line, "bold") for line in _folded(self.heads[0], width, 0))
        is_histogram = tuple(self.kinds[1:]) in HISTOGRAMS
        for number, row in enumerate(self.rows):
            if number and not is_histogram:
                yield Text("")
            name = on.cut(str(row[0]), width) if self.kinds[0] == "label" else str(row[0])
            if is_histogram:
                numbers = ", ".join(cell for cell in row[1:] if isinstance(cell, str))
                fits = cell_len(name) + 2 + cell_len(numbers) <= width
                yield from map(_line, (f"{name}: {numbers}",) if fits else (name, f"  {numbers}"))
            else:
                yield _line(name, "bold")
            for place, cell in enumerate(row[1:], 1):
                if isinstance(cell, Bar):
                    if drawn := on.bar(cell.share, min(cell.most, max(width - 2, 1))):
                        yield _line(f"  {drawn}")
                elif cell not in NOTHING and not is_histogram:
                    yield from map(_line, self._named(place, cell, width))

    def _named(self, place: int, cell: str, width: int) -> Iterator[str]:
        """Yield a cell of a block: `head: cell`, on lines of their own where they do not fit on one."""
        head = self.heads[place]
        whole = f"  {head}: {cell}" if head else f"  {cell}"
        if self.kinds[place] == "text":
            yield from _folded(whole, width, 4)
        elif cell_len(whole) <= width or not head:
            yield whole
        else:
            yield from (f"  {head}:", f"    {cell}")


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    """Return a table, its cells made safe for a terminal, with the columns that its heads say.

    The first column and those that end in `=` are names, never broken; those that end in `#` numbers, to the right;
    `~` labels, cut in the middle where they are too long for a terminal; `|` bars; any other texts, to be folded.
    """
    heads, kinds = [], []
    for place, column in enumerate(columns):
        kind = KINDS.get(column[-1:])
        heads.append(one_line(column[:-1] if kind else column))
        kinds.append(kind or ("text" if place else "name"))
    cells = [[cell if isinstance(cell, Bar) else one_line(str(cell)) for cell in row] for row in rows]
    return Table(one_line(title), heads, kinds, cells)


def one_line(text: str) -> str:
    """Return a text that is safe, and on one line."""
    return safe(text).replace("\n", "\\n").replace("\t", "\\t")


def _least(kind: Kind, natural: int) -> int:
    """Return how narrow a column may become: texts half as wide as they are long, within bounds."""
    if kind == "text":
        return min(natural, max(LEAST_TEXT, min(-(-natural // 2), MOST_LEAST_TEXT)))
    return min(natural, {"label": LEAST_LABEL, "bar": LEAST_BAR}.get(kind, natural))


def _cell(cell: str | Bar, width: int, kind: Kind, on: Paper) -> list[str]:
    """Return the lines of a cell."""
    if isinstance(cell, Bar):
        return [on.bar(cell.share, min(width, cell.most))]
    if kind == "text":
        return list(_folded(cell, width, 0, breaks_words=True))
    return [on.cut(cell, width) if kind == "label" else cell]


def _padded(text: str, width: int, kind: Kind) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if kind == "number" else text + blanks


def _folded(text: str, width: int | None, indent: int, *, breaks_words: bool = False) -> Iterator[str]:
    """Yield the lines of a text that fit into a width; a word that is longer than that stays whole if it may."""
    if width is None or cell_len(text) <= width:
        yield text
        return
    line = text[: len(text) - len(text.lstrip(" "))]
    has_words = False
    for word in text.split():
        if has_words and cell_len(line) + 1 + cell_len(word) > width:
            yield line
            line, has_words = " " * min(indent, width // 2), False
        line, has_words = (f"{line} {word}" if has_words else line + word), True
        while breaks_words and cell_len(line) > width > 1:
            fits = max(len(set_cell_size(line, width).rstrip(" ")), 1)
            yield line[:fits]
            line = line[fits:]
    yield line


def _line(text: str, style: str = "") -> Text:
    return Text(text.rstrip(" "), style=style, no_wrap=True, overflow="ignore")
