"""Work spread over processes: bytes in, bytes out, answers in the order of the questions.

A worker is a fresh Python that is told by name which function to call, so it starts from a notebook and on every system
alike, inherits nothing, and holds nothing open. It ends when its parent does, however that ends, for then its input ends.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from syn_pipelines.utils.errors import ServiceError
from syn_pipelines.utils.options import PROJECT_ROOT

LARGE = 8 << 20  # bytes of input from which on several processes pay; each takes a tenth of a second to start
_AHEAD = 2  # tasks a worker that wait or are answered: what is read ahead, and so memory, is bounded
_LENGTH = struct.Struct(">Q")
# No folder that happens to be the current one is looked through for packages.
_PROGRAM = "import sys; sys.path[0] = sys.argv[1]; from syn_pipelines.utils.workers import serve; serve()"

Function = Callable[[bytes], bytes]


def worker_count(asked: int, files: Iterable[Path]) -> int:
    """How many processes are to work: ``asked``, or if that is 0, one for each core where these files are large."""
    if asked:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if sum(path.stat().st_size for path in files if path.is_file()) >= LARGE else 1


@contextmanager
def working(count: int, maker: str, arguments: Mapping[str, Any]) -> Iterator[Callable[[Iterable[bytes]], Iterator[bytes]]]:
    """A function that answers tasks in their order, in ``count`` processes or, where that is 1, in this one.

    Args:
        maker: "module:function"; called with ``arguments`` (JSON values) it gives the function that answers.
    Raises:
        ServiceError: while answers are taken, when a worker has ended.
    """
    if count == 1:
        function = _made(maker, arguments)
        yield lambda tasks: map(function, tasks)
        return
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            workers.append(_Worker(maker, arguments))
        yield lambda tasks: _answers(workers, tasks)
    finally:
        for worker in workers:
            worker.end()


def _made(maker: str, arguments: Mapping[str, Any]) -> Function:
    module, _, name = maker.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments)


class _Worker:
    def __init__(self, maker: str, arguments: Mapping[str, Any]) -> None:
        # Ctrl-C reaches the whole group of processes, one that is just starting too; it is the parent's business.
        self._process = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(PROJECT_ROOT)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, start_new_session=True)
        self._setup = json.dumps([maker, arguments]).encode()

    def ask(self, task: bytes) -> bytes:
        try:
            if self._setup:
                _send(self._process.stdin, self._setup)
                self._setup = b""
            _send(self._process.stdin, task)
            answer = _receive(self._process.stdout)
        except (OSError, ValueError):  # closed pipes
            answer = None
        if answer is None:
            code = self._process.wait()
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise ServiceError(f"a worker process ended {how}, perhaps for want of memory. No file was replaced; run the same "
                               "command again, with --workers=1 if it happens again.")
        return answer

    def end(self) -> None:
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()


def _answers(workers: list[_Worker], tasks: Iterable[bytes]) -> Iterator[bytes]:
    """A thread for each worker hands it task after task; it waits most of the time."""
    from concurrent.futures import ThreadPoolExecutor
    from queue import SimpleQueue

    free: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def ask(task: bytes) -> bytes:
        worker = free.get()
        try:
            return worker.ask(task)
        finally:  # one that has ended, too: it fails at once, where a thread without any would wait for ever
            free.put(worker)

    waiting: deque[Any] = deque()
    pool = ThreadPoolExecutor(len(workers), "worker")
    try:
        for task in tasks:
            waiting.append(pool.submit(ask, task))
            if len(waiting) >= _AHEAD * len(workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BaseException:
        for worker in workers:  # frees the threads, which wait for them
            worker.end()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def serve() -> None:
    """The worker's main program: answer until there are no more tasks."""
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints goes elsewhere
    with suppress(BrokenPipeError):
        setup = _receive(tasks)
        if setup is None:
            return
        function = _made(*json.loads(setup))
        while (task := _receive(tasks)) is not None:
            _send(answers, function(task))


def _send(file: BinaryIO, data: bytes) -> None:
    file.write(_LENGTH.pack(len(data)))
    file.write(data)
    file.flush()


def _receive(file: BinaryIO) -> bytes | None:
    """The next message; None where there is none any more."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    size = _LENGTH.unpack(head)[0]
    data = file.read(size)
    return data if len(data) == size else None
