"""Measures near-duplicates beside plain datasketch: rows a second, bytes a row, recall, precision, growth, reopening.

The corpus is made up: words by Zipf's law, one of 300 openings, a body, now and then one of 20 stock closings. More
than a quarter of the rows are copies of earlier ones with some words replaced, so that their real Jaccard similarity
with the original spreads from 0.5 to 1. Half of the originals are among the last thousand, half anywhere before.
Recall: of the copies at or above the threshold whose original was kept, the share that was rejected. Precision: of the
rejections, the share whose row really has that similarity with the row that is named. Both from the texts themselves.
Each candidate runs in a process of its own. Figures with date and machine: bench/README.md.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import engine
import numpy as np

THRESHOLD = 0.8
WORDS = 30_000
BLOCK = 4096
MORE = 0.02  # rows that are added to the saved index, as a share
_WORD = re.compile(r"\w+")


def corpus(rows: int, seed: int) -> Iterator[tuple[str, int]]:
    """Yield texts, each with the number of the row that it is a copy of, or -1."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    lengths = np.clip(rng.poisson(6, WORDS), 2, 14)
    made = dict.fromkeys("".join(letters[np.minimum(rng.geometric(0.12, length) - 1, 25)]) for length in lengths)
    words = np.array(list(made))
    shares = 1 / np.arange(1, len(words) + 1) ** 1.07
    steps = np.cumsum(shares / shares.sum())

    def draw(count: int) -> list[str]:
        return words[np.minimum(np.searchsorted(steps, rng.random(count)), len(words) - 1)].tolist()

    openings = [" ".join(draw(12)).capitalize() + ":" for _ in range(300)]
    closings = [" ".join(draw(10)).capitalize() + "." for _ in range(20)]
    recent: list[tuple[int, str]] = []
    older: list[tuple[int, str]] = []
    for number in range(rows):
        kind = rng.random()
        if kind < 0.278 and recent:
            near = rng.random() < 0.5
            source, text = (recent if near else older)[int(rng.integers(len(recent if near else older)))]
            yield _copy(text, kind, rng, draw), source
            continue
        parts = [openings[int(rng.integers(300))], " ".join(draw(int(np.clip(rng.lognormal(3.95, 0.5), 5, 400)))) + "."]
        if rng.random() < 0.3:
            parts.append(closings[int(rng.integers(20))])
        text = " ".join(parts)
        recent.append((number, text))
        del recent[:-1000]
        if len(older) < 20_000:
            older.append((number, text))
        elif rng.random() < 20_000 / number:
            older[int(rng.integers(20_000))] = number, text
        yield text, -1


def _copy(text: str, kind: float, rng: np.random.Generator, draw: Callable[[int], list[str]]) -> str:
    """Return the text as it is, in capitals, or with as many runs of words replaced as suits a similarity."""
    if kind < 0.011:
        return text
    if kind < 0.022:
        return text.upper()
    words = text.split()
    wanted = rng.uniform(0.5, 0.97)
    lost = (1 - wanted) / (1 + wanted)  # the share of word triples that must go for it
    changes = max(1, round(lost * len(words) / 3))
    for place in rng.choice(len(words), size=min(changes, len(words)), replace=False).tolist():
        words[place] = draw(1)[0]
    return " ".join(words)


def triples(text: str) -> set[tuple[str, ...]]:
    """Return the word triples of a text."""
    words = _WORD.findall(text.lower())
    size = min(3, max(len(words), 1))
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}


def jaccard(one: str, other: str) -> float:
    """Return how alike two texts are."""
    left, right = triples(one), triples(other)
    return len(left & right) / len(left | right)


