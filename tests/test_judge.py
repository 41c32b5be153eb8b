"""The step `judge`: scores of several teachers, pairs in both orders, and nobody judging what it wrote itself."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from loopback import Body, Loopback, Say, reply

from distillgen.errors import RowFailed
from distillgen.prompts import load_prompt
from distillgen.recipe import read_recipe
from distillgen.road import travel
from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.step_settings import JudgeStep
from distillgen.steps.judge import Judge, wrong_prompt
from distillgen.steps.written import record_of
from distillgen.teacher import open_teachers
from distillgen.teacher.answers import AnswerStore

CRITIQUE = "It says what was asked for."


def graded(score: object) -> Callable[[Body], Say]:
    """A judge that gives every answer the same score."""
    return lambda _: reply(json.dumps({"critique": CRITIQUE, "score": score}))


def preferring(word: str) -> Callable[[Body], Say]:
    """A judge of pairs that prefers a text with a word in it; `first`, `second` and `tie` are said blindly."""

    def behave(body: Body) -> Say:
        asked = body["messages"][-1]["content"]
        first, second = (part.splitlines()[0] for part in asked.partition("First answer: ")[2].split("Second answer: "))
        if word in ("first", "second", "tie"):
            winner = word
        else:
            winner = "tie" if (word in first) == (word in second) else "first" if word in first else "second"
        return reply(json.dumps({"critique": CRITIQUE, "winner": winner}))

    return behave


@pytest.fixture
def other() -> Iterator[Loopback]:
    """Another judge."""
    server = Loopback()
    yield server
    server.close()


class Court:
    """Takes rows down a road of one `judge` step, with teachers that are open as in a build."""

    def __init__(self, folder: Path, servers: dict[str, Loopback]) -> None:
        self.folder, self.servers = folder, servers
        self.tables = {name: f"base_url = '{server.url}'\nmodel = '{name}-model'" for name, server in servers.items()}

    def judge(
        self, rows: Sequence[Row], *names: str, work: Callable[[Judge], Any] | None = None, **settings: Any
    ) -> Any:
        """Return what becomes of the rows, or of some other work with the step."""
        names = names or ("main",)
        tables = "\n".join(f"[teachers.{name}]\n{table}" for name, table in self.tables.items())
        asked = json.dumps(list(names))
        text = f'name = "court"\n[seeds]\npath = "-"\n{tables}\n[[steps]]\nuse = "judge"\nteacher = {asked}\n'
        (self.folder / "recipe.toml").write_text(text)
        recipe, source = read_recipe(self.folder / "recipe.toml")
        step = JudgeStep.model_validate({"use": "judge", "teacher": list(names), **settings})
        prompt = load_prompt(step.prompt or ("judge_pair" if step.pair else "judge"), self.folder)

        async def main() -> Any:
            with contextlib.closing(AnswerStore(self.folder / "answers.sqlite")) as store:
                async with open_teachers(recipe, source, set(self.tables), store, state=self.folder) as opened:
                    judges = {name: opened[name] for name in names}
                    judge = Judge("2.judge", step, prompt, judges, opened)
                    async with asyncio.timeout(60):
                        return await (work or go)(judge)

        async def go(judge: Judge) -> list[Outcome]:
            async def source() -> Any:
                for row in rows:
                    yield row

            road = travel(source(), [judge], tally=lambda *_: None, spool=self.folder / "spool", in_flight=4)
            return [outcome async for outcome in road]

        return asyncio.run(main())


@pytest.fixture
def court(tmp_path: Path, loopback: Loopback, other: Loopback) -> Court:
    loopback.behave, other.behave = graded(2), graded(5)
    return Court(tmp_path, {"main": loopback, "other": other})


def written(teacher: str | None = None, name: str = "r", **columns: Any) -> Row:
    """Return a row whose answer was written by a teacher, or came with the seed."""
    row = Row(name, name, None, {"question": "Why?", "answer": "Because.", **columns})
    wrote = {"step": "1.generate", "teacher": teacher, "model": "m", "wrote": ["answer", "reasoning"]}
    return row.passed(wrote) if teacher else row


def pair(one: str = "good", two: str = "bad", name: str = "r") -> Row:
    return Row(name, name, None, {"question": "Which?", "a": one, "b": two})


# -- scores ------------------------------------------------------------------------------------------------------------


def test_one_judge_scores_each_row(court: Court, loopback: Loopback, other: Loopback) -> None:
    rows = court.judge([written(name="a"), written(name="b", answer="Therefore.")])
    assert [row.columns["score"] for row in rows] == [2.0, 2.0] and (loopback.seen, other.seen) == (2, 0)
    record = rows[0].trail[-1]
    (said,) = record.pop("scores")
    assert record == {"step": "2.judge", "prompt": "judge", "wrote": ["score"], "score": 2.0}
    assert len(said.pop("key")) == 64 and said.pop("tokens")["completion"] == 11
    assert said == {"judge": "main", "model": "scripted", "score": 2, "critique": CRITIQUE}


def test_the_scores_of_several_judges_are_averaged(court: Court) -> None:
    (row,) = court.judge([written()], "main", "other", write="mark")
    assert row.columns["mark"] == 3.5 and "score" not in row.columns
    record = row.trail[-1]
    assert record["score"] == 3.5 and record["wrote"] == ["mark"]
    assert [(said["judge"], said["score"]) for said in record["scores"]] == [("main", 2), ("other", 5)]


def test_a_low_score_is_refused_with_the_scores_of_all(court: Court, other: Loopback) -> None:
    other.behave = graded(3)
    (refused,) = court.judge([written()], "main", "other", min_score=4)
    assert isinstance(refused, Rejection)
    assert (refused.rule, refused.detail) == ("low_score", "score 2.5 (main 2, other 3), wants 4")
    assert refused.row.columns["score"] == 2.5 and len(refused.row.trail[-1]["scores"]) == 2
    (row,) = court.judge([written()], "main", "other", min_score=2.5)
    assert isinstance(row, Row)


def test_stored_scores_are_not_asked_for_again(court: Court, loopback: Loopback, other: Loopback) -> None:
    first = court.judge([written()], "main", "other")
    assert court.judge([written()], "main", "other") == first and (loopback.seen, other.seen) == (1, 1)
    other.close()
    (row,) = court.judge([written()], "main")
    assert row.columns["score"] == 2.0 and loopback.seen == 1


def test_the_rubric_of_the_step_goes_before_that_of_a_row(court: Court, loopback: Loopback) -> None:
    court.judge([written(rubric="Is it short?")])
    court.judge([written(rubric="Is it short?")], rubric="Is it kind?")
    court.judge([written(text="Otherwise.")], read={"answer": "text"})
    assert "Rubric: Is it short?" in loopback.asked[0] and "Answer: Because." in loopback.asked[0]
    assert "Rubric: Is it kind?" in loopback.asked[1]
    assert "Rubric: The answer is correct" in loopback.asked[2] and "Answer: Otherwise." in loopback.asked[2]


# -- its own answers ---------------------------------------------------------------------------------------------------


def test_a_judge_does_not_score_its_own_answer(court: Court, loopback: Loopback, other: Loopback) -> None:
    (row,) = court.judge([written("main")], "main", "other")
    assert row.columns["score"] == 5.0 and (loopback.seen, other.seen) == (0, 1)
    assert row.trail[-1]["left_out"] == ["main"]
    (failed,) = court.judge([written("main")])
    assert isinstance(failed, Failure) and failed.lasting and failed.cause == "own_answer"
    assert "every judge wrote this answer itself; add another judge, or own_answers = true" in failed.detail
    assert loopback.seen == 0
    (row,) = court.judge([written("main")], own_answers=True)
    assert row.columns["score"] == 2.0 and "left_out" not in row.trail[-1]


def test_the_same_model_under_another_name_is_the_same_judge(court: Court, loopback: Loopback) -> None:
    court.tables["warm"] = f"base_url = '{loopback.url}'\nmodel = 'main-model'\nsampling = {{ temperature = 1.0 }}"
    court.tables["large"] = f"base_url = '{loopback.url}'\nmodel = 'large-model'"
    (failed,) = court.judge([written("warm")])
    assert failed.cause == "own_answer"
    (row,) = court.judge([written("large")])
    assert row.columns["score"] == 2.0, "another model at the same address is another judge"
    (row,) = court.judge([written("gone")])
    assert row.columns["score"] == 2.0, "a teacher that the recipe does not have is somebody else"


def test_of_a_pair_neither_author_judges(court: Court, loopback: Loopback, other: Loopback) -> None:
    loopback.behave = other.behave = preferring("good")
    row = pair()
    for column, teacher in (("a", "main"), ("b", "other")):
        row = row.passed({"step": "1.generate", "teacher": teacher, "wrote": [column]})
    (failed,) = court.judge([row], "main", "other", pair=["a", "b"])
    assert failed.cause == "own_answer"
    (kept,) = court.judge([row], "main", "other", pair=["a", "b"], own_answers=True)
    assert kept.columns["score"] == 1.0


def test_a_template_without_the_variable_answer_is_about_all_that_it_reads(court: Court) -> None:
    (court.folder / "prompts").mkdir()
    (court.folder / "prompts/own.toml").write_text(
        'description = "x"\nuser = "Grade {{ reasoning }}"\noutput = "json"\n'
        '[schema]\ntype = "object"\nrequired = ["score"]\nproperties = { score = { type = "integer" } }\n'
    )
    (failed,) = court.judge([written("main", reasoning="So.")], prompt="own")
    assert failed.cause == "own_answer"
    (row,) = court.judge([written(reasoning="So.")], prompt="own")
    assert row.columns["score"] == 2.0


EXCHANGED = {"step": "2.judge", "pair": ["a", "b"], "exchanged": True, "wrote": ["score"]}
A, B = ({"teacher": f"wrote-{name}", "wrote": [name]} for name in "ab")
PAIRED = {"keep": "pair", "on": "a", "chosen": {"id": "1"}, "rejected": {"id": "2", "steps": ({**A, "teacher": "it"},)}}


@pytest.mark.parametrize(
    ("trail", "column", "author"),
    [
        ([], "a", None),
        ([A, {**A, "teacher": "later"}, {"step": "2.filter"}], "a", "later"),
        ([{"wrote": ["a"]}], "a", None),
        ([A, B, EXCHANGED], "a", "wrote-b"),
        ([A, B, EXCHANGED], "b", "wrote-a"),
        ([A, B, EXCHANGED, EXCHANGED], "a", "wrote-a"),
        ([A, B, {**EXCHANGED, "exchanged": False}], "a", "wrote-a"),
        ([A, PAIRED], "chosen", "wrote-a"),
        ([A, PAIRED], "rejected", "it"),
        ([A, {**PAIRED, "rejected": {"steps": ()}}], "rejected", "wrote-a"),
    ],
)
def test_who_wrote_a_column(trail: list[dict[str, Any]], column: str, author: str | None) -> None:
    assert (record_of(trail, column) or {}).get("teacher") == author


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_a_pair_is_shown_in_both_orders_and_the_better_text_comes_first(court: Court, loopback: Loopback) -> None:
    loopback.behave = preferring("good")
    kept, exchanged = court.judge([pair(), pair("bad", "good", "s")], pair=["a", "b"])
    assert [(row.columns["a"], row.columns["b"], row.columns["score"]) for row in (kept, exchanged)] == [
        ("good", "bad", 1.0)
    ] * 2
    assert (kept.trail[-1]["exchanged"], exchanged.trail[-1]["exchanged"]) == (False, True)
    record = kept.trail[-1]
    assert (
        record["orders_agree"] == {"main": True} and record["pair"] == ["a", "b"] and record["prompt"] == "judge_pair"
    )
    assert [(said["order"], said["winner"]) for said in record["scores"]] == [
        (["a", "b"], "first"),
        (["b", "a"], "second"),
    ]
    assert loopback.seen == 2, "the second row asks the same two questions"


def test_a_judge_who_always_names_the_first_says_nothing(court: Court, loopback: Loopback) -> None:
    loopback.behave = preferring("first")
    (tie,) = court.judge([pair()], pair=["a", "b"])
    assert isinstance(tie, Rejection) and (tie.rule, tie.detail) == ("tie", "votes 1 : 1 (main: first, first)")
    assert tie.row.columns["a"] == "good" and tie.row.trail[-1]["orders_agree"] == {"main": False}


def test_a_judge_without_a_preference_leaves_it_to_the_others(
    court: Court, loopback: Loopback, other: Loopback
) -> None:
    loopback.behave, other.behave = preferring("tie"), preferring("good")
    (row,) = court.judge([pair("bad", "good")], "main", "other", pair=["a", "b"])
    assert row.columns["a"] == "good" and row.columns["score"] == 0.75
    assert row.trail[-1]["orders_agree"] == {"main": True, "other": True}
    (refused,) = court.judge([pair("bad", "good")], "main", "other", pair=["a", "b"], min_score=0.9)
    detail = "score 0.75 (votes 1 : 3 (main: tie, tie; other: second, first)), wants 0.9"
    assert (refused.rule, refused.detail) == ("low_score", detail)


def test_a_row_without_one_of_the_pair_fails(court: Court, loopback: Loopback) -> None:
    (failed,) = court.judge([written()], pair=["answer", "b"])
    assert (failed.cause, failed.detail) == ("template", "the row has no column 'b' to compare") and failed.lasting
    assert loopback.seen == 0


# -- judges that do not answer -----------------------------------------------------------------------------------------


def test_a_judge_who_keeps_to_no_schema_is_asked_twice_and_then_left_out(court: Court, loopback: Loopback) -> None:
    loopback.behave = lambda _: reply("Fine.")
    (row,) = court.judge([written()], "main", "other")
    assert row.columns["score"] == 5.0 and loopback.seen == 2
    assert "nothing but JSON that follows the schema" in loopback.asked[1]
    assert row.trail[-1]["missing"] == [
        {"judge": "main", "cause": "schema", "detail": "the reply is not JSON: 'Fine.' (asked 2 times)"}
    ]
    (failed,) = court.judge([written()])
    assert (failed.cause, failed.lasting) == ("schema", True) and failed.detail.startswith("judge 'main': the reply is")
    assert loopback.seen == 2, "both useless replies are stored"


def test_a_reply_that_is_mended_counts(court: Court, loopback: Loopback) -> None:
    loopback.script([reply("Four!")])
    (row,) = court.judge([written()])
    assert row.columns["score"] == 2.0 and loopback.seen == 2


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ('{"score": "high"}', "the score is no number: 'high'"),
        ('{"score": true}', "the score is no number: 'True'"),
        ("{}", "the score is no number: 'None'"),
    ],
)
def test_a_score_must_be_a_number(court: Court, loopback: Loopback, said: str, detail: str) -> None:
    (court.folder / "prompts").mkdir()
    own = 'description = "x"\nuser = "Grade {{ answer }}"\noutput = "json"\n[schema]\ntype = "object"\nproperties = { score = {} }'
    (court.folder / "prompts/own.toml").write_text(own)
    loopback.behave = lambda _: reply(said)
    (failed,) = court.judge([written(score=4)], prompt="own")
    assert (failed.cause, failed.detail, failed.lasting) == ("schema", f"judge 'main': {detail}", True)


@pytest.mark.parametrize(("cause", "lasting"), [("timeout", False), ("in_batch", False)])
def test_a_row_waits_for_a_judge_who_may_still_answer(court: Court, cause: str, lasting: bool) -> None:
    """A rerun finds the other's answer stored and asks for the missing one."""

    async def half(judge: Judge) -> Any:
        row = written()
        _, question = judge.questions(row)
        late = RowFailed(cause, "no answer yet", lasting=lasting, attempts=3, last_reply="<html>")
        return judge.joined(row, [late, await judge.ask(question)])

    (failed,) = court.judge([], "main", "other", work=half)
    assert failed == Failure(written(), "2.judge", cause, "judge 'main': no answer yet", False, 3, "<html>")


