"""run_all in a process that counts what it does to the disk, and dies at one chosen point of it.

Nothing of the program is changed: the functions of Python that write, rename, remove and flush are wrapped before it
starts, for files below the run folder. The process reads its order (``Order``) from a file, works as run_all does with the
flags behind ``--``, and tells over a pipe where it dies.

Files are not waited for until they are on the disk (``fsync``): that is for power cuts. A kill takes nothing away from
what the system has been handed, so the wait would only slow things down.

run     python -m syn_pipelines.tools._chaos_child ORDER.json -- --file_name=weibo ...
"""

from __future__ import annotations

import builtins
import ctypes
import io
import json
import logging
import os
import pathlib
import resource
import shutil  # noqa: F401  looks at os.unlink when it is imported, so that has to come before the wrapping
import signal
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# What can be done to the disk, and when a process can die of it. Between two of these moments nothing changes there.
HALF, WRITTEN = "half write", "after write"
SYNC, SYNCED = "before sync", "after sync"
RENAME, RENAMED = "before rename", "after rename"
FOLDER = "folder"  # before a file or folder is removed, or a folder made
WEIGHTS = "weights"  # within a safetensors file
TIME = "any time"  # some time after an event, wherever the process is then
KINDS = (HALF, WRITTEN, SYNC, SYNCED, RENAME, RENAMED, FOLDER, WEIGHTS, TIME)

# With a wanted kind that does not come any more (its work is done already), what comes this many events later will do.
PATIENCE = 40
WEIGHTS_BYTES = 1 << 16  # the most of a safetensors file that is there when the process dies in it; every one is larger


@dataclass(frozen=True)
class Order:
    """What the process is to do.

    root: the run folder. trace: file of the undisturbed run's events; written where ``target`` is None and ``counts`` is
    set, read otherwise. asked: gets a line ``asked <tab> step <tab> request id`` for each request to the model, and one with
    ``answered`` for each reply before anything else sees it. pipe: number of the
    open file to tell the point of death. target, kind: the event of the trace from which on the next one of this kind is
    the point; None: do not die.
    """

    root: str
    trace: str
    asked: str
    pipe: int
    target: int | None = None
    kind: str = ""
    counts: bool = False

    @classmethod
    def read(cls, path: str) -> Order:
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


Event = tuple[str, str, str, int, float]  # step, kind, file, place in it (offset, or the how-manieth), seconds since the start


class Watch:
    """Knows every event of this process, and whether it is the one to die of."""

    def __init__(self, order: Order) -> None:
        self.order, self.step, self.events = order, "", []
        self._roots = {of(order.root) + os.sep for of in (os.path.abspath, os.path.realpath)}  # it may be named by a link
        self._count: Counter[tuple[str, str, str]] = Counter()
        self._started, self._late, self._armed = time.monotonic(), 0, False
        self._known: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
        if order.target is not None:
            for index, (step, kind, name, place, _) in enumerate(json.loads(Path(order.trace).read_text(encoding="utf-8"))):
                places, indices = self._known.setdefault((step, kind, name), ([], []))
                places.append(place)
                indices.append(index)
            if order.target < 0:
                self._arm("")

    def name(self, path: Any, dir_fd: int | None = None) -> str:
        """A path below the run folder from there, "" for any other."""
        try:
            text = os.fsdecode(os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path)
            if dir_fd is not None:
                text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        except (OSError, TypeError):
            return ""
        full = os.path.abspath(text)
        root = next((root for root in self._roots if full.startswith(root)), "")
        return Path(full[len(root):]).as_posix() if root else ""

    def reached(self, kind: str, name: str, place: int | None = None) -> bool:
        """Note an event; whether it is the one to die of."""
        if not name:
            return False
        key = (self.step, kind, name)
        if place is None:
            place = self._count[key]
            self._count[key] += 1
        if self.order.counts:
            self.events.append((*key, place, round(time.monotonic() - self._started, 4)))
        if self.order.target is None or self._index(key, place) < self.order.target:
            return False
        if self.order.kind == TIME:
            self._arm(name)
            return False
        self._late += 1
        return kind == self.order.kind or self._late > PATIENCE

    def _index(self, key: tuple[str, str, str], place: int) -> int:
        """Which event of the undisturbed run this is; one that it did not have comes before all."""
        places, indices = self._known.get(key, ((), ()))
        found = bisect_right(places, place) - 1
        return indices[found] if found >= 0 else -1

    def _arm(self, name: str) -> None:
        """Tell that the time runs from now on."""
        if not self._armed:
            self._armed = True
            self.tell(TIME, name)

    def tell(self, kind: str, name: str) -> None:
        """Say over the pipe where the process dies."""
        os.write(self.order.pipe, json.dumps({"step": self.step, "kind": kind, "file": name}).encode() + b"\n")

    def die(self, kind: str, name: str) -> None:
        """The end of this process, without a chance to do anything about it."""
        self.tell(kind, name)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal is on its way

    def pass_by(self, kind: str, name: str) -> None:
        """Die, if this is the point."""
        if self.reached(kind, name):
            self.die(kind, name)

    def save(self) -> None:
        """Write the trace."""
        Path(self.order.trace).write_text(json.dumps(self.events), encoding="utf-8")


