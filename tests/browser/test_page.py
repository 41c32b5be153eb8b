"""The report in a real browser: Chromium, driven by Playwright. `make test-browser` installs what this needs."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from loopback import Loopback, reply, words

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
HOSTILE = [
    "</script><script>window.taken = 1</script>",
    "<img src=http://127.0.0.1:9/x onerror='window.taken = 1'>",
    "<svg onload='window.taken = 1'>",
    "[a](javascript:window.taken=1)",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe\u2066",
    "<!-- <script>",
    "&lt;b&gt; ]]> \u2028 \u2029",
]


@dataclass
class Seen:
    """What a page did while it was open."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#browser[data-ready]")

    def said(self) -> str:
        self.page.wait_for_timeout(150)  # the search waits for a pause in the typing
        return str(self.page.inner_text("#said"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    assert CHROMIUM, "no Chromium: apt-get install chromium, or CHROMIUM=/path/to/it"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def seen(chromium: Any, report: Path) -> Iterator[Seen]:
    context = chromium.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    noted = Seen(page)
    page.on("console", lambda message: noted.errors.append(message.text))
    page.on("pageerror", lambda error: noted.errors.append(str(error)))
    page.on("request", lambda request: noted.requests.append(request.url))
    noted.open(report)
    yield noted
    assert noted.errors == []
    assert {url.partition(":")[0] for url in noted.requests} <= {"file", "data"}
    assert page.evaluate("window.taken") is None
    context.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A version of 130 rows, most of them ordinary, some hostile; ten are rejected. The teacher reasons."""
    from conftest import RECIPE

    server, made = Loopback(), Project(tmp_path_factory.mktemp("report"))
    server.behave = lambda body: reply(
        "short" if "short" in str(body["messages"][-1]["content"]) else _said(body["messages"][-1]["content"]),
        message={"reasoning_content": f"Thinking of {HOSTILE[1]}"},
    )
    recipe = RECIPE.format(url=server.url)
    made.write("recipe.toml", recipe.replace("[student]", '[student]\nreasoning = "{{ reasoning }}"'))
    questions = [f"What is number {n}?" for n in range(120)] + [f"{text} in {n}?" for n, text in enumerate(HOSTILE)]
    made.seeds([{"question": text} for text in [*questions, *(f"In short, {n}?" for n in range(10))]])
    made.build()
    server.close()
    return made


def _said(question: str) -> str:
    return f"{question} {words(question)}"


@pytest.fixture(scope="module")
def report(project: Project) -> Path:
    done = project.run("report", "demo", "-o", "r.html")
    assert done.returncode == 0, done.stderr
    return project.folder / "r.html"


def test_searching_and_filtering(seen: Seen) -> None:
    page = seen.page
    assert seen.said() == "128 rows"
    assert page.locator("#list > li").count() == 50
    page.click("#more")
    assert page.locator("#list > li").count() == 100
    page.fill("#search", "NUMBER 77")
    assert seen.said() == "1 row"
    assert page.locator("mark").first.inner_text() == "number 77"
    page.fill("#search", "")
    page.select_option("#of", "validation")
    split = page.locator("#list .id:nth-child(2)").all_inner_texts()
    assert split and set(split) == {"validation"}
    page.select_option("#kind", "rejected")
    assert seen.said() == "10 rows"
    page.select_option("#of", "length")
    assert seen.said() == "10 rows"
    page.fill("#search", "no such words anywhere")
    assert seen.said() == "0 rows"


def test_a_row_opens_with_its_conversation_reasoning_and_story(seen: Seen, project: Project) -> None:
    page = seen.page
    page.fill("#search", "number 77")
    assert seen.said() == "1 row"
    page.click("button.row")
    roles = page.locator(".turn .role").all_inner_texts()
    row = next(row for row in project.rows() if "number 77?" in row["messages"][0]["content"])
    assert roles == [turn["role"] for turn in row["messages"]]
    assert page.locator(".turn .text").all_inner_texts() == [turn["content"] for turn in row["messages"]]
    folded = page.locator("details.reasoning")
    assert folded.get_attribute("open") is None and not folded.locator("pre").is_visible()
    folded.locator("summary").click()
    assert folded.locator("pre").inner_text() == row["reasoning"]
    page.click("details.provenance summary")
    story = page.locator("details.provenance pre").inner_text()
    assert "1.generate: " in story and "teacher main" in story and "3.deduplicate: passed" in story
    page.click("button.row")
    assert page.locator(".open").count() == 0


def test_the_keyboard_alone_is_enough(seen: Seen) -> None:
    page = seen.page
    page.keyboard.press("/")
    page.keyboard.type("number 7")
    assert seen.said() == "11 rows"
    page.keyboard.press("Tab")
    page.keyboard.press("j")
    first = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") != first
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.textContent") == first
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert page.locator(".open .turn").count() == 2
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    assert seen.said() == "128 rows"


def test_hostile_rows_stay_text(seen: Seen) -> None:
    page = seen.page
    page.click("#more")
    page.click("#more")
    for button in page.locator("button.row").all():
        button.click()
    for summary in page.locator("#list summary").all():
        summary.evaluate("each => each.parentElement.open = true")
    text = page.inner_text("#list")
    assert HOSTILE[0] in text and HOSTILE[1] in text and HOSTILE[2] in text
    assert "\\u001b[31mred" in text and "\\u202egnp.exe\\u2066" in text
    assert not set(text) & {"\x1b", "\u202e", "\u2066"}
    assert page.locator("#list img, #list svg, #list script, #list a").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1200, "dark")])
def test_it_fits_a_phone_and_the_dark(chromium: Any, report: Path, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 700}, color_scheme=scheme)
    page = context.new_page()
    Seen(page).open(report)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    is_dark = _light(paper) < _light(ink)
    assert is_dark == (scheme == "dark") and abs(_light(paper) - _light(ink)) > 500
    context.close()


def _light(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_without_javascript_the_numbers_are_there(chromium: Any, report: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    text = page.inner_text("main")
    assert "128" in text and "2.filter: length" in text and "JavaScript" in text
    assert page.locator("svg[role=img]").count() >= 4
    assert not page.locator("#rows").is_visible()
    context.close()


def test_a_screen_reader_finds_names_and_numbers(seen: Seen) -> None:
    page = seen.page
    assert page.get_by_role("heading", level=1).inner_text() == "demo@1"
    assert page.get_by_role("img", name="Funnel. 1.generate: 138 in, 138 out").count() == 1
    assert page.get_by_role("searchbox", name="search").count() == 1
    assert page.get_by_role("combobox", name="split or reason").count() == 1
    assert page.get_by_role("status").inner_text() == "128 rows"
    unnamed = page.evaluate("[...document.querySelectorAll('input, select, button, svg:not([aria-hidden])')]"
                            ".filter(each => !(each.labels?.length || each.textContent.trim() || each.ariaLabel)).length")  # fmt: skip
    assert unnamed == 0


def test_it_prints_with_everything_but_the_controls(seen: Seen) -> None:
    seen.page.emulate_media(media="print")
    assert not seen.page.locator("form").is_visible() and not seen.page.locator("nav").is_visible()
    assert seen.page.locator("svg.funnel").is_visible() and seen.page.locator("#list > li").first.is_visible()


def test_two_versions_open_too(chromium: Any, project: Project) -> None:
    project.edit('completion = "{{ answer }}"', 'completion = "{{ answer }}!"')
    project.build()
    assert project.run("report", "demo@1", "demo@2", "-o", "two.html").returncode == 0
    page = chromium.new_page()
    noted = Seen(page)
    page.on("pageerror", lambda error: noted.errors.append(str(error)))
    noted.open(project.folder / "two.html")
    page.select_option("#kind", "changed")
    assert noted.said() == "128 rows" and noted.errors == []
    page.click("button.row")
    assert page.locator(".turn .role").all_inner_texts() == ["user (before)", "assistant (before)", "user", "assistant"]
    page.close()
