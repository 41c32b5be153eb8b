"""Measures the report of many rows: writing it (time, memory), and opening and searching it in Chromium.

Rows are of 1 kB of random words, so that they do not compress better than real ones; the floor reads the version's
files once and parses each line. Needs what `make test-browser` installs. Figures with date and machine: README.md.
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import engine
import versions
from playwright.sync_api import Page, sync_playwright

from distillgen.dataset.versions import Version, find_version
from distillgen.files import read_jsonl
from distillgen.rows import Row

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SEARCHED = ("number 77", "no such words at all", "tion")


def vocabulary() -> list[str]:
    """Return 5,000 words, the frequent ones first."""
    draw = random.Random(7)
    parts = (
        "a",
        "ba",
        "con",
        "de",
        "er",
        "fi",
        "gu",
        "in",
        "ka",
        "lo",
        "men",
        "ni",
        "or",
        "pre",
        "ra",
        "su",
        "tion",
        "u",
    )
    return ["".join(draw.choices(parts, k=draw.randint(1, 4))) for _ in range(5_000)]


def wordy(words: list[str], weights: list[float]) -> Iterator[str]:
    """Yield texts of about 900 characters."""
    draw = random.Random(8)
    while True:
        yield " ".join(draw.choices(words, cum_weights=weights, k=180))[:900]


def publish(folder: Path, rows: int) -> Version:
    """Publish a version whose answers all differ."""
    words, total, weights = vocabulary(), 0.0, []
    for place in range(len(words)):
        total += 1 / (place + 10)
        weights.append(total)
    texts, plain = wordy(words, weights), versions.row
    versions.row = lambda number, _: _answered(plain(number, ""), next(texts))
    versions.publish(folder / "datasets" / "bench", range(rows), changed=0)
    return find_version("bench", folder / "datasets")


def _answered(row: Row, text: str) -> Row:
    return Row(row.id, row.origin, row.parent, {**row.columns, "answer": text}, row.trail)


def written(folder: Path, *more: str) -> tuple[float, float, float]:
    """Write the report; return seconds, megabytes of the file, megabytes of memory."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "distillgen", "report", "bench", "-o", "r.html", *more],
        cwd=folder, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return seconds, (folder / "r.html").stat().st_size / 1e6, memory


def opened(page: Page, path: Path) -> tuple[float, float, list[float]]:
    """Open it; return seconds to the first paint, seconds until all rows can be searched, milliseconds of searches."""
    started = time.perf_counter()
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_selector("#browser[data-ready]", timeout=120_000)
    ready = time.perf_counter() - started
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
    # Each search looks at all rows: one that goes on from the last looks only at what that found.
    search = """text => { const field = document.getElementById('search'), form = document.getElementById('browser');
        field.value = ''; form.requestSubmit();
        const started = performance.now(); field.value = text; form.requestSubmit(); return performance.now() - started
        }"""
    return paint, ready, [page.evaluate(search, text) for text in SEARCHED for _ in range(5)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    heads = ["rows", "in the page", "written, s", "x floor", "file, MB", "memory, MB", "first paint, s",
             "all rows there, s", "search, ms median / most"]  # fmt: skip
    print(engine.machine(), f"\n\n| {' | '.join(heads)} |\n|{'---:|' * len(heads)}")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=QUIET)
        for rows in parser.parse_args().rows:
            with tempfile.TemporaryDirectory() as name:
                version = publish(Path(name), rows)
                started = time.perf_counter()
                for path in [*(version.folder / "data").iterdir(), version.folder / "provenance.jsonl.zst"]:
                    for _ in read_jsonl(path):
                        pass
                floor = time.perf_counter() - started
                for what, more in (("10,000", []), ("all", ["--all-rows"])):
                    seconds, size, memory = written(Path(name), *more)
                    page = browser.new_page()
                    paint, ready, searches = opened(page, Path(name) / "r.html")
                    page.close()
                    print(f"| {rows:,} | {what} | {seconds:.1f} | {seconds / floor:.1f} | {size:.1f} | {memory:.0f} | "
                          f"{paint:.2f} | {ready:.1f} | {statistics.median(searches):.0f} / {max(searches):.0f} |",
                          flush=True)  # fmt: skip
        browser.close()


if __name__ == "__main__":
    main()
