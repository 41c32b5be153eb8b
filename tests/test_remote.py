"""push and pull: huggingface_hub unpatched against a loopback hub, s3fs against a real S3 server, and folders."""

import itertools
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import RECIPE, Project, clean_environment
from hub import READS, WRITES, Hub
from loopback import Loopback
from published import killed_at

from distillgen.dataset.seal import sealed
from distillgen.dataset.versions import find_version
from distillgen.errors import Damaged, NotFound, TermsNotAccepted, UsageError
from distillgen.remote.address import StoreAddress, parsed
from distillgen.remote.places import Store, _machine
from distillgen.remote.public import require_public
from distillgen.remote.pull import pull
from distillgen.remote.push import push
from distillgen.teacher.terms import entries, judge
from distillgen.upkeep.check import check_version


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two versions, built once; tests work on copies."""
    server = Loopback()
    project = Project(tmp_path_factory.mktemp("published"))
    project.write("recipe.toml", RECIPE.format(url=server.url))
    project.seeds([{"question": f"What is number {n}?"} for n in range(20)])
    project.build()
    project.edit("min_words = 5", "min_words = 6")
    project.seeds([{"question": f"What is number {n}?"} for n in range(12)])
    project.edit("splits = { train = 0.8, validation = 0.2 }", "splits = { train = 1.0 }")
    project.build()
    server.close()
    return project.folder


@pytest.fixture
def ours(published: Path, tmp_path: Path) -> Project:
    folder = tmp_path / "ours"
    shutil.copytree(published, folder, symlinks=True)
    return Project(folder)


@pytest.fixture
def theirs(tmp_path: Path) -> Project:
    (tmp_path / "theirs").mkdir()
    return Project(tmp_path / "theirs")


@pytest.fixture
def at_hub(hub: Hub, tmp_path: Path) -> dict[str, str]:
    # huggingface_hub itself calls its HTTP library in a way that this one no longer likes.
    warnings = "error,ignore:Use 'content=<:DeprecationWarning"
    home = {
        "PYTHONWARNINGS": warnings,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITES, **home}


FULL = (
    "import resource, runpy, signal, sys\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    "sys.argv[0] = 'distillgen'\n"
    "runpy.run_module('distillgen', run_name='__main__')"
)


def on_a_full_disk(project: Project, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that can write no file of more than 2,000 bytes; versions have larger ones."""
    return subprocess.run(
        [sys.executable, "-c", FULL, *arguments], cwd=project.folder, env=clean_environment(**environment),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def done(completed: "subprocess.CompletedProcess[str]", status: int = 0) -> str:
    assert completed.returncode == status, completed.stderr
    assert "Traceback" not in completed.stderr
    assert WRITES not in completed.stdout + completed.stderr
    return completed.stderr


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def damaged(project: Project, store: Path) -> str:
    """Pull in this process, and return why it is refused."""
    with pytest.raises(Damaged) as caught:
        pull(str(store), project.folder / "datasets", "demo")
    return str(caught.value)


def whole(project: Project, number: int) -> None:
    """Insist that a version here is what was published, and stands where it says."""
    checked = check_version(project.version(number), is_placed=True)
    assert checked.findings == [] and checked.files > 0


def nothing_here(project: Project) -> None:
    home = project.folder / "datasets" / "demo"
    assert not home.exists() or [each.name for each in home.iterdir()] in ([], [".lock"])


# -- a hub -----------------------------------------------------------------------------------------------------------


def test_a_version_goes_to_the_hub_and_comes_back(ours: Project, theirs: Project, hub: Hub, at_hub: Any) -> None:
    assert "is at hf://me/demo now" in done(ours.run("push", "demo@1", "hf://me/demo", **at_hub))
    repository = hub.repositories["me/demo"]
    assert repository.private and len(repository.commits) == 2 and list(repository.tags) == ["v0001"]
    assert hub.messages[0].startswith("demo@1 sha256:") and ours.manifest(1)["digest"] in hub.messages[0]
    assert {name: file.content for name, file in repository.files.items() if name != ".gitattributes"} == content(
        ours.version(1)
    )
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)
    done(theirs.run("pull", "hf://me/demo", **at_hub))
    assert content(theirs.version(1)) == content(ours.version(1))
    assert (theirs.folder / "datasets/demo/latest").readlink() == Path("v0001")
    assert not stat.S_IMODE((theirs.version(1) / "README.md").stat().st_mode) & 0o222
    whole(theirs, 1)
    assert "nothing to do" in done(theirs.run("pull", "hf://me/demo", **at_hub))
    before = len(repository.commits)
    assert "nothing to do" in done(ours.run("push", "demo@1", "hf://me/demo", **at_hub))
    assert len(repository.commits) == before


def test_the_next_version_is_one_commit_that_takes_former_files_away(
    ours: Project, theirs: Project, hub: Hub, at_hub: Any
) -> None:
    done(ours.run("push", "demo@1", "hf://me/demo", **at_hub))
    assert any("validation" in name for name in hub.repositories["me/demo"].files)
    done(ours.run("push", "demo", "hf://me/demo", **at_hub))
    repository = hub.repositories["me/demo"]
    assert len(repository.commits) == 3 and list(repository.tags) == ["v0001", "v0002"]
    assert {*repository.files} - {".gitattributes"} == {*content(ours.version(2))}
    done(theirs.run("pull", "hf://me/demo@v0001", "demo", **at_hub))
    done(theirs.run("pull", "hf://me/demo", **at_hub))
    assert content(theirs.version(1)) == content(ours.version(1))
    assert content(theirs.version(2)) == content(ours.version(2))
    code = (
        "import datasets\n"
        "for revision in (None, 'v0001'):\n"
        "    opened = datasets.load_dataset('me/demo', revision=revision)\n"
        "    print([(name, row['id']) for name, rows in opened.items() for row in rows])"
    )
    quiet = {**at_hub, "PYTHONWARNINGS": "default", "HF_TOKEN": READS}  # datasets itself warns
    run = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(**quiet), capture_output=True, text=True, check=True
    )
    opened = [literal_eval(line) for line in run.stdout.splitlines()]
    for rows, number in zip(opened, (2, 1), strict=True):
        assert sorted(rows) == sorted((row["split"], row["id"]) for row in ours.sidecar("provenance", number))


