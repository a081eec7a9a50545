"""train_ner, eval_ner and step 7: files in, files out, messages."""

from __future__ import annotations

import json
import shutil

import pytest
from pipeline import (
    all_bytes,
    manifest,
    mark_incomplete,
    read_json,
    read_rows,
    run_step,
    write_dataset,
    write_rows,
    write_run,
)
from safetensors.torch import load_file
from tiny_encoders import build_tiny_bert

from syn_pipelines import eval_ner, train_ner
from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s7_pred_syn_data as s7
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.options import load_options
from syn_pipelines.utils.paths import RunPaths

SIZES = (250, 500, 1000)


def step(module, file_dir, **flags):
    return module.main(cmd_args=False, file_dir=str(file_dir), file_name="demo", **flags)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A data set with dev and test whose run has the three fusion models."""
    folder = tmp_path_factory.mktemp("trained")
    write_run(folder, held_out=True)
    step(s4, folder)
    step(s5, folder)
    for size in SIZES:
        step(train_ner, folder, size=size, max_steps=40)
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy to change."""
    shutil.copytree(trained_once, tmp_path / "data")
    return tmp_path / "data"


def run_folder(file_dir):
    return file_dir / "demo" / "GLM4"


# --- training ------------------------------------------------------------------------------------------------------

def test_training_writes_a_model_folder_with_a_manifest_that_holds_its_inputs(trained):
    folder = run_folder(trained) / "ner" / "fusion_250"
    made = manifest(folder / "model.safetensors")
    assert made["step"] == "train_ner" and made["complete"] and "dev_f1" in made
    assert set(made["inputs"]) == {"250/train_250_fusion.jsonl", "label_fusion.json", "../dev.jsonl"}
    assert made["counts"]["steps"] == 40
    assert read_json(folder / "labels.json") == read_json(run_folder(trained) / "label_fusion.json")


def test_a_second_training_finds_the_model_and_changed_data_train_again(trained):
    weights = run_folder(trained) / "ner" / "fusion_250" / "model.safetensors"
    before = all_bytes(run_folder(trained))
    assert step(train_ner, trained, size=250, max_steps=40).up_to_date
    assert all_bytes(run_folder(trained)) == before
    path = run_folder(trained) / "250" / "train_250_fusion.jsonl"
    write_rows(path, read_rows(path)[:-1])
    assert not step(train_ner, trained, size=250, max_steps=40).up_to_date
    assert weights.read_bytes() != before["ner/fusion_250/model.safetensors"]


def test_training_again_from_nothing_gives_the_same_bytes(trained):
    states = []
    for _ in range(2):
        shutil.rmtree(run_folder(trained) / "ner" / "fusion_500")
        step(train_ner, trained, size=500, max_steps=10)
        states.append(all_bytes(run_folder(trained)))
    assert states[0] == states[1]


def test_gold_training_needs_only_sentences_and_labels(tmp_path, caplog):
    write_dataset(tmp_path)
    summary = step(train_ner, tmp_path, train="gold", max_steps=3)
    folder = run_folder(tmp_path) / "ner" / "gold_1000"
    assert list(read_json(folder / "labels.json")) == ["O", "PER", "LOC"]
    assert summary.notes == ["3 steps, the last weights kept"]
    assert [r.message for r in caplog.records if "no dev data" in r.message] == [
        "no dev data: the last weights are kept, and no score is known"]
    assert [str(a) for a in summary.accounts] == ["12 training sentences = 9 with target entities + 3 without"]


def test_other_training_sets_and_an_output_folder_of_ones_own(trained):
    step(s7, trained)
    step(s8, trained)
    step(train_ner, trained, train="syn_fusion", size=250, max_steps=2, output_dir=str(trained / "mine"))
    made = manifest(trained / "mine" / "model.safetensors")
    assert "250/train_250_syn_fusion.jsonl" in made["inputs"] and "label_syn_fusion.json" in made["inputs"]
    assert step(train_ner, trained, train="gold", size=250, max_steps=2).outputs == {
        str(run_folder(trained) / "ner" / "gold_250"): 1}


