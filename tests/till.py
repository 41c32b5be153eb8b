"""Counts money as a provider would: what every answered request of a scripted teacher costs, and its worst case."""

import contextlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from conftest import RECIPE, Project
from loopback import Loopback, Say, answer
from typer.testing import CliRunner, Result

from distillgen.cli.main import app

INPUT, OUTPUT = Decimal(1000), Decimal(10_000)  # dollars per million tokens, so that a few answers cost a dollar
PRICES = "prices = { input = 1000, output = 10000 }"
ONE = Decimal("0.117")  # what the loopback's usual answer costs: 7 tokens in, 11 out
WORST = Decimal("1.4")  # a little more than one request of the recipe below may cost


class Till:
    """Wraps a teacher's behaviour; `billed` is what the provider would charge, cut-off replies included."""

    def __init__(self, loopback: Loopback) -> None:
        self._behave, loopback.behave = loopback.behave, self.behave
        self.billed, self.calls = Decimal(0), 0

    def behave(self, body: dict[str, Any]) -> Say:
        said = self._behave(body)
        if said.status == 200:
            self.calls += 1
            self.billed += cost(said)
        return said


def cost(said: Say) -> Decimal:
    """Return the price of a reply by the tokens that it states."""
    usage = json.loads(said.body)["usage"]
    return (usage["prompt_tokens"] * INPUT + usage["completion_tokens"] * OUTPUT).scaleb(-6)


def called(project: Project, *arguments: str) -> Result:
    """Run a command that sends nothing in this very process, which takes a tenth of the time."""
    with contextlib.chdir(project.folder):
        return CliRunner().invoke(app, arguments, catch_exceptions=False, prog_name="distillgen")


def late(body: dict[str, Any], seconds: float) -> Say:
    """Return the usual answer after a while."""
    return Say(body=answer(body).body, wait=seconds)


def number_of(body: dict[str, Any]) -> int:
    """Return which of the seeds `What is number 7?` a request is for."""
    return int(body["messages"][-1]["content"].split()[-1].rstrip("?"))


def priced(project: Project, loopback: Loopback, seeds: int, more: str = "") -> Project:
    """Fill a project with questions, a priced teacher, and more lines at the end of the recipe's [dataset]."""
    text = RECIPE.format(url=loopback.url).replace("sampling =", f"{PRICES}\nsampling =")
    project.write("recipe.toml", text + more)
    project.seeds([{"question": f"What is number {n}?"} for n in range(seeds)])
    return project


def another(folder: Path, loopback: Loopback, seeds: int, more: str = "") -> Project:
    """Return a project of the same recipe and seeds in a folder of its own."""
    folder.mkdir()
    return priced(Project(folder), loopback, seeds, more)
