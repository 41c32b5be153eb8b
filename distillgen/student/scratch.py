"""Folders that an evaluation works in, gone when it ends: in the state, or in the system's where nobody is asked."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from distillgen.dataset.manifest import require_prompt_names
from distillgen.files import disk_errors

SCRATCH = "evaluating-"  # how their names begin


@contextlib.contextmanager
def scratch(state: Path) -> Iterator[Path]:
    """Yield a folder for this evaluation alone, gone afterwards; of one that was killed, `sweep` removes it."""
    with disk_errors(state):
        state.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=SCRATCH, dir=state)
    with made as name:
        yield Path(name)


def sweep(state: Path) -> None:
    """Remove what evaluations that were killed have left. Nobody else is at work: the caller holds the lock."""
    for left in state.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def prompt_folder(prompts: Mapping[str, str], state: Path | None = None) -> Iterator[Path]:
    """Yield a folder with prompts as a version keeps them; those that it lacks are the library's. It is in the state
    folder where questions will be added.

    Raises NameInvalid: a version may come from elsewhere, and no name in it leads out of this folder.
    """
    require_prompt_names(prompts)
    with scratch(Path(tempfile.gettempdir()) if state is None else state) as folder:
        with disk_errors(folder):
            (folder / "prompts").mkdir()
            for prompt, source in prompts.items():
                (folder / "prompts" / f"{prompt}.toml").write_text(source, encoding="utf-8")
        yield folder
