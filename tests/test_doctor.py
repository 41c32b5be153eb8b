"""The doctor: what would stop a build here is found, told apart from what would not, and comes with its fix."""

import contextlib
import email.utils
import fcntl
import json
import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema_rs
import pytest
from conftest import RECIPE, REPOSITORY, Project, clean_environment
from loopback import Loopback, nobody_accepts

from distillgen.doctor import ages, endpoints, examine, folders, keys, network, packages
from distillgen.doctor.findings import LEVELS, Finding, well
from distillgen.recipe import read_recipe
from distillgen.schemas import schema_of
from distillgen.settings import TeacherSettings
from distillgen.teacher.models import models

CANARY = "sk-canary-4711-do-not-show"
MODELS = json.dumps({"object": "list", "data": [{"id": "scripted"}, {"id": "other-model"}]})


class Lister:
    """A real server on loopback that says one thing whatever it is asked."""

    def __init__(self, body: str = MODELS, status: int = 200, wait: float = 0.0, **headers: str) -> None:
        self.asked: list[str] = []
        self.authorised: list[str | None] = []
        lister = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                lister.asked.append(self.path)
                lister.authorised.append(self.headers["Authorization"])
                time.sleep(wait)
                fields = {"Content-Type": "application/json", "Date": email.utils.formatdate(usegmt=True)}
                fields |= {name.replace("_", "-"): value for name, value in headers.items()}
                self.send_response_only(status)
                for name, value in {**fields, "Content-Length": str(len(body.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def lister() -> Iterator[Any]:
    """Start servers, and end them."""
    started: list[Lister] = []

    def start(*arguments: Any, **named: Any) -> Lister:
        started.append(Lister(*arguments, **named))
        return started[-1]

    yield start
    for server in started:
        server.close()


def project_at(project: Project, url: str, more: str = "") -> Project:
    """Write a recipe whose one teacher is at an address; `more` are lines under it."""
    text = RECIPE.format(url=url).replace('model = "scripted"\n', f'model = "scripted"\n{more}\n')
    project.write("recipe.toml", text)
    project.seeds([{"question": "Why?"}])
    return project


def examined(project: Project, *arguments: str, status: int | None = None, **environment: str) -> list[dict[str, Any]]:
    """Return what the doctor finds: by `doctor --json`, or in this process where neither option nor variable is given.

    `status` is the exit status that is due.
    """
    if arguments or environment:
        done = project.run("doctor", *arguments, "--json", **environment)
        assert done.stderr == "", done.stderr
        told = json.loads(done.stdout)
        assert done.returncode == (0 if told["is_well"] else 2)
        assert jsonschema_rs.is_valid(schema_of("doctor"), told)
        findings: list[dict[str, Any]] = told["findings"]
        assert told["counts"] == {level: sum(each["level"] == level for each in findings) for level in LEVELS}
    else:
        findings = [asdict(each) for each in examine(project.recipe if project.recipe.exists() else None)]
    worst = [each for each in findings if each["level"] == "broken"]
    assert status is None or bool(worst) == bool(status), worst
    assert all(each["level"] in LEVELS and bool(each["fix"]) == (each["level"] != "well") for each in findings)
    return findings


def about(findings: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    return [each for each in findings if each["about"] == what]


def one(findings: list[dict[str, Any]], what: str) -> dict[str, Any]:
    [found] = about(findings, what)
    return found


def asked(project: Project) -> Finding:
    """Ask the one teacher of a project in this process, and return what is found of its endpoint."""
    recipe, source = read_recipe(project.recipe)
    answered = endpoints.ask(recipe.teachers, source.folder)
    [found] = endpoints.examine(recipe.teachers, source.folder, answered)
    return found


def test_all_is_well_where_all_is_well(demo: Project) -> None:
    findings = examined(demo, "recipe.toml", status=0)
    for area in ("python", "packages", "disk", "write", "locks", "links", "limits", "tls", "clock", "recipe"):
        assert about(findings, area) and all(each["level"] == "well" for each in about(findings, area)), area
    assert one(findings, "endpoint")["what"].endswith("answers and has scripted")
    assert one(findings, "key")["what"] == "teacher 'main': no key, and none is needed"
    assert {path.name for path in demo.folder.iterdir()} == {"recipe.toml", "seeds.jsonl"}, "nothing is left behind"


def test_it_is_readable_without_colour_and_every_fault_has_its_fix(demo: Project) -> None:
    demo.edit('model = "scripted"', 'model = "scriptde"')
    done = demo.run("doctor")
    assert done.returncode == 2 and "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("FAIL  endpoint"))
    assert "does not list 'scriptde'" in lines[at]
    assert lines[at + 1].strip() == "fix: did you mean 'scripted'?" and lines[at + 2].strip() == "it has: scripted"
    assert lines[-1].endswith("1 FAIL")
    assert all(re.match(r"(ok  |note|warn|FAIL)  \S+ +\S|                \S", line) for line in lines[:-2] if line)


def test_without_a_recipe_only_the_machine_is_looked_at(project: Project) -> None:
    findings = examined(project, status=0)
    assert one(findings, "recipe") == {
        "level": "note", "about": "recipe", "what": "no recipe.toml here: only the machine was looked at",
        "fix": "distillgen doctor RECIPE",
    }  # fmt: skip
    assert not about(findings, "endpoint") and not about(findings, "key") and about(findings, "disk")


def test_a_recipe_that_is_named_but_missing_or_wrong_is_broken(demo: Project) -> None:
    missing = one(examined(demo, "nowhere.toml", status=2), "recipe")
    assert "DG101" in missing["what"] and "nowhere.toml" in missing["what"]
    demo.edit("model =", "modle =")
    wrong = one(examined(demo, status=2), "recipe")
    assert "DG103" in wrong["what"] and "recipe.toml:" in wrong["what"] and "model" in wrong["fix"]
    demo.recipe.write_bytes(b"\xff\xfe")
    assert "DG102" in one(examined(demo, status=2), "recipe")["what"]


def test_it_works_without_home_terminal_path_and_locale_at_the_root_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distillgen", "doctor", "--json"],
        cwd="/", env={"LANG": "C", "PATH": "/nonexistent"}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    told = [each["what"] for each in about(json.loads(done.stdout)["findings"], "terminal")]
    assert any(each.startswith("text is written as UTF-8 (") and "LANG=C" in each for each in told), told


def test_a_folder_that_was_removed_is_no_bug(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m distillgen doctor"
    done = subprocess.run(
        ["/bin/sh", "-c", script], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert "DG000" not in done.stderr and "Traceback" not in done.stderr and done.returncode in (0, 2)


# Endpoints


@pytest.mark.parametrize(
    ("said", "what", "fix"),
    [
        ({"body": '{"error": {"message": "no key"}}', "status": 401}, "wants a key, and the recipe names none (HTTP 401): 'no key'", "api_key_env ="),
        ({"body": '{"error": "no"}', "status": 404}, "has no list of models (HTTP 404): 'no'", "up to and with /v1"),
        ({"body": "<!DOCTYPE html><h1>Hello</h1>", "Content_Type": "text/html"}, "answers with a web page (HTTP 200)", "up to and with /v1"),
        ({"body": "<h1>Not here</h1>", "status": 500}, "answers with a web page (HTTP 500)", "up to and with /v1"),
        ({"body": "hello"}, "answers, but not with a list of models", "`base_url`"),
        ({"body": '{"data": 7}'}, "answers, but not with a list of models", "`base_url`"),
        ({"body": "", "status": 307, "Location": "https://elsewhere.example/v1?key=1"}, "answers HTTP 307: 'it redirects to elsewhere.example, which", "`base_url`"),
        ({"body": json.dumps({"data": [{"id": "scriptde"}]})}, "does not list 'scripted'", "did you mean 'scriptde'?\nit has: scriptde"),
    ],
)  # fmt: skip
def test_causes_are_told_apart(project: Project, lister: Any, said: dict[str, Any], what: str, fix: str) -> None:
    server = lister(**said)
    found = asked(project_at(project, server.url))
    assert found.level == "broken" and what in found.what and server.url in found.what and fix in found.fix
    assert server.asked[0] == "/v1/models"


def test_a_server_in_trouble_is_a_warning(project: Project, lister: Any) -> None:
    found = asked(project_at(project, lister('{"error": "busy"}', 503).url))
    assert found.level == "warning" and "HTTP 503: 'busy'" in found.what and "later" in found.fix


def test_a_gateway_without_a_list_of_models_is_no_fault(project: Project) -> None:
    """404 where models are listed, 405 (a GET where a POST is taken) where completions are."""

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(405 if self.path.endswith("/v1/chat/completions") else 404)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        found = asked(project_at(project, f"http://127.0.0.1:{server.server_port}/v1"))
        assert found.level == "note" and "takes completions" in found.what and "teachers check" in found.fix
        found = asked(project_at(project, f"http://127.0.0.1:{server.server_port}"))
        assert found.level == "broken" and "up to and with /v1" in found.fix
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("body", "model", "is_listed"),
    [
        ({"data": []}, "anything", True),
        ({"data": [{"id": "models/gemini-x"}]}, "gemini-x", True),
        ({"data": [{"id": "q/wen"}]}, "q/wen:free", True),
        ([{"id": "scripted"}], "scripted", True),
        ({"data": [{"id": 7}, None, {"id": "b"}]}, "a", False),
    ],
)
def test_lists_of_models_come_in_several_shapes(
    project: Project, lister: Any, body: Any, model: str, is_listed: bool
) -> None:
    project_at(project, lister(json.dumps(body)).url).edit('"scripted"', f'"{model}"')
    assert asked(project).level == ("well" if is_listed else "broken")


def test_what_does_not_answer_is_told_by_its_cause(
    project: Project, lister: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    plain = lister().url.replace("http:", "https:")
    expected = {
        f"http://127.0.0.1:{port}/v1": ("the connection is refused", "is the server started?"),
        f"http://localhost:{port}/v1": ("the connection is refused", "is the server started?"),
        "https://no-such-host.invalid/v1": ("its name cannot be resolved", "check the host"),
        plain: ("no secure connection: ", "SSL_CERT_FILE"),
    }
    for url, (what, fix) in expected.items():
        found = asked(project_at(project, url))
        assert f"{url} cannot be asked: {what}" in found.what and fix in found.fix


def test_a_certificate_that_nobody_signed_is_told(project: Project) -> None:
    made = project.folder / "server.pem"
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", made, "-out", f"{made}.crt"],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("no openssl program")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{made}.crt", made)
    server = Loopback(context)
    try:
        found = one(examined(project_at(project, server.url), status=2), "endpoint")
        assert "its certificate is refused: self" in found["what"] and "SSL_CERT_FILE" in found["fix"]
        well_now = examined(project, status=0, SSL_CERT_FILE=f"{made}.crt")
        assert "answers and has scripted" in one(well_now, "endpoint")["what"]
        assert one(well_now, "tls")["what"] == f"1 certificates of authorities: SSL_CERT_FILE={made}.crt"
    finally:
        server.close()


def test_all_endpoints_are_asked_at_once_and_none_is_waited_for_too_long(
    project: Project, lister: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four servers that answer late, one that never does and one that accepts nobody, within one limit for all."""
    late = [lister(wait=1.0) for _ in range(4)]
    never = lister(wait=30.0)
    with nobody_accepts() as full:
        urls = [*(server.url for server in late), never.url, full, late[0].url]
        teachers = {f"t{n}": TeacherSettings(base_url=url, model="scripted") for n, url in enumerate(urls)}
        started = time.monotonic()
        answered = endpoints.ask(teachers, project.folder, seconds=4.0)
        took = time.monotonic() - started
    assert [answered[f"t{n}"].trouble for n in range(7)] == [None] * 4 + ["timeout", "timeout", None]
    assert answered["t5"].words == "no answer within 4 s" and answered["t0"].models == ("scripted", "other-model")
    assert took < 20, "one after another would be more than 30"
    assert late[0].asked == ["/v1/models"], "two teachers at one address are one question"
    # A resolver that hangs is not waited for either, not even when the loop is closed.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(60))
    started = time.monotonic()
    hung = endpoints.ask({"t": TeacherSettings(base_url="https://a.example/v1", model="m")}, Path(), seconds=0.5)
    assert hung["t"].trouble == "timeout" and time.monotonic() - started < 20


def test_ctrl_c_ends_it(project: Project, lister: Any) -> None:
    server = lister(wait=60.0)
    running = project_at(project, server.url).start("doctor")
    until = time.monotonic() + 60
    while not server.asked and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, told = running.communicate(timeout=30)
    assert running.returncode == 130 and "Traceback" not in told and "ok    python" in out, told


def test_hostile_words_of_a_server_stay_words(project: Project, lister: Any) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07 \u202egnp.exe \n\nok    key       all is well"
    said = json.dumps({"error": {"message": hostile}})
    done = project_at(project, lister(said, 400).url).run("doctor")
    assert done.returncode == 2 and not set("\x1b\x07\u202e") & set(done.stdout)
    assert "\nok    key       all is well" not in done.stdout and "\\x1b[2J" in done.stdout
    names = json.dumps({"data": [{"id": hostile + "x" * 5000}, *({"id": f"m{n}"} for n in range(100))]})
    done = project_at(project, lister(names).url).run("doctor")
    assert not set("\x1b\x07\u202e") & set(done.stdout) and "and 81 more" in done.stdout and len(done.stdout) < 9000
    told = project.run("doctor", "--json").stdout
    assert told.isascii() and "does not list" in told


# Keys


def test_a_key_is_said_to_be_there_and_never_shown(project: Project, lister: Any) -> None:
    server = lister('{"error": {"message": "Incorrect API key provided: ' + CANARY + '"}}', 401)
    project_at(project, server.url, 'api_key_env = "DEMO_KEY"')
    for arguments in ((), ("--json",)):
        done = project.run("doctor", *arguments, DEMO_KEY=CANARY)
        assert done.returncode == 2 and "the key is in the environment variable DEMO_KEY" in done.stdout
        assert "refuses the key (HTTP 401)" in done.stdout and "valid, and allowed to use the API" in done.stdout
        assert "[key]" in done.stdout and "canary" not in done.stdout + done.stderr
    assert server.authorised == [f"Bearer {CANARY}"] * 2


@pytest.mark.parametrize("raw", [f"{CANARY}\n", f" {CANARY}", f'"{CANARY}"', f"'{CANARY}'"])
def test_a_key_with_something_around_it_is_a_finding(raw: str) -> None:
    teachers = {"main": TeacherSettings(base_url="https://a.example/v1", model="m", api_key_env="DEMO_KEY")}
    [found] = keys.examine(teachers, Path(), {"DEMO_KEY": raw})
    assert found.level == "warning" and "DEMO_KEY" in found.what and CANARY not in str(found)
    assert ("quotes" in found.what) == (raw[0] in "\"'")


def test_a_key_that_is_missing_is_broken_and_the_address_is_asked_all_the_same(project: Project, lister: Any) -> None:
    server = lister('{"error": "who are you?"}', 401)
    findings = examined(project_at(project, server.url, 'api_key_env = "DEMO_KEY"'), status=2)
    key = one(findings, "key")
    assert key["level"] == "broken" and "DEMO_KEY is not set" in key["what"] and "export DEMO_KEY=" in key["fix"]
    assert one(findings, "endpoint")["what"].endswith("answers; it wants the key that is missing")
    assert server.authorised == [None]


def test_key_files_that_are_open_empty_missing_or_strange_are_broken(demo: Project) -> None:
    demo.edit("sampling =", 'api_key_file = "demo.key"\nsampling =')
    file = demo.folder / "demo.key"
    assert "cannot read the key file" in one(examined(demo, status=2), "key")["what"]
    file.write_text(f"{CANARY}\n")
    file.chmod(0o644)
    found = one(examined(demo, status=2), "key")
    assert "can be read by others" in found["what"] and found["fix"].startswith("chmod 600 ")
    subprocess.run(found["fix"].split(), cwd=demo.folder, check=True)
    found = one(examined(demo, status=0), "key")
    assert found["level"] == "well" and "demo.key" in found["what"]
    file.write_text(f"{CANARY}\n{CANARY}\n")
    assert "spaces, line breaks" in one(examined(demo, status=2), "key")["what"]
    file.write_text("\n")
    assert "is empty" in one(examined(demo, status=2), "key")["what"]


# Proxies and certificates


def test_a_proxy_is_named_without_its_password(project: Project, lister: Any) -> None:
    proxy = lister()
    project_at(project, "http://llm.example.org/v1", "allow_http = true")
    secret = f"http://user:{CANARY}@127.0.0.1:{proxy.port}"
    for arguments in ((), ("--json",)):
        done = project.run("doctor", *arguments, http_proxy=secret, PYTHONWARNINGS="")  # aiohttp's own
        assert done.returncode == 0, done.stdout
        assert f"http_proxy (or HTTP_PROXY): http://127.0.0.1:{proxy.port} (its user and password" in done.stdout
        assert "canary" not in done.stdout and f"(through the proxy http://127.0.0.1:{proxy.port})" in done.stdout
    assert proxy.asked == ["http://llm.example.org/v1/models"] * 2, "it did go through the proxy"


def test_a_proxy_that_wants_a_user_is_told(project: Project, lister: Any) -> None:
    proxy = lister("who?", 407)
    project_at(project, "https://llm.example.org/v1")
    found = one(examined(project, status=2, HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}"), "endpoint")
    assert "the proxy answers HTTP 407 (it wants a user)" in found["what"], found
    assert proxy.asked == ["llm.example.org:443"]


def test_a_proxy_that_is_not_there_is_told(project: Project) -> None:
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    project_at(project, "https://llm.example.org/v1")
    secret = f"http://user:{CANARY}@127.0.0.1:{port}"
    found = one(examined(project, status=2, HTTPS_PROXY=secret, PYTHONWARNINGS=""), "endpoint")
    assert "the proxy cannot be reached" in found["what"] and "NO_PROXY" in found["fix"] and "canary" not in str(found)


@pytest.mark.parametrize(
    ("variables", "level", "what"),
    [
        ({}, "well", "no proxy variables are set"),
        ({"https_proxy": "socks5://127.0.0.1:1080"}, "warning", "names a socks5 proxy"),
        ({"HTTPS_PROXY": f"http://user:{CANARY}@proxy:port"}, "warning", "is no address of a proxy"),
        ({"ALL_PROXY": f"http://:{CANARY}@/"}, "warning", "is no address of a proxy"),
        ({"http_proxy": "a:1", "HTTP_PROXY": "b:1"}, "warning", "http_proxy and HTTP_PROXY differ; distillgen takes http_proxy"),
        ({"HTTPS_PROXY": "proxy:3128"}, "note", "NO_PROXY lacks 127.0.0.1 and localhost"),
        ({"HTTPS_PROXY": "proxy:3128", "no_proxy": "localhost"}, "note", "NO_PROXY lacks 127.0.0.1:"),
        ({"HTTPS_PROXY": "proxy:3128", "NO_PROXY": "localhost, 127.0.0.1"}, "well", "asked directly: localhost, 127.0.0.1"),
        ({"HTTPS_PROXY": "proxy:3128", "NO_PROXY": "*"}, "note", "NO_PROXY is *"),
        ({"HTTPS_PROXY": "proxy:3128", "NO_PROXY": "10.0.0.0/8,localhost,127.0.0.1"}, "warning", "match no host: '10.0.0.0/8'"),
        ({"HTTPS_PROXY": "[::1]:3128"}, "well", "https_proxy (or HTTPS_PROXY): http://[::1]:3128"),
    ],
)  # fmt: skip
def test_proxy_variables_are_read_as_python_reads_them(variables: dict[str, str], level: str, what: str) -> None:
    found = list(network.proxies(variables))
    assert any(each.level == level and what in each.what for each in found), found
    assert CANARY not in str(found)


def test_proxies_that_cannot_be_used_stop_the_teacher_they_are_for(project: Project) -> None:
    project_at(project, "https://llm.example.org/v1")
    found = one(examined(project, status=2, HTTPS_PROXY="socks5://127.0.0.1:1080"), "endpoint")
    assert "cannot be asked" in found["what"] and "socks5" in found["what"]
    found = one(examined(project, status=2, HTTPS_PROXY=f"http://user:{CANARY}@proxy:port"), "endpoint")
    assert "is no address" in found["what"] and CANARY not in str(found)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_certificates_that_are_not_there_are_broken(project: Project, name: str) -> None:
    unset = {"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}
    found = one(examined(project, status=2, **{**unset, name: "/nowhere/ca.pem"}), "tls")
    assert found["what"] == f"{name} names /nowhere/ca.pem, which is not there" and f"unset {name}" in found["fix"]


def test_a_file_without_certificates_is_broken(project: Project) -> None:
    empty = project.write("ca.pem", "nothing\n")
    found = one(examined(project, status=2, SSL_CERT_FILE=str(empty)), "tls")
    assert "cannot read the CA certificates" in found["what"]


# The clock


def test_the_clock_is_compared_with_the_servers(project: Project, lister: Any) -> None:
    behind = email.utils.formatdate(time.time() - 3_900, usegmt=True)
    findings = examined(project_at(project, lister(Date=behind).url), status=0)
    found = one(findings, "clock")
    assert found["level"] == "warning" and "the clock is 1 h 05 min ahead of that of 127.0.0.1:" in found["what"]
    assert "TLS" in found["what"] and "Retry-After" in found["what"] and "set-ntp" in found["fix"]
    ahead = email.utils.formatdate(time.time() + 600, usegmt=True)
    assert "behind that of" in one(examined(project_at(project, lister(Date=ahead).url), status=0), "clock")["what"]
    for date, age in ((behind, "3900"), ("yesterday", "0")):  # out of a cache, and no date at all
        found = one(examined(project_at(project, lister(Date=date, Age=age).url), status=0), "clock")
        assert found["level"] == "well" and "no server was asked for the time" in found["what"]


def test_a_clock_before_this_distillgen_was_made_is_wrong() -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    found = network.clock(long_ago, [])
    assert found.level == "warning" and f"before this distillgen was made ({network.made_on()})" in found.what
    assert network.clock(datetime.now(UTC), []).level == "well"
    agreeing = [network.ServerClock("a.example", 3.0), network.ServerClock("b.example", -7_200.0)]
    told = network.clock(datetime.now(UTC), agreeing).what
    assert "2 h 00 min behind that of b.example" in told and "a.example agrees with this machine" in told


# Folders


def test_a_lock_that_keeps_nobody_out_is_seen(tmp_path: Path) -> None:
    assert folders.lock_problem(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
    assert folders.lock_problem(tmp_path / "missing") == "No such file or directory"


def test_a_state_folder_on_a_network_is_broken_and_a_project_is_a_note(tmp_path: Path) -> None:
    table = f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n"
    found = [each for each in folders.examine(tmp_path, tmp_path / ".distillgen", table) if each.about == "locks"]
    assert [(each.level, "(nfs4)" in each.what) for each in found] == [
        ("note", True),
        ("broken", True),
        ("well", False),
    ]
    assert "--state DIR" in found[1].fix
    local = [*folders.examine(tmp_path, tmp_path / ".distillgen", "/dev/a / ext4 rw 0 0\n")]
    assert not any("network" in each.what for each in local)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_project_that_cannot_be_written_is_broken(demo: Project) -> None:
    demo.folder.chmod(0o555)
    try:
        found = about(examined(demo, status=2), "write")
    finally:
        demo.folder.chmod(0o755)
    assert any(each["level"] == "broken" and "Permission denied" in each["what"] for each in found)


def test_a_folder_in_which_nothing_can_be_written_is_broken(demo: Project) -> None:
    """/proc takes no files, whoever asks."""
    if not Path("/proc/self/mounts").exists():
        pytest.skip("no /proc")
    found = about(examined(demo, "--state", "/proc/state", status=2), "write")
    assert [each["level"] for each in found] == ["well", "broken"]
    assert found[1]["what"].startswith("the state folder cannot be written: /proc")
    found = about(examined(demo, status=2, DISTILLGEN_STATE="/proc/state"), "write")
    assert found[1]["level"] == "broken"
    found = about(examined(demo, status=0, DISTILLGEN_CACHE="/proc/cache"), "write")
    assert found[1]["level"] == "note" and "cache" in found[1]["what"]


def test_a_full_disk_is_broken(tmp_path: Path) -> None:
    if not os.path.ismount("/proc"):
        pytest.skip("no /proc")
    found = [*folders._room({"project": Path("/proc"), "cache": tmp_path})]
    assert found[0].level == "broken" and found[0].what.startswith("0.0 GB free in /proc (for: project)")
    [found_cache] = folders._room({"cache": Path("/proc")})
    assert found_cache.level == "warning", "a cache without room stops no build"


# What is under way


def test_another_run_at_work_is_a_note_and_not_a_fault(demo: Project) -> None:
    lock = demo.folder / ".distillgen" / "lock"
    lock.parent.mkdir()
    with lock.open("w") as file:
        file.write(f"4711 elsewhere {int(time.time())}\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        found = one(examined(demo, status=0), "state")
    assert found["level"] == "note" and "process 4711 on elsewhere" in found["what"]
    assert one(examined(demo, status=0), "state")["level"] == "well"


def test_calls_that_were_sent_without_an_answer_are_told(demo: Project, loopback: Loopback) -> None:
    from loopback import Say

    loopback.behave = lambda _: Say(wait=60)
    running = demo.start("build")
    until = time.monotonic() + 60
    while not loopback.seen and time.monotonic() < until:
        time.sleep(0.05)
    running.kill()
    running.communicate()
    found = one(examined(demo, status=0), "state")
    assert found["level"] == "note" and "sent without a known answer" in found["what"]
    assert "status" in found["fix"]


def test_a_store_that_cannot_be_read_is_broken(demo: Project) -> None:
    store = demo.folder / ".distillgen" / "answers.sqlite"
    store.parent.mkdir()
    store.write_bytes(b"not a database, whatever its name says" * 100)
    found = one(examined(demo, status=2), "state")
    assert found["level"] == "broken" and "DG602" in found["what"]


# Packages, models, prices, terms


def test_the_extras_are_those_of_the_project() -> None:
    stated = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(packages.EXTRAS) == set(stated) - {"test", "check"}
    for name, (package, purpose) in packages.EXTRAS.items():
        asked = packages.read_requirement(stated[name][0])
        assert asked is not None and asked.package == package and purpose


@pytest.mark.parametrize(
    ("version", "asked", "is_fit"),
    [
        ("18.0", ">=18", True), ("17.9.9", ">=18", False), ("0.2.10", ">=0.2.3", True), ("2.0.0", ">=2", True),
        ("0.4.0.post1", "==0.4.0.post1", True), ("0.4.0", "==0.4.0.post1", False), ("1!2", "~=3", True),
        ("2.14", ">=2.11,!=2.12", True), ("2026.10.1", ">=2025.7.34", True), ("", ">=1", False),
    ],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(version: str, asked: str, is_fit: bool) -> None:
    assert packages.fits(version, asked) == is_fit


def test_lines_of_metadata_are_read() -> None:
    assert packages.read_requirement("pyarrow>=18; extra == 'parquet'") == packages.Requirement(
        "pyarrow", ">=18", "parquet"
    )
    assert packages.read_requirement('moto[server]>=5.1 ; extra == "test"') == packages.Requirement(
        "moto", ">=5.1", "test"
    )
    assert packages.read_requirement("rich (>=14)") == packages.Requirement("rich", ">=14", "")


def test_extras_that_are_missing_or_old_are_told_with_their_install_line(project: Project) -> None:
    """In a folder of packages of its own: an old pyarrow, a huggingface_hub that is not there."""
    site = project.folder / "site"
    for name, version in (("pyarrow", "9.0.0"), ("openai", "1.0"), ("xllamacpp", "1.0")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    found = examined(project, status=2, PYTHONPATH=f"{site}:{REPOSITORY}")
    extras = {each["what"].partition(":")[0]: each for each in about(found, "extras")}
    assert extras["parquet"]["level"] == "warning" and extras["parquet"]["fix"] == "pip install 'distillgen[parquet]'"
    assert "pyarrow 9.0.0 is installed, pyarrow>=18 is needed" in extras["parquet"]["what"]
    old = [each for each in about(found, "packages") if each["level"] == "broken"]
    assert [each["what"] for each in old] == ["openai 1.0 is installed, >=3.30 is needed"]
    assert old[0]["fix"] == "pip install 'openai>=3.30'"


def test_an_extra_that_is_not_installed_is_a_note() -> None:
    nothing = packages.Requirement("no-such-package-here", ">=1", "parquet")
    found = packages._extra("parquet", [nothing])
    assert found.level == "note" and "no-such-package-here" in found.what and found.fix.endswith("[parquet]'")


def test_weights_that_are_not_whole_are_told(project: Project) -> None:
    [small] = [model for model in models().values() if model.name == "smollm2-135m"]
    folder = project.folder / "cache" / "models"
    folder.mkdir(parents=True)
    (folder / f"{small.name}-{small.sha256[:12]}.gguf").write_bytes(b"GGUF")
    (folder / ".staging-qwen2.5-coder-0.5b").mkdir()
    found = about(examined(project, status=0, DISTILLGEN_CACHE=str(folder.parent)), "embedded")
    assert [each["level"] for each in found[-3:]] == ["note", "note", "warning"] or {
        each["level"] for each in found[-3:]
    } == {"note", "warning"}
    told = {each["level"]: each for each in found if "smollm2" in each["what"]}
    assert f"has 4 bytes, not the {small.bytes:,} of smollm2-135m" in told["warning"]["what"]
    assert told["warning"]["fix"] == "distillgen teachers install smollm2-135m"
    assert any("interrupted" in each["what"] and "qwen2.5-coder-0.5b" in each["fix"] for each in found)


def test_embedded_teachers_need_runtime_and_weights(demo: Project) -> None:
    text = demo.recipe.read_text()
    lines = re.sub(r'base_url = .*\nmodel = "scripted"', 'provider = "embedded"\nmodel = "smollm2-135m"', text)
    demo.recipe.write_text(lines)
    found = about(examined(demo, status=2, DISTILLGEN_CACHE=str(demo.folder / "empty")), "embedded")[-1]
    assert "weights of smollm2-135m are not installed" in found["what"] and "teachers install" in found["fix"]
    pytest.importorskip("xllamacpp")
    (demo.folder / "own.gguf").write_bytes(b"PK\x03\x04")
    demo.edit('model = "smollm2-135m"', 'gguf = "own.gguf"')
    assert "is not a GGUF file" in about(examined(demo, status=2), "embedded")[-1]["what"]
    (demo.folder / "own.gguf").write_bytes(b"GGUF and more")
    assert about(examined(demo), "embedded")[-1]["level"] == "well"


def test_prices_are_told_by_where_they_come_from(project: Project, lister: Any) -> None:
    findings = examined(project_at(project, lister().url), status=0)
    told = [each for each in about(findings, "prices") if "main" in each["what"]]
    assert told[0]["level"] == "note" and "no price is known for 'scripted'" in told[0]["what"]
    project_at(project, project_url(project), "prices = { input = 1.5, output = 2.0 }")
    [told] = [each for each in about(examined(project), "prices") if "main" in each["what"]]
    assert told["what"] == "teacher 'main': $1.5 in, $2.0 out per million tokens (recipe)"


def project_url(project: Project) -> str:
    [url] = re.findall(r'base_url = "([^"]+)"', project.recipe.read_text())
    return url


def test_a_price_that_is_not_the_lists_is_a_note(project: Project) -> None:
    from distillgen.doctor.ages import of_teachers

    own = RECIPE.replace('base_url = "{url}"', 'provider = "openai"\nprices = {{ input = 99.0, output = 99.0 }}')
    project.write("recipe.toml", own.format().replace("scripted", "gpt-4o-mini"))
    recipe, source = read_recipe(project.recipe)
    found = [*of_teachers(recipe, source, datetime.now(UTC))]
    assert (
        found[0].level == "note" and "the recipe says $99.0 in" in found[0].what and "the list says $0" in found[0].what
    )
    late = [*of_teachers(recipe, source, datetime.now(UTC) + timedelta(days=3650))]
    overdue = [each for each in late if each.level == "warning"]
    assert overdue and all(each.about == "terms" and "trusted until" in each.what for each in overdue)
    assert any("openai" in each.what for each in overdue) and all("read it again: " in each.fix for each in overdue)


def test_terms_that_stop_a_build_are_told(project: Project) -> None:
    from distillgen.doctor.ages import of_teachers

    day = datetime(2026, 12, 1, tzinfo=UTC)
    text = RECIPE.replace('base_url = "{url}"', 'provider = "openai"').format().replace("scripted", "gpt-4o-mini")
    for more, level, what in (
        ("", "broken", "terms are restricted for the purpose internal: openai-services-agreement"),
        ('[terms]\ncompeting = "no"\n', "well", "for the purpose internal the terms are: "),
        ("", "note", "for the purpose internal the terms are unknown: "),
    ):
        changed = text.replace('provider = "openai"', 'base_url = "http://127.0.0.1:9/v1"') if level == "note" else text
        project.write("recipe.toml", changed + more)
        recipe, source = read_recipe(project.recipe)
        [found] = [each for each in of_teachers(recipe, source, day) if each.about == "terms"]
        assert found.level == level and found.what.startswith(what), found
        assert ("accept = " in found.fix) == (level == "broken")


def test_old_tables_are_told() -> None:
    made = ages.prices_of()
    assert made is not None, "the price list no longer says when it was looked at"
    now = datetime(made.year, made.month, made.day, tzinfo=UTC) + timedelta(days=30)
    assert [each.level for each in ages.of_tables(now, is_needed=False)] == ["well", "well"]
    old = [*ages.of_tables(now + timedelta(days=3650), is_needed=False)]
    assert [each.level for each in old] == ["note", "warning"] and "they may have changed" in old[0].what
    assert "past their day" in old[1].what and "genai-prices" in old[0].fix


# The terminal


def in_terminal(project: Project, columns: int, **environment: str) -> str:
    """Run `doctor` in a pseudo-terminal and return what is written there."""
    ours, theirs = pty.openpty()
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {**clean_environment(**environment)}
    variables.pop("COLUMNS")
    process = subprocess.Popen(
        [sys.executable, "-m", "distillgen", "doctor"],
        cwd=project.folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):
        while block := os.read(ours, 65_536):
            said += block
    os.close(ours)
    process.wait(60)
    return said.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 40])
def test_it_fits_a_terminal(demo: Project, columns: int) -> None:
    said = in_terminal(demo, columns, TERM="xterm")
    assert max(len(line) for line in said.splitlines()) <= columns and "\x1b" not in said
    assert not any(line.endswith(" ") for line in said.splitlines())
    words = " ".join(said.split())
    assert f"a terminal of {columns} columns" in words and "no colours (NO_COLOR is set)" in words


def test_a_terminal_that_nobody_knows_is_told(project: Project) -> None:
    words = " ".join(in_terminal(project, 100, TERM="no-such-terminal").split())
    assert "TERM is 'no-such-terminal', which this system does not know" in words
    assert "TERM is 'dumb'" in " ".join(in_terminal(project, 100, TERM="dumb").split())
    assert "TERM is not set" in " ".join(in_terminal(project, 100, TERM="").split())


def test_colours_are_there_in_a_terminal_that_has_them(project: Project) -> None:
    said = in_terminal(project, 100, TERM="xterm-256color", NO_COLOR="")
    assert "\x1b[32mok" in said


def test_colour_variables_that_disagree_are_told(project: Project) -> None:
    both = about(examined(project, FORCE_COLOR="1"), "terminal")  # NO_COLOR is set in all tests
    assert any("NO_COLOR and FORCE_COLOR are both set" in each["what"] for each in both)
    forced = about(examined(project, FORCE_COLOR="1", NO_COLOR=""), "terminal")
    assert any("colour codes go into files" in each["what"] for each in forced)


def test_an_encoding_that_lacks_letters_is_told_and_ends_nothing(demo: Project) -> None:
    demo.edit('model = "scripted"', 'model = "größte"')
    done = demo.run("doctor", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "DG000" not in done.stderr
    assert "gr\\xf6\\xdfte" in done.stdout and "text is written as ascii" in done.stdout
    assert "PYTHONUTF8=1" in done.stdout


def test_the_page_names_all_that_is_looked_at_and_only_codes_that_there_are() -> None:
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    first = page.split("\n\n")[4]
    named = {word for line in first.splitlines()[2:] for word in re.findall(r"`(\w+)`", line.split("|")[1])}
    code = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "distillgen" / "doctor").glob("*.py"))
    assert named == set(re.findall(r'\b(?:well|note|warning|broken)\(\s*"([a-z]+)"', code))
    errors = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"DG\d{3}", page)) <= set(re.findall(r"^\| (DG\d{3})", errors, re.M))


def test_what_is_not_well_has_a_fix_and_nothing_else_has() -> None:
    with pytest.raises(ValueError, match="has a fix"):
        Finding("broken", "disk", "no room")
    with pytest.raises(ValueError, match="has a fix"):
        Finding("well", "disk", "room", "none needed")
    assert well("disk", "room").fix == ""


def test_a_pipe_that_closes_ends_it_quietly(demo: Project) -> None:
    script = f"{sys.executable} -m distillgen doctor | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=demo.folder, env=clean_environment(), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[0].startswith("ok    python") and done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "141")
