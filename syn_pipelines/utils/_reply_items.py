"""Turn a decoded reply into (surface, type) pairs, whatever shape the model chose for them.

Shapes read, in each of them with the keys below: a list of objects, of pairs or of lists; one object; an object around
any of these; an object type -> surfaces; an object surface -> type; an object type -> objects without a type of their
own; one object with a list of surfaces; objects that are items within an object that is one.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any, Literal

from syn_pipelines.utils._loose_json import Bare, Num, Obj, decode_strict

Mode = Literal["entity", "pos"]
CANONICAL: dict[Mode, tuple[str, str]] = {"entity": ("entity", "type"), "pos": ("word", "pos")}

# Compared without case, blanks, hyphens and underscores. Order is priority where an object has several of them.
_SURFACE = """word token text name mention surface phrase term entityname entitytext entitymention nameentity
    namedentity entity 实体 实体名称 实体名 实体文本 实体词 词 词语 单词 词汇 名称 文本 字 字词 内容 content value span
    string words tokens texts names mentions entities spans 实体列表 词语列表
    實體 實體名稱 詞 詞語 單詞 名稱 単語 語 表層 表層形 形態素 固有表現 エンティティ トークン テキスト
    단어 개체 개체명 엔티티 표층형 형태소 토큰 텍스트""".split()
_TYPE = """type label tag category class entitytype entitylabel entitygroup entitycategory entityclass ner nertag
    nertype nerlabel kind group 类型 实体类型 类别 实体类别 标签 实体标签 分类 种类 types labels tags
    categories 類型 實體類型 類別 實體類別 標籤 分類 種類 種別 タイプ ラベル タグ カテゴリ カテゴリー
    유형 타입 종류 분류 범주 라벨 레이블 태그 개체유형 개체명유형""".split()
_POS_TYPE = "pos postag upos xpos partofspeech wordclass 词性 词类 词性标签 词性标注 postags 詞性 詞類 品詞 품사".split()
# {"name": "Ann", "entity": "PERSON"} and {"entity": "Ann", "value": "PERSON"}: the type, when nothing better is there.
_SECOND_CHOICE_TYPE = ("value", "entity", "实体")
_WRAPPERS = """result results data output outputs item items list answer answers response reply annotation annotations
    extraction extractions extracted namedentities extractedentities entitylist wordlist nerresult nerresults posresult
    结果 输出 答案 数据 列表 命名实体 实体识别 实体识别结果 标注 标注结果 分词 分词结果 词性标注结果 抽取结果 提取结果
    识别结果 回答 結果 出力 實體列表 詞語列表 エンティティリスト 単語リスト 결과 출력 개체목록 단어목록""".split()
_NOT_ASKED_FOR = """id idx index start end startindex endindex startoffset endoffset offset offsets position positions
    confidence score prob probability note notes reason explanation description comment comments thought thoughts
    thinking reasoning sentence input source query prompt question count length total status message lang language
    originaltext originalsentence inputtext inputsentence sourcetext sourcesentence fulltext rawtext task tasktype model
    msg $schema 原句 原文本 原始文本 文本内容 句子内容 任务 模型 原文本內容 入力 入力文 문장 원문 입력
    句子 原文 输入 说明 解释 备注 理由 原因 思考 置信度 开始 结束 起始 位置 开始位置 结束位置 编号 序号 描述 数量 总数
    语言""".split()
# Of an object of strings, {"PER": "Ann"}, that tells types first: these are types, and surfaces hardly ever.
_TYPE_NAMES = frozenset("""per person people loc location gpe place city country org organization organisation company
    institution date time datetime money percent percentage quantity cardinal ordinal product event facility fac norp misc
    workofart noun verb adj adjective adv adverb adp preposition pron pronoun det determiner num numeral propn punct
    人名 人物 地名 地点 地址 机构 机构名 机构名称 组织 组织名 组织机构 组织机构名 公司 公司名 国家 城市 时间 日期 数量
    金额 产品 事件 职位 职务 作品 名词 动词 形容词 副词 代词 介词 连词 助词 数词 量词 人物名 組織 組織名 法人名 場所
    日付 時間 機構 地點 名詞 動詞 形容詞 인명 인물 지명 장소 기관 기관명 조직 단체 날짜 시간 명사 동사""".split())
_SURFACE_KEYS = {"entity": ["entity", "实体", *_SURFACE], "pos": _SURFACE}
_TYPE_KEYS = {"entity": _TYPE + _POS_TYPE, "pos": _POS_TYPE + _TYPE}
_ITEM_KEYS = frozenset(_SURFACE + _TYPE + _POS_TYPE)
_KNOWN = _ITEM_KEYS | frozenset(_WRAPPERS) | {""}
_WRAPPER_KEYS = frozenset(_WRAPPERS) | {"entities", "words", "实体列表", "词语列表"}
_EXTRA = frozenset(_NOT_ASKED_FOR)
_MAX_DEPTH = 16  # wrappers in wrappers; real replies have up to four

_LONGEST_KEY = 200  # code points; sorting the accents of a long text takes the square of its length
_KEY_NOISE = re.compile(r"[\s_\-\\\"'`*]+")


def _folded(key: str) -> str:
    if len(key) > _LONGEST_KEY:
        return key
    return _KEY_NOISE.sub("", unicodedata.normalize("NFKC", key)).casefold()


def _text(value: Any) -> str | None:
    """The surface a value stands for: a string, a number as written, or a list of just one of these."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else None


