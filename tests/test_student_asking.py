"""Measuring a student, for real: a scripted teacher whose answers are known, and smollm2-135m as base and student."""

import asyncio
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from conftest import Project, clean_environment
from loopback import Body, Loopback, Say, error, reply

from distillgen.dataset.manifest import FileEntry, Manifest
from distillgen.dataset.seal import sealed
from distillgen.dataset.versions import find_version
from distillgen.errors import (
    BudgetSpent,
    Damaged,
    ExtraMissing,
    Locked,
    MemoryFull,
    NameInvalid,
    NotFound,
    SeedsInvalid,
    Unfinished,
    UsageError,
)
from distillgen.files import Lock, file_sha256
from distillgen.schemas import schema_of
from distillgen.student import asking
from distillgen.student.answers_file import require_place, write_answers
from distillgen.student.asking import ask, taught
from distillgen.student.base import Base
from distillgen.student.contestants import Contestant, teacher_of, wanted_columns
from distillgen.student.evaluation import evaluate, evaluating
from distillgen.student.evaluation_plan import Plan, _shape_of
from distillgen.student.evaluation_request import EvaluationRequest, version_of
from distillgen.student.folder import Student
from distillgen.student.generating import _generated
from distillgen.student.judging import Judging, Match, compare
from distillgen.student.label_tokens import grammar_of, label_tokens
from distillgen.student.manifest import StudentManifest
from distillgen.student.order import wording
from distillgen.student.questions import Likeness, Question, Reading, in_lots, read_questions, templates_of
from distillgen.student.timing import turns_of
from distillgen.teacher.models import find_model, weights_path

RECIPE = """
name = "moods"

[seeds]
path = "seeds.jsonl"

[teachers.main]
base_url = "{url}"
model = "scripted"
prices = {{ input = 1.0, output = 2.0 }}
sampling = {{ max_tokens = 16, temperature = 0 }}

[[steps]]
use = "generate"
prompt = "label"
labels = ["good", "bad"]

[[steps]]
use = "filter"
preset = "labels"

[[steps]]
use = "deduplicate"
on = "text"

[student]
prompt = "Mood: {{{{ text }}}}"
completion = "{{{{ label }}}}"

[dataset]
splits = {{ train = 0.7, validation = 0.3 }}

[budget]
usd = 1.0
"""
THINGS = [
    "apple",
    "bridge",
    "candle",
    "drum",
    "engine",
    "feather",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "lamp",
]
SEEDS = [f"the {one} beside the {other} was {'lovely' if n % 2 else 'awful'} today" for n, (one, other) in enumerate(
    (one, other) for one in THINGS for other in THINGS[:4] if one != other)]  # fmt: skip
GOLD = [
    (f"{word} {thing} from the {place} we kept for {n} years", "good" if n % 2 else "bad")
    for n, (word, thing, place) in enumerate(
        (word, thing, place) for word in ("Old", "Grand") for thing in THINGS[:6] for place in ("sea", "hill")
    )
]
WRONG = {2, 5, 11}  # of the gold: what the scripted teacher gets wrong


def mood(body: Body) -> Say:
    """Label what a text says; of the gold, all but a few as they should be. A judge prefers the longer answer."""
    asked = body["messages"][-1]["content"]
    if "First answer:" in asked:
        first = asked.partition("First answer:")[2].partition("Second answer:")[0]
        second = asked.partition("Second answer:")[2]
        winner = "first" if len(first.strip()) > len(second.strip()) else "second"
        return reply(json.dumps({"critique": "The longer one says more than the other.", "winner": winner}))
    number = next((n for n, (text, _) in enumerate(GOLD) if text in asked), None)
    if number is None:
        return reply(json.dumps({"label": "good" if "lovely" in asked else "bad"}))
    gold = GOLD[number][1]
    return reply(json.dumps({"label": {"good": "bad", "bad": "good"}[gold] if number in WRONG else gold}))


def nothing(_: Any) -> None:
    """Hear no event."""


@pytest.fixture(scope="module")
def weights() -> Path:
    """The file of the embedded model, of which base and student are made here."""
    return weights_path(find_model("smollm2-135m"))


@pytest.fixture(scope="module")
def served() -> Iterator[Loopback]:
    """One scripted teacher for all: its address is in the version."""
    server = Loopback()
    yield server
    server.close()


