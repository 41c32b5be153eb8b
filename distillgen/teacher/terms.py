"""What terms and licences say about training on a teacher's outputs, kept as data in terms.toml. Not legal advice."""

import datetime
import functools
import hashlib
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from distillgen.errors import UsageError, nearest
from distillgen.files import canonical
from distillgen.teacher.providers import EMBEDDED, is_loopback, presets

Stance = Literal["allowed", "conditions", "unknown", "restricted", "prohibited"]
Purpose = Literal["evaluation", "research", "internal", "product", "open-weights"]
Competing = Literal["yes", "no", "unknown"]
STANCES: tuple[Stance, ...] = get_args(Stance)  # from the mildest to the strictest
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
COMPETING: tuple[Competing, ...] = get_args(Competing)
NOT_ADVICE = "This is a reading of public texts, not legal advice. Read the documents themselves."
UNKNOWN_ROUTE, UNKNOWN_MODEL = "unknown-route", "unknown-model"
MOST_QUOTED_WORDS = 25
MOST_NAME = 120  # of somebody's model or host, in an entry


class Condition(BaseModel):
    """What has to be done where something is allowed. `value` is what a card can carry out by itself.

    kind: name-prefix (of the student's name), attribution (a line to show), licence (that the student inherits),
    notice, policy (that binds the users), threshold (a size from which on it counts), purpose (the owner's own word).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["name-prefix", "attribution", "licence", "notice", "policy", "threshold", "purpose"]
    text: str = Field(min_length=1)
    value: str = ""
    purposes: tuple[Purpose, ...] = PURPOSES

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> "Condition":
        if self.kind in ("name-prefix", "attribution", "licence") and not self.value:
            raise ValueError(f"a condition of kind {self.kind} needs its `value`")
        return self


class Entry(BaseModel):
    """One document, as far as it speaks of outputs. The words are explained in terms.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    who: str = Field(min_length=1)
    provider: str = ""
    models: str = "."
    own_models: bool = False
    document: str = Field(min_length=1)
    section: str = ""
    effective: str = Field(default="", pattern=r"^(\d{4}(-\d\d){0,2})?$")
    url: str = Field(default="", pattern=r"^(https://\S+)?$")
    quote: str = ""
    stance: Stance
    reaches: tuple[Purpose, ...] = PURPOSES
    if_competing: bool = False
    conditions: tuple[Condition, ...] = ()
    note: str = ""
    quality: Literal["primary", "second-hand", "unread"]
    read: datetime.date | None = None
    review_by: datetime.date | None = None

    @field_validator("quote")
    @classmethod
    def _short(cls, quote: str) -> str:
        if len(quote.split()) > MOST_QUOTED_WORDS:
            raise ValueError(f"a quotation has at most {MOST_QUOTED_WORDS} words")
        return quote

    @field_validator("models")
    @classmethod
    def _is_expression(cls, models: str) -> str:
        re.compile(models)
        return models

    @model_validator(mode="after")
    def _agrees(self) -> "Entry":
        if (self.quality == "unread") != (self.read is None):
            raise ValueError("what was read has a date, and nothing else has")
        if self.quality == "unread" and self.stance != "unknown":
            raise ValueError("the stance of what nobody has read is unknown")
        if self.stance == "conditions" and not self.conditions:
            raise ValueError("conditions are not stated")
        if self.if_competing and self.stance != "restricted":
            raise ValueError("only a restriction can depend on competing")
        if not self.quote and not self.note and not self.conditions:
            raise ValueError("without a quotation a note says why")
        return self

    @property
    def is_route(self) -> bool:
        """Whether it is the terms of a provider, not the licence of a model."""
        return bool(self.provider)

    @property
    def digest(self) -> str:
        """The sha256 of the entry as canonical JSON: what an acceptance is an acceptance of."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()

    def is_overdue(self, today: datetime.date) -> bool:
        """Whether the day until which the reading is trusted is past."""
        return self.review_by is not None and today > self.review_by

    def facts(self) -> dict[str, Any]:
        """Return all of it as JSON, with its digest."""
        return {**self.model_dump(mode="json"), "digest": self.digest}


@functools.cache
def entries() -> dict[str, Entry]:
    """Return the reviewed table: every entry by its id."""
    table = tomllib.loads((Path(__file__).parent / "terms.toml").read_text(encoding="utf-8"))
    return {name: Entry(id=name, **entry) for name, entry in table.items()}


def entry_named(name: str) -> Entry | None:
    """Return the entry with an id, those that stand for what the table does not have among them; None without one."""
    unknown = {UNKNOWN_ROUTE: _unknown_route("any address"), UNKNOWN_MODEL: _unknown_model("any name")}
    return entries().get(name) or unknown.get(name)


def find(provider: str | None, model: str, base_url: str | None = None) -> tuple[Entry, ...]:
    """Return the entries that count for a teacher, the strictest first: terms of its route, licence of its model.

    The route is that of the preset and that of the provider whose host `base_url` has. A server of one's own (the
    embedded teacher, a preset without terms, an address on this machine) has none; another one is `unknown-route`.
    Without provider and address only the licence is looked for. A model that no licence matches is `unknown-model`,
    unless its provider serves models of its own. Of embedded weights, give the name in `Identity.model`.
    Raises UsageError for a provider that is not a preset.
    """
    name = model.lower()
    routes = _routes(provider, base_url)
    found = [
        entry
        for entry in entries().values()
        if (entry.provider in routes or not entry.provider) and re.search(entry.models, name)
    ]
    known = {entry.provider for entry in found}
    found += [_unknown_route(route) for route in routes if route not in known]
    if not any(entry.own_models or not entry.is_route for entry in found):
        found.append(_unknown_model(model))
    return tuple(sorted(found, key=lambda entry: -STANCES.index(entry.stance)))


def _routes(provider: str | None, base_url: str | None) -> list[str]:
    """Return the providers whose terms count; a host that nobody is known by stands for itself."""
    if provider and provider not in {*presets(), EMBEDDED}:
        raise UsageError(f"unknown provider {_cut(provider)!r}", fix=nearest(provider, {*presets(), EMBEDDED}))
    named = [provider] if provider and provider != EMBEDDED and presets()[provider].terms else []
    host = _host(base_url) if base_url else ""
    hosted = [
        preset.name
        for preset in presets().values()
        if preset.terms and f".{host}".endswith("." + (urlsplit(preset.base_url).hostname or ""))
    ]
    if not hosted and base_url and not provider and not is_loopback(host):
        return [host]
    return list(dict.fromkeys([*named, *hosted]))


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or _cut(url)
    except ValueError:
        return _cut(url)


def _cut(name: str) -> str:
    """Return somebody's name, short and without half characters, which no JSON can hold."""
    return name[:MOST_NAME].encode("utf-8", "backslashreplace").decode()


