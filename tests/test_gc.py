"""`gc`, `pin`, `unpin`: what nothing needs goes, with its real size; what is in use, needed or pinned never does."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import RECIPE, Project, clean_environment
from loopback import Loopback, Say, answer, reply, words
from published import killed_at
from test_forget import GROWING
from till import called, number_of, priced

from distillgen.files import Lock
from distillgen.preparation import prepare
from distillgen.teacher.answers import AnswerStore
from distillgen.teacher.sent import logs
from distillgen.upkeep.check import check_all
from distillgen.upkeep.collect import Wanted, collect

Told = dict[str, Any]


def seeds(project: Project, count: int, start: int = 0) -> None:
    project.seeds([{"question": f"What is number {n}?"} for n in range(start, start + count)])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with seven versions, of 10 to 16 rows."""
    server, folder = Loopback(), tmp_path_factory.mktemp("built")
    project = Project(folder)
    project.write("recipe.toml", RECIPE.format(url=server.url))
    for count in range(10, 17):
        seeds(project, count)
        project.build()
    server.close()
    return folder


@pytest.fixture
def kept(project: Project, built: Path) -> Project:
    """A copy of it, with the same links."""
    subprocess.run(["cp", "-a", f"{built}/.", str(project.folder)], check=True)
    return project


def home(project: Project) -> Path:
    return project.folder / "datasets" / "demo"


def versions(project: Project) -> list[int]:
    return sorted(int(path.name[1:]) for path in home(project).glob("v0*"))


def collected(project: Project, *arguments: str, yes: bool = True) -> Told:
    done = called(project, "gc", *arguments, "--json", *(["--yes"] if yes else []))
    assert done.exit_code == 0, done.output + done.stderr
    return dict(json.loads(done.stdout))


def paths(told: Told) -> set[str]:
    return {str(each["path"]) for each in told["removals"]}


