"""Figures of a version: how long its rows are, what they scored, what they cost; pictures of them in plain text."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillgen.dataset.looking import records_of, training_rows
from distillgen.dataset.versions import Version

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BARS = "▏▎▍▌▋▊▉█"
BINS = 10


class Lengths:
    """A distribution of whole numbers, 8 bytes each."""

    def __init__(self) -> None:
        self._numbers = array("q")

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: int) -> None:
        """Take one in."""
        self._numbers.append(number)

    @property
    def mean(self) -> float:
        """The arithmetic mean, 0 of nothing."""
        return sum(self._numbers) / len(self._numbers) if self._numbers else 0.0

    def quantiles(self) -> dict[str, int]:
        """Return least, 5 %, quarter, median, three quarters, 95 % and most; nothing of nothing."""
        if not self._numbers:
            return {}
        ordered = sorted(self._numbers)
        return {f"p{round(share * 100)}": ordered[round(share * (len(ordered) - 1))] for share in QUANTILES}

    def histogram(self, bins: int = BINS) -> list[tuple[int, int, int]]:
        """Return (from, to, how many) of bins of equal width; the last holds all from 95 % on."""
        return [(low, high, counts[0]) for low, high, counts in histograms([self], bins)]

    def counted(self, low: int, width: int, last: int) -> Counter[int]:
        """Return how many are in each bin of a width, the first from `low` on; bin `last` holds all from there on."""
        return Counter(min((number - low) // width, last) for number in self._numbers)


def histograms(several: Sequence[Lengths], bins: int = BINS) -> list[tuple[int, int, list[int]]]:
    """Return (from, to, how many of each) of bins of equal width that several share; the last holds all from the
    greatest 95 % on."""
    marks = [lengths.quantiles() for lengths in several if len(lengths)]
    if not marks:
        return []
    low = min(each["p0"] for each in marks)
    high, end = max(low + 1, *(each["p95"] for each in marks)), max(each["p100"] for each in marks)
    width = max(-(-(high - low) // bins), 1)
    counts = [lengths.counted(low, width, bins - 1) for lengths in several]
    last = max(place for found in counts for place in found)
    return [
        (
            low + place * width,
            end if place == last else low + (place + 1) * width - 1,
            [found[place] for found in counts],
        )
        for place in range(last + 1)
    ]


def answer_of(row: Mapping[str, Any]) -> str:
    """Return the text that a student learns to write: the last turn, of a pair that of the better ending."""
    turns = row["messages"] if "messages" in row else row["chosen"]
    text: str = turns[-1]["content"]
    return text


def prompt_of(row: Mapping[str, Any]) -> str:
    """Return the turns before it as one text."""
    turns = row["messages"][:-1] if "messages" in row else row["prompt"]
    return "\n".join(turn["content"] for turn in turns)


@dataclass
class Spent:
    """Replies of one teacher that stand behind published rows, and their tokens."""

    replies: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def add(self, tokens: Mapping[str, int]) -> None:
        """Take a reply in."""
        self.replies += 1
        self.prompt += tokens["prompt"]
        self.completion += tokens["completion"]
        self.cached += tokens.get("cached", 0)


@dataclass
class Figures:
    """The figures of a version's published rows. Lengths are in characters, tokens as the teachers reported them."""

    lengths: dict[str, Lengths] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    spent: dict[str, Spent] = field(default_factory=dict)


def figures_of(version: Version) -> Figures:
    """Return the figures of a version. Raises Damaged."""
    figures = Figures({"prompt": Lengths(), "answer": Lengths(), "reasoning": Lengths()})
    for row in training_rows(version):
        figures.lengths["prompt"].add(len(prompt_of(row)))
        figures.lengths["answer"].add(len(answer_of(row)))
        if row.get("reasoning"):
            figures.lengths["reasoning"].add(len(row["reasoning"]))
    for record in records_of(version, "provenance"):
        _note(record, figures)
    return figures


def _note(record: Mapping[str, Any], figures: Figures) -> None:
    """Take in the scores, labels and replies of a published row. A reply that made several rows counts once a row."""
    for step in record["steps"]:
        for reply in replies_of(step):
            if reply.get("tokens"):
                name = str(reply.get("teacher") or reply.get("judge"))
                figures.spent.setdefault(name, Spent()).add(reply["tokens"])
        for name in ("score", "agreement"):
            if isinstance(step.get(name), int | float):
                figures.scores.setdefault(name, []).append(float(step[name]))
    label = record["columns"].get("label")
    if isinstance(label, str):
        figures.labels.setdefault("label", Counter())[label] += 1


def replies_of(step: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Return the records of the replies behind a step: that of `generate`, those of the judges."""
    return [step] if "key" in step else step.get("scores", ())


def usd_of(version: Version, teacher: str, spent: Spent) -> float | None:
    """Return what replies of a teacher cost, at the prices on record; None when those are not known."""
    stated = version.manifest.run.get("teachers", {}).get(teacher, {}).get("prices")
    if not stated:
        return None
    rate = stated["rates"][0]
    fresh = (spent.prompt - spent.cached) * rate["input"] + spent.cached * rate["cached_input"]
    return float(round((fresh + spent.completion * rate["output"]) / 1e6, 9))


def bar(share: float, width: int = 30, *, is_ascii: bool = False) -> str:
    """Return a bar that is `share` (0 to 1) of `width` characters long, in eighths of a character, or of whole `#`.

    What is more than nothing is seen, however little it is.
    """
    share = min(max(share, 0.0), 1.0)
    if is_ascii:
        return "#" * max(round(share * width), 1 if share else 0)
    full, rest = divmod(max(round(share * width * 8), 1 if share else 0), 8)
    return BARS[-1] * full + (BARS[rest - 1] if rest else "")
