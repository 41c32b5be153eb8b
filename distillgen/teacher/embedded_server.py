"""The child process of the embedded teacher: serves one GGUF file on loopback until its parent is gone.

Reads one JSON line of settings from standard input, prints one JSON line with the address and whether JSON can be held
to one line, and ends on SIGTERM, on the end of standard input, or (Linux) with its parent. The key comes by the pipe,
so that no process list shows it.
"""

import contextlib
import json
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
PROPS_SECONDS = 60.0


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process with its parent, where it can; the pipe's end covers the rest."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(0)


def template_of(url: str, key: str) -> str:
    """Return the chat template of the model that is served."""
    import httpx

    headers = {"Authorization": f"Bearer {key}"}
    reply = httpx.get(f"{url}/props", headers=headers, timeout=PROPS_SECONDS, trust_env=False)
    return str(reply.raise_for_status().json().get("chat_template", ""))


def answers_at_once(template: str) -> bool:
    """Whether a model is known to write its answer and nothing before it: one that thinks first must not be held to the
    answer's form from its first token on."""
    return bool(template) and not any(word in template for word in ("think", "reason", "channel"))


def serve(settings: dict[str, Any]) -> None:
    """Load the model, say where it is served, and wait for the end."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["key"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context"]
    params.cpuparams.n_threads = settings["threads"]
    params.verbosity = 0
    server = xllamacpp.Server(params)
    url = server.listening_address
    has_llguidance = xllamacpp.json_schema_to_grammar("{}").startswith("%llguidance")
    can_be_compact = has_llguidance and answers_at_once(template_of(url, settings["key"]))
    print(json.dumps({"url": url, "compact": can_be_compact}), flush=True)
    sys.stdin.buffer.read()  # ends when the parent closes the pipe, on purpose or by dying


def main() -> None:
    """Run the child."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    settings = json.loads(sys.stdin.buffer.readline())
    die_with_parent(settings["parent"])
    try:
        serve(settings)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
