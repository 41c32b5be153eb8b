"""The step `verify`: for each way of comparing, answers that must pass and answers that must not, and why."""

import asyncio
import json
import signal
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgen.errors import ExtraMissing
from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.steps.comparing import NoReference, choice_in, number_in
from distillgen.steps.mathematics import Mathematics
from distillgen.steps.sandbox import Limits, Sandbox, find_sandbox
from distillgen.steps.verify import (
    MathJudge,
    Terms,
    Verify,
    VerifyApart,
    code_in,
    read_tests,
    verify_step,
    wrong_pattern,
)


def row(answer: Any, reference: Any, name: str = "r") -> Row:
    return Row(name, name, None, {"answer": answer, "reference": reference}, ({"step": "1.generate"},))


def verified(how: Any, answer: Any, reference: Any, **more: Any) -> Outcome:
    step = verify_step("2.verify", how, answer="answer", reference="reference", **more)
    assert isinstance(step, Verify)
    (outcome,) = step(row(answer, reference))
    return outcome


def said(outcome: Outcome) -> str:
    """What a step says of a row: "right", or the rule and the reason."""
    if isinstance(outcome, Row):
        assert outcome.trail[-1]["verified"] is True
        return "right"
    assert isinstance(outcome, Rejection | Failure)
    return f"{outcome.rule if isinstance(outcome, Rejection) else outcome.cause}: {outcome.detail}"


# -- what becomes of rows -------------------------------------------------------------------------------------------


def test_right_rows_pass_with_a_record() -> None:
    outcome = verified("number", "So 6 x 3 = 18.\nThe answer is 18 litres.", "#### 18")
    assert isinstance(outcome, Row) and "verified" not in outcome.columns
    assert outcome.trail[-1] == {"step": "2.verify", "how": "number", "verified": True, "got": "18"}


def test_wrong_rows_are_rejected_with_what_was_got_and_wanted() -> None:
    outcome = verified("number", "The answer is 18 litres.", "#### 20")
    assert isinstance(outcome, Rejection) and (outcome.step, outcome.rule) == ("2.verify", "wrong_answer")
    assert outcome.detail == "answer: got '18', want '20'"


def test_all_rows_may_be_kept_with_a_column_that_says_which_are_right() -> None:
    right = verified("number", "18", "18", keep="all")
    wrong = verified("number", "18", "20", keep="all", write="is_right")
    assert isinstance(right, Row) and right.columns["verified"] is True
    assert isinstance(wrong, Row) and wrong.columns["is_right"] is False
    assert wrong.trail[-1] == {"step": "2.verify", "how": "number", "verified": False, "got": "18", "want": "20"}


@pytest.mark.parametrize("keep", ["right", "all"])
@pytest.mark.parametrize("how", ["exact", "choice", "number", "json"])
def test_a_row_without_a_reference_is_rejected(how: str, keep: str) -> None:
    for empty in (None, "", " \n"):
        assert said(verified(how, "1", empty, keep=keep)) == "no_reference: reference is empty"
    step = verify_step("v", how, answer="answer", reference="truth", keep=keep)  # type: ignore[arg-type]
    assert isinstance(step, Verify)
    assert said(step(row("1", "1"))[0]) == "no_reference: truth is empty"


def test_long_and_hostile_texts_are_shown_short_and_escaped() -> None:
    outcome = verified("exact", "\x1b[2J" + "x" * 1000, "y" * 1000)
    assert isinstance(outcome, Rejection) and len(outcome.detail) < 200 and "\x1b" not in outcome.detail
    kept = verified("exact", "x" * 1000, "y" * 1000, keep="all")
    assert isinstance(kept, Row) and len(kept.trail[-1]["got"]) == len(kept.trail[-1]["want"]) == 80


def test_the_reference_may_be_a_part_of_its_column() -> None:
    assert said(verified("exact", "Paris", "<answer>Paris</answer>", extract="<answer>(.*)</answer>")) == "right"
    missing = said(verified("exact", "Paris", "Paris", extract="<answer>(.*)</answer>"))
    assert missing == "no_reference: reference does not match '<answer>(.*)</answer>': 'Paris'"
    slow = said(verified("exact", "x", "a" * 5000, extract="^(([a-z])+.)+[A-Z]([a-z])+$"))
    assert slow.startswith("no_reference: reference took '^(([a-z])+.)+[A-Z]([a-z])+$' more than 1 s")


