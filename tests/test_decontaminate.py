"""Decontamination: what is refused and the evidence for it, what passes, and that both follow the rule's definition."""

import gzip
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import regex
import zstandard
from conftest import REPOSITORY, Project
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback

from distillgen.errors import UsageError
from distillgen.files import read_jsonl
from distillgen.rows import Rejection, Row
from distillgen.steps.benchmarks import MIN_WORDS, Benchmarks, Item, plain_text, read_benchmark, words_of
from distillgen.steps.decontaminate import Decontaminate

GSM8K = REPOSITORY / "tests/data/gsm8k/test-40.jsonl"  # MIT, its LICENSE beside it
BOTH = ["question", "answer"]


def row(**columns: Any) -> Row:
    return Row("r", "r", None, columns)


def items(texts: Iterable[str], benchmark: str = "bench") -> list[Item]:
    return [Item(benchmark, str(number), (("text", text),)) for number, text in enumerate(texts, 1)]


def step_against(source: Iterable[Item], columns: Sequence[str] = ("answer",), **settings: Any) -> Decontaminate:
    coverage = settings.pop("coverage", 0.5)
    return Decontaminate("2.decontaminate", columns, Benchmarks.build(source, **settings), coverage=coverage)


def refusal(step: Decontaminate, **columns: Any) -> str | None:
    """Return the evidence, None when the row passes."""
    (outcome,) = step(row(**columns))
    if isinstance(outcome, Rejection):
        assert (outcome.step, outcome.rule) == ("2.decontaminate", "contaminated")
        return outcome.detail
    assert isinstance(outcome, Row) and outcome.columns == columns and outcome.trail[-1]["step"] == "2.decontaminate"
    return None


def numbered(word: str, count: int) -> str:
    return " ".join(f"{word}{number}" for number in range(count))


# -- the rule, word for word and slowly ------------------------------------------------------------------------------

SLOW_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\p{L}\p{N}\p{M}_]+")


