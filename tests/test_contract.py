"""One contract for every teacher and every layer of one: what goes in comes out, and whoever gives up leaves nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback, Say, answer, error, reply, words

from distillgen.errors import CredentialsRefused, RowFailed
from distillgen.recipe import read_recipe
from distillgen.settings import LimitSettings, TeacherSettings
from distillgen.teacher import open_teachers
from distillgen.teacher.answers import Account, AnswerStore, request_key
from distillgen.teacher.asking import Asks, Endpoint, Fault, Reply, Request, Siblings
from distillgen.teacher.budget import Budget, Budgeted, Outgoing, Purse
from distillgen.teacher.chat import Chat, open_transport
from distillgen.teacher.cost import Meter
from distillgen.teacher.keeping import Committed, Stored
from distillgen.teacher.limits import Limited, Pool
from distillgen.teacher.models import find_model, is_installed
from distillgen.teacher.replies import NOTHING
from distillgen.teacher.retries import Retrying
from distillgen.teacher.sent import SentNotes, logs, read_notes
from distillgen.teacher.together import Together

CAP = 4
PRICES = {"input": 1.0, "output": 1.0}
SAMPLING = {"max_tokens": 100}


class Layers:
    """The layers of a teacher, one around the other as `open_teachers` puts them, each to be had by its name."""

    def __init__(self, loopback: Loopback, folder: Path, transport: Any) -> None:
        async def endpoint() -> Endpoint:
            return where

        async def sleep(seconds: float) -> None:
            await asyncio.sleep(0)

        where = Endpoint(loopback.url)
        settings = TeacherSettings(base_url=loopback.url, model="m", sampling=SAMPLING, prices=PRICES)
        meter = Meter(settings)
        self.store, self.notes = AnswerStore(folder / "answers.sqlite"), SentNotes(folder, "contract")
        self.pool, self.money = Pool(CAP, LimitSettings(), learns=False), Budget(100)
        self.chat = Chat(transport, endpoint, timeout_seconds=30)
        self.outgoing = Outgoing(self.chat)
        self.committed = Committed(self.outgoing, self.store, self.notes, meter, Account("run", "contract", "m"))
        self.limited = Limited(self.committed, self.pool)
        self.budgeted = Budgeted(
            self.limited, Purse([self.money]), self.outgoing, worst=meter.worst_case, cost=meter.charge
        )
        self.retrying = Retrying(
            self.budgeted, teacher="teacher 'main'", model="m", breaker=self.pool.breaker, sleep=sleep
        )
        self.together = Together(self.retrying, self.store)
        self.stored = Stored(self.together, self.store)

    def close(self) -> None:
        self.store.close()
        self.notes.close()


class Subject:
    """What the contract is about: something that asks, and the means to look whether it has let everything go."""

    def __init__(self, name: str, asks: Asks, pool: Pool, money: Budget, state: Path, made: Any = None) -> None:
        self.name, self.asks, self.pool, self.money, self.state = name, asks, pool, money, state
        self._made = made

    @property
    def is_limited(self) -> bool:
        return self.name not in ("chat", "outgoing", "committed")

    @property
    def asks_again(self) -> bool:
        return self.name in ("retrying", "together", "stored", "teacher")

    @property
    def remembers(self) -> bool:
        return self.name in ("stored", "teacher")

    def request(self, text: str = "Hi?") -> Request:
        messages = [{"role": "user", "content": text}]
        if self._made is not None:
            return self._made.requests(messages, schema=None, samples=range(1))[0]
        body = {"model": "m", "messages": messages, **SAMPLING}
        return Request(request_key(body, endpoint="test"), body)

    def unknown(self) -> int:
        """How many requests are noted as sent, and as nothing more."""
        return sum(len(read_notes(path)[1]) for path in (*logs(self.state, live=True), *logs(self.state)))

    def is_idle(self) -> bool:
        return self.pool.in_flight == 0 and not self.money.reserved


@asynccontextmanager
async def layer(name: str, loopback: Loopback, folder: Path) -> AsyncIterator[Subject]:
    transport = open_transport(loopback.url, 100)
    layers = Layers(loopback, folder, transport)
    try:
        yield Subject(name, getattr(layers, name), layers.pool, layers.money, folder)
    finally:
        await transport.aclose()
        layers.close()


RECIPE = """
name = "contract"
[seeds]
path = "none.jsonl"
[teachers.main]
{teacher}
[[steps]]
use = "generate"
prompt = "answer"
"""


@asynccontextmanager
async def whole(teacher: str, folder: Path) -> AsyncIterator[Subject]:
    """A teacher as a build opens it."""
    (folder / "recipe.toml").write_text(RECIPE.format(teacher=teacher))
    recipe, source = read_recipe(folder / "recipe.toml")
    store = AnswerStore(folder / "answers.sqlite")
    try:
        async with AsyncExitStack() as stack:
            teachers = await stack.enter_async_context(open_teachers(recipe, source, {"main"}, store, state=folder))
            main = teachers["main"]
            yield Subject("teacher", main, main.pool, Budget(None), folder, made=main)
    finally:
        store.close()


def hosted(loopback: Loopback) -> str:
    return (
        f'base_url = "{loopback.url}"\nmodel = "m"\nlimits = {{ max_in_flight = {CAP} }}\n'
        "sampling = { max_tokens = 100 }\nprices = { input = 1, output = 1 }\n[budget]\nusd = 100"
    )


LAYERS = ["chat", "outgoing", "committed", "limited", "budgeted", "retrying", "together", "stored"]
Contract = Callable[[Callable[[Subject], Awaitable[Any]]], Any]


@pytest.fixture(params=[*LAYERS, "teacher"])
def subject(
    request: pytest.FixtureRequest, loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Contract:
    """Run one clause of the contract with a layer (and those inside it), or with a whole teacher."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))

    async def main(clause: Callable[[Subject], Awaitable[Any]]) -> Any:
        name = request.param
        opened = whole(hosted(loopback), tmp_path) if name == "teacher" else layer(name, loopback, tmp_path)
        async with opened as made:
            async with asyncio.timeout(20):
                result = await clause(made)
            assert made.is_idle(), "a turn or money is still held"
            return result

    return lambda clause: asyncio.run(main(clause))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_reply_comes_back_unchanged_and_can_be_read(subject: Contract, loopback: Loopback) -> None:
    said = reply("Paris, capital of France", message={"reasoning_content": "Where?"}, system_fingerprint="fp")
    loopback.script([said])

    async def clause(made: Subject) -> None:
        got = await made.asks.complete(made.request())
        completion = got.completion
        assert got.raw == said.body and (completion.text, completion.reasoning) == (
            "Paris, capital of France",
            "Where?",
        )
        assert made.unknown() == 0

    subject(clause)
    assert loopback.bodies == [{"model": "m", "messages": [{"role": "user", "content": "Hi?"}], **SAMPLING}]


