"""An evaluation as people read it: in words, on terminals of any width, in pipes, and as a page no text can become markup of."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from conftest import Project
from rich.cells import cell_len
from test_mix import chat, synthetic
from test_report import Parsed
from test_tables import piped, printed

from distillgen.report.drawing import Curve, Dot, curves, dots
from distillgen.report.figures import short
from distillgen.report.version_report import write_report
from distillgen.schemas import document, schema_of
from distillgen.student.judging import Judged
from distillgen.student.page import MOST_POINTS, student_page, student_sections, thinned
from distillgen.student.scores import Bootstrap, judged, per_label
from distillgen.student.tables import (
    difference_told,
    evaluation_shown,
    judge_told,
    parameters_told,
    rate_told,
    ratios_told,
    share_told,
    size_told,
    times_told,
)

HOSTILE = (
    "</svg></script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202egnp\u2066\x00\ud800 {{ 7*7 }}\n"
)
NAMES = ("teacher", "base", "student", "base, the teacher's prompt", "student, the teacher's prompt")


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal alone says how wide it is and what it takes."""
    for name in ("COLUMNS", "LC_ALL", "LC_CTYPE", "PYTHONIOENCODING", "PYTHONUTF8", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("TERM", "xterm")


def estimate(value: float, reach: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": max(value - reach, 0.0), "high": min(value + reach, 1.0)}


def contestant(name: str, right: float, rate: float, **more: Any) -> dict[str, Any]:
    is_teacher = name == "teacher"
    found = {
        "name": name, "model": "qwen2.5-coder-1.5b" if is_teacher else "smollm2-135m",
        "prompt": "teacher" if "teacher" in name else "student", "runtime": "llama.cpp", "how": "greedy, held to the labels", "answered": 600, "unreadable": 0,
        "score": estimate(right), "f1": estimate(right - 0.004),
        "per_label": {
            "positive": {"precision": 0.9, "recall": 0.8, "f1": 0.847, "gold": 300, "said": 267},
            "negative": {"precision": 0.82, "recall": 0.91, "f1": 0.863, "gold": 300, "said": 333},
        },
        "agreement": None if is_teacher else estimate(right - 0.01),
        "groups": {"clear": {"questions": 409, **estimate(right + 0.05)}, "graded": {"questions": 191, **estimate(right - 0.1)}},
        "tokens": {"prompt": 30_000, "completion": 1_200},
        "speed": {"questions": 60, "seconds": 60 / rate, "per_second": rate, "seconds_each": 4 / rate, "at_once": 4,
                  "how": "60 questions asked anew, 4 at a time, teacher and student by turns"},
        "usd_per_1000": {"value": 0.333 / rate, "from": "$1.2 an hour"},
        "parameters": 1_543_714_304 if is_teacher else 134_515_008, "bytes": 1_117_320_736 if is_teacher else 144_811_360,
    }  # fmt: skip
    return {**found, **more}


def evaluation(**more: Any) -> dict[str, Any]:
    """Return an evaluation as the schema has it."""
    found = {
        "format": "evaluation/1", "date": "2026-11-26T06:00:00Z", "student": {"name": "sentiment-135m", "digest": "ab" * 32},
        "dataset": {"name": "sentiment", "version": 1, "digest": "cd" * 32},
        "on": {"what": "sentences_gold.jsonl", "sha256": "ef" * 32, "questions": 600, "with_gold": 600,
               "left_out": {"overlap": 12, "near": 0}},
        "measure": "label", "labels": ["positive", "negative"],
        "contestants": [
            contestant("teacher", 0.857, 0.54), contestant("base", 0.65, 9.4, unreadable=17),
            contestant("student", 0.877, 9.18), contestant("base, the teacher's prompt", 0.57, 3.1),
            contestant("student, the teacher's prompt", 0.812, 3.02),
        ],
        "differences": [
            {"of": "student", "from": "base", "value": 0.213, "low": 0.172, "high": 0.256},
            {"of": "student", "from": "teacher", "value": 0.02, "low": -0.02, "high": 0.06},
            {"of": "student", "from": "base", "what": "agreement", "value": 0.227, "low": 0.18, "high": 0.27},
        ],
        "judge": [
            {"judge": "arbiter", "of": "student", "from": "teacher", "pairs": 80, "wins": 40, "ties": 10, "losses": 30,
             "seen": 73, "alike": 5, "missing": 2, "unread": 0, "win_rate": estimate(0.5625, 0.1)},
        ],
        "bootstrap": Bootstrap().dump(), "machine": {"cpus": 2, "python": "3.11.14"},
        "notes": ["SmolLM2 is not the base that this student was trained from"],
    }  # fmt: skip
    return {**found, **more}


def manifest(**more: Any) -> dict[str, Any]:
    """Return a student's manifest."""
    losses = [[step, 10.3 / step + 0.05] for step in range(1, 51)]
    found = {
        "format": 1, "name": "sentiment-135m", "created": "2026-11-26T05:00:00Z", "distillgen": "0.7.0",
        "dataset": {
            "name": "sentiment", "version": 1, "digest": "cd" * 32, "rows": 400, "splits": {"train": 380, "validation": 20},
            "teachers": {"main": {"model": "qwen2.5-coder-1.5b"}}, "description": "Labels of sentences",
            "terms": {"conditions": [{"kind": "name-prefix", "text": "Name it Qwen first", "value": "Qwen"}]},
        },
        "base": {"name": "smollm2-135m", "title": "SmolLM2", "licence": "apache-2.0", "sha256": "12" * 32,
                 "parameters": 134_515_008, "bytes": 538_060_032, "context": 8192},
        "settings": {"method": "full", "learning_rate": 5e-5, "lora": {"r": 16}, "long": "drop"},
        "training": {
            "train_rows": 377, "validation_rows": 20, "long_rows": 3, "steps": 50, "best_step": 40, "stopped_early": True,
            "seconds": 154.2, "tokens": 20_000, "loss": {"train": losses, "validation": [[20, 0.6], [40, 0.41], [50, 0.47]]},
            "device": "cpu", "precision": "bf16", "threads": 2, "peak_bytes": 3_600_000_000, "resumed": 1,
        },
        "software": {"torch": "2.13.0"}, "files": {"model.safetensors": {"bytes": 538_060_032, "sha256": "34" * 32}},
    }  # fmt: skip
    return {**found, **more}


def poisoned(value: Any) -> Any:
    """Return a table in which every text that others write is hostile, and every name of their choosing."""
    if isinstance(value, dict):
        return {key: poisoned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner) for inner in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


def parsed(tmp_path: Path, page: bytes) -> Parsed:
    path = tmp_path / "report.html"
    path.write_bytes(page)
    return Parsed(path)


# -- the schema ------------------------------------------------------------------------------------------------------


def wrong(name: str, found: Any) -> list[str]:
    return [each.message for each in jsonschema_rs.validator_for(schema_of(name)).iter_errors(found)]


def test_an_evaluation_is_of_the_shape_that_is_promised() -> None:
    whole = evaluation()
    assert not wrong("student-evaluate", whole)
    assert not wrong("student-evaluate", json.loads(document("student-evaluate", whole)))
    without_gold = [contestant("student", 0.5, 1.0, score=None, f1=None, per_label={}, agreement=None, groups={}, speed=None,
                               usd_per_1000=None, parameters=None, bytes=None)]  # fmt: skip
    assert not wrong("student-evaluate", evaluation(contestants=without_gold, differences=[], judge=[], labels=[]))
    assert wrong("student-evaluate", {**whole, "measure": "taste"}) and wrong("student-evaluate", {**whole, "more": 1})
    for key in set(whole) - {"schema", "notes"}:
        assert wrong("student-evaluate", {name: value for name, value in whole.items() if name != key}), key


def test_what_the_scores_return_has_its_place_in_the_schema() -> None:
    golds, saids = ["a", "b", "a"], ["a", None, "b"]
    boots = Bootstrap(draws=50)
    one = contestant("student", 0.5, 1.0, score=boots.mean([]).dump(), f1=boots.macro_f1(golds, saids).dump(),
                     per_label=per_label(golds, saids, ["a", "b"]))  # fmt: skip
    judge = [
        {
            "judge": "x",
            "of": "student",
            "from": "base",
            **Judged({"1": ("win", "tie"), "2": ("tie", "tie")}, alike=1, shown=2).counts(),
            **judged([("win", "tie"), ("win", "win")], boots),
        }
    ]
    assert not wrong("student-evaluate", evaluation(contestants=[one], judge=judge, bootstrap=boots.dump()))


def test_a_training_is_of_the_shape_that_is_promised() -> None:
    table = manifest()
    told = {name: table["training"][name] for name in
            ("train_rows", "validation_rows", "long_rows", "steps", "best_step", "stopped_early", "seconds")}  # fmt: skip
    found = {
        "folder": "model", "name": table["name"], **told, "files": table["files"],
        "dataset": {name: table["dataset"][name] for name in ("name", "version", "digest")},
        "base": {name: table["base"][name] for name in ("name", "sha256", "parameters")},
    }  # fmt: skip
    assert not wrong("student-train", json.loads(document("student-train", found)))
    assert wrong("student-train", {**found, "schema": "student-train/1", "steps": -1})


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "told"),
    [
        pytest.param({"of": "student", "from": "base", "value": 0.213, "low": 0.172, "high": 0.256},
                     "the student is 21.3 points above the base (17.2 to 25.6)", id="above"),
        pytest.param({"of": "student", "from": "teacher", "value": 0.02, "low": -0.02, "high": 0.06},
                     "the student is 2.0 points above the teacher (-2.0 to 6.0): not shown to differ", id="perhaps-above"),
        pytest.param({"of": "student", "from": "teacher", "value": -0.031, "low": -0.05, "high": -0.012},
                     "the student is 3.1 points below the teacher (-5.0 to -1.2)", id="below"),
        pytest.param({"of": "student", "from": "teacher", "value": 0.0, "low": 0.0, "high": 0.0},
                     "the student is level with the teacher (0.0 to 0.0): not shown to differ", id="level"),
        pytest.param({"of": "student", "from": "base", "value": 0.01, "low": 0.0, "high": 0.02},
                     "the student is 1.0 point above the base (0.0 to 2.0): not shown to differ", id="one-point-that-touches-0"),
        pytest.param({"of": "student", "from": "base", "value": 1.0, "low": None, "high": None},
                     "the student is 100.0 points above the base: of so few questions nothing can be shown", id="one-question"),
        pytest.param({"of": "student", "from": "base", "value": None, "low": None, "high": None},
                     "the student and the base cannot be compared: nothing was counted for both", id="nothing"),
        pytest.param({"of": "student, the teacher's prompt", "from": "base", "what": "agreement", "value": 0.1, "low": 0.05,
                      "high": 0.2}, "the student with the teacher's prompt is 10.0 points above the base in agreement with "
                     "the teacher (5.0 to 20.0)", id="agreement"),
    ],
)  # fmt: skip
def test_a_difference_in_words(difference: dict[str, Any], told: str) -> None:
    assert difference_told(difference) == told


