"""Batch mode against a loopback server of the protocol: what is asked, stored, paid once, refused, and waited for."""

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer, Line, Plan, result
from conftest import clean_environment
from loopback import Body, Say, answer, error, reply
from openai import AsyncOpenAI

from distillgen.errors import (
    CredentialsRefused,
    Damaged,
    DiskFull,
    DistillgenError,
    QuotaSpent,
    RequestsRefused,
    RowFailed,
    TeacherUnavailable,
)
from distillgen.teacher.answers import request_key
from distillgen.teacher.asking import Request
from distillgen.teacher.batch import Batched, Batches, Pending
from distillgen.teacher.batch_records import OPENAI_LIMITS, BatchLimits
from distillgen.teacher.chat import open_client
from distillgen.teacher.replies import read_reply

CANARY = "sk-canary-0123456789abcdef"
FIVE = [f"What is number {n}?" for n in range(5)]


def request(text: str) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return Request(request_key(body, endpoint="test"), body)


@dataclass
class Run:
    """What one build in batch mode came to: what each row was told (or `stored`), and what is under way."""

    told: dict[str, str]
    pending: list[Pending]
    notes: list[str]
    failed: dict[str, RowFailed]


class Builds:
    """Builds in batch mode, one after another, over the same folder and the same store."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.stored: dict[bytes, bytes] = {}
        self.puts = 0
        self.later = 0.0
        self.error_of_put: Exception | None = None

    async def put(self, key: bytes, raw: bytes) -> None:
        if self.error_of_put and self.puts >= 2:
            raise self.error_of_put
        self.puts += 1
        self.stored.setdefault(key, raw)

    def run(self, texts: list[str], *, limits: BatchLimits = OPENAI_LIMITS, model: str = "m", retries: int = 0) -> Run:
        """Collect, ask for what is not stored, submit."""
        return asyncio.run(self._run(texts, limits, model, retries))

    async def _run(self, texts: list[str], limits: BatchLimits, model: str, retries: int) -> Run:
        async with open_client(self.url, 4) as http:
            client = AsyncOpenAI(base_url=self.url, api_key=CANARY, http_client=http, max_retries=retries, timeout=10.0)  # type: ignore[arg-type]
            batches = Batches(
                self.folder, client, teacher="teacher 'main'", endpoint="test", model=model, limits=limits,
                now=lambda: time.time() + self.later,
            )  # fmt: skip
            await batches.collect(self.put)
            layer, told, failed = Batched(batches), {}, {}
            for each in map(request, texts):
                text = each.body["messages"][0]["content"]
                told[text] = "stored"
                if each.key not in self.stored:
                    with pytest.raises(RowFailed) as caught:
                        await layer.complete(each)
                    told[text], failed[text] = caught.value.cause, caught.value
                    assert batches.is_pending(each.key) == (told[text] == "in_batch")
            await batches.submit()
            return Run(told, batches.pending, batches.notes, failed)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_bytes()) for path in sorted(self.folder.glob("*.json"))]

    def files(self, suffix: str) -> list[Path]:
        return sorted(self.folder.glob(f"*{suffix}"))


@pytest.fixture
def server() -> Iterator[BatchServer]:
    server = BatchServer()
    yield server
    server.close()


@pytest.fixture
def builds(tmp_path: Path, server: BatchServer) -> Builds:
    return Builds(tmp_path / "batches", server.url)


def all_are(cause: str, texts: list[str] = FIVE) -> dict[str, str]:
    return dict.fromkeys(texts, cause)


def asked(server: BatchServer) -> Counter[str]:
    return Counter(body["messages"][0]["content"] for body in server.asked)


def test_a_batch_goes_out_is_waited_for_and_comes_back(builds: Builds, server: BatchServer) -> None:
    server.plan(Plan(polls=1))
    first = builds.run(FIVE)
    assert first.told == all_are("queued")
    (under_way,) = first.pending
    assert (under_way.status, under_way.requests, under_way.completed, under_way.reason) == ("validating", 5, 0, "")
    assert under_way.id in server.batches and time.time() - (under_way.submitted_at or 0) < 60

    second = builds.run(FIVE)
    assert second.told == all_are("in_batch") and second.pending[0].status == "in_progress"

    third = builds.run(FIVE)
    assert third.told == all_are("stored") and third.pending == [] and third.notes == []
    for each in map(request, FIVE):
        assert read_reply(builds.stored[each.key]).text == read_reply(answer(dict(each.body)).body).text
    assert asked(server) == Counter(FIVE) and server.count("POST /batches") == 1
    (record,) = builds.records()
    assert record["counts"] == {"stored": 5, "refused": 0, "faulty": 0, "ignored": 0} and record["is_over"]
    assert builds.files(".keys") == [] and builds.files(".jsonl") == []
    assert set(server.keys) == {f"Bearer {CANARY}"}


def test_what_is_sent_is_what_the_protocol_wants(builds: Builds, server: BatchServer) -> None:
    builds.run(FIVE)
    ((name, content),) = server.files.values()
    (known,) = server.batches.values()
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["body"] for line in lines] == [request(text).body for text in FIVE]
    assert {(line["method"], line["url"], len(line["custom_id"])) for line in lines} == {
        ("POST", "/v1/chat/completions", 64)
    }
    digest = hashlib.sha256(content).hexdigest()
    assert known.shown["metadata"] == {"distillgen_digest": digest} and name == f"distillgen-{digest}.jsonl"


def test_the_same_question_is_sent_once(builds: Builds, server: BatchServer) -> None:
    builds.run([*FIVE, *FIVE])
    assert asked(server) == Counter(FIVE)


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        pytest.param(BatchLimits(requests=2), [2, 2, 1], id="by-requests"),
        pytest.param(BatchLimits(bytes=500), [2, 2, 1], id="by-bytes"),
        pytest.param(BatchLimits(requests=5), [5], id="just-fits"),
    ],
)
def test_files_keep_the_limits(builds: Builds, server: BatchServer, limits: BatchLimits, sizes: list[int]) -> None:
    run = builds.run(FIVE, limits=limits)
    assert [pending.requests for pending in run.pending] == sizes and asked(server) == Counter(FIVE)
    assert all(len(content) <= limits.bytes for _, content in server.files.values())
    assert builds.run(FIVE, limits=limits).told == all_are("stored")


def test_a_request_that_fits_no_file_fails_its_row(builds: Builds) -> None:
    run = builds.run(["x" * 500, "short"], limits=BatchLimits(bytes=400))
    assert run.told == {"x" * 500: "oversize", "short": "queued"} and run.failed["x" * 500].lasting


def child(code: str, folder: Path, server: BatchServer) -> "subprocess.Popen[str]":
    """Start a process of its own that builds."""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), server.url],
        cwd=Path(__file__).parent, env=clean_environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


KILLED = """
import sys
from pathlib import Path
from test_batch import FIVE, Builds
Builds(Path(sys.argv[1]), sys.argv[2]).run(FIVE)
"""


@pytest.mark.parametrize(
    ("place", "after", "then"),
    [
        pytest.param("POST /files", 0, "queued", id="before-the-upload"),
        pytest.param("uploaded", 0, "queued", id="before-noting-the-file"),
        pytest.param("POST /batches", 0, "in_batch", id="before-the-submit-a-moment-ago"),
        pytest.param("POST /batches", 120, "queued", id="before-the-submit"),
        pytest.param("created", 0, "stored", id="between-submit-and-noting-the-id"),
        pytest.param("created", 120, "stored", id="between-submit-and-noting-the-id-long-ago"),
    ],
)
def test_killed_on_the_way_out_pays_nothing_twice(
    builds: Builds, server: BatchServer, place: str, after: float, then: str
) -> None:
    server.hold_at = place
    with child(KILLED, builds.folder, server) as process:
        assert server.is_held.wait(30)
        process.kill()
    server.hold_at = ""
    assert [record["status"] for record in builds.records()] == ["submitting"]

    builds.later = after
    run = builds.run(FIVE)
    assert run.told == all_are(then)
    assert [pending.status for pending in run.pending] == {
        "queued": ["validating"], "in_batch": ["submitting"], "stored": [],
    }[then]  # fmt: skip
    builds.later = 120
    while builds.run(FIVE).told != all_are("stored"):
        pass
    assert asked(server) == Counter(FIVE)
    assert len(server.files) == 1, "a file that no batch uses is deleted"
    assert builds.files(".jsonl") == [] and builds.files(".keys") == []


def test_a_lost_reply_to_the_submit_is_found_again(builds: Builds, server: BatchServer) -> None:
    server.drops_after_create = 1
    run = builds.run(FIVE, retries=2)
    assert [pending.id for pending in run.pending] == list(server.batches) and len(server.batches) == 1
    assert builds.run(FIVE).told == all_are("stored") and asked(server) == Counter(FIVE)


def test_an_earlier_batch_of_the_same_digest_is_not_taken_for_the_lost_one(builds: Builds, server: BatchServer) -> None:
    server.plan(Plan(ends="expired", share=0.0))
    builds.run(FIVE)
    server.fault("POST /batches", [error(503)])
    with pytest.raises(TeacherUnavailable):
        builds.run(FIVE)
    run = builds.run(FIVE)
    assert run.told == all_are("in_batch") and [pending.id for pending in run.pending] == [""]
    builds.later = 120
    assert builds.run(FIVE).told == all_are("queued") and builds.run(FIVE).told == all_are("stored")
    assert asked(server) == Counter(FIVE * 2)


@pytest.mark.parametrize("ends", ["expired", "cancelled"])
def test_only_the_remainder_is_asked_again(builds: Builds, server: BatchServer, ends: str) -> None:
    texts = [f"Number {n}?" for n in range(10)]
    server.plan(Plan(ends=ends, share=0.5))
    builds.run(texts)
    run = builds.run(texts)
    assert Counter(run.told.values()) == {"stored": 5, "queued": 5} and run.pending[0].requests == 5
    assert any(f"has {ends}: 5 of its requests were not run" in note for note in run.notes)
    assert builds.run(texts).told == all_are("stored", texts)
    again = {text for text, count in asked(server).items() if count == 2}
    assert again == {text for text, told in run.told.items() if told == "queued"}


@pytest.mark.parametrize(
    "says",
    [
        pytest.param(error(500, "server_error", "down"), id="500"),
        pytest.param(error(429, "rate_limit_exceeded", "slow"), id="429"),
        pytest.param(Say(body=b"<html>"), id="html"),
        pytest.param(Say(body=b'{"error": {"message": "overloaded"}}'), id="error-in-200"),
        pytest.param(Say(body=b'{"choices": []}'), id="no-choices"),
        pytest.param(Say(body=b"null"), id="null"),
        pytest.param(reply(None, finish="tool_calls"), id="no-content"),
    ],
)
def test_failed_lines_are_asked_again_and_nothing_of_them_is_stored(
    builds: Builds, server: BatchServer, says: Say
) -> None:
    server.behave = lambda body: says if "number 3?" in body["messages"][0]["content"] else answer(body)
    builds.run(FIVE)
    run = builds.run(FIVE)
    assert run.told == {**all_are("stored"), "What is number 3?": "queued"} and run.notes == []
    assert [pending.requests for pending in run.pending] == [1]
    server.behave = answer
    assert builds.run(FIVE).told == all_are("stored")
    assert asked(server) == Counter([*FIVE, "What is number 3?"])


def test_a_row_that_three_batches_bring_nothing_for_fails_until_a_later_build(
    builds: Builds, server: BatchServer
) -> None:
    server.behave = lambda body: error(500, "", "boom")
    told = [builds.run(["Hi?"]).told["Hi?"] for _ in range(3)]
    last = builds.run(["Hi?"])
    assert told == ["queued"] * 3 and last.told == {"Hi?": "http_500"} and last.pending == []
    failed = last.failed["Hi?"]
    assert (failed.detail, failed.lasting, failed.attempts) == ("500 boom (in 3 batches)", False, 3)
    server.behave = answer
    assert builds.run(["Hi?"]).told == {"Hi?": "queued"} and builds.run(["Hi?"]).told == {"Hi?": "stored"}


@pytest.mark.parametrize(
    ("says", "cause"),
    [
        (error(400, "context_length_exceeded", "too long"), "refused_400"),
        (error(413, "", "too long"), "refused_413"),
        (error(422, "", "too long"), "refused_422"),
        (error(403, "content_policy_violation", "too long"), "moderation"),
    ],
)
def test_a_refused_line_fails_its_row_for_good(builds: Builds, server: BatchServer, says: Say, cause: str) -> None:
    server.behave = lambda body: says if "number 3?" in body["messages"][0]["content"] else answer(body)
    builds.run(FIVE)
    for _ in range(2):
        run = builds.run(FIVE)
        assert run.told == {**all_are("stored"), "What is number 3?": cause} and run.pending == []
        assert run.failed["What is number 3?"].lasting and "too long" in run.failed["What is number 3?"].detail
    assert asked(server) == Counter(FIVE)


def test_a_batch_that_is_refused_whole_stops_the_run_and_can_be_tried_again(
    builds: Builds, server: BatchServer
) -> None:
    texts = [f"Number {n}?" for n in range(20)]
    server.behave = lambda body: error(400, "unsupported_parameter", "unknown parameter: foo")
    builds.run(texts)
    with pytest.raises(RequestsRefused, match="refused all 20 requests of a batch: .*unknown parameter: foo"):
        builds.run(texts)
    server.behave = answer
    assert builds.run(texts).told == all_are("queued", texts) and builds.run(texts).told == all_are("stored", texts)


def test_a_line_that_says_that_money_is_used_up_stops_the_run_after_collecting(
    builds: Builds, server: BatchServer
) -> None:
    spent = error(429, "insufficient_quota", "used up")
    server.behave = lambda body: spent if "number 3?" in body["messages"][0]["content"] else answer(body)
    builds.run(FIVE)
    with pytest.raises(QuotaSpent, match="used up"):
        builds.run(FIVE)
    assert len(builds.stored) == 4
    server.behave = answer
    assert builds.run(FIVE).told == {**all_are("stored"), "What is number 3?": "queued"}


def test_foreign_and_double_lines_are_ignored_and_counted(builds: Builds, server: BatchServer) -> None:
    other = json.loads(answer({"messages": [{"content": "Other?"}]}).body)

    def mangle(lines: list[Line]) -> list[Line]:
        foreign = [result("ff" * 32, 200, other), result("not hex", 200, other), b'{"custom_id": 7}', b"torn {", b"[1]"]
        double = [(kept, result(json.loads(line)["custom_id"], 200, other)) for kept, line in lines]
        return [*lines, *double, *((True, line) for line in foreign), (True, b"")]

    server.plan(Plan(mangle=mangle))
    builds.run(FIVE)
    run = builds.run(FIVE)
    assert run.told == all_are("stored") and builds.records()[0]["counts"]["ignored"] == 10 and len(builds.stored) == 5
    assert "10 lines are of no request in it, or came twice" in run.notes[0]
    assert not any("Other" in read_reply(raw).text for raw in builds.stored.values())


def test_answers_that_are_counted_but_not_there_are_told(builds: Builds, server: BatchServer) -> None:
    server.behave = lambda body: answer(body)
    server.plan(Plan(mangle=lambda lines: [*lines[:3], *((True, result("00" * 32)) for _ in lines[3:])]))
    builds.run(FIVE)
    run = builds.run(FIVE)
    assert Counter(run.told.values()) == {"stored": 3, "queued": 2}
    assert any("2 answers that were counted are not in its files" in note for note in run.notes)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(rb'{"content": "a\ud800b"}', "a\ufffdb", id="lone-surrogate"),
        pytest.param('{"content": "a\u2028b\x85c"}'.encode(), "a\u2028b\x85c", id="line-separators"),
    ],
)
def test_odd_characters_arrive_whole(builds: Builds, server: BatchServer, body: bytes, text: str) -> None:
    line = b'{"custom_id": "%s", "response": {"status_code": 200, "body": {"choices": [{"message": %s}]}}}'
    key = request("Hi?").key
    server.plan(Plan(mangle=lambda _: [(True, line % (key.hex().encode(), body))]))
    builds.run(["Hi?"])
    assert builds.run(["Hi?"]).told == {"Hi?": "stored"}
    assert read_reply(builds.stored[key]).text == text


def test_a_body_that_comes_as_a_string_is_taken(builds: Builds, server: BatchServer) -> None:
    key = request("Hi?").key
    server.plan(Plan(mangle=lambda _: [(True, result(key.hex(), 200, reply("Paris").body.decode()))]))
    builds.run(["Hi?"])
    builds.run(["Hi?"])
    assert builds.stored[key] == reply("Paris").body


MEASURED = """
import resource, sys
from pathlib import Path
from test_batch import FIVE, Builds

