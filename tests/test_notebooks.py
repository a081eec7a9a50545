"""The notebooks run from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from workspace import ROOT, make_workspace


def test_the_quickstart_notebook_runs_and_calls_every_step(tmp_path, monkeypatch):
    make_workspace(tmp_path / "project", name="sample_zh", train=16, held_out=4)
    monkeypatch.setenv("FILE_DIR", str(tmp_path / "project" / "data" / "few_shot"))
    monkeypatch.setenv("MAX_STEPS", "2")
    path = ROOT / "notebooks" / "quickstart.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    source = "".join(cell.source for cell in notebook.cells)
    for number in range(1, 9):
        assert f"s{number}_" in source
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "PER.NAM" in printed and Path(tmp_path / "project/data/few_shot/sample_zh/notebook/present.json").is_file()
