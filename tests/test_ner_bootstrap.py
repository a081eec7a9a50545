"""Intervals and comparisons: the vectorised bootstrap against one written out, and cases known beforehand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.ner import bootstrap
from syn_pipelines.ner.bootstrap import (
    drawn_sentences,
    grouped_counts,
    interval,
    macro_rates,
    paired_difference,
    paired_differences,
    rates,
    resampled_sums,
    sentence_counts,
)
from syn_pipelines.ner.breakdown import LENGTHS, Groups, Known, break_down, compare, fit, length_group, lines_table
from syn_pipelines.ner.metrics import evaluate
from syn_pipelines.utils.summary import columns

SPANS = st.lists(st.tuples(st.integers(0, 3), st.integers(4, 12), st.sampled_from(["PER", "LOC"])), max_size=5)
PAIRS = st.lists(st.tuples(SPANS, SPANS), min_size=1, max_size=6)


def some_counts(sentences, right=0.6, seed=0):
    """Counts of sentences with up to four gold spans, of which a share is found; some predictions are wrong."""
    draw = np.random.default_rng(seed)
    support = draw.integers(0, 5, sentences)
    correct = draw.binomial(support, right)
    return np.stack([correct, correct + draw.integers(0, 3, sentences), support], axis=-1)


def f1_of(rows):
    """Micro F1 in percent, in plain Python."""
    correct, predicted, support = (sum(row[i] for row in rows) for i in range(3))
    return 200 * correct / (predicted + support) if predicted + support else 0.0


def quantile(values, level):
    """Linear between the two values around it."""
    values, place = sorted(values), level * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def drawn_lists(sentences, resamples, seed):
    return [row for block in drawn_sentences(sentences, resamples, seed) for row in block.tolist()]


# --- counts --------------------------------------------------------------------------------------------------------

@given(PAIRS)
def test_sentence_counts_add_up_to_the_scores_of_all_sentences(pairs):
    gold, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    for labels in ((), ("PER",), ("PER", "LOC")):
        micro = evaluate(gold, predicted, labels).micro
        counts = sentence_counts(gold, predicted, labels)
        assert counts.shape == (len(pairs), 3) and counts.sum(0).tolist() == [micro.correct, micro.predicted, micro.support]
        assert rates(counts.sum(0)).tolist() == pytest.approx([micro.precision, micro.recall, micro.f1])


@given(PAIRS)
def test_macro_rates_are_those_of_the_report(pairs):
    gold, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    counts = grouped_counts(gold, predicted, ["PER", "LOC", "ORG"], lambda k, span: span[2])
    assert macro_rates(counts.sum(1))[2] == pytest.approx(evaluate(gold, predicted).macro_f1)


def test_unequal_numbers_of_sentences_are_an_error():
    with pytest.raises(ValueError, match="1 gold sentences against 2"):
        sentence_counts([[]], [[], []], ())
    with pytest.raises(ValueError, match="counts of 3 sentences against 4"):
        paired_difference(some_counts(3), some_counts(4))


# --- intervals -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("draws_at_once", [1, 50, 1 << 22])
def test_interval_is_that_of_a_bootstrap_written_out(draws_at_once, monkeypatch):
    monkeypatch.setattr(bootstrap, "MOST_DRAWS", draws_at_once)
    counts = some_counts(17)
    rows = counts.tolist()
    scores = [f1_of([rows[k] for k in drawn]) for drawn in drawn_lists(17, 300, seed=5)]
    assert len(scores) == 300
    assert interval(counts, resamples=300, seed=5) == pytest.approx((quantile(scores, 0.025), quantile(scores, 0.975)))
    assert interval(counts, resamples=300, seed=5, level=0.8) == pytest.approx((quantile(scores, 0.1), quantile(scores, 0.9)))


def test_the_f1_of_several_runs_is_averaged_in_each_resample():
    runs = np.stack([some_counts(17, right, seed) for right, seed in ((0.4, 1), (0.8, 2), (0.6, 3))])
    scores = [sum(f1_of([run[k] for k in drawn]) for run in runs.tolist()) / 3 for drawn in drawn_lists(17, 200, seed=0)]
    assert interval(runs, resamples=200) == pytest.approx((quantile(scores, 0.025), quantile(scores, 0.975)))
    assert interval(runs[:1], resamples=200) == interval(runs[0], resamples=200)


def test_every_sentence_is_drawn_equally_often():
    drawn = np.concatenate(list(drawn_sentences(20, 4000, seed=1)))
    assert drawn.shape == (4000, 20) and drawn.min() == 0 and drawn.max() == 19
    assert np.bincount(drawn.ravel()) == pytest.approx(4000, rel=0.06)  # 4 standard deviations
    # An ordinary resample leaves out a share of 1/e of the sentences.
    assert np.mean([len(set(row)) for row in drawn.tolist()]) == pytest.approx(20 * (1 - (19 / 20) ** 20), rel=0.01)


def test_intervals_hold_the_true_score_about_as_often_as_they_say():
    """200 test sets out of one population: about 190 intervals of 95 % hold its F1; at least 178 (2 in 10,000 by chance)."""
    population = some_counts(20_000, seed=11)
    truth = f1_of(population.tolist())
    draw = np.random.default_rng(3)
    held = 0
    for n in range(200):
        low, high = interval(population[draw.integers(0, len(population), 150)], resamples=400, seed=n)
        held += low <= truth <= high
    assert 178 <= held <= 199


def test_more_sentences_make_an_interval_narrower():
    narrow, wide = interval(some_counts(4000)), interval(some_counts(40))
    assert 3 < (wide[1] - wide[0]) / (narrow[1] - narrow[0]) < 30  # ten times, roughly


@pytest.mark.parametrize(
    "counts, expected",
    [
        (np.zeros((0, 3)), (0, 0)),
        (np.zeros((5, 3)), (0, 0)),
        ([[0, 3, 0], [0, 1, 0]], (0, 0)),  # no gold
        ([[0, 0, 3], [0, 0, 1]], (0, 0)),  # nothing predicted
        ([[2, 2, 2]] * 6, (100, 100)),
        ([[1, 2, 2]], (50, 50)),  # a single sentence is always drawn
        (np.zeros((2, 0, 3)), (0, 0)),
    ],
)
def test_scores_that_cannot_vary_have_an_interval_of_one_point(counts, expected):
    assert interval(np.array(counts)) == pytest.approx(expected)


def test_seed_and_number_of_resamples_decide_the_interval():
    counts = some_counts(30)
    assert interval(counts, seed=1) == interval(counts, seed=1) != interval(counts, seed=2)
    with pytest.raises(ValueError, match="0 resamples"):
        interval(counts, resamples=0)


# --- differences ---------------------------------------------------------------------------------------------------

def test_difference_is_that_of_a_paired_bootstrap_written_out():
    a = np.stack([some_counts(23, 0.5, 1), some_counts(23, 0.55, 2)])
    b = np.stack([some_counts(23, 0.6, 3), some_counts(23, 0.65, 4), some_counts(23, 0.5, 5)])
    found = paired_difference(a, b, resamples=400, seed=9)

    def gain(drawn):
        means = [sum(f1_of([run[k] for k in drawn]) for run in side.tolist()) / len(side) for side in (a, b)]
        return means[1] - means[0]

    gains = [gain(drawn) for drawn in drawn_lists(23, 400, seed=9)]
    assert found.mean == pytest.approx(gain(range(23)))
    assert (found.low, found.high) == pytest.approx((quantile(gains, 0.025), quantile(gains, 0.975)))
    assert found.p == sum(gain <= 0 for gain in gains) / 400 and 0 < found.p < 1


def test_equal_models_differ_by_nothing():
    runs = np.stack([some_counts(40, 0.5, seed) for seed in range(3)])
    found = paired_difference(runs, runs[[2, 0, 1]])  # another order of the same sums
    assert (found.mean, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-9) and found.p == 1.0


def test_a_model_that_is_better_in_every_sentence_is_better_in_every_resample():
    a = np.array([[1, 4, 4]] * 50)
    b = np.array([[2, 4, 4]] * 50)
    better, worse = paired_difference(a, b), paired_difference(b, a)
    assert (better.mean, better.low, better.high, better.p) == pytest.approx((25, 25, 25, 0))
    assert (worse.mean, worse.p) == pytest.approx((-25, 1))


def test_pairing_makes_a_small_gain_visible():
    """B finds one span more in every tenth sentence: the two intervals overlap widely, that of the difference is above 0."""
    a = some_counts(300)
    b = a + np.array([[1, 1, 0]]) * (((a[:, 2] > a[:, 0]) & (np.arange(300) % 10 == 0))[:, None])
    found = paired_difference(a, b)
    assert found.low > 0 and found.p == 0 and interval(a)[1] > interval(b)[0]


def test_swapping_the_sides_turns_the_difference_round():
    a, b = some_counts(30, 0.5, 1), some_counts(30, 0.6, 2)
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert (forth.mean, forth.low, forth.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_groups_are_compared_each_for_itself():
    a, b = (np.stack([some_counts(30, right, seed) for seed in (1, 2)])[None] for right in (0.4, 0.7))
    together = paired_differences(a, b, resamples=100)
    assert together == [paired_difference(a[:, g], b[:, g], resamples=100) for g in range(2)]


# --- groups of spans -----------------------------------------------------------------------------------------------

TEXTS = [list("张三在北京"), list("李四来了"), list("北京北京你好")]
GOLD = [[(0, 2, "PER"), (3, 5, "LOC")], [(0, 2, "PER")], [(0, 2, "LOC"), (2, 4, "LOC")]]
FOUND = [[(0, 2, "PER"), (3, 5, "ORG")], [(0, 2, "PER"), (2, 3, "LOC")], [(0, 2, "LOC")]]
KNOWN = Known.of([(TEXTS[0], GOLD[0]), (list("在北京工作"), [(1, 3, "ORG")])])


def by_name(groups, gold, predicted):
    return dict(zip(groups.names, groups.counts(gold, predicted).sum(1).tolist()))


def test_groups_hold_the_spans_they_name():
    counts = by_name(Groups(TEXTS, ("PER", "LOC", "ORG"), KNOWN), GOLD, FOUND)
    assert counts["micro", ""] == [3, 5, 5]
    assert [counts["label", label] for label in ("PER", "LOC", "ORG")] == [[2, 2, 2], [1, 2, 3], [0, 1, 0]]
    assert counts["length", "2"] == [3, 4, 5] and counts["length", "1"] == [0, 1, 0] and counts["length", "7+"] == [0, 0, 0]
    # Known with their labels are 张三 PER, 北京 LOC and 北京 ORG; 李四 is new, 来 as LOC too.
    assert counts["mention", "seen"] == [2, 3, 4] and counts["mention", "unseen"] == [1, 2, 1]
    # The first sentence stands in the training set.
    assert counts["new", ""] == [2, 3, 3]


def test_without_a_training_set_nothing_is_said_about_it():
    groups = Groups(TEXTS, ("PER", "LOC", "ORG"))
    assert {section for section, _ in groups.names} == {"micro", "label", "length"}
    assert len(groups.counts(GOLD, FOUND)) == len(groups.names) == 1 + 3 + len(LENGTHS)


@given(PAIRS)
def test_labels_lengths_and_mentions_each_add_up_to_all(pairs):
    gold, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    texts = [[chr(ord("a") + k)] * 12 for k in range(len(pairs))]
    groups = Groups(texts, ("PER", "LOC"), Known.of([(texts[0], gold[0])]))
    counts, names = groups.counts(gold, predicted), groups.names
    for section in ("label", "length", "mention"):
        parts = [counts[g] for g, name in enumerate(names) if name[0] == section]
        assert np.array_equal(sum(parts), counts[0])
    assert not counts[-1][0].any() and np.array_equal(counts[-1][1:], counts[0][1:])


@pytest.mark.parametrize("tokens, group", [(1, "1"), (4, "4"), (5, "5-6"), (6, "5-6"), (7, "7+"), (100, "7+")])
def test_lengths_are_grouped(tokens, group):
    assert length_group(tokens) == group and group in LENGTHS


def random_predictions(seed, sentences=60):
    draw = random.Random(seed)

    def spans():
        return [(k, k + draw.randint(1, 8), draw.choice(["PER", "LOC"])) for k in range(0, 16, 8) if draw.random() < 0.7]

    gold = [spans() for _ in range(sentences)]
    return gold, [[span for span in right if draw.random() < 0.6] + spans()[:1] for right in gold]


def test_lines_hold_the_scores_of_each_group_and_their_intervals():
    gold, predicted = random_predictions(1)
    groups = Groups([["x"] * 24] * 60, ("PER", "LOC"))
    lines = break_down(groups, groups.counts(gold, predicted), resamples=200, seed=3)
    report = evaluate(gold, predicted, ("PER", "LOC"))
    assert list(lines)[:2] == [("micro", ""), ("macro", "")] and len(lines) == len(groups.names) + 1
    assert lines["micro", ""].counts == report.micro and lines["label", "LOC"].counts == report.by_label["LOC"]
    assert lines["macro", ""].f1.value == pytest.approx(report.macro_f1) and lines["macro", ""].counts is None
    f1 = lines["micro", ""].f1
    assert (f1.low, f1.high) == pytest.approx(interval(sentence_counts(gold, predicted, ()), resamples=200, seed=3))
    assert all(e.low <= e.value <= e.high for name, line in lines.items() if name[0] != "length"
               for e in (line.precision, line.recall, line.f1))
    assert lines["micro", ""].to_dict()["f1_interval"] == [round(f1.low, 2), round(f1.high, 2)]


def test_macro_interval_is_drawn_with_the_labels_of_each_resample():
    gold, predicted = random_predictions(2, sentences=12)
    groups = Groups([["x"] * 24] * 12, ("PER", "LOC", "ORG"))
    counts = groups.counts(gold, predicted)
    found = break_down(groups, counts, resamples=150, seed=0)["macro", ""].f1
    scores = [evaluate([gold[k] for k in drawn], [predicted[k] for k in drawn]).macro_f1 for drawn in drawn_lists(12, 150, 0)]
    assert (found.low, found.high) == pytest.approx((quantile(scores, 0.025), quantile(scores, 0.975)))


def test_compared_lines_hold_both_sides_and_the_difference():
    gold, a = random_predictions(1)
    b = [sorted(set(found) | set(right)) for found, right in zip(a, gold)]  # finds all gold spans besides
    groups = Groups([["x"] * 24] * 60, ("PER", "LOC"))
    counts = [groups.counts(gold, side)[None] for side in (a, b)]
    lines = compare(groups, *counts, resamples=100, seed=0)
    assert list(lines) == groups.names
    micro = lines["micro", ""]
    assert micro.a.value == pytest.approx(evaluate(gold, a).micro.f1) and micro.b.value > micro.a.value
    assert micro.difference.mean == pytest.approx(micro.b.value - micro.a.value) and micro.difference.p == 0
    assert micro.support == sum(map(len, gold))
    assert (micro.a.low, micro.a.high) == pytest.approx(interval(counts[0][:, 0], resamples=100))


# --- what a person sees --------------------------------------------------------------------------------------------

def test_table_fits_a_hundred_columns_also_with_long_and_with_wide_names():
    long = ["人名" * 20, "geographical-and-political-entity.NAM", "a\nb\x1b[31m"]
    gold = [[(0, 1, label)] for label in long for _ in range(40)]
    groups = Groups([["x"] * 3] * 120, long)
    lines = break_down(groups, groups.counts(gold, [spans if k % 2 else [] for k, spans in enumerate(gold)]),
                       resamples=100, seed=0)
    shown = lines_table(lines).split("\n")
    assert all(columns(line) <= 100 for line in shown)
    assert "\x1b" not in "".join(shown) and "人名人名" in shown[4] and shown[4].split()[0].endswith("...")
    width = {columns(line) for line in shown if line.endswith("20")}
    assert len(width) == 1  # the columns stand under each other


def test_a_group_without_any_span_shows_no_figures():
    groups = Groups([["x"] * 3] * 2, ("PER", "LOC"))
    lines = break_down(groups, groups.counts([[(0, 1, "PER")], []], [[], []]), resamples=10, seed=0)
    shown = {line.split()[0]: line.split()[1:] for line in lines_table(lines).split("\n")[1:]}
    assert shown["LOC"] == ["-", "-", "-", "0", "0"] and shown["PER"][-2:] == ["1", "0"] and "-" not in shown["PER"]


@given(st.text(max_size=30), st.integers(4, 40))
def test_a_fitted_name_is_never_too_wide(name, width):
    found = fit(name, width)
    assert columns(found) <= width and found.isprintable()
    if name.isprintable() and columns(name) <= width:
        assert found == name


def test_sums_of_counts_are_exact():
    counts = np.full((1000, 3), 2**40)
    assert (resampled_sums(counts, resamples=5, seed=0) == 1000 * 2**40).all()
