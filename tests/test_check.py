"""`check`: every byte, line, row, count and name of a version that is not as it was published is found and named."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from conftest import Project
from loopback import words
from published import two_versions

from distillgen.dataset.seal import seal_holds, sealed
from distillgen.upkeep import scan as scanning
from distillgen.upkeep.check import check_version
from distillgen.upkeep.scan import scan, scan_all

TRAIN, VALIDATION = "data/train-00000-of-00001.jsonl", "data/validation-00000-of-00001.jsonl"
FILES = [
    "README.md", TRAIN, VALIDATION, "failed.jsonl.zst", "manifest.json", "provenance.jsonl.zst", "rejected.jsonl.zst",
]  # fmt: skip
Finding = dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two versions, of 17 and 18 rows, with rows rejected and failed."""
    return two_versions(tmp_path_factory.mktemp("built"))


@pytest.fixture
def kept(project: Project, built: Path) -> Project:
    """A copy of the project, whose files may be written."""
    shutil.copytree(built / "datasets", project.folder / "datasets", symlinks=True)
    for path in (project.folder / "datasets").rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)
    return project


def found(project: Project, *arguments: str, code: int = 8) -> list[Finding]:
    """Return what check finds, as programs see it."""
    done = project.run("check", *arguments, "--json")
    assert done.returncode == code, done.stderr + done.stdout
    told = json.loads(done.stdout)
    assert told["whole"] == (not told["findings"]) == (code == 0)
    return list(told["findings"])


def kinds(findings: list[Finding]) -> list[tuple[str, str, int | None]]:
    return [(each["kind"], each["file"], each["line"]) for each in findings]


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def id_of(line: bytes) -> str:
    return str(orjson.loads(line)["id"])


def edit_manifest(project: Project, change: Callable[[dict[str, Any]], None], *, seal: bool = False) -> None:
    path = project.version() / "manifest.json"
    table = orjson.loads(path.read_bytes())
    if seal:
        table.pop("seal")
    change(table)
    content = orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n"
    path.write_bytes(sealed(content) if seal else content)


def state_anew(project: Project, *names: str) -> None:
    """Make a manifest agree with files that were changed: sizes, checksums, rows, digest and seal."""

    def change(table: dict[str, Any]) -> None:
        for name in names:
            path = project.version() / name
            read = scan(path, "rows" if name.endswith("zst") else "data")
            entry = {"bytes": read.size, "sha256": read.sha256, "rows": read.rows}
            table["files"][name] = {**entry, "content_sha256": read.content_sha256}
        content = {
            name: entry["content_sha256"]
            for name, entry in table["files"].items()
            if name.startswith(("data/", "provenance", "rejected"))
        }
        canonical = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        table["digest"] = hashlib.sha256(len(canonical).to_bytes(8, "big") + canonical).hexdigest()

    edit_manifest(project, change, seal=True)


# -- whole -----------------------------------------------------------------------------------------------------------


def test_whole_versions_pass(kept: Project) -> None:
    for arguments in ([], ["demo"], ["demo@2"], ["demo@latest"], ["datasets/demo/v0001"], ["datasets/demo/latest"]):
        for options in ([], ["--fast"]):
            done = kept.run("check", *arguments, *options)
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
            assert "whole" in done.stderr
            assert len(done.stderr.splitlines()) == (2 if arguments in ([], ["demo"]) else 1)
    digest = kept.manifest(1)["digest"]
    told = json.loads(kept.run("check", f"demo@sha256:{digest[:12]}", "--json").stdout)
    [version] = told["versions"]
    sizes = [path.stat().st_size for path in kept.version().rglob("*") if path.is_file()]
    assert version["version"] == "demo@1" and version["rows"] == kept.manifest()["rows"] == 17
    assert version["bytes_read"] == sum(sizes) - (kept.version() / "manifest.json").stat().st_size
    assert json.loads(kept.run("check", "demo@1", "--fast", "--json").stdout)["versions"][0]["bytes_read"] == 0


