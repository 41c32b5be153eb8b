"""The pages for people: every link leads somewhere, every command they show is taken, the first steps are run."""

import functools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jsonschema_rs
import pytest
from conftest import REPOSITORY, Project, clean_environment
from loopback import Loopback
from test_help import calls_in, read_by_the_parser

from distillgen.cli import helps
from distillgen.cli.main import app
from distillgen.recipe import recipe_schema

FOLDERS = (REPOSITORY, REPOSITORY / "docs", REPOSITORY / "bench", REPOSITORY / "tests" / "data")
PAGES = sorted(page for folder in FOLDERS for page in folder.glob("*.md"))
FENCE = re.compile(r"^(```+)([\w-]*)\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash", "crontab")
COMMANDS = {" ".join(words): command for words, command in helps.commands_of(app)}


def named(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@functools.cache
def anchors(page: Path) -> set[str]:
    """Return what `#...` may name in a page, as GitHub makes it of the headings: `### A: b` -> `a-b`."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = 0
        while (numbered := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(numbered)
    return found


def links(text: str) -> list[str]:
    """Return where the links and pictures of a page lead, but for other sites."""
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'\b(?:src|srcset|href)="([^"]+)"', text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def broken(page: Path, link: str) -> str:
    """Say what is wrong with a link; empty when nothing is."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return f"{link}: no such file"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"{link}: no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_and_anchor_leads_somewhere(page: Path) -> None:
    wrong = [said for link in links(prose(page)) if (said := broken(page, link))]
    assert not wrong


def test_the_check_of_links_sees_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Top\n## `gate = { ... }`\n## Twice\n## Twice\n```\n# no heading\n[no](link)\n```\n[a](#top)\n")
    assert anchors(page) == {"top", "gate----", "twice", "twice-1"}
    assert links(prose(page)) == ["#top"] and not broken(page, "#top")
    assert broken(page, "#no-heading") and broken(page, "none.md") and broken(page, "page.md#gate")


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [REPOSITORY / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        ahead += [(page.parent / link.partition("#")[0]).resolve() for link in links(prose(page)) if link[0] != "#"]
    assert not {named(page) for page in (REPOSITORY / "docs").glob("*.md")} - {named(page) for page in seen}


def shell_lines(page: Path) -> Iterator[str]:
    """Return the lines of a page's shell blocks that call distillgen, without comments and here-documents."""
    for _, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language not in SHELL:
            continue
        text = re.sub(r"<< '?(\w+)'?\n.*?^\1$", "", text.replace("\\\n", " "), flags=re.MULTILINE | re.DOTALL)
        for line in text.splitlines():
            line = re.sub(r"(^|\s)#.*", "", line)
            if re.search(r"\bdistillgen [a-z-]", line) and "[OPTIONS]" not in line:
                yield line


def wrong_in_blocks(page: Path) -> list[str]:
    """Return what the program's own parser says of the calls in a page's blocks, where it refuses one."""
    found = []
    for line in shell_lines(page):
        for call in calls_in(re.sub(r"^.*?(\$ |/bin/)(?=distillgen )", "", line)):
            try:
                read_by_the_parser(call)
            except Exception as error:  # of the parser: a usage error; of the reading: a word too few
                found.append(f"{line}: {error}")
    return found


def wrong_in_sentences(page: Path) -> list[str]:
    """Return the commands in a page's sentences that are not there, or lack the options: `show NAME --rejected`."""
    found = []
    for said in re.findall(r"`distillgen ([a-z][^`|]*)`", prose(page)):
        words = said.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        if name != "help" and name not in COMMANDS:
            found.append(f"{said}: no such command")
            continue
        params = COMMANDS[name].params if name in COMMANDS else []
        known = {option for param in params for option in (*param.opts, *param.secondary_opts)} | {"-"}
        found += [f"{said}: no {word}" for word in words if word[0] == "-" and word.partition("=")[0] not in known]
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_of_the_pages_are_there_with_their_options(page: Path) -> None:
    assert not wrong_in_blocks(page) + wrong_in_sentences(page)


def test_the_check_of_commands_sees_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`distillgen show NAME --rejected`, `distillgen shwo`, `distillgen gc --no-such`\n"
        "```sh\ndistillgen build --limit 3 # fine\ncat x | distillgen filter --presett chat\n```\n"
    )
    assert [each.partition(":")[0] for each in wrong_in_sentences(page)] == ["shwo", "gc --no-such"]
    assert len(wrong_in_blocks(page)) == 1 and "--presett" in wrong_in_blocks(page)[0]


def test_the_blocks_of_the_pages_are_really_read() -> None:
    lines = {named(page): list(shell_lines(page)) for page in PAGES}
    assert len(lines["README.md"]) > 15 and len(lines["docs/first-dataset.md"]) > 10 and len(lines["docs/cron.md"]) > 4
    assert "distillgen report quickstart" in "\n".join(lines["README.md"])


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a language in a page, in order."""
    return [text for _, found, text in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def shape(text: str) -> set[str]:
    """Return the lines of what was printed, with every number the same and every gap one blank."""
    return {re.sub(r" +", " ", re.sub(r"\d[\d.,]*", "0", line)).strip() for line in text.splitlines()} - {""}


def run_as_shown(script: str, folder: Path, teacher: Loopback) -> str:
    """Run lines of a page in an empty folder, word by word but for what installs; returns all that is printed.

    The recipe that `init` writes asks the scripted teacher instead of the embedded one.
    """
    exchange = folder / "exchange.py"
    exchange.write_text(
        "from pathlib import Path\n"
        "recipe = Path('recipe.toml')\n"
        f"asked = 'base_url = \"{teacher.url}\"\\nprices = {{ free = true }} #'\n"
        "recipe.write_text(recipe.read_text().replace('provider = \"embedded\"', asked))\n"
    )
    lines = [
        f"{line}; '{sys.executable}' '{exchange}'" if re.search(r"(^|&& )cd \w+", line) else line
        for line in re.sub(r"(?m)(?<=\S)\s+# .*$", "", script).splitlines()
        if not re.match(r"pip install|distillgen teachers install", line)
    ]
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        ["/bin/sh", "-e"], input="\n".join(lines), cwd=folder, env=clean_environment(PATH=path),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_first_dataset_of_the_docs_word_by_word(tmp_path: Path, loopback: Loopback) -> None:
    page = REPOSITORY / "docs" / "first-dataset.md"
    said = run_as_shown("\n".join(blocks(page, "sh")), tmp_path, loopback)
    assert "not published, as asked: 3 rows" in said and "published bread@1: 10 rows" in said
    assert "You are an experienced baker" in said, "`prompts render` shows the prompt of the page"
    [table, _] = blocks(page, "")
    assert {line for line in shape(table) if "rejected" not in line} <= shape(said), "a build prints other lines today"
    recipe = (tmp_path / "bread" / "recipe.toml").read_text()
    assert 'name = "bread"' in recipe and 'prompt = "baker"' in recipe and "read = " not in recipe
    assert (tmp_path / "bread" / "out" / "train.py").exists() and (tmp_path / "bread" / "bread-v1.html").exists()
    assert len(loopback.asked) == 3 + 10, "three answers to look at, then ten to another prompt"


def test_the_first_dataset_of_the_readme_word_by_word(tmp_path: Path, loopback: Loopback) -> None:
    [block] = [text for text in blocks(REPOSITORY / "README.md", "") if "distillgen init demo" in text]
    said = run_as_shown(block, tmp_path, loopback)
    assert "published quickstart@1: 16 rows" in said and (tmp_path / "demo" / "out" / "train.jsonl").exists()


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name in ("docs", REPOSITORY.name)], ids=named)
def test_pieces_of_recipes_are_what_a_recipe_takes(page: Path) -> None:
    whole = tomllib.loads(blocks(REPOSITORY / "docs" / "recipe.md", "toml")[0])
    validator = jsonschema_rs.validator_for(recipe_schema())
    validator.validate(whole)
    for text in blocks(page, "toml"):
        if text.startswith("# prompts/"):
            continue  # a template
        piece = tomllib.loads(text)
        teachers = whole["teachers"] | piece.get("teachers", {})
        validator.validate(whole | piece | {"teachers": teachers})


def test_the_python_of_the_docs(demo: Project) -> None:
    [snippet] = blocks(REPOSITORY / "docs" / "python.md", "python")
    demo.edit('name = "demo"', 'name = "quickstart"')
    demo.edit('model = "scripted"', 'model = "scripted"\nprices = { input = 1.0, output = 1.0 }')
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", snippet], cwd=demo.folder, env=clean_environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("quickstart@1 ") and "'role': 'assistant'" in done.stdout


def test_the_prompt_of_the_docs_is_one(project: Project, loopback: Loopback) -> None:
    [text] = [text for text in blocks(REPOSITORY / "docs" / "prompts.md", "toml") if text.startswith("# prompts/")]
    project.write("prompts/quiz.toml", text)
    done = project.run("prompts", "render", "quiz", "--seed", '{"topic": "tides"}')
    assert done.returncode == 0 and "Topic: tides" in done.stdout, done.stderr
    asked = ["generate", "-p", "quiz", "-m", "m", "--base-url", loopback.url, "--set", "steps.0.checks=false"]
    [row] = project.run(*asked, stdin='{"topic": "tides"}\n').stdout.splitlines()
    assert {"question", "answer"} <= set(json.loads(row))


def test_the_plan_of_the_docs(demo: Project) -> None:
    [shown] = [text for text in blocks(REPOSITORY / "docs" / "costs.md", "") if text.startswith("$ distillgen plan\n")]
    demo.edit('name = "demo"', 'name = "physics"')
    demo.edit('model = "scripted"', 'model = "my-model"\nprices = { input = 0.30, output = 1.20 }')
    said = shape(demo.run("plan").stdout)
    assert shape(shown) - {"$ distillgen plan", "..."} <= said, "`plan` prints other lines today"
