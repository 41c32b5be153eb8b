"""Versions made by the real command line against the scripted teacher, and a tiny model to train on them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import RECIPE, Project
from loopback import Loopback, Say, reply, words

CHAT = RECIPE.replace(', {{ rule = "length", min_words = 5 }}', "")
REASONING = 'completion = "{{{{ answer }}}}"\nreasoning = "{{{{ reasoning }}}}"'
PAIRS = """
[[steps]]
use = "generate"
prompt = "worse"

[student]
prompt = "{{{{ question }}}}"
completion = "{{{{ answer }}}}"
rejected = "{{{{ worse }}}}"
"""
QUESTIONS = [f"What is number {n}?" for n in range(40)]
WORSE = """
description = "A worse answer"
user = "Answer this badly: {{ question }}"
writes = ["worse"]
"""


def answer(body: dict[str, Any]) -> Say:
    """An answer of its own to each question, with a trace; to one, and to every question for a day, nothing but a date."""
    asked = body["messages"][-1]["content"]
    if asked == "What is number 3?":
        return reply("2026-11-25", message={"reasoning_content": "2026-11-24"})
    if asked.startswith("Which day"):
        return reply(f"2026-01-{asked[-3:-1]}", message={"reasoning_content": f"2025-01-{asked[-3:-1]}"})
    return reply(words(asked), message={"reasoning_content": f"Let me think about {asked.split()[-1]}"})


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Project]]:
    """Build a project once for each recipe: forty questions, or others."""
    server = Loopback()
    server.behave = answer
    projects: dict[str, Project] = {}

    def build(recipe: str, name: str, questions: Sequence[str] = QUESTIONS) -> Project:
        if name not in projects:
            project = Project(tmp_path_factory.mktemp(name))
            project.write("recipe.toml", recipe.format(url=server.url))
            project.seeds([{"question": question} for question in questions])
            project.write("prompts/worse.toml", WORSE)
            project.build()
            projects[name] = project
        return projects[name]

    yield build
    server.close()


@pytest.fixture(scope="session")
def chats(built: Callable[..., Project]) -> Project:
    """A version of conversations: a system turn, a question, an answer."""
    return built(CHAT.replace("[student]", '[student]\nsystem = "Be brief."'), "chats")


@pytest.fixture(scope="session")
def traces(built: Callable[..., Project]) -> Project:
    """A version of conversations with reasoning traces."""
    return built(CHAT.replace('completion = "{{{{ answer }}}}"', REASONING), "traces")


@pytest.fixture(scope="session")
def days(built: Callable[..., Project]) -> Project:
    """A version of one split whose answers and traces all look like dates."""
    recipe = CHAT.replace('completion = "{{{{ answer }}}}"', REASONING)
    questions = [f"Which day is {n}?" for n in range(10, 29)]
    return built(recipe.replace("train = 0.8, validation = 0.2", "train = 1.0"), "days", questions)


@pytest.fixture(scope="session")
def pairs(built: Callable[..., Project]) -> Project:
    """A version of preference pairs."""
    start, end = CHAT.index("[student]"), CHAT.index("[dataset]")
    return built(CHAT[:start] + PAIRS + "\n" + CHAT[end:], "pairs")


TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{{ message.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A tokenizer of bytes with a chat template, made here: nothing is fetched."""
    tokenizers = pytest.importorskip("tokenizers", reason="make test-trainers installs it")
    transformers = pytest.importorskip("transformers", reason="make test-trainers installs it")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<think>", "</think>"]
    vocabulary = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in special])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<|pad|>", eos_token="<|end|>", chat_template=TEMPLATE
    )


@pytest.fixture
def student(tokenizer: Any, tmp_path: Path) -> Path:
    """A model of two layers with random weights and its tokenizer, saved as a folder."""
    torch = pytest.importorskip("torch", reason="make test-trainers installs it")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    folder = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Path]:
    """Write a bundle by the command line and return its folder."""

    def export(project: Project, trainer: str, *arguments: str) -> Path:
        folder = tmp_path / f"bundle-{trainer}"
        done = project.run("export", "demo", "--format", trainer, "-o", str(folder), *arguments)
        assert done.returncode == 0, done.stderr
        return folder

    return export
