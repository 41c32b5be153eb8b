"""Providers: each preset is whole and sourced, and asks in its own dialect."""

import datetime
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgen.settings import TeacherSettings
from distillgen.teacher.providers import (
    Preset,
    for_model,
    is_loopback,
    is_strict,
    known_limits,
    preset_of,
    presets,
    refused_sampling,
    structured_fields,
    translate,
    url_of,
)

NAMES = sorted(presets())
OWN = ["llamacpp", "lmstudio", "ollama", "sglang", "vllm"]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_all_that_is_asked_of_it(name: str) -> None:
    preset = presets()[name]
    assert preset.title and preset.key_env and preset.source
    assert isinstance(preset.checked, datetime.date)
    assert preset.structured in ("json_schema", "json_object", "none")
    assert preset.strict in ("always", "subset") and preset.logprobs in ("flag", "count")
    is_own = is_loopback(url_of(TeacherSettings(provider=name, model="m")).split("/")[2].split(":")[0])
    assert is_own == (name in OWN) == preset.key_optional
    assert (preset.prices == "free") == is_own and (preset.terms == "") == is_own
    for rule in (*preset.limits, *preset.models):
        re.compile(rule["pattern"])


def test_price_ids_are_those_of_the_price_list() -> None:
    snapshot = pytest.importorskip("genai_prices.data_snapshot").get_snapshot()
    known = {provider.id for provider in snapshot.providers}
    assert {preset.prices for preset in presets().values()} - {"free", ""} <= known


def test_terms_ids_are_short_names_and_belong_to_one_provider() -> None:
    terms = [preset.terms for preset in presets().values() if preset.terms]
    assert len(terms) == len(set(terms))
    assert all(re.fullmatch("[a-z]+(-[a-z]+)+", name) for name in terms)


def test_who_takes_several_samples_and_who_has_batches() -> None:
    several = {name for name, preset in presets().items() if preset.samples}
    assert several == {"openai", "mistral", "together", "fireworks", "vllm", "sglang"}
    assert {name for name, preset in presets().items() if preset.batch} == {"openai", "groq"}
    assert for_model(presets()["mistral"], "ministral-3b-latest").samples
    assert not for_model(presets()["mistral"], "mistral-large-2512").samples


@pytest.mark.parametrize(
    ("provider", "model", "limits"),
    [
        ("deepseek", "deepseek-flash", {"max_in_flight": 2500}),
        ("deepseek", "deepseek-v4-flash", {"max_in_flight": 2500}),
        ("deepseek", "deepseek-v4-pro", {"max_in_flight": 500}),
        ("deepseek", "something-new", {}),
        ("openai", "gpt-5.2", {}),
    ],
)
def test_known_limits(provider: str, model: str, limits: dict[str, int]) -> None:
    assert known_limits(presets()[provider], model) == limits


