"""Sets of rules for the usual kinds of dataset."""

from collections.abc import Mapping, Sequence

from distillgen.recipe import RuleSetting

PRESETS: Mapping[str, Sequence[RuleSetting]] = {
    "chat": ("not_empty", "not_truncated", "not_refusal"),
}
