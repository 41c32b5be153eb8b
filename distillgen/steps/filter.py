"""The step `filter`: keeps the rows that every rule lets pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from distillgen.rows import Outcome, Rejection, Row
from distillgen.steps.rules import Rule, first_refusal


@dataclass(frozen=True)
class Filter:
    """A row step: the first rule that refuses a row names the reason."""

    name: str
    rules: Sequence[Rule]

    def __call__(self, row: Row) -> tuple[Outcome]:
        """Return the row, or its rejection."""
        if refused := first_refusal(row, self.rules):
            return (Rejection(row, self.name, *refused),)
        return (row.passed({"step": self.name}),)
