"""Terms: the table is whole, what counts for a teacher, what it means for a purpose, and what the command shows."""

import datetime
import itertools
import json
import re
from typing import Any

import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from distillgen.errors import UsageError
from distillgen.teacher.models import models
from distillgen.teacher.providers import presets
from distillgen.teacher.terms import (
    COMPETING,
    NOT_ADVICE,
    PURPOSES,
    STANCES,
    UNKNOWN_MODEL,
    UNKNOWN_ROUTE,
    Condition,
    Entry,
    Purpose,
    entries,
    find,
    judge,
)

TABLE = entries()
TRAINING = [purpose for purpose in PURPOSES if purpose != "evaluation"]
ROUTES = sorted({entry.provider for entry in TABLE.values() if entry.is_route})


def entry(stance: str = "allowed", **more: Any) -> Entry:
    facts: dict[str, Any] = {
        "id": "some-terms", "who": "Somebody", "document": "Terms", "stance": stance, "quote": "as it is said",
        "quality": "primary", "read": datetime.date(2026, 11, 25), "review_by": datetime.date(2027, 2, 28),
    }  # fmt: skip
    if stance == "conditions":
        facts["conditions"] = [
            {"kind": "name-prefix", "value": "Some", "text": "Call it Some.", "purposes": ["open-weights"]}
        ]
    return Entry(**{**facts, **more})


def ids(provider: str | None, model: str, base_url: str | None = None) -> set[str]:
    return {found.id for found in find(provider, model, base_url)}


# The table


@pytest.mark.parametrize("name", TABLE)
def test_an_entry_is_whole(name: str) -> None:
    found = TABLE[name]
    assert found.id == name and found.who and found.document
    assert found.quote or found.note or found.conditions
    assert found.review_by is not None
    if found.is_route:
        assert found.url, "where to read a provider's terms"
        assert found.provider in presets()
    else:
        assert found.models != ".", "a licence belongs to some models only"
    if found.read is not None:
        assert found.read < found.review_by <= found.read + datetime.timedelta(days=400)
    if found.quality == "unread":
        assert found.stance == "unknown" and not found.quote and not found.effective
    if found.stance in ("allowed", "prohibited"):
        assert not found.conditions
    if found.stance == "restricted":
        assert found.if_competing or set(found.reaches) < set(PURPOSES)
    assert set(found.reaches) <= set(PURPOSES) and found.reaches
    assert len(found.quote.split()) <= 25
    assert not re.search(r"[\x00-\x1f]", found.model_dump_json())


def test_every_terms_id_of_a_preset_is_a_route_in_the_table() -> None:
    for name, preset in presets().items():
        if preset.terms:
            assert TABLE[preset.terms].provider == name
    assert set(ROUTES) == {name for name, preset in presets().items() if preset.terms}


@pytest.mark.parametrize("name", models())
def test_every_embedded_model_has_its_licence_in_the_table(name: str) -> None:
    [licence] = find("embedded", name)
    assert licence.document == models()[name].licence == "Apache-2.0" and licence.stance == "allowed"
    assert licence.who == models()[name].attribution


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"quote": "word " * 26}, "at most 25 words"),
        ({"stance": "maybe"}, "Input should be"),
        ({"url": "http://example.org"}, "pattern"),
        ({"effective": "last year"}, "pattern"),
        ({"quality": "unread"}, "what was read has a date"),
        ({"quality": "unread", "read": None}, "what nobody has read is unknown"),
        ({"stance": "conditions", "conditions": []}, "conditions are not stated"),
        ({"if_competing": True}, "only a restriction"),
        ({"quote": ""}, "a note says why"),
        ({"reaches": ["fun"]}, "Input should be"),
        ({"models": "("}, "unterminated subpattern"),
        ({"colour": "red"}, "Extra inputs"),
        ({"id": "Not An Id"}, "pattern"),
        ({"conditions": [{"kind": "licence", "text": "It goes along."}]}, "needs its `value`"),
    ],
    ids=lambda case: str(case)[:40],
)
def test_a_broken_entry_is_refused_with_the_reason(broken: dict[str, Any], reason: str) -> None:
    with pytest.raises((ValidationError, re.error), match=reason):
        entry(**broken)