@pytest.mark.parametrize(
    ("provider", "ours", "theirs"),
    [
        ("openai", {"max_tokens": 9, "seed": 1}, {"max_completion_tokens": 9, "seed": 1}),
        ("openai", {"max_tokens": 9, "max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        ("cerebras", {"max_tokens": 9}, {"max_completion_tokens": 9}),
        ("moonshot", {"max_tokens": 9}, {"max_completion_tokens": 9}),
        ("deepseek", {"max_tokens": 9, "thinking": {"type": "disabled"}}, {"max_tokens": 9, "thinking": {"type": "disabled"}}),
        ("mistral", {"seed": 1, "max_completion_tokens": 9}, {"random_seed": 1, "max_tokens": 9}),
        ("zai", {"max_completion_tokens": 9}, {"max_tokens": 9}),
        ("ollama", {"max_completion_tokens": 9}, {"max_tokens": 9}),
        ("llamacpp", {"repetition_penalty": 1.1}, {"repeat_penalty": 1.1}),
        ("vllm", {"repetition_penalty": 1.1, "top_k": 5}, {"repetition_penalty": 1.1, "top_k": 5}),
        ("openai", {"logprobs": True, "top_logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
        ("together", {"logprobs": True, "top_logprobs": 5}, {"logprobs": 5}),
        ("together", {"logprobs": True}, {"logprobs": 1}),
        ("together", {"logprobs": 3}, {"logprobs": 3}),
        ("anthropic", {"max_tokens": 9, "temperature": 0.5}, {"max_tokens": 9, "temperature": 0.5}),
    ],
)  # fmt: skip
def test_sampling_keys_in_the_endpoints_words(provider: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert translate(presets()[provider], ours, "m") == theirs


def test_a_bare_url_is_asked_in_our_words() -> None:
    preset = preset_of(TeacherSettings(base_url="http://127.0.0.1:1/v1", model="m"))
    assert (preset.prices, preset.terms, preset.samples, preset.batch) == ("", "", False, False)
    assert translate(preset, {"max_tokens": 9, "logprobs": True}) == {"max_tokens": 9, "logprobs": True}


def test_a_rule_for_a_model_overrides_its_preset() -> None:
    preset = Preset("p", "P", "u", models=({"pattern": "^new", "rename": {"max_tokens": "limit"}},))
    assert translate(preset, {"max_tokens": 9}, "new-1") == {"limit": 9}
    assert translate(preset, {"max_tokens": 9}, "old-1") == translate(preset, {"max_tokens": 9}) == {"max_tokens": 9}
    assert for_model(preset, "old-1") is preset


SOME = {
    "temperature": 0.7, "top_p": 0.9, "stop": ["x"], "presence_penalty": 0.5, "logprobs": True, "top_logprobs": 5,
    "max_tokens": 9,
}  # fmt: skip
REASONING = {"temperature", "top_p", "presence_penalty", "logprobs", "top_logprobs"}


@pytest.mark.parametrize(
    ("provider", "model", "more", "refused", "ignored"),
    [
        ("openai", "gpt-4.1", {}, set(), set()),
        ("openai", "gpt-5-chat-latest", {}, set(), set()),
        ("openai", "gpt-5-mini", {}, REASONING, set()),
        ("openai", "gpt-5-mini", {"reasoning_effort": "none"}, REASONING, set()),
        ("openai", "o3-mini", {}, REASONING, set()),
        ("openai", "o3", {}, {*REASONING, "stop"}, set()),
        ("openai", "o4-mini-2025-04-16", {}, {*REASONING, "stop"}, set()),
        ("openai", "gpt-5.1", {}, {"presence_penalty"}, set()),
        ("openai", "gpt-5.1-2025-11-13", {"reasoning_effort": "low"}, REASONING, set()),
        ("openai", "gpt-5.1-codex", {}, REASONING, set()),
        ("openai", "gpt-5.2", {}, REASONING, set()),
        ("openai", "gpt-5.2", {"reasoning_effort": "none"}, {"presence_penalty"}, set()),
        ("openai", "gpt-6-sol", {"reasoning_effort": "none"}, REASONING, set()),
        ("openai", "gpt-5", {"temperature": 1, "top_p": 1.0, "presence_penalty": 0}, {"logprobs", "top_logprobs"}, set()),
        ("deepseek", "deepseek-flash", {}, set(), {"temperature", "presence_penalty"}),
        ("deepseek", "deepseek-v4-pro", {"thinking": {"type": "enabled"}}, set(), {"temperature", "presence_penalty"}),
        ("deepseek", "deepseek-flash", {"thinking": {"type": "disabled"}}, set(), set()),
        ("xai", "grok-3", {"reasoning_effort": "low"}, {"reasoning_effort"}, set()),
        ("xai", "grok-3-mini", {"reasoning_effort": "low"}, {"presence_penalty", "stop"}, set()),
        ("xai", "grok-4-fast-reasoning", {"reasoning_effort": "low"}, {"presence_penalty", "stop", "reasoning_effort"}, set()),
        ("xai", "grok-4-1-fast-non-reasoning", {}, set(), set()),
        ("xai", "grok-4.20-0309-non-reasoning", {}, {"presence_penalty"}, set()),
        ("xai", "grok-4.20-0309-reasoning", {"reasoning_effort": "low"}, {"presence_penalty", "stop", "reasoning_effort"}, set()),
        ("xai", "grok-4.3", {"reasoning_effort": "low"}, {"presence_penalty", "stop"}, set()),
        ("anthropic", "claude-sonnet-4-5", {"seed": 1}, set(), {"presence_penalty", "logprobs", "top_logprobs", "seed"}),
        ("anthropic", "claude-opus-4-7", {}, {"temperature", "top_p"}, {"presence_penalty", "logprobs", "top_logprobs"}),
        ("groq", "llama-3.3-70b-versatile", {}, {"logprobs", "top_logprobs"}, {"presence_penalty"}),
        ("moonshot", "kimi-k2.6", {}, {"temperature", "top_p", "presence_penalty"}, set()),
        ("moonshot", "kimi-k3", {"temperature": 1.0, "top_p": 0.95, "presence_penalty": 0}, set(), set()),
        ("moonshot", "kimi-k2-0905-preview", {}, set(), set()),
        ("ollama", "gpt-oss:20b", {"top_k": 5}, set(), {"top_k"}),
        ("gemini", "gemini-3.5-flash", {}, set(), set()),
        ("vllm", "any", {}, set(), set()),
    ],
)  # fmt: skip
def test_what_a_model_refuses_and_what_it_ignores(
    provider: str, model: str, more: dict[str, Any], refused: set[str], ignored: set[str]
) -> None:
    found = refused_sampling(presets()[provider], model, {**SOME, **more})
    assert [sorted(names) for names in found] == [sorted(refused), sorted(ignored)]


CLOSED = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["a", "b"]}},
    "required": ["label"],
    "additionalProperties": False,
}
OPEN = {"type": "object", "properties": {"label": {"type": "string"}}}


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        pytest.param(CLOSED, True, id="labels"),
        pytest.param(OPEN, False, id="open"),
        pytest.param({**CLOSED, "required": []}, False, id="an-optional-property"),
        pytest.param({**CLOSED, "additionalProperties": True}, False, id="more-properties"),
        pytest.param(closed(a={"type": "array", "items": closed(b={"type": "integer"})}), True, id="nested"),
        pytest.param(closed(a={"type": "array", "items": OPEN}), False, id="open-inside"),
        pytest.param(closed(a={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]}), True, id="any-of-and-ref"),
        pytest.param({**closed(a={"$ref": "#/$defs/b"}), "$defs": {"b": OPEN}}, False, id="open-definition"),
        pytest.param(closed(a={"type": ["object", "null"], "properties": {}}), False, id="nullable-open-object"),
        pytest.param(closed(a={"type": "string", "pattern": "^a"}), True, id="pattern"),
        pytest.param(closed(a={"type": "string", "minLength": 1}), False, id="an-undocumented-keyword"),
        pytest.param(closed(a={"oneOf": [{"type": "null"}]}), False, id="one-of"),
        pytest.param(closed(a={}), False, id="anything"),
        pytest.param(closed(a=True), False, id="a-boolean-schema"),
        pytest.param({"type": "array", "items": CLOSED}, False, id="not-an-object"),
        pytest.param({"anyOf": [CLOSED]}, False, id="any-of-at-the-root"),
    ],
)
def test_which_schemas_are_strict(schema: dict[str, Any], expected: bool) -> None:
    assert is_strict(schema) is expected


