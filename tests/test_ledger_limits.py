"""The ledger where somebody tries to deceive it, edits the data set after a run, or the program itself loses something."""

from __future__ import annotations

import importlib
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from ledger_runs import Run, assert_balanced, change_lines, edit, lines_of, new_run, seal, whole_run
from pipeline import read_rows, write_rows
from scripted import write_data_set

from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s6_combine_syn_fusion_label as s6
from syn_pipelines.tools import _ledger_merge
from syn_pipelines.utils import fusion, merging
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.paths import manifest_path


@pytest.fixture(scope="module")
def merged(tmp_path_factory) -> Run:
    """A run up to step 6."""
    run = new_run(tmp_path_factory.mktemp("merged"), train=12)
    run.ask()
    run.merge()
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    return whole_run(tmp_path_factory.mktemp("whole"), "sample_zh", train=8)


def problems_of(run: Run) -> list[Any]:
    result = run.look()
    assert not result.balanced
    assert all(not problem.mend or shlex.split(problem.mend)[0] == "python" for problem in result.book.problems)
    return result.book.problems


# --- nothing is lost where it is counted ---------------------------------------------------------------------------

def test_items_that_the_merge_itself_loses_are_found(tmp_path, monkeypatch):
    def lossy(tokens: Any, entity_items: Any, pos_items: Any, **options: Any) -> Any:
        shorter = ([column[:-1] for column in items] for items in (entity_items, pos_items))
        return real(tokens, *shorter, **options)

    real = fusion.extension_spans
    for module in (merging, _ledger_merge):  # the same defect where the files are made and where they are recounted
        monkeypatch.setattr(module, "extension_spans", lossy)
    run = new_run(tmp_path, train=6)
    run.ask()
    run.merge()
    said = "\n".join(map(str, problems_of(run)))
    assert "entity items of original sentences, but " in said and "pos items of synthetic sentences, but " in said
    line = lines_of(run.look(), "s5 1000")["pos items of original sentences"]
    listed = sum(len(row["items"]) for row in read_rows(run.paths.annotation("pos", False)))
    assert line["total"] == sum(line["parts"].values()) == listed and line["parts"]["unaccounted for"] == 6


def test_the_items_of_steps_1_and_3_are_those_of_step_5(merged, tmp_path, monkeypatch):
    run, joined = merged.copy(tmp_path), _ledger_merge._joined
    monkeypatch.setattr(_ledger_merge, "_joined", lambda *args: (
        (sentence, {**items, "pos": items["pos"][:-1]}, *others) for sentence, items, *others in joined(*args)))
    assert any(str(problem).startswith(f"{run.paths.sized(1000, 'pos_train_{n}')}: holds ") for problem in problems_of(run))


# --- manifests that lie --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("option", ["entity_label", "pos_label"])
def test_a_label_map_that_is_nowhere_is_no_excuse(merged, tmp_path, option):
    run = merged.copy(tmp_path)
    path = run.paths.sized(250, "train_{n}_fusion")
    rows = read_rows(path)
    rows[0]["entities"][-1]["entity"] = "VERB" if rows[0]["entities"][-1]["entity"] != "VERB" else "NOUN"
    write_rows(path, rows)
    edit(manifest_path(path), lambda content: content["settings"].update({option: "0" * 64}))
    seal(run, path)
    assert any(problem.file == str(path) and "is not there any more" in problem.problem for problem in problems_of(run))


def falsify(content: dict[str, Any]) -> None:
    content.update(sha256="1" * 64, settings={},
                   counts={name: value + 1 if isinstance(value, int) else value for name, value in content["counts"].items()})


@pytest.mark.parametrize("names", [["entity_train_1000"], ["250/train_250"], []])
def test_what_no_stop_can_have_left_is_no_stop(merged, tmp_path, names):
    run = merged.copy(tmp_path)
    for path in [run.paths.run / f"{name}.manifest.json" for name in names] or run.paths.run.rglob("*.manifest.json"):
        edit(path, falsify)
    assert any("another sha256" in problem.problem for problem in problems_of(run))


def test_a_sentence_that_vanished_from_a_complete_run_is_not_one_that_is_still_to_come(merged, tmp_path):
    run = merged.copy(tmp_path)
    rows = read_rows(run.paths.synthetic)
    gone = next(row["id"] for row, after in zip(rows, rows[1:]) if row["source_id"] == after["source_id"])
    for path in (run.paths.synthetic, run.paths.annotation("entity", True), run.paths.annotation("pos", True)):
        write_rows(path, [row for row in read_rows(path) if row["id"] != gone])
        edit(manifest_path(path), lambda content: lower(content["counts"]))
        seal(run, path)
    for module in (s4, s5, s6):
        run.step(module)
    found = problems_of(run)
    assert any(problem.file == str(run.paths.synthetic) and gone in problem.problem for problem in found)
    edit(manifest_path(run.paths.synthetic), lambda content: content.update(complete=False))  # its siblings are published
    assert any(problem.file == str(run.paths.synthetic) and gone in problem.problem for problem in problems_of(run))