# What counts for a teacher


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("openai", "gpt-5.2", {"openai-services-agreement"}),
        ("anthropic", "claude-sonnet-4-5", {"anthropic-commercial", "anthropic-usage-policy"}),
        ("gemini", "gemini-3-pro-preview", {"gemini-api-additional-terms"}),
        ("gemini", "gemma-4-31b-it", {"gemini-api-additional-terms", "gemma-4-licence"}),
        ("xai", "grok-4", {"xai-enterprise"}),
        ("mistral", "mistral-small-2603", {"mistral-commercial"}),
        ("deepseek", "deepseek-flash", {"deepseek-open-platform"}),
        ("deepseek", "deepseek-v4-pro", {"deepseek-open-platform", "deepseek-mit"}),
        ("moonshot", "kimi-k2.6", {"moonshot-open-platform", "kimi-k2"}),
        ("zai", "glm-5.3", {"zai-terms", "glm-5-3"}),
        ("openrouter", "anthropic/claude-sonnet-4.5", {"openrouter-terms", UNKNOWN_MODEL}),
        ("openrouter", "openai/gpt-oss-120b", {"openrouter-terms", "gpt-oss"}),
        ("groq", "llama-3.3-70b-versatile", {"groq-services-agreement", "llama-3-2-licence"}),
        ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo", {"together-terms", "llama-3-2-licence"}),
        ("fireworks", "accounts/fireworks/models/llama-v3p1-8b-instruct", {"fireworks-terms", "llama-3-1-licence"}),
        ("vllm", "google/gemma-3-27b-it", {"gemma-terms"}),
        ("ollama", "gemma4:31b", {"gemma-4-licence"}),
        ("ollama", "my-model", {UNKNOWN_MODEL}),
        (None, "gemma-4-31b-it", {"gemma-4-licence"}),
        ("embedded", "gguf-0123456789ab", {UNKNOWN_MODEL}),
    ],
)
def test_route_and_licence_both_count(provider: str | None, model: str, expected: set[str]) -> None:
    assert ids(provider, model) == expected


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-licence"), ("llama2:13b", "llama-2-licence"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-licence"), ("llama3:70b", "llama-3-licence"),
        ("llama3-8b-8192", "llama-3-licence"), ("llama-3-70b", "llama-3-licence"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3-1-licence"), ("llama3.1:405b", "llama-3-1-licence"),
        ("llama-3-1-8b", "llama-3-1-licence"), ("Llama-3.2-1B", "llama-3-2-licence"),
        ("llama-v3p3-70b-instruct", "llama-3-2-licence"), ("meta-llama/Llama-4-Scout-17B-16E", "llama-4-licence"),
        ("llama-30b", UNKNOWN_MODEL), ("codellama-34b", UNKNOWN_MODEL), ("TinyLlama-1.1B", UNKNOWN_MODEL),
        ("llama-3.4-8b", UNKNOWN_MODEL), ("llama-4.1-8b", UNKNOWN_MODEL), ("llama-5", UNKNOWN_MODEL),
        ("google/gemma-7b", "gemma-terms"), ("gemma-1.1-7b-it", "gemma-terms"), ("gemma:2b", "gemma-terms"),
        ("gemma-2-9b-it", "gemma-terms"), ("gemma3n:e4b", "gemma-terms"), ("gemma-3-270m", "gemma-terms"),
        ("gemma-4-31b-it", "gemma-4-licence"), ("google/gemma-4-E2B-it", "gemma-4-licence"),
        ("gemma-5-9b", UNKNOWN_MODEL), ("gemma-4.5-9b", UNKNOWN_MODEL), ("gemma-27b", UNKNOWN_MODEL),
        ("deepseek-ai/DeepSeek-R1", "deepseek-mit"), ("DeepSeek-R1-0528", "deepseek-mit"),
        ("deepseek/deepseek-r1:free", "deepseek-mit"), ("deepseek-r1:671b", "deepseek-mit"),
        ("deepseek-v4-flash", "deepseek-mit"), ("deepseek-r1:8b", UNKNOWN_MODEL),
        ("DeepSeek-R1-Distill-Llama-8B", UNKNOWN_MODEL), ("deepseek-r1-0528-qwen3-8b", UNKNOWN_MODEL),
        ("DeepSeek-V2", "deepseek-model-licence"), ("deepseek-ai/DeepSeek-V3-Base", "deepseek-model-licence"),
        ("DeepSeek-V3.1", UNKNOWN_MODEL), ("DeepSeek-V3", UNKNOWN_MODEL), ("deepseek-v2.5", UNKNOWN_MODEL),
        ("Qwen/Qwen3.8-27B", "qwen-3-8"), ("Qwen3.8-2.4T", "qwen-3-8-large"), ("qwen3.8-flash-next", "qwen-3-8-large"),
        ("qwen3-32b", UNKNOWN_MODEL), ("Qwen2.5-3B", UNKNOWN_MODEL), ("Qwen2.5-Coder-3B", UNKNOWN_MODEL),
        ("Qwen/Qwen2.5-Coder-1.5B-Instruct", "qwen-2-5-coder"), ("qwen2.5-coder:0.5b", "qwen-2-5-coder"),
        ("smollm2:135m", "smollm2-135m"), ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "smollm"), ("SmolLM3-3B", "smollm"),
        ("moonshotai/Kimi-K2-Instruct", "kimi-k2"), ("kimi-k2.5", "kimi-k2"), ("kimi-k2.7", UNKNOWN_MODEL),
        ("kimi-k3", "kimi-k3"), ("glm-4.5-air", "glm-mit"), ("zai-org/GLM-5", "glm-mit"), ("glm-5.2", "glm-mit"),
        ("glm-5.3-flash", "glm-mit"), ("glm-5.3", "glm-5-3"), ("glm-4-9b", UNKNOWN_MODEL), ("glm-5.4", UNKNOWN_MODEL),
        ("gpt-oss:20b", "gpt-oss"), ("MiniMaxAI/MiniMax-M3", "minimax-m3"), ("minimax-m2", UNKNOWN_MODEL),
        ("", UNKNOWN_MODEL),
    ],
)  # fmt: skip
def test_which_licence_a_name_means(model: str, licence: str) -> None:
    assert ids("vllm", model) == {licence}


