"""Says where a project stands: who is at work, what is stored, what it cost, what was sent without an answer."""

import contextlib
from pathlib import Path
from typing import Any

from distillgen.dataset.versions import latest
from distillgen.files import holder
from distillgen.state import state_folder
from distillgen.teacher.answers import AnswerStore, Spent
from distillgen.teacher.batch_records import batches_under_way
from distillgen.teacher.sent import Unknown, logs, read_notes


def examine(project: Path, state: Path | None = None) -> dict[str, Any]:
    """Return the state of a project. Raises Damaged when its store cannot be read."""
    folder = state_folder(project, state)
    answers, spent = 0, Spent()
    left: list[Unknown] = []
    # What a run at work has noted without an outcome is under way; of a run that ended, nobody knows.
    under_way = [unknown for path in logs(folder, live=True) for unknown in read_notes(path)[1]]
    if (folder / "answers.sqlite").is_file():
        with contextlib.closing(AnswerStore(folder / "answers.sqlite")) as store:
            answers, spent = store.count(), store.spent()
            left = [unknown for path in logs(folder) for unknown in store.unknown_in(path)[1]]
    homes = sorted(entry for entry in (project / "datasets").glob("*") if entry.is_dir())
    found = {home.name: version.manifest for home in homes if (version := latest(home)) is not None}
    return {
        "at_work": holder(folder / "lock"),
        "stored_answers": answers,
        "spent": {
            "calls": spent.calls,
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            "usd": spent.nanousd / 1e9,
            "unpriced_calls": spent.unpriced,
            "unknown_calls": spent.unknown + len(left),
            "unknown_usd": (spent.unknown_nanousd + sum(each.nanousd or 0 for each in left)) / 1e9,
        },
        "in_flight": len(under_way),
        "batches": [
            {
                "id": batch.batch_id or None,
                "status": batch.status,
                "model": batch.model,
                "requests": batch.requests,
                "completed": batch.completed,
                "submitted_at": batch.written,
            }
            for batch in batches_under_way(folder / "batches")
        ],
        "datasets": {name: {"version": m.version, "rows": m.rows, "run": m.run} for name, m in found.items()},
    }
