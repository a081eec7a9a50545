"""The offline backend: replies, their format, alignment to the tokens, purity, and work without network or cache."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syn_pipelines.utils.llm import Request
from syn_pipelines.utils.llm.offline import EMITTED_ENTITY_TYPES, EMITTED_POS_TAGS, LANGUAGES, OfflineBackend
from syn_pipelines.utils.llm.offline import templates as data
from syn_pipelines.utils.llm.offline.explain import template_slots, type_category

ROOT = Path(__file__).parents[1]
TEXTS = {
    "zh": "昨天赵新民和王老师在浙江大学门口花了25.5元买3杯奶茶，妈妈和朋友们说第二杯半价😀 http://t.cn/abc @小明",
    "en": "On July 4 , 2004 Mr. John F. Smith of Acme Corp. paid $ 3.5 million to the Japanese band in New York .",
    "ja": "2003年3月に株式会社ソニーがOASYSを東京で発売した。",
    "ko": "삼성전자 는 2003 년 서울 에서 Galaxy 를 발표했다 .",
}
ENTITIES = {
    "zh": [(2, 5, "PER.NAM"), (10, 14, "ORG.NAM"), (29, 31, "PER.NOM")],
    "en": [(5, 8, "PER"), (9, 11, "ORG"), (21, 23, "LOC")],
    "ja": [(12, 15, "法人名"), (16, 21, "製品名")],
    "ko": [(0, 1, "ORG"), (4, 5, "UNSEEN-TYPE")],
}
ODD = ["\ufffd\ufffd", "\ufffd", " ", "\u3000", "\t", "\r", "\n", "\u2028", "👩\u200d👧", "e\u0301", "İ", "a b", " x",
       "北京", "北", "京", "12", "年", "Mr.", "don't", "U.S.", "カ", "ー", "한국", "々", "{e}",
       "'", '"', "\\", "们", "王", "%", "@", "#", "$"]  # fmt: skip
TOKENS = st.lists(st.one_of(st.sampled_from(ODD), st.text(min_size=1, max_size=4)), min_size=1, max_size=12)


def make_record(lang: str, tokens: list[str] | None = None, spans=None, dense: bool | None = None) -> dict:
    dense = lang in ("zh", "ja") if dense is None else dense
    if tokens is None:
        tokens = list(TEXTS[lang]) if dense else TEXTS[lang].split()
        spans = ENTITIES[lang]
    entities = [{"start": s, "end": e, "entity": label, "text": tokens[s:e]} for s, e, label in spans or ()]
    return {"tokens": tokens, "dense": dense, "lang": lang, "entities": entities}


def ask(task: str, record: dict, *, seed: int = 0, temperature: float = 0.0):
    request = Request("r", (), 8, temperature=temperature, seed=seed, task=task, record=record)
    (reply,) = OfflineBackend().generate([request])
    assert (reply.id, reply.finish_reason, reply.error) == ("r", "stop", "")
    return reply.text if task == "explain" else json.loads(reply.text)


def pairs(record: dict) -> set[tuple[str, str]]:
    return {(item["entity"], item["type"]) for item in ask("entity", record)}


def surfaces(record: dict) -> list[str]:
    joiner = "" if record["dense"] else " "
    return [joiner.join(entity["text"]) for entity in record["entities"]]


def test_chinese_entities_cover_names_roles_times_and_amounts():
    assert pairs(make_record("zh")) >= {
        ("昨天", "时间"), ("赵新民", "人名"), ("王老师", "人名"), ("浙江大学", "机构名"), ("浙江", "地名"),
        ("门口", "场所"), ("25.5元", "金额"), ("3杯", "数量"), ("妈妈", "亲属称谓"), ("朋友们", "称谓"),
        ("http://t.cn/abc", "网址"), ("@小明", "用户名"),
    }  # fmt: skip


def test_english_entities_cover_names_dates_and_money():
    assert pairs(make_record("en")) >= {
        ("July 4 , 2004", "date"), ("John F. Smith", "person"), ("Acme Corp.", "organization"),
        ("$ 3.5 million", "money"),
        ("Japanese", "nationality"), ("New York", "location"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The album was recorded by Mary Jones .", {("Mary Jones", "person")}),
        ("Yesterday we met President Ana Kovac .", {("Yesterday", "date"), ("Ana Kovac", "person")}),
        ("May I go to Belgium in May 2003 ?", {("Belgium", "country"), ("May 2003", "date")}),
        ("He crossed the Elbe River near Tangermunde .", {("Elbe River", "location"), ("Tangermunde", "location")}),
        ("I think this is it .", set()),
        ("She joined the Osc-Dis team .", {("Osc-Dis", "proper name")}),
    ],
)
def test_english_names_are_runs_of_capitals_typed_by_what_surrounds_them(sentence: str, expected: set):
    assert pairs(make_record("en", sentence.split())) == expected


def test_japanese_and_korean_entities_are_character_runs_only():
    assert pairs(make_record("ja")) == {("2003", "数字"), ("3", "数字"), ("ソニー", "カタカナ語"), ("OASYS", "英字語")}
    assert pairs(make_record("ko")) == {("2003", "숫자"), ("Galaxy", "로마자어")}


def test_chinese_words_carry_the_raw_tags_of_the_tagger():
    words = ask("pos", make_record("zh", list("我在北京吃饭。")))
    tagged = [(item["word"], item["pos"]) for item in words]
    assert tagged == [("我", "r"), ("在", "p"), ("北京", "ns"), ("吃饭", "v"), ("。", "w")]


def test_english_words_are_the_tokens_with_penn_tags():
    record = make_record("en", "I do n't like Wal-Mart 's 3.5 % offer , Mr. O'Neil !".split())
    items = ask("pos", record)
    assert [item["word"] for item in items] == record["tokens"]
    tags = {item["word"]: item["pos"] for item in items}
    assert (tags["I"], tags["3.5"], tags["Mr."], tags[","]) == ("PRP", "CD", "NNP", ",")


@pytest.mark.parametrize("lang", LANGUAGES)
@given(tokens=TOKENS, dense=st.booleans())
@settings(deadline=None, max_examples=60)
def test_words_join_to_the_sentence_and_every_item_lies_on_token_boundaries(lang: str, tokens: list[str], dense: bool):
    record = make_record(lang, tokens, dense=dense)
    items = ask("pos", record)
    assert "".join("".join(item["word"].split()) for item in items) == "".join("".join(tokens).split())
    assert {item["pos"] for item in items} <= EMITTED_POS_TAGS[lang]
    joiner = "" if dense else " "
    spans = {joiner.join(tokens[i:j]) for i in range(len(tokens)) for j in range(i + 1, len(tokens) + 1)}
    assert {item["word"] for item in items} <= spans
    entities = ask("entity", record)
    assert {item["entity"] for item in entities} <= spans
    assert {item["type"] for item in entities} <= EMITTED_ENTITY_TYPES[lang]
    assert len({(item["entity"], item["type"]) for item in entities}) == len(entities)


@pytest.mark.parametrize("lang", LANGUAGES)
@given(tokens=TOKENS, seed=st.integers(), temperature=st.sampled_from([0.0, 0.8]))
@settings(deadline=None, max_examples=40)
def test_explanations_hold_the_entity_unless_it_cannot_be_printed(lang: str, tokens, seed, temperature):
    record = make_record(lang, tokens, [(0, len(tokens), "MISC")])
    text = ask("explain", record, seed=seed, temperature=temperature)
    (surface,) = surfaces(record)
    usable = bool(surface.strip()) and surface.isprintable()
    assert bool(text) == usable
    assert not usable or (surface in text and text.endswith((".", "!", "?", "。", "！", "？")))


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("seed", range(8))
def test_explanations_are_prose_about_each_target_entity(lang: str, seed: int):
    record = make_record(lang)
    text = ask("explain", record, seed=seed, temperature=0.8)
    assert all(surface in text for surface in surfaces(record))
    assert text[-1] in ".!?。！？"
    assert not any(mark in text for mark in "\n*{}|`") and "".join(record["tokens"]) not in text


def test_at_most_four_entities_are_explained():
    tokens = [f"Name{i}" for i in range(6)]
    text = ask("explain", make_record("en", tokens, [(i, i + 1, "PER") for i in range(6)]))
    assert [name in text for name in tokens] == [True] * 4 + [False] * 2


def test_explanations_vary_with_the_seed_only_when_sampling():
    record = make_record("zh")
    assert len({ask("explain", record, seed=seed, temperature=0.8) for seed in range(20)}) > 15
    assert len({ask("explain", record, seed=seed) for seed in range(20)}) == 1


def test_one_seed_for_all_sentences_does_not_repeat_the_templates():
    spans = [(0, 2, "PER")]
    texts = {ask("explain", make_record("zh", list(f"小明第{i}次来"), spans), seed=42, temperature=1.0) for i in range(20)}
    assert len(texts) > 15


def test_replies_do_not_depend_on_the_order_of_requests():
    requests = [
        Request(f"{lang}-{task}-{seed}", (), 8, temperature=0.8, seed=seed, task=task, record=make_record(lang))
        for lang in LANGUAGES for task in ("entity", "pos", "explain") for seed in (1, 2)
    ]  # fmt: skip
    shuffled = random.Random(0).sample(requests, len(requests))
    backend = OfflineBackend()
    assert [reply.id for reply in backend.generate(shuffled)] == [request.id for request in shuffled]
    assert {r.id: r for r in backend.generate(requests)} == {r.id: r for r in OfflineBackend().generate(iter(shuffled))}


def test_replies_stream_one_by_one():
    asked = []

    def requests():
        for number in range(3):
            asked.append(number)
            yield Request(str(number), (), 8, task="pos", record=make_record("ja"))

    replies = OfflineBackend().generate(requests())
    assert next(replies).id == "0"
    assert asked == [0]


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        (None, make_record("zh"), "task is None"),
        ("summary", make_record("zh"), "'summary'"),
        ("pos", None, "no record"),
        ("pos", {"tokens": [], "dense": True}, "lacks lang, entities"),
        ("pos", {**make_record("zh"), "lang": "fr"}, "'fr'.*zh, en, ja, ko"),
    ],
)
def test_requests_it_cannot_answer_come_back_as_errors(task, record, message: str):
    fine = Request("good", (), 8, task="pos", record=make_record("en"))
    bad, good = OfflineBackend().generate([Request("bad", (), 8, task=task, record=record), fine])
    assert (bad.id, bad.text, bad.finish_reason, good.finish_reason) == ("bad", "", "error", "stop")
    assert re.search(message, bad.error)


def test_documented_tags_cover_the_whole_tagger():
    from jieba.posseg import POSTokenizer, char_state_tab_P

    from syn_pipelines.utils.llm.offline.zh import load_tagger

    tagger = load_tagger()
    assert isinstance(tagger, POSTokenizer)
    states = {tag for states in char_state_tab_P.values() for _, tag in states}
    assert set(tagger.word_tag_tab.values()) | states | {"x", "m", "eng"} <= EMITTED_POS_TAGS["zh"]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_templates_have_known_slots_enough_variety_and_phrases_for_every_category(lang: str):
    templates = data.TEMPLATES[lang] + data.NAME_TEMPLATES[lang]
    assert len(data.TEMPLATES[lang]) >= (12 if lang in ("zh", "en") else 6)
    assert all("e" in set(template_slots(t)) <= set("ekaxfc") for t in templates)
    assert set(data.KINDS[lang]) == set(data.ABOUT[lang]) == set(data.CATEGORIES) == set(data.TYPE_CATEGORIES)


@pytest.mark.parametrize(
    ("label", "category"),
    [("PER.NAM", "person"), ("PER.NOM", "people"), ("LOC", "place"), ("B_GPE", "country"), ("人名", "person"),
     ("MISC", "other"), ("Work_of_Art", "work"), ("GENRE", "work"), ("ORG.NOM", "organization"),
     ("法人名", "organization"), ("Zebra", "other")],
)  # fmt: skip
def test_type_names_of_common_data_sets_have_a_category(label: str, category: str):
    assert type_category(label) == category


SANDBOXED = """
import json, sys
def refuse(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if writes or event in ("socket.connect", "socket.getaddrinfo", "tempfile.mkstemp", "tempfile.mkdtemp"):
        raise PermissionError(f"{event} {args}")
sys.addaudithook(refuse)
from syn_pipelines.utils.llm import Request
from syn_pipelines.utils.llm.offline import OfflineBackend
records = json.loads(sys.stdin.read())
requests = [Request(f"{i}{task}", (), 8, temperature=1.0, seed=7, task=task, record=record)
            for i, record in enumerate(records) for task in ("entity", "pos", "explain")]
sys.stdout.buffer.write(json.dumps([reply.text for reply in OfflineBackend().generate(requests)]).encode())
"""


def test_two_processes_at_once_without_temporary_folder_or_network_give_the_same_and_stay_silent():
    records = [make_record(lang) for lang in LANGUAGES]
    environment = {"TMPDIR": "/nonexistent", "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-B", "-c", SANDBOXED]
    running = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**environment, "PYTHONHASHSEED": str(number)},
        ) for number in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(json.dumps(records)) for process in running]
    expected = [
        reply.text
        for record in records for task in ("entity", "pos", "explain")
        for reply in OfflineBackend().generate([Request("r", (), 8, temperature=1.0, seed=7, task=task, record=record)])
    ]  # fmt: skip
    assert [(json.loads(out) if out else out, err) for out, err in outputs] == [(expected, "")] * 2


def test_importing_the_backend_loads_no_tagger():
    loaded = "[m for m in ('jieba', 'textblob', 'torch') if m in sys.modules]"
    code = f"import sys, syn_pipelines.utils.llm.offline; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