def peak():  # bytes; on Linux the other figure would begin with the parent's
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

async def put(key, raw):
    sizes.append(len(raw))

builds, sizes = Builds(Path(sys.argv[1]), sys.argv[2]), []
builds.put = put
builds.run(FIVE, model="warm-up")
before = peak()
builds.run([])
print(len(sizes), sum(sizes), peak() - before)
"""


def test_huge_results_are_streamed(builds: Builds, server: BatchServer) -> None:
    """20,000 answers of 4 kB: memory holds the keys and a group of answers, never the file of 80 MB."""
    server.behave = lambda body: reply("word " * 800)
    builds.run([f"Number {n}?" for n in range(20_000)])
    done = child(MEASURED, builds.folder, server)
    out, _ = done.communicate(timeout=100)
    answers, size, grown = map(int, out.split())
    assert answers == 20_000 and size > 80e6 and grown < 50e6, f"{grown / 1e6:.1f} MB"


def test_a_cut_off_file_of_results_is_read_again(builds: Builds, server: BatchServer) -> None:
    builds.run(FIVE)
    server.files_are_cut = True
    with pytest.raises(TeacherUnavailable, match="does not answer"):
        builds.run(FIVE)
    server.files_are_cut = False
    assert builds.run(FIVE).told == all_are("stored") and asked(server) == Counter(FIVE)


def test_a_store_that_fails_while_collecting_loses_nothing(builds: Builds, server: BatchServer) -> None:
    builds.run(FIVE)
    builds.error_of_put = DiskFull("no room")
    with pytest.raises(DiskFull):
        builds.run(FIVE)
    assert len(builds.stored) == 2
    builds.error_of_put = None
    assert builds.run(FIVE).told == all_are("stored") and asked(server) == Counter(FIVE)


def test_a_batch_that_the_provider_lost_is_asked_again(builds: Builds, server: BatchServer) -> None:
    builds.run(FIVE)
    server.batches.clear()
    run = builds.run(FIVE)
    assert run.told == all_are("queued") and "does not know batch" in run.notes[0] and len(run.pending) == 1


def test_results_that_the_provider_deleted_are_asked_again(builds: Builds, server: BatchServer) -> None:
    builds.run(FIVE)
    server.fault("GET /files/{id}/content", [error(404, "", "No such File object")])
    run = builds.run(FIVE)
    assert run.told == all_are("queued") and "No such File object" in run.notes[0]


def test_a_file_that_is_turned_down_stops_the_run_with_the_words(builds: Builds, server: BatchServer) -> None:
    server.plan(Plan(ends="failed", errors=({"code": "invalid_json_line", "line": 3, "message": "not JSON"},)))
    builds.run(FIVE)
    with pytest.raises(RequestsRefused, match="refused a batch: line 3: not JSON"):
        builds.run(FIVE)
    assert builds.run(FIVE).told == all_are("queued")


def test_a_spent_account_is_told_from_a_bad_file(builds: Builds, server: BatchServer) -> None:
    server.plan(Plan(ends="failed", errors=({"code": "billing_hard_limit_reached", "message": "limit reached"},)))
    builds.run(FIVE)
    with pytest.raises(QuotaSpent, match="limit reached"):
        builds.run(FIVE)


FULL = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}


def test_what_the_full_queue_of_the_provider_turns_down_waits(builds: Builds, server: BatchServer) -> None:
    server.plan(Plan(polls=1), Plan(ends="failed", errors=(FULL,)))
    builds.run(FIVE, limits=BatchLimits(requests=3))
    run = builds.run(FIVE, limits=BatchLimits(requests=3))
    assert Counter(run.told.values()) == {"in_batch": 3, "queued": 2} and server.count("POST /batches") == 2
    under_way, waiting = run.pending
    assert (under_way.status, under_way.requests) == ("in_progress", 3)
    assert waiting == Pending("", "queued", 2, 0, None, "Enqueued token limit reached")
    run = builds.run(FIVE)
    assert Counter(run.told.values()) == {"stored": 3, "queued": 2} and run.pending[0].status == "validating"
    assert builds.run(FIVE).told == all_are("stored") and asked(server) == Counter(FIVE)


def test_a_batch_that_alone_is_too_much_is_sent_in_smaller_ones(builds: Builds, server: BatchServer) -> None:
    server.plan(Plan(ends="failed", errors=(FULL,)))
    builds.run(FIVE)
    run = builds.run(FIVE)
    assert [pending.requests for pending in run.pending] == [2, 2, 1] and "smaller ones are sent" in run.notes[0]
    assert builds.run(FIVE).told == all_are("stored") and asked(server) == Counter(FIVE)


def test_being_limited_while_submitting_holds_the_rest_back(builds: Builds, server: BatchServer) -> None:
    server.fault("POST /batches", [error(429, "rate_limit_exceeded", "2,000 batches an hour")])
    run = builds.run(FIVE, limits=BatchLimits(requests=3))
    assert run.pending == [Pending("", "queued", 5, 0, None, "2,000 batches an hour")] and server.files == {}
    assert builds.records() == [] and builds.files(".jsonl") == []
    assert builds.run(FIVE).told == all_are("queued") and asked(server) == Counter(FIVE)


PAGE = Say(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})
STOPS = [
    pytest.param(error(401, "invalid_api_key", f"bad key {CANARY}"), CredentialsRefused, "bad key [key]", id="401"),
    pytest.param(error(402, "", "pay"), QuotaSpent, "pay", id="402"),
    pytest.param(error(429, "insufficient_quota", "used up"), QuotaSpent, "used up", id="quota"),
    pytest.param(error(404, "", "no route"), RequestsRefused, "has no batch API at this address", id="404"),
    pytest.param(error(400, "", "bad purpose"), RequestsRefused, "bad purpose", id="400"),
    pytest.param(error(503, "", "down"), TeacherUnavailable, "503 down", id="503"),
    pytest.param(Say(302, b"", {"Location": "http://127.0.0.1:9/"}), TeacherUnavailable, "base_url", id="redirect"),
    pytest.param(Say(reset=True), TeacherUnavailable, "does not answer", id="reset"),
    pytest.param(PAGE, TeacherUnavailable, "no object of the batch API", id="web-page"),
    pytest.param(Say(body=b"{"), TeacherUnavailable, "does not answer", id="half-json"),
    pytest.param(Say(body=b"{}"), TeacherUnavailable, "no object of the batch API", id="empty-json"),
]


@pytest.mark.parametrize("route", ["POST /files", "POST /batches"])
@pytest.mark.parametrize(("says", "kind", "words"), STOPS)
def test_errors_of_submitting_are_ours_and_leave_a_way_on(
    builds: Builds, server: BatchServer, says: Say, kind: type[DistillgenError], words: str, route: str
) -> None:
    server.fault(route, [says])
    with pytest.raises(kind) as caught:
        builds.run(FIVE)
    assert words in str(caught.value) and CANARY not in str(caught.value) and server.batches == {}
    builds.later = 120
    assert builds.run(FIVE).told == all_are("queued") and builds.run(FIVE).told == all_are("stored")
    assert asked(server) == Counter(FIVE)


@pytest.mark.parametrize(("says", "kind", "words"), [each for each in STOPS if each.id != "404"])
def test_errors_of_collecting_are_ours_and_lose_nothing(
    builds: Builds, server: BatchServer, says: Say, kind: type[DistillgenError], words: str
) -> None:
    builds.run(FIVE)
    server.fault("GET /batches/{id}", [says] * (1 + says.reset))  # a GET that is reset goes out once more
    with pytest.raises(kind) as caught:
        builds.run(FIVE)
    assert words in str(caught.value) and CANARY not in str(caught.value)
    assert builds.run(FIVE).told == all_are("stored") and asked(server) == Counter(FIVE)


def test_a_list_that_cannot_be_read_leaves_the_question_open(builds: Builds, server: BatchServer) -> None:
    server.drops_after_create = 1
    server.fault("GET /batches", [PAGE, error(500, "", "down")])
    for words in ("does not answer", "500 down"):
        with pytest.raises(TeacherUnavailable, match=words):
            builds.run(FIVE)
    assert builds.run(FIVE).told == all_are("stored") and asked(server) == Counter(FIVE)


def test_an_unreachable_provider_is_told_plainly(tmp_path: Path) -> None:
    with pytest.raises(TeacherUnavailable, match="Cannot connect to host 127.0.0.1:9") as caught:
        Builds(tmp_path, "http://127.0.0.1:9/v1").run(FIVE)
    assert "run the same command again later" in str(caught.value) and list(tmp_path.iterdir()) == []


def test_batches_of_another_model_are_left_alone(builds: Builds, server: BatchServer) -> None:
    builds.run(FIVE)
    run = builds.run(FIVE, model="other")
    assert run.told == all_are("queued") and len(run.pending) == 1 and builds.stored == {}
    assert builds.run(FIVE).told == all_are("stored")


def test_a_damaged_note_is_not_guessed_at(builds: Builds) -> None:
    builds.run(FIVE)
    (keys,), (record,) = builds.files(".keys"), builds.files(".json")
    for path, content in ((keys, keys.read_bytes()[:-1]), (record, b'{"number": 1')):
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(Damaged, match="the note of a batch cannot be read") as caught:
            builds.run(FIVE)
        assert path.name in str(caught.value)
        path.write_bytes(whole)
    assert builds.run(FIVE).told == all_are("stored")


def test_the_key_is_in_nothing_that_is_kept(builds: Builds, server: BatchServer) -> None:
    def echo(body: Body) -> Say:
        text = body["messages"][0]["content"]
        return error(400, "", f"odd key {CANARY}") if "number 3?" in text else reply(f"You sent {CANARY}.")

    server.behave = echo
    builds.run(FIVE)
    run = builds.run(FIVE)
    assert "odd key [key]" in run.failed["What is number 3?"].detail
    kept = b"".join([*builds.stored.values(), *(path.read_bytes() for path in builds.folder.iterdir())])
    assert b"You sent [key]" in kept and CANARY.encode() not in kept
