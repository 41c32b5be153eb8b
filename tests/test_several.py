"""Several teachers, several samples: who answers a row, who steps in, and how many requests that takes."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import RECIPE, Project
from loopback import Loopback, Say, answer, error, reply, words
from till import PRICES, called

from distillgen.teacher.several import drawn


@pytest.fixture
def second() -> Iterator[Loopback]:
    """Another teacher, with words of its own."""
    server = Loopback()
    server.behave = lambda body: reply(words("second " + body["messages"][-1]["content"]))
    yield server
    server.close()


@pytest.fixture
def pair(project: Project, loopback: Loopback, second: Loopback) -> Project:
    """Twelve questions for the teachers `first` and `second`; the step names them in a list."""
    text = RECIPE.format(url=loopback.url).replace("[teachers.main]", "[teachers.first]")
    other = f'[teachers.second]\nbase_url = "{second.url}"\nmodel = "other"\nsampling = {{ max_tokens = 100 }}\n\n'
    text = text.replace("[[steps]]", other + "[[steps]]", 1)
    project.write("recipe.toml", text.replace('prompt = "answer"', 'prompt = "answer"\nteacher = ["first", "second"]'))
    project.seeds([{"question": f"What is number {n}?"} for n in range(12)])
    return project


def teachers_of(project: Project, number: int = 1) -> Counter[str]:
    """Count the published rows of each teacher, as their provenance says."""
    return Counter(row["steps"][0]["teacher"] for row in project.sidecar("provenance", number))


def test_of_a_list_only_the_first_is_asked_while_it_can_answer(
    pair: Project, loopback: Loopback, second: Loopback
) -> None:
    pair.build()
    assert (loopback.seen, second.seen) == (12, 0) and teachers_of(pair) == {"first": 12}


OUT = {
    "down": Say(503, b"no"),
    "out-of-quota": error(429, "insufficient_quota", "used up"),
    "unpaid": error(402, "", "pay first"),
    "key-refused": error(401, "invalid_api_key", "bad key"),
}


@pytest.mark.parametrize("fault", OUT.values(), ids=OUT.keys())
def test_when_the_first_is_out_the_second_answers_everything(
    pair: Project, loopback: Loopback, second: Loopback, fault: Say
) -> None:
    loopback.behave = lambda _: Say(fault.status, fault.body, {"Retry-After": "0"})
    pair.build()
    assert loopback.seen <= 3, "it is not asked again in this run"
    assert second.seen == 12 and teachers_of(pair) == {"second": 12}
    assert {row["steps"][0]["model"] for row in pair.sidecar("provenance")} == {"scripted"}  # what the server says


def test_a_stored_answer_of_any_teacher_goes_before_a_call(pair: Project, loopback: Loopback, second: Loopback) -> None:
    healthy, loopback.behave = loopback.behave, lambda _: error(402, "", "pay first")
    pair.build()
    asked, loopback.behave = loopback.seen, healthy
    assert "nothing changed" in pair.build().stderr and (loopback.seen, second.seen) == (asked, 12)
    pair.build("--prefer-first")
    assert (loopback.seen, second.seen) == (asked + 12, 12) and teachers_of(pair, 2) == {"first": 12}
    pair.edit('["first", "second"]', '["second", "first"]')
    pair.build()
    assert (loopback.seen, second.seen) == (asked + 12, 12), "in the order of the list"
    assert teachers_of(pair, 3) == {"second": 12}


def test_when_the_first_runs_dry_in_the_middle_no_row_is_lost(
    pair: Project, loopback: Loopback, second: Loopback
) -> None:
    loopback.behave = lambda body: answer(body) if loopback.seen <= 5 else error(429, "insufficient_quota", "used up")
    pair.build()
    written = teachers_of(pair)
    assert written["first"] == 5 and written["second"] == second.seen == 7


def test_when_all_are_out_the_last_one_says_why(pair: Project, loopback: Loopback, second: Loopback) -> None:
    loopback.behave = lambda _: error(402, "", "pay first")
    second.behave = lambda _: error(402, "", "pay me too")
    done = pair.run("build")
    assert done.returncode == 5 and "teacher 'second'" in done.stderr and "pay me too" in done.stderr


def test_a_budget_that_is_spent_is_no_reason_to_ask_the_next(
    pair: Project, loopback: Loopback, second: Loopback
) -> None:
    pair.recipe.write_text(pair.recipe.read_text().replace("sampling =", f"{PRICES}\nsampling ="))
    done = pair.run("build", "--budget", "1.5")
    assert done.returncode == 5 and "DG411" in done.stderr and loopback.seen and not second.seen


def test_weights_share_the_rows_by_their_ids(pair: Project, loopback: Loopback, second: Loopback) -> None:
    pair.edit('["first", "second"]', "{ first = 1, second = 3 }")
    pair.build()
    expected = Counter(drawn({"first": 1, "second": 3}, row["id"], 0) for row in pair.sidecar("provenance"))
    assert teachers_of(pair) == expected and (loopback.seen, second.seen) == (expected["first"], expected["second"])
    assert second.seen > loopback.seen > 0
    (pair.folder / ".distillgen/answers.sqlite").unlink()
    assert "nothing changed" in pair.build().stderr, "every row keeps its teacher"


def test_the_weights_are_met_over_many_rows() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 7.0}
    count = Counter(drawn(weights, f"row{n}", sample) for n in range(3000) for sample in range(2))
    assert all(abs(count[name] / 6000 - weight / 10) < 0.02 for name, weight in weights.items())
    assert drawn({"a": 2, "b": 4}, "x", 0) == drawn({"a": 1, "b": 2}, "x", 0), "only their proportion counts"


def test_compare_makes_a_row_of_each_teacher(pair: Project, loopback: Loopback, second: Loopback) -> None:
    pair.edit('["first", "second"]', '["first", "second"]\ncompare = true')
    pair.build()
    assert (loopback.seen, second.seen) == (12, 12) and teachers_of(pair) == {"first": 12, "second": 12}
    rows = pair.sidecar("provenance")
    assert {row["id"].rpartition(".")[2]: row["steps"][0]["teacher"] for row in rows} == {"0": "first", "1": "second"}
    assert len({row["split"] for row in rows if row["origin"] == rows[0]["origin"]}) == 1


@pytest.mark.parametrize(
    ("teacher", "words_said"),
    [
        ('["first", "secnod"]', "unknown teacher 'secnod' in recipe.toml:21 (steps[0].teacher)\n      did you mean 'second'?"),
        ('["first", "first"]', "the same teacher twice"),
        ("[]", "name at least one teacher"),
        ("{ first = 0, second = 1 }", "the weight of 'first' must be above 0"),
        ("{ first = -1 }", "the weight of 'first' must be above 0"),
        ("{ first = nan }", "'first' is nan: input should be a finite number in recipe.toml:21 (steps[0].teacher.first)"),
        ('{ first = "2" }', "'first' is '2': input should be a valid number in recipe.toml:21 (steps[0].teacher.first)"),
        ("3", "'teacher' is 3: input should be a valid string in recipe.toml:21 (steps[0].teacher)"),
        ('["first", "second"]\ncompare = true\nsamples = 2', "`compare` goes with a list of teachers and one sample of each"),
        ('"first"\ncompare = true', "`compare` goes with a list of teachers and one sample of each in recipe.toml:18 (steps[0])"),
        ("{ first = 1, second = 1 }\ncompare = true", "`compare` goes with a list of teachers and one sample of each"),
    ],
    ids=["misspelt", "twice", "none", "weight-0", "weight-negative", "weight-nan", "weight-text", "number",
         "compare-samples", "compare-one", "compare-weights"],
)  # fmt: skip
def test_teachers_that_cannot_be_meant(pair: Project, loopback: Loopback, teacher: str, words_said: str) -> None:
    pair.edit('["first", "second"]', teacher)
    done = called(pair, "build")
    assert done.exit_code == 2 and words_said in done.stderr, done.stderr
    assert done.stderr.count("DG103") == 1, "one mistake, one message"
    assert loopback.seen == 0


class Together:
    """A server that takes `n`: it answers as many choices, and counts its calls by their number."""

    def __init__(self, loopback: Loopback) -> None:
        self.asked: list[int] = []
        loopback.behave = self.behave

    def behave(self, body: dict[str, Any]) -> Say:
        n, asked = body.get("n", 1), body["messages"][-1]["content"]
        self.asked.append(n)
        texts = [words(f"{asked} {len(self.asked)} {number}") for number in range(n)]
        choices = [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            for i, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 7, "completion_tokens": 11 * n, "total_tokens": 7 + 11 * n}
        return Say(body=json.dumps({"model": "scripted", "choices": choices, "usage": usage}).encode())


@pytest.fixture
def vllm(demo: Project) -> Project:
    """A project of four questions whose teacher takes several samples at once."""
    demo.edit('base_url = "', 'provider = "vllm"\nbase_url = "')
    demo.edit("[student]", "[student]\n")
    demo.seeds([{"question": f"What is number {n}?"} for n in range(4)])
    return demo


def test_samples_of_one_prompt_go_in_one_request(vllm: Project, loopback: Loopback) -> None:
    server = Together(loopback)
    vllm.build("--set", "steps.0.samples=5")
    assert server.asked == [5] * 4 and len(vllm.rows()) == 20
    vllm.build("--set", "steps.0.samples=7")
    assert server.asked[4:] == [2] * 4, "samples are stored one by one"
    assert len(vllm.rows(2)) == 28
    vllm.build("--set", "steps.0.samples=3")
    assert len(server.asked) == 8 and len(vllm.rows(3)) == 12
    status = json.loads(vllm.run("status", "--json").stdout)
    assert status["stored_answers"] == status["spent"]["calls"] == 28
    assert status["spent"]["prompt_tokens"] == 8 * 7 and status["spent"]["completion_tokens"] == 28 * 11


def test_many_samples_are_asked_in_groups(vllm: Project, loopback: Loopback) -> None:
    server = Together(loopback)
    vllm.build("--set", "steps.0.samples=35", "--limit", "1")
    assert sorted(server.asked) == [3, 16, 16]


def test_a_group_that_comes_short_is_asked_again(vllm: Project, loopback: Loopback) -> None:
    server = Together(loopback)
    whole = server.behave
    loopback.behave = lambda body: whole({**body, "n": 2}) if not server.asked else whole(body)
    done = vllm.build("--set", "steps.0.samples=4")
    assert server.asked[:2] == [2, 4] and len(vllm.rows()) == 16, done.stderr


def test_a_budget_counts_all_samples_of_a_request(vllm: Project, loopback: Loopback) -> None:
    server = Together(loopback)
    vllm.edit("sampling =", f"{PRICES}\nsampling =")
    few = vllm.run("build", "--set", "steps.0.samples=4", "--budget", "4")
    assert few.returncode == 5 and server.asked == [] and "may cost $4.37" in few.stderr
    done = vllm.run("build", "--set", "steps.0.samples=4", "--budget", "4.5", "--json")
    assert done.returncode == 5 and server.asked == [4], "a second request might cost more than what is left"
    assert "Traceback" not in done.stderr and "never retrieved" not in done.stderr
    spent = json.loads(vllm.run("status", "--json").stdout)["spent"]
    assert round(spent["usd"], 6) == 0.447 and spent["unknown_calls"] == 0


def test_logprobs_become_a_column(demo: Project, loopback: Loopback) -> None:
    def behave(body: dict[str, Any]) -> Say:
        assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
        said = json.loads(answer(body).body)
        top = [{"token": "About", "logprob": -0.1}, {"token": "On", "logprob": -2.5}]
        said["choices"][0]["logprobs"] = {"content": [{"token": "About", "logprob": -0.1, "top_logprobs": top}]}
        return Say(body=json.dumps(said).encode())

    loopback.behave = behave
    demo.edit("max_tokens = 100", "max_tokens = 100, logprobs = true, top_logprobs = 2")
    demo.build("--limit", "2")
    columns = demo.sidecar("provenance")[0]["columns"]
    assert columns["logprobs"] == [{"token": "About", "logprob": -0.1, "top": [["About", -0.1], ["On", -2.5]]}]
    assert "logprobs" not in demo.rows()[0]


def labelled(project: Project) -> Project:
    project.edit('prompt = "answer"', 'prompt = "label"\nlabels = ["good", "bad"]')
    text = project.recipe.read_text()
    start, end = text.index('[[steps]]\nuse = "filter"'), text.index("[student]")
    text = text[:start] + text[end:].replace("{{ answer }}", "{{ label }}").replace("{{ question }}", "{{ text }}")
    project.recipe.write_text(text)
    project.seeds([{"text": f"Text number {n}"} for n in range(6)])
    return project


def test_a_reply_off_its_schema_is_asked_for_once_more_politely(demo: Project, loopback: Loopback) -> None:
    def behave(body: dict[str, Any]) -> Say:
        said = body["messages"]
        if said[-1]["role"] == "user" and said[-1]["content"].startswith("Thank you, but"):
            return reply('{"label": "good"}')
        return reply('{"label": "fine"}') if "number 2" in said[-1]["content"] else reply('{"label": "bad"}')

    loopback.behave = behave
    labelled(demo).build("--json")
    assert loopback.seen == 7
    again = next(
        body for body in loopback.bodies if len(body["messages"]) > 2 and body["messages"][-2]["role"] == "assistant"
    )
    assert again["messages"][-2]["content"] == '{"label": "fine"}'
    assert '"fine" is not one of' in again["messages"][-1]["content"].replace("'fine'", '"fine"')
    asked = {row["columns"]["text"]: row["steps"][0].get("asked") for row in demo.sidecar("provenance")}
    assert asked["Text number 2"] == 2 and set(asked.values()) == {None, 2}
    assert demo.manifest()["run"]["calls"] == 7
    assert "nothing changed" in demo.build().stderr and loopback.seen == 7, "both replies are stored"


def test_a_reply_that_stays_off_its_schema_fails_its_row_for_good(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply("well, it depends" if "number 2" in json.dumps(body) else '{"label": "bad"}')
    done = labelled(demo).run("build")
    assert done.returncode == 0 and loopback.seen == 7
    failed = demo.sidecar("failed")
    assert [(row["cause"], row["attempts"], row["lasting"]) for row in failed] == [("schema", 2, True)]
    assert "asked 2 times" in failed[0]["detail"] and "not JSON: 'well, it depends'" in failed[0]["detail"]
    demo.build()
    assert loopback.seen == 7
