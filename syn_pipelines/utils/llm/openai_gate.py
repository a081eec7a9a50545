"""How many requests are under way at a server at once."""

from __future__ import annotations

import asyncio
import random
from collections import deque


class Gate:
    """How many requests are under way: at most ``most``, half as many after each 429, slowly more with every answer.

    While the server asks for a pause nobody passes. ``inside``: how many are under way now.
    """

    def __init__(self, most: int) -> None:
        self._most, self._allowed = most, float(most)
        self.inside = 0
        self._resume_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            pause = self._resume_at - loop.time()
            if pause > 0:  # a little apart, so that not all come back in the same instant
                await asyncio.sleep(pause + random.uniform(0, min(0.25 * pause, 2.0)))
            elif self.inside < int(self._allowed):
                self.inside += 1
                return
            else:
                self._waiting.append(loop.create_future())
                await self._waiting[-1]

    async def __aexit__(self, *_: object) -> None:
        self.inside -= 1
        self._wake(1)

    def _wake(self, count: int) -> None:
        while count and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def pause(self, seconds: float, *, slower: bool) -> None:
        """Let nobody pass for so long."""
        self._resume_at = max(self._resume_at, asyncio.get_running_loop().time() + seconds)
        if slower:
            self._allowed = max(1.0, self._allowed / 2)

    def answered(self) -> None:
        """An answer came: one more request at once for every round of answers."""
        before, self._allowed = int(self._allowed), min(float(self._most), self._allowed + 1 / self._allowed)
        self._wake(int(self._allowed) - before)
