"""The step `select`: what is kept of the samples of one parent, and why each other one is not."""

import json
from collections import Counter
from typing import Any

import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st
from loopback import Body, Loopback, Say, reply

from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.step_settings import SelectStep
from distillgen.steps.select import Select

SEED = Row("p", "p", None, {"question": "How many?"}, ({"step": "0.evolve", "wrote": ["question"]},))


def sample(number: int, **columns: Any) -> Row:
    return SEED.child(str(number)).passed({"step": "1.generate", "sample": number, "wrote": ["answer"]}, **columns)


def samples(*answers: Any, **more: list[Any]) -> list[Outcome]:
    """Return a sample for each answer; None stands for one that failed, `more` are other columns."""
    others = [{name: values[n] for name, values in more.items()} for n in range(len(answers))]
    return [
        Failure(SEED.child(str(n)), "1.generate", "timeout", "no answer", lasting=True)
        if answer is None
        else sample(n, answer=answer, **other)
        for n, (answer, other) in enumerate(zip(answers, others, strict=True))
    ]


def select(outcomes: list[Outcome], column: str = "answer", **settings: Any) -> dict[str, Any]:
    """Return what became of each row: a row, or the rule and detail of its rejection."""
    step = Select("2.select", SelectStep.model_validate({"use": "select", **settings}), column)
    return {
        result.id if isinstance(result, Row) else result.row.id: result
        if isinstance(result, Row)
        else (result.rule, result.detail)
        for result in step(outcomes)
        if isinstance(result, Row | Rejection)
    }


def kept(results: dict[str, Any]) -> list[str]:
    return [name for name, result in results.items() if isinstance(result, Row)]


# -- majority ----------------------------------------------------------------------------------------------------------


def test_the_answer_that_most_samples_give_is_kept_once() -> None:
    results = select(samples("12", "18", "18.", " 18 ", None, "7"), keep="majority", min_agreement=0.5)
    assert kept(results) == ["p.1"] and list(results) == ["p.0", "p.1", "p.2", "p.3", "p.5"]
    assert results["p.1"].trail[-1] == {
        "step": "2.select", "keep": "majority", "samples": 6, "answered": 5, "agreement": 0.5
    }  # fmt: skip
    assert results["p.2"] == results["p.3"] == ("not_selected", "agrees with p.1")
    assert results["p.0"] == ("outvoted", "says '12', 3 of 6 say '18'")
    assert results["p.5"] == ("outvoted", "says '7', 3 of 6 say '18'")


def test_failed_and_rejected_samples_count_in_the_agreement() -> None:
    outcomes = samples("a", "a", None, "a")
    outcomes[3] = Rejection(sample(3, answer="a"), "1.filter", "length", "too long")
    results = select(outcomes, keep="majority", min_agreement=0.6)
    assert results == dict.fromkeys(["p.0", "p.1"], ("low_agreement", "2 of 4 agree (0.50), wants 0.6"))
    assert kept(select(outcomes, keep="majority", min_agreement=0.5)) == ["p.0"]


def test_of_equal_votes_the_first_cast_wins() -> None:
    assert kept(select(samples("b", "a", "a", "b"), keep="majority")) == ["p.0"]


def test_white_space_case_and_the_full_stop_make_no_difference_but_other_signs_do() -> None:
    results = select(samples("x", "The  answer", "the answer.", "50", "50%", "?!"), keep="majority")
    assert kept(results) == ["p.1"] and results["p.2"] == ("not_selected", "agrees with p.1")
    assert results["p.4"] == ("outvoted", "says '50%', 2 of 6 say 'The answer'")
    assert kept(select(samples("?!", "..."), keep="majority")) == ["p.0"], "nothing but signs is an answer of its own"


def test_an_empty_answer_casts_no_vote() -> None:
    results = select(samples(" ", "", "x"), keep="majority")
    assert kept(results) == ["p.2"] and results["p.0"] == results["p.1"] == ("no_vote", "answer is empty")
    assert select(samples(" "), keep="majority") == {"p.0": ("no_vote", "answer is empty")}


