"""Work on several files at the same time, in threads: reading, hashing and writing large blocks leave Python free."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def side_by_side(function: Callable[[Item, Event], Result], items: Iterable[Item], *, at_once: int = 2) -> list[Result]:
    """``[function(item, stop) ...]``, in the order of the items.

    Args:
        function: is to end soon, in whatever way, once ``stop`` is set: then its result is no longer asked for.
    Raises:
        Of several errors the one of the first item.
    """
    from concurrent.futures import ThreadPoolExecutor  # takes 10 ms to import

    stop, pool = Event(), ThreadPoolExecutor(at_once)
    try:
        return [*pool.map(lambda item: function(item, stop), items)]
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
