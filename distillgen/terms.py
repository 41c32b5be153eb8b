"""Reads what a recipe is for against the terms of its teachers: what stops a build, what is only told and recorded."""

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from distillgen.errors import Problem, TermsNotAccepted, nearest
from distillgen.recipe import Recipe, Source
from distillgen.settings import TermsSettings
from distillgen.teacher.identity import identify
from distillgen.teacher.terms import NOT_ADVICE, UNKNOWN_MODEL, UNKNOWN_ROUTE, Entry, Verdict, entries, find, judge


@dataclass(frozen=True)
class Terms:
    """What the terms of all teachers mean for a recipe: of all together, and of each."""

    settings: TermsSettings
    verdict: Verdict
    teachers: Mapping[str, Verdict]

    def require(self) -> None:
        """Raise TermsNotAccepted unless everything that stops a build is accepted."""
        stops = self.verdict.stops(strict=self.settings.strict)
        if not stops:
            return
        reasons = [each.reason for each in self.verdict.judgements if each.entry.id in stops]
        accepted = ", ".join(f'"{each}"' for each in [*self.settings.accept, *stops])
        raise TermsNotAccepted(
            f"terms are {self.verdict.stance} for the purpose {self.settings.purpose}: {'; '.join(reasons)}",
            fix=f"`distillgen terms {stops[0]}` quotes them; state `purpose` and `competing` under [terms], choose "
            f"another teacher, or take it upon yourself: [terms] accept = [{accepted}]",
        )  # fmt: skip

    def outlook(self) -> dict[str, Any]:
        """Return what a plan says of them."""
        return {
            "purpose": self.settings.purpose,
            "competing": self.settings.competing,
            "stance": self.verdict.stance,
            "reasons": self.verdict.reasons,
            "conditions": [each.text for each in self.verdict.conditions],
            "stops": self.verdict.stops(strict=self.settings.strict),
            "teachers": {name: found.stance for name, found in self.teachers.items()},
            "advice": NOT_ADVICE,
        }

    def warnings(self, today: datetime.date, before: Mapping[str, Any]) -> list[Problem]:
        """Return what somebody should know before a build: terms that nobody has read, conditions, old readings, and
        what is not as it was when it was accepted, by `before`, the record of the newest version."""
        told = []
        known = before.get("accepted", {})
        for each in self.verdict.judgements:
            if each.stance == "unknown":
                told.append(Problem(f"terms unknown: {each.reason}", fix=f"distillgen terms {each.entry.id}"))
            if each.is_accepted:
                told.append(Problem(f"terms accepted by you: {each.reason}"))
            if each.entry.is_overdue(today):
                told.append(Problem(f"terms of {each.entry.id} were read on {each.entry.read}: read them anew"))
        for name, digests in self._accepted().items():
            if name in known and not _covers(known[name], digests):
                fix = f"read `distillgen terms {name}`, then leave it in `accept` or take it out"
                told.append(
                    Problem(f"{name} is not what it was when you accepted it on {known[name]['date']}", fix=fix)
                )
        told += [Problem(f"a condition of the terms: {each.text}") for each in self.verdict.conditions]
        return told

    def record(self, date: str, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return it as a manifest keeps it. An acceptance keeps the date it has in `before`, the parent's record, as
        long as the entry is the same."""
        known = before.get("accepted", {})
        accepted: dict[str, dict[str, Any]] = {}
        for name, digests in self._accepted().items():
            is_same = name in known and _covers(known[name], digests)
            accepted[name] = {"digest": digests[0], "date": known[name]["date"] if is_same else date}
            if len(digests) > 1:
                accepted[name]["digests"] = digests
        return {
            **self.settings.model_dump(mode="json", exclude={"accept"}),
            "stance": self.verdict.stance,
            "accepted": accepted,
            "conditions": [each.model_dump(mode="json") for each in self.verdict.conditions],
            "teachers": {name: [each.record() for each in found.judgements] for name, found in self.teachers.items()},
            "advice": NOT_ADVICE,
        }

    def _accepted(self) -> dict[str, list[str]]:
        """Return the accepted ids, and the digests of what each stands for: `unknown-model` for several models, say."""
        found: dict[str, set[str]] = {}
        for each in self.verdict.judgements:
            if each.is_accepted:
                found.setdefault(each.entry.id, set()).add(each.entry.digest)
        return {name: sorted(digests) for name, digests in found.items()}


def _covers(acceptance: Mapping[str, Any], digests: Collection[str]) -> bool:
    """Say whether an acceptance on record is one of all these entries, as they are."""
    return {acceptance["digest"], *acceptance.get("digests", ())} >= set(digests)


def weigh(recipe: Recipe, source: Source, used: Collection[str]) -> Terms:
    """Read the terms of the teachers that are used."""
    settings = recipe.terms
    found: dict[str, tuple[Entry, ...]] = {}
    for name in sorted(used):
        teacher = recipe.teachers[name]
        found[name] = find(teacher.provider, identify(name, teacher, source.folder).model, teacher.base_url)

    def verdict(these: Collection[Entry]) -> Verdict:
        return judge(these, settings.purpose, settings.competing, settings.accept)

    every = [entry for each in found.values() for entry in each]
    return Terms(settings, verdict(every), {name: verdict(each) for name, each in found.items()})


def wrong_terms(settings: TermsSettings, source: Source) -> list[Problem]:
    """Return what is wrong with the [terms] of a recipe: entries that there are not."""
    known = [*entries(), UNKNOWN_ROUTE, UNKNOWN_MODEL]
    return [
        source.problem(f"no entry {name!r} in the table of terms", ("terms", "accept", number), nearest(name, known))
        for number, name in enumerate(settings.accept)
        if name not in known
    ]


def says_other_terms(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a manifest's record of terms no longer tells what the owner says: what for, what is accepted, and so on.

    A table of terms that is read anew does not count, nor does the date of an acceptance.
    """
    said = ("purpose", "competing", "note", "stance")
    return bool(before) and (
        any(before.get(name) != now.get(name) for name in said)
        or set(before.get("accepted", ())) != set(now.get("accepted", ()))
    )
