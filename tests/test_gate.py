"""The quality gate: nothing is published while it is closed, and what was made can be looked at."""

import orjson
import pytest
from conftest import Project
from loopback import Loopback, answer, reply

from distillgen.dataset.gate import what_is_missing
from distillgen.settings import GateSettings


def gate(project: Project, text: str) -> None:
    project.recipe.write_text(project.recipe.read_text() + f"gate = {{ {text} }}\n")


@pytest.mark.parametrize(
    ("settings", "short"),
    [
        ({"min_rows": 6}, ["5 rows, wants 6 (min_rows)"]),
        ({"min_rows": 5}, []),
        ({"max_rejected": 0.1}, ["30.0% of 10 rows were rejected, may be 10.0% (max_rejected)"]),
        ({"max_rejected": 0.3, "max_failed": 0.2}, []),
        ({"max_failed": 0.0}, ["20.0% of 10 rows were failed, may be 0.0% (max_failed)"]),
        ({"min_agreement": 0.9}, ["mean agreement 0.8, wants 0.9 (min_agreement)"]),
        ({"min_score": 3}, ["no published row has a figure for score (min_score)"]),
        ({"min_rows": 9, "max_failed": 0.1}, ["5 rows, wants 9 (min_rows)", "20.0% of 10 rows were failed, may be 10.0% (max_failed)"]),
        ({}, []),
    ],
)  # fmt: skip
def test_what_a_version_falls_short_of(settings: dict[str, float], short: list[str]) -> None:
    figures = {"rows": 5, "published": 5, "rejected": 3, "failed": 2, "agreement": 0.8, "score": None}
    assert what_is_missing(GateSettings(**settings), **figures) == short  # type: ignore[arg-type]


def test_a_closed_gate_publishes_nothing_and_keeps_the_rows_to_look_at(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: (
        reply("I'm sorry, but I can't help with that.") if "2" in body["messages"][-1]["content"] else answer(body)
    )
    gate(demo, "max_rejected = 0.01, min_rows = 3")
    done = demo.run("build")
    assert (
        done.returncode == 6 and "DG606 the quality gate is closed: " in done.stderr and "(max_rejected)" in done.stderr
    )
    assert not demo.version().exists() and not (demo.folder / "datasets/demo/latest").exists()
    assert f"distillgen show {demo.folder}/datasets/demo/refused --rejected" in done.stderr
    shown = demo.run("show", "./datasets/demo/refused", "--rejected", "--json")
    assert shown.returncode == 0 and orjson.loads(shown.stdout.splitlines()[0])["rule"] == "not_refusal"
    assert demo.run("log").returncode == 10  # nobody takes it for a version

    calls = len(loopback.bodies)
    demo.edit("max_rejected = 0.01", "max_rejected = 0.99")
    done = demo.run("build")
    assert done.returncode == 0 and len(loopback.bodies) == calls  # the answers were kept
    assert demo.version(1).exists() and not (demo.folder / "datasets/demo/refused").exists()


def test_what_is_put_aside_is_replaced_by_the_next(demo: Project) -> None:
    gate(demo, "min_rows = 1_000_000")
    assert demo.run("build", "--limit", "2").returncode == 6
    assert demo.run("build").returncode == 6
    assert orjson.loads((demo.folder / "datasets/demo/refused/manifest.json").read_bytes())["seeds"]["count"] > 2


def test_a_gate_that_cannot_be_is_said_with_its_line(demo: Project) -> None:
    gate(demo, "max_reject = 0.1")
    done = demo.run("build")
    assert (
        done.returncode == 2
        and "unknown key 'max_reject'" in done.stderr
        and "did you mean 'max_rejected'?" in done.stderr
    )
