"""Pushing a version: checked first, then sent whole, and seen by nobody before it is."""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import ValidationError

from distillgen.dataset.manifest import FILE_NAME, Manifest
from distillgen.dataset.publication import REFUSED
from distillgen.dataset.room import when_full
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, NotFound, UsageError
from distillgen.remote.address import HubAddress, StoreAddress, parsed
from distillgen.remote.hub import Commit, Hub
from distillgen.remote.places import LATEST, Store
from distillgen.remote.public import require_public
from distillgen.remote.source import MANIFEST_LIMIT
from distillgen.upkeep.check import check_version
from distillgen.upkeep.findings import DATA_FILE, Finding, shown

SIDECARS = ("provenance.jsonl.zst", "rejected.jsonl.zst", "failed.jsonl.zst")
TOLD = 20  # findings that an error names
LINES_TOLD = 5  # lines of each


@dataclass(frozen=True)
class Pushed:
    """What a push did: where, and whether it sent anything. `note` is what the owner should know."""

    where: str
    files: int
    size: int
    was_there: bool = False
    note: str = ""


def push(
    version: Version, target: str, *, public: bool = False, data_only: bool = False, accept: Collection[str] = ()
) -> Pushed:
    """Push a version to `hf://owner/name` or to a store's folder.

    `public`: a hub's repository may be one that everybody sees, as far as the terms allow it or `accept` names them.
    `data_only`: leave provenance, rejected and failed rows out. Raises TermsNotAccepted, Damaged when the version is
    not what was published, UsageError when other content has its number there, CredentialsError, NotFound,
    RemoteUnavailable, ExtraMissing, DiskFull.
    """
    address = parsed(target)
    if isinstance(address, HubAddress) and address.revision is not None:
        raise UsageError("a push names no revision: the version's number becomes the tag", where=address.shown)
    if isinstance(address, StoreAddress) and public:
        raise UsageError("--public is for hf:// only: who may read a store is said there", where=address.shown)
    if accept and not public:
        raise UsageError("--accept is for --public: terms stop nothing that others cannot read", where=address.shown)
    if version.folder.name == REFUSED:
        raise UsageError(
            "the quality gate did not let this one pass", where=str(version.folder),
            fix="another version, or a recipe or gate that it passes",
        )  # fmt: skip
    if public:
        require_public(version, accept)
    require_whole(version.folder)
    names = [name for name in version.manifest.files if not (data_only and name in SIDECARS)]
    if isinstance(address, HubAddress):
        return _push_to_hub(version, Hub(address), names, public=public, accept=accept)
    return _push_to_store(version, Store(address), names)


def require_whole(folder: Path, *, shown_as: str = "") -> None:
    """Raise Damaged, or NewerFormat, when a version's folder is not what was published."""
    checked = check_version(folder)
    if checked.newer is not None:
        raise checked.newer
    if not checked.findings:
        return
    told = _grouped(checked.findings)
    if len(told) > TOLD:
        told = [*told[:TOLD], f"... and {len(told) - TOLD:,} more"]
    fix = "a copy that is whole, or pushing it again there" if shown_as else "`distillgen check` tells more"
    raise Damaged(f"{checked.label} is damaged: {'; '.join(told)}", where=shown_as or str(folder), fix=fix)


def _grouped(findings: Sequence[Finding]) -> list[str]:
    """Return what was found, each thing of a file once, with the lines where it is so."""
    lines: dict[tuple[str, str], list[int | None]] = {}
    for each in findings:
        lines.setdefault((each.file, each.what), []).append(each.line)
    return [f"{shown(file) if file else 'the folder'}: {what}{_at(found)}" for (file, what), found in lines.items()]


def _at(lines: Sequence[int | None]) -> str:
    """Return on which lines something was found: nothing where it is of the whole file."""
    known = [f"{line:,}" for line in lines if line is not None]
    if not known:
        return ""
    more = f" and {len(known) - LINES_TOLD:,} more" if len(known) > LINES_TOLD else ""
    return f" (line{'s' if len(known) > 1 else ''} {', '.join(known[:LINES_TOLD])}{more})"


def _tag(version: Version) -> str:
    return f"v{version.manifest.version:04d}"


def _size(version: Version, names: Sequence[str]) -> int:
    return sum(version.manifest.files[name].bytes for name in names)


def _other_content(version: Version, there: Manifest, where: str) -> UsageError:
    own = version.manifest
    fix = "push to another place, or pull what is there (`distillgen pull`) and push a version with another number"
    if own.forgotten:
        fix = (
            "rows were erased from it here (`forget`); take it away there, history too, so that they are gone, and push"
        )
    return UsageError(
        f"other content has this number there: {there.name[:100]!r}@{there.version} has digest {there.digest[:12]!r}, "
        f"{version.label} here has {own.digest[:12]!r}; a version is never replaced", where=where, fix=fix,
    )  # fmt: skip


def _is_same(version: Version, there: Manifest) -> bool:
    own = version.manifest
    return (own.name, own.version, own.digest) == (there.name, there.version, there.digest)


# -- a hub -----------------------------------------------------------------------------------------------------------


