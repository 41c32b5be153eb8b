"""Answers by transformers, in a child process, where llama.cpp cannot ask: greedy, in batches of like length, kept in a
file line by line, so that nothing is asked twice.

The child reads one JSON line of settings and prints one JSON line per answer; it ends with its parent.
"""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from distillgen.errors import DistillgenError, MemoryFull, Unfinished, UsageError
from distillgen.files import Lock, canonical, digest, disk_errors, file_sha256
from distillgen.student.asking import Answers
from distillgen.student.child import KINDS, heard_from_parent, last_words, log_error, started, told
from distillgen.student.contestants import BATCH, Contestant
from distillgen.student.progress import OnEvent
from distillgen.student.questions import Question
from distillgen.teacher.replies import split_think

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 16_384  # of a batch with its padding, at the most: long prompts are asked fewer at a time
Line = Mapping[str, Any]


# -- the parent --------------------------------------------------------------------------------------------------------


async def in_thread(
    contestant: Contestant, questions: Sequence[Question], state: Path, on_event: OnEvent, *, anew: bool = False
) -> Answers:
    """Return what `ask_transformers` does; when this is cancelled, the child ends with its batch."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(ask_transformers, contestant, questions, state, on_event, anew=anew, stop=stop)
    except asyncio.CancelledError:
        stop.set()
        raise


def ask_transformers(
    contestant: Contestant, questions: Sequence[Question], state: Path, on_event: OnEvent, *, anew: bool = False,
    stop: threading.Event | None = None,
) -> Answers:  # fmt: skip
    """Return the answers of a model in a folder; those that the state folder has are not asked for again.

    With `anew` all are asked for, and none is kept: `received` has the seconds of each batch, by its questions.
    Raises MemoryFull, DiskFull, ExtraMissing, UsageError where the model cannot be asked, Locked.
    """
    assert contestant.folder is not None
    weights = weights_sha256(contestant.folder)
    keys = [_key(weights, contestant, question) for question in questions]
    path = state / "generated" / f"{weights[:16]}.jsonl"
    log = state / "logs" / f"transformers-{weights[:16]}.log"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
    with Lock(path.with_suffix(".lock")), _kept(path, anew=anew) as (known, keep):
        waiting = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        done = len(questions) - len(waiting)
        received: list[tuple[float, float | None]] = []
        for line in _generated(contestant, waiting, log) if waiting else ():
            known[line["key"]] = line
            keep(line)
            received.append((line["at"], line["seconds"]))
            done += 1
            if stop is not None and stop.is_set():
                raise Unfinished(f"asking {contestant.name} was stopped", fix="run the same command again to go on")
            on_event({"event": "asked", "who": contestant.name, "done": done, "of": len(questions)})
    lines = {question.id: known[key] for question, key in zip(questions, keys, strict=True)}
    return Answers(
        {name: split_think(line["text"])[0].strip() for name, line in lines.items()},
        [
            {"key": line["key"], "tokens": {name: line[name] for name in ("prompt", "completion")}}
            for line in lines.values()
        ],
        received,
    )


def weights_sha256(folder: Path) -> str:
    """Return the sha256 of a model's weights and tokenizer in a transformers folder. Raises UsageError for none."""
    names = sorted(folder.glob("*.safetensors"))
    if not names:
        raise UsageError("no *.safetensors to ask in this folder", where=str(folder))
    others = [folder / name for name in ("tokenizer.json", "chat_template.jinja", "tokenizer_config.json")]
    return digest(*(file_sha256(path).encode() for path in [*names, *(path for path in others if path.is_file())]))


def _key(weights: str, contestant: Contestant, question: Question) -> str:
    asked = [list(question.messages), contestant.max_tokens, list(contestant.labels)]
    return digest(weights.encode(), canonical(asked))


@contextlib.contextmanager
def _kept(path: Path, *, anew: bool) -> Iterator[tuple[dict[str, Line], Any]]:
    """Yield the lines of a file of answers by key, and what adds one. A line that a crash cut off counts as none."""
    if anew:
        yield {}, lambda line: None
        return
    known: dict[str, Line] = {}
    whole = 0
    content = path.read_bytes() if path.is_file() else b""
    for line in content.splitlines(keepends=True):
        with contextlib.suppress(orjson.JSONDecodeError):
            if line.endswith(b"\n") and isinstance(found := orjson.loads(line), dict):
                known[str(found.get("key"))] = found
        if line.endswith(b"\n"):
            whole += len(line)
    with disk_errors(path), path.open("ab") as file:
        file.truncate(whole)

        def keep(line: Line) -> None:
            file.write(orjson.dumps(line) + b"\n")
            file.flush()

        yield known, keep


