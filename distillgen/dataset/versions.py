"""Versions on disk: found by name, and published whole or not at all."""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.dataset.card import write_card
from distillgen.dataset.manifest import FILE_NAME, FileEntry, Manifest, read_manifest
from distillgen.errors import Damaged, NotFound, UsageError, nearest
from distillgen.files import (
    JsonlFile,
    canonical,
    digest,
    disk_errors,
    read_jsonl,
    safe_name,
    sync_folder,
    write_atomically,
)
from distillgen.recipe import Recipe
from distillgen.rows import Failure, Rejection, Row
from distillgen.settings import StudentSettings

ROWS_PER_FILE = 100_000
SHORTEST_DIGEST = 4  # hexadecimal digits that may name a version
_FOLDER = re.compile(r"v(\d{4,})")
REFUSED = "refused"  # the folder of a version that the quality gate did not let pass
SIDECARS = ("provenance", "rejected", "failed")


@dataclass(frozen=True)
class Version:
    """One published version."""

    folder: Path
    manifest: Manifest

    @property
    def label(self) -> str:
        """`name@3`."""
        return f"{self.manifest.name}@{self.manifest.version}"

    def split_names(self, wanted: str | None = None) -> list[str]:
        """Return the splits, or the one that is wanted. Raises NotFound with what there is."""
        names = list(self.manifest.splits)
        if wanted is None:
            return names
        if wanted not in names:
            raise NotFound(f"{self.label} has no split {wanted!r}", where=str(self.folder), fix=nearest(wanted, names))
        return [wanted]

    def data_files(self, split: str) -> list[Path]:
        """Return the data files of a split, in order. Raises Damaged when one is missing."""
        names = [
            name for name in self.manifest.files if re.fullmatch(rf"data/{re.escape(split)}-\d+-of-\d+\.jsonl", name)
        ]
        for name in names:
            if not (self.folder / name).is_file():
                raise Damaged(f"{self.label} lacks a data file", where=str(self.folder / name))
        return [self.folder / name for name in sorted(names)]


def version_numbers(home: Path) -> list[int]:
    """Return the numbers of the versions below a dataset's folder, in order."""
    if not home.is_dir():
        return []
    return sorted(
        int(found[1]) for entry in home.iterdir() if (found := _FOLDER.fullmatch(entry.name)) and entry.is_dir()
    )


def folder_of(home: Path, number: int) -> Path:
    """Return the folder of a version."""
    return home / f"v{number:04d}"


def latest(home: Path) -> Version | None:
    """Return the version that `latest` names, None when nothing is published."""
    link = home / "latest"
    if link.is_symlink():
        name = str(link.readlink())
    elif link.is_file():  # where links are not to be had
        name = link.read_text(encoding="utf-8").strip()
    else:
        return None
    folder = home / Path(name).name
    return Version(folder, read_manifest(folder)) if folder.is_dir() else None


def find_version(reference: str, datasets: Path) -> Version:
    """Return the version that `name`, `name@3`, `name@latest`, `name@sha256:ab12` or a version folder's path names.

    A digest may be cut short, to four digits. Raises NotFound with what there is.
    """
    path = Path(reference)
    if (path / FILE_NAME).is_file():
        return Version(path, read_manifest(path))
    name, _, wanted = reference.partition("@")
    safe_name(name, "dataset name")
    home = datasets / name
    numbers = version_numbers(home)
    if not numbers:
        known = sorted(entry.name for entry in datasets.iterdir() if entry.is_dir()) if datasets.is_dir() else []
        raise NotFound(
            f"no dataset {name!r}", where=str(datasets), fix=nearest(name, known) or "`distillgen build` makes one"
        )
    if wanted in ("", "latest"):
        found = latest(home)
        return found or Version(folder_of(home, numbers[-1]), read_manifest(folder_of(home, numbers[-1])))
    if wanted.startswith("sha256:"):
        return _by_digest(name, wanted.removeprefix("sha256:").lower(), home, numbers)
    number = int(wanted.lstrip("v")) if wanted.lstrip("v").isdigit() else -1
    if number not in numbers:
        raise NotFound(
            f"{name} has no version {wanted!r}", where=str(home), fix=f"there are {', '.join(map(str, numbers))}"
        )
    return Version(folder_of(home, number), read_manifest(folder_of(home, number)))


def _by_digest(name: str, beginning: str, home: Path, numbers: Sequence[int]) -> Version:
    """Return the newest version whose content has a digest that begins so."""
    versions = [Version(folder_of(home, number), read_manifest(folder_of(home, number))) for number in numbers]
    found = [each for each in versions if each.manifest.digest.startswith(beginning)]
    if not found or len(beginning) < SHORTEST_DIGEST:
        raise NotFound(
            f"{name} has no version with the digest {beginning!r}", where=str(home),
            fix=f"there are {', '.join(f'{each.manifest.digest[:12]} ({each.label})' for each in versions[-5:])}",
        )  # fmt: skip
    if len({each.manifest.digest for each in found}) > 1:
        labels = ", ".join(f"{each.label} ({each.manifest.digest[:12]})" for each in found)
        raise NotFound(
            f"several versions have a digest that begins with {beginning!r}", fix=f"say more of it: {labels}"
        )
    return found[-1]


