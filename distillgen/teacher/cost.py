"""What a teacher costs: its prices, from the recipe or the price list; what a request may cost and what a reply did.

Money is Decimal, in US dollars: prices are decimal fractions, and their sums stay exact and are shown as they are.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import orjson

from distillgen.errors import UsageError
from distillgen.settings import PriceSettings, TeacherSettings
from distillgen.teacher import providers
from distillgen.teacher.asking import Reply, Request
from distillgen.teacher.replies import TokenUsage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, PriceCalculation, TieredPrices

ZERO = Decimal(0)
NEVER = datetime.max.replace(tzinfo=UTC)
TICKS_EXPONENT = -10  # xAI counts in ten-thousand-millionths of a dollar
BYTES_PER_TOKEN = 4
MOST_USD = 10**6  # for one reply: more is nonsense, and would not fit the answer store
WINDOW = timedelta(minutes=15)  # every price of the list that depends on the time of day changes on a quarter
DAY_HOURS = 24  # no request, and no batch, takes longer
STANDARD_TIERS = {"auto", "default", "standard", "standard_only", "on_demand"}
INPUTS = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_5m_mtok", "cache_write_1h_mtok")
# A model billed by these costs what the tokens of a reply do not tell.
UNCOUNTED = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok")


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars per million tokens, for prompts of more than `above` tokens: the whole prompt is billed at them."""

    input: Decimal
    output: Decimal
    cached_input: Decimal
    cache_write: Decimal
    above: int = 0

    def bill(self, prompt: int, completion: int, cached: int = 0, written: int = 0) -> Decimal:
        """Return the dollars for a number of tokens; those `cached` and `written` to the cache are part of `prompt`."""
        cached = min(cached, prompt)
        written = min(written, prompt - cached)
        prompt_cost = (prompt - cached - written) * self.input + cached * self.cached_input + written * self.cache_write
        return (prompt_cost + completion * self.output).scaleb(-6)


@dataclass(frozen=True, slots=True)
class Prices:
    """What one teacher costs before `until`, by size of the prompt, the smallest first.

    `dearest` is the most that a token may cost within a day, writing it to the provider's cache included.
    The figures are those of the teacher's mode: in batch mode `batch_factor` of the live ones.
    """

    rates: tuple[Rates, ...]
    dearest: tuple[Rates, ...]
    source: str
    checked: str = ""  # the version of the price list
    batch_factor: Decimal = Decimal(1)
    until: datetime = NEVER

    @property
    def input(self) -> Decimal:
        """Dollars per million tokens of a short prompt."""
        return self.rates[0].input

    @property
    def output(self) -> Decimal:
        """Dollars per million tokens of a completion to a short prompt."""
        return self.rates[0].output

    @property
    def cached_input(self) -> Decimal:
        """Dollars per million tokens of a short prompt that the provider has in its cache."""
        return self.rates[0].cached_input

    def stated(self) -> dict[str, Any]:
        """Return dollars per million tokens, for short prompts and those above a size, and who says so."""
        rates = [
            {
                "above": rate.above, "input": float(rate.input), "cached_input": float(rate.cached_input),
                "cache_write": float(rate.cache_write), "output": float(rate.output),
            } for rate in self.rates
        ]  # fmt: skip
        return {"rates": rates, "source": self.source, "list": self.checked, "batch_factor": float(self.batch_factor)}

    def cost(self, usage: TokenUsage) -> Decimal:
        """Return the dollars for one completion."""
        rates = _for_prompt(self.rates, usage.prompt)
        return rates.bill(usage.prompt, usage.completion, usage.cached, usage.cache_write)

    def worst_case(self, prompt_bytes: int, max_tokens: int) -> Decimal:
        """Return the most that one request may cost: a prompt has no more tokens than its request has bytes."""
        return _for_prompt(self.dearest, prompt_bytes).bill(prompt_bytes, max_tokens)


