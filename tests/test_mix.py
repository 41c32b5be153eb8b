"""Mixing versions: shares, duplicates, ids, lineage and terms; the result is a version like any other."""

import itertools
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import RECIPE, Project, clean_environment
from loopback import Loopback, reply, words
from published import killed_at

from distillgen.dataset.manifest import Manifest
from distillgen.dataset.publication import Publication
from distillgen.dataset.versions import Version
from distillgen.files import Lock, read_jsonl
from distillgen.mix.choosing import choose
from distillgen.mix.making import Wanted, mix
from distillgen.mix.parts import Part, Place, parts_of
from distillgen.rows import Row
from distillgen.teacher.terms import PURPOSES, Entry, entries, find, judge
from distillgen.upkeep.check import check_version

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


def test_a_seed_of_two_parts_counts_once_and_costs_are_reckoned_from_the_mix_alone(
    tmp_path: Path, loopback: Loopback
) -> None:
    """Both parts are made of the same 13 seeds, by two teachers of one name and other prices."""
    loopback.behave = lambda body: reply(f"{body['model']}: {text_for(body)}")
    questions = [f"What is number {n}?" for n in range(13)]
    dataset(
        tmp_path, loopback, "a", questions,
        **{'model = "scripted"': 'model = "scripted"\nprices = { input = 1, output = 2 }'},
    )  # fmt: skip
    dataset(
        tmp_path, loopback, "b", questions,
        **{'model = "scripted"': 'model = "other"\nprices = { input = 10, output = 20 }'},
    )  # fmt: skip
    project = dataset(tmp_path, loopback, "c", questions[:5], **{'model = "scripted"': 'model = "third"'})
    mixed(project, "all", "a:1", "b:1")
    manifest = project.manifest(name="all")
    assert manifest["rows"] == 26 and manifest["seeds"]["count"] == 13
    card = (project.version(name="all") / "README.md").read_text()
    assert "**Made from:** 13 seeds" in card
    assert "| `main` | `scripted` |" in card and "| `b.main` | `other` |" in card
    assert card.count("| `scripted` (13) |") == 2, "so the server calls itself, whatever it is asked for"

    def costs(name: str) -> dict[str, float | None]:
        told = json.loads(project.run("stats", name, "--json").stdout)["teachers"]
        return {teacher: each["usd"] for teacher, each in told.items()}

    assert costs("all") == {"main": costs("a")["main"], "b.main": costs("b")["main"]}
    assert costs("b")["main"] == pytest.approx(10 * (costs("a")["main"] or 0)) and costs("a")["main"]
    row = next(each for each in project.sidecar("provenance", name="all") if each["steps"][-1]["from"] == "b@1")
    assert (
        row["steps"][0]["teacher"] == "b.main" and "b.main as scripted" in project.run("trace", row["id"], "all").stdout
    )
    mixed(project, "again", "all:1", "c:1")
    behind = {each["origin"] for each in project.sidecar("provenance", name="again")}
    assert project.manifest(name="again")["seeds"]["count"] == len(behind) < 13, "those of the rows drawn"
    found = costs("again")
    assert found.pop("c.main") is None and found and all(found.values()), "the price of one teacher is not known"
    assert check_version(project.version(name="again")).findings == []


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
    assert [part["held_out"] for part in told["parts"]] == [held_out, 0]
    assert all("a@1" not in counts for split, counts in told["splits"].items() if split == "validation")
    validation = {each["id"] for each in project.sidecar("provenance", name="b") if each["split"] == "validation"}
    train = {each["id"] for each in project.sidecar("provenance", name="all") if each["split"] == "train"}
    assert train and not train & validation
    told_why = {each["id"]: each for each in project.sidecar("rejected", name="all") if each["rule"] == "held_out"}
    assert told_why.keys() == validation
    assert all(each["detail"] == f"of {name} of b@1 (validation)" for name, each in told_why.items())
    shown = project.run("mix", "all", "a:1", "b:0.1", "--dry-run").stderr
    assert "split validation has rows of b@1 only" in shown


