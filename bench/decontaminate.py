"""Measures `decontaminate`: rows a second and memory, rows flagged that hold no benchmark item, items found again.

The corpus is made up: 30,000 words (Zipf, 1.07), a row is one of 300 templates, a body, and for three in ten one of 20
stock closings, 73 words on average. The benchmark's items are made in the same way with the same templates and
closings, so stock phrases stand on both sides. `--real BENCHMARK ROWS` (JSONL) measures real text too. Prints Markdown
tables; figures with date and machine: bench/README.md.
"""

import argparse
import itertools
import random
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distillgen.files import read_jsonl
from distillgen.rows import Rejection, Row
from distillgen.steps.benchmarks import Benchmarks, Item, read_benchmark, words_of
from distillgen.steps.decontaminate import Decontaminate

SYLLABLES = ["ba", "co", "di", "fu", "ge", "ha", "ji", "ko", "lu", "me", "no", "pa", "qui", "ro", "su", "ta", "vo"]


class Corpus:
    """Texts of made-up words; those of one seed share templates and closings, whatever the stream they come from."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        words: dict[str, None] = {}
        while len(words) < 30_000:
            words["".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 3, 3, 4))))] = None
        self._words = list(words)
        self._weights = list(itertools.accumulate(1 / rank**1.07 for rank in range(1, len(words) + 1)))
        self._templates = [self.body(rng, rng.randint(6, 14)) for _ in range(300)]
        self._closings = [self.body(rng, rng.randint(8, 16)) for _ in range(20)]

    def body(self, rng: random.Random, count: int) -> str:
        """Return so many words."""
        return " ".join(rng.choices(self._words, cum_weights=self._weights, k=count))

    def texts(self, stream: int, count: int) -> Iterator[str]:
        """Yield texts; two streams have nothing in common but templates, closings and chance."""
        rng = random.Random(stream)
        for _ in range(count):
            closing = f" {rng.choice(self._closings)}." if rng.random() < 0.3 else ""
            size = max(5, int(rng.lognormvariate(4.0, 0.45)))
            yield f"{rng.choice(self._templates).capitalize()}: {self.body(rng, size)}.{closing}"


def items(texts: Iterable[str]) -> Iterator[Item]:
    """Yield texts as the items of a benchmark."""
    return (Item("bench", str(number), (("question", text),)) for number, text in enumerate(texts, 1))


def row(text: str) -> Row:
    """Return a row that holds a text."""
    return Row("r", "r", None, {"answer": text})


def seconds(function: Callable[[str], Any], texts: Sequence[str], runs: int = 3) -> float:
    """Return the least CPU time of some runs of a function over all texts, one at a time."""
    taken = []
    for _ in range(runs):
        start = time.process_time()
        for text in texts:
            function(text)
        taken.append(time.process_time() - start)
    return min(taken)


def flagged(step: Decontaminate, texts: Iterable[str]) -> int:
    """Return how many texts are refused."""
    return sum(isinstance(step(row(text))[0], Rejection) for text in texts)


def resident_mb() -> float:
    """Return the memory of this process now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1024**2


