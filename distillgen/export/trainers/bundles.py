"""Writes a bundle: the data in the trainer's shape and file names, checked by its rules, then its configuration."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillgen.dataset.versions import Version
from distillgen.errors import UsageError
from distillgen.export.formats import FORMATS, Format, Unfit
from distillgen.export.options import Options
from distillgen.export.reading import first_row, is_pair
from distillgen.export.trainers.settings import Written, trained_on
from distillgen.export.trainers.table import Shape, Trainer
from distillgen.export.write import export_folder, require_names


def bundle(folder: Path, version: Version, trainer: Trainer, options: Options, *, split: str | None) -> list[Path]:
    """Write a version (or one split of it) as `trainer` wants it; return the files, data first.

    Raises UsageError when the trainer takes no such rows, splits or reasoning placement, or not so few rows; what a row
    breaks is raised by the writer, with the row. The configuration is put in place last, when all is whole.
    """
    require_names(version)  # before anything is written with them
    splits = version.split_names(split)
    first = first_row(version)  # every row of a version has the same keys
    are_pairs, has_traces = is_pair(first), "reasoning" in first
    shape = _shape(version, trainer, are_pairs)
    if has_traces:
        _reasoning_is_read(version, trainer, shape, options.reasoning)
    names = _file_names(version, trainer, splits)
    _are_enough(version, trainer, names)
    form = _format("preference" if are_pairs else "messages", trainer, shape)
    written = Written(version.label, are_pairs, names, options.reasoning if has_traces else "drop")
    return export_folder(
        folder, version, form, options, split=split, file_name=lambda name: names[name],
        beside=trainer.settings(written),
    )  # fmt: skip


def _shape(version: Version, trainer: Trainer, are_pairs: bool) -> Shape:
    if not are_pairs:
        return trainer.conversations
    if trainer.pairs is None:
        raise _refused(version, f"holds preference pairs, and {trainer.no_pairs}", "export it for another trainer")
    return trainer.pairs


def _reasoning_is_read(version: Version, trainer: Trainer, shape: Shape, placement: str) -> None:
    """Refuse a placement in which the trainer would overlook the trace, or stumble over it."""
    if placement not in shape.reasoning:
        raise _refused(
            version, f"cannot go to {trainer.title} with its reasoning as {placement!r}: {shape.why}",
            f"--reasoning {' or '.join(shape.reasoning)}",
        )  # fmt: skip


def _file_names(version: Version, trainer: Trainer, splits: list[str]) -> dict[str, str]:
    """Return split -> file name. Refuses a split that the trainer would never open."""
    stems = {name: trainer.names.get(name, "" if trainer.names else name) for name in splits}
    if lost := [name for name, stem in stems.items() if not stem]:
        raise _refused(
            version, f"has a split {lost[0]!r}, and {trainer.title} opens {', '.join(trainer.names)} only",
            f"--split {next((name for name in splits if name not in lost), 'NAME')}, or give the splits those names",
        )  # fmt: skip
    if trainer.names and "train" not in stems:
        raise _refused(
            version, f"has no rows for {trainer.title} to train on: it opens `train`, and here is {', '.join(stems)}",
            "export the split `train` too, or call one so in the recipe",
        )  # fmt: skip
    if len(set(stems.values())) < len(stems):
        raise _refused(
            version, f"has two splits that {trainer.title} would call the same: {', '.join(stems)}",
            "--split NAME, one at a time",
        )  # fmt: skip
    return {name: f"{stem}.jsonl" for name, stem in stems.items()}


def _are_enough(version: Version, trainer: Trainer, names: Mapping[str, str]) -> None:
    counts = {name: version.manifest.splits[name] for name in names}
    trained = trained_on(counts)
    for name, rows in counts.items():
        fewest = trainer.fewest if name == trained else trainer.fewest_each
        if rows < fewest:
            raise _refused(
                version, f"has {rows:,} rows in {name!r}, and {trainer.title} takes {fewest:,} or more",
                "build more rows, or export a larger split with --split",
            )  # fmt: skip
        if trainer.most is not None and rows > trainer.most:
            raise _refused(
                version, f"has {rows:,} rows in {name!r}, and {trainer.title} takes {trainer.most:,} at most",
                "[dataset] `target_rows` makes a smaller version",
            )  # fmt: skip


def _format(name: str, trainer: Trainer, shape: Shape) -> Format:
    """Return a format of the catalogue with the trainer's shape and rules put after its own."""
    base = FORMATS[name]

    def render(row: Mapping[str, Any], *more: Any, **named: Any) -> dict[str, Any]:
        made = base.render(row, *more, **named)
        assert isinstance(made, dict)  # `messages` and `preference` make one row of a row
        if why := base.wrong(made):
            raise Unfit(why)
        return shape.render(made)

    return replace(base, name=trainer.name, render=render, wrong=shape.wrong)


def _refused(version: Version, what: str, fix: str) -> UsageError:
    return UsageError(f"{version.label} {what}", where=str(version.folder), fix=fix)