def lower(counts: dict[str, Any]) -> None:
    for name in ("synthetic_sentences",) if "replies" in counts else ("sentences", "ok"):
        counts[name] -= 1
    if "replies" in counts:
        counts["replies"]["used"] -= 1


def test_a_label_file_says_true_and_false_and_not_one_and_nought(merged, tmp_path):
    run = merged.copy(tmp_path)
    path = run.paths.label_file("fusion")
    edit(path, lambda content: content[list(content)[-1]].update(is_target=0))
    seal(run, path)
    assert '"is_target": 0' in str(problems_of(run)[0])


# --- a data set that was changed after the run ---------------------------------------------------------------------

def mended(run: Run, most: int = 25) -> int:
    """Do what the first finding says until nothing is found; how often that was."""
    for count in range(most):
        result = run.look()
        if result.balanced:
            return count
        words = shlex.split(result.book.problems[0].mend)
        script = importlib.import_module(f"syn_pipelines.{Path(words[1]).stem}")
        script.main([word for word in words[2:] if not word.startswith("--file_dir")] + [f"--file_dir={run.file_dir}"])
    raise AssertionError(str(run.look()))


def without_last(rows: list[Any]) -> None:
    del rows[-1]


def without_entity(rows: list[Any]) -> None:
    next(row for row in rows if row["entities"])["entities"].pop()


def with_one_more(rows: list[Any]) -> None:
    rows.append({"text": list("今天我在北京大学看书。"), "entities": []})


@pytest.mark.parametrize(("change", "again"), [(without_last, "s1_ s1_ s2_"), (without_entity, "s2_"), (with_one_more, "s1_ s1_")])
def test_after_an_edit_of_the_data_the_commands_mend_and_say_what_they_cost(merged, tmp_path, change, again):
    run = merged.copy(tmp_path)
    rows = read_rows(run.paths.train)
    change(rows)
    write_rows(run.paths.train, rows)
    first = problems_of(run)[:3]
    assert all("train_1000.jsonl has changed" in problem.problem for problem in first)
    costly = [problem for problem in first if problem.mend.endswith(" --overwrite")]
    assert " ".join(problem.mend.split("/")[1][:3] for problem in costly) == again
    assert all("costs what it cost the first time" in problem.problem for problem in costly)
    assert mended(run) > 3


def test_a_reply_from_nowhere_is_taken_out_by_hand_and_the_command_stays_one(merged, tmp_path):
    run = merged.copy(tmp_path)
    path = run.paths.journals / "entity_train_1000.jsonl"
    change_lines(path, lambda lines: lines.append(lines[3].replace(b'"id": "3"', b'"id": "nobody"')))
    found = problems_of(run)
    assert len(found) == 1 and "remove this line first" in found[0].problem and found[0].mend.startswith("python ")
    change_lines(path, lambda lines: lines.pop())
    assert_balanced(run)


def test_labels_txt_that_is_gone_is_named_and_a_label_it_does_not_know_has_a_line(merged, tmp_path):
    run = merged.copy(tmp_path)
    text = run.paths.labels.read_text(encoding="utf-8")
    label, line = next((row["entities"][0]["entity"], n) for n, row in enumerate(read_rows(run.paths.train), 1) if row["entities"])
    run.paths.labels.write_text(text.replace(f"{label}\n", ""), encoding="utf-8")
    assert f"{run.paths.train}:{line}: the label '{label}' is not in labels.txt." in map(str, problems_of(run))
    run.paths.labels.unlink()
    assert str(problems_of(run)[0]).startswith(f"{run.paths.labels}: is gone")


def test_a_data_set_of_which_no_row_can_be_used_names_its_first_line(tmp_path):
    folder = write_data_set(tmp_path)
    (folder / "GLM4").mkdir()
    write_rows(folder / "train_1000.jsonl", [{"text": "no list", "entities": []}])
    with pytest.raises(UserError, match=r"train_1000\.jsonl:1: .*text.*holds no sentence that can be used"):
        Run(tmp_path).look()


# --- small files, odd ids ------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "script"), [("present.json", "s8_"), ("unmapped_labels.json", "s5_")])
def test_a_small_file_that_is_gone_is_told_and_a_folder_in_its_place_is_found(whole, tmp_path, name, script):
    run = whole.copy(tmp_path)
    path = run.paths.run / name
    path.unlink()
    notes = assert_balanced(run).as_dict()["notes"]
    assert len(notes) == 1 and name in notes[0] and script in notes[0]
    path.mkdir()
    assert any(problem.file == str(path) and "is no file" in problem.problem for problem in problems_of(run))


def test_any_id_that_the_steps_take_can_be_asked_for(tmp_path):
    folder = write_data_set(tmp_path)
    rows = read_rows(folder / "train_1000.jsonl")
    write_rows(folder / "train_1000.jsonl", [{"id": "a\u009b31m\tb\n", **{k: v for k, v in rows[0].items() if k != "id"}}])
    run = Run(tmp_path)
    run.ask(limit=1)
    story = run.look(id="a\u009b31m\tb\n")
    assert story.as_dict()["id"] == "a\u009b31m\tb\n" and "\u009b" not in str(story)
    shutil.rmtree(folder)
