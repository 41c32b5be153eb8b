"""A version's table of contents and lineage, as manifest.json holds it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from distillgen.errors import Damaged, NameInvalid, NewerFormat
from distillgen.files import safe_name

FORMAT = 1
FILE_NAME = "manifest.json"
LONGEST_PROMPT_NAME = 250  # bytes: with its ending, what file systems take
DAMAGED = "`distillgen check` tells more, `distillgen repair` may mend it"


class FileEntry(BaseModel):
    """One file of a version. `content_sha256` is that of its lines, before compression."""

    model_config = ConfigDict(frozen=True)
    bytes: int
    sha256: str
    rows: int | None = None
    content_sha256: str | None = None


class Manifest(BaseModel):
    """Everything about a version but its rows. `run` describes the run and is no part of the content's digest."""

    format: int = FORMAT
    name: str
    version: int = Field(ge=1)
    parent: int | None
    digest: str
    is_partial: bool = False
    ends: str = ""  # why it is a prefix of the seeds: limit, target_rows, stopped
    rows: int
    splits: dict[str, int]
    lengths: dict[str, dict[str, int]] = {}  # of each split: bits of a line's length in bytes -> rows
    only_dates: dict[str, list[str]] = {}  # of each split: columns in which every text is a date
    labels: dict[str, dict[str, int]] = {}  # of each split: label -> rows, where what is learnt is one of a few labels
    recipe: dict[str, Any]
    overrides: dict[str, Any] = {}
    prompts: dict[str, str]
    seeds: dict[str, Any]
    teachers: dict[str, dict[str, Any]]
    terms: dict[str, Any] = {}
    funnel: list[dict[str, Any]]
    files: dict[str, FileEntry]
    software: dict[str, str]
    run: dict[str, Any]
    repaired: list[dict[str, Any]] = []  # what `repair` had to make up for: date, and what was lost
    forgotten: list[dict[str, Any]] = []  # tombstones of erased rows: id, date, reason, digest_before

    @property
    def unconfirmed(self) -> set[str]:
        """The fields that nobody can vouch for since a repair: lost, or taken from a manifest that was damaged."""
        return {str(name) for note in self.repaired for kind in ("lost", "unverified") for name in note.get(kind) or ()}

    def dump(self) -> bytes:
        """Return the manifest as it is written."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2) + b"\n"


class _Step(BaseModel):
    """What of a step of the funnel is counted with."""

    model_config = ConfigDict(strict=True)
    step: str
    rows_in: int = Field(alias="in")
    born: int
    out: int
    rejected: dict[str, int]
    failed: dict[str, int]


class _Rate(BaseModel):
    model_config = ConfigDict(strict=True)
    input: float
    cached_input: float
    output: float


class _Prices(BaseModel):
    rates: list[_Rate] = Field(min_length=1)


class _Asked(BaseModel):
    prices: _Prices | None = None


class _Run(BaseModel):
    """What of a run is counted with."""

    model_config = ConfigDict(strict=True)
    finished: str = ""
    calls: int = 0
    usd: float = 0
    tokens: dict[str, int] = {}
    teachers: dict[str, _Asked] = {}


_FUNNEL = TypeAdapter(list[_Step])


def require_prompt_names(names: Iterable[str]) -> None:
    """Insist that names of prompts, under which they are written into a folder, do not lead out of it.

    Raises NameInvalid.
    """
    for name in names:
        is_part = name.isprintable() and not {"/", "\\"} & set(name) and len(name.encode()) <= LONGEST_PROMPT_NAME
        if not name or not is_part:
            raise NameInvalid(f"the prompt {name[:120]!r} cannot be a file in a folder of prompts")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a version folder. Raises Damaged or NewerFormat."""
    path = folder / FILE_NAME
    try:
        if path.exists() and not path.is_file():
            raise Damaged("cannot read the manifest: it is no file", where=str(path), fix=DAMAGED)
        table = orjson.loads(path.read_bytes())
        if isinstance(table, dict) and isinstance(table.get("format"), int) and table["format"] > FORMAT:
            raise NewerFormat(
                f"this version has format {table['format']}, this distillgen knows {FORMAT}",
                where=str(path),
                fix="pip install --upgrade distillgen",
            )
        manifest = Manifest.model_validate(table)
        for name in (manifest.name, *manifest.splits):
            safe_name(name, "name")
        require_prompt_names(manifest.prompts)
        _FUNNEL.validate_python(manifest.funnel)
        _Run.model_validate(manifest.run)
        return manifest
    except (OSError, orjson.JSONDecodeError, ValidationError, NameInvalid) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a manifest"
        raise Damaged(f"cannot read the manifest: {reason}", where=str(path), fix=DAMAGED) from None
