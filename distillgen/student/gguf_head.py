"""The head of a GGUF file: what it says of itself, its tensors, its tokens. Read without a package.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import io
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.errors import Damaged, UsageError

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
        return sum(math.prod(shape) for shape in self.tensors.values())

    @property
    def context(self) -> int:
        """The longest context in tokens, 0 where it is not said."""
        value = self.values.get(f"{self.architecture}.context_length", 0)
        return value if isinstance(value, int) else 0


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
    last = 0  # where the last tensor begins
    for _ in range(tensors):
        name = _string(file)
        sizes = _number(file, "<I")
        if sizes > 8:
            raise ValueError(f"{name[:60]!r} has {sizes} dimensions")
        shapes[name] = tuple(_number(file, "<Q") for _ in range(sizes))
        _number(file, "<I")  # its type
        last = max(last, _number(file, "<Q"))
    if last and _aligned(file.tell(), values) + last >= os.fstat(file.fileno()).st_size:
        raise EOFError("it ends before its last tensor begins; fetch it again")
    return GgufHead(values, shapes, tokens)


def _aligned(place: int, values: Mapping[str, Any]) -> int:
    """Return where the tensors begin behind a head that ends at `place`."""
    alignment = int(values.get("general.alignment") or 32)
    return -(-place // alignment) * alignment


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


def read_gguf_tokens(path: Path) -> Iterator[str]:
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
