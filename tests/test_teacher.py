"""The teacher's layers against the scripted server: faults, retries, keys, the answer store, and secrets."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from loopback import Loopback, Say, answer, error, reply

from distillgen.errors import (
    CredentialsError,
    CredentialsRefused,
    Damaged,
    DistillgenError,
    ModelMissing,
    NewerFormat,
    QuotaSpent,
    RequestsRefused,
    RowFailed,
    TeacherUnavailable,
)
from distillgen.recipe import LimitSettings, TeacherSettings
from distillgen.teacher.answers import Account, AnswerStore, Charge, request_key
from distillgen.teacher.asking import Endpoint, Fault, Reply, Request
from distillgen.teacher.chat import Chat, open_transport
from distillgen.teacher.cost import Meter
from distillgen.teacher.identity import Identity, RequestMaker
from distillgen.teacher.keeping import Committed, Stored
from distillgen.teacher.limits import Limited, Pool, TokenEstimate
from distillgen.teacher.providers import find_key, identity_of, presets, url_of
from distillgen.teacher.replies import Malformed, TokenUsage, read_reply, split_think
from distillgen.teacher.retries import Retrying, retry_after_seconds
from distillgen.teacher.sent import SentNotes


class Clock:
    """Sleeps at once and remembers how long it would have been."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def ask(
    loopback: Loopback, work: Callable[[Retrying, Clock], Awaitable[Any]], *, key: str | None = None, timeout: float = 5
) -> Any:
    """Run `work` with the layers retries -> limits -> chat, over a real connection."""

    async def main() -> Any:
        async def endpoint() -> Endpoint:
            return Endpoint(loopback.url, key)

        clock, transport = Clock(), open_transport(loopback.url, 100)
        chat = Chat(transport, endpoint, timeout_seconds=timeout)
        pool = Pool(8, LimitSettings(), learns=False)
        retrying = Retrying(
            Limited(chat, pool), teacher="teacher 'main'", model="m", breaker=pool.breaker, sleep=clock.sleep
        )
        try:
            return await work(retrying, clock)
        finally:
            await transport.aclose()

    return asyncio.run(main())


def request(text: str = "Hi?") -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return Request(request_key(body, endpoint="test"), body)


async def once(retrying: Retrying, clock: Clock) -> tuple[str, list[float]]:
    said = await retrying.complete(request())
    return read_reply(said.raw).text, clock.slept


TRANSIENT = {
    "500": error(500), "502": error(502), "503": error(503), "504": error(504), "529": error(529), "408": error(408),
    "409": error(409), "425": error(425), "429": error(429), "reset": Say(reset=True), "cut-off": Say(body=reply("x").body, cut=True),
    "html": Say(body=b"<html>Bad gateway</html>"), "empty": Say(), "no-choices": Say(body=b'{"choices": []}'),
    "error-in-200": Say(body=b'{"error": {"message": "overloaded"}}'), "half-json": Say(body=b'{"choices": [{"mess'),
    "null-content": reply(None, finish="tool_calls"), "bad-gzip": Say(body=b"xx", headers={"Content-Encoding": "gzip"}),
    "deep": Say(body=b"[" * 200_000),
}  # fmt: skip


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_faults_that_may_pass_are_asked_again(loopback: Loopback, fault: Say) -> None:
    loopback.script([fault, reply("Paris")])
    text, slept = ask(loopback, once)
    assert text == "Paris" and loopback.seen == 2 and len(slept) == 1 and 0 <= slept[0] <= 1


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (error(401, "invalid_api_key", "bad key"), CredentialsRefused, "bad key"),
        (error(403, "forbidden", "no access"), CredentialsRefused, "no access"),
        (error(402, "", "pay"), QuotaSpent, "pay"),
        (error(429, "insufficient_quota", "used up"), QuotaSpent, "used up"),
        (error(404, "model_not_found", "no such model"), ModelMissing, "no such model"),
        (Say(302, b"", {"Location": "http://127.0.0.1:9/"}), TeacherUnavailable, "redirects"),
    ],
)
def test_faults_that_stop_the_run_cost_one_call(
    loopback: Loopback, fault: Say, kind: type[DistillgenError], said: str
) -> None:
    loopback.behave = lambda _: fault

    async def many(retrying: Retrying, clock: Clock) -> list[Any]:
        return await asyncio.gather(*(retrying.complete(request(str(n))) for n in range(10)), return_exceptions=True)

    results = ask(loopback, many)
    assert isinstance(results[0], kind) and said in str(results[0])
    loopback.bodies.clear()
    with pytest.raises(kind):
        ask(loopback, once)
    assert loopback.seen == 1


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (error(400, "context_length_exceeded", "too long"), "refused_400"),
        (error(413), "refused_413"),
        (error(422), "refused_422"),
        (error(403, "content_policy_violation"), "moderation"),
    ],
)
def test_faults_of_one_row_fail_it_for_good(loopback: Loopback, fault: Say, cause: str) -> None:
    loopback.script([fault])
    with pytest.raises(RowFailed) as caught:
        ask(loopback, once)
    assert caught.value.cause == cause and caught.value.lasting and loopback.seen == 1