TRANSIENT = {
    "error-500": (error(500, "oops", "down", retry_after=0), "status", 0),
    "limited": (error(429, "rate_limit_exceeded", "slow down", retry_after=0), "status", 0),
    "reset": (Say(reset=True), "network", 1),
    "error-in-a-200": (Say(body=b'{"error": {"message": "overloaded"}}').stating(retry_after=0), "malformed", 1),
}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_may_pass_is_told_or_asked_again(subject: Contract, loopback: Loopback, fault: str) -> None:
    said, kind, unknown = TRANSIENT[fault]
    loopback.script([said, reply("Paris")])

    async def clause(made: Subject) -> None:
        if made.asks_again:
            assert (await made.asks.complete(made.request())).completion.text == "Paris"
        else:
            with pytest.raises(Fault) as caught:
                await made.asks.complete(made.request())
            assert (caught.value.kind, caught.value.is_unknown) == (kind, bool(unknown))
        assert loopback.seen == 1 + made.asks_again
        if made.name not in ("chat", "outgoing"):
            assert made.unknown() == unknown  # what may have been billed

    subject(clause)


FINAL = {
    "refused": (error(400, "context_length_exceeded", "too long"), RowFailed, "refused_400: too long"),
    "key-refused": (error(401, "invalid_api_key", "bad key"), CredentialsRefused, "DG402"),
}


