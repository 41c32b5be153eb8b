"""Finds the reply that wrote a column of a row, through exchanges of pairs and into `chosen` and `rejected`."""

from collections.abc import Mapping, Sequence
from typing import Any


def record_of(trail: Sequence[Mapping[str, Any]], column: str) -> Mapping[str, Any] | None:
    """Return what is on record of the step that wrote the text which now stands in a column, None when none did."""
    for place in range(len(trail) - 1, -1, -1):
        record = trail[place]
        if record.get("exchanged") and column in record["pair"]:  # see judge.py
            one, other = record["pair"]
            column = other if column == one else one
        elif record.get("keep") == "pair" and column in ("chosen", "rejected"):  # see select.py
            if column == "rejected":
                return record_of([*trail[:place], *record["rejected"]["steps"]], record["on"])
            column = record["on"]
        elif column in record.get("wrote", ()):
            return record
    return None
