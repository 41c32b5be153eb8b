"""Where state lives, a project's and the user's, and whether a file system can keep it."""

import errno
import os
import re
import subprocess
import tempfile
from pathlib import Path

from distillgen.errors import UsageError

MOUNT_SECONDS = 5.0
# Of the evaluation of students: who is booked for answers that are no dataset's, the lock, and where the keys of the
# answers are noted that evaluations need.
EVALUATION, EVALUATE_LOCK, EVALUATIONS = "evaluation", "evaluate.lock", "evaluations"
# As the mount table calls them, without the `fuse.` that some carry. Not here: virtiofs and shared disks (gfs2, ocfs2),
# whose locks and shared memory are the kernel's own.
NETWORK = {
    "9p", "afpfs", "afs", "beegfs", "ceph", "ceph-fuse", "cifs", "coda", "curlftpfs", "davfs", "davfs2", "dvs", "fhgfs",
    "ftp", "gcsfuse", "glusterfs", "gpfs", "juicefs", "lizardfs", "lustre", "mfs", "moosefs", "ncpfs", "nfs", "nfs4",
    "orangefs", "panfs", "pvfs2", "rclone", "s3fs", "seaweedfs", "smb2", "smb3", "smbfs", "sshfs", "webdav", "wekafs",
}  # fmt: skip


def state_folder(project: Path, chosen: Path | None = None) -> Path:
    """Return where a project's state is kept: `chosen` (--state), else DISTILLGEN_STATE, else beside the recipe."""
    if chosen is not None:
        return chosen
    own = os.environ.get("DISTILLGEN_STATE")
    return Path(own) if own else project / ".distillgen"


def user_state_folder() -> Path:
    """Return where what concerns all projects of a user is kept: below XDG_STATE_HOME, else ~/.local/state.

    It need not exist. Without a home it is a folder in the temp folder, made here for this user alone; raises
    PermissionError when somebody else was there first.
    """
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():  # the standard says that a relative one is to be ignored
        return base / "distillgen"
    home = _home()
    return _temporary() if home is None else home / ".local" / "state" / "distillgen"


def _home() -> Path | None:
    """Ask the account database too: cron may set no HOME, and must find what the same user's terminal finds."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() and home.is_dir() else None


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"distillgen-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(folder))
    return folder


def require_local(folder: Path, mounts: str | None = None) -> None:
    """Refuse a state folder on a network file system; one of which nothing can be told passes. It need not exist.

    `mounts` is the mount table as /proc/self/mounts or macOS's `mount` prints it; default: this machine's.
    Raises UsageError, which names the file system.
    """
    kind = _file_system(os.path.realpath(folder), _mount_table() if mounts is None else mounts)
    if kind.removeprefix("fuse.") in NETWORK:
        raise UsageError(
            f"the state folder {folder} is on a network file system ({kind})",
            fix="the answer store needs shared memory and locks that the kernel itself keeps; put it on a local disk "
            "with `--state DIR` or DISTILLGEN_STATE",
        )


def _file_system(path: str, table: str) -> str:
    """Return the type of what is mounted at, or nearest above, an absolute path; "" when the table does not say."""
    nearest, kind = "", ""
    for line in table.splitlines():
        mount = _read_mount(line)
        # Of two mounts at one place the later hides the earlier.
        if mount and len(mount[0]) >= len(nearest) and f"{path}/".startswith(f"{mount[0].rstrip('/')}/"):
            nearest, kind = mount
    return kind


def _read_mount(line: str) -> tuple[str, str] | None:
    """Return where a line of a mount table says that something is mounted, and its type."""
    if line.endswith(")"):  # macOS: `//me@host/share on /Volumes/share (smbfs, nodev)`
        found = re.fullmatch(r".+? on (/.+) \(([^,)]+).*\)", line)
        return (found[1], found[2]) if found else None
    fields = line.split(" ", 3)  # Linux: `host:/home /home nfs4 rw,relatime 0 0`, blanks in paths as \040
    if len(fields) < 3:
        return None
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]), fields[2]


def _mount_table() -> str:
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        pass
    try:
        return subprocess.run(
            ["/sbin/mount"], capture_output=True, text=True, errors="surrogateescape", timeout=MOUNT_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
