"""The rules of `filter`: each is a function of a row that returns why to refuse it, or None.

To add one: write the function with keyword-only parameters, and list it in RULES at the end.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pydantic
import regex

from distillgen.errors import nearest
from distillgen.recipe import RuleSetting
from distillgen.rows import Row
from distillgen.steps.structured import schema_error, wrong_schema
from distillgen.steps.text import text_of

PATTERN_SECONDS = 1.0

# How assistants begin a refusal. Only the start of an answer is looked at, so that an answer which merely contains
# such words survives. Collected from answers of public instruction models; issue reports welcome.
_CANNOT = (
    r"(?:can['’]?t|cannot|can\ not|won['’]?t|will\ not"
    r"|am\ (?:not\ able|unable)\ to|['’]m\ (?:not\ able|unable)\ to)"
)
_SERVE = (
    r"(?:be\ able\ to\ )?(?:help|assist|provide|fulfill?|comply|do\ (?:that|this)|answer|create|generate|write"
    r"|give|support|engage|discuss|talk\ about|access|browse|see|view|open|process|complete|continue|participate"
    r"|share|offer|perform|respond|recommend)\b"
)
_SORRY = r"(?:(?:i['’]?m|i\ am)\ (?:so\ |very\ |really\ )?sorry|sorry|i\ apologi[sz]e|apologies)"
_REFUSAL = regex.compile(
    rf"""^\W*(?:(?:oh|ah|well|hmm|hello|hi|hey)\b\W+)?
      (?:(?:{_SORRY}|unfortunately|as\ an?\ (?:ai|artificial|(?:large\ )?language\ model))\b[^.!?\n]{{0,80}}?
            \bi\ ?(?:really\ )?{_CANNOT}\s{_SERVE}
      |{_SORRY}\b[^.!?\n]{{0,40}}?\b(?:as\ an?\ (?:ai|language)|(?:i['’]m|i\ am)\ not\ comfortable
            |i\ (?:do\ not|don['’]t)\ (?:have\ access|feel\ comfortable))
      |i\ (?:really\ )?{_CANNOT}\s{_SERVE}
      |i['’]m\ (?:not\ able|unable)\ to\s{_SERVE}
      |i\ must\ (?:decline|refuse)|i\ (?:respectfully\ )?decline
      |(?:es\ tut\ mir\ leid|tut\ mir\ leid|entschuldigung)\b[^.!?\n]{{0,80}}?\b(?:kann|darf|nicht)\b
      |(?:je\ suis\ désolée?|désolée?)\b[^.!?\n]{{0,80}}?\b(?:ne\ peux|ne\ suis\ pas)
      |(?:lo\ siento|lo\ lamento)\b[^.!?\n]{{0,80}}?\b(?:no\ puedo|no\ me)
      |(?:desculpe|sinto\ muito)\b[^.!?\n]{{0,80}}?\bnão\ (?:posso|consigo)
      |(?:mi\ dispiace)\b[^.!?\n]{{0,80}}?\bnon\ posso
      |(?:很抱歉|对不起|抱歉)[^。！？\n]{{0,30}}?(?:无法|不能|不会)
      |申し訳(?:ありません|ございません)[^。\n]{{0,40}}?(?:できません|致しかねます)
      |(?:извините|к\ сожалению)[^.!?\n]{{0,60}}?\bне\ могу
    )""",
    regex.IGNORECASE | regex.VERBOSE,
)


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


def not_refusal(row: Row, *, column: str) -> str | None:
    """Refuse answers that begin by declining (several languages), and those that the server marks as refused."""
    for record in reversed(row.trail):
        if column in record.get("wrote", ()):
            if record.get("refused"):
                return "the server marked the reply as a refusal"
            break
    found = _REFUSAL.match(text_of(row, column)[:400])
    return f"{column} begins {found[0][:80]!r}" if found else None


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


RULES: Mapping[str, Callable[..., str | None]] = {
    "not_empty": not_empty,
    "not_truncated": not_truncated,
    "not_refusal": not_refusal,
    "length": length,
    "format": format_,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its parameters, ready to be applied."""

    name: str
    column: str
    check: Callable[[Row], str | None]


class RuleProblem(ValueError):
    """A rule setting that is wrong: what, the key inside the setting, and a hint."""

    def __init__(self, what: str, key: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.key, self.fix = what, key, fix


def bind_rule(setting: RuleSetting, column: str) -> Rule:
    """Return a rule as a recipe states it, on `column` unless it names another. Raises RuleProblem."""
    parameters = {"rule": setting} if isinstance(setting, str) else dict(setting)
    name = parameters.pop("rule", None)
    if not isinstance(name, str):
        raise RuleProblem("a rule without `rule`", "", f"known: {', '.join(RULES)}")
    if name not in RULES:
        raise RuleProblem(f"unknown rule {name!r}", "rule", nearest(name, RULES))
    arguments = _checked(name, {"column": column, **parameters})
    return Rule(name, arguments["column"], functools.partial(RULES[name], **arguments))


def parameters_of(name: str) -> list[str]:
    """Return the names of a rule's parameters."""
    return [parameter for parameter in inspect.signature(RULES[name]).parameters if parameter != "row"]


def _checked(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    known = parameters_of(name)
    kinds = inspect.get_annotations(RULES[name], eval_str=True)
    for parameter, value in given.items():
        if parameter not in known:
            raise RuleProblem(f"rule {name!r} has no parameter {parameter!r}", parameter, nearest(parameter, known))
        try:
            pydantic.TypeAdapter(kinds[parameter]).validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            message = error.errors()[0]["msg"]
            raise RuleProblem(f"{parameter!r} of rule {name!r}: {message[0].lower()}{message[1:]}", parameter) from None
    if name == "format":
        _check_format(given)
    if name == "length":
        _check_length(given)
    return dict(given)


def _check_format(given: Mapping[str, Any]) -> None:
    if len(given) == 1:
        raise RuleProblem("rule 'format' checks nothing", "", f"parameters: {', '.join(parameters_of('format'))}")
    try:
        regex.compile(given.get("regex", ""))
    except regex.error as error:
        raise RuleProblem(f"rule 'format': not a regular expression: {error}", "regex") from None
    if given.get("schema") and (wrong := wrong_schema(given["schema"])):
        raise RuleProblem(f"rule 'format': not a JSON schema: {wrong}", "schema")


def _check_length(given: Mapping[str, Any]) -> None:
    if len(given) == 1:
        raise RuleProblem("rule 'length' checks nothing", "", f"parameters: {', '.join(parameters_of('length'))}")
    for unit in ("words", "chars"):
        least, most = given.get(f"min_{unit}", 0), given.get(f"max_{unit}", 0)
        if least < 0 or most < 0 or (most and least > most):
            raise RuleProblem(f"rule 'length': no text has {least} to {most} {unit}", f"max_{unit}")


def first_refusal(row: Row, rules: Iterable[Rule]) -> tuple[str, str] | None:
    """Return the first rule that refuses a row and its reason, None when all let it pass."""
    for rule in rules:
        if reason := rule.check(row):
            return rule.name, reason
    return None
