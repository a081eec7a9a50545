"""Label sets, features and batches of the span model."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.ner.data import (
    UNKNOWN_ID,
    LabelSet,
    Sentence,
    Vocabulary,
    batch_order,
    chunked,
    feature_strings,
    is_dense,
    overlaps_of,
    split_long,
    split_sentence,
    unknown_labels,
    within_cells,
    word_shape,
)
from syn_pipelines.utils.errors import UserError

FUSION = {
    "O": {"idx": 0, "count": -1, "is_target": True},
    "PER.NAM": {"idx": 1, "count": -1, "is_target": True},
    "LOC.NAM": {"idx": 2, "count": -1, "is_target": True},
    "NOUN": {"idx": 3, "count": 6006, "is_target": False},
    "TIME": {"idx": 4, "count": 12, "is_target": False},
}


def test_label_file_round_trips(tmp_path):
    path = tmp_path / "label_fusion.json"
    path.write_text(json.dumps(FUSION), encoding="utf-8")
    labels = LabelSet.read(path)
    assert labels.targets == ("PER.NAM", "LOC.NAM")
    assert labels.extensions == ("NOUN", "TIME")
    assert labels.to_dict() == FUSION


def test_plain_list_gives_targets_only(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("O\nPER\nLOC\n", encoding="utf-8")
    assert LabelSet.read(path) == LabelSet(("PER", "LOC"))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows: rows.pop("O"), "not 'O'"),
        (lambda rows: rows.update({"GPE": {"idx": 5, "count": -1, "is_target": True}}), "after extension label"),
        (lambda rows: rows["NOUN"].update(count=0), "count 0; it needs at least 1"),
        (lambda rows: rows["NOUN"].pop("count"), "count None"),
        (lambda rows: rows["NOUN"].pop("is_target"), "is_target"),
        (lambda rows: [rows.pop(name) for name in ("PER.NAM", "LOC.NAM")], "no target label"),
    ],
)
def test_mistakes_in_a_label_file_are_named(tmp_path, change, message):
    rows = json.loads(json.dumps(FUSION))
    change(rows)
    path = tmp_path / "label_fusion.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        LabelSet.read(path)


@pytest.mark.parametrize("text, message", [("[1]", "one JSON object"), ('{"O": ', ":1: is not valid JSON")])
def test_broken_label_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "label_fusion.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        LabelSet.read(path)


def test_missing_label_file_says_what_makes_it(tmp_path):
    with pytest.raises(UserError, match="s5_merge_data"):
        LabelSet.read(tmp_path / "label_fusion.json")


def test_a_label_twice_is_refused():
    with pytest.raises(UserError, match="'PER' stands twice"):
        LabelSet(("PER", "LOC"), ("PER",))


def test_sentence_reads_a_record_and_drops_duplicates():
    entity = {"start": 0, "end": 2, "entity": "LOC", "text": ["北", "京"]}
    record = {"text": list("北京好"), "entities": [entity, dict(entity), {"start": 0, "end": 1, "entity": "LOC"}]}
    assert Sentence.from_record(record) == Sentence(tuple("北京好"), ((0, 2, "LOC"), (0, 1, "LOC")))


@pytest.mark.parametrize("start, end", [(-1, 1), (0, 4), (2, 2), (3, 1)])
def test_offsets_outside_the_sentence_are_refused(start, end):
    with pytest.raises(UserError, match="does not fit a sentence of 3 tokens"):
        Sentence.from_record({"text": list("北京好"), "entities": [{"start": start, "end": end, "entity": "LOC"}]})


def test_unknown_labels_are_counted():
    sentences = [Sentence(("a",), ((0, 1, "PER"), (0, 1, "FOO"))), Sentence(("b",), ((0, 1, "FOO"),))]
    assert unknown_labels(sentences, LabelSet(("PER",))) == {"FOO": 2}


@pytest.mark.parametrize(
    "entities, mode",
    [
        (((0, 1, "PER"), (1, 2, "PER")), "flat"),
        (((0, 3, "PER"), (1, 2, "LOC")), "nested"),
        (((0, 2, "PER"), (0, 2, "LOC")), "multilabel"),
        (((0, 3, "PER"), (1, 2, "NOUN"), (0, 3, "NOUN")), "flat"),
        (((0, 1, "PER"), (0, 2, "LOC"), (3, 4, "LOC")), "nested"),
        (((3, 4, "LOC"), (0, 2, "LOC"), (3, 4, "PER"), (0, 1, "PER")), "multilabel"),
    ],
)
def test_overlaps_are_seen_among_the_named_labels_only(entities, mode):
    assert overlaps_of([Sentence(tuple("abcd"), entities)], ("PER", "LOC")) == mode


def test_dense_text_is_recognised():
    assert is_dense([Sentence(tuple("小明在北京"))])
    assert not is_dense([Sentence(("I", "am", "here"))])
    assert is_dense([])


@pytest.mark.parametrize(
    "token, shape", [("McDonald's", "XxXxx'x"), ("1998", "dd"), ("U.S.", "X.X."), ("北京大学", "cc"), (" ", " ")]
)
def test_word_shape(token, shape):
    assert word_shape(token) == shape


@given(st.lists(st.text(min_size=1, max_size=5), max_size=8))
def test_every_column_gives_one_string_a_token(tokens):
    for column in ("token", "bigram", "lower", "shape", "prefix2", "suffix3"):
        assert len(feature_strings(tokens, column)) == len(tokens)


def test_unknown_column_is_an_error():
    with pytest.raises(ValueError, match="unknown feature column"):
        feature_strings(["a"], "colour")


def test_vocabulary_knows_training_strings_and_nothing_else():
    vocabulary = Vocabulary.build([Sentence(tuple("北京北京好"))])
    (tokens, bigrams) = vocabulary.encode(list("北京上"))
    assert UNKNOWN_ID not in tokens[:2] and tokens[2] == UNKNOWN_ID
    assert bigrams[0] != UNKNOWN_ID  # seen twice
    assert Vocabulary(vocabulary.columns).encode(list("京好")) == vocabulary.encode(list("京好"))
    assert all(max(ids) < size for ids, size in zip(vocabulary.encode(list("北京北京好")), vocabulary.sizes.values()))


def test_spaced_text_has_affix_columns_and_shares_them_between_words():
    vocabulary = Vocabulary.build([Sentence(("Running", "walking", "talking"))])
    columns = dict(zip(vocabulary.columns, vocabulary.encode(["Jumping"])))
    assert columns["token"] == [UNKNOWN_ID]
    assert columns["suffix3"] != [UNKNOWN_ID]


@given(st.lists(st.integers(1, 50), max_size=200), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_holds_every_sentence_once_and_repeats_for_the_same_seed(lengths, size, seed, epoch):
    batches = batch_order(lengths, size, seed=seed, epoch=epoch)
    assert sorted(k for batch in batches for k in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert batches == batch_order(lengths, size, seed=seed, epoch=epoch)


def test_epochs_and_seeds_differ_in_order():
    orders = [batch_order([1] * 64, 4, seed=seed, epoch=epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(a != b for n, a in enumerate(orders) for b in orders[:n])


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_chunks_join_to_the_input(items, size):
    chunks = list(chunked(iter(items), size))
    assert [item for chunk in chunks for item in chunk] == items
    assert all(len(chunk) == size for chunk in chunks[:-1])


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20), st.integers(1, 200))
def test_parts_of_a_batch_keep_the_order_and_the_limit(cells, limit):
    parts = within_cells(range(len(cells)), cells, limit)
    assert [k for part in parts for k in part] == list(range(len(cells)))
    assert all(len(part) == 1 or sum(cells[k] for k in part) <= limit for part in parts)


# --- long sentences ------------------------------------------------------------------------------------------------

MARKS = st.sampled_from([*"ab。！?.，、:", "\n", "end.", "U.S"])
SPLITS = st.lists(MARKS, max_size=40).flatmap(lambda tokens: st.tuples(
    st.just(tuple(tokens)), st.integers(1, 12), st.lists(st.tuples(
        st.integers(0, max(0, len(tokens) - 1)), st.integers(1, 15), st.sampled_from(["PER", "LOC"])).map(
            lambda e: (e[0], min(len(tokens), e[0] + e[1]), e[2])), max_size=8 if tokens else 0)))


def crossings(cut, entities, limit):
    """Entities that a cut goes through, those too long to be kept left out."""
    return sum(start < cut < end for start, end, _ in entities if end - start <= limit)


@given(SPLITS)
def test_pieces_of_a_long_sentence_are_all_of_it_and_not_too_long(case):
    tokens, limit, entities = case
    pieces = split_long(tokens, limit, entities)
    assert [k for first, last in pieces for k in range(first, last)] == list(range(len(tokens)))
    assert all(0 < last - first <= limit for first, last in pieces)
    if len(tokens) <= limit:
        assert len(pieces) == bool(tokens)


@given(SPLITS)
def test_a_cut_goes_through_as_few_entities_as_can_be_and_prefers_the_end_of_a_sentence(case):
    tokens, limit, entities = case
    for first, last in split_long(tokens, limit, entities)[:-1]:
        fewest = min(crossings(cut, entities, limit) for cut in range(first + 1, first + limit + 1))
        assert crossings(last, entities, limit) == fewest
        good = [cut for cut in range(first + 1, first + limit + 1) if crossings(cut, entities, limit) == fewest]
        ends = [cut for cut in good if tokens[cut - 1][-1] in "。！?.\n"] or [cut for cut in good if tokens[cut - 1] in "，、:"]
        assert last == max(ends or good)


@given(SPLITS)
def test_pieces_hold_the_entities_that_no_cut_goes_through(case):
    tokens, limit, entities = case
    sentence = Sentence(tokens, tuple(dict.fromkeys(entities)), synthetic=True)
    pieces = split_sentence(sentence, limit)
    if len(tokens) <= limit:
        assert pieces == [sentence]
        return
    found, first = [], 0
    for piece in pieces:
        assert piece.synthetic and all(0 <= s < e <= len(piece.tokens) for s, e, _ in piece.entities)
        found += [(first + s, first + e, label) for s, e, label in piece.entities]
        first += len(piece.tokens)
    cuts = [first for first, _ in split_long(tokens, limit, sentence.entities)]
    assert sorted(found) == sorted(e for e in sentence.entities if not any(e[0] < cut < e[1] for cut in cuts))


@pytest.mark.parametrize("text, limit, pieces", [
    ("小明来了。他很好，不走", 8, ["小明来了。", "他很好，不走"]),
    ("小明来了，他很好不走", 8, ["小明来了，", "他很好不走"]),
    ("小明来了他很好不走", 8, ["小明来了他很好不", "走"]),
    ("来了。小明", 5, ["来了。小明"]),
    ("", 5, []),
])
def test_long_texts_are_cut_where_a_reader_would(text, limit, pieces):
    assert [text[first:last] for first, last in split_long(text, limit)] == pieces


def test_an_entity_is_not_cut_though_a_sentence_ends_in_it():
    text = "在北京。上海路走"
    assert split_long(text, 6, [(1, 6, "LOC")]) == [(0, 6), (6, 8)]
    assert split_long(text, 4, [(1, 6, "LOC")]) == [(0, 4), (4, 8)]  # too long to be kept
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        split_long(text, 0)