def test_other_figures_in_words() -> None:
    assert list(ratios_told(evaluation()))[1] == "the student gives 17 times the teacher's answers a second"
    assert list(ratios_told(evaluation(contestants=[contestant("student", 0.9, 9.0)]))) == []
    assert [times_told(each) for each in (17.2, 5.64, 0.431)] == ["17", "5.6", "0.43"]
    assert [parameters_told(each) for each in (134_515_008, 1_543_714_304, 1_630_000, 900, None, 0)] == [
        "135 M", "1.5 B", "1.6 M", "900", "-", "-"]  # fmt: skip
    assert [size_told(each) for each in (144_811_360, 1_117_320_736, 6_512_000, 12_000, None)] == [
        "145 MB", "1.1 GB", "6.5 MB", "12 kB", "-"]  # fmt: skip
    assert share_told(None) == share_told({"value": None, "low": None, "high": None}) == "-"
    assert share_told({"value": 1.0, "low": None, "high": None}) == "100.0%"
    assert [rate_told({"speed": {"per_second": pace}}) for pace in (0.0123, 999.4, 999.7, 1234.5)] == [
        "0.0123", "999", "1,000", "1,234"]  # fmt: skip
    assert share_told({"value": 0.0, "low": -0.0004, "high": 0.0}) == "0.0% (0.0 to 0.0)"