@pytest.mark.parametrize(
    ("pattern", "wrong"),
    [
        ("(a", "not a regular"), ("a", "has 0 groups"), ("(a)(b)", "has 2 groups"), ("(a)", None),
        ("(" * 3000 + "a" + ")" * 3000, "not a regular expression: nested too deeply"),
    ],
)  # fmt: skip
def test_patterns_are_checked(pattern: str, wrong: str | None) -> None:
    assert (wrong_pattern(pattern) or "").startswith(wrong or "") and bool(wrong_pattern(pattern)) == bool(wrong)


# -- exact ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "reason"),
    [
        (" **Paris.**\n", "paris", "right"),
        ('"Paris"!', "Paris", "right"),
        ("ＰＡＲＩＳ", "Paris", "right"),
        ("New  York", "new york", "right"),
        (True, "true", "right"),
        (".5", ".5", "right"),
        ("!", "?", "wrong_answer: answer: got '!', want '?'"),
        ("5", ".5", "wrong_answer: answer: got '5', want '.5'"),
        ("Paris, France", "Paris", "wrong_answer: answer: got 'paris, france', want 'paris'"),
        ("", "Paris", "wrong_answer: answer: is empty"),
        (None, "Paris", "wrong_answer: answer: is empty"),
    ],
)
def test_exact(answer: Any, reference: Any, reason: str) -> None:
    assert said(verified("exact", answer, reference)) == reason


@given(st.text(min_size=1).filter(str.strip))
def test_every_text_is_exactly_itself(text: str) -> None:
    assert said(verified("exact", f"  {text}\n", text)) == "right"


# -- choice ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("B", "B"), ("B.", "B"), ("(b)", "B"), ("**B**", "B"), ("B. Paris", "B"), ("b) Paris", "B"), ("B: Paris", "B"),
        ("The answer is (B)", "B"), ("The answer is B.", "B"), ("Answer: **B**", "B"), ("\\boxed{B}", "B"),
        ("\\boxed{\\text{(B)}}", "B"), ("The correct option is (B) Paris", "B"), ("I choose C", "C"),
        ("The best answer would be option D.", "D"), ("The answer is A", "A"), ("The answer is A because it is", "A"),
        ("First I thought the answer is A. No: the answer is C.", "C"), ("Let me think.\nB", "B"),
        ("Option A is wrong. Option B is correct. Option C is wrong.", "B"), ("So it must be (D).", "D"),
        ("A) x\nB) y\nC) z\n\nTherefore, the correct answer is **B**.", "B"), ("Final answer: (C) 12", "C"),
        ("\\boxed{A} no wait, \\boxed{B}", "B"), ("The answer is clearly (B).", "B"),
    ],
)  # fmt: skip
def test_choices_are_found(answer: str, label: str) -> None:
    assert choice_in(answer) == label


@pytest.mark.parametrize(
    "answer",
    [
        "", "I don't know", "The answer is a good question", "The answer is A good question", "A nice day",
        "The answer is not A but B", "A) x\nB) y\nC) z\nHard to say", "The answer is I don't know", "The answer is Paris", "Answer choices: A) x, B) y",
    ],
)  # fmt: skip
def test_what_is_no_choice(answer: str) -> None:
    assert choice_in(answer) == ""
    assert said(verified("choice", answer, "B")) == f"wrong_answer: answer: no choice found in {answer!r}"


@pytest.mark.parametrize(
    ("answer", "reference", "reason"),
    [
        ("The answer is (B)", "B", "right"),
        ("B", "(b)", "right"),
        ("B", "B) Paris", "right"),
        ("B", "The answer is B", "right"),
        ("The answer is 2", 2, "right"),
        ("The answer is (C)", "B", "wrong_answer: answer: got 'C', want 'B'"),
        ("The answer is 3", "2", "wrong_answer: answer: got '3', want '2'"),
        ("The answer is B", "2", "wrong_answer: answer: no choice found in 'The answer is B'"),
        ("B", "Paris", "no_reference: no choice found in the reference 'Paris'"),
    ],
)
def test_choice(answer: str, reference: Any, reason: str) -> None:
    assert said(verified("choice", answer, reference)) == reason


