"""The step `deduplicate`: exact duplicates by digest (16 bytes a row), near-duplicates by real Jaccard similarity."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import xxhash

from distillgen.rows import Outcome, Rejection, Row
from distillgen.steps.text import normalise, text_of

if TYPE_CHECKING:
    from distillgen.steps.similarity import KeptTexts


class Deduplicate:
    """A stream step: a row is kept unless it equals, or nearly equals, an earlier kept row, which is then named."""

    is_stream = True

    def __init__(self, name: str, columns: Sequence[str], near: float | None) -> None:
        self.name = name
        self._columns = tuple(columns)
        self._exact: dict[bytes, str] = {}
        self._kept = None if near is None else _kept_texts(near)

    def __call__(self, row: Row) -> Outcome:
        """Return the row, or the rejection that names the earlier row and the similarity."""
        text = "\x1f".join(text_of(row, column) for column in self._columns)
        exact = xxhash.xxh3_128_digest(normalise(text).encode())
        if (first := self._exact.get(exact)) is not None:
            return Rejection(row, self.name, "exact_duplicate", f"of {first}")
        if self._kept is not None and (found := self._kept.nearest_or_keep(row.id, text)):
            return Rejection(row, self.name, "near_duplicate", f"of {found[0]}, Jaccard {found[1]:.3f}")
        self._exact[exact] = row.id
        return row.passed({"step": self.name})


def _kept_texts(near: float) -> "KeptTexts":
    from distillgen.steps.similarity import KeptTexts  # numpy and datasketch are loaded by those who need them

    return KeptTexts(near)