@pytest.fixture(scope="module")
def built(served: Loopback, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A version of labelled texts, and a file of gold: 24 texts, the teacher right on 21 of them."""
    served.behave = mood
    project = Project(tmp_path_factory.mktemp("moods"))
    project.write("recipe.toml", RECIPE.format(url=served.url))
    project.seeds([{"text": text} for text in SEEDS])
    project.build()
    sizes = ["big" if n < 12 else "small" for n in range(len(GOLD))]
    rows = [{"text": text, "gold": gold, "size": size} for (text, gold), size in zip(GOLD, sizes, strict=True)]
    project.seeds(rows, "gold.jsonl")
    return project


@pytest.fixture
def loopback(served: Loopback) -> Loopback:
    """The scripted teacher, who has not been asked anything yet."""
    served.behave = mood
    served.bodies.clear()
    return served


@pytest.fixture
def moods(project: Project, built: Project, loopback: Loopback) -> Project:
    """The built project, as often as it is wanted."""
    shutil.copytree(built.folder, project.folder, dirs_exist_ok=True, symlinks=True)
    return project


@pytest.fixture
def student(moods: Project, weights: Path) -> Student:
    """A student of the version, with the untouched weights as its GGUF file."""
    folder = moods.folder / "student"
    folder.mkdir()
    (folder / "student.gguf").symlink_to(weights)
    manifest = moods.manifest(name="moods")
    size = weights.stat().st_size
    return Student(folder, StudentManifest(
        name="moods-student", created="2026-11-26", distillgen="0",
        dataset={"name": "moods", "version": 1, "digest": manifest["digest"], "rows": manifest["rows"]},
        base={"name": "smollm2-135m", "sha256": "b" * 64, "parameters": 134_515_008}, settings={}, training={},
        software={}, files={"student.gguf": FileEntry(bytes=size, sha256=find_model("smollm2-135m").sha256)},
    ))  # fmt: skip


@pytest.fixture
def base(moods: Project, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    """The same weights as base: the cache holds them as a GGUF file in the student's quantisation."""
    cache = moods.folder / "cache"
    (cache / "models").mkdir(parents=True)
    (cache / "models" / f"base-{'b' * 12}-{wording(moods.folder)[:8]}-q8_0.gguf").symlink_to(weights)
    monkeypatch.setenv("DISTILLGEN_CACHE", str(cache))
    return Base("smollm2-135m", moods.folder, weights, "SmolLM2", "Apache-2.0", "b" * 64, 134_515_008, 2048, 1)


def request(project: Project, student: Student, on: str = "gold.jsonl", **more: Any) -> EvaluationRequest:
    path = str(project.folder / on) if "." in on else on
    return EvaluationRequest(student, path, project.folder, **{"time": 0, **more})


def named(evaluation: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in evaluation["contestants"] if each["name"] == name)


def without_times(evaluation: dict[str, Any]) -> dict[str, Any]:
    contestants = [{**each, "speed": None, "usd_per_1000": None} for each in evaluation["contestants"]]
    return {**evaluation, "date": "", "contestants": contestants}


def check_schema(evaluation: dict[str, Any]) -> None:
    validator = jsonschema_rs.validator_for(schema_of("student-evaluate"))
    assert not [error.message for error in validator.iter_errors(evaluation)]


# -- questions -----------------------------------------------------------------------------------------------------


def questions_of(project: Project, on: str = "gold.jsonl", how: Reading | None = None) -> Any:
    version = find_version("moods", project.folder / "datasets")
    path = str(project.folder / on) if "." in on else on
    return read_questions(path, version, version.manifest.recipe["student"], how or Reading())


def test_rows_of_a_file_become_what_the_student_is_shown(moods: Project) -> None:
    found = questions_of(moods, how=Reading(by="size"))
    first = found.asked[0]
    assert first.messages == [{"role": "user", "content": f"Mood: {GOLD[0][0]}"}]
    assert (first.gold, first.taught, first.group) == ("bad", None, "big")
    assert found.dump() == {
        "what": "gold.jsonl", "sha256": file_sha256(moods.folder / "gold.jsonl"), "questions": 24, "with_gold": 24,
        "left_out": {"overlap": 0, "duplicates": 0},
    }  # fmt: skip


def test_what_was_trained_on_and_what_comes_twice_is_left_out_and_counted(moods: Project) -> None:
    rows = [
        {"text": SEEDS[3].upper(), "gold": "good"},  # trained on, but for case
        {"text": SEEDS[5] + " again", "gold": "good"},  # nearly
        {"text": GOLD[0][0], "gold": "bad"},
        {"text": f"  {GOLD[0][0]} ", "gold": "bad"},  # twice
        {"text": GOLD[0][0] + " or so", "gold": "bad"},  # nearly twice
        {"text": GOLD[1][0], "gold": "good"},
    ]
    moods.seeds(rows, "mixed.jsonl")
    found = questions_of(moods, "mixed.jsonl")
    assert found.left_out == {"overlap": 2, "duplicates": 2}
    assert [question.columns["text"] for question in found.asked] == [GOLD[0][0], GOLD[1][0]]
    moods.seeds(rows[:2], "known.jsonl")
    with pytest.raises(UsageError, match="no question is left: 2 by overlap"):
        questions_of(moods, "known.jsonl")


def test_a_template_that_all_questions_share_makes_nothing_alike() -> None:
    shown = [f"Read this text with care and say which mood it has: {thing} is near" for thing in THINGS]
    assert Likeness(shown, list).to_earlier(set()) == set()
    teapot = "Read this text with care and say which mood it has: teapot is near"
    assert Likeness(shown, lambda: [teapot]).to_known() == set()
    assert Likeness(shown, lambda: [shown[4]]).to_known() == {4}
    known = [f"Be brief. What is number {n}?" for n in range(40)]
    few = ["Be brief. What is number 41?", "Be brief. What is number 7?"]
    assert Likeness(few, list).to_earlier(set()) == {1} and Likeness(few, lambda: known).to_earlier(set()) == set()
    assert Likeness(few, lambda: known).to_known() == {1}, (
        "few questions do not show the template, what was trained on does"
    )
    road = "a long and winding road home"
    assert Likeness([road], lambda: ["A long and winding road to home"]).to_known() == {0}


def test_a_limit_takes_the_same_rows_whatever_else_is_there(moods: Project) -> None:
    few = questions_of(moods, how=Reading(limit=6)).asked
    assert len(few) == 6
    moods.seeds([{"text": text, "gold": gold, "size": "big" if n < 12 else "small"}
                 for n, (text, gold) in reversed(list(enumerate(GOLD)))], "turned.jsonl")  # fmt: skip
    turned = questions_of(moods, "turned.jsonl", Reading(limit=6)).asked
    assert {question.id for question in few} == {question.id for question in turned}


def test_a_split_brings_the_teachers_answers_and_the_seeds_own_columns(moods: Project) -> None:
    found = questions_of(moods, "validation")
    rows = [row for row in moods.sidecar("provenance", name="moods") if row["split"] == "validation"]
    assert len(found.asked) + found.left_out["overlap"] + found.left_out["duplicates"] == len(rows)
    assert all(question.taught == ("good" if "lovely" in question.text else "bad") for question in found.asked)
    assert all(question.replies[0]["tokens"]["completion"] == 11 for question in found.asked)
    assert "stopped by" in found.warnings[0]
    train = questions_of(moods, "train")
    assert "was trained on" in train.warnings[0] and train.left_out == {"overlap": 0, "duplicates": 0}


@pytest.mark.parametrize(
    ("rows", "how", "what", "fix"),
    [
        pytest.param([{"sentence": "x"}], Reading(), "no column 'text', which", "the file has 'sentence'", id="template"),
        pytest.param([{"text": "x"}], Reading(wanted={"place": "prompt 'label'"}), "'place', which prompt 'label'", "'text'",
                     id="prompt"),
        pytest.param([{"text": "x"}], Reading(gold="mood"), "no column 'mood', which --gold", "'text'", id="gold"),
        pytest.param([{"text": "x"}], Reading(by="kind"), "no column 'kind', which --by", "'text'", id="by"),
        pytest.param([], Reading(), "not a single question", "one a line", id="empty"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_do(moods: Project, rows: Any, how: Reading, what: str, fix: str) -> None:
    moods.seeds(rows, "wrong.jsonl")
    with pytest.raises(UsageError) as caught:
        questions_of(moods, "wrong.jsonl", how)
    assert what in str(caught.value) and fix in str(caught.value)


def test_neither_a_file_nor_a_split(moods: Project) -> None:
    with pytest.raises(UsageError, match="neither a file nor a split") as caught:
        questions_of(moods, "tests")
    assert "moods@1 has the splits train, validation" in str(caught.value)


def test_a_row_without_gold_is_asked_all_the_same(moods: Project) -> None:
    moods.seeds([{"text": GOLD[0][0], "gold": ""}, {"text": GOLD[1][0], "gold": None}, {"text": GOLD[2][0], "gold": 3}],
                "some.jsonl")  # fmt: skip
    found = questions_of(moods, "some.jsonl")
    assert [question.gold for question in found.asked] == [None, None, "3"] and found.with_gold == 1


# -- how the teacher is asked ------------------------------------------------------------------------------------------


def contestant(moods: Project, **changes: Any) -> Any:
    manifest = moods.manifest(name="moods")
    recipe = {**manifest["recipe"], **{key: value for key, value in changes.items() if key not in ("name", "budget")}}
    templates = templates_of(recipe["student"])
    return teacher_of(
        recipe, manifest["prompts"], templates, project=moods.folder, name=changes.get("name"),
        budget=changes.get("budget"),
    )  # fmt: skip


def test_the_teacher_is_asked_by_the_steps_that_ask_and_no_others(moods: Project) -> None:
    teacher = contestant(moods)
    assert [step["use"] for step in teacher.table["steps"]] == ["generate"]
    assert wanted_columns(teacher) == {"text": "prompt 'label'"}
    assert teacher.table["terms"]["purpose"] == "evaluation" and teacher.table["budget"] == {"usd": 1.0}
    assert not teacher.is_free and teacher.runtime == "the provider" and teacher.model == "scripted"
    assert contestant(moods, budget=0.5).table["budget"] == {"usd": 0.5}


def test_samples_are_asked_for_where_something_chooses_among_them(moods: Project) -> None:
    generate = {"use": "generate", "prompt": "label", "labels": ["good", "bad"], "samples": 3}
    assert contestant(moods, steps=[generate]).table["steps"][0]["samples"] == 1
    vote = {"use": "select", "keep": "majority", "on": "label"}
    assert [step.get("samples") for step in contestant(moods, steps=[generate, vote]).table["steps"]] == [3, None]
    checked = {"use": "verify", "how": "exact", "keep": "all", "write": "right"}
    best = {"use": "select", "keep": "best", "by": "right"}
    assert [step["use"] for step in contestant(moods, steps=[generate, checked, best]).table["steps"]] == ["generate"]


def test_a_step_that_makes_the_question_is_not_asked(moods: Project) -> None:
    steps = [
        {"use": "generate", "prompt": "rewrite", "write": {"rewritten": "text"}},
        {"use": "generate", "prompt": "label", "labels": ["good", "bad"]},
    ]
    try:
        found = contestant(moods, steps=steps)
    except UsageError:
        pytest.fail("the second step answers")
    assert [step["prompt"] for step in found.table["steps"]][-1] == "label"
    with pytest.raises(UsageError, match="no step of moods answers"):
        contestant(moods, steps=[{"use": "generate", "prompt": "answer", "write": {"answer": "text"}}])


def test_whom_to_ask_by_name(moods: Project) -> None:
    assert contestant(moods, name="main").table["steps"][0]["teacher"] == "main"
    embedded = contestant(moods, name="smollm2-135m")
    assert embedded.is_free and embedded.bytes == find_model("smollm2-135m").bytes
    assert contestant(moods, name="deepseek/deepseek-flash").main["sampling"] == {"max_tokens": 16, "temperature": 0}
    with pytest.raises(UsageError, match="unknown teacher 'mian'") as caught:
        contestant(moods, name="mian")
    assert "did you mean 'main'?" in str(caught.value)


def test_paths_of_a_teacher_start_from_the_project(moods: Project) -> None:
    (moods.folder / "own.gguf").write_bytes(b"GGUF")
    found = contestant(moods, teachers={"main": {"provider": "embedded", "gguf": "own.gguf"}})
    assert found.main["gguf"] == str(moods.folder.resolve() / "own.gguf") and found.bytes == 4


def test_a_mix_says_nothing_of_how_to_ask(moods: Project) -> None:
    with pytest.raises(UsageError, match="is a mix") as caught:
        teacher_of({"name": "both", "mix": []}, {}, templates_of({}), project=moods.folder, name=None)
    assert "--recipe FILE" in str(caught.value)


# -- a version that came from elsewhere ------------------------------------------------------------------------------


def from_elsewhere(project: Project, **changes: Any) -> None:
    """Make the version one that was pulled, with another recipe or prompts, sealed as its maker would seal it."""
    path = project.version(name="moods") / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest |= changes
    manifest["run"]["pulled"] = {"from": "hf://somebody/moods", "version": 1, "parent": None}
    path.chmod(0o644)
    path.write_bytes(sealed(Manifest.model_validate(manifest).dump()))


@pytest.mark.parametrize("name", ["../../outside", "/tmp/distillgen-outside", "a\\b", "", "x" * 300, "a\0b"])
def test_no_name_of_a_prompt_leads_out_of_its_folder(moods: Project, name: str) -> None:
    manifest = moods.manifest(name="moods")
    with pytest.raises(NameInvalid, match="cannot be a file in a folder of prompts"):
        teacher_of(
            manifest["recipe"],
            {**manifest["prompts"], name: "x = 1"},
            templates_of({}),
            project=moods.folder,
            name=None,
        )
    from_elsewhere(moods, prompts={**manifest["prompts"], name: "x = 1"})
    with pytest.raises(Damaged):
        find_version("moods", moods.folder / "datasets")


STOLEN = {"provider": None, "base_url": "https://elsewhere.example/v1", "model": "m", "api_key_env": "OPENAI_API_KEY"}


@pytest.mark.parametrize(
    ("teacher", "options", "is_refused"),
    [
        pytest.param(STOLEN, {}, True, id="address-and-key"),
        pytest.param({"provider": "deepseek", "model": "m", "api_key_file": "~/.token"}, {}, True, id="key-file"),
        pytest.param(
            {"provider": "deepseek", "model": "m", "prices": {"input": 0, "output": 0}}, {}, True, id="prices"
        ),
        pytest.param({"provider": "deepseek", "model": "m"}, {}, False, id="a-provider-as-it-is"),
        pytest.param(STOLEN, {"teacher": "none"}, False, id="nobody"),
        pytest.param(STOLEN, {"teacher": "none", "base": "base", "judge": "main"}, True, id="judge"),
        pytest.param(STOLEN, {"teacher": "smollm2-135m"}, False, id="another"),
    ],
)
def test_a_recipe_from_elsewhere_does_not_say_where_our_key_goes(
    moods: Project, student: Student, base: Base, loopback: Loopback, teacher: Any, options: Any, is_refused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ours")
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-ours")
    recipe = moods.manifest(name="moods")["recipe"]
    told = {key: value for key, value in teacher.items() if value is not None}
    from_elsewhere(moods, recipe={**recipe, "teachers": {"main": told}, "budget": {}})
    asked = request(moods, student, **{**options, **({"base": base} if "base" in options else {})})
    if is_refused:
        with pytest.raises(UsageError, match="the recipe is from hf://somebody/moods") as caught:
            Plan(asked, nothing)
        assert "--recipe FILE" in str(caught.value) and "sk-ours" not in str(caught.value)
    else:
        assert Plan(asked, nothing).contestants
    assert loopback.seen == 0


def test_what_a_recipe_of_ours_says_may_be_done(moods: Project, student: Student, loopback: Loopback) -> None:
    """The address and the prices are those of recipe.toml in the project."""
    from_elsewhere(moods)
    assert Plan(request(moods, student), nothing).teacher
    moods.edit("input = 1.0", "input = 2.0")
    with pytest.raises(UsageError, match="by its own base_url, prices"):
        Plan(request(moods, student), nothing)
    assert Plan(request(moods, student, recipe=moods.recipe), nothing).teacher


def test_a_grammar_holds_labels_to_their_tokens() -> None:
    assert grammar_of([[7, 12], [7], [301]]) == "root ::= <[7]> <[12]> | <[7]> | <[301]>"


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_labels_are_taken_apart_as_the_model_writes_them(tmp_path: Path) -> None:
    gguf = weights_path(find_model("smollm2-135m"))
    labels = ["toxic", "non-toxic", "1", "10", "bug", "bug report", 'say "x"\n', "<|im_end|>"]
    toxic, non_toxic, one, ten, bug, report, *others = label_tokens(gguf, labels, tmp_path / "log")
    assert len(toxic) == 1 and non_toxic[-1:] == toxic and len(non_toxic) == 3
    assert ten[:1] == one and report[:1] == bug and len(report) == 2
    assert all(len(each) > 1 for each in others), "and what looks like a special token is a text"
    with pytest.raises(UsageError, match="reading the tokens of"):
        label_tokens(tmp_path / "none.gguf", labels, tmp_path / "log")


def test_a_reply_of_no_use_is_no_answer(moods: Project, loopback: Loopback) -> None:
    def behave(body: Body) -> Say:
        asked = body["messages"][-1]["content"]
        return reply("dunno") if GOLD[0][0] in asked or "once more" in asked else mood(body)

    loopback.behave = behave
    asked = questions_of(moods).asked
    answers = asyncio.run(ask(contestant(moods), asked, moods.folder / "state", nothing))
    assert [question.gold for question in asked if answers.texts[question.id] is None] == ["bad"]
    assert answers.why_not == {"schema": 1} and len(answers.received) == len(asked) - 1


def test_what_fails_for_now_ends_the_evaluation_and_nothing_is_lost(moods: Project, loopback: Loopback) -> None:
    asked = questions_of(moods).asked
    down = error(503, "overloaded", retry_after=0)
    loopback.behave = lambda body: down if GOLD[7][0] in body["messages"][-1]["content"] else mood(body)
    with pytest.raises(Unfinished, match="1 questions have no answer of teacher yet"):
        asyncio.run(ask(contestant(moods), asked, moods.folder / "state", nothing))
    loopback.behave, before = mood, loopback.seen
    answers = asyncio.run(ask(contestant(moods), asked, moods.folder / "state", nothing))
    assert loopback.seen == before + 1 and None not in answers.texts.values()


# -- the clock -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("there", "count"), [(200, 60), (24, 60), (10, 60), (4, 60), (2, 60), (200, 1), (200, 3)])
def test_no_question_is_timed_twice(there: int, count: int) -> None:
    questions = [Question(str(n), {}, [], None, None, None) for n in range(there)]
    turns = turns_of(questions, count)
    used = [question.id for turn in turns for question in (*turn.warm_up, *turn.timed)]
    assert len(used) == len(set(used)) and all(turn.warm_up and turn.timed for turn in turns)
    assert sum(len(turn.timed) for turn in turns) <= count
    assert [question.id for question in in_lots(questions)[: len(turns[0].timed)]] or turns


def test_nothing_is_timed_where_there_is_nothing_to_time() -> None:
    questions = [Question(str(n), {}, [], None, None, None) for n in range(9)]
    assert turns_of(questions, 0) == [] and turns_of(questions[:1], 60) == []


# -- the whole -----------------------------------------------------------------------------------------------------


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_teacher_base_and_student_on_gold(moods: Project, student: Student, base: Base, loopback: Loopback) -> None:
    told: list[Any] = []
    evaluation = evaluate(request(moods, student, base=base, by="size", usd_per_hour=3.6, time=12), told.append)
    check_schema(evaluation)
    assert [each["name"] for each in evaluation["contestants"]] == ["teacher", "base", "student"]
    teacher = named(evaluation, "teacher")
    assert teacher["score"]["value"] == 21 / 24 and loopback.seen == 24
    assert teacher["groups"]["big"] == {
        "questions": 12,
        "value": 9 / 12,
        "low": pytest.approx(0.5, abs=0.1),
        "high": 1.0,
    }
    assert teacher["usd_per_1000"] == {"value": 0.029, "from": "prices"}  # 7 and 11 tokens at $1 and $2 a million
    assert teacher["speed"]["questions"] == 24 and "of the calls" in teacher["speed"]["how"]
    mine, before = named(evaluation, "student"), named(evaluation, "base")
    assert mine["answered"] == 24 and mine["unreadable"] == 0 and "held to the labels" in mine["how"]
    assert mine["speed"]["questions"] == 12 and mine["usd_per_1000"]["from"] == "$3.6 an hour"
    assert mine["usd_per_1000"]["value"] == pytest.approx(1 / mine["speed"]["per_second"], rel=1e-3)
    assert {**mine, "name": "", "model": "", "speed": 0, "usd_per_1000": 0} == {
        **before, "name": "", "model": "", "speed": 0, "usd_per_1000": 0
    }  # fmt: skip
    same = next(each for each in evaluation["differences"] if each["from"] == "base" and "what" not in each)
    assert (same["value"], same["low"], same["high"]) == (0.0, 0.0, 0.0)
    again = evaluate(request(moods, student, base=base, by="size", usd_per_hour=3.6), nothing)
    assert without_times(again) == without_times(evaluation) and loopback.seen == 24, "nothing is asked twice"
    assert {event["who"] for event in told if event["event"] == "asked"} >= {"teacher", "base", "student"}


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_equal_prompts_and_a_judge(moods: Project, student: Student, loopback: Loopback) -> None:
    evaluation = evaluate(request(moods, student, equal_prompts=True, limit=8, judge="main"), nothing)
    check_schema(evaluation)
    assert [each["name"] for each in evaluation["contestants"]] == [
        "teacher",
        "student",
        "student, the teacher's prompt",
    ]
    equal = named(evaluation, "student, the teacher's prompt")
    assert equal["prompt"] == "teacher" and equal["tokens"]["prompt"] > named(evaluation, "student")["tokens"]["prompt"]
    [judge] = evaluation["judge"]
    assert (judge["of"], judge["from"]) == ("student", "teacher") and judge["pairs"] == 8 == judge["wins"] + judge[
        "ties"
    ] + judge["losses"]
    asked = [body for body in loopback.bodies if "First answer:" in body["messages"][-1]["content"]]
    assert judge["seen"] == judge["wins"] + judge["losses"] == 8 - judge["alike"]
    assert len(asked) == 2 * judge["seen"], "each pair that differs in both orders, and no other"
    agreement = named(evaluation, "student")["agreement"]["value"]
    assert agreement == judge["ties"] / 8


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_what_everybody_said_is_told_question_by_question(moods: Project, student: Student) -> None:
    found = asyncio.run(evaluating(request(moods, student), nothing))
    assert [(each["question"], each["gold"]) for each in found.answers] == [
        (f"Mood: {text}", gold) for text, gold in GOLD
    ]
    assert [n for n, each in enumerate(found.answers) if not each["right"]["teacher"]] == sorted(WRONG)
    right = sum(each["answers"]["student"] == each["gold"] for each in found.answers)
    assert right / len(found.answers) == named(found.figures, "student")["score"]["value"]


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_on_a_split_the_teacher_is_paid_already(moods: Project, student: Student, loopback: Loopback) -> None:
    evaluation = evaluate(request(moods, student, "validation"), nothing)
    check_schema(evaluation)
    assert loopback.seen == 0
    teacher = named(evaluation, "teacher")
    assert teacher["score"] is None and teacher["agreement"] is None and teacher["how"] == "its answers in the version"
    assert teacher["answered"] == evaluation["on"]["questions"] and teacher["usd_per_1000"]["value"] == 0.029
    assert named(evaluation, "student")["agreement"]["value"] is not None
    assert any("stopped by" in note for note in evaluation["notes"])


def test_rows_that_only_test_are_asked_about(moods: Project) -> None:
    """The training sees `train` and `validation`; what is in another split is new to it."""
    moods.edit("train = 0.7, validation = 0.3", "train = 0.6, validation = 0.2, test = 0.2")
    moods.build()
    held_out = [row for row in moods.sidecar("provenance", 2, "moods") if row["split"] == "test"]
    seen = [row for row in moods.sidecar("provenance", 2, "moods") if row["split"] != "test"]
    moods.seeds([{"text": row["columns"]["text"], "gold": "good"} for row in [*held_out, *seen[:3]]], "hand.jsonl")
    version = find_version("moods", moods.folder / "datasets")
    student = moods.manifest(2, "moods")["recipe"]["student"]
    found = read_questions(str(moods.folder / "hand.jsonl"), version, student, Reading())
    assert len(held_out) > 3 and len(found.asked) == len(held_out) and found.left_out["overlap"] == 3


def test_replies_that_were_not_chosen_were_paid_for_too(moods: Project, loopback: Loopback) -> None:
    vote = '[[steps]]\nuse = "select"\nkeep = "majority"\non = "label"\n\n[[steps]]\nuse = "filter"'
    moods.edit('[[steps]]\nuse = "filter"', vote)
    moods.edit('labels = ["good", "bad"]', 'labels = ["good", "bad"]\nsamples = 3')
    moods.edit("temperature = 0", "temperature = 1.0")
    moods.build()
    version = find_version("moods", moods.folder / "datasets")
    found = read_questions("validation", version, version.manifest.recipe["student"], Reading())
    assert len(found.asked) > 5 and all(len(question.replies) == 3 for question in found.asked)
    assert len(taught(found.asked).replies) == 3 * len(found.asked)


def test_samples_that_were_not_chosen_are_no_lack_of_an_answer(moods: Project, loopback: Loopback) -> None:
    steps = [
        {"use": "generate", "prompt": "label", "labels": ["good", "bad"], "samples": 3},
        {"use": "select", "keep": "majority", "on": "label"},
    ]
    questions = questions_of(moods).asked[:5]
    answers = asyncio.run(ask(contestant(moods, steps=steps), questions, moods.folder / "state", nothing))
    assert len(answers.replies) == 15 and None not in answers.texts.values() and answers.why_not == {}


def test_two_at_once_do_not_both_pay(moods: Project, student: Student, loopback: Loopback) -> None:
    with Lock(moods.folder / ".distillgen" / "evaluate.lock"), pytest.raises(Locked):
        evaluate(request(moods, student), nothing)
    assert loopback.seen == 0


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_what_an_evaluation_paid_for_is_not_cleared_away(moods: Project, student: Student, loopback: Loopback) -> None:
    """`gc` takes what no version and no recipe needs; an evaluation that is made again still needs its answers."""
    first = evaluate(request(moods, student, limit=6, judge="main"), nothing)
    assert first["notes"][0].startswith("the judge is the teacher itself")
    paid, before = loopback.seen, stored(moods.folder / ".distillgen/answers.sqlite")
    done = moods.run("gc", "--answers", "--older-than", "0d", "--yes")
    assert done.returncode == 0, done.stderr
    assert stored(moods.folder / ".distillgen/answers.sqlite") == before
    again = evaluate(request(moods, student, limit=6, judge="main"), nothing)
    assert loopback.seen == paid and again["judge"] == first["judge"]
    let_go = moods.run("gc", "--answers", "--older-than", "0d", "--yes", "--even-of", "evaluation")
    assert let_go.returncode == 0 and stored(moods.folder / ".distillgen/answers.sqlite") == len(SEEDS)
    (moods.folder / ".distillgen/evaluations").mkdir(exist_ok=True)
    moods.write(".distillgen/evaluations/x.json", "[1")
    damaged = moods.run("gc", "--answers")
    assert damaged.returncode == 8 and "--even-of evaluation" in damaged.stderr


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_nobody_but_the_student(moods: Project, student: Student, loopback: Loopback) -> None:
    evaluation = evaluate(request(moods, student, teacher="none"), nothing)
    check_schema(evaluation)
    assert [each["name"] for each in evaluation["contestants"]] == ["student"] and evaluation["differences"] == []
    assert loopback.seen == 0


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_an_embedded_teacher_is_timed_in_turns_with_the_student(moods: Project, student: Student) -> None:
    told: list[Any] = []
    how: dict[str, Any] = {"teacher": "smollm2-135m", "equal_prompts": True, "limit": 8, "time": 4, "measure": "exact"}
    evaluation = evaluate(request(moods, student, usd_per_hour=1.0, **how), told.append)
    check_schema(evaluation)
    turns = list(
        dict.fromkeys(
            (each["who"], each["done"]) for each in told if each["event"] == "asked" and "clock" in each["who"]
        )
    )
    names = ["teacher", "student", "student, the teacher's prompt"]
    assert turns == [(f"{name} by the clock", done) for done in (2, 4) for name in names]
    assert all(named(evaluation, name)["speed"]["questions"] == 4 for name in names)
    assert all(named(evaluation, name)["usd_per_1000"]["from"] == "$1 an hour" for name in names)
    teacher, equal = named(evaluation, "teacher"), named(evaluation, names[2])
    assert teacher["tokens"] == equal["tokens"] and equal["agreement"]["value"] == 1.0, "the same weights, asked alike"
    assert evaluation["measure"] == "exact" and evaluation["labels"] == [] and teacher["f1"] is None


RATIONALE = """description = "Why, then a label"
user = "Say why {{ text }} is {{ labels | join(' or ') }}"
output = "json"
writes = ["label", "why"]
[schema]
type = "object"
required = ["why", "label"]
properties = { why = { type = "string" }, label = { type = "string" } }
[reads]
text = "the text"
[values]
labels = []
"""


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_a_label_that_comes_after_its_reason_is_read_there(
    moods: Project, student: Student, loopback: Loopback
) -> None:
    def why(body: Body) -> Say:
        label = json.loads(json.loads(mood(body).body)["choices"][0]["message"]["content"])["label"]
        return reply(json.dumps({"why": "Good words and bad ones are in it.", "label": label}))

    loopback.behave = why
    moods.write("prompts/why.toml", RATIONALE)
    moods.edit('prompt = "label"', 'prompt = "why"')
    moods.edit('completion = "{{ label }}"', 'completion = "{{ why }}\\n\\nLabel: {{ label }}"')
    moods.build()
    made = {**student.manifest.dataset, "digest": moods.manifest(2, name="moods")["digest"], "version": 2}
    later = Student(student.folder, student.manifest.model_copy(update={"dataset": made}))
    evaluation = evaluate(request(moods, later, max_tokens=8, limit=None), nothing)
    assert named(evaluation, "teacher")["score"]["value"] == 21 / 24
    assert "free text" in named(evaluation, "student")["how"]


SCRIPT = """
import sys
from pathlib import Path
from distillgen.dataset.manifest import FileEntry
from distillgen.student.evaluation import evaluate, evaluating
from distillgen.student.evaluation_request import EvaluationRequest
from distillgen.student.folder import Student
from distillgen.student.manifest import StudentManifest
folder = Path(sys.argv[1])
manifest = StudentManifest.model_validate_json((folder / "student.json").read_bytes())
request = EvaluationRequest(Student(folder / "student", manifest), str(folder / "gold.jsonl"), folder, time=0)
evaluate(request, lambda event: None)
"""


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_a_killed_evaluation_goes_on_and_asks_nothing_twice(
    moods: Project, student: Student, loopback: Loopback
) -> None:
    moods.write("student.json", student.manifest.model_dump_json())
    moods.write("evaluate.py", SCRIPT)

    def slowly(body: Body) -> Say:
        said = mood(body)
        return Say(body=said.body, wait=0.0 if loopback.seen <= 10 else 600.0)

    loopback.behave = slowly
    command = [sys.executable, str(moods.folder / "evaluate.py"), str(moods.folder)]
    process = subprocess.Popen(command, cwd=moods.folder, env=clean_environment(), stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    store = moods.folder / ".distillgen/answers.sqlite"
    while stored(store) < len(SEEDS) + 10:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    answered = {text for text, _ in GOLD if any(text in asked for asked in loopback.asked[:10])}
    assert len(answered) == 10
    loopback.behave = mood
    before = loopback.seen
    evaluation = evaluate(request(moods, student), nothing)
    assert named(evaluation, "teacher")["score"]["value"] == 21 / 24
    assert loopback.seen - before == 14
    assert not any(text in asked for text in answered for asked in loopback.asked[before:])


def stored(store: Path) -> int:
    import sqlite3

    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
    finally:
        connection.close()


# -- a child of transformers that ends early ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "kind", "what"),
    [
        pytest.param("exit 3", UsageError, "exit status 3", id="before-it-has-read"),
        pytest.param('read line; printf \'{"key": "a\'; kill -9 $$', MemoryFull, "killed from outside", id="in-a-line"),
    ],
)
def test_a_child_that_ends_early_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, kind: type[Exception], what: str
) -> None:
    child = tmp_path / "python"
    child.write_text(f"#!/bin/sh\n{script}\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    who = Contestant("student", "tiny", "student", {}, {}, folder=tmp_path, max_tokens=8)
    long = Question("a", {}, [{"role": "user", "content": "x" * 300_000}], None, None, None)  # more than a pipe holds
    with pytest.raises(kind, match=what):
        list(_generated(who, {"a": long}, tmp_path / "log"))


# -- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learnt", "held", "last"),
    [
        pytest.param([("", "good"), ("", "bad, for it is")], True, False, id="label-first"),
        pytest.param([("so and so", "good")], False, False, id="a-trace-before-it"),
        pytest.param([("", "why\n\nLabel: good"), ("", "so it is bad")], False, True, id="label-last"),
        pytest.param([("", "good"), ("", "it is bad, I say")], False, False, id="anywhere"),
    ],
)
def test_where_the_label_stands_in_what_was_learnt(learnt: list[tuple[str, str]], held: bool, last: bool) -> None:
    shape = _shape_of(learnt, ["bad", "good"])
    assert (shape.is_label_all, shape.is_label_last) == (held, last)
    assert not _shape_of(learnt, []).is_label_all


def test_the_labels_are_those_of_the_recipe_and_of_the_rows(moods: Project, student: Student) -> None:
    plan = Plan(request(moods, student, teacher="none"), nothing)
    assert plan.shape.is_label_all and plan.labels == ["bad", "good"]
    plan.recipe = {"steps": [{"use": "generate", "labels": ["good", "odd", "bad"]}]}
    assert plan._labels() == ["bad", "good", "odd"], "a label that no row has is one all the same"
    plan.recipe = {"steps": [{"use": "generate", "labels": ["GOOD", "BAD"]}]}
    assert plan._labels() == ["bad", "good"], "as the student spells them"


def test_without_the_dataset_a_file_is_asked_and_what_is_not_known_is_said(
    moods: Project, student: Student, tmp_path: Path
) -> None:
    made_of = {**moods.manifest(name="moods"), "example": [
        {"role": "user", "content": "Mood: x"}, {"role": "assistant", "content": "good"}
    ]}  # fmt: skip
    alone = Student(student.folder, student.manifest.model_copy(update={"dataset": made_of}))
    asked = EvaluationRequest(alone, str(moods.folder / "gold.jsonl"), tmp_path / "elsewhere", teacher="none", time=0)
    plan = Plan(asked, nothing)
    assert plan.version is None and len(plan.questions.asked) == 24 and plan.questions.left_out == {"duplicates": 0}
    assert plan.questions.asked[0].text == f"Mood: {GOLD[0][0]}" and plan.labels == ["bad", "good"]
    assert plan.shape.is_label_all and any("could not be left out" in note for note in plan.notes)
    plan.recipe = {**plan.recipe, "student": {"reasoning": "{{ why }}"}}
    assert not _shape_of(plan._learnt(), plan.labels).is_label_all, "it writes its reasons first"
    manifest = alone.manifest.model_copy(update={"training": {"reasoning": "drop"}})
    plan.request = replace(asked, student=Student(alone.folder, manifest))
    assert _shape_of(plan._learnt(), plan.labels).is_label_all, "they were left out in training"
    with pytest.raises(NotFound, match="trained on moods@1") as caught:
        Plan(replace(asked, teacher=None), nothing)
    assert "--teacher none" in str(caught.value)
    with pytest.raises(NotFound):
        Plan(replace(asked, on="validation"), nothing)


def test_equal_prompts_without_a_teacher_are_a_note(moods: Project, student: Student) -> None:
    plan = Plan(request(moods, student, teacher="none", equal_prompts=True, limit=6), nothing)
    assert [each.name for each in plan.contestants] == ["student"]
    assert any("no teacher is asked" in note for note in plan.notes)
    assert plan.questions.left_out["limit"] == 18, "nobody takes a part for the whole"


def test_a_judge_gets_what_is_left_of_the_budget_and_is_judged_by_the_recipes_terms(moods: Project) -> None:
    recipe = {**moods.manifest(name="moods")["recipe"], "terms": {"competing": "no", "purpose": "product"}}
    table = Judging("main", recipe, moods.folder, 1.0).contestant(0.25).table
    assert table["budget"] == {"usd": 0.75} and table["terms"] == {"competing": "no", "purpose": "evaluation"}
    assert 0 < Judging("main", recipe, moods.folder, 1.0).contestant(2.0).table["budget"]["usd"] < 1e-6
    assert Judging("main", recipe, moods.folder).contestant().table["budget"] == {}


def test_a_judge_sees_what_differs_and_no_more(moods: Project, loopback: Loopback) -> None:
    asked = questions_of(moods, how=Reading(limit=4)).asked
    a, b, c, d = (question.id for question in asked)
    teacher = {a: "good", b: "bad", c: "a long good answer", d: "good"}
    mine = Match("student", "teacher", {a: "Good", b: None, c: "short", d: "a longer one"}, teacher)
    before = Match("base", "teacher", {a: "the kettle", b: "bad", c: "a long  good answer", d: ""}, teacher)
    judging = Judging("main", moods.manifest(name="moods")["recipe"], moods.folder)
    judging.check(moods.folder / "state")
    first, second = asyncio.run(compare(judging, asked, [mine, before], moods.folder / "state", nothing))
    assert first.verdicts == {a: ("tie", "tie"), b: ("loss", "loss"), c: ("loss", "loss"), d: ("win", "win")}
    assert second.verdicts == {a: ("win", "win"), b: ("tie", "tie"), c: ("tie", "tie"), d: ("loss", "loss")}
    assert first.counts() == {"seen": 2, "alike": 1, "missing": 1, "unread": 0}
    assert second.counts() == {"seen": 1, "alike": 2, "missing": 1, "unread": 0} and loopback.seen == 6
    loopback.behave = lambda body: reply("no word of who won")
    [unread] = asyncio.run(compare(judging, asked, [mine], moods.folder / "other", nothing))
    assert unread.counts() == {"seen": 0, "alike": 1, "missing": 1, "unread": 2} and unread.verdicts.keys() == {a, b}


# -- what cannot be measured ---------------------------------------------------------------------------------------


def test_a_budget_holds(moods: Project, student: Student, loopback: Loopback) -> None:
    with pytest.raises(BudgetSpent):
        evaluate(request(moods, student, budget=0.0001), nothing)
    assert loopback.seen < 24


def test_a_version_that_is_not_here(moods: Project, student: Student) -> None:
    with pytest.raises(NotFound, match="trained on moods@1") as caught:
        version_of(student, moods.folder / "elsewhere")
    assert "--project DIR" in str(caught.value)
    evaluation_of_other = student.manifest.model_copy(
        update={"dataset": {**student.manifest.dataset, "digest": "0" * 64}}
    )
    with pytest.raises(NotFound):
        version_of(Student(student.folder, evaluation_of_other), moods.folder)


def test_without_a_way_to_ask_the_student(moods: Project, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("xllamacpp", "torch") else find(name, *a)
    )
    with pytest.raises(ExtraMissing, match="is asked by transformers, which needs torch") as caught:
        evaluate(request(moods, student), nothing)
    assert "pip install 'distillgen[student]'" in str(caught.value)


def test_the_recipe_of_another_dataset(moods: Project, student: Student) -> None:
    path = moods.write("other/recipe.toml", (moods.folder / "recipe.toml").read_text().replace('"moods"', '"others"'))
    with pytest.raises(UsageError, match="trained on moods, this is the recipe of others"):
        evaluate(request(moods, student, recipe=path), nothing)


def test_a_file_without_right_answers_says_which_columns_it_has(moods: Project, student: Student) -> None:
    moods.seeds([{"text": "a b c", "label": "good"}], "few.jsonl")
    told = Plan(request(moods, student, "few.jsonl"), nothing).notes
    assert told[0].startswith("no right answers: nothing is in a column 'gold' of few.jsonl, which has 'text', 'label'")
    assert not any("no right answers" in note for note in Plan(request(moods, student), nothing).notes)


@pytest.mark.parametrize("measure", ["number", "json"])
def test_right_answers_of_another_kind_than_the_measure(moods: Project, student: Student, measure: Any) -> None:
    with pytest.raises(UsageError, match=f"and 23 more. is nothing that --measure {measure} can read"):
        Plan(request(moods, student, measure=measure), nothing)


def test_one_question_with_two_right_answers_is_told_and_a_contrast_is_none(moods: Project) -> None:
    best = "by far the best phone of the year that anybody could have bought"
    rows = [
        {"text": "The kettle sings.", "gold": "good"}, {"text": "the  kettle sings.", "gold": "bad"},
        {"text": best, "gold": "good"}, {"text": best.replace("best", "worst"), "gold": "bad"},
        {"text": best.replace("phone", "radio"), "gold": "good"},
    ]  # fmt: skip
    moods.seeds(rows, "few.jsonl")
    version = find_version("moods", moods.folder / "datasets")
    student = moods.manifest(name="moods")["recipe"]["student"]
    found = read_questions(str(moods.folder / "few.jsonl"), version, student, Reading())
    assert [question.columns["text"] for question in found.asked] == ["The kettle sings.", best, rows[3]["text"]]
    assert found.warnings == ["1 questions come more than once, with different right answers: the first counts"]


def test_a_line_that_cannot_be_read_is_to_be_mended(moods: Project) -> None:
    moods.write("few.jsonl", '{"text": "a b c", "gold": "good"}\n{"text": ')
    with pytest.raises(SeedsInvalid) as caught:
        read_questions(str(moods.folder / "few.jsonl"), None, {"prompt": "{{ text }}"}, Reading())
    assert "leave them out of the file" in str(caught.value) and "--skip-bad-seeds" not in str(caught.value)


def test_what_a_killed_evaluation_left_is_swept_away(moods: Project, student: Student) -> None:
    left = moods.folder / ".distillgen" / "evaluating-x1"
    (left / "prompts").mkdir(parents=True)
    (left / "questions.jsonl").write_text("secret")
    with pytest.raises(UsageError):
        evaluate(request(moods, student, judge="nobody"), nothing)
    assert not left.exists()


def test_a_teacher_that_keeps_everybody_waiting_is_told_of(
    moods: Project, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "WAIT_SECONDS", 0.2)
    failed: list[Body] = []

    def late(body: Body) -> Say:
        if not failed:
            failed.append(body)
            return error(503, "over\x1b[31mloaded", retry_after=0)
        return Say(body=mood(body).body, wait=1.0)

    loopback.behave = late
    heard: list[Any] = []
    asyncio.run(ask(contestant(moods), questions_of(moods).asked[:1], moods.folder / "state", heard.append))
    told = [event["text"] for event in heard if event["event"] == "message"]
    assert any("teacher: no answer for 0.2 seconds; last error http_503" in text for text in told), told
    assert not any("\x1b" in text for text in told)


def test_answers_replace_nothing_but_answers(moods: Project, student: Student, tmp_path: Path) -> None:
    for path in (moods.folder / "gold.jsonl", moods.recipe):
        with pytest.raises(UsageError, match="would replace a file that holds something else"):
            require_place(path, student.folder)
    for path, why in (
        (student.folder / "a.jsonl", "in the student's folder"),
        (tmp_path, "is no file"),
        (Path("-"), "no file"),
    ):
        with pytest.raises(UsageError, match=why):
            require_place(path, student.folder)
    written = tmp_path / "answers.jsonl"
    require_place(written, student.folder)
    write_answers(written, [{"id": "a", "question": "?", "gold": None, "group": None, "answers": {}, "right": {}}])
    require_place(written, student.folder)


def test_a_prompt_that_nobody_uses_may_be_anything(moods: Project, student: Student) -> None:
    (moods.folder / "prompts").mkdir(exist_ok=True)
    (moods.folder / "prompts" / "unused.toml").write_bytes(b"\xff\xfe")
    assert Plan(request(moods, student, recipe=moods.recipe), nothing).prompts.keys() == {"label"}


def test_a_budget_where_no_price_is_known(moods: Project, student: Student) -> None:
    moods.edit("prices = { input = 1.0, output = 2.0 }\n", "")
    asked = request(moods, student, recipe=moods.recipe)
    with pytest.raises(UsageError, match="no price is known") as caught:
        Plan(asked, nothing).check()
    assert "--allow-unknown-price" in str(caught.value) and "--set" not in str(caught.value)
    Plan(replace(asked, may_be_unpriced=True), nothing).check()


def test_a_base_that_is_not_asked_is_told_in_the_evaluation(moods: Project, student: Student) -> None:
    assert Plan(request(moods, student, why_no_base="it is gone"), nothing).notes[0] == (
        "the untouched model is not asked: it is gone; name it with --base, or say so: --base none"
    )


@pytest.mark.parametrize(
    ("rows", "options", "what"),
    [
        pytest.param([{"text": "a b c"}], {"teacher": "none"}, "no gold answer and no teacher", id="nothing-to-compare"),
        pytest.param([{"text": "a b c", "gold": "splendid"}], {}, "'splendid' .and 0 more. is none of the labels", id="gold"),
        pytest.param([{"text": "a b c", "gold": "good"}], {"judge": "nobody"}, "unknown teacher 'nobody'", id="judge"),
        pytest.param([{"text": "a b c", "gold": "good"}], {"usd_per_hour": float("nan")}, "no price: nan", id="price"),
        pytest.param([{"text": "a b c", "gold": "good"}], {"judge": "main", "teacher": "none"}, "a judge compares two",
                     id="judge-of-one"),
    ],
)  # fmt: skip
def test_what_is_refused_before_anybody_is_asked(
    moods: Project, student: Student, loopback: Loopback, rows: Any, options: Any, what: str
) -> None:
    moods.seeds(rows, "few.jsonl")
    with pytest.raises(UsageError, match=what):
        evaluate(request(moods, student, "few.jsonl", **options), nothing)
    assert loopback.seen == 0
