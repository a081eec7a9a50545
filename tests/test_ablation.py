"""The ablation: real tiny trainings, stopped in every way, and figures that agree wherever they stand."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline import ROOT, all_bytes, read_json, read_rows, sentence, write_dataset, write_rows, write_run

from syn_pipelines import UserError, eval_ner, train_ner
from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s7_pred_syn_data as s7
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines.tools import _ablation_report, ablation
from syn_pipelines.tools._ablation_training import _digest
from syn_pipelines.utils.options import load_options

pytestmark = pytest.mark.usefixtures("one_thread")
NEW = ("张三在上海", "小红来自成都", "今天下雨了", "李四爱北京")  # stand in no training set
SHORT = {"max_steps": 5, "evaluations": 1, "ext_weight": 1.0}  # a training


def step(module, file_dir: Path, **flags):
    return module.main(cmd_args=False, file_dir=str(file_dir), file_name="demo", **flags)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory) -> Path:
    """A data set whose run went through step 8."""
    folder = tmp_path_factory.mktemp("ablation") / "data"  # as deep as its copies: manifests name files relatively
    folder.mkdir()
    write_run(folder, held_out=True)
    write_rows(folder / "demo" / "test.jsonl", [sentence(text) for text in (*NEW, "张三在北京工作")])
    step(s4, folder)
    step(s5, folder)
    for size in (250, 500, 1000):
        step(train_ner, folder, size=size, max_steps=20, evaluations=1)
    step(s7, folder)
    step(s8, folder)
    return folder


@pytest.fixture
def data(run_once, tmp_path) -> Path:
    """A copy to change."""
    shutil.copytree(run_once, tmp_path / "data")
    return tmp_path / "data"


def folder_of(file_dir: Path) -> Path:
    return file_dir / "demo" / "GLM4" / "ablation"


def ablate(file_dir: Path, **flags):
    return step(ablation, file_dir, **{"sizes": "500", "train": "gold,fusion", "seeds": 1, **SHORT, **flags})


def start(file_dir: Path, **flags) -> subprocess.Popen[str]:
    """The tool as a command of its own."""
    flags = {"file_dir": file_dir, "file_name": "demo", **SHORT, **flags}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "syn_pipelines.tools.ablation", *(f"--{k}={v}" for k, v in flags.items())],
                            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def results(file_dir: Path) -> list[Path]:
    return sorted((folder_of(file_dir) / "results").glob("*.json"))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def children(process: subprocess.Popen) -> list[int]:
    """Processes that it has started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def untimed(value):
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if name != "seconds"}
    return [untimed(part) for part in value] if isinstance(value, list) else value


# --- the whole of it -------------------------------------------------------------------------------------------------

WHOLE = {"sizes": "500,1000", "train": "gold,fusion,syn_fusion", "seeds": 2, "keep_models": 1,
         "drop_labels": "PERSON,LOCATION", **SHORT}


@pytest.fixture(scope="module")
def whole(run_once, tmp_path_factory) -> Path:
    """All training sets, two sizes, two seeds, models kept; with single labels left out."""
    folder = tmp_path_factory.mktemp("whole") / "data"
    shutil.copytree(run_once, folder)
    assert step(ablation, folder, **WHOLE).ok
    return folder


def content_of(file_dir: Path):
    return read_json(folder_of(file_dir) / "ablation.json")


def test_every_combination_has_a_row_and_every_cell_its_seeds(whole):
    content = content_of(whole)
    kinds = [(row["train"], row["size"], row["seed"]) for row in content["rows"] if not row["dropped"]]
    assert sorted(kinds) == sorted((train, size, seed) for train in ("gold", "fusion", "syn_fusion") for size in (500, 1000)
                                   for seed in (42, 43))
    assert all(row["steps"] == 5 and row["sentences"] >= 6 and row["seconds"] > 0 for row in content["rows"])
    assert [(cell["size"], cell["train"]) for cell in content["summary"]] == [
        (size, train) for size in (500, 1000) for train in ("gold", "fusion", "syn_fusion")]
    assert all(cell["seeds"] == [42, 43] for cell in content["summary"])
    assert content["test"] == {"sentences": 5, "new": 4} and content["missing"] == 0 and content["warnings"] == []


