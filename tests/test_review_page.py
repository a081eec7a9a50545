"""The review page in a real Chromium: by keyboard alone, by mouse alone, by finger, with hostile text."""

from __future__ import annotations

import json

import pytest
from review_run import HARD, SCRIPT, SCRIPT_LABEL, chromium, hard_run, lines, served

pytest.importorskip("starlette", reason="the extra [review] is not installed")
pytest.importorskip("uvicorn", reason="the extra [review] is not installed")

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser, tmp_path):
    """A function that opens the page of a run of its own; fails on any error that the page reports."""
    contexts, errors = [], []
    run = hard_run(tmp_path)
    with served(tmp_path, n=100) as server:
        def opened(identity: str = "13", **settings):
            context = browser.new_context(**{**DESKTOP, **settings})
            contexts.append(context)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("dialog", lambda dialog: errors.append("a dialog opened"))
            page.goto(server.address)
            page.wait_for_selector(".token")
            index = server.index_of(identity)
            page.fill("#number", str(index + 1))
            page.keyboard.press("Enter")
            page.wait_for_function("id => document.querySelector('#sentence-title').textContent === 'Sentence ' + id", arg=identity)
            page.evaluate("document.activeElement.blur()")
            return page
        opened.run, opened.server = run, server
        yield opened
    for context in contexts:
        context.close()
    assert not errors


def saved(page, words):
    """Wait until the page says so; only then is it on disk."""
    page.wait_for_function("words => document.querySelector('#status').textContent.startsWith('saved: ' + words)", arg=words)


def decided(run):
    """(start, end, label, decision, where to) of every line of both files in the order of time."""
    rows = sorted((row for name in ("review.jsonl", "gold_corrections.jsonl") for row in lines(run, name)), key=lambda r: r["time"])
    return [(row.get("start"), row.get("end"), row.get("label"), row["decision"], tuple(row["to"].values()) if "to" in row else None)
            for row in rows]


def bars(page):
    """What is drawn under the text: (title, number of pieces) of every span."""
    found = page.eval_on_selector_all(".bars .bar", "bars => bars.map(b => [b.dataset.span, b.title])")
    return {title: sum(1 for _, other in found if other == title) for _, title in found}


# 13: 我在北京大学, gold LOC 2-6 and 2-4, of the LLM ORGANIZATION 2-6 and LOCATION 2-4
def test_by_keyboard_alone(page):
    tab, run = page(), page.run
    keys = tab.keyboard  # the first span is chosen
    saying = [("a", "accepted LOC"), ("r", "rejected LOC")]
    for key, words in saying:
        keys.press(key)
        saved(tab, words)
    assert decided(run) == [(2, 6, "LOC", "accept", None), (2, 4, "LOC", "reject", None)]
    keys.press("l")  # the next one that is open is chosen
    tab.wait_for_selector("#palette[open]")
    keys.type("facil")
    keys.press("Enter")
    saved(tab, "relabelled LOCATION")
    assert decided(run)[-1] == (2, 4, "LOCATION", "relabel", (2, 4, "FACILITY"))
    keys.press("e")
    keys.press("ArrowLeft")
    keys.press("Shift+ArrowLeft")
    keys.press("Enter")
    saved(tab, "resized ORGANIZATION")
    assert decided(run)[-1] == (2, 6, "ORGANIZATION", "resize", (1, 5, "ORGANIZATION"))
    keys.press("n")  # nested in that
    keys.press("ArrowRight")
    keys.press("Shift+ArrowRight")
    keys.press("Enter")
    tab.wait_for_selector("#palette[open]")
    keys.type("person")
    keys.press("ArrowDown")
    keys.press("ArrowUp")
    keys.press("Enter")
    saved(tab, "added PERSON")
    added = decided(run)[-1]
    assert added[2:4] == ("PERSON", "add") and added[1] - added[0] == 2
    keys.press("Control+z")
    saved(tab, "taken back: add PERSON")
    assert decided(run)[-1] == (*added[:3], "undo", None)
    keys.press("u")
    saved(tab, "taken back: resize ORGANIZATION")
    keys.press("Enter")
    tab.wait_for_function("() => document.querySelector('#sentence-title').textContent !== 'Sentence 13'")
    assert [row[3] for row in decided(run)[-2:]] == ["accept", "done"] and decided(run)[-2][2] == "ORGANIZATION"
    keys.press("u")  # nothing was decided here, so the last of all is taken back, all of it, where it was
    tab.wait_for_function("() => document.querySelector('#sentence-title').textContent === 'Sentence 13'")
    saved(tab, "taken back: ")
    assert sorted(row[3] for row in decided(run)[-2:]) == ["undo", "undo"]


