"""Which of several scored spans stay."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.ner.decoding import DECODE_MODES, Span, resolve_overlaps

OUTER, INNER, CROSSING = Span(0, 4, "ORG", 0.9), Span(1, 2, "LOC", 0.8), Span(3, 6, "PER", 0.7)
SPANS = st.lists(
    st.builds(
        lambda start, width, label, score: Span(start, start + width, label, score),
        st.integers(0, 8), st.integers(1, 6), st.sampled_from(["A", "B"]), st.sampled_from([0.6, 0.7, 0.8]),
    ),
    max_size=12, unique_by=lambda s: (s.start, s.end, s.label),
)


def clash(a: Span, b: Span, mode: str) -> bool:
    """Whether two spans may not stand together, straight from the definition of the modes."""
    if a.end <= b.start or b.end <= a.start:
        return False
    if mode == "flat":
        return True
    if (a.start, a.end) == (b.start, b.end):
        return mode == "nested"
    return not ((a.start <= b.start and b.end <= a.end) or (b.start <= a.start and a.end <= b.end))


def test_flat_keeps_the_best_of_overlapping_spans():
    assert resolve_overlaps([INNER, OUTER, CROSSING], "flat") == [OUTER]


@pytest.mark.parametrize("mode", ["nested", "multilabel"])
def test_nested_keeps_containment_and_drops_crossing(mode):
    assert resolve_overlaps([INNER, OUTER, CROSSING], mode) == [OUTER, INNER]


def test_the_score_decides_and_not_the_position():
    late = Span(3, 6, "PER", 0.95)
    assert resolve_overlaps([OUTER, late], "flat") == [late]


def test_a_second_label_on_a_span_stays_only_with_multilabel():
    second = Span(0, 4, "LOC", 0.6)
    assert resolve_overlaps([OUTER, second], "flat") == [OUTER]
    assert resolve_overlaps([OUTER, second], "nested") == [OUTER]
    assert resolve_overlaps([OUTER, second], "multilabel") == [second, OUTER]


def test_neighbours_do_not_overlap():
    spans = [Span(0, 1, "A", 0.6), Span(1, 2, "A", 0.7)]
    assert resolve_overlaps(spans, "flat") == spans


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="got 'best'"):
        resolve_overlaps([], "best")


@given(SPANS, st.sampled_from(DECODE_MODES))
def test_each_span_stays_unless_a_better_one_that_stays_forbids_it(spans, mode):
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (-s.score, s.start, s.end, s.label)):
        if not any(clash(span, other, mode) for other in kept):
            kept.append(span)
    assert resolve_overlaps(spans, mode) == sorted(kept, key=lambda s: (s.start, s.end, s.label))


@given(SPANS, st.sampled_from(DECODE_MODES))
def test_result_is_free_of_clashes_and_stable(spans, mode):
    kept = resolve_overlaps(spans, mode)
    assert not any(clash(a, b, mode) for a, b in combinations(kept, 2))
    assert resolve_overlaps(kept, mode) == kept
    assert resolve_overlaps(reversed(spans), mode) == kept
