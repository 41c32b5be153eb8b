"""The step `decontaminate`: refuses rows that hold items of a benchmark; keeps nothing of the rows it has seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from distillgen.rows import Outcome, Rejection, Row
from distillgen.steps.benchmarks import Benchmarks, Overlap, texts_of

SHOWN = 120  # characters of the overlapping text that a rejection shows


@dataclass(frozen=True)
class Decontaminate:
    """A row step: a row is refused when one of its columns covers so much of one text of a benchmark.

    The share of the text's words that lie in n-grams which it shares with the column is its coverage. Each column is
    looked at by itself; no columns means all that hold text. A column that a row lacks holds nothing.
    """

    name: str
    columns: Sequence[str]
    benchmarks: Benchmarks
    coverage: float = 0.5

    def __call__(self, row: Row) -> tuple[Outcome]:
        """Return the row with its highest coverage on the trail, or the rejection that names the item."""
        best: tuple[Overlap, str, str] | None = None
        for column, text in texts_of(row.columns, self.columns):
            found = self.benchmarks.overlap(text)
            if found is not None and (best is None or _rank(found) > _rank(best[0])):
                best = found, column, text
        if best is None:
            return (row.passed({"step": self.name}),)
        if best[0].coverage >= self.coverage:
            return (Rejection(row, self.name, "contaminated", self._evidence(*best)),)
        overlap = round(best[0].coverage, 3)
        return (row.passed({"step": self.name, "overlap": overlap} if overlap else {"step": self.name}),)

    def _evidence(self, found: Overlap, column: str, text: str) -> str:
        source = self.benchmarks.sources[found.number]
        shared = self.benchmarks.longest_run(text, found)
        shown = repr(shared if len(shared) <= SHOWN else f"{shared[: SHOWN - 1]}…")
        held = f"{100 * found.coverage:.0f} % of {source.benchmark} item {source.item} ({source.column})"
        return f"{column} holds {held}: {shown}"


def _rank(found: Overlap) -> tuple[float, int]:
    """Order by coverage; of equal ones the earliest item is the highest."""
    return found.coverage, -found.number
