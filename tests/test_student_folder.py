"""A student's folder and card: published and renewed whole whatever is killed, checked, and inert to hostile text."""

import contextlib
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from conftest import Project
from published import killed_at
from pydantic import ValidationError
from test_card import HOSTILE, front_of, skeleton, terms

from distillgen.dataset.manifest import FileEntry
from distillgen.dataset.seal import seal_holds
from distillgen.errors import Damaged, DiskFull, NewerFormat, NotWritable, Problem, UsageError
from distillgen.schemas import schema_of
from distillgen.student.card import write_card
from distillgen.student.card_terms import title_of
from distillgen.student.folder import (
    Student,
    add_evaluation,
    check_student,
    is_card_edited,
    publish_student,
    read_student,
    require_whole_model,
)
from distillgen.student.manifest import StudentManifest

MODEL = {
    "config.json": b'{"model_type": "llama"}', "model.safetensors": bytes(range(256)) * 40,
    "tokenizer.json": b"{}", "chat_template.jinja": b"{{ messages }}", "student-q8_0.gguf": b"GGUF" * 99,
}  # fmt: skip
CHANGES = ("mkdir", "open", "fsync", "fchmod", "rename", "replace", "unlink", "rmdir")


def findings(student: Student) -> list[Problem]:
    """Return what is not as it was written, of a student that the check names as it is."""
    found, problems = check_student(student.folder)
    assert found.folder == student.folder
    return problems


def student_manifest(text: str | None = None, **changes: Any) -> StudentManifest:
    """A manifest as a training writes it; `text` stands wherever somebody's words may."""

    def said(plain: str) -> str:
        return plain if text is None else text

    facts: dict[str, Any] = {
        "name": said("sentiment-small"), "created": said("2026-11-26T05:00:00Z"), "distillgen": said("0.9"),
        "dataset": {
            "name": said("sentiment"), "version": 2, "digest": said("d" * 64), "rows": 360,
            "splits": {said("train"): 330, said("validation") + "!": 30},
            "labels": {"train": {said("negative"): 170, "positive": 160}},
            "recipe": {"student": {"system": said("Be short."), "prompt": said("Sentiment: {{ text }}")}},
            "prompts": {said("label"): said("Which of the labels?\n\n{{ text }}")},
            "teachers": {said("main"): {
                "endpoint": said("embedded"), "model": said("qwen2.5-coder-1.5b"), "quantisation": said("Q4_K_M"),
                "title": said("Qwen2.5-Coder-1.5B-Instruct"), "licence": said("Apache-2.0"),
            }},
            "terms": terms("llama-3-1-licence"), "description": said("Sentiment of sentences"),
        },
        "base": {
            "name": said("smollm2-135m"), "title": said("SmolLM2-135M-Instruct"), "licence": said("Apache-2.0"),
            "sha256": "a" * 64, "parameters": 134_515_008, "bytes": 269_060_552, "context": 8192,
        },
        "settings": {"method": "full", "learning_rate": 5e-5, "epochs": 2, "lora": {"r": 16}, "note": said("n")},
        "training": {
            "train_rows": 330, "validation_rows": 30, "long_rows": 2, "steps": 84, "best_step": 80,
            "stopped_early": True, "seconds": 190.5, "tokens": 20_000, "device": said("cpu"), "peak_bytes": 3_300_000_000,
            "precision": said("float32"), "threads": 2, "loss": {"train": [[1, 2.5], [2, 1]], "validation": [[80, 0.4]]},
        },
        "software": {"torch": said("2.13.0")},
    }  # fmt: skip
    if text is not None:
        found = facts["dataset"]["terms"]
        entry = {"document": text, "section": text, "read": text, "url": text}
        found |= {
            "purpose": text, "competing": text, "stance": text, "note": text, "advice": text,
            "accepted": {text: {"date": text}},
            "conditions": [{"kind": kind, "text": text, "value": text} for kind in (text, "name-prefix", "licence")],
            "teachers": {text: [{"verdict": text, "reason": text, "entry": entry}]},
        }  # fmt: skip
        facts["dataset"]["example"] = [{"role": text, "content": text}, {"role": text, "content": text}]
        facts["name"] = text[:200] or "x"
    return StudentManifest.model_validate({**facts, **changes})


