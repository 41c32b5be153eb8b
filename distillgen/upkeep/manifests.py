"""What a damaged manifest still says: byte for byte where its seal confirms it, else field by field."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from distillgen.dataset.manifest import FILE_NAME, FORMAT, FileEntry, Manifest
from distillgen.dataset.seal import FIELD as SEAL
from distillgen.dataset.seal import seal_holds, sealed
from distillgen.files import canonical, digest
from distillgen.upkeep.findings import is_content, kind_of
from distillgen.upkeep.mending import Content, sha256_of
from distillgen.upkeep.scan import Scan

# What nothing but a manifest says, and what stands there once it is lost.
TOLD_NOWHERE_ELSE: Mapping[str, Any] = {
    "parent": None, "is_partial": False, "ends": "", "recipe": {}, "overrides": {}, "prompts": {},
    "seeds": {"path": [], "count": 0, "sha256": None, "skipped": 0}, "teachers": {}, "terms": {}, "funnel": [],
    "software": {"distillgen": "unknown", "python": "unknown"}, "run": {},
}  # fmt: skip
LIKE_A_NEIGHBOUR = ("recipe", "overrides", "prompts", "seeds", "teachers", "terms", "software")
_FIELD = re.compile(rb'\n  "([a-z_]+)": ')
_FEW = 16  # bytes of a damaged field that may differ from a neighbour's, which is then what it said


@dataclass
class Salvaged:
    """A manifest's fields as far as they are known; `lost` are those that nobody knows, and `unverified` those that a
    damaged manifest says and no other place confirms."""

    table: dict[str, Any]
    lost: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    seal: str = ""

    @property
    def files(self) -> dict[str, FileEntry]:
        """The files that it lists."""
        listed = self.table.get("files", {})
        return {name: FileEntry.model_validate(entry) for name, entry in listed.items()}


def as_written(table: Mapping[str, Any]) -> bytes:
    """Return a manifest's bytes, sealed."""
    fields = {key: value for key, value in table.items() if key != SEAL}
    return sealed(orjson.dumps(fields, option=orjson.OPT_INDENT_2) + b"\n")


def salvage(content: bytes, neighbours: Iterable[bytes]) -> Salvaged:
    """Return what a damaged manifest still says. `neighbours` are the manifests of other versions of the dataset.

    A field that cannot be read is taken from a neighbour where it differs from the neighbour's in a few bytes only.
    """
    texts, others = _texts(content), [_texts(each) for each in neighbours if seal_holds(each)]
    found = Salvaged({})
    for name, text in texts.items():
        confirmed = name in LIKE_A_NEIGHBOUR and any(other.get(name) == text for other in others)
        if not confirmed and name in LIKE_A_NEIGHBOUR and not _is_json(text):
            text = next((other[name] for other in others if name in other and _is_near(other[name], text)), text)
        try:
            found.table[name] = orjson.loads(text) if _is_json(text) else _beginning(text)
        except ValueError:
            continue
        if not confirmed and name in TOLD_NOWHERE_ELSE:
            found.unverified.append(name)
    found.seal = str(found.table.pop(SEAL, ""))
    _require_shape(found)
    return found


def _texts(content: bytes) -> dict[str, bytes]:
    """Return the text of each field that stands on lines of its own, as distillgen writes them."""
    parts = _FIELD.split(content)
    texts = {name.decode(): text for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    if last := list(texts)[-1:]:
        texts[last[0]] = texts[last[0]].rstrip().removesuffix(b"}")
    texts = {name: text.rstrip().removesuffix(b",") for name, text in texts.items()}
    if not texts and isinstance(table := _parsed(content), dict):  # somebody's editor wrote it
        texts = {name: orjson.dumps(value) for name, value in table.items()}
    return texts


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _is_json(text: bytes) -> bool:
    return _parsed(text) is not None or text.strip() == b"null"


def _beginning(text: bytes) -> Any:
    """Return the value that a text begins with, where the name of the field behind it is damaged. Raises ValueError."""
    words = text.decode(errors="replace")
    value, end = json.JSONDecoder().raw_decode(words)
    if not words[end:].startswith(",\n"):
        raise ValueError("something else")
    return value


def _is_near(text: bytes, damaged: bytes) -> bool:
    return len(text) == len(damaged) and sum(a != b for a, b in zip(text, damaged, strict=True)) <= _FEW


def _require_shape(found: Salvaged) -> None:
    """Drop fields that are not what a manifest may say."""
    dummy: dict[str, Any] = {
        **TOLD_NOWHERE_ELSE, "name": "", "version": 1, "digest": "", "rows": 0, "splits": {}, "files": {},
    }  # fmt: skip
    try:
        Manifest.model_validate({**dummy, **found.table})
    except ValidationError as error:
        for name in {str(each["loc"][0]) for each in error.errors()}:
            found.table.pop(name, None)
            if name in found.unverified:
                found.unverified.remove(name)


def completed(found: Salvaged, known: Mapping[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """Return a whole manifest's fields: what was salvaged, `known` for certain, and for what is lost what says so."""
    table: dict[str, Any] = {"format": FORMAT}
    for name in dict.fromkeys([*order, *found.table, *known]):
        if name in known:
            table[name] = known[name]
        elif name in found.table:
            table[name] = found.table[name]
        elif name in TOLD_NOWHERE_ELSE:
            table[name] = TOLD_NOWHERE_ELSE[name]
            found.lost.append(name)
    return table


def is_name(name: str) -> bool:
    """Whether a manifest may list such a file: no path that leads out of the folder, and not the manifest itself."""
    parts = name.split("/")
    return name != FILE_NAME and not any(part in ("", ".", "..") for part in parts) and "\0" not in name


def is_manifest(content: bytes) -> bool:
    """Whether bytes are a manifest."""
    try:
        Manifest.model_validate(orjson.loads(content))
    except (orjson.JSONDecodeError, ValidationError):
        return False
    return True


def entry_of(found: Scan, name: str) -> FileEntry:
    """Return what a manifest says of a file that was read."""
    has_rows = kind_of(name) != "bytes"
    return FileEntry(
        bytes=found.size, sha256=found.sha256, rows=found.rows if has_rows else None,
        content_sha256=found.content_sha256 if has_rows else None,
    )  # fmt: skip


def entry_of_lines(content: Content, rows: int) -> FileEntry:
    """Return what a manifest says of a data file."""
    sha256 = sha256_of(content)
    return FileEntry(bytes=sum(map(len, content())), sha256=sha256, rows=rows, content_sha256=sha256)


def dumped(entries: Mapping[str, FileEntry]) -> dict[str, Any]:
    """Return entries as a manifest holds them."""
    return {name: entry.model_dump() for name, entry in entries.items()}


def digest_of(entries: Mapping[str, FileEntry]) -> str:
    """Return the digest of the content that files have."""
    return digest(canonical({name: entry.content_sha256 for name, entry in entries.items() if is_content(name)}))
