"""Rule `format`: patterns, contents, JSON and its schema, code blocks."""

import ast
import functools
import tomllib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import regex

from distillgen.rows import Row
from distillgen.steps.rules.fences import part
from distillgen.steps.rules.verdict import Context, RuleProblem
from distillgen.steps.text import text_of
from distillgen.structured import schema_error, wrong_schema

PATTERN_SECONDS = 1.0
PARSED_CHARS = 100_000  # of a code block at most: parsers were not made for what a model may write
PARSED_TOML = 10_000  # the standard library's is quadratic in the parts of a key
_LANGUAGES = {
    "py": "python", "python3": "python", "py3": "python", "js": "javascript", "node": "javascript", "ts": "typescript",
    "sh": "bash", "shell": "bash", "zsh": "bash", "c++": "cpp", "cxx": "cpp", "cs": "csharp", "c#": "csharp",
    "golang": "go", "rs": "rust", "rb": "ruby", "kt": "kotlin", "yml": "yaml", "tex": "latex",
}  # fmt: skip


def format_(
    row: Row,
    *,
    column: str,
    regex: str = "",
    contains: list[str] = [],  # noqa: B006  (never changed)
    not_contains: list[str] = [],  # noqa: B006
    json: bool = False,
    schema: dict[str, Any] = {},  # noqa: B006
    code: str = "",
) -> str | None:
    """Refuse texts that do not match a regular expression (found anywhere; anchor it with ^ and $), lack or hold
    certain texts, are not JSON, do not follow a JSON schema, or lack a fenced block of code.

    A pattern that takes over a second refuses the row. `code` names a language, or is "any": a block of it is there,
    and every such block is closed and not empty. Python, JSON and TOML must parse too (blocks of up to 100,000
    characters, TOML 10,000); the other languages are not parsed.
    """
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
    if code and (wrong := _wrong_code(text, code)):
        return f"{column} {wrong}"
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


def _wrong_code(text: str, language: str) -> str | None:
    wanted = _named(language)
    blocks = [block for block in part(text).blocks if wanted in ("any", _named(block.language))]
    if not blocks:
        return "has no code block" if wanted == "any" else f"has no code block of {language}"
    for number, (written, code, is_closed) in enumerate(blocks, 1):
        place = f"code block {number}" if wanted == "any" else f"{language} block {number}"
        if not is_closed:
            return f"has a {place} that is not closed"
        if not code.strip():
            return f"has a {place} that is empty"
        parser = _PARSERS.get(_named(written))
        if parser and (wrong := _unparsed(code, *parser)):
            return f"has a {place} that cannot be parsed: {wrong}"
    return None


def _named(language: str) -> str:
    return _LANGUAGES.get(language.lower(), language.lower())


def _parse_python(code: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes and comparisons
        ast.parse(code)


_PARSERS: Mapping[str, tuple[Callable[[str], Any], int]] = {
    "python": (_parse_python, PARSED_CHARS), "json": (orjson.loads, PARSED_CHARS), "toml": (tomllib.loads, PARSED_TOML),
}  # fmt: skip


def _unparsed(code: str, parse: Callable[[str], Any], most: int) -> str | None:
    """Say why code cannot be parsed. What is too deep for a parser is nothing to learn from either."""
    if len(code) > most:
        return f"it has {len(code):,} characters, {most:,} are the most"
    try:
        parse(code)
    except (RecursionError, MemoryError):
        return "it is nested too deeply"
    except SyntaxError as error:
        return f"{error.msg} in line {error.lineno}"
    except ValueError as error:  # null bytes, lone surrogates; JSON and TOML
        return str(error)[:120]
    return None


def check_format(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for a pattern, a schema or a name of a language that is none."""
    if len(given.get("code", "").split()) > 1:
        raise RuleProblem("rule 'format': `code` names one language, or is \"any\"", "code")
    try:
        regex.compile(given.get("regex", ""))
    except regex.error as error:
        raise RuleProblem(f"rule 'format': not a regular expression: {error}", "regex") from None
    if given.get("schema") and (wrong := wrong_schema(given["schema"])):
        raise RuleProblem(f"rule 'format': not a JSON schema: {wrong}", "schema")