def changed(part: str, **facts: Any) -> StudentManifest:
    manifest = student_manifest()
    return student_manifest(None, **{part: {**getattr(manifest, part), **facts}})


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.03, "high": value + 0.03}


def evaluation_of(value: float = 0.86, text: str | None = None) -> dict[str, Any]:
    def said(plain: str) -> str:
        return plain if text is None else text

    def contestant(name: str, value: float) -> dict[str, Any]:
        return {
            "name": name, "model": said("m"), "prompt": said("student"), "runtime": said("llama.cpp"), "answered": 600,
            "unreadable": 3, "score": share(value), "f1": share(value - 0.01), "agreement": None,
            "groups": {said("graded"): {"questions": 150, **share(value - 0.1)}},
            "speed": {"questions": 60, "seconds": 6.0, "per_second": 10.0}, "usd_per_1000": None,
        }  # fmt: skip

    return {
        "format": "evaluation/1", "date": said("2026-11-26"), "measure": "label", "labels": [said("negative")],
        "on": {"what": said("gold.jsonl"), "questions": 600, "with_gold": 600, "left_out": {said("overlap"): 4}},
        "contestants": [contestant("student", value), contestant(said("teacher"), 0.85), contestant("base", 0.65)],
        "differences": [{"of": "student", "from": said("base"), "value": 0.2, "low": 0.15, "high": 0.25},
                        {"of": "student", "from": "teacher", "value": 0.01, "low": -0.02, "high": 0.04}],
        "judge": [{"judge": said("main"), "of": "student", "from": said("teacher"), "win_rate": share(0.6), "pairs": 50,
                   "wins": 30, "ties": 10, "losses": 10, "seen": 50, "alike": 0, "missing": 0, "unread": 0}],
        "bootstrap": {"draws": 10_000, "seed": 0, "level": 0.95}, "machine": {"cpus": said("2")},
        "notes": [said("m is not the base")],
    }  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A trained model, as the trainer leaves it."""
    folder = tmp_path / ".made"
    folder.mkdir()
    for name, content in MODEL.items():
        (folder / name).write_bytes(content)
    (folder / "README.md").write_text("the trainer's own")
    return folder


@pytest.fixture
def student(made: Path, tmp_path: Path) -> Student:
    return publish_student(made, tmp_path / "model", student_manifest())


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def test_a_published_student_is_whole_and_reads_back(made: Path, tmp_path: Path) -> None:
    student = publish_student(made, tmp_path / "model", student_manifest())
    assert not made.exists() and [each.name for each in tmp_path.iterdir()] == ["model"]
    found = sums(student.folder)
    manifest = orjson.loads((student.folder / "manifest.json").read_bytes())
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: each for name, each in found.items() if name != "manifest.json"
    }
    assert found.keys() >= {*MODEL, "README.md", "training.json", "manifest.json"}
    assert seal_holds((student.folder / "manifest.json").read_bytes())
    assert (student.folder / "README.md").read_text().startswith("---\n")
    training = orjson.loads((student.folder / "training.json").read_bytes())
    assert training["training"]["loss"]["train"] == [[1, 2.5], [2, 1]] and "files" not in training
    again = read_student(student.folder)
    assert again == student and findings(again) == []
    assert os.access(student.folder / "config.json", os.W_OK)


def test_who_may_read_what_is_published_says_the_umask(made: Path, tmp_path: Path) -> None:
    os.umask(umask := os.umask(0))
    (made / "more").mkdir(mode=0o700)
    (made / "more" / "part.safetensors").write_bytes(b"x")
    (made / "model.safetensors").chmod(0o600)  # as safetensors writes it
    made.chmod(0o700)
    folder = publish_student(made, tmp_path / "model", student_manifest()).folder
    assert {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()} == {oct(0o644 & ~umask)}
    assert {oct(path.stat().st_mode & 0o777) for path in (folder, folder / "more")} == {oct(0o755 & ~umask)}
    assert "more/part.safetensors" in read_student(folder).manifest.files


def test_what_a_student_says_of_itself(student: Student) -> None:
    assert student.gguf == student.folder / "student-q8_0.gguf"
    assert student.parameters == 134_515_008 and student.weight_bytes == 256 * 40
    assert student.evaluation() is None
    evaluated = add_evaluation(student, evaluation_of(), b"<html>")
    assert evaluated.digest == student.digest, "an evaluation makes no other model"
    (student.folder / "tokenizer.json").write_bytes(b"[]")
    files = {**student.manifest.files, "tokenizer.json": student.manifest.files["config.json"]}
    assert Student(student.folder, student.manifest.model_copy(update={"files": files})).digest != student.digest


def test_without_a_gguf_there_is_none_and_no_word_of_it(made: Path, tmp_path: Path) -> None:
    (made / "student-q8_0.gguf").unlink()
    student = publish_student(made, tmp_path / "model", student_manifest())
    card = (student.folder / "README.md").read_text()
    assert student.gguf is None
    assert "llama-server" not in card and "gguf" not in card.lower() and "vllm serve" in card


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_is_published_over_what_is_there(made: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "model"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.touch()
    else:
        out.symlink_to("nowhere")
    before = sums(made)
    with pytest.raises(UsageError, match="something at"):
        publish_student(made, out, student_manifest())
    assert sums(made) == before


def test_a_publication_killed_anywhere_is_published_by_the_next_try(made: Path, tmp_path: Path) -> None:
    spare, out = tmp_path / "spare", tmp_path / "model"
    shutil.copytree(made, spare)
    expected = sums(publish_student(made, out, student_manifest()).folder).keys()
    shutil.rmtree(out)
    shutil.copytree(spare, made)
    call = 1
    while killed_at(call, CHANGES, lambda: publish_student(made, out, student_manifest())):
        if out.exists():  # killed after the rename: it is whole
            assert findings(read_student(out)) == []
        else:
            published = publish_student(made, out, student_manifest())
            assert findings(published) == []
            assert sums(out).keys() == expected
        shutil.rmtree(out)
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(spare, made)
        call += 1
    assert call > 10 and findings(read_student(out)) == []


def no_room(bytes_: int, work: Callable[[], object]) -> str:
    """Work in a process whose files cannot become longer than so many bytes; return the name of what it raises."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
        status = 0
        try:
            work()
        except DiskFull:
            status = 12
        except BaseException:
            status = 1
        os._exit(status)
    _, status = os.waitpid(child, 0)
    return {0: "", 12: "DiskFull"}.get(os.waitstatus_to_exitcode(status), "another")


