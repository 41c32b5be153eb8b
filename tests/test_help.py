"""The help of every command: its layout is pinned, its examples are real, its exit statuses are those of the docs.

After a change that is meant, `make docs` writes the pages and the snapshots anew; look at what changed in them.
"""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import REPOSITORY, Project, clean_environment

from distillgen.cli import helps
from distillgen.cli.main import app

COMMANDS = list(helps.commands_of(app))
SNAPSHOTS = REPOSITORY / "tests" / "data" / "help"
WIDTH = 80
WIDEST_SUMMARY = 61  # what fits on a line of `distillgen --help`
GLUE = {"|", "||", "&&", ";"}


def named(each: tuple[list[str], Any]) -> str:
    return " ".join(each[0]) or "distillgen"


def load_script(path: Path) -> ModuleType:
    """Return a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def test_generated_pages_and_snapshots_are_fresh() -> None:
    pages = load_script(REPOSITORY / "docs" / "make.py").pages()
    stale = [str(path) for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    assert not stale, f"`make docs` writes them anew: {stale}"
    left_over = set(SNAPSHOTS.glob("*.txt")) - set(pages)
    assert not left_over, f"no command has this help any more: {left_over}"


@pytest.mark.parametrize("each", COMMANDS, ids=named)
def test_help_is_one_sentence_then_more(each: tuple[list[str], Any]) -> None:
    words, command = each
    text = helps.help_of(command)
    assert text.summary.endswith(".") and text.summary[0].isupper()
    assert text.summary.split()[0] not in ("The", "A", "This", "It") and not text.summary.split()[0].endswith("s")
    if words:
        assert ". " not in text.summary, "the first line is one sentence"
        assert len(text.summary) <= WIDEST_SUMMARY, f"{len(text.summary)} characters: {text.summary}"
        assert text.examples and text.status_lines


@pytest.mark.parametrize("each", COMMANDS, ids=named)
def test_every_parameter_is_explained_and_has_a_metavar(each: tuple[list[str], Any]) -> None:
    for param in each[1].params:
        assert param.help and param.help.strip().endswith("."), f"{param.opts}: {param.help!r}"
        is_flag = param.param_type_name == "option" and param.is_flag
        assert is_flag or (param.metavar and param.metavar.upper()[:1] == param.metavar[:1]), param.opts


@pytest.mark.parametrize("each", COMMANDS, ids=named)
def test_help_fits_a_terminal_and_breaks_no_example(each: tuple[list[str], Any]) -> None:
    words, command = each
    lines = (SNAPSHOTS / f"{'-'.join(['distillgen', *words])}.txt").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= WIDTH, max(lines, key=len)
    text = helps.help_of(command)
    for line in (*text.examples, *text.status_lines):
        assert f"    {line}" in lines


@pytest.mark.parametrize("each", COMMANDS, ids=named)
def test_exit_statuses_are_those_of_the_docs(each: tuple[list[str], Any]) -> None:
    page = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8").partition("## Exit statuses")[2]
    known = {number for row in re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE) for number in row.split(", ")}
    assert known >= {"0", "1", "2", "12", "141"}
    listed = [numbers.split(", ") for numbers, _ in helps.help_of(each[1]).statuses()]
    numbers = [number for together in listed for number in together]
    assert set(numbers) <= known and len(numbers) == len(set(numbers))
    assert listed == sorted(listed, key=lambda together: int(together[0]))


def calls_in(line: str) -> list[list[str]]:
    """Return the calls of distillgen in a line for a shell, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in GLUE:
            calls.append([])
        elif word in ("<", ">"):
            assert next(words)
        else:
            calls[-1].append(word)
    return [call[1:] for call in calls if call[:1] == ["distillgen"]]