class Texts:
    """The corpus in a file: a text a line, found by number."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "texts").open("rb")
        self._starts = np.load(folder / "starts.npy")
        self.sources = np.load(folder / "sources.npy")

    @classmethod
    def write(cls, folder: Path, rows: int, seed: int) -> "Texts":
        """Make the corpus."""
        starts, sources = [0], []
        with (folder / "texts").open("wb") as file:
            for text, source in corpus(rows, seed):
                starts.append(starts[-1] + file.write(text.encode() + b"\n"))
                sources.append(source)
        np.save(folder / "starts.npy", np.array(starts))
        np.save(folder / "sources.npy", np.array(sources))
        return cls(folder)

    def __getitem__(self, number: int) -> str:
        start, stop = self._starts[number : number + 2].tolist()
        return os.pread(self._file.fileno(), stop - start - 1, start).decode()

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, list[str]]]:
        """Yield the texts of some rows in blocks, with the number of the first."""
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            begin, end = self._starts[first], self._starts[last]
            yield first, os.pread(self._file.fileno(), int(end - begin), int(begin)).decode().splitlines()


# Candidates: each returns, for a block of texts, the number of the row that each is a duplicate of, or -1.

Decide = Callable[[int, Sequence[str]], list[int]]


def ours(folder: Path, earlier: Any = None) -> tuple[Decide, Any]:
    """The step `deduplicate`."""
    from distillgen.rows import Rejection, Row
    from distillgen.steps.deduplicate import Deduplicate, Earlier

    step = Deduplicate("d", ["text"], THRESHOLD, spool=folder, earlier=[Earlier(earlier)] if earlier else [])
    step([Row("warm", "", None, {"text": ""})])

    def decide(first: int, texts: Sequence[str]) -> list[int]:
        outcomes = step([Row(f"r{first + at}", "", None, {"text": text}) for at, text in enumerate(texts)])
        return [
            int(each.detail.split(",")[0].removeprefix("of r")) if isinstance(each, Rejection) else -1
            for each in outcomes
        ]

    return decide, step


def plain(folder: Path) -> tuple[Decide, Any]:
    """Plain datasketch: MinHash.bulk and MinHashLSH with their defaults; a row with a candidate is a duplicate."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)

    def decide(first: int, texts: Sequence[str]) -> list[int]:
        sets = [[" ".join(each).encode() for each in triples(text)] for text in texts]
        result = []
        for number, sketch in enumerate(MinHash.bulk(sets, num_perm=128), first):
            found = index.query(sketch)
            result.append(min(found, default=-1))
            if not found:
                index.insert(number, sketch)
        return result

    return decide, index


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def work(folder: Path, name: str, start: int, stop: int) -> None:
    """Run one candidate over the corpus, in this process, and write what it cost and decided."""
    texts = Texts(folder)
    opened, opening = None, 0.0
    if name == "reopened":
        from distillgen.steps.deduplicate import index_settings
        from distillgen.steps.near_saved import open_index

        started = time.perf_counter()
        opened = open_index(folder / "index", index_settings(["text"], THRESHOLD))
        opening = time.perf_counter() - started
        assert opened is not None
    decide, state = plain(folder) if name == "plain" else ours(folder, opened)
    before, decisions, marks = peak_bytes(), [], []
    wall = cpu = 0.0
    for first, block in texts.blocks(start, stop):
        at_wall, at_cpu = time.perf_counter(), time.process_time()
        decisions += decide(first, block)
        wall, cpu = wall + time.perf_counter() - at_wall, cpu + time.process_time() - at_cpu
        marks.append((first + len(block) - start, wall, cpu))
    used, saving = peak_bytes() - before, time.perf_counter()
    if name != "plain":
        kept = {f"r{start + at}" for at, other in enumerate(decisions) if other < 0}
        state.save(folder / ("index" if opened is None else "grown"), kept, opened)
    result = {"wall": wall, "cpu": cpu, "bytes": used, "marks": marks, "opening": opening}
    np.save(folder / f"{name}.npy", np.array(decisions))
    print(json.dumps({**result, "saving": time.perf_counter() - saving}))


