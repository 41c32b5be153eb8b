"""What a check finds, and the names by which the files of a version are known."""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from distillgen.upkeep.scan import Kind

PROVENANCE, REJECTED = "provenance.jsonl.zst", "rejected.jsonl.zst"
DATA_FILE = re.compile(r"data/(?P<split>.+)-(?P<number>\d{5,})-of-(?P<of>\d{5,})\.jsonl")
_TITLE = 120  # characters of a name or an id that are told

What: TypeAlias = Literal[
    "manifest", "missing", "stray", "irregular", "unreadable", "size", "checksum", "count", "digest", "line", "row",
    "duplicate", "split", "order", "lost", "place", "latest",
]  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was published: of which kind, in which file (below the folder), line and row."""

    kind: What
    what: str
    file: str = ""
    line: int | None = None
    row: str | None = None


def shown(text: str) -> str:
    """Return somebody else's text, quoted, on one line and not too long."""
    return repr(text if len(text) <= _TITLE else text[: _TITLE - 3] + "...")


def kind_of(name: str) -> Kind:
    """Return how a file of a version is read."""
    if DATA_FILE.fullmatch(name):
        return "data"
    if name == PROVENANCE:
        return "provenance"
    return "rows" if name.endswith(".jsonl.zst") else "bytes"


def is_content(name: str) -> bool:
    """Whether a file counts for the digest of its version."""
    return name.startswith("data/") or name in (PROVENANCE, REJECTED)
