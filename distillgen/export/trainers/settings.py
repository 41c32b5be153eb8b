"""What a trainer wants beside the data: a configuration, a script or a command, made of values that cannot break out.

YAML is written as comments and one `key: JSON` a line (JSON is YAML), Python values by `repr`, shell words by `shlex`.
Every path is relative to the folder, so a bundle can be moved; every model is an example to be replaced.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from distillgen.files import dumps

MODEL = "Qwen/Qwen3-0.6B"
FIELDS = ("reasoning_content", "thinking")  # placements of a reasoning trace that are keys of a message
VALIDATION = ("validation", "valid", "val", "dev", "eval")  # names of the split that a trainer may watch

Settings: TypeAlias = "Callable[[Written], Mapping[str, str]]"


@dataclass(frozen=True)
class Written:
    """The data files of one bundle: what a configuration has to name. `files` is split -> file name, in order."""

    label: str
    are_pairs: bool
    files: Mapping[str, str]
    reasoning: str

    @property
    def train(self) -> str:
        """The file to train on."""
        return self.files[trained_on(self.files)]

    @property
    def validation(self) -> str | None:
        """The file to watch while training, if there is one besides that to train on."""
        watched = (self.files[name] for name in VALIDATION if name in self.files)
        return next((name for name in watched if name != self.train), None)

    @property
    def slug(self) -> str:
        """The version's name in small letters, digits and dashes, at most 40, for services that allow no more."""
        name, _, number = self.label.rpartition("@")
        return f"{_slug(name)[: 39 - len(number)].strip('-') or 'dataset'}-{number}"


def trained_on(splits: Iterable[str]) -> str:
    """Return the split to train on: `train`, else the first that is not for watching or testing, else the first."""
    names = list(splits)
    if "train" in names:
        return "train"
    return next((name for name in names if name not in (*VALIDATION, "test")), names[0])


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def axolotl(written: Written) -> dict[str, str]:
    """Return `axolotl.yaml`."""
    kind: dict[str, Any] = {"type": "chat_template", "field_messages": "messages"}
    if written.are_pairs:
        kind = {
            "type": "chat_template.default", "field_messages": "messages",
            "field_chosen": "chosen", "field_rejected": "rejected",
        }  # fmt: skip
    elif written.reasoning == "reasoning_content":
        kind |= {"field_thinking": "reasoning_content", "template_thinking_key": "reasoning_content"}
    elif written.reasoning == "thinking":
        kind |= {"field_thinking": "thinking", "template_thinking_key": "thinking"}
    keys: dict[str, Any] = {
        "base_model": MODEL,
        "chat_template": "tokenizer_default",
        **({"rl": "dpo"} if written.are_pairs else {}),
        "datasets": [{"path": written.train, "ds_type": "json", "split": "train", **kind}],
    }
    if written.validation:
        keys["test_datasets"] = [{"path": written.validation, "ds_type": "json", "split": "train", **kind}]
    keys |= {
        "adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True,
        "sequence_len": 2048, "micro_batch_size": 1, "gradient_accumulation_steps": 8, "num_epochs": 1,
        "optimizer": "adamw_torch", "lr_scheduler": "cosine",
        "learning_rate": 0.00001 if written.are_pairs else 0.0002,
        "output_dir": "./student",
    }  # fmt: skip
    return {"axolotl.yaml": _yaml(written, "axolotl train axolotl.yaml", keys)}


def llama_factory(written: Written) -> dict[str, str]:
    """Return `dataset_info.json`, which names every file, and `llamafactory.yaml`."""
    columns = {"messages": "messages"}
    if written.are_pairs:
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    tags = {
        "role_tag": "role", "content_tag": "content",
        "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system",
    }  # fmt: skip
    entries = {
        _entry(written, split): {
            "file_name": name, "formatting": "sharegpt", "ranking": written.are_pairs,
            "columns": columns, "tags": tags,
        }
        for split, name in written.files.items()
    }  # fmt: skip
    entry_of = {name: _entry(written, split) for split, name in written.files.items()}
    keys: dict[str, Any] = {
        "model_name_or_path": MODEL,
        "template": "qwen3",
        "stage": "dpo" if written.are_pairs else "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": entry_of[written.train],
    }
    if written.validation:
        keys["eval_dataset"] = entry_of[written.validation]
    if not written.are_pairs:
        keys["mask_history"] = True  # the teacher wrote the last turn only
    keys |= {
        "cutoff_len": 2048, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8,
        "num_train_epochs": 1, "learning_rate": 0.00001 if written.are_pairs else 0.0001,
        "output_dir": "student", "report_to": "none",
    }  # fmt: skip
    return {
        "dataset_info.json": dumps(entries) + "\n",
        "llamafactory.yaml": _yaml(written, "llamafactory-cli train llamafactory.yaml", keys),
    }


