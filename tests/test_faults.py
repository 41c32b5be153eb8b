"""What a teacher in trouble does to a request, a row and a run: faults over real connections, retries, the breaker."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, Say, answer, error, nobody_accepts, reply, words, zipped

from distillgen.errors import (
    CredentialsRefused,
    ModelMissing,
    QuotaSpent,
    RequestsRefused,
    RowFailed,
    TeacherUnavailable,
)
from distillgen.settings import LimitSettings
from distillgen.teacher import breaker, chat, learning, retries
from distillgen.teacher.answers import request_key
from distillgen.teacher.asking import Asks, Endpoint, Fault, Request
from distillgen.teacher.breaker import Breaker
from distillgen.teacher.chat import Chat, open_transport
from distillgen.teacher.limits import Limited, Pool, TokenEstimate
from distillgen.teacher.replies import TokenUsage, read_reply
from distillgen.teacher.retries import Patience, Retrying, retry_after_seconds


class Clock:
    """Sleeps at once and remembers how long it would have been."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


Work = Callable[[Retrying, Clock], Awaitable[Any]]


def ask(
    url: str | Loopback, work: Work, *, key: str | None = None, timeout: float = 5, cap: int = 8, learns: bool = False
) -> Any:
    """Run `work` with the layers retries -> limits -> chat, over a real connection."""
    url = url if isinstance(url, str) else url.url

    async def main() -> Any:
        async def endpoint() -> Endpoint:
            return where

        where, clock, transport = Endpoint(url, key), Clock(), open_transport(url, 100)
        pool = Pool(cap, LimitSettings(), learns=learns)
        limited: Asks = Limited(Chat(transport, endpoint, timeout_seconds=timeout), pool)
        retrying = Retrying(limited, teacher="teacher 'main'", model="m", breaker=pool.breaker, sleep=clock.sleep)
        try:
            return await work(retrying, clock)
        finally:
            assert pool.in_flight == 0
            await transport.aclose()

    return asyncio.run(main())


def request(text: str = "Hi?") -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return Request(request_key(body, endpoint="test"), body)


async def once(retrying: Retrying, clock: Clock) -> tuple[str, list[float]]:
    said = await retrying.complete(request())
    return read_reply(said.raw).text, clock.slept


def fault_of(loopback: Loopback | str, **options: Any) -> Fault:
    """Ask once, without retries, and return the fault."""

    async def work(retrying: Retrying, clock: Clock) -> Fault:
        with pytest.raises(Fault) as caught:
            await retrying._inner.complete(request())
        return caught.value

    return ask(loopback, work, **options)


def many(count: int) -> Work:
    """Ask for several rows at once; the results are replies and errors."""

    async def work(retrying: Retrying, clock: Clock) -> list[Any]:
        asked = [retrying.complete(request(str(n))) for n in range(count)]
        return await asyncio.gather(*asked, return_exceptions=True)

    return work


# What goes wrong on the way

