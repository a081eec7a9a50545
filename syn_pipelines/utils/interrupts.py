"""What Ctrl-C (SIGINT) and SIGTERM do to a script: the first one ends the work in order, the next one at once.

In order means as an exception: files are closed, servers let go, other processes ended. At once is no harm either: what
is finished is on disk, no half file takes the place of a whole one, and locks end with their process. So it is also
what a signal does before the work has begun, while packages are imported, and after it has ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# Time for a finalizer that swallowed the exception to end, before it is raised anew.
_AGAIN_S = 0.05


class Terminated(KeyboardInterrupt):
    """SIGTERM: to whoever catches it the same as Ctrl-C."""


def exit_code(number: int) -> int:
    """130 for Ctrl-C, 143 for SIGTERM, as shells count."""
    return 128 + number


def farewell(number: int) -> str:
    """What a person is told about a script that was stopped."""
    return (f"{NAMES[signal.Signals(number)]}: what is finished is kept; the same command goes on from there (a training "
            "from its checkpoint).")


def guard_start(package: Path) -> None:
    """Where a script of this package is the main program: end it at once and in one line until its work begins.

    Any other program that imports the package keeps its own handlers.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main is None:  # -m imports the package before it looks for the module
        own = any(word.removeprefix("-m").startswith(f"{package.name}.") for word in sys.orig_argv[1:])
    else:
        own = Path(main).resolve().is_relative_to(package)
    if own:
        _install(_leave)


class Stop:
    """Which signal came: ``number``, 0 for none."""

    number = 0

    def __call__(self, number: int, frame: Any) -> None:
        """Handler of the first signal."""
        _install(_leave)
        if _is_importing(frame):
            _leave(number, frame)
        self.number = number
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def stoppable(stop: Stop) -> Iterator[None]:
    """Within this, the first signal is raised as KeyboardInterrupt (SIGTERM: ``Terminated``) and noted in ``stop``."""
    before = {number: signal.getsignal(number) for number in NAMES}
    hook = sys.unraisablehook
    sys.unraisablehook = _raising_again(stop, hook)
    _install(stop)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _install(handler: Callable[[int, Any], None]) -> None:
    """Take over the signals, but not those that are ignored (nohup) or another's business (a debugger)."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in NAMES:
        now = signal.getsignal(number)
        if now in (signal.SIG_DFL, signal.default_int_handler, _leave) or isinstance(now, Stop):
            signal.signal(number, handler)


def _is_importing(frame: Any) -> bool:
    """Whether a package is being imported. Some written in C swallow what is raised in there, or turn it into another error,
    and the program would go on without a part of them."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave(number: int, frame: Any) -> None:
    """Handler that ends the process, whatever it is doing."""
    with suppress(OSError):  # nobody may be listening any more
        os.write(2, f"{farewell(number)}\n".encode())
    os._exit(exit_code(number))


def _raising_again(stop: Stop, hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Python swallows what is raised inside a finalizer; the signal is sent again then, else nobody would stop."""

    def swallowed(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt) or not stop.number:
            hook(unraisable)
            return
        _install(stop)
        timer = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), stop.number))
        timer.daemon = True
        timer.start()

    return swallowed
