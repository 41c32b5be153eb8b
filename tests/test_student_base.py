"""Finding the base model of a student, without torch: what is taken, and what every other folder, file or name is told."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import pytest
from conftest import Project, clean_environment
from hub import READS, Hub, _handler
from test_student_folder import student_manifest

from distillgen.dataset.seal import sealed
from distillgen.dataset.versions import find_version
from distillgen.errors import Damaged, DiskFull, DistillgenError, EmbeddedMissing, ExtraMissing, MemoryFull, UsageError
from distillgen.mix.terms import Said
from distillgen.student import needs, unpack
from distillgen.student.base import find_base
from distillgen.student.child import kind_of, run_child, started
from distillgen.student.gguf_file import CONVERTERS, write_gguf
from distillgen.student.gguf_head import read_gguf_head
from distillgen.student.permission import allowed, require_allowed, required_names

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 512, "vocab_size": 8,
    "tie_word_embeddings": True, "num_hidden_layers": 0, "num_attention_heads": 1, "hidden_size": 4,
}  # fmt: skip


def safetensors(shapes: dict[str, list[int]], cut: int = 0) -> bytes:
    """A safetensors file of zeros."""
    table, place = {}, 0
    for name, shape in shapes.items():
        size = 4
        for each in shape:
            size *= each
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    head = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    whole = struct.pack("<Q", len(head)) + head + bytes(place)
    return whole[: len(whole) - cut]


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content.encode())) + content.encode()


def gguf(values: dict[str, Any], shapes: dict[str, tuple[int, ...]], tokens: int = 3, magic: bytes = b"GGUF") -> bytes:
    """The head of a GGUF file; no tensor follows."""
    told = magic + struct.pack("<IQQ", 3, len(shapes), len(values) + 1)
    told += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, tokens)
    told += b"".join(text(f"t{n}") for n in range(tokens))
    for key, value in values.items():
        told += text(key)
        told += struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
    for name, shape in shapes.items():
        told += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, 0)
    return told


LLAMA = {"general.architecture": "llama", "general.license": "mit", "llama.context_length": 64}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that is a model, as far as a process without torch can see."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors({"model.embed_tokens.weight": [8, 4], "x": [5]}))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DISTILLGEN_CACHE", str(folder))
    return folder


def change(model: Path, **more: Any) -> None:
    (model / "config.json").write_text(json.dumps(CONFIG | more))


def test_a_folder_is_described_by_its_files(model: Path) -> None:
    (model / "README.md").write_text("---\nlanguage: en\nlicense: 'apache-2.0'\n---\nlicense: not this one\n")
    base = find_base(str(model))
    assert (base.name, base.folder, base.gguf) == (str(model), model, None)
    assert (base.title, base.licence, base.parameters, base.context) == ("model", "apache-2.0", 37, 512)
    assert base.bytes == (model / "model.safetensors").stat().st_size


def test_a_relative_path_is_a_folder_and_is_kept_absolute(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert find_base("model").folder == model
    assert find_base("./model").folder == model


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("", "unknown"),
        ("# no front matter\nlicense: mit\n", "unknown"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: \x1b[31mred\n---\n", "[31mred"),
    ],
    ids=["none", "no-front-matter", "other", "crlf", "hostile"],
)
def test_the_licence_is_what_the_card_states(model: Path, card: str, licence: str) -> None:
    (model / "README.md").write_bytes(card.encode())
    assert find_base(str(model)).licence == licence


def test_the_digest_is_that_of_names_and_contents_of_the_weights(model: Path) -> None:
    first = find_base(str(model)).sha256
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    assert find_base(str(model)).sha256 == first
    (model / "model.safetensors").write_bytes(safetensors({"model.embed_tokens.weight": [8, 4], "y": [5]}))
    assert find_base(str(model)).sha256 != first


def test_weights_in_several_files_are_counted_together(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "a.safetensors").write_bytes(safetensors({"a": [3, 3]}))
    (model / "b.safetensors").write_bytes(safetensors({"b": [2]}))
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    assert find_base(str(model)).parameters == 11
    (model / "b.safetensors").unlink()
    with pytest.raises(UsageError, match=r"1 of 2 files of weights are missing, 'b.safetensors'"):
        find_base(str(model))
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(UsageError, match="missing"):
        find_base(str(model))
    index.write_text("[]")
    with pytest.raises(UsageError, match="index of the weights cannot be read"):
        find_base(str(model))


def test_tied_weights_that_are_there_twice_are_counted_once(model: Path) -> None:
    shapes = {"model.embed_tokens.weight": [8, 4], "lm_head.weight": [8, 4]}
    (model / "model.safetensors").write_bytes(safetensors(shapes))
    assert find_base(str(model)).parameters == 32
    change(model, tie_word_embeddings=False)
    assert find_base(str(model)).parameters == 64


def test_the_context_is_looked_for_where_models_state_it(model: Path) -> None:
    change(model, max_position_embeddings=None, n_positions=1024)
    assert find_base(str(model)).context == 1024
    change(model, max_position_embeddings=None)
    (model / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    assert find_base(str(model)).context == 77
    (model / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    with pytest.raises(UsageError, match="how long the model's context is"):
        find_base(str(model))


def spoil(model: Path, how: str) -> None:
    weights = model / "model.safetensors"
    match how:
        case "no-config":
            (model / "config.json").unlink()
        case "adapter":
            (model / "config.json").rename(model / "adapter_config.json")
        case "config-no-json":
            (model / "config.json").write_text("{")
        case "config-a-list":
            (model / "config.json").write_text("[1]")
        case "other-kind":
            change(model, architectures=["BertForSequenceClassification"])
        case "no-kind":
            change(model, architectures=None, model_type="clip")
        case "quantised":
            change(model, quantization_config={"quant_method": "gptq"})
        case "bin":
            weights.rename(model / "pytorch_model.bin")
        case "no-weights":
            weights.unlink()
        case "no-tokenizer":
            (model / "tokenizer.json").unlink()
        case "cut-off":
            weights.write_bytes(safetensors({"a": [100]}, cut=10))
        case "no-safetensors":
            weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        case "deep":
            weights.write_bytes(struct.pack("<Q", 10**5) + b"[" * 10**5)
        case "shape-of-text":
            weights.write_bytes(safetensors({"a": [1]}).replace(b"[1]", b'"x"'))
        case "config-deep":
            (model / "config.json").write_text("[" * 10**5)
        case "empty":
            weights.write_bytes(b"")


@pytest.mark.parametrize(
    ("how", "kind", "told"),
    [
        ("no-config", UsageError, "there is no config.json"),
        ("adapter", UsageError, "an adapter, not a model"),
        ("config-no-json", UsageError, "not a JSON object"),
        ("config-a-list", UsageError, "not a JSON object"),
        ("other-kind", UsageError, "base model of another kind: BertForSequenceClassification"),
        ("no-kind", UsageError, "base model of another kind: clip"),
        ("quantised", UsageError, r"is quantised \(gptq\)"),
        ("bin", UsageError, r"(?s)only as pytorch_model.bin.*save_pretrained"),
        ("no-weights", UsageError, "the model has no weights"),
        ("no-tokenizer", UsageError, "no tokenizer"),
        ("cut-off", Damaged, "it was cut off"),
        ("no-safetensors", Damaged, "no whole safetensors file"),
        ("deep", Damaged, "no whole safetensors file"),
        ("shape-of-text", Damaged, "no whole safetensors file"),
        ("config-deep", UsageError, "not a JSON object"),
        ("empty", Damaged, "no whole safetensors file"),
    ],
)
def test_a_folder_that_is_no_base_is_told_why(model: Path, how: str, kind: type[DistillgenError], told: str) -> None:
    spoil(model, how)
    with pytest.raises(kind, match=told) as raised:
        find_base(str(model))
    assert type(raised.value) is kind or how == "no-weights"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("smollm2-135", "did you mean 'smollm2-135m'"),
        ("./nowhere", "no such folder or file"),
        ("/no/where", "no such folder or file"),
        ("a/b/c", "no such folder or file"),
        ("own/x.gguf", "no such folder or file"),
        ("", "has no name"),
        ("a\0b", "has no name"),
        ("..", "no config.json"),
        ("a/b..c", "names no model of the hub"),
        ("x" * 5000, "cannot look at the base model: File name too long"),
        ("~no_such_user/x", "cannot look at the base model"),
    ],
    ids=["slip", "relative", "absolute", "deep", "gguf", "empty", "nul", "parent", "dots", "long", "nobody"],
)
def test_a_name_of_nothing_is_told_what_could_be_meant(name: str, told: str, model: Path) -> None:
    with pytest.raises(UsageError) as raised:
        find_base(name if name != ".." else str(model.parent))
    assert told in str(raised.value)


def test_an_embedded_name_tells_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smollm2-135m").mkdir()  # which is not taken for the model of that name
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EmbeddedMissing, match="distillgen teachers install smollm2-135m"):
        find_base("smollm2-135m")
    with pytest.raises(UsageError, match=r"no config\.json"):
        find_base("./smollm2-135m")


# -- GGUF files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (b"GGML", EmbeddedMissing, "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1), UsageError, "version 1"),
        (gguf(LLAMA, {"a": (4,)})[:90], Damaged, "cut off"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), Damaged, "cut off"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQQ", 9, 8, 2, 2**64 - 1),
            Damaged,
            "cut off",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1) * 5000, Damaged, "cut off"),
        (gguf({"general.architecture": "clip"}, {"a": (4,)}), UsageError, "no language model"),
        (gguf({**LLAMA, "general.type": "adapter"}, {"a": (4,)}), UsageError, "no language model but adapter"),
        (gguf(LLAMA, {"a": (4,)}, tokens=0), UsageError, "no tokenizer"),
        (gguf(LLAMA, {"rope_freqs.weight": (4,)}), UsageError, "stretches positions"),
    ],
    ids=[
        "other",
        "old",
        "cut-off",
        "hostile",
        "endless-text",
        "deep-arrays",
        "projector",
        "adapter",
        "no-tokens",
        "rope",
    ],
)
def test_a_gguf_file_that_is_no_base_is_told_why(
    tmp_path: Path, content: bytes, kind: type[DistillgenError], told: str, with_packages: None
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(kind, match=told):
        find_base(str(path))


@pytest.fixture
def with_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch and its companions were installed."""
    monkeypatch.setattr(unpack, "require_student", lambda: None)


