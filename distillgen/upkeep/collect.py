"""Reclaims space: old versions that nobody pinned or needs, leftovers, caches, and answers that nothing needs."""

import contextlib
import functools
import os
import re
import shutil
import stat
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from distillgen.dataset.manifest import Manifest, read_manifest
from distillgen.dataset.publication import REFUSED
from distillgen.dataset.room import when_full
from distillgen.dataset.versions import EXCHANGING, Version, folder_of, homes_in, no_dataset, version_numbers
from distillgen.errors import Damaged, DistillgenError, Locked, NotFound, Problem, UsageError
from distillgen.files import digest, disk_errors, dumps, file_sha256, holder, safe_name, sync_folder
from distillgen.preparation import Prepared
from distillgen.state import EVALUATE_LOCK, EVALUATION, EVALUATIONS
from distillgen.teacher.sent import logs
from distillgen.upkeep.aside import ASIDE
from distillgen.upkeep.beside import leftovers_in
from distillgen.upkeep.check import hidden_versions
from distillgen.upkeep.locks import at_rest, of_project
from distillgen.upkeep.lookups import overridden, readied
from distillgen.upkeep.notes import FOLDER as NOTES
from distillgen.upkeep.pins import pinned
from distillgen.upkeep.unused import Answers, Unused

DAY = 86_400.0
GONE = ".gone"  # behind `.staging-vNNNN`, which the next build clears: the name of a version while it is removed
MAX_RECIPE_BYTES = 1_000_000
_REFERENCE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*)@(?:v?([0-9]{1,9})\b|sha256:([0-9a-fA-F]{4,64}))")
_PLACE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*)/v([0-9]{4,9})\b")
_LINEAGE = {"mix"}  # what a recipe says of where rows came from once, which no build reads again

Kind: TypeAlias = Literal["version", "refused", "leftover", "damaged", "index", "spool", "log"]


@dataclass(frozen=True)
class Wanted:
    """What shall be collected. Ages are in seconds; `even_of` are datasets whose answers may go though nothing says
    what they still need."""

    keep: int = 5
    damaged: bool = False
    answers: bool = False
    older_than: float = 30 * DAY
    recipes: tuple[Path, ...] = ()
    even_of: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Removal:
    """Something that goes: `size` is in bytes that really come back, so files with other links count nothing."""

    kind: Kind
    path: Path
    what: str
    size: int


@dataclass
class Collected:
    """What goes, or would. `kept` says why old versions stay; `answers` is None where nobody asked about them."""

    removals: list[Removal] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    answers: Unused | None = None
    answers_freed: int = 0

    @property
    def size(self) -> int:
        """Bytes that come back, but for those of answers."""
        return sum(each.size for each in self.removals)


def collect(project: Path, state: Path, name: str | None, wanted: Wanted, *, will_do: bool) -> Collected:
    """Collect what a project, or one of its datasets, does not need; without `will_do` only say what that is.

    Raises NotFound, Locked while a build or a pipe is at work, Damaged or NewerFormat where what remains cannot be
    read, and UsageError where nobody can tell which answers are needed.
    """
    if name is not None and wanted.answers:
        raise UsageError("answers are shared by all datasets", fix="leave the dataset's name out")
    homes = _homes(project / "datasets", name)
    if not homes and not state.is_dir():
        raise NotFound("no dataset here", where=str(project / "datasets"), fix="`distillgen build` makes one")
    with (
        when_full("what was removed stays removed, and no version is half there"),
        at_rest(of_project(state, homes), will_do=will_do),
    ):
        return _Collection(project, state, homes, name, wanted).run(will_do=will_do)


def _homes(datasets: Path, name: str | None) -> list[Path]:
    homes = homes_in(datasets)
    if name is None:
        return homes
    if datasets / safe_name(name, "dataset name") not in homes:
        raise no_dataset(name, datasets)
    return [datasets / name]