def test_the_same_id_with_other_content_gets_another(tmp_path: Path, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(text_for(body))
    questions = [f"What is number {n}?" for n in range(10)]
    dataset(tmp_path, loopback, "a", questions)
    project = dataset(tmp_path, loopback, "b", questions, **{'"{{ answer }}"': '"So: {{ answer }}"'})
    assert mixed(project, "all", "a:1", "b:1")["rows"] == 20
    ids = {row["id"] for row in project.rows(name="all")}
    plain = {row["id"] for row in project.rows(name="a")}
    assert ids == plain | {f"{each}.mix-2" for each in plain}
    assert project.run("check", "all").returncode == 0
    one = sorted(plain)[0]
    story = project.run("trace", f"{one}.mix-2", "all").stdout
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
    assert "no row of b@1 is left to publish" in said and "a duplicate of another" in said
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
    (two.folder / "datasets/all").mkdir()
    with Lock(two.folder / "datasets/all/.lock"):
        assert "another distillgen is at work" in mixed(two, "all", "maths:1", code=11)
    mixed(two, "maths", "maths:1", "chat:1")
    assert two.manifest(2, "maths")["parent"] == 1, "a dataset may be mixed into itself: a new version of it"


# -- versions made for the purpose -------------------------------------------------------------------------------------


def synthetic(
    datasets: Path, name: str, rows: Iterable[tuple[str, str, Mapping[str, Any]]], **facts: Any
) -> Version:  # fmt: skip
    """Publish a version of rows: id, split and what the student sees. The id's beginning is its seed's."""
    publication = Publication(datasets / name, None, splits=("train", "validation", "test"))
    seen: Mapping[str, Any] = {}
    for row_id, split, training in rows:
        seen = {"id": row_id, **training}
        origin = row_id.partition(".")[0]
        row = Row(row_id, origin, None if origin == row_id else origin, {"n": row_id}, ({"step": "1.generate"},))
        publication.row(split, seen, row)
    digest, splits = publication.finish(), publication.splits
    manifest = Manifest(
        name=name, version=publication.number, parent=None, digest=digest, rows=sum(splits.values()), splits=splits,
        recipe={"name": name}, prompts={}, seeds={"path": [], "count": 0, "sha256": None}, funnel=[], files={},
        software={}, **{"teachers": {}, "terms": {}, "run": {}, **facts},
    )  # fmt: skip
    return publication.publish(manifest, [{"name": each, "dtype": "string"} for each in seen])


def chat(*texts: str, **more: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)], **more}


def numbered(count: int, word: str, start: int = 0) -> Iterable[tuple[str, str, dict[str, Any]]]:
    for n in range(start, start + count):
        yield f"{word}{n:06d}", "validation" if n % 10 == 0 else "train", chat(f"{word} {n}?", f"It is {n} of {word}.")


def test_ten_thousand_rows_of_three_parts_are_a_version_like_any_other(project: Project) -> None:
    datasets = project.folder / "datasets"
    synthetic(datasets, "a", numbered(10_000, "apple"))
    synthetic(datasets, "b", [*numbered(3_000, "pear"), *numbered(1_000, "apple", 9_500)])
    synthetic(datasets, "c", numbered(2_000, "plum"))
    told = mixed(project, "all", "a@1:50", "b@latest:30", "c:20")
    assert [part["duplicates"] for part in told["parts"]] == [0, 500, 0]
    assert [part["rows"] for part in told["parts"]] == [5_000, 3_000, 2_000]
    assert check_version(datasets / "all" / "v0001", is_placed=True).findings == []
    assert len({row["id"] for row in project.rows(name="all")}) == 10_000
    records = project.sidecar("provenance", name="all")
    sources = [each["steps"][-1]["from"] for each in records if each["split"] == "train"]
    for length, within in ((10, 0.3), (100, 0.1), (1_000, 0.03), (len(sources), 0.01)):
        assert abs(sources[:length].count("a@1") / length - 0.5) <= within
    assert not list((datasets / "all").glob(".staging*"))


def test_no_row_changes_its_split_and_all_come_from_where_they_say(project: Project) -> None:
    datasets = project.folder / "datasets"
    synthetic(datasets, "a", numbered(300, "apple"))
    synthetic(datasets, "b", numbered(200, "pear"))
    mixed(project, "all", "a:1", "b:1", "-n", "250")
    splits = {
        name: {each["id"]: each["split"] for each in project.sidecar("provenance", name=name)} for name in "ab"
    }  # fmt: skip
    for each in project.sidecar("provenance", name="all"):
        note = each["steps"][-1]
        name = note["from"].partition("@")[0]
        assert each["split"] == splits[name][each["id"]] and note["digest"] == project.manifest(name=name)["digest"]


