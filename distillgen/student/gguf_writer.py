"""A trained folder written as a GGUF file, in a child process: by distillgen's own way, or by llama.cpp's converter.

The own way is for a student of the llama architecture whose base came from a GGUF file: that file's tokenizer and
metadata stay, the sizes and the tensors are the student's.
"""

import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillgen.errors import Damaged, UsageError
from distillgen.student.child import serve_parent
from distillgen.student.weights import model_config, read_safetensors_head, weight_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LAYER = re.compile(r"model\.layers\.(\d+)\.([a-z_.]+)\.weight")
_WHOLE_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}  # fmt: skip
_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_FILE_TYPES = {"f16": 1, "q8_0": 7}
_Q8_BLOCK = 32


def gguf_name(name: str) -> str | None:
    """Return what GGUF calls a tensor of a llama in transformers; None where it has no name for it."""
    if found := _LAYER.fullmatch(name):
        part = _LAYER_NAMES.get(found[2])
        return f"blk.{found[1]}.{part}.weight" if part else None
    return _WHOLE_NAMES.get(name)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor on its way: where it stands in the folder, and what it becomes."""

    name: str
    file: Path
    dtype: str
    start: int
    shape: tuple[int, ...]
    type: str  # F32, F16, Q8_0

    def read(self, heads: tuple[int, int]) -> "NDArray[Any]":
        """Return it as float32, rows of queries and keys in llama.cpp's order. `heads` are of queries, of keys."""
        import numpy

        count = math.prod(self.shape)
        values = numpy.fromfile(self.file, dtype=_DTYPES[self.dtype], count=count, offset=self.start)
        if self.dtype == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        values = values.astype("<f4", copy=False).reshape(self.shape)
        if ".attn_q." in self.name:
            return _permuted(values, heads[0])
        return _permuted(values, heads[1]) if ".attn_k." in self.name else values


def _permuted(values: "NDArray[Any]", heads: int) -> "NDArray[Any]":
    """transformers turns the two halves of a head against each other, llama.cpp neighbours."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _own_way(settings: dict[str, Any]) -> Mapping[str, Any]:
    folder, kind = Path(settings["folder"]), settings["kind"]
    config = model_config(folder)
    tensors = _wanted(folder, config, kind)
    _write(Path(settings["out"]), Path(settings["base_gguf"]), settings, config, tensors)
    return {"tensors": len(tensors)}


def _wanted(folder: Path, config: Mapping[str, Any], kind: str) -> list[_Tensor]:
    """Return the tensors in the order in which they are written. Raises UsageError for unknown, Damaged for missing."""
    is_tied = bool(config.get("tie_word_embeddings"))
    found: dict[str, _Tensor] = {}
    unknown: list[str] = []
    for path in weight_files(folder):
        for name, entry in read_safetensors_head(path).items():
            known, shape = gguf_name(name), tuple(entry["shape"])
            if name == "lm_head.weight" and is_tied:
                continue
            if known is None or entry["dtype"] not in _DTYPES or len(shape) > 2:
                unknown.append(f"{name} ({entry['dtype']})")
                continue
            found[known] = _Tensor(known, path, entry["dtype"], entry["data_offsets"][0], shape, _type(shape, kind))
    if unknown:
        raise UsageError(
            f"{len(unknown)} tensors have no place in a GGUF file of a llama: {', '.join(sorted(unknown)[:3])}"
        )
    layers = [f"blk.{n}.{part}.weight" for n in range(config["num_hidden_layers"]) for part in _LAYER_NAMES.values()]
    order = ["token_embd.weight", *layers, "output_norm.weight", *([] if is_tied else ["output.weight"])]
    missing = [name for name in order if name not in found]
    if missing or len(order) != len(found):
        names = missing or sorted(set(found) - set(order))
        raise Damaged(f"config.json and the weights do not belong together: {', '.join(names[:3])}")
    return [found[name] for name in order]


def _type(shape: tuple[int, ...], kind: str) -> str:
    if len(shape) == 1:
        return "F32"
    return "Q8_0" if kind == "q8_0" and shape[-1] % _Q8_BLOCK == 0 else "F16"


def _write(
    out: Path, base: Path, settings: Mapping[str, Any], config: Mapping[str, Any], tensors: list[_Tensor]
) -> None:
    """Write the file, one tensor in memory at a time."""
    import numpy
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

    own = _metadata(config, settings) | _template(Path(settings["folder"]))
    writer = GGUFWriter(out, "llama")
    for key, field in GGUFReader(base).fields.items():
        kind = field.types[0]
        if not key.startswith(("GGUF.", "llama.", "general.architecture")) and key not in own:
            inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    kinds = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    for key, value in own.items():
        writer.add_key_value(key, value, kinds[type(value)])
    sizes = {"F32": 4, "F16": 2}
    for tensor in tensors:
        kind = GGMLQuantizationType[tensor.type]
        cells = math.prod(tensor.shape)
        size = cells // _Q8_BLOCK * 34 if tensor.type == "Q8_0" else cells * sizes[tensor.type]
        shape = tensor.shape if tensor.type != "Q8_0" else (*tensor.shape[:-1], tensor.shape[-1] // _Q8_BLOCK * 34)
        dtype = numpy.dtype({"F32": "<f4", "F16": "<f2"}.get(tensor.type, "u1"))
        writer.add_tensor_info(tensor.name, shape, dtype, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    heads = (config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"])
    for tensor in tensors:
        values = tensor.read(heads)
        if tensor.type == "Q8_0":
            values = quants.quantize(values, GGMLQuantizationType.Q8_0)
        writer.write_tensor_data(values.astype("<f2") if tensor.type == "F16" else values)
    writer.close()


def _metadata(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that are the student's own: its sizes, and what it is."""
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    own: dict[str, Any] = {
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": config.get("num_key_value_heads") or heads,
        "llama.attention.key_length": head_size,
        "llama.attention.value_length": head_size,
        "llama.attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "llama.rope.freq_base": float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
        "llama.rope.dimension_count": head_size,
        "llama.vocab_size": config["vocab_size"],
        "general.file_type": _FILE_TYPES[settings["kind"]],
        "general.name": settings["name"] or "distilled student",
        "general.quantization_version": 2,
    }
    given = {"general.license": settings["licence"], "distillgen.dataset_digest": settings["dataset_digest"]}
    return own | {key: value for key, value in given.items() if value}


def _template(folder: Path) -> dict[str, str]:
    """Return the chat template that the student was trained with, as its key; {} leaves the base's."""
    try:
        return {"tokenizer.chat_template": (folder / "chat_template.jinja").read_text(encoding="utf-8")}
    except OSError:
        return {}


def _convert(settings: dict[str, Any]) -> None:
    """Become the converter, so that it ends with the parent as this child does (Linux)."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    folder = str(Path(settings["folder"]).absolute())
    command = [settings["converter"], folder, "--outtype", settings["kind"], "--outfile", settings["out"]]
    if settings["name"]:
        command += ["--model-name", settings["name"]]
    sys.stdout.flush()
    os.execve(command[0], command, {**keep, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"})  # noqa: S606


def work(settings: dict[str, Any]) -> Mapping[str, Any]:
    """Do what the parent wants. Returns how many tensors were written."""
    if "converter" in settings:
        _convert(settings)
    return _own_way(settings)


if __name__ == "__main__":
    serve_parent(work)
