"""Whether a recipe that came from elsewhere may say where questions go, with which key, and what that costs.

A version that was pulled, and a student that was, bring a recipe along. Whoever made it chose its addresses and the
names of its keys: followed blindly, it would have our key sent to them.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillgen.dataset.versions import Version
from distillgen.errors import UsageError
from distillgen.student.contestants import Contestant, at_home

TRUSTED_BY = ("base_url", "api_key_env", "api_key_file", "allow_http", "prices")  # keys of a teacher in a recipe


def came_from(version: Version | None) -> str | None:
    """Return where the recipe at hand came from, None where it was made here. Without a version the student had it."""
    if version is None:
        return "the student"
    pulled = version.manifest.run.get("pulled")
    if isinstance(pulled, Mapping):
        return str(pulled.get("from") or "elsewhere")
    return "elsewhere, perhaps: nobody can vouch for its record" if "run" in version.manifest.unconfirmed else None


def require_own_places(contestant: Contestant, origin: str, project: Path) -> None:
    """Insist that a recipe from elsewhere sends nothing to an address, and no key, that no recipe of ours names.

    A provider of the list by its own address and variable needs no such recipe. Raises UsageError.
    """
    ours = list(_teachers_in(project))
    for name, teacher in contestant.teachers.items():
        told = _places(teacher)
        if told and (teacher.get("provider"), told) not in ours:
            where = f" at {teacher['base_url']}" if teacher.get("base_url") else ""
            raise UsageError(
                f"the recipe is from {origin}, and wants the teacher {name!r} asked{where} by its own "
                f"{', '.join(told)}; no recipe in this project does so, and nothing was sent",
                where=str(project),
                fix="if that is right, say it in a recipe of your own: --recipe FILE; else --teacher PROVIDER/MODEL, "
                "or --teacher none",
            )


def _places(teacher: Mapping[str, Any]) -> dict[str, Any]:
    return {key: teacher[key] for key in TRUSTED_BY if teacher.get(key)}


def _teachers_in(project: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    for path in sorted(project.glob("*.toml")):
        try:
            teachers = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("teachers")
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
            continue
        for teacher in teachers.values() if isinstance(teachers, dict) else ():
            if isinstance(teacher, dict):
                yield teacher.get("provider"), _places(at_home(teacher, project))
