"""--reparse: the items anew from the stored replies, without a model."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from scripted import BAD, FINE, MORE, WRITTEN, call, journal_of, manifest_of, rows_of, write_data_set, write_rows
from tiny_models import build_tiny_model
from workspace import make_workspace, shell, tree_bytes

import syn_pipelines.run_all as run_all
import syn_pipelines.s1_predict_data as s1
import syn_pipelines.s2_continous_generation as s2
import syn_pipelines.s3_predict_syn_data as s3
from syn_pipelines import UserError
from syn_pipelines.utils import annotate, questions
from syn_pipelines.utils.llm import Reply

ABOUT_WRITTEN = {f"{sentence}-s{k}": '[{"entity": "Paris", "type": "city"}]' for sentence in "134" for k in (1, 2)}
CLOSED = Reply("5", '[{"entity": "weather", "type": "x"}]', decoded="grammar", closed=True)


@pytest.fixture
def asked(folder, use, monkeypatch):
    """A data set whose steps 1 to 3 have run; from then on any choice of a model fails."""
    use({**BAD, "5": CLOSED, **WRITTEN, **ABOUT_WRITTEN})
    call(s1, folder)
    call(s2, folder)
    call(s3, folder)

    def nobody(*args, **kwargs):
        raise AssertionError("a model was chosen")
    monkeypatch.setattr(annotate, "choose_backend", nobody)
    return folder


# --- the same parser -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("published", ["kept", "deleted", "emptied"])
def test_a_reparse_gives_the_bytes_of_the_run_without_any_model(asked, published):
    before = tree_bytes(asked / "run")
    for path in (asked / "run").glob("*_train_1000*.jsonl") if published != "kept" else ():
        path.unlink() if published == "deleted" else path.write_bytes(b"")
    call(s2, asked, reparse=True)
    for step in (s1, s3):
        summary = call(step, asked, reparse=True)
        assert summary.up_to_date is (published == "kept") and summary.usage is None
    assert tree_bytes(asked / "run") == before
    assert manifest_of(asked)["counts"]["closed"] == 1


def test_a_reparse_keeps_the_fingerprint_of_the_replies_and_the_command_that_asked(asked):
    before = {name: manifest_of(asked, name) for name in ("entity_train_1000", "train_1000_synthetic")}
    summary = call(s1, asked, reparse=True, seed=7, temperature=0.5, model_from_pretrained="another")
    call(s2, asked, reparse=True, seed=7, top_p=0.1)
    for name, manifest in before.items():
        assert manifest_of(asked, name) == manifest
    assert all("--reparse" not in text for text in summary.warnings)
    assert any(f"{before['entity_train_1000']['command']} --retry_failed" in text for text in summary.warnings)


def test_all_samples_of_a_sentence_are_read_anew_without_saying_how_many(folder, use):
    use({**WRITTEN, **MORE})
    call(s2, folder, num_samples=2)
    before = tree_bytes(folder / "run")
    assert any(b"-s1001" in content for content in before.values())
    call(s2, folder, reparse=True)
    assert tree_bytes(folder / "run") == before


def test_a_limited_run_stays_limited(folder, use):
    use(FINE)
    call(s1, folder, limit=2)
    before = tree_bytes(folder / "run")
    assert any("3 sentences were not asked yet" in text for text in call(s1, folder, reparse=True).warnings)
    assert tree_bytes(folder / "run") == before


# --- another parser, prompt or label file ----------------------------------------------------------------------------

def test_a_better_parser_reaches_old_replies(asked, monkeypatch):
    parse = annotate.parse_reply
    monkeypatch.setattr(annotate, "parse_reply", lambda reply, *args, **kwargs: parse(
        '[{"entity": "said", "type": "nothing"}]' if reply == "I cannot do that." else reply, *args, **kwargs))
    assert rows_of(asked)[1]["status"] == "rejected"
    fingerprint = manifest_of(asked)["fingerprint"]
    summary = call(s1, asked, reparse=True)
    row = rows_of(asked)[1]
    assert row["items"] == [{"entity": "said", "type": "nothing"}] and row["reply"] == "I cannot do that."
    assert not summary.up_to_date and manifest_of(asked)["fingerprint"] == fingerprint


def test_other_filters_reach_old_explanations(asked, monkeypatch):
    find = s2.candidates
    monkeypatch.setattr(s2, "candidates", lambda *args, **kwargs: find(*args, **kwargs)[:1])
    count = len(rows_of(asked, "train_1000_synthetic"))
    call(s2, asked, reparse=True)
    assert len(rows_of(asked, "train_1000_synthetic")) == 3 < count


def other_prompts(monkeypatch):
    load = questions.load_prompt

    def changed(*args, **kwargs):
        prompt = load(*args, **kwargs)
        return dataclasses.replace(prompt, text=prompt.text.replace("\n\n", "\n\nBe quick.\n\n", 1), sha256="0" * 64)
    monkeypatch.setattr(questions, "load_prompt", changed)
    monkeypatch.setattr(s2, "load_prompt", changed)


def test_replies_to_an_earlier_prompt_are_read_anew_though_no_run_would_mix_them(asked, use, monkeypatch):
    before = tree_bytes(asked / "run")
    other_prompts(monkeypatch)
    call(s2, asked, reparse=True)
    call(s1, asked, reparse=True)
    call(s3, asked, reparse=True)
    assert tree_bytes(asked / "run") == before
    use({})
    with pytest.raises(UserError, match="prompt"):
        call(s1, asked)


@pytest.mark.parametrize("old_journal", [False, True])
def test_a_reply_about_another_sentence_is_refused_and_nothing_is_changed(asked, monkeypatch, old_journal):
    if old_journal:  # without the hash of the sentence
        rows = [json.loads(line) for line in journal_of(asked).read_text(encoding="utf-8").splitlines()]
        write_rows(journal_of(asked), [{k: v for k, v in row.items() if k not in ("sentence", "decoded", "closed")} for row in rows])
        call(s1, asked, reparse=True)
    before = tree_bytes(asked / "run")
    write_data_set(asked.parent, [("Quite another text .", [])] * 5)
    with pytest.raises(UserError, match=r"entity_train_1000\.jsonl: the reply about 1 is not about .*--overwrite"):
        call(s1, asked, reparse=True)
    assert tree_bytes(asked / "run") == before


def test_sentences_that_were_added_since_are_not_asked(asked):
    path = asked / "train_1000.jsonl"
    path.write_bytes(path.read_bytes() + b'{"text": ["One", "more", "."], "entities": []}\n')
    summary = call(s1, asked, reparse=True)
    assert any("1 sentences were not asked yet" in text for text in summary.warnings)
    assert manifest_of(asked)["complete"] is False and len(rows_of(asked)) == 5


# --- what is stored --------------------------------------------------------------------------------------------------

def test_a_torn_last_line_of_the_journal_is_passed_over(asked):
    before = rows_of(asked)
    whole = journal_of(asked).read_bytes()
    journal_of(asked).write_bytes(whole[:-9])
    call(s1, asked, reparse=True)
    assert rows_of(asked) == before[:-1] and manifest_of(asked)["counts"]["not_asked"] == 1


def test_a_broken_journal_is_named_with_its_line(asked):
    lines = journal_of(asked).read_bytes().splitlines(keepends=True)
    journal_of(asked).write_bytes(b"".join([*lines[:2], b"{\n", *lines[2:]]))
    before = tree_bytes(asked / "run")
    with pytest.raises(UserError, match=r"entity_train_1000\.jsonl:3: is broken"):
        call(s1, asked, reparse=True)
    assert tree_bytes(asked / "run") == before


def test_without_a_journal_the_published_replies_are_read_anew(asked, monkeypatch):
    shutil.rmtree(asked / "run" / ".journal")
    rows = rows_of(asked)
    parse = annotate.parse_reply
    monkeypatch.setattr(annotate, "parse_reply", lambda reply, *args, **kwargs: parse(
        reply.replace("Alice", "Carol"), *args, **kwargs))
    call(s1, asked, reparse=True)
    assert rows_of(asked)[0]["items"][0]["entity"] == "Carol" and rows_of(asked)[1:] == rows[1:]
    monkeypatch.undo()
    call(s1, asked, reparse=True)
    assert rows_of(asked) == rows


def test_explanations_whose_journal_is_gone_cannot_be_read_anew(asked):
    shutil.rmtree(asked / "run" / ".journal")
    before = tree_bytes(asked / "run")
    with pytest.raises(UserError, match=r"train_1000_synthetic\.jsonl: the replies .* are gone"):
        call(s2, asked, reparse=True)
    assert tree_bytes(asked / "run") == before


@pytest.mark.parametrize("step", [s1, s2])
def test_where_nothing_was_asked_there_is_nothing_to_read_and_no_folder_is_left(folder, step):
    with pytest.raises(UserError, match="no stored replies"):
        call(step, folder, reparse=True)
    assert not (folder / "run").exists()


def test_the_model_may_be_deleted(tmp_path):
    workspace = make_workspace(tmp_path / "project", train=3, held_out=1)
    model = build_tiny_model("qwen2", tmp_path / "model", max_position_embeddings=4096)
    flags = "--file_name=weibo --mode=pos --reply_format=inline"
    result = shell(f"python syn_pipelines/s1_predict_data.py {flags} --model_from_pretrained={model}", workspace)
    assert result.returncode == 0, result.stderr
    run = workspace / "data/few_shot/weibo/GLM4"
    before = tree_bytes(run)
    assert "completion tokens" in result.stderr and len(before["pos_train_1000.jsonl"].splitlines()) == 3
    shutil.rmtree(model)
    (run / "pos_train_1000.jsonl").unlink()
    result = shell("python syn_pipelines/s1_predict_data.py --file_name=weibo --mode=pos --reparse", workspace)
    assert result.returncode == 0, result.stderr
    assert tree_bytes(run) == before


# --- flags -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("step", [s1, s2, s3])
@pytest.mark.parametrize("flags", [{"overwrite": True}, {"retry_failed": True}, {"limit": 0}, {"limit": 3}, {"skip": 2},
                                   {"dry_run": "plan"}, {"dry_run": "probe", "overwrite": True}], ids=str)
def test_flags_that_contradict_a_reparse_are_refused(asked, step, flags):
    before = tree_bytes(asked / "run")
    with pytest.raises(UserError, match="--reparse asks nothing .*--" + "|--".join(flags)):
        call(step, asked, reparse=True, **flags)
    assert tree_bytes(asked / "run") == before


def test_run_all_reads_anew_what_has_replies_and_goes_on_with_the_rest(tmp_path):
    workspace = make_workspace(tmp_path / "project", train=16, held_out=4)
    common = "--file_name=weibo --max_steps=2 --with_report=0"
    result = shell(f"python syn_pipelines/run_all.py {common} --backend=offline", workspace)
    assert result.returncode == 0, result.stderr
    run = workspace / "data/few_shot/weibo/GLM4"
    before = tree_bytes(run)
    result = shell(f"python syn_pipelines/run_all.py {common} --reparse", workspace)  # no backend, no model
    assert result.returncode == 0, result.stderr
    assert "labelled by offline" in result.stdout and tree_bytes(run) == before
    for path in [*run.glob("*_train_1000_synthetic*"), *(run / ".journal").glob("*_train_1000_synthetic*")]:
        path.unlink()
    result = shell(f"python syn_pipelines/run_all.py {common} --reparse", workspace)
    assert result.returncode == 2 and "no language model is given" in result.stderr  # step 3 has to ask again
    result = shell(f"python syn_pipelines/run_all.py {common} --reparse --backend=offline", workspace)
    assert result.returncode == 0, result.stderr
    assert tree_bytes(run) == before


def test_run_all_refuses_contradictions_before_anything_else(asked):
    before = tree_bytes(asked / "run")
    for flags in ({"limit": 2}, {"dry_run": "plan"}):
        with pytest.raises(UserError, match="--reparse asks nothing"):
            call(run_all, asked, reparse=True, **flags)
    assert tree_bytes(asked / "run") == before
    with pytest.raises(UserError, match="--reparse asks nothing"):
        run_all.main(cmd_args=False, file_dir=str(asked.parent), file_name="toy", save_type_name="new", reparse=True,
                     dry_run="plan", backend="offline")


def test_a_run_that_stopped_before_its_first_reply_has_nothing_to_read(folder, use):
    use(FINE, fail_after=0)
    with pytest.raises(RuntimeError):
        call(s1, folder)
    assert journal_of(folder).is_file()
    with pytest.raises(UserError, match="no stored replies"):
        call(s1, folder, reparse=True)