def test_a_full_disk_publishes_nothing_and_loses_nothing(made: Path, tmp_path: Path) -> None:
    assert no_room(1_000, lambda: publish_student(made, tmp_path / "model", student_manifest())) == "DiskFull"
    assert not (tmp_path / "model").exists() and MODEL.keys() <= sums(made).keys()
    assert findings(publish_student(made, tmp_path / "model", student_manifest())) == []


def test_a_full_disk_leaves_the_evaluation_before(student: Student) -> None:
    add_evaluation(student, evaluation_of(0.7), b"old")
    before = sums(student.folder)
    assert no_room(1_000, lambda: add_evaluation(student, evaluation_of(0.8), b"n" * 5_000)) == "DiskFull"
    assert sums(student.folder) == before and findings(read_student(student.folder)) == []


def state_of(folder: Path) -> float | None:
    """Return the score that a reader finds, after it has seen that everything fits together."""
    student = read_student(folder)
    assert findings(student) == []
    evaluation = student.evaluation()
    card = (folder / "README.md").read_text()
    if evaluation is None:
        assert (
            "It was not evaluated" in card
            and "nobody has measured" in card
            and not (folder / "evaluation.json").exists()
        )
        return None
    value = float(evaluation["contestants"][0]["score"]["value"])
    assert f"{value:.1%} (" in card and (folder / "report.html").read_bytes() == f"{value}".encode()
    return value


