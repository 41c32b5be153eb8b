"""The live display in a pseudo-terminal, read off the screen that a person would see; and where there is no terminal."""

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pyte
import pytest
from conftest import Project, clean_environment
from loopback import Loopback, Say, answer, error, reply
from rich.cells import cell_len as cells

from distillgen.report import progress
from distillgen.report.progress import Progress, line, picture, step_lines
from distillgen.report.screen import Screen, restore_terminal
from distillgen.report.signs import ASCII, Signs, dollars
from distillgen.report.watch import Figures, Speed, Watch
from distillgen.rows import Failure, Rejection, Row
from distillgen.settings import LimitSettings
from distillgen.tally import StepCount, Tally
from distillgen.teacher.asking import Fault
from distillgen.teacher.limits import Pool
from distillgen.teacher.replies import NOTHING

SEEDS = 120
BRISK, SLOW = 0.08, 0.25  # seconds of an answer


class Terminal:
    """A pseudo-terminal of a size, with a program in it and somebody who looks at the screen."""

    def __init__(self, columns: int, rows: int = 50) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._master, self._slave = pty.openpty()
        self._lock = threading.Lock()
        self.raw = b""
        self.frames: list[list[str]] = []
        self._size(columns, rows)

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int) -> None:
        """Resize it as today's terminals do: lines that are too long go on below, the cursor stays with its line."""
        with self._lock:
            lines, at = [text.rstrip() for text in self.screen.display], self.screen.cursor.y
            last = max((place for place, text in enumerate(lines) if text), default=0)
            parts = [[text[n : n + columns] for n in range(0, len(text), columns)] or [""] for text in lines]
            self.screen = pyte.Screen(columns, self.screen.lines)
            self._stream = pyte.ByteStream(self.screen)
            wrapped = [part for several in parts[: max(last, at) + 1] for part in several]
            above = max(len(wrapped) - self.screen.lines, 0)
            self._stream.feed("\r\n".join(wrapped).encode())
            self.screen.cursor_position(sum(len(several) for several in parts[:at]) - above + 1, 1)
            self._size(columns, self.screen.lines)

    def start(
        self,
        project: Project,
        *arguments: str,
        stdin: Any = subprocess.DEVNULL,
        stdout: Any = None,
        program: Sequence[str] = (sys.executable, "-m", "distillgen"),
        **environment: str,
    ) -> "subprocess.Popen[bytes]":
        """Run the command line with the terminal as its controlling one; standard output too goes there by default."""
        env = {"TERM": "xterm", **clean_environment(), **environment}
        if environment.get("COLUMNS") is None:
            del env["COLUMNS"]
        if "FORCE_COLOR" in environment:
            del env["NO_COLOR"]
        self.process = subprocess.Popen(
            [*program, *arguments], cwd=project.folder, env=env, stdin=stdin,
            stdout=self._slave if stdout is None else stdout, stderr=self._slave,
            preexec_fn=self._own,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self.process

    def _own(self) -> None:
        os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65_536):
                with self._lock:
                    self.raw += data
                    self._stream.feed(data)
                    if self.screen.columns >= 1:
                        self.frames.append([text.rstrip() for text in self.screen.display])

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    @property
    def text(self) -> str:
        with self._lock:
            return "\n".join(text.rstrip() for text in self.screen.display).strip("\n")

    def wait(self, is_there: Callable[[str], Any], seconds: float = 40) -> str:
        """Wait until the screen shows something."""
        end = time.monotonic() + seconds
        while not is_there(text := self.text):
            if self.process.poll() is not None:
                end = min(end, time.monotonic() + 1)  # what it wrote last may be unread yet
            assert time.monotonic() < end, text
            time.sleep(0.02)
        return text

    def end(self, seconds: float = 60) -> int:
        """Wait for the program, and read all that it wrote."""
        status = self.process.wait(seconds)
        time.sleep(0.1)
        return status

    def close(self) -> None:
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)
        if hasattr(self, "_reader"):
            self._reader.join(5)
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def make(columns: int, rows: int = 50) -> Terminal:
        opened.append(Terminal(columns, rows))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def slow(demo: Project, loopback: Loopback) -> Project:
    """A build of some seconds: four in flight, priced, some rows rejected, some requests refused and asked again."""
    demo.edit("sampling =", "limits = { max_in_flight = 4 }\nprices = { input = 1000, output = 2000 }\nsampling =")
    demo.seeds([{"question": f"What is number {n}?"} for n in range(SEEDS)])
    met: Counter[str] = Counter()

    def behave(body: dict[str, Any]) -> Say:
        asked = body["messages"][-1]["content"]
        met[asked] += 1
        number = int(re.findall(r"\d+", asked)[-1])
        if number % 10 == 3 and met[asked] == 1:
            return error(503, "busy", "\x1b]0;owned\x07 too \x1b[2J much", retry_after=0.05)
        said = reply("no") if number % 7 == 5 else answer(body)
        return Say(said.status, said.body, wait=BRISK)

    loopback.behave = behave
    return demo