def test_what_a_judge_preferred_in_words() -> None:
    [judge] = evaluation()["judge"]
    assert judge_told(judge) == (
        "arbiter saw 73 pairs of answers in both orders, 5 more are alike, 2 more lack an answer: the student won 40, "
        "the teacher 30, and 10 are undecided; win rate 56.2% (46.2 to 66.2): neither is shown to be preferred"
    )
    sure = {**judge, "unread": 3, "win_rate": {"value": 0.55, "low": 0.52, "high": 0.58}}
    assert judge_told(sure).endswith("win rate 55.0% (52.0 to 58.0)")
    assert "and of 3 more it said nothing that can be read: the student" in judge_told(sure)
    none = {"value": None, "low": None, "high": None}
    alone = {**dict.fromkeys(judge, 0), "judge": "x", "of": "student", "from": "base", "win_rate": none}
    assert judge_told(alone) == (
        "x saw 0 pairs of answers in both orders: the student won 0, the base 0, and 0 are undecided"
    )


# -- the terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [120, 80, 60, 40, 24])
def test_names_and_figures_are_whole_at_any_width(columns: int) -> None:
    shown = printed(columns, *evaluation_shown(evaluation()))
    lines = shown.splitlines()
    flat = " ".join(shown.split())
    for name in (*NAMES, "qwen2.5-coder-1.5b", "smollm2-135m", "sentences_gold.jsonl", "graded", "clear"):
        assert any(name in line for line in lines), name
    for figure in ("87.7% (84.7 to 90.7)", "85.7% (82.7 to 88.7)", "0.873", "$0.0363", "135 M", "145 MB", "9.18", "17"):
        assert figure in shown, figure
    for said in ("the student is 21.3 points above the base (17.2 to 25.6)", "(-2.0 to 6.0): not shown to differ",
                 "17 times the teacher's answers a second", "left out: 12 that the student was trained on, or nearly", "win rate 56.2%", "note: SmolLM2 is not the base"):  # fmt: skip
        assert said in flat, said
    if columns >= 60:
        assert max(map(cell_len, lines)) <= columns


