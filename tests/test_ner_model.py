"""The span model on tiny data: batches, learning, saving, loading and prediction."""

from __future__ import annotations

import errno
import json
import random

import pytest
import torch
from toy_sentences import LABELS, QUICK, score, toy_set

from syn_pipelines.ner.data import LabelSet, Sentence
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.prediction import NerPredictor, predict_stream
from syn_pipelines.ner.training import build_model, train_model
from syn_pipelines.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


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


# --- batches -----------------------------------------------------------------------------------------------------

def test_loss_of_a_sentence_does_not_depend_on_batch_mates(toy_model):
    model, _ = toy_model
    sentences = [Sentence(tuple("小明"), ((0, 2, "PER"),)), Sentence(tuple("北京很好" * 5), ((0, 2, "LOC"),))]
    weights = torch.tensor([1.0, 1.0, 0.1])

    def losses(batch):
        inputs = model.collate([model.encoder.prepare(s.tokens) for s in batch])
        return model.loss(inputs, model.gold(batch, inputs), weights)

    alone = torch.cat([losses([s]) for s in sentences])
    torch.testing.assert_close(alone, losses(sentences), atol=1e-4, rtol=1e-4)


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


def test_span_width_holds_every_target_entity_and_leaves_wide_extension_spans_out(caplog):
    caplog.set_level("INFO")
    long = Sentence(tuple("小" * 40), ((0, 15, "PER"), (0, 40, "NOUN")))
    model = build_model([long], LABELS)
    assert model.max_width == 15
    spans, labels = model.gold([long], model.collate([model.encoder.prepare(long.tokens)]))
    assert (spans.tolist(), labels.tolist()) == ([14], [0])
    assert "1 extension spans of more than 15 tokens are left out" in caplog.text


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


def test_a_link_to_a_model_folder_stays_one(tmp_path, toy_model):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    for _ in range(3):
        toy_model[0].save(tmp_path / "model")
    assert (tmp_path / "model").is_symlink() and NerModel.load(tmp_path / "model").labels == toy_model[0].labels
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["model"]


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
    with pytest.raises(UserError, match=r"model: the model cannot be written \(No space left on device\)"):
        toy_model[0].save(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["model"] and (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda d: [p.unlink() for p in d.iterdir()], "not a model folder, it holds no config.json"),
        (lambda d: (d / "config.json").write_text('{"model_type": "bert"}'), "not the configuration of a span model"),
        (lambda d: (d / "config.json").write_text("{"), "is not valid JSON"),
        (lambda d: (d / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda d: (d / "model.safetensors").write_bytes(b"no"), "weights do not fit"),
        (lambda d: (d / "vocab.json").unlink(), "lacks vocab.json"),
        (lambda d: (d / "vocab.json").write_text('{"token": ["a"], "bigram": ["a"]}'), "weights do not fit"),
        (lambda d: (d / "vocab.json").write_text("{}"), "vocab.json: is no vocabulary of feature columns"),
        (lambda d: (d / "labels.json").write_text(json.dumps(LabelSet(("PER",)).to_dict())),
         "its 1 labels besides O \\(PER\\) are not the 3 that the model was trained with \\(PER, LOC, NOUN\\)"),
        (lambda d: (d / "labels.json").write_text(json.dumps(LabelSet(("LOC", "PER"), ("NOUN",)).to_dict())),
         "\\(LOC, PER, NOUN\\) are not the 3.*or not in their order. Put back the label file"),
        (lambda d: _edit(d / "config.json", "id2label", {}), "broken model configuration"),
        *((lambda d, v=value: _edit(d / "config.json", "threshold", v), "broken model configuration")
          for value in (None, "x", 7, float("nan"))),
        *((lambda d, n=name, v=value: _edit(d / "config.json", "head", {**_read(d / "config.json")["head"], n: v}),
           "broken model configuration") for name, value in (
               ("channels", 0), ("channels", -4), ("channels", 4e9), ("biaffine_heads", 0), ("max_width", "x"),
               ("max_width", -3), ("window", -1), ("dropout", "x"), ("dropout", 1))),
        (lambda d: (d / "vocab.json").write_text('{"token": ["a"], "colour": ["a"]}'), "vocab.json: is no vocabulary of feature columns"),
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


def _read(path):
    return json.loads(path.read_text())


def _edit(path, key, value):
    content = _read(path)
    content[key] = value
    path.write_text(json.dumps(content))
