"""Command `terms`: what documents and licences say about training on outputs, and what that means for a purpose."""

import shutil
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli import completion
from distillgen.cli.guard import guarded

if TYPE_CHECKING:
    import datetime

    from rich.console import RenderableType

    from distillgen.teacher.terms import Entry

WIDTH = 110
NARROW = 44  # columns below which a label has no column of its own
MOST_NAME = 120


@guarded
def terms(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model, or the id of an entry. Default: list all.",
            show_default=False,
            autocompletion=completion.models,
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider",
            "-p",
            metavar="NAME",
            autocompletion=completion.providers,
            help="Who serves it: see `distillgen teachers`.",
            show_default=False,
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url", metavar="URL", help="The address, where it is not a provider's.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:
    """Show what terms and licences say about training on outputs.

    It says for each purpose what they mean, with the quotation and its address. This is not legal advice.

    \b
    Examples:
      distillgen terms
      distillgen terms gemma-4-31b-it --provider gemini
      distillgen terms deepseek-open-platform --json

    \b
    Exit status:
      0 shown   2 no such provider or embedded model
    """
    import datetime

    from distillgen.errors import UsageError

    today = datetime.datetime.now(tz=datetime.UTC).date()
    if model is None:
        if provider or base_url:
            raise UsageError("name a model too", fix="distillgen terms MODEL --provider P")
        _list(today, as_json)
    else:
        _explain(model, provider, base_url, today, as_json)


def _list(today: "datetime.date", as_json: bool) -> None:
    from distillgen.report.console import stdout
    from distillgen.report.tables import Folded, table
    from distillgen.teacher.terms import NOT_ADVICE, entries

    if as_json:
        _print_json(tuple(entries().values()), today)
        return
    rows = [
        [
            entry.id,
            entry.stance,
            entry.read or "not read",
            entry.quality if entry.read else "-",
            f"route {entry.provider}" if entry.is_route else "licence",
            entry.who,
            f"since {entry.review_by}" if entry.is_overdue(today) else "-",
        ]
        for entry in entries().values()
    ]
    columns = ["entry", "stance=", "read on=", "source=", "of a=", "whose", "overdue="]
    out = stdout()
    out.print(table("", columns, rows))
    out.print(Folded(f"\nWhat nothing here matches is unknown, never allowed.\n{NOT_ADVICE}"))


def _explain(model: str, provider: str | None, base_url: str | None, today: "datetime.date", as_json: bool) -> None:
    from distillgen.report.console import stdout

    found = _found(model, provider, base_url)
    if as_json:
        _print_json(found, today, model, provider, base_url, _meaning(found))
        return
    out = stdout()
    for part in _parts_shown(model, provider or base_url, found, today):
        out.print(part)


def _found(model: str, provider: str | None, base_url: str | None) -> "tuple[Entry, ...]":
    """Return the entries that count: those of a teacher, or the one that is named. Raises UsageError."""
    from distillgen.teacher.models import find_model
    from distillgen.teacher.providers import EMBEDDED
    from distillgen.teacher.terms import entry_named, find

    if not provider and not base_url and (entry := entry_named(model)) is not None:
        return (entry,)
    if provider == EMBEDDED:
        find_model(model)
    return find(provider, model, base_url)


def _facts(entry: "Entry", today: "datetime.date") -> dict[str, Any]:
    return {**entry.facts(), "overdue": entry.is_overdue(today)}


def _meaning(found: "tuple[Entry, ...]") -> dict[str, dict[str, str]]:
    """Return the verdict by purpose, and by what the owner says of competing."""
    from distillgen.teacher.terms import COMPETING, PURPOSES, judge

    return {purpose: {word: judge(found, purpose, word).stance for word in COMPETING} for purpose in PURPOSES}


def _parts_shown(
    model: str, route: str | None, found: "tuple[Entry, ...]", today: "datetime.date"
) -> "Iterator[RenderableType]":
    """Yield the explanation for people."""
    from distillgen.report.tables import Folded, table
    from distillgen.teacher.terms import COMPETING, NOT_ADVICE

    yield Folded(f"{_short(model)}" + (f" by {_short(route)}" if route else "") + f": {found[0].stance}")
    for line in _hint(model, route, found):
        yield Folded(line)
    for entry in found:
        yield Folded(f"\n{entry.id}: {entry.stance}")
        for label, text in _parts(entry, today):
            yield _wrapped(label, text)
    first, *others = COMPETING
    verdicts = [[purpose, *(of[word] for word in COMPETING)] for purpose, of in _meaning(found).items()]
    yield ""
    yield table("", ["for the purpose", f"competing = {first}=", *(f"{word}=" for word in others)], verdicts)
    yield ""
    if not route and not any(entry.is_route for entry in found):
        yield Folded("By a provider its terms count too: add --provider P.")
    yield Folded(NOT_ADVICE)


def _wrapped(label: str, text: str) -> "RenderableType":
    """Return a part of an entry: beside its label, or below it on a narrow terminal."""
    from distillgen.report.console import safe
    from distillgen.report.tables import Folded

    columns = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns or WIDTH)
    if columns < NARROW:
        return Folded(f"  {label}: {' '.join(text.split())}", indent=4)
    return "\n".join(
        textwrap.wrap(
            safe(text), columns, initial_indent=f"  {label:<11}", subsequent_indent=" " * 13, break_on_hyphens=False,
            break_long_words=False,
        )
    )  # fmt: skip


