"""The nested subsets of the training sentences: which ones count as the smallest 25 %, the 50 % and all."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate


def place_of(identity: str, *, seed: int) -> bytes:
    """What an id is ordered by: a hash of seed and id, 32 bytes."""
    return hashlib.sha256(f"{seed}:{identity}".encode()).digest()


def in_order(ids: Collection[str], *, seed: int) -> list[str]:
    """The ids in the order of a hash of seed and id, so not in that of ``ids``."""
    return sorted(ids, key=lambda identity: (place_of(identity, seed=seed), identity))


def nested_subsets(ids: Collection[str], shares: Iterable[float], *, seed: int) -> dict[float, set[str]]:
    """Subsets of ids by share; each is contained in every larger one. A pure function of the ids, in any order, and seed.

    Args:
        ids: distinct. shares: in (0, 1]; a subset holds the nearest whole number of ids, at least one.
    """
    order = in_order(ids, seed=seed)
    return {share: set(order[:max(1, round(len(order) * share))]) for share in shares}


class Subsets:
    """The same subsets of any number of ids, in 9 bytes an id.

    Ids are ranked by the first 64 bits of their hash. Should two share them just where a subset ends, the ids are asked for.
    """

    def __init__(self, shares: Iterable[float], *, seed: int) -> None:
        self._shares, self._seed, self._ranks = [*shares], seed, array("Q")

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self._ranks)

    def add(self, identity: str) -> None:
        """One more id."""
        self._ranks.append(self._rank(identity))

    def holding(self, ids: Callable[[], Iterable[str]]) -> Iterator[int]:
        """For each id, as they were added, the subsets that hold it: 1 that of the first share, 2 of the second, 4 of the next.

        Args:
            ids: gives all ids once more.
        """
        ends = [_smallest(self._ranks, self.size(share)) for share in self._shares]
        if any(tied for _, tied in ends):
            every = [*ids()]
            exact = nested_subsets(every, self._shares, seed=self._seed)
            for identity in every:
                yield sum((identity in exact[share]) << bit for bit, share in enumerate(self._shares))
            return
        # A subset that holds an id is one of those that end behind it.
        last = sorted((rank, 1 << bit) for bit, (rank, _) in enumerate(ends))
        behind = [*accumulate((bit for _, bit in reversed(last)), initial=0)][::-1]
        ranks = [rank for rank, _ in last]
        for rank in self._ranks:
            yield behind[bisect_left(ranks, rank)]

    def size(self, share: float) -> int:
        """How many ids a subset holds."""
        return max(1, round(len(self) * share))

    def _rank(self, identity: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._seed}:{identity}".encode()).digest()[:8], "big")


def _smallest(ranks: Sequence[int], number: int) -> tuple[int, bool]:
    """The rank with this number (from 1) in their order, and whether the next one is equal. Sorts a small part only."""
    counts = [0] * (1 << 16)
    for rank in ranks:
        counts[rank >> 48] += 1
    start = 0
    while number > counts[start]:
        number -= counts[start]
        start += 1
    found = sorted(rank for rank in ranks if rank >> 48 == start)
    return found[number - 1], number < len(found) and found[number] == found[number - 1]
