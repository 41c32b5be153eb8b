"""Rows of others: finds prompt, answer and reasoning in chats, ShareGPT, Alpaca and plain rows, and puts changes back.

A chat is `messages` of role and content (OpenAI); ShareGPT is `conversations` of `from` and `value`; Alpaca is
`instruction`, `input` and `output`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PROMPT, ANSWER, REASONING = "prompt", "answer", "reasoning"
CHATS = (("messages", "role", "content"), ("conversations", "from", "value"))
SPEAKERS = {"gpt": "assistant", "model": "assistant", "bot": "assistant", "human": "user"}
# Names of columns, the likeliest first: what is asked, and what is answered.
ASKED = ("prompt", "question", "instruction", "query", "input")
ANSWERED = ("answer", "completion", "response", "output", "chosen", "text")
REASONED = ("reasoning", "reasoning_content", "thinking", "rationale")

Path = tuple[str | int, ...]  # the way to a text inside a row: ("messages", 1, "content")


class View(NamedTuple):
    """Where a row keeps its prompt, answer and reasoning; None where it has none."""

    prompt: Path | None
    answer: Path | None
    reasoning: Path | None = None


def view_of(row: Mapping[str, Any]) -> View:
    """Find prompt, answer and reasoning in a row."""
    reasoning = next(((name,) for name in REASONED if isinstance(row.get(name), str)), None)
    for chat, role, content in CHATS:
        if isinstance(turns := row.get(chat), list):
            view = _in_turns(turns, (chat,), role, content)
            return View(view.prompt, view.answer, view.reasoning or reasoning)
    prompt = next(filter(None, (_text_at(row, name) for name in ASKED)), None)
    others = [name for name in ANSWERED if prompt is None or name != prompt[0]]
    answer = next(filter(None, (_text_at(row, name) for name in others)), None)
    return View(prompt, answer, reasoning)


def columns_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row, with `prompt`, `answer` and `reasoning` under these names where it has them.

    What Alpaca's `input` adds to an instruction belongs to the prompt.
    """
    view = view_of(row)
    columns = dict(row)
    for name, path in zip((PROMPT, ANSWER, REASONING), view, strict=True):
        if path is not None:
            columns[name] = text_at(row, path)
    if view.prompt == ("instruction",) and isinstance(row.get("input"), str) and row["input"]:
        columns[PROMPT] = f"{row['instruction']}\n\n{row['input']}"
    return columns


def put_back(row: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the texts in their places that differ between its columns `before` and `after`."""
    paths = dict(zip((PROMPT, ANSWER, REASONING), view_of(row), strict=True))
    result = dict(row)
    for name, text in after.items():
        if before.get(name) == text:
            continue
        path = paths.get(name) or (name,)
        if path == ("instruction",) and result.get("input"):
            text, result["input"] = _apart(text, result["instruction"])
        result = _with_text(result, path, text)
    return result


def _apart(prompt: str, instruction: str) -> tuple[str, str]:
    """Take an Alpaca prompt apart where the instruction was not changed; else all of it becomes the instruction."""
    joined = f"{instruction}\n\n"
    return (instruction, prompt[len(joined) :]) if prompt.startswith(joined) else (prompt, "")


def text_at(row: Any, path: Path) -> Any:
    """Return what stands at a path inside a row."""
    for part in path:
        row = row[part]
    return row


def _text_at(row: Mapping[str, Any], name: str) -> Path | None:
    """Return the path of a column's text: itself, or that of the last turn of a list of messages."""
    value = row.get(name)
    if isinstance(value, str):
        return (name,)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        content = value[-1].get("content")
        return (name, len(value) - 1, "content") if isinstance(content, str) else None
    return None


def _in_turns(turns: Sequence[Any], path: Path, role: str, content: str) -> View:
    """Return the last answer of a conversation, and the last question before it."""
    spoken = [
        (SPEAKERS.get(str(turn.get(role)), turn.get(role)), index)
        for index, turn in enumerate(turns)
        if isinstance(turn, dict) and isinstance(turn.get(content), str)
    ]
    answer = next((index for who, index in reversed(spoken) if who == "assistant"), None)
    before = [index for who, index in spoken if who == "user" and (answer is None or index < answer)]
    reasoning = None
    if answer is not None:
        thought = next((name for name in REASONED if isinstance(turns[answer].get(name), str)), None)
        reasoning = (*path, answer, thought) if thought else None
    return View(
        (*path, before[-1], content) if before else None,
        None if answer is None else (*path, answer, content),
        reasoning,
    )


def _with_text(value: Any, path: Path, text: Any) -> Any:
    """Return a copy of a row with another text at a path."""
    if not path:
        return text
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = _with_text(copy[path[0]], path[1:], text) if len(path) > 1 else text  # type: ignore[index]
    return copy
