"""What people are told of a project and its teachers: `status`, `teachers`, `teachers check`, and where state lies."""

import json
import multiprocessing
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import typer
from conftest import Project
from loopback import Loopback, Say, answer, error, reply
from till import ONE, called, late, number_of, priced

from distillgen.cli.guard import as_ours
from distillgen.last_run import last_run, on_record
from distillgen.schemas import schema_of
from distillgen.teacher.answers import FORMAT, AnswerStore
from distillgen.teacher.providers import presets
from distillgen.teacher.sent import SentNotes, logs


def status(project: Project, *arguments: str, **environment: str) -> dict[str, Any]:
    done = project.run("status", "--json", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_project_before_its_first_build(demo: Project) -> None:
    said = demo.run("status")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines() == [
        "at work   nobody", "answers   0 stored", "spent     $0.0000 for 0 calls", "dataset   none published yet",
    ]  # fmt: skip
    assert not (demo.folder / ".distillgen").exists()


def test_while_a_build_is_at_work(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: late(body, 0.0 if number_of(body) < 3 else 3.0)
    running = priced(project, loopback, 8).start("build")
    while loopback.seen < 8:
        time.sleep(0.02)
    said = status(project)
    running.communicate()
    assert (said["at_work"]["process"], said["at_work"]["host"]) == (running.pid, socket.gethostname())
    assert 0 <= said["at_work"]["seconds"] < 60 and said["last_run"] is None
    assert (said["in_flight"], said["stored_answers"]) == (5, 3)
    assert said["spent"]["unknown_calls"] == 0, "what is under way is not lost yet"
    said = status(project)
    assert (said["at_work"], said["in_flight"], said["stored_answers"]) == (None, 0, 8)
    demo = said["datasets"]["demo"]
    assert (demo["version"], demo["number"], demo["rows"], demo["is_partial"]) == ("demo@1", 1, 8, False)
    assert demo["published"] == project.manifest()["run"]["finished"] and 0 <= demo["age_seconds"] < 60
    assert round(said["spent"]["usd"], 9) == 8 * float(ONE) == said["last_run"]["usd"]
    assert said["last_run"]["exit_status"] == 0 and said["last_success"] == said["last_run"]["finished"]


def test_after_a_crash_it_says_what_may_have_been_billed(project: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: late(body, 0.0 if number_of(body) == 0 else 60)
    running = priced(project, loopback, 4).start("build")
    while loopback.seen < 4:
        time.sleep(0.02)
    running.kill()
    running.communicate()
    said = project.run("status").stdout
    assert "answers   1 stored\n" in said and f"spent     ${ONE:,.4f} for 1 calls\n" in said
    assert "unknown   3 calls were sent without an answer and may have been billed, at most $4.13" in said
    loopback.behave = answer
    project.build()
    assert loopback.seen == 7 and status(project)["spent"]["unknown_calls"] == 3, "it stays on the account"


def test_how_the_last_run_ended(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: error(500)
    assert demo.run("build").returncode == 7
    said = status(demo)
    run = said["last_run"]
    assert (run["exit_status"], run["error"], run["dataset"], run["version"]) == (7, "DG404", "demo", None)
    assert said["last_success"] is None
    loopback.behave = answer
    demo.build()
    good = status(demo)["last_success"]
    demo.edit("[student]", "[studnet]")
    assert demo.run("build").returncode == 2
    said = status(demo)
    assert (said["last_run"]["exit_status"], said["last_run"]["error"], said["last_run"]["dataset"]) == (
        2,
        "DG103",
        "demo",
    )
    assert said["last_success"] == good and said["datasets"]["demo"]["rows"] > 0
    assert "last run  exit status 2 (DG103), " in (told := demo.run("status").stdout)
    assert f"; the last that ended with 0: {good} (" in told


def test_what_is_damaged_hides_nothing_else(demo: Project) -> None:
    demo.build()
    demo.version().joinpath("manifest.json").write_text("{")
    (demo.folder / ".distillgen" / "last_run.json").write_text('{"finished": "yesterday"}')
    done = demo.run("status", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 8 and said["stored_answers"] == 20 and said["last_run"] is None
    assert [each["code"] for each in said["damaged"]] == ["DG602"] and said["datasets"] == {}
    assert demo.run("status").returncode == 8 and demo.run("status", "--project", "nowhere").returncode == 10


def test_a_newer_store_is_told_by_its_own_code(demo: Project) -> None:
    newer(demo.folder / ".distillgen" / "answers.sqlite")
    done = called(demo, "status", "--json")
    assert done.exit_code == 8 and done.stderr.startswith("DG603 the answer store has format ")
    assert [each["code"] for each in json.loads(done.stdout)["damaged"]] == ["DG603"]


def test_datasets_that_cannot_be_looked_at_are_not_taken_for_none(demo: Project) -> None:
    demo.write("datasets", "no folder")
    done = called(demo, "status", "--json")
    said = json.loads(done.stdout)
    assert done.exit_code == 8 and said["damaged"][0]["where"].endswith("datasets") and said["stored_answers"] == 0
    assert "Not a directory" in done.stderr and "none published yet" not in called(demo, "status").stdout


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (PermissionError(13, "no", "/f"), (2, "DG100")), (MemoryError(), (12, "DG704")), (ValueError(), (1, "DG000")),
        (OSError(28, "full"), (12, "DG703")), (KeyboardInterrupt(), (130, None)), (BrokenPipeError(), (141, None)),
        (typer.Exit(3), (3, None)), (SystemExit(1), (1, None)),
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_the_record_has_the_exit_status_that_the_command_ends_with(
    tmp_path: Path, error: BaseException, end: tuple[int, str | None]
) -> None:
    with pytest.raises(type(error)), on_record(tmp_path / "recipe.toml", tmp_path, None, as_ours):
        raise error
    run = last_run(tmp_path)
    assert run is not None and (run.exit_status, run.error) == end


@pytest.mark.parametrize(
    "text",
    [
        '{"recipe": "x", "started": 1e300}', '{"recipe": "x", "finished": -1e11}', '{"recipe": "x", "started": NaN}',
        '{"recipe": "x", "last_success": 1e18}', '{"recipe": "x", "exit_status": -5}', '{"recipe": "x", "usd": Infinity}',
        '{"recipe": "x", "error": "hello"}', '{"recipe": "x", "seeds": -1}', "[]", "", "null",
    ],
)  # fmt: skip
def test_a_record_that_says_what_cannot_be_is_none(demo: Project, text: str) -> None:
    demo.write(".distillgen/last_run.json", text)
    done = called(demo, "status", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["last_run"] is None, done.stderr
    assert called(demo, "status").exit_code == 0


def test_the_record_of_a_newer_distillgen_is_read(demo: Project) -> None:
    demo.write(".distillgen/last_run.json", '{"recipe": "x", "finished": 1700000000, "exit_status": 7, "new": [1]}')
    said = status(demo)
    assert (said["last_run"]["exit_status"], said["last_run"]["finished"]) == (7, "2023-11-14T22:13:20Z")
    jsonschema_rs.validator_for(schema_of("status")).validate(said)


def open_when_all_are_there(path: Path, barrier: Any) -> None:
    barrier.wait()
    AnswerStore(path).close()


def test_many_processes_may_make_a_store_at_the_same_moment(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(15):
        barrier = context.Barrier(3)
        path = tmp_path / str(number) / "answers.sqlite"
        several = [context.Process(target=open_when_all_are_there, args=(path, barrier)) for _ in range(3)]
        for process in several:
            process.start()
        for process in several:
            process.join()
        assert [process.exitcode for process in several] == [0, 0, 0]


def test_what_many_take_in_at_once_counts_once(tmp_path: Path) -> None:
    """Runs that start together find the notes of those that crashed; whoever comes second finds them gone."""
    for number in range(150):
        notes = SentNotes(tmp_path, "demo")
        notes.sent(bytes([number]) * 32, 7)
        notes.close()
    stores = [AnswerStore(tmp_path / "answers.sqlite") for _ in range(4)]
    start, errors = threading.Barrier(4), []

    def take_in(store: AnswerStore) -> None:
        start.wait()
        try:
            store.take_in_notes()
        except Exception as failure:
            errors.append(failure)

    threads = [threading.Thread(target=take_in, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and logs(tmp_path) == []
    assert (stores[0].spent("demo").unknown, stores[0].spent("demo").unknown_nanousd) == (150, 150 * 7)
    for store in stores:
        store.close()


def test_notes_have_their_name_only_once_they_are_locked(tmp_path: Path) -> None:
    notes = SentNotes(tmp_path, "demo")
    notes.sent(b"k" * 32, 7)
    assert logs(tmp_path) == [] and logs(tmp_path, live=True) == [notes.path] == list(tmp_path.iterdir())
    notes.close()
    assert logs(tmp_path) == [notes.path]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_state_lies_where_it_is_wanted(demo: Project, loopback: Loopback, tmp_path: Path, how: str) -> None:
    place = tmp_path / "elsewhere" / "deep"
    arguments = ("--state", str(place)) if how == "option" else ()
    environment = {"DISTILLGEN_STATE": str(place)} if how == "variable" else {}
    done = demo.run("build", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    assert (place / "answers.sqlite").is_file() and not (demo.folder / ".distillgen").exists()
    assert status(demo, *arguments, **environment)["stored_answers"] == 20
    assert status(demo)["stored_answers"] == 0
    again = demo.run("build", *arguments, **environment)
    assert "nothing changed" in again.stderr and loopback.seen == 20


def newer(path: Path) -> None:
    AnswerStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()


STORES: dict[str, tuple[Callable[[Path], Any], int, str, str]] = {
    "newer": (newer, 2, f"DG603 the answer store has format {FORMAT + 1}, this distillgen knows {FORMAT}", "pip install --upgrade"),
    "not-a-store": (lambda path: path.write_bytes(b"something else " * 100), 8, "DG602 the answer store is damaged", "keep a copy"),
    "a-folder": (lambda path: path.mkdir(), 2, "DG702 cannot write the answer store", "make the folder writable"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["build", "plan"])
@pytest.mark.parametrize(("make", "code", "what", "fix"), STORES.values(), ids=STORES.keys())
def test_a_store_that_cannot_be_used(
    demo: Project, loopback: Loopback, command: str, make: Callable[[Path], Any], code: int, what: str, fix: str
) -> None:
    path = demo.folder / ".distillgen" / "answers.sqlite"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    done = called(demo, command)
    assert done.exit_code == code and what in done.stderr and fix in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and loopback.seen == 0
    assert (path.read_bytes() if path.is_file() else b"") == before, "it is left as it is"


def test_a_state_folder_that_is_a_file(demo: Project, loopback: Loopback) -> None:
    done = demo.run("build", "--state", "recipe.toml")
    assert done.returncode == 2 and "DG702 cannot write recipe.toml" in done.stderr and loopback.seen == 0


def test_teachers_lists_every_provider(project: Project) -> None:
    listed = project.run("teachers", COLUMNS="300").stdout
    for preset in presets().values():
        assert f"{preset.name} " in listed and preset.base_url in listed
    assert "embedded model" in listed and "n samples at once" in listed


def test_a_teacher_that_answers(project: Project, loopback: Loopback) -> None:
    limited = {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499"}
    loopback.behave = lambda body: Say(body=reply("ready", model="scripted-2026").body, headers=limited)
    priced(project, loopback, 1)
    said = project.run("teachers", "check", "main")
    assert (said.returncode, said.stderr, loopback.seen) == (0, "", 1)
    assert said.stdout.startswith("answers   in 0.") and "'ready' (stop)" in said.stdout
    assert f"model     scripted-2026 (asked for scripted) at {loopback.url}\n" in said.stdout
    assert "tokens    7 in, 11 out\n" in said.stdout and f"cost      ${ONE:.4f}, from recipe\n" in said.stdout
    assert "limit     requests" in said.stdout and "499 left" in said.stdout
    found = json.loads(project.run("teachers", "check", "main", "--json").stdout)
    assert found["usd"] == float(ONE) and found["tokens"]["completion"] == 11 and found["model"] == "scripted-2026"


PAGE = Say(404, b"<html><body>Welcome to nginx</body></html>", {"Content-Type": "text/html"})
ENDPOINTS = {
    "no-such-model": (error(404, "model_not_found", "no such model"), 2, "DG405 teacher 'main' does not have 'scripted'"),
    "key-refused": (error(401, "invalid_api_key", "bad key"), 4, "DG402 teacher 'main' refused the key: bad key"),
    "out-of-quota": (error(429, "insufficient_quota", "used up"), 5, "DG403"),
    "web-page": (Say(200, b"<!doctype html><title>Hello</title>"), 2, "DG410 teacher 'main' answers with a web page, not with completions"),
    "page-not-found": (PAGE, 2, "check `model` and `base_url` (up to and with /v1)"),
    "refuses": (error(400, "", "unknown parameter: foo"), 2, "unknown parameter: foo"),
    "redirects": (Say(301, b"", {"Location": "https://example.com/"}), 7, "put the final address into `base_url`"),
    "nobody-answers": (Say(reset=True), 7, "DG404 teacher 'main' does not answer"),
}  # fmt: skip


@pytest.mark.parametrize("command", [("teachers", "check", "main"), ("build",)], ids=["check", "build"])
@pytest.mark.parametrize(("fault", "code", "words"), ENDPOINTS.values(), ids=ENDPOINTS.keys())
def test_an_endpoint_that_is_wrong(
    demo: Project, loopback: Loopback, command: tuple[str, ...], fault: Say, code: int, words: str
) -> None:
    demo.seeds([{"question": f"What is number {n}?"} for n in range(25)])
    loopback.behave = lambda _: fault
    done = demo.run(*command)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert (
        done.stdout == ""
        and "Traceback" not in done.stderr
        and loopback.seen <= (25 if "refuses" in words or code == 2 else 3)
    )


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("mian", 2, "no teacher 'mian' in recipe.toml\n      did you mean 'main'?, or PROVIDER/MODEL"),
        ("opnai/gpt-5", 2, "no teacher 'opnai/gpt-5' in recipe.toml"),
        ("openai/gpt-5", 4, "the environment variable OPENAI_API_KEY is not set"),
    ],
    ids=["misspelt", "no-such-provider", "no-key"],
)
def test_a_teacher_that_cannot_be_checked(demo: Project, name: str, code: int, words: str) -> None:
    done = called(demo, "teachers", "check", name)
    assert done.exit_code == code and words in done.stderr


def test_a_key_with_a_line_break_is_refused_and_never_shown(demo: Project, loopback: Loopback) -> None:
    demo.edit('model = "scripted"', 'model = "scripted"\napi_key_env = "MY_KEY"')
    for command in (("build",), ("teachers", "check", "main")):
        done = demo.run(*command, MY_KEY="sk-secret-part-1\nInjected: yes")
        assert (
            done.returncode == 4
            and "DG401 the key in the environment variable MY_KEY has spaces, line breaks" in done.stderr
        )
        assert "on one line" in done.stderr and "secret" not in done.stderr and loopback.seen == 0


LIMITS = {
    "none-in-flight": ("teachers.main.limits.max_in_flight=0", "'max_in_flight' is 0: input should be greater than or equal to 1"),
    "too-many-in-flight": ("teachers.main.limits.max_in_flight=99999999", "'max_in_flight' is 99999999: input should be less than or equal to 10000"),
    "negative-rate": ("teachers.main.limits.requests_per_minute=-5", "'requests_per_minute' is -5"),
    "rate-in-words": ("teachers.main.limits.tokens_per_minute=many", "'tokens_per_minute' is 'many': input should be a valid integer"),
    "no-time": ("teachers.main.timeout_seconds=0", "'timeout_seconds' is 0"),
    "no-tokens": ("teachers.main.sampling.max_tokens=0", "'max_tokens' is 0: must be a whole number of tokens, at least 1"),
    "negative-tokens": ("teachers.main.sampling.max_tokens=-100000", "'max_tokens' is -100000: must be a whole number of tokens"),
    "tokens-in-words": ("teachers.main.sampling.max_tokens=many", "'max_tokens' is 'many': must be a whole number of tokens"),
    "no-target": ("dataset.target_rows=0", "'target_rows' is 0: input should be greater than or equal to 1"),
    "no-budget": ("budget.usd_total=0", "'usd_total' is 0: must be above 0"),
    "negative-budget": ("budget.usd=-1", "'usd' is -1: must be above 0"),
    "no-number": ("budget.usd=nan", "'usd' is nan: input should be a finite number in --budget"),
    "no-price": ("teachers.main.prices={input=0,output=1}", "'input' is 0: must be above 0; what costs nothing is `prices = { free = true }`"),
    "half-a-price": ("teachers.main.prices={input=1}", "state both `input` and `output`, or `free = true`"),
    "free-at-a-price": ("teachers.main.prices={input=1,output=1,free=true}", "`free = true` and a price exclude each other"),
}  # fmt: skip


@pytest.mark.parametrize(("setting", "words"), LIMITS.values(), ids=LIMITS.keys())
def test_absurd_limits(demo: Project, loopback: Loopback, setting: str, words: str) -> None:
    done = called(demo, "build", "--set", setting)
    assert done.exit_code == 2 and done.stderr.startswith("DG103 ") and words in done.stderr, done.stderr
    assert done.stderr.count("DG103") == 1 and loopback.seen == 0 and not (demo.folder / ".distillgen").exists()


def test_a_schema_that_is_none(demo: Project, loopback: Loopback) -> None:
    demo.write(
        "prompts/odd.toml", 'description = "x"\nuser = "{{ question }}"\noutput = "json"\n[schema]\ntype = "nonsense"\n'
    )
    demo.edit('prompt = "answer"', 'prompt = "odd"')
    done = demo.run("build")
    assert done.returncode == 2 and "DG302 " in done.stderr and "prompts/odd.toml" in done.stderr and loopback.seen == 0