def drawn(counts: list[int], ratios: list[str], rows: int | None) -> list[int]:
    """Return how many rows are drawn of parts that have so many."""
    version = Version(Path("x"), None)  # type: ignore[arg-type]
    fractions = [Fraction(each) for each in ratios]
    scale = sum(fractions)
    parts = [
        Part(
            version,
            round(ratio * 1000),
            float(ratio / scale),
            [Place(n, str(n), "train", Path(), 0) for n in range(count)],
        )
        for count, ratio in zip(counts, fractions, strict=True)
    ]
    from distillgen.mix.choosing import _draw

    _draw(parts, rows)
    return [part.count for part in parts]


def test_a_larger_mix_never_takes_fewer_rows_of_a_part() -> None:
    """The largest remainders would: with a seat more, somebody has one less (the Alabama paradox)."""
    for seed in range(20):
        draw = random.Random(seed)
        ratios = [str(draw.randint(1, 999) / 1000) for _ in range(draw.randint(2, 5))]
        counts = [draw.randint(1, 400) for _ in ratios]
        whole = drawn(counts, ratios, None)
        before = [0] * len(ratios)
        for rows in range(1, sum(whole) + 1):
            now = drawn(counts, ratios, rows)
            assert sum(now) == rows and all(a <= b for a, b in zip(before, now, strict=True))
            before = now
        assert before == whole
        weights = [round(float(each) * 1000) for each in ratios]
        best = min(count * sum(weights) // weight for count, weight in zip(counts, weights, strict=True))
        assert best - len(ratios) < sum(whole) <= best
        total = sum(map(float, ratios))
        for count, ratio in zip(whole, ratios, strict=True):
            assert abs(count - sum(whole) * float(ratio) / total) < 1.5


def test_a_smaller_mix_is_the_beginning_of_a_larger_one(project: Project) -> None:
    datasets = project.folder / "datasets"
    for name in "abc":
        synthetic(datasets, name, ((f"{name}{n:04d}", "train", chat(f"{name} {n}", "yes")) for n in range(100)))
    for rows in (7, 50, 101):
        mixed(project, f"all{rows}", "a:0.5", "b:0.3", "c:0.2", "-n", str(rows))
    small, middle, large = ([row["id"] for row in project.rows(name=f"all{rows}")] for rows in (7, 50, 101))
    assert middle[:7] == small and large[:50] == middle


def test_two_datasets_of_the_same_seeds_do_not_draw_the_same_ones(project: Project) -> None:
    datasets = project.folder / "datasets"
    for name in "ab":
        synthetic(datasets, name, ((f"s{n:04d}", "train", chat(f"{n}", f"{name} {n}")) for n in range(400)))
    mixed(project, "all", "a:1", "b:1", "-n", "200")
    origins = Counter(each["origin"] for each in project.sidecar("provenance", name="all"))
    assert 10 < sum(count == 2 for count in origins.values()) < 50, "about 25 of 400 by chance, not 100"


def test_an_id_means_the_same_row_however_many_are_drawn(project: Project) -> None:
    datasets = project.folder / "datasets"
    for name in "ab":
        synthetic(datasets, name, ((f"s{n:04d}.1", "train", chat(f"{n}", f"{name} {n}")) for n in range(50)))
    for rows in (10, 60, 100):
        mixed(project, f"all{rows}", "a:1", "b:1", "-n", str(rows))
        for row in project.rows(name=f"all{rows}"):
            assert row["messages"][1]["content"][0] == ("b" if row["id"].endswith(".mix-2") else "a")


def test_a_mix_can_be_mixed_again(project: Project) -> None:
    datasets = project.folder / "datasets"
    for name in "abc":
        synthetic(datasets, name, ((f"s{n:04d}", "train", chat(f"{n}", f"{name} {n}")) for n in range(20)))
    mixed(project, "ab", "a:1", "b:1")
    told = mixed(project, "all", "c:1", "ab:2")
    assert told["rows"] == 60 and len({row["id"] for row in project.rows(name="all")}) == 60
    records = {each["id"]: each for each in project.sidecar("provenance", name="all")}
    assert [step.get("from") for step in records["s0003.mix-2.mix-2"]["steps"]][1:] == ["b@1", "ab@1"] or [
        step.get("from") for step in records["s0003.mix-2"]["steps"]
    ][1:] == ["b@1", "ab@1"]
    assert check_version(datasets / "all" / "v0001", is_placed=True).findings == []


def test_samples_that_reason_otherwise_are_no_duplicates(project: Project) -> None:
    rows = [(f"s.{n}", "train", chat("How many?", "42", reasoning=f"Thought {n}.")) for n in range(4)]
    synthetic(
        project.folder / "datasets", "a", [*rows, ("t", "train", chat("HOW  many?", "42", reasoning="thought 1."))]
    )
    told = mixed(project, "all", "a:1")
    assert told["rows"] == 4 and told["parts"][0]["duplicates"] == 1
    [rejected] = project.sidecar("rejected", name="all")
    assert (rejected["id"], rejected["rule"], rejected["detail"]) == ("t", "exact_duplicate", "of s.1 of a@1")


def test_a_conversation_that_is_held_out_is_not_trained_on_with_other_reasoning(project: Project) -> None:
    datasets = project.folder / "datasets"
    synthetic(datasets, "a", [(f"s{n}", "train", chat(f"{n}?", "yes", reasoning=f"Hm {n}.")) for n in range(5)])
    synthetic(
        datasets,
        "b",
        [("t3", "test", chat("3?", "Yes")), ("t4", "test", chat("4?", "no")), ("t9", "test", chat("9?", "no"))],
    )
    told = mixed(project, "all", "a:4", "b:1")
    assert [part["held_out"] for part in told["parts"]] == [1, 0]
    assert told["asks_held_out"] == 1, "s4 has the prompt of t4, and another answer"
    [rejected] = project.sidecar("rejected", name="all")
    assert (rejected["id"], rejected["rule"], rejected["detail"]) == ("s3", "held_out", "of t3 of b@1 (test)")


def test_a_near_duplicate_of_a_held_out_row_is_not_trained_on(project: Project) -> None:
    datasets = project.folder / "datasets"
    long = "one two three four five six seven eight nine ten eleven twelve"
    synthetic(datasets, "a", [("s1", "train", chat(long, "yes indeed")), ("s2", "train", chat("Else?", "no"))])
    synthetic(datasets, "b", [("t1", "validation", chat(f"{long} thirteen", "yes indeed"))])
    assert [part["duplicates"] for part in mixed(project, "all", "a:1", "b:1")["parts"]] == [0, 0]
    told = mixed(project, "all", "a:1", "b:1", "--near", "0.6")
    assert [part["held_out"] for part in told["parts"]] == [1, 0]
    [rejected] = project.sidecar("rejected", 2, name="all")
    assert rejected["rule"] == "held_out" and rejected["detail"].startswith("of t1 of b@1 (validation), Jaccard 0.")


# -- damage and erasure ------------------------------------------------------------------------------------------------


def flipped(path: Path, old: bytes, new: bytes) -> None:
    path.chmod(0o644)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def test_a_flipped_bit_that_leaves_a_row_readable_stops_it(project: Project) -> None:
    datasets = project.folder / "datasets"
    folder = synthetic(datasets, "a", numbered(50, "apple")).folder
    flipped(folder / "data" / "train-00000-of-00001.jsonl", b"It is 7 of", b"It is 5 of")
    said = mixed(project, "all", "a:1", code=8)
    assert "train-00000-of-00001.jsonl" in said and "is not as it was published" in said and "check a@1" in said


def test_a_damaged_provenance_or_manifest_stops_it(project: Project) -> None:
    datasets = project.folder / "datasets"
    folder = synthetic(datasets, "a", numbered(50, "apple")).folder
    flipped(folder / "manifest.json", b'"terms": {}', b'"terms":{} ')
    assert "its seal does not hold" in mixed(project, "all", "a:1", code=8)
    flipped(folder / "manifest.json", b'"terms":{} ', b'"terms": {}')
    path = folder / "provenance.jsonl.zst"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-40])
    assert "provenance.jsonl.zst" in mixed(project, "all", "a:1", code=8)
    assert not list((datasets / "all").glob("v*")) and not list((datasets / "all").glob(".staging*"))


