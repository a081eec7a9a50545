"""The reply parser: every shape models write, in both modes and two languages; and what must hold for any text."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syn_pipelines.utils.replies import ParsedReply, parse_reply

KEYS = {"entity": ("entity", "type"), "pos": ("word", "pos")}
# Surface, type; surface, type: what the shapes below are filled with.
FILLINGS = {
    "entity-zh": ("entity", "张三", "人名", "北京 大学", "机构"),
    "entity-en": ("entity", "Ann O. Lee", "PERSON", "New York", "LOC"),
    "pos-zh": ("pos", "我", "代词", "吃饭", "动词"),
    "pos-en": ("pos", "dogs", "NOUN", "re-run", "VERB"),
}


def items(mode: str, *pairs: tuple[str, str]) -> list[dict[str, str]]:
    surface_key, type_key = KEYS[mode]
    return [{surface_key: surface, type_key: type_} for surface, type_ in pairs]


# S, T, U, V: first surface and type, second surface and type; E, P: the mode's own two keys.
ARRAY = '[{"E": "S", "T_": "T"}, {"E": "U", "T_": "V"}]'
SHAPES = {
    "fence": "```json\nARRAY\n```",
    "fence_without_language": "```\nARRAY\n```",
    "fence_json5_trailing_commas": '```json5\n[{"E": "S", "T_": "T",}, {"E": "U", "T_": "V"},]\n```',
    "fence_never_closed": "```json\nARRAY",
    "fence_on_one_line": "```json ARRAY ```",
    "prose_before": "Here is the list you asked for:\nARRAY",
    "prose_after": "ARRAY\nI hope this helps [see note 1] {ok}.",
    "prose_around": "好的，结果如下：\n\nARRAY\n\n以上就是全部（共2个）。",
    "prose_with_brackets_before": "The list [as requested], following {entity, type}: ARRAY",
    "two_fenced_arrays": '```json\n[{"E": "S", "T_": "T"}]\n```\n```json\n[{"E": "U", "T_": "V"}]\n```',
    "example_then_answer": 'For instance [{"E": "ex", "T_": "EX"}] has the right form. Answer: ARRAY',
    "example_object_then_answer": 'Format: {"E": "...", "T_": "..."}. Answer: ARRAY',
    "answer_then_empty_example": "ARRAY\nIf nothing were there, I would write [].",
    "single_quotes": "[{'E': 'S', 'T_': 'T'}, {'E': 'U', 'T_': 'V'}]",
    "python_literals": "[{'E': 'S', 'T_': 'T', 'sure': True, 'norm': None}, {'E': 'U', 'T_': 'V', 'sure': False}]",
    "tuple_of_objects": "({'E': 'S', 'T_': 'T'}, {'E': 'U', 'T_': 'V'},)",
    "tuples": "[('S', 'T'), ('U', 'V')]",
    "lists_of_pairs": '[["S", "T"], ["U", "V"]]',
    "lists_with_offsets": '[["S", "T", 0, 2], ["U", "V", 5, 9]]',
    "keys_without_quotes": '[{E: "S", T_: "T"}, {E: "U", T_: "V"}]',
    "nothing_quoted": "[{E: S, T_: T}, {E: U, T_: V}]",
    "values_without_quotes": '[{"E": S, "T_": T}, {"E": U, "T_": V}]',
    "opening_quote_missing": '[{"E": S", "T_": "T"}, {E": "U", "T_": V"}]',
    "closing_quote_missing": '[{"E: "S", "T_": "T}, {"E": "U, "T_": "V"}]',
    "trailing_commas": '[{"E": "S", "T_": "T",}, {"E": "U", "T_": "V",},]',
    "commas_missing": '[{"E": "S" "T_": "T"} {"E": "U"\n"T_": "V"}]',
    "colon_missing": '[{"E" "S", "T_": "T"}, {"E": "U", "T_" "V"}]',
    "comma_doubled": '[{"E": "S",, "T_": "T"},, {"E": "U", "T_": "V"}]',
    "brace_missing_between": '[{"E": "S", "T_": "T", {"E": "U", "T_": "V"}]',
    "brace_missing_at_the_end": '[{"E": "S", "T_": "T"}, {"E": "U", "T_": "V"]',
    "opening_brace_missing": '["E": "S", "T_": "T"}, {"E": "U", "T_": "V"}]',
    "opening_bracket_missing": '{"E": "S", "T_": "T"}, {"E": "U", "T_": "V"}]',
    "brace_too_many": '[{"E": "S", "T_": "T"}}, {"E": "U", "T_": "V"}]',
    "json_lines": '{"E": "S", "T_": "T"}\n{"E": "U", "T_": "V"}\n',
    "json_lines_crlf_commas": '{"E": "S", "T_": "T"},\r\n{"E": "U", "T_": "V"},\r\n',
    "json_lines_of_arrays": '[{"E": "S", "T_": "T"}]\n[{"E": "U", "T_": "V"}]',
    "json_lines_of_pairs": '["S", "T"]\n["U", "V"]',
    "numbered_objects": '1. {"E": "S", "T_": "T"}\n2. {"E": "U", "T_": "V"}',
    "objects_in_prose": 'First {"E": "S", "T_": "T"}, which is plain, then {"E": "U", "T_": "V"} as said.',
    "tabs_and_crlf_between": '[\r\n\t{"E":\t"S",\r\n\t"T_": "T"},\r\n\t{"E": "U", "T_": "V"}\r\n]\r\nDone.',
    "tabs_between_loose": "[\r\n\t{'E':\t'S',\r\n\t'T_': 'T'},\r\n\t{'E': 'U', 'T_': 'V'}\r\n]",
    "wrapper_entities": '{"entities": ARRAY}',
    "wrapper_words": '{"words": ARRAY}',
    "wrapper_zh": '{"实体": ARRAY}',
    "wrapper_result_zh": '{"结果": ARRAY}',
    "wrapper_unknown": '{"Extracted stuff": ARRAY}',
    "wrapper_nested": '{"response": {"data": {"entities": ARRAY}}, "status": "ok"}',
    "wrapper_with_sentence": '{"text": "the whole sentence", "type": "ner", "entities": ARRAY, "count": 2}',
    "wrapper_with_strings_of_unknown_keys": '{"written": "the whole sentence", "by": "a model", "entities": ARRAY}',
    "wrapper_of_pairs": '{"result": [["S", "T"], ["U", "V"]]}',
    "double_braces": '[{{"E": "S", "T_": "T"}}, {{"E": "U", "T_": "V"}}]',
    "list_of_wrappers": '[{"entity": {"name": "S", "type": "T"}}, {"entity": {"name": "U", "type": "V"}}]',
    "nested_lists": '[[{"E": "S", "T_": "T"}], [{"E": "U", "T_": "V"}]]',
    "dict_of_lists": '{"T": ["S"], "V": ["U"]}',
    "dict_of_lists_with_empty": '{"T": ["S"], "OTHER": [], "V": ["U"], "MISC": []}',
    "dict_of_lists_and_a_string": '{"T": ["S"], "V": "U"}',
    "dict_of_lists_wrapped": '{"entities": {"T": ["S"], "V": ["U"]}}',
    "dict_of_lists_loose": "{T: ['S',], V: ['U']}",
    "dict_of_objects": '{"T": [{"name": "S", "start": 0}], "V": [{"name": "U", "start": 7}]}',
    "list_of_dicts_of_lists": '[{"T": ["S"]}, {"V": ["U"]}]',
    "surface_to_type": '{"S": "T", "U": "V"}',
    "list_of_surface_to_type": '[{"S": "T"}, {"U": "V"}]',
    "surface_to_type_with_extra": '{"S": "T", "U": "V", "count": 2}',
    "surface_to_object": '{"S": {"type": "T"}, "U": {"type": "V"}}',
    "grouped_by_type": '[{"type": "T", "mentions": ["S"]}, {"type": "V", "mentions": ["U"]}]',
    "parallel_lists": '{"E": ["S", "U"], "T_": ["T", "V"]}',
    "keys_run_together": '[{"E": "S", "T_": "T", "E": "U", "T_": "V"}]',
    "type_in_a_list": '[{"E": "S", "T_": ["T"]}, {"E": ["U"], "T_": ["V"]}]',
    "think": "<think>\nmaybe [{'E': 'draft', 'T_': 'D'}, hm [\n</think>\n\nARRAY",
    "think_then_fence": "<think></think>```json\nARRAY\n```",
    "think_end_only": 'so [{"E": "draft", "T_": "D"}, is it?\n</think>ARRAY',
    "think_end_only_with_odd_quotes": "The user's: 'He isn't here' [\"it's {\"x\": 'a\n</think>\nARRAY",
    "json_in_a_string_in_a_wrapper": '{"result": "[[\\"S\\", \\"T\\"], [\\"U\\", \\"V\\"]]"}',
    "yaml_like_prefix": "entities: ARRAY",
    "python_code_fence": "```python\nresult = ARRAY  # done\n```",
    "bullets": '**Output:**\n* {"E": "S", "T_": "T"}\n* {"E": "U", "T_": "V"}',
    "end_of_turn_mark": "ARRAY<|im_end|>",
    "full_width_quotes": "[{“E”: “S”, “T_”: “T”}, {“E”: “U”, “T_”: “V”}]",
    "full_width_everything": "【｛“E”：“S”，“T_”：“T”｝，｛“E”：“U”，“T_”：“V”｝】",
    "full_width_ascii_forms": "［｛＂E＂：＂S＂，＂T_＂：＂T＂｝，｛＂E＂：＂U＂，＂T_＂：＂V＂｝］",
    "full_width_single_quotes": "[{‘E’：‘S’，‘T_’：‘T’}，{‘E’：‘U’，‘T_’：‘V’}]",
    "full_width_colons_only": '[{"E"："S"，"T_"："T"}，{"E"："U"，"T_"："V"}]',
    "escaped_quotes": r'[{\"E\": \"S\", \"T_\": \"T\"},\n {\"E\": \"U\", \"T_\": \"V\"}]',
    "literal_line_ends": r'[\n  {"E": "S", "T_": "T"},\n  {"E": "U", "T_": "V"}\n]',
    "comments": '[{"E": "S", "T_": "T"}, // first\n {"E": "U", /* 2nd */ "T_": "V"} # last\n]',
    "byte_order_mark": "\ufeffARRAY",
    "ellipsis": '[{"E": "S", "T_": "T"}, {"E": "U", "T_": "V"}, ...]',
    "null_and_stray_members": '[null, {"E": "S", "T_": "T"}, 7, "U", {"E": "x"}, {"E": "U", "T_": "V"}, {"T_": "V"}]',
}


def fill(shape: str, filling: str) -> str:
    mode, surface, type_, surface2, type2 = FILLINGS[filling]
    text = shape.replace("ARRAY", ARRAY)
    for mark, value in (('T_', "\0"), ("E", "\1"), ("S", "\2"), ("T", "\3"), ("U", "\4"), ("V", "\5")):
        text = _replace_word(text, mark, value)
    for value, word in zip("\0\1\2\3\4\5", (KEYS[mode][1], KEYS[mode][0], surface, type_, surface2, type2)):
        text = text.replace(value, word)
    return text


def _replace_word(text: str, mark: str, value: str) -> str:
    """Replace the mark where it is no part of an ASCII word."""
    pieces = text.split(mark)
    out = pieces[0]
    for piece in pieces[1:]:
        inside = re.search("[A-Za-z0-9]$", out) or re.match("[A-Za-z0-9_]", piece)
        out += (mark if inside else value) + piece
    return out


@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_both_items(shape, filling):
    mode, surface, type_, surface2, type2 = FILLINGS[filling]
    parsed = parse_reply(fill(SHAPES[shape], filling), mode)
    assert parsed.items == items(mode, (surface, type_), (surface2, type2))
    assert parsed.status == "repaired" and parsed.reason


@pytest.mark.parametrize("filling", FILLINGS)
def test_extra_keys_are_ignored(filling):
    mode, surface, type_, surface2, type2 = FILLINGS[filling]
    reply = '[{"id": "1", "E": "S", "T_": "T", "end": 2, "score": 0.9, "n": null}, {"x": ["S"], "E": "U", "T_": "V"}]'
    assert parse_reply(fill(reply, filling), mode) == ParsedReply(
        items(mode, (surface, type_), (surface2, type2)), "ok", "", 0)


@pytest.mark.parametrize("filling", FILLINGS)
def test_a_whole_reply_inside_a_json_string_is_read(filling):
    mode, surface, type_, surface2, type2 = FILLINGS[filling]
    reply = json.dumps(fill(ARRAY, filling))
    assert parse_reply(reply, mode) == ParsedReply(
        items(mode, (surface, type_), (surface2, type2)), "repaired", "json_string", 0)


KEY_PAIRS = [
    ("name", "label"), ("text", "tag"), ("Word", "TYPE"), ("实体", "类型"), ("entity", "entity_type"), ("token", "ner"),
    ("词", "词性"), ("词语", "词性"), ("mention", "category"), ("span", "class"), ("value", "label"),
    ("surface", "kind"),
    ("Entity Name", "Entity Type"), ("entity_text", "entity-label"), ("word", "pos"), ("entity", "type"),
    ("名称", "类别"), ("word", "entity_group"), ("text", "label_"), ("word", "entity"), ("name", "实体"),
    ("token", "upos"),
    ("entity", "value"), ("实体名称", "实体类型"), ("word", "part_of_speech"),
]


@pytest.mark.parametrize("mode", KEYS)
@pytest.mark.parametrize("surface_key, type_key", KEY_PAIRS, ids=lambda key: key)
def test_other_keys_are_understood_in_both_modes(surface_key, type_key, mode):
    for keys in ((surface_key, type_key), (type_key, surface_key)):
        values = {surface_key: "车", type_key: "NN"}
        reply = json.dumps([{key: values[key] for key in keys} | {"start": 0, "confidence": "0.9"}], ensure_ascii=False)
        parsed = parse_reply(reply, mode)
        assert parsed.items == items(mode, ("车", "NN"))
        exact = (surface_key, type_key) == KEYS[mode]
        assert (parsed.status, parsed.reason) == (("ok", "") if exact else ("repaired", "key_alias"))


NASTY = ['say "hi"', "C:\\dir\\new", "[1]", "a, b", "{x}", "two\nlines", "```json\n[]\n```", "tab\there", "“引号”",
         "：，【】",
         "'", '"', "\\", "", " ", "</think>", "<think>", "null", "3.50", "\\u5f20", "é", "İ", "👩‍👩‍👧", "\ufffd\ufffd",
         "\u2028\x85", "[{\"entity\": \"x\", \"type\": \"y\"}]", "// no comment", "# no comment"]


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("mode", KEYS)
def test_awkward_surfaces_survive_well_formed_json_exactly(mode, ascii_only):
    wanted = items(mode, *((surface, "类型 " + str(n)) for n, surface in enumerate(NASTY)))
    assert parse_reply(json.dumps(wanted, ensure_ascii=ascii_only), mode) == ParsedReply(wanted, "ok", "", 0)


def test_a_surface_escaped_twice_stays_as_written():
    """Only the merge, which knows the sentence, can tell whether it means two characters or twelve."""
    reply = r'[{"entity": "\\u5f20\\u4e09", "type": "PER"}]'
    assert parse_reply(reply, "entity") == ParsedReply(items("entity", (r"\u5f20\u4e09", "PER")), "ok", "", 0)


@pytest.mark.parametrize("surface", [s for s in NASTY if s not in ("</think>", "<think>")], ids=repr)
def test_awkward_surfaces_survive_where_another_member_is_broken(surface):
    member = json.dumps({"entity": surface, "type": "类型"}, ensure_ascii=False)
    parsed = parse_reply(f"结果：[{{entity: 李四, type: 人名}}, {member},]", "entity")
    assert parsed.items == items("entity", ("李四", "人名"), (surface, "类型"))


BROKEN_STRINGS = {
    "unescaped_quotes": ('[{"entity": "the "Big" one", "type": "X"}, {"entity": """, "type": "PU"}]',
                         [("the \"Big\" one", "X"), ('"', "PU")]),
    "unescaped_apostrophe": ("[{'entity': 'Ann's O'Neil', 'type': 'PER'}]", [("Ann's O'Neil", "PER")]),
    "full_width_inside_ascii_quotes": ('[{"entity": "他说“你好”，走了", "type": "X",}]', [("他说“你好”，走了", "X")]),
    "full_width_comma_as_surface": ("[{“entity”：“，”，“type”：“标点”}]", [("，", "标点")]),
    "raw_tab_and_line_end": ('[{"entity": "a\tb\r\nc", "type": "X"}]', [("a\tb\r\nc", "X")]),
    "unknown_escape": (r'[{"entity": "C:\data", "type": "X"}, {"entity": "it\'s", "type": "Y"}]',
                       [("C:\\data", "X"), ("it's", "Y")]),
    "escaped_unicode_loose": (r"[{'entity': '\u5f20\u4e09 \ud83d\ude00', 'type': 'PER'}]", [("张三 😀", "PER")]),
    "escaped_unicode_bare": (r"[{entity: \u5f20\u4e09, type: PER}]", [("张三", "PER")]),
    "numbers": ('[{"entity": 3.50, "type": "NUM"}, {"entity": 2024, "type": "DATE"}, {"entity": -1e5, "type": "NUM"}]',
                [("3.50", "NUM"), ("2024", "DATE"), ("-1e5", "NUM")]),
    "numbers_loose": ("[{entity: 3.50, type: NUM}, {entity: 2024, type: DATE},]", [("3.50", "NUM"), ("2024", "DATE")]),
    "numbers_in_dict_of_lists": ('{"NUM": [3.5, 2024]}', [("3.5", "NUM"), ("2024", "NUM")]),
    "not_stripped": ('[{"entity": " a ", "type": " X "},]', [(" a ", " X ")]),
    "duplicates_and_order": ("[{'entity': 'b', 'type': 'X'}, ('a', 'X'), {'entity': 'b', 'type': 'X'}]",
                             [("b", "X"), ("a", "X"), ("b", "X")]),
}