@pytest.mark.parametrize(
    ("provider", "base_url", "routes"),
    [
        (None, "https://api.openai.com/v1", {"openai-services-agreement"}),
        (None, "https://EU.API.openai.com/v1", {"openai-services-agreement"}),
        ("vllm", "https://api.openai.com/v1", {"openai-services-agreement"}),
        ("openai", "https://proxy.example.org/v1", {"openai-services-agreement"}),
        ("groq", "https://api.x.ai/v1", {"groq-services-agreement", "xai-enterprise"}),
        (None, "https://llm.example.org/v1", {UNKNOWN_ROUTE}),
        (None, "https://notapi.openai.com.evil.example/v1", {UNKNOWN_ROUTE}),
        (None, "https://fakeapi.x.ai/v1", {UNKNOWN_ROUTE}),
        (None, "https://[broken/v1", {UNKNOWN_ROUTE}),
        (None, "http://127.0.0.1:8000/v1", set()),
        (None, "http://localhost:8000/v1", set()),
        ("vllm", "https://gpu.example.org/v1", set()),
    ],
)
def test_the_route_is_known_by_provider_and_by_host(provider: str | None, base_url: str, routes: set[str]) -> None:
    found = [one for one in find(provider, "gemma-4-31b-it", base_url) if one.is_route]
    assert {one.id for one in found} == routes


def test_an_unknown_address_is_named_in_its_entry() -> None:
    [route] = [one for one in find(None, "gemma-4", "https://llm.example.org/v1") if one.is_route]
    assert route.who == "llm.example.org" and route.stance == "unknown" and route.quality == "unread"


def test_unknown_models_have_digests_of_their_own() -> None:
    [one], [other] = find("vllm", "one"), find("vllm", "other")
    assert one.id == other.id == UNKNOWN_MODEL and one.digest != other.digest
    assert not one.is_overdue(datetime.date.max)


