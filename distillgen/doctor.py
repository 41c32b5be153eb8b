"""Looks for what would stop a build on this machine, and says how to mend it."""

import asyncio
import importlib.util
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from distillgen.errors import DistillgenError
from distillgen.files import Lock
from distillgen.recipe import Recipe, Source, read_recipe
from distillgen.settings import TeacherSettings
from distillgen.state import require_local, state_folder
from distillgen.teacher import providers
from distillgen.teacher.asking import Endpoint
from distillgen.teacher.embedded import require_runtime
from distillgen.teacher.models import cache_folder, find_weights, is_installed, models

LIST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    is_well: bool
    what: str
    fix: str = ""


def examine(recipe: Path | None) -> list[Finding]:
    """Return what was found: the machine first, then what a recipe needs."""
    findings = [_python(), _disk(Path.cwd()), _pip(), *_embedded()]
    if recipe is None:
        return findings
    try:
        checked, source = read_recipe(recipe)
    except DistillgenError as error:
        return [*findings, Finding(False, f"recipe {recipe}: {error}")]
    findings += [Finding(True, f"recipe {recipe}: {checked.name}"), _lock(source)]
    return findings + [_teacher(name, settings, source) for name, settings in _asked(checked).items()]


def _asked(recipe: Recipe) -> dict[str, TeacherSettings]:
    return dict(recipe.teachers)


def _python() -> Finding:
    return Finding(
        sys.version_info >= (3, 11), f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    return Finding(free > 200e6, f"{free / 1e9:,.1f} GB free in {folder}", "" if free > 200e6 else "free some space")


def _pip() -> Finding:
    there = importlib.util.find_spec("pip") is not None
    return Finding(
        True,
        "pip is here" if there else "no pip here: needed only to install embedded models",
        "" if there else f"{sys.executable} -m ensurepip",
    )


def _embedded() -> list[Finding]:
    try:
        require_runtime()
        runtime = Finding(True, "embedded teacher: runtime installed")
    except DistillgenError as error:
        runtime = Finding(
            True,
            'embedded teacher: runtime not installed (needed only for provider = "embedded")',
            error.problems[0].fix,
        )
    here = [name for name, model in models().items() if is_installed(model)]
    fix = "" if here else "distillgen teachers install qwen2.5-coder-1.5b"
    return [runtime, Finding(True, f"embedded models in {cache_folder()}: {', '.join(here) or 'none'}", fix)]


def _lock(source: Source) -> Finding:
    folder = state_folder(source.folder)
    try:
        require_local(folder)
        with Lock(folder / "lock"):
            return Finding(True, f"{folder} can be written and locked")
    except DistillgenError as error:
        return Finding(False, error.problems[0].what, error.problems[0].fix)


def _teacher(name: str, settings: TeacherSettings, source: Source) -> Finding:
    """Check one teacher of a recipe; a key is said to be there, never shown."""
    try:
        if settings.provider == providers.EMBEDDED:
            require_runtime()
            weights = find_weights(settings.model, source.folder / settings.gguf if settings.gguf else None)
            return Finding(True, f"teacher {name!r}: embedded {weights.title} is installed")
        if settings.provider and settings.provider not in providers.presets():
            return Finding(False, f"teacher {name!r}: unknown provider {settings.provider!r}")
        url = providers.url_of(settings)
        key = providers.find_key(settings, source.folder)
        listed = asyncio.run(_models_at(url, key))
    except DistillgenError as error:
        return Finding(False, f"teacher {name!r}: {error.problems[0].what}", error.problems[0].fix)
    except Exception as error:  # whatever the network brings; the class says enough, the words may hold the key
        return Finding(
            False,
            f"teacher {name!r}: {providers.url_of(settings)} cannot be asked ({type(error).__name__})",
            "check the address, the network and the key",
        )
    if settings.model in listed or not listed:
        return Finding(True, f"teacher {name!r}: {url} answers" + (f" and has {settings.model}" if listed else ""))
    return Finding(
        False, f"teacher {name!r}: {url} does not list {settings.model!r}", f"it has: {', '.join(listed[:20])}"
    )


async def _models_at(url: str, key: str | None) -> list[str]:
    from distillgen.teacher.chat import open_openai

    async with open_openai(Endpoint(url, key), max_connections=2, max_retries=0) as client:
        return [model.id async for model in client.models.list(timeout=LIST_SECONDS)]
