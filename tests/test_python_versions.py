"""The steps run on every supported Python that this machine has."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from workspace import make_workspace

# What the steps need with the offline backend in Chinese: pure Python packages, of which those of this environment serve, and
# one that is compiled for each version.
PURE, COMPILED = ("jieba", "tqdm", "yaml", "syn_pipelines"), "orjson"
STEPS = (
    "s1_predict_data.py --backend=offline --mode=entity", "s1_predict_data.py --backend=offline --mode=pos",
    "s2_continous_generation.py --backend=offline", "s3_predict_syn_data.py --backend=offline --mode=pos",
    "s4_split_data.py", "s5_merge_data.py", "s6_combine_syn_fusion_label.py", "s8_process_label_and_combine.py",
)  # fmt: skip


def interpreter(version: str) -> str | None:
    """Path of a Python of this version that works."""
    found = shutil.which(f"python{version}")
    works = found and subprocess.run([found, "-c", "import sqlite3"], capture_output=True).returncode == 0
    return found if works else None


def install_compiled(version: str, folder: Path) -> None:
    """Skips the test where the package index cannot be reached."""
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "--python-version", version,
                           "--only-binary=:all:", "--no-deps", f"{COMPILED}=={metadata.version(COMPILED)}"],
                          capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{COMPILED} for Python {version} could not be installed: {done.stderr.strip().splitlines()[-1:]}")


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_the_steps_run_offline_and_give_the_same_bytes(version, tmp_path):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no python{version} on this machine")
    (tmp_path / "pure").mkdir()
    for name in PURE:
        spec = importlib.util.find_spec(name)
        (tmp_path / "pure" / name).symlink_to(Path(spec.origin).parent)
    install_compiled(version, tmp_path / "compiled")
    results = {}
    for name, executable, packages in (("this", sys.executable, ["pure"]), ("other", python, ["pure", "compiled"])):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(tmp_path / folder) for folder in packages),
                       "PYTHONDONTWRITEBYTECODE": "1"}
        workspace = make_workspace(tmp_path / name, train=8, held_out=2)
        for step in STEPS:
            script, *flags = step.split()
            command = [executable, f"syn_pipelines/{script}", "--file_name=weibo", *flags]
            done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{step}: {done.stderr}"
        run = workspace / "data" / "few_shot" / "weibo" / "GLM4"
        results[name] = {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*.json*"))
                         if p.name != "run.log.jsonl"}
    assert results["this"] == results["other"]
