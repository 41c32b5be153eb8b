"""What must hold of any versions: rows keep their split, are loaded as they were published, and a diff is all of it."""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import Project
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import Loopback, answer
from test_mix import synthetic
from till import priced

from distillgen.dataset.compare import compare_rows
from distillgen.dataset.looking import training_rows
from distillgen.dataset.versions import Version, find_version
from distillgen.report.figures import comparison_as_json
from distillgen.upkeep.check import check_version

SPLITS = ("train", "validation", "test")
Placed = tuple[str, str, Mapping[str, Any]]  # id, split, and what the student sees


def placed(version: Version) -> list[tuple[str, dict[str, Any]]]:
    """Return split and row of every row of a version."""
    return [(split, row) for split in version.split_names() for row in training_rows(version, split)]


def counted(rows: Iterable[tuple[str, dict[str, Any]]]) -> Counter[tuple[str, bytes]]:
    return Counter((split, orjson.dumps(row)) for split, row in rows)


def patched(old: Version, new: Version, diff: Mapping[str, Any]) -> Counter[tuple[str, bytes]]:
    """Apply a diff to the rows of `old`: drop those of the ids that it names, and take those of `new` for them."""
    named = {row_id for kind in ("added", "removed", "changed") for row_id in diff["ids"][kind]}
    kept = [each for each in placed(old) if each[1]["id"] not in named]
    return counted(kept + [each for each in placed(new) if each[1]["id"] in named])


# -- publish, then load ------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}),
    min_size=1, max_size=3,
)  # fmt: skip
shapes = st.sampled_from([("messages",), ("prompt", "chosen", "rejected")])


@st.composite
def published_rows(draw: st.DrawFn) -> list[Placed]:
    """Draw rows of one shape, with ids of their own, in any splits, with any text."""
    names, with_reasoning = draw(shapes), draw(st.booleans())
    columns = dict.fromkeys(names, turns) | ({"reasoning": texts} if with_reasoning else {})
    row = st.tuples(st.sampled_from(SPLITS), st.fixed_dictionaries(columns))
    return [(f"r{number:03d}", *each) for number, each in enumerate(draw(st.lists(row, max_size=12)))]


@settings(max_examples=60, deadline=None)
@given(published_rows())
def test_publish_then_load_gives_the_same_rows(rows: list[Placed]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        synthetic(Path(folder), "demo", rows)
        version = find_version("demo", Path(folder))
        for split in SPLITS:
            wanted = [{"id": row_id, **training} for row_id, where, training in rows if where == split]
            assert version.manifest.splits.get(split, 0) == len(wanted)
            assert list(training_rows(version, split) if wanted else ()) == wanted
            lines = b"".join(path.read_bytes() for path in version.data_files(split)).split(b"\n")[:-1]
            assert [json.loads(line) for line in lines] == wanted, "any reader of JSON lines sees the same"
        if rows:  # a version without rows is never published
            assert check_version(version.folder, is_placed=True).findings == []


# -- diff --------------------------------------------------------------------------------------------------------------

few_rows = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(SPLITS), st.sampled_from(["one", "two", "three"])),
    max_size=10,
)  # fmt: skip


def conversations(rows: Iterable[tuple[str, str, str]]) -> Iterator[Placed]:
    for row_id, split, text in rows:
        yield row_id, split, {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}


@settings(max_examples=150, deadline=None)
@given(few_rows, few_rows)
def test_a_diff_applied_to_the_old_version_gives_the_new_one(
    first: Sequence[tuple[str, str, str]], second: Sequence[tuple[str, str, str]]
) -> None:
    """With ids that are there twice, too, as in a version that was edited by hand; and with rows that moved."""
    with tempfile.TemporaryDirectory() as folder:
        old, new = (synthetic(Path(folder), "demo", conversations(rows)) for rows in (first, second))
        changes = compare_rows(old, new, most=None)
        diff = json.loads(json.dumps(comparison_as_json(old, new, changes)))
        assert patched(old, new, diff) == counted(placed(new))
        rows = diff["rows"]
        assert rows["same"] + rows["changed"] + rows["removed"] == len(first)
        assert rows["same"] + rows["changed"] + rows["added"] == len(second)
        assert changes.is_none == (Counter(first) == Counter(second))
        for kind in ("added", "removed", "changed"):
            assert len(diff["ids"][kind]) == rows[kind]
            for row_id in diff["ids"][kind]:  # none is named whose rows are the same
                of_it = (Counter(row for row in rows_of if row[0] == row_id) for rows_of in (first, second))
                assert len({frozenset(each.items()) for each in of_it}) == 2


