"""Sets of rules for the usual kinds of dataset.

None needs an optional package, so `language` and `reasoning_language` are for the recipe to add. The cheap rules and
those that say most about a row come first: the first that refuses it gives the reason.
"""

from collections.abc import Mapping, Sequence

from distillgen.step_settings import RuleSetting

# What no student should learn, whatever the answers are about.
_CHAT: Sequence[RuleSetting] = (
    "not_empty",
    "not_truncated",
    "not_refusal",
    "special_tokens",
    "teacher_identity",
    "prompt_leak",
    "repetition",
)

PRESETS: Mapping[str, Sequence[RuleSetting]] = {
    "chat": _CHAT,
    # The trace is trained on as well. It may go over the same ground again, but not for ever; that it was not cut off
    # is known from the answer, which comes after it.
    "reasoning": (
        *_CHAT,
        {"rule": "not_empty", "column": "reasoning"},
        {"rule": "special_tokens", "column": "reasoning"},
        {
            "rule": "repetition", "column": "reasoning", "loop": 8, "lines": 0.7, "paragraphs": 0.7, "sentences": 0.7,
            "top_ngrams": [0.6, 0.6, 0.6], "duplicate_ngrams": [0.8, 0.75, 0.7, 0.65, 0.6, 0.55],
        },
    ),
    # A label is short; the rest of `chat` is about prose.
    "labels": (
        "not_empty",
        "not_truncated",
        "special_tokens",
        {"rule": "length", "max_words": 20},
    ),
    # When there are rows enough and few must be bad. Lengths in characters: not every script has spaces.
    "strict": (
        *(setting for setting in _CHAT if setting != "repetition"),
        {"rule": "length", "min_chars": 20, "max_chars": 20_000},
        {
            "rule": "repetition", "loop": 4, "lines": 0.3, "paragraphs": 0.3, "sentences": 0.3,
            "top_ngrams": [0.4, 0.4, 0.4], "duplicate_ngrams": [0.5, 0.45, 0.4, 0.35, 0.3, 0.25],
        },
        {"rule": "pii", "action": "drop"},
    ),
}  # fmt: skip
