"""`repair`: what was damaged is as it was published, or is said to stay damaged; no damaged byte is lost."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from conftest import RECIPE, Project, clean_environment
from loopback import Loopback
from published import killed_at, two_versions
from till import called

from distillgen.dataset.seal import sealed
from distillgen.files import Lock, masked
from distillgen.upkeep.check import check_all
from distillgen.upkeep.exchange import exchange
from distillgen.upkeep.repair import repair_all

TRAIN, VALIDATION = "data/train-00000-of-00001.jsonl", "data/validation-00000-of-00001.jsonl"
SIDECARS = ["provenance.jsonl.zst", "rejected.jsonl.zst", "failed.jsonl.zst"]
FILES = [TRAIN, VALIDATION, *SIDECARS, "README.md", "manifest.json"]
Told = dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two versions, of 17 and 18 rows, which share files that are the same."""
    return two_versions(tmp_path_factory.mktemp("built"))


@pytest.fixture
def kept(project: Project, built: Path) -> Project:
    """A copy of the project, whose files are links of each other where they were, and may be written."""
    subprocess.run(["cp", "-a", str(built / "datasets"), str(project.folder)], check=True)
    for path in home(project).rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)
    return project


def home(project: Project) -> Path:
    return project.folder / "datasets" / "demo"


def contents(folder: Path) -> dict[str, bytes]:
    """Return all that is in a dataset's folder, but for what is kept aside and locks."""
    paths = [path for path in sorted(folder.rglob("*")) if not {".damaged", ".lock"} & set(path.parts)]
    read = {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}
    return read | {str(path.relative_to(folder)): os.fsencode(path.readlink()) for path in paths if path.is_symlink()}


def repaired(project: Project, *arguments: str, code: int = 0) -> Told:
    """Repair, and return what programs are told."""
    done = called(project, "repair", *arguments, "--yes", "--json")
    assert done.exit_code == code, done.stdout + done.stderr
    told: Told = json.loads(done.stdout)
    assert told["whole"] == (not told["stays"]) == (code == 0)
    assert (called(project, "check").exit_code == 0) == (code == 0)
    return told


def foreseen(project: Project, *arguments: str, code: int = 0) -> Told:
    """Return what a repair would do, which changes nothing."""
    before = contents(home(project))
    done = called(project, "repair", *arguments, "--json")
    assert done.exit_code == code, done.stdout + done.stderr
    assert contents(home(project)) == before and not (home(project) / ".damaged").exists()
    return dict(json.loads(done.stdout))


def aside(project: Project) -> list[bytes]:
    return [path.read_bytes() for path in (home(project) / ".damaged").rglob("*") if path.is_file()]


def of_files(told: Told) -> set[tuple[str, str]]:
    return {(each["version"], each["file"]) for each in told["repairs"]}


