"""train_ner and step 7: files in, files out, messages."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from pipeline import (
    ROOT,
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

from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s7_pred_syn_data as s7
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines import train_ner
from syn_pipelines.ner import training
from syn_pipelines.ner.encoders import ScratchConfig
from syn_pipelines.ner.side_files import checkpoint_path, checkpoint_workplace
from syn_pipelines.ner.train_config import TrainConfig
from syn_pipelines.train_ner import weights_path
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.options import TextOptions, load_options
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


@pytest.mark.parametrize("left", [checkpoint_path, checkpoint_workplace])
def test_a_checkpoint_that_a_kill_left_beside_a_complete_model_is_work_to_do(trained, left):
    opts = load_options(train_ner.Options, False, {"file_dir": str(trained), "file_name": "demo", "size": 250, "max_steps": 40})
    assert train_ner.is_done(opts, RunPaths.of(opts))
    before = all_bytes(run_folder(trained))
    path = left(run_folder(trained) / "ner" / "fusion_250")
    path.mkdir() if left is checkpoint_workplace else path.write_bytes(b"of the training")
    assert not train_ner.is_done(opts, RunPaths.of(opts))
    assert train_ner.run(opts).up_to_date
    assert not path.exists() and train_ner.is_done(opts, RunPaths.of(opts))
    assert all_bytes(run_folder(trained)) == before


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


@pytest.mark.parametrize("flag", ["output_dir", "export_hf"])
@pytest.mark.parametrize("path", [".", "..", "/", "down/.."])
def test_a_model_never_takes_the_place_of_the_working_folder(tmp_path, monkeypatch, flag, path):
    write_dataset(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match=f"--{flag}={path}: names no folder of its own"):
        step(train_ner, tmp_path / "data", train="gold", max_steps=1, **{flag: path})
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("output_dir, lock_file", [
    ("mine", "mine.lock"), ("data/demo/GLM4/ner/gold_1000", "data/demo/GLM4/.journal/train_ner_gold_1000.lock")])
def test_two_trainings_never_work_on_one_folder(tmp_path, output_dir, lock_file):
    """Not even those of two runs, or when one names the folder that the other has by default."""
    write_dataset(tmp_path / "data")
    held = tmp_path / lock_file
    with lock(held.parent, held.stem), pytest.raises(UserError, match=f"is at the same work \\({held.stem}\\)"):
        step(train_ner, tmp_path / "data", train="gold", max_steps=1, output_dir=str(tmp_path / output_dir))


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


def test_every_option_that_shapes_the_model_is_compared_and_reaches_the_training():
    silent = {f.name for f in dataclasses.fields(TextOptions)} - {"seed", "dense_lang"} | {
        "output_dir", "export_hf", "n_gpu", "keep_last", "tensorboard", "restart"}
    settings = train_ner.settings_of(train_ner.Options())
    assert set(settings) == {f.name for f in dataclasses.fields(train_ner.Options)} - silent | {"format_version"}
    plain = train_ner.train_config(train_ner.Options(), "cpu")
    assert plain == TrainConfig()
    chosen = {"train", "size", "from_pretrained", "drop_labels", "dense_lang", "format_version"}  # act elsewhere
    for name, value in settings.items():
        other = {"balanced": "none", 42: 7, True: False}.get(value, 3)
        if name not in chosen:
            changed = train_ner.train_config(train_ner.Options(**{name: other}), "cpu")
            assert len([f for f in dataclasses.fields(changed) if getattr(changed, f.name) != getattr(plain, f.name)]) == 1, name


def test_labels_left_out_and_the_last_weights(trained):
    folder = run_folder(trained) / "ner" / "fusion_250"
    left_out = [name for name, row in read_json(run_folder(trained) / "label_fusion.json").items() if not row["is_target"]][:2]
    summary = step(train_ner, trained, size=250, max_steps=4, drop_labels=",".join(left_out), keep_last=1)
    last = folder.with_name("fusion_250_last")
    assert summary.outputs == {str(folder): 1, str(last): 1}
    assert not set(left_out) & set(read_json(folder / "labels.json"))
    assert manifest(last / "model.safetensors")["counts"]["kept_step"] == 4
    assert step(train_ner, trained, size=250, max_steps=4, drop_labels=",".join(left_out), keep_last=1).up_to_date
    shutil.rmtree(last)
    assert not step(train_ner, trained, size=250, max_steps=4, drop_labels=",".join(left_out), keep_last=1).up_to_date
    with pytest.raises(UserError, match="--drop_labels: label 'PER' is a target label"):
        step(train_ner, trained, size=250, drop_labels="PER")


@pytest.mark.parametrize("harm", [
    lambda folder: (folder / "labels.json").unlink(),
    lambda folder: (folder / "vocab.json").write_text("{}"),
    lambda folder: (folder / "config.json").write_text((folder / "config.json").read_text().replace(
        '"format_version": 2', '"format_version": 1')),
], ids=["no labels", "other vocabulary", "older format"])
def test_a_damaged_model_is_trained_again(trained, harm):
    folder = run_folder(trained) / "ner" / "fusion_250"
    before = {name: data for name, data in all_bytes(folder).items() if "manifest" not in name}  # which tells where it was made
    harm(folder)
    assert not step(train_ner, trained, size=250, max_steps=40).up_to_date
    assert {name: data for name, data in all_bytes(folder).items() if "manifest" not in name} == before


def test_other_weights_in_the_folder_of_the_base_encoder_train_again(trained, tmp_path):
    flags = {"size": 250, "max_steps": 2, "from_pretrained": str(build_tiny_bert(tmp_path / "bert"))}
    step(train_ner, trained, **flags)
    assert step(train_ner, trained, **flags).up_to_date
    build_tiny_bert(tmp_path / "bert", seed=1)
    assert not step(train_ner, trained, **flags).up_to_date


def test_dense_lang_chooses_the_features(trained):
    flags = {"train": "gold", "size": 250, "max_steps": 2}
    for dense_lang, columns in (("auto", ["token", "bigram"]), ("1", ["token", "bigram"]), ("0", ["token", "lower"])):
        step(train_ner, trained, **flags, dense_lang=dense_lang)
        assert list(read_json(run_folder(trained) / "ner" / "gold_250" / "vocab.json"))[:2] == columns


def test_synthetic_sentences_of_weight_zero_are_counted_as_left_out(trained):
    step(s7, trained)
    step(s8, trained)
    path = run_folder(trained) / "250" / "train_250_syn_fusion.jsonl"
    own = sum(not row.get("synthetic") for row in read_rows(path))
    summary = step(train_ner, trained, train="syn_fusion", size=250, max_steps=2, syn_weight=0.0)
    account, = summary.accounts
    assert account.total == len(read_rows(path)) > own and sum(account.parts.values()) == account.total
    assert account.parts["left out (without text, or synthetic ones of weight 0)"] == account.total - own
    assert manifest(run_folder(trained) / "ner" / "syn_fusion_250" / "model.safetensors")["counts"]["sentences"] == own


def test_a_label_file_of_other_data_is_named(trained):
    path = run_folder(trained) / "label_fusion.json"
    rows = {name: row for name, row in read_json(path).items() if name != "LOC"}
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(UserError, match="label_fusion.json: its target labels .* are not those of .*labels.txt .*s5_merge_data"):
        step(train_ner, trained, size=250, max_steps=2)


def test_what_stands_in_the_place_of_a_log_or_of_curves_stays(trained, tmp_path):
    for name, harm, message in (
            ("run", lambda: None, "run.log.jsonl: exists and is no log of a training"),
            ("note", lambda: (run_folder(trained) / "note.log.jsonl").write_text("mine\n"), "note.log.jsonl: exists and is no log"),
            ("board", lambda: (run_folder(trained) / "board.tensorboard").mkdir() or (
                run_folder(trained) / "board.tensorboard" / "mine").touch(), "holds other than TensorBoard files")):
        harm()
        before = {name: data for name, data in all_bytes(run_folder(trained)).items() if name != "run.log.jsonl"}
        with pytest.raises(UserError, match=message):
            step(train_ner, trained, size=250, max_steps=2, output_dir=str(run_folder(trained) / name), restart=True)
        after = all_bytes(run_folder(trained))  # the step's own log and lock may come
        assert {k: v for k, v in after.items() if k != "run.log.jsonl" and not k.endswith(".lock")} == {
            k: v for k, v in before.items() if not k.endswith(".lock")}


def test_a_copy_to_hand_on_never_replaces_a_trained_model(trained):
    folder = run_folder(trained) / "ner" / "fusion_250"
    for copy, message in ((folder / "copy", "is in the model's own folder"), (folder, "is in the model's own folder"),
                          (folder.with_name("fusion_500"), "holds a model that was trained there")):
        with pytest.raises(UserError, match=message):
            step(train_ner, trained, size=250, max_steps=40, export_hf=str(copy))


@pytest.mark.parametrize("kind", ["T5", "ViT", "embeddings"])
def test_a_model_that_is_no_encoder_of_text_is_one_clear_line(trained, tmp_path, kind):
    folder = build_tiny_bert(tmp_path / "model")
    transformers = pytest.importorskip("transformers")
    if kind == "T5":
        model = transformers.T5Model(transformers.T5Config(vocab_size=80, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    elif kind == "ViT":
        model = transformers.ViTModel(transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4))
    else:
        config = transformers.BertConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        model = transformers.BertModel(config)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="no encoder of text could be loaded.*Name an encoder such as BERT") as caught:
        step(train_ner, trained, size=250, max_steps=2, from_pretrained=str(folder))
    assert "\n" not in str(caught.value)


KILLED = """
import os, signal
from syn_pipelines import train_ner
from syn_pipelines.ner import checkpoints