def test_the_scores_are_those_of_eval_ner(whole):
    for row in content_of(whole)["rows"]:
        if row["seed"] == 43 or row["dropped"]:
            continue
        model, = folder_of(whole).glob(f"models/{row['train']}_{row['size']}_seed{row['seed']}_*/")
        score = {split: step(eval_ner, whole, model_from_pretrained=str(model), split=split) for split in ("dev", "test")}
        assert row["dev_f1"] == pytest.approx(score["dev"].f1, abs=0.01)
        assert row["test_all_f1"] == pytest.approx(score["test"].f1, abs=0.01)
        assert row["test_f1"] == pytest.approx(score["test"].unseen["f1"], abs=0.01)
        assert row["test_precision"] == pytest.approx(score["test"].unseen["precision"], abs=0.01)


def test_mean_deviation_and_gain_follow_from_the_rows(whole):
    content = content_of(whole)
    values = {(row["train"], row["size"]): [] for row in content["rows"]}
    for row in content["rows"]:
        if not row["dropped"]:
            values[row["train"], row["size"]].append(row["test_f1"])
    for cell in content["summary"]:
        mine, gold = values[cell["train"], cell["size"]], values["gold", cell["size"]]
        assert cell["test_f1"]["mean"] == pytest.approx(np.mean(mine), abs=0.011)
        assert cell["test_f1"]["sd"] == pytest.approx(np.std(mine, ddof=1), abs=0.011)
        if cell["train"] == "gold":
            assert cell["gain"] is None
        else:
            assert cell["gain"]["mean"] == pytest.approx(np.mean(mine) - np.mean(gold), abs=0.02)
            assert cell["gain"]["low"] <= cell["gain"]["mean"] <= cell["gain"]["high"]


def test_the_markdown_shows_the_numbers_of_the_json(whole):
    content, text = content_of(whole), (folder_of(whole) / "ablation.md").read_text(encoding="utf-8")
    tables = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().split("\n")]
              for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) == 4
    for table, name, gain in zip(tables, ("test_f1", "test_all_f1", "dev_f1"), ("gain", "gain_all", "gain_dev")):
        assert table[0] == ["size", "gold", "fusion", "syn_fusion"] and [row[0] for row in table[2:]] == ["500", "1000"]
        shown = [cell for row in table[2:] for cell in row[1:]]
        for cell, found in zip(content["summary"], shown, strict=True):
            wanted = [f"{cell[name]['mean']:.1f}", f"{cell[name]['sd']:.1f}"]
            if cell[gain]:
                wanted += [f"{cell[gain][part]:+.1f}" for part in ("mean", "low", "high")]
            assert re.findall(r"[-+]?\d+\.\d", found) == wanted
    assert [row[0] for row in tables[3][2:]] == [row["label"] for row in content["drop_labels"]["labels"]]
    for row, wanted in zip(tables[3][2:], content["drop_labels"]["labels"], strict=True):
        assert row[1:3] == [str(wanted["spans"]), f"{wanted['weight']:.4f}"]
        assert row[3] == "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**wanted["test"])
        assert row[4] == "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**wanted["dev"])


def test_leaving_out_a_label_is_compared_with_the_whole_set(whole):
    content = content_of(whole)
    drops = content["drop_labels"]
    assert (drops["train"], drops["size"]) == ("fusion", 1000)
    assert {row["label"] for row in drops["labels"]} == {"PERSON", "LOCATION"}
    spans = [e["entity"] for row in read_rows(whole / "demo" / "GLM4" / "1000" / "train_1000_fusion.jsonl") for e in row["entities"]]
    full = np.mean([r["test_f1"] for r in content["rows"] if (r["train"], r["size"], r["dropped"]) == ("fusion", 1000, "")])
    for row in drops["labels"]:
        assert row["spans"] == spans.count(row["label"]) > 0 and 0 < row["weight"] <= 1 and row["trainings"] == 2
        without = np.mean([r["test_f1"] for r in content["rows"] if r["dropped"] == row["label"]])
        assert row["test"]["mean"] == pytest.approx(without - full, abs=0.02)
        assert row["test"]["low"] <= row["test"]["mean"] <= row["test"]["high"]
    changes = [row["test"]["mean"] for row in drops["labels"]]
    assert changes == sorted(changes)
    model = next(folder_of(whole).glob("models/fusion_1000_without_*/"))
    assert len(read_json(model / "labels.json")) == len(read_json(whole / "demo" / "GLM4" / "label_fusion.json")) - 1