def slower(loopback: Loopback) -> None:
    """Let answers take longer, so that there is time to look."""
    behave = loopback.behave
    loopback.behave = lambda body: replace(behave(body), wait=SLOW)


def live(text: str) -> list[str]:
    """Return the lines of the live display on a screen: it is the lowest, and begins with the time it took so far."""
    lines = text.splitlines()
    first = [place for place, each in enumerate(lines) if "so far" in each]
    assert len(first) < 2, text
    return lines[first[0] :] if first else []


@pytest.mark.parametrize("columns", [80, 120])
def test_the_display_shows_every_figure_whole(
    terminal: Callable[..., Terminal], slow: Project, loopback: Loopback, columns: int
) -> None:
    slower(loopback)
    seen = terminal(columns)
    seen.start(slow, "build", LANG="C.UTF-8")
    text = seen.wait(lambda text: "left out" in text and "in all" in text and " left · " in text and "errors" in text)
    assert re.search(r"█+░+  \d+% · about \d+ s left · \d+ s so far", text), text
    assert re.search(rf"^rows \d+ · seeds \d+ of {SEEDS} · rejected \d+ · failed 0$", text, re.M), text
    assert re.search(r"^calls \d+ · [1-4] in flight · [\d.,]+ calls/s( of [\d.,]+ \([a-z ]+\))?$", text, re.M), text
    assert re.search(r"^tokens [\d,]+ in · [\d,]+ out · [\d,]+ out/s$", text, re.M), text
    assert re.search(r"^cost \$\d+\.\d{4} · about \$\d+\.\d{4} in all$", text, re.M), text
    assert re.search(r"^errors \d+: http_503 \d+$", text, re.M), text
    assert re.search(r"^last error http_503: .*too \\x1b\[2J much$", text, re.M), text
    assert re.search(r"^2\.filter left out \d+: length \d+$", text, re.M), text
    assert seen.end() == 0, seen.text
    assert b"owned\x07" not in seen.raw and "…" not in text
    end = seen.text
    assert not live(end) and "░" not in end  # the live lines are gone
    assert re.search(r"^step +rows in +rows out +left out$", end, re.M), end
    assert re.search(rf"^1\.generate +{SEEDS} +{SEEDS}$", end, re.M), end
    assert re.search(rf"calls {SEEDS} · tokens [\d,]+ in, [\d,]+ out · cost \$[\d.]+ · \d+ s", end), end
    assert "next: distillgen show demo" in end


def test_a_terminal_of_20_columns_neither_wraps_nor_crashes(terminal: Callable[..., Terminal], slow: Project) -> None:
    seen = terminal(20)
    seen.start(slow, "build")
    text = seen.wait(lambda text: "rows " in text and "in flight" in text and "out/s" in text)
    assert len(live(text)) > 9 and all(len(each) <= 19 for each in live(text)), text
    assert seen.end() == 0, seen.text
    assert b"Traceback" not in seen.raw