def test_a_part_that_changes_while_it_is_read_stops_it(project: Project) -> None:
    from distillgen.errors import Locked
    from distillgen.mix.making import _require_unchanged

    version = synthetic(project.folder / "datasets", "a", numbered(5, "apple"))
    parts = parts_of([(version, Fraction(1))])
    _require_unchanged(parts)
    version.folder.rename(version.folder.with_name("v0009"))
    with pytest.raises(Locked, match="changed or removed while it was read"):
        _require_unchanged(parts)


def test_what_was_erased_is_not_mixed_in_again(project: Project) -> None:
    """An older copy of a version may hold a row that was erased since."""
    datasets = project.folder / "datasets"
    rows = [(f"s{n}.{k}", "train", chat(f"{n}?", f"{n} {k}")) for n in range(4) for k in range(2)]
    synthetic(datasets, "a", rows)
    (datasets / "all").mkdir()
    (datasets / "all" / "forgotten.txt").write_text("s1  # 2026-01-01\ns2.1  # 2026-01-01\n")
    told = mixed(project, "all", "a:1")
    assert told["rows"] == 5 and told["parts"][0]["duplicates"] == 0
    assert {row["id"] for row in project.rows(name="all")} == {"s0.0", "s0.1", "s2.0", "s3.0", "s3.1"}
    tombs = project.sidecar("rejected", name="all")
    assert {(each["id"], each["rule"]) for each in tombs} == {(each, "forgotten") for each in ("s1.0", "s1.1", "s2.1")}
    assert all(each["columns"] == {} for each in tombs)
    assert check_version(datasets / "all" / "v0001", is_placed=True).findings == []
    assert "3 rows of a@1 were erased" in project.run("mix", "all", "a:1", "--dry-run").stderr
    (datasets / "a" / "forgotten.txt").write_text("s3\n")
    assert mixed(project, "other", "a:1")["rows"] == 6


