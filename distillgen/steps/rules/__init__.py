"""The rules of `filter`, by name, and how a recipe's settings become rules that can be applied.

A rule is a function of a row and keyword-only parameters that returns a Verdict: why to refuse the row, the row
mended, or None. To add one: write it in a module of this folder, and list it in RULES.
"""

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pydantic

from distillgen.errors import nearest
from distillgen.rows import Row
from distillgen.step_settings import FilterStep, RuleSetting
from distillgen.steps.rules.basics import check_length, length, not_empty, not_truncated
from distillgen.steps.rules.format import check_format, format_
from distillgen.steps.rules.identity import check_identity, teacher_identity
from distillgen.steps.rules.language import (
    check_language,
    check_reasoning_language,
    language,
    reasoning_language,
)
from distillgen.steps.rules.leaks import check_prompt_leak, prompt_leak, special_tokens
from distillgen.steps.rules.own import check_function, function
from distillgen.steps.rules.pii import check_pii, pii
from distillgen.steps.rules.presets import PRESETS
from distillgen.steps.rules.refusal import not_refusal
from distillgen.steps.rules.repetition import check_repetition, repetition
from distillgen.steps.rules.verdict import Context, Mended, RuleProblem, Verdict

__all__ = ["PRESETS", "RULES", "Context", "Rule", "RuleProblem", "Verdict", "apply_rules", "bind_rule"]

Examine = Callable[[Mapping[str, Any], Context], None]


class Kind(NamedTuple):
    """A rule's function, and what finds parameters that fit their types and still make no sense (RuleProblem)."""

    judge: Callable[..., Verdict]
    examine: Examine | None = None
    is_idle_alone: bool = False  # without a parameter it checks nothing


RULES: Mapping[str, Kind] = {
    "not_empty": Kind(not_empty),
    "not_truncated": Kind(not_truncated),
    "not_refusal": Kind(not_refusal),
    "teacher_identity": Kind(teacher_identity, check_identity),
    "prompt_leak": Kind(prompt_leak, check_prompt_leak),
    "special_tokens": Kind(special_tokens),
    "repetition": Kind(repetition, check_repetition),
    "length": Kind(length, check_length, is_idle_alone=True),
    "format": Kind(format_, check_format, is_idle_alone=True),
    "language": Kind(language, check_language),
    "reasoning_language": Kind(reasoning_language, check_reasoning_language),
    "pii": Kind(pii, check_pii),
    "function": Kind(function, check_function),
}
_GIVEN = {"row", "context"}  # what the road hands to a rule; the other parameters are the recipe's


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its parameters, ready to be applied. `is_pure`: it has no memory, which somebody's own may have.

    `check` is a module's function with plain values, so that `pickle` can send a rule to another process.
    """

    name: str
    column: str
    check: Callable[[Row], Verdict]
    is_pure: bool = True


class Judged(NamedTuple):
    """A row after rules: as they mended it, the rule that refuses it with the reason, and what they noted."""

    row: Row
    refused: tuple[str, str] | None
    notes: Mapping[str, Any]


def apply_rules(row: Row, rules: Iterable[Rule]) -> Judged:
    """Apply rules in order until one refuses the row; each sees the row as the ones before it mended it."""
    notes: dict[str, Any] = {}
    for rule in rules:
        verdict = rule.check(row)
        if verdict is None:
            continue
        if isinstance(verdict, Mended):
            row = row._replace(columns={**row.columns, **verdict.columns})
            notes[rule.name] = _added(notes.get(rule.name, {}), verdict.note)
        else:
            return Judged(row, (rule.name, verdict), notes)
    return Judged(row, None, notes)


def _added(note: Mapping[str, Mapping[str, int]], more: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Return what a rule did in one column and in another, counted together."""
    both = {what: Counter(note.get(what, {})) + Counter(more.get(what, {})) for what in sorted({*note, *more})}
    return {what: dict(sorted(counts.items())) for what, counts in both.items()}