def test_a_commit_without_its_tag_is_only_tagged(ours: Project, hub: Hub, at_hub: Any) -> None:
    done(ours.run("push", "demo@1", "hf://me/demo", **at_hub))
    repository = hub.repositories["me/demo"]
    repository.tags.clear()
    done(ours.run("push", "demo@1", "hf://me/demo", **at_hub))
    assert repository.tags == {"v0001": repository.head} and len(repository.commits) == 2


def test_other_content_of_the_same_number_is_refused(ours: Project, hub: Hub, at_hub: Any) -> None:
    done(ours.run("push", "demo@1", "hf://me/demo", **at_hub))
    second = ours.version(2)
    shutil.rmtree(ours.version(1))
    renumber(second, ours.version(1), 1)
    error = done(ours.run("push", "demo@1", "hf://me/demo", **at_hub), 2)
    assert "other content has this number there" in error and "never replaced" in error
    assert len(hub.repositories["me/demo"].commits) == 2


def test_an_older_version_does_not_take_the_place_of_a_newer_one(ours: Project, hub: Hub, at_hub: Any) -> None:
    done(ours.run("push", "demo@2", "hf://me/demo", **at_hub))
    assert "no later version" in done(ours.run("push", "demo@1", "hf://me/demo", **at_hub), 2)


def test_public_is_never_by_accident(ours: Project, hub: Hub, at_hub: Any) -> None:
    error = done(ours.run("push", "demo@1", "hf://me/demo", "--public", **at_hub))
    assert "terms of demo@1:" in error and not hub.repositories["me/demo"].private
    assert "--public was not given" in done(ours.run("push", "demo@2", "hf://me/demo", **at_hub), 2)


# -- terms -----------------------------------------------------------------------------------------------------------


def under_terms(project: Project, entry: str, purpose: str, competing: str = "no", **more: Any) -> Any:
    """Have version 2 made by a teacher of these terms, and return it."""
    verdict = judge([entries()[entry]], purpose, competing)  # type: ignore[arg-type]
    conditions = [each.model_dump(mode="json") for each in verdict.conditions]
    record = {
        "purpose": purpose, "competing": competing, "strict": False, "stance": verdict.stance, "accepted": {},
        "conditions": conditions, "teachers": {"main": [each.record() for each in verdict.judgements]}, **more,
    }  # fmt: skip
    rewrite(project.version(2) / "manifest.json", {**project.manifest(2), "terms": record})
    return find_version("demo@2", project.folder / "datasets")


def test_what_was_made_for_oneself_is_not_shown_to_everybody(ours: Project, hub: Hub, at_hub: Any) -> None:
    under_terms(ours, "xai-enterprise", "evaluation")
    error = done(ours.run("push", "demo", "hf://me/demo", "--public", **at_hub), 9)
    assert "DG801" in error and "prohibited: xai-enterprise" in error and "--accept xai-enterprise" in error
    assert hub.requests == []
    error = done(ours.run("push", "demo", "hf://me/demo", **at_hub))
    assert "conditions for the purpose evaluation" in error and "condition: The purpose stays evaluation." in error
    assert hub.repositories["me/demo"].private


def test_terms_that_are_accepted_are_told_in_the_commit(ours: Project, hub: Hub, at_hub: Any) -> None:
    under_terms(ours, "xai-enterprise", "evaluation")
    done(ours.run("push", "demo", "hf://me/demo", "--public", "--accept", "xai-enterprise", **at_hub))
    assert not hub.repositories["me/demo"].private
    assert "terms accepted for publishing: xai-enterprise" in hub.messages[0]


@pytest.mark.parametrize(
    ("entry", "purpose", "more", "stance"),
    [
        ("deepseek-open-platform", "internal", {}, "allowed"),
        ("gemma-terms", "internal", {}, "conditions"),
        ("openai-services-agreement", "internal", {"competing": "no"}, "conditions"),
        ("mistral-commercial", "internal", {}, "unknown"),
        ("xai-enterprise", "internal", {"accepted": {"xai-enterprise": {"digest": "", "date": "2026-11-01"}}}, "prohibited"),
    ],
)  # fmt: skip
def test_terms_that_let_everybody_read(ours: Project, entry: str, purpose: str, more: Any, stance: str) -> None:
    assert require_public(under_terms(ours, entry, purpose, **more)).stance == stance


@pytest.mark.parametrize(
    ("entry", "purpose", "more", "words"),
    [
        ("minimax-m3", "research", {}, "restricted: minimax-m3"),
        ("openai-services-agreement", "internal", {"competing": "unknown"}, "restricted: openai-services-agreement"),
        ("mistral-commercial", "internal", {"strict": True}, "unknown: mistral-commercial"),
        ("mistral-commercial", "internal", {"strict": True, "teachers": {}}, "no terms are on record"),
    ],
)
def test_terms_that_do_not(ours: Project, entry: str, purpose: str, more: Any, words: str) -> None:
    with pytest.raises(TermsNotAccepted) as caught:
        require_public(under_terms(ours, entry, purpose, **more))
    assert words in str(caught.value)


def test_terms_that_nobody_can_read(ours: Project) -> None:
    for teachers in ({"main": [{"entry": {"id": "x"}}]}, {"main": 5}, []):
        with pytest.raises(Damaged):
            require_public(under_terms(ours, "gemma-terms", "internal", teachers=teachers))
    with pytest.raises(UsageError) as caught:
        require_public(under_terms(ours, "gemma-terms", "internal"), ["gema-terms"])
    assert "did you mean 'gemma-terms'" in str(caught.value)


