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

ROOT = Path(__file__).resolve().parents[1]

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


def start_child(script: str, flags: dict[str, Any], *, before: str = "") -> subprocess.Popen[str]:
    """Start a script; standard error is read with communicate()."""
    return subprocess.Popen(command(script, flags, before), env=environment(), stdout=subprocess.PIPE,
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
