"""Checkpoints of the reference implementation: same spans and scores as its arithmetic gives for a sentence alone."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pipeline import manifest, read_rows, write_run
from tiny_encoders import build_tiny_bert
from torch.nn import functional as F

from syn_pipelines import s4_split_data as s4
from syn_pipelines import s7_pred_syn_data as s7
from syn_pipelines.ner.data import LabelSet
from syn_pipelines.ner.export import export_hf
from syn_pipelines.ner.prediction import NerPredictor
from syn_pipelines.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = LabelSet(("PER", "LOC", "ORG"), ("NOUN", "VERB"), {"NOUN": 90, "VERB": 7})
CHANNELS, SIZE_EMBEDDING = 40, 25
SENTENCES = [
    ["小"],
    ["Rome", "works"],
    ["小", "明", "abc", "[SEP]", "\U0001f600"],
    list("小明在北京上学张伟去海很好李红住天津" * 2) + ["john", "Smithing", "?", "lives"],
]


@dataclass
class Checkpoint:
    """A folder in the reference's format, with what it was made of."""

    folder: Path
    tensors: dict[str, torch.Tensor]
    config: dict

    def write(self) -> None:
        torch.save(self.tensors, self.folder / "pytorch_model.bin")
        (self.folder / "config.json").write_text(json.dumps(self.config))


def build(folder: Path, *, seed: int = 0, n_head: int = 4, cnn_depth: int = 3, kernel_size: int = 3) -> Checkpoint:
    """Random weights under the reference's names, and the files that its training leaves."""
    from transformers import AutoModel

    build_tiny_bert(folder, seed=seed)
    bert = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    (folder / "model.safetensors").unlink(missing_ok=True)
    hidden, labels, inner = bert.config.hidden_size, len(LABELS.names), CHANNELS // max(1, n_head)
    biaffine = {"multi_head_biaffine.W": (n_head, inner, inner, inner)} if n_head else {"U": (CHANNELS,) * 3}
    shapes = {
        "W": (CHANNELS, 2 * (CHANNELS + 1) + SIZE_EMBEDDING), "size_embedding.weight": (30, SIZE_EMBEDDING),
        "head_mlp.1.weight": (CHANNELS, hidden), "head_mlp.1.bias": (CHANNELS,),
        "tail_mlp.1.weight": (CHANNELS, hidden), "tail_mlp.1.bias": (CHANNELS,), **biaffine,
        **{f"cnn.cnns.{k}.conv2d.weight": (CHANNELS, CHANNELS, 3, 3) for k in (0, 3, 6, 9)},
        **{f"cnn.cnns.{k}.{name}": (1, CHANNELS, 1, 1) for k in (1, 4, 7) for name in ("weight", "bias")},
        "attn.local_attention.attn.in_proj_weight": (3 * CHANNELS, CHANNELS),
        "attn.local_attention.attn.in_proj_bias": (3 * CHANNELS,),
        "attn.local_attention.attn.out_proj.weight": (CHANNELS, CHANNELS),
        "attn.local_attention.attn.out_proj.bias": (CHANNELS,),
        "attn.norm.weight": (CHANNELS,), "attn.norm.bias": (CHANNELS,),
        "down_fc.weight": (labels, CHANNELS), "down_fc.bias": (labels,),
    }
    random = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=random) * 0.3 for name, shape in shapes.items()}
    tensors["down_fc.bias"] -= 1.5  # so that some spans are found, and not all
    places = torch.arange(64)
    tensors["span_size_ids"] = (places[None, :] - places[:, None]).clamp(-15, 14) + 15
    tensors |= {f"bert.{name}": tensor for name, tensor in bert.state_dict().items()}
    tensors["bert.embeddings.position_ids"] = places[None, :]
    config = bert.config.to_dict() | {
        "n_head": n_head, "cnn_dim": CHANNELS, "biaffine_size": CHANNELS, "size_embed_dim": SIZE_EMBEDDING,
        "span_threshold": 0.5, "logit_drop": 0, "kernel_size": kernel_size, "cnn_depth": cnn_depth,
        "num_target_labels": len(LABELS.targets), "id2label": {k: f"LABEL_{k}" for k in range(labels + 1)},
    }
    config.pop("_name_or_path", None)
    checkpoint = Checkpoint(folder, tensors, config)
    checkpoint.write()
    (folder / "label_fusion.json").write_text(json.dumps(LABELS.to_dict()))
    return checkpoint