def _push_to_hub(version: Version, hub: Hub, names: Sequence[str], *, public: bool, accept: Collection[str]) -> Pushed:
    hub.require_token()
    hub.create(public=public)
    before, tag = hub.commit_at(None), _tag(version)
    if not before.is_private and not public:
        raise UsageError(
            "this repository is public, and --public was not given", where=hub.address.shown,
            fix="--public if everybody may read it, or another repository",
        )  # fmt: skip
    note = "the repository exists and is private: it stays so" if public and before.is_private else ""
    tags = hub.tags()
    if tag in tags:
        tagged = hub.commit_at(tags[tag])
        there = _manifest_in(hub, tagged)
        if there is None:
            raise UsageError(f"the repository has a tag {tag} that is no version", where=hub.address.shown)
        if not _is_same(version, there):
            raise _other_content(version, there, hub.address.shown)
        if not {*names, FILE_NAME} <= tagged.names:
            raise UsageError(
                f"{tag} was pushed there with --data-only, and a tag is never moved", where=hub.address.shown,
                fix="push to another repository, or remove the tag there first",
            )  # fmt: skip
        return Pushed(hub.address.shown, 0, 0, was_there=True, note=note)
    former = _manifest_in(hub, before)
    sha = before.sha
    if former is None or not _is_same(version, former) or not {*names, FILE_NAME} <= before.names:
        _require_newer(version, former, hub.address.shown)
        sent = [*names, FILE_NAME]
        told = f"{version.label} sha256:{version.manifest.digest[:12]}", _description(version, accept)
        sha = hub.commit(version.folder, sent, _gone(before, former, sent), before.sha, told)
    hub.tag(tag, sha, f"{version.label} sha256:{version.manifest.digest}")
    return Pushed(hub.address.shown, len(names) + 1, _size(version, names), note=note)


def _description(version: Version, accept: Collection[str]) -> str:
    """Return what a commit says below its first line."""
    lines = [f"distillgen dataset {version.manifest.name}, version {version.manifest.version}"]
    lines += [f"content digest sha256:{version.manifest.digest}"]
    lines += [f"terms accepted for publishing: {each}" for each in sorted(accept)]
    return "\n".join(lines)


def _require_newer(version: Version, former: Manifest | None, where: str) -> None:
    if former is None or _is_same(version, former):
        return
    own = version.manifest
    if former.name == own.name and former.version < own.version:
        return
    if former.name == own.name and former.version == own.version:
        raise _other_content(version, former, where)
    raise UsageError(
        f"the repository holds {former.name[:100]!r}@{former.version}, and {version.label} is no later version of it",
        where=where, fix="push to a repository of its own",
    )  # fmt: skip


def _gone(before: Commit, former: Manifest | None, sent: Sequence[str]) -> list[str]:
    """Return the files of the former version that the new one lacks, and stray data files that a reader would take."""
    listed = set(former.files) if former is not None else set()
    return sorted(name for name in before.names if (name in listed or DATA_FILE.fullmatch(name)) and name not in sent)


def _manifest_in(hub: Hub, commit: Commit) -> Manifest | None:
    """Return the manifest of a commit, None where there is none that can be read."""
    if FILE_NAME not in commit.names:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        return _parsed(hub.fetch(FILE_NAME, commit.sha, Path(scratch)).read_bytes())


def _parsed(content: bytes) -> Manifest | None:
    try:
        return Manifest.model_validate(orjson.loads(content))
    except (orjson.JSONDecodeError, ValidationError):
        return None


# -- a store ---------------------------------------------------------------------------------------------------------


def _push_to_store(version: Version, store: Store, names: Sequence[str]) -> Pushed:
    if store.is_project(version.manifest.name):
        raise UsageError(
            "this is a project's own folder of datasets", where=store.address.shown,
            fix="`distillgen pull` in that project, which takes its lock",
        )  # fmt: skip
    left = "it is no version there before the same command has sent the rest"
    with when_full(left), store.held(version.manifest.name):
        return _send(version, store, names)


def _send(version: Version, store: Store, names: Sequence[str]) -> Pushed:
    """Send the files, then the manifest, which makes it a version, then `latest`."""
    name, number = version.manifest.name, version.manifest.version
    home, where = store.path(name, _tag(version)), store.address.shown
    own = (version.folder / FILE_NAME).read_bytes()
    try:
        content: bytes | None = store.read(f"{home}/{FILE_NAME}", MANIFEST_LIMIT)
    except NotFound:
        content = None
    there = _parsed(content) if content is not None else None
    if there is not None and not _is_same(version, there):
        raise _other_content(version, there, where)
    sizes = store.sizes(name, number)
    if there is not None and content != own:  # the same content, of another run or repair: the manifest there holds
        if any(sizes.get(each) != entry.bytes for each, entry in there.files.items() if each in names):
            raise Damaged("this version lacks files there", where=where, fix=f"remove {home} and push again")
        return Pushed(where, 0, 0, was_there=True)
    if strays := sorted(set(sizes) - {FILE_NAME, *version.manifest.files}) if there is None else []:
        told = ", ".join(map(shown, strays[:TOLD]))
        raise UsageError(
            f"what another push began there is no part of this one: {told}",
            where=where,
            fix=f"remove {home} and push again",
        )
    wanted = [each for each in names if sizes.get(each) != version.manifest.files[each].bytes or content != own]
    for each in wanted:
        store.put(version.folder / each, f"{home}/{each}")
    arrived = store.sizes(name, number)
    for each in names:
        if arrived.get(each) != version.manifest.files[each].bytes:
            raise Damaged(f"{each} did not arrive whole", where=where, fix="push again")
    if content != own:
        store.write(own, f"{home}/{FILE_NAME}")
    if (store.latest(name) or 0) < number:
        store.write(f"{_tag(version)}\n".encode(), store.path(name, LATEST))
    if not wanted and content == own:
        return Pushed(where, 0, 0, was_there=True)
    return Pushed(where, len(wanted) + (content != own), _size(version, wanted))
