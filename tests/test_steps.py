"""Rules and deduplication: rows that must pass, rows that must not, and why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgen.errors import RowFailed
from distillgen.rows import Rejection, Row
from distillgen.steps.deduplicate import Deduplicate
from distillgen.steps.rules import RuleProblem, bind_rule
from distillgen.steps.similarity import PERMUTATIONS, SEED, bands_for, jaccard, shingles, sketch_of
from distillgen.steps.structured import parse_structured, schema_error, wrong_schema


def row(answer: object, name: str = "r", **record: object) -> Row:
    trail = ({"step": "1.generate", "wrote": ["answer"], **record},)
    return Row(name, name, None, {"answer": answer}, trail)


def refusal(setting: object, answer: object, **record: object) -> str | None:
    return bind_rule(setting, "answer").check(row(answer, **record))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "good", "bad", "reason"),
    [
        ("not_empty", "x", " \n", "answer is empty"),
        ("not_empty", 0, None, "answer is empty"),
        ({"rule": "length", "min_words": 2}, "a b", "a", "answer has 1 words, needs 2"),
        ({"rule": "length", "max_words": 2}, "a b", "a b c", "answer has 3 words, may have 2"),
        ({"rule": "length", "min_chars": 2, "max_chars": 3}, "ab", "abcd", "answer has 4 characters, may have 3"),
        ({"rule": "format", "regex": "^[0-9]+$"}, "123", "12a", "answer does not match '^[0-9]+$'"),
        ({"rule": "format", "regex": "(a+)+$"}, "aa", "a" * 64 + "b", "answer does not match"),
        ({"rule": "format", "contains": ["x", "y"]}, "xy", "x", "answer does not contain 'y'"),
        ({"rule": "format", "not_contains": ["TODO"]}, "done", "TODO", "answer contains 'TODO'"),
        ({"rule": "format", "json": True}, "[1]", "[1", "answer is not JSON"),
        (
            {"rule": "format", "schema": {"type": "object", "required": ["a"]}},
            '{"a": 1}',
            "{}",
            "answer does not follow the schema",
        ),
    ],
)
def test_rules(setting: object, good: object, bad: object, reason: str) -> None:
    assert refusal(setting, good) is None
    assert (refusal(setting, bad) or "").startswith(reason)


def test_catastrophic_patterns_are_timed_out() -> None:
    assert "took" in (refusal({"rule": "format", "regex": "^(([a-z])+.)+[A-Z]([a-z])+$"}, "a" * 5000) or "took")


REFUSALS = [
    "I'm sorry, but I can't help with that.", "I am sorry, but as an AI language model I cannot do this.",
    "I can't assist with that request.", "Sorry, I cannot provide instructions for that.", "I cannot help you with this.",
    "As an AI language model, I cannot browse the internet.", "I'm unable to provide medical advice.",
    "I must decline this request.", "Oh, I'm sorry, but I can't talk about that.", "Unfortunately, I can't create that content.", "I apologize, but I cannot comply.",
    "Es tut mir leid, aber ich kann dabei nicht helfen.", "Je suis désolé, mais je ne peux pas vous aider.",
    "Lo siento, pero no puedo ayudar con eso.", "Desculpe, não posso ajudar com isso.", "抱歉，我无法提供帮助。", "申し訳ありませんが、お手伝いできません。",
]  # fmt: skip
HELPFUL = [
    "I can't believe how simple this is: just add salt.", "Sorry to hear that! Try restarting the router first.",
    "You cannot divide by zero because no number times zero gives one.", "I cannot overstate how much soap helps.",
    "The dog is unable to sweat, so it pants.", "As an AI pioneer, Turing asked whether machines can think.",
    "Sorry, but I can't attend tonight due to my child's fever.", "I'm sorry for your loss. Here are three things that may help.", "I won't lie: it takes practice.",
    "He said: I'm sorry, but I can't help you.", "The message 'I cannot comply' comes from a film.",
]  # fmt: skip


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals_are_refused(answer: str) -> None:
    assert refusal("not_refusal", answer)


@pytest.mark.parametrize("answer", HELPFUL)
def test_helpful_answers_with_such_words_survive(answer: str) -> None:
    assert refusal("not_refusal", answer) is None


def test_what_the_server_says_counts() -> None:
    assert refusal("not_refusal", "fine", refused=True) == "the server marked the reply as a refusal"
    assert (
        refusal("not_truncated", "cut", finish_reason="length", tokens={"completion": 9})
        == "answer was cut off after 9 tokens"
    )
    assert refusal("not_truncated", "whole", finish_reason="stop") is None


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("not_emty", "did you mean 'not_empty'?"), ({"min_words": 3}, "known: "), ({"rule": "length"}, "parameters: "),
        ({"rule": "format", "schema": {"type": "objct"}}, ""), ({"rule": "length", "min_words": -1}, ""),
    ],
)  # fmt: skip
def test_wrong_settings(setting: object, said: str) -> None:
    with pytest.raises(RuleProblem) as caught:
        bind_rule(setting, "answer")  # type: ignore[arg-type]
    assert said in caught.value.fix


def test_exact_duplicates_after_normalisation() -> None:
    step = Deduplicate("d", ["answer"], None)
    assert isinstance(step(row("Hello  World", "a")), Row)
    twin = step(row("hello world\n", "b"))
    assert isinstance(twin, Rejection) and (twin.rule, twin.detail) == ("exact_duplicate", "of a")


def test_near_duplicates_name_the_kept_row_and_the_real_similarity() -> None:
    text = " ".join(f"word{n}" for n in range(60))
    step = Deduplicate("d", ["answer"], 0.8)
    step(row(text, "a"))
    twin = step(row(text + " and one more", "b"))
    real = jaccard(shingles(text), shingles(text + " and one more"))
    assert isinstance(twin, Rejection) and twin.detail == f"of a, Jaccard {real:.3f}" and 0.8 <= real < 1
    far = " ".join(f"word{n}" for n in range(30)) + " " + " ".join(f"other{n}" for n in range(30))
    assert isinstance(step(row(far, "c")), Row)


def test_a_rejected_row_rejects_nobody() -> None:
    chain = [" ".join(f"w{n}" for n in range(start, start + 60)) for start in (0, 5, 10)]
    first, second, third = (shingles(text) for text in chain)
    assert jaccard(first, second) >= 0.8 <= jaccard(second, third) and jaccard(first, third) < 0.8
    step = Deduplicate("d", ["answer"], 0.8)
    assert [isinstance(step(row(text, str(n))), Row) for n, text in enumerate(chain)] == [True, False, True]


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12).map(" ".join), max_size=25))
def test_deduplicating_twice_equals_once_and_kept_rows_are_far_apart(texts: list[str]) -> None:
    def kept(rows: list[Row]) -> list[Row]:
        step = Deduplicate("d", ["answer"], 0.5)
        return [out for each in rows if isinstance(out := step(each), Row)]

    once = kept([row(text, str(n)) for n, text in enumerate(texts)])
    assert [each.id for each in kept(once)] == [each.id for each in once]


def test_scripts_without_spaces_have_shingles() -> None:
    assert len(shingles("冰为什么浮在水上因为它的密度比水小")) > 10
    assert len(shingles("")) == 0 and len(shingles("one")) == 1


def test_bands_find_pairs_at_the_threshold() -> None:
    assert bands_for(0.8) == (18, 7) and bands_for(0.7) == (25, 5)
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0):
        bands, rows = bands_for(threshold)
        assert bands * rows <= 128 and 1 - (1 - threshold**rows) ** bands >= 0.98


def test_sketches_are_datasketchs_own() -> None:
    from datasketch import MinHash

    hashes = shingles("the quick brown fox jumps over the lazy dog")
    mine = MinHash(num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)
    for value in hashes:
        mine.update(int(value) & 0xFFFFFFFF)
    assert (sketch_of(hashes).hashvalues == mine.hashvalues).all()


def test_structured_replies() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert parse_structured('```json\n{"a": 1}\n```', schema) == {"a": 1}
    for text in ("no", '{"a": "x"}', "{}", "[1]"):
        with pytest.raises(RowFailed) as caught:
            parse_structured(text, schema)
        assert caught.value.cause == "schema" and caught.value.lasting
    assert wrong_schema({"type": "objct"}) and wrong_schema(schema) is None
    assert schema_error({"a": 1}, schema) is None
