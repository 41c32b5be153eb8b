"""Looking at versions: names by digest, show, stats, diff, trace; what they say adds up with the files."""

import itertools
import json
import os
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, Say, answer, reply, words
from test_mix import chat, synthetic
from till import number_of, priced
from typer.testing import CliRunner

from distillgen.cli.main import app
from distillgen.dataset.compare import changed_keys, steps_in_order
from distillgen.dataset.figures import BARS, Lengths, bar
from distillgen.files import compressor, dumps


def odd_ones(body: dict[str, Any]) -> Say:
    """Answer; number 3 is refused, number 4 too short, numbers 5 and 6 the same."""
    number = number_of(body)
    text = {3: "I'm sorry, but I can't help with that.", 4: "Too short", 5: words("same"), 6: words("same")}.get(number)
    return answer(body) if text is None else reply(text)


@pytest.fixture
def looked_at(project: Project, loopback: Loopback) -> Project:
    """A version of 17 rows of 20, with a priced teacher."""
    loopback.behave = odd_ones
    priced(project, loopback, 20).build()
    return project


def grown(project: Project, loopback: Loopback) -> Project:
    """Publish a second version: two seeds more, one less, and a milder rule, which lets one more pass."""
    project.seeds([{"question": f"What is number {n}?"} for n in range(1, 22)])
    project.edit("min_words = 5", "min_words = 2")
    project.build()
    return project


