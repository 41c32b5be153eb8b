"""Replies: the bodies that providers send are read whole, and one body of several choices is split without loss."""

import math
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distillgen.teacher.replies import MAX_TOP_LOGPROBS, Completion, Malformed, TokenUsage, read_reply, split_samples


def body(message: Any = None, *, finish: Any = "stop", choice: dict[str, Any] | None = None, **more: Any) -> bytes:
    """A reply with one choice."""
    message = {"role": "assistant", "content": "a"} if message is None else message
    return orjson.dumps({
        "id": "x", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, **(choice or {})}], **more,
    })  # fmt: skip


OPENAI = {
    "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-5.2-2025-12-11", "service_tier": "flex",
    "system_fingerprint": "fp_1",
    "choices": [{
        "index": 0, "finish_reason": "stop", "logprobs": None,
        "message": {"role": "assistant", "content": "Paris", "refusal": None, "annotations": []},
    }],
    "usage": {
        "prompt_tokens": 40, "completion_tokens": 30, "total_tokens": 70,
        "prompt_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 8, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 20, "accepted_prediction_tokens": 0},
    },
}  # fmt: skip


def test_everything_that_openai_sends() -> None:
    found = read_reply(orjson.dumps(OPENAI))
    assert found == Completion(
        text="Paris", reasoning="", reasoning_source="", finish_reason="stop", refusal="", model="gpt-5.2-2025-12-11",
        fingerprint="fp_1", usage=TokenUsage(40, 30, 20, 16, 8), service_tier="flex",
    )  # fmt: skip
    assert not found.is_truncated and not found.is_filtered and found.logprobs is None


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "r1 "}, {"type": "text", "text": "r2"}]},
    {"type": "text", "text": "a"},
]
GPT_OSS = "<|channel|>analysis<|message|>r<|end|><|start|>assistant<|channel|>final<|message|>a<|return|>"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param({"content": "a", "reasoning_content": "r"}, ("a", "r", "reasoning_content"), id="deepseek"),
        pytest.param({"content": "a", "reasoning": "r"}, ("a", "r", "reasoning"), id="vllm"),
        pytest.param(
            {"content": "a", "reasoning_content": None, "reasoning": "r"}, ("a", "r", "reasoning"), id="null-goes-on"
        ),
        pytest.param(
            {"content": "a", "reasoning_content": "r", "reasoning": "s"},
            ("a", "r", "reasoning_content"),
            id="the-first-counts",
        ),
        pytest.param(
            {
                "content": "a",
                "reasoning": None,
                "reasoning_details": [
                    {"type": "reasoning.summary", "summary": "r1 "},
                    {"type": "reasoning.text", "text": "r2", "signature": "x"},
                    {"type": "reasoning.encrypted", "data": "AAAA"},
                ],
            },
            ("a", "r1 r2", "reasoning_details"),
            id="openrouter",
        ),
        pytest.param({"content": PARTS}, ("a", "r1 r2", "content_parts"), id="mistral"),
        pytest.param(
            {"content": [{"type": "reasoning", "text": "r"}, {"type": "text", "text": "a"}]},
            ("a", "r", "content_parts"),
            id="sglang-parts",
        ),
        pytest.param({"content": "<think>\nr\n</think>\n\na"}, ("a", "r", "think"), id="cerebras-raw"),
        pytest.param({"content": "<think>\n\n</think>\n\na"}, ("a", "", "think"), id="qwen-without-thinking"),
        pytest.param({"content": "r</think>a"}, ("a", "r", "think"), id="r1-without-opening-tag"),
        pytest.param({"content": "<think>r and cut"}, ("", "r and cut", "think"), id="cut-inside-the-trace"),
        pytest.param({"content": "◁think▷r◁/think▷a"}, ("a", "r", "kimi"), id="kimi"),
        pytest.param({"content": "◁think▷r and cut"}, ("", "r and cut", "kimi"), id="kimi-cut"),
        pytest.param({"content": "[THINK]r[/THINK]a"}, ("a", "r", "magistral"), id="magistral"),
        pytest.param({"content": GPT_OSS}, ("a", "r", "channel"), id="gpt-oss"),
        pytest.param({"content": "<|start|>assistant" + GPT_OSS}, ("a", "r", "channel"), id="gpt-oss-with-start"),
        pytest.param({"content": "<|channel|>analysis<|message|>r"}, ("", "r", "channel"), id="gpt-oss-cut"),
        pytest.param({"content": "<|channel|>?"}, ("<|channel|>?", "", ""), id="a-channel-of-nothing"),
        *(
            pytest.param({"content": text}, (text, "", ""), id=name)
            for text, name in [
                ("Write <think>x</think> first.", "a-whole-tag-in-the-middle"),
                ("the tag <think> alone", "an-opening-tag-in-the-middle"),
                ("the tag ◁think▷ alone", "kimi-in-the-middle"),
                (f"It says {GPT_OSS}", "a-channel-in-the-middle"),
            ]
        ),
    ],
)
def test_reasoning_is_found_where_each_server_puts_it(message: dict[str, Any], expected: tuple[str, str, str]) -> None:
    found = read_reply(body(message))
    assert (found.text, found.reasoning, found.reasoning_source) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(
            {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}, TokenUsage(9, 5), id="ollama-no-details"
        ),
        pytest.param(
            {
                "prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_cache_hit_tokens": 8,
                "prompt_cache_miss_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 3},
            },
            TokenUsage(9, 5, 3, 8),
            id="deepseek",
        ),
        pytest.param(
            {
                "prompt_tokens": 9, "completion_tokens": 5, "prompt_cache_hit_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
            TokenUsage(9, 5, 0, 8),
            id="a-relay-that-zeroes-the-details",
        ),
        pytest.param(
            {
                "prompt_tokens": 9, "completion_tokens": 5, "prompt_cache_hit_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 7},
            },
            TokenUsage(9, 5, 0, 7),
            id="details-first",
        ),
        pytest.param(
            {
                "prompt_tokens": 21, "completion_tokens": 4, "total_tokens": 85,
                "completion_tokens_details": {"reasoning_tokens": 60},
            },
            TokenUsage(21, 64, 60),
            id="xai-counts-reasoning-apart",
        ),
        pytest.param(
            {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623},
            TokenUsage(20, 603, 405),
            id="gemini-counts-thoughts-in-the-total-only",
        ),
        pytest.param(
            {
                "prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 9,
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            TokenUsage(1, 5, 2),
            id="a-total-that-nothing-explains",
        ),
        pytest.param(
            {"prompt_tokens": 1, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 7}},
            TokenUsage(1, 5, 5),
            id="never-more-reasoning-than-completion",
        ),
        pytest.param(
            {"prompt_tokens": 1, "completion_tokens": 5, "completion_tokens_details": None, "prompt_tokens_details": []},
            TokenUsage(1, 5),
            id="odd-details",
        ),
        pytest.param({"prompt_tokens": 1, "completion_tokens": None}, None, id="null"),
        pytest.param({"prompt_tokens": -1, "completion_tokens": 5}, None, id="negative"),
        pytest.param({"prompt_tokens": "1", "completion_tokens": 5}, None, id="a-string"),
        pytest.param({"prompt_tokens": True, "completion_tokens": 5}, None, id="a-boolean"),
        pytest.param({}, None, id="empty"),
        pytest.param(None, None, id="none"),
        pytest.param("many", None, id="words"),
    ],
)  # fmt: skip
def test_token_usage_of_each_server(usage: Any, expected: TokenUsage | None) -> None:
    assert read_reply(body(usage=usage)).usage == expected