def test_a_resized_terminal_is_left_clean(terminal: Callable[..., Terminal], slow: Project, loopback: Loopback) -> None:
    slower(loopback)
    seen = terminal(120)
    seen.start(slow, "build")
    for columns in (60, 100, 40, 80):
        seen.wait(lambda text: "in flight" in text)
        seen.resize(columns)
        seen.process.send_signal(signal.SIGWINCH)
        time.sleep(0.6)
        text = seen.text
        assert text.count("in flight") == 1 and text.count("so far") == 1, text
        assert live(text) and all(len(each) < columns for each in live(text)), text
    assert seen.end() == 0, seen.text
    assert "so far" not in seen.text and "in flight" not in seen.text


def test_ctrl_c_once_says_what_it_does_above_the_display(
    terminal: Callable[..., Terminal], slow: Project, loopback: Loopback
) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=1.5)
    seen = terminal(80)
    seen.start(slow, "build")
    seen.wait(lambda text: loopback.seen >= 5 and "in flight" in text)
    seen.press(b"\x03")
    text = seen.wait(lambda text: "stopping" in text and "so far" in text.split("stopping")[1])
    message, below = text.split("stopping: ")[1].split("\n", 1)
    assert message == "what is under way is received and stored; once more to leave at once"
    assert below.count("in flight") == 1, text
    assert seen.end() == 130
    text = seen.text
    assert "stopping: what is under way" in text and "goes on from here" in text and "in flight" not in text, text
    sent = loopback.seen
    loopback.behave = answer
    slow.build()
    assert sent < SEEDS == loopback.seen  # what was under way at the first Ctrl-C was received and kept


def test_ctrl_c_twice_leaves_the_terminal_as_it_was(
    terminal: Callable[..., Terminal], slow: Project, loopback: Loopback
) -> None:
    loopback.behave = lambda body: Say(200, answer(body).body, wait=8)
    seen = terminal(80)
    before = termios.tcgetattr(seen._slave)
    seen.start(slow, "build")
    seen.wait(lambda text: loopback.seen and "in flight" in text)
    seen.press(b"\x03")
    seen.wait(lambda text: "stopping" in text)
    started = time.monotonic()
    seen.press(b"\x03")
    assert seen.end() == 130 and time.monotonic() - started < 5
    assert b"?25l" not in seen.raw  # the cursor was never hidden
    assert "in flight" not in seen.text  # the live lines are gone
    assert not seen.screen.cursor.hidden and pyte.modes.DECAWM in seen.screen.mode
    assert termios.tcgetattr(seen._slave) == before
    loopback.behave = answer
    slow.build()
    assert slow.manifest()["rows"] == SEEDS


def test_a_stopped_terminal_does_not_hold_up_the_run(
    terminal: Callable[..., Terminal], slow: Project, loopback: Loopback
) -> None:
    seen = terminal(80)
    seen.start(slow, "build")
    seen.wait(lambda text: "in flight" in text)
    seen.press(b"\x13")  # Ctrl-S
    end = time.monotonic() + 40
    while not (slow.version() / "manifest.json").exists():
        assert time.monotonic() < end, f"{loopback.seen} asked"
        time.sleep(0.05)
    assert seen.process.poll() is None  # it has something to say, and waits until it may
    seen.press(b"\x11")
    assert seen.end() == 0
    assert "published demo@1" in seen.text and "in flight" not in seen.text


@pytest.mark.parametrize(
    "environment",
    [{"TERM": "dumb"}, {"TERM": ""}, {"TERM": "dumb", "FORCE_COLOR": ""}],
    ids=["dumb", "no-term", "dumb-no-color"],
)
def test_a_dumb_terminal_gets_plain_lines(
    terminal: Callable[..., Terminal], demo: Project, environment: dict[str, str]
) -> None:
    seen = terminal(80)
    seen.start(demo, "build", **environment)
    assert seen.end() == 0
    assert b"\x1b[J" not in seen.raw and b"so far" not in seen.raw and b"published demo@1" in seen.raw
    if environment["TERM"]:
        assert b"\x1b" not in seen.raw


