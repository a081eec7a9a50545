"""Makes the pictures of the report and of the review page in docs/img/ anew: ``python tests/screenshots.py``.

Needs Chromium and Playwright, and some minutes. The sample data set, labelled by the offline backend: its report after a whole
run with short trainings, and a review in which some sentences are finished and one is being decided.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from review_run import Server, chromium

from syn_pipelines import run_all, s1_predict_data, s4_split_data

ROOT = Path(__file__).resolve().parents[1]
DATA_SET, RUN = "sample_zh", "offline"
TRAINING_STEPS = 800  # of each NER model: enough to find something in the synthetic sentences
FINISHED, WRONG = 24, 0.12  # sentences before the one in the picture, and the share of their guesses that is rejected
# The sentence in the picture, 浙江大学的食堂居然有小龙虾，我酸了, and what was decided about it so far.
SENTENCE = "222"
DECIDED = (("accept", "浙江大学", "ORG.NAM"), ("accept", "浙江", "GPE.NAM"), ("accept", "食堂", "LOC.NOM"),
           ("accept", "浙江", "LOCATION"), ("accept", "浙江大学", "ORGANIZATION"), ("accept", "食堂", "LOCATION"),
           ("reject", "小龙虾", "PERSON"))  # they are crayfish


def sample(folder: Path) -> dict[str, Any]:
    """A copy of the sample without a run; what every step is told."""
    shutil.copytree(ROOT / "data" / "few_shot" / DATA_SET, folder / DATA_SET, ignore=lambda _, names: [n for n in names if n == RUN])
    return {"cmd_args": False, "file_dir": str(folder), "file_name": DATA_SET, "save_type_name": RUN}


def whole_run(folder: Path) -> Path:
    """All steps; the report."""
    return run_all.main(**sample(folder), backend="offline", max_steps=TRAINING_STEPS).page


def labelled_run(folder: Path) -> None:
    """Steps 1 and 4."""
    common = sample(folder)
    for mode in ("entity", "pos"):
        s1_predict_data.main(**common, backend="offline", mode=mode)
    s4_split_data.main(**common)


def review_some(server: Server) -> int:
    """Finish the first sentences, and begin with one that has nested labels; returns its place."""
    rng = random.Random(7)

    def key(span):
        return span["start"], span["end"], span["label"]

    for index in range(FINISHED):
        for span in server.view(index)["spans"]:
            if span["kind"] != "gold" and rng.random() < WRONG:
                server.act(index, "reject", key(span))
        server.act(index, "finish")
    place = server.index_of(SENTENCE)
    for what, surface, label in DECIDED:
        view = server.view(place)
        span = next(s for s in view["spans"] if s["label"] == label and "".join(view["tokens"][s["start"]:s["end"]]) == surface)
        server.act(place, what, key(span))
    return place


def take_report(browser: Any, page_file: Path) -> None:
    """The top of the report, light and dark, and its sentences."""
    for name, scheme, part in (("report", "light", "header"), ("report_dark", "dark", "header"), ("report_sentences", "light", "#sample")):
        page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme, reduced_motion="reduce")
        page.goto(page_file.resolve().as_uri())
        page.locator("article").first.wait_for()
        page.locator(part).first.evaluate("node => node.scrollIntoView()")
        page.wait_for_timeout(500)
        save(page, name)


def take_review(browser: Any, folder: Path) -> None:
    """A sentence that is being decided, light and dark."""
    server = Server(folder, file_name=DATA_SET, save_type_name=RUN, n=60, dense_lang="auto")
    try:
        place = review_some(server)
        for name, scheme in (("review", "light"), ("review_dark", "dark")):
            page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme, device_scale_factor=1.5)
            page.goto(server.address)
            page.wait_for_selector(".token")
            page.fill("#number", str(place + 1))
            page.keyboard.press("Enter")
            page.wait_for_function("n => location.hash === '#' + n", arg=place + 1)
            page.keyboard.press("k")
            page.keyboard.press("j")
            page.wait_for_timeout(300)
            save(page, name)
    finally:
        server.end()


def save(page: Any, name: str) -> None:
    """docs/img/<name>.png"""
    path = ROOT / "docs" / "img" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(path))
    print(path)


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        labelled_run(Path(folder, "labelled"))
        take_review(browser, Path(folder, "labelled"))
        take_report(browser, whole_run(Path(folder, "whole")))


if __name__ == "__main__":
    main()
