"""Chinese for the offline backend: jieba's words and tags, and entities made from them by small rules.

The dictionary is read straight into a private tokenizer. jieba itself would go through a cache file in the temporary
folder, which two processes may write at once, which may not be writable, and whose loading is logged to standard
error; reading costs about half a second a process instead and gives the same words always.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm.offline.text import (
    Piece,
    distinct,
    pattern_pieces,
    sentence_text,
    snap_to_tokens,
    token_boundaries,
)
from syn_pipelines.utils.llm.offline.zh_words import (
    JOBS,
    KINSHIP,
    NOT_A_NAME,
    ORG_NOUNS,
    ORG_SUFFIXES,
    PEOPLE,
    PLACE_NOUNS,
    PLACE_SUFFIXES,
    SURNAMES,
    TITLES,
)

if TYPE_CHECKING:
    from jieba.posseg import POSTokenizer

# Every type of an entity item, so that the alias table can be checked against it.
ENTITY_TYPES = frozenset(
    "人名 地名 机构名 专有名词 日期 时间 金额 百分比 年龄 序数 数量 亲属称谓 职业 称谓 机构 场所 网址 用户名 话题".split()
)
# Tags of jieba's dictionary and of its hidden Markov model (which adds bg, en, in, ..., yg).
POS_TAGS = frozenset(
    "a ad ag an b bg c d df dg e en eng f g h i in j jn k l ln m mg mq n ng nr nrfg nrt ns nt nz o p q qe qg r rg rr "
    "rz s t tg u ud ug uj ul uv uz v vd vg vi vn vq w x y yg z zg".split()
)

_N = r"(?:[0-9０-９]+(?:[.．,，][0-9０-９]+)*|[零〇一二两三四五六七八九十百千几半]+)(?:[多余]?[十百千万亿]+)?"
_UNITS = (
    "个|只|条|张|本|件|位|名|辆|台|部|家|次|遍|种|双|对|杯|瓶|碗|盘|斤|公斤|千克|克|吨|米|厘米|毫米|公里|里|平米|平方米|层|楼|"
    "套|份|颗|粒|棵|朵|首|篇|集|期|场|间|座|所|节|门|道|届|枚|块|片|包|箱|袋|把|支|枝|根|头|匹|艘|架|款|步|人|亩|倍|字"
)
# More specific first: a later pattern never takes characters of an earlier match.
_PATTERNS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("网址", r"https?://[A-Za-z0-9./?=&%_~:#-]+|www\.[A-Za-z0-9./?=&%_~:#-]+"),
        ("话题", r"#[^#\s]{2,30}#"),
        ("用户名", r"@[\w\-]{2,15}"),
        ("金额", rf"[¥￥$]{_N}|{_N}[多余]?(?:元|块钱|美元|美金|人民币|欧元|日元|韩元|港币|港元|英镑|角钱|毛钱)"),
        ("百分比", rf"{_N}[%％]|百分之{_N}"),
        ("年龄", rf"{_N}[多来]?岁半?"),
        ("日期", rf"[0-9]{{2,4}}年(?:{_N}月)?(?:{_N}[日号])?|{_N}月{_N}[日号]|{_N}月份?|[0-9]{{4}}(?:-[0-9]{{1,2}}){{2}}"),
        ("时间", rf"[0-9]{{1,2}}[:：][0-9]{{2}}|{_N}点(?:半|钟|{_N}分)|(?:[0-9]{{1,2}}|[两三四五六七八九十]+)点"),
        ("时间", rf"{_N}[多来]?(?:个小时|小时|个钟头|分钟|秒钟?|天|个星期|星期|周|个月|个多月|年)"),
        ("序数", rf"第{_N}(?:个|次|届|名|位|天|章|季|期|集|条|步|年|届|回|场|轮)?"),
        ("数量", rf"{_N}[多余来]?(?:{_UNITS})"),
    )
)
# Counted things that say nothing: placed everywhere they would only blur the quantity label.
_EMPTY_COUNTS = frozenset(
    "一个 一种 一次 一位 一条 一件 一片 一把 一家 一道 一头 一人 一场 一份 一块 一里 一步 一对 一层 一天 一年 一名 几个 半个 千里".split()
)

_GIVEN_TAGS = frozenset(("nr", "nrt", "nz", "ng", "zg", "n"))
_NAME_TAGS = frozenset(("ns", "nt", "nz", "nr", "nrt", "nrfg", "j"))
_NOUN_WORDS = (("场所", PLACE_NOUNS), ("机构", ORG_NOUNS), ("称谓", PEOPLE), ("职业", JOBS), ("亲属称谓", KINSHIP))
_NOUN_TYPES = {noun: kind for kind, nouns in _NOUN_WORDS for noun in nouns}  # of a noun in two lists the later counts


@functools.lru_cache(maxsize=1)
def load_tagger() -> POSTokenizer:
    """jieba's tagger on a tokenizer of our own: no cache file, no log lines, no user dictionary of the process."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jieba 0.42 has invalid escapes in its patterns; Python 3.12 reports them
            import jieba
            from jieba.posseg import POSTokenizer
    except ModuleNotFoundError as err:
        raise UserError("jieba: not installed, the offline backend needs it for Chinese. pip install jieba") from err
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    for word in sorted(_NOUN_TYPES):
        if not tokenizer.FREQ.get(word):
            tokenizer.add_word(word, tag="n")  # the dictionary is of 2012 and lacks, for instance, words of the web
    return POSTokenizer(tokenizer)


