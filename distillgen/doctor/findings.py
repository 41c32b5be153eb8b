"""What the doctor found: each finding has a level, what it is about, and, unless all is well, its fix."""

from dataclasses import dataclass
from typing import Literal, get_args

Level = Literal["well", "note", "warning", "broken"]
LEVELS: tuple[Level, ...] = get_args(Level)  # from the mildest to the worst; only the worst stops a build
MOST_WORDS = 160  # of somebody else's, in a finding


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `about` is one word for programs and for the eye: disk, key, endpoint."""

    level: Level
    about: str
    what: str
    fix: str = ""

    def __post_init__(self) -> None:
        if (self.level == "well") == bool(self.fix):
            raise ValueError(f"what is not well has a fix, and nothing else has: {self.what}")


def well(about: str, what: str) -> Finding:
    """Return that something is as it should be."""
    return Finding("well", about, what)


def note(about: str, what: str, fix: str) -> Finding:
    """Return what somebody may want to know, and do something about."""
    return Finding("note", about, what, fix)


def warning(about: str, what: str, fix: str) -> Finding:
    """Return what will probably go wrong, or be wrong, though a build can start."""
    return Finding("warning", about, what, fix)


def broken(about: str, what: str, fix: str) -> Finding:
    """Return what stops a build."""
    return Finding("broken", about, what, fix)


def quoted(words: str) -> str:
    """Return somebody else's words so that they can do nothing: quoted, escaped, and cut."""
    return repr(words if len(words) <= MOST_WORDS else f"{words[:MOST_WORDS]}...")
