"""Tables, bars and figures at 120, 80 and 20 columns, in pipes, in ASCII: names whole, hostile texts harmless."""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import Project, clean_environment
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from test_mix import chat, synthetic

from distillgen.cli.main import app
from distillgen.dataset.figures import BARS, Figures, Lengths, bar, figures_of, histograms
from distillgen.dataset.manifest import Manifest
from distillgen.dataset.seal import sealed
from distillgen.dataset.versions import find_version
from distillgen.report.console import stdout
from distillgen.report.figures import figures_shown
from distillgen.report.signs import Signs
from distillgen.report.tables import NOTHING, Bar, Folded, Paper, conversation, table

HOSTILE = "\x1b[31mred\x1b[0m\u202e\n[bold]\ttext"
STEPS = [
    {"step": "1.generate", "in": 100, "born": 0, "out": 90, "rejected": {}, "failed": {"timeout": 10}},
    {"step": "2.filter", "in": 90, "born": 0, "out": 60, "rejected": {"length": 20, "repetition": 10}, "failed": {}},
]
RUN = {"calls": 100, "usd": 1.5, "tokens": {"prompt": 10, "completion": 20}, "finished": "2026-11-26T02:45:00Z"}


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal alone says how wide it is and what it takes."""
    for name in ("COLUMNS", "LC_ALL", "LC_CTYPE", "PYTHONIOENCODING", "PYTHONUTF8", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("TERM", "xterm")


def seen(columns: int, work: Callable[[], None], encoding: str = "utf-8") -> str:
    """Return what work prints on a terminal of so many columns, without styles."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    read: list[bytes] = []

    def reads() -> None:
        with contextlib.suppress(OSError):  # its other end is closed
            while piece := os.read(master, 65536):
                read.append(piece)

    reader = threading.Thread(target=reads)
    reader.start()
    opened = os.fdopen(slave, "w", encoding=encoding, errors="backslashreplace")  # as the program opens it
    with opened as terminal, contextlib.redirect_stdout(terminal):
        work()
    reader.join()
    os.close(master)
    return re.sub("\x1b\\[[0-9;]*m", "", b"".join(read).decode(encoding).replace("\r\n", "\n"))


def printed(columns: int, *parts: Any, encoding: str = "utf-8") -> str:
    def work() -> None:
        for part in parts:
            stdout().print(part)

    return seen(columns, work, encoding)


def piped(*parts: Any) -> str:
    """Return what is printed where there is no terminal."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as file:
        for part in parts:
            Console(file=file, soft_wrap=True).print(part)
    with os.fdopen(read) as file:
        return file.read()


def told(project: Project, columns: int, *arguments: str) -> str:
    """Return what a command prints on a terminal's standard output."""
    command = typer.main.get_command(app)
    return seen(
        columns, lambda: command.main([*arguments, "--project", str(project.folder)], standalone_mode=False)
    )  # fmt: skip


def published(datasets: Path, name: str, rows: list[Any], **facts: Any) -> None:
    """Publish rows, with these facts in the manifest."""
    path = synthetic(datasets, name, rows).folder / "manifest.json"
    path.chmod(0o644)
    table = json.loads(path.read_bytes()) | facts
    path.write_bytes(sealed(Manifest.model_validate(table).dump()))


@pytest.fixture
def two(project: Project) -> Project:
    """Two versions of one dataset, and another dataset."""
    datasets = project.folder / "datasets"
    rows = [(f"{n:016d}", "train" if n % 5 else "validation", chat("?", "answer " * n)) for n in range(1, 61)]
    published(datasets, "demo", rows, funnel=STEPS, run=RUN)
    second = [{**STEPS[0], "out": 100, "failed": {}}, {**STEPS[1], "in": 100, "rejected": {"length": 40}}]
    published(datasets, "demo", rows[10:], parent=1, funnel=second, run={**RUN, "usd": 0.5})
    synthetic(datasets, "other", [("x" * 16, "train", chat("?", "!"))])
    return project


# -- tables ----------------------------------------------------------------------------------------------------------

LOG = ["version", "rows#", "|", "digest=", "changed"]
ROWS = [
    ["quickstart@12 (pinned)", "1,234", Bar(1, 10), "0123456789ab", "+8 rows, recipe, seeds, prompts and more of it"],
    ["quickstart@2", "617", Bar(0.5, 10), "ba9876543210", ""],
]


