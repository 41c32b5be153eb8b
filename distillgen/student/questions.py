"""What a student is asked when it is measured: the rows of a file, with gold answers or without, or a split of its
version; without what it was trained on."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from distillgen.dataset.figures import answer_of, prompt_of
from distillgen.dataset.looking import records_of, training_rows
from distillgen.dataset.publication import SIDECARS
from distillgen.dataset.training_rows import StudentTemplates, training_row
from distillgen.dataset.versions import Version
from distillgen.errors import SeedsEmpty, SeedsInvalid, UsageError, nearest
from distillgen.files import canonical, digest, file_sha256
from distillgen.prompts import Template
from distillgen.rows import Rejection, Row
from distillgen.seeds import SeedReader
from distillgen.settings import SeedSettings
from distillgen.steps.text import as_text, normalise
from distillgen.student.order import split_to_train, split_to_watch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Texts: TypeAlias = Callable[[], Iterable[str]]
GOLD = "gold"
NEAR = 0.5  # Jaccard similarity of word 3-grams from which on a question is one of those that were trained on
HELD = 0.8  # share of a question's 3-grams that a longer prompt has, from which on it holds the question
FEW = 5  # 3-grams of a question that are too few to tell a share from chance
STOCK, STOCK_SHARE = 10, 0.05  # a 3-gram of more questions than either is part of the template
BLOCK = 2000  # prompts that are compared together
LINES = "mend these lines, or leave them out of the file"
UNCHECKED = (
    "the dataset that the student was trained on is not here: questions that are in its training data could not be "
    "left out"
)


@dataclass(frozen=True)
class Question:
    """One question. `messages` are what the student is shown, `taught` the teacher's answer where the version has it.

    `replies` are the records of the teacher's replies behind `taught`, and of those that were not chosen.
    """

    id: str
    columns: Mapping[str, Any]
    messages: Sequence[Mapping[str, str]]
    gold: str | None
    taught: str | None
    group: str | None
    replies: Sequence[Mapping[str, Any]] = ()

    @property
    def text(self) -> str:
        """What is asked as one text."""
        return "\n".join(turn["content"] for turn in self.messages)


@dataclass(frozen=True)
class Questions:
    """All that is asked, in order. `sha256` is that of the file, or of the split's data files."""

    what: str
    sha256: str
    asked: Sequence[Question]
    left_out: Mapping[str, int]
    is_split: bool
    warnings: Sequence[str] = field(default=())

    @property
    def with_gold(self) -> int:
        """How many have a gold answer."""
        return sum(question.gold is not None for question in self.asked)

    def dump(self) -> dict[str, Any]:
        """Return what the evaluation says of them."""
        return {
            "what": self.what, "sha256": self.sha256, "questions": len(self.asked), "with_gold": self.with_gold,
            "left_out": dict(self.left_out),
        }  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How questions are read: the columns of gold answers (None: `gold`, if there is one) and groups, how many at most.

    `wanted` are the columns that the teacher's prompts name -> which prompt names it.
    """

    gold: str | None = None
    by: str | None = None
    limit: int | None = None
    wanted: Mapping[str, str] = field(default_factory=dict)


def read_questions(on: str, version: Version | None, student: Mapping[str, Any], how: Reading) -> Questions:
    """Return the questions of a split of the version, or of a file of rows (jsonl, csv, parquet, txt).

    `student` is the [student] table of the recipe, by which rows become what the student is shown. What the student
    was trained on, or nearly, is left out and counted (`overlap`), and so is what comes twice (`duplicates`) or is more
    than is wanted (`limit`). Without a version nobody knows what it was trained on.
    Raises UsageError for no such file or split, no question, and columns that are not there; SeedsInvalid for lines
    that cannot be read; Damaged for a version that cannot be.
    """
    if version is not None and on in version.manifest.splits:
        found = _of_split(on, version, how)
    elif is_file(on):
        found = _of_file(Path(on), templates_of(student), how)
        found = _new_ones(found, lambda: _prompts_seen(version))
        if version is None:
            left_out = {"duplicates": found.left_out["duplicates"]}
            found = replace(found, left_out=left_out, warnings=[*found.warnings, UNCHECKED])
    else:
        has = f"{version.label} has the splits {', '.join(version.manifest.splits)}; " if version is not None else ""
        raise UsageError(
            f"neither a file nor a split: {on[:200]!r}", where="--on",
            fix=f"{has}a file has one question a line (jsonl, csv, parquet, txt)",
        )  # fmt: skip
    if not found.asked:
        why = ", ".join(f"{count:,} by {name}" for name, count in found.left_out.items() if count)
        raise UsageError(f"no question is left: {why}", where=on, fix="ask what the student was not trained on")
    return _limited(found, how.limit)


def is_file(on: str) -> bool:
    """Whether this names a file; a name that no file can have does not."""
    try:
        return Path(on).is_file()
    except (OSError, ValueError):
        return False


def templates_of(student: Mapping[str, Any]) -> StudentTemplates:
    """Return the [student] table of a recipe that was built with, compiled."""
    texts = {key: student.get(key) for key in StudentTemplates.__dataclass_fields__}
    compiled = {key: None if text is None else Template.parse(text) for key, text in texts.items()}
    completion = compiled["completion"] or Template.parse("{{ answer }}")
    return StudentTemplates(
        compiled["system"], compiled["prompt"], completion, compiled["reasoning"], compiled["rejected"]
    )


def shown_needs(templates: StudentTemplates) -> set[str]:
    """Return the columns of which what the student is shown is made."""
    named = [template.needs for template in (templates.system, templates.prompt) if template is not None]
    return set[str]().union(*named) | (set() if templates.prompt is not None else {"messages"})


# -- a file ------------------------------------------------------------------------------------------------------------


def _of_file(path: Path, templates: StudentTemplates, how: Reading) -> Questions:
    wanted = {**how.wanted, **dict.fromkeys(sorted(shown_needs(templates)), "[student] of the recipe")}
    reader = SeedReader(SeedSettings(path=str(path.resolve())), path.resolve().parent, frozenset(wanted))
    first = reader.peek()
    if first is not None:
        _require_columns(path, first, wanted, how)
    try:
        reader.check()
    except SeedsEmpty:
        raise UsageError("not a single question in this file", where=str(path), fix="one a line") from None
    except SeedsInvalid as error:  # of a recipe's seeds some lines may be passed over; of questions none
        mended = [replace(each, fix=LINES if "--skip-bad-seeds" in each.fix else each.fix) for each in error.problems]
        raise SeedsInvalid(error.problems[0].what, problems=mended) from None
    gold = how.gold or GOLD
    shown = StudentTemplates(templates.system, templates.prompt, Template.parse("."), None)
    asked = [
        Question(
            row.id, row.columns, _messages(row, shown, path), as_text(row.columns.get(gold)).strip() or None, None,
            as_text(row.columns.get(how.by)) if how.by else None,
        )
        for row in reader
    ]  # fmt: skip
    return Questions(path.name, file_sha256(path), asked, {}, is_split=False)


def _require_columns(path: Path, first: Mapping[str, Any], wanted: Mapping[str, str], how: Reading) -> None:
    named = {
        **wanted, **({how.gold: "--gold"} if how.gold else {}), **({how.by: "--by"} if how.by else {}),
    }  # fmt: skip
    missing = next((column for column in named if column not in first), None)
    if missing is not None:
        has = ", ".join(map(repr, first))
        raise UsageError(
            f"no column {missing!r}, which {named[missing]} names", where=str(path),
            fix=f"the file has {has}; {nearest(missing, first)}",
        )  # fmt: skip


def _messages(row: Row, shown: StudentTemplates, path: Path) -> Sequence[Mapping[str, str]]:
    made = training_row(row, shown)
    if isinstance(made, Rejection):
        raise UsageError(f"row {row.id} cannot be shown to the student: {made.detail}", where=str(path))
    messages: list[dict[str, str]] = made["messages"][:-1]
    return messages


# -- a split -----------------------------------------------------------------------------------------------------------


def _of_split(split: str, version: Version, how: Reading) -> Questions:
    records = {record["id"]: record for record in records_of(version, "provenance") if record["split"] == split}
    replies = _replies_by_origin(version, {record["origin"] for record in records.values()})
    gold = how.gold or GOLD
    asked = []
    for row in training_rows(version, split):
        record = records.get(row["id"], {"columns": {}, "origin": ""})
        columns = record["columns"]
        turns = row["messages"][:-1] if "messages" in row else row["prompt"]
        asked.append(
            Question(
                row["id"], columns, turns, as_text(columns.get(gold)).strip() or None, answer_of(row),
                as_text(columns.get(how.by)) if how.by else None, replies.get(record["origin"], ()),
            )
        )  # fmt: skip
    for column, option in ((how.gold, "--gold"), (how.by, "--by")):
        if column is not None and asked and not any(column in question.columns for question in asked):
            has = sorted({name for question in asked for name in question.columns})
            raise UsageError(
                f"no row of {version.label} has a column {column!r}, which {option} names", where=str(version.folder),
                fix=f"it has {', '.join(has)}; {nearest(column, has)}",
            )  # fmt: skip
    files = [version.manifest.files[f"data/{path.name}"].sha256.encode() for path in version.data_files(split)]
    trained, watched = split_to_train(version), split_to_watch(version)
    found = Questions(split, digest(*files), asked, {}, True, _seen_before(split, trained, watched))
    if split == trained:
        return replace(found, left_out={"overlap": 0, "duplicates": 0})
    return _new_ones(found, lambda: _prompts_seen(version, split))


def _replies_by_origin(version: Version, origins: set[str]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return the records of all replies that were paid for rows of these seeds, of samples that were not chosen too."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in SIDECARS:
        for record in records_of(version, name):
            if (origin := record["origin"]) in origins:
                replies = {str(reply["key"]): reply for reply in replies_behind(record["steps"])}
                found.setdefault(origin, {}).update(replies)
    return {origin: list(replies.values()) for origin, replies in found.items()}


def _prompts_seen(version: Version | None, besides: str | None = None) -> Iterator[str]:
    """Yield the prompts that the training saw: to learn from, and to see when to stop."""
    if version is not None:
        for split in (split_to_train(version), split_to_watch(version)):
            if split not in (None, besides):
                yield from map(prompt_of, training_rows(version, split))


def _seen_before(split: str, trained: str, watched: str | None) -> list[str]:
    if split == trained:
        return [f"{split!r} is what the student was trained on: this shows what it keeps, not what it can"]
    if split == watched:
        return [f"{split!r} is what training may have stopped by: the figures may be a little too good"]
    return []


def replies_behind(steps: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the records of all replies on a trail: of `generate`, of judges, and of a pair's worse answer."""
    for step in steps:
        if "key" in step:
            yield step
        for each in step.get("scores") or ():
            if isinstance(each, Mapping) and "key" in each:
                yield each
        worse = step.get("rejected")
        if isinstance(worse, Mapping) and "steps" in worse:
            yield from replies_behind(worse["steps"])


