"""Pulling a version: fetched beside the others, verified, and only then published, under a free number."""

import contextlib
import os
import posixpath
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from distillgen.dataset.manifest import FILE_NAME, FORMAT, Manifest, read_manifest, require_prompt_names
from distillgen.dataset.room import on_stop, when_full
from distillgen.dataset.seal import seal_holds, sealed
from distillgen.dataset.versions import Version, folder_of, locked_home, point_latest, sweep, version_numbers
from distillgen.errors import Damaged, DiskFull, DistillgenError, NameInvalid, NewerFormat, NotFound, UsageError
from distillgen.excluded import FORGOTTEN, FORGOTTEN_FILE, Excluded, read_forgotten
from distillgen.files import disk_errors, masked, read_jsonl, safe_name, sync_folder, write_atomically
from distillgen.remote.address import HubAddress, StoreAddress, parsed
from distillgen.remote.hub import Hub, HubVersion
from distillgen.remote.places import Store, StoredVersion
from distillgen.remote.push import SIDECARS, require_whole
from distillgen.remote.source import Source
from distillgen.upkeep.check import MADE_LATER, check_version
from distillgen.upkeep.erased import keep_out
from distillgen.upkeep.findings import shown
from distillgen.upkeep.manifests import is_name

LARGEST_NUMBER = 99_999_999  # a version's folder has at most nine digits, and builds go on from here


@dataclass(frozen=True)
class Pulled:
    """What a pull did: the version here, whether it was here before, and the label that it has there."""

    version: Version
    label_there: str
    was_here: bool = False


def pull(origin: str, datasets: Path, name: str | None = None) -> Pulled:
    """Pull a version into a project's datasets.

    `name` is the dataset there, with @V for a version of a store's. Raises Damaged when what came is not what was
    published (nothing is kept of it), NotFound, UsageError, CredentialsError, RemoteUnavailable, ExtraMissing.
    """
    address = parsed(origin)
    left = "nothing of the version is kept"
    with when_full(left), tempfile.TemporaryDirectory() as scratch:
        source = _source(address, name, Path(scratch))
        content = source.manifest()
    manifest = _readable(content, address.shown)
    wanted = name.partition("@")[0] if name else manifest.name
    if wanted != manifest.name:
        raise NotFound(f"it holds {shown(manifest.name)}, not {wanted[:100]!r}", where=address.shown)
    home = datasets / manifest.name
    with on_stop(left), when_full(left), locked_home(home):
        with disk_errors(home):
            sweep(home)  # a pull that was killed may have left a version without naming it latest
        same = _same_content(home, manifest)
        if same is not None:
            _require_all_there(same)
            return Pulled(same, _label(manifest), was_here=True)
        return _fetch(source, content, manifest, home, address.shown)


def _label(manifest: Manifest) -> str:
    return f"{manifest.name}@{manifest.version}"


def _source(address: HubAddress | StoreAddress, name: str | None, scratch: Path) -> Source:
    if isinstance(address, HubAddress):
        if name and "@" in name:
            digits = name.partition("@")[2].removeprefix("v")
            tag = f"v{int(digits):04d}" if digits.isascii() and digits.isdigit() and len(digits) < 10 else "v0003"
            raise UsageError("the version is named in the address", fix=f"hf://{address.repository}@{tag}")
        return HubVersion(Hub(address), scratch)
    store = Store(address)
    if name is None:
        name = _only(store)
    name, number = _chosen(store, name)
    store.clear(name)
    return StoredVersion(store, name, number)