# -- number ---------------------------------------------------------------------------------------------------------

# From GSM8K's training set (Cobbe et al. 2021, https://github.com/openai/grade-school-math, MIT licence).
GSM8K = [
    ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72", 72),
    ("Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\nWorking 50 minutes, she earned 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10", 10),
    ("In the beginning, Betty has only 100 / 2 = $<<100/2=50>>50.\nBetty's grandparents gave her 15 * 2 = $<<15*2=30>>30.\nThis means, Betty needs 100 - 50 - 30 - 15 = $<<100-50-30-15=5>>5 more.\n#### 5", 5),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "value"), GSM8K)
def test_references_of_gsm8k(reference: str, value: int) -> None:
    for answer in (f"The answer is {value}.", f"\\boxed{{{value}}}", f"... so **{value}** dollars.", f"#### {value}"):
        assert said(verified("number", answer, reference)) == "right"
    wrong = said(verified("number", f"#### {value + 1}", reference))
    assert wrong == f"wrong_answer: answer: got '{value + 1}', want '{value}'"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 18", "18"), ("\\boxed{18}", "18"), ("The answer is 18 dollars.", "18"), ("$1,234.50", "1234.5"),
        ("18 %", "18"), ("3/4", "3/4"), ("-5", "-5"), ("−5", "-5"), ("1e3", "1000"), ("1 000", "1000"), (".5", "1/2"),
        ("1,000,000", "1000000"), ("1'000'000", "1000000"), ("1\u202f000", "1000"), ("1.234.567", "1234567"),
        ("1,500", "1500"), ("1.500", "3/2"), ("3,5", "7/2"), ("0,500", "1/2"), ("1.234,56", "1234.56"), ("1 234,5", "1234.5"),
        ("So 3*4=12 and then 12+6 = 18", "18"), ("The answer is $5 + 3 = 8$.", "8"), ("**Answer:** 42", "42"),
        ("**Final Answer**\n42", "42"), ("The final answer is:\n\n$$18$$", "18"), ("The answer is 18. Since 5 = 2+3.", "18"),
        ("The answer is 18.\nIt has 3 parts.", "18"), ("\\boxed{12} is wrong, it is \\boxed{18}", "18"),
        ("\\boxed{\\frac{3}{4}}", "3/4"), ("\\boxed{-\\dfrac34}", "-3/4"), ("\\boxed{1\\frac{1}{2}}", "3/2"), ("5 3/4", "23/4"),
        ("2½", "5/2"), ("½", "1/2"), ("\\boxed{\\$1{,}234}", "1234"), ("\\boxed{18\\%}", "18"), ("\\boxed{x = 5}", "5"),
        ("\\boxed{18 \\text{ eggs}}", "18"), ("\\boxed{90^\\circ}", "90"), ("3 \\times 10^{5}", "300000"), ("3 × 10⁵", "300000"),
        ("1.5e-3", "3/2000"), ("US$18", "18"), ("-$5", "-5"), ("$-5", "-5"), ("(-3)", "-3"), ("x=-3", "-3"), ("10-20", "20"),
        ("- 18 eggs", "18"), ("5 m²", "5"), ("the 3rd day she had 18 eggs", "18"), ("1,2,3,4", "4"), ("１８", "18"), ("١٨", "18"),
        ("#### 3. Compute\nThe answer is 18.", "18"), ("1e999", "1" + "0" * 999), ("3/4/2020", "3"),
    ],
)  # fmt: skip
def test_numbers_are_read(text: str, value: str) -> None:
    found = number_in(text)
    assert found is not None and found.value == Fraction(value)


@pytest.mark.parametrize(
    "text",
    [
        "", "no", "H2O", "10²", "2^10", "1/0", "1e9999", "9" * 5000, "\\boxed{2\\pi}", "\\boxed{2x}", "\\boxed{3\\sqrt{2}}",
        "\\boxed{2, 3}", "\\boxed{\\frac{x}{2}}", "The answer is unknown. I had 18.", "\\boxed{} 18", "\\boxed{seven}",
    ],
)  # fmt: skip
def test_what_is_no_number(text: str) -> None:
    assert number_in(text) is None
    reason = said(verified("number", text, "18"))
    assert reason.startswith("wrong_answer: answer: no number found in ")
    if text:
        assert said(verified("number", "18", text)).startswith("no_reference: no number found in the reference")


