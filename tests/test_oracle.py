"""Gold entities fed back as the model's reply are all found again, whatever the tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pipeline import SHARED_DATA, run_step, tokens_of_any_kind, write_dataset

from syn_pipelines.tools.oracle import main, measure
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.language import Language


@st.composite
def gold_sentences(draw):
    tokens = draw(tokens_of_any_kind)
    spans = draw(st.lists(st.tuples(st.integers(0, len(tokens) - 1), st.integers(1, 5),
                                    st.sampled_from(["PER", "LOC", "type", "O.1"])), max_size=5))
    return {"id": "1", "text": tokens, "entities": [
        {"start": start, "end": min(start + length, len(tokens)), "entity": label} for start, length, label in spans]}


def one(tokens, *spans):
    return [{"id": "1", "text": tokens, "entities": [{"start": s, "end": e, "entity": label} for s, e, label in spans]}]


@given(st.lists(gold_sentences(), max_size=3), st.booleans())
@example(one([" ", "a", "\u2028"], (0, 3, "PER"), (0, 1, "LOC"), (2, 3, "LOC")), True)
@example(one(["\ufffd\ufffd", "\ufffd"], (0, 1, "PER"), (1, 2, "PER"), (0, 2, "LOC")), True)
@example(one(["İ", "İ", "x"], (1, 3, "PER"), (2, 3, "LOC")), True)
@example(one(["👩\u200d👩\u200d👧", "\u0301", "e"], (0, 1, "PER"), (1, 2, "LOC"), (1, 3, "LOC")), False)
@example(one(["a b", " ", "c"], (0, 1, "PER"), (1, 2, "LOC"), (0, 3, "LOC")), False)
@example(one(["```", "]", "<think>", '"', "\\"], (0, 1, "PER"), (2, 3, "LOC"), (1, 5, "LOC")), False)
@example(one(["null"], (0, 1, "PER")), False)
def test_every_gold_entity_is_found_again(sentences, dense):
    result = measure(sentences, Language(dense, "zh"))
    assert result.found == result.gold
    assert result.as_dict()["share"] == 100.0


def test_spans_beyond_gold_are_counted_and_a_gold_entity_written_twice_counts_once():
    result = measure(one(["a", "b", "a"], (0, 1, "PER"), (0, 1, "PER")), Language(False, "en"))
    assert (result.found.total(), result.gold.total(), result.extra) == (1, 1, 1)
    assert measure([], Language(False, "en")).as_dict()["share"] == 100.0


def test_json_is_one_line_and_the_last_thing_written(tmp_path):
    write_dataset(tmp_path)
    done = run_step("tools.oracle", file_dir=tmp_path, file_name="demo", json=1)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    content = json.loads(done.stdout)
    assert content["found"] == content["gold"] == sum(row["gold"] for row in content["by_label"].values()) > 0
    assert content["share"] == 100.0
    assert content["extra"] >= 0


def test_the_table_has_a_line_a_label_and_one_for_all(tmp_path):
    write_dataset(tmp_path)
    done = run_step("tools.oracle", file_dir=tmp_path, file_name="demo")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[:4]] == ["label", "LOC", "PER", "all"]
    assert all(line[-2:] == ["100.0", "%"] for line in lines[1:4])


def test_bad_data_is_named_with_its_line(tmp_path):
    write_dataset(tmp_path)
    path = tmp_path / "demo" / "train_1000.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"text": []}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"train_1000\.jsonl:13: "):
        main(cmd_args=False, file_dir=str(tmp_path), file_name="demo")


REAL = {"weibo": "weiboNER_2nd_conll.train", "wikigold": "wikigold.conll.txt", "ner_wikipedia_ja": "ner.json"}


@pytest.mark.parametrize("name", REAL)
def test_every_entity_of_real_data_is_found_again(name, tmp_path):
    source = SHARED_DATA / name / REAL[name]
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    assert run_step("s0_prepare_data", file_dir=tmp_path, file_name=name, train=source).returncode == 0
    result = main(cmd_args=False, file_dir=str(tmp_path), file_name=name)
    assert result.found == result.gold
    assert result.gold.total() > 1000