def test_by_mouse_alone(page):
    tab, run = page(), page.run
    mouse = tab.mouse

    def point(i, fraction=0.5):
        box = tab.locator(f".token[data-i='{i}']").bounding_box()
        return box["x"] + fraction * box["width"], box["y"] + 12

    def pull(start, *places):
        mouse.move(*start)
        mouse.down()
        for place in places:
            mouse.move(*place)
        mouse.up()

    tab.click(".bar[title^='ORGANIZATION']")
    tab.click("#accept")
    saved(tab, "accepted ORGANIZATION")
    tab.click("li:has(.pick:has-text('LOCATION')) .small.reject")
    saved(tab, "rejected LOCATION")
    tab.click(".bar[title^='LOC ·'] >> nth=1")
    number = tab.eval_on_selector(".pick[aria-pressed=true]", "b => Number(b.dataset.span)")
    span = page.server.view(page.server.index_of("13"))["spans"][number]
    tab.click("#relabel")
    tab.click("#palette li[data-label=PER]")
    saved(tab, "relabelled LOC")
    assert decided(run)[-1] == (span["start"], span["end"], "LOC", "relabel", (span["start"], span["end"], "PER"))
    tab.click(f".pick[data-span='{number}']")
    grip = tab.locator(".grip[data-edge=end]").bounding_box()
    pull((grip["x"] + 8, grip["y"] + 12), point(3), point(4))
    saved(tab, "resized LOC")
    assert decided(run)[-1] == (span["start"], span["end"], "LOC", "resize", (2, 5, "PER"))
    pull(point(4, 0.2), point(3), point(3, 0.1))  # from right to left, nested
    tab.wait_for_selector("#palette[open]")
    tab.click("#palette li[data-label=PERSON]")
    saved(tab, "added PERSON")
    assert decided(run)[-1] == (3, 5, "PERSON", "add", None)
    tab.click("#undo")
    saved(tab, "taken back: add PERSON")
    tab.click("#add")
    tab.click(".token[data-i='0']", position={"x": 5, "y": 8})
    tab.click(".token[data-i='1']", position={"x": 5, "y": 8})
    tab.click("#palette li[data-label=PER]")
    saved(tab, "added PER")
    assert decided(run)[-1] == (0, 2, "PER", "add", None)
    tab.click("#next")
    tab.wait_for_function("() => document.querySelector('#sentence-title').textContent !== 'Sentence 13'")
    tab.click("#previous")
    tab.wait_for_function("() => document.querySelector('#sentence-title').textContent === 'Sentence 13'")
    tab.click("#finish")
    tab.wait_for_function("() => document.querySelector('#sentence-title').textContent !== 'Sentence 13'")
    assert "done" in {row[3] for row in decided(run)} and "" not in [s["decision"] for s in page.server.view(page.server.index_of("13"))["spans"]]


def test_by_finger_at_phone_width(page):
    tab, run = page(**PHONE), page.run
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.tap(".bar[title^='ORGANIZATION']")
    tab.tap("#reject")
    saved(tab, "rejected ORGANIZATION")
    tab.tap("#add")
    tab.tap("#undo")  # is called Leave by then
    assert tab.locator("#mode").is_hidden() and len(decided(run)) == 1
    tab.tap("#add")
    tab.tap(".token[data-i='0']", position={"x": 5, "y": 8})
    tab.tap(".token[data-i='0']", position={"x": 5, "y": 8})
    tab.tap("#palette li[data-label=PERSON]")
    saved(tab, "added PERSON")
    tab.tap("#finish")
    tab.wait_for_function("() => document.querySelector('#sentence-title').textContent !== 'Sentence 13'")
    assert [row[:4] for row in decided(run)[:2]] == [(2, 6, "ORGANIZATION", "reject"), (0, 1, "PERSON", "add")]
    for button in ("accept", "reject", "relabel", "resize", "add", "undo", "finish", "next", "help-button"):
        box = tab.locator(f"#{button}").bounding_box()
        assert box["width"] >= 24 and box["height"] >= 24 and 0 <= box["x"] and box["x"] + box["width"] <= 390


def test_reload_and_a_new_server_go_on_where_it_stopped(page, browser):
    tab, run = page(), page.run
    tab.keyboard.press("r")
    saved(tab, "rejected LOC")
    before = bars(tab)
    tab.reload()
    tab.wait_for_selector(".token")
    assert tab.inner_text("#sentence-title").endswith("13") and bars(tab) == before
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => !document.querySelector('#sentence-title').textContent.endsWith(' 13')")
    standing, count = tab.inner_text("#sentence-title"), tab.inner_text("#count")
    page.server.end()
    tab.keyboard.press("a")
    tab.wait_for_selector("#banner:not([hidden])")
    assert "does not answer" in tab.inner_text("#banner") and "not saved" in tab.inner_text("#status")
    with served(run.parents[1], n=100) as again:
        context = browser.new_context(**DESKTOP)
        other = context.new_page()
        other.goto(again.address)
        other.wait_for_selector(".token")
        assert (other.inner_text("#sentence-title"), other.inner_text("#count")) == (standing, count)
        assert again.token not in other.url  # neither in the history nor over anybody's shoulder
        context.close()