def test_a_table_in_a_pipe_is_as_wide_as_what_it_holds() -> None:
    lines = piped(table("", LOG, ROWS)).splitlines()
    assert lines == [
        "version                  rows              digest        changed",
        "quickstart@12 (pinned)  1,234  ██████████  0123456789ab  +8 rows, recipe, seeds, prompts and more of it",
        "quickstart@2              617  █████       ba9876543210",
    ]


SAID = "A long answer that goes on and on, " * 5 + "and then code:\nif x:\n    return  {'a':  1}\n" + "x" * 100


def test_what_is_said_goes_on_between_words_on_a_terminal_alone() -> None:
    row = {"id": "r1", "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": SAID}]}
    text = printed(40, *conversation(row))
    lines = text.splitlines()
    assert all(cell_len(each) <= 40 for each in lines), lines
    words = [word for each in lines for word in each.split()]
    assert not {word for word in words if not set(word) <= {"x"}} - {
        *SAID.split(),
        "\u2500\u2500",
        "r1",
        "user:",
        "assistant:",
        "Why?",
    }
    assert "    return  {'a':  1}" in lines
    assert f"assistant: {SAID}\n" in piped(*conversation(row))


def test_a_table_fits_the_terminal() -> None:
    assert printed(80, table("", LOG, ROWS)).splitlines() == [
        "version                  rows          digest        changed",
        "quickstart@12 (pinned)  1,234  ██████  0123456789ab  +8 rows, recipe, seeds,",
        "                                                     prompts and more of it",
        "quickstart@2              617  ███     ba9876543210",
    ]
    assert printed(60, table("", LOG, ROWS)).splitlines() == [
        "version                  rows              digest",
        "quickstart@12 (pinned)  1,234  ██████████  0123456789ab",
        "  changed: +8 rows, recipe, seeds, prompts and more of it",
        "quickstart@2              617  █████       ba9876543210",
    ]
    assert printed(20, table("", LOG, ROWS)).splitlines() == [
        "version",
        "quickstart@12 (pinned)",
        "  rows: 1,234",
        "  ██████████",
        "  digest:",
        "    0123456789ab",
        "  changed: +8 rows,",
        "    recipe, seeds,",
        "    prompts and more",
        "    of it",
        "",
        "quickstart@2",
        "  rows: 617",
        "  █████",
        "  digest:",
        "    ba9876543210",
    ]


def test_bars_side_by_side_can_be_compared() -> None:
    """However little room there is, two bars of one share are equally long."""
    both = table("", ["", "a#", "|", "b#", "|"], [["name", "1", Bar(0.7, 12), "1", Bar(0.7, 12)]])
    for columns in range(12, 60):
        bars = re.findall("[█▏▎▍▌▋▊▉]+", printed(columns, both))
        assert len(set(bars)) <= 1 and len(bars) in (0, 2), (columns, bars)


def test_a_long_label_is_cut_in_the_middle_where_there_is_a_terminal() -> None:
    label = "begin" + "x" * 200 + "end"
    labels = table("", ["label~", "rows#", "|"], [[label, "5", Bar(1)]])
    for columns in (80, 30, 20):
        text = printed(columns, labels)
        assert re.search("begin.*…x*end", text) and max(map(cell_len, text.splitlines())) <= columns, text
        assert "█" * 6 in text, text
    assert label in piped(labels)
    for width in range(1, 12):
        assert cell_len(Paper(80, Signs()).cut("数学" * 9, width)) <= width


names = st.text("abcxyz019_-@.", min_size=1, max_size=30).filter(lambda name: name not in NOTHING)
texts = st.text("abc xyz数\x1b\n\u202e[]", max_size=80)


@given(st.lists(st.tuples(names, st.integers(0, 10**9), texts, names, texts), min_size=1, max_size=6),
       st.integers(1, 150))  # fmt: skip