def memory(corpus: Corpus, count: int, rows: int) -> None:
    """Print what the table takes, and what rows add to it."""
    texts = list(corpus.texts(1, count))
    sizes = [resident_mb()]
    step = Decontaminate("bench", ["answer"], Benchmarks.build(items(texts)))
    sizes.append(resident_mb())
    for stream, number in ((2, rows // 10), (3, rows)):
        flagged(step, corpus.texts(stream, number))
        sizes.append(resident_mb())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - sizes[0]
    table, tenth, whole = (after - before for before, after in itertools.pairwise(sizes))
    print(f"\n| memory, {count:,} items | MB |\n|---|---|\n| the table | {table:.1f} |")
    print(f"| at most while building it | {peak:.1f} |")
    print(f"| more after {rows // 10:,} rows | {tenth:.1f} |\n| more after {rows:,} further rows | {whole:.1f} |")


def speed(corpus: Corpus, count: int, rows: int) -> None:
    """Print rows a second, beside those of splitting into words alone and of the plain set of n-grams."""
    texts, bench, rng = list(corpus.texts(4, rows)), list(corpus.texts(1, count)), random.Random(5)
    short = [corpus.body(rng, rng.randint(5, 7)) for _ in range(count // 10)]
    travelling = {id(text): row(text) for text in texts}
    floor = seconds(words_of, texts)
    print(f"\n| {rows:,} rows x {count:,} items, one core | rows/s of CPU time | x the time of splitting | build, s |")
    print(f"|---|---|---|---|\n| splitting into words alone | {rows / floor:,.0f} | 1.0 | |")
    for label, words, source in (
        ("8 words", 8, bench),
        ("13 words", 13, bench),
        ("8 words, and a tenth more items of 5 to 7", 8, [*bench, *short]),
    ):
        start = time.process_time()
        step = Decontaminate("bench", ["answer"], Benchmarks.build(items(source), words=words))
        built = time.process_time() - start
        taken = seconds(lambda text, step=step: step(travelling[id(text)]), texts)  # type: ignore[misc]
        print(f"| {label} | {rows / taken:,.0f} | {taken / floor:.1f} | {built:.1f} |")
    for words in (8, 13):
        known = {gram for text in bench for gram in joined_grams(text, words)}
        taken = seconds(lambda text, words=words, known=known: known.intersection(joined_grams(text, words)), texts)  # type: ignore[misc]
        print(f"| a Python set of {words}-grams as texts: those shared | {rows / taken:,.0f} | {taken / floor:.1f} | |")


def joined_grams(text: str, words: int) -> Iterator[bytes]:
    """Yield the n-grams of a text as texts."""
    found = words_of(text)
    return (b" ".join(found[start : start + words]) for start in range(len(found) - words + 1))


def any_gram(text: str, words: int, known: set[bytes]) -> bool:
    """Whether a text holds any known n-gram: the rule that flags stock phrases."""
    return not known.isdisjoint(joined_grams(text, words))


def stock(corpus: Corpus, count: int, rows: int) -> None:
    """Print the share of rows flagged that hold no item, and the share of planted items found."""
    texts, bench = list(corpus.texts(6, rows)), list(corpus.texts(1, count))
    planted = [f"{text} {bench[number % count]} {text}" for number, text in enumerate(corpus.texts(8, rows // 50))]
    print("\n| text with stock phrases | rows without an item flagged | planted items found |\n|---|---|---|")
    for words in (8, 13):
        step = Decontaminate("bench", ["answer"], Benchmarks.build(items(bench), words=words))
        known = {gram for text in bench for gram in joined_grams(text, words)}
        loose = sum(any_gram(text, words, known) for text in texts) / rows
        found = flagged(step, planted) / len(planted)
        print(f"| {words} words, coverage 0.5 | {flagged(step, texts) / rows:.3%} | {found:.2%} |")
        print(f"| any {words}-gram | {loose:.3%} | |")
    told = "Read the following problem with care and answer it as shortly as you can . " * 4
    step = Decontaminate("bench", ["answer"], Benchmarks.build(items(told + text for text in bench)))
    framed, verbatim = [told + text for text in texts], [told + text for text in bench]
    false, found = flagged(step, framed) / rows, flagged(step, verbatim) / count
    print(f"| 8 words; every item and row begins with the same 60 words | {false:.3%} | {found:.2%} |")


def changed(text: str, count: int, rng: random.Random) -> str:
    """Return a text in which so many words are others."""
    words = text.split()
    for place in rng.sample(range(len(words)), min(count, len(words))):
        words[place] = f"changed{place}"
    return " ".join(words)


def real(benchmark: Path, rows: Path) -> None:
    """Print what is flagged in real rows, column by column, and which share of planted questions is found."""
    lines = list(read_jsonl(rows))
    questions = [item.texts[0][1] for item in read_benchmark(benchmark, ["question"])]
    rng = random.Random(9)
    print("\n| real text | 8 words | 13 words |\n|---|---|---|")
    steps = [
        Decontaminate("bench", [], Benchmarks.build(read_benchmark(benchmark, ["question", "answer"]), words=words))
        for words in (8, 13)
    ]

    def line(label: str, texts: Sequence[str]) -> None:
        print(f"| {label} | " + " | ".join(f"{flagged(step, texts) / len(texts):.2%}" for step in steps) + " |")

    for column in lines[0]:
        line(f"{len(lines):,} rows, `{column}`: flagged", [each[column] for each in lines])
    grams = {gram for text in questions for gram in joined_grams(text, 8)}
    share = sum(any_gram(each["question"], 8, grams) for each in lines) / len(lines)
    print(f"| the same, `question`, by any 8-gram | {share:.2%} | |")
    line(f"{len(questions):,} questions of the benchmark, verbatim: found", questions)
    line("the same in lower case without punctuation", [b" ".join(words_of(text)).decode() for text in questions])
    line("the same between two other questions", [
        f"{rng.choice(lines)['question']}\n\n{text}\n\n{rng.choice(lines)['question']}" for text in questions
    ])  # fmt: skip
    for count in (1, 2, 3, 5, 8):
        line(f"the same, {count} words changed", [changed(text, count, rng) for text in questions])
    line("the second half only", [" ".join(text.split()[len(text.split()) // 2 :]) for text in questions])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--real", type=Path, nargs=2, metavar=("BENCHMARK", "ROWS"))
    options = parser.parse_args()
    corpus = Corpus(3)
    lengths = [len(words_of(text)) for text in corpus.texts(0, 5_000)]
    print(f"Mean length of a row: {sum(lengths) / len(lengths):.0f} words.")
    memory(corpus, options.items, options.rows)
    speed(corpus, options.items, options.rows)
    stock(corpus, options.items, options.rows)
    if options.real:
        real(*options.real)


if __name__ == "__main__":
    main()
