"""Measures the teacher engine against a fast loopback teacher: cold and warm builds, faults, many in flight.

The floor is a bare asyncio loop that sends the same bytes over as many connections, measured in the same run. The
server stays on one core and the client on the other. Start-up is measured apart, by a build that has one row.
Prints a Markdown table; figures with date and machine are in bench/README.md.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RECIPE = """
name = "bench"
[seeds]
path = "seeds.jsonl"
[teachers.main]
base_url = "http://127.0.0.1:{port}/v1"
model = "scripted"
answers_as = "bench"
limits = {{ max_in_flight = {in_flight} }}
[[steps]]
use = "generate"
prompt = "answer"
[[steps]]
use = "filter"
rules = ["not_empty", "not_truncated"]
[[steps]]
use = "deduplicate"
on = "answer"
[student]
prompt = "{{{{ question }}}}"
completion = "{{{{ answer }}}}"
"""


@contextlib.contextmanager
def teacher(*arguments: str) -> Iterator[int]:
    """Run the scripted teacher on core 1 for the time of a block; yields its port."""
    core = ("--core", "1") if (os.cpu_count() or 1) > 1 else ()
    command = [sys.executable, str(Path(__file__).parent / "server.py"), *core, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def stats(port: int) -> dict[str, Any]:
    """Return what the teacher saw."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats") as response:
        told: dict[str, Any] = json.loads(response.read())
        return told


class Bare(asyncio.Protocol):
    """One connection of the floor: sends the next body as soon as a reply is whole."""

    def __init__(self, bodies: Iterator[bytes], done: asyncio.Event, left: list[int]) -> None:
        self.bodies, self.done, self.left = bodies, done, left
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first."""
        self.transport: Any = transport
        self.next()

    def next(self) -> None:
        """Send the next body, if any is left."""
        if (body := next(self.bodies, None)) is not None:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            self.transport.write(head + body)

    def data_received(self, data: bytes) -> None:
        """Take a reply in."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end >= 0 and len(self.buffer) >= end + 4 + int(self.buffer[:end].rsplit(b" ", 1)[1]):
            self.buffer = b""
            self.left[0] -= 1
            if not self.left[0]:
                self.done.set()
            self.next()


async def floor(port: int, bodies: list[bytes], in_flight: int) -> float:
    """Return the seconds that a bare loop needs for the same requests."""
    loop = asyncio.get_running_loop()
    done, left, waiting = asyncio.Event(), [len(bodies)], iter(bodies)
    started = time.perf_counter()
    await asyncio.gather(
        *(
            loop.create_connection(lambda: Bare(waiting, done, left), "127.0.0.1", port)
            for _ in range(min(in_flight, len(bodies)))
        )
    )
    await done.wait()
    return time.perf_counter() - started


def bodies(folder: Path, rows: int) -> list[bytes]:
    """Return the very bodies that a build of this folder sends."""
    import orjson

    from distillgen.preparation import prepare
    from distillgen.teacher.identity import RequestMaker, identify

    prepared = prepare(folder, will_ask=False)
    settings = prepared.recipe.teachers["main"]
    maker = RequestMaker(identify("main", settings, folder), settings)
    prompt = prepared.prompts[0]
    asked = (maker.make(prompt.render({"question": f"Question {n}?"}), schema=None)[0] for n in range(rows))
    return [orjson.dumps(request.body) for request in asked]


def build(folder: Path, *more: str) -> tuple[float, float, float]:
    """Run one build; return its wall seconds, CPU seconds and peak memory in MB, start-up included."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "distillgen", "build", str(folder), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"the build failed:\n{said.decode()}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def project(folder: Path, port: int, rows: int, in_flight: int) -> Path:
    """Write a recipe and its seeds."""
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE.format(port=port, in_flight=in_flight))
    lines = (json.dumps({"question": f"Question {number}?"}) for number in range(rows))
    (folder / "seeds.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def begin() -> None:
    """Keep this process and the builds that it starts on core 0, open as many files as may be, and name the machine."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    print(machine())


