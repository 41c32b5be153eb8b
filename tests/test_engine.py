"""The whole teacher engine on a real server: limits at the gate, notes of what is sent, proxies, certificates, keys."""

import asyncio
import json
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, clean_environment
from hypothesis import given
from hypothesis import strategies as st
from loopback import Bucket, Loopback, Say, answer, error, reply, words

from distillgen.errors import BudgetSpent, InsecureUrl, TeacherUnavailable, UsageError
from distillgen.files import digest
from distillgen.recipe import read_recipe
from distillgen.settings import TeacherSettings
from distillgen.status import as_json, examine
from distillgen.teacher import Teacher, drain, open_teachers, providers, purse_of, sharing
from distillgen.teacher.answers import Account, AnswerStore, Charge, request_key
from distillgen.teacher.asking import Reply, Request
from distillgen.teacher.budget import Outgoing
from distillgen.teacher.chat import proxy_of
from distillgen.teacher.identity import RequestMaker, identify
from distillgen.teacher.sent import DECIDED, SENT, SentNotes, logs, read_notes

RECIPE = """
name = "engine"
[seeds]
path = "none.jsonl"
{teachers}
[[steps]]
use = "generate"
prompt = "answer"
teacher = [{names}]
"""
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
BUNDLES = ("ssl_cert_file", "ssl_cert_dir", "requests_ca_bundle", "curl_ca_bundle")
Work = Callable[[dict[str, Teacher]], Awaitable[Any]]


