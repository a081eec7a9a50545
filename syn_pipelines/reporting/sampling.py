"""A seeded sample of a stream: the items whose ids hash lowest, whatever their order and however many there are."""

from __future__ import annotations

import hashlib
import heapq
from typing import Any


def draw(seed: int, identity: str) -> int:
    """The lot of an id, uniform in [0, 2**64)."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{identity}".encode("utf-8", "surrogatepass")).digest()[:8], "big")


class Lots:
    """The ``size`` items with the lowest lots of those offered; memory for these alone."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._heap: list[tuple[int, int, Any]] = []  # the highest lot on top
        self._offered = 0

    def offer(self, lot: int, item: Any) -> None:
        """Take part in the draw; of equal lots the first one offered wins."""
        self._offered += 1
        entry = (-lot, -self._offered, item)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif self.size and entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def items(self) -> list[Any]:
        """Those drawn, the lowest lot first: the first n of them are a sample of size n."""
        return [item for _, _, item in sorted(self._heap, reverse=True)]