# -- which of them -----------------------------------------------------------------------------------------------------


def _limited(found: Questions, limit: int | None) -> Questions:
    """Return at most so many questions, the same ones whatever else is in the file, in the order of the file."""
    if limit is None or len(found.asked) <= limit:
        return found
    chosen = {question.id for question in in_lots(found.asked)[:limit]}
    asked = [question for question in found.asked if question.id in chosen]
    return replace(found, asked=asked, left_out={**found.left_out, "limit": len(found.asked) - len(asked)})


def in_lots(asked: Sequence[Question]) -> list[Question]:
    """Return questions in an order that has nothing to do with what they are about, always the same."""
    return sorted(asked, key=lambda question: hashlib.sha256(canonical(question.id)).digest())


def _new_ones(found: Questions, trained_on: Texts) -> Questions:
    """Return the questions without those that are like a prompt that was trained on, or like an earlier one.

    Two that are nearly alike and have other right answers ("the best", "the worst") are two questions.
    """
    texts = [normalise(question.text) for question in found.asked]
    golds = [question.gold for question in found.asked]

    def are_apart(one: int, other: int) -> bool:
        return None not in (golds[one], golds[other]) and golds[one] != golds[other] and texts[one] != texts[other]

    likeness = Likeness([question.text for question in found.asked], trained_on)
    overlap = likeness.to_known()
    twice = likeness.to_earlier(overlap, are_apart)
    asked = [question for place, question in enumerate(found.asked) if place not in overlap and place not in twice]
    left_out = {"overlap": len(overlap), "duplicates": len(twice)}
    return replace(found, asked=asked, left_out=left_out, warnings=[*found.warnings, *_contradictions(texts, golds)])


