"""Fixtures: a scripted teacher on loopback, a temporary project, and the real command line in a clean environment."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import orjson
import pytest
from batch_server import BatchServer
from loopback import Loopback

from distillgen.files import read_jsonl

hypothesis.settings.register_profile("steady", deadline=None)  # timings belong into bench/
hypothesis.settings.load_profile("steady")
REPOSITORY = Path(__file__).resolve().parent.parent
KEPT = ("PATH", "LANG", "SSL_CERT_FILE", "PIP_CERT", "DISTILLGEN_CACHE", "XDG_CACHE_HOME", "HOME", "VIRTUAL_ENV")

RECIPE = """
name = "demo"
description = "A test"

[seeds]
path = "seeds.jsonl"

[teachers.main]
base_url = "{url}"
model = "scripted"
sampling = {{ max_tokens = 100 }}

[[steps]]
use = "generate"
prompt = "answer"

[[steps]]
use = "filter"
rules = ["not_empty", "not_truncated", "not_refusal", {{ rule = "length", min_words = 5 }}]

[[steps]]
use = "deduplicate"
on = "answer"
near = 0.8

[student]
prompt = "{{{{ question }}}}"
completion = "{{{{ answer }}}}"

[dataset]
splits = {{ train = 0.8, validation = 0.2 }}
"""


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    server = Loopback()
    yield server
    server.close()


@pytest.fixture
def provider() -> Iterator[BatchServer]:
    """A scripted provider of batches."""
    server = BatchServer()
    yield server
    server.close()


class Project:
    """A folder with a recipe, and the command line run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.toml"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def seeds(self, rows: list[dict[str, Any]], name: str = "seeds.jsonl") -> Path:
        return self.write(name, "".join(orjson.dumps(row).decode() + "\n" for row in rows))

    def edit(self, old: str, new: str) -> None:
        text = self.recipe.read_text()
        assert old in text
        self.recipe.write_text(text.replace(old, new))

    def run(self, *arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "distillgen", *arguments],
            cwd=self.folder,
            env=clean_environment(**environment),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "distillgen", *arguments],
            cwd=self.folder,
            env=clean_environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def build(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Build and insist on success."""
        done = self.run("build", *arguments)
        assert done.returncode == 0, done.stderr
        return done

    def version(self, number: int = 1, name: str = "demo") -> Path:
        return self.folder / "datasets" / name / f"v{number:04d}"

    def manifest(self, number: int = 1, name: str = "demo") -> dict[str, Any]:
        return orjson.loads((self.version(number, name) / "manifest.json").read_bytes())

    def rows(self, number: int = 1, name: str = "demo") -> list[dict[str, Any]]:
        return [row for file in sorted((self.version(number, name) / "data").iterdir()) for row in read_jsonl(file)]

    def sidecar(self, kind: str, number: int = 1, name: str = "demo") -> list[dict[str, Any]]:
        return list(read_jsonl(self.version(number, name) / f"{kind}.jsonl.zst"))


def clean_environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    state = (
        tempfile.gettempdir() + f"/distillgen-tests-{os.getpid()}"
    )  # never the limits of the person who runs the tests
    return {**kept, "PYTHONWARNINGS": "error", "NO_COLOR": "1", "COLUMNS": "120", "XDG_STATE_HOME": state, **more}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def demo(project: Project, loopback: Loopback) -> Project:
    """A project of twenty questions, answered by the scripted teacher."""
    project.write("recipe.toml", RECIPE.format(url=loopback.url))
    project.seeds([{"question": f"What is number {n}?"} for n in range(20)])
    return project


@pytest.fixture
def recipe_file(project: Project) -> Callable[[str], Path]:
    """Write a recipe and return its path."""
    return lambda text: project.write("recipe.toml", text)
