"""Creates a project from one of the ready recipes."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distillgen.errors import UsageError, nearest
from distillgen.files import disk_errors, write_atomically
from distillgen.prompts import library_folder
from distillgen.teacher.models import find_model


def ready_recipes() -> dict[str, Path]:
    """Return the recipes that come with distillgen: name -> file."""
    return {path.stem: path for path in sorted(library_folder("recipes").glob("*.toml"))}


def create(folder: Path, name: str, model: str | None) -> list[Path]:
    """Write a recipe, its seeds and a prompts folder; return the files. Raises UsageError rather than overwrite one."""
    if name not in ready_recipes():
        raise UsageError(f"no ready recipe {name!r}", fix=nearest(name, ready_recipes()))
    target = folder / "recipe.toml"
    if target.exists():
        raise UsageError(
            f"there is a recipe already: {target}", fix="choose another folder, or go on with `distillgen build`"
        )
    source = ready_recipes()[name]
    text = source.read_text(encoding="utf-8")
    if model is not None:
        text = re.sub(r'^model = ".*"', f'model = "{find_model(model).name}"', text, flags=re.MULTILINE)
    written = []
    for path in _files_of(tomllib.loads(text), source.parent):
        if not (folder / path).exists():  # else somebody's own
            write_atomically(folder / path, (source.parent / path).read_bytes())
            written.append(folder / path)
    with disk_errors(folder):
        (folder / "prompts").mkdir(exist_ok=True)
    write_atomically(target, text.encode())  # last: what is there already says that nothing is missing
    return [target, *written]


def _benchmarks(steps: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the files that steps look at, each as a name or as a table with `path`."""
    for step in steps:
        for each in step.get("against", ()):
            yield each if isinstance(each, str) else each["path"]


def _files_of(recipe: Mapping[str, Any], library: Path) -> list[Path]:
    """Return the files that a ready recipe reads, relative to it, each with the licence that lies beside it."""
    named = [recipe["seeds"]["path"], *_benchmarks(recipe["steps"])]
    files: list[Path] = []
    for name in named:
        path = library / name
        beside = [path.with_suffix(".LICENSE")] if path.with_suffix(".LICENSE").is_file() else []
        files += [*(sorted(path.iterdir()) if path.is_dir() else [path]), *beside]
    return [path.relative_to(library) for path in dict.fromkeys(files)]
