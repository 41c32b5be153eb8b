"""Whole pipes, generate | filter | deduplicate | export: order, early lines, closed ends, bad rows, only data."""

import asyncio
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Project, clean_environment
from loopback import Loopback
from test_structure import COMMANDS

from distillgen.cli import lines

ME = f"{sys.executable} -m distillgen"
ROW = {"question": "Why does ice float?", "answer": "Because it is less dense than the water around it."}
CHAT = [{"role": "user", "content": ROW["question"]}, {"role": "assistant", "content": ROW["answer"]}]
PIPES = {
    "filter": ["filter", "-r", "not_empty"],
    "deduplicate": ["deduplicate"],
    "decontaminate": ["decontaminate", "--against", "held.txt"],
    "export": ["export"],
}
HELD = "the quick brown fox jumps over the lazy dog again and again until the night\n"


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {n}?", "answer": f"It is number {n * 7919} of all."} for n in range(count)]


def shell(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script.replace("distillgen ", f"{ME} ")], cwd=folder, env=clean_environment(**environment),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def pipes(project: Project) -> Project:
    project.write("held.txt", HELD)
    return project


def start(project: Project, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "distillgen", *arguments], cwd=project.folder, env=clean_environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_whole_pipe_of_the_docs(project: Project, loopback: Loopback) -> None:
    page = (REPOSITORY / "docs" / "pipes.md").read_text(encoding="utf-8")
    found = re.search(r"```sh\n(set -o pipefail\n.+?)```", page, re.DOTALL)
    assert found
    line = found[1]
    for name in ("generate", "filter", "deduplicate", "export"):
        assert f"distillgen {name} " in line
    project.seeds([{"question": f"What is number {n % 20}?"} for n in range(24)], "questions.jsonl")
    line = line.replace("http://127.0.0.1:8000/v1", loopback.url).replace("my-model", "scripted")
    done = shell(project.folder, line)
    assert done.returncode == 0, done.stderr
    rows = read((project.folder / "out" / "train.jsonl").read_text())
    assert [row["conversations"][0]["value"] for row in rows] == [f"What is number {n}?" for n in range(20)]
    assert loopback.seen == 20 and done.stdout == ""
    assert "4 rejected, 0 failed: exact_duplicate 4" in done.stderr


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("line_buffered", [[], ["--line-buffered"]], ids=["as-they-come", "line-buffered"])
def test_a_line_leaves_while_the_input_is_open(pipes: Project, name: str, line_buffered: list[str]) -> None:
    with start(pipes, *PIPES[name], *line_buffered) as process:
        assert process.stdin and process.stdout
        for row in numbered(3):
            process.stdin.write(jsonl([row]).encode())
            process.stdin.flush()
            assert row["answer"] in process.stdout.readline().decode()
        process.stdin.close()
        assert process.wait(30) == 0


def test_lines_that_come_at_once_leave_together_or_one_by_one(pipes: Project) -> None:
    """A read of a pipe returns what one write has put in, as long as nothing waits in it."""
    rows = jsonl(numbered(2)).encode()
    for options, at_first in ((["export"], 2), (["export", "--line-buffered"], 1)):
        with start(pipes, *options) as process:
            assert process.stdin and process.stdout
            done = trace_writes(process, rows)
            assert done >= at_first


def trace_writes(process: "subprocess.Popen[bytes]", rows: bytes) -> int:
    """Feed rows; return how many lines the first read brings."""
    assert process.stdin and process.stdout
    process.stdin.write(rows)
    process.stdin.close()
    select.select([process.stdout], [], [], 30)
    first = os.read(process.stdout.fileno(), 65_536).count(b"\n")
    process.stdout.read()
    assert process.wait(30) == 0
    return first


@pytest.mark.parametrize("name", PIPES)
def test_order_is_kept_and_all_arrives(pipes: Project, name: str) -> None:
    rows = numbered(3_000)
    pipes.write("rows.jsonl", jsonl(rows))
    done = pipes.run(*PIPES[name], stdin=jsonl(rows))
    assert done.returncode == 0 and done.stderr == ""
    if name == "export":
        assert [row["messages"][1]["content"] for row in read(done.stdout)] == [row["answer"] for row in rows]
    else:
        assert done.stdout == jsonl(rows)