def cells(line: str) -> list[str]:
    """Return the cells of a line but for its bar."""
    return [cell for cell in re.split(r"\s{2,}", line) if not set(cell) <= set("▏▎▍▌▋▊▉█")]


def test_a_pipe_gets_a_line_for_each_row() -> None:
    lines = piped(*evaluation_shown(evaluation())).splitlines()
    student, base = ([line for line in lines if line.startswith(f"{name}  ")] for name in NAMES[2:4])
    assert cells(student[0]) == ["student", "87.7% (84.7 to 90.7)", "0.873", "86.7% (83.7 to 89.7)", "-"]
    assert cells(student[1]) == [
        "student", "9.18", "436 ms", "$0.0363", "135 M", "145 MB", "smollm2-135m", "llama.cpp"]  # fmt: skip
    assert len(base) == 2 and cells(base[0])[1] == "57.0% (54.0 to 60.0)"
    assert [cells(line)[0] for line in lines if line.endswith("llama.cpp")] == list(NAMES)
    assert sum(line.startswith("graded ") for line in lines) == 5
    assert all(line == line.rstrip() for line in lines)


def test_eighty_columns_hold_the_figures_side_by_side() -> None:
    lines = printed(80, *evaluation_shown(evaluation())).splitlines()
    assert any(line.startswith("student, the teacher's prompt  81.2%") and "80.2% (77.2" in line for line in lines)
    assert any(line.startswith("student, the teacher's prompt") and line.endswith("145 MB") for line in lines)


