"""The card: what it says, that nobody's text can break out of it, and that `datasets` opens what it describes."""

import fnmatch
import json
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Project, clean_environment
from hypothesis import example, given
from hypothesis import strategies as st
from loopback import Loopback, reply, words
from markdown_it import MarkdownIt

from distillgen.dataset import card_sections
from distillgen.dataset.card import with_notice, write_card
from distillgen.dataset.card_splits import names_when_loaded, pattern
from distillgen.dataset.inert import block, code, front, html, inline, table, visible
from distillgen.dataset.labels import LONGEST_LABEL, MOST_LABELS, count_labels
from distillgen.dataset.manifest import Manifest, read_manifest
from distillgen.export.trainers.table import TRAINERS
from distillgen.files import read_jsonl
from distillgen.teacher.terms import NOT_ADVICE, entries

TURNS = [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
FEATURES: list[dict[str, Any]] = [{"name": "id", "dtype": "string"}, {"name": "messages", "list": TURNS}]
PAIRS: list[dict[str, Any]] = [
    {"name": "id", "dtype": "string"}, *({"name": name, "list": TURNS} for name in ("prompt", "chosen", "rejected")),
]  # fmt: skip
SAMPLE = {"id": "a", "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
PRICES = {"rates": [{"above": 0, "input": 0.25, "cached_input": 0.1, "cache_write": 0.25, "output": 2.0}],
          "source": "genai-prices", "list": "2026-11-01", "batch_factor": 0.5}  # fmt: skip
FREE = {"rates": [{"above": 0, "input": 0.0, "cached_input": 0.0, "cache_write": 0.0, "output": 0.0}],
        "source": "free", "list": "", "batch_factor": 1.0}  # fmt: skip
HOSTILE = [
    "\n---\nlicense: evil\n---\n", "```\n# out\n```", "~~~", "<script>alert(1)</script>", "</details></summary><h1>x",
    "<!-- ", "# head", "- item", "1. item", "2) item", "> quote", "===", "---", "| a | b |\n|---|---|", "a|b\\|c\\\\|d",
    "[x](javascript:alert(1))", "![x](http://e.vil/p.png)", "<http://e.vil>", "**bold** _em_ ~~gone~~ `code`",
    "\\", "`", "``", "a\\", "&lt;b&gt; &#35; &amp;", "\x1b[2J\x07\x00\x9b31m", "\u202eevil\u2066", "a\u2028b\u2029c\x85d",
    "\r\n\r\n# head\r# head", "    four", "\tfour", "${{ x }} $$x$$", "[a]: http://e.vil", "<?php ?>", "<![CDATA[", "-", "",
    "x" * 3_000, "\ufeff\ufffe", "*" * 50, "{% raw %}", "http://e.vil www.e.vil a@e.vil", "'\"", "!![[", ": |",
]  # fmt: skip


def markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def terms(*names: str, purpose: str = "open-weights", **more: Any) -> dict[str, Any]:
    """Terms as a manifest keeps them, of real entries of the table."""
    found = [entries()[name] for name in names]
    conditions = [each for entry in found for each in entry.conditions if purpose in each.purposes]
    judged = [
        {"verdict": entry.stance, "reason": entry.id, "accepted": False, "due": [], "entry": entry.facts()}
        for entry in found
    ]
    return {
        "purpose": purpose, "competing": "no", "note": "", "strict": False, "stance": found[0].stance, "accepted": {},
        "conditions": [each.model_dump(mode="json") for each in conditions], "teachers": {"main": judged},
        "advice": NOT_ADVICE, **more,
    }  # fmt: skip


def manifest(text: str = "x", **changes: Any) -> Manifest:
    """A manifest in which `text` stands wherever somebody's words may."""
    asked = {"calls": 9, "tokens": {"prompt": 1_000, "completion": 2_000}, "usd": 0.1234, "unpriced_calls": 0,
             "prices": {**PRICES, "source": text}, "answered_as": {text: 7}}  # fmt: skip
    entry = {"document": text, "section": text, "effective": text, "read": text, "review_by": text, "quality": text,
             "quote": text, "note": text, "url": text}  # fmt: skip
    found = {
        "purpose": text, "competing": text, "stance": text, "note": text, "advice": text,
        "accepted": {text: {"digest": "a" * 64, "date": text}},
        "conditions": [{"kind": kind, "text": text, "value": text} for kind in ("policy", "name-prefix", "licence")],
        "teachers": {text: [{"verdict": text, "reason": text, "entry": entry}]},
    }  # fmt: skip
    table: dict[str, Any] = {
        "name": "demo", "version": 3, "parent": 2, "digest": "d" * 64, "rows": 1_200,
        "splits": {"train": 1_150, "validation": 50}, "lengths": {"train": {"9": 1_150}, "validation": {"10": 50}},
        "labels": {"train": {text: 1_150}, "validation": {text: 50}},
        "recipe": {
            "name": "demo", "description": text, "dataset": {"splits": {"train": 0.9, "validation": 0.1}},
            "steps": [{"use": "generate", "prompt": text}, {"use": text, "rules": [text, {"rule": text, "on": text}]}],
        },
        "overrides": {text: text}, "prompts": {text: text}, "terms": found,
        "seeds": {"path": [text], "count": 1_300, "sha256": text, "skipped": 0},
        "teachers": {text: {"endpoint": text, "model": text, "title": text, "quantisation": text, "licence": text}},
        "funnel": [
            {"step": text, "in": 1_300, "born": 0, "merged": 0, "out": 1_200, "rejected": {text: 90},
             "failed": {text: 10}}
        ],
        "files": {}, "software": {"distillgen": text, "python": text},
        "run": {"finished": text, "calls": 9, "unpriced_calls": 0, "teachers": {text: asked}},
    }  # fmt: skip
    return Manifest.model_validate({**table, **changes})


def front_of(card: str) -> dict[str, Any]:
    """The front matter, as a YAML reader finds it."""
    opening, matter, _ = card.split("---\n", 2)
    assert opening == ""
    loaded = yaml.safe_load(matter)
    assert isinstance(loaded, dict)
    return loaded


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


# -- front matter ------------------------------------------------------------------------------------------------------


def test_the_front_matter_is_what_the_hub_and_datasets_read() -> None:
    assert front_of(write_card(manifest(terms={}), FEATURES, SAMPLE)) == {
        "configs": [{"config_name": "default", "data_files": [
            {"split": "train", "path": "data/train-*.jsonl"}, {"split": "validation", "path": "data/validation-*.jsonl"},
        ]}],
        "dataset_info": {"features": FEATURES},
        "pretty_name": "demo",
        "task_categories": ["text-classification", "text-generation"],
        "size_categories": ["1K<n<10K"],
        "tags": ["distillgen", "synthetic", "distillation", "sft"],
    }  # fmt: skip
    pairs = front_of(write_card(manifest(), PAIRS, None))
    assert pairs["dataset_info"]["features"] == PAIRS and pairs["tags"][-2:] == ["preference", "dpo"]


@pytest.mark.parametrize(
    ("rows", "size"),
    [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"),
     (10**9, "1B<n<10B"), (10**10, "1B<n<10B")],
)  # fmt: skip
def test_the_size_is_one_of_the_hubs(rows: int, size: str) -> None:
    assert front_of(write_card(manifest(rows=rows), FEATURES, None))["size_categories"] == [size]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["gemma-terms"], {"license": "gemma"}),
        (["deepseek-model-licence"], {"license": "other", "license_name": "deepseek",
                                      "license_link": entries()["deepseek-model-licence"].url}),
        (["gemma-terms", "deepseek-model-licence"], {"license": "other", "license_name": "gemma-and-deepseek"}),
        (["gpt-oss"], {}),
    ],
    ids=["known", "other", "both", "none"],
)  # fmt: skip
def test_an_inherited_licence_stands_where_the_hub_looks_for_it(names: list[str], said: dict[str, str]) -> None:
    found = front_of(write_card(manifest(terms=terms(*names)), FEATURES, None))
    assert {key: value for key, value in found.items() if key.startswith("license")} == said


