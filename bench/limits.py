"""Measures how much of a rate limit a build uses and how much is refused, for stated limits and for unknown ones.

Real builds against the scripted teacher, all cases side by side: they take little of the CPU. The teacher counts what
it accepts and refuses in each second. Prints a Markdown table; figures with date and machine are in bench/README.md.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine

A_MINUTE = 3000
A_SECOND = A_MINUTE / 60
STATED = f"limits = {{ requests_per_minute = {A_MINUTE}, max_in_flight"


@dataclass(frozen=True)
class Case:
    """A server's limit, and whether the recipe states it."""

    name: str
    server: tuple[str, ...]
    latency: float = 0.2
    is_stated: bool = True


BUCKET = ("--rate", str(A_SECOND))
CASES = {
    "stated": Case("stated; token bucket, a second's burst", BUCKET),
    "window": Case("stated; every window of 60 s counted", ("--a-minute", str(A_MINUTE))),
    "unknown": Case("unknown; token bucket, a second's burst", BUCKET, is_stated=False),
    "slow": Case("unknown; the same, replies take 8 s", BUCKET, latency=8.0, is_stated=False),
}


@dataclass(frozen=True)
class Minute:
    """What the teacher accepted and refused within a minute."""

    accepted: int
    refused: int


def minutes_of(stats: Mapping[str, Any], count: int) -> list[Minute]:
    """Add seconds up to minutes; the first begins with the first request."""

    def total(seconds: Mapping[str, int], minute: int) -> int:
        return sum(number for second, number in seconds.items() if int(second) // 60 == minute)

    return [Minute(total(stats["accepted"], n), total(stats["refused"], n)) for n in range(count)]


def measure(case: Case, minutes: int, in_flight: int) -> str:
    """Build for so many minutes and a few seconds; return a line of the table."""
    rows = round((minutes + 0.1) * A_MINUTE)
    with engine.teacher("--latency", str(case.latency), *case.server) as port, tempfile.TemporaryDirectory() as name:
        folder = engine.project(Path(name) / "project", port, rows, in_flight)
        if case.is_stated:
            recipe = folder / "recipe.toml"
            recipe.write_text(recipe.read_text().replace("limits = { max_in_flight", STATED))
        engine.build(folder)
        published = json.loads((folder / "datasets/bench/v0001/manifest.json").read_text())["rows"]
        first, *later = minutes_of(engine.stats(port), minutes)
    accepted, refused = sum(m.accepted for m in later), sum(m.refused for m in later)
    least = min(minute.accepted for minute in later)
    cells = [
        case.name,
        f"{first.accepted / A_MINUTE:.2%}",
        f"{first.refused:,}",
        f"{accepted / A_MINUTE / len(later):.2%} (least {least / A_MINUTE:.2%})",
        f"{refused:,} ({refused / (accepted + refused):.3%})",
        f"{published:,} of {rows:,}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--minutes", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--quick", action="store_const", const=2, dest="minutes", help="two minutes")
    parser.add_argument("--in-flight", type=int, default=512)
    options = parser.parse_args()
    chosen = options.cases or list(CASES)
    if options.minutes < 2 or not CASES.keys() >= set(chosen):
        parser.error(f"at least two minutes, and cases of {', '.join(CASES)}")
    engine.begin()
    load = os.getloadavg()[0]
    print(
        f"{options.minutes} minutes, {A_MINUTE:,} a minute, {options.in_flight} in flight; load at the start {load:.1f}"
    )
    later = "minute 2" if options.minutes == 2 else f"minutes 2 to {options.minutes}"
    print(f"\n| limit | minute 1 used | refused | {later} used | refused | rows published |")
    print("|---|---|---|---|---|---|", flush=True)
    with ThreadPoolExecutor(len(chosen)) as pool:
        for line in pool.map(lambda name: measure(CASES[name], options.minutes, options.in_flight), chosen):
            print(line, flush=True)


if __name__ == "__main__":
    main()
