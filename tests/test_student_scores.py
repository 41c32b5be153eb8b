"""The arithmetic of an evaluation, against cases counted by hand, laws that hold for any answers, and a simulation."""

import asyncio
import importlib.util
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillgen.student.scores import (
    Bootstrap,
    Estimate,
    Measure,
    is_readable,
    judged,
    label_in,
    labels_of,
    last_words,
    macro_f1,
    math_verdicts,
    pair_score,
    per_label,
    rates,
    verdicts,
)

LABELS = ["positive", "negative"]
QUICK = Bootstrap(draws=400)


# -- what is right -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        pytest.param("positive", "positive", id="the-label"),
        pytest.param(" Positive.\n", "positive", id="case-space-and-a-point"),
        pytest.param("**NEGATIVE**", "negative", id="emphasis"),
        pytest.param("“negative”", "negative", id="typographic-quotes"),
        pytest.param("ｐｏｓｉｔｉｖｅ", "positive", id="wide-letters"),
        pytest.param("positive\n\nbecause it praises the food, not negative at all", "positive", id="first-line"),
        pytest.param("\n\n  negative\nso", "negative", id="first-line-that-is-not-empty"),
        pytest.param("positive, because it praises", "positive", id="first-word"),
        pytest.param("positive, not negative", "positive", id="and-what-it-is-not"),
        pytest.param("Positive. And negative words are missing", "positive", id="another-sentence"),
        pytest.param("positive, positive, positive", "positive", id="the-same-again-and-again"),
        pytest.param("positive - it praises", "positive", id="dash"),
        pytest.param("It praises the food.\nThe answer is **positive**.", "positive", id="stated-as-the-answer"),
        pytest.param('{\n  "label": "negative"\n}', "negative", id="json"),
        pytest.param('```json\n{"sentiment": "negative"}\n```', "negative", id="json-of-one-field-in-a-fence"),
        pytest.param('{"rationale": "positive words", "label": "negative"}', "negative", id="json-with-a-rationale"),
        pytest.param('{"rationale": "positive words", "sentiment": "negative"}', None, id="json-of-two-other-fields"),
        pytest.param('{"label": 1}', None, id="json-of-a-number"),
        pytest.param('{"label": "posi', None, id="json-cut-off"),
        pytest.param("", None, id="empty"),
        pytest.param(" \n\t", None, id="blank"),
        pytest.param("neutral", None, id="no-label"),
        pytest.param("positively so", None, id="a-longer-word"),
        pytest.param("positive-ish", None, id="a-hyphen"),
        pytest.param("positive/negative", None, id="both"),
        pytest.param("positive or negative?", None, id="the-question-said-again"),
        pytest.param("positive, negative", None, id="a-list"),
        pytest.param("I cannot say", None, id="a-refusal"),
        pytest.param("[" * 100_000, None, id="deep"),
    ],
)
def test_a_label_is_read(answer: str, label: str | None) -> None:
    assert label_in(answer, LABELS) == label
    assert is_readable("label", answer, LABELS) == (label is not None)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        pytest.param("Good food.\n\nLabel: positive", "positive", id="after-a-colon"),
        pytest.param("Good food. So it is **positive**.", "positive", id="at-the-end"),
        pytest.param("positive at first\nwhat a pity", None, id="not-at-the-end"),
        pytest.param("it is unpositive", None, id="part-of-a-word"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_a_label_is_read_at_the_end(answer: str, label: str | None) -> None:
    assert label_in(last_words(answer, LABELS), LABELS) == label


def test_labels_that_differ_by_little_are_told_apart() -> None:
    for label in ("US", "us", "spam", "spam?"):
        assert label_in(f" {label}\n", ["US", "us", "spam", "spam?"]) == label
    assert label_in("Us.", ["US", "us"]) is None, "it may be either"
    assert label_in("Spam!", ["spam", "ham"]) == "spam"


def test_the_longest_label_counts() -> None:
    labels = ["very", "very negative", "non-answer", "42"]
    assert label_in("Very negative. Bad.", labels) == "very negative"
    assert label_in("very good", labels) == "very"
    assert label_in("42: so it is", labels) == "42"
    assert label_in("423", labels) is None


def test_labels_are_those_of_the_gold_once_each() -> None:
    assert labels_of(["Positive", "negative", None, "positive ", "", "neutral"]) == ["Positive", "negative", "neutral"]


@pytest.mark.parametrize(
    ("measure", "answer", "gold", "verdict"),
    [
        pytest.param("label", "positive.", "Positive", True, id="label-right"),
        pytest.param("label", "negative", "positive", False, id="label-wrong"),
        pytest.param("label", "well", "positive", False, id="label-unreadable-is-wrong"),
        pytest.param("label", None, "positive", False, id="label-missing-is-wrong"),
        pytest.param("label", "positive", "neutral", None, id="gold-that-is-no-label"),
        pytest.param("exact", "The  ANSWER.", "the answer", True, id="exact-right"),
        pytest.param("exact", "an answer", "the answer", False, id="exact-wrong"),
        pytest.param("exact", "", "the answer", False, id="exact-empty"),
        pytest.param("exact", "x", " ", None, id="no-gold"),
        pytest.param("exact", "x", None, None, id="none-for-gold"),
        pytest.param("number", "so it is 1,234.0", "1234", True, id="number-right"),
        pytest.param("number", "12", "13", False, id="number-wrong"),
        pytest.param("number", "I do not know", "13", False, id="number-unreadable"),
        pytest.param("number", "13", "thirteen", None, id="gold-without-number"),
        pytest.param("json", '{"b": 1, "a": [1.0]}', '{"a": [1], "b": 1}', True, id="json-right"),
        pytest.param("json", '{"a": true}', '{"a": 1}', False, id="json-wrong"),
        pytest.param("json", "no", '{"a": 1}', False, id="json-unreadable"),
        pytest.param("json", "1", "{", None, id="gold-that-is-no-json"),
    ],
)
def test_an_answer_is_right_or_wrong(
    measure: Measure, answer: str | None, gold: str | None, verdict: bool | None
) -> None:
    assert verdicts(measure, [answer], [gold], LABELS) == [verdict]


def test_a_number_may_be_nearly_right() -> None:
    assert verdicts("number", ["101"], ["100"], tolerance=0.01) == [True]
    assert verdicts("number", ["101"], ["100"]) == [False]


@pytest.mark.parametrize(
    ("measure", "answer", "is_one"),
    [("number", "7", True), ("number", "seven", False), ("json", "[]", True), ("json", "[", False),
     ("exact", "x", True), ("exact", " ", False), ("math", "$x$", True), ("math", None, False)],
)  # fmt: skip
def test_what_can_be_read(measure: Measure, answer: str | None, is_one: bool) -> None:
    assert is_readable(measure, answer) is is_one


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed")
def test_mathematics_is_compared_by_its_meaning() -> None:
    from distillgen.steps.mathematics import Mathematics

    async def compared() -> list[bool | None]:
        mathematics = Mathematics()
        try:
            answers = ["so $\\boxed{\\frac{1}{2}}$", "$x+1$", None, "$3$"]
            return await math_verdicts(mathematics, answers, ["$0.5$", "$x+2$", "$1$", None])
        finally:
            await mathematics.aclose()

    assert asyncio.run(compared()) == [True, False, False, None]
    with pytest.raises(ValueError, match="math_verdicts"):
        verdicts("math", ["1"], ["1"])


# -- counts --------------------------------------------------------------------------------------------------------

GOLDS = ["positive"] * 4 + ["negative"] * 4 + ["neutral"] * 2
SAIDS = ["positive", "positive", "positive", "negative", "negative", "negative", None, "positive", "positive", None]


def test_rates_and_f1_counted_by_hand() -> None:
    """Positive: 3 of 5 said, of 4 gold. Negative: 2 of 3, of 4. Neutral is never said: 0/0."""
    found = per_label(GOLDS, SAIDS, ["positive", "negative", "neutral"])
    assert found["positive"] == pytest.approx({"precision": 3 / 5, "recall": 3 / 4, "f1": 2 / 3, "gold": 4, "said": 5})
    assert found["negative"] == pytest.approx({"precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "gold": 4, "said": 3})
    assert found["neutral"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "gold": 2, "said": 0}
    assert macro_f1(GOLDS, SAIDS) == pytest.approx((2 / 3 + 4 / 7 + 0) / 3)
    assert macro_f1([], []) is None
    assert Bootstrap().macro_f1(GOLDS, SAIDS).value == pytest.approx((2 / 3 + 4 / 7) / 3)


def test_a_label_that_is_only_said_is_not_in_the_macro_f1() -> None:
    assert macro_f1(["a", "a"], ["a", "b"]) == pytest.approx(2 / 3)
    assert rates("b", ["a", "a"], ["a", "b"]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "gold": 0, "said": 1}


@pytest.mark.parametrize(
    ("as_first", "as_second", "score"),
    [("win", "win", 1), ("loss", "loss", 0), ("win", "loss", 0.5), ("loss", "win", 0.5), ("tie", "tie", 0.5),
     ("win", "tie", 0.5), ("tie", "loss", 0.5)],
)  # fmt: skip
def test_a_pair_is_won_in_both_orders_or_not_at_all(as_first: str, as_second: str, score: float) -> None:
    assert pair_score(as_first, as_second) == score  # type: ignore[arg-type]


def test_wins_are_counted() -> None:
    found = judged([("win", "win"), ("win", "loss"), ("loss", "loss"), ("win", "win")], Bootstrap())
    assert (found["wins"], found["ties"], found["losses"], found["pairs"]) == (2, 1, 1, 4)
    assert found["win_rate"]["value"] == 0.625 and 0 <= found["win_rate"]["low"] < 0.625 < found["win_rate"]["high"]
    assert judged([], Bootstrap())["win_rate"] == {"value": None, "low": None, "high": None}


# -- how sure --------------------------------------------------------------------------------------------------------


def test_no_question_has_no_figure_and_one_no_interval() -> None:
    none, one = Estimate(None), Estimate(1.0)
    assert Bootstrap().mean([]) == none == Bootstrap().mean([None, None])
    assert Bootstrap().mean([True]) == one == Bootstrap().mean([None, 1])
    assert Bootstrap().difference([True], [False]) == one and Bootstrap().difference([True], [None]) == none
    assert Bootstrap().macro_f1([], []) == none and Bootstrap().macro_f1(["a"], ["a"]) == one
    assert none.dump() == {"value": None, "low": None, "high": None}


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    """80 of 100 right: the number right in a draw is binomial(100, 0.8), whose 2.5 % and 97.5 % are 72 and 87 (by its
    distribution function: P(X <= 71) = 0.0200, P(X <= 72) = 0.0342; P(X <= 86) = 0.9531, P(X <= 87) = 0.9747,
    P(X <= 88) = 0.9874). At 87 that is a hair's breadth, so 88 may come too."""
    found = Bootstrap().mean([True] * 80 + [False] * 20)
    assert found.value == 0.8 and found.low == pytest.approx(0.72) and found.high in (0.87, 0.88)


def test_a_paired_difference_is_narrower_than_an_unpaired_one() -> None:
    """Two that are right on the same questions but for ten: the pairing takes out what the questions have in common."""
    of, from_ = [True] * 60 + [False] * 40, [True] * 50 + [False] * 50
    found, back = Bootstrap().difference(of, from_), Bootstrap().difference(of, list(reversed(from_)))
    assert found.value == pytest.approx(0.1) and found.low is not None and found.high is not None
    assert back.low is not None and back.high is not None
    assert found.low > 0.03 and found.high < 0.17
    assert back.high - back.low > 1.5 * (found.high - found.low)


def test_the_same_seed_gives_the_same_interval_and_another_seed_nearly() -> None:
    values = [place % 3 == 0 for place in range(200)]
    assert Bootstrap().mean(values) == Bootstrap().mean(values)
    other = Bootstrap(seed=1).mean(values)
    assert other != Bootstrap().mean(values) or other.low == Bootstrap().mean(values).low
    assert other.low == pytest.approx(Bootstrap().mean(values).low, abs=0.015)


def test_rounds_that_do_not_fit_into_memory_at_once_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [place / 7 for place in range(50)]
    whole = Bootstrap().mean(values)
    monkeypatch.setattr("distillgen.student.scores.CELLS", 1_000)
    assert Bootstrap().mean(values) == whole


def test_an_interval_reaches_its_figure_where_drawing_leaves_labels_out() -> None:
    """Fifteen rare labels, all missed: every draw lacks some of them, so that its macro F1 is above 1/16."""
    golds = ["a"] * 15 + [f"rare {place}" for place in range(15)]
    found = Bootstrap().macro_f1(golds, ["a"] * 15 + [None] * 15)
    assert found.value == found.low == pytest.approx(1 / 16) and found.high is not None and found.high > 1 / 12


def test_plain_resampling_of_the_questions_gives_the_same() -> None:
    """The same draws made the plain way, question by question, for a mean, a paired difference and a macro F1."""
    import numpy as np

    random = np.random.default_rng(3)
    golds = ["a" if each < 0.7 else "b" for each in random.random(150)]
    of = [gold if each < 0.85 else "b" for gold, each in zip(golds, random.random(150), strict=True)]
    from_ = [gold if each < 0.6 else None for gold, each in zip(golds, random.random(150), strict=True)]
    right, other = (
        np.array([gold == text for gold, text in zip(golds, texts, strict=True)], float) for texts in (of, from_)
    )
    places = random.integers(0, 150, (2000, 150))
    drawn = {
        "mean": right[places].mean(axis=1),
        "difference": right[places].mean(axis=1) - other[places].mean(axis=1),
        "f1": np.array([macro_f1([golds[at] for at in row], [of[at] for at in row]) for row in places]),
    }
    boots = Bootstrap()
    found = {
        "mean": boots.mean(list(right)), "difference": boots.difference(list(right), list(other)),
        "f1": boots.macro_f1(golds, of),
    }  # fmt: skip
    for name, values in drawn.items():
        assert [found[name].low, found[name].high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.012), (
            name
        )


shares = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)
texts = st.sampled_from(["a", "b", "c"])
said = st.lists(st.tuples(texts, st.none() | texts), min_size=2, max_size=40)


def holds(found: Estimate) -> bool:
    return found.value is not None and found.low is not None and found.high is not None and (
        found.low <= found.value <= found.high
    )  # fmt: skip


def negated(found: Estimate) -> Sequence[float | None]:
    assert found.value is not None and found.low is not None and found.high is not None
    return [-found.value, -found.high, -found.low]


@settings(max_examples=40, deadline=None)
@given(shares)
def test_intervals_hold_their_figures_and_differences_turn_round(pairs: list[tuple[bool, bool]]) -> None:
    of, from_ = [one for one, _ in pairs], [other for _, other in pairs]
    found, back = QUICK.difference(of, from_), QUICK.difference(from_, of)
    assert holds(found) and holds(QUICK.mean(of))
    assert [found.value, found.low, found.high] == pytest.approx(negated(back), abs=1e-9)
    same = QUICK.difference(of, of)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    mean = QUICK.mean(of)
    assert mean.low is not None and mean.high is not None and 0 <= mean.low <= mean.high <= 1


@settings(max_examples=40, deadline=None)
@given(said)
def test_the_same_holds_for_macro_f1(questions: list[tuple[str, str | None]]) -> None:
    golds, saids = [gold for gold, _ in questions], [said for _, said in questions]
    found = QUICK.macro_f1(golds, saids)
    assert holds(found) and found.value == pytest.approx(macro_f1(golds, saids))
    right = QUICK.macro_f1(golds, golds)
    assert (right.value, right.low, right.high) == pytest.approx((1, 1, 1))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """300 worlds of 100 questions, true difference 0.1: about 95 % of the intervals hold it. With 300 worlds the share
    of an honest 95 % lies within 0.91 and 0.98 but for one time in two hundred; percentile intervals fall a little
    short with few questions."""
    import numpy as np

    random = np.random.default_rng(7)
    covered, boots = 0, Bootstrap(draws=1000)
    for _ in range(300):
        of = random.random(100) < 0.8
        from_ = random.random(100) < 0.7
        found = boots.difference([bool(each) for each in of], [bool(each) for each in from_])
        assert found.low is not None and found.high is not None
        covered += found.low - 1e-9 <= 0.1 <= found.high + 1e-9
    assert 0.9 <= covered / 300 <= 0.985, covered