class _Collection:
    """One look at a project: which versions remain, and what else is not needed."""

    def __init__(self, project: Path, state: Path, homes: Sequence[Path], name: str | None, wanted: Wanted) -> None:
        self._project, self._state, self._homes, self._name, self._wanted = project, state, homes, name, wanted
        self._datasets = project / "datasets"
        self._links: Counter[tuple[int, int]] = Counter()
        self._found = Collected()
        self._work: list[Callable[[], None]] = []
        self._now = time.time()

    def run(self, *, will_do: bool) -> Collected:
        """Find what goes; remove it."""
        for home in self._homes:
            self._hidden(home, will_do=will_do)
        for home in self._homes:
            self._beside(home)
        remaining = self._remaining()
        self._indexes(remaining)
        if self._name is None:
            self._leftovers_of_runs()
        with contextlib.ExitStack() as held:
            answers = self._answers(remaining, held) if self._wanted.answers else None
            if will_do:
                for work in self._work:
                    work()
            if will_do and answers is not None and self._found.answers is not None and self._found.answers.is_worth_it:
                self._found.answers_freed = answers.remove(self._before)
        return self._found

    @property
    def _before(self) -> float:
        """What is older than this (Unix time) is old."""
        return self._now - self._wanted.older_than

    def _remove(self, kind: Kind, path: Path, what: str) -> None:
        self._found.removals.append(Removal(kind, path, what, self._size(path)))
        self._work.append(functools.partial(_removed, path, is_version=kind == "version"))

    def _size(self, path: Path) -> int:
        """Return the bytes that come back with a file or folder: of each file with its last link."""
        size = 0
        for status in _statuses(path):
            inode = (status.st_dev, status.st_ino)
            self._links[inode] += 1
            if stat.S_ISDIR(status.st_mode) or self._links[inode] == status.st_nlink:
                size += status.st_blocks * 512
        return size

    # -- datasets ------------------------------------------------------------------------------------------------------

    def _hidden(self, home: Path, *, will_do: bool) -> None:
        """Give versions their names back that a crash left under hidden ones: else nobody knows what they need."""
        for path in hidden_versions(home).values():
            number = path.name.removeprefix(EXCHANGING)
            self._found.kept.append((f"{home.name}/{number}", "a crash hid it, and it gets its name back"))
            if will_do:
                with disk_errors(path):
                    path.rename(home / number)
                    sync_folder(home)

    def _beside(self, home: Path) -> None:
        for path in leftovers_in(home):
            self._remove("leftover", path, "left by a crash")
        if (home / REFUSED).is_dir():
            self._remove("refused", home / REFUSED, "what the quality gate did not let pass")
        if self._wanted.damaged and (home / ASIDE).is_dir():
            self._remove("damaged", home / ASIDE, "damaged bytes that a repair put aside")

    def _remaining(self) -> list[Version]:
        """Return the versions of all datasets that remain, and have the others removed."""
        remaining = {home: set(version_numbers(home)) for home in _homes(self._datasets, None)}
        old = {}
        for home in self._homes:
            reasons = self._reasons(home)
            old[home] = [number for number in sorted(remaining[home]) if number not in reasons]
            beyond = sorted(remaining[home])[: -self._wanted.keep]
            self._found.kept += [(_label(home, each), reasons[each]) for each in beyond if each in reasons]
            remaining[home] -= set(old[home])
        manifests = {
            (home, number): read_manifest(folder_of(home, number))
            for home, numbers in remaining.items()
            for number in sorted(numbers)
        }
        texts = [("a recipe", text) for text in self._recipe_texts()]
        texts += [(_label(*key), _recipe_of(manifest)) for key, manifest in manifests.items()]
        while texts:  # a version that is needed may need others
            who, text = texts.pop()
            for home, number in self._named_in(text):
                if number in old.get(home, ()):
                    old[home].remove(number)
                    self._found.kept.append((_label(home, number), f"{who} compares with it"))
                    manifest = manifests[home, number] = read_manifest(folder_of(home, number))
                    texts.append((_label(home, number), _recipe_of(manifest)))
        for home, numbers in old.items():
            for number in numbers:
                self._remove("version", folder_of(home, number), "an old version")
        return [Version(folder_of(*key), manifest) for key, manifest in manifests.items()]

    def _reasons(self, home: Path) -> dict[int, str]:
        """Return the versions that stay whatever others need, and why."""
        numbers = version_numbers(home)
        reasons = dict.fromkeys(numbers[-self._wanted.keep :], f"one of the newest {self._wanted.keep}")
        reasons |= dict.fromkeys(pinned(home) & set(numbers), "pinned")
        if (named := _latest(home)) in numbers:
            reasons[named] = "`latest`"
        return reasons

    def _recipe_texts(self) -> Iterator[str]:
        for path in {*self._project.glob("*.toml"), *self._wanted.recipes}:
            with contextlib.suppress(OSError):
                if path.stat().st_size <= MAX_RECIPE_BYTES:
                    yield path.read_text(encoding="utf-8", errors="replace")

    def _named_in(self, text: str) -> Iterator[tuple[Path, int]]:
        """Yield the versions that a text names: name@3, name@sha256:ab12, or a path with name/v0003 in it."""
        for name, number, beginning in _REFERENCE.findall(text):
            home = self._datasets / name
            if number:
                yield home, int(number)
            else:
                for each in version_numbers(home):
                    if read_manifest(folder_of(home, each)).digest.startswith(beginning.lower()):
                        yield home, each
        for name, number in _PLACE.findall(text):
            yield self._datasets / name, int(number)

    # -- the state folder ----------------------------------------------------------------------------------------------

    def _indexes(self, remaining: Sequence[Version]) -> None:
        """Have indexes removed that are of no content that is still here: no version's, and no file's in a recipe."""
        folders = [each for each in (self._state / "near").glob("*") if each.is_dir()]
        if self._name is not None:
            folders = [each for each in folders if each.name == self._name]
        indexes = [index for folder in folders for index in sorted(folder.glob("*/*")) if index.is_dir()]
        known = {version.manifest.digest[:32] for version in remaining}
        if strange := [index for index in indexes if index.name not in known]:
            files = self._contents_of_files()
            for index in strange:
                if files is not None and index.name not in files:
                    self._remove("index", index, "an index of rows that are not here any more")

    def _contents_of_files(self) -> set[str] | None:
        """Return what the indexes of files are called that recipes compare with; None when a recipe cannot be read."""
        names: set[str] = set()
        for text in self._recipe_texts():
            try:
                names |= set(_strings(tomllib.loads(text)))
            except tomllib.TOMLDecodeError:
                return None
        found = set()
        for name in names:
            path = self._project / name
            with contextlib.suppress(OSError, ValueError):
                if path.is_file():
                    found.add(digest(os.fsencode(path.name), file_sha256(path).encode())[:32])
        return found

    def _leftovers_of_runs(self) -> None:
        """Have removed what runs that ended left: nobody is at work, for this process holds the lock."""
        if _is_pipe_at_work(self._state):
            return
        for path in sorted((self._state / "spool").glob("*")):
            self._remove("spool", path, "what a run did not hold in memory")
        patterns = ("batches/queue-*.jsonl", "sent-*.new", f"{NOTES}/.*.json.*")
        for path in sorted(path for pattern in patterns for path in self._state.glob(pattern)):
            self._remove("leftover", path, "left by a run that was killed")
        for path in sorted((self._state / "logs").glob("*")):
            if path.lstat().st_mtime < self._before:
                self._remove("log", path, "an old log")

    def _answers(self, remaining: Sequence[Version], held: contextlib.ExitStack) -> Answers | None:
        """Find the answers that nothing needs; return their store, None where there is none."""
        path = self._state / "answers.sqlite"
        if not path.is_file():
            self._found.answers = Unused()
            return None
        if _is_pipe_at_work(self._state):
            raise Locked("a pipe or a build is at work with these answers", where=str(self._state), fix="wait for it")
        paths = self._wanted.recipes or _recipes_in(self._project)
        recipes = [self._readied(path) for path in paths]
        answers = held.enter_context(contextlib.closing(Answers(path)))
        self._evaluations(answers)
        known = {EVALUATION, *(each.recipe.name for each in recipes)}
        if unseen := answers.datasets() - known - self._wanted.even_of:
            names = ", ".join(repr(name) for name in sorted(unseen))
            options = " ".join(f"--even-of {name}" for name in sorted(unseen))
            raise UsageError(
                f"answers were paid for by {names}, and no recipe here says which of them are needed",
                where=str(path), fix=f"--recipe FILE names its recipe; else, to let them go: {options}",
            )  # fmt: skip
        for version in remaining:
            answers.need_version(version)
        for prepared in recipes:
            answers.need_recipe(prepared)
        for path, prepared in zip(paths, recipes, strict=True):
            told = {overridden(each.manifest) for each in remaining if each.manifest.name == prepared.recipe.name}
            for overrides in sorted(told - {()}):
                with contextlib.suppress(DistillgenError):  # the recipe is another by now: see need_version
                    answers.need_recipe(readied(path, self._state, overrides))
        self._found.answers = answers.unused(self._before)
        return answers

    def _evaluations(self, answers: Answers) -> None:
        """Have the answers stay that evaluations of students need, unless somebody lets them go."""
        for path in sorted((self._state / EVALUATIONS).glob("*.json")):
            if EVALUATION in self._wanted.even_of:
                self._remove("leftover", path, "which answers an evaluation needs")
                continue
            try:
                answers.need(bytes.fromhex(key) for key in orjson.loads(path.read_bytes()))
            except (OSError, orjson.JSONDecodeError, ValueError, TypeError):
                what = "cannot be read, so nobody knows which answers an evaluation needs"
                raise Damaged(what, where=str(path), fix=f"let them go: --even-of {EVALUATION}") from None

    def _readied(self, path: Path) -> Prepared:
        """Return a recipe as a build would have it. Raises what is wrong with it, and says how to go on without it."""
        try:
            return readied(path, self._state)
        except UsageError as error:
            fix = "mend it; or --recipe FILE for each other recipe, and --even-of NAME for what this one made"
            why = Problem("as long as it cannot be followed, nobody can tell which answers it needs", str(path), fix)
            raise UsageError(why.what, problems=(*error.problems, why)) from None


