"""Versions, and a tiny base as a folder, for everything that trains or asks a student (a conftest.py here would hide
that of the other tests: they import from it by name)."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "trainers"))
pytest_plugins = ["trainer_material"]

from distillgen.dataset.manifest import read_manifest  # noqa: E402
from distillgen.dataset.versions import Version  # noqa: E402


def version_of(project: Project) -> Version:
    """Return the version that a project has built."""
    return Version(project.version(), read_manifest(project.version()))


@pytest.fixture(scope="session")
def tiny(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and a tokenizer of bytes, saved as a folder; context 512. Not to be
    written to: see `tiny_copy`."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny-llama", tokenizer)


@pytest.fixture
def tiny_copy(tokenizer: Any, tmp_path: Path) -> Path:
    """The same, for a test that changes it."""
    return make_tiny(tmp_path / "changed-llama", tokenizer)


def make_tiny(folder: Path, tokenizer: Any, **changes: Any) -> Path:
    """Save a tiny Llama and a tokenizer as a folder."""
    torch = pytest.importorskip("torch", reason="make test-student installs it")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def template_of(tiny_copy: Path) -> Callable[[str], Path]:
    """Return a tiny base with another chat template; "" for none."""

    def write(template: str) -> Path:
        path = tiny_copy / "chat_template.jinja"
        assert path.is_file()
        path.unlink()
        if template:
            path.write_text(template, encoding="utf-8")
        return tiny_copy

    return write
