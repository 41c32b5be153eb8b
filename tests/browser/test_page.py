"""The report in a real browser: Chromium, driven by Playwright. `make test-browser` installs what this needs."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from loopback import Loopback, reply, words

from distillgen.dataset.figures import Figures
from distillgen.dataset.versions import find_version
from distillgen.report.numbers import Numbers
from distillgen.report.page import write_page
from distillgen.report.rows_data import shown_of
from distillgen.report.version_report import page_of

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
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
    "soft\u00adhyphen, no\u200bwidth, hidden\U000e0041tag",
]
ARABIC = "ما هو العدد السابع"
LONG = "x" * 3000
TWIN = " ".join(f"twin{n}" for n in range(60))
PUBLISHED = 120 + len(HOSTILE) + 3  # the Arabic one, the long one, one of three twins


@dataclass
class Seen:
    """What a page did while it was open."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#browser[data-ready]")

    def comes_to(self, kind: str) -> None:
        """Wait until rows of a kind are listed: a browser follows a link within the page some time after the click."""
        self.page.wait_for_function("kind => document.querySelector('#kind').value === kind", arg=kind)

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
    """A version of 132 rows, most of them ordinary, some hostile; twelve are rejected. The teacher reasons."""
    from conftest import RECIPE

    server, made = Loopback(), Project(tmp_path_factory.mktemp("report"))
    server.behave = lambda body: reply(
        _said(body["messages"][-1]["content"]), message={"reasoning_content": f"Thinking of {HOSTILE[1]}"}
    )
    recipe = RECIPE.format(url=server.url)
    made.write("recipe.toml", recipe.replace("[student]", '[student]\nreasoning = "{{ reasoning }}"'))
    questions = [f"What is number {n}?" for n in range(120)] + [f"{text} in {n}?" for n, text in enumerate(HOSTILE)]
    questions += [ARABIC, LONG, *(f"Twin {n}?" for n in range(3)), *(f"In short, {n}?" for n in range(10))]
    made.seeds([{"question": text, "label": ["even", "odd"][place % 2]} for place, text in enumerate(questions)])
    made.build()
    server.close()
    return made


def _said(question: str) -> str:
    if question.startswith("In short"):
        return "short"
    return f"{TWIN} {question}" if question.startswith("Twin") else f"{question} {words(question)}"


@pytest.fixture(scope="module")
def report(project: Project) -> Path:
    done = project.run("report", "demo", "-o", "r.html")
    assert done.returncode == 0, done.stderr
    return project.folder / "r.html"


def test_searching_and_filtering(seen: Seen) -> None:
    page = seen.page
    assert seen.said() == f"{PUBLISHED} rows"
    assert page.locator("#list > li").count() == 50
    page.click("#more")
    assert page.locator("#list > li").count() == 100
    page.fill("#search", "NUMBER 77")
    assert seen.said() == "1 row"
    assert page.locator("mark").first.inner_text() == "number 77"
    page.fill("#search", "number 7")
    assert seen.said() == "11 rows"
    page.fill("#search", "")
    page.select_option("#of", "validation")
    split = page.locator("#list .id:nth-child(2)").all_inner_texts()
    assert split and set(split) == {"validation"}
    page.select_option("#kind", "rejected")
    assert seen.said() == "12 rows"
    page.select_option("#of", "2.filter: length")
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
    story = page.locator("details.provenance li").all_inner_texts()
    assert story[0] == f"seed {row['id']}" and story[-1].startswith("published in split ")
    assert story[1].startswith("1.generate: main as scripted to prompt answer; 7 tokens in, 11 out; ")
    assert "3.deduplicate: passed" in story
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
    assert seen.said() == f"{PUBLISHED} rows"


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
    assert "soft\\u00adhyphen, no\\u200bwidth, hidden\\ue0041tag" in text
    assert "\\u001b[31mred" in text and "\\u202egnp.exe\\u2066" in text
    assert not set(text) & {"\x1b", "\u202e", "\u2066"}
    assert page.locator("#list img, #list svg, #list script, #list a:not([href^='#row='])").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (768, "light"), (1200, "dark")])
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
    assert f"{PUBLISHED}" in text and "2.filter: length" in text and "JavaScript" in text
    assert page.locator("svg[role=img]").count() >= 4
    assert page.locator("main a").count() == 0  # nothing that would lead nowhere
    assert not page.locator("#rows").is_visible()
    context.close()


