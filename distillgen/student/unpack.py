"""A GGUF file unpacked once into a folder that transformers can train: float32, in the cache, by a child process."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillgen.errors import DiskFull, Locked, UsageError
from distillgen.files import Lock, disk_errors, masked, sync_file, sync_folder
from distillgen.report.console import say
from distillgen.student import require_student
from distillgen.student.child import run_child, serve_parent
from distillgen.student.gguf_head import GgufHead, read_gguf_head
from distillgen.student.needs import LIBRARY_BYTES, require_free_memory
from distillgen.teacher.models import Weights, cache_folder

SMALL_FILES_BYTES = 64 * 1024 * 1024  # the tokenizer and the like
BYTES_EACH = 4.5  # of memory a parameter: float32, and what it is made from; measured 4.8 with 135 million
LOOK_SECONDS = 0.5  # how often to look whether another one has finished


def unpacked_folder(weights: Weights) -> Path:
    """Return where the transformers folder of a GGUF file is, once unpacked."""
    mark = weights.sha256[:12]
    return cache_folder() / "models" / f"{weights.name.removesuffix(f'-{mark}')}-{mark}-transformers"


def unpacked(weights: Weights, head: GgufHead | None = None) -> Path:
    """Return the transformers folder of a GGUF file, unpacked now unless it is there. It has its name only when whole.

    Two at once do it once. Raises UsageError (a GGUF file that holds no language model, or one that transformers does
    not know), ExtraMissing, Damaged, DiskFull, MemoryFull.
    """
    folder = unpacked_folder(weights)
    if folder.is_dir():
        return folder
    head = head or read_gguf_head(weights.path)
    _require_language_model(head, weights)
    require_student()
    with _alone(folder):
        if not folder.is_dir():
            _unpack(weights, head, folder)
    return folder


def _require_language_model(head: GgufHead, weights: Weights) -> None:
    where = str(weights.path)
    if head.values.get("general.type", "model") != "model" or head.architecture in ("clip", "bert", "nomic-bert"):
        raise UsageError(
            f"this GGUF file holds no language model but {head.values.get('general.type')} ({head.architecture})",
            where=where,
        )
    if head.tokens == 0 or not head.tensors:
        raise UsageError("this GGUF file has no tokenizer, or no weights", where=where)
    if "rope_freqs.weight" in head.tensors:
        raise UsageError(
            "this GGUF file stretches positions in a way that transformers does not read from it", where=where,
            fix="use the model itself: a folder with *.safetensors, or its hub name OWNER/NAME",
        )  # fmt: skip


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder in the making, waiting for whoever has it."""
    lock = Lock(folder.with_name(f".{folder.name}.lock"))
    is_said = False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(lock)
                break
            except Locked:
                if not is_said:
                    say(f"another process is unpacking {folder.name}; waiting for it")
                    is_said = True
                time.sleep(LOOK_SECONDS)
        yield


def _unpack(weights: Weights, head: GgufHead, folder: Path) -> None:
    prefix = f".staging-{folder.name}-"
    for old in folder.parent.glob(f"{prefix}*"):  # of one that was killed
        shutil.rmtree(old, ignore_errors=True)
    needed = 4 * head.parameters + SMALL_FILES_BYTES
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise DiskFull(
            f"{weights.name} needs {needed / 1e6:,.0f} MB unpacked, {free / 1e6:,.0f} MB are free",
            where=str(folder.parent), fix="free some space, or put the cache elsewhere with DISTILLGEN_CACHE",
        )  # fmt: skip
    require_free_memory(
        int(BYTES_EACH * head.parameters) + LIBRARY_BYTES, f"unpacking {weights.name}",
        "end other programs, or use a smaller base",
    )  # fmt: skip
    say(f"unpacking {weights.title} for training ({needed / 1e6:,.0f} MB, once)")
    with disk_errors(folder):
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=prefix))
    log = folder.with_name(f"{folder.name}.log")
    try:
        settings = {"gguf": str(weights.path.resolve()), "folder": str(staging), "context": head.context}
        run_child("distillgen.student.unpack", settings, log, doing=f"unpacking {weights.name}")
        with disk_errors(folder):
            staging.chmod(masked(0o755))
            staging.rename(folder)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    log.unlink(missing_ok=True)


# -- the child -----------------------------------------------------------------------------------------------------


def work(settings: dict[str, Any]) -> Mapping[str, Any]:
    """Unpack: `gguf` into `folder`, durably. Returns how many parameters the model has."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = Path(settings["folder"])
    with tempfile.TemporaryDirectory(dir=folder) as alone:  # beside the GGUF file may lie what is another model's
        (Path(alone) / "model.gguf").symlink_to(settings["gguf"])
        tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file="model.gguf")
        # Without this configuration the model counts as quantised: it can be neither trained nor saved.
        model = AutoModelForCausalLM.from_pretrained(
            alone, gguf_file="model.gguf", dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    context = settings["context"] or getattr(model.config, "max_position_embeddings", 0)
    if context:
        tokenizer.model_max_length = context  # else 1e30, and nobody is warned of rows that are too long
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(masked(0o644))
        sync_file(path)
    sync_folder(folder)
    return {"parameters": model.num_parameters()}


if __name__ == "__main__":
    serve_parent(work)
