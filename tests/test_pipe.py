"""The command `generate` in pipes: streamed, in order, flat; whatever closes or kills it, nothing paid for is lost."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, clean_environment
from loopback import Loopback, Say, answer, reply
from till import ONE, Till, late, number_of

from distillgen.teacher.sent import SentNotes

GENERATE = (sys.executable, "-m", "distillgen", "generate", "--prompt", "answer", "--model", "scripted")
NOBODY = "(no teacher)"  # where a run shall name none
PAID = ("--set", "teachers.main.prices={input=1000,output=10000}", "--max-tokens", "100")


def questions(count: int, start: int = 0) -> str:
    return "".join(json.dumps({"question": f"What is number {n}?"}) + "\n" for n in range(start, start + count))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def generate(project: Project, loopback: Loopback) -> Any:
    """Run `generate` on some lines and return what came of it."""

    def run(stdin: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        base = () if {"--base-url", NOBODY} & {*arguments} else ("--base-url", loopback.url)
        named = [word for word in arguments if word != NOBODY]
        done = project.run(*GENERATE[3:], *base, *named, stdin=stdin, **environment)
        assert "Traceback" not in done.stderr and "DG000" not in done.stderr, done.stderr
        return done

    return run


def shell(project: Project, loopback: Loopback, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which $G is the command."""
    command = " ".join((*GENERATE, "--base-url", loopback.url))
    return subprocess.run(
        ["bash", "-c", script.replace("$G", command)], cwd=project.folder, env=clean_environment(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_rows_leave_in_the_order_in_which_they_came(generate: Any, loopback: Loopback) -> None:
    loopback.behave = lambda body: late(body, 0.3 if number_of(body) % 5 == 1 else 0.0)
    done = generate(questions(40))
    assert done.returncode == 0 and done.stderr == ""
    rows = lines(done.stdout)
    assert [row["question"] for row in rows] == [f"What is number {n}?" for n in range(40)]
    assert rows[0].keys() == {"question", "reasoning", "answer"} and rows[7]["answer"].startswith("About 7?:")
    again = generate(questions(45))
    assert again.stdout.startswith(done.stdout) and loopback.seen == 45, "the same rows are not asked again"


def test_a_row_leaves_before_the_next_one_comes(project: Project, loopback: Loopback) -> None:
    running = subprocess.Popen(
        [*GENERATE, "--base-url", loopback.url], cwd=project.folder, env=clean_environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdin and running.stdout and running.stderr
    for number in range(3):
        running.stdin.write(questions(1, number))
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["question"] == f"What is number {number}?"
    running.stdin.close()
    assert running.wait(20) == 0 and running.stderr.read() == ""
    running.stdout.close()
    running.stderr.close()


def test_builds_and_pipes_share_one_store(demo: Project, generate: Any, loopback: Loopback) -> None:
    demo.build()
    done = generate(questions(20), "--max-tokens", "100")
    assert len(lines(done.stdout)) == 20 and loopback.seen == 20


def test_two_in_one_pipe_use_the_store_at_once(project: Project, loopback: Loopback) -> None:
    project.write("in.jsonl", questions(60))
    script = "set -o pipefail; $G < in.jsonl | $G --set steps.0.write.answer=second --temperature 1 > out.jsonl"
    done = shell(project, loopback, script)
    assert (done.returncode, done.stderr) == (0, "")
    rows = lines((project.folder / "out.jsonl").read_text())
    assert [number_of({"messages": [{"content": row["question"]}]}) for row in rows] == list(range(60))
    assert all(row["second"] == row["answer"] for row in rows) and loopback.seen == 120
    assert shell(project, loopback, script).returncode == 0 and loopback.seen == 120


def test_many_that_start_at_once_on_what_a_crash_left_behind(project: Project, loopback: Loopback) -> None:
    """Each takes in the notes of runs that ended; whoever comes second finds them gone."""
    state = project.folder / ".distillgen"
    for number in range(60):
        notes = SentNotes(state, "generate")
        notes.sent(bytes([number]) * 32, 5)
        notes.close()
    project.write("in.jsonl", questions(3))
    done = shell(
        project,
        loopback,
        'for n in 1 2 3 4; do $G < in.jsonl > out$n.jsonl & p="$p $!"; done; for q in $p; do wait $q || echo FAILED $?; done',
    )
    assert done.stdout == "" and done.stderr == "", done.stderr
    spent = json.loads(project.run("status", "--json").stdout)["spent"]
    assert (spent["unknown_calls"], spent["unknown_usd"]) == (60, 60 * 5e-9)
    assert len(list(state.glob("sent-*"))) <= 4, "but for those of the four"


def test_a_reader_that_goes_away_ends_it_with_141(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: late(body, 0.1)
    till = Till(loopback)
    project.write("in.jsonl", questions(500))
    done = shell(project, loopback, "$G < in.jsonl | head -1; echo ${PIPESTATUS[0]}")
    first, code = done.stdout.splitlines()
    assert json.loads(first)["question"] == "What is number 0?" and code == "141" and done.stderr == ""
    assert till.calls < 200
    status = json.loads(project.run("status", "--json").stdout)
    assert status["stored_answers"] == till.calls == status["spent"]["calls"]
    assert status["spent"]["unknown_calls"] == 0, "what was under way was received and stored"


def test_a_reader_that_goes_away_ends_both_of_a_pipe(project: Project, loopback: Loopback) -> None:
    project.write("in.jsonl", questions(3000))
    script = "$G < in.jsonl | $G --temperature 1 | head -2 > out.jsonl; echo ${PIPESTATUS[@]}"
    done = shell(project, loopback, script)
    assert done.stdout == "141 141 0\n" and done.stderr == ""
    assert [
        number_of({"messages": [{"content": row["question"]}]})
        for row in lines((project.folder / "out.jsonl").read_text())
    ] == [0, 1]
    stored = json.loads(project.run("status", "--json").stdout)["stored_answers"]
    assert stored == loopback.seen < 6000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_whatever_stops_two_in_a_pipe_the_same_line_goes_on(
    project: Project, loopback: Loopback, number: signal.Signals
) -> None:
    loopback.behave = lambda body: late(body, 0.05)
    till = Till(loopback)
    project.write("in.jsonl", questions(300))
    command = [*GENERATE, "--base-url", loopback.url]
    environment = clean_environment()
    with (project.folder / "in.jsonl").open() as seeds, (project.folder / "out.jsonl").open("w") as out:
        first = subprocess.Popen(
            command, cwd=project.folder, env=environment, stdin=seeds, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        second = subprocess.Popen(
            [*command, "--temperature", "1"], cwd=project.folder, env=environment, stdin=first.stdout, stdout=out,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert first.stdout
        first.stdout.close()
        while loopback.seen < 150:
            time.sleep(0.01)
        for process in (first, second):
            process.send_signal(number)
        said = [process.communicate()[1].decode() for process in (first, second)]
    assert not any("Traceback" in words or "DG000" in words for words in said), said
    codes = {first.returncode, second.returncode}
    assert codes <= ({-9} if number is signal.SIGKILL else {128 + number, 141}), (codes, said)
    status = json.loads(project.run("status", "--json").stdout)
    lost = status["spent"]["unknown_calls"]
    assert status["stored_answers"] + lost >= loopback.seen and lost <= 64 * (number is signal.SIGKILL)
    written = (project.folder / "out.jsonl").read_text()
    done = shell(project, loopback, "$G < in.jsonl | $G --temperature 1")
    assert [row["question"] for row in lines(done.stdout)] == [f"What is number {n}?" for n in range(300)]
    assert done.stdout.startswith(written[: written.rfind("\n") + 1]), "what had come out comes out again"
    assert till.calls <= 600 + lost, "only what was under way is paid for twice"


def test_one_signal_while_it_waits_for_its_input(project: Project, loopback: Loopback) -> None:
    running = subprocess.Popen(
        [*GENERATE, "--base-url", loopback.url], cwd=project.folder, env=clean_environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdin and running.stdout
    running.stdin.write(questions(1))
    running.stdin.flush()
    running.stdout.readline()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 130 and "DG001 stopped" in said and "Fatal" not in said and "Traceback" not in said


def test_twenty_thousand_rows_stream_in_order_and_flat_memory(project: Project, loopback: Loopback) -> None:
    """The rows take 80 MB, and the teacher's answers little: what grows is SQLite's cache of them, which has a limit."""
    said, ballast = reply("One two three four five six."), "w " * 2_000
    loopback.behave = lambda _: said
    command = [*GENERATE, "--base-url", loopback.url]
    running = subprocess.Popen(
        command, cwd=project.folder, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert running.stdin and running.stdout

    def feed(pipe: Any) -> None:
        for number in range(20_000):
            pipe.write(json.dumps({"question": f"{ballast}, number {number}?"}).encode() + b"\n")
        pipe.close()

    feeder = threading.Thread(target=feed, args=(running.stdin,))
    feeder.start()
    peaks = []
    for number in range(20_000):
        assert f"number {number}?".encode() in running.stdout.readline()
        if number in (3_999, 19_999):
            peaks.append(peak_memory(running.pid))
    assert running.stdout.read() == b"" and running.wait(20) == 0 and loopback.seen == 20_000
    feeder.join()
    running.stdout.close()
    assert peaks[1] - peaks[0] < 30e6, peaks


def peak_memory(pid: int) -> int:
    """Return the most memory that a process held so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_a_budget_stops_a_pipe_and_the_same_line_goes_on(generate: Any, project: Project, loopback: Loopback) -> None:
    till = Till(loopback)
    done = generate(questions(30), *PAID, "--budget", "2.5")
    assert done.returncode == 5 and done.stderr.startswith("DG411 budget.usd = 2.5 is used up")
    assert 0.5 < till.billed <= 2.5
    out = done.stdout
    while done.returncode == 5:
        asked = loopback.seen
        done = generate(questions(30), *PAID, "--budget", "2.5")
        assert loopback.seen > asked and done.stdout.startswith(out)
        out = done.stdout
    assert done.returncode == 0 and len(lines(out)) == loopback.seen == 30 and till.billed == 30 * ONE
    assert f"spent     ${30 * ONE:,.4f} for 30 calls" in project.run("status").stdout


def test_what_is_left_out_goes_where_it_is_asked_for(generate: Any, project: Project, loopback: Loopback) -> None:
    def behave(body: dict[str, Any]) -> Say:
        number = number_of(body)
        return (
            reply("I'm sorry, but I can't help with that.")
            if number == 1
            else Say(400, b'{"error": "too long"}')
            if number == 2
            else answer(body)
        )

    loopback.behave = behave
    done = generate(questions(4), "--rejected", "rejected.jsonl", "--failed", "failed.jsonl")
    assert done.returncode == 0 and len(lines(done.stdout)) == 2
    assert done.stderr == "1 rejected, 1 failed: not_refusal 1, refused_400 1\n"
    rejected, failed = (lines((project.folder / f"{name}.jsonl").read_text())[0] for name in ("rejected", "failed"))
    assert rejected["left_out"]["rule"] == "not_refusal" and rejected["question"] == "What is number 1?"
    assert failed["left_out"]["cause"] == "refused_400" and failed["question"] == "What is number 2?"


def test_both_kinds_of_what_is_left_out_may_go_to_one_file(generate: Any, project: Project, loopback: Loopback) -> None:
    refused = Say(400, b'{"error": "too long"}')
    loopback.behave = lambda body: reply("I'm sorry, but I can't help.") if number_of(body) % 2 else refused
    done = generate(questions(9), "--rejected", "out.jsonl", "--failed", "out.jsonl")
    assert done.returncode == 0 and done.stdout == ""
    found = lines((project.folder / "out.jsonl").read_text())
    assert sorted(row["question"] for row in found) == [f"What is number {n}?" for n in range(9)]


def test_rows_are_utf_8_whatever_the_terminal_speaks(generate: Any, loopback: Loopback) -> None:
    broken = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"lone \\ud800, one two three"}}]}'
    loopback.script([reply("Grüße, 你好"), Say(body=broken)])
    stdin = '{"question": "Wörter ✓?"}\n{"question": "lone?"}\n'
    done = generate(stdin, PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr


def test_offline_serves_what_is_stored_and_says_how_to_get_the_rest(generate: Any, loopback: Loopback) -> None:
    generate(questions(2))
    done = generate(questions(3), "--offline")
    assert done.returncode == 3 and len(lines(done.stdout)) == loopback.seen == 2
    assert done.stderr.startswith("0 rejected, 1 failed: not_stored 1") and "run it without --offline" in done.stderr


def test_an_empty_pipe_makes_no_rows_and_no_call(generate: Any, loopback: Loopback) -> None:
    done = generate("")
    assert (done.returncode, done.stdout, done.stderr, loopback.seen) == (0, "", "", 0)


def test_a_bad_line_ends_it_and_the_rows_before_it_are_kept(
    generate: Any, project: Project, loopback: Loopback
) -> None:
    done = generate(questions(3) + "not json\n" + questions(2, 3))
    assert done.returncode == 2 and "not valid JSON" in done.stderr and "standard input:4" in done.stderr
    assert "--skip-bad-seeds" in done.stderr
    done = generate(questions(3) + "not json\n" + questions(2, 3), "--skip-bad-seeds")
    assert done.returncode == 0 and len(lines(done.stdout)) == 5 and loopback.seen == 5


MISTAKES = {
    "no-provider": ((NOBODY,), 2, "DG100 whom to ask? --model 'scripted' names no provider"),
    "misspelt-provider": (("--provider", "opnai"), 2, "unknown provider 'opnai' in --provider\n      did you mean 'openai'?"),
    "misspelt-prompt": (("--prompt", "answre"), 2, "unknown prompt 'answre' in --prompt\n      did you mean 'answer'?"),
    "budget-zero": (("--budget", "0"), 2, "'usd' is 0.0: must be above 0"),
    "budget-without-price": (("--budget", "1"), 2, "no price is known for 'scripted'"),
    "budget-without-max-tokens": (("--budget", "1", *PAID[:2]), 2, "(in a pipe: --max-tokens 2000)"),
    "budget-too-small": (("--budget", "0.1", *PAID), 5, "does not pay for one request"),
    "price-zero": (("--set", "teachers.main.prices={input=0,output=0}"), 2, "what costs nothing is `prices = { free = true }`"),
    "not-an-address": (("--base-url", "nonsense"), 2, "such as https://api.example.com/v1"),
    "nobody-there": (("--base-url", "http://127.0.0.1:9/v1"), 7, "cannot connect to http://127.0.0.1:9/v1: Connection refused"),
    "labels-missing": (("--prompt", "label"), 2, "--label positive --label negative"),
    "label-twice": (("--prompt", "label", "--label", "a", "--label", "a"), 2, "the same label twice in --label"),
    "unknown-key": (("--set", "nosuch.key=1"), 2, "unknown key 'nosuch' in --set nosuch"),
    "wrong-column": (("--prompt", "explain"), 2, "seed without column 'topic' in standard input:1"),
    "no-folder": (("--failed", "no/such/folder.jsonl"), 2, "cannot write no/such/folder.jsonl"),
    "samples-zero": (("--samples", "0"), 2, "Invalid value for '--samples'"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_as_the_option_it_came_from(
    generate: Any, loopback: Loopback, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = generate(questions(2), *arguments)
    assert (done.returncode, done.stdout, loopback.seen) == (code, "", 0)
    assert words in done.stderr
