"""What a pull asks of the place that it takes a version from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

MANIFEST_LIMIT = 64 * 1024 * 1024  # bytes; a manifest lists files and one run, so that nothing near it is one


class Source(Protocol):
    """One version elsewhere."""

    def manifest(self) -> bytes:
        """Return its manifest. Raises NotFound."""

    def sizes(self) -> Mapping[str, int | None]:
        """Return the files that are there, the manifest among them, with their sizes in bytes; None: it is not said."""

    def fetch(self, name: str, folder: Path, size: int) -> None:
        """Bring a file below a folder here; no more than one byte beyond its size."""
