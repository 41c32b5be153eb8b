"""Measures the rules of `filter` on answers of 500 bytes: each rule, preset `chat`, and blocks in worker processes.

The answers are texts of GSM8K and self-instruct (recipes/seeds) joined and cut. The floor is what a filter without a
rule does to a row. Costs are processor time. Prints Markdown tables; figures with date and machine: bench/README.md.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import engine
import orjson

from distillgen.files import canonical, digest, read_jsonl
from distillgen.rows import Outcome, Rejection, Row
from distillgen.step_settings import RuleSetting
from distillgen.steps.filter import Filter
from distillgen.steps.rules import PRESETS, RULES, Context, bind_rule

SEEDS = Path(__file__).resolve().parent.parent / "recipes" / "seeds"
BYTES = 500
BLOCK_ROWS = 1_000
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


def block(settings: Sequence[RuleSetting], folder: Path, rows: list[Row]) -> list[Outcome]:
    """Apply a filter to a block of rows: what a worker process does."""
    return [outcome for row in rows for outcome in _bound_once(tuple(map(orjson.dumps, settings)), folder)(row)]


_FILTERS: dict[tuple[bytes, ...], Filter] = {}


def _bound_once(settings: tuple[bytes, ...], folder: Path) -> Filter:
    if settings not in _FILTERS:
        _FILTERS[settings] = bound([orjson.loads(setting) for setting in settings], folder)
    return _FILTERS[settings]


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


def in_workers(rows: list[Row], folder: Path, runs: int) -> None:
    """Print how much sooner two processes are done with blocks of rows, and that the bytes are the same.

    On a busy machine the processor time says more: it bounds what two cores of one's own could win.
    """
    print(f"\nBlocks of {BLOCK_ROWS:,} rows, {WORKERS} worker processes, order kept; {runs} runs in turns.")
    print(f"Bare counting is done {control(runs):.2f} x sooner by two processes (the machine may be busy).\n")
    print("| rules | best here, s | in workers, s | sooner by | processor time here, s | all processes, s | at most |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
    chat = PRESETS["chat"]
    for name, settings in {"`chat`": chat, "`chat` and `language`": [*chat, PARAMETERS["language"]]}.items():
        with ProcessPoolExecutor(WORKERS) as pool:
            arguments = ([settings] * len(blocks), [folder] * len(blocks), blocks)
            list(pool.map(block, *arguments))  # models are loaded
            walls, one, two = [], [], []
            for _ in range(runs):
                started, used = time.perf_counter(), time.process_time()
                here = [block(settings, folder, each) for each in blocks]
                wall = time.perf_counter() - started
                one.append(time.process_time() - used)
                before, used, started = workers_used(pool), time.process_time(), time.perf_counter()
                there = list(pool.map(block, *arguments))
                walls.append((wall, time.perf_counter() - started))
                two.append(time.process_time() - used + workers_used(pool) - before)
        if bytes_of(here) != bytes_of(there):
            raise SystemExit(f"{name}: the workers made something else of the rows")
        best, best_there = (min(column) for column in zip(*walls, strict=True))
        print(
            f"| {name} | {best:.2f} | {best_there:.2f} | {best / best_there:.2f} x "
            f"| {min(one):.2f} | {min(two):.2f} | {min(one) / min(two) * WORKERS:.2f} x |", flush=True
        )  # fmt: skip


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


def workers_used(pool: ProcessPoolExecutor) -> float:
    """Return the processor time that the workers have used so far."""
    return sum(dict(pool.map(_used, range(8 * WORKERS))).values())


def _used(_: int) -> tuple[int, float]:
    time.sleep(0.02)  # so that each worker takes some of these
    return os.getpid(), time.process_time()


def bytes_of(blocks: list[list[Outcome]]) -> str:
    """Return a digest of what became of the rows, in their order."""
    return digest(*(canonical([type(each).__name__, str(each)]) for outcomes in blocks for each in outcomes))


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
            in_workers(rows, folder, options.runs)


if __name__ == "__main__":
    main()
