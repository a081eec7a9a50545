"""The fuzz run starts, counts, and says so when something breaks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "fuzz" / "fuzz_replies.py"
needs_atheris = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs the package atheris (pip install atheris)")


def fuzz(*flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, timeout=280,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **variables})


@needs_atheris
def test_a_short_run_of_every_target_finds_nothing(tmp_path):
    done = fuzz("--runs=300", "--seconds=600", "--json", f"--save={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert set(found["targets"]) == {"entity", "pos", "inline", "filters", "grounding", "jsonl"} and found["crashes"] == []
    assert all(target["executions"] >= 300 and target["coverage"] > 20 for target in found["targets"].values())
    assert list(tmp_path.iterdir()) == []


@needs_atheris
def test_an_input_that_breaks_a_target_is_saved_and_the_exit_code_is_1(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(  # in the processes of the run alone: grounding meets an "X" it cannot read
        "import sys\nif '--child' in sys.argv:\n"
        f"    sys.path.insert(0, {str(SCRIPT.parents[2])!r})\n"
        "    import syn_pipelines.utils.spans as spans\n"
        "    def broken(self, surface, find=spans.Grounder.find):\n"
        "        if 'X' in surface:\n            raise RuntimeError('broken')\n"
        "        return find(self, surface)\n"
        "    spans.Grounder.find = broken\n", encoding="utf-8")
    done = fuzz("--targets=grounding", "--runs=200000", "--seconds=120", "--json", f"--save={tmp_path / 'saved'}", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    saved = json.loads(done.stdout)["crashes"]
    assert len(saved) == 1 and b"X" in Path(saved[0]).read_bytes()
    assert "RuntimeError: broken" in json.loads(done.stdout)["targets"]["grounding"]["error"]


def test_without_atheris_it_says_how_to_install_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'atheris' else find(name, *rest)\n", encoding="utf-8")
    done = fuzz("--runs=1", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and "pip install atheris" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_target_is_named():
    done = fuzz("--targets=entity,prose")
    assert done.returncode == 2 and "prose: unknown" in done.stderr
