"""The remedy for a damaged version: from what its manifest still says to a list of all that is to be done.

Nothing is changed here: the outcome is a list of actions, each with what it says to people. A file is taken for mended
only where a checksum says so: the manifest's for the whole file, provenance's for a line, the seal for the manifest.
"""

from dataclasses import dataclass

import orjson

from distillgen.dataset.manifest import FILE_NAME, FileEntry, Manifest
from distillgen.upkeep import mending
from distillgen.upkeep.check import check_files, is_regular
from distillgen.upkeep.data_files import mend_data
from distillgen.upkeep.evidence import CARD, Evidence
from distillgen.upkeep.findings import DATA_FILE, PROVENANCE, REJECTED, shown
from distillgen.upkeep.manifest_again import finish
from distillgen.upkeep.manifests import Salvaged, entry_of, is_manifest, salvage
from distillgen.upkeep.siblings import Siblings
from distillgen.upkeep.sidecars import mend_sidecar
from distillgen.upkeep.whole_files import is_found_again
from distillgen.upkeep.worklist import Worklist

FAILED = "failed.jsonl.zst"


@dataclass(frozen=True)
class Remedy:
    """One damaged version: `plan` fills its list of work.

    `own` is its manifest, where one is known, which may stand in another version's folder; `with_loss` lets go of what
    nothing brings back.
    """

    work: Worklist
    siblings: Siblings
    own: bytes | None
    with_loss: bool
    date: str

    def plan(self) -> None:
        """Find out what mends the version."""
        content = self._manifest_bytes()
        if content is not None and self._is_of_another():
            self._mend_misplaced(content)
        elif content is not None and not self._is_manifest_wrong():
            self._mend_files(Salvaged(orjson.loads(content)))
            self._keep_what_stays()
        elif content is not None and (restored := mending.unflipped_manifest(content)) and is_manifest(restored):
            self.work.write(FILE_NAME, mending.of_bytes(restored), "the one flipped bit is turned back")
            self._mend_files(Salvaged(orjson.loads(restored)))
        else:
            found = salvage(content or b"", self.siblings.manifests())
            self._mend_files(found, is_rebuilt=True)

    def _manifest_bytes(self) -> bytes | None:
        if not is_regular(self.work.there.get(FILE_NAME)):
            return None
        return (self.work.folder / FILE_NAME).read_bytes()

    def _is_manifest_wrong(self) -> bool:
        findings = self.work.checked.findings
        return any(each.kind in ("manifest", "unreadable") and each.file == FILE_NAME for each in findings)

    def _is_of_another(self) -> bool:
        findings = self.work.checked.findings
        return not self._is_manifest_wrong() and any(each.kind == "place" for each in findings)

    def _mend_misplaced(self, content: bytes) -> None:
        """Mend a version whose folder has a manifest of another: its files are not measured by that.

        Its own comes back where it is known and the files agree with it. Else nothing tells whether the manifest or
        the folder was moved, and nothing is done.
        """
        if self.own is not None and self.own != content:
            manifest = Manifest.model_validate(orjson.loads(self.own))
            if all(each.kind == "stray" for each in check_files(manifest, self.work.there)):
                how = "has its own again, which stood in another version's folder"
                self.work.write(FILE_NAME, mending.of_bytes(self.own), how)
                self.work.put_strays_aside(manifest.files)
                return
        if orjson.loads(content).get("version") == int(self.work.folder.name[1:]):  # a dataset by another name
            self._mend_files(Salvaged(orjson.loads(content)))
            self._keep_what_stays()
            return
        self.work.stays += self.work.checked.findings

    def _keep_what_stays(self) -> None:
        """Note what a sound manifest says wrongly of itself: somebody wrote it so."""
        own = {"count", "digest", "place"}
        findings = self.work.checked.findings
        self.work.stays += [each for each in findings if each.file == FILE_NAME and each.kind in own]

    def _mend_files(self, found: Salvaged, *, is_rebuilt: bool = False) -> None:
        """Settle each file, the card last but one, and the manifest where it must be another."""
        evidence = Evidence(self.work, self.siblings, found)
        names = sorted(evidence.listed.keys() - {CARD}, key=_urgency)
        entries = {name: self._settled(evidence, name) for name in names}
        missing = [name for name, entry in entries.items() if entry is None]
        if is_rebuilt:
            missing += [f"data of split {shown(split)}" for split in evidence.splits_without_file]
        rows = [name for name in missing if name not in (REJECTED, FAILED)]
        if rows and is_rebuilt and not found.table:
            self.work.put_whole_aside(rows)
            return
        if missing and is_rebuilt:
            self.work.leave("manifest", "is damaged, and cannot be made anew while files are", FILE_NAME)
            return
        self.work.put_strays_aside(evidence.listed)
        settled = {name: entry or evidence.listed[name] for name, entry in entries.items()}
        known = {name: entry for name, entry in settled.items() if entry is not None}
        finish(evidence, known, self.date, is_rebuilt=is_rebuilt)

    def _settled(self, evidence: Evidence, name: str) -> FileEntry | None:
        """Return what the manifest must say of a file once it is mended; None when it cannot be."""
        entry = evidence.listed[name]
        if evidence.is_as_published(name):
            return entry
        if entry is None and evidence.is_sound(name):
            return entry_of(evidence.scans[name], name)
        what = self.work.what_is_wrong(name)
        if entry is not None and is_found_again(evidence, name, entry, what):
            return entry
        if DATA_FILE.fullmatch(name):
            return mend_data(evidence, name, what)
        if name.endswith(".zst"):
            return mend_sidecar(evidence, name, what, with_loss=self.with_loss)
        self.work.leave("checksum", "is damaged, and nothing tells what it was", name)
        return None


def _urgency(name: str) -> tuple[bool, bool, str]:
    """Order files: provenance first, which says what the data are; then data, which cards show; then the rest."""
    return name != PROVENANCE, not name.startswith("data/"), name
