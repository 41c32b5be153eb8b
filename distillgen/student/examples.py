"""The rows of a version as a trainer wants them, and what would go wrong with them, found before the training begins.

Runs in the child, with the student's tokenizer. A trainer trains on every token of `messages`, drops and cuts off rows
without a word, and takes any chat template: so rows become prompt and completion, and are counted and checked here.
"""

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distillgen.dataset.versions import Version
from distillgen.errors import UsageError
from distillgen.export import rules
from distillgen.export.formats import Unfit, preference, prompt_completion
from distillgen.export.options import Options, Reasoning
from distillgen.export.reading import batches, is_pair
from distillgen.files import digest

Long = Literal["error", "drop", "truncate"]
Turns = Sequence[Mapping[str, Any]]
KEYS = ("reasoning_content", "thinking")  # where a trace is a key of the answer, and the template's to show
ANSWERS = ("completion", "chosen", "rejected")


@dataclass(frozen=True)
class Example:
    """One row: `made` is what the trainer gets, `{"prompt", "completion"}` or `{"prompt", "chosen", "rejected"}`."""

    id: str
    made: dict[str, Any]
    trace: str  # that the template is to show
    prompt_tokens: int = 0
    tokens: int = 0  # of prompt and answer, of a pair the longer one
    trained: int = 0  # of these, the tokens that are learnt


