"""Alias maps and target labels: the shipped maps know what taggers and models write, and broken files are explained."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.labels import AliasMap, case_twins, check_maps, clashes, fold, read_target_labels
from syn_pipelines.utils.llm import offline

ROOT = Path(__file__).parents[1]
KNOWLEDGE = ROOT / "data" / "fusion_knowledge"
FILES = {"entity": KNOWLEDGE / "entity_label.json", "pos": KNOWLEDGE / "pos_label.json"}
RAW = {kind: json.loads(path.read_text(encoding="utf-8")) for kind, path in FILES.items()}
ENTITY = AliasMap.load(FILES["entity"], fallback="OTHER")
POS = AliasMap.load(FILES["pos"], fallback="WORD")
MAPS = {"entity": ENTITY, "pos": POS}

ONTONOTES = {
    "PERSON": "PERSON", "NORP": "NATIONALITY_RELIGION_POLITICAL", "FAC": "FACILITY", "ORG": "ORGANIZATION",
    "GPE": "GEOPOLITICAL", "LOC": "LOCATION", "PRODUCT": "PRODUCT_NAME", "EVENT": "NAMED_EVENT",
    "WORK_OF_ART": "CREATIVE_WORK", "LAW": "LAW_DOCUMENT", "LANGUAGE": "LANGUAGE_NAME", "DATE": "DATE_EXPRESSION",
    "TIME": "TIME_EXPRESSION", "PERCENT": "PERCENTAGE", "MONEY": "MONEY_AMOUNT", "QUANTITY": "MEASUREMENT",
    "ORDINAL": "ORDINAL_NUMBER", "CARDINAL": "CARDINAL_NUMBER",
}  # fmt: skip
UNIVERSAL = {
    "ADJ": "ADJECTIVE", "ADP": "ADPOSITION", "ADV": "ADVERB", "AUX": "AUXILIARY", "CCONJ": "COORDINATING_CONJUNCTION",
    "DET": "DETERMINER", "INTJ": "INTERJECTION", "NOUN": "NOUN", "NUM": "NUMERAL", "PART": "PARTICLE",
    "PRON": "PRONOUN", "PROPN": "PROPER_NOUN", "PUNCT": "PUNCTUATION", "SCONJ": "SUBORDINATING_CONJUNCTION",
    "SYM": "SYMBOL", "VERB": "VERB", "X": "UNCLASSIFIED",
}  # fmt: skip
# Target names of CoNLL, OntoNotes, MSRA, ACE, Weibo, CLUENER, ResumeNER, KLUE, WNUT. PERSON is the one exception.
COMMON_TARGETS = (
    "O PER LOC ORG MISC GPE FAC NORP PRODUCT EVENT WORK_OF_ART LAW LANGUAGE DATE TIME PERCENT MONEY QUANTITY ORDINAL "
    "CARDINAL NR NS NT VEH WEA PER.NAM PER.NOM GPE.NAM GPE.NOM LOC.NAM LOC.NOM ORG.NAM ORG.NOM NAME CONT EDU PRO RACE "
    "TITLE PS LC OG DT TI QT address book company game government movie name organization position scene corporation "
    "creative-work group location person product PROD CORP GRP CW AGE DURATION FREQUENCY NUMBER EMAIL PHONE URL"
).split()

PKU = (
    "n nr ns nt nz vn v vd a ad an d m q r p c u uj ul ud ug uv uz y e o h k x w t tg f s b i j l z zg g ng vg ag dg "
    "mq eng nrt nrfg rz rr Ng Vg Ag Dg Tg Mg Rg Bg Qg nx"
).split()
ICTCLAS = (
    "nr1 nr2 nrj nrf nsf nl vshi vyou vf vx vi vl al bl rzt rzs rzv ry ryt rys ryv rg qv qt pba pbei cc uzhe ule uguo "
    "ude1 ude2 ude3 usuo udeng uyy udh uls uzhi ulian xe xs xm xu wkz wky wyz wyy wj ww wt wd wf wn wm ws wp wb wh dl"
).split()
CTB = (
    "AD AS BA CC CD CS DEC DEG DER DEV DT ETC FW IJ JJ LB LC M MSP NN NR NT OD ON P PN PU SB SP VA VC VE VV URL X EM "
    "NN-SHORT NR-SHORT NT-SHORT"
).split()
PENN = (
    "CC CD DT EX FW IN JJ JJR JJS LS MD NN NNS NNP NNPS PDT POS PRP PRP$ RB RBR RBS RP SYM TO UH VB VBD VBG VBN VBP "
    "VBZ WDT WP WP$ WRB , . : `` '' ( ) $ # -LRB- -RRB- -LSB- -RSB- -LCB- -RCB- HYPH NFP AFX ADD GW XX _SP"
).split()
SEJONG = (
    "NNG NNP NNB VV VA VX VCP VCN MM MAG MAJ IC JKS JKC JKG JKO JKB JKV JKQ JX JC EP EF EC ETN ETM XPN XSN XSV XSA "
    "SF SE SS SO SW SL SH SN"
).split()


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "map.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- the shipped maps -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILES)
def test_shipped_map_has_at_least_twelve_different_aliases_a_label(kind):
    assert sum(len(set(names)) for names in RAW[kind].values()) >= 12 * len(RAW[kind])


@pytest.mark.parametrize("kind", FILES)
def test_shipped_map_lists_no_alias_twice(kind):
    names = [name for label, aliases in RAW[kind].items() for name in [label, *aliases]]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("kind", FILES)
def test_every_shipped_alias_and_canonical_name_finds_its_label(kind):
    found = {name: MAPS[kind].canonical(name) for label, names in RAW[kind].items() for name in [label, *names]}
    assert found == {name: (label, True) for label, names in RAW[kind].items() for name in [label, *names]}


@pytest.mark.parametrize("kind", FILES)
def test_shipped_file_is_in_the_documented_layout(kind):
    text = FILES[kind].read_text(encoding="utf-8")
    assert text.endswith("]\n}\n") and "\r" not in text and "\\u" not in text
    assert [line for line in text.split("\n") if line.startswith('  "')] == [f'  "{label}": [' for label in RAW[kind]]
    assert max(map(len, text.split("\n"))) <= 120


def test_canonical_names_are_spelled_out_unique_and_no_common_target_names():
    labels = [*ENTITY.labels, *POS.labels]
    check_maps(ENTITY, POS)
    assert len(labels) == len(set(labels)) == len({fold(label) for label in labels})
    assert clashes(COMMON_TARGETS, labels)[0] == []
    assert all(label.replace("_", "").isalpha() and label.isupper() and len(label) >= 4 for label in labels)
    named = {"PERSON", "ORGANIZATION", "LOCATION", "GEOPOLITICAL", "PUNCTUATION", "OTHER", "WORD"}
    assert named <= set(labels)


def test_every_label_of_the_two_standards_has_its_own_canonical_name():
    assert {code: ENTITY.lookup(code) for code in ONTONOTES} == ONTONOTES
    assert {code: POS.lookup(code) for code in UNIVERSAL} == UNIVERSAL
    assert {*ONTONOTES.values(), "OTHER"} <= set(ENTITY.labels) and {*UNIVERSAL.values(), "WORD"} <= set(POS.labels)


@pytest.mark.parametrize(
    "tags", [PKU, ICTCLAS, CTB, PENN, SEJONG], ids=["pku", "ictclas", "ctb", "penn", "sejong"]
)
def test_tag_set_is_known_whole(tags):
    assert [tag for tag in tags if POS.lookup(tag) is None] == []


def test_every_tag_jieba_can_write_is_known():
    posseg = pytest.importorskip("jieba.posseg")
    jieba = pytest.importorskip("jieba")
    with jieba.get_dict_file() as file:
        tags = {line.decode("utf-8").split()[2] for line in file}
    tags |= {tag for states in posseg.char_state_tab_P.values() for _, tag in states} | {"eng", "m", "x"}
    assert len(tags) > 55 and sorted(tag for tag in tags if POS.lookup(tag) is None) == []


@pytest.mark.parametrize("lang", offline.LANGUAGES)
def test_everything_the_offline_backend_writes_is_known(lang):
    assert [raw for raw in sorted(offline.EMITTED_ENTITY_TYPES[lang]) if ENTITY.lookup(raw) is None] == []
    assert [raw for raw in sorted(offline.EMITTED_POS_TAGS[lang]) if POS.lookup(raw) is None] == []


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        ("m", "NUMERAL"), ("M", "MEASURE_WORD"), ("Ｍ", "MEASURE_WORD"), (" M ", "MEASURE_WORD"),
        ("nt", "PROPER_NOUN"), ("NT", "TEMPORAL_NOUN"), ("Nt", None), ("wp", "PUNCTUATION"), ("WP", "PRONOUN"),
        ("Wp", None), ("ad", "ADVERB"), ("AD", "ADVERB"), ("ns", "PROPER_NOUN"), ("NS", "PROPER_NOUN"),
        ("SP", "MODAL_PARTICLE"), ("_SP", "UNCLASSIFIED"), ("in", "ADPOSITION"), ("x", "UNCLASSIFIED"),
        ("zg", "WORD"), ("名词", "NOUN"), ("专有名词", "PROPER_NOUN"), ("标点符号", "PUNCTUATION"),
        ("量词", "MEASURE_WORD"), ("语气词", "MODAL_PARTICLE"), ("方位词", "LOCALIZER"), ("成语", "IDIOM"),
        ("時間詞", "TEMPORAL_NOUN"), ("專有名詞", "PROPER_NOUN"), ("Noun, plural", "NOUN"),
        ("proper  noun", "PROPER_NOUN"), ("subordinating-conjunction", "SUBORDINATING_CONJUNCTION"),
        ("名詞", "NOUN"), ("助詞", "PARTICLE"), ("格助詞", "ADPOSITION"), ("記号", "SYMBOL"),
        ("補助記号", "PUNCTUATION"),
        ("명사", "NOUN"), ("조사", "PARTICLE"), ("관형사", "DETERMINER"), ("数", "NUMERAL"), ("숫자", "NUMERAL"),
        ("ラテン文字", "UNCLASSIFIED"), ("カタカナ語", "NOUN"), ("ひらがな", "WORD"),
        ("한글", "WORD"), ("영문", "UNCLASSIFIED"),
        ("，", "PUNCTUATION"), ("-LRB-", "PUNCTUATION"), ("-", "PUNCTUATION"), ("$", "SYMBOL"), ("qqq", None),
    ],
)  # fmt: skip
def test_part_of_speech_as_models_write_it(raw, label):
    assert POS.lookup(raw) == label


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        ("人名", "PERSON"), ("人物名称", "PERSON"), ("Person Name", "PERSON"), ("PER", "PERSON"), ("PER.NOM", "PERSON"),
        ("people", "PERSON"), ("인명", "PERSON"), ("地名", "LOCATION"), ("机构名", "ORGANIZATION"),
        ("組織名", "ORGANIZATION"), ("Organisation", "ORGANIZATION"), ("时间", "TIME_EXPRESSION"),
        ("TIME", "TIME_EXPRESSION"), ("日期", "DATE_EXPRESSION"), ("其他专名", "OTHER"), ("MISC", "OTHER"),
        ("NUMBER", "CARDINAL_NUMBER"), ("job title", "OCCUPATION"),
        ("数字", "CARDINAL_NUMBER"), ("数", "CARDINAL_NUMBER"), ("숫자", "CARDINAL_NUMBER"), ("カタカナ語", "OTHER"),
        ("ラテン文字", "OTHER"), ("영문", "OTHER"), ("body part", "BODY_PART"), ("Body-Part", "BODY_PART"),
        ("work of art", "CREATIVE_WORK"), ("geo-political entity", "GEOPOLITICAL"), ("国家", "GEOPOLITICAL"),
        ("法人名", "COMPANY"), ("政治的組織名", "ORGANIZATION"), ("施設名", "FACILITY"), ("製品名", "PRODUCT_NAME"),
        ("イベント名", "NAMED_EVENT"), ("职业", "OCCUPATION"), ("用户名", "USER_NAME"), ("话题标签", "HASHTAG"),
        ("食品", "FOOD"), ("电视台", "MEDIA_OUTLET"), ("金额", "MONEY_AMOUNT"), ("百分比", "PERCENTAGE"),
        ("ＧＰＥ", "GEOPOLITICAL"), ("zzz", None), ("", None), ("   ", None),
    ],
)  # fmt: skip
def test_entity_type_as_models_write_it(raw, label):
    assert ENTITY.lookup(raw) == label
    assert ENTITY.canonical(raw) == ((label, True) if label else ("OTHER", False))


# --- looking up -----------------------------------------------------------------------------------

any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    max_leaves=5,
)
names = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=6).filter(
    lambda name: name == name.strip() != ""
)


@given(any_value | st.text(st.characters(), max_size=8))
def test_lookup_never_raises_and_canonical_is_always_a_label(raw):
    for aliases in (ENTITY, POS):
        label, known = aliases.canonical(raw)
        assert label in aliases.labels and known == (aliases.lookup(raw) is not None)
        assert known or label == aliases.fallback


@given(st.text(st.characters()))
def test_folding_twice_is_folding_once(name):
    assert fold(fold(name)) == fold(name)


@given(st.dictionaries(names, st.lists(names, max_size=4), min_size=1, max_size=6))
def test_a_map_finds_every_alias_and_never_guesses_between_labels(mapping):
    taken: set[str] = set(mapping) | {"OTHER"}
    for label in mapping:  # make it a valid map: an alias under one label only
        mapping[label] = [name for name in mapping[label] if name not in taken]
        taken.update(mapping[label])
    aliases = AliasMap.of(mapping, fallback="OTHER")
    exact = {name: label for label, listed in [*mapping.items(), ("OTHER", [])] for name in [label, *listed]}
    owners: dict[str, set[str]] = {}
    for name, label in exact.items():
        assert aliases.lookup(name) == label
        owners.setdefault(fold(name), set()).add(label)
    for form, labels in owners.items():
        only = min(labels) if len(labels) == 1 and form else None
        assert aliases.lookup(form) == exact.get(form, only)


@given(st.sampled_from(sorted(RAW["entity"])), st.sampled_from(["upper", "lower", "title"]), st.sampled_from(" -_　–"))
def test_case_blanks_and_dashes_do_not_hide_a_label(label, case, joiner):
    variant = getattr(label.replace("_", joiner), case)()
    assert ENTITY.lookup(f" {variant}\n") == label


def test_a_folded_form_of_two_labels_is_unknown_while_the_exact_ones_are_found():
    aliases = AliasMap.of({"A1": ["m"], "B1": ["M", "Unit"]}, fallback="Z1")
    assert [aliases.lookup(raw) for raw in ("m", "M", " m", "ｍ", "unit", "-m")] == ["A1", "B1", "A1", "A1", "B1", None]


def test_map_is_immutable_picklable_and_keeps_the_file_order(tmp_path):
    aliases = AliasMap.load(written(tmp_path, '\ufeff{"ZEBRA": ["z"], "APPLE": []}'), fallback="OTHER")
    assert aliases.labels == ("ZEBRA", "APPLE", "OTHER") and aliases.fallback == "OTHER"
    with pytest.raises(FrozenInstanceError):
        aliases.labels = ()
    copy = pickle.loads(pickle.dumps(aliases))
    assert copy.labels == aliases.labels and copy.canonical("Z") == ("ZEBRA", True)


def test_identity_map_keeps_target_labels_as_they_are():
    aliases = AliasMap.of(dict.fromkeys(["PER.NAM", "per.nam", "LOC"], ()), fallback="OTHER")
    found = [aliases.lookup(raw) for raw in ("PER.NAM", "per.nam", "Per.Nam", "loc")]
    assert found == ["PER.NAM", "per.nam", None, "LOC"]


# --- loading errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ('{"A": ["x"],\n "B": ["y",]}', 2, "is not valid JSON"),
        ("", 1, "is not valid JSON"),
        ("[" * 100_000, 1, "is not valid JSON"),
        ('["A"]', 1, "holds a list, not an object"),
        ("3", 1, "holds a number, not an object"),
        (b'{"A": ["x"],\n"B": ["\xff"]}', 2, "is not UTF-8 (byte 0xff)"),
        ('{"A": "x"}', 1, "label 'A' has a string where a list of aliases belongs"),
        ('{"A": ["x"],\n"B": {"y": 1}}', 2, "label 'B' has an object where a list"),
        ('{"A": ["x"],\n"B": ["y", null]}', 2, "label 'B' has null among its aliases"),
        ('{"A": ["x"],\n"B": ["y"],\n"A": []}', 3, "label 'A' stands there twice"),
        ('{"A": ["x"],\n"B": ["y",\n"x"]}', 3, "alias 'x' of label 'B' already stands for 'A'"),
        ('{"A": ["B"],\n"B": []}', 2, "alias 'B' of label 'A' already stands for 'B'"),
        ('{"A": ["OTHER"]}', 1, "alias 'OTHER' of label 'A' already stands for 'OTHER'"),
        ('{"A": ["\\u4eba"],\n"B": ["人"]}', 2, "alias '人' of label 'B' already stands for 'A'"),
        ('{"A": [],\n"": []}', 2, "label '' is empty"),
        ('{"A": [],\n"B": [" "]}', 2, "label 'B' has an empty alias"),
        ('{"A\\nB": []}', 1, "line end or another control character"),
        ('{"A\\ud800": []}', 1, "control character"),
        ('{" A": []}', 1, "label ' A' has blanks around it"),
    ],
)
def test_broken_map_is_refused_with_file_line_and_advice(tmp_path, content, line, words):
    path = written(tmp_path, content)
    with pytest.raises(UserError) as caught:
        AliasMap.load(path, fallback="OTHER")
    message = str(caught.value)
    assert f"{path}:{line}: " in message and words in message and message.endswith(".")


def test_all_problems_of_a_map_are_listed_but_no_more_than_twenty(tmp_path):
    path = written(tmp_path, json.dumps({"A": ["x", 1], "B": ["x", " "], "C": None}, indent=1))
    with pytest.raises(UserError) as caught:
        AliasMap.load(path, fallback="OTHER")
    assert str(caught.value).count(str(path)) == 4
    path = written(tmp_path, json.dumps({"A": list(range(100))}))
    with pytest.raises(UserError, match="the first 20 problems") as caught:
        AliasMap.load(path, fallback="OTHER")
    assert str(caught.value).count("among its aliases") == 20


def test_missing_map_is_named_with_what_it_looks_like(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: does not exist\. .*CANONICAL"):
        AliasMap.load(str(tmp_path / "none.json"), fallback="OTHER")


def test_map_from_code_refuses_the_same_faults():
    with pytest.raises(UserError, match="^types: alias 'x' of label 'B' already stands for 'A'"):
        AliasMap.of({"A": ["x"], "B": ["x"]}, fallback="OTHER", source="types")
    with pytest.raises(UserError, match="has a string where a list"):
        AliasMap.of({"A": "xyz"}, fallback="OTHER")


def test_maps_sharing_a_canonical_name_are_refused_naming_it_and_both_files():
    entity = AliasMap.of({"TIME": [], "A": ["noun"]}, fallback="OTHER", source="e.json")
    pos = AliasMap.of({"TIME": [], "NOUN": ["noun"]}, fallback="WORD", source="p.json")
    with pytest.raises(UserError, match="^p.json: 'TIME' is a canonical name in e.json too"):
        check_maps(entity, pos)
    check_maps(entity, AliasMap.of({"NOUN": ["TIME", "noun"]}, fallback="WORD"))  # aliases may stand in both


# --- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "extension", "expected"),
    [
        (["PER", "LOC"], ["PERSON", "NOUN"], ([], [])),
        (["PER", "PERSON"], ["PERSON", "NOUN", "PERSON"], (["PERSON"], [])),
        (["Person", "LOC"], ["PERSON", "NOUN"], ([], ["PERSON"])),
        (["Person", "PERSON"], ["PERSON"], (["PERSON"], [])),
        (["PER"], ["X_PER", "O"], (["O"], [])),
        ([], [], ([], [])),
    ],
)
def test_clashes_between_targets_and_extension_labels(targets, extension, expected):
    assert clashes(targets, iter(extension)) == expected


@given(st.lists(names), st.lists(names))
def test_clashes_are_exactly_the_shared_names(targets, extension):
    equal, alike = clashes(targets, extension)
    assert set(equal) == set(extension) & {*targets, "O"}
    assert all(case_twins(label, [*targets, "O"]) for label in alike) and not set(equal) & set(alike)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("O\nPER\nLOC\n", ["PER", "LOC"]),
        ("\ufeffO\r\nPER.NAM\r\n\r\n  LOC\t\r\n\n\n", ["PER.NAM", "LOC"]),
        ("O\nその他の組織名", ["その他の組織名"]),
    ],
)
def test_target_labels_are_read_in_order_without_o(tmp_path, content, labels):
    path = tmp_path / "labels.txt"
    path.write_bytes(content.encode())
    assert read_target_labels(path) == read_target_labels(str(path)) == labels


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ("", [(1, "names no target label")]),
        ("O\n\n", [(2, "names no target label")]),
        ("PER\nLOC\n", [(1, "starts with 'PER', not with O")]),
        ("o\nPER\n", [(1, "starts with 'o', not with O")]),
        ("O\nPER\nLOC\nPER\nO\n", [(4, "repeats 'PER' of line 2"), (5, "repeats 'O' of line 1")]),
        ("O\nPER 12\n", [(2, "'PER 12' has a blank in it")]),
        ("O\nPER\x00\n", [(2, "control character")]),
        (b"O\n\xd6RT\nPER\nPER\n", [(2, "is not UTF-8"), (4, "repeats 'PER'")]),
    ],
)
def test_broken_labels_file_is_refused_naming_every_line(tmp_path, content, problems):
    path = tmp_path / "labels.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        read_target_labels(path)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(problems) and "labels.txt holds O" in lines[-1]
    for line, (number, words) in zip(lines, problems):
        assert line.startswith(f"{path}:{number}: ") and words in line


def test_missing_labels_file_says_what_it_looks_like(tmp_path):
    with pytest.raises(UserError, match=r"labels\.txt: does not exist\. labels\.txt is needed: O in the first line"):
        read_target_labels(tmp_path / "labels.txt")
