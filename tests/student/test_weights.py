"""A GGUF file unpacked for training and a trained folder written as one, for real: SmolLM2's tokenizer on a tiny llama."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, clean_environment

torch = pytest.importorskip("torch", reason="make test-student installs it")
pytest.importorskip("gguf", reason="make test-student installs it")

from distillgen.errors import Damaged, UsageError  # noqa: E402
from distillgen.student.base import find_base  # noqa: E402
from distillgen.student.gguf_file import write_gguf  # noqa: E402
from distillgen.student.gguf_head import read_gguf_head  # noqa: E402
from distillgen.teacher.models import find_model, is_installed, weights_path  # noqa: E402

SMALL = find_model("smollm2-135m")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif(not is_installed(SMALL), reason="needs the weights: distillgen teachers install smollm2-135m"),
]
PROMPTS = ["Once upon a time", "Sentiment: a dull film ->", "Größe, 大きさ and 1,234.5"]


@pytest.fixture(scope="module")
def small() -> Path:
    """The GGUF file of the small model."""
    return weights_path(SMALL)


@pytest.fixture(scope="module")
def tiny(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of two layers with random weights of some size, and SmolLM2's own tokenizer: a trained student, so to say."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(small.parent, gguf_file=small.name)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rope_theta=5000.0, initializer_range=0.15,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_gguf(tiny: Path, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama as a GGUF file of float16."""
    out = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    assert write_gguf(
        tiny, small, out, "f16", out.with_name("log"), name="Tiny", dataset_digest="d1", licence="apache-2.0"
    )
    assert [path.name for path in sorted(out.parent.iterdir())] == ["log", "tiny.gguf"]
    return out


@contextlib.contextmanager
def served(gguf: Path) -> Iterator[str]:
    """Serve a GGUF file as the embedded teacher is served; yield the address."""
    pytest.importorskip("xllamacpp", reason="make test-student installs it")
    settings = {
        "path": str(gguf), "name": "it", "key": "k", "parent": os.getpid(), "slots": 1, "context": 256, "threads": 1
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "distillgen.teacher.embedded_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, cwd=REPOSITORY,
    )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.flush()
        said = json.loads(process.stdout.readline())
        assert "url" in said, said
        yield said["url"]
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def asked(url: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}{path}", json.dumps(body).encode(), {"Authorization": "Bearer k", "Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def next_tokens(url: str, prompt: str) -> dict[int, float]:
    """Return the likeliest next tokens with their log probabilities, by llama.cpp."""
    body = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 5, "cache_prompt": False}
    [place] = asked(url, "/completion", body)["completion_probabilities"]
    return {each["id"]: each["logprob"] for each in place["top_logprobs"]}