def test_a_version_passes_wherever_it_is_copied(kept: Project) -> None:
    shutil.copytree(kept.version(), kept.folder / "elsewhere")
    assert found(kept, "elsewhere", code=0) == []
    shutil.copytree(kept.version(), kept.folder / "datasets" / "demo" / "v0007")
    shutil.copytree(kept.folder / "datasets" / "demo", kept.folder / "datasets" / "other", symlinks=True)
    assert kinds(found(kept, "demo")) == [("place", "manifest.json", None)]
    assert "stands in 'v0007'" in found(kept, "demo@7")[0]["what"]
    assert "is of dataset 'demo', and stands in 'other'" in found(kept, "other@1")[0]["what"]


def test_exports_and_a_report_may_be_there(kept: Project) -> None:
    (kept.version() / "exports" / "trl").mkdir(parents=True)
    (kept.version() / "exports" / "trl" / "train.jsonl").write_text("{}\n")
    (kept.version() / "report.html").write_text("<p>")
    assert found(kept, "demo", code=0) == []


def test_versions_of_an_early_distillgen_pass_and_their_damage_is_named(kept: Project) -> None:
    """Their manifest has no seal, and their provenance no digests of lines."""
    path = kept.version() / "provenance.jsonl.zst"
    records = kept.sidecar("provenance")
    lines = b"".join(orjson.dumps({k: v for k, v in each.items() if k != "xxh3"}) + b"\n" for each in records)
    path.write_bytes(zstandard.ZstdCompressor().compress(lines))
    state_anew(kept, "provenance.jsonl.zst")
    edit_manifest(kept, lambda table: table.pop("seal"))
    assert found(kept, "demo@1", code=0) == []
    text = (kept.version() / TRAIN).read_text()
    (kept.version() / TRAIN).write_text(text.replace("What is number 7?", "What is number 8?"))
    [finding] = found(kept, "demo@1")
    assert (finding["kind"], finding["file"]) == ("checksum", TRAIN) and "no line" in finding["what"]
    (kept.version() / TRAIN).write_text(text.replace('{"id"', '{"xd"', 1))
    assert kinds(found(kept, "demo@1")) == [("line", TRAIN, 1)]


