"""Measures what the live progress costs: the same build on a pseudo-terminal and without one, by its own CPU time.

The recipe states 60,000 calls a minute, so every build asks at the same rate. Builds take turns, so that what else the
machine does falls on all of them. Prints a Markdown table; figures with date and machine are in bench/README.md.
"""

import argparse
import fcntl
import json
import os
import pty
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from pathlib import Path

import engine

A_SECOND = 1000


def build_on_terminal(folder: Path, columns: int) -> tuple[float, int]:
    """Run one build whose standard error is a terminal of so many columns; return its CPU seconds and bytes drawn."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    drawn = 0

    def read() -> None:
        nonlocal drawn
        while piece := _read(ours):
            drawn += len(piece)

    command = [sys.executable, "-m", "distillgen", "build", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    _, status, usage = os.wait4(process.pid, 0)
    reader.join()
    os.close(ours)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("the build failed")
    return usage.ru_utime + usage.ru_stime, drawn


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


def measure(seconds: int, columns: int) -> tuple[float, float, int]:
    """Return CPU seconds of one build, calls a second, and bytes drawn; `columns` 0 means without a terminal."""
    rows = seconds * A_SECOND
    with engine.teacher() as port, tempfile.TemporaryDirectory() as name:
        folder = engine.project(Path(name) / "project", port, rows, 512)
        recipe = folder / "recipe.toml"
        limits = f"limits = {{ requests_per_minute = {60 * A_SECOND}, max_in_flight"
        recipe.write_text(recipe.read_text().replace("limits = { max_in_flight", limits))
        cpu, drawn = build_on_terminal(folder, columns) if columns else (engine.build(folder)[1], 0)
        run = json.loads((folder / "datasets/bench/v0001/manifest.json").read_text())["run"]
    return cpu, rows / run["seconds"], drawn


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    engine.begin()
    found: dict[int, list[tuple[float, float, int]]] = {0: [], 80: [], 200: []}
    for _ in range(options.runs):
        for columns, runs in found.items():
            runs.append(measure(options.seconds, columns))
    print(f"\n{options.seconds} s at {A_SECOND:,} calls a second; best / median of {options.runs} runs\n")
    print("| terminal | client CPU, s | more than without: best, median, of each turn | calls a second | drawn, kB |")
    print("|---|---|---|---|---|")
    bare = [cpu for cpu, _, _ in found[0]]
    for columns, runs in found.items():
        cpus = [cpu for cpu, _, _ in runs]
        turns = statistics.median(cpu / without - 1 for cpu, without in zip(cpus, bare, strict=True))
        best, median = min(cpus) / min(bare) - 1, statistics.median(cpus) / statistics.median(bare) - 1
        rate, drawn = statistics.median(rate for _, rate, _ in runs), statistics.median(drawn for *_, drawn in runs)
        name = f"{columns} columns" if columns else "none"
        more = f"{best:+.1%}, {median:+.1%}, {turns:+.1%}" if columns else ""
        print(f"| {name} | {engine.best_and_median(cpus)} | {more} | {rate:,.0f} | {drawn / 1000:,.0f} |")


if __name__ == "__main__":
    main()