def tag_words(tokens: Sequence[str], dense: bool) -> list[Piece]:
    """Words of the sentence with jieba's raw tags, each on token boundaries, white space left out."""
    words = ((pair.word, _tag(pair.word, pair.flag)) for pair in load_tagger().cut(sentence_text(tokens, dense)))
    return [piece for piece in snap_to_tokens(words, token_boundaries(tokens, dense)) if piece.surface.strip()]


def _tag(word: str, tag: str) -> str:
    """jieba tags whatever its dictionary lacks ``x``, punctuation too; ``w`` is the tag set's own for that."""
    return "w" if tag == "x" and all(unicodedata.category(char).startswith("P") for char in word) else tag


def find_entities(tokens: Sequence[str], dense: bool) -> list[tuple[str, str]]:
    """(surface, type) of the entities, each pair once, in order of appearance.

    Surfaces have at least two characters: an item is placed wherever its surface occurs, and a single Chinese character
    occurs inside too many other words.
    """
    text, words = sentence_text(tokens, dense), tag_words(tokens, dense)
    edges = token_boundaries(tokens, dense) & {0, len(text), *(edge for word in words for edge in word[2:])}
    numbers = [p for p in pattern_pieces(text, _PATTERNS, edges) if p.surface not in _EMPTY_COUNTS]
    taken = {i for p in numbers for i in range(p.start, p.end)}
    free = [word for word in words if word.start not in taken]
    found = numbers + _times(free) + _compounds(free) + _people(free) + _single_words(free)
    return distinct(piece for piece in found if len(piece.surface.strip()) > 1)


def _joined(words: Sequence[Piece], kind: str) -> Piece:
    return Piece("".join(word.surface for word in words), kind, words[0].start, words[-1].end)


def _adjacent(words: Sequence[Piece], start: int, length: int) -> list[Piece]:
    """The words from ``start`` on, at most ``length``, as long as no gap lies between them."""
    chosen = list(words[start : start + 1])
    for word in words[start + 1 : start + length]:
        if word.start != chosen[-1].end:
            break
        chosen.append(word)
    return chosen


def _times(words: Sequence[Piece]) -> list[Piece]:
    """Neighbouring time words as one: yesterday + afternoon."""
    found: list[Piece] = []
    for word in words:
        if word.tag != "t" or _noun_type(word.surface) or word.surface in NOT_A_NAME:
            continue
        if found and found[-1].end == word.start:
            found[-1] = _joined((found[-1], word), "时间")
        else:
            found.append(word._replace(tag="时间"))
    return found


def _compounds(words: Sequence[Piece]) -> list[Piece]:
    """Names of several words closed by a telling noun: a place and "university", a brand and "company"."""
    found, position = [], 0
    while position < len(words):
        window = _adjacent(words, position, 4) if words[position].tag in _NAME_TAGS else []
        size = next((size for size in range(len(window), 1, -1) if _compound_type(window[:size])), 1)
        if size > 1:
            found.append(_joined(window[:size], _compound_type(window[:size])))
        position += size
    return found


