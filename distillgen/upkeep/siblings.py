"""The other versions of a dataset, from which a damaged one may have files, lines, and its manifest, or parts of it."""

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from distillgen.dataset.manifest import FILE_NAME, Manifest, read_manifest
from distillgen.dataset.seal import seal_holds
from distillgen.dataset.versions import folder_of, version_numbers
from distillgen.errors import DistillgenError
from distillgen.upkeep.aside import ASIDE
from distillgen.upkeep.check import is_regular
from distillgen.upkeep.findings import DATA_FILE
from distillgen.upkeep.manifests import is_name
from distillgen.upkeep.mending import lines_of, of_path, sha256_of


class Manifests:
    """The manifests of a dataset's versions as they were before anything was changed, by the version each is of.

    One may stand in another's folder, or be put aside by a repair that was killed. Those that cannot be read, or whose
    seal does not hold, are left out.
    """

    def __init__(self, home: Path) -> None:
        self._found: dict[int, bytes] = {}
        aside = sorted((home / ASIDE).glob(f"v*/{FILE_NAME}-*"), reverse=True)
        for path in (*(folder_of(home, number) / FILE_NAME for number in version_numbers(home)), *aside):
            with contextlib.suppress(ValueError, OSError):  # of JSON, and of what a manifest must say
                content = path.read_bytes()
                manifest = Manifest.model_validate(orjson.loads(content))
                if manifest.name == home.name and seal_holds(content):
                    self._found.setdefault(manifest.version, content)

    def of(self, number: int) -> bytes | None:
        """Return the manifest of a version, wherever it stood."""
        return self._found.get(number)


@dataclass(frozen=True)
class _Sibling:
    folder: Path
    manifest: Manifest
    manifest_bytes: bytes

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield the files that are there: the sha256 that the manifest says, and the path."""
        for name, entry in self.manifest.files.items():
            path = self.folder / name
            if is_name(name) and is_regular(_status(path)):
                yield entry.sha256, path


class Siblings:
    """The versions beside one of a dataset whose manifests can be read, those near by first."""

    def __init__(self, home: Path, number: int) -> None:
        self._home, self._number = home, number

    @functools.cached_property
    def _all(self) -> list[_Sibling]:
        found = []
        numbers = [each for each in version_numbers(self._home) if each != self._number]
        for number in sorted(numbers, key=lambda each: abs(each - self._number)):
            folder = folder_of(self._home, number)
            with contextlib.suppress(DistillgenError, OSError):
                found.append(_Sibling(folder, read_manifest(folder), (folder / FILE_NAME).read_bytes()))
        return found

    def manifests(self) -> list[bytes]:
        """Return their manifests as they are on disk."""
        return [each.manifest_bytes for each in self._all]

    def file(self, sha256: str, own: os.stat_result | None) -> tuple[Path, str] | None:
        """Return a file that has a sha256, by its manifest and by its bytes, and whose it is; not a link to `own`."""
        for sibling in self._all:
            for said, path in sibling.files():
                if said == sha256 and not _is_same(_status(path), own) and _has_sha256(path, sha256):
                    return path, f"{sibling.manifest.name}@{sibling.manifest.version}"
        return None

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of all their data files, which may be damaged themselves."""
        for sibling in self._all:
            for _, path in sibling.files():
                if DATA_FILE.fullmatch(str(path.relative_to(sibling.folder))):
                    yield from lines_of(of_path(path))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _has_sha256(path: Path, sha256: str) -> bool:
    try:
        return sha256_of(of_path(path)) == sha256
    except OSError:
        return False
