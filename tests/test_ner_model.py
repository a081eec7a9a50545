"""The span model on tiny data: batches, learning, saving, loading and prediction."""

from __future__ import annotations

import errno
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import build_tiny_bert, build_tiny_roberta

from syn_pipelines.ner.data import LabelSet, Sentence
from syn_pipelines.ner.encoders import MAX_PIECES, cut_windows, load_encoder, load_tokenizer
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.prediction import NerPredictor, predict_stream
from syn_pipelines.ner.training import (
    TrainConfig,
    build_model,
    label_weights,
    rate_at,
    score,
    total_steps,
    train_model,
)
from syn_pipelines.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
LABELS = LabelSet(("PER", "LOC"), ("NOUN",), {"NOUN": 20})
PEOPLE, PLACES = ("小明", "张伟", "李红"), ("北京", "上海", "天津")
QUICK = TrainConfig(max_steps=60, batch_size=8, lr=1e-2, progress=False, seed=1)


def toy_set(count: int = 24, *, nested: bool = False) -> list[Sentence]:
    """ "小明在北京上学": a person, a place, and an extension label on the verb."""
    rng = random.Random(5)
    sentences = []
    for _ in range(count):
        text = rng.choice(PEOPLE) + "在" + rng.choice(PLACES) + rng.choice(["上学", "很好"])
        entities = [(0, 2, "PER"), (3, 5, "LOC"), (5, 7, "NOUN")]
        sentences.append(Sentence(tuple(text), tuple(entities + [(3, 4, "PER")] * nested)))
    return sentences


