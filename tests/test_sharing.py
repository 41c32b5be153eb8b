"""Shares of one limit among real processes: how many they are, who is silent, and what a killed one leaves behind."""

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment

from distillgen.teacher import sharing
from distillgen.teacher.sharing import SLOTS, Share

POOL = "5f" * 32
# Obeys one JSON command a line. `count` asks as though two seconds had passed each time, so that it really counts.
WORKER = """
import json, os, subprocess, sys, time
from pathlib import Path
from distillgen.teacher.sharing import Share

def enter(at=0.0):
    global share, now
    while time.monotonic() < at:
        pass
    came = time.monotonic()
    share = Share(sys.argv[2], folder=Path(sys.argv[1])).__enter__()
    now = time.monotonic()
    silent = share.silent_until - came if share.silent_until else 0.0
    return {"parts": share.parts(0.0), "silent": silent, "problem": share.problem}

def leave():
    share.__exit__()

def count(times=1):
    global now
    found = set()
    for _ in range(times):
        now += 2.0
        found.add(share.parts(now))
    return sorted(found) + [share.problem] * bool(share.problem)

def execute():
    return subprocess.Popen(["sleep", "60"], close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid

def fork():
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(60)
        os._exit(0)
    return child

for line in sys.stdin:
    name, *values = json.loads(line)
    print(json.dumps(globals()[name](*values)), flush=True)
"""


