"""Tables and conversations for a terminal, their text made safe for it."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from distillgen.report.console import safe


def conversation(row: Mapping[str, Any]) -> Iterable[Text]:
    """Yield a training row as a conversation, or as one with two endings, made safe for a terminal."""
    yield Text(safe(f"── {row['id']}"), style="dim")
    for turn in row.get("messages") or row["prompt"]:
        if turn["role"] == "assistant" and row.get("reasoning"):
            yield Text.assemble(("reasoning: ", "dim"), (safe(row["reasoning"]), "dim"))
        yield _turn(turn["role"], turn["content"])
    for ending in ("chosen", "rejected"):
        for turn in row.get(ending, ()):
            yield _turn(turn["role"], turn["content"], f" ({ending})")


def _turn(role: str, content: str, ending: str = "") -> Text:
    styles = {"user": "cyan", "assistant": "green", "system": "magenta"}
    style = "red" if ending == " (rejected)" else styles.get(role, "")
    return Text.assemble((f"{safe(role)}{ending}: ", f"bold {style}"), safe(content))


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    """Return a plain table, its cells made safe for a terminal. Columns that end in `#` are numbers."""
    drawn = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        head = Text(safe(column.rstrip("#")))
        drawn.add_column(head, justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(safe(str(cell))) for cell in row))
    return drawn