def flip(path: Path, draw: random.Random) -> bytes:
    """Flip a bit where it lies, as a disk does; return the damaged bytes."""
    content = bytearray(path.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return bytes(content)


# -- nothing wrong ---------------------------------------------------------------------------------------------------


def test_what_is_whole_is_left_alone(kept: Project) -> None:
    before = contents(home(kept))
    for arguments in ([], ["demo"], ["demo@1"], ["demo@latest"], ["--yes"]):
        done = kept.run("repair", *arguments)
        assert (done.returncode, done.stdout) == (0, "") and "everything is whole" in done.stderr
    assert contents(home(kept)) == before
    assert foreseen(kept) == {"schema": "repair/1", "done": False, "whole": True, "repairs": [], "stays": []}


# -- flipped bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_turned_back(kept: Project, name: str, seed: int) -> None:
    """Also where the file is a link, so that the bit is flipped in both versions."""
    before = contents(home(kept))
    inodes = {path: path.stat().st_ino for path in home(kept).rglob("*.zst")}
    damaged = flip(kept.version(1) / name, random.Random(f"{name}{seed}"))
    told = foreseen(kept)
    assert ("demo@1", name) in of_files(told) and all(each["exact"] for each in told["repairs"])
    assert of_files(repaired(kept)) == of_files(told)
    assert contents(home(kept)) == before
    assert damaged in aside(kept)
    first = {name: (kept.version(1) / name).stat().st_ino for name in SIDECARS}
    second = {name: (kept.version(2) / name).stat().st_ino for name in SIDECARS}
    were = {name: inodes[kept.version(1) / name] == inodes[kept.version(2) / name] for name in SIDECARS}
    assert {name: first[name] == second[name] for name in SIDECARS} == were  # shared again


def test_what_is_mended_may_not_be_written(kept: Project) -> None:
    flip(kept.version(1) / TRAIN, random.Random(1))
    repaired(kept)
    assert (kept.version(1) / TRAIN).stat().st_mode & 0o777 == masked(0o444)


def test_several_files_of_both_versions_at_once(kept: Project) -> None:
    before = contents(home(kept))
    draw = random.Random(7)
    for number, name in ((1, TRAIN), (1, "provenance.jsonl.zst"), (2, VALIDATION), (2, "manifest.json")):
        flip(kept.version(number) / name, draw)
    (kept.version(2) / "README.md").unlink()
    repaired(kept)
    assert contents(home(kept)) == before


# -- data ------------------------------------------------------------------------------------------------------------

Change = Callable[[list[bytes]], list[bytes]]
CHANGES: dict[str, Change] = {
    "cut off in a line": lambda lines: [*lines[:5], lines[5][:20]],
    "last newline gone": lambda lines: [*lines[:-1], lines[-1][:-1]],
    "empty": lambda lines: [],
    "one gone": lambda lines: [*lines[:3], *lines[4:]],
    "one twice": lambda lines: [*lines[:3], lines[1], *lines[3:]],
    "swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "one more": lambda lines: [*lines, b'{"id":"new","messages":[]}\n'],
    "edited": lambda lines: [lines[0].replace(b"number", b"NUMBER"), *lines[1:]],
    "spaces": lambda lines: [line.replace(b":", b": ") for line in lines],
    "zeros": lambda lines: [b"\0" * len(line) for line in lines],
    "rubbish": lambda lines: [b"\xff\xfe{not json at all", *lines[2:]],
}


@pytest.mark.parametrize("name", [TRAIN, VALIDATION])
@pytest.mark.parametrize("how", CHANGES)
def test_data_is_put_together_again_from_provenance(kept: Project, name: str, how: str) -> None:
    before = contents(home(kept))
    path = kept.version(1) / name
    lines = path.read_bytes().splitlines(keepends=True)
    changed = b"".join(CHANGES[how]((lines * 6)[:6] if len(lines) < 6 else lines))
    path.write_bytes(changed)
    repaired(kept)
    assert contents(home(kept)) == before
    assert not changed or changed in aside(kept)


def test_a_missing_file_and_a_missing_folder_are_made_again(kept: Project) -> None:
    before = contents(home(kept))
    shutil.rmtree(kept.version(1) / "data")
    (kept.version(2) / TRAIN).unlink()
    told = repaired(kept)
    assert contents(home(kept)) == before
    assert any("rendered anew from provenance" in each["how"] for each in told["repairs"])


def test_what_stands_in_the_place_of_a_file_is_moved_aside(kept: Project) -> None:
    before = contents(home(kept))
    (kept.version(1) / TRAIN).unlink()
    (kept.version(1) / TRAIN).mkdir()
    (kept.version(1) / TRAIN / "mine.txt").write_text("mine")
    (kept.version(2) / "README.md").unlink()
    (kept.version(2) / "README.md").symlink_to("/etc/passwd")
    shutil.rmtree(kept.version(2) / "data")
    (kept.version(2) / "data").write_text("a file")
    repaired(kept)
    assert contents(home(kept)) == before
    assert {b"mine", b"a file"} <= set(aside(kept))


def test_rows_whose_student_is_not_known_come_from_other_versions_and_from_flipped_bits(kept: Project) -> None:
    """Where nothing can be rendered: the recipe in the manifest says of another student."""
    before = contents(home(kept))
    for number in (1, 2):
        table = kept.manifest(number)
        table.pop("seal")
        table["recipe"]["student"]["completion"] = "{{ something_else }}"
        path = kept.version(number) / "manifest.json"
        path.write_bytes(sealed(orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n"))
    path = kept.version(1) / TRAIN
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    path.write_bytes(b"".join([*lines[:2], b"\n", *lines[3:]]))
    (kept.version(2) / TRAIN).write_bytes(b"".join(lines[1:]))  # the same file no more, but the same row
    [repair] = json.loads(called(kept, "repair", "demo@1", "--yes", "--json").stdout)["repairs"]
    assert "1 from other versions" in repair["how"]
    shutil.rmtree(kept.version(2))
    (home(kept) / "latest").unlink()
    content = bytearray(path.read_bytes())
    at = content.index(b"\n")
    path.chmod(0o644)
    for bit in (0, 2, 5):
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit  # two lines become one
        path.write_bytes(flipped)
        [repair, _] = repaired(kept)["repairs"] if bit == 0 else [*repaired(kept)["repairs"], None]
        assert "2 by turning a flipped bit back" in repair["how"]
        path.chmod(0o644)
    assert path.read_bytes() == before["v0001/" + TRAIN]


def test_rows_that_nothing_brings_back_are_named(kept: Project) -> None:
    shutil.rmtree(kept.version(2))
    (home(kept) / "latest").unlink()
    (home(kept) / "latest").symlink_to("v0001")
    path = kept.version(1) / TRAIN
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"rubbish\n", *lines[3:]]))
    table = kept.manifest(1)
    table.pop("seal")
    table["recipe"]["student"]["completion"] = "{{ something_else }}"
    content = sealed(orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n")
    (kept.version(1) / "manifest.json").write_bytes(content)
    row = orjson.loads(lines[2])["id"]
    before = path.read_bytes()
    [stays] = foreseen(kept, code=8)["stays"]
    assert (stays["file"], stays["line"], stays["row"], stays["what"]) == (TRAIN, 3, row, "cannot be brought back")
    told = repaired(kept, code=8)
    assert path.read_bytes() == before and told["repairs"] == []
    done = kept.run("repair", "demo@1")
    assert done.returncode == 8 and "DG602" in done.stderr and f"{TRAIN}:3" in done.stderr and row in done.stderr


def test_versions_of_an_early_distillgen(kept: Project) -> None:
    """Their manifest has no seal, and their provenance no digests of lines: the checksum of the file confirms."""
    from test_check import state_anew

    records = kept.sidecar("provenance")
    lines = b"".join(orjson.dumps({k: v for k, v in each.items() if k != "xxh3"}) + b"\n" for each in records)
    (kept.version(1) / "provenance.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    state_anew(kept, "provenance.jsonl.zst")
    table = kept.manifest(1)
    table.pop("seal")
    (kept.version(1) / "manifest.json").write_bytes(orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n")
    before = contents(kept.version(1))
    path = kept.version(1) / TRAIN
    text = path.read_text()
    for damaged in (text.replace("number 7", "number 8"), "", text[:500], text.replace('{"id"', '{"xd"', 1)):
        path.chmod(0o644)
        path.write_text(damaged)
        repaired(kept)
        assert contents(kept.version(1)) == before


# -- sidecars and card -----------------------------------------------------------------------------------------------


def test_bytes_too_many_are_cut_off_and_loose_packing_is_done_anew(kept: Project) -> None:
    before = contents(home(kept))
    path = kept.version(1) / "provenance.jsonl.zst"
    path.write_bytes(path.read_bytes() + b"more")
    [repair] = repaired(kept)["repairs"]
    assert "4 bytes too many are cut off" in repair["how"]
    assert contents(home(kept)) == before
    lines = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    path.chmod(0o644)
    path.write_bytes(zstandard.ZstdCompressor(level=9).compress(lines))
    told = repaired(kept)
    assert "packed anew: what was in it is whole" in told["repairs"][0]["how"]
    assert contents(home(kept)) == before, "and packed as it was"


def cut(path: Path) -> bytes:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return content[: len(content) // 2]


def test_provenance_that_is_lost_stays_damaged_or_is_let_go_on_request(kept: Project) -> None:
    rows, records, digest = kept.rows(1), kept.sidecar("provenance"), kept.manifest(1)["digest"]
    damaged = cut(kept.version(1) / "provenance.jsonl.zst")
    [stays] = foreseen(kept, code=8)["stays"]
    assert "of 17 rows can be read; `--with-loss`" in stays["what"]
    repaired(kept, code=8)
    assert not (home(kept) / ".damaged").exists()
    told = repaired(kept, "--with-loss")
    assert damaged in aside(kept) and [each["exact"] for each in told["repairs"]] == [False, False]
    assert kept.rows(1) == rows
    manifest = kept.manifest(1)
    [note] = manifest["repaired"]
    assert (
        note["digest_before"] == digest != manifest["digest"]
        and "rows are lost" in note["files"]["provenance.jsonl.zst"]
    )
    left = kept.sidecar("provenance")
    assert [each["id"] for each in left if each["steps"]] == [
        each["id"] for each in records if each in left
    ]  # fmt: skip
    assert {(each["id"], each["split"], each["xxh3"], each["origin"]) for each in left} == {
        (each["id"], each["split"], each["xxh3"], each["origin"]) for each in records
    }
    assert called(kept, "repair").exit_code == 0


@pytest.mark.parametrize("name", ["rejected.jsonl.zst", "failed.jsonl.zst"])
def test_what_was_left_out_may_be_let_go(kept: Project, name: str) -> None:
    for number in (1, 2):
        path = kept.version(number) / name
        content = b"\0" * path.stat().st_size
        path.unlink()
        path.write_bytes(content)
    repaired(kept, code=8)
    repaired(kept, "--with-loss")
    assert kept.manifest(1)["repaired"][0]["files"][name].startswith("0 of ")
    assert list(kept.sidecar(name.split(".")[0])) == []


def test_a_card_is_written_anew(kept: Project) -> None:
    before = contents(home(kept))
    for number in (1, 2):
        (kept.version(number) / "README.md").write_text("# nothing of the kind\n")
    told = repaired(kept)
    assert {each["how"] for each in told["repairs"]} == {"written anew, as it was"}
    assert contents(home(kept)) == before


# -- manifests -------------------------------------------------------------------------------------------------------


def test_a_manifest_is_put_together_from_what_it_says_and_its_neighbours(kept: Project) -> None:
    """Its seal says whether that is what it was."""
    before = contents(home(kept))
    path = kept.version(1) / "manifest.json"
    content = path.read_bytes()
    for damaged, is_exact in (
        (content.replace(b'"rows": 17,\n  "splits"', b'"rows": !?,\n  "splits"'), True),
        (content.replace(b'"digest": "', b'"digest": "zzzz', 1), True),
        (content.replace(b'"recipe": {\n    "name"', b'"recipe": !\n    ?name?', 1), True),
        (content.replace(b'"software": {', b'"software": [', 1), True),
        (content.replace(b'"files": {', b"\0\0\0\0\0\0\0\0\0\0", 1), True),
        (content.replace(b'"version": 1,', b'"version": 7,', 1).replace(b'"name": "demo"', b'"name": "d#mo"', 1), True),
        (content.replace(b'"finished": "2', b'"finished" ? 2', 1), False),
        (content.replace(b'"funnel": [', b'"funnel": !!', 1), False),
    ):
        assert damaged != content
        path.chmod(0o644)
        path.write_bytes(damaged)
        told = repaired(kept)
        mend = next(each for each in told["repairs"] if each["file"] == "manifest.json")
        assert mend["exact"] == is_exact, (damaged, mend)
        assert (contents(home(kept)) == before) == is_exact and bool(kept.manifest(1)["repaired"]) == (not is_exact)
        path.chmod(0o644)
        path.write_bytes(content)


def test_damage_that_looks_like_a_newer_format_is_damage(kept: Project) -> None:
    before = contents(home(kept))
    path = kept.version(1) / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 9'))
    [mend] = repaired(kept)["repairs"]
    assert mend["how"] == "the one flipped bit is turned back"
    assert contents(home(kept)) == before


def test_a_lost_manifest_is_made_from_the_files(kept: Project) -> None:
    rows, was = kept.rows(1), kept.manifest(1)
    card = (kept.version(1) / "README.md").read_text()
    (kept.version(1) / "manifest.json").unlink()
    told = repaired(kept)
    [mend] = [each for each in told["repairs"] if each["file"] == "manifest.json"]
    assert "nobody knows any more: parent, is_partial, ends, recipe" in mend["how"] and not mend["exact"]
    now = kept.manifest(1)
    same = ("format", "name", "version", "digest", "rows", "splits")
    assert {name: now[name] for name in same} == {name: was[name] for name in same}
    assert {name: entry["sha256"] for name, entry in now["files"].items() if name != "README.md"} == {
        name: entry["sha256"] for name, entry in was["files"].items() if name != "README.md"
    }
    assert now["recipe"] == {} and now["funnel"] == [] and "recipe" in now["repaired"][0]["lost"]
    lines = (kept.version(1) / "README.md").read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith("> **Repaired on"))
    assert "Nobody knows any more: `parent`, " in lines[at] and lines[at - 2].startswith("# demo, version 1")
    assert "".join(lines[:at] + lines[at + 2 :]) == card, "else it is as it was, and tells what was lost"
    assert card.encode() in aside(kept)
    assert kept.rows(1) == rows
    for command in (["log"], ["show", "demo@1"], ["stats", "demo@1"], ["diff", "demo@1", "demo@2"]):
        done = called(kept, *command)
        assert done.exit_code == 0, (command, done.output)


def test_a_manifest_of_which_half_is_left(kept: Project) -> None:
    was = kept.manifest(1)
    path = kept.version(1) / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b'"funnel"') + 40])
    repaired(kept)
    now = kept.manifest(1)
    assert {name: now[name] for name in ("recipe", "prompts", "teachers", "seeds")} == {
        name: was[name] for name in ("recipe", "prompts", "teachers", "seeds")
    }
    [note] = now["repaired"]
    assert note["lost"] == ["funnel", "software", "run"] and "seeds" in note["unverified"]
    assert "recipe" not in note["unverified"], "the other version's is the same"
    assert "demo@1 (repaired)" in kept.run("log", "demo").stdout
    listed = json.loads(kept.run("log", "--json").stdout)["versions"]
    unconfirmed = {each["number"]: each["unconfirmed"] for each in listed}
    assert unconfirmed[1] == sorted({*note["lost"], *note["unverified"]}) and unconfirmed[2] == []
    card = (kept.version(1) / "README.md").read_text()
    for name in unconfirmed[1]:
        assert f"`{name}`" in next(line for line in card.splitlines() if line.startswith("> **Repaired on")), name
    (kept.version(1) / "README.md").chmod(0o644)
    (kept.version(1) / "README.md").write_text("another")
    assert "README.md" in {each["file"] for each in repaired(kept)["repairs"]}
    assert (kept.version(1) / "README.md").read_text().count("> **Repaired on") == 1