def _compound_type(words: Sequence[Piece]) -> str:
    """The type of a compound of these words, "" when they are none: first a name, then nouns, a suffix noun last."""
    first, *middle, last = words
    if not (_name_type(first) or first.tag == "j") or len(first.surface) < 2:
        return ""
    if any(word.tag not in _NAME_TAGS and word.tag not in ("n", "vn", "b") for word in middle):
        return ""
    if len(last.surface) < 2 and (middle or first.tag not in ("ns", "nt", "nz")):
        return ""  # a single character such as 会 or 山 closes a name only right after a place or a brand
    if last.surface in ORG_SUFFIXES:
        return "机构名"
    return "地名" if last.surface in PLACE_SUFFIXES and first.tag != "j" else ""


def _people(words: Sequence[Piece]) -> list[Piece]:
    """A surname the tagger left alone, with the given name or the form of address after it."""
    found = []
    for position, word in enumerate(words):
        pair = _adjacent(words, position, 2)
        if len(pair) < 2 or word.surface[:1] not in SURNAMES:
            continue
        after, is_surname = pair[1], word.surface in SURNAMES
        titled = after.surface in TITLES and (is_surname or _is_person(word))
        room = 2 if is_surname else 1  # characters of the given name still to come
        given = word.tag == "nr" and len(word.surface) < 3 and len(after.surface) <= room and after.tag in _GIVEN_TAGS
        if titled or (given and not _noun_type(after.surface)):
            found.append(_joined(pair, "人名"))
    return found


def _is_person(word: Piece) -> bool:
    """The dictionary and the hidden Markov model call many words names; those with a surname or a foreign ring are."""
    if word.surface in NOT_A_NAME or word.tag not in ("nr", "nrt", "nrfg"):
        return False
    chinese = 2 <= len(word.surface) <= 4 and (word.surface[0] in SURNAMES or word.surface[:2] in SURNAMES)
    return chinese or word.tag == "nrfg" or (word.tag == "nrt" and len(word.surface) > 2) or word.surface[0] in "小阿老大"


def _is_place(word: Piece) -> bool:
    known = word.surface in load_tagger().word_tag_tab
    return word.tag == "ns" and word.surface not in NOT_A_NAME and (known or word.surface[-1] in PLACE_SUFFIXES)


def _name_type(word: Piece) -> str:
    """The entity type of a word that is a name by itself, "" when it is none.

    Words outside the dictionary have their tag from a character model, which is right about people more often than
    about the rest: other names count only when the dictionary has them or their ending tells.
    """
    if _is_person(word):
        return "人名"
    if _is_place(word):
        return "地名"
    if word.surface in NOT_A_NAME or word.tag not in ("nt", "nz"):
        return ""
    if word.surface in load_tagger().word_tag_tab or word.surface.endswith(tuple(ORG_NOUNS)):
        return "机构名" if word.tag == "nt" else "专有名词"
    return ""


def _noun_type(surface: str) -> str:
    stem = surface.removesuffix("们") if len(surface) > 2 else surface
    return _NOUN_TYPES.get(surface) or _NOUN_TYPES.get(stem, "")


def _single_words(words: Sequence[Piece]) -> list[Piece]:
    """Names by their tag, common nouns for people, places and organisations by a short list, places inside names."""
    found = []
    for word in words:
        kind = _noun_type(word.surface) or _name_type(word)
        if kind:
            found.append(word._replace(tag=kind))
        if kind == "机构名":
            found += _inner_place(word)
    return found + _plurals(words)


def _plurals(words: Sequence[Piece]) -> list[Piece]:
    """Nouns for people together with the plural mark after them."""
    pairs = (_adjacent(words, position, 2) for position in range(len(words)))
    plurals = [pair for pair in pairs if len(pair) == 2 and pair[1].surface == "们"]
    return [_joined(pair, _noun_type(pair[0].surface)) for pair in plurals if _noun_type(pair[0].surface)]


def _inner_place(word: Piece) -> list[Piece]:
    """The place an organisation's name starts with, such as the city of a university."""
    tags = load_tagger().word_tag_tab
    for length in range(len(word.surface) - 1, 1, -1):
        if tags.get(word.surface[:length]) == "ns":
            return [Piece(word.surface[:length], "地名", word.start, word.start + length)]
    return []
