"""Rule `format`: patterns, contents, JSON and its schema."""

import functools
from collections.abc import Mapping
from typing import Any

import orjson
import regex

from distillgen.rows import Row
from distillgen.steps.rules.verdict import Context, RuleProblem
from distillgen.steps.structured import schema_error, wrong_schema
from distillgen.steps.text import text_of

PATTERN_SECONDS = 1.0


def format_(
    row: Row,
    *,
    column: str,
    regex: str = "",
    contains: list[str] = [],  # noqa: B006  (never changed)
    not_contains: list[str] = [],  # noqa: B006
    json: bool = False,
    schema: dict[str, Any] = {},  # noqa: B006
) -> str | None:
    """Refuse texts that do not match a regular expression (found anywhere; anchor it with ^ and $), lack or hold
    certain texts, are not JSON, or do not follow a JSON schema. A pattern that takes over a second refuses the row."""
    text = text_of(row, column)
    if regex and (wrong := _unmatched(regex, text)):
        return f"{column} {wrong}"
    if missing := next((part for part in contains if part not in text), None):
        return f"{column} does not contain {missing!r}"
    if present := next((part for part in not_contains if part in text), None):
        return f"{column} contains {present!r}"
    if json or schema:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return f"{column} is not JSON: {error}"
        if schema and (wrong := schema_error(value, schema)):
            return f"{column} does not follow the schema: {wrong}"
    return None


@functools.lru_cache(maxsize=256)
def _pattern(pattern: str) -> Any:
    return regex.compile(pattern)


def _unmatched(pattern: str, text: str) -> str | None:
    try:
        # Not `concurrent`: to give the interpreter's lock away for every match costs more than most matches.
        found = _pattern(pattern).search(text, timeout=PATTERN_SECONDS, concurrent=False)
        return None if found else f"does not match {pattern!r}"
    except TimeoutError:
        return f"took {pattern!r} more than {PATTERN_SECONDS:g} s to match"


def check_format(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for a pattern or a schema that is none."""
    try:
        regex.compile(given.get("regex", ""))
    except regex.error as error:
        raise RuleProblem(f"rule 'format': not a regular expression: {error}", "regex") from None
    if given.get("schema") and (wrong := wrong_schema(given["schema"])):
        raise RuleProblem(f"rule 'format': not a JSON schema: {wrong}", "schema")
