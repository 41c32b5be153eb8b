"""How trainers want a row, and what each of them refuses in one.

A shape takes the row of the format `messages` or `preference` and returns the trainer's; a rule takes the trainer's row
and returns why the trainer would refuse it, or None.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Rendered: TypeAlias = Mapping[str, Any]
Turns: TypeAlias = Sequence[Mapping[str, Any]]
Rule: TypeAlias = Callable[[Rendered], str | None]

CHAT_ROLES = ("system", "user", "assistant")
SHOWN = 40  # characters of a value that a reason quotes


def messages(row: Rendered) -> dict[str, Any]:
    """Return `{"messages": [...]}` and nothing else: hosted trainers refuse every further key."""
    return {"messages": list(row["messages"])}


def prompt_and_completion(row: Rendered) -> dict[str, Any]:
    """Return `{"prompt": [...], "completion": [last turn]}`: TRL then trains on what the teacher wrote only."""
    return {"prompt": list(row["messages"][:-1]), "completion": list(row["messages"][-1:])}


def pair(row: Rendered) -> dict[str, Any]:
    """Return `{"prompt", "chosen", "rejected"}`, each a list of messages: TRL's conversational preference type."""
    return {name: list(row[name]) for name in ("prompt", "chosen", "rejected")}


def pair_of_answers(row: Rendered) -> dict[str, Any]:
    """Return `{"messages": [...], "chosen": {...}, "rejected": {...}}`: each answer is one message, not a list."""
    return {"messages": list(row["prompt"]), "chosen": row["chosen"][-1], "rejected": row["rejected"][-1]}


def pair_of_conversations(row: Rendered) -> dict[str, Any]:
    """Return `{"chosen", "rejected"}`, each the whole conversation from its first turn."""
    return {name: [*row["prompt"], *row[name]] for name in ("chosen", "rejected")}


def pair_of_outputs(row: Rendered) -> dict[str, Any]:
    """Return `{"input": {"messages"}, "preferred_output", "non_preferred_output"}`: a pair for hosted trainers."""
    outputs = {"preferred_output": list(row["chosen"]), "non_preferred_output": list(row["rejected"])}
    return {"input": {"messages": list(row["prompt"])}, **outputs}


def any_row(row: Rendered) -> str | None:
    """Refuse nothing beyond what the format itself refuses."""
    return None


def chat_roles(row: Rendered) -> str | None:
    """Refuse roles other than system, user and assistant, and a system turn that is not the first."""
    for turns in _conversations(row):
        for place, turn in enumerate(turns, start=1):
            if turn["role"] not in CHAT_ROLES:
                return f"turn {place} has the role {_shown(turn['role'])}; it may be {', '.join(CHAT_ROLES)}"
            if turn["role"] == "system" and place > 1:
                return f"turn {place} is a system turn; only the first may be one"
    return None


def alternating(row: Rendered) -> str | None:
    """Refuse what is not: a system turn or none, then user and assistant in turn, the assistant last."""
    if reason := chat_roles(row):
        return reason
    for turns in _conversations(row):
        start = 1 if turns and turns[0]["role"] == "system" else 0
        for place, turn in enumerate(turns[start:]):
            wanted = CHAT_ROLES[1 + place % 2]
            if turn["role"] != wanted:
                here = f"turn {start + place + 1} is the {turn['role']}'s"
                return f"{here}, but turns must alternate and it is the {wanted}'s"
        if not turns[start:] or turns[-1]["role"] != "assistant":
            return "the conversation does not end with the assistant's turn"
    return None


def one_turn(row: Rendered) -> str | None:
    """Refuse pairs whose prompt is more than a system turn (or none) and one question."""
    if reason := alternating(row):
        return reason
    asked = [turn for turn in row["input"]["messages"] if turn["role"] != "system"]
    return None if len(asked) == 1 else f"the prompt has {len(asked)} turns; a pair may have one question only"


def _conversations(row: Rendered) -> list[Turns]:
    """Return the whole conversations that a trainer's row holds: one, or two for a pair."""
    if "input" in row:
        return [[*row["input"]["messages"], *row[name]] for name in ("preferred_output", "non_preferred_output")]
    if "prompt" in row:
        return [[*row["prompt"], *row[name]] for name in ("completion", "chosen", "rejected") if name in row]
    if "messages" in row and "chosen" in row:
        return [[*row["messages"], row[name]] for name in ("chosen", "rejected")]
    return [row[name] for name in ("messages", "chosen", "rejected") if name in row]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
