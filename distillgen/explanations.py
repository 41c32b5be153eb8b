"""What each error code and each cause of a failed row means, read from the docs' page on errors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from distillgen.errors import NotFound, nearest
from distillgen.prompts import library_folder

PAGE = "errors.md"
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"DG\d{3}")


@dataclass(frozen=True)
class Explanation:
    """One line of the page: a code with its exit status and what usually mends it, or a cause of failed rows."""

    name: str
    means: str
    exit_status: str = ""
    mended_by: str = ""
    is_lasting: bool | None = None

    def lines(self) -> Iterator[str]:
        """Yield it as people read it."""
        yield f"{self.name}: {self.means}"
        if self.exit_status:
            yield f"exit status  {self.exit_status}"
        if self.mended_by:
            yield f"mended by    {self.mended_by}"
        if self.is_lasting is not None:
            yield f"asked again  {'no: a rerun would not mend it' if self.is_lasting else 'by the next build'}"


def explain(name: str) -> Explanation:
    """Return what a code (`DG403`, `dg403`, `403`) or a cause (`refused_400`) means. Raises NotFound."""
    known = {each.name: each for each in explanations()}
    code = f"DG{name}" if name.isdigit() else name.upper()
    found = known.get(code) or known.get(name) or known.get(re.sub(r"\d{3}$", "400", name))
    if found is None:
        names = [each for each in known if _CODE.fullmatch(each)] if _CODE.match(code) else list(known)
        raise NotFound(f"no error or cause {name!r}", fix=nearest(code if _CODE.match(code) else name, names))
    return found


def explanations() -> list[Explanation]:
    """Return all explanations, in the order of the page."""
    return [
        each for line in (library_folder("docs") / PAGE).read_text(encoding="utf-8").splitlines() for each in _of(line)
    ]


def _of(line: str) -> Iterator[Explanation]:
    """Yield what a line of a table explains; nothing for any other line."""
    cells = [_plain(cell) for cell in line.strip().strip("|").split(" | ")]
    if len(cells) == 4 and _CODE.fullmatch(cells[0]):
        yield Explanation(cells[0], cells[2], exit_status=cells[1], mended_by=cells[3])
    elif len(cells) == 3 and cells[1] in ("yes", "no"):
        for name in cells[0].split(", "):
            if name != "...":
                yield Explanation(name, cells[2], is_lasting=cells[1] == "yes")


def _plain(cell: str) -> str:
    return _LINK.sub(r"\1", cell).replace("`", "").strip()
