"""What shells offer at TAB: commands, options and names; through the real program, and in real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RECIPE, Project, clean_environment

from distillgen.cli import completion

PROGRAM = Path(sys.executable).parent / "distillgen"
CASES = [
    (["bui"], {"build"}),
    (["build", "--lim"], {"--limit"}),
    (["show", "de"], {"demo"}),
    (["show", "demo", "--split", ""], {"train", "validation"}),
    (["show", "demo", "--rule", "not_em"], {"not_empty"}),
    (["export", "demo", "--format", "me"], {"messages"}),
    (["prompts", "show", "expl"], {"explain"}),
    (["prompts", "show", "own_"], {"own_one"}),
    (["generate", "-p", "expl"], {"explain"}),
    (["generate", "-m", "embedded/smo"], {"embedded/smollm2-135m"}),
    (["filter", "-r", "length"], {"length"}),
    (["filter", "--preset", "cha"], {"chat"}),
    (["teachers", "install", "smo"], {"smollm2-135m"}),
    (["teachers", "check", "mai"], {"main"}),
    (["init", "--recipe", "quick"], {"quickstart"}),
    (["explain", "DG100"], {"DG100"}),
    (["mix", "all", "de"], {"demo"}),
    (["show", "nothing-of-this-name"], set()),
]


@pytest.fixture
def published(project: Project) -> Project:
    """A project with a dataset's folders and a prompt of its own; completion looks at names alone."""
    for name in ("demo/v0001", "demo/v0002", "dolly/v0001", "unfinished"):
        (project.folder / "datasets" / name / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        (project.folder / "datasets/demo/v0002/data" / f"{split}-00000-of-00001.jsonl").touch()
    project.write("recipe.toml", RECIPE.format(url="http://127.0.0.1:9"))
    (project.folder / "prompts").mkdir(exist_ok=True)
    (project.folder / "prompts" / "own_one.toml").write_text("not even a prompt", encoding="utf-8")
    return project


def offered(words: list[str], folder: Path, **environment: str) -> tuple[set[str], str]:
    """Return what bash would be offered for the last of the words, and what was printed besides."""
    asked = {
        "_DISTILLGEN_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["distillgen", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [PROGRAM], capture_output=True, text=True, cwd=folder, env=clean_environment() | asked | environment
    )
    return set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(("words", "wanted"), CASES, ids=lambda value: " ".join(sorted(value)) or "nothing")
def test_words_are_completed(words: list[str], wanted: set[str], published: Project) -> None:
    assert offered(words, published.folder) == (wanted, "")


def test_a_name_that_cannot_be_found_out_is_no_error(tmp_path: Path) -> None:
    assert offered(["show", ""], tmp_path) == (set(), "")
    (tmp_path / "datasets").write_text("a file where a folder should be", encoding="utf-8")
    (tmp_path / "recipe.toml").write_text("[teachers", encoding="utf-8")
    assert offered(["show", ""], tmp_path) == (set(), "")
    names, said = offered(["teachers", "check", "embedded/"], tmp_path)
    assert "embedded/smollm2-135m" in names and said == ""


def test_names_that_would_act_on_a_terminal_are_not_offered(published: Project) -> None:
    (published.folder / "datasets" / "de\x1b[31m" / "v0001").mkdir(parents=True)
    assert offered(["show", "de"], published.folder) == ({"demo"}, "")


def test_the_names_that_are_known_beforehand_are_those_there_are() -> None:
    from distillgen.steps.rules import PRESETS, RULES
    from distillgen.teacher.terms import COMPETING, PURPOSES

    assert tuple(RULES) == completion.RULES
    assert set(completion.PRESETS) == set(PRESETS)
    assert set(completion.PURPOSES) == set(PURPOSES)
    assert set(completion.COMPETING) == set(COMPETING)


SCRIPTS = {
    "bash": """
        source <(distillgen --show-completion)
        COMP_WORDS=(distillgen show de) COMP_CWORD=2
        _distillgen_completion distillgen
        echo "${COMPREPLY[@]}"
    """,
    "zsh": """
        eval "$(distillgen --show-completion)" 2> /dev/null
        functions _distillgen_completion > /dev/null && echo "defined"
        _TYPER_COMPLETE_ARGS="distillgen show de" _DISTILLGEN_COMPLETE=complete_zsh distillgen; true
    """,
    "fish": """
        distillgen --show-completion | source
        complete -C "distillgen show de"
    """,
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_in_a_real_shell(shell: str, published: Project) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not here")
    environment = clean_environment() | {
        "HOME": str(published.folder),
        "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}",
    }
    options = ["--norc"] if shell == "bash" else ["-f"] if shell == "zsh" else ["--no-config"]
    script = published.folder / "try.sh"
    script.write_text(SCRIPTS[shell], encoding="utf-8")
    done = subprocess.run(
        [path, *options, str(script)], capture_output=True, text=True, cwd=published.folder, env=environment
    )
    assert "demo" in done.stdout and "dolly" not in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("shell", SCRIPTS)
def test_installed_where_the_shell_looks(shell: str, tmp_path: Path) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not here")
    environment = clean_environment() | {"HOME": str(tmp_path), "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    environment.pop("XDG_CONFIG_HOME", None)
    done = subprocess.run(
        [path, "-c", "distillgen --install-completion; true"], capture_output=True, text=True, cwd=tmp_path,
        env=environment,
    )  # fmt: skip
    places = {
        "bash": ".bash_completions/distillgen.sh",
        "zsh": ".zfunc/_distillgen",
        "fish": ".config/fish/completions/distillgen.fish",
    }
    assert (tmp_path / places[shell]).is_file(), done.stdout + done.stderr
