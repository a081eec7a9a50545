"""Decisions of people in the ledger: each is accounted for, and held to the merged sentences."""

from __future__ import annotations

import json
import random
import shutil
import signal
from typing import Any

import pytest
from child import run_child
from ledger_runs import (
    Run,
    add_entity,
    assert_balanced,
    change_label,
    change_offset,
    drop_entity,
    edit,
    found_in,
    lines_of,
    seal,
    whole_run,
)
from pipeline import quick_writes, read_rows, write_rows  # noqa: F401 (a fixture)

from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines.utils.decisions import GOLD, REVIEW, DecisionLog, text_hash
from syn_pipelines.utils.paths import manifest_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    return whole_run(tmp_path_factory.mktemp("whole"), "sample_zh", train=12)


# --- decisions of people ---------------------------------------------------------------------------------------------

def decide(run: Run, name: str, rows: list[dict[str, Any]]) -> None:
    """Append to review.jsonl or gold_corrections.jsonl: each row says where and what, of a merged row."""
    with DecisionLog(run.paths.run / name) as log:
        log.append_all([{"id": row["id"], "text_sha256": text_hash(row["text"]), "kind": "gold" if name == GOLD else "extension",
                         **more} for row, more in rows])


def about(entity: dict[str, Any], decision: str, **to: Any) -> dict[str, Any]:
    span = {"start": entity["start"], "end": entity["end"], "label": entity["entity"]}
    return {**span, "decision": decision, **({"to": {**span, **to}} if to else {})}


