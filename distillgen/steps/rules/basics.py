"""Rules `not_empty`, `not_truncated` and `length`."""

from collections.abc import Mapping
from typing import Any

from distillgen.rows import Row
from distillgen.steps.rules.verdict import Context, RuleProblem
from distillgen.steps.text import text_of


def not_empty(row: Row, *, column: str) -> str | None:
    """Refuse rows whose column is missing, empty, or white space only."""
    return None if text_of(row, column).strip() else f"{column} is empty"


def not_truncated(row: Row, *, column: str) -> str | None:
    """Refuse answers that ran into the teacher's length limit (finish_reason `length`)."""
    for record in reversed(row.trail):
        if column in record.get("wrote", ()):
            tokens = record.get("tokens") or {}
            reason = f"{column} was cut off after {tokens.get('completion', 'an unknown number of')} tokens"
            return reason if record.get("finish_reason") == "length" else None
    return None


def length(
    row: Row, *, column: str, min_words: int = 0, max_words: int = 0, min_chars: int = 0, max_chars: int = 0
) -> str | None:
    """Refuse texts outside the stated numbers of white-space separated words or of characters; 0 means no bound."""
    text = text_of(row, column)
    for unit, size, least, most in (
        ("words", len(text.split()) if min_words or max_words else 0, min_words, max_words),
        ("characters", len(text), min_chars, max_chars),
    ):
        if size < least:
            return f"{column} has {size} {unit}, needs {least}"
        if most and size > most:
            return f"{column} has {size} {unit}, may have {most}"
    return None


def check_length(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for bounds that no text fits."""
    for unit in ("words", "chars"):
        least, most = given.get(f"min_{unit}", 0), given.get(f"max_{unit}", 0)
        if least < 0 or most < 0 or (most and least > most):
            raise RuleProblem(f"rule 'length': no text has {least} to {most} {unit}", f"max_{unit}")