class Publication:
    """A version in the making, in a hidden folder beside the others; published by one rename, or thrown away."""

    def __init__(self, home: Path, recipe: Recipe) -> None:
        self._home, self._recipe = home, recipe
        with disk_errors(home):
            home.mkdir(parents=True, exist_ok=True)
            sweep(home)
        self.parent = latest(home)
        if recipe.dataset.append and self.parent is not None:
            _require_same_student(self.parent, recipe)
        with disk_errors(home):
            self.number = max(version_numbers(home), default=0) + 1
            self._staging = home / f".staging-v{self.number:04d}"
        self._begin()

    def _begin(self) -> None:
        with disk_errors(self._staging):
            (self._staging / "data").mkdir(parents=True)
        self._data: dict[str, list[JsonlFile]] = {split: [] for split in self._recipe.dataset.splits}
        self._sidecars = {name: JsonlFile(self._staging / f"{name}.jsonl.zst") for name in SIDECARS}
        self.sample: dict[str, Any] | None = None
        self.inherited: set[str] = set()
        if self._recipe.dataset.append and self.parent is not None:
            self._inherit(self.parent)

    def begin_again(self) -> None:
        """Throw away what came so far, and start anew."""
        self.close()
        self._begin()

    def _inherit(self, parent: Version) -> None:
        """Take the parent's rows over unchanged, and note the seeds that need not take the road again.

        Seeds whose rows only failed are not among them: they are asked again.
        """
        for split in parent.split_names():
            for file in parent.data_files(split):
                for training in read_jsonl(file):
                    self._training(split, training)
        for name in ("provenance", "rejected"):
            for record in read_jsonl(parent.folder / f"{name}.jsonl.zst"):
                self.inherited.add(record["origin"])
                self._sidecars[name].write(record)

    def row(self, split: str, training: dict[str, Any], row: Row) -> None:
        """Take a row for the student into its split, and its provenance beside it."""
        self._training(split, training)
        self._sidecars["provenance"].write(
            {
                "id": row.id,
                "split": split,
                "origin": row.origin,
                "parent": row.parent,
                "steps": row.trail,
                "columns": row.columns,
            }
        )

    def _training(self, split: str, training: dict[str, Any]) -> None:
        self.sample = self.sample or training
        files = self._data.setdefault(split, [])
        if not files or files[-1].rows >= ROWS_PER_FILE:
            if files:
                files[-1].close()
            files.append(JsonlFile(self._staging / "data" / f".{split}-{len(files):05d}"))
        files[-1].write(training)

    @property
    def splits(self) -> dict[str, int]:
        """The rows of each split that has any, in the recipe's order."""
        return {split: sum(file.rows for file in files) for split, files in self._data.items() if files}

    def rejected(self, rejection: Rejection) -> None:
        """Keep a rejected row with its reason."""
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
            self._share(target, name, file.sha256)
            target.chmod(0o444)
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
        card = write_card(manifest, features, self.sample)
        write_atomically(self._staging / "README.md", card.encode())
        files = dict(self.files)
        readme = self._staging / "README.md"
        files["README.md"] = FileEntry(bytes=len(card.encode()), sha256=_sha256(card.encode()))
        readme.chmod(0o444)
        manifest = manifest.model_copy(update={"files": files})
        write_atomically(self._staging / FILE_NAME, manifest.dump())
        (self._staging / FILE_NAME).chmod(0o444)
        with disk_errors(self._staging):
            sync_folder(self._staging / "data")
            sync_folder(self._staging)
        return manifest

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


def _whole(row: Row) -> dict[str, Any]:
    return {"origin": row.origin, "parent": row.parent, "steps": row.trail, "columns": row.columns}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def point_latest(home: Path, name: str) -> None:
    """Move `latest` to a version, by rename: a reader sees the old one or the new one."""
    spare = home / ".latest"
    spare.unlink(missing_ok=True)
    try:
        spare.symlink_to(name)
    except OSError:
        spare.write_text(f"{name}\n", encoding="utf-8")
    spare.rename(home / "latest")
    sync_folder(home)


def sweep(home: Path) -> None:
    """Clear what a crash left behind: staging folders, and a version that was moved in but not yet named latest."""
    for leftover in home.glob(".staging-v*"):
        shutil.rmtree(leftover, ignore_errors=True)
    numbers = version_numbers(home)
    named = latest(home)
    if numbers and (named is None or named.manifest.version < numbers[-1]):
        point_latest(home, folder_of(home, numbers[-1]).name)