def _type(value: Any) -> str | None:
    text = _text(value)
    return None if text is None or isinstance(text, Num) or not text.strip() else text


def _texts(value: Any) -> list[str] | None:
    """The strings of a list of at least two that holds nothing else, else None."""
    if isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) and not isinstance(v, Num) for v in value):
        return value
    return None


def _embedded(key: str, value: Any) -> Any:
    """{"result": "[{...}]"}: the list or object that a wrapper's string holds; any other value unchanged."""
    if isinstance(value, str) and value[:1] in ("[", "{") and _folded(key) in _WRAPPER_KEYS:
        try:
            return decode_strict(value)
        except ValueError:
            return value
    return value


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, Obj))


def is_closed(value: Any) -> bool:
    """Whether a container's closing bracket was read; strict JSON gives plain lists, which always are closed."""
    return getattr(value, "closed", True)


def is_pair(value: Any) -> bool:
    """Whether ``value`` is a closed list that starts with surface and type, with nothing but scalars after them."""
    return (isinstance(value, list) and is_closed(value) and len(value) > 1 and isinstance(value[0], str)
            and _type(value[1]) is not None and not any(map(_is_container, value[2:])))


def is_item(value: Any, mode: Mode, *, own_keys: bool = False) -> bool:
    """Whether the value is an object with a surface and a type under two known keys (or under the mode's own two)."""
    if not isinstance(value, Obj):
        return False
    keyed = {_folded(key): (key, member) for key, member in reversed(value.pairs)}
    surface_keys, type_keys = ([[key] for key in CANONICAL[mode]] if own_keys else (_SURFACE_KEYS[mode], _TYPE_KEYS[mode]))
    surface_key = _first(surface_keys, keyed, _text)
    return surface_key is not None and _first([key for key in type_keys if key != surface_key], keyed, _type) is not None