@dataclass
class Examples:
    """The rows of a split that are trained on, and what became of the others."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0  # in one epoch
    trained_tokens: int = 0
    longest: int = 0
    long: int = 0  # rows longer than allowed
    dropped: int = 0
    truncated: int = 0
    without_answer: int = 0  # of those to truncate: nothing of the answer would have been left
    special: int = 0  # rows whose text holds a special token of the base: it says more than was written

    def counts(self) -> dict[str, int]:
        """Return everything but the rows themselves."""
        return {"rows": len(self.rows), **{name: value for name, value in vars(self).items() if name != "rows"}}


def read_examples(
    version: Version, split: str, tokenizer: Any, *, reasoning: Reasoning, long: Long, max_tokens: int,
    stops: frozenset[int], most: int = 0,
) -> Examples:  # fmt: skip
    """Return the examples of a split, none longer than `max_tokens`. `stops` are the tokens that end an answer; of more
    rows than `most` that many are drawn.

    Raises UsageError for a row that no conversation can be made of, a chat template that does not do, and rows that
    are too long where `long` is "error".
    """
    found, first = Examples(), ""
    template, drawn = Template(tokenizer, stops), _drawn(version, split, most)
    special = _special_tokens(tokenizer)
    for row in examples(version, split, reasoning):
        if drawn is not None and row.id not in drawn:
            continue
        example = template.measured(row)
        found.longest = max(found.longest, example.tokens)
        if example.tokens <= max_tokens:
            _add(found, example, max_tokens, special)
            continue
        found.long += 1
        first = first or example.id
        if long == "truncate" and example.prompt_tokens < max_tokens:
            found.truncated += 1
            _add(found, example, max_tokens, special)
        elif long == "truncate":
            found.without_answer += 1
        else:
            found.dropped += 1
    if found.long and long == "error":
        raise UsageError(
            f"{found.long:,} of {len(found.rows) + found.long:,} rows of the split {split!r} are longer than "
            f"{max_tokens:,} tokens; the longest has {found.longest:,}, the first is {first!r}",
            where=version.label,
            fix="leave them out or cut them off: --long drop, --long truncate; or set max_tokens, as far as the "
            "model's context goes",
        )
    return found


def _drawn(version: Version, split: str, most: int) -> frozenset[str] | None:
    """Return the ids of so many rows, by chance: the same in every run, and all of them among those of a larger number.

    None where that is all rows.
    """
    if not 0 < most < version.manifest.splits[split]:
        return None
    ids = (row["id"] for rows in batches(version, split) for row in rows)
    return frozenset(heapq.nsmallest(most, ids, key=lambda each: digest(each.encode())))


def _add(found: Examples, example: Example, max_tokens: int, special: "re.Pattern[str] | None") -> None:
    found.rows.append(example.made)
    found.special += special is not None and special.search(_text_of(example.made)) is not None
    found.tokens += min(example.tokens, max_tokens)
    found.trained_tokens += min(example.trained, max_tokens - example.prompt_tokens)


def _special_tokens(tokenizer: Any) -> "re.Pattern[str] | None":
    """Return what finds the special tokens of a tokenizer in a text, None where it has none."""
    texts = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return re.compile("|".join(map(re.escape, sorted(filter(None, texts), key=len, reverse=True)))) if texts else None


def _text_of(made: Mapping[str, Any]) -> str:
    return "\n".join(str(turn.get("content")) for turns in made.values() for turn in turns if isinstance(turn, Mapping))


def examples(version: Version, split: str, reasoning: Reasoning) -> Iterator[Example]:
    """Yield the rows of a split as the trainer wants them. Raises UsageError for the first that cannot be had so."""
    options = Options(reasoning=reasoning, as_text=False)
    for rows in batches(version, split):
        for row in rows:
            render, wrong = (
                (preference, rules.preference) if is_pair(row) else (prompt_completion, rules.prompt_completion)
            )
            try:
                made = dict(render(row, options))
                why = wrong(made)
            except Unfit as unfit:
                made, why = {}, str(unfit)
            if why:
                raise UsageError(
                    f"the row {row['id']!r} cannot be trained on: {why}", where=f"{version.label}, split {split!r}",
                    fix="mend the recipe's [student] table and build again; for reasoning, try another --reasoning",
                )  # fmt: skip
            yield Example(row["id"], made, row.get("reasoning", "") if reasoning in KEYS else "")


class Template:
    """A model's chat template, held to what training needs of it. Raises UsageError where there is none."""

    def __init__(self, tokenizer: Any, stops: frozenset[int]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._where = f"the chat template of {tokenizer.name_or_path}"
        if not tokenizer.chat_template:
            raise UsageError(
                "the base has no chat template, so nothing says how a conversation is written for it",
                where=str(tokenizer.name_or_path),
                fix="train a chat model (often called instruct), or put one beside it as chat_template.jinja",
            )

    def measured(self, example: Example) -> Example:
        """Return the example with its tokens counted. Raises UsageError where the template does not do."""
        prompt = self._tokens(example.made["prompt"], begins_answer=True)
        longest, trained = 0, 0
        for name in ANSWERS:
            if answer := example.made.get(name):
                whole = self._tokens([*example.made["prompt"], *answer])
                self._check(example, prompt, whole)
                longest, trained = max(longest, len(whole)), max(trained, len(whole) - len(prompt))
                if name != "rejected":
                    self._check_trace(example, [*example.made["prompt"], *answer])
        return Example(example.id, example.made, example.trace, len(prompt), longest, trained)

    def _tokens(self, turns: Turns, *, begins_answer: bool = False) -> list[int]:
        return list(self._apply(turns, tokenize=True, return_dict=False, add_generation_prompt=begins_answer))

    def _apply(self, turns: Turns, **how: Any) -> Any:
        from jinja2.exceptions import TemplateError

        try:
            return self._tokenizer.apply_chat_template(list(turns), **how)
        except TemplateError as error:
            roles = ", ".join(str(turn["role"]) for turn in turns)
            raise UsageError(
                f"it refuses a conversation of {roles}: {str(error)[:300]}", where=self._where,
                fix="shape the conversation as it wants (a [student] table without `system`, say), or train another "
                "base",
            ) from None  # fmt: skip

    def _check(self, example: Example, prompt: list[int], whole: list[int]) -> None:
        if whole[: len(prompt)] != prompt:
            raise UsageError(
                "it writes a question alone otherwise than the same question with its answer, so the student would "
                f"learn parts of the question; seen at the row {example.id!r}", where=self._where,
                fix="train a base whose template begins both alike; `--reasoning drop` may help where it is one "
                "that thinks",
            )  # fmt: skip
        learnt = whole[len(prompt) :]
        while learnt and learnt[-1] not in self._stops and not self._tokenizer.decode(learnt[-1:]).strip():
            learnt.pop()  # a line's end after the end of the turn
        if not learnt:
            raise UsageError(f"it leaves out the answer of the row {example.id!r}", where=self._where, fix=ANOTHER)
        if learnt[-1] not in self._stops:
            raise UsageError(
                f"an answer does not end with a token that ends a turn, but with "
                f"{self._tokenizer.decode(learnt[-1:])!r}: the student would never stop", where=self._where,
                fix=ANOTHER,
            )  # fmt: skip

    def _check_trace(self, example: Example, turns: Turns) -> None:
        if (trace := example.trace.strip()) and trace not in self._apply(turns, tokenize=False):
            raise UsageError(
                f"it does not show the reasoning of the row {example.id!r}, so nobody would learn it",
                where=self._where, fix="put it into the answer: --reasoning think; or leave it out: --reasoning drop",
            )  # fmt: skip


ANOTHER = "mend the template, or train a base that has a chat template of its own (often called instruct)"


def stops_of(tokenizer: Any, generation_ends: int | Sequence[int] | None) -> frozenset[int]:
    """Return the tokens that may end a turn: those that end generation, and all special ones of the tokenizer."""
    ends = [generation_ends] if isinstance(generation_ends, int) else list(generation_ends or ())
    special = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
    return frozenset([*ends, *special, *tokenizer.all_special_ids])


def learnt_ends(made: Mapping[str, Any], tokenizer: Any, stops: frozenset[int]) -> list[int]:
    """Return the token by which an answer ends, as the trained student will end its own."""
    answer = made.get("completion") or made["chosen"]
    whole = tokenizer.apply_chat_template([*made["prompt"], *answer], tokenize=True, return_dict=False)
    return [next(token for token in reversed(whole) if token in stops)]


def check_prepared(
    prepared: Any, ours: Examples, columns: Callable[[Any], tuple[int, int]], *, are_pairs: bool
) -> None:
    """Insist that a trainer made of our rows what we counted: `columns` gives of one (tokens, learnt tokens).

    Tokens are compared but for pairs, of which they are counted otherwise, and for rows that the trainer cuts off.
    """
    if len(prepared) != len(ours.rows):
        raise RuntimeError(f"the trainer took {len(prepared)} of {len(ours.rows)} rows")
    counted = [columns(row) for row in prepared]
    if not all(0 < learnt < tokens for tokens, learnt in counted):
        raise RuntimeError("the trainer would learn nothing of a row, or all of it")
    tokens, learnt = (sum(each) for each in zip(*counted, strict=True))
    if not are_pairs and not ours.truncated and (tokens, learnt) != (ours.tokens, ours.trained_tokens):
        raise RuntimeError(
            f"the trainer would learn {learnt:,} of {tokens:,} tokens; counted were {ours.trained_tokens:,} of "
            f"{ours.tokens:,}"
        )
