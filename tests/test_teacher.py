"""What a teacher is made of: keys of requests, the answer store, replies, presets, and secrets that stay secret."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from loopback import Loopback, Say, error, reply

from distillgen.errors import (
    CredentialsError,
    Damaged,
    NewerFormat,
)
from distillgen.settings import TeacherSettings
from distillgen.teacher.answers import Account, AnswerStore, Charge, request_key
from distillgen.teacher.asking import Reply
from distillgen.teacher.identity import Identity, RequestMaker
from distillgen.teacher.providers import find_key, identity_of, presets, url_of
from distillgen.teacher.replies import Malformed, read_reply, split_think

KEY = {"body": {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5}, "endpoint": "e"}


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "f"}, {"sample": 1}, {"ask": 1}, {"epoch": 1}, {"body": {**KEY["body"], "model": "n"}},
        {"body": {**KEY["body"], "temperature": 0.6}}, {"body": {**KEY["body"], "reasoning_effort": "low"}},
        {"body": {**KEY["body"], "messages": [{"role": "user", "content": "y"}]}},
    ],
)  # fmt: skip
def test_the_key_changes_with_each_of_its_parts(change: dict[str, Any]) -> None:
    assert request_key(**KEY) != request_key(**{**KEY, **change})


def test_the_key_changes_with_the_order_of_a_schema() -> None:
    def key(*names: str) -> bytes:
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
        return request_key({**KEY["body"], "response_format": {"json_schema": {"schema": schema}}}, endpoint="e")

    assert key("rationale", "label") != key("label", "rationale")


def test_the_key_changes_with_nothing_else() -> None:
    shuffled = dict(reversed(KEY["body"].items()))
    assert request_key(**KEY) == request_key(**{**KEY, "body": shuffled})
    identity = Identity("a", "e", "m", {})
    messages = [{"role": "user", "content": "x"}]

    def key(**settings: Any) -> bytes:
        maker = RequestMaker(identity, TeacherSettings(base_url="http://x", model="m", **settings))
        return maker.make(messages, schema=None)[0].key

    assert key() == key(timeout_seconds=5.0, limits={"max_in_flight": 3}, api_key_env="X") != key(epoch=1)
    assert key(sampling={"top_p": 0.5}) != key()


def stored(tmp_path: Path, work: Callable[[AnswerStore], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        store = AnswerStore(tmp_path / "answers.sqlite")
        try:
            return await work(store)
        finally:
            store.close()

    return asyncio.run(main())


def test_answers_are_on_disk_when_put_returns(tmp_path: Path) -> None:
    async def work(store: AnswerStore) -> None:
        await asyncio.gather(
            *(store.put(bytes([n]) * 32, Reply(b"reply %d" % n, 0.1), Account(), Charge()) for n in range(50))
        )
        with sqlite3.connect(store.path) as other:
            assert other.execute("SELECT count(*) FROM answers").fetchone() == (50,)
        other.close()
        assert store.get(b"\x07" * 32) == b"reply 7" and store.get(b"\xff" * 32) is None and store.count() == 50

    stored(tmp_path, work)


def test_a_damaged_answer_is_set_aside_and_never_served(tmp_path: Path) -> None:
    async def fill(store: AnswerStore) -> None:
        await store.put(b"k" * 32, Reply(b"genuine"), Account(), Charge())
        await store.put(b"l" * 32, Reply(b"other"), Account(), Charge())

    stored(tmp_path, fill)
    with sqlite3.connect(tmp_path / "answers.sqlite") as raw:
        raw.execute("UPDATE answers SET reply = ? WHERE key = ?", (b"forged!", b"k" * 32))
    raw.close()

    async def look(store: AnswerStore) -> None:
        assert store.get(b"k" * 32) is None and store.damaged == 1
        assert store.get(b"l" * 32) == b"other"
        await store.put(b"k" * 32, Reply(b"asked anew"), Account(), Charge())
        assert store.get(b"k" * 32) == b"asked anew"

    stored(tmp_path, look)
    with sqlite3.connect(tmp_path / "answers.sqlite") as raw:
        assert raw.execute("SELECT reply FROM damaged").fetchall() == [(b"forged!",)]
    raw.close()


def test_a_store_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"this is no database, but somebody's file" * 100)
    with pytest.raises(Damaged):
        AnswerStore(path)
    path.unlink()
    stored(tmp_path, lambda store: asyncio.sleep(0))
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(NewerFormat, match="has format 99"):
        AnswerStore(path)


@pytest.mark.parametrize(
    ("message", "text", "reasoning", "source"),
    [
        ({"content": "a", "reasoning_content": "r"}, "a", "r", "reasoning_content"),
        ({"content": "a", "reasoning": "r"}, "a", "r", "reasoning"),
        ({"content": "a", "reasoning_details": [{"text": "r"}, {"data": "?"}]}, "a", "r", "reasoning_details"),
        ({"content": "<think>\nr\n</think>\n\na"}, "a", "r", "think"),
        ({"content": "r</think>a"}, "a", "r", "think"),
        ({"content": "<think>r and cut"}, "", "r and cut", "think"),
        ({"content": [{"type": "text", "text": "a"}]}, "a", "", ""),
        ({"content": "the tag <think> in the middle"}, "the tag <think> in the middle", "", ""),
    ],
)
def test_reasoning_from_every_place(message: dict[str, Any], text: str, reasoning: str, source: str) -> None:
    completion = read_reply(reply("x", message=message).body)
    assert (completion.text, completion.reasoning, completion.reasoning_source) == (text, reasoning, source)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": "7"}, [], "x"]
)
def test_nonsense_usage_is_unknown_usage(usage: Any) -> None:
    assert read_reply(reply("x", usage=usage).body).usage is None


def test_usage_with_details() -> None:
    usage = {
        "prompt_tokens": 9, "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": 3}, "prompt_cache_hit_tokens": 4,
    }  # fmt: skip
    found = read_reply(reply("x", usage=usage).body).usage
    assert found is not None and (found.reasoning, found.cached) == (3, 4)


def test_lone_surrogates_are_replaced_and_counted() -> None:
    completion = read_reply(rb'{"choices": [{"message": {"content": "a\ud800b"}, "finish_reason": "stop"}]}')
    assert completion.text == "a\ufffdb"
    assert completion.replaced_surrogates == 1
    with pytest.raises(Malformed):
        read_reply(b'{"choices": NaN}')


def test_split_think_without_tags() -> None:
    assert split_think("plain") == ("plain", "", "")


def test_presets_are_whole_and_safe() -> None:
    wanted = "openai deepseek openrouter mistral together fireworks groq gemini vllm sglang ollama llamacpp lmstudio"
    assert set(wanted.split()) <= presets().keys()
    for name, preset in presets().items():
        settings = TeacherSettings(provider=name, model="m")
        assert url_of(settings) == preset.base_url and identity_of(settings) == name
        assert preset.key_env and preset.source and preset.checked


def test_where_keys_come_from(tmp_path: Path) -> None:
    openai = TeacherSettings(provider="openai", model="m")
    assert find_key(openai, tmp_path, {"OPENAI_API_KEY": " sk-1 "}) == "sk-1"
    with pytest.raises(CredentialsError, match="OPENAI_API_KEY is not set"):
        find_key(openai, tmp_path, {})
    own = TeacherSettings(provider="openai", model="m", api_key_env="MINE")
    assert find_key(own, tmp_path, {"MINE": "k"}) == "k"
    with pytest.raises(CredentialsError, match="MINE is not set"):
        find_key(own, tmp_path, {"OPENAI_API_KEY": "sk-1"})
    assert find_key(TeacherSettings(provider="vllm", model="m"), tmp_path, {}) is None
    with pytest.raises(CredentialsError, match="line breaks") as caught:
        find_key(own, tmp_path, {"MINE": "secret\nsecret"})
    assert "secret" not in str(caught.value)
    file = tmp_path / "key"
    in_file = TeacherSettings(provider="openai", model="m", api_key_file="key")
    file.write_text("from-file\n")
    file.chmod(0o644)
    with pytest.raises(CredentialsError, match="can be read by others"):
        find_key(in_file, tmp_path, {})
    file.chmod(0o600)
    assert find_key(in_file, tmp_path, {}) == "from-file"
    file.write_text("")
    with pytest.raises(CredentialsError, match="is empty"):
        find_key(in_file, tmp_path, {})
    file.unlink()
    with pytest.raises(CredentialsError, match="cannot read the key file"):
        find_key(in_file, tmp_path, {})


CANARY = "sk-canary-0123456789abcdef"


def test_a_key_is_never_written_anywhere(demo: Project, loopback: Loopback) -> None:
    import base64
    import zlib

    import zstandard

    demo.edit("sampling =", 'api_key_env = "DEMO_KEY"\nsampling =')

    def echo(body: dict[str, Any]) -> Say:
        key = loopback.headers[-1]["authorization"].removeprefix("Bearer ")
        asked = body["messages"][-1]["content"]
        if "number 1?" in asked:
            return error(400, "", f"your key {key} is odd")
        return reply(f"{asked} You sent {key}, which I repeat in an answer of many words. {zlib.crc32(asked.encode())}")

    loopback.behave = echo
    missing = demo.run("build")
    assert missing.returncode == 4 and "DEMO_KEY is not set" in missing.stderr and loopback.seen == 0
    runs = [
        demo.run(*command, DEMO_KEY=CANARY)
        for command in (["plan"], ["build"], ["show", "demo", "-n", "50"], ["export", "demo"], ["doctor"])
    ]
    assert runs[1].returncode == 0, runs[1].stderr
    loopback.behave = lambda _: error(401, "invalid_api_key", f"Incorrect API key provided: {CANARY}")
    runs.append(demo.run("build", "--set", "teachers.main.epoch=1", DEMO_KEY=CANARY))
    assert runs[-1].returncode == 4
    assert loopback.headers[0]["authorization"] == f"Bearer {CANARY}"
    found = b"".join(run.stdout.encode() + run.stderr.encode() for run in runs)
    for path in demo.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += zstandard.ZstdDecompressor().stream_reader(content).read() if path.suffix == ".zst" else content
    assert b"[key]" in found
    for spelled in (CANARY.encode(), base64.b64encode(CANARY.encode())[:-4]):
        assert spelled not in found


def test_a_refused_connection_is_told_plainly(demo: Project) -> None:
    demo.recipe.write_text(demo.recipe.read_text().replace("127.0.0.1:", "127.0.0.1:1/"))
    done = demo.run("build")
    assert (
        done.returncode == 7
        and "cannot connect to http://127.0.0.1:1" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_doctor_asks_the_endpoint(demo: Project, loopback: Loopback) -> None:
    done = demo.run("doctor")
    assert done.returncode == 0 and "answers and has scripted" in done.stdout, done.stdout
    demo.edit('model = "scripted"', 'model = "other"')
    done = demo.run("doctor")
    assert done.returncode == 2 and "does not list 'other'" in done.stdout and "it has: scripted" in done.stdout


def test_answers_are_found_in_whatever_order_they_are_asked_for(tmp_path: Path) -> None:
    """In the order of storing many are read together; out of order, damaged, new or again: each is found all the same."""
    keys = [bytes([n // 256, n % 256]) * 16 for n in range(2_000)]

    async def work(store: AnswerStore) -> None:
        await asyncio.gather(*(store.put(key, Reply(b"reply to " + key), Account(), Charge()) for key in keys))
        for order in (keys, keys[::-1], keys[::7], [keys[5]] * 3, keys[1000:]):
            assert [store.get(key) for key in order] == [b"reply to " + key for key in order]
        with sqlite3.connect(store.path) as other:
            other.execute("UPDATE answers SET reply = 'x' WHERE key = ?", (keys[40],))
        other.close()
        assert store.get(b"\xff" * 32) is None, "a key that is not there: what is stored by now is looked at"
        assert store.get(keys[39]) and store.get(keys[40]) is None and store.get(keys[41]) and store.damaged == 1
        late = b"\xfe" * 32
        await store.put(late, Reply(b"late"), Account(), Charge())
        assert store.get(keys[42]) and store.get(late) == b"late"

    stored(tmp_path, work)
