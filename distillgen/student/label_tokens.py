"""How a model writes labels: the tokens of each, asked of llama.cpp itself in a child process.

Held to these tokens, each label is one choice. Held to letters, a model that has not learnt the labels begins with a
piece of a word that is likely for other reasons.
"""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.student.child import run_child, serve_parent

SECONDS = 300.0  # to load a model


def label_tokens(gguf: Path, labels: Sequence[str], log: Path) -> list[list[int]]:
    """Return the tokens of each label, by the tokenizer in a GGUF file.

    Raises what `run_child` raises, UsageError where llama.cpp cannot load the file.
    """
    settings = {"gguf": str(gguf.resolve()), "labels": list(labels)}
    doing = f"reading the tokens of {gguf.name}"
    said = run_child("distillgen.student.label_tokens", settings, log, doing=doing, seconds=SECONDS)
    return [[int(token) for token in tokens] for tokens in said["tokens"]]


def grammar_of(tokens: Sequence[Sequence[int]]) -> str:
    """Return a GBNF grammar of which the given tokens, in their order, are the only sentences.

    Source: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md, "Tokens"
    """
    return f"root ::= {' | '.join(' '.join(f'<[{token}]>' for token in each) for each in tokens)}"


# -- the child -----------------------------------------------------------------------------------------------------


def work(settings: dict[str, Any]) -> Mapping[str, Any]:
    """Load the model and have its labels taken apart, as texts that stand for nothing else."""
    import httpx
    import xllamacpp

    key = secrets.token_urlsafe(32)
    params = xllamacpp.CommonParams()
    params.model.path = settings["gguf"]
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [key]
    params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 1, 256, 1
    params.warmup, params.verbosity = False, 0
    server = xllamacpp.Server(params)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=server.listening_address, headers=headers, timeout=SECONDS, trust_env=False) as asking:

        def tokens(label: str) -> list[int]:
            wanted = {"content": label, "add_special": False, "parse_special": False}
            return list(asking.post("/tokenize", json=wanted).raise_for_status().json()["tokens"])

        return {"tokens": [tokens(label) for label in settings["labels"]]}


if __name__ == "__main__":
    serve_parent(work)