@pytest.mark.parametrize("case", BROKEN_STRINGS)
def test_strings_and_numbers_in_broken_json_come_out_as_meant(case):
    reply, pairs = BROKEN_STRINGS[case]
    parsed = parse_reply(reply, "entity")
    assert (parsed.items, parsed.status) == (items("entity", *pairs), "repaired")


UNTERMINATED = {
    "inside_a_string": ('[{"entity": "a", "type": "X"}, {"entity": "b', [("a", "X")]),
    "after_a_value": ('[{"entity": "a", "type": "X"}, {"entity": "b", "type": "Y"', [("a", "X")]),
    "after_a_comma": ('[{"entity": "a", "type": "X"}, {"entity": "b", "type": "Y",', [("a", "X")]),
    "between_items": ('[{"entity": "a", "type": "X"}, {"entity": "b", "type": "Y"}, ', [("a", "X"), ("b", "Y")]),
    "before_the_bracket": ('[{"entity": "a", "type": "X"}', [("a", "X")]),
    "in_an_escape": ('[{"entity": "a", "type": "X"}, {"entity": "b\\u5f', [("a", "X")]),
    "wrapped": ('{"entities": [{"entity": "a", "type": "X"}, {"entity": "b", "ty', [("a", "X")]),
    "fenced_and_closed": ('```json\n[{"entity": "a", "type": "X"}, {"entity": "b", "type":\n```\n', [("a", "X")]),
    "json_lines": ('{"entity": "a", "type": "X"}\n{"entity": "b", "type": "Y"', [("a", "X")]),
    "single_quotes": ("[{'entity': 'a', 'type': 'X'}, {'entity': 'b', 'type': 'Y", [("a", "X")]),
    "full_width": ("[{“entity”：“a”，“type”：“X”}，{“entity”：“b”，“type”：“Y", [("a", "X")]),
    "not_quoted": ("[{entity: a, type: X}, {entity: b, type: Y", [("a", "X")]),
    "pairs": ('[["a", "X"], ["b", "Y"', [("a", "X")]),
    "dict_of_lists_in_a_string": ('{"人名": ["张三", "李四"], "地名": ["北京", "上',
                                  [("张三", "人名"), ("李四", "人名"), ("北京", "地名")]),
    "dict_of_lists_after_a_string": ('{"人名": ["张三", "李四"', [("张三", "人名")]),
    "dict_of_lists_after_a_comma": ('{"人名": ["张三", "李四",', [("张三", "人名")]),
    "dict_of_lists_after_a_list": ('{"人名": ["张三"], ', [("张三", "人名")]),
    "surface_to_type": ('{"张三": "人名", "李四": "地名", "王五": "人', [("张三", "人名"), ("李四", "地名")]),
    "escaped": (r'[{\"entity\": \"a\", \"type\": \"X\"}, {\"entity\": \"b\", \"ty', [("a", "X")]),
}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("case", UNTERMINATED)
def test_the_item_an_unterminated_reply_broke_off_in_is_dropped(case, cut):
    reply, pairs = UNTERMINATED[case]
    assert parse_reply(reply, "entity", cut=cut) == ParsedReply(items("entity", *pairs), "repaired", "unterminated", 0)


