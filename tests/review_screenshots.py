"""Makes docs/img/review.png and review_dark.png anew: ``python tests/review_screenshots.py`` (needs Chromium and Playwright).

The sample data set, labelled by the offline backend, half reviewed: some sentences are finished, one is being decided.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from review_run import Server, chromium

from syn_pipelines import s1_predict_data, s4_split_data

ROOT = Path(__file__).resolve().parents[1]
DATA_SET, RUN = "sample_zh", "offline"
FINISHED, WRONG = 24, 0.12  # sentences before the one in the picture, and the share of their guesses that is rejected
# The sentence in the picture, 浙江大学的食堂居然有小龙虾，我酸了, and what was decided about it so far.
SENTENCE = "222"
DECIDED = (("accept", "浙江大学", "ORG.NAM"), ("accept", "浙江", "GPE.NAM"), ("accept", "食堂", "LOC.NOM"),
           ("accept", "浙江", "LOCATION"), ("accept", "浙江大学", "ORGANIZATION"), ("accept", "食堂", "LOCATION"),
           ("reject", "小龙虾", "PERSON"))  # they are crayfish


def labelled_run(folder: Path) -> None:
    """Steps 1 and 4 on the sample."""
    shutil.copytree(ROOT / "data" / "few_shot" / DATA_SET, folder / DATA_SET, ignore=lambda _, names: [n for n in names if n == RUN])
    common = {"cmd_args": False, "file_dir": str(folder), "file_name": DATA_SET, "save_type_name": RUN}
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


def main() -> None:
    """Take the pictures."""
    target = ROOT / "docs" / "img"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        labelled_run(Path(folder))
        server = Server(Path(folder), file_name=DATA_SET, save_type_name=RUN, n=60, dense_lang="auto")
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
                page.screenshot(path=str(target / f"{name}.png"))
                print(target / f"{name}.png")
        finally:
            server.end()


if __name__ == "__main__":
    main()