def test_an_output_folder_of_something_else_is_refused_before_the_training(tmp_path, caplog):
    write_dataset(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="mine: exists and is not a model folder"):
        step(train_ner, tmp_path, train="gold", max_steps=1, output_dir=str(tmp_path / "mine"))
    assert "no dev data" not in caplog.text  # what a training says first


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "train_1000_fusion.jsonl: does not exist. Make it with: python syn_pipelines/s5_merge_data.py"),
        ({"train": "syn_fusion"}, "syn_fusion.*s8_process_label_and_combine.py"),
        ({"train": "gold", "size": 250}, "train_250.jsonl: does not exist. Make it with: .*s4_split_data.py"),
        ({"size": 300}, "--size: 300 is none of 250, 500, 1000"),
        ({"train": "all"}, "'all' is none of fusion, gold, syn_fusion"),
        ({"max_steps": 0}, "--max_steps: 0 must be -1"),
        ({"train": "gold", "from_pretrained": "/nowhere/bert"}, "/nowhere/bert: no encoder could be loaded"),
    ],
)
def test_what_is_missing_or_wrong_is_one_clear_error(tmp_path, flags, message):
    write_dataset(tmp_path)
    with pytest.raises(UserError, match=message):
        step(train_ner, tmp_path, **flags)


def test_a_label_that_the_label_file_lacks_is_named(trained):
    path = run_folder(trained) / "label_fusion.json"
    content = read_json(path)
    gone = list(content)[-1]
    path.write_text(json.dumps({k: v for k, v in content.items() if k != gone}), encoding="utf-8")
    with pytest.raises(UserError, match=f"spans of '{gone}', which is not in the label set"):
        step(train_ner, trained, size=1000)


def test_training_on_an_incomplete_file_says_so_in_the_manifest(trained):
    mark_incomplete(run_folder(trained) / "250" / "train_250_fusion.jsonl")
    step(train_ner, trained, size=250, max_steps=2)
    assert manifest(run_folder(trained) / "ner" / "fusion_250" / "model.safetensors")["complete"] is False


# --- evaluation ----------------------------------------------------------------------------------------------------

def test_scores_are_strict_by_label_and_on_unseen_sentences(trained):
    rows = read_rows(trained / "demo" / "test.jsonl")
    new = {"text": list("小红来自成都"), "entities": [
        {"start": 0, "end": 2, "entity": "PER"}, {"start": 4, "end": 6, "entity": "LOC"}]}
    write_rows(trained / "demo" / "test.jsonl", [*rows, new])
    result = step(eval_ner, trained)
    assert set(result.by_label) == {"PER", "LOC"}
    assert result.by_label["PER"]["support"] == 3 and result.unseen["sentences"] == 1
    assert result.unseen["support"] == 2
    assert [str(a) for a in result.accounts] == ["4 test sentences = 1 not in the training set + 3 also in it"]
    assert 0 <= result.f1 <= 100 and "all (micro)" in result.table


def test_json_is_the_last_thing_written_and_parses(trained):
    model = run_folder(trained) / "ner" / "fusion_1000"
    done = run_step("eval_ner", file_dir=trained, model_from_pretrained=model, split="dev", json=1)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert {"f1", "precision", "recall", "by_label", "unseen", "split", "model"} <= set(line)
    assert done.stdout.count("\n") == 1 and line["split"] == "dev"


def test_evaluating_a_model_from_elsewhere_makes_no_run_folder(trained):
    model = run_folder(trained) / "ner" / "fusion_1000"
    assert step(eval_ner, trained, save_type_name="other", model_from_pretrained=str(model)).seconds > 0
    assert not (trained / "demo" / "other").exists()


def test_model_and_data_with_different_labels_are_scored_with_a_warning(trained):
    (trained / "demo" / "labels.txt").write_text("O\nPER\nORG\nLOC\n", encoding="utf-8")
    result = step(eval_ner, trained)
    assert "the model predicts PER, LOC" in result.warnings[0]
    assert set(result.by_label) == {"PER", "ORG", "LOC"}


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"train": "gold"}, "gold_1000: there is no such model. Make it with: .*train_ner.py .*--train=gold --size=1000"),
        ({"model_from_pretrained": "/nowhere"}, "/nowhere: no such model folder"),
        ({"split": "train"}, "'train' is none of dev, test"),
    ],
)
def test_evaluation_names_what_is_missing(trained, flags, message):
    with pytest.raises(UserError, match=message):
        step(eval_ner, trained, **flags)


