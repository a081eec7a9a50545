"""Encoders of tokens, from nothing and of the transformers library: windows, pooling, batches, and what cannot be loaded."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import write_dataset
from tiny_encoders import BUILDERS, build_tiny_bert, build_tiny_roberta

from syn_pipelines import train_ner
from syn_pipelines.ner.data import LabelSet, Sentence
from syn_pipelines.ner.encoders import load_encoder
from syn_pipelines.ner.export import export_hf
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.pieces import MOST_REMEMBERED, cut_windows, load_tokenizer, pool_pieces
from syn_pipelines.ner.prediction import NerPredictor, predict_stream
from syn_pipelines.ner.training import SCRATCH, TrainConfig, build_model, train_model
from syn_pipelines.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
LABELS = LabelSet(("PER", "LOC"), ("NOUN",), {"NOUN": 20})


def english_set(count: int = 24) -> list[Sentence]:
    """ "John lives in Rome .": a person and a place."""
    rng = random.Random(6)
    return [
        Sentence(("John" if rng.random() < 0.5 else "Smith", "lives", "in", rng.choice(["Rome", "Acme"]), "."),
                 ((0, 1, "PER"), (3, 4, "LOC")))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def make_model(tmp_path_factory):
    """make_model(kind): an untrained model over a tiny encoder of that kind, always the same one."""
    models: dict[str, NerModel] = {}

    def make(kind: str) -> NerModel:
        if kind not in models:
            path = SCRATCH if kind == SCRATCH else str(BUILDERS[kind](tmp_path_factory.mktemp("encoders") / kind))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                models[kind] = build_model(english_set(), LABELS, path).eval()
        return models[kind]

    return make


@pytest.fixture(scope="module")
def bert_model(make_model):
    return make_model("bert")


def logits_of(model: NerModel, sentences: list[tuple[str, ...]]) -> list[torch.Tensor]:
    """Logits of the spans of each sentence."""
    model.eval()
    with torch.no_grad():
        batch = model.collate([model.encoder.prepare(tokens) for tokens in sentences])
        logits = model(batch)
    owner = batch.cells.sentence[batch.cells.spans]
    return [logits[owner == b] for b in range(len(sentences))]


# --- every kind of encoder ---------------------------------------------------------------------------------------

TOKENS = st.sampled_from([*"小明在北京", "Rome", "lives", "abcabc", " ", "\ufffd", "\ud800", "\U0001f600", "[SEP]", "<s>", "--"])
TEXTS = st.lists(st.lists(TOKENS, min_size=1, max_size=90).map(tuple), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", [SCRATCH, *BUILDERS])
@settings(max_examples=12, deadline=None)
@given(texts=TEXTS)
def test_scores_do_not_depend_on_batch_mates(make_model, kind, texts):
    model = make_model(kind)
    for alone, together in zip([logits_of(model, [text])[0] for text in texts], logits_of(model, texts)):
        torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [SCRATCH, *BUILDERS])
def test_scores_tell_a_sentence_from_another(make_model, kind):
    model = make_model(kind)
    one, other = logits_of(model, [("John", "lives", "in", "Rome"), ("Acme", "works", "for", "Rome")])
    assert (one - other).abs().max() > 1e-3  # else the test above would compare nothing


@pytest.mark.parametrize("kind", [SCRATCH, *BUILDERS])
@pytest.mark.parametrize("sentences", [[], [[]], [["小"]], [["  ", "\t"]], [[], ["小", "明"], []], [["\ud800"]]])
def test_odd_sentences_are_predicted(make_model, kind, sentences):
    assert len(list(predict_stream(make_model(kind), sentences))) == len(sentences)


@pytest.mark.parametrize("kind", BUILDERS)
def test_pretrained_encoder_learns_saves_and_loads(tmp_path, kind):
    base = BUILDERS[kind](tmp_path / "base")
    config = TrainConfig(max_steps=80, batch_size=8, head_lr=1e-2, encoder_lr=3e-3, evaluations=2, progress=False)
    model, result = train_model(english_set(), LABELS, config, dev=english_set(8), encoder=str(base))
    assert result.dev.micro.f1 == 100.0
    shutil.rmtree(base)
    folder = model.save(tmp_path / "model")
    loaded = NerModel.load(folder)
    texts = [s.tokens for s in english_set(8)]
    assert loaded.predict(texts) == model.predict(texts)
    assert not list(folder.rglob("*.bin"))
    assert not [p for p in folder.rglob("*.json") if str(tmp_path) in p.read_text(encoding="utf-8")]


def test_nothing_of_ours_reads_a_tensor_back(make_model, bert_model):
    """On a GPU each ``.item()`` and ``int(tensor)`` would wait for all the work before it; meta tensors have no values."""
    texts = (("John", "lives"), ("Rome",))
    inputs = {name: tensor.to("meta") for name, tensor in bert_model.collate(
        [bert_model.encoder.prepare(tokens) for tokens in texts]).inputs.items()}
    states = torch.zeros(*inputs["pieces"].shape, 32, device="meta")
    assert pool_pieces(states, inputs["slots"], inputs["filled"]).shape == (*inputs["filled"].shape, 32)
    encoder = make_model(SCRATCH).encoder
    inputs = {name: tensor.to("meta") for name, tensor in encoder.collate([encoder.prepare(t) for t in texts]).items()}
    weights = {name: weight.to("meta") for name, weight in encoder.state_dict().items()}
    assert torch.func.functional_call(encoder, weights, kwargs=inputs).shape[0] == 2


# --- windows and pieces ------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=80), st.integers(20, 40))
def test_windows_cover_every_token_once_and_fit(counts, budget):
    windows = cut_windows(counts, budget)
    assert [k for _, _, first, last in windows for k in range(first, last)] == list(range(len(counts)))
    for first, last, own_first, own_last in windows:
        assert first <= own_first < own_last <= last and sum(counts[first:last]) <= budget
    assert (len(windows) == 1) == (sum(counts) <= budget)


def test_long_sentences_are_read_in_windows_and_nothing_is_cut(bert_model):
    text = tuple("小明在北京" * 60)  # 300 tokens, 64 positions
    length, windows = bert_model.encoder.prepare(text)
    assert length == 300 and len(windows) > 4 and all(len(w.pieces) <= 64 for w in windows)
    assert len(logits_of(bert_model, [text])[0]) > 300


def test_roberta_keeps_clear_of_its_two_unused_positions(make_model):
    model = make_model("roberta")
    _, windows = model.encoder.prepare(["Rome"] * 200)
    assert max(len(w.pieces) for w in windows) == 64
    assert len(logits_of(model, [("Rome",) * 200])) == 1


def test_first_piece_pooling_differs_only_where_tokens_have_several_pieces(bert_model):
    encoder = bert_model.encoder
    states = {}
    for pooling in ("max", "first"):
        encoder.splitter.pooling = pooling
        inputs = bert_model.collate([encoder.prepare(("works", "in", "abc"))])
        with torch.no_grad():
            states[pooling] = encoder(**inputs.inputs)[0]
    encoder.splitter.pooling = "max"
    same = [torch.equal(a, b) for a, b in zip(states["max"][:3], states["first"])]
    assert same == [True, True, False]


def test_a_token_of_very_many_pieces_takes_half_a_window(bert_model):
    _, windows = bert_model.encoder.prepare(("abc" * 30, "小"))
    assert [len(w.pieces) for w in windows] == [2 + 31 + 1]


def test_the_memory_of_split_tokens_is_bounded(bert_model, monkeypatch):
    monkeypatch.setattr("syn_pipelines.ner.pieces.MOST_REMEMBERED", 3)
    splitter = bert_model.encoder.splitter
    splitter._remembered.clear()
    pieces = [splitter.split(token) for token in "小明在北京小"]
    assert pieces[0] == pieces[-1] and len(splitter._remembered) <= 3 < MOST_REMEMBERED


# --- what cannot be loaded ---------------------------------------------------------------------------------------

def test_missing_encoder_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for call in (load_encoder, load_tokenizer):
        with pytest.raises(UserError, match="empty: no (encoder|tokenizer) could be loaded") as caught:
            call(tmp_path / "empty")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"\x80\x02no"])
def test_encoder_folder_without_usable_weights_is_one_clear_error(tmp_path, content):
    base = build_tiny_bert(tmp_path / "base")
    (base / "model.safetensors").unlink()
    if content is not None:
        (base / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="base: no encoder could be loaded") as caught:
        load_encoder(base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, changes", [
    ("config.json", {"hidden_size": "wide"}), ("config.json", {"num_attention_heads": 0}), ("config.json", {"hidden_act": "no"}),
    ("config.json", {"model_type": "no"}), ("config.json", {"id2label": ["O"]}), ("config.json", None),
    ("tokenizer.json", None), ("tokenizer_config.json", None), ("tokenizer_config.json", {"model_max_length": "x"}),
])
def test_broken_descriptions_of_an_encoder_are_one_clear_error(tmp_path, name, changes):
    base = build_tiny_bert(tmp_path / "base")
    (base / name).write_text("{" if changes is None else json.dumps(json.loads((base / name).read_text()) | changes))
    with pytest.raises(UserError, match="base: (no (encoder|tokenizer) could be loaded|.*model_max_length is 'x')") as caught:
        load_encoder(base)
        load_tokenizer(base)
    assert "\n" not in str(caught.value)


def test_weights_of_another_encoder_are_refused_not_replaced_by_random_ones(tmp_path):
    base, other = build_tiny_bert(tmp_path / "base"), build_tiny_roberta(tmp_path / "other")
    config = json.loads((base / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the weights lack 16 tensors of the encoder, such as encoder.layer.2"):
        load_encoder(base)
    shutil.copy(other / "model.safetensors", base / "model.safetensors")
    with pytest.raises(UserError, match="base: "):
        load_encoder(base)


def test_weights_in_half_precision_are_widened(tmp_path):
    from transformers import AutoModel

    base = build_tiny_bert(tmp_path / "base")
    AutoModel.from_pretrained(base).half().save_pretrained(base)
    assert {weight.dtype for weight in load_encoder(base).parameters()} == {torch.float32}


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_weights_are_read_and_nothing_in_them_is_run(tmp_path):
    base = build_tiny_bert(tmp_path / "base")
    expected = load_encoder(base).state_dict()
    (base / "model.safetensors").unlink(missing_ok=True)
    torch.save(expected, base / "pytorch_model.bin")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_encoder(base).state_dict().items())
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write({"embeddings.word_embeddings.weight": Trap(tmp_path / "trapped")}, base / "pytorch_model.bin")
        with pytest.raises(UserError, match="base: no encoder could be loaded"):
            load_encoder(base)
    assert not (tmp_path / "trapped").exists()


def test_code_that_comes_with_an_encoder_is_not_run(tmp_path):
    base = build_tiny_bert(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (base / "config.json").write_text(json.dumps(config))
    (base / "own.py").write_text(f"open({str(tmp_path / 'trapped')!r}, 'w')\n")
    with pytest.raises(UserError, match="base: no encoder could be loaded"):
        load_encoder(base)
    assert not (tmp_path / "trapped").exists()


# --- saved models ------------------------------------------------------------------------------------------------

def test_base_encoder_stands_in_for_missing_tokenizer_and_config(tmp_path, bert_model):
    folder = bert_model.save(tmp_path / "model")
    for path in (folder / "encoder").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="holds no config of the encoder.*--from_pretrained"):
        NerPredictor.from_pretrained(folder)
    predictor = NerPredictor.from_pretrained(folder, base=str(build_tiny_bert(tmp_path / "base")))
    text = tuple("小明在北京")
    torch.testing.assert_close(logits_of(predictor.model, [text]), logits_of(bert_model, [text]))


@pytest.mark.parametrize("kind", [SCRATCH, "bert"])
def test_an_exported_folder_loads_with_one_call_and_needs_nothing_else(tmp_path, make_model, kind, monkeypatch):
    model = make_model(kind)
    texts = [["John", "lives", "in", "Rome"], [], ["Acme"]]
    model.threshold = 0.01
    try:
        folder = export_hf(model, tmp_path / "out" / "my model", scores={"dev F1": 71.25})
        expected = list(NerPredictor(model)(texts))
    finally:
        model.threshold = 0.5
    moved = folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert list(NerPredictor.from_pretrained("moved")(texts)) == expected and any(expected)
    config = json.loads((moved / "config.json").read_text())
    assert config["model_type"] and config["architectures"] == ["NerModel"]
    assert config["id2label"] == {"0": "PER", "1": "LOC", "2": "NOUN"}
    assert config["label2id"] == {"PER": 0, "LOC": 1, "NOUN": 2}
    assert not [path for path in moved.rglob("*") if path.is_file() and str(tmp_path).encode() in path.read_bytes()]


def test_the_model_card_names_labels_scores_and_the_call_that_loads(tmp_path, bert_model):
    folder = export_hf(bert_model, tmp_path / "weibo", scores={"dev F1": 71.25})
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n") and "It finds: `PER`, `LOC`." in card and "never predicted: `NOUN`" in card
    assert "- dev F1: 71.25" in card and 'NerPredictor.from_pretrained("weibo")' in card
    code = card.split("```python\n")[1].split("```")[0].replace('"weibo"', repr(str(folder)))
    exec(compile(code, "README.md", "exec"), {})
    export_hf(bert_model, folder)  # again, without scores
    assert "dev F1" not in (folder / "README.md").read_text(encoding="utf-8")


def test_exporting_never_replaces_a_folder_of_something_else(tmp_path, bert_model):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a model folder"):
        export_hf(bert_model, tmp_path)


@pytest.mark.parametrize("sentences", ["John lives", ["John lives"], [["John"], "lives"]])
def test_a_sentence_given_as_a_string_is_a_clear_error(bert_model, sentences):
    with pytest.raises(TypeError, match=r"is a string. Give lists of tokens"):
        list(NerPredictor(bert_model)(sentences))


def test_training_exports_on_request_also_when_the_model_is_there_already(tmp_path):
    write_dataset(tmp_path, held_out=True)
    flags = {"cmd_args": False, "file_dir": str(tmp_path), "file_name": "demo", "train": "gold", "max_steps": 2}
    train_ner.main(**flags)
    own = tmp_path / "demo" / "GLM4" / "ner" / "gold_1000"
    for _ in range(2):
        summary = train_ner.main(**flags, export_hf=str(tmp_path / "out"))
        assert summary.up_to_date and str(tmp_path / "out") in summary.outputs
    assert "strict F1 on dev" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    texts = [list("张三在北京工作")]
    assert list(NerPredictor.from_pretrained(tmp_path / "out")(texts)) == list(NerPredictor.from_pretrained(own)(texts))
    with pytest.raises(UserError, match="is in the model's own folder"):
        train_ner.main(**flags, export_hf=str(own))
    assert (own / "model.manifest.json").is_file()
    with pytest.raises(UserError, match="is not a model folder"):
        train_ner.main(**{**flags, "max_steps": 3}, export_hf=str(tmp_path / "demo"))
