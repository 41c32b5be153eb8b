"""Reads a teacher's raw reply: text, reasoning trace from wherever the server puts it, why it ended, tokens."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Malformed(Exception):
    """A reply that arrived but is not a completion: HTML, an error in a 200, no choices."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens the provider counted for one completion; `reasoning` is part of `completion`, `cached` of `prompt`."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
            self.cached + other.cached,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """What a teacher said. `usage` is None when the server sent none that makes sense."""

    text: str
    reasoning: str
    reasoning_source: str
    finish_reason: str
    refusal: str
    model: str
    fingerprint: str
    usage: TokenUsage | None
    replaced_surrogates: int = 0

    @property
    def is_truncated(self) -> bool:
        """Whether the teacher ran into its length limit."""
        return self.finish_reason == "length"


def read_reply(raw: bytes) -> Completion:
    """Return the completion in the body of an HTTP 200. Raises Malformed with a reason in a few words."""
    body, replaced = _parse(raw)
    if not isinstance(body, dict):
        raise Malformed(f"a JSON {type(body).__name__}, not a completion")
    if body.get("error"):
        raise Malformed(f"an error in a 200: {_short(body['error'])}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Malformed("no choices")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Malformed("a choice without a message")
    content = _text(message.get("content"))
    reasoning, source = _reasoning(message)
    if not source:
        content, reasoning, source = split_think(content)
    finish = choice.get("finish_reason")
    refusal = _text(message.get("refusal"))
    if not content and not refusal and not reasoning and finish not in ("length", "content_filter", "stop"):
        raise Malformed("a message without content")
    return Completion(
        text=content,
        reasoning=reasoning,
        reasoning_source=source,
        finish_reason=finish if isinstance(finish, str) else "unknown",
        refusal=refusal,
        model=_text(body.get("model")),
        fingerprint=_text(body.get("system_fingerprint")),
        usage=_usage(body.get("usage")),
        replaced_surrogates=replaced,
    )


def _parse(raw: bytes) -> tuple[Any, int]:
    try:
        return orjson.loads(raw), 0
    except orjson.JSONDecodeError:
        pass
    try:  # lone surrogates and the like: Python's reader takes them, and they are replaced
        text = json.dumps(json.loads(raw), ensure_ascii=False)
    except (ValueError, RecursionError):
        start = raw[:60].decode("utf-8", "replace").strip()
        raise Malformed(f"not JSON: {start!r}" if start else "an empty body") from None
    clean, replaced = _LONE_SURROGATE.subn("\ufffd", text)
    try:
        return orjson.loads(clean), replaced
    except orjson.JSONDecodeError:  # NaN, say
        raise Malformed("not valid JSON") from None


def _short(value: Any) -> str:
    text = value.get("message") if isinstance(value, dict) else value
    return repr(str(text)[:200])


def _text(value: Any) -> str:
    """Return a text field: a string, or the text parts of a list of parts."""
    if isinstance(value, list):
        return "".join(part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str))
    return value if isinstance(value, str) else ""


def _reasoning(message: Mapping[str, Any]) -> tuple[str, str]:
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        if text := _text(message.get(name)):
            return text.strip(), name
    return "", ""


def split_think(content: str) -> tuple[str, str, str]:
    """Split inline `<think>` text off: (answer, reasoning, source). Some servers leave out the opening tag."""
    head, closed, tail = content.partition("</think>")
    opened = head.lstrip().startswith("<think>")
    if closed:
        return tail.strip(), head.strip().removeprefix("<think>").strip(), "think"
    if opened:  # cut off inside the trace
        return "", head.strip().removeprefix("<think>").strip(), "think"
    return content, "", ""


def _usage(usage: Any) -> TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens") or _count(usage.get("prompt_cache_hit_tokens"))
    return TokenUsage(counts[0] or 0, counts[1] or 0, reasoning, cached)


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
