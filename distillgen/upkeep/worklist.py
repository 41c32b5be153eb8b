"""The work on one damaged version: what is done to which file, with which words for people, and what nothing mends."""

import re
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillgen.dataset.manifest import FILE_NAME
from distillgen.upkeep.aside import Home
from distillgen.upkeep.check import MADE_LATER, Checked, walk
from distillgen.upkeep.findings import Finding, What, shown
from distillgen.upkeep.mending import Content

OURS = re.compile(r"(.*/)?\.(link-|mend-|manifest\.json\.|README\.md\.).*")  # names of what we had in the making


@dataclass(frozen=True)
class Mend:
    """One thing that is done, or would be: to which file, what is wrong with it, how it is mended.

    Not exact: what stands there then is not byte for byte what was published.
    """

    label: str
    file: str
    what: str
    how: str
    is_exact: bool = True


@dataclass(frozen=True)
class Action:
    """A mend and the work that it takes."""

    mend: Mend
    do: Callable[[], None]


@dataclass
class Worklist:
    """What is to be done to one version, in order. `stays` is what nothing mends.

    `there` is what is in its folder; `contents` are those of the files that are written; `notes` say of a file what is
    not as it was published.
    """

    home: Home
    checked: Checked
    actions: list[Action] = field(default_factory=list)
    stays: list[Finding] = field(default_factory=list)
    contents: dict[str, Content] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    is_moved: bool = False

    def __post_init__(self) -> None:
        self.folder = self.checked.folder
        self.there = dict(walk(self.folder))

    @property
    def will_be_whole(self) -> bool:
        """Whether the version is whole once everything is done."""
        return not self.is_moved and not self.stays

    def what_is_wrong(self, name: str) -> str:
        """Return what the check found of a file, in few words."""
        told = [each for each in self.checked.findings if each.file == name]
        if not told:
            return "is missing" if name not in self.there else "is not as it was published"
        first = told[0]
        row = f"row {shown(first.row)} " if first.row is not None else ""
        line = f" (line {first.line:,})" if first.line is not None else ""
        more = f", and {len(told) - 1:,} more" if len(told) > 1 else ""
        return f"{row}{first.what}{line}{more}"

    def write(
        self, name: str, content: Content, how: str, *, what: str = "", link: Path | None = None, is_exact: bool = True
    ) -> None:
        """Have a file replaced; what is there is kept aside. `link` is a file of the same bytes, where there is one."""
        self.contents[name] = content
        mend = Mend(self.checked.label, name, what or self.what_is_wrong(name), how, is_exact)
        self.actions.append(Action(mend, lambda: self.home.replace(self.folder / name, content, link)))

    def leave(self, kind: What, what: str, name: str) -> None:
        """Note a file that nothing mends."""
        self.stays.append(Finding(kind, what, name))

    def put_strays_aside(self, listed: Collection[str]) -> None:
        """Have what is no part of the version moved away, before anything else: it may stand where a folder must be."""
        folders = {str(parent) for name in listed for parent in Path(name).parents}
        gone: list[str] = []
        mends, self.actions = self.actions, []
        for name, status in self.there.items():
            is_folder = name in folders and stat.S_ISDIR(status.st_mode)
            is_known = name in listed or name == FILE_NAME or is_folder
            if is_known or name.split("/")[0] in MADE_LATER or any(name.startswith(f"{each}/") for each in gone):
                continue
            gone.append(name)
            self._put_aside(name)
        self.actions += mends

    def _put_aside(self, name: str) -> None:
        path = self.folder / name
        if OURS.fullmatch(name):
            mend = Mend(self.checked.label, name, "was left by a crash", "cleared")
            self.actions.append(Action(mend, lambda: self.home.clear(path)))
        else:
            mend = Mend(self.checked.label, name, "is no part of this version", "moved aside")
            self.actions.append(Action(mend, lambda: self.home.move_aside(path)))

    def put_whole_aside(self, missing: Sequence[str]) -> None:
        """Have a folder without a manifest, and without files that could stand for one, moved away."""
        self.actions.clear()
        self.stays.clear()
        what = f"has no manifest, and lacks {', '.join(missing[:3])}: a copy that was not finished"
        mend = Mend(self.checked.label, "", what, "the folder is moved aside", is_exact=False)
        self.actions.append(Action(mend, lambda: self.home.move_aside(self.folder)))
        self.is_moved = True
