"""Where state lives, and file systems that cannot keep it: mount tables are given as text."""

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgen import state
from distillgen.errors import UsageError

LINUX = r"""sysfs /sys sysfs rw,nosuid 0 0
overlay / overlay rw,relatime,lowerdir=/l,upperdir=/u 0 0
filer:/export/staff /staff nfs4 rw,relatime,vers=4.2,addr=10.0.0.7 0 0
/dev/nvme0n1p1 /staff/me/scratch xfs rw,relatime 0 0
filer:/export/team /mounted/team\040share/a\134b nfs rw 0 0
systemd-1 /auto autofs rw,fd=42 0 0
filer:/net /auto nfs rw 0 0
//server/share /shared cifs rw 0 0
/dev/sdb1 /shared ext4 rw 0 0
me@host: /mounted/ssh fuse.sshfs rw 0 0
share /mounted/host virtiofs rw 0 0
C:\134 /mounted/c 9p rw,aname=drvfs 0 0
/dev/sdc1 /mounted/usb fuseblk rw 0 0
"""
MACOS = """/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
//me@nas/Team on Media on /Volumes/Team Media (smbfs, nodev, nosuid, mounted by me)
filer:/export on /Volumes/export (nfs)
"""


def refusal(folder: str, mounts: str) -> str:
    """Return why a folder is refused, "" when it is not."""
    try:
        state.require_local(Path(folder), mounts)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("mounts", "folder", "kind"),
    [
        pytest.param(LINUX, "/staff/you/project/.distillgen", "nfs4", id="nfs-home"),
        pytest.param(LINUX, "/staff", "nfs4", id="the-mount-itself"),
        pytest.param(LINUX, "/mounted/team share/a\\b/c", "nfs", id="octal-escapes"),
        pytest.param(LINUX, "/auto/x", "nfs", id="nfs-over-autofs"),
        pytest.param(LINUX, "/mounted/ssh/x", "fuse.sshfs", id="fuse"),
        pytest.param(LINUX, "/mounted/c/Users/me", "9p", id="windows-drive-in-wsl"),
        pytest.param(MACOS, "/Volumes/Team Media/x", "smbfs", id="macos-share-with-blanks"),
        pytest.param(MACOS, "/Volumes/export/x", "nfs", id="macos-one-option"),
    ],
)
def test_a_network_file_system_is_refused_by_name_with_advice(mounts: str, folder: str, kind: str) -> None:
    said = refusal(folder, mounts)
    assert f"{folder} is on a network file system ({kind})" in said
    assert "--state DIR" in said and "DISTILLGEN_STATE" in said


@pytest.mark.parametrize(
    ("mounts", "folder"),
    [
        pytest.param(LINUX, "/staff/me/scratch/project", id="local-disk-below-a-network-home"),
        pytest.param(LINUX, "/staffroom", id="only-the-name-begins-alike"),
        pytest.param(LINUX, "/shared/x", id="local-disk-over-a-share"),
        pytest.param(LINUX, "/mounted/host/x", id="virtiofs"),
        pytest.param(LINUX, "/mounted/usb/x", id="fuseblk"),
        pytest.param(LINUX, "/other/x", id="overlay"),
        pytest.param(MACOS, "/People/me/project", id="macos-disk"),
        pytest.param(MACOS, "/Volumes/Team", id="macos-only-the-name-begins-alike"),
        pytest.param("", "/staff/me", id="no-table"),
        pytest.param("nonsense\n\n(\n)\n a\n", "/staff/me", id="not-a-table"),
    ],
)
def test_a_local_file_system_or_an_unknown_one_passes(mounts: str, folder: str) -> None:
    assert refusal(folder, mounts) == ""


def test_a_link_is_followed_to_where_the_state_would_be(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/elsewhere/share")
    assert "(nfs4)" in refusal(f"{tmp_path}/link/.distillgen", "disk / ext4 rw 0 0\nfiler:/ /elsewhere nfs4 rw 0 0\n")


def test_this_machine_has_a_mount_table_and_the_temp_folder_passes(tmp_path: Path) -> None:
    assert state._file_system("/", state._mount_table())
    state.require_local(tmp_path / "not" / "there" / "yet")


PLACES = st.lists(st.sampled_from(["a", "b", "ab", "a b"]), max_size=4).map(lambda names: "/" + "/".join(names))


@given(st.lists(st.tuples(PLACES, st.sampled_from(["ext4", "nfs4"])), max_size=8), PLACES)
def test_the_nearest_mount_decides_and_of_two_at_one_place_the_later(mounts: list[tuple[str, str]], path: str) -> None:
    table = "".join(f"x {place.replace(' ', chr(92) + '040')} {kind} rw 0 0\n" for place, kind in mounts)
    by_place = dict(mounts)
    above = [str(place) for place in (PurePosixPath(path), *PurePosixPath(path).parents)]
    assert state._file_system(path, table) == next((by_place[place] for place in above if place in by_place), "")


def test_state_is_where_the_option_says_else_the_environment_else_beside_the_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = Path("/project")
    monkeypatch.delenv("DISTILLGEN_STATE", raising=False)
    assert state.state_folder(project) == project / ".distillgen"
    monkeypatch.setenv("DISTILLGEN_STATE", "")
    assert state.state_folder(project) == project / ".distillgen"
    monkeypatch.setenv("DISTILLGEN_STATE", "/disk/state")
    assert state.state_folder(project) == Path("/disk/state")
    assert state.state_folder(project, Path("chosen")) == Path("chosen")


@pytest.mark.parametrize(
    ("xdg", "expected"),
    [
        pytest.param("/var/xdg", "/var/xdg/distillgen", id="absolute"),
        pytest.param("relative", "{home}/.local/state/distillgen", id="relative-is-ignored"),
        pytest.param("", "{home}/.local/state/distillgen", id="empty"),
        pytest.param(None, "{home}/.local/state/distillgen", id="unset"),
    ],
)
def test_the_users_state_follows_xdg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xdg: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_STATE_HOME", xdg)
    assert state.user_state_folder() == Path(expected.format(home=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No home, and a temp folder of one's own; returns where the user's state goes."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nonexistent"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"distillgen-{os.getuid()}"


def test_without_a_home_it_is_a_private_folder_in_the_temp_folder(homeless: Path) -> None:
    assert state.user_state_folder() == homeless == state.user_state_folder()
    assert homeless.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_somebody_else_made_there_is_not_used(homeless: Path) -> None:
    homeless.mkdir()
    os.chown(homeless, 12345, 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        state.user_state_folder()
