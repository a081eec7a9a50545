"""eval_ner: scores, comparisons and files of predictions, and what it says when something is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from pipeline import ROOT, read_rows, run_step, write_dataset, write_rows, write_run
from tiny_encoders import build_tiny_bert

from syn_pipelines import eval_ner, run_all, train_ner
from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.options import command_of, load_options
from syn_pipelines.utils.summary import columns


def step(module, file_dir, **flags):
    return module.main(cmd_args=False, file_dir=str(file_dir), file_name="demo", **flags)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A data set with dev and test whose run has a gold model that has learned nothing and a fusion model that has."""
    folder = tmp_path_factory.mktemp("trained")
    write_run(folder, held_out=True)
    step(s4, folder)
    step(s5, folder)
    step(train_ner, folder, train="gold", max_steps=1)
    step(train_ner, folder, train="fusion", max_steps=60)
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy to change."""
    shutil.copytree(trained_once, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def dataset(tmp_path):
    """A data set without any model."""
    write_dataset(tmp_path, held_out=True)
    return tmp_path


def model(file_dir, name):
    return file_dir / "demo" / "GLM4" / "ner" / name


def with_predictions(rows, predicted):
    """Rows of a file of predictions; predicted: (start, end, label) by sentence."""
    return [{"id": str(n), "text": row["text"], "entities": row["entities"], "predicted": [
        {"start": s, "end": e, "entity": label, "text": row["text"][s:e]} for s, e, label in spans]}
        for n, (row, spans) in enumerate(zip(rows, predicted), 1)]


def write_predictions(dataset, name, predicted):
    rows = read_rows(dataset / "demo" / "test.jsonl")
    return str(write_rows(dataset / name, with_predictions(rows, predicted)))


# The three sentences: 张三在北京工作, 李四去了上海, 今天天气很好.
RIGHT = [[(0, 2, "PER"), (3, 5, "LOC")], [(0, 2, "PER"), (4, 6, "LOC")], []]
HALF = [[(0, 2, "PER")], [(0, 2, "PER")], []]
NOTHING = [[], [], []]


# --- one model -----------------------------------------------------------------------------------------------------

def test_scores_are_strict_by_group_and_on_unseen_sentences(trained):
    rows = read_rows(trained / "demo" / "test.jsonl")
    new = {"text": list("小红来自西藏"), "entities": [
        {"start": 0, "end": 2, "entity": "PER"}, {"start": 4, "end": 6, "entity": "LOC"}]}
    write_rows(trained / "demo" / "test.jsonl", [*rows, new])
    result = step(eval_ner, trained)
    assert set(result.by_label) == {"PER", "LOC"}
    assert result.by_label["PER"]["support"] == 3 and result.unseen["sentences"] == 1
    assert result.unseen["support"] == 2
    assert [str(a) for a in result.accounts] == ["4 test sentences = 1 not in the training set + 3 also in it"]
    mentions = result.scores["by_mention"]  # 小红 stands in the training set, 西藏 does not
    assert (mentions["seen"]["support"], mentions["unseen"]["support"]) == (5, 1)
    assert result.scores["by_length"]["2"]["support"] == 6
    low, high = result.scores["f1_interval"]
    assert 0 <= low <= result.f1 <= high <= 100 and "all (micro)" in result.table


def test_the_table_has_every_figure_with_its_interval_and_fits_the_terminal(trained, capsys):
    flags = [f"--file_dir={trained}", "--file_name=demo"]
    result = eval_ner.main(flags)
    shown = capsys.readouterr().out.splitlines()
    assert max(map(columns, shown)) <= 100
    assert "demo test, 3 sentences" in shown[0] and "2,000 resamples" in shown[1]
    line = next(line for line in shown if line.startswith("all (micro)"))
    low, high = result.scores["f1_interval"]
    assert f"{result.f1:.1f} [{low:.1f}, {high:.1f}]" in line and line.split()[-2] == "4"
    assert [text for text in shown if text.startswith("by ")] == [
        "by label", "by length in tokens", "by mention (same words and label)", "by sentence"]


def test_json_is_the_last_thing_written_and_parses(trained):
    done = run_step("eval_ner", file_dir=trained, model_from_pretrained=model(trained, "fusion_1000"), split="dev", json=1)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert {"f1", "precision", "recall", "f1_interval", "macro", "by_label", "by_length", "by_mention", "unseen", "split",
            "model", "sentences", "resamples", "warnings"} <= set(line)
    assert done.stdout.count("\n") == 1 and line["split"] == "dev" and len(line["by_label"]["PER"]["recall_interval"]) == 2


def test_evaluating_a_model_from_elsewhere_makes_no_run_folder(trained):
    found = step(eval_ner, trained, save_type_name="other", model_from_pretrained=str(model(trained, "fusion_1000")))
    assert found.seconds > 0 and not (trained / "demo" / "other").exists()


def test_a_token_classification_checkpoint_is_scored_like_any_model(trained, tmp_path):
    from transformers import AutoConfig, AutoModelForTokenClassification

    folder = build_tiny_bert(tmp_path / "classifier")
    tags = dict(enumerate(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]))
    config = AutoConfig.from_pretrained(folder, id2label=tags, label2id={tag: k for k, tag in tags.items()})
    AutoModelForTokenClassification.from_config(config).save_pretrained(folder)
    result = step(eval_ner, trained, model_from_pretrained=str(folder))
    assert set(result.by_label) == {"PER", "LOC"} and result.warnings == [] and result.scores["support"] == 4
    assert step(eval_ner, trained, compare=(str(folder), "fusion")).scores["a"]["f1"] == result.f1


def test_model_and_data_with_different_labels_are_scored_with_a_warning(trained):
    (trained / "demo" / "labels.txt").write_text("O\nPER\nORG\nLOC\n", encoding="utf-8")
    result = step(eval_ner, trained)
    assert "the model predicts PER, LOC" in result.warnings[0]
    assert set(result.by_label) == {"PER", "ORG", "LOC"}


def test_the_seed_decides_the_intervals(trained):
    first, again, other = (step(eval_ner, trained, train="fusion", seed=seed, resamples=100).scores for seed in (1, 1, 2))
    assert first == again and first["f1"] == other["f1"]


def test_without_a_training_set_nothing_is_called_seen_or_new(trained):
    (trained / "demo" / "train_1000.jsonl").unlink()
    result = step(eval_ner, trained)
    assert result.unseen == {} and result.scores["by_mention"] == {} and "not in training" not in result.table


def test_a_split_without_entities_is_a_warning(trained):
    path = trained / "demo" / "test.jsonl"
    write_rows(path, [{**row, "entities": []} for row in read_rows(path)])
    result = step(eval_ner, trained)
    assert "test.jsonl: holds no entity" in result.warnings[0]
    assert result.scores["recall_interval"] == [0, 0]


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"size": 250}, "fusion_250: there is no such model. Make it with: .*train_ner.py .*--train=fusion --size=250"),
        ({"model_from_pretrained": "/nowhere"}, "/nowhere: no such model folder"),
        ({"split": "train"}, "'train' is none of dev, test"),
        ({"resamples": 5}, "resamples: 5 must lie between 100 and 1000000"),
        ({"compare": "gold"}, "compare: 'gold' must be 2 values: A B"),
        ({"compare": ["gold"]}, r"compare: \['gold'\] must be 2 values: A B"),
        ({"compare": ("gold", "fusion"), "save_predictions": "x.jsonl"}, "--save_predictions speaks of one model"),
        ({"compare": ("gold", "fusion"), "model_from_pretrained": "x"}, "--model_from_pretrained speaks of one model"),
        ({"compare": ("gold", "fussion")}, "--compare: 'fussion' is no model of a run"),
        ({"compare": ("gold,", "fusion")}, "--compare: '' is no model of a run"),
    ],
)
def test_evaluation_names_what_is_missing_or_wrong(trained_once, flags, message):
    with pytest.raises(UserError, match=message):
        step(eval_ner, trained_once, **flags)


def test_evaluation_without_the_split_says_what_to_do(trained):
    path = trained / "demo" / "test.jsonl"
    path.write_text("\n")
    with pytest.raises(UserError, match="test.jsonl: holds no sentence"):
        step(eval_ner, trained)
    path.unlink()
    with pytest.raises(UserError, match="test.jsonl: does not exist. Add it to the data set, or score on dev"):
        step(eval_ner, trained)


# --- files of predictions ------------------------------------------------------------------------------------------

def test_saved_predictions_stand_in_for_the_model(trained):
    saved = {}
    for name in ("gold", "fusion"):
        saved[name] = str(trained / "out" / f"{name}.jsonl")
        result = step(eval_ner, trained, train=name, save_predictions=saved[name])
        assert result.outputs == {saved[name]: 3}
    assert [list(row) for row in read_rows(trained / "out" / "gold.jsonl")] == [["id", "text", "entities", "predicted"]] * 3
    models = step(eval_ner, trained, compare=("gold", "fusion"))
    for names in ("gold", "fusion"):
        shutil.rmtree(model(trained, f"{names}_1000"))
    files = step(eval_ner, trained, compare=(saved["gold"], saved["fusion"]))
    assert files.scores == models.scores
    assert files.scores["b"]["f1"] == result.f1 > files.scores["a"]["f1"]


def test_saved_predictions_hold_what_the_scores_are_made_of(trained):
    result = step(eval_ner, trained, save_predictions=str(trained / "p.jsonl"))
    rows = read_rows(trained / "p.jsonl")
    assert sum(len(row["predicted"]) for row in rows) == result.scores["predicted"]
    assert sum(e in row["entities"] for row in rows for e in row["predicted"]) == result.scores["correct"] > 0
    assert all(e["text"] == row["text"][e["start"]:e["end"]] for row in rows for e in row["predicted"])


def test_predictions_take_the_place_of_older_predictions_only(trained):
    target = trained / "p.jsonl"
    step(eval_ner, trained, save_predictions=str(target))
    step(eval_ner, trained, save_predictions=str(target))
    test_set = trained / "demo" / "test.jsonl"
    before = test_set.read_bytes()
    with pytest.raises(UserError, match="test.jsonl: exists and holds no predictions"):
        step(eval_ner, trained, save_predictions=str(test_set))
    assert test_set.read_bytes() == before
    with pytest.raises(UserError, match="demo: is a folder"):
        step(eval_ner, trained, save_predictions=str(trained / "demo"))


def test_hard_tokens_and_line_ends_come_back_from_a_file_of_predictions(dataset):
    rows = [{"text": ["\u2028", '"', "👩\u200d👧", "\\", "<s>", " ", "a b"], "entities": [
        {"start": 2, "end": 7, "entity": "PER"}]}]
    write_rows(dataset / "demo" / "test.jsonl", rows)
    path = write_predictions(dataset, "p.jsonl", [[(2, 7, "PER")]])
    scores = step(eval_ner, dataset, compare=(path, path)).scores
    assert scores["a"]["f1"] == 100 and scores["difference"] == {"mean": 0, "low": 0, "high": 0, "p": 1}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows: rows[:2], "its 2 sentences are not the 3 of .*test.jsonl as it is now .1 of these are missing.. Make it with"),
        (lambda rows: [*rows, {**rows[0], "id": "9"}], "its 4 sentences are not the 3"),
        (lambda rows: [*rows[:2], {**rows[2], "text": list("别的句子")}], "its 3 sentences .* .1 of these are missing"),
        (lambda rows: [{**rows[0], "text": list("短"), "entities": []}, *rows[1:]],
         r"sentence '1', predicted: entity 1 goes from token 0 to 2 but the text has 1 tokens"),
        (lambda rows: [{k: v for k, v in row.items() if k != "predicted"} for row in rows],
         "sentence '1', predicted: 'predicted' must be a list, got None. Make it with: .*--save_predictions"),
        (lambda rows: [{**rows[0], "predicted": [{"start": 0, "end": 99, "entity": "PER"}]}], "from token 0 to 99"),
        (lambda rows: [rows[0], rows[0]], "id '1' stands in line 1 already"),
        (lambda rows: [], "p.jsonl: holds no sentence. Make it with"),
    ],
)
def test_a_file_that_does_not_hold_predictions_of_this_split_is_refused(dataset, change, message):
    path = write_predictions(dataset, "p.jsonl", HALF)
    write_rows(dataset / "p.jsonl", change(read_rows(dataset / "p.jsonl")))
    with pytest.raises(UserError, match=message):
        step(eval_ner, dataset, compare=(path, path))


def test_a_broken_line_in_a_file_of_predictions_is_named(dataset):
    path = write_predictions(dataset, "p.jsonl", HALF)
    (dataset / "p.jsonl").write_text((dataset / "p.jsonl").read_text(encoding="utf-8") + "{\n", encoding="utf-8")
    with pytest.raises(UserError, match="p.jsonl:4: is not valid JSON"):
        step(eval_ner, dataset, compare=(path, path))


# --- two models ----------------------------------------------------------------------------------------------------

def test_a_comparison_gives_differences_by_group(dataset):
    a, b = write_predictions(dataset, "a.jsonl", HALF), write_predictions(dataset, "b.jsonl", RIGHT)
    result = step(eval_ner, dataset, compare=(a, b))
    scores = result.scores
    assert (scores["a"]["f1"], scores["b"]["f1"]) == (66.67, 100) and scores["difference"]["mean"] == 33.33
    # Only the draws without the two sentences that have entities, 1 of 27, see no gain.
    assert scores["difference"]["p"] == pytest.approx(1 / 27, abs=0.02) and scores["difference"]["high"] == 33.33
    assert scores["by_label"]["PER"]["difference"] == {"mean": 0, "low": 0, "high": 0, "p": 1}
    assert scores["by_label"]["LOC"]["difference"]["mean"] == 100 and scores["by_label"]["LOC"]["support"] == 2
    assert scores["by_mention"]["seen"]["support"] == 4 and scores["unseen"]["sentences"] == 0
    assert result.a == [a] and result.b == [b]
    line = next(line for line in result.table.splitlines() if line.startswith("all (micro)"))
    assert "66.7 [" in line and "+33.3 [" in line and max(map(columns, result.table.splitlines()[3:])) <= 100


def test_several_runs_a_side_are_averaged(dataset):
    names = {name: write_predictions(dataset, f"{name}.jsonl", spans)
             for name, spans in (("half", HALF), ("none", NOTHING), ("right", RIGHT))}
    scores = step(eval_ner, dataset, compare=(f"{names['half']},{names['none']}", names["right"])).scores
    assert scores["a"]["f1"] == 33.33 and scores["difference"]["mean"] == 66.67
    assert step(eval_ner, dataset, compare=([names["half"], names["none"]], [names["right"]])).scores == scores


def test_comparing_models_of_a_run_by_name_on_the_command_line(trained):
    arguments = [f"--file_dir={trained}", "--file_name=demo", "--split=dev", "--compare", "gold", "fusion"]
    result = eval_ner.main([*arguments, "--resamples=200"])
    assert result.a == [str(model(trained, "gold_1000"))] and result.b == [str(model(trained, "fusion_1000"))]
    assert result.scores["b"]["f1"] > result.scores["a"]["f1"] and result.scores["resamples"] == 200


def test_the_json_of_a_comparison_parses(dataset, capsys):
    path = write_predictions(dataset, "a.jsonl", HALF)
    eval_ner.main([f"--file_dir={dataset}", "--file_name=demo", "--json", "--compare", path, path])
    line = json.loads(capsys.readouterr().out)
    assert line["models"] == {"a": [path], "b": [path]} and line["by_label"]["PER"]["b"]["f1"] == 100
    assert set(line["difference"]) == {"mean", "low", "high", "p"}


def test_a_yaml_file_may_name_the_two(dataset, tmp_path):
    a, b = write_predictions(dataset, "a.jsonl", HALF), write_predictions(dataset, "b.jsonl", RIGHT)
    config = tmp_path / "run.yaml"
    config.write_text(f"eval_ner:\n  compare: [{a}, {b}]\n", encoding="utf-8")
    assert step(eval_ner, dataset, config=str(config)).b == [b]
    steps = [s for s in run_all.plan(has_test=True) if s.script == "eval_ner"]
    run_all.configure(steps, {"file_dir": str(dataset), "file_name": "demo", "config": str(config)})
    assert [s.opts.compare for s in steps] == [(), (), ()]  # a whole run scores one model after the other


def test_models_of_different_targets_are_not_compared(trained):
    (trained / "demo" / "labels.txt").write_text("O\nPER\nLOC\nORG\n", encoding="utf-8")
    step(train_ner, trained, train="gold", max_steps=1, output_dir=str(trained / "three"))
    with pytest.raises(UserError, match=r"fusion_1000 predicts PER, LOC, .*three predicts PER, LOC, ORG. Compare models of "
                                        "the same target labels"):
        step(eval_ner, trained, compare=("fusion", str(trained / "three")))


def test_predictions_of_labels_that_the_data_set_lacks_count_as_errors_with_a_warning(dataset):
    a = write_predictions(dataset, "a.jsonl", RIGHT)
    b = write_predictions(dataset, "b.jsonl", [[(0, 2, "PERSON"), (3, 5, "LOC")], *RIGHT[1:]])
    result = step(eval_ner, dataset, compare=(a, b))
    assert "b.jsonl: holds predictions of PERSON, which" in result.warnings[0]
    assert result.scores["b"]["f1"] == 75.0 and result.scores["by_label"]["PERSON"]["support"] == 0


def test_all_models_that_are_missing_are_named_together(trained):
    with pytest.raises(UserError, match=r"(?s)gold_250: .*--train=gold --size=250.*fusion_250: .*--train=fusion --size=250"):
        step(eval_ner, trained, size=250, compare=("gold", "fusion"))


# --- the flag of two values ----------------------------------------------------------------------------------------

def test_a_flag_of_two_values_comes_back_from_its_command_line():
    opts = load_options(eval_ner.Options, ["--compare", "a b", "c,d", "--json"])
    assert opts.compare == ("a b", "c,d") and opts.json
    line = command_of(opts)
    assert line.endswith("--compare 'a b' c,d --json=1")
    assert load_options(eval_ner.Options, False, {"compare": ["a b", ("c", "d")], "json": True}) == opts
    assert "--compare" not in command_of(load_options(eval_ner.Options, []))


@pytest.mark.parametrize("nothing", [(), [], "", None])
def test_no_values_mean_that_the_flag_is_not_given(nothing):
    assert load_options(eval_ner.Options, False, {"compare": nothing}).compare == ()


@pytest.mark.parametrize("arguments", [["--compare", "a"], ["--compare"], ["--compare=a", "b"], ["--compare", "a", "b", "c"]])
def test_one_value_or_three_are_refused_on_the_command_line(arguments):
    with pytest.raises(UserError, match="eval_ner.py: "):
        load_options(eval_ner.Options, arguments)


def test_help_names_the_two_values():

    shown = subprocess.run([sys.executable, str(ROOT / "syn_pipelines" / "eval_ner.py"), "--help"], capture_output=True,
                           text=True, check=True).stdout
    assert "--compare A B" in shown