def test_forget_takes_a_row_out_of_a_mix_too(tmp_path: Path, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(text_for(body))
    questions = [f"What is number {n}?" for n in range(6)]
    dataset(tmp_path, loopback, "a", questions)
    project = dataset(tmp_path, loopback, "b", questions, **{'"{{ answer }}"': '"So: {{ answer }}"'})
    mixed(project, "all", "a:1", "b:1")
    row_id = project.rows(name="a")[0]["id"]
    done = project.run("forget", row_id, "--yes")
    assert done.returncode == 0, done.stderr
    assert len(project.rows(name="all")) == 10
    assert row_id not in "".join(row["id"] for row in project.rows(name="all"))
    assert project.run("check", "all").returncode == 0
    assert mixed(project, "all", "a:1", "b:1")["rows"] == 10


def test_a_full_disk_is_told_wherever_it_fills_up(project: Project) -> None:
    """Also while provenance is copied: then the file on its way cannot even be closed."""
    synthetic(project.folder / "datasets", "a", numbered(100, "apple"))
    for room in (100, 2_000, 9_000, 12_000):
        code = (
            "import resource, runpy, signal, sys\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"
            "sys.argv[0] = 'distillgen'\n"
            "runpy.run_module('distillgen', run_name='__main__')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "mix", "all", "a:1"], cwd=project.folder, env=clean_environment(),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 12 and "DG703 no room to write" in done.stderr, (room, done.stderr)
        assert "nothing was published" in done.stderr and "what was decided" not in done.stderr
        assert [each.name for each in (project.folder / "datasets").iterdir()] == ["a"], "no lock, no empty folder"


def test_a_mix_that_is_killed_anywhere_is_swept_by_the_next(project: Project, tmp_path: Path) -> None:
    datasets, temporary = project.folder / "datasets", tmp_path / "temporary"
    temporary.mkdir()
    found = [(synthetic(datasets, name, numbered(10, name)), Fraction(1)) for name in ("a", "b")]

    def work(name: str) -> None:
        tempfile.tempdir = str(temporary)
        mix(name, parts_of(found), datasets, Wanted(near=0.8), is_dry=False)

    for call in itertools.count(1):
        name = f"all{call}"
        if not killed_at(call, ("fsync", "mkdir", "rename", "replace", "symlink"), lambda name=name: work(name)):
            break
        assert mix(name, parts_of(found), datasets, Wanted(near=0.8), is_dry=False).version is not None
        names = {each.name for each in (datasets / name).iterdir()}
        assert names == {".lock", "latest", "v0001"} and not list(temporary.iterdir())
        assert check_version(datasets / name / "v0001", is_placed=True).findings == []
    assert call > 10


def test_rows_of_another_kind_are_told(project: Project) -> None:
    datasets = project.folder / "datasets"
    synthetic(datasets, "a", numbered(20, "apple"))
    synthetic(datasets, "labels", [(f"l{n}", "train", chat(f"{n}?", "yes", label="good")) for n in range(5)])
    synthetic(datasets, "texts", [("t1", "train", {"text": "yes"})])
    assert "labels@1 has rows of 'id', 'messages', 'label'" in mixed(project, "all", "a:1", "labels:1", code=2)
    assert "neither conversations nor pairs" in mixed(project, "all", "a:1", "texts:1", code=2)
    both = [("b1", "train", chat("1?", "yes")), ("b2", "train", chat("2?", "yes", reasoning="Hm."))]
    synthetic(datasets, "both", both)
    assert "this line is no row" in mixed(project, "all", "a:1", "both:1", code=8)
    assert not list((project.folder / "datasets").glob("all/v*"))


def test_the_part_that_sets_the_limit_and_the_one_without_rows_are_named(project: Project) -> None:
    datasets = project.folder / "datasets"
    synthetic(datasets, "a", numbered(20, "apple"))
    synthetic(datasets, "few", numbered(3, "pear"))
    synthetic(datasets, "none", [])
    done = project.run("mix", "all", "a:1", "few:1", "--dry-run")
    assert "few@1 sets the limit: no more rows of the others go with its 3" in done.stderr
    assert "sets the limit" not in project.run("mix", "all", "a:20", "few:3", "--dry-run").stderr
    assert "sets the limit" not in project.run("mix", "all", "a:1", "few:1", "-n", "4", "--dry-run").stderr
    assert "no row of none@1 is left to publish\n      it has none" in mixed(project, "all", "a:1", "none:1", code=6)


# -- ways to name a version --------------------------------------------------------------------------------------------


def test_versions_may_be_named_by_folder_and_digest(project: Project) -> None:
    datasets = project.folder / "datasets"
    version = synthetic(datasets, "a", numbered(20, "apple"))
    elsewhere = project.folder / "c:old" / "a"
    synthetic(elsewhere.parent, "a", numbered(20, "pear"))
    told = mixed(project, "all", f"a@sha256:{version.manifest.digest[:12]}:1", f"{elsewhere / 'v0001'}:1")
    assert told["rows"] == 40
    assert mixed(project, "all2", "a:1", "-n", "5")["rows"] == 5, "one part makes a smaller version"


def test_the_name_comes_first(project: Project) -> None:
    synthetic(project.folder / "datasets", "a", numbered(20, "apple"))
    assert "the dataset that gets the mix comes first" in mixed(project, "a@1:0.7", "a:0.3", code=2)
    for option, word in (("--purpose", "fun"), ("--competing", "maybe")):
        assert f"{word!r} is none of" in mixed(project, "all", "a:1", option, word, code=2)
    assert "no version here has the terms 'nope'" in mixed(project, "all", "a:1", "--accept", "nope", code=2)


def test_a_share_below_one_row_is_told(project: Project) -> None:
    datasets = project.folder / "datasets"
    synthetic(datasets, "a", numbered(20, "apple"))
    synthetic(datasets, "b", numbered(20, "pear"))
    done = project.run("mix", "all", "a:99", "b:1", "-n", "3")
    assert done.returncode == 0 and "no row of b@1" in done.stderr


# -- terms -------------------------------------------------------------------------------------------------------------

BOUND = next(each for each in entries().values() if each.stance == "restricted" and each.if_competing)
FREE = next(each for each in entries().values() if each.stance == "allowed")


def record(entry: Entry, *, accept: bool = False, **said: Any) -> dict[str, Any]:
    """Return the terms of a version of one teacher as a build records them."""
    said = {"purpose": "internal", "competing": "unknown", "note": "", "strict": False, **said}
    verdict = judge([entry], said["purpose"], said["competing"], [entry.id] if accept else [])
    accepted = {entry.id: {"digest": entry.digest, "date": "2026-01-02"}} if accept else {}
    return {
        **said, "stance": verdict.stance, "accepted": accepted,
        "conditions": [each.model_dump(mode="json") for each in verdict.conditions],
        "teachers": {"main": [each.record() for each in verdict.judgements]}, "advice": "",
    }  # fmt: skip


def unknown_model(name: str) -> Entry:
    """Return what the table says of a model that it does not know."""
    return next(each for each in find(None, name) if each.id == "unknown-model")


def termed(project: Project, name: str, terms: dict[str, Any]) -> None:
    made = numbered(10, name)
    synthetic(project.folder / "datasets", name, made, terms=terms, teachers={"main": {"model": name}})


def test_terms_of_a_part_stop_a_mix_for_a_wider_purpose_until_they_are_accepted(project: Project) -> None:
    narrow = next(
        each for each in entries().values()
        if each.stance in ("restricted", "prohibited") and not each.if_competing and set(each.reaches) < set(PURPOSES)
    )  # fmt: skip
    inside = next(each for each in PURPOSES if each not in narrow.reaches)
    wide = narrow.reaches[-1]
    termed(project, "a", record(narrow, purpose=inside))
    termed(project, "b", record(FREE, purpose=wide))
    told = mixed(project, "all", "a:1", "b:1")
    assert told["terms"]["purpose"] == inside and told["terms"]["stances"] == {"a@1": "conditions", "b@1": "allowed"}
    said = mixed(project, "wide", "a:1", "b:1", "--purpose", wide, code=9)
    assert f"--accept {narrow.id}" in said and narrow.id in said
    assert not (project.folder / "datasets/wide").exists()
    outlook = mixed(project, "wide", "a:1", "b:1", "--purpose", wide, "--dry-run")["terms"]
    assert outlook["stops"] == [narrow.id] and outlook["stance"] == narrow.stance
    mixed(project, "wide", "a:1", "b:1", "--purpose", wide, "--accept", narrow.id)
    terms = project.manifest(name="wide")["terms"]
    assert terms["stance"] == narrow.stance and terms["accepted"][narrow.id]["digest"] == narrow.digest
    card = (project.version(name="wide") / "README.md").read_text()
    assert narrow.id in card and "accepted by the owner" in card


def test_an_acceptance_of_a_part_is_carried_over_with_its_date(project: Project) -> None:
    termed(project, "a", record(BOUND, accept=True))
    termed(project, "b", record(FREE))
    mixed(project, "all", "a:1", "b:1")
    terms = project.manifest(name="all")["terms"]
    assert terms["stance"] == "restricted"
    assert terms["accepted"] == {BOUND.id: {"digest": BOUND.digest, "date": "2026-01-02"}}
    assert "terms accepted by you" in project.run("mix", "all", "a:1", "b:1", "--dry-run").stderr


def test_each_part_keeps_its_word_on_competing_unless_the_mix_says_another(project: Project) -> None:
    termed(project, "a", record(BOUND, competing="no"))
    termed(project, "b", record(FREE))
    mixed(project, "all", "a:1", "b:1")
    terms = project.manifest(name="all")["terms"]
    assert terms["stance"] == "conditions" and terms["competing"] == "unknown"
    assert any("does not compete" in each["text"] for each in terms["conditions"])
    assert BOUND.id in mixed(project, "other", "a:1", "b:1", "--competing", "yes", code=9)


def test_the_stricter_of_two_words_on_one_entry_counts(project: Project) -> None:
    termed(project, "a", record(BOUND, competing="no"))
    termed(project, "b", record(BOUND, competing="yes", accept=True))
    mixed(project, "all", "a:1", "b:1")
    terms = project.manifest(name="all")["terms"]
    assert terms["stance"] == "prohibited" and terms["stances"] == {"a@1": "conditions", "b@1": "prohibited"}


def test_no_record_is_unknown_and_stops_where_a_part_was_strict(project: Project) -> None:
    termed(project, "a", {})
    termed(project, "b", record(FREE))
    assert mixed(project, "all", "a:1", "b:1")["terms"]["stances"] == {"a@1": "unknown", "b@1": "allowed"}
    terms = project.manifest(name="all")["terms"]
    assert terms["stance"] == "unknown" and set(terms["teachers"]) == {"main", "b.main"}
    termed(project, "c", record(FREE, strict=True))
    assert "--accept unknown-model" in mixed(project, "strict", "a:1", "c:1", code=9)
    mixed(project, "strict", "a:1", "c:1", "--accept", "unknown-model")


def test_one_teacher_at_two_prices_has_two_names(project: Project) -> None:
    def priced(usd: float) -> dict[str, Any]:
        rates = [{"above": 0, "input": usd, "cached_input": usd, "output": usd}]
        return {"teachers": {"main": {"prices": {"rates": rates}}}}

    for name, usd in (("a", 1.0), ("b", 2.0), ("c", 1.0)):
        made = numbered(10, name)
        synthetic(project.folder / "datasets", name, made, teachers={"main": {"model": "m"}}, run=priced(usd))
    mixed(project, "all", "a:1", "b:1", "c:1")
    asked = project.manifest(name="all")["run"]["teachers"]
    assert {name: each["prices"]["rates"][0]["input"] for name, each in asked.items()} == {"main": 1.0, "b.main": 2.0}
    assert set(project.manifest(name="all")["teachers"]) == {"main", "b.main"}


def test_what_was_accepted_of_one_unknown_model_and_of_another_need_not_be_accepted_again(project: Project) -> None:
    """Both have the id `unknown-model`, and each an entry of its own."""
    known = [unknown_model(f"model-{n}") for n in range(3)]
    for name, entry, date in (("a", known[0], "2026-01-02"), ("b", known[1], "2026-03-04")):
        terms = record(entry, accept=True, strict=True)
        terms["accepted"][entry.id]["date"] = date
        termed(project, name, terms)
    mixed(project, "all", "a:1", "b:1")
    accepted = project.manifest(name="all")["terms"]["accepted"]["unknown-model"]
    assert accepted["date"] == "2026-03-04" and accepted["digests"] == sorted(each.digest for each in known[:2])
    termed(project, "d", record(FREE))
    mixed(project, "again", "all:1", "d:1")
    assert project.manifest(name="again")["terms"]["accepted"]["unknown-model"]["date"] == "2026-03-04"
    termed(project, "c", record(known[2], strict=True))
    assert "--accept unknown-model" in mixed(project, "more", "all:1", "c:1", code=9)
    mixed(project, "more", "all:1", "c:1", "--accept", "unknown-model")
    accepted = project.manifest(name="more")["terms"]["accepted"]["unknown-model"]
    assert set(accepted["digests"]) == {each.digest for each in known} and accepted["date"] > "2026-03-04"


def test_teachers_that_differ_under_one_name_have_the_same_names_in_the_terms(project: Project) -> None:
    termed(project, "a", record(FREE))
    termed(project, "b", record(FREE))
    mixed(project, "all", "a:1", "b:1")
    manifest = project.manifest(name="all")
    assert set(manifest["teachers"]) == set(manifest["terms"]["teachers"]) == {"main", "b.main"}
    assert manifest["teachers"]["b.main"]["model"] == "b"


def test_every_condition_and_licence_is_inherited(project: Project) -> None:
    licensed = [
        each for each in entries().values() if any(c.kind == "licence" and "product" in c.purposes for c in each.conditions)
    ][:2]  # fmt: skip
    for name, entry in zip("ab", licensed, strict=False):
        termed(project, name, record(entry, purpose="product"))
    mixed(project, "all", *(f"{name}:1" for name, _ in zip("ab", licensed, strict=False)))
    inherited = {
        each["value"] for each in project.manifest(name="all")["terms"]["conditions"] if each["kind"] == "licence"
    }
    assert inherited == {c.value for each in licensed for c in each.conditions if c.kind == "licence"}


def test_choosing_reads_what_it_says(project: Project) -> None:
    datasets = project.folder / "datasets"
    version = synthetic(datasets, "a", numbered(30, "apple"))
    parts = parts_of([(version, Fraction("0.5"))])
    choose(parts, datasets / "all", rows=12, near=None, seed=0)
    by_id = {
        row["id"]: row
        for split in version.split_names()
        for path in version.data_files(split)
        for row in read_jsonl(path)
    }
    for place in parts[0].drawn:
        with place.path.open("rb") as file:
            file.seek(place.offset)
            assert json.loads(file.readline()) == by_id[place.id]
    assert parts[0].count == 12 and parts[0].not_drawn == 18
