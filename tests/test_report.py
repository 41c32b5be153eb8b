"""The report: one file, whole without script or network, in which no text of a model can become markup."""

import base64
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import zlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, clean_environment
from loopback import Loopback, Say, reply, words
from published import odd_ones
from till import number_of

from distillgen.report.alike import Likeness, likeness_of, names_of
from distillgen.report.drawing import Stage, bar, columns, funnel
from distillgen.report.speed import PAUSE, Speed, quantile
from distillgen.report.speed_section import speed_parts
from distillgen.report.version_report import shares

HOSTILE = "</script><img src=x onerror=alert(1)> \x1b[31m\u202egnp.exe\u2066 <svg onload=alert(1)> {{ 7*7 }} enough words here"


class Parsed(HTMLParser):
    """What a browser would see of a page: its tags with attributes, and its text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._inside: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += "\n"
        if tag in self.raw:
            self._inside.append(tag)
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.raw:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw[self._inside[-1]][-1] += data
        else:
            self.text += data

    def rows(self) -> list[dict[str, Any]]:
        packed = re.findall(r"<script type=\"text/plain\" data-rows>([^<]*)</script>", self.source)
        return [row for block in packed for row in json.loads(zlib.decompress(base64.b64decode(block), -15))]


def reported(project: Project, *arguments: str, name: str = "r.html") -> Parsed:
    done = project.run("report", *arguments, "-o", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return Parsed(project.folder / name)


@pytest.fixture
def odd(demo: Project, loopback: Loopback) -> Project:
    """A version with rejected and failed rows."""
    loopback.behave = odd_ones
    demo.build()
    return demo


def test_the_figures_are_those_of_the_manifest(odd: Project) -> None:
    page = reported(odd, "demo")
    manifest = odd.manifest()
    assert "demo@1" in page.text and manifest["digest"][:16] in page.text
    for step in manifest["funnel"]:
        assert step["step"] in page.text
        for reason, count in {**step["rejected"], **step["failed"]}.items():
            assert re.search(rf"{re.escape(step['step'])}: {reason}\s*{count}\b", page.text)
    assert manifest["funnel"][0]["failed"] and manifest["funnel"][1]["rejected"]
    assert "Replies a second, over time" in page.text and "Latency over time" in page.text
    assert re.search(r"1\.generate\s*main\s*19\s*133\s*209\s*\$?", page.text)  # 19 replies of 7 and 11 tokens
    assert re.search(r"1\.generate\s*main\s*19\s*[\d.]+ m?s\s*[\d.]+ m?s\s*[\d.]+ m?s", page.text)  # their latency
    assert re.search(r"The run that published this version: 19 calls in .*, [\d.]+ a second", page.text)
    assert re.search(r"main\s*scripted\s*19\s*133\s*209", page.text)  # the run, by teacher


def test_every_row_is_in_it_with_its_story(odd: Project) -> None:
    rows = reported(odd, "demo").rows()
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("published", "rejected", "failed")}
    assert sorted(row["id"] for row in by_kind["published"]) == sorted(row["id"] for row in odd.rows())
    assert {row["id"]: row["messages"] for row in by_kind["published"]} == {
        row["id"]: row["messages"] for row in odd.rows()
    }
    assert {row["why"] for row in by_kind["rejected"]} == {"length"} and len(by_kind["rejected"]) == 2
    assert [(row["step"], row["detail"]) for row in by_kind["failed"]] == [
        (row["step"], row["detail"]) for row in odd.sidecar("failed")
    ]
    assert all(row["steps"][0]["teacher"] == "main" and "key" not in row["steps"][0] for row in by_kind["published"])
    splits = {record["id"]: record["split"] for record in odd.sidecar("provenance")}
    assert {row["id"]: row["split"] for row in by_kind["published"]} == splits


def test_a_sample_is_spread_and_said(odd: Project) -> None:
    page = reported(odd, "demo", "--rows", "5")
    ids = [row["id"] for row in page.rows() if row["kind"] == "published"]
    order = [record["id"] for record in odd.sidecar("provenance")]
    places = [order.index(each) for each in ids]
    assert len(ids) == 5 and places == sorted(places) and places[-1] == 16 and places[0] <= 3
    meta = json.loads(next(text for text in page.raw["script"] if text.startswith('{"shown"')))
    assert meta["shown"][0] == {"kind": "published", "shown": 5, "of": 17}
    assert reported(odd, "demo", "--rows", "0").rows() == []
    assert len(reported(odd, "demo", "--rows", "5", "--all-rows").rows()) == 20


def test_the_policy_lets_in_this_style_and_this_script_and_nothing_else(odd: Project) -> None:
    page = reported(odd, "demo")
    policy = next(
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    run = [text for (tag, a), text in zip(
        [each for each in page.tags if each[0] == "script"], page.raw["script"], strict=True) if "type" not in a]  # fmt: skip
    assert policy is not None and policy.startswith("default-src 'none';") and "unsafe" not in policy
    for text in (*run, *page.raw["style"]):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert len(run) == 1 and len(page.raw["style"]) == 1
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert all(str(attributes.get(name, "#")).startswith(("#", "data:,")) for name in ("src", "href")), attributes


def test_hostile_text_stays_text(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(f"{HOSTILE} {words(body['messages'][-1]['content'])}")
    demo.edit('description = "A test"', 'description = "</title><script>alert(1)</script>\\u202e"')
    demo.seeds([{"question": f"{HOSTILE} {n}?"} for n in range(6)])
    demo.build()
    page = reported(demo, "demo")
    assert {tag for tag, _ in page.tags} & {"img", "iframe", "object", "embed", "base"} == set()
    assert len([1 for tag, a in page.tags if tag == "script" and "type" not in a]) == 1
    assert "alert(1)" in page.text and "\\u202e" in page.text
    assert not set(page.source) & {"\x1b", "\u202e", "\u2066", "\x00"}
    assert any(HOSTILE in row["messages"][0]["content"] for row in page.rows())


def test_two_versions_side_by_side(odd: Project) -> None:
    odd.seeds([{"question": f"What is number {n}?"} for n in range(1, 21)])
    odd.edit('prompt = "{{ question }}"', 'prompt = "Q: {{ question }}"')
    odd.build()
    page = reported(odd, "demo@1", "demo@2")
    old, new = ({row["id"]: row for row in odd.rows(number)} for number in (1, 2))
    rows = page.rows()
    assert {row["id"] for row in rows if row["kind"] == "added"} == new.keys() - old.keys()
    assert {row["id"] for row in rows if row["kind"] == "removed"} == old.keys() - new.keys()
    changed = [row for row in rows if row["kind"] == "changed"]
    assert {row["id"] for row in changed} == new.keys() & old.keys()
    assert all(
        row["messages"] == new[row["id"]]["messages"] and row["before"] == old[row["id"]]["messages"] for row in changed
    )
    assert "student.prompt" in page.text and "Q: {{ question }}" in page.text
    drawn = [each["aria-label"] or "" for tag, each in page.tags if tag == "svg" and each.get("class") == "columns"]
    ranges = [re.findall(r"[\d,]+(?: to [\d,]+)?(?=: )", each) for each in drawn]
    assert len(drawn) == 2 and set(ranges[0]) & set(ranges[1])  # the same columns, where both have answers
    labels = re.findall(r'<text x="[\d.]+" y="150"[^>]*>([^<]+)</text>', page.source)
    assert labels[: len(labels) // 2] == labels[len(labels) // 2 :]


def test_pairs_labels_and_scores_are_shown(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(["good", "bad"][len(str(body)) % 2])
    demo.edit('prompt = "answer"', 'prompt = "classify"\nread = { text = "question" }')
    demo.edit('"not_refusal", { rule = "length", min_words = 5 }', '"not_refusal"')
    demo.edit('[[steps]]\nuse = "deduplicate"\non = "answer"\nnear = 0.8\n', "")
    demo.write(
        "prompts/classify.toml",
        'description = "x"\nuser = "{{ text }}"\noutput = "labels"\nlabels = ["good", "bad"]\nwrites = ["label"]\n',
    )
    demo.edit("{{ answer }}", "{{ label }}")
    demo.build()
    assert "Balance of label" in reported(demo, "demo").text


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["demo", "-o", "."], 2, "the report is a file, and this is a folder"),
        (["demo", "-o", "recipe.toml/r.html"], 2, "DG702"),
        (["dmeo"], 10, "demo"),
        (["demo@9"], 10, "no version '9'"),
        (["demo", "demo@7"], 10, "no version '7'"),
        (["demo", "--rows", "-1"], 2, "--rows"),
    ],
)
def test_what_is_wrong_is_said(odd: Project, arguments: list[str], status: int, said: str) -> None:
    before = sorted(odd.folder.rglob("*"))
    done = odd.run("report", *arguments)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr and sorted(odd.folder.rglob("*")) == before


def test_a_report_goes_where_it_is_sent(odd: Project) -> None:
    """Over an old one, into a folder that is not there yet, through a link to its file, and into a pipe."""
    old = odd.write("old.html", "an old one")
    link = odd.folder / "link.html"
    link.symlink_to("old.html")
    pipe = odd.folder / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        done = odd.run("report", "demo", "-o", "pipe")
        assert done.returncode == 0, done.stderr
        piped = reader.communicate(timeout=60)[0]
    assert pipe.is_fifo() and piped.startswith(b"<!doctype html>") and piped.endswith(b"</html>\n")
    done = odd.run("report", "demo", "-o", "link.html")
    assert done.returncode == 0 and link.is_symlink() and old.read_bytes() == piped
    assert reported(odd, "demo", name="new/folder/r.html").source.encode() == piped
    default = odd.run("report", "demo")
    assert re.search(r"\([1-9]\d* kB\); open it in a browser", default.stderr), default.stderr
    assert default.returncode == 0 and (odd.folder / "demo-v1.html").read_bytes() == piped
    assert "wrote demo-v1.html" in default.stderr


def test_standard_output_takes_it_but_not_a_terminal(odd: Project) -> None:
    done = odd.run("report", "demo", "-o", "-")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("<!doctype html>") and done.stdout.endswith("</html>\n")
    command = [sys.executable, "-m", "distillgen", "report", "demo", "-o", "-"]
    closed = subprocess.run(
        f"{shlex.join(command)} | head -c 100; exit ${{PIPESTATUS[0]}}", shell=True, executable="/bin/bash",
        cwd=odd.folder, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert closed.returncode in (0, 141) and closed.stderr == ""  # 0: all of it fitted into the pipe
    master, terminal = os.openpty()
    seen = subprocess.run(
        command,
        cwd=odd.folder,
        env=clean_environment(),
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(terminal)
    os.close(master)
    assert seen.returncode == 2 and "standard output is a terminal" in seen.stderr
    assert not (odd.folder / "-").exists()


def test_a_disk_that_may_not_be_written_leaves_the_old_report(odd: Project) -> None:
    done = odd.run("report", "demo", "-o", "/proc/report.html")
    assert done.returncode == 2 and "DG702" in done.stderr and "Traceback" not in done.stderr
    full = odd.run("report", "demo", "-o", "/dev/full")
    assert full.returncode == 12 and Path("/dev/full").is_char_device(), full.stderr


def test_damage_is_said_and_leaves_no_file(odd: Project) -> None:
    path = next((odd.version() / "data").glob("train*"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"id"', b'"ix"', 1))
    done = odd.run("report", "demo", "-o", "r.html")
    assert done.returncode == 8, done.stderr
    assert not list(odd.folder.glob("*r.html*"))


def test_without_the_store_there_is_the_runs_speed_and_all_else(odd: Project, tmp_path: Path) -> None:
    page = reported(odd, "demo", "--state", str(tmp_path / "elsewhere"))
    assert "which is not here" in page.text and "Latency" not in page.text
    assert "calls in" in page.text and "a second." in page.text
    assert not (tmp_path / "elsewhere").exists()


def test_an_empty_split_and_a_version_of_nothing_but_rejects_do_not_break_the_pictures() -> None:
    assert "Funnel" in funnel([]) and "0 in, 0 out" in funnel([Stage("a", 0, 0)])
    assert columns([], "x") == "" and "most: 0" in columns([("a", 0)], "x")
    assert 'width="150.0"' in bar(7.0) and 'width="0.0"' in bar(-1.0)
    assert "&lt;b&gt;" in funnel([Stage("<b>", 1, 1)]) and "&lt;b&gt;" in columns([("<b>", 1)], "<b>")


def test_columns_have_labels_as_far_as_there_is_room() -> None:
    few, many = (columns([(f"l{n}", n) for n in range(count)], "x") for count in (4, 20))
    assert [f">l{n}<" in few for n in range(4)] == [True] * 4
    assert [n for n in range(20) if f">l{n}<" in many] == [0, 9, 19]
    assert 'aria-label="x. l1: 1; l2: 2; l3: 3"' in few  # an empty column is not read out
    assert "most: 3 apples" in columns([("a", 3)], "x", said=lambda value: f"{value:.0f} apples")


MAIN, JUDGE = ("1.generate", "main"), ("2.judge", "strict")


def test_every_reply_is_counted_once_over_time() -> None:
    speed = Speed()
    assert speed.stretches() == [] and speed.latencies() == {}
    for place in range(40):
        speed.add(MAIN, 1000.0 + place / 4, place / 10)
        speed.add(JUDGE, 1000.0 + place / 4, None)  # of a batch
    later = 1000.0 + 2 * PAUSE
    speed.add(JUDGE, later, 7.0)
    first, second = speed.stretches()
    assert (first.replies, first.seconds, second.replies, second.first) == (80, 9.75, 1, later)
    moments = speed.over_time(first)
    assert len(moments) == first.moments == 20 and sum(moment.replies for moment in moments) == 80
    assert [len(moment.seconds) for moment in moments] == [2] * 20 and moments[0].seconds == [0.0, 0.1]
    assert {where: (len(each), each[-1]) for where, each in speed.latencies().items()} == {
        MAIN: (40, 3.9),
        JUDGE: (1, 7),
    }
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0 and quantile([1.0], 0.95) == 1.0


def test_speed_is_said_of_each_stretch_step_and_teacher() -> None:
    speed = Speed()
    for place in range(40):
        speed.add(MAIN, 1000.0 + place / 4, 0.25)
    speed.add(JUDGE, 1000.0 + 2 * PAUSE, 75.0)
    parts = list(speed_parts({"calls": 41, "seconds": 20.5}, speed))
    assert parts[0].text == "The run that published this version: 41 calls in 20.5 s, 2 a second."
    tables = [[list(line.cells) for line in part.rows] for part in parts if part.rows]
    assert tables[0] == [
        ["1970-01-01 00:16:40 UTC", "9.8 s", "40", "4.1"], ["1970-01-01 00:26:40 UTC", "0 ms", "1", ""]
    ]  # fmt: skip
    assert tables[1] == [
        ["1.generate", "main", "40", "250 ms", "250 ms", "250 ms"],
        ["2.judge", "strict", "1", "1 min 15 s", "1 min 15 s", "1 min 15 s"],
    ]
    pictures = [part.picture for part in parts if part.picture]
    assert len(pictures) == 2 and "most: 4.1" in pictures[0] and "most: 250 ms" in pictures[1]
    assert not any(part.picture for part in speed_parts({}, Speed()))  # a manifest of former times, and no store


def alike(project: Project, loopback: Loopback) -> None:
    """Build a version in which two rows are like the third, and one equals it."""
    text = " ".join(f"word{n}" for n in range(60))
    loopback.behave = lambda body: reply(
        {3: text, 7: text, 9: f"{text} more", 11: f"{text} at last"}.get(number_of(body))
        or words(body["messages"][-1]["content"])
    )
    project.build()


def test_rows_that_are_alike_name_each_other(demo: Project, loopback: Loopback) -> None:
    alike(demo, loopback)
    page = reported(demo, "demo")
    left_out = {row["id"]: row for row in page.rows() if row["kind"] == "rejected"}
    assert {row["why"] for row in left_out.values()} == {"exact_duplicate", "near_duplicate"}
    (kept,) = {row["like"] for row in left_out.values()}
    assert kept in {row["id"] for row in page.rows() if row["kind"] == "published"}
    assert sorted(row["similarity"] == 1 for row in left_out.values()) == [False, False, True]
    assert "3 rows left out for resemblance to 1 other row" in page.text
    named = [attributes["data-row"] for tag, attributes in page.tags if "data-row" in attributes]
    assert named[0] == kept and set(named) == {kept, *left_out}
    assert page.text.count("word0 word1 word2") == 4  # the kept row and those like it, side by side


def test_a_sample_holds_the_rows_that_the_figures_name(demo: Project, loopback: Loopback) -> None:
    alike(demo, loopback)
    page = reported(demo, "demo", "--rows", "1")
    kinds = Counter(row["kind"] for row in page.rows())
    assert kinds["rejected"] == 3 and kinds["published"] in (1, 2)
    assert {row["like"] for row in page.rows() if row["kind"] == "rejected"} <= {row["id"] for row in page.rows()}
    assert reported(demo, "demo", "--rows", "0").rows() == []


def test_a_row_of_a_mix_has_the_name_of_its_part_too() -> None:
    detail = "of a.2 of maths@3 (validation), Jaccard 0.875"
    like = likeness_of({"rule": "held_out", "detail": detail, "steps": []})
    assert like == Likeness("a.2 of maths@3", 0.875)
    record = {"id": "a.2.mix-2", "steps": [{"step": "1.generate"}, {"step": "mix", "from": "maths@3", "id": "a.2"}]}
    assert list(names_of(record)) == ["a.2.mix-2", "a.2 of maths@3"]
    assert likeness_of({"rule": "length", "detail": "of a"}) is None
    assert likeness_of({"rule": "exact_duplicate", "detail": "something else"}) is None


def test_a_mix_has_a_report(odd: Project) -> None:
    odd.edit('name = "demo"', 'name = "more"')
    odd.seeds([{"question": f"What is number {n}?"} for n in range(10, 40)])
    odd.build()
    mixed = odd.run("mix", "all", "demo:1", "more:1")
    assert mixed.returncode == 0, mixed.stderr
    page = reported(odd, "all")
    assert "What it is mixed from" in page.text and "demo@1" in page.text and "more@1" in page.text
    assert "A mix asks no teacher" in page.text and "calls of the run" not in page.text
    rows = page.rows()
    names = {
        f"{step.get('id', row['id'])} of {step['from']}" for row in rows for step in row["steps"] if "from" in step
    }
    like = [row["like"] for row in rows if "like" in row]
    assert len(like) == 10 and set(like) <= names


def test_many_reasons_and_labels_are_folded_not_dropped() -> None:
    shown, folded = shares(["reason", "rows", "share"], {f"rule {n}": 500 - n for n in range(500)})
    assert len(shown.rows) + len(folded.rows) == 500 and folded.folded.startswith("and 480 more, with ")
    assert len(list(shares(["reason", "rows", "share"], {"one": 1}))) == 1


THREE = """
description = "x"
user = "{{ question }}"
output = "json"

[schema]
type = "object"
required = ["tasks"]
[schema.properties.tasks]
type = "array"
[schema.properties.tasks.items]
type = "object"
required = ["answer"]
[schema.properties.tasks.items.properties.answer]
type = "string"
"""


def _two(body: dict[str, Any]) -> list[str]:
    return [words(f"{body['messages'][-1]['content']} in {n}") for n in ("full", "brief")]


def test_one_reply_behind_many_rows_is_counted_once(demo: Project, loopback: Loopback) -> None:
    """Also when its rows do not follow each other: some are published, some rejected."""

    def three(body: dict[str, Any]) -> Say:
        return reply(json.dumps({"tasks": [{"answer": text} for text in ("Too short", *_two(body))]}))

    loopback.behave = three
    demo.seeds([{"question": f"What is number {n}?"} for n in range(5)])
    demo.edit('prompt = "answer"', 'prompt = "three"\neach = true')
    demo.write("prompts/three.toml", THREE)
    demo.build()
    page = reported(demo, "demo")
    assert demo.manifest()["run"]["calls"] == 5 and demo.manifest()["rows"] == 10
    assert re.search(r"1\.generate\s*main\s*5\s*35\s*55", page.text), page.text