def _generated(contestant: Contestant, waiting: Mapping[str, Question], log: Path) -> Iterator[Line]:
    """Yield the child's lines. Raises what it says went wrong, MemoryFull where it was killed from outside."""
    settings = {
        "folder": str(contestant.folder), "max_tokens": contestant.max_tokens, "labels": list(contestant.labels),
        "batch": BATCH,
        "questions": [{"key": key, "messages": list(question.messages)} for key, question in waiting.items()],
    }  # fmt: skip
    doing = f"asking {contestant.name} by transformers"
    with disk_errors(log):
        noise = log.open("wb")
    with noise, started("distillgen.student.generating", settings, noise) as process:
        assert process.stdout is not None
        count = 0
        for raw in process.stdout:
            if not raw.endswith(b"\n"):
                break  # killed in the middle of a line
            line = orjson.loads(raw)
            if "error" in line:
                kind = KINDS.get(line.get("kind", ""), UsageError)
                raise kind(f"{doing} failed: {line['error']}", where=str(log), fix=str(line.get("fix", "")))
            count += 1
            yield line
        if count < len(waiting):
            raise _cut_off(process.wait(), doing, log)


def _cut_off(status: int, doing: str, log: Path) -> DistillgenError:
    if status == -9:
        return MemoryFull(f"{doing} was killed from outside, most likely for want of memory", where=str(log))
    return UsageError(f"{doing} ended early (exit status {status}); {last_words(log)}", where=str(log))


# -- the child ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the child."""
    settings = heard_from_parent(lambda: os._exit(1))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to the log
    status = 0
    try:
        for line in _answers(settings):
            _tell(answers, line)
    except BaseException as error:
        log_error()
        _tell(answers, told(error))
        status = 1
    os._exit(status)


def _tell(answers: IO[bytes], line: Line) -> None:
    answers.write(json.dumps(line).encode() + b"\n")
    answers.flush()


def _answers(settings: Mapping[str, Any]) -> Iterator[Line]:
    """Yield an answer to each question, the shortest questions first."""
    import time

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["folder"], padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(settings["folder"], dtype=torch.float32).to(device).eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    ends = _ends(model.generation_config.eos_token_id, tokenizer)
    prompts = [_prompt(tokenizer, question["messages"]) for question in settings["questions"]]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    labels = [_ids(tokenizer, label) for label in settings["labels"]]
    if (longest := max(map(len, labels), default=0)) > settings["max_tokens"]:
        raise UsageError(
            f"--max-tokens {settings['max_tokens']} would cut off a label of {longest} tokens",
            fix="leave --max-tokens out: an answer ends with its label",
        )
    trie = _Trie(labels, ends) if labels else None
    for batch in _batches(order, [len(prompt) for prompt in prompts], settings):
        began = time.time()
        together = tokenizer.pad({"input_ids": [prompts[number] for number in batch]}, return_tensors="pt").to(device)
        length = together["input_ids"].shape[1]
        with torch.inference_mode():
            found: torch.Tensor = model.generate(
                **together, max_new_tokens=settings["max_tokens"], do_sample=False, temperature=None, top_p=None,
                top_k=None, pad_token_id=tokenizer.pad_token_id, eos_token_id=sorted(ends),
                prefix_allowed_tokens_fn=trie.follow(length) if trie else None,
            )  # fmt: skip
        at = time.time()
        for number, row in zip(batch, found[:, length:].tolist(), strict=True):
            said = _cut(row, ends)
            yield {
                "key": settings["questions"][number]["key"], "text": tokenizer.decode(said), "at": at,
                "seconds": at - began, "prompt": len(prompts[number]), "completion": min(len(said) + 1, len(row)),
            }  # fmt: skip


def _prompt(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    if not tokenizer.chat_template:
        raise ValueError("this model has no chat template, so nothing says how to ask it")
    found: list[int] = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _ends(stated: int | Sequence[int] | None, tokenizer: Any) -> set[int]:
    of_model = [stated] if isinstance(stated, int) else list(stated or ())
    return {number for number in (*of_model, tokenizer.eos_token_id) if number is not None}


def _cut(row: Sequence[int], ends: set[int]) -> list[int]:
    stop = next((place for place, token in enumerate(row) if token in ends), len(row))
    return list(row[:stop])


def _batches(order: Sequence[int], lengths: Sequence[int], settings: Mapping[str, Any]) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in order:
        width = lengths[number] + settings["max_tokens"]
        if batch and (len(batch) >= settings["batch"] or width * (len(batch) + 1) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


class _Trie:
    """The tokens that may follow one another so that the whole is one of some texts."""

    def __init__(self, texts: Sequence[Sequence[int]], ends: set[int]) -> None:
        self._ends = sorted(ends)
        self._next: dict[tuple[int, ...], list[int]] = {}
        for text in texts:
            for place in range(len(text) + 1):
                here = self._next.setdefault(tuple(text[:place]), [])
                here += [token for token in ([text[place]] if place < len(text) else self._ends) if token not in here]

    def follow(self, length: int) -> Any:
        """Return what transformers asks which tokens are allowed, of prompts that are padded to a length."""

        def allowed(_: int, tokens: "torch.Tensor") -> list[int]:
            return self._next.get(tuple(tokens[length:].tolist()), self._ends)

        return allowed


if __name__ == "__main__":
    main()
