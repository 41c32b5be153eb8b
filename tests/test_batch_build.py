"""Batch mode through the command line: submitted by one build, collected by the next, resubmitted in part, on a budget."""

import json

import orjson
import pytest
from batch_server import BatchServer, Plan
from conftest import RECIPE, Project

BATCH = 'mode = "batch"\nsampling ='
PRICED = "prices = { input = 1.0, output = 10.0, batch_factor = 0.5 }\n"


@pytest.fixture
def batched(project: Project, provider: BatchServer) -> Project:
    """A project of twenty questions whose teacher is asked in batches."""
    project.write("recipe.toml", RECIPE.format(url=provider.url).replace("sampling =", BATCH))
    project.seeds([{"question": f"What is number {n}?"} for n in range(20)])
    return project


def test_one_build_submits_and_a_later_one_publishes(batched: Project, provider: BatchServer) -> None:
    provider.plan(Plan(polls=1))
    first = batched.run("build", "--json")
    assert first.returncode == 3 and "0 of 20 answered" in first.stderr and "nothing is published" in first.stderr
    [pending] = json.loads(first.stdout)["pending"]
    assert pending["requests"] == 20 and pending["id"] in provider.batches
    [known] = json.loads(batched.run("status", "--json").stdout)["batches"]
    assert known["id"] == pending["id"] and known["requests"] == 20
    assert f"batch     {pending['id']}: " in batched.run("status").stdout
    assert batched.run("build").returncode == 3, "not yet done"
    done = batched.run("build")
    assert done.returncode == 0, done.stderr
    assert batched.manifest()["rows"] == 20 and len(provider.asked) == 20
    assert json.loads(batched.run("status", "--json").stdout)["batches"] == []
    again = batched.run("build")
    assert again.returncode == 0 and "nothing changed" in again.stderr and len(provider.asked) == 20
    assert batched.run("build", "--offline").returncode == 0


def test_only_the_remainder_of_an_expired_batch_is_submitted_again(batched: Project, provider: BatchServer) -> None:
    provider.plan(Plan(ends="expired", share=0.5))
    assert batched.run("build").returncode == 3
    assert batched.run("build").returncode == 3
    assert batched.run("build").returncode == 0
    assert len(provider.asked) == 30 and batched.manifest()["rows"] == 20


def test_live_and_batch_share_their_answers(batched: Project, provider: BatchServer) -> None:
    assert batched.run("build").returncode == 3
    assert batched.run("build").returncode == 0
    live = batched.run("build", "--set", "teachers.main.mode='live'", "--offline")
    assert live.returncode == 0 and "nothing changed" in live.stderr


def test_each_generate_step_is_one_round_and_plan_says_so(batched: Project, provider: BatchServer) -> None:
    batched.edit(
        '[[steps]]\nuse = "filter"',
        '[[steps]]\nuse = "generate"\nprompt = "answer"\nread = { question = "answer" }\n'
        'write = { answer = "second" }\n\n[[steps]]\nuse = "filter"',
    )
    batched.edit("sampling =", PRICED + "sampling =")
    plan = json.loads(batched.run("plan", "--json").stdout)
    assert plan["builds"] == 3
    low, high = plan["usd"]
    assert 0 < low < high
    assert batched.run("build").returncode == 3 and json.loads(batched.run("plan", "--json").stdout)["builds"] == 3
    assert batched.run("build").returncode == 3
    assert batched.run("build").returncode == 0
    assert len(provider.asked) == 40


def test_what_a_batch_cost_is_counted_when_it_is_collected(batched: Project, provider: BatchServer) -> None:
    batched.edit("sampling =", PRICED + "sampling =")
    assert batched.run("build").returncode == 3
    assert json.loads(batched.run("status", "--json").stdout)["spent"]["usd"] == 0
    assert batched.run("build").returncode == 0
    spent = json.loads(batched.run("status", "--json").stdout)["spent"]
    assert spent["calls"] == 20 and spent["usd"] == pytest.approx(20 * (7 * 0.5 + 11 * 5) / 1e6)
    assert batched.manifest()["run"]["usd"] == pytest.approx(spent["usd"])


def test_a_budget_bounds_what_is_submitted_in_a_run(batched: Project, provider: BatchServer) -> None:
    batched.edit("sampling =", PRICED + "sampling =")
    # A request costs at most its bytes at 0.5 and 100 tokens at 5 dollars a million: some 0.0007.
    first = batched.run("build", "--budget", "0.0035")
    assert first.returncode == 3 and "wait for another run" in first.stderr
    submitted = len(provider.asked)
    assert 3 <= submitted <= 6
    worst = sum(len(orjson.dumps(body["messages"])) * 0.5 + 100 * 5 for body in provider.asked) / 1e6
    assert worst <= 0.0035
    runs = 1
    while batched.run("build", "--budget", "0.0035").returncode != 0:
        runs += 1
        assert runs < 12
    assert len(provider.asked) == 20 and batched.manifest()["rows"] == 20
    batched.edit(
        "epoch = 1\n" if "epoch" in batched.recipe.read_text() else "[teachers.main]\n", "[teachers.main]\nepoch = 1\n"
    )
    nothing = batched.run("build", "--budget", "0.0001")
    assert nothing.returncode == 5 and "budget" in nothing.stderr and len(provider.asked) == 20


def test_a_total_budget_counts_what_is_under_way(batched: Project, provider: BatchServer) -> None:
    batched.edit("sampling =", PRICED + "sampling =")
    batched.recipe.write_text(batched.recipe.read_text() + "\n[budget]\nusd_total = 0.0035\n")
    provider.plan(Plan(polls=5))
    assert batched.run("build").returncode == 3
    submitted = len(provider.asked)
    assert batched.run("build").returncode == 3
    assert len(provider.asked) == submitted, "the money of a batch under way is not spent twice"


def test_a_key_that_is_refused_stops_the_build(batched: Project, provider: BatchServer) -> None:
    from loopback import error

    provider.fault("POST /files", [error(401, "invalid_api_key", "bad key")] * 3)
    done = batched.run("build")
    assert done.returncode == 4 and "bad key" in done.stderr and not provider.asked


def test_a_target_queues_no_more_than_it_needs(batched: Project, provider: BatchServer) -> None:
    batched.edit("[dataset]\n", "[dataset]\ntarget_rows = 5\n")
    assert batched.run("build").returncode == 3
    assert len(provider.asked) <= 6
    while (done := batched.run("build")).returncode == 3:
        assert len(provider.asked) <= 8
    assert done.returncode == 0 and batched.manifest()["rows"] == 5 and batched.manifest()["ends"] == "target_rows"


def test_providers_without_batches_and_pipes_say_so(batched: Project) -> None:
    batched.edit("base_url", 'provider = "deepseek"\nbase_url')
    done = batched.run("build")
    assert done.returncode == 2 and "no batch mode is known of deepseek" in done.stderr
    pipe = batched.run(
        "generate", "-p", "answer", "-m", "x", "--base-url", "http://127.0.0.1:9/v1", "--set",
        "teachers.main.mode='batch'", stdin='{"question": "x"}\n',
    )  # fmt: skip
    assert pipe.returncode == 2 and "a pipe does not wait" in pipe.stderr
