"""The program: puts the commands together, and loads only the one that is called, so that every start is quick."""

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from distillgen import __version__
from distillgen.cli.helps import dress

COMMANDS = {
    "Make a dataset": {
        "init": "start.init",
        "plan": "plan.plan",
        "build": "build.build",
        "status": "status.status",
    },
    "Use it in a pipe": {
        "generate": "pipe.generate",
        "filter": "sieves.filter_",
        "deduplicate": "sieves.deduplicate",
        "decontaminate": "sieves.decontaminate",
    },
    "Look at datasets": {
        "log": "datasets.log",
        "show": "datasets.show",
        "stats": "datasets.stats",
        "diff": "datasets.diff",
        "trace": "datasets.trace",
        "report": "report.report",
    },
    "Use datasets": {
        "export": "export.export",
        "mix": "mix.mix",
        "student": "student.student",
        "push": "remote.push",
        "pull": "remote.pull",
    },
    "Keep datasets": {
        "check": "upkeep.check",
        "repair": "upkeep.repair",
        "gc": "space.gc",
        "forget": "forget.forget",
        "pin": "space.pin",
        "unpin": "space.unpin",
    },
    "Look things up": {
        "terms": "terms.terms",
        "explain": "reference.explain",
        "schema": "reference.schema",
        "doctor": "doctor.doctor",
        "prompts": "lookup.prompts",
        "teachers": "lookup.teachers",
    },
}  # panel -> command -> module and what it has there


def _version(wanted: bool) -> None:
    if wanted:
        print(f"distillgen {__version__}")
        raise typer.Exit


def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn seed prompts and a teacher model into versioned datasets for training a student model."""


def program_of(words: Sequence[str] = ()) -> typer.Typer:
    """Return the program: with the one command that the words begin with, or with all commands."""
    app = typer.Typer(
        name="distillgen",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="First dataset: distillgen init demo && cd demo && distillgen build",
    )
    app.callback()(program)
    known = {name for names in COMMANDS.values() for name in names}
    wanted = {*words[:1]} & known or (set() if list(words) == ["--version"] else known)
    for panel, names in COMMANDS.items():
        for name, place in names.items():
            if name in wanted:
                module, _, attribute = place.partition(".")
                command = getattr(importlib.import_module(f"distillgen.cli.{module}"), attribute)
                if isinstance(command, typer.Typer):
                    app.add_typer(command, name=name, rich_help_panel=panel)
                else:
                    app.command(name, rich_help_panel=panel)(command)
    return dress(app)


def main() -> None:
    """Run the program.

    Closed standard streams are opened on nothing, so that no file of ours gets their numbers. What the encoding of
    standard output cannot say stands there as an escape.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if _is_misplaced(sys.argv[1:2]):
        print(
            f"DG100 {sys.argv[1].partition('=')[0]} goes after the command\n      distillgen build --quiet",
            file=sys.stderr,
        )
        sys.exit(2)
    program_of(sys.argv[1:])(prog_name="distillgen")


def _is_misplaced(first: Sequence[str]) -> bool:
    """Whether the first word is one of the options that every command has, and the program itself has not."""
    return any(word.partition("=")[0] in ("-q", "--quiet", "--color", "--log-file", "--log-format") for word in first)


def __getattr__(name: str) -> typer.Typer:
    """Put the whole program together when somebody asks for `app`."""
    if name == "app":
        return program_of()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