def test_an_evaluation_killed_anywhere_is_there_whole_or_not_at_all(student: Student, tmp_path: Path) -> None:
    folder, spare = student.folder, tmp_path / "spare"
    shutil.copytree(folder, spare)
    call, found = 1, list[float | None]()
    while killed_at(call, CHANGES, lambda: add_evaluation(student, evaluation_of(0.86), b"0.86")):
        found.append(state_of(folder))
        add_evaluation(read_student(folder), evaluation_of(0.5), b"0.5")  # goes on from any state
        assert state_of(folder) == 0.5 and {p.name for p in folder.iterdir() if p.name[0] == "."} == set()
        shutil.rmtree(folder)
        shutil.copytree(spare, folder)
        call += 1
    assert state_of(folder) == 0.86
    first_new = found.index(0.86)
    assert set(found[:first_new]) == {None} and set(found[first_new:]) == {0.86}
    assert first_new > 10 and len(found) - first_new > 5, "killed before and after the moment from which it counts"


def test_a_second_evaluation_killed_anywhere(student: Student, tmp_path: Path) -> None:
    folder, spare = student.folder, tmp_path / "spare"
    add_evaluation(student, evaluation_of(0.7), b"0.7")
    shutil.copytree(folder, spare)
    call, found = 1, list[float | None]()
    while killed_at(call, CHANGES, lambda: add_evaluation(student, evaluation_of(0.8), b"0.8")):
        found.append(state_of(folder))
        shutil.rmtree(folder)
        shutil.copytree(spare, folder)
        call += 1
    assert found == sorted(found, key=lambda each: each or 0) and set(found) == {0.7, 0.8}


def test_a_renewal_that_cannot_end_is_read_as_the_new_state(student: Student) -> None:
    folder = student.folder
    (folder / "evaluation.json" / "in the way").mkdir(parents=True)
    with pytest.raises(NotWritable):
        add_evaluation(student, evaluation_of(0.86), b"0.86")
    again = read_student(folder)
    assert (again.evaluation() or {})["contestants"][0]["score"]["value"] == 0.86 and findings(again) == []
    shutil.rmtree(folder / "evaluation.json")
    assert state_of(folder) == 0.86 and not (folder / ".renewal").exists()


def test_readers_never_see_a_part_of_two_evaluations(student: Student) -> None:
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            for number in range(60):
                value = 0.6 + number / 200
                add_evaluation(student, evaluation_of(value), b"x" * (number + 1))
            os._exit(0)
        os._exit(1)
    reads = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        assert findings(read_student(student.folder)) == []
        reads += 1
    assert reads and read_student(student.folder).evaluation() == evaluation_of(0.6 + 59 / 200)


def test_an_evaluation_of_another_model_is_refused(student: Student, made: Path, tmp_path: Path) -> None:
    shutil.rmtree(student.folder)
    made.mkdir()
    (made / "config.json").write_bytes(b"{}")
    publish_student(made, student.folder, student_manifest())
    before = sums(student.folder)
    with pytest.raises(UsageError, match="another model"):
        add_evaluation(student, evaluation_of(), b"")
    assert sums(student.folder) == before


@pytest.mark.parametrize(
    ("name", "do", "problem"),
    [
        ("model.safetensors", lambda path: path.write_bytes(b"\x01" + path.read_bytes()[1:]), "is not what was written"),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 10,239 bytes, and had 10,240"),
        ("config.json", lambda path: path.unlink(), "is missing"),
        ("pickle.bin", lambda path: path.write_bytes(b"x"), "is not in the manifest"),
    ],
    ids=["flipped bit", "cut off", "gone", "new"],
)  # fmt: skip
def test_check_names_what_is_not_as_it_was_written(
    student: Student, name: str, do: Callable[[Path], object], problem: str
) -> None:
    do(student.folder / name)
    (student.folder / ".gitattributes").write_text("a hub's")
    [found] = findings(student)
    assert found.what == f"{name} {problem}"
    if problem.endswith(("10,240", "missing")):  # what a look at names and sizes sees
        with pytest.raises(Damaged, match=re.escape(name)):
            read_student(student.folder)


