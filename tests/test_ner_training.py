"""Training of the span model: options that act, checkpoints, logs, long sentences and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tiny_encoders import build_tiny_bert
from toy_sentences import LABELS, QUICK, score, toy_set

from syn_pipelines.ner.checkpoints import Checkpoint, Checkpoints, write_checkpoint
from syn_pipelines.ner.data import MAX_TOKENS, LabelSet, Sentence, split_long
from syn_pipelines.ner.pieces import BUCKET
from syn_pipelines.ner.prediction import predict_stream
from syn_pipelines.ner.side_files import checkpoint_path, log_path, tensorboard_path
from syn_pipelines.ner.team import Team
from syn_pipelines.ner.train_config import (
    FEWEST_STEPS,
    LABEL_WEIGHTINGS,
    MOST_STEPS,
    TrainConfig,
    drop_labels,
    label_weights,
    learned,
    rate_at,
    total_steps,
    with_weights,
)
from syn_pipelines.ner.training import _Trainer, build_model, make_optimizer, train_model
from syn_pipelines.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = dataclasses.replace(QUICK, max_steps=6, batch_size=4)


def weights_of(sentences, labels=LABELS, **changed) -> dict[str, torch.Tensor]:
    return train_model(sentences, labels, dataclasses.replace(SHORT, **changed))[0].state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    return str(build_tiny_bert(tmp_path_factory.mktemp("encoders") / "bert"))


# --- steps and rates -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    "sentences, options, steps",
    [(1, {}, FEWEST_STEPS), (10**6, {}, MOST_STEPS), (1000, {"epochs": 2}, 250), (1000, {"max_steps": 7}, 7),
     (1000, {"epochs": 1, "max_steps": 200}, 125)],
)
def test_number_of_steps(sentences, options, steps):
    assert total_steps(sentences, TrainConfig(**options)) == steps


@pytest.mark.parametrize("warmup", [0.1, 10])
def test_learning_rate_rises_then_falls_to_almost_nothing(warmup):
    rates = [rate_at(k, 100, warmup) for k in range(100)]
    assert rates.index(max(rates)) == 9 and max(rates) == 1.0 and 0 < rates[-1] < 0.02
    assert rate_at(0, 1, 0.1) == 1.0


@given(st.integers(1, 300), st.floats(0, 400))
def test_every_rate_is_a_share_of_the_highest(steps, warmup):
    assert all(0 <= rate_at(k, steps, warmup) <= 1 for k in range(steps))


def test_encoder_and_head_have_their_own_rates_and_only_matrices_decay(tiny_bert):
    config = TrainConfig(encoder_lr=1e-5, head_lr=1e-3, lr=1.0, weight_decay=0.3)
    model = build_model(toy_set(2), LABELS, tiny_bert)
    names = {weight: name for name, weight in model.named_parameters()}
    seen = set()
    for group in make_optimizer(model, config).param_groups:
        for weight in group["params"]:
            seen.add(names[weight])
            assert group["lr"] == (1e-5 if names[weight].startswith("encoder.") else 1e-3)
            assert group["weight_decay"] == (0.3 if weight.ndim > 1 else 0.0)
    assert seen == set(names.values())
    assert {g["lr"] for g in make_optimizer(build_model(toy_set(2), LABELS), config).param_groups} == {1.0}


# --- loss weights --------------------------------------------------------------------------------------------------

def test_frequent_extension_labels_weigh_less_and_targets_weigh_one():
    spans = ((0, 1, "PER"), (1, 2, "LOC"), *((k, k + 1, "NOUN") for k in range(10)))
    sentence, labels = Sentence(tuple("小" * 10), spans), LabelSet(("PER", "LOC"), ("NOUN", "RARE"), {"NOUN": 400, "RARE": 11})
    assert label_weights([sentence], labels, 0.3) == pytest.approx([1.0, 1.0, 0.03, 0.3])
    assert label_weights([sentence], labels, 0.3, "none") == pytest.approx([1.0, 1.0, 0.3, 0.3])
    assert label_weights([sentence], labels, 1.0, "count") == pytest.approx([1.0, 1.0, 10 / 400, 2 / 4])


@given(st.lists(st.integers(1, 500), max_size=5), st.floats(0, 2), st.sampled_from(LABEL_WEIGHTINGS))
def test_an_extension_label_weighs_at_most_the_extension_weight(counts, ext_weight, weighting):
    extensions = tuple(f"X{k}" for k in range(len(counts)))
    labels = LabelSet(("PER",), extensions, dict(zip(extensions, counts)))
    weights = label_weights(toy_set(2), labels, ext_weight, weighting)
    assert weights[0] == 1.0 and len(weights) == 1 + len(counts)
    assert all(0 <= weight <= ext_weight for weight in weights[1:])


def test_given_weights_win_over_the_defaults():
    config = with_weights(TrainConfig(ext_weight=0.0, syn_weight=0.4))
    assert (config.ext_weight, config.syn_weight) == (0.0, 0.4)
    assert (with_weights(TrainConfig()).ext_weight, with_weights(TrainConfig()).syn_weight) == (0.1, 1.0)
    assert with_weights(TrainConfig(label_weighting="count")).ext_weight == 1.0
    with pytest.raises(UserError, match="label_weighting 'counts' is unknown. Use one of balanced, count, none"):
        with_weights(TrainConfig(label_weighting="counts"))


def test_sentences_without_text_and_synthetic_ones_without_weight_are_not_learned():
    own, made, empty = toy_set(2), toy_set(3, synthetic=True), Sentence(())
    assert learned([*own, empty, *made], TrainConfig()) == [*own, *made]
    assert learned([*own, empty, *made], TrainConfig(syn_weight=0.0)) == own


def test_the_loss_of_a_synthetic_sentence_is_weighted():
    sentences = [*toy_set(1), *toy_set(1, synthetic=True)]
    model = build_model(sentences, LABELS).eval()

    def loss(part, weight):
        config = with_weights(TrainConfig(ext_weight=0.1, syn_weight=weight))
        trainer = _Trainer(model, sentences, (), config, Team(torch.device("cpu")), Checkpoints(None, {}))
        return trainer._loss([sentences[k] for k in part]).item()

    original, made = loss([0], 1.0), loss([1], 1.0)
    assert original > 0 and made > 0
    for weight in (0.0, 0.15, 1.0, 2.0):
        assert loss([0, 1], weight) == pytest.approx(original + weight * made, rel=1e-5)


def test_weights_of_synthetic_sentences_and_of_extension_labels_change_what_is_learned():
    sentences = toy_set(6) + toy_set(6, synthetic=True)
    whole = weights_of(sentences, ext_weight=0.1, syn_weight=1.0)
    assert same(whole, weights_of(sentences, ext_weight=0.1, syn_weight=1.0))
    assert not same(whole, weights_of(sentences, ext_weight=0.1, syn_weight=0.5))
    assert not same(whole, weights_of(sentences, ext_weight=0.2, syn_weight=1.0))


def test_synthetic_weight_0_is_a_training_without_these_sentences():
    made = [Sentence(tuple("天津很好"), ((0, 2, "LOC"),), synthetic=True)] * 5
    assert same(weights_of(toy_set(6) + made, syn_weight=0.0), weights_of(toy_set(6)))
    with pytest.raises(UserError, match="no training sentence"):
        train_model(made, LABELS, dataclasses.replace(SHORT, syn_weight=0.0))


# --- labels to leave out -------------------------------------------------------------------------------------------

def test_dropped_labels_are_neither_in_the_data_nor_in_the_label_set():
    labels = LabelSet(("PER", "LOC"), ("NOUN", "VERB"), {"NOUN": 20, "VERB": 3})
    sentences, left = drop_labels(toy_set(3), labels, ["NOUN"])
    assert left == LabelSet(("PER", "LOC"), ("VERB",), {"VERB": 3})
    assert {label for s in sentences for _, _, label in s.entities} == {"PER", "LOC"}
    assert [s.tokens for s in sentences] == [s.tokens for s in toy_set(3)]
    assert drop_labels(toy_set(3), labels, []) == (toy_set(3), labels)


@pytest.mark.parametrize("names, message", [
    (["NUON"], r"no extension label 'NUON' \(did you mean 'NOUN'\?\). Known here: NOUN"),
    (["NOUN", "PER"], "label 'PER' is a target label"),
])
def test_only_extension_labels_can_be_dropped(names, message):
    with pytest.raises(UserError, match=message):
        drop_labels(toy_set(3), LABELS, names)


# --- the loop ------------------------------------------------------------------------------------------------------

def test_same_seed_gives_the_same_weights_and_leaves_the_callers_generator_alone():
    config = dataclasses.replace(SHORT, seed=3)
    states = []
    for _ in range(2):
        torch.manual_seed(len(states))
        before = torch.random.get_rng_state()
        model, _ = train_model(toy_set(9), LABELS, config, dev=toy_set(3))
        assert torch.equal(before, torch.random.get_rng_state())
        states.append(model.state_dict())
    assert same(*states) and not same(states[0], weights_of(toy_set(9), seed=4))


def test_without_dev_data_the_last_weights_are_kept_and_it_is_said_once(caplog):
    _, result = train_model(toy_set(6), LABELS, TrainConfig(max_steps=5, progress=False))
    assert result.best_step == 5 and result.dev is None
    assert [r.message for r in caplog.records].count("no dev data: the last weights are kept, and no score is known") == 1


def test_labels_outside_the_label_set_are_refused():
    with pytest.raises(UserError, match="24 spans of 'NOUN', which is not in the label set"):
        train_model(toy_set(), LabelSet(("PER", "LOC")), QUICK)
    with pytest.raises(UserError, match="no training sentence"):
        train_model([Sentence(())], LABELS, QUICK)


def test_history_has_a_row_for_each_evaluation(tiny_bert):
    config = dataclasses.replace(SHORT, evaluations=3)
    _, result = train_model(toy_set(), LABELS, config, dev=toy_set(4))
    assert [row["step"] for row in result.history] == [2, 4, 6]
    assert all(math.isfinite(row["loss"]) and row["sentences_per_s"] > 0 and row["lr"] > 0 for row in result.history)
    assert [row["lr"] for row in result.history] == [
        pytest.approx(config.lr * rate_at(row["step"] - 1, 6, config.warmup)) for row in result.history]
    best = next(row for row in result.history if row["step"] == result.best_step)
    assert best["dev_f1"] == result.dev.micro.f1 == max(row["dev_f1"] for row in result.history)
    _, result = train_model(toy_set(), LABELS, config, encoder=tiny_bert)
    assert {"encoder_lr", "head_lr"} < set(result.history[-1]) and result.history[-1]["dev_f1"] is None


def test_learning_rate_weight_decay_and_clipping_act():
    plain = weights_of(toy_set(9))
    for changed in ({"warmup": 3}, {"weight_decay": 0.5}, {"clip": 1e-6}, {"average": 0.2}):
        assert not same(plain, weights_of(toy_set(9), **changed)), changed


def test_the_speed_counts_sentences_not_places_in_batches(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("syn_pipelines.ner.training.time.monotonic", lambda: float(next(clock)))
    speeds = [train_model(toy_set(1), LABELS, dataclasses.replace(SHORT, batch_size=size))[1].history[-1]["sentences_per_s"]
              for size in (1, 64)]
    assert speeds[0] == speeds[1] > 0


def test_a_sentence_that_swaps_would_make_too_long_stays_as_it_is():
    long = Sentence(tuple("的" * 500), ((0, 500, "PER"),))
    short = Sentence(tuple("小" * MAX_TOKENS), tuple((k, k + 1, "PER") for k in range(0, MAX_TOKENS, 2)))
    sentences = [short, *[long] * 300]  # a mention of the short one is exchanged for a long one for certain
    model = build_model(sentences, LABELS)
    config = with_weights(TrainConfig(swap=0.5))
    trainer = _Trainer(model, sentences, (), config, Team(torch.device("cpu")), Checkpoints(None, {}))
    assert len(trainer.swaps.vary(short, 0.5, random.Random(0)).tokens) > MAX_TOKENS
    assert trainer._variant(0) == short and len(trainer._variant(1).tokens) <= MAX_TOKENS


def test_crossing_target_entities_are_said(caplog):
    crossing = Sentence(tuple("小明在北京上学"), ((0, 4, "PER"), (2, 6, "LOC"), (1, 3, "LOC"), (3, 7, "NOUN")))
    build_model([crossing, *toy_set(2)], LABELS)
    assert "1 target entities cross another one; a prediction never holds both" in caplog.text
    caplog.clear()
    build_model(toy_set(2, nested=True), LABELS)
    assert "cross" not in caplog.text


def test_patience_ends_a_training_that_gets_no_better():
    config = dataclasses.replace(QUICK, evaluations=20, patience=3)
    _, result = train_model(toy_set(), LABELS, config, dev=toy_set(8))
    scores = [row["dev_f1"] for row in result.history]
    assert result.steps == result.history[-1]["step"] < 60 and result.dev.micro.f1 == max(scores) > 0
    assert max(scores[-3:]) <= max(scores[:-3])


def test_patience_does_not_end_a_training_that_finds_nothing_yet():
    config = dataclasses.replace(SHORT, evaluations=6, patience=1, lr=1e-7)
    _, result = train_model(toy_set(), LABELS, config, dev=toy_set(8))
    assert result.steps == 6 and {row["dev_f1"] for row in result.history} == {0.0}


def test_the_last_weights_come_beside_the_best_when_wanted():
    config = dataclasses.replace(QUICK, max_steps=40, evaluations=40, keep_last=True)
    model, result = train_model(toy_set(), LABELS, config, dev=toy_set(8))
    assert not train_model(toy_set(), LABELS, SHORT)[1].last
    model.load_state_dict(result.last)
    model.threshold = result.last_threshold
    assert score(model, toy_set(8)).micro.f1 == result.history[-1]["dev_f1"]


def test_a_training_that_comes_apart_says_which_rate_to_lower(tmp_path):
    config = dataclasses.replace(QUICK, lr=1e30, evaluations=5)
    with pytest.raises(UserError, match=r"the loss is (nan|inf) after [0-9]+ steps.*Lower the learning rate \(--lr\)"):
        train_model(toy_set(), LABELS, config, output=tmp_path / "model")
    assert not checkpoint_path(tmp_path / "model").exists()


def test_padded_lengths_are_whole_buckets_that_the_encoder_can_read(tmp_path):
    scratch = build_model(toy_set(2), LABELS)
    assert scratch.collate([scratch.encoder.prepare("小明在北京")]).inputs["ids"].shape[-1] == BUCKET
    bert = build_model(toy_set(2), LABELS, str(build_tiny_bert(tmp_path / "bert", positions=30)))  # no whole bucket
    inputs = bert.collate([bert.encoder.prepare("小明在北京" * 9)]).inputs
    assert inputs["pieces"].shape[-1] == 30 and inputs["filled"].shape[-1] == 48
    assert len(list(predict_stream(bert, [list("小明在北京" * 9)]))) == 1


# --- long sentences ------------------------------------------------------------------------------------------------

def test_long_sentences_are_learned_in_pieces_and_what_is_lost_is_counted(caplog):
    text = "小明在北京上学。" * 80
    entities = [(k, k + 2, "PER") for k in range(0, len(text), 8)] + [(0, 600, "NOUN")]
    train_model([Sentence(tuple(text), tuple(entities))], LABELS, dataclasses.replace(SHORT, max_steps=1))
    assert (f"1 training sentences of more than {MAX_TOKENS} tokens are cut into pieces; 1 entities lie in no single piece"
            in caplog.text)


def test_long_sentences_are_predicted_in_pieces_whose_offsets_are_put_back():
    model, _ = train_model(toy_set(), LABELS, QUICK)
    text = list("小明在北京上学。" * 200)
    short, long = predict_stream(model, [text[:8], text])
    pieces = split_long(text, MAX_TOKENS)
    assert len(pieces) == 4 and [last % 8 for _, last in pieces] == [0] * 4
    alone = [(first + s.start, first + s.end, s.label) for first, last in pieces for s in model.predict([text[first:last]])[0]]
    assert [(s.start, s.end, s.label) for s in long] == alone and len(alone) > 200
    assert short == model.predict([text[:8]])[0]


# --- checkpoints ---------------------------------------------------------------------------------------------------

class Stopped(list):
    """Dev data that stop the training, as Ctrl-C would, when they are scored for the n-th time."""

    def __init__(self, items, scorings):
        super().__init__(items)
        self.left = scorings

    def __getitem__(self, key):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().__getitem__(key)


@pytest.mark.parametrize("encoder, at", [("scratch", 2), ("scratch", 5), ("bert", 3)])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, tiny_bert, encoder, at, caplog):
    config = dataclasses.replace(QUICK, max_steps=24, evaluations=6, head_lr=1e-2, encoder_lr=1e-3)
    flags = {"encoder": tiny_bert if encoder == "bert" else encoder}
    straight, wanted = train_model(toy_set(), LABELS, config, dev=toy_set(8), **flags)
    with pytest.raises(KeyboardInterrupt):
        train_model(toy_set(), LABELS, config, dev=Stopped(toy_set(8), at), output=tmp_path / "model", **flags)
    caplog.set_level("INFO")
    model, result = train_model(toy_set(), LABELS, config, dev=toy_set(8), output=tmp_path / "model", **flags)
    assert f"goes on after step {4 * (at - 1)} of 24" in caplog.text
    assert same(model.state_dict(), straight.state_dict())
    assert (result.best_step, result.dev, result.steps) == (wanted.best_step, wanted.dev, wanted.steps)
    assert model.threshold == result.threshold == wanted.threshold
    timeless = [{k: v for k, v in row.items() if k != "sentences_per_s"} for row in result.history]
    assert timeless == [{k: v for k, v in row.items() if k != "sentences_per_s"} for row in wanted.history]
    rows = [json.loads(line) for line in log_path(tmp_path / "model").read_text(encoding="utf-8").splitlines()]
    assert rows == result.history


def test_a_stopped_training_remembers_the_best_state_and_how_long_none_was_better(tmp_path):
    config = dataclasses.replace(QUICK, evaluations=20, patience=6)
    _, wanted = train_model(toy_set(), LABELS, config, dev=toy_set(8))
    scores = [row["dev_f1"] for row in wanted.history]
    at = scores.index(max(scores)) + 4  # the evaluation, counted from 1, at which it is stopped
    assert at < len(scores) < 20  # none was better for a while, and in the end patience ends the training
    with pytest.raises(KeyboardInterrupt):
        train_model(toy_set(), LABELS, config, dev=Stopped(toy_set(8), at), output=tmp_path / "model")
    model, result = train_model(toy_set(), LABELS, config, dev=toy_set(8), output=tmp_path / "model")
    assert (result.steps, result.best_step, result.threshold) == (wanted.steps, wanted.best_step, wanted.threshold)
    assert model.threshold == wanted.threshold


@pytest.fixture
def stopped(tmp_path):
    """A model folder (not yet there) beside which a training left its checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        train_model(toy_set(6), LABELS, SHORT, dev=Stopped(toy_set(3), 3), output=tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("sentences, labels, changed, message", [
    (6, LABELS, {"max_steps": 7}, "max_steps 6 -> 7"),
    (6, LABELS, {"syn_weight": 0.5}, "syn_weight 1.0 -> 0.5"),
    (5, LABELS, {}, "training data [0-9a-f]{12}... -> "),
    (6, LabelSet(("PER", "LOC"), ("NOUN", "VERB")), {}, "labels [0-9a-f]{12}... -> "),
])
def test_a_checkpoint_of_another_training_is_refused(stopped, sentences, labels, changed, message):
    def go_on(**flags):
        config = dataclasses.replace(SHORT, **changed)
        return train_model(toy_set(sentences), labels, config, dev=toy_set(3), output=stopped, **flags)

    before = checkpoint_path(stopped).read_bytes()
    with pytest.raises(UserError, match=rf"model.checkpoint: this training was begun otherwise: .*{message}.*--restart") as caught:
        go_on()
    assert "\n" not in str(caught.value) and checkpoint_path(stopped).read_bytes() == before
    assert go_on(restart=True)[1].steps == changed.get("max_steps", 6)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x10\0\0\0\0\0\0\0" + b'{"a": "b"}      ', b"\2\0\0\0\0\0\0\0{}"])
def test_a_broken_checkpoint_is_one_clear_error(stopped, content):
    checkpoint_path(stopped).write_bytes(content)
    with pytest.raises(UserError, match="model.checkpoint: is no checkpoint that can be read.*remove that file") as caught:
        train_model(toy_set(6), LABELS, SHORT, dev=toy_set(3), output=stopped)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_a_checkpoint_with_a_damaged_tensor_is_refused_rather_than_gone_on_from(stopped, share):
    content = bytearray(checkpoint_path(stopped).read_bytes())
    first = 8 + int.from_bytes(content[:8], "little")
    content[first + int(share * (len(content) - 1 - first))] ^= 1
    checkpoint_path(stopped).write_bytes(content)
    with pytest.raises(UserError, match="is no checkpoint that can be read .its content and its checksum disagree"):
        train_model(toy_set(6), LABELS, SHORT, dev=toy_set(3), output=stopped)


@pytest.mark.parametrize("old, new", [(b'model/', b'nodel/'), (rb'\"stale\"', rb'\"stalf\"'), (rb'\"step\": ', rb'\"step\":1')])
def test_a_checkpoint_with_a_damaged_name_or_number_is_refused(stopped, old, new):
    content = checkpoint_path(stopped).read_bytes()
    assert old in content
    checkpoint_path(stopped).write_bytes(content.replace(old, new, 1))
    with pytest.raises(UserError, match="is no checkpoint that can be read .its content and its checksum disagree"):
        train_model(toy_set(6), LABELS, SHORT, dev=toy_set(3), output=stopped)


def test_dev_data_without_target_entities_are_told(caplog):
    dev = [Sentence(tuple("今天"), ((0, 2, "NOUN"),))]
    train_model(toy_set(6), LABELS, SHORT, dev=dev)
    assert "the dev data hold no target entity" in caplog.text


def test_a_checkpoint_holds_no_pickle_and_leaves_no_half_file(stopped):
    with safe_open(checkpoint_path(stopped), framework="pt") as file:
        groups = {key.partition("/")[0] for key in file.keys()}
    assert groups == {"model", "average", "best", "optimizer.step", "optimizer.exp_avg", "optimizer.exp_avg_sq"}
    assert {path.name for path in stopped.parent.iterdir()} == {"model.checkpoint", "model.log.jsonl"}


def test_a_checkpoint_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "model.checkpoint").mkdir()
    (tmp_path / "model.checkpoint" / "mine").write_text("")
    with pytest.raises(UserError, match="model.checkpoint: ") as caught:
        write_checkpoint(tmp_path / "model", Checkpoint({"model": {"weight": torch.ones(2)}}), {})
    assert "\n" not in str(caught.value) and not (tmp_path / ".model.checkpoint.part").exists()


# --- TensorBoard ---------------------------------------------------------------------------------------------------

def test_tensorboard_files_hold_what_the_log_holds(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, result = train_model(toy_set(6), LABELS, SHORT, dev=toy_set(3), output=tmp_path / "model", tensorboard=True)
    events = EventAccumulator(str(tensorboard_path(tmp_path / "model")))
    events.Reload()
    for name in ("loss", "lr", "dev_f1", "dev_precision", "dev_recall", "sentences_per_s"):
        assert [e.value for e in events.Scalars(name)] == pytest.approx([row[name] for row in result.history], rel=1e-6)


def test_a_missing_tensorboard_is_told_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="--tensorboard needs the package tensorboard.*pip install tensorboard"):
        train_model(toy_set(6), LABELS, SHORT, output=tmp_path / "model", tensorboard=True)
    assert not list(Path(tmp_path).iterdir())
