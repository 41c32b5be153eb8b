"""The ready recipes end to end: each makes what it says, with a scripted teacher and with a real small one."""

import hashlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from loopback import Body, Loopback, Say, answer, error, reply, words

from distillgen.files import read_jsonl
from distillgen.project import create, ready_recipes
from distillgen.teacher.models import find_model, is_installed

RECIPES = (
    "documents", "evolve", "preference", "quickstart", "rationale", "reasoning", "self-instruct", "sentiment",
    "sentiment-rationale",
)  # fmt: skip
SEEDS = Path(__file__).resolve().parent.parent / "recipes/seeds"
GROW = ("--set", "steps.0.rows=40")  # of self-instruct: two or three rounds
ROUND = 10  # its draws


def ready(folder: Path, name: str, loopback: Loopback) -> Project:
    """Return a new project of a ready recipe, whose teachers are the scripted one, each called as the recipe does."""
    create(folder, name, None)
    project = Project(folder)
    table = re.compile(r'^\[teachers\.(\w+)\](.*)\nprovider = "embedded".*\nmodel = ".*"', re.MULTILINE)
    text = table.sub(rf'[teachers.\1]\2\nbase_url = "{loopback.url}"\nmodel = "\1"', project.recipe.read_text())
    assert "embedded" not in text
    project.recipe.write_text(text)
    return project


def asked(body: Body) -> str:
    return body["messages"][-1]["content"]


