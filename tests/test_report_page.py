"""The report in a real browser: wide and narrow, light and dark, by mouse and by keyboard, and with markup planted in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline import quick_writes  # noqa: F401 (a fixture)
from test_report import NAME, finished, hostile_run, made, whole  # noqa: F401 (fixtures)

from syn_pipelines.report import Report

CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
         "--disable-sync").split()
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"{CHROMIUM} is not there (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(whole) -> Report:  # noqa: F811
    return made(whole, charts=True)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("planted")
    hostile_run(folder)
    return made(folder, charts=True)


class Visit:
    """A page that is open, with everything it said and asked for."""

    def __init__(self, browser: Any, path: Path, *, size: str = "desktop", scheme: str = "light", **more: Any) -> None:
        self.context = browser.new_context(viewport=SIZES[size], color_scheme=scheme, **more)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *error: object) -> None:
        self.context.close()
        if error[0] is None:
            assert self.said == [] and [url for url in self.asked if not url.startswith("file:")] == []


def is_wider_than_the_screen(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def lightness(page: Any, what: str) -> float:
    colour = page.evaluate(f"getComputedStyle(document.querySelector('{what}')).{'color' if what == 'h2' else 'backgroundColor'}")
    return sum(map(int, re.findall("[0-9]+", colour)[:3])) / 765


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_fits_the_screen_follows_the_colour_scheme_and_asks_nothing_of_the_network(browser, report, size, scheme):
    with Visit(browser, report.page, size=size, scheme=scheme) as page:
        assert not is_wider_than_the_screen(page)
        assert (lightness(page, "body") < 0.3) == (scheme == "dark") and (lightness(page, "h2") > 0.6) == (scheme == "dark")
        assert page.locator("article").count() == 10 and page.locator("figure svg").count() >= 5
        page.locator("#show-pos").check()
        for details in page.locator("details").all():
            details.evaluate("node => node.open = true")
        assert not is_wider_than_the_screen(page)


def test_the_switch_wins_over_the_system_and_is_remembered(browser, report):
    with Visit(browser, report.page, scheme="light") as page:
        page.get_by_role("button", name="Dark").click()
        assert lightness(page, "body") < 0.3
        page.reload()
        assert lightness(page, "body") < 0.3 and page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"
        page.get_by_role("button", name="Auto").click()
        assert lightness(page, "body") > 0.7


def shown_ids(page: Any) -> list[str]:
    return page.locator("article .side:first-child .badge").all_inner_texts()


def test_sentences_are_found_by_label_by_half_and_by_text(browser, report):
    sample = report.content["sample"]
    shown = [sample["sentences"][place] for place in sample["shown"]]
    label = [name for name, kind in sample["labels"]].index("LOC")
    with Visit(browser, report.page) as page:
        page.select_option("#by-label", str(label))
        wanted = [one["id"] for one in shown if any(span[2] == label for span in one["spans"])]
        assert shown_ids(page) == wanted[:10] and f"{len(wanted)} of {len(shown)}" in page.inner_text("#count")
        assert page.locator(".span.on").count() >= min(len(wanted), 10)
        page.select_option("#by-half", "original")
        assert shown_ids(page) == [name for name in wanted if "-s" not in name][:10]
        page.select_option("#by-label", "")
        page.select_option("#by-half", "")
        page.fill("#by-text", "张三在北京")
        assert {"1"} <= set(shown_ids(page)) < {one["id"] for one in shown}
        page.fill("#by-text", "nothing is like this")
        assert shown_ids(page) == [] and "No sentence of the sample is like that" in page.inner_text("#sentences")


def test_spans_nest_as_they_stand_in_the_sentence(browser, report):
    sample = report.content["sample"]
    with Visit(browser, report.page) as page:
        page.locator("#show-pos").check()
        for place in (0, 1, 2):
            one = sample["sentences"][sample["shown"][place]]
            article = page.locator("article").nth(place)
            text = article.locator(".text").first
            assert text.evaluate("node => { const copy = node.cloneNode(true); copy.querySelectorAll('.name').forEach(n => n.remove());"
                                 " return copy.textContent; }") == "".join(one["tokens"])
            names = text.locator(".name").all_inner_texts()
            assert sorted(names) == sorted(sample["labels"][span[2]][0] for span in one["spans"])


def test_everything_can_be_done_by_keyboard(browser, report):
    with Visit(browser, report.page) as page:
        count = len(report.content["sample"]["shown"])
        page.keyboard.press("j")
        page.keyboard.press("j")
        second = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert second == page.locator("article").nth(1).get_attribute("aria-label")
        page.keyboard.press("o")
        page.locator("article").nth(1).locator("details[open] pre").nth(1).wait_for()  # what opens is filled a moment later
        page.keyboard.press("k")
        assert page.evaluate("document.activeElement.dataset.place") == "0"
        page.keyboard.press("n")
        assert page.inner_text("#page").startswith("Page 2 of") and count > 10
        page.keyboard.press("p")
        for _ in range(11):
            page.keyboard.press("j")  # from page to page
        assert page.evaluate("document.activeElement.dataset.place") == "10"
        page.keyboard.press("/")
        page.keyboard.type("1-s1")
        assert shown_ids(page)[0] == "1-s1" and page.evaluate("document.activeElement.id") == "by-text"
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.tagName") == "BODY"


def test_a_synthetic_sentence_is_shown_with_its_source_and_its_prompts(browser, report):
    with Visit(browser, report.page) as page:
        page.select_option("#by-half", "synthetic")
        article = page.locator("article").first
        identity = article.locator(".badge").first.inner_text()
        assert article.locator(".side").nth(1).locator(".badge").inner_text() == identity.rpartition("-s")[0]
        article.locator("summary").click()
        blocks = article.locator("pre").all_inner_texts()
        source = article.locator(".side").nth(1).locator(".text").evaluate(
            "node => { const copy = node.cloneNode(true); copy.querySelectorAll('.name').forEach(n => n.remove()); return copy.textContent; }")
        assert len(blocks) == 6 and source in blocks[0]


@pytest.mark.parametrize("size", SIZES)
def test_planted_markup_does_nothing(browser, planted, size):
    with Visit(browser, planted.page, size=size) as page:
        page.locator("#show-pos").check()
        for summary in page.locator("article summary").all():
            summary.click()
        assert page.evaluate("window.hit") is None and page.locator("img, b b, article script, i i").count() == 0
        assert page.evaluate("document.scripts.length") == 2
        assert "<script>window.hit=1</script>" in page.inner_text("#sentences") and "<script>" in page.inner_text("#labels")
        assert not is_wider_than_the_screen(page)
        page.fill("#by-text", "</script>")
        assert page.locator("article").count() > 0


def test_a_script_that_comes_into_the_page_is_not_run(browser, planted, tmp_path):
    """The second wall: were the escaping broken, the policy of the page would still stop it."""
    text = planted.page.read_text(encoding="utf-8").replace("<main>", "<main><script>window.hit=1</script><img src=x onerror=window.hit=1>")
    path = tmp_path / "broken.html"
    path.write_text(text, encoding="utf-8")
    visit = Visit(browser, path)
    assert visit.page.evaluate("window.hit") is None and any("Content Security Policy" in line for line in visit.said)
    visit.context.close()


def test_it_prints_and_what_is_closed_is_opened_for_that(browser, report):
    with Visit(browser, report.page) as page:
        assert page.locator("details.box:not([open])").count() > 0
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details.box:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible() and not page.locator("#filter").is_visible()
        assert len(page.pdf()) > 10_000


def test_without_a_script_everything_but_the_sentences_is_there(browser, report):
    with Visit(browser, report.page, java_script_enabled=False) as page:
        assert page.locator("section h2").count() == 10 and "needs JavaScript" in page.locator("#sentences").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser, report, scheme):
    """WCAG AA: at least 4.5 to 1 for what is written, on the ground it stands on."""
    program = """() => {
      const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
      const rgb = (colour) => { canvas.fillStyle = '#000'; canvas.fillStyle = colour; canvas.clearRect(0, 0, 1, 1); canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
      const shine = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, k) => s + v * [.2126, .7152, .0722][k], 0);
      const ground = (node) => { while (node) { const c = rgb(getComputedStyle(node).backgroundColor); if (c[3] === 255) return c; node = node.parentElement; } return [255, 255, 255]; };
      const bad = [];
      for (const node of document.querySelectorAll('main *, header *, nav a, footer')) {
        if (node.closest('svg') || !node.getClientRects().length || ![...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim())) continue;
        const [a, b] = [shine(rgb(getComputedStyle(node).color)), shine(ground(node))].sort((x, y) => y - x);
        if ((a + .05) / (b + .05) < 4.5) bad.push(node.tagName + '.' + node.className + ' ' + node.textContent.slice(0, 20) + ' ' + ((a + .05) / (b + .05)).toFixed(2));
      }
      return [...new Set(bad)].slice(0, 10); }"""
    with Visit(browser, report.page, scheme=scheme) as page:
        assert page.evaluate(program) == []


def test_the_page_moved_elsewhere_is_the_same(browser, report, tmp_path):
    shutil.copy(report.page, tmp_path / "alone.html")
    with Visit(browser, tmp_path / "alone.html") as page:
        assert NAME in page.inner_text("h1") and page.locator("article").count() == 10