NAMES = st.text("abAZ09._-", min_size=1, max_size=6).filter(lambda name: name[0] not in ".-") | st.just("all")


@given(st.lists(NAMES, unique=True, max_size=6))
@example(["train", "a-b", "a_b", "all", "all_rows"])
def test_every_split_has_a_name_that_datasets_takes(splits: list[str]) -> None:
    names = names_when_loaded(splits)
    assert list(names) == splits and len(set(names.values())) == len(splits)
    for split, name in names.items():
        assert re.fullmatch(r"\w+(\.\w+)*", name) and name != "all"
        assert name == split or split == "all" or not re.fullmatch(r"\w+(\.\w+)*", split)


@given(st.lists(NAMES, unique=True, max_size=6))
@example(["train", "train-0", "train-00000-of-00001"])
def test_a_split_takes_no_file_of_another(splits: list[str]) -> None:
    files = {f"data/{split}-00000-of-00001.jsonl": split for split in splits}
    for split in splits:
        assert [files[name] for name in fnmatch.filter(files, pattern(split, splits))] == [split]


# -- nobody's text is markup -------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag + "".join(f" {name}" for name, _ in attrs))

    def handle_endtag(self, tag: str) -> None:
        self.found.add(tag)


def skeleton(card: str) -> list[str]:
    """What a reader of Markdown makes of a card, but for its words: code in a line, and words."""
    shape = []
    for token in markdown().parse(card.split("---\n", 2)[2]):
        shape.append(f"{token.type} {token.tag}")
        if token.type == "html_block":
            assert Tags(token.content).found <= {"details", "summary", "code"}, token.content
        for inner in token.children or []:
            if inner.type == "html_inline":
                assert inner.content in ("<code>", "</code>")
            elif inner.type not in ("text", "code_inline"):
                shape.append(f"  {inner.type} {inner.attrs.get('href', '')}")
    return shape


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:16]))
def test_hostile_text_changes_nothing_but_the_words(text: str) -> None:
    sample = {"id": text, "messages": [{"role": text, "content": text}]}
    card = write_card(manifest(text, is_partial=True), FEATURES, sample)
    words_only = write_card(manifest("x", is_partial=True), FEATURES, SAMPLE)
    assert card.count("\n---\n") == 1
    matter = front_of(card)
    assert matter.keys() == {*front_of(words_only)} and matter["license"] == "other"
    shape = [line for line in skeleton(card) if line != "  link_open https://e.vil"]
    if text:  # an empty description is left out, and so on
        assert shape == skeleton(words_only)
    assert not [each for each in card if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp") and each not in "\n\t"]


LINE = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("\\`*_{}[]<>#|~&$!-+=:.)1\n\t \u202e"))


