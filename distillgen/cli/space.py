"""Commands that give space back, or keep a version from it: `gc`, `pin` and `unpin`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli import completion
from distillgen.cli.guard import guarded
from distillgen.cli.locks import UNITS, patient

if TYPE_CHECKING:
    from distillgen.upkeep.collect import Collected

Project = Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")]
Named = Annotated[
    str,
    typer.Argument(
        metavar="NAME@V",
        help="A version: name@3, name@latest, name@sha256:ab12.",
        autocompletion=completion.datasets,
    ),
]

TOLD = 30  # removals that people see; programs see all


@guarded
@patient
def gc(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="One dataset only. Default: the whole project.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it, only say what would go.")] = False,
    keep: Annotated[int, typer.Option("--keep", min=1, metavar="N", help="How many newest versions stay.")] = 5,
    answers: Annotated[
        bool, typer.Option("--answers", help="Stored answers too that no version and no recipe here needs.")
    ] = False,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Of answers and logs, those older than 30d, 12h, 2w.")
    ] = "30d",
    recipe: Annotated[
        list[Path] | None,
        typer.Option(
            "--recipe", metavar="RECIPE", help="A recipe whose answers stay. Default: all in the project's folder."
        ),
    ] = None,
    even_of: Annotated[
        list[str] | None,
        typer.Option(
            "--even-of", metavar="DATASET", help="Its answers may go, though no recipe says which it still needs."
        ),
    ] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Also the damaged bytes that `repair` kept.")] = False,
    project: Project = Path(),
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="Where answers and locks are kept.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove old versions, leftovers and caches.

    With --answers also replies that nothing needs. Without --yes nothing is removed. The version that `latest`
    names, pinned ones, and those that a recipe or another version compares with stay.

    \b
    Examples:
      distillgen gc
      distillgen gc demo --keep 3 --yes
      distillgen gc --answers --older-than 90d

    \b
    Exit status:
      0 done, or shown   2 nobody can tell what is needed
      8 what remains is damaged: repair it first   10 no such dataset
      11 a build or a pipe is at work   12 disk full
    """
    from distillgen.errors import NotFound
    from distillgen.schemas import document
    from distillgen.state import state_folder
    from distillgen.upkeep.collect import Wanted, collect

    if not project.is_dir():
        raise NotFound(f"no folder {str(project)!r}")
    if state is not None and not state.is_dir():  # a slip of the pen would leave the answers where they are
        raise NotFound(f"no folder {str(state)!r}", where="--state")
    wanted = Wanted(
        keep=keep, damaged=damaged, answers=answers, older_than=_seconds(older_than), recipes=tuple(recipe or ()),
        even_of=frozenset(even_of or ()),
    )  # fmt: skip
    found = collect(project, state_folder(project, state), name, wanted, will_do=yes)
    if as_json:
        print(document("gc", _as_json(found, is_done=yes)))
    else:
        _say(found, is_done=yes)


def _seconds(age: str) -> float:
    """Return an age in seconds: 12h, 30d, 2w. Raises UsageError."""
    from distillgen.errors import UsageError

    found = re.fullmatch(r"([0-9]{1,5})([hdw])", age)
    if found is None:
        raise UsageError(f"no age: {age[:40]!r}", where="--older-than", fix="write 12h, 30d or 2w")
    return int(found[1]) * UNITS[found[2]]


def _say(found: "Collected", *, is_done: bool) -> None:
    from distillgen.report.console import number, say

    for each in found.removals[:TOLD]:
        say(f"{each.path}: {each.what}, {_size(each.size)}")
    if len(found.removals) > TOLD:
        say(f"... and {len(found.removals) - TOLD:,} more; `--json` tells all")
    for label, why in found.kept:
        say(f"{label} stays: {why}", style="dim")
    if found.answers is not None:
        say(_answers(found))
    count, size = len(found.removals), found.size
    if found.answers is not None and found.answers.is_worth_it:
        size += found.answers_freed if is_done else found.answers.size + found.answers.free
    elif not count:
        say("nothing to collect")
        return
    if is_done:
        say(f"removed: {_size(size)} came back", style="bold")
    else:
        gone = number(count, "thing") + (f" and {found.answers.count:,} answers" if found.answers is not None else "")
        say(f"{gone} would go, {_size(size)} come back; nothing was changed: `--yes` does it", style="bold")


