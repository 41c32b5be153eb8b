"""Publishing is all or nothing, whatever kills it, and a version is found by any name that means it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from conftest import REPOSITORY, Project, clean_environment
from loopback import Loopback
from test_looking import odd_ones


def test_a_build_that_is_killed_leaves_the_version_before_or_the_one_after() -> None:
    """The same as the 200 kills of bench/kills.py, with fewer: a reader of `latest` never sees half a version."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "bench/kills.py"), "--kills", "25", "--rows", "1000"],
        capture_output=True, text=True, timeout=300, check=False, env=clean_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] == 25 and told["looks"] >= 20
    assert told["wrong"] == {} and told["findings"] == 0
    assert told["leftovers"] == 0 and told["latest"] and told["versions"] >= 3


WRONG_NAMES = [
    ("demo@2", 10, "there are 1"),
    *((f"demo@{wrong}", 10, "has no version") for wrong in ("\u00b2", "\u0661", "vv1", "+1", "-1", "1.0", "9" * 300)),
    *(
        (wrong, 2, "cannot be a file name")
        for wrong in ("d" * 300, "d" * 5000, "../demo", "/nowhere", "", "\u0434\u0430")
    ),
    ("/etc", 10, "no version in this folder"),
    ("demos", 10, "did you mean 'demo'?"),
]


def test_a_name_that_means_no_version_is_told_so(demo: Project) -> None:
    demo.build()
    for name, code, said in WRONG_NAMES:
        for command in ("show", "check") if len(name) > 200 else ("show",):
            done = demo.run(command, "--", name)
            assert (done.returncode, done.stdout) == (code, ""), (name, done.stderr)
            assert said in done.stderr and len(done.stderr) < 400, (name, done.stderr)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"nothing", b"../../v0001", b"v0009\n"])
def test_where_latest_names_no_version_the_newest_is_meant(demo: Project, content: bytes) -> None:
    demo.build()
    link = demo.folder / "datasets/demo/latest"
    link.unlink()
    link.write_bytes(content)
    done = demo.run("show", "demo", "-n", "1")
    assert done.returncode == 0 and "What is" in done.stdout, done.stderr
    assert demo.run("check", "demo").returncode == 8
    demo.build()
    assert demo.run("check", "demo").returncode == 0, "the next build names the newest"


@pytest.mark.parametrize("name", ["provenance.jsonl.zst", "rejected.jsonl.zst", "data/train-00000-of-00001.jsonl"])
@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "absent"])
def test_a_damaged_file_is_told_as_such(demo: Project, loopback: Loopback, name: str, kind: str) -> None:
    """Whatever reads it: a file that was cut off must not pass for a short one."""
    loopback.behave = odd_ones
    demo.build()
    path = demo.version() / name
    content = path.read_bytes()
    path.chmod(0o644)
    middle = len(content) // 2
    changed = {"cut": content[:middle], "flipped": content[:middle] + b"\xff\x00" + content[middle + 2 :], "empty": b""}
    path.unlink() if kind == "absent" else path.write_bytes(changed[kind])
    command = {
        "p": ["stats", "demo"],
        "r": ["show", "demo", "--rejected", "-n", "99"],
        "d": ["show", "demo", "-n", "99"],
    }
    done = demo.run(*command[name[0]])
    if kind == "empty" and name.startswith("data"):
        return  # as many rows as it says; `check` tells
    assert done.returncode == 8 and path.name in done.stderr, done.stderr
    if name[0] != "r":
        demo.edit("[dataset]", "[dataset]\nappend = true")
        demo.seeds([{"question": f"What is number {n}?"} for n in range(21)])
        done = demo.run("build")
        assert done.returncode == 8 and path.name in done.stderr, done.stderr
        assert not (demo.folder / "datasets/demo/v0002").exists()


def _half_copied(project: Project) -> None:
    (project.version(2) / "data").mkdir(parents=True)


def _copied_under_another_number(project: Project) -> None:
    shutil.copytree(project.version(1), project.version(2))


def _without_its_last_file(project: Project) -> None:
    shutil.copytree(project.version(1), project.version(2))
    path = project.version(2) / "manifest.json"
    table = orjson.loads(path.read_bytes())
    del table["seal"]
    path.chmod(0o644)
    path.write_bytes(orjson.dumps({**table, "version": 2}))
    (project.version(2) / "provenance.jsonl.zst").unlink()


@pytest.mark.parametrize("put", [_half_copied, _copied_under_another_number, _without_its_last_file])
def test_a_folder_that_is_no_whole_version_is_never_named_latest(put: Callable[[Project], None], demo: Project) -> None:
    demo.build()
    put(demo)
    done = demo.build("--offline")
    assert "nothing changed: demo@1" in done.stderr
    assert (demo.version().parent / "latest").readlink() == Path("v0001")
    demo.edit("min_words = 5", "min_words = 4")
    demo.edit('completion = "{{ answer }}"', 'completion = "{{ answer }}!"')
    assert "published demo@3" in demo.build().stderr
    assert demo.run("status").returncode == 0