def test_usages_add_up_field_by_field() -> None:
    assert TokenUsage(1, 2, 3, 4, 5) + TokenUsage(10, 20, 30, 40, 50) == TokenUsage(11, 22, 33, 44, 55)


@pytest.mark.parametrize(
    ("finish", "is_truncated", "is_filtered"),
    [
        ("stop", False, False), ("length", True, False), ("model_length", True, False),
        ("model_context_window_exceeded", True, False), ("content_filter", False, True),
        ("content_filter: PROHIBITED_CONTENT", False, True), ("sensitive", False, True), ("eos", False, False),
    ],
)  # fmt: skip
def test_why_it_ended_stays_in_the_servers_word(finish: str, is_truncated: bool, is_filtered: bool) -> None:
    found = read_reply(body(finish=finish))
    assert (found.finish_reason, found.is_truncated, found.is_filtered) == (finish, is_truncated, is_filtered)


def test_a_missing_finish_reason_is_unknown() -> None:
    assert read_reply(body(finish=None)).finish_reason == "unknown"


def test_what_gemini_filters_has_no_message_and_is_decided() -> None:
    found = read_reply(b'{"choices": [{"index": 0, "finish_reason": "content_filter: PROHIBITED_CONTENT"}]}')
    assert found.is_filtered and found.text == ""


