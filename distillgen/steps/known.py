"""What `deduplicate` compares: rows by name, texts and group, and how their index is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import xxhash

EMBEDDING = "wordllama 0.4.0 l2_supercat_256"


class Group(NamedTuple):
    """Of which prompt a row is a sample (a hash, 0 for none), and its number among them."""

    of: int
    sample: int


NO_GROUP = Group(0, 0)


class Known(NamedTuple):
    """A row to be compared, or to be compared with: its name in rejections, the text of each column, its group."""

    name: str
    texts: Sequence[str]
    group: Group = NO_GROUP


@dataclass(frozen=True)
class IndexSettings:
    """What the rows of an index have in common.

    `words` of an n-gram are None when near-duplicates are not wanted, `embedding` when duplicates by meaning are not.
    """

    columns: tuple[str, ...]
    words: int | None
    bands: int = 0
    band_rows: int = 0
    embedding: str | None = None


def group_of(trail: Sequence[Mapping[str, Any]]) -> Group:
    """Return of which prompt a row is a sample, by the last record that has a sample number, and that number."""
    for record in reversed(trail):
        if "sample" in record:
            prompt = f"{record['step']}\x1f{record['of']}".encode("utf-8", "surrogatepass")
            return Group(xxhash.xxh3_64_intdigest(prompt) or 1, record["sample"])
    return NO_GROUP