def english_set(count: int = 24) -> list[Sentence]:
    rng = random.Random(6)
    return [
        Sentence(("John" if rng.random() < 0.5 else "Smith", "lives", "in", rng.choice(["Rome", "Acme"]), "."),
                 ((0, 1, "PER"), (3, 4, "LOC")))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def toy_model():
    return train_model(toy_set(), LABELS, QUICK, dev=toy_set(8))


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    return build_tiny_bert(tmp_path_factory.mktemp("encoders") / "bert")


@pytest.fixture(scope="module")
def bert_model(tiny_bert):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(toy_set(), LABELS, str(tiny_bert)).eval()


def logits_of(model: NerModel, sentences: list[tuple[str, ...]]) -> list[torch.Tensor]:
    """Logits of the spans of each sentence."""
    model.eval()
    with torch.no_grad():
        batch = model.collate([model.encoder.prepare(tokens) for tokens in sentences])
        logits = model(batch)
    owner = batch.cells.sentence[batch.cells.spans]
    return [logits[owner == b] for b in range(len(sentences))]


# --- batches -----------------------------------------------------------------------------------------------------

TEXTS = st.lists(st.text(alphabet="小明在北京 x\ufffd", min_size=1, max_size=30).map(tuple), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None)
@given(TEXTS)
@pytest.mark.parametrize("kind", ["scratch", "bert"])
def test_scores_do_not_depend_on_batch_mates(toy_model, bert_model, kind, texts):
    model = toy_model[0] if kind == "scratch" else bert_model
    for alone, together in zip([logits_of(model, [text])[0] for text in texts], logits_of(model, texts)):
        torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


def test_loss_of_a_sentence_does_not_depend_on_batch_mates(toy_model):
    model, _ = toy_model
    sentences = [Sentence(tuple("小明"), ((0, 2, "PER"),)), Sentence(tuple("北京很好" * 5), ((0, 2, "LOC"),))]
    weights = torch.tensor([1.0, 1.0, 0.1])

    def losses(batch):
        inputs = model.collate([model.encoder.prepare(s.tokens) for s in batch])
        return model.loss(inputs, model.gold(batch, inputs), weights)

    alone = torch.cat([losses([s]) for s in sentences])
    torch.testing.assert_close(alone, losses(sentences), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["scratch", "bert"])
@pytest.mark.parametrize("sentences", [[], [[]], [["小"]], [["  ", "\t"]], [[], ["小", "明"], []], [["\ud800"]]])
def test_odd_sentences_are_predicted(toy_model, bert_model, kind, sentences):
    model = toy_model[0] if kind == "scratch" else bert_model
    assert len(list(predict_stream(model, sentences))) == len(sentences)


def test_prediction_streams_in_input_order(toy_model):
    model, _ = toy_model
    read = []

    def source():
        for n in range(1000):
            read.append(n)
            yield list("小明" if n % 3 else "小明在北京很好")

    found = predict_stream(model, source(), batch_size=2)
    assert [len(next(found)) for _ in range(6)] == [2, 1, 1, 2, 1, 1]
    assert len(read) <= 64  # far from all


# --- learning ----------------------------------------------------------------------------------------------------

def test_toy_set_is_learned_and_extension_labels_are_never_predicted(toy_model):
    model, result = toy_model
    assert result.dev.micro.f1 == 100.0 and result.steps == 60
    found = NerPredictor(model)([s.tokens for s in toy_set(8)])
    assert {span.label for spans in found for span in spans} == {"PER", "LOC"}
    model.threshold = -1.0  # every cell is a hit now
    try:
        everything = model.predict([list("小明在北京上学")])[0]
    finally:
        model.threshold = 0.5
    assert {span.label for span in everything} <= {"PER", "LOC"}


def test_english_words_are_learned_and_affixes_carry_over():
    model, result = train_model(english_set(), LabelSet(("PER", "LOC")), QUICK, dev=english_set(8))
    assert result.dev.micro.f1 == 100.0
    assert "suffix3" in model.encoder.vocabulary.columns
    found = model.predict([["Smith", "lives", "in", "Rome", "."]])[0]
    assert [(s.start, s.end, s.label) for s in found] == [(0, 1, "PER"), (3, 4, "LOC")]
    assert all(0.5 < s.score <= 1 for s in found)


def test_nested_gold_is_learned_and_decoded():
    labels = LabelSet(("PER", "LOC"), ("NOUN",))
    model, result = train_model(toy_set(nested=True), labels, QUICK, dev=toy_set(8, nested=True))
    assert model.decode == "nested" and result.dev.micro.f1 == 100.0
    assert {(s.start, s.end) for s in model.predict([list("小明在北京很好")])[0]} == {(0, 2), (3, 4), (3, 5)}


def test_flat_gold_makes_a_flat_model(toy_model):
    assert toy_model[0].decode == "flat"


def test_same_seed_gives_the_same_weights_and_leaves_the_callers_generator_alone():
    config = TrainConfig(max_steps=6, batch_size=4, progress=False, seed=3)
    states = []
    for _ in range(2):
        torch.manual_seed(len(states))
        before = torch.random.get_rng_state()
        model, _ = train_model(toy_set(9), LABELS, config, dev=toy_set(3))
        assert torch.equal(before, torch.random.get_rng_state())
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_without_dev_data_the_last_weights_are_kept_and_it_is_said_once(caplog):
    _, result = train_model(toy_set(6), LABELS, TrainConfig(max_steps=5, progress=False))
    assert result.best_step == 5 and result.dev is None
    assert [r.message for r in caplog.records].count("no dev data: the last weights are kept, and no score is known") == 1


def test_labels_outside_the_label_set_are_refused():
    with pytest.raises(UserError, match="24 spans of 'NOUN', which is not in the label set"):
        train_model(toy_set(), LabelSet(("PER", "LOC")), QUICK)
    with pytest.raises(UserError, match="no training sentence"):
        train_model([Sentence(())], LABELS, QUICK)


def test_span_width_holds_every_target_entity_and_leaves_wide_extension_spans_out(caplog):
    caplog.set_level("INFO")
    long = Sentence(tuple("小" * 40), ((0, 15, "PER"), (0, 40, "NOUN")))
    model = build_model([long], LABELS)
    assert model.max_width == 15
    spans, labels = model.gold([long], model.collate([model.encoder.prepare(long.tokens)]))
    assert (spans.tolist(), labels.tolist()) == ([14], [0])
    assert "1 extension spans of more than 15 tokens are left out" in caplog.text


@pytest.mark.parametrize(
    "sentences, options, steps",
    [(50, {}, 800), (1000, {}, 2500), (4000, {}, 4000), (1000, {"epochs": 2}, 250), (1000, {"max_steps": 7}, 7),
     (1000, {"epochs": 1, "max_steps": 200}, 125)],
)
def test_number_of_steps(sentences, options, steps):
    assert total_steps(sentences, TrainConfig(**options)) == steps


def test_learning_rate_rises_then_falls_to_almost_nothing():
    rates = [rate_at(k, 100, 0.1) for k in range(100)]
    assert rates.index(max(rates)) == 9 and max(rates) == 1.0 and 0 < rates[-1] < 0.02
    assert rate_at(0, 1, 0.1) == 1.0


def test_frequent_extension_labels_weigh_less_and_targets_weigh_one():
    spans = ((0, 1, "PER"), (1, 2, "LOC"), *((k, k + 1, "NOUN") for k in range(10)))
    weights = label_weights([Sentence(tuple("小" * 10), spans)], LabelSet(("PER", "LOC"), ("NOUN", "RARE")), 0.3)
    assert weights == pytest.approx([1.0, 1.0, 0.03, 0.3])


# --- encoders of the transformers library --------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=80), st.integers(20, 40))
def test_windows_cover_every_token_once_and_fit(counts, budget):
    windows = cut_windows(counts, budget)
    assert [k for _, _, first, last in windows for k in range(first, last)] == list(range(len(counts)))
    for first, last, own_first, own_last in windows:
        assert first <= own_first < own_last <= last and sum(counts[first:last]) <= budget
    assert (len(windows) == 1) == (sum(counts) <= budget)


@pytest.mark.parametrize("build", [build_tiny_bert, build_tiny_roberta])
def test_pretrained_encoder_learns_saves_and_loads(tmp_path, build):
    base = build(tmp_path / "base")
    config = TrainConfig(max_steps=80, batch_size=8, head_lr=1e-2, encoder_lr=3e-3, progress=False)
    model, result = train_model(english_set(), LABELS, config, dev=english_set(8), encoder=str(base))
    assert result.dev.micro.f1 == 100.0
    loaded = NerModel.load(model.save(tmp_path / "model"))
    texts = [s.tokens for s in english_set(8)]
    assert loaded.predict(texts) == model.predict(texts)
    assert not list((tmp_path / "model").rglob("*.bin"))


def test_base_encoder_stands_in_for_missing_tokenizer_and_config(tmp_path, bert_model, tiny_bert):
    folder = bert_model.save(tmp_path / "model")
    for path in (folder / "encoder").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="holds no config of the encoder.*--from_pretrained"):
        NerPredictor.from_pretrained(folder)
    predictor = NerPredictor.from_pretrained(folder, base=str(tiny_bert))
    text = tuple("小明在北京")
    torch.testing.assert_close(logits_of(predictor.model, [text]), logits_of(bert_model, [text]))


