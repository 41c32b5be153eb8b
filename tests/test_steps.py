"""Rules and deduplication: rows that must pass, rows that must not, and why."""

import pytest

from distillgen.errors import RowFailed
from distillgen.rows import Row
from distillgen.steps.rules import RuleProblem, bind_rule
from distillgen.structured import parse_structured, schema_error, wrong_schema


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


def test_structured_replies() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert parse_structured('```json\n{"a": 1}\n```', schema) == {"a": 1}
    for text in ("no", '{"a": "x"}', "{}", "[1]"):
        with pytest.raises(RowFailed) as caught:
            parse_structured(text, schema)
        assert caught.value.cause == "schema" and caught.value.lasting
    assert wrong_schema({"type": "objct"}) and wrong_schema(schema) is None
    assert schema_error({"a": 1}, schema) is None
