"""Versions in a dataset repository of a Hugging Face hub, through huggingface_hub: one commit and a tag for each."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from distillgen.dataset.manifest import FILE_NAME
from distillgen.errors import (
    CredentialsError,
    CredentialsRefused,
    Damaged,
    DistillgenError,
    ExtraMissing,
    NotFound,
    RemoteUnavailable,
    UsageError,
)
from distillgen.files import disk_errors
from distillgen.remote.address import HubAddress
from distillgen.remote.source import MANIFEST_LIMIT

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from tenacity import RetryCallState

T = TypeVar("T")
KIND = "dataset"
ATTEMPTS = 4
PASSING = {429, 500, 502, 503, 504}  # statuses that may be another one in a moment
LONGEST_WAIT_SECONDS = 300.0  # the window of the hub's rate limits
_TOKEN = "set HF_TOKEN to a token that may {}, or run `hf auth login`"  # noqa: S105 the words, not a token


@dataclass(frozen=True)
class Commit:
    """A state of the repository: the commit's id, its files with their sizes where asked for, whether others see it."""

    sha: str
    sizes: Mapping[str, int | None]
    is_private: bool

    @property
    def names(self) -> frozenset[str]:
        """The files."""
        return frozenset(self.sizes)


class Hub:
    """One dataset repository. Endpoint and token are huggingface_hub's own: HF_ENDPOINT, HF_TOKEN, its login."""

    def __init__(self, address: HubAddress) -> None:
        self.address = address
        try:
            from huggingface_hub import HfApi
            from huggingface_hub.utils import logging
            from huggingface_hub.utils.tqdm import disable_progress_bars
        except ImportError:
            raise ExtraMissing("hf:// needs huggingface_hub", fix="pip install 'distillgen[hub]'") from None
        disable_progress_bars()
        logging.set_verbosity(ERROR)  # its warnings tell addresses, which may be signed
        self._api = HfApi()

    def require_token(self) -> None:
        """Raise CredentialsError when there is no token, before anything is asked."""
        from huggingface_hub import get_token

        if not get_token():
            raise CredentialsError("no token for the hub", where=self.address.shown, fix=_TOKEN.format("write"))

    def create(self, *, public: bool) -> None:
        """Create the repository where there is none."""
        name = self.address.repository
        with self.errors("write"):
            _patiently(lambda: self._api.create_repo(name, repo_type=KIND, private=not public, exist_ok=True))

    def commit_at(self, revision: str | None, *, with_sizes: bool = False) -> Commit:
        """Return the state that a revision names. Raises NotFound."""
        name = self.address.repository
        with self.errors("read"):
            info = _patiently(lambda: self._api.dataset_info(name, revision=revision, files_metadata=with_sizes))
        sizes = {each.rfilename: each.size for each in info.siblings or ()}
        return Commit(str(info.sha), sizes, bool(info.private))

    def tags(self) -> dict[str, str]:
        """Return the tags with their commits."""
        with self.errors("read"):
            refs = _patiently(lambda: self._api.list_repo_refs(self.address.repository, repo_type=KIND))
        return {each.name: each.target_commit for each in refs.tags}

    def fetch(self, name: str, sha: str, folder: Path) -> Path:
        """Bring a file of a commit below a folder here, and return its path."""
        from huggingface_hub import hf_hub_download

        with self.errors("read"):
            found = hf_hub_download(self.address.repository, name, repo_type=KIND, revision=sha, local_dir=folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # what huggingface_hub notes down beside its downloads
        return Path(found)

    def commit(
        self, folder: Path, names: Sequence[str], gone: Sequence[str], parent: str, told: tuple[str, str]
    ) -> str:
        """Make one commit on the commit `parent`: files of a folder come, others go. Return its id.

        `told` is its first line and what it says below.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, folder / name) for name in names),
            *(CommitOperationDelete(name, is_folder=False) for name in gone),
        ]
        with self.errors("write"):
            return _patiently(
                lambda: self._api.create_commit(
                    self.address.repository, operations, repo_type=KIND, commit_message=told[0],
                    commit_description=told[1], parent_commit=parent,
                )
            ).oid  # fmt: skip

    def tag(self, tag: str, sha: str, message: str) -> None:
        """Tag a commit."""
        name = self.address.repository
        with self.errors("write"):
            _patiently(lambda: self._api.create_tag(name, repo_type=KIND, tag=tag, tag_message=message, revision=sha))

    @contextlib.contextmanager
    def errors(self, wish: str) -> Iterator[None]:
        """Turn what huggingface_hub raises into an error that tells what to do. Its messages may hold addresses that
        are signed, so that none is passed on.
        """
        from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        where = self.address.shown
        try:
            yield
        except DistillgenError:
            raise
        except HfHubHTTPError as error:
            raise self._refused(error, wish) from None
        except HFValidationError:
            raise UsageError("the hub takes no such name", where=where, fix="write hf://OWNER/NAME") from None
        except OfflineModeIsEnabled:
            raise RemoteUnavailable(
                "the hub is not asked: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set", where=where,
                fix="unset it, or do without the hub",
            ) from None  # fmt: skip
        except (FileMetadataError, ConnectionError, TimeoutError) as error:
            raise self._unavailable(type(error).__name__) from None
        except UnicodeEncodeError:
            what = "the token cannot be sent: it has a character that no token has"
            raise CredentialsError(what, where=where, fix=_TOKEN.format(wish)) from None
        except ImportError:
            what = "a proxy (ALL_PROXY, HTTPS_PROXY) needs a package that is not installed"
            raise ExtraMissing(what, fix="pip install 'httpx[socks]'") from None
        except OSError as error:
            if error.errno is None and "Consistency check failed" in str(error):
                raise Damaged(
                    "a file came with another size than the hub said", where=where, fix="the same command again"
                ) from None
            if error.errno is None:
                raise self._unavailable(type(error).__name__) from None
            with disk_errors(where):
                raise
        except Exception as error:  # of the HTTP library, which is not the same in all of its releases
            if isinstance(error, RuntimeError) and isinstance(error.__cause__, HfHubHTTPError):
                raise self._refused(error.__cause__, wish) from None  # so an upload tells why it failed
            caused = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            if type(caused).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "hf_xet"):
                raise self._unavailable(type(caused).__name__) from None
            if isinstance(caused, ValueError | LookupError | TypeError | AttributeError):  # of a page, or other JSON
                raise self._unavailable("what it says is not what a hub says") from None
            raise

    def _refused(self, error: "HfHubHTTPError", wish: str) -> DistillgenError:
        from huggingface_hub.errors import GatedRepoError

        status, where = error.response.status_code, self.address.shown
        if status == 401:
            what = "the hub takes no such token, or shows this repository to nobody without one"
            return CredentialsRefused(what, where=where, fix=_TOKEN.format(wish))
        if status == 403 or isinstance(error, GatedRepoError):
            return CredentialsRefused(f"the token may not {wish} here", where=where, fix=_TOKEN.format(wish))
        if status == 404:
            return NotFound(
                "the hub has no such repository, revision or file", where=where,
                fix="the name; a private repository is shown only to a token (HF_TOKEN) that may read it",
            )  # fmt: skip
        if status in (409, 412):
            return RemoteUnavailable(
                "somebody else changed the repository meanwhile", where=where, fix="the same command again"
            )
        said = repr((error.server_message or "")[:120])
        if status in (400, 413, 422):
            return UsageError(f"the hub refuses this: {said} (HTTP {status})", where=where)
        return self._unavailable(f"HTTP {status} {said}")

    def _unavailable(self, what: str) -> RemoteUnavailable:
        return RemoteUnavailable(
            f"the hub does not answer as it should: {what}", where=self.address.shown,
            fix="the network, HF_ENDPOINT, a proxy (HTTPS_PROXY), or later; no half version is left",
        )  # fmt: skip


def _patiently(ask: Callable[[], T]) -> T:
    """Return what the hub answers to a question, asked again while it is busy.

    huggingface_hub repeats uploads and downloads by itself, and these not. A commit that went through although the hub
    said otherwise is not made twice, for its parent is not the newest any more.
    """
    import tenacity

    asked = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: _status_of(error) in PASSING),
        stop=tenacity.stop_after_attempt(ATTEMPTS), wait=_pause, reraise=True,
    )  # fmt: skip
    return asked(ask)


def _status_of(error: BaseException | None) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _pause(state: "RetryCallState") -> float:
    """Return the seconds to wait: as many as the hub says, else 1, 2, 4."""
    error = state.outcome.exception() if state.outcome is not None else None
    headers = getattr(getattr(error, "response", None), "headers", {})
    said = headers.get("Retry-After", "")
    if not said.isdigit() and (found := re.search(r"\bt=(\d+)", headers.get("RateLimit", ""))):
        said = found[1]
    return min(float(said), LONGEST_WAIT_SECONDS) if said.isdigit() else 2.0 ** (state.attempt_number - 1)


class HubVersion:
    """A version in a repository at one commit, to pull from."""

    def __init__(self, hub: Hub, scratch: Path) -> None:
        self._hub, self._scratch = hub, scratch
        self._commit = hub.commit_at(hub.address.revision, with_sizes=True)

    def manifest(self) -> bytes:
        """See Source."""
        if FILE_NAME not in self._commit.names:
            raise NotFound(
                f"no {FILE_NAME} there, so it is no dataset of distillgen", where=self._hub.address.shown,
                fix="`datasets.load_dataset` reads other repositories",
            )  # fmt: skip
        if (self._commit.sizes[FILE_NAME] or 0) > MANIFEST_LIMIT:
            raise Damaged("the manifest there is none: it is far too large", where=self._hub.address.shown)
        path = self._hub.fetch(FILE_NAME, self._commit.sha, self._scratch)
        with path.open("rb") as file:
            return file.read(MANIFEST_LIMIT)

    def sizes(self) -> Mapping[str, int | None]:
        """See Source. What the hub adds by itself is no part of a version."""
        return {name: size for name, size in self._commit.sizes.items() if name != ".gitattributes"}

    def fetch(self, name: str, folder: Path, size: int) -> None:
        """See Source. huggingface_hub stops at the size that the hub states; that it is `size` is checked after."""
        self._hub.fetch(name, self._commit.sha, folder)