def _only(store: Store) -> str:
    """Return the only dataset of a store. Raises NotFound, UsageError."""
    there, where = store.datasets(), store.address.shown
    if not there:
        above, _, last = where.rstrip("/").rpartition("/")
        if re.fullmatch(r"v\d{4,9}", last, re.ASCII):
            number, (above, name) = int(last[1:]), posixpath.split(above)
            hint = f"of one version's folder: distillgen pull {above} {name}@{number}"
        elif store.versions(""):
            hint = f"of a dataset's own folder: distillgen pull {above} {last}"
        else:
            hint = "the address: that of the folder in which NAME/v0001 stands"
        raise NotFound("no dataset there", where=where, fix=hint)
    if len(there) > 1:
        known = ", ".join(each[:100] for each in there[:20]) + (", ..." if len(there) > 20 else "")
        raise UsageError("say which dataset", where=where, fix=f"distillgen pull URL NAME; there are: {known}")
    return there[0]


def _chosen(store: Store, reference: str) -> tuple[str, int]:
    """Return name and number of the version of a store that `name`, `name@3` or `name@latest` means."""
    name, _, wanted = reference.partition("@")
    safe_name(name, "dataset name")
    numbers = store.versions(name)
    there = ", ".join(map(str, numbers[-20:]))
    if not numbers:
        raise NotFound(f"no dataset {name!r} there", where=store.address.shown, fix="the name, or the address")
    if wanted in ("", "latest"):
        named = store.latest(name)
        return name, named if named in numbers else numbers[-1]
    digits = wanted.removeprefix("v")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10 and int(digits) in numbers):
        raise NotFound(
            f"no version {wanted[:80]!r} of {name} there", where=store.address.shown, fix=f"there are {there}"
        )
    return name, int(digits)


def _readable(content: bytes, where: str) -> Manifest:
    """Return the manifest that bytes from elsewhere are, once nothing in it can lead out of its folder."""
    try:
        table: Any = orjson.loads(content)
        if isinstance(table, dict) and isinstance(table.get("format"), int) and table["format"] > FORMAT:
            what = f"this version has format {table['format']}, this distillgen knows {FORMAT}"
            raise NewerFormat(what, where=where, fix="pip install --upgrade distillgen")
        manifest = Manifest.model_validate(table)
        safe_name(manifest.name, "dataset name")
        require_prompt_names(manifest.prompts)
    except (orjson.JSONDecodeError, ValidationError, NameInvalid):
        raise Damaged("the manifest there is none", where=where, fix="a copy that is whole") from None
    if not seal_holds(content):
        raise Damaged("the manifest there is not as it was written: its seal does not hold", where=where)
    if not 1 <= manifest.version <= LARGEST_NUMBER:
        raise Damaged(f"no version has the number {manifest.version}", where=where)
    for name in manifest.files:
        if not is_name(name) or name.startswith(".") or not name.isprintable() or "\\" in name or len(name) > 300:
            raise Damaged(f"the manifest there lists {shown(name)}, which is no file of a version", where=where)
    return manifest


def _same_content(home: Path, manifest: Manifest) -> Version | None:
    """Return the version here that has the content, the one with its number before others."""
    numbers = version_numbers(home)
    for number in sorted(numbers, key=lambda each: (each != manifest.version, each)):
        folder = folder_of(home, number)
        with contextlib.suppress(DistillgenError):
            found = Version(folder, read_manifest(folder))
            if found.manifest.digest == manifest.digest and set(found.manifest.files) == set(manifest.files):
                return found
    return None


def _require_all_there(version: Version) -> None:
    """Raise Damaged where the files of a version here are not those it lists, as far as a glance tells."""
    if findings := check_version(version.folder, fast=True).findings:
        raise Damaged(
            f"this content is here as {version.label}, damaged: {shown(findings[0].file)}: {findings[0].what}",
            where=str(version.folder),
            fix="`distillgen repair`; or move this folder away, then pull",
        )


