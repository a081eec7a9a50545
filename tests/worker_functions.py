"""Functions that the worker processes of test_workers.py are told to call."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

Function = Callable[[bytes], bytes]


def upper() -> Function:
    """Answers with capital letters, the first task last."""
    def answer(task: bytes) -> bytes:
        if task.startswith(b"0"):
            time.sleep(0.3)
        return task.upper()
    return answer


def printing() -> Function:
    """Prints where the answers go."""
    def answer(task: bytes) -> bytes:
        os.write(1, b"noise\n")
        print("more noise", flush=True)
        return task
    return answer


def dying(at: str, pause: float = 0) -> Function:
    """Is killed in the middle of the task ``at``. pause: seconds that any other one takes."""
    def answer(task: bytes) -> bytes:
        if task == at.encode():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(pause)
        return task
    return answer


def group() -> Function:
    """Answers with the group of processes it belongs to."""
    return lambda task: str(os.getpgrp()).encode()


def telling(file: str) -> Function:
    """Adds its process id to a file, and takes its time."""
    def answer(task: bytes) -> bytes:
        with open(file, "a") as told:
            told.write(f"{os.getpid()}\n")
        time.sleep(0.05)
        return task
    return answer
