"""Measuring a student by transformers: a tiny Llama asked in batches, held to labels, killed and gone on with."""

# ruff: noqa: E402
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, clean_environment

pytest_plugins = ["student_material"]
pytest.importorskip("torch", reason="make test-student installs PyTorch and TRL")

from student_material import version_of

from distillgen.dataset.manifest import FileEntry
from distillgen.errors import UsageError
from distillgen.files import file_sha256, read_jsonl
from distillgen.student.base import find_base
from distillgen.student.contestants import Contestant
from distillgen.student.evaluation import evaluate
from distillgen.student.evaluation_request import EvaluationRequest
from distillgen.student.folder import Student
from distillgen.student.generating import _answers, ask_transformers, weights_sha256
from distillgen.student.manifest import StudentManifest
from distillgen.student.questions import Question

LABELS = ["good", "goods", "bad"]
TEXTS = ["a", "the kettle", "x" * 60, "an island far away from here", "b c d", "Zwölf Äpfel, 大きさ", "once " * 20]
ASKED = [
    Question(str(number), {}, [{"role": "user", "content": text}], None, None, None)
    for number, text in enumerate(TEXTS)
]  # fmt: skip


def contestant(folder: Path, *, labels: list[str] | None = None, most: int = 12) -> Contestant:
    return Contestant(
        "student",
        "tiny",
        "student",
        {},
        {},
        runtime="transformers",
        folder=folder,
        max_tokens=most,
        labels=labels or [],
    )


def nothing(_: Any) -> None:
    """Hear no event."""


def test_batches_say_what_each_question_alone_says(tiny: Path) -> None:
    settings = {
        "folder": str(tiny), "max_tokens": 12, "labels": [],
        "questions": [{"key": question.id, "messages": question.messages} for question in ASKED],
    }  # fmt: skip
    together = {line["key"]: line["text"] for line in _answers({**settings, "batch": 16})}
    alone = {line["key"]: line["text"] for line in _answers({**settings, "batch": 1})}
    assert together == alone and len(set(alone.values())) > 1 and len(alone) == len(ASKED)


def test_labels_are_all_that_can_be_said(tiny: Path, tmp_path: Path) -> None:
    said = ask_transformers(contestant(tiny, labels=LABELS), ASKED, tmp_path, nothing).texts
    assert set(said.values()) <= set(LABELS)
    free = ask_transformers(contestant(tiny), ASKED, tmp_path, nothing).texts
    assert not set(free.values()) & set(LABELS), "nothing else would have held it to them"


def test_a_label_is_not_cut_off(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max-tokens 1 would cut off a label of 5 tokens"):
        ask_transformers(contestant(tiny, labels=LABELS, most=1), ASKED, tmp_path, nothing)


def test_nothing_is_asked_twice(tiny: Path, tmp_path: Path) -> None:
    first = ask_transformers(contestant(tiny), ASKED[:3], tmp_path, nothing)
    events: list[Any] = []
    both = ask_transformers(contestant(tiny), ASKED, tmp_path, events.append)
    assert len(both.received) == 4 and first.texts.items() <= both.texts.items()
    assert [event["done"] for event in events] == [4, 5, 6, 7]
    again = ask_transformers(contestant(tiny), ASKED, tmp_path, events.append)
    assert again.received == [] and again.texts == both.texts
    assert len(ask_transformers(contestant(tiny, most=3), ASKED, tmp_path, nothing).received) == len(ASKED)


def test_a_line_that_was_cut_off_is_asked_again(tiny: Path, tmp_path: Path) -> None:
    first = ask_transformers(contestant(tiny), ASKED, tmp_path, nothing)
    path = tmp_path / "generated" / f"{weights_sha256(tiny)[:16]}.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = ask_transformers(contestant(tiny), ASKED, tmp_path, nothing)
    assert len(again.received) == 1 and again.texts == first.texts
    assert len(list(read_jsonl(path))) == len(ASKED)


SCRIPT = """
import sys
from pathlib import Path
from distillgen.student.contestants import Contestant
from distillgen.student.generating import ask_transformers
from distillgen.student.questions import Question
asked = [Question(str(n), {}, [{"role": "user", "content": f"number {n}"}], None, None, None) for n in range(200)]
who = Contestant("s", "t", "student", {}, {}, runtime="transformers", folder=Path(sys.argv[1]), max_tokens=40)
print(len(ask_transformers(who, asked, Path(sys.argv[2]), lambda event: None).received))
"""


def test_a_killed_evaluation_goes_on(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tiny), str(tmp_path)]
    process = subprocess.Popen(command, env=clean_environment(PYTHONWARNINGS="ignore"), stdout=subprocess.PIPE)
    path = tmp_path / "generated" / f"{weights_sha256(tiny)[:16]}.jsonl"
    end = time.monotonic() + 120
    while not path.is_file() or path.read_bytes().count(b"\n") < 16:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = path.read_bytes().count(b"\n")
    done = subprocess.run(
        command, env=clean_environment(PYTHONWARNINGS="ignore"), capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 200 - kept
    keys = [line["key"] for line in read_jsonl(path)]
    assert len(keys) == 200 == len(set(keys))


def test_what_cannot_be_asked(tmp_path: Path, tiny_copy: Path) -> None:
    with pytest.raises(UsageError, match=r"no \*.safetensors"):
        ask_transformers(contestant(tmp_path), ASKED, tmp_path, nothing)
    (tiny_copy / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="no chat template"):
        ask_transformers(contestant(tiny_copy), ASKED, tmp_path, nothing)
    (tiny_copy / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="asking student by transformers failed"):
        ask_transformers(contestant(tiny_copy), ASKED, tmp_path, nothing)


# -- the whole -----------------------------------------------------------------------------------------------------


@pytest.fixture
def student(chats: Project, tiny: Path) -> Student:
    """A tiny student of a version of conversations, without a GGUF file."""
    version = version_of(chats).manifest
    files = {
        path.name: FileEntry(bytes=path.stat().st_size, sha256=file_sha256(path)) for path in sorted(tiny.iterdir())
    }
    return Student(tiny, StudentManifest(
        name="tiny", created="2026-11-26", distillgen="0",
        dataset={"name": "demo", "version": version.version, "digest": version.digest, "rows": version.rows},
        base={"name": "tiny", "sha256": "0" * 64, "parameters": 1}, settings={}, training={}, software={}, files=files,
    ))  # fmt: skip


def test_base_and_student_alike_by_transformers(chats: Project, student: Student, tiny: Path, tmp_path: Path) -> None:
    base = find_base(str(tiny))
    request = EvaluationRequest(
        student, "validation", chats.folder, base=base, state=tmp_path, time=4, max_tokens=8, equal_prompts=True
    )
    evaluation = evaluate(request, nothing)
    teacher, before, mine = evaluation["contestants"]
    assert (teacher["name"], teacher["runtime"]) == ("teacher", "the provider")
    assert mine["runtime"] == before["runtime"] == "transformers" and mine["answered"] == before["answered"]
    [same] = evaluation["differences"]
    assert (same["what"], same["value"], same["low"], same["high"]) == ("agreement", 0.0, 0.0, 0.0)
    assert mine["speed"]["at_once"] == 16 and mine["speed"]["per_second"] > 0
    notes = " ".join(evaluation["notes"])
    assert "not the base that this student" in notes and "do not compare" in notes and "no GGUF file" in notes
    again = evaluate(EvaluationRequest(**{**vars(request), "time": 0}), nothing)
    assert [each["score"] for each in again["contestants"]] == [each["score"] for each in evaluation["contestants"]]