def test_what_nobody_has_takes_no_room() -> None:
    bare = [contestant(name, 0.5, 1.0, score=None, f1=None, per_label=None, agreement=None, groups=None, speed=None,
                       usd_per_1000=None, parameters=None, bytes=None) for name in ("base", "student")]  # fmt: skip
    on = {**evaluation()["on"], "with_gold": 0, "left_out": {}}
    shown = piped(*evaluation_shown(evaluation(contestants=bare, differences=[], judge=[], on=on)))
    assert "who      model         runtime" in shown and "right=" not in shown and "$" not in shown
    empty = evaluation(contestants=[], differences=[], judge=[])
    assert "sentiment-135m" in piped(*evaluation_shown(empty))
    assert b"What was won and lost" in student_page(manifest(), empty)


def test_nothing_hostile_reaches_a_terminal() -> None:
    shown = piped(*evaluation_shown(evil_evaluation()))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert "\\x1b[31m" in shown and "\\u202e" in shown


# -- the page --------------------------------------------------------------------------------------------------------


def evil_evaluation() -> dict[str, Any]:
    """Return an evaluation whose every text is hostile, but those that the schema has chosen, and its names too."""
    whole = evaluation()
    found: dict[str, Any] = poisoned({**whole, "on": {**whole["on"], "left_out": {HOSTILE: 3}}})
    for each in found["contestants"]:
        each["groups"] = {f"{name}{HOSTILE}": group for name, group in each["groups"].items()}
        each["per_label"] = {f"{name}{HOSTILE}": label for name, label in each["per_label"].items()}
        each["prompt"] = "student"
    found["machine"] = {HOSTILE: HOSTILE}
    return {**found, "measure": "label", "format": "evaluation/1"}


def evil_manifest() -> dict[str, Any]:
    table: dict[str, Any] = poisoned(manifest())
    table["settings"] |= {HOSTILE: HOSTILE}
    table["dataset"]["teachers"] = {HOSTILE: {"model": HOSTILE}}
    table["software"] = {HOSTILE: HOSTILE}
    return table


def test_a_page_says_what_the_evaluation_and_the_training_say(tmp_path: Path) -> None:
    page = parsed(tmp_path, student_page(manifest(), evaluation()))
    for said in (
        "Student sentiment-135m", "Labels of sentences", "87.7% (84.7 to 90.7)", "the student is 21.3 points above the base",
        "(-2.0 to 6.0): not shown to differ", "17 times the teacher's answers a second", "0.873", "$0.0363", "145 MB", "21.3 points\n",
        "2.0 points, not shown",
        "graded: 191 questions", "negative", "82.0%", "weights of step 40 kept", "stopped early", "learning_rate", short(5e-5),
        '{"r":16}', "Name it Qwen first", "apache-2.0", "3.6 GB", "10,000 draws", "$1.2 an hour", "4 at a time", "arbiter saw",
        "Macro F1: the mean over the labels", "Another seed of the training",
        "SmolLM2 is not the base", "greedy, held to the labels",
    ):  # fmt: skip
        assert said in page.text, said
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    assert len(ids) == len(set(ids)) and ids[0] == "student-evaluation" and "student-training" in ids