def test_a_teacher_that_refuses_everything_stops_the_run(loopback: Loopback) -> None:
    loopback.behave = lambda _: error(400, "", "unknown parameter: foo")

    async def many(retrying: Retrying, clock: Clock) -> list[Any]:
        return await asyncio.gather(*(retrying.complete(request(str(n))) for n in range(25)), return_exceptions=True)

    results = ask(loopback, many)
    assert any(isinstance(result, RequestsRefused) and "unknown parameter: foo" in str(result) for result in results)


def test_it_waits_as_long_as_the_server_asks(loopback: Loopback) -> None:
    loopback.script(
        [error(429, retry_after="2"), error(503, retry_after="999999"), error(503, retry_after="abc"), reply("Paris")]
    )
    _, slept = ask(loopback, once)
    assert slept[0] == 2.0 and slept[1] == 120.0 and 0 <= slept[2] <= 4


def test_being_limited_uses_up_no_attempt(loopback: Loopback) -> None:
    loopback.script([error(429, retry_after="1")] * 30 + [reply("Paris")])
    text, slept = ask(loopback, once)
    assert text == "Paris" and slept == [1.0] * 30


def test_a_teacher_that_never_answers_is_unavailable(loopback: Loopback) -> None:
    loopback.behave = lambda _: error(500, "", "down")
    with pytest.raises(TeacherUnavailable, match="500 down"):
        ask(loopback, once)
    assert loopback.seen == 3


def test_a_row_fails_when_all_attempts_are_used(loopback: Loopback) -> None:
    loopback.script([reply("first")])
    loopback.behave = lambda _: error(500, "", "down")

    async def work(retrying: Retrying, clock: Clock) -> None:
        await retrying.complete(request("one"))
        await retrying.complete(request("two"))

    with pytest.raises(RowFailed, match="after 6 attempts") as caught:
        ask(loopback, work)
    assert caught.value.cause == "http_500" and not caught.value.lasting


def test_the_deadline_is_total(loopback: Loopback) -> None:
    loopback.behave = lambda _: Say(200, reply("late").body, wait=2)
    with pytest.raises(TeacherUnavailable, match="no reply within 0.2 s"):
        ask(loopback, once, timeout=0.2)


def test_giant_replies_are_cut_short(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillgen.teacher.chat.MAX_REPLY_BYTES", 1000)
    loopback.behave = lambda _: reply("x" * 5000)
    with pytest.raises(RowFailed) as caught:
        ask(loopback, once)
    assert caught.value.cause == "oversize" and loopback.seen == 1


def test_no_more_in_flight_than_the_cap_and_the_first_goes_alone(loopback: Loopback) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.05)
    order: list[int] = []

    async def many(retrying: Retrying, clock: Clock) -> None:
        first = asyncio.create_task(retrying.complete(request("first")))
        others = [asyncio.create_task(retrying.complete(request(str(n)))) for n in range(30)]
        await first
        order.append(loopback.seen)
        await asyncio.gather(*others)

    ask(loopback, many)
    assert order == [1] and loopback.seen == 31 and 2 <= loopback.peak <= 8


def request_of(body: dict[str, Any]) -> Request:
    return Request(b"k" * 32, body)


def test_estimates_learn_from_usage() -> None:
    estimate, body = TokenEstimate(), {"messages": [{"role": "user", "content": "x" * 4000}], "max_tokens": 900}
    assert estimate.expect(request_of(body)).completion == 900
    for _ in range(60):
        estimate.learn(request_of(body), TokenUsage(prompt=500, completion=50))
    expected = estimate.expect(request_of(body))
    assert 490 <= expected.prompt <= 520 and 50 <= expected.completion <= 60


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after_seconds("2.5", now=0) == 2.5
    assert retry_after_seconds("Thu, 01 Jan 1970 00:01:00 GMT", now=50) == 10
    assert retry_after_seconds("Thu, 01 Jan 1970 00:00:00 GMT", now=50) == 0
    assert [retry_after_seconds(value, now=0) for value in ("", "abc", "nan", "soon, please", "1970-01-01")] == [
        None
    ] * 5
    assert retry_after_seconds("-5", now=0) == 0 and retry_after_seconds("1e9", now=0) == 1e9


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


def test_the_same_question_is_asked_once_however_many_want_it(loopback: Loopback, tmp_path: Path) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.1)

    async def work(retrying: Retrying, clock: Clock) -> Committed:
        store = AnswerStore(tmp_path / "answers.sqlite")
        committed = Committed(
            retrying,
            store,
            SentNotes(tmp_path, "d"),
            Meter(TeacherSettings(base_url="http://127.0.0.1", model="m")),
            Account("r", "d", "t"),
        )
        outer = Stored(committed, store)
        replies = await asyncio.gather(*(outer.complete(request()) for _ in range(9)))
        assert len({each.raw for each in replies}) == 1
        assert await outer.complete(request()) == Reply(replies[0].raw)
        assert store.spent("d").calls == 1 and store.spent().completion_tokens == 11
        store.close()
        return committed

    committed = ask(loopback, work)
    assert loopback.seen == 1 and committed.calls == 1 and committed.usage.completion == 11


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


def test_faults_have_no_key_in_their_words() -> None:
    assert "secret" not in repr(Endpoint("http://x", "secret")) and str(Fault("status", "no", status=500)) == "500 no"