@pytest.mark.parametrize("fault", FINAL)
def test_what_cannot_be_mended_costs_one_call(subject: Contract, loopback: Loopback, fault: str) -> None:
    said, kind, words_of_it = FINAL[fault]
    loopback.script([said])

    async def clause(made: Subject) -> None:
        with pytest.raises(kind if made.asks_again else Fault) as caught:
            await made.asks.complete(made.request())
        assert (words_of_it if made.asks_again else str(said.status)) in str(caught.value)
        assert made.unknown() == 0 and loopback.seen == 1

    subject(clause)


def test_who_gives_up_while_asking_leaves_nothing(subject: Contract, loopback: Loopback) -> None:
    loopback.script([Say(wait=20)])

    async def clause(made: Subject) -> None:
        asked = asyncio.create_task(made.asks.complete(made.request()))
        await until(lambda: loopback.seen == 1)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(lambda: loopback.hung_up == 1)  # the connection is given up, so the server may stop
        assert made.is_idle() and loopback.now == 0
        assert made.unknown() == (made.name not in ("chat", "outgoing"))
        if made.name in ("budgeted", "retrying", "together", "stored"):
            assert made.money.spent > 0  # nobody knows whether it is billed
        assert (await made.asks.complete(made.request())).completion.text == words("Hi?")

    subject(clause)


def test_who_gives_up_while_waiting_for_a_turn_leaves_nothing(subject: Contract, loopback: Loopback) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.2)

    async def clause(made: Subject) -> None:
        await made.asks.complete(made.request("first"))
        busy = [asyncio.create_task(made.asks.complete(made.request(f"busy {n}"))) for n in range(CAP)]
        late = [asyncio.create_task(made.asks.complete(made.request(f"late {n}"))) for n in range(3)]
        await until(lambda: loopback.seen >= 1 + CAP)
        for task in late:
            task.cancel()
        results = await asyncio.gather(*busy, *late, return_exceptions=True)
        assert [result.completion.text for result in results[:CAP]] == [words(f"busy {n}") for n in range(CAP)]
        assert all(isinstance(result, asyncio.CancelledError) for result in results[CAP:])
        if made.is_limited:
            assert loopback.seen == 1 + CAP  # those who waited were never sent
            assert made.unknown() == 0
        assert (await made.asks.complete(made.request("late 0"))).completion.text == words("late 0")

    subject(clause)


def test_fifty_at_once_each_get_their_own_answer(subject: Contract, loopback: Loopback) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.01)

    async def clause(made: Subject) -> None:
        replies = await asyncio.gather(*(made.asks.complete(made.request(f"question {n}")) for n in range(50)))
        assert [each.completion.text for each in replies] == [words(f"question {n}") for n in range(50)]
        assert loopback.seen == 50 and made.unknown() == 0
        if made.is_limited:
            assert 2 <= loopback.peak <= CAP

    subject(clause)


def test_the_same_request_twice(subject: Contract, loopback: Loopback) -> None:
    loopback.script([reply("the first"), reply("the second")])

    async def clause(made: Subject) -> list[Reply]:
        return [await made.asks.complete(made.request()) for _ in range(2)]

    first, second = subject(clause)
    remembers = loopback.seen == 1
    assert first.completion.text == "the first"
    assert second.completion.text == ("the first" if remembers else "the second")