@pytest.mark.parametrize(
    ("answer", "reference", "tolerance", "right"),
    [
        ("0.3333", "1/3", 0.0, False), ("0.3333", "1/3", 0.001, True), ("0.33", "1/3", 0.001, False),
        ("101", "100", 0.01, True), ("101.1", "100", 0.01, False), ("-1", "1", 0.5, False), ("0.0", "0", 0.0, True),
        ("0.001", "0", 0.5, False), ("18.0", 18, 0.0, True), ("0.1", 0.1, 0.0, True), ("18%", "0.18", 0.0, False),
        ("100000000000000000001", "100000000000000000000", 0.0, False),
    ],
)  # fmt: skip
def test_tolerance_is_relative_and_values_exact(answer: str, reference: Any, tolerance: float, right: bool) -> None:
    reason = said(verified("number", answer, reference, tolerance=tolerance))
    assert reason == "right" if right else reason.startswith("wrong_answer: answer: got ")


@given(st.integers(-(10**12), 10**12), st.integers(0, 3))
def test_however_a_number_is_grouped_it_is_read(units: int, decimals: int) -> None:
    value = Fraction(units, 10**decimals)
    text = f"{units / 10**decimals:,.{decimals}f}" if abs(units) < 10**9 else f"{units:,}"
    value = value if abs(units) < 10**9 else Fraction(units)
    for spelling in (
        text,
        text.replace(",", " "),
        text.replace(",", "'"),
        text.replace("-", "−"),
        text.replace(",", "{,}"),
    ):
        found = number_in(f"So the answer is \\boxed{{{spelling}}}.")
        assert found is not None and found.value == value, spelling


# -- json -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "reason"),
    [
        ('```json\n{"a": 1.0, "b": [1, 2]}\n```', '{"b": [1, 2], "a": 1}', "right"),
        ('Here it is:\n```\n{"a": 1}\n```', {"a": 1}, "right"),
        ("1e2", "100", "right"),
        ("0.10", 0.1, "right"),
        ('"é"', '"\\u00e9"', "right"),
        ("true", "1", "wrong_answer: answer: got true, want 1"),
        ('[1, {"a": null}]', '[1, {"a": 0}]', "wrong_answer: answer: got null, want 0 at [1]['a']"),
        ('{"a": 1}', '{"a": 1, "b": 2}', "wrong_answer: answer: lacks the key 'b'"),
        ('{"a": {"c": 1}}', '{"a": {}}', "wrong_answer: answer: has the key 'c' at ['a']"),
        ("[1]", "[1, 2]", "wrong_answer: answer: got 1 elements, want 2"),
        ("[1]", "{}", "wrong_answer: answer: got a list, want an object"),
        ("12345678901234567890123", "12345678901234567890124", "wrong_answer: answer: got 12345678901234567890123, want 12345678901234567890124"),
        ("{", "{}", "wrong_answer: answer: is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("NaN", "1", "wrong_answer: answer: is not JSON: NaN is no JSON number"),
        ("[" * 100_000, "1", "wrong_answer: answer: is not JSON: nested too deeply"),
        ("1e999999999", "1", "wrong_answer: answer: got 1E+999999999, want 1"),
        ("1e99999999999999999999999", "1", "wrong_answer: answer: is not JSON: a number whose exponent nothing can hold"),
        ('{"a": [1E-99999999999999999999999]}', {}, "wrong_answer: answer: is not JSON: a number whose exponent nothing can hold"),
        ("1", "1e99999999999999999999999", "no_reference: the reference is not JSON: a number whose exponent nothing can hold"),
        ("1", "{", "no_reference: the reference is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
)  # fmt: skip
def test_json(answer: str, reference: Any, reason: str) -> None:
    assert said(verified("json", answer, reference)) == reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON.filter(lambda value: value is not None), JSON)
def test_json_is_equal_however_it_is_written(value: Any, other: Any) -> None:
    assert said(verified("json", json.dumps(value, indent=1, sort_keys=True), json.dumps(value))) == "right"
    same = json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)
    if same:
        assert said(verified("json", json.dumps(value), json.dumps(other))) == "right"


# -- mathematics ----------------------------------------------------------------------------------------------------