@settings(max_examples=100, deadline=None)
@given(*(few_rows.map(lambda rows: list({row[0]: row for row in rows}.values())) for _ in range(2)))
def test_a_diff_says_of_each_row_what_became_of_it(
    first: Sequence[tuple[str, str, str]], second: Sequence[tuple[str, str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ids = compare_rows(
            *(synthetic(Path(folder), "demo", conversations(rows)) for rows in (first, second)), None
        ).ids
    before, after = ({row[0]: row for row in rows} for rows in (first, second))
    assert sorted(ids["added"]) == sorted(after.keys() - before.keys())
    assert sorted(ids["removed"]) == sorted(before.keys() - after.keys())
    both = before.keys() & after.keys()
    assert sorted(ids["changed"]) == sorted(row_id for row_id in both if before[row_id] != after[row_id])
    assert sorted(ids["moved"]) == sorted(row_id for row_id in both if before[row_id][1] != after[row_id][1])


def test_what_the_command_prints_is_enough_to_apply(project: Project) -> None:
    """More rows differ than it names to people, and not one is left out for programs."""
    datasets = project.folder / "datasets"
    old = synthetic(datasets, "demo", conversations((f"r{n:02d}", "train", "old") for n in range(60)))
    rows = [(f"r{n:02d}", "test" if n % 5 == 0 else "train", "new" if n % 3 == 0 else "old") for n in range(20, 90)]
    new = synthetic(datasets, "demo", conversations(rows))
    done = project.run("diff", "demo@1", "demo@2", "--json")
    assert done.returncode == 0, done.stderr
    diff = json.loads(done.stdout)
    assert {kind: len(ids) for kind, ids in diff["ids"].items()} == {
        "added": 30, "removed": 20, "changed": 19, "moved": 8,
    }  # fmt: skip
    assert patched(old, new, diff) == counted(placed(new))
    some = json.loads(project.run("diff", "demo@1", "demo@2", "--json", "-n", "2").stdout)
    assert some["rows"] == diff["rows"] and {len(ids) for ids in some["ids"].values()} == {2}
    assert "+ ... and 20 more" in project.run("diff", "demo@1", "demo@2").stdout


# -- splits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("append", [False, True], ids=["anew", "append"])
def test_a_row_never_changes_its_split_between_versions(project: Project, loopback: Loopback, append: bool) -> None:
    """Whatever else changes: which seeds there are, their order, how many rows a seed makes, rules, limits."""
    loopback.behave = answer
    priced(project, loopback, 1)
    recipe = project.recipe.read_text().replace("[dataset]", f"[dataset]\nappend = {str(append).lower()}")
    assert "validation" in recipe
    chance, seen = random.Random(5), dict[str, set[str]]()
    of_seeds: dict[str, set[str]] = {}
    for number in range(1, 7):
        asked = chance.sample(range(60), chance.randint(15, 40))
        project.seeds([{"question": f"What is number {n}?"} for n in asked])
        changed = recipe.replace('prompt = "answer"', f'prompt = "answer"\nsamples = {chance.randint(1, 3)}', 1)
        project.write("recipe.toml", changed.replace("min_words = 5", f"min_words = {chance.randint(2, 5)}"))
        project.build(*(["--limit", "10"] if number == 3 else []))
        for record in project.sidecar("provenance", len(list((project.folder / "datasets/demo").glob("v*")))):
            seen.setdefault(record["id"], set()).add(record["split"])
            of_seeds.setdefault(record["origin"], set()).add(record["split"])
    assert len(seen) > 50 and {len(splits) for splits in seen.values()} == {1}
    assert {len(splits) for splits in of_seeds.values()} == {1}, "what came of one seed stays together"
    assert {next(iter(splits)) for splits in seen.values()} == {"train", "validation"}
