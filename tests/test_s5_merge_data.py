"""Step 5: the model's labels beside the gold ones, which stay as they are; every item is accounted for."""

from __future__ import annotations

import json

import pytest
from pipeline import (
    all_bytes,
    annotation,
    manifest,
    mark_incomplete,
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
from syn_pipelines.utils.errors import UserError

SIZES = (250, 500, 1000)


def split(file_dir):
    return s4.main(cmd_args=False, file_dir=str(file_dir), file_name="demo")


def merge(file_dir, **flags):
    return s5.main(cmd_args=False, file_dir=str(file_dir), file_name="demo", **flags)


def cut_run(file_dir, **more):
    run = write_run(file_dir, **more)
    split(file_dir)
    return run


def edit(path, change):
    rows = read_rows(path)
    change(rows)
    write_rows(path, rows)


def fusion(run, size=1000, kind="fusion"):
    return run / str(size) / f"train_{size}_{kind}.jsonl"


def test_how_tokens_join_is_what_step_4_has_found_as_long_as_the_sentences_are_the_same(tmp_path, monkeypatch):
    cut_run(tmp_path)
    read = []
    really = s5.read_train
    monkeypatch.setattr(s5, "read_train", lambda *args, **more: read.append(1) or really(*args, **more))
    merge(tmp_path)
    assert read == [] and manifest(fusion(tmp_path / "demo" / "GLM4"))["dense"] is True
    edit(tmp_path / "demo" / "train_1000.jsonl", lambda rows: rows[0].update(text=["many", "words"] * 500, entities=[]))
    merge(tmp_path)
    assert read == [1] and manifest(fusion(tmp_path / "demo" / "GLM4"))["dense"] is False


# --- the merge ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", SIZES)
def test_gold_entities_come_first_and_are_the_same_objects_in_the_same_order(tmp_path, size):
    run = write_run(tmp_path)
    odd = {"start": 2, "entity": "LOC", "end": 4, "note": "kept", "text": list("天气")}  # keys of its own, in its own order
    edit(tmp_path / "demo" / "train_1000.jsonl", lambda rows: [
        row.update(entities=[odd, *row["entities"][::-1], odd]) for row in rows if "天气" in "".join(row["text"])])
    split(tmp_path)
    merge(tmp_path)
    for gold, row in zip(read_rows(run / str(size) / f"train_{size}.jsonl"), read_rows(fusion(run, size)), strict=True):
        assert [json.dumps(e) for e in row["entities"][:len(gold["entities"])]] == [json.dumps(e) for e in gold["entities"]]
        assert {k: v for k, v in row.items() if k != "entities"} == {k: v for k, v in gold.items() if k != "entities"}
        added = row["entities"][len(gold["entities"]):]
        assert all(e["entity"] in ("PERSON", "LOCATION", "NOUN") and e["text"] == row["text"][e["start"]:e["end"]]
                   for e in added)
        assert sum(e["entity"] == "NOUN" for e in added) == len(row["text"])


def test_tags_that_could_not_say_the_new_labels_are_left_out(tmp_path):
    run = write_run(tmp_path, synthetic=False)
    edit(tmp_path / "demo" / "train_1000.jsonl", lambda rows: rows[2].update(label=["O"] * len(rows[2]["text"])))
    split(tmp_path)
    merge(tmp_path)
    assert "label" in read_rows(run / "1000" / "train_1000.jsonl")[2]
    assert "label" not in read_rows(fusion(run))[2]


def test_rejected_failed_and_absent_annotations_keep_the_gold(tmp_path):
    run = write_run(tmp_path, synthetic=False, modes=("entity",))

    def change(rows):
        rows[0].update(status="rejected", items=[])
        rows[1].update(status="failed", items=[])
        del rows[3]
    edit(run / "entity_train_1000.jsonl", change)
    split(tmp_path)
    merge(tmp_path)
    rows, gold = read_rows(fusion(run)), read_rows(run / "1000" / "train_1000.jsonl")
    assert [rows[i]["entities"] for i in (0, 1, 3)] == [gold[i]["entities"] for i in (0, 1, 3)]
    assert len(rows) == 12
    assert manifest(fusion(run))["counts"]["annotations"] == {
        "entity absent": 1, "entity failed": 1, "entity ok": 9, "entity rejected": 1, "pos absent": 12}


def test_items_are_counted_by_what_became_of_them(tmp_path):
    run = write_run(tmp_path, synthetic=False, modes=("entity", "pos"))
    edit(run / "entity_train_1000.jsonl", lambda rows: rows[0].update(items=[
        {"entity": "北 京", "type": "地名"}, {"entity": "北京", "type": "LOCATION"}, {"entity": "南京", "type": "地名"},
        {"entity": "", "type": "地名"}, {"entity": "张三", "type": "外星人"}]))
    edit(run / "pos_train_1000.jsonl", lambda rows: rows[0].update(items=[
        {"word": "在", "pos": "p"}, {"word": "张三", "pos": "n"}, {"word": "北京", "pos": "怪"}]))
    split(tmp_path)
    summary = merge(tmp_path, is_syn="0")
    counts = manifest(fusion(run))["counts"]
    assert counts["folded"] == {"entity": 1}
    assert counts["repeated"] == 1
    assert counts["not_placed"] == {"entity": {"empty": 1, "not_in_text": 1}, "pos": {"out_of_order": 1}}
    for mode in ("entity", "pos"):
        assert counts["items"][mode] == counts["placed"][mode] + sum(counts["not_placed"][mode].values())
        assert counts["sentences"] == sum(n for how, n in counts["annotations"].items() if how.startswith(mode))
    rows = read_rows(fusion(run))
    labels = read_json(run / "label_fusion.json")
    assert counts["sentences"] == len(rows)
    assert sum(len(row["entities"]) for row in rows) == counts["gold_entities"] + counts["extension_spans"]
    assert counts["extension_spans"] == sum(row["count"] for row in labels.values() if not row["is_target"])
    assert [account.total for account in summary.accounts] == [counts["items"]["entity"], counts["items"]["pos"]]
    unmapped = read_json(run / "unmapped_labels.json")["gold"]
    assert [(row["mode"], row["type"], row["count"], row["counted_as"]) for row in unmapped] == [
        ("entity", "外星人", 1, "OTHER"), ("pos", "怪", 1, "WORD")]
    assert '"外星人"' in unmapped[0]["add"] and "entity_label.json" in unmapped[0]["add"]


def test_label_files_hold_o_targets_in_order_and_the_extension_labels_placed_at_size_1000(tmp_path):
    run = cut_run(tmp_path)
    merge(tmp_path)
    for kind in ("fusion", "synthetic_fusion"):
        content = read_json(run / f"label_{kind}.json")
        rows = read_rows(fusion(run, kind=kind))
        placed = [e["entity"] for row in rows for e in row["entities"] if e["entity"] not in ("PER", "LOC")]
        expected = [("O", -1, True), ("PER", -1, True), ("LOC", -1, True),
                    *((name, placed.count(name), False) for name in sorted(set(placed)))]
        assert [(name, row["count"], row["is_target"]) for name, row in content.items()] == expected
        assert [row["idx"] for row in content.values()] == list(range(len(expected)))
        assert all(set(row) == {"idx", "count", "is_target"} and row["count"] for row in content.values())


def test_target_labels_of_step_7_take_the_place_of_gold_in_synthetic_sentences(tmp_path):
    run = cut_run(tmp_path)
    write_targets(run)
    merge(tmp_path)
    targets = read_rows(run / "500" / "train_500_synthetic_target.jsonl")
    for target, row in zip(targets, read_rows(fusion(run, 500, "synthetic_fusion")), strict=True):
        assert row["entities"][:len(target["entities"])] == target["entities"]
    counts = manifest(fusion(run, 500, "synthetic_fusion"))["counts"]
    assert counts["predicted_entities"] == sum(len(row["entities"]) for row in targets) > 0


def test_every_occurrence_of_an_entity_is_labelled_in_spaced_text(tmp_path):
    run = write_run(tmp_path, synthetic=False, modes=("entity",))
    row = {"text": "New York , new york and New York City".split(), "entities": []}
    write_rows(tmp_path / "demo" / "train_1000.jsonl", [row])
    write_rows(run / "entity_train_1000.jsonl", [annotation({**row, "id": "1"}, "entity", items=[
        {"entity": "New York", "type": "location"}, {"entity": "New York City", "type": "GPE"}])])
    split(tmp_path)
    merge(tmp_path, is_syn="0")
    assert [(e["start"], e["end"], e["entity"]) for e in read_rows(fusion(run))[0]["entities"]] == [
        (0, 2, "LOCATION"), (6, 8, "LOCATION"), (6, 9, "GEOPOLITICAL")]


# --- halves, order, repetition ------------------------------------------------------------------------------------

def test_the_halves_in_any_order_and_together_give_the_same_bytes(tmp_path):
    results = []
    for number, order in enumerate([("both",), ("0", "1"), ("1", "0"), ("1", "both", "0", "0")]):
        run = cut_run(tmp_path / str(number))
        edit(run / "1000" / "entity_train_1000.jsonl", lambda rows: rows[0]["items"][0].update(type="甲"))
        edit(run / "1000" / "pos_train_1000_synthetic.jsonl", lambda rows: rows[0]["items"][0].update(pos="乙"))
        for half in order:
            merge(tmp_path / str(number), is_syn=half)
        results.append({name: data.replace(str(tmp_path / str(number)).encode(), b"") for name, data in all_bytes(run).items()})
    assert all(result == results[0] for result in results)
    assert {k: [row["type"] for row in v] for k, v in json.loads(results[0]["unmapped_labels.json"]).items()} == {
        "gold": ["甲"], "synthetic": ["乙"]}


def test_each_half_writes_its_own_files_only(tmp_path):
    run = cut_run(tmp_path)
    merge(tmp_path, is_syn="0")
    assert (run / "label_fusion.json").exists() and not (run / "label_synthetic_fusion.json").exists()
    assert not list(run.glob("*/train_*_synthetic_fusion.jsonl"))
    before = all_bytes(run)
    merge(tmp_path, is_syn="1")
    after = all_bytes(run)
    assert {name: after[name] for name in before if "unmapped" not in name} == {
        name: data for name, data in before.items() if "unmapped" not in name}
    assert all(fusion(run, size, "synthetic_fusion").exists() for size in SIZES)


def test_a_broken_list_of_unmapped_labels_is_made_anew(tmp_path):
    run = cut_run(tmp_path)
    for content in ("[]", "{", "null"):
        (run / "unmapped_labels.json").write_text(content, encoding="utf-8")
        merge(tmp_path)
        assert read_json(run / "unmapped_labels.json") == {"gold": [], "synthetic": []}


def test_is_done_sees_another_label_map_prefix_or_input(tmp_path):
    run = cut_run(tmp_path)
    opts = s5.Options(file_dir=str(tmp_path), file_name="demo")
    paths = s5.RunPaths.of(opts)
    assert not s5.is_done(opts, paths)
    s5.run(opts)
    assert s5.is_done(opts, paths)
    other = tmp_path / "map.json"
    other.write_text('{"HUMAN": ["人名"], "OTHER": []}', encoding="utf-8")
    for more in ({"label_prefix": "X_"}, {"entity_label": str(other)}, {"dense_lang": "0"}):
        assert not s5.is_done(s5.Options(file_dir=str(tmp_path), file_name="demo", **more), paths)
    edit(run / "250" / "entity_train_250.jsonl", lambda rows: rows[0].update(items=[]))
    assert not s5.is_done(opts, paths)


# --- labels -------------------------------------------------------------------------------------------------------

def test_the_prefix_goes_on_every_extension_label(tmp_path):
    run = write_run(tmp_path)
    edit(run / "entity_train_1000.jsonl", lambda rows: rows[0]["items"][0].update(type="甲"))
    edit(run / "pos_train_1000.jsonl", lambda rows: rows[0]["items"][0].update(pos="乙"))
    split(tmp_path)
    merge(tmp_path, label_prefix="X_")
    extension = {name for name, row in read_json(run / "label_fusion.json").items() if not row["is_target"]}
    assert extension == {"X_PERSON", "X_LOCATION", "X_NOUN", "X_OTHER", "X_WORD"}
    assert {e["entity"] for row in read_rows(fusion(run)) for e in row["entities"]} == extension | {"PER", "LOC"}
    assert {row["counted_as"] for row in read_json(run / "unmapped_labels.json")["gold"]} == {"X_OTHER", "X_WORD"}


@pytest.mark.parametrize(("target", "flags"), [
    ("PERSON", {}), ("WORD", {}), ("OTHER", {}), ("NOUN", {}), ("X_PERSON", {"label_prefix": "X_"})])
def test_an_extension_label_equal_to_a_target_is_an_error_before_anything_is_written(tmp_path, target, flags):
    run = cut_run(tmp_path)
    (tmp_path / "demo" / "labels.txt").write_text(f"O\nPER\nLOC\n{target}\n", encoding="utf-8")
    before = all_bytes(run)
    done = run_step("s5_merge_data", file_dir=tmp_path, **flags)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert target in last and "labels.txt" in last and "entity_label.json" in last and "--label_prefix" in last
    assert all_bytes(run) == before


def test_a_prefix_resolves_the_clash_and_another_case_is_a_warning(tmp_path):
    cut_run(tmp_path)
    labels = tmp_path / "demo" / "labels.txt"
    labels.write_text("O\nPER\nLOC\nPERSON\n", encoding="utf-8")
    assert not any("PERSON" in text for text in merge(tmp_path, label_prefix="X_").warnings)
    labels.write_text("O\nPER\nLOC\nPerson\n", encoding="utf-8")
    assert any("PERSON" in text and "case" in text for text in merge(tmp_path).warnings)


@pytest.mark.parametrize(("content", "where"), [
    ('{"PERSON": ["人名"],\n "LOCATION": ["人名"]}', ":2: "), ('{"PERSON": [}', ":1: "), ("[]", ":1: "), (None, "does not exist")])
def test_a_broken_label_map_is_named_and_nothing_is_written(tmp_path, content, where):
    run = cut_run(tmp_path)
    path = tmp_path / "map.json"
    if content:
        path.write_text(content, encoding="utf-8")
    before = all_bytes(run)
    with pytest.raises(UserError, match="map.json") as raised:
        merge(tmp_path, entity_label=str(path))
    assert where in str(raised.value)
    assert all_bytes(run) == before


def test_one_name_in_both_maps_is_an_error(tmp_path):
    cut_run(tmp_path)
    path = tmp_path / "map.json"
    path.write_text('{"NOUN": ["人名"]}', encoding="utf-8")
    with pytest.raises(UserError, match="'NOUN'"):
        merge(tmp_path, entity_label=str(path))


# --- what is missing ----------------------------------------------------------------------------------------------

def test_one_mode_without_synthetic_sentences_runs_and_names_the_rest_with_its_command(tmp_path):
    run = cut_run(tmp_path, modes=("entity",), synthetic=False)
    done = run_step("s5_merge_data", file_dir=tmp_path, is_syn=0)
    assert done.returncode == 0, done.stderr
    assert f"s1_predict_data.py --file_name=demo --file_dir={tmp_path} --mode=pos" in done.stderr
    done = run_step("s5_merge_data", file_dir=tmp_path, is_syn=1)
    assert done.returncode == 0, done.stderr
    assert f"s2_continous_generation.py --file_name=demo --file_dir={tmp_path}" in done.stderr
    assert not (run / "label_synthetic_fusion.json").exists()


def test_synthetic_sentences_without_annotations_are_merged_with_a_warning(tmp_path):
    run = write_run(tmp_path)
    for mode in ("entity", "pos"):
        (run / f"{mode}_train_1000_synthetic.jsonl").unlink()
    split(tmp_path)
    warnings = merge(tmp_path, is_syn="1").warnings
    assert any("s3_predict_syn_data.py" in text and "--mode=pos" in text for text in warnings)
    assert list(read_json(run / "label_synthetic_fusion.json")) == ["O", "PER", "LOC"]


def test_without_subsets_or_annotations_it_is_exit_2_naming_step_4(tmp_path):
    run = write_run(tmp_path)
    done = run_step("s5_merge_data", file_dir=tmp_path)
    assert done.returncode == 2 and "s4_split_data.py" in done.stderr.splitlines()[-1]
    split(tmp_path)
    for path in run.glob("*/*_train_*.jsonl"):
        path.unlink()
    with pytest.raises(UserError, match="no annotation to merge"):
        merge(tmp_path, is_syn="0")


def test_the_synthetic_half_goes_when_its_sentences_have_gone(tmp_path):
    run = cut_run(tmp_path)
    merge(tmp_path)
    (run / "train_1000_synthetic.jsonl").unlink()
    split(tmp_path)
    merge(tmp_path)
    assert not list(run.rglob("*synthetic_fusion*"))
    assert fusion(run).exists()


def test_incomplete_annotations_are_said_to_be(tmp_path):
    run = write_run(tmp_path, synthetic=False)
    edit(run / "entity_train_1000.jsonl", lambda rows: rows.__delitem__(slice(4, None)))
    mark_incomplete(run / "entity_train_1000.jsonl")
    split(tmp_path)
    warnings = merge(tmp_path, is_syn="0").warnings
    assert any("not complete" in text and "s1_predict_data.py" in text and "--mode=entity" in text for text in warnings)


@pytest.mark.parametrize("prefix", [" ", "X\n", "a b", "\u2028", "\x00"])
def test_a_prefix_that_would_break_a_label_is_refused(tmp_path, prefix):
    run = cut_run(tmp_path)
    with pytest.raises(UserError, match="--label_prefix: .* (without blanks|NUL character|control character)"):
        merge(tmp_path, label_prefix=prefix)
    assert not fusion(run).exists()


# --- bad input ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("change", "line", "says"), [
    (lambda rows: rows[2].update(text=["x"]), 3, "another version"),
    (lambda rows: rows.reverse(), 2, "order"),
    (lambda rows: rows[2].update(id="x"), 3, "'x'"),
    (lambda rows: rows.append(rows[0]), 13, "order"),
    (lambda rows: rows[2].pop("items"), 3, "items"),
    (lambda rows: rows[2].pop("status"), 3, "status"),
    (lambda rows: rows[2].update(items=["张三"]), 3, "entity and type"),
    (lambda rows: rows[2].update(items=[{"word": "张三", "pos": "n"}]), 3, "entity and type"),
    (lambda rows: rows[2].update(items=[{"entity": "张三", "type": None}]), 3, "entity and type"),
])
def test_annotations_that_do_not_fit_are_exit_2_with_line_and_command(tmp_path, change, line, says):
    run = cut_run(tmp_path)
    merge(tmp_path)
    before = fusion(run).read_bytes()
    edit(run / "1000" / "entity_train_1000.jsonl", change)
    with pytest.raises(UserError) as raised:
        merge(tmp_path)
    text = str(raised.value)
    assert f"entity_train_1000.jsonl:{line}: " in text and says in text
    assert "s1_predict_data.py" in text and "s4_split_data.py" in text
    assert fusion(run).read_bytes() == before


def test_a_broken_line_of_the_target_labels_is_one_problem(tmp_path):
    run = cut_run(tmp_path)
    write_targets(run)
    path = run / "1000" / "train_1000_synthetic_target.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([*lines[:2], "{", *lines[3:]]), encoding="utf-8")
    with pytest.raises(UserError, match="train_1000_synthetic_target.jsonl:3: is not valid JSON") as raised:
        merge(tmp_path)
    assert "\n" not in str(raised.value)


def test_all_annotations_that_do_not_fit_are_listed(tmp_path):
    run = cut_run(tmp_path)
    edit(run / "250" / "pos_train_250.jsonl", lambda rows: [row.update(text=["x"]) for row in rows])
    done = run_step("s5_merge_data", file_dir=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.count("pos_train_250.jsonl:") == 3


def test_an_entity_of_a_subset_whose_label_is_no_target_is_named(tmp_path):
    run = cut_run(tmp_path)
    edit(run / "500" / "train_500.jsonl", lambda rows: rows[0].update(
        entities=[{"start": 0, "end": 1, "entity": "NEW"}]))
    with pytest.raises(UserError, match=r"train_500\.jsonl:1: .*'NEW'.*labels\.txt"):
        merge(tmp_path)
