"""What came of a project's last run: a small file beside its answers, for `status` and for a monitor."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, NonNegativeInt, PrivateAttr, ValidationError

from distillgen.errors import DistillgenError, Locked, NotWritable
from distillgen.files import write_atomically
from distillgen.tally import Tally

FILE = "last_run.json"
Time = Annotated[float, Field(ge=0, lt=253402300800, allow_inf_nan=False)]  # seconds since 1970, until the year 9999


class LastRun(BaseModel):
    """A run that ended, well or not. Times are seconds since 1970; `error` is a code as in docs/errors.md."""

    recipe: str
    dataset: str | None = None
    started: Time = 0.0
    finished: Time = 0.0
    exit_status: int = Field(0, ge=0, le=255)
    error: str | None = Field(None, pattern=r"^DG[0-9]{3}$")
    version: str | None = None
    unchanged: str | None = None
    seeds: NonNegativeInt = 0
    rows: NonNegativeInt = 0
    rejected: NonNegativeInt = 0
    failed: NonNegativeInt = 0
    calls: NonNegativeInt = 0
    prompt_tokens: NonNegativeInt = 0
    completion_tokens: NonNegativeInt = 0
    usd: float = Field(0.0, ge=0, allow_inf_nan=False)
    unpriced_calls: NonNegativeInt = 0
    last_success: Time | None = None
    _tally: Tally | None = PrivateAttr(None)

    def follow(self, dataset: str, tally: Tally) -> None:
        """Take the figures from a tally, as they are when the run ends."""
        self.dataset, self._tally = dataset, tally

    def end(self, exit_status: int, error: str | None) -> None:
        """Note the end and the figures."""
        self.finished, self.exit_status, self.error = time.time(), exit_status, error
        if exit_status == 0:
            self.last_success = self.finished
        self.count()

    def count(self) -> None:
        """Take the figures of the tally as they are now."""
        if tally := self._tally:
            self.seeds, self.rows = tally.seeds, tally.published
            self.rejected, self.failed = tally.rejected, tally.failed
            self.calls, self.usd, self.unpriced_calls = tally.calls, round(tally.usd, 9), tally.unpriced
            self.prompt_tokens, self.completion_tokens = tally.tokens


@contextlib.contextmanager
def on_record(
    recipe: Path, state: Path, metrics: Path | None, as_ours: Callable[[Exception], DistillgenError]
) -> Iterator[LastRun]:
    """Put on record how a block ends, in the state folder if there is one, and as metrics if a file is named.

    A run that found the lock taken is none: the one at work is on record when it ends. Raises NotWritable at once when
    metrics could not be written at the end. `as_ours` says what people are told of an error that nobody expected.
    """
    if metrics is not None:
        _require_place_for(metrics)
    before = last_run(state)
    name = str(recipe.absolute()).encode(errors="backslashreplace").decode()  # a name on disk need not be UTF-8
    run = LastRun(recipe=name, started=time.time())
    if before is not None:  # the name too, should the recipe not be readable now
        run.dataset, run.last_success = before.dataset, before.last_success
    try:
        yield run
    except Locked:
        raise
    except BaseException as error:
        run.end(*_end_of(error, as_ours))
        with contextlib.suppress(DistillgenError):  # a full disk must not hide what ended the run
            _put_down(run, state, metrics)
        raise
    run.end(0, None)
    _put_down(run, state, metrics)


def _require_place_for(metrics: Path) -> None:
    """Refuse before anything is sent what could not be written after it."""
    if (metrics.exists() and not metrics.is_file()) or not os.access(metrics.absolute().parent, os.W_OK):
        fix = "name a plain file, new or old, in a folder that is there"
        raise NotWritable(f"cannot write {metrics}", where="--metrics", fix=fix)


def _put_down(run: LastRun, state: Path, metrics: Path | None) -> None:
    if metrics is not None:
        from distillgen.metrics import write_metrics

        write_metrics(run, metrics)
    if state.is_dir():
        write_atomically(state / FILE, run.model_dump_json().encode())


def last_run(state: Path) -> LastRun | None:
    """Return what came of the last run that ended; None when none has, or nobody can read it."""
    with contextlib.suppress(OSError, ValidationError):
        return LastRun.model_validate_json((state / FILE).read_bytes())
    return None


def _end_of(error: BaseException, as_ours: Callable[[Exception], DistillgenError]) -> tuple[int, str | None]:
    """Return exit status and code of what ends a command: our errors, typer's exits, signals and closed pipes."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, None
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE, None
    status = getattr(error, "exit_code", None)
    if isinstance(status, int) or not isinstance(error, Exception):
        return 1 if status is None else status, None
    told = as_ours(error)
    return told.exit_status, told.code
