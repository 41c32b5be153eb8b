"""A model's folder as transformers has it: its config, its files of weights, and what stands at their heads."""

import json
import struct
from pathlib import Path
from typing import Any

from distillgen.errors import Damaged, UsageError

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
            length = struct.unpack("<Q", file.read(8))[0]
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


def model_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a model's folder. Raises UsageError where it cannot be read."""
    config = read_object(folder / "config.json")
    if config is None:
        raise UsageError("config.json is not a JSON object", where=str(folder / "config.json"))
    return config


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