def _contradictions(texts: Sequence[str], golds: Sequence[str | None]) -> Iterator[str]:
    """Yield what is to be said of questions that are there with several right answers."""
    known: dict[str, set[str]] = {}
    for text, gold in zip(texts, golds, strict=True):
        if gold is not None:
            known.setdefault(text, set()).add(gold)
    if several := sum(len(answers) > 1 for answers in known.values()):
        yield f"{several:,} questions come more than once, with different right answers: the first counts"


def _blocks(known: Texts) -> Iterator[list[str]]:
    left = iter(known())
    while block := list(islice(left, BLOCK)):
        yield block


class Likeness:
    """Which of some texts equal others but for case and white space, or nearly.

    Nearly is a Jaccard similarity of `NEAR` of their word 3-grams, or that the other text holds `HELD` of them. Those
    that many of the texts or of the `known` ones share, as a template makes them, do not count. `known` is read twice.
    Memory: some 100 bytes for each word of the texts.
    """

    def __init__(self, texts: Sequence[str], known: Texts) -> None:
        import numpy as np

        from distillgen.steps.similarity import fingerprints

        self._texts, self._known = texts, known
        prints = fingerprints(texts)
        self._equal: dict[tuple[int, int], list[int]] = {}
        for place, (left, right) in enumerate(prints.digests.tolist()):
            self._equal.setdefault((left, right), []).append(place)
        sizes = np.diff(prints.sets.ends, prepend=0)
        owners = np.repeat(np.arange(len(texts)), sizes)
        order = np.argsort(prints.sets.hashes, kind="stable")
        hashes, self._owners = prints.sets.hashes[order], owners[order]
        unique, starts, counts = np.unique(hashes, return_index=True, return_counts=True)
        is_stock = (counts > STOCK) & (counts > STOCK_SHARE * len(texts))
        if len(unique):
            is_stock |= _in_many(unique, known)
        self._stock, self._hashes = unique[is_stock], unique[~is_stock]
        self._starts, self._counts = starts[~is_stock], counts[~is_stock]
        kept = self._owners[np.repeat(~is_stock, counts)]
        self._sizes: list[int] = np.bincount(kept, minlength=len(texts)).tolist()  # 3-grams of each that are no stock

    def to_known(self) -> set[int]:
        """Return the places of the texts that are like one of the known ones."""
        return {place for block in _blocks(self._known) for places in self._alike(block) for place in places}

    def to_earlier(self, without: set[int], are_apart: Callable[[int, int], bool] = lambda *_: False) -> set[int]:
        """Return the places of the texts that are like an earlier one that is kept; those `without` are none.

        Two of which `are_apart` says so are not alike.
        """
        found: set[int] = set()
        for place, alike in enumerate(self._alike(self._texts)):
            if place not in without and place not in found:
                later = {other for other in alike if other > place and other not in without}
                found |= {other for other in later if not are_apart(place, other)}
        return found

    def _alike(self, others: Sequence[str]) -> list[set[int]]:
        """Return for each other text the places of the texts that it equals, or nearly."""
        import numpy as np

        from distillgen.steps.similarity import fingerprints

        prints = fingerprints(others)
        found = [set(self._equal.get((left, right), ())) for left, right in prints.digests.tolist()]
        for number in range(len(others)):
            mine = prints.sets.of(number)
            at = np.searchsorted(self._hashes, mine)
            at[at == len(self._hashes)] = 0
            hits = at[self._hashes[at] == mine] if len(self._hashes) else at[:0]
            if not len(hits):
                continue
            size = len(mine) - int(np.isin(mine, self._stock).sum())
            spans = ((int(self._starts[hit]), int(self._counts[hit])) for hit in hits)
            shared = Counter(owner for start, count in spans for owner in self._owners[start : start + count].tolist())
            found[number] |= {place for place, both in shared.items() if self._is_near(place, both, size)}
        return found

    def _is_near(self, place: int, both: int, size: int) -> bool:
        own: int = self._sizes[place]
        return both >= NEAR * (own + size - both) or (own >= FEW and both >= HELD * own)


def _in_many(hashes: "NDArray[np.uint64]", known: Texts) -> "NDArray[np.bool_]":
    """Say of each 3-gram whether it is in so many of the known texts that it is part of their template."""
    import numpy as np

    from distillgen.steps.similarity import fingerprints

    counts, rows = np.zeros(len(hashes), np.int64), 0
    for block in _blocks(known):
        found = fingerprints(block).sets.hashes
        rows += len(block)
        at = np.searchsorted(hashes, found)
        at[at == len(hashes)] = 0
        counts += np.bincount(at[hashes[at] == found], minlength=len(hashes))
    many: NDArray[np.bool_] = (counts > STOCK) & (counts > STOCK_SHARE * rows)
    return many
