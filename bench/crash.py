"""Kills a build with `kill -9` at random moments, twenty times, and goes on; counts what was paid for again.

The teacher counts how often each question was asked, and answered: that is when it would bill. What is in the answer
store after a kill is compared with that. Prints a Markdown table; figures with date and machine: bench/README.md.
"""

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import engine

PAUSE_SECONDS = 0.1  # at most, after a random number of answers
Counts = Mapping[str, tuple[int, int]]  # question -> how often it was asked, how often it was answered


def counts(port: int) -> Counts:
    """Return what the teacher counted, once it has nothing under way."""
    while engine.stats(port)["in_flight"]:
        time.sleep(0.02)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/each") as response:
        told: Counts = json.loads(response.read())
    return told


def committed(folder: Path) -> set[str]:
    """Return the questions whose replies are in the store."""
    with sqlite3.connect(folder / ".distillgen/answers.sqlite") as store:
        replies = store.execute("SELECT reply FROM answers").fetchall()
    store.close()
    contents = (json.loads(reply)["choices"][0]["message"]["content"] for (reply,) in replies)
    return {content.partition("?")[0] + "?" for content in contents}


def unknown(folder: Path) -> int:
    """Return how many calls without an answer there were in all runs, as distillgen says."""
    command = [sys.executable, "-m", "distillgen", "status", "--json", "--project", str(folder)]
    told: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return int(told["spent"]["unknown_calls"])


def kill_at(folder: Path, port: int, answers: int) -> None:
    """Start a build; kill it a random moment after the teacher has given so many more answers."""
    answers += engine.stats(port)["paid"]
    command = [sys.executable, "-m", "distillgen", "build", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while engine.stats(port)["paid"] < answers and process.poll() is None:
            time.sleep(0.005)
        time.sleep(random.uniform(0, PAUSE_SECONDS))
        process.kill()
    if process.returncode != -9:
        raise SystemExit(f"the build ended with {process.returncode} before it was killed")


def digest(folder: Path) -> str:
    """Return the digest of the content of a project's first version."""
    manifest = json.loads((folder / "datasets/bench/v0001/manifest.json").read_text())
    assert not manifest["is_partial"]
    return str(manifest["digest"])


def build_on_the_same_answers(folder: Path, other: Path) -> str:
    """Build anew, offline and uninterrupted, with a copy of the answers; return the digest of the content."""
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("datasets", "spool", "lock"))
    engine.build(other, "--offline")
    return digest(other)


def crash(folder: Path, port: int, rows: int, kills: int) -> None:
    """Kill, compare and go on until it is done; print a line for each kill, and what holds at the end."""
    sure: set[str] = set()
    before: Counts = {}
    under_way = asked_again = 0
    for number in range(kills):
        # Answers until the kill: such that about as many are left for every further run.
        kill_at(folder, port, round(random.uniform(0, 2 * (rows - len(sure)) / (kills - number + 1))))
        now, stored = counts(port), committed(folder)
        sent = {question for question in now if now[question] != before.get(question)}
        again, lost = len(sent & sure), len(sent - stored)
        cells = (number + 1, len(sure), len(stored), lost, again)
        print(f"| {' | '.join(f'{cell:,}' for cell in cells)} |", flush=True)
        sure, before = stored, now
        under_way += lost
        asked_again += again
    engine.build(folder)
    now = counts(port)
    asked_again += sum(now[question] != before[question] for question in sure)
    repeated = sum(asked for asked, _ in now.values()) - len(now)
    same = digest(folder) == build_on_the_same_answers(folder, folder.with_name("other"))
    print(f"\nstored replies that were asked for again: {asked_again}")
    print(f"calls sent again: {repeated:,}; under way at the kills: {under_way:,}")
    print(f"unknown by `distillgen status`, those among them that had not left yet: {unknown(folder):,}")
    print(f"same content as an uninterrupted build on the same answers: {'yes' if same else 'NO'}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=256)
    options = parser.parse_args()
    engine.begin()
    print(f"{options.rows:,} rows, {options.in_flight} in flight\n")
    print("| kill | stored before | stored after | under way, not stored | stored, but asked again |")
    print("|---|---|---|---|---|")
    with engine.teacher() as port, tempfile.TemporaryDirectory() as name:
        folder = engine.project(Path(name) / "project", port, options.rows, options.in_flight)
        crash(folder, port, options.rows, options.kills)


if __name__ == "__main__":
    main()