def test_a_missing_brace_is_forgiven_only_when_the_reply_was_not_cut():
    reply = '[{"entity": "a", "type": "X"}, {"entity": "b", "type": "Y"]'
    assert parse_reply(reply, "entity").items == items("entity", ("a", "X"), ("b", "Y"))
    assert parse_reply(reply, "entity", cut=True).items == items("entity", ("a", "X"))


@pytest.mark.parametrize("reply", ['[{"entity": "a", "type": "X"}]', '{"entity": "a", "type": "X"}', '{"X": ["a"]}',
                                   '```\n[["a", "X"]]\n```', "{'a': 'X'}"])
def test_complete_json_loses_nothing_when_cut(reply):
    assert parse_reply(reply, "entity", cut=True).items == items("entity", ("a", "X"))


REJECTED = {
    "empty": ("", "empty_reply"),
    "blank": (" \r\n\t\u3000\ufeff", "empty_reply"),
    "prose": ("There are no entities in this sentence.", "no_json"),
    "prose_zh": ("这句话里没有实体（见【说明】）。", "no_json"),
    "null": ("null", "no_json"),
    "number": ("3.5", "no_json"),
    "string": ('"没有"', "no_json"),
    "lone_bracket": ("[", "unterminated"),
    "first_item_unfinished": ('[{"entity": "张', "unterminated"),
    "unclosed_think": ('<think>perhaps [{"entity": "a", "type": "X"}]', "unclosed_think"),
    "only_nulls": ("[null, null]", "no_items"),
    "no_types": ('[{"entity": "a"}, {"entity": "b", "type": null}]', "no_items"),
    "surfaces_only": ('["北京", "上海"]', "no_items"),
    "one_type_too_many": ('[{"entity": "a", "type": ["X", "Y"]}]', "no_items"),
    "type_of_another_kind": ('[{"entity": "a", "type": 3}, {"entity": "b", "type": {"x": 1}}]', "no_items"),
    "lone_surrogate": ('[{"entity": "\\ud83d", "type": "X"}]', "no_items"),
    "other_json": ('{"error": {"code": 500}, "ok": false}', "no_items"),
}


