"""Measures `check`: how fast it reads a version of many rows of 1 kB, and whether it finds and names flipped bits.

The floor hashes the same data files as `sha256sum` does, in the same run. Every flip is of one random bit in a random
file of a fresh copy of a small version, as large files as small ones. Prints tables; figures with date and machine:
README.md.
"""

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import engine
import zstandard
from versions import publish

from distillgen.files import file_sha256
from distillgen.upkeep.check import check_version
from distillgen.upkeep.scan import scan

FLIPPED_ROWS = 60


def command(*arguments: str, project: Path) -> tuple[float, float]:
    """Run a command to its end; return seconds and the most memory of any one of its processes in MB."""
    code = (
        "import resource, runpy, sys\n"
        "if __name__ == '__main__':\n"
        f"    sys.argv = ['distillgen', *{list(arguments)!r}, '--project', {str(project)!r}]\n"
        "    try: runpy.run_module('distillgen', run_name='__main__')\n"
        "    except SystemExit as end: assert not end.code\n"
        "    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN\n"
        "    print(max(resource.getrusage(kind).ru_maxrss for kind in kinds), file=sys.stderr)"
    )
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - before, int(done.stderr.split()[-1]) / 1024


def speed(folder: Path, rows: int) -> None:
    """Publish a version, hash its data files, and check it; print a table."""
    seconds = publish(folder / "datasets" / "bench", range(rows), changed=0)
    version = folder / "datasets" / "bench" / "v0001"
    files = sorted((version / "data").iterdir())
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"| {rows:,} rows, {size:,.0f} MB of data files | s | MB/s of data files | most memory, MB |")
    print("|---|---:|---:|---:|")
    print(f"| publishing ({rows / seconds:,.0f} rows/s) | {seconds:.1f} | {size / seconds:,.0f} | |", flush=True)
    started = time.perf_counter()
    for file in files:
        file_sha256(file)
    seconds = time.perf_counter() - started
    print(f"| sha256 of the data files alone, one process: the floor | {seconds:.2f} | {size / seconds:,.0f} | |")
    started = time.perf_counter()
    assert not any(scan(file, "data").flaws for file in files)
    seconds = time.perf_counter() - started
    print(
        f"| data files alone: hash, parse, digests; one process | {seconds:.2f} | {size / seconds:,.0f} | |", flush=True
    )
    for arguments in (["check", "bench"], ["check", "bench", "--fast"]):
        seconds, peak = command(*arguments, project=folder)
        print(f"| `{' '.join(arguments)}` | {seconds:.2f} | {size / seconds:,.0f} | {peak:,.0f} |", flush=True)
    started = time.perf_counter()
    unpacked = sum(len(block) for block in _unpacked(version / "provenance.jsonl.zst")) / 1e6
    print(f"\nProvenance: {unpacked:,.0f} MB unpacked; unpacking alone takes {time.perf_counter() - started:.2f} s.")


def _unpacked(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from zstandard.ZstdDecompressor().read_to_iter(file)


def flip(path: Path, draw: random.Random) -> int:
    """Flip one random bit of a file; return the line it is in, counted from 1. A line's end belongs to it."""
    content = bytearray(path.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    line = path.read_bytes()[: bit // 8].count(b"\n") + 1
    path.chmod(0o644)
    path.write_bytes(content)
    return line


def flips(folder: Path, times: int, seed: int) -> None:
    """Flip bits, one at a time, and print how many were found and named."""
    publish(folder / "datasets" / "bench", range(FLIPPED_ROWS), changed=0)
    whole = folder / "datasets" / "bench" / "v0001"
    assert not check_version(whole, is_placed=True).findings
    names = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
    draw, flipped, named, by_line = random.Random(seed), Counter[str](), Counter[str](), Counter[str]()
    others = 0
    copy = folder / "copies" / "bench" / "v0001"
    for _ in range(times):
        name = draw.choice(names)
        shutil.copytree(whole, copy)
        line = flip(copy / name, draw)
        found = check_version(copy, is_placed=True).findings
        flipped[name] += 1
        named[name] += any(finding.file == name for finding in found)
        by_line[name] += any((finding.file, finding.line) == (name, line) for finding in found)
        others += any(finding.file not in (name, "manifest.json") for finding in found)
        shutil.rmtree(copy.parent)
    print(f"\n| {times} bits flipped (seed {seed}), in | flips | found, named by file | named by line |")
    print("|---|---:|---:|---:|")
    for name in names:
        lines = by_line[name] if name.startswith("data/") else "-"
        print(f"| {name} | {flipped[name]} | {named[name]} | {lines} |")
    data = sum(count for name, count in by_line.items() if name.startswith("data/"))
    print(f"| all | {flipped.total()} | {named.total()} | {data} |")
    print(f"\nIn {others} cases a file that was not flipped was named too.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(engine.machine(), "\n", flush=True)
    with contextlib.ExitStack() as stack:
        if options.rows:
            speed(Path(stack.enter_context(tempfile.TemporaryDirectory())), options.rows)
        flips(Path(stack.enter_context(tempfile.TemporaryDirectory())), options.flips, options.seed)


if __name__ == "__main__":
    main()
