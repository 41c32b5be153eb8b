"""Whether a version is what was published: every checksum, line, id and count, and where it is not."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from distillgen.dataset.manifest import FILE_NAME, FORMAT, FileEntry, Manifest, read_manifest
from distillgen.dataset.seal import FIELD as SEAL
from distillgen.dataset.seal import seal_holds
from distillgen.dataset.versions import (
    EXCHANGING,
    Version,
    find_version,
    folder_of,
    homes_in,
    no_dataset,
    version_numbers,
)
from distillgen.errors import Damaged, NewerFormat, NotFound
from distillgen.files import canonical, digest, safe_name
from distillgen.upkeep.comparison import Comparison
from distillgen.upkeep.findings import DATA_FILE, PROVENANCE, REJECTED, Finding, is_content, kind_of, shown
from distillgen.upkeep.scan import Scan, scan_all

MADE_LATER = ("exports", "report.html")  # may stand in a version's folder, listed or not
_FOLDER = re.compile(r"v\d{4,}")
_FORMAT = re.compile(rb'\{\s*"format":\s*([0-9]{1,9})(?![0-9])')  # where every distillgen writes it: first of all


@dataclass
class Checked:
    """What a check of a version, or of a dataset's folder, found. `newer` is why its format could not be judged."""

    label: str
    folder: Path
    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    rows: int = 0
    size: int = 0
    newer: NewerFormat | None = None


# -- which versions --------------------------------------------------------------------------------------------------


def check_all(datasets: Path, reference: str | None, *, fast: bool) -> Iterator[Checked]:
    """Check the versions that a name means: one of them, or all of a dataset, or all that there are; one by one.

    Raises NotFound, and Damaged where a version is named by a digest and a manifest cannot be read, or a folder.
    """
    with readable(datasets):
        yield from _check_all(datasets, reference, fast=fast)


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn the system's refusals to read what is below a folder into an error that says what to do."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or folder)
        raise Damaged(f"cannot be read: {error.strerror}", where=where, fix="make it readable") from error


def _check_all(datasets: Path, reference: str | None, *, fast: bool) -> Iterator[Checked]:
    if reference is None:
        homes = [home for home in homes_in(datasets) if _has_versions(home)]
        if not homes:
            raise NotFound("no dataset here", where=str(datasets), fix="`distillgen build` makes one")
        for home in homes:
            yield from _check_dataset(home, fast=fast)
    elif _is_version(path := Path(reference)):
        place = path.resolve()
        is_placed = place.parent.parent == datasets.resolve() and _FOLDER.fullmatch(place.name) is not None
        yield check_version(path, fast=fast, is_placed=is_placed)
    else:
        name, _, wanted = reference.partition("@")
        home = datasets / safe_name(name, "dataset name")
        if not (numbers := version_numbers(home)) and (wanted or not hidden_versions(home)):
            raise no_dataset(name, datasets)
        if not wanted:
            yield from _check_dataset(home, fast=fast)
        else:
            yield check_version(folder_named(home, numbers, wanted, reference, datasets), fast=fast, is_placed=True)


def _is_version(path: Path) -> bool:
    try:
        return path.is_dir() and ((path / FILE_NAME).is_file() or _FOLDER.fullmatch(path.resolve().name) is not None)
    except OSError:  # a name too long for a file, say
        return False


def folder_named(home: Path, numbers: Sequence[int], wanted: str, reference: str, datasets: Path) -> Path:
    """Return the folder of a version by its number even where its manifest cannot be read."""
    number = wanted.lstrip("v")
    if number.isascii() and number.isdigit() and int(number) in numbers:
        return folder_of(home, int(number))
    link = home / "latest"
    if wanted == "latest" and link.is_symlink() and (name := str(link.readlink())) in map(_name_of, numbers):
        return home / name
    if wanted == "latest" or wanted.startswith("sha256:"):
        return find_version(reference, datasets).folder
    known = ", ".join(map(str, numbers))
    raise NotFound(f"{home.name} has no version {wanted!r}", where=str(home), fix=f"there are {known}")


def _name_of(number: int) -> str:
    return folder_of(Path(), number).name


def _has_versions(home: Path) -> bool:
    try:
        return bool(version_numbers(home) or hidden_versions(home))
    except OSError:  # told when its turn comes
        return True


