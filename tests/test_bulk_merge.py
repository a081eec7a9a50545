"""The fast merge gives what the careful one gives, whatever the data, the subsets and the number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import (
    HARD_TOKENS,
    NAME,
    all_bytes,
    annotation,
    quick_writes,  # noqa: F401
    read_rows,
    run_step,
    tokens_of_any_kind,
    write_dataset,
    write_rows,
    write_run,
    write_targets,
)

from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines.utils import bulk_merge
from syn_pipelines.utils.decisions import text_hash
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import ITEM_KEYS
from syn_pipelines.utils.jsonl import file_hash, write_json
from syn_pipelines.utils.merging import Merger
from syn_pipelines.utils.paths import manifest_path
from syn_pipelines.utils.spans import Grounder

ROOT = Path(__file__).resolve().parents[1]
SIZES = (250, 500, 1000)


def flags(file_dir, **more) -> dict:
    return {"cmd_args": False, "file_dir": str(file_dir), "file_name": NAME, **more}


def merged(file_dir, monkeypatch, *, careful: bool, step=s5, **more):
    """All files of a merge, or the error: as it is done, or with the careful way alone."""
    with monkeypatch.context() as patch:
        if careful:
            def refuse(*args, **kwargs):
                raise bulk_merge.Careful
            patch.setattr(s5, "merge_alike", refuse)
        try:
            summary = step.main(**flags(file_dir, **more))
        except UserError as error:
            return str(error)
    return all_bytes(file_dir / NAME / "GLM4"), [str(account) for account in summary.accounts], summary.outputs


def assert_alike(file_dir, monkeypatch, **more):
    fast = merged(file_dir, monkeypatch, careful=False, **more)
    assert fast == merged(file_dir, monkeypatch, careful=True, **more)
    return fast


def never_careful(monkeypatch):
    """The fast way must do it all."""
    monkeypatch.setattr(Merger, "rows", None)


TYPES = st.sampled_from(["人名", "n", "PER", "外星人", "", "v ", "\\u4eba\\u540d"])


@st.composite
def annotated(draw):
    """Sentences with what a model said about them."""
    rows, said = [], {"entity": [], "pos": []}
    for number in range(draw(st.integers(1, 6))):
        tokens = draw(tokens_of_any_kind)
        start = draw(st.integers(0, len(tokens) - 1))
        place = {"start": start, "end": len(tokens), "entity": "PER"}
        entities = draw(st.sampled_from([[], [{**place, "text": tokens[start:]}], [{**place, "note": ["kept", {"x": 1.5}]}]]))
        identity = draw(st.sampled_from([str(number), f"ä{number}", f'"{number}', f"\\{number}", number]))
        rows.append({"id": identity, "text": tokens, "entities": entities, **draw(st.sampled_from([{}, {"label": ["O"], "é\"": {"z": None}}]))})
        for mode, (surface, kind) in ITEM_KEYS.items():
            words = draw(st.one_of(st.just(tokens), st.lists(st.sampled_from(tokens) | st.sampled_from(HARD_TOKENS), max_size=6)))
            if draw(st.integers(0, 9)):
                said[mode].append({"id": identity, "text": tokens, "reply": "x", "status": "ok",
                                   "items": [{surface: word, kind: draw(TYPES)} for word in words]})
    return rows, said


@settings(max_examples=40, deadline=None)
@given(annotated(), st.sampled_from(["0", "1"]))
def test_both_ways_give_the_same_files_for_any_data(example, dense):
    rows, said = example
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        file_dir = Path(folder)
        write_rows(file_dir / NAME / "train_1000.jsonl", rows)
        (file_dir / NAME / "labels.txt").write_text("O\nPER\n", encoding="utf-8")
        for mode, found in said.items():
            write_rows(file_dir / NAME / "GLM4" / f"{mode}_train_1000.jsonl", found)
        s4.main(**flags(file_dir))
        assert_alike(file_dir, patch, is_syn="0", dense_lang=dense)


def with_targets(file_dir):
    run = write_run(file_dir)
    s4.main(**flags(file_dir))
    write_targets(run)
    return run


@pytest.mark.parametrize("step", [s5, s8])
def test_both_ways_give_the_same_files_where_each_size_has_its_own_target_labels(tmp_path, monkeypatch, step):
    run = with_targets(tmp_path)
    rows = read_rows(run / "250" / "train_250_synthetic_target.jsonl")
    rows[0]["entities"] = [{"start": 0, "end": 1, "entity": "LOC", "text": rows[0]["text"][:1]}]
    write_rows(run / "250" / "train_250_synthetic_target.jsonl", rows)
    slow = merged(tmp_path, monkeypatch, careful=True, step=step)
    never_careful(monkeypatch)
    assert merged(tmp_path, monkeypatch, careful=False, step=step) == slow
    assert read_rows(run / "250" / "train_250_synthetic_fusion.jsonl")[0]["entities"][0] == rows[0]["entities"][0]


def as_written(path):
    """A manifest that vouches for the file, as the step that wrote it would."""
    write_json(manifest_path(path), {"step": "by hand", "file": path.name, "inputs": {}, "sha256": file_hash(path)})


@settings(max_examples=30, deadline=None)
@given(annotated(), st.data())
def test_files_that_their_steps_have_vouched_for_give_the_same(example, data):
    rows, said = example
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        run = Path(folder) / NAME / "GLM4"
        write_rows(Path(folder) / NAME / "train_1000.jsonl", rows)
        (Path(folder) / NAME / "labels.txt").write_text("O\nPER\n", encoding="utf-8")
        for mode, found in said.items():
            write_rows(run / f"{mode}_train_1000.jsonl", found)
            write_rows(run / f"{mode}_train_1000_synthetic.jsonl", [{**row, "id": f"{row['id']}-s1", "source_id": str(row["id"])}
                                                                    for row in found])
        write_rows(run / "train_1000_synthetic.jsonl", [
            {"id": f"{row['id']}-s1", "text": row["text"], "entities": [], "synthetic": True, "source_id": str(row["id"])}
            for row in rows])
        s4.main(**flags(folder))
        label, wrong = data.draw(st.sampled_from(["PER", "no target"])), False
        for size in SIZES:
            made = read_rows(run / str(size) / f"train_{size}_synthetic.jsonl")
            path = run / str(size) / f"train_{size}_synthetic_target.jsonl"
            ends = [data.draw(st.integers(0, len(row["text"]))) for row in made]
            write_rows(path, [{**row, "entities": [{"start": 0, "end": end, "entity": label, "text": row["text"][:end]}] * bool(end)}
                              for row, end in zip(made, ends)])
            as_written(path)
            wrong = wrong or (label == "no target" and any(ends))
        for step in (s5, s8):
            found = assert_alike(Path(folder), patch, step=step)
            assert isinstance(found, str) == (step is s8 and wrong), found


def test_what_people_decided_is_applied_and_counted_alike(tmp_path, monkeypatch):
    run = with_targets(tmp_path)
    row = read_rows(run / "1000" / "train_1000.jsonl")[0]
    about = {"id": row["id"], "text_sha256": text_hash(row["text"]), "time": 1.0}
    write_rows(run / "review.jsonl", [
        {**about, "kind": "extension", "start": 0, "end": 1, "label": "NOUN", "decision": "reject"},
        {**about, "kind": "extension", "start": 0, "end": 3, "label": "PERSON", "decision": "add"},
        {**about, "id": "nobody", "kind": "target", "start": 0, "end": 3, "label": "PER", "decision": "accept"}])
    assert_alike(tmp_path, monkeypatch)
    first = read_rows(run / "1000" / "train_1000_fusion.jsonl")[0]["entities"]
    assert {"start": 0, "end": 3, "entity": "PERSON", "text": row["text"][:3]} in first
    assert (0, 1, "NOUN") not in {(e["start"], e["end"], e["entity"]) for e in first}


def test_a_size_that_somebody_has_edited_is_merged_as_it_is(tmp_path, monkeypatch):
    run = with_targets(tmp_path)
    path = run / "250" / "entity_train_250.jsonl"
    rows = read_rows(path)
    rows[0]["items"] = [{"entity": rows[0]["text"][0], "type": "外星人"}]
    write_rows(path, rows)
    slow = merged(tmp_path, monkeypatch, careful=True)
    never_careful(monkeypatch)
    assert merged(tmp_path, monkeypatch, careful=False) == slow
    labels = {e["entity"] for e in read_rows(run / "250" / "train_250_fusion.jsonl")[0]["entities"]}
    assert "OTHER" in labels


def test_a_size_that_somebody_has_edited_and_vouches_for_is_merged_as_it_is(tmp_path, monkeypatch):
    run = write_run(tmp_path, synthetic=False)
    s4.main(**flags(tmp_path))
    path = run / "250" / "entity_train_250.jsonl"
    rows = read_rows(path)
    rows[0]["items"] = [{"entity": rows[0]["text"][0], "type": "外星人"}]
    write_rows(path, rows)
    as_written(path)
    assert_alike(tmp_path, monkeypatch, is_syn="0")
    assert "OTHER" in {e["entity"] for e in read_rows(run / "250" / "train_250_fusion.jsonl")[0]["entities"]}


@pytest.mark.parametrize("file", ["250/pos_train_250", "1000/pos_train_1000", "500/entity_train_500", "250/entity_train_250_synthetic"])
def test_a_file_that_is_gone_and_has_left_its_manifest_is_missing_in_its_size_alone(tmp_path, monkeypatch, file):
    run = write_run(tmp_path)
    s4.main(**flags(tmp_path))
    (run / f"{file}.jsonl").unlink()
    for half in ("0", "1"):
        assert_alike(tmp_path, monkeypatch, is_syn=half)
    mode, label = ("pos", "NOUN") if "pos" in file else ("entity", "PERSON")
    tail, kind = ("_synthetic", "synthetic_fusion") if "synthetic" in file else ("", "fusion")
    for size in SIZES:
        labels = {e["entity"] for row in read_rows(run / str(size) / f"train_{size}_{kind}.jsonl") for e in row["entities"]}
        assert (label in labels) == (f"{size}/{mode}_train_{size}{tail}" != file), (size, labels)


def test_whole_numbers_keep_all_their_digits(tmp_path, monkeypatch):
    rows = [{**row, "code": 12345678901234567890123} for row in write_dataset(tmp_path)]
    rows[0]["entities"][0]["code"] = -9223372036854775809
    write_rows(tmp_path / NAME / "train_1000.jsonl", rows)
    write_rows(tmp_path / NAME / "GLM4" / "pos_train_1000.jsonl", [annotation(row, "pos") for row in rows])
    s4.main(**flags(tmp_path))
    assert_alike(tmp_path, monkeypatch, is_syn="0")
    merged_rows = read_rows(tmp_path / NAME / "GLM4" / "1000" / "train_1000_fusion.jsonl")
    assert [row["code"] for row in merged_rows] == [row["code"] for row in rows]
    assert merged_rows[0]["entities"][0]["code"] == -9223372036854775809


def test_an_id_that_looks_like_the_beginning_of_another_line_gets_only_its_own_annotation(tmp_path, monkeypatch):
    rows = write_dataset(tmp_path)[:3]
    rows[0]["id"], rows[1] = f'{rows[1]["id"]}", "status": "ok', {**rows[0], "id": rows[1]["id"]}
    write_rows(tmp_path / NAME / "train_1000.jsonl", rows)
    write_rows(tmp_path / NAME / "GLM4" / "pos_train_1000.jsonl",
               [{"id": row["id"], "status": "ok", **annotation(row, "pos")} for row in rows[1:]])
    s4.main(**flags(tmp_path))
    assert_alike(tmp_path, monkeypatch, is_syn="0")
    found = read_rows(tmp_path / NAME / "GLM4" / "1000" / "train_1000_fusion.jsonl")
    assert "NOUN" not in str(found[0]) and "NOUN" in str(found[1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("file", ["entity_train_{n}", "pos_train_{n}", "train_{n}"])
@pytest.mark.parametrize("line", ['{"id": "1", "id": "1"}', "{", "", '{"id": "1", "text": ["x"], "items": [], "status": "ok", "entities": []}',
                                  '{"id": "77", "text": ["x"], "entities": []}'])
def test_whatever_is_wrong_is_told_alike_and_nothing_is_replaced(tmp_path, monkeypatch, size, file, line):
    run = write_run(tmp_path, synthetic=False)
    s4.main(**flags(tmp_path))
    path = run / str(size) / f"{file.format(n=size)}.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([lines[0], line, *lines[1:]]), encoding="utf-8")
    before = {p: p.read_bytes() for p in run.rglob("*fusion*")}
    found = assert_alike(tmp_path, monkeypatch, is_syn="0")
    if line and not (file == "train_{n}" and '"77"' in line):  # a sentence may be without annotations
        assert isinstance(found, str) and f"{path}:" in found
        assert {p: p.read_bytes() for p in run.rglob("*fusion*")} == before


def test_files_with_windows_line_ends_a_byte_order_mark_and_no_last_line_end_are_read_alike(tmp_path, monkeypatch):
    run = write_run(tmp_path, synthetic=False)
    s4.main(**flags(tmp_path))
    for size in SIZES:
        for path in (run / str(size)).glob("*.jsonl"):
            path.write_bytes(b"\xef\xbb\xbf\n" + path.read_bytes().replace(b"\n", b"\r\n").rstrip())
    never_careful(monkeypatch)
    merged(tmp_path, monkeypatch, careful=False, is_syn="0")
    monkeypatch.undo()
    assert_alike(tmp_path, monkeypatch, is_syn="0")


def test_the_number_of_processes_changes_no_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk_merge, "FRAME", 300)
    with_targets(tmp_path)
    found = [merged(tmp_path, monkeypatch, careful=False, workers=workers) for workers in (1, 2, 3)]
    assert found[0] == found[1] == found[2] and isinstance(found[0], tuple)
    assert not any(b"workers" in content for content in found[2][0].values())


def test_a_command_with_workers_reports_a_broken_row_as_without(tmp_path):
    run = write_run(tmp_path, synthetic=False)
    s4.main(**flags(tmp_path))
    path = run / "1000" / "entity_train_1000.jsonl"
    rows = read_rows(path)
    rows[5]["status"] = "odd"
    write_rows(path, rows)
    told = [run_step("s5_merge_data", file_dir=tmp_path, is_syn=0, workers=workers) for workers in (1, 2)]
    assert told[0].returncode == told[1].returncode == 2
    assert f"{path}:6: holds no known 'status'" in told[1].stderr
    assert told[0].stderr.replace("workers=1", "") == told[1].stderr.replace("workers=2", "")


@given(tokens_of_any_kind, st.booleans(), st.data())
def test_words_in_order_are_placed_as_one_by_one(tokens, dense, data):
    words = data.draw(st.one_of(
        st.just(tokens), st.lists(st.sampled_from([*tokens, "", " ", "x"]), max_size=8),
        st.integers(0, len(tokens)).map(lambda n: ["".join(tokens[:n]), *tokens[n:]])))
    fast = Grounder(tokens, dense).align(words)
    slow = Grounder(tokens, dense)
    slow.ends_in_order = lambda words: None
    assert fast == slow.align(words)


def peak_of(folder: Path, rows: int) -> int:
    """KiB that steps 4 and 5 take at most for so many sentences."""
    base = write_dataset(folder)
    many = [{**base[n % 12], "id": f"sentence-{n}"} for n in range(rows)]
    write_rows(folder / NAME / "train_1000.jsonl", many)
    for mode in ITEM_KEYS:
        write_rows(folder / NAME / "GLM4" / f"{mode}_train_1000.jsonl", [annotation(row, mode) for row in many])
    program = ("import sys; from syn_pipelines import s4_split_data as s4, s5_merge_data as s5\n"
               "for step in (s4, s5): step.main(cmd_args=False, file_dir=sys.argv[1], file_name='demo')\n"
               "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))")
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True, cwd=ROOT)
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_memory_does_not_grow_with_the_data(tmp_path):
    small, large = (peak_of(tmp_path / str(rows), rows) for rows in (2_000, 20_000))
    assert large < 1.3 * small


def test_a_row_takes_as_many_bytes_as_before(tmp_path):
    """Lines look as json.dumps writes them."""
    run = with_targets(tmp_path)
    s5.main(**flags(tmp_path))
    for kind in ("fusion", "synthetic_fusion"):
        for line in (run / "1000" / f"train_1000_{kind}.jsonl").read_text(encoding="utf-8").splitlines():
            assert line == json.dumps(json.loads(line), ensure_ascii=False)