def test_long_sentences_are_read_in_windows_and_nothing_is_cut(bert_model):
    text = tuple("小明在北京" * 60)  # 300 tokens, 64 positions
    length, windows = bert_model.encoder.prepare(text)
    assert length == 300 and len(windows) > 4 and all(len(w.pieces) <= 64 for w in windows)
    assert len(logits_of(bert_model, [text])[0]) > 300


def test_roberta_keeps_clear_of_its_two_unused_positions(tmp_path):
    model = build_model(english_set(), LABELS, str(build_tiny_roberta(tmp_path / "base")))
    _, windows = model.encoder.prepare(["Rome"] * 200)
    assert max(len(w.pieces) for w in windows) == 64
    assert len(logits_of(model, [("Rome",) * 200])) == 1


def test_first_piece_pooling_differs_only_where_tokens_have_several_pieces(bert_model):
    encoder = bert_model.encoder
    states = {}
    for pooling in ("max", "first"):
        encoder.pooling = pooling
        inputs = bert_model.collate([encoder.prepare(("works", "in", "abc"))])
        with torch.no_grad():
            states[pooling] = encoder(**inputs.inputs)[0]
    encoder.pooling = "max"
    same = [torch.equal(a, b) for a, b in zip(states["max"], states["first"])]
    assert same == [True, True, False]