def _label(home: Path, number: int) -> str:
    return f"{home.name}@{number}"


def _latest(home: Path) -> int:
    """Return the number that `latest` names, -1 when it names none."""
    link = home / "latest"
    try:
        name = str(link.readlink()) if link.is_symlink() else link.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return -1
    found = re.fullmatch(r"v([0-9]{4,9})", name.strip())
    return int(found[1]) if found else -1


def _recipe_of(manifest: Manifest) -> str:
    return dumps({key: value for key, value in manifest.recipe.items() if key not in _LINEAGE})


def _recipes_in(project: Path) -> list[Path]:
    """Return the recipes in a project's folder: TOML files with seeds and steps."""
    found = []
    for path in sorted(project.glob("*.toml")):
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            found.append(path)  # what is wrong with it is told by whoever reads it
            continue
        if "seeds" in table and "steps" in table:
            found.append(path)
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _is_pipe_at_work(state: Path) -> bool:
    """Whether a pipe or an evaluation, which hold no lock of the project, are asking just now."""
    return bool(logs(state, live=True)) or holder(state / EVALUATE_LOCK) is not None


def _statuses(path: Path) -> Iterator[os.stat_result]:
    status = path.lstat()
    yield status
    if stat.S_ISDIR(status.st_mode):
        for entry in sorted(path.iterdir()):
            yield from _statuses(entry)


def _removed(path: Path, *, is_version: bool) -> None:
    """Remove a file or a folder; a version gets a hidden name first, so that none is ever seen half removed."""
    with disk_errors(path):
        parent = path.parent
        if is_version:
            hidden = path.with_name(f".staging-{path.name}{GONE}")
            if hidden.exists():  # of a version with the same number, removed and published anew: a crash was between
                shutil.rmtree(hidden)
            path.rename(hidden)
            sync_folder(parent)
            path = hidden
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        sync_folder(parent)
