"""Token-classification checkpoints of the transformers library as NER models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import manifest, read_rows, write_run
from tiny_encoders import BUILDERS, build_tiny_bert

from syn_pipelines import s4_split_data as s4
from syn_pipelines import s7_pred_syn_data as s7
from syn_pipelines.ner.pieces import load_tokenizer
from syn_pipelines.ner.prediction import NerPredictor
from syn_pipelines.ner.token_classification import read_tags
from syn_pipelines.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def build_classifier(folder: Path, tags: list[str], kind: str = "bert", seed: int = 0) -> Path:
    """A checkpoint with random weights, large enough in the last layer that all tags occur."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    BUILDERS[kind](folder, seed=seed)
    config = AutoConfig.from_pretrained(folder, id2label=dict(enumerate(tags)), label2id={t: k for k, t in enumerate(tags)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForTokenClassification.from_config(config)
        torch.nn.init.normal_(model.classifier.weight)
        model.save_pretrained(folder)
    return folder


def build_lookup(folder: Path, tags: list[str], pieces: dict[str, str]) -> Path:
    """A checkpoint without layers that gives each piece the tag named here, and all others the first tag."""
    from transformers import AutoConfig, BertForTokenClassification

    build_tiny_bert(folder)
    config = AutoConfig.from_pretrained(folder, num_hidden_layers=0, id2label=dict(enumerate(tags)),
                                        label2id={tag: k for k, tag in enumerate(tags)})
    model = BertForTokenClassification(config)
    tokenizer = load_tokenizer(folder)
    embeddings = model.bert.embeddings
    with torch.no_grad():
        for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
            table.weight.zero_()
        embeddings.word_embeddings.weight[:, 0] = 1
        for piece, tag in pieces.items():
            embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids(piece)] = torch.eye(32)[tags.index(tag)]
        model.classifier.weight.copy_(torch.eye(32)[: len(tags)])
        model.classifier.bias.zero_()
    model.save_pretrained(folder)
    return folder


def found(predictor: NerPredictor, *sentences: list[str]) -> list[list[tuple[int, int, str]]]:
    return [[(s.start, s.end, s.label) for s in spans] for spans in predictor(sentences)]


# --- entities ----------------------------------------------------------------------------------------------------

SCHEMES = {
    "BIO": (BIO, ["B-PER", "I-PER", "B-LOC"], [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "LOC")]),
    "BIOES": (["O", "B-PER", "I-PER", "E-PER", "S-LOC"], ["B-PER", "E-PER", "S-LOC"], [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "LOC")]),
    "BMES": (["O", "B-PER", "M-PER", "E-PER", "S-LOC"], ["B-PER", "E-PER", "S-LOC"], [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "LOC")]),
    "BILOU": (["O", "B-PER", "I-PER", "L-PER", "U-LOC"], ["B-PER", "L-PER", "U-LOC"], [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "LOC")]),
    "IO": (["O", "I-LOC", "I-PER"], ["I-PER", "I-PER", "I-LOC"], [(0, 2, "PER"), (3, 5, "LOC")]),
    "bare": (["O", "PER", "LOC"], ["PER", "PER", "LOC"], [(0, 2, "PER"), (3, 5, "LOC")]),
    "BIO with other names": (["O", "[PAD]", "B_PER", "I_PER", "B_LOC"], ["B_PER", "I_PER", "B_LOC"],
                             [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "LOC")]),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tags_of_every_scheme_become_entities(tmp_path, scheme):
    tags, (john, smith, rome), expected = SCHEMES[scheme]
    predictor = NerPredictor.from_pretrained(build_lookup(tmp_path / "m", tags, {"john": john, "smith": smith, "rome": rome}))
    assert sorted(predictor.labels) == ["LOC", "PER"]
    assert found(predictor, ["John", "Smith", "in", "Rome", "Rome"], ["in"]) == [expected, []]


def test_the_first_piece_of_a_token_decides(tmp_path):
    folder = build_lookup(tmp_path / "m", BIO, {"a": "B-LOC", "##b": "B-PER", "##c": "I-PER", "smith": "I-LOC"})
    span, = next(NerPredictor.from_pretrained(folder)([["abc", "Smith"]]))
    assert (span.start, span.end, span.label) == (0, 2, "LOC")
    state = torch.nn.functional.layer_norm(torch.eye(32)[0], (32,), eps=1e-12)  # as for all tags
    assert span.score == pytest.approx(state[:5].softmax(0)[0].item(), abs=1e-5)


def test_long_sentences_are_read_in_windows(tmp_path):
    predictor = NerPredictor.from_pretrained(build_lookup(tmp_path / "m", BIO, {"john": "B-PER", "smith": "I-PER"}))
    tokens = ["in"] * 700  # 64 positions
    tokens[61:63] = tokens[698:700] = ["John", "Smith"]
    assert found(predictor, tokens, ["Smith"]) == [[(61, 63, "PER"), (698, 700, "PER")], [(0, 1, "PER")]]


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_logits_are_those_of_the_librarys_own_reading_of_words(tmp_path, kind):
    from transformers import AutoModelForTokenClassification

    folder = build_classifier(tmp_path / "m", ["O", "PER", "LOC", "ORG"], kind)
    tokens = ["John", "Smithing", "works", "in", "abcabc", "小", "?", "Rome"]
    encoded = load_tokenizer(folder)([tokens], is_split_into_words=True, return_tensors="pt")
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        scores = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits[0].softmax(-1)
    first = [encoded.word_ids(0).index(k) for k in range(len(tokens))]
    spans, = NerPredictor.from_pretrained(folder)([tokens])
    covered = {k: span.label for span in spans for k in range(span.start, span.end)}
    tags = [model.config.id2label[k] for k in scores[first].argmax(-1).tolist()]
    assert [covered.get(k, "O") for k in range(len(tokens))] == tags and len(set(tags)) > 1
    for span in spans:
        assert span.score == pytest.approx(scores[first].amax(-1)[span.start:span.end].mean().item(), abs=1e-5)


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    made: dict[str, NerPredictor] = {}

    def make(kind: str) -> NerPredictor:
        if kind not in made:
            made[kind] = NerPredictor.from_pretrained(build_classifier(tmp_path_factory.mktemp("c") / kind, BIO, kind))
        return made[kind]

    return make


