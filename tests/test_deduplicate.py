"""Near-duplicates: the same rows are kept as by comparing all with all, however they come; indexes are saved and grow."""

import itertools
import os
import random
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import regex
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from distillgen.errors import Damaged, ExtraMissing
from distillgen.rows import Outcome, Rejection, Row
from distillgen.steps import near_index, nearest, semantic, similarity
from distillgen.steps.deduplicate import Deduplicate, Earlier, index_settings
from distillgen.steps.known import NO_GROUP, Group, IndexSettings, Known, group_of
from distillgen.steps.near_index import Filter, Segments, block_of
from distillgen.steps.near_saved import HEADER, KINDS, Index, index_of, open_index
from distillgen.steps.similarity import (
    PERMUTATIONS,
    SEED,
    Hashes,
    ShingleSets,
    band_keys,
    bands_for,
    fingerprints,
    jaccard,
    jaccards,
    signatures,
)
from distillgen.steps.text import normalise

PREAD = os.pread
SURE = (128, 1)  # bands that miss no pair that is worth the name
WORDS = [f"word{number}" for number in range(300)]


def row(number: int, text: object = "", **columns: object) -> Row:
    return Row(f"r{number}", "o", None, {"answer": text, **columns})


def rows_of(texts: Iterable[str]) -> list[Row]:
    return [row(number, text) for number, text in enumerate(texts)]


def sample(number: int, text: str, of: str, sample: int) -> Row:
    return Row(
        f"r{number}",
        "o",
        of,
        {"answer": text},
        ({"step": "1.generate", "sample": sample, "of": of}, {"step": "2.filter"}),
    )


def said(outcomes: Sequence[Outcome]) -> list[tuple[str, str] | None]:
    """Return rule and detail of every rejection, None for a row that is kept."""
    return [(each.rule, each.detail) if isinstance(each, Rejection) else None for each in outcomes]


def run(step: Deduplicate, rows: Sequence[Row], size: int = 4096) -> list[tuple[str, str] | None]:
    outcomes = [each for start in range(0, len(rows), size) for each in step(rows[start : start + size])]
    assert [each.row.id if isinstance(each, Rejection) else each.id for each in outcomes] == [each.id for each in rows]  # type: ignore[union-attr]
    step.close()
    return said(outcomes)


def words_of(text: str) -> list[str]:
    alone = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
    found: list[str] = regex.findall(
        rf"{alone}|(?:(?!{alone})[\p{{L}}\p{{N}}\p{{M}}_])+", unicodedata.normalize("NFKC", text).casefold()
    )
    return found


def grams(text: str, size: int = 3) -> set[tuple[str, ...]]:
    words = words_of(text)
    size = min(size, max(len(words), 1))
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)} if words else set()


def alike(left: set[tuple[str, ...]], right: set[tuple[str, ...]]) -> float:
    return len(left & right) / len(left | right) if left | right else 0.0


def shingles(text: str, words: int = 3) -> Hashes:
    return fingerprints([text], words=words).sets.hashes


def all_with_all(texts: Sequence[str], near: float | None, size: int = 3) -> list[tuple[str, str] | None]:
    """Compare every text with every one that was kept before, by sets of words."""
    kept: list[int] = []
    result: list[tuple[str, str] | None] = []
    sets = [grams(text, size) for text in texts]
    for number, text in enumerate(texts):
        equal = [other for other in kept if normalise(texts[other]) == normalise(text)]
        by_likeness = sorted((-alike(sets[other], sets[number]), other) for other in kept)
        if not normalise(text):
            result.append(None)
        elif equal:
            result.append(("exact_duplicate", f"of r{equal[0]}"))
        elif near is not None and by_likeness and -by_likeness[0][0] >= near:
            most, other = by_likeness[0]
            result.append(("near_duplicate", f"of r{other}, Jaccard {-most:.3f}"))
        else:
            result.append(None)
            kept.append(number)
    return result


def edited(text: str, changes: int, rng: random.Random) -> str:
    words = text.split()
    for _ in range(changes):
        words[rng.randrange(len(words))] = rng.choice(WORDS)
    return " ".join(words)


def corpus(seed: int, size: int) -> list[str]:
    """Return texts of which many are edited copies, or copies of copies, of earlier ones."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(size):
        if texts and rng.random() < 0.5:
            texts.append(edited(rng.choice(texts), rng.randrange(5), rng))
        else:
            texts.append(" ".join(rng.choices(WORDS, k=rng.randrange(1, 40))))
    return texts


few_words = st.lists(st.lists(st.sampled_from(["a", "B", "b", "c", "é", "漢"]), max_size=10).map(" ".join), max_size=25)


# What alike means


def mixed(value: int) -> int:
    """MurmurHash3's finaliser, number by number."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * factor % 2**64
    return value ^ value >> 33