def test_a_mistyped_provider_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="unknown provider 'opnai'") as caught:
        find("opnai", "gpt-5")
    assert "did you mean 'openai'?" in str(caught.value)


@given(st.sampled_from([None, "embedded", *presets()]), st.text(max_size=300), st.none() | st.text(max_size=60))
def test_whatever_a_model_is_called_something_counts_for_it(
    provider: str | None, model: str, base_url: str | None
) -> None:
    found = find(provider, model, base_url)
    assert found and all(len(one.digest) == 64 for one in found)
    assert [STANCES.index(one.stance) for one in found] == sorted(
        (STANCES.index(one.stance) for one in found), reverse=True
    )


# Age and identity


def test_an_entry_is_overdue_after_its_day_of_review() -> None:
    found = entry(review_by=datetime.date(2027, 2, 28))
    assert not found.is_overdue(datetime.date(2027, 2, 28))
    assert found.is_overdue(datetime.date(2027, 3, 1))
    assert all(one.is_overdue(datetime.date(2028, 1, 1)) for one in TABLE.values())


CHANGES: dict[str, Any] = {
    "id": "other-terms", "who": "Another", "provider": "openai", "models": "gpt", "own_models": True,
    "document": "Other terms", "section": "3", "effective": "2026", "url": "https://example.org/terms",
    "quote": "as it is said otherwise", "stance": "prohibited", "reaches": ("product",), "if_competing": False,
    "conditions": (Condition(kind="notice", text="A notice."),), "note": "A note.", "quality": "second-hand",
    "read": datetime.date(2026, 11, 24), "review_by": datetime.date(2027, 3, 1),
}  # fmt: skip


@pytest.mark.parametrize("field", Entry.model_fields)
def test_the_digest_changes_with_any_field(field: str) -> None:
    before = entry("restricted", if_competing=True)
    known = before.digest
    after = before.model_copy(update={field: CHANGES[field]})
    assert after.digest != known
    assert entry("restricted", if_competing=True).digest == known


def test_digests_differ_between_entries_and_are_of_canonical_json() -> None:
    import hashlib

    import orjson

    assert len({one.digest for one in TABLE.values()}) == len(TABLE)
    one = entry()
    plain = orjson.dumps(json.loads(one.model_dump_json()), option=orjson.OPT_SORT_KEYS)
    assert one.digest == hashlib.sha256(plain).hexdigest()


# Judging


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("competing", COMPETING)
@pytest.mark.parametrize("stance", STANCES)
def test_every_stance_for_every_purpose(stance: str, competing: Any, purpose: Purpose) -> None:
    verdict = judge([entry(stance)], purpose, competing)
    expected = "allowed" if stance == "conditions" and purpose != "open-weights" else stance
    assert verdict.stance == expected
    assert verdict.reasons[0].startswith("some-terms (Somebody): ")
    assert verdict.stops() == (["some-terms"] if stance in ("restricted", "prohibited") else [])
    assert verdict.stops(strict=True) == (["some-terms"] if stance in ("unknown", "restricted", "prohibited") else [])
    assert [condition.text for condition in verdict.conditions] == (
        ["Call it Some."] if expected == "conditions" else []
    )


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize(
    ("competing", "stance", "reason", "stops"),
    [
        ("no", "conditions", "the owner says that this one does not", []),
        ("unknown", "restricted", "the owner has not said", ["some-terms"]),
        ("yes", "prohibited", "the owner says that this one does", ["some-terms"]),
    ],
)
def test_a_restriction_on_competing_goes_by_the_owners_word(
    competing: Any, stance: str, reason: str, stops: list[str], purpose: Purpose
) -> None:
    verdict = judge([entry("restricted", if_competing=True)], purpose, competing)
    assert (verdict.stance, verdict.stops()) == (stance, stops)
    assert reason in verdict.reasons[0]
    conditions = [condition.text for condition in verdict.conditions]
    assert conditions == (
        ["The student does not compete with Somebody; that is the owner's own word."] if competing == "no" else []
    )


