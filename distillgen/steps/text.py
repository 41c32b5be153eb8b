"""The text of a row as steps look at it."""

import unicodedata
from typing import Any

from distillgen.files import dumps
from distillgen.rows import Row


def text_of(row: Row, column: str) -> str:
    """Return a column as text; a column that the row lacks is empty."""
    return as_text(row.columns.get(column))


def as_text(value: Any) -> str:
    """Return a value as text: strings as they are, None as nothing, the rest as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else dumps(value)


def normalise(text: str) -> str:
    """Return the text as it is compared: compatibility forms, case and white space evened out."""
    if text.isascii():  # nothing to even out but case and space, at half the price
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
