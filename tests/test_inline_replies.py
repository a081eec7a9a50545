"""Replies in the inline form: ``word/TAG word/TAG``."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syn_pipelines.utils.replies import parse_reply


def read(reply: str, *, cut: bool = False):
    return parse_reply(reply, "pos", cut=cut, reply_format="inline")


def pairs(parsed) -> list[tuple[str, str]]:
    assert all(set(item) == {"word", "pos"} for item in parsed.items)
    return [(item["word"], item["pos"]) for item in parsed.items]


THREE = [("我", "PRON"), ("爱", "VERB"), ("北京", "PROPN")]
OK = {
    "one line": ("我/PRON 爱/VERB 北京/PROPN", THREE),
    "line end": ("我/PRON 爱/VERB 北京/PROPN\n", THREE),
    "blanks": ("  我/PRON\t爱/VERB   北京/PROPN  ", THREE),
    "slashes in words": ("1/2/NUM and/or/CCONJ //SYM http://a.b/c/X", [("1/2", "NUM"), ("and/or", "CCONJ"), ("/", "SYM"),
                                                                    ("http://a.b/c", "X")]),
    "blank in a word": ("New York/PROPN is/AUX", [("New York", "PROPN"), ("is", "AUX")]),
    "other blank in a word": ("New\u3000York/PROPN", [("New\u3000York", "PROPN")]),
    "brackets": ('[/PUNCT {"a":/X "b"}/X ]/PUNCT', [("[", "PUNCT"), ('{"a":', "X"), ('"b"}', "X"), ("]", "PUNCT")]),
    "json as a word": ('[{"word":"a","pos":"b"}]/X', [('[{"word":"a","pos":"b"}]', "X")]),
    "tags of signs": (",/, ./. the/DT PRP/PRP$", [(",", ","), (".", "."), ("the", "DT"), ("PRP", "PRP$")]),
    "signs as words and tags": ('"/PUNCT a/X "/"', [('"', "PUNCT"), ("a", "X"), ('"', '"')]),
    "brackets as tags": ("(/-LRB- a/NN|NOUN )/)", [("(", "-LRB-"), ("a", "NN|NOUN"), (")", ")")]),
    "thought as a word": ("<think>/X </think>/X a/Y", [("<think>", "X"), ("</think>", "X"), ("a", "Y")]),
    "fence as a word": ("```/PUNCT a/X", [("```", "PUNCT"), ("a", "X")]),
    "colon": ("Answer/NOUN :/PUNCT a/X", [("Answer", "NOUN"), (":", "PUNCT"), ("a", "X")]),
    "wide slash as a word": ("／/SYM a／b/X", [("／", "SYM"), ("a／b", "X")]),
    "line separator": ("a/X\u2028b/Y", [("a", "X"), ("b", "Y")]),
    "invisible characters": ("\u200b/X \ufeff/X a\u200b/X", [("\u200b", "X"), ("\ufeff", "X"), ("a\u200b", "X")]),
    "no words": ("[]", []),
}


@pytest.mark.parametrize("reply, items", OK.values(), ids=OK)
def test_replies_as_asked_for_are_read_as_they_are(reply, items):
    parsed = read(reply)
    assert (parsed.status, parsed.reason, parsed.dropped, pairs(parsed)) == ("ok", "", 0, items)


JSON_FORM = json.dumps([{"word": word, "pos": tag} for word, tag in THREE], ensure_ascii=False)
DATES = [("2023/5/1", "NUM"), ("http://a b", "X"), ("c", "Y/Z")]
DATES_JSON = json.dumps([{"word": word, "pos": tag} for word, tag in DATES])
REPAIRED = {
    "lines": ("我/PRON\n爱/VERB\r\n\n北京/PROPN", "several_lines", THREE),
    "fence": ("```text\n我/PRON 爱/VERB 北京/PROPN\n```", "code_fence", THREE),
    "prose before": ("Here is the result.\n我/PRON 爱/VERB 北京/PROPN", "prose", THREE),
    "prose with a slash": ("These are the words and/or tags:\n我/PRON 爱/VERB 北京/PROPN", "prose", THREE),
    "prose after": ("我/PRON 爱/VERB 北京/PROPN\n\nThat is all.", "prose", THREE),
    "answer": ("Answer: 我/PRON 爱/VERB 北京/PROPN", "prose", THREE),
    "answer zh": ("输出： 我/PRON 爱/VERB 北京/PROPN", "prose", THREE),
    "answer without a blank": ("标注：我/PRON 爱/VERB 北京/PROPN", "prose", THREE),
    "label of many words": ("**The tagged sentence:** 我/PRON 爱/VERB 北京/PROPN", "prose", THREE),
    "note with a slash after": ("我/PRON 爱/VERB 北京/PROPN\nNote: PRON is for pronouns and/or determiners/articles.", "prose", THREE),
    "echo of the sentence": ("Sentence: I w/o you\nAnswer: 我/PRON 爱/VERB 北京/PROPN", "prose", THREE),
    "echo of the sentence zh": ("句子：我爱A/B\n输出：我/PRON 爱/VERB 北京/PROPN", "prose", THREE),
    "run on": ("我/PRON 爱/VERB 北京/PROPN\n\nSentence: Bob/PROPN ran/VERB\nAnswer: Bob/PROPN ran/VERB", "prose", THREE),
    "end of turn": ("我/PRON 爱/VERB 北京/PROPN<|im_end|>\n<|im_start|>user a/X", "prose", THREE),
    "end of sequence": ("<s> 我/PRON 爱/VERB 北京/PROPN </s>", "prose", THREE),
    "list": ("- 我/PRON\n- 爱/VERB\n- 北京/PROPN", "several_lines", THREE),
    "numbered list": ("1. 我/PRON\n2. 爱/VERB\n3. 北京/PROPN", "several_lines", THREE),
    **{f"all in {opening}": (f"{opening}我/PRON 爱/VERB 北京/PROPN{closing}", "loose_inline", THREE)
       for opening, closing in (("**", "**"), ("`", "`"), ('"', '"'), ("[", "]"), ("“", "”"))},
    "each in stars": ("**我/PRON** **爱/VERB** **北京/PROPN**", "loose_inline", THREE),
    "commas between": ("我/PRON, 爱/VERB, 北京/PROPN.", "loose_inline", THREE),
    "array of strings": ('["我/PRON", "爱/VERB", "北京/PROPN"]', "loose_inline", THREE),
    "tags in brackets": ("我/[PRON] 爱/{VERB} 北京/**PROPN**", "loose_inline", THREE),
    "tag with a mark in it": ("我/PRON 爱/VERB 吗/X<eot>Y 北京/PROPN", "stray_members", THREE),
    "wide slashes": ("我／PRON 爱／VERB 北京／PROPN", "full_width_slash", THREE),
    "blank before the slash": ("我 /PRON 爱/VERB 北京/PROPN", "", THREE),
    "thoughts": ("<think>我/X ... hm\n</think>\n我/PRON 爱/VERB 北京/PROPN", "think", THREE),
    "end of thoughts": ("so 我/X\n</think>我/PRON 爱/VERB 北京/PROPN", "think", THREE),
    "a word without a tag": ("我/PRON 爱/VERB 北京/PROPN 吗", "stray_members", THREE),
    "a tag without a word": ("我/PRON 爱/VERB /X 北京/PROPN", "stray_members", THREE),
    "an empty tag": ("我/PRON 爱/VERB 吗/ 北京/PROPN", "stray_members", THREE),
    "half a surrogate pair": ("我/PRON 爱/VERB \ud83d/X 北京/PROPN", "lone_surrogate", THREE),
    "json": (JSON_FORM, "json", THREE),
    "json in a fence": (f"```json\n{JSON_FORM}\n```", "json", THREE),
    "json after prose": (f"The words and/or tags:\n{JSON_FORM}", "json", THREE),
    "json with slashes": (DATES_JSON, "json", DATES),
    "loose json with slashes": ("Here: " + DATES_JSON.replace('"', "'") + "!", "json", DATES),
    "object of json": (f'{{"items": {JSON_FORM}}}', "json", THREE),
}


@pytest.mark.parametrize("reply, reason, items", REPAIRED.values(), ids=REPAIRED)
def test_what_models_get_wrong_is_mended_and_named(reply, reason, items):
    parsed = read(reply)
    assert (parsed.reason, pairs(parsed)) == (reason, items)
    assert parsed.status == ("repaired" if reason else "ok")
    assert parsed.dropped == (reason in ("stray_members", "lone_surrogate"))


@pytest.mark.parametrize("reply, reason, dropped", [
    ("I cannot do that and/or anything like it.", "no_items", 0),
    ("", "empty_reply", 0), (" \n\ufeff", "empty_reply", 0), ("I cannot do that.", "no_items", 0), ("/ /X a/", "no_items", 3),
    ("<think>我/PRON 爱/VERB", "unclosed_think", 0), ('{"error": 5}', "no_items", 0), ("```\n```", "no_items", 0)])
def test_replies_of_no_use_are_rejected_with_a_reason(reply, reason, dropped):
    parsed = read(reply)
    assert (parsed.status, parsed.reason, parsed.items, parsed.dropped) == ("rejected", reason, [], dropped)


@pytest.mark.parametrize("reply, items", [
    ("我/PRON 爱/VERB 北京/PRO", THREE[:2]), ("我/PRON 爱/VERB 北", THREE[:2]), ("我/PRON 爱/VERB ", THREE[:2]),
    ("我/PRON 爱/VERB New Yo", THREE[:2]), ("我/PRON 爱/VERB\n北京/", THREE[:2]), (JSON_FORM[:-12], THREE[:2])])
def test_a_reply_cut_at_the_limit_keeps_what_has_white_space_behind_it(reply, items):
    parsed = read(reply, cut=True)
    assert (parsed.status, parsed.reason, parsed.dropped, pairs(parsed)) == ("repaired", "unterminated", 0, items)


@pytest.mark.parametrize("reply", ["我/PRON", "我", "我 爱"])
def test_a_reply_cut_within_its_first_word_is_rejected(reply):
    assert (read(reply, cut=True).status, read(reply, cut=True).reason) == ("rejected", "unterminated")


# Words as a sentence gives them: no white space around them, one blank at most inside, any slashes, no half pairs.
CHARS = st.characters(codec="utf-8").filter(lambda char: not char.isspace())
SOLID = st.text(st.one_of(CHARS, st.sampled_from('/／{}[]":,\\`<>think')), min_size=1, max_size=8)
BLANK = st.tuples(SOLID, SOLID).filter(lambda two: "/" not in two[0] and two[0][-1].isalnum()).map(" ".join)
TAGS = st.one_of(st.sampled_from(["NOUN", "PRP$", "名词", ",", "{", "x:y"]), st.text(
    CHARS.filter(lambda char: char.isalnum() or char in "$|-_+=&@%~^"), min_size=1, max_size=24))
# What looks like thoughts is taken for thoughts, unless it is a word of its own.
ITEMS = st.lists(st.tuples(st.one_of(SOLID, BLANK), TAGS), min_size=1, max_size=12).filter(
    lambda items: "think" not in " ".join(word for word, _ in items).lower())


@given(ITEMS)
def test_words_and_tags_come_back_as_they_were_written(items):
    parsed = read(" ".join(f"{word}/{tag}" for word, tag in items))
    assert (parsed.status, parsed.dropped, pairs(parsed)) == ("ok", 0, items)


@pytest.mark.parametrize("reply, items", [("{0:[/, 0/N", [("{0:[", ",")]), ("{0:[0{", []), ("a/X {0:[0", [("a", "X")])])
def test_a_word_that_opens_like_json_is_none_without_a_quote(reply, items):
    assert pairs(read(reply, cut=True)) == items


@given(ITEMS, st.data())
def test_a_reply_cut_anywhere_gives_whole_words_only_and_never_more(items, data):
    reply = " ".join(f"{word}/{tag}" for word, tag in items)
    kept = reply[:data.draw(st.integers(0, len(reply)))]
    assume("/" in kept or "／" not in kept)  # without any other slash the wide one is taken for it
    assume(not (set("[{") & set(kept) and set("\"'“”＂‘’＇") & set(kept)))  # that may be JSON
    parsed = read(kept, cut=True)
    assert pairs(parsed) == items[:len(parsed.items)] and parsed.status != "ok"


@given(st.text(st.sampled_from("[]{}()\"'“”，,：:\\/／#`*.\n 1aE张<>thinkul-\ud83d"), max_size=60), st.booleans(),
       st.sampled_from(["entity", "pos"]))
def test_any_text_is_read_without_an_error(reply, cut, mode):
    parsed = parse_reply(reply, mode, cut=cut, reply_format="inline")
    assert parsed.status in ("ok", "repaired", "rejected") and bool(parsed.reason) == (parsed.status != "ok")
    json.dumps(parsed.items, ensure_ascii=False).encode("utf-8")


def test_a_long_reply_without_a_blank_is_read_in_no_time():
    assert read("a" * 2_000_000, cut=True).status == "rejected"
    assert len(read("a/B " * 200_000).items) == 200_000


def test_an_object_with_items_alone_is_what_a_json_schema_asks_for():
    parsed = parse_reply(f'{{"items": {JSON_FORM}}}', "pos")
    assert (parsed.status, pairs(parsed)) == ("ok", THREE)
    assert parse_reply('{"items": []}', "entity").status == "ok"
    other = parse_reply('{"entities": [{"entity": "a", "type": "X"}], "count": 1}', "entity")
    assert (other.status, other.items) == ("repaired", [{"entity": "a", "type": "X"}])