@pytest.mark.parametrize("name", PIPES)
def test_a_reader_that_goes_away_ends_it_with_141(pipes: Project, name: str) -> None:
    pipes.write("row.jsonl", jsonl([ROW]))
    script = f"yes '{json.dumps(ROW)}' | distillgen {' '.join(PIPES[name])} | head -1; echo ${{PIPESTATUS[@]}}"
    done = shell(pipes.folder, script)
    assert done.stdout.splitlines()[1] == "141 141 0" and done.stderr == ""


@pytest.mark.parametrize("name", PIPES)
def test_a_reader_that_goes_away_ends_it_while_nothing_comes(pipes: Project, name: str) -> None:
    with start(pipes, *PIPES[name]) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(jsonl([ROW]).encode())
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 141 and process.stderr.read() == b""
        process.stdin.close()


@pytest.mark.parametrize("name", PIPES)
def test_a_reader_that_took_all_is_no_broken_pipe(pipes: Project, name: str) -> None:
    pipes.write("row.jsonl", jsonl([ROW]))
    done = shell(pipes.folder, f"set -o pipefail; distillgen {' '.join(PIPES[name])} < row.jsonl | head -1")
    assert done.returncode == 0 and ROW["answer"] in done.stdout


@pytest.mark.parametrize("name", ["filter", "deduplicate", "export"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("stuck", ["output", "rejected"])
def test_a_signal_is_heard_while_nobody_takes_what_leaves(
    pipes: Project, name: str, number: signal.Signals, stuck: str
) -> None:
    rows = numbered(2_000)
    if stuck == "rejected":
        rows = [{"question": "q", "answer": "same" if name == "deduplicate" else ""}] * 2_000
    pipes.write("rows.jsonl", jsonl([{**row, "question": "why " * 100} for row in rows]))
    here, there = os.pipe()
    aside = ["--rejected", f"/dev/fd/{there}"] if stuck == "rejected" else []
    with (pipes.folder / "rows.jsonl").open() as given:
        process = subprocess.Popen(
            [sys.executable, "-m", "distillgen", *PIPES[name], *aside], cwd=pipes.folder, env=clean_environment(),
            stdin=given, stdout=subprocess.DEVNULL if aside else there, stderr=subprocess.PIPE, pass_fds=[there],
        )  # fmt: skip
    os.close(there)
    try:
        select.select([here], [], [], 30)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(10) in (128 + number, -number)
    finally:
        process.kill()
        said = process.communicate()[1]
        os.close(here)
    assert b"Traceback" not in said and b"DG000" not in said


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[lines.Outlet, int, int]]:
    """An outlet into a pipe; the numbers of both ends of it."""
    here, there = os.pipe()
    monkeypatch.setattr(lines, "_output_number", lambda: there)
    yield lines.Outlet(each=False), here, there
    for number in (here, there):
        with contextlib.suppress(OSError):
            os.close(number)


def test_a_stop_while_a_reader_is_slow_tears_no_line(narrow: tuple[lines.Outlet, int, int]) -> None:
    out, here, there = narrow
    line, came = b"x" * 70_000, bytearray()

    async def work() -> None:
        for _ in range(2):
            await out.write(line)

    async def main() -> None:
        task = asyncio.create_task(lines.pour(work(), out))
        await asyncio.sleep(0.2)
        task.cancel()
        reader.start()
        with pytest.raises(asyncio.CancelledError):
            await task

    def read_on() -> None:
        while got := os.read(here, 10_000):
            came.extend(got)

    reader = threading.Thread(target=read_on)
    asyncio.run(main())
    os.close(there)
    reader.join()
    assert bytes(came) == line + b"\n", "the line that was under way is whole"


def test_lines_that_nobody_takes_leave_whole_or_not_at_all(narrow: tuple[lines.Outlet, int, int]) -> None:
    out, here, there = narrow

    async def work() -> None:
        for _ in range(300):
            await out.write(b"x" * 1_000)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await lines.pour(work(), out)

    asyncio.run(main())
    os.close(there)
    came = b""
    while got := os.read(here, 65_536):
        came += got
    assert {len(each) for each in came.split(b"\n")} == {1_000, 0} and came.endswith(b"\n")


def fill(number: int) -> None:
    os.set_blocking(number, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(number, b"." * 4_096)
    os.set_blocking(number, True)


def test_a_drain_is_cut_short_by_no_second_error(narrow: tuple[lines.Outlet, int, int]) -> None:
    """The attendant meets the closed end first, whoever writes a moment later: paid answers come in meanwhile."""
    out, here, there = narrow
    drained = []

    async def work() -> None:
        try:
            await out.write(b"at once")
            fill(there)
            await out.write(b"by the attendant")
            await asyncio.sleep(0.2)
            asyncio.get_running_loop().call_later(0.1, os.close, here)
            await out.write(b"x" * lines.BLOCK)
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0.3)
            drained.append(True)

    with pytest.raises(BrokenPipeError):
        asyncio.run(lines.pour(work(), out))
    assert drained


def test_a_drain_is_cut_short_by_no_signal(narrow: tuple[lines.Outlet, int, int]) -> None:
    """Ctrl-C reaches every command of a pipe, also one whose reader has just gone."""
    out, here, _ = narrow
    drained = []

    async def work() -> None:
        try:
            os.close(here)
            await out.write(b"nobody reads")
        finally:
            await asyncio.sleep(0.4)
            drained.append(True)

    async def main() -> None:
        task = asyncio.create_task(lines.pour(work(), out))
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert drained


@pytest.mark.parametrize("name", ["filter", "deduplicate", "export"])
def test_what_is_left_out_destroys_no_rows(pipes: Project, name: str) -> None:
    pipes.write("rows.jsonl", jsonl([ROW]))
    command = f"distillgen {' '.join(PIPES[name])}"
    done = shell(pipes.folder, f"{command} --rejected ./rows.jsonl < rows.jsonl")
    assert done.returncode == 2 and "DG100 standard input is this file in rows.jsonl" in done.stderr and not done.stdout
    assert read((pipes.folder / "rows.jsonl").read_text()) == [ROW]
    done = shell(pipes.folder, f"{command} --rejected out.jsonl < rows.jsonl > out.jsonl")
    assert done.returncode == 2 and "DG100 standard output is this file in out.jsonl" in done.stderr


ENDS = {
    ">&-": (2, "DG702 standard output is closed"),
    "<&-": (2, "DG100 standard input is closed"),
    "2>&-": (0, ""),
    ">/dev/full": (12, "DG703 no room to write standard output"),
}


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("end", ENDS)
def test_closed_and_full_ends(pipes: Project, name: str, end: str) -> None:
    pipes.write("row.jsonl", jsonl([ROW]))
    status, said = ENDS[end]
    done = shell(pipes.folder, f"distillgen {' '.join(PIPES[name])} < row.jsonl {end}", PYTHONWARNINGS="")
    assert done.returncode == status and done.stderr.startswith(said), done.stderr
    assert "Traceback" not in done.stderr and "what was decided" not in done.stderr and "Exception" not in done.stderr
    assert bool(done.stdout) == (end == "2>&-")


@pytest.mark.parametrize("name", PIPES)
def test_a_terminal_is_no_input(pipes: Project, name: str) -> None:
    main, terminal = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "distillgen", *PIPES[name]], cwd=pipes.folder, env=clean_environment(),
            stdin=terminal, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(main)
        os.close(terminal)
    assert done.returncode == 2 and "standard input, and that is a terminal" in done.stderr and not done.stdout
    assert f"distillgen {name} ... < rows.jsonl" in done.stderr