def test_of_a_pair_a_judge_counts_with_both_orders_or_not_at_all(
    court: Court, loopback: Loopback, other: Loopback
) -> None:
    loopback.behave, other.behave = preferring("first"), preferring("good")

    async def half(judge: Judge) -> Any:
        answers: list[Any] = [await judge.ask(question) for question in judge.questions(pair())]
        answers[2] = RowFailed("filtered", "the server refuses", lasting=True)
        return judge.joined(pair(), answers)

    (row,) = court.judge([], "main", "other", work=half, pair=["a", "b"])
    assert row.columns["score"] == 1.0 and list(row.trail[-1]["orders_agree"]) == ["other"]
    assert [missing["judge"] for missing in row.trail[-1]["missing"]] == ["main"]


# -- prompts -----------------------------------------------------------------------------------------------------------

SCHEMA = '[schema]\ntype = "object"\nrequired = ["{0}"]\nproperties = {{ {0} = {1} }}'


@pytest.mark.parametrize(
    ("text", "is_pair", "wrong"),
    [
        (SCHEMA.format("score", '{ type = "number" }'), False, None),
        (SCHEMA.format("score", '{ type = "string" }'), False, "its `score` must be a number"),
        (SCHEMA.format("mark", '{ type = "number" }'), False, "its JSON schema must require 'score'"),
        (SCHEMA.format("winner", '{ enum = ["first", "second"] }'), True, None),
        (SCHEMA.format("winner", '{ enum = ["a", "b"] }'), True, "its `winner` must be one of the labels first, second"),
        (SCHEMA.format("winner", '{ type = "string" }'), True, "its `winner` must be one of the labels"),
        (SCHEMA.format("score", '{ type = "number" }'), True, "its JSON schema must require 'winner'"),
    ],
)  # fmt: skip
def test_prompts_that_a_judge_can_use(tmp_path: Path, text: str, is_pair: bool, wrong: str | None) -> None:
    (tmp_path / "prompts").mkdir()
    user = 'description = "x"\nuser = "{{ first }} {{ second }}"\noutput = "json"\n'
    (tmp_path / "prompts/own.toml").write_text(user + text)
    found = wrong_prompt(load_prompt("own", tmp_path), is_pair=is_pair)
    assert found is None if wrong is None else found is not None and found.startswith(wrong)


