"""What `plan` foresees is what a build then does: its calls, its price, how many requests the budget lets out at once."""

import json
from typing import Any

import pytest
from conftest import Project
from loopback import Loopback, answer, reply, words
from till import ONE, Till, late, number_of, priced


def plan(project: Project, *arguments: str) -> dict[str, Any]:
    done = project.run("plan", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


REREAD = """[[steps]]
use = "generate"
prompt = "answer"
read = { question = "answer" }
write = { answer = "second" }
"""


def test_a_plan_sends_nothing_and_writes_nothing(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 8)
    before = sorted(project.folder.rglob("*"))
    project.run("plan", "--budget", "5")
    assert loopback.seen == 0 and sorted(project.folder.rglob("*")) == before


def test_the_price_lies_in_the_range_and_the_calls_are_those_of_the_build(project: Project, loopback: Loopback) -> None:
    till = Till(loopback)
    foreseen = plan(priced(project, loopback, 20))
    teacher = foreseen["teachers"][0]
    assert (foreseen["steps"][0]["calls"], foreseen["steps"][0]["stored"], teacher["calls"]) == (20, 0, 20)
    assert teacher["tokens_from"].startswith("the bytes of the prompts") and teacher["prices"] == "recipe"
    project.build()
    high = foreseen["usd"][1]
    assert loopback.seen == teacher["calls"] and till.billed <= high
    foreseen = plan(project)
    assert (foreseen["steps"][0]["stored"], foreseen["teachers"][0]["calls"], foreseen["usd"]) == (20, 0, [0.0, 0.0])


def test_a_sample_narrows_the_range_and_its_answers_are_kept(project: Project, loopback: Loopback) -> None:
    till = Till(loopback)
    wide = plan(priced(project, loopback, 40))["usd"]
    narrow = plan(project, "--sample", "10")
    assert loopback.seen == 10 and not (project.folder / "datasets/demo/latest").exists()
    assert narrow["steps"][0]["stored"] == 10 and narrow["teachers"][0]["calls"] == 30
    assert narrow["teachers"][0]["tokens_from"] == "10 stored answers of this recipe"
    low, high = narrow["usd"]
    assert high - low < (wide[1] - wide[0]) / 2
    before = till.billed
    project.build()
    assert loopback.seen == 40 and low <= till.billed - before <= high, "the answers of the sample are not asked again"


def test_a_sample_keeps_to_the_budget(project: Project, loopback: Loopback) -> None:
    done = priced(project, loopback, 40).run("plan", "--sample", "30", "--budget", "2")
    assert done.returncode == 5 and "DG411" in done.stderr and 0 < loopback.seen < 10
    assert plan(project)["steps"][0]["stored"] == loopback.seen


@pytest.mark.parametrize("key", ["usd", "usd_total"])
def test_it_says_how_many_the_budget_lets_out_at_once(project: Project, loopback: Loopback, key: str) -> None:
    loopback.behave = lambda body: late(body, 0.2)
    priced(project, loopback, 30).edit("[dataset]", f"[budget]\n{key} = 5\n\n[dataset]")
    at_once = plan(project)["teachers"][0]["in_flight_on_budget"]
    said = project.run("plan").stdout
    assert f"the budget's reservations allow {at_once} in flight" in said and f"budget   {key} = 5" in said
    project.run("build")
    assert loopback.peak == at_once == 3


def test_what_is_left_of_the_life_of_the_dataset_counts(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 30).edit("[dataset]", "[budget]\nusd_total = 5\n\n[dataset]")
    project.run("build", "--limit", "20")
    assert plan(project)["teachers"][0]["in_flight_on_budget"] == int((5 - 20 * float(ONE)) / 1.378)


def test_without_max_tokens_there_is_no_upper_end(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 5).edit("sampling = { max_tokens = 100 }", "sampling = {}")
    low, high = plan(project)["usd"]
    assert low > 0 and high is None and "or more (no max_tokens)" in project.run("plan").stdout


def test_an_unknown_price_is_said_to_be_unknown_and_never_guessed(demo: Project) -> None:
    foreseen = plan(demo)
    assert foreseen["usd"] is None and foreseen["teachers"][0]["prices"] is None
    said = demo.run("plan").stdout
    assert "cost     unknown: a price is not known" in said and "prices from nowhere: unknown" in said


@pytest.mark.parametrize(
    ("old", "new", "words_said"),
    [
        ("max_tokens = 100", "temperature = 1", "a budget needs `max_tokens`"),
        ("prices = { input = 1000, output = 10000 }", "", "no price is known for 'scripted', so [budget] cannot hold"),
    ],
    ids=["no-max-tokens", "no-price"],
)
def test_it_warns_of_a_budget_that_a_build_would_refuse(
    project: Project, loopback: Loopback, old: str, new: str, words_said: str
) -> None:
    priced(project, loopback, 5).edit(old, new)
    warned = project.run("plan", "--budget", "5")
    assert warned.returncode == 0 and "warning: " in warned.stderr and words_said in warned.stderr
    refused = project.run("build", "--budget", "5")
    assert refused.returncode == 2 and words_said in refused.stderr and loopback.seen == 0


def test_of_a_list_of_teachers_only_the_first_is_reckoned_with(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 6)
    project.edit(
        '[[steps]]\nuse = "generate"',
        f'[teachers.spare]\nbase_url = "{loopback.url}"\nmodel = "dear"\n\n[[steps]]\nuse = "generate"\nteacher = ["main", "spare"]',
    )
    asked = {teacher["teacher"]: teacher["calls"] for teacher in plan(project)["teachers"]}
    assert asked == {"main": 6, "spare": 0}
    project.build()
    assert {body["model"] for body in loopback.bodies} == {"scripted"}


def test_calls_that_depend_on_answers_are_told_apart(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 4)
    second = '[[steps]]\nuse = "generate"\nprompt = "answer"\nread = { question = "answer" }\nwrite = { answer = "more" }\n\n'
    project.edit("[student]", second + "[student]")
    foreseen = plan(project)
    assert foreseen["steps"][0]["calls"] == 4
    last = foreseen["steps"][-1]
    assert (last["step"], last["calls"], last["more"]) == ("4.generate", 0, 4)
    assert (
        "4.generate 0 answers stored, 0 calls, and up to 4 more for rows that have no answer yet"
        in project.run("plan").stdout
    )


def test_samples_count_as_calls_of_their_own(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(words(body["messages"][-1]["content"] + str(loopback.seen)))
    foreseen = plan(priced(project, loopback, 5), "--set", "steps.0.samples=3", "--limit", "4")
    assert foreseen["teachers"][0]["calls"] == 12
    project.build("--set", "steps.0.samples=3", "--limit", "4")
    assert loopback.seen == 12


def test_it_shows_the_prompt_that_is_sent(project: Project, loopback: Loopback) -> None:
    messages = plan(priced(project, loopback, 1))["prompts"][0]["messages"]
    project.build()
    assert loopback.bodies[0]["messages"] == messages


def test_it_shows_no_prompt_that_is_never_sent(project: Project, loopback: Loopback) -> None:
    """A second step reads what the first will write, under the name of a column that is there already."""
    priced(project, loopback, 3)
    project.edit("[student]", f"{REREAD}\n[student]")
    seen = json.loads(project.run("plan", "--json").stdout)["prompts"]
    assert [each["step"] for each in seen] == ["1.generate"]
    project.build()
    seen = json.loads(project.run("plan", "--json").stdout)["prompts"]
    assert [each["step"] for each in seen] == ["1.generate", "4.generate"] and "About 0" in str(seen[1])


def test_rows_that_are_rejected_need_no_further_calls(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply("no") if number_of(body) < 2 else answer(body)
    priced(project, loopback, 5).build()
    foreseen = plan(project)
    assert [step.get("rows") for step in foreseen["steps"]] == [5, 5, 3] and foreseen["warnings"] == []