@pytest.mark.parametrize("stance", ["restricted", "prohibited"])
def test_a_ban_on_training_does_not_reach_what_only_evaluates(stance: str) -> None:
    ban = entry(stance, reaches=TRAINING)
    verdict = judge([ban], "evaluation", "yes")
    assert verdict.stance == "conditions" and not verdict.stops(strict=True)
    assert [condition.text for condition in verdict.conditions] == ["The purpose stays evaluation."]
    assert all(judge([ban], purpose, "no").stance == stance for purpose in TRAINING)


def test_what_the_table_says_of_some_well_known_teachers() -> None:
    def stance(provider: str, model: str, purpose: Purpose, competing: Any) -> str:
        return judge(find(provider, model), purpose, competing).stance

    assert stance("openai", "gpt-5.2", "product", "unknown") == "restricted"
    assert stance("openai", "gpt-5.2", "product", "no") == "conditions"
    assert stance("anthropic", "claude-opus-4-7", "internal", "no") == "prohibited"
    assert stance("anthropic", "claude-opus-4-7", "evaluation", "no") == "conditions"
    assert stance("xai", "grok-4", "research", "no") == "prohibited"
    assert stance("deepseek", "deepseek-v4-pro", "open-weights", "yes") == "allowed"
    assert stance("mistral", "mistral-small-2603", "research", "no") == "unknown"
    assert stance("vllm", "Llama-3.1-8B", "open-weights", "no") == "conditions"
    assert stance("vllm", "Llama-2-7b", "research", "no") == "prohibited"
    assert stance("vllm", "kimi-k2.6", "research", "no") == "allowed"
    assert stance("vllm", "MiniMax-M3", "research", "no") == "conditions"
    assert stance("vllm", "MiniMax-M3", "product", "no") == "restricted"
    assert stance("ollama", "gemma4:31b", "product", "yes") == "allowed"
    assert stance("gemini", "gemma-4-31b-it", "product", "yes") == "prohibited"


def test_conditions_that_a_card_can_carry_out() -> None:
    due = judge(find("vllm", "Llama-3.1-8B"), "open-weights", "no").conditions
    assert [(condition.kind, condition.value) for condition in due] == [
        ("name-prefix", "Llama"), ("attribution", "Built with Llama"), ("notice", ""), ("policy", ""),
    ]  # fmt: skip
    [policy] = judge(find("vllm", "Llama-3.1-8B"), "internal", "no").conditions
    assert policy.kind == "policy"
    inherited = judge(find("vllm", "gemma-3-27b-it"), "internal", "no").conditions
    assert ("licence", "gemma") in [(condition.kind, condition.value) for condition in inherited]


def test_an_unknown_model_is_never_allowed() -> None:
    for purpose, competing in itertools.product(PURPOSES, COMPETING):
        verdict = judge(find("embedded", "gguf-0123456789ab"), purpose, competing)
        assert verdict.stance == "unknown" and verdict.reasons == ["unknown-model (gguf-0123456789ab): not read"]
        assert verdict.stops() == [] and verdict.stops(strict=True) == [UNKNOWN_MODEL]


def test_of_two_teachers_the_strictest_wins_and_both_are_shown() -> None:
    teachers = [*find("deepseek", "deepseek-v4-pro"), *find("openai", "gpt-5.2")]
    verdict = judge(teachers, "product", "unknown")
    assert verdict.stance == "restricted" and verdict.stops() == ["openai-services-agreement"]
    assert [judgement.entry.id for judgement in verdict.judgements] == [
        "openai-services-agreement", "deepseek-open-platform", "deepseek-mit",
    ]  # fmt: skip


def test_a_judge_of_stricter_terms_counts_too_and_shared_entries_once() -> None:
    main, judging = find("embedded", "smollm2-135m"), find("xai", "grok-4")
    verdict = judge([*main, *main, *judging], "internal", "no")
    assert verdict.stance == "prohibited" and verdict.stops() == ["xai-enterprise"]
    assert len(verdict.judgements) == 2