def test_a_screen_reader_finds_names_and_numbers(seen: Seen) -> None:
    page = seen.page
    assert page.get_by_role("heading", level=1).inner_text() == "demo@1"
    assert page.get_by_role("img", name="Funnel. 1.generate: 144 in, 144 out").count() == 1
    assert page.get_by_role("searchbox", name="search").count() == 1
    assert page.get_by_role("combobox", name="split").count() == 1
    assert page.get_by_role("status").inner_text() == f"{PUBLISHED} rows"
    unnamed = page.evaluate("[...document.querySelectorAll('input, select, button, svg:not([aria-hidden])')]"
                            ".filter(each => !(each.labels?.length || each.textContent.trim() || each.ariaLabel)).length")  # fmt: skip
    assert unnamed == 0


@pytest.mark.parametrize("width", [320, 390, 600, 1000])
def test_the_funnel_fits_the_page_with_every_number(seen: Seen, width: int) -> None:
    seen.page.set_viewport_size({"width": width, "height": 800})
    drawn = [each for each in seen.page.locator("svg.funnel").all() if each.is_visible()]
    assert len(drawn) == 1
    for text in drawn[0].locator("text").all():
        box = text.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] > 9, (
            text.text_content(),
            box,
        )


def test_a_row_that_is_opened_at_the_edge_of_the_screen_is_seen(seen: Seen) -> None:
    seen.page.set_viewport_size({"width": 1000, "height": 700})
    seen.page.keyboard.press("j")  # the first row, which comes in at the lower edge
    seen.page.keyboard.press("Enter")
    box = seen.page.locator("#list .open").bounding_box()
    assert box and box["y"] >= 0 and box["y"] + box["height"] <= 701, box


def test_provenance_that_is_opened_by_key_is_seen(seen: Seen) -> None:
    seen.page.set_viewport_size({"width": 1000, "height": 700})
    for _ in range(3):
        seen.page.keyboard.press("j")
    seen.page.keyboard.press("p")
    box = seen.page.locator("details.provenance[open]").bounding_box()
    assert box and box["y"] >= 0 and (box["y"] + box["height"] <= 701 or box["height"] > 600), box


def test_it_prints_with_everything_but_the_controls(seen: Seen) -> None:
    seen.page.emulate_media(media="print")
    assert not seen.page.locator("form").is_visible() and not seen.page.locator("nav").is_visible()
    assert (
        seen.page.locator("svg.funnel:not(.narrow)").is_visible() and seen.page.locator("#list > li").first.is_visible()
    )


