"""import_annotations.py: what people changed in another tool comes back, token by token, or nothing is written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from interchange_data import SENTENCES, annotated_tasks, dump, sentences, spans_of, write_run
from pipeline import manifest, quick_writes, read_json, read_rows, run_step, write_rows  # noqa: F401

from syn_pipelines import export
from syn_pipelines.import_annotations import main
from syn_pipelines.interchange.flat import flattened
from syn_pipelines.interchange.formats import FORMATS
from syn_pipelines.utils.decisions import GOLD, REVIEW, Tally, applied, effective, text_hash
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.records import read_sentences

TARGETS = ("PER", "LOC/GPE", "ORG.NAM")
HERE = Path(__file__)


def exported(run: Path, format: str, dense: bool = True, **more) -> Path:
    """The file to bring back, as people who changed nothing give it back."""
    export.main(cmd_args=False, file_dir=str(run.parents[1]), file_name="demo", save_type_name="try", format=format,
                dense_lang=str(int(dense)), **more)
    folder = run / "export" / format
    path = folder / FORMATS[format].file
    if format == "label-studio":
        return dump(run.parents[1] / "back" / "tasks.json", annotated_tasks(read_json(path)))
    if format == "argilla":
        rows = read_json(path)
        for row in rows:
            row.update(status="completed", responses={"spans": [{"value": row["suggestions"]["spans"]["value"], "user_id": "u"}]})
        return dump(run.parents[1] / "back" / "records.json", rows)
    return path


def bring_back(run: Path, format: str, path: Path, dense: bool | None = True, **more):
    flags = {} if dense is None else {"dense_lang": str(int(dense))}
    return main(cmd_args=False, file_dir=str(run.parents[1]), format=format, input=str(path), **flags,
                **{"file_name": "demo", "save_type_name": "try", **more})


def rows_of(run: Path):
    return read_rows(run / "1000" / "train_1000_syn_fusion.jsonl")


def decisions(run: Path, name: str = REVIEW) -> list[dict]:
    path = run / name
    return read_rows(path) if path.exists() else []


def told(rows: list[dict]) -> list[tuple]:
    """What decisions say, without what each of them has."""
    keys = ("start", "end", "label")
    return [(row["decision"], *(row[key] for key in keys), *(row["to"][key] for key in keys if "to" in row)) for row in rows
            if row["decision"] not in ("accept", "done")]


# --- round trips -------------------------------------------------------------------------------------------------


def skip_without_spacy(format: str) -> None:
    if format == "spacy":
        pytest.importorskip("spacy", reason="spacy is not installed")


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=sentences())
def test_every_span_of_a_hostile_text_comes_back_as_a_data_set(tmp_path_factory, format, dense, drawn):
    skip_without_spacy(format)
    run = write_run(tmp_path_factory.mktemp("trip"), drawn, synthetic=0)
    if not any(spans for _, spans in drawn):
        return
    path = exported(run, format, dense)
    bring_back(run, format, path, dense, file_name="back", save_type_name="")
    back = list(read_sentences(run.parents[1] / "back" / "train_1000.jsonl"))
    for row, original in zip(back, rows_of(run), strict=True):
        spans = spans_of(original)
        if format in ("conll", "bioes"):
            spans = flattened([(e["start"], e["end"], e["entity"]) for e in original["entities"]], TARGETS, Counter())
        assert row["id"] == original["id"] and row["text"] == original["text"] and spans_of(row) == spans


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=sentences())
def test_what_nobody_changed_is_accepted_and_nothing_else_decided(tmp_path_factory, format, drawn):
    skip_without_spacy(format)
    run = write_run(tmp_path_factory.mktemp("trip"), drawn, synthetic=0)
    bring_back(run, format, exported(run, format), all_done=True)
    rows = decisions(run) + decisions(run, GOLD)
    assert {row["decision"] for row in rows} <= {"accept", "done"}
    assert sum(row["decision"] == "done" for row in rows) == len(drawn)
    total = sum(len(spans_of(row)) for row in rows_of(run))
    if format not in ("conll", "bioes"):
        assert sum(row["decision"] == "accept" for row in rows) == total


@pytest.mark.parametrize("format", FORMATS)
def test_the_sample_comes_back_from_every_format(tmp_path, format):
    """The hostile sentences, ids and synthetic flags included."""
    skip_without_spacy(format)
    run = write_run(tmp_path)
    bring_back(run, format, exported(run, format), file_name="back", save_type_name="")
    back = read_rows(tmp_path / "back" / "train_1000.jsonl")
    assert [row["id"] for row in back] == ["0 #", "1 #", "2 #", "3 #"]
    assert [row["text"] for row in back] == [tokens for tokens, _ in SENTENCES]
    assert [row.get("source_id") for row in back] == [None, None, None, "0 #"] and back[3]["synthetic"] is True
    labels = (tmp_path / "back" / "labels.txt").read_text(encoding="utf-8").split()
    assert labels == ["O", *sorted({label for row in back for _, _, label in spans_of(row)})]
    assert manifest(tmp_path / "back" / "train_1000.jsonl")["step"] == "import_annotations"


def test_what_argilla_writes_after_loading_is_read(tmp_path):
    argilla = pytest.importorskip("argilla", reason="argilla is not installed")
    run = write_run(tmp_path)
    path = exported(run, "argilla")
    records = [argilla.Record.from_dict({**row, "responses": {}}) for row in read_json(path)]
    for record in records:
        record.responses.add(argilla.Response("spans", record.suggestions["spans"].value, user_id="00000000-0000-0000-0000-000000000000"))
    back = [{**record.to_dict(), "status": "completed"} for record in records]
    bring_back(run, "argilla", dump(tmp_path / "back.json", back), file_name="back", save_type_name="")
    assert [spans_of(row) for row in read_rows(tmp_path / "back" / "train_1000.jsonl")] == [spans_of(row) for row in rows_of(run)]


def test_what_spacy_writes_again_is_read(tmp_path):
    pytest.importorskip("spacy", reason="spacy is not installed")
    import spacy
    from spacy.tokens import DocBin

    run = write_run(tmp_path)
    path = exported(run, "spacy") / "00001.spacy"
    docs = list(DocBin().from_disk(path).get_docs(spacy.blank("xx").vocab))
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "again.spacy")
    bring_back(run, "spacy", tmp_path / "again.spacy", file_name="back", save_type_name="")
    assert [spans_of(row) for row in read_rows(tmp_path / "back" / "train_1000.jsonl")] == [spans_of(row) for row in rows_of(run)]


# --- decisions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.fixture
def tasks(run) -> tuple[Path, list[dict]]:
    path = exported(run, "label-studio")
    return path, read_json(path)


def region(task: dict, surface: str, label: str) -> dict:
    return next(r for r in task["annotations"][0]["result"] if r["value"]["text"] == surface and r["value"]["labels"] == [label])


def test_each_kind_of_change_becomes_its_decision(run, tasks):
    path, (first, *others) = tasks
    result = first["annotations"][0]["result"]
    text = first["data"]["text"]
    result.remove(region(first, "😀", "NOUN"))
    region(first, "北京大学", "PERSON")["value"]["labels"] = ["NOUN"]
    region(first, "在北", "NOUN")["value"].update(start=text.index("在"), end=text.index("在") + 1, text="在")
    at = text.index("我")
    result.append({"id": "new", "type": "labels", "from_name": "label", "to_name": "text",
                   "value": {"start": at, "end": at + 1, "labels": ["PERSON"], "text": "我"}})
    summary = bring_back(run, "label-studio", dump(path, [first, *others]))
    rows = [row for row in decisions(run) if row["id"] == "0 #"]
    assert told(rows) == [("resize", 2, 4, "NOUN", 2, 3, "NOUN"), ("reject", 3, 7, "PERSON"), ("reject", 7, 8, "NOUN"), ("add", 0, 1, "PERSON")]
    assert {row["kind"] for row in rows if "kind" in row} == {"extension"}
    assert {row["text_sha256"] for row in rows} == {text_hash(SENTENCES[0][0])}
    assert [row["decision"] for row in decisions(run, GOLD)] == ["accept"] * 5
    account = next(a for a in summary.accounts if a.what == "decisions")
    assert account.total == len(decisions(run)) + len(decisions(run, GOLD))


def test_gold_goes_to_a_file_of_its_own_and_guesses_of_the_ner_model_do_not(run, tasks):
    path, rows = tasks
    region(rows[0], "北京", "LOC/GPE")["value"]["labels"] = ["PER"]
    rows[3]["annotations"][0]["result"] = [r for r in rows[3]["annotations"][0]["result"] if r["value"]["labels"] != ["PER"]]
    summary = bring_back(run, "label-studio", dump(path, rows))
    assert told(decisions(run, GOLD)) == [("relabel", 3, 5, "LOC/GPE", 3, 5, "PER")]
    assert {row["kind"] for row in decisions(run, GOLD)} == {"gold"}
    assert told(decisions(run)) == [("reject", 0, 1, "PER"), ("reject", 1, 2, "PER")]
    assert [row["kind"] for row in decisions(run) if row["decision"] == "reject"] == ["target", "target"]
    assert any("--apply_gold_review" in note for note in summary.notes)


def test_an_extension_label_made_gold_is_a_reject_here_and_an_add_there(run, tasks):
    path, rows = tasks
    region(rows[0], "😀", "NOUN")["value"]["labels"] = ["PER"]
    bring_back(run, "label-studio", dump(path, rows))
    assert told(decisions(run)) == [("reject", 7, 8, "NOUN")] and told(decisions(run, GOLD)) == [("add", 7, 8, "PER")]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=sentences(), after=sentences())
def test_the_decisions_turn_what_went_out_into_what_came_back(tmp_path_factory, before, after):
    folder = tmp_path_factory.mktemp("trip")
    run = write_run(folder, before, synthetic=0)
    path = exported(run, "doccano")
    rows = read_rows(path)
    for row, (_, spans) in zip(rows, after):
        layout = row["tokens"]
        edges = [len("".join(layout[:n]).encode("utf-16-le")) // 2 for n in range(len(layout) + 1)]
        row["label"] = [[edges[s], edges[e], label] for s, e, label in spans if e <= len(layout)]
    bring_back(run, "doccano", write_rows(folder / "back.jsonl", rows), all_done=True)
    reviews = {name: effective(run / name) for name in (REVIEW, GOLD)}
    for original, (_, spans) in zip(rows_of(run), after):
        entities = original["entities"]
        for name, review in reviews.items():
            entities = applied(original["text"], entities, review.decisions.get(original["id"], []), targets=TARGETS, tally=Tally(),
                               path=run / name)
        assert spans_of({"entities": entities}) == sorted({span for span in spans if span[1] <= len(original["text"])})


def test_the_same_file_twice_decides_nothing_more(run, tasks):
    path, rows = tasks
    region(rows[0], "😀", "NOUN")["value"]["labels"] = ["PERSON"]
    bring_back(run, "label-studio", dump(path, rows))
    before = (run / REVIEW).read_bytes()
    summary = bring_back(run, "label-studio", path)
    assert (run / REVIEW).read_bytes() == before and not summary.outputs
    account = next(a for a in summary.accounts if a.what == "decisions")
    assert account.total == account.parts["there already"] > 0


def test_what_nobody_has_finished_decides_nothing(run, tasks):
    path, rows = tasks
    rows[0]["annotations"] = []
    rows[1]["annotations"][0]["was_cancelled"] = True
    summary = bring_back(run, "label-studio", dump(path, rows))
    assert {row["id"] for row in decisions(run)} == {"2 #", "3 #"}
    assert summary.accounts[0].parts == {"confirmed": 2, "not finished": 2}


def test_of_several_annotations_the_one_changed_last_counts(run, tasks):
    path, rows = tasks
    rows[0]["annotations"].append({"result": [], "updated_at": "2023-01-01T00:00:00Z"})
    bring_back(run, "label-studio", dump(path, rows))
    assert told(decisions(run)) == []


def test_json_min_is_read_too(run, tasks):
    path, rows = tasks
    small = [{**row["data"], "id": 100 + number, "annotation_id": 1, "label": [r["value"] for r in row["annotations"][0]["result"]]}
             for number, row in enumerate(rows)]
    bring_back(run, "label-studio", dump(path, small))
    assert told(decisions(run)) == [] and sum(row["decision"] == "done" for row in decisions(run)) == 4


def test_doccano_objects_are_read_and_its_own_numbers_are_no_ids(run):
    rows = [{**{key: value for key, value in row.items() if key != "label"}, "id": 100 + n, "relations": [], "Comments": [],
             "entities": [{"id": k, "label": label, "start_offset": s, "end_offset": e} for k, (s, e, label) in enumerate(row["label"])]}
            for n, row in enumerate(read_rows(exported(run, "doccano")))]
    bring_back(run, "doccano", write_rows(run / "back.jsonl", rows), all_done=True)
    assert told(decisions(run) + decisions(run, GOLD)) == []


def test_a_format_that_does_not_tell_who_finished_accepts_nothing_unasked(run):
    rows = read_rows(exported(run, "doccano"))
    rows[0]["label"].pop(0)
    rows[1]["label"] = []
    summary = bring_back(run, "doccano", write_rows(run / "back.jsonl", rows))
    assert decisions(run) == [] and told(decisions(run, GOLD)) == [("reject", 3, 7, "ORG.NAM")]
    assert summary.accounts[0].parts == {"came back without any span": 1, "changed": 1, "unchanged, not known to be finished": 2}
    assert any("--all_done" in text for text in summary.warnings)


def test_columns_that_left_spans_out_do_not_reject_them(run):
    path = exported(run, "conll")
    text = path.read_text(encoding="utf-8")
    back = run / "back" / "train.conll"
    back.parent.mkdir()
    back.write_text(text.replace("我\tO", "我\tB-PERSON"), encoding="utf-8")
    back.with_name("train.ids.jsonl").write_bytes(path.with_name("train.ids.jsonl").read_bytes())
    bring_back(run, "conll", back)
    assert told(decisions(run)) == [("add", 0, 1, "PERSON")] and decisions(run, GOLD) == []


def test_columns_without_the_file_of_ids_are_refused_for_a_run_and_read_as_a_data_set(run):
    path = exported(run, "conll")
    back = run / "alone.conll"
    back.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="(alone.ids.jsonl, is not beside it)|(is not among the sentences)"):
        bring_back(run, "conll", back)
    assert decisions(run) == []
    bring_back(run, "conll", back, file_name="back", save_type_name="")
    assert [len(row["text"]) for row in read_rows(run.parents[1] / "back" / "train_1000.jsonl")] == [len(tokens) for tokens, _ in SENTENCES]


def test_what_was_drawn_on_argillas_page_counts_utf16_and_what_was_sent_does_not(tmp_path):
    run = write_run(tmp_path, [(list("😀哈哈哈"), [(1, 2, "NOUN"), (2, 3, "PERSON")]), (["z"], [])])
    path = exported(run, "argilla")
    rows = read_json(path)
    value = rows[0]["responses"]["spans"][0]["value"]
    assert value == [{"start": 1, "end": 2, "label": "NOUN"}, {"start": 2, "end": 3, "label": "PERSON"}]
    value[1:] = [{"start": 4, "end": 5, "label": "PERSON"}]  # the last of three equal characters, as the page counts
    bring_back(run, "argilla", dump(path, rows))
    assert told(decisions(run)) == [("reject", 2, 3, "PERSON"), ("add", 3, 4, "PERSON")]


# --- what does not fit ------------------------------------------------------------------------------------------------


def refused(run: Path, format: str, path: Path, expected: str, **more) -> None:
    """UserError with that text, and nothing written: neither decisions nor a data set."""
    with pytest.raises(UserError, match=expected):
        bring_back(run, format, path, **more)
    assert decisions(run) == decisions(run, GOLD) == []
    with pytest.raises(UserError, match=expected):
        bring_back(run, format, path, file_name="back", save_type_name="", **more)
    assert not (run.parents[1] / "back" / "train_1000.jsonl").exists()


def test_offsets_that_count_otherwise_are_refused_with_the_flag_that_reads_them(run):
    path = exported(run, "doccano", offsets="codepoint")
    refused(run, "doccano", path, r"train\.jsonl:1: sentence '0 #': the span .* it would in code points: use --offsets=codepoint")
    bring_back(run, "doccano", path, offsets="codepoint", all_done=True)
    assert told(decisions(run) + decisions(run, GOLD)) == []


def test_a_text_that_the_tool_changed_is_refused_with_both_texts(run, tasks):
    path, rows = tasks
    rows[1]["data"]["text"] = rows[1]["data"]["text"].replace("\r\n", "\n")
    refused(run, "label-studio", dump(path, rows), r"tasks\.json:1: sentence '1 #': the text is not that of its tokens from character 2 on: "
                                                   r"expected '\\r\\n.*, found '\\n")


@pytest.mark.parametrize(("old", "new"), [(" ", "  "), ("é", "e\u0301"), ("😀", "\ufffd\ufffd"), ("b", "c")])
def test_any_other_character_is_refused(tmp_path, old, new):
    run = write_run(tmp_path, [(["x", f"a{old}b", "y"], [(1, 2, "PER")]), (["z"], [])])
    path = exported(run, "label-studio")
    rows = read_json(path)
    rows[0]["data"]["text"] = rows[0]["data"]["text"].replace(old, new)
    refused(run, "label-studio", dump(path, rows), "the text is not that of its tokens")


def test_a_span_within_a_token_is_refused_with_what_stands_there(run, tasks):
    path, rows = tasks
    rows[1]["annotations"][0]["result"][0]["value"].update(start=0, end=1, text="e")
    refused(run, "label-studio", dump(path, rows), r"the span 0 to 1 \(PER\), which is 'e', does not begin and end with a token")


def test_a_surface_that_is_not_there_is_refused(run, tasks):
    path, rows = tasks
    region(rows[0], "北京", "LOC/GPE")["value"]["text"] = "上海"
    refused(run, "label-studio", dump(path, rows), "should be '上海', but the text there is '北京'")


def test_the_line_is_that_of_the_file_also_in_a_list(run, tasks):
    path, rows = tasks
    rows[1]["annotations"][0]["result"][0]["value"].update(start=99, end=101)
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    line = next(n for n, text in enumerate(path.read_text().split("\n"), 1) if '"end": 101' in text)
    with pytest.raises(UserError) as caught:
        bring_back(run, "label-studio", path)
    told_line = int(str(caught.value).split("tasks.json:")[1].split(":")[0])
    assert told_line < line and path.read_text().split("\n")[told_line - 1] == " {"


@pytest.mark.parametrize(("change", "expected"), [
    (lambda row: row.update(record_id="nobody", id=""), r":1: id 'nobody' is not among the sentences"),
    (lambda row: row["tokens"].reverse(), r":1: sentence '0 #' has other tokens than in the run"),
    (lambda row: row["label"].append([0, 1, "PERSN"]), r"'PERSN' is neither a target label nor an extension label of this run \(did you mean 'PERSON'\?\)"),
    (lambda row: row.update(exported=[[0, 99, "PER"]]), r"'exported' holds the span"),
    (lambda row: row.update(exported="x"), r"'exported' must hold"),
    (lambda row: row.update(label="x"), r"needs the spans as a list"),
    (lambda row: row.update(record_id="1 #"), r":2: id '1 #' stands in line 1 already"),
])  # fmt: skip
def test_rows_that_are_not_those_of_the_run_are_refused(run, change, expected):
    rows = read_rows(exported(run, "doccano"))
    change(rows[0])
    with pytest.raises(UserError, match=expected):
        bring_back(run, "doccano", write_rows(run / "back.jsonl", rows))
    assert decisions(run) == decisions(run, GOLD) == []


def test_columns_in_another_order_are_refused(run):
    path = exported(run, "conll")
    blocks = path.read_text(encoding="utf-8").removesuffix("\n\n").split("\n\n")
    (run / "back").mkdir()
    back = run / "back" / "train.conll"
    back.write_text("\n\n".join([blocks[1], blocks[0], *blocks[2:]]) + "\n\n", encoding="utf-8")
    back.with_name("train.ids.jsonl").write_bytes(path.with_name("train.ids.jsonl").read_bytes())
    refused(run, "conll", back, r"train\.conll:1: sentence 1: expected the tokens .*, found")


@pytest.mark.parametrize(("tag", "expected"), [("I-PER", r":1: I-PER continues nothing\."), ("PER", r":1: 'PER' is no tag\.")])
def test_a_tag_that_means_nothing_is_refused_with_its_line(run, tag, expected):
    path = exported(run, "conll")
    (run / "back").mkdir()
    back = run / "back" / "train.conll"
    back.write_text(path.read_text(encoding="utf-8").replace("我\tO", f"我\t{tag}"), encoding="utf-8")
    back.with_name("train.ids.jsonl").write_bytes(path.with_name("train.ids.jsonl").read_bytes())
    refused(run, "conll", back, expected)


def test_labels_without_letters_before_them_are_no_columns_of_ours(tmp_path, run):
    (tmp_path / "x.conll").write_text("a\tPER\nb\tO\n", encoding="utf-8")
    with pytest.raises(UserError, match="no tag begins with B- or I-"):
        bring_back(run, "conll", tmp_path / "x.conll", file_name="back", save_type_name="")


# --- a data set --------------------------------------------------------------------------------------------------


def test_a_data_set_of_somebody_else_is_not_replaced(run, tasks):
    before = (run.parent / "train_1000.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"train_1000\.jsonl: exists and was not made by this script"):
        bring_back(run, "label-studio", tasks[0], save_type_name="")
    assert (run.parent / "train_1000.jsonl").read_bytes() == before


def test_its_own_data_set_is_made_anew_unless_somebody_changed_it(run, tasks):
    def again():
        bring_back(run, "label-studio", tasks[0], file_name="back", save_type_name="")
        return (run.parents[1] / "back" / "train_1000.jsonl").read_bytes()

    assert again() == again()
    write_rows(run.parents[1] / "back" / "train_1000.jsonl", [])
    with pytest.raises(UserError, match="was changed after this script made it"):
        again()


def test_without_its_manifest_a_data_set_is_replaced_only_when_asked_for(run, tasks):
    """As after a stop before the manifest, or where somebody put a data set of their own after an import that failed."""
    folder = run.parents[1] / "back"
    bring_back(run, "label-studio", tasks[0], file_name="back", save_type_name="")
    before = (folder / "train_1000.jsonl").read_bytes()
    for name in ("train_1000.manifest.json", "labels.txt"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="was not made by this script.*--overwrite"):
        bring_back(run, "label-studio", tasks[0], file_name="back", save_type_name="")
    bring_back(run, "label-studio", tasks[0], file_name="back", save_type_name="", overwrite=True)
    assert (folder / "train_1000.jsonl").read_bytes() == before and (folder / "labels.txt").exists()


@pytest.mark.parametrize("row, told", [
    ({"id": 1, "record_id": "1", "text": "x", "ner": [{"start": 0, "end": 1, "labels": ["PER"]}], "annotation_id": 3}, "stand under 'ner'"),
    ({"id": 1, "data": {"text": "x"}, "annotations": [{"result": [{"id": "r", "type": "hypertextlabels", "value": {
        "start": 0, "end": 1, "hypertextlabels": ["PER"]}}]}]}, "type 'hypertextlabels' marks a part of the text"),
], ids=["renamed control", "other kind of control"])
def test_regions_that_cannot_be_read_are_an_error_not_a_sentence_without_spans(tmp_path, run, row, told):
    with pytest.raises(UserError, match=told):
        bring_back(run, "label-studio", dump(tmp_path / "x.json", [row]))
    assert not decisions(run) and not decisions(run, GOLD)


def test_answers_to_a_question_of_another_name_are_an_error(tmp_path, run):
    rows = read_json(exported(run, "argilla"))
    for row in rows:
        row["responses"] = {"ner": row["responses"]["spans"]}
    with pytest.raises(UserError, match="are to 'ner', not to 'spans'"):
        bring_back(run, "argilla", dump(tmp_path / "renamed.json", rows))


@pytest.mark.parametrize("flags", [{"labels": "target"}, {"train": "gold"}])
def test_an_export_of_other_spans_than_the_flags_say_rejects_nothing(tmp_path, flags):
    run = write_run(tmp_path)
    folder = exported(run, "hf", **flags)
    name, = flags
    for path in (folder, folder / "data" / "train.jsonl"):
        with pytest.raises(UserError, match=f"was exported with --{name}={flags[name]}"):
            bring_back(run, "hf", path)
    bring_back(run, "hf", folder, **flags)
    assert not told(decisions(run) + decisions(run, GOLD))


def test_spans_that_are_new_in_the_run_since_the_export_are_not_rejected(tmp_path):
    run = write_run(tmp_path)
    folder = exported(run, "hf")
    path = run / "1000" / "train_1000_syn_fusion.jsonl"
    rows = read_rows(path)
    rows[0]["entities"].append({"start": 0, "end": 1, "entity": "NOUN", "text": rows[0]["text"][:1]})
    write_rows(path, rows)
    with pytest.raises(UserError, match="was made anew since the export.*Export again"):
        bring_back(run, "hf", folder)
    assert not decisions(run) and not decisions(run, GOLD)


def test_an_id_that_becomes_another_ones_is_an_error(tmp_path, run):
    rows = [{"id": name, "text": "Ann", "label": [[0, 3, "PER"]]} for name in ("17-s2", "17_s2")]
    path = tmp_path / "x.jsonl"
    write_rows(path, rows)
    with pytest.raises(UserError, match="becomes '17_s2', which stands in line 1 already"):
        bring_back(run, "doccano", path, file_name="back", save_type_name="")


def test_tasks_that_were_never_exported_from_here_become_sentences_too(tmp_path, run):
    """Annotations of any Label Studio project: texts without tokens, cut around the spans."""
    rows = [{"id": 7, "data": {"text": "Ms. Smith lives in  New York-ish places 😀."}, "annotations": [{"result": [
        {"type": "labels", "value": {"start": 0, "end": 9, "labels": ["PER"], "text": "Ms. Smith"}},
        {"type": "choices", "value": {"choices": ["x"]}},
        {"type": "labels", "value": {"start": 20, "end": 28, "labels": ["LOC"], "text": "New York"}}]}]}]
    bring_back(run, "label-studio", dump(tmp_path / "x.json", rows), None, file_name="back", save_type_name="")
    row, = read_rows(tmp_path / "back" / "train_1000.jsonl")
    assert [(" ".join(row["text"][s:e]), label) for s, e, label in spans_of(row)] == [("Ms. Smith", "PER"), ("New York", "LOC")]
    assert row["id"] == "7"


def test_ids_of_synthetic_sentences_do_not_pass_for_those_of_step_2(tmp_path):
    run = write_run(tmp_path)
    for name in ("1000/train_1000_syn_fusion.jsonl",):
        path = run / name
        path.write_bytes(path.read_bytes().replace(b'"3 #"', b'"0 #-s1"'))
    bring_back(run, "doccano", exported(run, "doccano"), file_name="back", save_type_name="")
    assert read_rows(tmp_path / "back" / "train_1000.jsonl")[3]["id"] == "0 #_s1"
    result = run_step("s4_split_data", file_dir=tmp_path, file_name="back", save_type_name="x")
    assert "also that of a synthetic sentence" not in result.stderr


@pytest.mark.parametrize(("flags", "expected"), [
    ({}, "--format"), ({"format": "doccano"}, "--input"), ({"format": "doccano", "input": "none.jsonl", "file_name": "new"}, "does not exist"),
    ({"format": "doccano", "input": str(HERE), "file_name": "new"}, "is not valid JSON"),
    ({"format": "label-studio", "input": str(HERE), "file_name": "demo", "save_type_name": "typo"}, "there is no such run"),
    ({"format": "doccano", "input": str(HERE), "file_name": ""}, "Name the data set"),
])  # fmt: skip
def test_mistakes_are_told_in_one_line(run, flags, expected):
    import re

    result = run_step("import_annotations", file_dir=run.parents[1], **{"file_name": "demo", **flags})
    assert result.returncode == 2 and re.search(expected, result.stderr) and "Traceback" not in result.stderr


def test_a_file_that_is_no_docbin_is_told(run):
    pytest.importorskip("spacy", reason="spacy is not installed")
    with pytest.raises(UserError, match="test_interchange_import.py: is no DocBin file"):
        bring_back(run, "spacy", HERE, file_name="new", save_type_name="")


def test_the_command_prints_one_json_line(run, tasks):
    result = run_step("import_annotations", file_dir=run.parents[1], save_type_name="try", format="label-studio", input=tasks[0], json=1)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["step"] == "import_annotations"
