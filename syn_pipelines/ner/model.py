"""The span model: states of tokens, scores of token spans, one sigmoid a label; loss and decoding.

Notation used for shapes: B sentences, L tokens of the longest one, D encoder size, M spans of the batch (all starts
with all ends up to the widest width), K labels (targets first, then extensions).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syn_pipelines.ner.cells import Cells, cells_of, count_cells
from syn_pipelines.ner.data import LabelSet, Sentence
from syn_pipelines.ner.decoding import DECODE_MODES, Span, resolve_overlaps
from syn_pipelines.ner.encoders import ScratchEncoder
from syn_pipelines.ner.head import HeadConfig, SpanHead
from syn_pipelines.ner.pieces import Inputs


@dataclass(frozen=True)
class Batch:
    """Sentences as tensors: what the encoder takes, and the cells to score."""

    inputs: Inputs
    cells: Cells

    @property
    def size(self) -> int:
        """Number of sentences."""
        return len(self.inputs["lengths"])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(moved, self.cells.to(device))


@contextmanager
def fitting_threads(encoder: nn.Module) -> Iterator[None]:
    """One CPU thread for the small matrices of an encoder trained from nothing, torch's own choice for any other.

    Two threads gain little there, and lose much where something else runs: on two cores, one of them busy, 150 training
    steps took 17.1 s with two threads and 7.0 s with one. It also makes a training independent of the number of cores.
    """
    before = torch.get_num_threads()
    if isinstance(encoder, ScratchEncoder):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class NerModel(nn.Module):
    """An encoder and a span head, with what is needed to use them: labels, decode mode and threshold.

    encoder: a ``ScratchEncoder`` or ``PretrainedEncoder``. decode: "flat" (no two spans overlap), "nested" (a
    span may lie inside another, none may cross) or "multilabel" (and carry several labels). threshold: a span
    needs a higher probability.
    """

    def __init__(
        self, encoder: nn.Module, labels: LabelSet, head: HeadConfig, *, decode: str = "flat", threshold: float = 0.5
    ) -> None:
        super().__init__()
        if decode not in DECODE_MODES:
            raise ValueError(f"decode must be one of {DECODE_MODES}, got {decode!r}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a probability, got {threshold!r}")
        self.encoder = encoder
        self.labels = labels
        self.decode = decode
        self.threshold = threshold
        self.head = SpanHead(encoder.output_size, len(labels.names), head)

    @property
    def device(self) -> torch.device:
        return self.head.classify.bias.device

    @property
    def max_width(self) -> int | None:
        """Tokens of the longest span the model can predict, None without a limit."""
        return self.head.config.max_width

    def cells(self, length: int) -> int:
        """Span cells of a sentence of so many tokens: what its scores cost."""
        return count_cells(length, self.max_width, self.head.config.window)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (M, K) of the spans that ``batch.cells`` lists."""
        return self.head(self.encoder(**batch.inputs), batch.cells)

    def collate(self, prepared: Sequence) -> Batch:
        """Sentences from ``encoder.prepare`` to tensors on the model's device."""
        inputs = self.encoder.collate(prepared)
        return Batch(inputs, cells_of(inputs["lengths"].tolist(), self.max_width, self.head.config.window)).to(self.device)

    def gold(self, sentences: Sequence[Sentence], batch: Batch) -> tuple[Tensor, Tensor]:
        """Gold spans as (G,) numbers of spans and (G,) labels; spans wider than the model's widest are left out."""
        index = {name: k for k, name in enumerate(self.labels.names)}
        widest = self.max_width or math.inf
        found = [(b, start, end - 1, index[label]) for b, s in enumerate(sentences) for start, end, label in s.entities
                 if end - start <= widest]
        if not found:
            nothing = torch.zeros(0, dtype=torch.long, device=self.device)
            return nothing, nothing
        sentence, start, last, label = torch.tensor(found, device=self.device).T
        return batch.cells.number(sentence, start, last), label

    def loss(self, batch: Batch, gold: tuple[Tensor, Tensor], label_weights: Tensor) -> Tensor:
        """(B,) losses: cross-entropy summed over the spans of each sentence, so batch mates have no part in it.

        label_weights: (K,).
        """
        spans, labels = gold
        logits = self(batch).float()
        # -log sigmoid(x) = softplus(x) - x: all spans as if empty, then the gold ones put right.
        # In full precision also where the model computes in less.
        with torch.autocast(logits.device.type, enabled=False):
            losses = F.softplus(logits) @ label_weights
        losses = losses.index_put((spans,), -logits[spans, labels] * label_weights[labels], accumulate=True)
        return losses.new_zeros(batch.size).index_add(0, batch.cells.sentence[batch.cells.spans], losses)

    @torch.no_grad()
    def predict(self, sentences: Sequence[Sequence[str]]) -> list[list[Span]]:
        """Entities of one batch of sentences (lists of tokens), each list by position; the model goes to eval mode."""
        self.eval()
        found: list[list[Span]] = [[] for _ in sentences]
        filled = [k for k, tokens in enumerate(sentences) if tokens]
        if not filled:
            return found
        batch = self.collate([self.encoder.prepare(sentences[k]) for k in filled])
        with fitting_threads(self.encoder):
            # Extension labels are cut off before anything else: they can never be decoded.
            scores = self(batch)[:, : len(self.labels.targets)].float().sigmoid()
        hits = (scores > self.threshold).nonzero()
        cells = batch.cells.spans[hits[:, 0]]
        places = zip(*(part[cells].tolist() for part in (batch.cells.sentence, batch.cells.start, batch.cells.last)))
        for (b, start, last), k, score in zip(places, hits[:, 1].tolist(), scores[tuple(hits.T)].tolist()):
            found[filled[b]].append(Span(start, last + 1, self.labels.targets[k], score))
        return [resolve_overlaps(spans, self.decode) for spans in found]

    def save(self, folder: str | Path) -> Path:
        """Write the model as a folder that appears complete or not at all; see ``storage.save_model``."""
        from syn_pipelines.ner.storage import save_model

        return save_model(self, Path(folder))

    @staticmethod
    def load(folder: str | Path, *, base: str | None = None, device: str = "cpu") -> NerModel:
        """Read a saved model in eval mode; see ``storage.load_model``."""
        from syn_pipelines.ner.storage import load_model

        return load_model(Path(folder), base=base, device=device)
