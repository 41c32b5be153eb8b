"""Writes the manifest of a damaged version anew, so that it says what is there and what nobody knows any more."""

from collections.abc import Mapping
from typing import Any

from distillgen.dataset.manifest import FILE_NAME, FileEntry, Manifest
from distillgen.upkeep import mending
from distillgen.upkeep.card_again import mend_card, tell_of_repair
from distillgen.upkeep.check import check_funnel
from distillgen.upkeep.evidence import CARD, Evidence
from distillgen.upkeep.findings import DATA_FILE
from distillgen.upkeep.manifests import as_written, completed, digest_of, dumped


def finish(evidence: Evidence, entries: dict[str, FileEntry], date: str, *, is_rebuilt: bool) -> None:
    """Have the card written, and a manifest that says what is there, where the one that is there does not.

    `entries` are of all files but the card; rebuilt is a manifest of which not everything could be read.
    """
    found = evidence.found
    if is_rebuilt:
        table = completed(found, _known(evidence, entries), Manifest.model_fields)
        _drop_wrong_funnel(evidence, table)
    else:
        table = {**found.table, "files": {**found.table["files"], **dumped(entries)}}
        table["digest"] = digest_of(entries)
    card = mend_card(evidence, table)
    if card is not None:
        entries[CARD] = card
    table["files"] = dumped({name: entries[name] for name in evidence.listed if name in entries})
    if not is_rebuilt:
        table["files"] |= dumped({name: entry for name, entry in evidence.odd.items() if entry is not None})
        if table["files"] == found.table["files"]:
            return
    _write_manifest(evidence, table, date, is_rebuilt=is_rebuilt)


def _write_manifest(evidence: Evidence, table: dict[str, Any], date: str, *, is_rebuilt: bool) -> None:
    work, found = evidence.work, evidence.found
    if is_rebuilt and found.seal and as_written(table).rstrip().endswith(f'"{found.seal}"\n}}'.encode()):
        work.write(FILE_NAME, mending.of_bytes(as_written(table)), "put together again; its seal holds")
        return
    note: dict[str, Any] = {
        "date": date,
        "lost": found.lost,
        "unverified": [name for name in found.unverified if name not in found.lost],
        "files": work.notes,
    }
    if (before := found.table.get("digest")) not in (None, table["digest"]):
        note["digest_before"] = before
    if (note["lost"] or note["unverified"]) and is_rebuilt and (card := tell_of_repair(evidence, note)) is not None:
        table["files"] |= dumped({CARD: card})
    earlier = found.table.get("repaired")
    table["repaired"] = [*(earlier if isinstance(earlier, list) else []), note]
    how = "written anew from what is there"
    if is_rebuilt and found.lost:
        how += f"; nobody knows any more: {', '.join(found.lost)}"
    if is_rebuilt and note["unverified"]:
        how += f"; taken from the damaged one, and not confirmed: {', '.join(note['unverified'])}"
    work.write(FILE_NAME, mending.of_bytes(as_written(table)), how, is_exact=False)


def _known(evidence: Evidence, entries: Mapping[str, FileEntry]) -> dict[str, Any]:
    """Return what files and folders say of a version."""
    folder, salvaged = evidence.work.folder, evidence.found.table
    splits: dict[str, int] = {}
    for name, entry in entries.items():
        if found := DATA_FILE.fullmatch(name):
            splits[found["split"]] = splits.get(found["split"], 0) + (entry.rows or 0)
    said = salvaged.get("splits", {})
    if set(said) == set(splits):
        splits = {split: splits[split] for split in said}
    number = int(folder.name[1:])
    parent = salvaged.get("parent")
    known = {
        "name": folder.parent.name, "version": number, "digest": digest_of(entries),
        "rows": sum(splits.values()), "splits": splits, "files": {},
    }  # fmt: skip
    return known if parent is None or parent < number else {**known, "parent": None}


def _drop_wrong_funnel(evidence: Evidence, table: dict[str, Any]) -> None:
    if list(check_funnel(Manifest.model_validate(table))):
        table["funnel"] = []
        evidence.found.lost.append("funnel")
