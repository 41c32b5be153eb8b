"""Measures what the command line needs to start, against Python's own start-up in the same run.

Each command and a bare `python -c pass` take turns. Prints a Markdown table: processor time above Python's own (best,
median), modules loaded, and, where valgrind is installed, instructions as it counts them, which do not depend on what
else the machine does. Figures with date and machine are in bench/README.md.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = {
    "--version": 100, "--help": 150, "build --help": 150, "prompts show --help": 150, "completion of a word": None,
}  # fmt: skip
BARE = ["-c", "pass"]
COMPLETION = {"_DISTILLGEN_COMPLETE": "complete_bash", "COMP_WORDS": "distillgen show de", "COMP_CWORD": "2"}


def call_of(name: str) -> tuple[list[str], dict[str, str]]:
    """Return the arguments of Python and the environment of one command."""
    if name == "completion of a word":
        return ["-m", "distillgen"], COMPLETION
    return ["-m", "distillgen", *name.split()], {}


def cpu_ms(arguments: list[str], environment: dict[str, str], folder: Path) -> float:
    """Run Python once and return the processor time that it used, in milliseconds."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        env={**os.environ, **environment},
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{arguments} failed")
    return 1000 * (usage.ru_utime + usage.ru_stime)


def modules(arguments: list[str], environment: dict[str, str], folder: Path) -> int:
    """Return how many modules are loaded, as `-X importtime` lists them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=folder,
        env={**os.environ, **environment}, check=True,
    )  # fmt: skip
    return done.stderr.count("import time:") - 1  # the first is the heading


def instructions(arguments: list[str], environment: dict[str, str], folder: Path) -> int | None:
    """Return millions of instructions, None where valgrind is not installed."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return None
    command = [valgrind, "--tool=callgrind", f"--callgrind-out-file={folder / 'calls'}", sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, check=True,
        env={**os.environ, "PYTHONHASHSEED": "0", **environment},
    )  # fmt: skip
    found = re.search(r"Collected : (\d+)", done.stderr)
    return int(found[1]) // 1_000_000 if found else None


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15, help="runs of each command (15)")
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls = {"python -c pass": (BARE, {}), **{each: call_of(each) for each in COMMANDS}}
        taken: dict[str, list[float]] = {each: [] for each in calls}
        for _ in range(turns):
            for each, (arguments, environment) in calls.items():
                taken[each].append(cpu_ms(arguments, environment, folder))
        bare = taken["python -c pass"]
        print("| command | processor time, ms: best, median | above Python's own | goal | modules | M instructions |")
        print("|---|---:|---:|---:|---:|---:|")
        for each, call in calls.items():
            best, median = min(taken[each]), statistics.median(taken[each])
            above = f"{best - min(bare):.0f}, {median - statistics.median(bare):.0f}"
            goal = COMMANDS.get(each)
            counted = instructions(*call, folder)
            print(
                f"| `{each}` | {best:.0f}, {median:.0f} | {above if each in COMMANDS else ''} | {goal or ''} "
                f"| {modules(*call, folder)} | {f'{counted:,}' if counted else 'valgrind is not installed'} |"
            )


if __name__ == "__main__":
    main()