def test_data_only_opens_but_is_not_pulled(ours: Project, theirs: Project, hub: Hub, at_hub: Any) -> None:
    done(ours.run("push", "demo@1", "hf://me/demo", "--data-only", **at_hub))
    assert not any(name.endswith(".zst") for name in hub.repositories["me/demo"].files)
    error = done(theirs.run("pull", "hf://me/demo", **at_hub), 8)
    assert "there is no 'failed.jsonl.zst'" in error and "--data-only" in error
    nothing_here(theirs)
    assert "pushed there with --data-only" in done(ours.run("push", "demo@1", "hf://me/demo", **at_hub), 2)


@pytest.mark.parametrize(
    ("token", "words"),
    [("", "no token for the hub"), ("hf_wrong", "takes no such token"), (READS, "may not write here")],
)
def test_a_push_without_rights(ours: Project, hub: Hub, at_hub: Any, token: str, words: str) -> None:
    error = done(ours.run("push", "demo", "hf://me/demo", **{**at_hub, "HF_TOKEN": token}), 4)
    assert words in error and "HF_TOKEN" in error and (not token or token not in error)
    assert not hub.repositories


def test_a_pull_without_rights_or_repository(ours: Project, theirs: Project, hub: Hub, at_hub: Any) -> None:
    hub.hold("me/demo", ours.version(2), "v0002")
    assert "HF_TOKEN" in done(theirs.run("pull", "hf://me/demo", **{**at_hub, "HF_TOKEN": ""}), 4)
    done(theirs.run("pull", "hf://me/other", **at_hub), 10)
    done(theirs.run("pull", "hf://me/demo@v0009", **at_hub), 10)
    hub.refuse = 401
    assert "HF_TOKEN" in done(theirs.run("pull", "hf://me/demo", **at_hub), 4)
    nothing_here(theirs)


def test_no_hub_there(ours: Project, theirs: Project, at_hub: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = {**at_hub, "HF_ENDPOINT": f"http://127.0.0.1:{free.getsockname()[1]}"}
        assert "DG901" in done(ours.run("push", "demo", "hf://me/demo", **nowhere), 7)
        assert "DG901" in done(theirs.run("pull", "hf://me/demo", **nowhere), 7)


def test_an_answer_that_no_hub_gives(ours: Project, theirs: Project, hub: Hub, at_hub: Any) -> None:
    """A page to log in to a network, say, or another server."""
    hub.refuse = 302
    assert "not what a hub says" in done(theirs.run("pull", "hf://me/demo", **at_hub), 7)
    assert "hf://me/demo@v0002" in done(theirs.run("pull", "hf://me/demo", "demo@2", **at_hub), 2)


def test_somebody_else_commits_meanwhile(ours: Project, hub: Hub, at_hub: Any) -> None:
    def other() -> None:
        repository = hub.repositories["me/demo"]
        repository.commit(dict(repository.files))

    hub.before_commit = other
    assert "changed the repository meanwhile" in done(ours.run("push", "demo", "hf://me/demo", **at_hub), 7)
    assert "manifest.json" not in hub.repositories["me/demo"].files and not hub.repositories["me/demo"].tags


def test_a_damaged_version_is_not_pushed(ours: Project, hub: Hub, at_hub: Any) -> None:
    flip(ours.version(2) / "provenance.jsonl.zst")
    assert "damaged" in done(ours.run("push", "demo", "hf://me/demo", **at_hub), 8)
    assert hub.requests == []


@pytest.mark.parametrize(
    "name", ["README.md", "data/train-00000-of-00001.jsonl", "provenance.jsonl.zst", "manifest.json"]
)
def test_a_bit_flipped_on_the_way_or_at_the_hub(
    ours: Project, theirs: Project, hub: Hub, at_hub: Any, name: str
) -> None:
    hub.hold("me/demo", ours.version(2), "v0002")
    hub.spoil[name] = lambda same: same[:99] + bytes([same[99] ^ 4]) + same[100:]
    error = done(theirs.run("pull", "hf://me/demo", **at_hub), 8)
    assert name in error or (name == "manifest.json" and ("seal" in error or "manifest" in error))
    nothing_here(theirs)


def test_a_download_cut_short_is_fetched_again(ours: Project, theirs: Project, hub: Hub, at_hub: Any) -> None:
    hub.hold("me/demo", ours.version(2), "v0002")
    hub.cut["README.md"] = 1
    error = done(theirs.run("pull", "hf://me/demo", **at_hub))
    assert hub.requests.count("GET /datasets/me/demo/resolve/" + hub.repositories["me/demo"].head + "/README.md") == 2
    assert hub.cut["README.md"] == 0 and "http" not in error
    assert content(theirs.version(2)) == content(ours.version(2))


def test_a_hub_that_breaks_down_in_the_middle(ours: Project, theirs: Project, hub: Hub, at_hub: Any) -> None:
    hub.hold("me/demo", ours.version(2), "v0002")
    hub.busy = {"GET .*/resolve/.*/README.md": [500]}
    error = done(theirs.run("pull", "hf://me/demo", **at_hub), 7)
    assert "DG901" in error and "HTTP 500" in error and hub.downloads > 0
    nothing_here(theirs)
    done(theirs.run("pull", "hf://me/demo", **at_hub))
    assert content(theirs.version(2)) == content(ours.version(2))


def test_a_busy_hub_is_asked_again(ours: Project, theirs: Project, hub: Hub, at_hub: Any) -> None:
    hub.busy = {"POST /api/repos/create": [429], "GET .*/refs": [503], "POST .*/commit/": [429], "POST .*/tag/": [429]}
    done(ours.run("push", "demo", "hf://me/demo", **at_hub))
    assert not any(hub.busy.values()) and hub.repositories["me/demo"].tags
    hub.busy = {"GET /api/datasets/me/demo$": [429, 429], "GET .*/resolve/.*/manifest.json": [429]}
    done(theirs.run("pull", "hf://me/demo", **at_hub))
    assert not any(hub.busy.values())


def test_an_upload_that_is_cut_off_is_sent_again(ours: Project, hub: Hub, at_hub: Any) -> None:
    hub.drop = 1
    done(ours.run("push", "demo", "hf://me/demo", **at_hub))
    files = hub.repositories["me/demo"].files
    assert hub.drop == 0 and {n: f.content for n, f in files.items() if n != ".gitattributes"} == content(
        ours.version(2)
    )


def test_an_upload_that_the_store_of_the_hub_refuses(ours: Project, hub: Hub, at_hub: Any) -> None:
    hub.busy = {"PUT /lfs/": [400]}
    assert "HTTP 400" in done(ours.run("push", "demo", "hf://me/demo", **at_hub), 2)
    repository = hub.repositories["me/demo"]
    assert len(repository.commits) == 1 and not repository.tags
    done(ours.run("push", "demo", "hf://me/demo", **at_hub))
    assert {*repository.files} - {".gitattributes"} == {*content(ours.version(2))}


def test_a_full_disk(ours: Project, theirs: Project, hub: Hub, at_hub: Any, tmp_path: Path) -> None:
    hub.hold("me/demo", ours.version(2), "v0002")
    assert "nothing of the version is kept" in done(on_a_full_disk(theirs, "pull", "hf://me/demo", **at_hub), 12)
    assert not (theirs.folder / "datasets").exists(), "no lock, no empty folder"
    said = done(on_a_full_disk(ours, "push", "demo", str(tmp_path / "store")), 12)
    assert "DG703" in said and "before the same command has sent the rest" in said
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file() and p.stat().st_size >= 2000] == []
    assert not (tmp_path / "store/demo/latest").exists() and not list((tmp_path / "store").rglob("manifest.json"))
    push(find_version("demo", ours.folder / "datasets"), str(tmp_path / "store"))
    assert "DG703" in done(on_a_full_disk(theirs, "pull", str(tmp_path / "store")), 12)
    nothing_here(theirs)
    pull(str(tmp_path / "store"), theirs.folder / "datasets")