def read_by_the_parser(words: list[str]) -> None:
    """Read the words after `distillgen` as the program would; raises a usage error where they are wrong."""
    context = helps.context_of(app, [])
    names: list[str] = []
    while hasattr(context.command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in context.command.commands, f"no command {words[0]!r}"
        names.append(words.pop(0))
        context = helps.context_of(app, names)
    context.command.make_context(names[-1] if names else "distillgen", words, parent=context.parent)


@pytest.mark.parametrize("each", COMMANDS, ids=named)
def test_examples_are_read_by_the_real_parser(each: tuple[list[str], Any]) -> None:
    words, command = each
    for example in helps.help_of(command).examples:
        calls = calls_in(example)
        assert any(call[: len(words)] == words for call in calls), f"{example} shows another command"
        for call in calls:
            read_by_the_parser(call)


def test_the_check_of_examples_sees_what_is_wrong() -> None:
    from typer._click.exceptions import UsageError

    for wrong in ("distillgen build --limt 3", "distillgen show", "distillgen build --limit many"):
        with pytest.raises(UsageError):
            read_by_the_parser(calls_in(wrong)[0])
    with pytest.raises(AssertionError):
        read_by_the_parser(calls_in("cat x | distillgen biuld > y")[0])


# Runs every help in one process and prints what each loaded beyond the one before.
EVERY_HELP = """
import contextlib, io, json, sys
from distillgen.cli import helps, main
helps.dress(main.app)
commands = {commands!r}
found = {{}}
for words in commands:
    sys.argv = ["distillgen", *words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main.main()
    assert "Usage: distillgen" in out.getvalue(), words
    found[" ".join(words)] = sorted({{name.split(".")[0] for name in sys.modules}})
print(json.dumps(found))
"""


def test_no_help_loads_anything_heavy(tmp_path: Path) -> None:
    from test_structure import HEAVY

    commands = sorted((words for words, _ in COMMANDS), key=len)  # the options of `prompts` are read before `show`
    code = EVERY_HELP.format(commands=commands)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment(), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for words, modules in json.loads(done.stdout).items():
        light = {"rich"} if " " in words else {"rich", "pydantic"}  # and reading options loads pydantic
        assert not (HEAVY | light) & set(modules), words


def run_dressed(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program with its help laid out as the snapshots have it."""
    code = "from distillgen.cli import helps, main; helps.dress(main.app); main.main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=clean_environment() | environment
    )


@pytest.mark.parametrize("words", [["build", "--help"], ["build", "-h"], ["help", "build"]], ids=" ".join)
def test_the_ways_to_ask_for_help(words: list[str]) -> None:
    done = run_dressed(*words, COLUMNS="80")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == (SNAPSHOTS / "distillgen-build.txt").read_text(encoding="utf-8")


def test_help_below_a_group_and_of_the_program_itself() -> None:
    snapshot = (SNAPSHOTS / "distillgen-prompts-show.txt").read_text(encoding="utf-8")
    assert run_dressed("help", "prompts", "show", COLUMNS="80").stdout == snapshot
    whole = (SNAPSHOTS / "distillgen.txt").read_text(encoding="utf-8")
    assert run_dressed("help", COLUMNS="80").stdout == whole
    alone = run_dressed(COLUMNS="80")
    assert alone.returncode == 2 and alone.stdout + alone.stderr == whole
    unknown = run_dressed("help", "biuld")
    assert unknown.returncode == 2 and "Did you mean 'build'?" in unknown.stderr


@pytest.mark.parametrize("columns", ["20", "50", "200"])
def test_help_on_other_terminals(columns: str) -> None:
    done = run_dressed("build", "--help", COLUMNS=columns, LANG="C")
    assert done.returncode == 0 and done.stderr == "" and "\x1b" not in done.stdout
    assert "    distillgen build --limit 5 --no-publish\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


SLIPS = [
    (["biuld"], "build"),
    (["build", "--limt", "3"], "--limit"),
    (["show", "--splt", "train", "demo"], "--split"),
    (["prompts", "sohw", "explain"], "show"),
    (["teachers", "instal", "smollm2-135m"], "install"),
    (["filter", "-r", "lenght"], "length"),
    (["filter", "-r", '{ rule = "length", min_word = 3 }'], "min_words"),
    (["filter", "-p", "chta"], "chat"),
    (["filter", "-p", "chat", "--without", "repitition"], "repetition"),
    (["generate", "-p", "explian", "-m", "embedded/smollm2-135m"], "explain"),
    (["generate", "-p", "explain", "-m", "embedded/smollm2-135"], "smollm2-135m"),
    (["generate", "-p", "explain", "-m", "embeded/smollm2-135m"], "embedded"),
    (["generate", "-p", "explain", "-m", "x", "--provider", "depseek"], "deepseek"),
    (["prompts", "show", "explian"], "explain"),
    (["prompts", "render", "explian"], "explain"),
    (["teachers", "install", "smolm2-135m"], "smollm2-135m"),
    (["teachers", "check", "depseek/x"], "deepseek"),
    (["teachers", "check", "mian"], "main"),
    (["terms", "x", "--provider", "depseek"], "deepseek"),
    (["terms", "depseek-open-platform"], "deepseek-open-platform"),
    (["explain", "DG60"], "DG606"),
    (["explain", "not_stord"], "not_stored"),
    (["schema", "staus"], "status"),
    (["init", "x", "--recipe", "quikstart"], "quickstart"),
    (["init", "x", "--model", "smolm2-135m"], "smollm2-135m"),
    (["build", "--set", "steps.0.promt=x"], "prompt"),
    (["build", "--set", "steps.0.use=genrate"], "generate"),
    (["build", "--set", "steps.0.prompt=explian"], "explain"),
    (["build", "--set", "teachers.main.provider=depseek"], "deepseek"),
    (["build", "--set", "seed.path=x"], "seeds"),
    (["build", "--set", 'steps.1.rules=["lenght"]'], "length"),
    (["build", "--set", "steps.0.teacher=mian"], "main"),
    (["show", "dmeo"], "demo"),
    (["show", "demo", "--split", "trian"], "train"),
    (["log", "dmeo"], "demo"),
    (["export", "demo", "--format", "mesages"], "messages"),
    (["export", "demo", "--format", "axoltl"], "axolotl"),
    (["export", "demo", "--reasoning", "thnik"], "think"),
    (["export", "demo", "--split", "trian"], "train"),
    (["mix", "all", "demo:1", "--purpose", "internl"], "internal"),
    (["mix", "all", "dmeo:1"], "demo"),
    (["deduplicate", "--against", "dmeo"], "demo"),
    (["build", "--color", "alwys"], "always"),
]


# Says what each slip says: one process that has loaded what all need, and forks for each.
EVERY_SLIP = """
import json, os, sys, tempfile
from distillgen import pipe, pipeline, preparation, sieve
from distillgen.cli import main
from distillgen.dataset import versions
from distillgen.mix import making
said = []
for words in json.load(open(sys.argv[1])):
    with tempfile.TemporaryFile("w+") as out:
        pid = os.fork()
        if not pid:
            os.dup2(os.open("rows.jsonl", os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            sys.argv = ["distillgen", *words]
            main.main()
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        said.append([os.waitstatus_to_exitcode(status), out.read()])
print(json.dumps(said))
"""


def test_a_slip_of_the_pen_gets_the_nearest_right_word(demo: Project) -> None:
    assert demo.run("build").returncode == 0
    demo.write("rows.jsonl", '{"answer": "four words are here"}\n')
    slips = demo.write("slips.json", json.dumps([words for words, _ in SLIPS]))
    done = subprocess.run(
        [sys.executable, "-c", EVERY_SLIP, slips], capture_output=True, text=True, cwd=demo.folder,
        env=clean_environment(COLUMNS="200"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (words, near), (status, said) in zip(SLIPS, json.loads(done.stdout), strict=True):
        assert status in (2, 10) or words[0] == "terms", (words, said)
        assert near in said, (words, said)
