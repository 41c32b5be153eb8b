"""What commands print for programs: the JSON schema of every output, and how a document is written.

Each output has one file here, `NAME.schema.json`, in JSON Schema draft 2020-12. It is the one place where its fields
are described and where its version stands; the tests hold real outputs against it.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillgen.errors import NotFound, nearest

FOLDER = Path(__file__).parent
SUFFIX = ".schema.json"
RECIPE = "recipe"  # whose schema is made from its models, not kept here


def names() -> list[str]:
    """Return the outputs that have a schema here, in alphabetical order."""
    return sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def schema_of(name: str) -> dict[str, Any]:
    """Return the schema of an output. Raises NotFound with the nearest name that there is, else with all of them."""
    known = names()
    if name not in known:
        raise NotFound(f"no output {name[:80]!r}", fix=nearest(name[:80], [*known, RECIPE]))
    schema: dict[str, Any] = json.loads((FOLDER / f"{name}{SUFFIX}").read_text(encoding="utf-8"))
    return schema


@functools.cache
def label_of(name: str) -> str:
    """Return an output's name with the version of its shape, as it stands in every document: `check/1`."""
    label: str = schema_of(name)["properties"]["schema"]["const"]
    return label


def document(name: str, content: Mapping[str, Any]) -> str:
    """Return a document of an output as indented JSON that begins with its `schema`.

    It is ASCII, so that it comes through any locale and nothing in it can act on a terminal. What JSON does not have
    is made up for: a number that is none or has no end becomes null, half a surrogate pair (a path that is no UTF-8)
    the text of its escape.
    """
    return json.dumps(plain({"schema": label_of(name), **content}), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """Return a value with nothing in it that a strict reader of JSON refuses."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {plain(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
