"""The report of two versions side by side: what changed in the rows, the recipe, the funnel, cost and lengths."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from distillgen.dataset.compare import Changes, compare_rows
from distillgen.dataset.figures import histograms
from distillgen.dataset.looking import training_rows
from distillgen.dataset.versions import Version
from distillgen.report.drawing import bar
from distillgen.report.figures import recipe_changes, short, side_by_side
from distillgen.report.page import Line, Page, Part, Section, write_page
from distillgen.report.rows_data import Shown, packed, training
from distillgen.report.version_report import about, drawn, number_of_bins

KINDS = ("added", "removed", "changed")


def write_comparison(target: Path | IO[bytes], old: Version, new: Version, most_rows: int) -> None:
    """Write the report of two versions, with at most so many rows of each kind. Raises Damaged, UsageError, DiskFull.

    Memory: some 250 bytes for each row of `old`, and the rows that are shown as changed.
    """
    changes = compare_rows(old, new, most=most_rows)
    shown = [Shown(kind, len(changes.ids[kind]), getattr(changes, kind)) for kind in KINDS]
    write_page(target, _page(old, new, changes), shown, packed(_rows(old, new, changes)))


def _page(old: Version, new: Version, changes: Changes) -> Page:
    heads = ["", old.label, new.label]
    sections = [
        Section("changed", "What changed", [_counts(changes)]),
        Section("recipe", "Recipe", list(_recipe(old, new))),
        Section("figures", "Figures", [Part(heads=heads, rows=[Line(row) for row in side_by_side(old, new, changes)])]),
        Section("lengths", "Lengths", list(_lengths(old, new, changes))),
    ]  # fmt: skip
    return Page(
        title=f"{old.label} → {new.label}",
        about=f"{old.label}: {about(old.manifest)}. {new.label}: {about(new.manifest)}",
        tiles=[(kind, f"{getattr(changes, kind):,}") for kind in (*KINDS, "same")],
        sections=[section for section in sections if section.parts],
    )


def _lengths(old: Version, new: Version, changes: Changes) -> Iterator[Part]:
    """Yield the lengths of the answers of both, in the same columns, so that they can be compared."""
    bins = histograms(changes.lengths, max(map(number_of_bins, changes.lengths)))
    for place, (version, lengths) in enumerate(zip((old, new), changes.lengths, strict=True)):
        if len(lengths):
            own = [(low, high, counts[place]) for low, high, counts in bins]
            yield drawn(f"Characters of the answer, {version.label}", lengths, own)


def _counts(changes: Changes) -> Part:
    kinds = (*KINDS, "same")
    most = max(getattr(changes, kind) for kind in kinds) or 1
    return Part(
        heads=["", "rows"],
        rows=[Line([kind, f"{getattr(changes, kind):,}"], bar(getattr(changes, kind) / most)) for kind in kinds],
    )


def _recipe(old: Version, new: Version) -> Iterator[Part]:
    different = recipe_changes(old, new)
    if not different:
        yield Part(text="Recipe, prompts and seeds are the same.")
        return
    rows = [Line([key, short(before), short(after)]) for key, (before, after) in different.items()]
    yield Part(heads=["key", old.label, new.label], rows=rows, are_texts=True)


def _rows(old: Version, new: Version, changes: Changes) -> Iterator[dict[str, Any]]:
    """Yield the rows that changed, each with its kind; a changed one with what it was before."""
    before: dict[str, dict[str, Any]] = {}
    wanted = {kind: set(changes.ids[kind]) for kind in KINDS}
    for split, row in _published(old, wanted["removed"] | wanted["changed"]):
        if row["id"] in wanted["removed"]:
            yield {"id": row["id"], "kind": "removed", "split": split, **training(row)}
        else:
            before[row["id"]] = {"split": split, **training(row)}
    for split, row in _published(new, wanted["added"] | wanted["changed"]):
        known = before.pop(row["id"], None)
        kind = "added" if known is None else "changed"
        yield {"id": row["id"], "kind": kind, "split": split, **training(row), **_was(known, split)}


def _was(known: dict[str, Any] | None, split: str) -> dict[str, Any]:
    if known is None:
        return {}
    turns: Sequence[Any] = known.get("messages") or [
        *known.get("prompt", ()), *known.get("chosen", ()), *known.get("rejected", ())
    ]  # fmt: skip
    moved = {} if known["split"] == split else {"detail": f"it was in split {known['split']}"}
    return {"before": turns, **moved}


def _published(version: Version, ids: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for split in version.split_names():
        yield from ((split, row) for row in training_rows(version, split) if row["id"] in ids)