def _answers(found: "Collected") -> str:
    """Return what is to be known of stored answers before they go: they were paid for."""
    from distillgen.report.signs import dollars

    unused = found.answers
    assert unused is not None
    cost = "at a price that is not known" if unused.usd is None else f"about {dollars(unused.usd)}"
    return (
        f"stored answers: {unused.count:,} of {unused.stored:,} are needed by nothing here, {_size(unused.size)}; "
        f"{unused.prompt_tokens:,} tokens in and {unused.completion_tokens:,} out were paid for them, {cost}"
    )


def _size(size: int) -> str:
    """Return a size as people read it: 512 bytes, 1.2 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:,} bytes"


def _as_json(found: "Collected", *, is_done: bool) -> dict[str, Any]:
    unused = found.answers
    return {
        "done": is_done,
        "bytes": found.size,
        "removals": [
            {"kind": each.kind, "path": str(each.path), "what": each.what, "bytes": each.size}
            for each in found.removals
        ],
        "kept": [{"version": label, "why": why} for label, why in found.kept],
        "answers": None
        if unused is None
        else {
            "stored": unused.stored,
            "unused": unused.count,
            "bytes": unused.size,
            "free_bytes": unused.free,
            "bytes_freed": found.answers_freed,
            "prompt_tokens": unused.prompt_tokens,
            "completion_tokens": unused.completion_tokens,
            "usd": unused.usd,
        },
    }


@guarded
def pin(name: Named, project: Project = Path()) -> None:
    """Keep a version from `gc`, however old it gets.

    \b
    Examples:
      distillgen pin demo@3
      distillgen pin demo@latest

    \b
    Exit status:
      0 pinned   8 damaged   10 no such dataset or version   11 a build is at work
    """
    from distillgen.cli.guard import find_in_project
    from distillgen.report.console import say
    from distillgen.upkeep import pins

    version = find_in_project(name, project)
    home = _home(version.folder, project)
    is_new = pins.pin(home, version.manifest.version)
    say(f"{version.label} is pinned" if is_new else f"{version.label} was pinned already")


@guarded
def unpin(name: Named, project: Project = Path()) -> None:
    """Let `gc` have a version again once it is old.

    \b
    Examples:
      distillgen unpin demo@3

    \b
    Exit status:
      0 not pinned any more   8 damaged   10 no such dataset or version
      11 a build is at work
    """
    from distillgen.errors import NotFound
    from distillgen.report.console import say
    from distillgen.upkeep import pins

    home, number = _pinned(name, project)
    if not pins.unpin(home, number):
        there = ", ".join(f"{home.name}@{each}" for each in sorted(pins.pinned(home))) or "none is"
        raise NotFound(f"{home.name}@{number} is not pinned", where=str(home), fix=f"pinned: {there}")
    say(f"{home.name}@{number} is not pinned any more")


def _pinned(name: str, project: Path) -> tuple[Path, int]:
    """Return the dataset and the number that a name means; a number may be that of a version that is gone."""
    from distillgen.cli.guard import find_in_project
    from distillgen.files import safe_name

    dataset, _, number = name.partition("@")
    found = re.fullmatch(r"v?([0-9]{1,9})", number)
    if found and (home := project / "datasets" / safe_name(dataset, "dataset name")).is_dir():
        return home, int(found[1])
    version = find_in_project(name, project)
    return _home(version.folder, project), version.manifest.version


def _home(folder: Path, project: Path) -> Path:
    """Return the dataset's folder of a version of the project. Raises NotFound for a version elsewhere."""
    from distillgen.errors import NotFound

    home = folder.resolve().parent
    if home.parent != (project / "datasets").resolve():
        raise NotFound(f"{str(folder)!r} is no version of this project", where=str(project / "datasets"))
    return project / "datasets" / home.name
