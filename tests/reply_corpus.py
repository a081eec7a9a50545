"""Replies as models write them, each with what must be read from it: the rows of test_reply_corpus.py, and the seeds of
the fuzz run (fuzz/fuzz_replies.py). ``check`` says what must hold for any text.

Three sentences are behind most of them: 张三在北京大学工作。 / Ann Lee joined Acme in New York. / 我爱吃苹果。
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from syn_pipelines.utils.replies import ParsedReply, parse_reply

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Row:
    """A reply; what is read from it: (surface, type) pairs, status ("" reason: ok), reason, members left out.

    task: "entity", "pos", or "inline" (pos in the form word/TAG). cut: generation stopped at the token limit.
    """

    reply: str
    items: Pairs
    status: str
    reason: str
    dropped: int = 0
    task: str = "entity"
    cut: bool = False


ZH = [("张三", "人名"), ("北京大学", "机构")]
EN = [("Ann Lee", "PERSON"), ("Acme", "ORG"), ("New York", "LOC")]
POS = [("我", "PRON"), ("爱", "VERB"), ("吃", "VERB"), ("苹果", "NOUN")]
ONE = ZH[:1]
ZH_JSON = '[{"entity": "张三", "type": "人名"}, {"entity": "北京大学", "type": "机构"}]'
EN_JSON = '[{"entity": "Ann Lee", "type": "PERSON"}, {"entity": "Acme", "type": "ORG"}, {"entity": "New York", "type": "LOC"}]'
POS_JSON = '[{"word": "我", "pos": "PRON"}, {"word": "爱", "pos": "VERB"}, {"word": "吃", "pos": "VERB"}, {"word": "苹果", "pos": "NOUN"}]'
ACCENTS = "\u0301\u0323" * 300_000  # who sorts them takes minutes
INLINE = "我/PRON 爱/VERB 吃/VERB 苹果/NOUN"


def ok(reply: str, items: Pairs, task: str = "entity") -> Row:
    return Row(reply, items, "ok", "", task=task)


def mended(reply: str, items: Pairs, reason: str, dropped: int = 0, task: str = "entity", cut: bool = False) -> Row:
    return Row(reply, items, "repaired", reason, dropped, task, cut)


def refused(reply: str, reason: str, dropped: int = 0, task: str = "entity", cut: bool = False) -> Row:
    return Row(reply, [], "rejected", reason, dropped, task, cut)


FENCES_AND_PROSE = {
    "fence with a sentence after": mended(f"```json\n{ZH_JSON}\n```\n以上是句子中的全部实体。", ZH, "code_fence"),
    "fence of four backticks": mended(f"````json\n{ZH_JSON}\n````", ZH, "code_fence"),
    "fence of tildes": mended(f"~~~json\n{EN_JSON}\n~~~", EN, "prose"),
    "fence in capitals": mended(f"```JSON\n{EN_JSON}\n```", EN, "code_fence"),
    "fence opened twice": mended(f"```\n```json\n{EN_JSON}\n```\n```", EN, "code_fence"),
    "fence closed only": mended(f"{ZH_JSON}\n```", ZH, "code_fence"),
    "bold heading": mended(f"**实体列表：**\n\n{ZH_JSON}", ZH, "prose"),
    "polite opening": mended(f"Sure! Here are the entities I found:\n\n{EN_JSON}\n\nLet me know if you need more.", EN, "prose"),
    "explanation with quotes after": mended(f'{ZH_JSON}\n说明："张三"是人名，"北京大学"是机构。', ZH, "prose"),
    "note with brackets after": mended(f"{EN_JSON}\n(Note: \"joined\" is a verb [not an entity].)", EN, "prose"),
    "apology then nothing": refused("抱歉，这个句子里没有可以标注的实体。", "no_json"),
    "answer in prose alone": refused("The entities are Ann Lee (PERSON) and Acme (ORG).", "no_json"),
    "markdown table": refused("| entity | type |\n|---|---|\n| Ann Lee | PERSON |", "no_json"),
    "markdown list": refused("- 张三：人名\n- 北京大学：机构", "no_json"),
    "xml": refused("<entities><person>Ann Lee</person></entities>", "no_json"),
    "assignment": mended(f"entities = {EN_JSON}", EN, "prose"),
    "print call": mended(f"print({EN_JSON})", EN, "prose"),
    "end of turn marks": mended(f"{ZH_JSON}<|im_end|>\n<|im_start|>user\n", ZH, "prose"),
}

PYTHON_AND_LOOSE = {
    "python list of dicts": mended("[{'entity': '张三', 'type': '人名'}, {'entity': '北京大学', 'type': '机构'}]", ZH, "loose_json"),
    "python set of tuples": refused("{('张三', '人名'), ('北京大学', '机构')}", "no_items", 4),
    "python tuples": mended("[('Ann Lee', 'PERSON'), ('Acme', 'ORG'), ('New York', 'LOC')]", EN, "loose_json"),
    "python None and True": mended("[{'entity': 'Acme', 'type': 'ORG', 'id': None, 'sure': True}]", EN[1:2], "loose_json"),
    "python None as type": mended("[{'entity': '张三', 'type': '人名'}, {'entity': '工作', 'type': None}]", ONE, "loose_json", 1),
    "python astral escape": mended(r"[{'entity': '\U0001f600', 'type': '表情'}]", [("😀", "表情")], "loose_json"),
    "apostrophe in double quotes": ok('[{"entity": "Ann\'s", "type": "PERSON"}]', [("Ann's", "PERSON")]),
    "apostrophe in single quotes": mended("[{'entity': 'Ann's', 'type': 'PERSON'}]", [("Ann's", "PERSON")], "loose_json"),
    "quotes mixed": mended("[{\"entity\": '张三', 'type': \"人名\"}]", ONE, "loose_json"),
    "trailing commas": mended('[{"entity": "张三", "type": "人名",}, {"entity": "北京大学", "type": "机构",},]', ZH, "loose_json"),
    "keys without quotes": mended('[{entity: "张三", type: "人名"}]', ONE, "loose_json"),
    "yaml without brackets": refused("- entity: 张三\n  type: 人名", "no_json"),
    "comments": mended('[\n  // 人\n  {"entity": "张三", "type": "人名"}, # first\n  /* 机构 */ {"entity": "北京大学", "type": "机构"}\n]', ZH,
                       "loose_json"),
    "comment that never ends": mended('[{"entity": "张三", "type": "人名"}, /* and so on', ONE, "unterminated"),
    "number sign as value": mended("[{entity: #, type: 标点}, {entity: /, type: 标点}]", [("#", "标点"), ("/", "标点")], "loose_json"),
    "NaN beside an item": ok('[{"entity": "张三", "type": "人名", "score": NaN, "max": Infinity, "min": -Infinity}]', ONE),
    "NaN as surface": mended('[{"entity": NaN, "type": "人名"}, {"entity": "张三", "type": "人名"}]', ONE, "stray_members", 1),
    "Infinity as type": refused('[{"entity": "张三", "type": Infinity}]', "no_items", 1),
    "NaN alone": refused("NaN", "no_json"),
    "numbers as surfaces": mended('[{"entity": 2024, "type": "时间"}, {"entity": 3.50, "type": "数量"}]', [("2024", "时间"), ("3.50", "数量")],
                                  "number_surface"),
    "long number as surface": mended('[{"entity": ' + "7" * 5000 + ', "type": "数量"}]', [("7" * 5000, "数量")], "number_surface"),
    "numbers as types": refused('[{"entity": "张三", "type": 1}, {"entity": "北京大学", "type": 2}]', "no_items", 2),
    "booleans as values": refused('[{"entity": true, "type": "人名"}, {"entity": "张三", "type": false}]', "no_items", 2),
    "null among items": mended('[null, {"entity": "张三", "type": "人名"}, null]', ONE, "stray_members", 2),
    "empty surface": ok('[{"entity": "", "type": "人名"}]', [("", "人名")]),
    "empty type": refused('[{"entity": "张三", "type": ""}]', "no_items", 1),
    "blank type": refused('[{"entity": "张三", "type": " \\n"}]', "no_items", 1),
    "both empty": mended('[{"entity": "", "type": ""}, {"entity": "张三", "type": "人名"}]', ONE, "stray_members", 1),
}

SHAPES = {
    "one object": mended('{"entity": "张三", "type": "人名"}', ONE, "single_object"),
    "items object as asked of servers": ok(f'{{"items": {ZH_JSON}}}', ZH),
    "nested objects": mended('{"人物": {"name": "张三", "type": "人名"}, "组织": {"name": "北京大学", "type": "机构"}}', ZH, "nested_objects"),
    "object of numbered objects": mended('{"1": {"entity": "张三", "type": "人名"}, "2": {"entity": "北京大学", "type": "机构"}}', ZH,
                                         "nested_objects"),
    "wrapper in wrapper": mended(f'{{"response": {{"result": {{"entities": {ZH_JSON}}}}}}}', ZH, "wrapper"),
    "dict of lists": mended('{"人名": ["张三"], "机构": ["北京大学"]}', ZH, "dict_of_lists"),
    "dict of lists with empty ones": mended('{"人名": ["张三"], "地名": [], "机构": ["北京大学"], "时间": []}', ZH, "dict_of_lists"),
    "dict of empty lists": mended('{"人名": [], "机构": []}', [], "single_object"),
    "dict of lists with numbers": mended('{"时间": [2024, 8]}', [("2024", "时间"), ("8", "时间")], "dict_of_lists"),
    "dict of lists in a fence": mended('```json\n{"PERSON": ["Ann Lee"], "ORG": ["Acme"], "LOC": ["New York"]}\n```', EN, "code_fence"),
    "dict of strings": mended('{"张三": "人名", "北京大学": "机构"}', ZH, "surface_to_type"),
    "list of dicts of strings": mended('[{"张三": "人名"}, {"北京大学": "机构"}]', ZH, "surface_to_type"),
    "pairs": mended('[["张三", "人名"], ["北京大学", "机构"]]', ZH, "list_of_pairs"),
    "pairs with offsets": mended('[["Ann Lee", "PERSON", 0, 7]]', EN[:1], "list_of_pairs"),
    "surfaces alone": refused('["张三", "北京大学"]', "no_items", 2),
    "types grouped": mended('[{"type": "人名", "entities": ["张三", "李四"]}]', [("张三", "人名"), ("李四", "人名")], "grouped"),
    "list inside a string": mended('{"result": "[{\\"entity\\": \\"张三\\", \\"type\\": \\"人名\\"}]"}', ONE, "wrapper"),
    "whole reply inside a string": mended(json.dumps(ZH_JSON, ensure_ascii=False), ZH, "json_string"),
    "whole reply inside two strings": mended(json.dumps(json.dumps(ZH_JSON)), ZH, "json_string"),
    "escaped quotes everywhere": mended(ZH_JSON.replace('"', '\\"'), ZH, "escaped"),
    "json lines": mended('{"entity": "张三", "type": "人名"}\n{"entity": "北京大学", "type": "机构"}', ZH, "json_lines"),
    "json lines with numbers": mended('1. {"entity": "张三", "type": "人名"}\n2. {"entity": "北京大学", "type": "机构"}', ZH, "prose"),
    "json lines in two fences": mended('```json\n{"entity": "张三", "type": "人名"}\n```\n```json\n{"entity": "北京大学", "type": "机构"}\n```', ZH,
                                       "code_fence"),
    "keys twice, same values": mended('[{"entity": "张三", "entity": "张三", "type": "人名"}]', ONE, "repeated_keys", 1),
    "items run together": mended('[{"entity": "张三", "type": "人名", "entity": "北京大学", "type": "机构"}]', ZH, "repeated_keys"),
    "type twice": ok('[{"entity": "张三", "type": "人名", "type": "人物"}]', ONE),
    "several arrays, the last one counts": mended(f'草稿：[{{"entity": "北京", "type": "地名"}}]\n最终：{ZH_JSON}', ZH, "prose", 1),
    "answer and an empty array": mended(f"{EN_JSON}\nWithout entities I would have answered [].", EN, "prose"),
    "echo of the prompt's example": mended('输出格式：[{"entity": "实体", "type": "类型"}]\n句子：张三在北京大学工作。\n输出：' + ZH_JSON, ZH, "prose", 1),
    "echo of the example alone": mended('格式如下：[{"entity": "...", "type": "..."}]', [("...", "...")], "prose"),
    "sentence beside the list": mended(f'{{"sentence": "张三在北京大学工作。", "entities": {ZH_JSON}}}', ZH, "wrapper"),
    "error object": refused('{"error": {"message": "rate limit", "code": 429}}', "no_items", 1),
    "empty array": ok("[]", []),
    "empty object": mended("{}", [], "single_object"),
    "array of an empty object": ok("[{}]", []),
    "types first, one surface each": mended('{"人名": "张三", "机构": "北京大学"}', ZH, "dict_of_lists"),
    "types first, an object each": mended('[{"PER": "张三"}, {"ORG": "北京大学"}]', [("张三", "PER"), ("北京大学", "ORG")], "dict_of_lists"),
    "names of types as words": mended('{"person": "NOUN", "time": "NOUN"}', [("person", "NOUN"), ("time", "NOUN")], "surface_to_type", task="pos"),
}

BESIDE = {
    **{f"{key} beside the list": mended(f'{{"{key}": "张三在北京大学工作。", "entities": {ZH_JSON}}}', ZH, "wrapper")
       for key in ("original_text", "原句", "文本内容", "task", "model", "msg", "$schema")},
    "the sentence beside an empty list": mended('{"original_sentence": "张三来了。", "entities": []}', [], "wrapper"),
    "the sentence as a text of a type beside an empty list": mended('{"text": "张三来了。", "type": "ner", "entities": []}', [], "wrapper"),
    "the sentence beside a dict of lists": mended('{"original_text": "张三来了。", "人名": ["张三"]}', ONE, "dict_of_lists"),
    **{f"{key} within an item": mended(f'[{{"entity": "北京大学", "type": "机构", "{key}": [{{"entity": "北京", "type": "地名"}}]}}]',
                                       [ZH[1], ("北京", "地名")], "nested_objects")
       for key in ("sub_entities", "nested", "children", "contains", "inner", "嵌套", "entities", "items")},
    "an item within an item": mended('[{"name": "北京大学", "label": "机构", "part": {"name": "北京", "label": "地名"}}]', [ZH[1], ("北京", "地名")],
                                     "key_alias"),
    "pairs within an item": mended('[{"entity": "北京大学", "type": "机构", "entities": [["北京", "地名"]]}]', [ZH[1], ("北京", "地名")],
                                   "nested_objects"),
    **{f"{key} of lists beside an item": ok(f'[{{"entity": "张三", "type": "人名", "{key}": {value}}}]', ONE)
       for key, value in (("span", "[[0, 2]]"), ("spans", '[{"start": 0, "end": 3}]'), ("mentions", '[{"text": "张三", "start": 0}]'),
                          ("labels", '[{"label": "人名", "score": 0.9}]'), ("relations", '[{"target": "北京大学", "relation": "就职"}]'))},
    "span of lists, other keys": mended('[{"name": "张三", "label": "人名", "span": [[0, 2]]}]', ONE, "key_alias"),
}

PEOPLE, PLACES = '[{"entity": "Ann", "type": "person"}]', '[{"entity": "Halden", "type": "city"}]'
ANN, HALDEN = ("Ann", "person"), ("Halden", "city")
SEVERAL = {
    "an array under each heading": mended(f"Persons:\n{PEOPLE}\nCities:\n{PLACES}", [ANN, HALDEN], "prose"),
    "a fence under each heading": mended(f"人名：\n```json\n{PEOPLE}\n```\n地名：\n```json\n{PLACES}\n```", [ANN, HALDEN], "code_fence"),
    "first and second": mended(f"First: {PEOPLE} Second: {PLACES}", [ANN, HALDEN], "prose"),
    "bold headings": mended(f"**Persons**\n\n{PEOPLE}\n\n**Cities**\n\n{PLACES}", [ANN, HALDEN], "prose"),
    "headings over the same items, revised": mended(f"Entities: {PEOPLE}\nAfter checking: {PEOPLE.replace('person', 'name')}", [("Ann", "name")],
                                                    "prose", 1),
    "arrays without headings": mended(f"{PEOPLE}\nThat was wrong.\n{PLACES}", [HALDEN], "prose", 1),
    "run on to the next sentence": mended(f"{PEOPLE}\n\nSentence: Bob left Halden.\nAnswer: {PLACES}", [ANN], "prose", 1),
    "run on in Chinese, after an answer": mended(f"输出：{PEOPLE}\n\n句子：再见。\n输出：{PLACES}", [ANN], "prose", 1),
    "run on after an empty array": mended(f"[]\n\n文：また。\n出力：{PLACES}", [], "prose"),
    "an object in a note": mended(f"{PEOPLE}\nNote: I left out {PLACES[1:-1]}.", [ANN], "prose", 1),
    "an object as the answer": mended(f"Draft: {PEOPLE}\nFinal: {PLACES[1:-1]}", [HALDEN], "prose", 1),
}

KEYS = {
    f"keys {surface} and {type_}": mended(
        json.dumps([{surface: "张三", type_: "人名"}, {surface: "北京大学", type_: "机构"}], ensure_ascii=False), ZH, "key_alias")
    for surface, type_ in (("name", "label"), ("text", "tag"), ("实体", "类型"), ("name", "type"), ("entity", "label"), ("text", "类型"),
                           ("实体名称", "实体类型"), ("Entity", "Type"), ("mention", "category"), ("span", "ner"),
                           ("単語", "品詞"), ("エンティティ", "タイプ"), ("固有表現", "種類"), ("表層形", "ラベル"), ("단어", "품사"), ("개체", "유형"),
                           ("엔티티", "타입"), ("개체명", "종류"), ("實體", "類型"), ("詞", "詞性"), ("名稱", "類別"))
}
KEYS["keys that differ from item to item"] = mended(
    '[{"name": "张三", "label": "人名"}, {"text": "北京大学", "tag": "机构"}]', ZH, "key_alias")
KEYS["keys in another order, with others"] = ok('[{"start": 0, "type": "人名", "end": 2, "entity": "张三"}]', ONE)
KEYS["surface key missing"] = refused('[{"start": 0, "end": 2, "type": "人名"}]', "no_items", 1)

THOUGHTS = {
    "thinking, then the answer": mended(f"<think>\n先看人名，张三是人名。\n</think>\n{ZH_JSON}", ZH, "think"),
    "thinking with a draft in it": mended(f'<think>Maybe [{{"entity": "Lee", "type": "PERSON"}}]? No.</think>{EN_JSON}', EN, "think"),
    "thinking with half a draft": mended(f'<think>[{{"entity": "Lee</think>{EN_JSON}', EN, "think"),
    "thinking that never ends": refused(f"<think>\n让我想想。{ZH_JSON}", "unclosed_think"),
    "thinking that ends only": mended(f"张三是人名。\n</think>\n\n{ZH_JSON}", ZH, "think"),
    "thinking twice": mended(f"<think>a</think>\n<think>b [1]</think>\n{ZH_JSON}", ZH, "think"),
    "thinking after the answer": mended(f"{ZH_JSON}\n<think>is that all?", ZH, "think"),
    "thinking in another spelling": mended(f"<Thinking>hm</Thinking>{ZH_JSON}", ZH, "think"),
    "thinking cut at the limit": refused("<think>\nThe user wants", "unclosed_think", cut=True),
    "nothing after thinking": refused("<think>There is nothing.</think>\n", "no_json"),
    "tag of thoughts as a surface": ok('[{"entity": "<think>", "type": "标签"}]', [("<think>", "标签")]),
}

CHARACTERS = {
    "full-width punctuation": mended("［｛“entity”：“张三”，“type”：“人名”｝，｛“entity”：“北京大学”，“type”：“机构”｝］", ZH, "loose_json"),
    "full-width brackets of books": mended("【{“entity”：“张三”，“type”：“人名”}】", ONE, "loose_json"),
    "full-width comma between": mended('[{"entity"："张三"，"type"："人名"}，{"entity"："北京大学"，"type"："机构"}]', ZH, "loose_json"),
    "ideographic comma between": mended('[{"entity": "张三"、"type": "人名"}、{"entity": "北京大学"、"type": "机构"}]', ZH, "loose_json"),
    "escaped unicode": ok(json.dumps([{"entity": "张三", "type": "人名"}]), ONE),
    "escaped unicode in capitals": ok(r'[{"entity": "\u5F20\u4E09", "type": "\u4EBA\u540D"}]', ONE),
    "escaped twice": ok(r'[{"entity": "\\u5f20\\u4e09", "type": "人名"}]', [(r"\u5f20\u4e09", "人名")]),
    "surrogate pair": ok(r'[{"entity": "\ud83d\ude00", "type": "表情"}]', [("😀", "表情")]),
    "first half of a pair": refused(r'[{"entity": "\ud83d", "type": "表情"}]', "no_items", 1),
    "second half of a pair": mended(r'[{"entity": "\ude00", "type": "表情"}, {"entity": "张三", "type": "人名"}]', ONE, "lone_surrogate", 1),
    "pair cut by the limit": mended(r'[{"entity": "张三", "type": "人名"}, {"entity": "\ud83d\ude', ONE, "unterminated", cut=True),
    "half an escape": mended(r"[{'entity': '\u5f2', 'type': '人名'}]", [(r"\u5f2", "人名")], "loose_json"),
    "replacement characters": ok('[{"entity": "\ufffd\ufffd", "type": "人名"}]', [("\ufffd\ufffd", "人名")]),
    "byte order mark": mended("\ufeff" + ZH_JSON, ZH, "bom"),
    "zero-width characters around": ok(f"\u200b{ZH_JSON}\u200b", ZH),
    "zero-width characters inside": ok('[{"entity": "张\u200b三", "type": "人名"}]', [("张\u200b三", "人名")]),
    "no-break blanks between": mended('[{"entity":\u00a0"张三",\u00a0"type":\u00a0"人名"}]', ONE, "loose_json"),
    "HTML entities in a value": ok('[{"entity": "A&amp;B", "type": "机构"}]', [("A&amp;B", "机构")]),
    "HTML entities as quotes": refused("[{&quot;entity&quot;: &quot;张三&quot;, &quot;type&quot;: &quot;人名&quot;}]", "no_items", 4),
    "control characters": mended('[{"entity": "张\t三", "type": "人名"}]', [("张\t三", "人名")], "control_chars"),
    "NUL": mended('[{"entity": "张\x00三", "type": "人名"}]', [("张\x00三", "人名")], "control_chars"),
    "line separators in a value": ok('[{"entity": "a\u2028b\x85c", "type": "X"}]', [("a\u2028b\x85c", "X")]),
    "quotes in a value": ok(r'[{"entity": "\"Acme\"", "type": "ORG"}]', [('"Acme"', "ORG")]),
    "quotes in a value, not escaped": mended('[{"entity": "the "Acme" firm", "type": "ORG"}]', [('the "Acme" firm', "ORG")], "loose_json"),
    "backslashes": mended(r'[{"entity": "C:\data", "type": "PATH"}]', [(r"C:\data", "PATH")], "loose_json"),
    "accents by the thousand as a key": refused('{"' + ACCENTS + '": 1}', "no_items", 1),
}

CUT = {
    "cut in a surface": mended('[{"entity": "张三", "type": "人名"}, {"entity": "北京大', ONE, "unterminated", cut=True),
    "cut in a type": mended('[{"entity": "张三", "type": "人名"}, {"entity": "北京大学", "type": "机', ONE, "unterminated", cut=True),
    "cut before a brace": mended('[{"entity": "张三", "type": "人名"}, {"entity": "北京大学", "type": "机构"', ONE, "unterminated", cut=True),
    "cut before the bracket": mended(ZH_JSON[:-1], ZH, "unterminated", cut=True),
    "cut in the first item": refused('[{"entity": "张', "unterminated", cut=True),
    "cut in a fence": mended('```json\n[{"entity": "张三", "type": "人名"},\n', ONE, "unterminated", cut=True),
    "cut in a dict of lists": mended('{"人名": ["张三"], "机构": ["北京大', ONE, "unterminated", cut=True),
    "cut in a map": mended('{"张三": "人名", "北京大学": "机', ONE, "unterminated", cut=True),
    "cut in json lines": mended('{"entity": "张三", "type": "人名"}\n{"entity": "北', ONE, "unterminated", cut=True),
    "cut in pairs": mended('[["张三", "人名"], ["北京大学"', ONE, "unterminated", cut=True),
    "cut though nobody said so": mended('[{"entity": "张三", "type": "人名"}, {"entity": "北京大', ONE, "unterminated"),
}

POS_REPLIES = {
    "pos": ok(POS_JSON, POS, "pos"),
    "pos in a fence": mended(f"```json\n{POS_JSON}\n```", POS, "code_fence", task="pos"),
    "pos with chinese keys": mended(json.dumps([{"词": w, "词性": p} for w, p in POS], ensure_ascii=False), POS, "key_alias", task="pos"),
    "pos with other keys": mended(json.dumps([{"token": w, "tag": p} for w, p in POS], ensure_ascii=False), POS, "key_alias", task="pos"),
    "pos as pairs": mended(json.dumps(POS, ensure_ascii=False), POS, "list_of_pairs", task="pos"),
    "pos as a map": mended('{"我": "PRON", "爱": "VERB"}', POS[:2], "surface_to_type", task="pos"),
    "pos as parallel lists": mended('{"words": ["我", "爱"], "pos": ["PRON", "VERB"]}', POS[:2], "grouped", task="pos"),
    "pos as unequal lists": refused('{"words": ["我", "爱"], "pos": ["PRON"]}', "no_items", 3, task="pos"),
    "pos of quotes": ok(r'[{"word": "\"", "pos": "PUNCT"}, {"word": "\\", "pos": "SYM"}]', [('"', "PUNCT"), ("\\", "SYM")], "pos"),
    "pos of quotes, not escaped": mended('[{"word": """, "pos": "PUNCT"}, {"word": ",", "pos": "PUNCT"}]', [('"', "PUNCT"), (",", "PUNCT")],
                                         "loose_json", task="pos"),
    "pos in inline form though json was asked": refused(INLINE, "no_json", task="pos"),
    "pos cut": mended(POS_JSON[:60], POS[:2], "unterminated", task="pos", cut=True),
}

