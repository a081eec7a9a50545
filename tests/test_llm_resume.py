"""Steps 1 and 2 in-process: stopped, limited or damaged, they go on without asking anything twice."""

from __future__ import annotations

import contextlib
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import BAD, FINE, MORE, NONE_FOUND, WRITTEN, asked_lines, call, manifest_of, rows_of
from workspace import tree_bytes

import syn_pipelines.s1_predict_data as s1
import syn_pipelines.s2_continous_generation as s2
from syn_pipelines import UserError
from syn_pipelines.utils.errors import ServiceError
from syn_pipelines.utils.jsonl import to_line
from syn_pipelines.utils.llm import Reply


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
        with contextlib.suppress(RuntimeError, ServiceError):
            call(step, folder, **flags, **choice)
        asked += backend.asked_ids
    # A request that fails before the model has answered any is not marked as failed, and asked again.
    assert set(asked) == set(first.asked_ids)
    assert all(asked.count(name) == 1 for name in asked if name not in ("3", "3#1"))
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


def test_replies_about_ids_that_nothing_asks_about_are_told_and_left_alone(folder, use, caplog):
    use(FINE)
    call(s1, folder)
    journal = folder / "run" / ".journal" / "entity_train_1000.jsonl"
    with journal.open("ab") as file:
        file.writelines(to_line({"id": name, "text": "[]", "finish_reason": "stop", "error": ""}) for name in ("zz9", "zz10"))
    before = tree_bytes(folder / "run")
    for flags in {}, {"reparse": True}:
        caplog.clear()
        use({})
        call(s1, folder, **flags)
        assert [text for text in caplog.messages if "asks about" in text] == [
            f"{journal}: 2 replies are about ids that nothing asks about, such as 'zz10'; they are left alone."]
    assert tree_bytes(folder / "run") == before


def test_without_a_journal_a_reply_that_was_cut_is_read_as_one(folder, use):
    use({**FINE, "1": Reply("1", '[{"entity": "Alice", "type": "PERSON"], {"entity": "Par', "length")})
    call(s1, folder)
    before = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run" / ".journal")
    use({})
    call(s1, folder)
    assert tree_bytes(folder / "run") == before


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
