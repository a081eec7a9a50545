"""The ledger: whatever is changed in a file is found, and the commands it names mend it."""

from __future__ import annotations

import importlib
import json
import random
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_runs import Run, assert_balanced, change_lines, changes_of, edit, found_in, seal, whole_run
from pipeline import quick_writes, read_rows, write_rows  # noqa: F401 (a fixture)

from syn_pipelines.utils.paths import SIZES


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    return whole_run(tmp_path_factory.mktemp("whole"), "sample_zh", train=12)


# --- whatever is changed is found ----------------------------------------------------------------------------------

FILES = ["../train_1000.jsonl", "entity_train_1000.jsonl", "pos_train_1000.jsonl", "train_1000_synthetic.jsonl",
         "entity_train_1000_synthetic.jsonl", "pos_train_1000_synthetic.jsonl",
         *(f"{n}/{name.format(n=n)}.jsonl" for n in SIZES for name in (
             "train_{n}", "entity_train_{n}", "pos_train_{n}", "train_{n}_synthetic", "entity_train_{n}_synthetic",
             "pos_train_{n}_synthetic", "train_{n}_fusion", "train_{n}_synthetic_fusion", "train_{n}_synthetic_target",
             "train_{n}_syn_fusion"))]


def test_the_list_of_files_is_that_of_a_whole_run(whole):
    run = whole.paths.run
    found = {str(path.relative_to(run)) for path in run.rglob("*.jsonl") if ".journal" not in path.parts}
    assert found - {"run.log.jsonl"} == set(FILES) - {"../train_1000.jsonl"}


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(("500/", "1000/")) or "syn_fusion" in name])
def test_any_change_of_any_file_is_found_even_when_all_checksums_agree(whole, tmp_path_factory, name):
    run = whole.copy(tmp_path_factory.mktemp("changed"))
    path = (run.paths.run / name).resolve()
    original, draw = path.read_bytes(), random.Random(name)
    manifests = {p: p.read_bytes() for p in run.paths.dataset.rglob("*.manifest.json")}
    for change in changes_of(name):
        rows = [json.loads(line) for line in original.splitlines()]
        change(rows, draw)
        write_rows(path, rows)
        assert path.read_bytes() != original, change.__name__
        seal(run, path)
        found_in(run, name if name != "../train_1000.jsonl" else "train_")
        path.write_bytes(original)
        for manifest, content in manifests.items():
            manifest.write_bytes(content)
    assert_balanced(run)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES[1:]), pick=st.integers(0, 8), seed=st.integers(0, 2**32), sealed=st.booleans())
def test_any_change_at_any_place_is_found(whole, tmp_path_factory, name, pick, seed, sealed):
    run = whole.copy(tmp_path_factory.mktemp("drawn"))
    path, changes = run.paths.run / name, changes_of(name)
    rows = read_rows(path)
    changes[pick % len(changes)](rows, random.Random(seed))
    write_rows(path, rows)
    if sealed:
        seal(run, path)
    found_in(run, name)
    shutil.rmtree(run.file_dir)


def test_every_manifest_is_held_to_its_file(whole, tmp_path):
    run = whole.copy(tmp_path)
    for path in sorted(run.paths.run.rglob("*.manifest.json")):
        if path.parent.name in ("500", "1000"):  # of the kinds that the smallest size has, too
            continue
        before, content = path.read_bytes(), json.loads(path.read_text(encoding="utf-8"))
        numbers = [name for name, value in content["counts"].items() if isinstance(value, int) and name != "steps"]
        for name in numbers:
            edit(path, lambda c, name=name: c["counts"].update({name: c["counts"][name] + 1}))
            assert name in found_in(run, path.name)
            path.write_bytes(before)
        for change in (lambda c: c.update(complete=not c["complete"]), lambda c: c.update(sha256="0" * 64),
                       lambda c: c["inputs"].update({next(iter(c["inputs"])): "0" * 64})):
            edit(path, change)
            found_in(run, path.name)
            path.write_bytes(before)
        path.write_bytes(before[:40])
        found_in(run, path.name)
        path.unlink()
        if "model" not in path.name and path.name != "label_syn_fusion.manifest.json":  # others were made from its file
            found_in(run, path.name)
        path.write_bytes(before)
    assert_balanced(run)


