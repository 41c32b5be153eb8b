"""What a budget does to a build: it is never overshot as the server counts, and what was decided can be published."""

import itertools
import json
import random
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from loopback import Loopback, Say, answer, error, reply, words
from till import ONE, WORST, Till, another, late, number_of, priced


def outcome(done: Any) -> dict[str, Any]:
    """Return what a build with --json said, once it is sure that people got one clear text."""
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def money(usd: float) -> Decimal:
    return round(Decimal(usd), 9)


def contents(project: Project, number: int) -> dict[str, str]:
    """Return the digests of what a version's rows are made of, whatever its files are called."""
    files = project.manifest(number)["files"]
    return {
        name: entry["content_sha256"] for name, entry in files.items() if name not in ("README.md", "failed.jsonl.zst")
    }


def test_a_nightly_job_grows_a_dataset_for_a_fixed_sum_until_it_is_full(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 100, "target_rows = 30\n")
    loopback.behave = lambda body: reply("Too short") if number_of(body) % 5 == 4 else answer(body)
    till, command = Till(loopback), ("build", "--budget", "3", "--publish-partial", "--json")
    before, billed, rows, total = b"", Decimal(0), 0, Decimal(0)
    for night in range(1, 10):
        done = project.run(*command)
        said = outcome(done)
        data = b"".join(path.read_bytes() for path in sorted((project.version(night) / "data").glob("train-*")))
        assert data.startswith(before) and len(data) > len(before), "every night keeps the rows before it"
        assert said["rows"] > rows and said["version"] == f"demo@{night}"
        assert money(said["usd"]) == till.billed - billed <= 3
        before, billed, rows, total = data, till.billed, said["rows"], total + money(said["usd"])
        if done.returncode == 0:
            break
        assert (done.returncode, said["ends"], said["stopped_by"]) == (5, "stopped", "DG411")
        assert "DG411" in done.stderr and "published demo@" in done.stderr
    assert 1 < night < 9 and rows == 30 and said["ends"] == "target_rows"
    assert project.manifest(night)["rows"] == 30 and project.manifest(night)["seeds"]["count"] == 37
    spent = json.loads(project.run("status", "--json").stdout)["spent"]
    assert money(spent["usd"]) == total == till.billed and spent["calls"] == till.calls == loopback.seen
    for _ in range(2):
        done = project.run(*command)
        said = outcome(done)
        assert done.returncode == 0 and (said["version"], said["unchanged"]) == (None, f"demo@{night}")
        assert (said["calls"], said["usd"]) == (0, 0) and loopback.seen == till.calls
    assert not project.version(night + 1).exists()


SECOND = """use = "deduplicate"
on = "answer"

[[steps]]
use = "generate"
prompt = "answer"
read = { question = "answer" }
write = { answer = "second" }
"""


def in_disorder(body: dict[str, Any]) -> Say:
    """Answer in no order at all: some are rejected, some are duplicates, one is refused for good."""
    number = number_of(body)
    wait = random.Random(number).random() / 10
    if number == 3:
        return error(400, "context_length_exceeded", "too long")
    text = {0: "Too short", 1: words("the same for all")}.get(number % 6, words(body["messages"][-1]["content"]))
    return Say(body=reply(text).body, wait=wait)


@pytest.mark.parametrize(
    ("more", "arguments", "code"),
    [("", ("--budget", "4", "--publish-partial"), 5), ("target_rows = 9\n", (), 0)],
    ids=["stopped-by-budget", "target-reached"],
)
def test_a_partial_version_is_the_same_prefix_of_a_whole_one(
    project: Project, tmp_path: Path, loopback: Loopback, more: str, arguments: tuple[str, ...], code: int
) -> None:
    loopback.behave = in_disorder
    done = priced(project, loopback, 60, more).run("build", *arguments)
    assert done.returncode == code, done.stderr
    count = project.manifest()["seeds"]["count"]
    assert 6 < count < 60
    whole = another(tmp_path / "whole", loopback, 60)
    whole.run("build", "--limit", str(count))
    assert contents(project, 1) == contents(whole, 1)
    assert project.manifest()["digest"] == whole.manifest()["digest"]
    assert [row["id"] for row in project.sidecar("failed")] == [row["id"] for row in whole.sidecar("failed")] != []


