"""Steps 6 and 8: the label file of both halves, and the two training sets with what the KnowFREE trainer reads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
from pipeline import (
    ROOT,
    all_bytes,
    manifest,
    quick_writes,  # noqa: F401
    read_json,
    read_rows,
    run_step,
    write_rows,
    write_run,
    write_targets,
)

from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s6_combine_syn_fusion_label as s6
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines.utils.decisions import text_hash
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import file_hash, write_json
from syn_pipelines.utils.paths import manifest_path

SIZES = (250, 500, 1000)


def step(module, file_dir, **flags):
    return module.main(cmd_args=False, file_dir=str(file_dir), file_name="demo", **flags)


def made(file_dir, *modules, targets=False, **more):
    """A run after these steps."""
    run = write_run(file_dir, **more)
    for module in (s4, *modules):
        step(module, file_dir)
        if targets and module is s4:
            write_targets(run)
    return run


def part(run, size, kind):
    return run / str(size) / f"train_{size}_{kind}.jsonl"


def extension_counts(content):
    return {name: row["count"] for name, row in content.items() if not row["is_target"]}


# --- step 6 -------------------------------------------------------------------------------------------------------

def test_both_label_files_are_added_up(tmp_path):
    run = made(tmp_path, s5, s6)
    gold, synthetic, both = (read_json(run / f"label_{kind}.json") for kind in ("fusion", "synthetic_fusion", "syn_fusion"))
    assert extension_counts(both) == Counter(extension_counts(gold)) + Counter(extension_counts(synthetic))
    assert list(both)[:3] == ["O", "PER", "LOC"]
    assert list(both)[3:] == sorted(list(both)[3:])
    assert [row["idx"] for row in both.values()] == list(range(len(both)))


def test_a_label_of_one_half_only_is_in(tmp_path):
    run = write_run(tmp_path)
    rows = read_rows(run / "entity_train_1000_synthetic.jsonl")
    rows[0]["items"] = [{"entity": "张三", "type": "日期"}]
    write_rows(run / "entity_train_1000_synthetic.jsonl", rows)
    for module in (s4, s5, s6):
        step(module, tmp_path)
    assert "DATE_EXPRESSION" not in read_json(run / "label_fusion.json")
    assert read_json(run / "label_syn_fusion.json")["DATE_EXPRESSION"] == {"idx": 3, "count": 1, "is_target": False}


def test_step_6_twice_gives_the_same_bytes(tmp_path):
    run = made(tmp_path, s5, s6)
    before = all_bytes(run)
    step(s6, tmp_path)
    assert all_bytes(run) == before


def test_without_synthetic_sentences_the_labels_are_those_of_the_original_ones(tmp_path):
    run = made(tmp_path, s5, synthetic=False)
    done = run_step("s6_combine_syn_fusion_label", file_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"s5_merge_data.py --file_name=demo --file_dir={tmp_path} --is_syn=1" in done.stderr
    assert (run / "label_syn_fusion.json").read_bytes() == (run / "label_fusion.json").read_bytes()


def test_without_step_5_it_is_exit_2_with_the_command(tmp_path):
    made(tmp_path)
    done = run_step("s6_combine_syn_fusion_label", file_dir=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "label_fusion.json: does not exist." in done.stderr.splitlines()[-1]
    assert "s5_merge_data.py" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("content", ["[]", "3", '{"O": 1}', '{"O": {"count": 1}}', "{", '{"X": {"is_target": false, "count": "a"}}'])
def test_a_file_that_is_no_label_file_is_named(tmp_path, content):
    run = made(tmp_path, s5)
    (run / "label_fusion.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="label_fusion.json"):
        step(s6, tmp_path)
    assert not (run / "label_syn_fusion.json").exists()


def test_halves_with_other_targets_are_refused(tmp_path):
    run = made(tmp_path, s5)
    (tmp_path / "demo" / "labels.txt").write_text("O\nLOC\nPER\n", encoding="utf-8")
    step(s5, tmp_path, is_syn="0")
    with pytest.raises(UserError, match="step 5"):
        step(s6, tmp_path)
    assert not (run / "label_syn_fusion.json").exists()


# --- step 8: the data ---------------------------------------------------------------------------------------------

def test_with_target_labels_the_synthetic_sentences_come_first_then_the_original_ones(tmp_path):
    run = made(tmp_path, s5, s6, s8, targets=True)
    for size in SIZES:
        synthetic, fusion = read_rows(part(run, size, "synthetic_fusion")), read_rows(part(run, size, "fusion"))
        assert read_rows(part(run, size, "syn_fusion")) == synthetic + fusion
        targets = read_rows(part(run, size, "synthetic_target"))
        assert [row["entities"][:len(target["entities"])] for row, target in zip(synthetic, targets, strict=True)] == [
            target["entities"] for target in targets]
        assert any(row["entities"] for row in targets)


def inodes(run):
    """Others where the files of the original half have been written once more."""
    return [part(run, size, "fusion").stat().st_ino for size in SIZES]


def outcome(run, summary):
    return all_bytes(run), [str(account) for account in summary.accounts], summary.outputs, [
        text for text in summary.warnings if "changed since" not in text]


REVIEW = {"id": "1", "time": 1.0, "kind": "extension", "start": 0, "end": 1, "label": "NOUN", "decision": "reject"}


@pytest.mark.parametrize("then", ["nothing", "another map", "an older manifest", "a broken manifest", "a damaged file", "a review"])
def test_the_original_half_is_merged_again_only_where_it_is_not_up_to_date_and_all_is_the_same(tmp_path, then, monkeypatch):
    run = made(tmp_path, s5, targets=True)
    flags, path = {}, part(run, 500, "fusion").with_suffix(".manifest.json")
    if then == "another map":
        (tmp_path / "pos.json").write_text('{"NOUN": ["n"], "WORD": []}', encoding="utf-8")
        flags = {"pos_label": str(tmp_path / "pos.json")}
    elif then in ("an older manifest", "a broken manifest"):
        content = read_json(path)
        merged = content.pop("merged")
        more = {"merged": {**merged, "gold": None}} if then == "a broken manifest" else {}
        path.write_text(json.dumps({**content, **more}), encoding="utf-8")
    elif then == "a damaged file":
        part(run, 250, "fusion").write_bytes(b"{}\n")
    elif then == "a review":
        row = read_rows(part(run, 1000, "fusion"))[0]
        write_rows(run / "review.jsonl", [{**REVIEW, "id": row["id"], "text_sha256": text_hash(row["text"])}])
    before = inodes(run)
    found = outcome(run, step(s8, tmp_path, **flags))
    after = inodes(run)
    assert (before == after) == (then == "nothing")
    monkeypatch.setattr(s5, "_kept", lambda *args: {})
    assert outcome(run, step(s8, tmp_path, **flags)) == found and inodes(run) != after


def vouched(path):
    """A manifest as step 7 writes one."""
    write_json(manifest_path(path), {"step": "by hand", "file": path.name, "inputs": {}, "sha256": file_hash(path)})


def changed_targets(rows, how):
    """Target labels after somebody has changed them, and still vouches for them."""
    first, *rest = rows
    return {
        "a label that is none": [{**first, "entities": [{"start": 0, "end": 1, "entity": "NOUN", "text": first["text"][:1]}]}, *rest],
        "an entity beyond the text": [{**first, "entities": [{"start": 0, "end": 999, "entity": "PER"}]}, *rest],
        "one sentence less": rest,
        "one sentence more": [*rows, {**first, "id": "more"}],
        "another order": [*rest, first],
        "another text": [{**first, "text": [*first["text"], "x"]}, *rest],
        "no entities": [{"id": first["id"], "text": first["text"]}, *rest],
        "keys in another order": [{"id": first["id"], "meta": {"x": 1, "entities": []}, **first}, *rest],
        "more in an entity": [{**first, "entities": [{"start": 0, "end": 1, "entity": "PER", "note": ["ä\"", 1.5]}]}, *rest],
    }.get(how, rows)


FOUND_OUT = ["a label that is none", "an entity beyond the text", "one sentence less", "one sentence more", "another order",
             "another text", "no entities"]
MERGED_AGAIN = ["keys in another order", "not vouched for", "an edited sentence", "a review", "only one size"]


@pytest.mark.parametrize("then", ["nothing", "more in an entity", *MERGED_AGAIN, *FOUND_OUT])
def test_predictions_are_put_into_what_step_5_has_merged_as_if_it_was_merged_again(tmp_path, then, monkeypatch):
    run = made(tmp_path, s5)
    write_targets(run)
    for size in SIZES:
        path = part(run, size, "synthetic_target")
        write_rows(path, changed_targets(read_rows(path), then if size == 500 else ""))
        if then != "not vouched for":
            vouched(path)
        if then == "only one size" and size != 500:
            path.unlink()
    if then == "an edited sentence":
        rows = read_rows(part(run, 250, "synthetic_fusion"))
        write_rows(part(run, 250, "synthetic_fusion"), [{**row, "entities": []} for row in rows])
    elif then == "a review":
        row = read_rows(part(run, 1000, "synthetic_fusion"))[0]
        write_rows(run / "review.jsonl", [{**REVIEW, "id": row["id"], "text_sha256": text_hash(row["text"])}])
    before = all_bytes(run)

    def final(*, again):
        for path in [path for path in run.rglob("*") if path.is_file() and str(path.relative_to(run)) not in before]:
            path.unlink()
        for name, content in before.items():
            (run / name).write_bytes(content)
        merged = []
        with monkeypatch.context() as patch:
            if again:
                patch.setattr(s5, "_kept", lambda *args: {})
            really = s5.merge_files
            patch.setattr(s5, "merge_files", lambda *args, **more: merged.append(1) or really(*args, **more))
            try:
                return outcome(run, step(s8, tmp_path)), len(merged)
            except UserError as error:
                assert all_bytes(run).items() >= {name: content for name, content in before.items() if "fusion" in name}.items()
                return str(error), len(merged)
    (found, merged), (wanted, _) = final(again=False), final(again=True)
    assert found == wanted
    assert bool(merged) == (then in MERGED_AGAIN + FOUND_OUT)
    assert isinstance(found, str) == (then in FOUND_OUT)


def test_without_step_7_the_synthetic_sentences_stay_out_and_one_warning_names_it(tmp_path):
    run = made(tmp_path, s5, s6)
    summary = step(s8, tmp_path)
    for size in SIZES:
        assert part(run, size, "syn_fusion").read_bytes() == part(run, size, "fusion").read_bytes()
    warnings = [text for text in summary.warnings if "s7_pred_syn_data.py" in text]
    assert len(warnings) == 1
    assert "250, 500, 1000" in warnings[0]


@pytest.mark.parametrize("targets", [True, False])
def test_the_label_file_counts_the_spans_of_the_final_data(tmp_path, targets):
    run = made(tmp_path, s5, s6, s8, targets=targets)
    spans = Counter(e["entity"] for row in read_rows(part(run, 1000, "syn_fusion")) for e in row["entities"])
    assert extension_counts(read_json(run / "label_syn_fusion.json")) == {
        name: spans[name] for name in sorted(spans) if name not in ("PER", "LOC")}
    counts = manifest(part(run, 1000, "syn_fusion"))["counts"]
    assert counts == {"sentences": len(read_rows(part(run, 1000, "syn_fusion"))),
                      "extension_spans": sum(spans.values()) - spans["PER"] - spans["LOC"]}


def test_step_8_rebuilds_both_halves_with_its_own_flags(tmp_path):
    run = made(tmp_path, s5, targets=True)
    summary = step(s8, tmp_path, label_prefix="X_")
    for kind in ("fusion", "synthetic_fusion", "syn_fusion"):
        assert all(name.startswith("X_") for name in extension_counts(read_json(run / f"label_{kind}.json")))
    assert not any("out of date" in text for text in summary.warnings)


@pytest.mark.parametrize("half", ["0", "1", "both"])
def test_either_value_of_is_syn_gives_the_full_result(tmp_path, half):
    run = made(tmp_path, targets=True)
    done = run_step("s8_process_label_and_combine", file_dir=tmp_path, is_syn=half)
    assert done.returncode == 0, done.stderr
    got = all_bytes(run)
    step(s8, tmp_path)
    assert {k: v for k, v in all_bytes(run).items() if k != "present.json"} == {
        k: v for k, v in got.items() if k != "present.json"}
    assert all(part(run, size, kind).exists() for size in SIZES for kind in ("fusion", "synthetic_fusion", "syn_fusion"))


@pytest.mark.parametrize("mode", ["entity", "pos"])
def test_one_mode_without_synthetic_sentences_runs_to_the_end(tmp_path, mode):
    run = made(tmp_path, modes=(mode,), synthetic=False)
    for script, flags in (("s5_merge_data", {"is_syn": 0}), ("s6_combine_syn_fusion_label", {}),
                          ("s8_process_label_and_combine", {"is_syn": 0})):
        done = run_step(script, file_dir=tmp_path, **flags)
        assert done.returncode == 0, done.stderr
    assert part(run, 250, "syn_fusion").read_bytes() == part(run, 250, "fusion").read_bytes()


def test_target_labels_of_other_sentences_hold_nothing_up_and_stay_out(tmp_path):
    run = made(tmp_path, s5, s8, targets=True)
    for size in SIZES:  # as step 7 would have written it before the synthetic sentences were made again
        (run / str(size) / f"train_{size}_synthetic_target.manifest.json").write_text(json.dumps(
            {"step": "s7_pred_syn_data", "file": f"train_{size}_synthetic_target.jsonl", "command": "python s7.py",
             "inputs": {f"{size}/train_{size}_synthetic.jsonl": "0" * 64}}), encoding="utf-8")
    assert any("synthetic_target.jsonl" in text and "out of date" in text for text in step(s5, tmp_path).warnings)
    step(s8, tmp_path)
    assert part(run, 250, "syn_fusion").read_bytes() == part(run, 250, "fusion").read_bytes()


@pytest.mark.parametrize(("change", "line"), [
    (lambda rows: rows[1].update(text=["x"]), 2), (lambda rows: rows.pop(1), 1), (lambda rows: rows.append({"id": "z"}), 3),
    (lambda rows: rows[1].pop("entities"), 2),
    (lambda rows: rows[1].update(entities=[{"start": 0, "end": 1, "entity": "GONE"}]), 2), (lambda rows: rows[0].update(entities=[{"start": 0}]), 1)])
def test_target_labels_that_do_not_fit_are_named_with_the_command(tmp_path, change, line):
    run = made(tmp_path, targets=True)
    rows = read_rows(part(run, 250, "synthetic_target"))[:2]
    write_rows(part(run, 250, "synthetic"), rows)
    for mode in ("entity", "pos"):
        (run / "250" / f"{mode}_train_250_synthetic.jsonl").unlink()
    change(rows)
    write_rows(part(run, 250, "synthetic_target"), rows)
    with pytest.raises(UserError, match=rf"train_250_synthetic_target\.jsonl:{line}: .*s7_pred_syn_data\.py"):
        step(s8, tmp_path)


# --- present.json -------------------------------------------------------------------------------------------------

def test_present_names_every_set_relative_to_the_working_directory(tmp_path):
    run = made(tmp_path / "data", targets=True, held_out=True)
    done = run_step("s8_process_label_and_combine", file_dir="data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = read_json(run / "present.json")
    assert list(content) == [f"demo_GLM4_{kind}_{size}" for size in SIZES for kind in ("fusion", "syn_fusion")]
    for name, entry in content.items():
        kind, size = name.removeprefix("demo_GLM4_").rsplit("_", 1)
        assert entry == {"train": f"./data/demo/GLM4/{size}/train_{size}_{kind}.jsonl", "dev": "./data/demo/dev.jsonl",
                         "test": "./data/demo/test.jsonl", "labels": f"./data/demo/GLM4/label_{kind}.json"}
        assert all((tmp_path / path).is_file() for path in entry.values())


@pytest.mark.parametrize(("there", "dev", "test"), [
    (("dev",), "dev.jsonl", "dev.jsonl"), (("test",), "test.jsonl", "test.jsonl"), ((), None, None)])
def test_present_says_what_stands_in_for_dev_and_test(tmp_path, there, dev, test):
    run = made(tmp_path, held_out=True)
    for split in {"dev", "test"} - set(there):
        (tmp_path / "demo" / f"{split}.jsonl").unlink()
    summary = step(s8, tmp_path)
    for entry in read_json(run / "present.json").values():
        own = entry["train"].rsplit("/", 1)[1]
        assert entry["dev"].endswith(dev or own)
        assert entry["test"].endswith(test or own)
        assert all(f"there is no {split}.jsonl" in entry["note"] for split in {"dev", "test"} - set(there))
    assert any("stand" in text for text in summary.warnings)


# --- order and repetition -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("targets", [True, False])
def test_every_step_again_in_any_order_changes_no_byte(tmp_path, targets):
    run = made(tmp_path, s5, s6, s8, targets=targets)
    before = all_bytes(run)
    for module in (s5, s8, s6, s4, s4, s6, s5, s8, s8):
        step(module, tmp_path)
        assert all_bytes(run) == before, module.__name__
    step(s5, tmp_path, is_syn="1")
    step(s5, tmp_path, is_syn="0")
    assert all_bytes(run) == before


@pytest.mark.parametrize("targets", [True, False])
def test_the_same_end_whatever_the_order_of_the_steps(tmp_path, targets):
    usual = all_bytes(made(tmp_path / "a", s5, s6, s8, targets=targets))
    short = all_bytes(made(tmp_path / "b", s8, targets=targets))

    def without_place(content):
        return {k: v.replace(str(tmp_path / "a").encode(), b"").replace(str(tmp_path / "b").encode(), b"")
                for k, v in content.items() if k != "present.json"}
    assert without_place(usual) == without_place(short)


def test_is_done_follows_the_files(tmp_path):
    run = made(tmp_path, s5, s6)
    opts, paths = s8.Options(file_dir=str(tmp_path), file_name="demo"), None
    paths = s5.RunPaths.of(opts)
    assert s6.is_done(s6.Options(file_dir=str(tmp_path), file_name="demo"), paths)
    assert not s8.is_done(opts, paths)
    s8.run(opts)
    assert s8.is_done(opts, paths) and s6.is_done(s6.Options(file_dir=str(tmp_path), file_name="demo"), paths)
    write_targets(run)
    assert not s8.is_done(opts, paths)
    s8.run(opts)
    assert s8.is_done(opts, paths)
    (run / "label_syn_fusion.json").unlink()
    assert not s8.is_done(opts, paths)


def test_present_is_made_again_when_held_out_data_come_or_the_working_directory_is_another(tmp_path, monkeypatch):
    run = made(tmp_path, s8, held_out=True)
    opts = s8.Options(file_dir=str(tmp_path), file_name="demo")
    paths = s5.RunPaths.of(opts)
    content = (tmp_path / "demo" / "test.jsonl").read_bytes()
    (tmp_path / "demo" / "test.jsonl").unlink()
    assert not s8.is_done(opts, paths)
    s8.run(opts)
    assert s8.is_done(opts, paths) and "note" in (run / "present.json").read_text(encoding="utf-8")
    (tmp_path / "demo" / "test.jsonl").write_bytes(content)
    assert not s8.is_done(opts, paths)
    s8.run(opts)
    monkeypatch.chdir(tmp_path)
    assert not s8.is_done(opts, paths)


def test_files_that_a_rerun_made_stale_are_named_with_the_command_that_renews_them(tmp_path):
    made(tmp_path, s5, s6, s8, targets=True)
    warnings = [text for text in step(s4, tmp_path, seed=7).warnings if "out of date" in text]
    assert any("s5_merge_data.py" in text for text in warnings)
    warnings = [text for text in step(s5, tmp_path, is_syn="0").warnings if "out of date" in text]
    assert any("syn_fusion" in text and "s8_process_label_and_combine.py" in text for text in warnings)


def test_what_the_scripts_import_needs_no_model_runtime():
    code = ("import sys; from syn_pipelines import s4_split_data, s5_merge_data, s6_combine_syn_fusion_label, "
            "s8_process_label_and_combine; from syn_pipelines.tools import oracle; "
            "print([m for m in ('torch', 'transformers', 'jieba', 'textblob') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