def test_votes_by_number() -> None:
    outcomes = samples("The total is 1,200 dollars.", "He pays $1200", "1200.0", "I do not know", "7")
    results = select(outcomes, keep="majority", compare="number")
    assert kept(results) == ["p.0"] and results["p.2"] == ("not_selected", "agrees with p.0")
    assert results["p.3"] == ("no_vote", "no number in 'I do not know'")
    assert results["p.4"] == ("outvoted", "says '7', 3 of 5 say '1,200'")


def test_long_and_hostile_answers_are_quoted_and_cut() -> None:
    results = select(samples("\x1b[31m" + "x" * 500, "y", "y"), keep="majority")
    assert results["p.0"][1].startswith("says '\\x1b[31mxxx") and len(results["p.0"][1]) < 120


# -- best, shortest, longest -------------------------------------------------------------------------------------------


def test_the_best_score_is_kept_the_first_of_equal_ones() -> None:
    outcomes = samples(*"abcdef", score=[3, 4.5, 4.5, None, "5", True])
    results = select(outcomes, keep="best", by="score")
    assert kept(results) == ["p.1"]
    assert results["p.0"] == ("not_selected", "score 3, best p.1 has 4.5")
    assert results["p.2"] == ("not_selected", "score 4.5, best p.1 has 4.5")
    assert results["p.3"] == ("no_score", "score is missing")
    assert results["p.4"] == ("no_score", "score is '5'") and results["p.5"] == ("no_score", "score is true")
    assert results["p.1"].trail[-1] == {"step": "2.select", "keep": "best", "samples": 6, "answered": 6}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_score_wins_nothing(value: float) -> None:
    assert kept(select(samples("a", "b", score=[value, 1]), keep="best", by="score")) == ["p.1"]


def test_the_shortest_right_answer() -> None:
    outcomes = samples("12345", "1", "123", "", "123", verified=[True, False, True, True, True])
    results = select(outcomes, keep="shortest", where="verified")
    assert kept(results) == ["p.2"], "the first of equally short ones"
    assert results["p.0"] == ("not_selected", "5 characters, p.2 has 3")
    assert results["p.1"] == ("not_eligible", "verified is false")
    assert results["p.3"] == ("no_text", "answer is empty")


def test_the_longest_reasoning() -> None:
    outcomes = samples("a", "a", "a", reasoning=["so", "so therefore", None])
    results = select(outcomes, "reasoning", keep="longest", on="reasoning")
    assert kept(results) == ["p.1"] and results["p.0"] == ("not_selected", "2 characters, p.1 has 12")
    assert results["p.2"] == ("no_text", "reasoning is empty")


def test_what_may_not_be_kept_does_not_vote_and_still_counts_as_a_sample() -> None:
    outcomes = samples("x", "x", "y", "z", ok=[False, 0, 1, True])
    results = select(outcomes, keep="majority", where="ok")
    assert kept(results) == ["p.2"] and results["p.2"].trail[-1]["agreement"] == 0.25
    assert results["p.0"] == ("not_eligible", "ok is false") and results["p.1"] == ("not_eligible", "ok is 0")
    outcomes = samples("x", "y", ok=["true", None])
    assert select(outcomes, keep="majority", where="ok") == {
        "p.0": ("not_eligible", "ok is 'true'"), "p.1": ("not_eligible", "ok is missing")
    }  # fmt: skip


