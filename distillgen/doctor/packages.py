"""Whether Python, the packages that distillgen needs, its extras and the embedded teacher are here, and new enough."""

import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from distillgen.doctor.findings import Finding, broken, note, warning, well
from distillgen.errors import DistillgenError
from distillgen.teacher.embedded import require_runtime
from distillgen.teacher.models import DEFAULT, cache_folder, is_installed, models, weights_path

OLDEST_PYTHON = (3, 11)
# What a user may want: the extra, the package it is known by, and what it is for. Versions: the package's metadata.
EXTRAS = {
    "embedded": ("xllamacpp", "the embedded teacher"),
    "parquet": ("pyarrow", "parquet seeds and exports"),
    "language": ("py3langid", "the rule `language`"),
    "semantic": ("wordllama", "deduplication and selection by meaning"),
    "math": ("math-verify", "comparing mathematical answers"),
    "hub": ("huggingface_hub", "push and pull to hf://"),
    "remote": ("fsspec", "push and pull to other stores"),
    "s3": ("s3fs", "push and pull to s3://"),
    "student": ("torch", "`student train` and `student evaluate`"),
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that distillgen names: the versions it takes (`>=18`), and the extra that wants it, "" for always."""

    package: str
    versions: str
    extra: str


def examine() -> Iterator[Finding]:
    """Yield what is found of Python, of the packages needed always, of each extra, and of the embedded teacher."""
    stated = requirements()
    yield _python()
    yield from _packages([each for each in stated if not each.extra])
    yield _pip()
    yield from (_extra(name, stated) for name in EXTRAS)
    yield _runtime()
    yield from _models()


def requirements() -> list[Requirement]:
    """Return what the installed distillgen says that it needs; nothing when it runs from a folder, not installed."""
    try:
        lines = importlib.metadata.requires("distillgen") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [each for line in lines if (each := read_requirement(line)) is not None]


def read_requirement(line: str) -> Requirement | None:
    """Return what a line of metadata (`pyarrow>=18; extra == 'parquet'`) asks for; None when it is no requirement."""
    found = _REQUIREMENT.fullmatch(line.strip())
    if found is None:
        return None
    extra = _EXTRA.search(found[3] or "")
    return Requirement(found[1], found[2].strip(), extra[1] if extra else "")


def fits(version: str, versions: str) -> bool:
    """Whether a version is among those asked for. Only `>=` and `==` are known; anything else fits."""
    for asked in filter(None, (part.strip() for part in versions.split(","))):
        if asked.startswith("==") and version != asked[2:].strip():
            return False
        if asked.startswith(">=") and _numbers(version) < _numbers(asked[2:]):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release without zeros at its end: 2.0 is 2."""
    found = re.match(r"\s*(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in found[1].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def installed(package: str) -> str:
    """Return the version of a package that is here, "" when it is not."""
    try:
        return importlib.metadata.version(package) or "of unknown version"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _python() -> Finding:
    what = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info >= OLDEST_PYTHON:
        return well("python", what)
    return broken("python", f"{what} is too old", "install distillgen with Python 3.11 or newer")


def _packages(stated: list[Requirement]) -> Iterator[Finding]:
    if not stated:
        yield note("packages", "distillgen runs from a folder and is not installed", "pip install .   (in its folder)")
        return
    wrong = [each for each in stated if not fits(installed(each.package) or "0", each.versions)]
    for each in wrong:
        there = f"{each.package} {installed(each.package)}" if installed(each.package) else f"no {each.package}"
        asked = f"'{each.package}{each.versions}'"
        yield broken("packages", f"{there} is installed, {each.versions} is needed", f"pip install {asked}")
    if not wrong:
        yield well("packages", f"all {len(stated)} packages that are needed are here, and new enough")


def _pip() -> Finding:
    if importlib.util.find_spec("pip") is not None:
        return well("packages", "pip is here")
    return note(
        "packages", "no pip here: needed only to install embedded models and extras", f"{sys.executable} -m ensurepip"
    )


def _extra(name: str, stated: list[Requirement]) -> Finding:
    package, purpose = EXTRAS[name]
    asked = [each for each in stated if each.extra == name] or [Requirement(package, "", name)]
    install = f"pip install 'distillgen[{name}]'"
    missing = [each.package for each in asked if not installed(each.package)]
    if missing:
        return note("extras", f"{name} is not installed ({', '.join(missing)}; for {purpose})", install)
    there = ", ".join(f"{each.package} {installed(each.package)}" for each in asked)
    unfit = [each for each in asked if not fits(installed(each.package), each.versions)]
    if unfit:
        needed = ", ".join(f"{each.package}{each.versions}" for each in unfit)
        return warning("extras", f"{name}: {there} is installed, {needed} is needed (for {purpose})", install)
    return well("extras", f"{name}: {there} (for {purpose})")


def _runtime() -> Finding:
    try:
        require_runtime()
    except DistillgenError as error:
        what = 'the runtime is not installed (needed only for provider = "embedded")'
        return note("embedded", what, error.problems[0].fix)
    return well("embedded", "the runtime is installed")


def _models() -> Iterator[Finding]:
    """Yield which models are here, whole; a file of another size, or what an interrupted download left, by name."""
    whole = [name for name, model in models().items() if is_installed(model)]
    if whole:
        yield well("embedded", f"models in {cache_folder()}: {', '.join(whole)}")
    else:
        yield note("embedded", f"no model in {cache_folder()}", f"distillgen teachers install {DEFAULT}")
    for name, model in models().items():
        path = weights_path(model)
        again = f"distillgen teachers install {name}"
        if name not in whole and path.is_file():
            size = path.stat().st_size
            yield warning("embedded", f"{path} has {size:,} bytes, not the {model.bytes:,} of {name}", again)
        elif name not in whole and (path.parent / f".staging-{name}").is_dir():
            yield note("embedded", f"the download of {name} was interrupted; what came is kept", again)