class Engine:
    """Opens teachers as a build does, in a folder and with a user's state of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, work: Work, **teachers: str) -> Any:
        """Run some work with teachers, each given as the lines of its table."""
        tables = "\n".join(f"[teachers.{name}]\nmodel = 'm'\n{lines}" for name, lines in teachers.items())
        names = ", ".join(f'"{name}"' for name in teachers)
        (self.folder / "recipe.toml").write_text(RECIPE.format(teachers=tables, names=names))
        recipe, source = read_recipe(self.folder / "recipe.toml")

        async def main() -> Any:
            store = AnswerStore(self.folder / "answers.sqlite")
            try:
                async with open_teachers(recipe, source, set(teachers), store, state=self.folder) as opened:
                    async with asyncio.timeout(30):
                        return await work(opened)
            finally:
                store.close()

        return asyncio.run(main())


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))
    for name in (*PROXIES, *BUNDLES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return Engine(tmp_path)


async def ask(teacher: Teacher, text: str = "Hi?") -> Reply:
    [request] = teacher.requests([{"role": "user", "content": text}], schema=None, samples=range(1))
    return await teacher.complete(request)


async def ask_many(teacher: Teacher, texts: list[str]) -> list[Any]:
    return await asyncio.gather(*(ask(teacher, text) for text in texts), return_exceptions=True)


def texts(count: int) -> list[str]:
    return [f"question {n}" for n in range(count)]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


# Limits at the gate


def assert_rate(arrived: list[float], per_second: float, *, late: float = 0.5) -> None:
    """No window, of whatever length, holds more than the rate allows; `late` is what may bunch up on the way."""
    for first, start in enumerate(arrived):
        for count, end in enumerate(arrived[first:], 1):
            assert count <= per_second * (end - start + late) + 1, f"{count} in {end - start:.3f} s"


def test_a_stated_rate_and_cap_are_kept_as_the_server_sees_it(engine: Engine, loopback: Loopback) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.15)

    async def work(teachers: dict[str, Teacher]) -> list[Any]:
        asked = asyncio.create_task(ask_many(teachers["main"], texts(100)))
        await asyncio.sleep(2)
        asked.cancel()
        return loopback.arrived[:]

    limits = "limits = { requests_per_minute = 600, max_in_flight = 3 }"
    arrived = engine.run(work, main=f'base_url = "{loopback.url}"\n{limits}')
    assert_rate(arrived, 10)
    assert len(arrived) > 5 and loopback.peak <= 3


@pytest.mark.parametrize("cap", [1, 7])
def test_the_cap_is_kept_as_the_server_sees_it(engine: Engine, loopback: Loopback, cap: int) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.02)
    main = f'base_url = "{loopback.url}"\nlimits = {{ max_in_flight = {cap} }}'
    engine.run(lambda teachers: ask_many(teachers["main"], texts(30)), main=main)
    assert loopback.seen == 30 and loopback.peak == cap


def test_a_lower_limit_in_the_headers_is_obeyed_from_then_on(engine: Engine, loopback: Loopback) -> None:
    stated = {"x_ratelimit_limit_requests": 600, "x_ratelimit_remaining_requests": 599, "x_ratelimit_reset_requests": "100ms"}  # fmt: skip
    loopback.behave = lambda body: answer(body).stating(**stated)

    async def work(teachers: dict[str, Teacher]) -> None:
        await ask(teachers["main"], "first")
        assert teachers["main"].pool.per_minute == 600
        await ask_many(teachers["main"], texts(12))

    engine.run(work, main=f'base_url = "{loopback.url}"\nlimits = {{ requests_per_minute = 60000 }}')
    assert_rate(loopback.arrived, 10)


def test_a_higher_limit_in_the_headers_does_not_raise_the_recipes(engine: Engine, loopback: Loopback) -> None:
    loopback.behave = lambda body: answer(body).stating(x_ratelimit_limit_requests=60000)

    async def work(teachers: dict[str, Teacher]) -> None:
        await ask(teachers["main"], "first")
        assert teachers["main"].pool.per_minute == 600

    engine.run(work, main=f'base_url = "{loopback.url}"\nlimits = {{ requests_per_minute = 600 }}')


def test_when_nothing_remains_nothing_is_sent_until_the_reset(engine: Engine, loopback: Loopback) -> None:
    none_left = {"x_ratelimit_limit_requests": 6000, "x_ratelimit_remaining_requests": 0, "x_ratelimit_reset_requests": "400ms"}  # fmt: skip
    loopback.script([reply("first").stating(**none_left)])

    async def work(teachers: dict[str, Teacher]) -> None:
        await ask(teachers["main"], "first")
        held = time.monotonic()
        await ask_many(teachers["main"], texts(3))
        assert min(loopback.arrived[1:]) - held >= 0.35  # a little of the hold passed before `held`

    engine.run(work, main=f'base_url = "{loopback.url}"\nlimits = {{ requests_per_minute = 60000 }}')
    assert loopback.seen == 4


def test_teachers_share_the_pool_of_one_endpoint_model_and_key(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "sk-one")
    monkeypatch.setenv("TWO", "sk-two")
    base = 'base_url = "http://127.0.0.1:9/v1"\n'

    async def work(teachers: dict[str, Teacher]) -> None:
        pools = {name: teacher.pool for name, teacher in teachers.items()}
        assert pools["plain"] is pools["warm"]
        assert len({id(pool) for pool in pools.values()}) == 4
        assert pools["plain"].per_minute == 60 and pools["plain"].cap == 5  # the lower of what either states

    engine.run(
        work,
        plain=base + "api_key_env = 'ONE'\nlimits = { requests_per_minute = 60, max_in_flight = 9 }",
        warm=base + "api_key_env = 'ONE'\nsampling = { temperature = 1.0 }\nlimits = { requests_per_minute = 90, max_in_flight = 5 }",
        other_key=base + "api_key_env = 'TWO'",
        no_key=base,
        other_place='base_url = "http://127.0.0.1:10/v1"',
    )  # fmt: skip


HOLDER = """
import sys
from pathlib import Path
from distillgen.teacher.sharing import Share
with Share(sys.argv[1]):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def neighbour(engine: Engine, loopback: Loopback) -> Iterator["subprocess.Popen[str]"]:
    """Another real process of the same user that asks the same model."""
    pool = digest(loopback.url.encode(), b"m", b"")[:32]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, pool],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=clean_environment(XDG_STATE_HOME=str(engine.folder / "user")),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.communicate()


