"""The span model: states of tokens, biaffine scores of token spans, one sigmoid a label; loss and decoding.

Notation used for shapes: B sentences, L tokens of the longest one, D encoder size, C span channels, W widest span in
tokens, K labels (targets first, then extensions).

Spans are kept as a band, ``[b, start, width - 1]``, rather than as an L x L square: with W = 12 a sentence of 500
tokens has 6,000 cells instead of 250,000, and a cell below the diagonal does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syn_pipelines.ner.data import LabelSet, Sentence
from syn_pipelines.ner.decoding import DECODE_MODES, Span, resolve_overlaps
from syn_pipelines.ner.encoders import Inputs, ScratchEncoder

# Nearly all cells are empty; starting at a probability of 2 % saves the first hundred steps from learning that.
INITIAL_LOGIT = -4.0


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of the span head. max_width: no longer span can be predicted; training takes it from its data."""

    max_width: int
    channels: int = 128
    dropout: float = 0.3


def span_mask(lengths: Tensor, longest: int, max_width: int) -> Tensor:
    """(B,) to (B, L, W): true where the span from l over w + 1 tokens ends inside its sentence."""
    places = torch.arange(longest, device=lengths.device)[:, None]
    widths = torch.arange(max_width, device=lengths.device)[None, :]
    return (places + widths)[None] < lengths[:, None, None]


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


class SpanHead(nn.Module):
    """Biaffine scores of (start token, end token) with an embedding of the width.

    The biaffine form of label k is ``sum_c M[k, c] (u_c . start) (v_c . end)``: the channels c are shared by all
    labels, so that extension labels shape the same span vectors the target labels are read from. (Full tensors, four
    groups of channels, gave the same F1 and took 1.4 times as long to train.)
    """

    def __init__(self, input_size: int, labels: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        size = config.channels
        self.start = nn.Linear(input_size, size)
        self.end = nn.Linear(input_size, size)
        self.start_factor = nn.Linear(size, size)
        self.end_factor = nn.Linear(size, size)
        self.start_linear = nn.Linear(size, size, bias=False)
        self.end_linear = nn.Linear(size, size, bias=False)
        self.width = nn.Embedding(config.max_width, size)
        self.classify = nn.Linear(size, labels)
        nn.init.normal_(self.width.weight, std=0.1)
        nn.init.constant_(self.classify.bias, INITIAL_LOGIT)

    def _band(self, states: Tensor) -> Tensor:
        """(B, L, C) to (B, L, W, C): the states of the W tokens from each place on, zeros past the end."""
        padded = F.pad(states, (0, 0, 0, self.config.max_width - 1))
        return padded.unfold(1, self.config.max_width, 1).transpose(2, 3)

    def forward(self, states: Tensor) -> Tensor:
        """(B, L, D) to logits (B, L, W, K); cells of spans that leave the sentence hold nonsense (see span_mask)."""
        start = F.dropout(F.leaky_relu(self.start(states)), self.config.dropout, self.training)
        end = F.dropout(F.leaky_relu(self.end(states)), self.config.dropout, self.training)
        spans = self.start_factor(start)[:, :, None] * self._band(self.end_factor(end))
        spans = spans + self.start_linear(start)[:, :, None] + self._band(self.end_linear(end)) + self.width.weight
        return self.classify(F.dropout(F.gelu(spans), self.config.dropout, self.training))


class NerModel(nn.Module):
    """An encoder and a span head, with what is needed to use them: labels, decode mode and threshold.

    encoder: a ``ScratchEncoder`` or ``PretrainedEncoder``. decode: "flat" (no two spans overlap) or "nested" (a span
    may lie inside another or carry two labels, none may cross). threshold: a span needs a higher probability.
    """

    def __init__(
        self, encoder: nn.Module, labels: LabelSet, head: HeadConfig, *, decode: str = "flat", threshold: float = 0.5
    ) -> None:
        super().__init__()
        if decode not in DECODE_MODES:
            raise ValueError(f"decode must be one of {DECODE_MODES}, got {decode!r}")
        self.encoder = encoder
        self.labels = labels
        self.decode = decode
        self.threshold = threshold
        self.head = SpanHead(encoder.output_size, len(labels.names), head)

    @property
    def device(self) -> torch.device:
        return self.head.classify.bias.device

    @property
    def max_width(self) -> int:
        """Tokens of the longest span the model can predict."""
        return self.head.config.max_width

    def forward(self, inputs: Inputs) -> Tensor:
        """Collated sentences to logits (B, L, W, K)."""
        return self.head(self.encoder(**inputs))

    def collate(self, prepared: Sequence) -> Inputs:
        """Sentences from ``encoder.prepare`` to tensors on the model's device."""
        return {name: tensor.to(self.device) for name, tensor in self.encoder.collate(prepared).items()}

    def gold(self, sentences: Sequence[Sentence]) -> Tensor:
        """(B, L, W, K) of 0 and 1; spans wider than W have no cell and are left out."""
        index = {name: k for k, name in enumerate(self.labels.names)}
        longest = max(len(s.tokens) for s in sentences)
        cells = torch.zeros(len(sentences), longest, self.max_width, len(index))
        for b, sentence in enumerate(sentences):
            for start, end, label in sentence.entities:
                if end - start <= self.max_width:
                    cells[b, start, end - start - 1, index[label]] = 1.0
        return cells.to(self.device)

    def loss(self, inputs: Inputs, gold: Tensor, label_weights: Tensor) -> Tensor:
        """(B,) losses: cross-entropy summed over the real cells of each sentence, so batch mates have no part in it.

        label_weights: (K,).
        """
        logits = self(inputs)
        cells = F.binary_cross_entropy_with_logits(logits, gold, reduction="none") @ label_weights
        return (cells * span_mask(inputs["lengths"], *cells.shape[1:])).sum(dim=(1, 2))

    @torch.no_grad()
    def predict(self, sentences: Sequence[Sequence[str]]) -> list[list[Span]]:
        """Entities of one batch of sentences (lists of tokens), each list by position; the model goes to eval mode."""
        self.eval()
        found: list[list[Span]] = [[] for _ in sentences]
        filled = [k for k, tokens in enumerate(sentences) if tokens]
        if not filled:
            return found
        inputs = self.collate([self.encoder.prepare(sentences[k]) for k in filled])
        with fitting_threads(self.encoder):
            # Extension planes are cut off before anything else: they can never be decoded.
            scores = self(inputs)[..., : len(self.labels.targets)].float().sigmoid()
        scores = scores * span_mask(inputs["lengths"], *scores.shape[1:3])[..., None]
        hits = (scores > self.threshold).nonzero()
        values = scores[tuple(hits.T)].tolist()
        for (b, start, width, k), score in zip(hits.tolist(), values):
            found[filled[b]].append(Span(start, start + width + 1, self.labels.targets[k], score))
        return [resolve_overlaps(spans, nested=self.decode == "nested") for spans in found]

    def save(self, folder: str | Path) -> Path:
        """Write the model as a folder that appears complete or not at all; see ``storage.save_model``."""
        from syn_pipelines.ner.storage import save_model

        return save_model(self, Path(folder))

    @staticmethod
    def load(folder: str | Path, *, base: str | None = None, device: str = "cpu") -> NerModel:
        """Read a saved model in eval mode; see ``storage.load_model``."""
        from syn_pipelines.ner.storage import load_model

        return load_model(Path(folder), base=base, device=device)
