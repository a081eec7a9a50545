"""The benchmarks run, measure what they say they measure, and compare equal work. Speed is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "llm_engine.py"
VARIANTS = ["reference", "sorted", "continuous", "ours_free", "ours_grammar", "ours_forced"]
OURS = VARIANTS[3:]
METRICS = {"sentences_per_s", "model_steps", "tokens", "padding_share", "mask_share", "peak_mb"}
MODES = ("entity", "pos")
both_modes = pytest.mark.parametrize("mode", MODES)
needs_both = pytest.mark.skipif(
    find_spec("llguidance") is None or int(version("transformers").split(".")[0]) < 5,
    reason="the benchmark compares with the continuous batching of transformers 5, under grammars of llguidance",
)


def llm_engine(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module")
def figures():
    """Two sentences, of 7 and 42 characters, in one batch, on a very small model."""
    done = llm_engine("--json", "--rounds=1", "--requests=2", "--batch_size=2", "--device=cpu", "--layers=1", "--hidden=32",
                      "--heads=2", "--key_heads=1", "--vocabulary=4000")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_both
@both_modes
def test_every_variant_reports_every_metric(figures, mode):
    assert list(figures[mode]) == VARIANTS
    for metrics in figures[mode].values():
        assert set(metrics) == METRICS
        assert metrics["sentences_per_s"] > 0
        assert 0 <= metrics["padding_share"] < 1
        assert metrics["peak_mb"] is None or metrics["peak_mb"] > 50


@needs_both
@both_modes
def test_only_variants_with_a_grammar_spend_time_on_one(figures, mode):
    shares = {variant: figures[mode][variant]["mask_share"] for variant in VARIANTS}
    assert [shares[variant] for variant in ("reference", "sorted", "continuous")] == [0, 0, 0]
    assert 0 < shares["ours_grammar"] < 1 and 0 < shares["ours_forced"] < 1


@needs_both
def test_the_setup_says_what_was_measured(figures):
    assert set(figures) == {*MODES, "setup", "checks"}
    setup = figures["setup"]
    assert (setup["requests"], setup["rounds"], setup["batch_size"], setup["dtype"]) == (2, 1, 2, "float32")
    assert setup["model"]["layers"] == 1 and setup["model"]["vocabulary"] == 4000
    assert setup["transformers"] == version("transformers")


@needs_both
@both_modes
def test_all_variants_write_the_same_number_of_tokens(figures, mode):
    assert len({metrics["tokens"] for metrics in figures[mode].values()}) == 1


@needs_both
@both_modes
def test_replies_are_the_same_with_and_without_forced_tokens_at_fewer_steps(figures, mode):
    assert figures["checks"]["identical"][mode] is True
    forced, asked = (figures[mode][variant]["model_steps"] for variant in ("ours_forced", "ours_grammar"))
    assert forced < asked / 3 if mode == "pos" else forced <= asked  # a random model may answer [] twice


@needs_both
@both_modes
def test_a_plain_batch_takes_as_many_steps_as_its_longest_reply_has_tokens(figures, mode):
    longest = figures["checks"]["replies"][mode]["longest_reply_tokens"]
    assert figures[mode]["reference"]["model_steps"] == figures[mode]["sorted"]["model_steps"] == longest


@needs_both
@both_modes
def test_padding_is_what_a_plain_batch_feeds_besides_its_rows(figures, mode):
    replies = figures["checks"]["replies"][mode]
    useful = 2 * replies["mean_prompt_tokens"] + figures[mode]["reference"]["tokens"] - 2
    positions = 2 * (replies["longest_prompt_tokens"] + replies["longest_reply_tokens"] - 1)
    assert figures[mode]["reference"]["padding_share"] == pytest.approx(1 - useful / positions, abs=1e-3)
    assert [figures[mode][variant]["padding_share"] for variant in OURS] == [0, 0, 0]


@needs_both
def test_every_aim_is_judged_by_the_figures_beside_it(figures):
    aims = figures["checks"]["aims"]
    assert {aim["mode"] for aim in aims} == set(MODES)
    for aim in aims:
        assert aim["holds"] == (aim["value"] >= aim["at_least"]) or abs(aim["value"] - aim["at_least"]) < 0.01
    pos = figures["pos"]
    fewer = next(a for a in aims if a["mode"] == "pos" and a["aim"].startswith("model steps"))
    assert fewer["value"] == pytest.approx(pos["ours_grammar"]["model_steps"] / pos["ours_forced"]["model_steps"], abs=0.01)
    assert fewer["at_least"] == 4


@pytest.mark.parametrize("flag", ["--rounds=0", "--requests=-1", "--batch_size=0", "--modes=entity,ner"])
def test_senseless_flags_are_refused_with_their_value(flag):
    done = llm_engine(flag)
    assert done.returncode == 2 and not done.stdout
    assert flag in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


@pytest.fixture
def requests_module(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import llm_engine_requests

    return llm_engine_requests


def test_there_are_a_hundred_sentences_of_5_to_120_characters(requests_module):
    sentences = requests_module.load_sentences()
    assert len({sentence.id for sentence in sentences}) == len({sentence.text for sentence in sentences}) == 100
    assert all(5 <= len(sentence.text) <= 120 for sentence in sentences)
    assert {sentence.language.lang for sentence in sentences} == {"zh", "en"}
    assert all(sentence.language.join(sentence.tokens) == sentence.text for sentence in sentences)


def test_more_requests_than_sentences_keep_unique_ids(requests_module):
    ids = [sentence.id for sentence in requests_module.load_sentences(250)]
    assert len(set(ids)) == 250


@both_modes
def test_requests_are_the_projects_own_questions(requests_module, mode):
    sentences = requests_module.load_sentences(5)
    groups = requests_module.requests_of(mode, sentences, len)
    assert [len(group) for group in groups] == [3, 2]
    by_id = {sentence.id: sentence for sentence in sentences}
    for request in (request for group in groups for request in group):
        sentence = by_id[request.id]
        assert sentence.text in request.messages[-1]["content"] and "{{" not in request.messages[-1]["content"]
        assert request.constraint.mode == mode and list(request.constraint.tokens) == sentence.tokens
        assert request.constraint.labels and request.temperature == 0 and request.max_new_tokens > 0


# --- the span model ----------------------------------------------------------------------------------------------

NER_ROW = {"setting", "speedup", "memory_ratio", "reference_s", "ours_s", "reference_mb", "ours_mb"}


@pytest.fixture
def ner_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import ner_step
    import ner_work
    import peak_memory

    return ner_step, ner_work, peak_memory


def test_the_peak_counts_what_was_live_at_once_and_nothing_from_before(ner_modules):
    import torch

    peak_of_tensors = ner_modules[2].peak_of_tensors
    before = [torch.zeros(3_000_000)]

    def call():
        first = torch.zeros(1_000_000)  # 4 MB
        second = first + before[0][:1_000_000]  # 8 MB
        del first
        before.clear()
        torch.zeros(500_000)  # 6 MB
        return second

    assert peak_of_tensors(call) == 8_000_000
    layers = torch.nn.Sequential(torch.nn.Linear(100, 10_000, bias=False), torch.nn.ReLU())
    states = torch.zeros(100, 100)
    assert peak_of_tensors(lambda: layers(states)) == 2 * 4_000_000  # both results live at once
    assert 2 * 4_000_000 < peak_of_tensors(lambda: layers(states).sum().backward()) <= 3 * 4_000_000 + 4_000_100


def test_ner_step_reports_every_setting_for_all_spans_and_for_narrow_ones(tmp_path):
    data = tmp_path / "train.jsonl"
    rows = ['{"text": ' + json.dumps(["x"] * length) + ', "entities": []}' for length in (9, 3, 20, 14, 5)]
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = ner_script("ner_step.py", "--json", "--rounds=1", "--batches=1", "--hidden=16", "--data", str(data))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert len({row["setting"] for row in figures}) == len(figures) == 8
    for row in figures:
        assert set(row) == NER_ROW and all(row[name] > 0 for name in NER_ROW - {"setting"})
        assert row["memory_ratio"] == pytest.approx(row["ours_mb"] / row["reference_mb"], abs=0.02)
        assert row["memory_ratio"] < 1
    assert done.stderr.count("scores of a sentence alone differ by") == 2


def test_ner_step_stops_where_the_two_sides_differ(ner_modules):
    import torch

    ner_step, ner_work, _ = ner_modules
    torch.manual_seed(0)
    models = ner_step.build(ner_work.GivenStates(16), fused=False)
    assert ner_step.check(models) < 1e-4
    with torch.no_grad():
        models["ours"].head.end_score.weight += 0.01
    with pytest.raises(ner_step.BenchmarkError, match="40 tokens the two sides' scores differ"):
        ner_step.check(models)


def test_fused_attention_of_the_plain_side_gives_the_same_scores(ner_modules):
    import torch

    ner_step, ner_work, _ = ner_modules
    torch.manual_seed(0)
    assert ner_step.check(ner_step.build(ner_work.GivenStates(16), fused=True)) < 1e-4


def test_recorded_lengths_are_those_of_the_weibo_training_set(ner_modules):
    data = SCRIPT.parents[2] / "shared" / "data" / "weibo" / "weiboNER_2nd_conll.train"
    if not data.is_file():
        pytest.skip(f"{data} is not there")
    sentences = data.read_text(encoding="utf-8").strip().split("\n\n")
    assert ner_modules[1].read_lengths(None) == [len(sentence.splitlines()) for sentence in sentences]


def test_training_and_prediction_over_bert_stand_beside_their_bounds(ner_modules):
    from ner_gpu import bert_base

    found = bert_base("cpu", [5, 9, 20], peak_tflops=1.0, steps=2, sentences=8, batch_size=4, layers=1, hidden=64)
    for speed, bound, share in (("train_steps_per_s", "train_bound_steps_per_s", "train_share_of_bound"),
                                ("predict_sentences_per_s", "predict_bound_sentences_per_s", "predict_share_of_bound")):
        assert found[share] == pytest.approx(found[speed] / found[bound]) and found[speed] > 0
    assert found["train_peak_mb"] > 0


def test_ner_predict_reads_exactly_the_text_it_was_asked_for(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from ner_predict import text

    assert sum(map(len, text(1234))) == 1234 and list(text(300)) == list(text(300))
    done = ner_script("ner_predict.py", "--json", "--characters=2000")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["tenth"]["characters"], found["whole"]["characters"]) == (200, 2000)
    assert found["growth_mb"] == pytest.approx(found["whole"]["peak_mb"] - found["tenth"]["peak_mb"], abs=0.11)
    assert found["whole"]["sentences_per_s"] > 0


@pytest.mark.parametrize("script, flag", [("ner_step.py", "--rounds=0"), ("ner_predict.py", "--characters=10")])
def test_senseless_flags_of_the_span_models_benchmarks_are_refused(script, flag):
    done = ner_script(script, flag)
    assert done.returncode == 2 and not done.stdout and flag in done.stderr.splitlines()[-1]


def ner_script(name: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT.with_name(name)), *flags], capture_output=True, text=True, timeout=250)
