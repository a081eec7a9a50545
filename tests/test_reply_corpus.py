"""The corpus of replies is read as its rows say; texts that once hung the reader or the filters are done with in time."""

from __future__ import annotations

import json

import pytest
from limits import COMPUTING, no_longer_than
from reply_corpus import ACCENTS, LARGE, ROWS, SEVERAL, read, written_in
from scripted import read_rows, write_data_set
from test_served_steps import run_step

from syn_pipelines.text.filters import REASONS, candidates
from syn_pipelines.text.sentences import split_sentences
from syn_pipelines.text.tokens import tokenize
from syn_pipelines.utils.labels import AliasMap
from syn_pipelines.utils.spans import FOLDED, NOT_IN_TEXT, Grounder, fold

CPU_SECONDS = 60  # many times what the slowest takes; what hangs would take minutes, most of it years


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_read_as_it_says(name):
    row = ROWS[name]
    with no_longer_than(CPU_SECONDS, COMPUTING):
        parsed = read(row.reply, row.task, row.cut)
    assert [tuple(item.values()) for item in parsed.items] == row.items
    assert (parsed.status, parsed.reason, parsed.dropped) == (row.status, row.reason, row.dropped)


def test_the_corpus_holds_every_status_in_every_form():
    assert len(ROWS) >= 80
    assert {(row.task, row.status) for row in ROWS.values()} == {
        (task, status) for task in ("entity", "pos", "inline") for status in ("ok", "repaired", "rejected")}


@pytest.mark.parametrize("name", [name for name in ROWS if name not in LARGE])
def test_every_item_of_a_row_is_written_in_its_reply(name):
    row = ROWS[name]
    for value in {value for pair in row.items for value in pair}:
        assert written_in(value, row.reply), value


@pytest.mark.parametrize("name", [name for name in ROWS if name not in LARGE])
def test_the_same_reply_cut_anywhere_gives_no_item_that_the_whole_does_not_have(name):
    """But for the arrays of which the last one counts, where it is cut off: then an earlier one is the last."""
    row = ROWS[name]
    earlier = {"several arrays, the last one counts": [("北京", "地名")], "echo of the prompt's example": [("实体", "类型")],
               "thinking with a draft in it": [("Lee", "PERSON")], **dict.fromkeys(SEVERAL, [("Ann", "person")])}
    whole = [*row.items, *earlier.get(name, [])]
    if row.status == "rejected" or row.task == "inline":
        return  # half of a reply without items may be one with items: {"words": [..., before its tags
    for length in range(len(row.reply)):
        parsed = read(row.reply[:length], row.task, cut=True)
        assert [pair for item in parsed.items if (pair := tuple(item.values())) not in whole] == [], row.reply[:length]


# --- texts that hung ----------------------------------------------------------------------------------------------

PARAGRAPHS = {
    "thumbs of a skin tone": "好。" + "👍🏻" * 300 + "，他",
    "flags": "好。" + "🇨🇳" * 300 + "，他",
    "thumbs in a number": "3." + "👍🏻" * 300 + "5",
    "thumbs at the end": "好。" + "👍🏻" * 300,
    "full stops with blanks": ". " * 100_000 + "x",
    "asides": "(a). " * 50_000,
    "addresses": "www.a.b! " * 50_000,
    "quoted": "“好。”他说。" * 30_000,
    "digits": "1! " * 100_000,
    "clitics": "a" + "'d" * 100_000,
    "commas at line ends": "a,\n" * 50_000,
    "one word": "a" * 1_000_000,
    "one sign": "。" * 300_000,
    "blanks": " " * 1_000_000,
}
REPLIES = {
    "ends of turns": "</s>" * 100_000,
    "thoughts without an end": "<think " * 200_000,
    "a fence of letters": "```" + "a" * 300_000 + "`",
    "a fence of blanks": "```" + " " * 300_000 + "`",
    "many fences": "```\na\n```\n" * 20_000,
    "blanks after a label": "Note" + " " * 300_000 + "x",
    "many lines": "a\n" * 50_000,
    "stars": "**a" * 30_000,
    "bars": "|" * 300_000 + "x",
    "angles": "<a " * 100_000,
    "brackets": "[](" * 100_000,
    "the source again and again": "小明昨天坐火车去了北京\n" * 10_000,
}


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("name", PARAGRAPHS)
def test_sentences_and_tokens_of_any_text_are_cut_in_time(name, lang):
    with no_longer_than(CPU_SECONDS, COMPUTING):
        sentences = split_sentences(PARAGRAPHS[name], lang)
        tokens = tokenize(PARAGRAPHS[name], dense=False)
    plain = "".join(PARAGRAPHS[name].split())
    assert "".join("".join(sentence.split()) for sentence, _ in sentences) == plain == "".join(tokens)


