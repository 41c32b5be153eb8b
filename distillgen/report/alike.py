"""Rows that were left out because they resemble a kept one: which one, how much, and the largest groups of them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

DUPLICATES = {"exact_duplicate", "near_duplicate", "semantic_duplicate", "held_out"}
MOST_GROUPS = 10
MEMBERS = 5  # rows of a group that are shown
MOST_TEXT = 300  # characters of a member's text
_LIKE = re.compile(r"of (.+?)(?: \([^()]+\))?(?:, (?:Jaccard|cosine) ([0-9.]+))?", re.DOTALL)


@dataclass(frozen=True)
class Likeness:
    """The kept row that a row is like, by name, and their similarity, 0 to 1: 1 when they are equal.

    The name is an id; in a mix `ID of NAME@N`, as the part knows it; of other datasets and files what they are called.
    """

    kept: str
    similarity: float


def likeness_of(record: Mapping[str, Any]) -> Likeness | None:
    """Return whom the record of a row that was left out names; None when it was left out for another reason."""
    if record.get("rule") not in DUPLICATES:
        return None
    found = _LIKE.fullmatch(record["detail"])
    return None if found is None else Likeness(found[1], float(found[2] or 1))


def names_of(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names under which others may name the row of a record."""
    yield record["id"]
    for step in record["steps"]:
        if "from" in step:  # of a mix
            yield f"{step.get('id', record['id'])} of {step['from']}"


@dataclass
class Groups:
    """How many rows are like each kept row, and the least that one of them resembles it. 60 bytes for each kept row."""

    counts: Counter[str] = field(default_factory=Counter)
    least: dict[str, float] = field(default_factory=dict)

    def note(self, record: Mapping[str, Any]) -> None:
        """Take a record of a row that was left out in, if it is like another."""
        if (like := likeness_of(record)) is not None:
            self.counts[like.kept] += 1
            self.least[like.kept] = min(like.similarity, self.least.get(like.kept, 1.0))

    def largest(self) -> list[tuple[str, int, float]]:
        """Return (kept row, rows like it that were left out, least similarity), the largest groups first."""
        return [(kept, count, self.least[kept]) for kept, count in self.counts.most_common(MOST_GROUPS)]


@dataclass(frozen=True)
class Member:
    """A row of a group: its id, how similar it is to the kept one (None: it is the kept one), and its text, cut."""

    id: str
    similarity: float | None
    text: str


def members_of(
    groups: Groups, recipe: Mapping[str, Any], kept: Iterator[dict[str, Any]], left_out: Iterator[dict[str, Any]]
) -> dict[str, list[Member]]:
    """Return the first rows of the largest groups by the kept row's name, the kept row before them where it is known.

    `kept` and `left_out` are records of published and of rejected rows.
    """
    found: dict[str, list[Member]] = {name: [] for name, _, _ in groups.largest()}
    columns: dict[str, list[str]] = {}
    for record in left_out if found else ():
        like = likeness_of(record)
        if like is not None and like.kept in found and len(found[like.kept]) < MEMBERS:
            columns.setdefault(like.kept, _compared(recipe, record["step"]))
            found[like.kept].append(_member(record, like.similarity, columns[like.kept]))
    missing = set(found)
    for record in kept if found else ():
        for name in missing.intersection(names_of(record)):
            missing.discard(name)
            found[name].insert(0, _member(record, None, columns.get(name, [])))
        if not missing:
            break
    return found


def _member(record: Mapping[str, Any], similarity: float | None, columns: list[str]) -> Member:
    texts = record["columns"]
    shown = [texts[name] for name in columns if name in texts] or list(texts.values())
    text = " / ".join(value for value in shown if isinstance(value, str))
    return Member(record["id"], similarity, text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…")


def _compared(recipe: Mapping[str, Any], step: str) -> list[str]:
    """Return the columns that a step of a recipe compares rows by, nothing where it does not say."""
    number, steps = step.partition(".")[0], recipe.get("steps")
    if not isinstance(steps, list) or not number.isdecimal() or not 1 <= int(number) <= len(steps):
        return []
    on = steps[int(number) - 1].get("on") or []
    return [on] if isinstance(on, str) else [str(name) for name in on]
