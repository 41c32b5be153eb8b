"""The base model of a student, found and checked: a folder, a GGUF file, an embedded name, or one of the hub."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillgen.errors import DistillgenError, ExtraMissing, UsageError, nearest
from distillgen.files import digest
from distillgen.student.gguf_head import read_gguf_head
from distillgen.student.manifest import StudentManifest, student_manifest_in
from distillgen.student.unpack import unpacked
from distillgen.student.weights import model_config, read_object, read_safetensors_head, weight_files, weight_names
from distillgen.teacher.models import Weights, find_weights, known_sha256, models

CARD_LIMIT = 1024 * 1024
# What is fetched from the hub. The small ones come first, so that a model of another kind costs nothing.
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "README.md", "LICENSE*", "NOTICE*", "USE_POLICY*")
_HUB_NAME = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]{1,200}))?", re.ASCII)
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len", "max_sequence_length")
_TOKENIZERS = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"
)  # fmt: skip
_NO_CONTEXT = 10**9  # what tokenizers say where they do not know


@dataclass(frozen=True)
class Base:
    """A model that can be trained, as a transformers folder.

    `name` is what was asked for. `gguf` is the file that the folder was unpacked from. `sha256` is that of the weights:
    of the GGUF file where there is one. `parameters` counts tied weights once; `context` is in tokens; `bytes` are
    those of the folder's weights.
    """

    name: str
    folder: Path
    gguf: Path | None
    title: str
    licence: str  # "unknown" where nothing says so
    sha256: str
    parameters: int
    context: int
    bytes: int
    student: StudentManifest | None = None  # where it was distilled itself


def find_base(model: str) -> Base:
    """Return the base model of a name: an embedded one, else a folder or GGUF file here, else one of the hub.

    A bare embedded name is never taken for a folder: write ./NAME for that. No torch in this process.
    Raises UsageError where it is none that can be trained, EmbeddedMissing with the command that installs it,
    ExtraMissing, CredentialsRefused, NotFound, RemoteUnavailable, Damaged, DiskFull, MemoryFull.
    """
    if not model or "\0" in model:
        raise UsageError("the base model has no name", fix="a folder, OWNER/NAME of the hub, or an embedded name")
    if model in models():
        return _of_gguf(model, find_weights(model, None))
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return _of_folder(model, path.absolute())
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be read, ~nobody
        what = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot look at the base model: {what}", where=model[:200]) from None
    if is_file:
        return _of_file(model, path.absolute())
    hub_name = _HUB_NAME.fullmatch(model)
    if hub_name and not model.endswith(".gguf"):
        return _of_hub(model, hub_name[1], hub_name[2])
    if "/" in model or model.startswith(("~", ".")) or path.suffix:
        raise UsageError("no such base model: there is no such folder or file", where=model[:200])
    raise UsageError(
        f"unknown base model {model[:120]!r}",
        fix=f"{nearest(model, models())}\nor a folder with a model, or OWNER/NAME of the hub",
    )


def _of_file(model: str, path: Path) -> Base:
    if path.suffix != ".gguf":
        raise UsageError(
            "a base model is a folder or a GGUF file", where=str(path), fix="name the folder that holds config.json"
        )
    return _of_gguf(model, find_weights(None, path))


def _of_gguf(model: str, weights: Weights) -> Base:
    head = read_gguf_head(weights.path)
    folder = unpacked(weights, head)
    licence = weights.licence
    if licence == "unknown":
        licence = _line(head.values.get("general.license", "")) or "unknown"
    try:
        return replace(_checked(model, folder, weights.title, licence, weights), student=_student_beside(weights.path))
    except DistillgenError as error:
        problem = error.problems[0]
        raise type(error)(
            problem.what, where=problem.where or str(folder), fix=f"remove {folder}; it is made again by itself"
        ) from None


def _student_beside(gguf: Path) -> StudentManifest | None:
    """Return the manifest of the student whose GGUF file this is."""
    found = student_manifest_in(gguf.parent)
    return found if found is not None and gguf.name in found.files else None


def _of_folder(model: str, folder: Path) -> Base:
    return _checked(model, folder, folder.name)


def _of_hub(model: str, repository: str, revision: str | None) -> Base:
    from distillgen.remote.address import HubAddress
    from distillgen.remote.hub import Hub

    if ".." in repository:
        raise UsageError(f"{model[:120]!r} names no model of the hub", fix="write OWNER/NAME")
    try:
        hub = Hub(HubAddress(repository, revision))
    except ExtraMissing:
        raise ExtraMissing(
            f"no folder {model[:120]!r} is here, and models of the hub need huggingface_hub",
            fix="pip install 'distillgen[hub]'",
        ) from None
    folder = _fetched(hub, SMALL_FILES, revision)
    _require_causal(folder, _config(folder))
    folder = _fetched(hub, (*SMALL_FILES, *weight_names(folder)), folder.name)  # of the very commit that was looked at
    return _checked(model, folder, repository)


def _fetched(hub: Any, patterns: tuple[str, ...], revision: str | None) -> Path:
    """Return the folder, in huggingface_hub's own cache, with those files of a repository; offline what is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with hub.errors("read"):  # the one place that knows what huggingface_hub raises
        try:
            found = snapshot_download(
                hub.address.repository, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"]
            )
        except LocalEntryNotFoundError as error:
            raise error.__cause__ or error from None  # what the hub said, not that nothing is kept here
    return Path(found)