def test_what_is_damaged_there_is_told_once_with_its_lines(ours: Project, theirs: Project, tmp_path: Path) -> None:
    push(find_version("demo", ours.folder / "datasets"), str(tmp_path / "store"))
    path = tmp_path / "store/demo/v0002/data/train-00000-of-00001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"role":"user"', b'"role":"uzer"'))
    error = damaged(theirs, tmp_path / "store")
    lines = path.read_bytes().count(b"\n")
    assert error.count("data/train-00000-of-00001.jsonl") == 1, error
    assert f"(lines 1, 2, 3, 4, 5 and {lines - 5:,} more)" in error


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_pull_that_is_killed_leaves_no_version(
    ours: Project, theirs: Project, hub: Hub, at_hub: Any, how: signal.Signals
) -> None:
    hub.hold("me/demo", ours.version(2), "v0002")
    hub.wait = 0.3
    process = theirs.start("pull", "hf://me/demo", **at_hub)
    while hub.downloads < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate(timeout=30)
    assert process.returncode != 0
    home = theirs.folder / "datasets" / "demo"
    if how == signal.SIGKILL:
        assert not [each.name for each in home.iterdir() if not each.name.startswith(".")]
    else:
        assert not home.parent.exists(), "nothing is left"
    hub.wait = 0.0
    done(theirs.run("pull", "hf://me/demo", **at_hub))
    assert sorted(each.name for each in home.iterdir()) == [".lock", "latest", "v0002"]


