"""Makes the sentences of the recipe `sentiment` out of the vaderSentiment 0.5 source package, the same ones each time.

The package (MIT) carries sentences of reviews that 15 to 20 people rated from -4 to 4 (Hutto & Gilbert 2014, ICWSM).
It is downloaded with pip, compared with a checksum and read as an archive; its code is never imported.

A sentence counts when it has 20 to 180 characters, at least four words, and a mean rating at least 0.5 from zero: below
that raters disagree about the sign. It is `graded` up to 1.5 and `clear` from there. A hash of the review decides the
side of all of its sentences: 12 in 100 are for development, 18 are gold, 70 are seeds. On each side of two sentences
that are nearly alike the first is kept; a gold one near any seed goes, and a development one near any of the others.
Of what is left the first ones in the order of their hash are taken, half positive and half negative, a third of product
reviews and two thirds of film reviews.

- seeds (`text`, `source`) carry no human label: a student learns from its teacher alone.
- gold (`text`, `gold`, `rating`, `group`, `source`) is for the last figure only.
- development (`--development FILE`, as gold) is what learning rate, epochs and prompts are tried on. It is not shipped,
  and gold is taken from the far end of the hash order, where no trial has ever been: a set that settings were chosen on
  flatters them.
- more gold (`--more-gold FILE`, as gold) is what is left of that side between its ends, film reviews alone, since the
  product reviews are used up: it asks about the same students a second time. It is not shipped either.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "vaderSentiment==0.5"
SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
SOURCES = {"amazonReviewSnippets": "amazon", "movieReviewSnippets": "movie"}
SHARES = {"amazon": 1 / 3, "movie": 2 / 3}
RATERS, LEAST, CLEAR = 15, 0.5, 1.5
DEVELOPMENT, GOLD = 12, 30  # the ends of two sides, of 100; seeds are behind
ALIKE, APART, COVERED = 0.3, 0.2, 0.4  # Jaccard on one side; Jaccard and coverage between two
SEEDS = Path(__file__).resolve().parent.parent / "recipes/seeds"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with the mean rating of its readers, -4 to 4; `review` is the number of the review that it is from."""

    source: str
    review: str
    text: str
    rating: float
    raters: int

    @property
    def label(self) -> str:
        return "positive" if self.rating > 0 else "negative"

    @property
    def words(self) -> str:
        return " ".join(re.findall(r"[a-z0-9']+", self.text.lower()))

    @property
    def grams(self) -> set[str]:
        """Its words three at a time, or all of them where there are fewer."""
        words = self.words.split()
        return {" ".join(words[at : at + 3]) for at in range(len(words) - 2)} or {self.words}

    @property
    def lot(self) -> str:
        """Where it stands in an order that has nothing to do with what it says."""
        return hashlib.sha256(f"{self.source[:5]}|{self.text}".encode()).hexdigest()

    @property
    def side(self) -> int:
        """0 to 99, the same for all sentences of a review."""
        return int(hashlib.sha256(repr((self.source[:5], self.review)).encode()).hexdigest(), 16) % 100


def download(folder: Path) -> Path:
    """Return the source package, fetched with pip, which compares the checksum before it looks inside."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "vaderSentiment"]
    subprocess.run([*pip, "--require-hashes", "--dest", str(folder), "-r", str(wanted)], check=True)
    return folder / "vaderSentiment-0.5.zip"


def read(package: Path) -> Iterator[Sentence]:
    """Yield the rated sentences of the package. Exits when it is another file than the one that is meant."""
    content = package.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        sys.exit(f"{package} is not the source package of {PACKAGE}: its sha256 is not {SHA256}")
    with zipfile.ZipFile(io.BytesIO(content)) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(INNER))) as inner:
        for name, source in SOURCES.items():
            raters = {line[0]: len(re.findall(r"-?\d+", line[3])) for line in _lines(inner, name, "anonDataRatings", 4)}
            for number, rating, text in _lines(inner, name, "GroundTruth", 3):
                yield Sentence(source, number.partition("_")[0], text.strip(), float(rating), raters.get(number, 0))


def _lines(archive: tarfile.TarFile, name: str, kind: str, columns: int) -> Iterator[list[str]]:
    file = archive.extractfile(f"hutto_ICWSM_2014/{name}_{kind}.txt")
    assert file is not None
    for line in file.read().decode("utf-8-sig").splitlines():  # there is a byte order mark
        if line.strip():
            yield line.split("\t", columns - 1)


def is_usable(sentence: Sentence) -> bool:
    """Whether a sentence is one to ask about, and its readers agree on the sign."""
    sized = 20 <= len(sentence.text) <= 180 and len(sentence.words.split()) >= 4
    return sized and abs(sentence.rating) >= LEAST and sentence.raters >= RATERS


class Near:
    """Finds which of the sentences it has been given are near another, by their shared 3-grams."""

    def __init__(self, sentences: Iterable[Sentence] = ()) -> None:
        self._grams: list[set[str]] = []
        self._holding: dict[str, list[int]] = defaultdict(list)
        for sentence in sentences:
            self.add(sentence)

    def add(self, sentence: Sentence) -> None:
        for gram in sentence.grams:
            self._holding[gram].append(len(self._grams))
        self._grams.append(sentence.grams)

    def has(self, sentence: Sentence, jaccard: float, coverage: float) -> bool:
        """Whether one is as near; coverage is the shared share of the shorter of the two, above 1 asks for none."""
        grams = sentence.grams
        shared = Counter(number for gram in grams for number in self._holding.get(gram, ()))
        return any(
            count / len(grams | self._grams[number]) >= jaccard
            or count / min(len(grams), len(self._grams[number])) >= coverage
            for number, count in shared.items()
        )


def without_duplicates(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Return the sentences of which none before is nearly the same."""
    kept, near = [], Near()
    for sentence in sentences:
        if not near.has(sentence, ALIKE, 2):
            kept.append(sentence)
            near.add(sentence)
    return kept


