"""Step 4: nested subsets, each with everything that was made from its sentences and nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline import (
    TEXTS,
    all_bytes,
    annotation,
    manifest,
    mark_incomplete,
    quick_writes,  # noqa: F401
    read_rows,
    run_step,
    sentence,
    write_dataset,
    write_rows,
    write_run,
)

from syn_pipelines import s4_split_data as s4
from syn_pipelines.s4_split_data import main
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import file_hash, write_json
from syn_pipelines.utils.paths import manifest_path
from syn_pipelines.utils.subsets import nested_subsets

SIZES = {250: 3, 500: 6, 1000: 12}
KINDS = ["train_{n}", "entity_train_{n}", "pos_train_{n}", "train_{n}_synthetic", "entity_train_{n}_synthetic",
         "pos_train_{n}_synthetic"]


def split(file_dir, **flags):
    return main(cmd_args=False, file_dir=str(file_dir), file_name="demo", **flags)


def part(run, size, kind):
    return run / str(size) / f"{kind.format(n=size)}.jsonl"


# --- the choice ---------------------------------------------------------------------------------------------------

@given(st.sets(st.text(max_size=4), min_size=1, max_size=30), st.integers(0, 5), st.randoms())
def test_subsets_are_nested_and_depend_on_ids_and_seed_alone(ids, seed, shuffled):
    order = sorted(ids)
    shuffled.shuffle(order)
    subsets = nested_subsets(order, (0.25, 0.5, 1.0), seed=seed)
    assert subsets == nested_subsets(sorted(ids), (1.0, 0.5, 0.25), seed=seed)
    assert subsets[0.25] <= subsets[0.5] <= subsets[1.0] == ids
    assert [len(subsets[share]) for share in (0.25, 0.5)] == [max(1, round(len(ids) * share)) for share in (0.25, 0.5)]


def test_another_seed_chooses_other_sentences():
    ids = [str(i) for i in range(100)]
    assert len({frozenset(nested_subsets(ids, [0.5], seed=seed)[0.5]) for seed in range(5)}) == 5


# --- files --------------------------------------------------------------------------------------------------------

def test_every_size_holds_its_share_in_source_order_with_ids(tmp_path):
    run = write_run(tmp_path)
    split(tmp_path)
    whole = {row["id"]: row for row in read_rows(part(run, 1000, "train_{n}"))}
    assert list(whole) == [str(i + 1) for i in range(12)]
    assert [("".join(row["text"])) for row in whole.values()] == list(TEXTS)
    for size, count in SIZES.items():
        rows = read_rows(part(run, size, "train_{n}"))
        assert len(rows) == count
        assert [int(row["id"]) for row in rows] == sorted(int(row["id"]) for row in rows)
        assert all(row == whole[row["id"]] for row in rows)


def test_annotations_and_synthetic_sentences_follow_their_source_sentence(tmp_path):
    run = write_run(tmp_path)
    split(tmp_path)
    for size in SIZES:
        chosen = {row["id"] for row in read_rows(part(run, size, "train_{n}"))}
        for kind in KINDS:
            source = read_rows(run / f"{kind.format(n=1000)}.jsonl") if kind != "train_{n}" else []
            owned = [row for row in source if row["id"].split("-s")[0] in chosen]
            assert kind == "train_{n}" or read_rows(part(run, size, kind)) == owned
            assert manifest(part(run, size, kind))["counts"] == {"rows": len(read_rows(part(run, size, kind)))}


def test_ids_of_the_file_are_used_and_the_order_of_the_lines_does_not_matter(tmp_path):
    ids = [f"tweet {i}" for i in range(12)]
    run = write_run(tmp_path / "a", ids=ids)
    split(tmp_path / "a")
    rows = [sentence(text, id=identity) for text, identity in zip(TEXTS, ids)]
    random.Random(1).shuffle(rows)
    other = write_run(tmp_path / "b", ids=ids, synthetic=False, modes=("entity",))
    write_rows(tmp_path / "b" / "demo" / "train_1000.jsonl", rows)
    write_rows(other / "entity_train_1000.jsonl", [annotation(row, "entity") for row in rows])
    split(tmp_path / "b")
    for size in SIZES:
        assert ({r["id"] for r in read_rows(part(run, size, "train_{n}"))}
                == {r["id"] for r in read_rows(part(other, size, "train_{n}"))})


@pytest.mark.parametrize("identity", [lambda n: str(n), lambda n: f'"{n}', lambda n: f"\\{n}", lambda n: n, lambda n: None])
def test_what_its_step_has_vouched_for_is_split_as_it_would_be_without(tmp_path, identity):
    run = write_run(tmp_path)
    for path in [tmp_path / "demo" / "train_1000.jsonl", *run.glob("*_1000*.jsonl")]:
        rows = read_rows(path)
        for number, row in enumerate(rows):
            source, mark, last = str(row.pop("id", number + 1)).partition("-s")
            new = identity(int(source) + 100)
            own = source if new is None else new
            if "source_id" in row:
                row["source_id"] = str(own)
            if new is not None or path.name != "train_1000.jsonl":
                rows[number] = {"id": f"{own}-s{last}" if mark else own, **row}
        write_rows(path, rows)
        manifest_path(path).unlink(missing_ok=True)
    split(tmp_path)
    found = {path: path.read_bytes() for path in run.glob("*/*.jsonl")}
    assert len(found) == 18
    for path in [tmp_path / "demo" / "train_1000.jsonl", *run.glob("*_1000*.jsonl")]:
        write_json(manifest_path(path), {"step": "by hand", "file": path.name, "inputs": {}, "sha256": file_hash(path)})
    split(tmp_path)
    assert {path: path.read_bytes() for path in run.glob("*/*.jsonl")} == found


def test_sentences_that_change_while_they_are_split_are_refused_and_nothing_is_replaced(tmp_path, monkeypatch):
    run = write_run(tmp_path)
    split(tmp_path)
    before, train = all_bytes(run), tmp_path / "demo" / "train_1000.jsonl"
    real = s4.is_as_written

    def meanwhile(path):  # asked once all sentences have been looked at
        if path == train:
            write_rows(train, read_rows(train)[:-1])
        return real(path)
    monkeypatch.setattr(s4, "is_as_written", meanwhile)
    with pytest.raises(UserError, match="train_1000.jsonl: has changed while the step runs"):
        split(tmp_path)
    assert all_bytes(run) == before


def test_the_same_bytes_when_run_again_and_other_sentences_with_another_seed(tmp_path):
    run = write_run(tmp_path)
    split(tmp_path)
    before = all_bytes(run)
    split(tmp_path)
    assert all_bytes(run) == before
    split(tmp_path, seed=7)
    assert all_bytes(run)["500/train_500.jsonl"] != before["500/train_500.jsonl"]
    assert all_bytes(run)["1000/train_1000.jsonl"] == before["1000/train_1000.jsonl"]


def test_line_separators_inside_a_text_do_not_break_lines(tmp_path):
    run = write_run(tmp_path, synthetic=False)
    rows = [{"text": ["a", "\u2028", "\x85", "\r"], "entities": []}, {"text": ["b"], "entities": []}]
    write_rows(tmp_path / "demo" / "train_1000.jsonl", rows)
    for mode in ("entity", "pos"):
        write_rows(run / f"{mode}_train_1000.jsonl", [annotation({**row, "id": str(i)}, mode) for i, row in enumerate(rows, 1)])
    split(tmp_path)
    assert [row["text"] for row in read_rows(part(run, 1000, "train_{n}"))] == [row["text"] for row in rows]


def test_rejected_and_failed_annotations_stay_in_every_subset(tmp_path):
    run = write_run(tmp_path, synthetic=False, modes=("entity",))
    rows = read_rows(run / "entity_train_1000.jsonl")
    for row, status in zip(rows, ["rejected", "failed"] * 6):
        row.update(status=status, items=[])
    write_rows(run / "entity_train_1000.jsonl", rows)
    split(tmp_path)
    assert [len(read_rows(part(run, size, "entity_train_{n}"))) for size in SIZES] == list(SIZES.values())


# --- what is missing ----------------------------------------------------------------------------------------------

def test_partial_annotations_are_split_as_they_are_and_stay_marked(tmp_path):
    run = write_run(tmp_path, synthetic=False, modes=("entity",))
    path = run / "entity_train_1000.jsonl"
    write_rows(path, read_rows(path)[:5])
    mark_incomplete(path)
    warnings = split(tmp_path).warnings
    assert any(f"{path}: not complete" in text and "s1_predict_data.py" in text for text in warnings)
    assert len(read_rows(part(run, 1000, "entity_train_{n}"))) == 5
    assert manifest(part(run, 250, "entity_train_{n}"))["complete"] is False
    assert manifest(part(run, 250, "train_{n}"))["complete"] is True


@pytest.mark.parametrize(("mode", "other"), [("entity", "pos"), ("pos", "entity")])
def test_one_mode_without_synthetic_sentences_is_enough_and_the_rest_is_named_with_its_command(tmp_path, mode, other):
    run = write_run(tmp_path, modes=(mode,), synthetic=False)
    done = run_step("s4_split_data", file_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (run / "250").glob("*.jsonl")) == sorted([f"{mode}_train_250.jsonl", "train_250.jsonl"])
    assert f"{other}_train_1000.jsonl: not there" in done.stderr
    assert f"s1_predict_data.py --file_name=demo --file_dir={tmp_path} --mode={other}" in done.stderr
    assert f"s2_continous_generation.py --file_name=demo --file_dir={tmp_path}" in done.stderr
    assert f"s3_predict_syn_data.py --file_name=demo --file_dir={tmp_path} --mode={mode}" in done.stderr


@pytest.mark.parametrize("prepare", [lambda run: None, lambda run: write_rows(
    run / "train_1000_synthetic.jsonl", [{"id": "1-s0", "source_id": "1", "text": ["a"], "entities": []}])])
def test_no_annotation_at_all_is_exit_2_with_the_command_and_writes_nothing(tmp_path, prepare):
    write_dataset(tmp_path)
    run = tmp_path / "demo" / "GLM4"
    prepare(run)
    before = all_bytes(run) if run.exists() else {}
    done = run_step("s4_split_data", file_dir=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"s1_predict_data.py --file_name=demo --file_dir={tmp_path} --mode=entity" in done.stderr.splitlines()[-1]
    assert all_bytes(run) == before


def test_parts_of_a_file_that_has_gone_are_taken_away(tmp_path):
    run = write_run(tmp_path)
    split(tmp_path)
    foreign = write_rows(run / "250" / "pos_train_250_mine.jsonl", [{"id": "1"}])
    (run / "pos_train_1000.jsonl").unlink()
    split(tmp_path)
    assert not list(run.glob("*/pos_train_*0.*"))
    assert foreign.exists()
    assert part(run, 250, "pos_train_{n}_synthetic").exists()


def test_annotations_of_synthetic_sentences_are_left_out_without_these(tmp_path):
    run = write_run(tmp_path)
    split(tmp_path)
    (run / "train_1000_synthetic.jsonl").unlink()
    warnings = split(tmp_path).warnings
    assert any("entity_train_1000_synthetic.jsonl" in text and "left out" in text for text in warnings)
    assert not list(run.glob("*/*_synthetic*"))


def test_a_file_put_there_by_hand_is_never_taken_away(tmp_path):
    run = write_run(tmp_path, modes=("entity",))
    mine = write_rows(part(run, 250, "pos_train_{n}"), [{"id": "1"}])
    split(tmp_path)
    assert mine.exists()


# --- bad input ----------------------------------------------------------------------------------------------------

def change(path, edit):
    rows = read_rows(path)
    edit(rows)
    write_rows(path, rows)


@pytest.mark.parametrize(("file", "edit", "line", "says"), [
    ("entity_train_1000", lambda rows: rows[4].update(id="99"), 5, "'99'"),
    ("entity_train_1000", lambda rows: rows[4].update(id=["5"]), 5, "['5']"),
    ("entity_train_1000", lambda rows: rows[4].pop("id"), 5, "None"),
    ("entity_train_1000", lambda rows: rows.insert(5, rows[4]), 6, "twice"),
    ("pos_train_1000", lambda rows: rows.reverse(), 2, "order"),
    ("pos_train_1000_synthetic", lambda rows: rows[1].update(id="1-s7"), 2, "'1-s7'"),
    ("train_1000_synthetic", lambda rows: rows[1].update(source_id="99"), 2, "'99'"),
    ("train_1000_synthetic", lambda rows: rows[1].pop("source_id"), 2, "None"),
    ("train_1000_synthetic", lambda rows: rows[1].update(text=[]), 2, "at least one token"),
])
def test_rows_that_belong_to_no_sentence_are_named_before_anything_is_written(tmp_path, file, edit, line, says):
    run = write_run(tmp_path)
    split(tmp_path)
    before = all_bytes(run / "250")
    change(run / f"{file}.jsonl", edit)
    with pytest.raises(UserError) as raised:
        split(tmp_path, seed=7)
    assert f"{file}.jsonl:{line}: " in str(raised.value)
    assert says in str(raised.value)
    assert all_bytes(run / "250") == before


def test_a_broken_line_is_exit_2_with_file_line_and_command(tmp_path):
    run = write_run(tmp_path)
    path = run / "entity_train_1000.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"status": "ok"', b'"status": ok', 1))
    done = run_step("s4_split_data", file_dir=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "entity_train_1000.jsonl:1: is not valid JSON" in last
    assert "s1_predict_data.py" in last


def test_of_several_wrong_files_the_first_is_told(tmp_path):
    """Files are cut side by side, and a small one is done first."""
    run = write_run(tmp_path)
    for name in ("pos_train_1000", "train_1000_synthetic", "entity_train_1000_synthetic"):
        path = run / f"{name}.jsonl"
        path.write_text(path.read_text(encoding="utf-8") + "{\n", encoding="utf-8")
    with pytest.raises(UserError, match="/train_1000_synthetic.jsonl:"):  # it says where the others go
        main(cmd_args=False, file_dir=str(tmp_path), file_name="demo")
    (run / "train_1000_synthetic.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="/pos_train_1000.jsonl:"):
        main(cmd_args=False, file_dir=str(tmp_path), file_name="demo")
    assert not [*run.glob("*/*.jsonl*")]


def test_all_bad_rows_of_a_file_are_listed(tmp_path):
    run = write_run(tmp_path, synthetic=False)
    change(run / "pos_train_1000.jsonl", lambda rows: [row.update(id=f"x{row['id']}") for row in rows])
    with pytest.raises(UserError) as raised:
        split(tmp_path)
    assert str(raised.value).count("pos_train_1000.jsonl:") == 12


def test_later_files_that_a_rerun_made_stale_are_named_with_their_command(tmp_path):
    write_run(tmp_path)
    split(tmp_path)
    assert run_step("s5_merge_data", file_dir=tmp_path).returncode == 0
    assert not any("out of date" in text for text in split(tmp_path).warnings)
    stale = [text for text in split(tmp_path, seed=7).warnings if "out of date" in text]
    assert any("train_250_fusion.jsonl" in text and "s5_merge_data.py" in text and "--is_syn=0" in text for text in stale)
    assert any("synthetic_fusion" in text and "--is_syn=1" in text for text in stale)
