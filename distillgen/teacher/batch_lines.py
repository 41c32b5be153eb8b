"""One line of a file of requests or of results: written, split off a stream, read."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson

from distillgen.teacher.asking import Fault, Request
from distillgen.teacher.replies import Malformed, read_error, read_reply

LINE_URL: Final = "/v1/chat/completions"
MAX_LINE_BYTES = 64 * 1024 * 1024


def write_line(request: Request) -> bytes:
    """Return the line that asks for a request; its `custom_id` is the request's key in hex."""
    line = {"custom_id": request.key.hex(), "method": "POST", "url": LINE_URL, "body": request.body}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


async def split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a stream, split at line feeds alone; of a giant line only the beginning."""
    line = bytearray()
    async for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line += end
            if line.strip():
                yield bytes(line)
            line.clear()
        if len(line) <= MAX_LINE_BYTES:
            line += rest
    if line.strip():
        yield bytes(line)


def read_line(line: bytes) -> tuple[bytes, bytes | Fault | None]:
    """Return the key of a line (empty when it has none), and the body of its reply, a fault, or None for neither."""
    result = _parse(line)
    try:
        key = bytes.fromhex(result["custom_id"])
    except (KeyError, TypeError, ValueError):
        return b"", None
    response, error = result.get("response"), result.get("error")
    if not isinstance(response, dict):
        return key, _not_run(error) if error else None
    body, status = _dump(response.get("body")), response.get("status_code")
    if status != 200:
        words, code = read_error(body)
        return key, Fault("status", words, status=status if isinstance(status, int) else 500, code=code, body=body)
    try:
        read_reply(body)
    except Malformed as malformed:
        return key, Fault("malformed", str(malformed), status=200, body=body)
    return key, body


def _not_run(error: Any) -> Fault:
    """Return why a request brought no reply of the model's server."""
    words, code = read_error(_dump(error))
    return Fault("timeout" if code == "request_timeout" else "network", words, code=code)


def _parse(text: bytes) -> Any:
    """Return the JSON in `text`, None when it is none. Lone surrogates, which the fast reader refuses, pass."""
    for read in (orjson.loads, json.loads):
        with contextlib.suppress(ValueError, RecursionError):
            return read(text)
    return None


def _dump(body: Any) -> bytes:
    """Return the body of a reply as bytes, none of one that is nested too deep; some servers send it as a string."""
    if isinstance(body, str):
        return body.encode("utf-8", "replace")
    with contextlib.suppress(TypeError):
        return orjson.dumps(body)
    with contextlib.suppress(RecursionError):  # the slow writer takes lone surrogates
        return json.dumps(body).encode()
    return b""