@given(LINE)
@example("a|b\\|c\\\\|d")
@example("1.")
@example("www.e.vil http://e.vil")
def test_a_line_of_text_is_read_as_that_text(text: str) -> None:
    flat = visible(" ".join(text.split()))
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"{inline(text)}\n")
    if flat:
        assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
        children = tokens[1].children or []
        assert {child.type for child in children} == {"text"} and "".join(c.content for c in children) == flat


@given(LINE)
@example("a|b\\|c\\\\|d")
@example("`")
@example("a\\")
def test_a_cell_of_a_table_stays_one_cell(text: str) -> None:
    lines = table(["a", "b#"], [[inline(text), code(text)], [code(text), inline(text)]])
    tokens = markdown().parse("\n".join(lines))
    assert sum(token.type == "td_open" for token in tokens) == 4 and tokens[0].type == "table_open"
    assert tokens[-1].type == "table_close"
    for token in tokens:
        kinds = {child.type for child in token.children or []}
        assert kinds <= {"text", "code_inline", "html_inline"}
        assert all(c.content in ("<code>", "</code>") for c in token.children or [] if c.type == "html_inline")


@given(LINE)
@example("\n\n    a\n\n\n# b")
def test_a_block_stays_a_block_and_html_stays_words(text: str) -> None:
    tokens = markdown().parse("\n".join(["before", "", *block(text), "", "after"]))
    inner = [token.type for token in tokens if token.type not in ("paragraph_open", "inline", "paragraph_close")]
    assert inner in (["code_block"], []) and len([token for token in tokens if token.type == "inline"]) == 2
    assert Tags(f"<summary>{html(text)}</summary>").found == {"summary"}