def machine() -> str:
    """Return the day and the machine of a measurement."""
    cores = f"{platform.machine()}, {os.cpu_count()} cores"
    return f"{datetime.now(tz=UTC).date()}, {cores}, Python {platform.python_version()}"


def best_and_median(values: list[float], digits: int = 2) -> str:
    """Return `best / median`."""
    return f"{min(values):.{digits}f} / {statistics.median(values):.{digits}f}"


def asking(options: argparse.Namespace, rows: int, in_flight: int) -> None:
    """Measure the floor, a cold and a warm build, several times, and print them."""
    floors, colds, cpus, warms, starts, start_cpus, memory = [], [], [], [], [], [], 0.0
    for _ in range(options.runs):
        with teacher("--latency", str(options.latency)) as port, tempfile.TemporaryDirectory() as name:
            one = project(Path(name) / "one", port, 1, in_flight)
            wall, cpu, _ = build(one)
            starts.append(wall - options.latency)
            start_cpus.append(cpu)
            folder = project(Path(name) / "many", port, rows, in_flight)
            floors.append(asyncio.run(floor(port, bodies(folder, rows), in_flight)))
            wall, cpu, peak = build(folder)
            memory = max(memory, peak)
            colds.append(wall - starts[-1])
            cpus.append((cpu - start_cpus[-1]) / rows * 1000)
            warms.append(build(folder)[0])
    ratios = [cold / bare for cold, bare in zip(colds, floors, strict=True)]
    print(f"\n{rows:,} calls, {options.latency:g} s, {in_flight:,} in flight; best / median of {options.runs} runs\n")
    print("| | |\n|---|---|")
    print(f"| floor: bare asyncio loop, s | {best_and_median(floors)} |")
    print(f"| cold build, start-up taken off, s | {best_and_median(colds)} |")
    print(f"| the same, x floor of the same run | {best_and_median(ratios)} |")
    print(f"| client CPU, ms a call, everything included | {best_and_median(cpus)} |")
    print(f"| start-up (a build of one row less its latency), s | {best_and_median(starts)} |")
    print(f"| warm build, whole process, no call, s | {best_and_median(warms)} |")
    print(f"| peak memory of the client, MB | {memory:.0f} |")


def faults(options: argparse.Namespace, rows: int) -> None:
    """Compare builds at 5 % faults with builds without, in turns; the content must be the same, row for row."""
    walls: dict[float, list[float]] = {0.0: [], 0.05: []}
    digests, published, outcomes = set(), set(), {}
    for _ in range(options.runs):
        for share, its_walls in walls.items():
            with (
                teacher("--latency", str(options.latency), "--faults", str(share)) as port,
                tempfile.TemporaryDirectory() as name,
            ):
                folder = project(Path(name) / "many", port, rows, options.in_flight)
                its_walls.append(build(folder)[0])
                manifest = json.loads((folder / "datasets/bench/v0001/manifest.json").read_text())
                outcomes = stats(port)["outcomes"]
            digests.add(manifest["digest"])
            published.add(manifest["rows"])
    ratios = [slow / fast for slow, fast in zip(walls[0.05], walls[0.0], strict=True)]
    print(f"\n{rows:,} calls, {options.in_flight} in flight, 5 % mixed faults: {outcomes}\n\n| | |\n|---|---|")
    print(f"| without faults, s | {best_and_median(walls[0.0])} |")
    print(f"| with faults, s | {best_and_median(walls[0.05])} |")
    print(f"| the same, x without | {best_and_median(ratios)} |")
    print(f"| rows published by each build | {', '.join(f'{count:,}' for count in sorted(published))} |")
    print(f"| same content in all builds | {'yes' if len(digests) == 1 else 'NO'} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["asking", "many", "faults"], nargs="*", default=["asking", "many", "faults"])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, default=512)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    begin()
    if "asking" in options.what:
        asking(options, options.rows, options.in_flight)
    if "many" in options.what:
        asking(options, 4 * options.rows, 2000)
    if "faults" in options.what:
        faults(options, options.rows)
        faults(options, 4 * options.rows)


if __name__ == "__main__":
    main()
