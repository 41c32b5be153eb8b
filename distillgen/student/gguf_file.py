"""A trained folder as one GGUF file: whether there is a way, whether there is room, and the child that writes it.

The own way (gguf_writer.py) needs a base that came from a GGUF file. For others llama.cpp's own `convert_hf_to_gguf` is
run where it is installed.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from distillgen.errors import DiskFull, DistillgenError, UsageError
from distillgen.files import disk_errors, sync_folder
from distillgen.student.child import last_words, run_child
from distillgen.student.gguf_head import read_gguf_head, read_gguf_tokens
from distillgen.student.weights import model_config, read_safetensors_head, weight_files

# The same program of llama.cpp, as three ways bring it: the package of that name on the index, llama.cpp's own package
# (its pyproject.toml), its checkout.
CONVERTERS = ("convert-hf-to-gguf", "llama-convert-hf-to-gguf", "convert_hf_to_gguf.py")
CONVERTER_SECONDS = 3600.0
Kind = Literal["q8_0", "f16"]
TOKENIZER_BYTES = 16 * 1024 * 1024
_BYTES_EACH: Mapping[str, float] = {"q8_0": 1.1, "f16": 2.1}


def write_gguf(
    folder: Path, base_gguf: Path | None, out: Path, kind: Kind, log: Path, *,
    name: str = "", dataset_digest: str = "", licence: str = "",
) -> bool:  # fmt: skip
    """Write a transformers folder as the GGUF file `out`, whole or not at all. Return False where there is no way.

    `base_gguf` is the file that the student's base was unpacked from. Name, digest and licence go into its metadata.
    Raises UsageError or Damaged (tensors that are not known, or not there), DiskFull, MemoryFull.
    """
    settings: dict[str, Any] = {
        "folder": str(folder), "kind": kind, "name": name, "dataset_digest": dataset_digest, "licence": licence
    }  # fmt: skip
    if base_gguf is not None and _has_own_way(folder, base_gguf):
        settings["base_gguf"], seconds = str(base_gguf), None
    elif converter := next(filter(None, map(shutil.which, CONVERTERS)), None):
        settings["converter"], seconds = converter, CONVERTER_SECONDS
    else:
        return False
    needed = int(_cells(folder) * _BYTES_EACH[kind]) + TOKENIZER_BYTES
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise DiskFull(
            f"the GGUF file may need {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free", where=str(out.parent),
            fix="free some space, or leave the GGUF file away: --gguf none",
        )  # fmt: skip
    making = out.with_name(f".{out.name}.making")
    try:
        _made(making, settings, log, seconds)
        making.rename(out)
    finally:
        making.unlink(missing_ok=True)
    sync_folder(out.parent)
    return True


def _cells(folder: Path) -> int:
    return sum(
        math.prod(each["shape"]) for path in weight_files(folder) for each in read_safetensors_head(path).values()
    )


def _made(making: Path, settings: Mapping[str, Any], log: Path, seconds: float | None) -> None:
    doing = f"writing {making.name.removeprefix('.').removesuffix('.making')}"
    run_child(
        "distillgen.student.gguf_writer", {**settings, "out": str(making.absolute())}, log, doing=doing, seconds=seconds
    )
    if not _is_gguf(making):
        raise UsageError(f"{doing} brought no GGUF file; {last_words(log)}", where=str(log), fix="--gguf none")
    handle = os.open(making, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_gguf(path: Path) -> bool:
    try:
        return bool(read_gguf_head(path).tensors)
    except DistillgenError:
        return False


def _has_own_way(folder: Path, base_gguf: Path) -> bool:
    """Whether everything that the student is can be said with the base's file and its own sizes."""
    config, head = model_config(folder), read_gguf_head(base_gguf)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return (
        config.get("model_type") == "llama"
        and head.architecture == "llama"
        and rope.get("rope_type", rope.get("type", "default")) == "default"
        and "rope_freqs.weight" not in head.tensors
        and head.tokens == config.get("vocab_size")
        and _has_tokens_of(folder, base_gguf)
    )


def _has_tokens_of(folder: Path, base_gguf: Path) -> bool:
    """Whether a folder's tokenizer gives every token the number that the base's file gives it."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
        vocabulary = tokenizer["model"]["vocab"]
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((t[0], n) for n, t in enumerate(vocabulary))
        numbers = dict(pairs) | {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    tokens = list(read_gguf_tokens(base_gguf))
    return all(
        isinstance(number, int) and 0 <= number < len(tokens) and tokens[number] == token
        for token, number in numbers.items()
    )
