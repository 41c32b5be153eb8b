"""Commands that share versions: `push` and `pull`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillgen.cli import completion
from distillgen.cli.guard import find_in_project, guarded
from distillgen.cli.locks import patient

if TYPE_CHECKING:
    from distillgen.dataset.versions import Version

Project = Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")]


@guarded
@patient
def push(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[@V]",
            help="The version: name, name@3, name@sha256:ab12.",
            autocompletion=completion.datasets,
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="hf://OWNER/NAME, s3://BUCKET/PATH, another fsspec URL, or a folder."),
    ],
    public: Annotated[
        bool, typer.Option("--public", help="A repository that everybody may read. Without it: a private one.")
    ] = False,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Leave provenance, rejected and failed rows out; `pull` needs them.")
    ] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept", metavar="ID", help="With --public: take terms upon yourself that stop it.", show_default=False
        ),
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Push a version to the Hub, a store or a folder.

    It is checked first. The repository at Hugging Face is private unless you say --public.

    \b
    Examples:
      distillgen push demo hf://me/demo
      distillgen push demo@3 hf://me/demo --public
      distillgen push demo s3://bucket/datasets

    \b
    Exit status:
      0 pushed, or there already
      2 other content has its number there, or an extra is missing
      4 no credentials, or refused   7 the place does not answer   8 damaged
      9 --public, and terms stop it   10 no such version or place
      11 another push is at work   12 disk full
    """
    from distillgen.remote.push import push as send
    from distillgen.report.console import number, say
    from distillgen.schemas import document

    version: Version = find_in_project(name, project)
    if not as_json:
        _say_terms(version, accept or (), public=public)
    pushed = send(version, target, public=public, data_only=data_only, accept=accept or ())
    if as_json:
        told = {
            "version": version.label,
            "digest": version.manifest.digest,
            "where": pushed.where,
            "was_there": pushed.was_there,
            "files": pushed.files,
            "bytes": pushed.size,
            "note": pushed.note or None,
            "terms": _terms(version),
        }
        print(document("push", told))
        return
    if pushed.was_there:
        say(f"{version.label} is at {pushed.where} already: nothing to do", style="bold")
    else:
        sent = f"{number(pushed.files, 'file')}, {pushed.size:,} bytes"
        say(f"{version.label} is at {pushed.where} now: {sent}", style="bold")
    if pushed.note:
        say(pushed.note, style="yellow")


def _terms(version: "Version") -> dict[str, object]:
    terms = version.manifest.terms
    return {"stance": terms.get("stance"), "purpose": terms.get("purpose"), "conditions": _conditions(terms)}


def _conditions(terms: Mapping[str, Any]) -> list[str]:
    """Return the conditions of a manifest's terms in words."""
    found = (each.get("text") if isinstance(each, dict) else each for each in terms.get("conditions") or ())
    return [str(each) for each in found]


def _say_terms(version: "Version", accept: Sequence[str], *, public: bool) -> None:
    """Say under which terms the rows were made, before others may read them."""
    from distillgen.remote.public import PURPOSE, require_public
    from distillgen.report.console import say

    terms = version.manifest.terms
    stance, purpose, conditions = str(terms.get("stance") or "unknown"), terms.get("purpose"), _conditions(terms)
    if "terms" in version.manifest.unconfirmed and not public:
        stance += ", by a record that was damaged and that no checksum confirms (`distillgen terms` tells anew)"
    if public:
        verdict = require_public(version, accept)
        stance, purpose, conditions = verdict.stance, PURPOSE, [each.text for each in verdict.conditions]
    said = f"terms of {version.label}: {stance}" + (f" for the purpose {purpose}" if purpose else "")
    say(said, style="" if stance == "allowed" else "yellow")
    for condition in conditions:
        say(f"  condition: {condition}")


@guarded
@patient
def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="hf://OWNER/NAME[@v0003], s3://BUCKET/PATH, another fsspec URL, or a folder."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME[@V]",
            help="Which dataset of a store, and which version.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Pull a version from the Hub, a store or a folder.

    The Hub is that of Hugging Face. Seal, checksums, rows and digest are verified before it is published in datasets/.

    \b
    Examples:
      distillgen pull hf://me/demo
      distillgen pull hf://me/demo@v0003
      distillgen pull s3://bucket/datasets demo@3

    \b
    Exit status:
      0 pulled, or here already
      2 an extra is missing, its format is newer, or it holds erased rows
      4 no credentials, or refused   7 the place does not answer
      8 damaged there or on the way: nothing is kept
      10 nothing of that name there   11 a build is at work   12 disk full
    """
    from distillgen.errors import NotFound
    from distillgen.remote.pull import pull as bring
    from distillgen.report.console import say
    from distillgen.schemas import document

    if not project.is_dir():
        raise NotFound(f"no folder {str(project)!r}")
    pulled = bring(source, project / "datasets", name)
    version = pulled.version
    if as_json:
        told = {
            "version": version.label,
            "folder": str(version.folder),
            "digest": version.manifest.digest,
            "version_there": pulled.label_there,
            "was_here": pulled.was_here,
        }
        print(document("pull", told))
    elif pulled.was_here:
        say(f"this content is here already, as {version.label}: nothing to do", style="bold")
    else:
        say(f"{version.label} is here now, whole: {version.folder}", style="bold")
        if version.label != pulled.label_there:
            say(f"there it is {pulled.label_there}: that number has other content here", style="yellow")
