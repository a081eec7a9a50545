"""The nested subsets of the training sentences: which ones count as the smallest 25 %, the 50 % and all."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable


def in_order(ids: Collection[str], *, seed: int) -> list[str]:
    """The ids in the order of a hash of seed and id, so not in that of ``ids``."""
    return sorted(ids, key=lambda identity: (hashlib.sha256(f"{seed}:{identity}".encode()).digest(), identity))


def nested_subsets(ids: Collection[str], shares: Iterable[float], *, seed: int) -> dict[float, set[str]]:
    """Subsets of ids by share; each is contained in every larger one. A pure function of the ids, in any order, and seed.

    Args:
        ids: distinct. shares: in (0, 1]; a subset holds the nearest whole number of ids, at least one.
    """
    order = in_order(ids, seed=seed)
    return {share: set(order[:max(1, round(len(order) * share))]) for share in shares}
