"""Measures the rules of `filter` on answers of 500 bytes: each rule, presets, and the command in worker processes.

The answers are texts of GSM8K and self-instruct (recipes/seeds) joined and cut. The floor is what a filter without a
rule does to a row. Costs are processor time. Prints Markdown tables; figures with date and machine: bench/README.md.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import engine
import orjson

from distillgen.files import digest, read_jsonl
from distillgen.rows import Rejection, Row
from distillgen.step_settings import RuleSetting
from distillgen.steps.filter import Filter
from distillgen.steps.rules import PRESETS, RULES, Context, bind_rule

SEEDS = Path(__file__).resolve().parent.parent / "recipes" / "seeds"
BYTES = 500
WORKERS = 2
TOLD = "You are a careful assistant. Answer the question in a few plain sentences, and say so when you are not sure."
# What a rule needs to have work to do.
PARAMETERS: dict[str, RuleSetting] = {
    "length": {"rule": "length", "min_words": 5, "max_words": 800},
    "format": {"rule": "format", "regex": r"[.!?0-9]\s*$", "not_contains": ["TODO"]},
    "language": {"rule": "language", "wanted": ["en"]},
    "function": {"rule": "function", "call": "bench_own:short"},
}
OWN = 'def short(columns):\n    return "short" if len(columns["answer"]) < 3 else None\n'


def answers(paths: Sequence[Path]) -> Iterator[str]:
    """Yield texts of 500 bytes: those of JSONL files, joined by line breaks and cut at a word."""
    for path in paths:
        held = ""
        for line in read_jsonl(path):
            for value in line.values():
                if isinstance(value, str) and " " in value:
                    held += f"{value}\n"
                    if len(held.encode()) >= BYTES:
                        yield held.encode()[:BYTES].decode(errors="ignore").rsplit(" ", 1)[0]
                        held = ""


def rows_of(texts: Sequence[str], count: int) -> list[Row]:
    """Return rows as `generate` leaves them, each text as often as needed."""
    record = {
        "step": "1.generate", "wrote": ["answer", "reasoning"], "finish_reason": "stop", "refused": False,
        "tokens": {"prompt": 50, "completion": 130, "reasoning": 0},
    }  # fmt: skip
    columns = {"question": "What is the answer?"}
    return [
        Row(
            str(n),
            str(n),
            None,
            {**columns, "reasoning": texts[n // 2 % len(texts)], "answer": texts[n % len(texts)]},
            (record,),
        )
        for n in range(count)
    ]


def bound(settings: Sequence[RuleSetting], folder: Path) -> Filter:
    """Return the filter of these rules."""
    context = Context(folder, {"answer": [TOLD]})
    return Filter("2.filter", [bind_rule(setting, "answer", context) for setting in settings])


def cpu_seconds(work: Callable[[], object], runs: int) -> float:
    """Return the least processor time of several runs: others may be at work on the machine."""
    times = []
    for _ in range(runs):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def each_rule(rows: list[Row], folder: Path, runs: int) -> None:
    """Print what each rule and preset costs above the floor."""
    floor = Filter("2.filter", [])
    base = cpu_seconds(lambda: [floor(row) for row in rows], runs) / len(rows) * 1e6
    print(f"\n{len(rows):,} answers of {BYTES} bytes; a filter without a rule takes {base:.1f} us a row (the floor).\n")
    print(
        "| rule | us a row, above the floor | x floor | rows a second and core | refused |\n|---|---:|---:|---:|---:|"
    )
    cases: dict[str, Sequence[RuleSetting]] = {f"`{name}`": [PARAMETERS.get(name, name)] for name in RULES}
    cases |= {f"preset `{name}`": settings for name, settings in PRESETS.items()}
    cases["preset `chat` and `language`"] = [*PRESETS["chat"], PARAMETERS["language"]]
    for name, settings in cases.items():
        step = bound(settings, folder)
        refused = sum(isinstance(outcome, Rejection) for row in rows for outcome in step(row))
        cost = cpu_seconds(lambda step=step: [step(row) for row in rows], runs) / len(rows) * 1e6  # type: ignore[misc]
        print(f"| {name} | {cost - base:.1f} | {cost / base:.1f} | {1e6 / cost:,.0f} | {refused} |", flush=True)


def in_workers(texts: Sequence[str], count: int, runs: int, folder: Path) -> None:
    """Print how much sooner the whole command is done with two processors than with one, and that bytes are the same.

    On a busy machine the processor time says more: it bounds what two processors of one's own could win.
    """
    source = folder / "rows.jsonl"
    lines = (orjson.dumps({"question": f"What is {n}?", "answer": texts[n % len(texts)]}) for n in range(count))
    source.write_bytes(b"\n".join(lines) + b"\n")
    print(f"\n`distillgen filter` on {count:,} rows, whole process; {runs} runs in turns, the best.")
    print(f"Bare counting is done {control(runs):.2f} x sooner by two processes (the machine may be busy).\n")
    print("| rules | one processor, s | two, s | sooner by | processor time, s | with two, s | at most |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    cases = {"`chat`": [], "`chat` and `language`": ["--rule", '{ rule = "language", wanted = ["en"] }']}
    for name, more in cases.items():
        turns = [[_timed(more, source, processors) for processors in (1, WORKERS)] for _ in range(runs)]
        if len({said for turn in turns for _, _, said in turn}) != 1:
            raise SystemExit(f"{name}: two processors made something else of the rows")
        (one, one_cpu), (two, two_cpu) = (
            [min(turn[place][part] for turn in turns) for part in (0, 1)] for place in (0, 1)
        )
        print(
            f"| {name} | {one:.2f} | {two:.2f} | {one / two:.2f} x | {one_cpu:.2f} | {two_cpu:.2f} "
            f"| {one_cpu / two_cpu * WORKERS:.2f} x |", flush=True
        )  # fmt: skip


def _timed(more: Sequence[str], source: Path, processors: int) -> tuple[float, float, str]:
    """Return seconds on the clock and of processors, and the digest of what a filter wrote."""
    chosen = sorted(os.sched_getaffinity(0))[:processors]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with source.open("rb") as rows:
        done = subprocess.run(
            [sys.executable, "-m", "distillgen", "filter", "--preset", "chat", *more], stdin=rows, check=True,
            capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, chosen),
        )  # fmt: skip
    wall = time.perf_counter() - started
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, digest(done.stdout)


def control(runs: int) -> float:
    """Return how much sooner two processes are done with work that needs no rows: what the machine gives just now."""
    pieces = [2_000_000] * 4 * WORKERS
    walls = []
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(_count, pieces))
        for _ in range(runs):
            started = time.perf_counter()
            list(map(_count, pieces))
            between = time.perf_counter()
            list(pool.map(_count, pieces))
            walls.append((between - started, time.perf_counter() - between))
    here, there = (min(column) for column in zip(*walls, strict=True))
    return here / there


def _count(times: int) -> int:
    total = 0
    for each in range(times):
        total += each
    return total


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--texts", type=Path, nargs="+", metavar="FILE", help="JSONL files instead of those of recipes/"
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=["rules", "workers"])
    options = parser.parse_args()
    texts = list(answers(options.texts or [SEEDS / "gsm8k_train.jsonl", SEEDS / "self_instruct.jsonl"]))
    rows = rows_of(texts, options.rows)
    print(engine.machine(), f"\n{len(texts)} different texts")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench_own.py").write_text(OWN)
        if options.only != "workers":
            each_rule(rows, folder, options.runs)
        if options.only != "rules":
            in_workers(texts, options.rows, options.runs, folder)


if __name__ == "__main__":
    main()