def reference_scores(checkpoint: Checkpoint, tokens: list[str]) -> torch.Tensor:
    """(L, L, targets) probabilities, start by last token: the reference's arithmetic for one sentence, word by word."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    t, config = checkpoint.tensors, checkpoint.config
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    bert = BertModel(BertConfig(**config), add_pooling_layer=False).eval()
    bert.load_state_dict({name: t[f"bert.{name}"] for name in bert.state_dict()})
    pieces = [tokenizer.encode(token, add_special_tokens=False) for token in tokens]
    ids = [tokenizer.cls_token_id, *(k for word in pieces for k in word), tokenizer.sep_token_id]
    states = bert(torch.tensor([ids])).last_hidden_state[0, 1:-1]
    words = torch.stack([part.amax(0) for part in states.split([len(word) for word in pieces])])
    head = F.leaky_relu(words @ t["head_mlp.1.weight"].T + t["head_mlp.1.bias"])
    tail = F.leaky_relu(words @ t["tail_mlp.1.weight"].T + t["tail_mlp.1.bias"])
    size, parts = len(tokens), config["n_head"] or 1
    biaffine = t["multi_head_biaffine.W"] if config["n_head"] else t["U"][None]
    scores = torch.cat([torch.einsum("xi,oij,yj->xyo", h, weight, e) for h, weight, e in zip(
        head.chunk(parts, dim=1), biaffine, tail.chunk(parts, dim=1))], dim=-1)
    one = torch.ones(1)
    for x in range(size):
        for y in range(size):
            embedded = t["size_embedding.weight"][t["span_size_ids"][x, y]]
            scores[x, y] += t["W"] @ torch.cat([head[x], one, tail[y], one, embedded])
    if config["cnn_depth"]:
        scores = scores + F.layer_norm(_attention(scores, t, config["kernel_size"]), (CHANNELS,), t["attn.norm.weight"],
                                       t["attn.norm.bias"])
    return (scores @ t["down_fc.weight"].T + t["down_fc.bias"]).sigmoid()[..., : config["num_target_labels"]]


def _attention(scores: torch.Tensor, tensors: dict[str, torch.Tensor], window: int) -> torch.Tensor:
    """torch's own attention over a dense row of last tokens, each start a sequence of its own."""
    attention = torch.nn.MultiheadAttention(CHANNELS, 10, batch_first=True).eval()
    prefix = "attn.local_attention.attn."
    attention.load_state_dict({k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)})
    places = torch.arange(scores.shape[1])
    outside = (places[None, :] - places[:, None]).abs() > window
    return attention(scores, scores, scores, attn_mask=outside.float().masked_fill(outside, float("-inf")))[0]


def reference_spans(scores: torch.Tensor, threshold: float) -> list[tuple[int, int, str, float]]:
    """Best target of each span above the threshold, best spans first, those that intersect a kept one dropped."""
    found = []
    for start in range(len(scores)):
        for last in range(start, len(scores)):
            score, label = scores[start, last].max(0)
            if score > threshold:
                found.append((start, last + 1, LABELS.targets[label], score.item()))
    kept: list[tuple[int, int, str, float]] = []
    for span in sorted(found, key=lambda s: -s[3]):
        if all(span[1] <= other[0] or other[1] <= span[0] for other in kept):
            kept.append(span)
    return sorted(kept)


def check_against_reference(checkpoint: Checkpoint) -> list[tuple[int, int, str, float]]:
    """Compare each sentence's spans and scores; returns all spans of the reference."""
    everything = []
    predicted = list(NerPredictor.from_pretrained(checkpoint.folder)(SENTENCES))
    for tokens, spans in zip(SENTENCES, predicted):
        with torch.no_grad():
            expected = reference_spans(reference_scores(checkpoint, tokens), checkpoint.config["span_threshold"])
        assert [(s.start, s.end, s.label) for s in spans] == [span[:3] for span in expected]
        assert [s.score for s in spans] == pytest.approx([span[3] for span in expected], abs=2e-5)
        everything += expected
    return everything


@pytest.mark.parametrize("seed", range(4))
def test_spans_and_scores_are_those_of_the_reference(tmp_path, seed):
    spans = check_against_reference(build(tmp_path / "model", seed=seed))
    assert len({label for *_, label, _ in spans}) > 1 and len(spans) > 5


@pytest.mark.parametrize("options", [{"n_head": 0}, {"n_head": 1}, {"cnn_depth": 0}, {"kernel_size": 1}])
def test_other_sizes_of_the_reference(tmp_path, options):
    assert check_against_reference(build(tmp_path / "model", seed=7, **options))