# -- flipped bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_every_flipped_bit_is_named(built: Path, tmp_path: Path, seed: int) -> None:
    """A bit of each file, found by file, and in data files by line."""
    draw = random.Random(seed)
    for name in FILES:
        folder = tmp_path / name.replace("/", "_") / "demo" / "v0001"
        shutil.copytree(built / "datasets" / "demo" / "v0001", folder)
        content = bytearray((folder / name).read_bytes())
        bit = draw.randrange(8 * len(content))
        line = bytes(content[: bit // 8]).count(b"\n") + 1
        content[bit // 8] ^= 1 << bit % 8
        (folder / name).chmod(0o644)
        (folder / name).write_bytes(content)
        findings = check_version(folder, is_placed=True).findings
        assert name in {each.file for each in findings}, (name, bit)
        if name.startswith("data/"):
            assert {(each.file, each.line) for each in findings} >= {(name, line)}, (name, bit)
            assert {each.file for each in findings} == {name}


@pytest.mark.parametrize("name", FILES)
def test_the_command_names_a_flipped_bit(kept: Project, name: str) -> None:
    path = kept.version() / name
    content = bytearray(path.read_bytes())
    at = len(content) // 2
    line = bytes(content[:at]).count(b"\n")
    content[at] ^= 1
    row = id_of(lines_of(path)[line]) if name.startswith("data/") else ""
    path.write_bytes(content)
    done = kept.run("check", "demo")
    assert done.returncode == 8 and "DG602" in done.stderr and f"datasets/demo/v0001/{name}" in done.stderr
    assert "demo@2: whole" in done.stderr and "demo@1: whole" not in done.stderr
    if row:
        assert f"row '{row}'" in done.stderr and f"{name}:{line + 1}" in done.stderr


def test_every_bit_of_a_manifest_counts(kept: Project, tmp_path: Path) -> None:
    content = (kept.version() / "manifest.json").read_bytes()
    assert seal_holds(content)
    for at in [*range(0, len(content), 7), *range(len(content) - 90, len(content))]:
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        assert not seal_holds(bytes(flipped)), at
    path = kept.version() / "manifest.json"
    for at in [content.index(b'"format": 1') + 10, *range(len(content) - 78, len(content))]:
        for bit in range(8):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            findings = check_version(kept.version(), fast=True, is_placed=True).findings
            assert {each.file for each in findings} == {"manifest.json"}, (at, bit)


# -- files -----------------------------------------------------------------------------------------------------------


def test_missing_stray_and_irregular_files(kept: Project) -> None:
    version = kept.version()
    (version / "rejected.jsonl.zst").unlink()
    (version / "README.md").rename(kept.folder / "card")
    (version / "README.md").symlink_to(kept.folder / "card")
    (version / "data" / ".train.swp").write_text("x")
    (version / "more" / "within").mkdir(parents=True)
    (version / "more" / "within" / "notes.txt").write_text("x")
    os.mkfifo(version / "pipe")
    for options in ([], ["--fast"]):
        told = kinds(found(kept, "demo@1", *options))
        assert told == [
            ("missing", "rejected.jsonl.zst", None),
            ("irregular", "README.md", None),
            ("stray", "data/.train.swp", None),
            ("stray", "more", None),
            ("stray", "pipe", None),
        ]


def test_a_data_file_that_is_gone(kept: Project) -> None:
    (kept.version() / VALIDATION).unlink()
    assert kinds(found(kept, "demo@1")) == [("missing", VALIDATION, None)]


def test_a_file_that_was_cut_off(kept: Project) -> None:
    path = kept.version() / TRAIN
    lines = lines_of(path)
    path.write_bytes(b"".join(lines)[: -len(lines[-1]) - 20])
    last = len(lines)
    assert kinds(found(kept, "demo@1", "--fast")) == [("size", TRAIN, None)]
    findings = found(kept, "demo@1")
    assert set(kinds(findings)) == {
        ("size", TRAIN, None), ("count", TRAIN, None), ("line", TRAIN, last - 1), ("lost", TRAIN, last),
    }  # fmt: skip
    assert {each["row"] for each in findings if each["kind"] == "lost"} == {id_of(lines[-1])}
    assert {each["row"] for each in findings if each["kind"] == "line"} == {id_of(lines[-2])}
    path.write_bytes(b"".join(lines)[:-1])
    assert set(kinds(found(kept, "demo@1"))) == {("size", TRAIN, None), ("line", TRAIN, last)}
    path.write_bytes(b"")
    findings = found(kept, "demo@1")
    assert [each["row"] for each in findings if each["kind"] == "lost"] == [id_of(line) for line in lines]


def test_sidecars_that_were_cut_off_or_have_bytes_more(kept: Project) -> None:
    path = kept.version() / "provenance.jsonl.zst"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert {each["file"] for each in found(kept, "demo@1")} == {"provenance.jsonl.zst"}
    path.write_bytes(content + b"more")
    [finding] = found(kept, "demo@1", "--fast")
    assert (finding["kind"], finding["file"]) == ("size", "provenance.jsonl.zst")
    path.write_bytes(b"\0" * len(content))
    [finding] = found(kept, "demo@1")
    assert finding["kind"] == "unreadable" and "cannot be unpacked from its beginning on" in finding["what"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda packed: b"\0\0\0\0" + packed[4:], "cannot be unpacked from its beginning on: it is no packed file"),
        (lambda packed: packed[:-1] + bytes([packed[-1] ^ 1]), "not the checksum that was packed with it"),
        (lambda packed: packed[:20] + b"\xff" * 40 + packed[60:], "its packed bytes are damaged"),
    ],
    ids=["beginning", "checksum", "amid"],
)
def test_why_a_file_cannot_be_unpacked_is_said_in_words(
    kept: Project, change: Callable[[bytes], bytes], said: str
) -> None:
    path = kept.version(2) / "rejected.jsonl.zst"
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))
    done = kept.run("check", "demo@2")
    assert done.returncode == 8 and said in done.stderr and "zstd decompress" not in done.stderr