GOOD = json.dumps(ROW).encode()
BAD = {
    "no-json": (b"{torn", "not valid JSON"),
    "a-list": (b"[1]", "a JSON list, not an object"),
    "half-a-character": (b'{"question": "q", "answer": "\\ud800"}', "not valid JSON"),
    "no-utf-8": (b'{"question": "q", "answer": "\xff"}', "not valid JSON"),
    "nul": (b'{"question": "q", "answer": "\0"}', "not valid JSON"),
    "nested": (b'{"question": "q", "answer": ' + b"[" * 300 + b"]" * 300 + b"}", "nested deeper"),
}


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("bad", BAD)
def test_bad_lines_are_the_same_to_all(pipes: Project, name: str, bad: str) -> None:
    line, said = BAD[bad]
    (pipes.folder / "rows.jsonl").write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD.replace(b"ice", b"oil") + b"\n")
    command = f"distillgen {' '.join(PIPES[name])}"
    done = shell(pipes.folder, f"{command} < rows.jsonl")
    assert done.returncode == 2 and said in done.stderr and "standard input:3" in done.stderr, done.stderr
    assert len(read(done.stdout)) == 1, "the row before it has left"
    done = shell(pipes.folder, f"{command} --skip-bad-rows < rows.jsonl")
    assert done.returncode == 0 and "bad rows skipped: 1" in done.stderr


