"""Strict scores, checked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.ner.metrics import Score, evaluate

GOLD = [[(0, 2, "PER"), (3, 4, "LOC")], [], [(0, 1, "PER")]]
SPANS = st.lists(st.tuples(st.integers(0, 3), st.integers(4, 6), st.sampled_from(["PER", "LOC"])), max_size=6)


@pytest.mark.parametrize(
    "predicted, precision, recall, f1",
    [
        (GOLD, 100.0, 100.0, 100.0),
        ([[], [], []], 0.0, 0.0, 0.0),
        # Right boundaries with another label, and a boundary off by one, both count as wrong: 1 of 3, 1 of 3.
        ([[(0, 2, "LOC"), (3, 5, "LOC")], [], [(0, 1, "PER")]], 100 / 3, 100 / 3, 100 / 3),
        # 2 of 4 right, 2 of 3 found: F1 = 2 * 2 / (4 + 3).
        ([[(0, 2, "PER"), (3, 4, "LOC"), (2, 3, "LOC")], [(0, 1, "PER")], []], 50.0, 200 / 3, 400 / 7),
        # The same span predicted three times is one prediction.
        ([[(0, 2, "PER")] * 3, [], []], 100.0, 100 / 3, 50.0),
    ],
)
def test_hand_computed_scores(predicted, precision, recall, f1):
    micro = evaluate(GOLD, predicted).micro
    assert (micro.precision, micro.recall, micro.f1) == pytest.approx((precision, recall, f1))


def test_by_label_has_support_and_given_order():
    report = evaluate(GOLD, [[(0, 2, "PER"), (3, 4, "ORG")], [], []], labels=("LOC", "PER", "ORG", "MISC"))
    assert list(report.by_label) == ["LOC", "PER", "ORG", "MISC"]
    assert report.by_label["PER"] == Score(correct=1, predicted=1, support=2)
    assert report.by_label["LOC"] == Score(correct=0, predicted=0, support=1)
    assert report.by_label["ORG"] == Score(correct=0, predicted=1, support=0)
    # MISC never occurs and has no part in the mean: (F1 66.7 of PER + 0 + 0) / 3.
    assert report.macro_f1 == pytest.approx(200 / 9)


def test_labels_that_are_not_named_are_left_out_on_both_sides():
    report = evaluate([[(0, 1, "PER"), (0, 1, "NOUN")]], [[(0, 1, "PER"), (1, 2, "NOUN")]], labels=("PER",))
    assert report.micro == Score(1, 1, 1)


def test_a_span_with_two_labels_counts_twice():
    both = [(0, 1, "PER"), (0, 1, "LOC")]
    assert evaluate([both], [both[:1]]).micro == Score(correct=1, predicted=1, support=2)


def test_empty_data_score_zero():
    report = evaluate([], [])
    assert report.micro.f1 == 0.0 and report.macro_f1 == 0.0 and report.by_label == {}


def test_unequal_numbers_of_sentences_are_an_error():
    with pytest.raises(ValueError, match="2 gold sentences against 1"):
        evaluate([[], []], [[]])


@given(st.lists(st.tuples(SPANS, SPANS), max_size=4))
def test_swapping_gold_and_prediction_swaps_precision_and_recall(pairs):
    gold, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    forth, back = evaluate(gold, predicted).micro, evaluate(predicted, gold).micro
    assert (forth.precision, forth.recall) == (back.recall, back.precision)
    assert forth.f1 == back.f1
    assert sum(s.support for s in evaluate(gold, predicted).by_label.values()) == forth.support


def test_dict_holds_the_figures():
    scores = evaluate(GOLD, GOLD[:2] + [[]]).to_dict()
    assert scores["f1"] == 80.0 and scores["by_label"]["LOC"]["f1"] == 100.0 and scores["macro_f1"] == 83.33


# --- another library's counts --------------------------------------------------------------------------------------

@st.composite
def flat_spans(draw):
    """Spans of a sentence that share no token, as BIO tags can write them."""
    spans, at = [], 0
    for gap, size, label in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from("ABC")),
                                          max_size=5)):
        spans.append((at + gap, at + gap + size, label))
        at += gap + size
    return spans


@st.composite
def flat_pairs(draw):
    """(gold, predicted) of a sentence; some of the gold spans are predicted, so that a good part is right."""
    gold = draw(flat_spans())
    if draw(st.booleans()):
        return gold, [span for span in gold if draw(st.booleans())]
    return gold, draw(flat_spans())


# Strict scores of flat spans are the same in nervaluate. It differs where spans overlap: there a wrong prediction that
# touches a gold span uses it up, so that the right one, coming later, finds none; and its ends are inclusive.
@given(st.lists(flat_pairs(), min_size=1, max_size=4))
def test_counts_are_those_of_nervaluate(pairs):
    nervaluate = pytest.importorskip("nervaluate", reason="needs Python 3.11")
    gold, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    theirs = nervaluate.Evaluator(*([[{"start": start, "end": end - 1, "label": label} for start, end, label in spans]
                                     for spans in side] for side in (gold, predicted)), tags=list("ABC"), loader="dict").evaluate()
    report = evaluate(gold, predicted)
    for ours, strict in [(report.micro, theirs["overall"]["strict"]),
                         *((score, theirs["entities"][label]["strict"]) for label, score in report.by_label.items())]:
        assert (ours.correct, ours.predicted, ours.support) == (strict.correct, strict.actual, strict.possible)
        assert (ours.precision, ours.recall, ours.f1) == pytest.approx(
            (100 * strict.precision, 100 * strict.recall, 100 * strict.f1))
