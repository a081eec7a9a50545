"""The notebooks run from top to bottom, and what they show is what was made, with nothing in it that acts."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from workspace import ROOT, make_workspace

NOTEBOOKS = ROOT / "notebooks"
pytestmark = pytest.mark.timeout(900)  # each notebook is run once, for several tests
ATTACK = "<script>alert(1)</script>"


def executed(name: str) -> nbformat.NotebookNode:
    """The notebook with its outputs; an error in a cell is one of the test."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources=resources).execute()
    return notebook


def shown(notebook: nbformat.NotebookNode) -> list[str]:
    """The HTML of every output."""
    return [output["data"]["text/html"] for cell in notebook.cells for output in cell.get("outputs", [])
            if "text/html" in output.get("data", {})]


def spans(page: str) -> list[tuple[str, str]]:
    """(kind, label) of every box in the text, as they end."""
    return re.findall(r'<span class="span (target|entity|pos)[^"]*" style="--h:\d+" title="([^(]*) \(', page)


def first_row(path: Path) -> Mapping:
    return json.loads(path.read_text(encoding="utf-8").split("\n")[0])


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The notebook on a small data set whose first sentence attacks the page; its folder, its outputs."""
    data = make_workspace(tmp_path_factory.mktemp("quickstart") / "project", name="sample_zh", train=16,
                          held_out=4) / "data" / "few_shot"
    path = data / "sample_zh" / "train_1000.jsonl"
    attack = {"text": [*"你好", ATTACK, *"王小明。"],
              "entities": [{"start": 3, "end": 6, "entity": "PER.NAM", "text": [*"王小明"]}]}
    path.write_text(json.dumps(attack, ensure_ascii=False) + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FILE_DIR", str(data))
        patch.setenv("MAX_STEPS", "2")
        patch.setenv("OMP_NUM_THREADS", "1")
        return data / "sample_zh" / "notebook", executed("quickstart.ipynb")


@pytest.fixture(scope="module")
def own_model(tmp_path_factory):
    data = tmp_path_factory.mktemp("own") / "few_shot"
    data.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FILE_DIR", str(data))
        patch.setenv("MAX_STEPS", "30")
        patch.setenv("OMP_NUM_THREADS", "1")
        return data / "news" / "notebook", executed("your_own_model.ipynb")


def test_the_quickstart_goes_from_data_to_report_in_ten_cells_that_call_every_step(quickstart):
    run, notebook = quickstart
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    source = "".join(cell.source for cell in cells)
    assert len(cells) == 10 and all(f"s{number}_" in source for number in range(1, 9))
    assert (run / "present.json").is_file() and (run / "report.html").is_file()


def test_the_quickstart_shows_gold_and_extension_labels_and_parts_of_speech(quickstart):
    run, notebook = quickstart
    row = first_row(run / "1000" / "train_1000_fusion.jsonl")
    page = next(page for page in shown(notebook) if '"span pos' in page)
    assert sorted(label for _, label in spans(page)) == sorted(entity["entity"] for entity in row["entities"])
    assert ("target", "PER.NAM") in spans(page)


def test_the_quickstart_ends_with_the_report_itself_in_a_frame(quickstart):
    run, notebook = quickstart
    frame = shown(notebook)[-1]
    found = re.search(r'<iframe src="data:text/html;charset=utf-8;base64,([^"]+)"', frame)
    assert found and base64.b64decode(found[1]) == (run / "report.html").read_bytes()


@pytest.mark.parametrize("which", ["quickstart", "own_model"])
def test_nothing_that_a_notebook_shows_is_a_script(which, request):
    _, notebook = request.getfixturevalue(which)
    pages = [page for page in shown(notebook) if "<iframe" not in page]  # the report is a page of its own, with its policy
    assert pages and not any("<script" in page.lower() or " onerror" in page.lower() for page in pages)
    if which == "quickstart":
        assert any(html.escape(ATTACK) in page for page in pages)


def test_the_summary_of_a_step_is_a_table_of_its_account(quickstart):
    _, notebook = quickstart
    page = next(page for page in shown(notebook) if "s1_predict_data" in page)
    assert re.search(r'<th scope="row">sentences \(pos\)</th><td class=n>17</td><td>17 ok \+', page)


def test_your_own_model_shows_scores_the_comparison_and_what_was_found(own_model):
    run, notebook = own_model
    pages = shown(notebook)
    scores = next(page for page in pages if "Strict scores on test" in page)
    compared = next(page for page in pages if "F1 of A" in page)
    assert {"PER", "LOC", "ORG"} <= set(re.findall(r'<th scope="row">([^<]+)</th>', scores))
    assert "gold_1000" in compared and "fusion_1000" in compared and "on dev" in compared
    beside = next(page for page in pages if '<span class="which">predicted</span>' in page)
    gold = [e["entity"] for line in (run / "found_test.jsonl").read_text(encoding="utf-8").split("\n")[:5]
            for e in json.loads(line)["entities"]]
    assert len([1 for kind, _ in spans(beside) if kind == "target"]) >= len(gold) > 0
    assert "Lisbon" in pages[-1] and (run / "ner" / "gold_1000").is_dir()


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
