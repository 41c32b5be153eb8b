"""Pure steps in worker processes: the same rows in the same order, whatever becomes of the processes."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, clean_environment
from test_road import name_of, row

from distillgen import workers
from distillgen.road import travel
from distillgen.rows import Outcome, Rejection, Row
from distillgen.shapes import Step
from distillgen.tally import Tally

GOOD = "Ice floats because it is less dense than the water around it, and so the lake freezes from above."


class Marked:
    """A pure step that writes down which process it ran in, and refuses each third row."""

    is_pure = True

    def __init__(self, name: str = "marked", deadly: int = -1) -> None:
        self.name, self.deadly, self.here = name, deadly, os.getpid()

    def __call__(self, row: Row) -> tuple[Outcome, ...]:
        number = row.columns["n"]
        if number == self.deadly and os.getpid() != self.here:
            os.kill(os.getpid(), signal.SIGKILL)
        if number % 3 == 0:
            return (Rejection(row, self.name, "third", f"{number} is a third"),)
        return (row.passed({"step": self.name, "of": number}, pid=os.getpid()),)


def taken(
    steps: Sequence[Step], count: int, spool: Path, tally: Tally, pause_at: int = -1
) -> tuple[list[str], set[int]]:
    """Return what became of rows, in order, and the processes that they were in."""
    processes = set()

    async def source() -> AsyncGenerator[Outcome, None]:
        for number in range(count):
            if number == pause_at:
                await asyncio.sleep(0.05)
            yield row(number)

    async def main() -> list[str]:
        said = []
        async for outcome in travel(source(), steps, tally=tally.step, spool=spool, in_flight=10):
            if isinstance(outcome, Row):
                processes.add(outcome.columns["pid"])
                said.append(f"{outcome.id} {outcome.trail}")
            else:
                said.append(f"{name_of(outcome)} {outcome.rule}")  # type: ignore[union-attr]
        return said

    return asyncio.run(main()), processes


def test_rows_are_the_same_in_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, count = [Marked("one"), Marked("two")], 30_000
    sent, alone = Tally(), Tally()
    monkeypatch.setattr(workers, "processors", lambda: 2)
    there, processes = taken(steps, count, tmp_path, sent, pause_at=20_000)
    monkeypatch.setattr(workers, "processors", lambda: 1)
    here, only = taken(steps, count, tmp_path, alone)
    assert there == here and len(there) == count
    assert only == {os.getpid()} and len(processes - only) == 2
    assert sent.steps == alone.steps and sent.steps["one"].rejected["third"] == count // 3
    assert list(sent.reasons().items()) == list(alone.reasons().items())


def test_a_few_rows_are_taken_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "processors", lambda: 2)
    _, processes = taken([Marked()], workers.WARM_UP, tmp_path, Tally())
    assert processes == {os.getpid()}


def test_a_process_that_is_killed_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "processors", lambda: 2)
    tally = Tally()
    there, processes = taken([Marked(deadly=15_001)], 20_000, tmp_path, tally)
    assert [said.split()[0] for said in there] == [str(n) for n in range(20_000)]
    assert len(processes) > 1 and (tally.steps["marked"].rows_in, tally.steps["marked"].out) == (20_000, 13_333)


# -- a whole pipe ----------------------------------------------------------------------------------------------------

FILTER = [sys.executable, "-m", "distillgen", "filter", "--preset", "chat"]


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def endless(**more: Any) -> "subprocess.Popen[bytes]":
    """Start a filter whose input never ends."""
    line = json.dumps({"answer": GOOD})
    script = f"yes '{line}' | exec {' '.join(FILTER)} "
    return subprocess.Popen(["bash", "-c", script + more.pop("to", "> /dev/null")], env=clean_environment(), **more)


def filter_of(shell: int) -> int:
    """Return the filter under a shell, once it has started other processes."""
    for _ in range(600):
        for child in children_of(shell):
            if len(children_of(child)) > 2:  # two, and one that keeps account of what is to be cleared away
                return child
        time.sleep(0.05)
    raise AssertionError("no processes were started")


@pytest.mark.skipif(workers.processors() < 2, reason="one processor: none is started")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_the_command(number: signal.Signals) -> None:
    shell = endless(start_new_session=True, stderr=subprocess.PIPE)
    filtering = filter_of(shell.pid)
    others = children_of(filtering)
    if number == signal.SIGINT:
        os.killpg(shell.pid, number)  # as a terminal does: all of them get it
    else:
        os.kill(filtering, number)
    said = shell.communicate(timeout=60)[1].decode()
    for _ in range(200):
        if not any(map(is_alive, others)):
            break
        time.sleep(0.05)
    assert not any(map(is_alive, [filtering, *others]))
    if number != signal.SIGKILL:  # a process that was just being started says that nobody is there any more
        assert "Traceback" not in said and "rows written so far stay written" in said


@pytest.mark.skipif(workers.processors() < 2, reason="one processor: none is started")
def test_a_reader_that_goes_away_ends_all_of_them() -> None:
    done = endless(to="| head -20000 > /dev/null; exit ${PIPESTATUS[1]}", stderr=subprocess.PIPE)
    assert done.communicate(timeout=60)[1] == b"" and done.returncode == 141


def test_a_row_leaves_before_the_next_one_comes(project: Project) -> None:
    line = json.dumps({"answer": GOOD}).encode() + b"\n"
    with subprocess.Popen(FILTER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()) as filtering:
        assert filtering.stdin is not None and filtering.stdout is not None
        for _ in range(3):
            filtering.stdin.write(line)
            filtering.stdin.flush()
            assert filtering.stdout.readline() == line
        filtering.stdin.close()
    assert filtering.returncode == 0
