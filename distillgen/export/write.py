"""Writes a version in a format that trainers take, row by row, to a folder or to standard output."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from distillgen.dataset.versions import Version
from distillgen.errors import UsageError
from distillgen.files import JsonlFile, disk_errors, dumps, read_jsonl

Reasoning: TypeAlias = Literal["think", "field", "drop"]


def read_rows(version: Version, split: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (split, training row) of a version, in order, one split after the other. Raises NotFound, Damaged."""
    for name in version.split_names(split):
        for file in version.data_files(name):
            for row in read_jsonl(file):
                yield name, row


def messages(row: Mapping[str, Any], version: Version, reasoning: Reasoning) -> dict[str, Any]:
    """Return `{"messages": [...]}`: OpenAI's chat format, which most trainers take."""
    return {"messages": _conversation(row, version, reasoning)}


def prompt_completion(row: Mapping[str, Any], version: Version, reasoning: Reasoning) -> dict[str, Any]:
    """Return `{"prompt", "completion"}`: texts where every row is one question and one answer, else lists of messages.

    Trainers compute the loss on the completion only.
    """
    *prompt, completion = _conversation(row, version, reasoning)
    student = version.manifest.recipe.get("student", {})
    if student.get("prompt") is not None and student.get("system") is None and reasoning != "field":
        return {"prompt": prompt[0]["content"], "completion": completion["content"]}
    return {"prompt": prompt, "completion": [completion]}


def preference(row: Mapping[str, Any], version: Version, reasoning: Reasoning) -> dict[str, Any]:
    """Return `{"prompt", "chosen", "rejected"}`, each a list of messages: what preference trainers such as DPO take."""
    if "chosen" not in row:
        raise _unfit(version, "has no pairs of a better and a worse answer", "[student] `rejected` makes them")
    return {name: row[name] for name in ("prompt", "chosen", "rejected")}


FORMATS: Mapping[str, Callable[[Mapping[str, Any], Version, Reasoning], dict[str, Any]]] = {
    "messages": messages,
    "prompt-completion": prompt_completion,
    "preference": preference,
}


def _unfit(version: Version, what: str, fix: str) -> UsageError:
    return UsageError(f"{version.label} {what}", where=str(version.folder), fix=fix)


def _conversation(row: Mapping[str, Any], version: Version, reasoning: Reasoning) -> list[dict[str, Any]]:
    """Return the messages with the reasoning trace where it was asked for."""
    if "messages" not in row:
        raise _unfit(version, "holds preference pairs, not conversations", "--format preference")
    *turns, answer = row["messages"]
    trace = row.get("reasoning") or ""
    if reasoning == "think" and trace:
        answer = {**answer, "content": f"<think>\n{trace}\n</think>\n\n{answer['content']}"}
    elif reasoning == "field" and "reasoning" in row:
        answer = {**answer, "reasoning_content": trace}
    return [*turns, answer]


def export_to(out: IO[bytes], version: Version, form: str, *, split: str | None, reasoning: Reasoning) -> int:
    """Write rows as JSONL to an open stream; return how many."""
    count = 0
    for _, row in read_rows(version, split):
        out.write(dumps(FORMATS[form](row, version, reasoning)).encode() + b"\n")
        count += 1
    return count


def export_folder(folder: Path, version: Version, form: str, *, split: str | None, reasoning: Reasoning) -> list[Path]:
    """Write one `SPLIT.jsonl` per split into a folder, each whole or not at all; return the files."""
    written = []
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in version.split_names(split):
        spare = JsonlFile(folder / f".{name}.jsonl")
        for _, row in read_rows(version, name):
            spare.write(FORMATS[form](row, version, reasoning))
        spare.close()
        with disk_errors(folder):
            written.append(spare.path.rename(folder / f"{name}.jsonl"))
    return written