def test_a_newcomer_is_silent_at_first_and_keeps_to_its_share(
    engine: Engine, loopback: Loopback, neighbour: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "SILENT_SECONDS", 0.6)
    monkeypatch.setattr(sharing, "COUNT_SECONDS", 0.05)

    async def work(teachers: dict[str, Teacher]) -> None:
        pool, came = teachers["main"].pool, time.monotonic()
        await ask(teachers["main"])
        assert loopback.arrived[0] - came >= 0.5
        assert pool.per_minute == 300
        loopback.behave = lambda body: Say(200, answer(body).body, wait=0.3)
        await ask_many(teachers["main"], texts(4))
        assert loopback.peak <= 2  # its half of four
        neighbour.kill()
        neighbour.wait()
        await asyncio.sleep(0.1)
        await ask(teachers["main"], "alone again")
        assert pool.per_minute == 600

    limits = "limits = { requests_per_minute = 600, max_in_flight = 4 }"
    engine.run(work, main=f'base_url = "{loopback.url}"\n{limits}')


def test_a_newcomer_is_not_silent_where_no_limit_is_stated(
    engine: Engine, loopback: Loopback, neighbour: "subprocess.Popen[str]"
) -> None:
    engine.run(lambda teachers: ask(teachers["main"]), main=f'base_url = "{loopback.url}"')  # within 30 s of 60
    assert loopback.seen == 1


@pytest.mark.parametrize("retry_after", [None, 0.2], ids=["without-advice", "with-advice"])
def test_an_unstated_rate_is_learned_from_what_is_refused(
    engine: Engine, loopback: Loopback, retry_after: float | None
) -> None:
    bucket = loopback.behave = Bucket(100, 20, retry_after=retry_after)

    async def work(teachers: dict[str, Teacher]) -> None:
        results = await ask_many(teachers["main"], texts(300))
        assert [each.completion.text for each in results] == [words(text) for text in texts(300)]
        assert 100 * 60 / 2 <= teachers["main"].pool.per_minute <= 100 * 60 * 2

    engine.run(work, main=f'base_url = "{loopback.url}"\nlimits = {{ max_in_flight = 64 }}')
    assert 1 <= bucket.refused <= 60


def test_a_server_that_takes_few_at_once_answers_all_the_same(engine: Engine) -> None:
    crowd = Loopback(most=4)
    crowd.behave = lambda body: Say(200, answer(body).body, wait=0.05)

    async def work(teachers: dict[str, Teacher]) -> None:
        results = await ask_many(teachers["main"], texts(40))
        assert [each.completion.text for each in results] == [words(text) for text in texts(40)]

    engine.run(work, main=f'base_url = "{crowd.url}"\nlimits = {{ max_in_flight = 16 }}')
    crowd.close()
    assert crowd.peak <= 4 + crowd.crowded and 1 <= crowd.crowded <= 100


def test_a_process_that_was_stopped_does_not_make_up_for_it(demo: Project, loopback: Loopback) -> None:
    """A laptop's lid: what was not sent meanwhile is not sent all at once."""
    demo.edit("sampling =", "limits = { requests_per_minute = 600 }\nsampling =")
    process = demo.start("build")
    until(lambda: loopback.seen >= 4)
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert loopback.seen == 20
    assert_rate(loopback.arrived, 10)


def test_a_drain_keeps_what_comes_and_sends_nothing_more(engine: Engine, loopback: Loopback) -> None:
    async def work(teachers: dict[str, Teacher]) -> list[Any]:
        main = teachers["main"]
        await ask(main, "first")
        loopback.behave = lambda body: Say(200, answer(body).body, wait=0.2)
        rows = asyncio.create_task(ask_many(main, texts(5)))
        while loopback.seen < 3:
            await asyncio.sleep(0.01)
        await drain(teachers.values())
        assert main.pool.in_flight == 0
        return await rows

    main = f'base_url = "{loopback.url}"\nlimits = {{ max_in_flight = 2 }}'
    results = engine.run(work, main=main)
    assert [each.completion.text for each in results[:2]] == [words(text) for text in texts(2)]
    assert [(each.cause, each.lasting) for each in results[2:]] == [("not_sent", False)] * 3 and loopback.seen == 3


