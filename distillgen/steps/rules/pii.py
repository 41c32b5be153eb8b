"""Rule `pii`: personal data and secrets, refused or masked. How each kind is found is in pii_kinds.py."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from distillgen.rows import Row
from distillgen.steps.rules.pii_kinds import FINDERS, numbers_in
from distillgen.steps.rules.verdict import Context, Mended, RuleProblem, Verdict
from distillgen.steps.text import as_text

_NAMES = {
    "key": "a key",
    "iban": "an IBAN",
    "card": "a card number",
    "ssn": "a US social security number",
    "ip": "an IP address",
    "phone": "a phone number",
    "email": "an e-mail address",
}


class Found(NamedTuple):
    """A piece of personal data in a text: its kind and where it stands."""

    start: int
    end: int
    kind: str


def pii(
    row: Row,
    *,
    column: str,
    kinds: list[str] = [],  # noqa: B006  (never changed)
    action: Literal["drop", "mask"] = "drop",
) -> Verdict:
    """Refuse texts with personal data or secrets, or mask them as `[EMAIL]`, `[PHONE]`, ...

    `kinds` (default all): `key` (keys and tokens by their makers' prefixes, private keys, JWT), `iban` (checksum),
    `card` (issuer's range and Luhn), `ssn` (US), `ip` (public addresses), `phone` (international, and the common
    national forms of the US, UK, France, Germany, Brazil, China, Japan and India), `email`. Prefixes follow gitleaks'
    rules (https://github.com/gitleaks/gitleaks), the rest RFC 2606, 5737 and 3849, ISO 13616, ISO/IEC 7812, NANPA and
    Ofcom. Examples that belong to nobody survive, see pii_kinds.py. The reason shows a value shortened and partly
    hidden.
    """
    wanted = kinds or list(FINDERS)
    value = row.columns.get(column)
    found = [(text, each) for text in _texts(value) for each in _find(text, wanted)]
    if not found:
        return None
    text, first = found[0]
    reason = f"{column} holds {_NAMES[first.kind]}: {_hidden(text[first.start : first.end], first.kind)!r}"
    if action == "drop":
        return reason
    counts: Counter[str] = Counter()
    masked = _masked(value, wanted, counts)
    if counts.total() < len(found):  # a number cannot become a word
        return f"{reason}, which cannot be masked"
    return Mended({column: masked}, {"masked": dict(sorted(counts.items()))})


def check_pii(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for a kind that there is not."""
    for kind in given.get("kinds", []):
        if kind not in FINDERS:
            raise RuleProblem(f"rule 'pii': unknown kind {kind!r}", "kinds", f"known: {', '.join(FINDERS)}")


def _texts(value: Any) -> Iterator[str]:
    """Yield the strings and numbers of a column's value, each as it is: escaped as JSON, words would touch them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _texts(part)
    else:
        yield as_text(value)


def _find(text: str, kinds: Sequence[str]) -> list[Found]:
    """Return what was found, in order; two that overlap become one, of the kind that FINDERS names first."""
    numbers = numbers_in(text)
    taken = [Found(*span, kind) for kind, finder in FINDERS.items() if kind in kinds for span in finder(text, numbers)]
    if len(taken) < 2:
        return taken
    order = {kind: place for place, kind in enumerate(FINDERS)}
    kept: list[Found] = []
    for found in sorted(taken, key=lambda found: (found.start, order[found.kind])):
        if not kept or found.start >= kept[-1].end:
            kept.append(found)
        else:
            kind = min(found.kind, kept[-1].kind, key=order.__getitem__)
            kept[-1] = Found(kept[-1].start, max(found.end, kept[-1].end), kind)
    return kept


def _masked(value: Any, kinds: Sequence[str], counts: Counter[str]) -> Any:
    """Return a column's value with what was found replaced, in the strings of lists and objects too."""
    if isinstance(value, str):
        parts, end = [], 0
        for found in _find(value, kinds):
            parts += [value[end : found.start], f"[{found.kind.upper()}]"]
            end = found.end
            counts[found.kind] += 1
        return "".join([*parts, value[end:]])
    if isinstance(value, list):
        return [_masked(part, kinds, counts) for part in value]
    if isinstance(value, dict):
        return {_masked(key, kinds, counts): _masked(part, kinds, counts) for key, part in value.items()}
    return value


def _hidden(value: str, kind: str) -> str:
    """Return a value so that its owner would know it and nobody else: `al…@e…`, `+4…67`, `sk-p…`."""
    if kind == "email":
        local, _, domain = value.partition("@")
        return f"{local[: min(2, len(local) - 1)]}…@{domain[0]}…"
    if kind == "key":
        return "private key" if value.startswith("-----") else value[:4] + "…"
    return f"{value[:2]}…{value[-2:]}"
