"""The whole pipeline in one command, through the real script."""

from __future__ import annotations

import json

import pytest
from workspace import make_workspace, shell, tree_bytes

CONFIG = """
file_name: weibo
save_type_name: run
backend: offline
train_ner:
  max_steps: 4
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workspace after one run of everything, and what that run printed."""
    workspace = make_workspace(tmp_path_factory.mktemp("run_all"))
    (workspace / "run.yaml").write_text(CONFIG, encoding="utf-8")
    return workspace, shell("python syn_pipelines/run_all.py --config=run.yaml", workspace)


def test_one_command_makes_both_training_sets_and_says_where_they_are(finished):
    workspace, result = finished
    assert result.returncode == 0, result.stderr
    run = workspace / "data" / "few_shot" / "weibo" / "run"
    for name in ("1000/train_1000_fusion.jsonl", "1000/train_1000_syn_fusion.jsonl"):
        assert f"data/few_shot/weibo/run/{name}" in result.stdout
        assert (run / name).stat().st_size > 0
    assert "What became of every record" in result.stdout
    assert result.stdout.count("  s1  asked about 40 sentences in ") == 2 and "  s2  asked about " in result.stdout


def test_every_manifest_says_complete_and_its_counts_are_there(finished):
    workspace, _ = finished
    manifests = [json.loads(p.read_text(encoding="utf-8")) for p in workspace.rglob("*.manifest.json")]
    assert len(manifests) > 30
    assert all(m["complete"] and m["counts"] for m in manifests)


def test_a_second_run_changes_nothing_and_says_so(finished):
    workspace, _ = finished
    run = workspace / "data" / "few_shot" / "weibo" / "run"
    before = tree_bytes(run)
    result = shell("python syn_pipelines/run_all.py --config=run.yaml", workspace)
    assert result.returncode == 0, result.stderr
    assert "Nothing to do" in result.stdout
    assert tree_bytes(run) == before


def test_every_step_again_and_out_of_order_gives_the_same_bytes(finished):
    workspace, _ = finished
    run = workspace / "data" / "few_shot" / "weibo" / "run"
    before = tree_bytes(run)
    steps = ("s6_combine_syn_fusion_label", "s5_merge_data", "s8_process_label_and_combine", "s4_split_data",
             "s3_predict_syn_data", "s7_pred_syn_data", "s1_predict_data", "s2_continous_generation",
             "s5_merge_data", "s8_process_label_and_combine", "s6_combine_syn_fusion_label")
    for step in steps:
        result = shell(f"python syn_pipelines/{step}.py --config=run.yaml", workspace)
        assert result.returncode == 0, result.stderr
    # s6 and s8 both write label_syn_fusion.json, with the same content; its manifest names the one that ran last
    ours = "label_syn_fusion.manifest.json"
    assert {k: v for k, v in tree_bytes(run).items() if k != ours} == {k: v for k, v in before.items() if k != ours}


def test_a_model_given_as_a_flag_takes_the_place_of_the_offline_backend_in_the_file(finished, tmp_path):
    workspace, _ = finished
    result = shell(f"python syn_pipelines/run_all.py --config=run.yaml --save_type_name=other "
                   f"--model_from_pretrained={tmp_path}/nowhere", workspace)
    assert result.returncode == 2
    assert f"{tmp_path}/nowhere" in result.stderr and "Traceback" not in result.stderr
    assert not list((workspace / "data/few_shot/weibo").glob("other/*.jsonl"))


@pytest.mark.parametrize(("change", "message"), [
    ("labels.txt: PER.NAM", "labels.txt"),
    ("clash", "PERSON"),
    ("test.jsonl", "test.jsonl:1"),
])
def test_the_whole_configuration_is_checked_before_the_first_model_call(tmp_path, change, message):
    workspace = make_workspace(tmp_path / "project", train=10, held_out=2)
    data = workspace / "data" / "few_shot" / "weibo"
    if change == "clash":
        for file in data.glob("*"):
            file.write_text(file.read_text(encoding="utf-8").replace("PER.NAM", "PERSON"), encoding="utf-8")
    elif change == "test.jsonl":
        (data / "test.jsonl").write_text('{"text": ["a"], "entities": [{"start": 0, "end": 2, "entity": "PER.NAM"}]}\n')
    else:
        (data / "labels.txt").write_text("O\nPER.NAM\n", encoding="utf-8")
    result = shell("python syn_pipelines/run_all.py --file_name=weibo --backend=offline", workspace)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert not (data / "GLM4" / "entity_train_1000.jsonl").exists()


def test_without_test_data_evaluation_is_skipped_and_that_is_said(tmp_path):
    workspace = make_workspace(tmp_path / "project", train=12, held_out=4)
    (workspace / "data/few_shot/weibo/test.jsonl").unlink()
    result = shell("python syn_pipelines/run_all.py --file_name=weibo --backend=offline --max_steps=2", workspace)
    assert result.returncode == 0, result.stderr
    assert "not evaluated" in result.stderr and "there is no test.jsonl" in result.stderr


def test_a_finished_run_does_not_need_its_model_any_more(finished):
    workspace, _ = finished
    folder = workspace / "data" / "few_shot" / "weibo" / "run"
    result = shell("python syn_pipelines/run_all.py --file_name=weibo --save_type_name=run --model_from_pretrained=/nowhere "
                   "--max_steps=4", workspace)
    # refused for the other model, not for the missing folder: nobody would be asked
    assert result.returncode == 2 and "model offline-v1 -> /nowhere" in result.stderr and folder.is_dir()