def test_the_library_has_a_prompt_for_each_kind_of_judge() -> None:
    assert wrong_prompt(load_prompt("judge"), is_pair=False) is None
    assert wrong_prompt(load_prompt("judge_pair"), is_pair=True) is None
    assert "require 'score'" in (wrong_prompt(load_prompt("answer"), is_pair=False) or "")
    texts = (
        load_prompt("judge_pair").render({"question": "q", "first": one, "second": two}) for one, two in ("xy", "yx")
    )
    assert "First answer: x" in next(texts)[-1]["content"] and "First answer: y" in next(texts)[-1]["content"]


# -- whole builds ------------------------------------------------------------------------------------------------------

RECIPE = """
name = "demo"
[seeds]
path = "seeds.jsonl"
[teachers.main]
base_url = "{main}"
model = "writer"
[teachers.other]
base_url = "{other}"
model = "grader"
[[steps]]
use = "generate"
prompt = "answer"
teacher = "main"
[[steps]]
use = "judge"
teacher = ["main", "other"]
min_score = 3
[student]
prompt = "{{{{ question }}}}"
"""


@pytest.fixture
def judged(project: Project, loopback: Loopback, other: Loopback) -> Project:
    """Six questions, answered by one teacher and scored by the other: number 2 gets a low score."""
    other.behave = lambda body: graded(1 if "number 2?" in body["messages"][-1]["content"] else 4)(body)
    project.write("recipe.toml", RECIPE.format(main=loopback.url, other=other.url))
    project.seeds([{"question": f"What is number {n}?"} for n in range(6)])
    return project


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        ("min_score = 6", "`min_score` is 6, but the highest score of prompt 'judge' is 5 in recipe.toml:18 (steps[1]"),
        ('min_score = 2\npair = ["question", "answer"]', "`min_score` is 2, but the highest score of prompt 'judge_pair' is 1"),
    ],
)  # fmt: skip
def test_a_threshold_that_no_score_can_reach_is_told(
    judged: Project, other: Loopback, threshold: str, said: str
) -> None:
    judged.edit("min_score = 3", threshold)
    done = judged.run("build")
    assert done.returncode == 2 and said in " ".join(done.stderr.split()) and other.seen == 0