def test_the_plot_is_a_real_picture_and_the_same_bytes_each_time(whole):
    folder = folder_of(whole)
    before = {kind: (folder / f"ablation.{kind}").read_bytes() for kind in ("svg", "png")}
    tree = ElementTree.fromstring(before["svg"])
    assert tree.tag == "{http://www.w3.org/2000/svg}svg" and b"dc:date" not in before["svg"]
    assert before["png"].startswith(b"\x89PNG\r\n\x1a\n")
    assert {kind: data for kind, data in _ablation_report.plot(content_of(whole)).items()} == {
        kind: before[kind] for kind in ("png", "svg")}


def test_the_same_command_again_trains_nothing_and_changes_no_byte(whole, caplog):
    before = all_bytes(folder_of(whole))
    caplog.set_level("INFO")
    assert step(ablation, whole, **WHOLE).to_do == 0
    assert all_bytes(folder_of(whole)) == before
    assert "  16 done already, 0 to do" in caplog.messages
    assert not [text for text in caplog.messages if " of 16: " in text]


# --- going on, and what may be used again ----------------------------------------------------------------------------

FULL = {"sizes": "250,500", "train": "gold,fusion", "seeds": 2}


@pytest.fixture(scope="module")
def uninterrupted(run_once, tmp_path_factory):
    """The content of ablation.json."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "data"
    shutil.copytree(run_once, folder)
    return ablate(folder, **FULL).content


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_run_goes_on_and_ends_with_the_figures_of_an_uninterrupted_one(data, uninterrupted, jobs, caplog):
    process = start(data, jobs=jobs, **{**FULL, "seeds": 50})  # more than can be done before the signal
    wait_for(lambda: len(results(data)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in results(data)}
    assert 2 <= len(kept) < 200 and not (folder_of(data) / "ablation.json").exists()
    caplog.set_level("INFO")
    assert ablate(data, **FULL).ok
    found = next(filter(None, (re.match(r"  (\d+) done already, (\d+) to do", text) for text in caplog.messages)))
    done, left = map(int, found.groups())
    assert done + left == 8 and 2 <= done <= len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert untimed(content_of(data)) == untimed(uninterrupted)
    assert not any(list(folder_of(data).glob(f"{sub}/*seed{seed}*")) for sub in ("models", "logs") for seed in (42, 43))


def test_trainings_side_by_side_end_with_the_tool_that_started_them(data):
    process = start(data, jobs=2, sizes="1000", train="gold", seeds=2, max_steps=100_000)
    wait_for(lambda: len(children(process)) == 2)
    started = children(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    wait_for(lambda: not any(map(alive, started)))


def test_an_interrupt_leaves_the_tables_of_what_is_done(data):
    process = start(data, **{**FULL, "seeds": 50})  # more than can be done before the signal
    wait_for(lambda: len(results(data)) >= 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err
    content = content_of(data)
    assert 3 <= len(content["rows"]) == 200 - content["missing"] < 200
    text = (folder_of(data) / "ablation.md").read_text(encoding="utf-8")
    assert f"**Not complete: {content['missing']} trainings are missing.**" in text


def test_a_larger_question_takes_the_answers_of_a_smaller_one(data):
    ablate(data)
    before = {path: path.stat().st_mtime_ns for path in results(data)}
    result = ablate(data, sizes="500,1000")
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(results(data)) == 4
    assert [cell["size"] for cell in result.content["summary"]] == [500, 500, 1000, 1000]


@pytest.mark.parametrize("name, touched", [("GLM4/500/train_500_fusion.jsonl", {"fusion"}), ("dev.jsonl", {"gold", "fusion"}),
                                           ("test.jsonl", {"gold", "fusion"}), ("GLM4/label_fusion.json", {"fusion"})])
def test_results_of_changed_data_are_not_used_again(data, name, touched):
    ablate(data)
    before = set(results(data))
    path = data / "demo" / name
    if path.suffix == ".jsonl":
        write_rows(path, read_rows(path)[:-1])
    else:
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    ablate(data)
    assert {path.name.partition("_")[0] for path in set(results(data)) - before} == touched


def test_results_of_other_options_are_not_used_again(data):
    ablate(data)
    before = set(results(data))
    assert [row["steps"] for row in ablate(data, max_steps=4).content["rows"]] == [4, 4]
    assert len(set(results(data)) - before) == 2 and before <= set(results(data))


@pytest.mark.parametrize("harm", [
    lambda text: text[:100],
    lambda text: "[]",
    lambda text: "null",
    lambda text: json.dumps({**json.loads(text), "dev": []}),
    lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "seconds"}),
    lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "sha256"}),
], ids=["torn", "a list", "null", "no sentences", "no seconds", "no checksum"])
def test_a_result_that_cannot_be_used_is_trained_again(data, caplog, harm):
    first = ablate(data).content
    path = results(data)[0]
    path.write_text(harm(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert untimed(ablate(data).content) == untimed(first)
    assert [text for text in caplog.messages if "cannot be used" in text] == [f"{path}: cannot be used, this training runs again."]


def test_a_checkpoint_that_cannot_be_used_costs_no_more_than_time(data):
    first = ablate(data, train="gold", keep_models=1).content
    path, = results(data)
    path.unlink()
    shutil.rmtree(folder_of(data) / "models")
    (folder_of(data) / "models").mkdir()
    (folder_of(data) / "models" / f"{path.stem}.checkpoint").write_bytes(b"garbage")
    assert untimed(ablate(data, train="gold", keep_models=1).content) == untimed(first)


def test_a_model_that_was_found_ready_has_no_time(data):
    ablate(data, train="gold", keep_models=1)
    path, = results(data)
    path.unlink()
    row, = ablate(data, train="gold", keep_models=1).content["rows"]
    assert row["seconds"] is None


def test_results_of_another_version_of_the_program_are_named(data):
    ablate(data)
    path = results(data)[0]
    result = {**read_json(path), "program": "0" * 64}
    del result["sha256"]
    path.write_text(json.dumps({**result, "sha256": _digest(result)}), encoding="utf-8")
    warning, = ablate(data).content["warnings"]
    assert warning.startswith("1 of 2 results were made by another version of this program. Remove ")


def test_models_are_removed_even_when_a_kill_came_in_between_and_kept_when_asked(data):
    ablate(data, train="gold", keep_models=1)
    ablate(data, train="fusion")
    models = folder_of(data) / "models"
    kept, = models.glob("gold_500_seed42_*/")
    left = models / next(path.stem for path in results(data) if path.name.startswith("fusion"))
    left.mkdir()
    left.with_name(left.name + ".checkpoint").touch()
    ablate(data)
    assert {path.name.partition(".")[0] for path in models.iterdir()} == {kept.name} and (kept / "model.safetensors").is_file()


# --- trainings that fail ---------------------------------------------------------------------------------------------

def test_a_training_that_dies_is_reported_and_the_others_go_on(data, monkeypatch):
    import torch

    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def dies_once(*args, **flags):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return clip(*args, **flags)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", dies_once)
    result = ablate(data)
    assert not result.ok and len(result.failed) == 1
    assert result.failed[0].startswith("gold 500, seed 42: RuntimeError: out of memory (see ")
    log, = (folder_of(data) / "logs").iterdir()
    assert str(log) in result.failed[0] and "in dies_once" in log.read_text(encoding="utf-8")
    assert [row["train"] for row in result.content["rows"]] == ["fusion"] and result.content["missing"] == 1
    assert ablate(data).ok and not log.exists()  # it is tried again


def test_a_killed_process_is_reported_and_the_exit_code_is_1(data):
    process = start(data, jobs=2, sizes="500", train="gold,fusion", seeds=1, max_steps=60)
    wait_for(lambda: len(children(process)) == 2)
    os.kill(children(process)[0], signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 1 and "gold 500, seed 42: FAILED, killed by signal 9" in err
    assert "failed: gold 500, seed 42: killed by signal 9 (see " in err
    assert [row["train"] for row in content_of(data)["rows"]] == ["fusion"] and "Not complete: 1" in out


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_mistake_that_ends_every_training_ends_the_tool_at_once(data, jobs):
    with pytest.raises(UserError, match="^/nowhere/bert: no encoder could be loaded") as error:
        ablate(data, jobs=jobs, seeds=3, train="gold", from_pretrained="/nowhere/bert")
    assert "Traceback" not in str(error.value) and "\n" not in str(error.value)
    assert not results(data) and not (folder_of(data) / "ablation.json").exists()


# --- what it says ----------------------------------------------------------------------------------------------------

def arguments(file_dir: Path, *more: str) -> list[str]:
    flags = {"file_dir": file_dir, "file_name": "demo", "sizes": 500, "train": "gold,fusion", "seeds": 1, **SHORT}
    return [*(f"--{name}={value}" for name, value in flags.items()), *more]


def test_the_command_prints_the_tables_and_one_line_a_training(data, capsys, caplog):
    caplog.set_level("INFO")
    assert ablation.main(arguments(data)).ok
    assert capsys.readouterr().out == (folder_of(data) / "ablation.md").read_text(encoding="utf-8") + "\n"
    lines = caplog.messages
    assert lines[0] == "ablation: 2 trainings = 2 sets x 1 size x 1 seed"
    assert lines[1] == "  0 done already, 2 to do: how long is not known before the first one is done"
    told = [line for line in lines if re.match(r"\d of 2: ", line)]
    assert len(told) == 2 and "1 of 2: gold 500, seed 42: dev F1 " in told[0] and told[0].endswith(" left")
    assert "5 steps in " in told[1] and told[1].endswith(" trainings an hour")


def test_json_is_one_line_with_the_summary(data, capsys):
    ablation.main(arguments(data, "--json"))
    out = capsys.readouterr().out
    line, content = json.loads(out), content_of(data)
    assert out.count("\n") == 1
    assert line["summary"] == content["summary"] and line["failed"] == [] and line["missing"] == 0


def test_a_user_mistake_ends_the_command_with_exit_code_2(data):
    with start(data, sizes="300") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err == "error: ablation: --sizes: '300' must be some of 250, 500, 1000, with commas between. See --help.\n"


def test_a_dry_run_tells_the_plan_and_writes_nothing(data, caplog):
    caplog.set_level("INFO")
    ablate(data)
    before = all_bytes(data)
    caplog.clear()
    result = ablate(data, seeds=2, drop_labels="PERSON", dry_run=1)
    assert result.to_do == 4 and result.content == {} and all_bytes(data) == before
    assert caplog.messages[0] == "ablation: 6 trainings = 2 sets x 1 size x 2 seeds + 2 for --drop_labels"
    assert re.fullmatch(r"  --drop_labels: 1 label of fusion 500 x 2 seeds, 2 of these trainings to do: about \d+ .*",
                        caplog.messages[1])
    assert re.fullmatch(r"  2 done already, 4 to do: about \d+ .*", caplog.messages[2])


def test_all_labels_with_spans_are_left_out_one_at_a_time(data):
    spans = {e["entity"] for row in read_rows(data / "demo" / "GLM4" / "500" / "train_500_fusion.jsonl")
             for e in row["entities"]} - {"PER", "LOC"}
    result = ablate(data, train="fusion", drop_labels="all", max_steps=1)
    assert {row["label"] for row in result.content["drop_labels"]["labels"]} == spans
    assert result.to_do == 0 and len(results(data)) == 1 + len(spans)


def test_extension_labels_without_weight_are_told(data):
    warning, = ablate(data, ext_weight=0).content["warnings"]
    assert warning.endswith("Give another --ext_weight to see what they are worth.") and "train_500_fusion.jsonl" in warning


def test_a_model_of_another_size_marks_what_it_labelled(data):
    step(s7, data, model_from_pretrained=str(data / "demo" / "GLM4" / "ner" / "fusion_1000"))
    step(s8, data)
    result = ablate(data, sizes="250,1000", train="gold,syn_fusion")
    notes = {(cell["train"], cell["size"]): cell["note"] for cell in result.content["summary"]}
    assert notes["syn_fusion", 250] == ("the synthetic sentences of size 250 were labelled by ner/fusion_1000/"
                                        "model.safetensors, which was not trained on this size alone")
    assert {notes[key] for key in notes if key != ("syn_fusion", 250)} == {""}
    assert [row["note"] for row in result.content["rows"] if row["train"] == "syn_fusion"] == [notes["syn_fusion", 250], ""]
    warning, = result.content["warnings"]
    assert "s7_pred_syn_data.py" in warning and "was not trained on this size alone" in warning
    line = next(line for line in result.markdown.split("\n") if line.startswith("| 250"))
    assert line.endswith(r"\* |") and r"\* the synthetic sentences of size 250" in result.markdown


def test_synthetic_sentences_of_unknown_origin_and_their_absence_are_told(data):
    target = data / "demo" / "GLM4" / "250" / "train_250_synthetic_target.jsonl"
    target.with_name("train_250_synthetic_target.manifest.json").unlink()
    result = ablate(data, sizes="250", train="syn_fusion")
    assert "nothing tells which model labelled" in result.content["summary"][0]["note"]
    path = data / "demo" / "GLM4" / "250" / "train_250_syn_fusion.jsonl"
    write_rows(path, [row for row in read_rows(path) if not row.get("synthetic")])
    result = ablate(data, sizes="250", train="syn_fusion")
    assert any("holds no synthetic sentence, so it is no more than fusion" in text for text in result.content["warnings"])


def test_without_matplotlib_the_tables_are_written_all_the_same(data, monkeypatch, caplog):
    ablate(data)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = ablate(data)
    assert result.ok and {path.suffix for path in folder_of(data).iterdir() if path.is_file()} == {".json", ".md"}
    assert "no plot, for matplotlib is not installed: pip install matplotlib" in caplog.messages


def test_lists_may_come_from_a_notebook(data):
    result = ablate(data, sizes=[500], train=["fusion", "gold"], max_steps=1)
    assert [cell["train"] for cell in result.content["summary"]] == ["fusion", "gold"]
    assert result._repr_markdown_() == (folder_of(data) / "ablation.md").read_text(encoding="utf-8")


# --- mistakes --------------------------------------------------------------------------------------------------------

def test_all_missing_files_are_named_with_the_commands_that_make_them(tmp_path):
    write_dataset(tmp_path)
    with pytest.raises(UserError) as error:
        step(ablation, tmp_path, sizes="250,1000", **SHORT)
    lines = str(error.value).split("\n")
    files = ["dev.jsonl", "test.jsonl", "train_250.jsonl", "train_250_fusion.jsonl", "label_fusion.json",
             "train_250_syn_fusion.jsonl", "label_syn_fusion.json", "train_1000_fusion.jsonl", "train_1000_syn_fusion.jsonl"]
    assert sorted(line.partition(": does not exist. ")[0].rpartition("/")[2] for line in lines) == sorted(files)
    made_by = {"train_250.jsonl": "s4_split_data", "label_fusion.json": "s5_merge_data", "dev.jsonl": "s0_prepare_data",
               "train_1000_syn_fusion.jsonl": "s8_process_label_and_combine"}
    for name, script in made_by.items():
        assert any(f"/{name}: " in line and f"python syn_pipelines/{script}.py" in line for line in lines)
    assert not (tmp_path / "demo" / "GLM4").exists()


@pytest.mark.parametrize("flags, message", [
    ({"sizes": "250,300"}, "--sizes: '250,300' must be some of 250, 500, 1000, with commas between"),
    ({"sizes": ""}, "--sizes: '' must be some of"),
    ({"train": "gold,silver"}, "--train: 'gold,silver' must be some of gold, fusion, syn_fusion"),
    ({"seeds": 0}, "--seeds: 0 must lie between 1 and 1000"),
    ({"train": "gold", "drop_labels": "all"}, "gold has no extension labels to leave out. Add fusion to --train"),
    ({"drop_labels": "PERSN"}, r"fusion 500 has no extension label 'PERSN' \(did you mean 'PERSON'\?\). It has: "),
    ({"drop_labels": "PER"}, "fusion 500 has no extension label 'PER'"),
    ({"file_name": "nowhere"}, "there is no such data set"),
    ({"max_stepz": 5}, "unknown option 'max_stepz'"),
])
def test_a_mistake_is_one_clear_error_before_any_training(data, flags, message):
    with pytest.raises(UserError, match=message):
        ablation.main(cmd_args=False, **{"file_dir": str(data), "file_name": "demo", "sizes": "500", "train": "gold,fusion",
                                         **SHORT, **flags})
    assert not folder_of(data).exists()


def test_test_sentences_that_all_stand_in_the_training_set_measure_nothing(data):
    write_rows(data / "demo" / "test.jsonl", [sentence("张三在北京工作"), sentence("今天很冷")])
    with pytest.raises(UserError, match="of its 2 sentences 1 do not stand in train_1000.jsonl, and none of these has an entity"):
        ablate(data)


def test_labels_that_the_label_file_lacks_are_named_before_any_training(data):
    path = data / "demo" / "GLM4" / "label_fusion.json"
    content = read_json(path)
    path.write_text(json.dumps({name: row for name, row in content.items() if name != "PERSON"}), encoding="utf-8")
    with pytest.raises(UserError, match="train_500_fusion.jsonl: .* spans of 'PERSON', which is not in .*label_fusion"):
        ablate(data)


def test_every_option_that_shapes_a_model_is_handed_to_the_trainings():
    theirs = {f.name: f for f in dataclasses.fields(train_ner.Options)}
    mine = {f.name: f for f in dataclasses.fields(ablation.Options)}
    shaping = set(train_ner.settings_of(train_ner.Options())) - {"size", "format_version"}
    assert shaping <= set(mine)
    for name in shaping - {"train", "drop_labels"}:
        assert (mine[name].default, mine[name].metadata) == (theirs[name].default, theirs[name].metadata)
    opts = load_options(ablation.Options, ["--lr=0.5", "--warmup=7", "--seeds=2"])
    keywords = opts.training("gold", 500, 43)
    assert (keywords["lr"], keywords["warmup"], keywords["seed"], keywords["drop_labels"]) == (0.5, 7.0, 43, "")
    assert load_options(train_ner.Options, False, keywords).train == "gold"


# --- pure functions --------------------------------------------------------------------------------------------------

@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_the_spread_is_that_of_numpy(values):
    spread = _ablation_report._spread(values)
    assert spread["mean"] == pytest.approx(np.mean(values), abs=0.006)
    assert spread["sd"] is None if len(values) == 1 else spread["sd"] == pytest.approx(np.std(values, ddof=1), abs=0.006)


@given(st.text(max_size=20))
def test_a_label_stands_in_a_table_as_it_is(label):
    shown = _ablation_report._plain(label)
    assert re.sub(r"\\([\\`*_{}\[\]<>|#~$])", r"\1", shown) == label
    assert not re.search(r"(?<!\\)(\\\\)*[|`*<]", shown)


@given(st.lists(st.sampled_from(["a", "b", " c "]), max_size=5), st.sampled_from([",", " , ", ",,"]))
def test_a_list_holds_each_name_once_in_the_order_given(names, comma):
    assert ablation.listed(comma.join(names)) == list(dict.fromkeys(name.strip() for name in names))