def review(run: Run) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Decisions of every kind; the original, the synthetic and the corrected sentence they are about."""
    targets = set(run.paths.labels.read_text(encoding="utf-8").split())
    merged, synthetic = (read_rows(run.paths.sized(1000, f"train_{{n}}_{kind}fusion")) for kind in ("", "synthetic_"))
    original = next(r for r in merged if r["entities"] and sum(e["entity"] not in targets for e in r["entities"]) > 2)
    made = next(r for r in synthetic if r["entities"][0]["entity"] in targets)
    corrected = next(r for r in merged if r["entities"] and r["entities"][0]["entity"] in targets and r is not original)
    first, second, third = [e for e in original["entities"] if e["entity"] not in targets][:3]
    decide(run, REVIEW, [
        (original, about(first, "reject")), (original, about(second, "relabel", label="OTHER")), (original, about(third, "accept")),
        (original, {"start": 0, "end": 2, "label": "NAMED_EVENT", "decision": "add"}),
        (original, {"start": 0, "end": 1, "label": "OTHER", "decision": "add"}),
        (original, {"start": 0, "end": 1, "label": "OTHER", "decision": "undo"}),
        (made, about(made["entities"][0], "resize", end=made["entities"][0]["end"] + 1)), (original, {"decision": "done"}),
        ({**made, "text": ["x"]}, about(first, "reject")), (original, about(original["entities"][0], "reject"))])
    decide(run, GOLD, [(corrected, about(corrected["entities"][0], "reject"))])
    return original, made, corrected


@pytest.fixture(scope="module", params=[False, True], ids=["gold stays", "gold corrected"])
def reviewed(request, whole, tmp_path_factory) -> Run:
    run = whole.copy(tmp_path_factory.mktemp("reviewed"))
    review(run)
    run.step(s8, apply_gold_review=request.param)
    run.step(s4)  # nothing of it
    run.label()
    run.step(s8, apply_gold_review=request.param)
    shutil.rmtree(run.paths.run / "ner")  # trained on what was merged before
    return run


def test_a_reviewed_run_is_balanced_and_every_decision_is_accounted_for(reviewed):
    found = lines_of(assert_balanced(reviewed), "s5 1000")
    decisions, gold = found["decisions of reviewers"], found["decisions about gold labels"]
    assert decisions["total"] == 7 and decisions["parts"] == {"accepted": 1, "added": 1, "rejected": 1, "relabelled": 1, "resized": 1,
                                                              "without effect": 2}
    assert decisions["reasons"] == {"gold_label": 1, "text_changed": 1}
    made = json.loads(manifest_path(reviewed.paths.sized(1000, "train_{n}_fusion")).read_text(encoding="utf-8"))
    corrected = int(made["settings"].get("apply_gold_review", False))
    assert gold["total"] == 1 and gold["parts"].get("rejected", 0) == corrected
    assert found["gold entities"]["parts"].get("corrected by people", 0) == corrected
    final = lines_of(assert_balanced(reviewed), "s8 1000")["gold entities"]
    assert final["parts"].get("corrected by people", 0) == corrected and final["total"] == found["gold entities"]["total"]


@pytest.mark.parametrize("name", ["1000/train_1000_fusion.jsonl", "1000/train_1000_synthetic_fusion.jsonl",
                                  "1000/train_1000_syn_fusion.jsonl"])
def test_a_changed_entity_of_a_reviewed_sentence_is_found_even_when_all_checksums_agree(reviewed, tmp_path, name):
    run = reviewed.copy(tmp_path)
    path = run.paths.run / name
    before = path.read_bytes()
    manifests = {p: p.read_bytes() for p in run.paths.dataset.rglob("*.manifest.json")}
    decided = {json.loads(line)["id"] for file in (REVIEW, GOLD) for line in (run.paths.run / file).read_bytes().splitlines()}
    for change in (change_offset, change_label, drop_entity, add_entity):
        rows = read_rows(path)
        for row in [row for row in rows if row["id"] in decided and row["entities"]][:2]:
            change([row], random.Random(name))
        write_rows(path, rows)
        seal(run, path)
        found_in(run, name)
        path.write_bytes(before)
        for manifest, content in manifests.items():
            manifest.write_bytes(content)
    assert_balanced(run)


@pytest.mark.parametrize("name", [REVIEW, GOLD])
def test_a_review_that_was_changed_after_the_merge_is_found(reviewed, tmp_path, name):
    run = reviewed.copy(tmp_path)
    path = run.paths.run / name
    before = path.read_bytes()
    first = before[:before.index(b"\n") + 1]
    for content in (before + first, before.removeprefix(first), b"{\n" + before):
        path.write_bytes(content)
        text = str(run.look())
        assert "Not balanced" in text and "s5_merge_data.py" in text and f"{name} has changed" in text, text
        path.write_bytes(before)
    path.unlink()
    assert f"{name} has changed" in str(run.look())


def test_a_review_that_came_after_the_merge_makes_it_out_of_date_and_says_no_more_than_that(whole, tmp_path):
    run = whole.copy(tmp_path)
    review(run)
    problems = run.look().book.problems
    assert problems and all("is out of date: gold_corrections.jsonl, review.jsonl have changed" in p.problem
                            or "is out of date: review.jsonl, gold_corrections.jsonl have changed" in p.problem for p in problems
                            if "more like" not in p.problem), [str(p) for p in problems]


def test_counts_of_decisions_in_a_manifest_are_held_to_the_review(reviewed, tmp_path):
    run = reviewed.copy(tmp_path)
    path = manifest_path(run.paths.sized(1000, "train_{n}_fusion"))
    edit(path, lambda content: content["counts"]["review"]["applied"].update(rejected=9))
    assert "'counts' says review" in found_in(run, path.name)


@pytest.mark.parametrize("flag", [False, True])
def test_a_merge_killed_between_a_file_and_its_manifest_is_out_of_date_and_its_rows_are_not_blamed(whole, tmp_path, flag):
    run = whole.copy(tmp_path)
    review(run)
    killed = run_child("s5_merge_data", {**run.flags, "apply_gold_review": int(flag)},
                       before="at('open', 'train_1000_fusion.manifest.json.part', lambda: send(signal.SIGKILL))")
    assert killed.returncode == -signal.SIGKILL
    said = [p.problem for p in run.look().book.problems if p.file == str(run.paths.sized(1000, "train_{n}_fusion"))]
    assert said and all("out of date" in text or "another sha256" in text for text in said), said
    run.step(s5, apply_gold_review=flag)
    run.label()
    run.step(s8, apply_gold_review=flag)
    shutil.rmtree(run.paths.run / "ner")
    assert_balanced(run)


def test_the_story_of_a_sentence_holds_what_was_decided_about_it(reviewed):
    row = json.loads((reviewed.paths.run / REVIEW).read_bytes().splitlines()[0])
    story = reviewed.look(id=row["id"])
    found = [d for d in story.as_dict()["decisions"] if d["file"].endswith(REVIEW)]
    assert [d["decision"] for d in found] == ["reject", "relabel", "accept", "add", "add", "undo", "done", "reject"]
    assert [d["state"] for d in found] == ["counts"] * 4 + ["taken back or replaced"] * 2 + ["counts"] * 2
    assert f"reject {row['label']} {row['start']}-{row['end']}: counts" in str(story) and f"{REVIEW}:1" in str(story)
    assert reviewed.look(id=read_rows(reviewed.paths.sized(1000, "train_{n}_fusion"))[-1]["id"]).as_dict()["decisions"] == []
