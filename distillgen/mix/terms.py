"""Under whose terms a mix stands: what the versions in it have on record, judged together for one purpose."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from distillgen.dataset.versions import Version
from distillgen.errors import TermsNotAccepted, UsageError, nearest
from distillgen.mix.parts import Part, teacher_names
from distillgen.settings import TermsSettings
from distillgen.teacher.terms import (
    COMPETING,
    PURPOSES,
    STANCES,
    UNKNOWN_MODEL,
    Competing,
    Entry,
    Judgement,
    Purpose,
    Verdict,
    entries,
    judge,
)
from distillgen.terms import Terms

COMPETING_FROM_MILDEST: tuple[Competing, ...] = ("no", "unknown", "yes")
assert set(COMPETING_FROM_MILDEST) == set(COMPETING)


@dataclass(frozen=True)
class Said:
    """What the owner says of the mix. By default the purpose is the narrowest that a part was made for, and each part
    is judged by what was said of `competing` when it was made: the owners of its teachers are others."""

    purpose: Purpose | None = None
    competing: Competing | None = None
    accept: tuple[str, ...] = ()


@dataclass(frozen=True)
class MixedTerms:
    """The terms of all parts: `terms` of all together, `stances` of each, and what was accepted before."""

    terms: Terms
    stances: Mapping[str, str]
    accepted: Mapping[str, Any]

    @property
    def stops(self) -> list[str]:
        """The ids of entries that have to be accepted before anything is published."""
        return self.terms.verdict.stops(strict=self.terms.settings.strict)

    def require(self, where: str = "", instead: str = "leave that version out") -> None:
        """Raise TermsNotAccepted unless everything that stops it is accepted; `instead` is what else could be done."""
        if not (stops := self.stops):
            return
        verdict, purpose = self.terms.verdict, self.terms.settings.purpose
        reasons = "; ".join(each.reason for each in verdict.judgements if each.entry.id in stops)
        raise TermsNotAccepted(
            f"terms are {verdict.stance} for the purpose {purpose}: {reasons}",
            where=where,
            fix=f"`distillgen terms {stops[0]}` quotes them; state --purpose and --competing, {instead}, or take it "
            f"upon yourself: {' '.join(f'--accept {each}' for each in stops)}",
        )

    def record(self, date: str, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return it as a manifest keeps it. Acceptances keep the dates they have in the parts, or in `before`, the
        record of the version before."""
        known = {"accepted": {**before.get("accepted", {}), **self.accepted}}
        return {**self.terms.record(date, known), "stances": dict(self.stances)}


@dataclass(frozen=True)
class OnRecord:
    """What something that was made of teachers' answers has on record: a version, or a student.

    `teachers` are their names there -> what they are called in the whole.
    """

    label: str
    terms: Mapping[str, Any]
    teachers: Mapping[str, str]


def weigh_parts(parts: Sequence[Part], said: Said) -> MixedTerms:
    """Judge the entries that the parts have on record. Raises UsageError for an id that no entry has."""
    named = zip(parts, teacher_names(parts), strict=True)
    return weigh_records([on_record(part.version, new) for part, new in named], said)


def on_record(version: Version, names: Mapping[str, str]) -> OnRecord:
    """Return what a version has on record, its teachers under the names that they get in the whole."""
    manifest = version.manifest
    return OnRecord(version.label, manifest.terms, {name: names.get(name, name) for name in manifest.teachers})