def test_too_few_samples_are_all_rejected() -> None:
    outcomes = samples("a", None, None, "a", "a", None, None, None)
    results = select(outcomes, keep="majority", min_samples=4)
    assert results == dict.fromkeys(["p.0", "p.3", "p.4"], ("too_few_samples", "3 of 8 samples are left, needs 4"))
    assert kept(select(outcomes, keep="majority", min_samples=3)) == ["p.0"]


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_a_pair_by_scores_is_one_row_and_knows_both() -> None:
    outcomes = samples("good", "bad", "best", "worst", "best of all", score=[3, 2, 5, 1, 5])
    results = select(outcomes, keep="pair", by="score")
    assert kept(results) == ["p.2"] and "p.3" not in results, "the rejected side is merged into the pair"
    row = results["p.2"]
    assert (row.columns["chosen"], row.columns["rejected"], row.columns["answer"]) == ("best", "worst", "best")
    assert row.trail[-1] == {
        "step": "2.select", "keep": "pair", "samples": 5, "answered": 5, "on": "answer",
        "chosen": {"id": "p.2", "score": 5},
        "rejected": {"id": "p.3", "score": 1, "steps": ({"step": "1.generate", "sample": 3, "wrote": ["answer"]},)},
    }  # fmt: skip
    assert results["p.4"] == ("not_selected", "p.2 and p.3 are the pair")


def test_a_pair_by_true_and_false() -> None:
    outcomes = samples("w", "r1", "r2", "w2", verified=[False, True, True, False], chosen=["old"] * 4)
    row = select(outcomes, keep="pair", by="verified")["p.1"]
    assert (row.columns["chosen"], row.columns["rejected"]) == ("r1", "w"), "columns of these names are overwritten"
    assert row.trail[-1]["rejected"]["score"] is False


@pytest.mark.parametrize(
    ("answers", "by", "settings", "detail"),
    [
        ("abc", [3, 3, 3], {}, "all scores are 3"),
        ("abcd", [3, 3.5, 3, 3], {"min_gap": 1}, "the scores are 0.5 apart, wants 1"),
        ("abc", [True, True, True], {}, "no wrong answer among 3 samples"),
        ("abc", [False, False, False], {}, "no right answer among 3 samples"),
        ("aaa", [3, 2, 1], {}, "all say the same: 'a'"),
        ("aab", [3, 2, 3], {}, "the texts that differ have no lower score than 3"),
    ],
    ids=["equal-scores", "small-gap", "all-right", "all-wrong", "same-text", "same-text-and-equal-score"],
)
def test_no_pair(answers: str, by: list[Any], settings: dict[str, Any], detail: str) -> None:
    results = select(samples(*answers, score=by), keep="pair", by="score", **settings)
    assert results == {f"p.{n}": ("no_pair", detail) for n in range(len(answers))}


def test_samples_that_an_earlier_step_rejected_are_in_no_pair() -> None:
    outcomes = samples("a", "b", "c", score=[3, 1, 2])
    outcomes[1] = Rejection(outcomes[1], "1.filter", "length", "too short")  # type: ignore[arg-type]
    assert select(outcomes, keep="pair", by="score")["p.0"].columns["rejected"] == "c"


def test_a_pair_needs_two_samples() -> None:
    assert select(samples("a", None, score=[3, 3]), keep="pair", by="score") == {
        "p.0": ("too_few_samples", "1 of 2 samples is left, needs 2")
    }


# -- the law -----------------------------------------------------------------------------------------------------------

VALUES = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "5", "x"]))
FATES = st.tuples(st.sampled_from(["row", "row", "row", "failed", "rejected"]), st.sampled_from(["a", "b", "A.", ""]), VALUES)  # fmt: skip


@given(
    st.lists(FATES, min_size=1, max_size=9),
    st.sampled_from(["majority", "best", "shortest", "longest", "pair"]),
    st.booleans(),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.4, 1.0]),
)
def test_at_most_one_is_kept_and_every_row_is_accounted_for(
    fates: list[tuple[str, str, Any]], keep: str, where: bool, min_samples: int, min_agreement: float
) -> None:
    outcomes: list[Outcome] = []
    for number, (fate, answer, value) in enumerate(fates):
        row = sample(number, answer=answer, score=value, ok=value)
        outcomes.append(
            row
            if fate == "row"
            else Failure(row, "1.generate", "timeout", "", lasting=True)
            if fate == "failed"
            else Rejection(row, "1.filter", "length", "")
        )
    settings = SelectStep.model_validate(
        {"use": "select", "keep": keep, "by": "score", "min_samples": min_samples, "min_agreement": min_agreement}
        | ({"where": "ok"} if where else {})
    )
    step = Select("2.select", settings, "answer")
    results = step(outcomes)
    rows_in = [outcome.id for outcome in outcomes if isinstance(outcome, Row)]
    rows_out = [result.id for result in results if isinstance(result, Row)]
    refused = [result.row.id for result in results if isinstance(result, Rejection)]
    merged = 1 if keep == "pair" and rows_out else 0
    assert len(rows_out) <= 1 and len(rows_in) == len(rows_out) + len(refused) + merged
    assert len({*rows_out, *refused}) == len(results) and {*rows_out, *refused} <= set(rows_in)
    assert results == step(outcomes), "it remembers nothing"