def test_pictures_are_read_aloud_and_without_colour(tmp_path: Path) -> None:
    page = parsed(tmp_path, student_page(manifest(), evaluation()))
    labels = [str(found["aria-label"]) for tag, found in page.tags if tag == "svg" and found.get("role") == "img"]
    right = next(each for each in labels if each.startswith("Right answers (accuracy). "))
    assert all(f"{name}: " in right for name in NAMES) and "student: 87.7% (84.7 to 90.7)" in right
    loss = next(each for each in labels if each.startswith("Loss by step. "))
    assert "training: 10.4 at step 1, 0.256 at step 50" in loss and "least 0.41 at step 40; best: step 40" in loss
    assert any("student − teacher: +2.0 (-2.0 to +6.0)" in each for each in labels)
    dashes = {found["stroke-dasharray"] for tag, found in page.tags if tag == "polyline"}
    assert len(dashes) == 2
    assert {found["stroke"] for tag, found in page.tags if tag == "polyline"} == {"currentColor"}
    assert not [found for _, found in page.tags if "style" in found]


def test_limits_are_those_of_this_evaluation() -> None:
    def limits(*contestants: dict[str, Any], gold: int = 600) -> str:
        whole = evaluation(contestants=contestants, on={**evaluation()["on"], "with_gold": gold})
        section = next(each for each in student_sections(manifest(), whole) if each.id == "student-limits")
        return "\n".join(section.parts[0].lines)

    usual = limits(contestant("student", 0.9, 1.0))
    assert "SmolLM2 is not the base" in usual and "without width" not in usual and "No question has" not in usual
    faultless = contestant("student", 1.0, 1.0, score={"value": 1.0, "low": 1.0, "high": 1.0})
    assert "An interval without width" in limits(faultless)
    assert "agreement is no accuracy" in limits(contestant("student", 0.9, 1.0, score=None), gold=0)


def test_a_student_that_nobody_evaluated_has_a_page_too(tmp_path: Path) -> None:
    page = parsed(tmp_path, student_page(manifest(), None))
    assert "Loss by step" in page.text and "What was won and lost" not in page.text and "377" in page.text
    assert [each.id for each in student_sections(manifest(), None)] == [
        "student-training", "student-settings", "student-lineage"]  # fmt: skip
    bare = {
        "name": "x",
        "training": {"loss": {"train": [[1, float("nan")]], "validation": []}},
        "dataset": {},
        "base": {},
    }
    assert b"Student x" in student_page(bare, None) and b"polyline" not in student_page(bare, None)
    assert b"loss of training as numbers" not in student_page(bare, None)


def test_the_report_of_a_version_takes_the_sections_of_a_student(project: Project) -> None:
    version = synthetic(project.folder / "datasets", "sentiment", [("x" * 16, "train", chat("?", "positive"))])
    path = project.folder / "r.html"
    write_report(path, version, None, 10, student_sections(manifest(), evaluation()))
    page = Parsed(path)
    ids = [str(found["id"]) for tag, found in page.tags if tag == "h2"]
    assert len(ids) == len(set(ids)) and ids.index("student-evaluation") < ids.index("splits")
    assert "the student is 21.3 points above the base (17.2 to 25.6)" in page.text and len(page.rows()) == 1


def test_no_text_becomes_markup_or_turns_writing_round(tmp_path: Path) -> None:
    usual = parsed(tmp_path, student_page(manifest(), evaluation()))
    page = parsed(tmp_path, student_page(evil_manifest(), evil_evaluation()))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in usual.tags}
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert len(page.raw["script"]) == len(usual.raw["script"])
    assert (
        "<script>alert(1)</script>" in page.text and "\\ud800 {{ 7*7 }}" in page.text and "\\ud800 49" not in page.text
    )
    body = page.source.split("<main>")[1].split("</main>")[0]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", body)
    assert "\\x1b[31m" in page.text