TOKENS = st.sampled_from([*"小明在北京", "Rome", "abcabc", " ", "\ud800", "\U0001f600", "[SEP]"])


@pytest.mark.parametrize("kind", BUILDERS)
@settings(max_examples=12, deadline=None)
@given(texts=st.lists(st.lists(TOKENS, max_size=90), max_size=5))
def test_entities_do_not_depend_on_batch_mates(predictors, kind, texts):
    predictor = predictors(kind)
    together = list(predictor(texts, batch_size=4))
    assert len(together) == len(texts)
    for text, spans in zip(texts, together):
        alone, = predictor([text])
        assert [s.score for s in spans] == pytest.approx([s.score for s in alone], abs=1e-4)
        assert [(s.start, s.end, s.label) for s in spans] == [(s.start, s.end, s.label) for s in alone]


# --- names of labels ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("names, message", [
    ({0: "LABEL_0", 1: "LABEL_1"}, r"the labels have generic names \(LABEL_0 ... LABEL_1\)"),
    ({0: "O"}, r"names no entity label \(O\)"),
    ({0: "O", 2: "B-PER"}, "does not number its labels from 0 to 1"),
    ({}, "names no entity label"),
])
def test_labels_that_are_no_tags_are_one_clear_error(tmp_path, names, message):
    with pytest.raises(UserError, match=message) as caught:
        read_tags(names, tmp_path / "config.json")
    assert str(caught.value).startswith(str(tmp_path / "config.json")) and "\n" not in str(caught.value)


def test_names_beside_the_scheme_are_read_as_o_and_told(tmp_path, caplog):
    assert read_tags({0: "[PAD]", 1: "B-PER", 2: "O", 3: "X"}, tmp_path) == ["O", "B-PER", "O", "O"]
    assert "[PAD], X are no tags and are read as O" in caplog.text


# --- folders -----------------------------------------------------------------------------------------------------

def test_a_checkpoint_without_trained_tags_is_refused(tmp_path):
    folder = build_classifier(tmp_path / "m", BIO)
    build_tiny_bert(tmp_path / "base")
    shutil.copy(tmp_path / "base" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(UserError, match="the weights lack 2 tensors of the model, such as classifier.bias"):
        NerPredictor.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="m: no token-classification model could be loaded") as caught:
        NerPredictor.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not the configuration of a span model, but of .*BertModel"):
        NerPredictor.from_pretrained(tmp_path / "base")


def test_tokenizer_may_come_from_the_base_encoder(tmp_path):
    folder = build_classifier(tmp_path / "m", BIO)
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match="m: no tokenizer could be loaded"):
        NerPredictor.from_pretrained(folder)
    assert list(NerPredictor.from_pretrained(folder, base=str(build_tiny_bert(tmp_path / "base")))([["John"]]))


def test_pickled_weights_are_read(tmp_path):
    from safetensors.torch import load_file

    folder = build_classifier(tmp_path / "m", BIO)
    expected = list(NerPredictor.from_pretrained(folder)([["John", "abc", "Rome"]]))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert list(NerPredictor.from_pretrained(folder)([["John", "abc", "Rome"]])) == expected


# --- step 7 ------------------------------------------------------------------------------------------------------

def run_step_7(file_dir: Path, model: Path):
    return s7.main(cmd_args=False, file_dir=str(file_dir), file_name="demo", model_from_pretrained=str(model))


def test_step_7_looks_for_a_name_that_is_no_folder_on_the_hub(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "data")
    s4.main(cmd_args=False, file_dir=str(tmp_path / "data"), file_name="demo")
    with pytest.raises(UserError, match="someone/ner: neither a folder here nor a model that could be fetched"):
        run_step_7(tmp_path / "data", Path("someone/ner"))
    with pytest.raises(UserError, match="own/model/folder: no such model folder"):
        run_step_7(tmp_path / "data", Path("own/model/folder"))


def test_step_7_takes_such_a_checkpoint_and_refuses_its_other_labels(tmp_path):
    write_run(tmp_path / "data")
    s4.main(cmd_args=False, file_dir=str(tmp_path / "data"), file_name="demo")
    folder = build_classifier(tmp_path / "m", BIO)
    run_step_7(tmp_path / "data", folder)
    run = tmp_path / "data" / "demo" / "GLM4"
    rows = read_rows(run / "1000" / "train_1000_synthetic_target.jsonl")
    predicted = NerPredictor.from_pretrained(folder)(row["text"] for row in rows)
    assert [[(e["start"], e["end"], e["entity"]) for e in row["entities"]] for row in rows] == [
        [(s.start, s.end, s.label) for s in spans] for spans in predicted]
    assert any(row["entities"] for row in rows)
    made = manifest(run / "1000" / "train_1000_synthetic_target.jsonl")
    assert any(name.endswith("m/model.safetensors") for name in made["inputs"])
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["4"] = "B-MISC"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="the model predicts MISC, which .*labels.txt lacks.*rename the tags in the id2label"):
        run_step_7(tmp_path / "data", folder)
    config["id2label"]["4"] = "O"
    (folder / "config.json").write_text(json.dumps(config))
    run_step_7(tmp_path / "data", folder)
