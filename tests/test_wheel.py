"""The wheel, in a new environment outside the checkout: it installs, and `init` and `build` work there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, clean_environment

LICENCES = (
    "README.md", "gsm8k_test.LICENSE", "gsm8k_train.LICENSE", "self_instruct.LICENSE", "sentences.LICENSE"
)  # fmt: skip
pytestmark = [pytest.mark.embedded, pytest.mark.xdist_group("embedded")]


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    environment = {**clean_environment(), **passed, "PYTHONWARNINGS": "default", **environment}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def test_the_wheel_builds_a_dataset_outside_the_checkout(tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(REPOSITORY), cwd=tmp_path
    )
    [wheel] = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "distillgen/library/prompts/explain.toml" in names
    recipes = REPOSITORY / "recipes"
    shipped = {
        f"distillgen/library/recipes/{path.relative_to(recipes)}" for path in recipes.rglob("*") if path.is_file()
    }
    assert shipped <= set(names), "every recipe and its seeds"
    assert {f"distillgen/library/recipes/seeds/{name}" for name in LICENCES} <= set(names)
    assert not [name for name in names if name.endswith((".gguf", ".pyc")) or name.startswith(("tests", "bench"))]
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"), cwd=tmp_path)
    python = str(tmp_path / "venv/bin/python")
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[embedded]", cwd=tmp_path)
    distillgen = str(tmp_path / "venv/bin/distillgen")
    home = tmp_path / "project"
    run(distillgen, "init", str(home), "--model", "smollm2-135m", cwd=tmp_path)
    assert "explain" in run(distillgen, "prompts", cwd=home).stdout
    done = run(
        distillgen,
        "build",
        "--limit",
        "3",
        "--set",
        "steps=[{use='generate',prompt='explain',read={topic='question'},checks=false}]",
        cwd=home,
    )
    assert "published quickstart@1 (partial: --limit): 3 rows" in done.stderr
    assert run(distillgen, "export", "quickstart", cwd=home).stdout.count("\n") == 3
    reasoning = tmp_path / "reasoning"
    run(distillgen, "init", str(reasoning), "--recipe", "reasoning", cwd=tmp_path)
    assert {path.name for path in (reasoning / "seeds").iterdir()} == {
        "gsm8k_test.LICENSE", "gsm8k_test.jsonl", "gsm8k_train.LICENSE", "gsm8k_train.jsonl",
    }  # fmt: skip
    assert "2.generate 0 answers stored, 800 calls" in run(distillgen, "plan", cwd=reasoning).stdout