def mlx(written: Written) -> dict[str, str]:
    """Return `mlx.yaml`."""
    keys = {
        "model": MODEL, "train": True, "data": ".", "fine_tune_type": "lora",
        "mask_prompt": True,  # loss on the last turn only, which is what the teacher wrote
        "batch_size": 1, "iters": 1000, "max_seq_length": 2048, "adapter_path": "adapters",
    }  # fmt: skip
    return {"mlx.yaml": _yaml(written, "mlx_lm.lora --config mlx.yaml", keys)}


def torchtune(written: Written) -> dict[str, str]:
    """Return `torchtune.yaml`: the `dataset` section for a copied configuration (torchtune has no includes)."""
    common = {"source": "json", "split": "train"}
    if written.are_pairs:
        kind = {"_component_": "torchtune.datasets.preference_dataset", **common}
        recipe, config = "lora_dpo_single_device", "llama3_1/8B_lora_dpo_single_device"
    else:
        chat = {"conversation_column": "messages", "conversation_style": "openai"}
        kind = {"_component_": "torchtune.datasets.chat_dataset", **common, **chat}
        recipe, config = "lora_finetune_single_device", "qwen2_5/0.5B_lora_single_device"
    keys: dict[str, Any] = {"dataset": {**kind, "data_files": written.train}}
    if written.validation and not written.are_pairs:  # the DPO recipes have no validation
        keys |= {"run_val_every_n_steps": 100, "dataset_val": {**kind, "data_files": written.validation}}
    command = f"tune cp {config} mine.yaml; put these keys over its own; tune run {recipe} --config mine.yaml"
    return {"torchtune.yaml": _yaml(written, command, keys)}


def trl(written: Written) -> dict[str, str]:
    """Return `train.py`, a script that trains with TRL."""
    name = "DPO" if written.are_pairs else "SFT"
    body = f"""\
import sys
from pathlib import Path

import torch
from datasets import Features, Value, load_dataset
from trl import {name}Config, {name}Trainer

{_loading(written)}
trainer = {name}Trainer(
    model=sys.argv[1] if len(sys.argv) > 1 else {MODEL!r},
    args={name}Config(output_dir="student", bf16=torch.cuda.is_available()),  # TRL's default needs a GPU
    train_dataset=data["train"],
    eval_dataset=data.get("validation"),
)
trainer.train()
trainer.save_model()
"""
    return {"train.py": _script(written, "TRL: `python train.py [MODEL]`", body)}


def unsloth(written: Written) -> dict[str, str]:
    """Return `train.py`, a script that trains with Unsloth."""
    name = "DPO" if written.are_pairs else "SFT"
    body = f"""\
import sys
from pathlib import Path

from unsloth import FastLanguageModel  # before trl: it changes what follows
from datasets import Features, Value, load_dataset
from trl import {name}Config, {name}Trainer

{_loading(written)}
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name=sys.argv[1] if len(sys.argv) > 1 else {MODEL!r}, max_seq_length=2048, load_in_4bit=True
)
model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=16)
trainer = {name}Trainer(
    model=model,
    processing_class=tokenizer,
    args={name}Config(output_dir="student"),
    train_dataset=data["train"],
    eval_dataset=data.get("validation"),
)
trainer.train()
model.save_pretrained("student")
tokenizer.save_pretrained("student")
"""
    return {"train.py": _script(written, "Unsloth: `python train.py [MODEL]`", body)}


