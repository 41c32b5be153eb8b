"""What commands print with --json: one document, of the shape that its schema says, whatever state a project is in."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import jsonschema_rs
import pytest
import typer.main
from batch_server import BatchServer
from conftest import RECIPE, REPOSITORY, Project
from loopback import Loopback, Say, answer, error, reply, words
from published import two_versions
from till import ONE, called, number_of, priced

from distillgen.cli.main import app
from distillgen.dataset.seal import sealed
from distillgen.errors import NotFound
from distillgen.files import Lock
from distillgen.schemas import document, label_of, names, plain, schema_of

LINES = {"show"}  # a document on each line
EVENTS = {"event"}  # of a log, which no command prints
OPEN = {"run", "steps"}  # what a manifest or a step keeps, of which there may come more
HOSTILE = "</script>\x1b[31m\x9b\u202eevil\u2028\x00é🙂\ufeff"
NARROW = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}  # cron, and somebody's habit of long ago


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def told(done: "CompletedProcess[str]", name: str, code: int = 0) -> Any:
    """Return what a command printed, once it is sure that it is one document of the shape that is promised."""
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout, parse_constant=refuse)
    fits(found, name)
    return found


def fits(found: Any, name: str) -> None:
    validator = jsonschema_rs.validator_for(schema_of(name))
    wrong = [f"{'/'.join(map(str, each.instance_path))}: {each.message[:300]}" for each in validator.iter_errors(found)]
    assert not wrong, wrong


def lines(done: "CompletedProcess[str]", name: str) -> list[Any]:
    """Return what a command printed that writes a document on each line."""
    assert done.returncode == 0, done.stderr
    found = [json.loads(line, parse_constant=refuse) for line in done.stdout.splitlines()]
    for each in found:
        fits(each, name)
    return found


def inside(project: Project, *arguments: str) -> "CompletedProcess[str]":
    """Run a command that sends nothing in this very process, which takes a tenth of the time."""
    done = called(project, *arguments)
    return CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


# -- the schemas themselves ------------------------------------------------------------------------------------------


def parts(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema within a schema, with its place."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for key in ("properties", "$defs"):
        for name, inner in schema.get(key, {}).items():
            yield from parts(inner, f"{path}/{name}")
    for key in ("items", "additionalProperties"):
        yield from parts(schema.get(key), f"{path}/*")
    for key in ("oneOf", "anyOf", "allOf"):
        for number, inner in enumerate(schema.get(key, [])):
            yield from parts(inner, f"{path}/{number}")


@pytest.mark.parametrize("name", names())
def test_a_schema_is_strict_and_says_what_each_field_is(name: str) -> None:
    schema = schema_of(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema" and schema["title"]
    jsonschema_rs.meta.validate(schema)
    for path, part in parts(schema) if name not in EVENTS else ():
        assert "$ref" in part or str(part.get("description", "")).endswith((".", ":")) or part == {"type": "null"}, path
        if "object" in part.get("type", ()):
            rest = part["additionalProperties"]
            assert rest is False or isinstance(rest, dict) or (rest is True and OPEN & set(path.split("/"))), path
        if "properties" in part:
            assert set(part["required"]) <= set(part["properties"]), path


@pytest.mark.parametrize("name", sorted(set(names()) - LINES))
def test_a_document_says_which_version_of_which_shape_it_has(name: str) -> None:
    schema = schema_of(name)
    assert label_of(name) == f"{name}/1" and schema["$id"] == f"urn:distillgen:{name}:1"


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the commands that have --json."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        if any("--json" in option.opts for option in command.params):
            yield (*before, name)


def test_every_command_with_json_has_a_schema_and_a_line_in_the_docs() -> None:
    found = {"-".join(command) for command in commands(typer.main.get_command(app))}
    assert len(found) >= 18 and found <= set(names()), found - set(names())
    assert set(names()) - found <= EVENTS
    page = (REPOSITORY / "docs/outputs.md").read_text(encoding="utf-8")
    for name in names():
        assert f"`{name}`" in page, name


def test_schemas_are_printed_and_listed(project: Project) -> None:
    for name in names():
        assert json.loads(inside(project, "schema", name).stdout) == schema_of(name)
    assert inside(project, "schema", "recipe").stdout == inside(project, "schema").stdout
    listed = inside(project, "schema", "--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["recipe", *names()]


@pytest.mark.parametrize(("wrong", "hint"), [("chek", "did you mean 'check'?"), ("\x1b[31m", "known: build, check")])
def test_a_schema_that_there_is_not(project: Project, wrong: str, hint: str) -> None:
    done = inside(project, "schema", wrong)
    assert (done.returncode, done.stdout) == (10, "") and hint in done.stderr and "\x1b" not in done.stderr
    with pytest.raises(NotFound):
        schema_of("../schemas/check")


def test_what_json_does_not_have_is_made_up_for() -> None:
    odd = {"whole": float("nan"), "\udcff": [float("inf"), "\ud800", ("é", -0.5)], "big": 10**40}
    assert plain(odd) == {"whole": None, "\\udcff": [None, "\\ud800", ["é", -0.5]], "big": 10**40}
    text = document("check", odd)
    assert text.isascii() and json.loads(text, parse_constant=refuse)["schema"] == "check/1"


# -- builds ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asking(project: Project, loopback: Loopback) -> Project:
    return priced(project, loopback, 8)


def test_a_project_before_its_first_build(project: Project, loopback: Loopback) -> None:
    demo = priced(project, loopback, 8)
    plan = told(inside(demo, "plan", "--json"), "plan")
    assert plan["usd"][0] > 0 and plan["steps"][0]["calls"] == 8
    nothing = ("log", "check", "repair", "gc", "stats demo", "show demo", "diff demo@1 demo@2", "mix all demo:1")
    for command in nothing:
        done = inside(demo, *command.split(), "--json")
        assert done.returncode == 10 and done.stdout == "" and "DG605" in done.stderr, command


def test_a_build_and_what_it_leaves(asking: Project, loopback: Loopback) -> None:
    built = told(asking.run("build", "--json"), "build")
    assert (built["version"], built["rows"], built["stopped_by"]) == ("demo@1", 8, None)
    assert built["usd"] == pytest.approx(8 * float(ONE)) and built["unpriced_calls"] == 0
    again = told(asking.run("build", "--json"), "build")
    assert (again["version"], again["unchanged"], again["calls"]) == (None, "demo@1", 0)
    plan = told(inside(asking, "plan", "--json"), "plan")
    assert plan["usd"] == [0, 0] and plan["steps"][0]["stored"] == 8
    first = told(asking.run("build", "--limit", "3", "--no-publish", "--json"), "build")
    assert (first["version"], first["unchanged"]) == (None, None)
    assert told(inside(asking, "stats", "demo", "--json"), "stats")["teachers"]["main"]["usd"] > 0
    [row] = lines(inside(asking, "show", "demo", "-n", "1", "--json"), "show")
    [story] = told(inside(asking, "trace", row["id"], "demo", "--json"), "trace")["rows"]
    assert story["training"] == row and story["usd"] == pytest.approx(float(ONE))


def test_status_in_every_state(project: Project, loopback: Loopback) -> None:
    empty = told(inside(project, "status", "--json"), "status")
    assert (empty["last_run"], empty["at_work"], empty["datasets"], empty["damaged"]) == (None, None, {}, [])
    priced(project, loopback, 4).build()
    built = told(project.run("status", "--json", **NARROW), "status")
    assert built["last_run"]["version"] == "demo@1" == built["datasets"]["demo"]["version"]
    assert built["last_run"]["exit_status"] == 0 and built["last_success"] == built["last_run"]["finished"]
    assert built["spent"]["usd"] == pytest.approx(4 * float(ONE))
    loopback.behave = lambda _: error(401, "invalid_api_key")
    priced(project, loopback, 6)
    assert project.run("build").returncode == 4
    with Lock(project.folder / ".distillgen/lock"):
        failed = told(inside(project, "status", "--json"), "status")
    assert (failed["last_run"]["exit_status"], failed["last_run"]["error"]) == (4, "DG402")
    assert failed["last_success"] == built["last_success"] and failed["at_work"]["process"] == os.getpid()
    (project.version(1) / "manifest.json").write_text("{}")
    (project.folder / ".distillgen/answers.sqlite").write_bytes(b"no store " * 1000)
    damaged = told(inside(project, "status", "--json"), "status", 8)
    assert damaged["spent"] is None and damaged["stored_answers"] is None and damaged["datasets"] == {}
    assert {each["code"] for each in damaged["damaged"]} >= {"DG602"} and len(damaged["damaged"]) == 2
    nowhere = inside(project, "status", "--project", "nowhere", "--json")
    assert (nowhere.returncode, nowhere.stdout) == (10, "")


def test_a_price_that_is_not_known(demo: Project) -> None:
    assert told(inside(demo, "plan", "--json"), "plan")["usd"] is None
    built = told(demo.run("build", "--json"), "build")
    assert (built["usd"], built["unpriced_calls"]) == (0, 20)
    assert told(inside(demo, "stats", "demo", "--json"), "stats")["teachers"]["main"]["usd"] is None
    [row] = lines(inside(demo, "show", "demo", "-n", "1", "--json"), "show")
    assert told(inside(demo, "trace", row["id"], "demo", "--json"), "trace")["rows"][0]["usd"] is None


STOPS = {
    "budget": (None, ("--budget", "1.6"), 5, "DG411"),
    "budget-published": (None, ("--budget", "1.6", "--publish-partial"), 5, "DG411"),
    "quota": (error(429, "insufficient_quota"), (), 5, "DG403"),
    "key": (error(401, "invalid_api_key"), (), 4, "DG402"),
    "nobody-there": (Say(reset=True), (), 7, "DG404"),
    "no-row": (reply("Too short"), (), 6, None),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "arguments", "status", "code"), STOPS.values(), ids=STOPS.keys())
def test_a_build_that_is_stopped_says_so(
    asking: Project, loopback: Loopback, fault: Say | None, arguments: tuple[str, ...], status: int, code: str | None
) -> None:
    loopback.behave = answer if fault is None else lambda _: fault
    done = asking.run("build", *arguments, "--json")
    built = told(done, "build", status)
    assert built["stopped_by"] and built["stopped_by"] in done.stderr and code in (None, built["stopped_by"])
    assert built["version"] == ("demo@1" if "--publish-partial" in arguments else None)


def test_a_build_that_cannot_begin(asking: Project) -> None:
    asking.edit('use = "generate"', 'use = "genrate"')
    done = asking.run("build", "--json")
    built = told(done, "build", 2)
    assert built["stopped_by"] in done.stderr and (built["rows"], built["calls"]) == (0, 0)


LOCKED = "DG701"


def test_a_build_while_another_is_at_work(asking: Project) -> None:
    with Lock(asking.folder / ".distillgen/lock"):
        built = told(asking.run("build", "--json"), "build", 11)
        skipped = told(asking.run("build", "--skip-if-locked", "--json"), "build")
    assert built["version"] is None and built["stopped_by"] == LOCKED == skipped["stopped_by"]


def test_batches_that_are_pending(project: Project, provider: BatchServer) -> None:
    project.write("recipe.toml", RECIPE.format(url=provider.url).replace("sampling =", 'mode = "batch"\nsampling ='))
    project.seeds([{"question": f"What is number {n}?"} for n in range(20)])
    assert told(project.run("plan", "--json"), "plan")["builds"] == 2
    [pending] = told(project.run("build", "--json"), "build", 3)["pending"]
    assert pending["requests"] == 20
    [known] = told(inside(project, "status", "--json"), "status")["batches"]
    assert (known["id"], known["submitted_at"]) == (pending["id"], pending["submitted_at"])
    assert told(project.run("build", "--json"), "build")["pending"] == []


def test_rows_that_mean_harm(project: Project, loopback: Loopback) -> None:
    """Text of seeds and models in every place where it may stand, in a locale that has none of its letters."""
    loopback.behave = lambda body: reply(f"{HOSTILE} {words(str(number_of(body)))}", finish="stop")
    priced(project, loopback, 5).seeds([{"question": f"{HOSTILE} {n}", HOSTILE: [HOSTILE, 1e308]} for n in range(5)])
    for command, name in (("plan", "plan"), ("build", "build")):
        told(project.run(command, "--json", **NARROW), name)
    for command, name in (
        (["stats", "demo"], "stats"),
        (["log"], "log"),
        (["check"], "check"),
        (["gc"], "gc"),
        (["status"], "status"),
        (["repair"], "repair"),
    ):
        done = project.run(*command, "--json", **NARROW)
        told(done, name)
        assert "\x1b" not in done.stdout and "\u202e" not in done.stdout
    rows = lines(project.run("show", "demo", "--json", **NARROW), "show")
    assert HOSTILE in rows[0]["messages"][-1]["content"]
    stories = told(project.run("trace", rows[0]["id"], "demo", "--json", **NARROW), "trace")["rows"]
    assert stories[0]["columns"][HOSTILE] == [HOSTILE, 1e308]
    told(project.run("forget", rows[0]["id"], "--json", **NARROW), "forget")
    told(project.run("terms", HOSTILE.replace("\x00", ""), "--json", **NARROW), "terms")


# -- versions --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_versions(tmp_path_factory.mktemp("both"))


@pytest.fixture
def kept(both: Path, tmp_path: Path) -> Project:
    """Two versions, of 17 and 18 rows, with rows rejected and failed."""
    shutil.copytree(both, tmp_path / "kept", symlinks=True)
    return Project(tmp_path / "kept")


def test_looking_at_versions(kept: Project) -> None:
    assert len(told(inside(kept, "log", "--json"), "log")["versions"]) == 2
    assert told(kept.run("diff", "demo@1", "demo@2", "--json", **NARROW), "diff")["rows"]["added"] == 1
    assert told(inside(kept, "diff", "demo", "demo", "--exit-code", "--json"), "diff")["rows"]["same"] == 18
    told(inside(kept, "diff", "demo@1", "demo@2", "--exit-code", "--json"), "diff", code=1)
    for kind, count in (("--rejected", 2), ("--failed", 1)):
        records = lines(inside(kept, "show", "demo", kind, "--json"), "show")
        assert len(records) == count
        [story] = told(inside(kept, "trace", records[0]["id"], "demo", "--json"), "trace")["rows"]
        assert story["fate"] == kind[2:] and story["training"] is None


def test_pairs_and_reasoning(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(words(str(number_of(body))), message={"reasoning_content": "Hm."})
    priced(project, loopback, 4)
    project.edit("[student]", '[student]\nreasoning = "{{ reasoning }}"\nrejected = "No idea."')
    told(project.run("build", "--json"), "build")
    [row] = lines(project.run("show", "demo", "-n", "1", "--json"), "show")
    assert row.keys() == {"id", "prompt", "chosen", "rejected", "reasoning"}
    told(project.run("trace", row["id"], "demo", "--json"), "trace")["rows"]
    assert told(project.run("stats", "demo", "--json"), "stats")["characters"]["reasoning"]["rows"] == 4


def test_keeping_versions(kept: Project) -> None:
    assert told(inside(kept, "check", "--json"), "check")["whole"]
    assert told(inside(kept, "check", "demo@1", "--fast", "--json"), "check")["versions"][0]["bytes_read"] == 0
    assert told(inside(kept, "repair", "--json"), "repair")["repairs"] == []
    assert told(inside(kept, "gc", "--keep", "1", "--json"), "gc")["removals"][0]["kind"] == "version"
    answers = told(inside(kept, "gc", "--answers", "--older-than", "0h", "--json"), "gc")["answers"]
    assert answers["stored"] == 20
    inside(kept, "pin", "demo@1")
    assert told(inside(kept, "gc", "--keep", "1", "--yes", "--json"), "gc")["kept"] == [{"version": "demo@1", "why": "pinned"}]  # fmt: skip
    assert told(inside(kept, "log", "--json"), "log")["versions"][1]["pinned"]


def test_damaged_versions(kept: Project) -> None:
    (kept.version(1) / "stray \udcff\x1b").write_text("")
    path = kept.version(2) / "data" / sorted(os.listdir(kept.version(2) / "data"))[0]
    path.write_bytes(path.read_bytes().replace(b"number", b"nvmber", 1))
    checked = told(kept.run("check", "--json", **NARROW), "check", 8)
    assert not checked["whole"] and "stray" in {each["kind"] for each in checked["findings"]}
    assert "stray \\udcff\x1b" in {each["file"] for each in checked["findings"]}
    foreseen = told(inside(kept, "repair", "--json"), "repair")
    assert foreseen["repairs"] and not foreseen["done"] and not foreseen["whole"]
    assert told(inside(kept, "repair", "--yes", "--json"), "repair")["whole"]
    (kept.version(1) / "provenance.jsonl.zst").write_bytes(b"")
    told(inside(kept, "check", "--json"), "check", 8)
    stays = told(inside(kept, "repair", "--yes", "--json"), "repair", 8)["stays"]
    assert {each["version"] for each in stays} == {"demo@1"}
    (kept.version(1) / "manifest.json").write_text("{}")
    assert [each["rows"] for each in told(inside(kept, "log", "--json"), "log", 8)["versions"]] == [18]
    for command in (["stats", "demo@1"], ["diff", "demo@1", "demo@2"], ["show", "demo@1"], ["trace", "x", "demo@1"]):
        done = inside(kept, *command, "--json")
        assert (done.returncode, done.stdout) == (8, ""), command


def test_a_version_of_a_newer_distillgen(kept: Project) -> None:
    (kept.version(2) / "manifest.json").write_bytes(sealed(b'{\n  "format": 9,\n  "wholly": "new"\n}\n'))
    checked = told(inside(kept, "check", "--json"), "check", 2)
    assert not checked["whole"] and [each["newer_format"] for each in checked["versions"]].count(True) == 1


def test_a_folder_whose_name_is_no_utf8(kept: Project) -> None:
    odd = kept.folder / os.fsdecode(b"caf\xe9")
    shutil.copytree(kept.version(1), odd / "v0001", symlinks=True)
    [version] = told(inside(kept, "check", str(odd / "v0001"), "--json"), "check")["versions"]
    assert version["folder"].endswith("caf\\udce9/v0001")


def test_forgetting(kept: Project) -> None:
    row = lines(inside(kept, "show", "demo", "-n", "1", "--json"), "show")[0]["id"]
    foreseen = told(inside(kept, "forget", row, "--json"), "forget")
    assert not foreseen["done"] and foreseen["answers"] == 1 and foreseen["versions"][0]["digest"] is None
    done = told(inside(kept, "forget", row, "--yes", "--json"), "forget")
    assert done["done"] and done["versions"][0]["digest"]
    assert told(inside(kept, "forget", row, "--yes", "--json"), "forget")["known"]
    fates = {each["fate"] for each in told(inside(kept, "trace", row, "demo", "--json"), "trace")["rows"]}
    assert fates == {"rejected"}
    assert told(inside(kept, "plan", "--json"), "plan")["left_out"]["forgotten"] == 1


def test_mixing(kept: Project) -> None:
    dry = told(kept.run("mix", "all", "demo@1:1", "demo@2:1", "--dry-run", "--json", **NARROW), "mix")
    assert dry["version"] is None and not dry["published"]
    mixed = told(inside(kept, "mix", "all", "demo@1:1", "demo@2:1", "--json"), "mix")
    assert mixed["version"] == "all@1" and mixed["published"]
    assert not told(inside(kept, "mix", "all", "demo@1:1", "demo@2:1", "--json"), "mix")["published"]
    told(inside(kept, "stats", "all", "--json"), "stats")
    told(inside(kept, "diff", "demo", "all", "--json"), "diff")
    assert {each["name"] for each in told(inside(kept, "log", "--json"), "log")["versions"]} == {"all", "demo"}
    row = lines(inside(kept, "show", "all", "-n", "1", "--json"), "show")[0]["id"]
    told(inside(kept, "trace", row, "all", "--json"), "trace")["rows"]
    told(inside(kept, "check", "all", "--json"), "check")


def test_sharing(kept: Project, tmp_path: Path) -> None:
    store, theirs = str(tmp_path / "store"), Project(tmp_path / "theirs")
    theirs.folder.mkdir()
    pushed = told(kept.run("push", "demo", store, "--json", **NARROW), "push")
    assert pushed["files"] > 0 and not pushed["was_there"] and pushed["note"] is None
    assert told(inside(kept, "push", "demo", store, "--json"), "push")["was_there"]
    assert not told(theirs.run("pull", store, "demo", "--json", **NARROW), "pull")["was_here"]
    assert told(theirs.run("pull", store, "demo", "--json"), "pull")["was_here"]
    theirs.version(1).mkdir()
    shutil.rmtree(theirs.folder / "datasets")
    told(theirs.run("pull", store, "demo", "--json"), "pull")
    told(theirs.run("log", "--json"), "log")
    path = Path(store) / "demo/v0002/provenance.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-5])
    done = theirs.run("pull", store, "demo@2", "--project", str(tmp_path), "--json")
    assert (done.returncode, done.stdout) == (8, ""), "what fails prints no document"


# -- looking things up -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [(), ("gemma-4-31b-it", "--provider", "gemini"), ("deepseek-open-platform",), ("nobody-knows-it",), ("x", "--base-url", "https://example.com/v1")],
    ids=["all", "model", "entry", "unknown", "address"],
)  # fmt: skip
def test_terms(project: Project, arguments: tuple[str, ...]) -> None:
    found = told(inside(project, "terms", *arguments, "--json"), "terms")
    assert found["entries"] and (found["meaning"] is None) == (not arguments)


def test_a_prompt_that_is_rendered(project: Project) -> None:
    seed = json.dumps({"topic": HOSTILE})
    rendered = told(project.run("prompts", "render", "explain", "--seed", seed, "--json", **NARROW), "prompts-render")
    assert rendered["prompt"] == "explain" and HOSTILE in rendered["messages"][-1]["content"]


def test_a_teacher_that_answers(asking: Project, loopback: Loopback) -> None:
    limited = {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499"}
    loopback.behave = lambda body: Say(body=reply(HOSTILE).body, headers=limited)
    found = told(asking.run("teachers", "check", "main", "--json", **NARROW), "teachers-check")
    assert found["usd"] == float(ONE) and found["limits"]["requests"]["remaining"] == 499 and found["text"] == HOSTILE
    loopback.behave = lambda body: reply("ready", usage=None, model="")
    found = told(asking.run("teachers", "check", "main", "--json"), "teachers-check")
    assert found["tokens"] is None and found["model"] is None
    loopback.behave = lambda body: error(401, "invalid_api_key", "bad key")
    done = asking.run("teachers", "check", "main", "--json")
    assert (done.returncode, done.stdout) == (4, "")


def test_the_set_up(asking: Project, loopback: Loopback) -> None:
    found = told(asking.run("doctor", "--json", **NARROW), "doctor")
    assert found["is_well"] and sum(found["counts"].values()) == len(found["findings"])
    asking.edit('use = "generate"', 'use = "genrate"')
    assert not told(asking.run("doctor", "--json"), "doctor", 2)["is_well"]
