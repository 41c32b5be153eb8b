"""The step `deduplicate`: equal rows by digest, near-duplicates by the real Jaccard similarity of their word n-grams.

Blocks are for speed. Candidates among the rows kept before are looked up for all rows of a block at once; rows that
share a key with another of their block are then taken one after the other. How rows are cut changes nothing.
"""

import contextlib
import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distillgen.rows import Outcome, Rejection, Row
from distillgen.steps.known import EMBEDDING, IndexSettings, Known, group_of
from distillgen.steps.text import text_of

if TYPE_CHECKING:  # NumPy is loaded by the first block
    from distillgen.steps.near_index import Block, Part
    from distillgen.steps.near_saved import Index
    from distillgen.steps.nearest import Found

RULES = {"Jaccard": "near_duplicate", "cosine": "semantic_duplicate"}


@dataclass(frozen=True)
class Earlier:
    """An index of rows that are there before the first one, and what stands before their names in rejections."""

    index: "Index"
    prefix: str = ""


class Deduplicate:
    """A stream step: a row is kept unless it equals, or nearly equals, an earlier kept row, which is then named.

    `near` is the threshold of Jaccard similarity, None for equal rows only; `words` are those of an n-gram; `bands`
    says how many bands of how many rows lead to candidates, by default what finds 98 % of the pairs at the threshold.
    `meaning` is the threshold of the cosine of embeddings, None for texts only (it needs the extra `semantic`).
    Samples of one prompt are not compared with each other unless `samples` says so. A row without text is kept.
    `earlier` are the rows of other datasets or files; `spool` is the folder for what memory shall not hold.
    With `remembers` a kept row notes under which name it was compared, for the index of a later run.
    """

    block_rows = 4096

    def __init__(
        self, name: str, columns: Sequence[str], near: float | None, *, words: int = 3,
        bands: Sequence[int] | None = None, samples: Literal["keep", "compare"] = "keep",
        meaning: float | None = None, earlier: Sequence[Earlier] = (), spool: Path | None = None,
        remembers: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self._columns, self._near, self._words, self._bands = tuple(columns), near, words, bands
        self._meaning, self._compares_samples = meaning, samples == "compare"
        self.earlier, self._spool, self.remembers = tuple(earlier), spool, remembers
        self._part: Part | None = None
        if meaning is not None:
            from distillgen.steps.semantic import require_embedding

            require_embedding()

    @functools.cached_property
    def settings(self) -> IndexSettings:
        """What an index of earlier rows must have been made with."""
        return index_settings(self._columns, self._near, words=self._words, bands=self._bands, meaning=self._meaning)

    def __call__(self, rows: Sequence[Row]) -> list[Outcome]:
        """Return for each row the row, or the rejection that names the kept row and the similarity."""
        from distillgen.steps.near_index import block_of, in_blocks

        blocks = (block_of(some, self.settings) for some in in_blocks(map(self._known, rows)))
        found = [each for block in blocks for each in self._decide(block)]
        return [self._outcome(row, each) for row, each in zip(rows, found, strict=True)]

    def _known(self, row: Row) -> Known:
        texts = [text_of(row, column) for column in self._columns]
        return Known(row.id, texts) if self._compares_samples else Known(row.id, texts, group_of(row.trail))

    def _decide(self, block: "Block") -> "list[Found | None]":
        """Return what each of some rows is like, and take in those that are like none."""
        import numpy as np

        from distillgen.steps.near_index import Crowded
        from distillgen.steps.nearest import Limits, Source, decide

        mine = self._kept
        sources = [Source(part, each.prefix) for each in self.earlier for part in each.index.parts]
        limits = Limits(self._near, self._meaning, self._compares_samples)
        with contextlib.suppress(Crowded):
            found = decide(block, [*sources, Source(mine)], limits)
            mine.add(block, np.array([each is None for each in found], np.bool_))
            return found
        stop = len(block.names)
        return [*self._decide(block.cut(0, stop // 2)), *self._decide(block.cut(stop // 2, stop))]

    @property
    def _kept(self) -> "Part":
        from distillgen.steps.near_index import Part, dimensions_of

        if self._part is None:
            self._part = Part.empty(self._spool, dimensions_of(self.settings))
        return self._part

    def _outcome(self, row: Row, found: "Found | None") -> Outcome:
        if found is None:
            return row.passed({"step": self.name, "as": row.id} if self.remembers else {"step": self.name})
        if not found.measure:
            return Rejection(row, self.name, "exact_duplicate", f"of {found.name}")
        detail = f"of {found.name}, {found.measure} {found.similarity:.3f}"
        return Rejection(row, self.name, RULES[found.measure], detail)

    def mark(self, name: str, row: Row) -> bytes:
        """Return the mark of a row, as it is now, for one that was kept under a name; nothing when it has no text."""
        from distillgen.steps.near_index import block_of

        known = Known(name, [text_of(row, column) for column in self._columns])
        block = block_of([known], replace(self.settings, words=None))
        return block.mark(0) if block.has_text[0] else b""

    def published(self, marks: Collection[bytes]) -> set[str] | None:
        """Return the ids of the kept rows with these marks; None when a mark is of no row as it was kept."""
        kept = self._kept
        names = {name for name, mark in zip(kept.names(), kept.marks(), strict=True) if mark in marks}
        return names if len(names) == len(marks) else None

    def save(self, folder: Path, published: Collection[str], grown_from: "Index | None" = None) -> None:
        """Save the index of the kept rows whose ids were published, after the rows of the index it grew from."""
        from distillgen.steps.near_saved import save_index

        save_index(folder, self.settings, self._kept, published, grown_from)

    def close(self) -> None:
        """Let the spool and the earlier indexes go."""
        for each in self.earlier:
            each.index.close()
        if self._part is not None:
            self._part.close()
            self._part = None


def index_settings(
    columns: Sequence[str], near: float | None, *, words: int = 3, bands: Sequence[int] | None = None,
    meaning: float | None = None,
) -> IndexSettings:  # fmt: skip
    """Return what the rows of an index have in common when they are compared like that."""
    embedding = None if meaning is None else EMBEDDING
    if near is None:
        return IndexSettings(tuple(columns), None, embedding=embedding)
    from distillgen.steps.similarity import bands_for  # loads NumPy

    number, rows = bands or bands_for(near)
    return IndexSettings(tuple(columns), words, number, rows, embedding)