@pytest.mark.parametrize("key", ["usd", "usd_total"], ids=["each-run-may-spend-it", "all-runs-together"])
def test_a_budget_is_never_overshot_as_the_server_counts(project: Project, loopback: Loopback, key: str) -> None:
    chance = random.Random(1)

    def behave(body: dict[str, Any]) -> Say:
        """Reply late, of any length up to the limit, sometimes in pieces that arrive torn: billed all the same."""
        usage = {"prompt_tokens": chance.randint(1, 40), "completion_tokens": chance.choice([1, 20, 100])}
        said = reply(words(body["messages"][-1]["content"]), usage=usage)
        return Say(body=said.body, wait=chance.random() / 20, cut=chance.random() < 0.1)

    loopback.behave = behave
    priced(project, loopback, 200).edit("[dataset]", f"[budget]\n{key} = 12\n\n[dataset]")
    till = Till(loopback)
    limit = Decimal(12)
    for run in (1, 2):
        done = project.run("build")
        assert done.returncode == 5 and f"DG411 budget.{key} = 12.0 is used up" in done.stderr, done.stderr
        most = limit * (run if key == "usd" else 1)
        assert till.billed <= most, "more was spent than the budget allows"
    assert loopback.peak > 1 and till.billed > 6
    status = json.loads(project.run("status", "--json").stdout)["spent"]
    cut = till.calls - status["calls"]
    assert status["unknown_calls"] == cut > 0
    assert money(status["usd"]) < till.billed < money(status["usd"] + status["unknown_usd"]) <= most


def test_what_a_killed_run_had_under_way_counts_against_the_life_of_the_dataset(
    project: Project, loopback: Loopback
) -> None:
    loopback.behave = lambda body: late(body, 0.0 if number_of(body) < 2 else 60)
    priced(project, loopback, 20).edit("[dataset]", "[budget]\nusd_total = 5\n\n[dataset]")
    running = project.start("build")
    while loopback.seen < 5:
        time.sleep(0.02)
    running.kill()
    running.communicate()
    status = json.loads(project.run("status", "--json").stdout)
    assert status["spent"]["unknown_calls"] == 3 and status["stored_answers"] == 2 and status["at_work"] is None
    assert money(status["spent"]["usd"]) == 2 * ONE and 3 < status["spent"]["unknown_usd"] < 3 * WORST
    loopback.behave = answer
    asked = loopback.seen
    done = project.run("build")
    assert done.returncode == 5 and "budget.usd_total = 5.0 is used up" in done.stderr
    assert loopback.seen == asked, "three requests of unknown outcome leave no room for a fourth"


