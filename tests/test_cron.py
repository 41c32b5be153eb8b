"""From cron: silent when all is well, ten lines when not; logs, locks, metrics; and every example of docs/cron.md."""

import asyncio
import configparser
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from batch_server import BatchServer
from conftest import REPOSITORY, Project
from loopback import Loopback, Say, answer, error
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus
from till import late

from distillgen.errors import UsageError
from distillgen.files import Lock
from distillgen.report import progress
from distillgen.report.console import say
from distillgen.report.journal import Listeners, heard, say_error
from distillgen.schemas import schema_of
from distillgen.student import progress as student_progress
from distillgen.tally import Tally

DISTILLGEN = Path(sys.executable).parent / "distillgen"
PAGE = (REPOSITORY / "docs" / "cron.md").read_text(encoding="utf-8")
CRON = {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "LOGNAME": "nobody"}  # HOME is tried with and without


def unattended(*arguments: str, cwd: str = "/", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as cron does: no terminal, nothing of the shell's environment, the current folder `/`."""
    return subprocess.run(
        [DISTILLGEN, *arguments], env={**CRON, **environment}, cwd=cwd, stdin=subprocess.DEVNULL,
        start_new_session=True, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def events(text: str) -> list[dict[str, Any]]:
    """Return a log's events, each held against the schema."""
    validator = jsonschema_rs.validator_for(schema_of("event"))
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        validator.validate(event)
    return found


@pytest.mark.parametrize(
    "environment",
    [{}, {"LANG": "C"}, {"HOME": "/nowhere"}, {"LC_ALL": "POSIX", "TERM": "dumb"}, {"LANG": "xx_YY.nonsense"}],
    ids=lambda each: ",".join(each) or "bare",
)
def test_quiet_says_nothing_when_all_is_well(demo: Project, environment: dict[str, str]) -> None:
    for arguments in (
        ["build", str(demo.folder)],
        ["build", str(demo.recipe)],
        ["check", "--project", str(demo.folder)],
    ):
        done = unattended(*arguments, "--quiet", **environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert demo.manifest()["rows"] == 20 and not demo.version(2).exists()


def test_quiet_says_what_failed_and_how_to_mend_it(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: error(401)
    done = unattended("build", str(demo.folder), "--quiet")
    assert done.returncode == 4 and done.stdout == "" and done.stderr.startswith("DG402 ")
    assert len(done.stderr.splitlines()) <= 10


def test_quiet_cuts_a_long_list_and_says_so(project: Project) -> None:
    project.write("recipe.toml", "".join(f"wrong_{number} = 1\n" for number in range(30)))
    loud, quiet = unattended("build", str(project.folder)), unattended("build", str(project.folder), "-q")
    assert loud.returncode == quiet.returncode == 2 and len(loud.stderr.splitlines()) > 30
    lines = quiet.stderr.splitlines()
    assert len(lines) == 10 and lines[:9] == loud.stderr.splitlines()[:9]
    assert lines[9] == f"... and {len(loud.stderr.splitlines()) - 9} more lines without --quiet"


def test_quiet_cuts_long_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with heard("build", Listeners(quiet=True)) as journal:
        say_error(UsageError("\x1b[31m" + "x" * 100_000, where="y" * 100_000, fix="z\n" * 50))
        journal.end(2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and max(map(len, lines)) == 1000 and lines[0].endswith("x...")
    assert lines[0].startswith("DG100 \\x1b[31mxx") and lines[9] == "... and 42 more lines without --quiet"


@pytest.mark.parametrize("words", [("-q", "status"), ("--log-file=x", "status"), ("--color", "never", "status")])
def test_an_option_of_every_command_goes_after_the_command(words: tuple[str, ...]) -> None:
    done = unattended(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"DG100 {words[0].partition('=')[0]} goes after the command\n")


def test_quiet_tells_of_rows_to_mend(demo: Project, loopback: Loopback) -> None:
    demo.edit("sampling =", "limits = { max_in_flight = 1 }\nsampling =")
    loopback.behave = lambda body: error(500, retry_after="0") if "number 7?" in json.dumps(body) else answer(body)
    done = unattended("build", str(demo.folder), "--quiet")
    assert done.returncode == 3, done.stderr
    assert "run the same command again to mend them" in done.stderr and len(done.stderr.splitlines()) <= 10
    assert "\x1b" not in done.stderr


def test_what_was_asked_for_is_printed_however_quiet(demo: Project) -> None:
    assert json.loads(unattended("build", str(demo.folder), "-q", "--json").stdout)["version"] == "demo@1"
    assert "demo" in unattended("log", "-q", "--project", str(demo.folder)).stdout


def test_a_log_in_text(demo: Project) -> None:
    log = demo.folder / "log"
    for _ in range(2):
        assert unattended("build", str(demo.folder), "-q", "--log-file", str(log)).returncode == 0
    lines = log.read_text().splitlines()
    heads = [
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (info   |warning|error  ) build\[\d+\]: .+|    .+", line)
        for line in lines
    ]
    assert all(heads) and sum("published demo@1: 20 rows" in line for line in lines) == 1
    assert lines[-1].endswith("]: exit status 0") and sum("nothing changed" in line for line in lines) == 1


def test_a_log_in_events(demo: Project, loopback: Loopback) -> None:
    log = demo.folder / "log"
    loopback.behave = lambda body: error(401)
    options = ("--log-file", str(log), "--log-format", "json")
    assert unattended("build", str(demo.folder), *options).returncode == 4
    told = events(log.read_text())
    assert [(each["event"], each["level"]) for each in told] == [
        ("started", "info"), ("message", "warning"), ("run", "info"), ("error", "error"), ("ended", "info"),
    ]  # fmt: skip
    assert told[1]["text"].startswith("warning: terms unknown")
    assert (told[2]["dataset"], told[3]["code"], told[3]["exit_status"], told[4]["exit_status"]) == (
        "demo",
        "DG402",
        4,
        4,
    )
    assert told[3]["problems"][0]["fix"]
    loopback.behave = answer
    log.unlink()
    assert unattended("build", str(demo.folder), *options).returncode == 0
    [published] = [each for each in events(log.read_text()) if each["event"] == "published"]
    assert (published["version"], published["rows"], sum(published["splits"].values())) == ("demo@1", 20, 20)
    assert [each["event"] for each in events(log.read_text())][-2:] == ["run", "ended"]


def test_events_go_to_standard_error_where_there_is_no_file(demo: Project) -> None:
    done = unattended("build", str(demo.folder), "--log-format", "json")
    assert (
        done.returncode == 0
        and done.stdout == ""
        and {"started", "published", "ended"} <= {each["event"] for each in events(done.stderr)}
    )
    assert unattended("build", str(demo.folder), "--log-format", "json", "-q").stderr == ""
    failed = unattended("show", "nothing", "--project", str(demo.folder), "--log-format", "json", "-q")
    [told] = events(failed.stderr)
    assert failed.returncode == 10 and (told["event"], told["code"], told["command"]) == ("error", "DG605", "show")


@pytest.mark.parametrize("where", ["/nowhere/log", "/", "/proc/version"])
def test_a_log_file_that_cannot_be_opened_is_told_before_anything_is_sent(
    demo: Project, loopback: Loopback, where: str
) -> None:
    done = unattended("build", str(demo.folder), "--log-file", where)
    assert done.returncode == 2 and done.stderr.startswith("DG702 ") and where in done.stderr and loopback.seen == 0


def test_a_full_disk_under_the_log_does_not_stop_the_work(demo: Project) -> None:
    done = unattended("build", str(demo.folder), "--log-file", "/dev/full")
    assert (
        done.returncode == 0
        and done.stderr.count("the log file cannot be written") == 1
        and "Traceback" not in done.stderr
    )
    assert demo.manifest()["rows"] == 20


def test_a_log_may_be_moved_away_meanwhile(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: late(body, 1.0)
    log = demo.folder / "log"
    running = demo.start("build", "--log-file", str(log))
    while loopback.seen == 0:
        time.sleep(0.02)
    log.rename(demo.folder / "log.1")
    running.communicate()
    assert "published demo@1" in log.read_text() and "published" not in (demo.folder / "log.1").read_text()


@pytest.fixture
def gate(loopback: Loopback) -> Iterator[threading.Event]:
    """What the teacher of `demo` waits for before it answers."""
    opened = threading.Event()

    def behave(body: Any) -> Say:
        opened.wait(60)
        return answer(body)

    loopback.behave = behave
    yield opened
    opened.set()


def test_what_happens_when_another_one_is_at_work(demo: Project, loopback: Loopback, gate: threading.Event) -> None:
    folder = str(demo.folder)
    running = demo.start("build")
    while loopback.seen == 0:
        time.sleep(0.02)
    done = unattended("build", folder)
    assert done.returncode == 11 and "\nDG701 another distillgen is at work" in done.stderr
    done = unattended("build", folder, "--skip-if-locked", "--json")
    assert f"skipped: another distillgen is at work here: process {running.pid} " in done.stderr
    assert (done.returncode, json.loads(done.stdout)["stopped_by"]) == (0, "DG701")
    done = unattended("build", folder, "--skip-if-locked", "--quiet", "--metrics", f"{folder}/m.prom")
    assert (done.returncode, done.stderr) == (0, "") and not (demo.folder / "m.prom").exists()
    done = unattended("build", folder, "--wait-at-most", "1s", "--json")
    assert done.returncode == 11 and done.stderr.count("waiting: another distillgen is at work here") == 1
    assert json.loads(done.stdout)["stopped_by"] == "DG701"
    done = unattended("gc", "--project", folder, "--yes", "-q")
    assert done.returncode == 11 and done.stderr.startswith("DG701 ")
    waiting = demo.start("build", "--wait", "--json")
    time.sleep(2)
    assert waiting.poll() is None
    gate.set()
    out, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 0 and json.loads(out)["unchanged"] == "demo@1", said
    running.communicate(timeout=60)
    assert running.returncode == 0 and loopback.seen == 20


def test_a_log_that_is_a_pipe_without_a_reader_is_refused_and_not_waited_for(demo: Project, loopback: Loopback) -> None:
    os.mkfifo(demo.folder / "pipe")
    done = unattended("build", str(demo.folder), "--log-file", str(demo.folder / "pipe"))
    assert done.returncode == 2 and done.stderr.startswith("DG702 cannot write ") and loopback.seen == 0


def test_a_log_that_cannot_be_opened_is_told_like_anything_else(demo: Project) -> None:
    log = ("--log-file", "/nowhere/\x1b[31m\u202e")
    assert "cannot write /nowhere/\\x1b[31m\\u202e" in unattended("status", *log, "-q").stderr
    told = events(unattended("status", *log, "--log-format", "json").stderr)
    assert [(each["event"], each.get("code")) for each in told] == [("error", "DG702"), ("ended", None)]


def test_the_folder_of_a_log_may_go_away_and_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with heard("build", Listeners(log_file=folder / "log")):
        say("before")
        shutil.rmtree(folder)
        say("meanwhile")
        say("still")
        folder.mkdir()
        say("after")
    assert [line.partition("]: ")[2] for line in (folder / "log").read_text().splitlines()] == ["after"]
    said = capsys.readouterr().err
    assert said.count("the log file cannot be written") == 1
    assert [line for line in said.splitlines() if "the log file" not in line] == [
        "before",
        "meanwhile",
        "still",
        "after",
    ]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_lines_of_several_processes_do_not_tear(tmp_path: Path, format_: str) -> None:
    """Longer than a page of memory and than any buffer on the way."""
    log = tmp_path / "log"
    program = (
        "import sys; from pathlib import Path; from distillgen.report.console import say\n"
        "from distillgen.report.journal import Listeners, heard\n"
        f"with heard('build', Listeners(quiet=True, log_file=Path({str(log)!r}), log_format={format_!r})):\n"
        "    for _ in range(40): say(sys.argv[1] * 50_000)\n"
    )
    several = [subprocess.Popen([sys.executable, "-c", program, letter]) for letter in "XYZ"]
    assert [process.wait(60) for process in several] == [0, 0, 0]
    lines = log.read_text().splitlines()
    found = [max(re.findall("X+|Y+|Z+", line), key=len) for line in lines]
    assert len(lines) == 120 and {len(text) for text in found} == {50_000}


@pytest.mark.parametrize("options", [(), ("--log-format", "json")], ids=["text", "events"])
@pytest.mark.parametrize("where", ["full", "gone"])
def test_that_nobody_reads_standard_error_does_not_stop_the_work(
    demo: Project, options: tuple[str, ...], where: str
) -> None:
    target, other = (os.open("/dev/full", os.O_WRONLY), None) if where == "full" else reversed(os.pipe())
    if other is not None:
        os.close(other)
    done = subprocess.run(
        [DISTILLGEN, "build", str(demo.folder), "--json", *options], env=CRON, cwd="/", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=target, text=True, timeout=120, check=False,
    )  # fmt: skip
    os.close(target)
    assert done.returncode == 0 and json.loads(done.stdout)["version"] == "demo@1"
    assert json.loads((demo.folder / ".distillgen" / "last_run.json").read_bytes())["exit_status"] == 0


def test_a_folder_that_was_removed_under_it(demo: Project, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", f'mkdir -p {gone}; cd {gone} && rmdir {gone} && exec "$@"', "sh", DISTILLGEN, *arguments],
            env=CRON, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    done = run("build", str(demo.folder), "--json")
    assert done.returncode == 0 and "published demo@1: 20 rows" in done.stderr, done.stderr
    assert f" in {demo.version()}\n" in done.stderr
    done = run("build", "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["stopped_by"] == "DG100"
    assert done.stderr.startswith("DG100 the current folder is no longer there\n")


def test_a_hangup_does_not_stop_what_nohup_began(demo: Project, loopback: Loopback, gate: threading.Event) -> None:
    running = subprocess.Popen(
        ["nohup", DISTILLGEN, "build", str(demo.folder)], env=CRON, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while loopback.seen == 0:
        time.sleep(0.02)
    running.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    gate.set()
    assert "published demo@1" in running.communicate(timeout=60)[1] and running.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["int", "term", "hup"])
def test_a_signal_while_waiting(demo: Project, loopback: Loopback, number: signal.Signals) -> None:
    with Lock(demo.folder / ".distillgen" / "lock"):
        log = demo.folder / "log"
        waiting = demo.start("build", "--wait", "--json", "--log-file", str(log), "--log-format", "json")
        while not log.exists() or '"waiting"' not in log.read_text():
            assert waiting.poll() is None
            time.sleep(0.02)
        time.sleep(0.1)
        waiting.send_signal(number)
        out, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 128 + number and said.endswith("\nDG001 stopped; nothing was sent or changed\n")
    assert json.loads(out)["stopped_by"] == "DG001" and loopback.seen == 0
    assert [each["event"] for each in events(log.read_text())][-3:] == ["waiting", "error", "ended"]
    assert not (demo.folder / ".distillgen" / "last_run.json").exists(), "one that only waited was no run"


def opened_for_writing(pipe: Path) -> int:
    """Return a named pipe's writing end, once somebody reads it."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.02)


def test_a_signal_before_the_run_begins(demo: Project, loopback: Loopback) -> None:
    demo.recipe.unlink()
    os.mkfifo(demo.recipe)  # takes for ever to read
    (demo.folder / ".distillgen").mkdir()
    log = demo.folder / "log"
    reading = demo.start("build", "--json", "--log-file", str(log))
    writer = opened_for_writing(demo.recipe)
    reading.send_signal(signal.SIGTERM)
    out, said = reading.communicate(timeout=60)
    os.close(writer)
    assert (reading.returncode, said) == (143, "DG001 stopped; nothing was sent\n")
    assert json.loads(out)["stopped_by"] == "DG001" and log.read_text().endswith("]: exit status 143\n")
    record = json.loads((demo.folder / ".distillgen" / "last_run.json").read_bytes())
    assert (record["exit_status"], record["error"]) == (143, "DG001")


def test_build_tells_what_came_of_it_however_it_ends(demo: Project, loopback: Loopback) -> None:
    folder = str(demo.folder)
    validator = jsonschema_rs.validator_for(schema_of("build"))
    os.mkfifo(demo.folder / "pipe")
    for status, code, arguments in (
        (2, "DG101", ("/nowhere",)),
        (2, "DG100", (folder, "--wait", "--skip-if-locked")),
        (2, "DG100", (folder, "--wait-at-most", "soon")),
        (2, "DG702", (folder, "--metrics", "/nowhere/m.prom")),
        (2, "DG702", (folder, "--metrics", str(demo.folder / "pipe"))),
        (2, "DG103", (folder, "--set", "steps=3")),
        (2, "DG201", (folder, "--set", "seeds.path=none")),
        (3, "DG409", (folder, "--offline")),
        (4, "DG401", (folder, "--set", "teachers.main.api_key_env=NONE")),
        (5, "DG411", (folder, "--set", "teachers.main.prices={input=9000,output=9000}", "--budget", "0.000001")),
    ):
        done = unattended("build", *arguments, "--json", "--quiet")
        told = json.loads(done.stdout)
        validator.validate(told)
        assert (done.returncode, told["stopped_by"]) == (status, code), (arguments, done.stderr)
        assert done.stderr.startswith(f"{code} ") and len(done.stderr.splitlines()) <= 10
    assert loopback.seen == 0 and stat.S_ISFIFO((demo.folder / "pipe").stat().st_mode), "never replaced by a file"


def test_a_project_whose_name_is_no_text(demo: Project, tmp_path: Path) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b'/n\xff"\\\n'))
    shutil.copytree(demo.folder, place, ignore=lambda folder, names: [name for name in names if folder == str(place)])
    path = place / "m.prom"
    options = (
        "build",
        str(place),
        "-q",
        "--metrics",
        str(path),
        "--log-file",
        str(place / "log"),
        "--log-format",
        "json",
    )
    done = unattended(*options)
    assert (done.returncode, done.stderr) == (0, "") and metrics(path)["rows"] == 20
    assert events((place / "log").read_text())[-1]["exit_status"] == 0
    [family, *_] = read_openmetrics(path.read_text())
    assert family.samples[0].labels["recipe"].endswith('/n\\udcff"\\\n/recipe.toml')
    assert json.loads((place / ".distillgen" / "last_run.json").read_bytes())["exit_status"] == 0


def test_every_kind_of_event_keeps_to_the_schema(
    demo: Project, provider: BatchServer, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = demo.folder / "log"
    options = ("--log-file", str(log), "--log-format", "json")
    url = ("--set", f"teachers.main.base_url={provider.url}", "--set", 'teachers.main.mode="batch"')
    assert unattended("build", str(demo.folder), *url, *options).returncode == 3
    for _ in range(2):
        assert unattended("build", str(demo.folder), *options).returncode == 0
    with Lock(demo.folder / ".distillgen" / "lock"):
        assert unattended("build", str(demo.folder), "--skip-if-locked", *options).returncode == 0
        assert unattended("build", str(demo.folder), "--wait-at-most", "1s", *options).returncode == 11
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)

    async def run() -> None:
        async with progress.Progress(Tally(), None).shown():
            while '"progress"' not in log.read_text():
                await asyncio.sleep(0.01)

    with heard("build", Listeners(quiet=True, log_file=log, log_format="json")):
        asyncio.run(run())
        monkeypatch.setattr(student_progress, "LINE_SECONDS", 0.0)
        with student_progress.shown() as show:
            show({"event": "step", "step": 3, "of": 9, "loss": 0.5})
            show({"event": "validation", "step": 3, "loss": 0.4, "accuracy": 0.5})
            show({"event": "asked", "who": "teacher", "done": 1, "of": 9})
        say("\x1b]0;owned\x07 \u202e \u2028 \ud800\nnext", style="yellow")
    told = events(log.read_text())
    assert {each["event"] for each in told} == set(schema_of("event")["properties"]["event"]["enum"])
    assert told[-1]["text"] == "\\x1b]0;owned\\x07 \\u202e \\u2028 \\ud800\nnext" and log.read_text().isascii()


def test_options_of_locks_that_make_no_sense(demo: Project) -> None:
    assert "contradict" in unattended("build", str(demo.folder), "--wait", "--skip-if-locked").stderr
    done = unattended("build", str(demo.folder), "--wait-at-most", "soon")
    assert done.returncode == 2 and "30s, 10m" in done.stderr


def metrics(path: Path) -> dict[str, float]:
    """Return a metrics file's values, read by both formats' own parsers."""
    text = path.read_text()
    new = {sample.name: sample.value for family in read_openmetrics(text) for sample in family.samples}
    assert new == {sample.name: sample.value for family in read_prometheus(text) for sample in family.samples}
    return {name.removeprefix("distillgen_last_run_"): value for name, value in new.items()}


def test_metrics_of_a_good_run_and_of_a_bad_one(demo: Project, loopback: Loopback) -> None:
    path = demo.folder / "demo.prom"
    options = ("build", str(demo.folder), "--quiet", "--metrics", str(path))
    loopback.behave = lambda body: error(401)
    assert unattended(*options).returncode == 4
    bad = metrics(path)
    assert bad["exit_status"] == 4 and bad["rows"] == 0 and "success_timestamp_seconds" not in bad
    loopback.behave = answer
    assert unattended(*options).returncode == 0
    good = metrics(path)
    assert (good["exit_status"], good["rows"], good["calls"], good["failed_rows"]) == (0, 20, 20, 0)
    assert good["success_timestamp_seconds"] == good["end_timestamp_seconds"] > good["start_timestamp_seconds"] > 1.7e9
    assert good["completion_tokens"] > 0 and f'recipe="{demo.recipe}"' in path.read_text()
    demo.write("recipe.toml", "name = [")
    assert unattended(*options).returncode == 2
    worse = metrics(path)
    assert worse["exit_status"] == 2 and worse["success_timestamp_seconds"] == good["success_timestamp_seconds"]
    assert 'dataset="demo"' in path.read_text(), "known from the run before"
    assert not [entry for entry in demo.folder.iterdir() if ".tmp" in entry.name or entry.name.startswith(".demo.prom")]


@pytest.mark.parametrize("where", ["/nowhere/demo.prom", "/tmp", "/proc/demo.prom/x"])
def test_metrics_that_cannot_be_written_are_told_at_once(demo: Project, loopback: Loopback, where: str) -> None:
    done = unattended("build", str(demo.folder), "--metrics", where)
    assert done.returncode == 2 and where in done.stderr and "--metrics" in done.stderr and loopback.seen == 0


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def here(text: str, demo: Project) -> str:
    """Return an example of the docs with this machine's paths."""
    return text.replace("/srv/distillgen/bin/distillgen", str(DISTILLGEN)).replace("/srv/demo", str(demo.folder))


def cron_lines() -> list[str]:
    [table] = blocks("crontab")
    return [line for line in table.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("home", [None, "/root", "/nowhere"])
def test_the_crontab_lines_of_the_docs(demo: Project, home: str | None) -> None:
    """As cron runs them: the rest of the line after five fields goes to /bin/sh, `%` would be a newline."""
    assert len(cron_lines()) == 3
    for line in cron_lines():
        *times, command = line.split(maxsplit=5)
        assert len(times) == 5 and all(re.fullmatch(r"[0-9*,/-]+", field) for field in times) and "%" not in command
        done = subprocess.run(
            ["/bin/sh", "-c", here(command, demo)], env=CRON if home is None else {**CRON, "HOME": home}, cwd="/",
            stdin=subprocess.DEVNULL, start_new_session=True, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "cron would send a mail"
    assert demo.manifest()["rows"] == 20 and "published demo@1" in (demo.folder / "build.log").read_text()


def units() -> dict[str, str]:
    """Return the systemd units of the docs: file name -> text."""
    return {Path(text.splitlines()[0].removeprefix("# ")).name: text for text in blocks("ini")}


def test_the_systemd_service_of_the_docs(demo: Project) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(here(units()["distillgen-demo.service"], demo))
    done = subprocess.run(  # as the manager of the system runs it: execve of the words, a clean environment
        shlex.split(unit["Service"]["ExecStart"]), cwd="/", stdin=subprocess.DEVNULL, start_new_session=True,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8", "INVOCATION_ID": "0" * 32},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "" and events(done.stderr)[-1]["exit_status"] == 0
    assert metrics(demo.folder / "demo.prom")["rows"] == 20


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_itself_takes_the_units(demo: Project, tmp_path: Path) -> None:
    for name, text in units().items():
        (tmp_path / name).write_text(here(text, demo))
    done = subprocess.run(
        ["systemd-analyze", "verify", *(tmp_path / name for name in units())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and str(tmp_path) not in done.stderr, done.stderr


def test_the_shell_lines_of_the_docs_run(demo: Project) -> None:
    path = f"{DISTILLGEN.parent}:{os.environ['PATH']}"
    first, second = blocks("sh")
    done = subprocess.run(
        ["/bin/sh", "-c", here(first, demo)], env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    if shutil.which("jq"):
        done = subprocess.run(
            ["/bin/sh", "-c", here(second, demo)], env={"PATH": path}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, ""), "a good run a moment ago"
