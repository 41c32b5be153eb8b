"""Whether the terms of a version's teachers let a student be trained on it, and what they ask of the student."""

import datetime
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distillgen.dataset.manifest import FILE_NAME
from distillgen.dataset.seal import has_seal, seal_holds
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged
from distillgen.mix.terms import MixedTerms, OnRecord, Said, on_record, weigh_records
from distillgen.student.manifest import StudentManifest
from distillgen.teacher.terms import entries

INSTEAD = "train on another dataset, or another base"


def require_allowed(version: Version, said: Said) -> None:
    """See that the version's own terms let a student be trained on it, before a base is looked for.

    Raises what `allowed` raises, but for an id that is known and may be the base's.
    """
    known = {each.entry.id for each in _weighed(version, None, replace(said, accept=())).terms.verdict.judgements}
    accepted = tuple(each for each in said.accept if each in known or each not in entries())
    _weighed(version, None, replace(said, accept=accepted)).require(version.label, INSTEAD)


def allowed(version: Version, base: StudentManifest | None, said: Said) -> dict[str, Any]:
    """Return the terms as the student's manifest keeps them, judged for what the owner says now.

    Where the base was distilled itself, the terms of its teachers count as well. By default the purpose is the
    narrowest that the version, or the base, was made for. Raises TermsNotAccepted where they stop training
    on it and nobody has accepted that, UsageError for an id that no entry has, Damaged where the record is not as it
    was written.
    """
    weighed = _weighed(version, base, said)
    weighed.require(version.label, INSTEAD)
    before = version.manifest.terms if base is None else {}
    return weighed.record(datetime.date.today().isoformat(), before)


def _weighed(version: Version, base: StudentManifest | None, said: Said) -> MixedTerms:
    path = version.folder / FILE_NAME
    content = path.read_bytes()
    if has_seal(content) and not seal_holds(content):
        raise Damaged("is not as it was written: its seal does not hold", where=str(path), fix="distillgen repair")
    records = [on_record(version, {})]
    if base is not None:
        names = {name: f"{base.name}.{name}" if name in records[0].teachers else name for name in base.teachers}
        records.append(OnRecord(f"{base.name}, the base", base.terms, names))
    return weigh_records(records, said)


def required_names(terms: Mapping[str, Any]) -> list[str]:
    """Return with what the student's name has to begin, by the conditions on record."""
    conditions = terms.get("conditions", ())
    names = (str(each["value"]) for each in conditions if each.get("kind") == "name-prefix" and each.get("value"))
    return list(dict.fromkeys(names))
