"""Prices: against the price list's own reckoning, at its edges and gaps; what replies report; what is unknown stays so."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers as listed
from genai_prices.types import ConditionalPrice, TimeOfDateConstraint
from hypothesis import given
from hypothesis import strategies as st

from distillgen.errors import UsageError
from distillgen.settings import PriceSettings, TeacherSettings
from distillgen.teacher.asking import Reply, Request
from distillgen.teacher.cost import (
    FREE,
    WINDOW,
    Cost,
    Meter,
    Prices,
    cost_of,
    estimate,
    find_prices,
    nanousd,
    reported_cost,
)
from distillgen.teacher.providers import presets
from distillgen.teacher.replies import TokenUsage

WEDNESDAY = datetime(2026, 11, 25, 12, tzinfo=UTC)
MODELS = [
    ("openai", "gpt-5"), ("openai", "gpt-5.6"), ("openai", "gpt-4o-mini-2024-07-18"), ("openrouter", "openai/gpt-5"),
    ("openrouter", "anthropic/claude-sonnet-4.5"), ("openrouter", "deepseek/deepseek-chat-v3.1"),
    ("deepseek", "deepseek-flash"), ("deepseek", "deepseek-v4-pro"), ("mistral", "mistral-small-2603"),
    ("groq", "openai/gpt-oss-120b"), ("groq", "llama-3.3-70b-versatile"), ("gemini", "gemini-2.5-pro"),
    ("gemini", "gemini-3-pro-preview"), ("anthropic", "claude-sonnet-4-5"), ("xai", "grok-4"), ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
]  # fmt: skip
TOKENS = st.integers(0, 2_000_000) | st.sampled_from([0, 1, *(k + n for k in (128_000, 200_000, 272_000) for n in (-1, 0, 1))])  # fmt: skip
PARTS = st.floats(0, 1)
USAGES = st.builds(
    lambda prompt, completion, cached, written: TokenUsage(
        prompt, completion, 0, int(prompt * cached), int(prompt * (1 - cached) * written)
    ),
    TOKENS, TOKENS, PARTS, PARTS,
)  # fmt: skip
HOURS = st.integers(0, 7 * 96).map(lambda quarters: WEDNESDAY + quarters * timedelta(minutes=15))


def prices(provider: str | None = None, model: str = "m", at: datetime = WEDNESDAY, **settings: Any) -> Prices:
    found = find_prices(TeacherSettings(provider=provider, model=model, **settings), at)
    assert found is not None
    return found


def unknown(**settings: Any) -> bool:
    return find_prices(TeacherSettings(**settings), WEDNESDAY) is None


def by_the_list(provider: str, model: str, usage: TokenUsage, at: datetime, **context: str) -> Decimal:
    counted = Usage(
        input_tokens=usage.prompt, output_tokens=usage.completion,
        cache_read_tokens=usage.cached, cache_write_tokens=usage.cache_write,
    )  # fmt: skip
    return calc_price(
        counted,
        model,
        provider_id=presets()[provider].prices,
        genai_request_timestamp=at,
        price_context=context or None,
    ).total_price


@pytest.mark.parametrize(("provider", "model"), MODELS, ids="/".join)
@given(usage=USAGES, at=HOURS.filter(lambda at: at.weekday() < 5))
def test_a_cost_is_what_the_list_itself_reckons(provider: str, model: str, usage: TokenUsage, at: datetime) -> None:
    assert prices(provider, model, at).cost(usage) == by_the_list(provider, model, usage, at)


@pytest.mark.parametrize(
    ("provider", "model", "edge"),
    [("openai", "gpt-5.6", 272_000), ("gemini", "gemini-2.5-pro", 200_000)],
    ids=["gpt", "gemini"],
)
def test_beyond_an_edge_the_whole_prompt_is_dearer(provider: str, model: str, edge: int) -> None:
    found = prices(provider, model)
    assert [rates.above for rates in found.rates] == [0, edge]
    at_edge, beyond = (found.cost(TokenUsage(edge + n, 0)) for n in (0, 1))
    assert at_edge == edge * found.input / 10**6 and beyond == (edge + 1) * found.rates[1].input / 10**6
    assert found.worst_case(edge, 10) < found.worst_case(edge + 1, 10)


@pytest.mark.parametrize(("provider", "model"), MODELS, ids="/".join)
@given(usage=USAGES, at=HOURS, later=st.integers(0, 96), bytes_more=TOKENS, tokens_more=TOKENS)
def test_nothing_costs_more_than_the_worst_case(
    provider: str, model: str, usage: TokenUsage, at: datetime, later: int, bytes_more: int, tokens_more: int
) -> None:
    worst = prices(provider, model, at).worst_case(usage.prompt + bytes_more, usage.completion + tokens_more)
    assert prices(provider, model, at + later * WINDOW).cost(usage) <= worst


@pytest.mark.parametrize("key", ["cache_write_tokens", "cache_write_1h_tokens"])
def test_the_worst_case_holds_what_writing_to_a_cache_costs(key: str) -> None:
    found, model, tokens = prices("anthropic", "claude-sonnet-4-5"), "claude-sonnet-4-5", 100_000
    written = Usage(**{"input_tokens": tokens, "cache_write_tokens": tokens, key: tokens})
    surcharged = calc_price(written, model, provider_id="anthropic").total_price
    assert found.cost(TokenUsage(tokens, 0)) < surcharged <= found.worst_case(tokens, 0)


@pytest.mark.parametrize("model", ["deepseek-flash", "deepseek-v4-pro"])
@pytest.mark.parametrize(
    ("day", "time", "is_peak"),
    [
        ("2026-11-25", "00:59", False),
        ("2026-11-25", "01:00", True),
        ("2026-11-25", "03:59", True),
        ("2026-11-25", "04:00", False),
        ("2026-11-25", "05:59", False),
        ("2026-11-25", "06:00", True),
        ("2026-11-25", "09:59", True),
        ("2026-11-25", "10:00", False),
        ("2026-11-27", "09:59", True),
        ("2026-11-28", "02:00", False),
        ("2026-11-29", "07:00", False),
        ("2026-11-30", "01:00", True),
    ],
)
def test_deepseek_is_dearer_at_beijing_office_hours(model: str, day: str, time: str, is_peak: bool) -> None:
    off_peak = prices("deepseek", model, WEDNESDAY)
    found = prices("deepseek", model, datetime.fromisoformat(f"{day}T{time}+00:00"))
    factor = 2 if is_peak else 1
    assert (found.input, found.output) == (off_peak.input * factor, off_peak.output * factor)
    assert found.cached_input == off_peak.cached_input * factor
    assert found.dearest[0].input == off_peak.input * 2 and found.dearest[0].output == off_peak.output * 2


def test_any_zone_means_the_same_time() -> None:
    beijing = datetime.fromisoformat("2026-11-25T09:00+08:00")
    assert prices("deepseek", "deepseek-flash", beijing) == prices(
        "deepseek", "deepseek-flash", beijing.astimezone(UTC)
    )


def test_the_list_changes_prices_on_quarters_and_for_an_hour_at_least() -> None:
    for provider in listed:
        for model in provider.models:
            for price in model.prices if isinstance(model.prices, list) else []:
                assert isinstance(price, ConditionalPrice)
                if isinstance(when := price.constraint, TimeOfDateConstraint):
                    start, end = (datetime.combine(WEDNESDAY, each) for each in (when.start_time, when.end_time))
                    assert start.minute % 15 == end.minute % 15 == start.second == end.second == 0
                    assert (end - start) % timedelta(days=1) >= timedelta(hours=1)


def test_a_price_holds_until_the_next_quarter() -> None:
    found = prices("deepseek", "deepseek-flash", WEDNESDAY + timedelta(minutes=7))
    assert found.until == WEDNESDAY + WINDOW
    assert prices("deepseek", "deepseek-flash").until == WEDNESDAY + WINDOW


@pytest.mark.parametrize(
    ("settings", "is_cheaper"),
    [
        ({"mode": "batch"}, True),
        ({"sampling": {"service_tier": "flex"}}, True),
        ({"sampling": {"service_tier": "priority"}}, False),
    ],
    ids=["batch", "flex", "priority"],
)
def test_prices_of_a_mode_are_those_of_the_list(settings: dict[str, Any], is_cheaper: bool) -> None:
    found, usage = prices("openai", "gpt-5", **settings), TokenUsage(1000, 100, 0, 500)
    tier = settings.get("sampling") or {"processing": "batch"}
    assert found.cost(usage) == by_the_list("openai", "gpt-5", usage, WEDNESDAY, **tier)
    assert (found.cost(usage) < prices("openai", "gpt-5").cost(usage)) is is_cheaper
    assert found.batch_factor == (Decimal("0.5") if "mode" in settings else 1)


def test_a_batch_price_that_is_not_listed_is_the_live_one_and_says_so() -> None:
    live, batch = prices("deepseek", "deepseek-flash"), prices("deepseek", "deepseek-flash", mode="batch")
    assert (batch.rates, batch.batch_factor) == (live.rates, 1)
    assert "batch price is not known" in batch.source and "batch" not in live.source


@pytest.mark.parametrize("tier", ["auto", "default", "on_demand"])
def test_the_standard_tier_has_the_standard_price(tier: str) -> None:
    assert prices("openai", "gpt-5", sampling={"service_tier": tier}).rates == prices("openai", "gpt-5").rates


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"provider": "openai", "model": "gpt-99"}, id="no such model"),
        pytest.param({"provider": "openrouter", "model": "openai/gpt-5:nitro"}, id="no such variant"),
        pytest.param({"base_url": "http://127.0.0.1:8000/v1", "model": "gpt-5"}, id="no such address"),
        pytest.param({"base_url": "https://eu.api.openai.com/v1", "model": "gpt-5"}, id="dearer region"),
        pytest.param({"provider": "openai", "base_url": "https://relay.example/v1", "model": "gpt-5"}, id="a relay"),
        pytest.param({"base_url": "https://api.perplexity.ai", "model": "sonar"}, id="billed by requests too"),
        pytest.param({"provider": "openai", "model": "text-embedding-3-small"}, id="no completions"),
        pytest.param(
            {"provider": "groq", "model": "openai/gpt-oss-120b", "sampling": {"service_tier": "performance"}},
            id="no such tier",
        ),
    ],
)
def test_what_is_not_known_is_not_guessed(settings: dict[str, Any]) -> None:
    assert unknown(**settings)


def test_an_address_of_the_list_is_as_good_as_a_preset() -> None:
    assert prices(None, "gpt-5", base_url="https://api.openai.com/v1") == prices("openai", "gpt-5")


def test_servers_of_ones_own_are_free() -> None:
    own = [name for name, preset in presets().items() if preset.key_optional]
    assert set(own) == {"vllm", "sglang", "ollama", "llamacpp", "lmstudio"}
    assert all(prices(name) is FREE for name in [*own, "embedded"])
    assert FREE.worst_case(10**6, 10**6) == FREE.cost(TokenUsage(10**6, 10**6)) == 0


def test_every_preset_is_free_or_in_the_list() -> None:
    assert {preset.prices for preset in presets().values()} <= {"free", *(provider.id for provider in listed)}


@pytest.mark.parametrize(("provider", "model"), MODELS, ids="/".join)
def test_a_price_says_whose_it_is(provider: str, model: str) -> None:
    found = prices(provider, model)
    assert found.source.startswith(f"genai-prices {found.checked}, {presets()[provider].prices}/")


def test_the_recipe_has_the_first_word() -> None:
    mine = PriceSettings(input=0.1, output=0.2, cached_input=0.01, batch_factor=0.5)
    live, batch = (prices("openai", "gpt-5", prices=mine, mode=mode) for mode in ("live", "batch"))
    usage = TokenUsage(1_000_000, 1_000_000)
    assert live.source == "recipe" and live.cost(usage) == Decimal("0.3") != 0.1 + 0.2
    assert batch.cost(usage) == Decimal("0.15") and batch.batch_factor == Decimal("0.5") and live.batch_factor == 1
    assert live.cost(TokenUsage(1_000_000, 0, 0, 1_000_000)) == Decimal("0.01")
    assert live.worst_case(3, 2) == Decimal("0.0000007")
    assert prices("openai", "gpt-5", prices=PriceSettings(free=True)) is FREE
    assert prices("vllm", prices=mine).source == "recipe"


def test_without_a_price_for_cached_tokens_they_cost_as_the_others() -> None:
    found = prices(None, base_url="http://x", prices=PriceSettings(input=2.0, output=3.0))
    assert found.cost(TokenUsage(100, 10, 0, 40)) == found.cost(TokenUsage(100, 10)) == Decimal("0.00023")


def test_more_cached_than_prompt_tokens_are_the_whole_prompt() -> None:
    found = prices("openai", "gpt-5")
    assert found.cost(TokenUsage(100, 1, 0, 900, 900)) == found.cost(TokenUsage(100, 1, 0, 100)) > 0


@pytest.mark.parametrize("key", ["input", "output", "cached_input"])
def test_an_infinite_price_is_a_mistake(key: str) -> None:
    given = PriceSettings.model_construct(**{"input": 1.0, "output": 1.0, "cached_input": 1.0, key: float("inf")})
    settings = TeacherSettings.model_construct(provider="openai", model="gpt-5", prices=given, mode="live")
    with pytest.raises(UsageError, match="inf is no price"):
        find_prices(settings, WEDNESDAY)


BYOK = {"cost": 0.05, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.95}}


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        pytest.param({"cost": 0.00014}, "0.00014", id="openrouter"),
        pytest.param({"cost": 0}, "0", id="free model"),
        pytest.param({"cost": 1e-7}, "1E-7", id="tiny"),
        pytest.param(BYOK, "1.00", id="own key: fee and the provider's bill"),
        pytest.param({"cost": 0, "cost_details": {"upstream_inference_cost": 0.036}}, "0.036", id="own key, no fee"),
        pytest.param({**BYOK, "is_byok": False}, "0.05", id="the same sum twice"),
        pytest.param({**BYOK, "cost_details": None}, "0.05", id="no details"),
        pytest.param({**BYOK, "cost_details": {"upstream_inference_cost": None}}, "0.05", id="null detail"),
        pytest.param({"cost_in_usd_ticks": 37756000}, "0.0037756", id="xai"),
        pytest.param({"cost": -1}, None, id="negative"),
        pytest.param({"cost": "0.1"}, None, id="string"),
        pytest.param({"cost": True}, None, id="bool"),
        pytest.param({"cost": float("nan")}, None, id="nan"),
        pytest.param({"cost": float("inf")}, None, id="inf"),
        pytest.param({"cost": {"total_cost": 1}}, None, id="object"),
        pytest.param({}, None, id="nothing"),
        pytest.param(None, None, id="no usage"),
        pytest.param([1], None, id="list"),
    ],
)
def test_what_a_provider_reports(usage: Any, usd: str | None) -> None:
    assert reported_cost({"usage": usage}) == (None if usd is None else Decimal(usd))


def test_reported_costs_add_up_exactly() -> None:
    assert sum(reported_cost({"usage": {"cost": 0.1}}) or 0 for _ in range(3)) == Decimal("0.3")


def test_who_says_what_a_reply_cost() -> None:
    found, usage = prices(None, base_url="http://x", prices=PriceSettings(input=1.0, output=2.0)), TokenUsage(10, 5)
    assert cost_of({"usage": {"cost": 0.5}}, usage, found) == Cost(Decimal("0.5"), "provider")
    assert cost_of({"usage": {"cost": 0.5}}, None, None) == Cost(Decimal("0.5"), "provider")
    assert cost_of({}, usage, found) == Cost(Decimal("0.00002"), "prices")
    guess = cost_of({}, None, found, prompt_bytes=39, completion_bytes=17)
    assert guess == Cost(Decimal("0.00002"), "estimate") and not guess.is_certain
    assert cost_of({}, usage, None) == Cost(None, "unknown")
    assert cost_of({}, None, FREE, prompt_bytes=9).usd == 0


def test_the_range_of_a_plan() -> None:
    found = prices("deepseek", "deepseek-flash")
    low, high = estimate(found, 1000, 100, 200, 50, 400)
    assert low == 1000 * found.cost(TokenUsage(100, 50))
    assert high == 1000 * 2 * found.cost(TokenUsage(200, 400)) and low < high
    assert estimate(found, 0, 1, 1, 1, 1) == (0, 0)


class Clock:
    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


def replied(usage: Any, text: str = "four words are here") -> Reply:
    message = {"role": "assistant", "content": text}
    return Reply(orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}))


REQUEST = Request(b"k" * 32, {"messages": [{"role": "user", "content": "Hi?"}], "max_tokens": 100})
COUNTED = {"prompt_tokens": 1000, "completion_tokens": 100}


def test_a_meter_follows_the_time_of_day() -> None:
    clock = Clock(datetime(2026, 11, 25, 0, 59, 59, tzinfo=UTC))
    meter = Meter(TeacherSettings(provider="deepseek", model="deepseek-flash"), now=clock)
    before, worst = meter.cost(REQUEST, replied(COUNTED)), meter.worst_case(REQUEST)
    assert before.source == "prices" and before.usd and worst
    clock.at += timedelta(seconds=1)
    assert meter.cost(REQUEST, replied(COUNTED)).usd == 2 * before.usd and meter.worst_case(REQUEST) == worst


def test_a_meter_reads_what_there_is_to_read() -> None:
    meter = Meter(
        TeacherSettings(base_url="http://x", model="m", prices=PriceSettings(input=1.0, output=1.0)),
        now=Clock(WEDNESDAY),
    )
    assert meter.cost(REQUEST, replied({**COUNTED, "cost": 0.25})) == Cost(Decimal("0.25"), "provider")
    assert meter.charge(REQUEST, replied(COUNTED)) == Decimal("0.0011")
    assert meter.cost(REQUEST, replied(None)).source == "estimate"
    assert meter.charge(REQUEST, replied(None)) == meter.worst_case(REQUEST)
    surrogate = Reply(
        rb'{"choices": [{"message": {"content": "a\ud800b"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cost": 9}}'
    )
    assert meter.cost(REQUEST, surrogate) == Cost(Decimal("0.000005"), "prices")


def test_a_meter_says_when_nothing_bounds_a_cost() -> None:
    boundless = Request(REQUEST.key, {"messages": REQUEST.body["messages"]})
    known = Meter(TeacherSettings(provider="openai", model="gpt-5"), now=Clock(WEDNESDAY))
    assert known.worst_case(boundless) is None and (known.worst_case(REQUEST) or 0) > 0
    assert Meter(TeacherSettings(base_url="http://x", model="m"), now=Clock(WEDNESDAY)).worst_case(REQUEST) is None
    assert Meter(TeacherSettings(provider="vllm", model="m"), now=Clock(WEDNESDAY)).worst_case(boundless) == 0


def test_billionths_of_a_dollar_are_rounded_up() -> None:
    given = PriceSettings(input=0.0011, output=1e-9)
    meter = Meter(TeacherSettings(base_url="http://x", model="m", prices=given), now=Clock(WEDNESDAY))
    assert meter.real(REQUEST, replied(COUNTED)) == 1101 == nanousd(Decimal("0.0000011000000001"))
    worst = meter.worst_case(REQUEST)
    assert worst is not None and meter.worst(REQUEST) == nanousd(worst) and 0 <= nanousd(worst) - worst * 10**9 < 1
    assert nanousd(None) is None and nanousd(Decimal(0)) == 0
