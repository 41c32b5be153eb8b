"""Rows of a pipe as training rows, whoever wrote them: `{"id", "messages"}` or a preference pair, with reasoning."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from distillgen.export.formats import Unfit
from distillgen.export.reading import Row
from distillgen.foreign import ANSWERED, ASKED, CHATS, REASONED, SPEAKERS

MOST_NAMED = 8  # columns of a row that an error names
_MARKED = "the key {key!r}, which a training row has no place for"


class NoTrainingRow(Unfit):
    """A row in which prompt or answer is missing, or is no text."""


class Columns(NamedTuple):
    """The columns that hold prompt, answer and reasoning; None where they are to be found."""

    prompt: str | None = None
    answer: str | None = None
    reasoning: str | None = None


def training_row(row: Mapping[str, Any], row_id: str, columns: Columns, *, are_labels: bool = False) -> Row:
    """Return a row as a version holds it, with `reasoning` only where there is some.

    `are_labels` finds `text` and `label` first. Raises NoTrainingRow with what is missing.
    """
    if row.get("label") is False:
        raise NoTrainingRow("its `label` is false: an answer marked as a bad one")
    name = row.get("id")
    made: Row = {"id": name if isinstance(name, str) else row_id}
    if columns.answer is None and row.get("chosen") is not None and row.get("rejected") is not None:
        return made | _pair(row, columns) | _reasoning(row, columns, "")
    turns, trace = _conversation(row, columns, are_labels)
    return made | {"messages": turns} | _reasoning(row, columns, trace)


def _conversation(row: Mapping[str, Any], columns: Columns, are_labels: bool) -> tuple[list[Any], str]:
    """Return the turns of a row with one answer, and the reasoning that stands in them."""
    turns, trace = _chat(row) if columns.prompt is None else (None, "")
    if turns is None:
        is_pair = are_labels and columns == Columns() and isinstance(row.get("text"), str)
        turns = _asked(row, columns._replace(prompt="text") if is_pair else columns)
        columns = columns._replace(answer="label") if is_pair else columns
    elif columns.answer is None and turns[-1]["role"] == "assistant":
        return _with_system(row, turns), trace
    name = columns.answer or _first(row, (*ANSWERED, "label") if are_labels else ANSWERED, but=columns.prompt)
    if name is None:
        raise NoTrainingRow(f"it has no answer{_of(row)}")
    if turns[-1]["role"] == "assistant":
        raise NoTrainingRow(f"it has an answer in its messages and another one in {name!r}")
    answer, trace = _turns(_there(row, name), name, "assistant")
    return _with_system(row, [*turns, *answer]), trace


def _chat(row: Mapping[str, Any]) -> tuple[list[Any] | None, str]:
    """Return the turns of a chat, and the reasoning of its last one; None for a row that is no chat."""
    for name, role, content in CHATS:
        if row.get(name) is not None:
            return _turns(row[name], name, "", role, content)
    return None, ""


def _asked(row: Mapping[str, Any], columns: Columns) -> list[Any]:
    """Return the turns before the answer: earlier rounds of Alpaca, and what is asked."""
    name = columns.prompt or _first(row, ASKED)
    if name is None:
        raise NoTrainingRow(f"it has no prompt{_of(row)}")
    value = _there(row, name)
    if columns.prompt is None and name == "instruction" and isinstance(more := row.get("input"), str) and more:
        value = f"{value}\n\n{more}"
    return [*_history(row), *_turns(value, name, "user")[0]]


def _history(row: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    rounds = row.get("history") or []
    if "instruction" not in row or not rounds:
        return
    for each in rounds if isinstance(rounds, list) else [rounds]:
        if not isinstance(each, list) or [type(text) for text in each] != [str, str]:
            raise NoTrainingRow("its `history` is no list of pairs of texts")
        yield {"role": "user", "content": each[0]}
        yield {"role": "assistant", "content": each[1]}


def _pair(row: Mapping[str, Any], columns: Columns) -> Row:
    """Return prompt, chosen and rejected; where the answers repeat what was asked, without that."""
    chosen, rejected = (_turns(row[name], name, "assistant")[0] for name in ("chosen", "rejected"))
    if columns.prompt is None and _first(row, ASKED) is None:
        shared = _shared(chosen, rejected)
        if not shared:
            raise NoTrainingRow(f"it has no prompt{_of(row)}")
        prompt = chosen[:shared]
    else:
        prompt = _asked(row, columns)
    answers = [each[len(prompt) :] if each[: len(prompt)] == prompt else each for each in (chosen, rejected)]
    return {"prompt": _with_system(row, prompt), "chosen": answers[0], "rejected": answers[1]}


def _shared(some: Sequence[Any], others: Sequence[Any]) -> int:
    """Return with how many turns both begin; the answer of each is none of them."""
    most = min(len(some), len(others)) - 1
    return next((place for place in range(most) if some[place] != others[place]), most)


def _turns(
    value: Any, name: str, role: str, role_key: str = "role", content_key: str = "content"
) -> tuple[list[Any], str]:
    """Return a text as one turn of `role`, or a list of turns, and the reasoning of the last one."""
    if isinstance(value, str) and role:
        return [{"role": role, "content": value}], ""
    if not isinstance(value, list) or not value:
        raise NoTrainingRow(f"its {name!r} is {_kind(value)}, not {'a text or ' if role else ''}a list of messages")
    made, trace = [], ""
    for place, turn in enumerate(value, 1):
        where = f"turn {place} of {name!r}"
        if not isinstance(turn, dict):
            raise NoTrainingRow(f"{where} is {_kind(turn)}, not a message")
        who, said = turn.get(role_key), turn.get(content_key)
        if not isinstance(who, str) or not isinstance(said, str):
            wrong = role_key if not isinstance(who, str) else content_key
            raise NoTrainingRow(f"{where}: its {wrong!r} is {_kind(turn.get(wrong))}, not a text")
        trace = ""
        for key, more in turn.items():
            if key in (role_key, content_key) or more in (None, "", []):
                continue
            if key not in REASONED or not isinstance(more, str) or place < len(value):
                raise NoTrainingRow(f"{where} has {_MARKED.format(key=key[:40])}")
            trace = more
        made.append({"role": SPEAKERS.get(who, who), "content": said})
    return made, trace


def _with_system(row: Mapping[str, Any], turns: list[Any]) -> list[Any]:
    said = row.get("system")
    if not isinstance(said, str) or not said or turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": said}, *turns]


def _reasoning(row: Mapping[str, Any], columns: Columns, trace: str) -> Row:
    """Return the reasoning of a row: of a column, or what stood in its last turn; nothing where there is none."""
    if columns.reasoning is not None:
        found = _there(row, columns.reasoning)
        if found is not None and not isinstance(found, str):
            raise NoTrainingRow(f"its {columns.reasoning!r} is {_kind(found)}, not a text")
    else:
        found = trace or next((row[name] for name in REASONED if isinstance(row.get(name), str) and row[name]), "")
    return {"reasoning": found} if found else {}


def _first(row: Mapping[str, Any], names: Sequence[str], but: str | None = None) -> str | None:
    return next((name for name in names if name != but and row.get(name) is not None), None)


def _there(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise NoTrainingRow(f"it has no column {name!r}{_of(row)}")
    return row[name]


def _of(row: Mapping[str, Any]) -> str:
    """Return the columns that there are, for an error."""
    names = ", ".join(repr(name[:40]) for name in list(row)[:MOST_NAMED])
    return f" (it has {names}{', ...' if len(row) > MOST_NAMED else ''})" if row else " (it is empty)"


def _kind(value: Any) -> str:
    """Return what a JSON value is, in words."""
    if value is None:
        return "null or missing"
    kinds = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), type(value).__name__)