def apart_from(others: Iterable[Sentence], sentences: Iterable[Sentence]) -> list[Sentence]:
    """Return the sentences that are near none of the others."""
    near = Near(others)
    return [sentence for sentence in sentences if not near.has(sentence, APART, COVERED)]


@dataclass(frozen=True, slots=True)
class Sides:
    """All usable sentences, in the order of their lot."""

    development: list[Sentence]
    gold: list[Sentence]
    seeds: list[Sentence]


def divide(sentences: Iterable[Sentence]) -> Sides:
    """Return the sides, which have no review and no near-duplicate in common."""
    found: dict[str, Sentence] = {}
    for sentence in sorted(filter(is_usable, sentences), key=lambda each: each.lot):
        found.setdefault(sentence.words, sentence)
    development = [sentence for sentence in found.values() if sentence.side < DEVELOPMENT]
    gold = [sentence for sentence in found.values() if DEVELOPMENT <= sentence.side < GOLD]
    seeds = [sentence for sentence in found.values() if sentence.side >= GOLD]
    return Sides(
        without_duplicates(apart_from([*gold, *seeds], development)),
        without_duplicates(apart_from(seeds, gold)),
        without_duplicates(seeds),
    )


def cell(sentences: Iterable[Sentence], source: str, label: str) -> list[Sentence]:
    """Return the sentences of one source with one label."""
    return [each for each in sentences if (each.source, each.label) == (source, label)]


def balanced(sentences: Sequence[Sentence], count: int) -> list[Sentence]:
    """Return the first of each source and label, as many as the shares say, in the order of their lot."""
    taken: list[Sentence] = []
    for source, share in SHARES.items():
        for label in ("positive", "negative"):
            taken += cell(sentences, source, label)[: round(count * share / 2)]
    return sorted(taken, key=lambda each: each.lot)


def more_gold(side: Sequence[Sentence], count: int) -> list[Sentence]:
    """Return the film reviews of the gold side that are among neither the first nor the last `count`, in balance."""
    ends = {*balanced(side, count), *balanced(side[::-1], count)}
    rest = [each for each in side if each not in ends]
    positive, negative = (cell(rest, "movie", label) for label in ("positive", "negative"))
    least = min(len(positive), len(negative))
    return sorted([*positive[:least], *negative[:least]], key=lambda each: each.lot)


def seed(sentence: Sentence) -> dict[str, object]:
    return {"text": sentence.text, "source": sentence.source}


def gold(sentence: Sentence) -> dict[str, object]:
    group = "clear" if abs(sentence.rating) >= CLEAR else "graded"
    return {
        "text": sentence.text, "gold": sentence.label, "rating": round(sentence.rating, 2), "group": group,
        "source": sentence.source,
    }  # fmt: skip


def write(path: Path, sentences: Sequence[Sentence], columns: Callable[[Sentence], Mapping[str, object]]) -> None:
    """Write sentences as JSONL and say what there is."""
    lines = [json.dumps(columns(sentence), ensure_ascii=False) + "\n" for sentence in sentences]
    path.write_text("".join(lines), encoding="utf-8")
    counts = Counter(str(gold(sentence)[column]) for sentence in sentences for column in ("source", "gold", "group"))
    print(f"{path.name}: {len(sentences)} sentences, {path.stat().st_size:,} bytes, {dict(sorted(counts.items()))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--package", type=Path, help="the source package, when it is here already")
    parser.add_argument("--out", type=Path, default=SEEDS, help="the folder of the two files")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--gold", type=int, default=600)
    parser.add_argument("--development", type=Path, metavar="FILE", help="write 600 development sentences as well")
    parser.add_argument("--more-gold", type=Path, metavar="FILE", help="write the rest of the gold side as well")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = divide(read(args.package or download(Path(folder))))
    write(args.out / "sentences.jsonl", balanced(sides.seeds, args.seeds), seed)
    write(args.out / "sentences_gold.jsonl", balanced(sides.gold[::-1], args.gold), gold)
    if args.development is not None:
        write(args.development, balanced(sides.development, 600), gold)
    if args.more_gold is not None:
        write(args.more_gold, more_gold(sides.gold, args.gold), gold)


if __name__ == "__main__":
    main()
