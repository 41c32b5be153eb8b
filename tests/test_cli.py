"""The command line as people and pipes meet it: init, plan, show, export, status; odd surroundings; hostile text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RECIPE, Project, clean_environment
from loopback import Loopback, reply, words


def test_plan_sends_nothing_and_leaves_no_trace(demo: Project, loopback: Loopback) -> None:
    done = demo.run("plan")
    assert done.returncode == 0 and loopback.seen == 0
    assert "seeds    20" in done.stdout and "0 answers stored, 20 calls" in done.stdout
    assert "user: What is number 0?" in done.stdout
    assert {path.name for path in demo.folder.iterdir()} == {"recipe.toml", "seeds.jsonl"}
    demo.build("--limit", "5")
    plan = json.loads(demo.run("plan", "--json").stdout)
    assert plan["steps"][0] == {
        "step": "1.generate",
        "rows": 20,
        "calls": 15,
        "stored": 5,
        "more": None,
        "rounds": None,
    }
    assert plan["prompts"][0]["messages"][-1]["content"] == "What is number 0?"


def test_show_and_log_and_status(demo: Project) -> None:
    assert demo.run("show", "demo").returncode == 10
    assert demo.run("log").returncode == 10
    assert "none published yet" in demo.run("status").stdout
    demo.build()
    assert "user: What is number" in demo.run("show", "demo", "-n", "2").stdout
    assert len(demo.run("show", "demo", "-n", "2", "--json").stdout.splitlines()) == 2
    assert demo.run("show", "demo@1", "--split", "train").returncode == 0
    assert demo.run("show", str(demo.version())).returncode == 0
    for name in ("demo@7", "nothing", "demo@x"):
        done = demo.run("show", name)
        assert done.returncode == 10 and done.stdout == "" and "DG605" in done.stderr
    assert "did you mean 'validation'?" in demo.run("show", "demo", "--split", "validaton").stderr
    assert demo.run("show", "../demo").returncode == 2
    assert json.loads(demo.run("log", "--json").stdout)["versions"][0]["rows"] == 20
    status = json.loads(demo.run("status", "--json").stdout)
    assert status["at_work"] is None and status["stored_answers"] == 20 and status["datasets"]["demo"]["number"] == 1


def test_export_to_a_pipe_and_to_a_folder(demo: Project) -> None:
    demo.build()
    lines = [json.loads(line) for line in demo.run("export", "demo").stdout.splitlines()]
    assert len(lines) == 20 and lines[0].keys() == {"messages"}
    done = demo.run("export", "demo", "--format", "prompt-completion", "-o", "out")
    assert done.returncode == 0 and done.stdout == ""
    rows = [
        json.loads(line)
        for name in ("train", "validation")
        for line in (demo.folder / f"out/{name}.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 20 and all(
        isinstance(row["prompt"], str) and row.keys() == {"prompt", "completion"} for row in rows
    )
    assert {path.name for path in (demo.folder / "out").iterdir()} == {"train.jsonl", "validation.jsonl"}
    demo.edit('prompt = "{{ question }}"', 'system = "S"\nprompt = "{{ question }}"')
    demo.build()
    conversational = json.loads(demo.run("export", "demo", "--format", "prompt-completion").stdout.splitlines()[0])
    assert [turn["role"] for turn in conversational["prompt"]] == ["system", "user"]
    assert conversational["completion"][0]["role"] == "assistant"


def test_a_closed_pipe_is_no_error(demo: Project) -> None:
    demo.build()
    file = demo.version() / "data/train-00000-of-00001.jsonl"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() * 3000)
    shell = f"{sys.executable} -m distillgen export demo | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=demo.folder, env=clean_environment(), capture_output=True, text=True, check=True
    )
    first, status = done.stdout.splitlines()
    assert json.loads(first)["messages"] and status == "141" and done.stderr == ""


@pytest.mark.parametrize("command", ["show demo -n 9999", "show demo -n 9999 --json", "diff demo demo", "stats demo"])
def test_a_table_that_nobody_reads_is_no_error(demo: Project, command: str) -> None:
    """Tables are written by rich, whose own answer to a closed pipe is exit 1."""
    demo.build()
    shell = f"exec 3>&1; {{ {sys.executable} -m distillgen {command}; echo $? >&3; }} | sleep 0"
    done = subprocess.run(
        ["bash", "-c", f"trap '' PIPE; {shell}"], cwd=demo.folder, env=clean_environment(), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "141", done.stderr
    assert "DG000" not in done.stderr and "Traceback" not in done.stderr


def test_the_version_opens_with_datasets_as_it_is(
    demo: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    demo.edit('completion = "{{ answer }}"', 'completion = "{{ answer }}"\nreasoning = "{{ reasoning }}"')
    demo.build()
    code = (
        "import datasets, json, sys\n"
        f"d = datasets.load_dataset({str(demo.version())!r}, cache_dir={str(tmp_path / 'cache')!r})\n"
        "print(json.dumps({'rows': {k: len(v) for k, v in d.items()}, 'features': {k: str(v) for k, v in d['train'].features.items()}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == demo.manifest()["splits"]
    assert found["features"]["id"] == "Value('string')" and found["features"]["reasoning"] == "Value('string')"
    assert "'role': Value('string')" in found["features"]["messages"]


HOSTILE = "\x1b[2J\x1b]52;c;ZXZpbA==\x07 \x9b31m \u202eevil [/red][bold]x <script> --- \x00 " + words("h")


def test_model_text_does_nothing_to_a_terminal(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(f"{HOSTILE} {body['messages'][-1]['content']} {loopback.seen}")
    demo.seeds([{"question": f"{HOSTILE} {n}"} for n in range(4)])
    demo.edit('\n[[steps]]\nuse = "deduplicate"\non = "answer"\nnear = 0.8\n', "")
    runs = [
        demo.run("plan"),
        demo.build(),
        demo.run("show", "demo"),
        demo.run("show", "demo", "--rejected"),
        demo.run("log"),
    ]
    for done in runs:
        printed = done.stdout + done.stderr
        assert not set(printed) & {"\x1b", "\x07", "\x9b", "\u202e", "\x00"}, done.args
    assert "\\x1b[2J" in runs[2].stdout and "[/red][bold]x" in runs[2].stdout
    row = demo.rows()[0]
    assert HOSTILE.strip() in row["messages"][1]["content"]
    card = (demo.version() / "README.md").read_text()
    assert card.startswith("---\nconfigs: ") and card.count("\n---\n") == 1


def test_init_writes_a_project_that_can_be_planned(project: Project) -> None:
    done = project.run("init", "demo")
    assert done.returncode == 0 and "next: cd demo" in done.stderr
    plan = project.run("plan", "demo")
    assert plan.returncode == 0 and "seeds    16" in plan.stdout
    (project.folder / "odd").mkdir()
    (project.folder / "odd" / "seeds").write_text("a file where the folder should be")
    assert project.run("init", "odd").returncode != 0 and not (project.folder / "odd" / "recipe.toml").exists()
    (project.folder / "odd" / "seeds").unlink()
    assert project.run("init", "odd").returncode == 0, "half a project is no reason to refuse the whole"
    again = project.run("init", "demo")
    assert again.returncode == 2 and "there is a recipe already" in again.stderr
    assert project.run("init", "other", "--model", "smollm2-135m").returncode == 0
    assert 'model = "smollm2-135m"' in (project.folder / "other/recipe.toml").read_text()
    assert "did you mean 'quickstart'?" in project.run("init", "third", "--recipe", "quikstart").stderr
    assert "did you mean 'smollm2-135m'?" in project.run("init", "third", "--model", "smollm").stderr


@pytest.mark.parametrize(
    "arguments",
    [["biuld"], ["build", "--limti", "3"], ["build", "--limit", "0"], ["export", "x", "--format", "y"]],
    ids=" ".join,
)
def test_wrong_usage_exits_2_with_one_message(project: Project, arguments: list[str]) -> None:
    done = project.run(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == ""


def test_cron_has_no_home_no_terminal_and_a_small_path(demo: Project, tmp_path: Path) -> None:
    bare = {"PATH": "/usr/bin:/bin", "LANG": "C"}
    done = subprocess.run(
        [sys.executable, "-m", "distillgen", "build", str(demo.recipe)],
        cwd="/",
        env=bare,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr and "\x1b" not in done.stderr
    assert demo.manifest()["rows"] == 20


def test_closed_output_is_tolerated(demo: Project) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m distillgen build >&- 2>&-"],
        cwd=demo.folder,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 0 and demo.manifest()["rows"] == 20


def test_read_only_project(project: Project, loopback: Loopback) -> None:
    project.write("recipe.toml", RECIPE.format(url=loopback.url))
    project.seeds([{"question": "a?"}])
    (project.folder / ".distillgen").write_text("in the way")
    done = project.run("build")
    assert done.returncode == 2 and "DG702 cannot write" in done.stderr and loopback.seen == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount namespace of its own")
def test_a_full_disk_keeps_what_was_decided(demo: Project, loopback: Loopback) -> None:
    """A tiny file system below the project: the store fills it, the run stops with 12, and goes on with more room."""
    (demo.folder / ".distillgen").mkdir()
    loopback.behave = lambda body: reply("long " * 3000 + body["messages"][-1]["content"])
    demo.edit("sampling =", "limits = { max_in_flight = 2 }\nsampling =")
    demo.edit('\n[[steps]]\nuse = "deduplicate"\non = "answer"\nnear = 0.8\n', "")
    script = (
        "mount -t tmpfs -o size=200k none .distillgen || exit 77\n"
        f'{sys.executable} -m distillgen build; echo "status $?"\n'
        "mount -o remount,size=20m .distillgen\n"
        f'{sys.executable} -m distillgen build; echo "status $?"\n'
    )
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script],
        cwd=demo.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount namespace here")
    assert done.stdout.split("\n")[:2] == ["status 12", "status 0"], done.stderr
    assert "DG703" in done.stderr and "Traceback" not in done.stderr
    assert demo.manifest()["rows"] == 20 and loopback.seen <= 20 + 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    "command", ["log --json", "log", "stats demo", "show demo", "status --json", "diff demo@1 demo@1"]
)
def test_a_full_standard_output_is_a_full_disk(demo: Project, command: str) -> None:
    demo.build()
    done = subprocess.run(
        f"{sys.executable} -m distillgen {command} > /dev/full",
        shell=True, cwd=demo.folder, env=clean_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 12 and done.stderr.startswith("DG703 no room to write to standard output")
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
