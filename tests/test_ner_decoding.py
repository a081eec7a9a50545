"""Which of several scored spans stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.ner.decoding import Span, resolve_overlaps

OUTER, INNER, CROSSING = Span(0, 4, "ORG", 0.9), Span(1, 2, "LOC", 0.8), Span(3, 6, "PER", 0.7)
SPANS = st.lists(
    st.builds(
        lambda start, width, label, score: Span(start, start + width, label, score),
        st.integers(0, 8), st.integers(1, 5), st.sampled_from(["A", "B"]), st.sampled_from([0.6, 0.7, 0.8]),
    ),
    max_size=8,
)


def test_flat_keeps_the_best_of_overlapping_spans():
    assert resolve_overlaps([INNER, OUTER, CROSSING], nested=False) == [OUTER]


def test_nested_keeps_containment_and_drops_crossing():
    assert resolve_overlaps([INNER, OUTER, CROSSING], nested=True) == [OUTER, INNER]


def test_the_score_decides_and_not_the_position():
    late = Span(3, 6, "PER", 0.95)
    assert resolve_overlaps([OUTER, late], nested=False) == [late]


def test_a_second_label_on_a_span_stays_only_when_nested():
    second = Span(0, 4, "LOC", 0.6)
    assert resolve_overlaps([OUTER, second], nested=False) == [OUTER]
    assert resolve_overlaps([OUTER, second], nested=True) == [second, OUTER]


def test_neighbours_do_not_overlap():
    spans = [Span(0, 1, "A", 0.6), Span(1, 2, "A", 0.7)]
    assert resolve_overlaps(spans, nested=False) == spans


@given(SPANS, st.booleans())
def test_result_is_free_of_clashes_keeps_the_best_and_is_stable(spans, nested):
    kept = resolve_overlaps(spans, nested=nested)
    for n, a in enumerate(kept):
        for b in kept[:n]:
            apart = a.end <= b.start or b.end <= a.start
            inside = (a.start <= b.start and b.end <= a.end) or (b.start <= a.start and a.end <= b.end)
            assert apart or (nested and inside)
    assert not spans or max(s.score for s in spans) in {s.score for s in kept}
    assert resolve_overlaps(kept, nested=nested) == kept
    assert resolve_overlaps(reversed(spans), nested=nested) == kept
