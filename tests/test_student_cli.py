"""`student train` and `student evaluate` where the extra is not installed: terms, names, and what is said instead."""

import importlib.util
import logging
from pathlib import Path

import pytest
from conftest import Project
from loopback import Loopback
from test_terms_build import OPENAI, of_openai

from distillgen.student import PACKAGES
from distillgen.student.progress import shown

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is not None, reason="the extra is installed: tests/student tests the rest"
)
TRAIN = ("student", "train", "demo", "--base", "smollm2-135m", "--out", "model")


@pytest.fixture
def of_an_owner(demo: Project, loopback: Loopback) -> Project:
    """A version by a teacher whose terms forbid competing models; its owner does not compete."""
    of_openai(demo, 'purpose = "internal"\ncompeting = "no"')
    done = demo.run("build", OPENAI_API_KEY="sk-test")
    assert done.returncode == 0, done.stderr
    return demo


def test_without_the_extra_the_install_line_is_said(demo: Project) -> None:
    demo.build()
    done = demo.run(*TRAIN)
    assert done.returncode == 2 and "DG501" in done.stderr and "pip install 'distillgen[student]'" in done.stderr
    assert "torch" in PACKAGES and not (demo.folder / "model").exists()


def test_a_dataset_that_is_not_there(demo: Project) -> None:
    done = demo.run(*TRAIN)
    assert done.returncode == 10 and "Traceback" not in done.stderr


def test_terms_that_forbid_it_stop_the_training_before_anything_else(of_an_owner: Project) -> None:
    done = of_an_owner.run(*TRAIN, "--competing", "yes")
    assert done.returncode == 9 and "terms are prohibited" in done.stderr and f"--accept {OPENAI}" in done.stderr
    assert f"distillgen terms {OPENAI}" in done.stderr and "leave that version out" not in done.stderr
    accepted = of_an_owner.run(*TRAIN, "--competing", "yes", "--accept", OPENAI)
    assert accepted.returncode == 2 and "DG501" in accepted.stderr, "the terms let it pass, the extra is missing"


def test_terms_on_record_are_enough_where_the_owner_says_nothing_new(of_an_owner: Project) -> None:
    assert of_an_owner.run(*TRAIN).returncode == 2


def test_terms_that_were_altered_are_not_believed(of_an_owner: Project) -> None:
    path = of_an_owner.version() / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"competing": "no"', b'"competing": "unknown"'))
    assert path.read_bytes() != content
    done = of_an_owner.run(*TRAIN)
    assert done.returncode == 8 and "its seal does not hold" in done.stderr


def test_an_acceptance_that_no_entry_has_is_a_mistake(of_an_owner: Project) -> None:
    done = of_an_owner.run(*TRAIN, "--accept", "openai-servces-agreement")
    assert done.returncode == 2 and OPENAI in done.stderr and "DG501" not in done.stderr


@pytest.mark.parametrize(
    ("more", "told"),
    [(("--set", "epoch=3"), "did you mean 'epochs'?"), (("--settings", "absent.toml"), "cannot read the settings")],
    ids=["key", "file"],
)
def test_a_wrong_setting_is_told_before_anything_slow(demo: Project, more: tuple[str, ...], told: str) -> None:
    demo.build()
    done = demo.run(*TRAIN, *more)
    assert done.returncode == 2 and told in done.stderr and "DG501" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [("check", "A" * 300), ("evaluate", "--student", "A" * 300, "--on", "x"),
     ("train", "demo", "--base", "x", "--out", "y", "--project", "A" * 300)],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_name_that_no_file_can_have(demo: Project, words: tuple[str, ...]) -> None:
    done = demo.run("student", *words)
    assert done.returncode == 2 and "File name too long" in done.stderr and "bug" not in done.stderr


def test_a_number_beyond_all_bounds(demo: Project) -> None:
    demo.build()
    done = demo.run(*TRAIN, "--set", "rows=99999999999999999999999")
    assert done.returncode == 2 and "'rows' is 99999999999999999999999" in done.stderr


def test_rows_that_were_left_out_are_told(caplog: pytest.LogCaptureFixture) -> None:
    none = {"special": 0, "long": 0, "dropped": 0, "truncated": 0, "without_answer": 0}
    long = {"special": 3, "long": 1002, "dropped": 0, "truncated": 1000, "without_answer": 2}
    with caplog.at_level(logging.INFO, "distillgen"), shown() as show:
        show({"event": "rows", "train": none, "validation": none, "max_tokens": 2048})
        assert caplog.text == ""
        show({"event": "rows", "train": long, "validation": None, "max_tokens": 2048})
    assert "1,002 rows to train on longer than 2,048 tokens: 2 left out, 1,000 cut off" in caplog.text
    assert "the last weights are kept" in caplog.text
    assert "3 rows to train on hold a special token of the base" in caplog.text


def test_a_folder_that_holds_no_student(demo: Project, tmp_path: Path) -> None:
    done = demo.run("student", "evaluate", "--student", str(tmp_path), "--on", "gold.jsonl")
    assert done.returncode == 2 and str(tmp_path) in done.stderr and "Traceback" not in done.stderr