@given(
    st.text(st.characters(exclude_categories=("Cs",))), st.sampled_from(["", "\ufffe", "\x7f\x85", "\U000e0001", "😀"])
)
def test_front_matter_gives_back_what_was_put_in(text: str, more: str) -> None:
    assert yaml.safe_load(front("key", [text + more])) == {"key": [text + more]}
    assert front("key", text + more).count("\n") == 0


# -- what it says ------------------------------------------------------------------------------------------------------


def test_it_knows_the_trainers_that_export_knows() -> None:
    assert {
        name: (trainer.title, trainer.pairs is not None) for name, trainer in TRAINERS.items()
    } == card_sections.TRAINERS
    card = write_card(manifest(), FEATURES, SAMPLE)
    assert all(f"`distillgen export demo@3 --format {name} -o DIR`" in card for name in TRAINERS)
    assert "SFTTrainer" in card and "DPOTrainer" not in card
    pairs = write_card(manifest(), PAIRS, None)
    assert "DPOTrainer" in pairs and "--format trl" in pairs and "--format mlx" not in pairs


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"calls": 9, "usd": 0.1234, "unpriced_calls": 0, "prices": PRICES},
         "| 9 | 0 | 0 | \\$0.1234 | \\$0.25 in, \\$2 out per million tokens (genai-prices, 2026-11-01) |"),
        ({"calls": 9, "usd": 0.1, "unpriced_calls": 2, "prices": PRICES}, "| \\$0.1000 and 2 calls of unknown cost |"),
        ({"calls": 9, "usd": 0.0, "unpriced_calls": 9, "prices": None}, "| unknown | unknown |"),
        ({"calls": 9, "usd": 0.0, "unpriced_calls": 0, "prices": FREE}, "| free of charge | none (free) |"),
        ({"calls": 0, "usd": 0.0, "unpriced_calls": 0, "prices": PRICES}, "| 0 | 0 | 0 | \\$0.0000 |"),
        ({}, "| unknown | unknown |"),
    ],
    ids=["priced", "partly", "unknown", "free", "all stored", "not on record"],
)  # fmt: skip
def test_a_cost_is_stated_only_where_it_is_known(asked: dict[str, Any], said: str) -> None:
    run = {"teachers": {"main": asked}} if asked else {}
    card = write_card(manifest(teachers={"main": {"endpoint": "e", "model": "m"}}, run=run), FEATURES, None)
    assert said in section(card, "Teachers and cost")


def test_the_conditions_of_the_terms_are_carried_out() -> None:
    card = write_card(manifest(terms=terms("llama-3-1-licence")), FEATURES, SAMPLE)
    said = section(card, "Terms")
    assert "> **If you distribute a model trained on this dataset, its name begins with “Llama”.**" in said
    assert "> **Built with Llama**" in said and "- policy: Meta's Acceptable Use Policy binds." in said
    assert "read on 2026-11-25 (primary), to be read anew by 2027-11-30" in said and "not legal advice" in said
    assert "<https://www.llama.com/llama3_1/license/>" in said
    assert "# demo, version 3" in card, "the condition is about a model's name, not about a dataset's"
    gemma = section(write_card(manifest(terms=terms("gemma-terms")), FEATURES, SAMPLE), "Terms")
    assert "> **A model trained on this dataset inherits a licence: gemma.**" in gemma


