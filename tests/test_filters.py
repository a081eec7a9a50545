"""What is kept of a model's explanation, and the reason for everything that is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syn_pipelines.text.filters import MAX_TOKENS, REASONS, Candidate, candidates

ZH_PROMPT = "请根据下面的句子续写一段文字，并解释其中的实体。\n句子：小明昨天坐火车去了北京。\n要求：语言自然流畅，不要使用列表。"
EN_PROMPT = "Continue the sentence and explain its entities in plain sentences.\nSentence: John Smith lives in the U.S."


def zh(reply: str, cut: bool = False, source: str = "小明昨天坐火车去了北京。") -> list[tuple[str, str]]:
    found = candidates(reply, source=list(source), prompt=ZH_PROMPT, dense=True, lang="zh", cut=cut)
    return [(piece.text, piece.reason) for piece in found]


def en(reply: str, cut: bool = False, source: str = "John Smith lives in the U.S.") -> list[tuple[str, str]]:
    found = candidates(reply, source=source.split(), prompt=EN_PROMPT, dense=False, lang="en", cut=cut)
    return [(piece.text, piece.reason) for piece in found]


def test_a_plain_answer_is_kept_sentence_by_sentence():
    found = candidates(
        "He works at Acme Inc. in New York. The firm earned $3.5 million.",
        source=["John"], prompt="Go on.", dense=False, lang="en", cut=False,
    )  # fmt: skip
    assert found == [
        Candidate("He works at Acme Inc. in New York.", "He works at Acme Inc. in New York .".split(), ""),
        Candidate("The firm earned $3.5 million.", "The firm earned $3.5 million .".split(), ""),
    ]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<think>嗯\n想想。</think>他在北京很开心。", [("<think>嗯\n想想。</think>", "thinking"), ("他在北京很开心。", "")]),
        ("<think>他在北京很开心。再想想", [("<think>他在北京很开心。再想想", "thinking")]),
        ("想想再说。</think>\n他在北京很开心。", [("想想再说。</think>", "thinking"), ("他在北京很开心。", "")]),
        ("他很高兴。<Thinking>\n用户：嗯", [("他很高兴。", ""), ("<Thinking>\n用户：嗯", "thinking")]),
        ("他很高兴。\n```json\n{}\n```\n她也来了。", [("他很高兴。", ""), ("```json\n{}\n```", "markdown"), ("她也来了。", "")]),
        ("```\n他很高兴。\n```", [("他很高兴。", "")]),
        ("```text\n他很高兴。\n```\n她也来了。", [("他很高兴。", ""), ("她也来了。", "")]),
        ("### 实体解释\n他很高兴。", [("### 实体解释", "markdown"), ("他很高兴。", "")]),
        ("**实体解释：**\n他很高兴。", [("**实体解释：**", "markdown"), ("他很高兴。", "")]),
        ("**他很高兴。**", [("他很高兴。", "")]),
        ("| 名 | 类 |\n|---|---|\n他很高兴。", [("| 名 | 类 |", "markdown"), ("|---|---|", "markdown"), ("他很高兴。", "")]),
        ("他很高兴。\n---\n她也来了。", [("他很高兴。", ""), ("---", "markdown"), ("她也来了。", "")]),
        ('{"entity": "北京"}', [('{"entity": "北京"}', "markdown")]),
        ("[哈哈]今天很开心啊！[爱心]", [("[哈哈]今天很开心啊！", ""), ("[爱心]", "unfinished")]),
        ("他很高兴。<|im_end|>", [("他很高兴。", "")]),
        ("<|assistant|>\n他很高兴。</s>", [("他很高兴。", "")]),
        ("他很高兴。<|user|>再来", [("他很高兴。", ""), ("<|user|>再来", "next_turn")]),
        ("他很高兴。\n用户：再来一个。\n他走了。", [("他很高兴。", ""), ("用户：再来一个。\n他走了。", "next_turn")]),
    ],
)
def test_blocks_and_lines_that_are_no_prose(reply, expected):
    assert zh(reply) == expected


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("**李华**在*上海*的`学校`里。", "李华在上海的学校里。"),
        ("- **北京**是中国的首都。", "北京是中国的首都。"),
        ("1. 北京是中国的首都。", "北京是中国的首都。"),
        ("（2）北京是中国的首都。", "北京是中国的首都。"),
        ("> 北京是中国的首都。", "北京是中国的首都。"),
        ("续写：北京是中国的首都。", "北京是中国的首都。"),
        ("**实体解释**：北京是中国的首都。", "北京是中国的首都。"),
        ("[北京](http://a.b/c)是中国的首都。", "北京是中国的首都。"),
        ("<p>北京是<b>中国</b>的首都。</p>", "北京是中国的首都。"),
        ("北京\u200b是中国的\ufeff首都。", "北京是中国的首都。"),
        ("北京有3.5%的人，1.5万人。", "北京有3.5%的人，1.5万人。"),
        ("#北京#是5*3的首都。", "#北京#是5*3的首都。"),
    ],
)
def test_harmless_markup_is_wiped_off(reply, kept):
    assert zh(reply) == [(kept, "")]


def test_list_items_in_one_line_lose_their_numbers():
    assert en("1. He lives in New York. 2. She lives in St. Louis.") == [
        ("He lives in New York.", ""),
        ("She lives in St. Louis.", ""),
    ]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("As an AI language model, I do not know this person.", "refusal"),
        ("I'm sorry, but this sentence is too short.", "refusal"),
        ("I cannot continue this text for you.", "refusal"),
        ("John Smith lives in the U.S.", "copy_of_source"),
        ('The sentence "John Smith lives in the U.S." is short.', "copy_of_source"),
        ("Explain its entities in plain sentences.", "prompt_echo"),
        ("Sure! Here is the continuation of the text.", "chatter"),
        ("I hope this helps you with your task!", "chatter"),
        ("He went to the big city and", "unfinished"),
        ("He went there:", "unfinished"),
        ("He met Mr.", "unfinished"),
        ("He left.", "too_short"),
        ("他在北京很开心。", "too_short"),
        ("他 在 北京 很 开心。", "wrong_language"),
        ("See a | b | c | d here now.", "markdown"),
        ("word " * MAX_TOKENS + ".", "too_long"),
        ("He works at Acme Inc. in New York.", ""),
    ],
)
def test_one_english_sentence_and_its_reason(reply, reason):
    assert [why for _, why in en(reply)][-1] == reason


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("作为一个AI语言模型，这个问题我不懂。", "refusal"),
        ("抱歉，这个句子太短了。", "refusal"),
        ("我无法继续续写这个句子。", "refusal"),
        ("小明昨天坐火车去了北京。", "copy_of_source"),
        ("小明昨天坐 火车去了北京！", "copy_of_source"),
        ("“小明昨天坐火车去了北京”说的是小明。", "copy_of_source"),
        ("坐火车去了北京。", "copy_of_source"),
        ("语言自然流畅，不要使用列表。", "prompt_echo"),
        ("续写一段文字，并且解释其中的实体。", ""),
        ("好的，以下是续写的内容。", "chatter"),
        ("希望以上内容对你有帮助。", "chatter"),
        ("北京：中国的首都", "unfinished"),
        ("他来了。", "too_short"),
        ("……！！！。", "too_short"),
        ("I am very glad to be here.", "wrong_language"),
        ("これはとてもいいものです。", "wrong_language"),
        ("北京的iPhone15ProMaxUltra很贵很好用。", ""),
        ("长" * MAX_TOKENS + "。", "too_long"),
        ("某公司发布了大语言模型，很多人抱歉。", ""),
    ],
)
def test_one_chinese_sentence_and_its_reason(reply, reason):
    assert [why for _, why in zh(reply)] == [reason]


@pytest.mark.parametrize(
    ("lang", "dense", "reply", "reason"),
    [
        ("ja", True, "申し訳ありませんが、続けられません。", "refusal"),
        ("ja", True, "彼は東京に住んでいる。", ""),
        ("ja", True, "He lives in Tokyo now.", "wrong_language"),
        ("ko", False, "죄송합니다, 도와드릴 수 없습니다.", "refusal"),
        ("ko", False, "나는 학교에 갔다.", ""),
        ("ko", False, "He lives in Seoul now.", "wrong_language"),
    ],
)
def test_japanese_and_korean_sentences(lang, dense, reply, reason):
    found = candidates(reply, source=["x"], prompt="", dense=dense, lang=lang, cut=False)
    assert [piece.reason for piece in found] == [reason]


def test_a_clear_refusal_takes_its_paragraph_with_it_and_an_apology_only_itself():
    assert [why for _, why in zh("抱歉，我无法续写这个句子。请换一个别的句子。\n\n北京是中国的首都。")] == ["refusal", "refusal", ""]
    assert [why for _, why in zh("抱歉，我来晚了。他在那里很开心。")] == ["refusal", ""]
    assert [why for _, why in zh("他说了很多话。抱歉，我来晚了。")] == ["", ""]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("小明昨天坐火车去了北京，他很高兴。", [("小明昨天坐火车去了北京，", "copy_of_source"), ("他很高兴。", "")]),
        ("好的：\n小明昨天坐火车去了北京。“好！”他说得很大声。", [("好的：", "chatter"), ("小明昨天坐火车去了北京。", "copy_of_source"),
         ("“好！”", "too_short"), ("他说得很大声。", "")]),
    ],
)  # fmt: skip
def test_a_continuation_that_begins_with_the_source_loses_that_part_only(reply, expected):
    assert zh(reply) == expected


def test_a_longer_word_is_no_copy_of_the_source():
    assert zh("小明去了北京大学读书。", source="小明去了北京") == [("小明去了北京大学读书。", "")]
    first = en("john smith lives in the u.s. He is very old now.")[0]
    assert first == ("john smith lives in the u.s.", "copy_of_source")


def test_a_sentence_said_twice_is_kept_once():
    assert zh("他很开心。她也来了。他很开心！") == [("他很开心。", ""), ("她也来了。", ""), ("他很开心！", "duplicate")]


def test_a_full_stop_at_the_token_limit_is_not_trusted_after_a_digit_or_a_letter():
    assert zh("他很开心。增长了大约3.", cut=True)[-1] == ("增长了大约3.", "unfinished")
    assert zh("他很开心。增长了大约3.", cut=False)[-1] == ("增长了大约3.", "")
    assert en("He moved to the U.", cut=True) == [("He moved to the U.", "unfinished")]
    assert zh("他很开心。他去了", cut=True)[-1] == ("他去了", "unfinished")
    assert zh("他很开心。", cut=True) == [("他很开心。", "")]


def test_an_empty_reply_gives_nothing():
    assert zh("") == zh(" \n\t") == zh("</s>") == []


PIECES = st.sampled_from(
    ["他去了北京。", "He lives in New York.", "小明", "**", "*", "_", "`", "```", "~~~", "\n", "\n\n", "# ", "- ", "1. ",
     "|", "---", ">", "<think>", "</think>", "<|user|>", "User:", "解释：", "Note:", "[a](b)", "{", "}", "\"", "“", "”", "。",
     ".", "！", " ", "抱歉",
     "\u2028", "\ufeff", "\ud800", "\x00", "😊", "<br>", "<b>", "3.5", "$", "\\", "(", ")", "Mr.", "小明昨天坐火车去了北京。"]
)  # fmt: skip


@given(
    st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join)),
    st.lists(st.text(min_size=1, max_size=4), max_size=8),
    st.text(max_size=40),
    st.booleans(),
    st.sampled_from(["zh", "ja", "ko", "en", "xx"]),
    st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_any_reply_ends_in_pieces_that_are_sound(reply, source, prompt, dense, lang, cut):
    kept = set()
    for piece in candidates(reply, source=source, prompt=prompt, dense=dense, lang=lang, cut=cut):
        assert piece.text.strip() and piece.reason in ("", *REASONS)
        if not piece.reason:
            assert piece.tokens and all(piece.tokens) and len(piece.tokens) <= MAX_TOKENS
            assert "".join(piece.tokens) == "".join(piece.text.split())
            assert not any(char.isspace() for token in piece.tokens for char in token)
            assert piece.text not in kept
            kept.add(piece.text)