def test_check_sees_a_manifest_that_somebody_changed(student: Student) -> None:
    path = student.folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"Apache-2.0", b"MIT"))
    assert [each.what for each in findings(student)] == ["the manifest is not as it was written"]


def test_what_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no student at"):
        read_student(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"it has no manifest\.json"):
        read_student(tmp_path)
    (tmp_path / "manifest.json").write_text('{"splits": {}, "funnel": []}')
    with pytest.raises(UsageError, match="version of a dataset"):
        read_student(tmp_path)


def wrong(**facts: Any) -> dict[str, Any]:
    return {**student_manifest().model_dump(mode="json"), **facts}


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"[]", b"null", orjson.dumps(wrong(name="")), orjson.dumps(wrong(dataset={"name": "x"})),
        orjson.dumps(wrong(base={"name": 3})), orjson.dumps(wrong(training={"train_rows": "many"})),
        orjson.dumps(wrong(dataset={**student_manifest().dataset, "terms": {"conditions": ["x"]}})),
        orjson.dumps(wrong(dataset={**student_manifest().dataset, "recipe": {"student": ["x"]}})),
        *(orjson.dumps(wrong(files={name: {"bytes": 1, "sha256": "a"}}))
          for name in ("../x", "/etc/passwd", "a//b", "a\\b", "", ".", "a\nb", "..")),
    ],
)  # fmt: skip
def test_a_manifest_of_another_shape_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(Damaged):
        read_student(tmp_path)


def test_a_card_that_somebody_edited_stays_as_it_is(student: Student) -> None:
    card, report = student.folder / "README.md", student.folder / "report.html"
    edited = card.read_text() + "\nMind the gap.\n"
    card.write_text(edited)
    report.unlink()
    again = read_student(student.folder)
    assert is_card_edited(again) and not is_card_edited(replace(again, folder=student.folder / "absent"))
    evaluated = add_evaluation(again, evaluation_of(), b"<html>")
    assert card.read_text() == edited and report.read_bytes() == b"<html>"
    assert findings(evaluated) == [] and not is_card_edited(evaluated), "it is counted as it is now"
    card.unlink()
    add_evaluation(evaluated, evaluation_of(), b"<html>")
    assert "## Evaluation" in card.read_text()


def test_a_model_that_was_changed_is_not_measured(student: Student) -> None:
    require_whole_model(student)
    path = student.folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert read_student(student.folder) == student
    with pytest.raises(Damaged, match="model.safetensors is not what was written"):
        require_whole_model(student)


def test_a_newer_format_says_so(student: Student) -> None:
    path = student.folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(NewerFormat, match="format 2"):
        read_student(student.folder)


def test_a_manifest_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValidationError):
        changed("dataset", rows="many")


# ---- the card


def card_of(manifest: StudentManifest, evaluation: dict[str, Any] | None = None) -> str:
    entry = FileEntry(bytes=5_000_000, sha256="a" * 64)
    files = {"model.safetensors": entry, "student-q8_0.gguf": entry}
    return write_card(manifest.model_copy(update={"files": files}), evaluation)


