"""The story of one row: from its seed, step by step, to its split, or to the step that left it out and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distillgen.dataset.figures import Spent, replies_of, usd_of
from distillgen.dataset.looking import records_of, training_rows
from distillgen.dataset.versions import Version
from distillgen.errors import NotFound
from distillgen.excluded import FORGOTTEN, covers
from distillgen.files import dumps

FATES = ("provenance", "rejected", "failed")


@dataclass(frozen=True)
class Story:
    """One row's record, and what became of it: published, rejected or failed. `training` is what the student sees.

    `usd` is what the replies behind it cost at the prices on record, None where one of these is not known.
    """

    fate: str
    record: Mapping[str, Any]
    training: Mapping[str, Any] | None = None
    usd: float | None = None

    @property
    def end(self) -> str:
        """How it ended, in words."""
        record = self.record
        if self.fate == "published":
            return f"published in split {record['split']}"
        if record.get("rule") == FORGOTTEN:
            return f"forgotten: {record['detail']}; what it held is gone from the dataset and the stored answers"
        reason = record["rule"] if self.fate == "rejected" else record["cause"]
        return f"{self.fate} by {record['step']}: {reason}: {record['detail']}"

    def lines(self) -> Iterator[str]:
        """Yield the story, a line for each thing that happened."""
        record = self.record
        made = f", made from {record['parent']}" if record.get("parent") else ""
        yield f"seed {record['origin']}{made}"
        for step in record["steps"]:
            yield f"{step['step']}: {_told(step)}"
        if any(_paid(record)):
            yield f"cost {'unknown: no price on record' if self.usd is None else f'${self.usd:.6f}'}"
        yield self.end
        for column, value in record["columns"].items():
            yield f"  {column}: {value if isinstance(value, str) else dumps(value)}"


def _told(step: Mapping[str, Any]) -> str:
    """Return what a step noted, on one line: who answered first, then the rest as it stands on record."""
    told = []
    if "teacher" in step:
        answered = f" as {step['model']}" if step.get("model") else ""
        told.append(f"{step['teacher']}{answered} to prompt {step.get('prompt')}, {step.get('finish_reason')}")
    if tokens := step.get("tokens"):
        told.append(f"{tokens['prompt']:,} tokens in, {tokens['completion']:,} out")
    known = {"step", "teacher", "model", "prompt", "finish_reason", "tokens"}
    rest = {name: value for name, value in step.items() if name not in known and value not in (None, False, [])}
    told += [f"{name} {value if isinstance(value, str) else dumps(value)}" for name, value in rest.items()]
    return "; ".join(told) or "passed"


def stories_of(version: Version, wanted: str) -> list[Story]:
    """Return the stories of the row with an id; or, of a seed's or parent's id, those of all that was made from it.

    Raises NotFound when the version knows no such row.
    """
    found = [story for story in _all(version) if _is_meant(story.record, wanted)]
    exact = [story for story in found if story.record["id"] == wanted]
    stories = exact or found
    if not stories:
        raise NotFound(
            f"{version.label} knows no row {wanted!r}", where=str(version.folder),
            fix="ids are in the first column of `distillgen show NAME`; a row that was merged into another has its id",
        )  # fmt: skip
    return _with_training(version, stories)


def _all(version: Version) -> Iterator[Story]:
    for name in FATES:
        fate = "published" if name == "provenance" else name
        for record in records_of(version, name):
            yield Story(fate, record)


def _is_meant(record: Mapping[str, Any], wanted: str) -> bool:
    if record.get("rule") == FORGOTTEN and covers(wanted, record["id"]):
        return True  # of a seed that was erased, none of its rows has a record of its own
    return wanted in (record["id"], record["origin"], record.get("parent")) or record["id"].startswith(f"{wanted}.")


def _with_training(version: Version, stories: list[Story]) -> list[Story]:
    """Return the stories, those of published rows with what the student sees; each split is read once."""
    wanted = {(each.record["split"], each.record["id"]) for each in stories if each.fate == "published"}
    found: dict[str, Mapping[str, Any]] = {}
    for split in dict.fromkeys(split for split, _ in sorted(wanted)):
        if split in version.manifest.splits:
            ids = {row_id for where, row_id in wanted if where == split}
            for row in training_rows(version, split):
                if row["id"] in ids:
                    found[row["id"]] = row
                    ids.remove(row["id"])
                    if not ids:
                        break
    return [  # of a mix, a row that was left out may have the id of one that was not
        Story(
            each.fate, each.record, found.get(each.record["id"]) if each.fate == "published" else None,
            _cost(version, each.record),
        ) for each in stories
    ]  # fmt: skip


def _paid(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the replies behind a record that have tokens: one that made several rows stands behind each."""
    for step in record["steps"]:
        yield from (reply for reply in replies_of(step) if reply.get("tokens"))


def _cost(version: Version, record: Mapping[str, Any]) -> float | None:
    costs: list[float | None] = []
    for reply in _paid(record):
        spent = Spent()
        spent.add(reply["tokens"])
        costs.append(usd_of(version, reply.get("teacher") or reply["judge"], spent))
    known = [usd for usd in costs if usd is not None]
    return sum(known) if len(known) == len(costs) else None
