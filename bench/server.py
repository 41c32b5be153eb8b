"""A fast scripted teacher for measurements: bare asyncio on loopback, with latency, faults and limits on request.

It costs about 40 us a request, so that the client is what is measured. GET /stats tells what it saw, and GET /each
how often each question was asked and answered.
"""

import argparse
import asyncio
import hashlib
import json
import os
import time
from collections import Counter, deque
from typing import Any

FAULTS = ("500", "503", "reset", "truncated", "malformed", "empty choices", "slow")
SLOW_SECONDS = 3.0
REPLY = (
    '{"id":"x","object":"chat.completion","model":"scripted","choices":[{"index":0,"finish_reason":"stop",'
    '"message":{"role":"assistant","content":"%s"}}],"usage":{"prompt_tokens":50,"completion_tokens":100,"total_tokens":150}}'
)


class Bucket:
    """A token bucket: `burst` requests at once, refilled at `rate` a second."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.level, self.at = burst, time.monotonic()

    def takes(self) -> bool:
        """Whether one more request is allowed now."""
        now = time.monotonic()
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Window:
    """Counts strictly: no window of a minute, wherever it begins, holds more than `most` requests."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken: deque[float] = deque()

    def takes(self) -> bool:
        """Whether one more request is allowed now."""
        now = time.monotonic()
        while self.taken and self.taken[0] + 60 <= now:
            self.taken.popleft()
        if len(self.taken) >= self.most:
            return False
        self.taken.append(now)
        return True


class Stats:
    """What the server saw: requests by outcome, in each second since the first, and how often each question came.

    A question is paid for when it was answered, whether or not the client was still there to take the answer.
    """

    def __init__(self) -> None:
        self.started: float | None = None
        self.outcomes: Counter[str] = Counter()
        self.accepted: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.in_flight = self.peak = 0

    def second(self) -> int:
        """Return which second this is, counted from the first request."""
        now = time.monotonic()
        if self.started is None:
            self.started = now
        return int(now - self.started)

    def each(self) -> bytes:
        """Return how often each question was asked and paid for, as JSON: question -> [asked, paid]."""
        return json.dumps({question: [count, self.paid[question]] for question, count in self.asked.items()}).encode()

    def told(self) -> bytes:
        """Return the figures as JSON."""
        return json.dumps(
            {
                "outcomes": self.outcomes,
                "accepted": self.accepted,
                "refused": self.refused,
                "in_flight": self.in_flight,
                "peak": self.peak,
                "paid": self.paid.total(),
                "paid_again": sum(count - 1 for count in self.paid.values()),
                "distinct": len(self.paid),
            }
        ).encode()


class Connection(asyncio.Protocol):
    """One keep-alive connection; parses just enough of HTTP for the clients that are measured."""

    def __init__(self, options: argparse.Namespace, stats: Stats, limit: Bucket | Window | None) -> None:
        self.options, self.stats, self.limit = options, stats, limit
        self.buffer = b""
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Take bytes in; serve every whole request."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + size:
                return
            body = self.buffer[end + 4 : end + 4 + size]
            self.buffer = self.buffer[end + 4 + size :]
            if head.startswith(b"get"):
                self.send(200, self.stats.each() if head.startswith(b"get /each") else self.stats.told())
            else:
                self.complete(body)

    def complete(self, body: bytes) -> None:
        """Answer one completion after the latency, or misbehave."""
        stats = self.stats
        second = stats.second()
        if self.limit is not None and not self.limit.takes():
            stats.outcomes["429"] += 1
            stats.refused[second] += 1
            self.send(429, b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}')
            return
        stats.accepted[second] += 1
        stats.in_flight += 1
        stats.peak = max(stats.peak, stats.in_flight)
        question = json.loads(body)["messages"][-1]["content"]
        stats.asked[question] += 1
        fault = self.fault(question)
        wait = SLOW_SECONDS if fault == "slow" else self.options.latency
        self.loop.call_later(wait, self.answer, question, fault)

    def fault(self, question: str) -> str:
        """Return which fault this attempt meets; drawn from question and attempt: every run meets the same."""
        if not self.options.faults:
            return ""
        drawn = hashlib.blake2b(f"{question}\0{self.stats.asked[question]}".encode(), digest_size=8).digest()
        number, point = int.from_bytes(drawn[:4], "big"), int.from_bytes(drawn[4:], "big") / 2**32
        return FAULTS[number % len(FAULTS)] if point < self.options.faults else ""

    def answer(self, question: str, fault: str) -> None:
        """Send the reply, whole or broken."""
        stats = self.stats
        stats.in_flight -= 1
        stats.outcomes[fault or "answered"] += 1
        reply = (REPLY % f"{question} {'answer with several words ' * 16}").encode()
        if fault == "reset":
            self.transport.abort()
        elif fault == "truncated":
            self.transport.write(head(200, len(reply)) + reply[: len(reply) // 2])
            self.transport.close()
        elif fault in ("500", "503"):
            self.send(int(fault), b'{"error":{"message":"broken"}}')
        elif fault == "malformed":
            self.send(200, reply[:-20])
        elif fault == "empty choices":
            self.send(200, b'{"choices":[]}')
        else:
            stats.paid[question] += 1
            self.send(200, reply)

    def send(self, status: int, body: bytes) -> None:
        """Write one response."""
        if not self.transport.is_closing():
            self.transport.write(head(status, len(body)) + body)


def head(status: int, size: int) -> bytes:
    """Return the head of a response."""
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, size)


async def serve(options: argparse.Namespace) -> None:
    """Serve until killed; the port is the one line on standard output."""
    stats = Stats()
    limit: Bucket | Window | None = None
    if options.rate:
        limit = Bucket(options.rate, options.burst or options.rate)
    elif options.a_minute:
        limit = Window(options.a_minute)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(options, stats, limit), "127.0.0.1", 0, backlog=8192)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that meet a fault")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second that are allowed; 0 = any")
    parser.add_argument("--burst", type=float, default=0.0, help="how many at once; default: those of one second")
    parser.add_argument("--a-minute", type=int, default=0, help="instead: requests allowed in every window of 60 s")
    parser.add_argument("--core", type=int, help="the core to stay on")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    asyncio.run(serve(options))


if __name__ == "__main__":
    main()
