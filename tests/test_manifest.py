"""Manifests: what a file was made from, whether it still is, and which command renews it."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from syn_pipelines.utils import manifest
from syn_pipelines.utils.jsonl import file_hash, write_jsonl
from syn_pipelines.utils.manifest import (
    Publisher,
    changed_inputs,
    is_current,
    read_manifest,
    stale_files,
    warn_of_stale,
)
from syn_pipelines.utils.options import DataOptions, load_options
from syn_pipelines.utils.paths import RunPaths, manifest_path

COMMAND = "python syn_pipelines/s4_split_data.py --file_name=d"


@pytest.fixture
def paths(tmp_path):
    found = RunPaths(tmp_path, "d", "GLM4")
    write_jsonl(found.train, [{"text": ["a"], "entities": []}])
    return found


def publish(paths: RunPaths, name: str = "train_{n}", *, inputs=None, complete: bool = True, step: str = "s4_split_data",
            seed: int = 42, command: str = COMMAND) -> Path:
    path = paths.sized(250, name)
    publisher = Publisher(paths, step, {"seed": seed}, [paths.train, paths.synthetic], command)
    count, digest = write_jsonl(path, [{"n": 1}])
    publisher.publish(path, digest, {"rows": count}, complete=complete, inputs=inputs)
    return path


def test_a_manifest_stands_beside_its_file_and_says_what_made_it(paths):
    path = publish(paths)
    assert manifest_path(path) == path.parent / "train_250.manifest.json"
    found = json.loads(manifest_path(path).read_text(encoding="utf-8"))
    assert found == {
        "step": "s4_split_data", "file": "train_250.jsonl", "complete": True, "counts": {"rows": 1},
        "settings": {"seed": 42}, "inputs": {"../train_1000.jsonl": file_hash(paths.train), "train_1000_synthetic.jsonl": None},
        "command": COMMAND, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_equal_work_gives_equal_bytes_wherever_the_data_lie(paths, tmp_path):
    other = RunPaths(tmp_path / "elsewhere", "d", "GLM4")
    write_jsonl(other.train, [{"text": ["a"], "entities": []}])
    first = manifest_path(publish(paths)).read_bytes()
    assert manifest_path(publish(paths)).read_bytes() == manifest_path(publish(other)).read_bytes() == first


def test_relative_and_absolute_folders_name_the_same_inputs(paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = manifest_path(publish(paths)).read_bytes()
    assert manifest_path(publish(RunPaths(Path("."), "d", "GLM4"))).read_bytes() == first


def test_an_untouched_output_is_current(paths):
    path = publish(paths)
    assert is_current(paths, {"s4_split_data"}, {"seed": 42}, [path])
    assert changed_inputs(paths, read_manifest(path)) == [] and stale_files(paths) == []


def test_no_file_at_all_is_not_current(paths):
    assert not is_current(paths, {"s4_split_data"}, {}, [])


@pytest.mark.parametrize("change", [
    lambda paths, path: path.unlink(), lambda paths, path: path.write_bytes(b"{}\n"),
    lambda paths, path: manifest_path(path).unlink(), lambda paths, path: manifest_path(path).write_bytes(b"{"),
    lambda paths, path: manifest_path(path).write_bytes(b"[]"), lambda paths, path: paths.train.unlink(),
    lambda paths, path: paths.train.write_bytes(b"{}\n"), lambda paths, path: write_jsonl(paths.synthetic, []),
    lambda paths, path: publish(paths, complete=False), lambda paths, path: publish(paths, step="s5_merge_data"),
    lambda paths, path: publish(paths, seed=7),
], ids=["file gone", "file edited", "manifest gone", "manifest torn", "manifest of another kind", "input gone", "input edited",
        "absent input appeared", "incomplete", "another step", "another setting"])
def test_whatever_changed_an_output_is_no_longer_current(paths, change):
    path = publish(paths)
    change(paths, path)
    assert not is_current(paths, {"s4_split_data"}, {"seed": 42}, [path])


def test_an_output_is_judged_by_its_own_inputs_alone(paths):
    path = publish(paths, inputs=[paths.train])
    write_jsonl(paths.synthetic, [])
    assert is_current(paths, {"s4_split_data"}, {"seed": 42}, [path])


def test_inputs_are_those_the_step_saw_when_it_began(paths):
    publisher = Publisher(paths, "s4_split_data", {}, [paths.train], COMMAND)
    paths.train.write_bytes(b"changed meanwhile\n")
    path = paths.sized(250, "train_{n}")
    publisher.publish(path, write_jsonl(path, [])[1], {})
    assert changed_inputs(paths, read_manifest(path)) == ["../train_1000.jsonl"]


def test_a_stale_file_is_named_with_the_input_and_the_command(paths, caplog):
    path = publish(paths)
    publish(paths, "train_{n}_synthetic")
    publish(paths, "train_{n}_fusion", step="s5_merge_data", command="python syn_pipelines/s5_merge_data.py")
    paths.train.write_bytes(b"{}\n")
    assert (path, ["../train_1000.jsonl"], COMMAND) in stale_files(paths)
    with caplog.at_level(logging.WARNING):
        warnings = warn_of_stale(paths)
    assert warnings == [record.getMessage() for record in caplog.records] and len(warnings) == 2  # one a command
    assert all(word in warnings[0] for word in (str(path), "1 more", "train_1000.jsonl has changed", f"Renew with: {COMMAND}"))


def test_one_may_look_at_some_files_alone(paths):
    path, other = publish(paths), publish(paths, "train_{n}_synthetic")
    paths.train.write_bytes(b"{}\n")
    assert [found for found, *_ in stale_files(paths, [path])] == [path]
    assert stale_files(paths, [paths.synthetic]) == [] and len(stale_files(paths)) == 2 and other.exists()


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b'{"inputs": []}', b'{"inputs": {"x": "y"}}', b"\xff", b"[" * 10])
def test_a_manifest_that_cannot_be_used_counts_as_none(paths, content):
    path = publish(paths)
    manifest_path(path).write_bytes(content)
    assert read_manifest(path) == {} and stale_files(paths) == []
    assert not is_current(paths, {"s4_split_data"}, {"seed": 42}, [path])


def test_outputs_no_longer_made_are_taken_away_and_those_of_others_stay(paths):
    mine, old, foreign = publish(paths), publish(paths, "pos_train_{n}"), publish(paths, "train_{n}_fusion", step="s5_merge_data")
    by_hand = paths.sized(250, "notes_{n}")
    write_jsonl(by_hand, [])
    publisher = Publisher(paths, "s4_split_data", {}, [paths.train], COMMAND)
    publisher.publish(mine, file_hash(mine) or "", {})
    publisher.remove_others([mine, old, foreign, by_hand, paths.sized(250, "never_{n}")])
    assert mine.exists() and foreign.exists() and by_hand.exists()
    assert not old.exists() and not manifest_path(old).exists()


@pytest.mark.parametrize("name", ["d", "my data", "a'b", "$(touch x)"])
def test_the_commands_in_messages_can_be_pasted(tmp_path, name):
    paths = RunPaths(tmp_path / "some where", name, "My run")
    command = paths.command("s4_split_data", seed=1).removeprefix("python syn_pipelines/s4_split_data.py ")
    shown = subprocess.run(["bash", "-c", f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {command}"],
                           capture_output=True, text=True, check=True).stdout
    arguments = json.loads(shown)
    opts = load_options(DataOptions, arguments)
    assert (opts.file_dir, opts.file_name, opts.save_type_name, opts.seed) == (str(tmp_path / "some where"), name, "My run", 1)


def test_files_of_step_0_are_judged_from_the_data_set_folder_not_from_a_run(paths, tmp_path):
    source = tmp_path / "source.conll"
    source.write_text("a O\n", encoding="utf-8")
    dev = paths.split("dev")
    dev.write_bytes(b"{}\n")
    data_set = RunPaths(paths.file_dir, paths.file_name, ".")
    Publisher(data_set, "s0_prepare_data", {}, [source], "python s0").publish(dev, "", {})
    assert stale_files(paths, [dev]) == []
    source.write_text("b O\n", encoding="utf-8")
    assert [found for found, *_ in stale_files(paths, [dev])] == [dev]
    source.unlink()  # a data set outlives the files it was made from
    assert stale_files(paths, [dev]) == []


def test_only_what_was_made_from_the_given_files_is_named_when_asked_so(paths):
    path = publish(paths)
    paths.train.write_bytes(b"{}\n")
    assert warn_of_stale(paths, because_of=[paths.labels]) == []
    assert len(warn_of_stale(paths, because_of=[paths.train])) == 1 and path.exists()


def test_nothing_else_is_read_then(paths, monkeypatch):
    publish(paths)
    paths.train.write_bytes(b"{}\n")
    read = []
    monkeypatch.setattr(manifest, "file_hash", lambda path: read.append(path) or file_hash(path))
    assert warn_of_stale(paths, because_of=[paths.labels]) == [] == read
    assert warn_of_stale(paths, because_of=[paths.train]) and [path.name for path in read] == [paths.train.name]


@pytest.mark.parametrize("now", ["train_1000.jsonl", "train_1000.jsonl.gz"])
def test_the_form_in_which_a_cause_lies_there_does_not_matter(paths, now):
    publish(paths)
    paths.train.rename(paths.dataset / now)
    (paths.dataset / now).write_bytes(b"another content\n")
    assert len(warn_of_stale(paths, because_of=[paths.dataset / now])) == 1