def hash_of(*words: str) -> int:
    """Return the hash of a run of words, as saved indexes hold it: it must change with `similarity.VERSION` only."""
    total = len(words)
    for word in words:
        spelled = word.encode("utf-8", "surrogatepass")
        first, *others = [int.from_bytes(spelled[at : at + 8], "little") for at in range(0, len(spelled), 8)]
        hashed = mixed(first)
        for each in others:
            hashed = mixed(hashed * 0x9E3779B97F4A7C15 % 2**64 ^ each)
        if len(spelled) > 64:
            hashed = xxhash.xxh3_64_intdigest(spelled)
        total = (total * 0x9E3779B97F4A7C15 + hashed) % 2**64
    return mixed(total)


@given(st.text(max_size=60) | st.text(alphabet="aA1_ é́ßſﬁ漢ーｶ่ก\t\x1f\x85\u2028\u00a0!?’—\ud800", max_size=60))
def test_words_and_digests_are_those_of_the_definition(text: str) -> None:
    prints = fingerprints([text])
    assert prints.digests.tobytes() == xxhash.xxh3_128_digest(normalise(text).encode("utf-8", "surrogatepass"))
    assert prints.has_text[0] == bool(normalise(text))
    assert prints.sets.hashes.tolist() == sorted(hash_of(*gram) for gram in grams(text))


@given(st.lists(st.text(alphabet="ab é", max_size=30), max_size=12), st.integers(1, 5))
def test_texts_hash_alike_alone_and_together(texts: list[str], words: int) -> None:
    together = fingerprints(texts, words=words)
    for number, text in enumerate(texts):
        assert (together.sets.of(number) == shingles(text, words)).all()
        assert len(together.sets.of(number)) == len(grams(text, words))


def test_long_words_differ_to_the_last_letter() -> None:
    for length in (*range(1, 26), 63, 64, 65, 500):
        words = {"x" * place + "y" + "x" * (length - place - 1) for place in range(length)} | {
            "x" * length,
            "x" * (length + 1),
        }
        assert len({int(shingles(word)[0]) for word in words}) == len(words)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ice floats on water", "ice  FLOATS, on: water!"), ("ﬁnd the ﬂoor now", "find the floor now"),
        ("STRASSE ist lang hier", "straße ist lang hier"), ("he said “no” – twice", 'he said "no" - twice'),
        ("水面に氷が浮く", "水 面 に 氷 が 浮 く"), ("iPhone手机很好用", "iphone 手 机 很 好 用"),
    ],
)  # fmt: skip
def test_same_words_have_the_same_shingles(one: str, other: str) -> None:
    assert (shingles(one) == shingles(other)).all() and len(shingles(one)) > 1


def test_order_and_number_of_words_count() -> None:
    sets = [shingles(text) for text in ("a b c", "c b a", "a b", "b a", "a b c d", "a", "b")]
    assert len({each.tobytes() for each in sets}) == len(sets) and len(shingles("")) == len(shingles("?! …")) == 0


@given(st.lists(st.sets(st.integers(0, 40), max_size=30), min_size=1, max_size=12))
def test_jaccard_is_the_share_in_common(sets: list[set[int]]) -> None:
    arrays = [np.array(sorted(each), np.uint64) for each in sets]
    expected = [len(sets[0] & each) / len(sets[0] | each) if sets[0] | each else 0.0 for each in sets]
    assert jaccards(arrays[0], arrays) == expected == [jaccard(arrays[0], each) for each in arrays]


def test_signatures_are_datasketchs_own() -> None:
    from datasketch import MinHash

    rng = np.random.default_rng(5)
    sizes = [0, 1, 2, 0, 70_000, *rng.integers(0, 120, 3_000).tolist(), 0]
    hashes = rng.integers(0, 1 << 64, sum(sizes), dtype=np.uint64)
    signed = signatures(ShingleSets(hashes, np.cumsum(sizes)))
    few = signatures(ShingleSets(hashes, np.cumsum(sizes)), 35)
    empty = MinHash(num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)
    assert empty.scheme == "affine32"
    for number, part in enumerate(np.split(hashes, np.cumsum(sizes)[:-1])):
        theirs = empty.copy()
        theirs.update_batch((part & np.uint64(0xFFFFFFFF)).tolist())
        assert (signed[number] == theirs.hashvalues).all() and (few[number] == theirs.hashvalues[:35]).all()


def test_bands_find_pairs_at_the_threshold() -> None:
    assert bands_for(0.8) == (18, 7) and bands_for(0.7) == (25, 5)
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0):
        bands, rows = bands_for(threshold)
        assert bands * rows <= 128 and 1 - (1 - threshold**rows) ** bands >= 0.98


def test_bands_are_told_apart_and_depend_on_all_their_rows() -> None:
    signed = np.zeros((3, 6), np.uint32)
    signed[1, 5], signed[2, :] = 1, [0, 1, 0, 0, 0, 1]
    keys = band_keys(signed, 3, 2)
    assert len(set(keys[0].tolist())) == 3, "equal values in another band are another key"
    assert (keys[0] == keys[1]).tolist() == [True, True, False] and (keys[1] == keys[2]).tolist() == [False, True, True]


# Which rows are kept


