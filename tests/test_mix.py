"""Mixing versions: shares, duplicates, ids, lineage and terms; the result is a version like any other."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import RECIPE, Project
from loopback import Loopback, reply, words

CLAUSE = '[terms]\npurpose = "{purpose}"\ncompeting = "no"\n\n[seeds]'


def text_for(body: dict[str, Any]) -> str:
    return words(body["messages"][-1]["content"])


def dataset(folder: Path, server: Loopback, name: str, questions: list[str], **changes: str) -> Project:
    """Publish a dataset of a project; `changes` are replaced in the recipe."""
    project = Project(folder)
    text = (
        RECIPE.format(url=server.url)
        .replace('name = "demo"', f'name = "{name}"')
        .replace("seeds.jsonl", f"{name}.jsonl")
    )
    for old, new in changes.items():
        text = text.replace(old, new)
    project.write("recipe.toml", text)
    project.seeds([{"question": question} for question in questions], f"{name}.jsonl")
    project.build()
    return project


@pytest.fixture
def two(tmp_path: Path, loopback: Loopback) -> Project:
    """maths: 20 rows; chat: 30 rows, of which 5 are those of maths."""
    loopback.behave = lambda body: reply(text_for(body))
    dataset(tmp_path, loopback, "maths", [f"What is number {n}?" for n in range(20)])
    return dataset(tmp_path, loopback, "chat", [f"What is number {n}?" for n in range(15, 45)])


def mixed(project: Project, *arguments: str, code: int = 0) -> Any:
    done = project.run("mix", *arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


def test_shares_duplicates_splits_and_lineage(two: Project) -> None:
    told = mixed(two, "all", "maths@1:2", "chat:1")
    assert told["version"] == "all@1" and told["rows"] == 30
    assert [(part["rows"], part["duplicates"]) for part in told["parts"]] == [(20, 0), (10, 5)]
    rows, parents = (
        two.rows(name="all"),
        {name: {row["id"]: row for row in two.rows(name=name)} for name in ("maths", "chat")},
    )
    assert len({row["id"] for row in rows}) == len({row["messages"][-1]["content"] for row in rows}) == 30
    kept = {record["id"]: record for record in two.sidecar("provenance", name="all")}
    for row in rows:
        source = kept[row["id"]]["steps"][-1]["from"].partition("@")[0]
        assert row == parents[source][row["id"]]
        before = next(each for each in two.sidecar("provenance", name=source) if each["id"] == row["id"])
        assert kept[row["id"]]["split"] == before["split"] and kept[row["id"]]["steps"][:-1] == before["steps"]
    manifest = two.manifest(name="all")
    assert [(each["version"], each["rows"], each["duplicates"]) for each in manifest["recipe"]["mix"]] == [
        ("maths@1", 20, 0), ("chat@1", 10, 5)
    ]  # fmt: skip
    assert manifest["recipe"]["mix"][0]["digest"] == two.manifest(name="maths")["digest"]
    rejected = two.sidecar("rejected", name="all")
    assert Counter(each["rule"] for each in rejected) == {"exact_duplicate": 5}
    assert all(each["detail"].startswith("of ") and each["detail"].endswith(" of maths@1") for each in rejected)
    assert manifest["run"]["usd"] == 0 and manifest["teachers"]["main"]["model"] == "scripted"


def test_every_command_works_on_a_mix(two: Project) -> None:
    mixed(two, "all", "maths:1", "chat:1")
    row = two.rows(name="all")[0]["id"]
    for command in (
        ["check", "all"], ["log", "all"], ["show", "all", "-n", "2"], ["show", "all", "--rejected"], ["stats", "all"],
        ["trace", row, "all"], ["diff", "maths", "all"], ["export", "all"], ["gc"], ["repair", "all"], ["status"],
    ):  # fmt: skip
        done = two.run(*command)
        assert done.returncode == 0 and done.stdout + done.stderr, (command, done.stderr)
    assert "mix: from " in two.run("trace", row, "all").stdout
    card = (two.version(name="all") / "README.md").read_text()
    assert "maths@1" in card and "chat@1" in card, "the card tells what it was mixed from"


def test_the_same_mix_again_publishes_nothing_and_a_smaller_one_is_within(two: Project) -> None:
    mixed(two, "all", "maths:1", "chat:1")
    again = mixed(two, "all", "maths:1", "chat:1")
    assert not again["published"] and again["version"] == "all@1"
    assert mixed(two, "all", "maths:1", "chat:1", "-n", "20")["version"] == "all@2"
    large, small = ({row["id"] for row in two.rows(number, "all")} for number in (1, 2))
    assert small < large and len(small) == 20
    assert mixed(two, "all", "maths:1", "chat:1", "-n", "20", "--seed", "1")["version"] == "all@3"
    assert {row["id"] for row in two.rows(3, "all")} != small


def test_a_beginning_has_the_shares_of_the_whole(two: Project) -> None:
    mixed(two, "all", "maths:1", "chat:1")
    sources = [each["steps"][-1]["from"] for each in two.sidecar("provenance", name="all")]
    for length in (10, 20, 30):
        assert abs(sources[:length].count("maths@1") - length / 2) <= 1


def test_a_row_of_another_split_is_kept_before_one_of_train(tmp_path: Path, loopback: Loopback) -> None:
    """The same row in train of one part and validation of the other: what is evaluated on is not trained on."""
    loopback.behave = lambda body: reply(text_for(body))
    questions = [f"What is number {n}?" for n in range(40)]
    dataset(tmp_path, loopback, "a", questions, **{"{ train = 0.8, validation = 0.2 }": "{ train = 1.0 }"})
    project = dataset(tmp_path, loopback, "b", questions)
    told = mixed(project, "all", "a:1", "b:0.1")
    held_out = project.manifest(name="b")["splits"]["validation"]
    assert [part["duplicates"] for part in told["parts"]] == [held_out, 40 - held_out]
    train = {row["id"] for row in project.rows(name="all")} if False else set()
    for record in project.sidecar("provenance", name="all"):
        if record["split"] == "train":
            train.add(record["id"])
    validation = {each["id"] for each in project.sidecar("provenance", name="b") if each["split"] == "validation"}
    assert not train & validation


def test_the_same_id_with_other_content_gets_another(tmp_path: Path, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(text_for(body))
    questions = [f"What is number {n}?" for n in range(10)]
    dataset(tmp_path, loopback, "a", questions)
    project = dataset(tmp_path, loopback, "b", questions, **{'"{{ answer }}"': '"So: {{ answer }}"'})
    assert mixed(project, "all", "a:1", "b:1")["rows"] == 20
    ids = {row["id"] for row in project.rows(name="all")}
    plain = {row["id"] for row in project.rows(name="a")}
    assert ids == plain | {f"{each}~2" for each in plain}
    assert project.run("check", "all").returncode == 0
    one = sorted(plain)[0]
    story = project.run("trace", f"{one}~2", "all").stdout
    assert f"id {one}" in story and "from b@1" in story


def test_near_duplicates_on_request(tmp_path: Path, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(text_for(body))
    questions = [f"What is number {n}?" for n in range(12)]
    dataset(tmp_path, loopback, "a", questions)
    more = {'"{{ answer }}"': '"{{ answer }} indeed"'}
    dataset(tmp_path, loopback, "b", questions, **more)
    project = dataset(tmp_path, loopback, "c", [*questions, "Who was Ada Lovelace?"], **more)
    assert mixed(project, "all", "a:1", "b:1", "--dry-run")["rows"] == 24
    said = mixed(project, "all", "a:1", "b:1", "--near", "0.6", code=6)
    assert "every row of b@1 is a duplicate of another" in said
    told = mixed(project, "all", "a:12", "c:1", "--near", "0.6")
    assert [(part["rows"], part["duplicates"]) for part in told["parts"]] == [(12, 0), (1, 12)]
    assert "near_duplicate" in {each["rule"] for each in project.sidecar("rejected", name="all")}


def test_reasoning_of_one_part_only_is_empty_in_the_other(tmp_path: Path, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(text_for(body), message={"reasoning_content": "Hm."})
    dataset(tmp_path, loopback, "a", [f"What is number {n}?" for n in range(8)])
    more = {"[student]": '[student]\nreasoning = "{{ reasoning }}"'}
    project = dataset(tmp_path, loopback, "b", [f"What is number {n}?" for n in range(8, 16)], **more)
    mixed(project, "all", "a:1", "b:1")
    assert Counter(row["reasoning"] for row in project.rows(name="all")) == {"": 8, "Hm.": 8}
    assert project.run("check", "all").returncode == 0


def test_the_strictest_terms_win_and_are_shown(tmp_path: Path, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(text_for(body))
    more = {"[seeds]": CLAUSE.format(purpose="product"), 'model = "scripted"': 'model = "qwen2.5-7b-instruct"'}
    dataset(tmp_path, loopback, "free", [f"What is number {n}?" for n in range(8)], **more)
    more = {"[seeds]": CLAUSE.format(purpose="research"), 'model = "scripted"': 'model = "llama-3.1-8b-instruct"'}
    project = dataset(tmp_path, loopback, "bound", [f"What is number {n}?" for n in range(8, 16)], **more)
    stances = {name: project.manifest(name=name)["terms"]["stance"] for name in ("free", "bound")}
    told = mixed(project, "all", "free:1", "bound:1")
    terms = project.manifest(name="all")["terms"]
    order = ["allowed", "conditions", "unknown", "restricted", "prohibited"]
    assert terms["stance"] == max(stances.values(), key=order.index) == told["terms"]["stance"]
    assert terms["purpose"] == "research" and terms["stances"] == {f"{name}@1": each for name, each in stances.items()}
    conditions = project.manifest(name="bound")["terms"]["conditions"]
    assert conditions and all(each in terms["conditions"] for each in conditions)
    shown = project.run("mix", "all", "free:1", "bound:1", "--dry-run")
    assert f"terms: {terms['stance']}" in shown.stderr and conditions[0]["text"] in shown.stderr


def test_pairs_and_conversations_do_not_mix(tmp_path: Path, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(text_for(body))
    dataset(tmp_path, loopback, "a", ["What is number 1?", "What is number 2?"])
    more = {"[student]": '[student]\nrejected = "{{ question }}"'}
    project = dataset(tmp_path, loopback, "b", ["What is number 3?"], **more)
    assert "b@1 holds preference pairs, a@1 conversations" in mixed(project, "all", "a:1", "b:1", code=2)
    assert not (tmp_path / "datasets/all").exists()


WRONG = [
    (["maths:0", "chat:1"], 2, "no version with a ratio above 0"),
    (["maths:-1"], 2, "no version with a ratio above 0"),
    (["maths:nan"], 2, "no version with a ratio above 0"),
    (["maths:inf"], 2, "no version with a ratio above 0"),
    (["maths"], 2, "no version with a ratio above 0"),
    (["maths:1:x"], 2, "no version with a ratio above 0"),
    (["maths:2:1"], 2, "cannot be a file name"),
    (["maths@7:1"], 10, "has no version '7'"),
    (["math:1"], 10, "did you mean 'maths'?"),
    (["maths:1", "maths@1:2"], 2, "has the same rows as"),
    (["maths:1", "chat:1", "-n", "1000"], 2, "enough for a mix of 40 rows, not of 1,000"),
]


def test_what_cannot_be_mixed_is_told_and_nothing_written(two: Project) -> None:
    for arguments, code, said in WRONG:
        assert said in mixed(two, "all", *arguments, code=code), arguments
        assert not list((two.folder / "datasets").glob("all/v*"))
    assert "cannot be a file name" in mixed(two, "../all", "maths:1", code=2)


def test_a_damaged_parent_stops_it(two: Project) -> None:
    path = next((two.version(name="chat") / "data").glob("train*"))
    path.chmod(0o644)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], b"{", *lines[4:]]))
    assert f"{path.name}:4" in mixed(two, "all", "maths:1", "chat:1", code=8)
    assert not list((two.folder / "datasets").glob("all/v*"))


def test_a_mix_waits_for_nobody_who_publishes_there(two: Project) -> None:
    from distillgen.files import Lock

    (two.folder / "datasets/all").mkdir()
    with Lock(two.folder / "datasets/all/.lock"):
        assert "another distillgen is at work" in mixed(two, "all", "maths:1", code=11)
    mixed(two, "maths", "maths:1", "chat:1")
    assert two.manifest(2, "maths")["parent"] == 1, "a dataset may be mixed into itself: a new version of it"
