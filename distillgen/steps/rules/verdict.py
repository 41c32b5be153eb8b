"""What a rule says of a row: why to refuse it, how to mend it, or nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias


class Mended(NamedTuple):
    """The row may pass with these columns in place of its own; `note` counts what was done, for its provenance."""

    columns: Mapping[str, Any]
    note: Mapping[str, Mapping[str, int]]


Verdict: TypeAlias = str | Mended | None  # a reason to refuse the row; the row mended; nothing against it


@dataclass(frozen=True)
class Context:
    """What a rule may know of the road it stands on.

    `folder` is the project's; `told` holds, for each column that a teacher wrote, the fixed texts of its instructions
    (system and user turns, without what was filled in).
    """

    folder: Path = field(default_factory=Path)
    told: Mapping[str, Sequence[str]] = field(default_factory=dict)


class RuleProblem(ValueError):
    """A rule setting that is wrong: what, the key inside the setting, and a hint."""

    def __init__(self, what: str, key: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.key, self.fix = what, key, fix
