"""Checkpoints of the reference implementation of KnowFREE, read as a model of this package.

Such a folder holds

    config.json            a BERT configuration and the sizes of the span head
    pytorch_model.bin      weights (or model.safetensors, with the same names)
    labels.txt             label file of the training, or label_*.json
    vocab.txt, ...         the tokenizer

The tensors keep their values and only get other names. Not read: the convolutions, which the reference builds and never
uses, and two tables of constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from syn_pipelines.ner.data import LabelSet
from syn_pipelines.ner.encoders import PretrainedEncoder, load_encoder
from syn_pipelines.ner.head import SIZES, HeadConfig
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.pieces import load_tokenizer
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import read_json
from syn_pipelines.utils.labels import OUTSIDE, read_target_labels
from syn_pipelines.utils.llm.checkpoints import first_line

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ATTENTION_HEADS = 10
_CONSTANTS = {"span_size_ids", "bert.embeddings.position_ids"}
_ATTENTION = {
    "attn.local_attention.attn.in_proj_weight": "attention.project_in.weight",
    "attn.local_attention.attn.in_proj_bias": "attention.project_in.bias",
    "attn.local_attention.attn.out_proj.weight": "attention.project_out.weight",
    "attn.local_attention.attn.out_proj.bias": "attention.project_out.bias",
    "attn.norm.weight": "attention.norm.weight",
    "attn.norm.bias": "attention.norm.bias",
}
_OTHERS = {
    "size_embedding.weight": "size.weight",
    "head_mlp.1.weight": "start.weight",
    "head_mlp.1.bias": "start.bias",
    "tail_mlp.1.weight": "end.weight",
    "tail_mlp.1.bias": "end.bias",
    "down_fc.weight": "classify.weight",
    "down_fc.bias": "classify.bias",
}


@dataclass(frozen=True)
class Sizes:
    """What the reference adds to the configuration of its BERT; the names are its own.

    n_head: parts of the biaffine, 0 for an undivided one. kernel_size: how far attention reads to either side.
    cnn_depth: 0 turns the attention off. num_target_labels: without O.
    """

    n_head: int
    cnn_dim: int
    biaffine_size: int
    size_embed_dim: int
    kernel_size: int
    cnn_depth: int
    num_target_labels: int
    span_threshold: float

    @classmethod
    def read(cls, config: Mapping, source: Path) -> Sizes:
        """UserError when one is missing, is no number, or goes beyond what this package builds."""
        values = {}
        for name in (field.name for field in fields(cls)):
            value = config.get(name)
            whole = name != "span_threshold"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value < 0:
                raise UserError(f"{source}: {name} is {value!r}, not a {'whole ' * whole}number from 0 on. "
                                "Copy the config.json that the training saved.")
            values[name] = value
        if not values["span_threshold"] <= 1:
            raise UserError(f"{source}: span_threshold is {values['span_threshold']}, no probability. Copy the config.json that the "
                            "training saved.")
        sizes = cls(**values)
        if sizes.cnn_dim != sizes.biaffine_size:
            raise UserError(f"{source}: cnn_dim {sizes.cnn_dim} and biaffine_size {sizes.biaffine_size} differ. Only "
                            "checkpoints in which both are equal can be read.")
        if sizes.cnn_depth and not sizes.kernel_size:
            raise UserError(f"{source}: kernel_size is 0. Only checkpoints whose attention reads neighbours, or that have "
                            "none (cnn_depth 0), can be read.")
        return sizes

    def head(self, source: Path) -> HeadConfig:
        """The same sizes as a configuration of our head."""
        try:
            return HeadConfig(None, channels=self.cnn_dim, biaffine_heads=self.n_head or 1,
                              size_embedding=self.size_embed_dim, window=self.kernel_size if self.cnn_depth else 0,
                              attention_heads=ATTENTION_HEADS)
        except ValueError as error:
            raise UserError(f"{source}: {error}. Copy the config.json that the training saved.") from None


def is_reference(config: Mapping) -> bool:
    """Whether a folder's config.json is that of a checkpoint of the reference implementation."""
    return "biaffine_size" in config and "cnn_dim" in config