@pytest.mark.parametrize("mode", KEYS)
@pytest.mark.parametrize("case", REJECTED)
def test_a_reply_without_items_is_rejected_with_a_reason(case, mode):
    reply, reason = REJECTED[case]
    parsed = parse_reply(reply, mode)
    assert (parsed.items, parsed.status, parsed.reason) == ([], "rejected", reason)


@pytest.mark.parametrize("mode", KEYS)
def test_an_empty_array_is_an_answer(mode):
    assert parse_reply(" [ ]\n", mode) == ParsedReply([], "ok", "", 0)
    for reply in ("```json\n[]\n```", "没有实体：[]", "{}", '{"entities": []}', '{"人名": [], "地名": []}'):
        parsed = parse_reply(reply, mode)
        assert (parsed.items, parsed.status, parsed.dropped) == ([], "repaired", 0)


def test_words_that_look_like_keys_are_words_in_a_pos_map():
    parsed = parse_reply('{"the": "DET", "name": "NOUN", "is": "AUX"}', "pos")
    assert parsed.items == items("pos", ("the", "DET"), ("name", "NOUN"), ("is", "AUX"))
    assert parse_reply('{"word": "a", "colour": "red", "size": "big"}', "pos").status == "rejected"


def test_stray_members_are_counted():
    reply = ('[null, 1, "x", [], {}, {"entity": "a", "type": "X"}, {"entity": "b", "type": ""}, '
             '{"entity": null, "type": "X"}]')
    assert parse_reply(reply, "entity") == ParsedReply(items("entity", ("a", "X")), "repaired", "stray_members", 6)


