"""The trainers that a version can be written for: how each wants its rows, and where that is written down.

To add one is an entry here: its shapes and rules (`rows`), its configuration (`settings`), its source and date.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distillgen.export.trainers import rows, settings
from distillgen.export.trainers.rows import Rendered, Rule
from distillgen.export.trainers.settings import Settings

EVERYWHERE = ("think", "reasoning_content", "thinking", "drop")
IN_TEXT = ("think", "drop")
CONTENT_ONLY = "it reads a message's role and content and nothing else"
READ = "2026-11-25"  # the day all sources below were read


@dataclass(frozen=True)
class Shape:
    """One kind of row that a trainer takes, what it refuses in one, and where it looks for a reasoning trace.

    `why` says why it looks nowhere else.
    """

    render: Callable[[Rendered], dict[str, Any]]
    wrong: Rule = rows.any_row
    reasoning: tuple[str, ...] = EVERYWHERE
    why: str = ""


@dataclass(frozen=True)
class Trainer:
    """What one trainer wants. `opened` says with what the project's tests open a bundle, or that nothing does."""

    name: str
    title: str
    conversations: Shape
    pairs: Shape | None
    settings: Settings
    source: str
    opened: str
    read: str = READ
    no_pairs: str = ""  # why there are none
    names: Mapping[str, str] = field(default_factory=dict)  # split -> its file's stem, where the trainer insists on it
    fewest: int = 1  # rows of the file to train on
    fewest_each: int = 1  # rows of every file
    most: int | None = None  # rows of any file


_TRL = Trainer(
    name="trl",
    title="TRL",
    conversations=Shape(rows.prompt_and_completion),
    pairs=Shape(rows.pair),
    settings=settings.trl,
    source="https://github.com/huggingface/trl/blob/main/docs/source/dataset_formats.md (f2cd57710, 2026-07-24)",
    opened="trl 1.16: SFTTrainer and DPOTrainer train a tiny model by the bundle's own train.py",
)

_AXOLOTL = Trainer(
    name="axolotl",
    title="Axolotl",
    conversations=Shape(rows.messages),
    pairs=Shape(rows.pair_of_answers, reasoning=IN_TEXT, why=f"for pairs, {CONTENT_ONLY}"),
    settings=settings.axolotl,
    source="https://github.com/axolotl-ai-cloud/axolotl/blob/main/docs/dataset-formats/conversation.qmd and "
    "docs/rlhf.qmd (067b021c8, 2026-07-24)",
    opened="axolotl 0.19: its loader and its chat_template strategies, by the bundle's own axolotl.yaml; no training",
)

_LLAMA_FACTORY = Trainer(
    name="llama-factory",
    title="LLaMA-Factory",
    conversations=Shape(rows.messages, rows.alternating, IN_TEXT, CONTENT_ONLY),
    pairs=Shape(rows.pair_of_answers, rows.alternating, IN_TEXT, CONTENT_ONLY),
    settings=settings.llama_factory,
    source="https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md (ff6d4d12e, 2026-08-18)",
    opened="llamafactory 0.9.5: its loader and converters, by the bundle's own dataset_info.json; no training",
)

_MLX = Trainer(
    name="mlx",
    title="MLX-LM",
    conversations=Shape(rows.messages),
    pairs=None,
    no_pairs="mlx_lm.lora trains on conversations only; it knows no preference training",
    settings=settings.mlx,
    source="https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/LORA.md (d78bf58e, 2026-08-22)",
    opened="mlx-lm 0.32 with mlx for CPU: its loader, and each row through the chat template; no training",
    names={"train": "train", "validation": "valid", "valid": "valid", "test": "test"},
)

_UNSLOTH = Trainer(
    name="unsloth",
    title="Unsloth",
    conversations=Shape(rows.prompt_and_completion),
    pairs=Shape(rows.pair),
    settings=settings.unsloth,
    source="https://unsloth.ai/docs/basics/datasets-guide",
    opened="unsloth 2026.10.9 on the CPU: a tiny model is trained by the bundle's own train.py",
)

_TORCHTUNE = Trainer(
    name="torchtune",
    title="torchtune",
    conversations=Shape(rows.messages, rows.alternating, IN_TEXT, CONTENT_ONLY),
    pairs=Shape(rows.pair_of_conversations, rows.alternating, IN_TEXT, CONTENT_ONLY),
    settings=settings.torchtune,
    source="https://github.com/pytorch/torchtune/blob/main/torchtune/datasets/_chat.py and _preference.py (bd2a0fc7c, "
    "2026-04-23; no longer developed since 2025)",
    opened="torchtune 0.6.1: chat_dataset and preference_dataset, by the bundle's own torchtune.yaml; no training",
)

_TOGETHER = Trainer(
    name="together",
    title="Together AI",
    conversations=Shape(
        rows.messages, rows.alternating, ("reasoning_content", "think", "drop"),
        "its documented keys are `reasoning` and `reasoning_content`",
    ),
    pairs=Shape(
        rows.pair_of_outputs, rows.alternating, ("reasoning_content", "think", "drop"),
        "its documented keys are `reasoning` and `reasoning_content`",
    ),
    settings=settings.together,
    source="https://docs.together.ai/docs/fine-tuning/data-preparation, preference-tuning and reasoning",
    opened="together 1.5 (the SDK's own check of a file, which looks into each row; that of 3.x looks for JSON objects "
    "only); no upload",
)  # fmt: skip

_FIREWORKS = Trainer(
    name="fireworks",
    title="Fireworks AI",
    conversations=Shape(
        rows.messages, rows.chat_roles, ("reasoning_content", "think", "drop"),
        "its documented key is `reasoning_content`",
    ),
    pairs=Shape(
        rows.pair_of_outputs, rows.one_turn, IN_TEXT, "`reasoning_content` is documented for supervised training only"
    ),
    settings=settings.fireworks,
    source="https://docs.fireworks.ai/fine-tuning/fine-tuning-models and dpo-fine-tuning",
    opened="not run: its package has no check of a file",
    fewest=3,
    fewest_each=3,
    most=3_000_000,
)  # fmt: skip

_OPENAI = Trainer(
    name="openai",
    title="OpenAI",
    conversations=Shape(rows.messages, rows.chat_roles, IN_TEXT, "a message has no key for a reasoning trace"),
    pairs=Shape(rows.pair_of_outputs, rows.chat_roles, IN_TEXT, "a message has no key for a reasoning trace"),
    settings=settings.openai,
    source="https://developers.openai.com/docs/guides/distillation (supervised) and "
    "https://developers.openai.com/api/docs/guides/direct-preference-optimization",
    opened="not run: the check is the service's own, on upload",
    fewest=10,
)

TRAINERS: Mapping[str, Trainer] = {
    trainer.name: trainer
    for trainer in (
        _TRL, _AXOLOTL, _LLAMA_FACTORY, _MLX, _UNSLOTH, _TORCHTUNE, _TOGETHER, _FIREWORKS, _OPENAI
    )
}  # fmt: skip