INLINE_REPLIES = {
    "inline": ok(INLINE, POS, "inline"),
    "inline in a fence": mended(f"```\n{INLINE}\n```", POS, "code_fence", task="inline"),
    "inline after a heading": mended(f"标注结果：\n{INLINE}", POS, "prose", task="inline"),
    "inline after thinking": mended(f"<think>我/PRON 吗</think>\n{INLINE}", POS, "think", task="inline"),
    "inline, thinking that never ends": refused(f"<think>{INLINE}", "unclosed_think", task="inline"),
    "inline with underscores": refused("我_PRON 爱_VERB", "no_items", task="inline"),
    "inline with wide slashes": mended("我／PRON 爱／VERB", POS[:2], "full_width_slash", task="inline"),
    "inline on many lines": mended("我/PRON\n爱/VERB\n吃/VERB\n苹果/NOUN", POS, "several_lines", task="inline"),
    "inline with slashes in words": ok("1/2/NUM http://a.b/X", [("1/2", "NUM"), ("http://a.b", "X")], "inline"),
    "inline with tags missing": mended("我/PRON 爱/ 吃/VERB 苹果", [POS[0], POS[2]], "stray_members", 2, "inline"),
    "inline cut": mended("我/PRON 爱/VERB 吃/VE", POS[:2], "unterminated", task="inline", cut=True),
    "inline cut, with a wide slash in a word": refused("a／b c/", "unterminated", task="inline", cut=True),
    "inline cut in the first word": refused("我/PR", "unterminated", task="inline", cut=True),
    "inline, but json came": mended(POS_JSON, POS, "json", task="inline"),
    "inline, half a pair": mended("我/PRON \ud83d/SYM", POS[:1], "lone_surrogate", 1, "inline"),
    "inline, no words": ok("[]", [], "inline"),
    **{f"inline in {opening}": mended(opening + INLINE + closing, POS, "loose_inline", task="inline")
       for opening, closing in (("**", "**"), ("`", "`"), ('"', '"'), ("[", "]"), ("“", "”"), ("(", ")"))},
    "inline with end of turn": mended(f"{INLINE}<|im_end|>", POS, "prose", task="inline"),
    "inline with end of sequence": mended(f"{INLINE} </s>", POS, "prose", task="inline"),
    "inline with commas": mended("The/DET, dog/NOUN.", [("The", "DET"), ("dog", "NOUN")], "loose_inline", task="inline"),
    "inline after a label without a blank": mended(f"标注：{INLINE}", POS, "prose", task="inline"),
    "inline after a sentence": mended(f"Here are the tags: {INLINE}", POS, "prose", task="inline"),
    "inline in a list": mended("- 我/PRON\n- 爱/VERB", POS[:2], "several_lines", task="inline"),
    "inline after an echo": mended(f"Sentence: I love apples w/o end\nAnswer: {INLINE}", POS, "prose", task="inline"),
    "inline after an echo without a blank": mended(f"句子：我爱A/B\n输出：{INLINE}", POS, "prose", task="inline"),
    "inline, then run on": mended(f"{INLINE}\n\n句子：他/PRON\n输出：他/PRON", POS, "prose", task="inline"),
    "inline with a note": mended(f"{INLINE}\nNote: DET would be for determiners/articles.", POS, "prose", task="inline"),
    "inline, refused": refused("I cannot label this and/or that.", "no_items", task="inline"),
    "inline with tags that are none": mended("我/PRON 爱/VERB<eot>x", POS[:1], "stray_members", 1, "inline"),
    "inline as strings": mended('["我/PRON", "爱/VERB"]', POS[:2], "loose_inline", task="inline"),
}