MATHEMATICS = [
    ("The answer is $\\frac{1}{2}$.", "1/2", "right"),
    ("So \\boxed{(x+1)^2}.", "x^2+2x+1", "right"),
    ("\\boxed{2\\sqrt{2}}", "\\sqrt{8}", "right"),
    ("The answer is 2x+1.", "2x + 1", "right"),
    ("The answer is 2x+1.", "2", "wrong_answer: answer: got '2x+1', want '2'"),
    ("$x = 5$", "5", "right"),
    ("\\boxed{\\{1, 2, 3\\}}", "3, 2, 1", "right"),
    ("\\boxed{(3, 2)}", "(2, 3)", "wrong_answer: answer: got '(3, 2)', want '(2, 3)'"),
    ("0.5", "50\\%", "right"),
    ("$\\text{yes}$", "yes", "right"),
    ("So she has 18 eggs.", "18", "right"),
    ("So she has 18 eggs.", "20", "wrong_answer: answer: got '18', want '20'"),
    ("", "3", "wrong_answer: answer: no mathematics found in ''"),
    ("I do not know\nwhat to say", "3", "wrong_answer: answer: no mathematics found in 'I do not know\\nwhat to say'"),
    ("3", "It depends\non many things", "no_reference: no mathematics found in the reference 'It depends\\non many things'"),
    ("3", "", "no_reference: reference is empty"),
]  # fmt: skip


@pytest.fixture
def mathematics() -> Iterator[Any]:
    """Verify rows by mathematics, all under way at once, in the order given."""
    pytest.importorskip("math_verify", reason="NOT TESTED HERE: math-verify is not installed")

    def run(rows: list[Row], **limits: Any) -> list[Outcome]:
        async def main() -> list[Outcome]:
            terms = Terms("v", "math", "answer", "reference")
            step = VerifyApart(terms, MathJudge(Mathematics(**limits)))
            try:
                return [outcomes[0] for outcomes in await asyncio.gather(*map(step.work, rows))]
            finally:
                await step.aclose()
                await step.aclose()

        return asyncio.run(main())

    yield run


def test_mathematics(mathematics: Any) -> None:
    outcomes = mathematics([row(answer, reference) for answer, reference, _ in MATHEMATICS])
    assert [said(outcome) for outcome in outcomes] == [reason for _, _, reason in MATHEMATICS]


def test_mathematics_that_explodes_is_wrong_and_disturbs_nobody(mathematics: Any) -> None:
    hostile = [
        "$9^{9^{9^{9}}}$",
        "$10000000!$",
        "\\boxed{" + "(" * 5000 + "1" + ")" * 5000 + "}",
        "$" + "x" * 19_000 + "$",
    ]
    rows = [row(text, "1", str(number)) for number, text in enumerate(hostile)]
    rows += [row(f"${number}$", "7", str(number)) for number in range(6, 9)]
    outcomes = mathematics(rows, seconds=1)
    for outcome in outcomes[:4]:
        assert isinstance(outcome, Rejection) and outcome.rule == "wrong_answer"
        assert outcome.detail in ("answer: took more than 1 s of processor time", "answer: took more than 4 s")
    assert [said(outcome) for outcome in outcomes[4:]] == [
        "wrong_answer: answer: got '6', want '7'", "right", "wrong_answer: answer: got '8', want '7'",
    ]  # fmt: skip


def test_mathematics_has_no_more_memory_than_it_is_given(mathematics: Any) -> None:
    (outcome,) = mathematics([row("$" + "+".join(f"x_{{{n}}}^{n}" for n in range(1500)) + "$", "1")], memory_mb=1)
    assert said(outcome) in (
        "wrong_answer: answer: needed more than 1 MB of memory",
        "wrong_answer: answer: ended math-verify: nested too deeply, or more memory than there is",
    )


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_worker_that_was_ended_while_it_waited_is_no_verdict(mathematics: Any, is_noticed: bool) -> None:
    async def main() -> None:
        judge = Mathematics()
        assert (await judge.compare("1", "1")).is_right
        (worker,) = judge._idle
        worker.kill()  # as the kernel does when memory runs out
        if is_noticed:
            await worker.wait()
        compared = await judge.compare("$\\frac{1}{2}$", "0.5")
        assert compared.is_right and not compared.trouble
        assert len(judge._idle) == 1 and judge._idle[0] is not worker
        await judge.aclose()

    asyncio.run(main())