def test_the_threshold_of_the_checkpoint_counts(tmp_path):
    checkpoint = build(tmp_path / "model")
    before = check_against_reference(checkpoint)
    checkpoint.config["span_threshold"] = 0.9
    checkpoint.write()
    assert 0 < len(check_against_reference(checkpoint)) < len(before)


def test_weights_in_safetensors_are_read_as_well(tmp_path):
    from safetensors.torch import save_file

    checkpoint = build(tmp_path / "model")
    (checkpoint.folder / "pytorch_model.bin").unlink()
    save_file({name: tensor.contiguous().clone() for name, tensor in checkpoint.tensors.items()},
              checkpoint.folder / "model.safetensors")
    assert check_against_reference(checkpoint)


def test_a_blank_token_is_one_unknown_piece_and_long_sentences_are_not_cut(tmp_path):
    predictor = NerPredictor.from_pretrained(build(tmp_path / "model").folder)
    splitter = predictor.model.encoder.splitter
    assert [splitter.split(token) for token in (" ", "\t")] == [(splitter.tokenizer.unk_token_id,)] * 2
    spans, = predictor([list("小明在北京") * 40])  # 200 tokens, 64 positions
    assert max(span.end for span in spans) > 150


def test_a_checkpoint_becomes_a_model_folder_of_this_package(tmp_path):
    predictor = NerPredictor.from_pretrained(build(tmp_path / "theirs").folder)
    again = NerPredictor.from_pretrained(export_hf(predictor.model, tmp_path / "ours"))
    assert list(again(SENTENCES)) == list(predictor(SENTENCES))
    assert (again.model.labels, again.model.max_width) == (LABELS, None)


# --- files that are missing or do not fit ------------------------------------------------------------------------

def test_tokenizer_may_come_from_the_base_encoder(tmp_path):
    checkpoint = build(tmp_path / "model")
    expected = list(NerPredictor.from_pretrained(checkpoint.folder)(SENTENCES))
    for path in checkpoint.folder.glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match="model: no tokenizer could be loaded"):
        NerPredictor.from_pretrained(checkpoint.folder)
    base = str(build_tiny_bert(tmp_path / "base"))
    assert list(NerPredictor.from_pretrained(checkpoint.folder, base=base)(SENTENCES)) == expected


def test_label_files_are_found_or_given_and_must_fit(tmp_path):
    folder = build(tmp_path / "model").folder
    (folder / "labels.txt").write_text("O\nPER\nLOC\nORG\n")  # targets only: does not fit, the other one does
    assert NerPredictor.from_pretrained(folder).model.labels == LABELS
    (folder / "label_fusion.json").unlink()
    with pytest.raises(UserError, match=r"labels.txt: holds 3 labels besides O, but the checkpoint scores 5"):
        NerPredictor.from_pretrained(folder)
    (folder / "labels.txt").unlink()
    with pytest.raises(UserError, match="holds no label file"):
        NerPredictor.from_pretrained(folder)
    plain = tmp_path / "plain.txt"
    plain.write_text("O\nPER\nLOC\nORG\nNOUN\nVERB\n")
    predictor = NerPredictor.from_pretrained(folder, label_file=plain)
    assert predictor.labels == ("PER", "LOC", "ORG") and predictor.model.labels.extensions == ("NOUN", "VERB")
    weighted = {"O": {"idx": 0}, **{n: {"is_target": n in LABELS.targets, "weight": 0.1} for n in LABELS.names}}
    (tmp_path / "weighted.json").write_text(json.dumps(weighted))
    assert NerPredictor.from_pretrained(folder, label_file=tmp_path / "weighted.json").labels == LABELS.targets
    weighted["NOUN"]["is_target"] = True
    (tmp_path / "weighted.json").write_text(json.dumps(weighted))
    with pytest.raises(UserError, match="5 labels besides O, 4 of them targets, but the checkpoint scores 5, 3 of them"):
        NerPredictor.from_pretrained(folder, label_file=tmp_path / "weighted.json")


def test_two_label_files_that_fit_are_not_guessed_between(tmp_path):
    folder = build(tmp_path / "model").folder
    (folder / "label_syn_fusion.json").write_text(json.dumps(LABELS.to_dict()))  # the same labels: no question
    assert NerPredictor.from_pretrained(folder).labels == LABELS.targets
    other = LabelSet(("A", "B", "C"), ("D", "E"))
    (folder / "label_other.json").write_text(json.dumps(other.to_dict()))
    with pytest.raises(UserError, match="both have 5 labels besides O"):
        NerPredictor.from_pretrained(folder)