def test_evaluation_without_the_split_says_what_to_do(trained):
    (trained / "demo" / "test.jsonl").unlink()
    with pytest.raises(UserError, match="test.jsonl: does not exist. Add it to the data set, or score on dev"):
        step(eval_ner, trained)


# --- step 7 --------------------------------------------------------------------------------------------------------

def test_each_size_gets_the_labels_of_its_own_model_and_its_input_stays(trained):
    run = run_folder(trained)
    before = {size: (run / str(size) / f"train_{size}_synthetic.jsonl").read_bytes() for size in SIZES}
    step(s7, trained)
    for size in SIZES:
        source = read_rows(run / str(size) / f"train_{size}_synthetic.jsonl")
        output = run / str(size) / f"train_{size}_synthetic_target.jsonl"
        rows = read_rows(output)
        assert [{**row, "entities": []} for row in rows] == source
        assert all(e["text"] == row["text"][e["start"]:e["end"]] for row in rows for e in row["entities"])
        assert set(manifest(output)["inputs"]) == {
            f"{size}/train_{size}_synthetic.jsonl", f"ner/fusion_{size}/model.safetensors"}
        assert (run / str(size) / f"train_{size}_synthetic.jsonl").read_bytes() == before[size]
    assert {e["entity"] for row in rows for e in row["entities"]} <= {"PER", "LOC"}


def test_step_7_twice_gives_the_same_bytes_and_is_then_done(trained):
    step(s7, trained)
    before = all_bytes(run_folder(trained))
    step(s7, trained)
    assert all_bytes(run_folder(trained)) == before
    opts = load_options(s7.Options, False, {"file_dir": str(trained), "file_name": "demo"})
    assert s7.is_done(opts, RunPaths.of(opts))


def test_one_model_for_all_sizes_is_a_warning_that_the_manifest_keeps(trained):
    model = run_folder(trained) / "ner" / "fusion_1000"
    summary = step(s7, trained, model_from_pretrained=str(model), from_pretrained="scratch")
    assert "labels all sizes" in summary.warnings[0]
    for size in SIZES:
        made = manifest(run_folder(trained) / str(size) / f"train_{size}_synthetic_target.jsonl")
        assert made["warning"] == summary.warnings[0] and "ner/fusion_1000/model.safetensors" in made["inputs"]


def test_missing_models_are_all_named_with_the_commands_that_train_them(trained):
    for size in (250, 500):
        shutil.rmtree(run_folder(trained) / "ner" / f"fusion_{size}")
    with pytest.raises(UserError, match=r"(?s)fusion_250: .*--train=fusion --size=250.*fusion_500: .*--size=500"):
        step(s7, trained)
    assert not list(run_folder(trained).rglob("*_target.jsonl"))


def test_a_retrained_model_makes_its_labels_stale(trained):
    step(s7, trained)
    summary = step(train_ner, trained, size=250, max_steps=2)
    assert any("train_250_synthetic_target.jsonl" in w and "s7_pred_syn_data.py" in w for w in summary.warnings)


def test_a_model_of_another_data_set_is_refused(trained):
    (trained / "demo" / "labels.txt").write_text("O\nPER\nORG\n", encoding="utf-8")
    with pytest.raises(UserError, match="the model predicts LOC, which .*labels.txt lacks"):
        step(s7, trained)


def test_step_7_without_synthetic_sentences_names_the_steps_that_make_them(tmp_path):
    write_run(tmp_path, synthetic=False)
    step(s4, tmp_path)
    with pytest.raises(UserError, match="does not exist. Make it with: .*s2_continous_generation.py.*s4_split_data.py"):
        step(s7, tmp_path)


def test_step_7_takes_tokenizer_and_config_from_the_base_encoder(trained, tmp_path):
    base = build_tiny_bert(tmp_path / "bert")
    model = tmp_path / "model"
    step(train_ner, trained, max_steps=2, from_pretrained=str(base), output_dir=str(model))
    shutil.rmtree(model / "encoder")
    with pytest.raises(UserError, match="--from_pretrained"):
        step(s7, trained, model_from_pretrained=str(model))
    step(s7, trained, model_from_pretrained=str(model), from_pretrained=str(base))
    assert len(load_file(model / "model.safetensors")) > 20
