"""Command `mix`: a version made of published versions."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from distillgen.cli import completion, options
from distillgen.cli.guard import find_in_project, guarded
from distillgen.cli.locks import patient

if TYPE_CHECKING:
    from distillgen.mix.making import Mixed
    from distillgen.mix.terms import Said

MOST_RATIO, LEAST_RATIO = 1e9, 1e-9


@guarded
@patient
def mix(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The dataset that gets a new version.", autocompletion=completion.datasets
        ),
    ],
    parts: Annotated[
        list[str],
        typer.Argument(
            metavar="VERSION:RATIO...", help="What goes in, and its share of the rows.",
            autocompletion=completion.datasets,
        ),
    ],
    rows: Annotated[
        int | None,
        typer.Option(
            "-n", "--rows", min=1, metavar="N", show_default=False,
            help="How many rows. Default: as many as the shares allow.",
        ),
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(
            "--near", metavar="T", min=0.1, max=1.0, show_default=False,
            help="Leave out near-duplicates too: from this Jaccard similarity on, 0.8 say.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**32, metavar="N", help="Another number draws other rows.")
    ] = 0,
    purpose: Annotated[
        str | None, options.purpose("What the mix is for, as in [terms]. Default: the narrowest of the parts'.")
    ] = None,
    competing: Annotated[
        str | None, options.competing("Whether the student competes: yes, no, unknown. Default: as each part has it.")
    ] = None,
    accept: options.Accept = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would be made of; write nothing.")] = False,
    project: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:  # fmt: skip
    """Make a version of published versions, by ratio.

    Duplicates are left out; lineage and terms of all parts are kept. A row keeps its split. No row is taken twice.
    The same mix again publishes nothing.

    \b
    Examples:
      distillgen mix all maths@3:0.7 chat:0.3
      distillgen mix all maths:2 chat:1 -n 9000 --near 0.8
      distillgen mix all maths:1 chat:1 --dry-run

    \b
    Exit status:
      0 published, or nothing new   2 cannot be mixed so   6 no row is left
      8 damaged   9 terms not accepted   10 no such dataset or version
      11 another build or mix is at work   12 disk full
    """
    from distillgen.mix.making import Wanted
    from distillgen.mix.making import mix as mix_versions
    from distillgen.mix.parts import parts_of
    from distillgen.report.console import say
    from distillgen.schemas import document

    said = said_of(purpose, competing, accept or [])
    _require_name(name)
    found = [(find_in_project(reference, project), ratio) for reference, ratio in map(_part, parts)]
    wanted = Wanted(rows, near, seed, said)
    mixed = mix_versions(name, parts_of(found), project / "datasets", wanted, is_dry=dry_run)
    if as_json:
        print(document("mix", _as_json(mixed)))
        return
    _show(mixed, rows)
    if mixed.version is None:
        say("nothing was written: leave out --dry-run")
    elif mixed.is_new:
        splits = ", ".join(f"{count:,} {split}" for split, count in mixed.version.manifest.splits.items())
        say(f"published {mixed.version.label}: {mixed.version.manifest.rows:,} rows ({splits})", style="green")
    else:
        say(f"{mixed.version.label} has these very rows: nothing to publish")


def said_of(purpose: str | None, competing: str | None, accept: list[str]) -> "Said":
    """Return what the owner says of the terms. Raises UsageError for a word that is none of those there are."""
    from distillgen.errors import UsageError, nearest
    from distillgen.mix.terms import Said
    from distillgen.teacher.terms import COMPETING, PURPOSES, Competing, Purpose

    for option, word, words in (("--purpose", purpose, PURPOSES), ("--competing", competing, COMPETING)):
        if word is not None and word not in words:
            hint = nearest(word, words)
            near = hint if hint.startswith("did you mean") else ""
            raise UsageError(f"{word[:80]!r} is none of {', '.join(words)}", where=option, fix=near)
    return Said(cast(Purpose | None, purpose), cast(Competing | None, competing), tuple(accept))


def _require_name(name: str) -> None:
    from distillgen.errors import UsageError
    from distillgen.files import safe_name

    if ":" in name and "/" not in name:
        raise UsageError(
            f"{name[:120]!r} is no dataset's name", fix="the dataset that gets the mix comes first: mix NAME maths:0.7"
        )
    safe_name(name, "dataset name")


def _part(text: str) -> tuple[str, Fraction]:
    """Return reference and ratio. Raises UsageError for what is no ratio above 0."""
    from distillgen.errors import UsageError

    reference, colon, number = text.rpartition(":")
    try:
        is_ratio = bool(colon) and LEAST_RATIO <= float(number) <= MOST_RATIO
    except ValueError:
        is_ratio = False
    if not reference or not is_ratio:
        raise UsageError(
            f"{text[:80]!r} is no version with a ratio above 0", fix="write it like `maths@3:0.7`, or `maths:7 chat:3`"
        )
    return reference, Fraction(number)


def _show(mixed: "Mixed", wanted: int | None) -> None:
    from distillgen.report.console import say, stdout
    from distillgen.report.tables import table

    rows = [
        [each["version"], f"{each['ratio']:.1%}",
         *(f"{each[key]:,}" for key in ("rows", "not_drawn", "duplicates", "held_out"))] for each in _parts(mixed)
    ]  # fmt: skip
    out = stdout()
    columns = ["version", "share#", "rows#", "not drawn#", "duplicates#", "of other splits#"]
    out.print(table("", columns, rows))
    if wanted is None and (limit := mixed.limit()) is not None:
        say(f"{limit.label} sets the limit: no more rows of the others go with its {len(limit.rows):,} at these shares")
    for line in _notes(mixed):
        say(line, style="yellow")
    _show_terms(mixed)


def _parts(mixed: "Mixed") -> list[dict[str, Any]]:
    from distillgen.mix.making import lineage

    return lineage(mixed.parts)


def _notes(mixed: "Mixed") -> Iterator[str]:
    """Yield what somebody should know of the rows."""
    from distillgen.excluded import FORGOTTEN

    for part in mixed.parts:
        if not part.count:
            yield f"no row of {part.label}: its share of so few rows is less than one"
        if erased := part.left_out_by(FORGOTTEN):
            yield f"{erased:,} rows of {part.label} were erased with `forget`, and are left out"
    for split, counts in mixed.splits().items():
        if len(counts) == 1 < len(mixed.parts):
            yield f"split {split} has rows of {next(iter(counts))} only"
    if count := mixed.asks_held_out():
        yield f"{count:,} rows of train have the prompt of a row of another split, with another answer: they stay"


def _show_terms(mixed: "Mixed") -> None:
    import datetime

    from distillgen.report.console import say

    terms = mixed.terms.terms
    stances = ", ".join(f"{label} {stance}" for label, stance in mixed.terms.stances.items())
    say(f"terms: {terms.verdict.stance} for the purpose {terms.settings.purpose} ({stances})")
    for each in terms.warnings(datetime.date.today(), mixed.before):
        say(f"warning: {each}", style="yellow")
    if stops := mixed.terms.stops:
        say(f"not to be published until you --accept {', '.join(stops)}: {terms.verdict.reasons[0]}", style="yellow")


def _as_json(mixed: "Mixed") -> dict[str, Any]:
    return {
        "version": mixed.version.label if mixed.version else None,
        "published": mixed.is_new,
        "rows": sum(part.count for part in mixed.parts),
        "parts": _parts(mixed),
        "splits": mixed.splits(),
        "asks_held_out": mixed.asks_held_out(),
        "terms": {**mixed.terms.terms.outlook(), "stances": dict(mixed.terms.stances)},
    }