def _for_prompt(rates: Sequence[Rates], tokens: int) -> Rates:
    found = rates[0]
    for dearer in rates[1:]:
        if tokens > dearer.above:
            found = dearer
    return found


_NOTHING = Rates(ZERO, ZERO, ZERO, ZERO)
FREE = Prices((_NOTHING,), (_NOTHING,), "free")


def find_prices(settings: TeacherSettings, at: datetime) -> Prices | None:
    """Return what a teacher costs at a time (with its zone): the recipe's word, else the price list's; None: unknown.

    The embedded teacher and the presets for servers of one's own are free unless the recipe prices them.
    Raises UsageError for a price that is not finite.
    """
    if settings.prices is not None:
        return _recipe_prices(settings.prices, settings.mode)
    if settings.provider == providers.EMBEDDED or providers.preset_of(settings).prices == "free":
        return FREE
    return _listed_prices(settings, at.astimezone(UTC))


def _recipe_prices(given: PriceSettings, mode: str) -> Prices:
    if given.free or given.input is None or given.output is None:
        return FREE
    factor = _exact(given.batch_factor) if mode == "batch" else Decimal(1)
    plain, output = _exact(given.input) * factor, _exact(given.output) * factor
    cached = plain if given.cached_input is None else _exact(given.cached_input) * factor
    most = max(plain, cached)
    rates, dearest = Rates(plain, output, cached, plain), Rates(most, output, most, most)
    return Prices((rates,), (dearest,), source="recipe", batch_factor=factor)


def _exact(value: float) -> Decimal:
    """Return a number as it was written: 0.1, not the binary fraction that is nearest to it."""
    if not math.isfinite(value):
        raise UsageError(f"{value} is no price", fix="state US dollars per million tokens in `prices`")
    return Decimal(str(value))


def _listed_prices(settings: TeacherSettings, at: datetime) -> Prices | None:
    import genai_prices

    found = _look_up(settings, at)
    if found is None:
        return None
    model, context = found.model, _context(settings)
    source = f"genai-prices {genai_prices.__version__}, {found.provider.id}/{model.id}"
    if not _is_listed(found, context, at):  # the list would silently give the standard price
        if settings.mode != "batch":
            return None
        context, source = {}, f"{source}; its batch price is not known, so the live one counts"
    billed_at = _billed_at(found.provider.id, at)
    billed, live = model.get_prices(billed_at, context), model.get_prices(billed_at)
    day = [model.get_prices(at + timedelta(hours=hours), context) for hours in range(DAY_HOURS + 1)]
    if not all(map(_is_by_text_tokens, [billed, live, *day])):
        return None
    rates, live_output = _rates(billed), _unit(live, "output_mtok")
    return Prices(
        rates=rates,
        dearest=_dearest(day),
        source=source,
        checked=genai_prices.__version__,
        batch_factor=rates[0].output / live_output if settings.mode == "batch" and live_output else Decimal(1),
        until=at - (at - datetime.min.replace(tzinfo=UTC)) % WINDOW + WINDOW,
    )


def _look_up(settings: TeacherSettings, at: datetime) -> "PriceCalculation | None":
    """Find provider and model in the list: by the preset, or by a URL of the recipe's own."""
    from genai_prices import Usage, calc_price

    model, nothing = settings.model or "", Usage()
    try:
        if settings.provider and not settings.base_url:
            listed_as = providers.preset_of(settings).prices
            return calc_price(nothing, model, provider_id=listed_as, genai_request_timestamp=at)
        return calc_price(nothing, model, provider_api_url=settings.base_url or "", genai_request_timestamp=at)
    except LookupError:
        return None


def _context(settings: TeacherSettings) -> dict[str, str]:
    """Return what, besides the model, decides the price of a request."""
    if settings.mode == "batch":
        return {"processing": "batch"}
    tier = str(settings.sampling.get("service_tier") or "auto")
    return {} if tier in STANDARD_TIERS else {"service_tier": tier}


