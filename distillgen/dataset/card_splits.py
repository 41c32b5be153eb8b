"""Under which names, and from which files, `datasets` opens the splits of a version."""

import re
from collections.abc import Collection, Iterable

# What `datasets` takes for the name of a split (`_split_re` in its naming.py); `all` it keeps for itself.
_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)
_RESERVED = "all"
_FIVE = "[0-9]" * 5


def names_when_loaded(splits: Iterable[str]) -> dict[str, str]:
    """Return the name that each split has when `datasets` has opened it: its own, where `datasets` takes that."""
    ordered = list(splits)
    names = {split: split for split in ordered if _NAME.fullmatch(split) and split != _RESERVED}
    for split in ordered:
        if split not in names:
            name = re.sub(r"\W+", "_", split, flags=re.ASCII) if split != _RESERVED else f"{_RESERVED}_rows"
            while name in names.values():
                name += "_"
            names[split] = name
    return {split: names[split] for split in ordered}


def pattern(split: str, splits: Collection[str]) -> str:
    """Return which files of a version are a split's, and no other's: `train-*` would take `train-more-...` too."""
    is_ambiguous = any(other.startswith(f"{split}-") for other in splits)
    return f"data/{split}-{_FIVE}-of-{_FIVE}.jsonl" if is_ambiguous else f"data/{split}-*.jsonl"
