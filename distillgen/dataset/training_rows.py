"""What the student sees: a row of the road rendered into a conversation, one schema for every row of a version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillgen.errors import RowFailed
from distillgen.prompts import Template, wrong_messages
from distillgen.rows import Rejection, Row


@dataclass(frozen=True)
class StudentTemplates:
    """The `[student]` table, compiled. Without a prompt the seed's own `messages` are the conversation."""

    system: Template | None
    prompt: Template | None
    completion: Template
    reasoning: Template | None
    rejected: Template | None = None  # makes preference pairs: a prompt, a better and a worse answer

    @property
    def features(self) -> list[dict[str, Any]]:
        """The columns of a training row as a dataset card states them."""
        turns = [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
        names = ["prompt", "chosen", "rejected"] if self.rejected else ["messages"]
        columns: list[dict[str, Any]] = [{"name": "id", "dtype": "string"}]
        columns += [{"name": name, "list": turns} for name in names]
        return columns + ([{"name": "reasoning", "dtype": "string"}] if self.reasoning else [])


def training_row(row: Row, student: StudentTemplates) -> dict[str, Any] | Rejection:
    """Return `{"id", "messages"}`, or `{"id", "prompt", "chosen", "rejected"}` of a pair, each a list of messages, with
    `reasoning` if the recipe has it; or why the student cannot use the row."""
    columns = row.columns
    try:
        completion = student.completion.render(columns)
        messages = [{"role": "system", "content": student.system.render(columns)}] if student.system else []
        if student.prompt:
            messages.append({"role": "user", "content": student.prompt.render(columns)})
        else:
            messages += _own_messages(columns)
        worse = student.rejected.render(columns) if student.rejected else ""
        reasoning = {"reasoning": student.reasoning.render(columns)} if student.reasoning else {}
    except RowFailed as failed:
        return Rejection(row, "student", failed.cause, failed.detail)
    if not completion:
        return Rejection(row, "student", "empty_completion", "the student's completion renders to nothing")
    if student.rejected:
        if worse in ("", completion):
            what = "renders to nothing" if not worse else "is the better one too"
            return Rejection(row, "student", "no_pair", f"the worse answer {what}")
        pair = {"chosen": [_assistant(completion)], "rejected": [_assistant(worse)]}
        return {"id": row.id, "prompt": messages, **pair, **reasoning}
    return {"id": row.id, "messages": [*messages, _assistant(completion)], **reasoning}


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def _own_messages(columns: Mapping[str, Any]) -> list[dict[str, str]]:
    turns = columns.get("messages")
    if wrong := wrong_messages(turns):
        raise RowFailed("messages", wrong, lasting=True)
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns or []]
