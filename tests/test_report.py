"""The report of a run: its figures are those of the files, it is made of what is there, and what is broken is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline import (  # noqa: F401 (a fixture)
    NAME,
    ROOT,
    quick_writes,
    read_rows,
    run_step,
    write_dataset,
    write_rows,
    write_run,
    write_targets,
)

from syn_pipelines import report, run_all
from syn_pipelines import s1_predict_data as s1
from syn_pipelines import s2_continous_generation as s2
from syn_pipelines import s3_predict_syn_data as s3
from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s6_combine_syn_fusion_label as s6
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines.reporting import content as contents
from syn_pipelines.reporting.page import embedded
from syn_pipelines.tools import ledger
from syn_pipelines.utils.errors import UserError


def flags(file_dir: Path) -> dict[str, str]:
    return {"file_dir": str(file_dir), "file_name": NAME}


def made(file_dir: Path, **options) -> report.Report:
    return report.main(cmd_args=False, **flags(file_dir), **{"charts": False, **options})  # drawing takes the most time


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run after all steps, made by the offline backend; step 7 by a list of names."""
    folder = tmp_path_factory.mktemp("whole")
    write_dataset(folder)
    for module in (s1, s2, s3):
        for mode in ({},) if module is s2 else ({"mode": "entity"}, {"mode": "pos"}):
            module.main(cmd_args=False, **flags(folder), **mode, backend="offline")
    s4.main(cmd_args=False, **flags(folder))
    s5.main(cmd_args=False, **flags(folder))
    s6.main(cmd_args=False, **flags(folder))
    write_targets(folder / NAME / "GLM4")
    s8.main(cmd_args=False, **flags(folder))
    return folder


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of it to change."""
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path / "data"


def run_of(file_dir: Path) -> Path:
    return file_dir / NAME / "GLM4"


# --- figures ---------------------------------------------------------------------------------------------------------

def test_the_figures_are_those_of_the_files(finished):
    content = made(finished).content
    originals, synthetic = (read_rows(run_of(finished) / "1000" / f"train_1000_{kind}fusion.jsonl") for kind in ("", "synthetic_"))
    assert content["rows"] == len(originals) + len(synthetic)
    funnel = [row["count"] for row in content["funnel"]]
    asked = sum(bool(row["entities"]) for row in read_rows(finished / NAME / "train_1000.jsonl"))
    assert funnel[:2] == [len(originals), asked] and funnel[4] == len(synthetic) and funnel[6] == content["rows"]
    rows = {row["label"]: row for row in content["labels"]["rows"]}
    for label in ("PER", "LOC"):
        counts = [sum(e["entity"] == label for row in rows_ for e in row["entities"]) for rows_ in (originals, synthetic)]
        assert [rows[label]["before"], rows[label]["original"], rows[label]["synthetic"]] == [counts[0], *counts]
    total = sum(row["original"] for row in content["labels"]["rows"])
    assert total == sum(len(row["entities"]) for row in originals)
    assert sum(row["spans"] for row in content["agreement"]["rows"]) == sum(kind["original"] for kind in content["labels"]["kinds"]
                                                                          if kind["kind"] == "target")


def test_the_account_is_that_of_the_ledger(finished):
    content = made(finished).content
    told = ledger.main(cmd_args=False, **flags(finished)).as_dict()
    assert content["recounted"] and content["balanced"] == told["balanced"] and content["problems"] == told["problems"]
    shown = [account["text"] for step in content["steps"] for account in [*step["accounts"], *step["more"]]]
    assert {f"{a['total']:,} {a['what']}" for a in told["steps"] if not a["step"].endswith((" 250", " 500"))} == {
        text.partition(" = ")[0] for text in shown}


def test_the_counts_of_the_manifests_give_the_same_funnel_and_the_page_says_so(finished, monkeypatch):
    recounted = made(finished).content
    monkeypatch.setattr(contents, "RECOUNTED", 10)
    told = made(finished)
    assert not told.content["recounted"] and told.content["funnel"] == recounted["funnel"]
    assert [row["count"] for row in told.content["reasons"]] == [row["count"] for row in recounted["reasons"]]
    page = told.page.read_text(encoding="utf-8")
    assert "counts of the manifests" in page and "--recount=1" in page and "Balanced" not in page
    assert made(finished, recount=True).content["recounted"]


def test_what_does_not_add_up_is_on_the_page_with_its_line_and_what_mends_it(finished):
    path = run_of(finished) / "1000" / "train_1000_fusion.jsonl"
    rows = read_rows(path)
    rows[0]["entities"] = rows[0]["entities"][:1]
    write_rows(path, rows)
    result = made(finished)
    assert not result.content["balanced"]
    page = result.page.read_text(encoding="utf-8")
    assert "It does not add up" in page and "train_1000_fusion.jsonl:1" in page and "s5_merge_data" in page


def test_replies_that_were_lost_are_counted_by_reason_with_examples(tmp_path):
    run = write_run(tmp_path)
    path = run / "entity_train_1000.jsonl"
    rows = read_rows(path)
    rows[0] |= {"status": "rejected", "reason": "no_json", "items": [], "reply": "I would rather not."}
    rows[1] |= {"status": "failed", "reason": "OutOfMemoryError: out of memory", "items": []}
    rows[2]["items"].append({"entity": "火星", "type": "地名"})
    write_rows(path, rows)
    s4.main(cmd_args=False, **flags(tmp_path))
    s5.main(cmd_args=False, **flags(tmp_path))
    found = {(row["step"], row["reason"]): row for row in made(tmp_path).content["reasons"]}
    assert found["s1 entity", "no_json"]["examples"] == [
        {"id": "1", "text": "张三在北京工作", "reply": "I would rather not."}]
    assert found["s1 entity", "OutOfMemoryError"]["examples"][0]["reply"] == "OutOfMemoryError: out of memory"
    assert found["s5", "not_in_text"]["examples"] == [{"id": "3", "text": "今天天气很好", "reply": "火星 / 地名"}]


def test_unmapped_types_are_listed_with_the_line_to_add(tmp_path):
    run = write_run(tmp_path)
    path = run / "entity_train_1000.jsonl"
    rows = read_rows(path)
    for row in rows:
        for item in row["items"]:
            item["type"] = "奇物" if item["type"] == "人名" else item["type"]
    write_rows(path, rows)
    s4.main(cmd_args=False, **flags(tmp_path))
    s5.main(cmd_args=False, **flags(tmp_path))
    result = made(tmp_path)
    (row,) = [row for row in result.content["unmapped"]["rows"] if row["type"] == "奇物"]
    assert row["gold"] == 7 and row["synthetic"] == 0 and row["counted_as"] == "OTHER"
    assert "&#34;奇物&#34; to the aliases of a label in entity_label.json" in result.page.read_text(encoding="utf-8")


# --- the sample ------------------------------------------------------------------------------------------------------

def test_a_synthetic_sentence_stands_beside_its_source_and_the_prompt_that_was_asked(finished):
    sample = made(finished).content["sample"]
    shown = [sample["sentences"][place] for place in sample["shown"]]
    synthetic = [one for one in shown if one["synthetic"]]
    assert synthetic and all(sample["sentences"][one["source"]]["id"] == one["id"].rpartition("-s")[0] for one in synthetic)
    replies = {row["id"]: row["text"] for row in read_rows(run_of(finished) / ".journal" / "train_1000_synthetic.jsonl")[1:]}
    for one in synthetic:
        source = "".join(sample["sentences"][one["source"]]["tokens"])
        steps = {asked["step"]: asked for asked in one["asked"]}
        beginning, end = sample["prompts"]["s2"]
        assert source in beginning + steps["s2"]["prompt"] + end
        assert steps["s2"]["reply"] == replies[one["id"].rpartition("-s")[0] + "#1"]
        for step in ("s3 entity", "s3 pos"):
            beginning, end = sample["prompts"][step]
            assert "".join(one["tokens"]) in beginning + steps[step]["prompt"] + end


def test_a_prompt_that_is_not_the_one_asked_is_not_shown(finished):
    path = run_of(finished) / ".journal" / "entity_train_1000.jsonl"
    rows = read_rows(path)
    write_rows(path, [{**row, "asked": "0" * 16} if "asked" in row else row for row in rows])
    sample = made(finished).content["sample"]
    asked = [one for sentence in sample["sentences"] for one in sentence["asked"]]
    assert {one["step"] for one in asked if one["prompt"] is None} == {"s1 entity"}
    assert all(one["reply"] for one in asked)


def test_the_sample_is_seeded_and_as_large_as_asked(finished):
    def ids(**options):
        sample = made(finished, **options).content["sample"]
        return [sample["sentences"][place]["id"] for place in sample["shown"]]

    assert ids(sample=6) == ids(sample=6) and len(ids(sample=6)) == 6
    assert ids(sample=6, seed=1) != ids(sample=6, seed=2)
    assert sum("-s" in name for name in ids(sample=6)) == 3
    assert ids(sample=0) == []


def test_a_sentence_of_fifty_thousand_tokens_does_not_make_the_page_large(tmp_path):
    rows = write_dataset(tmp_path)
    long = [{**row, "text": row["text"] * 8000} for row in rows]
    write_rows(tmp_path / NAME / "train_1000.jsonl", long)
    run_of(tmp_path).mkdir()
    result = made(tmp_path)
    assert result.page.stat().st_size < 1_000_000 and result.content["lengths"][0]["p100"] == max(len(row["text"]) for row in long)
    assert all(len(one["tokens"]) <= 400 for one in result.content["sample"]["sentences"])


# --- the same run, the same page -------------------------------------------------------------------------------------

def test_the_same_run_gives_the_same_bytes_whenever_it_is_asked(finished):
    first = made(finished, charts=True)
    before = {path: path.read_bytes() for path in first.files}
    assert {path.suffix for path in before} == {".html", ".png", ".svg"}
    with (run_of(finished) / "run.log.jsonl").open("a", encoding="utf-8") as log:  # what a second run_all adds
        for step, more in (("eval_ner", {"outputs": {"a": 1}}), ("s4_split_data", {"up_to_date": True}),
                           ("s2_continous_generation", {"usage": {"asked": 0, "seconds": 0.1}})):
            log.write(json.dumps({"time": 9e9, "step": step, "options": {}, "ended": "done", "seconds": 7, **more}) + "\n")
    second = made(finished, charts=True)
    assert {path: path.read_bytes() for path in second.files} == before


def test_the_page_holds_no_time_of_day(finished):
    rows = read_rows(run_of(finished) / "run.log.jsonl")
    page = made(finished).page.read_text(encoding="utf-8")
    assert not any(str(int(row["time"]))[:8] in page for row in rows)


# --- partial, damaged and hostile runs -------------------------------------------------------------------------------

def test_a_report_is_made_of_what_is_there_and_says_what_is_not(tmp_path):
    write_dataset(tmp_path)
    run_of(tmp_path).mkdir()
    nothing = made(tmp_path)
    assert [step["state"] for step in nothing.content["steps"]] == ["done"] + ["not run yet"] * 11
    assert [row["count"] for row in nothing.content["funnel"][2:]] == [None] * 5
    s1.main(cmd_args=False, **flags(tmp_path), mode="entity", backend="offline", limit=5)
    some = made(tmp_path)
    states = {step["key"]: step["state"] for step in some.content["steps"]}
    assert states["s1 entity"] == "partial" and states["s1 pos"] == "not run yet"
    page = some.page.read_text(encoding="utf-8")
    assert "not run yet" in page and "s2_continous_generation.py" in page and "Nobody has measured it yet" in page


@pytest.mark.parametrize("missing", ["run.log.jsonl", "unmapped_labels.json", ".journal", "train_1000_synthetic.jsonl", "1000",
                                     "pos_train_1000.jsonl", "1000/train_1000_synthetic_target.jsonl",
                                     "1000/train_1000_fusion.jsonl", "entity_train_1000.manifest.json"])
def test_without_one_of_its_files_the_report_is_made_all_the_same(finished, missing):
    path = run_of(finished) / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for recount in (True, False):
        assert made(finished, recount=recount).page.is_file()


@pytest.mark.parametrize("file, line", [("1000/train_1000_fusion.jsonl", 2), ("1000/train_1000_synthetic_fusion.jsonl", 2),
                                        ("pos_train_1000.jsonl", 2), ("../train_1000.jsonl", 2), ("unmapped_labels.json", 1),
                                        ("ablation/ablation.json", 1)])
@pytest.mark.parametrize("content", ["{broken", '{"id": "x", "text": 5}', '{"gold": [{"mode": 1}], "train": 3}'])
def test_a_broken_file_is_named_with_its_line(finished, file, line, content):
    path = run_of(finished) / file
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".json":
        path.write_text(content, encoding="utf-8")
    else:
        lines = path.read_text(encoding="utf-8").split("\n")
        path.write_text("\n".join([lines[0], content, *lines[2:]]), encoding="utf-8")
    with pytest.raises(UserError) as error:
        made(finished)
    assert f"{Path(file).name}:{line}: " in str(error.value)
    assert not (run_of(finished) / "report.html").exists()


def test_a_broken_stored_reply_is_named_with_its_line(finished):
    path = run_of(finished) / ".journal" / "pos_train_1000.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([lines[0], lines[1][:40], *lines[2:]]), encoding="utf-8")
    with pytest.raises(UserError, match=r"pos_train_1000\.jsonl:2: "):
        made(finished)


def test_a_run_that_is_not_there_is_named_with_those_that_are(finished):
    result = run_step("report", file_dir=finished, save_type_name="other")
    assert result.returncode == 2 and "there is no such run" in result.stderr and "GLM4" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("counts", [{}, {"sentences": "many", "ok": -3, "reasons": [1]}, {"ok": True, "replies": 7, "dropped": None}])
def test_manifests_with_counts_that_are_none_do_no_harm(finished, counts):
    for path in run_of(finished).rglob("*.manifest.json"):
        made_by = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**made_by, "counts": counts}), encoding="utf-8")
    for recount in (True, False):
        assert made(finished, recount=recount).page.is_file()


def test_an_ablation_is_shown_as_a_table_and_a_plot(finished):
    def cell(train, size, f1, gain=None):
        return {"train": train, "size": size, "test_f1": {"mean": f1, "sd": 0.5}, "gain": gain, "note": ""}

    folder = run_of(finished) / "ablation"
    folder.mkdir()
    (folder / "ablation.json").write_text(json.dumps({
        "train": ["gold", "fusion"], "sizes": [250, 1000], "seeds": [1, 2], "test": {"new": 30, "sentences": 30}, "missing": 1,
        "summary": [cell("gold", 250, 41.25), cell("fusion", 250, 45.5, {"mean": 4.25, "low": 1.0, "high": 7.5, "p": 0.01})]}))
    result = made(finished, charts=True)
    page = result.page.read_text(encoding="utf-8")
    assert "45.5 ± 0.5" in page and "(+4.2 [+1.0, +7.5])" in page and "1 trainings are missing" in page
    assert run_of(finished) / "report" / "gains.svg" in result.files
    (folder / "ablation.json").unlink()
    assert not any("gains" in path.name for path in made(finished, charts=True).files) and not (run_of(finished) / "report" / "gains.svg").exists()


SCRIPT = "<script>window.hit=1</script>"


def test_markup_in_labels_tokens_replies_and_types_never_becomes_markup_of_the_page(tmp_path):
    hostile_run(tmp_path)
    result = made(tmp_path, charts=True)
    page = result.page.read_text(encoding="utf-8")
    assert "<script>window" not in page and "<img src=x" not in page and "<!--" not in page
    assert page.count("<script") == page.count("</script") == 2
    assert "&lt;script&gt;window" in page and embedded(SCRIPT)[1:-1] in page
    assert "\u202e" not in page and "\x07" not in page


def hostile_run(file_dir: Path) -> Path:
    """A run whose labels, tokens, replies, types, ids and reasons are markup; everything is escaped or does harm."""
    image, turned = "<img src=x onerror=window.hit=1>", "abc\u202edef\x07"
    rows = [{"id": f"<b>{k}</b>", "text": [SCRIPT, "</script>", "<!--", image, turned, "👩\u200d👩\u200d👧", "'\"&amp;", "\r\n", " "],
             "entities": [{"start": 0, "end": 3, "entity": SCRIPT}, {"start": 1, "end": 2, "entity": "a'\"/b&amp;"}]} for k in range(4)]
    folder = file_dir / NAME
    write_rows(folder / "train_1000.jsonl", rows)
    (folder / "labels.txt").write_text(f"O\n{SCRIPT}\na'\"/b&amp;\n", encoding="utf-8")
    made_rows = [{"id": f"{row['id']}-s1", "text": row["text"], "entities": [], "synthetic": True, "source_id": row["id"]} for row in rows]
    run = run_of(file_dir)
    for name, some in (("", rows), ("_synthetic", made_rows)):
        for mode, items in (("entity", [{"entity": "</script>", "type": image}, {"entity": image, "type": SCRIPT}, {"entity": "gone<b>", "type": "x"}]),
                            ("pos", [{"word": SCRIPT, "pos": "<i>noun"}])):
            annotations = [{"id": row["id"], "text": row["text"], "reply": f"{SCRIPT}{image}</script><!--", "items": items, "status": "ok",
                            "reason": ""} for row in some]
            annotations[1] |= {"status": "rejected", "reason": f"{image}: {SCRIPT}", "items": []}
            write_rows(run / f"{mode}_train_1000{name}.jsonl", annotations)
    write_rows(run / "train_1000_synthetic.jsonl", made_rows)
    with (run / "run.log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"step": SCRIPT, "options": {"mode": image}, "ended": "done", "outputs": {"a": 1}, "usage": {
            "asked": 1, "model": image}}) + "\n")
    s4.main(cmd_args=False, **flags(file_dir))
    s5.main(cmd_args=False, **flags(file_dir))
    return run


# --- as a command, and in the whole run ------------------------------------------------------------------------------

def test_the_command_says_where_the_page_is_and_json_gives_the_figures(finished):
    result = run_step("report", file_dir=finished)
    assert result.returncode == 0, result.stderr
    assert f"{run_of(finished) / 'report.html'}" in result.stdout and "recounted" in result.stdout
    figures = json.loads(run_step("report", file_dir=finished, json=1).stdout)
    assert figures["rows"] > 12 and figures["files"][0].endswith("report.html") and "sample" not in figures


def test_without_matplotlib_there_are_tables_and_a_line_that_says_so(finished):
    program = ("import sys; sys.modules['matplotlib'] = None; from syn_pipelines import report; "
               f"print(report.main(cmd_args=False, file_dir={str(finished)!r}, file_name={NAME!r}))")
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    page = (run_of(finished) / "report.html").read_text(encoding="utf-8")
    assert "There is no matplotlib here" in page and "<svg" not in page and "From your sentences to the training set" in page
    assert not (run_of(finished) / "report").exists() and "pip install matplotlib" in result.stderr


def test_importing_the_report_loads_no_heavy_package():
    heavy = ("torch", "transformers", "numpy", "matplotlib", "jinja2", "jieba", "starlette", "spacy")
    program = f"import sys, syn_pipelines.report; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == ""


def test_the_whole_run_ends_with_a_report_and_a_report_that_fails_costs_nothing(finished, caplog):
    page = run_of(finished) / "report.html"
    assert run_all.write_page({**flags(finished), "backend": "offline"}) == page and page.is_file()
    page.unlink()
    page.mkdir()
    assert run_all.write_page(flags(finished)) is None
    assert "The report was not made" in caplog.text and "is a folder" in caplog.text