def told(project: Project, *arguments: str, code: int = 0) -> Any:
    """Return what a command says with --json."""
    done = project.run(*arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


# -- names -----------------------------------------------------------------------------------------------------------


def test_a_version_is_named_by_its_digest(looked_at: Project, loopback: Loopback) -> None:
    first = looked_at.manifest(1)["digest"]
    grown(looked_at, loopback)
    assert told(looked_at, "stats", f"demo@sha256:{first}")["version"] == "demo@1"
    assert told(looked_at, "stats", f"demo@sha256:{first[:8].upper()}")["version"] == "demo@1"
    for wrong in (first[:3], "0" * 12, "xyzxyz", ""):
        done = looked_at.run("show", f"demo@sha256:{wrong}")
        assert done.returncode == 10 and "has no version with the digest" in done.stderr and first[:12] in done.stderr


def test_of_two_versions_with_one_content_the_newer_is_meant(looked_at: Project, loopback: Loopback) -> None:
    before = looked_at.recipe.read_text()
    grown(looked_at, loopback)
    looked_at.write("recipe.toml", before)
    looked_at.seeds([{"question": f"What is number {n}?"} for n in range(20)])
    looked_at.build()
    assert looked_at.manifest(3)["digest"] == looked_at.manifest(1)["digest"]
    assert told(looked_at, "stats", f"demo@sha256:{looked_at.manifest(1)['digest'][:6]}")["version"] == "demo@3"


# -- show ------------------------------------------------------------------------------------------------------------


def test_show_finds_rows_by_id_rule_and_chance(looked_at: Project) -> None:
    def shown(*arguments: str) -> list[dict[str, Any]]:
        done = looked_at.run("show", "demo", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    rows = looked_at.rows()
    assert shown("--id", rows[7]["id"]) == [rows[7]]
    some = shown("--sample", "-n", "4")
    assert some == shown("--sample", "-n", "4") and len({row["id"] for row in some}) == 4
    assert all(row in rows for row in some) and some != rows[:4]
    assert [row["rule"] for row in shown("--rule", "length")] == ["length"]
    assert [row["rule"] for row in shown("--rejected", "-n", "50")] == ["not_refusal", "length", "exact_duplicate"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--rule", "lenght"], 10, "did you mean 'length'?"),
        (["--id", "nobody"], 10, "demo@1 has no published row 'nobody'"),
        (["--rejected", "--id", "nobody"], 10, "demo@1 has no rejected row 'nobody'"),
        (["--rejected", "--split", "train"], 2, "rejected rows are in no split"),
        (["--split", "trian"], 10, "did you mean 'train'?"),
    ],
)
def test_show_says_what_there_is(looked_at: Project, arguments: list[str], code: int, said: str) -> None:
    done = looked_at.run("show", "demo", *arguments)
    assert done.returncode == code and said in done.stderr and not done.stdout


# -- trace -----------------------------------------------------------------------------------------------------------


def test_trace_tells_where_a_row_came_from_and_where_it_went(looked_at: Project) -> None:
    row = looked_at.rows()[2]
    [story] = told(looked_at, "trace", row["id"], "demo")["rows"]
    [record] = [each for each in looked_at.sidecar("provenance") if each["id"] == row["id"]]
    assert story["fate"] == "published" and story["training"] == row
    assert {name: story[name] for name in record} == record and story["end"] == f"published in split {record['split']}"
    text = looked_at.run("trace", row["id"], "demo").stdout
    assert f"seed {record['origin']}" in text and "1.generate: main as scripted to prompt answer, stop" in text
    assert story["usd"] == pytest.approx((7 * 1000 + 11 * 10_000) / 1e6) and "\ncost $0.117000\n" in text
    assert "7 tokens in, 11 out" in text and record["steps"][0]["key"] in text and row["messages"][0]["content"] in text
    [refused] = [each for each in looked_at.sidecar("rejected") if each["rule"] == "length"]
    [left_out] = told(looked_at, "trace", refused["id"], "demo")["rows"]
    assert left_out["fate"] == "rejected" and left_out["training"] is None
    assert left_out["end"] == f"rejected by 2.filter: length: {refused['detail']}"


def test_trace_of_a_seed_tells_of_all_its_rows(looked_at: Project) -> None:
    looked_at.edit('prompt = "answer"', 'prompt = "answer"\nsamples = 2')
    looked_at.build()
    seed = looked_at.sidecar("provenance", 2)[0]["origin"]
    stories = told(looked_at, "trace", seed, "demo")["rows"]
    assert {story["id"] for story in stories} == {f"{seed}.0", f"{seed}.1"}
    done = looked_at.run("trace", "nobody", "demo")
    assert done.returncode == 10 and "demo@2 knows no row 'nobody'" in done.stderr


# -- stats -----------------------------------------------------------------------------------------------------------


def test_stats_add_up_with_the_files(looked_at: Project) -> None:
    said, rows, manifest = told(looked_at, "stats", "demo"), looked_at.rows(), looked_at.manifest()
    lengths = sorted(len(row["messages"][-1]["content"]) for row in rows)
    answers = said["characters"]["answer"]
    assert (answers["rows"], answers["p0"], answers["p50"], answers["p100"]) == (
        17,
        lengths[0],
        lengths[8],
        lengths[-1],
    )
    assert said["rows"] == 17 and said["splits"] == manifest["splits"] and said["funnel"] == manifest["funnel"]
    main = said["teachers"]["main"]
    assert (main["replies"], main["prompt"], main["completion"]) == (17, 17 * 7, 17 * 11)
    assert main["usd"] == pytest.approx(17 * (7 * 1000 + 11 * 10000) / 1e6)
    text = looked_at.run("stats", "demo").stdout
    assert "demo@1: 17 rows" in text and "$1.9890" in text and BARS[-1] in text and "\x1b" not in text


def test_the_manifest_says_who_answered_and_at_which_prices(looked_at: Project) -> None:
    asked = looked_at.manifest()["run"]["teachers"]["main"]
    assert asked["calls"] == 20 and asked["answered_as"] == {"scripted": 17}
    [rate] = asked["prices"]["rates"]
    assert (rate["input"], rate["output"], asked["prices"]["source"]) == (1000, 10000, "recipe")
    assert asked["usd"] == looked_at.manifest()["run"]["usd"] > 0


# -- diff ------------------------------------------------------------------------------------------------------------


def test_diff_names_what_was_added_removed_and_changed(looked_at: Project, loopback: Loopback) -> None:
    grown(looked_at, loopback)
    old, new = ({row["id"]: row for row in looked_at.rows(number)} for number in (1, 2))
    said = told(looked_at, "diff", "demo@1", "demo@2")
    assert said["ids"]["added"] == [name for name in new if name not in old]
    assert said["ids"]["removed"] == [name for name in old if name not in new]
    assert said["rows"] == {"same": 16, "added": 3, "removed": 1, "changed": 0, "moved": 0}
    assert said["recipe"]["steps[1].rules[3].min_words"] == [5, 2]
    assert said["recipe"]["seeds of the run.count"] == [20, 21]
    text = looked_at.run("diff", "demo@1", "demo").stdout
    assert "3 added, 1 removed, 0 changed, 16 the same" in text and f"+ {said['ids']['added'][0]}" in text
    assert re.search(r"\n2\.filter +18 +\S+ +20 +\S+ +\+2\n  rejected: length +1 +\S+ +0 +-1\n", text), text
    assert re.search(r"\ncost of the run +\$\d", text) and "\nsteps[1].rules[3].min_words: 5 -> 2\n" in text
    second, first = told(looked_at, "log", "demo")["versions"]
    assert (second["changed"], first["changed"]) == (["+2 rows", "recipe", "seeds"], [])
    assert "+2 rows, recipe, seeds" in " ".join(looked_at.run("log", COLUMNS="200").stdout.split())


def test_a_row_whose_text_changed_is_changed(looked_at: Project) -> None:
    looked_at.edit('prompt = "{{ question }}"', 'prompt = "Please: {{ question }}"')
    looked_at.build()
    said = told(looked_at, "diff", "demo@1", "demo@2", "-n", "3")
    assert (
        said["rows"] == {"same": 0, "added": 0, "removed": 0, "changed": 17, "moved": 0}
        and len(said["ids"]["changed"]) == 3
    )
    assert "~ ... and 14 more" in looked_at.run("diff", "demo@1", "demo@2", "-n", "3").stdout


def test_diff_puts_a_new_step_where_it_stands_on_the_road() -> None:
    assert steps_in_order(["a", "b"], ["exclude", "a", "new", "b"]) == ["exclude", "a", "new", "b"]
    assert steps_in_order(["a", "old", "b"], ["a", "new", "b", "end"]) == ["a", "new", "old", "b", "end"]
    assert steps_in_order([], ["a"]) == steps_in_order(["a"], []) == ["a"]


def test_diff_has_an_exit_code(looked_at: Project, loopback: Loopback) -> None:
    assert looked_at.run("diff", "demo@1", "demo@1", "--exit-code").returncode == 0
    grown(looked_at, loopback)
    assert looked_at.run("diff", "demo@1", "demo@2").returncode == 0
    assert looked_at.run("diff", "demo@1", "demo@2", "--exit-code").returncode == 1
    assert looked_at.run("diff", "demo@1", "demo@9").returncode == 10


def test_a_line_that_is_no_row_is_told_with_its_place(looked_at: Project) -> None:
    path = next((looked_at.version(1) / "data").glob("train-*"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'{"id"', b'{"di"', 1))
    done = looked_at.run("diff", "demo@1", "demo@1")
    assert done.returncode == 8 and f"{path.name}:1" in done.stderr


def test_nothing_of_a_row_acts_on_a_terminal(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(f"\x1b[31m{words('red')}\u202e [bold]{number_of(body)}[/bold]")
    priced(project, loopback, 3).build()
    for command in (["stats", "demo"], ["trace", project.rows()[0]["id"], "demo"], ["diff", "demo@1", "demo@1"]):
        done = project.run(*command)
        assert done.returncode == 0 and "\x1b" not in done.stdout and "\u202e" not in done.stdout


# -- parts -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10_000), max_size=200))
def test_a_histogram_holds_every_number_once(numbers: list[int]) -> None:
    lengths = Lengths()
    for number in numbers:
        lengths.add(number)
    bins = lengths.histogram()
    assert [count for _, _, count in bins] == [sum(low <= n <= high for n in numbers) for low, high, _ in bins]
    assert sum(count for _, _, count in bins) == len(numbers)
    if numbers:
        marks = lengths.quantiles()
        assert (marks["p0"], marks["p100"]) == (min(numbers), max(numbers)) and marks["p50"] in numbers


def test_a_bar_is_as_long_as_its_share() -> None:
    assert (bar(0), bar(1, 4), bar(0.5, 4), bar(1 / 32, 4)) == ("", "████", "██", "▏")


def test_recipes_are_compared_key_by_key() -> None:
    old = {"name": "a", "steps": [{"use": "x", "rules": ["a", "b"]}], "seeds": {}}
    new = {"name": "a", "steps": [{"use": "x", "rules": ["a"]}, {"use": "y"}], "seeds": {"id": []}}
    assert changed_keys(old, new) == {
        "steps[0].rules": (["a", "b"], ["a"]), "seeds": ({}, None), "steps[1].use": (None, "y"), "seeds.id": (None, []),
    }  # fmt: skip


# -- what somebody changed by hand -----------------------------------------------------------------------------------

NO_ROWS = [
    '{"id": "a"}',
    '{"id": ["a"], "messages": [{"role": "user", "content": "x"}]}',
    '{"id": 7, "messages": [{"role": "user", "content": "x"}]}',
    '{"id": "a", "messages": []}',
    '{"id": "a", "messages": "abc"}',
    '{"id": "a", "messages": [{"role": "user", "content": null}]}',
    '{"id": "a", "messages": [{"content": "x"}]}',
    '{"id": "a", "messages": [{"role": "user", "content": "x"}], "reasoning": 5}',
    '{"id": "a", "prompt": [{"role": "user", "content": "x"}], "chosen": []}',
    '{"messages": [{"role": "user", "content": "x"}]}',
    "[]",
    "null",
    "",
    "\\ud800",
]
NO_RECORDS = [
    {},
    {"steps": 5},
    {"steps": [{"key": "no step"}]},
    {"steps": [{"step": "1.generate", "key": "k", "tokens": {"prompt": "many"}}]},
    {"steps": [{"step": "2.judge", "scores": [5]}]},
    {"columns": []},
    {"origin": None},
    {"parent": 5},
    {"split": 1, "rule": 1, "cause": 1},
]
RECORD = {
    "id": "a", "origin": "a", "parent": None, "split": "train", "rule": "r", "cause": "c", "detail": "d", "steps": [],
    "columns": {}, "step": "1.generate",
}  # fmt: skip


def replace(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(compressor().compress(content) if path.suffix == ".zst" else content)


def in_place(project: Project, *arguments: str) -> Any:
    """Run a command in this process, which is quicker."""
    return CliRunner().invoke(app, [*arguments, "--project", str(project.folder)])


def test_a_line_that_is_no_row_is_damage_whoever_reads_it(looked_at: Project) -> None:
    path = next((looked_at.version(1) / "data").glob("train-*"))
    good, seed = path.read_bytes().splitlines(keepends=True)[0], looked_at.rows()[0]["id"]
    for line in NO_ROWS:
        replace(path, good + line.encode() + b"\n")
        for command in (["show", "demo", "-n", "2"], ["show", "demo", "--sample"], ["stats", "demo"]):
            done = in_place(looked_at, *command)
            assert done.exit_code == 8 and f"{path.name}:2" in done.output, (line, command, done.output)
        assert in_place(looked_at, "trace", seed, "demo").exit_code == 0, "the row that is asked for is whole"
    for line in (*NO_ROWS[:6], *NO_ROWS[9:]):  # what else a diff finds in a line counts as its text
        replace(path, good + line.encode() + b"\n")
        done = in_place(looked_at, "diff", "demo@1", "demo@1")
        assert done.exit_code == 8 and f"{path.name}:2" in done.output, (line, done.output)


@pytest.mark.parametrize("record", NO_RECORDS, ids=str)
def test_a_record_that_is_none_is_damage_whoever_reads_it(looked_at: Project, record: dict[str, Any]) -> None:
    content = dumps({**RECORD, **record} if record else {}).encode() + b"\n"
    for name in ("provenance", "rejected", "failed"):
        replace(looked_at.version(1) / f"{name}.jsonl.zst", content)
    commands = (
        (["stats", "demo"], ["trace", "a", "demo"]),
        (["show", "demo", "--rejected"],),
        (["show", "demo", "--failed"],),
    )
    for name, those in zip(("provenance", "rejected", "failed"), commands, strict=True):
        for command in those:
            done = in_place(looked_at, *command)
            assert done.exit_code == 8 and f"{name}.jsonl.zst:1" in done.output, (command, done.output)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", {"usd": "dear"}), ("run", {"tokens": 5}), ("run", {"calls": None}), ("run", {"finished": 5}),
        ("run", {"teachers": {"main": {"prices": {"rates": []}}}}), ("funnel", [{}]), ("funnel", [{"step": "a"}]),
        ("rows", "many"), ("splits", []), ("files", None), ("name", "../\x1b[31mdemo"), ("splits", {"\x1b[31m": 1}),
        ("version", -5),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_counted_with_is_damage(looked_at: Project, key: str, value: Any) -> None:
    path = looked_at.version(1) / "manifest.json"
    replace(path, json.dumps({**looked_at.manifest(), key: value}).encode())
    for command in (["log"], ["log", "--json"], ["show", "demo"], ["stats", "demo"], ["diff", "demo@1", "demo@1"]):
        done = in_place(looked_at, *command)
        assert done.exit_code == 8 and "cannot read the manifest: not a manifest" in done.output, (command, done.output)
        assert "distillgen repair" in done.output


def test_one_damaged_version_hides_no_other(looked_at: Project, loopback: Loopback) -> None:
    grown(looked_at, loopback)
    first, second = (looked_at.manifest(number)["digest"] for number in (1, 2))
    looked_at.edit("min_words = 2", "min_words = 4")
    looked_at.build()
    path = looked_at.version(2) / "manifest.json"
    for content, code, said in ((b"[]", 8, "not a manifest"), (b'{"format": 9}', 2, "format 9")):
        replace(path, content)
        done = looked_at.run("log", "--json")
        assert done.returncode == code and said in done.stderr and str(path.parent.name) in done.stderr
        assert [each["number"] for each in json.loads(done.stdout)["versions"]] == [3, 1]
        done = looked_at.run("log", "demo")
        assert done.returncode == code and "demo@3" in done.stdout and "demo@2" not in done.stdout
        assert looked_at.run("show", f"demo@sha256:{first[:8]}", "-n", "1").returncode == 0
        done = looked_at.run("show", f"demo@sha256:{second[:8]}", "-n", "1")
        assert done.returncode == code and said in done.stderr, "it may be the one that is meant"
    path.unlink()
    os.mkfifo(path)
    assert "it is no file" in looked_at.run("log").stderr


def test_a_folder_that_is_no_version_is_told_as_such(looked_at: Project) -> None:
    for name in ("datasets/demo", ".", "./datasets/demo/v0001/data", "/"):
        done = looked_at.run("show", name)
        code, said = (2, "cannot be a file name") if name == "." else (10, "no version in this folder")
        assert done.returncode == code and said in done.stderr, (name, done.stderr)
    listed = looked_at.run("log", "datasets/demo/latest", "--json")
    assert listed.returncode == 0 and json.loads(listed.stdout)["versions"][0]["name"] == "demo"
    (looked_at.folder / "datasets/empty").mkdir()
    done = looked_at.run("log", "empty")
    assert done.returncode == 10 and "no dataset 'empty'" in done.stderr and "known: demo" in done.stderr


def test_a_list_of_versions_can_be_copied_from(looked_at: Project, loopback: Loopback) -> None:
    """In a pipe it is as wide as it must be, whatever the terminal is like: a line for each version."""
    grown(looked_at, loopback)
    for columns in ("20", "80", "200"):
        head, *lines = looked_at.run("log", COLUMNS=columns).stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["demo@2", "demo@1"] and head.split()[0] == "version"
        assert looked_at.manifest(2)["digest"][:12] in lines[0].split() and lines[0].endswith("+2 rows, recipe, seeds")


def test_rejected_and_failed_rows_are_asked_for_one_at_a_time(looked_at: Project) -> None:
    done = looked_at.run("show", "demo", "--rejected", "--failed")
    assert done.returncode == 2 and "leave one of the two out" in done.stderr
    done = looked_at.run("show", "demo", "--failed", "--rule", "length")
    assert done.returncode == 10 and "no row was failed" not in done.stdout and "no row was failed" in done.stderr


def test_json_for_programs_does_nothing_to_a_terminal_either(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(f"\x9b31m{words('red')}\u202e 数学 {number_of(body)}")
    priced(project, loopback, 3).build()
    row = project.rows()[0]
    for command in (["show", "demo"], ["trace", row["id"], "demo"]):
        done = project.run(*command, "--json")
        assert done.returncode == 0 and "\x9b" not in done.stdout and "\u202e" not in done.stdout
    assert json.loads(project.run("show", "demo", "--json", "-n", "1").stdout) == row, "and nothing of it is lost"


def test_a_seed_with_many_rows_is_traced_in_one_go(project: Project) -> None:
    made = [(f"s.{n}", "train" if n % 3 else "test", chat("?", f"answer {n}")) for n in range(300)]
    synthetic(project.folder / "datasets", "demo", made)
    stories = told(project, "trace", "s", "demo")["rows"]
    assert [story["training"]["messages"][1]["content"] for story in stories] == [f"answer {n}" for n in range(300)]


def test_a_version_that_is_removed_while_it_is_listed_is_no_damage(looked_at: Project) -> None:
    home, ended = looked_at.version(1).parent, threading.Event()

    def come_and_go() -> None:
        """Publish and remove versions, each by one rename, as builds and `gc` do."""
        for number in itertools.count(2):
            shutil.copytree(looked_at.version(1), home / ".staging")
            (home / ".staging").rename(looked_at.version(number))
            time.sleep(0.0005)
            looked_at.version(number).rename(home / ".removed")
            shutil.rmtree(home / ".removed")
            if ended.is_set():
                return

    beside = threading.Thread(target=come_and_go)
    beside.start()
    try:
        listed = [in_place(looked_at, "log", "--json") for _ in range(300)]
    finally:
        ended.set()
        beside.join()
    assert {done.exit_code for done in listed} == {0}, [done.output for done in listed if done.exit_code][:1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "demo", "--reasoning", "thnik"], "'thnik' is none of think, reasoning_content, thinking, drop; did you mean 'think'?"),
        (["show", "demo", "--color", "alwys"], "'alwys' is none of auto, always, never; did you mean 'always'?"),
        (["mix", "demo", "a:1", "--purpose", "reserch"], "did you mean 'research'?"),
        (["mix", "demo", "a:1", "--competing", "unknwon"], "did you mean 'unknown'?"),
        (["terms", "--log-format", "\x1b[2Jxml"], "'\\x1b[2Jxml' is none of text, json\n"),
        (["show", "demo", "-n", "many"], "must be a whole number"), (["show", "demo", "-n", "0"], "must be 1 or more"),
        (["build", "--budget", "much"], "must be a number"),
    ],
    ids=lambda each: " ".join(each).replace("\x1b", "") if isinstance(each, list) else "",
)  # fmt: skip
def test_a_word_that_an_option_does_not_know_gets_the_nearest(
    project: Project, arguments: list[str], said: str
) -> None:
    done = project.run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and "Value error" not in done.stderr and "\x1b" not in done.stderr
