"""Seeds: every format, ids that survive reordering, and bad lines named with file and line."""

import gzip
import io
from pathlib import Path
from typing import Any

import pytest
import zstandard
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st

from distillgen.errors import SeedsEmpty, SeedsInvalid, SeedsMissing
from distillgen.seeds import SeedReader
from distillgen.settings import SeedSettings


def reader(folder: Path, path: str | list[str], required: str = "", **more: Any) -> SeedReader:
    settings = SeedSettings(path=path, id=more.pop("id", []), format=more.pop("format", None))
    return SeedReader(settings, folder, frozenset(required.split()), **more)


def columns(seeds: SeedReader) -> list[dict[str, Any]]:
    return [dict(row.columns) for row in seeds]


LINES = b'{"topic": "a"}\n\n{"topic": "b\xe2\x80\xa8c"}\n'
TOPICS = [{"topic": "a"}, {"topic": "b\u2028c"}]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("s.jsonl", LINES, TOPICS),
        ("s.jsonl", b"\xef\xbb\xbf" + LINES, TOPICS),
        ("s.jsonl.gz", gzip.compress(LINES, mtime=0), TOPICS),
        ("s.jsonl.zst", zstandard.compress(LINES), TOPICS),
        ("s.csv", b'topic,n\r\n"a,\n1",2\r\nb,3\r\n', [{"topic": "a,\n1", "n": "2"}, {"topic": "b", "n": "3"}]),
        ("s.csv.gz", gzip.compress(b"topic\na\n", mtime=0), [{"topic": "a"}]),
        ("s.txt", b"one\n\n two \n", [{"text": "one"}, {"text": "two"}]),
        ("s.txt.zst", zstandard.compress(b"one\n"), [{"text": "one"}]),
    ],
    ids=["plain", "bom", "gz", "zst", "csv", "csv-gz", "txt", "txt-zst"],
)
def test_formats(tmp_path: Path, name: str, content: bytes, expected: list[dict[str, Any]]) -> None:
    (tmp_path / name).write_bytes(content)
    seeds = reader(tmp_path, name)
    assert columns(seeds) == expected
    assert seeds.check() == seeds.count == len(expected)


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"topic": ["a", "b"], "n": [1, None]}), tmp_path / "s.parquet")
    assert columns(reader(tmp_path, "s.parquet")) == [{"topic": "a", "n": 1}, {"topic": "b", "n": None}]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SeedsInvalid, match="not valid Parquet"):
        reader(tmp_path, "broken.parquet").check()


def test_a_folder_of_documents_and_a_glob_and_a_list(tmp_path: Path) -> None:
    (tmp_path / "docs/sub").mkdir(parents=True)
    (tmp_path / "docs/b.md").write_text("# B\n")
    (tmp_path / "docs/sub/a.txt").write_text("A")
    (tmp_path / "docs/ignored.png").write_bytes(b"\x89")
    assert columns(reader(tmp_path, "docs")) == [
        {"document": "# B", "path": "b.md"},
        {"document": "A", "path": "sub/a.txt"},
    ]
    (tmp_path / "x2.jsonl").write_text('{"n": 2}\n')
    (tmp_path / "x1.jsonl").write_text('{"n": 1}\n')
    assert columns(reader(tmp_path, "x*.jsonl")) == [{"n": 1}, {"n": 2}]
    assert columns(reader(tmp_path, ["x2.jsonl", "x1.jsonl"])) == [{"n": 2}, {"n": 1}]


def test_standard_input(tmp_path: Path) -> None:
    assert columns(reader(tmp_path, "-", stdin=io.BytesIO(b'{"n": 1}\n'))) == [{"n": 1}]
    assert columns(reader(tmp_path, "-", format="txt", stdin=io.BytesIO(b"x\n"))) == [{"text": "x"}]


BAD = b'{"topic": "a"}\n{"topic": \n[1]\n{"other": 1}\n\xff\n{"topic": "\\ud800"}\n{"topic": "b"}\n'