def test_the_address_without_the_secret_shows_no_data(page):
    tab = page()
    other = tab.context.new_page()
    other.goto(f"http://127.0.0.1:{page.server.port}/")
    other.wait_for_selector("#banner:not([hidden])")
    assert "whole address" in other.inner_text("#banner") and not other.locator(".token").count()


def test_a_page_of_another_site_can_neither_read_nor_decide(page):
    tab = page()
    evil = tab.context.new_page()
    evil.route("http://evil.example/", lambda route: route.fulfill(body="<p>evil</p>", content_type="text/html"))
    evil.goto("http://evil.example/")
    found = evil.evaluate("""async ([port, token]) => {
        const found = [];
        for (const [path, how] of [["api/queue", {}], ["api/queue", {headers: {"X-Review-Token": token}}],
            ["api/sentences/0", {method: "POST", body: '{"do":"finish"}'}],
            ["api/sentences/0", {method: "POST", body: '{"do":"finish"}', mode: "no-cors"}],
            ["api/sentences/0", {method: "POST", body: '{"do":"finish"}', headers: {"X-Review-Token": token, "Content-Type": "application/json"}}]])
          found.push(await fetch(`http://127.0.0.1:${port}/${path}`, how).then((a) => a.type === "opaque" ? "opaque" : a.text(), () => "refused"));
        return found;
    }""", [page.server.port, page.server.token])
    assert set(found) <= {"refused", "opaque"} and not decided(page.run)


def test_scripts_in_sentences_and_labels_do_nothing(page):
    tab = page("15")
    assert tab.locator("main img, main script, main a").count() == 0
    assert tab.inner_text(".token[data-i='0']") == SCRIPT
    assert tab.locator(f".pick:has-text({json.dumps(SCRIPT_LABEL)})").count() >= 1
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("l")
    tab.wait_for_selector("#palette[open]")
    assert tab.locator("#palette img, #palette script").count() == 0
    tab.keyboard.press("Escape")
    tab.keyboard.press("Enter")
    saved(tab, "finished")
    assert tab.evaluate("document.title").startswith("Review") and SCRIPT_LABEL in tab.inner_text("#estimate")


@pytest.mark.parametrize("identity", ["14", "15", "16"])
def test_tokens_are_never_split_whatever_they_hold(page, identity):
    tab = page(identity)
    tokens = HARD[int(identity) - 13][0]
    assert tab.locator(".token").count() == len(tokens)
    shown = tab.eval_on_selector_all(".token", "tokens => tokens.map(t => t.textContent)")
    for text in shown:
        assert text.strip() and not set(text) & set("\u202e\r\u2028")  # all can be seen and pressed, none steers
    keys = tab.keyboard
    keys.press("n")
    for _ in tokens:
        keys.press("ArrowLeft")
    for _ in tokens:
        keys.press("Shift+ArrowRight")
    keys.press("Enter")
    keys.type("person")
    keys.press("Enter")
    saved(tab, "added PERSON")
    assert decided(page.run)[-1] == (0, len(tokens), "PERSON", "add", None)


def test_a_sentence_without_spans_can_be_finished(page):
    tab = page("16")
    assert "No span here" in tab.inner_text("#spans")
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => document.querySelector('#sentence-title').textContent !== 'Sentence 16'")
    assert [row[3] for row in decided(page.run)] == ["done"]


def test_keys_work_on_any_keyboard_and_stay_out_of_input_methods(page):
    tab, run = page(), page.run
    tab.keyboard.press("ArrowDown")
    press = "(e) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {bubbles: true, cancelable: true, ...e}))"
    tab.evaluate(press, {"key": "ㅁ", "code": "KeyA", "isComposing": True})
    tab.evaluate(press, {"key": "Process", "code": "KeyA", "keyCode": 229})
    tab.evaluate(press, {"key": "a", "code": "KeyA", "altKey": True})
    tab.wait_for_timeout(200)
    assert not decided(run)
    tab.evaluate(press, {"key": "ㅁ", "code": "KeyA"})  # a Korean layout writes Hangul there
    saved(tab, "accepted LOC")
    tab.keyboard.press("n")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#palette[open]")
    tab.evaluate(press, {"key": "Enter", "code": "Enter", "isComposing": True})  # ends the word, not the dialog
    assert tab.locator("#palette[open]").count() == 1
    tab.keyboard.press("Escape")
    tab.keyboard.press("Escape")
    assert [row[3] for row in decided(run)] == ["accept"]