def test_a_refusal_is_kept_beside_the_text() -> None:
    found = read_reply(body({"content": None, "refusal": "I cannot."}))
    assert (found.text, found.refusal) == ("", "I cannot.")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", "an empty body", id="empty"),
        pytest.param(b"<html>busy</html>", "not JSON: '<html>busy</html>'", id="html"),
        pytest.param(b"[]", "a JSON list, not a completion", id="a-list"),
        pytest.param(b'{"error": {"message": "busy"}}', "an error in a 200: 'busy'", id="an-error-in-a-200"),
        pytest.param(b'{"choices": []}', "no choices", id="no-choices"),
        pytest.param(b'{"choices": [{"finish_reason": "stop"}]}', "a choice without a message", id="no-message"),
        pytest.param(body({"content": None}, finish="tool_calls"), "a message without content", id="nothing-said"),
        pytest.param(
            body(finish="insufficient_system_resource"),
            "generation broke off: 'insufficient_system_resource'",
            id="deepseek-out-of-resources",
        ),
        pytest.param(
            body(finish="error", choice={"error": {"code": 502, "message": "upstream is gone"}}),
            "generation broke off: 'upstream is gone'",
            id="openrouter-midway",
        ),
        pytest.param(body(finish="abort"), "generation broke off: 'abort'", id="vllm-aborted"),
        pytest.param(body(finish="network_error"), "generation broke off: 'network_error'", id="zai-network"),
    ],
)
def test_what_is_no_completion_says_why(raw: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        read_reply(raw)
    assert str(caught.value) == reason


def test_logprobs_in_openais_form_and_in_the_older_one() -> None:
    modern = {
        "content": [
            {"token": "Pa", "logprob": -0.1, "bytes": [80], "top_logprobs": [
                {"token": "Pa", "logprob": -0.1, "bytes": [80]}, {"token": "Ly", "logprob": -3, "bytes": None},
            ]},
            {"token": "ris", "logprob": -9999.0, "top_logprobs": []},
        ],
        "refusal": None,
    }  # fmt: skip
    assert read_reply(body(choice={"logprobs": modern})).logprobs == [
        {"token": "Pa", "logprob": -0.1, "top": [["Pa", -0.1], ["Ly", -3]]},
        {"token": "ris", "logprob": -9999.0, "top": []},
    ]
    older = {"tokens": ["Pa", "ris"], "token_logprobs": [None, -0.5], "top_logprobs": [{"Pa": -0.1, "Ly": -3}, None]}
    assert read_reply(body(choice={"logprobs": older})).logprobs == [
        {"token": "Pa", "logprob": None, "top": [["Pa", -0.1], ["Ly", -3]]},
        {"token": "ris", "logprob": -0.5, "top": []},
    ]


@pytest.mark.parametrize("odd", [None, [], {}, {"content": None}, {"tokens": ["a"], "token_logprobs": []}, "x"])
def test_odd_logprobs_are_none(odd: Any) -> None:
    assert read_reply(body(choice={"logprobs": odd})).logprobs is None


def test_logprobs_are_bounded() -> None:
    many = [{"token": str(n), "logprob": -n} for n in range(100)]
    logprobs = {"content": [{"token": "a", "logprob": 0, "top_logprobs": many}]}
    found = read_reply(body(choice={"logprobs": logprobs})).logprobs
    assert found is not None and len(found[0]["top"]) == MAX_TOP_LOGPROBS == 20


LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text() | st.sampled_from([
    "<think>", "</think>", "◁think▷x", "<|channel|>final<|message|>", "stop", "abort", "content_filter", "thinking",
])  # fmt: skip
NAMES = st.text() | st.sampled_from([
    "choices", "message", "content", "usage", "finish_reason", "reasoning", "reasoning_details", "prompt_tokens",
    "completion_tokens", "total_tokens", "completion_tokens_details", "reasoning_tokens", "logprobs", "top_logprobs",
    "tokens", "token_logprobs", "token", "logprob", "type", "text", "thinking", "index", "error", "refusal",
])  # fmt: skip
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=20)
SHAPED = st.fixed_dictionaries(
    {"choices": st.lists(st.fixed_dictionaries(
        {"message": st.dictionaries(NAMES, JSON)}, optional={"finish_reason": JSON, "logprobs": JSON, "index": JSON},
    ))},
    optional={"usage": st.dictionaries(NAMES, JSON), "model": JSON, "error": JSON},
)  # fmt: skip
BODIES = st.binary() | (JSON | SHAPED).map(lambda value: orjson_or_json(value))


