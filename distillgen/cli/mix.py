"""Command `mix`: a version made of published versions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli.guard import find_in_project, guarded

if TYPE_CHECKING:
    from distillgen.mix import Mixed


@guarded
def mix(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset that gets a new version.")],
    parts: Annotated[
        list[str], typer.Argument(metavar="VERSION:RATIO...", help="What goes in, and its share of the rows.")
    ],
    rows: Annotated[
        int | None,
        typer.Option(
            "-n", "--rows", min=1, help="How many rows. Default: as many as the shares allow.", show_default=False
        ),
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(
            "--near", metavar="T", min=0.1, max=1.0, show_default=False,
            help="Leave out near-duplicates too: from this Jaccard similarity on, 0.8 say.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32, help="Draws other rows.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would be made of; write nothing.")] = False,
    project: Annotated[Path, typer.Option("--project", help="The project's folder.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:  # fmt: skip
    """Make a version of published versions: rows by ratio, duplicates left out, lineage and terms of all kept.

    A row keeps its split. No row is taken twice. The same mix again publishes nothing.

    \b
    Examples:
      distillgen mix all maths@3:0.7 chat:0.3
      distillgen mix all maths:2 chat:1 -n 9000 --near 0.8
      distillgen mix all maths:1 chat:1 --dry-run

    \b
    Exit status:
      0 published, or nothing new   2 cannot be mixed so   6 no row is left
      8 damaged   10 no such dataset or version   11 locked   12 disk full
    """
    from distillgen.files import dumps
    from distillgen.mix import mix as mix_versions
    from distillgen.mix import parts_of
    from distillgen.report.console import say

    found = [(find_in_project(reference, project), ratio) for reference, ratio in map(_part, parts)]
    mixed = mix_versions(
        name, parts_of(found), project / "datasets", rows=rows, near=near, seed=seed, is_dry=dry_run
    )  # fmt: skip
    if as_json:
        print(dumps(_as_json(mixed)))
        return
    _show(mixed)
    if mixed.version is None:
        say("nothing was written: leave out --dry-run")
    elif mixed.is_new:
        splits = ", ".join(f"{count:,} {split}" for split, count in mixed.version.manifest.splits.items())
        say(f"published {mixed.version.label}: {mixed.version.manifest.rows:,} rows ({splits})", style="green")
    else:
        say(f"{mixed.version.label} has these very rows: nothing to publish")


def _part(text: str) -> tuple[str, float]:
    """Return reference and ratio. Raises UsageError for what is no ratio above 0."""
    import math

    from distillgen.errors import UsageError

    reference, colon, number = text.rpartition(":")
    try:
        ratio = float(number) if colon else math.nan
    except ValueError:
        ratio = math.nan
    if not reference or not 0 < ratio < math.inf:
        raise UsageError(
            f"{text[:80]!r} is no version with a ratio above 0", fix="write it like `maths@3:0.7`, or `maths:7 chat:3`"
        )
    return reference, ratio


def _show(mixed: "Mixed") -> None:
    from rich.console import Console

    from distillgen.report.console import say, table

    rows = [
        [part.label, f"{part.ratio:.1%}", f"{part.count:,}", f"{len(part.rows) - part.count:,}",
         f"{len(part.duplicates):,}"]
        for part in mixed.parts
    ]  # fmt: skip
    out = Console(markup=False, highlight=False)
    out.print(table("", ["version", "share#", "rows#", "not drawn#", "duplicates#"], rows))
    if mixed.terms:
        stances = ", ".join(f"{label} {stance}" for label, stance in mixed.terms["stances"].items())
        say(f"terms: {mixed.terms['stance']} for the purpose {mixed.terms['purpose']} ({stances})")
        for each in mixed.terms["conditions"]:
            say(f"a condition of the terms: {each['text']}", style="yellow")


def _as_json(mixed: "Mixed") -> dict[str, Any]:
    return {
        "version": mixed.version.label if mixed.version else None,
        "published": mixed.is_new,
        "rows": sum(part.count for part in mixed.parts),
        "parts": [
            {
                "version": part.label, "ratio": part.ratio, "rows": part.count,
                "not_drawn": len(part.rows) - part.count, "duplicates": len(part.duplicates),
            }
            for part in mixed.parts
        ],
        "terms": mixed.terms,
    }  # fmt: skip