# -- what a folder holds -------------------------------------------------------------------------------------------


def _checked(model: str, folder: Path, title: str, licence: str | None = None, weights: Weights | None = None) -> Base:
    config = _config(folder)
    _require_causal(folder, config)
    files = weight_files(folder)
    if not files:
        raise _no_weights(folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise UsageError("the model has no tokenizer", where=str(folder), fix="put its tokenizer.json beside it")
    student = student_manifest_in(folder)
    if licence is None:  # what a student inherits besides stands in its terms
        licence = _line(student.base.get("licence") or "unknown") if student is not None else _licence(folder)
    return Base(
        name=model, folder=folder, gguf=weights.path if weights else None,
        title=_line(title) or "model", licence=licence,
        parameters=_parameters(files, config), context=_context(folder, config),
        sha256=weights.sha256 if weights else _sha256(files), bytes=sum(path.stat().st_size for path in files),
        student=student,
    )  # fmt: skip


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise UsageError(
                "this is an adapter, not a model", where=str(folder),
                fix="merge it into its model (peft: merge_and_unload, save_pretrained) and name that folder",
            )  # fmt: skip
        raise UsageError("no model is here: there is no config.json", where=str(folder))
    return model_config(folder)


def _require_causal(folder: Path, config: Mapping[str, Any]) -> None:
    layers = config.get("num_hidden_layers", 1)
    if not isinstance(layers, int) or layers < 0:
        raise UsageError(f"a model of {layers!r} layers", where=str(folder / "config.json"), fix="fetch it again")
    named = config.get("architectures")
    kinds = [str(kind) for kind in named] if isinstance(named, list) else []
    if not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        what = _line(", ".join(kinds) or config.get("model_type", "")) or "a model that does not say what it is"
        raise UsageError(
            f"a base model of another kind: {what}; a student has to be a causal language model (...ForCausalLM)",
            where=str(folder),
        )
    if config.get("quantization_config"):
        method = config["quantization_config"]
        named = method.get("quant_method") if isinstance(method, dict) else method
        raise UsageError(
            f"this model is quantised ({_line(named)}) and cannot be trained as it is", where=str(folder),
            fix="name the model that it was made from",
        )  # fmt: skip


def _no_weights(folder: Path) -> UsageError:
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".safetensors"))
    if others and not others[0].endswith(".safetensors"):
        return UsageError(
            f"the weights are there only as {others[0]}, which may run code when it is opened", where=str(folder),
            fix="convert them once: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )  # fmt: skip
    return UsageError(
        "the model has no weights: neither model.safetensors nor model.safetensors.index.json is there",
        where=str(folder),
        fix="a model of which only *.bin is published has to be converted: from_pretrained, save_pretrained",
    )


def _parameters(files: list[Path], config: Mapping[str, Any]) -> int:
    shapes = {name: entry["shape"] for path in files for name, entry in read_safetensors_head(path).items()}
    if config.get("tie_word_embeddings") and any(name.endswith("embed_tokens.weight") for name in shapes):
        shapes.pop("lm_head.weight", None)
    return sum(map(math.prod, shapes.values()))


def _context(folder: Path, config: Mapping[str, Any]) -> int:
    values = [config.get(key) for key in _CONTEXT_KEYS]
    values.append((read_object(folder / "tokenizer_config.json") or {}).get("model_max_length"))
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _NO_CONTEXT:
            return value
    raise UsageError(
        "nothing says how long the model's context is", where=str(folder / "config.json"),
        fix='write "max_position_embeddings" into it',
    )  # fmt: skip


def _sha256(files: list[Path]) -> str:
    parts = [part for path in files for part in (path.name.encode(), bytes.fromhex(known_sha256(path)))]
    return digest(*parts)


def _licence(folder: Path) -> str:
    """Return the licence that the model's card states in its front matter."""
    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(CARD_LIMIT).decode("utf-8", "replace")
    except OSError:
        return "unknown"
    front = re.match(r"\ufeff?---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    stated = dict(re.findall(r"^(license|license_name):[ \t]*(.+?)\s*$", front[1], re.MULTILINE)) if front else {}
    licence = stated.get("license", "")
    if licence.strip("'\"") == "other":
        licence = stated.get("license_name", licence)
    several = [each.strip("'\" ") for each in licence.strip("[] ").split(",")]
    return _line(", ".join(filter(None, several))) or "unknown"


def _line(text: object) -> str:
    """Return what a model says of itself as a short line of characters that can be printed."""
    return "".join(each if each.isprintable() else " " for each in str(text))[:100].strip()
