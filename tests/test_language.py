"""How tokens join, and which language they are, told from the data or forced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.utils.language import Language, language_of
from syn_pipelines.utils.options import TextOptions

AUTO = TextOptions()


@pytest.mark.parametrize("single, longer, dense", [(95, 5, True), (94, 5, False), (19, 1, True), (18, 1, False), (1, 0, True),
                                                   (0, 1, False), (951, 49, True), (949, 51, False)])
def test_dense_from_95_percent_of_one_character_tokens_on(single, longer, dense):
    assert language_of(AUTO, [["字"] * single, ["字字"] * longer]).dense is dense


@given(st.integers(1, 10_000))
def test_exactly_95_percent_is_dense(n):
    assert language_of(AUTO, [["a"] * (19 * n), ["ab"] * n] if n < 50 else [["a"] * 19, ["ab"]]).dense
    assert 19 * n >= 0.95 * (20 * n) > 19 * n - 1  # no rounding error at any size of data set


@pytest.mark.parametrize("tokens, lang", [
    (list("今天天气不错，我们去公园。"), "zh"), (list("iPhone14在北京发布了，价格5999元"), "zh"),
    (list("レッドフォックス株式会社は、東京都千代田区に本社を置く"), "ja"), (list("東京都千代田区に本社を置く企業である"), "ja"),
    ("나는 어제 서울 에서 大韓民國 책을 샀다".split(), "ko"), ("John lives in New York .".split(), "en"),
    ("Das ist München .".split(), "en"), (["123", "!"], "en"),
])
def test_the_language_is_told_by_script(tokens, lang):
    assert language_of(AUTO, [tokens]).lang == lang


def test_emoji_are_one_token_but_more_than_one_code_point():
    assert not language_of(AUTO, [["👨\u200d👩"] * 2 + ["字"] * 30]).dense


@pytest.mark.parametrize("dense", ["0", "1"])
@pytest.mark.parametrize("lang", ["zh", "en", "ja", "ko"])
def test_forced_values_count_whatever_the_tokens_say(dense, lang):
    assert language_of(TextOptions(dense_lang=dense, lang=lang), [list("今天"), ["word"]]) == Language(dense == "1", lang)
    assert language_of(TextOptions(dense_lang=dense), [["word"]]) == Language(dense == "1", "en")
    assert language_of(TextOptions(lang=lang), [["字"]]) == Language(True, lang)


def test_tokens_join_without_or_with_one_blank():
    assert Language(True, "zh").join(["你", "好"]) == "你好"
    assert Language(False, "en").join(["New", "York", "'s"]) == "New York 's"


def test_data_without_tokens_are_no_error():
    assert language_of(AUTO, []).lang == "en"