def orjson_or_json(value: Any) -> bytes:
    """Python's writer: it takes what orjson refuses, NaN, lone surrogates and endless integers."""
    import json

    return json.dumps(value).encode()


@given(BODIES)
@example(b"[" * 5000)
@example(b'{"choices": ' + b"[" * 2000 + b"]" * 2000 + b"}")
@example(b'{"choices": [{"message": {"content": "a\\ud800"}}], "usage": 1' + b"0" * 5000 + b"}")
@example("é".encode("latin-1"))
def test_any_body_is_a_completion_or_malformed(raw: bytes) -> None:
    try:
        found = read_reply(raw)
    except Malformed as malformed:
        assert str(malformed)
        return
    assert isinstance(found.text, str) and isinstance(found.reasoning, str) and isinstance(found.finish_reason, str)
    assert bool(found.reasoning) <= bool(found.reasoning_source)
    assert found.logprobs is None or all(token.keys() == {"token", "logprob", "top"} for token in found.logprobs)
    if found.usage is not None:
        assert 0 <= found.usage.reasoning <= found.usage.completion


@given(BODIES, st.integers(0, 5))
def test_any_body_splits_into_completions_or_is_malformed(raw: bytes, n: int) -> None:
    try:
        parts = split_samples(raw, n)
    except Malformed as malformed:
        assert str(malformed)
        return
    assert [type(read_reply(part)) for part in parts] == [Completion] * n


TOKENS = st.integers(0, 5000)


@st.composite
def replies_of_several(draw: st.DrawFn) -> dict[str, Any]:
    texts = draw(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), min_size=1, max_size=6))
    completion = draw(TOKENS)
    usage = {"prompt_tokens": draw(TOKENS), "completion_tokens": completion}
    if draw(st.booleans()):
        usage["completion_tokens_details"] = {"reasoning_tokens": draw(st.integers(0, completion)), "audio_tokens": 2}
    if draw(st.booleans()):
        usage["prompt_tokens_details"] = {"cached_tokens": draw(TOKENS), "cache_write_tokens": draw(TOKENS)}
    if draw(st.booleans()):
        usage["total_tokens"] = usage["prompt_tokens"] + completion + draw(st.sampled_from([0, 0, 7]))
    if draw(st.booleans()):
        usage |= {"prompt_cache_hit_tokens": draw(TOKENS), "cost": 0.125, "cost_details": {"upstream": 0.5}}
    choices = [
        {"index": place, "finish_reason": "stop", "message": {"content": text, "reasoning_content": trace}}
        for place, (text, trace) in enumerate(texts)
    ]
    return {"id": "x", "model": "m", "service_tier": "flex", "choices": draw(st.permutations(choices)), "usage": usage}


