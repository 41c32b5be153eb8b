"""Whether the terms of a version's teachers let a student be trained on it, and what they ask of the student."""

import datetime
from collections.abc import Mapping
from typing import Any

from distillgen.dataset.manifest import FILE_NAME
from distillgen.dataset.seal import has_seal, seal_holds
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged
from distillgen.mix.parts import Part
from distillgen.mix.terms import Said, weigh_parts


def allowed(version: Version, said: Said) -> dict[str, Any]:
    """Return the terms as the student's manifest keeps them, judged for what the owner says now.

    By default the purpose is the one that the version was made for. Raises TermsNotAccepted where they stop training
    on it and nobody has accepted that, UsageError for an id that no entry has, Damaged where the record is not as it
    was written.
    """
    path = version.folder / FILE_NAME
    content = path.read_bytes()
    if has_seal(content) and not seal_holds(content):
        raise Damaged("is not as it was written: its seal does not hold", where=str(path), fix="distillgen repair")
    weighed = weigh_parts([Part(version, 1, 1.0)], said)
    weighed.require(version.label, "train on another dataset")
    return weighed.record(datetime.date.today().isoformat(), version.manifest.terms)


def required_names(terms: Mapping[str, Any]) -> list[str]:
    """Return with what the student's name has to begin, by the conditions on record."""
    conditions = terms.get("conditions", ())
    names = (str(each["value"]) for each in conditions if each.get("kind") == "name-prefix" and each.get("value"))
    return list(dict.fromkeys(names))
