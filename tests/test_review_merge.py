"""Steps 5 and 8 with what people decided: review.jsonl always, gold_corrections.jsonl when asked to; every decision counted."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from child import run_child
from pipeline import (
    all_bytes,
    manifest,
    quick_writes,  # noqa: F401 (a fixture)
    read_json,
    read_rows,
    run_step,
    write_run,
    write_targets,
)
from workspace import make_workspace, shell

from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s6_combine_syn_fusion_label as s6
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines import train_ner
from syn_pipelines.ner.data import Sentence, overlaps_of
from syn_pipelines.utils.decisions import GOLD, REVIEW, DecisionLog, text_hash
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.manifest import stale_files
from syn_pipelines.utils.paths import SIZES, RunPaths

ORIGINAL, SYNTHETIC = "train_{n}_fusion", "train_{n}_synthetic_fusion"


class Run:
    """The small run, merged, with decisions that can be added."""

    def __init__(self, folder: Path) -> None:
        self.file_dir, self.folder = folder, write_run(folder)
        self.step(s4)

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.file_dir, "demo", "GLM4")

    def flags(self, **more: Any) -> dict[str, Any]:
        return {"file_dir": str(self.file_dir), "file_name": "demo", **more}

    def step(self, module: Any, **more: Any) -> Any:
        return module.main(cmd_args=False, **self.flags(**more))

    def options(self, module: Any, **more: Any) -> Any:
        return module.load_options(module.Options, False, self.flags(**more))

    def is_done(self, module: Any = s5, **more: Any) -> bool:
        return module.is_done(self.options(module, **more), self.paths)

    def rows(self, name: str = ORIGINAL, size: int = 1000) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in read_rows(self.paths.sized(size, name))}

    def spans(self, identity: str, name: str = ORIGINAL, size: int = 1000) -> list[tuple[int, int, str]]:
        return [(e["start"], e["end"], e["entity"]) for e in self.rows(name, size)[identity]["entities"]]

    def decide(self, identity: str, decision: str, span: tuple[int, int, str], to: tuple[int, int, str] | None = None,
               *, kind: str = "extension", name: str = ORIGINAL, **more: Any) -> None:
        self.write({"id": identity, "text_sha256": text_hash(self.rows(name)[identity]["text"]), "kind": kind,
                    **dict(zip(("start", "end", "label"), span)), "decision": decision,
                    **({"to": dict(zip(("start", "end", "label"), to))} if to else {}), **more})

    def write(self, row: dict[str, Any]) -> None:
        with DecisionLog(self.folder / (GOLD if row["kind"] == "gold" else REVIEW)) as log:
            log.append(row)

    def counts(self, name: str = ORIGINAL, size: int = 1000) -> dict[str, Any]:
        return manifest(self.paths.sized(size, name))["counts"]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("merged"))
    run.step(s5)
    return run


@pytest.fixture
def run(merged: Run, tmp_path: Path) -> Run:
    result = object.__new__(Run)
    shutil.copytree(merged.file_dir, tmp_path, dirs_exist_ok=True)  # as deep as the other: manifests name the label maps from there
    result.file_dir, result.folder = tmp_path, tmp_path / "demo" / "GLM4"
    return result


def accounts(summary: Any) -> list[str]:
    return [str(account) for account in summary.accounts if "decisions" in account.what]


# --- decisions about extension labels --------------------------------------------------------------------------------

def test_every_kind_of_decision_about_an_original_sentence_is_found_in_the_merged_file_and_counted(run):
    gold = [s for s in run.spans("1") if s[2] in ("PER", "LOC")]  # 张三在北京工作: 0-2 PER, 3-5 LOC
    run.decide("1", "accept", (0, 2, "PERSON"))
    run.decide("1", "reject", (3, 5, "LOCATION"))
    run.decide("1", "relabel", (2, 3, "NOUN"), (2, 3, "ADPOSITION"))
    run.decide("1", "resize", (5, 6, "NOUN"), (5, 7, "NOUN"))
    run.decide("1", "add", (0, 7, "NAMED_EVENT"))
    run.decide("1", "reject", (0, 7, "NOUN"))
    run.decide("2", "accept", (0, 2, "PERSON"), text_sha256="0" * 64)
    before = run.spans("1")
    summary = run.step(s5)
    after = run.spans("1")
    assert after[:2] == gold == [(0, 2, "PER"), (3, 5, "LOC")]
    assert set(before) - set(after) == {(3, 5, "LOCATION"), (2, 3, "NOUN"), (5, 6, "NOUN")}
    assert set(after) - set(before) == {(2, 3, "ADPOSITION"), (5, 7, "NOUN"), (0, 7, "NAMED_EVENT")}
    assert run.rows()["1"]["entities"][-1]["text"] == list("工作")
    assert accounts(summary) == ["7 decisions of reviewers = 1 accepted + 1 added + 1 rejected + 1 relabelled + 1 resized + "
                                 "2 without effect (1 span_not_there, 1 text_changed)"]
    assert run.counts()["review"] == {
        "applied": {"accepted": 1, "added": 1, "rejected": 1, "relabelled": 1, "resized": 1},
        "without_effect": {"span_not_there": 1, "text_changed": 1}}
    assert run.counts(SYNTHETIC)["review"] == {"applied": {}, "without_effect": {}}


def test_label_files_count_what_is_really_placed_and_the_unmapped_types_stay(run):
    before, unmapped = read_json(run.folder / "label_fusion.json"), (run.folder / "unmapped_labels.json").read_bytes()
    run.decide("1", "reject", (3, 5, "LOCATION"))
    run.decide("1", "add", (0, 7, "NAMED_EVENT"))
    run.decide("5", "relabel", (0, 2, "LOCATION"), (0, 2, "NAMED_EVENT"))
    run.step(s5)
    after = read_json(run.folder / "label_fusion.json")
    assert after["LOCATION"]["count"] == before["LOCATION"]["count"] - 2
    assert "NAMED_EVENT" not in before and after["NAMED_EVENT"]["count"] == 2
    labels = [e["entity"] for row in run.rows().values() for e in row["entities"]]
    assert all(entry["count"] == labels.count(name) for name, entry in after.items() if not entry["is_target"])
    assert run.counts()["extension_spans"] == sum(e["count"] for e in after.values() if not e["is_target"])
    assert (run.folder / "unmapped_labels.json").read_bytes() == unmapped


def test_a_label_of_which_the_last_span_is_rejected_leaves_the_label_file(run):
    for identity, row in run.rows().items():
        for e in row["entities"]:
            if e["entity"] == "PERSON":
                run.decide(identity, "reject", (e["start"], e["end"], "PERSON"))
    run.step(s5)
    assert "PERSON" not in read_json(run.folder / "label_fusion.json")


def test_a_decision_counts_in_the_sizes_that_its_sentence_is_in(run):
    inside = set(run.rows(size=250))
    outside = set(run.rows()) - set(run.rows(size=500))
    for identity in (min(inside), min(outside)):
        run.decide(identity, "add", (0, 2, "NAMED_EVENT"))
    summary = run.step(s5)
    assert [run.counts(size=size)["review"]["applied"] for size in SIZES] == [{"added": 1}, {"added": 1}, {"added": 2}]
    assert accounts(summary) == ["2 decisions of reviewers = 2 added + 0 without effect"]
    for size in SIZES:
        assert all(((0, 2, "NAMED_EVENT") in run.spans(identity, size=size)) is (identity in (min(inside), min(outside)))
                   for identity in run.rows(size=size))


def test_a_sentence_that_is_not_there_any_more_is_counted(run):
    run.decide("1", "accept", (0, 2, "PERSON"), id="1")
    run.write({"id": "gone", "text_sha256": "0" * 64, "kind": "extension", "start": 0, "end": 1, "label": "X", "decision": "reject"})
    assert accounts(run.step(s5)) == ["2 decisions of reviewers = 1 accepted + 1 without effect (1 sentence_not_there)"]
    assert accounts(run.step(s5, is_syn="1")) == ["2 decisions of reviewers = 2 without effect (2 not_in_this_half)"]


def test_taking_a_decision_back_gives_the_bytes_of_before(run):
    before = {name: data for name, data in all_bytes(run.folder).items() if not name.endswith("manifest.json")}
    for decision, span, to in (("reject", (0, 2, "PERSON"), None), ("add", (0, 7, "NAMED_EVENT"), None),
                               ("resize", (5, 6, "NOUN"), (5, 7, "NOUN"))):
        run.decide("1", decision, span, to)
    run.step(s5)
    assert any(all_bytes(run.folder)[name] != data for name, data in before.items())
    for span in ((0, 2, "PERSON"), (0, 7, "NAMED_EVENT"), (5, 6, "NOUN")):
        run.decide("1", "undo", span)
    run.step(s5)
    after = all_bytes(run.folder)
    assert {name: after[name] for name in before} == before


# --- synthetic sentences and their target labels ---------------------------------------------------------------------

def test_predicted_target_labels_and_extension_labels_of_synthetic_sentences_are_decided_on_alike(run):
    write_targets(run.folder)
    run.step(s8)
    assert run.spans("1-s0", SYNTHETIC)[:2] == [(0, 2, "PER"), (3, 5, "LOC")]
    for what, span, to, kind in (("reject", (0, 2, "PER"), None, "target"), ("relabel", (3, 5, "LOC"), (3, 5, "PER"), "target"),
                                 ("add", (2, 5, "LOC"), None, "target"), ("reject", (0, 2, "PERSON"), None, "extension"),
                                 ("relabel", (3, 5, "LOCATION"), (3, 5, "LOC"), "extension")):
        run.decide("1-s0", what, span, to, kind=kind, name=SYNTHETIC)
    targets = {path: path.read_bytes() for path in run.folder.rglob("*_synthetic_target.jsonl")}
    summary = run.step(s8)
    found = run.spans("1-s0", SYNTHETIC)
    assert set(found[:3]) == {(2, 5, "LOC"), (3, 5, "LOC"), (3, 5, "PER")}
    assert not {(0, 2, "PERSON"), (3, 5, "LOCATION"), (0, 2, "PER")} & set(found)
    assert run.spans("1-s0", "train_{n}_syn_fusion") == found
    assert accounts(summary) == ["5 decisions of reviewers = 1 added + 2 rejected + 2 relabelled + 0 without effect"]
    labels = read_json(run.folder / "label_syn_fusion.json")
    counted = [e["entity"] for row in read_rows(run.paths.sized(1000, "train_{n}_syn_fusion")) for e in row["entities"]]
    assert all(entry["count"] == counted.count(name) for name, entry in labels.items() if not entry["is_target"])
    assert {path: path.read_bytes() for path in targets} == targets


def test_a_nested_span_that_a_person_adds_teaches_the_model_that_entities_nest(run):
    write_targets(run.folder)
    run.step(s8)
    path = run.paths.sized(1000, "train_{n}_syn_fusion")

    def overlaps() -> str:
        return overlaps_of((Sentence.from_record(row) for row in read_rows(path)), ["PER", "LOC"])
    assert overlaps() == "flat"
    run.decide("1-s0", "add", (3, 7, "LOC"), kind="target", name=SYNTHETIC)
    run.step(s8)
    assert overlaps() == "nested"


# --- gold labels -----------------------------------------------------------------------------------------------------

def gold_of(run: Run) -> dict[str, list[Any]]:
    return {identity: [s for s in run.spans(identity) if s[2] in ("PER", "LOC")] for identity in run.rows()}


def test_gold_labels_never_change_without_the_flag(run):
    before = {size: all_bytes(run.folder / str(size)) for size in SIZES}
    run.decide("1", "reject", (0, 2, "PER"), kind="gold")
    run.decide("1", "add", (2, 5, "LOC"), kind="gold")
    run.decide("2", "reject", (0, 2, "PER"), kind="target")  # in review.jsonl, where gold labels have no place
    run.decide("2", "add", (0, 4, "LOC"), kind="target")
    run.decide("2", "relabel", (0, 2, "PERSON"), (0, 2, "LOC"))
    summary = run.step(s5)
    assert {size: {n: d for n, d in all_bytes(run.folder / str(size)).items() if not n.endswith("manifest.json")} for size in SIZES
            } == {size: {n: d for n, d in found.items() if not n.endswith("manifest.json")} for size, found in before.items()}
    assert accounts(summary) == ["3 decisions of reviewers = 3 without effect (3 gold_label)",
                                 "2 decisions about gold labels = 2 without effect (2 needs_apply_gold_review)"]
    assert run.counts()["gold_review"] == {"applied": {}, "without_effect": {"needs_apply_gold_review": 2}}


def test_gold_labels_change_with_the_flag_and_nothing_else_does(run):
    before = {identity: row["entities"] for identity, row in run.rows().items()}
    run.decide("1", "reject", (0, 2, "PER"), kind="gold")
    run.decide("1", "resize", (3, 5, "LOC"), (3, 7, "LOC"), kind="gold")
    run.decide("3", "add", (2, 4, "LOC"), kind="gold")
    summary = run.step(s5, apply_gold_review=True)
    after = {identity: row["entities"] for identity, row in run.rows().items()}
    assert {i for i in before if before[i] != after[i]} == {"1", "3"}
    assert run.spans("1")[0] == (3, 7, "LOC") and run.spans("3")[0] == (2, 4, "LOC")
    for identity in ("1", "3"):
        assert [e for e in after[identity] if e["entity"] not in ("PER", "LOC")] == [
            e for e in before[identity] if e["entity"] not in ("PER", "LOC")]
    assert accounts(summary) == ["3 decisions about gold labels = 1 added + 1 rejected + 1 resized + 0 without effect"]
    assert manifest(run.paths.sized(1000, ORIGINAL))["settings"]["apply_gold_review"] is True
    assert "--apply_gold_review=1" in manifest(run.paths.sized(1000, ORIGINAL))["command"]


def test_files_made_with_the_flag_and_without_it_differ(run):
    run.step(s5)
    assert run.is_done() and not run.is_done(apply_gold_review=True)
    before = all_bytes(run.folder)
    assert any("no effect" in text for text in run.step(s5, apply_gold_review=True).warnings)
    assert run.is_done(apply_gold_review=True) and not run.is_done()
    run.step(s5)
    assert all_bytes(run.folder) == before


# --- when files are out of date --------------------------------------------------------------------------------------

def test_a_run_without_a_review_has_the_manifests_it_always_had(run):
    for path in run.folder.rglob("*fusion.manifest.json"):
        content = read_json(path)
        assert not {REVIEW, GOLD} & set(content["inputs"]) and not {"review", "gold_review"} & set(content["counts"])
        assert set(content["settings"]) == {"label_prefix", "dense_lang", "entity_label", "pos_label"}


@pytest.mark.parametrize("name", [REVIEW, GOLD])
def test_merged_files_are_out_of_date_when_a_review_appears_changes_and_goes(run, name):
    kind = "gold" if name == GOLD else "extension"
    run.step(s5)
    without = all_bytes(run.folder)
    assert run.is_done() and not stale_files(run.paths)
    for number in range(2):
        run.decide(str(number + 1), "accept", (0, 2, "PER" if kind == "gold" else "PERSON"), kind=kind)
        assert not run.is_done()
        found = {path.name: names for path, names, _ in stale_files(run.paths)}
        assert found["train_250_fusion.jsonl"] == found["label_synthetic_fusion.json"] == [name]
        run.step(s5)
        assert run.is_done() and not stale_files(run.paths)
        assert name in manifest(run.paths.sized(500, SYNTHETIC))["inputs"]
    (run.folder / name).unlink()
    assert not run.is_done()
    run.step(s5)
    assert run.is_done() and all_bytes(run.folder) == without


def test_the_steps_before_the_merge_and_their_files_know_nothing_of_a_review(run):
    run.step(s6)
    run.decide("1", "reject", (0, 2, "PERSON"))
    cut = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and "fusion" not in path.name
           and (path.parent.name in ("250", "500", "1000") or "_train_1000" in path.name)}
    run.step(s5)
    assert {path: path.read_bytes() for path in cut} == cut
    assert run.is_done(s4) and not run.is_done(s6)


def test_step_8_and_the_training_follow_a_review_through_the_merged_files(run):
    write_targets(run.folder)
    run.step(s8)
    assert run.is_done(s8)
    run.decide("1", "reject", (0, 2, "PERSON"))
    summary = run.step(train_ner, train="fusion", size=250, max_steps=1)
    assert any("review.jsonl has changed" in text for text in summary.warnings)
    run.step(s5)
    assert not run.is_done(s8)
    run.step(s8)
    assert run.is_done(s8) and run.is_done(s5)


# --- what is wrong ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("more", "problem"), [
    ({"decision": "add", "span": (0, 2, "Persn")}, "'Persn' is neither a target label nor an extension label"),
    ({"decision": "add", "span": (0, 2, "PERSONS")}, "did you mean 'PERSON'"),
    ({"decision": "relabel", "span": (0, 2, "PERSON"), "to": (0, 2, "X_PERSON")}, "'X_PERSON' is neither"),
    ({"decision": "resize", "span": (0, 2, "PERSON"), "to": (0, 99, "PERSON")}, "sentence '1' has 7 tokens"),
    ({"decision": "add", "span": (0, 2, "PERSON"), "kind": "gold"}, "'PERSON' is no target label"),
])
def test_a_decision_that_cannot_be_is_refused_with_file_and_line_and_changes_nothing(run, more, problem):
    before = all_bytes(run.folder)
    run.decide("2", "accept", (0, 2, "PER" if "kind" in more else "PERSON"), kind=more.get("kind", "extension"))
    run.decide("1", **more)
    name = GOLD if "kind" in more else REVIEW
    with pytest.raises(UserError, match=f"{name}:2: .*{problem}"):
        run.step(s5, apply_gold_review=True)
    after = all_bytes(run.folder)
    after.pop(name)
    assert after == before


def test_labels_with_a_prefix_are_the_labels_that_can_be_given(run):
    run.step(s5, label_prefix="X_")
    run.decide("1", "relabel", (0, 2, "X_PERSON"), (0, 2, "X_NAMED_EVENT"))
    run.step(s5, label_prefix="X_")
    assert (0, 2, "X_NAMED_EVENT") in run.spans("1")
    with pytest.raises(UserError, match="review.jsonl:1: 'X_NAMED_EVENT' is neither"):
        run.step(s5)


def test_a_broken_line_in_the_middle_is_refused_and_a_torn_one_at_the_end_is_not(run):
    run.decide("1", "reject", (0, 2, "PERSON"))
    path = run.folder / REVIEW
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert accounts(run.step(s5)) == ["1 decisions of reviewers = 1 rejected + 0 without effect"]
    path.write_bytes(whole[:40] + b"\n" + whole)
    result = run_step("s5_merge_data", file_dir=run.file_dir)
    assert result.returncode == 2 and f"{path}:1: is not valid JSON" in result.stderr and "Traceback" not in result.stderr


# --- as commands -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("at", ["500/train_500_fusion.jsonl.part", "1000/train_1000_synthetic_fusion.jsonl.part",
                                "label_fusion.json.part"])
def test_a_merge_killed_in_the_middle_ends_with_the_bytes_of_one_that_was_not(run, at):
    run.decide("1", "reject", (0, 2, "PERSON"))
    run.decide("4", "add", (0, 2, "NAMED_EVENT"))
    flags = run.flags()
    killed = run_child("s5_merge_data", flags, before=f"at('open', {at!r}, lambda: send(signal.SIGKILL))")
    assert killed.returncode == -signal.SIGKILL and not run.is_done()
    assert run_child("s5_merge_data", flags).returncode == 0
    again = all_bytes(run.folder)
    assert run.is_done() and not any(name.endswith(".part") for name in again)
    for path in run.folder.rglob("*fusion*"):
        path.unlink()
    run.step(s5)
    assert all_bytes(run.folder).keys() == again.keys()
    assert all(data == all_bytes(run.folder)[name] for name, data in again.items() if not name.endswith("manifest.json"))


def test_a_whole_run_goes_on_from_a_review_and_says_how_many_decisions_it_has_applied(tmp_path):
    folder = make_workspace(tmp_path, train=12, held_out=2)
    command = "python syn_pipelines/run_all.py --file_name=weibo --save_type_name=run --backend=offline --max_steps=1"
    first = shell(command, folder)
    assert first.returncode == 0, first.stderr
    path = folder / "data" / "few_shot" / "weibo" / "run"
    row = next(row for row in read_rows(path / "1000" / "train_1000_fusion.jsonl") if row["entities"])
    gold, about = row["entities"][0], {"id": row["id"], "text_sha256": text_hash(row["text"])}
    with DecisionLog(path / REVIEW) as log:
        log.append({**about, "kind": "extension", "start": 0, "end": len(row["text"]), "label": "NAMED_EVENT", "decision": "add"})
    with DecisionLog(path / GOLD) as log:
        log.append({**about, "kind": "gold", "start": gold["start"], "end": gold["end"], "label": gold["entity"], "decision": "reject"})
    second = shell(command + " --apply_gold_review", folder)
    assert second.returncode == 0, second.stderr
    assert "  s5  1 decisions of reviewers = 1 added + 0 without effect" in second.stdout
    assert "  s5  1 decisions about gold labels = 1 rejected + 0 without effect" in second.stdout
    assert "s4_split_data: complete, skipped" in second.stderr and "s5_merge_data: complete" not in second.stderr
    final = {r["id"]: r["entities"] for r in read_rows(path / "1000" / "train_1000_syn_fusion.jsonl")}[row["id"]]
    assert "NAMED_EVENT" in {e["entity"] for e in final} and gold not in final
    assert "Nothing to do" in shell(command + " --apply_gold_review", folder).stdout
    (path / REVIEW).write_bytes(b"{\n" + (path / REVIEW).read_bytes())
    refused = shell(command, folder)
    assert refused.returncode == 2 and "review.jsonl:1: is not valid JSON" in refused.stderr and "[1/" not in refused.stderr
