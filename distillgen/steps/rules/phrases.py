"""Phrases by language, read from a TOML file: which languages a text may hold, found without a pattern."""

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Phrases:
    """A file of phrases: for each language `needles`, one of which stands in every text that its patterns match.

    Texts are compared in lower case and with ’ written ' (`lowered`). The file is read when it is first needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @functools.cached_property
    def contents(self) -> Mapping[str, Any]:
        """What the file holds."""
        return tomllib.loads(self._path.read_text(encoding="utf-8"))

    @property
    def languages(self) -> Mapping[str, Any]:
        """The languages' tables."""
        languages: Mapping[str, Any] = self.contents["languages"]
        return languages

    def languages_of(self, text: str) -> list[str]:
        """Return the languages of which a needle stands in a lowered text."""
        found = {
            language
            for start, needles in (self._ascii_groups if text.isascii() else self._groups)
            if start in text
            for needle, language in needles
            if needle in text
        }
        return sorted(found)

    @functools.cached_property
    def _groups(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """(needle, language) by the needles' first words, of which most texts hold few."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for language, phrases in self.languages.items():
            for needle in phrases["needles"]:
                word, space, _ = needle.partition(" ")
                groups.setdefault(word + space, []).append((needle, language))
        return [(start if len(found) > 1 else found[0][0], found) for start, found in groups.items()]

    @functools.cached_property
    def _ascii_groups(self) -> list[tuple[str, list[tuple[str, str]]]]:
        found = [(start, [pair for pair in needles if pair[0].isascii()]) for start, needles in self._groups]
        return [(start, needles) for start, needles in found if needles]


def lowered(text: str) -> str:
    """Return a text as phrases are compared: in lower case, the apostrophe a plain one."""
    return text.lower().replace("’", "'")
