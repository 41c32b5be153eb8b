"""Measures `mix`: two versions of many rows into one. Real files, the real command.

Rows are of 1 kB, a tenth of the second part are rows of the first, and the mix takes all that are left. The floor
copies both versions' folders, file by file and synced, as one would who mixes nothing. Memory is that of the command's
process; what it costs without rows (the interpreter, the packages) shows in the smallest mix. Prints a table; figures
with date and machine: README.md.
"""

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import engine
from versions import command

from distillgen.dataset.manifest import Manifest
from distillgen.dataset.publication import Publication
from distillgen.dataset.splits import split_of
from distillgen.dataset.versions import Version, find_version
from distillgen.rows import Row

SPLITS = {"train": 0.9, "validation": 0.1}
WORDS = [
    f"{first}{second}" for first in "bdfgklmnprst" for second in ("an", "el", "ir", "os", "um", "ay", "eth", "ind")
]
FEATURES = [{"name": "id", "dtype": "string"}]


def publish(home: Path, numbers: Iterable[int], prefix: str) -> None:
    """Publish a version with a row for each number; the number is the content, the prefix is in the id only."""
    publication = Publication(home, None, splits=SPLITS)
    rows = 0
    for number in numbers:
        name, rows = f"{prefix}{number:015d}", rows + 1
        text = " ".join(random.Random(number).choices(WORDS, k=240))
        asked, answered = {"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": text}
        record = {"step": "1.generate", "teacher": "main", "model": "scripted", "key": "0" * 64, "wrote": ["answer"]}
        row = Row(name, name, None, {"question": asked["content"], "answer": text}, (record,))
        publication.row(split_of(str(number), SPLITS), {"id": name, "messages": [asked, answered]}, row)
    digest = publication.finish()
    publication.publish(
        Manifest(
            name=home.name, version=publication.number, parent=None, digest=digest, rows=rows,
            splits=publication.splits, recipe={"name": home.name}, prompts={}, teachers={}, funnel=[], terms={},
            seeds={"path": [], "count": rows, "sha256": None}, files={}, software={"distillgen": "bench"}, run={},
        ), FEATURES,
    )  # fmt: skip


def copied(versions: Iterable[Version], target: Path) -> float:
    """Copy the folders of versions, synced; return seconds."""
    started = time.perf_counter()
    for number, version in enumerate(versions):
        shutil.copytree(version.folder, target / str(number))
    for path in target.rglob("*"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 400_000], help="read, of both parts")
    print(engine.machine(), "\n\n| rows read | what | s | rows/s | times copying | most memory, MB |\n|" + "---:|" * 6)
    for rows in parser.parse_args().rows:
        with tempfile.TemporaryDirectory() as name:
            project, half = Path(name), rows // 2
            datasets = project / "datasets"
            publish(datasets / "a", range(half), "a")
            publish(datasets / "b", range(half - half // 10, 2 * half - half // 10), "b")
            versions = [find_version(each, datasets) for each in ("a", "b")]
            floor = copied(versions, project / "copies")
            print(f"| {rows:,} | copying both: the floor | {floor:.2f} | {rows / floor:,.0f} | 1 | |", flush=True)
            parts = ["a:10", "b:9"]
            for title, more in {
                "`mix --dry-run`": ["--dry-run"],
                "`mix`": [],
                "`mix --near 0.8`": ["--near", "0.8"],
            }.items():
                target = f"mixed{len(more)}"
                seconds, peak = command("mix", target, *parts, *more, "--json", project=project)
                told = f"{seconds:.1f} | {rows / seconds:,.0f} | {seconds / floor:.1f} | {peak:,.0f} |"
                print(f"| {rows:,} | {title} | {told}", flush=True)
                if "--dry-run" not in more:
                    assert find_version(target, datasets).manifest.rows == rows - half // 10


if __name__ == "__main__":
    main()