def test_ctrl_c_on_a_budget_keeps_what_is_paid_for_and_goes_on(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: late(body, 0.3)
    till = Till(loopback)
    priced(project, loopback, 12)
    running = project.start("build", "--budget", "10")
    while loopback.seen < 4:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130 and "DG001 stopped" in said and "Traceback" not in said
    status = json.loads(project.run("status", "--json").stdout)
    assert status["spent"]["unknown_calls"] == 0 and money(status["spent"]["usd"]) == till.billed
    done = outcome(project.run("build", "--budget", "10", "--json"))
    assert done["rows"] == 12 and loopback.seen == till.calls == 12, "nothing is paid for twice"


def test_the_cost_that_a_provider_reports_goes_before_all_prices(project: Project, loopback: Loopback) -> None:
    def behave(body: dict[str, Any]) -> Say:
        usage = {"prompt_tokens": 7, "completion_tokens": 11, "cost": 0.0123}
        return reply(words(body["messages"][-1]["content"]), usage=usage)

    loopback.behave = behave
    said = outcome(priced(project, loopback, 10).run("build", "--json"))
    spent = json.loads(project.run("status", "--json").stdout)["spent"]
    manifest = project.manifest()["run"]
    assert money(said["usd"]) == money(spent["usd"]) == money(manifest["usd"]) == Decimal("0.123")
    assert manifest["calls"] == spent["calls"] == said["calls"] == 10


def test_a_price_that_is_not_known_is_said_to_be_unknown(demo: Project) -> None:
    refused = demo.run("build", "--budget", "1")
    assert refused.returncode == 2 and "no price is known for 'scripted'" in refused.stderr
    done = demo.run("build", "--budget", "1", "--allow-unknown-price", "--json")
    said = outcome(done)
    assert (said["rows"], said["usd"], said["unpriced_calls"]) == (20, 0, 20)
    assert "220 out · cost unknown ·" in done.stderr
    assert "unknown price" in demo.run("status").stdout


def test_the_summary_says_what_a_run_cost(project: Project, loopback: Loopback) -> None:
    assert "calls 2 · tokens 14 in, 22 out · cost $0.2340 ·" in priced(project, loopback, 2).build().stderr


def test_a_budget_below_one_request_says_so(project: Project, loopback: Loopback) -> None:
    done = priced(project, loopback, 3).run("build", "--budget", "0.5")
    assert done.returncode == 5 and loopback.seen == 0
    assert "DG411 budget.usd = 0.5 does not pay for one request, which may cost $1.37" in done.stderr
    assert "max_tokens" in done.stderr


def test_a_budget_that_decides_no_seed_still_exits_5(project: Project, loopback: Loopback) -> None:
    done = priced(project, loopback, 3).run("build", "--budget", "0.5", "--publish-partial")
    assert done.returncode == 5 and "DG411" in done.stderr and loopback.seen == 0


@pytest.mark.parametrize(
    ("more", "arguments"), [("", ("--budget", "2.5", "--publish-partial")), ("target_rows = 5\n", ())],
    ids=["stopped-by-budget", "target-reached"],
)  # fmt: skip
def test_the_funnel_of_a_prefix_counts_the_prefix(
    project: Project, loopback: Loopback, more: str, arguments: tuple[str, ...]
) -> None:
    loopback.behave = lambda body: reply("no") if number_of(body) < 3 else answer(body)
    said = outcome(priced(project, loopback, 40, more).run("build", *arguments, "--json"))
    manifest = project.manifest()
    assert manifest["funnel"][0]["in"] == manifest["seeds"]["count"] and manifest["funnel"][0]["failed"] == {}
    assert manifest["run"]["failed"] == {} and said["failed"] == 0


def test_a_reached_target_is_no_failure_of_the_rows_ahead_of_it(project: Project, loopback: Loopback) -> None:
    """Many rows wait for their turn when the target is reached: they are given up, they did not fail."""
    loopback.behave = lambda body: (
        late(body, 0.05) if number_of(body) > 30 else reply("no") if number_of(body) > 5 else answer(body)
    )
    priced(project, loopback, 400, "target_rows = 12\n").edit(
        'model = "scripted"', 'model = "scripted"\nlimits = { max_in_flight = 8 }'
    )
    done = project.run("build", "--json")
    said = outcome(done)
    assert (done.returncode, said["rows"], said["failed"], said["ends"]) == (0, 12, 0, "target_rows")
    assert "not_sent" not in done.stderr


def test_a_full_dataset_asks_nothing_more_however_its_refusals_lie(project: Project, loopback: Loopback) -> None:
    """Refusals at the start make more seeds look likely to be needed than are: stored answers have the first word."""
    loopback.behave = lambda body: reply("no") if number_of(body) < 10 else answer(body)
    priced(project, loopback, 40, "target_rows = 30\n")
    project.build()
    project.seeds([{"question": f"What is number {n}?"} for n in range(400)])
    assert "nothing changed" in project.build().stderr and loopback.seen == 40


@pytest.mark.parametrize("target", [1, 20])
def test_a_target_reached_amid_the_rows_of_a_seed_waits_for_the_rest_of_it(
    project: Project, loopback: Loopback, target: int
) -> None:
    """Sixteen samples of a seed are asked about once more, some later than others: the first may be the last wanted."""
    number = itertools.count()
    loopback.behave = lambda body: reply(words(str(next(number))))
    priced(project, loopback, 30, f"target_rows = {target}\n").edit(
        'prompt = "answer"', 'prompt = "answer"\nsamples = 16'
    )
    project.edit("sampling =", "limits = { max_in_flight = 1 }\nsampling =")
    project.edit("max_tokens = 100", "max_tokens = 100, temperature = 1.0")
    project.edit('use = "deduplicate"\non = "answer"\nnear = 0.8\n', SECOND)
    said = outcome(project.build("--json"))
    assert said["ends"] == "target_rows"
    assert said["rows"] % 16 == 0 and target <= said["rows"] < target + 16
    asked = loopback.seen
    assert "nothing changed" in project.build().stderr and loopback.seen == asked


def test_append_grows_to_a_target_and_asks_only_for_what_is_new(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 40, "append = true\ntarget_rows = 10\n").build()
    first = project.rows(1)
    assert len(first) == loopback.seen == 10
    assert "nothing changed" in project.build().stderr and loopback.seen == 10
    project.edit("target_rows = 10", "target_rows = 16")
    said = outcome(project.build("--json"))
    assert len(project.rows(2)) == 16 and loopback.seen == 16 and said["calls"] == 6
    kept = {row["id"]: row for row in project.rows(2)}
    assert all(kept[row["id"]] == row for row in first), "the parent's rows stay as they are"
    project.edit("target_rows = 16", "target_rows = 12")
    assert "nothing changed" in project.build().stderr and loopback.seen == 16


def test_a_target_beyond_the_seeds_publishes_them_all(project: Project, loopback: Loopback) -> None:
    done = priced(project, loopback, 6, "target_rows = 50\n").build("--json")
    assert (outcome(done)["rows"], outcome(done)["ends"]) == (6, None) and not project.manifest()["is_partial"]


def test_publish_partial_wants_seeds_that_can_be_read_twice(demo: Project, loopback: Loopback) -> None:
    demo.edit('path = "seeds.jsonl"', 'path = "-"')
    done = demo.run("build", "--publish-partial", stdin='{"question": "One?"}\n')
    assert done.returncode == 2 and "a pipe comes once" in done.stderr and "put the seeds into a file" in done.stderr
    assert loopback.seen == 0


def test_of_two_builds_at_once_the_second_leaves_at_once(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: late(body, 1.5)
    running = priced(project, loopback, 3).start("build")
    while not loopback.seen:
        time.sleep(0.02)
    second = project.run("build")
    assert (
        second.returncode == 11
        and f"process {running.pid} on " in second.stderr
        and "nothing was sent" in second.stderr
    )
    assert f"at work   process {running.pid}" in project.run("status").stdout
    running.communicate()
    assert running.returncode == 0 and loopback.seen == 3
