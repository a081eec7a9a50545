"""Steps 1 to 3 in-process, with a scripted backend that keeps what it was asked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import TOY, ScriptedBackend, read_rows, write_data_set, write_rows
from workspace import tree_bytes

import syn_pipelines.s1_predict_data as s1
import syn_pipelines.s2_continous_generation as s2
import syn_pipelines.s3_predict_syn_data as s3
from syn_pipelines import UserError
from syn_pipelines.utils import annotate
from syn_pipelines.utils.llm import Reply
from syn_pipelines.utils.summary import run_script

NONE_FOUND = "[]"
FINE = {"1": '[{"entity": "Alice", "type": "PERSON"}]', "2": NONE_FOUND, "3": '[{"entity": "Acme", "type": "Firma "}]',
        "4": NONE_FOUND, "5": NONE_FOUND}
WRITTEN = {
    "1#1": "Alice is a teacher from Lyon. Paris was her first stop of the year.",
    "3#1": "Acme sells tools to farmers. Bob keeps their books in order.",
    "4#1": "Paris is where Alice studied once. She still has many friends in that city.",
}
MORE = {
    "1#2": "Her friends call Alice a traveller. They met her near the old station.",
    "3#2": "London is a long ride from home for Bob.",
    "4#2": "Alice took the night train to get there.",
}


@pytest.fixture
def folder(tmp_path):
    return write_data_set(tmp_path)


@pytest.fixture
def use(monkeypatch):
    """use(answers, ...): the steps get this scripted backend from now on."""
    def install(answers, **flags):
        backend = ScriptedBackend(answers, **flags)
        monkeypatch.setattr(annotate, "choose_backend", lambda *args, **kwargs: backend)
        return backend
    return install


def call(step, folder, **flags):
    return step.main(cmd_args=False, file_dir=str(folder.parent), file_name=folder.name, save_type_name="run", **flags)


def rows_of(folder, name="entity_train_1000"):
    return read_rows(folder / "run" / f"{name}.jsonl")


def manifest_of(folder, name="entity_train_1000"):
    return json.loads((folder / "run" / f"{name}.manifest.json").read_text(encoding="utf-8"))


def journal_of(folder, name="entity_train_1000"):
    return folder / "run" / ".journal" / f"{name}.jsonl"


def asked_lines(folder, name="entity_train_1000"):
    return [row["id"] for row in read_rows(journal_of(folder, name))[1:]]


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

BAD = {**FINE, "2": "I cannot do that.", "3": Reply("3", "", "error", error="timeout: 30 s"),
       "4": Reply("4", "", "too_long", error="900 of 512 tokens")}


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


# --- stopping and going on -------------------------------------------------------------------------------------------

def test_an_error_of_the_backend_leaves_what_was_finished(folder, use):
    for finished in "1", "12", "123", "1234":
        backend = use(FINE, fail_after=1)
        with pytest.raises(RuntimeError):
            call(s1, folder)
        assert backend.asked_ids == [finished[-1]]
        assert asked_lines(folder) == list(finished)
        assert not (folder / "run" / "entity_train_1000.jsonl").exists()
    backend = use(FINE)
    call(s1, folder)
    assert backend.asked_ids == ["5"] and len(rows_of(folder)) == 5


def test_an_unknown_request_stops_the_scripted_backend(folder, use):
    use({"1": NONE_FOUND})
    with pytest.raises(KeyError):
        call(s1, folder)
    assert asked_lines(folder) == ["1"]


RUNS = st.lists(st.fixed_dictionaries({
    "limit": st.integers(-1, 3), "skip": st.integers(-1, 4), "fail_after": st.none() | st.integers(0, 3),
    "backwards": st.booleans(), "batch_size": st.integers(1, 3)}), max_size=5)


@pytest.mark.parametrize("step", [s1, s2])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=RUNS)
def test_any_order_of_limited_and_broken_runs_ends_as_one_whole_run(folder, use, step, runs):
    flags = {"num_samples": 2} if step is s2 else {}
    answers = {**BAD, **WRITTEN, **MORE, "3#1": Reply("3#1", "", "error", error="timeout")}
    shutil.rmtree(folder / "run", ignore_errors=True)
    first = use(answers)
    call(step, folder, **flags)
    whole = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run")
    asked = []
    for run in [*runs, {}]:
        choice = {k: run[k] for k in ("limit", "skip", "batch_size") if k in run}
        backend = use(answers, fail_after=run.get("fail_after"), backwards=run.get("backwards", False))
        with contextlib.suppress(RuntimeError):
            call(step, folder, **flags, **choice)
        asked += backend.asked_ids
    assert sorted(asked) == sorted(first.asked_ids)
    assert tree_bytes(folder / "run") == whole


@pytest.mark.parametrize("flags, asked", [
    ({"limit": 2}, "12"), ({"skip": 3}, "45"), ({"skip": 1, "limit": 2}, "23"), ({"limit": 0}, ""),
    ({"skip": 99}, ""), ({"limit": 99}, "12345"), ({"skip": -1, "limit": -1}, "12345"), ({"skip": 0, "limit": 1}, "1")])
def test_limit_and_skip_choose_what_is_asked_now_and_a_later_run_asks_the_rest(folder, use, flags, asked):
    use(FINE)
    call(s1, folder)
    whole = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run")
    backend = use(FINE)
    summary = call(s1, folder, **flags)
    assert "".join(backend.asked_ids) == asked
    assert [row["id"] for row in rows_of(folder)] == list(asked)
    manifest = manifest_of(folder)
    assert manifest["complete"] is (len(asked) == 5)
    assert manifest["counts"].get("not_asked", 0) == 5 - len(asked)
    assert bool(summary.warnings) is (len(asked) < 5)
    backend = use(FINE)
    call(s1, folder)
    assert "".join(backend.asked_ids) == "".join(c for c in "12345" if c not in asked)
    assert tree_bytes(folder / "run") == whole


def test_a_finished_run_run_again_does_nothing_and_says_so(folder, use):
    use(FINE)
    assert "wrote" in str(call(s1, folder))
    before = tree_bytes(folder / "run")
    backend = use({})
    summary = call(s1, folder)
    assert summary.up_to_date and "nothing to do" in str(summary) and not backend.asked
    assert tree_bytes(folder / "run") == before


def test_a_deleted_published_file_is_published_again_without_a_call(folder, use):
    use(BAD)
    call(s1, folder)
    before = tree_bytes(folder / "run")
    for name in before:
        (folder / "run" / name).unlink()
    backend = use({})
    summary = call(s1, folder)
    assert not backend.asked and tree_bytes(folder / "run") == before
    assert not summary.up_to_date and "wrote" in str(summary)


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda p: (p / "entity_train_1000.jsonl").write_bytes(b"")],
                         ids=["deleted", "emptied"])
def test_without_a_journal_the_published_file_serves_as_one(folder, use, damage):
    use(BAD)
    call(s1, folder, limit=4)
    before = tree_bytes(folder / "run")
    damage(folder / "run" / ".journal")
    backend = use({})
    call(s1, folder, limit=4)
    assert not backend.asked and tree_bytes(folder / "run") == before
    backend = use(FINE)
    call(s1, folder)
    assert backend.asked_ids == ["5"]
    backend = use(FINE)
    call(s1, folder, retry_failed=True)
    assert backend.asked_ids == ["2", "3", "4"]


def test_without_a_journal_a_changed_published_file_is_not_trusted_and_not_harmed(folder, use):
    use(FINE)
    call(s1, folder)
    shutil.rmtree(folder / "run" / ".journal")
    path = folder / "run" / "entity_train_1000.jsonl"
    path.write_bytes(path.read_bytes().replace(b"PERSON", b"PATRON"))
    before = path.read_bytes()
    backend = use(FINE)
    with pytest.raises(UserError, match=r"entity_train_1000\.jsonl: the replies .* are gone .*--overwrite"):
        call(s1, folder)
    assert not backend.asked and path.read_bytes() == before
    call(s1, folder, overwrite=True)
    assert len(backend.asked) == 5


def test_without_a_journal_other_settings_are_still_refused(folder, use):
    use(FINE)
    call(s1, folder)
    shutil.rmtree(folder / "run" / ".journal")
    backend = use(FINE)
    for _ in range(2):
        with pytest.raises(UserError, match="seed 42 -> 7"):
            call(s1, folder, seed=7)
    assert not backend.asked


# --- the fingerprint -------------------------------------------------------------------------------------------------

def other_prompt(monkeypatch):
    load = annotate.load_prompt
    for module in (annotate, s2):
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
    assert backend.asked and backend.checked == 1
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


# --- step 2 ----------------------------------------------------------------------------------------------------------

def synthetic(folder):
    return rows_of(folder, "train_1000_synthetic")


def texts_by_id(folder):
    return {row["id"]: " ".join(row["text"]) for row in synthetic(folder)}


def test_s2_asks_about_sentences_with_entities_and_names_them(folder, use):
    backend = use(WRITTEN)
    call(s2, folder)
    assert backend.asked_ids == ["1#1", "3#1", "4#1"]
    content = backend.asked[1].messages[0]["content"]
    assert TOY[2][0] in content and "Bob (PER)\nAcme (ORG)\nLondon (LOC)" in content
    assert TOY[0][0] not in content
    assert [row["id"] for row in synthetic(folder)] == ["1-s1", "1-s2", "3-s1", "3-s2", "4-s1", "4-s2"]
    for row in synthetic(folder):
        assert row["synthetic"] is True and row["source_id"] == row["id"].split("-")[0] and row["entities"] == []
    assert synthetic(folder)[0]["text"] == ["Alice", "is", "a", "teacher", "from", "Lyon", "."]


def test_s2_drops_what_is_no_new_sentence_and_counts_why(folder, use):
    use({"1#1": "Alice visited Paris. Bob works for Acme in London. Alice is a teacher from Lyon. Too short. And then she",
         "3#1": "As an AI language model, I cannot continue this text.",
         "4#1": "Alice is a teacher from Lyon. ALICE is a teacher from Lyon."})
    summary = call(s2, folder)
    assert texts_by_id(folder) == {"1-s2": "Alice is a teacher from Lyon ."}
    manifest = manifest_of(folder, "train_1000_synthetic")
    counts = manifest["counts"]
    assert manifest["complete"] is True
    assert counts["sentences"] == 5 == counts["with entities"] + counts["without entities, not asked"]
    assert counts["replies"] == {"used": 2, "rejected": 1} and sum(counts["replies"].values()) == counts["with entities"]
    assert counts["reply_reasons"] == {"no_usable_sentence": 1}
    assert counts["synthetic_sentences"] == 1
    assert counts["dropped"] == {"copy_of_source": 2, "duplicate": 2, "refusal": 1, "too_short": 1, "unfinished": 1}
    assert any("1 explanations gave no sentence" in warning for warning in summary.warnings)


def test_s2_writes_no_sentence_of_the_data_set_whoever_it_was_asked_about(folder, use):
    use({**WRITTEN, "1#1": "The weather was fine again. Nothing happened here today."})
    call(s2, folder)
    have = {text for text, _ in TOY}
    assert not have & set(texts_by_id(folder).values())


def test_s2_with_two_samples_extends_what_one_gave(folder, use):
    use(WRITTEN)
    call(s2, folder)
    first = texts_by_id(folder)
    backend = use(MORE)
    call(s2, folder, num_samples=2)
    assert backend.asked_ids == ["1#2", "3#2", "4#2"]
    both = texts_by_id(folder)
    assert first.items() <= both.items() and len(both) == len(first) + 4
    extended = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run")
    use({**WRITTEN, **MORE})
    call(s2, folder, num_samples=2)
    assert tree_bytes(folder / "run") == extended


def test_s2_ids_keep_their_text_when_a_useless_reply_is_asked_for_again(folder, use):
    use({**WRITTEN, **MORE, "1#1": "Sorry.", "3#1": Reply("3#1", "", "error", error="timeout")})
    call(s2, folder, num_samples=2)
    before = texts_by_id(folder)
    backend = use(WRITTEN)
    call(s2, folder, num_samples=2, retry_failed=True)
    assert backend.asked_ids == ["1#1", "3#1"]
    after = texts_by_id(folder)
    assert before.items() < after.items()
    assert manifest_of(folder, "train_1000_synthetic")["counts"]["replies"] == {"used": 6}


@pytest.mark.parametrize("flags, asked", [({"limit": 2}, ["1#1", "1#2", "3#1", "3#2"]), ({"skip": 2}, ["4#1", "4#2"]),
                                          ({"skip": 1, "limit": 1}, ["3#1", "3#2"])])
def test_s2_limit_and_skip_count_sentences_not_samples(folder, use, flags, asked):
    backend = use({**WRITTEN, **MORE})
    call(s2, folder, num_samples=2, **flags)
    assert backend.asked_ids == asked
    assert manifest_of(folder, "train_1000_synthetic")["complete"] is False
    call(s2, folder, num_samples=2)
    assert sorted(backend.asked_ids) == sorted({**WRITTEN, **MORE})
    assert manifest_of(folder, "train_1000_synthetic")["complete"] is True
    assert len(synthetic(folder)) == 10


def test_s2_needs_no_journal_when_it_is_complete(folder, use):
    use(WRITTEN)
    call(s2, folder)
    before = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run" / ".journal")
    backend = use({})
    summary = call(s2, folder)
    assert summary.up_to_date and not backend.asked and tree_bytes(folder / "run") == before


@pytest.mark.parametrize("first, then", [({"limit": 1}, {}), ({}, {"num_samples": 2}), ({}, {"retry_failed": True}),
                                         ({}, {"seed": 7})])
def test_s2_without_its_journal_does_not_ask_again_unbidden(folder, use, first, then):
    use(WRITTEN)
    call(s2, folder, **first)
    before = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run" / ".journal")
    backend = use({**WRITTEN, **MORE})
    for _ in range(2):
        with pytest.raises(UserError, match=r"train_1000_synthetic\.jsonl: the replies .* are gone.*--overwrite"):
            call(s2, folder, **then)
    assert not backend.asked and tree_bytes(folder / "run") == before
    call(s2, folder, **{**then, "retry_failed": False}, overwrite=True)
    assert backend.asked


def test_s2_refuses_an_id_of_the_data_that_a_synthetic_sentence_would_get(tmp_path, use):
    folder = write_data_set(tmp_path, [(*TOY[0], "1"), (*TOY[1], "1-s1")])
    use(WRITTEN)
    with pytest.raises(UserError, match="'1-s1'"):
        call(s2, folder)
    assert not (folder / "run" / "train_1000_synthetic.jsonl").exists()


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize("sample", ["zh", "en"])
def test_s2_offline_is_a_function_of_the_seed(tmp_path, temperature, sample):
    texts = {"zh": ("小 王 在 北 京 吃 烤 鸭 。", [(3, 5, "LOC"), (0, 2, "PER")]), "en": TOY[2]}
    results = []
    for seed in (1, 1, 2):
        folder = write_data_set(tmp_path, [texts[sample]] * 6)
        call(s2, folder, backend="offline", temperature=temperature, seed=seed)
        results.append((folder / "run" / "train_1000_synthetic.jsonl").read_bytes())
        shutil.rmtree(folder / "run")
    assert results[0] == results[1]
    assert (results[0] == results[2]) is (temperature == 0)


# --- step 3 ----------------------------------------------------------------------------------------------------------

SYNTHETIC = "entity_train_1000_synthetic"


class Anything(dict):
    """The same answer to every request."""

    def __missing__(self, key):
        return '[{"entity": "Alice", "type": "PERSON"}]'


def test_s3_goes_on_after_s2_grew(folder, use):
    use(WRITTEN)
    call(s2, folder, limit=2)
    backend = use(Anything())
    summary = call(s3, folder)
    assert backend.asked_ids == ["1-s1", "1-s2", "3-s1", "3-s2"]
    assert any("not complete yet" in warning for warning in summary.warnings)
    use({**WRITTEN, **MORE})
    grown = call(s2, folder, num_samples=2)
    assert any("s3_predict_syn_data" in warning for warning in grown.warnings)
    backend = use(Anything())
    assert not call(s3, folder).warnings
    assert not {"1-s1", "1-s2", "3-s1", "3-s2"} & set(backend.asked_ids)
    assert [row["id"] for row in rows_of(folder, SYNTHETIC)] == [row["id"] for row in synthetic(folder)]
    grown = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run")
    use({**WRITTEN, **MORE})
    call(s2, folder, num_samples=2)
    use(Anything())
    call(s3, folder)
    assert tree_bytes(folder / "run") == grown


@pytest.mark.parametrize("journal", ["kept", "deleted"])
def test_s3_refuses_when_an_id_has_another_sentence_than_was_asked_about(folder, use, journal):
    use(WRITTEN)
    call(s2, folder)
    use(Anything())
    call(s3, folder)
    if journal == "deleted":
        journal_of(folder, SYNTHETIC).unlink()
    use({**WRITTEN, "3#1": "Acme sells hats to farmers. Bob keeps their books in order."})
    call(s2, folder, overwrite=True)
    backend = use(Anything())
    with pytest.raises(UserError, match=r"sentence 3-s1 .* -> .*--overwrite"):
        call(s3, folder)
    assert not backend.asked
    call(s3, folder, overwrite=True)
    assert len(backend.asked) == 6


def test_s3_names_the_step_that_makes_its_input(folder, use):
    use(Anything())
    with pytest.raises(UserError, match=r"train_1000_synthetic\.jsonl: .*s2_continous_generation\.py"):
        call(s3, folder)


def test_s3_refuses_replies_about_sentences_made_otherwise(folder, use):
    use(WRITTEN)
    call(s2, folder)
    use(Anything())
    call(s3, folder)
    use(WRITTEN)
    call(s2, folder, seed=7, overwrite=True)
    with pytest.raises(UserError, match="input .* -> "):
        call(s3, folder, seed=42)


def test_s3_of_no_synthetic_sentences_gives_an_empty_file(folder, use):
    use(dict.fromkeys(WRITTEN, "Sorry."))
    call(s2, folder)
    backend = use({})
    call(s3, folder)
    assert not backend.asked and rows_of(folder, SYNTHETIC) == []
    assert manifest_of(folder, SYNTHETIC)["complete"] is True


def test_s3_keeps_the_language_of_the_data_set(folder, use):
    use(WRITTEN)
    call(s2, folder)
    rows = [{"id": "1-s1", "text": list("北京是首都。"), "entities": [], "synthetic": True, "source_id": "1"}]
    write_rows(folder / "run" / "train_1000_synthetic.jsonl", rows)
    backend = use(Anything())
    call(s3, folder)
    assert "北 京 是 首 都 。" in backend.asked[0].messages[0]["content"]
    assert backend.asked[0].record["lang"] == "en" and backend.asked[0].record["dense"] is False
