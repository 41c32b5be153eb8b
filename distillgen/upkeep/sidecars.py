"""Mends provenance, rejected and failed rows: packed anew where their lines are whole; with loss, what is left."""

import functools

from distillgen.dataset.manifest import FileEntry
from distillgen.upkeep import mending
from distillgen.upkeep.check import is_as_published
from distillgen.upkeep.evidence import Evidence
from distillgen.upkeep.findings import DATA_FILE, PROVENANCE
from distillgen.upkeep.mending import Lines
from distillgen.upkeep.rows_left import RowsOfFile, objects_in, provenance_left


def mend_sidecar(evidence: Evidence, name: str, what: str, *, with_loss: bool) -> FileEntry | None:
    """Have a sidecar packed anew where what was in it is confirmed; with loss, what is left of it.

    Returns what the manifest must say of it, None when it stays damaged.
    """
    work, entry = evidence.work, evidence.listed[name]
    lines = mending.lines_left(work.folder / name if name in evidence.scans else None)
    published = None if entry is None else entry.content_sha256
    if published is not None and mending.content_sha256(lines) == published:
        return _repacked(evidence, name, lines, "packed anew: what was in it is whole", what)
    of = "an unknown number of" if entry is None or entry.rows is None else f"{entry.rows:,}"
    can_go = name != PROVENANCE or entry is not None
    if not with_loss or not can_go:
        left = sum(1 for _ in lines())
        more = "; `--with-loss` keeps these and lets the others go" if can_go else ""
        work.leave("checksum", f"{what}; {left:,} of {of} rows can be read{more}", name)
        return None
    if name == PROVENANCE:
        kept = _provenance_left(evidence, lines)
        if kept is None:
            work.leave("checksum", f"{what}; its data files are damaged too, so nothing tells what is left", name)
            return None
        lines = kept
    else:
        lines = functools.partial(objects_in, lines)
        work.notes[name] = f"{sum(1 for _ in lines()):,} of {of} rows are left"
    return _repacked(evidence, name, lines, f"what is left of it is kept: {work.notes[name]}", what)


def _repacked(evidence: Evidence, name: str, lines: Lines, how: str, what: str) -> FileEntry:
    """Have a sidecar written with some lines; return what the manifest must say of it."""
    content = mending.packed(lines)
    made = FileEntry(
        bytes=sum(map(len, content())), sha256=mending.sha256_of(content), rows=sum(1 for _ in lines()),
        content_sha256=mending.content_sha256(lines),
    )  # fmt: skip
    is_exact = made == evidence.listed[name]
    if not is_exact:
        evidence.work.notes.setdefault(name, "packed anew")
    evidence.work.write(name, content, how, what=what, is_exact=is_exact)
    return made


def _provenance_left(evidence: Evidence, lines: Lines) -> Lines | None:
    """Return provenance with what is left of it; None when the data, which say what is lost, are damaged too."""
    rows = []
    for name in evidence.data_names:
        entry, found = evidence.listed[name], evidence.scans.get(name)
        if entry is None or found is None or not is_as_published(found, entry):
            return None
        split = DATA_FILE.fullmatch(name)["split"]  # type: ignore[index]
        rows.append(RowsOfFile(split, evidence.work.folder / name, found.lines))
    kept, lost, of = provenance_left(lines, rows)
    evidence.work.notes[PROVENANCE] = f"the records of {lost:,} of {of:,} rows are lost"
    return kept
