"""Steps 1 to 3 in-process, with a scripted backend: what is asked, what is published, what stops a step."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from scripted import BAD, FINE, NONE_FOUND, TOY, WRITTEN, call, journal_of, manifest_of, rows_of, write_data_set
from workspace import tree_bytes

import syn_pipelines.s1_predict_data as s1
import syn_pipelines.s2_continous_generation as s2
from syn_pipelines import UserError
from syn_pipelines.utils import questions
from syn_pipelines.utils.llm import Reply
from syn_pipelines.utils.summary import run_script

# --- asking and publishing -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("backwards", [False, True])
def test_each_sentence_is_asked_once_and_published_in_input_order(folder, use, backwards):
    backend = use(FINE, backwards=backwards)
    summary = call(s1, folder)
    assert sorted(backend.asked_ids) == ["1", "2", "3", "4", "5"]
    rows = rows_of(folder)
    assert [row["id"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [" ".join(row["text"]) for row in rows] == [text for text, _ in TOY]
    assert rows[2] == {"id": "3", "text": TOY[2][0].split(), "reply": FINE["3"],
                       "items": [{"entity": "Acme", "type": "Firma "}], "status": "ok", "reason": ""}
    assert manifest_of(folder)["complete"] is True and not summary.warnings and not summary.up_to_date


def test_the_order_of_completion_leaves_no_trace_in_the_files(folder, use):
    use(FINE, backwards=False)
    call(s1, folder)
    first = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run")
    use(FINE, backwards=True)
    call(s1, folder)
    assert tree_bytes(folder / "run") == first


def test_a_prompt_holds_its_sentence_verbatim_and_no_other_one(tmp_path, use):
    texts = ["Say \"hi\" {{sentence}} {{entities}} \\1 now .", "A\u2028B tab\there .", "Plain words stand here ."]
    folder = write_data_set(tmp_path, [(text, []) for text in texts])
    backend = use(dict.fromkeys("123", NONE_FOUND))
    call(s1, folder, lang="en", dense_lang="0")
    for number, request in enumerate(backend.asked):
        (message,) = request.messages
        assert message["role"] == "user"
        assert [text in message["content"] for text in texts] == [n == number for n in range(3)]


def test_dense_sentences_are_joined_without_blanks_in_the_prompt(tmp_path, use):
    folder = write_data_set(tmp_path, [("我 们 去 北 京 。", [(3, 5, "LOC")])])
    backend = use({"1": NONE_FOUND, "1#1": "北京是中国的首都。"})
    call(s1, folder)
    call(s2, folder)
    assert all("我们去北京。" in request.messages[0]["content"] for request in backend.asked)
    assert "北京 (LOC)" in backend.asked[1].messages[0]["content"]
    assert rows_of(folder, "train_1000_synthetic")[0]["text"] == list("北京是中国的首都。")


def test_requests_carry_their_own_seed_whatever_the_order_or_batch(folder, use):
    seeds = []
    for flags in ({}, {"batch_size": 1}, {"skip": 3}, {"seed": 7}):
        backend = use(FINE, backwards=bool(flags))
        call(s1, folder, temperature=0.5, overwrite=True, **flags)
        seeds.append({request.id: request.seed for request in backend.asked})
    assert len(set(seeds[0].values())) == 5
    assert seeds[1] == seeds[0] and seeds[2].items() <= seeds[0].items()
    assert not set(seeds[3].values()) & set(seeds[0].values())


def test_duplicate_sentences_are_asked_by_id_and_may_be_answered_otherwise(tmp_path, use):
    folder = write_data_set(tmp_path, [(*TOY[0], "b"), (*TOY[0], "a"), (*TOY[0], "007")])
    backend = use({"a": '[["Alice", "A"]]', "b": '[{"entity": "Alice", "type": "B"}]', "007": NONE_FOUND})
    call(s1, folder)
    assert backend.asked_ids == ["b", "a", "007"]
    assert [row["id"] for row in rows_of(folder)] == ["b", "a", "007"]
    assert [row["items"][0]["type"] for row in rows_of(folder)[:2]] == ["B", "A"]


# --- replies of no use -----------------------------------------------------------------------------------------------

def test_rejected_and_failed_rows_stay_with_no_items_and_a_warning(folder, use):
    use(BAD)
    summary = call(s1, folder)
    rows = rows_of(folder)
    assert [row["status"] for row in rows] == ["ok", "rejected", "failed", "rejected", "ok"]
    assert [row["items"] for row in rows[1:4]] == [[], [], []]
    assert rows[1]["reply"] == "I cannot do that." and rows[1]["reason"] == "no_json"
    assert rows[2]["reason"] == "timeout: 30 s" and rows[3]["reason"] == "too_long: 900 of 512 tokens"
    assert any("2 replies could not be used and 1 requests failed" in w and "--retry_failed" in w for w in summary.warnings)
    manifest = manifest_of(folder)
    assert manifest["complete"] is True
    assert manifest["counts"] == {"sentences": 5, "ok": 2, "rejected": 2, "failed": 1,
                                  "reasons": {"no_json": 1, "timeout": 1, "too_long": 1}}


def test_replies_of_no_use_end_the_command_with_a_warning_and_without_an_error(folder, use, caplog):
    use(BAD)
    run_script(lambda: call(s1, folder))  # would raise SystemExit for any exit code but 0
    assert "Ask them again with: python syn_pipelines/s1_predict_data.py" in caplog.text


def test_retry_failed_asks_exactly_the_rejected_and_failed_ones_with_another_seed(folder, use):
    first = use(BAD)
    call(s1, folder, limit=4)
    again = use({**FINE, "4": "no"})
    call(s1, folder, retry_failed=True)
    assert again.asked_ids == ["2", "3", "4"]
    assert not {r.seed for r in again.asked} & {r.seed for r in first.asked}
    assert [row["status"] for row in rows_of(folder)] == ["ok", "ok", "ok", "rejected"]
    last = use(FINE)
    call(s1, folder)
    assert last.asked_ids == ["5"]
    assert manifest_of(folder)["counts"] == {"sentences": 5, "ok": 4, "rejected": 1, "reasons": {"no_json": 1}}


def test_retry_failed_where_all_is_well_asks_nothing(folder, use):
    use(FINE)
    call(s1, folder)
    backend = use({})
    assert call(s1, folder, retry_failed=True).up_to_date and not backend.asked


def test_halves_of_surrogate_pairs_and_control_characters_do_not_break_the_files(folder, use):
    answers = {"1": 'a\ud800 [{"entity": "Alice\udc00", "type": "PER\x00SON"}]', "2": "\ud83d\ude00 and NUL \x00",
               "3": '[{"entity": "\\ud800", "type": "X"}]', "4": Reply("4", "", "error", error="bad \udfff"),
               "5": "line\u2028\u2029\x85\r\n\x0b\x1cend"}
    use(answers)
    call(s1, folder)
    rows = rows_of(folder)
    assert len(rows) == 5
    assert rows[0]["reply"].startswith("a\ufffd [") and rows[1]["reply"] == "\U0001f600 and NUL \x00"
    assert rows[3]["reason"] == "bad \ufffd" and rows[4]["reply"] == answers["5"]
    before = tree_bytes(folder / "run")
    backend = use({})
    assert call(s1, folder).up_to_date and not backend.asked
    assert tree_bytes(folder / "run") == before


def test_a_reply_cut_at_the_limit_keeps_its_whole_items(folder, use):
    use({**FINE, "1": Reply("1", '[{"entity": "Alice", "type": "P"}, {"entity": "Par', "length")})
    call(s1, folder)
    assert rows_of(folder)[0]["items"] == [{"entity": "Alice", "type": "P"}]
    assert rows_of(folder)[0]["status"] == "repaired"


def test_a_backend_that_forgets_a_request_loses_no_record(folder, use, monkeypatch):
    backend = use(FINE)
    generate = backend.generate
    monkeypatch.setattr(backend, "generate", lambda requests: (r for r in generate(requests) if r.id != "3"))
    call(s1, folder)
    assert rows_of(folder)[2]["status"] == "failed" and len(rows_of(folder)) == 5


# --- the fingerprint -------------------------------------------------------------------------------------------------

def other_prompt(monkeypatch):
    load = questions.load_prompt
    for module in (questions, s2):
        monkeypatch.setattr(module, "load_prompt", lambda *args: dataclasses.replace(load(*args), sha256="0" * 64))


@pytest.mark.parametrize("step, name, what", [
    *((s1, "entity_train_1000", what) for what in ("seed", "temperature", "model", "prompt", "input")),
    *((s2, "train_1000_synthetic", what) for what in ("seed", "temperature", "model", "prompt", "input", "top_p"))])
def test_replies_to_other_questions_are_refused_and_left_alone(folder, use, monkeypatch, step, name, what):
    answers = {**FINE, **WRITTEN}
    use(answers)
    call(step, folder)
    before, stored = tree_bytes(folder / "run"), journal_of(folder, name).read_bytes()
    backend = use(answers, model="answers-2" if what == "model" else "answers-1")
    flags = {"seed": {"seed": 43}, "temperature": {"temperature": 0.7}, "top_p": {"top_p": 0.9}}.get(what, {})
    if what == "prompt":
        other_prompt(monkeypatch)
    if what == "input":
        write_data_set(folder.parent, [("Carol visited Paris .", TOY[0][1]), *TOY[1:]])
    with pytest.raises(UserError) as caught:
        call(step, folder, **flags)
    text = str(caught.value)
    assert {"model": "model answers-1 -> answers-2", "seed": "seed 42 -> 43", "prompt": "prompt_sha256 ",
            "input": "input "}.get(what, f"{what} 0") in text
    assert "--overwrite" in text and str(journal_of(folder, name)) in text and "\n" not in text
    assert not backend.asked
    assert (tree_bytes(folder / "run"), journal_of(folder, name).read_bytes()) == (before, stored)
    call(step, folder, overwrite=True, **flags)
    assert backend.asked and backend.checked
    assert call(step, folder, **flags).up_to_date


@pytest.mark.parametrize("flags", [{"batch_size": 1}, {"n_gpu": "0,1"}, {"limit": 1}, {"skip": 4}])
def test_what_only_shapes_the_speed_is_no_part_of_the_fingerprint(folder, use, flags):
    use(FINE)
    call(s1, folder)
    before = tree_bytes(folder / "run")
    backend = use({})
    assert call(s1, folder, **flags).up_to_date and not backend.asked
    assert tree_bytes(folder / "run") == before


def test_overwrite_looks_at_the_model_before_it_throws_replies_away(folder, use, monkeypatch):
    use(FINE)
    call(s1, folder)
    before = journal_of(folder).read_bytes()

    def fail():
        raise UserError("no such model")

    monkeypatch.setattr(use(FINE), "check", fail)
    with pytest.raises(UserError, match="no such model"):
        call(s1, folder, overwrite=True)
    assert journal_of(folder).read_bytes() == before


def test_a_model_that_could_not_even_be_asked_leaves_the_way_free_for_another(folder, use):
    use({}, model="mistyped", fail_after=0)
    with pytest.raises(RuntimeError):
        call(s1, folder)
    use(FINE)
    assert call(s1, folder).outputs == {str(folder / "run" / "entity_train_1000.jsonl"): 5}


def test_the_two_modes_keep_their_replies_apart(folder, use):
    use(FINE)
    call(s1, folder)
    backend = use(dict.fromkeys("12345", '[{"word": "Alice", "pos": "PROPN"}]'))
    call(s1, folder, mode="pos")
    assert len(backend.asked) == 5
    assert rows_of(folder, "pos_train_1000")[0]["items"] == [{"word": "Alice", "pos": "PROPN"}]
    assert rows_of(folder)[0]["items"][0]["type"] == "PERSON"


def test_nothing_is_asked_when_the_input_is_broken(folder, use):
    path = folder / "train_1000.jsonl"
    path.write_bytes(path.read_bytes() + b"{broken\n")
    backend = use(FINE)
    for step in (s1, s2):
        with pytest.raises(UserError, match=r"train_1000\.jsonl:6: "):
            call(step, folder)
    assert not backend.asked and not (folder / "run" / "entity_train_1000.jsonl").exists()


def test_without_a_model_both_ways_are_named(folder):
    for step in (s1, s2):
        with pytest.raises(UserError, match=r"--model_from_pretrained.*--backend=offline"):
            call(step, folder)
