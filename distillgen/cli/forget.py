"""Command `forget`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli import completion
from distillgen.cli.guard import guarded
from distillgen.cli.locks import patient

if TYPE_CHECKING:
    from distillgen.upkeep.forget import Forgotten

TOLD = 10  # ids and files that people see; programs see all


@guarded
@patient
def forget(
    row_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="A row's id, or a seed's: then all rows of it. Not with --ids.", show_default=False
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Datasets. Default: all of the project.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option("--ids", metavar="FILE", help="Erase many at once: a file of one id a line.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it, only say what would be done.")] = False,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why, for the manifest. Name nobody in it.")
    ] = "",
    project: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")] = Path(),
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="Where answers and locks are kept.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:
    """Erase a row, or all rows of a seed, from every version.

    The answers behind it go from the store. Without --yes nothing is changed. The versions keep their numbers and
    get new digests; later builds leave the row out and do not ask for it.

    \b
    Examples:
      distillgen forget mzx5k7aq2bnv3c4d
      distillgen forget mzx5k7aq2bnv3c4d.2 demo --yes --reason "asked for"
      distillgen forget --ids gone.txt demo --yes

    \b
    Exit status:
      0 done, or shown   2 not writable, not to be done so, or a newer format
      8 a version is damaged: repair it   10 no such row or dataset
      11 a build or a pipe is at work   12 disk full
    """
    from distillgen.errors import NotFound
    from distillgen.schemas import document
    from distillgen.state import state_folder
    from distillgen.upkeep.forget import forget as erase

    if not project.is_dir():
        raise NotFound(f"no folder {str(project)!r}")
    if state is not None and not state.is_dir():  # a slip of the pen would leave the answers where they are
        raise NotFound(f"no folder {str(state)!r}", where="--state")
    place = state_folder(project, state)
    wanted, of = _wanted(row_id, names or [], ids)
    found = erase(project, place, wanted, of, reason=reason, will_do=yes)
    if as_json:
        print(document("forget", _as_json(found, is_done=yes)))
    else:
        _say(found, place, is_done=yes)


def _wanted(row_id: str | None, names: list[str], file: Path | None) -> tuple[list[str], list[str]]:
    """Return the ids and the names of datasets that are meant: with a file of ids, all arguments are names.

    Raises UsageError for no id at all, and for lines that are none, with their numbers.
    """
    from distillgen.errors import UsageError
    from distillgen.excluded import read_excluded

    if file is None:
        if row_id is None:
            raise UsageError("no id is named", fix="distillgen forget ID; or --ids FILE, of one id a line")
        return [row_id], names
    found, problems = read_excluded(file, str(file))
    if problems:
        raise UsageError("no file of ids", problems=problems)
    if not found:
        raise UsageError("no id is in it", where=str(file), fix="write one id a line; # begins a comment")
    return list(found), [*([row_id] if row_id is not None else []), *names]


def _say(found: "Forgotten", state: Path, *, is_done: bool) -> None:
    from distillgen.report.console import number, say

    for warning in found.warnings:
        say(f"warning: {warning}", style="yellow")
    for each in found.holdings:
        rows = ", ".join(f"{len(ids):,} {fate}" for fate, ids in each.rows.items())
        digest = f"; its digest is {each.digest[:12]} now" if each.digest else ""
        say(f"{each.label}: {rows} ({_some([row for ids in each.rows.values() for row in ids])}){digest}")
        if each.made_later:
            say(f"    {' and '.join(each.made_later)} with it: to be made again")
        if each.strays:
            say(f"    with it what is no part of a version: {_some(each.strays)}", style="yellow")
    for path, what in found.removed[:TOLD]:
        say(f"{path}: {what}")
    if len(found.removed) > TOLD:
        say(f"... and {len(found.removed) - TOLD:,} more; `--json` tells all")
    for path in found.batches:
        say(f"{path}: what it says of these requests")
    if found.store is None:
        say(f"no answer store in {state}: where it is elsewhere, name it with --state", style="yellow")
    else:
        say(f"{found.store}: {number(found.answers, 'stored answer')}; what was spent stays on record")
    if found.others:
        say(
            f"the same answers made {number(len(found.others), 'row')} that stay: {_some(list(found.others))}; "
            "a build that makes these again has to ask again",
            style="yellow",
        )
    for place in found.seeds:
        say(f"{place}: the seed itself stands here still; this file is yours to change", style="yellow")
    _say_end(found, is_done=is_done)


def _say_end(found: "Forgotten", *, is_done: bool) -> None:
    from distillgen.report.console import say

    they, them = (f"{found.ids[0]} is", "it") if len(found.ids) == 1 else (f"these {len(found.ids):,} ids are", "them")
    if found.is_nothing:
        say(f"{they} forgotten already: nothing of {them} is left here", style="bold")
    elif is_done:
        say(f"{they} forgotten: later builds leave it out", style="bold")
    else:
        say("all this would go for good; nothing was changed: `--yes` does it", style="bold")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - TOLD:,} more" if len(names) > TOLD else ""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:TOLD]) + more


def _as_json(found: "Forgotten", *, is_done: bool) -> dict[str, Any]:
    return {
        "id": found.ids[0] if len(found.ids) == 1 else "",
        "ids": list(found.ids),
        "done": is_done,
        "known": found.known,
        "versions": [
            {
                "version": each.label,
                "folder": str(each.version.folder),
                "rows": each.rows,
                "made_later": each.made_later,
                "strays": each.strays,
                "digest_before": each.version.manifest.digest,
                "digest": each.digest or None,
            }
            for each in found.holdings
        ],
        "datasets": [home.name for home in found.homes],
        "answers": found.answers,
        "others": found.others,
        "removals": [{"path": str(path), "what": what} for path, what in found.removed],
        "batches": [str(path) for path in found.batches],
        "seeds": found.seeds,
        "warnings": [str(warning) for warning in found.warnings],
    }