def bind_rule(setting: RuleSetting, column: str, context: Context | None = None) -> Rule:
    """Return a rule as a recipe states it, on `column` unless it names another. Raises RuleProblem."""
    parameters = _spelled_out(setting)
    name = parameters.pop("rule", None)
    if not isinstance(name, str):
        raise RuleProblem("a rule without `rule`", "", f"known: {', '.join(RULES)}")
    if name not in RULES:
        raise RuleProblem(f"unknown rule {name!r}", "rule", nearest(name, RULES))
    context = context or Context()
    arguments = _checked(name, {"column": column, **parameters}, context)
    if "context" in _signature(name):
        arguments["context"] = context
    # A rejection names an own function, not the rule that calls it.
    shown = arguments["call"] if name == "function" else name
    return Rule(shown, arguments["column"], functools.partial(RULES[name].judge, **arguments), name != "function")


def settings_of(step: FilterStep, column: str = "") -> list[tuple[RuleSetting, int | None]]:
    """Return the settings of a filter's rules, each with its place in `rules` (None for those of the preset).

    A rule of `rules` takes the place of the preset's rule of that name on the same column (`column` where it names
    none); `without` leaves rules of the preset out, on any column.
    Raises RuleProblem for a preset that there is not, or a name in `without` that the preset has not.
    """
    stated: list[tuple[RuleSetting, int | None]] = [(setting, place) for place, setting in enumerate(step.rules)]
    if step.preset is None:
        return stated
    if step.preset not in PRESETS:
        raise RuleProblem(f"unknown preset {step.preset!r}", "preset", nearest(step.preset, PRESETS))
    preset = PRESETS[step.preset]
    names = [name_of(setting) for setting in preset]
    for name in step.without:
        if name not in names:
            raise RuleProblem(f"preset {step.preset!r} has no rule {name!r}", "without", nearest(name, names))
    taken = [_seat_of(setting, column) for setting in step.rules]
    kept = [each for each in preset if name_of(each) not in step.without and _seat_of(each, column) not in taken]
    return [(setting, None) for setting in kept] + stated


def name_of(setting: RuleSetting) -> Any:
    """Return the name of a rule in a setting."""
    return _spelled_out(setting).get("rule")


def _seat_of(setting: RuleSetting, column: str) -> tuple[Any, Any]:
    """Return the name of a rule and the column it looks at, as stated: they may be of any type, and then fit none."""
    return name_of(setting), _spelled_out(setting).get("column", column)


def _spelled_out(setting: RuleSetting) -> dict[str, Any]:
    """Return a setting as a table: a name alone stands for the rule, `module:function` for one of the author's own."""
    if not isinstance(setting, str):
        return dict(setting)
    return {"rule": "function", "call": setting} if ":" in setting else {"rule": setting}


def parameters_of(name: str) -> list[str]:
    """Return the names of a rule's parameters."""
    return [parameter for parameter in _signature(name) if parameter not in _GIVEN]


def _signature(name: str) -> Sequence[str]:
    return list(inspect.signature(RULES[name].judge).parameters)


def _checked(name: str, given: Mapping[str, Any], context: Context) -> dict[str, Any]:
    known = parameters_of(name)
    kinds = inspect.get_annotations(RULES[name].judge, eval_str=True)
    for parameter, value in given.items():
        if parameter not in known:
            raise RuleProblem(f"rule {name!r} has no parameter {parameter!r}", parameter, nearest(parameter, known))
        try:
            pydantic.TypeAdapter(kinds[parameter]).validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            message = error.errors()[0]["msg"]
            raise RuleProblem(f"{parameter!r} of rule {name!r}: {message[0].lower()}{message[1:]}", parameter) from None
    kind = RULES[name]
    if kind.is_idle_alone and len(given) == 1:
        raise RuleProblem(f"rule {name!r} checks nothing", "", f"parameters: {', '.join(known)}")
    if kind.examine is not None:
        kind.examine(given, context)
    return dict(given)