@given(st.lists(st.sampled_from(list(TABLE.values())), min_size=1), st.sampled_from(PURPOSES), st.sampled_from(COMPETING))  # fmt: skip
def test_the_verdict_is_the_strictest_in_any_order(found: list[Entry], purpose: Purpose, competing: Any) -> None:
    alone = [judge([one], purpose, competing).stance for one in found]
    strictest = max(alone, key=STANCES.index)
    assert judge(found, purpose, competing).stance == strictest
    assert judge(reversed(found), purpose, competing).stance == strictest


def test_acceptance_is_by_id_and_changes_what_stops_not_the_stance() -> None:
    found = find("anthropic", "claude-opus-4-7")
    half = judge(found, "product", "unknown", ["anthropic-usage-policy"])
    assert half.stance == "prohibited" and half.stops() == ["anthropic-commercial"]
    whole = judge(found, "product", "unknown", ["anthropic-usage-policy", "anthropic-commercial"])
    assert whole.stance == "prohibited" and whole.stops(strict=True) == []
    record = whole.judgements[0].record()
    assert record["accepted"] is True and record["verdict"] == "prohibited"
    assert record["entry"]["digest"] == TABLE["anthropic-usage-policy"].digest
    assert json.loads(json.dumps(record)) == record


def test_no_entries_at_all_are_unknown() -> None:
    assert judge([], "internal", "no").stance == "unknown"


# The command


def test_the_command_lists_the_table(project: Project) -> None:
    done = project.run("terms")
    assert done.returncode == 0 and done.stderr == ""
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    for name, one in TABLE.items():
        assert one.stance in lines[name] and (str(one.read) if one.read else "not read") in lines[name]
        assert ("since" in lines[name]) == one.is_overdue(datetime.datetime.now(tz=datetime.UTC).date())
    assert NOT_ADVICE in done.stdout and "not legal advice" in NOT_ADVICE


def test_the_command_lists_it_for_programs(project: Project) -> None:
    found = json.loads(project.run("terms", "--json").stdout)
    assert found["not_legal_advice"] == NOT_ADVICE
    assert {one["id"]: one["digest"] for one in found["entries"]} == {one.id: one.digest for one in TABLE.values()}
    assert all(isinstance(one["overdue"], bool) for one in found["entries"])


def test_the_command_explains_a_teacher(project: Project) -> None:
    done = project.run("terms", "gemma-4-31b-it", "--provider", "gemini")
    assert done.returncode == 0 and done.stderr == ""
    flat = " ".join(done.stdout.split())
    assert flat.startswith("gemma-4-31b-it by gemini: restricted ")
    for name in ("gemini-api-additional-terms", "gemma-4-licence"):
        one = TABLE[name]
        assert f"{name}: {one.stance}" in flat and one.quote in flat and one.url in flat and one.document in flat
        assert f"read {one.read}, {one.quality} review by {one.review_by}" in flat
    assert "for the purpose competing = yes no unknown" in flat
    assert "evaluation prohibited conditions restricted" in flat
    assert NOT_ADVICE in flat


def test_the_command_shows_section_and_conditions_with_their_purposes(project: Project) -> None:
    flat = " ".join(project.run("terms", "gemma-3-27b-it", "--provider", "vllm").stdout.split())
    assert "Gemma Terms of Use, section 1.1(e), effective 2026-04-01" in flat
    assert "A student trained on the outputs inherits the Gemma Terms of Use. [research, internal," in flat
    assert "internal conditions conditions conditions" in flat and "evaluation allowed allowed allowed" in flat


def test_the_command_explains_for_programs(project: Project) -> None:
    found = json.loads(project.run("terms", "gpt-5.2", "--provider", "openai", "--json").stdout)
    assert found["model"] == "gpt-5.2" and found["provider"] == "openai"
    [one] = found["entries"]
    assert one["id"] == "openai-services-agreement" and one["section"] == "3.3(e)" and one["read"] == "2026-10-05"
    assert one["digest"] == TABLE["openai-services-agreement"].digest
    assert set(found["meaning"]) == set(PURPOSES)
    assert found["meaning"]["product"] == {"yes": "prohibited", "no": "conditions", "unknown": "restricted"}


def test_the_command_explains_an_entry_by_its_id(project: Project) -> None:
    done = project.run("terms", "xai-enterprise")
    assert done.returncode == 0 and "section 3.2" in done.stdout
    assert "add --provider" not in done.stdout


