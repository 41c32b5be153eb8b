"""TRL takes a version's rows as they are; TRL and Unsloth train by the script that stands in their bundles."""

# ruff: noqa: E402 - what needs a trainer's package is imported after the question whether it is there
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

pytest_plugins = ["trainer_material"]
pytest.importorskip("trl", reason="make test-trainers installs TRL and PyTorch")

import torch
from datasets import load_dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

STEPS = 4


def trained(trainer: Any) -> None:
    """Train, and insist that the loss is a number and that every layer's weights moved."""
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == STEPS and all(math.isfinite(loss) for loss in losses)
    still = [name for name, weight in trainer.model.named_parameters() if torch.equal(before[name], weight)]
    assert still == []


def settings(config: type, folder: Path) -> Any:
    return config(
        output_dir=str(folder), max_steps=STEPS, logging_steps=1, per_device_train_batch_size=4, learning_rate=0.01,
        report_to="none", save_strategy="no", use_cpu=True, bf16=False, eval_strategy="steps", eval_steps=STEPS,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["chats", "traces"])
def test_sft_takes_the_rows_of_a_version_as_they_are(
    name: str, request: pytest.FixtureRequest, student: Path, tokenizer: Any, tmp_path: Path
) -> None:
    project: Project = request.getfixturevalue(name)
    data = load_dataset(str(project.version()))
    assert data["train"].num_rows + data["validation"].num_rows == project.manifest()["rows"]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(student),
        args=settings(SFTConfig, tmp_path / "out"),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
    )
    trained(trainer)
    text = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    assert all(turn["content"] in text for turn in data["train"][0]["messages"])


def test_dpo_takes_the_pairs_of_a_version_as_they_are(
    pairs: Project, student: Path, tokenizer: Any, tmp_path: Path
) -> None:
    data = load_dataset(str(pairs.version()))
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(student),
        args=settings(DPOConfig, tmp_path / "out"),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
    )
    trained(trainer)


def test_text_that_looks_like_a_date_stays_text_and_a_missing_split_is_not_missed(days: Project) -> None:
    data = load_dataset(str(days.version()))
    assert set(data) == {"train"}
    assert data["train"][0].keys() == {"id", "messages", "reasoning"}
    assert all(row["reasoning"].startswith("2025-01-") for row in data["train"])
    assert all(row["messages"][-1]["content"].startswith("2026-01-") for row in data["train"])


def run_script(folder: Path, student: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    cwd.mkdir()
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(cwd / "cache"),
        "WANDB_MODE": "disabled",
    }
    return subprocess.run(
        [sys.executable, str(folder / "train.py"), str(student)], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("chats", (), id="conversations"),
        pytest.param("traces", ("--reasoning", "think"), id="trace-in-the-text"),
        pytest.param("traces", ("--reasoning", "reasoning_content"), id="trace-as-a-key"),
        pytest.param("days", ("--reasoning", "reasoning_content"), id="nothing-but-dates"),
        pytest.param("pairs", (), id="pairs"),
    ],
)
def test_the_script_of_the_bundle_trains(
    name: str, arguments: tuple[str, ...], request: pytest.FixtureRequest, student: Path,
    exported: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    folder = exported(request.getfixturevalue(name), "trl", *arguments)
    done = run_script(folder, student, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    before = AutoModelForCausalLM.from_pretrained(student).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run/student").state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert all(torch.isfinite(weight).all() for weight in after.values())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("traces", ("--reasoning", "think"), id="conversations"),
        pytest.param("pairs", (), id="pairs"),
    ],
)
def test_the_script_of_the_bundle_trains_an_adapter_with_unsloth(
    name: str, arguments: tuple[str, ...], request: pytest.FixtureRequest, student: Path,
    exported: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    if importlib.util.find_spec("unsloth") is None:  # to import it here would change TRL for the tests that follow
        pytest.skip("make test-trainers installs it")
    folder = exported(request.getfixturevalue(name), "unsloth", *arguments)
    done = run_script(folder, student, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    weights = load_file(tmp_path / "run/student/adapter_model.safetensors")
    added = [weight for key, weight in weights.items() if "lora_B" in key]  # they start at nought
    assert added and all(torch.isfinite(weight).all() and weight.any() for weight in added)


def test_the_script_shows_the_student_the_trace_and_the_loss_falls_on_the_answer_only(
    traces: Project, exported: Callable[..., Path], student: Path, tokenizer: Any, tmp_path: Path
) -> None:
    folder = exported(traces, "trl", "--reasoning", "reasoning_content")
    data = load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(student), args=settings(SFTConfig, tmp_path / "out"),
        train_dataset=data, eval_dataset=data, processing_class=tokenizer,
    )  # fmt: skip
    example = trainer.data_collator([trainer.train_dataset[0]])
    learnt = tokenizer.decode(example["input_ids"][0][example["labels"][0] != -100])
    row = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert row["completion"][0]["content"] in learnt and row["completion"][0]["reasoning_content"] in learnt
    assert row["prompt"][-1]["content"] not in learnt


def test_parquet_opens_with_no_further_step(traces: Project, tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    done = traces.run("export", "demo", "--format", "parquet", "--reasoning", "drop", "-o", str(folder))
    assert done.returncode == 0, done.stderr
    files = {path.stem.split("-")[0]: str(path) for path in folder.iterdir()}
    data = load_dataset("parquet", data_files=files)
    rows = {row["id"]: row for split in data.values() for row in split}
    assert set(rows) == {row["id"] for row in traces.rows()}
    assert all(rows[row["id"]]["messages"] == row["messages"] for row in traces.rows())