def test_the_head_of_a_gguf_file_is_read_without_a_package(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(LLAMA, {"a": (4, 5), "b": (6,)}))
    head = read_gguf_head(path)
    assert (head.architecture, head.parameters, head.context, head.tokens) == ("llama", 26, 64, 3)
    assert head.values["general.license"] == "mit"


def test_a_disk_that_is_too_small_is_said_before_anything_is_made(
    tmp_path: Path, cache: Path, with_packages: None
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(LLAMA, {"a": (10**8, 10**8)}))
    with pytest.raises(DiskFull, match="DISTILLGEN_CACHE"):
        find_base(str(path))
    assert not [each for each in cache.rglob("*") if "transformers" in each.name and not each.name.endswith(".lock")]


def test_without_the_extra_the_install_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(LLAMA, {"a": (4,)}))
    monkeypatch.setattr("distillgen.student.PACKAGES", ("no_such_package",))
    with pytest.raises(ExtraMissing, match=r"pip install 'distillgen\[student\]'"):
        find_base(str(path))


def test_what_is_unpacked_is_taken_without_the_extra(tmp_path: Path, cache: Path, model: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(LLAMA, {"a": (4,)}))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    folder = cache / "models" / f"gguf-{sha[:12]}-transformers"
    folder.parent.mkdir(parents=True)
    model.rename(folder)
    base = find_base(str(path))
    assert (base.folder, base.gguf, base.sha256, base.licence, base.title) == (folder, path, sha, "mit", "x")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=rf"(?s)no tokenizer.*remove {folder}"):
        find_base(str(path))