def write_and_die(*args, write=checkpoints.write_checkpoint):
    write(*args)
    os.kill(os.getpid(), signal.SIGKILL)

checkpoints.write_checkpoint = write_and_die
train_ner.main()
"""


def test_a_killed_training_goes_on_to_the_same_model(tmp_path):
    shutil.copytree(ROOT / "data" / "few_shot" / "sample_zh", tmp_path / "sample_zh")
    flags = {"file_dir": str(tmp_path), "file_name": "sample_zh", "train": "gold", "max_steps": 20, "lr": 0.01, "evaluations": 10}
    folder, straight = tmp_path / "sample_zh" / "GLM4" / "ner" / "gold_1000", tmp_path / "straight"
    done = subprocess.run([sys.executable, "-c", KILLED, *(f"--{k}={v}" for k, v in flags.items())], capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoint_path(folder).exists() and not folder.exists()
    with pytest.raises(UserError, match="this training was begun otherwise: max_steps 20 -> 30"):
        train_ner.main(cmd_args=False, **{**flags, "max_steps": 30})
    train_ner.main(cmd_args=False, **flags)
    train_ner.main(cmd_args=False, **flags, output_dir=str(straight))
    assert weights_path(folder).read_bytes() == weights_path(straight).read_bytes()
    made, wanted = ({**manifest(weights_path(f)), "command": ""} for f in (folder, straight))
    assert made == wanted and "dev_f1" in made
    assert {p.name for p in folder.parent.iterdir()} == {"gold_1000", "gold_1000.log.jsonl"}


def test_several_processes_train_the_model_that_one_would(tmp_path, monkeypatch):
    """Without dropout, whose random numbers every process draws for itself."""
    flags = {"file_name": "demo", "train": "gold", "max_steps": 6, "train_batch_size": 11, "evaluations": 3}
    monkeypatch.setitem(training.SCRATCH_HEAD, "dropout", 0.0)
    monkeypatch.setattr(training, "ScratchConfig", functools.partial(ScratchConfig, dropout=0.0, word_dropout=0.0))
    script = tmp_path / "train.py"
    script.write_text(f"""
