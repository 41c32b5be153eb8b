"""Laws that the teacher's layers once broke: who gives up, fails or breaks off takes nobody along and keeps nothing."""

import asyncio
import contextlib
import gc
import json
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from batch_server import BatchServer
from conftest import RECIPE, Project
from loopback import Loopback, Say, answer, error, reply
from test_batch import Builds
from test_several import pair, second  # noqa: F401

from distillgen.errors import DiskFull, DistillgenError, NotWritable, RowFailed, TeacherUnavailable
from distillgen.recipe import read_recipe
from distillgen.settings import LimitSettings, TeacherSettings
from distillgen.teacher import open_teachers
from distillgen.teacher.answers import Account, AnswerStore, Charge
from distillgen.teacher.asking import Asks, Endpoint, Fault, Reply, Request, Siblings
from distillgen.teacher.batch_lines import read_line
from distillgen.teacher.chat import Chat, open_transport
from distillgen.teacher.cost import Meter, reported_cost
from distillgen.teacher.keeping import Committed, Stored
from distillgen.teacher.limits import Pool
from distillgen.teacher.replies import NOTHING, TokenUsage, read_error, read_reply
from distillgen.teacher.retries import Retrying, retry_after_seconds
from distillgen.teacher.sent import SentNotes, read_notes
from distillgen.teacher.together import Together

KEYS = [bytes([n]) * 32 for n in range(16)]
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi?"}]}
FREE_OF_CHARGE = TeacherSettings(base_url="http://127.0.0.1", model="m")


class Says:
    """Asks nobody: does what it is told."""

    def __init__(self, say: Callable[[Request], Reply]) -> None:
        self.complete_with = say

    async def complete(self, request: Request) -> Reply:
        return self.complete_with(request)


def raising(make: Callable[[], Exception]) -> Says:
    def fail(request: Request) -> Reply:
        raise make()

    return Says(fail)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


@contextlib.contextmanager
def open_store(folder: Path) -> Iterator[AnswerStore]:
    with contextlib.closing(AnswerStore(folder / "answers.sqlite")) as store:
        yield store


def depth(trace: TracebackType | None) -> int:
    """How many frames a traceback holds."""
    return 0 if trace is None else 1 + depth(trace.tb_next)


# Nobody waits for ever


def test_who_waits_for_a_commit_hears_of_it_whatever_goes_wrong(tmp_path: Path) -> None:
    """A number that does not fit the database is no error of SQLite's: it ended the thread that writes, in silence."""

    async def work() -> None:
        with open_store(tmp_path) as store:
            async with asyncio.timeout(10):
                with pytest.raises(NotWritable, match="too large"):
                    await store.put(KEYS[0], Reply(b"x"), Account(), Charge(TokenUsage(prompt=2**63), 0))
                await store.put(KEYS[1], Reply(b"y"), Account(), Charge())
            assert isinstance(store.failure, NotWritable) and store.get(KEYS[0]) is None and store.get(KEYS[1]) == b"y"

    run(work)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 2**63, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 2**64 - 1},
    ],
    ids=["prompt", "completion"],
)
def test_more_tokens_than_any_reply_has_are_unknown(usage: Any) -> None:
    assert read_reply(reply("x", usage=usage).body).usage is None


def test_a_total_that_no_reply_has_adds_nothing() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 2**63}
    assert read_reply(reply("x", usage=usage).body).usage == TokenUsage(1, 2)


def test_a_cost_that_no_reply_has_is_unknown() -> None:
    assert reported_cost({"usage": {"cost": 1e300}}) is None
    assert reported_cost({"usage": {"cost": 0.25}}) == Decimal("0.25")


def test_a_build_survives_a_server_that_counts_nonsense(demo: Project, loopback: Loopback) -> None:
    nonsense = {"prompt_tokens": 2**63, "completion_tokens": 2**63, "cost": 1e300}
    loopback.behave = lambda body: reply(
        json.loads(answer(body).body)["choices"][0]["message"]["content"], usage=nonsense
    )
    demo.build()
    assert demo.manifest()["rows"] == 20