def test_whatever_the_width_no_name_is_broken_and_nothing_is_lost(rows: list[Any], columns: int) -> None:
    drawn = table("", ["id", "count#", "text", "name=", "label~"], rows)
    text = printed(columns, drawn)
    assert not re.search("[\x1b\u202e]", text)
    for name, count, free, second, _ in rows:
        assert any(name in line for line in text.splitlines()) and any(second in line for line in text.splitlines())
        assert str(count) in text
        whole = "".join(text.split())
        assert all(word in whole for word in free.replace("\n", "\\n").split() if re.fullmatch("[abcxyz]{1,9}", word))
    assert len(piped(drawn).splitlines()) == len(rows) + 1
    if columns >= 44:
        longest = max(len(each) for row in rows for each in (row[0], f"  name: {row[3]}", f"count: {row[1]}"))
        assert max(map(cell_len, text.splitlines())) <= max(columns, longest)


@given(st.floats(0, 1), st.integers(1, 60))
def test_a_bar_is_never_longer_than_its_room_and_never_nothing_of_something(share: float, width: int) -> None:
    for is_ascii in (False, True):
        drawn = bar(share, width, is_ascii=is_ascii)
        assert len(drawn) <= width and bool(drawn) == (share > 0)
        assert abs(len(drawn) - share * width) <= 1
        assert set(drawn) <= set("#" if is_ascii else BARS)


@given(st.lists(st.lists(st.integers(0, 10_000), max_size=100), min_size=1, max_size=3))
def test_histograms_that_share_their_bins_hold_every_number_once(several: list[list[int]]) -> None:
    lengths = [Lengths() for _ in several]
    for each, numbers in zip(lengths, several, strict=True):
        for number in numbers:
            each.add(number)
    bins = histograms(lengths)
    for place, numbers in enumerate(several):
        assert [found[place] for _, _, found in bins] == [
            sum(low <= n <= high for n in numbers) for low, high, _ in bins
        ]
        assert sum(found[place] for _, _, found in bins) == len(numbers)


# -- consoles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "is_ascii"),
    [
        ({}, False), ({"LANG": "C"}, True), ({"LANG": "POSIX", "LC_CTYPE": "C.UTF-8"}, True),
        ({"LC_ALL": "C"}, True), ({"LANG": "C", "LC_ALL": "C.UTF-8"}, False), ({"LANG": "C", "LC_CTYPE": "de_DE.UTF-8"}, False),
        ({"LANG": "C", "PYTHONUTF8": "1"}, False), ({"LANG": "C", "PYTHONIOENCODING": "utf-8"}, False), ({"LANG": "zz_ZZ"}, False),
    ],
)  # fmt: skip
def test_a_locale_may_ask_for_plain_signs(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], is_ascii: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = printed(80, table("", ["a", "|"], [["x", Bar(1)]]))
    assert ("#" in text, BARS[-1] in text) == (is_ascii, not is_ascii)


def test_an_encoding_that_takes_no_blocks_gets_plain_signs() -> None:
    for encoding in ("ascii", "latin-1"):
        text = printed(80, table("", ["a", "|"], [["数", Bar(0.5)]]), encoding=encoding)
        assert "\\u6570  ###############\n" in text


