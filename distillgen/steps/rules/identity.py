"""Rule `teacher_identity`: answers that speak of themselves as a model or as a maker's product.

Its phrases are in `identity.toml`; they are compiled when the first text has one of a language's needles.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillgen.rows import Row
from distillgen.steps.rules.phrases import Phrases, lowered
from distillgen.steps.rules.verdict import Context, RuleProblem
from distillgen.steps.text import text_of

_PHRASES = Phrases(Path(__file__).with_name("identity.toml"))
# What is said in quotation marks is somebody's words, unless the whole answer stands in them.
_NOT_QUOTED = r"(?:(?<![\"“„«「『《`])(?<![\s(]')|(?<=\A.))"


def teacher_identity(row: Row, *, column: str, names: list[str] = []) -> str | None:  # noqa: B006  (never changed)
    """Refuse answers that speak of themselves as a model or a maker's product: they teach the student a wrong self.

    "As an AI language model, I ...", "I am ChatGPT", "I was created by Alibaba Cloud", "my knowledge cutoff", anywhere
    in the text, in English, German, French, Spanish, Portuguese, Italian, Dutch, Polish, Chinese, Japanese, Russian,
    Korean, Arabic and Hindi. Only the first person counts: an answer about OpenAI or Qwen survives, and so does what
    stands in quotation marks. `names` adds products and makers. The idea is that of the lists of unwanted words with
    which the ShareGPT and WizardLM "unfiltered" sets were cleaned (`optional_clean.py` of
    https://huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered); the phrases are our own.
    """
    text = text_of(row, column)
    low = lowered(text)
    for language in _PHRASES.languages_of(low):
        if found := _pattern(language, *names).search(low):
            words = text if len(text) == len(low) else low  # a few letters change their number in lower case
            return f"{column} speaks of itself as a model: {words[found.start() : found.end()][:80]!r}"
    return None


def check_identity(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for a name that is none."""
    if any(not name.strip() for name in given.get("names", [])):
        raise RuleProblem("rule 'teacher_identity': a name is empty", "names")


@functools.lru_cache(maxsize=256)
def _pattern(language: str, *names: str) -> re.Pattern[str]:
    """Return a language's patterns as one, with the lists of makers and products filled in."""
    phrases = _PHRASES.languages[language]
    own = [re.escape(lowered(name.strip())) for name in names]
    filled = "|".join(phrases["patterns"]).replace("{model}", phrases["model"]).replace("{end}", phrases.get("end", ""))
    for what, more in (("maker", own), ("product", own), ("shared", [])):
        filled = filled.replace(f"{{{what}}}", f"(?:{'|'.join([*_PHRASES.contents[what], *more])})")
    return re.compile(f"{_NOT_QUOTED}(?:{filled})")