PARIS = reply("Paris, and some more words so that half of it is not nothing")
HTML = Say(body=b"<html>Bad gateway</html>", headers={"Content-Type": "text/html"})
BROKEN = {
    "reset": (Say(reset=True), "network"),
    "reset-in-the-body": (Say(body=PARIS.body, cut=True, reset=True), "network"),
    "cut-off": (Say(body=PARIS.body, cut=True), "network"),
    "content-length-too-large": (Say(body=PARIS.body, stated=len(PARIS.body) + 9), "network"),
    "chunk-cut": (Say(body=PARIS.body, chunk=64, cut=True), "network"),
    "no-gzip-at-all": (Say(body=b"xx", headers={"Content-Encoding": "gzip"}), "network"),
    "gzip-cut": (zipped(PARIS, 40), "malformed"),
    "html": (HTML, "malformed"),
    "empty": (Say(), "malformed"),
    "blank": (Say(body=b"\n\n \n"), "malformed"),
    "no-choices": (Say(body=b'{"choices": []}'), "malformed"),
    "null-choices": (Say(body=b'{"choices": null}'), "malformed"),
    "error-in-200": (Say(body=b'{"error": {"message": "overloaded"}}'), "malformed"),
    "half-json": (Say(body=b'{"choices": [{"mess'), "malformed"),
    "no-utf-8": (Say(body=b'{"choices": [{"message": {"content": "\xff"}}]}'), "malformed"),
    "not-a-number": (Say(body=PARIS.body.replace(b"11", b"NaN")), "malformed"),
    "null-content": (reply(None, finish="tool_calls"), "malformed"),
    "broke-off": (reply("", finish="insufficient_system_resource"), "malformed"),
    "deep": (Say(body=b"[" * 200_000), "malformed"),
    "deep-in-an-answer": (Say(body=PARIS.body[:-1] + b', "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "malformed"),
}  # fmt: skip
UNWILLING = {str(status): (error(status), "status") for status in (408, 409, 425, 429, 500, 502, 503, 504, 529, 599)}
PASSING = BROKEN | UNWILLING


@pytest.mark.parametrize("fault", PASSING)
def test_faults_that_may_pass_are_asked_again(loopback: Loopback, fault: str) -> None:
    said, kind = PASSING[fault]
    loopback.script([said, said, reply("Paris")])
    found = fault_of(loopback)
    assert (found.kind, found.is_unknown) == (kind, kind != "status")  # what came broken may have been billed
    text, slept = ask(loopback, once)
    assert text == "Paris" and loopback.seen == 3 and len(slept) == 1 and 0 <= slept[0] <= 1


WHOLE = {
    "gzip": zipped(PARIS),
    "chunks": Say(body=PARIS.body, chunk=7),
    "a-byte-at-a-time": Say(body=PARIS.body, drip=0.0001),
    "after-blank-lines": Say(body=PARIS.body, wait=0.2, blank=0.02),
    "byte-order-mark": Say(body=b"\xef\xbb\xbf" + PARIS.body),
    "another-content-type": Say(body=PARIS.body, headers={"Content-Type": "text/html"}),
}


@pytest.mark.parametrize("said", WHOLE.values(), ids=WHOLE)
def test_whole_replies_are_read_however_they_travel(loopback: Loopback, said: Say) -> None:
    loopback.script([said])
    text, slept = ask(loopback, once)
    assert text == read_reply(PARIS.body).text and not slept


@pytest.mark.parametrize(
    "said",
    [
        Say(200, PARIS.body, wait=20),
        Say(200, PARIS.body, wait=20, blank=0.05),
        Say(200, PARIS.body, drip=0.05),
    ],
    ids=["silence", "blank-lines", "a-byte-now-and-then"],
)
def test_the_deadline_is_total(loopback: Loopback, said: Say) -> None:
    loopback.behave = lambda _: said
    assert fault_of(loopback, timeout=0.3).kind == "timeout"
    with pytest.raises(TeacherUnavailable, match=r"no reply within 0\.2 s"):
        ask(loopback, once, timeout=0.2)
    assert loopback.seen == 1 + retries.MAX_ATTEMPTS_UNPROVEN


def test_a_refused_connection_is_no_request(loopback: Loopback) -> None:
    loopback.close()
    found = fault_of(loopback)
    assert found.kind == "connect" and not found.is_unknown and f"cannot connect to {loopback.url}" in str(found)
    with pytest.raises(TeacherUnavailable, match="cannot connect"):
        ask(loopback, once)


def test_a_name_that_nobody_knows_is_no_request() -> None:
    found = fault_of("http://teacher.invalid/v1")
    assert found.kind == "connect" and not found.is_unknown and "teacher.invalid" in str(found)


def test_a_connection_that_is_never_made_is_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_EXTENSIONS", {"timeout": {"connect": 0.2}})
    with nobody_accepts() as url:
        found = fault_of(url)
    assert found.kind == "connect" and not found.is_unknown and "cannot connect" in str(found)


def test_a_giant_reply_is_cut_short(loopback: Loopback) -> None:
    block = b" " * 1_000_000
    loopback.behave = lambda _: Say(body=block, times=200)
    with pytest.raises(RowFailed) as caught:
        ask(loopback, once)
    assert (caught.value.cause, caught.value.lasting) == ("oversize", True)
    assert "more than 67,108,864 bytes" in caught.value.detail and loopback.seen == 1
    assert loopback.written < 100_000_000  # the rest was never fetched


def test_a_giant_reply_may_be_small_on_the_wire(loopback: Loopback) -> None:
    loopback.behave = lambda _: zipped(Say(body=b" " * 70_000_000))
    with pytest.raises(RowFailed) as caught:
        ask(loopback, once)
    assert caught.value.cause == "oversize" and loopback.written < 100_000


# What the server says

SAMPLE_403 = b'{"error": {"code": 403, "message": "no", "metadata": {"reasons": ["violence"], "flagged_input": "..."}}}'
STOPS = {
    "401": (error(401, "invalid_api_key", "bad key"), CredentialsRefused, "bad key"),
    "403": (error(403, "forbidden", "no access"), CredentialsRefused, "no access"),
    "402": (error(402, "", "pay"), QuotaSpent, "pay"),
    "quota-in-a-429": (error(429, "insufficient_quota", "used up"), QuotaSpent, "used up"),
    "quota-with-advice": (error(429, "insufficient_quota", "used up", retry_after=1), QuotaSpent, "used up"),
    "404": (error(404, "model_not_found", "no such model"), ModelMissing, "no such model"),
    "405": (Say(405, b"Method Not Allowed"), ModelMissing, "Method Not Allowed"),
    "302": (Say(302, b"", {"Location": "http://127.0.0.1:9/"}), TeacherUnavailable, "redirects"),
    "308": (Say(308, b"", {"Location": "http://127.0.0.1:9/"}), TeacherUnavailable, "redirects"),
    "limited-for-long": (error(429, "rate_limit_exceeded", "wait", retry_after=1200), TeacherUnavailable, "in 20 minutes"),
    "limited-for-ever": (error(429, "rate_limit_exceeded", "wait", retry_after=999999), TeacherUnavailable, "in 16,667 minutes"),
}  # fmt: skip


@pytest.mark.parametrize("case", STOPS)
def test_faults_that_stop_the_run_cost_one_call(loopback: Loopback, case: str) -> None:
    said, kind, why = STOPS[case]
    loopback.behave = lambda _: said
    results = ask(loopback, many(10))
    assert all(isinstance(result, kind) and why in str(result) for result in results)
    assert loopback.seen == 1  # who waited for the first to come back asks no more


@pytest.mark.parametrize("case", STOPS)
def test_faults_that_stop_the_run_do_so_in_its_middle(loopback: Loopback, case: str) -> None:
    said, kind, why = STOPS[case]
    loopback.script([reply("fine"), said])

    async def work(retrying: Retrying, clock: Clock) -> None:
        await retrying.complete(request("one"))
        await retrying.complete(request("two"))

    with pytest.raises(kind, match=why):
        ask(loopback, work)
    assert loopback.seen == 2


def test_a_redirect_is_not_followed_and_the_key_stays_here(loopback: Loopback) -> None:
    elsewhere = Loopback()
    loopback.behave = lambda _: Say(307, b"", {"Location": f"{elsewhere.url}/chat/completions"})
    with pytest.raises(TeacherUnavailable, match="not followed with a key"):
        ask(loopback, once, key="sk-canary-0123456789")
    elsewhere.close()
    assert loopback.headers[0]["authorization"] == "Bearer sk-canary-0123456789" and elsewhere.seen == 0


ROWS = {
    "context-too-long": (error(400, "context_length_exceeded", "too long"), "refused_400", "too long"),
    "413": (error(413, "", "large"), "refused_413", "large"),
    "422": (error(422, "", "odd"), "refused_422", "odd"),
    "content-policy-400": (error(400, "content_policy_violation", "not this"), "refused_400", "not this"),
    "moderated-by-code": (error(403, "content_policy_violation"), "moderation", "no"),
    "moderated-in-the-body": (Say(403, SAMPLE_403), "moderation", "no"),
}


@pytest.mark.parametrize("case", ROWS)
def test_faults_of_one_row_fail_it_for_good(loopback: Loopback, case: str) -> None:
    said, cause, words_of_it = ROWS[case]
    loopback.script([said])
    with pytest.raises(RowFailed) as caught:
        ask(loopback, once)
    failed = caught.value
    assert (failed.cause, failed.detail, failed.lasting, failed.attempts) == (cause, words_of_it, True, 1)
    assert failed.last_reply == said.body.decode() and loopback.seen == 1


def test_a_teacher_that_refuses_the_first_twenty_stops_the_run(loopback: Loopback) -> None:
    loopback.behave = lambda _: error(400, "", "unknown parameter: foo")
    results = ask(loopback, many(25))
    assert sum(isinstance(result, RowFailed) for result in results) == 19
    stops = [result for result in results if isinstance(result, RequestsRefused)]
    assert stops and "refused the first 20 requests: unknown parameter: foo" in str(stops[0])


def test_one_answer_among_the_refused_and_the_run_goes_on(loopback: Loopback) -> None:
    loopback.behave = lambda body: answer(body) if body["messages"][0]["content"] == "7" else error(400, "", "odd")
    results = ask(loopback, many(40))
    assert sum(isinstance(result, RowFailed) for result in results) == 39


def test_a_web_page_instead_of_an_api_is_the_address_s_fault(loopback: Loopback) -> None:
    loopback.behave = lambda _: HTML
    with pytest.raises(RequestsRefused, match="web page"):
        ask(loopback, once)
    assert loopback.seen == retries.MAX_ATTEMPTS_UNPROVEN


# When it is asked again


def test_it_waits_as_long_as_the_server_asks(loopback: Loopback) -> None:
    date = formatdate(time.time() + 50, usegmt=True)
    waits = ["2", date, "0", "-7"]
    loopback.script([error(429, retry_after=each) for each in waits] + [reply("Paris")])
    _, slept = ask(loopback, once)
    assert slept[0] == 2.0 and 45 <= slept[1] <= 50 and slept[2:] == [0, 0]


def test_it_waits_two_minutes_at_most_and_guesses_when_nothing_sensible_is_said(loopback: Loopback) -> None:
    loopback.script([error(503, retry_after=999999), error(503, retry_after="abc"), reply("Paris")])
    _, slept = ask(loopback, once)
    assert slept[0] == 120.0 and 0 <= slept[1] <= 2
    loopback.script([error(429, retry_after="abc"), reply("Paris")])
    _, slept = ask(loopback, once)
    assert 0 <= slept[0] <= 1


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after_seconds("2.5", now=0) == 2.5
    assert retry_after_seconds("Thu, 01 Jan 1970 00:01:00 GMT", now=50) == 10
    assert retry_after_seconds("Thu, 01 Jan 1970 00:00:00 GMT", now=50) == 0
    nonsense = ("", "abc", "nan", "soon, please", "1970-01-01")
    assert [retry_after_seconds(value, now=0) for value in nonsense] == [None] * 5
    assert retry_after_seconds("-5", now=0) == 0 and retry_after_seconds("1e9", now=0) == 1e9


@given(st.text() | st.from_regex(r"\w{3}, \d{1,2} \w{3} \d{1,5} \d\d:\d\d:\d\d [-+]?\w{0,5}", fullmatch=True))
def test_whatever_retry_after_says_is_a_wait_or_nothing(value: str) -> None:
    seconds = retry_after_seconds(value, now=0)
    assert seconds is None or seconds >= 0


def test_being_limited_uses_up_no_attempt(loopback: Loopback) -> None:
    loopback.script([error(429, retry_after=1)] * 30 + [reply("Paris")])
    text, slept = ask(loopback, once)
    assert text == "Paris" and slept == [1.0] * 30


def test_a_429_on_every_call_stops_the_run_in_the_end(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MAX_LIMITED_SECONDS", 0.5)
    monkeypatch.setattr(learning, "SLOWEST_PER_SECOND", 20.0)
    loopback.script([reply("fine")])
    loopback.behave = lambda _: error(429, "rate_limit_exceeded", "slow down")

    async def work(retrying: Retrying, clock: Clock) -> list[Any]:
        await retrying.complete(request("first"))
        return await many(10)(retrying, clock)

    results = ask(loopback, work, cap=16, learns=True)
    assert all(isinstance(each, TeacherUnavailable) and "429 slow down" in str(each) for each in results)
    assert loopback.seen < 60  # all of them slow down, though none of them really slept


def test_a_teacher_that_never_answers_is_unavailable(loopback: Loopback) -> None:
    loopback.behave = lambda _: error(500, "", "down")
    with pytest.raises(TeacherUnavailable, match="500 down"):
        ask(loopback, once)
    assert loopback.seen == retries.MAX_ATTEMPTS_UNPROVEN


def test_a_row_fails_when_all_attempts_are_used(loopback: Loopback) -> None:
    loopback.script([reply("first")])
    loopback.behave = lambda _: error(500, "", "down")

    async def work(retrying: Retrying, clock: Clock) -> None:
        await retrying.complete(request("one"))
        await retrying.complete(request("two"))

    with pytest.raises(RowFailed, match="after 6 attempts") as caught:
        ask(loopback, work)
    failed = caught.value
    assert (failed.cause, failed.lasting, failed.attempts) == ("http_500", False, 6)
    assert failed.last_reply == error(500, "", "down").body.decode()


def test_a_retry_goes_before_fresh_requests(loopback: Loopback) -> None:
    loopback.script([reply("first"), Say(500, b"{}", {"Retry-After": "0"}, wait=0.05)])

    async def work(retrying: Retrying, clock: Clock) -> None:
        await retrying.complete(request("first"))
        await asyncio.gather(*(retrying.complete(request(name)) for name in "abcde"))

    ask(loopback, work, cap=1)
    assert loopback.asked[1] == "a" and "a" in loopback.asked[2:4] and sorted(loopback.asked[1:]) == list("aabcde")


def test_no_more_in_flight_than_the_cap_and_the_first_goes_alone(loopback: Loopback) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=0.05)
    order: list[int] = []

    async def work(retrying: Retrying, clock: Clock) -> None:
        first = asyncio.create_task(retrying.complete(request("first")))
        others = [asyncio.create_task(retrying.complete(request(str(n)))) for n in range(30)]
        await first
        order.append(loopback.seen)
        await asyncio.gather(*others)

    ask(loopback, work)
    assert order == [1] and loopback.seen == 31 and 2 <= loopback.peak <= 8


def test_a_run_retries_a_share_of_its_requests_only(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "RETRIES_AT_LEAST", 3)
    monkeypatch.setattr(retries, "RETRIES_A_REQUEST", 0.125)
    fails = {f"bad {n}" for n in range(10)}
    loopback.behave = lambda body: error(500, "", "down") if loopback.asked[-1] in fails else answer(body)

    async def work(retrying: Retrying, clock: Clock) -> list[Any]:
        for n in range(90):
            await retrying.complete(request(f"good {n}"))
        return [(await asyncio.gather(retrying.complete(request(bad)), return_exceptions=True))[0] for bad in fails]

    failed = ask(loopback, work)
    assert loopback.seen == 100 + 3 + 12  # each request once, and the retries of the budget
    assert all(isinstance(each, RowFailed) and each.cause == "http_500" for each in failed)
    assert "(after 6 attempts)" in failed[0].detail and failed[0].attempts == 6
    assert "(after 1 attempts; the retries of this run are used up)" in failed[-1].detail and failed[-1].attempts == 1


@given(st.lists(st.booleans(), max_size=400))
def test_retries_never_exceed_their_share(events: list[bool]) -> None:
    budget, fresh, granted = Patience(Breaker()), 0, 0
    for is_fresh in events:
        if is_fresh:
            budget.earn()
            fresh += 1
        else:
            granted += budget.spend()
        assert granted <= retries.RETRIES_AT_LEAST + retries.RETRIES_A_REQUEST * fresh + 1e-6


# The breaker


def test_the_breaker_opens_when_most_fails_and_probes_ever_more_rarely() -> None:
    it = Breaker()
    for _ in range(breaker.LEAST_SAMPLE - 1):
        it.failed(0.0, 0.0)
        assert not it.is_open
    for _ in range(100):
        if not it.is_open:
            it.failed(0.0, 0.0)
    assert it.is_open and it.wait(0.0) == breaker.FIRST_PAUSE_SECONDS
    now, pauses = 0.0, []
    with pytest.raises(TeacherUnavailable, match="nothing but failures for 10 minutes"):
        for _ in range(40):
            pauses.append(it.wait(now))
            now += pauses[-1]
            it.grant()
            assert it.wait(now) == float("inf")  # one at a time
            it.failed(now, now)
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, 60] and set(pauses[7:]) == {60}
    assert breaker.GIVE_UP_SECONDS <= now <= breaker.GIVE_UP_SECONDS + breaker.LONGEST_PAUSE_SECONDS


def test_one_success_closes_the_breaker_and_clears_its_memory() -> None:
    it = Breaker()
    for _ in range(60):
        it.failed(0.0, 0.0)
    it.grant()
    it.succeeded()
    assert not it.is_open and it.wait(0.0) == 0
    for _ in range(breaker.LEAST_SAMPLE - 1):
        it.failed(1.0, 1.0)
    assert not it.is_open


def test_few_failures_among_many_answers_open_nothing() -> None:
    it = Breaker()
    for n in range(1000):
        it.failed(0.0, 0.0) if n % 3 == 0 else it.succeeded()
        assert not it.is_open


def test_a_probe_that_is_given_up_makes_room_for_another() -> None:
    it = Breaker()
    for _ in range(60):
        it.failed(0.0, 0.0)
    it.grant()
    it.abandoned(1.0)
    assert it.wait(2.0) <= 0


def test_failures_of_what_was_sent_before_are_not_the_probes() -> None:
    """What was under way when the breaker opened comes back late: the probe is still out, and nothing joins it."""
    it = Breaker()
    for _ in range(60):
        it.failed(0.0, 0.0)
    it.grant()
    it.failed(1.1, 0.0)
    it.abandoned(0.0)
    assert it.wait(100.0) == float("inf")
    it.failed(1.2, 1.0)
    assert it.wait(1.2) == 2 * breaker.FIRST_PAUSE_SECONDS


def test_an_outage_costs_no_row(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything fails for a while: one probe at a time is sent, and all rows are answered in the end."""
    for name, seconds in (("FIRST_PAUSE_SECONDS", 0.02), ("LONGEST_PAUSE_SECONDS", 0.04), ("GIVE_UP_SECONDS", 60)):
        monkeypatch.setattr(breaker, name, seconds)
    rows, down_for = 200, 40
    outage = {"seen": 0}

    def behave(body: dict[str, Any]) -> Say:
        if loopback.seen >= 10 and outage["seen"] < rows + down_for:
            outage["seen"] += 1
            return Say(503, b"{}", wait=0.01)
        return answer(body)

    loopback.behave = behave

    async def work(retrying: Retrying, clock: Clock) -> list[Any]:
        await retrying.complete(request("first"))
        results = await many(rows)(retrying, clock)
        assert not retrying._patience.breaker.is_open
        return results

    results = ask(loopback, work, cap=rows)
    failed = [str(each) for each in results if isinstance(each, BaseException)]
    assert not failed, failed[:2]
    assert [each.completion.text for each in results] == [words(str(n)) for n in range(rows)]


def test_an_outage_that_does_not_end_stops_the_run(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("FIRST_PAUSE_SECONDS", 0.02), ("LONGEST_PAUSE_SECONDS", 0.1), ("GIVE_UP_SECONDS", 0.6)):
        monkeypatch.setattr(breaker, name, seconds)
    loopback.script([reply("fine")])
    loopback.behave = lambda _: Say(500, b"{}", wait=0.002)

    async def work(retrying: Retrying, clock: Clock) -> list[Any]:
        await retrying.complete(request("first"))
        rows = [asyncio.create_task(retrying.complete(request(str(n)))) for n in range(30)]
        done, rest = await asyncio.wait(rows, return_when=asyncio.FIRST_EXCEPTION)
        seen = loopback.seen
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        return [task.exception() for task in done], seen

    errors, seen = ask(loopback, work, cap=30)
    assert [type(each) for each in errors] == [TeacherUnavailable] and "nothing but failures" in str(errors[0])
    assert seen <= 1 + 2 * 30 + 20  # the burst, and the probes


# Whole builds


def test_a_build_with_a_wrong_key_makes_one_call(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda _: error(401, "invalid_api_key", "no such key")
    demo.edit("sampling =", 'api_key_env = "DEMO_KEY"\nsampling =')
    done = demo.run("build", DEMO_KEY="sk-canary-0123456789")
    assert done.returncode == 4 and loopback.seen == 1
    assert "DG402" in done.stderr and "no such key" in done.stderr and "canary" not in done.stderr


def test_a_build_that_is_limited_for_long_says_until_when(demo: Project, loopback: Loopback) -> None:
    loopback.script([reply("One answer of more than five words.")])
    loopback.behave = lambda _: error(429, "rate_limit_exceeded", "daily limit", retry_after=3600)
    done = demo.run("build")
    assert done.returncode == 7 and "DG404" in done.stderr and "in 60 minutes" in done.stderr, done.stderr
    assert loopback.seen <= 1 + 20
    loopback.behave = answer
    demo.build()
    assert demo.manifest()["rows"] == 20


ODD = {
    "surrogate": Say(body=reply("PLACE a lone surrogate is in here somewhere").body.replace(b"PLACE", rb"\ud800")),
    "no-usage": reply("An answer without any usage, as some servers send it.", usage=None),
    "odd-usage": reply("A usage of strings is no usage at all, is it?", usage={"prompt_tokens": "7"}),
    "negative": reply("A usage below zero is no usage either, is it?", usage={"prompt_tokens": -7}),
    "other-model": reply("Another model answers than the one that was asked.", model="other-model-1"),
    "separators": reply("Line\u2028separators and nul\x00bytes\x1b[2J are in here."),
    "cut": reply("This one ran into its length limit, so it is", finish="length"),
    "filtered": reply("", finish="content_filter"),
    "too-long": error(400, "context_length_exceeded", "too long"),
    "page": HTML,
}


def test_each_odd_reply_concerns_its_own_row(demo: Project, loopback: Loopback) -> None:
    """Each row ends where it belongs, with what the server said; all the others are published."""
    demo.seeds([{"question": name} for name in (*ODD, "plain")])
    demo.edit("sampling =", "prices = { input = 1, output = 2 }\nsampling =")

    def behave(body: dict[str, Any]) -> Say:
        said = ODD.get(body["messages"][-1]["content"], answer(body))
        return said.stating(retry_after=0)

    loopback.behave = behave
    done = demo.run("build")
    assert done.returncode == 3, done.stderr  # the page may be an answer next time
    rows = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in demo.rows()}
    assert rows.keys() == {"plain", "surrogate", "no-usage", "odd-usage", "negative", "other-model", "separators"}
    assert rows["surrogate"].startswith("\ufffd a lone surrogate")
    rejected = {row["columns"]["question"]: row["rule"] for row in demo.sidecar("rejected")}
    assert rejected == {"cut": "not_truncated", "filtered": "not_empty"}
    failed = {row["columns"]["question"]: row for row in demo.sidecar("failed")}
    assert {name: (row["cause"], row["attempts"]) for name, row in failed.items()} == {
        "too-long": ("refused_400", 1), "page": ("malformed", 6)
    }  # fmt: skip
    assert failed["too-long"]["last_reply"] == ODD["too-long"].body.decode()
    assert failed["page"]["last_reply"] == "<html>Bad gateway</html>"
    steps = [row["steps"][0] for row in demo.sidecar("provenance")]
    assert sorted(step["model"] for step in steps) == ["other-model-1", *["scripted"] * 6]
    status = json.loads(demo.run("status", "--json").stdout)
    assert status["spent"]["unknown_calls"] == 6 and status["stored_answers"] == 9


# What is kept of it


def request_of(body: dict[str, Any]) -> Request:
    return Request(b"k" * 32, body)


def test_estimates_learn_from_usage() -> None:
    estimate, body = TokenEstimate(), {"messages": [{"role": "user", "content": "x" * 4000}], "max_tokens": 900}
    assert estimate.expect(request_of(body)).completion == 900
    for _ in range(60):
        estimate.learn(request_of(body), TokenUsage(prompt=500, completion=50))
    expected = estimate.expect(request_of(body))
    assert 490 <= expected.prompt <= 520 and 50 <= expected.completion <= 60


def test_faults_have_no_key_in_their_words(loopback: Loopback) -> None:
    assert "secret" not in repr(Endpoint("http://x", "secret")) and str(Fault("status", "no", status=500)) == "500 no"
    key = "sk-canary-0123456789"
    loopback.behave = lambda _: error(400, "", f"what is {key}?")
    found = fault_of(loopback, key=key)
    assert found.words == "what is [key]?" and key.encode() not in found.body