def as_schema(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda names: closed(**names)) | inner.map(
        lambda items: {"type": "array", "items": items}
    )


@given(st.recursive(st.sampled_from([{"type": "string"}, {"type": "null"}, CLOSED]), as_schema, max_leaves=8))
def test_a_schema_closed_at_every_level_is_strict_and_opening_one_undoes_it(schema: dict[str, Any]) -> None:
    assert is_strict(closed(a=schema))
    assert not is_strict(closed(a=schema, b=OPEN))


def schema_in(schema: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    wrapped = {"name": "reply", "strict": strict, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": wrapped}}


@pytest.mark.parametrize(
    ("provider", "model", "schema", "fields"),
    [
        ("openai", "gpt-5.2", CLOSED, schema_in(CLOSED, strict=True)),
        ("openai", "gpt-5.2", OPEN, schema_in(OPEN, strict=False)),
        ("openrouter", "openai/gpt-5.2", OPEN, schema_in(OPEN, strict=False)),
        ("vllm", "m", OPEN, schema_in(OPEN, strict=True)),
        ("llamacpp", "m", OPEN, schema_in(OPEN, strict=True)),
        ("ollama", "m", OPEN, schema_in(OPEN, strict=True)),
        ("mistral", "m", OPEN, schema_in(OPEN, strict=True)),
        ("gemini", "m", OPEN, schema_in(OPEN, strict=True)),
        ("groq", "openai/gpt-oss-120b", CLOSED, schema_in(CLOSED, strict=True)),
        ("groq", "llama-3.3-70b-versatile", CLOSED, {"response_format": {"type": "json_object"}}),
        ("deepseek", "deepseek-flash", CLOSED, {"response_format": {"type": "json_object"}}),
        ("moonshot", "kimi-k2.6", CLOSED, {"response_format": {"type": "json_object"}}),
        ("anthropic", "claude-opus-5-5", CLOSED, {}),
    ],
)
def test_a_schema_in_the_providers_way(provider: str, model: str, schema: Any, fields: dict[str, Any]) -> None:
    sent, words = structured_fields(presets()[provider], schema, model)
    assert sent == fields
    told = "json_schema" not in str(fields)
    assert bool(words) is told and ("json" in words.lower()) is told and ('"label"' in words) is told


@pytest.mark.parametrize("name", NAMES)
def test_free_text_asks_for_no_schema(name: str) -> None:
    assert structured_fields(presets()[name], None, "m") == ({}, "")