@pytest.mark.parametrize(("name", "of"), [(UNKNOWN_ROUTE, "any address"), (UNKNOWN_MODEL, "any name")])
def test_what_stands_for_the_unknown_is_explained_by_its_id(project: Project, name: str, of: str) -> None:
    """A build names it, with the command to run."""
    found = json.loads(project.run("terms", name, "--json").stdout)
    assert [(each["id"], each["who"], each["stance"]) for each in found["entries"]] == [(name, of, "unknown")]
    assert {stance for each in found["meaning"].values() for stance in each.values()} == {"unknown"}


def test_the_command_fits_a_narrow_terminal(project: Project) -> None:
    told = project.run("terms", "xai-enterprise", COLUMNS="60").stdout
    body = told[told.index("  of ") : told.index("for the purpose")]
    assert max(len(line) for line in body.splitlines() if "https://" not in line) <= 60
    assert "".join(told.split()).startswith("".join(project.run("terms", "xai-enterprise").stdout.split())[:200])


def test_the_command_takes_an_address(project: Project) -> None:
    done = project.run("terms", "gemma-4-31b-it", "--base-url", "https://llm.example.org/v1")
    assert done.returncode == 0 and "unknown-route: unknown" in done.stdout and "llm.example.org" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["m", "--provider", "opnai"], "did you mean 'openai'?"),
        (["smolm2-135m", "--provider", "embedded"], "did you mean 'smollm2-135m'?"),
        (["--provider", "openai"], "distillgen terms MODEL --provider P"),
    ],
)
def test_mistakes_get_the_right_name(project: Project, arguments: list[str], hint: str) -> None:
    done = project.run("terms", *arguments)
    assert done.returncode == 2 and done.stdout == "" and hint in done.stderr


@pytest.mark.parametrize(
    ("name", "right"), [("smolm2-135m", "smollm2-135m"), ("xai-enterprize", "xai-enterprise")], ids=["model", "entry"]
)
def test_a_name_that_nobody_knows_is_unknown_and_the_nearest_is_named(project: Project, name: str, right: str) -> None:
    done = project.run("terms", name)
    assert (
        done.returncode == 0 and f"did you mean {right!r}?" in done.stdout and "unknown-model: unknown" in done.stdout
    )
    assert "did you mean" not in project.run("terms", "zzz-quite-another-thing").stdout


HOSTILE = "evil\x1b[2J\x1b]0;title\x07\u202egnp\u2066\x9b31m\nunknown-model: allowed [bold]" + "x" * 500


@pytest.mark.parametrize("more", [(), ("--json",), ("--provider", "vllm"), ("--base-url", "https://" + HOSTILE)])
def test_a_hostile_name_is_printed_safely(project: Project, more: tuple[str, ...]) -> None:
    done = project.run("terms", HOSTILE, *more)
    assert done.returncode == 0 and done.stderr == ""
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", done.stdout)
    assert "unknown-model: allowed" not in [line.strip()[:22] for line in done.stdout.splitlines()]
    assert max(map(len, done.stdout.splitlines())) < (300 if "--json" not in more else 2000)


def test_a_hostile_provider_is_refused_safely(project: Project) -> None:
    done = project.run("terms", "m", "--provider", HOSTILE)
    assert done.returncode == 2 and "\x1b" not in done.stderr and "\u202e" not in done.stderr
    assert len(done.stderr) < 1500


def test_a_name_that_is_not_utf8_is_shown_all_the_same(project: Project) -> None:
    for more in ((), ("--json",)):
        done = project.run("terms", "half\udcff", *more)
        assert done.returncode == 0 and "unknown-model" in done.stdout


def test_an_overdue_entry_says_so_where_it_is_explained() -> None:
    from distillgen.cli.terms import _parts

    found = find("openai", "gpt-5.2")
    late = found[0].review_by + datetime.timedelta(days=1)  # type: ignore[operator]
    assert "OVERDUE, read it again" in str(list(_parts(found[0], late)))
    assert "OVERDUE" not in str(list(_parts(found[0], late - datetime.timedelta(days=1))))
