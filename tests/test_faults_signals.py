"""Ctrl-C and SIGTERM in the real scripts at chosen moments, clocks that are set back, two processes at the same work."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from child import ROOT, environment, flags, last_line, prepared, run_child
from pipeline import NAME, all_bytes, read_rows, sentence, write_dataset, write_rows

from syn_pipelines.utils.journal import lock

TERM, INT = "signal.SIGTERM", "signal.SIGINT"
CODES = {TERM: 143, INT: 130}


def stopped(result: subprocess.CompletedProcess[str], number: str) -> None:
    assert result.returncode == CODES[number], result.stderr
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr, result.stderr
    said = "terminated" if number == TERM else "interrupted"
    assert last_line(result.stderr) == (f"{said}: what is finished is kept; the same command goes on from there (a training "
                                        "from its checkpoint).")


@pytest.mark.parametrize("script, file, number", [
    ("s0_prepare_data", "made/train_1000.jsonl.part", TERM),
    ("s1_predict_data", "GLM4/entity_train_1000.jsonl.part", TERM),
    ("s1_predict_data", ".journal/entity_train_1000.jsonl", INT),
    ("s2_continous_generation", "train_1000_synthetic.manifest.json.part", TERM),
    ("s3_predict_syn_data", "GLM4/entity_train_1000_synthetic.jsonl.part", INT),
    ("s4_split_data", "train_500.jsonl.part", TERM),
    ("s5_merge_data", "train_500_fusion.jsonl.part", TERM),
    ("s5_merge_data", "label_fusion.json.part", INT),
    ("s6_combine_syn_fusion_label", "label_syn_fusion.json.part", TERM),
    ("s8_process_label_and_combine", "train_500_syn_fusion.jsonl.part", TERM),
])
def test_a_step_stopped_in_the_middle_says_how_to_go_on_and_ends_the_same(script, file, number, undisturbed, tmp_path):
    made = prepared(tmp_path / "a", script)
    stopped(run_child(script, flags(tmp_path / "a", script), before=f"at('open', {file!r}, lambda: send({number}))\n"), number)
    assert not list(made.rglob("*.part"))
    result = run_child(script, flags(tmp_path / "a", script))
    assert result.returncode == 0, result.stderr
    assert all_bytes(made) == undisturbed(script, tmp_path / "a")


@pytest.mark.parametrize("script", ["s1_predict_data", "s4_split_data", "s7_pred_syn_data", "train_ner", "eval_ner", "run_all",
                                    "tools.ablation"])
@pytest.mark.parametrize("numbers", [(INT,), (TERM, INT)], ids=["once", "twice"])
def test_a_signal_while_a_script_is_starting_is_one_line(script, numbers, tmp_path):
    write_dataset(tmp_path)
    at = f"at('import', 'syn_pipelines.utils.records', lambda: send({', '.join(numbers)}))\n"
    result = run_child(script, {**flags(tmp_path), "backend": "offline"} if script == "run_all" else flags(tmp_path), before=at)
    stopped(result, numbers[0])
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / NAME / "GLM4").exists()


@pytest.mark.parametrize("number", [INT, TERM])
def test_a_second_signal_ends_a_script_that_is_still_tidying_up(number, tmp_path):
    run = prepared(tmp_path, "s4_split_data")
    before = (f"def stuck():\n    signal.signal(signal.SIGALRM, lambda *_: send({number}))\n    signal.alarm(1)\n"
              f"    time.sleep(60)\nat('open', 'run.log.jsonl', stuck)\nat('open', 'train_500.jsonl.part', lambda: send({number}))\n")
    stopped(run_child("s4_split_data", flags(tmp_path), before=before), number)
    assert not (run / "run.log.jsonl").exists()
    assert run_child("s4_split_data", flags(tmp_path)).returncode == 0


def test_run_all_is_stopped_within_a_step(tmp_path):
    run = prepared(tmp_path, "run_all")
    at = f"at('open', 'train_500_fusion.jsonl.part', lambda: send({TERM}))\n"
    stopped(run_child("run_all", flags(tmp_path, "run_all", max_steps=2), before=at), TERM)
    ended = {row["step"]: row["ended"] for row in read_rows(run / "run.log.jsonl")}
    assert ended["s4_split_data"] == "done" and ended["s5_merge_data"] == "Terminated"


def test_a_flag_that_would_begin_anew_is_named(tmp_path):
    run = prepared(tmp_path, "s1_predict_data")
    at = f"at('open', 'GLM4/entity_train_1000.jsonl.part', lambda: send({TERM}))\n"
    result = run_child("s1_predict_data", flags(tmp_path, "s1_predict_data", overwrite=1), before=at)
    stopped(result, TERM)
    assert "To go on later leave out --overwrite: it would begin anew." in result.stderr.splitlines()
    assert len(read_rows(run / ".journal" / "entity_train_1000.jsonl")) == 13


# --- where torch is at work ------------------------------------------------------------------------------------------

GOLD = {"train": "gold", "max_steps": 4, "evaluations": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A data set with a run whose model nobody disturbed."""
    folder = tmp_path_factory.mktemp("trained")
    prepared(folder, "s6_combine_syn_fusion_label")
    write_rows(folder / NAME / "test.jsonl", [sentence("杭州的小红今天很高兴"), sentence("王五没有去成都")])  # in no training set
    result = run_child("train_ner", flags(folder, **GOLD))
    assert result.returncode == 0, result.stderr
    return folder