MANY, BIG, LESS = 10_000, 1_000_000, 200_000
LARGE = {
    "an item ten thousand times": ok(json.dumps([{"entity": "张三", "type": "人名"}] * MANY, ensure_ascii=False), ONE * MANY),
    "an item ten thousand times, then cut": mended(json.dumps([{"entity": "张三", "type": "人名"}] * MANY, ensure_ascii=False)[:-9], ONE * (MANY - 1),
                                                   "unterminated", cut=True),
    "a word ten thousand times": ok("哈/INTJ " * MANY, [("哈", "INTJ")] * MANY, "inline"),
    "a megabyte of letters": refused("a" * BIG, "no_json"),
    "a megabyte of brackets": refused("[" * BIG, "unterminated", 1),
    "brackets that close": refused("[" * LESS + "]" * LESS, "no_items", 1),
    "braces": refused("{" * LESS, "unterminated", 1),
    "quotes": refused('["' + '"' * LESS, "unterminated"),
    "a megabyte of backslashes": refused("[" + "\\" * BIG, "unterminated"),
    "a megabyte of blanks": refused(" " * BIG, "empty_reply"),
    "items in items": refused('{"entity": "a", "type": "b", "in": [' * (LESS // 10), "unterminated", 1),
    "a megabyte of headings": mended(f"A: {PEOPLE} B: {PLACES} " * (BIG // 90), [HALDEN], "prose", BIG // 90),
    "a megabyte of line ends": mended(PEOPLE + "\n" * BIG + PLACES, [HALDEN], "stray_members", 1),
    "a megabyte of labels": refused("a: " * (BIG // 3) + "x/Y", "no_items", task="inline"),
    "values that are number signs": refused('{"a":#' * (LESS // 6), "unterminated", LESS // 6 - 1),
    "comments that never end": refused("[/*" * (LESS // 3), "unterminated", 18),
    "a megabyte of one string, cut": mended('[{"entity": "张三", "type": "人名"}, {"entity": "' + "北" * BIG, ONE, "unterminated", cut=True),
    "fences and list numbers between objects": mended(
        ('{"entity": "a", "type": "b"}' + "```123." * 11 + "!") * 50, [("a", "b")] * 50, "code_fence"),
    "wrappers fifty thousand deep": refused('{"entities":' * 50_000 + '[{"entity":"a","type":"b"}]' + "}" * 50_000, "no_items", 1),
    "a megabyte of inline garbage": refused("我爱吃苹果" * (BIG // 5), "no_items", task="inline"),
}

ROWS: dict[str, Row] = {**FENCES_AND_PROSE, **PYTHON_AND_LOOSE, **SHAPES, **BESIDE, **SEVERAL, **KEYS, **THOUGHTS, **CHARACTERS, **CUT, **POS_REPLIES,
                        **INLINE_REPLIES, **LARGE}


KEYS = {"entity": ("entity", "type"), "pos": ("word", "pos")}
REJECTED = {"empty_reply", "no_json", "no_items", "unclosed_think", "unterminated"}
REPAIRED = {"unterminated", "bom", "escaped", "think", "code_fence", "prose", "loose_json", "control_chars", "json_lines", "json_string",
            "single_object", "stray_members", "lone_surrogate", "number_surface", "list_of_pairs", "dict_of_lists", "nested_lists",
            "repeated_keys", "key_alias", "list_of_one", "grouped", "wrapper", "nested_objects", "surface_to_type",
            "json", "full_width_slash", "several_lines", "loose_inline"}  # the last four: of inline replies


def read(text: str, task: str, cut: bool) -> ParsedReply:
    return parse_reply(text, "entity" if task == "entity" else "pos", cut=cut, reply_format="inline" if task == "inline" else "json")


def check(text: str, task: str, cut: bool) -> None:
    """Everything that must hold for a reply, whatever it is."""
    parsed = read(text, task, cut)
    keys = KEYS["entity" if task == "entity" else "pos"]
    known = {"ok": {""}, "repaired": REPAIRED, "rejected": REJECTED}
    assert parsed.reason in known[parsed.status], parsed.reason
    assert parsed.dropped >= 0 and (parsed.status != "rejected" or not parsed.items)
    assert read(text, task, cut) == parsed
    for item in parsed.items:
        assert tuple(item) == keys and all(type(value) is str for value in item.values())
        assert item[keys[1]].strip()
    for value in {value for item in parsed.items for value in item.values()}:
        value.encode("utf-8")
        assert written_in(value, text), value
    again = parse_reply(json.dumps(parsed.items, ensure_ascii=False), "entity" if task == "entity" else "pos")
    assert again == ParsedReply(parsed.items, "ok", "", 0)


def written_in(text: str, reply: str) -> bool:
    """Whether a stretch of the reply says ``text``, character by character, each as it is or escaped (once or more)."""
    return text in reply or re.search("".join(map(_spellings, text)), reply, re.DOTALL) is not None


def _spellings(char: str) -> str:
    if char == "\\":
        return r"\\+"
    units = char.encode("utf-16-be", "surrogatepass").hex()
    codes = [units[i:i + 4] for i in range(0, len(units), 4)]
    forms = [re.escape(char), "".join(rf"\\+u(?i:{code})" for code in codes), rf"\\+U(?i:{ord(char):08x})"]
    if len(codes) == 2:
        forms.append("".join(chr(int(code, 16)) for code in codes))  # the two halves, as they may stand in a Python text
    if ord(char) < 256:
        forms.append(rf"\\+x(?i:{ord(char):02x})")
    if char in "\"'/“”‘’＂＇":
        forms.append(r"\\+" + char)
    if char in "\b\f\n\r\t":
        forms.append(r"\\+" + "bfnrt"["\b\f\n\r\t".index(char)])
    return f"(?:{'|'.join(forms)})"
