"""How old what distillgen knows of prices and terms is, and what both mean for a recipe's teachers."""

import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

from distillgen.doctor.findings import Finding, broken, note, warning, well
from distillgen.doctor.keys import is_unknown
from distillgen.errors import DistillgenError, TermsNotAccepted
from distillgen.recipe import Recipe, Source
from distillgen.settings import TeacherSettings
from distillgen.step_settings import GenerateStep, JudgeStep
from distillgen.teacher.cost import Prices, find_prices
from distillgen.teacher.terms import Entry, entries
from distillgen.terms import weigh

OLD_DAYS = 90  # prices change every few months
UPGRADE = "pip install --upgrade genai-prices"
READ_AGAIN = "pip install --upgrade distillgen, or read the documents yourself: distillgen terms"
MOST_NAMED = 8
# The list has no date of its own, but notes such as `(checked 2026-10-09)`: it was made on the newest of them or later.
_CHECKED = re.compile(r"\b(?:checked|verified)\b[^\"\n]{0,200}?\b(20\d\d-\d\d-\d\d)\b")


def of_tables(now: datetime, *, is_needed: bool) -> Iterator[Finding]:
    """Yield the age of the price list and of the readings of terms; with a recipe (`is_needed`) its own are named
    later, so that the others are no more than a note."""
    yield _price_list(now.date())
    late = [entry for entry in entries().values() if entry.is_overdue(now.date())]
    read = max(entry.read for entry in entries().values() if entry.read)
    if late:
        what = f"{len(late)} of {len(entries())} readings of terms are past their day: {_named(late)}"
        yield (note if is_needed else warning)("terms", what, READ_AGAIN)
    else:
        until = min(entry.review_by for entry in entries().values() if entry.review_by)
        yield well("terms", f"{len(entries())} readings of terms, the newest of {read}, trusted until {until} at least")


def _named(late: list[Entry]) -> str:
    names = [entry.id for entry in late]
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def _price_list(today: date) -> Finding:
    version, made = importlib.metadata.version("genai-prices"), prices_of()
    if made is None:
        return note("prices", f"the price list is genai-prices {version}, which does not say its day", UPGRADE)
    days = (today - made).days
    what = f"the price list is genai-prices {version}, with prices looked at on {made}"
    if days > OLD_DAYS:
        return note("prices", f"{what}, {days:,} days ago: they may have changed", UPGRADE)
    return well("prices", what)


@functools.cache
def prices_of() -> date | None:
    """Return the newest day on which somebody looked at a price of the installed list, by its own notes."""
    spec = importlib.util.find_spec("genai_prices")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    try:
        text = (Path(folders[0]) / "data.py").read_text(encoding="utf-8")
    except (IndexError, OSError, UnicodeDecodeError):
        return None
    return max((day for found in _CHECKED.findall(text) if (day := _day(found)) is not None), default=None)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def of_teachers(recipe: Recipe, source: Source, now: datetime) -> Iterator[Finding]:
    """Yield what is found of the prices of a recipe's teachers, and of the terms of those that a step asks.

    `now` has a zone.
    """
    has_budget = recipe.budget.usd is not None or recipe.budget.usd_total is not None
    for name, settings in recipe.teachers.items():
        if not is_unknown(settings):
            yield from _price(name, settings, now, has_budget=has_budget)
    yield from _terms(recipe, source, now.date())


def _terms(recipe: Recipe, source: Source, today: date) -> Iterator[Finding]:
    """Yield whether terms stop a build, and which readings of them are past their day.

    Left out are weights of one's own: to know whose they are takes reading gigabytes.
    """
    asking = [step for _, step in recipe.all_steps() if isinstance(step, GenerateStep | JudgeStep)]
    used = {name for step in asking for name in recipe.teachers_of(step)}
    known = {name for name in used if not (is_unknown(recipe.teachers[name]) or recipe.teachers[name].gguf)}
    try:
        terms = weigh(recipe, source, known)
    except DistillgenError:  # an embedded model that is not installed: its own finding says so
        return
    try:
        terms.require()
        if known and terms.verdict.stance == "unknown":
            first = terms.verdict.judgements[0]
            what = f"for the purpose {recipe.terms.purpose} the terms are unknown: {first.reason}"
            yield note("terms", what, f"distillgen terms {first.entry.id}")
        elif known:
            yield well("terms", f"for the purpose {recipe.terms.purpose} the terms are: {terms.verdict.stance}")
    except TermsNotAccepted as error:
        yield broken("terms", error.problems[0].what, error.problems[0].fix)
    late = {each.entry.id: each.entry for each in terms.verdict.judgements if each.entry.is_overdue(today)}
    for entry in late.values():
        what = f"{entry.id} ({entry.document}) was read on {entry.read}, and trusted until {entry.review_by}"
        yield warning("terms", what, f"read it again: {entry.url or f'distillgen terms {entry.id}'}")


def _price(name: str, settings: TeacherSettings, now: datetime, *, has_budget: bool) -> Iterator[Finding]:
    try:
        prices = find_prices(settings, now)
        listed = find_prices(settings.model_copy(update={"prices": None}), now) if settings.prices else None
    except DistillgenError as error:
        yield warning("prices", f"teacher {name!r}: {error.problems[0].what}", error.problems[0].fix or "correct it")
        return
    if prices is None:
        what = f"teacher {name!r}: no price is known for {settings.model!r}; what is spent is not counted"
        fix = "under the teacher: prices = { input = USD, output = USD } per million tokens, or { free = true }"
        yield (warning if has_budget else note)("prices", what, fix)
    elif listed is not None and listed.source != "free" and _pair(listed) != _pair(prices):
        what = f"teacher {name!r}: the recipe says {_told(prices)}, the list says {_told(listed)}"
        yield note("prices", what, "keep `prices` if that is your contract, else take it out of the recipe")
    else:
        yield well("prices", f"teacher {name!r}: {_told(prices)} ({prices.source})")


def _pair(prices: Prices) -> tuple[object, object]:
    return prices.input, prices.output


def _told(prices: Prices) -> str:
    if not prices.input and not prices.output:
        return "free"
    return f"${prices.input:f} in, ${prices.output:f} out per million tokens"
