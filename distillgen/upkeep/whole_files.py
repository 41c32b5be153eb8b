"""Finds a whole file again as it was published: in another version, within itself, or by turning one bit back."""

import contextlib
from pathlib import Path

from distillgen.dataset.manifest import FileEntry
from distillgen.upkeep import mending
from distillgen.upkeep.aside import ASIDE
from distillgen.upkeep.check import is_regular
from distillgen.upkeep.evidence import Evidence
from distillgen.upkeep.findings import DATA_FILE, shown
from distillgen.upkeep.mending import Content


def is_found_again(evidence: Evidence, name: str, entry: FileEntry, what: str) -> bool:
    """Have a file written as it was published, where its bytes are to be had; return whether they are."""
    mended = _by_checksum(evidence, name, entry)
    if mended is None:
        return False
    content, how, link = mended
    evidence.work.write(name, content, how, what=what, link=link)
    return True


def _by_checksum(evidence: Evidence, name: str, entry: FileEntry) -> tuple[Content, str, Path | None] | None:
    """Return a file's bytes where the sha256 of the whole confirms them, how they are found, and where they lie."""
    there = evidence.work.there.get(name)
    if (elsewhere := evidence.siblings.file(entry.sha256, there)) is not None:
        path, label = elsewhere
        return mending.of_path(path), f"{label} has the same file", path
    if (here := _under_another_name(evidence, name, entry)) is not None:
        where = evidence.work.folder if here.is_relative_to(evidence.work.folder) else evidence.work.folder.parent
        return mending.of_inode(here), f"{shown(str(here.relative_to(where)))} is this file", None
    if name not in evidence.scans or there is None:
        return None
    path = evidence.work.folder / name
    size = there.st_size
    if size > entry.bytes and mending.sha256_of(cut := mending.of_path(path, entry.bytes)) == entry.sha256:
        return cut, f"{size - entry.bytes:,} bytes too many are cut off", None
    has_rows = DATA_FILE.fullmatch(name) and evidence.provenance is not None  # lines are sooner tried
    if not has_rows and 0 < size == entry.bytes <= mending.SEARCHED_BYTES:
        found = mending.unflipped(path.read_bytes(), entry.sha256)
        if found is not None:
            return mending.of_bytes(found), "the one flipped bit is turned back", None
    return None


def _under_another_name(evidence: Evidence, name: str, entry: FileEntry) -> Path | None:
    """Return where a file stands in the version's own folder, swapped with another, or renamed; or among what was put
    aside of it, by a repair that was killed."""
    folder = evidence.work.folder
    aside = folder.parent / ASIDE / folder.name
    others = [folder / other for other in evidence.work.there if other != name]
    for path in (*others, *sorted(aside.rglob("*"))):
        with contextlib.suppress(OSError):
            status = path.lstat()
            may_be = is_regular(status) and status.st_size == entry.bytes
            if may_be and mending.sha256_of(mending.of_path(path)) == entry.sha256:
                return path
    return None
