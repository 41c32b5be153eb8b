"""Says where a project stands: who is at work, what is stored, what it cost, what was sent without an answer."""

from pathlib import Path
from typing import Any

from distillgen.dataset.versions import latest
from distillgen.files import holder
from distillgen.state import state_folder
from distillgen.teacher.answers import AnswerStore, Spent
from distillgen.teacher.sent import logs, read_notes


def examine(project: Path, state: Path | None = None) -> dict[str, Any]:
    """Return the state of a project. Raises Damaged when its store cannot be read."""
    folder = state_folder(project, state)
    answers, spent = 0, Spent()
    if (folder / "answers.sqlite").is_file():
        store = AnswerStore(folder / "answers.sqlite")
        answers, spent = store.count(), store.spent()
        store.close()
    # What a run at work has noted without an outcome is under way; of a run that ended, nobody knows.
    left, under_way = (
        [unknown for path in logs(folder, live=live) for unknown in read_notes(path)[1]] for live in (False, True)
    )
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
        "datasets": {name: {"version": m.version, "rows": m.rows, "run": m.run} for name, m in found.items()},
    }
