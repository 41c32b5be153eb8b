"""How often each label occurs in a version whose student learns to write one of a few labels."""

from collections import Counter
from collections.abc import Iterable, Mapping

import orjson

MOST_LABELS = 50
LONGEST_LABEL = 60  # characters
ROWS_A_LABEL = 5  # on average, or a few short answers would be taken for labels


def count_labels(splits: Mapping[str, Iterable[bytes]]) -> dict[str, dict[str, int]]:
    """Return of each split label -> rows, by label; nothing where the answers are no labels.

    `splits` gives the lines of each split's data files. They are labels when in all splits together they are at most
    `MOST_LABELS` different texts of one line each, and come `ROWS_A_LABEL` times on average. Reading stops at the first
    line that cannot be, which of a dataset of other answers is one of the first few dozen.
    """
    found: dict[str, Counter[str]] = {}
    every: set[str] = set()
    for split, lines in splits.items():
        counts = found.setdefault(split, Counter())
        for line in lines:
            label = _label(line)
            if label is None:
                return {}
            if label not in every:
                every.add(label)
                if len(every) > MOST_LABELS:
                    return {}
            counts[label] += 1
    if sum(counts.total() for counts in found.values()) < ROWS_A_LABEL * len(every):
        return {}
    return {split: dict(sorted(counts.items())) for split, counts in found.items() if counts}


def _label(line: bytes) -> str | None:
    """Return what the student learns to write, None where it cannot be a label. Pairs have none."""
    turns = orjson.loads(line).get("messages")
    answer = turns[-1]["content"] if turns else None
    is_label = isinstance(answer, str) and 1 <= len(answer) <= LONGEST_LABEL and len(answer.splitlines()) == 1
    return answer if is_label else None
