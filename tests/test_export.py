"""Exports: one contract that every format passes, each format's rules with rows that break them, and what disks do."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, Project, clean_environment
from published import killed_at, noted, of_students

from distillgen.cli import export as command
from distillgen.dataset.versions import Version, find_version
from distillgen.errors import Damaged, Locked, UsageError
from distillgen.export.chat_template import ChatTemplate, read_template
from distillgen.export.formats import FORMATS, Format, Unfit
from distillgen.export.options import Options
from distillgen.export.place import files_for
from distillgen.export.reading import batches
from distillgen.export.sinks import safe_cell
from distillgen.export.trainers import TRAINERS
from distillgen.export.write import export_folder, export_to
from distillgen.files import read_jsonl

Row = Mapping[str, Any]
GOLDEN = REPOSITORY / "tests/data/export"
TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}
    {%- else %}{{ message['content'] }}{% endif %}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
"""
SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}
ANSWER, OTHER = {"role": "assistant", "content": "So."}, {"role": "assistant", "content": "No."}
HOSTILE = "=1+1 </think> \x1b[31m \u202e \ud7ff \"quoted\", 'single'\r\n<script>\t\x7f 12345678901234567890 \u2028 \u00e9\U0001f600"


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Project]:
    """Four versions of forty rows: conversations, with a system turn and traces, pairs, and hostile ones."""
    students = {
        "plain": "",
        "traces": 'system = "Be brief."\nreasoning = "{{ reasoning }}"',
        "pairs": 'system = "Be brief."\nrejected = "{{ question }}"',
    }
    made = of_students(tmp_path_factory.mktemp, students)
    made["hostile"] = Project(tmp_path_factory.mktemp("hostile"))
    made["hostile"].write(
        "recipe.toml",
        'name = "demo"\n[seeds]\npath = "seeds.jsonl"\n[[steps]]\nuse = "filter"\n'
        'rules = [{ rule = "not_empty", column = "q" }]\n[student]\nprompt = "{{ q }}"\ncompletion = "{{ a }}"\n',
    )
    texts = [HOSTILE, "+1", "'=x", "2024-01-01", "2024-01-01T00:00:00Z", "null", "a" * 40_000, "\n\n", "0012", "@x"]
    made["hostile"].seeds([{"q": f"{n} {text}", "a": text} for n, text in enumerate(texts)])
    made["hostile"].build()
    return made


