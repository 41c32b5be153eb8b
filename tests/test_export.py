"""Exports: one contract that every format passes, each format's rules with rows that break them, and what disks do."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import RECIPE, REPOSITORY, Project, clean_environment
from loopback import Loopback, reply, words

from distillgen.cli import export as command
from distillgen.export.formats import FORMATS, Format, Unfit
from distillgen.export.options import Options
from distillgen.export.sinks import safe_cell
from distillgen.export.trainers import TRAINERS
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
def projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Project]]:
    """Four versions of forty rows: conversations, with a system turn and traces, pairs, and hostile ones."""
    server = Loopback()
    server.behave = lambda body: reply(
        words(body["messages"][-1]["content"]), message={"reasoning_content": f"Hm, {len(str(body))}."}
    )
    more = {
        "plain": "",
        "traces": 'system = "Be brief."\nreasoning = "{{ reasoning }}"',
        "pairs": 'system = "Be brief."\nrejected = "{{ question }}"',
    }
    made = {}
    for name, lines in more.items():
        made[name] = Project(tmp_path_factory.mktemp(name))
        made[name].write("recipe.toml", RECIPE.format(url=server.url).replace("[student]", f"[student]\n{lines}"))
        made[name].seeds([{"question": f"What is number {n}?"} for n in range(40)])
        made[name].build()
    made["hostile"] = Project(tmp_path_factory.mktemp("hostile"))
    made["hostile"].write(
        "recipe.toml",
        'name = "demo"\n[seeds]\npath = "seeds.jsonl"\n[[steps]]\nuse = "filter"\n'
        'rules = [{ rule = "not_empty", column = "q" }]\n[student]\nprompt = "{{ q }}"\ncompletion = "{{ a }}"\n',
    )
    texts = [HOSTILE, "+1", "'=x", "2024-01-01", "2024-01-01T00:00:00Z", "null", "a" * 40_000, "\n\n", "0012", "@x"]
    made["hostile"].seeds([{"q": f"{n} {text}", "a": text} for n, text in enumerate(texts)])
    made["hostile"].build()
    yield made
    server.close()


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
    assert {each.value for each in command.Format} == {*FORMATS, *TRAINERS}
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


def test_reasoning_that_would_end_itself_is_not_written_inline() -> None:
    row = {"id": "a", "messages": [USER, ANSWER], "reasoning": "So </think> it is"}
    with pytest.raises(Unfit, match="holds `</think>` itself"):
        FORMATS["messages"].render(row, Options("think"))


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
    ("text", {"text": ""}, "renders it to nothing"),
    ("labels", {"text": "", "label": "x"}, "its text is empty"),
    ("labels", {"text": "x", "label": ""}, "its label is empty"),
    ("labels", {"text": "x", "label": "a\nb"}, "its answer is no label"),
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
        ("labels", [USER, ANSWER, USER, ANSWER], "more turns than a text and its label"),
        ("csv", [USER, ANSWER, USER, ANSWER], "it has 3 turns before the answer"),
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


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx", "'=1", "''+1", "'x", "", "x=1", " =1"])
def test_a_cell_is_no_formula_and_comes_back(text: str) -> None:
    cell = safe_cell(text)
    assert not cell or cell[0] not in "=+-@\t\r"
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
    """Return a copy of a version in which two rows are not what its format wants."""
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
    assert done.returncode == 8 and "jsonl:5" in done.stderr and list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_nothing_half_written(projects: dict[str, Project], tmp_path: Path) -> None:
    code = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        f"sys.argv = ['distillgen', 'export', 'demo', '-o', {str(tmp_path / 'out')!r}]\n"
        "runpy.run_module('distillgen', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=projects["plain"].folder, env=clean_environment(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 12 and "no room" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_reader_that_goes_away_is_no_bug(projects: dict[str, Project]) -> None:
    project = projects["hostile"]
    line = f"{sys.executable} -m distillgen export demo | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=project.folder, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.stderr == "" and done.stdout.split("\n")[-2] in ("0", "141")
    json.loads(done.stdout.split("\n")[0])


@pytest.mark.parametrize("form", ["messages", "csv", "parquet"])
def test_standard_output_that_is_full(form: str, projects: dict[str, Project]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "distillgen", "export", "demo", "--format", form],
            cwd=projects["plain"].folder, env=clean_environment(), stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 12, done.stderr


def test_a_version_is_not_written_into(projects: dict[str, Project]) -> None:
    project = projects["plain"]
    for folder in ("datasets/demo/v0001", "datasets/demo/v0001/data", "datasets/demo/latest/more"):
        done = project.run("export", "demo", "-o", folder)
        assert done.returncode == 2 and "never changes" in done.stderr
    assert project.run("export", "demo", "-o", "datasets/demo/v0001/exports/mine").returncode == 0
    assert project.run("check", "demo").returncode == 0


# -- templates ---------------------------------------------------------------------------------------------------------


def test_a_tokenizer_config_is_a_template_too(projects: dict[str, Project]) -> None:
    project = projects["plain"]
    table = {"chat_template": "{{ bos_token }}{{ messages[0].content }}", "bos_token": {"content": "<s>"}}
    project.write("tokenizer_config.json", json.dumps(table))
    first = lines(exported(project, "text", "--template", "tokenizer_config.json"))[0]
    assert first == {"text": f"<s>{project.rows()[0]['messages'][0]['content']}"}


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
        ("t.jinja", "", "renders it to nothing"),
        ("none.jinja", None, "cannot read the template"),
    ],
)
def test_a_template_that_will_not_do(name: str, content: str | None, said: str, projects: dict[str, Project]) -> None:
    project = projects["plain"]
    if content is not None:
        project.write(name, content)
    done = project.run("export", "demo", "--format", "text", "--template", name)
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr, done.stderr
    assert len(done.stderr) < 1500


def test_text_needs_a_template(projects: dict[str, Project]) -> None:
    done = projects["plain"].run("export", "demo", "--format", "text")
    assert done.returncode == 2 and "needs a chat template" in done.stderr


def test_a_template_that_reads_the_key_gets_the_reasoning(projects: dict[str, Project]) -> None:
    project = projects["traces"]
    project.write("t.jinja", "{{ messages[-1].reasoning_content }}|{{ messages[-1].content }}")
    first = lines(exported(project, "text", "--template", "t.jinja", "--reasoning", "reasoning_content"))[0]
    assert first["text"] == f"{project.rows()[0]['reasoning']}|{project.rows()[0]['messages'][-1]['content']}"