@pytest.mark.parametrize("name", [*REPLIES, *PARAGRAPHS])
def test_any_explanation_is_filtered_in_time(name):
    reply = {**REPLIES, **PARAGRAPHS}[name]
    with no_longer_than(CPU_SECONDS, COMPUTING):
        found = candidates(reply, source=list("小明昨天坐火车去了北京。"), prompt="续写。", dense=True, lang="zh", cut=False)
    assert all(piece.reason in ("", *REASONS) for piece in found)


@pytest.mark.parametrize(("text", "sentences"), [
    ("太好了！👍🏻👍🏻👍🏻 我们走。", ["太好了！👍🏻👍🏻👍🏻", "我们走。"]),
    ("赢了。🇨🇳🇨🇳", ["赢了。🇨🇳🇨🇳"]),
    ("赢了。🇨🇳🇨🇳他很高兴。", ["赢了。🇨🇳🇨🇳", "他很高兴。"]),
])
def test_emoji_in_a_row_stay_with_the_sentence_before(text, sentences):
    assert [sentence for sentence, finished in split_sentences(text, "zh") if finished] == sentences


def test_a_surface_or_label_of_accents_without_end_is_looked_up_in_time():
    with no_longer_than(CPU_SECONDS, COMPUTING):
        assert Grounder(["a", "b"], True).find(ACCENTS) == ([], NOT_IN_TEXT)
        assert len(fold("É" * 100_000)) == 200_000
        assert AliasMap.of({"PER": []}, fallback="OTHER").canonical(ACCENTS) == ("OTHER", False)
    assert Grounder(["É" * 300, "b"], False).find("é" * 300) == ([(0, 1)], FOLDED)


# --- from a server to the training set ------------------------------------------------------------------------------

SENTENCES = ["Ann Lee joined Acme .", "Bob left Rome .", "Cleo likes tea .", "Dan saw Oslo .", "Eve met Finn .", "Gus ran ."]
ANSWERS = {  # what the server says, what becomes of it
    "Ann": '[{"entity": "Ann Lee", "type": "PERSON"}, {"entity": "Acme", "type": "ORG"}]',  # ok
    "Bob": "```json\n[{'entity': 'Bob', 'type': 'PERSON'}, {'entity': 'Roma', 'type': 'LOC'},]\n```",  # repaired, Roma is not there
    "Cleo": '[{"entity": "Cle", "type": "PERSON"}, {"entity": "", "type": "X"}]',  # ok, but no token and nothing
    "Dan": '[{"entity": "Dan", "type": "PERSON"}, {"entity": "Oslo", "ty',  # repaired: the second item is not completed
    "Eve": "There are no entities.",  # rejected
    "Gus": '[{"entity": "the "Gus"", "type": "PERSON"}]',  # repaired in a way that changes content
}


def test_what_a_repair_gets_wrong_is_dropped_by_the_merge_and_counted(tmp_path):
    pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")
    import pipeline
    from fault_server import FaultServer

    def answer(body: dict) -> str:
        asked = body["messages"][-1]["content"]
        return next((reply for name, reply in ANSWERS.items() if f"{name} " in asked), "hello")  # the step tries the server

    folder = write_data_set(tmp_path, [(text, []) for text in SENTENCES], "served")
    with FaultServer(answer=answer) as server:
        code, said = run_step(folder, server.url, "run")
    assert code == 0, said
    rows = read_rows(folder / "run" / "entity_train_1000.jsonl")
    assert [row["status"] for row in rows] == ["ok", "repaired", "ok", "repaired", "rejected", "repaired"]
    counts = pipeline.manifest(folder / "run" / "entity_train_1000.jsonl")["counts"]
    assert (counts["sentences"], counts["ok"], counts["repaired"], counts["rejected"]) == (6, 2, 3, 1)
    assert counts["reasons"] == {"no_json": 1}
    for step, flags in (("s4_split_data", {}), ("s5_merge_data", {"is_syn": 0})):
        done = pipeline.run_step(step, file_dir=tmp_path, file_name="served", save_type_name="run", **flags)
        assert done.returncode == 0, done.stderr
    merged = folder / "run" / "1000" / "train_1000_fusion.jsonl"
    found = [[" ".join(entity["text"]) for entity in row["entities"]] for row in read_rows(merged)]
    assert found == [["Ann Lee", "Acme"], ["Bob"], [], ["Dan"], [], []]
    counts = pipeline.manifest(merged)["counts"]
    assert counts["annotations"]["entity repaired"] == 3 and counts["annotations"]["entity rejected"] == 1
    items = sum(len(row["items"]) for row in rows)
    assert counts["items"] == {"entity": items} and counts["placed"] == {"entity": 4}
    assert counts["not_placed"] == {"entity": {"not_in_text": 2, "not_on_token_boundary": 1, "empty": 1}}
    assert items == counts["placed"]["entity"] + sum(counts["not_placed"]["entity"].values())
    accounts = json.loads(read_log(folder)[-1])["accounts"]
    assert "not_in_text" in json.dumps(accounts)


def read_log(folder) -> list[str]:
    return (folder / "run" / "run.log.jsonl").read_text(encoding="utf-8").splitlines()
