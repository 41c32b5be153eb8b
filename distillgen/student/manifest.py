"""What a student's manifest.json holds, which shape it has to have, and how it is read."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from distillgen.dataset.manifest import FileEntry
from distillgen.errors import Damaged, NewerFormat, UsageError
from distillgen.student.weights import read_object

FORMAT = 1
# Files that say something about the model.
MANIFEST, CARD, REPORT = "manifest.json", "README.md", "report.html"
EVALUATION, TRAINING = "evaluation.json", "training.json"
DESCRIBING = frozenset({CARD, REPORT, EVALUATION, TRAINING})
LONGEST_NAME = 255  # bytes of a part of a path: no file system has a file of a longer one
AGAIN = "copy or download it again, or train it again into another folder"


class _Part(BaseModel):
    """A part of a manifest, of which only what the card and the report count with is looked at."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Condition(_Part):
    kind: str
    text: str
    value: str = ""


class _Judged(_Part):
    verdict: str
    reason: str
    entry: dict[str, Any]


class _Terms(_Part):
    conditions: list[_Condition] = []
    teachers: dict[str, list[_Judged]] = {}
    accepted: dict[str, dict[str, Any]] = {}


class _StudentSettings(_Part):
    system: str | None = None
    prompt: str | None = None


class _Recipe(_Part):
    student: _StudentSettings = _StudentSettings()


class _Dataset(_Part):
    name: str
    version: int
    digest: str
    rows: int
    splits: dict[str, int] = {}
    labels: dict[str, dict[str, int]] = {}
    recipe: _Recipe = _Recipe()
    teachers: dict[str, dict[str, Any]] = {}
    terms: _Terms = _Terms()
    description: str = ""
    example: list[dict[str, Any]] = []


class _Base(_Part):
    name: str
    title: str = ""
    licence: str = "unknown"
    sha256: str = ""
    gguf_sha256: str | None = None
    parameters: int = 0
    bytes: int = 0
    context: int = 0


_Point = Annotated[list[float | None], Field(min_length=2, max_length=2)]  # step and figure: null when it was no number


class _Loss(_Part):
    train: list[_Point] = []
    validation: list[_Point] = []


class _Training(_Part):
    train_rows: int = 0
    validation_rows: int = 0
    long_rows: int = 0
    steps: int = 0
    best_step: int | None = None
    stopped_early: bool = False
    seconds: float = 0
    tokens: int = 0
    loss: _Loss = _Loss()
    accuracy: list[_Point] = []


def _shaped(part: type[_Part]) -> AfterValidator:
    """Return what refuses a table that has not the shape of `part`, and leaves it a table."""

    def check(table: dict[str, Any]) -> dict[str, Any]:
        part.model_validate(table)
        return table

    return AfterValidator(check)


class StudentManifest(BaseModel):
    """Everything about a student but its weights.

    dataset: name, version, digest, rows, splits, labels, recipe, prompts, teachers, terms, description, and, if there
    is one, `example`: the messages of a row, the answer last.
    base: name (on the hub, `owner/name`, or a bare one, never a path), title, licence, sha256, parameters, bytes,
    context, gguf_sha256.
    training: train_rows, validation_rows, long_rows, steps, best_step, stopped_early, seconds, tokens, loss
    ({"train": [[step, loss]], "validation": [...]}), accuracy ([[step, share]], of the validation split), device,
    precision, threads, peak_bytes, resumed.
    """

    format: int = FORMAT
    name: str = Field(min_length=1, max_length=255)
    created: str
    distillgen: str
    dataset: Annotated[dict[str, Any], _shaped(_Dataset)]
    base: Annotated[dict[str, Any], _shaped(_Base)]
    settings: dict[str, Any]
    training: Annotated[dict[str, Any], _shaped(_Training)]
    software: dict[str, str]
    files: dict[str, FileEntry] = {}

    @property
    def gguf(self) -> str | None:
        """The name of the model's GGUF file, None when it has none."""
        return next((name for name in sorted(self.files) if name.endswith(".gguf")), None)

    @property
    def terms(self) -> Mapping[str, Any]:
        """What the teachers' terms come to, {} where nothing is on record."""
        return self.dataset.get("terms") or {}

    @property
    def teachers(self) -> Mapping[str, Mapping[str, Any]]:
        """The teachers of its dataset by their names in the recipe."""
        return self.dataset.get("teachers") or {}

    @property
    def student_settings(self) -> Mapping[str, Any]:
        """The [student] of the recipe."""
        return (self.dataset.get("recipe") or {}).get("student") or {}

    @property
    def labels(self) -> list[str]:
        """The labels that it learnt to write, in order; none where answers are no labels."""
        return sorted({label for counts in (self.dataset.get("labels") or {}).values() for label in counts})

    @property
    def is_preference(self) -> bool:
        """Whether it learnt from pairs of answers."""
        return bool(self.student_settings.get("rejected"))

    @property
    def model_files(self) -> dict[str, FileEntry]:
        """The model itself: weights, configuration, tokenizer, GGUF."""
        return {name: entry for name, entry in self.files.items() if name not in DESCRIBING}

    def dump(self) -> bytes:
        """Return the manifest as it is written, but for its seal."""
        table = self.model_dump(mode="json")
        table["files"] = {name: entry.model_dump(exclude_none=True) for name, entry in self.files.items()}
        return orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n"


def student_manifest_in(folder: Path) -> StudentManifest | None:
    """Return the manifest of the student in a folder, None where the model there is none.

    Raises Damaged, NewerFormat.
    """
    if not {"dataset", "training"} <= (read_object(folder / MANIFEST) or {}).keys():  # somebody else's, of that name
        return None
    return read_student_manifest(folder, folder / MANIFEST)


def read_student_manifest(folder: Path, path: Path) -> StudentManifest:
    """Read the manifest at `path` of the student in a folder.

    Raises UsageError where there is none, or it is that of a dataset's version; Damaged, NewerFormat.
    """
    try:
        table = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"no student at {folder}: it has no {MANIFEST}", fix="name the folder that `distillgen student train` made"
        ) from None
    except (OSError, orjson.JSONDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise Damaged(f"cannot read the student's manifest: {reason}", where=str(path), fix=AGAIN) from None
    if isinstance(table, dict) and "splits" in table and "funnel" in table:
        raise UsageError(f"{folder} is a version of a dataset, no student", fix="train one: distillgen student train")
    if isinstance(table, dict) and isinstance(table.get("format"), int) and table["format"] > FORMAT:
        raise NewerFormat(
            f"this student has format {table['format']}, this distillgen knows {FORMAT}",
            where=str(path), fix="pip install --upgrade distillgen",
        )  # fmt: skip
    try:
        manifest = StudentManifest.model_validate(table)
    except ValidationError as error:
        first = ".".join(map(str, error.errors()[0]["loc"]))
        raise Damaged(f"not a student's manifest: {first or 'no table'}", where=str(path), fix=AGAIN) from None
    if outside := [name for name in manifest.files if not _is_inside(name)]:
        raise Damaged(f"the manifest names a file outside of its folder: {outside[0]!r}", where=str(path), fix=AGAIN)
    return manifest


def _is_inside(name: str) -> bool:
    """Whether a file's name in a manifest leads to a place below the folder, and nowhere else."""
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and "\\" not in name and name.isprintable() and ".." not in parts
    return bool(parts) and plain and all(len(part.encode()) <= LONGEST_NAME for part in parts)
