"""`[dataset] exclude`: what it names is rejected before a teacher is asked, with its evidence, and counted."""

import json
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import RECIPE, Project
from loopback import Loopback, Say, answer, reply, words
from till import called

from distillgen.excluded import Excluded, covers, origin_of, parent_of, read_excluded
from distillgen.upkeep.check import check_all


def ids(project: Project, number: int = 1) -> list[str]:
    return [row["id"] for row in project.rows(number)]


def id_of(project: Project, question: int, number: int = 1) -> str:
    """Return the id of the row of a question."""
    records = [*project.sidecar("provenance", number), *project.sidecar("rejected", number)]
    return str(
        next(each["origin"] for each in records if each["columns"].get("question") == f"What is number {question}?")
    )


def excluding(project: Project, text: str | bytes, name: str = "ids.txt") -> None:
    (project.folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    if "exclude" not in project.recipe.read_text():
        project.edit("[dataset]", f'[dataset]\nexclude = "{name}"')


def asked(loopback: Loopback) -> list[str]:
    return [body["messages"][-1]["content"] for body in loopback.bodies]


def sampled(project: Project, loopback: Loopback, samples: int = 3, more: str = "") -> Project:
    text = RECIPE.format(url=loopback.url).replace('prompt = "answer"', f'prompt = "answer"\nsamples = {samples}{more}')
    project.write("recipe.toml", text)
    loopback.behave = Drawn()
    project.seeds([{"question": f"What is number {n}?"} for n in range(5)])
    return project


class Drawn:
    """Another answer to every request."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, body: dict[str, Any]) -> Say:
        self.count += 1
        return reply(words(f"{body['messages'][-1]['content']} {self.count}"))


def whole(project: Project) -> bool:
    return not [
        finding for each in check_all(project.folder / "datasets", None, fast=False) for finding in each.findings
    ]


# -- the file --------------------------------------------------------------------------------------------------------


def test_a_file_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    one, two = "a" * 16, "2.bootstrap-1-3"
    path.write_bytes(f"\ufeff# why\r\n\r\n{one}  # a person\r\n  {two}.0\t\r\n{one}\r\n{one}-2.0.1".encode())
    entries, problems = read_excluded(path, "ids.txt")
    assert not problems
    assert {row_id: entry.where for row_id, entry in entries.items()} == {
        one: "ids.txt:3", f"{two}.0": "ids.txt:4", f"{one}-2.0.1": "ids.txt:6",
    }  # fmt: skip
    path.write_bytes(b"")
    assert read_excluded(path, "ids.txt") == ({}, [])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"abc", "'abc' cannot be an id"),
        (b"MZX5K7AQ2BNV3C4D", "cannot be an id"),
        (b"mzx5k7aq2bnv3c4d.x", "cannot be an id"),
        (b"mzx5k7aq2bnv3c4d mzx5k7aq2bnv3c4d", "cannot be an id"),
        (b"mzx5k7aq2bnv3c4d.*", "is a pattern"),
        (b"\xff\xfem\x00z\x00", "save it as UTF-8"),
        ("é".encode("latin-1"), "not UTF-8"),
        (b"\x1b[2J", r"'\x1b[2J'"),
        (b"x" * 100_000, "cannot be an id"),
    ],
    ids=["short", "capitals", "no-number", "two", "pattern", "utf-16", "latin-1", "escape", "endless"],
)
def test_lines_that_can_be_no_id(demo: Project, loopback: Loopback, content: bytes, what: str) -> None:
    excluding(demo, b"mzx5k7aq2bnv3c4d\n" + content + b"\n")
    for command in ("build", "plan"):
        done = called(demo, command)
        assert done.exit_code == 2 and what in done.stderr and "ids.txt:2" in done.stderr, done.stderr
        assert "\x1b" not in done.stderr and len(done.stderr) < 2000
    assert not loopback.bodies and not (demo.folder / "datasets").exists()


def test_files_that_cannot_be_read(demo: Project, loopback: Loopback) -> None:
    excluding(demo, "")
    os.mkfifo(demo.folder / "pipe")  # which would be waited for
    for name, what in (
        ("gone.txt", "cannot read 'gone.txt': No such file"), ("*.txt", "is a pattern; one file is wanted"),
        (".", "Is a directory"), ("", "Is a directory"), ("pipe", "'pipe' is no file"), ("/dev/zero", "is no file"),
    ):  # fmt: skip
        done = called(demo, "build", "--set", f"dataset.exclude={json.dumps(name)}")
        assert done.exit_code == 2 and what in done.stderr and "dataset.exclude" in done.stderr, done.stderr
    demo.edit('exclude = "ids.txt"', 'exclude = "gone.txt"')
    done = called(demo, "build")
    assert done.exit_code == 2 and "recipe.toml:" in done.stderr and "(dataset.exclude)" in done.stderr
    assert not loopback.bodies


def test_many_wrong_lines_are_counted(demo: Project) -> None:
    excluding(demo, "nonsense\n" * 500)
    done = called(demo, "build")
    assert done.exit_code == 2 and "... and 490 more lines that are no ids" in done.stderr


def test_what_an_id_says_of_a_row() -> None:
    assert origin_of("a.2.0") == "a" and parent_of("a.2.0") == "a.2" and parent_of("a") is None
    assert origin_of("2.bootstrap-1-3.0") == "2.bootstrap-1-3" and parent_of("2.bootstrap-1-3") is None
    assert covers("a.2.0", "a") and covers("a.2.0", "a.2") and covers("a", "a")
    assert not covers("a.2", "a.2.0") and not covers("a-2", "a") and not covers("a.20", "a.2")


# -- seeds -----------------------------------------------------------------------------------------------------------


def test_a_seed_is_left_out_before_it_is_asked_about(demo: Project, loopback: Loopback) -> None:
    demo.build()
    out = id_of(demo, 7)
    (demo.folder / ".distillgen" / "answers.sqlite").unlink()
    loopback.bodies.clear()
    excluding(demo, f"# somebody\n{out}\n")
    demo.build()
    assert len(loopback.bodies) == 19 and not [each for each in asked(loopback) if "number 7?" in each]
    assert out not in ids(demo, 2) and len(ids(demo, 2)) == len(ids(demo)) - (out in ids(demo))
    record = next(each for each in demo.sidecar("rejected", 2) if each["id"] == out)
    assert (record["step"], record["rule"], record["detail"]) == ("exclude", "excluded", "ids.txt:2 names it")
    assert record["columns"] == {"question": "What is number 7?"} and record["steps"] == []
    first = demo.manifest(2)["funnel"][0]
    assert (first["step"], first["in"], first["out"], first["rejected"]) == ("exclude", 20, 19, {"excluded": 1})
    assert demo.manifest(2)["digest"] != demo.manifest(1)["digest"] and whole(demo)
    assert "nothing changed" in demo.build().stderr and not demo.version(3).exists()
    shown = called(demo, "show", "demo", "--rejected", "--rule", "excluded")
    assert out in shown.stdout and "ids.txt:2 names it" in shown.stdout
    assert "rejected by exclude: excluded" in called(demo, "trace", out, "demo").stdout


def test_other_rows_are_what_they_were(demo: Project) -> None:
    demo.build()
    out = ids(demo)[3]
    excluding(demo, out)
    demo.build()
    assert [row for row in demo.rows() if row["id"] != out] == demo.rows(2)
    kept = [each for each in demo.sidecar("provenance") if each["id"] != out]
    assert kept == demo.sidecar("provenance", 2)


def test_nothing_in_it_changes_nothing(demo: Project) -> None:
    demo.build()
    excluding(demo, "# nobody yet\n")
    assert "nothing changed" in demo.build().stderr


def test_a_plan_counts_what_is_left_out(demo: Project, loopback: Loopback) -> None:
    demo.build("--limit", "5")
    out = [id_of(demo, 0), id_of(demo, 1)]
    excluding(demo, "\n".join(out))
    told = json.loads(called(demo, "plan", "--json").stdout)
    assert told["left_out"] == {"excluded": 2, "forgotten": 0} and told["seeds"] == 20
    assert (told["steps"][0]["calls"], told["steps"][0]["stored"]) == (15, 3)
    assert "left out 2 excluded: no teacher is asked about them" in called(demo, "plan").stdout
    assert len(loopback.bodies) == 5


def test_ids_that_nothing_has_are_named_with_the_nearest(demo: Project) -> None:
    demo.build("--no-publish")
    demo.build()
    right = ids(demo)[0]
    wrong = right[:3] + ("b" if right[3] != "b" else "c") + right[4:]
    excluding(demo, f"{wrong}\n{'z' * 16}\n{right}.7\n{ids(demo)[1]}\n")
    done = demo.build()
    assert "warning: 3 of 4 ids to exclude are of no seed and no row in ids.txt" in done.stderr
    assert f"line 1: '{wrong}'; did you mean '{right}'?" in done.stderr
    assert f"line 2: '{'z' * 16}'\n" in done.stderr
    assert f"line 3: '{right}.7'; its seed is there, and made no such row" in done.stderr
    assert "line 4" not in done.stderr
    assert "to exclude" not in demo.build("--limit", "4").stderr  # what comes later may be what they are of


def test_a_target_and_a_partial_version_go_past_what_is_left_out(demo: Project, loopback: Loopback) -> None:
    demo.build()
    excluding(demo, "\n".join([id_of(demo, 0), id_of(demo, 2)]))
    demo.edit("[dataset]", "[dataset]\ntarget_rows = 4")
    demo.build()
    questions = {each["columns"]["question"][-2] for each in demo.sidecar("provenance", 2)}
    assert questions == {"1", "3", "4", "5"} and len(demo.rows(2)) == 4 and whole(demo)
    funnel = demo.manifest(2)["funnel"][0]
    assert funnel["in"] == funnel["out"] + funnel["rejected"]["excluded"] == demo.manifest(2)["seeds"]["count"] == 6


def test_everything_excluded(demo: Project, loopback: Loopback) -> None:
    demo.build()
    excluding(demo, "\n".join(sorted({*ids(demo), *(each["id"] for each in demo.sidecar("rejected"))})))
    done = demo.run("build")
    assert done.returncode == 6 and "excluded 20" in done.stderr and not demo.version(2).exists()


# -- rows ------------------------------------------------------------------------------------------------------------


def test_a_sample_is_left_out_before_it_is_asked_for(project: Project, loopback: Loopback) -> None:
    sampled(project, loopback)
    project.build()
    seed = id_of(project, 1)
    assert len(loopback.bodies) == 15 and {f"{seed}.{n}" for n in range(3)} <= set(ids(project))
    (project.folder / ".distillgen" / "answers.sqlite").unlink()
    loopback.bodies.clear()
    excluding(project, f"{seed}.2\n")
    project.build()
    assert len(loopback.bodies) == 14
    assert {f"{seed}.0", f"{seed}.1"} <= set(ids(project, 2)) and f"{seed}.2" not in ids(project, 2)
    record = next(each for each in project.sidecar("rejected", 2) if each["id"] == f"{seed}.2")
    assert (record["step"], record["rule"], record["origin"], record["parent"]) == (
        "1.generate",
        "excluded",
        seed,
        seed,
    )
    generate = next(each for each in project.manifest(2)["funnel"] if each["step"] == "1.generate")
    assert (generate["in"], generate["born"], generate["out"], generate["rejected"]) == (5, 10, 14, {"excluded": 1})
    assert whole(project) and "nothing changed" in project.build().stderr
    told = json.loads(called(project, "plan", "--json").stdout)
    assert told["steps"][0] == {
        "step": "1.generate",
        "rows": 15,
        "calls": 0,
        "stored": 14,
        "more": None,
        "rounds": None,
    }


def test_the_first_sample_left_out(project: Project, loopback: Loopback) -> None:
    sampled(project, loopback)
    project.build()
    seed = id_of(project, 0)
    excluding(project, f"{seed}.0\n{seed}.1")
    project.build()
    generate = next(each for each in project.manifest(2)["funnel"] if each["step"] == "1.generate")
    assert (generate["in"], generate["born"], generate["out"], generate["rejected"]) == (5, 10, 13, {"excluded": 2})
    assert whole(project)


def test_samples_that_are_asked_for_together(project: Project, loopback: Loopback) -> None:
    """A provider that takes `n` is not asked for the one that is left out."""
    text = RECIPE.format(url=loopback.url).replace("base_url = ", 'provider = "openai"\nbase_url = ')
    text = text.replace('model = "scripted"', 'model = "gpt-4o-mini"\nprices = { free = true }\napi_key_env = "KEY"')
    project.write(
        "recipe.toml",
        text.replace('prompt = "answer"', 'prompt = "answer"\nsamples = 4')
        + '\n[terms]\npurpose = "evaluation"\ncompeting = "no"\n',
    )
    project.seeds([{"question": "What is number 1?"}])
    done = project.run("build", KEY="x")
    assert done.returncode == 0, done.stderr
    assert [body.get("n") for body in loopback.bodies] == [4]
    seed = id_of(project, 1)
    (project.folder / ".distillgen" / "answers.sqlite").unlink()
    excluding(project, f"{seed}.1")
    assert project.run("build", KEY="x").returncode == 0
    assert [body.get("n") for body in loopback.bodies] == [4, 3]
    assert {each["id"] for each in project.sidecar("provenance", 2) + project.sidecar("rejected", 2)} == {
        f"{seed}.{n}" for n in range(4)
    }


LISTS = """
name = "demo"
[seeds]
path = "seeds.jsonl"
[teachers.main]
base_url = "{url}"
model = "scripted"
[[steps]]
use = "generate"
prompt = "list"
each = true
[student]
prompt = "{{{{ question }}}}"
completion = "{{{{ said }}}}"
"""
LIST_PROMPT = """
description = "A list"
user = "List what is near {{ question }}"
output = "json"
schema = { type = "object", required = ["items"], properties = { items = { type = "array", items = { type = "object", required = ["said"], properties = { said = { type = "string" } } } } } }
"""


def test_an_element_of_a_list_is_left_out_as_soon_as_it_is_a_row(project: Project, loopback: Loopback) -> None:
    project.write("recipe.toml", LISTS.format(url=loopback.url))
    project.write("prompts/list.toml", LIST_PROMPT)
    project.seeds([{"question": f"What is number {n}?"} for n in range(3)])
    project.build()
    assert len(ids(project)) == 9
    out = ids(project)[4]
    project.recipe.write_text(f'{project.recipe.read_text()}[dataset]\nexclude = "ids.txt"\n')
    project.write("ids.txt", out)
    project.build()
    assert ids(project, 2) == [each for each in ids(project) if each != out]
    record = project.sidecar("rejected", 2)[0]
    assert (record["id"], record["rule"]) == (out, "excluded") and record["columns"]["said"]
    assert whole(project) and len(loopback.bodies) == 3
    told = json.loads(called(project, "plan", "--json").stdout)
    assert (told["steps"][0]["stored"], told["steps"][0]["calls"]) == (3, 0)


def test_groups_see_the_sample_that_is_left_out(project: Project, loopback: Loopback) -> None:
    sampled(project, loopback, samples=3, more='\n[[steps]]\nuse = "select"\nkeep = "longest"\nmin_samples = 3')
    project.build()
    seed = id_of(project, 2)
    excluding(project, f"{seed}.1")
    project.build()
    records = {each["id"]: each for each in project.sidecar("rejected", 2) if each["origin"] == seed}
    assert records[f"{seed}.1"]["rule"] == "excluded"
    assert records[f"{seed}.0"]["detail"] == "2 of 3 samples are left, needs 3" and whole(project)


# -- append ----------------------------------------------------------------------------------------------------------


def test_rows_of_the_parent_are_dropped(demo: Project, loopback: Loopback) -> None:
    demo.edit("[dataset]", "[dataset]\nappend = true")
    demo.build()
    before = {path: path.read_bytes() for path in demo.version(1).rglob("*") if path.is_file()}
    out = ids(demo)[2]
    excluding(demo, out)
    demo.build()
    assert ids(demo, 2) == [each for each in ids(demo) if each != out]
    record = next(each for each in demo.sidecar("rejected", 2) if each["id"] == out)
    assert (record["step"], record["rule"], record["detail"]) == ("exclude", "excluded", "ids.txt:1 names it")
    assert len(demo.sidecar("provenance", 2)) == len(demo.rows(2)) and whole(demo)
    assert {path: path.read_bytes() for path in demo.version(1).rglob("*") if path.is_file()} == before
    done = demo.build()
    assert "nothing changed" in done.stderr and "to exclude" not in done.stderr
    assert len(loopback.bodies) == 20
    demo.seeds([{"question": f"What is number {n}?"} for n in range(25)])
    demo.build()
    assert len(loopback.bodies) == 25 and out not in ids(demo, 3) and whole(demo)
    assert demo.sidecar("rejected", 3)[: len(demo.sidecar("rejected", 2))] == demo.sidecar("rejected", 2)


def test_a_sample_of_the_parent_is_dropped(project: Project, loopback: Loopback) -> None:
    sampled(project, loopback).edit("[dataset]", "[dataset]\nappend = true")
    project.build()
    seed = id_of(project, 1)
    excluding(project, f"{seed}.2")
    project.build()
    assert ids(project, 2) == [each for each in ids(project) if each != f"{seed}.2"]
    assert whole(project) and len(loopback.bodies) == 15
    excluding(project, f"{seed}.2\n{seed}")
    project.build()
    assert not [each for each in ids(project, 3) if each.startswith(seed)] and whole(project)
    assert "nothing changed" in project.build().stderr


def test_new_rows_are_not_compared_with_dropped_ones(demo: Project, loopback: Loopback) -> None:
    """What is dropped refuses nobody: a near-duplicate of it may come in."""
    loopback.behave = lambda body: answer({**body, "messages": [{"role": "user", "content": "always the same?"}]})
    demo.edit("near = 0.8", 'near = 0.8\nagainst = "previous"')
    demo.edit("[dataset]", "[dataset]\nappend = true")
    demo.seeds([{"question": "What is number 1?"}])
    demo.build()
    out = ids(demo)[0]
    demo.seeds([{"question": f"What is number {n}?"} for n in (1, 2)])
    assert "nothing" not in demo.run("build", "--no-publish").stderr.splitlines()[0]
    excluding(demo, out)
    demo.build()
    kept = ids(demo, 2)
    assert len(kept) == 1 and kept != [out] and whole(demo)
    demo.seeds([{"question": f"What is number {n}?"} for n in (1, 2, 3)])
    demo.build()
    record = next(each for each in demo.sidecar("rejected", 3) if each["rule"] == "exact_duplicate")
    assert record["detail"] == f"of demo@2/{kept[0]}" and ids(demo, 3) == kept


# -- elsewhere -------------------------------------------------------------------------------------------------------


def test_draws_of_a_bootstrap(tmp_path: Path) -> None:
    from distillgen.excluded import EXCLUDED, Entry
    from distillgen.rows import Rejection, Row

    left_out = Excluded({"1.bootstrap-1-2": Entry(EXCLUDED, "ids.txt:1")})
    found = left_out.row(Row("1.bootstrap-1-2", "1.bootstrap-1-2", None, {"examples": []}), "1.1.generate")
    assert isinstance(found, Rejection) and (found.step, found.rule) == ("1.1.generate", "excluded")
    assert left_out.unasked["1.1.generate"] == 1 and not left_out.unmatched()


def test_a_pipe_knows_nothing_of_it(demo: Project, loopback: Loopback) -> None:
    demo.build()
    (demo.folder / "datasets" / "generate").mkdir()
    (demo.folder / "datasets" / "generate" / "forgotten.txt").write_text(f"{ids(demo)[0]}\n")
    done = demo.run(
        "generate", "-p", "answer", "-m", "scripted", "--base-url", loopback.url,
        stdin='{"question": "What is number 0?"}\n',
    )  # fmt: skip
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert orjson.loads(done.stdout)["question"] == "What is number 0?"