def test_a_token_of_very_many_pieces_is_shortened(bert_model):
    _, windows = bert_model.encoder.prepare(("abc" * 50, "小"))
    assert len(windows[0].owners) <= MAX_PIECES + 3


def test_missing_encoder_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for call in (load_encoder, load_tokenizer):
        with pytest.raises(UserError, match="empty: no (encoder|tokenizer) could be loaded"):
            call(tmp_path / "empty")


# --- model folders -----------------------------------------------------------------------------------------------

def test_saved_model_predicts_the_same(tmp_path, toy_model):
    model, _ = toy_model
    loaded = NerModel.load(model.save(tmp_path / "ner" / "fusion_250"))
    texts = [s.tokens for s in toy_set()] + [tuple("新的句子")]
    assert loaded.predict(texts) == model.predict(texts)
    assert (loaded.labels.targets, loaded.labels.extensions) == (model.labels.targets, model.labels.extensions)
    assert sorted(p.name for p in (tmp_path / "ner" / "fusion_250").iterdir()) == [
        "config.json", "labels.json", "model.safetensors", "vocab.json"]
    assert json.loads((tmp_path / "ner" / "fusion_250" / "labels.json").read_text()) == LABELS.to_dict()
    assert score(loaded, toy_set()).micro.f1 == 100.0


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path, toy_model):
    folder = tmp_path / "model"
    toy_model[0].save(folder)
    (folder / "stray").write_text("from before")
    (tmp_path / ".model.new").mkdir()  # what a killed save leaves
    toy_model[0].save(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert not (folder / "stray").exists()


def test_saving_never_replaces_a_folder_of_something_else(tmp_path, toy_model):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a model folder"):
        toy_model[0].save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # a base encoder is no model of ours either
    with pytest.raises(UserError, match="is not a model folder"):
        toy_model[0].save(tmp_path)


def test_a_save_that_fails_leaves_the_old_model_and_nothing_beside_it(tmp_path, toy_model, monkeypatch):
    folder = toy_model[0].save(tmp_path / "model")
    before = (folder / "config.json").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("syn_pipelines.ner.storage.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        toy_model[0].save(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["model"] and (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda d: [p.unlink() for p in d.iterdir()], "not a model folder, it holds no config.json"),
        (lambda d: (d / "config.json").write_text('{"model_type": "bert"}'), "not the configuration of a span model"),
        (lambda d: (d / "config.json").write_text("{"), "broken JSON"),
        (lambda d: (d / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda d: (d / "model.safetensors").write_bytes(b"no"), "weights do not fit"),
        (lambda d: (d / "vocab.json").unlink(), "lacks vocab.json"),
        (lambda d: (d / "vocab.json").write_text('{"token": ["a"]}'), "weights do not fit"),
        (lambda d: (d / "labels.json").write_text(json.dumps(LabelSet(("PER",)).to_dict())),
         "1 labels besides O, but the model was trained with 3"),
        (lambda d: _edit(d / "config.json", "format_version", 9), "format version 9"),
        (lambda d: _edit(d / "config.json", "decode", "best"), "broken model configuration"),
    ],
)
def test_a_damaged_model_folder_is_one_clear_error(tmp_path, toy_model, harm, message):
    folder = toy_model[0].save(tmp_path / "model")
    harm(folder)
    with pytest.raises(UserError, match=message) as caught:
        NerPredictor.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_model_folder_says_what_makes_it(tmp_path):
    with pytest.raises(UserError, match="no such model folder.*train_ner.py"):
        NerPredictor.from_pretrained(tmp_path / "nowhere")


def _edit(path, key, value):
    content = json.loads(path.read_text())
    content[key] = value
    path.write_text(json.dumps(content))
