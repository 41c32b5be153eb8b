"""Mends data files row by row: what is whole is kept, and the other lines are found again as provenance has them."""

from distillgen.dataset.manifest import FileEntry
from distillgen.upkeep import mending
from distillgen.upkeep.evidence import Evidence
from distillgen.upkeep.findings import Finding
from distillgen.upkeep.manifests import entry_of_lines
from distillgen.upkeep.mending import DataFile


def mend_data(evidence: Evidence, name: str, what: str) -> FileEntry | None:
    """Have a data file put together again; return what the manifest must say of it, None when it cannot be."""
    work, entry, rows = evidence.work, evidence.listed[name], evidence.expected(name)
    if rows is None or (entry is not None and entry.rows is not None and len(rows) != entry.rows):
        work.leave("checksum", f"{what}; without its provenance nothing tells what it was", name)
        return None
    data = DataFile(work.folder / name if name in evidence.scans else None, rows)
    how = _find_lines(evidence, data)
    if data.lost:
        work.stays += [
            Finding("row", "cannot be brought back", name, at + 1, data.id_at(at)) for at in data.lost
        ]  # fmt: skip
        return None
    content = data.content()
    if entry is None:
        entry = entry_of_lines(content, len(rows))
    elif mending.sha256_of(content) != entry.sha256:
        work.leave("checksum", f"{what}; put together from its rows it is another file", name)
        return None
    work.write(name, content, how, what=what)
    return entry


def _find_lines(evidence: Evidence, data: DataFile) -> str:
    """Look for the rows that a data file lost where they may be found; return how they were."""
    parts = []
    records = mending.records_of(evidence.provenance) if evidence.provenance is not None else ()
    if evidence.student is not None and (count := data.render(records, evidence.student)):
        parts.append(f"{count:,} rendered anew from provenance")
    if data.lost and (count := data.take_from(evidence.siblings.lines())):
        parts.append(f"{count:,} from other versions")
    data.trust_ids()
    if data.lost and (count := data.turn_back()):
        parts.append(f"{count:,} by turning a flipped bit back")
    return f"rows put in order: {', '.join(parts) or 'all of them are in the file'}"
