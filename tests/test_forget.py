"""`forget`: no byte of a row is left, all others are what they were, and being killed leaves old or new, then goes on."""

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from batch_server import BatchServer
from conftest import RECIPE, Project
from loopback import Loopback, Say, reply, words
from till import called

from distillgen.dataset.versions import Version, find_version
from distillgen.excluded import read_forgotten
from distillgen.files import Lock, file_sha256, read_jsonl
from distillgen.preparation import prepare
from distillgen.teacher.answers import AnswerStore
from distillgen.teacher.batch_records import KEY_BYTES
from distillgen.upkeep.check import check_all
from distillgen.upkeep.erased import keep_out
from distillgen.upkeep.exchange import exchange
from distillgen.upkeep.mending import of_path, unpacked
from distillgen.upkeep.notes import Note, place_of, write_note

Told = dict[str, Any]


class Telling:
    """Answers with a phrase that stands nowhere else: `phrases` has those of each question."""

    def __init__(self, loopback: Loopback) -> None:
        self.phrases: dict[str, list[str]] = {}
        self.count = 0
        loopback.behave = self

    def __call__(self, body: dict[str, Any]) -> Say:
        asked = body["messages"][-1]["content"].split("What is ")[-1]
        self.count += 1
        phrase = f"secret-{self.count:05d}-{random.Random(self.count).getrandbits(64):016x}"
        self.phrases.setdefault(asked, []).append(phrase)
        return reply(f"{words(f'{asked} {self.count}')} {phrase}")


def questions(project: Project, count: int) -> None:
    project.seeds([{"question": f"What is number {n}?"} for n in range(count)])


@pytest.fixture
def telling(project: Project, loopback: Loopback) -> tuple[Project, Telling]:
    """Three samples of each of six questions, one version."""
    text = RECIPE.format(url=loopback.url).replace('prompt = "answer"', 'prompt = "answer"\nsamples = 3')
    project.write("recipe.toml", text)
    questions(project, 6)
    told = Telling(loopback)
    project.build()
    return project, told


def home(project: Project) -> Path:
    return project.folder / "datasets" / "demo"


def seed_of(project: Project, question: int, number: int = 1) -> str:
    records = [each for kind in ("provenance", "rejected", "failed") for each in project.sidecar(kind, number)]
    wanted = f"What is number {question}?"
    return str(next(each["origin"] for each in records if each["columns"].get("question") == wanted))


def forgotten(project: Project, *arguments: str, yes: bool = True) -> Told:
    done = called(project, "forget", *arguments, "--json", *(["--yes"] if yes else []))
    assert done.exit_code == 0, done.output + done.stderr
    return dict(json.loads(done.stdout))


def holders(project: Project, text: str) -> list[str]:
    """Return every file below a project in which a text stands, packed or not."""
    found = []
    for path in sorted(path for path in project.folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".zst":
            content += b"".join(unpacked(of_path(path))())
        if text.encode() in content:
            found.append(str(path.relative_to(project.folder)))
    return found


def is_whole(project: Project, name: str | None = None) -> bool:
    checked = [*check_all(project.folder / "datasets", name, fast=False)]
    assert not [finding for each in checked for finding in each.findings]
    return True


def state_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", ".lock", "answers.sqlite-shm", "answers.sqlite-wal")
    }


# -- what goes, and what stays ---------------------------------------------------------------------------------------


def test_nothing_is_changed_without_yes(telling: tuple[Project, Telling]) -> None:
    project, _ = telling
    seed = seed_of(project, 2)
    before = state_of(project.folder)
    done = called(project, "forget", seed)
    assert done.exit_code == 0 and "nothing was changed: `--yes` does it" in done.stderr
    assert f"demo@1: 3 published ({seed}.0, {seed}.1, {seed}.2)" in done.stderr
    assert "3 stored answers" in done.stderr
    assert f"seeds.jsonl:3 ({seed}): the seed itself stands here still" in " ".join(done.stderr.split())
    told = forgotten(project, seed, yes=False)
    assert not told["done"] and told["answers"] == 3 and told["datasets"] == ["demo"] and not told["others"]
    assert state_of(project.folder) == before


