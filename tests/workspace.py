"""A folder that looks like the project's root but holds its own data, so that commands run as printed harm nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make_workspace(folder: Path, *, data_set: str = "sample_zh", name: str = "weibo", train: int = 40,
                   held_out: int = 10) -> Path:
    """Links to the code and the label maps, and a small data set made of the first sentences of a sample."""
    for link in ("syn_pipelines", "configs", "notebooks", "data/fusion_knowledge", "data/examples"):
        (folder / link).parent.mkdir(parents=True, exist_ok=True)
        (folder / link).symlink_to(ROOT / link)
    source, target = ROOT / "data" / "few_shot" / data_set, folder / "data" / "few_shot" / name
    target.mkdir(parents=True)
    shutil.copy(source / "labels.txt", target)
    for file, rows in (("train_1000", train), ("dev", held_out), ("test", held_out)):
        lines = (source / f"{file}.jsonl").read_bytes().split(b"\n")[:rows]
        (target / f"{file}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder


def shell(command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in bash, ``python`` being the interpreter of the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=cwd, env=environment, capture_output=True,
                          text=True)


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Content of every file of a run that must not depend on when or how often it was made."""
    skipped = ("run.log.jsonl", ".journal", "train_log.jsonl")
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and not any(part in skipped for part in p.relative_to(folder).parts)}
