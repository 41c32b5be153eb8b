"""Whether everybody may read a version, by the terms that it was made under."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, TermsNotAccepted, UsageError, nearest
from distillgen.teacher.terms import COMPETING, Entry, Purpose, Verdict, judge

PURPOSE: Purpose = "open-weights"  # what everybody can read, anybody can train a student on and give away


def require_public(version: Version, accept: Collection[str] = ()) -> Verdict:
    """Return what the terms on record mean where everybody may read a version: they are judged for `open-weights`.

    What the recipe accepted counts, and what `accept` names. Raises TermsNotAccepted where terms are restricted or
    prohibited (or unknown, if the recipe was strict) and nobody accepted them, UsageError for an id in `accept` that
    is not among them, Damaged where the record cannot be read.
    """
    terms = version.manifest.terms
    try:
        found = list(_entries(terms))
        competing = terms.get("competing", "unknown")
        known = {entry.id for entry in found}
        accepted = {*terms.get("accepted", {}), *accept}
    except (ValidationError, KeyError, TypeError, AttributeError):
        raise Damaged(f"the terms of {version.label} cannot be read", where=str(version.folder)) from None
    if wrong := sorted(set(accept) - known):
        raise UsageError(f"{wrong[0]!r} is not among the terms of {version.label}", fix=nearest(wrong[0], known))
    verdict = judge(found, PURPOSE, competing if competing in COMPETING else "unknown", accepted)
    is_strict = bool(terms.get("strict"))
    if stops := verdict.stops(strict=is_strict):
        reasons = "; ".join(each.reason for each in verdict.judgements if each.entry.id in stops)
        raise TermsNotAccepted(
            f"{version.label} was made for the purpose {terms.get('purpose', 'unknown')}; where everybody may read it, "
            f"its terms are {verdict.stance}: {reasons}",
            fix=f"`distillgen terms {stops[0]}` quotes them; leave --public out, or take it upon yourself: "
            + " ".join(f"--accept {each}" for each in stops),
        )  # fmt: skip
    if is_strict and not found:
        raise TermsNotAccepted(f"no terms are on record for {version.label}", fix="leave --public out")
    return verdict


def _entries(terms: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield the entries that stand whole in a manifest."""
    for judgements in terms.get("teachers", {}).values():
        for each in judgements:
            yield Entry.model_validate({name: value for name, value in each["entry"].items() if name != "digest"})