def together(written: Written) -> dict[str, str]:
    """Return `together.sh`."""
    create = ["together", "fine-tuning", "create", "--training-file", written.train]
    if written.validation:
        create += ["--validation-file", written.validation, "--n-evals", "5"]
    create += ["--model", "Qwen/Qwen3-8B", "--suffix", written.slug]
    create += ["--training-method", "dpo" if written.are_pairs else "sft"]
    checks = [["together", "files", "check", name] for name in written.files.values()]
    return {"together.sh": _shell(written, "TOGETHER_API_KEY must be set", [*checks, create])}


def fireworks(written: Written) -> dict[str, str]:
    """Return `fireworks.sh`."""
    ids: dict[str, str] = {}  # by file; splits that differ in signs that an id cannot have get a number
    for split, name in written.files.items():
        tail = _slug(split)[:18] or "split"
        taken = f"{written.slug}-{tail}" in ids.values()
        ids[name] = f"{written.slug}-{tail}-{len(ids)}" if taken else f"{written.slug}-{tail}"
    uploads = [["firectl", "dataset", "create", ids[name], name] for name in written.files.values()]
    job = "dpo-job" if written.are_pairs else "supervised-fine-tuning-job"
    create = ["firectl", job, "create", "--base-model", "accounts/fireworks/models/qwen3-8b"]
    create += ["--dataset", ids[written.train], "--output-model", f"{written.slug}-student"]
    if written.validation and not written.are_pairs:  # a DPO job takes no evaluation dataset
        create += ["--evaluation-dataset", ids[written.validation]]
    return {"fireworks.sh": _shell(written, "firectl must be signed in", [*uploads, create])}


def openai(written: Written) -> dict[str, str]:
    """Return `train.py`, a script that uploads and starts a job."""
    validation = f"upload({written.validation!r}).id" if written.validation else "None"
    body = f"""\
from pathlib import Path

from openai import OpenAI

FOLDER = Path(__file__).resolve().parent
client = OpenAI()


def upload(name):
    return client.files.create(file=(FOLDER / name).open("rb"), purpose="fine-tune")


job = client.fine_tuning.jobs.create(
    model="gpt-4.1-mini-2025-04-14",
    training_file=upload({written.train!r}).id,
    validation_file={validation},
    method={{"type": {("dpo" if written.are_pairs else "supervised")!r}}},
)
print(job.id)
"""
    return {"train.py": _script(written, "OpenAI: `python train.py`, OPENAI_API_KEY must be set", body)}


def _entry(written: Written, split: str) -> str:
    return f"{written.label.replace('@', '_')}_{split}"


def _loading(written: Written) -> str:
    """Return the lines that open the files with their schema said: a date-like text stays text, no key is missed."""
    files = {"train": written.train} | ({"validation": written.validation} if written.validation else {})
    columns = ("prompt", "chosen", "rejected") if written.are_pairs else ("prompt", "completion")
    keys = ["role", "content", *([written.reasoning] if written.reasoning in FIELDS else [])]
    turn = ", ".join(f'{key!r}: Value("string")' for key in keys)
    return f"""\
FOLDER = Path(__file__).resolve().parent
FILES = {files!r}
TURN = {{{turn}}}
SCHEMA = Features({{{", ".join(f"{column!r}: [TURN]" for column in columns)}}})

data = load_dataset("json", data_files={{split: str(FOLDER / name) for split, name in FILES.items()}}, features=SCHEMA)
"""


def _script(written: Written, title: str, body: str) -> str:
    return f'''"""Trains a student on {written.label} with {title}."""

{body}'''


def _shell(written: Written, needs: str, commands: list[list[str]]) -> str:
    lines = [f"# Trains a student on {written.label}; {needs}. Run in this folder.", "set -eu"]
    return "\n".join(["#!/bin/sh", *lines, *map(shlex.join, commands)]) + "\n"


def _yaml(written: Written, command: str, keys: Mapping[str, Any]) -> str:
    """Return YAML 1.1: floats are spelt out, since its readers take `1e-5` for text."""
    head = [f"# Trains a student on {written.label}: in this folder, {command}", "# The model is an example."]
    lines = [
        f"{key}: {value:f}" if isinstance(value, float) else f"{key}: {dumps(value)}" for key, value in keys.items()
    ]
    return "\n".join([*head, *lines]) + "\n"