def test_bad_lines_are_named_and_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_bytes(BAD)
    with pytest.raises(SeedsInvalid) as caught:
        reader(tmp_path, "s.jsonl", "topic").check()
    said = str(caught.value)
    for line, reason in (
        (2, "not valid JSON"),
        (3, "a JSON list, not an object"),
        (4, "without column 'topic'"),
        (5, "not valid JSON"),
        (6, "not valid JSON"),
    ):
        assert any(reason in part and f"s.jsonl:{line}" in part for part in said.split("DG202")), (line, said)
    assert "--skip-bad-seeds" in said
    skipping = reader(tmp_path, "s.jsonl", "topic", skip_bad=True)
    assert columns(skipping) == [{"topic": "a"}, {"topic": "b"}] and skipping.skipped == 5


def test_many_bad_lines_are_counted_not_listed(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text("nonsense\n" * 50)
    with pytest.raises(SeedsInvalid, match="not valid JSON") as caught:
        reader(tmp_path, "s.jsonl").check()
    assert "and 40 more bad lines" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.csv", b"a,b\n1\n", "s.csv:2"),
        ("s.csv", b"a,a\n1,2\n", "two columns of the same name"),
        ("s.csv", b'a\n"open\n', "not valid CSV"),
        ("s.txt", b"ok\n\xff\n", "s.txt:2"),
        ("s.jsonl.gz", b"not gzip", "cannot decompress"),
        ("s.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], "cannot decompress"),
        ("s.jsonl.zst", b"not zstd", "cannot decompress"),
    ],
    ids=["csv-short-row", "csv-same-name", "csv-open-quote", "txt-not-utf8", "not-gzip", "gzip-cut-off", "not-zstd"],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SeedsInvalid) as caught:
        reader(tmp_path, name).check()
    assert said in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(SeedsEmpty, match="not a single seed"):
        reader(tmp_path, "empty.jsonl").check()
    with pytest.raises(SeedsMissing, match="no seeds at"):
        reader(tmp_path, "nope*.jsonl").check()
    (tmp_path / "s.xyz").write_text("?")
    with pytest.raises(SeedsMissing, match="cannot tell the format"):
        reader(tmp_path, "s.xyz").check()


def ids(folder: Path, rows: list[dict[str, Any]], **more: Any) -> list[str]:
    import orjson

    (folder / "ids.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return [row.id for row in reader(folder, "ids.jsonl", **more)]


def test_ids_come_from_the_named_columns(tmp_path: Path) -> None:
    one = ids(tmp_path, [{"topic": "a", "n": 1}], id=["topic"])
    assert one == ids(tmp_path, [{"n": 2, "topic": "a"}], id=["topic"]) != ids(tmp_path, [{"topic": "a", "n": 1}])
    with pytest.raises(SeedsInvalid, match="another seed") as caught:
        ids(tmp_path, [{"topic": "a", "n": 1}, {"topic": "a", "n": 2}], id=["topic"])
    assert "another seed has the same topic" in str(caught.value)


def test_a_second_identical_seed_gets_an_occurrence_number(tmp_path: Path) -> None:
    first, second, third = ids(tmp_path, [{"t": 1}, {"t": 1}, {"t": 1}])
    assert (second, third) == (f"{first}-2", f"{first}-3")


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=5), min_size=1), max_size=12), st.randoms())
def test_ids_do_not_change_when_rows_are_added_or_reordered(
    tmp_path_factory: pytest.TempPathFactory, rows: list, random: Any
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    before = ids(folder, rows)
    assert len(set(before)) == len(rows)
    shuffled = [*rows, {"z": "new"}]
    random.shuffle(shuffled)
    assert set(before) <= set(ids(folder, shuffled))


def test_bad_seeds_stop_a_build_before_anything_is_sent(demo: Project, loopback: Any) -> None:
    demo.write("seeds.jsonl", '{"question": "a?"}\nnonsense\n{"q": 1}\n')
    done = demo.run("build")
    assert (
        done.returncode == 2
        and "seeds.jsonl:2" in done.stderr
        and "seeds.jsonl:3" in done.stderr
        and loopback.seen == 0
    )
    done = demo.build("--skip-bad-seeds")
    assert "bad seeds skipped: 2" in done.stderr and loopback.seen == 1
    assert demo.manifest()["seeds"]["skipped"] == 2