def test_keys_pressed_faster_than_answers_come_all_count(page):
    tab, run = page(), page.run
    for key in "arar":
        tab.keyboard.press(key)
    saved(tab, "rejected ORGANIZATION")
    assert [row[3] for row in decided(run)] == ["accept", "reject", "accept", "reject"]
    assert len({row[:3] for row in decided(run)}) == 4


def test_two_tabs_lose_no_decision(page):
    first, second = page(), page()
    first.click("li:has(.pick:has-text('ORGANIZATION')) .small.reject")
    saved(first, "rejected ORGANIZATION")
    assert "not decided" in second.inner_text("li:has(.pick:has-text('ORGANIZATION'))")
    second.click("li:has(.pick:has-text('LOCATION')) .small.accept")
    saved(second, "accepted LOCATION")
    assert "✗" in second.inner_text("li:has(.pick:has-text('ORGANIZATION')) .sign")  # and now it shows what the first has done
    second.click("#finish")
    saved(second, "finished, 2 accepted")
    assert sorted(row[2:4] for row in decided(page.run) if row[2]) == [
        ("LOC", "accept"), ("LOC", "accept"), ("LOCATION", "accept"), ("ORGANIZATION", "reject")]


def test_the_figures_follow_the_finished_sentences(page):
    tab = page()
    assert "finish some" in tab.inner_text("#estimate-note")
    tab.click("li:has(.pick:has-text('ORGANIZATION')) .small.reject")
    saved(tab, "rejected")
    assert not tab.locator("#estimate tr").count()  # an unfinished sentence says nothing yet
    tab.click("#finish")
    saved(tab, "finished")
    rows = tab.eval_on_selector_all("#estimate tbody tr", "rows => rows.map(r => r.textContent)")
    assert any(row.startswith("ORGANIZATION") and "0 % [0, 79] 0/1" in row for row in rows)
    assert any(row.startswith("LOC ★ gold") and "100 % [34, 100] 2/2" in row for row in rows)
    assert "95 % intervals" in tab.inner_text("#estimate-note")


def test_a_queue_by_doubt_gives_no_estimate(browser, tmp_path):
    run = hard_run(tmp_path)
    with served(tmp_path, n=10, order="doubt") as server:
        context = browser.new_context(**DESKTOP)
        tab = context.new_page()
        tab.goto(server.address)
        tab.wait_for_selector(".token")
        doubts = [len(server.view(i)["doubts"]) for i in range(10)]
        assert doubts[0] and tab.locator("#doubts li").count() == doubts[0]
        tab.keyboard.press("Enter")
        saved(tab, "finished")
        assert "no estimate" in tab.inner_text("#estimate-note") and "%" not in tab.inner_text("#estimate")
        context.close()
    assert lines(run) or lines(run, "gold_corrections.jsonl")


def test_help_names_every_key_and_closes_by_keyboard(page):
    tab = page()
    tab.keyboard.press("?")
    tab.wait_for_selector("#help[open]")
    assert {"a", "r", "l", "e", "n", "u", "Enter", "Esc", "?", "o", "j", "k"} <= set(tab.eval_on_selector_all("#help kbd", "k => k.map(x => x.textContent)"))
    tab.keyboard.press("a")  # is not a decision while help is open
    tab.keyboard.press("Escape")
    assert not tab.locator("#help[open]").count() and not decided(page.run)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(page, scheme):
    """Contrast as WCAG 2 counts it, at least 4.5 for text; measured on what the browser has worked out."""
    tab = page(color_scheme=scheme)
    tab.keyboard.press("ArrowDown")
    low = tab.evaluate("""() => {
        const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        const rgba = (color, under) => { canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1); canvas.fillStyle = color;
          canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const light = (c) => c.map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
        const css = (c) => `rgb(${c.join(",")})`;
        const ground = (e) => e ? rgba(getComputedStyle(e).backgroundColor, css(ground(e.parentElement))) : [255, 255, 255];
        const low = [];
        for (const e of document.querySelectorAll("h1, h2, .token, .bar .name, .pick .surface, .pick .label, .pick .kind, .actions button:not(:disabled), #estimate-note, .badge, #count")) {
          const under = ground(e);
          const [a, b] = [light(under), light(rgba(getComputedStyle(e).color, css(under)))].sort((x, y) => y - x);
          if ((a + .05) / (b + .05) < 4.5) low.push([e.className || e.id || e.tagName, e.textContent.trim(), (a + .05) / (b + .05)]);
        }
        return low;
    }""")
    assert low == []
