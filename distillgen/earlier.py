"""Rows that were kept before this run, for `deduplicate` to compare with: a version's, another dataset's, a file's.

Their index lies in the state folder, by the content that it was made from and the way in which rows are compared. It
holds the rows as they were published and no others, so that it equals the one that reading the version again would
make: it may be deleted at any time.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from distillgen.dataset.manifest import FILE_NAME
from distillgen.dataset.versions import Version, find_version, latest
from distillgen.errors import DistillgenError, Problem, UsageError, nearest
from distillgen.excluded import Excluded
from distillgen.files import canonical, digest, file_sha256, read_jsonl
from distillgen.foreign import columns_of
from distillgen.rows import Row
from distillgen.shapes import Step, is_rounds
from distillgen.step_settings import DeduplicateStep
from distillgen.steps.deduplicate import Deduplicate, Earlier, index_settings
from distillgen.steps.known import Group, IndexSettings, Known, group_of
from distillgen.steps.text import as_text

if TYPE_CHECKING:
    from distillgen.steps.near_saved import Index

T = TypeVar("T")
PREVIOUS = "previous"


@dataclass(frozen=True)
class Place:
    """Where earlier rows are looked for. `state` is where their indexes are kept, None where nothing is."""

    folder: Path  # of the project
    home: Path  # of the dataset
    state: Path | None = None
    left_out: Excluded | None = None  # rows of the version before that are not to be in the next one

    @property
    def datasets(self) -> Path:
        """The folder of published datasets."""
        return self.folder / "datasets"

    @property
    def indexes(self) -> Path | None:
        """The folder of this dataset's indexes."""
        return None if self.state is None else self.state / "near" / self.home.name

    def index_folder(
        self, content: str, name: str, settings: IndexSettings, columns: Sequence[str]
    ) -> Path | None:  # fmt: skip
        """Return the folder of one step's index of these columns of some content, next to those of other contents."""
        if self.indexes is None:
            return None
        way = digest(canonical([name, asdict(settings), columns]))[:16]
        return self.indexes / way / content[:32]


def check_earlier(step: DeduplicateStep, place: Place) -> None:
    """Raise UsageError or NotFound when something in `against` is not there."""
    for reference in [] if step.against == PREVIOUS else step.against:
        _file_or_version(reference, place)


def open_earlier(step: DeduplicateStep, name: str, place: Place, spool: Path) -> list[Earlier]:
    """Return the indexes of all that a step compares with; one that is not kept is made.

    Raises UsageError for a file that cannot be read, or of which no row has the column.
    """
    settings = index_settings(step.columns, step.near, words=step.words, bands=step.bands, meaning=step.meaning)
    if step.against == PREVIOUS:
        parent = latest(place.home)
        return [] if parent is None else [_of_version(parent, step, name, settings, place, spool, place.left_out)]
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
    _marks: dict[str, set[bytes]] = field(default_factory=dict)

    def published(self, row: Row) -> None:
        """Note that a row, or what was made of it, is published."""
        for record in row.trail if self.steps else ():
            step = self.steps.get(record["step"])
            if step is not None and (mark := step.mark(record["as"], row)):
                self._marks.setdefault(step.name, set()).add(mark)

    def save(self, version: Version) -> list[Problem]:
        """Keep the indexes of a version that was published just now, and let those of the ones before go.

        A step whose rows were changed after it has none: what is published is not what it compared. Returns warnings:
        without its index the version is read again.
        """
        warnings: list[Problem] = []
        for name, step in self.steps.items():
            folder = self.place.index_folder(version.manifest.digest, name, step.settings, step.settings.columns)
            if folder is None:
                continue
            grown_from = next((earlier.index for earlier in step.earlier), None)
            if grown_from is not None and grown_from.folder is None:
                continue
            names = step.published(self._marks.get(name, set()))
            try:
                if names is not None:
                    step.save(folder, names, grown_from)
            except DistillgenError as error:
                what = f"{version.label} is published, but the index of its rows is not kept: {error.problems[0].what}"
                warnings.append(Problem(what, fix="it is only a cache: the next run reads the version instead"))
            _keep_only({folder}, folder.parent)
        return warnings


def sweep_indexes(place: Place, steps: Iterable[Step]) -> None:
    """Remove the indexes of a dataset that none of its steps has open: of other settings, of files that changed."""
    if place.indexes is not None:
        opened = {earlier.index.folder for step in _comparing(steps) for earlier in step.earlier}
        for way in place.indexes.glob("*"):
            _keep_only(opened, way)