@pytest.mark.parametrize("name", PIPES)
def test_marks_ends_and_long_lines_are_no_matter(pipes: Project, name: str) -> None:
    long = json.dumps({"question": "q", "answer": "long " * 2_000_000}).encode()
    mark = b"\xef\xbb\xbf"
    other = GOOD.replace(b"water", b"sea")
    (pipes.folder / "rows.jsonl").write_bytes(mark + GOOD + b"\r\n" + long + b"\n" + mark + other)
    done = shell(pipes.folder, f"distillgen {' '.join(PIPES[name])} < rows.jsonl")
    assert done.returncode == 0, done.stderr[:500]
    assert len(read(done.stdout)) == 3 and "\ufeff" not in done.stdout and "\r" not in done.stdout


ROWS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "plain": (ROW, CHAT),
    "chat": ({"messages": CHAT}, CHAT),
    "chat-and-answer": ({"messages": CHAT[:1], "answer": ROW["answer"]}, CHAT),
    "sharegpt": ({"conversations": [{"from": "human", "value": ROW["question"]}, {"from": "gpt", "value": ROW["answer"]}]}, CHAT),
    "alpaca": ({"instruction": "Why?", "input": "Ice", "output": "So.", "system": "Be brief.", "history": [["a", "b"]]}, [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "Why?\n\nIce"}, {"role": "assistant", "content": "So."},
    ]),
    "completion": ({"prompt": CHAT[:1], "completion": CHAT[1:]}, CHAT),
    "reasoned": ({**ROW, "reasoning": "r"}, [CHAT[0], {"role": "assistant", "content": f"<think>\nr\n</think>\n\n{ROW['answer']}"}]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_of_anybody_becomes_a_conversation(project: Project, kind: str) -> None:
    row, turns = ROWS[kind]
    done = project.run("export", "-", stdin=jsonl([row]))
    assert done.returncode == 0 and read(done.stdout) == [{"messages": turns}], done.stderr


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {"prompt": "Why?", "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
         "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}]},
        {"chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
         "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}]},
    ],
    ids=["texts", "repeated", "implicit"],
)  # fmt: skip
def test_a_pair_of_anybody_becomes_a_pair(project: Project, row: dict[str, Any]) -> None:
    done = project.run("export", "--format", "preference", stdin=jsonl([row]))
    turn = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "So."), ("rejected", "No."))}
    assert read(done.stdout) == [{"prompt": [{"role": "user", "content": "Why?"}], **turn}], done.stderr


UNFIT = {
    "no-prompt": ({"topic": "ice", "answer": "a"}, [], "it has no prompt (it has 'topic', 'answer')"),
    "no-answer": ({"question": "ice", "topic": "a"}, [], "it has no answer (it has 'question', 'topic')"),
    "no-column": (ROW, ["--prompt-column", "topic"], "it has no column 'topic' (it has 'question', 'answer')"),
    "a-number": ({"question": 3, "answer": "a"}, [], "its 'question' is a number, not a text or a list of messages"),
    "no-content": ({"messages": [{"role": "user"}]}, [], "turn 1 of 'messages': its 'content' is null or missing"),
    "tools": ({"messages": [CHAT[0], {**CHAT[1], "tool_calls": [1]}]}, [], "turn 2 of 'messages' has the key 'tool_calls'"),
    "two-answers": ({"messages": CHAT, "other": "a"}, ["--answer-column", "other"], "an answer in its messages and another"),
    "a-bad-answer": ({"prompt": "q", "completion": "a", "label": False}, [], "an answer marked as a bad one"),
    "a-pair": ({"prompt": "q", "chosen": "a", "rejected": "b"}, [], "it is one preference pair"),
    "empty": ({"question": "q", "answer": ""}, [], "turn 2 is empty"),
    "split": ({**ROW, "split": "../x"}, [], "its `split` is '../x'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_what_cannot_be_filled_is_refused_with_line_and_reason(project: Project, kind: str) -> None:
    row, options, said = UNFIT[kind]
    done = project.run("export", *options, stdin=jsonl([row]))
    assert done.returncode == 2 and not done.stdout
    assert said in done.stderr and "row at line 1" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_rows_that_do_not_fit_go_aside_with_their_reason(project: Project) -> None:
    rows = [ROW, {"topic": "ice", "n": 12345678901234567890123}, {**ROW, "split": "validation"}]
    done = project.run("export", "-o", "out", "--rejected", "bad.jsonl", stdin=jsonl(rows))
    assert done.returncode == 0 and done.stdout == "" and "1 row not written: see bad.jsonl" in done.stderr
    (bad,) = read((project.folder / "bad.jsonl").read_text())
    reason = bad.pop("left_out")
    assert bad == rows[1] and reason["rule"] == "messages" and reason["detail"].startswith("it has no prompt")
    for split in ("train", "validation"):
        assert read((project.folder / "out" / f"{split}.jsonl").read_text()) == [{"messages": CHAT}]


def test_a_folder_stays_as_it_was_when_a_row_does_not_fit(project: Project) -> None:
    project.write("out/train.jsonl", "old\n")
    done = project.run("export", "-o", "out", stdin=jsonl([ROW, {"topic": 1}]))
    assert done.returncode == 2 and "row at line 2" in done.stderr
    assert os.listdir(project.folder / "out") == ["train.jsonl"]
    assert (project.folder / "out" / "train.jsonl").read_text() == "old\n"
    empty = project.run("export", "-o", "new", stdin="")
    assert empty.returncode == 2 and "no rows came" in empty.stderr and not (project.folder / "new").exists()
    nothing = project.run("export", stdin="")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("prompt-completion", {"prompt": ROW["question"], "completion": ROW["answer"]}),
        ("alpaca", {"instruction": ROW["question"], "input": "", "output": ROW["answer"], "system": "", "history": []}),
        ("labels", {"text": ROW["question"], "label": ROW["answer"]}),
    ],
)
def test_every_format_takes_the_rows_of_a_pipe(project: Project, form: str, wanted: dict[str, Any]) -> None:
    assert read(project.run("export", "--format", form, stdin=jsonl([ROW])).stdout) == [wanted]


