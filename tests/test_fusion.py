"""What a model's items add to a sentence, and the label files that count it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.utils.fusion import FusionStats, as_entity, columns, extension_spans, label_file
from syn_pipelines.utils.labels import AliasMap
from syn_pipelines.utils.spans import Grounder

ENTITY = AliasMap.of({"PERSON": ["人名"], "LOCATION": ["地名"], "GEOPOLITICAL": ["国家"]}, fallback="OTHER")
POS = AliasMap.of({"NOUN": ["n", "名词"], "VERB": ["v"]}, fallback="WORD")


def entities(*pairs):
    return [{"entity": surface, "type": kind} for surface, kind in pairs]


def words(*pairs):
    return [{"word": surface, "pos": tag} for surface, tag in pairs]


def spans_of(tokens, entity_items=(), pos_items=(), dense=True):
    stats = FusionStats()
    return extension_spans(list(tokens), columns(entity_items, "entity"), columns(pos_items, "pos"), dense=dense,
                           entity_label=ENTITY.canonical, pos_label=POS.canonical, stats=stats), stats


def test_an_entity_stands_for_every_occurrence_nested_ones_included():
    found, stats = spans_of("北京北京大学", entities(("北京大学", "地名"), ("北京", "国家"), ("大学", "学校")))
    assert found == [(0, 2, "GEOPOLITICAL"), (2, 4, "GEOPOLITICAL"), (2, 6, "LOCATION"), (4, 6, "OTHER")]
    assert stats.unmapped == {"entity": {"学校": 1}}
    assert stats.spans == {"GEOPOLITICAL": 2, "LOCATION": 1, "OTHER": 1}


def test_the_same_span_is_kept_once_a_label_and_with_every_other_label():
    found, stats = spans_of("北京好", entities(("北京", "地名"), ("北京", "LOCATION"), ("北京", "国家"), ("北京", "人名")))
    assert found == [(0, 2, "GEOPOLITICAL"), (0, 2, "LOCATION"), (0, 2, "PERSON")]
    assert (stats.items["entity"], stats.placed["entity"], stats.repeated) == (4, 4, 1)


def test_words_stand_at_their_own_position_only():
    found, _ = spans_of("好人好", pos_items=words(("好", "v"), ("人", "n"), ("好", "?")))
    assert found == [(0, 1, "VERB"), (1, 2, "NOUN"), (2, 3, "WORD")]


def test_entity_spans_come_before_word_spans_each_from_left_to_right():
    found, _ = spans_of("张三在北京", entities(("北京", "地名"), ("张三", "人名")), words(("张三", "n"), ("在", "v"), ("北京", "n")))
    assert found == [(0, 2, "PERSON"), (3, 5, "LOCATION"), (0, 2, "NOUN"), (2, 3, "VERB"), (3, 5, "NOUN")]


def test_what_could_not_be_placed_is_counted_by_reason():
    _, stats = spans_of(["New", "York", "Yorkshire"], entities(("york", "地名"), ("", "地名"), ("shire", "x"), ("Rome", "地名")),
                        words(("York", "n"), ("New", "n")), dense=False)
    assert stats.unplaced == {"entity": {"empty": 1, "not_on_token_boundary": 1, "not_in_text": 1}, "pos": {"out_of_order": 1}}
    assert stats.folded["entity"] == 1
    assert not stats.unmapped.get("entity")  # the type of what is nowhere changes nothing


@given(st.lists(st.sampled_from("ab北 京"), min_size=1, max_size=8),
       st.lists(st.tuples(st.text(alphabet="abAB北京 x", max_size=3), st.sampled_from(["人名", "地名", "zz"])), max_size=6),
       st.lists(st.tuples(st.text(alphabet="abAB北京 x", max_size=3), st.sampled_from(["n", "v", "zz"])), max_size=6),
       st.booleans())
def test_the_counts_add_up_whatever_the_items(tokens, found, tagged, dense):
    spans, stats = spans_of(tokens, entities(*found), words(*tagged), dense)
    for mode, items in (("entity", found), ("pos", tagged)):
        assert stats.items[mode] == len(items) == stats.placed[mode] + sum(stats.unplaced.get(mode, {}).values())
        assert stats.folded[mode] <= stats.placed[mode]
    assert len(set(spans)) == len(spans) == sum(stats.spans.values())
    assert all(0 <= start < end <= len(tokens) for start, end, _ in spans)


def test_no_items_give_no_spans():
    assert spans_of("北京")[0] == []


def test_an_entity_record_holds_its_tokens():
    assert as_entity(["a", " ", "b"], (1, 3), "X") == {"start": 1, "end": 3, "entity": "X", "text": [" ", "b"]}


def test_a_label_file_lists_o_targets_in_order_then_extensions_by_name_without_empty_ones():
    content = label_file(["PER", "LOC"], {"WORD": 3, "NOUN": 5, "DATE": 0})
    assert list(content.items()) == [
        ("O", {"idx": 0, "count": -1, "is_target": True}),
        ("PER", {"idx": 1, "count": -1, "is_target": True}),
        ("LOC", {"idx": 2, "count": -1, "is_target": True}),
        ("NOUN", {"idx": 3, "count": 5, "is_target": False}),
        ("WORD", {"idx": 4, "count": 3, "is_target": False}),
    ]


@pytest.mark.parametrize("dense", [True, False])
def test_a_model_that_repeats_one_entity_for_ever_adds_it_once(dense):
    found, stats = spans_of(["好"] * 300, entities(*[("好", "人名")] * 500), dense=dense)
    assert found == [(i, i + 1, "PERSON") for i in range(300)]
    assert stats.placed["entity"] == 500


@pytest.mark.parametrize(("tokens", "how"), [(["\\u5f20", "\\u4e09"], "exact"), (["张", "三"], "folded")])
def test_a_surface_escaped_twice_is_found_as_written_or_else_as_meant(tokens, how):
    assert Grounder(tokens, dense=True).find("\\u5f20\\u4e09") == ([(0, 2)], how)
