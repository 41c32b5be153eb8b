"""Puts one folder in the place of another at one instant, where the system can; else by renames that can be undone."""

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from distillgen.dataset.versions import EXCHANGING
from distillgen.files import disk_errors, sync_folder

_HERE = -100  # AT_FDCWD: paths are as they stand
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(new: Path, old: Path, *, at_once: bool = True) -> None:
    """Exchange two folders beside each other: each gets the other's name. Raises DiskFull or NotWritable.

    Where the system knows no exchange (or not `at_once`), the old one has a hidden name for a moment; should a crash
    come between, `versions.sweep` gives it back its own. A reader may find none in that moment, never half of one.
    """
    with disk_errors(old):
        if not (at_once and _exchanged(new, old)):
            hidden = old.with_name(f"{EXCHANGING}{old.name}")
            if hidden.exists():
                shutil.rmtree(hidden)
            old.rename(hidden)
            sync_folder(old.parent)
            new.rename(old)
            sync_folder(old.parent)
            hidden.rename(new)
        sync_folder(old.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one system call; return whether the system, and the file system, can."""
    name = "renamex_np" if sys.platform == "darwin" else "renameat2"
    call = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if call is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    failed = call(*paths, _EXCHANGE) if name == "renamex_np" else call(_HERE, paths[0], _HERE, paths[1], _EXCHANGE)
    if not failed:
        return True
    if (number := ctypes.get_errno()) in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))
