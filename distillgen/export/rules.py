"""What each format forbids: a rule takes a row as it would be written, and returns why it may not be, or None."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Rendered: TypeAlias = Mapping[str, Any]

ROLES = frozenset(("system", "user", "assistant"))
LONGEST_LABEL = 200  # characters; what is longer is an answer


def messages(row: Rendered) -> str | None:
    """Turns of known roles, the system's first if at all, each with text, the assistant's last."""
    return conversation(row["messages"])


def conversation(turns: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why turns are no conversation that ends with an answer."""
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        return "it is no question with an answer at its end"
    return _turns(turns)


def _turns(turns: Sequence[Mapping[str, Any]]) -> str | None:
    for place, turn in enumerate(turns):
        role = turn["role"]
        if role not in ROLES:
            return f"turn {place + 1} has the role {role[:40]!r}; known: assistant, system, user"
        if role == "system" and place:
            return f"turn {place + 1} is the system's, which must be the first"
        if not turn["content"]:
            return f"turn {place + 1} is empty"
    return None


def prompt_completion(row: Rendered) -> str | None:
    """Both texts, or both lists of messages; neither empty."""
    prompt, completion = row["prompt"], row["completion"]
    if not prompt or not completion:
        return f"its {'completion' if prompt else 'prompt'} is empty"
    return None if isinstance(prompt, str) else conversation([*prompt, *completion])


def sharegpt(row: Rendered) -> str | None:
    """After a system turn or none, human and gpt in turn, gpt last: positions are what trainers read."""
    turns = row["conversations"]
    start = 1 if turns and turns[0]["from"] == "system" else 0
    for place in range(start, len(turns)):
        wanted = "gpt" if (place - start) % 2 else "human"
        if turns[place]["from"] != wanted:
            return f"turn {place + 1} is from {turns[place]['from']!r}, and human and gpt must alternate"
        if not turns[place]["value"]:
            return f"turn {place + 1} is empty"
    return "it is no question with an answer at its end" if (len(turns) - start) % 2 or len(turns) == start else None


def alpaca(row: Rendered) -> str | None:
    """An instruction and an output, and earlier rounds as pairs of texts."""
    if not row["instruction"] or not row["output"]:
        return f"its {'output' if row['instruction'] else 'instruction'} is empty"
    return next(
        ("an earlier round has an empty turn" for round_ in row["history"] if not round_[0] or not round_[1]), None
    )


def preference(row: Rendered) -> str | None:
    """A prompt, and two answers of one turn each that differ."""
    for name in ("chosen", "rejected"):
        if len(row[name]) != 1:
            return f"{name}: it is {len(row[name])} turns, and an answer is one"
        if wrong := conversation([*row["prompt"], *row[name]]):
            return f"{name}: {wrong}"
    return "both answers are the same" if row["chosen"][-1]["content"] == row["rejected"][-1]["content"] else None


def unpaired_preference(row: Rendered) -> str | None:
    """A prompt, an answer, and whether it is a good one."""
    return conversation([*row["prompt"], *row["completion"]])


def text(row: Rendered) -> str | None:
    """Characters that can be written as UTF-8, and not none: a template may make halves of characters."""
    if not row["text"]:
        return "the template renders it to nothing"
    return None if _is_writable(row["text"]) else "the template renders it to half a character (a lone surrogate)"


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def labels(row: Rendered) -> str | None:
    """A text, and a label on one line."""
    if not row["text"] or not row["label"]:
        return f"its {'label' if row['text'] else 'text'} is empty"
    if len(row["label"]) > LONGEST_LABEL or len(row["label"].splitlines()) > 1:
        return "its answer is no label: it has several lines, or over 200 characters"
    return None


def table(row: Rendered) -> str | None:
    """No cell with a NUL, at which programs that read CSV stop."""
    return next((f"column {name!r} holds a NUL character" for name, cell in row.items() if "\0" in cell), None)


def version_row(row: Rendered) -> str | None:
    """What `messages` or `preference` demands."""
    return preference(row) if "chosen" in row else messages(row)