@pytest.mark.parametrize("kind", ["fusion", "synthetic_fusion", "syn_fusion"])
def test_label_files_are_held_to_the_spans_in_the_data(whole, tmp_path, kind):
    run = whole.copy(tmp_path)
    path = run.paths.label_file(kind)
    before = path.read_bytes()
    last = list(json.loads(before))[-1]
    for change in (lambda c: c[last].update(count=c[last]["count"] + 1), lambda c: c.pop(last),
                   lambda c: c[last].update(is_target=True), lambda c: c.update(NEW={"idx": len(c), "count": 1, "is_target": False}),
                   lambda c: c["O"].update(idx=5)):
        edit(path, change)
        seal(run, path)
        assert f"{path}" in found_in(run, path.name)
        path.write_bytes(before)
        seal(run, path)


@pytest.mark.parametrize("name", [*FILES[1:6], "250/train_250.jsonl", "500/pos_train_500_synthetic.jsonl", "250/train_250_fusion.jsonl",
                                  "1000/train_1000_synthetic_fusion.jsonl", "500/train_500_syn_fusion.jsonl", "label_fusion.json",
                                  "label_syn_fusion.json", "250/train_250_fusion.manifest.json", "entity_train_1000.manifest.json",
                                  ".journal/entity_train_1000.jsonl"])
def test_the_commands_it_names_mend_what_was_changed(whole, tmp_path, name):
    run = whole.copy(tmp_path)
    path, before = run.paths.run / name, (run.paths.run / name).read_bytes()
    if path.suffix == ".jsonl":
        change_lines(path, lambda lines: lines.pop(2))
    else:
        edit(path, lambda content: content.get("counts", content).popitem())
    result = run.look()
    assert not result.balanced
    for _ in range(4):
        if result.balanced:
            break
        words = shlex.split(result.book.problems[0].mend)
        script = importlib.import_module(f"syn_pipelines.{Path(words[1]).stem}")
        script.main([word for word in words[2:] if not word.startswith("--file_dir")] + [f"--file_dir={run.file_dir}"])
        result = run.look()
    assert result.balanced, str(result)
    assert path.suffix != ".jsonl" or ".journal" in name or path.read_bytes() == before


@pytest.mark.parametrize("name", ["entity_train_1000", "pos_train_1000", "train_1000_synthetic", "entity_train_1000_synthetic",
                                  "pos_train_1000_synthetic"])
def test_journals_are_held_to_what_was_published(whole, tmp_path, name):
    run = whole.copy(tmp_path)
    path = run.paths.journals / f"{name}.jsonl"
    before = path.read_bytes()

    def other(line: bytes, **new: str) -> bytes:
        return json.dumps({**json.loads(line), **new}, ensure_ascii=False).encode() + b"\n"

    last = json.loads(before.splitlines()[-1])["id"]
    changes: dict[str, Callable[[list[bytes]], Any]] = {
        "dropped": lambda lines: lines.pop(3),
        "another reply": lambda lines: lines.__setitem__(3, other(lines[3], text="[]")),
        "cut": lambda lines: lines.__setitem__(3, lines[3][:30] + b"\n"),
        "no object": lambda lines: lines.__setitem__(3, b"[]\n"),
        "swapped": lambda lines: lines.__setitem__(3, other(lines[3], id=last)),
        "nowhere": lambda lines: lines.append(other(lines[3], id="no such sentence")),
        "subject": lambda lines: lines.__setitem__(3, other(lines[3], sentence="0" * 16)),
        "settings": lambda lines: lines.__setitem__(0, lines[0].replace(b"offline-v1", b"offline-v2")),
    }
    for how, change in changes.items():
        change_lines(path, change)
        text = found_in(run, name)
        assert f"{path}:4" in text or how not in ("cut", "no object", "subject"), text
        assert "is about another sentence" in text or how != "subject", text
        path.write_bytes(before)
    path.unlink()
    assert str(path) in found_in(run, name)
    path.write_bytes(before)
    assert_balanced(run)


