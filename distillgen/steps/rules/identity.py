"""Rule `teacher_identity`: answers that speak of themselves as a model or as a maker's product.

Its phrases are in `identity.toml`; they are compiled when the first text has one of a language's needles.
"""

import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillgen.rows import Row
from distillgen.steps.rules.verdict import Context, RuleProblem
from distillgen.steps.text import text_of

# What is said in quotation marks is somebody's words, unless the whole answer stands in them.
_NOT_QUOTED = r"(?:(?<![\"“„«「『《`])(?<![\s(]')|(?<=\A.))"


def teacher_identity(row: Row, *, column: str, names: list[str] = []) -> str | None:  # noqa: B006  (never changed)
    """Refuse answers that speak of themselves as a model or a maker's product: they teach the student a wrong self.

    "As an AI language model, I ...", "I am ChatGPT", "I was created by Alibaba Cloud", "my knowledge cutoff", in English,
    German, French, Spanish, Portuguese, Italian, Dutch, Polish, Chinese, Japanese, Russian, Korean, Arabic and Hindi,
    anywhere in the text. Only the first person counts: an answer about OpenAI or Qwen survives, and so does what stands
    in quotation marks. `names` adds products and makers. The idea is that of the cleaning of ShareGPT conversations for
    Vicuna and WizardLM (https://github.com/lm-sys/FastChat, optional_clean.py); the phrases are our own.
    """
    text = text_of(row, column)
    lowered = text.lower().replace("’", "'")
    for language in _languages_of(lowered, text.isascii()):
        if found := _pattern(language, *names).search(lowered):
            words = text if len(text) == len(lowered) else lowered  # a few letters change their number in lower case
            return f"{column} speaks of itself as a model: {words[found.start() : found.end()][:80]!r}"
    return None


def check_identity(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for a name that is none."""
    if any(not name.strip() for name in given.get("names", [])):
        raise RuleProblem("rule 'teacher_identity': a name is empty", "names")


@functools.cache
def _phrases() -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_name("identity.toml").read_text(encoding="utf-8"))


def _languages_of(lowered: str, ascii_only: bool) -> list[str]:
    """Return the languages of which a needle stands in a text."""
    found = {
        language
        for start, needles in _needles(ascii_only)
        if start in lowered
        for needle, language in needles
        if needle in lowered
    }
    return sorted(found)


@functools.cache
def _needles(ascii_only: bool) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (needle, language) grouped by their first three letters, so that most texts are through with 50 look-ups.

    `ascii_only`: those that a text in ASCII can hold.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for language, phrases in _phrases()["languages"].items():
        for needle in phrases["needles"]:
            if needle.isascii() or not ascii_only:
                groups.setdefault(needle[:3], []).append((needle, language))
    return list(groups.items())


@functools.lru_cache(maxsize=256)
def _pattern(language: str, *names: str) -> re.Pattern[str]:
    phrases = _phrases()
    own = [re.escape(name.strip().lower().replace("’", "'")) for name in names]
    filled = "|".join(phrases["languages"][language]["patterns"])
    filled = filled.replace("{model}", phrases["languages"][language]["model"])
    filled = filled.replace("{end}", phrases["languages"][language].get("end", ""))
    for what in ("maker", "product", "shared"):
        listed = phrases[what if what == "shared" else f"{what}s"] + (own if what != "shared" else [])
        filled = filled.replace(f"{{{what}}}", f"(?:{'|'.join(listed)})")
    return re.compile(f"{_NOT_QUOTED}(?:{filled})")