def test_a_terminal_that_does_not_say_its_size_gets_plain_lines(
    terminal: Callable[..., Terminal], demo: Project
) -> None:
    seen = terminal(80)
    fcntl.ioctl(seen._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    seen.start(demo, "build")
    assert seen.end() == 0
    assert b"\x1b[J" not in seen.raw and b"so far" not in seen.raw and b"published demo@1" in seen.raw


TRAINING = """
from distillgen.student.progress import shown
with shown() as show:
    for step in range(1, 94):
        show({"event": "step", "step": step, "of": 224, "loss": 0.25})
    input()
"""


@pytest.mark.parametrize("columns", [30, 40, 100])
def test_a_training_says_how_far_it_is_at_every_width(
    demo: Project, terminal: Callable[..., Terminal], columns: int
) -> None:
    seen = terminal(columns)
    seen.start(demo, program=[sys.executable, "-c", TRAINING], stdin=seen._slave)
    text = seen.wait(lambda text: "training: 93 of 224" in text and "loss 0.2500" in text)
    assert all(cells(line) < columns for line in text.splitlines())
    full, cells_in_all = text.count("█"), text.count("█") + text.count("░")
    assert full == round(cells_in_all * 93 / 224) and cells_in_all == min(40, columns - 1 - len("training: 93 of 224 "))
    seen.press(b"\n")
    assert seen.end() == 0


@pytest.mark.parametrize(
    "environment",
    [
        {"FORCE_COLOR": "1"}, {"FORCE_COLOR": "banana", "COLUMNS": "banana"}, {"FORCE_COLOR": ""}, {"NO_COLOR": ""},
        {"COLUMNS": "0"}, {"LANG": "C", "LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"},
    ],
    ids=str,
)  # fmt: skip
def test_where_there_is_no_terminal_nothing_is_drawn(demo: Project, environment: dict[str, str]) -> None:
    done = demo.run("build", TERM="xterm", **environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b[J" not in done.stderr and "\x1b[?" not in done.stderr and "so far" not in done.stderr
    assert "rows in" in done.stderr and "tokens 140 in, 220 out" in done.stderr
    if "FORCE_COLOR" not in environment:
        assert "\x1b" not in done.stderr
    if "PYTHONIOENCODING" in environment:
        assert "calls 20 | tokens 140 in" in done.stderr


@pytest.mark.parametrize(
    ("environment", "bar"),
    [
        ({"FORCE_COLOR": "banana", "COLUMNS": "banana"}, "█"), ({"NO_COLOR": "1", "COLUMNS": "0"}, "█"),
        ({"FORCE_COLOR": "", "LANG": "C"}, "#"), ({"PYTHONIOENCODING": "ascii", "LANG": "C"}, "#"),
    ],
    ids=str,
)  # fmt: skip
def test_broken_variables_do_not_break_the_display(
    terminal: Callable[..., Terminal], slow: Project, environment: dict[str, str], bar: str
) -> None:
    seen = terminal(80)
    seen.start(slow, "build", **environment)
    text = seen.wait(lambda text: f"{bar}{bar}" in text and "calls/s" in text)
    assert all(len(each) < 80 for each in live(text))
    assert seen.end() == 0 and b"Traceback" not in seen.raw


def test_ctrl_z_leaves_the_shell_a_clean_screen_and_fg_brings_the_lines_back(
    terminal: Callable[..., Terminal], slow: Project, loopback: Loopback
) -> None:
    slower(loopback)
    seen = terminal(80)
    script = f"exec 2>&1; {sys.executable} -m distillgen build; echo stopped; sleep 1; fg; echo ended"
    seen.start(slow, program=["bash", "-ic", script])
    seen.wait(lambda text: "in flight" in text)
    seen.press(b"\x1a")
    text = seen.wait(lambda text: re.search("^stopped$", text, re.M))
    assert not live(text) and "in flight" not in text, text
    assert live(seen.wait(lambda text: "in flight" in text))
    seen.wait(lambda text: re.search("^ended$", text, re.M))
    assert seen.end() == 0 and "published demo@1" in seen.text and not live(seen.text), seen.text


GENERATE = ("generate", "-p", "answer", "-m", "scripted", "--set", "teachers.main.limits.max_in_flight=4")


def test_generate_in_a_pipe_shows_the_display(
    terminal: Callable[..., Terminal], slow: Project, loopback: Loopback
) -> None:
    seen = terminal(80)
    with (slow.folder / "seeds.jsonl").open("rb") as seeds, (slow.folder / "out.jsonl").open("wb") as out:
        seen.start(slow, *GENERATE, "--base-url", loopback.url, stdin=seeds, stdout=out)
    text = seen.wait(lambda text: "calls/s" in text and "rows 1" in text)
    assert re.search(r"^rows \d+ · seeds \d+ · rejected 0 · failed 0$", text, re.M), text
    assert "%" not in text and "█" not in text and "left" not in text  # a pipe does not say how long it is
    assert seen.end() == 0, seen.text
    assert not live(seen.text)
    assert len((slow.folder / "out.jsonl").read_text().splitlines()) == SEEDS


def test_rows_on_the_terminal_are_not_drawn_over(
    terminal: Callable[..., Terminal], slow: Project, loopback: Loopback
) -> None:
    seen = terminal(80)
    with (slow.folder / "seeds.jsonl").open("rb") as seeds:
        seen.start(slow, *GENERATE, "--base-url", loopback.url, stdin=seeds)
    assert seen.end() == 0, seen.text
    assert b"\x1b" not in seen.raw
    rows = [orjson.loads(row) for row in seen.raw.splitlines() if row.startswith(b"{")]
    assert len(rows) == SEEDS and b"in flight" not in seen.raw


# What is reckoned and how it is written, without a run.


def figures(**more: Any) -> Figures:
    """Figures as large as they get."""
    huge: dict[str, Any] = {
        "rows": 12_345_678, "wanted": None, "seeds": 12_345_678, "total": 98_765_432, "rejected": 1_234_567,
        "failed": 123_456, "calls": 123_456_789, "in_flight": 10_000, "prompt_tokens": 123_456_789_012,
        "completion_tokens": 123_456_789_012, "completion_tokens_per_second": 1_234_567.0, "usd": 123_456.78901,
        "unpriced_calls": 12_345, "usd_in_all": 1_234_567.8901, "seconds": 360_000.0, "seconds_left": 3_600_000.0,
        "share": 0.99, "speeds": [Speed("main", 10_000, 12_345.6, 12_345.6, "starting", True, 1e6, 1e7, "stated")],
        "errors": {"http_429": 123_456, "timeout": 12_345, "network": 1_234, "connect": 12},
        "last_error": "http_500: " + "\u4f60\u597d " * 100,
    }  # fmt: skip
    return Figures(**{**huge, **more})


STEPS = {
    "2.filter": StepCount(rejected=Counter({f"a_rather_long_rule_{n}": 123_456 for n in range(9)})),
    "1.generate": StepCount(failed=Counter(timeout=3)),
}


def test_no_figure_is_cut_at_80_columns() -> None:
    unicode = Signs()
    wide = "\n".join(text for text, _ in picture(figures(), {}, columns=400, rows=50, signs=unicode))
    lines = [text for text, _ in picture(figures(), {}, columns=80, rows=50, signs=unicode)]
    for text in lines:
        assert cells(text) <= 79, text
    whole = lines[: next(place for place, text in enumerate(lines) if text.startswith("last error"))]
    every = [part.strip() for text in whole for part in text.split(" · ")]
    assert set(re.findall(r"[\d,.]*\d", wide.split("last error")[0])) == set(
        re.findall(r"[\d,.]*\d", "\n".join(every))
    ), every
    assert lines[len(whole)].endswith("\u2026")  # words may be cut, figures not


@pytest.mark.parametrize("columns", [1, 2, 5, 20, 79, 80, 81, 120, 500])
@pytest.mark.parametrize("rows", [1, 2, 5, 24])
def test_every_size_is_filled_and_no_more(columns: int, rows: int) -> None:
    for signs in (Signs(), ASCII):
        drawn = picture(figures(), STEPS, columns=columns, rows=rows, signs=signs)
        assert 1 <= len(drawn) <= max(rows - 1, 1)
        assert all(cells(text) <= max(columns - 1, 1) for text, _ in drawn), drawn


def test_reasons_that_do_not_fit_end_the_line_whole() -> None:
    drawn = [text for text, _ in picture(figures(), STEPS, columns=80, rows=50, signs=Signs())]
    assert drawn[-2:] == [
        "2.filter left out 1,111,104: a_rather_long_rule_0 123,456, \u2026",
        "1.generate left out 3: timeout 3",
    ]


def test_several_teachers_have_a_line_each() -> None:
    speeds = [Speed("fast", 3, 8.333, 16.6667, "set"), Speed("bad\x1b[2J", 1, 0.3333, None, "")]
    drawn = [text for text, _ in picture(figures(speeds=speeds), {}, columns=80, rows=50, signs=Signs())]
    assert "calls 123,456,789 · 10,000 in flight · 8.7 calls/s" in drawn
    assert "  fast: 3 in flight · 8.3 calls/s of 17 (set)" in drawn
    assert "  bad\\x1b[2J: 1 in flight · 0.33 calls/s" in drawn


def test_the_plain_line_has_the_same_figures() -> None:
    said = line(figures(), STEPS, Signs())
    for _, parts in progress.parts_of(figures(), Signs()):
        for part in parts:
            assert part in said
    assert "\n" not in said and "1.generate left out 3: timeout 3" in said and "99%" in said


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    caplog.set_level("INFO", "distillgen")
    tally = Tally(seeds=3)
    tally.step("1.filter", ())

    async def run() -> None:
        async with Progress(tally, 10).shown():
            while len(caplog.records) < 2:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert "rows 0 · seeds 1 of 10 · rejected 0 · failed 0 · calls 0" in caplog.records[0].message.replace("|", "·")
    assert vars(caplog.records[0])["event"] == "progress" and vars(caplog.records[0])["fields"]["seeds"] == 3


def row(number: int) -> Row:
    return Row(f"r{number}", f"s{number}", None, {})


def through(tally: Tally, name: str, number: int, *, left_out: bool = False) -> None:
    outcome = Rejection(row(number), name, "length", "too short") if left_out else row(number)
    tally.step(name, (outcome,))


def test_time_left_is_reckoned_from_what_was_settled_lately() -> None:
    tally = Tally(seeds=100, started=0.0)
    watch = Watch(tally, 100)
    assert watch.read(1.0).seconds_left is None  # nothing to reckon from
    for second in range(1, 41):  # one a second, then two
        for _ in range(1 if second <= 20 else 2):
            through(tally, "1.filter", second, left_out=second % 2 == 0)
        read = watch.read(1.0 + second)
        if second == 1:
            assert read.seconds_left is None
    assert read.seeds == 60 and read.share == 0.6 and read.rejected == 30
    assert read.seconds_left == pytest.approx(40 * 40 / 60)
    for second in range(41, 200):
        read = watch.read(1.0 + second)
    assert read.seconds_left is None  # all stands still: nobody knows


def test_stored_answers_do_not_make_it_hope() -> None:
    tally = Tally(seeds=1000, started=0.0)
    teacher = Asked()
    tally.teachers = {"main": teacher}  # type: ignore[dict-item]
    watch = Watch(tally, 1000)
    watch.read(0.0)
    for number in range(500):
        through(tally, "1.generate", number)
    watch.read(0.5)
    for second in range(1, 11):
        through(tally, "1.generate", second)
        teacher.calls, teacher.nanousd = second, second * 10**9
        read = watch.read(0.5 + second)
    assert read.seeds == 510 and read.usd == 10
    assert read.seconds_left == pytest.approx(490, rel=0.02) and read.usd_in_all == 10 + 490 * 1.0


def test_rows_wanted_and_seeds_known_are_counted() -> None:
    tally = Tally(seeds=60, known=50, wanted=20, started=0.0)
    watch = Watch(tally, 100)
    watch.read(0.0)
    for second in range(1, 11):
        through(tally, "1.filter", second)
        tally.published += 1
        read = watch.read(float(second))
    assert read.share == 0.5 and read.seconds_left == pytest.approx(10) and read.seeds == 60
    tally.wanted = None
    assert watch.read(10.0).share == 10 / 50


def test_rows_on_their_way_between_steps_are_not_there_yet() -> None:
    tally = Tally()
    tally.step("3.judge", (Rejection(row(0), "3.judge", "low", ""),))  # of an earlier version, before the first seed
    tally.seeds = 40
    for number in range(40):
        for sample in range(2):
            tally.step("1.generate", (row(number),), int(sample == 0))
    for number in range(20):
        through(tally, "3.judge", number)
    assert tally.seeds_passed == pytest.approx(40 * 21 / 80)


class Asked:
    """What a tally reads of a teacher."""

    def __init__(self) -> None:
        self.calls = self.nanousd = self.unpriced = 0
        self.usage = NOTHING
        self.pool = Pool(4, LimitSettings())
        self.identity = type("Named", (), {"name": "main"})()


def origins(pool: Pool) -> list[tuple[str, float, str]]:
    return [(limit.kind, limit.per_minute, limit.origin) for limit in pool.in_force]


def test_a_limit_says_where_it_is_from() -> None:
    now = [0.0]
    pool = Pool(4, LimitSettings(requests_per_minute=600, tokens_per_minute=9_000), clock=lambda: now[0])
    assert origins(pool) == [("requests", 600, "set"), ("tokens", 9_000, "set")]
    fault = Fault("status", "slow down", status=429, headers={"x-ratelimit-limit-requests": "60"})
    pool.refused(NOTHING, fault, 0.0)
    assert pool.faults == {"http_429": 1} and pool.last_fault == "http_429: slow down"
    stated = {kind: (per_minute, origin) for kind, per_minute, origin in origins(pool)}
    assert stated["tokens"] == (9_000, "set") and stated["requests"][1] in ("stated", "learned")
    fresh = Pool(4, LimitSettings(), clock=lambda: now[0])
    assert origins(fresh) == [("requests", 200 * 60, "starting")]
    now[0] = 1.0
    fresh.refused(NOTHING, Fault("status", "slow down", status=429), 0.5)
    assert [origin for _, _, origin in origins(fresh)] == ["learned"]
    assert origins(Pool(4, LimitSettings(), learns=False)) == []


def test_the_last_error_is_the_one_that_came_last() -> None:
    tally, teacher = Tally(seeds=9), Asked()
    tally.teachers = {"main": teacher}  # type: ignore[dict-item]
    watch = Watch(tally, 9)
    teacher.pool.refused(NOTHING, Fault("timeout", "said nothing"), 0.0)
    tally.step("1.generate", (Failure(row(1), "1.generate", "refused", "\x1b[2J no", True),))
    assert watch.read().errors == {"timeout": 1, "refused": 1}
    assert watch.read().last_error == "timeout: said nothing"
    tally.step("1.generate", (Failure(row(2), "1.generate", "refused", "\x1b[2J no", True),))
    read = watch.read()
    assert read.last_error == "refused: \x1b[2J no"
    assert "last error refused: \\x1b[2J no" in line(read, tally.steps, Signs())
    tally.step("1.generate", (Failure(row(3), "1.generate", "queued", "in a batch", False),))
    assert "queued" not in watch.read().errors


def test_the_summary_fits_80_columns() -> None:
    steps = {**STEPS, "a_name_that_is_much_too_long_for_any_table": StepCount(rows_in=12_345_678, out=9_876_543)}
    for columns in (80, 120):
        lines = list(step_lines(steps, columns))
        assert all(cells(text) <= columns for text in lines), lines
        assert sum(text.count("123,456") for text in lines) == 9
    assert "12,345,678 9,876,543" in lines[-1]
    assert all(len(each.split()) for each in step_lines(steps, 20))


def read_rest(descriptor: int) -> None:
    """Read what a terminal still has, until its other end is closed."""
    with contextlib.suppress(OSError):
        while os.read(descriptor, 65_536):
            pass


def test_the_terminal_is_restored_even_when_it_takes_nothing() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(slave, "w") as stream, Screen(stream) as screen:
        screen.draw([("a", ""), ("b", "")])
        assert os.read(master, 1000).count(b"\x1b[K") == 2
        stuck = threading.Thread(target=screen.write, args=("x" * 1_000_000,), daemon=True)
        stuck.start()
        time.sleep(0.1)
        restore_terminal()  # comes back all the same
        assert stuck.is_alive()
        while stuck.is_alive():
            os.read(master, 65_536)
        reading = threading.Thread(target=read_rest, args=(master,), daemon=True)
        reading.start()
    assert not isinstance(sys.stderr, Screen)


def test_what_is_on_the_screen_is_not_sent_again() -> None:
    written = io.StringIO()
    with Screen(written) as screen:
        screen.draw([("bar", ""), ("figures", "")])
        once = written.tell()
        screen.draw([("bar", ""), ("figures", "")])
        assert written.tell() == once
        screen.clear()
        screen.draw([("bar", ""), ("figures", "")])
        assert written.getvalue().count("figures") == 2


@pytest.mark.parametrize(
    ("usd", "told"),
    [
        (0, "$0.0000"), (0.00001, "$0.00001"), (0.0000123456, "$0.000012"), (1e-9, "$0.000000001"),
        (0.0123, "$0.0123"), (1.23456, "$1.2346"), (99.99, "$99.9900"), (12_345.678, "$12,345.68"),
    ],
)  # fmt: skip
def test_money_has_as_many_digits_as_matter(usd: float, told: str) -> None:
    assert dollars(usd) == told


def test_rows_that_wait_for_a_batch_have_not_failed() -> None:
    tally = Tally(seeds=3)
    for number, cause in enumerate(("in_batch", "in_batch", "timeout")):
        tally.step("1.generate", [Failure(row(number), "1.generate", cause, "words", False)])
    said = line(Watch(tally, 3).read(), tally.steps, Signs())
    assert " · failed 1 · waiting 2 · " in said and "1.generate left out 1: timeout 1" in said, said
    assert "waiting" not in line(Watch(Tally(seeds=3), 3).read(), {}, Signs())


def test_a_cost_that_is_not_known_is_said_once() -> None:
    said = line(figures(usd=0.0, unpriced_calls=7, calls=7, usd_in_all=None), {}, Signs())
    assert " · cost unknown · " in said


@pytest.mark.parametrize("columns", [20, 30, 40, 60])
def test_no_figure_is_cut_on_a_small_terminal(columns: int) -> None:
    drawn = picture(figures(errors={}, seconds_left=12_345.0), {}, columns=columns, rows=99, signs=Signs())
    text = " ".join(" ".join(each for each, _ in drawn).split())
    for figure in (
        "about 3 h 25 min left",
        "4 days so far",
        "seeds 12,345,678 of 98,765,432",
        "about $1,234,567.89 in all",
    ):
        assert figure in text, text
    assert "\u2026" not in text


def test_a_step_with_a_long_name_still_says_why() -> None:
    steps = {"2." + "long_" * 30: StepCount(rejected=Counter(length=31))}
    assert progress.reasons(steps, 79, Signs()) == ["2.long_long_long_long_l\u2026 left out 31: length 31"]


def test_what_others_write_goes_above_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = pyte.Screen(40, 10)
    stream = pyte.Stream(terminal)
    written = io.StringIO()
    with Screen(written) as screen:
        screen.draw([("bar", ""), ("figures", "")])
        print("first", file=sys.stderr)
        sys.stderr.write("half a ")
        screen.draw([("not now", "")])
        sys.stderr.write("line\n")
        screen.draw([("bar 2", ""), ("figures 2", "")])
        stream.feed(written.getvalue().replace("\n", "\r\n").replace("\r\r", "\r"))
        assert [text.rstrip() for text in terminal.display if text.strip()] == [
            "first", "half a line", "bar 2", "figures 2",
        ]  # fmt: skip
        written.truncate(0)
    stream.feed(written.getvalue())
    assert [text.rstrip() for text in terminal.display if text.strip()] == ["first", "half a line"]