def _comparing(steps: Iterable[Step]) -> Iterator[Deduplicate]:
    for step in steps:
        if isinstance(step, Deduplicate):
            yield step
        elif is_rounds(step):
            yield from _comparing(step.inner)


def _keep_only(wanted: Container[Path | None], way: Path) -> None:
    """Remove the folders of indexes beside the wanted ones, and the folder around them once it is empty."""
    for folder in way.glob("*"):
        if folder not in wanted:
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        way.rmdir()


def is_remembering(step: Step) -> TypeGuard[Deduplicate]:
    """Whether the next run compares with what a step keeps in this one."""
    return isinstance(step, Deduplicate) and step.remembers


def _file_or_version(reference: str, place: Place) -> Path | Version:
    path, name = place.folder / reference, reference.partition("@")[0]
    try:
        if path.is_file():
            return path
        if (path / FILE_NAME).is_file():
            return find_version(str(path), place.datasets)
        if "/" not in name and ((place.datasets / name).is_dir() or not path.suffix):
            return find_version(reference, place.datasets)
    except OSError as error:
        raise UsageError(f"cannot look at {reference[:120]!r}: {error.strerror or error}") from None
    raise UsageError(
        f"no such file: {reference!r}", where=str(path), fix="a dataset is named name, name@3 or by a version's folder"
    )


def _of_version(
    version: Version, step: DeduplicateStep, name: str, settings: IndexSettings, place: Place, spool: Path,
    left_out: Excluded | None = None,
) -> Earlier:  # fmt: skip
    columns = _against(step)
    dropped = _dropped(version, left_out)

    def rows() -> Iterator[tuple[tuple[str, Group], Mapping[str, Any]]]:
        for record in read_jsonl(version.folder / "provenance.jsonl.zst"):
            if record["id"] in dropped:
                continue
            trail: Sequence[Mapping[str, Any]] = record["steps"]
            passed = next((number for number, each in enumerate(trail) if each["step"] == name), len(trail))
            row_id = trail[passed].get("as", record["id"]) if passed < len(trail) else record["id"]
            yield (row_id, group_of(trail[:passed])), record["columns"]

    def known() -> Iterator[Known]:
        for (row_id, group), texts in _texts(rows(), columns, version.label, place):
            yield Known(row_id, texts, group)

    # Of some of its rows alone an index is made for one run: the next version's is of that.
    folder = None if dropped else place.index_folder(version.manifest.digest, name, settings, columns)
    return Earlier(_kept_or_made(folder, settings, known, spool), f"{version.label}/")


def _dropped(version: Version, left_out: Excluded | None) -> set[str]:
    """Return the ids of a version's rows that are left out."""
    records = read_jsonl(version.folder / "provenance.jsonl.zst") if left_out else ()
    return {each["id"] for each in records if left_out and left_out.of(each["id"], each["origin"]) is not None}


def _of_file(
    path: Path, step: DeduplicateStep, name: str, settings: IndexSettings, place: Place, spool: Path
) -> Earlier:
    columns = _against(step)

    def known() -> Iterator[Known]:
        from distillgen.steps.benchmarks import rows_of

        rows = ((where, columns_of(row)) for where, row in rows_of(path, "what to compare with"))
        for where, texts in _texts(rows, columns, str(path), place):
            yield Known(where.rpartition(":")[2].strip(), texts)

    folder = None
    if place.indexes is not None:
        content = digest(os.fsencode(path.name), _sha256(path))  # the name tells how the bytes are read
        folder = place.index_folder(content, name, settings, columns)
    return Earlier(_kept_or_made(folder, settings, known, spool), f"{path.name}:")


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


def _texts(
    rows: Iterable[tuple[T, Mapping[str, Any]]], wanted: Sequence[str], where: str, place: Place
) -> Iterator[tuple[T, list[str]]]:
    """Yield the texts of each row; a column that it lacks is empty. Raises UsageError when no row has one of them."""
    seen: dict[str, None] = {}
    for key, columns in rows:
        seen.update(dict.fromkeys(columns))
        yield key, [as_text(columns.get(column)) for column in wanted]
    for column in wanted:
        if seen and column not in seen:
            hint = nearest(column, seen)
            fix = hint if place.indexes is None else f"name it: against_column ({hint})"  # a pipe has no such key
            raise UsageError(f"no column {column!r} to compare with", where=where, fix=fix)


def _sha256(path: Path) -> bytes:
    try:
        return file_sha256(path).encode()
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror or error}", where=str(path)) from None
