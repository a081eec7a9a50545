"""What the span model's benchmarks run on: batches of given lengths with random words and gold spans, random encoders."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from syn_pipelines.ner.data import LabelSet, Sentence
from syn_pipelines.utils.records import read_sentences

# Characters of each sentence of the Weibo training set, in its order.
LENGTHS = Path(__file__).with_name("ner_lengths.txt")
TARGETS, EXTENSIONS = 8, 25
PIECES = 4000  # vocabulary of the random encoders
# The width cap of our trainer, see training.MIN_WIDTH.
CAPPED_WIDTH = 12


@dataclass(frozen=True)
class Work:
    """One batch. inputs: what the encoder takes; gold_square: (B, L, L, K) of 0 and 1, what the plain side reads."""

    lengths: tuple[int, ...]
    inputs: dict[str, Tensor]
    sentences: list[Sentence]
    gold_square: Tensor


class GivenStates(nn.Module):
    """No encoder: the states are the input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.output_size = size

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        return states


class Bert(nn.Module):
    """A BERT encoder with random weights, one piece a token and no special tokens."""

    def __init__(self, layers: int, hidden: int, heads: int = 4) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(vocab_size=PIECES, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                            intermediate_size=4 * hidden)
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.output_size = hidden

    def prepare(self, tokens: Sequence[str]) -> Tensor:
        """(l,) ids of one sentence."""
        return torch.tensor([ord(token[0]) % PIECES for token in tokens])

    def collate(self, prepared: Sequence[Tensor]) -> dict[str, Tensor]:
        """ids: (B, L), lengths: (B,)."""
        ids = nn.utils.rnn.pad_sequence(list(prepared), batch_first=True)
        return {"ids": ids, "lengths": torch.tensor([len(one) for one in prepared])}

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]
        return self.encoder(input_ids=ids, attention_mask=real.long()).last_hidden_state


def label_set() -> LabelSet:
    """As many labels as the fused Weibo data have: 8 targets, 25 extensions."""
    return LabelSet(tuple(f"T{k}" for k in range(TARGETS)), tuple(f"X{k}" for k in range(EXTENSIONS)))


def read_lengths(files: Sequence[str] | None) -> list[int]:
    """Tokens of each sentence, in the order of the files."""
    if not files:
        return [int(number) for number in LENGTHS.read_text(encoding="utf-8").split()]
    return [len(sentence["text"]) for name in files for sentence in read_sentences(Path(name)) if sentence["text"]]


def shuffled_batches(lengths: Sequence[int], size: int, count: int) -> list[tuple[int, ...]]:
    """The first batches of an epoch in random order, as the plain side's trainer makes them."""
    order = random.Random(0).sample(list(lengths), len(lengths))
    return list(islice(zip(*[iter(order)] * size), count))


def gold_of(lengths: Sequence[int], chance: random.Random) -> list[Sentence]:
    """A target span or two and an extension span for every second token, as fused labels have them."""
    sentences = []
    for length in lengths:
        starts = [(chance.randrange(length), f"T{chance.randrange(TARGETS)}") for _ in range(2)]
        starts += [(start, f"X{chance.randrange(EXTENSIONS)}") for start in range(0, length, 2)]
        spans = tuple((start, min(length, start + chance.randint(1, 4)), label) for start, label in starts)
        sentences.append(Sentence(("x",) * length, tuple(dict.fromkeys(spans))))
    return sentences


def work_of(lengths: tuple[int, ...], encoder: nn.Module, labels: LabelSet) -> Work:
    """Random states or ids, random gold spans."""
    sentences, longest = gold_of(lengths, random.Random(sum(lengths))), max(lengths)
    square = torch.zeros(len(lengths), longest, longest, len(labels.names))
    for b, sentence in enumerate(sentences):
        for start, end, label in sentence.entities:
            square[b, start, end - 1, labels.names.index(label)] = 1
    if isinstance(encoder, Bert):
        tensor = {"ids": torch.randint(PIECES, (len(lengths), longest))}
    else:
        tensor = {"states": torch.randn(len(lengths), longest, encoder.output_size).requires_grad_()}
    return Work(lengths, {**tensor, "lengths": torch.tensor(lengths)}, sentences, square)