def _is_listed(found: "PriceCalculation", context: Mapping[str, str], at: datetime) -> bool:
    """Whether the list has prices for a context. It has none for models that it borrows from another provider."""
    if not context:
        return True
    is_own = any(found.model is model for model in found.provider.models)
    return is_own and any(
        variant.when == context and (variant.constraint is None or variant.constraint.active(at))
        for variant in found.model.price_variants or ()
    )


def _billed_at(provider: str, at: datetime) -> datetime:
    """Return the time whose price counts. DeepSeek's peak is on working days, and the list applies it every day.

    China's public holidays, which are off-peak as well, are not known here: they are billed as working days.
    """
    is_weekend = at.weekday() >= 5  # the peak, Beijing 9 to 18, lies on the same day in UTC
    return at.replace(hour=12) if provider == "deepseek" and is_weekend and at.hour < 12 else at


def _is_by_text_tokens(prices: "ModelPrice") -> bool:
    by_tokens = prices.input_mtok is not None and prices.output_mtok is not None
    return by_tokens and all(getattr(prices, name) is None for name in UNCOUNTED)


def _rates(prices: "ModelPrice") -> tuple[Rates, ...]:
    def above(start: int) -> Rates:
        plain, output = _unit(prices, "input_mtok", start), _unit(prices, "output_mtok", start)
        cached = plain if prices.cache_read_mtok is None else _unit(prices, "cache_read_mtok", start)
        written = plain if prices.cache_write_mtok is None else _unit(prices, "cache_write_mtok", start)
        return Rates(plain, output, cached, written, start)

    return tuple(above(start) for start in _starts([prices]))


def _dearest(day: Sequence["ModelPrice"]) -> tuple[Rates, ...]:
    """Return the highest price of each kind of token among several prices, for all sizes up to each step."""
    starts = _starts(day)

    def most(names: Iterable[str], last: int) -> Decimal:
        return max(_unit(prices, name, start) for prices in day for name in names for start in starts if start <= last)

    steps = [(most(INPUTS, start), most(["output_mtok"], start), start) for start in starts]
    return tuple(Rates(dearest, output, dearest, dearest, start) for dearest, output, start in steps)


def _starts(several: Iterable["ModelPrice"]) -> list[int]:
    """Return above which prompt sizes the prices change, 0 first."""
    units = [getattr(prices, name) for prices in several for name in (*INPUTS, "output_mtok")]
    return sorted({0, *(tier.start for unit in units for tier in getattr(unit, "tiers", ()))})


def _unit(prices: "ModelPrice", name: str, above: int = 0) -> Decimal:
    """Return one price for prompts just larger than `above` tokens; 0 where the list has none."""
    unit: Decimal | TieredPrices | None = getattr(prices, name)
    if unit is None or isinstance(unit, Decimal):
        return unit or ZERO
    return next((tier.price for tier in reversed(unit.tiers) if tier.start <= above), unit.base)


def reported_cost(body: Mapping[str, Any]) -> Decimal | None:
    """Return the dollars that a reply itself states, None where it states none that make sense.

    OpenRouter's credits are dollars; with a key of one's own for the provider behind it, that one's bill comes on top.
    """
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    ticks = _amount(usage.get("cost_in_usd_ticks"), TICKS_EXPONENT)
    if ticks is not None:
        return ticks
    cost, details = _amount(usage.get("cost")), usage.get("cost_details")
    upstream = _amount(details.get("upstream_inference_cost")) if isinstance(details, Mapping) else None
    if cost is not None and upstream and (usage.get("is_byok") is True or not cost):
        return cost + upstream
    return cost