def load_reference(folder: Path, config: Mapping, *, base: str | None = None, label_file: Path | None = None,
                   device: str = "cpu") -> NerModel:
    """Read a checkpoint; the model comes back in eval mode on ``device`` and decodes flat.

    Args:
        config: content of the folder's config.json.
        base: encoder whose tokenizer is used where the folder lacks one.
        label_file: label file of the training; by default the one in the folder that fits.
    Raises:
        UserError: a file is missing or broken, tensors are missing, unknown or of another shape, or there is no label
            file with as many labels as the checkpoint scores.
    """
    sizes = Sizes.read(config, folder / "config.json")
    head = sizes.head(folder / "config.json")
    source, tensors = _read_tensors(folder)
    encoder = PretrainedEncoder(load_encoder(folder, weights=False), load_tokenizer(folder, base), spaced=False)
    _check(tensors, sizes, encoder, source)
    if not 0 < sizes.num_target_labels <= len(tensors["down_fc.bias"]):
        raise UserError(f"{folder / 'config.json'}: num_target_labels is {sizes.num_target_labels}, but the checkpoint scores "
                        f"{len(tensors['down_fc.bias'])} labels. Copy the config.json that the training saved.")
    labels = _read_labels(folder, label_file, len(tensors["down_fc.bias"]), sizes.num_target_labels)
    model = NerModel(encoder, labels, head, threshold=sizes.span_threshold)
    # Releases of transformers differ in which constants are part of a model's state.
    model.load_state_dict(model.state_dict() | _renamed(tensors, sizes))
    return model.to(device).eval()


# --------------------------------------------------------------------------------------------------------------------
# Tensors


def _read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file of the weights, and those that are used."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: holds no weights ({' or '.join(WEIGHTS)}). Copy them from the training.")
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(
            path, map_location="cpu", weights_only=True)  # nothing but tensors is ever unpickled
    except Exception as error:  # of damaged files the libraries raise nearly every kind
        raise UserError(f"{path}: no weights could be read ({first_line(error)}). Copy the file again.") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{path}: holds something other than tensors by name. Copy the file again.")
    return path, {name: tensor for name, tensor in tensors.items()
                  if name not in _CONSTANTS and not name.startswith("cnn.")}


def _shapes(sizes: Sizes, encoder: PretrainedEncoder, labels: int) -> dict[str, tuple[int, ...]]:
    """The tensors that a checkpoint must hold."""
    channels, inner = sizes.cnn_dim, sizes.cnn_dim // (sizes.n_head or 1)
    shapes = {
        **{f"bert.{name}": tuple(tensor.shape) for name, tensor in encoder.encoder.state_dict().items()
           if f"bert.{name}" not in _CONSTANTS},
        "W": (channels, 2 * (channels + 1) + sizes.size_embed_dim),
        "size_embedding.weight": (SIZES, sizes.size_embed_dim),
        "head_mlp.1.weight": (channels, encoder.output_size),
        "head_mlp.1.bias": (channels,),
        "tail_mlp.1.weight": (channels, encoder.output_size),
        "tail_mlp.1.bias": (channels,),
        "down_fc.weight": (labels, channels),
        "down_fc.bias": (labels,),
    }
    if sizes.n_head:
        shapes["multi_head_biaffine.W"] = (sizes.n_head, inner, inner, inner)
    else:
        shapes["U"] = (channels, channels, channels)
    if sizes.cnn_depth:
        square = [(3 * channels, channels), (3 * channels,), (channels, channels), (channels,), (channels,), (channels,)]
        shapes.update(zip(_ATTENTION, square))
    return shapes


