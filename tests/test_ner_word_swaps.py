"""Exchange of words and mentions in training sentences."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.ner.data import Sentence
from syn_pipelines.ner.word_swaps import WordSwaps, cut_out, replace


def surfaces(sentence: Sentence) -> list[tuple[str, str]]:
    """(text, label) of each entity, by position."""
    return [("".join(sentence.tokens[start:end]), label) for start, end, label in sorted(sentence.entities)]


def variants(sentences, sentence, targets=("PER",), share=1.0, tries=60) -> list[Sentence]:
    swaps = WordSwaps(sentences, targets)
    return [swaps.vary(sentence, share, random.Random(seed)) for seed in range(tries)]


LABELLED = st.lists(st.tuples(st.integers(0, 11), st.integers(1, 4), st.sampled_from("PQRT")), max_size=6)


@st.composite
def labelled_sentences(draw):
    tokens = tuple(draw(st.lists(st.sampled_from("甲乙丙丁 x"), min_size=1, max_size=12)))
    entities = [(a, a + n, label) for a, n, label in draw(LABELLED) if a + n <= len(tokens)]
    return Sentence(tokens, tuple(dict.fromkeys(entities)))


@st.composite
def sentences_with_swaps(draw):
    sentence = draw(labelled_sentences())
    cuts = sorted(draw(st.sets(st.integers(0, len(sentence.tokens)), max_size=6)))
    return sentence, [(a, b, draw(labelled_sentences())) for a, b in zip(cuts, cuts[1:]) if draw(st.booleans())]


@given(sentences_with_swaps())
def test_replacing_keeps_every_other_token_and_brings_the_new_words_labels(case):
    sentence, swaps = case
    result = replace(sentence, swaps)
    pieces, done, wanted = [], 0, set()
    for start, end, new in swaps:
        pieces += sentence.tokens[done:start]
        wanted |= {(a + len(pieces), b + len(pieces), label) for a, b, label in new.entities}
        pieces += new.tokens
        done = end
    assert result.tokens == tuple(pieces + list(sentence.tokens[done:]))
    assert wanted <= set(result.entities)
    assert all(0 <= a < b <= len(result.tokens) for a, b, _ in result.entities)
    inner = {k for start, end, _ in swaps for k in range(start + 1, end)}
    apart = [e for e in sentence.entities if not any(a < e[1] and e[0] < b for a, b, _ in swaps)]
    assert {(sentence.tokens[a:b], label) for a, b, label in apart} <= {
        (result.tokens[a:b], label) for a, b, label in result.entities}
    assert len(result.entities) <= len(wanted) + sum(e[0] not in inner and e[1] not in inner for e in sentence.entities)


@given(st.lists(labelled_sentences(), min_size=1, max_size=5), st.integers(0, 99))
def test_exchanges_keep_the_order_and_number_of_target_mentions(sentences, seed):
    flat = [Sentence(s.tokens, tuple(e for e in s.entities if e[2] not in "PQ" or not any(
        o is not e and o[0] < e[1] and e[0] < o[1] for o in s.entities))) for s in sentences]
    varied = WordSwaps(flat, ["P", "Q"]).vary(flat[0], 0.7, random.Random(seed))

    def mentions(sentence):
        return [label for *_, label in sorted(sentence.entities) if label in "PQ"]
    assert mentions(varied) == mentions(flat[0])


VERBS = [Sentence(tuple("小明爱北京"), ((0, 2, "PER"), (2, 3, "VERB"), (3, 5, "PLACE"), (3, 5, "NOUN"))),
         Sentence(tuple("他讨厌学校"), ((0, 1, "PRON"), (1, 3, "VERB"), (3, 5, "NOUN"), (3, 5, "PLACE"), (3, 4, "VERB"))),
         Sentence(tuple("我去看小明"), ((0, 1, "PRON"), (1, 2, "VERB"), (3, 5, "PRON")))]


def test_words_are_exchanged_for_words_with_the_same_labels_and_their_inner_labels_come_along():
    found = variants(VERBS, VERBS[0])
    assert {"".join(s.tokens) for s in found} == {
        f"小明{verb}{place}" for verb in ("爱", "讨厌", "去", "学") for place in ("北京", "学校")}
    for sentence in found:
        inner = [("学", "VERB")] if "学校" in "".join(sentence.tokens) else []
        assert all(pair in surfaces(sentence) for pair in inner)
        assert [label for _, label in surfaces(sentence)].count("PER") == 1


def test_a_name_of_a_target_entity_is_no_word_elsewhere():
    assert not any("小明" in "".join(s.tokens) for s in variants(VERBS, VERBS[1]))


def test_mentions_are_exchanged_within_their_label():
    names = [Sentence(tuple(name + "在"), ((0, len(name), "PER"),)) for name in ("小明", "王力宏", "李")]
    towns = [Sentence(tuple("北京"), ((0, 2, "LOC"),))]
    assert {"".join(s.tokens) for s in variants(names + towns, names[0], ("PER", "LOC"))} == {"小明在", "王力宏在", "李在"}


def test_an_extension_label_that_mostly_means_a_target_lends_its_words():
    gold = [Sentence(tuple(name), ((0, 2, "PER"), (0, 2, "PERSON"), (0, 2, "NOUN"))) for name in ("小明", "小红", "小刚", "小张", "小李")]
    missed = Sentence(tuple("见了张三丰"), ((2, 5, "PERSON"), (2, 5, "NOUN"), (2, 3, "SURNAME")))
    nouns = [Sentence(tuple("桌子椅子"), ((0, 2, "NOUN"), (2, 4, "NOUN"))) for _ in range(10)]
    found = variants([*gold, missed, *nouns], gold[0])
    assert {"".join(s.tokens) for s in found} == {"小明", "小红", "小刚", "小张", "小李", "张三丰"}  # and no table: NOUN lends nothing
    lent = next(s for s in found if len(s.tokens) == 3)
    assert set(lent.entities) == {(0, 3, "PER"), (0, 3, "PERSON"), (0, 3, "NOUN"), (0, 1, "SURNAME")}


def test_what_lies_across_the_borders_of_an_exchanged_word_is_dropped_and_what_holds_it_moves():
    sentence = Sentence(tuple("甲乙丙丁"), ((1, 3, "W"), (2, 4, "CROSS"), (0, 4, "ALL"), (1, 2, "IN")))
    result = replace(sentence, [(1, 3, Sentence(tuple("子丑寅"), ((0, 3, "W"),)))])
    assert set(result.entities) == {(1, 4, "W"), (0, 5, "ALL")}


def test_cut_out_keeps_what_lies_inside():
    assert cut_out(VERBS[1], 3, 5) == Sentence(("学", "校"), ((0, 2, "NOUN"), (0, 2, "PLACE"), (0, 1, "VERB")))


@pytest.mark.parametrize("sentence", [Sentence(()), Sentence(tuple("小明")), Sentence(tuple("小明"), ((0, 2, "PER"),))])
def test_without_others_of_its_kind_nothing_changes(sentence):
    assert all(s == sentence for s in variants([sentence], sentence))


def test_a_share_of_nothing_changes_nothing_and_the_same_seed_gives_the_same_sentence():
    assert all(s == VERBS[1] for s in variants(VERBS, VERBS[1], share=0.0))
    assert variants(VERBS, VERBS[1], share=0.5) == variants(VERBS, VERBS[1], share=0.5)