@pytest.mark.parametrize("columns", ["0", "abc", "-5", "1", "9" * 30])
def test_broken_widths_break_nothing(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "quickstart@12 (pinned)" in printed(80, table("", LOG, ROWS), Folded("some text"))


def test_a_terminal_without_a_size_is_taken_for_a_usual_one() -> None:
    assert printed(0, table("", LOG, ROWS)) == printed(80, table("", LOG, ROWS))


# -- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [120, 80])
def test_stats_draw_the_funnel_and_the_lengths(two: Project, columns: int) -> None:
    lines = told(two, columns, "stats", "demo@1").splitlines()
    assert lines[0] == "demo@1: 60 rows (48 train, 12 validation)"
    funnel = [" ".join(line.split()) for line in lines[2:8]]
    bars = [len(line.split()[-1]) for line in lines[3:8]]
    assert funnel[0] == "step rows in rows out left out" and funnel[1].startswith("1.generate 100 90 10 █")
    assert funnel[2].startswith("failed: timeout 10 █") and funnel[3].startswith("2.filter 90 60 30 █")
    assert funnel[4].startswith("rejected: length 20 █") and funnel[5].startswith("rejected: repetition 10 █")
    longest = bars[0] / 90
    assert all(abs(drawn - longest * rows) <= 1.2 for drawn, rows in zip(bars, (90, 10, 60, 20, 10), strict=True)), bars
    start = next(n for n, line in enumerate(lines) if line.startswith("characters of answers"))
    counted = [int(line.split()[3]) for line in lines[start + 1 :] if " to " in line]
    assert sum(counted) == 60 and max(map(len, lines)) <= columns


def test_stats_on_a_tiny_terminal(two: Project) -> None:
    lines = told(two, 20, "stats", "demo@1").splitlines()
    assert max(map(len, lines)) <= 24 and "  rows in: 100" in lines and "  rejected: length" in lines
    where = next(n for n, line in enumerate(lines) if re.fullmatch(r"\d+ to \d+: \d+", line))
    assert re.fullmatch(r"  [█▏▎▍▌▋▊▉]+", lines[where + 1])


def test_labels_and_scores_are_counted_with_shares(two: Project) -> None:
    version = find_version("demo@1", two.folder / "datasets")
    figures: Figures = figures_of(version)
    figures.labels["label"] = Counter({HOSTILE: 30, "good": 15, **{f"rare {n}": 1 for n in range(15)}})
    figures.scores["score"] = [1.0] * 45 + [5.0] * 15
    text = printed(120, *figures_shown(version, figures))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert r"\x1b[31mred\x1b[0m\u202e\n[bold]\ttext 30 50.0% " + "█" * 30 in lines, text
    assert "good 15 25.0% " + "█" * 15 in lines and "(5 more) 5 8.3% " + "█" * 5 in lines
    assert "1 45 75.0% " + "█" * 30 in lines and "5 15 25.0% " + "█" * 10 in lines
    tiny = printed(20, *figures_shown(version, figures)).splitlines()
    assert "good: 15, 25.0%" in tiny and "  30, 50.0%" in tiny and max(map(len, tiny)) <= 24
    assert "\x1b" not in text and "\u202e" not in text


def test_a_version_of_no_rows_says_so(project: Project) -> None:
    synthetic(project.folder / "datasets", "demo", [])
    assert told(project, 80, "stats", "demo") == "demo@1: no rows\n"
    text = told(project, 80, "diff", "demo@1", "demo@1")
    assert text.startswith("demo@1 -> demo@1: 0 added") and "characters" not in text
    done = project.run("show", "demo")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "there is no row in demo@1\n")


@pytest.mark.parametrize("columns", [120, 80, 60])
def test_diff_puts_two_versions_side_by_side(two: Project, columns: int) -> None:
    text = told(two, columns, "diff", "demo@1", "demo@2", "-n", "1")
    assert " ".join(text.split()).startswith("demo@1 -> demo@2: 0 added, 10 removed, 0 changed, 50 the same - 0000")
    lines = [" ".join(re.sub("[█▏▎▍▌▋▊▉]+", "", line).split()) for line in text.splitlines()]
    for line in (
        "published 60 50 -10", "1.generate 90 100 +10", "failed: timeout 10 0 -10", "2.filter 60 60 =",
        "rejected: length 20 40 +20", "rejected: repetition 10 0 -10", "calls of the run 100 100 =",
        "cost of the run $1.5000 $0.5000 -$1.0000", "most 420 420 =",
    ):  # fmt: skip
        assert line in lines, (line, text)
    assert max(map(len, text.splitlines())) <= columns and ("█" in text or columns == 60)


def test_diff_counts_rows_that_moved(project: Project) -> None:
    for split in ("train", "test"):
        synthetic(project.folder / "datasets", "demo", [("a", split, chat("?", "!"))])
    assert "1 changed (1 of them in another split)" in told(project, 120, "diff", "demo@1", "demo@2")
    said = json.loads(project.run("diff", "demo@1", "demo@2", "--json").stdout)
    assert said["rows"]["moved"] == 1 and said["ids"]["moved"] == ["a"]


def test_log_keeps_names_whole_at_every_width(two: Project) -> None:
    digest = two.manifest(2)["digest"][:12]
    for columns in (120, 80, 60, 20):
        text = told(two, columns, "log")
        assert digest in text.split() and {"demo@2", "demo@1", "other@1"} <= set(text.split())
        assert max(map(len, text.splitlines())) <= columns and BARS[-1] in text
        assert "-10 rows" in text


# -- show and trace --------------------------------------------------------------------------------------------------


