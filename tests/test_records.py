"""Sentence records: what a data file may hold, and the one clear message for everything it may not."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines import s1_predict_data, s4_split_data
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import write_jsonl
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.records import read_sentences, read_train

TOKENS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4), min_size=1, max_size=8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train_1000.jsonl"


def entity(start: int, end: int, label: str = "PER", **more) -> dict:
    return {"start": start, "end": end, "entity": label, **more}


def row(*entities: dict, text=("Anna", "met", "Bob"), **more) -> dict:
    return {"text": list(text), "entities": list(entities), **more}


def read(path: Path, rows, **settings) -> list[dict]:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8", newline="\n")
    return list(read_sentences(path, **settings))


def message(path: Path, rows, **settings) -> str:
    with pytest.raises(UserError) as error:
        read(path, rows, **settings)
    return str(error.value)


# --- ids -----------------------------------------------------------------------------------------------------------

def test_without_an_id_the_line_number_is_the_id(path):
    assert [r["id"] for r in read(path, [row(), "", row()])] == ["1", "3"]


def test_own_ids_are_kept_as_text(path):
    assert [r["id"] for r in read(path, [row(id="a"), row(id=7), row(id="7-x"), row(id=" ")])] == ["a", "7", "7-x", " "]


@pytest.mark.parametrize("rows, line, words", [
    ([row(id="a"), row(id="b"), row(id="a")], 3, "'a' stands in line 1"),
    ([row(id=7), row(id="7")], 2, "'7' stands in line 1"),
    ([row(id="2"), row()], 2, "'2' stands in line 1"),  # a line number may not meet an id of the file's own
    ([row(id=None)], 1, "None"), ([row(id=1.5)], 1, "1.5"), ([row(id=True)], 1, "True"), ([row(id="")], 1, "''"),
    ([row(id=["a"])], 1, "['a']"),
])
def test_ids_are_unique_texts_or_whole_numbers(path, rows, line, words):
    text = message(path, rows)
    assert text.startswith(f"{path}:{line}: id ") and words in text


def test_no_id_may_be_that_of_a_synthetic_sentence(tmp_path):
    paths = RunPaths(tmp_path, "d", "GLM4")
    write_jsonl(paths.train, [row(id="a-s1"), row(id="b"), row(id="b-s"), row(id="c-s2")])
    assert len(list(read_train(paths))) == 4
    write_jsonl(paths.train, [row(id="a-s1"), row(id="a")])
    with pytest.raises(UserError, match="'a-s1' is also that of a synthetic sentence made from 'a'"):
        list(read_train(paths))


# --- what a record holds -------------------------------------------------------------------------------------------

@given(st.lists(TOKENS, min_size=1, max_size=4), st.data())
def test_good_records_come_back_unchanged(tmp_path_factory, texts, data):
    rows = []
    for n, tokens in enumerate(texts):
        start = data.draw(st.integers(0, len(tokens) - 1))
        end = data.draw(st.integers(start + 1, len(tokens)))
        whole = entity(0, len(tokens), "ORG", text=tokens)
        rows.append(row(entity(start, end, text=tokens[start:end]), whole, text=tokens, id=f"n{n}", extra={"a": [1]}))
    path = tmp_path_factory.mktemp("rows") / "train_1000.jsonl"
    write_jsonl(path, rows)
    assert list(read_sentences(path)) == rows


def test_tokens_may_be_white_space_and_line_separators(path):
    tokens = [" ", "\u2028", "\x85", "\r", "\n", "a\rb", "\u3000", "\ufffd\ufffd"]
    found = read(path, [row(entity(0, 8, text=tokens), text=tokens)])
    assert found[0]["text"] == tokens and found[0]["entities"][0]["text"] == tokens


def test_nested_crossing_and_repeated_spans_are_kept(path):
    entities = [entity(0, 3, "ORG"), entity(0, 1), entity(1, 3), entity(0, 2), entity(0, 1, "LOC")]
    assert read(path, [row(*entities)])[0]["entities"] == entities


@pytest.mark.parametrize("bad, words", [
    ({"entities": []}, ["'text'", "None"]),
    ({"text": "Anna", "entities": []}, ["'text'", "'Anna'"]),
    ({"text": [], "entities": []}, ["'text'", "at least one token"]),
    ({"text": ["x"] * 40 + [""], "entities": []}, ["token 41 is ''"]),
    ({"text": ["x", 3], "entities": []}, ["token 2 is 3"]),
    ({"text": ["x"]}, ["'entities' must be a list", "None"]),
    ({"text": ["x"], "entities": {"start": 0}}, ["'entities' must be a list"]),
    (row("PER"), ["entity 1", "'PER'"]),
    (row(entity(0, 1), entity(2, 4)), ["entity 2", "from token 2 to 4", "3 tokens"]),
    (row(entity(-1, 1)), ["from token -1 to 1"]),
    (row(entity(2, 2)), ["from token 2 to 2"]),
    (row(entity(2, 1)), ["from token 2 to 1"]),
    (row(entity("0", 1)), ["whole numbers", "'0'"]),
    (row(entity(0, True)), ["whole numbers", "True"]),
    (row({"start": 0, "entity": "PER"}), ["whole numbers", "None"]),
    (row(entity(0, 1, text=["anna"])), ["['anna']", "['Anna']"]),
    (row(entity(0, 2, text="Anna met")), ["'Anna met'", "['Anna', 'met']"]),
    (row(entity(0, 1, "")), ["needs a label"]),
    (row({"start": 0, "end": 1}), ["needs a label", "None"]),
    (row(entity(0, 1, "O")), ["'O'", "no entity"]),
    (row(entity(0, 1, "MISC")), ["'MISC'", "not in labels.txt"]),
])
def test_a_bad_record_is_one_line_with_file_line_and_value(path, bad, words):
    text = message(path, [row(), bad], targets=["PER", "ORG", "LOC"])
    assert text.startswith(f"{path}:2: ") and "\n" not in text and len(text) < 300
    assert all(word in text for word in words), text


def test_line_ends_in_values_do_not_break_the_message(path):
    assert "\n" not in message(path, [row(entity(0, 1, text=["a\nb\u2028"])), ][:1])
    assert message(path, [row(entity(0, 1, "A\nB"))], targets=["PER"]).count("\n") == 0


def test_all_problems_of_a_file_are_listed_broken_lines_too(path):
    rows = [row(), '{"text": [', row(entity(0, 9), entity(1, 1)), row(text=[]), row(id="1")]
    found = message(path, rows).splitlines()
    assert [line.removeprefix(f"{path}:")[:2] for line in found] == ["2:", "3:", "3:", "4:", "5:"]


def test_the_first_twenty_problems_are_listed(path):
    found = message(path, [row(entity(0, 9))] * 30).splitlines()
    assert len(found) == 21 and found[19].startswith(f"{path}:20:") and "20" in found[20]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_data_set_is_an_error(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match="holds no sentence"):
        list(read_sentences(path))
    assert list(read_sentences(path, may_be_empty=True)) == []


def test_a_missing_data_file_says_what_makes_it(tmp_path):
    (tmp_path / "weibo").mkdir()
    with pytest.raises(UserError, match=r"train_1000\.jsonl: does not exist\. .*s0_prepare_data\.py .*--train=YOUR_FILE"):
        list(read_train(RunPaths(tmp_path, "weibo", "GLM4")))


def test_a_missing_data_set_names_those_that_exist(tmp_path):
    write_jsonl(tmp_path / "mine" / "train_1000.jsonl", [row()])
    (tmp_path / "no_data_set").mkdir()
    with pytest.raises(UserError) as error:
        s4_split_data.main(cmd_args=False, file_dir=str(tmp_path), file_name="theirs")
    assert "Known here: mine." in str(error.value) and "s0_prepare_data.py" in str(error.value)


def test_labels_of_the_training_file_are_checked_against_labels_txt(tmp_path):
    paths = RunPaths(tmp_path, "d", "GLM4")
    write_jsonl(paths.train, [row(entity(0, 1)), row(entity(0, 1, "GPE"))])
    assert len(list(read_train(paths))) == 2
    paths.labels.write_text("O\nPER\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train_1000\.jsonl:2: .*'GPE'.*not in labels\.txt"):
        list(read_train(paths))


def test_a_step_leaves_everything_as_it_was_when_its_input_is_bad(tmp_path):
    paths = RunPaths(tmp_path, "d", "GLM4")
    write_jsonl(paths.train, [row(entity(0, 1)), row(entity(0, 9))])
    paths.labels.write_text("O\nPER\n", encoding="utf-8")
    write_jsonl(paths.annotation("entity", False), [{"id": "1", "items": []}])
    before = paths.annotation("entity", False).read_bytes()
    with pytest.raises(UserError, match=r"train_1000\.jsonl:2: entity 1 goes from token 0 to 9"):
        s1_predict_data.main(cmd_args=False, file_dir=str(tmp_path), file_name="d", backend="offline")
    assert paths.annotation("entity", False).read_bytes() == before


# --- "label" beside "entities" -------------------------------------------------------------------------------------

def warnings(caplog, path, rows, **settings) -> list[str]:
    with caplog.at_level(logging.WARNING):
        found = read(path, rows, **settings)
    assert [r["entities"] for r in found] == [r["entities"] for r in rows]
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("entities, tags", [
    ([entity(0, 1), entity(2, 3)], "B-PER O B-PER"), ([entity(0, 1), entity(2, 3)], "S-PER O S-PER"),
    ([entity(0, 1), entity(2, 3)], "I-PER O I-PER"), ([entity(0, 3)], "B-PER I-PER E-PER"), ([], "O O O"),
    ([entity(0, 3, "ORG"), entity(0, 1)], "B-ORG I-ORG I-ORG"),  # tags hold one level of nested entities
    ([entity(0, 3, "ORG"), entity(0, 1)], "B-PER O O"),
])
def test_tags_that_agree_are_passed_in_silence(caplog, path, entities, tags):
    assert warnings(caplog, path, [row(*entities, label=tags.split())]) == []


@pytest.mark.parametrize("entities, tags", [
    ([entity(0, 1)], "O O O"), ([], "B-PER O O"), ([entity(0, 1)], "B-LOC O O"), ([entity(0, 2)], "B-PER O O"),
    ([entity(0, 2, "ORG"), entity(0, 1), entity(2, 3)], "B-ORG I-ORG O"),  # nesting does not explain the third
    ([entity(0, 3, "ORG"), entity(0, 1)], "O O O"), ([entity(0, 1)], "B-PER O"), ([entity(0, 1)], ""),
])
def test_where_tags_disagree_the_entities_win_and_the_line_is_named(caplog, path, entities, tags):
    found = warnings(caplog, path, [row(), row(*entities, label=tags.split())])
    assert len(found) == 1 and found[0].startswith(f"{path}:2: ") and "entities are used" in found[0]


@pytest.mark.parametrize("label", ["B-PER O O", None, [1, 2, 3], [None] * 3, {"a": 1}])
def test_a_label_of_another_kind_is_a_warning_too(caplog, path, label):
    assert len(warnings(caplog, path, [row(label=label)])) == 1


def test_many_disagreeing_lines_do_not_bury_everything_else(caplog, path):
    found = warnings(caplog, path, [row(label=["B-PER", "O", "O"])] * 50)
    assert len(found) == 21 and "30 more lines" in found[-1]


def test_a_later_pass_does_not_repeat_the_warnings(caplog, path):
    assert warnings(caplog, path, [row(label=["B-PER", "O", "O"])], again=True) == []
