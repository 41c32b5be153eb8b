"""Where each teacher's key is, whether it is there and looks like one; nothing of the key itself is ever told."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from distillgen.doctor.findings import Finding, broken, warning, well
from distillgen.errors import CredentialsError
from distillgen.settings import TeacherSettings
from distillgen.teacher import providers

QUOTES = "\"'`"


def examine(
    teachers: Mapping[str, TeacherSettings], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Finding]:
    """Yield what is found of each teacher's key. `folder` is that of the recipe, for key files."""
    environment = os.environ if environment is None else environment
    for name, settings in teachers.items():
        if settings.provider == providers.EMBEDDED or is_unknown(settings):
            continue
        yield _key(f"teacher {name!r}", settings, folder, environment)


def is_unknown(settings: TeacherSettings) -> bool:
    """Whether a teacher has a provider that nobody knows."""
    return bool(settings.provider) and settings.provider not in providers.presets()


def _key(teacher: str, settings: TeacherSettings, folder: Path, environment: Mapping[str, str]) -> Finding:
    try:
        key = providers.find_key(settings, folder, environment)
    except CredentialsError as error:
        [problem] = error.problems
        fix = problem.fix or "correct `api_key_file` under the teacher, or put the key there, alone on one line"
        return broken("key", f"{teacher}: {problem.what}", fix)
    if key is None:
        return well("key", f"{teacher}: no key, and none is needed")
    place, raw = _place(settings, folder, environment)
    if key[0] in QUOTES or key[-1] in QUOTES:
        what = f"{teacher}: the key in {place} has quotes around it, which would be sent with it"
        return warning("key", what, "write it without quotes")
    if raw is not None and raw != raw.strip():
        what = f"{teacher}: the key in {place} has a space or a line break before or after it"
        fix = "set it anew without: distillgen goes over them, other programs send them"
        return warning("key", what, fix)
    return well("key", f"{teacher}: the key is in {place}")


def _place(settings: TeacherSettings, folder: Path, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """Return where a key is, and what stands there as it is; None of a file, which ends with a line break rightly."""
    if settings.api_key_file:
        return f"the file {folder / Path(settings.api_key_file).expanduser()}", None
    name = settings.api_key_env or providers.preset_of(settings).key_env
    return f"the environment variable {name}", environment.get(name)