def differences(folder: Path, url: str) -> list[float]:
    """Return how far the log probabilities of llama.cpp lie from those of transformers, five tokens a prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        assert asked(url, "/tokenize", {"content": prompt})["tokens"] == ids[0].tolist()
        with torch.no_grad():
            expected = model(ids).logits[0, -1].log_softmax(-1)
        said = next_tokens(url, prompt)
        assert max(said, key=lambda token: said[token]) == int(expected.argmax())
        found += [abs(float(expected[token]) - value) for token, value in said.items()]
    return found


def test_a_student_answers_in_llama_cpp_as_in_transformers(tiny: Path, tiny_gguf: Path) -> None:
    with served(tiny_gguf) as url:
        found = differences(tiny, url)
    assert len(found) == 15 and max(found) < 0.05, found


def test_quantised_to_eight_bits_it_answers_nearly_so(tiny: Path, small: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "q8.gguf"
    assert write_gguf(tiny, small, out, "q8_0", tmp_path / "log")
    assert out.stat().st_size < 0.7 * tiny_gguf.stat().st_size
    with served(out) as url:
        found = differences(tiny, url)
    assert max(found) < 0.5, found


def test_the_file_says_what_it_is(tiny_gguf: Path) -> None:
    head = read_gguf_head(tiny_gguf)
    wanted = {
        "general.architecture": "llama", "general.name": "Tiny", "general.license": "apache-2.0",
        "distillgen.dataset_digest": "d1", "llama.block_count": 2, "llama.embedding_length": 64,
        "llama.feed_forward_length": 96, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.context_length": 256, "llama.rope.freq_base": 5000.0, "llama.rope.dimension_count": 16,
        "llama.vocab_size": 49152, "general.file_type": 1,
    }  # fmt: skip
    assert {key: head.values.get(key) for key in wanted} == wanted
    assert head.tokens == 49152 and len(head.tensors) == 2 + 2 * 9


def test_the_chat_template_is_the_one_that_it_was_trained_with(tiny: Path, small: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert write_gguf(folder, small, tmp_path / "x.gguf", "f16", tmp_path / "log")
    assert read_gguf_head(tmp_path / "x.gguf").values["tokenizer.chat_template"] == "{{ messages[0].content }}!"


def copied(folder: Path, into: Path) -> Path:
    """Return a folder of links to the files of another one."""
    made = into / "copy"
    made.mkdir()
    for path in folder.iterdir():
        (made / path.name).symlink_to(path)
    return made


def changed(folder: Path, into: Path, change: Any) -> Path:
    """Return a copy whose tensors are changed."""
    from safetensors.torch import load_file, save_file

    made = copied(folder, into)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (made / "model.safetensors").unlink()
    save_file(tensors, made / "model.safetensors", {"format": "pt"})
    return made


def test_weights_in_several_files_and_of_sixteen_bits_are_the_same(tiny: Path, small: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4MB")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").exists()
    assert write_gguf(folder, small, tmp_path / "x.gguf", "f16", tmp_path / "log")
    from gguf import GGUFReader

    tensors = {each.name: each.data for each in GGUFReader(tmp_path / "x.gguf").tensors}
    expected = model.model.layers[1].mlp.down_proj.weight.detach().to(torch.float16).numpy()
    assert (tensors["blk.1.ffn_down.weight"] == expected).all()
    assert len(tensors) == 20


def test_a_tensor_that_has_no_place_is_refused(tiny: Path, small: Path, tmp_path: Path) -> None:
    def change(tensors: Any) -> None:
        tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)

    folder = changed(tiny, tmp_path, change)
    with pytest.raises(UsageError, match=r"1 tensors have no place .*q_proj\.bias"):
        write_gguf(folder, small, tmp_path / "x.gguf", "f16", tmp_path / "log")
    assert not list(tmp_path.glob("*.gguf*")) and not list(tmp_path.glob(".x*"))


def test_a_tensor_that_is_missing_is_told(tiny: Path, small: Path, tmp_path: Path) -> None:
    folder = changed(tiny, tmp_path, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(Damaged, match=r"do not belong together: output_norm\.weight"):
        write_gguf(folder, small, tmp_path / "x.gguf", "f16", tmp_path / "log")


@pytest.mark.parametrize("what", ["tokenizer", "vocabulary", "rope", "kind", "no-base"])
def test_for_a_student_that_the_base_file_does_not_fit_there_is_no_own_way(
    tiny: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = copied(tiny, tmp_path)
    config, tokenizer = json.loads((tiny / "config.json").read_text()), (tiny / "tokenizer.json").read_text()
    match what:
        case "tokenizer":
            tokenizer = tokenizer.replace('"Ġsmall":', '"Ġsmoll":')
            assert tokenizer != (tiny / "tokenizer.json").read_text()
        case "vocabulary":
            config["vocab_size"] += 1
        case "rope":
            config["rope_parameters"] = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}
        case "kind":
            config["model_type"] = "mistral"
    for name, text in (("config.json", json.dumps(config)), ("tokenizer.json", tokenizer)):
        (folder / name).unlink()
        (folder / name).write_text(text)
    monkeypatch.setenv("PATH", "")
    base = None if what == "no-base" else small
    assert not write_gguf(folder, base, tmp_path / "x.gguf", "f16", tmp_path / "log")


# -- unpacking --------------------------------------------------------------------------------------------------------

FIND = """
import json, logging, os, sys
logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
from distillgen.student.base import find_base
if "--no-child" in sys.argv:
    import subprocess
    subprocess.Popen = None