def test_a_damaged_manifest_and_damaged_data(kept: Project) -> None:
    rows = kept.rows(1)
    path = kept.version(1) / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    (kept.version(1) / TRAIN).write_bytes(b"")
    (kept.version(1) / "README.md").unlink()
    repaired(kept)
    assert kept.rows(1) == rows


def test_a_lost_manifest_and_lost_rejected_rows(kept: Project) -> None:
    """Rows and provenance are there, so the folder stays where it is."""
    rows = kept.rows(1)
    (kept.version(1) / "manifest.json").unlink()
    (kept.version(1) / "rejected.jsonl.zst").unlink()
    told = repaired(kept, code=8)
    assert told["repairs"] == [] and kept.rows(1) == rows
    repaired(kept, "--with-loss")
    assert kept.rows(1) == rows and list(kept.sidecar("rejected")) == []
    assert kept.manifest(1)["repaired"][0]["files"] == {
        "rejected.jsonl.zst": "0 of an unknown number of rows are left", "README.md": "not confirmed",
    }  # fmt: skip
    assert "> **Repaired on" in (kept.version(1) / "README.md").read_text()


def test_files_of_a_hundred_thousand_rows_made_small(
    project: Project, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split of several files, of which one is lost; also without a manifest that says how many rows each has."""
    from distillgen.dataset import publication
    from distillgen.upkeep import evidence

    monkeypatch.setattr(publication, "ROWS_PER_FILE", 4)
    monkeypatch.setattr(evidence, "ROWS_PER_FILE", 4)
    project.write("recipe.toml", RECIPE.format(url=loopback.url))
    project.seeds([{"question": f"What is number {n}?"} for n in range(14)])
    assert called(project, "build").exit_code == 0
    before, rows = contents(home(project)), project.rows()
    names = sorted(path.name for path in (project.version() / "data").iterdir())
    assert len(names) >= 4
    for name in names:
        (project.version() / "data" / name).unlink()
        repaired(project)
        assert contents(home(project)) == before
    (project.version() / "manifest.json").unlink()
    repaired(project)
    assert project.rows() == rows
    (project.version() / "manifest.json").unlink()
    (project.version() / "data" / names[1]).unlink()
    shutil.rmtree(home(project) / ".damaged")  # the first card, which did not tell of the repair
    assert "a copy that was not finished" in foreseen(project)["repairs"][0]["what"]


@pytest.mark.parametrize(
    "student",
    [
        'system = "Be brief."\nprompt = "{{ question }}"\ncompletion = "{{ answer }}"\nreasoning = "so {{ answer }}"',
        'prompt = "{{ question }}"\ncompletion = "{{ answer }}"\nrejected = "no: {{ answer[:20] }}"',
        'completion = "{{ answer | upper }}"',
    ],
    ids=["reasoning", "pairs", "own messages"],
)
def test_every_kind_of_student_is_rendered_anew(project: Project, loopback: Loopback, student: str) -> None:
    text = RECIPE.format(url=loopback.url)
    start = text.index("[student]")
    project.write("recipe.toml", text[:start] + f"[student]\n{student}\n" + text[text.index("[dataset]") :])
    asked = [f"What is number {n}?" for n in range(6)]
    project.seeds([{"question": each, "messages": [{"role": "user", "content": each}]} for each in asked])
    project.build()
    before = contents(home(project))
    shutil.rmtree(project.version() / "data")
    (project.version() / "README.md").unlink()
    repaired(project)
    assert contents(home(project)) == before


def test_figures_that_somebody_sealed_stay_wrong(kept: Project) -> None:
    table = kept.manifest(1)
    table.pop("seal")
    table["rows"] += 1
    path = kept.version(1) / "manifest.json"
    path.write_bytes(sealed(orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n"))
    before = path.read_bytes()
    assert {each["kind"] for each in foreseen(kept, code=8)["stays"]} == {"count"}
    repaired(kept, code=8)
    assert path.read_bytes() == before


# -- folders and names -----------------------------------------------------------------------------------------------


def test_swapped_and_renamed_files_are_found_in_the_version_itself(kept: Project) -> None:
    before = contents(home(kept))
    provenance, rejected = (kept.version(2) / name for name in SIDECARS[:2])
    swapped = provenance.read_bytes(), rejected.read_bytes()
    for path, content in zip((rejected, provenance), swapped, strict=True):
        path.unlink()
        path.write_bytes(content)
    (kept.version(2) / VALIDATION).rename(kept.version(2) / "data" / "validation.bak")
    told = foreseen(kept)
    hows = {each["file"]: each["how"] for each in told["repairs"] if each["how"] != "moved aside"}
    assert hows == {
        SIDECARS[0]: f"{SIDECARS[1]!r} is this file", SIDECARS[1]: "demo@1 has the same file",
        VALIDATION: "'data/validation.bak' is this file",
    }  # fmt: skip
    repaired(kept)
    assert contents(home(kept)) == before


def test_swapped_manifests_go_back(kept: Project) -> None:
    """And no file is made to be what another version's manifest says."""
    before = contents(home(kept))
    one, other = (kept.version(number) / "manifest.json" for number in (1, 2))
    contents_of = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents_of[0])
    one.write_bytes(contents_of[1])
    assert of_files(foreseen(kept)) == {("demo@1", "manifest.json"), ("demo@2", "manifest.json")}
    repaired(kept)
    assert contents(home(kept)) == before