@dataclass
class Found:
    """Items in the order of the reply, the number of members left out, and what had to be mended, in order."""

    mode: Mode
    items: list[tuple[str, str]] = field(default_factory=list)
    dropped: int = 0
    notes: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        if what not in self.notes:
            self.notes.append(what)

    def drop(self) -> None:
        self.dropped += 1
        self.note("stray_members")

    def take(self, surface: str, type_: str) -> None:
        """Keep one item, unless it holds half a surrogate pair, which no UTF-8 file can store."""
        if isinstance(surface, Num):
            self.note("number_surface")
        surface, type_ = str(surface), str(type_)
        if any("\ud800" <= char <= "\udfff" for char in surface + type_):
            self.dropped += 1
            self.note("lone_surrogate")
            return
        self.items.append((surface, type_))

    def array(self, members: list, under: str | None = None, depth: int = 0) -> None:
        """Read a list; ``under`` is the type that its bare surfaces belong to (the key the list stood under)."""
        if not is_closed(members) and members and not _is_container(members[-1]):
            members = members[:-1]  # the reply may have ended within it
        for member in members:
            if isinstance(member, Obj):
                self.object(member, under, depth + 1, in_list=True)
            elif is_pair(member):
                self.note("list_of_pairs")
                self.take(member[0], _type(member[1]))
            elif isinstance(member, list):
                self._nested(member, under, depth)
            elif under is not None and isinstance(member, str):
                self.note("dict_of_lists")
                self.take(member, under)
            else:
                self.drop()

    def _nested(self, member: list, under: str | None, depth: int) -> None:
        scalars = not any(map(_is_container, member))
        if scalars and not is_closed(member):
            return
        if depth >= _MAX_DEPTH:
            return self.drop()
        if scalars and under is not None and member and isinstance(member[0], str):
            self.note("dict_of_lists")  # {"PERSON": [["Ann", 0, 3], ...]}: the surface and its offsets
            self.take(member[0], under)
        elif scalars:
            self.drop()
        else:
            self.note("nested_lists")
            self.array(member, under, depth + 1)

    def object(self, obj: Obj, under: str | None = None, depth: int = 0, in_list: bool = False) -> None:
        """Read an object that is an item, holds items, or maps one half of the items to the other."""
        if depth > _MAX_DEPTH:
            return self.drop()
        groups = _split_repeats(obj.pairs)
        if len(groups) > 1:
            self.note("repeated_keys")
        for pairs in groups:
            pairs = [(key, _embedded(key, value)) for key, value in pairs]
            keyed: dict[str, tuple[str, Any]] = {}
            for key, value in pairs:
                keyed.setdefault(_folded(key), (key, value))
            wraps, inner = _wraps_items(keyed) and not is_item(obj, self.mode, own_keys=True), Found(self.mode)
            if wraps:
                inner._around(obj, pairs, keyed, under, depth, in_list)
            if not (inner.items or _lists_items(keyed, wraps, in_list)) and self._item(obj, keyed, under, in_list):
                self._inside(pairs, depth)
            elif wraps:
                self.add(inner)
            else:
                self._around(obj, pairs, keyed, under, depth, in_list)

    def add(self, other: Found) -> None:
        """Take over what was read elsewhere."""
        self.items += other.items
        self.dropped += other.dropped
        for what in other.notes:
            self.note(what)

    def _inside(self, pairs: list[tuple[str, Any]], depth: int) -> None:
        """Read the items that stand within an item: {"entity": ..., "type": ..., "children": [{"entity": ...}]}."""
        for key, value in pairs:
            wrapper = _folded(key) in _WRAPPER_KEYS
            inner = [member for member in (value if isinstance(value, list) else [value])
                     if is_item(member, self.mode) or wrapper and is_pair(member)]
            if inner:
                self.note("nested_objects")
                self.array(inner, None, depth + 1)

    def _item(self, obj: Obj, keyed: dict[str, tuple[str, Any]], under: str | None, in_list: bool) -> bool:
        """Take the object as one item, or as one for each surface of its list. False when it is neither."""
        type_key = _first(_TYPE_KEYS[self.mode], keyed, _type)
        surface_key = _first(_SURFACE_KEYS[self.mode], keyed, _text)
        if type_key is None and surface_key is not None and not any(key in keyed for key in _TYPE_KEYS[self.mode]):
            type_key = _first(_SECOND_CHOICE_TYPE, keyed, _type)
            others = [key for key in _SURFACE_KEYS[self.mode] if key != type_key]
            surface_key = _first(others, keyed, _text)
            if surface_key is None:
                type_key, surface_key = None, _first(_SURFACE_KEYS[self.mode], keyed, _text)
        if surface_key is None:
            return self._several(obj, keyed, type_key, under, in_list)
        surface = _text(keyed[surface_key][1])
        if type_key is None and under is not None and not any(key in keyed for key in _TYPE_KEYS[self.mode]):
            self.note("dict_of_lists")
            type_ = under
        elif type_key is None:
            return False
        else:
            type_ = _type(keyed[type_key][1])
            self._note_keys(keyed, surface_key, type_key)
        if obj.closed:
            self.take(surface, type_)
        return True

    def _note_keys(self, keyed: dict[str, tuple[str, Any]], surface_key: str, type_key: str) -> None:
        if (keyed[surface_key][0], keyed[type_key][0]) != CANONICAL[self.mode]:
            self.note("key_alias")
        if isinstance(keyed[type_key][1], list) or isinstance(keyed[surface_key][1], list):
            self.note("list_of_one")

    def _several(self, obj: Obj, keyed: dict[str, tuple[str, Any]], type_key: str | None, under: str | None,
                 in_list: bool) -> bool:
        """{"type": "PER", "names": ["Ann", "Bob"]}, {"word": ["a", "b"], "pos": ["x", "y"]}, {"Ann": {"type": ...}}."""
        surface_key = _first(_SURFACE_KEYS[self.mode], keyed, _texts)
        types_key = _first(_TYPE_KEYS[self.mode], keyed, _texts)
        pairs: list[tuple[str, str]] = []
        if surface_key is not None and type_key is not None and not isinstance(keyed[type_key][1], list):
            pairs = [(surface, _type(keyed[type_key][1])) for surface in keyed[surface_key][1]]
        elif surface_key is not None and types_key is not None:
            surfaces, types = keyed[surface_key][1], keyed[types_key][1]
            pairs = list(zip(surfaces, types)) if len(surfaces) == len(types) else []
        elif type_key is not None and under is not None and not in_list:
            pairs = [(under, _type(keyed[type_key][1]))]
        if pairs and obj.closed:
            self.note("grouped")
            for surface, type_ in pairs:
                self.take(surface, type_)
        return bool(pairs)

    def _around(self, obj: Obj, pairs: list[tuple[str, Any]], keyed: dict[str, tuple[str, Any]], under: str | None,
                depth: int, in_list: bool) -> None:
        """Read an object that is no item itself: a wrapper, type -> surfaces, or surface -> type."""
        containers = [(k, v) for k, v in pairs if _is_container(v) and _folded(k) not in _EXTRA]
        half_item = in_list and (not obj.closed or bool(_ITEM_KEYS & keyed.keys()))
        if not containers:
            self._scalars(obj, pairs, half_item, in_list)
            return
        listed = any(_folded(k) in _KNOWN for k, _ in containers)  # then strings beside it are about the reply
        if not obj.closed and not _is_container(pairs[-1][1]):
            pairs = pairs[:-1]
        for key, value in pairs:
            known = _folded(key) in _KNOWN
            inner = under if known else key
            if _folded(key) in _EXTRA or (half_item and not (known and (obj.closed or isinstance(value, list)))):
                continue
            if isinstance(value, Obj):
                self.note("wrapper" if known else "nested_objects")
                self.object(value, inner, depth + 1)
            elif isinstance(value, list):
                if known or any(map(_is_container, value)):
                    self.note("wrapper")
                self.array(value, None if half_item else inner, depth + 1)
            elif isinstance(value, str) and not known and not isinstance(value, Num):
                if not listed:
                    self.take(value, key)  # {"人名": ["张三", "李四"], "地名": "北京"}
            elif not known:
                self.drop()

    def _scalars(self, obj: Obj, pairs: list[tuple[str, Any]], half_item: bool, in_list: bool) -> None:
        """{"张三": "人名"}, surface to type; any other object of scalars is a stray member. {} says "nothing found"."""
        if not pairs:
            return
        if not obj.closed:
            pairs = [] if in_list else pairs[:-1]
        keys = {_folded(key) for key, _ in pairs}
        if self._is_broken_item(keys) or (half_item and not obj.closed):
            if obj.closed:
                self.drop()
            return
        pairs = [(key, value) for key, value in pairs if _folded(key) not in _EXTRA]
        types_first = _tells_types_first(pairs)
        self.note("dict_of_lists" if types_first else "surface_to_type")
        for key, value in pairs:
            if _type(value) is None or not key or isinstance(value, Bare):
                self.drop()
            else:
                self.take(*((value, key) if types_first else (key, value)))

    def _is_broken_item(self, keys: set[str]) -> bool:
        """Whether an object of scalars names its fields. In POS replies {"the": "DET", "name": "NOUN"} does not."""
        unknown = keys - _KNOWN - _EXTRA
        if self.mode == "pos" and not keys & {"word", "pos"} and len(unknown) > len(keys) / 2:
            return False
        return bool(keys & (_KNOWN - {""})) or not unknown