def test_its_limits_are_those_of_the_manifest() -> None:
    weak = manifest(
        "m", is_partial=True, ends="limit", rows=90, splits={"train": 80, "test": 10}, terms={},
        recipe={"steps": [{"use": "generate"}], "dataset": {"splits": {"train": 0.8, "test": 0.1, "other": 0.1}}},
        seeds={"path": ["/home/somebody/seeds.jsonl"], "count": 100, "skipped": 4},
        funnel=[{"step": "1.generate", "in": 100, "out": 90, "rejected": {}, "failed": {"http_500": 7, "refused": 3}}],
        run={"unpriced_calls": 5, "teachers": {"m": {"answered_as": {"other-model": 3}}}},
        labels={"train": {"no": 5, "yes": 75}, "test": {"yes": 4, "no": 6}},
    )  # fmt: skip
    card = write_card(weak, FEATURES, SAMPLE)
    said = section(card, "Known limits")
    for line in (
        "made from the first seeds only", "10 rows are missing because they failed: http_500 7, refused 3.",
        "4 seeds could not be read", "It is small: 90 rows.", "The split `test` has 10 rows: too few",
        "The split `other` got no row", "text of benchmarks", "near-duplicates", "whether the answers are right",
        "by one teacher", "was asked as `m` and answered as `other-model`", "What 5 calls cost is not known",
        "terms allow training on it is unknown", "88% of the rows have the label `yes`",
    ):  # fmt: skip
        assert line in said
    assert "/home/somebody" not in card and "`seeds.jsonl`" in card and "`--limit` ended the run" in card

    strong = manifest(
        "m", rows=5_000, splits={"train": 4_500, "validation": 500}, terms=terms("gpt-oss"), parent=None,
        recipe={"steps": [{"use": use} for use in ("generate", "judge", "deduplicate", "decontaminate")]},
        funnel=[], run={}, labels={}, teachers={name: {"endpoint": "e", "model": "m"} for name in ("a", "b")},
    )  # fmt: skip
    left = section(write_card(strong, FEATURES, SAMPLE), "Known limits").strip()
    assert left == "- Nothing on record says that a person read the rows."