def exported(project: Project, form: str, *arguments: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "distillgen", "export", "demo", "--format", form, *arguments],
        cwd=project.folder, env=clean_environment(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def options_for(form: str, project: Project) -> list[str]:
    if form == "text":
        return ["--template", str(project.write("template.jinja", TEMPLATE))]
    return ["--reasoning", "drop"] if form == "labels" else []


def kind_for(form: Format) -> str:
    return "pairs" if form.takes == "pair" else "plain"


# -- how each format is read again: the inverse, written here ----------------------------------------------------------


def lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def as_messages(prompt: Any, completion: Any) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return [*prompt, *completion]


def from_alpaca(row: Row) -> list[dict[str, str]]:
    system = [{"role": "system", "content": row["system"]}] if row["system"] else []
    rounds = [*row["history"], [row["instruction"], row["output"]]]
    return system + [turn for asked, said in rounds for turn in as_messages(asked, said)]


def from_sharegpt(row: Row) -> list[dict[str, str]]:
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    return [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]


def from_text(row: Row) -> list[dict[str, str]]:
    turns = row["text"].split("<|im_start|>")[1:]
    parts = (turn.removesuffix("<|im_end|>\n").partition("\n") for turn in turns)
    return [{"role": role, "content": content} for role, _, content in parts]


def unpaired(content: bytes) -> list[Row]:
    rows = lines(content)
    assert [row["label"] for row in rows] == [True, False] * (len(rows) // 2)
    return [
        {"prompt": good["prompt"], "chosen": good["completion"], "rejected": bad["completion"]}
        for good, bad in zip(rows[::2], rows[1::2], strict=True)
    ]


def from_csv(content: bytes) -> list[Row]:
    cells = [
        {
            name: cell[1:] if cell[0] == "'" and safe_cell(cell[1:]) == cell else cell
            for name, cell in row.items()
            if cell
        }
        for row in csv.DictReader(io.StringIO(content.decode(), newline=""))
    ]
    system = [[{"role": "system", "content": row["system"]}] if "system" in row else [] for row in cells]
    if "chosen" not in cells[0]:
        return [
            {"id": row["id"], "messages": [*first, *as_messages(row["prompt"], row["completion"])]}
            for first, row in zip(system, cells, strict=True)
        ]
    return [
        {
            "id": row["id"], "prompt": [*first, {"role": "user", "content": row["prompt"]}],
            **{name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")},
        }
        for first, row in zip(system, cells, strict=True)
    ]  # fmt: skip


def parquet(content: bytes) -> list[Row]:
    rows: list[Row] = pq.read_table(io.BytesIO(content)).to_pylist()
    return rows


INVERSE: Mapping[str, Callable[[bytes], list[Row]]] = {
    "messages": lambda content: lines(content),
    "prompt-completion": lambda content: [
        {"messages": as_messages(row["prompt"], row["completion"])} for row in lines(content)
    ],
    "sharegpt": lambda content: [{"messages": from_sharegpt(row)} for row in lines(content)],
    "alpaca": lambda content: [{"messages": from_alpaca(row)} for row in lines(content)],
    "preference": lambda content: lines(content),
    "unpaired-preference": unpaired,
    "text": lambda content: [{"messages": from_text(row)} for row in lines(content)],
    "labels": lambda content: [{"messages": as_messages(row["text"], row["label"])} for row in lines(content)],
    "parquet": parquet,
    "csv": from_csv,
}  # fmt: skip


# -- the contract ------------------------------------------------------------------------------------------------------


def test_the_command_knows_every_format_and_trainer() -> None:
    assert ((*FORMATS,), (*TRAINERS,)) == (command.FORMATS, command.TRAINERS)
    assert {*INVERSE} == {*FORMATS}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_what_is_written_can_be_read_again(form: Format, projects: dict[str, Project]) -> None:
    project = projects[kind_for(form)]
    found = INVERSE[form.name](exported(project, form.name, *options_for(form.name, project)))
    rows = project.rows()
    assert len(found) == len(rows) == 40
    wanted = [{key: row[key] for key in found[0]} for row in rows]
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, wanted))


@pytest.mark.parametrize(
    "form", [each for each in FORMATS.values() if each.takes != "pair"], ids=lambda each: each.name
)
def test_hostile_text_comes_back_as_it_was(form: Format, projects: dict[str, Project]) -> None:
    project = projects["hostile"]
    if form.name == "labels":
        done = project.run("export", "demo", "--format", "labels", "--reasoning", "drop")
        assert done.returncode == 2 and "its answer is no label" in done.stderr
        return
    found = INVERSE[form.name](exported(project, form.name, *options_for(form.name, project)))
    assert [row["messages"][-1]["content"] for row in found] == [
        row["messages"][-1]["content"] for row in project.rows()
    ]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_folder_holds_a_file_per_split_the_same_bytes_each_time(
    form: Format, projects: dict[str, Project], tmp_path: Path
) -> None:
    project = projects[kind_for(form)]
    arguments = [*options_for(form.name, project), "-o", str(tmp_path)]
    exported(project, form.name, *arguments)
    names = {f"train{form.suffix}", f"validation{form.suffix}"}
    assert {path.name for path in tmp_path.iterdir()} == names
    before = {name: (tmp_path / name).read_bytes() for name in names}
    exported(project, form.name, *arguments)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    splits = project.manifest()["splits"]
    per_row = 2 if form.name == "unpaired-preference" else 1
    for split, rows in splits.items():
        content = before[f"{split}{form.suffix}"]
        assert len(INVERSE[form.name](content)) == rows, (form.name, per_row)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_the_golden_file(form: Format, projects: dict[str, Project]) -> None:
    """The first two rows of a split; of Parquet its schema. A change of these is a change for everybody's trainer."""
    project = projects[kind_for(form)]
    content = exported(project, form.name, *options_for(form.name, project), "--split", "validation")
    if form.suffix == ".parquet":
        said = str(pq.read_schema(io.BytesIO(content))).encode()
    else:
        said = b"".join(content.splitlines(keepends=True)[: 4 if form.suffix == ".csv" else 2])
    path = GOLDEN / f"{form.name}{form.suffix if form.suffix != '.parquet' else '.txt'}"
    if os.environ.get("WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(said)
    assert said == path.read_bytes()


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_datasets_opens_it(form: str, projects: dict[str, Project], tmp_path: Path) -> None:
    for kind in ("hostile", "plain"):
        folder = tmp_path / kind
        exported(projects[kind], "messages" if form == "jsonl" else form, "-o", str(folder))
        loader = {"jsonl": "json"}.get(form, form)
        code = (
            "import datasets, json, sys\n"
            f"rows = datasets.load_dataset({loader!r}, data_files={{'train': {str(folder / f'train.{form}')!r}}}, "
            f"cache_dir={str(tmp_path / 'cache')!r})['train']\n"
            "print(json.dumps([rows.num_rows, str(rows.features)]))"
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False,
            env=clean_environment(HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        rows, features = json.loads(done.stdout.splitlines()[-1])
        assert rows == projects[kind].manifest()["splits"]["train"]
        assert "timestamp" not in features and "string" in features


# -- reasoning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["think", "reasoning_content", "thinking", "drop"])
@pytest.mark.parametrize(
    "form", [each for each in FORMATS.values() if each.takes != "pair"], ids=lambda each: each.name
)
def test_reasoning_goes_where_it_was_asked_for_or_is_refused(
    form: Format, place: str, projects: dict[str, Project]
) -> None:
    project = projects["traces"]
    arguments = [*options_for(form.name, project)[: 2 if form.name == "text" else 0], "--reasoning", place]
    done = project.run("export", "demo", "--format", form.name, *arguments) if form.suffix != ".parquet" else None
    can = place in (("think", "drop") if form.name == "text" else form.reasoning)
    if not can:
        assert done is not None and done.returncode == 2 and done.stdout == ""
        assert f"with its reasoning as {place!r}" in done.stderr and "--reasoning" in done.stderr
        return
    content = exported(project, form.name, *arguments)
    trace, answer = project.rows()[0]["reasoning"], project.rows()[0]["messages"][-1]["content"]
    assert trace.startswith("Hm, ")
    if form.suffix == ".parquet":
        last: Any = parquet(content)[0]["messages"][-1]
        said = {"think": f"<think>\n{trace}\n</think>\n\n{answer}"}.get(place, answer)
        assert last["content"] == said and last.get(place, trace) == trace
        return
    if form.suffix == ".csv":
        first = next(csv.DictReader(io.StringIO(content.decode(), newline="")))
        names = {*first}
    else:
        first = lines(content)[0]
        last = next(
            (
                each[-1]
                for each in reversed(first.values())
                if isinstance(each, list) and each and isinstance(each[-1], dict)
            ),
            {},
        )
        names = {*last}
    text = str(list(map(str, first.values())))
    assert ("<think>" in text) == (place == "think")
    assert (place in names) == (place in ("reasoning_content", "thinking") and form.name != "text")
    assert (trace in text) == (place != "drop") and answer in text


def test_a_pair_has_the_reasoning_in_the_chosen_answer() -> None:
    row = {"id": "a", "prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER], "reasoning": "Hm."}
    made = FORMATS["preference"].render(row, Options("think"))
    assert made == {
        "prompt": [USER],
        "chosen": [{"role": "assistant", "content": "<think>\nHm.\n</think>\n\nSo."}],
        "rejected": [OTHER],
    }
    made = FORMATS["preference"].render(row, Options("thinking"))
    assert isinstance(made, dict)
    assert made["chosen"][0]["thinking"] == "Hm." and made["rejected"][0]["thinking"] == ""


@pytest.mark.parametrize(
    ("chosen", "rejected", "why"),
    [([ANSWER], [ANSWER], "both answers are the same"), ([ANSWER, USER, ANSWER], [OTHER], "an answer is one")],
)
def test_no_answer_is_good_and_bad(chosen: list[Row], rejected: list[Row], why: str) -> None:
    row = {"id": "a", "prompt": [USER], "chosen": chosen, "rejected": rejected}
    with pytest.raises(Unfit, match=why):
        FORMATS["unpaired-preference"].render(row, Options())


@pytest.mark.parametrize("name", ["reasoning", "answer"])
def test_reasoning_that_would_end_elsewhere_is_not_written_inline(name: str) -> None:
    said = {"reasoning": "Hm.", "answer": "So.", name: "So </think> it is"}
    row = {"id": "a", "messages": [USER, {**ANSWER, "content": said["answer"]}], "reasoning": said["reasoning"]}
    with pytest.raises(Unfit, match=f"its {name} holds `</think>` itself"):
        FORMATS["messages"].render(row, Options("think"))
    made = FORMATS["messages"].render(row, Options("thinking"))
    assert isinstance(made, dict) and made["messages"][-1] == {
        "role": "assistant", "content": said["answer"], "thinking": said["reasoning"]
    }  # fmt: skip
    assert FORMATS["messages"].render({**row, "reasoning": ""}, Options("think")) == {"messages": row["messages"]}


# -- each format's own rules -------------------------------------------------------------------------------------------

WRONG: list[tuple[str, Row, str]] = [
    ("messages", {"messages": [USER]}, "no question with an answer at its end"),
    ("messages", {"messages": [ANSWER, USER]}, "no question with an answer at its end"),
    ("messages", {"messages": [USER, SYSTEM, ANSWER]}, "turn 2 is the system's, which must be the first"),
    ("messages", {"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "turn 1 has the role 'tool'"),
    ("messages", {"messages": [{"role": "user", "content": ""}, ANSWER]}, "turn 1 is empty"),
    ("prompt-completion", {"prompt": "", "completion": "x"}, "its prompt is empty"),
    ("prompt-completion", {"prompt": "x", "completion": ""}, "its completion is empty"),
    ("prompt-completion", {"prompt": [USER], "completion": [USER]}, "no question with an answer at its end"),
    ("sharegpt", {"conversations": [{"from": "gpt", "value": "x"}]}, "turn 1 is from 'gpt'"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "x"}] * 2}, "turn 2 is from 'human'"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "x"}]}, "no question with an answer at its end"),
    ("sharegpt", {"conversations": [{"from": "human", "value": ""}]}, "turn 1 is empty"),
    ("alpaca", {"instruction": "", "output": "x", "history": []}, "its instruction is empty"),
    ("alpaca", {"instruction": "x", "output": "", "history": []}, "its output is empty"),
    ("alpaca", {"instruction": "x", "output": "x", "history": [["a", ""]]}, "an earlier round has an empty turn"),
    ("preference", {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, "both answers are the same"),
    ("preference", {"prompt": [], "chosen": [ANSWER], "rejected": [OTHER]}, "chosen: it is no question"),
    ("preference", {"prompt": [USER], "chosen": [ANSWER], "rejected": [USER]}, "rejected: it is no question"),
    ("unpaired-preference", {"prompt": [], "completion": [ANSWER], "label": True}, "it is no question"),
    ("preference", {"prompt": [USER], "chosen": [ANSWER, ANSWER], "rejected": [OTHER]}, "chosen: it is 2 turns"),
    ("text", {"text": ""}, "renders it to nothing"),
    ("text", {"text": "a\ud800"}, "half a character"),
    ("labels", {"text": "", "label": "x"}, "its text is empty"),
    ("labels", {"text": "x", "label": ""}, "its label is empty"),
    ("labels", {"text": "x", "label": "a\nb"}, "its answer is no label"),
    ("labels", {"text": "x", "label": "a\u2028b"}, "its answer is no label"),
    ("labels", {"text": "x", "label": "a" * 201}, "its answer is no label"),
    ("csv", {"id": "a", "prompt": "x\0"}, "column 'prompt' holds a NUL"),
    ("parquet", {"messages": [USER]}, "no question with an answer at its end"),
    ("parquet", {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, "both answers are the same"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "row", "why"), WRONG)
def test_a_rule_refuses_with_its_reason(form: str, row: Row, why: str) -> None:
    assert why in str(FORMATS[form].wrong(dict(row)))


def test_every_format_has_a_row_that_breaks_its_rule() -> None:
    assert {form for form, _, _ in WRONG} == {*FORMATS}


@pytest.mark.parametrize(
    ("form", "turns", "why"),
    [
        ("prompt-completion", [SYSTEM, USER, ANSWER], "more than one question and one answer"),
        ("sharegpt", [{"role": "tool", "content": "x"}, ANSWER], "no sender"),
        ("alpaca", [USER, USER, ANSWER], "do not alternate"),
        ("labels", [USER, ANSWER, USER, ANSWER], "more or other turns than a text and its label"),
        ("csv", [USER, ANSWER, USER, ANSWER], "it has 3 turns before the answer"),
        ("csv", [{"role": "tool", "content": "x"}, ANSWER], "has the role 'tool'"),
        ("csv", [USER, {"role": "assistant", "content": ""}], "turn 2 is empty"),
        ("csv", [SYSTEM, ANSWER], "it has 0 turns before the answer"),
        ("prompt-completion", [USER, USER], "more than one question and one answer"),
        ("labels", [USER, USER], "other turns than a text and its label"),
    ],
)
def test_what_a_format_cannot_carry_is_refused(form: str, turns: list[Row], why: str) -> None:
    with pytest.raises(Unfit, match=why):
        FORMATS[form].render({"id": "a", "messages": turns}, Options("drop", as_text=True))


def test_several_rounds_in_alpaca_and_sharegpt() -> None:
    row = {"id": "a", "messages": [SYSTEM, USER, ANSWER, {"role": "user", "content": "And?"}, OTHER]}
    made = FORMATS["alpaca"].render(row, Options())
    assert made == {
        "instruction": "And?", "input": "", "output": "No.", "system": "Be brief.", "history": [["Why?", "So."]]
    }  # fmt: skip
    assert isinstance(made, dict) and FORMATS["alpaca"].wrong(made) is None and from_alpaca(made) == row["messages"]
    made = FORMATS["sharegpt"].render(row, Options())
    assert isinstance(made, dict) and FORMATS["sharegpt"].wrong(made) is None and from_sharegpt(made) == row["messages"]


@pytest.mark.parametrize(
    "text",
    [
        "=1",
        "+1",
        "-1",
        "@x",
        "\tx",
        "\rx",
        "'=1",
        "''+1",
        "'x",
        "",
        "x=1",
        " =1",
        "\nx",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff201",
    ],
)
def test_a_cell_is_no_formula_and_comes_back(text: str) -> None:
    cell = safe_cell(text)
    assert not cell or cell[0] not in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
    assert (cell[1:] if cell != text else cell) == text
    assert safe_cell("x" + text) == "x" + text


# -- the command -------------------------------------------------------------------------------------------------------


def test_pairs_and_conversations_are_not_taken_for_each_other(projects: dict[str, Project], tmp_path: Path) -> None:
    for form in FORMATS.values():
        other = {"conversation": "pairs", "pair": "plain"}.get(form.takes)
        if other is None:
            continue
        done = projects[other].run("export", "demo", "--format", form.name, "-o", str(tmp_path / "out"))
        assert (done.returncode, done.stdout) == (2, "") and "holds" in done.stderr, form.name
        assert not (tmp_path / "out").exists()


def damaged(project: Project, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of a version, with two of its rows changed."""
    folder = tmp_path / "copy"
    (folder / "data").mkdir(parents=True)
    for path in [*project.version().glob("data/*"), project.version() / "manifest.json"]:
        target = folder / path.relative_to(project.version())
        target.write_bytes(path.read_bytes())
    path = next(folder.glob("data/train*"))
    rows = list(read_jsonl(path))
    change(rows[4])
    change(rows[6])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    noted(folder)
    return folder


def test_rows_that_do_not_fit_are_named_and_nothing_is_written(projects: dict[str, Project], tmp_path: Path) -> None:
    project = projects["plain"]
    folder = damaged(project, tmp_path, lambda row: row["messages"][0].update(role="tool"))
    out = tmp_path / "out"
    exported(project, "messages", "-o", str(out))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    done = project.run("export", str(folder), "--format", "messages", "-o", str(out))
    assert done.returncode == 2 and "row" in done.stderr and done.stderr.count("has the role 'tool'") == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before, "what stood there stays whole"
    done = project.run("export", str(folder), "--format", "messages")
    assert done.returncode == 2 and "rows before it were written" in done.stderr


def test_a_damaged_line_is_named(projects: dict[str, Project], tmp_path: Path) -> None:
    folder = damaged(projects["plain"], tmp_path, lambda row: row.pop("id"))
    done = projects["plain"].run("export", str(folder), "-o", str(tmp_path / "out"))
    assert done.returncode == 8 and "jsonl:5" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_full_disk_leaves_what_stood_there(form: Format, projects: dict[str, Project], tmp_path: Path) -> None:
    project = projects[kind_for(form)]
    names = [tmp_path / f"{split}{form.suffix}" for split in ("train", "validation")]
    for name in names:
        name.write_text("before")
    arguments = ["--format", form.name, *options_for(form.name, project), "-o", str(tmp_path)]
    code = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        f"sys.argv = ['distillgen', 'export', 'demo', *{arguments!r}]\n"
        "runpy.run_module('distillgen', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder, env=clean_environment(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 12 and "no room" in done.stderr
    assert "what stood there before is as it was" in done.stderr and "what was decided" not in done.stderr
    assert sorted(tmp_path.iterdir()) == names and all(name.read_text() == "before" for name in names)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(("reader", "status"), [("gone", 141), ("full", 12)])
def test_standard_output_that_takes_nothing(
    form: Format, reader: str, status: int, projects: dict[str, Project]
) -> None:
    project = projects[kind_for(form)]
    if reader == "gone":
        end, out = os.pipe()
        os.close(end)
    else:
        out = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-m", "distillgen", "export", "demo", "--format", form.name, *options_for(form.name, project)],
        cwd=project.folder, env=clean_environment(), stdout=out, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(out)
    assert done.returncode == status, done.stderr
    assert ("no room" in done.stderr) if status == 12 else done.stderr == ""


def test_a_version_is_not_written_into(projects: dict[str, Project]) -> None:
    project = projects["plain"]
    for folder in ("datasets/demo/v0001", "datasets/demo/v0001/data", "datasets/demo/latest/more"):
        done = project.run("export", "demo", "-o", folder)
        assert done.returncode == 2 and "never changes" in done.stderr
    for folder in ("datasets/demo/v0002", "datasets/demo/v0007/exports/../data"):
        done = project.run("export", "demo", "-o", folder)
        assert done.returncode == 2 and "never changes" in done.stderr and not (project.folder / folder).exists()
    other = projects["traces"].version() / "data"
    assert project.run("export", "demo", "-o", str(other)).returncode == 2 and not (other / "train.jsonl").exists()
    assert project.run("export", "demo", "-o", "datasets/demo/v0001/exports/mine").returncode == 0
    assert project.run("check", "demo").returncode == 0


def test_a_project_keeps_its_folders_to_itself(projects: dict[str, Project]) -> None:
    project = projects["plain"]
    for folder in ("datasets", "datasets/demo", "datasets/other/deeper", ".distillgen"):
        done = project.run("export", "demo", "-o", folder)
        assert done.returncode == 2 and "keeps its own files" in done.stderr, folder
    assert not (project.folder / "datasets/other").exists()
    project.write("file.jsonl", "mine")
    for form in ("messages", "trl"):
        done = project.run("export", "demo", "--format", form, "-o", "file.jsonl")
        assert done.returncode == 2 and "is no folder" in done.stderr and "--split NAME > FILE" in done.stderr
    assert (project.folder / "file.jsonl").read_text() == "mine"


def test_a_dash_is_standard_output(projects: dict[str, Project]) -> None:
    project = projects["plain"]
    assert exported(project, "messages", "-o", "-") == exported(project, "messages")
    done = project.run("export", "demo", "--format", "trl", "-o", "-")
    assert done.returncode == 2 and "writes several files" in done.stderr and not (project.folder / "-").exists()


@pytest.mark.parametrize(
    ("wanted", "near"),
    [("mesages", "messages"), ("TRL", "trl"), ("llama_factory", "llama-factory"), ("jsonl", None), ("", None)],
)
def test_a_format_that_is_not_there_is_told_with_the_nearest(
    wanted: str, near: str | None, projects: dict[str, Project]
) -> None:
    done = projects["plain"].run("export", "demo", "--format", wanted)
    assert (done.returncode, done.stdout) == (2, "") and f"no format {wanted!r}" in done.stderr
    assert (f"did you mean {near!r}?" in done.stderr) if near else "did you mean" not in done.stderr
    said = " ".join(done.stderr.split())
    assert f"{', '.join(FORMATS)}; for a trainer: {', '.join(TRAINERS)}" in said


def test_an_unknown_split_makes_no_folder(projects: dict[str, Project], tmp_path: Path) -> None:
    for form in ("messages", "trl"):
        done = projects["plain"].run("export", "demo", "--format", form, "--split", "tran", "-o", str(tmp_path / "out"))
        assert done.returncode == 10 and "did you mean 'train'?" in done.stderr and not (tmp_path / "out").exists()


def test_what_a_killed_export_left_is_swept(projects: dict[str, Project], tmp_path: Path) -> None:
    version = find_version("demo", projects["plain"].folder / "datasets")
    mine = {".exporting-mine", ".train.jsonl.77", ".exporting-1-x"}
    (tmp_path / ".exporting-1-x").mkdir()
    for name in (".exporting-mine", ".train.jsonl.77"):
        (tmp_path / name).touch()

    def export() -> None:
        export_folder(tmp_path, version, FORMATS["messages"], Options(), split=None, beside={"more.txt": "x"})

    left = [set[str]()]
    for call in range(1, 20):
        if not killed_at(call, ("fsync", "rename", "replace", "unlink"), export):
            break
        left.append({path.name for path in tmp_path.iterdir()} - mine)
    names = {"train.jsonl", "validation.jsonl", "more.txt"}
    assert any(names - found and found - names for found in left), "some were killed before all was in place"
    assert {path.name for path in tmp_path.iterdir()} == {*names, *mine}, "nothing of theirs is left, all of others"


@pytest.mark.parametrize(
    ("form", "number", "said"),
    [
        *((form, signal.SIGINT, "") for form in ("messages", "parquet", "csv")),
        ("messages", signal.SIGTERM, "DG001 stopped; what stood there before is as it was\n"),
        ("parquet", signal.SIGHUP, "DG001 stopped; what stood there before is as it was\n"),
    ],
)
def test_an_export_that_is_stopped_leaves_nothing(
    form: str, number: signal.Signals, said: str, projects: dict[str, Project], tmp_path: Path
) -> None:
    """The signal comes before the third hundred of rows."""
    version = copied(projects["plain"], tmp_path, lambda rows: rows.extend(rows * 19))
    code = (
        "import os, signal, sys\n"
        "from distillgen.cli.main import main\n"
        "from distillgen.export import write\n"
        "def slowly(version, split, read=write.batches):\n"
        "    for place, rows in enumerate(read(version, split)):\n"
        "        if place == 2:\n"
        f"            os.kill(os.getpid(), {number.value})\n"
        "        yield rows\n"
        "write.batches = slowly\n"
        f"sys.argv = ['distillgen', 'export', {str(version.folder)!r}, '--format', {form!r}, '-o', 'out']\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (128 + number, said) and not (tmp_path / "out").exists()


def test_two_exports_to_one_folder(projects: dict[str, Project], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with files_for(out) as files:
        files.add("train.jsonl").write_text("half")
        done = projects["plain"].run("export", "demo", "-o", str(out))
        assert done.returncode == 11 and "another export" in done.stderr
        assert [path.read_text() for path in out.iterdir()] == ["half"], "what is being written is not swept"
    assert projects["plain"].run("export", "demo", "-o", str(out)).returncode == 0
    assert {path.name for path in out.iterdir()} == {"train.jsonl", "validation.jsonl"}


# -- what is no row, what is several turns, what is long ---------------------------------------------------------------

MESSAGES = [USER, ANSWER]


def copied(project: Project, folder: Path, change: Callable[[list[Any]], None]) -> Version:
    """Return a copy of a version, the rows of its first file changed."""
    damaged(project, folder, lambda row: None)
    path = next((folder / "copy").glob("data/train*"))
    rows: list[Any] = list(read_jsonl(path))
    change(rows)
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    noted(folder / "copy")
    return find_version(str(folder / "copy"), folder)


def with_all(said: Row) -> Callable[[list[Any]], None]:
    """Return a change that makes every row say the same."""

    def change(rows: list[Any]) -> None:
        for row in rows:
            row.update(said)

    return change


def to_bytes(version: Version, form: str, options: Options | None = None) -> bytes:
    out = io.BytesIO()
    chosen = options or Options("drop", template=ChatTemplate(TEMPLATE, {}, "here"))
    export_to(out, version, FORMATS[form], chosen, split="train")
    return out.getvalue()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"id": "a"}, id="no-messages"),
        pytest.param({"id": "a", "messages": []}, id="no-turn"),
        pytest.param({"id": "a", "messages": "x"}, id="text-for-messages"),
        pytest.param({"id": "a", "messages": {}}, id="object-for-messages"),
        pytest.param({"id": "a", "messages": ["x"]}, id="text-for-a-turn"),
        pytest.param({"id": "a", "messages": [USER, {"role": "assistant", "content": None}]}, id="null-content"),
        pytest.param({"id": "a", "messages": [USER, {"role": "assistant", "content": ["x"]}]}, id="parts"),
        pytest.param({"id": "a", "messages": [USER, {"role": ["x"], "content": "x"}]}, id="list-for-a-role"),
        pytest.param({"id": "a", "messages": [USER, {"content": "x"}]}, id="no-role"),
        pytest.param({"id": "a", "messages": [USER, {**ANSWER, "name": "x"}]}, id="key-in-a-turn"),
        pytest.param({"id": "a", "messages": MESSAGES, "x": 1}, id="key-too-many"),
        pytest.param({"id": "a", "messages": MESSAGES, "reasoning": "x"}, id="reasoning-in-one-row"),
        pytest.param({"id": 5, "messages": MESSAGES}, id="number-for-an-id"),
        pytest.param({"id": "a", "prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}, id="pair"),
        pytest.param([1], id="list"),
        pytest.param(b"\n", id="empty-line"),
        pytest.param(b'{"id": "a", "messages": [\n', id="cut-off"),
        pytest.param(b'{"id": "\xff", "messages": []}\n', id="no-utf8"),
        pytest.param(b'{"id": "\\ud800", "messages": []}\n', id="lone-surrogate"),
        pytest.param(b'{"id": 123456789012345678901234567890}\n', id="huge-integer"),
    ],
)
@pytest.mark.parametrize("place", [0, 7])
def test_a_line_that_is_no_row_is_damage(row: Any, place: int, projects: dict[str, Project], tmp_path: Path) -> None:
    version = copied(projects["plain"], tmp_path, lambda rows: rows.__setitem__(place, row))
    if place == 0 and isinstance(row, dict) and {"prompt", "reasoning"} & {*row}:
        place = 1  # the first row's columns are the version's, so it is the second that has others
    where = f"jsonl:{place + 1}"
    form = "preference" if place == 1 and "prompt" in row else "messages"
    for name in (form, "parquet", "csv") if form == "preference" else (form, "alpaca", "text", "parquet", "csv"):
        with pytest.raises(Damaged, match="no row of this version") as found:
            to_bytes(version, name)
        assert found.value.problems[0].where.endswith(where)
    with pytest.raises(Damaged):
        export_folder(tmp_path / "out", version, FORMATS[form], Options(), split=None)
    assert not any((tmp_path / "out").glob("*"))


def test_a_file_that_is_too_short_is_damage(projects: dict[str, Project], tmp_path: Path) -> None:
    version = copied(projects["plain"], tmp_path, lambda rows: rows.pop())
    with pytest.raises(Damaged, match=r"has \d+ rows, and the manifest says \d+"):
        to_bytes(version, "messages")


def test_a_flipped_bit_that_leaves_a_row_a_row_is_damage(projects: dict[str, Project], tmp_path: Path) -> None:
    version = copied(projects["plain"], tmp_path, lambda rows: None)
    path = next((version.folder / "data").glob("train*"))
    content = path.read_bytes()
    place = content.index(b"number") + 1
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    for form in ("messages", "parquet"):
        with pytest.raises(Damaged, match="not those that were published"):
            to_bytes(version, form)
        with pytest.raises(Damaged, match="not those that were published"):
            export_folder(tmp_path / "out", version, FORMATS[form], Options(), split=None)
        assert not (tmp_path / "out").exists()


def test_standard_output_ends_before_the_first_row_that_does_not_fit(
    projects: dict[str, Project], tmp_path: Path
) -> None:
    version = copied(projects["plain"], tmp_path, lambda rows: rows[6]["messages"][0].update(role="tool"))
    out = io.BytesIO()
    with pytest.raises(UsageError, match=r"has the role 'tool'.*\(6 rows before it were written\)"):
        export_to(out, version, FORMATS["messages"], Options(), split="train")
    assert len(lines(out.getvalue())) == 6
    version = copied(projects["pairs"], tmp_path / "pairs", lambda rows: rows[3]["rejected"][0].update(content=""))
    out = io.BytesIO()
    with pytest.raises(UsageError, match=r"turn 3 is empty \(6 rows before it were written\)"):
        export_to(out, version, FORMATS["unpaired-preference"], Options("drop"), split="train")
    assert [row["label"] for row in lines(out.getvalue())] == [True, False] * 3, "of a pair all or nothing"


def test_an_id_from_a_stranger_is_shown_harmlessly(projects: dict[str, Project], tmp_path: Path) -> None:
    def change(rows: list[Any]) -> None:
        rows[0].update(id="\x1b[31m\u202e\nDG000 all is well" + "a" * 500, messages=[ANSWER])

    version = copied(projects["plain"], tmp_path, change)
    with pytest.raises(UsageError) as found:
        export_folder(tmp_path / "out", version, FORMATS["messages"], Options(), split="train")
    said = found.value.problems[0].what
    assert said.isprintable() and len(said) < 300 and r"\x1b[31m\u202e\nDG000" in said


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_nul_comes_back_or_is_refused(form: Format, projects: dict[str, Project], tmp_path: Path) -> None:
    column = "chosen" if form.takes == "pair" else "messages"
    version = copied(projects[kind_for(form)], tmp_path, lambda rows: rows[2][column][-1].update(content="a\0b\u202ec"))
    if form.name == "csv":
        with pytest.raises(UsageError, match="column 'completion' holds a NUL"):
            to_bytes(version, form.name)
        return
    assert INVERSE[form.name](to_bytes(version, form.name))[2][column][-1]["content"] == "a\0b\u202ec"


ROUNDS = [SYSTEM, USER, ANSWER, {"role": "user", "content": "And\r\nthen?"}]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("kind", ["plain", "pairs"])
def test_prompts_of_several_turns(form: Format, kind: str, projects: dict[str, Project], tmp_path: Path) -> None:
    if form.takes == ("pair" if kind == "plain" else "conversation"):
        return
    pair = {"prompt": ROUNDS, "chosen": [ANSWER], "rejected": [OTHER]}
    said: Row = {"messages": [*ROUNDS, OTHER]} if kind == "plain" else pair
    version = copied(projects[kind], tmp_path, with_all(said))
    if form.name in ("labels", "csv"):
        with pytest.raises(UsageError, match="turns than a text and its label|3 turns before the answer"):
            to_bytes(version, form.name)
        return
    options = Options("drop", as_text=False, template=ChatTemplate(TEMPLATE, {}, "here"))
    found = INVERSE[form.name](to_bytes(version, form.name, options))
    assert len(found) > 20 and all({name: row[name] for name in said} == said for row in found)


def test_a_label_loses_no_system_message_that_differs(projects: dict[str, Project], tmp_path: Path) -> None:
    version = copied(projects["plain"], tmp_path, with_all({"messages": [SYSTEM, *MESSAGES]}))
    assert lines(to_bytes(version, "labels"))[0] == {"text": "Why?", "label": "So."}

    def change(rows: list[Any]) -> None:
        with_all({"messages": [SYSTEM, *MESSAGES]})(rows)
        rows[5]["messages"] = MESSAGES

    version = copied(projects["plain"], tmp_path / "more", change)
    with pytest.raises(UsageError, match="its system message is not that of the first row"):
        to_bytes(version, "labels")


def test_a_version_that_is_rewritten_meanwhile_is_no_damage(projects: dict[str, Project], tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(projects["plain"].folder, project.folder, symlinks=True)
    version = find_version("demo", project.folder / "datasets")
    last = [row["id"] for rows in batches(version, "validation") for row in rows][-1]
    done = project.run("forget", last, "--yes")
    assert done.returncode == 0, done.stderr
    assert list(batches(version, "train"))
    with pytest.raises(Locked, match="demo@1 was rewritten while it was read"):
        list(batches(version, "validation"))


def test_long_rows_are_held_few_at_a_time(projects: dict[str, Project], tmp_path: Path) -> None:
    long = {"messages": [USER, {"role": "assistant", "content": "a" * 1_500_000}]}
    version = copied(projects["plain"], tmp_path, with_all(long))
    assert {len(rows) for rows in batches(version, "train")} <= {1, 2, 3}
    rows = version.manifest.splits["train"]
    found = pq.ParquetFile(io.BytesIO(to_bytes(version, "parquet")))
    assert found.metadata.num_rows == rows and found.num_row_groups == -(-rows * 1_500_000 // 66_000_000)


def test_a_folder_stands_where_a_file_should(projects: dict[str, Project], tmp_path: Path) -> None:
    (tmp_path / "out" / "validation.jsonl").mkdir(parents=True)
    done = projects["plain"].run("export", "demo", "-o", str(tmp_path / "out"))
    assert done.returncode == 2 and "validation.jsonl is a folder" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["validation.jsonl"]


LOADING = """
import datasets, json, sys
from datasets import Features, Value
folder, cache = sys.argv[1:]
def load(form, kind, end, **more):
    file = f"{folder}/{form}/train.{end}"
    return datasets.load_dataset(kind, data_files=file, split="train", cache_dir=cache, **more)
def texts(*names):
    return Features({name: Value("string") for name in names})
print(json.dumps([
    load("parquet", "parquet", "parquet")[0]["messages"][1]["content"],
    str(load("prompt-completion", "json", "jsonl").features["completion"].dtype),
    load("prompt-completion", "json", "jsonl", features=texts("prompt", "completion"))[0]["completion"],
    load("csv", "csv", "csv")[0]["prompt"],
    load("csv", "csv", "csv", features=texts("id", "system", "prompt", "completion"))[0]["prompt"],
]))
"""


def test_columns_of_nothing_but_dates(projects: dict[str, Project], tmp_path: Path) -> None:
    """Parquet keeps their text; JSON Lines and CSV say nothing of types, so that readers guess: docs/exports.md."""
    said = [{"role": "user", "content": "0012"}, {"role": "assistant", "content": "2024-01-31"}]
    version = copied(projects["plain"], tmp_path, with_all({"messages": said}))
    for form in ("prompt-completion", "parquet", "csv"):
        export_folder(tmp_path / form, version, FORMATS[form], Options("drop"), split="train")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADING, str(tmp_path), str(tmp_path / "cache")], capture_output=True,
        text=True, timeout=120, check=False,
        env=clean_environment(HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    parquet_text, guessed, stated, number, text = json.loads(done.stdout.splitlines()[-1])
    assert (parquet_text, number, text) == ("2024-01-31", 12, "0012")
    assert (guessed, stated) == ("timestamp[s]", "2024-01-31 00:00:00"), "the docs say so"


# -- templates ---------------------------------------------------------------------------------------------------------


def test_a_tokenizer_config_is_a_template_too(projects: dict[str, Project]) -> None:
    project = projects["plain"]
    table = {"chat_template": "{{ bos_token }}{{ messages[-1].content }}", "bos_token": {"content": "<s>"}}
    project.write("tokenizer_config.json", json.dumps(table))
    first = lines(exported(project, "text", "--template", "tokenizer_config.json"))[0]
    assert first == {"text": f"<s>{project.rows()[0]['messages'][-1]['content']}"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jinja", "{% for %}", "not valid"),
        ("t.json", "{}", "no chat template in this file"),
        ("t.json", "[]", "no chat template in this file"),
        ("t.json", "{", "no chat template in this file"),
        ("t.jinja", "{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("t.jinja", "{{ messages[9].content.x }}", "the chat template refuses it"),
        ("t.jinja", "{{ messages.append(1) }}", "the chat template refuses it"),
        ("t.jinja", "{{ ''.__class__.__mro__ }}", "the chat template refuses it"),
        ("t.jinja", "", "leaves the answer out"),
        ("t.jinja", "{{ messages[0].content }}", "leaves the answer out"),
        ("t.jinja", "{% set x = namespace(__html__=1) %}", "may not hold '__html__'"),
        ("t.jinja", "{{ messages[-1].content }}{{ '\\ud800' }}", "half a character"),
        ("t.jinja", "{{ bos_token }}{{ messages[-1].content }}", "bos_token, and this file does not say what that is"),
        ("t.jinja", "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "nested too deeply"),
        (".", None, "cannot read the template"),
        ("none.jinja", None, "cannot read the template"),
    ],
)
def test_a_template_that_will_not_do(
    name: str, content: str | None, said: str, projects: dict[str, Project], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    done = projects["plain"].run("export", "demo", "--format", "text", "--template", str(tmp_path / name))
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr, done.stderr
    assert len(done.stderr) < 1500


def test_a_folder_of_a_model_is_a_template_too(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[-1].content }}{{ tools is none }}")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": null, "add_bos_token": true}')
    for path in (tmp_path, tmp_path / "chat_template.jinja", tmp_path / "tokenizer_config.json"):
        assert read_template(path).render(MESSAGES) == "<s>So.True"
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "rag"}, {"name": "default", "template": "{{ eos_token }}!"}]})
    )
    assert read_template(tmp_path / "tokenizer_config.json").render(MESSAGES) == "!"
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_template(tmp_path / "tokenizer_config.json")


def test_what_a_template_may_use() -> None:
    source = """{% for m in messages %}
    {% if loop.first %}{% continue %}{% endif %}
{% set ns = namespace(x=1) %}{% set ns.x = 2 %}
{% generation %}{% set inner = 1 %}{{ {"a": "<é>"} | tojson }}{% endgeneration %}
{{ inner is defined }}{{ ns.x }}{{ documents is none }}{{ strftime_now("%Y") | length }}
{% endfor %}"""
    assert ChatTemplate(source, {}, "here").render(MESSAGES) == '{"a": "<é>"}False2True4\n'


def test_a_template_that_only_seems_to_read_the_key(projects: dict[str, Project]) -> None:
    project = projects["traces"]
    project.write("t.jinja", "{% if enable_thinking %}{% endif %}{# reasoning_content #}{{ messages[-1].content }}")
    for place in ("thinking", "reasoning_content"):
        done = project.run("export", "demo", "--format", "text", "--template", "t.jinja", "--reasoning", place)
        assert (done.returncode, done.stdout) == (2, "") and "reads no such key" in done.stderr
    assert not ChatTemplate("{{ messages[0]['content'] }}", {}, "here").reads_reasoning
    assert ChatTemplate("{{ messages[0]['thinking'] }}", {}, "here").reads_reasoning


def test_a_template_that_takes_reasoning_out_is_refused(projects: dict[str, Project]) -> None:
    project = projects["traces"]
    project.write(
        "t.jinja", "{{ messages[-1].content.split('</think>')[-1] }}{% if false %}{{ x.thinking }}{% endif %}"
    )
    for place in ("think", "thinking", "reasoning_content"):
        done = project.run("export", "demo", "--format", "text", "--template", "t.jinja", "--reasoning", place)
        assert (done.returncode, done.stdout) == (2, "") and "leaves the reasoning out" in done.stderr
    assert exported(project, "text", "--template", "t.jinja", "--reasoning", "drop")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "messages", "--template", "t.jinja"], "messages takes no chat template"),
        (["--format", "csv", "--text"], "say nothing about csv"),
        (["--format", "trl"], "trl writes several files"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    arguments: list[str], said: str, projects: dict[str, Project]
) -> None:
    done = projects["plain"].run("export", "demo", *arguments)
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr


def test_text_needs_a_template(projects: dict[str, Project]) -> None:
    done = projects["plain"].run("export", "demo", "--format", "text")
    assert done.returncode == 2 and "needs a chat template" in done.stderr


def test_a_template_that_reads_the_key_gets_the_reasoning(projects: dict[str, Project]) -> None:
    project = projects["traces"]
    project.write("t.jinja", "{{ messages[-1].reasoning_content }}|{{ messages[-1].content }}")
    first = lines(exported(project, "text", "--template", "t.jinja", "--reasoning", "reasoning_content"))[0]
    assert first["text"] == f"{project.rows()[0]['reasoning']}|{project.rows()[0]['messages'][-1]['content']}"


def test_what_an_export_leaves_beside_it_is_named(projects: dict[str, Project], tmp_path: Path) -> None:
    project, out = projects["plain"], tmp_path / "out"
    first = project.run("export", "demo", "--format", "mlx", "-o", str(out))
    assert first.returncode == 0 and "warning" not in first.stderr
    again = project.run("export", "demo", "--format", "mlx", "-o", str(out))
    assert "warning" not in again.stderr
    (out / ".hidden").touch()
    other = project.run("export", "demo", "--format", "messages", "--split", "train", "-o", str(out))
    assert other.returncode == 0 and "no part of this export" in other.stderr
    assert "'valid.jsonl'" in other.stderr and "'train.jsonl'" not in other.stderr and ".hidden" not in other.stderr
