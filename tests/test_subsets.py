"""Nested subsets in a few bytes an id are those that sorting all ids gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.utils.subsets import Subsets, nested_subsets

SHARES = (0.25, 0.5, 1.0)
IDS = st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4), min_size=1, max_size=60)


def found(subsets: Subsets, ids: set[str]) -> dict[float, set[str]]:
    for identity in ids:
        subsets.add(identity)
    holding = [*subsets.holding(lambda: ids)]
    return {share: {identity for identity, bits in zip(ids, holding, strict=True) if bits >> number & 1}
            for number, share in enumerate(SHARES)}


@given(IDS, st.integers(0, 2**63 - 1))
def test_subsets_are_those_of_the_sorted_ids(ids, seed):
    subsets = Subsets(SHARES, seed=seed)
    assert found(subsets, ids) == nested_subsets(ids, SHARES, seed=seed)
    assert [subsets.size(share) for share in SHARES] == [len(part) for part in nested_subsets(ids, SHARES, seed=seed).values()]


class Crowded(Subsets):
    """Ranks of two bits, so that nearly every subset ends among equal ones."""

    def _rank(self, identity: str) -> int:
        return super()._rank(identity) >> 62 << 62


@given(IDS)
def test_ids_with_equal_ranks_are_told_apart_by_their_whole_hash(ids):
    assert found(Crowded(SHARES, seed=7), ids) == nested_subsets(ids, SHARES, seed=7)
