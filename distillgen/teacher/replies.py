"""Reads a teacher's raw reply: text, reasoning trace from wherever the server puts it, why it ended, tokens, logprobs.

It runs for every stored answer of every build, so it touches only what it needs: 6 microseconds for a short reply.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

MAX_TOP_LOGPROBS = 20
MOST_TOKENS = 10**9  # more is nonsense, and would not fit the answer store
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Generation that broke off: DeepSeek, Z.AI, Mistral and OpenRouter, vLLM and SGLang. Not an answer: to be asked again.
_INTERRUPTED = frozenset({"insufficient_system_resource", "network_error", "error", "abort"})
CUT_OFF = frozenset({"length", "model_length", "model_context_window_exceeded"})
# Opening tag, closing tag, source: where no parser runs on the server. Qwen, R1 and others; Kimi; Magistral.
_TAGS = (("<think>", "</think>", "think"), ("◁think▷", "◁/think▷", "kimi"), ("[THINK]", "[/THINK]", "magistral"))
_MARKS = ("think", "THINK]", "<|")  # one of them stands in every such tag
_CHANNEL = re.compile(  # gpt-oss writes `<|channel|>analysis<|message|>...<|end|>`, its answer in the channel `final`
    r"<\|channel\|>(\w+)[^<]*<\|message\|>(.*?)(?=<\|(?:end|start|channel|return|call)\|>|\Z)", re.DOTALL
)


class Malformed(Exception):
    """A reply that arrived but is not a completion: HTML, an error in a 200, no choices, interrupted generation."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens the provider counted for one completion.

    `reasoning` is part of `completion`; `cached` (read from the provider's cache) and `cache_write` are of `prompt`.
    """

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0
    cache_write: int = 0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
            self.cached + other.cached,
            self.cache_write + other.cache_write,
        )


NOTHING = TokenUsage()


class Completion(NamedTuple):
    """What a teacher said. `usage` is None when the server sent none that makes sense.

    `finish_reason` is the server's own word. `reasoning_source` says where the trace was: `reasoning_content`,
    `reasoning`, `reasoning_details`, `content_parts`, or inline: `think`, `kimi`, `magistral`, `channel`.
    """

    text: str
    reasoning: str
    reasoning_source: str
    finish_reason: str
    refusal: str
    model: str
    fingerprint: str
    usage: TokenUsage | None
    replaced_surrogates: int = 0
    service_tier: str = ""
    raw_logprobs: Any = None

    @property
    def is_truncated(self) -> bool:
        """Whether the teacher ran into its length limit, or out of context."""
        return self.finish_reason in CUT_OFF

    @property
    def is_filtered(self) -> bool:
        """Whether the provider's moderation, not the teacher, ended the reply."""
        return _is_filter(self.finish_reason)

    @property
    def logprobs(self) -> list[dict[str, Any]] | None:
        """The tokens of the answer as {token, logprob, top: [[token, logprob], ...]}, None when none were sent.

        Read when asked for: most readers of a reply do not. At most MAX_TOP_LOGPROBS alternatives are kept.
        """
        return _read_logprobs(self.raw_logprobs)


def read_reply(raw: bytes) -> Completion:
    """Return the completion in the body of an HTTP 200. Raises Malformed with a reason in a few words."""
    body, replaced = _parse(raw)
    choice = _choices(body)[0]
    text, reasoning, source, finish, refusal = _read_choice(choice)
    usage = body.get("usage")
    return Completion(
        text,
        reasoning,
        source,
        finish,
        refusal,
        _text(body.get("model")),
        _text(body.get("system_fingerprint")),
        _usage(usage) if usage else None,
        replaced,
        _text(body.get("service_tier")),
        choice.get("logprobs"),
    )


def split_samples(raw: bytes, n: int) -> list[bytes]:
    """Return the body of each of the `n` choices in a reply, in the order of their index, each a whole completion.

    Their usage adds up to that of the reply. What is billed once (prompt tokens, cached ones, a cost) is on sample 0
    and zero on the others; completion tokens are shared in proportion to the length of the texts, those of the trace
    by the length of the traces. Raises Malformed when there are not `n` choices, two have the same index, or one
    of them is not a completion.
    """
    body, _ = _parse(raw)
    choices = _in_order(_choices(body), n)
    read = [_read_choice(choice) for choice in choices]
    try:
        usages = _share(body.get("usage"), [len(text) for text, *_ in read], [len(trace) for _, trace, *_ in read])
        return [
            orjson.dumps(
                {
                    **body,
                    "choices": [{**choice, "index": 0}],
                    "usage": usage,
                    "distillgen": {"sample": number, "of": n, "usage": "unknown" if usage is None else "shared"},
                }
            )
            for number, (choice, usage) in enumerate(zip(choices, usages, strict=True))
        ]
    except (orjson.JSONEncodeError, RecursionError) as error:  # nested too deep, or numbers beyond 64 bits
        raise Malformed(f"cannot be split into samples: {error}") from None


def read_error(body: bytes) -> tuple[str, str]:
    """Return the words and the code ("" without one) in the body of an error, whatever the body is.

    The code decides, the words are for people: 500 characters at most.
    """
    words = body[:300].decode("utf-8", "replace").strip() or "no words"
    try:
        error, _ = _parse(body)
    except Malformed:
        return words, ""
    error = error[0] if isinstance(error, list) and error else error  # Gemini wraps it in a list
    error = error.get("error", error) if isinstance(error, dict) else error
    if isinstance(error, dict):
        return str(error.get("message") or words)[:500], str(error.get("code") or error.get("type") or "")
    return error[:500] if isinstance(error, str) and error else words, ""


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


def _choices(body: Any) -> list[dict[str, Any]]:
    if not isinstance(body, dict):
        raise Malformed(f"a JSON {type(body).__name__}, not a completion")
    if body.get("error"):
        raise Malformed(f"an error in a 200: {_short(body['error'])}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Malformed("no choices")
    return choices


def _in_order(choices: list[Any], n: int) -> list[dict[str, Any]]:
    if len(choices) != n or not all(isinstance(choice, dict) for choice in choices):
        raise Malformed(f"{len(choices)} choices where {n} were asked for")
    indexes = [choice.get("index", place) for place, choice in enumerate(choices)]
    if not all(type(index) is int for index in indexes) or sorted(indexes) != list(range(n)):
        raise Malformed(f"choices that are not numbered from 0 to {n - 1}")
    return [choices[indexes.index(place)] for place in range(n)]


def _short(value: Any) -> str:
    text = value.get("message") if isinstance(value, dict) else value
    return repr(str(text)[:200])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _read_choice(choice: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return text, reasoning, its source, finish reason and refusal. Raises Malformed."""
    finish = choice.get("finish_reason")
    if not isinstance(finish, str):
        finish = "unknown"
    elif finish in _INTERRUPTED:
        raise Malformed(f"generation broke off: {_short(choice.get('error') or finish)}")
    message = choice.get("message")
    if not isinstance(message, dict):
        if _is_filter(finish):  # Gemini sends no message with what it filters
            return "", "", "", finish, ""
        raise Malformed("a choice without a message")
    content, reasoning, source = _read_message(message)
    refusal = message.get("refusal")
    refusal = _joined(refusal) if refusal else ""
    if not (content or reasoning or refusal or finish == "stop" or finish in CUT_OFF or _is_filter(finish)):
        raise Malformed("a message without content")
    return content, reasoning, source, finish, refusal


def _is_filter(finish: str) -> bool:
    """`content_filter`, Gemini's `content_filter: PROHIBITED_CONTENT`, Z.AI's `sensitive`."""
    return finish.startswith("content_filter") or finish == "sensitive"


def _read_message(message: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return answer, reasoning and where it was. The first place that holds something is taken."""
    content = message.get("content")
    text = content if isinstance(content, str) else _joined(content)
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        if (value := message.get(name)) and (trace := _joined(value).strip()):
            return text, trace, name
    if isinstance(content, list) and (trace := _thinking_parts(content).strip()):
        return text, trace, "content_parts"
    return split_think(text)


def _joined(value: Any) -> str:
    """Return a text field: a string, or the texts of a list of parts; summaries count, parts of thinking do not."""
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, dict) and part.get("type") not in ("thinking", "reasoning")]
        return "".join(_text(part.get("text")) or _text(part.get("summary")) for part in parts)
    return _text(value)


def _thinking_parts(parts: Sequence[Any]) -> str:
    """Return the trace of a content in parts, as of Mistral: {"type": "thinking", "thinking": [{"text": ...}]}."""
    thinking = [part for part in parts if isinstance(part, dict) and part.get("type") in ("thinking", "reasoning")]
    return "".join(_joined(part.get("thinking") or part.get("text")) for part in thinking)


def split_think(content: str) -> tuple[str, str, str]:
    """Split an inline trace off: (answer, reasoning, source). Some servers leave out the opening tag.

    A tag that does not lead the content is part of the answer.
    """
    if not any(mark in content for mark in _MARKS):  # of most answers this is all there is to see
        return content, "", ""
    for opening, closing, source in _TAGS:
        closed = closing in content
        if not closed and opening not in content:
            continue
        head, _, tail = content.partition(closing)
        head = head.strip()
        if head.startswith(opening):
            return tail.strip(), head[len(opening) :].strip(), source
        if closed and opening not in head:
            return tail.strip(), head, source
    if content.lstrip()[:21].startswith(("<|channel|>", "<|start|>assistant<|")):
        return _split_channels(content)
    return content, "", ""


def _split_channels(content: str) -> tuple[str, str, str]:
    said = _CHANNEL.findall(content)
    if not said:
        return content, "", ""
    answer = "".join(text for channel, text in said if channel == "final").strip()
    return answer, "\n".join(text.strip() for channel, text in said if channel != "final"), "channel"


def _usage(usage: Any) -> TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion, total = usage.get("prompt_tokens"), usage.get("completion_tokens"), usage.get("total_tokens")
    if type(prompt) is not int or type(completion) is not int:
        return None
    if not (0 <= prompt <= MOST_TOKENS and 0 <= completion <= MOST_TOKENS):
        return None
    details = usage.get("completion_tokens_details")
    reasoning = _count(details.get("reasoning_tokens")) if isinstance(details, dict) else 0
    apart = total - prompt - completion if type(total) is int and total <= 2 * MOST_TOKENS else 0
    if apart > 0 and reasoning in (0, apart):  # xAI and Gemini count the trace apart, and bill it as output
        completion, reasoning = completion + apart, apart
    reasoning = min(reasoning, completion)
    details = usage.get("prompt_tokens_details")
    cached = written = 0
    if isinstance(details, dict):
        cached, written = _count(details.get("cached_tokens")), _count(details.get("cache_write_tokens"))
    if not cached and "prompt_cache_hit_tokens" in usage:  # DeepSeek; relays may send only one of the two
        cached = _count(usage["prompt_cache_hit_tokens"])
    return TokenUsage(prompt, completion, reasoning, cached, written)


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _share(usage: Any, texts: Sequence[int], traces: Sequence[int]) -> list[Any]:
    """Return the usage of each sample in the provider's words; None for all where the reply's makes no sense."""
    counted = _usage(usage)
    if counted is None:
        return [None] * len(texts)
    if not counted.reasoning:  # a trace that is not counted by itself is counted as text
        texts = [text + trace for text, trace in zip(texts, traces, strict=True)]
    answers = _divide(counted.completion - counted.reasoning, texts)
    reasoning = _divide(counted.reasoning, traces)
    shares = []
    for number, (answer, trace) in enumerate(zip(answers, reasoning, strict=True)):
        billed = usage if number == 0 else _nothing_of(usage)
        prompt = counted.prompt if number == 0 else 0
        share = {**billed, "completion_tokens": answer + trace, "total_tokens": prompt + answer + trace}
        if counted.reasoning:
            details = billed.get("completion_tokens_details")
            details = details if isinstance(details, dict) else {}
            share["completion_tokens_details"] = {**details, "reasoning_tokens": trace}
        shares.append(share)
    return shares


def _divide(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a whole number in proportion to the weights, equally where all are 0; the parts add up to it exactly."""
    weights = weights if sum(weights) else [1] * len(weights)
    ends = [0, *itertools.accumulate(weights)]
    cuts = [total * end // ends[-1] for end in ends]
    return [after - before for before, after in itertools.pairwise(cuts)]


def _nothing_of(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same fields with every number zero, those of nested groups too."""
    return {
        name: 0 if type(value) in (int, float) else _nothing_of(value) if isinstance(value, dict) else value
        for name, value in usage.items()
    }


def _read_logprobs(raw: Any) -> list[dict[str, Any]] | None:
    """Read OpenAI's form {content: [{token, logprob, top_logprobs}]}, or the older one of lists that Together sends."""
    if not isinstance(raw, dict):
        return None
    if isinstance(content := raw.get("content"), list):
        tokens = [token for token in content if isinstance(token, dict)]
        return [{**_token(token), "top": _top(token.get("top_logprobs"))} for token in tokens]
    names, values, tops = raw.get("tokens"), raw.get("token_logprobs"), raw.get("top_logprobs")
    if not isinstance(names, list) or not isinstance(values, list) or len(names) != len(values):
        return None
    tops = tops if isinstance(tops, list) and len(tops) == len(names) else [None] * len(names)
    return [
        {**_token({"token": name, "logprob": value}), "top": _top(top)}
        for name, value, top in zip(names, values, tops, strict=True)
    ]


def _token(record: Mapping[str, Any]) -> dict[str, Any]:
    logprob = record.get("logprob")
    return {"token": _text(record.get("token")), "logprob": logprob if type(logprob) in (int, float) else None}


def _top(top: Any) -> list[list[Any]]:
    if isinstance(top, dict):  # the older form
        top = [{"token": name, "logprob": value} for name, value in top.items()]
    if not isinstance(top, list):
        return []
    return [list(_token(record).values()) for record in top[:MAX_TOP_LOGPROBS] if isinstance(record, dict)]
