"""Rows that were kept before this run, for `deduplicate` to compare with: a version's, another dataset's, a file's.

Their index lies in the state folder, by the content that it was made from and the way in which rows are compared. It
holds the published rows and no others, so that it equals the one that reading the version again would make: it may be
deleted at any time.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from distillgen.dataset.versions import Version, find_version, latest
from distillgen.errors import Problem, SeedsInvalid, UsageError, nearest
from distillgen.files import canonical, digest, read_jsonl
from distillgen.foreign import columns_of
from distillgen.rows import Row
from distillgen.seeds import read_rows
from distillgen.shapes import Step
from distillgen.step_settings import DeduplicateStep
from distillgen.steps.deduplicate import Deduplicate, Earlier, index_settings
from distillgen.steps.known import IndexSettings, Known, group_of

if TYPE_CHECKING:
    from distillgen.steps.near_saved import Index

PREVIOUS = "previous"


@dataclass(frozen=True)
class Place:
    """Where earlier rows are looked for. `state` is where their indexes are kept, None where nothing is."""

    folder: Path  # of the project
    home: Path  # of the dataset
    state: Path | None = None

    @property
    def datasets(self) -> Path:
        """The folder of published datasets."""
        return self.folder / "datasets"

    def index_folder(self, content: str, name: str, settings: IndexSettings) -> Path | None:
        """Return the folder of the index of some content for one step, next to those of other contents."""
        if self.state is None:
            return None
        way = digest(canonical([name, asdict(settings)]))[:16]
        return self.state / "near" / self.home.name / way / content[:32]


def check_earlier(step: DeduplicateStep, place: Place) -> None:
    """Raise UsageError or NotFound when something in `against` is not there."""
    for reference in [] if step.against == PREVIOUS else step.against:
        _file_or_version(reference, place)


def open_earlier(step: DeduplicateStep, name: str, place: Place, spool: Path) -> list[Earlier]:
    """Return the indexes of all that a step compares with; one that is not kept is made.

    Raises UsageError for a file that cannot be read, or lacks the column.
    """
    settings = index_settings(step.columns, step.near, words=step.words, bands=_bands(step), meaning=step.meaning)
    if step.against == PREVIOUS:
        parent = latest(place.home)
        return [] if parent is None else [_of_version(parent, step, name, settings, place, spool)]
    found = [_file_or_version(reference, place) for reference in step.against]
    return [
        _of_version(each, step, name, settings, place, spool)
        if isinstance(each, Version)
        else _of_file(each, step, name, settings, place, spool)
        for each in found
    ]


@dataclass
class Memory:
    """What a run publishes of the rows that its steps kept, so that the next run can be compared with it."""

    place: Place
    steps: Mapping[str, Deduplicate]  # those that compare with the version before
    _published: dict[str, set[str]] = field(default_factory=dict)

    def published(self, row: Row) -> None:
        """Note that a row, or what was made of it, is published."""
        for record in row.trail if self.steps else ():
            if record["step"] in self.steps:
                self._published.setdefault(record["step"], set()).add(record["as"])

    def save(self, version: Version) -> None:
        """Keep the indexes of a version that was published just now, and let those of the ones before go."""
        for name, step in self.steps.items():
            folder = self.place.index_folder(version.manifest.digest, name, step.settings)
            if folder is None:
                continue
            before = next((earlier.index for earlier in step.earlier), None)
            step.save(folder, self._published.get(name, set()), before)
            for other in folder.parent.iterdir():
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)


def is_remembering(step: Step) -> TypeGuard[Deduplicate]:
    """Whether the next run compares with what a step keeps in this one."""
    return isinstance(step, Deduplicate) and step.remembers


def _bands(step: DeduplicateStep) -> tuple[int, int] | None:
    return (step.bands[0], step.bands[1]) if step.bands else None


def _file_or_version(reference: str, place: Place) -> Path | Version:
    path = place.folder / reference
    if path.is_file():
        return path
    if path.is_dir() or not path.suffix:
        return find_version(str(path) if path.is_dir() else reference, place.datasets)
    raise UsageError(
        f"no such file: {reference!r}", where=str(path), fix="a dataset is named name, name@3 or by its folder"
    )


def _of_version(
    version: Version, step: DeduplicateStep, name: str, settings: IndexSettings, place: Place, spool: Path
) -> Earlier:
    columns = _against(step)

    def known() -> Iterator[Known]:
        for record in read_jsonl(version.folder / "provenance.jsonl.zst"):
            trail: Sequence[Mapping[str, Any]] = record["steps"]
            passed = next((number for number, each in enumerate(trail) if each["step"] == name), len(trail))
            row_id = trail[passed].get("as", record["id"]) if passed < len(trail) else record["id"]
            texts = _texts(record["columns"], columns, f"{version.label}, row {record['id']}")
            yield Known(row_id, texts, group_of(trail[:passed]))

    index = _kept_or_made(place.index_folder(version.manifest.digest, name, settings), settings, known, spool)
    return Earlier(index, f"{version.label}/")


def _of_file(
    path: Path, step: DeduplicateStep, name: str, settings: IndexSettings, place: Place, spool: Path
) -> Earlier:
    columns = _against(step)

    def known() -> Iterator[Known]:
        for where, found in read_rows(path):
            if isinstance(found, Problem):
                raise SeedsInvalid("bad row", problems=[Problem(found.what, found.where, "mend it, or take it out")])
            yield Known(where.rpartition(":")[2].strip(), _texts(columns_of(found), columns, where))

    content = _sha256(path)
    index = _kept_or_made(place.index_folder(content, name, settings), settings, known, spool)
    return Earlier(index, f"{path.name}:")


def _kept_or_made(
    folder: Path | None, settings: IndexSettings, known: Callable[[], Iterable[Known]], spool: Path
) -> "Index":
    from distillgen.steps.near_saved import index_of, open_index, save_index

    if folder is None:
        return index_of(known(), settings, spool)
    if (kept := open_index(folder, settings)) is not None:
        return kept
    made = index_of(known(), settings, spool)
    for part in made.parts:
        save_index(folder, settings, part, None, None)
    made.close()
    kept = open_index(folder, settings)
    assert kept is not None, "what was just written can be read"
    return kept


def _against(step: DeduplicateStep) -> list[str]:
    return [step.against_column] if step.against_column else step.columns


def _texts(columns: Mapping[str, Any], wanted: Sequence[str], where: str) -> list[str]:
    from distillgen.steps.text import as_text

    for column in wanted:
        if column not in columns:
            fix = f"name it: against_column ({nearest(column, columns)})"
            raise UsageError(f"no column {column!r} to compare with", where=where, fix=fix)
    return [as_text(columns[column]) for column in wanted]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
