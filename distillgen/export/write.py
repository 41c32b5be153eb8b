"""Writes a version in a format, streamed: to an open stream, or to a folder of which either all is new or nothing."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, DistillgenError, NameInvalid, UsageError
from distillgen.export.formats import Format, Made, Unfit, system_of
from distillgen.export.options import Options
from distillgen.export.place import files_for, may_stand_in
from distillgen.export.reading import batches, first_row, is_pair
from distillgen.export.sinks import SINKS, Sink, require_pyarrow
from distillgen.files import safe_name

LONGEST_ID = 80  # characters of an id that an error shows
TOLD = 3  # rows that do not fit which an error names


class Misfits:
    """Rows that a format cannot carry: how many there are, and what is wrong with the first of them."""

    def __init__(self, label: str, form: Format, *, where: str, fix: str) -> None:
        self._label, self._form, self._where, self.fix = label, form, where, fix
        self.count = 0
        self._first: list[str] = []

    def add(self, row_id: str, why: str) -> None:
        """Count a row."""
        self.count += 1
        if self.count <= TOLD:
            shown = row_id if row_id.isprintable() and len(row_id) <= LONGEST_ID else repr(row_id)[:LONGEST_ID]
            self._first.append(f"row {shown}: {why}")

    def error(self, more: str = "") -> DistillgenError:
        """Return the error that says which rows do not fit."""
        rest = f"; and {self.count - TOLD:,} more rows" if self.count > TOLD else ""
        return UsageError(
            f"{self._label} does not fit the format {self._form.name}: {'; '.join(self._first)}{rest}{more}",
            where=self._where,
            fix=self.fix,
        )


def _of_version(version: Version, form: Format) -> Misfits:
    fix = "another format may carry such rows; [dataset] `exclude` leaves single rows out of the next version"
    return Misfits(version.label, form, where=str(version.folder), fix=fix)


def export_to(out: IO[bytes], version: Version, form: Format, options: Options, *, split: str | None) -> int:
    """Write rows to an open stream; return how many. At a row that does not fit, those before it have gone out."""
    options = fitting(version, form, options)
    misfits = _of_version(version, form)
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
    file_name: Callable[[str], str] | None = None, beside: Mapping[str, str] | None = None,
) -> list[Path]:  # fmt: skip
    """Write one file per split into a folder; return them. Files there are replaced when all new ones are whole.

    `file_name` gives the file of a split; default `SPLIT` with the format's suffix. `beside` is what else is written,
    name -> text; it is put in place last. Raises UsageError with rows that do not fit, NotFound, Damaged, Locked, and
    what a disk may do.
    """
    options, names = fitting(version, form, options), version.split_names(split)
    may_stand_in(folder, version)
    misfits = _of_version(version, form)
    with files_for(folder) as files:
        for name in names:
            path = files.add(file_name(name) if file_name else f"{name}{form.suffix}")
            _write_file(path, form.suffix, _made(version, name, form, options, misfits))
        if misfits.count:
            raise misfits.error()
        for name, text in (beside or {}).items():
            with written(files.add(name)) as file:
                file.write(text.encode())
        return files.put_in_place()


def _write_file(path: Path, suffix: str, made: Iterator[list[Made]]) -> None:
    with written(path) as file, closed(SINKS[suffix](file)) as sink:
        for rows in made:
            sink.write(rows)


@contextmanager
def closed(sink: Sink) -> Iterator[Sink]:
    """End a sink: well, or when something went wrong without a word."""
    try:
        yield sink
    except BaseException:
        with suppress(Exception):  # else pyarrow does it when nobody can hear, and complains of a closed file
            sink.close()
        raise
    sink.close()


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; at the end it is on the disk itself."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def fitting(version: Version, form: Format, options: Options) -> Options:
    """Return the options, with what the version decides. Raises UsageError where the format cannot carry its rows."""
    require_names(version)
    first = first_row(version)
    if form.takes == ("conversation" if is_pair(first) else "pair"):
        what = "preference pairs, not conversations" if is_pair(first) else "conversations, not preference pairs"
        fix = "--format preference" if is_pair(first) else "[student] `rejected` makes pairs"
        raise UsageError(f"{version.label} holds {what}", where=str(version.folder), fix=fix)
    if options.as_text is None:
        student = version.manifest.recipe.get("student", {})
        is_one_turn = student.get("prompt") is not None and student.get("system") is None
        options = replace(options, as_text=is_one_turn and options.reasoning in ("think", "drop"))
    require(form, options)
    if form.name == "labels":
        options = replace(options, system=system_of(first["messages"]))
    if "reasoning" in first and options.reasoning not in (allowed := places(form, options)):
        raise UsageError(
            f"{version.label} cannot be written as {form.name} with its reasoning as {options.reasoning!r}: {form.why}",
            where=str(version.folder), fix=f"--reasoning {' or '.join(allowed)}",
        )  # fmt: skip
    return options


def require_names(version: Version) -> None:
    """Raise Damaged unless dataset and splits are called what a recipe may call them: files and scripts name them."""
    for name in (version.manifest.name, *version.split_names()):
        try:
            safe_name(name, "it")
        except NameInvalid:
            raise Damaged(
                f"the manifest has the name {name[:80]!r}, which no dataset or split can have",
                where=str(version.folder), fix="a manifest from a stranger? distillgen check tells more",
            ) from None  # fmt: skip


def places(form: Format, options: Options) -> tuple[str, ...]:
    """Return where the format takes a reasoning trace, given the other options."""
    if form.name == "prompt-completion" and options.as_text:
        return ("think", "drop")
    if form.name == "text" and options.template is not None:
        return form.reasoning if options.template.reads_reasoning else ("think", "drop")
    return form.reasoning


def require(form: Format, options: Options) -> None:
    """Raise UsageError where a format needs something that is not there."""
    if form.suffix == ".parquet":
        require_pyarrow()
    if form.name == "text" and options.template is None:
        raise UsageError(
            "the format text needs a chat template",
            fix="--template FILE: the student's chat_template.jinja or tokenizer_config.json",
        )


def _made(
    version: Version, split: str, form: Format, options: Options, misfits: Misfits, *, until_misfit: bool = False
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