def test_rows_exchanged_between_two_sizes_are_found_in_both(whole, tmp_path):
    run = whole.copy(tmp_path)
    small, large = (run.paths.sized(size, "train_{n}_fusion") for size in (250, 500))
    rows, more = read_rows(small), read_rows(large)
    outside = next(row for row in more if row["id"] not in {r["id"] for r in rows})
    rows[0] = outside
    write_rows(small, rows)
    seal(run, small)
    text = found_in(run, small.name)
    assert "comes from nowhere" in text and "is missing" in text


@pytest.mark.parametrize("name", ["train_{n}_fusion", "train_{n}_synthetic_fusion", "train_{n}_syn_fusion", "pos_train_{n}"])
def test_a_row_put_behind_the_last_one_is_found_where_it_stands(whole, tmp_path, name):
    run = whole.copy(tmp_path)
    path = run.paths.sized(500, name)
    rows = read_rows(path)
    write_rows(path, [*rows, rows[0]])
    assert f"{path}:{len(rows) + 1}: id" in found_in(run, path.name)


def renamed(key: str) -> Callable[[dict[str, Any]], None]:
    """Another file in one place of present.json."""
    def change(content: dict[str, Any]) -> None:
        entry = next(iter(content.values()))
        entry[key] = entry[key].replace("toy", "another")
    return change


@pytest.mark.parametrize(("name", "change"), [
    *(("present.json", renamed(key)) for key in ("train", "labels", "dev", "test")),
    ("present.json", lambda content: content.update(another=next(iter(content.values())))),
    ("present.json", lambda content: content.popitem()),
    ("unmapped_labels.json", lambda content: content["gold"].append({"mode": "pos"})),
])
def test_the_other_files_are_held_to_the_run(whole, tmp_path, name, change):
    run = whole.copy(tmp_path)
    path = run.paths.run / name
    before = path.read_bytes()
    edit(path, change)
    found_in(run, name)
    for text in (b"{", b"[]"):
        path.write_bytes(text)
        found_in(run, name)
    path.write_bytes(before)
    assert_balanced(run)


def test_a_file_that_was_taken_away_is_found(whole, tmp_path):
    for name in ("entity_train_1000.jsonl", "500/train_500.jsonl", "250/train_250_fusion.jsonl", "label_fusion.json",
                 "1000/train_1000_syn_fusion.jsonl", "train_1000_synthetic.jsonl"):
        run = whole.copy(tmp_path / Path(name).stem)
        (run.paths.run / name).unlink()
        found_in(run, name)
        shutil.rmtree(run.file_dir)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[]\n" * 30, b'{"id": "1"}\n', b'{"id": 1, "text": "x", "items": 3}\n',
                                     b'{"id": ["1"], "text": [], "entities": {}}\n', b"[" * 2000 + b"\n", b""])
def test_files_of_garbage_are_findings_and_never_a_traceback(whole, tmp_path, content):
    for name in (*FILES[1:6], "250/train_250.jsonl", "250/entity_train_250.jsonl", "250/train_250_synthetic_fusion.jsonl",
                 "1000/train_1000_syn_fusion.jsonl", "label_fusion.json", ".journal/entity_train_1000.jsonl",
                 ".journal/train_1000_synthetic.jsonl", "250/train_250.manifest.json"):
        run = whole.copy(tmp_path / "garbage")
        (run.paths.run / name).write_bytes(content)
        assert not run.look().balanced, name
        shutil.rmtree(run.file_dir)
