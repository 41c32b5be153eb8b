"""Says where a project stands: who is at work, how the last run ended, what is stored and what it cost, versions."""

import contextlib
import datetime
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillgen.dataset.versions import Version, latest
from distillgen.errors import Damaged, DistillgenError, NotFound
from distillgen.files import Holder, holder, utc
from distillgen.last_run import LastRun, last_run
from distillgen.state import state_folder
from distillgen.teacher.answers import AnswerStore, Spent
from distillgen.teacher.batch_records import batches_under_way
from distillgen.teacher.sent import Unknown, logs, read_notes


@dataclass
class Status:
    """A project as it is now. `spent` and `stored_answers` are None when the store cannot be read."""

    at_work: Holder | None
    last_run: LastRun | None
    stored_answers: int | None = 0
    spent: Spent | None = field(default_factory=Spent)
    unknown: list[Unknown] = field(default_factory=list)
    in_flight: int = 0
    batches: list[dict[str, Any]] = field(default_factory=list)
    datasets: dict[str, Version] = field(default_factory=dict)
    damages: list[DistillgenError] = field(default_factory=list)
    now: float = field(default_factory=time.time)

    @property
    def unknown_calls(self) -> int:
        """How many requests were sent whose outcome nobody knows."""
        return (self.spent.unknown if self.spent else 0) + len(self.unknown)

    @property
    def unknown_usd(self) -> float:
        """The most that they can have cost, in dollars, as far as prices are known."""
        known = self.spent.unknown_nanousd if self.spent else 0
        return (known + sum(each.nanousd or 0 for each in self.unknown)) / 1e9


def examine(project: Path, state: Path | None = None) -> Status:
    """Return the state of a project; what is damaged is told in it. Raises NotFound when there is no such folder."""
    if not project.is_dir():
        raise NotFound(f"no folder {str(project)!r}", where="--project")
    folder = state_folder(project, state)
    status = Status(holder(folder / "lock"), last_run(folder))
    # What a run at work has noted without an outcome is under way; of a run that ended, nobody knows.
    status.in_flight = sum(len(read_notes(path)[1]) for path in logs(folder, live=True))
    _read_store(folder, status)
    status.batches = [
        {
            "id": batch.batch_id or None, "status": batch.status, "model": batch.model, "requests": batch.requests,
            "completed": batch.completed, "submitted_at": utc(batch.written),
        }
        for batch in batches_under_way(folder / "batches")
    ]  # fmt: skip
    _read_datasets(project / "datasets", status)
    return status


def _read_datasets(folder: Path, status: Status) -> None:
    """Look for the newest version of each dataset; that a folder may not be read is no reason to take it for empty."""
    for home in _folders_in(folder, status):
        try:
            if (version := latest(home)) is not None:
                status.datasets[home.name] = version
        except DistillgenError as error:
            status.damages.append(error)
        except OSError as error:
            status.damages.append(_unreadable(home, error))


def _folders_in(folder: Path, status: Status) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        status.damages.append(_unreadable(folder, error))
        return []


def _unreadable(folder: Path, error: OSError) -> Damaged:
    return Damaged(f"cannot be read: {error.strerror}", where=str(folder), fix="make it readable for this user")


def _read_store(folder: Path, status: Status) -> None:
    if not (folder / "answers.sqlite").is_file():
        return
    try:
        with contextlib.closing(AnswerStore(folder / "answers.sqlite")) as store:
            status.stored_answers, status.spent = store.count(), store.spent()
            status.unknown = [unknown for path in logs(folder) for unknown in store.unknown_in(path)[1]]
    except DistillgenError as error:  # damaged, or of a newer format
        status.stored_answers = status.spent = None
        status.damages.append(error)


def as_json(status: Status) -> dict[str, Any]:
    """Return it for programs: times in UTC, ages in seconds, null for what is not known."""
    return {
        "now": utc(status.now),
        "at_work": _at_work(status),
        "last_run": _last_run(status.last_run),
        "last_success": _time(status.last_run.last_success if status.last_run else None),
        "stored_answers": status.stored_answers,
        "spent": _spent(status),
        "in_flight": status.in_flight,
        "batches": status.batches,
        "datasets": {name: _dataset(version, status.now) for name, version in status.datasets.items()},
        "damaged": [{"code": error.code, "where": error.problems[0].where} for error in status.damages],
    }


def _at_work(status: Status) -> dict[str, Any] | None:
    if (who := status.at_work) is None:
        return None
    seconds = None if who.since is None else max(round(status.now - who.since), 0)
    return {"process": who.process, "host": who.host, "since": _time(who.since), "seconds": seconds}


def _last_run(run: LastRun | None) -> dict[str, Any] | None:
    if run is None:
        return None
    times = {"started": utc(run.started), "finished": utc(run.finished)}
    seconds = max(round(run.finished - run.started, 3), 0.0)
    return {**run.model_dump(exclude={"last_success"}), **times, "seconds": seconds}


def _spent(status: Status) -> dict[str, Any] | None:
    if (spent := status.spent) is None:
        return None
    return {
        "calls": spent.calls,
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "usd": spent.nanousd / 1e9,
        "unpriced_calls": spent.unpriced,
        "unknown_calls": status.unknown_calls,
        "unknown_usd": status.unknown_usd,
    }


def _dataset(version: Version, now: float) -> dict[str, Any]:
    manifest = version.manifest
    published = published_at(version)
    return {
        "version": version.label,
        "number": manifest.version,
        "rows": manifest.rows,
        "is_partial": manifest.is_partial,
        "published": _time(published),
        "age_seconds": None if published is None else max(round(now - published), 0),
    }


def published_at(version: Version) -> float | None:
    """Return when a version was published, in seconds since 1970; None where its manifest does not say so."""
    try:
        return datetime.datetime.fromisoformat(version.manifest.run["finished"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else utc(seconds)
