"""Standard output and standard error that are closed, on a full disk, or a pipe that nobody reads any more.

What a script has done counts, and its exit code says so, whether or not there is anybody to tell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Within this all three streams can be used, and at its end nothing is left in them that could spoil the exit code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed (2>&-): the next file that is opened would take its number, and the messages
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # Python would try once more when it ends, and make the exit code 120
                silence(stream)


def silence(stream: TextIO) -> None:
    """Send what is in a stream, and all that is to come, nowhere."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def tell(*words: object) -> None:
    """A line to standard error, if it can be written."""
    with suppress(OSError, ValueError):
        print(*words, file=sys.stderr)