def test_a_probe_that_is_given_up_before_it_sets_out_lets_another_through() -> None:
    """The turn of the probe comes and its row is cancelled in the same moment: the breaker must not wait for it."""

    async def work() -> None:
        now = [0.0]
        pool = Pool(8, LimitSettings(), learns=False, clock=lambda: now[0])
        await pool.enter(NOTHING)
        for _ in range(40):
            pool.breaker.failed(now[0], sent_at=0.0)
        assert pool.breaker.is_open
        probe = asyncio.create_task(pool.enter(NOTHING))
        await asyncio.sleep(0)
        now[0] = 2.0
        pool.leave()  # whatever happens looks at the head of the queue, and gives it its turn
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        async with asyncio.timeout(5):
            assert await pool.enter(NOTHING) == 2.0
        assert pool.in_flight == 1

    run(work)


# Nothing that is paid for is lost, or counted twice


def test_samples_that_came_together_are_kept_though_nobody_waits_any_more(tmp_path: Path) -> None:
    """Who asked is cancelled in the moment in which the replies are handed to the store."""

    async def work() -> None:
        parts = tuple(Reply(reply(f"number {n}").body) for n in range(4))
        with open_store(tmp_path) as store:
            inner = Says(lambda request: Reply(parts[0].raw, parts=parts))
            committed = Committed(inner, store, SentNotes(tmp_path, "d"), Meter(FREE_OF_CHARGE), Account())
            asked = asyncio.create_task(committed.complete(Request(KEYS[0], BODY, parts=tuple(KEYS[:4]))))
            await asyncio.sleep(0)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            await asyncio.sleep(0)
            await store.put(KEYS[9], parts[0], Account(), Charge())  # which is committed after them
            assert [store.get(key) for key in KEYS[:4]] == [part.raw for part in parts]

    run(work)


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_note_that_found_no_room_spoils_none_that_come_later(tmp_path: Path) -> None:
    notes = SentNotes(tmp_path, "d")
    notes.sent(KEYS[0], 1)
    with files_up_to(notes.path.stat().st_size + 10), pytest.raises(DiskFull):
        notes.sent(KEYS[1], 1)
    notes.sent(KEYS[2], 7)
    notes.close()
    assert [(each.key, each.nanousd) for each in read_notes(notes.path)[1]] == [(KEYS[0], 1), (KEYS[2], 7)]


@pytest.fixture
def batched(project: Project, provider: BatchServer) -> Project:
    """A project of twenty questions whose teacher is asked in batches, for money."""
    priced = 'mode = "batch"\nprices = { input = 1.0, output = 10.0, batch_factor = 0.5 }\nsampling ='
    project.write("recipe.toml", RECIPE.format(url=provider.url).replace("sampling =", priced))
    project.seeds([{"question": f"What is number {n}?"} for n in range(20)])
    return project


