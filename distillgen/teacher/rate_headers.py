"""Reads what a server states of its rate limits in the headers of a reply, in the dialects of the providers."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite

LONGEST_RESET_SECONDS = 120.0  # a limit whose quota takes longer to come back is no limit per minute
WINDOW_SECONDS = (30.0, 120.0)  # what a bucket's refill time may come out as, and still be a minute
MONTH_SECONDS = 32 * 86400.0
EPOCH_SECONDS, EPOCH_MILLISECONDS = 1e9, 1e12  # a number above these is a time, not a duration

KINDS = {
    "requests": "requests", "req": "requests", "tokens": "tokens", "input-tokens": "input_tokens",
    "output-tokens": "output_tokens", "tokens-prompt": "input_tokens", "tokens-generated": "output_tokens",
}  # fmt: skip
_KIND = "|".join(sorted(KINDS, key=len, reverse=True))
_NAME = re.compile(
    rf"x-ratelimit-(limit|remaining|reset)-({_KIND})(-minute|_usage_based)?"
    rf"|anthropic-ratelimit-({_KIND})-(limit|remaining|reset)"
    r"|(?:x-)?ratelimit-(limit|remaining|reset)"
)
_NUMBER = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*(?=[,;]|$)", re.ASCII)
_POLICY = re.compile(r"(\d{1,18})\s*;\s*w(?:indow)?\s*=\s*(\d{1,9})(?!\d)", re.ASCII)
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,12})?(?:ms|us|µs|ns|[dhms]))+", re.ASCII)
_PART = re.compile(r"([\d.]+)([a-zµ]+)")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True)
class Stated:
    """What a reply says of one limit; `kind` is requests, tokens, input_tokens or output_tokens; None is not said."""

    kind: str
    per_minute: float | None
    remaining: float | None
    reset_seconds: float | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a header belongs: to which limit, named in which way, as limit, remaining or reset."""

    kind: str
    way: str  # bucket, minute (said so), plain
    variant: str
    field: str


def read_limits(headers: Mapping[str, str], now_wall: float) -> dict[str, Stated]:
    """Return what the headers of a reply state, by kind of limit; of two statements for one kind, the tighter.

    Names are lower-case; `now_wall` is the time in seconds since 1970, for resets given as a time. What cannot be read
    is as if it were not there; values of 0 and below mean that a limit is not known.

    No header says per what time its limit is. `per_minute` is stated only where the numbers agree with a minute:

    - Names with a kind (OpenAI, Groq, Azure, Anthropic): a bucket that refills all the time, `reset` being when it is
      full again. So reset * limit / (limit - remaining) is the time in which all of it refills. Groq's
      `limit-requests: 14400, remaining: 14399, reset: 6s` refills in a day: its 10 a minute are no limit on sending
      while 14,399 remain, and 14,400 a minute are not its limit either, so per_minute is None. A factor of two is
      allowed, and an error of one in the last place of a reset, which a whole second makes large.
    - Names with `-minute` (Mistral, Cerebras) say so. Limits per day or hour are left out.
    - Plain names (OpenRouter, Together, the IETF draft): a window at whose end, `reset`, all comes back. A window
      length that is given (`100;w=60`) is believed up to two minutes. Without one, a reset of up to a minute means a
      minute, but within the last second it may as well be a limit per second: None.

    None therefore means that this reply does not tell, not that there is no limit: what earlier replies told holds.
    """
    raw = getattr(headers, "raw", None)  # httpx's: to decode the names one by one costs four times as much
    if raw is not None and b"ratelimit" not in b" ".join([name for name, _ in raw]).lower():
        return {}
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for name in headers:
        if "ratelimit" in name and (place := _place(name)):
            found.setdefault((place.kind, place.way, place.variant), {})[place.field] = headers[name]
    limits: dict[str, Stated] = {}
    for (kind, way, _), texts in found.items():
        if stated := _read(kind, way, texts, now_wall):
            limits[kind] = _tighter(limits[kind], stated) if kind in limits else stated
    return limits


@functools.lru_cache(256)
def _place(name: str) -> _Place | None:
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    field, kind, suffix, anthropic_kind, anthropic_field, plain_field = match.groups()
    if plain_field:
        return _Place("requests", "plain", name[: -len(plain_field)], plain_field)
    if anthropic_kind:
        return _Place(KINDS[anthropic_kind], "bucket", "anthropic", anthropic_field)
    return _Place(KINDS[kind], "minute" if suffix == "-minute" else "bucket", suffix or "", field)


def _read(kind: str, way: str, texts: Mapping[str, str], now_wall: float) -> Stated | None:
    limit = _number(texts.get("limit", "")) or None
    remaining = _number(texts.get("remaining", ""))
    if remaining == 0 and limit is None:
        remaining = None
    reset, precision = _reset(texts.get("reset", ""), now_wall)
    per_minute = limit
    if limit is not None and way == "bucket":
        per_minute = limit if _refills_in_a_minute(limit, remaining, reset, precision) else None
    elif limit is not None and way == "plain":
        per_minute = _per_minute(limit, texts["limit"], reset)
    if per_minute is remaining is reset is None:
        return None
    return Stated(kind, per_minute, remaining, reset)


def _refills_in_a_minute(limit: float, remaining: float | None, reset: float | None, precision: float) -> bool:
    if reset is None:
        return True
    if reset > LONGEST_RESET_SECONDS:
        return False
    if remaining is None or remaining >= limit:
        return True
    shortest, longest = ((reset + error) * limit / (limit - remaining) for error in (-precision, precision))
    return shortest <= WINDOW_SECONDS[1] and longest >= WINDOW_SECONDS[0]


def _per_minute(limit: float, text: str, reset: float | None) -> float | None:
    for quota, seconds in _POLICY.findall(text):
        if float(quota) == limit:
            return limit * 60 / int(seconds) if 0 < int(seconds) <= LONGEST_RESET_SECONDS else None
    return limit if reset is not None and 1 < reset <= 61 else None


def _tighter(one: Stated, other: Stated) -> Stated:
    rates = [stated.per_minute for stated in (one, other) if stated.per_minute is not None]
    left = min(one, other, key=lambda stated: float("inf") if stated.remaining is None else stated.remaining)
    return Stated(one.kind, min(rates, default=None), left.remaining, left.reset_seconds)


def _number(text: str) -> float | None:
    """Return the first number of a header; None unless it is plain and not negative."""
    match = _NUMBER.match(text)
    return float(match[1]) if match else None


def _reset(text: str, now_wall: float) -> tuple[float | None, float]:
    """Return in how many seconds a quota is back, None when not said, and how exact that is."""
    text = text.strip()[:64]
    precision = 0.001 if "." in text or text.endswith(("ms", "us", "µs", "ns")) else 1.0
    seconds: float | None = None
    if _DURATION.fullmatch(text):
        seconds = sum(float(value) * _UNITS[unit] for value, unit in _PART.findall(text))
    elif (number := _NUMBER.fullmatch(text)) is not None:
        seconds = float(number[1])
        if seconds > EPOCH_MILLISECONDS:
            seconds /= 1000
        if seconds > EPOCH_SECONDS:
            seconds = max(0.0, seconds - now_wall)
    elif "T" in text:
        seconds = _seconds_until(text, now_wall)
    if seconds is None or not isfinite(seconds) or seconds > MONTH_SECONDS:
        return None, precision
    return seconds, precision


def _seconds_until(text: str, now_wall: float) -> float | None:
    try:
        at = datetime.fromisoformat(text)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_wall)
    except (ValueError, OverflowError):
        return None
