"""What travels the road: rows, and what becomes of those that leave it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias


class Row(NamedTuple):
    """A JSON object on its way from a seed to a published row.

    `origin` is the id of the seed it came from, `parent` the id of the row it was made from (None for a seed).
    `trail` holds one record per step that it passed, the material of its provenance.
    """

    id: str
    origin: str
    parent: str | None
    columns: Mapping[str, Any]
    trail: tuple[Mapping[str, Any], ...] = ()

    def passed(self, record: Mapping[str, Any], **columns: Any) -> "Row":
        """Return this row with new columns and one more record on its trail."""
        changed = {**self.columns, **columns} if columns else self.columns
        return Row(self.id, self.origin, self.parent, changed, (*self.trail, record))

    def noted(self, notes: Mapping[str, Any]) -> "Row":
        """Return this row with more on the last record of its trail."""
        return self._replace(trail=(*self.trail[:-1], {**self.trail[-1], **notes})) if notes else self

    def child(self, suffix: str) -> "Row":
        """Return a row made from this one: same columns and trail, an id of its own."""
        return Row(f"{self.id}.{suffix}", self.origin, self.id, self.columns, self.trail)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row refused by a step: which rule, and the evidence in words."""

    row: Row
    step: str
    rule: str
    detail: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A row whose completion could not be had. `lasting`: a rerun would not mend it.

    `attempts` counts the requests sent for it in this run; `last_reply` is the beginning of what the server said last.
    """

    row: Row
    step: str
    cause: str
    detail: str
    lasting: bool
    attempts: int = 0
    last_reply: str = ""


@dataclass(frozen=True, slots=True)
class SeedEnd:
    """Everything that came of a seed has passed: it travels behind the seed's rows where somebody must know.

    `is_made` marks the end of a row that a bootstrap made, which stands in for a seed.
    """

    origin: str
    is_made: bool = False


Outcome: TypeAlias = Row | Rejection | Failure | SeedEnd