# -- whole builds ------------------------------------------------------------------------------------------------------

RECIPE = """
name = "demo"
[seeds]
path = "seeds.jsonl"
[teachers.main]
base_url = "{url}"
model = "scripted"
limits = {{ max_in_flight = 1 }}
[[steps]]
use = "generate"
prompt = "answer"
samples = 5
{steps}
[student]
prompt = "{{{{ question }}}}"
"""


def in_turn(*answers: str) -> Any:
    """A teacher that gives these answers to each question, one after the other, and scores by the length of one."""
    seen: Counter[str] = Counter()

    def behave(body: Body) -> Say:
        asked = body["messages"][-1]["content"]
        if "Rubric:" in asked:
            score = min(len(asked.rpartition("Answer: ")[2]), 5)
            return reply(json.dumps({"critique": "It is as long as that.", "score": score}))
        seen[asked] += 1
        return reply(answers[seen[asked] - 1])

    return behave


def funnel(project: Project, step: str) -> dict[str, Any]:
    (counted,) = (each for each in project.manifest()["funnel"] if each["step"] == step)
    return counted


def test_a_build_with_a_majority_vote(project: Project, loopback: Loopback) -> None:
    steps = '[[steps]]\nuse = "select"\nkeep = "majority"\ncompare = "number"\nmin_agreement = 0.6'
    project.write("recipe.toml", RECIPE.format(url=loopback.url, steps=steps))
    project.seeds([{"question": f"What is {n}?"} for n in range(3)])
    loopback.behave = in_turn("It is 7.", "Seven, 7", "8", "I do not know", "7.0")
    project.build()
    assert [row["messages"][-1]["content"] for row in project.rows()] == ["It is 7."] * 3
    assert [row["id"].rpartition(".")[2] for row in project.rows()] == ["0"] * 3, "its id stays its own"
    counted = funnel(project, "2.select")
    assert (counted["in"], counted["out"], counted["merged"]) == (15, 3, 0)
    assert counted["rejected"] == {"not_selected": 6, "outvoted": 3, "no_vote": 3}
    assert {row["steps"][-1]["agreement"] for row in project.sidecar("provenance")} == {0.6}
    assert "nothing changed" in project.build().stderr and loopback.seen == 15


def test_a_build_of_preference_pairs_by_judge(project: Project, loopback: Loopback) -> None:
    steps = (
        '[[steps]]\nuse = "judge"\nown_answers = true\n'
        '[[steps]]\nuse = "select"\nkeep = "pair"\nby = "score"\nmin_gap = 2'
    )
    text = RECIPE.format(url=loopback.url, steps=steps)
    project.write("recipe.toml", text + 'completion = "{{ chosen }}"\nrejected = "{{ rejected }}"\n')
    project.seeds([{"question": f"What is {n}?"} for n in range(3)])
    loopback.behave = in_turn("abc", "a", "abcd", "ab", "abcde")
    project.build()
    assert [(row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in project.rows()] == [
        ("abcde", "a")
    ] * 3
    counted = funnel(project, "3.select")
    assert (counted["in"], counted["out"], counted["merged"], counted["rejected"]) == (15, 3, 3, {"not_selected": 9})
    record = project.sidecar("provenance")[0]["steps"][-1]
    assert (record["chosen"]["score"], record["rejected"]["score"]) == (5.0, 1.0)
    assert [step["step"] for step in record["rejected"]["steps"]] == ["1.generate", "2.judge"]
