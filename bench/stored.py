"""Measures a build that finds every answer in the store: time and peak memory, for many rows.

The script writes the store itself: a reply for each seed under the very key that the build looks for. The recipe has
`generate`, `not_empty` and exact duplicates. Prints a Markdown table; figures with date and machine: bench/README.md.
"""

import argparse
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import engine

RECIPE = """
name = "bench"
[seeds]
path = "seeds.jsonl"
[teachers.main]
base_url = "http://127.0.0.1:9/v1"
model = "scripted"
[[steps]]
use = "generate"
prompt = "answer"
checks = false
[[steps]]
use = "filter"
rules = ["not_empty"]
[[steps]]
use = "deduplicate"
on = "answer"
[student]
prompt = "{{ question }}"
completion = "{{ answer }}"
"""
REPLY = (
    '{{"id":"x","object":"chat.completion","model":"scripted","choices":[{{"index":0,"finish_reason":"stop","message":'
    '{{"role":"assistant","content":"The answer to number {n} is {words}"}}}}],'
    '"usage":{{"prompt_tokens":50,"completion_tokens":100,"total_tokens":150}}}}'
)
WORDS = "answer with several words " * 16


def fill(folder: Path, rows: int) -> None:
    """Write recipe, seeds, and a store that holds an answer to each of them."""
    from distillgen.files import digest_bytes
    from distillgen.preparation import prepare
    from distillgen.teacher.answers import AnswerStore
    from distillgen.teacher.identity import RequestMaker, identify

    (folder / "recipe.toml").write_text(RECIPE)
    with (folder / "seeds.jsonl").open("w") as seeds:
        seeds.writelines(json.dumps({"question": f"Question {n}?"}) + "\n" for n in range(rows))
    prepared = prepare(folder, will_ask=False)
    settings, prompt = prepared.recipe.teachers["main"], prepared.prompts[0]
    maker = RequestMaker(identify("main", settings, folder), settings)
    store = folder / ".distillgen" / "answers.sqlite"
    AnswerStore(store).close()

    def answers() -> Iterator[tuple[bytes, bytes, bytes, float, float, str]]:
        for n in range(rows):
            messages = prompt.render({"question": f"Question {n}?"})
            key = maker.make(messages, schema=None)[0].key
            reply = REPLY.format(n=n, words=WORDS).encode()
            yield key, reply, digest_bytes(key, reply), 0.0, 0.2, "bench"

    with sqlite3.connect(store) as connection:
        connection.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", answers())
    connection.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 5_000, 1_000_000])
    parser.add_argument("--keep", type=Path, help="a folder to write into and keep, instead of a temporary one")
    options = parser.parse_args()
    print(engine.machine())
    print("\n| stored answers | whole process, s | a row, us | peak memory, MB |\n|---|---|---|---|")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
            folder = options.keep or Path(name)
            folder.mkdir(exist_ok=True)
            fill(folder, rows)
            started = time.perf_counter()
            _, _, peak = engine.build(folder)
            wall = time.perf_counter() - started
        print(f"| {rows:,} | {wall:.2f} | {wall / rows * 1e6:,.0f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