def test_a_batch_that_is_collected_twice_is_counted_once(
    batched: Project, provider: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collecting is cut off after some answers; the next run reads the file of results from its beginning."""
    assert batched.run("build").returncode == 3
    monkeypatch.setattr("distillgen.teacher.batch_results.GROUP_ANSWERS", 1)
    recipe, source = read_recipe(batched.recipe)
    state = batched.folder / ".distillgen"

    async def collect() -> None:
        with open_store(state) as store:
            async with open_teachers(recipe, source, {"main"}, store, state=state):
                pass

    provider.files_are_cut = True
    with pytest.raises(TeacherUnavailable):
        run(collect)
    with open_store(state) as store:
        assert 0 < store.count() < 20
    provider.files_are_cut = False
    run(collect)
    with open_store(state) as store:
        assert (store.count(), store.spent().calls, store.spent().completion_tokens) == (20, 20, 20 * 11)


def test_what_waits_for_money_is_not_decided(batched: Project, provider: BatchServer) -> None:
    """A partial version ends before the first seed that waits: it is not published as failed."""
    for _ in range(2):
        batched.run("build", "--limit", "5", "--no-publish")
    assert len(provider.asked) == 5
    done = batched.run("build", "--budget", "0.0001", "--publish-partial")
    assert done.returncode == 5, done.stderr
    manifest = batched.manifest()
    assert (manifest["rows"], manifest["seeds"]["count"], manifest["ends"]) == (5, 5, "stopped")
    assert batched.sidecar("failed") == []


def test_a_plan_counts_the_calls_of_a_list_once(pair: Project) -> None:  # noqa: F811
    """What is not stored would be asked of the first of a list, and of no other."""
    plan = json.loads(pair.run("plan", "--json").stdout)
    assert {each["teacher"]: each["calls"] for each in plan["teachers"]} == {"first": 12, "second": 0}


# What is over holds no memory


def closed_pool() -> tuple[Callable[[], Awaitable[Any]], DistillgenError]:
    pool, why = Pool(8, LimitSettings(), learns=False), TeacherUnavailable("down")
    pool.close(why)
    return lambda: pool.enter(NOTHING), why


def unproven() -> tuple[Callable[[], Awaitable[Any]], DistillgenError]:
    why = TeacherUnavailable("down")
    retrying = Retrying(raising(lambda: why), teacher="t", model="m")
    return lambda: retrying.complete(Request(KEYS[0], BODY)), why


class BrokenStore:
    """A store that can keep nothing."""

    failure = DiskFull("no room")

    def get(self, key: bytes) -> bytes | None:
        return None

    def set_aside(self, key: bytes) -> None:
        raise AssertionError

    async def put(self, key: bytes, reply: Reply, account: Account, charge: Charge) -> None:
        raise AssertionError


def full_disk() -> tuple[Callable[[], Awaitable[Any]], DistillgenError]:
    store = BrokenStore()
    notes = SentNotes(Path("nowhere"), "d")
    committed = Committed(raising(AssertionError), store, notes, Meter(FREE_OF_CHARGE), Account())
    return lambda: committed.complete(Request(KEYS[0], BODY)), store.failure


@pytest.mark.parametrize("place", [closed_pool, unproven, full_disk])
def test_an_error_that_is_told_to_many_does_not_grow(
    place: Callable[[], tuple[Callable[[], Awaitable[Any]], DistillgenError]],
) -> None:
    """A traceback holds every frame that it went through, and each raise of the same error adds its own."""

    async def work() -> None:
        tell, why = place()
        depths = []
        for _ in range(50):
            with pytest.raises(type(why)) as caught:
                await tell()
            assert caught.value is why
            depths.append(depth(why.__traceback__))
        assert depths[-1] <= depths[1] <= 12

    run(work)


def test_of_a_failed_row_only_the_words_are_remembered(tmp_path: Path) -> None:
    """Its traceback would hold the row, the reply and all that was at work, for each failed row of a run."""

    async def work() -> None:
        with open_store(tmp_path) as store:
            stored = Stored(raising(lambda: RowFailed("http_500", "down", lasting=False, attempts=6)), store)
            with pytest.raises(RowFailed):
                await stored.complete(Request(KEYS[0], BODY))
            kept = stored.failed[KEYS[0]]
            stored.offline = True
            for _ in range(3):
                with pytest.raises(RowFailed) as caught:
                    await stored.complete(Request(KEYS[0], BODY))
                told = caught.value
                assert (told.cause, told.detail, told.lasting, told.attempts) == ("http_500", "down", False, 6)
            assert kept.__traceback__ is kept.__context__ is None

    run(work)


def test_what_waits_for_a_batch_is_not_remembered_as_failed(tmp_path: Path) -> None:
    async def work() -> None:
        with open_store(tmp_path) as store:
            for cause in ("queued", "in_batch", "over_budget", "not_sent"):
                stored = Stored(raising(lambda cause=cause: RowFailed(cause, "later", lasting=False)), store)
                with pytest.raises(RowFailed, match=cause):
                    await stored.complete(Request(KEYS[0], BODY))
                assert stored.failed == {}

    run(work)


@contextlib.contextmanager
def no_sweeps() -> Iterator[None]:
    """Leave it to the counting of references alone to free memory."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_samples_that_came_together_are_let_go_with_their_rows(tmp_path: Path) -> None:
    """A prompt's requests refer to one another: their replies must not wait in memory for the next sweep."""

    def say(request: Request) -> Reply:
        parts = tuple(Reply(reply("x" * 50).body) for _ in request.parts)
        return Reply(parts[0].raw, parts=parts)

    def replies() -> int:
        return sum(isinstance(each, Reply) for each in gc.get_objects())

    async def work() -> None:
        with open_store(tmp_path) as store, no_sweeps():
            together, before = Together(Says(say), store), replies()
            for _ in range(10):
                family = Siblings()
                family.requests = tuple(Request(key, BODY, n, siblings=family) for n, key in enumerate(KEYS))
                got = await asyncio.gather(*map(together.complete, family.requests))
                assert len(got) == 16 and all(isinstance(each, Reply) for each in got)
                del family, got
            await asyncio.sleep(0)
            assert replies() == before

    run(work)


# No server stops a run with nonsense


@contextlib.asynccontextmanager
async def raw_server(content: bytes) -> AsyncIterator[Asks]:
    """A transport to a server that says these very bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")

    async def endpoint() -> Endpoint:
        return where

    transport = open_transport(where.url, 1)
    try:
        yield Chat(transport, endpoint, timeout_seconds=10)
    finally:
        await transport.aclose()
        server.close()


def test_a_reason_that_is_no_text_is_a_fault() -> None:
    async def work() -> None:
        async with raw_server(b"HTTP/1.1 200 \xff\xfe\r\nContent-Length: 2\r\n\r\n{}") as chat:
            with pytest.raises(Fault) as caught:
                await chat.complete(Request(KEYS[0], BODY))
            assert caught.value.kind == "network"

    run(work)


@pytest.mark.parametrize(
    "value", ["Thu, 01 Jan 1970 00:00:00 +99999999999999", "Thu, 01 Jan 99999999999999999999 00:00:00 GMT"]
)
def test_a_date_that_no_clock_shows_asks_for_no_wait(value: str) -> None:
    assert retry_after_seconds(value, now=0) is None


@pytest.mark.parametrize(
    ("body", "words", "code"),
    [
        pytest.param(error(429, "insufficient_quota", "used up").body, "used up", "insufficient_quota", id="openai"),
        pytest.param(b'[{"error": {"message": "no", "code": 429}}]', "no", "429", id="gemini"),
        pytest.param(b'{"error": "no model"}', "no model", "", id="ollama"),
        pytest.param(b'{"message": "no", "type": "t"}', "no", "t", id="bare"),
        pytest.param(b'{"detail": "not found"}', '{"detail": "not found"}', "", id="fastapi"),
        pytest.param(b"<html>", "<html>", "", id="page"),
        pytest.param(b" ", "no words", "", id="empty"),
        pytest.param(b"null", "null", "", id="null"),
        pytest.param(rb'{"error": {"message": "cut \ud83d", "code": "c"}}', "cut \ufffd", "c", id="lone-surrogate"),
        pytest.param(b"[" * 200_000, "[" * 300, "", id="deep"),
    ],
)
def test_the_words_and_the_code_of_an_error(body: bytes, words: str, code: str) -> None:
    assert read_error(body) == (words, code)


@pytest.mark.parametrize("depth", [100, 300, 900, *range(960, 1001, 5), 200_000])
def test_a_line_that_is_nested_too_deep_is_a_fault_or_nothing(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    line = b'{"custom_id": "%s", "response": {"status_code": 200, "body": %s}}' % (KEYS[0].hex().encode(), nested)
    key, found = read_line(line)
    assert (key == KEYS[0] and isinstance(found, Fault) and found.kind == "malformed") or (key, found) == (b"", None)


def test_a_refusal_with_half_a_character_is_written_down(tmp_path: Path, provider: BatchServer) -> None:
    """Servers that count in UTF-16 cut in the middle of one; the record of the batch could not be written."""
    half = Say(400, rb'{"error": {"message": "Invalid prompt: cut \ud83d", "code": "invalid_prompt"}}')
    provider.behave = lambda body: half
    builds = Builds(tmp_path / "batches", provider.url)
    builds.run(["Hi?"])
    run = builds.run(["Hi?"])
    assert run.told == {"Hi?": "refused_400"} and "cut \ufffd" in run.failed["Hi?"].detail