def test_a_cancelled_comparison_leaves_no_worker(mathematics: Any) -> None:
    async def main() -> None:
        judge = Mathematics(seconds=100)
        assert (await judge.compare("1", "1")).is_right
        worker = judge._idle[0]
        task = asyncio.create_task(judge.compare("$10000000!$", "1"))
        while judge._idle:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert worker.returncode == -signal.SIGKILL and not judge._idle
        assert (await judge.compare("1", "1")).is_right
        await judge.aclose()

    asyncio.run(main())


# -- code -----------------------------------------------------------------------------------------------------------

GOOD = "Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nUse it so:\n```python\nprint(add(1, 2))\n```\n"
BAD = GOOD.replace("a + b", "a - b")
TWICE = "```python\nn = int(input())\nprint(2 * n)\n```"
PAIRS = [{"input": "1\n", "output": "2\n"}, {"input": "5", "output": "10"}]
HUMANEVAL = {"test": "def check(candidate):\n    assert candidate(1, 2) == 3\n", "entry_point": "add"}
CODE = [
    (GOOD, "assert add(1, 2) == 3\nassert add(0, 0) == 0", "right"),
    (GOOD, ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"], "right"),
    (GOOD, HUMANEVAL, "right"),
    (GOOD, json.dumps(HUMANEVAL), "right"),
    (TWICE, PAIRS, "right"),
    (TWICE, json.dumps(PAIRS), "right"),
    ("import sys\nprint(2 * int(sys.stdin.read()), '  ')\n", PAIRS, "right"),
    ("import math\nprint(math.factorial(int(input())))", '[{"input":"25","output":15511210043330985984000000}]', "right"),
    ("print(input())", '[{"input":["\\ud800", 1],"output":"[\\"?\\",1]"}]', "right"),
    (GOOD, {"tests": "assert add(1, 2) == 3", "entry_point": "add"}, "right"),
    (GOOD, "def check(a, b):\n    assert add(a, b) == 3\ndef run():\n    check(1, 2)\nrun()", "right"),
    (BAD, {"tests": "assert add(1, 2) == 3", "entry_point": "add"}, "wrong_answer: answer: AssertionError (line 1 of the tests: 'assert add(1, 2) == 3')"),
    (BAD, "assert add(1, 2) == 3", "wrong_answer: answer: AssertionError (line 1 of the tests: 'assert add(1, 2) == 3')"),
    (BAD, HUMANEVAL, "wrong_answer: answer: AssertionError (line 2 of the tests: 'assert candidate(1, 2) == 3')"),
    (GOOD, HUMANEVAL["test"], "wrong_answer: answer: NameError: the tests define check(candidate) and call it nowhere: give `entry_point`"),
    ("import sys\nsys.exit(0)", "assert add(1, 2) == 3", "wrong_answer: answer: the code ended the program (SystemExit: 0) before its tests did (line 2 of the answer: 'sys.exit(0)')"),
    ("import os\nos._exit(0)", "assert add(1, 2) == 3", "wrong_answer: answer: the code ended the program before its tests did"),
    ("I cannot write code.", "assert add(1, 2) == 3", "wrong_answer: answer: SyntaxError: invalid syntax (<answer>, line 1)"),
    ("", "assert True", "wrong_answer: answer: no code found: the answer is empty"),
    (TWICE.replace("2 *", "3 *"), PAIRS, "wrong_answer: answer: input 1 of 2, '1\\n': got '3\\n', want '2\\n'"),
    (TWICE.replace("2 *", "1 // (5 - n) *"), PAIRS, "wrong_answer: answer: input 1 of 2, '1\\n': got '0\\n', want '2\\n'"),
    ("print(2 * int(input()))\nprint(1 / 0)", PAIRS, "wrong_answer: answer: input 1 of 2, '1\\n': ZeroDivisionError: division by zero"),
    (GOOD, [1, 2], "no_reference: the reference holds neither tests nor a list of objects with `input` and `output`"),
    (GOOD, {}, "no_reference: the reference holds neither tests nor a list of objects with `input` and `output`"),
    (GOOD, "", "no_reference: reference is empty"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return find_sandbox()
    except ExtraMissing as missing:
        pytest.skip(f"NOT TESTED HERE: {missing}")


def run_code(sandbox: Sandbox, rows: list[Row], **more: Any) -> list[Outcome]:
    async def main() -> list[Outcome]:
        step = verify_step("v", "code", answer="answer", reference="reference", sandbox=sandbox, **more)
        assert isinstance(step, VerifyApart)
        outcomes = await asyncio.gather(*map(step.work, rows))
        await step.aclose()
        return [outcome for (outcome,) in outcomes]

    return asyncio.run(main())


def test_code(sandbox: Sandbox) -> None:
    outcomes = run_code(sandbox, [row(answer, reference) for answer, reference, _ in CODE])
    assert [said(outcome) for outcome in outcomes] == [reason for _, _, reason in CODE]


def test_code_that_does_not_end_is_wrong_and_names_the_limit(sandbox: Sandbox) -> None:
    (outcome,) = run_code(sandbox, [row("def f():\n    while True: pass", "f()")], limits=Limits(seconds=1))
    assert said(outcome) in (
        "wrong_answer: answer: took more than 1 s of processor time", "wrong_answer: answer: took more than 4 s",
    )  # fmt: skip


def test_all_code_may_be_kept(sandbox: Sandbox) -> None:
    right, wrong = run_code(sandbox, [row(GOOD, HUMANEVAL), row(BAD, HUMANEVAL)], keep="all")
    assert isinstance(right, Row) and right.columns["verified"] is True and right.trail[-1]["got"] == "passed"
    assert isinstance(wrong, Row) and wrong.columns["verified"] is False
    assert wrong.trail[-1]["why"] == "AssertionError (line 2 of the tests: 'assert candidate(1, 2) == 3')"


def test_a_sandbox_that_breaks_fails_the_row_for_now() -> None:
    (outcome,) = run_code(Sandbox("bubblewrap", "/bin/false", True), [row(GOOD, HUMANEVAL)])
    assert isinstance(outcome, Failure) and not outcome.lasting
    assert said(outcome) == "sandbox: cannot isolate a process: exit status 1"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("print(1)", "print(1)"),
        ("```\nprint(1)\n```", "print(1)\n"),
        ("```py\nprint(1)", "print(1)"),
        ("1. So:\n   ```python\n   def f():\n       return 1\n   ```", "def f():\n    return 1\n"),
        ("```bash\nls\n```\n```python\nx\n```\n```text\ny\n```", "x\n"),
        ("```python\ndef f(): 1\n```\n```python\ndef f(): 2\n```\n```python\nf()\n```", "def f(): 2\n"),
        ("```\nfirst\n```\n```\nsecond\n```", "second\n"),
        ("Use `x` or ```y```.", "Use `x` or ```y```."),
    ],
)
def test_code_is_taken_out_of_answers(answer: str, code: str) -> None:
    assert code_in(answer) == code


def test_inputs_and_outputs_that_are_no_text_are_written_as_json() -> None:
    (pair,) = read_tests([{"input": [1, "é", 0.5, None], "output": {"n": 2**70}}])
    assert pair == ('[1,"é",0.5,null]', '{"n":1180591620717411303424}')
    for depth in range(100, 1_100, 4):
        nested = f'[{{"input": {"[" * depth}{"]" * depth}, "output": ""}}]'
        try:
            found = read_tests(nested)
        except NoReference as missing:
            assert str(missing) == "an `input` or `output` of the reference is nested too deeply"
        else:
            assert found in ([("[" * depth + "]" * depth, "")], (nested, ""))


def test_tests_may_look_like_json() -> None:
    assert read_tests("[1][0] == 1 or 1 / 0") == ("[1][0] == 1 or 1 / 0", "")


def test_ten_megabytes_are_no_trouble() -> None:
    for text in (
        "9" * 10**7,
        "```\n" * 10**6,
        '".' * 10**6,
        "\\boxed{" * 10**6,
        "1," * 10**6,
        "(B)" * 10**6,
        "[" * 10**7,
    ):
        for how, reference in (("exact", "x"), ("choice", "B"), ("number", "1"), ("json", "2")):
            assert said(verified(how, text, reference)).startswith(("wrong_answer: ", "right"))