def test_the_same_request_at_once_is_asked_and_paid_for_once(loopback: Loopback, tmp_path: Path) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.1)

    async def work(layers: Layers) -> None:
        asked = family(layers, 1)[0]
        replies = await asyncio.gather(*(layers.stored.complete(asked) for _ in range(9)))
        assert {each.completion.text for each in replies} == {words("Hi?")} and loopback.seen == 1
        assert await layers.stored.complete(asked) == Reply(replies[0].raw)  # as it is stored
        assert layers.committed.calls == 1 and layers.committed.usage.completion == 11
        spent = layers.store.spent("contract")
        assert (spent.calls, spent.prompt_tokens, spent.completion_tokens, spent.nanousd) == (1, 7, 11, 18_000)

    with_layers(loopback, tmp_path, work)


def test_who_gives_up_does_not_take_others_along(loopback: Loopback, tmp_path: Path) -> None:
    """Two rows ask the same; the one that sent the request is given up."""
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.2)

    async def main() -> None:
        async with layer("stored", loopback, tmp_path) as made:
            one, other = (asyncio.create_task(made.asks.complete(made.request())) for _ in range(2))
            await until(lambda: loopback.seen == 1)
            one.cancel()
            assert (await other).completion.text == words("Hi?")
            with pytest.raises(asyncio.CancelledError):
                await one

    asyncio.run(main())


def test_a_turn_that_comes_as_its_row_is_given_up_is_passed_on() -> None:
    async def main() -> None:
        pool = Pool(1, LimitSettings(), learns=False)
        await pool.enter(NOTHING)
        given_up, next_one = (asyncio.create_task(pool.enter(NOTHING)) for _ in range(2))
        await asyncio.sleep(0)
        pool.leave()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await next_one
        assert pool.in_flight == 1
        pool.leave()
        assert pool.in_flight == 0

    asyncio.run(main())


