"""The Python API: what is public, what it gives, and that it is what the commands give."""

import asyncio
import inspect
import subprocess
import sys

import orjson
import pytest
from conftest import Project, clean_environment
from loopback import Loopback
from published import odd_ones

import distillgen
from distillgen import Dataset, DistillgenError, build, load, plan

pytestmark = pytest.mark.filterwarnings("ignore:terms unknown")  # of the scripted teacher; one test is about it
SURFACE = {
    "build": "(recipe: str | pathlib._local.Path = 'recipe.toml', *, limit: int | None = None, offline: bool = False, "
    "budget: float | None = None, publish: bool = True, publish_partial: bool = False, "
    "overrides: collections.abc.Mapping[str, str] | None = None, state: str | pathlib._local.Path | None = None) "
    "-> distillgen.api.Built",
    "plan": "(recipe: str | pathlib._local.Path = 'recipe.toml', *, limit: int | None = None, budget: float | None = None, "
    "overrides: collections.abc.Mapping[str, str] | None = None, state: str | pathlib._local.Path | None = None) "
    "-> dict[str, typing.Any]",
    "load": "(name: str, project: str | pathlib._local.Path = '.') -> distillgen.api.Dataset",
}


@pytest.mark.parametrize("name", SURFACE)
def test_the_surface_is_pinned(name: str) -> None:
    said = str(inspect.signature(getattr(distillgen, name)))
    assert said.replace("pathlib.Path", "pathlib._local.Path") == SURFACE[name]


def test_what_is_public_is_listed() -> None:
    assert dir(distillgen) == ["Built", "Dataset", "DistillgenError", "__version__", "build", "load", "plan"]
    members = {name for name in vars(Dataset) if not name.startswith("_")} - {"version"}
    assert members == {
        "label", "digest", "folder", "splits", "manifest", "rows", "provenance", "rejected", "failed", "trace",
    }  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        distillgen.biuld  # noqa: B018


def test_importing_it_is_light() -> None:
    code = "import sys, distillgen; print(sorted({n.split('.')[0] for n in sys.modules} & {'typer', 'pydantic', 'numpy', 'httpx', 'rich'}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean_environment()
    )
    assert done.stdout == "[]\n"


def test_a_build_gives_the_dataset(demo: Project, loopback: Loopback) -> None:
    loopback.behave = odd_ones
    built = build(demo.recipe)
    assert built.is_new and built.dataset is not None
    assert (built.rejected, built.failed, built.ends, built.pending) == (2, 1, "", 0)
    assert built.calls == built.unpriced_calls == 19
    dataset = built.dataset
    assert dataset.label == "demo@1" and len(dataset) == 17 and sum(dataset.splits.values()) == 17
    assert list(dataset) == demo.rows() and list(dataset.provenance()) == demo.sidecar("provenance")
    assert list(dataset.rejected("length")) == demo.sidecar("rejected") and list(dataset.failed()) == demo.sidecar(
        "failed"
    )
    assert dataset.manifest == demo.manifest() and dataset.digest == demo.manifest()["digest"]
    assert "1.generate: main" in dataset.trace(next(iter(dataset))["id"])[0][1]


def test_a_second_build_changes_and_costs_nothing(demo: Project) -> None:
    first, second = build(demo.recipe), build(demo.recipe)
    assert not second.is_new and second.calls == 0
    assert first.dataset == second.dataset == load("demo", demo.folder)


def test_limits_overrides_and_state(demo: Project) -> None:
    built = build(demo.recipe, limit=5, overrides={"steps.0.samples": "2"}, state=demo.folder / "elsewhere")
    assert built.ends == "limit" and built.calls == 10
    assert (demo.folder / "elsewhere" / "answers.sqlite").exists() and not (demo.folder / ".distillgen").exists()
    assert build(demo.recipe, publish=False, limit=3).dataset is None


def test_a_plan_is_that_of_the_command(demo: Project) -> None:
    assert {"schema": "plan/1", **plan(demo.recipe)} == orjson.loads(demo.run("plan", "--json").stdout)
    assert plan(demo.recipe, limit=4)["seeds"] == 4


def test_it_works_where_a_loop_runs(demo: Project) -> None:
    async def notebook() -> int:
        return len(build(demo.recipe).dataset or ())

    assert asyncio.run(notebook()) == len(demo.rows())


@pytest.mark.filterwarnings("default")
def test_what_somebody_should_know_is_a_warning(demo: Project) -> None:
    with pytest.warns(UserWarning, match="terms unknown: unknown-model"):
        build(demo.recipe, limit=1)


def test_errors_are_those_of_the_command(demo: Project, loopback: Loopback) -> None:
    with pytest.raises(DistillgenError) as missing:
        load("dmeo", demo.folder)
    assert (missing.value.code, missing.value.exit_status) == ("DG605", 10)
    with pytest.raises(DistillgenError) as offline:
        build(demo.recipe, offline=True)
    assert offline.value.exit_status in (3, 6)
    with pytest.raises(DistillgenError) as unpriced:
        build(demo.recipe, budget=1)
    assert unpriced.value.exit_status == 2 and not (demo.folder / "datasets" / "demo" / "v0001").exists()
    with pytest.raises(DistillgenError):
        asyncio.run(_in_a_loop(demo))


async def _in_a_loop(demo: Project) -> None:
    build(demo.folder / "no.toml")
