"""The finished student: a folder with model, card, report and manifest; published whole, renewed whole, checked.

An evaluation renews four files that belong together. They are made in `.renewing`; its rename to `.renewal` is the
moment from which the new state counts. Then each file takes its place, the manifest last. Whoever comes between, after
a crash too, finds what has not yet taken its place in `.renewal`, and brings it to its end where the folder can be
written: it is the old state or the new one, never a part of each.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from distillgen.dataset.manifest import FileEntry
from distillgen.dataset.seal import seal_holds, sealed
from distillgen.errors import Damaged, DiskFull, NotWritable, Problem, UsageError
from distillgen.files import canonical, digest, disk_errors, file_sha256, masked, sync_folder, write_atomically
from distillgen.student.card import write_card
from distillgen.student.manifest import (
    AGAIN,
    CARD,
    EVALUATION,
    MANIFEST,
    REPORT,
    TRAINING,
    StudentManifest,
    read_student_manifest,
)
from distillgen.student.page import student_page

RENEWED = (EVALUATION, REPORT, CARD, MANIFEST)  # by an evaluation, in the order in which they take their places


@dataclass(frozen=True)
class Student:
    """A student on disk, and what its manifest says."""

    folder: Path
    manifest: StudentManifest

    @property
    def gguf(self) -> Path | None:
        """Its GGUF file for llama.cpp, None when there is none."""
        return self.folder / self.manifest.gguf if self.manifest.gguf else None

    @property
    def parameters(self) -> int:
        """How many numbers the model consists of; 0 when the manifest does not say."""
        return int(self.manifest.base.get("parameters", 0))

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights for transformers and vLLM, the GGUF not counted."""
        return sum(entry.bytes for name, entry in self.manifest.files.items() if name.endswith(".safetensors"))

    @property
    def digest(self) -> str:
        """The sha256 of what answers: weights, configuration, tokenizer, GGUF. An evaluation does not change it."""
        return digest(canonical({name: entry.sha256 for name, entry in self.manifest.model_files.items()}))

    def evaluation(self) -> dict[str, Any] | None:
        """Return the newest evaluation, None before the first. Raises Damaged."""
        if EVALUATION not in self.manifest.files:
            return None
        path = _place(self.folder, EVALUATION)
        try:
            found = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            found = None
        if not isinstance(found, dict):
            raise Damaged("the evaluation cannot be read", where=str(path), fix="evaluate the student again")
        return found


def publish_student(made: Path, out: Path, manifest: StudentManifest) -> Student:
    """Make a folder that holds a trained model whole, and move it to `out`; the manifest's files are filled in here.

    `made` is on the same file system. Raises UsageError where there is something at `out`, NotWritable, DiskFull;
    `made` stays until it is moved, and this can be called again.
    """
    if os.path.lexists(out):
        raise UsageError(f"there is something at {out} already", fix="choose another folder with --out")
    with disk_errors(made):
        for name in (TRAINING, MANIFEST, CARD, REPORT, EVALUATION):  # of an attempt before, or the trainer's own
            for old in (made / name, *made.glob(f".{name}.*")):
                old.unlink(missing_ok=True)
    described = {key: value for key, value in manifest.model_dump(mode="json").items() if key != "files"}
    write_atomically(made / TRAINING, orjson.dumps(described, option=orjson.OPT_INDENT_2) + b"\n")
    with disk_errors(made):
        manifest = manifest.model_copy(update={"files": _on_disk(made)})
    write_atomically(made / CARD, write_card(manifest, None).encode())
    write_atomically(made / REPORT, student_page(manifest, None))
    with disk_errors(made):
        manifest = manifest.model_copy(update={"files": _on_disk(made)})
    write_atomically(made / MANIFEST, sealed(manifest.dump()))
    with disk_errors(out):
        _settle(made)
        made.rename(out)
        sync_folder(out.parent)
    return Student(out, manifest)


def read_student(folder: Path) -> Student:
    """Read the student in a folder, and see that the model's files are there with their sizes.

    What describes the model may be another by now: people edit cards.

    Raises UsageError where there is no student, Damaged, NewerFormat.
    """
    _require(folder)
    with _alone(folder):
        with contextlib.suppress(NotWritable, DiskFull):
            _finish(folder)
        manifest = read_student_manifest(folder, _place(folder, MANIFEST))
        for name, entry in manifest.model_files.items():
            if problem := _wrong_size(folder, name, entry):
                raise Damaged(problem.what, where=problem.where, fix=AGAIN)
    return Student(folder, manifest)


def require_whole_model(student: Student) -> None:
    """Read all files of the model, and raise Damaged for the first that is not what was trained."""
    for name, entry in student.manifest.model_files.items():
        if problem := _wrong_content(student.folder, name, entry):
            raise Damaged(problem.what, where=problem.where, fix=AGAIN)


