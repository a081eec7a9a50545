"""Sentence splitting: what ends a sentence, what does not, and that nothing but white space is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syn_pipelines.text.sentences import split_sentences


def cut(text: str, lang: str) -> list[str]:
    """Sentences, an unfinished one marked by a leading ``~``."""
    return [("" if finished else "~") + sentence for sentence, finished in split_sentences(text, lang)]


def check(lang: str, expected: str) -> None:
    """``expected``: the sentences joined by " | " (no blank in the text when joined by "|")."""
    sentences = [part.strip() for part in expected.split("|")]
    glue = " " if " | " in expected else ""
    text = glue.join(part.removeprefix("~") for part in sentences)
    assert cut(text, lang) == sentences


@pytest.mark.parametrize(
    "expected",
    [
        "The U.S. economy grew 3.5 percent in 2003. | Mr. Smith (CEO of Acme Inc.) said so.",
        "He lives in the U.S. | He likes 1,000.50 things.",
        "The U.S. Army and Apple Inc. CEO Tim Cook met.",
        "She works at Acme Inc. | The firm is old.",
        "J. K. Rowling and George W. Bush met Dr. He Jiankui.",
        "It was plan B. | They liked it.",
        "Fruit, e.g. Apples, i.e. Pears vs. Plums, etc. | Then nuts.",
        "He came at 5 p.m. | Then he left at 9 a.m. Monday.",
        "It is No. 5 on p. 12 of vol. 3. | He said no. | Yes.",
        "In Jan. 2003 he moved to St. Louis on Main St. | It rained.",
        "See http://a.com/x?y=1.2. | Open main.py and v2.0.1. | Mail a.b@c.org! | Go.",
        'He said "Stop!" | Then "What?!" | (He left.) | [She too.] | ‘Fine.’ | Good.',
        '"I came. I saw," he said. | "Stop!" he cried.',
        "He came (really? yes!) and left. | She (b. 1950. d. 2000.) wrote.",
        "Well... maybe... | He left… | Wait. . .",
        "Stop!!! | Really?! | No!? | Yes.",
        "It was 1990. | 15 people came. | It costs 5. 10 more.",
        "Great! 😊 | Let us go.👍 | Bye.",
        "It grew.[12] | Then it fell.",
        "one thing; another; a third. | Next: this, that.",
        "hello there. | how are you? | fine.",
        "Yahoo! Japan is big. | Done.",
        "He left. | ~Then he"
    ],
)
def test_english_sentences(expected):
    check("en", expected)


@pytest.mark.parametrize(
    "expected",
    [
        "小明去了北京。|他很高兴！|真的吗？！|太好了！！！|好。。。|走吧。",
        "增长了3.5%，版本v2.0.1，共1,000人。|好的。",
        "他说：“来了。走吧。”|然后离开了。",
        "“你好。|我走了。”|他说。",
        "“加油！”的口号很响。|“你好！”，他说。",
        "《你好！》是电影。|他看了《再见。》两遍。",
        "他走了（真的！）又回来。|她（1990年生。演员）来了。|（完了。）|好。",
        "他走了……第二天又来了。|等等……",
        "他来了.|然后走了.|Dr.王和J.K.罗琳在U.S.境内.",
        "A.苹果和B.香蕉，第3.节。",
        "红；绿；蓝。|网址http://a.cn/b?c=1。|好。",
        "太好了！😊|我们走。|好吧。～|~再",
        "高３．５米。|低。",
    ],
)
def test_chinese_sentences(expected):
    check("zh", expected)


@pytest.mark.parametrize(
    "expected",
    [
        "彼は来た。|「はい。そうです。」と言った。|「行くぞ！」|彼は叫んだ。",
        "モーニング娘。は人気だ。|Yahoo!ニュースです。",
        "身長は1.75m。|本当？|うん。",
    ],
)
def test_japanese_sentences(expected):
    check("ja", expected)


@pytest.mark.parametrize(
    "expected",
    [
        "그는 갔다. | 나는 3.5%라고 말했다. | 정말?",
        "2024. 5. 1. 서울에서 열렸다. | 끝났다.",
        "그는 갔다.|그리고 왔다.|~끝",
    ],
)
def test_korean_sentences(expected):
    check("ko", expected)


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("A heading\nA sentence.", "en", ["~A heading", "A sentence."]),
        ("It goes\non here.\n\nand here.", "en", ["It goes on here.", "and here."]),
        ("First,\r\nsecond.", "en", ["First, second."]),
        ("小明去了，\n北京。\n上海", "zh", ["小明去了， 北京。", "~上海"]),
        ("1. First item. 2. Second item.", "en", ["1. First item.", "2. Second item."]),
        ("1. 北京是首都。2. 上海很大。", "zh", ["1. 北京是首都。", "2. 上海很大。"]),
        ('He said so. " )', "en", ['He said so. " )']),
        ("He met Mr.", "en", ["~He met Mr."]),
        ("Done.\n2.", "en", ["Done.", "~2."]),
        ("He said :", "en", ["~He said :"]),
        ("", "zh", []),
        (" \n\t\u3000", "ja", []),
    ],
)
def test_lines_lists_and_unfinished_ends(text, lang, expected):
    assert cut(text, lang) == expected


PIECES = st.sampled_from(
    list("。！？.!?…”」)（(\"'“「， ；;\n aZ7北はの한😊") + ["Mr.", "U.S.", "3.5", "http://a.b/c.", "e.g.", "...", "1. ", "Yahoo!"]
)


TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join))


@given(TEXTS, st.sampled_from(["zh", "ja", "ko", "en", "xx"]))
@settings(max_examples=500)
def test_nothing_but_white_space_is_lost(text, lang):
    sentences = split_sentences(text, lang)
    assert "".join("".join(sentence.split()) for sentence, _ in sentences) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() and "\n" not in sentence for sentence, _ in sentences)


@given(st.lists(st.sampled_from(["小明去了北京。", "她说：“好！”", "真的吗？", "涨了3.5%。"]), max_size=8))
def test_joined_sentences_come_apart_again(sentences):
    assert split_sentences("".join(sentences), "zh") == [(sentence, True) for sentence in sentences]
