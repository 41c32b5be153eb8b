"""What a provider of batches is asked: files go up, batches are made and found again, files of results come as lines.

Every error of the client comes out as a Fault, in words without the key.
"""

import contextlib
import zlib
from collections.abc import AsyncGenerator, Awaitable
from typing import IO, TypeVar

import aiohttp
import httpx
import openai
from openai.types import Batch, FileObject

from distillgen.teacher.asking import Endpoint, Fault
from distillgen.teacher.batch_lines import LINE_URL, split_lines
from distillgen.teacher.replies import read_error

METADATA = "distillgen_digest"
FOREIGN_ERRORS = (openai.OpenAIError, httpx.HTTPError, aiohttp.ClientError, OSError, zlib.error, ValueError)

T = TypeVar("T", Batch, FileObject)


class BatchApi:
    """One provider's files and batches. `client` may retry: a batch is created with one attempt alone."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client, self._once = client, client.with_options(max_retries=0)
        self._without_key = Endpoint(str(client.base_url), client.api_key).without_key

    async def upload(self, name: str, file: IO[bytes]) -> str:
        """Upload a file of requests; return its id. Raises Fault."""
        uploaded = await self._ask(self._client.files.create(file=(name, file, "application/jsonl"), purpose="batch"))
        return uploaded.id

    async def create(self, file_id: str, digest: str) -> Batch:
        """Make a batch of an uploaded file, which carries the digest of its requests.

        Raises Fault; unless that is a refusal, the batch may exist all the same.
        """
        return await self._ask(
            self._once.batches.create(
                input_file_id=file_id, endpoint=LINE_URL, completion_window="24h", metadata={METADATA: digest}
            )
        )

    async def look_up(self, batch_id: str) -> Batch:
        """Return a batch as it is now. Raises Fault."""
        return await self._ask(self._client.batches.retrieve(batch_id))

    async def made_since(self, since: float) -> AsyncGenerator[tuple[str, Batch], None]:
        """Yield the account's batches made after a Unix time, newest first, each with the digest of its requests.

        The digest of a batch that is not ours is empty. Raises Fault.
        """
        try:
            async for batch in self._client.batches.list(limit=100):
                if (batch.created_at or since) < since:
                    return
                yield (batch.metadata or {}).get(METADATA, ""), batch
        except (*FOREIGN_ERRORS, AttributeError) as error:  # the client trips over a list that is a web page
            raise self._fault(error) from None

    async def lines(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a file of results. Raises Fault."""
        try:
            async with self._client.files.with_streaming_response.content(file_id) as response:
                async for line in split_lines(response.iter_bytes()):
                    yield self._without_key(line)
        except FOREIGN_ERRORS as error:
            raise self._fault(error) from None

    async def delete_file(self, file_id: str) -> None:
        """Delete a file that no batch uses; it does no harm when that fails."""
        with contextlib.suppress(*FOREIGN_ERRORS):
            await self._client.files.delete(file_id)

    async def delete_file_named(self, name: str) -> None:
        """Delete a file whose id was never heard of, if it is there and not old."""
        with contextlib.suppress(*FOREIGN_ERRORS):
            page = await self._client.files.list(purpose="batch", order="desc", limit=100)
            for file in page.data:
                if file.filename == name:
                    await self._client.files.delete(file.id)

    def clean(self, words: str) -> str:
        """Return a provider's words without the key, 500 characters at most."""
        return self._without_key(words.encode("utf-8", "replace")).decode()[:500]

    async def _ask(self, call: Awaitable[T]) -> T:
        try:
            said = await call
        except FOREIGN_ERRORS as error:
            raise self._fault(error) from None
        if not isinstance(getattr(said, "id", None), str):
            raise Fault("malformed", "the reply is no object of the batch API")
        return said

    def _fault(self, error: Exception) -> Fault:
        if isinstance(error, openai.APIStatusError):
            body = self._without_key(error.response.content)
            words, code = read_error(body)
            return Fault("status", words, status=error.status_code, code=code, body=body)
        words = self.clean(str(error.__cause__ or error)) or type(error).__name__
        return Fault("timeout" if isinstance(error, openai.APITimeoutError) else "network", words)