def test_a_file_that_is_no_gguf_is_told_what_a_base_is(model: Path) -> None:
    with pytest.raises(UsageError, match="name the folder that holds config.json"):
        find_base(str(model / "config.json"))


# -- the converter of llama.cpp, as a program that others install -------------------------------------------------------


def converter(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch, name: str = CONVERTERS[0]) -> None:
    """Put a program of its name on PATH."""
    folder.mkdir()
    program = folder / name
    program.write_text(f"#!{sys.executable}\nimport os, sys, time\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_without_any_way_no_gguf_file_is_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not write_gguf(model, None, tmp_path / "out.gguf", "q8_0", tmp_path / "log")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("name", CONVERTERS)
def test_the_converter_is_run_alone_and_its_file_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "sample").write_bytes(gguf(LLAMA, {"a": (4,)}))
    script = f"""
print('chatter', flush=True)
open({str(tmp_path / "seen")!r}, 'w').write(repr((sys.argv[1:], sorted(os.environ))))
open(sys.argv[sys.argv.index('--outfile') + 1], 'wb').write(open({str(tmp_path / "sample")!r}, 'rb').read())
"""
    converter(tmp_path / "bin", script, monkeypatch, name)
    monkeypatch.setenv("HF_TOKEN", "a secret")
    out = tmp_path / "made" / "out.gguf"
    assert write_gguf(model, None, out, "q8_0", tmp_path / "log", name="it")
    arguments, names = eval((tmp_path / "seen").read_text())
    assert arguments[:3] == [str(model), "--outtype", "q8_0"] and arguments[-2:] == ["--model-name", "it"]
    assert "HF_TOKEN" not in names and "HF_HUB_OFFLINE" in names
    assert (tmp_path / "log").read_text() == "chatter\n"
    assert [path.name for path in out.parent.iterdir()] == ["out.gguf"]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("sys.exit('Model Foo is not supported')", "its last words: 'Model Foo is not supported'"),
        ("open(sys.argv[-1], 'wb').write(b'GG')", "brought no GGUF file"),
        ("open(sys.argv[-1], 'wb').write(b'GG'); sys.exit(3)", r"exit status 3\); it said nothing"),
        ("time.sleep(600)", "took longer than"),
    ],
    ids=["refuses", "other-file", "half", "hangs"],
)
def test_a_converter_that_fails_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    converter(tmp_path / "bin", script, monkeypatch)
    if "sleep" in script:
        monkeypatch.setattr("distillgen.student.gguf_file.CONVERTER_SECONDS", 3.0)
    out = tmp_path / "made" / "out.gguf"
    with pytest.raises(UsageError, match=told):
        write_gguf(model, None, out, "f16", tmp_path / "log")
    assert list(out.parent.iterdir()) == []