def test_rows_that_were_brought_in_have_no_teacher_to_speak_of(demo: Project) -> None:
    demo.seeds([{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(20)])
    text = demo.recipe.read_text()
    start, end = text.index("[teachers"), text.index("[[steps]]")
    text = text[:start] + text[end:]
    first = text.index("[[steps]]")
    text = text[:first] + text[text.index("[student]") :]
    demo.recipe.write_text(text.replace("[student]", '[[steps]]\nuse = "filter"\nrules = ["not_empty"]\n\n[student]'))
    demo.build()
    card = (demo.version() / "README.md").read_text()
    said = section(card, "Terms")
    assert demo.manifest()["teachers"] == {} and "What was read" not in said
    assert "No teacher was asked: the rows were brought in." in said and "inherited from a teacher" not in said
    assert "teacher's" not in section(card, "Known limits") and "No teacher was asked" in section(card, "Known limits")
    assert "a teacher may answer otherwise" not in card and "## Teachers and cost" not in card
    kept = write_card(manifest(terms=terms("gemma-terms", stance="restricted"), teachers={}), FEATURES, None)
    assert "What was read:\n\n- `main`" in section(kept, "Terms") and "terms are restricted" in kept


def test_a_trace_that_trl_overlooks_is_told() -> None:
    traced = [*FEATURES, {"name": "reasoning", "dtype": "string"}]
    assert "It overlooks `reasoning`" in section(write_card(manifest(), traced, None), "Load it")
    assert "overlooks" not in write_card(manifest(), FEATURES, None)


def test_lengths_are_shown_where_the_manifest_has_them() -> None:
    said = section(write_card(manifest(), FEATURES, None), "Lengths")
    assert "| 256 to 511 | 1,150 | 0 |\n| 512 to 1,023 | 0 | 50 |" in said
    assert "## Lengths" not in write_card(manifest(lengths={}), FEATURES, None)


def test_long_texts_are_cut_with_a_word_about_it() -> None:
    long = {"id": "a", "messages": [{"role": "user", "content": "y" * 10_000}]}
    card = write_card(manifest(prompts={"p": "z" * 10_000}), FEATURES, long)
    assert "... (8,500 more characters)" in section(card, "One row")
    assert "... (4,000 more characters)" in section(card, "How it was made") and len(card) < 15_000


def test_a_mix_names_its_parts() -> None:
    parts = [
        {"version": "a@3", "digest": "a" * 64, "ratio": 0.7, "rows": 70, "duplicates": 2, "not_drawn": 5},
        {"version": "b@1", "digest": "b" * 64, "ratio": 0.3, "rows": 30, "duplicates": 0, "not_drawn": 0},
    ]
    card = write_card(
        manifest("m", recipe={"name": "demo", "mix": parts, "near": 0.8, "seed": 0}, seeds={"path": [], "count": 9}),
        FEATURES,
        None,
    )
    assert "| `a@3` | `aaaaaaaaaaaa` | 70.0% | 70 | 2 | 5 |" in section(card, "How it was made")
    assert "`distillgen mix demo a@3:0.7 b@1:0.3 --rows 1200 --near 0.8` makes it anew" in section(
        card, "Check it, make it again"
    )
    assert "No step" not in card and "their own cards state" in section(card, "Known limits")
    assert "| calls |" not in card, "nothing was asked for a mix"
    cost = section(card, "Teachers and cost")
    assert "| teacher | asked for | at | answered as | prices |" in cost and "`distillgen stats demo@3`" in cost


def test_one_of_a_kind_is_not_told_as_several() -> None:
    funnel = [{"step": "s", "in": 3, "born": 0, "merged": 0, "out": 1, "rejected": {}, "failed": {"http_500": 1}}]
    card = write_card(
        manifest(
            "m", rows=1, splits={"test": 1}, funnel=funnel, seeds={"path": [], "count": 1, "skipped": 1},
            teachers={"m": {"model": "m", "endpoint": "e"}},
            run={"unpriced_calls": 1, "teachers": {"m": {"calls": 2, "usd": 0.5, "unpriced_calls": 1}}},
        ),
        FEATURES, None,
    )  # fmt: skip
    for said in (
        "**Made from:** 1 seed\n", "1 row is missing because it failed", "1 seed could not be read and is missing",
        "It is small: 1 row.", "The split `test` has 1 row: too few", "What 1 call cost", "and 1 call of unknown cost",
    ):  # fmt: skip
        assert said in card, said
    assert not re.search(r"\b1 (rows|seeds|calls)\b", card)


def test_what_a_repair_could_not_confirm_stands_at_the_top_and_an_old_card_gets_it_there_too() -> None:
    first = {"date": "2026-11-01", "lost": ["funnel"], "unverified": ["terms"], "files": {}}
    second = {"date": "2026-11-02", "lost": [], "unverified": ["seeds"], "files": {}}
    nothing = {"date": "2026-11-03", "lost": [], "unverified": [], "files": {"README.md": "written anew"}}
    card = write_card(manifest(repaired=[first, second, nothing]), FEATURES, SAMPLE)
    top = card.split("\n# demo, version 3\n")[1].split("\n- **")[0]
    assert re.findall(r"Repaired on ([0-9-]+)", top) == ["2026-11-02", "2026-11-01"]
    assert "Nobody knows any more: `funnel`. Taken from the damaged one, and confirmed by nothing: `terms`." in top
    old = write_card(manifest(), FEATURES, SAMPLE).encode()
    assert b"Repaired" not in old
    assert with_notice(with_notice(old, first), second).decode() == card
    assert with_notice(b"nothing of ours", first).startswith(b"nothing of ours\n\n> **Repaired on 2026-11-01")


# -- of a real version -------------------------------------------------------------------------------------------------


def test_a_published_card_is_written_again_byte_for_byte(demo: Project) -> None:
    demo.edit("A test", "Numbers, *explained*")
    demo.build()
    folder = demo.version()
    found = read_manifest(folder)
    assert sum(sum(bins.values()) for bins in found.lengths.values()) == found.rows
    for split, bins in found.lengths.items():
        lines = [line for file in folder.glob(f"data/{split}-*") for line in file.read_bytes().splitlines()]
        assert bins == {str(bits): sum(len(line).bit_length() == bits for line in lines) for bits in map(int, bins)}
    first = next(row for split in found.splits for file in folder.glob(f"data/{split}-*") for row in read_jsonl(file))
    rows = {json.dumps(row): row for file in folder.glob("data/*") for row in read_jsonl(file)}
    assert json.dumps(first) in rows
    card = (folder / "README.md").read_text()
    assert card in [write_card(found, FEATURES, row) for row in rows.values()]
    assert "Numbers, \\*explained\\*" in card and f"`sha256:{found.digest}`" in card
    assert "1. **generate**: prompt `answer`" in card and "`length (min_words = 5)`" in card
    assert "| 1.generate | 20 | 20 | - | - |" in card and "`scripted` (" in card


def rows_of(*answers: str) -> list[bytes]:
    return [json.dumps({"id": "a", "messages": [{"role": "assistant", "content": each}]}).encode() for each in answers]


@pytest.mark.parametrize(
    ("answers", "are_labels"),
    [
        (["yes", "no"] * 5, True), (["yes"] * 5, True), (["yes", "no"] * 4, False), ([], False),
        ([str(n) for n in range(MOST_LABELS)] * 5, True), ([str(n) for n in range(MOST_LABELS + 1)] * 5, False),
        (["x" * LONGEST_LABEL] * 5, True), (["x" * (LONGEST_LABEL + 1)] * 5, False), (["a\nb"] * 5, False),
        ([""] * 5, False),
    ],
)  # fmt: skip
def test_labels_are_few_short_texts_that_come_again(answers: list[str], are_labels: bool) -> None:
    found = count_labels({"train": rows_of(*answers), "test": []})
    assert found == ({"train": {each: answers.count(each) for each in answers}} if are_labels else {})


def test_pairs_have_no_labels_and_reading_stops_early() -> None:
    pair = json.dumps({"id": "a", "prompt": [], "chosen": [], "rejected": []}).encode()
    assert count_labels({"train": [pair] * 5}) == {}
    lines = iter(rows_of(*map(str, range(1_000))))
    assert count_labels({"train": lines}) == {} and len(list(lines)) == 1_000 - MOST_LABELS - 1


def test_a_version_of_labels_shows_their_balance_also_when_a_row_is_forgotten(
    demo: Project, loopback: Loopback
) -> None:
    loopback.behave = lambda body: reply('{"label": "%s"}' % ("bad" if "-9" in str(body["messages"]) else "good"))
    demo.seeds([{"text": f"review-{n}"} for n in range(100, 80, -1)])
    text = demo.recipe.read_text()
    text = text.replace('prompt = "answer"', 'prompt = "label"\nlabels = ["good", "bad"]')
    text = text.replace('"not_refusal", { rule = "length", min_words = 5 }', '"not_refusal"')
    text = text.replace('[[steps]]\nuse = "deduplicate"\non = "answer"\nnear = 0.8\n', "")
    demo.recipe.write_text(text.replace("{{ question }}", "{{ text }}").replace("{{ answer }}", "{{ label }}"))
    demo.build()

    def counted() -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for file in sorted((demo.version() / "data").iterdir()):
            answers = [row["messages"][-1]["content"] for row in read_jsonl(file)]
            found[file.name.split("-")[0]] = {each: answers.count(each) for each in sorted(set(answers))}
        return found

    before = demo.manifest()["labels"]
    assert before == counted() and sum(split["bad"] for split in before.values()) == 10
    card = (demo.version() / "README.md").read_text()
    assert front_of(card)["task_categories"] == ["text-classification", "text-generation"]
    assert "| bad |" in section(card, "Labels") and "| 50.0% |" in section(card, "Labels")
    gone = demo.rows()[0]["id"]
    done = demo.run("forget", gone, "--yes")
    assert done.returncode == 0, done.stderr
    after, card = demo.manifest()["labels"], (demo.version() / "README.md").read_text()
    assert after == counted() != before and "| 47.4% |" in section(card, "Labels")
    assert demo.run("check").returncode == 0


LOAD = """
import datasets, json, sys
told = {}
for name, folder in json.loads(sys.argv[1]).items():
    opened = datasets.load_dataset(folder, cache_dir=sys.argv[2])
    told[name] = {split: [{k: str(v) for k, v in rows.features.items()}, rows.to_list()] for split, rows in opened.items()}
print(json.dumps(told))
"""


def opened_by_datasets(folders: dict[str, Path], scratch: Path) -> dict[str, Any]:
    """Name -> split -> [types of the columns, rows], as `load_dataset` gives them, without a network."""
    named = json.dumps({name: str(folder) for name, folder in folders.items()})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, named, str(scratch / "cache")],
        capture_output=True, text=True, timeout=120, check=False,
        env=clean_environment(HF_HOME=str(scratch / "home"), HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_datasets_opens_splits_whose_names_it_does_not_take(demo: Project, tmp_path: Path) -> None:
    """A dash, its word for all splits, and a name that begins with another's."""
    demo.edit("{ train = 0.8, validation = 0.2 }", '{ train = 0.4, train-hard = 0.3, all = 0.2, "a.b" = 0.1 }')
    demo.seeds([{"question": f"question {n}"} for n in range(40)])
    demo.build()
    folder = demo.version()
    told = opened_by_datasets({"demo": folder}, tmp_path)["demo"]
    names = {"train": "train", "train-hard": "train_hard", "all": "all_rows", "a.b": "a.b"}
    assert {name: [row["id"] for row in rows] for name, (_, rows) in told.items()} == {
        name: [row["id"] for file in folder.glob(f"data/{split}-0*") for row in read_jsonl(file)]
        for split, name in names.items()
    }
    limits = section((folder / "README.md").read_text(), "Known limits")
    assert "The split `train-hard` is called `train_hard` by `datasets`" in limits
    assert "The split `all` is called `all_rows`" in limits and "The split `train` is" not in limits


def test_datasets_opens_what_it_guesses_wrong_without_the_card(
    demo: Project, loopback: Loopback, tmp_path: Path
) -> None:
    """A reasoning that is empty at first, texts that look like dates and numbers, a split that got no row, pairs."""

    def think(body: dict[str, Any]) -> Any:
        late = any(f"-{n}" in body["messages"][-1]["content"] for n in ("10", "11", "12"))
        return reply(words(str(loopback.seen)), message={"reasoning_content": "Well." if late else ""})

    loopback.behave = think
    demo.seeds([{"question": f"2026-01-{n:02}"} for n in range(1, 13)])
    demo.edit(
        '[student]\nprompt = "{{ question }}"', '[student]\nprompt = "{{ question }}"\nreasoning = "{{ reasoning }}"'
    )
    demo.edit("{ train = 0.8, validation = 0.2 }", "{ train = 0.999, validation = 0.001 }")
    demo.build()
    plain = demo.recipe.read_text()
    demo.edit('completion = "{{ answer }}"', 'completion = "{{ question }}"')
    demo.edit('reasoning = "{{ reasoning }}"', "")
    demo.edit('name = "demo"', 'name = "dates"')
    demo.build()
    demo.recipe.write_text(plain)
    demo.edit('name = "demo"', 'name = "pairs"')
    demo.edit('completion = "{{ answer }}"', 'completion = "{{ answer }}"\nrejected = "2026-11-25T00:00:00"')
    demo.build()
    home = demo.folder / "datasets"
    told = opened_by_datasets({name: home / name / "latest" for name in ("demo", "dates", "pairs")}, tmp_path)
    turns, text = "List({'role': Value('string'), 'content': Value('string')})", "Value('string')"
    assert {name: {split: found[0] for split, found in opened.items()} for name, opened in told.items()} == {
        "demo": {"train": {"id": text, "messages": turns, "reasoning": text}},
        "dates": {"train": {"id": text, "messages": turns}},
        "pairs": {"train": {"id": text, "prompt": turns, "chosen": turns, "rejected": turns, "reasoning": text}},
    }
    for name, of_dates in (("demo", []), ("dates", ["messages"]), ("pairs", ["prompt", "rejected"])):
        published = [row for file in sorted((home / name / "latest" / "data").iterdir()) for row in read_jsonl(file)]
        rows, limits = told[name]["train"][1], section((home / name / "latest/README.md").read_text(), "Known limits")
        assert demo.manifest(name=name)["only_dates"] == ({"train": of_dates} if of_dates else {})
        assert len(rows) == len(published) == 12
        said = f"every text of {', '.join(f'`{each}`' for each in of_dates)} is a date"
        assert (said in limits) == bool(of_dates), "what `datasets` would change is told, with the way round it"
        for column in published[0]:
            assert column in of_dates or [row[column] for row in rows] == [row[column] for row in published]
    parquet = demo.run("export", "dates", "--format", "parquet", "-o", "exact")
    assert parquet.returncode == 0, parquet.stderr
    exact = pq.read_table(demo.folder / "exact" / "train.parquet").to_pylist()
    assert [row["messages"] for row in exact] == [row["messages"] for row in demo.rows(name="dates")]
    assert {row["reasoning"] for row in told["demo"]["train"][1]} == {"", "Well."}
    assert told["demo"]["train"][1][0]["reasoning"] == ""
    assert "The split `validation` got no row and does not exist." in (home / "demo/latest/README.md").read_text()