def adds_up(folder: Path) -> dict[str, Any]:
    """Insist that a version, or what a gate refused, accounts for every row; return its manifest."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    left = Counter[str]()
    for step in manifest["funnel"]:
        gone = sum(step["rejected"].values()) + sum(step["failed"].values()) + step["merged"]
        assert step["in"] + step["born"] == step["out"] + gone, step
        left.update(f"rejected {rule}" for rule, count in step["rejected"].items() for _ in range(count))
        left.update(f"failed {cause}" for cause, count in step["failed"].items() for _ in range(count))
    found = Counter(f"rejected {row['rule']}" for row in read_jsonl(folder / "rejected.jsonl.zst"))
    found += Counter(f"failed {row['cause']}" for row in read_jsonl(folder / "failed.jsonl.zst"))
    assert found == left, "what was left out is kept with its reason"
    rows = sum(1 for file in (folder / "data").iterdir() for _ in read_jsonl(file))
    steps = [step for step in manifest["funnel"] if step["step"] != "student"]
    refused = sum(sum(step["rejected"].values()) for step in manifest["funnel"] if step["step"] == "student")
    assert rows == manifest["rows"] == steps[-1]["out"] - refused
    return manifest


def reasons(project: Project, name: str, number: int = 1) -> Counter[tuple[str, str]]:
    return Counter((row["step"], row["rule"]) for row in project.sidecar("rejected", number, name))


def test_every_recipe_is_here() -> None:
    assert set(ready_recipes()) == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_new_project_can_be_planned_without_weights_or_calls(project: Project, name: str) -> None:
    assert project.run("init", ".", "--recipe", name).returncode == 0
    planned = project.run("plan", "--json", DISTILLGEN_CACHE=str(project.folder / "no-weights"))
    assert planned.returncode == 0, planned.stderr
    outlook = json.loads(planned.stdout)
    first = next(step for step in outlook["steps"] if step["calls"] is not None)
    assert outlook["seeds"] > 0 and first["calls"] > 0 and outlook["usd"] == [0.0, 0.0]
    recipe = tomllib.loads(project.recipe.read_text())
    assert recipe["name"] == name and recipe["description"]


# -- evolve ----------------------------------------------------------------------------------------------------------


def test_evolve_asks_and_answers_the_harder_question(tmp_path: Path, loopback: Loopback) -> None:
    unchanged, same = "How does a bicycle stay upright when it moves?", f"Why {words('tides', 12)}?"

    def behave(body: Body) -> Say:
        if not asked(body).startswith("Question: "):
            return answer(body)
        question = asked(body).removeprefix("Question: ").partition("\n")[0]
        of = {unchanged: unchanged, "What causes the tides?": same, "Why do onions make us cry?": same}
        return reply(of.get(question, f"Why {words(question, 12)}?"))

    loopback.behave = behave
    project = ready(tmp_path / "p", "evolve", loopback)
    project.build()
    assert adds_up(project.version(name="evolve"))["rows"] == 14 and loopback.seen == 16 + 14
    refused = {row["columns"]["question"]: row for row in project.sidecar("rejected", name="evolve")}
    assert {question: row["rule"] for question, row in refused.items()} == {
        unchanged: "exact_duplicate", "Why do onions make us cry?": "exact_duplicate",
    }  # fmt: skip
    assert "questions.jsonl" in refused[unchanged]["detail"], "an evolution that changed nothing is like its seed"
    for row in project.sidecar("provenance", name="evolve"):
        assert row["columns"]["evolved"] != row["columns"]["question"] and len(row["columns"]["answer"].split()) > 20
    assert all(row["messages"][0]["content"].startswith("Why About ") for row in project.rows(name="evolve"))


# -- documents -------------------------------------------------------------------------------------------------------


def test_documents_become_questions_with_answers_that_rest_on_them(tmp_path: Path, loopback: Loopback) -> None:
    def behave(body: Body) -> Say:
        if "response_format" in body:
            title = re.search(r"# (.*)", asked(body)).group(1)  # type: ignore[union-attr]
            about = words(title, 14)
            return reply(json.dumps({"questions": [
                {"question": f"What is said about {about}?"},
                {"question": f"What is said here about {about}?"},
                {"question": f"How much does all of that cost, for {words(title[::-1], 5)}?"},
            ]}))  # fmt: skip
        return reply("The document does not say.") if "cost" in asked(body) else answer(body)

    loopback.behave = behave
    project = ready(tmp_path / "p", "documents", loopback)
    for number in range(9):
        project.write(f"seeds/documents/more-{number}.txt", f"# Number {number}\n\n{words(str(number), 60)}\n")
    project.edit("splits = { train = 0.8, validation = 0.2 }", "splits = { train = 0.5, validation = 0.5 }")
    project.build()
    assert adds_up(project.version(name="documents"))["rows"] == 12
    assert reasons(project, "documents") == {("3.deduplicate", "near_duplicate"): 12, ("5.filter", "format"): 12}
    assert loopback.seen == 12 + 24, "a question that is refused is not answered"
    splits: dict[str, set[str]] = {}
    for row in project.sidecar("provenance", name="documents"):
        splits.setdefault(row["columns"]["path"], set()).add(row["split"])
        assert row["columns"]["document"] and row["columns"]["question"].startswith("What is said about")
    assert len(splits) == 12 and all(len(names) == 1 for names in splits.values()), "a document stays in one split"
    assert set.union(*splits.values()) == {"train", "validation"}
    for row in project.rows(name="documents"):
        assert "Document:" not in row["messages"][0]["content"], "the student sees the question only"


# -- rationale -------------------------------------------------------------------------------------------------------


def test_rationale_comes_before_a_label_of_the_closed_set(tmp_path: Path, loopback: Loopback) -> None:
    def behave(body: Body) -> Say:
        text = next(turn["content"] for turn in body["messages"] if "Text: " in turn["content"])
        enum = body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
        assert enum == ["positive", "negative"]
        label = "mixed" if "zip broke" in text else "negative" if "soup" in text else "positive"
        why = "" if "kettle" in text else "It says so in plain words."
        return reply(json.dumps({"rationale": why, "label": label}))

    loopback.behave = behave
    project = ready(tmp_path / "p", "rationale", loopback)
    project.build()
    assert adds_up(project.version(name="rationale"))["rows"] == 14
    assert {row["columns"]["label"] for row in project.sidecar("provenance", name="rationale")} == {
        "positive", "negative",
    }  # fmt: skip
    for row in project.rows(name="rationale"):
        asked_of_student, said = (turn["content"] for turn in row["messages"])
        assert asked_of_student.startswith("Is this review positive or negative? Say why first.\n\n")
        assert re.fullmatch(r"It says so in plain words\.\n\nLabel: (positive|negative)", said)
    failed = {row["columns"]["text"]: row["cause"] for row in project.sidecar("failed", name="rationale")}
    assert sorted(failed.values()) == ["schema", "schema"] and any("zip" in text for text in failed)
    assert loopback.seen == 16 + 2, "what does not follow the schema is asked for once more"


# -- reasoning -------------------------------------------------------------------------------------------------------


def problems(name: str) -> dict[str, str]:
    """Return question -> final answer of GSM8K, where the answer is known."""
    rows = [json.loads(line) for line in (SEEDS / name).read_text().splitlines()]
    return {row["question"]: row.get("solution", "").rpartition("#### ")[2] for row in rows}


def solved(answer: str) -> Say:
    reasoning = f"We take one step after the other and count with care. That gives {answer}."
    return reply(json.dumps({"reasoning": reasoning, "answer": answer}))


def test_every_known_answer_is_right_and_no_problem_is_of_the_test_set(tmp_path: Path, loopback: Loopback) -> None:
    known = problems("gsm8k_train.jsonl")
    assert len(known) == 200
    loopback.behave = lambda body: solved(known[asked(body)])
    project = ready(tmp_path / "p", "reasoning", loopback)
    project.build("--set", "steps.1.samples=1", "--set", "steps.3.min_samples=1")
    assert adds_up(project.version(name="reasoning"))["rows"] == 200
    assert not reasons(project, "reasoning")


def test_reasoning_is_voted_on_and_checked_and_test_problems_are_kept_out(tmp_path: Path, loopback: Loopback) -> None:
    known = problems("gsm8k_train.jsonl")
    planted = "  ".join(next(iter(problems("gsm8k_test.jsonl"))).upper().split())  # in another guise
    right, wrong, split, only = list(known)[:8], list(known)[8:14], list(known)[14:18], list(known)[18]
    drawn: Counter[str] = Counter()

    def behave(body: Body) -> Say:
        question = asked(body)
        drawn[question] += 1
        sample = drawn[question]
        if question == only and sample > 1:
            return solved("the answer is one that I would rather put into a whole long sentence of many words")
        if question in split:
            return solved(f"{sample + 1000}")
        is_right = (sample == 2) == (question in wrong)
        return solved(f"${known[question]}.00" if is_right and sample > 2 else known[question] if is_right else "4321")

    loopback.behave = behave
    project = ready(tmp_path / "p", "reasoning", loopback)
    seeds = [json.loads(line) for line in (SEEDS / "gsm8k_train.jsonl").read_text().splitlines()[:19]]
    project.seeds([*seeds, {"question": planted, "solution": "#### 1"}], "seeds/gsm8k_train.jsonl")
    project.build()
    adds_up(project.version(name="reasoning"))
    assert loopback.seen == 4 * 19 and planted not in drawn, "nobody is asked about a test problem"
    published = {row["columns"]["question"]: row for row in project.sidecar("provenance", name="reasoning")}
    assert set(published) == set(right)
    for row in published.values():
        steps = {record["step"]: record for record in row["steps"]}
        assert (steps["4.select"]["agreement"], steps["4.select"]["samples"]) == (0.75, 4)
        assert steps["5.verify"]["verified"] is True
    assert all(row["reasoning"].startswith("We take one step") for row in project.rows(name="reasoning"))
    assert {row["messages"][0]["content"] for row in project.rows(name="reasoning")} == set(right)
    found: dict[tuple[str, str], set[str]] = {}
    for row in project.sidecar("rejected", name="reasoning"):
        found.setdefault((row["step"], row["rule"]), set()).add(row["columns"]["question"])
    assert found == {
        ("1.decontaminate", "contaminated"): {planted},
        ("2.generate", "length"): {only},
        ("4.select", "not_selected"): {*right, *wrong},
        ("4.select", "outvoted"): {*right, *wrong},
        ("4.select", "low_agreement"): set(split),
        ("4.select", "too_few_samples"): {only},
        ("5.verify", "wrong_answer"): set(wrong),
    }
    [contaminated] = [row for row in project.sidecar("rejected", name="reasoning") if row["rule"] == "contaminated"]
    assert "100 % of" in contaminated["detail"] and "gsm8k_test" in contaminated["detail"]


# -- preference ------------------------------------------------------------------------------------------------------


def test_preference_pairs_are_the_best_and_the_worst_answer_and_open_as_pairs(
    tmp_path: Path, loopback: Loopback
) -> None:
    drawn: Counter[str] = Counter()

    def behave(body: Body) -> Say:
        if body["model"] == "judge":
            quality = int(re.search(r"quality (\d)", asked(body)).group(1))  # type: ignore[union-attr]
            return reply(json.dumps({"critique": "It is as good as it says.", "score": quality}))
        question = asked(body)
        drawn[question] += 1
        quality = 3 if "tides" in question else drawn[question] + 1
        return reply(f"{words(f'{question} {drawn[question]}')} of quality {quality}.")

    loopback.behave = behave
    project = ready(tmp_path / "p", "preference", loopback)
    project.build()
    manifest = adds_up(project.version(name="preference"))
    assert manifest["rows"] == 15 and loopback.seen == 2 * 3 * 16
    rows = project.rows(name="preference")
    for row in rows:
        assert row.keys() == {"id", "prompt", "chosen", "rejected"}
        assert [turn["role"] for turn in row["prompt"]] == ["user"]
        [chosen], [rejected] = row["chosen"], row["rejected"]
        assert chosen["content"].endswith("quality 4.") and rejected["content"].endswith("quality 2.")
    assert reasons(project, "preference") == {("4.select", "no_pair"): 3, ("4.select", "not_selected"): 15}
    assert manifest["funnel"][-1]["merged"] == 15, "two rows became one"

    exported = project.run("export", "preference", "--format", "preference")
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert len(lines) == 15 and all(line.keys() == {"prompt", "chosen", "rejected"} for line in lines)
    refused = project.run("export", "preference", "--format", "messages")
    assert refused.returncode == 2 and refused.stdout == ""
    assert "preference@1 holds preference pairs, not conversations" in refused.stderr
    assert "--format preference" in refused.stderr and "Traceback" not in refused.stderr

    code = (
        "import datasets, json, sys\n"
        f"d = datasets.load_dataset({str(project.version(name='preference'))!r}, cache_dir={str(tmp_path / 'cache')!r})\n"
        "print(json.dumps({'rows': {k: len(v) for k, v in d.items()}, 'features': {k: str(v) for k, v in d['train'].features.items()}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    opened = json.loads(done.stdout.splitlines()[-1])
    turns = "List({'role': Value('string'), 'content': Value('string')})"
    assert opened["rows"] == manifest["splits"]
    assert opened["features"] == {"id": "Value('string')", "prompt": turns, "chosen": turns, "rejected": turns}


# -- self-instruct ---------------------------------------------------------------------------------------------------

STOCK = [
    "Name three things that everybody finds in a kitchen drawer at home",
    "Describe how a letter travels from a village in the hills to the coast",
]


def is_draw(body: Body) -> bool:
    """Whether new tasks are asked for; else a task is answered."""
    return "response_format" in body


def inventive(body: Body) -> Say:
    """Make three tasks, the same for the same examples: a new one, one that says again what an example says (or one
    that comes up again and again), and a third; answer tasks as usual. All of it comes late, in no order."""
    chance = random.Random(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest())
    said = answer(body)
    if is_draw(body):
        shown = [line.removeprefix("- ") for line in asked(body).splitlines() if line.startswith("- ")]
        again = chance.choice([f"{max(shown, key=len)} please", chance.choice(STOCK)])
        fresh = (f"Explain {' '.join(f'{chance.randrange(10**6)}' for _ in range(8))}" for _ in range(2))
        said = reply(json.dumps({"tasks": [{"question": task} for task in (next(fresh), again, next(fresh))]}))
    return Say(body=said.body, wait=chance.random() / 25)


def grown(folder: Path, loopback: Loopback) -> Project:
    loopback.behave = inventive
    return ready(folder, "self-instruct", loopback)


def digest(project: Project, number: int = 1) -> str:
    return project.manifest(number, "self-instruct")["digest"]


def pairs_of(text: str) -> set[tuple[str, str]]:
    said = re.findall(r"\w+", text.lower())
    return set(itertools.pairwise(said))


def test_self_instruct_grows_tasks_unlike_the_seeds_and_each_other(tmp_path: Path, loopback: Loopback) -> None:
    project = grown(tmp_path / "p", loopback)
    project.build()
    manifest = adds_up(project.version(name="self-instruct"))
    assert manifest["rows"] == 100 and manifest["seeds"]["count"] == 175
    assert loopback.seen == sum(map(is_draw, loopback.bodies)) + 100, "only what is taken in is answered"
    provenance = project.sidecar("provenance", name="self-instruct")
    assert {row["messages"][0]["content"] for row in project.rows(name="self-instruct")} == {
        row["columns"]["question"] for row in provenance
    }, "the seeds are for showing only"
    seeds = [json.loads(line)["question"] for line in (SEEDS / "self_instruct.jsonl").read_text().splitlines()]
    earlier = [pairs_of(text) for text in seeds]
    for row in provenance:
        task = pairs_of(row["columns"]["question"])
        assert max(len(task & other) / len(task | other) for other in earlier) < 0.5
        earlier.append(task)
    refused = [row for row in project.sidecar("rejected", name="self-instruct") if row["step"] == "1.3.deduplicate"]
    assert {row["rule"] for row in refused} == {"near_duplicate", "exact_duplicate"}
    like = [(round_of(row["id"]), round_of(row["detail"].split()[1].rstrip(","))) for row in refused]
    assert any(other == 0 for _, other in like), "some are like a seed"
    assert any(0 < other < mine for mine, other in like), "some are like one of an earlier round"


def test_a_draw_shows_tasks_of_the_seeds_and_of_rounds_before_it(tmp_path: Path, loopback: Loopback) -> None:
    project = grown(tmp_path / "p", loopback)
    project.build(*GROW)
    shown = set()
    for row in project.sidecar("provenance", name="self-instruct"):
        drawn, asked_for, *_ = row["steps"]
        assert (drawn["step"], asked_for["step"]) == ("1.bootstrap", "1.1.generate")
        assert drawn["round"] == round_of(row["id"]) and len(set(drawn["examples"])) == len(drawn["examples"]) == 5
        made = [round_of(name) for name in drawn["examples"] if round_of(name)]
        assert len(made) <= 2 and all(number < drawn["round"] for number in made)
        shown |= set(made)
    assert 1 in shown, "what was made is shown in its turn"


def round_of(name: str) -> int:
    """Return in which round a row was made, 0 for a seed."""
    return int(name.split("-")[1]) if name.startswith("1.bootstrap-") else 0


def test_self_instruct_makes_the_same_content_at_1_and_at_512_in_flight(tmp_path: Path, loopback: Loopback) -> None:
    digests = []
    for most in (1, 512):
        project = grown(tmp_path / str(most), loopback)
        project.build(*GROW, "--set", f"teachers.main.limits.max_in_flight={most}")
        assert adds_up(project.version(name="self-instruct"))["rows"] == 40
        digests.append(digest(project))
        assert (loopback.peak == 1) == (most == 1)
    assert digests[0] == digests[1]
    bodies = Counter(json.dumps(body, sort_keys=True) for body in loopback.bodies)
    assert set(bodies.values()) == {2}, "both asked the very same"


def test_kill_9_inside_a_round_loses_nothing_and_asks_nothing_twice(tmp_path: Path, loopback: Loopback) -> None:
    undisturbed = grown(tmp_path / "whole", loopback)
    undisturbed.build(*GROW)
    loopback.bodies.clear()
    in_flight = 4
    command = ("build", *GROW, "--set", f"teachers.main.limits.max_in_flight={in_flight}")
    project = grown(tmp_path / "killed", loopback)
    for stop_at in (4, ROUND + 4):  # inside the first round, and inside the second
        process = project.start(*command)
        wait_until(lambda stop_at=stop_at: sum(map(is_draw, loopback.bodies)) >= stop_at)
        process.kill()
        process.communicate()
        assert process.returncode == -9
        assert not (project.folder / "datasets/self-instruct/latest").exists()
    project.build(*command[1:])
    assert digest(project) == digest(undisturbed)
    repeated = Counter(json.dumps(body, sort_keys=True) for body in loopback.bodies)
    assert sum(count - 1 for count in repeated.values()) <= 2 * in_flight, "at most what was in flight is asked again"

    seen = loopback.seen
    offline = project.run("build", "--offline", *command[1:])
    assert offline.returncode == 0 and "nothing changed" in offline.stderr and loopback.seen == seen


def test_more_rows_ask_only_for_what_is_new(tmp_path: Path, loopback: Loopback) -> None:
    project = grown(tmp_path / "p", loopback)
    project.build("--set", "steps.0.rows=30")
    before = [json.dumps(body, sort_keys=True) for body in loopback.bodies]
    first = {row["id"]: row for row in project.sidecar("provenance", 1, "self-instruct")}
    loopback.bodies.clear()
    project.build("--set", "steps.0.rows=60")
    after = [json.dumps(body, sort_keys=True) for body in loopback.bodies]
    assert after and not set(after) & set(before) and len(set(after)) == len(after)
    second = {row["id"]: row for row in project.sidecar("provenance", 2, "self-instruct")}
    assert len(second) == 60 and len(after) < 60 + ROUND * 3
    early = {name for name in first if name.startswith("1.bootstrap-1-")}
    assert early and all(second[name] == first[name] for name in early), "the first round is as it was"


def test_a_draw_that_fails_for_now_ends_the_rounds_and_the_next_build_goes_on(
    tmp_path: Path, loopback: Loopback
) -> None:
    whole = grown(tmp_path / "whole", loopback)
    whole.build(*GROW)
    broken = [body for body in loopback.bodies if is_draw(body)][3]  # of the first round, not the first of all
    loopback.behave = lambda body: error(500, retry_after="0") if body == broken else inventive(body)
    loopback.bodies.clear()
    project = ready(tmp_path / "p", "self-instruct", loopback)
    done = project.run("build", *GROW)
    assert done.returncode == 3 and "1 row failed for reasons that may pass" in done.stderr
    assert sum(map(is_draw, loopback.bodies)) == ROUND - 1 + 6, "no second round; the broken draw was tried six times"
    adds_up(project.version(name="self-instruct"))
    [failed] = project.sidecar("failed", name="self-instruct")
    assert (failed["step"], failed["lasting"]) == ("1.1.generate", False)
    loopback.behave = inventive
    loopback.bodies.clear()
    project.build(*GROW)
    assert digest(project, 2) == digest(whole) and broken in loopback.bodies
    draws = [json.dumps(body, sort_keys=True) for body in loopback.bodies if is_draw(body)]
    assert len(draws) == len(set(draws)) == len(rounds_of(whole)) - (ROUND - 1)


def rounds_of(project: Project) -> set[str]:
    """Return the names of the draws of which something came."""
    kinds = ("provenance", "rejected")
    return {row["origin"] for kind in kinds for row in project.sidecar(kind, name="self-instruct")}


def test_a_budget_stop_inside_a_round_publishes_a_prefix(tmp_path: Path, loopback: Loopback) -> None:
    whole = grown(tmp_path / "whole", loopback)
    whole.build(*GROW)
    project = grown(tmp_path / "p", loopback)
    project.edit("sampling =", "prices = { input = 1000, output = 10000 }\nsampling =")
    done = project.run("build", *GROW, "--budget", "8", "--publish-partial")
    assert done.returncode == 5 and "DG411" in done.stderr and "Traceback" not in done.stderr, done.stderr
    manifest = adds_up(project.version(name="self-instruct"))
    assert manifest["is_partial"] and manifest["ends"] == "stopped" and 0 < manifest["rows"] < 40
    some, all_of_it = (each.sidecar("provenance", name="self-instruct") for each in (project, whole))
    assert some == all_of_it[: len(some)]
    nights = 1
    while done.returncode == 5 and nights < 20:
        done = project.run("build", *GROW, "--budget", "8", "--publish-partial")
        nights += 1
    assert done.returncode == 0, done.stderr
    assert digest(project, nights) == digest(whole)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("dataset.append", "true", ["recipe.toml:16 (steps[0])", "`append` sends only new ones", "raise `rounds` or `rows`"]),
        ("dataset.target_rows", "50", ["--set dataset.target_rows", "a bootstrap needs all of them", "set `rows`"]),
    ],
    ids=["append", "target-rows"],
)  # fmt: skip
def test_what_cannot_go_with_rounds_is_named(
    tmp_path: Path, loopback: Loopback, key: str, value: str, said: list[str]
) -> None:
    project = grown(tmp_path / "p", loopback)
    for command in ("plan", "build"):
        done = project.run(command, "--set", f"{key}={value}")
        assert done.returncode == 2 and all(words in done.stderr for words in said), done.stderr
    assert loopback.seen == 0


def test_a_plan_knows_the_round_that_is_next(tmp_path: Path, loopback: Loopback) -> None:
    project = grown(tmp_path / "p", loopback)
    first = json.loads(project.run("plan", "--json").stdout)
    steps = {step["step"]: step for step in first["steps"]}
    assert steps["1.bootstrap"]["rounds"] == 20 and loopback.seen == 0
    assert list(steps) == ["1.bootstrap", "1.1.generate", "1.2.filter", "1.3.deduplicate", "2.generate", "3.filter"]
    assert (steps["1.1.generate"]["calls"], steps["2.generate"]["more"]) == (ROUND, ROUND)
    shown = {prompt["step"]: prompt["messages"] for prompt in first["prompts"]}
    assert shown["1.1.generate"][-1]["content"].count("\n- ") >= 5
    project.build()
    seen = loopback.seen
    after = json.loads(project.run("plan", "--json").stdout)
    assert sum(step["calls"] or 0 for step in after["steps"]) == 0 and loopback.seen == seen
    assert sum(step["stored"] or 0 for step in after["steps"]) == seen


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# -- sentiment -------------------------------------------------------------------------------------------------------


def sentences(name: str) -> list[str]:
    return [json.loads(line)["text"] for line in (SEEDS / name).read_text().splitlines()]


def text_of(body: Body) -> str:
    """Return the sentence that a teacher is asked to label."""
    return next(turn["content"] for turn in body["messages"] if "Text: " in turn["content"]).partition("Text: ")[2]


def labelled(body: Body) -> Say:
    """Give a sentence of many letters one label and of few letters the other, with a reason where one is asked for."""
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == ["positive", "negative"]
    label = "positive" if len(text_of(body)) > 90 else "negative"
    reason = {"rationale": f"{words(text_of(body), 24)}."} if "rationale" in schema["properties"] else {}
    return reply(json.dumps({**reason, "label": label}))


@pytest.mark.parametrize(("name", "rows"), [("sentiment", 1000), ("sentiment-rationale", 400)])
def test_all_sentences_are_labelled_and_the_student_is_shown_a_short_prompt(
    tmp_path: Path, loopback: Loopback, name: str, rows: int
) -> None:
    loopback.behave = labelled
    project = ready(tmp_path / "p", name, loopback)
    assert {path.name for path in (project.folder / "seeds").iterdir()} == {
        "sentences.LICENSE", "sentences.jsonl", "sentences_gold.jsonl",
    }, "what the student is measured on comes along"  # fmt: skip
    project.build()
    manifest = adds_up(project.version(name=name))
    assert manifest["rows"] == rows <= loopback.seen <= len(sentences("sentences.jsonl")) == 1000
    train, validation = (manifest["splits"][split] for split in ("train", "validation"))
    assert train > 300 and validation > 20
    for row in project.sidecar("provenance", name=name):
        assert row["columns"].keys() >= {"text", "label"} and not {"gold", "rating"} & row["columns"].keys()
    for row in project.rows(name=name):
        shown, said = (turn["content"] for turn in row["messages"])
        text = shown.removeprefix("Sentiment: ")
        label, _, reason = said.partition("\n\n")
        assert shown == f"Sentiment: {text}" and label == ("positive" if len(text) > 90 else "negative")
        assert reason == (f"{words(text, 24)}." if name == "sentiment-rationale" else "")


def test_nobody_is_asked_about_a_gold_sentence_nor_twice_about_one(tmp_path: Path, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply('{"label": "mixed"}') if "muddled" in text_of(body) else labelled(body)
    gold = max(sentences("sentences_gold.jsonl"), key=len)
    planted = f"Well: {'  '.join(gold.upper().split())}"
    seeds = sentences("sentences.jsonl")[:20]
    again = f"{max(seeds, key=len)} Yes."
    project = ready(tmp_path / "p", "sentiment", loopback)
    project.seeds(
        [{"text": text} for text in [*seeds, planted, again, "A muddled film of which nothing can be said."]],
        "seeds/sentences.jsonl",
    )
    project.build()
    assert adds_up(project.version(name="sentiment"))["rows"] == 20
    assert reasons(project, "sentiment") == {
        ("1.deduplicate", "near_duplicate"): 1, ("2.decontaminate", "contaminated"): 1,
    }  # fmt: skip
    assert loopback.seen == 20 + 2, "the label outside of the set is asked for once more"
    assert not {planted, again} & {text_of(body).strip() for body in loopback.bodies}
    assert [row["cause"] for row in project.sidecar("failed", name="sentiment")] == ["schema"]


# -- with a real teacher ---------------------------------------------------------------------------------------------

SHORT = "teachers.main.sampling.max_tokens=120"
SMALL = {
    "documents": ("--limit", "1", "--set", SHORT, "--set", "steps.0.values.count=1"),
    "evolve": ("--limit", "1", "--set", SHORT),
    "preference": ("--limit", "1", "--set", SHORT, "--set", "steps.0.samples=2"),
    "quickstart": ("--limit", "1"),
    "rationale": ("--limit", "2"),
    "reasoning": ("--limit", "1", "--set", SHORT, "--set", "steps.1.samples=2"),
    "self-instruct": (
        "--set", "steps.0.draws=1", "--set", "steps.0.rounds=1", "--set", SHORT, "--set", "steps.0.steps.0.values.count=1",
    ),
    "sentiment": ("--limit", "2"),
    "sentiment-rationale": ("--limit", "2"),
}  # fmt: skip


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_with_a_real_small_teacher(project: Project, name: str) -> None:
    """What a model of 135 million parameters writes may all be refused, and then it is; no row is lost."""
    if not is_installed(find_model("smollm2-135m")):
        pytest.fail("the weights are missing: run `distillgen teachers install smollm2-135m` (or `make test`)")
    create(project.folder, name, "smollm2-135m")
    done = project.run("build", "--json", *SMALL[name])
    assert done.returncode in (0, 6) and "Traceback" not in done.stderr, done.stderr
    said = json.loads(done.stdout)
    assert said["calls"] > 0
    home = project.folder / "datasets" / name
    if done.returncode == 0:
        assert adds_up(project.version(name=name))["rows"] == said["rows"] > 0
    elif (home / "refused").exists():
        assert adds_up(home / "refused")["rows"] == said["rows"]
    else:
        assert said["rows"] == 0 and said["rejected"] + said["failed"] > 0
        assert "DG601 no row is left to publish" in done.stderr