def test_it_prints_light_and_whole_from_a_dark_screen(chromium: Any, report: Path) -> None:
    context = chromium.new_context(viewport={"width": 700, "height": 900}, color_scheme="dark")
    page = context.new_page()
    Seen(page).open(report)
    page.emulate_media(media="print")
    assert _light(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 700
    assert page.evaluate(
        "[...document.querySelectorAll('.wide')].every(each => each.scrollWidth <= each.clientWidth + 1)"
    )
    context.close()


def test_links_lead_from_a_figure_to_its_rows(seen: Seen) -> None:
    page = seen.page
    page.click("#left-out ~ .parts a:text-is('2.filter: length')")
    seen.comes_to("rejected")
    assert seen.said() == "10 rows" and page.input_value("#of") == "2.filter: length"
    assert page.evaluate("document.activeElement.className") == "row"
    page.locator("#duplicates ~ .parts a").first.click()
    seen.comes_to("published")
    assert seen.said() == "1 row"
    assert "2 rows like it were left out" in page.locator(".alike").inner_text()


def test_rows_that_are_alike_lead_to_each_other(seen: Seen) -> None:
    page = seen.page
    page.select_option("#kind", "rejected")
    page.select_option("#of", "3.deduplicate: near_duplicate")
    assert seen.said() == "2 rows"
    page.click("button.row")
    left_out = page.locator("button.row .id").first.inner_text()
    page.click("p.why a")
    seen.comes_to("published")
    assert page.locator(".open").count() == 1 and "Twin" in page.locator(".turn.user .text").inner_text()
    page.click(f".alike a:text-is('{left_out}')")
    seen.comes_to("rejected")
    assert "3.deduplicate: of " in page.locator("p.why").inner_text()
    page.go_back()
    seen.comes_to("published")


def test_an_address_leads_to_a_row(chromium: Any, report: Path, project: Project) -> None:
    row = next(row for row in project.rows() if row["messages"][0]["content"] == ARABIC)
    page = chromium.new_page()
    noted = Seen(page)
    page.goto(f"{report.as_uri()}#row={row['id']}")
    page.wait_for_selector(".open")
    assert page.locator(".turn.user .text").inner_text() == ARABIC
    assert page.evaluate("document.activeElement.className") == "row"
    page.evaluate("location.hash = '#row=no-such-row'")
    assert noted.said() == "row no-such-row is not in this page"
    page.evaluate("location.hash = '#row=%E0%A4%A'")  # is no UTF-8
    assert page.locator("#said").count() == 1
    page.close()


def test_writing_from_right_to_left_is_set_so(seen: Seen) -> None:
    page = seen.page
    page.fill("#search", ARABIC)
    assert seen.said() == "1 row"
    page.click("button.row")
    direction = "each => getComputedStyle(each).direction"
    assert page.locator(".turn.user .text").evaluate(direction) == "rtl"
    assert page.locator("button.row .start").first.evaluate(direction) == "rtl"
    assert page.locator(".turn.user .role").evaluate(direction) == "ltr"


def test_a_label_is_a_filter(seen: Seen) -> None:
    page = seen.page
    page.select_option("#label", "odd")
    labels = page.locator("#list .label").all_inner_texts()
    assert set(labels) == {"odd"} and seen.said() != f"{PUBLISHED} rows"


def test_keys_can_be_turned_off_and_provenance_is_one_key_away(seen: Seen) -> None:
    page = seen.page
    page.keyboard.press("j")
    page.keyboard.press("p")
    assert page.locator("details.provenance[open]").count() == 1
    page.keyboard.press("ArrowDown")
    assert (
        page.evaluate("[...document.querySelectorAll('#list > li')].indexOf(document.activeElement.closest('li'))") == 1
    )
    page.keyboard.press("k")
    page.keyboard.press("Escape")
    assert page.locator(".open").count() == 0
    page.uncheck("#listens")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == "listens"
    page.focus("#search")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.className") == "row"


def test_everything_is_reached_with_the_tab_key(seen: Seen) -> None:
    page = seen.page
    page.fill("#search", "number 77")
    seen.said()
    page.click("button.row")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    wanted = page.evaluate(
        "[...document.querySelectorAll('a[href], button, input, select, summary')].filter(each => each.checkVisibility()).length"
    )
    met = set()
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    for _ in range(wanted + 20):
        page.keyboard.press("Tab")
        met.add(page.evaluate(
            "each = document.activeElement; each.dataset.met ??= String(Math.random()); each.matches('a, button, input, select, summary') ? each.dataset.met : ''"
        ))  # fmt: skip
    assert len(met - {""}) == wanted


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_people_with_a_screen_reader(chromium: Any, report: Path, scheme: str) -> None:
    """By axe-core: names, roles, order of headings, contrast, what can be scrolled but not reached."""
    for width in (360, 1200):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page = context.new_page()
        Seen(page).open(report)
        for place in (0, 1):
            page.locator("button.row").nth(place).click()
        for summary in page.locator("#list summary").all():
            summary.click()
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        context.close()


def test_high_contrast_and_reduced_motion(chromium: Any, report: Path) -> None:
    context = chromium.new_context(forced_colors="active", reduced_motion="reduce")
    page = context.new_page()
    Seen(page).open(report)
    fill = page.locator("svg.funnel:not(.narrow) .fill").first.evaluate("each => getComputedStyle(each).fill")
    assert fill != "rgb(47, 111, 143)"  # the system's colour, not ours
    moving = "[...document.querySelectorAll('*')].filter(each => { const s = getComputedStyle(each);" \
             " return s.animationName !== 'none' || parseFloat(s.transitionDuration) > 0 || s.scrollBehavior === 'smooth' }).length"  # fmt: skip
    assert page.evaluate(moving) == 0
    context.close()


def test_a_browser_that_cannot_unpack_says_so(chromium: Any, report: Path, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8")
    beginning = text.index("data-rows>") + len("data-rows>")
    torn = tmp_path / "torn.html"
    torn.write_text(f"{text[:beginning]}AAAA{text[beginning + 4 :]}", encoding="utf-8")
    for path, before in ((torn, ""), (report, "delete window.DecompressionStream")):
        page = chromium.new_page()
        if before:
            page.add_init_script(before)
        errors: list[str] = []
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("#said:has-text('cannot be read here')")
        assert errors == [] and page.locator("svg.funnel:not(.narrow)").is_visible()
        page.close()


def test_two_versions_open_too(chromium: Any, project: Project) -> None:
    project.edit('completion = "{{ answer }}"', 'completion = "{{ answer }}!"')
    project.build()
    assert project.run("report", "demo@1", "demo@2", "-o", "two.html").returncode == 0
    page = chromium.new_page()
    noted = Seen(page)
    page.on("pageerror", lambda error: noted.errors.append(str(error)))
    noted.open(project.folder / "two.html")
    page.select_option("#kind", "changed")
    assert noted.said() == f"{PUBLISHED} rows" and noted.errors == []
    page.click("button.row")
    assert page.locator(".turn .role").all_inner_texts() == ["user (before)", "assistant (before)", "user", "assistant"]
    page.close()


PAIRS = """
completion = "{{ answer }}"
rejected = "{{ worse }}"
"""


def opened(chromium: Any, project: Project, name: str) -> Any:
    """Write the report of a version and open it, without an error."""
    done = project.run("report", name, "-o", f"{name}.html")
    assert done.returncode == 0, done.stderr
    page = chromium.new_page()
    noted = Seen(page)
    page.on("pageerror", lambda error: noted.errors.append(str(error)))
    noted.open(project.folder / f"{name}.html")
    assert noted.errors == []
    return page


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Project]:
    """A project whose teacher answers each question; its seeds have a worse answer and a conversation."""
    from conftest import RECIPE

    server, made = Loopback(), Project(tmp_path)
    made.write("recipe.toml", RECIPE.format(url=server.url))
    turns = [
        ("system", "Be kind."),
        ("user", "Which tool?"),
        ("assistant", "A hammer."),
        ("tool", '{"found": 3}'),
        ("user", "And now?"),
    ]
    messages = [{"role": role, "content": text} for role, text in turns]
    made.seeds([{"question": "What is number 1?", "worse": "No idea.", "messages": messages}])
    made.edit("{ train = 0.8, validation = 0.2 }", "{ train = 1.0 }")
    yield made
    server.close()


def test_one_row_and_no_rejected_one(chromium: Any, small: Project) -> None:
    small.build()
    page = opened(chromium, small, "demo")
    assert page.inner_text("#said") == "1 row" and page.locator("#kind option").count() == 1
    assert "Nothing was left out." in page.inner_text("main")


def test_a_conversation_of_many_turns(chromium: Any, small: Project) -> None:
    small.edit('prompt = "{{ question }}"\n', "")
    small.build()
    page = opened(chromium, small, "demo")
    page.click("button.row")
    roles = page.locator(".turn .role").all_inner_texts()
    assert roles == ["system", "user", "assistant", "tool", "user", "assistant"]
    assert page.locator(".turn.tool .text").inner_text() == '{"found": 3}'


def test_pairs_stand_side_by_side(chromium: Any, small: Project) -> None:
    small.edit('completion = "{{ answer }}"\n', PAIRS)
    small.build()
    page = opened(chromium, small, "demo")
    page.click("button.row")
    assert page.locator(".turn .role").all_inner_texts() == ["user", "assistant (chosen)", "assistant (rejected)"]
    better, worse = (page.locator(f".ending.{kind}").bounding_box() for kind in ("chosen", "rejected"))
    assert better["y"] == worse["y"] and better["x"] < worse["x"]
    page.set_viewport_size({"width": 400, "height": 800})
    better, worse = (page.locator(f".ending.{kind}").bounding_box() for kind in ("chosen", "rejected"))
    assert better["y"] < worse["y"] and better["x"] == worse["x"]


def test_many_rules_and_no_rows(chromium: Any, small: Project) -> None:
    """500 reasons, by which all rows were left out: as a version whose manifest says so."""
    small.build()
    version = find_version("demo", small.folder / "datasets")
    rejected = {f"rule_{n}_{'x' * 60}": n + 1 for n in range(500)}
    funnel = [{"step": "1.filter", "in": 125_250, "born": 0, "merged": 0, "out": 0, "rejected": rejected, "failed": {}}]
    manifest = version.manifest.model_copy(update={"funnel": funnel, "rows": 0, "splits": {"train": 0}})
    empty = replace(version, manifest=manifest)
    page_of_it = page_of(empty, Numbers(Figures({})))
    write_page(small.folder / "r.html", page_of_it, shown_of(empty, 0), ())
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    Seen(page).open(small.folder / "r.html")
    assert page.locator("#left-out ~ .parts > div").first.locator("tbody tr").count() == 20
    page.click("summary:has-text('and 480 more')")
    assert page.locator("#left-out ~ .parts tbody tr:visible").count() == 500
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.inner_text("#said") == "0 rows; a sample of 0 of 125,250"
    page.close()
