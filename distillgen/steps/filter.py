"""The step `filter`: keeps the rows that every rule lets pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from distillgen.rows import Outcome, Rejection, Row
from distillgen.steps.rules import Rule, apply_rules


@dataclass(frozen=True)
class Filter:
    """A row step: the first rule that refuses a row names the reason; what rules mended is on the row's trail."""

    name: str
    rules: Sequence[Rule]

    @property
    def is_pure(self) -> bool:
        """Whether none of its rules has a memory."""
        return all(rule.is_pure for rule in self.rules)

    def __call__(self, row: Row) -> tuple[Outcome]:
        """Return the row, or its rejection."""
        judged = apply_rules(row, self.rules)
        if judged.refused:
            return (Rejection(judged.row, self.name, *judged.refused),)
        return (judged.row.passed({"step": self.name, **judged.notes}),)