@pytest.mark.parametrize("done", ["swapped", "copied"])
def test_a_version_under_another_number_is_told_and_left_alone(kept: Project, done: str) -> None:
    if done == "swapped":
        kept.version(1).rename(home(kept) / "spare")
        kept.version(2).rename(kept.version(1))
        (home(kept) / "spare").rename(kept.version(2))
        cut(kept.version(1) / SIDECARS[0])
    else:
        shutil.copytree(kept.version(2), home(kept) / "v0003")
    before = contents(home(kept))
    told = repaired(kept, code=8)
    assert not told["repairs"] and contents(home(kept)) == before
    assert "place" in {each["kind"] for each in told["stays"]}
    if done == "copied":
        assert "the name of its version again" in called(kept, "repair").stderr


def test_a_name_that_promises_too_many_files_is_not_believed(kept: Project) -> None:
    before = contents(kept.version(2))
    (kept.version(2) / "manifest.json").unlink()
    (kept.version(2) / "data" / "train-00000-of-99999.jsonl").write_text("")
    told = repaired(kept)
    assert of_files(told) == {
        ("demo@2", "data/train-00000-of-99999.jsonl"), ("demo@2", "manifest.json"), ("demo@2", "README.md"),
    }  # fmt: skip
    left = contents(kept.version(2))
    assert left.keys() == before.keys() and left[TRAIN] == before[TRAIN]


