"""Measures versions of many rows: publishing them, comparing two of them, their figures. Real files, real code.

Rows are of 1 kB, rendered by student templates; the second version lacks some rows, has some more, and some changed.
The floor reads the same data files and parses each line. Prints a table; figures with date and machine: README.md.
"""

import argparse
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import engine
import orjson

from distillgen.dataset.manifest import Manifest
from distillgen.dataset.publication import Publication
from distillgen.dataset.splits import split_of
from distillgen.dataset.training_rows import StudentTemplates, training_row
from distillgen.dataset.versions import Version, find_version
from distillgen.prompts import Template
from distillgen.recipe import Recipe
from distillgen.rows import Row

SPLITS = {"train": 0.9, "validation": 0.1}
TWO = {"prompt": "{{ question }}", "completion": "{{ answer }}"}
THREE = {**TWO, "system": "Be brief."}
FEATURES = [{"name": "id", "dtype": "string"}]


def row(number: int, text: str) -> Row:
    """Return a row as a road of one `generate` step leaves it."""
    name = f"{number:016d}"
    record = {
        "step": "1.generate", "prompt": "answer", "teacher": "main", "model": "scripted", "key": "0" * 64,
        "finish_reason": "stop", "tokens": {"prompt": 50, "completion": 200, "reasoning": 0, "cached": 0},
        "wrote": ["answer"],
    }  # fmt: skip
    return Row(name, name, None, {"question": f"What is number {number}?", "answer": f"{text} {number}"}, (record,))


def publish(home: Path, rows: range, changed: int, templates: Mapping[str, str] = TWO) -> float:
    """Publish a version; return seconds. Every `changed`-th row has another text, with 0 none.

    Without templates the rows are rendered beforehand: all the same but for their ids.
    """
    recipe = Recipe(
        name="bench", seeds={"path": "seeds.jsonl"}, dataset={"splits": SPLITS},
        steps=[{"use": "generate", "prompt": "answer", "teacher": "main"}],
        teachers={"main": {"base_url": "http://127.0.0.1", "model": "scripted"}},
    )  # fmt: skip
    compiled = {key: Template.parse(text) for key, text in (templates or TWO).items()}
    student = StudentTemplates(compiled.get("system"), compiled["prompt"], compiled["completion"], None)
    text = "".join(random.Random(7).choices("abcdefgh ", k=900))
    started = time.perf_counter()
    publication = Publication(home, recipe)
    for number in rows:
        each = row(number, f"new {text}" if changed and not number % changed else text)
        if templates or number == rows[0]:
            training = training_row(each, student)
            assert isinstance(training, dict)
        else:
            training = {**training, "id": each.id}
        publication.row(split_of(each.origin, SPLITS), training, each)
    digest = publication.finish()
    publication.publish(
        Manifest(
            name="bench", version=publication.number, parent=None, digest=digest, rows=len(rows),
            splits=publication.splits, recipe=recipe.model_dump(mode="json"), prompts={}, teachers={}, funnel=[],
            seeds={"path": [], "count": len(rows), "sha256": None}, files={}, software={"distillgen": "bench"}, run={},
        ), FEATURES,
    )  # fmt: skip
    return time.perf_counter() - started


def read(version: Version) -> int:
    """Read a version's rows and do nothing with them; return their bytes."""
    size = 0
    for split in version.split_names():
        for path in version.data_files(split):
            with path.open("rb") as file:
                for line in file:
                    orjson.loads(line)
                    size += len(line)
    return size


def command(*arguments: str, project: Path) -> tuple[float, float]:
    """Run a command to its end; return seconds and the most memory of it in MB."""
    before = time.perf_counter()
    code = (
        "import resource, runpy, sys\n"
        f"sys.argv = ['distillgen', *{list(arguments)!r}, '--project', {str(project)!r}]\n"
        "try: runpy.run_module('distillgen', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - before, int(done.stderr.split()[-1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    print(engine.machine(), f"\n\n| {rows:,} rows of 1 kB | s | rows/s | most memory, MB |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "datasets" / "bench"
        kinds = {"rows rendered beforehand": {}, "three student templates": THREE, "two student templates": TWO}
        for title, templates in kinds.items():
            shutil.rmtree(home, ignore_errors=True)
            seconds = publish(home, range(rows), changed=0, templates=templates)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"| publishing, {title} | {seconds:.1f} | {rows / seconds:,.0f} | {peak:,.0f} |", flush=True)
        publish(home, range(rows // 100, rows + rows // 100), changed=50)
        versions = [find_version(f"bench@{number}", Path(name) / "datasets") for number in (1, 2)]
        started = time.perf_counter()
        size = sum(map(read, versions))
        seconds = time.perf_counter() - started
        print(f"| reading and parsing both: the floor | {seconds:.1f} | {2 * rows / seconds:,.0f} | |", flush=True)
        for arguments in (["diff", "bench@1", "bench@2"], ["stats", "bench@1"]):
            seconds, peak = command(*arguments, "--json", project=Path(name))
            print(f"| `{' '.join(arguments)}` | {seconds:.1f} | | {peak:,.0f} |", flush=True)
        print(f"\nData files of a version: {size / 2 / 1e6:,.0f} MB.")


if __name__ == "__main__":
    main()
