"""Each bundle is opened by the loader of the trainer's own package (`make test-trainers`); nothing is trained here."""

import importlib.machinery
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

pytest_plugins = ["trainer_material"]
pytest.importorskip("torch", reason="make test-trainers installs the trainers' packages")
yaml = pytest.importorskip("yaml", reason="make test-trainers installs it")


def read(folder: Path, name: str = "train.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def missing(package: str) -> Any:
    return pytest.importorskip(package, reason="make test-trainers installs it")


# MLX-LM


@pytest.mark.parametrize("arguments", [(), ("--reasoning", "reasoning_content")], ids=["text", "key"])
def test_mlx_opens_its_bundle(
    arguments: tuple[str, ...], traces: Project, exported: Callable[..., Path], tokenizer: Any
) -> None:
    loading = missing("mlx_lm.tuner.datasets")
    folder = exported(traces, "mlx", *arguments)
    config = yaml.safe_load((folder / "mlx.yaml").read_text())
    train, valid, test = loading.load_dataset(
        types.SimpleNamespace(**{**config, "data": str(folder), "test": False}), tokenizer
    )
    counts = traces.manifest()["splits"]
    assert (len(train), len(valid), len(test)) == (counts["train"], counts["validation"], 0)
    for row in (*map(train.__getitem__, range(len(train))), valid[0]):
        tokens, offset = train.process(row)
        learnt = tokenizer.decode(tokens[offset:])
        assert row["messages"][-1]["content"] in learnt and "<think>" in learnt
        assert row["messages"][0]["content"] in tokenizer.decode(tokens[:offset])


def test_mlx_knows_every_key_of_its_configuration(chats: Project, exported: Callable[..., Path]) -> None:
    lora = missing("mlx_lm.lora")
    config = yaml.safe_load((exported(chats, "mlx") / "mlx.yaml").read_text())
    known = set(lora.CONFIG_DEFAULTS) | {action.dest for action in lora.build_parser()._actions}
    assert set(config) <= known


# torchtune


class Bytes:
    """A tokenizer as torchtune wants one: messages to tokens and the mask of what is not learnt."""

    max_seq_len = 4096

    def __call__(self, sample: dict[str, Any], inference: bool = False) -> dict[str, Any]:
        sample["tokens"], sample["mask"] = self.tokenize_messages(sample.pop("messages"))
        return sample

    def tokenize_messages(self, messages: list[Any]) -> tuple[list[int], list[bool]]:
        from torchtune.data import validate_messages

        validate_messages(messages)
        pieces = [(list(message.text_content.encode()), message.masked) for message in messages]
        return [token for piece, _ in pieces for token in piece], [masked for piece, masked in pieces for _ in piece]


def tuned(folder: Path, key: str = "dataset") -> Any:
    """Return the dataset that torchtune makes of the section of the bundle's configuration."""
    from torchtune import datasets

    section = yaml.safe_load((folder / "torchtune.yaml").read_text())[key]
    builder = getattr(datasets, section.pop("_component_").rpartition(".")[2])
    section["data_files"] = str(folder / section["data_files"])
    return builder(Bytes(), **section)


def test_torchtune_opens_its_conversations(chats: Project, exported: Callable[..., Path]) -> None:
    missing("torchtune")
    folder = exported(chats, "torchtune")
    data, rows = tuned(folder), read(folder)
    assert len(data) == len(rows) and len(tuned(folder, "dataset_val")) == chats.manifest()["splits"]["validation"]
    for sample, row in zip(data, rows, strict=True):
        learnt = bytes(int(label) for label in sample["labels"] if label != -100).decode()
        assert learnt == row["messages"][-1]["content"]
        assert bytes(sample["tokens"]).decode() == "".join(turn["content"] for turn in row["messages"])


def test_torchtune_opens_its_pairs(pairs: Project, exported: Callable[..., Path]) -> None:
    missing("torchtune")
    folder = exported(pairs, "torchtune")
    for sample, row in zip(tuned(folder), read(folder), strict=True):
        for side in ("chosen", "rejected"):
            learnt = bytes(int(label) for label in sample[f"{side}_labels"] if label != -100).decode()
            assert learnt == row[side][-1]["content"]


# LLaMA-Factory


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """LLaMA-Factory's loader. It asks for older libraries than TRL's (its own switch turns that check off), and imports
    torchaudio at the top, of which there is no build for the PyTorch used here and which it needs for sound alone: an
    empty module stands in for it."""
    missing("llamafactory")
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    if "torchaudio" not in sys.modules:
        empty = types.ModuleType("torchaudio")
        empty.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = empty
    from llamafactory.data import loader

    return loader


def merged(factory: Any, folder: Path, which: str) -> Any:
    """Return a dataset as LLaMA-Factory aligns it, by its own arguments and the bundle's two files."""
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import TrainingArguments

    config = yaml.safe_load((folder / "llamafactory.yaml").read_text())
    stage = "rm" if config["stage"] == "dpo" else config["stage"]  # as its own DPO workflow does
    names = ("dataset", "eval_dataset", "template", "cutoff_len", "mask_history")
    data_args = DataArguments(**{key: config[key] for key in names if key in config}, dataset_dir=str(folder))
    return factory._get_merged_dataset(
        getattr(data_args, which), ModelArguments(model_name_or_path="none"), data_args,
        TrainingArguments(output_dir=str(folder / "out"), use_cpu=True), stage=stage,
    )  # fmt: skip


def test_llama_factory_opens_its_conversations(chats: Project, exported: Callable[..., Path], factory: Any) -> None:
    folder = exported(chats, "llama-factory")
    data, rows = merged(factory, folder, "dataset"), read(folder)
    assert len(merged(factory, folder, "eval_dataset")) == chats.manifest()["splits"]["validation"]
    for aligned, row in zip(data, rows, strict=True):
        assert aligned["_system"] == row["messages"][0]["content"] == "Be brief."
        assert [turn["content"] for turn in aligned["_prompt"]] == [row["messages"][1]["content"]]
        assert [turn["content"] for turn in aligned["_response"]] == [row["messages"][2]["content"]]


def test_llama_factory_opens_its_pairs(pairs: Project, exported: Callable[..., Path], factory: Any) -> None:
    folder = exported(pairs, "llama-factory")
    for aligned, row in zip(merged(factory, folder, "dataset"), read(folder), strict=True):
        assert [turn["content"] for turn in aligned["_response"]] == [
            row["chosen"]["content"],
            row["rejected"]["content"],
        ]
        assert [turn["content"] for turn in aligned["_prompt"]] == [turn["content"] for turn in row["messages"]]


@pytest.mark.parametrize("name", ["chats", "pairs"])
def test_llama_factory_knows_every_key_of_its_configuration(
    name: str, request: pytest.FixtureRequest, exported: Callable[..., Path], factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from llamafactory.hparams import get_train_args

    folder = exported(request.getfixturevalue(name), "llama-factory")
    monkeypatch.chdir(folder)
    config = yaml.safe_load((folder / "llamafactory.yaml").read_text())
    _, data_args, training_args, finetuning_args, _ = get_train_args(config)
    assert finetuning_args.stage == config["stage"] and training_args.learning_rate == config["learning_rate"]
    assert data_args.dataset == [config["dataset"]]


# Axolotl


def opened(folder: Path, key: str = "datasets") -> tuple[Any, Any, Any]:
    """Return (configuration, the section of one dataset, what Axolotl's loader makes of it)."""
    from axolotl.utils.data.shared import load_dataset_with_config
    from axolotl.utils.dict import DictDefault

    config = DictDefault(yaml.safe_load((folder / "axolotl.yaml").read_text()))
    section = config[key][0]
    section["path"] = str(folder / section["path"])
    return config, section, load_dataset_with_config(section, use_auth_token=False)


@pytest.mark.parametrize("arguments", [(), ("--reasoning", "reasoning_content")], ids=["text", "key"])
def test_axolotl_opens_its_conversations(
    arguments: tuple[str, ...], traces: Project, exported: Callable[..., Path], tokenizer: Any
) -> None:
    missing("axolotl")
    from axolotl.prompt_strategies.chat_template import load

    folder = exported(traces, "axolotl", *arguments)
    config, section, data = opened(folder)
    strategy = load(tokenizer, config, section)
    assert len(data) == traces.manifest()["splits"]["train"]
    for sample, row in zip(data, read(folder), strict=True):
        made = strategy.tokenize_prompt(sample)
        text = tokenizer.decode(made["input_ids"])
        learnt = tokenizer.decode([label for label in made["labels"] if label != -100])
        assert row["messages"][0]["content"] in text and row["messages"][-1]["content"] in learnt
        assert "<think>" in text
        assert row["messages"][0]["content"] not in learnt


def test_axolotl_opens_its_pairs(pairs: Project, exported: Callable[..., Path], tokenizer: Any) -> None:
    missing("axolotl")
    from axolotl.prompt_strategies.dpo import load

    folder = exported(pairs, "axolotl")
    config, section, data = opened(folder)
    transform, _ = load(section["type"], config)
    for sample, row in zip(data, read(folder), strict=True):
        made = transform(sample, tokenizer=tokenizer)
        assert made["chosen"].startswith(row["chosen"]["content"])
        assert made["rejected"].startswith(row["rejected"]["content"])
        assert row["messages"][-1]["content"] in made["prompt"]


@pytest.mark.parametrize("name", ["chats", "pairs"])
def test_axolotl_knows_every_key_of_its_configuration(
    name: str, request: pytest.FixtureRequest, exported: Callable[..., Path]
) -> None:
    missing("axolotl")
    from axolotl.utils.schemas.config import AxolotlInputConfig

    config = yaml.safe_load((exported(request.getfixturevalue(name), "axolotl") / "axolotl.yaml").read_text())
    read_as = AxolotlInputConfig(**config)
    assert set(config) <= set(AxolotlInputConfig.model_fields)
    assert read_as.learning_rate == config["learning_rate"] and len(read_as.test_datasets) == 1


# Together AI


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("chats", (), id="conversations"),
        pytest.param("traces", ("--reasoning", "reasoning_content"), id="trace-as-a-key"),
        pytest.param("pairs", (), id="pairs"),
    ],
)
def test_together_checks_its_bundle(
    name: str, arguments: tuple[str, ...], request: pytest.FixtureRequest, exported: Callable[..., Path]
) -> None:
    check_file = missing("together.utils").check_file
    folder = exported(request.getfixturevalue(name), "together", *arguments)
    for file in folder.glob("*.jsonl"):
        report = check_file(file)
        assert report["is_check_passed"], report["message"]
        assert report["num_samples"] == len(read(folder, file.name))


def test_together_itself_refuses_the_keys_that_a_version_has(chats: Project, tmp_path: Path) -> None:
    """The row's id is left out for a reason."""
    check_file = missing("together.utils").check_file
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(next((chats.version() / "data").glob("train-*")).read_bytes())
    report = check_file(rows)
    assert not report["is_check_passed"] and 'extra column "id"' in report["message"]
