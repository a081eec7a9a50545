"""The story of one sentence, and the ledger as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ledger_runs import Run, change_lines, whole_run
from pipeline import quick_writes, read_rows, run_step, write_rows  # noqa: F401 (a fixture)

from syn_pipelines.utils.errors import UserError


@pytest.fixture(scope="module", params=["sample_zh", "sample_en"])
def either(request, tmp_path_factory) -> Run:
    return whole_run(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    return whole_run(tmp_path_factory.mktemp("whole"), "sample_zh", train=12)


# --- one sentence ---------------------------------------------------------------------------------------------------

def test_the_story_of_a_sentence_holds_prompt_reply_items_and_files(either):
    row = next({"id": str(n), **row} for n, row in enumerate(read_rows(either.paths.train), 1) if row["entities"])
    story = either.look(id=row["id"])
    content = story.as_dict()
    assert content["text"] == row["text"] and content["entities"] == row["entities"]
    for mode, question in zip(("entity", "pos"), content["questions"]):
        published = next(r for r in read_rows(either.paths.annotation(mode, False)) if r["id"] == row["id"])
        assert question["prompt"] and question["replies"][-1]["text"] == published["reply"]
        assert [{k: v for k, v in i.items() if k in ("entity", "type", "word", "pos")} for i in question["items"]] == published["items"]
    final = next(r for r in read_rows(either.paths.sized(1000, "train_{n}_syn_fusion")) if r["id"] == row["id"])
    assert content["final_entities"] == final["entities"]
    landed = [span for question in content["questions"] for item in question["items"] for span in item["spans"]]
    assert {json.dumps(e) for e in final["entities"][len(row["entities"]):]} == {json.dumps(span) for span in landed}
    for place in content["files"]:
        assert json.loads(Path(place["file"]).read_text(encoding="utf-8").split("\n")[place["line"] - 1])["id"] == row["id"]
    pieces = [piece["id"] for answer in content["explanations"] for piece in answer["pieces"] if piece["status"] == "kept"]
    assert pieces == [r["id"] for r in read_rows(either.paths.synthetic) if r["source_id"] == row["id"]]
    assert f"s1 entity  {row['id']}: ok" in str(story)


def test_the_story_of_a_synthetic_sentence_says_where_it_comes_from(whole):
    row = read_rows(whole.paths.synthetic)[-1]
    content = whole.look(id=row["id"]).as_dict()
    assert (content["kind"], content["source_id"], content["text"]) == ("synthetic", row["source_id"], row["text"])
    assert [question["step"] for question in content["questions"]] == ["s3 entity", "s3 pos"]
    assert any(piece["id"] == row["id"] and piece["status"] == "kept" for a in content["explanations"] for piece in a["pieces"])


def test_a_prompt_that_was_another_one_is_not_shown(whole, tmp_path):
    run = whole.copy(tmp_path)
    change_lines(run.paths.journals / "entity_train_1000.jsonl", lambda lines: lines.__setitem__(
        1, lines[1].replace(b'"asked": "', b'"asked": "0')))
    story = run.look(id="1")
    assert story.as_dict()["questions"][0]["prompt"] is None and "not stored" in str(story)


@pytest.mark.parametrize("identity", ["nobody", "99999", "1-s77", "../1", "\u202e"])
def test_an_unknown_id_is_bad_input_with_ids_that_are_near(whole, identity):
    with pytest.raises(UserError, match="no sentence has the id .*near"):
        whole.look(id=identity)


# --- the command ----------------------------------------------------------------------------------------------------

def test_the_command_tells_by_its_exit_code_and_prints_one_json_line(whole, tmp_path):
    run = whole.copy(tmp_path)
    flags = {**run.flags, "json": 1}
    result = run_step("tools.ledger", **flags)
    assert result.returncode == 0 and json.loads(result.stdout)["balanced"] is True
    path = run.paths.sized(500, "train_{n}_fusion")
    write_rows(path, read_rows(path)[1:])
    result = run_step("tools.ledger", **run.flags)
    assert result.returncode == 1 and str(path) in result.stdout and "mend: python syn_pipelines/" in result.stdout
    for wrong in ({"save_type_name": "none"}, {"file_name": "none"}, {"id": "none"}):
        result = run_step("tools.ledger", **{**run.flags, **wrong})
        assert result.returncode == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_looking_changes_nothing(whole):
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in whole.file_dir.rglob("*")}

    before = state()
    whole.look()
    whole.look(id="1")
    assert state() == before