def _check_dataset(home: Path, *, fast: bool) -> Iterator[Checked]:
    try:
        numbers, hidden = version_numbers(home), hidden_versions(home)
    except OSError as error:
        yield Checked(home.name, home, [unreadable(error)])
        return
    for number in numbers:
        yield check_version(folder_of(home, number), fast=fast, is_placed=True)
    beside = [Finding("missing", f"is missing: a crash left it as {path.name}", name) for name, path in hidden.items()]
    what = "was left by a crash: a version as it was before it was written anew"
    beside += [Finding("stray", what, path.name) for path in exchanged_versions(home)]
    yield Checked(home.name, home, [*beside, *check_latest(home, {*map(_name_of, numbers), *hidden})])


def unreadable(error: OSError) -> Finding:
    """Return the finding that says why a folder could not be read."""
    return Finding("unreadable", f"the folder cannot be read: {error.strerror}")


def hidden_versions(home: Path) -> dict[str, Path]:
    """Return the versions that a crash left under a hidden name, while none stands in their place: name -> folder."""
    return {name: path for name, path in _exchanging(home) if not os.path.lexists(home / name)}


def exchanged_versions(home: Path) -> list[Path]:
    """Return the hidden folders of versions in whose place another stands, which a crash kept from being removed."""
    return [path for name, path in _exchanging(home) if (home / name).is_dir()]


