"""Bundles: what each trainer gets, what it is refused and why. tests/trainers opens them with the trainers' packages."""

import ast
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, Project
from published import noted, of_students

from distillgen.dataset.versions import Version, find_version
from distillgen.errors import Damaged, NotWritable, UsageError
from distillgen.export.formats import FORMATS
from distillgen.export.options import Options
from distillgen.export.trainers import TRAINERS, bundle
from distillgen.export.write import export_folder

PAIRED = [name for name, trainer in TRAINERS.items() if trainer.pairs]
COMMON = {"train.jsonl", "validation.jsonl"}
SETTINGS = {
    "trl": {"train.py"}, "axolotl": {"axolotl.yaml"}, "llama-factory": {"dataset_info.json", "llamafactory.yaml"},
    "mlx": {"mlx.yaml"}, "unsloth": {"train.py"}, "torchtune": {"torchtune.yaml"}, "together": {"together.sh"},
    "fireworks": {"fireworks.sh"}, "openai": {"train.py"},
}  # fmt: skip
TURN = {"role", "content"}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Project]:
    """Three versions of forty rows: conversations with a system turn, with traces, and pairs."""
    students = {
        "chats": 'system = "Be brief."',
        "traces": 'reasoning = "{{ reasoning }}"',
        "pairs": 'rejected = "{{ question }}"',
    }
    return of_students(tmp_path_factory.mktemp, students)


