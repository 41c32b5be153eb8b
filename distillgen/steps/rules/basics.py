"""Rules `not_empty`, `not_truncated` and `length`."""

from collections.abc import Mapping
from typing import Any

from distillgen.rows import Row
from distillgen.steps.rules.verdict import Context, RuleProblem
from distillgen.steps.text import text_of
from distillgen.steps.written import record_of
from distillgen.teacher.replies import CUT_OFF


def not_empty(row: Row, *, column: str) -> str | None:
    """Refuse rows whose column is missing, empty, or white space only."""
    return None if text_of(row, column).strip() else f"{column} is empty"


def not_truncated(row: Row, *, column: str) -> str | None:
    """Refuse answers that ran into the teacher's length limit or out of its context, in any server's words for it."""
    record = record_of(row.trail, column)
    if record is None or record.get("finish_reason") not in CUT_OFF:
        return None
    tokens = record.get("tokens") or {}
    return f"{column} was cut off after {tokens.get('completion', 'an unknown number of')} tokens"


def length(
    row: Row,
    *,
    column: str,
    min_words: int = 0,
    max_words: int = 0,
    min_chars: int = 0,
    max_chars: int = 0,
    min_tokens: int = 0,
    max_tokens: int = 0,
) -> str | None:
    """Refuse texts outside the stated numbers of white-space separated words, characters or tokens; 0 means no bound.

    Tokens are those that the teacher reported for the reply that wrote the column, less those of its reasoning where
    it reports them apart. Nobody else knows its tokenizer, so a row of which nothing was reported is refused: a bound
    that is stated holds for every row that passes.
    """
    text = text_of(row, column)
    for unit, least, most in (
        ("words", min_words, max_words),
        ("characters", min_chars, max_chars),
        ("tokens", min_tokens, max_tokens),
    ):
        if not (least or most):
            continue
        size = len(text.split()) if unit == "words" else len(text) if unit == "characters" else _tokens(row, column)
        if size is None:
            return f"how many tokens {column} has is not known: no teacher reported it"
        if size < least:
            return f"{column} has {size} {unit}, needs {least}"
        if most and size > most:
            return f"{column} has {size} {unit}, may have {most}"
    return None


def check_length(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for bounds that no text fits."""
    for unit in ("words", "chars", "tokens"):
        least, most = given.get(f"min_{unit}", 0), given.get(f"max_{unit}", 0)
        if least < 0 or most < 0 or (most and least > most):
            raise RuleProblem(f"rule 'length': no text has {least} to {most} {unit}", f"max_{unit}")


def _tokens(row: Row, column: str) -> int | None:
    tokens = (record_of(row.trail, column) or {}).get("tokens") or {}
    if (completion := tokens.get("completion")) is None:
        return None
    return max(0, int(completion) - int(tokens.get("reasoning") or 0))
