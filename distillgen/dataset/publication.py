"""A version in the making: written beside the others, and published whole or not at all."""

import hashlib
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import xxhash

from distillgen.dataset.card import write_card
from distillgen.dataset.labels import count_labels
from distillgen.dataset.manifest import FILE_NAME, FileEntry, Manifest
from distillgen.dataset.seal import sealed
from distillgen.dataset.versions import Version, folder_of, latest, point_latest, sweep, version_numbers
from distillgen.errors import UsageError
from distillgen.excluded import FORGOTTEN, Excluded, forgotten_record
from distillgen.files import (
    JsonlFile,
    canonical,
    digest,
    disk_errors,
    masked,
    read_jsonl,
    sync_folder,
    write_atomically,
)
from distillgen.recipe import Recipe
from distillgen.rows import Failure, Rejection, Row
from distillgen.settings import StudentSettings

ROWS_PER_FILE = 100_000
REFUSED = "refused"  # the folder of a version that the quality gate did not let pass
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:?\d\d(:?\d\d)?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
SIDECARS = ("provenance", "rejected", "failed")


class Publication:
    """A version in the making, in a hidden folder beside the others; published by one rename, or thrown away.

    A version that no recipe makes has None for it, and names its `splits` itself.
    """

    def __init__(
        self, home: Path, recipe: Recipe | None, left_out: Excluded | None = None, *, splits: Sequence[str] = ()
    ) -> None:
        self._home, self.left_out = home, left_out or Excluded()
        self._splits = tuple(splits) if recipe is None else tuple(recipe.dataset.splits)
        with disk_errors(home):
            home.mkdir(parents=True, exist_ok=True)
            sweep(home)
        self.parent = latest(home)
        self._grows_from = self.parent if recipe is not None and recipe.dataset.append else None
        if recipe is not None and self._grows_from is not None:
            _require_same_student(self._grows_from, recipe)
        with disk_errors(home):
            self.number = max(version_numbers(home), default=0) + 1
            self._staging = home / f".staging-v{self.number:04d}"
        self._begin()

    def _begin(self) -> None:
        with disk_errors(self._staging):
            (self._staging / "data").mkdir(parents=True)
        self._data: dict[str, list[JsonlFile]] = {split: [] for split in self._splits}
        self._sidecars = {name: JsonlFile(self._staging / f"{name}.jsonl.zst") for name in SIDECARS}
        self._lengths: dict[str, Counter[int]] = defaultdict(Counter, {split: Counter() for split in self._data})
        self._only_dates: dict[str, list[str]] = {}
        self.sample: dict[str, Any] | None = None
        self.inherited: set[str] = set()
        self.dropped: list[Rejection] = []  # of the parent's rows, those that are left out now
        self._forgotten: set[str] = (
            set()
        )  # ids of erased rows, whose records come last, so that seeds do not order them
        if self._grows_from is not None:
            self._inherit(self._grows_from)

    def begin_again(self) -> None:
        """Throw away what came so far, and start anew."""
        self.close()
        self._begin()

    def _inherit(self, parent: Version) -> None:
        """Take the parent's rows over unchanged, but for those left out, and note the seeds that need not take the
        road again.

        Seeds whose rows only failed are not among them: they are asked again.
        """
        dropped = self._dropped(parent)
        for split in parent.split_names():
            for file in parent.data_files(split):
                for training in read_jsonl(file):
                    if training["id"] not in dropped:
                        self._training(split, training)
        for record in read_jsonl(parent.folder / "provenance.jsonl.zst"):
            self.inherited.add(record["origin"])
            if record["id"] not in dropped:
                self._sidecars["provenance"].write(record)
        for record in read_jsonl(parent.folder / "rejected.jsonl.zst"):
            self.inherited.add(record["origin"])
            self.left_out.of(record["id"], record["origin"])
            if record["rule"] == FORGOTTEN:
                self._forgotten.add(record["id"])
            else:
                self._sidecars["rejected"].write(record)
        for rejection in dropped.values():
            self.rejected(rejection)
        self.dropped = list(dropped.values())

    def _dropped(self, parent: Version) -> dict[str, Rejection]:
        """Return the rows of the parent that are left out now."""
        dropped: dict[str, Rejection] = {}
        for record in read_jsonl(parent.folder / "provenance.jsonl.zst") if self.left_out else ():
            row = Row(record["id"], record["origin"], record["parent"], record["columns"], tuple(record["steps"]))
            if (rejection := self.left_out.inherited(row)) is not None:
                dropped[row.id] = rejection
        return dropped

    def row(self, split: str, training: dict[str, Any], row: Row) -> None:
        """Take a row for the student into its split, and its provenance beside it."""
        line = self._training(split, training)
        self._sidecars["provenance"].write(
            {
                "id": row.id,
                "split": split,
                "xxh3": xxhash.xxh3_64_hexdigest(line),  # which line it is that a flipped bit is in
                "origin": row.origin,
                "parent": row.parent,
                "steps": row.trail,
                "columns": row.columns,
            }
        )

    def _training(self, split: str, training: dict[str, Any]) -> bytes:
        """Put a row into its split; return its line, without the end."""
        self.sample = self.sample or training
        files = self._data.setdefault(split, [])
        if not files or files[-1].rows >= ROWS_PER_FILE:
            if files:
                files[-1].close()
            files.append(JsonlFile(self._staging / "data" / f".{split}-{len(files):05d}"))
        line = orjson.dumps(training)
        files[-1].write_line(line + b"\n")
        self._lengths[split][len(line).bit_length()] += 1
        still = self._only_dates.get(split)
        if still is None or still:
            self._only_dates[split] = [name for name in still or training if is_of_dates(training[name])]
        return line

    @property
    def splits(self) -> dict[str, int]:
        """The rows of each split that has any, in the order in which they were named."""
        return {split: sum(file.rows for file in files) for split, files in self._data.items() if files}

    @property
    def lengths(self) -> dict[str, dict[str, int]]:
        """How long the rows of each split are: for each number of bits that a line's length in bytes has, the rows."""
        return {
            split: {str(bits): found[bits] for bits in sorted(found)} for split, found in self._lengths.items() if found
        }

    def rejected(self, rejection: Rejection) -> None:
        """Keep a rejected row with its reason; of an erased one nothing but that it was."""
        if rejection.rule == FORGOTTEN:
            self._forgotten.add(rejection.row.id)
            return
        self._sidecars["rejected"].write(
            {
                "id": rejection.row.id,
                "step": rejection.step,
                "rule": rejection.rule,
                "detail": rejection.detail,
                **_whole(rejection.row),
            }
        )

    def failed(self, failure: Failure) -> None:
        """Keep a failed row with its cause."""
        self._sidecars["failed"].write(
            {
                "id": failure.row.id,
                "step": failure.step,
                "cause": failure.cause,
                "detail": failure.detail,
                "lasting": failure.lasting,
                "attempts": failure.attempts,
                "last_reply": failure.last_reply,
                **_whole(failure.row),
            }
        )

    def finish(self) -> str:
        """Close the files under their final names; return the content's digest: data, rejected, provenance."""
        self.files: dict[str, FileEntry] = {}
        for row_id in sorted(self._forgotten):
            self._sidecars["rejected"].write(forgotten_record(row_id))
        for split, files in self._data.items():
            for number, file in enumerate(files):
                name = f"data/{split}-{number:05d}-of-{len(files):05d}.jsonl"
                self._keep(file, name)
        for name, file in self._sidecars.items():
            self._keep(file, f"{name}.jsonl.zst")
        content = {name: entry.content_sha256 for name, entry in self.files.items() if not name.startswith("failed")}
        return digest(canonical(content))

    def _keep(self, file: JsonlFile, name: str) -> None:
        file.close()
        with disk_errors(file.path):
            target = self._staging / name
            file.path.rename(target)
            target.chmod(masked(0o444))
            self._share(target, name, file.sha256)  # afterwards: a file that is shared stays as it was published
            size = target.stat().st_size
        self.files[name] = FileEntry(bytes=size, sha256=file.sha256, rows=file.rows, content_sha256=file.content_sha256)

    def _share(self, target: Path, name: str, sha256: str) -> None:
        """Replace a file that equals the parent's by a hard link to it, where the file system can."""
        if self.parent is None:
            return
        same = [own for own, entry in self.parent.manifest.files.items() if entry.sha256 == sha256]
        if not same:
            return
        spare = target.with_name(f".link-{target.name}")
        try:
            os.link(self.parent.folder / same[0], spare)
            spare.rename(target)
        except OSError:
            spare.unlink(missing_ok=True)  # another file system, or no links: the copy is as good

    def publish(self, manifest: Manifest, features: Sequence[Mapping[str, Any]]) -> Version:
        """Make the version whole, move it into place, and move `latest` to it."""
        folder = folder_of(self._home, self.number)
        manifest = self._complete(manifest, features)
        with disk_errors(folder):
            self._staging.rename(folder)
            sync_folder(self._home)
            point_latest(self._home, folder.name)
            shutil.rmtree(self._home / REFUSED, ignore_errors=True)
        return Version(folder, manifest)

    def put_aside(self, manifest: Manifest, features: Sequence[Mapping[str, Any]]) -> Path:
        """Make the version whole, and keep it where nobody takes it for a published one; return its folder.

        It stands in the place of the one put aside before.
        """
        folder = self._home / REFUSED
        self._complete(manifest, features)
        with disk_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            self._staging.rename(folder)
            sync_folder(self._home)
        return folder

    def _complete(self, manifest: Manifest, features: Sequence[Mapping[str, Any]]) -> Manifest:
        """Write the card and the manifest."""
        only_dates = {split: names for split, names in self._only_dates.items() if names}
        labels = count_labels({split: self._lines(split) for split in manifest.splits})
        manifest = manifest.model_copy(update={"lengths": self.lengths, "only_dates": only_dates, "labels": labels})
        card = write_card(manifest, features, self.sample)
        write_atomically(self._staging / "README.md", card.encode())
        files = dict(self.files)
        readme = self._staging / "README.md"
        files["README.md"] = FileEntry(bytes=len(card.encode()), sha256=_sha256(card.encode()))
        readme.chmod(masked(0o444))
        manifest = manifest.model_copy(update={"files": files})
        write_atomically(self._staging / FILE_NAME, sealed(manifest.dump()))
        (self._staging / FILE_NAME).chmod(masked(0o444))
        with disk_errors(self._staging):
            sync_folder(self._staging / "data")
            sync_folder(self._staging)
        return manifest

    def _lines(self, split: str) -> Iterator[bytes]:
        """Yield the lines of a split, whose files have their final names."""
        for path in sorted(self._staging.glob(f"data/{split}-{'[0-9]' * 5}-of-{'[0-9]' * 5}.jsonl")):
            with disk_errors(path), path.open("rb") as file:
                yield from file

    def close(self) -> None:
        """Throw away what was not published."""
        for files in self._data.values():
            for file in files:
                file.abandon()
        for file in self._sidecars.values():
            file.abandon()
        shutil.rmtree(self._staging, ignore_errors=True)


def _require_same_student(parent: Version, recipe: Recipe) -> None:
    if StudentSettings(**parent.manifest.recipe.get("student", {})) != recipe.student:
        raise UsageError(
            f"[student] is not what it was for {parent.label}, and `append` keeps that version's rows as they are",
            fix="undo the change, or set `append = false` to render all rows anew (stored answers cost nothing)",
        )


def is_of_dates(value: Any) -> bool:
    """Whether every text in a column of a row is what readers of JSON take for a time, and so for no text."""
    texts = [turn.get("content") for turn in value] if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and _DATE.fullmatch(text) for text in texts)


def _whole(row: Row) -> dict[str, Any]:
    return {"origin": row.origin, "parent": row.parent, "steps": row.trail, "columns": row.columns}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