def test_a_member_with_half_a_surrogate_pair_is_dropped_and_counted():
    reply = ('[{"entity": "\\ud83d", "type": "X"}, {"entity": "\\ud83d\\ude00", "type": "X"}, '
             '{"entity": "b", "type": "\\ude00"}]')
    assert parse_reply(reply, "entity") == ParsedReply(items("entity", ("😀", "X")), "repaired", "lone_surrogate", 2)
    assert parse_reply("[{'entity': '\ud83d', 'type': 'X'},]", "entity").items == []


REASONS = {
    "fence": ("```json\n[{\"entity\": \"a\", \"type\": \"X\"}]\n```", "code_fence"),
    "prose": ('So: [{"entity": "a", "type": "X"}]', "prose"),
    "think": ('<think>x</think>[{"entity": "a", "type": "X"}]', "think"),
    "loose": ("[{'entity': 'a', 'type': 'X'}]", "loose_json"),
    "tab": ('[{"entity": "a", "type": "X\t"}]', "control_chars"),
    "lines": ('{"entity": "a", "type": "X"}\n{"entity": "a", "type": "X"}', "json_lines"),
    "object": ('{"entity": "a", "type": "X"}', "single_object"),
    "wrapper": ('{"entities": [{"entity": "a", "type": "X"}]}', "wrapper"),
    "alias": ('[{"name": "a", "type": "X"}]', "key_alias"),
    "lists": ('{"X": ["a"]}', "dict_of_lists"),
    "map": ('{"a": "X"}', "surface_to_type"),
    "pairs": ('[["a", "X"]]', "list_of_pairs"),
    "number": ('[{"entity": 1, "type": "X"}]', "number_surface"),
    "bom": ('\ufeff[{"entity": "a", "type": "X"}]', "bom"),
    "gravest_first": ("```\n[{'name': 'a', 'type': 'X'}, {'name'", "unterminated"),
}