def tree(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*") if path.name != "lock"}


def blocks(folder: Path) -> int:
    """Return the bytes that a folder takes on disk; a file with several links counts once."""
    inodes = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        inodes[status.st_ino] = status.st_blocks * 512
    return sum(inodes.values())


# -- pins ------------------------------------------------------------------------------------------------------------


def test_pinned_versions_are_listed_and_let_go(kept: Project) -> None:
    assert "demo@2 is pinned" in called(kept, "pin", "demo@2").stderr
    assert "was pinned already" in called(kept, "pin", "demo@2").stderr
    digest = kept.manifest(5)["digest"]
    assert called(kept, "pin", f"demo@sha256:{digest[:12]}").exit_code == 0
    assert called(kept, "pin", "datasets/demo/latest").exit_code == 0
    assert (home(kept) / "pinned").read_text() == "v0002\nv0005\nv0007\n"
    listed = json.loads(called(kept, "log", "--json").stdout)["versions"]
    assert [each["number"] for each in listed if each["pinned"]] == [7, 5, 2]
    assert "demo@2 (pinned)" in kept.run("log", COLUMNS="200").stdout
    for name in ("demo@2", "demo@v5", "demo"):
        assert called(kept, "unpin", name).exit_code == 0
    assert not (home(kept) / "pinned").exists()
    done = called(kept, "unpin", "demo@2")
    assert done.exit_code == 10 and "is not pinned" in done.stderr
    assert called(kept, "check").exit_code == 0


def test_names_that_mean_nothing(kept: Project) -> None:
    shutil.copytree(kept.version(1), kept.folder / "elsewhere")
    for command in ("pin", "unpin"):
        for name, code in (
            ("nowhere@1", 10), ("demo@99", 10), ("demo@x", 10), ("../demo", 2), ("x" * 300, 2), ("elsewhere", 10),
        ):  # fmt: skip
            assert called(kept, command, name).exit_code == code, (command, name)
    for arguments, code in (
        (["nowhere"], 10), (["../demo"], 2), (["--keep", "0"], 2), (["--older-than", "5x"], 2),
        (["demo", "--answers"], 2), (["--project", "nowhere"], 10), (["--state", "nowhere"], 10),
    ):  # fmt: skip
        assert called(kept, "gc", *arguments).exit_code == code, arguments
    assert versions(kept) == [1, 2, 3, 4, 5, 6, 7]


def test_a_damaged_file_of_pins_stops_gc(kept: Project) -> None:
    (home(kept) / "pinned").write_text("v0002\nv3\x1b[2J\n")
    done = called(kept, "gc", "--keep", "1", "--yes")
    assert done.exit_code == 8 and "line 2 names no version" in done.stderr and "\x1b" not in done.stderr
    assert versions(kept) == [1, 2, 3, 4, 5, 6, 7]


def test_a_file_of_pins_that_was_edited_by_hand(kept: Project) -> None:
    """With what editors and people put there: a mark of the encoding, ends of lines, comments, a version long gone."""
    path = home(kept) / "pinned"
    path.write_bytes(b"\xef\xbb\xbf# the paper\r\nv0001  # table 2\r\n\r\nv0099\r\nv2\r\n3")
    assert called(kept, "pin", "demo@2").stderr.strip() == "demo@2 was pinned already"
    collected(kept, "--keep", "1")
    assert versions(kept) == [1, 2, 3, 7]
    assert called(kept, "pin", "demo@7").exit_code == 0
    assert path.read_text() == "# the paper\nv0001  # table 2\n\nv0099\nv2\n3\nv0007\n"
    for number in (99, 2):
        assert called(kept, "unpin", f"demo@{number}").exit_code == 0
    assert path.read_text() == "# the paper\nv0001  # table 2\n\n3\nv0007\n"
    path.unlink()
    path.mkdir()
    for arguments in (["gc", "--yes"], ["pin", "demo@1"]):
        done = called(kept, *arguments)
        assert done.exit_code == 8 and "this is no file" in done.stderr
    assert versions(kept) == [1, 2, 3, 7]


# -- versions --------------------------------------------------------------------------------------------------------


def test_old_versions_go_and_the_newest_stay(kept: Project) -> None:
    before = tree(kept.folder)
    told = collected(kept, yes=False)
    assert paths(told) == {"datasets/demo/v0001", "datasets/demo/v0002"}
    assert tree(kept.folder) == before
    done = called(kept, "gc")
    assert done.exit_code == 0 and "2 things would go" in done.stderr and "`--yes` does it" in done.stderr
    collected(kept)
    assert versions(kept) == [3, 4, 5, 6, 7]
    assert called(kept, "check").exit_code == 0
    assert "nothing to collect" in called(kept, "gc", "--yes").stderr
    assert collected(kept, "demo", "--keep", "1")["removals"][0]["kind"] == "version"
    assert versions(kept) == [7]
    assert called(kept, "check").exit_code == 0 and len(kept.rows(7)) == 16


@pytest.mark.parametrize("keep", [1, 2, 3, 6])
def test_sizes_are_what_really_comes_back(kept: Project, keep: int) -> None:
    """Files that another version shares give nothing back, those that all their versions go with do once."""
    was = blocks(home(kept))
    told = collected(kept, "--keep", str(keep), yes=False)
    assert collected(kept, "--keep", str(keep))["bytes"] == told["bytes"]
    after = blocks(home(kept))
    folder_growth = home(kept).stat().st_blocks * 512
    assert abs(was - after - told["bytes"]) <= folder_growth


def test_pinned_and_needed_versions_stay_and_say_why(kept: Project) -> None:
    """A recipe compares with one, which the recipe of another one needs in turn, whether by number, digest or path."""
    called(kept, "pin", "demo@2")
    digest = kept.manifest(4)["digest"]
    other = RECIPE.replace('name = "demo"', 'name = "other"').format(url="http://127.0.0.1:1")
    named = f'near = 0.8\nagainst = ["demo@1", "demo@sha256:{digest[:16]}", "datasets/demo/v0003"]'
    kept.write("other.toml", other.replace("near = 0.8", named))
    told = collected(kept, "--keep", "1")
    assert versions(kept) == [1, 2, 3, 4, 7]
    why = {each["version"]: each["why"] for each in told["kept"]}
    assert why["demo@2"] == "pinned" and {why[f"demo@{n}"] for n in (1, 3, 4)} == {"a recipe compares with it"}
    (kept.folder / "other.toml").unlink()
    collected(kept, "--keep", "1")
    assert versions(kept) == [2, 7]


def test_a_version_that_a_published_version_compares_with_stays(kept: Project, loopback: Loopback) -> None:
    text = RECIPE.replace('name = "demo"', 'name = "other"').format(url=loopback.url)
    kept.write("other.toml", text.replace("near = 0.8", 'near = 0.8\nagainst = ["demo@3"]'))
    kept.seeds([{"question": "What is number 5?"}, {"question": "What is number 77?"}])
    assert kept.run("build", "other.toml").returncode == 0
    (kept.folder / "other.toml").unlink()
    told = collected(kept, "--keep", "1")
    assert versions(kept) == [3, 7]
    assert [each["why"] for each in told["kept"]] == ["other@1 compares with it"]


def test_latest_stays_wherever_it_points(kept: Project) -> None:
    (home(kept) / "latest").unlink()
    (home(kept) / "latest").symlink_to("v0002")
    collected(kept, "--keep", "1")
    assert versions(kept) == [2, 7]


def test_what_cannot_be_read_stops_gc(kept: Project) -> None:
    path = kept.version(6) / "manifest.json"
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"{")
    assert called(kept, "gc", "--yes").exit_code == 8
    path.write_bytes(content.replace(b'"format": 1', b'"format": 9'))
    assert called(kept, "gc", "--yes").exit_code == 2
    assert versions(kept) == [1, 2, 3, 4, 5, 6, 7]
    path.write_bytes(content)
    path = kept.version(1) / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(b"{")
    collected(kept)
    assert versions(kept) == [3, 4, 5, 6, 7], "what goes need not be readable"


