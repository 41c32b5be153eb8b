"""Measures a build of many rows against a loopback teacher: cold (every answer asked) and warm (every answer stored).

The floor is a bare aiohttp loop that sends the same bodies to the same server in the same run. The server runs in a
process of its own. Prints a Markdown table; figures with date and machine are in bench/README.md.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

RECIPE = """
name = "bench"
[seeds]
path = "seeds.jsonl"
[teachers.main]
base_url = "http://127.0.0.1:{port}/v1"
model = "scripted"
limits = {{ max_in_flight = {in_flight} }}
[[steps]]
use = "generate"
prompt = "answer"
[[steps]]
use = "filter"
rules = ["not_empty", "not_truncated", "not_refusal", {{ rule = "length", min_words = 5 }}]
[[steps]]
use = "deduplicate"
on = "answer"
[student]
prompt = "{{{{ question }}}}"
completion = "{{{{ answer }}}}"
"""


def serve(port: "multiprocessing.Queue[int]", latency: float) -> None:
    """Answer every request after `latency` seconds with a completion of about 500 bytes."""
    from aiohttp import web

    async def complete(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        await asyncio.sleep(latency)
        text = f"{body['messages'][-1]['content']} " + "answer with several words " * 16
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 50, "completion_tokens": 100, "total_tokens": 150}
        return web.json_response({"model": "scripted", "choices": [choice], "usage": usage})

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        port.put(site._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]
        await asyncio.Event().wait()

    asyncio.run(main())


async def floor(port: int, rows: int, in_flight: int) -> float:
    """Return the seconds that a bare loop needs for the same requests."""
    room = asyncio.Semaphore(in_flight)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:

        async def one(number: int) -> None:
            messages = [{"role": "system", "content": "x" * 140}, {"role": "user", "content": f"Question {number}?"}]
            async with (
                room,
                session.post(
                    f"http://127.0.0.1:{port}/v1/chat/completions",
                    data=json.dumps({"model": "m", "messages": messages}),
                ) as response,
            ):
                await response.read()

        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(rows)))
        return time.perf_counter() - started


def build(folder: Path) -> tuple[float, float]:
    """Run one build; return its wall seconds and its CPU seconds, start-up included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "distillgen", "build", str(folder)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, default=512)
    parser.add_argument("--latency", type=float, default=0.2)
    options = parser.parse_args()
    port_queue: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(port_queue, options.latency), daemon=True)
    server.start()
    port = port_queue.get()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.toml").write_text(RECIPE.format(port=port, in_flight=options.in_flight))
        lines = (json.dumps({"question": f"Question {number}?"}) for number in range(options.rows))
        (folder / "seeds.jsonl").write_text("\n".join(lines) + "\n")
        bare = asyncio.run(floor(port, options.rows, options.in_flight))
        cold_wall, cold_cpu = build(folder)
        warm_wall, warm_cpu = build(folder)
    server.terminate()
    day = datetime.now(tz=UTC).date()
    print(f"{day}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{options.rows:,} rows, {options.latency:g} s, {options.in_flight} in flight\n")
    print("| | wall s | x floor | CPU s | CPU ms a row |\n|---|---|---|---|---|")
    print(f"| floor: bare aiohttp loop, no start-up | {bare:.2f} | 1.0 | | |")
    for what, wall, cpu in (("build, cold", cold_wall, cold_cpu), ("build, warm (no call)", warm_wall, warm_cpu)):
        figures = f"{wall:.2f} | {wall / bare:.2f} | {cpu:.2f} | {cpu / options.rows * 1000:.2f}"
        print(f"| {what}, start-up included | {figures} |")


if __name__ == "__main__":
    main()
