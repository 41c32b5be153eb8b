"""The sentences of the recipe `sentiment`: what is shipped, and the script that made it."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, clean_environment

from distillgen.files import read_jsonl

sys.path.insert(0, str(REPOSITORY / "bench"))
import sentences
from sentences import Near, Sentence

SEEDS = REPOSITORY / "recipes" / "seeds"


def shipped(name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(SEEDS / name))


def rated(text: str, rating: float = 2.0, *, source: str = "movie", review: str = "1", raters: int = 20) -> Sentence:
    return Sentence(source, review, text, rating, raters)


# -- what is shipped -------------------------------------------------------------------------------------------------


def test_seeds_carry_no_human_label() -> None:
    rows = shipped("sentences.jsonl")
    assert len(rows) == 1000 and all(row.keys() == {"text", "source"} for row in rows)
    assert {row["source"] for row in rows} == {"amazon", "movie"}


def test_gold_is_balanced_and_holds_graded_sentences() -> None:
    rows = shipped("sentences_gold.jsonl")
    assert 500 <= len(rows) <= 600
    assert Counter(row["gold"] for row in rows) == {"positive": len(rows) / 2, "negative": len(rows) / 2}
    assert Counter(row["source"] for row in rows) == {"amazon": len(rows) / 3, "movie": 2 * len(rows) / 3}
    assert Counter(row["group"] for row in rows)["graded"] >= 150
    for row in rows:
        assert row.keys() == {"text", "gold", "rating", "group", "source"}
        assert (row["rating"] > 0) == (row["gold"] == "positive") and abs(row["rating"]) >= 0.5
        # Ratings are shipped with two decimals: 1.496 shows as 1.5.
        assert row["group"] == ("clear" if abs(row["rating"]) >= 1.5 else "graded") or abs(row["rating"]) == 1.5


def test_no_gold_sentence_is_near_a_seed_or_another() -> None:
    seeds, gold = (
        [rated(row["text"]) for row in shipped(name)] for name in ("sentences.jsonl", "sentences_gold.jsonl")
    )
    assert sentences.apart_from(seeds, gold) == gold
    assert sentences.without_duplicates(gold) == gold and sentences.without_duplicates(seeds) == seeds


def test_the_files_are_small_and_their_licence_lies_beside_them() -> None:
    assert sum((SEEDS / name).stat().st_size for name in ("sentences.jsonl", "sentences_gold.jsonl")) < 250_000
    licence = (SEEDS / "sentences.LICENSE").read_text()
    for words in ("Copyright (c) 2014 cjhutto", "Hutto, C.J. & Gilbert, E.E. (2014)", "rotten.tomatoes", "Hu & Liu"):
        assert words in licence


# -- the script ------------------------------------------------------------------------------------------------------

WORDS = [
    "alder",
    "birch",
    "cedar",
    "dogwood",
    "elder",
    "fir",
    "gum",
    "hazel",
    "iroko",
    "juniper",
    "kauri",
    "larch",
    "maple",
    "nutmeg",
    "oak",
    "pine",
]


def line_of(number: int) -> str:
    """Return a sentence of seven words that shares three in a row with few others."""
    return f"{' '.join(WORDS[(number >> 3 * at) % 16] + str(number * 7 + at) for at in range(6))} ends here."


def package(path: Path, *, movie: list[tuple[str, str, str]], amazon: list[tuple[str, str, str]]) -> Path:
    """Write a package as the real one is: a tar in a zip, tables with a byte order mark and CRLF."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name, rows in (("movieReviewSnippets", movie), ("amazonReviewSnippets", amazon)):
            truth = "".join(f"{number}\t{rating}\t{text}\r\n" for number, rating, text in rows)
            raters = "".join(f"{number}\t{rating}\t0.9\t{[1] * 20}\r\n" for number, rating, _ in rows)
            for kind, table in (("GroundTruth", truth), ("anonDataRatings", raters)):
                content = table.encode("utf-8-sig")
                member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_{kind}.txt")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr(sentences.INNER, inner.getvalue())
    return path


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sentence]:
    """Sentences of a package of 600 film sentences and of 300 product sentences, ten to a review."""
    movie = [(str(n), f"{2.0 if n % 2 else -1.0}", line_of(n)) for n in range(1, 601)]
    amazon = [(f"{n // 10}_{n % 10}", f"{1.0 if n % 2 else -2.0}", line_of(5000 + n)) for n in range(300)]
    file = package(tmp_path / "made.zip", movie=movie, amazon=amazon)
    monkeypatch.setattr(sentences, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return list(sentences.read(file))


def test_a_package_is_read_with_its_ratings(made: list[Sentence]) -> None:
    assert len(made) == 900
    first = next(each for each in made if each.source == "movie")
    assert (first.review, first.rating, first.raters, first.text) == ("1", 2.0, 20, line_of(1))
    product = next(each for each in made if each.source == "amazon" and each.text == line_of(5012))
    assert product.review == "1", "sentences of a review know it"


def test_another_package_is_refused(tmp_path: Path) -> None:
    file = package(tmp_path / "other.zip", movie=[], amazon=[])
    done = subprocess.run(
        [sys.executable, REPOSITORY / "bench/sentences.py", "--package", file, "--out", tmp_path],
        env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "is not the source package of vaderSentiment==0.5" in done.stderr
    assert not (tmp_path / "sentences.jsonl").exists()


def test_a_review_is_on_one_side_only(made: list[Sentence]) -> None:
    sides = sentences.divide(made)
    reviews = [{(each.source, each.review) for each in side} for side in (sides.development, sides.gold, sides.seeds)]
    assert all(reviews) and not reviews[0] & reviews[1] and not (reviews[0] | reviews[1]) & reviews[2]
    assert len(sides.seeds) > len(sides.gold) > len(sides.development)


def test_the_order_of_the_package_does_not_matter(made: list[Sentence]) -> None:
    assert sentences.divide(made) == sentences.divide(made[::-1])


def test_more_sentences_are_the_same_ones_and_others(made: list[Sentence]) -> None:
    seeds = sentences.divide(made).seeds
    few, many = sentences.balanced(seeds, 60), sentences.balanced(seeds, 120)
    assert len(few) == 60 and set(few) < set(many)
    assert Counter((each.source, each.label) for each in few) == {
        ("amazon", "positive"): 10, ("amazon", "negative"): 10, ("movie", "positive"): 20, ("movie", "negative"): 20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "counts"),
    [
        (rated("a film to be seen again"), True),
        (rated("a film to be seen again", 0.49), False),
        (rated("a film to be seen again", -0.5), True),
        (rated("a film to be seen again", raters=14), False),
        (rated("magnificently entertaining film"), False),
        (rated("see it with me now"), False),
        (rated("long " * 40), False),
    ],
    ids=["usable", "sign-unclear", "just-clear-enough", "few-raters", "three-words", "short", "long"],
)
def test_what_counts(sentence: Sentence, counts: bool) -> None:
    assert sentences.is_usable(sentence) == counts


def test_near_is_jaccard_or_coverage() -> None:
    near = Near([rated("one two three four five six seven")])  # five 3-grams
    half = rated("one two three four five and then some")  # six, three of them shared: 3 / 8
    assert near.has(half, 3 / 8, 2) and not near.has(half, 0.38, 2)
    inside = rated("five six seven")
    assert near.has(inside, 2, 1.0) and not near.has(inside, 0.3, 2)
    assert not near.has(rated("seven six five four"), 0.01, 0.01)


def test_a_gold_sentence_near_a_seed_goes(made: list[Sentence]) -> None:
    sides = sentences.divide(made)
    copy = sides.seeds[0].text.replace(" ends here.", " ends there, they say.")
    review = next(str(n) for n in range(10_000, 11_000) if 12 <= rated("", review=str(n)).side < 30)
    planted = rated(copy, review=review)
    again = sentences.divide([*made, planted])
    assert planted.side in range(12, 30) and planted not in again.gold and again.seeds == sides.seeds
    assert again.gold == sides.gold


def test_more_gold_is_the_middle_of_its_side_and_balanced(made: list[Sentence]) -> None:
    side = sentences.divide(made).gold
    first, last, more = sentences.balanced(side, 30), sentences.balanced(side[::-1], 30), sentences.more_gold(side, 30)
    assert more and not {*more} & {*first, *last} and {*more} < {*side}
    assert {each.source for each in more} == {"movie"} and len({each.text for each in more}) == len(more)
    assert Counter(each.label for each in more) == {"positive": len(more) / 2, "negative": len(more) / 2}


def test_gold_and_development_do_not_meet(made: list[Sentence], tmp_path: Path) -> None:
    sides = sentences.divide(made)
    sentences.write(tmp_path / "gold.jsonl", sentences.balanced(sides.gold[::-1], 30), sentences.gold)
    sentences.write(tmp_path / "development.jsonl", sentences.balanced(sides.development, 30), sentences.gold)
    gold, development = (
        {json.loads(line)["text"] for line in (tmp_path / name).read_text().splitlines()}
        for name in ("gold.jsonl", "development.jsonl")
    )
    assert len(gold) == len(development) == 30 and not gold & development