def _first(keys: list[str] | tuple[str, ...], keyed: dict[str, tuple[str, Any]], usable: Any) -> str | None:
    return next((key for key in keys if key in keyed and usable(keyed[key][1]) is not None), None)


def _tells_types_first(pairs: list[tuple[str, Any]]) -> bool:
    """Whether an object of strings is {"PER": "Ann"} rather than {"Ann": "PER"}: all its keys name types, no value does."""
    named = [isinstance(value, str) and _folded(value) in _TYPE_NAMES for _, value in pairs]
    return not any(named) and all(_folded(key) in _TYPE_NAMES for key, _ in pairs)


def _lists_items(keyed: dict[str, tuple[str, Any]], wraps: bool, in_list: bool) -> bool:
    """Whether there is a list for the items, though none is in it: {"text": <the sentence>, "type": "ner", "items": []}."""
    return any(key in _WRAPPER_KEYS and isinstance(value, list) and (wraps if value else not in_list)
               for key, (_, value) in keyed.items())


def _wraps_items(keyed: dict[str, tuple[str, Any]]) -> bool:
    """{"text": <the sentence>, "label": "ner", "entities": [{...}]}: the list counts, not what is beside it."""
    return any(key in _KNOWN and isinstance(value, list) and any(map(_is_container, value))
               for key, (_, value) in keyed.items())


def _split_repeats(pairs: list[tuple[str, Any]]) -> list[list[tuple[str, Any]]]:
    """Items that ran together, {"entity": a, "type": b, "entity": c, "type": d}, apart: anew where the first item key
    comes again. Other repeated keys are left to the reader of the shape."""
    first = next((key for key, _ in pairs if _folded(key) in _ITEM_KEYS), None)
    groups: list[list[tuple[str, Any]]] = [[]]
    for key, value in pairs:
        if key == first and any(key == k for k, _ in groups[-1]):
            groups.append([])
        groups[-1].append((key, value))
    return groups
