"""Scripts as processes of their own in which something goes wrong at a chosen moment.

    run_child("s4_split_data", flags, at=("open", "train_250.jsonl.part"), do="kill -TERM")
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline import NAME, all_bytes, write_run, write_targets

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = {"backend": "offline", "lang": "ja"}  # for Japanese it loads nothing
STEPS = ["s4_split_data", "s5_merge_data", "s6_combine_syn_fusion_label"]  # in order, after the steps with a model
BEFORE = {"s5_merge_data": 1, "s6_combine_syn_fusion_label": 2, "s8_process_label_and_combine": 3}  # of these

# Runs a script after some code of the test; that code may call at(event, name, do, nth) to have something done when
# Python itself tells (sys.addaudithook) that a file with this name is opened, a module is imported, and the like.
_BEGIN = """
import os, runpy, shutil, signal, sys, threading, time
def at(event, name, do, nth=1):
    left = [nth]
    def told(happening, details):
        if happening == event and left[0] and any(isinstance(d, (str, bytes, os.PathLike)) and name in os.fsdecode(d) for d in details):
            left[0] -= 1
            if not left[0]:
                do()
    sys.addaudithook(told)
def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)
"""
_END = """
if os.path.exists(sys.argv[1]):
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def command(script: str, flags: dict[str, Any], before: str = "") -> list[str]:
    """The words that run a script, after the code ``before``. ``tools.x`` names a module."""
    what = f"syn_pipelines.{script}" if "." in script else str(ROOT / "syn_pipelines" / f"{script}.py")
    words = [f"--{name}={value}" for name, value in flags.items()]
    if before:
        return [sys.executable, "-c", _BEGIN + before + _END, what, *words]
    return [sys.executable, *(["-m"] if "." in script else []), what, *words]


def environment(**more: str) -> dict[str, str]:
    names = {name: value for name, value in os.environ.items() if name not in ("OPENAI_API_KEY",)}
    return {**names, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **more}


def run_child(script: str, flags: dict[str, Any], *, before: str = "", prepare: Sequence[Callable[[], Any]] = ()
              ) -> subprocess.CompletedProcess[str]:
    """Run a script to its end. prepare: called in the new process before the interpreter starts."""
    return subprocess.run(command(script, flags, before), env=environment(), capture_output=True, text=True, timeout=240,
                          preexec_fn=_prepared(prepare), cwd=ROOT)


def start_child(script: str, flags: dict[str, Any], *, before: str = "", **more: str) -> subprocess.Popen[str]:
    """Start a script; standard error is read with communicate(). more: of its environment."""
    return subprocess.Popen(command(script, flags, before), env=environment(**more), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, preexec_fn=_prepared(()), cwd=ROOT)


def _prepared(steps: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # a test run in the background ignores Ctrl-C, and so would its children
            signal.signal(number, signal.SIG_DFL)
        for step in steps:
            step()
    return prepare


def last_line(said: str) -> str:
    return said.strip().split("\n")[-1]


# --- one script of a run, the others behind it ------------------------------------------------------------------------

def flags(file_dir: Path, script: str = "", **more: object) -> dict[str, object]:
    """For a script at work in a folder of data sets."""
    if script == "s0_prepare_data":
        return {"file_dir": file_dir, "file_name": "made", "train": file_dir / NAME / "train_1000.jsonl", **more}
    asks = OFFLINE if script[:2] in ("s1", "s2", "s3") or script == "run_all" else {}
    return {"file_dir": file_dir, "file_name": NAME, **asks, **more}


def prepared(file_dir: Path, script: str) -> Path:
    """A run in which all is done that comes before a script; returns the folder of what it makes."""
    asks = script[:2] in ("s1", "s2", "s3") or script == "run_all"
    run = write_run(file_dir, modes=() if asks else ("entity", "pos"), synthetic=not asks or script[:2] == "s3", held_out=True)
    for step in STEPS[:BEFORE.get(script, 0)]:
        assert run_child(step, flags(file_dir)).returncode == 0
    if script == "s8_process_label_and_combine":
        write_targets(run)
    return file_dir / "made" if script == "s0_prepare_data" else run


def undisturbed_run(file_dir: Path, script: str) -> dict[str, bytes]:
    """The files of a run after a script that nobody has disturbed."""
    made = prepared(file_dir, script)
    result = run_child(script, flags(file_dir, script))
    assert result.returncode == 0, result.stderr
    return all_bytes(made)


def moved(files: dict[str, bytes], there: Path, here: Path) -> dict[str, bytes]:
    """Files of a run as they would be in another place: manifests hold the command, and that the folder."""
    for name in (str, lambda path: f"{path.parent.name}/{path.name}"):
        files = {file: content.replace(name(there).encode(), name(here).encode()) for file, content in files.items()}
    return files
