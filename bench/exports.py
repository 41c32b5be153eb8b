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
from versions import FEATURES, publish

from distillgen.dataset.publication import Publication
from distillgen.dataset.versions import Version, find_version
from distillgen.export.chat_template import ChatTemplate
from distillgen.export.formats import FORMATS
from distillgen.export.options import Options
from distillgen.export.trainers import TRAINERS, bundle
from distillgen.export.write import export_folder
from distillgen.rows import Row

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


def altered(version: Version, home: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Version:
    """Publish the rows of a version, changed, as a version of another dataset."""
    publication = Publication(home, None, splits=version.split_names())
    for split in version.split_names():
        for path in version.data_files(split):
            with path.open("rb") as file:
                for line in file:
                    training = change(orjson.loads(line))
                    publication.row(split, training, Row(training["id"], training["id"], None, {}))
    facts = {"name": home.name, "version": publication.number, "parent": None, "digest": publication.finish()}
    manifest = version.manifest.model_copy(update={**facts, "splits": publication.splits, "files": {}})
    return publication.publish(manifest, FEATURES)


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
        datasets = folder / "datasets"
        pairs, labels = altered(version, datasets / "pairs", pair), altered(version, datasets / "labels", label)
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