def _require_none_erased(staging: Path, home: Path, label: str, where: str) -> None:
    """Raise UsageError where a version brings rows back that were erased here."""
    erased = Excluded(read_forgotten(home))
    if not erased:
        return
    found = [
        record["id"]
        for name in SIDECARS
        for record in read_jsonl(staging / name)
        if record.get("rule") != FORGOTTEN and erased.of(str(record["id"]), str(record.get("origin"))) is not None
    ]
    if found:
        told = ", ".join(shown(str(each)) for each in found[:10]) + (", ..." if len(found) > 10 else "")
        raise UsageError(
            f"{label} there holds what was erased here: {told}", where=where,
            fix=f"pull a version from which they were erased too ({home / FORGOTTEN_FILE} names them)",
        )  # fmt: skip


def _fetch(source: Source, content: bytes, manifest: Manifest, home: Path, where: str) -> Pulled:
    _require_no_more_and_no_less(source, manifest, where)
    _require_room(manifest, home)
    numbers, label = version_numbers(home), _label(manifest)
    number = manifest.version if manifest.version not in numbers else numbers[-1] + 1
    staging = home / f".staging-v{number:04d}"
    try:
        with disk_errors(staging):
            staging.mkdir()
        for name, entry in manifest.files.items():
            with disk_errors(staging):
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
            source.fetch(name, staging, entry.bytes)
        write_atomically(staging / FILE_NAME, content)
        require_whole(staging, shown_as=where)
        _require_none_erased(staging, home, label, where)
        keep_out(home, Version(staging, manifest))  # first, so that no crash leaves the version without it
        if number != manifest.version:
            manifest = _renumbered(manifest, number, where)
            write_atomically(staging / FILE_NAME, sealed(manifest.dump()))
        with disk_errors(staging):
            _settle(staging, manifest)
            folder = folder_of(home, number)
            staging.rename(folder)
            sync_folder(home)
            if not numbers or number > numbers[-1]:  # else `sweep` has seen to it
                point_latest(home, folder.name)
        return Pulled(Version(folder, manifest), label)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _require_no_more_and_no_less(source: Source, manifest: Manifest, where: str) -> None:
    sizes = source.sizes()
    there, wanted = set(sizes), {FILE_NAME, *manifest.files}
    if missing := sorted(wanted - there):
        hint = "it was pushed with --data-only perhaps: then `datasets.load_dataset` opens it, pull does not"
        raise Damaged(f"there is no {', '.join(map(shown, missing[:20]))}", where=where, fix=hint)
    if strays := sorted(name for name in there - wanted if name.split("/")[0] not in MADE_LATER):
        raise Damaged(f"{', '.join(map(shown, strays[:20]))} is no part of this version", where=where)
    for name, entry in manifest.files.items():
        if sizes[name] not in (None, entry.bytes):
            what = f"{shown(name)} has {sizes[name]:,} bytes there; the manifest says {entry.bytes:,}"
            raise Damaged(what, where=where, fix="a copy that is whole, or pushing it again there")


def _require_room(manifest: Manifest, home: Path) -> None:
    """Raise DiskFull before anything is fetched when the version is larger than what is free."""
    wanted = sum(entry.bytes for entry in manifest.files.values())
    with disk_errors(home):
        free = shutil.disk_usage(home).free
    if wanted > free:
        what = f"no room below {home}: {_label(manifest)} has {wanted:,} bytes, {free:,} are free"
        raise DiskFull(what, fix="free some space, or raise the quota; nothing was fetched")


def _renumbered(manifest: Manifest, number: int, where: str) -> Manifest:
    """Return the manifest under a free number; the content and its digest stay, and `run` says what it was there."""
    pulled = {"from": where, "version": manifest.version, "parent": manifest.parent}
    run = {**manifest.run, "pulled": pulled}
    return manifest.model_copy(update={"version": number, "parent": None, "run": run})


def _settle(staging: Path, manifest: Manifest) -> None:
    """Make the files read-only and lasting."""
    for name in (FILE_NAME, *manifest.files):
        path = staging / name
        path.chmod(masked(0o444))
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    for folder in {(staging / name).parent for name in manifest.files} | {staging}:
        sync_folder(folder)