def _check(tensors: dict[str, Tensor], sizes: Sizes, encoder: PretrainedEncoder, source: Path) -> None:
    """UserError when the tensors are not those of such a model. Takes out attention that was never used."""
    labels = tensors["down_fc.bias"].numel() if "down_fc.bias" in tensors else 0
    shapes = _shapes(sizes, encoder, labels)
    if not sizes.cnn_depth:
        for name in _ATTENTION:
            tensors.pop(name, None)
    advice = "Its config.json and weights must come from one training of the reference implementation."
    if missing := [name for name in shapes if name not in tensors]:
        raise UserError(f"{source}: lacks {_listed(missing)}. {advice}")
    if unknown := sorted(set(tensors) - set(shapes)):
        raise UserError(f"{source}: holds {_listed(unknown)}, which its config.json has no place for. {advice}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(f"{source}: {name} has the shape {tuple(tensors[name].shape)}, its config.json wants {shape}. "
                            f"{advice}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more tensors" if len(names) > 5 else ""
    return f"{'the tensor' if len(names) == 1 else 'the tensors'} {', '.join(names[:5])}{more}"


def _renamed(tensors: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """The tensors under our names."""
    size = sizes.biaffine_size
    start, start_bias, end, end_bias, of_size = tensors["W"].split([size, 1, size, 1, sizes.size_embed_dim], dim=1)
    head = {
        "biaffine": tensors["multi_head_biaffine.W"] if sizes.n_head else tensors["U"][None],
        "start_score.weight": start, "start_score.bias": (start_bias + end_bias)[:, 0],
        "end_score.weight": end, "size_score.weight": of_size,
        **{ours: tensors[theirs] for theirs, ours in (_OTHERS | _ATTENTION).items() if theirs in tensors},
    }
    encoder = {f"encoder.encoder.{name[5:]}": tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    return encoder | {f"head.{name}": tensor for name, tensor in head.items()}


# --------------------------------------------------------------------------------------------------------------------
# Labels


def _read_labels(folder: Path, given: Path | None, total: int, targets: int) -> LabelSet:
    """The labels in the order of the score planes: the first ``targets`` of ``total`` are the target labels."""
    paths = [given] if given else [path for path in (folder / "labels.txt", *sorted(folder.glob("label_*.json")))
                                   if path.is_file()]
    advice = "Name the label file of the checkpoint's training."
    if not paths:
        raise UserError(f"{folder}: holds no label file (labels.txt or label_*.json). Copy the one of its training there, "
                        "or name it.")
    found = {path: _LabelFile.read(path) for path in paths}
    fitting = {file.names: path for path, file in found.items()
               if len(file.names) == total and file.targets in (None, targets)}
    if not fitting:
        path, file = next(iter(found.items()))
        of_targets = f", {file.targets} of them targets" if file.targets is not None else ""
        raise UserError(f"{path}: holds {len(file.names)} labels besides O{of_targets}, but the checkpoint scores {total}, "
                        f"{targets} of them targets. {advice}")
    if len(fitting) > 1:
        raise UserError(f"{' and '.join(map(str, fitting.values()))}: both have {total} labels besides O. {advice}")
    (names, path), = fitting.items()
    counts = found[path].counts
    return LabelSet(names[:targets], names[targets:], {name: counts.get(name, 1) for name in names[targets:]})


@dataclass(frozen=True)
class _LabelFile:
    """Labels without O in the file's order, which is all that matters; targets: number of those the file calls so."""

    names: tuple[str, ...]
    targets: int | None
    counts: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> _LabelFile:
        if path.suffix != ".json":
            return cls(tuple(read_target_labels(path)), None, {})
        rows = read_json(path, "Name the label file of the checkpoint's training.")
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise UserError(f"{path}:1: a label file holds one JSON object of label -> object, this does not. Copy the label "
                            "file of the training.")
        rows = {name: row for name, row in rows.items() if name != OUTSIDE}
        counts = {name: row["count"] for name, row in rows.items() if isinstance(row.get("count"), int) and row["count"] > 0}
        return cls(tuple(rows), sum(row.get("is_target") is True for row in rows.values()), counts)