def _exchanging(home: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(home.glob(f"{EXCHANGING}v*")):
        name = path.name.removeprefix(EXCHANGING)
        if _FOLDER.fullmatch(name) and path.is_dir() and not path.is_symlink():
            yield name, path


def check_latest(home: Path, versions: set[str]) -> Iterator[Finding]:
    """Yield what is wrong with `latest`: a relative link to a version, or a file of one line that names it."""
    link = home / "latest"
    try:
        mode = link.lstat().st_mode
        if stat.S_ISLNK(mode):
            name = str(link.readlink())
        elif stat.S_ISREG(mode):
            with link.open("rb") as file:
                name = file.read(1000).decode(errors="replace").removesuffix("\n")
        else:
            yield Finding("latest", "is neither a link nor a file", "latest")
            return
    except FileNotFoundError:
        yield Finding("latest", "is missing, though there are versions; the next build names the newest", "latest")
    except OSError as error:
        yield Finding("latest", f"cannot be read: {error.strerror}", "latest")
    else:
        if name not in versions:
            yield Finding("latest", f"names {shown(name)}, which is no version here", "latest")


# -- one version -----------------------------------------------------------------------------------------------------


def check_version(folder: Path, *, fast: bool = False, is_placed: bool = False) -> Checked:
    """Check a version's folder; `fast` without reading any file but the manifest.

    `is_placed`: it stands among a project's datasets, so its number and name must be those of its folders.
    """
    place = folder.resolve() if folder.name == "latest" else folder.absolute()  # a version may be a link elsewhere
    label = f"{place.parent.name}@{int(place.name[1:])}" if is_placed else folder.name
    checked = Checked(label, folder)
    try:
        there = dict(walk(folder))
    except OSError as error:
        checked.findings.append(unreadable(error))
        return checked
    try:
        manifest, wrong = _read_manifest(folder, there)
    except NewerFormat as newer:
        checked.newer = newer
        return checked
    checked.findings += wrong
    if manifest is None:
        return checked
    if not is_placed:
        checked.label = f"{manifest.name}@{manifest.version}"
    checked.rows, checked.files = manifest.rows, len(manifest.files)
    checked.findings += _check_place(manifest, place) if is_placed else ()
    checked.findings += _check_counts(manifest)
    outside = list(check_files(manifest, there))
    checked.findings += outside
    if not fast:
        bad = {finding.file for finding in outside}
        names = [name for name in manifest.files if name not in bad or is_regular(there.get(name))]
        scans = dict(zip(names, scan_all([(folder / name, kind_of(name)) for name in names]), strict=True))
        checked.size = sum(each.size for each in scans.values())
        checked.findings += _check_bytes(Version(folder, manifest), scans, outside)
    return checked


def walk(folder: Path, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder: relative name and status; no link is followed."""
    with os.scandir(folder / below) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            name = f"{below}/{entry.name}" if below else entry.name
            status = entry.stat(follow_symlinks=False)
            yield name, status
            if stat.S_ISDIR(status.st_mode):
                yield from walk(folder, name)


def is_regular(status: os.stat_result | None) -> bool:
    """Whether something is there, and is a file: no folder, link or pipe."""
    return status is not None and stat.S_ISREG(status.st_mode)


def _read_manifest(folder: Path, there: Mapping[str, os.stat_result]) -> tuple[Manifest | None, list[Finding]]:
    """Return the manifest, None when it cannot be read, and what is wrong with it. Raises NewerFormat."""
    if FILE_NAME not in there:
        return None, [Finding("missing", "is missing: nothing says what should be in this folder", FILE_NAME)]
    if not is_regular(there[FILE_NAME]):
        return None, [Finding("irregular", "is no regular file", FILE_NAME)]
    try:
        content = (folder / FILE_NAME).read_bytes()
    except OSError as error:
        return None, [Finding("unreadable", f"cannot be read: {error.strerror}", FILE_NAME)]
    wrong = list(_check_seal(content))
    try:
        return read_manifest(folder), wrong
    except NewerFormat as newer:
        if not wrong:
            raise
        return None, [*wrong, Finding("manifest", f"{newer.problems[0].what}, if that is no damage", FILE_NAME)]
    except Damaged as damaged:
        return None, [*wrong, Finding("manifest", damaged.problems[0].what, FILE_NAME)]


def require_known_format(folder: Path) -> None:
    """Raise NewerFormat for a version that cannot be judged here, damaged or not.

    A format that a flipped bit made of ours is damage: with ours in its place the seal holds. Any other newer one is
    believed, for what is written anew in our format would lose what nobody here knows of.
    """
    try:
        content = (folder / FILE_NAME).read_bytes()
    except OSError:  # whoever mends it says so
        return
    stated = _FORMAT.match(content)
    number = int(stated[1]) if stated else _parsed_format(content)
    if number <= FORMAT or (
        stated and seal_holds(b"%s%d%s" % (content[: stated.start(1)], FORMAT, content[stated.end(1) :]))
    ):
        return
    raise NewerFormat(
        f"this version has format {number}, this distillgen knows {FORMAT}", where=str(folder / FILE_NAME),
        fix="pip install --upgrade distillgen: nothing of it is changed until then",
    )  # fmt: skip


def _parsed_format(content: bytes) -> int:
    """Return the format that a manifest states, 0 where none can be read."""
    try:
        table = orjson.loads(content)
    except orjson.JSONDecodeError:
        return 0
    found = table.get("format") if isinstance(table, dict) else None
    return found if isinstance(found, int) else 0


def _check_seal(content: bytes) -> Iterator[Finding]:
    """Yield what tells that a manifest is not as it was written. One of an early distillgen has no seal."""
    if seal_holds(content):
        return
    try:
        table = orjson.loads(content)
    except orjson.JSONDecodeError:
        return  # told by whoever reads it
    if isinstance(table, dict) and (SEAL in table or (table.get("format") == FORMAT and _has_strange_keys(table))):
        yield Finding("manifest", "is not as it was written: its seal does not hold", FILE_NAME)


def _has_strange_keys(table: Mapping[str, Any]) -> bool:
    return not table.keys() <= Manifest.model_fields.keys()


def _check_place(manifest: Manifest, place: Path) -> Iterator[Finding]:
    if place.name != f"v{manifest.version:04d}":
        yield Finding("place", f"is of version {manifest.version}, and stands in {shown(place.name)}", FILE_NAME)
    if place.parent.name != manifest.name:
        what = f"is of dataset {shown(manifest.name)}, and stands in {shown(place.parent.name)}"
        yield Finding("place", what, FILE_NAME)


# -- what the manifest says of itself --------------------------------------------------------------------------------


def _check_counts(manifest: Manifest) -> Iterator[Finding]:
    """Yield figures of a manifest that disagree with each other."""
    if sum(manifest.splits.values()) != manifest.rows:
        yield _count(f"says {manifest.rows:,} rows; its splits have {sum(manifest.splits.values()):,}")
    rows: dict[str, int] = dict.fromkeys(manifest.splits, 0)
    parts: dict[str, list[tuple[int, int]]] = {}
    for name, entry in manifest.files.items():
        if found := DATA_FILE.fullmatch(name):
            rows[found["split"]] = rows.get(found["split"], 0) + (entry.rows or 0)
            parts.setdefault(found["split"], []).append((int(found["number"]), int(found["of"])))
    for split, stated in manifest.splits.items():
        if rows[split] != stated:
            yield _count(f"says {stated:,} rows of split {shown(split)}; its files have {rows[split]:,}")
    for split, numbers in parts.items():
        if split not in manifest.splits:
            yield _count(f"has files of split {shown(split)}, which it does not know")
        if sorted(numbers) != [(number, len(numbers)) for number in range(len(numbers))]:
            yield _count(f"does not list all files of split {shown(split)}")
    told = manifest.files.get(PROVENANCE)
    if told is not None and told.rows != manifest.rows:
        yield _count(f"says {manifest.rows:,} rows; {PROVENANCE} has {told.rows}")
    yield from check_funnel(manifest)
    content = {name: entry.content_sha256 for name, entry in manifest.files.items() if is_content(name)}
    if digest(canonical(content)) != manifest.digest:
        yield Finding("digest", "says a digest that is not that of the content it lists", FILE_NAME)


def _count(what: str) -> Finding:
    return Finding("count", what, FILE_NAME)


def check_funnel(manifest: Manifest) -> Iterator[Finding]:
    for step in manifest.funnel:
        try:
            came = step["in"] + step["born"]
            went = step["out"] + step["merged"] + sum(step["rejected"].values()) + sum(step["failed"].values())
        except (KeyError, TypeError, AttributeError):
            yield _count("has a funnel whose figures cannot be added up")
            return
        if came != went:
            yield _count(f"says that {came:,} rows came to step {shown(str(step.get('step')))}, and {went:,} left it")


# -- what is there ---------------------------------------------------------------------------------------------------


def check_files(manifest: Manifest, there: Mapping[str, os.stat_result]) -> Iterator[Finding]:
    """Yield files that are missing, of another size, or of another kind, and what has no place in a version."""
    wanted: dict[str, FileEntry | None] = {FILE_NAME: None, **manifest.files}
    for needed in (PROVENANCE, REJECTED, "failed.jsonl.zst", "README.md"):
        if needed not in wanted:
            yield Finding("missing", f"does not list {needed}", FILE_NAME)
    for name, entry in wanted.items():
        status = there.get(name)
        if status is None:
            yield Finding("missing", "is missing", name)
        elif not stat.S_ISREG(status.st_mode):
            yield Finding("irregular", "is no regular file", name)
        elif entry is not None and status.st_size != entry.bytes:
            yield Finding("size", f"has {status.st_size:,} bytes; the manifest says {entry.bytes:,}", name)
    folders = {str(parent) for name in wanted for parent in _parents(name)}
    strays: list[str] = []
    for name, status in there.items():
        is_known = name in wanted or (name in folders and stat.S_ISDIR(status.st_mode))
        if is_known or name.split("/")[0] in MADE_LATER:
            continue
        if not any(name.startswith(f"{stray}/") for stray in strays[-1:]):  # sorted: what is in it comes next
            strays.append(name)
            yield Finding("stray", "is no part of this version", name)


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    for length in range(1, len(parts)):
        yield "/".join(parts[:length])


# -- what is in the files --------------------------------------------------------------------------------------------


def _check_bytes(version: Version, scans: Mapping[str, Scan], outside: Sequence[Finding]) -> list[Finding]:
    """Return what is wrong within the files: by line and row where that can be told, else by file."""
    manifest = version.manifest
    damaged = {name for name, scan in scans.items() if not is_as_published(scan, manifest.files[name])}
    rows = Comparison(version, scans, damaged).findings()
    told = {finding.file for finding in (*rows, *outside)}
    findings = []
    for name, found in scans.items():
        entry = manifest.files[name]
        if found.trouble:
            findings.append(Finding("unreadable", found.trouble, name))
        elif entry.rows is not None and kind_of(name) != "bytes" and found.rows != entry.rows:
            findings.append(Finding("count", f"has {found.rows:,} rows; the manifest says {entry.rows:,}", name))
        elif name in damaged and name not in told:
            findings.append(Finding("checksum", _why_no_line(name, found, entry), name))
    return [*findings, *rows]


def is_as_published(found: Scan, entry: FileEntry) -> bool:
    """Whether a file that was read is the one that the manifest lists."""
    same_content = (
        entry.content_sha256 is None or not found.content_sha256 or entry.content_sha256 == found.content_sha256
    )
    return not found.trouble and found.sha256 == entry.sha256 and same_content


def _why_no_line(name: str, found: Scan, entry: FileEntry) -> str:
    if found.sha256 == entry.sha256:
        return "has not the content_sha256 that the manifest says"
    if kind_of(name) == "data" and any(found.lines):
        return "has not the sha256 that the manifest says, and no line of it could be singled out"
    if entry.content_sha256 is not None and entry.content_sha256 == found.content_sha256:
        return "has not the sha256 that the manifest says, though what is packed in it is as it was"
    return "has not the sha256 that the manifest says"
