"""Command `doctor`."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillgen.cli.guard import guarded, project_recipe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from distillgen.doctor import Finding

MARKS = {"well": ("ok", "green"), "note": ("note", "cyan"), "warning": ("warn", "yellow"), "broken": ("FAIL", "red")}
MARGIN = 16  # columns for the mark and what it is about
LEAST_WIDTH = 24  # for the words, in a terminal however narrow


@guarded
def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe whose teachers are checked too. Default: ./recipe.toml if there is one.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="DIR",
            help="The state folder. Default: DISTILLGEN_STATE, else .distillgen beside the recipe.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """Check the set-up, and say what mends what is wrong.

    It looks at machine, folders, network, terminal, and the keys and endpoints of a recipe.

    Each finding is ok, note, warn or FAIL; what is not ok comes with its fix. Nothing is changed, and no key is shown.

    \b
    Examples:
      distillgen doctor
      distillgen doctor my/recipe.toml
      distillgen doctor --json

    \b
    Exit status:
      0 nothing is broken, though there may be warnings
      2 something would stop a build
    """
    from distillgen.doctor import examine
    from distillgen.schemas import document

    found = examine(project_recipe(recipe) if recipe is not None or _is_here() else None, state)
    findings = list(found) if as_json else list(_shown(found))
    if as_json:
        print(document("doctor", _as_json(findings)))
    else:
        print(_summary(findings))
    if any(finding.level == "broken" for finding in findings):
        raise typer.Exit(2)


def _is_here() -> bool:
    """Whether the current folder has a recipe."""
    try:
        return project_recipe(None).exists()
    except OSError:  # the folder cannot be looked into
        return False


def _shown(found: "Iterable[Finding]") -> "Iterator[Finding]":
    """Pass findings on, each shown as soon as it is there: asking servers takes a while."""
    from distillgen.report.console import stdout

    out = stdout()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for finding in found:
        for line in _lines(finding, width, out):
            out.print(line)
        sys.stdout.flush()
        yield finding


def _lines(finding: "Finding", width: int | None, out: "Console") -> "Iterator[Text]":
    """Yield a finding as lines; only a terminal, of `width` columns, needs them broken."""
    from rich.text import Text

    from distillgen.report.console import safe

    mark, style = MARKS[finding.level]
    words = [finding.what.replace("\n", "\\n"), *(f"fix: {finding.fix}".splitlines() if finding.fix else ())]
    head = Text.assemble((f"{mark:<4}", style), f"  {finding.about:<8}  ")
    for number, part in enumerate(words):
        text = Text(_writable(safe(part)))
        broken = text.wrap(out, max(LEAST_WIDTH, width - MARGIN)) if width else [text]
        for line in broken:
            line.rstrip()
            yield head + line
            head = Text(" " * MARGIN)
        if number == 0:
            head = Text(" " * MARGIN)


def _writable(text: str) -> str:
    """Return text as standard output can write it: what an odd encoding lacks becomes an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _summary(findings: "list[Finding]") -> str:
    counts = {level: sum(finding.level == level for finding in findings) for level in MARKS}
    return "\n" + ", ".join(
        f"{count} {MARKS[level][0]}" for level, count in counts.items() if count or level == "broken"
    )


def _as_json(findings: "list[Finding]") -> dict[str, object]:
    counts = {level: sum(finding.level == level for finding in findings) for level in MARKS}
    told = [{"level": each.level, "about": each.about, "what": each.what, "fix": each.fix or None} for each in findings]
    return {"is_well": not counts["broken"], "counts": counts, "findings": told}
