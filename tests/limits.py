"""A limit on what a call may take, for what hangs when it is broken."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

BY_THE_CLOCK, COMPUTING = (signal.ITIMER_REAL, signal.SIGALRM), (signal.ITIMER_VIRTUAL, signal.SIGVTALRM)


@contextmanager
def no_longer_than(seconds: float, what: tuple[int, int] = BY_THE_CLOCK) -> Iterator[None]:
    """Fail after so many seconds. COMPUTING counts those of this process alone, whatever else the machine does."""
    timer, number = what

    def stop(*_: object) -> None:
        raise AssertionError(f"it hangs: {seconds} s have passed")

    before = signal.signal(number, stop)
    left, _ = signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, before)
        signal.setitimer(timer, left)  # the limit around this one, such as that of the whole test
