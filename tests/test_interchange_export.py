"""export.py: what each format holds, read with the library it is for; folders that are whole and overwrite nothing."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
import yaml
from interchange_data import EXTENSION, SENTENCES, TARGETS, spans_of, write_run
from pipeline import ROOT, quick_writes, read_json, read_rows, run_step, write_rows  # noqa: F401

from syn_pipelines.export import main
from syn_pipelines.interchange.card import plain
from syn_pipelines.interchange.folder import Folder
from syn_pipelines.interchange.formats import FORMATS
from syn_pipelines.utils.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def export(run: Path, format: str, **more):
    return main(cmd_args=False, file_dir=str(run.parents[1]), file_name="demo", save_type_name="try", format=format, dense_lang="1", **more)


def rows_of(run: Path):
    return read_rows(run / "1000" / "train_1000_syn_fusion.jsonl")


def skip_without_spacy(format: str) -> None:
    if format == "spacy":
        pytest.importorskip("spacy", reason="spacy is not installed")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_run_gives_the_same_bytes_and_a_manifest(run, format):
    skip_without_spacy(format)
    summary = export(run, format)
    folder = run / "export" / format
    first = content(folder)
    export(run, format)
    assert content(folder) == first
    assert set(summary.outputs) == {str(folder / name) for name in read_json(folder / "export.json")["files"]}
    manifest = read_json(folder / "export.manifest.json")
    assert manifest["step"] == "export" and manifest["settings"]["format"] == format and manifest["complete"]
    assert list(manifest["inputs"]) == ["../labels.txt", "1000/train_1000_syn_fusion.jsonl"]
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("format", FORMATS)
def test_spans_add_up_in_the_summary(run, format):
    skip_without_spacy(format)
    total = sum(len(row["entities"]) for row in rows_of(run))
    account = next(a for a in export(run, format).accounts if a.what == "spans")
    assert account.total == total and sum(account.parts.values()) == total
    assert account.parts["stand there twice"] == 1
    if format in ("conll", "bioes"):
        assert account.parts["left out"] == sum(account.reasons.values()) == 6


@pytest.mark.parametrize(("labels", "expected", "not_chosen"), [("target", 7, 8), ("extension", 7, 7), ("all", 14, 0)])
def test_labels_can_be_chosen(run, labels, expected, not_chosen):
    summary = export(run, "doccano", labels=labels)
    rows = read_rows(run / "export" / "doccano" / "train.jsonl")
    found = Counter(label for row in rows for _, _, label in row["label"])
    assert found.total() == expected
    assert set(found) <= {"target": set(TARGETS), "extension": set(EXTENSION)}.get(labels, set(TARGETS + EXTENSION))
    account = next(a for a in summary.accounts if a.what == "spans")
    assert account.parts["written"] == expected and account.parts.get("not of the chosen labels", 0) == not_chosen


@pytest.mark.parametrize("format", ["conll", "bioes"])
def test_columns_are_lines_of_two_whatever_the_tokens_hold(run, format):
    export(run, format)
    text = (run / "export" / format / "train.conll").read_bytes().decode()
    sentences = [block.split("\n") for block in text.removesuffix("\n\n").split("\n\n")]
    assert [len(lines) for lines in sentences] == [len(tokens) for tokens, _ in SENTENCES]
    assert all(len(line.split()) == len(line.split("\t")) == 2 for lines in sentences for line in lines)
    assert [line.split("\t")[1] for line in sentences[3]] == {"conll": ["B-PER", "B-PER"], "bioes": ["S-PER", "S-PER"]}[format]
    assert [line.split("\t")[1] for line in sentences[0]][3:7] == {
        "conll": ["B-ORG.NAM", *["I-ORG.NAM"] * 3], "bioes": ["B-ORG.NAM", "I-ORG.NAM", "I-ORG.NAM", "E-ORG.NAM"]}[format]
    assert [row["tokens"] for row in read_rows(run / "export" / format / "train.ids.jsonl")] == [tokens for tokens, _ in SENTENCES]


def test_label_studio_tasks_hold_predictions_that_slice_the_text_in_code_points(run):
    export(run, "label-studio")
    tasks = read_json(run / "export" / "label-studio" / "tasks.json")
    for task, row in zip(tasks, rows_of(run)):
        assert "annotations" not in task and task["data"]["id"] == row["id"] and task["data"]["synthetic"] is bool(row.get("synthetic"))
        result = task["predictions"][0]["result"]
        assert len({region["id"] for region in result}) == len(result) == len(spans_of(row))
        for region in result:
            value = region["value"]
            assert task["data"]["text"][value["start"]:value["end"]] == value["text"]


def test_the_labelling_interface_is_xml_with_every_label_as_it_is(run):
    export(run, "label-studio")
    root = ET.fromstring((run / "export" / "label-studio" / "label_config.xml").read_text(encoding="utf-8"))
    assert [label.get("value") for label in root.iter("Label")] == [*TARGETS, "NOUN", "PERSON"]
    control, text = root.find("Labels"), root.find("Text")
    assert control.get("toName") == text.get("name") and text.get("value") == "$text"


def test_a_label_with_markup_is_escaped_in_the_interface(tmp_path):
    run = write_run(tmp_path, [(["a", "b"], [(0, 1, EXTENSION[2])]), (["c"], [(0, 1, "PER")])])
    export(run, "label-studio")
    root = ET.fromstring((run / "export" / "label-studio" / "label_config.xml").read_text(encoding="utf-8"))
    assert EXTENSION[2] in [label.get("value") for label in root.iter("Label")]


def test_label_studio_accepts_tasks_and_interface(run):
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed: it needs an older numpy")
    export(run, "label-studio")
    folder = run / "export" / "label-studio"
    interface = sdk.LabelInterface((folder / "label_config.xml").read_text(encoding="utf-8"))
    interface.validate()
    for task in read_json(folder / "tasks.json"):
        assert interface.validate_task({"data": task["data"]}) and interface.validate_prediction(task["predictions"][0])


def test_doccano_lines_count_utf16_units_and_all_have_the_same_keys(run):
    export(run, "doccano")
    rows = read_rows(run / "export" / "doccano" / "train.jsonl")
    assert len({tuple(row) for row in rows}) == 1
    for row in rows:
        units = row["text"].encode("utf-16-le")
        for (start, end, label), (first, last, name) in zip(row["label"], row["exported"]):
            assert label == name and units[2 * start:2 * end].decode("utf-16-le") == "".join(row["tokens"][first:last])
    assert {label["text"] for label in read_json(run / "export" / "doccano" / "labels.json")} == {*TARGETS, "PERSON", "NOUN"}


def test_offsets_can_be_asked_for_otherwise(run):
    export(run, "doccano", offsets="codepoint")
    for row in read_rows(run / "export" / "doccano" / "train.jsonl"):
        for (start, end, _), (first, last, _) in zip(row["label"], row["exported"]):
            assert row["text"][start:end] == "".join(row["tokens"][first:last])
    with pytest.raises(UserError, match="--offsets=utf16: the format hf has no offsets"):
        export(run, "hf", offsets="utf16")


class Argilla(http.server.BaseHTTPRequestHandler):
    """As much of a server as the client asks for when it is made: who am I."""

    def do_GET(self) -> None:  # noqa: N802
        body = json.dumps({"id": "00000000-0000-0000-0000-000000000000", "username": "a", "role": "owner"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def argilla():
    sdk = pytest.importorskip("argilla", reason="argilla is not installed")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Argilla)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sdk.Argilla(api_url=f"http://127.0.0.1:{server.server_port}", api_key="key")
    yield sdk
    server.shutdown()
    server.server_close()


def test_argilla_loads_settings_and_records(run, argilla):
    from argilla._models import DatasetModel
    from argilla.records._io import JsonIO

    export(run, "argilla")
    folder = run / "export" / "argilla"
    settings = argilla.Settings.from_json(folder / ".argilla" / "settings.json")
    question, = settings.questions
    assert question.allow_overlapping and question.field == settings.fields[0].name
    assert question.labels == [*TARGETS, "NOUN", "PERSON"]
    assert DatasetModel(**read_json(folder / ".argilla" / "dataset.json")).name == "demo_try"
    records = JsonIO._records_from_json(folder / "records.json")
    for record, row in zip(records, rows_of(run), strict=True):
        assert record.id == row["id"] and record.metadata["synthetic"] == str(bool(row.get("synthetic"))).lower()
        suggestion, = record.suggestions
        assert suggestion.question_name == question.name
        surfaces = sorted((record.fields["text"][s["start"]:s["end"]], s["label"]) for s in suggestion.value)
        assert surfaces == sorted(("".join(row["text"][s:e]), label) for s, e, label in spans_of(row))


def test_argilla_says_that_its_page_counts_emoji_as_two(run):
    assert any("beyond U+FFFF" in text for text in export(run, "argilla").warnings)


@pytest.fixture
def held_out(run):
    rows = [{**row, "entities": [e for e in row["entities"] if e["entity"] in TARGETS]} for row in rows_of(run)]
    write_rows(run.parent / "dev.jsonl", rows[:2])
    write_rows(run.parent / "test.jsonl", rows[1:2])
    return run


def test_datasets_loads_the_folder_as_it_is(held_out, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    export(held_out, "hf")
    data = datasets.load_dataset(str(held_out / "export" / "hf"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in data.items()} == {"train": 4, "validation": 2, "test": 1}
    names = data["train"].features["ner_tags"].feature.names
    for row, original in zip(data["train"], rows_of(held_out), strict=True):
        assert row["id"] == original["id"] and row["tokens"] == original["text"] and row["synthetic"] is bool(original.get("synthetic"))
        assert row["text"] == "".join(row["tokens"])
        assert sorted((e["start"], e["end"], e["label"]) for e in row["entities"]) == spans_of(original)
        for entity in row["entities"]:
            assert row["text"][entity["start_char"]:entity["end_char"]] == entity["text"]
            assert entity["kind"] == ("target" if entity["label"] in TARGETS else "extension")
        assert len(row["ner_tags"]) == len(row["tokens"])
    assert [names[tag] for tag in data["train"][0]["ner_tags"]][3:7] == ["B-ORG.NAM", *["I-ORG.NAM"] * 3]


def test_spacy_docs_keep_tokens_blanks_and_all_spans(held_out):
    pytest.importorskip("spacy", reason="spacy is not installed")
    import spacy
    from spacy.tokens import DocBin

    for dense in ("1", "0"):
        main(cmd_args=False, file_dir=str(held_out.parents[1]), file_name="demo", save_type_name="try", format="spacy", dense_lang=dense)
        folder = held_out / "export" / "spacy"
        docs = list(DocBin().from_disk(folder / "train" / "00001.spacy").get_docs(spacy.blank("xx").vocab))
        for doc, row in zip(docs, rows_of(held_out), strict=True):
            assert [token.text for token in doc] == row["text"]
            assert doc.text == {"1": "", "0": " "}[dense].join(row["text"])
            assert sorted((s.start, s.end, s.label_) for s in doc.spans["sc"]) == spans_of(row)
            assert {(s.start, s.end, s.label_) for s in doc.ents} <= set(spans_of(row))
            assert doc.user_data["id"] == row["id"] and doc.user_data["synthetic"] is bool(row.get("synthetic"))
        assert [(s.start, s.end, s.label_) for s in docs[0].ents] == [(3, 7, "ORG.NAM"), (7, 8, "NOUN")]
        assert [path.parent.name for path in sorted(folder.rglob("*.spacy"))] == ["dev", "test", "train"]


# --- the card ----------------------------------------------------------------------------------------------------


def test_the_card_tells_what_made_each_part_and_leaves_licences_to_fill_in(tmp_path):
    steps = {"s1_predict_data": ("entity_train_1000", {"prompt": "entity.zh.v2", "model": "/home/me/models/glm-4", "backend": "transformers",
                                                       "prompt_sha256": "f" * 64, "seed": 42}, {"sentences": 3, "ok": 2, "failed": 1}),
             "s2_continous_generation": ("train_1000_synthetic", {"prompt": "explain.zh.v1", "model": "org/m|o*del", "backend": "openai"}, {})}
    run = write_run(tmp_path)
    for step, (name, mark, counts) in steps.items():
        (run / f"{name}.manifest.json").write_text(json.dumps({"step": step, "file": f"{name}.jsonl", "inputs": {}, "fingerprint": mark,
                                                               "counts": counts}), encoding="utf-8")
    (run / "ablation").mkdir()
    rows = [{"train": "fusion", "size": 250, "seed": seed, "dropped": "", "dev_f1": 50.0, "test_f1": 40.0 + seed} for seed in (0, 1)]
    (run / "ablation" / "ablation.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    export(run, "hf", lang="zh")
    text = (run / "export" / "hf" / "README.md").read_text(encoding="utf-8")
    for part in ("glm-4 (transformers)", "prompt entity.zh.v2 (ffffffffffff)", "1 failed", "org/m\\|o\\*del (openai)",
                 "| fusion | 250 | 2 | 50.0 | 40.5 |", "licence of this data set", "LOC/GPE"):
        assert part in text, part
    assert "/home/me" not in text
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "unknown" and head["language"] == ["zh"] and "synthetic" in head["tags"]


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", "a|b", "**b**", "[x](javascript:y)", "`c`", "---", "- x: y", "!!python/object", "{a}"])
def test_a_label_is_text_in_the_card_and_in_its_head(tmp_path, label):
    run = write_run(tmp_path, [(["a", "b"], [(0, 1, label)]), (["c"], [(0, 1, "PER")])])
    export(run, "hf")
    text = (run / "export" / "hf" / "README.md").read_text(encoding="utf-8")
    head, body = text.split("\n---\n", 1)
    names = next(f for f in yaml.safe_load(head)["dataset_info"]["features"] if f["name"] == "ner_tags")["sequence"]["class_label"]["names"]
    assert f"B-{label}" in names.values()
    assert "<script" not in body and f"| {plain(label)} | extension | 1 | 0 |" in body


@pytest.mark.parametrize(("text", "expected"), [("a_b", "a_b"), ("_a_", "\\_a\\_"), ("__a", "\\_\\_a"), ("北_京", "北_京")])
def test_an_underscore_within_a_word_is_left_as_it_is(text, expected):
    assert plain(text) == expected


def test_plain_text_cannot_end_a_cell_or_a_line():
    assert plain("a|b\nc\u2028<d>") == "a\\|b c &lt;d\\>"


# --- the folder --------------------------------------------------------------------------------------------------


def test_a_folder_with_files_of_somebody_else_is_left_alone(run):
    folder = run / "export" / "doccano"
    folder.mkdir(parents=True)
    (folder / "admin.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"admin\.jsonl: was not written by an export"):
        export(run, "doccano")
    assert content(folder) == {"admin.jsonl": b"mine"}


@pytest.mark.parametrize("name", ["train.jsonl", "notes/new.txt"])
def test_an_export_that_somebody_has_changed_is_left_alone(run, name):
    export(run, "doccano")
    path = run / "export" / "doccano" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    before = content(run / "export")
    with pytest.raises(UserError, match="was (changed after it was|not written by an) export"):
        export(run, "doccano")
    assert content(run / "export") == before


def test_another_format_does_not_take_the_place_of_a_folder_of_the_run(run):
    for output in (run, run.parent, run / "1000"):
        with pytest.raises(UserError, match="was not written by an export"):
            export(run, "doccano", output=str(output))


def test_a_link_is_not_followed(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is no folder"):
        export(run, "doccano", output=str(tmp_path / "link"))


def test_a_broken_sentence_leaves_the_earlier_export_as_it_was(run):
    export(run, "label-studio")
    before = content(run / "export")
    path = run / "1000" / "train_1000_syn_fusion.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "x", "text": []}\n')
    with pytest.raises(UserError, match=r"train_1000_syn_fusion\.jsonl:5: 'text' must be a list"):
        export(run, "label-studio")
    assert content(run / "export") == before


def test_an_export_that_was_killed_between_two_renames_is_put_back(run):
    export(run, "doccano")
    folder = run / "export" / "doccano"
    before = content(folder)
    folder.rename(folder.with_name(".doccano.old"))
    with pytest.raises(RuntimeError), Folder(folder, "doccano"):
        raise RuntimeError("killed again")
    assert content(folder) == before and [path.name for path in folder.parent.iterdir()] == ["doccano"]


def test_a_process_killed_while_it_writes_leaves_no_folder(run):
    program = ("import os, signal\nfrom syn_pipelines.interchange import doccano\nfrom syn_pipelines.export import main\n"
               "real = doccano.row_of\n"
               "def killed(item, material):\n    os.kill(os.getpid(), signal.SIGKILL) if item.id == '2 #' else None\n"
               "    return real(item, material)\ndoccano.row_of = killed\n"
               f"main(cmd_args=False, file_dir={str(run.parents[1])!r}, file_name='demo', save_type_name='try', format='doccano')")
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode == -9
    assert not (run / "export" / "doccano").exists()
    export(run, "doccano")
    assert [path.name for path in (run / "export").iterdir()] == ["doccano"]


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_prints_one_json_line(run):
    result = run_step("export", file_dir=run.parents[1], save_type_name="try", format="doccano", json=1)
    assert result.returncode == 0, result.stderr
    summary, = map(json.loads, result.stdout.splitlines())
    assert summary["step"] == "export" and summary["accounts"][0]["total"] == 4


def test_a_data_set_without_a_run_can_be_exported(run, tmp_path):
    flags = {"file_dir": str(run.parents[1]), "file_name": "demo", "save_type_name": "none", "format": "doccano", "train": "gold"}
    with pytest.raises(UserError, match="--train=gold and --output=FOLDER"):
        main(cmd_args=False, **flags)
    summary = main(cmd_args=False, **flags, output=str(tmp_path / "out"))
    assert list(summary.outputs) == [str(tmp_path / "out" / name) for name in ("labels.json", "train.jsonl")]
    assert not (run.parent / "none").exists()


@pytest.mark.parametrize("script", ["export", "import_annotations"])
def test_importing_a_script_loads_no_package_of_another_tool(script):
    program = f"import sys, syn_pipelines.{script}; print(*{{'spacy', 'datasets', 'argilla', 'torch', 'numpy', 'jinja2'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(("flags", "expected"), [
    ({"format": "conl"}, "is none of conll"), ({}, "--format is needed"), ({"format": "hf", "size": 300}, "is none of 250"),
    ({"format": "hf", "train": "fusion"}, "train_1000_fusion.jsonl: does not exist. Make it with: python"),
    ({"format": "hf", "save_type_name": "typo"}, "there is no such run"), ({"format": "hf", "file_name": "typo"}, "no such data set"),
])  # fmt: skip
def test_mistakes_are_told_in_one_line(run, flags, expected):
    result = run_step("export", file_dir=run.parents[1], **{"save_type_name": "try", **flags})
    assert result.returncode == 2 and expected in result.stderr and "Traceback" not in result.stderr


def test_spacy_that_is_missing_is_told_with_the_command_that_installs_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy.tokens", None)
    with pytest.raises(UserError, match=r'pip install "\.\[spacy\]"'):
        export(run, "spacy")
    assert not (run / "export" / "spacy").exists()


def test_an_id_with_a_line_end_is_refused(tmp_path):
    run = write_run(tmp_path)
    path = run / "1000" / "train_1000_syn_fusion.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"1 #"', b'"1\\n"'))
    with pytest.raises(UserError, match="its id holds a line end"):
        export(run, "conll")


def test_memory_does_not_grow_with_the_sentences(tmp_path):
    """Six times as many sentences take as much: the peak of what Python holds, as it counts itself."""
    import tracemalloc

    def peak(number: int) -> int:
        run = write_run(tmp_path / str(number), [(list("我在北京大学") * 20, [(2, 4, "LOC/GPE")] * 5)] * number)
        tracemalloc.start()
        export(run, "label-studio")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(10)
    small, large = peak(40), peak(240)
    assert large - small < 200 * 1000  # ids are known by their lines; a sentence alone takes more than ten times that