def test_a_disk_too_small_for_a_gguf_file_is_said_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter(tmp_path / "bin", "", monkeypatch)
    cells = shutil.disk_usage(tmp_path).free
    head = safetensors({"a": [0]}).replace(b"[0]", b"[%d]" % cells).replace(b"[0, 0]", b"[0, %d]" % (4 * cells))
    head = struct.pack("<Q", len(head) - 8) + head[8:]
    (model / "model.safetensors").write_bytes(head)
    os.truncate(model / "model.safetensors", len(head) + 4 * cells)  # a sparse file
    with pytest.raises(DiskFull, match="--gguf none"):
        write_gguf(model, None, tmp_path / "out.gguf", "f16", tmp_path / "log")


def test_a_child_that_dies_before_it_has_heard_anything_is_told_by_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(subprocess.Popen[bytes]):
        """A real child, of which the parent hears only when it is dead."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(subprocess, "Popen", Dead)
    with pytest.raises(UsageError, match=r"working ended without a word \(exit status 1\); .*No module named"):
        run_child("distillgen.no_such_module", {}, tmp_path / "log", doing="working")


@pytest.fixture
def full() -> Iterator[IO[bytes]]:
    """A log on a disk that is full."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("wb") as file:
        yield file


def test_a_full_disk_is_told_also_when_the_log_is_on_it(
    full: IO[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "at_work.py").write_text(
        "from distillgen.student.child import serve_parent\n"
        "def work(settings):\n    raise RuntimeError('I/O error: No space left on device (os error 28)')\n"
        "serve_parent(work)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with started("at_work", {}, full) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["kind"] == "disk"
    with started("distillgen.student.trainer", {"work": str(tmp_path / "absent")}, full) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.read())
        assert told["event"] == "error" and "absent" in told["what"]


def test_a_library_that_asks_a_question_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks whether a model's own code may be run."""
    (tmp_path / "asking.py").write_text(
        "from distillgen.student.child import serve_parent\nserve_parent(lambda settings: {'said': input('may I?')})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UsageError, match="asking failed: EOFError"):
        run_child("asking", {}, tmp_path / "log", doing="asking", seconds=60)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), "memory"),
        (OSError(28, "No space left on device"), "disk"),
        (OSError(122, "Disk quota exceeded"), "disk"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), "disk"),
        (DiskFull("full"), "disk"),
        (ModuleNotFoundError("No module named 'gguf'"), "missing"),
        (ValueError("GGUF model with architecture llams is not supported"), "usage"),
        (EmbeddedMissing("a kind of its own"), "usage"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else each,
)
def test_what_libraries_say_is_told_by_its_kind(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_a_folder_of_an_odd_name_is_a_base_with_a_plain_title(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = model.with_name("my \x1b[31m modèle\n2")
    model.rename(odd)
    monkeypatch.chdir(odd.parent)
    base = find_base(odd.name)
    assert base.folder == odd and base.title == "my  [31m modèle 2"


def test_a_path_that_is_no_text_reaches_the_child(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    with (tmp_path / "log").open("wb") as noise, started("json.tool", {"folder": odd}, noise) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        assert json.loads(process.stdout.read())["folder"] == odd


def test_memory_that_does_not_do_is_told_before_anything_is_unpacked(
    tmp_path: Path, cache: Path, with_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(LLAMA, {"a": (10**6,)}))
    monkeypatch.setattr(needs, "available_memory", lambda: 400_000_000)
    with pytest.raises(MemoryFull, match=r"unpacking gguf-\w+ takes at least 0\.5 GB of memory, and 0\.4 GB are free"):
        find_base(str(path))
    assert not list(cache.rglob(".staging-*"))


# -- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The dataset hub of the tests, asked for models: the same routes under other names."""
    held = Hub()
    kind: Any = _handler(held)

    class Models(kind):
        def _serve(self) -> None:
            if self.path.startswith("/api/models/"):
                self.path = self.path.replace("/api/models/", "/api/datasets/", 1)
            elif "/resolve/" in self.path:
                self.path = f"/datasets{self.path}"
            super()._serve()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    held.models_url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield held
    server.shutdown()
    server.server_close()
    thread.join(5)
    held.close()


ASK = """
import sys
from distillgen.errors import DistillgenError
from distillgen.student.base import find_base
try:
    base = find_base(sys.argv[1])
    print("FOUND", base.title, base.licence, base.parameters, sorted(p.name for p in base.folder.iterdir()))
except DistillgenError as error:
    print(type(error).__name__, error)
"""


def ask(name: str, tmp_path: Path, url: str, token: str = READS, **more: str) -> str:
    """Ask in a process of its own: huggingface_hub reads its settings once."""
    environment = clean_environment(
        HF_ENDPOINT=url, HF_HUB_DISABLE_XET="1", HF_HOME=str(tmp_path / "hf"), HF_TOKEN=token,
        DISTILLGEN_CACHE=str(tmp_path / "cache"), **more,
    )  # fmt: skip
    environment.pop("PYTHONWARNINGS")
    done = subprocess.run(
        [sys.executable, "-c", ASK, name], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def test_a_model_of_the_hub_is_fetched_once_and_only_what_is_needed(hub: Any, model: Path, tmp_path: Path) -> None:
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    (model / "pytorch_model.bin").write_bytes(b"not wanted")
    (model / "consolidated.safetensors").write_bytes(b"the same once more, in another form")
    (model / "onnx").mkdir()
    (model / "onnx" / "model.safetensors").write_bytes(b"not wanted")
    hub.hold("someone/tiny", model, "v1")
    told = "FOUND someone/tiny mit 37 ['README.md', 'config.json', 'model.safetensors', 'tokenizer.json']\n"
    assert ask("someone/tiny", tmp_path, hub.models_url) == told
    assert ask("hf://someone/tiny@v1", tmp_path, hub.models_url) == told
    downloads = [each for each in hub.requests if each.startswith("GET") and "model.safetensors" in each]
    assert len(downloads) == 1
    assert ask("someone/tiny", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1") == told


def test_a_model_of_another_kind_costs_no_weights(hub: Any, model: Path, tmp_path: Path) -> None:
    spoil(model, "other-kind")
    hub.hold("someone/tiny", model, "v1")
    assert "UsageError" in (said := ask("someone/tiny", tmp_path, hub.models_url)) and "another kind" in said
    assert not [each for each in hub.requests if "model.safetensors" in each]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "CredentialsRefused"), (403, "CredentialsRefused"), (500, "RemoteUnavailable"), (404, "NotFound")],
)
def test_what_the_hub_refuses_is_told(hub: Any, model: Path, tmp_path: Path, status: int, kind: str) -> None:
    hub.hold("someone/tiny", model, "v1")
    hub.refuse = status
    assert ask("someone/tiny", tmp_path, hub.models_url).startswith(f"{kind} DG")


def test_names_tokens_and_revisions_that_the_hub_does_not_know(hub: Any, model: Path, tmp_path: Path) -> None:
    hub.hold("someone/tiny", model, "v1")
    assert ask("someone/other", tmp_path, hub.models_url).startswith("NotFound")
    assert ask("someone/tiny@v9", tmp_path, hub.models_url).startswith("NotFound")
    assert ask("someone/tiny", tmp_path, hub.models_url, token="wrong").startswith("CredentialsRefused")


def test_a_hub_that_is_not_there_is_said(hub: Any, tmp_path: Path) -> None:
    assert ask("someone/tiny", tmp_path, "http://127.0.0.1:9").startswith("RemoteUnavailable")
    assert ask("someone/tiny", tmp_path, hub.models_url, HF_HUB_OFFLINE="1").startswith(
        "RemoteUnavailable DG901 the hub is not asked: HF_HUB_OFFLINE"
    )


# -- a base that was distilled itself ------------------------------------------------------------------------------


def distilled(model: Path) -> Path:
    """Make the model a student that llama's terms hold for."""
    manifest = student_manifest()
    (model / "manifest.json").write_bytes(sealed(manifest.dump()))
    (model / "README.md").write_text('---\nlicense: ["apache-2.0","llama3.1"]\n---\n')
    return model


def test_a_student_as_base_brings_its_manifest_and_its_licence(model: Path) -> None:
    base = find_base(str(distilled(model)))
    assert base.student is not None and base.student.name == "sentiment-small" and base.licence == "Apache-2.0"
    (model / "manifest.json").write_text('{"dataset": {}, "training": {}}')
    with pytest.raises(Damaged, match="not a student's manifest"):
        find_base(str(model))
    (model / "manifest.json").write_text('{"of": "somebody else"}')
    base = find_base(str(model))
    assert base.student is None and base.licence == "apache-2.0, llama3.1"


def test_the_terms_of_a_student_go_on_to_what_is_made_of_it(demo: Project, model: Path) -> None:
    demo.build()
    version = find_version("demo", demo.folder / "datasets")
    base = find_base(str(distilled(model))).student
    accept = tuple(each["entry"]["id"] for judged in version.manifest.terms["teachers"].values() for each in judged)
    said = Said(purpose="product", accept=accept)
    alone, both = allowed(version, None, said), allowed(version, base, said)
    assert required_names(alone) == [] and required_names(both) == ["Llama"]
    assert set(both["teachers"]) == {*alone["teachers"], "sentiment-small.main"}
    assert "sentiment-small, the base" in both["stances"]


def test_an_acceptance_may_be_the_bases(demo: Project, model: Path) -> None:
    demo.build()
    version = find_version("demo", demo.folder / "datasets")
    base = find_base(str(distilled(model))).student
    require_allowed(version, Said(accept=("llama-3-1-licence",)))
    allowed(version, base, Said(accept=("llama-3-1-licence",)))
    for wrong, why in (("llama-3-1-licence", "no version here has"), ("llama-3-2-licens", "no version here has")):
        with pytest.raises(UsageError, match=why):
            allowed(version, None, Said(accept=(wrong,)))
    with pytest.raises(UsageError, match="llama-3-2-licens"):
        require_allowed(version, Said(accept=("llama-3-2-licens",)))


# -- files that were cut off or altered ----------------------------------------------------------------------------


def test_a_gguf_file_that_was_cut_off_is_damaged(tmp_path: Path, with_packages: None) -> None:
    path = tmp_path / "x.gguf"
    head = gguf(LLAMA, {"a": (4,), "b": (4,)})[:-8] + struct.pack("<Q", 64)  # the second tensor begins 64 bytes on
    start = -(-len(head) // 32) * 32
    path.write_bytes(head.ljust(start + 64, b"\0"))
    with pytest.raises(Damaged, match="ends before its last tensor begins"):
        read_gguf_head(path)
    path.write_bytes(head.ljust(start + 65, b"\0"))
    assert read_gguf_head(path).parameters == 8


@pytest.mark.parametrize("layers", [-1, "2", None])
def test_a_number_of_layers_that_is_none(model: Path, layers: Any) -> None:
    (model / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    with pytest.raises(UsageError, match="a model of .* layers"):
        find_base(str(model))


def test_a_cache_that_cannot_be_written_is_done_without(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_base(str(model)).sha256
    monkeypatch.setenv("DISTILLGEN_CACHE", "/proc/nothing-is-written-here")
    assert find_base(str(model)).sha256 == first
