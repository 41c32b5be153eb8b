"""The road end to end, by the command line, against the scripted teacher."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from conftest import Project
from loopback import Loopback, Say, answer, error, reply, words


def test_build_publishes_a_version_with_everything_it_promises(demo: Project, loopback: Loopback) -> None:
    done = demo.build()
    assert loopback.seen == 20
    assert "published demo@1" in done.stderr and done.stdout == ""
    assert {path.name for path in demo.version().iterdir()} == {
        "README.md", "data", "provenance.jsonl.zst", "rejected.jsonl.zst", "failed.jsonl.zst", "manifest.json",
    }  # fmt: skip
    rows, manifest = demo.rows(), demo.manifest()
    assert len(rows) == manifest["rows"] == 20
    assert rows[0].keys() == {"id", "messages"}
    assert [turn["role"] for turn in rows[0]["messages"]] == ["user", "assistant"]
    assert (demo.folder / "datasets/demo/latest").readlink().name == "v0001"
    provenance = demo.sidecar("provenance")
    assert {row["id"] for row in provenance} == {row["id"] for row in rows}
    generated = provenance[0]["steps"][0]
    assert generated["model"] == "scripted" and generated["tokens"]["completion"] == 11 and len(generated["key"]) == 64
    counts = {"in": 20, "born": 0, "merged": 0, "out": 20, "rejected": {}, "failed": {}}
    assert manifest["funnel"][0] == {"step": "1.generate", **counts}


def test_data_is_read_only_and_files_have_their_checksum(demo: Project) -> None:
    import hashlib

    demo.build()
    for name, entry in demo.manifest()["files"].items():
        path = demo.version() / name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"], name
        assert path.stat().st_size == entry["bytes"] and not path.stat().st_mode & 0o222


def test_files_are_as_private_as_the_umask_says_and_stay_so(demo: Project) -> None:
    def build(umask: int) -> None:
        before = os.umask(umask)
        try:
            demo.build()
        finally:
            os.umask(before)

    def modes(number: int) -> set[str]:
        files = (*demo.manifest(number)["files"], "manifest.json")
        return {oct((demo.version(number) / name).stat().st_mode & 0o777) for name in files}

    build(0o077)
    assert modes(1) == {"0o400"}
    build(0o022)  # the same rows: nothing is published, and nobody may read more than before
    assert not demo.version(2).exists() and modes(1) == {"0o400"}
    demo.seeds([{"question": "What is the first number of another dataset?"}])
    build(0o022)
    assert modes(1) == {"0o400"} and "0o444" in modes(2)


def test_second_build_asks_nothing_and_publishes_nothing(demo: Project, loopback: Loopback) -> None:
    demo.build()
    done = demo.build()
    assert loopback.seen == 20
    assert "nothing changed" in done.stderr and not demo.version(2).exists()


def test_editing_a_filter_or_the_student_asks_nothing(demo: Project, loopback: Loopback) -> None:
    demo.build()
    demo.edit("min_words = 5", "min_words = 32")
    demo.edit('prompt = "{{ question }}"', 'prompt = "Q: {{ question }}"\nsystem = "Be brief."')
    demo.build()
    assert loopback.seen == 20
    assert demo.rows(2)[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert demo.rows(2)[0]["messages"][1]["content"].startswith("Q: ")


def test_offline_makes_no_call(demo: Project, loopback: Loopback) -> None:
    refused = demo.run("build", "--offline")
    assert refused.returncode == 3 and "DG409 20 answers are not stored" in refused.stderr
    assert loopback.seen == 0 and not (demo.folder / "datasets/demo/latest").exists()
    demo.build()
    assert "nothing changed" in demo.build("--offline").stderr and loopback.seen == 20


def test_content_is_the_same_in_any_order_of_arrival(demo: Project, loopback: Loopback) -> None:
    def late_first(body: dict) -> Say:
        said = answer(body)
        return Say(said.status, said.body, wait=0.3 if "number 1" in body["messages"][-1]["content"] else 0.0)

    demo.build()
    first = demo.manifest()["digest"]
    (demo.folder / ".distillgen/answers.sqlite").unlink()
    loopback.behave = late_first
    assert "nothing changed" in demo.build().stderr
    assert demo.manifest()["digest"] == first and loopback.seen == 40


def test_samples_make_rows_of_their_own_and_keep_stored_ones(demo: Project, loopback: Loopback) -> None:
    demo.build("--set", "steps.0.samples=1")
    loopback.behave = lambda body: reply(words(body["messages"][-1]["content"] + str(loopback.seen)))
    demo.build("--set", "steps.0.samples=3")
    assert loopback.seen == 60  # sample 0 of each was stored
    ids = sorted(row["id"] for row in demo.sidecar("provenance", 2) + demo.sidecar("rejected", 2))
    assert len(ids) == len(set(ids)) == 60 and {name.rpartition(".")[2] for name in ids} == {"0", "1", "2"}
    splits: dict[str, set[str]] = {}
    for row in demo.sidecar("provenance", 2):
        splits.setdefault(row["origin"], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    assert demo.manifest(2)["overrides"] == {"steps[0].samples": 3}


def test_two_seeds_that_ask_the_same_pay_once(demo: Project, loopback: Loopback) -> None:
    demo.seeds([{"question": "Same?", "n": n} for n in range(6)])
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.2)
    demo.build()
    assert loopback.seen == 1
    assert demo.manifest()["rows"] == 1
    rejected = demo.sidecar("rejected")
    assert [row["rule"] for row in rejected] == ["exact_duplicate"] * 5
    assert rejected[0]["detail"] == f"of {demo.rows()[0]['id']}"


def test_rejected_and_failed_rows_are_kept_with_their_reason(demo: Project, loopback: Loopback) -> None:
    def behave(body: dict) -> Say:
        asked = body["messages"][-1]["content"]
        return {
            "What is number 3?": reply("I'm sorry, but I can't help with that."),
            "What is number 4?": reply("cut off in the middle of a long", finish="length"),
            "What is number 5?": reply("too short"),
            "What is number 6?": error(400, "context_length_exceeded", "too long"),
            "What is number 7?": reply(""),
        }.get(asked, answer(body))

    loopback.behave = behave
    demo.build()
    reasons = {row["columns"]["question"][-2]: (row["step"], row["rule"]) for row in demo.sidecar("rejected")}
    assert reasons == {
        "3": ("1.generate", "not_refusal"),
        "4": ("1.generate", "not_truncated"),
        "5": ("2.filter", "length"),
        "7": ("1.generate", "not_empty"),
    }
    [failed] = demo.sidecar("failed")
    assert (failed["cause"], failed["detail"], failed["lasting"]) == ("refused_400", "too long", True)
    assert demo.manifest()["rows"] == 15
    for step in demo.manifest()["funnel"]:
        assert step["in"] + step["born"] == step["out"] + sum(step["rejected"].values()) + sum(step["failed"].values())
    shown = demo.run("show", "demo", "--rejected").stdout
    assert "1.generate, not_refusal: answer declines" in shown


def test_rows_that_are_all_left_out_can_be_looked_at(demo: Project, loopback: Loopback) -> None:
    demo.edit("min_words = 5", "min_words = 500")
    done = demo.run("build", "--json")
    assert done.returncode == 6 and "DG601 no row is left to publish: of 20 seeds: length 20" in done.stderr
    told = json.loads(done.stdout)
    assert (told["stopped_by"], told["rows"], told["rejected"], told["version"]) == ("DG601", 0, 20, None)
    folder = re.search("`distillgen show (.+) --rejected`", done.stderr)[1]  # type: ignore[index]
    assert demo.run("show", folder, "--rejected", "-n", "99").stdout.count("2.filter, length") == 20
    assert demo.run("check").returncode == 10 and not (demo.folder / "datasets" / "demo" / "latest").exists()
    assert demo.run("stats", folder).returncode == 0 and demo.run("report", folder).returncode == 0
    planned = demo.run("plan", "--sample", "3")
    assert planned.returncode == 0 and "20 answers stored, 0 calls" in planned.stdout
    assert "not published, as asked: 0 rows;" in demo.run("build", "--no-publish").stderr
    demo.edit("min_words = 500", "min_words = 5")
    demo.build()
    assert demo.manifest()["rows"] == 20 == loopback.seen


def test_rows_that_failed_for_now_are_mended_by_a_rerun(demo: Project, loopback: Loopback) -> None:
    demo.edit("sampling =", "limits = { max_in_flight = 1 }\nsampling =")
    loopback.behave = lambda b: (
        error(500, retry_after="0") if "number 7?" in b["messages"][-1]["content"] else answer(b)
    )
    done = demo.run("build")
    assert done.returncode == 3 and "1 row failed for reasons that may pass" in done.stderr
    assert demo.manifest()["rows"] == 19
    loopback.behave = answer
    demo.build()
    assert demo.manifest(2)["rows"] == 20 and loopback.seen == 19 + 6 + 1


def test_limit_makes_a_partial_version(demo: Project, loopback: Loopback) -> None:
    done = demo.build("--limit", "5")
    assert loopback.seen == 5 and "partial" in done.stderr
    assert demo.manifest()["is_partial"] and demo.manifest()["rows"] == 5
    demo.build()
    assert loopback.seen == 20 and not demo.manifest(2)["is_partial"]


def test_no_publish_shows_rows_and_keeps_the_answers(demo: Project, loopback: Loopback) -> None:
    done = demo.build("--no-publish", "--limit", "3")
    assert "user: What is number 0?" in done.stderr and "not published" in done.stderr
    assert [path.name for path in (demo.folder / "datasets/demo").iterdir()] == [".lock"]
    demo.build("--limit", "3")
    assert loopback.seen == 3


def test_append_keeps_the_parents_rows_and_asks_for_new_seeds_only(demo: Project, loopback: Loopback) -> None:
    demo.edit("splits =", "append = true\nsplits =")
    demo.build()
    before = demo.rows()
    demo.seeds([{"question": f"What is number {n}?"} for n in reversed(range(18, 25))])
    demo.build()
    assert loopback.seen == 25
    after = demo.rows(2)
    assert len(after) == 25 and [row for row in after if row in before] == before
    demo.edit('completion = "{{ answer }}"', 'completion = "A: {{ answer }}"')
    done = demo.run("build")
    assert done.returncode == 2 and "[student] is not what it was" in done.stderr


def test_data_files_that_equal_the_parents_are_hard_links(demo: Project) -> None:
    demo.build()
    trained = next(row for row in demo.sidecar("provenance") if row["split"] == "train")["columns"]["question"]
    demo.edit(
        '"not_empty", ', f'"not_empty", {{ rule = "format", column = "question", not_contains = ["{trained}"] }}, '
    )
    demo.build()
    inodes = {
        split: [(demo.version(n) / f"data/{split}-00000-of-00001.jsonl").stat().st_ino for n in (1, 2)]
        for split in ("train", "validation")
    }
    assert inodes["validation"][0] == inodes["validation"][1] and inodes["train"][0] != inodes["train"][1]


def test_a_seed_column_called_labels_does_not_change_the_label_set(demo: Project, loopback: Loopback) -> None:
    demo.seeds([{"text": f"Review {n}", "labels": "positive"} for n in range(3)])
    demo.edit('prompt = "answer"', 'prompt = "label"\nlabels = ["good", "bad"]')
    demo.edit('[[steps]]\nuse = "deduplicate"\non = "answer"\nnear = 0.8\n', "")
    demo.edit("{{ question }}", "{{ text }}")
    demo.edit("{{ answer }}", "{{ label }}")
    demo.edit(', "not_truncated", "not_refusal", { rule = "length", min_words = 5 }]', "]")
    loopback.behave = lambda body: reply('{"label": "good"}')
    demo.build()
    asked = str(loopback.bodies[0]["messages"])
    assert "good" in asked and "bad" in asked and "positive" not in asked and "p, o, s" not in asked


def test_labels_are_in_the_closed_set_whatever_the_server_does(demo: Project, loopback: Loopback) -> None:
    demo.edit('prompt = "answer"', 'prompt = "label"\nread = { text = "question" }\nlabels = ["odd", "even"]')
    demo.edit(
        'rules = ["not_empty", "not_truncated", "not_refusal", { rule = "length", min_words = 5 }]',
        'rules = ["not_empty"]',
    )
    demo.edit('[[steps]]\nuse = "deduplicate"\non = "answer"\nnear = 0.8\n', "")
    demo.edit("{{ answer }}", "{{ label }}")

    def behave(body: dict) -> Say:
        first = body["messages"][-1 if len(body["messages"]) == 2 else -3]["content"]
        is_again = body["messages"][-1]["content"].startswith("Thank you, but")
        if "number 3?" in first:
            return reply('{"label": "neither"}')
        if "number 4?" in first:
            return reply('{"label": "odd"}' if is_again else "I think it is odd")
        if "number 6?" in first:
            return reply(None, message={"refusal": "I will not label this."})
        if "number 7?" in first:
            return reply("", finish="content_filter")
        return reply("even") if "number 5?" in first else answer(body)

    loopback.behave = behave
    done = demo.build()
    assert loopback.bodies[0]["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == [
        "odd",
        "even",
    ]
    assert {row["messages"][-1]["content"] for row in demo.rows()} == {"odd", "even"}
    assert demo.manifest()["rows"] == 17 and "schema 1" in done.stderr
    refused = [row for row in demo.sidecar("rejected") if row["rule"] == "not_refusal"]
    assert [row["detail"] for row in refused] == ["the server marked the reply as refused"] * 2, "nobody asks again"
    [failed] = demo.sidecar("failed")
    assert failed["cause"] == "schema" and failed["attempts"] == 2 and "(asked 2 times)" in failed["detail"]
    mended = next(row for row in demo.sidecar("provenance") if "number 4?" in row["columns"]["question"])
    assert mended["steps"][0]["asked"] == 2 and mended["columns"]["label"] == "odd"
    again = next(body for body in loopback.bodies if len(body["messages"]) == 4)
    assert again["messages"][2]["role"] == "assistant" and "not" in again["messages"][3]["content"]
    assert loopback.seen == 22
    demo.build()
    assert loopback.seen == 22, "a stored re-ask is served like any other answer"


def test_each_takes_a_list_apart_and_a_second_teacher_answers(demo: Project, loopback: Loopback) -> None:
    demo.seeds([{"document": f"Document {n} says so."} for n in range(3)])
    demo.edit(
        'use = "generate"\nprompt = "answer"',
        'use = "generate"\nprompt = "questions_from_document"\neach = true\nchecks = false\n\n[[steps]]\nuse = "generate"\nprompt = "answer"',
    )
    demo.build()
    assert loopback.seen == 3 + 9
    provenance = demo.sidecar("provenance")
    assert len(provenance) == 9 and [row["id"].rpartition(".")[2] for row in provenance[:3]] == ["0", "1", "2"]
    assert provenance[0]["parent"] == provenance[0]["origin"]
    plan = demo.run("plan").stdout
    assert "1.generate 3 answers stored, 0 calls" in plan and "2.generate 9 answers stored, 0 calls" in plan


def test_seeds_with_messages_keep_them_all(demo: Project, loopback: Loopback) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    demo.seeds([{"messages": [*turns, {"role": "user", "content": f"Question {n}?"}]} for n in range(4)])
    demo.edit('prompt = "answer"', 'prompt = "chat"')
    demo.edit('prompt = "{{ question }}"\n', "")
    demo.build()
    assert len(loopback.bodies[0]["messages"]) == 3
    assert [turn["role"] for turn in demo.rows()[0]["messages"]] == ["user", "assistant", "user", "assistant"]


def test_reasoning_has_its_own_column_in_every_row(demo: Project, loopback: Loopback) -> None:
    demo.edit('completion = "{{ answer }}"', 'completion = "{{ answer }}"\nreasoning = "{{ reasoning }}"')
    loopback.script(
        [reply(words("a"), message={"reasoning_content": "Let me think."}), reply("<think>Hm.</think>" + words("b"))]
    )
    demo.build()
    assert sorted({row["reasoning"] for row in demo.rows()}) == ["", "Hm.", "Let me think."]
    exported = demo.run("export", "demo").stdout
    assert "<think>\\nLet me think.\\n</think>" in exported
    assert "<think>" not in demo.run("export", "demo", "--reasoning", "drop").stdout


def test_seeds_from_a_pipe(demo: Project, loopback: Loopback) -> None:
    demo.edit('path = "seeds.jsonl"', 'path = "-"')
    done = demo.run("build", stdin='{"question": "One?"}\n{"question": "Two?"}\n')
    assert done.returncode == 0, done.stderr
    assert sorted(loopback.asked) == ["One?", "Two?"] and demo.manifest()["rows"] == 2
    empty = demo.run("build", stdin="")
    assert empty.returncode == 2 and "DG203 not a single seed in -" in empty.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["int", "term", "hup"])
def test_a_signal_drains_and_the_next_run_goes_on(demo: Project, loopback: Loopback, number: signal.Signals) -> None:
    demo.edit("sampling =", "limits = { max_in_flight = 4 }\nsampling =")
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.15)
    process = demo.start("build")
    wait_until(lambda: loopback.seen >= 6)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors and "stopping" in errors
    assert not (demo.folder / "datasets/demo/latest").exists()
    sent = loopback.seen
    demo.build()
    assert loopback.seen == 20 and sent < 20  # what was in flight at the signal was received and stored
    assert demo.manifest()["rows"] == 20


def test_a_second_signal_leaves_at_once(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=8)
    process = demo.start("build")
    wait_until(lambda: loopback.seen >= 1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - started < 5


def test_kill_9_loses_nothing_and_pays_nothing_twice(demo: Project, loopback: Loopback) -> None:
    demo.build()
    undisturbed = demo.manifest()["digest"]
    subprocess.run(["rm", "-rf", str(demo.folder / ".distillgen"), str(demo.folder / "datasets")], check=True)
    demo.edit("sampling =", "limits = { max_in_flight = 4 }\nsampling =")
    loopback.bodies.clear()
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.05)
    for stop_at in (5, 11):
        process = demo.start("build")
        wait_until(lambda stop_at=stop_at: loopback.seen >= stop_at)
        process.kill()
        process.communicate()
        assert process.returncode == -9
    demo.build()
    assert demo.manifest()["digest"] == undisturbed
    assert 20 <= loopback.seen <= 20 + 2 * 4  # at most what was in flight is asked again


def test_a_second_build_waits_for_nobody(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=3)
    process = demo.start("build")
    wait_until(lambda: loopback.seen >= 1)
    done = demo.run("build")
    assert done.returncode == 11 and f"process {process.pid} on" in done.stderr
    assert f"process {process.pid}" in demo.run("status").stdout
    process.kill()
    process.communicate()
    loopback.behave = answer
    demo.build()


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_leftovers_of_a_crash_are_swept(demo: Project) -> None:
    demo.build()
    home = demo.folder / "datasets/demo"
    (home / ".staging-v0002" / "data").mkdir(parents=True)
    (home / "latest").unlink()
    demo.edit("min_words = 5", "min_words = 6")
    assert "nothing changed" in demo.build().stderr
    assert (home / "latest").readlink().name == "v0001" and not list(home.glob(".staging*"))


def test_a_reader_never_sees_half_a_version(demo: Project) -> None:
    demo.build()
    link = demo.folder / "datasets/demo/latest"
    original = demo.recipe.read_text()
    for number in range(2, 5):
        demo.recipe.write_text(original.replace('prompt = "{{ question }}', f'prompt = "{number} {{{{ question }}}}'))
        process = demo.start("build")
        while process.poll() is None:
            folder = link.resolve()
            assert (folder / "manifest.json").is_file() and list((folder / "data").iterdir())
        process.communicate()
        assert process.returncode == 0
    assert os.readlink(link) == "v0004"


def test_two_states_do_not_publish_one_dataset_at_once(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.3)
    first = demo.start("build", "--set", "teachers.main.limits.max_in_flight=1")
    while not loopback.seen:
        time.sleep(0.05)
    second = demo.run("build", "--state", str(demo.folder / "elsewhere"))
    assert second.returncode == 11 and "another distillgen is at work" in second.stderr and loopback.seen < 20
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
