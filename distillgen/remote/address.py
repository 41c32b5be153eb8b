"""Where versions are shared: a dataset repository of a Hugging Face hub, or a folder of any store fsspec knows."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from distillgen.errors import UsageError

HUB = "hf://"
_REPOSITORY = re.compile(r"(?:datasets/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]{1,200}))?", re.ASCII)
_PROTOCOL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.ASCII)
_LIKE_AN_ADDRESS = re.compile(  # a slip of the pen, not a folder's name
    r"[A-Za-z][A-Za-z0-9+.-]+:(/|:)|(hf|s3|gs|gcs|abfs|az|https?|file):", re.ASCII | re.IGNORECASE
)
_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?:datasets/)?([\w.-]+/[\w.-]+)", re.ASCII)


@dataclass(frozen=True)
class HubAddress:
    """A dataset repository, `owner/name`, and a revision: a tag, branch or commit; None is the newest."""

    repository: str
    revision: str | None = None

    @property
    def shown(self) -> str:
        """The address as a person writes it."""
        return f"{HUB}{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class StoreAddress:
    """A folder of a store: `s3://bucket/path`, `file:///path`, or a path here."""

    url: str

    @property
    def shown(self) -> str:
        """The address without anything that may be a secret: user, password, query."""
        if not _PROTOCOL.match(self.url):
            return self.url
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing in the address that may be a secret."""
        return self.shown == self.url


def parsed(text: str) -> HubAddress | StoreAddress:
    """Return the address that a person wrote. Raises UsageError where it is none."""
    if page := _PAGE.match(text):
        raise UsageError(f"{text[:120]!r} is a page for people", fix=f"write {HUB}{page[1]}")
    if text.startswith(HUB):
        found = _REPOSITORY.fullmatch(text.removeprefix(HUB).rstrip("/"))
        if found is None or ".." in text:
            raise UsageError(f"{text[:120]!r} names no dataset repository", fix="write hf://OWNER/NAME, or with @v0003")
        return HubAddress(found[1], found[2])
    if not text or "\0" in text:
        raise UsageError("an address is empty", fix="write hf://OWNER/NAME, s3://BUCKET/PATH, or a folder's path")
    if (protocol := _PROTOCOL.match(text)) and "::" not in text:
        try:
            urlsplit(text)
        except ValueError:
            raise UsageError(f"{text[:120]!r} is no address", fix="write s3://BUCKET/PATH, say") from None
        if not text[protocol.end() :].strip("/"):
            raise UsageError(f"{text[:120]!r} names no place", fix="write the whole address: s3://BUCKET/PATH, say")
        if protocol[1] == "memory":
            raise UsageError(
                f"{text[:120]!r} is gone when this command ends", fix="a folder's path, or s3://BUCKET/PATH"
            )
        return StoreAddress(text.rstrip("/"))
    if _LIKE_AN_ADDRESS.match(text):
        raise UsageError(
            f"{text[:120]!r} is no address",
            fix="write PROTOCOL://PATH in small letters, or ./PATH for a folder of that name",
        )
    return StoreAddress(str(Path(text).expanduser().absolute()))
