"""What the report is made of: samples, measures of likeness, coverage, embedded JSON. Each against a plain definition."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import HARD_TOKENS

from syn_pipelines.reporting import cost
from syn_pipelines.reporting.browse import MOST_BYTES, browsable
from syn_pipelines.reporting.charts import plain
from syn_pipelines.reporting.diversity import distinct_n, near_duplicates, resemblance, same_amount, self_bleu
from syn_pipelines.reporting.page import embedded, short, width
from syn_pipelines.reporting.sampling import Lots, draw
from syn_pipelines.reporting.survey import Survey, kind_of, quantile

sentences = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9), max_size=14)


# --- samples ---------------------------------------------------------------------------------------------------------

@given(st.lists(st.text(min_size=1), unique=True, max_size=40), st.integers(0, 12), st.integers(0, 5))
def test_a_sample_is_the_same_whatever_the_order_and_a_smaller_one_is_its_beginning(ids, size, seed):
    def drawn(order, size):
        lots = Lots(size)
        for identity in order:
            lots.offer(draw(seed, identity), identity)
        return lots.items()

    shuffled = random.Random(1).sample(ids, len(ids))
    assert drawn(ids, size) == drawn(shuffled, size) == sorted(ids, key=lambda i: draw(seed, i))[:size]
    assert drawn(ids, size)[:3] == drawn(ids, min(size, 3))


def test_another_seed_draws_others():
    assert [draw(1, str(k)) for k in range(5)] != [draw(2, str(k)) for k in range(5)]


# --- likeness --------------------------------------------------------------------------------------------------------

@given(sentences, st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(texts, threshold):
    wanted = sum(any(i != k and resemblance(a, b) >= threshold for k, b in enumerate(texts)) for i, a in enumerate(texts))
    assert near_duplicates(texts, threshold) == wanted


@given(sentences, st.integers(1, 3))
def test_distinct_n_is_the_share_of_different_n_grams(texts, n):
    grams = [tuple(text[k:k + n]) for text in texts for k in range(len(text) - n + 1)]
    assert distinct_n(texts, n) == (len(set(grams)) / len(grams) if grams else None)


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=4, max_size=12), min_size=2, max_size=8))
def test_self_bleu_is_the_mean_of_nltks_bleu_against_all_other_sentences(texts):
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    smooth = bleu.SmoothingFunction().method1
    wanted = [bleu.sentence_bleu(texts[:k] + texts[k + 1:], text, smoothing_function=smooth) for k, text in enumerate(texts)]
    assert self_bleu(texts) == pytest.approx(sum(wanted) / len(wanted))


def test_twins_have_self_bleu_one_and_a_single_sentence_none():
    assert self_bleu([list("abcde"), list("abcde")]) == pytest.approx(1)
    assert self_bleu([list("abcde")]) is None and self_bleu([]) is None


@given(sentences, sentences)
def test_samples_of_the_same_amount_have_equally_many_tokens(first, second):
    a, b = same_amount(first, second)
    assert sum(map(len, a)) == sum(map(len, b)) == min(sum(map(len, first)), sum(map(len, second)))


# --- the survey ------------------------------------------------------------------------------------------------------

@st.composite
def labelled(draw_):
    tokens = draw_(st.lists(st.sampled_from(HARD_TOKENS), min_size=1, max_size=8))
    entities = []
    for _ in range(draw_(st.integers(0, 6))):
        start = draw_(st.integers(0, len(tokens) - 1))
        end = draw_(st.integers(start + 1, len(tokens)))
        entities.append({"start": start, "end": end, "entity": draw_(st.sampled_from(["PER", "LOC", "PERSON", "NOUN"]))})
    return {"id": "1", "text": tokens, "entities": entities}


@given(st.lists(labelled(), max_size=4))
def test_coverage_counts_each_character_once_however_spans_nest_and_cross(rows):
    found = Survey(kind_of(["PER", "LOC"], ["NOUN"])).read(rows)
    covered, by_label = Counter(), Counter()
    for row in rows:
        for place, token in enumerate(row["text"]):
            labels = {e["entity"] for e in row["entities"] if e["start"] <= place < e["end"]}
            for kind in {found.kind(label) for label in labels} | ({"any"} if labels else set()):
                covered[kind] += len(token)
            for label in labels:
                by_label[label] += len(token)
    assert +found.covered == +covered and +found.characters_of == +by_label
    assert found.characters == sum(len(token) for row in rows for token in row["text"])
    assert found.labels.total() == sum(len(row["entities"]) for row in rows)


def test_agreement_tells_exact_from_overlapping_and_none():
    spans = [(0, 2, "PER"), (0, 2, "PERSON"), (1, 3, "OTHER"), (4, 5, "PER"), (4, 6, "OTHER"), (6, 7, "LOC"), (6, 7, "NOUN")]
    row = {"id": "1", "text": list("abcdefgh"), "entities": [{"start": a, "end": b, "entity": name} for a, b, name in spans]}
    found = Survey(kind_of(["PER", "LOC"], ["NOUN"])).read([row])
    assert found.agreement == {("PER", "PERSON", "exact"): 1, ("PER", "OTHER", "partial"): 2, ("LOC", "NOUN", "exact"): 1}
    assert found.found == {("PER", "exact"): 1, ("PER", "partial"): 1, ("LOC", "none"): 1}  # a part of speech is no entity


@given(st.lists(st.integers(1, 50), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_the_first_length_that_enough_sentences_do_not_exceed(values, share):
    found = quantile(Counter(values), share)
    assert sum(v <= found for v in values) >= share * len(values)
    assert all(sum(v <= other for v in values) < share * len(values) for other in set(values) if other < found)


# --- what stands in the page -----------------------------------------------------------------------------------------

@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_embedded_json_reads_back_and_cannot_end_its_element(value):
    text = embedded(value)
    assert json.loads(text) == value
    assert "<" not in text and ">" not in text and "&" not in text


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_bar_is_never_wider_than_its_place_and_what_is_there_can_be_seen(part, whole):
    share = float(width(part, whole).removesuffix("%"))
    assert 0 <= share <= 100 and (share > 0) == bool(part and whole)


@given(st.text())
def test_a_label_on_an_axis_is_short_and_can_stand_in_xml(label):
    text = plain(label)
    assert len(text) <= 22 and not any(ord(char) < 32 for char in text)


def test_short_says_that_it_has_cut():
    assert short("abc", 3) == "abc" and short("abcd", 3) == "ab…"


def test_a_sample_of_endless_sentences_keeps_within_its_room_and_says_how_many_it_left_out():
    rows = [{"id": str(k), "text": ["字" * 500] * 350, "entities": []} for k in range(40)]
    found = browsable(rows, [], {}, {}, lambda label: "target")
    assert 0 < len(found["shown"]) < 40 and len(found["shown"]) + found["left_out"] == 40
    assert len(json.dumps(found, ensure_ascii=False).encode()) < 1.2 * MOST_BYTES


def test_prompts_are_stored_once_and_can_be_put_together_again():
    rows = [{"id": str(k), "text": [f"word{k}"], "entities": []} for k in range(3)]
    prompts = {row["id"]: f"Label this: {row['text'][0]} now. Thanks." for row in rows}
    answers = {name: [{"step": "s1 pos", "prompt": text, "reply": "", "status": "ok", "reason": ""}] for name, text in prompts.items()}
    found = browsable(rows, [], {}, answers, lambda label: "target")
    beginning, end = found["prompts"]["s1 pos"]
    assert [beginning + one["asked"][0]["prompt"] + end for one in found["sentences"]] == list(prompts.values())
    assert beginning.startswith("Label this: ") and end.endswith(" now. Thanks.")


# --- the log ---------------------------------------------------------------------------------------------------------

def test_costs_count_what_was_done_and_pass_over_what_was_up_to_date_or_is_broken(tmp_path):
    asked = {"step": "s1_predict_data", "options": {"mode": "pos"}, "ended": "KeyboardInterrupt", "seconds": 3,
             "usage": {"asked": 5, "kept": 4, "prompt_tokens": 50, "completion_tokens": 20, "seconds": 2, "model": "m"}}
    rows = [asked, {**asked, "usage": {"asked": 0}}, {"step": "s4_split_data", "ended": "done", "seconds": 1, "outputs": {"a": 1}},
            {"step": "s4_split_data", "ended": "done", "seconds": 1, "outputs": {}, "up_to_date": True},
            {"step": "eval_ner", "ended": "done", "seconds": 9, "outputs": {"a": 1}}, {"step": 5}, [1], {"step": "s1_x", "usage": 7},
            {**asked, "seconds": "long", "usage": {"asked": 1, "prompt_tokens": None, "seconds": -3, "completion_tokens": True}}]
    log = tmp_path / "run.log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn', encoding="utf-8")
    found = cost.costs(log)
    assert [(row["step"], row["runs"], row["seconds"]) for row in found] == [("s1_predict_data pos", 2, 3.0), ("s4_split_data", 1, 1.0)]
    assert (found[0]["asked"], found[0]["prompt_tokens"], found[0]["models"]) == (6, 50, ["m"])
    assert cost.costs(tmp_path / "none.jsonl") == []