base = find_base(sys.argv[1])
assert not {"torch", "transformers", "gguf", "numpy"} & set(sys.modules)
print(json.dumps({"folder": str(base.folder), "inode": os.stat(base.folder).st_ino, "parameters": base.parameters}))
"""


def start(gguf: Path, cache: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", FIND, str(gguf), *more], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**clean_environment(DISTILLGEN_CACHE=str(cache)), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip


def finished(process: "subprocess.Popen[str]") -> tuple[dict[str, Any], str]:
    out, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return json.loads(out), told


def children(of: int) -> list[int]:
    """Return the processes that a process has started (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == of:
                found.append(int(entry.name))
    return found


def is_alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def killed(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which an unpacking was killed in the middle; its child is gone too."""
    cache = tmp_path_factory.mktemp("cache")
    process = start(tiny_gguf, cache)
    while not list(cache.glob("models/.staging-*")) or not (working := children(process.pid)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(is_alive(each) for each in working):  # they end with their parent, or this test never does
        time.sleep(0.02)
    return cache


def test_killed_in_the_middle_nothing_half_made_has_its_name(killed: Path) -> None:
    assert list(killed.glob("models/.staging-*"))
    assert not [path for path in (killed / "models").iterdir() if path.is_dir() and not path.name.startswith(".")]


def test_after_that_two_at_once_unpack_once_and_a_third_starts_no_child(
    tiny: Path, tiny_gguf: Path, killed: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    both = [start(tiny_gguf, killed), start(tiny_gguf, killed)]
    (first, told), (second, also_told) = (finished(process) for process in both)
    assert first == second
    assert (told + also_told).count("for training") == 1 and "waiting for it" in told + also_told
    folder = Path(first["folder"])
    assert sorted(path.name for path in folder.parent.iterdir()) == [f".{folder.name}.lock", folder.name]
    third, told = finished(start(tiny_gguf, killed, "--no-child"))
    assert third == first and told == ""

    model, original = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, tiny))
    assert model.dtype == torch.float32 and third["parameters"] == original.num_parameters()
    assert not hasattr(model.config, "quantization_config")
    for name, weight in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.to(torch.float16).float()), name
    tokenizer, same = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tiny)
    assert tokenizer.model_max_length == 256 and tokenizer.chat_template == same.chat_template
    for prompt in PROMPTS:
        assert tokenizer(prompt).input_ids == same(prompt).input_ids
    model.save_pretrained(tmp_path / "again")  # a model that still counts as quantised cannot be


def test_a_child_that_is_killed_is_said_to_want_memory(tiny_gguf: Path, tmp_path: Path) -> None:
    process = start(tiny_gguf, tmp_path)
    while not (working := children(process.pid)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(working[0], signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and "MemoryFull" in told and "killed from outside" in told
    assert not list((tmp_path / "models").glob(".staging-*"))


def test_a_file_that_transformers_does_not_know_is_told_with_the_log(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLGEN_CACHE", str(tmp_path))
    other = tmp_path / "other.gguf"
    other.write_bytes(
        tiny_gguf.read_bytes().replace(
            b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00llams", 1
        )
    )
    with pytest.raises(UsageError, match="llams") as raised:
        find_base(str(other))
    [log] = (tmp_path / "models").glob("*.log")
    assert str(log) in str(raised.value) and "Traceback" in log.read_text() and "Traceback" not in str(raised.value)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_the_embedded_model_is_a_base_by_its_name(small: Path) -> None:
    base = find_base("smollm2-135m")
    assert (base.gguf, base.sha256, base.licence, base.title) == (small, SMALL.sha256, SMALL.licence, SMALL.title)
    assert (base.parameters, base.context) == (134_515_008, 8192)
    assert base.bytes > 4 * base.parameters
    assert find_base(str(small)).folder == base.folder  # the same file by its path
