"""The ledger: a run that nobody touched adds up whatever became of it."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fault_server import Fault, FaultServer
from ledger_runs import ASKING, MERGING, Run, assert_balanced, lines_of, new_run, whole_run
from pipeline import HARD_TOKENS, quick_writes, read_rows, write_rows, write_run  # noqa: F401 (a fixture)
from scripted import write_data_set

from syn_pipelines import s1_predict_data as s1
from syn_pipelines import s2_continous_generation as s2
from syn_pipelines import s3_predict_syn_data as s3
from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines.tools import ledger
from syn_pipelines.utils.paths import manifest_path


@pytest.fixture(scope="module", params=["sample_zh", "sample_en"])
def either(request, tmp_path_factory) -> Run:
    return whole_run(tmp_path_factory.mktemp(request.param), request.param)


# --- what was not touched adds up ----------------------------------------------------------------------------------

def test_a_whole_run_is_balanced_and_every_line_adds_up(either):
    content = assert_balanced(either).as_dict()
    assert content["balanced"] is True and content["problems"] == [] and content["notes"] == []
    assert {line["step"].split()[0] for line in content["steps"]} == {"data", "s1", "s2", "s3", "s4", "s5", "train", "s7", "s8"}
    assert all(sum(line["parts"].values()) == line["total"] for line in content["steps"])
    assert json.loads(json.dumps(content)) == content


def test_the_numbers_of_one_step_go_on_in_the_next(either):
    result = assert_balanced(either)
    rows = read_rows(either.paths.train)
    gold = sum(len(row["entities"]) for row in rows)
    assert lines_of(result, "s1 entity")["sentences"]["total"] == len(rows)
    items = lines_of(result, "s1 pos")["things listed in the replies"]["parts"]["items of ok replies"]
    assert lines_of(result, "s5 1000")["pos items of original sentences"]["total"] == items > 0
    entities = lines_of(result, "s5 1000")["entities in train_1000_fusion.jsonl"]["parts"]
    assert entities["gold"] == gold == lines_of(result, "s8 1000")["gold entities"]["parts"]["unchanged"]
    spans = lines_of(result, "s5 1000")["spans of the placed items, original"]["parts"]["extension spans"]
    assert spans == entities["extension spans"] == lines_of(result, "s5 1000")["spans counted in label_fusion.json"]["total"]
    published = lines_of(result, "s2")["pieces of the explanations"]["parts"]["published"]
    assert published == lines_of(result, "s3 entity")["sentences"]["total"]
    assert lines_of(result, "s8 1000")["sentences"]["parts"] == {"synthetic": published, "original": len(rows)}


def test_what_a_run_has_not_come_to_is_not_there_yet_and_no_imbalance(tmp_path):
    run = new_run(tmp_path, train=8)
    run.step(s1, mode="entity", backend="offline")
    assert "s1 pos" in "".join(assert_balanced(run).as_dict()["notes"])
    for module, flags in ASKING[1:]:
        run.step(module, **flags, backend="offline")
        assert_balanced(run)
    for module, flags in MERGING:
        run.step(module, **flags)
        result = assert_balanced(run)
    assert "s7: " in str(result) and "s7_pred_syn_data.py" in str(result) and "not there yet" in str(result)
    run.label()
    assert "s8: " in str(assert_balanced(run))
    run.step(s8)
    assert assert_balanced(run).as_dict()["notes"] == []


def test_what_was_not_asked_yet_is_told_and_no_imbalance(tmp_path):
    run = new_run(tmp_path)
    run.ask(limit=5)
    run.merge()
    result = assert_balanced(run)
    assert lines_of(result, "s1 entity")["sentences"]["parts"]["not asked yet"] == 24 - 5
    assert lines_of(result, "s2")["explanations"]["parts"]["not asked yet"] > 0
    run.ask()
    run.merge()
    assert lines_of(assert_balanced(run), "s1 entity")["sentences"]["parts"]["not asked yet"] == 0


def test_a_file_made_before_its_input_grew_is_named_with_the_command_that_renews_it(tmp_path):
    run = new_run(tmp_path, train=8)
    run.ask(limit=3)
    run.merge()
    run.step(s1, mode="entity", backend="offline")
    result = run.look()
    assert not result.balanced
    found = {problem.file: problem for problem in result.book.problems if "out of date" in problem.problem}
    assert "s4_split_data.py" in found[str(run.paths.sized(250, "entity_train_{n}"))].mend


@pytest.mark.parametrize(("step", "flags"), ASKING)
def test_a_step_killed_in_the_middle_is_no_imbalance(tmp_path, step, flags):
    run = new_run(tmp_path)
    for module, mode in ASKING[:ASKING.index((step, flags))]:
        run.step(module, **mode, backend="offline")
    output = {s1: f"{flags.get('mode')}_train_1000", s2: "train_1000_synthetic", s3: f"{flags.get('mode')}_train_1000_synthetic"}
    journal = run.paths.journals / f"{output[step]}.jsonl"
    run.step(step, **flags, backend="offline")
    lines = journal.read_bytes().split(b"\n")
    for path in run.paths.run.glob(f"{output[step]}.*"):
        path.unlink()
    journal.write_bytes(b"\n".join(lines[:4]) + b"\n" + lines[4][:9])  # what a kill leaves: whole lines and a torn one
    notes = " ".join(assert_balanced(run).as_dict()["notes"])
    assert "not there yet" in notes and f"{journal}:5" in notes
    run.step(step, **flags, backend="offline")
    assert_balanced(run)


def test_a_kill_between_a_file_and_its_manifest_is_no_imbalance(tmp_path):
    run = new_run(tmp_path, train=8)
    run.ask(limit=3)
    manifest = manifest_path(run.paths.annotation("entity", False))
    before = manifest.read_bytes()
    run.step(s1, mode="entity", backend="offline")
    manifest.write_bytes(before)
    assert "newer than its manifest" in str(assert_balanced(run))
    manifest.unlink()
    assert "without a manifest" in str(assert_balanced(run))


def test_a_kill_in_step_8_between_a_merged_file_and_its_manifest_is_no_imbalance(tmp_path):
    run = new_run(tmp_path, train=8)
    run.ask()
    run.merge()
    run.label()
    before = {path: path.read_bytes() for path in run.paths.run.rglob("*") if path.is_file()}
    run.step(s8)
    merged = [run.paths.sized(size, "train_{n}_synthetic_fusion") for size in (250, 500)]
    for path in [path for path in run.paths.run.rglob("*") if path.is_file()]:
        if path in (*merged, manifest_path(merged[0])):
            assert path.read_bytes() != before.get(path)
        elif path in before:
            path.write_bytes(before[path])
        else:
            path.unlink()
    assert "newer than its manifest" in str(assert_balanced(run))


def test_a_process_killed_for_real_leaves_a_run_that_is_balanced(tmp_path):
    run = new_run(tmp_path, "sample_en", train=80)
    journal = run.paths.journals / "entity_train_1000.jsonl"
    command = [sys.executable, "-m", "syn_pipelines.s1_predict_data", "--backend=offline",
               *(f"--{name}={value}" for name, value in run.flags.items())]
    process = subprocess.Popen(command, cwd=Path(ledger.__file__).parents[2], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 5):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_balanced(run)
    run.step(s1, mode="entity", backend="offline")
    assert lines_of(assert_balanced(run), "s1 entity")["sentences"]["parts"]["ok"] == 80


def test_replies_that_are_stored_but_not_published_are_told_and_no_imbalance(tmp_path):
    run = new_run(tmp_path, train=8)
    run.ask(limit=3)
    before = {path: path.read_bytes() for path in run.paths.run.glob("*.*") if path.is_file() and "log" not in path.name}
    run.ask()
    for path, content in before.items():  # the replies came, then a kill
        path.write_bytes(content)
    result = assert_balanced(run)
    assert lines_of(result, "s1 entity")["sentences"]["parts"]["answered, not published yet"] == 5
    assert lines_of(result, "s2")["pieces of the explanations"]["parts"]["kept, not published yet"] > 0
    assert "newer than" in str(result)


def test_a_run_without_journals_and_manifests_is_compared_with_its_own_rows(tmp_path):
    folder = write_run(tmp_path)
    run = Run(tmp_path, "demo")
    for module, flags in MERGING:
        run.step(module, **flags)
    for name in ("entity_train_1000", "pos_train_1000_synthetic"):  # what a person wrote has no reply
        rows = read_rows(folder / f"{name}.jsonl")
        write_rows(folder / f"{name}.jsonl", [{**row, "reply": json.dumps(row["items"], ensure_ascii=False)} for row in rows])
    content = run.look().as_dict()
    assert any("no replies are stored" in note for note in content["notes"])
    assert not any("from nowhere" in problem["problem"] for problem in content["problems"])


def test_two_runs_of_a_data_set_do_not_disturb_each_other(tmp_path):
    first = new_run(tmp_path, train=8)
    second = dataclasses.replace(first, save="other")
    first.ask()
    second.ask(limit=2)
    first.merge()
    assert_balanced(first)
    second.merge()
    assert_balanced(second)
    rows = read_rows(second.paths.annotation("pos", False))
    write_rows(second.paths.annotation("pos", False), rows[1:])
    assert_balanced(first)
    assert not second.look().balanced


def test_several_samples_of_a_sentence_add_up_and_so_do_fewer_than_were_asked_for(tmp_path):
    run = new_run(tmp_path, "sample_en", train=10)
    run.step(s2, backend="offline", num_samples=2)
    asked = lines_of(assert_balanced(run), "s2")
    assert asked["explanations"]["total"] == 2 * asked["sentences"]["parts"]["with entities"] > 0
    run.step(s2, backend="offline", num_samples=1)
    again = lines_of(assert_balanced(run), "s2")
    assert again["stored replies"]["parts"]["no longer asked about"] == again["explanations"]["total"]


def test_odd_tokens_and_ids_are_no_imbalance(tmp_path):
    ids = ['quo"te', "a#1", "b-s7", "名 字", "\\u0041", "x' y", "<b>", "👩\u200d👧"]
    rows = [{"id": name, "text": [*HARD_TOKENS[n * 5:n * 5 + 6], "went", "home", "again"], "entities":
             [{"start": 0, "end": 2, "entity": "PER", "text": HARD_TOKENS[n * 5:n * 5 + 2]}]} for n, name in enumerate(ids)]
    folder = write_data_set(tmp_path)
    write_rows(folder / "train_1000.jsonl", rows)
    run = Run(tmp_path)
    run.ask(dense_lang="0", lang="en")
    run.merge()
    assert_balanced(run)
    for name in ids:
        assert run.look(id=name).as_dict()["questions"][0]["prompt"], name


def test_data_without_entities_and_a_single_sentence_add_up(tmp_path):
    for name, sentences in (("empty", [("Nothing happened here today .", []), ("The sun is up .", [])]),
                            ("single", [("Alice visited Paris .", [(0, 1, "PER"), (2, 3, "LOC")])])):
        write_data_set(tmp_path, sentences, name)
        run = Run(tmp_path, name)
        run.ask()
        run.merge()
        run.label()
        run.step(s8)
        assert_balanced(run)


def test_a_merge_with_its_own_label_map_and_prefix_is_compared_with_that_map(tmp_path):
    own = tmp_path / "map.json"
    own.write_text(json.dumps({"THING": ["person", "PERSON"], "OTHER": []}), encoding="utf-8")
    write_data_set(tmp_path)
    run = Run(tmp_path)
    run.ask()
    run.step(s4)
    run.step(s5, label_prefix="X_", entity_label=str(own))
    assert_balanced(run)
    assert "X_THING" in str(run.look(id="1"))
    own.unlink()
    result = run.look()
    assert not result.balanced and "map.json has changed" in str(result) and "not there any more" in str(result)


ODD = ['[{"entity": "Paris", "type": "city"}, {"entity": "Paris", "type": "city"}]', '```json\n[{"name": "Ann", "label": "PERSON"},]\n```',
       "I cannot do that.", '[{"entity": "Atlantis", "type": "city"}, {"entity": "nn we", "type": "person"}]', "[]",
       '[{"entity": "Rome", "type": "Stadt "}, {"entity": 7}, {"entity": "Ann", "type": "per', '{"city": ["Oslo"]}', "<think>hm"]


def test_failed_and_rejected_replies_add_up_and_asking_again_does_too(tmp_path):
    pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")
    places = "Paris Rome Oslo Bern Lima Cairo".split()
    write_data_set(tmp_path, [(f"Ann went to {place} on day {n} .", [(0, 1, "PER"), (3, 4, "LOC")] if n % 4 else [])
                              for n, place in enumerate(places * 3)])
    run = Run(tmp_path)

    def answer(body: Any) -> str:
        text = body["messages"][-1]["content"]
        draw = random.Random(text)
        if "went to" in text and draw.random() < 0.4:
            return "Ann came home late that day. Nobody saw her in the town again. " * draw.randint(1, 2)
        return draw.choice(ODD)

    def faults(number: int, body: Any) -> Fault | None:
        return Fault(400, "no") if number % 7 == 3 else None

    with FaultServer(answer=answer, faults=faults) as server:
        flags = {"backend": "openai", "base_url": server.url, "model_from_pretrained": "tiny", "constraint": "none"}
        for module, mode in ASKING:
            run.step(module, **mode, **{k: v for k, v in flags.items() if module is not s2 or k != "constraint"})
        run.merge()
        result = assert_balanced(run)
        parts = lines_of(result, "s1 entity")["sentences"]
        assert parts["parts"]["rejected"] and parts["parts"]["failed"] and parts["parts"]["repaired"] and parts["reasons"]
        assert lines_of(result, "s5 1000")["entity items of original sentences"]["parts"]["not placed"]
        server.faults = lambda number, body: None
        run.step(s1, mode="entity", **flags, retry_failed=True)
        run.step(s2, **{k: v for k, v in flags.items() if k != "constraint"}, retry_failed=True)
        for module, mode in ASKING[3:]:
            run.step(module, **mode, **flags)
        run.merge()
        result = assert_balanced(run)
    assert lines_of(result, "s1 entity")["sentences"]["parts"]["failed"] == 0
    assert lines_of(result, "s1 entity")["stored replies"]["parts"]["replaced by a later one"] > 0