@pytest.mark.parametrize("near", [0.5, 0.65, 0.8, 0.95, None])
@pytest.mark.parametrize("seed", [1, 2])
def test_keeps_what_comparing_all_with_all_keeps(near: float | None, seed: int) -> None:
    texts = corpus(seed, 250)
    expected = all_with_all(texts, near)
    bands = None if near is None else SURE
    for size in (1, 7, 250):
        assert run(Deduplicate("d", ["answer"], near, bands=bands), rows_of(texts), size) == expected
    assert any(expected) and not all(expected)


@settings(max_examples=60)
@given(few_words, st.floats(0.5, 0.95), st.integers(1, 25), st.integers(1, 4))
def test_agrees_with_the_definition_on_texts_of_few_words(
    texts: list[str], near: float, size: int, words: int
) -> None:  # fmt: skip
    step = Deduplicate("d", ["answer"], near, words=words, bands=SURE)
    assert run(step, rows_of(texts), size) == all_with_all(texts, near, words)


@settings(max_examples=30)
@given(st.integers(0, 99), st.lists(st.integers(1, 90), min_size=1, max_size=30), st.sampled_from([0.5, 0.8, None]))
def test_blocks_change_nothing(seed: int, sizes: list[int], near: float | None) -> None:
    rows = rows_of(corpus(seed, 200))
    step = Deduplicate("d", ["answer"], near)
    outcomes: list[Outcome] = []
    for size in itertools.cycle(sizes):
        if len(outcomes) == len(rows):
            break
        outcomes += step(rows[len(outcomes) : len(outcomes) + size])
    assert said(outcomes) == run(Deduplicate("d", ["answer"], near), rows, 200)
    step.close()


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (nearest, "CROWD", 5),
        (near_index, "BLOCK_CHARACTERS", 300),
        (similarity, "CHUNK_CHARACTERS", 100),
        (similarity, "CHUNK_SHINGLES", 20),
        (similarity, "MANY", 1),
        (near_index, "GAP", 0),
        (near_index, "PIECE_SHINGLES", 30),
        (near_index, "READ_BYTES", 24),
    ],
)
def test_limits_of_memory_change_nothing(
    module: object, name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(corpus(3, 300))
    expected = run(Deduplicate("d", ["answer"], 0.6), rows)
    assert hasattr(module, name)
    monkeypatch.setattr(module, name, value)
    assert run(Deduplicate("d", ["answer"], 0.6), rows, 100) == expected


@given(few_words)
def test_deduplicating_twice_equals_once(texts: list[str]) -> None:
    rows = rows_of(texts)
    kept = [each for each, why in zip(rows, run(Deduplicate("d", ["answer"], 0.5), rows), strict=True) if why is None]
    assert not any(run(Deduplicate("d", ["answer"], 0.5), kept))


def test_a_rejected_row_rejects_nobody() -> None:
    chain = [" ".join(WORDS[start : start + 60]) for start in (0, 5, 10)]
    assert run(Deduplicate("d", ["answer"], 0.8), rows_of(chain)) == [
        None,
        ("near_duplicate", "of r0, Jaccard 0.841"),
        None,
    ]


def test_the_most_alike_is_named_and_of_equals_the_earliest() -> None:
    base = " ".join(WORDS[:40])
    texts = [base + " " + " ".join(WORDS[100:120]), base + " " + " ".join(WORDS[120:140]), base + " x", base]
    whys = run(Deduplicate("d", ["answer"], 0.6), rows_of([texts[0], texts[1], texts[3]]))
    assert whys == [None, None, ("near_duplicate", f"of r0, Jaccard {38 / 58:.3f}")]
    whys = run(Deduplicate("d", ["answer"], 0.97), rows_of([texts[3], texts[2], texts[2] + " y"]), 1)
    assert whys == [None, ("near_duplicate", f"of r0, Jaccard {38 / 39:.3f}"), None]
    whys = run(Deduplicate("d", ["answer"], 0.9), rows_of([texts[2], "other words", texts[3], texts[2].upper()]))
    assert whys[2:] == [("near_duplicate", f"of r0, Jaccard {38 / 39:.3f}"), ("exact_duplicate", "of r0")]


def test_equal_after_normalisation() -> None:
    texts = ["Hello  World", "hello world\n", "hello, world", "ﬁne", "FINE", "e\u0301te", "ÉTÉ", "été"]
    whys = run(Deduplicate("d", ["answer"], None), rows_of(texts))
    assert whys == [
        None,
        ("exact_duplicate", "of r0"),
        None,
        None,
        ("exact_duplicate", "of r3"),
        None,
        None,
        ("exact_duplicate", "of r6"),
    ]


def test_rows_without_text_are_kept() -> None:
    rows = [*rows_of(["", " \n", "", "?!", "?!", "!?"]), Row("n", "o", None, {"answer": None}), Row("m", "o", None, {})]
    whys = run(Deduplicate("d", ["answer"], 0.5), rows)
    assert whys == [None, None, None, None, ("exact_duplicate", "of r3"), None, None, None]
    both = [row(0, "", prompt=" "), row(1, "", prompt=""), row(2, "", prompt="p"), row(3, "", prompt="p")]
    assert run(Deduplicate("d", ["answer", "prompt"], 0.5), both) == [None, None, None, ("exact_duplicate", "of r2")]


def test_several_columns_are_compared_together() -> None:
    long = " ".join(WORDS[:50])
    rows = [
        row(0, long, prompt="one two three"), row(1, long, prompt="four five six seven"), row(2, long, prompt="one two three"),
        row(3, "b c", prompt="a"), row(4, "c", prompt="a b"), row(5, {"k": [1]}, prompt="a"), row(6, '{"k":[1]}', prompt="A"),
    ]  # fmt: skip
    whys = run(Deduplicate("d", ["prompt", "answer"], 0.95), rows)
    assert whys[1:3] == [None, ("exact_duplicate", "of r0")]
    assert whys[3:5] == [None, ("near_duplicate", "of r3, Jaccard 1.000")], "the same words, but not equal columns"
    assert whys[5:] == [None, ("exact_duplicate", "of r5")]
    assert run(Deduplicate("d", ["prompt", "answer"], 0.8), rows)[1] == (
        "near_duplicate",
        f"of r0, Jaccard {48 / 55:.3f}",
    )


def test_samples_of_one_prompt_are_kept_unless_asked() -> None:
    text = " ".join(WORDS[:30])
    rows = [
        sample(0, text, "p", 0), sample(1, text, "p", 1), sample(2, text + " x", "p", 2), sample(3, text, "p", 1),
        sample(4, text, "q", 0), sample(5, text + " x", "q", 1),
    ]  # fmt: skip
    whys = [None, None, None, ("exact_duplicate", "of r1"), ("exact_duplicate", "of r0"), ("exact_duplicate", "of r2")]
    for size in (1, 2, 6):
        assert run(Deduplicate("d", ["answer"], 0.8), rows, size) == whys
        compared = run(Deduplicate("d", ["answer"], 0.8, samples="compare"), rows, size)
        assert compared == [
            None, ("exact_duplicate", "of r0"), ("near_duplicate", f"of r0, Jaccard {28 / 29:.3f}"),
            ("exact_duplicate", "of r0"), ("exact_duplicate", "of r0"), ("near_duplicate", f"of r0, Jaccard {28 / 29:.3f}"),
        ]  # fmt: skip


def test_the_group_is_that_of_the_last_record_with_a_sample() -> None:
    first = {"step": "1.generate", "sample": 2, "of": "p"}
    assert group_of([{"step": "1.filter"}]) == NO_GROUP
    assert group_of([first, {"step": "2.filter"}]).sample == 2 and group_of([first]).of
    last = group_of([first, {"step": "3.generate", "sample": 5, "of": "p.2"}])
    assert last.sample == 5 and last.of != group_of([first]).of
    assert group_of([{**first, "step": "3.generate"}]).of != group_of([first]).of


@pytest.mark.parametrize("change", [lambda n: "", lambda n: WORDS[n % 300]], ids=["equal", "nearly equal"])
def test_a_big_bucket_is_no_more_work_than_others(change: Callable[[int], str]) -> None:
    texts = [" ".join(WORDS[:80]) + " " + change(number) for number in range(5_000)]
    whys = run(Deduplicate("d", ["answer"], 0.8), rows_of(texts))
    assert whys[0] is None and all(why and " of r0" in f" {why[1]}" for why in whys[1:])


def test_ten_megabytes_of_text() -> None:
    rng = random.Random(1)
    text = " ".join(rng.choices(WORDS, k=1_500_000))
    assert len(text) > 10_000_000
    texts = [
        text,
        "short",
        text.upper(),
        text + " and so on",
        "x" * 10_000_000,
        "x" * 9_999_999 + "y",
        "漢" * 3_000_000,
    ]
    whys = run(Deduplicate("d", ["answer"], 0.8), rows_of(texts))
    assert whys[2] == ("exact_duplicate", "of r0") and whys[3] == ("near_duplicate", "of r0, Jaccard 1.000")
    assert [why is None for why in whys] == [True, True, False, False, True, True, True]


def test_text_that_no_utf8_can_hold() -> None:
    whys = run(Deduplicate("d", ["answer"], 0.8), rows_of(["a \ud800 b", "a \ud800 b", "a \udfff b"]))
    assert whys == [None, ("exact_duplicate", "of r0"), ("near_duplicate", "of r0, Jaccard 1.000")]


def traces(count: int) -> list[str]:
    """Return long texts that have much in common, each with each, but not enough to be the same."""
    common = " ".join(f"c{number}" for number in range(2_000))
    return [f"{common} {' '.join(f'own{text}x{number}' for number in range(300))}" for text in range(count)]


@pytest.mark.parametrize("size", [1, 100])
def test_long_texts_with_much_in_common_are_read_in_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """17,000 kept traces of 16,000 words were read all at once for a single row."""
    rows = rows_of([*traces(60), traces(61)[60], traces(31)[30] + " more"])
    expected = [None] * 61 + [("near_duplicate", "of r30, Jaccard 1.000")]
    assert run(Deduplicate("d", ["answer"], 0.8, bands=SURE), rows) == expected
    read: list[int] = []

    def pread(handle: int, count: int, start: int) -> bytes:
        read.append(count)
        return PREAD(handle, count, start)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(near_index, "PIECE_SHINGLES", 10_000)
    assert run(Deduplicate("d", ["answer"], 0.8, bands=SURE), rows, size) == expected
    assert 2_000 * 8 < max(read) <= 10_000 * 8, "more than a row, but never all of them"


def test_a_read_that_stops_early_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """One read gives two gigabytes at most, and that was taken for damage."""
    monkeypatch.setattr(os, "pread", lambda handle, count, start: PREAD(handle, min(count, 1_000), start))
    text = traces(1)[0]
    assert run(Deduplicate("d", ["answer"], 0.8), [row(0, text), row(1, text + " more")], 1) == [
        None,
        ("near_duplicate", f"of r0, Jaccard {2298 / 2299:.3f}"),
    ]


def test_planted_pairs_are_found() -> None:
    rng = random.Random(11)
    pairs, found = 0, 0
    for _ in range(20):
        texts = [" ".join(rng.choices(WORDS, k=60)) for _ in range(100)]
        copies = [edited(text, rng.randrange(1, 3), rng) for text in texts]
        alike_enough = [alike(grams(text), grams(copy)) >= 0.8 for text, copy in zip(texts, copies, strict=True)]
        whys = run(Deduplicate("d", ["answer"], 0.8), rows_of([*texts, *copies]))[100:]
        assert not any(why and not enough for why, enough in zip(whys, alike_enough, strict=True)), "none in error"
        pairs += sum(alike_enough)
        found += sum(why is not None for why in whys)
    assert pairs > 500 and found / pairs >= 0.99


# The index


@given(st.lists(st.lists(st.integers(0, (1 << 35) - 1), min_size=1, max_size=40), max_size=30))
def test_segments_find_what_was_added_and_stay_few(blocks: list[list[int]]) -> None:
    segments, everything = Segments(), set()
    for number, block in enumerate(blocks):
        keys = np.sort(np.array(sorted(set(block)), np.uint64) << np.uint64(29))
        segments.add(keys | np.uint64(number))
        everything |= {(key, number) for key in set(block)}
    wanted = sorted({key for key, _ in everything} | {7, 1 << 34})
    asked = np.array(wanted, np.uint64) << np.uint64(29) | np.arange(len(wanted), dtype=np.uint64)
    rows, numbers = segments.find(asked, 1 << 30)
    assert {(wanted[row], number) for row, number in zip(rows.tolist(), numbers.tolist(), strict=True)} == everything
    assert len(rows) == len(everything) == len(segments) and (np.diff(segments.merged().astype(object)) >= 0).all()
    assert len(segments._segments) <= 2 + len(everything).bit_length()


def test_the_filter_lets_few_strangers_through() -> None:
    rng = np.random.default_rng(1)
    there, strangers = (np.sort(rng.integers(0, 1 << 64, 50_000, dtype=np.uint64)) for _ in range(2))
    seen = Filter.of([there], len(there))
    assert len(seen.passed(there)) == len(there) and len(seen.passed(strangers)) < 0.15 * len(strangers)


def known_of(texts: Sequence[str], group: Group = NO_GROUP) -> list[Known]:
    return [Known(f"r{number}", (text,), group) for number, text in enumerate(texts)]


SETTINGS = index_settings(["answer"], 0.8)


def saved(folder: Path, texts: Sequence[str], settings: IndexSettings = SETTINGS) -> Index:
    """Deduplicate texts, save the index of those that are kept, and open it."""
    step = Deduplicate("d", ["answer"], 0.8 if settings.words else None, words=settings.words or 3)
    published = {each.id for each in step(rows_of(texts)) if isinstance(each, Row)}
    step.save(folder, published)
    step.close()
    opened = open_index(folder, settings)
    assert opened is not None
    return opened


def test_a_saved_index_rejects_as_the_run_did(tmp_path: Path) -> None:
    texts = corpus(4, 500)
    whole = run(Deduplicate("d", ["answer"], 0.8), rows_of(texts))
    for size in (1, 200):
        index = saved(tmp_path / str(size), texts[:300])
        assert len(index) == whole[:300].count(None)
        step = Deduplicate("d", ["answer"], 0.8, earlier=[Earlier(index)])
        assert run(step, rows_of(texts)[300:], size) == whole[300:]


def test_earlier_rows_are_named_as_the_caller_says_and_come_first(tmp_path: Path) -> None:
    text = " ".join(WORDS[:40])
    old = saved(tmp_path / "old", ["something else", text])
    filled = index_of([Known("17", (text + " x",)), Known("18", ("yes",))], SETTINGS, tmp_path)
    step = Deduplicate("d", ["answer"], 0.8, earlier=[Earlier(filled, "old.jsonl:"), Earlier(old, "demo@2/")])
    whys = run(step, rows_of([text, text + " X", text + " y", "Yes", "no", "no"]))
    assert whys == [
        ("exact_duplicate", "of demo@2/r1"), ("exact_duplicate", "of old.jsonl:17"),
        ("near_duplicate", f"of demo@2/r1, Jaccard {38 / 39:.3f}"), ("exact_duplicate", "of old.jsonl:18"), None,
        ("exact_duplicate", "of r4"),
    ]  # fmt: skip
    old.close()
    filled.close()


def test_earlier_rows_are_not_compared_with_each_other(tmp_path: Path) -> None:
    chain = [" ".join(WORDS[start : start + 60]) for start in (0, 5, 10)]
    filled = index_of(known_of([chain[0], chain[0], chain[1]]), SETTINGS)
    assert len(filled) == 2, "of equal ones the first will do"
    step = Deduplicate("d", ["answer"], 0.8, earlier=[Earlier(filled)])
    assert run(step, [row(9, chain[2])]) == [("near_duplicate", "of r2, Jaccard 0.841")]
    filled.close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("near", [0.8, None])
def test_a_saved_index_is_the_one_that_a_rebuild_makes(tmp_path: Path, near: float | None) -> None:
    texts = ["", *corpus(5, 300), " ", "", *corpus(8, 300), ""]
    rows = [*rows_of(texts), sample(700, texts[5], "p", 1), sample(701, texts[5] + " x", "p", 2)]
    step = Deduplicate("d", ["answer"], near)
    kept = [
        each for start in range(0, len(rows), 50) for each in step(rows[start : start + 50]) if isinstance(each, Row)
    ]
    published = [each for number, each in enumerate(kept) if number % 7]
    step.save(tmp_path / "saved", {each.id for each in published})
    rebuilt = index_of(
        (Known(each.id, (each.columns["answer"],), group_of(each.trail)) for each in published), step.settings
    )
    again = Deduplicate("d", ["answer"], near)
    again._part = rebuilt.parts[0]
    again.save(tmp_path / "rebuilt", {each.id for each in published})
    assert files_of(tmp_path / "saved") == files_of(tmp_path / "rebuilt") and len(files_of(tmp_path / "saved")) == 7
    opened = open_index(tmp_path / "saved", step.settings)
    assert opened is not None and [name for part in opened.parts for name in part.names()] == [
        each.id for each in published if each.columns["answer"].strip()
    ]
    for each in (step, again, opened):
        each.close()


def test_rows_are_known_by_their_texts_as_they_were_kept() -> None:
    step = Deduplicate("d", ["answer", "note"], 0.8)
    rows = [row(0, "one two three", note="a"), row(1, "four five six", note="b"), row(2, "", note="")]
    assert said(step(rows)) == [None] * 3
    marks = [step.mark(each.id, each) for each in rows]
    assert marks[2] == b"" and len({*marks}) == 3
    assert step.published({*marks[:2]}) == {"r0", "r1"} and step.published({marks[1]}) == {"r1"}
    assert step.mark("r0", row(7, "ONE  two three", note="a")) == marks[0], "what counts is the same"
    changed = step.mark("r0", row(0, "[NAME] two three", note="a"))
    assert step.published({changed}) is None and step.published({*marks[:2], changed}) is None
    assert step.mark("r0", row(0, "one two three", note="c")) != marks[0] != step.mark("r1", rows[0])
    assert step.published({step.mark("r2", row(2, "new", note=""))}) is None
    step.close()


def test_an_index_grows_by_links_and_a_part(tmp_path: Path) -> None:
    texts = corpus(6, 900)
    whole = run(Deduplicate("d", ["answer"], 0.8), rows_of(texts))
    rows = rows_of(texts)
    index, folder, start = None, tmp_path / "v0", 0
    parts = []
    for number, stop in enumerate((600, 650, 700, 720, 900)):
        step = Deduplicate("d", ["answer"], 0.8, earlier=[Earlier(index)] if index else [])
        outcomes = step(rows[start:stop])
        assert said(outcomes) == whole[start:stop]
        folder = tmp_path / f"v{number}"
        step.save(folder, {each.id for each in outcomes if isinstance(each, Row)}, index)
        if index is not None:
            first = index.header["parts"][0]["name"] if index.header else ""
            linked = [tmp_path / f"v{number - 1}" / f"{first}.{kind}" for kind in KINDS]
            assert stop == 900 or all(path.stat().st_nlink > 1 for path in linked), (
                "the large old part is not written again"
            )
            index.close()
        step.close()
        index = open_index(folder, SETTINGS)
        assert index is not None and len(index) == whole[:stop].count(None)
        parts.append([len(part) for part in index.parts])
        start = stop
    assert [len(each) for each in parts[:3]] == [1, 2, 2] and parts[2][1] > parts[1][1], "small parts are put together"
    assert index is not None
    index.close()


def test_growing_in_place_removes_what_is_no_longer_named(tmp_path: Path) -> None:
    index = saved(tmp_path, [" ".join(WORDS[start : start + 30]) for start in range(0, 60, 30)])
    step = Deduplicate("d", ["answer"], 0.8, earlier=[Earlier(index)])
    step([row(number, " ".join(WORDS[start : start + 30])) for number, start in enumerate(range(90, 300, 30))])
    (tmp_path / ".part.left-by-a-crash").write_bytes(b"x")
    step.save(tmp_path, {f"r{number}" for number in range(7)}, index)
    assert len(list(tmp_path.iterdir())) == 7
    again = open_index(tmp_path, SETTINGS)
    assert again is not None and len(again) == 9 and len(again.parts) == 1
    for each in (index, step, again):
        each.close()


def test_an_empty_index(tmp_path: Path) -> None:
    step = Deduplicate("d", ["answer"], 0.8)
    step.save(tmp_path, [])
    step.close()
    opened = open_index(tmp_path, SETTINGS)
    assert opened is not None and len(opened) == 0
    assert run(Deduplicate("d", ["answer"], 0.8, earlier=[Earlier(opened)]), rows_of(["a", "a"])) == [
        None,
        ("exact_duplicate", "of r0"),
    ]
    opened.close()


@pytest.mark.parametrize(
    "other",
    [
        index_settings(["prompt"], 0.8), index_settings(["answer"], 0.7), index_settings(["answer"], 0.8, words=5),
        index_settings(["answer"], None), index_settings(["answer"], 0.8, bands=(9, 13)),
    ],
)  # fmt: skip
def test_an_index_made_otherwise_is_of_no_use(tmp_path: Path, other: IndexSettings) -> None:
    saved(tmp_path, corpus(1, 20)).close()
    assert open_index(tmp_path, other) is None
    again = open_index(tmp_path, SETTINGS)
    assert again is not None
    again.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"parts": []}', b'{"format": 2}', b"\xff"])