def test_sidecar_lines_must_be_objects(kept: Project) -> None:
    path = kept.version() / "rejected.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b'{"id":"a"}\n[1]\n\n{"id":\n'))
    state_anew(kept, "rejected.jsonl.zst")
    findings = found(kept, "demo@1")
    assert [(each["line"], each["what"]) for each in findings] == [
        (2, "is no JSON object"), (3, "is empty"), (4, "is no JSON"),
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(kept: Project) -> None:
    (kept.version() / TRAIN).chmod(0)
    [finding] = found(kept, "demo@1")
    assert (finding["kind"], finding["file"]) == ("unreadable", TRAIN) and "Permission denied" in finding["what"]
    assert found(kept, "demo@1", "--fast", code=0) == []


def test_what_cannot_be_read_is_told(kept: Project) -> None:
    scanned = scan(kept.version() / "data", "data")
    assert scanned.trouble == "cannot be read: Is a directory"
    link = kept.folder / "link"
    link.symlink_to(kept.version() / TRAIN)
    assert scan(link, "data").trouble.startswith("cannot be read: ")
    (kept.version() / TRAIN).unlink()
    (kept.version() / TRAIN).mkdir()
    assert kinds(found(kept, "demo@1")) == [("irregular", TRAIN, None)]


def test_a_folder_that_was_half_copied(kept: Project) -> None:
    half = kept.version(3)
    (half / "data").mkdir(parents=True)
    shutil.copy(kept.version() / TRAIN, half / "data")
    [finding] = found(kept, "demo")
    assert (finding["version"], finding["kind"], finding["file"]) == ("demo@3", "missing", "manifest.json")
    shutil.copy(kept.version() / "manifest.json", half)
    assert {("missing", VALIDATION, None), ("place", "manifest.json", None)} <= set(kinds(found(kept, "demo@3")))
    (half / "manifest.json").write_bytes(b"")
    [finding] = found(kept, "demo@3")
    assert (finding["kind"], finding["what"]) == ("manifest", "cannot read the manifest: not a manifest")


# -- rows ------------------------------------------------------------------------------------------------------------


def write_lines(project: Project, name: str, lines: list[bytes]) -> None:
    (project.version() / name).write_bytes(b"".join(lines))


def test_text_edited_by_hand_is_named_by_line_and_row(kept: Project) -> None:
    lines = lines_of(kept.version() / TRAIN)
    row = id_of(lines[4])
    for edited in (lines[4].replace(b"number", b"NUMBER"), lines[4].replace(b'"messages":', b'"messages": ')):
        write_lines(kept, TRAIN, [*lines[:4], edited, *lines[5:]])
        findings = [each for each in found(kept, "demo@1") if each["kind"] != "size"]
        assert kinds(findings) == [("row", TRAIN, 5)] and findings[0]["row"] == row
    for edited, what in ((b"{}", "has no id"), (b"[]", "is no JSON object"), (b"", "is empty"), (b"{", "is no JSON")):
        write_lines(kept, TRAIN, [*lines[:4], edited + b"\n", *lines[5:]])
        [finding] = [each for each in found(kept, "demo@1") if each["kind"] != "size"]
        assert (finding["kind"], finding["line"], finding["row"], finding["what"]) == ("line", 5, row, what)
    other = lines[4].replace(row.encode(), b"made-up")
    write_lines(kept, TRAIN, [*lines[:4], other, *lines[5:]])
    [finding] = [each for each in found(kept, "demo@1") if each["kind"] != "size"]
    assert (finding["row"], finding["what"]) == ("made-up", f"stands where row '{row}' was published")


def test_lines_that_stand_twice_or_are_swapped_or_gone_or_new(kept: Project) -> None:
    lines = lines_of(kept.version() / TRAIN)
    write_lines(kept, TRAIN, [*lines[:3], lines[1], *lines[3:]])
    findings = found(kept, "demo@1")
    assert kinds(findings) == [("size", TRAIN, None), ("count", TRAIN, None), ("duplicate", TRAIN, 4)]
    assert findings[-1]["row"] == id_of(lines[1]) and f"first in {TRAIN}:2" in findings[-1]["what"]
    write_lines(kept, TRAIN, [*lines[:3], lines[4], lines[3], *lines[5:]])
    [finding] = found(kept, "demo@1")
    assert (finding["kind"], finding["file"]) == ("order", TRAIN)
    assert (finding["line"], finding["row"]) in ((4, id_of(lines[4])), (5, id_of(lines[3])))
    write_lines(kept, TRAIN, [*lines[1:-1], lines[0], lines[-1]])
    assert kinds(found(kept, "demo@1")) == [("order", TRAIN, len(lines) - 1)]
    write_lines(kept, TRAIN, [*lines[:3], *lines[4:]])
    findings = [each for each in found(kept, "demo@1") if each["kind"] == "lost"]
    assert [(each["line"], each["row"]) for each in findings] == [(4, id_of(lines[3]))]
    write_lines(kept, TRAIN, [*lines[:3], b'{"id":"new","messages":[]}\n', *lines[3:]])
    findings = [each for each in found(kept, "demo@1") if each["kind"] == "row"]
    assert [(each["line"], each["row"]) for each in findings] == [(4, "new")]
    assert findings[0]["what"] == "has no provenance: nobody published it"


@pytest.mark.parametrize("is_hidden", [False, True], ids=["found by checksums", "found by provenance alone"])
def test_a_row_in_another_split(kept: Project, is_hidden: bool) -> None:
    """Also when whoever moved it made the manifest agree."""
    train, validation = lines_of(kept.version() / TRAIN), lines_of(kept.version() / VALIDATION)
    write_lines(kept, TRAIN, [*train[:2], *train[3:]])
    write_lines(kept, VALIDATION, [*validation, train[2]])
    if is_hidden:
        state_anew(kept, TRAIN, VALIDATION)

        def recount(table: dict[str, Any]) -> None:
            table["splits"] = {"train": len(train) - 1, "validation": len(validation) + 1}

        edit_manifest(kept, recount, seal=True)
        assert found(kept, "demo@1", "--fast", code=0) == []
    findings = [each for each in found(kept, "demo@1") if each["kind"] not in ("size", "count")]
    assert kinds(findings) == [("split", VALIDATION, len(validation) + 1)]
    assert findings[0]["row"] == id_of(train[2])


def test_a_row_in_two_splits(kept: Project) -> None:
    train, validation = lines_of(kept.version() / TRAIN), lines_of(kept.version() / VALIDATION)
    write_lines(kept, VALIDATION, [train[2], *validation[1:]])
    state_anew(kept, VALIDATION)
    findings = found(kept, "demo@1")
    assert kinds(findings) == [("duplicate", VALIDATION, 1), ("lost", VALIDATION, 1)]
    assert findings[0]["row"] == id_of(train[2]) and f"first in {TRAIN}:3" in findings[0]["what"]


def test_provenance_that_was_changed(kept: Project) -> None:
    """Each published row has one record; where the checksum says that provenance is damaged, no row is blamed."""
    records = kept.sidecar("provenance")
    path = kept.version() / "provenance.jsonl.zst"

    def write(changed: list[Finding]) -> None:
        lines = b"".join(orjson.dumps(each) + b"\n" for each in changed)
        path.write_bytes(zstandard.ZstdCompressor().compress(lines))

    for changed in ([*records, records[3]], records[1:], [{**records[0], "split": "test"}, *records[1:]]):
        write(changed)
        assert {each["file"] for each in found(kept, "demo@1")} == {"provenance.jsonl.zst"}
    write([*records[:4], records[3], *records[4:]])
    state_anew(kept, "provenance.jsonl.zst")
    assert ("duplicate", "provenance.jsonl.zst", 5) in kinds(found(kept, "demo@1"))
    write([{**records[0], "split": "test"}, *records[1:]])
    state_anew(kept, "provenance.jsonl.zst")
    assert [(each["kind"], each["row"]) for each in found(kept, "demo@1")] == [("split", records[0]["id"])]
    write([{**records[0], "xxh3": 7}, {"id": "x"}, *records[2:]])
    state_anew(kept, "provenance.jsonl.zst")
    told = {(each["file"], each["line"], each["what"]) for each in found(kept, "demo@1") if each["kind"] == "line"}
    assert told == {
        ("provenance.jsonl.zst", line, "has no split, or no digest of its line") for line in (1, 2)
    }  # fmt: skip


# -- the manifest ----------------------------------------------------------------------------------------------------


def test_an_edited_manifest(kept: Project) -> None:
    path = kept.version() / "manifest.json"
    content = path.read_bytes()

    def set_rows(table: dict[str, Any]) -> None:
        table["rows"] += 1

    def set_split(table: dict[str, Any]) -> None:
        table["splits"]["train"] += 1

    def set_digest(table: dict[str, Any]) -> None:
        table["digest"] = "0" * 64

    def set_sha(table: dict[str, Any]) -> None:
        table["files"][TRAIN]["sha256"] = "0" * 64

    def set_bytes(table: dict[str, Any]) -> None:
        table["files"][TRAIN]["bytes"] += 1

    def set_file_rows(table: dict[str, Any]) -> None:
        table["files"]["rejected.jsonl.zst"]["rows"] += 1

    def set_funnel(table: dict[str, Any]) -> None:
        table["funnel"][1]["out"] += 1

    def rename(table: dict[str, Any]) -> None:
        table["files"]["data/train-00000-of-00002.jsonl"] = table["files"].pop(TRAIN)

    def forget(table: dict[str, Any]) -> None:
        table["files"].pop("failed.jsonl.zst")

    def describe(table: dict[str, Any]) -> None:
        table["recipe"]["description"] = "Another test"

    for change, wanted in (
        (set_rows, "says 18 rows; its splits have 17"), (set_split, "rows of split 'train'; its files have"),
        (set_digest, "says a digest that is not that of the content"), (set_sha, "has not the sha256"),
        (set_bytes, "bytes; the manifest says"), (set_file_rows, "has 2 rows; the manifest says 3"),
        (set_funnel, "to step '2.filter'"), (rename, "does not list all files of split 'train'"),
        (forget, "does not list failed.jsonl.zst"), (describe, None),
    ):  # fmt: skip
        for seal in (False, True):
            path.write_bytes(content)
            edit_manifest(kept, change, seal=seal)
            if wanted is None and seal:
                continue
            findings = found(kept, "demo@1")
            assert (findings[0]["kind"] == "manifest" and "seal" in findings[0]["what"]) == (not seal)
            assert wanted is None or any(wanted in each["what"] for each in findings), (change, findings)


def test_a_manifest_cannot_lead_out_of_its_folder(kept: Project) -> None:
    secret = kept.write("secret.jsonl", "{}\n")

    def change(table: dict[str, Any]) -> None:
        entry = {"bytes": 3, "sha256": hashlib.sha256(b"{}\n").hexdigest(), "rows": None, "content_sha256": None}
        for name in ("../../../secret.jsonl", str(secret), "x/../README.md", "", ".", "a\x1b[2J\nb"):
            table["files"][name] = entry

    edit_manifest(kept, change, seal=True)
    findings = found(kept, "demo@1")
    assert {each["kind"] for each in findings} == {"missing"} and len(findings) == 6
    done = kept.run("check", "demo@1")
    assert done.returncode == 8 and "\x1b" not in done.stderr and "secret.jsonl" in done.stderr


def test_a_newer_format(kept: Project) -> None:
    path = kept.version() / "manifest.json"
    content = path.read_bytes()

    def newer(table: dict[str, Any]) -> None:
        table.update(format=9, wholly="new", files=[])

    edit_manifest(kept, newer, seal=True)
    done = kept.run("check", "demo")
    assert done.returncode == 2 and "DG603" in done.stderr and "demo@2: whole" in done.stderr
    told = json.loads(kept.run("check", "demo", "--json").stdout)
    assert not told["whole"] and not told["findings"]
    assert [each["newer_format"] for each in told["versions"] if each["files"] or each["newer_format"]] == [True, False]
    path.write_bytes(content.replace(b'"format": 1', b'"format": 9'))
    done = kept.run("check", "demo@1")
    assert done.returncode == 8 and "its seal does not hold" in done.stderr


# -- names -----------------------------------------------------------------------------------------------------------


def test_latest_names_a_version(kept: Project) -> None:
    link = kept.folder / "datasets" / "demo" / "latest"
    for target in ("v0009", "../demo/v0001", str(kept.version()), "nowhere\x1b[2J"):
        link.unlink()
        link.symlink_to(target)
        [finding] = found(kept, "demo")
        assert (finding["kind"], finding["file"]) == ("latest", "latest") and "is no version here" in finding["what"]
        assert "\x1b" not in kept.run("check", "demo").stderr
        assert found(kept, "demo@1", code=0) == []
    link.unlink()
    assert "is missing" in found(kept)[0]["what"]
    link.write_text("v0002\n")
    assert found(kept, code=0) == []
    link.write_bytes(b"\xff\xfe")
    assert kinds(found(kept)) == [("latest", "latest", None)]
    link.unlink()
    link.mkdir()
    assert "neither a link nor a file" in found(kept)[0]["what"]


def test_names_that_mean_nothing(kept: Project) -> None:
    for name, code in (
        ("nowhere", 10), ("demo@9", 10), ("demo@x", 10), ("demo@sha256:0000", 10), ("../demo", 2), ("x" * 300, 2),
        ("/etc/passwd", 2), ("длинное", 2), ("", 2), ("demo@²", 10),
    ):  # fmt: skip
        done = kept.run("check", name)
        assert done.returncode == code, (name, done.stderr)
        assert "Traceback" not in done.stderr and "bug" not in done.stderr
    assert kept.run("check", "--project", "nowhere").returncode == 10
    assert kept.run("check", "--project", "datasets").returncode == 10


def test_nothing_hostile_reaches_a_terminal(kept: Project) -> None:
    name = os.fsdecode(b"a\x1b[2J\nDG000 \xff\xe2\x80\xae")
    (kept.version() / name).write_text("x")
    lines = lines_of(kept.version() / TRAIN)
    hostile = orjson.dumps({"id": "\x1b]0;owned\x07\n" + "long " * 100, "messages": []}) + b"\n"
    write_lines(kept, TRAIN, [hostile, *lines[1:]])
    done = kept.run("check", "demo")
    assert done.returncode == 8 and "\x1b" not in done.stderr and "\u202e" not in done.stderr
    assert "\\x1b[2J" in done.stderr and not any(line.startswith("DG000") for line in done.stderr.splitlines())
    assert max(map(len, done.stderr.splitlines())) < 500
    [stray] = [each for each in found(kept, "demo") if each["kind"] == "stray"]
    assert stray["file"] == name.encode(errors="backslashreplace").decode(), "valid JSON has no half of a pair"


def test_people_see_twenty_findings_and_programs_all(kept: Project) -> None:
    for number in range(30):
        (kept.version() / f"stray-{number:02d}").write_text("x")
    done = kept.run("check", "demo")
    assert done.stderr.count("is no part of this version") == 20 and "... and 10 more" in done.stderr
    assert len(found(kept, "demo")) == 30


# -- reading ---------------------------------------------------------------------------------------------------------


def test_processes_find_what_one_finds(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = built / "datasets" / "demo" / "v0001"
    tasks: list[scanning.Task] = [
        (version / TRAIN, "data"), (version / "provenance.jsonl.zst", "provenance"), (version / "README.md", "bytes"),
        (version / "nothing", "rows"),
    ]  # fmt: skip
    alone = scan_all(tasks)
    assert [each.trouble for each in alone] == ["", "", "", "cannot be read: No such file or directory"]
    monkeypatch.setattr(scanning, "MANY_BYTES", 0)
    monkeypatch.setattr(scanning, "processors", lambda: 2)
    together = scan_all(tasks)
    assert [replace(each, pieces=[]) for each in together] == [replace(each, pieces=[]) for each in alone]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"id":"a","messages":"\xff"}', "is no JSON"), (b'{"id":"a","messages":[1,2}', "is no JSON"),
        (b'{"id":"a","messages":nul}', "is no JSON"), (b'{"id":"a","x":"\x01"}', "is no JSON"), (b"", "is empty"),
        (b'["id"]', "is no JSON object"), (b'{"id":1}', "has no id"), (b'{"messages":[]}', "has no id"),
    ],
)  # fmt: skip
def test_what_is_read_over_must_be_json_and_text_all_the_same(line: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id":"first","messages":[]}\n' + line + b'\n{"id":"last","messages":["\xc3\xa9"]}\n')
    found = scan(path, "data")
    assert (found.flaws, found.rows, list(found.ids).count(0)) == ([(2, why)], 3, 1)


@pytest.mark.parametrize("end", [b"", b'{"id":"last","split":"odd"}', b"{", b"\n\n"], ids=repr)
@pytest.mark.parametrize("block", [3, 50, 1000])
def test_parts_are_the_whole(
    block: int, end: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """However lines fall into the stripes of the parts, which come upon the splits in another order."""
    rows = [{"id": f"r{n}" * (n % 7), "split": "ab"[n % 3 == 0] * (n % 2 + 1), "xxh3": f"{n:x}"} for n in range(200)]
    path = tmp_path / "provenance.jsonl.zst"
    lines = [orjson.dumps(row) + b"\n" for row in rows]
    lines[70] = b"[]\n"
    path.write_bytes(zstandard.ZstdCompressor().compress(b"".join(lines) + end))
    monkeypatch.setattr(scanning, "BLOCK", block)
    monkeypatch.setattr(scanning, "BLOCKS_OF_A_STRIPE", 4)
    whole = scan(path, "provenance")
    for of in (2, 3):
        joined = scanning._joined([scan(path, "provenance", part, of) for part in range(of)])
        names = [{at: name for name, at in each.split_names.items()} for each in (joined, whole)]
        assert [names[0][at] for at in joined.splits] == [names[1][at] for at in whole.splits]
        for field in ("ids", "lines", "rows", "flaws", "sha256", "content_sha256", "size", "trouble"):
            assert getattr(joined, field) == getattr(whole, field), field


def test_lines_are_the_same_however_they_fall_into_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [orjson.dumps({"id": f"r{n}", "text": words(str(n)) * (n % 5)}) + b"\n" for n in range(50)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(lines))
    once = scan(path, "data")
    assert once.rows == 50 and not once.flaws and once.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for block in (1, 7, 300):
        monkeypatch.setattr(scanning, "BLOCK", block)
        assert replace(scan(path, "data"), pieces=[]) == replace(once, pieces=[])
    monkeypatch.setattr(scanning, "LONGEST_LINE", 1000)
    path.write_bytes(lines[0] + b"x" * 5000 + b"\n" + lines[1])
    found = scan(path, "data")
    assert found.rows == 1 and [line for line, _ in found.flaws] == [2]
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_hashing_in_a_thread_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"".join(orjson.dumps({"id": f"r{n}", "split": "train"}) + b"\n" for n in range(5000))
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(content))
    for size in (1, 10_000, 10**9):
        monkeypatch.setattr(scanning, "HASHED_AT_ONCE", size)
        found = scan(path, "provenance")
        assert found.content_sha256 == hashlib.sha256(content).hexdigest() and found.rows == 5000