def weigh_records(parts: Sequence[OnRecord], said: Said) -> MixedTerms:
    """Judge the entries of all that is on record. Raises UsageError for an id that no entry has."""
    records = [part.terms for part in parts]
    narrowest = min((_purpose(each) for each in records), key=PURPOSES.index)
    most_careful = max((_competing(each) for each in records), key=COMPETING_FROM_MILDEST.index)
    purpose = said.purpose or narrowest
    dates = _dates(records)
    by_part: dict[str, Verdict] = {}
    teachers: dict[str, Verdict] = {}
    for part, record in zip(parts, records, strict=True):
        competing = said.competing or _competing(record)
        judged = {}
        for name, found in _entries_of(part).items():
            is_accepted = [each.id for each in found if each.id in said.accept or each.digest in dates.get(each.id, {})]
            judged[name] = judge(found, purpose, competing, is_accepted)
        by_part[part.label] = _strictest(judged.values())
        teachers |= {part.teachers.get(name, name): verdict for name, verdict in judged.items()}
    whole = _strictest(by_part.values())
    _require_known(said.accept, whole)
    settings = TermsSettings(
        purpose=purpose,
        competing=said.competing or most_careful,
        note=" ".join(dict.fromkeys(each["note"] for each in records if each.get("note"))),
        accept=[each.entry.id for each in whole.judgements if each.is_accepted],
        strict=any(each.get("strict") for each in records),
    )
    stances = {label: each.stance for label, each in by_part.items()}
    return MixedTerms(Terms(settings, whole, teachers), stances, _acceptances(dates, whole))


def _purpose(record: Mapping[str, Any]) -> Purpose:
    default: Purpose = TermsSettings().purpose
    return record["purpose"] if record.get("purpose") in PURPOSES else default


def _competing(record: Mapping[str, Any]) -> Competing:
    return record["competing"] if record.get("competing") in COMPETING else "unknown"


def _entries_of(part: OnRecord) -> dict[str, list[Entry]]:
    """Return the entries of each teacher as they were when the version was made; where none are on record, unknown."""
    found = {
        name: [_entry(each["entry"]) for each in judged]
        for name, judged in part.terms.get("teachers", {}).items()
        if judged
    }
    nameless = [name for name in part.teachers if name not in found]
    if not found:
        nameless = nameless or [part.label.partition("@")[0]]
    return {**found, **{name: [_nothing_on_record(part.label)] for name in nameless}}


def _entry(facts: Mapping[str, Any]) -> Entry:
    """Return an entry as it was recorded; one that this distillgen cannot read, as the table has it now."""
    try:
        return Entry.model_validate({key: value for key, value in facts.items() if key != "digest"})
    except ValidationError:
        return entries().get(str(facts.get("id"))) or _nothing_on_record(str(facts.get("who", "somebody")))


def _nothing_on_record(who: str) -> Entry:
    return Entry(
        id=UNKNOWN_MODEL, who=who, document="not on record", stance="unknown", quality="unread",
        note="The version has no record of the terms under which it was made.",
    )  # fmt: skip


def _strictest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return all judgements, the strictest first; of several of one entry, the strictest."""
    found: dict[str, Judgement] = {}
    for each in sorted((each for verdict in verdicts for each in verdict.judgements), key=_from_strictest):
        found.setdefault(each.entry.digest, each)
    return Verdict(tuple(found.values()))


def _from_strictest(judgement: Judgement) -> int:
    return -STANCES.index(judgement.stance)


def _dates(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return all acceptances on record: of each id the digests of the entries that were accepted under it, which are
    several for `unknown-model`, say, each with the date of the first time."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        for name, value in record.get("accepted", {}).items():
            dates = found.setdefault(name, {})
            for digest in {value["digest"], *value.get("digests", ())}:
                dates[digest] = min(value["date"], dates.get(digest, value["date"]))
    return found


def _acceptances(dates: Mapping[str, Mapping[str, str]], whole: Verdict) -> dict[str, Any]:
    """Return the acceptances as a manifest has them, of the entries that count: all of an id were accepted on the day
    of the last of them."""
    found: dict[str, Any] = {}
    for name, by_digest in dates.items():
        counted = {each.entry.digest for each in whole.judgements if each.entry.id == name}
        if digests := sorted(counted & by_digest.keys()):
            found[name] = {"digest": digests[0], "date": max(by_digest[each] for each in digests), "digests": digests}
    return found


def _require_known(accept: Sequence[str], whole: Verdict) -> None:
    known = {each.entry.id for each in whole.judgements}
    for name in accept:
        if name not in known:
            raise UsageError(
                f"no version here has the terms {name[:120]!r}", where="--accept", fix=nearest(name, known)
            )