def test_a_damaged_header_is_no_index(tmp_path: Path, content: bytes) -> None:
    saved(tmp_path, corpus(1, 20)).close()
    (tmp_path / HEADER).write_bytes(content)
    assert open_index(tmp_path, SETTINGS) is None


def test_another_version_of_the_format_or_of_the_hashes_is_no_index(tmp_path: Path) -> None:
    saved(tmp_path, corpus(1, 20)).close()
    header = (tmp_path / HEADER).read_bytes()
    for old, new in (
        (b'"format":1', b'"format":2'),
        (b'"similarity":1', b'"similarity":0'),
        (b'"seed":1', b'"seed":2'),
    ):
        assert old in header
        (tmp_path / HEADER).write_bytes(header.replace(old, new))
        assert open_index(tmp_path, SETTINGS) is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vectors"])  # which are empty here
@pytest.mark.parametrize("harm", ["torn", "gone", "longer"])
def test_a_file_that_is_not_whole_is_no_index(tmp_path: Path, kind: str, harm: str) -> None:
    saved(tmp_path, corpus(1, 50)).close()
    (path,) = tmp_path.glob(f"*.{kind}")
    content = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes(content[:-1] if harm == "torn" else content + b"x")
    assert open_index(tmp_path, SETTINGS) is None