def slow_words(text: str) -> tuple[str, ...]:
    return tuple(SLOW_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def runs(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def slow_coverage(bench: Sequence[str], text: str, *, words: int, stock: int) -> list[float]:
    """Return the coverage of each text of a benchmark; 0 for those that are not checked."""
    texts = [slow_words(each) for each in bench]
    read = [each for each in texts if len(each) >= MIN_WORDS]
    found = []
    for own in texts:
        size = min(words, len(own))
        grams = runs(own, size) if len(own) >= MIN_WORDS else []
        cut = {
            place + offset
            for place, gram in enumerate(grams)
            if sum(gram in runs(other, size) for other in read) > stock
            for offset in range(size)
        }
        clean = {place: gram for place, gram in enumerate(grams) if cut.isdisjoint(range(place, place + size))}
        shared = [place for place, gram in clean.items() if gram in runs(slow_words(text), size)]
        counted = {place + offset for place in clean for offset in range(size)}
        covered = {place + offset for place in shared for offset in range(size)}
        found.append(len(covered) / len(counted) if counted else 0.0)
    return found


PHRASE = st.lists(st.sampled_from(["a", "B", "c,", "Été", "d’d", "是"]), min_size=1, max_size=9).map(" ".join)


@st.composite
def benchmarks_and_rows(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Draw texts that are made of the same few phrases, so that they overlap."""
    phrases = draw(st.lists(PHRASE, min_size=2, max_size=6))
    text = st.lists(st.sampled_from(phrases), min_size=1, max_size=5).map(" ".join)
    return draw(st.lists(text, min_size=1, max_size=9)), draw(st.lists(text, min_size=1, max_size=4))


@given(benchmarks_and_rows(), st.integers(3, 14), st.integers(1, 4))
def test_every_verdict_is_that_of_the_definition(drawn: tuple[list[str], list[str]], words: int, stock: int) -> None:
    bench, rows = drawn
    slow = [slow_coverage(bench, text, words=words, stock=stock) for text in rows]
    try:
        step = step_against(items(bench), words=words, stock=stock)
    except UsageError:
        assert all(slow_coverage(bench, text, words=words, stock=stock) == [0.0] * len(bench) for text in bench)
        return
    for text, coverages in zip(rows, slow, strict=True):
        (outcome,) = step(row(answer=text))
        highest = max(coverages)
        if highest >= 0.5:
            item = next(n for n, own in enumerate(coverages, 1) if own == highest)  # the first of equal ones
            assert isinstance(outcome, Rejection)
            assert outcome.detail.startswith(f"answer holds {100 * highest:.0f} % of bench item {item} (text): '")
        else:  # no row that passes overlaps the benchmark by the rule's own definition
            assert isinstance(outcome, Row) and outcome.trail[-1].get("overlap", 0.0) == round(highest, 3)


@given(st.text(st.characters() | st.sampled_from("aZ_9 ’—\u0301\u0338→½²´™é是ด\u00a0İß"), max_size=30))
def test_words_are_those_of_the_definition(text: str) -> None:
    assert tuple(word.decode() for word in words_of(text)) == slow_words(text)


def test_no_character_is_taken_for_another_kind_on_the_short_way() -> None:
    between = [f"a{chr(code)}b" for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    assert [text for text in between if b" ".join(words_of(text)).decode().split() != list(slow_words(text))] == []


# -- a real benchmark --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gsm8k() -> Decontaminate:
    return step_against(itertools.islice(read_benchmark(GSM8K, BOTH, name="gsm8k-test"), 20), BOTH)


def lines() -> list[dict[str, Any]]:
    return list(read_jsonl(GSM8K))


@pytest.mark.parametrize("words", [8, 13])
def test_every_item_of_a_real_benchmark_is_found_and_no_other_question(words: int) -> None:
    step = step_against(itertools.islice(read_benchmark(GSM8K, BOTH), 20), BOTH, words=words)
    for number, line in enumerate(lines(), 1):
        for column in BOTH:
            said = refusal(step, **{column: line[column]})
            expected = f"{column} holds 100 % of test-40 item {number} ({column}): '"
            assert (said or "").startswith(expected) if number <= 20 else said is None


def test_the_evidence_names_column_benchmark_item_coverage_and_overlap(gsm8k: Decontaminate) -> None:
    question = lines()[1]["question"]
    asked = f"Here is a riddle for you.\n\n{question.upper().replace('?', '!!')}\n\nThink step by step."
    assert refusal(gsm8k, question=asked, answer="3") == (
        "question holds 100 % of gsm8k-test item 2 (question): "
        "'a robe takes 2 bolts of blue fiber and half that much white fiber how many bolts in total does it take'"
    )
    half = " ".join(question.split()[:14])
    assert refusal(gsm8k, question=half) == (
        "question holds 64 % of gsm8k-test item 2 (question): "
        "'a robe takes 2 bolts of blue fiber and half that much white fiber'"
    )


def test_the_longest_overlap_is_shown_and_the_first_of_equal_ones() -> None:
    step = step_against(items([numbered("w", 30)]))
    words = numbered("w", 30).split()
    said = refusal(step, answer=" ".join([*words[:10], "x", *words[10:21], "y", *words[19:], "z"]))
    assert said == f"answer holds 100 % of bench item 1 (text): {' '.join(words[10:21])!r}"


def test_long_overlaps_are_cut(gsm8k: Decontaminate) -> None:
    said = refusal(gsm8k, question=lines()[0]["question"]) or ""
    assert said.endswith("…'") and len(said.partition(": '")[2]) == 121


def test_a_question_of_the_benchmark_in_an_answer_is_found(gsm8k: Decontaminate) -> None:
    said = refusal(gsm8k, question="Make up a riddle.", answer=f"Sure! {lines()[4]['question']}")
    assert (said or "").startswith("answer holds 100 % of gsm8k-test item 5 (question): '")


def test_changed_words_lower_the_coverage_and_it_stands_on_the_trail(gsm8k: Decontaminate) -> None:
    words = lines()[2]["question"].split()
    words[10] = "barn"
    assert "of gsm8k-test item 3 (question)" in (refusal(gsm8k, question=" ".join(words)) or "")
    words[10:] = ["and", "nothing", "else", "is", "left"]
    (outcome,) = gsm8k(row(question=" ".join(words)))
    assert isinstance(outcome, Row)
    size = len(words_of(lines()[2]["question"]))
    assert outcome.trail == ({"step": "2.decontaminate", "overlap": round(10 / size, 3)},)


def test_nothing_shared_leaves_no_overlap_on_the_trail(gsm8k: Decontaminate) -> None:
    (outcome,) = gsm8k(row(question="Why is the sky blue on a clear day and red in the evening?"))
    assert isinstance(outcome, Row) and outcome.trail == ({"step": "2.decontaminate"},)


# -- which item, which texts -------------------------------------------------------------------------------------------


def test_the_highest_coverage_wins_and_of_equal_ones_the_earliest_item() -> None:
    shared = numbered("w", 20)
    step = step_against(items([f"{shared} {numbered('x', 20)}", f"{shared} and y", f"{shared} but z"]))
    assert (refusal(step, answer=shared) or "").startswith("answer holds 91 % of bench item 2 (text)")
    two = step_against(items([numbered("w", 20), numbered("v", 20)]), ["first", "second"])
    said = refusal(two, first=numbered("v", 20), second=numbered("w", 20))
    assert (said or "").startswith("second holds 100 % of bench item 1 (text)")


def test_the_threshold_itself_counts() -> None:
    source = items([f"{numbered('w', 10)} {numbered('x', 10)}"])
    assert refusal(step_against(source, coverage=0.5), answer=numbered("w", 10))
    assert refusal(step_against(source, coverage=0.51), answer=numbered("w", 10)) is None


def test_a_text_shorter_than_an_n_gram_is_found_whole_only() -> None:
    step = step_against(items(["What is the capital of France?"]))
    assert refusal(step, answer="Tell me, what is the capital of France? Be brief.") == (
        "answer holds 100 % of bench item 1 (text): 'what is the capital of france'"
    )
    assert refusal(step, answer="What is the capital of Spain?") is None


def test_texts_of_too_few_words_are_not_checked_and_said() -> None:
    step = step_against([*items([numbered("w", 20), "The answer is 42"]), Item("bench", "3", ())])
    assert refusal(step, answer="The answer is 42") is None
    assert [str(problem) for problem in step.benchmarks.warnings()] == [
        "1 of 3 items hold no text and are skipped in benchmark 'bench'",
        "1 of 2 texts have fewer than 5 words and are not checked in benchmark 'bench'\n"
        "      they cannot be told from chance",
    ]
    assert dict(step.benchmarks.counts["bench"]) == {"items": 3, "empty": 1, "texts": 2, "short": 1, "stock": 0}


def test_stock_phrases_are_cut_out_of_the_items() -> None:
    told = numbered("told", 30)
    source = items(f"{told} {numbered(f'own{n}x', 12)} {numbered('closing', 12)}" for n in range(11))
    step = step_against(source)
    assert refusal(step, answer=f"{told} something else {numbered('closing', 12)}") is None
    assert refusal(step, answer=f"see: {numbered('own7x', 12)}") == (
        f"answer holds 100 % of bench item 8 (text): {numbered('own7x', 12)!r}"
    )
    assert refusal(step_against(source, stock=11), answer=told)
    assert step.benchmarks.warnings() == []


def test_a_text_that_every_item_has_is_a_stock_phrase() -> None:
    told = "Answer the following question with a single word."
    source = [Item("bench", str(n), (("told", told), ("question", numbered(f"q{n}x", 9)))) for n in range(11)]
    step = step_against([*source, *items(["one short text", "and now a long one: " + told])])
    assert refusal(step, answer=told) is None
    assert refusal(step, answer=numbered("q3x", 9)) is not None
    assert [problem.what for problem in step.benchmarks.warnings()] == [
        "1 of 24 texts have fewer than 5 words and are not checked",
        "12 of 24 texts are stock phrases and are not checked",
    ]


def test_a_short_text_that_many_others_hold_is_a_stock_phrase() -> None:
    often = [f"{numbered(f'q{n}x', 9)} how many are left now" for n in range(10)]
    assert refusal(step_against(items(["How many are left now?", *often])), answer="How many are left now?") is None
    assert refusal(step_against(items(["How many are left now?", *often[1:]])), answer="How many are left now?")


def test_the_same_item_in_two_benchmarks_is_named_by_the_first() -> None:
    step = step_against([*items([numbered("w", 20)], "one"), *items([numbered("w", 20)], "two")])
    assert "of one item 1" in (refusal(step, answer=numbered("w", 20)) or "")


def test_no_state_is_kept_of_rows() -> None:
    step = step_against(items([numbered("w", 20)]))
    texts = [numbered("w", 20), numbered("w", 9), numbered("x", 20)] * 3
    assert [refusal(step, answer=text) for text in texts] == [refusal(step, answer=text) for text in texts[:3]] * 3


# -- rows as they come -------------------------------------------------------------------------------------------------


def test_a_column_that_a_row_lacks_holds_nothing() -> None:
    step = step_against(items([numbered("w", 20)]), ["question", "answer"])
    assert (
        refusal(step, question=None) is None
        and refusal(step) is None
        and refusal(step, other=numbered("w", 20)) is None
    )
    assert refusal(step, question=7, answer=numbered("w", 20))


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "user", "content": "Tell me:\nw0 w1 w2\nw3 w4 w5\nw6 w7 w8 w9"}],
        {"deep": [["w0 w1", None, "w2 w3 w4"], {"x": "w5 w6 \"w7\" w8 w9"}]},
    ],
    ids=["messages", "nested"],
)  # fmt: skip
def test_texts_within_lists_and_objects_are_looked_at(value: Any) -> None:
    step = step_against(items([numbered("w", 10)]), ["answer"])
    assert (refusal(step, answer=value) or "").startswith("answer holds 100 % of bench item 1")


def test_numbers_are_written_as_in_json() -> None:
    assert plain_text([1, 2.5, True, None, "x", {"a": "y"}]) == "1\n2.5\ntrue\nx\ny"
    assert (plain_text(None), plain_text(3), plain_text("a")) == ("", "3", "a")


def test_no_columns_means_all_that_hold_text() -> None:
    step = step_against(items([numbered("w", 20)]), [])
    assert (refusal(step, n=1, thoughts=numbered("w", 20)) or "").startswith("thoughts holds")
    assert (refusal(step, messages=[{"content": numbered("w", 20)}]) or "").startswith("messages holds")


def test_ten_megabyte_answers() -> None:
    step = step_against(items([numbered("w", 20), "la " * 30]))
    long = "lorem ipsum dolor " * 600_000
    assert refusal(step, answer=long) is None
    assert (refusal(step, answer=long + numbered("w", 20)) or "").startswith("answer holds 100 % of bench item 1")
    assert (refusal(step, answer="la " * 350_000) or "").startswith("answer holds 100 % of bench item 2")
    assert refusal(step, answer="\u0301" * 5_000_000) is None


def test_scripts_without_spaces() -> None:
    step = step_against(items(["小明有五个苹果，他给了小红两个，还剩几个？"]))
    said = refusal(step, answer="问题：小明有五个苹果，他给了小红两个，还剩几个？请回答。")
    assert (said or "").startswith("answer holds 100 % of bench item 1 (text): '小 明 有 五")


def test_what_rows_hold_never_comes_raw_into_the_evidence() -> None:
    step = step_against(items([numbered("w", 20)]))
    said = refusal(step, answer=f"\x1b[31m {numbered('w', 20)} \x1b[0m\u202e") or ""
    assert said.isprintable() and "w0 w1" in said


# -- benchmark files ---------------------------------------------------------------------------------------------------

QUESTIONS = ["How many apples are there?", "And how many pears are left?"]
JSONL = b"".join(orjson.dumps({"question": text, "n": 1}) + b"\n" for text in QUESTIONS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.jsonl", JSONL),
        ("b.jsonl.gz", gzip.compress(JSONL, mtime=0)),
        ("b.jsonl.zst", zstandard.compress(JSONL)),
        ("b.csv", "question,n\r\n{},1\r\n{},1\r\n".format(*QUESTIONS).encode()),
    ],
    ids=["jsonl", "gz", "zst", "csv"],
)
def test_formats(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    read = list(read_benchmark(tmp_path / name, ["question"]))
    first = "2" if name.endswith(".csv") else "1"
    assert read[0] == Item("b", first, (("question", QUESTIONS[0]),))
    assert [item.texts[0][1] for item in read] == QUESTIONS
    assert next(read_benchmark(tmp_path / name, ["question"], name="pears")).benchmark == "pears"


def test_text_files_and_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "b.txt").write_text("\n\n".join(QUESTIONS))
    assert list(read_benchmark(tmp_path / "b.txt")) == [
        Item("b", "1", (("text", QUESTIONS[0]),)),
        Item("b", "3", (("text", QUESTIONS[1]),)),
    ]
    parquet.write_table(pyarrow.table({"question": QUESTIONS, "n": [1, 2]}), tmp_path / "b.parquet")
    assert [item.name for item in read_benchmark(tmp_path / "b.parquet")] == ["1", "2"]


def test_items_are_named_by_their_id(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    ids = [{"task_id": "test/\x1b17"}, {"id": 4}, {"id": " "}, {"id": None}]
    path.write_bytes(b"".join(orjson.dumps({**each, "question": QUESTIONS[0]}) + b"\n" for each in ids))
    assert [item.name for item in read_benchmark(path, ["question"])] == [r"'test/\x1b17'", "4", "3", "4"]


def test_only_named_columns_count_and_without_names_all_that_hold_text(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(orjson.dumps({"question": "q", "choices": ["x", "y"], "answer": 3, "note": "", "more": None}))
    (item,) = read_benchmark(path)
    assert item.texts == (("question", "q"), ("choices", "x\ny"))
    (item,) = read_benchmark(path, ["answer", "question", "more"])
    assert item.texts == (("answer", "3"), ("question", "q"))


def test_items_without_text_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(b'{"question": " "}\n{"other": 1}\n' + JSONL)
    counts = Benchmarks.build(read_benchmark(path, ["question"])).counts["b"]
    assert counts == Counter(items=4, empty=2, texts=2)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.jsonl", None, "no such benchmark in PATH\n      check the path"),
        ("b.jsonl", b"", "an empty benchmark in PATH\n"),
        ("b.jsonl", b"\n\n", "an empty benchmark in PATH\n"),
        ("b.jsonl", b'{"question": ""}', "not a single text in this benchmark in PATH\n"),
        ("b.jsonl", JSONL + b"{oops\n", "not valid JSON: "),
        ("b.jsonl", JSONL + b"[1]\n", "a JSON list, not an object in PATH:3\n      mend that line"),
        ("b.jsonl", b'{"qestion": "x"}\n', "no item has a column 'question' in PATH\n      did you mean 'qestion'?"),
        ("b.csv", b"question,n\nx\n", "1 fields, the header has 2 in PATH:2\n"),
        ("b.csv", b"question,n\n", "an empty benchmark in PATH\n"),
        ("b.txt", b"x", "no item has a column 'question' in PATH\n      known: text"),
        ("b.txt", b"\xff\xfe\x00", "not UTF-8 (byte 0 of the line) in PATH:1\n"),
        ("b.parquet", b"PAR1 not really", "not valid Parquet: "),
        ("b.jsonl.gz", gzip.compress(JSONL, mtime=0)[:-12], "cannot decompress: "),
        ("b.xls", JSONL, "cannot tell the format of 'b.xls' in PATH\n      a benchmark is a file whose name ends in"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        Benchmarks.build(read_benchmark(path, ["question"]))
    assert str(caught.value).startswith(f"DG100 {said.replace('PATH', str(path))}") and str(path) in str(caught.value)


def test_a_folder_is_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read it: Is a directory"):
        list(read_benchmark(tmp_path))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["42", "B"], "2 of 2 texts have fewer than 5 words and are not checked"),
        (["Answer with a single word, please."] * 11, "11 of 11 texts are stock phrases and are not checked"),
    ],
    ids=["short", "stock"],
)
def test_a_benchmark_of_which_nothing_can_be_checked_is_an_error(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Benchmarks.build([*items([numbered("w", 20)], "good"), *items(texts)])
    assert str(caught.value).startswith("DG100 no text that can be checked in benchmark 'bench'\nDG100 " + said)


CHATS = """
name = "demo"
[seeds]
path = "seeds.jsonl"
[teachers.main]
base_url = "{url}"
model = "scripted"
[[steps]]
use = "generate"
prompt = "chat"
[[steps]]
use = "decontaminate"
against = ["test.jsonl"]
[student]
completion = "{{{{ answer }}}}"
"""


def test_by_default_all_that_the_student_sees_is_looked_at(project: Project, loopback: Loopback) -> None:
    """Seeds that are conversations are the student's prompt: nobody names them in a template."""
    item = "Natalia sold clips to forty eight of her friends in April and half as many in May."
    project.write("recipe.toml", CHATS.format(url=loopback.url))
    project.write("test.jsonl", json.dumps({"question": item}) + "\n")
    project.seeds([{"messages": [{"role": "user", "content": text}]} for text in (item, "Why does ice float?")])
    project.build()
    [row], [refused] = project.rows(), project.sidecar("rejected")
    assert row["messages"][0]["content"] == "Why does ice float?"
    assert refused["rule"] == "contaminated" and "messages" in refused["detail"]