def check_student(folder: Path) -> tuple[Student, list[Problem]]:
    """Return the student in a folder, and what is not as it was written: the manifest's seal, files that are gone,
    changed, or not in it.

    Raises UsageError where there is no student, Damaged where its manifest cannot be read, NewerFormat.
    """
    _require(folder)
    with _alone(folder):
        manifest = read_student_manifest(folder, _place(folder, MANIFEST))
        wrong = []
        if not seal_holds(_place(folder, MANIFEST).read_bytes()):
            wrong.append(Problem("the manifest is not as it was written", str(_place(folder, MANIFEST)), AGAIN))
        for name, entry in sorted(manifest.files.items()):
            if problem := _wrong_size(folder, name, entry) or _wrong_content(folder, name, entry):
                wrong.append(problem)
        unknown = (name for name in _names(folder) if name not in manifest.files and name != MANIFEST)
        wrong += [Problem(f"{name} is not in the manifest", str(folder), "remove it, or mind it") for name in unknown]
    return Student(folder, manifest), wrong


def _require(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"no student at {folder}", fix="name the folder that `distillgen student train` made")


def add_evaluation(student: Student, evaluation: Mapping[str, Any], page: bytes) -> Student:
    """Put an evaluation and the report with it into a student's folder, and into its card: all of it or nothing.

    Raises UsageError where the folder holds another model by now, NotWritable, DiskFull.
    """
    folder = student.folder
    with _alone(folder):
        _finish(folder)
        manifest = read_student_manifest(folder, _place(folder, MANIFEST))
        if Student(folder, manifest).digest != student.digest:
            raise UsageError(
                f"{folder} holds another model than the one that was evaluated", fix="evaluate this one again"
            )
        contents = {
            EVALUATION: orjson.dumps(evaluation, option=orjson.OPT_INDENT_2) + b"\n",
            REPORT: page,
            CARD: _edited_card(folder, manifest) or write_card(manifest, evaluation).encode(),
        }
        entries = {
            name: FileEntry(bytes=len(each), sha256=hashlib.sha256(each).hexdigest()) for name, each in contents.items()
        }
        manifest = manifest.model_copy(update={"files": dict(sorted({**manifest.files, **entries}.items()))})
        _commit(folder, {**contents, MANIFEST: sealed(manifest.dump())})
        _finish(folder)
    return Student(folder, manifest)


def _edited_card(folder: Path, manifest: StudentManifest) -> bytes | None:
    """Return the card where somebody has changed it by hand: it stays as it is. None where it is ours, or gone."""
    try:
        found = (folder / CARD).read_bytes()
    except OSError:
        return None
    entry = manifest.files.get(CARD)
    return None if entry is not None and hashlib.sha256(found).hexdigest() == entry.sha256 else found


def is_card_edited(student: Student) -> bool:
    """Whether somebody has changed the card by hand, so that an evaluation leaves it as it is."""
    return _edited_card(student.folder, student.manifest) is not None


def _commit(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the new files beside the old ones; from the rename on they count."""
    making, renewal = folder / ".renewing", folder / ".renewal"
    with disk_errors(folder):
        if making.exists():
            shutil.rmtree(making)
        making.mkdir()
    try:
        for name, content in contents.items():
            write_atomically(making / name, content)
        with disk_errors(folder):
            making.rename(renewal)
            sync_folder(folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def _finish(folder: Path) -> None:
    """Bring a renewal to its end that was committed: every file to its place, the manifest last."""
    renewal = folder / ".renewal"
    if not renewal.is_dir():
        return
    with disk_errors(folder):
        for name in RENEWED:
            if name == MANIFEST:
                sync_folder(folder)  # no power cut may leave the manifest moved and another file not
            if (renewal / name).is_file():
                (renewal / name).replace(folder / name)
        sync_folder(folder)
        shutil.rmtree(renewal)


def _place(folder: Path, name: str) -> Path:
    """Return where a file stands: in a renewal that did not come to its end, or in its place."""
    waiting = folder / ".renewal" / name
    return waiting if name in RENEWED and waiting.is_file() else folder / name


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others from reading or renewing a student meanwhile; each takes moments, so they wait. Leaves no file."""
    with disk_errors(folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: readers then rely on the order of writing
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _wrong_size(folder: Path, name: str, entry: FileEntry) -> Problem | None:
    path = _place(folder, name)
    if not path.is_file():
        return Problem(f"{name} is missing", str(folder), AGAIN)
    if (size := path.stat().st_size) != entry.bytes:
        return Problem(f"{name} has {size:,} bytes, and had {entry.bytes:,}", str(path), AGAIN)
    return None


def _wrong_content(folder: Path, name: str, entry: FileEntry) -> Problem | None:
    path = _place(folder, name)
    try:
        found = file_sha256(path)
    except OSError as error:
        return Problem(f"{name} cannot be read: {error.strerror}", str(path), AGAIN)
    return None if found == entry.sha256 else Problem(f"{name} is not what was written", str(path), AGAIN)


def _names(folder: Path) -> list[str]:
    """Return the files below a folder, with / between the parts; hidden ones belong to others (git, the hub)."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts))


def _on_disk(folder: Path) -> dict[str, FileEntry]:
    return {
        name: FileEntry(bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
        for name in _names(folder)
    }


def _settle(folder: Path) -> None:
    """Make every file below a folder, and every name, readable as the umask allows and safe from a power cut.

    The trainer's libraries do neither: safetensors writes weights that their owner alone may read.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fchmod(file.fileno(), masked(0o644))
                os.fsync(file.fileno())
        elif path.is_dir():
            path.chmod(masked(0o755))
            sync_folder(path)
    folder.chmod(masked(0o755))
    sync_folder(folder)