def _unknown_route(host: str) -> Entry:
    return Entry(
        id=UNKNOWN_ROUTE, who=_cut(host), provider=_cut(host), document="not in the table", stance="unknown",
        quality="unread", note="The table has no terms of this address.",
    )  # fmt: skip


def _unknown_model(model: str) -> Entry:
    return Entry(
        id=UNKNOWN_MODEL, who=_cut(model) or "no name", document="not in the table", stance="unknown",
        quality="unread",
        note="The table has no licence of a model of this name. If a host passes on another maker's model, the maker's "
        "terms may bind you as well.",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one entry means for a purpose. `conditions` are those that are due for it."""

    entry: Entry
    stance: Stance
    reason: str
    conditions: tuple[Condition, ...]
    is_accepted: bool

    def record(self) -> dict[str, Any]:
        """Return it as a manifest keeps it."""
        return {
            "verdict": self.stance,
            "reason": self.reason,
            "accepted": self.is_accepted,
            "due": [condition.model_dump(mode="json") for condition in self.conditions],
            "entry": self.entry.facts(),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all entries together mean for a purpose: each one's judgement, the strictest first."""

    judgements: tuple[Judgement, ...]

    @property
    def stance(self) -> Stance:
        """The strictest of all. An acceptance does not make it milder; without entries it is unknown."""
        return self.judgements[0].stance if self.judgements else "unknown"

    @property
    def reasons(self) -> list[str]:
        """Why, a sentence per entry, the strictest first."""
        return [judgement.reason for judgement in self.judgements]

    @property
    def conditions(self) -> list[Condition]:
        """What is due, each condition once."""
        return list(dict.fromkeys(condition for judgement in self.judgements for condition in judgement.conditions))

    def stops(self, *, strict: bool = False) -> list[str]:
        """Return the ids that have to be accepted first: restricted, prohibited, and, when strict, unknown ones."""
        worst = STANCES[STANCES.index("unknown" if strict else "restricted") :]
        return list(dict.fromkeys(j.entry.id for j in self.judgements if j.stance in worst and not j.is_accepted))


def judge(found: Iterable[Entry], purpose: Purpose, competing: Competing, accepted: Collection[str] = ()) -> Verdict:
    """Judge what the terms and licences of all teachers mean for a purpose. The rules, for each entry by itself:

    1. *unknown* stays unknown, whatever the purpose. Nothing makes it allowed.
    2. *allowed* is allowed for every purpose.
    3. *conditions*: allowed with those of its conditions that are due for the purpose; with none due, allowed.
    4. *restricted* and *prohibited*, where the clause does not reach the purpose (a ban on training does not reach a
       dataset that only evaluates): conditions, the first being that it stays at this purpose.
    5. *restricted* to what does not compete: by the owner's word `competing`: no, conditions, the first being that it
       stays true; yes, prohibited; unknown, restricted.
    6. *restricted* otherwise, and *prohibited*: as they are.
    7. `accepted` ids are marked as accepted. That changes what stops a build, not the stance.
    The strictest judgement is the verdict: prohibited, restricted, unknown, conditions, allowed. An entry that several
    teachers share counts once.
    """
    judged = [_judge(entry, purpose, competing, entry.id in accepted) for entry in _once(found)]
    return Verdict(tuple(sorted(judged, key=lambda judgement: -STANCES.index(judgement.stance))))


def _once(found: Iterable[Entry]) -> Iterator[Entry]:
    return iter({entry.digest: entry for entry in found}.values())


def _judge(entry: Entry, purpose: Purpose, competing: Competing, is_accepted: bool) -> Judgement:
    due = tuple(condition for condition in entry.conditions if purpose in condition.purposes)
    stance, reason, first = _by_the_rules(entry, purpose, competing, bool(due))
    conditions = (Condition(kind="purpose", text=first), *due) if first else due
    return Judgement(entry, stance, f"{entry.id} ({entry.who}): {reason}", conditions, is_accepted)


def _by_the_rules(entry: Entry, purpose: Purpose, competing: Competing, is_due: bool) -> tuple[Stance, str, str]:
    """Return the stance for a purpose, why, and a condition that lies in the owner's own word, or ""."""
    if entry.stance == "unknown":
        return "unknown", "not read" if entry.quality == "unread" else "what was read does not say", ""
    if entry.stance == "allowed":
        return "allowed", "allows training on its outputs", ""
    if entry.stance == "conditions":
        if is_due:
            return "conditions", f"allowed for the purpose {purpose}, on conditions", ""
        return "allowed", f"its conditions are not due for the purpose {purpose}", ""
    if purpose not in entry.reaches:
        return "conditions", f"the clause does not reach the purpose {purpose}", f"The purpose stays {purpose}."
    if not entry.if_competing:
        word = "forbids it without approval" if entry.stance == "prohibited" else "restricts it"
        return entry.stance, f"{word} for the purpose {purpose}", ""
    if competing == "no":
        return (
            "conditions",
            "restricts students that compete; the owner says that this one does not",
            f"The student does not compete with {entry.who}; that is the owner's own word.",
        )
    if competing == "yes":
        return "prohibited", "forbids students that compete; the owner says that this one does", ""
    return "restricted", "restricts students that compete; the owner has not said whether this one does", ""