def export(project: Project, trainer: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run("export", "demo", "--format", trainer, "-o", str(folder), *arguments)


def bundled(project: Project, trainer: str, folder: Path, *arguments: str) -> Path:
    done = export(project, trainer, folder, *arguments)
    assert done.returncode == 0, done.stderr
    return folder


def rows(folder: Path, name: str = "train.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def settings_are_sound(folder: Path) -> None:
    """Every configuration parses in its own language and names files that are there."""
    for path in folder.iterdir():
        text = path.read_text()
        assert str(folder) not in text, "a bundle can be moved"
        if path.suffix == ".yaml":
            assert isinstance(yaml.safe_load(text), dict)
        elif path.suffix == ".py":
            named = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
            assert {str(name) for name in named if str(name).endswith(".jsonl")} <= {
                file.name for file in folder.iterdir()
            }
            compile(text, path.name, "exec")
        elif path.suffix == ".sh":
            subprocess.run(["sh", "-n", str(path)], check=True)
            assert all((folder / word).is_file() for word in text.split() if word.endswith(".jsonl"))


@pytest.mark.parametrize("name", list(TRAINERS))
def test_a_bundle_of_conversations(name: str, projects: dict[str, Project], tmp_path: Path) -> None:
    project = projects["chats"]
    folder = bundled(project, name, tmp_path / "out")
    data = {"train.jsonl", "valid.jsonl"} if name == "mlx" else COMMON
    assert {path.name for path in folder.iterdir()} == data | SETTINGS[name]
    made = rows(folder)
    assert len(made) == project.manifest()["splits"]["train"]
    assert {frozenset(row) for row in made} == {
        frozenset({"prompt", "completion"} if name in ("trl", "unsloth") else {"messages"})
    }
    turns = [turn for row in made for turns in row.values() for turn in turns]
    assert all(turn.keys() == TURN for turn in turns)
    published = next(row["messages"] for row in project.rows() if row["messages"][1] in turns)
    assert published in [[*row.get("prompt", []), *row.get("completion", []), *row.get("messages", [])] for row in made]
    settings_are_sound(folder)


@pytest.mark.parametrize("name", PAIRED)
def test_a_bundle_of_pairs(name: str, projects: dict[str, Project], tmp_path: Path) -> None:
    folder = bundled(projects["pairs"], name, tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == COMMON | SETTINGS[name]
    row = rows(folder)[0]
    pair = next(pair for pair in projects["pairs"].rows() if pair["chosen"][0]["content"] in json.dumps(row))
    prompt, chosen, rejected = pair["prompt"], pair["chosen"], pair["rejected"]
    assert row == {
        "trl": {"prompt": prompt, "chosen": chosen, "rejected": rejected},
        "unsloth": {"prompt": prompt, "chosen": chosen, "rejected": rejected},
        "axolotl": {"messages": prompt, "chosen": chosen[0], "rejected": rejected[0]},
        "llama-factory": {"messages": prompt, "chosen": chosen[0], "rejected": rejected[0]},
        "torchtune": {"chosen": [*prompt, *chosen], "rejected": [*prompt, *rejected]},
    }.get(
        name, {"input": {"messages": prompt}, "preferred_output": chosen, "non_preferred_output": rejected}
    )  # fmt: skip
    settings_are_sound(folder)


def test_llama_factory_names_every_file_with_its_columns(projects: dict[str, Project], tmp_path: Path) -> None:
    info = json.loads((bundled(projects["pairs"], "llama-factory", tmp_path / "out") / "dataset_info.json").read_text())
    assert list(info) == ["demo_1_train", "demo_1_validation"]
    assert info["demo_1_train"] == {
        "file_name": "train.jsonl", "formatting": "sharegpt", "ranking": True,
        "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
        "tags": {
            "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }  # fmt: skip


def test_numbers_in_yaml_are_numbers(projects: dict[str, Project], tmp_path: Path) -> None:
    """YAML 1.1 takes `1e-5` for text, and a trainer would then compare text with a number."""
    for name, file in (("axolotl", "axolotl.yaml"), ("llama-factory", "llamafactory.yaml")):
        config = yaml.safe_load((bundled(projects["pairs"], name, tmp_path / name) / file).read_text())
        assert config["learning_rate"] == 0.00001


@pytest.mark.parametrize("name", list(TRAINERS))
@pytest.mark.parametrize("reasoning", ["think", "reasoning_content", "thinking", "drop"])
def test_a_trace_goes_where_the_trainer_looks_or_is_refused(
    name: str, reasoning: str, projects: dict[str, Project], tmp_path: Path
) -> None:
    shape = TRAINERS[name].conversations
    done = export(projects["traces"], name, tmp_path / "out", "--reasoning", reasoning)
    if reasoning not in shape.reasoning:
        assert done.returncode == 2 and shape.why in " ".join(done.stderr.split())
        assert not (tmp_path / "out").exists()
        return
    assert done.returncode == 0, done.stderr
    row = rows(tmp_path / "out")[0]
    last = (row.get("completion") or row["messages"])[-1]
    assert ("Hm, " in json.dumps(row)) is (reasoning != "drop")
    assert last.keys() == TURN | ({reasoning} if reasoning in ("reasoning_content", "thinking") else set())
    assert last["content"].startswith("<think>\nHm, ") is (reasoning == "think")


@pytest.mark.parametrize("name", ["axolotl", "trl"])
def test_a_key_that_no_row_has_is_not_configured(name: str, projects: dict[str, Project], tmp_path: Path) -> None:
    folder = bundled(projects["chats"], name, tmp_path / "out", "--reasoning", "reasoning_content")
    assert "reasoning_content" not in "".join(path.read_text() for path in folder.iterdir())


def test_axolotl_is_told_the_key_of_the_trace(projects: dict[str, Project], tmp_path: Path) -> None:
    for reasoning in ("reasoning_content", "thinking"):
        folder = bundled(projects["traces"], "axolotl", tmp_path / reasoning, "--reasoning", reasoning)
        section = yaml.safe_load((folder / "axolotl.yaml").read_text())["datasets"][0]
        assert section["field_thinking"] == section["template_thinking_key"] == reasoning


def test_pairs_are_refused_where_there_is_no_preference_training(projects: dict[str, Project], tmp_path: Path) -> None:
    done = export(projects["pairs"], "mlx", tmp_path / "out")
    assert done.returncode == 2 and "it knows no preference training" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_split_that_the_trainer_would_never_open_is_refused(demo: Project, tmp_path: Path) -> None:
    demo.edit("validation = 0.2", "holdout = 0.2")
    demo.build()
    done = export(demo, "mlx", tmp_path / "out")
    assert done.returncode == 2 and "has a split 'holdout', and MLX-LM opens train, valid" in " ".join(
        done.stderr.split()
    )
    folder = bundled(demo, "mlx", tmp_path / "out", "--split", "train")
    assert {path.name for path in folder.iterdir()} == {"train.jsonl", "mlx.yaml"}


@pytest.mark.parametrize(
    ("name", "seeds", "reason"),
    [
        pytest.param("openai", 9, "has 9 rows in 'train', and OpenAI takes 10 or more", id="openai"),
        pytest.param("fireworks", 2, "has 2 rows in 'train', and Fireworks AI takes 3 or more", id="fireworks"),
    ],
)
def test_too_few_rows_are_refused_before_anything_is_written(
    name: str, seeds: int, reason: str, demo: Project, tmp_path: Path
) -> None:
    demo.seeds([{"question": f"What is number {n}?"} for n in range(seeds)])
    demo.edit("train = 0.8, validation = 0.2", "train = 1.0")
    demo.build()
    done = export(demo, name, tmp_path / "out")
    assert done.returncode == 2 and reason in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{place}"} for place, role in enumerate(roles)]


def chosen_after(*roles: str) -> dict[str, Any]:
    """A pair as the hosted trainers have it."""
    answers = {"preferred_output": turns("assistant"), "non_preferred_output": turns("assistant")}
    return {"input": {"messages": turns(*roles)}, **answers}


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        pytest.param(
            "together", {"messages": turns("user", "user", "assistant")}, "turn 2 is the user's, but", id="twice"
        ),
        pytest.param(
            "together", {"messages": turns("system", "assistant")}, "turn 2 is the assistant's, but", id="opens"
        ),
        pytest.param(
            "together", {"messages": turns("user")}, "does not end with the assistant's turn", id="unanswered"
        ),
        pytest.param(
            "llama-factory", {"messages": turns("user", "tool")}, "turn 2 has the role 'tool'", id="tool-factory"
        ),
        pytest.param(
            "torchtune", {"messages": turns("user", "tool", "assistant")}, "has the role 'tool'", id="tool-tune"
        ),
        pytest.param(
            "fireworks", {"messages": turns("user", "system", "assistant")}, "only the first may be", id="system"
        ),
        pytest.param(
            "openai", {"messages": turns("developer", "assistant")}, "turn 1 has the role 'developer'", id="role"
        ),
        pytest.param("fireworks", {"messages": turns("user", "user", "assistant")}, None, id="fireworks-takes-twice"),
        pytest.param("axolotl", {"messages": turns("user", "tool", "assistant")}, None, id="axolotl-takes-tools"),
        pytest.param("together", {"messages": turns("system", "user", "assistant")}, None, id="plain"),
    ],
)
def test_rules_of_conversations(name: str, row: dict[str, Any], reason: str | None) -> None:
    said = TRAINERS[name].conversations.wrong(row)
    assert said is None if reason is None else reason in (said or "")


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        pytest.param(
            "together", chosen_after("user", "assistant"), "turn 3 is the assistant's, but", id="answered-before"
        ),
        pytest.param(
            "fireworks", chosen_after("user", "assistant", "user"), "the prompt has 3 turns", id="more-than-one"
        ),
        pytest.param("fireworks", chosen_after("system", "user"), None, id="one-question"),
        pytest.param("openai", chosen_after("user", "system"), "turn 2 is a system turn", id="system"),
    ],
)
def test_rules_of_pairs(name: str, row: dict[str, Any], reason: str | None) -> None:
    shape = TRAINERS[name].pairs
    assert shape is not None
    said = shape.wrong(row)
    assert said is None if reason is None else reason in (said or "")


def test_a_row_that_breaks_a_rule_is_named_and_nothing_is_left(demo: Project, tmp_path: Path) -> None:
    demo.edit('prompt = "{{ question }}"\n', "")
    talk = [{"role": "user", "content": "Hello?"}, {"role": "user", "content": "Anybody?"}]
    demo.seeds([{"question": f"Number {n}?", "messages": talk if n == 7 else talk[:1]} for n in range(12)])
    demo.build()
    wrong = next(row["id"] for row in demo.rows() if len(row["messages"]) == 3)
    done = export(demo, "together", tmp_path / "out")
    assert done.returncode == 2
    assert wrong in done.stderr and "turn 2 is the user's, but turns must alternate" in " ".join(done.stderr.split())
    assert list(tmp_path.glob("out/*.sh")) == [], "where the configuration stands, the data is whole"


@pytest.mark.parametrize("name", list(TRAINERS))
def test_the_docs_say_where_each_format_is_written_down_and_what_was_run(name: str) -> None:
    text = " ".join((REPOSITORY / "docs/trainers.md").read_text(encoding="utf-8").split())
    trainer = TRAINERS[name]
    assert f"`{name}`" in text and trainer.source in text and trainer.opened in text and trainer.read in text
    if trainer.opened.startswith("not run"):
        said = f"{trainer.opened}**; it is by the pages below, read on {trainer.read} - Source: {trainer.source}"
        assert said in text, "what nobody has run says by which page it was made, and when that was read"


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize(
    ("change", "why"),
    [({"role": "tool"}, "turn 2 has the role 'tool'"), ({"content": ""}, "turn 2 is empty")],
    ids=["tool", "empty"],
)
def test_a_row_that_the_format_forbids_reaches_no_trainer(
    name: str, change: dict[str, str], why: str, projects: dict[str, Project], tmp_path: Path
) -> None:
    """The trainer's own rules come on top of the format's, not instead of them."""
    version = projects["chats"].version()
    copy = tmp_path / "copy"
    (copy / "data").mkdir(parents=True)
    for path in [*version.glob("data/*"), version / "manifest.json"]:
        (copy / path.relative_to(version)).write_bytes(path.read_bytes())
    path = next(copy.glob("data/train*"))
    changed = [json.loads(line) for line in path.read_text().splitlines()]
    changed[3]["messages"][1].update(change)
    path.write_text("".join(json.dumps(row) + "\n" for row in changed))
    noted(copy)
    done = projects["chats"].run("export", str(copy), "--format", name, "-o", str(tmp_path / "out"))
    assert done.returncode == 2 and why in done.stderr and changed[3]["id"] in done.stderr, done.stderr
    assert not list((tmp_path / "out").glob("*")), "nothing is written"


@pytest.mark.parametrize("name", TRAINERS)
def test_where_the_configuration_cannot_stand_no_data_is_replaced(
    name: str, projects: dict[str, Project], tmp_path: Path
) -> None:
    version = find_version("demo", projects["chats"].folder / "datasets")
    paths = bundle(tmp_path / "first", version, TRAINERS[name], Options(), split=None)
    (tmp_path / "out" / paths[-1].name).mkdir(parents=True)
    (tmp_path / "out" / paths[0].name).write_text("before")
    with pytest.raises(NotWritable, match="is a folder"):
        bundle(tmp_path / "out", version, TRAINERS[name], Options(), split=None)
    assert (tmp_path / "out" / paths[0].name).read_text() == "before"
    assert len(list((tmp_path / "out").iterdir())) == 2


def of_splits(project: Project, folder: Path, splits: Mapping[str, int], **said: Any) -> Version:
    """Return a copy of a version with such splits, and with something else said in its manifest."""
    source = project.version()
    table = json.loads((source / "manifest.json").read_text()) | said
    lines = next(source.glob("data/train*")).read_bytes().splitlines(keepends=True)
    table |= {"splits": dict(splits), "files": {}, "rows": sum(splits.values())}
    (folder / "data").mkdir(parents=True)
    for split, count in splits.items():
        name = f"data/{split}-00000-of-00001.jsonl"
        table["files"][name] = {"bytes": 1, "sha256": "0" * 64, "rows": count}
        (folder / "data" / Path(name).name).write_bytes(b"".join(lines[:count]))
    (folder / "manifest.json").write_text(json.dumps(table))
    noted(folder)
    return find_version(str(folder), folder)


@pytest.mark.parametrize(
    ("splits", "train", "watched"),
    [
        (["test", "validation", "rest"], "rest", "validation"), (["validation", "test"], "validation", None),
        (["test", "dev"], "test", "dev"), (["b", "train"], "train", None), (["eval", "train", "dev"], "train", "dev"),
        (["validation"], "validation", None),
    ],
)  # fmt: skip
def test_nobody_is_trained_on_what_is_watched(
    splits: list[str], train: str, watched: str | None, projects: dict[str, Project], tmp_path: Path
) -> None:
    version = of_splits(projects["chats"], tmp_path / "version", dict.fromkeys(splits, 12))
    for name, key in (("axolotl", "path"), ("torchtune", "data_files")):
        paths = bundle(tmp_path / name, version, TRAINERS[name], Options(), split=None)
        table = yaml.safe_load(paths[-1].read_text())
        data, more = (
            table.get(each) for each in {"axolotl": ("datasets", "test_datasets")}.get(name, ("dataset", "dataset_val"))
        )
        files = [(each[0] if isinstance(each, list) else each)[key] if each else None for each in (data, more)]
        assert files == [f"{train}.jsonl", watched and f"{watched}.jsonl"]


def test_a_trainer_that_opens_train_only_gets_one(projects: dict[str, Project], tmp_path: Path) -> None:
    version = of_splits(projects["chats"], tmp_path / "version", {"validation": 5, "test": 5})
    with pytest.raises(UsageError, match="no rows for MLX-LM to train on"):
        bundle(tmp_path / "out", version, TRAINERS["mlx"], Options(), split=None)
    done = export(projects["chats"], "mlx", tmp_path / "out", "--split", "validation")
    assert done.returncode == 2 and "it opens `train`" in done.stderr and not (tmp_path / "out").exists()


def test_a_service_gets_names_that_differ(projects: dict[str, Project], tmp_path: Path) -> None:
    name = "a-" * 30 + "b"
    found = set()
    for number in (3, 4):
        splits = {"train": 5, "a.b": 5, "a-b": 5, "A_B": 5, "x" * 90: 5, "x" * 91: 5}
        version = of_splits(projects["chats"], tmp_path / str(number), splits, name=name, version=number)
        paths = bundle(tmp_path / f"out{number}", version, TRAINERS["fireworks"], Options(), split=None)
        words = [line.split() for line in paths[-1].read_text().splitlines()]
        ids = [each[3] for each in words if each[1:3] == ["dataset", "create"]]
        assert len(ids) == 6 and all(re.fullmatch("[a-z0-9](-?[a-z0-9])*", each) and len(each) <= 63 for each in ids)
        found |= {*ids}
    assert len(found) == 12


@pytest.mark.parametrize("name", ['x"""\nimport os\n"""', "a\nrm -rf b", "../../x", "a b", "a: b\n- c", "", "\u202e"])
@pytest.mark.parametrize("trainer", [*TRAINERS, "messages"])
def test_a_name_from_a_stranger_gets_into_no_file(
    name: str, trainer: str, projects: dict[str, Project], tmp_path: Path
) -> None:
    """A manifest is anybody's: what is in it stands in scripts that people run, and in the names of files."""
    for more in ({"name": name}, {"splits": {name: 34}}):
        version = of_splits(projects["chats"], tmp_path / str(len(more)) / str(list(more)), {"train": 34})
        version = Version(version.folder, version.manifest.model_copy(update=more))
        with pytest.raises(Damaged, match="no dataset or split can have"):
            if trainer == "messages":
                export_folder(tmp_path / "out", version, FORMATS["messages"], Options(), split=None)
            else:
                bundle(tmp_path / "out", version, TRAINERS[trainer], Options(), split=None)
        assert not (tmp_path / "out").exists()