def test_no_byte_of_a_seeds_rows_is_left(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed = seed_of(project, 2)
    phrases = told.phrases["number 2?"]
    assert len(phrases) == 3 and all(holders(project, phrase) for phrase in phrases)
    spent = AnswerStore(project.folder / ".distillgen" / "answers.sqlite").spent()
    before = project.manifest()
    forgotten(project, seed, "--reason", "asked to be erased")
    assert [holders(project, phrase) for phrase in phrases] == [[], [], []]
    assert holders(project, "What is number 2?") == ["seeds.jsonl"]
    assert all(holders(project, phrase) for phrase in told.phrases["number 3?"])
    assert is_whole(project)
    after = project.manifest()
    assert after["digest"] != before["digest"] and after["rows"] == before["rows"] - 3
    (tombstone,) = after["forgotten"]
    assert tombstone["id"] == seed and tombstone["rows"] == 3 and tombstone["reason"] == "asked to be erased"
    assert tombstone["digest_before"] == before["digest"]
    assert after["funnel"][:-1] == before["funnel"]
    assert after["funnel"][-1]["step"] == "forget" and after["funnel"][-1]["rejected"] == {"forgotten": 3}
    assert {key for key in before if before[key] != after[key]} <= {
        "digest", "rows", "splits", "funnel", "files", "lengths", "seal", "forgotten",
    }  # fmt: skip
    store = AnswerStore(project.folder / ".distillgen" / "answers.sqlite")
    assert store.count() == 15 and store.spent() == spent
    assert (home(project) / "latest").readlink() == Path("v0001")
    assert not (project.folder / ".distillgen" / "forgetting").exists()


def test_other_rows_stay_as_they_were(telling: tuple[Project, Telling]) -> None:
    project, _ = telling
    seed = seed_of(project, 0)  # whose first row the card shows
    rows, provenance = project.rows(), project.sidecar("provenance")
    files = {path.name: path.read_bytes().splitlines() for path in (project.version() / "data").iterdir()}
    assert f"{seed}.0" in (project.version() / "README.md").read_text()
    forgotten(project, seed)
    assert project.rows() == [row for row in rows if not row["id"].startswith(seed)]
    assert project.sidecar("provenance") == [each for each in provenance if each["origin"] != seed]
    for path in (project.version() / "data").iterdir():
        assert path.read_bytes().splitlines() == [line for line in files[path.name] if seed.encode() not in line]
        assert path.stat().st_mode & 0o222 == 0
    card = (project.version() / "README.md").read_text()
    assert seed not in card and project.sidecar("provenance")[0]["id"] in card


def test_one_sample_of_a_seed(telling: tuple[Project, Telling], loopback: Loopback) -> None:
    project, told = telling
    seed = seed_of(project, 4)
    row = f"{seed}.1"
    texts = {each["id"]: each["messages"][-1]["content"] for each in project.rows()}
    phrase = texts[row].split()[-1]
    forgotten(project, row)
    assert not holders(project, phrase)
    assert {each["id"]: each["messages"][-1]["content"] for each in project.rows()} == {
        each: text for each, text in texts.items() if each != row
    }
    assert project.sidecar("rejected")[-1] == {
        "id": row, "step": "forget", "rule": "forgotten", "detail": "erased: forgotten.txt names it", "origin": seed,
        "parent": seed, "steps": [], "columns": {},
    }  # fmt: skip
    calls = told.count
    done = project.build()
    assert "nothing changed" in done.stderr and told.count == calls and is_whole(project)


# -- many at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4], ids=["few", "more than a line is looked through for one by one"])
def test_a_file_of_ids_is_what_one_after_another_is_but_each_version_is_written_once(
    telling: tuple[Project, Telling], count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project, told = telling
    seeds = [seed_of(project, number) for number in range(count)]
    row = f"{seed_of(project, 4)}.1"
    ids = project.write(
        "gone.txt",
        "# asked for\n"
        + "".join(f"{each}\n" for each in seeds)
        + f"\n{seeds[0]}.2  # of one above\n{row}\n{'a' * 16}\n",
    )
    phrases = [phrase for number in range(count) for phrase in told.phrases[f"number {number}?"]]
    texts = {each["id"]: each["messages"][-1]["content"] for each in project.rows()}
    phrases.append(texts[row].split()[-1])
    before, was = state_of(project.folder), project.manifest()
    done = called(project, "forget", "--ids", str(ids), "demo")
    assert done.exit_code == 0 and "nothing was changed" in done.stderr and state_of(project.folder) == before
    assert f"1 of {count + 2} ids are of no row and no seed" in done.stderr and "'aaaaaaaaaaaaaaaa'" in done.stderr

    other = Project(tmp_path_factory.mktemp("other") / "copy")
    shutil.copytree(project.folder, other.folder, symlinks=True)
    for each in (*seeds, row):
        forgotten(other, each)

    gone = forgotten(project, "--ids", str(ids), "demo", "--reason", "asked for")
    assert gone["id"] == "" and gone["ids"] == [*seeds, row, "a" * 16] and gone["answers"] == 3 * count + 1
    assert not [phrase for phrase in phrases if holders(project, phrase)]
    assert project.rows() == other.rows() and is_whole(project)
    for kind in ("provenance", "rejected", "failed"):
        assert project.sidecar(kind) == other.sidecar(kind)
    now = project.manifest()
    assert [(each["id"], each["rows"]) for each in now["forgotten"]] == [*((each, 3) for each in seeds), (row, 1)]
    assert {each["digest_before"] for each in now["forgotten"]} == {was["digest"]}, "written anew once"
    assert now["digest"] == other.manifest()["digest"] and now["funnel"] == other.manifest()["funnel"]
    assert read_forgotten(home(project)).keys() == read_forgotten(home(other)).keys() == {*seeds, row}
    assert not (project.folder / ".distillgen" / "forgetting").exists()
    calls = told.count
    assert "nothing changed" in project.build().stderr and told.count == calls
    done = called(project, "forget", "--ids", str(ids), "--yes")
    assert done.exit_code == 0 and "forgotten already" in done.stderr


def test_a_file_of_ids_that_will_not_do_changes_nothing(telling: tuple[Project, Telling]) -> None:
    project, _ = telling
    seed, before = seed_of(project, 1), state_of(project.folder)
    for text, code, said in (
        (None, 2, "cannot read"), ("# nothing\n\n", 2, "no id is in it"), (f"{seed}\nno id\n", 2, "gone.txt:2"),
        (f"{seed[:-4]}*\n", 2, "is a pattern"), ("a" * 16 + "\n" + "b" * 16, 10, "nor any of the 1 others"),
    ):  # fmt: skip
        path = project.folder / "gone.txt"
        if text is not None:
            path.write_text(text)
        done = called(project, "forget", "--ids", str(path), "--yes")
        assert done.exit_code == code and said in done.stderr, (text, done.stderr)
        path.unlink(missing_ok=True)
        assert state_of(project.folder) == before
    done = called(project, "forget", "--yes")
    assert done.exit_code == 2 and "--ids FILE" in done.stderr


def test_what_a_killed_run_had_noted_of_many_ids_is_not_lost_on_a_run_for_one(
    telling: tuple[Project, Telling],
) -> None:
    """Its versions are written anew already, so that nothing else knows of the answers."""
    project, told = telling
    one, two = seed_of(project, 1), seed_of(project, 2)
    state = project.folder / ".distillgen"
    held = [bytes.fromhex(s["key"]) for each in project.sidecar("provenance") if each["origin"] in (one, two)
            for s in each["steps"] if "key" in s]  # fmt: skip
    kept = state_of(state)
    forgotten(project, "--ids", str(project.write("gone.txt", f"{one}\n{two}\n")))
    for name, content in kept.items():
        (state / name).write_bytes(content)
    write_note(place_of(state, [one, two]), Note({one, two}, set(held), set(), {"demo"}))
    project.seeds([{"question": f"What is number {n}?"} for n in (0, 3, 4, 5)])  # no recipe tells of them either
    assert forgotten(project, one)["answers"] == 6
    assert (state / "forgetting").exists(), "the other id's work may not be done"
    forgotten(project, "--ids", str(project.folder / "gone.txt"))
    assert not (state / "forgetting").exists()
    assert not holders(project, told.phrases["number 2?"][0])


def test_a_build_does_not_ask_for_it_again(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed = seed_of(project, 2)
    forgotten(project, seed)
    calls = told.count
    assert (home(project) / "forgotten.txt").read_text().splitlines()[-1].startswith(f"{seed}  # 20")
    done = project.build()
    assert told.count == calls and "nothing changed" in done.stderr
    questions(project, 8)
    project.build()
    assert told.count == calls + 6 and len(told.phrases["number 2?"]) == 3 and is_whole(project)
    record = next(each for each in project.sidecar("rejected", 2) if each["rule"] == "forgotten")
    assert record["id"] == seed and record["columns"] == {} and record["steps"] == []
    assert project.manifest(2)["funnel"][0]["rejected"] == {"forgotten": 1}
    plan = json.loads(called(project, "plan", "--json").stdout)
    assert plan["left_out"] == {"excluded": 0, "forgotten": 1} and plan["steps"][0]["calls"] == 0
    for wanted in (seed, f"{seed}.1"):
        for name in ("demo@1", "demo@2"):
            shown = called(project, "trace", wanted, name)
            assert shown.exit_code == 0 and "forgotten: erased: forgotten.txt names it" in shown.stdout
    assert called(project, "trace", f"{seed_of(project, 1)}.1", "demo").exit_code == 0
    assert seed in called(project, "show", "demo", "--rejected", "--rule", "forgotten").stdout


def test_again_is_nothing(telling: tuple[Project, Telling]) -> None:
    project, _ = telling
    seed = seed_of(project, 2)
    forgotten(project, seed)
    before = state_of(project.folder)
    done = called(project, "forget", seed, "--yes")
    assert done.exit_code == 0 and "is forgotten already: nothing of it is left here" in done.stderr
    assert state_of(project.folder) == before


def test_a_sample_then_its_seed(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed, other = seed_of(project, 2), seed_of(project, 5)
    forgotten(project, f"{seed}.0")
    forgotten(project, other)
    forgotten(project, seed)
    assert [each["rows"] for each in project.manifest()["forgotten"]] == [1, 3, 2]
    assert [each["id"] for each in project.sidecar("rejected")] == sorted([seed, other])
    assert project.manifest()["funnel"][-1]["in"] == 6 and is_whole(project)
    assert not [phrase for phrase in told.phrases["number 2?"] if holders(project, phrase)]
    assert "nothing changed" in project.build().stderr


def test_rejected_and_failed_rows_and_refused_versions(project: Project, loopback: Loopback) -> None:
    def behave(body: dict[str, Any]) -> Say:
        asked = body["messages"][-1]["content"]
        if "number 1?" in asked:
            return reply("too short secret-rejected")
        if "number 2?" in asked:
            return Say(400, b'{"error": {"message": "secret-failed is not allowed"}}')
        return reply(words(asked))

    loopback.behave = behave
    project.write("recipe.toml", RECIPE.format(url=loopback.url))
    questions(project, 6)
    project.build()
    project.edit("[dataset]", "[dataset]\ngate = { min_rows = 1000 }")
    questions(project, 7)
    assert project.run("build").returncode == 6
    assert "datasets/demo/refused/rejected.jsonl.zst" in holders(project, "secret-rejected")
    assert "datasets/demo/refused/failed.jsonl.zst" in holders(project, "secret-failed")
    told = forgotten(project, seed_of(project, 1))
    assert [each["version"] for each in told["versions"]] == ["demo@1", "demo/refused"]
    assert [each["rows"] for each in told["versions"]] == [{"rejected": [seed_of(project, 0)]}] * 2 or told["versions"]
    assert not holders(project, "secret-rejected") and is_whole(project)
    forgotten(project, seed_of(project, 2))
    assert not holders(project, "secret-failed") and is_whole(project)
    assert called(project, "check", "datasets/demo/refused").exit_code == 0
    assert len(project.sidecar("failed")) == 0 and len(project.sidecar("rejected")) == 2


def test_replies_that_no_row_names(project: Project, loopback: Loopback) -> None:
    """A first reply that was asked again, and those of a row that failed for good: only the recipe leads to them."""
    prompt = (
        'description = "x"\nuser = "Say {{ question }}"\noutput = "json"\n'
        'schema = { type = "object", required = ["answer"], properties = { answer = { type = "string" } } }\n'
    )
    project.write("prompts/said.toml", prompt)
    project.write("recipe.toml", RECIPE.format(url=loopback.url).replace('"answer"\n\n', '"said"\n\n', 1))
    questions(project, 5)

    def behave(body: dict[str, Any]) -> Say:
        asked = " ".join(turn["content"] for turn in body["messages"])
        if "number 3?" in asked:
            return reply("no JSON secret-never")
        if len(body["messages"]) < 3 and "number 1?" in asked:
            return reply("no JSON secret-first")
        return reply(json.dumps({"answer": words(asked) + (" secret-second" if "number 1?" in asked else "")}))

    loopback.behave = behave
    project.run("build")
    assert holders(project, "secret-first") and holders(project, "secret-second") and holders(project, "secret-never")
    assert project.sidecar("failed")[0]["cause"] == "schema"
    told = forgotten(project, seed_of(project, 1))
    assert told["answers"] == 2 and not told["warnings"]
    assert not holders(project, "secret-first") and not holders(project, "secret-second")
    assert forgotten(project, seed_of(project, 3))["answers"] == 2
    assert not holders(project, "secret-never") and is_whole(project)


def test_a_build_that_was_never_published(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed = seed_of(project, 2)
    shutil.rmtree(project.version())
    (home(project) / "latest").unlink()
    assert holders(project, told.phrases["number 2?"][0]) == [".distillgen/answers.sqlite"]
    assert forgotten(project, seed)["answers"] == 3
    assert not holders(project, told.phrases["number 2?"][0]) and (home(project) / "forgotten.txt").exists()
    calls = told.count
    project.build()
    assert told.count == calls and len(project.rows()) == 15


def test_two_versions_that_share_files(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed = seed_of(project, 2)
    questions(project, 5)  # fewer, so that the files of a split may stay
    project.edit("min_words = 5", "min_words = 4")
    project.build()
    shutil.copytree(home(project), home(project).with_name("other"), symlinks=True)
    shared = [path for path in (project.version(1) / "data").iterdir() if path.stat().st_nlink > 1]
    elsewhere = project.folder / "outside.jsonl"
    os.link(next((project.version(1) / "data").glob("train*")), elsewhere)
    before = elsewhere.read_bytes()
    found = forgotten(project, seed, "demo")
    assert [each["version"] for each in found["versions"]] == ["demo@1", "demo@2"]
    assert elsewhere.read_bytes() == before  # a link that somebody else holds is not written through
    assert is_whole(project, "demo") and find_version("demo@2", project.folder / "datasets").manifest.version == 2
    for path in shared:
        twin = project.version(2) / "data" / path.name
        assert twin.stat().st_ino == (project.version(1) / "data" / path.name).stat().st_ino
    assert set(holders(project, told.phrases["number 2?"][0])) == {
        *(f"datasets/other/v000{n}/{name}" for n in (1, 2) for name in ("provenance.jsonl.zst",)),
        *(str(path.relative_to(project.folder)) for path in project.folder.glob("datasets/other/v*/data/*")
          if told.phrases["number 2?"][0].encode() in path.read_bytes()), "outside.jsonl",
    } - ({"outside.jsonl"} if told.phrases["number 2?"][0].encode() not in before else set())  # fmt: skip


def test_datasets_and_versions_without_it_are_not_touched(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed = seed_of(project, 5)
    questions(project, 5)
    project.build()
    project.edit('name = "demo"', 'name = "other"')
    project.build()
    others = {each: state_of(each) for each in (project.version(2), home(project).with_name("other"))}
    times = {path: path.stat().st_mtime_ns for path in project.version(2).rglob("*")}
    found = forgotten(project, seed)
    assert [each["version"] for each in found["versions"]] == ["demo@1"]
    assert {each: state_of(each) for each in others} == others
    assert {path: path.stat().st_mtime_ns for path in project.version(2).rglob("*")} == times
    assert not (home(project).with_name("other") / "forgotten.txt").exists()
    assert not holders(project, told.phrases["number 5?"][0])


def test_a_mix_that_holds_it_too(telling: tuple[Project, Telling]) -> None:
    """It is told when only another dataset is named; and a mix's own name for a row is none to forget it by."""
    project, told = telling
    text = project.recipe.read_text()
    project.write("other.toml", text.replace('name = "demo"', 'name = "other"').replace("= 100", "= 101"))
    assert project.run("build", "other.toml").returncode == 0
    assert called(project, "mix", "both", "demo:1", "other:1").exit_code == 0
    row = f"{seed_of(project, 2)}.1"
    texts = [str(each) for name in ("demo", "other") for each in project.rows(name=name) if each["id"] == row]
    said = [phrase for phrase in told.phrases["number 2?"] if any(phrase in text for text in texts)]
    assert len(said) == len(texts) == 2, "samples arrive in any order"
    for name in (f"{row}.mix-2", f"{row}.mix-2.mix-3"):
        done = called(project, "forget", name, "--yes")
        assert done.exit_code == 2 and f"forget {row}: it goes with it" in done.stderr
    found = forgotten(project, row, "demo", yes=False)
    assert [warning.split(":")[0] for warning in found["warnings"]] == ["both@1", "other@1"]
    found = forgotten(project, row, "demo")
    assert [each["version"] for each in found["versions"]] == ["demo@1"] and len(found["warnings"]) == 2
    assert "both@1: it is there, too, and stays" in called(project, "forget", row, "demo").stderr
    manifest = project.folder / "datasets" / "other" / "v0001" / "manifest.json"
    content = manifest.read_bytes()
    manifest.unlink()
    assert "what it holds is not known" in called(project, "forget", row, "demo").stderr
    manifest.write_bytes(content)
    assert not forgotten(project, row)["warnings"] and is_whole(project)
    assert not any(holders(project, phrase) for phrase in said)
    assert called(project, "mix", "both", "demo:1", "other:1").exit_code == 0
    assert not [each for each in project.folder.glob("datasets/both/v*/data/*") if f'"{row}' in each.read_text()]


def test_a_split_that_loses_its_last_row_and_a_version_that_loses_all(project: Project, loopback: Loopback) -> None:
    told = Telling(loopback)
    project.write(
        "recipe.toml",
        RECIPE.format(url=loopback.url).replace("train = 0.8, validation = 0.2", "train = 0.5, validation = 0.5"),
    )
    questions(project, 4)
    project.build()
    splits: dict[str, list[str]] = {}
    for each in project.sidecar("provenance"):
        splits.setdefault(each["split"], []).append(each["id"])
    assert len(splits) == 2
    first, second = splits
    for row in splits[first]:
        forgotten(project, row)
        assert is_whole(project)
    assert project.manifest()["splits"] == {second: len(splits[second])}
    assert [path.name for path in (project.version() / "data").iterdir()] == [f"{second}-00000-of-00001.jsonl"]
    for row in splits[second]:
        forgotten(project, row)
    assert is_whole(project) and project.manifest()["rows"] == 0 and not (project.version() / "data").exists()
    assert called(project, "show", "demo").exit_code == 0 and called(project, "stats", "demo").exit_code == 0
    assert not [phrase for each in told.phrases.values() for phrase in each if holders(project, phrase)]
    assert project.run("build").returncode == 6


def test_columns_in_which_only_dates_are_left(project: Project, loopback: Loopback) -> None:
    """The card warns of them, and so does that of a version of which the only other text was erased."""
    loopback.behave = lambda body: reply(f"2026-01-{len(body['messages'][-1]['content']):02d}")
    text = RECIPE.format(url=loopback.url).replace("train = 0.8, validation = 0.2", "train = 1.0")
    start, end = text.index('[[steps]]\nuse = "filter"'), text.index("[student]")
    project.write("recipe.toml", text[:start] + text[end:])
    project.seeds([{"question": each} for each in ("2026-02-01", "2026-02-02", "no date at all")])
    project.build()
    assert not project.manifest()["only_dates"]
    other = next(each["origin"] for each in project.sidecar("provenance") if "no" in each["columns"]["question"])
    forgotten(project, other)
    warning = "every text of `messages` is a date"
    assert project.manifest()["only_dates"] == {"train": ["messages"]} and is_whole(project)
    assert warning in (project.version() / "README.md").read_text()
    assert "nothing changed" in project.run("build").stderr
    for row in project.rows():
        assert project.manifest()["only_dates"]
        forgotten(project, str(row["id"]))
    assert project.manifest()["only_dates"] == {} and is_whole(project)
    assert warning not in (project.version() / "README.md").read_text()


# -- rows that others are made of ------------------------------------------------------------------------------------


def test_shared_answers_are_told_and_go(project: Project, loopback: Loopback) -> None:
    told = Telling(loopback)
    project.write(
        "recipe.toml",
        RECIPE.format(url=loopback.url)
        .replace("near = 0.8", "near = 0.8")
        .replace('use = "deduplicate"\non = "answer"\nnear = 0.8', 'use = "filter"\nrules = ["not_empty"]'),
    )
    project.seeds([{"question": "What is number 1?", "who": who} for who in ("one", "two")])
    project.build()
    first, second = [each["id"] for each in project.sidecar("provenance")]
    assert told.count == 1
    plain = called(project, "forget", first)
    assert "the same answers made 1 row that stay" in plain.stderr and second in plain.stderr
    found = forgotten(project, first)
    assert found["others"] == {second: ["demo@1"]} and found["answers"] == 1
    assert [each["id"] for each in project.rows()] == [second] and is_whole(project)
    assert {path.split("/")[-1] for path in holders(project, told.phrases["number 1?"][0])} <= {
        "provenance.jsonl.zst", "README.md", *(path.name for path in (project.version() / "data").iterdir()),
    }  # fmt: skip
    assert not any(path.startswith(".distillgen") for path in holders(project, told.phrases["number 1?"][0]))


def test_identical_seeds_are_named(project: Project, loopback: Loopback) -> None:
    project.write("recipe.toml", RECIPE.format(url=loopback.url))
    project.seeds(
        [{"question": "What is number 1?"}, {"question": "What is number 2?"}, {"question": "What is number 1?"}]
    )
    project.build()
    seed = project.rows()[0]["id"]
    found = forgotten(project, seed)
    assert [place.rpartition("/")[2] for place in found["seeds"]] == [
        f"seeds.jsonl:1 ({seed})", f"seeds.jsonl:3 ({seed}-2)",
    ]  # fmt: skip
    assert found["others"] == {f"{seed}-2": ["demo@1"]}
    assert f"{seed}-2" in {each["id"] for each in project.sidecar("rejected")}


PAIRS = """
name = "demo"
[seeds]
path = "seeds.jsonl"
[teachers.main]
base_url = "{url}"
model = "scripted"
[[steps]]
use = "generate"
prompt = "answer"
samples = 3
[[steps]]
use = "judge"
own_answers = true
[[steps]]
use = "select"
keep = "pair"
on = "answer"
by = "score"
[student]
prompt = "{{{{ question }}}}"
completion = "{{{{ chosen }}}}"
rejected = "{{{{ rejected }}}}"
"""


def judged(told: Telling) -> Callable[[dict[str, Any]], Say]:
    def behave(body: dict[str, Any]) -> Say:
        if "response_format" not in body:
            return told(body)
        text = body["messages"][-1]["content"]
        number = sum(map(ord, text)) % 9 + 1
        return reply(json.dumps({"critique": f"judged {text[-200:]}", "score": number}))

    return behave


def test_a_pair_goes_with_either_of_its_answers(project: Project, loopback: Loopback) -> None:
    told = Telling(loopback)
    loopback.behave = judged(told)
    project.write("recipe.toml", PAIRS.format(url=loopback.url))
    questions(project, 6)
    project.build()
    assert set(project.rows()[0]) == {"id", "prompt", "chosen", "rejected"}
    pairs = [each for each in project.sidecar("provenance") if each["steps"][-1].get("keep") == "pair"]
    merged = pairs[0]["steps"][-1]["rejected"]["id"]
    phrase = pairs[0]["columns"]["rejected"].split()[-1]
    assert merged != pairs[0]["id"] and phrase.startswith("secret-")
    found = forgotten(project, merged)
    assert found["versions"][0]["rows"] == {"published": [pairs[0]["id"]]} and found["answers"] >= 2
    assert not holders(project, phrase) and is_whole(project)
    assert [each["id"] for each in project.rows()] == [each["id"] for each in pairs[1:]]
    assert "forgotten" in called(project, "trace", merged, "demo").stdout
    whole = pairs[1]
    found = forgotten(project, whole["origin"])
    assert not holders(project, whole["columns"]["chosen"].split()[-1]) and is_whole(project)
    assert not holders(project, whole["columns"]["rejected"].split()[-1])
    done = project.build()
    assert is_whole(project) and not holders(project, phrase), done.stderr


def test_what_another_sample_says_of_it(project: Project, loopback: Loopback) -> None:
    """The votes of a majority are quoted where others are outvoted."""
    drawn = iter([*("secret-majority",) * 2, "secret-minority"] * 20)
    loopback.behave = lambda body: reply(f"{body['messages'][-1]['content'][-3:]} {next(drawn)}")
    text = PAIRS.format(url=loopback.url)
    start, end = text.index('[[steps]]\nuse = "judge"'), text.index("[student]")
    text = text[:start] + '[[steps]]\nuse = "select"\nkeep = "majority"\n' + text[end:]
    project.write("recipe.toml", text.replace("chosen", "answer").replace('rejected = "{{ rejected }}"\n', ""))
    project.seeds([{"question": "What is number 1?"}])
    done = project.run("build")
    assert done.returncode == 0, done.stderr
    kept = project.rows()[0]["id"]
    outvoted = next(each for each in project.sidecar("rejected") if each["rule"] == "outvoted")
    assert "secret-majority" in outvoted["detail"]
    others = [each["id"] for each in project.sidecar("rejected") if each["rule"] == "not_selected"]
    for row in (kept, *others):
        forgotten(project, row)
    assert not holders(project, "secret-majority") and holders(project, "secret-minority") and is_whole(project)


GROWING = """
name = "demo"
[seeds]
path = "seeds.jsonl"
[teachers.main]
base_url = "{url}"
model = "scripted"
[[steps]]
use = "bootstrap"
examples = 3
draws = 8
rounds = 2
[[steps.steps]]
use = "generate"
prompt = "invent"
write = {{ answer = "question" }}
[[steps.steps]]
use = "filter"
rules = [{{ rule = "length", column = "question", min_words = 5 }}]
[student]
prompt = "A question, please"
completion = "{{{{ question }}}}"
"""


def test_examples_that_a_draw_showed(project: Project, loopback: Loopback) -> None:
    """Rows that were invented from others keep them among their columns where they were rejected."""
    project.write(
        "prompts/invent.toml", 'description = "x"\nuser = "Like {{ examples | join(\' or \') }}: invent one"\n'
    )
    project.write("recipe.toml", GROWING.format(url=loopback.url))
    project.seeds([{"question": f"secret-{n} asks what the number {n} is"} for n in range(6)])
    count = iter(range(1000))
    loopback.behave = lambda body: reply(words(str(n)) if (n := next(count)) % 2 else "too short")
    project.build()
    seed = project.sidecar("provenance")[2]["id"]
    wanted = f"secret-{project.sidecar('provenance')[2]['columns']['question'].split()[0][-1]} asks"
    shown = [each for each in project.sidecar("rejected") if wanted in str(each["columns"].get("examples"))]
    assert shown and holders(project, wanted)
    others = {each["id"]: each["columns"]["examples"] for each in shown}
    forgotten(project, seed)
    assert holders(project, wanted) == ["seeds.jsonl"] and is_whole(project)
    for each in project.sidecar("rejected"):
        if each["id"] in others:
            assert each["columns"]["examples"] == ["" if wanted in text else text for text in others[each["id"]]]
    draw = shown[0]["id"]
    forgotten(project, draw)
    assert draw in {each["id"] for each in project.sidecar("rejected") if each["rule"] == "forgotten"}
    assert is_whole(project)


def test_with_append(project: Project, loopback: Loopback) -> None:
    told = Telling(loopback)
    text = RECIPE.format(url=loopback.url).replace("[dataset]", "[dataset]\nappend = true")
    project.write("recipe.toml", text.replace("near = 0.8", 'near = 0.8\nagainst = "previous"'))
    for count in (5, 8, 10):
        questions(project, count)
        project.build()
    seed = seed_of(project, 3)
    assert [*(project.folder / ".distillgen" / "near").glob("*/*/*")]
    found = forgotten(project, seed)
    assert len(found["versions"]) == 3 and "an index of rows" in found["removals"][0]["what"]
    assert not holders(project, told.phrases["number 3?"][0]) and is_whole(project)
    assert not holders(project, seed) or all(
        path.endswith(("forgotten.txt", "rejected.jsonl.zst", "manifest.json")) for path in holders(project, seed)
    )
    assert "nothing changed" in project.build().stderr
    questions(project, 12)
    calls = told.count
    project.build()
    assert told.count == calls + 2 and len(project.rows(4)) == 11 and is_whole(project)


def test_what_was_erased_elsewhere_is_left_out_here(telling: tuple[Project, Telling]) -> None:
    """In a project without its own record, a version tells what was erased: one rewritten, one built after that."""
    project, told = telling
    one, other = seed_of(project, 2), f"{seed_of(project, 3)}.1"
    forgotten(project, one)
    forgotten(project, other)
    questions(project, 7)
    project.build()
    ours = (home(project) / "forgotten.txt").read_text()
    for number in (1, 2):
        (home(project) / "forgotten.txt").unlink()
        version = find_version(f"demo@{number}", project.folder / "datasets")
        assert sorted(keep_out(home(project), version)) == sorted([one, other])
        assert keep_out(home(project), version) == []
        assert set(read_forgotten(home(project))) == {one, other} and other in ours
    hostile = version.manifest.model_copy(update={"forgotten": [{"id": "\x1b[2J\nx"}, {"id": 7}, {}, {"id": one}]})
    (home(project) / "forgotten.txt").write_text(f"{other}  # no end of line")
    assert keep_out(home(project), Version(version.folder, hostile)) == [one]
    calls = told.count
    assert "nothing changed" in project.build().stderr and told.count == calls


# -- beside the versions ---------------------------------------------------------------------------------------------


def test_copies_beside_the_versions(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed, phrase = seed_of(project, 2), told.phrases["number 2?"][1]
    state, version = project.folder / ".distillgen", project.version()
    for path in (
        version / "exports" / "trl" / "train.jsonl", version / "report.html", version / "notes.txt",
        home(project) / ".damaged" / "v0001" / "provenance.jsonl.zst-2026", home(project) / ".staging-v0002" / "x",
        state / "spool" / "x", state / "batches" / "queue-ab-000000.jsonl", state / "logs" / "server.log",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"... {phrase} ...")
    keys = [bytes.fromhex(each["steps"][0]["key"]) for each in project.sidecar("provenance") if each["origin"] == seed]
    with sqlite3.connect(state / "answers.sqlite") as connection:
        connection.execute("INSERT INTO damaged VALUES (?, ?, ?, 0)", (keys[0], f"xx{phrase}".encode(), b""))
    connection.close()
    batches = state / "batches"
    (batches / "ab-000001.keys").write_bytes(b"k" * KEY_BYTES + keys[0] + keys[1])
    (batches / "ab-000002.json").write_text(
        json.dumps(
            {"number": 2, "refused": {keys[2].hex(): ["refused_400", phrase], "ff" * 32: ["x", "y"]}, "faulty": {}}
        )
    )
    for number, nonsense in enumerate(("[]", '{"refused": 5}', '{"refused": null}', "{", '{"refused": ["x"]}'), 3):
        (batches / f"ab-00000{number}.json").write_text(nonsense)
    (batches / "ab-000009.json").mkdir()
    done = called(project, "forget", seed)
    assert "exports and report.html with it: to be made again" in done.stderr
    assert "notes.txt" in done.stderr and ".damaged" in done.stderr
    found = forgotten(project, seed)
    assert found["answers"] == 4 and len(found["batches"]) == 2
    assert not holders(project, phrase) and is_whole(project)
    assert (batches / "ab-000001.keys").read_bytes() == b"k" * KEY_BYTES + bytes(2 * KEY_BYTES)
    assert json.loads((batches / "ab-000002.json").read_text())["refused"] == {"ff" * 32: ["x", "y"]}


def test_a_batch_under_way_brings_nothing_back(project: Project, provider: BatchServer) -> None:
    """Nothing is published yet, and no answer is there: the recipe alone leads from the seed to its requests."""
    text = RECIPE.format(url=provider.url).replace("sampling =", 'mode = "batch"\nsampling =')
    project.write("recipe.toml", text)
    questions(project, 5)
    assert project.run("build").returncode == 3
    (keys,) = (project.folder / ".distillgen" / "batches").glob("*.keys")
    before = keys.read_bytes()
    seed = next(row.id for row in prepare(project.recipe).seeds if row.columns["question"] == "What is number 2?")
    found = forgotten(project, seed)
    assert found["answers"] == 0 and found["datasets"] == ["demo"] and len(found["batches"]) == 1
    after = keys.read_bytes()
    cut = [(before[at : at + KEY_BYTES], after[at : at + KEY_BYTES]) for at in range(0, len(before), KEY_BYTES)]
    assert [old for old, new in cut if old != new] and sum(old != new for old, new in cut) == 1
    assert next(new for old, new in cut if old != new) == bytes(KEY_BYTES)
    done = project.run("build")
    assert done.returncode == 0, done.stderr
    assert len(provider.asked) == 5 and len(project.rows()) + len(project.sidecar("rejected")) == 5
    assert seed not in {row["id"] for row in project.rows()}
    store = AnswerStore(project.folder / ".distillgen" / "answers.sqlite")
    assert store.count() == 4 and is_whole(project)
    store.close()


def test_a_note_that_is_left_is_carried_out(telling: tuple[Project, Telling]) -> None:
    """Killed after the versions: the note alone still knows which answers must go."""
    project, told = telling
    seed = seed_of(project, 2)
    store = project.folder / ".distillgen" / "answers.sqlite"
    shutil.copy(store, project.folder.parent / "answers.sqlite")
    keys = [each["steps"][0]["key"] for each in project.sidecar("provenance") if each["origin"] == seed]
    digest = project.manifest()["digest"]
    forgotten(project, seed)
    shutil.move(project.folder.parent / "answers.sqlite", store)
    project.recipe.unlink()  # which would lead there too
    note = {"id": seed, "keys": keys, "digests": [digest], "datasets": ["demo"], "reason": ""}
    name = f"{hashlib.sha256(seed.encode()).hexdigest()[:32]}.json"
    path = project.write(f".distillgen/forgetting/{name}", json.dumps(note))
    project.write(f".distillgen/near/demo/way/{digest[:32]}/names", told.phrases["number 2?"][0])
    assert holders(project, told.phrases["number 2?"][0])
    found = forgotten(project, seed)
    assert found["answers"] == 3 and not found["versions"] and not path.parent.exists()
    assert not holders(project, told.phrases["number 2?"][0])


def test_the_log_of_the_store_is_emptied(telling: tuple[Project, Telling]) -> None:
    """Bytes that a commit left in the log, or that an answer set aside long ago left in free pages, go too."""
    project, told = telling
    path = project.folder / ".distillgen" / "answers.sqlite"
    phrase = told.phrases["number 1?"][0]
    keeper = sqlite3.connect(path)
    keeper.execute("PRAGMA wal_autocheckpoint = 0")
    keeper.execute("INSERT INTO taken_in VALUES (?)", (f"log-{phrase}",))
    keeper.commit()
    keeper.execute("DELETE FROM taken_in")
    keeper.commit()
    assert any(name.endswith("-wal") for name in holders(project, f"log-{phrase}"))
    forgotten(project, seed_of(project, 1))
    assert not holders(project, phrase)
    assert keeper.execute("SELECT count(*) FROM answers").fetchone()[0] == 15
    keeper.close()


# -- what cannot be --------------------------------------------------------------------------------------------------


def test_ids_and_names_that_nobody_knows(telling: tuple[Project, Telling]) -> None:
    project, _ = telling
    seed = seed_of(project, 2)
    before = state_of(project.folder)
    wrong = seed[:-1] + ("a" if seed[-1] != "a" else "b")
    done = called(project, "forget", wrong, "--yes")
    assert done.exit_code == 10 and f"did you mean '{seed}" in done.stderr
    for arguments, code in (
        ([f"{seed}.9"], 10), (["x" * 500], 10), (["../x"], 10), (["*"], 10), (["\x1b[2J"], 10), ([seed, "nowhere"], 10),
        ([seed, "../demo"], 2), ([seed, "demo@1"], 2), ([seed, "--project", "nowhere"], 10), ([""], 10),
        (["\udcff\udcfe"], 10), ([seed, f"{seed}.1"], 2), ([seed, "--reason", "\udcff"], 2), ([seed.upper()], 10),
        ([seed, "--state", "nowhere"], 10), ([seed, "--state", "recipe.toml"], 10),
    ):  # fmt: skip
        done = called(project, "forget", *arguments, "--yes")
        assert done.exit_code == code, (arguments, done.stderr)
        assert "\x1b" not in done.stderr and len(done.stderr) < 1500
    assert state_of(project.folder) == before


def test_while_a_build_is_at_work(telling: tuple[Project, Telling]) -> None:
    project, _ = telling
    for lock in (project.folder / ".distillgen" / "lock", home(project) / ".lock"):
        with Lock(lock):
            for more in ([], ["--yes"]):
                assert called(project, "forget", seed_of(project, 2), *more).exit_code == 11
    assert len(project.rows()) == 18


def test_a_damaged_version_stops_it_before_anything_is_changed(telling: tuple[Project, Telling]) -> None:
    project, _ = telling
    seed = seed_of(project, 2)
    path = next((project.version() / "data").glob("train*"))
    for victim in (project.version() / "provenance.jsonl.zst", path):
        content = victim.read_bytes()
        victim.chmod(0o644)
        victim.write_bytes(content[: len(content) // 2])
        before = state_of(project.version())
        done = called(project, "forget", seed, "--yes")
        assert done.exit_code == 8 and "`distillgen repair` first" in done.stderr, done.stderr
        assert state_of(project.version()) == before
        victim.write_bytes(content)
        victim.chmod(0o444)
    forgotten(project, seed)
    assert is_whole(project)


def test_a_recipe_that_is_broken_is_told(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed = seed_of(project, 2)
    project.recipe.write_text("nonsense")
    found = forgotten(project, seed)
    assert "this recipe cannot be followed" in found["warnings"][0] and not found["seeds"]
    assert not [phrase for phrase in told.phrases["number 2?"] if holders(project, phrase)]


def test_without_a_store(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed = seed_of(project, 2)
    (project.folder / ".distillgen").rename(project.folder.parent / f"{project.folder.name}-elsewhere")
    done = called(project, "forget", seed, "--yes")
    assert (
        done.exit_code == 0 and "name it with --state" in done.stderr and not (project.folder / ".distillgen").exists()
    )
    elsewhere = project.folder.parent / f"{project.folder.name}-elsewhere"
    done = called(project, "forget", seed, "--yes", "--state", str(elsewhere))
    assert done.exit_code == 0 and "3 stored answers" in done.stderr
    assert told.phrases["number 2?"][0].encode() not in (elsewhere / "answers.sqlite").read_bytes()


def test_a_file_of_the_forgotten_that_cannot_be_read_stops_a_build(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    forgotten(project, seed_of(project, 2))
    (home(project) / "forgotten.txt").write_bytes(b"\xff\xfe")
    calls = told.count
    for command in ("build", "plan"):
        done = called(project, command)
        assert done.exit_code == 8 and "forgotten.txt" in done.stderr
    (home(project) / "forgotten.txt").unlink()
    os.mkfifo(home(project) / "forgotten.txt")  # which would be waited for
    for command in (["build"], ["plan"], ["forget", seed_of(project, 3), "--yes"]):
        done = called(project, *command)
        assert done.exit_code == 8 and "this is no file" in done.stderr
    assert told.count == calls


# -- killed ----------------------------------------------------------------------------------------------------------


def grown(project: Project, loopback: Loopback, rows: int = 400, versions: int = 3) -> Telling:
    told = Telling(loopback)
    project.write("recipe.toml", RECIPE.format(url=loopback.url).replace("near = 0.8", "near = 0.99"))
    for number in range(versions):
        questions(project, rows + 10 * number)
        project.build()
    return told


def is_rewritten(project: Project, number: int) -> bool:
    return bool(project.manifest(number)["forgotten"])


MOMENTS: dict[str, Callable[[Project], bool]] = {
    "at once": lambda project: True,
    "noted": lambda project: any((project.folder / ".distillgen" / "forgetting").glob("*.json")),
    "on record": lambda project: (home(project) / "forgotten.txt").exists(),
    "staging": lambda project: any(home(project).glob(".staging-v*")),
    "first version": lambda project: is_rewritten(project, 1),
    "second version": lambda project: is_rewritten(project, 2),
    "last version": lambda project: is_rewritten(project, 3),
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    server, project = Loopback(), Project(tmp_path_factory.mktemp("large"))
    told = grown(project, server)
    server.close()
    return project.folder, told.phrases["number 7?"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_run_again(project: Project, large: tuple[Path, list[str]], moment: str) -> None:
    subprocess.run(["cp", "-a", f"{large[0]}/.", str(project.folder)], check=True)
    seed, phrases = seed_of(project, 7), large[1]
    old = {number: project.manifest(number)["digest"] for number in (1, 2, 3)}
    process = project.start("forget", seed, "--yes")
    until = time.monotonic() + 60
    while not MOMENTS[moment](project) and process.poll() is None and time.monotonic() < until:
        pass
    time.sleep(random.random() * 0.03)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for number in (1, 2, 3):
        manifest = project.manifest(number)
        assert (manifest["digest"] == old[number]) == (not manifest["forgotten"])
    assert is_whole(project)
    assert (home(project) / "latest").readlink() == Path("v0003")
    forgotten(project, seed)
    assert is_whole(project) and not [phrase for phrase in phrases if holders(project, phrase)]
    assert all(project.manifest(number)["forgotten"][0]["id"] == seed for number in (1, 2, 3))
    assert not [*home(project).glob(".staging*")] and not [*(project.folder / ".distillgen" / "forgetting").glob("*")]
    assert (home(project) / "forgotten.txt").read_text().count(seed) == 1
    assert called(project, "forget", seed, "--yes").exit_code == 0


def test_killed_at_random_moments(project: Project, large: tuple[Path, list[str]]) -> None:
    """One row after the other, each time killed some time after its start, with a build's clearing up in between."""
    subprocess.run(["cp", "-a", f"{large[0]}/.", str(project.folder)], check=True)
    chance = random.Random(5)
    begun = time.monotonic()
    process = project.start("forget", seed_of(project, 20), "--yes")
    process.communicate()
    usual = time.monotonic() - begun
    for question in range(21, 31):
        seed = seed_of(project, question)
        process = project.start("forget", seed, "--yes")
        time.sleep(usual * (0.4 + 0.7 * chance.random()))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert is_whole(project)
        forgotten(project, seed)
        assert not [path for path in holders(project, f"What is number {question}?") if path != "seeds.jsonl"]
    assert is_whole(project) and len(project.manifest(3)["forgotten"]) == 11


def test_a_build_after_a_kill_does_not_ask(project: Project, large: tuple[Path, list[str]]) -> None:
    subprocess.run(["cp", "-a", f"{large[0]}/.", str(project.folder)], check=True)
    seed = seed_of(project, 7)
    process = project.start("forget", seed, "--yes")
    while not MOMENTS["first version"](project) and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = project.run("build", "--offline")  # its server is gone
    assert done.returncode == 0, done.stderr
    forgotten(project, seed)
    assert is_whole(project) and not [phrase for phrase in large[1] if holders(project, phrase)]


def test_an_exchange_by_renames(tmp_path: Path) -> None:
    """Where the system knows no exchange: cut short, the old one gets its name back; done, the hidden one goes."""
    from distillgen.dataset.versions import sweep

    home = tmp_path / "demo"
    for name in ("v0001", ".staging-v-v0001"):
        (home / name).mkdir(parents=True)
        (home / name / "name").write_text(name)
    exchange(home / ".staging-v-v0001", home / "v0001", at_once=False)
    assert (home / "v0001" / "name").read_text() == ".staging-v-v0001"
    assert (home / ".staging-v-v0001" / "name").read_text() == "v0001"
    exchange(home / ".staging-v-v0001", home / "v0001")
    assert (home / "v0001" / "name").read_text() == "v0001"
    assert sorted(path.name for path in home.iterdir()) == [".staging-v-v0001", "v0001"]
    (home / "v0001").rename(home / ".exchanging-v0001")  # a crash between the renames
    (home / ".staging-v-v0001").rename(home / ".staging-v-kept")
    sweep(home)
    assert (home / "v0001" / "name").read_text() == "v0001"
    assert not (home / "latest").exists(), "a folder without a manifest is no version to name"


def test_a_crash_between_two_renames(telling: tuple[Project, Telling]) -> None:
    project, told = telling
    seed = seed_of(project, 2)
    project.version().rename(home(project) / ".exchanging-v0001")
    (home(project) / ".staging-v-v0001").mkdir()
    calls = told.count
    assert "nothing changed" in project.build().stderr and told.count == calls
    shutil.copytree(project.version(), home(project) / ".exchanging-v0001")
    forgotten(project, seed)
    assert is_whole(project) and not holders(project, told.phrases["number 2?"][0])
    assert not [*home(project).glob(".exch*")]


def test_a_reader_of_latest_never_sees_half_a_version(project: Project, large: tuple[Path, list[str]]) -> None:
    """A manifest that is the same before and after the reading vouches for all that was read between."""
    subprocess.run(["cp", "-a", f"{large[0]}/.", str(project.folder)], check=True)
    latest, wrong, read = home(project) / "latest", list[str](), [0]
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                before = (latest / "manifest.json").read_bytes()
                files = orjson.loads(before)["files"]
                found = {name: file_sha256(latest / name) for name in files}
                after = (latest / "manifest.json").read_bytes()
            except FileNotFoundError as error:
                if not latest.is_dir() or "manifest" in str(error):
                    wrong.append(f"no version: {error}")
                continue
            except orjson.JSONDecodeError as error:
                wrong.append(f"half a manifest: {error}")
                continue
            if before == after:
                read[0] += 1
                wrong.extend(name for name, entry in files.items() if found[name] != entry["sha256"])

    reader = threading.Thread(target=look)
    reader.start()
    for question in range(40, 46):
        process = project.start("forget", seed_of(project, question), "--yes")
        process.communicate(timeout=60)
        assert process.returncode == 0
    stop.set()
    reader.join()
    assert not wrong and read[0] > 5
    assert len([*read_jsonl(project.version(3) / "provenance.jsonl.zst")]) == len(project.rows(3)) and is_whole(project)