@pytest.mark.parametrize("case", REASONS)
def test_the_reason_names_what_was_mended(case):
    reply, reason = REASONS[case]
    parsed = parse_reply(reply, "entity")
    assert (parsed.status, parsed.reason) == ("repaired", reason)


GARBAGE = ["[", "{", "(", '"', "'", "“", "\\", "`", "[{", '{"a":', "[[[1,", '["a" ', '{"\\"', '{\\"', "{'a ",
           '["x" x', "[ ",
           '["', "{x:", '[{"a":"b"c":', "[}", "[[[[}}}}", "<think>", "</think>", '{"a":1 ', "[//", "[/*", "［【",
           "[“a”“",
           '[{"entity": "x, "type": "y}, ', '{"entity":"a","type":"b"}\n', "```", "1. ", "[]", "{}", "\ud83d"]


@pytest.mark.parametrize("unit", GARBAGE, ids=ascii)
def test_long_garbage_is_survived(unit):
    for reply in (unit * (30_000 // len(unit)), '[{"entity": "a", "type": "b"}, ' + unit * (10_000 // len(unit))):
        assert_well_formed(parse_reply(reply, "entity"), "entity")


def test_deep_nesting_is_survived():
    for depth in (500, 5_000, 50_000):
        assert_well_formed(parse_reply("[" * depth + "]" * depth, "entity"), "entity")
        wrapped = '{"entities":' * depth + '[{"entity":"a","type":"b"}]' + "}" * depth
        assert_well_formed(parse_reply(wrapped, "pos"), "pos")


# --- properties -----------------------------------------------------------------------------------------------------

UNTIMED = settings(deadline=None)  # machines that test differ in speed
storable = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
awkward = st.text(st.sampled_from("\"'\\[]{},:“”，：`#/ \n\tab张\u3000<>0"), max_size=12)
surfaces = st.one_of(storable, awkward, st.sampled_from(NASTY))
types = st.one_of(storable, awkward).filter(lambda text: text.strip())
pair_lists = st.lists(st.tuples(surfaces, types), max_size=5)
modes = st.sampled_from(["entity", "pos"])
layouts = st.fixed_dictionaries({"indent": st.sampled_from([None, 0, 2, "\t"]), "ensure_ascii": st.booleans(),
                                 "separators": st.sampled_from([None, (",", ":"), (" , ", " : ")])})


def assert_well_formed(parsed: ParsedReply, mode: str) -> None:
    assert parsed.status in ("ok", "repaired", "rejected") and (parsed.reason == "") == (parsed.status == "ok")
    assert parsed.dropped >= 0 and (parsed.status != "rejected" or parsed.items == [])
    for item in parsed.items:
        assert tuple(item) == KEYS[mode]
        for value in item.values():
            assert type(value) is str
            value.encode("utf-8")


@UNTIMED
@given(pair_lists, modes, layouts, st.sampled_from(["", " ", "\n", "\r\n\t"]), st.booleans())
def test_valid_replies_come_back_exactly(pairs, mode, layout, blank, cut):
    wanted = items(mode, *pairs)
    reply = blank + json.dumps(wanted, **layout) + blank
    assert parse_reply(reply, mode, cut=cut) == ParsedReply(wanted, "ok", "", 0)


def shaped(shape: str, mode: str, pairs: list[tuple[str, str]], layout: dict[str, Any]) -> str:
    wanted = items(mode, *pairs)
    extra = [{"id": "e1", "seen": ["x", "y"], "at": {"k": "v"}, **item} for item in wanted]
    if shape.endswith("lines"):
        return "\n".join(json.dumps(item, ensure_ascii=layout["ensure_ascii"]) for item in wanted)
    if shape == "pairs":
        return json.dumps(pairs, **layout)
    return json.dumps({"array": wanted, "wrapper": {"entities": wanted}, "extra": extra}[shape], **layout)


@settings(UNTIMED, max_examples=60)
@given(pair_lists, modes, layouts, st.sampled_from(["array", "wrapper", "extra", "lines", "pairs"]), st.booleans())
def test_every_truncation_gives_a_prefix_of_the_items(pairs, mode, layout, shape, cut):
    reply = shaped(shape, mode, pairs, layout)
    whole = parse_reply(reply, mode).items
    assert whole == items(mode, *pairs)
    for length in range(len(reply)):
        parsed = parse_reply(reply[:length], mode, cut=cut)
        assert parsed.items == whole[:len(parsed.items)], reply[:length]


@UNTIMED
@given(st.dictionaries(types, st.lists(storable, max_size=3), max_size=3), st.booleans())
def test_every_truncation_of_a_dict_of_lists_gives_a_prefix(grouped, cut):
    grouped = {"T-" + key: value for key, value in grouped.items()}
    reply = json.dumps(grouped, ensure_ascii=False)
    whole = [(surface, key) for key, values in grouped.items() for surface in values]
    assert parse_reply(reply, "entity").items == items("entity", *whole)
    for length in range(len(reply)):
        parsed = parse_reply(reply[:length], "entity", cut=cut)
        assert parsed.items == items("entity", *whole[:len(parsed.items)]), reply[:length]


@UNTIMED
@given(pair_lists.filter(bool), modes, layouts, st.sampled_from([
    "```json\n{}\n```", "```\n{}", "Here you are:\n{}\nAnything else?", "结果如下：{}（完）",
    "<think>hm, [1]</think>\n{}",
    "\ufeff{}", "{} Note [1].", "Draft: [{{'entity': 'd', 'type': 'D'}}]. Final: {}"]))
def test_wrapped_replies_give_the_same_items(pairs, mode, layout, frame):
    reply = json.dumps(items(mode, *pairs), **layout)
    assert parse_reply(frame.format(reply), mode).items == items(mode, *pairs)


@UNTIMED
@given(st.text(), modes, st.booleans())
def test_arbitrary_text_gives_a_well_formed_result(text, mode, cut):
    assert_well_formed(parse_reply(text, mode, cut=cut), mode)


@UNTIMED
@given(st.text(st.sampled_from("[]{}()\"'“”，,：:\\/#`*.\n 1aE张<>thinkul-\ud83d"), max_size=60), modes, st.booleans())
def test_json_like_noise_gives_a_well_formed_result(text, mode, cut):
    assert_well_formed(parse_reply(text, mode, cut=cut), mode)


@UNTIMED
@given(pair_lists, modes, layouts, st.data())
def test_mutated_replies_give_a_well_formed_result(pairs, mode, layout, data):
    reply = json.dumps(items(mode, *pairs), **layout)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(reply)))
        end = data.draw(st.integers(start, min(len(reply), start + 3)))
        reply = reply[:start] + data.draw(st.text(max_size=2) | awkward) + reply[end:]
    assert_well_formed(parse_reply(reply, mode), mode)


@pytest.mark.parametrize("reply", ['[{entity"] "Ann", ', '[{"entity": "An", ]type"'])
def test_a_cut_reply_whose_only_item_is_broken_does_not_say_that_there_is_none(reply):
    assert parse_reply(reply, "entity", cut=True).status == "rejected"