class _File(io.FileIO):
    """A file of the run folder that is written to."""

    def __init__(self, watch: Watch, path: Any, mode: str, opener: Any) -> None:
        super().__init__(path, mode, opener=opener)
        self._watch, self._known_as, self._grows = watch, watch.name(path), "w" not in mode and "x" not in mode

    def write(self, data: Any) -> int:
        # What is added to a file of an earlier process (a journal) is known by its offset, for it goes on after a kill.
        place = os.fstat(self.fileno()).st_size if self._grows else None
        if self._watch.reached(HALF, self._known_as, place):
            view = memoryview(data)
            super().write(view[:len(view) // 2])
            self._watch.die(HALF, self._known_as)
        written = super().write(data)
        if self._watch.reached(WRITTEN, self._known_as, place):
            self._watch.die(WRITTEN, self._known_as)
        return written


def opener(watch: Watch) -> Callable[..., Any]:
    """``open`` that watches over the files of the run folder."""
    real = io.open

    def watched_open(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
                     errors: str | None = None, newline: str | None = None, closefd: bool = True,
                     opener: Any = None) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or not buffering or not watch.name(file):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _File(watch, file, mode.replace("b", "").replace("t", ""), opener)
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    return watched_open


def watched(watch: Watch, real: Callable[..., Any], before: str, after: str = "", *, last: bool = False,
            acts: bool = True) -> Callable[..., Any]:
    """A function of ``os`` about a path or an open file, with an event before and one after it.

    last: it is about its second argument. acts: whether it is really called.
    """
    def function(*args: Any, **kwargs: Any) -> Any:
        name = watch.name(args[1 if last else 0], kwargs.get("dir_fd"))
        watch.pass_by(before, name)
        result = real(*args, **kwargs) if acts or not name else None
        if after:
            watch.pass_by(after, name)
        return result

    return function


def weights_saver(watch: Watch, real: Callable[..., Any]) -> Callable[..., Any]:
    """``serialize_file`` of safetensors, which writes without Python: the system ends it in mid-file."""
    def serialize_file(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        name = watch.name(filename)
        if not watch.reached(WEIGHTS, name):
            return real(tensors, filename, *args, **kwargs)
        watch.tell(WEIGHTS, name)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # ends a process as SIGKILL does: at once, without a last word
        resource.setrlimit(resource.RLIMIT_FSIZE, (WEIGHTS_BYTES, WEIGHTS_BYTES))
        real(tensors, filename, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    return serialize_file


class _StepNames(logging.Handler):
    """Hears from run_all which step comes now."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).lstrip().startswith("[%d/%d]"):
            self._watch.step = record.args[2]


class _Asked:
    """A backend that notes each request before it answers, and each reply before it gives it."""

    def __init__(self, watch: Watch, backend: Any) -> None:
        self._watch, self._backend = watch, backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def generate(self, requests: Iterable[Any]) -> Iterator[Any]:
        with closing(self._backend.generate(self._noted("asked", requests))) as replies:
            yield from self._noted("answered", replies)

    def _noted(self, what: str, stream: Iterable[Any]) -> Iterator[Any]:
        file = os.open(self._watch.order.asked, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            for one in stream:
                if getattr(one, "finish_reason", "") != "error":  # which may be asked again
                    os.write(file, f"{what}\t{self._watch.step}\t{one.id}\n".encode("utf-8", "backslashreplace"))
                yield one
        finally:
            os.close(file)


def wrap(watch: Watch) -> None:
    """Put the watched functions in the place of the real ones."""
    io.open = builtins.open = opener(watch)
    for name, before, after in (("replace", RENAME, RENAMED), ("rename", RENAME, RENAMED), ("fsync", SYNC, SYNCED),
                                ("fdatasync", SYNC, SYNCED), ("unlink", FOLDER, ""), ("remove", FOLDER, ""),
                                ("rmdir", FOLDER, ""), ("mkdir", FOLDER, "")):
        setattr(os, name, watched(watch, getattr(os, name), before, after, last=name in ("replace", "rename"),
                                  acts="sync" not in name))
    accessor = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 has taken the functions before
    for name in ("replace", "rename", "unlink", "rmdir", "mkdir") if accessor else ():
        setattr(accessor, name, staticmethod(getattr(os, name)))
    if accessor:
        accessor.open = staticmethod(io.open)
    try:
        import safetensors
    except ImportError:  # an environment without NER models
        return
    safetensors.serialize_file = weights_saver(watch, safetensors.serialize_file)  # before its other modules take it


def end_with_parent() -> None:
    """A tool that is stopped leaves no run going on; the system sees to that (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """What the order file named first says, with the flags behind ``--``."""
    end_with_parent()
    order, flags = Order.read(sys.argv[1]), sys.argv[3:]
    watch = Watch(order)
    wrap(watch)
    from syn_pipelines import run_all
    from syn_pipelines.utils import annotate
    from syn_pipelines.utils.summary import run_script

    choose = annotate.choose_backend
    annotate.choose_backend = lambda opts: _Asked(watch, choose(opts))
    logging.getLogger(run_all.__name__).addHandler(_StepNames(watch))
    sys.argv = [run_all.__file__, *flags]
    run_script(run_all.main)
    if order.counts:
        watch.save()


if __name__ == "__main__":
    main()