def family(layers: Layers, count: int) -> list[Request]:
    """Requests for several samples of one prompt, as they are made for a provider that takes `n`."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi?"}], **SAMPLING}
    siblings = Siblings()
    siblings.requests = [
        Request(request_key(body, endpoint="test", sample=n), body, n, siblings=siblings) for n in range(count)
    ]
    return list(siblings.requests)


def with_layers(loopback: Loopback, folder: Path, work: Callable[[Layers], Awaitable[Any]]) -> Any:
    """Run some work with the layers of a teacher, and see that nothing is held afterwards."""

    async def main() -> Any:
        transport = open_transport(loopback.url, 100)
        layers = Layers(loopback, folder, transport)
        try:
            async with asyncio.timeout(20):
                return await work(layers)
        finally:
            assert layers.pool.in_flight == 0 and not layers.money.reserved
            await transport.aclose()
            layers.close()

    return asyncio.run(main())


def test_samples_asked_together_are_each_stored_under_their_own_key(loopback: Loopback, tmp_path: Path) -> None:
    async def work(layers: Layers) -> None:
        requests = family(layers, 4)
        alone = await layers.stored.complete(replace(requests[1], siblings=None))
        assert alone.completion.text == words("Hi?") and "n" not in loopback.bodies[0]
        replies = await asyncio.gather(*(layers.stored.complete(each) for each in requests))
        assert [each.completion.text for each in replies] == [
            words("Hi?"), words("Hi?"), words("Hi? 1"), words("Hi? 2")
        ]  # fmt: skip
        assert [body.get("n") for body in loopback.bodies] == [None, 3]  # only those that were not stored
        assert [layers.store.get(each.key) for each in requests] == [each.raw for each in replies]
        spent = layers.store.spent()
        assert (spent.calls, spent.prompt_tokens, spent.completion_tokens) == (4, 7 + 7, 11 + 33)
        assert read_notes(layers.notes.path)[1] == []

    with_layers(loopback, tmp_path, work)


def test_who_gives_up_a_sample_does_not_take_the_others_along(loopback: Loopback, tmp_path: Path) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.2)

    async def work(layers: Layers) -> None:
        tasks = [asyncio.create_task(layers.stored.complete(each)) for each in family(layers, 3)]
        await until(lambda: loopback.seen == 1)
        tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert [each.completion.text for each in results[1:]] == [words("Hi? 1"), words("Hi? 2")]
        assert loopback.seen == 1 and layers.store.count() == 3  # what came for the first is kept all the same

    with_layers(loopback, tmp_path, work)


def test_samples_that_nobody_wants_any_more_are_given_up(loopback: Loopback, tmp_path: Path) -> None:
    loopback.script([Say(wait=20)])

    async def work(layers: Layers) -> None:
        requests = family(layers, 3)
        tasks = [asyncio.create_task(layers.stored.complete(each)) for each in requests]
        await until(lambda: loopback.seen == 1)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert layers.pool.in_flight == 0 and not layers.money.reserved
        await until(lambda: loopback.hung_up == 1)
        assert len(read_notes(layers.notes.path)[1]) == 1
        replies = await asyncio.gather(*(layers.stored.complete(each) for each in requests))
        assert [each.completion.text for each in replies] == [words("Hi?"), words("Hi? 1"), words("Hi? 2")]

    with_layers(loopback, tmp_path, work)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (reply("only one"), "1 choices where 3 were asked for"),
        (Say(body=b'{"choices": []}'), "no choices"),
    ],
    ids=["one-choice", "no-choices"],
)
def test_samples_that_did_not_come_are_asked_for_again(loopback: Loopback, tmp_path: Path, said: Say, why: str) -> None:
    loopback.script([said])

    async def work(layers: Layers) -> None:
        replies = await asyncio.gather(*(layers.stored.complete(each) for each in family(layers, 3)))
        assert len({each.raw for each in replies}) == 3 and loopback.seen == 2
        assert [body["n"] for body in loopback.bodies] == [3, 3]
        assert len(read_notes(layers.notes.path)[1]) == 1  # the first may have been billed

    with_layers(loopback, tmp_path, work)

    async def alone(layers: Layers) -> None:
        with pytest.raises(Fault) as caught:
            first = family(layers, 3)[0]
            keys = tuple(each.key for each in first.siblings.requests)
            await layers.chat.complete(replace(first, body={**first.body, "n": 3}, parts=keys))
        assert caught.value.kind == "malformed" and why in str(caught.value)

    loopback.script([said])
    (tmp_path / "other").mkdir()
    with_layers(loopback, tmp_path / "other", alone)


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_the_embedded_teacher_keeps_the_contract(tmp_path: Path) -> None:
    if not is_installed(find_model("smollm2-135m")):
        pytest.fail("the weights are missing: run `distillgen teachers install smollm2-135m` (or `make test`)")
    teacher = (
        'provider = "embedded"\nmodel = "smollm2-135m"\n'
        "sampling = { max_tokens = 8, temperature = 0 }\nlimits = { max_in_flight = 2 }"
    )

    async def main() -> None:
        async with whole(teacher, tmp_path) as made, asyncio.timeout(60):
            first = await made.asks.complete(made.request("Say yes."))
            usage = first.completion.usage
            assert first.completion.text and usage is not None and 1 <= usage.completion <= 8
            assert (await made.asks.complete(made.request("Say yes."))).raw == first.raw and made.asks.calls == 1
            several = [made.asks.complete(made.request(f"Count to {n}.")) for n in range(6)]
            assert all(each.completion.text for each in await asyncio.gather(*several))
            assert made.unknown() == 0
            given_up = asyncio.create_task(made.asks.complete(made.request("Tell a story.")))
            await until(lambda: made.pool.in_flight == 1)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert made.is_idle() and made.unknown() <= 1
            assert (await made.asks.complete(made.request("Tell a story."))).completion.text

    asyncio.run(main())