HOSTILE = ["../../outside.txt", "/tmp/outside.txt", "data/../../outside", "a\\..\\b", ".hidden", "data//x", "a\x1b[2Jb"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_manifest_that_leads_out_of_its_folder(ours: Project, theirs: Project, tmp_path: Path, name: str) -> None:
    push(find_version("demo", ours.folder / "datasets"), str(tmp_path / "store"))
    manifest = tmp_path / "store/demo/v0002/manifest.json"
    table = orjson.loads(manifest.read_bytes())
    table["files"][name] = table["files"]["README.md"]
    rewrite(manifest, table)
    error = damaged(theirs, tmp_path / "store")
    assert "is no file of a version" in error and "\x1b" not in error
    nothing_here(theirs)
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize(("field", "value"), [("name", "../out"), ("version", 0), ("version", 10**12)])
def test_a_manifest_with_a_hostile_place(
    ours: Project, theirs: Project, tmp_path: Path, field: str, value: Any
) -> None:
    push(find_version("demo", ours.folder / "datasets"), str(tmp_path / "store"))
    manifest = tmp_path / "store/demo/v0002/manifest.json"
    rewrite(manifest, {**orjson.loads(manifest.read_bytes()), field: value})
    damaged(theirs, tmp_path / "store")
    nothing_here(theirs)
    assert not (theirs.folder / "out").exists()


# -- what the hub of these tests refuses, asked by the real client ---------------------------------------------------


CLIENT = """
import sys
from huggingface_hub import HfApi, CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError
for what in sys.argv[1:]:
    api = HfApi(token="hf_wrong" if what == "token" else None)
    add, parent = CommitOperationAdd("x.zst", what.encode()), None
    operations = [add]
    if what == "sha":
        add.upload_info.sha256 = bytes(32)
    elif what == "size":
        add.upload_info.size += 1
    elif what == "parent":
        parent = "0" * 40
    elif what == "never":
        add._is_uploaded, add._upload_mode = True, "lfs"
    elif what == "deleted":
        operations = [CommitOperationDelete("gone.jsonl")]
    try:
        if what != "unknown":
            api.create_repo(f"me/{what}", repo_type="dataset", private=True, exist_ok=True)
        api.create_commit(f"me/{what}", operations, repo_type="dataset", commit_message="x", parent_commit=parent)
    except Exception as error:
        refused = error if isinstance(error, HfHubHTTPError) else error.__cause__
        print(what, refused.response.status_code, refused.server_message)
    else:
        print(what, "taken")
"""


def test_the_hub_refuses_what_the_real_one_refuses(hub: Hub, at_hub: Any) -> None:
    said = {
        "well": "taken",
        "sha": "400 BadDigest: the sha256 is not the one that was announced",
        "size": "400 EntityTooSmall: not the size that was announced",
        "parent": "412 A commit has happened since. Please refresh and try again.",
        "never": "400 LFS pointer pointed to a file that does not exist: x.zst",
        "deleted": "404 A file with this name doesn't exist",
        "unknown": "404 Repository not found",
        "token": "401 Invalid username or password.",
    }
    run = subprocess.run(
        [sys.executable, "-c", CLIENT, *said], env=clean_environment(**at_hub), capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert run.stdout.splitlines() == [f"{what} {words}" for what, words in said.items()], run.stderr
    commits = {name: len(repository.commits) for name, repository in hub.repositories.items()}
    assert commits.pop("me/well") == 2 and set(commits.values()) == {1}


# -- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_and_back(ours: Project, theirs: Project, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done(ours.run("push", "demo@1", str(store)))
    assert (store / "demo/latest").read_text() == "v0001\n"
    assert content(store / "demo/v0001") == content(ours.version(1))
    done(ours.run("push", "demo", f"file://{store}"))
    assert (store / "demo/latest").read_text() == "v0002\n"
    assert push(find_version("demo@1", ours.folder / "datasets"), str(store)).was_there
    assert (store / "demo/latest").read_text() == "v0002\n"
    pull(str(store), theirs.folder / "datasets")
    done(theirs.run("pull", f"file://{store}", "demo@1"))
    assert content(theirs.version(1)) == content(ours.version(1))
    assert (theirs.folder / "datasets/demo/latest").readlink() == Path("v0002")
    for url, name in [(store, "demo@7"), (store, "other"), (tmp_path / "nowhere", None)]:
        with pytest.raises(NotFound):
            pull(str(url), theirs.folder / "datasets", name)


def test_a_number_taken_by_other_content_makes_it_the_next_free_one(
    ours: Project, theirs: Project, tmp_path: Path
) -> None:
    push(find_version("demo@1", ours.folder / "datasets"), str(tmp_path / "store"))
    (theirs.folder / "datasets/demo").mkdir(parents=True)
    renumber(ours.version(2), theirs.version(1), 1)
    error = done(theirs.run("pull", str(tmp_path / "store")))
    assert "demo@2 is here now" in error and "there it is demo@1" in error
    manifest = theirs.manifest(2)
    assert manifest["digest"] == ours.manifest(1)["digest"] and manifest["parent"] is None
    assert manifest["run"]["pulled"] == {"from": str(tmp_path / "store"), "version": 1, "parent": None}
    whole(theirs, 2)
    assert pull(str(tmp_path / "store"), theirs.folder / "datasets").was_here


def test_the_same_number_with_other_content_in_a_store(ours: Project, theirs: Project, tmp_path: Path) -> None:
    push(find_version("demo@1", ours.folder / "datasets"), str(tmp_path / "store"))
    (theirs.folder / "datasets/demo").mkdir(parents=True)
    renumber(ours.version(2), theirs.version(1), 1)
    before = content(tmp_path / "store")
    assert "never replaced" in done(theirs.run("push", "demo@1", str(tmp_path / "store")), 2)
    assert content(tmp_path / "store") == before


def test_what_an_interrupted_push_left_is_no_version(ours: Project, theirs: Project, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name in ("demo@1", "demo@2"):
        push(find_version(name, ours.folder / "datasets"), str(store))
    (store / "demo/v0002/manifest.json").unlink()
    (store / "demo/latest").write_text("v0001\n")
    pull(str(store), theirs.folder / "datasets")
    assert not theirs.version(2).exists() and theirs.version(1).is_dir()
    push(find_version("demo@2", ours.folder / "datasets"), str(store))
    assert (store / "demo/latest").read_text() == "v0002\n"
    pull(str(store), theirs.folder / "datasets")
    whole(theirs, 1)
    whole(theirs, 2)


def test_rows_that_were_erased_here_do_not_come_back(ours: Project, tmp_path: Path) -> None:
    for name in ("demo@1", "demo@2"):
        push(find_version(name, ours.folder / "datasets"), str(tmp_path / "store"))
    row = ours.rows(1)[0]["id"]
    done(ours.run("forget", row, "--yes"))
    home = ours.folder / "datasets"
    before = content(home)
    with pytest.raises(UsageError) as caught:
        pull(str(tmp_path / "store"), home, "demo@1")
    assert "holds what was erased here" in str(caught.value) and row in str(caught.value)
    assert content(home) == before
    with pytest.raises(UsageError) as caught:
        push(find_version("demo@1", home), str(tmp_path / "store"))
    assert "never replaced" in str(caught.value) and "take it away there" in str(caught.value)
    shutil.rmtree(tmp_path / "store")
    for name in ("demo@1", "demo@2"):
        push(find_version(name, home), str(tmp_path / "store"))
    shutil.rmtree(home / "demo/v0001")
    pull(str(tmp_path / "store"), home, "demo@1")  # the record of the erasure itself is no row that comes back
    assert row not in {each["id"] for each in ours.rows(1)}


def test_a_version_that_the_gate_refused_is_not_pushed(ours: Project, tmp_path: Path) -> None:
    refused = ours.folder / "datasets/demo/refused"
    shutil.copytree(ours.version(2), refused)
    with pytest.raises(UsageError) as caught:
        push(find_version(str(refused), ours.folder / "datasets"), str(tmp_path / "store"))
    assert "quality gate" in str(caught.value) and not (tmp_path / "store").exists()


def test_the_folder_of_another_project(ours: Project, theirs: Project) -> None:
    (ours.version(2) / "exports").mkdir()
    (ours.version(2) / "exports/notes.txt").write_text("may stand there")
    pull(str(ours.folder / "datasets"), theirs.folder / "datasets")
    assert {*content(theirs.version(2))} == {*content(ours.version(2))} - {"exports/notes.txt"}
    with pytest.raises(UsageError) as caught:
        push(find_version("demo", ours.folder / "datasets"), str(theirs.folder / "datasets"))
    assert "project's own folder" in str(caught.value)


def test_a_pull_that_was_killed_before_it_moved_latest(ours: Project, theirs: Project, tmp_path: Path) -> None:
    push(find_version("demo", ours.folder / "datasets"), str(tmp_path / "store"))
    pull(str(tmp_path / "store"), theirs.folder / "datasets")
    (theirs.folder / "datasets/demo/latest").unlink()
    assert pull(str(tmp_path / "store"), theirs.folder / "datasets").was_here
    assert (theirs.folder / "datasets/demo/latest").readlink() == Path("v0002")


def test_content_that_is_here_and_damaged(ours: Project, theirs: Project, tmp_path: Path) -> None:
    push(find_version("demo", ours.folder / "datasets"), str(tmp_path / "store"))
    pull(str(tmp_path / "store"), theirs.folder / "datasets")
    (theirs.version(2) / "README.md").unlink()
    assert "is here as demo@2, damaged: 'README.md'" in damaged(theirs, tmp_path / "store")


def test_a_push_that_is_killed_moves_no_latest(ours: Project, tmp_path: Path) -> None:
    store = tmp_path / "store"
    push(find_version("demo@1", ours.folder / "datasets"), str(store))
    (store / "demo/v0002/manifest.json").mkdir(parents=True)  # nothing can be put in its place
    assert "manifest.json" in done(ours.run("push", "demo@2", str(store)), 2)
    assert (store / "demo/latest").read_text() == "v0001\n"
    assert not [p.name for p in store.rglob(".*")], "nothing half-written is left"
    old, new = store / "demo/.sending-elsewhere-1-old", store / "demo/.sending-elsewhere-1-new"
    old.write_text("of a push that was killed")
    new.write_text("of one that is perhaps at work, of another machine")
    os.utime(old, (0, 0))
    (store / "demo/v0002/manifest.json").rmdir()
    push(find_version("demo@2", ours.folder / "datasets"), str(store))
    assert new.exists() and not old.exists()
    assert (store / "demo/latest").read_text() == "v0002\n"


def test_a_push_that_is_killed_anywhere_is_swept_by_the_next(ours: Project, theirs: Project, tmp_path: Path) -> None:
    version, kills = find_version("demo@1", ours.folder / "datasets"), 0
    for call in itertools.count(1):
        store = tmp_path / f"store{call}"
        if not killed_at(call, ("fsync", "fchmod", "rename"), lambda to=store: push(version, str(to))):
            break
        left = [each.name for each in store.rglob(".sending-*")]
        kills += len(left)
        assert not (store / "demo/latest").exists() or (store / "demo/v0001/manifest.json").exists()
        push(version, str(store))
        assert not list(store.rglob(".*"))
        assert {*content(store / "demo")} == {"latest", *(f"v0001/{name}" for name in content(version.folder))}
    assert call > 20 and kills > 10, "files were left, and went"


def test_a_pull_sweeps_what_a_dead_push_left_and_nothing_else(ours: Project, theirs: Project, tmp_path: Path) -> None:
    store = tmp_path / "store"
    push(find_version("demo", ours.folder / "datasets"), str(store))
    dead = subprocess.Popen(["true"])
    dead.wait()
    machine = _machine()
    left = {
        store / f"demo/.sending-{machine}-{dead.pid}-abc": False,
        store / f"demo/.sending-{machine}-{os.getpid()}-abc": True,
        store / f"demo/.sending-other-{dead.pid}-abc": True,
        store / "demo/.sending-abc": True,
    }
    for path in left:
        path.write_text("half")
    pull(str(store), theirs.folder / "datasets")
    assert {path: path.exists() for path in left} == left


def test_two_pushes_at_once_into_a_folder(ours: Project, tmp_path: Path) -> None:
    address = parsed(str(tmp_path / "store"))
    assert isinstance(address, StoreAddress)
    with Store(address).held("demo"):
        assert "another push is at work" in done(ours.run("push", "demo", address.url), 11)
    assert content(tmp_path / "store") == {}
    done(ours.run("push", "demo", address.url))


def test_what_a_push_of_another_version_began_is_told(ours: Project, tmp_path: Path) -> None:
    """Else it would be sent, and nobody could pull it."""
    stray = tmp_path / "store/demo/v0002/data/test-00000-of-00001.jsonl"
    stray.parent.mkdir(parents=True)
    stray.write_text("{}\n")
    error = done(ours.run("push", "demo@2", str(tmp_path / "store")), 2)
    assert "data/test-00000-of-00001.jsonl" in error and f"remove {stray.parents[1]}" in error
    assert content(tmp_path / "store/demo") == {"v0002/data/test-00000-of-00001.jsonl": b"{}\n"}


@pytest.mark.parametrize("name", ["v0002/manifest.json", "v0002/README.md", "latest"])
def test_a_pipe_in_a_folder_keeps_nobody_waiting(ours: Project, theirs: Project, tmp_path: Path, name: str) -> None:
    push(find_version("demo", ours.folder / "datasets"), str(tmp_path / "store"))
    path = tmp_path / "store/demo" / name
    path.unlink()
    os.mkfifo(path)
    assert path.name in done(theirs.run("pull", str(tmp_path / "store"), "demo"), 8)
    nothing_here(theirs)


def test_sizes_that_lie_are_told_before_anything_is_fetched(
    ours: Project, theirs: Project, hub: Hub, at_hub: Any
) -> None:
    hub.hold("me/demo", ours.version(2), "v0002")
    hub.claims = {"README.md": 10 * 2**30}
    assert "has 10,737,418,240 bytes there" in done(theirs.run("pull", "hf://me/demo", **at_hub), 8)
    assert not [each for each in hub.requests if each.startswith("GET") and each.endswith("README.md")]
    hub.claims = {"manifest.json": 10 * 2**30}
    before = len(hub.requests)
    assert "far too large" in done(theirs.run("pull", "hf://me/demo", **at_hub), 8)
    assert not [each for each in hub.requests[before:] if "manifest.json" in each]
    nothing_here(theirs)


def test_a_version_larger_than_the_disk_is_not_fetched(
    ours: Project, theirs: Project, hub: Hub, at_hub: Any, tmp_path: Path
) -> None:
    shutil.copytree(ours.version(2), tmp_path / "huge")
    table = orjson.loads((tmp_path / "huge/manifest.json").read_bytes())
    table["files"]["README.md"]["bytes"] = hub.claims["README.md"] = 10**17
    rewrite(tmp_path / "huge/manifest.json", table)
    hub.hold("me/demo", tmp_path / "huge", "v0002")
    assert "100,000,000,000,0" in done(theirs.run("pull", "hf://me/demo", **at_hub), 12)
    assert not [each for each in hub.requests if each.endswith(".jsonl")]
    nothing_here(theirs)


def test_a_dataset_s_own_folder_is_no_store(ours: Project, theirs: Project, tmp_path: Path) -> None:
    store = tmp_path / "store"
    push(find_version("demo", ours.folder / "datasets"), str(store))
    for folder, words in [("demo", f"{store} demo"), ("demo/v0002", f"{store} demo@2"), (".", "NAME/v0001")]:
        at = store / folder if folder != "." else tmp_path
        assert words in done(theirs.run("pull", str(at)), 10)


def test_a_pull_beside_a_version_without_a_manifest(ours: Project, theirs: Project, tmp_path: Path) -> None:
    push(find_version("demo@1", ours.folder / "datasets"), str(tmp_path / "store"))
    theirs.version(1).mkdir(parents=True)
    assert "demo@2 is here now" in done(theirs.run("pull", str(tmp_path / "store")))
    assert (theirs.folder / "datasets/demo/latest").readlink() == Path("v0002")


@pytest.mark.parametrize("fault", ["flip", "missing", "extra", "longer", "shorter"])
def test_damage_in_a_store(ours: Project, theirs: Project, tmp_path: Path, fault: str) -> None:
    push(find_version("demo", ours.folder / "datasets"), str(tmp_path / "store"))
    file = tmp_path / "store/demo/v0002/data/train-00000-of-00001.jsonl"
    if fault == "flip":
        flip(file)
    elif fault == "missing":
        file.unlink()
    elif fault == "extra":
        file.with_name("more.jsonl").write_text("{}\n")
    else:
        file.write_bytes(file.read_bytes() + b"{}\n" if fault == "longer" else file.read_bytes()[:-5])
    error = damaged(theirs, tmp_path / "store")
    assert ("more.jsonl" if fault == "extra" else "train-00000") in error
    nothing_here(theirs)


def test_a_dataset_at_work_is_left_alone(ours: Project, theirs: Project, tmp_path: Path) -> None:
    from distillgen.files import Lock

    push(find_version("demo", ours.folder / "datasets"), str(tmp_path / "store"))
    with Lock(theirs.folder / "datasets/demo/.lock"):
        done(theirs.run("pull", str(tmp_path / "store")), 11)
    pull(str(tmp_path / "store"), theirs.folder / "datasets")


def test_addresses_that_are_none(ours: Project) -> None:
    version = find_version("demo", ours.folder / "datasets")
    for target, words in [
        ("hf://me", "names no dataset repository"),
        ("hf://me/demo@v1", "becomes the tag"),
        ("nosuch://x/y", "no address of a store"),
        ("s3://[x", "is no address"),
        ("s3://", "names no place"),
        ("file:///", "names no place"),
        ("memory://x", "is gone when this command ends"),
        ("hf:me/demo", "is no address"),
        ("s3:sets/x", "is no address"),
        ("S3://sets/x", "in small letters"),
        ("hf:/me/demo", "is no address"),
        ("simplecache::s3://sets/x", "is no address"),
        ("https://huggingface.co/datasets/me/demo/tree/main", "write hf://me/demo"),
        ("", "is empty"),
    ]:
        with pytest.raises(UsageError) as caught:
            push(version, target)
        assert words in str(caught.value), target
    assert not [each.name for folder in (ours.folder, Path()) for each in folder.iterdir() if ":" in each.name]
    with pytest.raises(UsageError):
        push(version, "/tmp/x", public=True)
    with pytest.raises(UsageError):
        push(version, "/tmp/x", accept=["openai-services-agreement"])


def test_a_secret_in_an_address_is_not_told(ours: Project) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ftp://me:hunter2@127.0.0.1:{free.getsockname()[1]}/x"
        error = done(ours.run("push", "demo", url), 7)
    assert "hunter2" not in error and "DG901" in error
    assert parsed("https://me:hunter2@example.org/x?key=hunter2").shown == "https://example.org/x"


@pytest.mark.parametrize(("package", "target", "extra"), [("huggingface_hub", "hf://me/demo", "hub"), ("fsspec", "/tmp/x", "remote"), ("s3fs", "s3://sets/x", "s3")])  # fmt: skip
def test_a_missing_extra_names_its_install_line(ours: Project, package: str, target: str, extra: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from distillgen.cli.main import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "push", "demo", target], cwd=ours.folder, env=clean_environment(),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert f"pip install 'distillgen[{extra}]'" in done(run, 2)


def test_a_token_that_cannot_be_sent_and_a_proxy_without_its_package(ours: Project, hub: Hub, at_hub: Any) -> None:
    error = done(ours.run("push", "demo", "hf://me/demo", **{**at_hub, "HF_TOKEN": "hf_hünter2"}), 4)
    assert "cannot be sent" in error and "nter2" not in error
    code = "import sys; sys.modules['socksio'] = None; from distillgen.cli.main import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "push", "demo", "hf://me/demo"], cwd=ours.folder, capture_output=True, text=True,
        env=clean_environment(**at_hub, ALL_PROXY="socks5://me:hunter2@127.0.0.1:1"), check=False, timeout=60,
    )  # fmt: skip
    assert "pip install 'httpx[socks]'" in done(run, 2) and "hunter2" not in run.stderr


# -- S3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A real S3 server, in a process of its own, with an empty bucket."""
    code = (
        "import sys, boto3\nfrom moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer('127.0.0.1', port=0, verbose=False)\nserver.start()\n"
        "host, port = server.get_host_and_port()\n"
        "boto3.client('s3', endpoint_url=f'http://127.0.0.1:{port}', region_name='us-east-1').create_bucket(Bucket='sets')\n"
        "print(port, flush=True)\nsys.stdin.read()"
    )
    keys = {"AWS_ACCESS_KEY_ID": "loopback", "AWS_SECRET_ACCESS_KEY": "loopback", "AWS_DEFAULT_REGION": "us-east-1"}
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**clean_environment(**keys), "PYTHONWARNINGS": "default"},
    )  # fmt: skip
    assert server.stdin and server.stdout
    port = server.stdout.readline().strip()
    yield {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_EC2_METADATA_DISABLED": "true"}
    server.stdin.close()
    server.wait(20)
    server.stdout.close()


def bucket(s3: dict[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=s3["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )


@pytest.mark.xdist_group("s3")  # one server for all
def test_s3_and_back(ours: Project, theirs: Project, s3: dict[str, str]) -> None:
    done(ours.run("push", "demo@1", "s3://sets/whole/sets", **s3))
    done(ours.run("push", "demo@2", "s3://sets/whole/sets", **s3))
    assert "nothing to do" in done(ours.run("push", "demo@2", "s3://sets/whole/sets", **s3))
    client = bucket(s3)
    assert client.get_object(Bucket="sets", Key="whole/sets/demo/latest")["Body"].read() == b"v0002\n"
    done(theirs.run("pull", "s3://sets/whole/sets", **s3))
    assert content(theirs.version(2)) == content(ours.version(2))


@pytest.mark.xdist_group("s3")  # one server for all
def test_damage_in_s3(ours: Project, theirs: Project, s3: dict[str, str]) -> None:
    done(ours.run("push", "demo", "s3://sets/damaged", **s3))
    client, key = bucket(s3), "damaged/demo/v0002/provenance.jsonl.zst"
    whole = client.get_object(Bucket="sets", Key=key)["Body"].read()
    client.put_object(Bucket="sets", Key=key, Body=whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    assert "provenance" in done(theirs.run("pull", "s3://sets/damaged", **s3), 8)
    client.delete_object(Bucket="sets", Key=key)
    assert "there is no 'provenance.jsonl.zst'" in done(theirs.run("pull", "s3://sets/damaged", **s3), 8)
    nothing_here(theirs)
    done(ours.run("push", "demo", "s3://sets/damaged", **s3))  # sends what is missing there
    assert client.get_object(Bucket="sets", Key=key)["Body"].read() == whole


@pytest.mark.xdist_group("s3")  # one server for all
def test_s3_without_keys_bucket_or_server(ours: Project, theirs: Project, s3: dict[str, str], tmp_path: Path) -> None:
    done(ours.run("push", "demo", "s3://nobucket/x", **s3), 10)
    done(theirs.run("pull", "s3://sets/empty", "demo", **s3), 10)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        away = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free.getsockname()[1]}", "AWS_MAX_ATTEMPTS": "1"}
        for command in (["push", "demo", "s3://sets/x"], ["pull", "s3://sets/x", "demo"]):
            assert "DG901" in done(theirs.run(*command, "--project", str(ours.folder), **{**s3, **away}), 7)
    nobody = {name: value for name, value in s3.items() if "KEY" not in name} | {"HOME": str(tmp_path)}
    assert "AWS_ACCESS_KEY_ID" in done(ours.run("push", "demo", "s3://sets/x", **nobody), 4)


# -- helpers ---------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])


def rewrite(path: Path, table: dict[str, Any]) -> None:
    """Write a manifest as somebody would who knows the format."""
    table.pop("seal", None)
    path.chmod(0o644)
    path.write_bytes(sealed(orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n"))


def renumber(source: Path, target: Path, number: int) -> None:
    """Copy a version to another number."""
    shutil.copytree(source, target)
    rewrite(
        target / "manifest.json",
        {**orjson.loads((target / "manifest.json").read_bytes()), "version": number, "parent": None},
    )


def test_what_was_erased_where_it_comes_from_stays_out_of_builds_here(demo: Project, tmp_path: Path) -> None:
    demo.build()
    erased = demo.rows()[0]["id"]
    assert demo.run("forget", erased, "--yes").returncode == 0
    assert demo.run("push", "demo", str(tmp_path / "store")).returncode == 0
    shutil.rmtree(demo.folder / "datasets")
    shutil.rmtree(demo.folder / ".distillgen")
    done = demo.run("pull", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    assert erased in (demo.folder / "datasets" / "demo" / "forgotten.txt").read_text()
    demo.build()
    assert erased not in {row["id"] for row in demo.rows(demo_numbers(demo)[-1])}


def demo_numbers(project: Project) -> list[int]:
    return sorted(int(path.name[1:]) for path in (project.folder / "datasets" / "demo").glob("v*"))