def weights(folder: Path, name: str = "GLM4/ner/gold_1000") -> bytes:
    return (folder / NAME / name / "model.safetensors").read_bytes()


@pytest.mark.parametrize("at, number", [(("import", "torch"), INT), (("import", "torch.nn"), TERM), (("import", "numpy"), INT),
                                        (("open", "gold_1000.log.jsonl.part"), TERM), (("open", ".gold_1000.new/labels.json"), INT)],
                         ids=lambda value: value[1] if isinstance(value, tuple) else value)
def test_a_training_that_is_stopped_ends_with_the_same_model(at, number, trained, tmp_path):
    run = prepared(tmp_path, "s4_split_data")
    stopped(run_child("train_ner", flags(tmp_path, **GOLD), before=f"at(*{at!r}, lambda: send({number}))\n"), number)
    assert not (run / "ner" / "gold_1000").exists() and not list(run.rglob("*.part")) and not list(run.rglob(".*.new"))
    if at[0] == "open":
        assert run_child("train_ner", flags(tmp_path, **GOLD)).returncode == 0
        assert weights(tmp_path) == weights(trained)


@pytest.mark.parametrize("script, at, more", [
    ("eval_ner", ("open", f"{NAME}/test.jsonl"), {"train": "gold"}),
    ("eval_ner", ("import", "torch"), {"train": "gold"}),
    ("s7_pred_syn_data", ("open", "train_500_synthetic_target.jsonl.part"), {"model_from_pretrained": "GOLD"}),
])
def test_what_uses_a_model_is_stopped_in_one_line(script, at, more, trained):
    gold = str(trained / NAME / "GLM4" / "ner" / "gold_1000")
    more = {name: value.replace("GOLD", gold) for name, value in more.items()}
    stopped(run_child(script, flags(trained, **more), before=f"at(*{at!r}, lambda: send({TERM}))\n"), TERM)
    assert not list(trained.rglob("*.part"))
    assert run_child(script, flags(trained, **more)).returncode == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_ablation_is_stopped_with_all_its_trainings(jobs, trained):
    opts = flags(trained, sizes="500", train="gold,fusion", seeds=1, max_steps=4, evaluations=2, jobs=jobs)
    at = f"at('open', '.log.jsonl.part', lambda: send({TERM}))\n" if jobs == 1 else (
        f"import subprocess\nreal = subprocess.Popen.poll\ndef poll(self):\n    send({TERM})\n    return real(self)\n"
        "subprocess.Popen.poll = poll\n")
    stopped(run_child("tools.ablation", opts, before=at), TERM)
    with lock(trained / NAME / "GLM4" / ".journal", "ablation"):
        pass
    assert not list((trained / NAME / "GLM4" / "ablation").glob("results/*"))


# --- handlers --------------------------------------------------------------------------------------------------------

SWALLOWED = """
import os, signal, sys, time
from syn_pipelines.utils.summary import run_script
class Finalizer:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100): pass
def main():
    Finalizer()
    time.sleep(20)
    print("nobody stopped this")
run_script(main)
"""


def python(code: str, ignored: signal.Signals | None = None) -> subprocess.CompletedProcess[str]:
    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)
    return subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60,
                          preexec_fn=prepare, cwd=ROOT)


def test_a_signal_that_a_finalizer_swallows_is_not_lost():
    result = python(SWALLOWED)
    stopped(result, TERM)
    assert "nobody" not in result.stdout