@pytest.mark.parametrize("kind", ["entries", "filter", "records", "names"])
def test_a_flipped_bit_is_no_index(tmp_path: Path, kind: str) -> None:
    saved(tmp_path, corpus(1, 50)).close()
    flip(tmp_path, kind)
    assert open_index(tmp_path, SETTINGS) is None


def flip(folder: Path, kind: str) -> None:
    (path,) = folder.glob(f"*.{kind}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink()
    path.write_bytes(content)


def test_flipped_bits_of_shingles_are_seen_when_they_are_used(tmp_path: Path) -> None:
    text = " ".join(WORDS[:40])
    saved(tmp_path, [text]).close()
    flip(tmp_path, "shingles")
    opened = open_index(tmp_path, SETTINGS)
    assert opened is not None
    step = Deduplicate("d", ["answer"], 0.8, earlier=[Earlier(opened)])
    with pytest.raises(Damaged, match="not what was written"):
        step([row(1, text + " x")])
    for each in (opened, step):
        each.close()


def test_the_spool_leaves_nothing_behind(tmp_path: Path) -> None:
    step = Deduplicate("d", ["answer"], 0.8, spool=tmp_path / "spool")
    step(rows_of(corpus(1, 20)))
    assert list((tmp_path / "spool").iterdir()) == [], "its files have no names"
    step.close()
    assert not [name for name in os.listdir("/proc/self/fd") if "spool" in os.path.realpath(f"/proc/self/fd/{name}")]


def test_blocks_hold_no_rows_that_are_not_theirs() -> None:
    block = block_of(known_of(["a b c d", "", "e"]), SETTINGS)
    assert len(block.entries) == 2 * 19 and (np.diff(block.entries.astype(object)) > 0).all()
    assert block.has_text.tolist() == [True, False, True]


# Meaning

SENTENCES = [
    "Ice floats because water expands as it freezes, which makes ice less dense than liquid water.",
    "Since water expands on freezing, ice has a lower density than liquid water, and floats.",
    "The stock market fell two percent on Monday.",
    "On Monday the stock market fell by two percent.",
    "Write a Python function that adds two numbers.",
    "Write a Python function which adds two numbers together.",
    "ICE floats because water expands as it freezes, which makes ice less dense than liquid water!",
    "",
    "Shares dropped two percent on Monday as the stock market fell.",
    "a \ud800 b",
]


def by_meaning(texts: Sequence[str], meaning: float) -> list[tuple[str, str] | None]:
    """Compare every text with every one that was kept before, by the cosine of their vectors."""
    vectors = semantic.embed(texts).astype(np.int64)
    kept: list[int] = []
    result: list[tuple[str, str] | None] = []
    for number, mine in enumerate(vectors):
        best = (0.0, 0)
        for other in kept:
            cosine = float(mine @ vectors[other] / np.sqrt(mine @ mine * (vectors[other] @ vectors[other])))
            best = max(best, (cosine, -other))
        result.append(("semantic_duplicate", f"of r{-best[1]}, cosine {best[0]:.3f}") if best[0] >= meaning else None)
        if result[-1] is None and mine.any():
            kept.append(number)
    return result


@pytest.mark.skipif(not find_spec("wordllama"), reason="needs the extra `semantic`")
class TestMeaning:
    @pytest.mark.parametrize("meaning", [0.6, 0.8, 0.95, 1.0])
    def test_keeps_what_comparing_all_with_all_keeps(self, meaning: float, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = random.Random(2)
        texts = list(
            dict.fromkeys(
                " ".join(rng.sample(each.split(), k=max(1, len(each.split()) - rng.randrange(6))))
                for each in SENTENCES * 12
                if each
            )
        )
        expected = by_meaning(texts, meaning)
        for size in (1, 7, 200):
            assert run(Deduplicate("d", ["answer"], None, meaning=meaning), rows_of(texts), size) == expected
        monkeypatch.setattr(semantic, "ROWS", 5)
        monkeypatch.setattr(nearest, "CROWD", 20)
        assert run(Deduplicate("d", ["answer"], None, meaning=meaning), rows_of(texts)) == expected
        assert (any(expected) or meaning == 1.0) and not all(expected)

    def test_what_is_nearly_equal_goes_before_what_means_the_same(self) -> None:
        whys = run(Deduplicate("d", ["answer"], 0.8, meaning=0.8), rows_of([*SENTENCES, SENTENCES[0]]))
        assert whys[6] == ("near_duplicate", "of r0, Jaccard 1.000") and whys[10] == ("exact_duplicate", "of r0")
        assert [why and why[0] for why in whys[:6]] == [None, "semantic_duplicate"] * 3
        assert whys[1] and whys[1][1].startswith("of r0, cosine 0.8") and whys[7] is None

    def test_samples_are_kept_and_earlier_rows_compared(self, tmp_path: Path) -> None:
        rows = [
            sample(0, SENTENCES[0], "p", 0),
            sample(1, SENTENCES[1], "p", 1),
            sample(2, SENTENCES[1] + " Yes.", "q", 0),
        ]
        step = Deduplicate("d", ["answer"], None, meaning=0.8)
        whys = said(step(rows))
        assert whys[:2] == [None, None] and whys[2] and whys[2][1].startswith("of r1, cosine 0.9")
        step.save(tmp_path, {"r0", "r1"})
        opened = open_index(tmp_path, step.settings)
        assert opened is not None and opened.parts[0].vectors.shape == (2, semantic.DIMENSIONS)
        later = Deduplicate("d", ["answer"], None, meaning=0.8, earlier=[Earlier(opened, "demo@1/")])
        whys = run(later, [row(5, SENTENCES[1] + " Yes."), row(6, SENTENCES[2])])
        assert whys[0] and whys[0][1].startswith("of demo@1/r1, cosine 0.9") and whys[1] is None
        opened.close()
        step.close()
        flip(tmp_path, "vectors")
        assert open_index(tmp_path, step.settings) is None

    def test_a_row_is_known_by_what_it_means_too(self) -> None:
        step = Deduplicate("d", ["answer"], None, meaning=0.9)
        assert said(step([row(0, SENTENCES[0])])) == [None]
        assert step.published({step.mark("r0", row(0, SENTENCES[0]))}) == {"r0"}
        assert step.published({step.mark("r0", row(0, SENTENCES[0].upper()))}) is None
        step.close()

    def test_a_long_text_and_many_have_the_vectors_that_each_has_alone(self) -> None:
        texts = [*SENTENCES, " ".join(SENTENCES[:6] * 300)]
        together = semantic.embed(texts)
        assert all((semantic.embed([text])[0] == each).all() for text, each in zip(texts, together, strict=True))
        assert not together[7].any() and np.abs(together).max() == semantic.LARGEST


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordllama", None)
    with pytest.raises(ExtraMissing) as caught:
        Deduplicate("d", ["answer"], None, meaning=0.9)
    assert "pip install 'distillgen[semantic]'" in str(caught.value)