def _short(name: str) -> str:
    """Return somebody's name on one line, cut."""
    name = " ".join(name.split())
    return name if len(name) <= MOST_NAME else name[: MOST_NAME - 1] + "…"


def _hint(model: str, route: str | None, found: "tuple[Entry, ...]") -> Iterator[str]:
    """Yield the nearest known name where a name is known to nobody."""
    from distillgen.errors import nearest
    from distillgen.teacher.models import models
    from distillgen.teacher.terms import UNKNOWN_MODEL, entries

    if any(entry.id == UNKNOWN_MODEL for entry in found):
        hint = nearest(model[:MOST_NAME], {*models(), *(() if route else entries())})
        if hint.startswith("did you mean"):
            yield hint


def _parts(entry: "Entry", today: "datetime.date") -> Iterator[tuple[str, str]]:
    """Yield what an entry holds, as label and text."""
    yield "of", f"{entry.who}, {f'the route {entry.provider}' if entry.is_route else 'licence'}"
    section = f", section {entry.section}" if entry.section else ""
    effective = f", effective {entry.effective}" if entry.effective else ""
    yield "document", f"{entry.document}{section}{effective}"
    if entry.quote:
        yield "says", f"“{entry.quote}”"
    for condition in entry.conditions:
        all_purposes = len(condition.purposes) == len(type(condition).model_fields["purposes"].default)
        yield "condition", condition.text + ("" if all_purposes else f" [{', '.join(condition.purposes)}]")
    if entry.note:
        yield "note", entry.note
    if entry.url:
        yield "address", entry.url
    yield "read", f"{entry.read}, {entry.quality}" if entry.read else "not by us"
    if entry.review_by:
        overdue = ": OVERDUE, read it again" if entry.is_overdue(today) else ""
        yield "review by", f"{entry.review_by}{overdue}"


def _print_json(
    found: "tuple[Entry, ...]", today: "datetime.date", model: str | None = None, provider: str | None = None,
    base_url: str | None = None, meaning: dict[str, dict[str, str]] | None = None,
) -> None:  # fmt: skip
    from distillgen.schemas import document
    from distillgen.teacher.terms import NOT_ADVICE

    print(
        document(
            "terms",
            {
                "not_legal_advice": NOT_ADVICE,
                "model": model,
                "provider": provider,
                "base_url": base_url,
                "entries": [_facts(entry, today) for entry in found],
                "meaning": meaning,
            },
        )
    )
