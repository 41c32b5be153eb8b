"""The trainer as a child process: started, listened to, ended with a checkpoint, and its errors told as ours."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from distillgen.errors import DistillgenError, Interrupted, Locked, MemoryFull, UsageError
from distillgen.files import disk_errors, holder, write_atomically
from distillgen.student.checkpoints import Checkpoint
from distillgen.student.child import KINDS, last_words, started
from distillgen.student.order import Order, split_to_train, split_to_watch
from distillgen.student.progress import Event, OnEvent

STOP_SECONDS = 60.0  # that the trainer of a run which was killed gets to end with a checkpoint
GOES_ON = "the same command goes on where it stopped"
STOPPING = "stopping as soon as what was learnt is kept; once more to leave at once"
LASTING = ("step", "validation", "checkpoint", "resumed")  # events of earlier runs that still hold


@dataclass
class Told:
    """What the trainer told: its events as far as they count, and what it ended with."""

    rows: Event = field(default_factory=dict)
    steps: list[Event] = field(default_factory=list)
    validations: list[Event] = field(default_factory=list)
    resumed: int = 0
    checkpoint: int = 0  # the step of the newest
    end: Event | None = None
    error: Event | None = None
    is_stopped: bool = False

    def take(self, event: Event) -> None:
        kind = event.get("event")
        if kind == "rows":
            self.rows = event
        elif kind == "step":
            self.steps.append(event)
        elif kind == "validation":
            self.validations.append(event)
        elif kind == "resumed":
            self.resumed += 1
        elif kind == "checkpoint":
            self.checkpoint = event["step"]
        elif kind == "end":
            self.end = event
        elif kind == "error":
            self.error = event
        elif kind == "stopped":
            self.is_stopped = True


def await_trainer(work: Path, on_event: OnEvent) -> None:
    """Wait until the trainer of a run that was killed has ended with its checkpoint. Raises Locked if it does not."""
    lock = work / "trainer.lock"
    began, is_told = time.monotonic(), False
    while (at_work := holder(lock)) is not None:
        waited = time.monotonic() - began
        if waited > STOP_SECONDS:
            raise Locked(
                f"the trainer of an earlier run is still at work: {at_work}", where=str(lock),
                fix="wait until it has made its checkpoint, or stop that process; then run the same command again",
            )  # fmt: skip
        if waited > 1 and not is_told:
            is_told = True
            on_event({"event": "message", "text": "waiting for an earlier run, which is making its last checkpoint"})
        time.sleep(0.2)


def run_trainer(order: Order, checkpoint: Checkpoint | None, on_event: OnEvent) -> Told:
    """Run the trainer to its end. Raises what went wrong, and Interrupted when it was stopped."""
    told = Told()
    _take_up(order.work / "events.jsonl", checkpoint, told)
    log = order.work / "log"
    shutil.rmtree(order.work / "made", ignore_errors=True)

    def take(event: Event) -> None:
        told.take(event)
        on_event(event)

    if checkpoint is not None:
        on_event({"event": "message", "text": f"going on from the checkpoint at step {checkpoint.step:,}"})
        on_event({"event": "resumed", "step": checkpoint.step})
    with disk_errors(log):
        noise = log.open("ab")
    with noise:
        status = _run(order, checkpoint, told, noise, take)
    if told.error is not None:
        raise _error(order, told, told.error, log)
    if told.is_stopped:
        raise Interrupted(f"stopped; {_kept(told)}", signal_number=signal.SIGTERM)
    if told.end is None:
        raise _ended(status, told, log)
    return told


def _take_up(journal: Path, checkpoint: Checkpoint | None, told: Told) -> None:
    """Keep of the events of earlier runs those up to the checkpoint, and note that it was gone on from there: what came
    later is done again. The trainer writes on from here."""
    lines: list[bytes] = []
    with contextlib.suppress(FileNotFoundError):
        lines = journal.read_bytes().splitlines()
    kept = []
    upto = checkpoint.step if checkpoint is not None else -1
    for line in lines:
        with contextlib.suppress(ValueError):  # a line that a crash cut off
            event = orjson.loads(line)
            if event.get("event") in LASTING and event["step"] <= upto:
                kept.append(line)
                told.take(event)
    if checkpoint is not None:
        resumed = {"event": "resumed", "step": checkpoint.step}
        kept.append(orjson.dumps(resumed))
        told.take(resumed)
    write_atomically(journal, b"".join(line + b"\n" for line in kept))


def _run(order: Order, checkpoint: Checkpoint | None, told: Told, noise: IO[bytes], take: OnEvent) -> int:
    """Run the child and pass on its events; return its exit status. A stop ends it with a checkpoint."""
    environment = {
        "OMP_NUM_THREADS": str(order.settings.threads),
        "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait slow down tenfold beside a busy process
        "HF_DATASETS_CACHE": str(order.work / "cache"),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),  # TRL refuses several in one process
    }
    with started("distillgen.student.trainer", _for_child(order, checkpoint, told), noise, **environment) as process:
        try:
            for event in _events(process):
                take(event)
            return process.wait()
        except (KeyboardInterrupt, Interrupted) as stop:
            _end(process, take)
            number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else stop.exit_status - 128
            raise Interrupted(f"stopped; {_kept(told)}", signal_number=number) from None


def _for_child(order: Order, checkpoint: Checkpoint | None, told: Told) -> dict[str, Any]:
    last = told.steps[-1] if told.steps else {"seconds": 0.0, "tokens": 0}
    return {
        "work": str(order.work), "made": str(order.work / "made"),
        "version": str(order.version.folder.absolute()), "train": split_to_train(order.version),
        "validation": split_to_watch(order.version), "base": str(order.base.folder.absolute()),
        "parameters": order.base.parameters, "settings": order.settings.model_dump(), "long": order.long,
        "reasoning": order.reasoning, "checkpoint": checkpoint.folder.name if checkpoint else None,
        "seconds_before": last["seconds"], "tokens_before": last["tokens"],
    }  # fmt: skip


def _events(process: "subprocess.Popen[bytes]") -> Iterator[Event]:
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError):  # a line that a kill cut off
            event = orjson.loads(line)
            if isinstance(event, dict):
                yield event


def _end(process: "subprocess.Popen[bytes]", take: OnEvent) -> None:
    """Have the child end with a checkpoint, and go on listening until it has; a second signal ends it at once.

    However long that takes: a step or a look at the validation split may take minutes.
    """
    process.terminate()
    try:
        take({"event": "message", "text": STOPPING})
        for event in _events(process):
            take(event)
        process.wait()
    except (KeyboardInterrupt, Interrupted):
        process.kill()


def _kept(told: Told) -> str:
    if not told.checkpoint:
        return "there was no checkpoint yet: the same command begins anew"
    return f"what was learnt up to step {told.checkpoint:,} is kept: {GOES_ON}"


def _error(order: Order, told: Told, event: Event, log: Path) -> DistillgenError:
    """Return the error that the trainer told of."""
    kind, fix = str(event.get("kind", "")), str(event.get("fix", ""))
    if kind == "diverged":  # other settings may begin anew
        fix = f"{fix}; {_put_aside(order.work)}" if told.checkpoint else fix
    elif told.checkpoint and kind in ("disk", "memory"):
        fix = f"{fix.removesuffix('; what was decided is kept')}; {_kept(told)}"
    return KINDS.get(kind, UsageError)(str(event["what"]), where=str(event.get("where") or log), fix=fix)


def _put_aside(work: Path) -> str:
    """Put the checkpoints of a training that diverged where no other order takes them for its own; say where."""
    aside = work / "diverged"
    with disk_errors(aside):
        if aside.exists():
            shutil.rmtree(aside)
        (work / "checkpoints").rename(aside)
    return f"what was learnt before is kept in {aside}"


def _ended(status: int, told: Told, log: Path) -> DistillgenError:
    """Return the error for a trainer that ended without a word."""
    if status == -signal.SIGKILL:
        return MemoryFull(
            f"the trainer was killed from outside, most likely for want of memory; {_kept(told)}", where=str(log),
            fix='end other programs; or a smaller batch, max_tokens, or method = "lora"',
        )  # fmt: skip
    return UsageError(
        f"the trainer ended without a word (exit status {status}); {last_words(log)}", where=str(log),
        fix=f"look into the log; {_kept(told)}",
    )  # fmt: skip