def test_a_drain_does_not_wait_for_ever(engine: Engine, loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillgen.teacher.DRAIN_SECONDS", 0.2)

    async def work(teachers: dict[str, Teacher]) -> None:
        main = teachers["main"]
        await ask(main, "first")
        loopback.behave = lambda _: Say(wait=60)
        row = asyncio.create_task(ask(main, "never"))
        while loopback.seen < 2:
            await asyncio.sleep(0.01)
        await drain(teachers.values())
        assert not row.done()
        row.cancel()
        await asyncio.wait([row])
        assert main.pool.in_flight == 0 and row.cancelled()

    engine.run(work, main=f'base_url = "{loopback.url}"')
    [path] = logs(engine.folder)
    assert len(read_notes(path)[1]) == 1


# What was sent


def spent(demo: Project) -> dict[str, Any]:
    done = demo.run("status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def priced(demo: Project) -> Project:
    demo.edit("sampling =", "limits = { max_in_flight = 4 }\nprices = { input = 1, output = 10 }\nsampling =")
    return demo


def test_kill_9_leaves_as_many_unknown_as_were_in_flight(priced: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: answer(body) if loopback.seen <= 6 else Say(wait=60)
    process = priced.start("build")
    until(lambda: loopback.now == 4 and loopback.seen == 10)
    during = spent(priced)
    assert during["in_flight"] == 4 and during["spent"]["unknown_calls"] == 0  # it is at work: they may yet come
    process.kill()
    process.communicate()
    after = spent(priced)
    assert (after["in_flight"], after["spent"]["unknown_calls"], after["stored_answers"]) == (0, 4, 6)
    worst = after["spent"]["unknown_usd"]
    assert 4 * 100 * 10e-6 < worst < 4 * (100 * 10e-6 + 1000 * 1e-6)  # max_tokens, and a prompt of some bytes
    loopback.behave = answer
    for _ in range(2):
        priced.build()
        again = spent(priced)
        assert (again["spent"]["unknown_calls"], again["spent"]["unknown_usd"]) == (4, worst)
        assert again["stored_answers"] == again["spent"]["calls"] == 20 and loopback.seen == 24
    total = round(again["spent"]["usd"] + worst, 9)
    priced.edit("[dataset]", f"[budget]\nusd_total = {total - 1e-6:.9f}\n[dataset]")
    recipe, _ = read_recipe(priced.recipe)
    store = AnswerStore(priced.folder / ".distillgen/answers.sqlite")
    purse = purse_of(recipe, store)
    store.close()
    assert purse is not None and float(purse._budgets[0].spent) == pytest.approx(total)
    stopped = priced.run("build", "--set", "teachers.main.epoch=1")
    assert stopped.returncode == BudgetSpent.exit_status and loopback.seen == 24, stopped.stderr


def test_a_signal_keeps_what_is_decided_and_leaves_nothing_unknown(priced: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.3)
    process = priced.start("build")
    until(lambda: loopback.now == 4)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    now = spent(priced)
    assert process.returncode == 143 and loopback.seen < 20
    assert now["stored_answers"] == now["spent"]["calls"] == loopback.seen and now["spent"]["unknown_calls"] == 0


def test_what_other_samples_of_a_row_have_under_way_is_kept_when_the_run_stops(
    priced: Project, loopback: Loopback
) -> None:
    priced.seeds([{"question": "What is number 1?"}])
    slow = Say(200, reply("An answer that takes a while to be written down.").body, wait=0.5)
    loopback.script([reply("The first, which goes alone."), slow, error(402, "", "pay"), slow])
    done = priced.run("build", "--set", "steps.0.samples=4")
    assert done.returncode == 5, done.stderr
    now = spent(priced)
    assert (now["stored_answers"], now["spent"]["unknown_calls"]) == (3, 0)


KEYS = [bytes([n]) * 32 for n in range(4)]


def put(store: AnswerStore, key: bytes) -> None:
    asyncio.run(store.put(key, Reply(reply("stored").body), Account("run", "demo", "m"), Charge()))


def test_an_answer_that_was_stored_before_its_note_counts_as_answered(tmp_path: Path) -> None:
    state = tmp_path / ".distillgen"
    store, notes = AnswerStore(state / "answers.sqlite"), SentNotes(state, "demo")
    notes.sent(KEYS[0], 7)
    put(store, KEYS[0])  # and here the process is killed
    notes.sent(KEYS[1], 11)
    notes.close()
    before = as_json(examine(tmp_path))["spent"]
    store.take_in_notes()
    after = as_json(examine(tmp_path))["spent"]
    store.take_in_notes()
    assert store.spent("demo").unknown == 1 and store.spent("demo").unknown_nanousd == 11
    store.close()
    for found in (before, after):
        assert (found["unknown_calls"], found["unknown_usd"]) == (1, 11e-9)


def test_notes_are_taken_in_once_whatever_ends_it(tmp_path: Path) -> None:
    """A crash after the notes are in the store and before their file is gone."""
    store, notes = AnswerStore(tmp_path / "answers.sqlite"), SentNotes(tmp_path, "demo")
    notes.sent(KEYS[0], None)
    notes.close()
    content = notes.path.read_bytes()
    store.take_in_notes()
    assert not notes.path.exists()
    notes.path.write_bytes(content)
    store.take_in_notes()
    assert not notes.path.exists() and store.spent().unknown == 1
    store.close()


def test_notes_of_a_run_at_work_are_left_alone(tmp_path: Path) -> None:
    store, notes = AnswerStore(tmp_path / "answers.sqlite"), SentNotes(tmp_path, "demo")
    notes.sent(KEYS[0], None)
    store.take_in_notes()
    assert notes.path.exists() and store.spent().unknown == 0
    notes.close()
    store.take_in_notes()
    assert not notes.path.exists() and store.spent().unknown == 1
    store.close()


EVENTS = st.lists(st.tuples(st.sampled_from([SENT, DECIDED]), st.sampled_from(KEYS)), max_size=12)


@given(events=EVENTS, keep=st.floats(0, 1))
def test_a_torn_record_does_not_count(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[bytes, bytes]], keep: float
) -> None:
    notes = SentNotes(tmp_path_factory.mktemp("notes"), "demo")
    notes.sent(KEYS[0], 1)
    for what, key in events:
        notes.sent(key, 1) if what == SENT else notes.decided(key)
    notes.close()
    content = notes.path.read_bytes()
    head = content.index(b"\n") + 1
    record = (len(content) - head) // (1 + len(events))
    end = head + round(keep * (len(content) - head))
    notes.path.write_bytes(content[:end])
    whole = [(SENT, KEYS[0]), *events][: (end - head) // record]
    left: dict[bytes, int] = {}
    for what, key in whole:
        left[key] = max(0, left.get(key, 0) + (1 if what == SENT else -1))
    dataset, unknown = read_notes(notes.path)
    assert dataset == "demo" and len(unknown) == sum(left.values())


def test_a_note_after_the_end_harms_nothing(tmp_path: Path) -> None:
    """The file is closed; its number may be another file's by now."""
    notes = SentNotes(tmp_path, "demo")
    notes.sent(KEYS[0], 1)
    notes.close()
    with (tmp_path / "another").open("wb") as another:
        notes.decided(KEYS[0])
        another.write(b"whole")
    assert (tmp_path / "another").read_bytes() == b"whole"
    assert len(read_notes(notes.path)[1]) == 1
    notes.close()


@pytest.mark.parametrize("budget", ["", "\n[budget]\nusd = 1"], ids=["without-a-budget", "with-a-budget"])
def test_no_request_is_remembered_for_ever(engine: Engine, loopback: Loopback, budget: str) -> None:
    """What notes the requests that may be billed must be asked for them again, or it grows with the run."""

    async def work(teachers: dict[str, Teacher]) -> None:
        await ask_many(teachers["main"], texts(50))
        inner = teachers["main"]._committed._inner
        assert isinstance(inner, Outgoing) is bool(budget)
        assert not budget or not inner._billable

    paid = "sampling = { max_tokens = 9 }\nprices = { input = 1, output = 1 }"
    engine.run(work, main=f'base_url = "{loopback.url}"\n{paid}{budget}')


# Proxies, certificates, addresses


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("file:///etc/passwd", UsageError),
        ("ftp://teacher.test/v1", UsageError),
        ("teacher.test/v1", UsageError),
        ("https://me:canary@teacher.test/v1", UsageError),
        ("https://teacher.test/v1?key=canary", UsageError),
        ("http://teacher.test/v1", InsecureUrl),
        ("http://169.254.169.254/v1", InsecureUrl),
        ("http://127.0.0.1.teacher.test/v1", InsecureUrl),
        ("http://localhost.teacher.test/v1", InsecureUrl),
    ],
)
def test_addresses_to_which_nothing_is_sent(url: str, error: type[UsageError]) -> None:
    with pytest.raises(UsageError) as caught:
        providers.url_of(TeacherSettings(base_url=url, model="m"))
    assert type(caught.value) is error and "canary" not in str(caught.value)


def far(more: str = "") -> str:
    return f'base_url = "http://teacher.test/v1"\nallow_http = true\n{more}'


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(
    engine: Engine, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy alone knows the host."""
    proxy = Loopback()
    proxy.behave = lambda body: reply("by proxy")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")

    async def work(teachers: dict[str, Teacher]) -> list[str]:
        return [(await ask(teachers[name])).completion.text for name in ("far", "near")]

    try:
        assert engine.run(work, far=far(), near=f'base_url = "{loopback.url}"') == ["by proxy", words("Hi?")]
    finally:
        proxy.close()
    assert proxy.targets == ["http://teacher.test/v1/chat/completions"] and proxy.headers[0]["host"] == "teacher.test"
    assert loopback.targets == ["/v1/chat/completions"]


def test_a_host_in_no_proxy_is_asked_directly(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("HTTPS_PROXY", "proxy.test:3129")
    assert str(proxy_of("http://teacher.test/v1").url) == "http://proxy.test:3128"
    assert str(proxy_of("https://teacher.test/v1").url) == "http://proxy.test:3129"
    assert [proxy_of(f"http://{host}:9/v1") for host in ("127.0.0.1", "localhost", "[::1]", "a.localhost")] == [
        None
    ] * 4
    monkeypatch.setenv("NO_PROXY", "other.test,teacher.test")
    assert proxy_of("http://teacher.test/v1") is None and proxy_of("https://sub.teacher.test/v1") is None
    assert proxy_of("http://else.test/v1") is not None
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy_of("http://else.test/v1") is None


@pytest.mark.parametrize("proxy", ["http://me:secret@proxy.test:port", "me:secret@proxy.test:port"])
def test_a_proxy_that_is_no_address_is_told_without_its_words(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(UsageError, match="http_proxy") as told:
        proxy_of("http://teacher.test/v1")
    assert "secret" not in str(told.value)


def test_a_proxy_that_is_not_there_is_told_plainly(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Loopback()
    gone.close()
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{gone.port}")
    monkeypatch.setattr("distillgen.teacher.retries.MAX_ATTEMPTS_UNPROVEN", 1)
    with pytest.raises(TeacherUnavailable, match="proxy"):
        engine.run(lambda teachers: ask(teachers["far"]), far=far())


def test_a_socks_proxy_stops_the_build_before_anything_is_sent(demo: Project, loopback: Loopback) -> None:
    demo.edit(loopback.url, "http://teacher.test/v1")
    demo.edit("sampling =", "allow_http = true\nsampling =")
    done = demo.run("build", ALL_PROXY="socks5://127.0.0.1:1080")
    assert done.returncode == 2 and "a socks5 proxy for teacher.test" in done.stderr, done.stderr
    assert "add teacher.test to NO_PROXY" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that it signed itself, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: certificates are not tested")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem"


@pytest.fixture
def secure(certificate: Path) -> Iterator[Loopback]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    server = Loopback(context)
    yield server
    server.close()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_that_the_environment_names_is_trusted(
    engine: Engine, secure: Loopback, certificate: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(certificate))
    got = engine.run(lambda teachers: ask(teachers["main"]), main=f'base_url = "{secure.url}"')
    assert got.completion.text == words("Hi?") and secure.seen == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(
    engine: Engine, secure: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillgen.teacher.retries.MAX_ATTEMPTS_UNPROVEN", 1)
    with pytest.raises(TeacherUnavailable, match="(?i)certificate"):
        engine.run(lambda teachers: ask(teachers["main"]), main=f'base_url = "{secure.url}"')
    assert secure.seen == 0


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_bundle_that_is_not_there_is_told_plainly(
    engine: Engine, loopback: Loopback, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/nowhere/bundle.pem")
    with pytest.raises(UsageError, match="CERT_FILE|/nowhere/bundle.pem"):
        engine.run(lambda teachers: ask(teachers["main"]), main=f'base_url = "{loopback.url}"')
    assert loopback.seen == 0


def test_no_netrc_is_read(engine: Engine, loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = engine.folder / ".netrc"
    netrc.write_text("default login me password canary\nmachine 127.0.0.1 login me password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(engine.folder))
    engine.run(lambda teachers: ask(teachers["main"]), main=f'base_url = "{loopback.url}"')
    assert "authorization" not in loopback.headers[0] and "cookie" not in loopback.headers[0]


# Keys

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
BODIES = st.dictionaries(st.sampled_from(["model", "messages", "temperature", "stop", "x"]), JSON, min_size=1)


def spelled(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def turned(value: Any) -> Any:
    """The same JSON with the keys of every object in another order."""
    if isinstance(value, dict):
        return {name: turned(inner) for name, inner in reversed(value.items())}
    return [turned(inner) for inner in value] if isinstance(value, list) else value


@given(one=BODIES, other=BODIES)
def test_requests_have_the_same_key_exactly_when_they_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert request_key(one, endpoint="e") == request_key(turned(one), endpoint="e")
    assert (request_key(one, endpoint="e") == request_key(other, endpoint="e")) == (spelled(one) == spelled(other))


@given(body=BODIES, name=st.text(max_size=4), value=JSON)
def test_any_field_of_a_body_counts(body: dict[str, Any], name: str, value: Any) -> None:
    changed = {**body, name: value}
    is_same = name in body and spelled(body[name]) == spelled(value)
    assert (request_key(body, endpoint="e") == request_key(changed, endpoint="e")) == is_same


PARTS = st.fixed_dictionaries({
    "endpoint": st.text(max_size=3), "sample": st.integers(0, 2), "ask": st.integers(0, 1), "epoch": st.integers(0, 2),
})  # fmt: skip


@given(body=BODIES, one=PARTS, other=PARTS)
def test_whom_which_sample_which_ask_and_which_epoch_count(
    body: dict[str, Any], one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (request_key(body, **one) == request_key(body, **other)) == (one == other)


def made(provider: str, samples: range, **settings: Any) -> list[Request]:
    teacher = TeacherSettings(provider=provider, model="m", answers_as="same", **settings)
    maker = RequestMaker(identify("main", teacher, Path()), teacher)
    return maker.make([{"role": "user", "content": "x"}], schema=None, samples=samples)


def test_a_sample_has_the_same_key_alone_and_together() -> None:
    together = next(name for name, preset in providers.presets().items() if preset.samples)
    alone = next(name for name, preset in providers.presets().items() if not preset.samples)
    many = made(together, range(40))
    assert all(each.siblings is not None for each in many) and len({each.key for each in many}) == 40
    assert max(len(each.siblings.requests) for each in many if each.siblings) == 16
    assert [each.key for each in many] == [made(together, range(n, n + 1))[0].key for n in range(40)]
    assert [each.key for each in many] == [each.key for each in made(alone, range(40))]
    assert all("n" not in each.body for each in many)
    elsewhere = made(together, range(40), limits={"max_in_flight": 2}, timeout_seconds=3.0, api_key_env="X")
    assert [each.key for each in many] == [each.key for each in elsewhere]


def test_few_open_files_clamp_what_is_in_flight(demo: Project, loopback: Loopback) -> None:
    import resource
    import subprocess
    import sys

    from conftest import clean_environment

    demo.edit("sampling =", "limits = { max_in_flight = 500 }\nsampling =")
    done = subprocess.run(
        [sys.executable, "-m", "distillgen", "build"],
        cwd=demo.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)),
    )
    assert done.returncode == 0, done.stderr
    assert "at most 36 requests in flight: no more files may be open" in done.stderr and loopback.peak <= 36