class Worker:
    """A real process that shares."""

    def __init__(self, folder: Path, pool: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), pool],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )

    def tell(self, *command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def do(self, *command: Any) -> Any:
        self.tell(*command)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start a process; all end with the test."""
    workers: list[Worker] = []

    def begin(pool: str = POOL) -> Worker:
        workers.append(Worker(tmp_path, pool))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.kill()


def test_one_process_has_all_and_is_never_silent(start: Callable[..., Worker]) -> None:
    assert start().do("enter") == {"parts": 1, "silent": 0.0, "problem": ""}


def test_processes_count_one_another_as_they_come_and_go(start: Callable[..., Worker]) -> None:
    workers = [start() for _ in range(3)]
    for live, worker in enumerate(workers, 1):
        came = worker.do("enter")
        assert (came["parts"], came["problem"]) == (live, "")
        assert [one.do("count") for one in workers[:live]] == [[live]] * live
    workers[0].do("leave")
    assert [one.do("count") for one in workers[1:]] == [[2], [2]]
    workers[1].do("leave")
    assert workers[2].do("count") == [1]


def test_a_newcomer_is_silent_for_a_window_and_those_who_were_there_are_not(start: Callable[..., Worker]) -> None:
    first, second = start(), start()
    assert first.do("enter")["silent"] == 0.0
    assert 60.0 <= second.do("enter")["silent"] < 90.0
    first.do("leave")
    second.do("leave")
    assert second.do("enter")["silent"] == 0.0, "alone again"


def test_a_killed_process_frees_its_slot_at_once(start: Callable[..., Worker], tmp_path: Path) -> None:
    first, second = start(), start()
    first.do("enter")
    second.do("enter")
    first.kill()
    assert second.do("count") == [1]
    with Share(POOL, folder=tmp_path) as third:
        assert third.parts(0.0) == 2
    assert slots(tmp_path) == ["slot-0001", "slot-0002"], "the slot of the killed one was taken again"


def slots(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / POOL).iterdir() if path.name != "door")


@pytest.mark.parametrize("many", [2, 5])
def test_of_those_who_come_at_the_same_instant_only_the_first_is_not_silent(
    start: Callable[..., Worker], many: int
) -> None:
    workers = [start() for _ in range(many)]
    for _ in range(20):
        at = time.monotonic() + 0.03
        for worker in workers:
            worker.tell("enter", at)
        came = sorted((worker.answer() for worker in workers), key=lambda one: one["parts"])
        assert [one["parts"] for one in came] == list(range(1, many + 1))
        assert [one["silent"] > 0 for one in came] == [False] + [True] * (many - 1)
        assert [worker.do("count") for worker in workers] == [[many]] * many
        for worker in workers:
            worker.do("leave")


@pytest.fixture
def counters(start: Callable[..., Worker], tmp_path: Path) -> list[Worker]:
    """Three processes, beside five slots that are free again."""
    with contextlib.ExitStack() as gone:
        for _ in range(5):
            gone.enter_context(Share(POOL, folder=tmp_path))
        workers = [start() for _ in range(3)]
        for worker in workers:
            worker.do("enter")
    assert len(slots(tmp_path)) == 8
    return workers


def test_those_who_count_at_once_do_not_count_one_another(counters: list[Worker]) -> None:
    for worker in counters:
        worker.tell("count", 2000)
    assert [worker.answer() for worker in counters] == [[3]] * 3


def test_those_who_count_turn_no_newcomer_away(counters: list[Worker], tmp_path: Path) -> None:
    for worker in counters:
        worker.tell("count", 1000)
    for _ in range(100):
        with Share(POOL, folder=tmp_path) as share:
            assert (share.parts(0.0), share.problem) == (4, "")
    assert {number for worker in counters for number in worker.answer()} <= {3, 4}


@pytest.mark.parametrize("how", ["execute", "fork"])
def test_a_child_does_not_keep_its_parents_slot(start: Callable[..., Worker], tmp_path: Path, how: str) -> None:
    parent = start()
    parent.do("enter")
    child = parent.do(how)
    try:
        with Share(POOL, folder=tmp_path) as share:
            assert share.parts(0.0) == 2, "the parent keeps its slot, the child takes none"
            parent.kill()
            os.kill(child, 0)  # it lives
            assert share.parts(time.monotonic() + 2) == 1
    finally:
        os.kill(child, 9)


def test_other_pools_are_not_shared_with(start: Callable[..., Worker], tmp_path: Path) -> None:
    start("aa").do("enter")
    with Share("bb", folder=tmp_path) as share:
        assert (share.parts(0.0), share.silent_until) == (1, 0.0)


def test_the_folder_is_looked_at_once_a_second(tmp_path: Path) -> None:
    with Share(POOL, folder=tmp_path, clock=lambda: 100.0) as share:
        with Share(POOL, folder=tmp_path, clock=lambda: 100.0) as newcomer:
            assert newcomer.silent_until == 160.0
            assert [share.parts(now) for now in (100.0, 100.9, 101.0)] == [1, 1, 2]
        assert [share.parts(now) for now in (101.9, 102.0)] == [2, 1]


def test_the_users_state_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Share(POOL) as share:
        assert share.problem == ""
    folder = tmp_path / "distillgen" / "limits" / POOL
    assert sorted(path.name for path in folder.iterdir()) == ["door", "slot-0001"]
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("place", "why"),
    [pytest.param("file", "Not a directory", id="a-file"), pytest.param("/proc/none", "No such file", id="proc")],
)
def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path: Path, place: str, why: str) -> None:
    (tmp_path / "file").touch()
    with Share(POOL, folder=tmp_path / place) as share:
        assert (share.parts(0.0), share.parts(1e9), share.silent_until) == (1, 1, 0.0)
        assert place in share.problem and why in share.problem


def refuse(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize(
    ("flock", "why"),
    [
        pytest.param(refuse, os.strerror(errno.ENOLCK), id="none-can-be-had"),
        pytest.param(lambda *_: None, "locks are not kept here", id="everybody-has-all"),
    ],
)
def test_locks_that_cannot_be_trusted_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flock: Callable[..., None], why: str
) -> None:
    monkeypatch.setattr(fcntl, "flock", flock)
    with Share(POOL, folder=tmp_path) as share:
        assert (share.parts(0.0), share.parts(1e9), share.silent_until) == (1, 1, 0.0)
        assert share.problem == f"{tmp_path / POOL}: {why}"


def test_when_counting_fails_the_last_count_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Share(POOL, folder=tmp_path), Share(POOL, folder=tmp_path, clock=lambda: 0.0) as share:
        monkeypatch.setattr(fcntl, "flock", refuse)
        assert share.parts(10.0) == 2
        assert os.strerror(errno.ENOLCK) in share.problem


def test_one_who_finds_every_slot_taken_counts_itself_and_says_so(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(SLOTS):
            assert stack.enter_context(Share(POOL, folder=tmp_path)).problem == ""
        last = stack.enter_context(Share(POOL, folder=tmp_path))
        assert last.parts(0.0) == SLOTS + 1 and last.silent_until > 0
        assert last.problem == f"more than {SLOTS} processes share these limits"


def test_a_process_that_is_stopped_in_the_door_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "DOOR_SECONDS", 0.0)
    (tmp_path / POOL).mkdir()
    with (tmp_path / POOL / "door").open("wb") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        with Share(POOL, folder=tmp_path) as share:
            assert share.parts(0.0) == 1
            assert share.problem == f"{tmp_path / POOL}: another process stands in the door"