def test_a_signal_that_is_ignored_stays_so():
    """As nohup and background jobs of scripts have it."""
    code = ("import os, signal, sys\nfrom syn_pipelines.utils.summary import run_script\n"
            "def main():\n    os.kill(os.getpid(), signal.SIGINT)\n    print('done')\nrun_script(main)\n")
    result = python(code, ignored=signal.SIGINT)
    assert (result.returncode, result.stdout) == (0, "done\n")


def test_a_program_of_ones_own_keeps_its_handlers():
    code = ("import signal, syn_pipelines\nfrom syn_pipelines.utils.summary import run_script\nrun_script(lambda: None)\n"
            "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
            "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n")
    assert python(code).returncode == 0


# --- clocks ----------------------------------------------------------------------------------------------------------

# Every look at the clock finds it an hour earlier than the last one.
BACK = ("import datetime\nstart, looks = time.time(), iter(range(10**9))\n"
        "time.time = lambda: start - 3600 * next(looks)\ntime.time_ns = lambda: int(time.time() * 10**9)\n")


@pytest.mark.parametrize("script", ["s1_predict_data", "s5_merge_data"])
def test_a_clock_that_is_set_back_changes_nothing(script, undisturbed, tmp_path):
    made = prepared(tmp_path / "a", script)
    result = run_child(script, flags(tmp_path / "a", script), before=BACK)
    assert result.returncode == 0 and "-" not in result.stderr.split("done in ")[1].split(" s")[0], result.stderr
    assert all_bytes(made) == undisturbed(script, tmp_path / "a")
    assert all(row["seconds"] >= 0 for row in read_rows(made / "run.log.jsonl"))


def test_only_the_times_of_log_lines_and_decisions_and_the_age_of_files_are_read_from_a_clock_that_can_be_set():
    found = [(path.name, ast.unparse(node)) for path in sorted((ROOT / "syn_pipelines").rglob("*.py"))
             for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if (isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns"))
             or (isinstance(node, ast.ImportFrom) and node.module == "time")]
    assert {name for name, _ in found} == {"summary.py", "decisions.py", "store.py", "import_annotations.py", "jsonl.py"} and len(found) == 5


# --- two processes ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("script, name", [
    ("s1_predict_data", "entity_train_1000"), ("s2_continous_generation", "train_1000_synthetic"),
    ("s3_predict_syn_data", "entity_train_1000_synthetic"), ("s4_split_data", "s4_split_data"), ("s5_merge_data", "s5_merge_data"),
    ("s6_combine_syn_fusion_label", "s6_combine_syn_fusion_label"), ("s7_pred_syn_data", "s7_pred_syn_data"),
    ("s8_process_label_and_combine", "s5_merge_data"), ("train_ner", "train_ner_fusion_1000")])
def test_a_second_process_at_the_same_work_is_told_which_one_is_at_it(script, name, tmp_path):
    run = prepared(tmp_path, "s3_predict_syn_data" if script[1] in "123" else "s4_split_data")
    with lock(run / ".journal", name):
        result = run_child(script, flags(tmp_path, script))
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert f"process {os.getpid()} is at the same work ({name})" in last_line(result.stderr)


# --- journals --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("script, name", [("s1_predict_data", "entity_train_1000"), ("s2_continous_generation", "train_1000_synthetic"),
                                          ("s3_predict_syn_data", "entity_train_1000_synthetic")])
def test_a_torn_last_line_is_asked_again_and_a_broken_one_in_the_middle_is_named(script, name, tmp_path):
    run = prepared(tmp_path, script)
    assert run_child(script, flags(tmp_path, script)).returncode == 0
    path, files = run / ".journal" / f"{name}.jsonl", all_bytes(run)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    result = run_child(script, flags(tmp_path, script))
    assert result.returncode == 0 and "about 1 of" in result.stderr
    assert path.read_bytes() == whole and all_bytes(run) == files
    lines = whole.splitlines(keepends=True)
    damaged = b"".join([*lines[:4], lines[4][:-9] + b"\n", *lines[5:]])
    path.write_bytes(damaged)
    result = run_child(script, flags(tmp_path, script))
    assert result.returncode == 2 and f"{path}:5: is broken" in last_line(result.stderr)
    assert path.read_bytes() == damaged and all_bytes(run) == files
    path.write_bytes(b"".join([*lines[:4], *lines[5:]]))  # as the message advises
    assert run_child(script, flags(tmp_path, script)).returncode == 0
    assert all_bytes(run) == files