def test_csv_and_parquet_of_a_pipe(project: Project) -> None:
    done = project.run("export", "--format", "csv", stdin=jsonl([ROW]))
    assert done.stdout == f"id,system,prompt,completion\nline 1,,{ROW['question']},{ROW['answer']}\n"
    parquet = pytest.importorskip("pyarrow.parquet")
    assert project.run("export", "--format", "parquet", "-o", "out", stdin=jsonl([ROW])).returncode == 0
    table = parquet.read_table(project.folder / "out" / "train.parquet")
    assert table.to_pylist() == [{"id": "line 1", "messages": CHAT}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "nope"], "DG100 no format 'nope'\n      formats: messages,"),
        (["--format", "sharegtp"], "did you mean 'sharegpt'?"),
        (["--format", "trl"], "trl is for a version"),
        (["demo", "--answer-column", "x"], "are for the rows of a pipe"),
        (["--format", "text"], "needs a chat template"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_of_export(project: Project, arguments: list[str], said: str) -> None:
    done = project.run("export", *arguments, stdin=jsonl([ROW]))
    assert done.returncode == 2 and said in done.stderr and not done.stdout
    assert ("did you mean" in done.stderr) == ("did you mean" in said)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each], ids=" ".join)
def test_what_goes_wrong_leaves_standard_output_empty(project: Project, command: list[str]) -> None:
    done = project.run(*command, "--no-such-option", stdin="")
    assert done.returncode == 2 and done.stdout == "" and "No such option: --no-such-option" in done.stderr


MISSING = [
    ["plan"], ["build"], ["check", "nothing"], ["log", "nothing"], ["show", "nothing"], ["stats", "nothing"],
    ["diff", "nothing", "nothing@2"], ["trace", "nothing", "x"], ["report", "nothing"], ["export", "nothing"],
    ["mix", "nothing", "--to", "x"], ["push", "nothing", "out"], ["pull", "no/such/folder"], ["pin", "nothing"],
    ["unpin", "nothing"], ["forget", "nothing", "--id", "x"], ["explain", "DG999"],
    ["prompts", "show", "no-such-prompt"], ["prompts", "render", "no-such-prompt"], ["generate"], ["filter"],
    ["deduplicate", "--against", "no.jsonl"], ["decontaminate", "--against", "no.jsonl"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", MISSING, ids=" ".join)
def test_what_is_not_there_leaves_standard_output_empty(project: Project, arguments: list[str]) -> None:
    done = project.run(*arguments, stdin="")
    assert done.returncode not in (0, 1) and done.stdout == "" and done.stderr, done
    assert "Traceback" not in done.stderr and "DG000" not in done.stderr