def test_a_manifest_as_its_model_will_do() -> None:
    from distillgen.student.manifest import StudentManifest

    made = StudentManifest.model_validate(copy.deepcopy(manifest()))
    assert b"377" in student_page(made, None)


# -- pictures --------------------------------------------------------------------------------------------------------


def numbers(picture: str, tag: str, name: str) -> list[float]:
    return [float(each) for each in re.findall(rf'<{tag}[^>]* {name}="([-\d.]+)"', picture)]


def test_a_curve_falls_as_its_numbers_do() -> None:
    picture = curves([Curve("training", [(1, 3.0), (2, 2.0), (4, 1.0)])], "Loss", "step")
    assert numbers(picture, "circle", "cx") == [48.0, 184.0, 456.0]
    ys = numbers(picture, "circle", "cy")
    assert ys == sorted(ys) and ys[1] - ys[0] == pytest.approx(ys[2] - ys[1])
    assert ">3<" in picture and ">1.5<" in picture and ">0<" in picture


def test_a_loss_that_falls_by_far_stands_on_a_logarithmic_scale() -> None:
    ys = numbers(curves([Curve("training", [(1, 10.0), (2, 1.0), (3, 0.1)])], "Loss", "step"), "circle", "cy")
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1]) == 60
    assert numbers(curves([Curve("x", [(1, 5e-324), (2, 1e308)])], "Loss", "step"), "circle", "cy") == [156.0, 36.0]


def test_pictures_escape_what_they_are_told() -> None:
    drawn = curves([Curve(HOSTILE, [(1, 1.0), (2, 2.0)])], HOSTILE, HOSTILE, (1, HOSTILE), said=lambda _: HOSTILE)
    drawn += dots([Dot(HOSTILE, 0.5, 0.4, 0.6, HOSTILE)], HOSTILE, ((0.0, HOSTILE), (1.0, HOSTILE)))
    assert set(re.findall(r"<(\w+)", drawn)) == {"svg", "path", "text", "polyline", "circle", "title"}
    assert "&lt;script&gt;alert(1)" in drawn


def test_curves_of_nothing_of_one_point_and_of_what_is_no_number() -> None:
    assert curves([], "Loss", "step") == "" == curves([Curve("training", [(1, float("inf"))])], "Loss", "step")
    one = curves([Curve("training", [(7, 0.5), (8, float("nan"))])], "Loss", "step", marked=(7, "best: step 7"))
    assert "nan" not in one and one.count("<circle") == 1 and "best: step 7" in one
    assert "best" not in curves([Curve("training", [(7, 0.0)])], "Loss", "step", marked=(9, "best")).split(">", 1)[1]


def test_a_long_curve_is_thinned_and_has_no_dots() -> None:
    points = [(step, float(step % 2)) for step in range(1, 1001)]
    few = thinned(points)
    assert (
        len(few) <= MOST_POINTS
        and few[-1][0] == 1000
        and sum(y for _, y in few) / len(few) == pytest.approx(0.5, abs=0.05)
    )
    assert thinned([]) == [] and thinned([(1, 0.5)]) == [(1, 0.5)]
    assert "<circle" not in curves([Curve("training", few)], "Loss", "step")


def test_a_dot_stands_where_its_figure_is_with_its_interval() -> None:
    marks = ((0.0, "0%"), (1.0, "100%"))
    picture = dots([Dot("student", 0.5, 0.25, 0.75, "50%"), Dot("base", 0.0, None, None, "0%")], "Right", marks)
    assert numbers(picture, "circle", "cx") == [230.0, 6.0]
    assert 'd="M118.0 30 H342.0' in picture and picture.count("stroke-width") == 1
    assert "Right. student: 50%; base: 0%" in picture
    assert numbers(dots([Dot("far", 9.0, -9.0, 99.0, "")], "Right", marks), "circle", "cx") == [454.0]
    assert dots([], "Right", marks) == ""
