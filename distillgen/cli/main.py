"""The program: puts the commands together. Nothing heavy is imported here, so that --help is quick."""

import os
import sys
from typing import Annotated

import typer

from distillgen import __version__
from distillgen.cli import (
    build,
    datasets,
    doctor,
    export,
    forget,
    lookup,
    mix,
    pipe,
    reference,
    remote,
    report,
    sieves,
    space,
    start,
    status,
    terms,
    upkeep,
)

app = typer.Typer(
    name="distillgen",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First dataset: distillgen init demo && cd demo && distillgen build",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"distillgen {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn seed prompts and a teacher model into versioned datasets for training a student model."""


app.command("init", rich_help_panel="Make a dataset")(start.init)
app.command("plan", rich_help_panel="Make a dataset")(build.plan)
app.command("build", rich_help_panel="Make a dataset")(build.build)
app.command("status", rich_help_panel="Make a dataset")(status.status)
app.command("generate", rich_help_panel="Use it in a pipe")(pipe.generate)
app.command("filter", rich_help_panel="Use it in a pipe")(sieves.filter_)
app.command("deduplicate", rich_help_panel="Use it in a pipe")(sieves.deduplicate)
app.command("decontaminate", rich_help_panel="Use it in a pipe")(sieves.decontaminate)
app.command("log", rich_help_panel="Look at datasets")(datasets.log)
app.command("show", rich_help_panel="Look at datasets")(datasets.show)
app.command("stats", rich_help_panel="Look at datasets")(datasets.stats)
app.command("diff", rich_help_panel="Look at datasets")(datasets.diff)
app.command("trace", rich_help_panel="Look at datasets")(datasets.trace)
app.command("report", rich_help_panel="Look at datasets")(report.report)
app.command("export", rich_help_panel="Use datasets")(export.export)
app.command("mix", rich_help_panel="Use datasets")(mix.mix)
app.command("push", rich_help_panel="Use datasets")(remote.push)
app.command("pull", rich_help_panel="Use datasets")(remote.pull)
app.command("check", rich_help_panel="Keep datasets")(upkeep.check)
app.command("repair", rich_help_panel="Keep datasets")(upkeep.repair)
app.command("gc", rich_help_panel="Keep datasets")(space.gc)
app.command("forget", rich_help_panel="Keep datasets")(forget.forget)
app.command("pin", rich_help_panel="Keep datasets")(space.pin)
app.command("unpin", rich_help_panel="Keep datasets")(space.unpin)
app.add_typer(lookup.prompts, name="prompts", rich_help_panel="Look things up")
app.add_typer(lookup.teachers, name="teachers", rich_help_panel="Look things up")
app.command("terms", rich_help_panel="Look things up")(terms.terms)
app.command("explain", rich_help_panel="Look things up")(reference.explain)
app.command("schema", rich_help_panel="Look things up")(reference.schema)
app.command("doctor", rich_help_panel="Look things up")(doctor.doctor)


def main() -> None:
    """Run the program. Closed standard streams are opened on nothing, so that no file of ours gets their numbers."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123
    app(prog_name="distillgen")