def looked_at(project: Project, *arguments: str, columns: int = 80) -> str:
    """Return what a person sees of a command, standard error too."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in clean_environment(TERM="dumb").items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "distillgen", *arguments], cwd=project.folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    read = b""
    with contextlib.suppress(OSError):
        while piece := os.read(master, 65536):
            read += piece
    os.close(master)
    assert process.wait() == 0, read
    return read.decode().replace("\r\n", "\n")


def test_show_tells_a_person_of_how_many_rows_these_are(two: Project) -> None:
    text = looked_at(two, "show", "demo@1", "-n", "2")
    assert text.startswith("2 of 60 rows of demo@1 (48 train, 12 validation)\n── 0000") and "\x1b" not in text
    assert looked_at(two, "show", "demo@1", "-n", "2", "--split", "train").startswith(
        "2 of 48 rows of demo@1, split train"
    )
    done = two.run("show", "demo@1", "-n", "2")
    assert done.stdout.startswith("── 0000") and not done.stderr, "a pipe has the rows alone"


def test_show_says_that_nothing_was_left_out(two: Project) -> None:
    for option, said in (
        ("--rejected", "no row was rejected in other@1\n"),
        ("--failed", "no row failed in other@1\n"),
    ):
        done = two.run("show", "other", option)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", said)
        assert two.run("show", "other", option, "--json").stderr == ""


def test_trace_looks_in_all_datasets(two: Project) -> None:
    done = two.run("trace", "x" * 16)
    assert done.returncode == 0 and done.stdout.startswith(f"── {'x' * 16} in other@1\n"), done.stderr
    [story] = json.loads(two.run("trace", f"{30:016d}", "--json").stdout)["rows"]
    assert story["version"] == "demo@2" and story["fate"] == "published"
    done = two.run("trace", "nobody")
    assert done.returncode == 10 and "no dataset here knows the row 'nobody' in demo@2, other@1" in done.stderr
    assert "distillgen trace ID NAME@VERSION" in done.stderr
    (two.folder / "datasets/other/v0001/provenance.jsonl.zst").unlink()
    done = two.run("trace", f"{30:016d}")
    assert done.returncode == 8 and "in demo@2" in done.stdout and "other" in done.stderr, "what is whole is told"


# -- pipes -----------------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_and_an_encoding_that_cannot_say_it(two: Project, tmp_path: Path) -> None:
    rows = [(f"{n:016d}", "train", chat("数?", "answer " * 200)) for n in range(500)]
    synthetic(two.folder / "datasets", "long", rows)
    with subprocess.Popen(
        [sys.executable, "-m", "distillgen", "show", "long", "-n", "500"], cwd=two.folder, env=clean_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("── 0")
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (141, "")
    done = two.run("show", "long", "-n", "1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.startswith("-- 0") and "\\u6570?" in done.stdout
    done = two.run("show", "long", "-n", "1", "--json", PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout)["messages"][0]["content"] == "数?", "and to a program it says the same"
    done = two.run("prompts", "render", "answer", "--seed", '{"question": "数?"}', PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "user: " in done.stdout and "\\u6570?" in done.stdout


@pytest.mark.parametrize("environment", [{"FORCE_COLOR": "1"}, {"FORCE_COLOR": "x", "TERM": "dumb"}, {"COLUMNS": "0"}])
def test_forced_colour_and_broken_values_leave_a_row_on_a_line(two: Project, environment: dict[str, str]) -> None:
    plain = two.run("log").stdout
    done = two.run("log", **environment)
    assert done.returncode == 0 and re.sub("\x1b\\[[0-9;]*m", "", done.stdout) == plain


@pytest.mark.parametrize("columns", [120, 80, 40, 20])
@pytest.mark.parametrize("command", ["terms", "teachers", "prompts"])
def test_names_of_lists_can_be_copied(command: str, columns: int) -> None:
    wanted = {
        "terms": ["gemini-api-additional-terms", "openai-services-agreement"],
        "teachers": [
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "openai-services-agreement",
            "LM_API_TOKEN",
        ],
        "prompts": ["questions_from_document", "label_with_rationale"],
    }[command]
    text = seen(columns, lambda: typer.main.get_command(app).main([command], standalone_mode=False))
    assert set(wanted) <= set(re.split(r"[\s·;,]+", text)), text
    if columns >= 80:
        assert max(map(cell_len, text.splitlines())) <= columns
