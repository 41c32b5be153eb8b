"""Writes the card of a damaged version anew from what its manifest says: as it was, byte for byte, where it can."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from distillgen.dataset.card import with_notice, write_card
from distillgen.dataset.manifest import FileEntry, Manifest
from distillgen.upkeep import mending
from distillgen.upkeep.check import is_as_published
from distillgen.upkeep.evidence import CARD, Evidence
from distillgen.upkeep.manifests import entry_of
from distillgen.upkeep.whole_files import is_found_again


def mend_card(evidence: Evidence, table: Mapping[str, Any]) -> FileEntry | None:
    """Return what the manifest must say of the card, which is written anew where it is not as it was published.

    `table` has the manifest's fields.
    """
    work, entry, found = evidence.work, evidence.listed[CARD], evidence.scans.get(CARD)
    if found is not None and entry is not None and is_as_published(found, entry):
        return entry
    if found is not None and entry is None and not found.trouble:
        work.notes[CARD] = "not confirmed"
        return entry_of(found, CARD)
    what = work.what_is_wrong(CARD)
    if entry is not None and is_found_again(evidence, CARD, entry, what):
        return entry
    manifest = Manifest.model_validate({**table, "files": {}})
    made = [write_card(manifest, _features(evidence, row), row).encode() for row in _first_rows(evidence)]
    for card in made:
        if entry is not None and mending.sha256_of(mending.of_bytes(card)) == entry.sha256:
            work.write(CARD, mending.of_bytes(card), "written anew, as it was", what=what)
            return entry
    if not made:
        work.leave("checksum", what, CARD)
        return entry
    work.notes[CARD] = "written anew"
    how = "written anew from the manifest; it is not byte for byte the one that was published"
    work.write(CARD, mending.of_bytes(made[0]), how, what=what, is_exact=False)
    return FileEntry(bytes=len(made[0]), sha256=mending.sha256_of(mending.of_bytes(made[0])))


def tell_of_repair(evidence: Evidence, note: Mapping[str, Any]) -> FileEntry | None:
    """Have the card say what of the manifest nobody can confirm any more, and return what the manifest must say of it.

    Its other words stay as they are: it may tell what was lost elsewhere. None where no card is to be had.
    """
    work = evidence.work
    content = work.contents.get(CARD)
    if content is None and CARD in evidence.scans and not evidence.scans[CARD].trouble:
        content = mending.of_path(work.folder / CARD)
    if content is None:
        return None
    told = with_notice(b"".join(content()), note)
    before = next((each.mend for each in work.actions if each.mend.file == CARD), None)
    work.actions = [each for each in work.actions if each.mend.file != CARD]
    what = before.what if before is not None else "does not tell that the manifest was damaged"
    how = f"{before.how}, and " if before is not None else ""
    work.notes.setdefault(CARD, "tells of this repair")
    work.write(CARD, mending.of_bytes(told), f"{how}tells what nobody can confirm", what=what, is_exact=False)
    return FileEntry(bytes=len(told), sha256=mending.sha256_of(mending.of_bytes(told)))


def _first_rows(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Yield the first row of each split: one of them is the card's example."""
    for name in evidence.data_names:
        if "-00000-of-" in name:
            content = evidence.work.contents.get(name)
            if content is None and name in evidence.scans:
                content = mending.of_path(evidence.work.folder / name)
            line = next(mending.lines_of(content), b"") if content is not None else b""
            if line:
                yield orjson.loads(line)


def _features(evidence: Evidence, row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if evidence.student is not None and evidence.found.table.get("recipe"):
        return evidence.student.features
    turns = [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
    return [
        {"name": name, "list": turns} if isinstance(value, list) else {"name": name, "dtype": "string"}
        for name, value in row.items()
    ]
