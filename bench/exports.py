"""Measures exports of many rows of 1 kB, each checked by its format's rules: rows a second of CPU time, and memory.

The floor parses each line of the data files and writes it as JSON again. Prints a table; figures with date and machine:
README.md.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine
import orjson
from versions import publish

from distillgen.dataset.versions import Version, find_version
from distillgen.export.chat_template import ChatTemplate
from distillgen.export.formats import FORMATS
from distillgen.export.options import Options
from distillgen.export.trainers import TRAINERS, bundle
from distillgen.export.write import export_folder

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
)


def pair(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as a preference pair of the same size: the answer's two halves."""
    *prompt, answer = row["messages"]
    middle = len(answer["content"]) // 2
    halves = {"chosen": answer["content"][:middle], "rejected": answer["content"][middle:]}
    return {"id": row["id"], "prompt": prompt, **{name: [{**answer, "content": half}] for name, half in halves.items()}}


def label(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose question is long and whose answer a label."""
    (question, answer) = row["messages"]
    return {"id": row["id"], "messages": [{**question, "content": answer["content"]}, {**answer, "content": "yes"}]}


def altered(version: Version, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Version:
    """Return a version with the same files, and other rows in them."""
    (folder / "data").mkdir(parents=True)
    for split in version.split_names():
        for path in version.data_files(split):
            with path.open("rb") as file, (folder / "data" / path.name).open("wb") as out:
                for line in file:
                    out.write(orjson.dumps(change(orjson.loads(line)), option=orjson.OPT_APPEND_NEWLINE))
    return Version(folder, version.manifest)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    rows = parser.parse_args().rows
    print(engine.machine(), f"\n\n| {rows:,} rows of 1 kB | rows/s of CPU time | x floor |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish(folder / "datasets" / "bench", range(rows), changed=0)
        version = find_version("bench", folder / "datasets")
        started = time.process_time()
        with (folder / "floor").open("wb") as out:
            for split in version.split_names():
                for path in version.data_files(split):
                    with path.open("rb") as file:
                        for line in file:
                            out.write(orjson.dumps(orjson.loads(line)) + b"\n")
        floor = time.process_time() - started
        print(f"| parsing each line and writing it again: the floor | {rows / floor:,.0f} | 1.0 |", flush=True)
        options = Options(template=ChatTemplate(CHATML, {}, "bench"))
        pairs, labels = altered(version, folder / "pairs", pair), altered(version, folder / "labels", label)
        for form in FORMATS.values():
            source = pairs if form.takes == "pair" else labels if form.name == "labels" else version
            started = time.process_time()
            export_folder(folder / "out" / form.name, source, form, options, split=None)
            seconds = time.process_time() - started
            print(f"| `{form.name}` | {rows / seconds:,.0f} | {seconds / floor:.1f} |", flush=True)
        for trainer in ("axolotl", "together"):
            started = time.process_time()
            bundle(folder / "out" / trainer, version, TRAINERS[trainer], options, split=None)
            seconds = time.process_time() - started
            print(f"| `{trainer}` | {rows / seconds:,.0f} | {seconds / floor:.1f} |", flush=True)
    print(f"\nMost memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB.")


if __name__ == "__main__":
    main()