@pytest.mark.parametrize("name", ["v0001", "v0001/data", "v0001/manifest.json", ".", ".."])
def test_what_may_not_be_read_is_no_damage(kept: Project, name: str) -> None:
    """A manifest that its reader may not open is not one to be written anew with less in it."""
    as_anybody: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything")
        as_anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    before, shut = contents(home(kept)), (home(kept) / name).resolve()  # ".." leads nowhere from what is shut
    mode = shut.stat().st_mode
    shut.chmod(0)
    told = []
    for command in (["check"], ["repair"], ["repair", "--yes", "--with-loss"]):
        done = subprocess.run(
            [*as_anybody, sys.executable, "-m", "distillgen", *command],
            cwd=kept.folder, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        told.append((done.returncode, done.stderr))
    shut.chmod(mode)
    for code, said in told[:2]:
        assert code == 8 and "Permission denied" in said and "make it readable" in said, said
    assert told[2][0] in (2, 8) and "Permission denied" in told[2][1], told[2]
    assert contents(home(kept)) == before


def test_a_folder_that_was_half_copied_is_moved_aside(kept: Project) -> None:
    half = kept.version(5)
    (half / "data").mkdir(parents=True)
    shutil.copy(kept.version(1) / TRAIN, half / "data")
    [mend] = foreseen(kept)["repairs"]
    assert "a copy that was not finished" in mend["what"]
    repaired(kept)
    assert not half.exists() and (kept.version(1) / TRAIN).read_bytes() in aside(kept)
    shutil.copytree(kept.version(1), half)
    told = repaired(kept, code=8)
    assert [(each["kind"], each["what"]) for each in told["stays"]] == [
        ("place", "is of version 1, and stands in 'v0005'")
    ]


@pytest.mark.parametrize("there", ["README.md", "manifest.json", "data", "provenance.jsonl.zst"])
def test_whatever_a_copy_brought_first(kept: Project, there: str) -> None:
    """A copy of a dataset's folder that ended early, where nothing else is: with a manifest it stays where it is."""
    whole = kept.folder / "whole"
    home(kept).rename(whole)
    (home(kept) / "v0002").mkdir(parents=True)
    copy = shutil.copytree if there == "data" else shutil.copy
    copy(whole / "v0002" / there, home(kept) / "v0002" / there)
    done = called(kept, "repair", "--yes", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == (8 if there == "manifest.json" else 0), done.stdout
    assert (home(kept) / "v0002").exists() == bool(told["stays"]) == (there == "manifest.json")
    assert there == "manifest.json" or aside(kept)
    if there == "manifest.json":
        shutil.copy(whole / "v0002" / "provenance.jsonl.zst", home(kept) / "v0002")
        done = called(kept, "repair", "--yes", "--json")
        stays = {each["file"] for each in json.loads(done.stdout)["stays"]}
        assert stays == {"rejected.jsonl.zst", "failed.jsonl.zst", "latest"}
        assert kept.rows(2) == [
            orjson.loads(line)
            for name in (TRAIN, VALIDATION)
            for line in (whole / "v0002" / name).read_bytes().splitlines()
        ]


def test_as_many_repairs_are_foreseen_as_are_done_where_the_newest_version_is_moved_aside(kept: Project) -> None:
    for path in kept.version(2).iterdir():
        if path.name != "README.md":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    told = foreseen(kept)
    assert [each["file"] for each in told["repairs"]] == ["", "latest"]
    assert repaired(kept)["repairs"] == told["repairs"]


def test_links_that_lead_elsewhere_are_not_followed(kept: Project) -> None:
    before = contents(home(kept))
    outside = kept.folder / "outside"
    outside.mkdir()
    (outside / "train-00000-of-00001.jsonl").write_text("mine")
    shutil.rmtree(kept.version(1) / "data")
    (kept.version(1) / "data").symlink_to(outside)
    (home(kept) / "v0009").symlink_to(outside)
    told = repaired(kept, code=8)
    assert {each["version"] for each in told["stays"]} == {"demo@9"}
    assert "nothing is written through it" in told["stays"][0]["what"]
    (home(kept) / "v0009").unlink()
    assert contents(home(kept)) == before
    assert [path.name for path in outside.iterdir()] == ["train-00000-of-00001.jsonl"]


def test_a_manifest_cannot_lead_out_of_its_folder(kept: Project) -> None:
    secret = kept.write("secret.jsonl", "{}\n")
    table = kept.manifest(1)
    table.pop("seal")
    for name in ("../../../secret.jsonl", str(secret), "a\x1b[2J\nb", "manifest.json", "x/../y"):
        table["files"][name] = table["files"][TRAIN]
    path = kept.version(1) / "manifest.json"
    path.write_bytes(sealed(orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n"))
    done = kept.run("repair", "--yes")
    assert done.returncode == 8
    assert "\x1b" not in done.stderr
    assert secret.read_text() == "{}\n" and not list(kept.folder.glob("y"))


def test_a_gap_in_the_numbers_is_nothing(kept: Project) -> None:
    shutil.rmtree(kept.version(1))
    assert foreseen(kept)["repairs"] == []


def test_strays_are_moved_aside(kept: Project) -> None:
    before = contents(home(kept))
    (kept.version(1) / "notes").mkdir()
    (kept.version(1) / "notes" / "mine.txt").write_text("mine")
    (kept.version(1) / "data" / ".train.swp").write_text("swap")
    (kept.version(2) / ".link-README.md").write_text("left")
    (kept.version(2) / "exports").mkdir()
    told = repaired(kept)
    assert of_files(told) == {("demo@1", "notes"), ("demo@1", "data/.train.swp"), ("demo@2", ".link-README.md")}
    (kept.version(2) / "exports").rmdir()
    assert contents(home(kept)) == before
    assert sorted(aside(kept)) == [b"mine", b"swap"]


def test_leftovers_of_crashes_are_cleared(kept: Project) -> None:
    before = contents(home(kept))
    for name in (".staging-v0003", ".staging-v0004", ".staging-v0001.gone"):
        (home(kept) / name / "data").mkdir(parents=True)
        (home(kept) / name / "data" / ".train-00000").write_text("x")
    (home(kept) / ".latest").symlink_to("v0001")
    told = repaired(kept)
    assert {each["how"] for each in told["repairs"]} == {"cleared"} and len(told["repairs"]) == 4
    assert contents(home(kept)) == before


@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_amid_an_exchange_that_takes_renames(kept: Project, renames: int) -> None:
    """Where no system call exchanges two folders: either version is under its name again, and neither is left over."""
    old, new = kept.version(2), home(kept) / ".staging-v-v0002"
    shutil.copytree(old, new)
    before = contents(home(kept))
    assert killed_at(renames + 1, ["rename"], lambda: exchange(new, old, at_once=False))
    hidden = home(kept) / ".exchanging-v0002"
    assert hidden.is_dir() and old.exists() == (renames == 2)
    done = called(kept, "check")
    assert done.exit_code == 8 and "left" in done.stderr and hidden.name in done.stderr
    told = foreseen(kept)
    assert [each["file"] for each in told["repairs"]] == {
        1: ["v0002", ".staging-v-v0002"], 2: [".exchanging-v0002"],
    }[renames]  # fmt: skip
    assert repaired(kept)["repairs"] == told["repairs"]
    assert contents(home(kept)) == {name: each for name, each in before.items() if not name.startswith(".staging")}


def test_the_only_version_under_a_hidden_name(kept: Project) -> None:
    shutil.rmtree(kept.version(1))
    before = contents(home(kept))
    flip(kept.version(2) / TRAIN, random.Random(3))
    kept.version(2).rename(home(kept) / ".exchanging-v0002")
    (home(kept) / ".exchanging-v0009").symlink_to("/etc")  # nobody's
    (home(kept) / ".exchanging-v0008").write_text("mine")
    for arguments in ([], ["demo"]):
        assert "v0002" in called(kept, "check", *arguments).stderr
    [mend] = foreseen(kept)["repairs"]
    assert (mend["file"], mend["exact"]) == ("v0002", False) and "repaired next" in mend["how"]
    repaired(kept)
    left = contents(home(kept))
    assert left.pop(".exchanging-v0008") == b"mine" and left.pop(".exchanging-v0009") == b"/etc" and left == before


@pytest.mark.parametrize("made", ["gone", "nowhere", "outside", "rubbish", "folder", "older", "bytes"])
def test_latest_names_the_newest_whole_version(kept: Project, made: str) -> None:
    link = home(kept) / "latest"
    link.unlink()
    if made in ("nowhere", "outside", "older"):
        link.symlink_to({"nowhere": "v0009", "outside": "../demo/v0001", "older": "v0001"}[made])
    elif made == "folder":
        link.mkdir()
        (link / "x").write_text("x")
    elif made in ("rubbish", "bytes"):
        link.write_bytes(b"v0009\n" if made == "rubbish" else b"\xff\xfe\x1b[2J")
    [mend] = foreseen(kept)["repairs"]
    assert (mend["file"], mend["how"]) == ("latest", "names v0002")
    assert "\x1b" not in kept.run("repair").stderr
    repaired(kept)
    assert str(link.readlink()) == "v0002"


def test_latest_names_no_version_that_stays_damaged(kept: Project) -> None:
    (home(kept) / "latest").unlink()
    (home(kept) / "latest").symlink_to("v0009")
    cut(kept.version(2) / "provenance.jsonl.zst")
    told = repaired(kept, code=8)
    assert str((home(kept) / "latest").readlink()) == "v0001"
    assert {each["version"] for each in told["stays"]} == {"demo@2"}


def test_names_that_mean_nothing(kept: Project) -> None:
    for name, code in (
        ("nowhere", 10), ("demo@9", 10), ("demo@x", 10), ("../demo", 2), ("x" * 300, 2), ("/etc/passwd", 2), ("", 2),
    ):  # fmt: skip
        assert called(kept, "repair", name, "--yes").exit_code == code, name
    assert called(kept, "repair", "--project", "nowhere").exit_code == 10
    assert called(kept, "repair", "--project", "datasets").exit_code == 10


def test_a_newer_format_is_refused_before_anything_is_changed(kept: Project) -> None:
    table = kept.manifest(2)
    table.pop("seal")
    table.update(format=9)
    path = kept.version(2) / "manifest.json"
    path.write_bytes(sealed(orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n"))
    flip(kept.version(1) / TRAIN, random.Random(3))
    before = contents(home(kept))
    done = called(kept, "repair", "--yes")
    assert done.exit_code == 2 and "DG603" in done.stderr
    assert contents(home(kept)) == before
    path.write_bytes(path.read_bytes().replace(b'"format": 9', b'"format": 1'))


@pytest.mark.parametrize("how", ["an edited word", "half of it is gone", "no format of ours in its place"])
def test_a_newer_format_whose_seal_does_not_hold_is_left_alone(kept: Project, how: str) -> None:
    """Written anew as format 1 it would lose what only a newer distillgen knows of."""
    path = kept.version(2) / "manifest.json"
    table = kept.manifest(2)
    table.pop("seal")
    content = sealed(orjson.dumps({**table, "format": 9, "novel": {"a": 1}}, option=orjson.OPT_INDENT_2) + b"\n")
    edits = {
        "an edited word": content.replace(b'"novel"', b'"naval"'),
        "half of it is gone": content[: len(content) // 2],
        "no format of ours in its place": content.replace(b'"format": 9', b'"format": 17'),
    }
    path.write_bytes(edits[how])
    flip(kept.version(1) / TRAIN, random.Random(3))
    before = contents(home(kept))
    for arguments in ([], ["--yes"], ["demo@2", "--yes", "--with-loss"]):
        done = called(kept, "repair", *arguments)
        assert done.exit_code == 2 and "DG603" in done.stderr and "pip install --upgrade" in done.stderr, arguments
        assert contents(home(kept)) == before and not aside(kept)
    assert called(kept, "check", "demo@2").exit_code == 8  # it is damaged all the same


def test_nothing_is_touched_while_a_build_is_at_work(kept: Project) -> None:
    flip(kept.version(1) / TRAIN, random.Random(3))
    before = contents(home(kept))
    with Lock(home(kept) / ".lock"):
        for arguments in ([], ["--yes"]):
            done = kept.run("repair", *arguments)
            assert done.returncode == 11 and "DG701" in done.stderr
    assert contents(home(kept)) == before


# -- hard times ------------------------------------------------------------------------------------------------------


def harm(project: Project) -> None:
    """Damage many things at once, all of which can be mended."""
    draw = random.Random(11)
    for number, name in ((1, TRAIN), (1, "README.md"), (2, VALIDATION), (1, "rejected.jsonl.zst")):
        flip(project.version(number) / name, draw)
    (project.version(1) / "notes.txt").write_text("mine")
    (home(project) / ".staging-v0003").mkdir()
    (home(project) / "latest").unlink()


def is_killed_at(call: int, folder: Path) -> bool:
    """Repair in a process that is killed at its nth call that changes the disk; return whether it was."""
    changes = ("fsync", "rename", "link", "unlink", "rmdir", "mkdir", "symlink", "fchmod")
    return killed_at(call, changes, lambda: list(repair_all(folder / "datasets", None, will_do=True)))


def test_killed_at_any_moment_it_goes_on_where_it_was(kept: Project) -> None:
    before = contents(home(kept))
    harm(kept)
    harmed = kept.folder / "harmed"
    subprocess.run(["cp", "-a", str(home(kept)), str(harmed)], check=True)
    call = 1
    while is_killed_at(call, kept.folder):
        left = contents(home(kept))
        assert left.keys() >= before.keys() - {"latest"}, "no file is ever gone"
        for each in repair_all(kept.folder / "datasets", None, will_do=True):
            assert not each.stays, call
        assert contents(home(kept)) == before, call
        assert b"mine" in aside(kept)
        shutil.rmtree(home(kept))
        subprocess.run(["cp", "-a", str(harmed), str(home(kept))], check=True)
        call += 2
    assert call > 20
    assert contents(home(kept)) == before


@pytest.mark.parametrize("swapped", ["manifests of two versions", "files of one"])
def test_killed_while_swapped_files_go_back(kept: Project, swapped: str) -> None:
    """Each then stands where the other must be, and is nowhere else once that one is back, but where it was put aside."""
    before = contents(home(kept))
    if swapped == "files of one":
        shutil.rmtree(kept.version(1))  # which has one of them too
        before = {name: each for name, each in before.items() if not name.startswith("v0001/")}
        one, other = (kept.version(2) / name for name in SIDECARS[:2])
    else:
        one, other = (kept.version(number) / "manifest.json" for number in (1, 2))
    for path, content in zip((one, other), (other.read_bytes(), one.read_bytes()), strict=True):
        path.write_bytes(content)
    harmed = kept.folder / "harmed"
    subprocess.run(["cp", "-a", str(home(kept)), str(harmed)], check=True)
    call = 1
    while is_killed_at(call, kept.folder):
        for each in repair_all(kept.folder / "datasets", None, will_do=True):
            assert not each.stays, call
        assert contents(home(kept)) == before, call
        shutil.rmtree(home(kept))
        subprocess.run(["cp", "-a", str(harmed), str(home(kept))], check=True)
        call += 1
    assert call > 8


def test_two_at_once(kept: Project) -> None:
    before = contents(home(kept))
    harm(kept)
    both = [kept.start("repair", "--yes") for _ in range(2)]
    codes = [each.wait(timeout=120) for each in both]
    for each in both:
        each.communicate()
    assert set(codes) <= {0, 11} and 0 in codes
    assert contents(home(kept)) == before


def test_a_full_disk_says_so_and_changes_nothing(kept: Project) -> None:
    for number in (1, 2):
        (kept.version(number) / TRAIN).unlink()
    before = contents(home(kept))
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 1; exec "$0" -m distillgen repair --yes', sys.executable],
        cwd=kept.folder, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 12 and "DG703" in done.stderr, done.stderr
    assert "what was mended so far stays mended" in done.stderr and "what was decided" not in done.stderr
    assert {name: content for name, content in contents(home(kept)).items() if "/.mend-" not in name} == before
    repaired(kept)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_one_file_rows_are_the_same_again(kept: Project, seed: int) -> None:
    """Damage of every kind to one file of one version; what cannot be mended is said, and nothing else is touched."""
    draw = random.Random(seed)
    rows, whole = (kept.rows(1), kept.rows(2)), contents(home(kept))
    number, name = draw.choice((1, 2)), draw.choice(FILES)
    path = kept.version(number) / name
    content = path.read_bytes()
    at = draw.randrange(len(content))
    kinds = {
        "cut": content[:at],
        "gone": None,
        "zeros": content[:at] + b"\0" * min(64, len(content) - at) + content[at + 64 :],
        "noise": content[:at] + draw.randbytes(8) + content[at + 8 :],
        "insert": content[:at] + b"??" + content[at:],
    }
    damaged = kinds[draw.choice(sorted(kinds))]
    path.unlink() if damaged is None else path.write_bytes(damaged)
    done = called(kept, "repair", "--yes", "--json")
    told = json.loads(done.stdout)
    findings = [finding for each in check_all(kept.folder / "datasets", None, fast=False) for finding in each.findings]
    assert (done.exit_code == 0) == (not findings) == (not told["stays"])
    assert done.exit_code == 0 or name in SIDECARS
    assert (kept.rows(1), kept.rows(2)) == rows
    if all(each["exact"] for each in told["repairs"]) and done.exit_code == 0:
        assert contents(home(kept)) == whole
