"""What a command costs with all its processes: seconds, seconds of the processor, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVERY_S = 0.02  # between two looks at the memory
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MAXRSS = 1 if sys.platform == "darwin" else 1 << 10  # bytes in a unit of ru_maxrss


@dataclass(frozen=True)
class Cost:
    """wall_s: from start to end. cpu_s: user and system, of the process and of all that it has waited for. peak_mb: see
    ``Watch``, in MB of 1,000,000 bytes."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    code: int
    said: str


class Watch:
    """The most memory that a process and its children held together.

    On Linux the sum of the resident memory of the whole tree, looked at fifty times a second; pages that forked processes
    share count once for each. It is never below the largest resident memory of one of them as the system keeps it, which no
    look can miss; elsewhere that is all there is.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(EVERY_S):
            self._most = max(self._most, resident(self._pid))

    def stop(self) -> int:
        """End it; bytes."""
        self._over.set()
        self._thread.join()
        return self._most


def resident(pid: int) -> int:
    """Bytes of resident memory of a process and its children; 0 when it is gone, or where there is no /proc."""
    total, left = 0, [pid]
    while left:
        process = left.pop()
        try:
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
            for thread in os.listdir(f"/proc/{process}/task"):  # a child belongs to the thread that started it
                left += map(int, Path(f"/proc/{process}/task/{thread}/children").read_text().split())
        except (OSError, IndexError, ValueError):
            continue  # it has ended meanwhile
    return total


def environment() -> dict[str, str]:
    """For the scripts that are measured: one thread in libraries, this project before any other, no hub."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def measured(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end. ``said``: what it wrote to both outputs.

    Start it from a small process: for the system the memory of the one that starts another is the least that the other can
    have had.
    """
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)
        watch = Watch(process.pid)
        try:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            most = watch.stop()
        wall = time.perf_counter() - started
        said.seek(0)
        text = said.read().decode(errors="replace")
    peak = max(most, used.ru_maxrss * _MAXRSS) / 1e6
    return Cost(wall, used.ru_utime + used.ru_stime, peak, process.returncode, text)
