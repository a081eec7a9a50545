"""Processes of run_all that die at a wanted point: started, listened to, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syn_pipelines.tools._chaos_child import TIME, Event, Order
from syn_pipelines.tools._chaos_points import Target
from syn_pipelines.utils.options import PROJECT_ROOT

# What starts the process; the order's file and the flags follow. Tests put one here that breaks a promise.
CHILD: Sequence[str] = ("-m", "syn_pipelines.tools._chaos_child")
# Signals that end a process as the wanted point: SIGXFSZ in mid-file, where nothing but the system can end it.
DEADLY = (-signal.SIGKILL, -signal.SIGXFSZ)
HANGS_S, HANGS_TIMES = 600.0, 20  # longer than both (times the undisturbed run), and a process hangs


@dataclass(frozen=True)
class Start:
    """How one process went. point: ``step``, ``kind`` and ``file`` where it died, None where it did not. code: its exit
    code. said: the end of what it wrote to standard error."""

    code: int
    point: dict[str, str] | None
    seconds: float
    said: str
    asked: Path


@dataclass
class Processes:
    """Starts one process after the other.

    workplace: folder for orders and the events. limit_s: of one process.
    """

    workplace: Path
    limit_s: float = 0.0
    started: int = 0
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def trace(self) -> Path:
        return self.workplace / "events.json"

    def events(self) -> list[Event]:
        """Those of the undisturbed run."""
        return [tuple(event) for event in json.loads(self.trace.read_text(encoding="utf-8"))]

    def run(self, flags: Mapping[str, Any], root: Path, target: Target | None = None, *, counts: bool = False) -> Start:
        """Start run_all and wait for its end. counts: write down its events."""
        self.started += 1
        asked = self.workplace / f"asked_{self.started}"
        reader, writer = os.pipe()
        order = Order(str(root.absolute()), str(self.trace), str(asked), writer, target.index if target else None,
                      target.kind if target else "", counts)
        order.write(self.workplace / "order.json")
        words = [sys.executable, *CHILD, str(self.workplace / "order.json"), "--", *(f"--{k}={v}" for k, v in flags.items())]
        path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]))
        began = time.monotonic()
        with (self.workplace / "said").open("wb") as said:
            process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=said, pass_fds=(writer,))
        os.close(writer)
        try:
            point = self._listen(process, reader, target)
        finally:
            process.kill()
            process.wait()
        tail = (self.workplace / "said").read_text(encoding="utf-8", errors="replace")[-4000:]
        died = process.returncode in DEADLY and point is not None
        return Start(process.returncode, point if died else None, time.monotonic() - began, tail.strip(), asked)

    def _listen(self, process: subprocess.Popen[bytes], reader: int, target: Target | None) -> dict[str, str] | None:
        """Wait for the end; for a point in time, kill. Returns what the process told about its point."""
        timer = threading.Timer(self.limit_s, process.kill) if self.limit_s else None
        if timer:
            timer.start()
        point = None
        try:
            with os.fdopen(reader, "rb") as told:
                for line in told:
                    point = json.loads(line)
                    if point["kind"] == TIME and target:
                        try:
                            process.wait(target.delay_s)
                        except subprocess.TimeoutExpired:
                            process.kill()
            process.wait()
        finally:
            if timer:
                timer.cancel()
        return point
