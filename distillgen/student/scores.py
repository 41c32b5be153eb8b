"""The arithmetic of an evaluation: which answers are right, how many, and how sure that is. Pure functions of texts.

An answer that is missing, or of which nothing can be read, is wrong; it is never left out. Intervals are percentile
bootstrap intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13): the questions are drawn
anew with replacement, as many as there are, `draws` times from one seed, and the middle `level` of what comes out is
the interval. A difference is paired: the same drawn questions count for both. The bootstrap speaks of the chance in
which questions were asked; it does not know of another training run, another seed or another kind of question. Where
every answer is right its interval has no width, which is a limit of the method and no certainty.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from distillgen.steps.comparing import TAIL, WAYS, NoReference, fenced, stated
from distillgen.steps.mathematics import Mathematics, is_marked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Counts: TypeAlias = NDArray[np.int64]
    Floats: TypeAlias = NDArray[np.float64]

Measure: TypeAlias = Literal["label", "exact", "number", "math", "json"]
Verdict: TypeAlias = Literal["win", "tie", "loss"]

CELLS = 4_000_000  # numbers of one round of draws that are in memory at a time: 32 MB
_JOINERS = ("/", "|", ",", "or ", "and ")
_FEWEST = 2  # questions of which an interval can be had


# -- what is right -------------------------------------------------------------------------------------------------


def label_in(answer: str, labels: Sequence[str]) -> str | None:
    """Return which of the labels an answer states; None when it states none, so that it is unreadable.

    Case, white space, quotes, emphasis and punctuation at the end do not count (as in `verify`, exact). The label may
    be the whole answer, its first line, its first words ("positive, because ..."), what it states as its answer ("the
    answer is positive"), or the field `label` or the only field of a JSON object. A choice that is left open
    ("positive or negative") is unreadable.
    """
    text = _labelled(answer)
    if (exact := text.strip()) in labels:  # first of all: labels may differ by nothing but what else does not count
        return exact
    known = _by_bared(labels)
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return None
    for whole in (text, lines[0]):
        if (label := known.get(_bared(whole))) is not None:
            return label
    if (label := _at_start(_bared(lines[0]), known)) is not None:
        return label
    said = stated(text)
    return _at_start(_bared(said.text), known) if said.start >= 0 else None


def _by_bared(labels: Sequence[str]) -> dict[str, str]:
    """Return the labels by what counts of them; those that are alike in that can be told by their exact text alone."""
    counts = Counter(map(_bared, labels))
    return {bared: label for label in labels if counts[bared := _bared(label)] == 1}


def last_words(answer: str, labels: Sequence[str]) -> str:
    """Return the end of an answer that gives reasons before its label: what follows the last colon of its last line,
    of a line without one the label that it ends with, if any."""
    line = (answer.rstrip().splitlines() or [""])[-1]
    end = line.rpartition(":")[2].strip()
    if label_in(end, labels) is not None:
        return end
    bared = _bared(line)
    fits = [label for label in labels if (found := _bared(label)) and re.search(rf"(?<!\w){re.escape(found)}$", bared)]
    return max(fits, key=len, default=end)


def _labelled(answer: str) -> str:
    """Return the label's text within a JSON object, any other answer as it is."""
    blocks = fenced(answer)
    text = (blocks[-1].text if blocks else answer).strip()
    if not text.startswith("{"):
        return answer
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return answer
    value = found.get("label", next(iter(found.values())) if len(found) == 1 else None)
    return value if isinstance(value, str) else answer


def _at_start(text: str, known: Mapping[str, str]) -> str | None:
    """Return the label that a bared text begins with, the longest there is; None where another one follows it as a
    choice left open."""
    found = _first(text, known)
    if found is None:
        return None
    rest = text[len(found) :].lstrip(" \"'*_`)]}")
    joiner = next((each for each in _JOINERS if rest.startswith(each)), None)
    if joiner is not None:
        other = _first(_bared(rest.removeprefix(joiner)), known)
        if other is not None and other != found:
            return None
    return known[found]


def _first(text: str, known: Mapping[str, str]) -> str | None:
    fits = [each for each in known if each and text.startswith(each) and not text[len(each) : len(each) + 1].isalnum()]
    return max((each for each in fits if text[len(each) : len(each) + 1] not in ("-", "_")), key=len, default=None)


def _bared(text: str) -> str:
    """Return a text without what does not count, as `verify` compares exactly."""
    return WAYS["exact"](text, "", 0.0).got


def labels_of(golds: Sequence[str | None]) -> list[str]:
    """Return the labels of gold answers in the order in which they first come, each spelling once."""
    found: dict[str, str] = {}
    for gold in golds:
        if gold is not None and gold.strip():
            found.setdefault(_bared(gold), gold.strip())
    return list(found.values())


def is_readable(measure: Measure, answer: str | None, labels: Sequence[str] = ()) -> bool:
    """Whether something can be read of an answer in the way of a measure; of mathematics, whether there is any text."""
    if answer is None or not answer.strip():
        return False
    if measure == "label":
        return label_in(answer, labels) is not None
    if measure in ("math", "exact"):
        return bool(_bared(answer))
    try:
        WAYS[measure](answer, answer, 0.0)
    except NoReference:
        return False
    return True


def verdicts(
    measure: Measure,
    answers: Sequence[str | None],
    references: Sequence[str | None],
    labels: Sequence[str] = (),
    *,
    tolerance: float = 0.0,
) -> list[bool | None]:
    """Return for each answer whether it says what its reference says, None where there is no readable reference.

    References are gold answers, or another contestant's for agreement. An answer that is None, empty or unreadable is
    wrong. `tolerance` is relative, for numbers. Mathematics needs `math_verdicts`. Raises ValueError for it.
    """
    if measure == "math":
        raise ValueError("mathematics is compared by math_verdicts")
    found: list[bool | None] = []
    for answer, reference in zip(answers, references, strict=True):
        found.append(None if reference is None else _verdict(measure, answer or "", reference, labels, tolerance))
    return found


def _verdict(measure: Measure, answer: str, reference: str, labels: Sequence[str], tolerance: float) -> bool | None:
    if not reference.strip():
        return None
    if measure == "label":
        want = label_in(reference, labels)
        return None if want is None else label_in(answer, labels) == want
    try:
        judged = WAYS[measure](answer, reference, tolerance)
    except NoReference:
        return None
    return judged.is_right


async def math_verdicts(
    mathematics: Mathematics, answers: Sequence[str | None], references: Sequence[str | None]
) -> list[bool | None]:
    """Return `verdicts` of mathematics, by math-verify in processes of its own, which the caller closes.

    Raises OSError when no process can be started.
    """
    import asyncio

    async def one(answer: str | None, reference: str | None) -> bool | None:
        if reference is None or not reference.strip():
            return None
        text = (answer or "")[-TAIL:]
        compared = await mathematics.compare(
            text if is_marked(text) else stated(text).text.strip(), reference[-TAIL:]
        )  # fmt: skip
        if compared.trouble:
            return False
        return compared.is_right if compared.want else None

    return list(await asyncio.gather(*map(one, answers, references)))


# -- counts --------------------------------------------------------------------------------------------------------


def rates(label: str, golds: Sequence[str], saids: Sequence[str | None]) -> dict[str, Any]:
    """Return precision, recall and F1 of a label, how often it is the gold and how often it was said; 0/0 is 0."""
    gold, said = sum(each == label for each in golds), sum(each == label for each in saids)
    both = sum(want == got == label for want, got in zip(golds, saids, strict=True))
    return {
        "precision": both / said if said else 0.0,
        "recall": both / gold if gold else 0.0,
        "f1": 2 * both / (gold + said) if gold + said else 0.0,
        "gold": gold,
        "said": said,
    }


def per_label(golds: Sequence[str], saids: Sequence[str | None], labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the rates of each label. Golds and saids are labels as `label_in` returns them, None for unreadable."""
    return {label: rates(label, golds, saids) for label in labels}


def macro_f1(golds: Sequence[str], saids: Sequence[str | None]) -> float | None:
    """Return the mean F1 of the labels that are in the gold, each as much as another; None without questions."""
    labels = list(dict.fromkeys(golds))
    return sum(rates(label, golds, saids)["f1"] for label in labels) / len(labels) if labels else None


def pair_score(as_first: Verdict, as_second: Verdict) -> float:
    """Return what one contestant has of a pair that was judged in both orders: 1 for a win in both, 0 for a loss in
    both, else 0.5, since a judge that goes by the place has not decided (Zheng et al. 2023, section 3.4)."""
    return {"win": 1.0, "loss": 0.0}.get(as_first, 0.5) if as_first == as_second else 0.5


def judged(pairs: Sequence[tuple[Verdict, Verdict]], bootstrap: "Bootstrap") -> dict[str, Any]:
    """Return wins, ties, losses, pairs and the win rate with its interval, of verdicts in both orders."""
    scores = [pair_score(*pair) for pair in pairs]
    counted = Counter(scores)
    return {
        "wins": counted[1.0], "ties": counted[0.5], "losses": counted[0.0], "pairs": len(pairs),
        "win_rate": bootstrap.mean(scores).dump(),
    }  # fmt: skip


# -- how sure --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its interval. No questions: no figure. One: no interval."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def dump(self) -> dict[str, float | None]:
        """Return it for programs."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Percentile intervals. The same seed and questions give the same interval, whoever is first in a difference.

    How often each of n questions is drawn is multinomial, and so it is for kinds of questions that are alike in all
    that is counted: a draw costs as many numbers as there are kinds, which are few for verdicts and labels.
    """

    draws: int = 10_000
    seed: int = 0
    level: float = 0.95

    def dump(self) -> dict[str, Any]:
        """Return it for programs."""
        return {"draws": self.draws, "seed": self.seed, "level": self.level}

    def mean(self, values: Sequence[float | bool | None]) -> Estimate:
        """Return the mean of values, a share where they are yes and no; those that are None do not count."""
        known = [float(value) for value in values if value is not None]
        return self._estimate(known, _mean_of)

    def difference(self, of: Sequence[float | bool | None], from_: Sequence[float | bool | None]) -> Estimate:
        """Return how much the mean of one is above the other's, question by question; None in either does not count."""
        pairs = [
            (float(one), float(other))
            for one, other in zip(of, from_, strict=True)
            if one is not None and other is not None
        ]
        return self._estimate(pairs, _difference_of)

    def macro_f1(self, golds: Sequence[str], saids: Sequence[str | None]) -> Estimate:
        """Return the macro F1, of the labels that are in the gold that was drawn."""
        return self._estimate(list(zip(golds, saids, strict=True)), _f1_of)

    def _estimate(
        self, questions: Sequence[Hashable], statistic: "Callable[[Sequence[Any]], Callable[[Counts], Floats]]"
    ) -> Estimate:
        """Return a statistic of all questions and its interval.

        `statistic` takes the kinds of questions, and gives what returns the figure of each draw from how often each
        kind was drawn, shape (draws, kinds). An interval is widened to the figure itself where it does not reach it.
        """
        if not questions:
            return Estimate(None)
        import numpy as np

        kinds = Counter(questions)  # in order of first appearance: who is first in a difference changes no draw
        of = statistic(list(kinds))
        counts = np.array([list(kinds.values())], dtype=np.int64)
        value = float(of(counts)[0])
        if len(questions) < _FEWEST:
            return Estimate(value)
        drawn = np.concatenate([of(counts) for counts in self._drawn(counts[0])])
        outside = (1 - self.level) / 2
        low, high = (float(mark) for mark in np.quantile(drawn, [outside, 1 - outside]))
        return Estimate(value, min(low, value), max(high, value))

    def _drawn(self, counts: "Counts") -> "Iterator[Counts]":
        import numpy as np

        random, total = np.random.default_rng(self.seed), int(counts.sum())
        at_once = max(CELLS // len(counts), 1)
        for start in range(0, self.draws, at_once):
            yield random.multinomial(total, counts / total, size=min(at_once, self.draws - start))


def _mean_of(kinds: Sequence[float]) -> "Callable[[Counts], Floats]":
    import numpy as np

    values = np.array(kinds, dtype=np.float64)

    def means(counts: "Counts") -> "Floats":
        found: Floats = counts @ values / counts.sum(axis=1)
        return found

    return means


def _difference_of(kinds: Sequence[tuple[float, float]]) -> "Callable[[Counts], Floats]":
    return _mean_of([one - other for one, other in kinds])


def _f1_of(kinds: Sequence[tuple[str, str | None]]) -> "Callable[[Counts], Floats]":
    """Return the macro F1 of draws: kinds are pairs of the gold label and what was said."""
    import numpy as np

    labels = list(dict.fromkeys(kind[0] for kind in kinds))
    gold = np.array([[kind[0] == label for label in labels] for kind in kinds], dtype=np.int64)
    said = np.array([[kind[1] == label for label in labels] for kind in kinds], dtype=np.int64)

    def scores(counts: "Counts") -> "Floats":
        of_gold, of_said, both = counts @ gold, counts @ said, counts @ (gold * said)
        f1 = 2 * both / np.maximum(of_gold + of_said, 1)
        there = of_gold > 0
        found: Floats = (f1 * there).sum(axis=1) / there.sum(axis=1)
        return found

    return scores
