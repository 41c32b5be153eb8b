"""Kills builds with `kill -9` at 200 random moments of publishing, while a reader loops over `latest`.

Each build is the real command in a process of its own, forked from one that has everything loaded; its answers are
stored, so that it does little but publish, and no two builds publish the same rows. The reader opens whatever `latest`
names, and compares every file with the manifest. Prints one line of JSON; figures with date and machine: README.md.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillgen.cli.main import main as program
from distillgen.dataset.manifest import read_manifest
from distillgen.dataset.versions import latest, version_numbers
from distillgen.files import file_sha256, read_jsonl, write_atomically
from distillgen.upkeep.check import check_version

RECIPE = """
name = "bench"
[seeds]
path = "seeds.jsonl"
[dataset]
splits = { train = 0.9, validation = 0.1 }
[[steps]]
use = "filter"
rules = [{ rule = "not_empty", column = "question" }]
[student]
prompt = "{{ question }}"
completion = "{{ question }} {{ text }}"
"""


def seeds(folder: Path, rows: int, build: int) -> None:
    """Write seeds of which every build has others."""
    lines = (json.dumps({"question": f"What is {build} and {number}?", "text": "abc " * 50}) for number in range(rows))
    (folder / "seeds.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def forked(work: Callable[[], None]) -> int:
    """Do work in a process of its own; return its number. Its exit status is 0, or 1 when it raised."""
    if child := os.fork():
        return child
    status = 1
    try:
        with open(os.devnull, "w") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    finally:
        os._exit(status)


def build(folder: Path) -> None:
    """Run the command as a shell does."""
    sys.argv = ["distillgen", "build", str(folder)]
    program()


def read_on(home: Path, report: Path) -> None:
    """Open what `latest` names, again and again until the report's folder is gone; write down what was wrong."""
    looks, wrong = 0, Counter[str]()
    while report.parent.exists():
        looks += 1
        try:
            version = latest(home)
            if version is None:
                wrong["none"] += 1
                continue
            for name, entry in version.manifest.files.items():
                if file_sha256(version.folder / name) != entry.sha256:
                    wrong["checksum"] += 1
            files = [path for split in version.split_names() for path in version.data_files(split)]
            rows = sum(1 for path in files for _ in read_jsonl(path))
            wrong["rows"] += rows != version.manifest.rows
        except Exception as error:
            wrong[type(error).__name__] += 1
        if looks % 20 == 0:
            write_atomically(report, json.dumps({"looks": looks, "wrong": dict(+wrong)}).encode())


def next_report(report: Path) -> dict[str, Any]:
    """Return what the reader writes down next."""
    report.unlink(missing_ok=True)
    while not report.exists():
        time.sleep(0.05)
    told: dict[str, Any] = json.loads(report.read_text())
    return told


def ended(child: int) -> int:
    """Wait for a process; return its exit status, below zero for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Kill, read, check, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=7)
    wanted = parser.parse_args()
    chance = random.Random(wanted.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, home, report = Path(name), Path(name) / "datasets/bench", Path(name) / "reader/report.json"
        (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        report.parent.mkdir()
        seeds(folder, wanted.rows, 0)
        for number in (0, 1):  # the first loads what is loaded late; the second is timed
            seeds(folder, wanted.rows, number)
            started = time.perf_counter()
            if status := ended(forked(lambda: build(folder))):
                raise SystemExit(f"the first build ended with {status}")
        usual = time.perf_counter() - started
        reader = forked(lambda: read_on(home, report))
        at, kills, number = Counter[str](), 0, 1
        while kills < wanted.kills:
            number += 1
            seeds(folder, wanted.rows, number)
            before = version_numbers(home)
            child = forked(lambda: build(folder))
            time.sleep(usual * chance.uniform(*(0.8, 1.1) if number % 2 else (0, 1)))  # half of them near the end
            os.kill(child, signal.SIGKILL)
            if (status := ended(child)) == -signal.SIGKILL:
                kills += 1
                published = version_numbers(home)
                staged = any(home.glob(".staging-v*"))
                at["published" if published != before else "half written" if staged else "before"] += 1
            elif status:
                raise SystemExit(f"a build ended with {status}")
            else:
                at["was over"] += 1
        if status := ended(forked(lambda: build(folder))):
            raise SystemExit(f"the last build ended with {status}")
        told = next_report(report)
        os.kill(reader, signal.SIGKILL)
        ended(reader)
        numbers = version_numbers(home)
        findings = [each for path in sorted(home.glob("v*")) for each in check_version(path, is_placed=True).findings]
        print(json.dumps({
            "kills": kills, "at": dict(at), "looks": told["looks"], "wrong": told["wrong"],
            "versions": len(numbers), "findings": len(findings), "leftovers": len(list(home.glob(".*staging*"))),
            "latest": read_manifest(home / "latest").version == numbers[-1],
        }))  # fmt: skip


if __name__ == "__main__":
    main()
