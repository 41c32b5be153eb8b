"""Creates a project from one of the ready recipes."""

import re
import tomllib
from pathlib import Path

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
        text = re.sub(r'^model = ".*"', f'model = "{find_model(model).name}"', text, count=1, flags=re.MULTILINE)
    written = [target]
    seeds = tomllib.loads(text)["seeds"]["path"]
    copies = {target: text.encode()}
    for path in [seeds] if isinstance(seeds, str) else seeds:
        copies[folder / path] = (source.parent / path).read_bytes()
    for path, content in copies.items():
        if path != target and path.exists():
            continue  # somebody's own
        write_atomically(path, content)
        written += [path] if path != target else []
    with disk_errors(folder):
        (folder / "prompts").mkdir(exist_ok=True)
    return written