@given(replies_of_several())
def test_samples_add_up_to_the_reply_they_come_from(reply: dict[str, Any]) -> None:
    raw = orjson.dumps(reply)
    n = len(reply["choices"])
    parts = split_samples(raw, n)
    read = [read_reply(part) for part in parts]
    by_index = sorted(reply["choices"], key=lambda choice: choice["index"])
    for place, (part, found) in enumerate(zip(parts, read, strict=True)):
        whole = orjson.loads(part)
        assert whole["choices"] == [{**by_index[place], "index": 0}]
        assert whole["distillgen"] == {"sample": place, "of": n, "usage": "shared"}
        assert whole.keys() - {"distillgen"} == reply.keys() and whole["id"] == "x"
        assert (found.model, found.service_tier) == ("m", "flex")
    usages = [found.usage for found in read if found.usage is not None]
    assert len(usages) == n and sum(usages, TokenUsage()) == read_reply(raw).usage
    assert all(usage.prompt == usage.cached == usage.cache_write == 0 for usage in usages[1:])
    costs = [orjson.loads(part)["usage"].get("cost", 0) for part in parts]
    assert math.fsum(costs) == reply["usage"].get("cost", 0)


def several(*texts: str, **usage: Any) -> bytes:
    choices = [{"index": n, "finish_reason": "stop", "message": {"content": text}} for n, text in enumerate(texts)]
    return orjson.dumps({"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 100, **usage}})


def completions(raw: bytes, n: int) -> list[int]:
    return [usage.completion for part in split_samples(raw, n) if (usage := read_reply(part).usage)]


def test_longer_answers_carry_more_of_the_tokens() -> None:
    assert completions(several("a" * 30, "a" * 10, "a" * 60), 3) == [30, 10, 60]
    assert completions(several("a", "a", "a"), 3) == [33, 33, 34]
    assert completions(several("", ""), 2) == [50, 50]


def test_a_hidden_trace_is_shared_equally() -> None:
    raw = several("a" * 9, "a", completion_tokens_details={"reasoning_tokens": 80})
    parts = [read_reply(part).usage for part in split_samples(raw, 2)]
    assert parts == [TokenUsage(10, 58, 40), TokenUsage(0, 42, 40)]


def test_samples_of_unknown_usage_have_unknown_usage() -> None:
    raw = several("a", "b", prompt_tokens="?")
    for place, part in enumerate(split_samples(raw, 2)):
        assert read_reply(part).usage is None
        assert orjson.loads(part)["distillgen"] == {"sample": place, "of": 2, "usage": "unknown"}


TWO = [{"index": n, "finish_reason": "stop", "message": {"content": "a"}} for n in range(2)]


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        pytest.param(TWO[:1], "1 choices where 2 were asked for", id="too-few"),
        pytest.param([*TWO, TWO[0]], "3 choices where 2 were asked for", id="too-many"),
        pytest.param([TWO[0], TWO[0]], "choices that are not numbered from 0 to 1", id="doubled"),
        pytest.param([TWO[0], {**TWO[1], "index": "1"}], "choices that are not numbered from 0 to 1", id="odd-index"),
        pytest.param([TWO[0], "x"], "2 choices where 2 were asked for", id="no-choice"),
        pytest.param([TWO[0], {"index": 1}], "a choice without a message", id="one-without-a-message"),
        pytest.param(
            [TWO[0], {**TWO[1], "finish_reason": "abort"}], "generation broke off: 'abort'", id="one-that-broke-off"
        ),
    ],
)
def test_replies_that_do_not_split(choices: list[Any], reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        split_samples(orjson.dumps({"choices": choices}), 2)
    assert str(caught.value) == reason


def test_choices_without_an_index_keep_their_place() -> None:
    choices = [{"finish_reason": "stop", "message": {"content": text}} for text in "ab"]
    parts = split_samples(orjson.dumps({"choices": choices}), 2)
    assert [read_reply(part).text for part in parts] == ["a", "b"]