def test_a_build_with_a_judge_publishes_the_scores_and_asks_nothing_twice(
    judged: Project, loopback: Loopback, other: Loopback
) -> None:
    judged.build()
    assert (loopback.seen, other.seen) == (6, 6)
    assert [row["columns"]["score"] for row in judged.sidecar("provenance")] == [4.0] * 5
    (refused,) = judged.sidecar("rejected")
    assert (refused["rule"], refused["detail"]) == ("low_score", "score 1 (other 1), wants 3")
    assert "nothing changed" in judged.build().stderr and (loopback.seen, other.seen) == (6, 6)
    judged.edit("min_score = 3", "min_score = 0")
    judged.build("--offline")
    assert len(judged.rows(2)) == 6, "the threshold is no part of the question"


def test_a_build_in_which_the_writer_alone_is_judge_publishes_nothing(judged: Project, other: Loopback) -> None:
    judged.edit('teacher = ["main", "other"]', 'teacher = "main"')
    done = judged.run("build")
    assert done.returncode == 6 and "own_answer 6" in done.stderr and other.seen == 0
    assert "own_answers = true" in done.stderr


def test_a_build_knows_the_writer_by_every_name_it_has(judged: Project, loopback: Loopback, other: Loopback) -> None:
    judged.edit(
        'model = "grader"', f'model = "grader"\n[teachers.strict]\nbase_url = "{loopback.url}"\nmodel = "writer"'
    )
    judged.edit('teacher = ["main", "other"]', 'teacher = ["strict", "other"]')
    judged.build()
    assert (loopback.seen, other.seen) == (6, 6)
    assert {tuple(row["steps"][1]["left_out"]) for row in judged.sidecar("provenance")} == {("strict",)}
