"""Mends what can be mended without guessing: `latest`, leftovers of a crash, files, manifests; keeps damaged bytes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillgen.dataset.room import when_full
from distillgen.dataset.versions import folder_of, homes_in, no_dataset, point_latest, version_numbers
from distillgen.errors import NotFound
from distillgen.files import disk_errors, safe_name, sync_folder
from distillgen.upkeep.aside import Home
from distillgen.upkeep.check import (
    check_latest,
    check_version,
    exchanged_versions,
    folder_named,
    hidden_versions,
    readable,
    require_known_format,
    unreadable,
)
from distillgen.upkeep.findings import Finding
from distillgen.upkeep.locks import at_rest
from distillgen.upkeep.remedy import Remedy
from distillgen.upkeep.siblings import Manifests, Siblings
from distillgen.upkeep.worklist import Action, Mend, Worklist

LEFTOVERS = (".staging-v*", ".latest", ".pinned.*", ".forgotten.txt.*")  # of builds, `latest`, `pin` and `forget`
LATEST = "latest"


@dataclass
class Repaired:
    """What was done, or would be, to a version or to the folder of a dataset, and what stays damaged."""

    label: str
    folder: Path
    mends: list[Mend] = field(default_factory=list)
    stays: list[Finding] = field(default_factory=list)


def repair_all(datasets: Path, reference: str | None, *, will_do: bool, with_loss: bool = False) -> Iterator[Repaired]:
    """Repair what a name means: one version, a dataset, or all there are; or, not `will_do`, say what would be done.

    Raises NotFound, Locked while a build is at work, Damaged for a folder that cannot be read, and NewerFormat before
    anything is changed.
    """
    with readable(datasets):
        yield from _repair_all(datasets, reference, will_do=will_do, with_loss=with_loss)


def _repair_all(datasets: Path, reference: str | None, *, will_do: bool, with_loss: bool) -> Iterator[Repaired]:
    if reference is None:
        homes = homes_in(datasets)
        if not homes:
            raise NotFound("no dataset here", where=str(datasets), fix="`distillgen build` makes one")
        for home in homes:
            yield from _repair(home, None, will_do=will_do, with_loss=with_loss)
        return
    name, _, wanted = reference.partition("@")
    home = datasets / safe_name(name, "dataset name")
    if not home.is_dir():
        raise no_dataset(name, datasets)
    only = None
    if wanted:
        only = int(folder_named(home, version_numbers(home), wanted, reference, datasets).name[1:])
    yield from _repair(home, only, will_do=will_do, with_loss=with_loss)


def _repair(home: Path, only: int | None, *, will_do: bool, with_loss: bool) -> Iterator[Repaired]:
    try:
        left = "what was mended so far stays mended, and no damaged byte is lost"
        with when_full(left), at_rest([home / ".lock"], will_do=will_do):
            yield from _Work(home, will_do=will_do, with_loss=with_loss).through(only)
    except PermissionError as error:  # of reading: those of writing are errors of ours
        yield Repaired(home.name, home, stays=[unreadable(error)])


class _Work:
    """The repair of one dataset, from its oldest version to `latest`."""

    def __init__(self, home: Path, *, will_do: bool, with_loss: bool) -> None:
        now = time.time()
        self._home = Home(home, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)))
        self._date = time.strftime("%Y-%m-%d", time.gmtime(now))
        self._will_do, self._with_loss = will_do, with_loss
        self._whole: list[int] = []
        self._moved: set[str] = set()  # folders of versions that are moved aside, or would be
        self._given_back: set[str] = set()
        self._manifests = Manifests(home)

    def through(self, only: int | None) -> Iterator[Repaired]:
        """Repair one version, or all of them and what lies beside them. Raises NewerFormat first of all."""
        home = self._home.folder
        numbers = version_numbers(home) if only is None else [only]
        hidden = hidden_versions(home) if only is None else {}
        for number in numbers:
            require_known_format(folder_of(home, number))
        for folder in hidden.values():
            require_known_format(folder)
        if hidden:
            yield self._give_back(hidden)
            numbers = version_numbers(home)
        for number in numbers:
            yield self._version(folder_of(home, number), number)
        if only is None:
            yield self._beside()

    def _give_back(self, hidden: Mapping[str, Path]) -> Repaired:
        """Give versions that a crash left under a hidden name their own."""
        home = self._home.folder
        done = Repaired(home.name, home)
        for name, path in hidden.items():
            is_whole = not check_version(path).findings
            how = "gets its name back" if is_whole else "gets its name back; it is damaged, and is repaired next"
            done.mends.append(Mend(home.name, name, f"is missing: a crash left it as {path.name}", how, is_whole))
            self._given_back.add(name)
            if self._will_do:
                with disk_errors(path):
                    path.rename(home / name)
                    sync_folder(home)
            elif is_whole:
                self._whole.append(int(name[1:]))
        return done

    def _version(self, folder: Path, number: int) -> Repaired:
        label = f"{folder.parent.name}@{number}"
        checked = check_version(folder, is_placed=True)
        if checked.newer is not None:
            raise checked.newer
        if not checked.findings:
            self._whole.append(number)
            return Repaired(label, folder)
        if folder.is_symlink():
            elsewhere = Finding("irregular", "is a link: nothing is written through it; repair what it leads to")
            return Repaired(label, folder, stays=[elsewhere, *checked.findings])
        if any(each.kind == "unreadable" and not each.file for each in checked.findings):
            return Repaired(label, folder, stays=checked.findings)
        work = Worklist(self._home, checked)
        own = self._manifests.of(number)
        try:
            Remedy(work, Siblings(self._home.folder, number), own, self._with_loss, self._date).plan()
        except OSError as error:
            work.actions.clear()
            file = str(error.filename or "").removeprefix(f"{folder}/")
            work.stays.append(Finding("unreadable", f"cannot be read: {error.strerror}", file))
        self._do(work.actions)
        if work.is_moved:
            self._moved.add(folder.name)
        stays = work.stays
        if self._will_do and folder.is_dir():
            stays = check_version(folder, is_placed=True).findings
        if folder.is_dir() and not stays and work.will_be_whole:
            self._whole.append(number)
        return Repaired(label, folder, [each.mend for each in work.actions], stays)

    def _do(self, actions: Sequence[Action]) -> None:
        if self._will_do:
            for action in actions:
                action.do()

    def _beside(self) -> Repaired:
        """Clear leftovers in the dataset's folder, and set `latest` right."""
        home = self._home.folder
        done = Repaired(home.name, home)
        actions = []
        for path in sorted(
            [*exchanged_versions(home), *(path for pattern in LEFTOVERS for path in home.glob(pattern))]
        ):
            mend = Mend(home.name, path.name, "was left by a crash", "cleared")
            actions.append(Action(mend, lambda path=path: self._home.clear(path)))  # type: ignore[misc]
        actions += self._latest(done)
        self._do(actions)
        done.mends = [each.mend for each in actions]
        return done

    def _latest(self, done: Repaired) -> Iterator[Action]:
        home = self._home.folder
        names = {folder_of(home, number).name for number in version_numbers(home)} | self._given_back
        names -= self._moved
        if not names:
            return
        wrong = next(iter(check_latest(home, names)), None)
        newest = max(self._whole, default=None)
        named = None if wrong is not None else _named(home)
        if wrong is None and (newest is None or named is None or newest <= named):
            return
        if newest is None:
            done.stays.append(Finding("latest", f"{wrong.what if wrong else ''}; no version is whole", LATEST))
            return
        what = wrong.what if wrong is not None else f"names version {named}, though {newest} was published after it"
        name = folder_of(home, newest).name
        yield Action(Mend(home.name, LATEST, what, f"names {name}"), lambda: self._point(name))

    def _point(self, name: str) -> None:
        link = self._home.folder / LATEST
        if link.is_dir() and not link.is_symlink():
            self._home.move_aside(link)
        point_latest(self._home.folder, name)


def _named(home: Path) -> int | None:
    link = home / LATEST
    name = str(link.readlink()) if link.is_symlink() else link.read_text(encoding="utf-8", errors="replace").strip()
    return int(name[1:]) if name[1:].isdecimal() else None