def measured(folder: Path, name: str, start: int, stop: int) -> dict[str, Any]:
    """Run one candidate in a process of its own."""
    command = [sys.executable, __file__, "--work", str(folder), name, str(start), str(stop)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def quality(texts: Texts, decisions: np.ndarray) -> tuple[float, int, float, int]:
    """Return recall and its pairs, precision and its rejections."""
    rejected = np.flatnonzero(decisions >= 0)
    right = sum(jaccard(texts[each], texts[int(decisions[each])]) >= THRESHOLD for each in rejected.tolist())
    planted = found = 0
    for copy in np.flatnonzero(texts.sources[: len(decisions)] >= 0).tolist():
        source = int(texts.sources[copy])
        if decisions[source] < 0 and jaccard(texts[copy], texts[source]) >= THRESHOLD:
            planted += 1
            found += bool(decisions[copy] >= 0)
    return found / max(planted, 1), planted, right / max(len(rejected), 1), len(rejected)


def forget(folder: Path) -> None:
    """Have the system drop what it holds of the files of a folder."""
    for path in folder.iterdir() if hasattr(os, "posix_fadvise") else ():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(folder: Path, rows: int, seed: int, *, with_plain: bool) -> None:
    """Print the tables."""
    more = round(rows * MORE)
    texts = Texts.write(folder, rows + more, seed)
    print(f"{rows:,} rows, {texts._starts[rows] / rows:.0f} bytes each, seed {seed}\n")
    print("| | rows/s | rows a CPU second | bytes a row | recall | precision |\n|---|---|---|---|---|---|")
    results = {}
    for name in ("ours", "plain") if with_plain else ("ours",):
        results[name] = each = measured(folder, name, 0, rows)
        recall, planted, precision, rejected = quality(texts, np.load(folder / f"{name}.npy"))
        print(
            f"| {'deduplicate' if name == 'ours' else 'datasketch'} | {rows / each['wall']:,.0f} | "
            f"{rows / each['cpu']:,.0f} | {each['bytes'] / rows:,.0f} | {recall:.4f} of {planted:,} | "
            f"{precision:.4f} of {rejected:,} |", flush=True,
        )  # fmt: skip
    if with_plain:
        one, other = results["ours"], results["plain"]
        print(
            f"| datasketch / deduplicate | {one['wall'] / other['wall']:.3f} | {one['cpu'] / other['cpu']:.3f} | "
            f"{other['bytes'] / one['bytes']:.1f} | | |"
        )
    sketched(texts, min(rows, 100_000))
    grown(results["ours"]["marks"], rows)
    reopened(folder, texts, rows, more, results["ours"]["saving"])


def sketched(texts: Texts, rows: int) -> None:
    """Print what it costs to make digests, shingles and signatures, which is most of the work."""
    from distillgen.steps.similarity import fingerprints, signatures

    sets, signed = 0.0, 0.0
    for _, block in texts.blocks(0, rows):
        started = time.process_time()
        found = fingerprints(block)
        between = time.process_time()
        signatures(found.sets)
        sets, signed = sets + between - started, signed + time.process_time() - between
    print("\n| of that, microseconds a row | |\n|---|---|")
    print(
        f"| digests and shingles | {sets / rows * 1e6:.1f} |\n| signatures of 128 values | {signed / rows * 1e6:.1f} |"
    )
    print(f"| both: rows a CPU second | {rows / (sets + signed):,.0f} |")


def grown(marks: Sequence[tuple[int, float, float]], rows: int) -> None:
    """Print what a row costs while the index grows."""
    print("\n| rows | CPU seconds so far | microseconds a row since the line before |\n|---|---|---|")
    last_rows, last_cpu = 0, 0.0
    for tenth in range(1, 11):
        at, _, cpu = next(mark for mark in marks if mark[0] >= rows * tenth // 10)
        if at == last_rows:
            continue
        print(f"| {at:,} | {cpu:.2f} | {(cpu - last_cpu) / (at - last_rows) * 1e6:.1f} |")
        last_rows, last_cpu = at, cpu


def reopened(folder: Path, texts: Texts, rows: int, more: int, saving: float) -> None:
    """Print what it costs to add rows to the saved index."""
    size = sum(path.stat().st_size for path in (folder / "index").iterdir())
    print(f"\nSaved in {saving:.2f} s: {size / 1e6:.0f} MB.\n")
    print(
        f"| opened to add {more:,} rows | opening, s | adding, s | saving, s | new bytes, MB |\n|---|---|---|---|---|"
    )
    for name in ("files not in the system's memory", "files in memory"):
        if name.startswith("files not"):
            forget(folder / "index")
        each = measured(folder, "reopened", rows, rows + more)
        new = sum(path.stat().st_size for path in (folder / "grown").iterdir() if path.stat().st_nlink == 1)
        print(f"| {name} | {each['opening']:.3f} | {each['wall']:.2f} | {each['saving']:.3f} | {new / 1e6:.1f} |")
    before, after = np.load(folder / "ours.npy"), np.load(folder / "reopened.npy")
    recall, planted, precision, rejected = quality(texts, np.concatenate((before, after)))
    print(f"\nAll {rows + more:,} rows: recall {recall:.4f} of {planted:,}, precision {precision:.4f} of {rejected:,}.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=20_261_125)
    parser.add_argument("--without-datasketch", action="store_true", help="which takes minutes for a million rows")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        folder, name, start, stop = options.work
        work(Path(folder), name, int(start), int(stop))
        return
    print(engine.machine())
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        compare(Path(folder), options.rows, options.seed, with_plain=not options.without_datasketch)


if __name__ == "__main__":
    main()
