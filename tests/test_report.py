"""The report: one file, whole without script or network, in which no text of a model can become markup."""

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from loopback import Loopback, reply, words
from published import odd_ones

from distillgen.report.drawing import Stage, bar, columns, funnel
from distillgen.report.numbers import Speed

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
    assert "Replies over time" in page.text and "Milliseconds until the reply was there" in page.text
    assert re.search(r"1\.generate\s*main\s*19\s*133\s*209\s*\$?", page.text)  # 19 replies of 7 and 11 tokens


def test_every_row_is_in_it_with_its_story(odd: Project) -> None:
    rows = reported(odd, "demo").rows()
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("published", "rejected", "failed")}
    assert sorted(row["id"] for row in by_kind["published"]) == sorted(row["id"] for row in odd.rows())
    assert {row["id"]: row["messages"] for row in by_kind["published"]} == {
        row["id"]: row["messages"] for row in odd.rows()
    }
    assert {row["why"] for row in by_kind["rejected"]} == {"length"} and len(by_kind["rejected"]) == 2
    assert [row["detail"] for row in by_kind["failed"]] == [
        f"{row['step']}: {row['detail']}" for row in odd.sidecar("failed")
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


def test_damage_is_said_and_leaves_no_file(odd: Project) -> None:
    path = next((odd.version() / "data").glob("train*"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"id"', b'"ix"', 1))
    done = odd.run("report", "demo", "-o", "r.html")
    assert done.returncode == 8, done.stderr
    assert not list(odd.folder.glob("*r.html*"))


def test_without_the_store_there_is_no_speed_and_all_else(odd: Project, tmp_path: Path) -> None:
    page = reported(odd, "demo", "--state", str(tmp_path / "elsewhere"))
    assert "which is not here" in page.text and "Milliseconds" not in page.text
    assert not (tmp_path / "elsewhere").exists()


def test_an_empty_split_and_a_version_of_nothing_but_rejects_do_not_break_the_pictures() -> None:
    assert "Funnel" in funnel([]) and "0 in, 0 out" in funnel([Stage("a", 0, 0)])
    assert columns([], "x") == "" and "most: 0" in columns([("a", 0)], "x")
    assert 'width="150.0"' in bar(7.0) and 'width="0.0"' in bar(-1.0)
    assert "&lt;b&gt;" in funnel([Stage("<b>", 1, 1)]) and "&lt;b&gt;" in columns([("<b>", 1)], "<b>")


def test_throughput_counts_every_reply_once() -> None:
    speed = Speed()
    assert speed.throughput() == [] and speed.span == 0
    for moment in (10.0, 11.0, 11.5, 20.0):
        speed.add(moment, None)
    assert sum(count for _, count in speed.throughput()) == 4 and speed.span == 10 and len(speed.seconds) == 0
    assert speed.throughput()[0] == (10.0, 1) and speed.throughput()[-1][1] == 1