def _amount(value: Any, exponent: int = 0) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    usd = Decimal(str(value)).scaleb(exponent)
    return usd if usd <= MOST_USD else None


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars for one reply and who says so; an estimate was made from bytes, for want of a usage."""

    usd: Decimal | None
    source: Literal["provider", "prices", "estimate", "unknown"]

    @property
    def is_certain(self) -> bool:
        """Whether it rests on what the provider counted."""
        return self.source in ("provider", "prices")


def cost_of(
    body: Mapping[str, Any],
    usage: TokenUsage | None,
    prices: Prices | None,
    *,
    prompt_bytes: int = 0,
    completion_bytes: int = 0,
) -> Cost:
    """Return what one reply cost. The bytes serve where the reply counts no tokens."""
    if (reported := reported_cost(body)) is not None:
        return Cost(reported, "provider")
    if prices is None:
        return Cost(None, "unknown")
    if usage is not None:
        return Cost(prices.cost(usage), "prices")
    guess = TokenUsage(-(-prompt_bytes // BYTES_PER_TOKEN), -(-completion_bytes // BYTES_PER_TOKEN))
    return Cost(prices.cost(guess), "estimate")


class Meter:
    """Prices one teacher's requests and replies during a run; looks the prices up anew when they may have changed."""

    def __init__(self, settings: TeacherSettings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings, self._now = settings, now
        self._prices: Prices | None = None
        self._until = datetime.min.replace(tzinfo=UTC)  # the list takes 0.1 s to load: not before a price is needed

    @property
    def prices(self) -> Prices | None:
        """What holds right now, None when unknown."""
        now = self._now()
        if now >= self._until:
            self._prices = find_prices(self._settings, now)
            self._until = self._prices.until if self._prices else NEVER
        return self._prices

    def worst_case(self, request: Request) -> Decimal | None:
        """Return the most that a request may cost, None without a price or a `max_tokens`."""
        prices = self.prices
        if prices is FREE:
            return ZERO
        if prices is None or request.max_tokens is None:
            return None
        return prices.worst_case(request.prompt_bytes, request.max_tokens)

    def cost(self, request: Request, reply: Reply) -> Cost:
        """Return what a reply cost that arrived just now."""
        completion, body = reply.completion, _body(reply.raw)
        if completion.usage is not None:
            return cost_of(body, completion.usage, self.prices)
        said = len(completion.text.encode()) + len(completion.reasoning.encode())
        return cost_of(body, None, self.prices, prompt_bytes=request.prompt_bytes, completion_bytes=said)

    def charge(self, request: Request, reply: Reply) -> Decimal | None:
        """Return what a reply counts in a budget: its cost, or its worst case where it counts no tokens."""
        cost = self.cost(request, reply)
        return cost.usd if cost.is_certain else self.worst_case(request)

    def worst(self, request: Request) -> int | None:
        """Return the worst case in billionths of a dollar, as the answer store keeps it."""
        return nanousd(self.worst_case(request))

    def real(self, request: Request, reply: Reply) -> int | None:
        """Return the charge in billionths of a dollar."""
        return nanousd(self.charge(request, reply))


def nanousd(usd: Decimal | None) -> int | None:
    """Return dollars as whole billionths, rounded up."""
    return None if usd is None else math.ceil(usd.scaleb(9))


def _body(raw: bytes) -> Mapping[str, Any]:
    """Return the body of a reply that may state a cost; of others nothing, since reading it again takes time."""
    if b'"cost' not in raw:
        return {}
    try:
        body: Mapping[str, Any] = orjson.loads(raw)
    except orjson.JSONDecodeError:  # lone surrogates in the text: see read_reply
        return {}
    return body


def estimate(
    prices: Prices,
    calls: int,
    prompt_tokens_low: int,
    prompt_tokens_high: int,
    completion_low: int,
    completion_high: int,
) -> tuple[Decimal, Decimal]:
    """Return the range of dollars for a number of calls, from the tokens of each: at this hour, and at the dearest."""
    low = prices.cost(TokenUsage(prompt_tokens_low, completion_low))
    high = _for_prompt(prices.dearest, prompt_tokens_high).bill(prompt_tokens_high, completion_high)
    return calls * low, calls * high