import functools
import sys
from syn_pipelines import train_ner
from syn_pipelines.ner import training
training.SCRATCH_HEAD["dropout"] = 0.0
training.ScratchConfig = functools.partial(training.ScratchConfig, dropout=0.0, word_dropout=0.0)
train_ner.main(cmd_args=False, file_dir=sys.argv[1], **{flags!r})
""", encoding="utf-8")
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        write_dataset(folder, held_out=True)
    train_ner.main(cmd_args=False, file_dir=str(one), **flags)
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
         "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", str(script), str(two)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(read_rows(run_folder(two) / "run.log.jsonl")) == 1  # only the first process writes
    logs = [read_rows(run_folder(folder) / "ner" / "gold_1000.log.jsonl") for folder in (one, two)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]] == [2, 4, 6]
    assert [row["loss"] for row in logs[0]] == pytest.approx([row["loss"] for row in logs[1]], rel=1e-3)
    a, b = (load_file(weights_path(run_folder(folder) / "ner" / "gold_1000")) for folder in (one, two))
    assert max((a[name] - b[name]).abs().mean().item() for name in a) < 1e-3


def without_weights(trained, tmp_path):
    base = build_tiny_bert(tmp_path / "bert")
    (base / "model.safetensors").unlink()
    return {"from_pretrained": base}


def without_a_label(trained, tmp_path):
    path = run_folder(trained) / "label_fusion.json"
    content = read_json(path)
    path.write_text(json.dumps({k: content[k] for k in list(content)[:-1]}), encoding="utf-8")
    return {}


def without_sentences(trained, tmp_path):
    (run_folder(trained) / "250" / "train_250_fusion.jsonl").write_text("\n")
    return {"size": 250}


def without_the_size(trained, tmp_path):
    shutil.rmtree(run_folder(trained) / "250")
    return {"size": 250}


def with_an_unlike_label(trained, tmp_path):
    return {"drop_labels": "WORDS"}


@pytest.mark.parametrize("harm, message", [
    (without_weights, r"bert: no encoder could be loaded \(.*model.safetensors"),
    (without_a_label, "which is not in the label set.*Train with the label file that belongs to these data"),
    (without_sentences, "train_250_fusion.jsonl: holds no sentence. Make it with: python syn_pipelines/s5_merge_data.py"),
    (without_the_size, "train_250_fusion.jsonl: does not exist. Make it with: python syn_pipelines/s5_merge_data.py"),
    (with_an_unlike_label, "--drop_labels: there is no extension label 'WORDS'"),
])
def test_a_mistake_is_one_line_and_exit_code_2(trained, tmp_path, harm, message):
    flags = harm(trained, tmp_path)
    done = run_step("train_ner", file_dir=trained, max_steps=2, restart=1, **flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.search(message, errors[0]) and done.stderr.rstrip().endswith(errors[0])


def test_training_on_an_incomplete_file_says_so_in_the_manifest(trained):
    mark_incomplete(run_folder(trained) / "250" / "train_250_fusion.jsonl")
    step(train_ner, trained, size=250, max_steps=2)
    assert manifest(run_folder(trained) / "ner" / "fusion_250" / "model.safetensors")["complete"] is False


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
        assert set(manifest(output)["inputs"]) == {f"{size}/train_{size}_synthetic.jsonl", *(
            f"ner/fusion_{size}/{name}" for name in ("model.safetensors", "config.json", "labels.json", "vocab.json"))}
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
