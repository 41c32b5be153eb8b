"""The file with what everybody said to each question of an evaluation: a line of JSON a question."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import UsageError
from distillgen.files import json_line, output_file

LONGEST = 1_000_000  # bytes of a first line that tells what a file is


def require_place(path: Path, student: Path) -> None:
    """Insist that answers may be written there: over nothing but answers of before, and into no student.

    Raises UsageError.
    """
    if path.name == "-" or path.is_dir():
        raise UsageError("--answers is no file", where=str(path), fix="name a file: answers.jsonl")
    if path.resolve().is_relative_to(student.resolve()):
        raise UsageError("--answers is in the student's folder", where=str(path), fix="name a file elsewhere")
    if path.is_file() and path.stat().st_size and not _holds_answers(path):
        raise UsageError(
            "--answers would replace a file that holds something else", where=str(path), fix="name another file"
        )


def _holds_answers(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline(LONGEST))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and {"id", "question", "answers", "right"} <= first.keys()


def write_answers(path: Path, answers: Sequence[Mapping[str, Any]]) -> None:
    """Write them, whole or not at all. Raises NotWritable, DiskFull."""
    with output_file(path) as file:
        file.writelines(json_line(answer) + b"\n" for answer in answers)