def test_nothing_goes_while_a_build_is_at_work(kept: Project) -> None:
    for lock in (kept.folder / ".distillgen" / "lock", home(kept) / ".lock"):
        with Lock(lock):
            for arguments in ([], ["--yes"], ["demo", "--yes"]):
                assert called(kept, "gc", *arguments).exit_code == 11
    with Lock(home(kept) / ".lock"):
        assert called(kept, "pin", "demo@1").exit_code == 11
    assert versions(kept) == [1, 2, 3, 4, 5, 6, 7]


def test_a_reader_of_latest_never_finds_less_than_a_version(kept: Project) -> None:
    """While versions are published and others removed."""
    code = (
        "import sys, time, pathlib, orjson\n"
        "end = time.time() + 4\n"
        "print('ready', flush=True)\n"
        "while time.time() < end:\n"
        "    folder = pathlib.Path('datasets/demo/latest').resolve()\n"
        "    manifest = orjson.loads((folder / 'manifest.json').read_bytes())\n"
        "    rows = sum(len((folder / f).read_bytes().splitlines()) for f in manifest['files'] if f[:4] == 'data')\n"
        "    assert rows == manifest['rows']\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=kept.folder, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        for keep in (6, 5, 4, 3, 2, 1):
            collected(kept, "--keep", str(keep))
        assert reader.wait(timeout=60) == 0


# -- leftovers and caches --------------------------------------------------------------------------------------------


def test_leftovers_go(kept: Project) -> None:
    state = kept.folder / ".distillgen"
    for path in (
        home(kept) / ".staging-v0008" / "data" / "x", home(kept) / "refused" / "README.md",
        home(kept) / ".damaged" / "v0001" / "x", state / "spool" / "x", state / "batches" / "queue-ab-000001.jsonl",
        state / "batches" / "ab-000001.json", state / "logs" / "old.log", state / "logs" / "new.log",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    os.utime(state / "logs" / "old.log", (0, 0))
    told = collected(kept, "--keep", "9")
    assert {(each["kind"], Path(each["path"]).name) for each in told["removals"]} == {
        ("leftover", ".staging-v0008"), ("refused", "refused"), ("spool", "x"), ("leftover", "queue-ab-000001.jsonl"),
        ("log", "old.log"),
    }  # fmt: skip
    assert (state / "batches" / "ab-000001.json").exists() and (state / "logs" / "new.log").exists()
    assert (home(kept) / ".damaged" / "v0001" / "x").exists()
    assert paths(collected(kept, "--damaged", "--keep", "9")) == {"datasets/demo/.damaged"}
    assert not (home(kept) / ".damaged").exists() and versions(kept) == [1, 2, 3, 4, 5, 6, 7]


def test_what_an_exchange_or_a_forget_left_in_a_crash(kept: Project) -> None:
    """The version that has only its hidden name gets its own back; where another has it, the hidden one goes."""
    kept.version(7).rename(home(kept) / ".exchanging-v0007")
    shutil.copytree(kept.version(6), home(kept) / ".exchanging-v0006")
    (home(kept) / ".forgotten.txt.x1y2").write_text("x")
    note = kept.folder / ".distillgen" / "forgetting" / ".ab.json.x1y2"
    note.parent.mkdir()
    note.write_text("x")
    before = tree(kept.folder)
    told = collected(kept, "--keep", "9", yes=False)
    assert tree(kept.folder) == before
    left = {".exchanging-v0006", ".forgotten.txt.x1y2", note.name}
    assert {Path(each["path"]).name for each in told["removals"]} == left
    assert told["kept"] == [{"version": "demo/v0007", "why": "a crash hid it, and it gets its name back"}]
    assert paths(collected(kept, "--keep", "9")) == paths(told) and not list(home(kept).glob(".exchanging*"))
    assert versions(kept) == [1, 2, 3, 4, 5, 6, 7] and not note.exists()
    assert called(kept, "check").exit_code == 0


def test_indexes_of_what_is_gone_go(project: Project, loopback: Loopback) -> None:
    project.write("known.jsonl", '{"answer": "Something that was known before all of this began"}\n')
    text = RECIPE.format(url=loopback.url).replace("near = 0.8", 'near = 0.8\nagainst = ["other@1", "known.jsonl"]')
    project.write("other.toml", RECIPE.replace('name = "demo"', 'name = "other"').format(url=loopback.url))
    project.write("recipe.toml", text)
    seeds(project, 5, 100)
    assert project.run("build", "other.toml").returncode == 0
    seeds(project, 5)
    project.build()
    indexes = list((project.folder / ".distillgen" / "near").glob("*/*/*"))
    assert len(indexes) == 2
    assert collected(project)["removals"] == []
    project.write("known.jsonl", '{"answer": "Something else"}\n')
    [removal] = collected(project)["removals"]
    assert removal["kind"] == "index" and len([each for each in indexes if each.exists()]) == 1
    shutil.rmtree(project.folder / "datasets" / "other")
    assert [each["kind"] for each in collected(project)["removals"]] == ["index"]
    assert not any(each.exists() for each in indexes)


# -- answers ---------------------------------------------------------------------------------------------------------


def keys(project: Project) -> set[bytes]:
    with contextlib.closing(sqlite3.connect(project.folder / ".distillgen" / "answers.sqlite")) as store:
        return {key for (key,) in store.execute("SELECT key FROM answers")}


def age(project: Project) -> None:
    """Make all answers old."""
    with contextlib.closing(sqlite3.connect(project.folder / ".distillgen" / "answers.sqlite")) as store:
        store.execute("UPDATE answers SET received = received - 100 * 86400")
        store.commit()


def odd_ones(body: dict[str, Any]) -> Say:
    """Answer; numbers 3 and 4 are too short, which a rule rejects."""
    return reply("Too short") if number_of(body) in (3, 4) else answer(body)


def test_unused_answers_go_when_they_are_old_and_a_build_asks_for_nothing(
    project: Project, loopback: Loopback
) -> None:  # fmt: skip
    loopback.behave = odd_ones
    priced(project, loopback, 12)
    project.build()
    first = keys(project)
    project.edit("max_tokens = 100", "max_tokens = 101")
    seeds(project, 8)
    project.build()
    assert len(keys(project)) == 20
    assert collected(project, "--answers")["answers"]["unused"] == 0, "demo@1 holds its answers"
    age(project)
    assert collected(project, "--answers")["answers"]["unused"] == 0
    collected(project, "--keep", "1")
    told = collected(project, "--answers", "--older-than", "200d")["answers"]
    assert told["unused"] == 0 and told["stored"] == 20
    told = collected(project, "--answers", yes=False)["answers"]
    assert told["unused"] == 12 and told["prompt_tokens"] == 12 * 7 and told["completion_tokens"] > 0
    with contextlib.closing(AnswerStore(project.folder / ".distillgen" / "answers.sqlite")) as store:
        spent = store.spent()
    of = spent.prompt_tokens + spent.completion_tokens
    share = (told["prompt_tokens"] + told["completion_tokens"]) / of
    assert told["usd"] == pytest.approx(spent.nanousd / 1e9 * share)
    done = called(project, "gc", "--answers")
    assert "12 of 20 are needed by nothing here" in done.stderr and "about $" in done.stderr
    assert len(keys(project)) == 20
    collected(project, "--answers")
    assert not first & keys(project) and len(keys(project)) == 8
    asked = loopback.seen
    project.build("--offline")
    assert loopback.seen == asked
    with contextlib.closing(AnswerStore(project.folder / ".distillgen" / "answers.sqlite")) as store:
        assert store.spent() == spent, "what was spent stays on record"


def test_a_dry_run_counts_with_the_versions_that_would_go(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 12)
    project.build()
    project.edit("max_tokens = 100", "max_tokens = 101")
    project.build()
    age(project)
    project.edit("{{ answer }}", "{{ answer }}.")
    project.build()
    assert collected(project, "--answers", "--keep", "1", yes=False)["answers"]["unused"] == 12
    assert collected(project, "--answers", "--keep", "1")["answers"]["unused"] == 12
    assert versions(project) == [3] and len(keys(project)) == 12


def test_what_a_build_that_is_not_finished_has_stays(project: Project, loopback: Loopback) -> None:
    """Of a build that its budget stopped, or a limit, and of rows that were rejected."""
    loopback.behave = odd_ones
    priced(project, loopback, 12)
    project.build("--limit", "6", "--no-publish")
    age(project)
    assert collected(project, "--answers")["answers"]["unused"] == 0
    project.build("--limit", "6")
    age(project)
    assert collected(project, "--answers")["answers"]["unused"] == 0
    with project.recipe.open("a") as recipe:
        recipe.write("\ntarget_rows = 2\n")
    assert collected(project, "--answers")["answers"]["unused"] == 0


def test_what_a_build_without_the_excluded_rows_has_stays(project: Project, loopback: Loopback) -> None:
    """Examples are drawn from another pool then; and the rows may come back, which drew from the whole one."""
    project.write(
        "prompts/invent.toml", 'description = "x"\nuser = "Like {{ examples | join(\' or \') }}: invent one"\n'
    )
    project.write("recipe.toml", GROWING.format(url=loopback.url))
    project.seeds([{"question": f"What would number {n} and the number {n} be?"} for n in range(6)])
    loopback.behave = lambda body: reply(words(str(body)))
    project.build("--no-publish")
    whole = keys(project)
    seed = next(iter(prepare(project.recipe).seeds)).id
    project.write("ids.txt", f"{seed}\n")
    with project.recipe.open("a") as recipe:
        recipe.write('[dataset]\nexclude = "ids.txt"\n')
    project.build("--no-publish")
    assert len(keys(project)) > len(whole) > 0
    age(project)
    assert collected(project, "--answers")["answers"]["unused"] == 0


def asks_for_json(project: Project, loopback: Loopback) -> None:
    """Write a recipe whose replies must follow a schema, so that one that does not is asked for again."""
    text = RECIPE.format(url=loopback.url).replace('prompt = "answer"', 'prompt = "mine"')
    project.write("recipe.toml", text.replace('rules = ["not_empty", "not_truncated", "not_refusal", ', "rules = ["))
    project.write(
        "prompts/mine.toml",
        'description = "d"\noutput = "json"\nuser = "{{ question }}"\nwrites = ["answer"]\n[schema]\ntype = "object"\n'
        'required = ["answer"]\n[schema.properties.answer]\ntype = "string"\n',
    )


def test_re_asked_and_refused_structured_replies_stay(project: Project, loopback: Loopback) -> None:
    """Their first replies are in no provenance, and a build looks at them all the same."""
    asks_for_json(project, loopback)
    seeds(project, 6)
    bad = {1: 1, 2: 9}  # number 1 once, number 2 always

    def behave(body: dict[str, Any]) -> Say:
        number = int(body["messages"][0]["content"].split()[-1].rstrip("?")) if body["messages"] else 0
        number = next(n for n in range(6) if f"number {n}?" in json.dumps(body["messages"]))
        if bad.get(number, 0) > 0:
            bad[number] -= 1
            return reply("no JSON")
        return reply(json.dumps({"answer": f"A long enough answer about the number {number} and what it is {number}"}))

    loopback.behave = behave
    done = project.run("build")
    assert done.returncode in (0, 3), done.stderr
    assert any(record.get("asked") == 2 for row in project.sidecar("provenance") for record in row["steps"])
    stored = keys(project)
    age(project)
    assert collected(project, "--answers")["answers"]["unused"] == 0
    assert keys(project) == stored
    asked = loopback.seen
    project.run("build")
    assert loopback.seen == asked


def test_replies_asked_again_of_a_version_that_was_built_with_other_figures_stay(
    project: Project, loopback: Loopback
) -> None:  # fmt: skip
    """`--set` stands in the version's manifest, not in the recipe; the first replies stand in no provenance."""
    asks_for_json(project, loopback)
    seeds(project, 4)
    first = set[str]()

    def behave(body: dict[str, Any]) -> Say:
        asked = body["messages"][0]["content"] + str(body.get("seed"))
        if asked not in first:
            first.add(asked)
            return reply("no JSON")
        return reply(json.dumps({"answer": f"A long enough answer, which says {len(first)} things about {asked}"}))

    loopback.behave = behave
    sets = ("--set", "steps.0.samples=2", "--set", "teachers.main.sampling={max_tokens=77}", "--set", "name=demo")
    project.build(*sets)
    assert project.manifest()["overrides"]["steps[0].samples"] == 2
    stored = keys(project)
    age(project)
    assert collected(project, "--answers")["answers"]["unused"] == 0
    asked = loopback.seen
    project.build("--offline", *sets)
    assert loopback.seen == asked and keys(project) == stored
    project.edit('prompt = "mine"', 'prompt = "answer"')
    told = collected(project, "--answers", yes=False)["answers"]
    assert 0 < told["unused"] < told["stored"], "the recipe is another now: what the version's rows name stays"


def test_whose_answers_they_are_must_be_known(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 4)
    project.build()
    other = project.recipe.read_text().replace('name = "demo"', 'name = "other"').replace("= 100", "= 102")
    elsewhere = project.write("recipes/other.toml", other.replace('path = "seeds.jsonl"', 'path = "../seeds.jsonl"'))
    assert project.run("build", "recipes/other.toml", "--state", ".distillgen").returncode == 0
    age(project)
    done = called(project, "gc", "--answers", "--yes")
    assert done.exit_code == 2 and "'other'" in done.stderr and "--even-of other" in done.stderr
    assert len(keys(project)) == 8
    recipes = ("--recipe", "recipe.toml", "--recipe", str(elsewhere.relative_to(project.folder)))
    assert collected(project, "--answers", *recipes)["answers"]["unused"] == 0
    assert collected(project, "--answers", "--even-of", "other")["answers"]["unused"] == 4
    assert len(keys(project)) == 4


def test_a_recipe_that_cannot_be_read_stops_it(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 4)
    project.build()
    age(project)
    stored = keys(project)
    project.write("second.toml", "name = [")
    done = called(project, "gc", "--answers", "--yes")
    assert done.exit_code == 2 and "not valid TOML" in done.stderr
    assert "nobody can tell which answers it needs in second.toml" in done.stderr and "--even-of NAME" in done.stderr
    (project.folder / "second.toml").unlink()
    (project.folder / "seeds.jsonl").unlink()
    assert called(project, "gc", "--answers", "--yes").exit_code == 2
    assert keys(project) == stored


def test_seeds_that_came_once_stop_it(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 4)
    project.build()
    project.edit('path = "seeds.jsonl"', 'path = "-"')
    done = called(project, "gc", "--answers", "--yes")
    assert done.exit_code == 2 and "standard input" in done.stderr


def test_answers_of_which_no_payer_is_on_record_stop_it(project: Project, loopback: Loopback) -> None:
    """An early distillgen stored answers, and kept no record of spending."""
    priced(project, loopback, 4)
    project.build()
    with contextlib.closing(sqlite3.connect(project.folder / ".distillgen" / "answers.sqlite")) as store:
        store.execute("DELETE FROM spending")
        store.execute("INSERT INTO answers VALUES (?, ?, ?, 0, 1, 'x')", (b"k" * 32, b"{}", b"d"))
        store.commit()
    done = called(project, "gc", "--answers", "--yes")
    assert done.exit_code == 2 and "--even-of unrecorded" in done.stderr
    told = collected(project, "--answers", "--even-of", "unrecorded")["answers"]
    assert (told["unused"], told["usd"]) == (1, None) and len(keys(project)) == 4


def test_provenance_that_cannot_be_read_stops_it(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 4)
    project.build()
    path = project.version() / "provenance.jsonl.zst"
    path.chmod(0o644)
    content = path.read_bytes()
    for damaged in (content[:50], content[:-10], b"", content[:-30] + bytes(1) + content[-29:]):
        path.write_bytes(damaged)
        done = called(project, "gc", "--answers", "--yes")
        assert done.exit_code == 8 and "distillgen repair" in done.stderr


def test_outside_of_a_project_it_says_what_check_and_repair_say(tmp_path: Path) -> None:
    outside = Project(tmp_path)
    said = set()
    for command in (["gc"], ["gc", "--yes"], ["check"], ["repair"], ["log"], ["forget", "mzx5k7aq2bnv3c4d"]):
        done = called(outside, *command)
        assert done.exit_code == 10, (command, done.stderr)
        said.add(done.stderr)
    assert len(said) == 1 and "no dataset here" in said.pop() and list(tmp_path.iterdir()) == []
    (tmp_path / ".distillgen").mkdir()
    assert called(outside, "gc").exit_code == 0, "a build that published nothing may have left something"


def test_no_answers_at_all(kept: Project) -> None:
    shutil.rmtree(kept.folder / ".distillgen")
    assert collected(kept, "--answers", "--keep", "9")["answers"]["stored"] == 0
    assert not (kept.folder / ".distillgen").exists()


def fill(project: Project, count: int, size: int) -> None:
    """Store answers that nothing needs."""
    path = project.folder / ".distillgen" / "answers.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as store:
        [teacher] = store.execute("SELECT DISTINCT teacher FROM spending").fetchone()
        rows = [(os.urandom(32), os.urandom(size), b"x", 0.0, 1.0, teacher) for _ in range(count)]
        store.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", rows)
        store.commit()


def test_space_really_comes_back(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 4)
    project.build()
    path = project.folder / ".distillgen" / "answers.sqlite"
    small = path.stat().st_size
    fill(project, 500, 10_000)
    assert path.stat().st_size > 5_000_000
    told = collected(project, "--answers", yes=False)["answers"]
    assert told["unused"] == 500 and 5_000_000 < told["bytes"] < 6_000_000 and told["usd"] == 0
    told = collected(project, "--answers")["answers"]
    assert path.stat().st_size <= small and told["bytes_freed"] > 5_000_000
    assert not path.with_name("answers.sqlite-wal").exists() or not path.with_name("answers.sqlite-wal").stat().st_size
    project.build("--offline")


def test_a_full_disk_says_so_and_loses_nothing_that_is_needed(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 4)
    project.build()
    stored = keys(project)
    fill(project, 300, 20_000)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 500; exec "$0" -m distillgen gc --answers --yes', sys.executable],
        cwd=project.folder, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 12 and "DG703" in done.stderr, done.stderr
    assert "what was decided" not in done.stderr
    assert stored <= keys(project)
    collected(project, "--answers")
    assert keys(project) == stored


def test_a_pipe_at_work_keeps_the_answers(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 4)
    project.build()
    loopback.behave = lambda body: Say(body=answer(body).body, wait=30)
    command = [sys.executable, "-m", "distillgen", "generate", "-p", "answer", "--base-url", loopback.url, "-m", "x"]
    with subprocess.Popen(
        command, cwd=project.folder, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as pipe:
        assert pipe.stdin is not None
        pipe.stdin.write(b'{"question": "What is number 1?"}\n')
        pipe.stdin.flush()
        try:
            while not logs(project.folder / ".distillgen", live=True):
                assert pipe.poll() is None
            done = called(project, "gc", "--answers", "--yes")
        finally:
            pipe.kill()
    assert done.exit_code == 11 and "a pipe" in done.stderr


# -- hard times ------------------------------------------------------------------------------------------------------


def is_killed_at(call: int, project: Project) -> bool:
    """Collect in a process that is killed at its nth call that changes the disk; return whether it was."""
    state, keeps = project.folder / ".distillgen", Wanted(keep=5)
    changes = ("fsync", "rename", "unlink", "rmdir")
    return killed_at(call, changes, lambda: collect(project.folder, state, None, keeps, will_do=True))


def test_killed_at_any_moment_no_version_is_half(kept: Project) -> None:
    shutil.copytree(home(kept), kept.folder / "whole", symlinks=True)
    call = 1
    while is_killed_at(call, kept):
        findings = [
            each for checked in check_all(kept.folder / "datasets", None, fast=True) for each in checked.findings
        ]
        assert not findings, call
        collected(kept)
        assert versions(kept) == [3, 4, 5, 6, 7]
        assert not list(home(kept).glob(".staging*"))
        shutil.rmtree(home(kept))
        shutil.copytree(kept.folder / "whole", home(kept), symlinks=True)
        call += 2
    assert call > 15


def test_what_a_killed_gc_left_the_next_build_or_repair_clears(kept: Project) -> None:
    kept.version(1).rename(home(kept) / ".staging-v0001.gone")
    assert called(kept, "repair", "--yes").exit_code == 0
    assert not list(home(kept).glob(".staging*"))
    kept.version(2).rename(home(kept) / ".staging-v0002.gone")
    kept.build("--offline")
    assert not list(home(kept).glob(".staging*"))


def test_a_gc_of_answers_that_is_killed_loses_none_that_is_needed(project: Project, loopback: Loopback) -> None:
    priced(project, loopback, 4)
    project.build()
    stored = keys(project)
    for wait in (0.35, 0.45, 0.55, 0.65, 0.8, 1.0):
        fill(project, 300, 20_000)
        running = project.start("gc", "--answers", "--yes")
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(wait)
        running.kill()
        running.communicate()
        assert stored <= keys(project)
    collected(project, "--answers")
    assert keys(project) == stored
    project.build("--offline")


def test_two_at_once(kept: Project) -> None:
    both = [kept.start("gc", "--yes") for _ in range(2)]
    codes = [each.wait(timeout=120) for each in both]
    for each in both:
        each.communicate()
    assert set(codes) <= {0, 11} and 0 in codes
    assert versions(kept) == [3, 4, 5, 6, 7]
    assert called(kept, "check").exit_code == 0
