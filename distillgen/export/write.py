"""Writes a version in a format, streamed: to an open stream, or to a folder of which either all is new or nothing."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from distillgen.dataset.manifest import FILE_NAME
from distillgen.dataset.versions import Version
from distillgen.errors import DistillgenError, NotWritable, UsageError
from distillgen.export.formats import Format, Made, Unfit, system_of
from distillgen.export.options import Options
from distillgen.export.reading import batches, first_row, is_pair
from distillgen.export.sinks import SINKS, require_pyarrow
from distillgen.files import disk_errors, sync_folder

LONGEST_ID = 80  # characters of an id that an error shows
TOLD = 3  # rows that do not fit which an error names
_VERSION = re.compile(r"v[0-9]{4,9}")  # the name of a version's folder


class _Misfits:
    """Rows that a format cannot carry: how many there are, and what is wrong with the first of them."""

    def __init__(self, version: Version, form: Format) -> None:
        self._version, self._form = version, form
        self.count = 0
        self._first: list[str] = []

    def add(self, row_id: str, why: str) -> None:
        self.count += 1
        if self.count <= TOLD:
            shown = row_id if row_id.isprintable() and len(row_id) <= LONGEST_ID else repr(row_id)[:LONGEST_ID]
            self._first.append(f"row {shown}: {why}")

    def error(self, more: str = "") -> DistillgenError:
        """Return the error that says which rows do not fit."""
        label, form = self._version.label, self._form.name
        rest = f"; and {self.count - TOLD:,} more rows" if self.count > TOLD else ""
        return UsageError(
            f"{label} does not fit the format {form}: {'; '.join(self._first)}{rest}{more}",
            where=str(self._version.folder),
            fix="another format may carry such rows; [dataset] `exclude` leaves single rows out of the next version",
        )


def export_to(out: IO[bytes], version: Version, form: Format, options: Options, *, split: str | None) -> int:
    """Write rows to an open stream; return how many. At a row that does not fit, those before it have gone out."""
    options = fitting(version, form, options)
    misfits = _Misfits(version, form)
    sink, count = SINKS[form.suffix](out), 0
    for name in version.split_names(split):
        for made in _made(version, name, form, options, misfits, until_misfit=True):
            sink.write(made)
            count += len(made)
        if misfits.count:
            sink.close()
            out.flush()
            raise misfits.error(f" ({count:,} rows before it were written)")
    sink.close()
    out.flush()
    return count


def export_folder(
    folder: Path, version: Version, form: Format, options: Options, *, split: str | None,
    file_name: Callable[[str], str] | None = None,
) -> list[Path]:  # fmt: skip
    """Write one file per split into a folder; return them. Files there are replaced when all new ones are whole.

    `file_name` gives the file of a split; default `SPLIT` with the format's suffix. Raises UsageError with rows that do
    not fit, NotFound, Damaged, and what a disk may do.
    """
    options = fitting(version, form, options)
    _may_stand_in(folder, version)
    misfits, spares = _Misfits(version, form), dict[Path, Path]()
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in version.split_names(split):
                path = folder / (file_name(name) if file_name else f"{name}{form.suffix}")
                if path.is_dir():
                    raise NotWritable(f"{path} is a folder", fix="choose another folder")
                spares[path] = folder / f".{path.name}.{os.getpid()}"
                _write_file(spares[path], form.suffix, _made(version, name, form, options, misfits))
            if misfits.count:
                raise misfits.error()
            for path, spare in spares.items():
                spare.rename(path)
            sync_folder(folder)
    finally:
        for spare in spares.values():
            with suppress(OSError):
                spare.unlink(missing_ok=True)
    return list(spares)


def _write_file(path: Path, suffix: str, made: Iterator[list[Made]]) -> None:
    with path.open("wb") as file:
        sink = SINKS[suffix](file)
        for rows in made:
            sink.write(rows)
        sink.close()
        file.flush()
        os.fsync(file.fileno())


def _may_stand_in(folder: Path, version: Version) -> None:
    """Refuse to write among the files of a version, this or another, except in its `exports`; or where one will be."""
    place, home = folder.resolve(), version.folder.resolve()
    for above in (place, *place.parents):
        is_numbered = _VERSION.fullmatch(above.name) is not None
        is_version = above == home or (is_numbered and (above.parent == home.parent or (above / FILE_NAME).is_file()))
        if is_version and place.relative_to(above).parts[:1] != ("exports",):
            raise UsageError(
                f"{folder} belongs to a version, which never changes",
                fix=f"choose another folder, or {version.folder / 'exports'}",
            )


def fitting(version: Version, form: Format, options: Options) -> Options:
    """Return the options, with what the version decides. Raises UsageError where the format cannot carry its rows."""
    first = first_row(version)
    if form.takes == ("conversation" if is_pair(first) else "pair"):
        what = "preference pairs, not conversations" if is_pair(first) else "conversations, not preference pairs"
        fix = "--format preference" if is_pair(first) else "[student] `rejected` makes pairs"
        raise UsageError(f"{version.label} holds {what}", where=str(version.folder), fix=fix)
    if options.as_text is None:
        student = version.manifest.recipe.get("student", {})
        is_one_turn = student.get("prompt") is not None and student.get("system") is None
        options = replace(options, as_text=is_one_turn and options.reasoning in ("think", "drop"))
    if form.suffix == ".parquet":
        require_pyarrow()
    if form.name == "text":
        _require_template(options)
    if form.name == "labels":
        options = replace(options, system=system_of(first["messages"]))
    if "reasoning" in first and options.reasoning not in (places := _places(form, options)):
        raise UsageError(
            f"{version.label} cannot be written as {form.name} with its reasoning as {options.reasoning!r}: {form.why}",
            where=str(version.folder), fix=f"--reasoning {' or '.join(places)}",
        )  # fmt: skip
    return options


def _places(form: Format, options: Options) -> tuple[str, ...]:
    """Return where the format takes a reasoning trace, given the other options."""
    if form.name == "prompt-completion" and options.as_text:
        return ("think", "drop")
    if form.name == "text" and options.template is not None:
        return form.reasoning if options.template.reads_reasoning else ("think", "drop")
    return form.reasoning


def _require_template(options: Options) -> None:
    if options.template is None:
        raise UsageError(
            "the format text needs a chat template",
            fix="--template FILE: the student's chat_template.jinja or tokenizer_config.json",
        )


def _made(
    version: Version, split: str, form: Format, options: Options, misfits: _Misfits, *, until_misfit: bool = False
) -> Iterator[list[Made]]:
    """Yield the format's rows of a split, many at a time, each checked by its rule; of a row all that it makes or none.

    After a row that does not fit nothing more is yielded: with `until_misfit` it ends there, else the rest is checked.
    """
    render, wrong = form.render, form.wrong
    for rows in batches(version, split):
        held: list[Made] = []
        for row in rows:
            try:
                made = render(row, options)
            except Unfit as unfit:
                why: str | None = str(unfit)
            else:
                if isinstance(made, dict):
                    if (why := wrong(made)) is None:
                        held.append(made)
                elif (why := next(filter(None, map(wrong, made)), None)) is None:
                    held += made
            if why is not None:
                misfits.add(row["id"], why)
                if until_misfit:
                    break
        if until_misfit or not misfits.count:
            yield held
        if until_misfit and misfits.count:
            return
