"""Rule `not_refusal`: answers that decline to do what was asked.

Its phrases are in `refusal.toml`; they are compiled when the first answer begins with one of a language's needles.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from distillgen.rows import Row
from distillgen.steps.rules.phrases import Phrases, lowered
from distillgen.steps.text import text_of
from distillgen.steps.written import record_of

BEGINNING = 300  # characters in which a refusal begins
LONGEST = 2_000  # an answer longer than this gives something, whatever it begins with
HELP = 200  # characters behind "however, I can": less announces help and gives none
SHORT = 240  # characters of an answer that may end in its refusal

_PHRASES = Phrases(Path(__file__).with_name("refusal.toml"))
_PUNCTUATION = r"[\s,.;:!—–\-，、。！…،]"
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "「": "」", "'": "'"}
_BUT = "but|aber|mais|pero|mas|ma|maar|ale|но|لكن|ولكن|但"
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？]|\n")


def not_refusal(row: Row, *, column: str) -> str | None:
    """Refuse answers that decline to do what was asked, and those that the server marks as refused.

    Known are English, German, French, Spanish, Portuguese, Italian, Dutch, Polish, Chinese, Japanese, Russian, Korean,
    Arabic and Hindi. A refusal is looked for where it stands: at the start, behind an apology or another short lead
    ("As an AI, ..."), at the start of the second sentence, and at the end of an answer of at most 240 characters. The
    speaker must be the one who cannot, and what it cannot do must be an assistant's business; so "I cannot attend" in
    a letter, a quoted refusal, and "I can't" further down survive, and so does an answer that goes on to help
    ("however, I can ..." and 200 characters more; or over 2,000 in all). The phrases are our own, precision and recall
    are measured (docs/quality.md); the idea is that of the string matching of AdvBench and XSTest (arXiv 2307.15043,
    2308.01263).
    """
    if (record_of(row.trail, column) or {}).get("refused"):
        return "the server marked the reply as a refusal"
    text = text_of(row, column)
    if len(text) > LONGEST:
        return None
    found = _refusal(text)
    return f"{column} declines: {found[:100]!r}" if found else None


def _refusal(text: str) -> str | None:
    """Return the words with which a text declines."""
    languages = _PHRASES.languages_of(lowered(text[:BEGINNING]))
    if not languages:
        return None
    plain = _unwrapped(text)
    low = lowered(plain)
    for language in languages:
        found = _declines(language, low)
        if found and not _helps(language, low, found.end()):
            return (plain if len(plain) == len(low) else low)[found.start() : found.end() + 40].strip()
    return None


def _declines(language: str, low: str) -> re.Match[str] | None:
    """Return where a text declines: at its start, at that of its second sentence, or, if it is short, at its end."""
    patterns = _patterns(language)
    found = patterns["start"].match(low)
    if found:
        return found
    end = _SENTENCE_END.search(low, 0, BEGINNING // 2)
    if end and not low[: end.start()].rstrip().endswith((":", "：")):  # a colon brings in somebody's words
        found = patterns["start"].match(low, end.end())
    if not found and len(low) <= SHORT and "last" in patterns:
        found = patterns["last"].match(low)
    return found


def _helps(language: str, low: str, start: int) -> bool:
    """Say whether a text that declined goes on to help."""
    found = _patterns(language)["helps"].search(low, start)
    return found is not None and len(low) - found.end() >= HELP


def _unwrapped(text: str) -> str:
    """Return a text without white space, marks of emphasis, a code fence or quotation marks around all of it."""
    plain = text.strip()
    if plain.startswith("```"):
        plain = plain.partition("\n")[2].removesuffix("```").strip()
    plain = plain.lstrip("*_#> ")
    closing = _QUOTES.get(plain[:1])
    if closing and plain.endswith(closing) and plain.count(closing) <= 2 and len(plain) > 1:
        plain = plain[1:-1].strip()
    return plain


@functools.cache
def _patterns(language: str) -> Mapping[str, re.Pattern[str]]:
    """Return a language's patterns: of a refusal, of help that follows, and of a refusal at the end."""
    phrases = _PHRASES.languages[language]
    lead = f"(?:{'|'.join(phrases['lead'])}){_PUNCTUATION}{{1,3}}(?:(?:{_BUT})\\b ?)?"
    leads = rf"\s*(?:{lead}){{{1 if phrases.get('needs_lead') else 0},3}}"
    core = "|".join([phrases["cannot"] + phrases["serve"], *phrases["declines"]])
    patterns = {"start": f"{leads}(?:{core})", "helps": phrases["helps"]}
    if "last" in phrases:
        patterns["last"] = phrases["last"].replace("{cannot}", phrases["cannot"]).replace("{serve}", phrases["serve"])
    return {name: re.compile(pattern) for name, pattern in patterns.items()}