def test_the_front_matter_is_what_the_hub_reads() -> None:
    from huggingface_hub import ModelCard

    card = card_of(changed("base", name="HuggingFaceTB/SmolLM2-135M-Instruct"), evaluation_of())
    matter = front_of(card)
    assert matter["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert matter["base_model_relation"] == "finetune" and matter["pipeline_tag"] == "text-generation"
    assert matter["library_name"] == "transformers" and {"distillation", "sft", "gguf"} <= {*matter["tags"]}
    found: Any = ModelCard(card).data
    assert found.model_name == "Llama-sentiment-small" and found.base_model == matter["base_model"]
    figures = {each.metric_type: each for each in found.eval_results or []}
    assert figures["accuracy"].metric_value == 0.86 and figures["f1"].metric_value == 0.85
    assert figures["accuracy"].dataset_name == "gold.jsonl" and figures["accuracy"].task_type == "text-classification"
    assert figures["accuracy"].dataset_type == "gold.jsonl", "the questions are not the dataset that it learnt from"
    assert "model-index" not in front_of(card_of(student_manifest()))


def test_figures_on_a_split_are_those_of_the_dataset() -> None:
    evaluation = evaluation_of()
    evaluation |= {"measure": "exact", "on": {**evaluation["on"], "what": "validation"}}
    [result] = front_of(card_of(changed("dataset", splits={"validation": 30}), evaluation))["model-index"][0]["results"]
    assert result["dataset"] == {"name": "sentiment", "type": "sentiment", "split": "validation"}
    assert result["metrics"][0]["type"] == "exact_match"


@pytest.mark.parametrize("name", ["me/base", "hf://me/base", "me/base@main", "hf://me/base@refs/pr/1"])
def test_a_name_on_the_hub_is_stated_without_its_commit(name: str) -> None:
    assert front_of(card_of(changed("base", name=name)))["base_model"] == "me/base"


@pytest.mark.parametrize("name", ["smollm2-135m", "base", "a/b/c", "/home/me/base", "../base", "me/", "a b/c", "x/y\n"])
def test_what_is_no_name_on_the_hub_is_not_stated_as_one(name: str) -> None:
    assert "base_model" not in front_of(card_of(changed("base", name=name)))


@pytest.mark.parametrize(
    ("base", "inherited", "expected"),
    [
        ("Apache-2.0", [], {"license": "apache-2.0"}),
        ("Apache-2.0", ["llama3.1"], {"license": ["apache-2.0", "llama3.1"]}),
        ("llama3.1", ["llama3.1"], {"license": "llama3.1"}),
        ("unknown", [], {"license": "unknown"}),
        ("", [], {"license": "unknown"}),
        ("unknown", ["llama3.1"], {"license": "other", "license_name": "unknown-and-llama3.1"}),
        ("Qwen Research", [], {"license": "other", "license_name": "qwen-research"}),
        ("Apache-2.0", ["deepseek"], {"license": "other", "license_name": "apache-2.0-and-deepseek"}),
    ],
)
def test_the_licence_is_the_base_s_and_what_the_terms_add(
    base: str, inherited: list[str], expected: dict[str, Any]
) -> None:
    conditions = [{"kind": "licence", "text": "t", "value": value} for value in inherited]
    dataset = {**student_manifest().dataset, "terms": {"conditions": conditions, "stance": "conditions"}}
    manifest = student_manifest(base={**student_manifest().base, "licence": base}, dataset=dataset)
    card = card_of(manifest)
    assert {key: value for key, value in front_of(card).items() if key.startswith("license")} == expected
    section = card.split("## Licence\n")[1].split("\n## ")[0]
    assert ("**unknown**" in section) == (base in ("unknown", ""))
    assert all(value in section for value in inherited)
    assert ("add no licence" in section) == (not inherited)


@pytest.mark.parametrize(
    ("name", "title"),
    [("sentiment", "Llama-sentiment"), ("Llama-sentiment", "Llama-sentiment"), ("llama-x", "llama-x")],
)
def test_the_title_begins_as_the_terms_ask(name: str, title: str) -> None:
    manifest = student_manifest(name=name)
    assert title_of(manifest) == title
    assert f"\n# {title}\n" in card_of(manifest)
    assert title_of(changed("dataset", terms={})) == "sentiment-small"


def test_what_the_terms_ask_for_is_carried_out() -> None:
    card = card_of(student_manifest())
    assert "> **Built with Llama**" in card and "> **This model's name begins with “Llama”" in card
    assert "Under which terms" in card_of(changed("dataset", terms={}))
    assert "What the teachers' terms add is unknown" in card_of(changed("dataset", terms={}))


def test_the_evaluation_is_a_table_with_intervals() -> None:
    card = card_of(student_manifest(), evaluation_of())
    assert "| student | student | llama.cpp | 86.0% (83.0 to 89.0) | 0.850 | 10 |" in card
    assert "agrees with the teacher |" not in card, "a column that nobody has is left out"
    assert "- the student is 20.0 points above the base (15.0 to 25.0)\n" in card
    assert "- the student is 1.0 point above the teacher (-2.0 to 4.0): not shown to differ\n" in card
    assert "600 questions of gold.jsonl, 600 with gold answers; left out: 4 that the student was trained on" in card
    assert "- m is not the base.\n" in card and "Left out of the evaluation: 4 that the student" in card
    assert "win rate 60.0% (57.0 to 63.0)" in card and "| graded | base | 150 | 55.0% (52.0 to 58.0) |" in card
    assert "3 of its answers were of no use" in card
    assert "on one machine with 2 processors" in card and "[how far it does](#evaluation)" in card
    assert "not evaluated" not in card and "## Evaluation" not in card_of(student_manifest())


def test_figures_that_nobody_has_are_left_out() -> None:
    evaluation = evaluation_of()
    for each in evaluation["contestants"]:
        each |= {"score": {"value": None, "low": None, "high": None}, "f1": None, "groups": {}, "speed": None}
    evaluation |= {"judge": [], "differences": [{"of": "student", "from": "base", "value": None}]}
    evaluation["on"]["with_gold"] = 0
    card = card_of(student_manifest(), evaluation)
    assert "| who | prompt | runtime |" in card and "cannot be compared" in card and "Speeds" not in card
    assert "model-index" not in front_of(card) and "None of these has a known right answer" in card


def test_limits_are_facts_of_this_student() -> None:
    card = card_of(student_manifest())
    for said in (
        "It is small (135 M parameters)", "one teacher", "itself was rounded (Q4_K_M)", "few rows: 330",
        "Few rows, 30, decided", "2 of the rows were longer", "It was not evaluated", "2 labels",
        "holds rounded weights",
    ):  # fmt: skip
        assert said in card
    large = card_of(changed("training", train_rows=9_000, validation_rows=500, long_rows=0), evaluation_of())
    for said in ("few rows", "Few rows", "were longer", "not evaluated", "mind the intervals"):
        assert said not in large
    no_gold = evaluation_of()
    no_gold["on"]["with_gold"] = 0
    assert "None of these has a known right answer" in card_of(student_manifest(), no_gold)
    assert "nobody saw whether it went on for too long" in card_of(changed("training", validation_rows=0))


def test_settings_that_were_not_in_force_are_left_out() -> None:
    settings = {"method": "full", "epochs": 3, "lora": {"r": 8}, "dpo": {"beta": 0.1}}
    card = card_of(student_manifest(settings=settings))
    assert "| `epochs` | `3` |" in card and "lora.r" not in card and "dpo.beta" not in card
    assert "| `lora.r` | `8` |" in card_of(student_manifest(settings={**settings, "method": "lora"}))
    pairs = card_of(changed("dataset", recipe={"student": {"prompt": "p", "rejected": "{{ worse }}"}}))
    assert '"dpo"' in pairs and "DPO on pairs" in pairs and "which of two answers" in pairs


def messages_of(card: str) -> list[dict[str, str]]:
    """Return the messages of the example in Python, which has to be Python."""
    [code] = [each for each in re.findall(r"^```python\n(.*?)^```$", card, re.M | re.S) if "pipeline" in each]
    compile(code, "card", "exec")
    [line] = [line for line in code.splitlines() if line.startswith("messages = ")]
    space: dict[str, Any] = {}
    exec(line, space)
    found: list[dict[str, str]] = space["messages"]
    return found


def request_of(card: str) -> dict[str, Any]:
    [line] = [line for line in card.splitlines() if line.startswith("curl ")]
    found: dict[str, Any] = json.loads(shlex.split(line)[-1])
    return found


def test_the_examples_ask_in_the_form_that_it_learnt() -> None:
    card = card_of(student_manifest())
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Sentiment: <text>"}]
    assert messages_of(card) == asked and request_of(card)["messages"] == asked
    assert "max_new_tokens=16" in card and "    Sentiment: {{ text }}\n" in card
    assert "llama-server --jinja -m path/of/this/folder/student-q8_0.gguf" in card
    example = [{"role": "user", "content": "Sentiment: 'good'\n```"}, {"role": "assistant", "content": "positive"}]
    card = card_of(changed("dataset", example=example, labels={}))
    assert messages_of(card) == example[:1] == request_of(card)["messages"] and "    assistant: positive\n" in card
    assert "max_new_tokens=512" in card
    card = card_of(changed("dataset", recipe={}))
    assert "whole conversations" in card and messages_of(card) == [{"role": "user", "content": "<your question>"}]
    hard = {"student": {"prompt": "{% if a %}{{ b | upper }}{% endif %}"}}
    assert messages_of(card_of(changed("dataset", recipe=hard)))[0]["content"].startswith("<the prompt")


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:16]))
def test_hostile_text_changes_nothing_but_the_words(text: str) -> None:
    card = card_of(student_manifest(text), evaluation_of(text=text))
    words_only = card_of(student_manifest("x"), evaluation_of(text="x"))
    assert card.count("\n---\n") == 1
    matter = front_of(card)
    if text:  # what is empty is left out
        assert matter.keys() == {*front_of(words_only)} and matter["license"] == "other"
        shape = [line for line in skeleton(card) if line != "  link_open https://e.vil"]
        assert shape == skeleton(words_only)
    else:
        skeleton(card)
    assert not [each for each in card if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp") and each not in "\n\t"]
    shown = text if len(text) <= 6_000 else text[:6_000]
    assert messages_of(card)[0]["content"] == shown == request_of(card)["messages"][0]["content"]


@pytest.mark.parametrize(
    "example", [[], [{"role": "user", "content": "x"}], [{"role": "user", "content": "x"}, {"role": "assistant"}]]
)
def test_a_row_of_more_than_text_is_no_example(example: list[dict[str, Any]]) -> None:
    card = card_of(changed("dataset", example=example))
    assert messages_of(card)[-1]["content"] == "Sentiment: <text>" and "For example" not in card


def test_a_loss_that_is_no_number_is_read_back() -> None:
    manifest = changed("training", loss={"train": [[1, float("nan")]], "validation": []})
    assert StudentManifest.model_validate_json(manifest.dump()).training["loss"]["train"] == [[1, None]]


def test_the_card_is_the_same_again_and_again() -> None:
    assert card_of(student_manifest(), evaluation_of()) == card_of(student_manifest(), evaluation_of())


def test_the_check_of_the_card_works(student: Student) -> None:
    card = (student.folder / "README.md").read_text()
    [code] = [each for each in re.findall(r"^```python\n(.*?)^```$", card, re.M | re.S) if "hashlib" in each]
    code = code.replace("path/of/this/folder", str(student.folder))

    def printed() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed() == ""
    (student.folder / "config.json").write_text("{} ")
    assert printed() == "config.json is not what was written\n"


def checked(folder: Path, *more: str) -> tuple[int, str, Any]:
    done = Project(folder.parent).run("student", "check", folder.name, *more)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr, orjson.loads(done.stdout) if more else None


def test_the_command_says_whether_a_student_is_whole(student: Student) -> None:
    status, said, _ = checked(student.folder)
    assert status == 0 and "whole; " in said
    status, said, told = checked(student.folder, "--json")
    assert status == 0 and told["whole"] and told["findings"] == [] and told["files"] == len(student.manifest.files)
    (student.folder / "model.safetensors").write_bytes(b"x")
    (student.folder / "evil\x1b[31m.bin").write_bytes(b"x")
    status, said, _ = checked(student.folder)
    assert status == 8 and "model.safetensors has 1 bytes" in said and "\x1b" not in said
    status, said, told = checked(student.folder, "--json")
    assert status == 8 and not told["whole"] and len(told["findings"]) == 2
    assert not list(jsonschema_rs.validator_for(schema_of("student-check")).iter_errors(told))


def test_the_command_where_there_is_no_student(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        status, said, _ = checked(tmp_path / name)
        assert status == 2 and name in said