@pytest.mark.parametrize("harm, message", [
    (lambda c: c.tensors.pop("attn.norm.bias"), "lacks the tensor attn.norm.bias"),
    (lambda c: c.tensors.pop("down_fc.bias"), "lacks the tensor down_fc.bias"),
    (lambda c: c.tensors.pop("bert.encoder.layer.1.output.dense.bias"), "lacks the tensor bert.encoder.layer.1.output"),
    (lambda c: [c.tensors.pop(n) for n in list(c.tensors) if n[:5] == "bert."], "and 32 more tensors"),
    (lambda c: c.tensors.update(crf=torch.zeros(2)), "holds the tensor crf, which"),
    (lambda c: c.tensors.update(W=torch.zeros(40, 3)), r"W has the shape \(40, 3\), its config.json wants \(40, 107\)"),
    (lambda c: c.tensors.update({"down_fc.weight": torch.zeros(40)}), r"down_fc.weight has the shape \(40,\)"),
    (lambda c: c.tensors.update(W="text"), "something other than tensors"),
    (lambda c: c.config.update(n_head=0), "lacks the tensor U"),
    (lambda c: c.config.update(n_head=3), "40 channels cannot be split into 3"),
    (lambda c: c.config.update(n_head="4"), "n_head is '4', not a whole number"),
    (lambda c: c.config.pop("kernel_size"), "kernel_size is None"),
    (lambda c: c.config.update(kernel_size=0), "kernel_size is 0"),
    (lambda c: c.config.update(cnn_dim=20), "cnn_dim 20 and biaffine_size 40 differ"),
    (lambda c: c.config.update(num_target_labels=6), "num_target_labels is 6, but the checkpoint scores 5"),
    (lambda c: c.config.update(vocab_size=9), "bert.embeddings.word_embeddings.weight has the shape"),
])
def test_weights_and_configuration_that_do_not_fit_are_one_clear_error(tmp_path, harm, message):
    checkpoint = build(tmp_path / "model")
    harm(checkpoint)
    checkpoint.write()
    with pytest.raises(UserError, match=message) as caught:
        NerPredictor.from_pretrained(checkpoint.folder)
    assert "\n" not in str(caught.value)


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_weights_file_is_run(tmp_path):
    checkpoint = build(tmp_path / "model")
    for write in (lambda f, trap: torch.save({"W": trap}, f), lambda f, trap: f.write_bytes(pickle.dumps(trap)),
                  lambda f, trap: f.write_bytes(b""), lambda f, trap: f.write_bytes(b"\x80\x02nonsense")):
        write(checkpoint.folder / "pytorch_model.bin", Trap(tmp_path / "trapped"))
        with pytest.raises(UserError, match="pytorch_model.bin: no weights could be read"):
            NerPredictor.from_pretrained(checkpoint.folder)
    assert not (tmp_path / "trapped").exists()
    (checkpoint.folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        NerPredictor.from_pretrained(checkpoint.folder)


def test_step_7_takes_such_a_checkpoint(tmp_path):
    write_run(tmp_path)
    (tmp_path / "demo" / "labels.txt").write_text("O\nPER\nLOC\nORG\n", encoding="utf-8")
    flags = {"cmd_args": False, "file_dir": str(tmp_path), "file_name": "demo"}
    s4.main(**flags)
    folder = build(tmp_path / "model").folder
    labels = (folder / "label_fusion.json").rename(tmp_path / "labels.json")
    flags["model_from_pretrained"] = str(folder)
    with pytest.raises(UserError, match="holds no label file"):
        s7.main(**flags)
    s7.main(**flags, label_file=str(labels))
    output = tmp_path / "demo" / "GLM4" / "1000" / "train_1000_synthetic_target.jsonl"
    rows = read_rows(output)
    predicted = NerPredictor.from_pretrained(folder, label_file=labels)(row["text"] for row in rows)
    assert [[(e["start"], e["end"], e["entity"]) for e in row["entities"]] for row in rows] == [
        [(s.start, s.end, s.label) for s in spans] for spans in predicted]
    assert any(row["entities"] for row in rows)
    assert any(name.endswith("model/pytorch_model.bin") for name in manifest(output)["inputs"])
