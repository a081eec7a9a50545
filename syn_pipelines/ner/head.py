"""The KnowFREE span head: biaffine scores of (start, last token) pairs, refined by attention to neighbouring pairs.

Architecture of Lai et al., EMNLP 2025 (arXiv 2501.19093): multi-head biaffine scores and an embedding of the span's
size, then multi-head attention along the last token within a window, then one logit a label. Only the cells listed in
``cells.Cells`` are computed.

Notation for shapes: B sentences, L tokens of the longest, D encoder size, C channels, N cells, M spans, K labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syn_pipelines.ner.cells import BLOCK, Cells
from syn_pipelines.ner.dropout import dropout

# Nearly all cells are empty; starting at a probability of 2 % saves the first hundred steps from learning that.
INITIAL_LOGIT = -4.0
# Distances of last token and start from -15 to 14, those beyond share the outer ones.
SIZES, SIZE_OFFSET = 30, 15
MOST = 1024  # of any size in a configuration; a damaged one must not fill the memory


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of the span head; the defaults are those of the paper.

    max_width: tokens of the widest span, None for no limit. channels: of a cell, and of start and end vectors.
    biaffine_heads: parts of the channels that are scored by themselves. size_embedding: of a span's size. window: cells
    that attention reads to either side, 0 for no attention. attention_heads: must divide the channels.
    """

    max_width: int | None = None
    channels: int = 200
    biaffine_heads: int = 4
    size_embedding: int = 25
    window: int = 3
    attention_heads: int = 10
    dropout: float = 0.4

    def __post_init__(self) -> None:
        for name, least, most in (("max_width", 1, math.inf), ("channels", 1, MOST), ("biaffine_heads", 1, MOST),
                                  ("size_embedding", 1, MOST), ("window", 0, MOST), ("attention_heads", 1, MOST)):
            value = getattr(self, name)
            if (value is not None or name != "max_width") and (type(value) is not int or not least <= value <= most):
                raise ValueError(f"{name} must be a whole number of at least {least} and at most {most}, got {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout!r}")
        for name in ("biaffine_heads", "attention_heads"):
            if self.channels % getattr(self, name):
                raise ValueError(f"{self.channels} channels cannot be split into {getattr(self, name)} {name}")


class SpanHead(nn.Module):
    """States of tokens to logits of spans."""

    def __init__(self, input_size: int, labels: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        size, inner = config.channels, config.channels // config.biaffine_heads
        self.start = nn.Linear(input_size, size)
        self.end = nn.Linear(input_size, size)
        # (heads, out, of the start, of the end)
        self.biaffine = nn.Parameter(torch.empty(config.biaffine_heads, inner, inner, inner))
        self.start_score = nn.Linear(size, size)
        self.end_score = nn.Linear(size, size, bias=False)
        self.size_score = nn.Linear(config.size_embedding, size, bias=False)
        self.size = nn.Embedding(SIZES, config.size_embedding)
        self.attention = LocalAttention(config) if config.window else None
        self.classify = nn.Linear(size, labels)
        nn.init.xavier_normal_(self.biaffine)
        nn.init.constant_(self.classify.bias, INITIAL_LOGIT)

    def forward(self, states: Tensor, cells: Cells) -> Tensor:
        """(B, L or more, D) to logits (M, K), one row for each span of ``cells``."""
        states = states[:, : cells.longest]
        start = F.leaky_relu(self.start(self._drop(states)))
        end = F.leaky_relu(self.end(self._drop(states)))
        scores = self._pair_scores(start, end, cells)
        scores = torch.cat(scores) if self.attention is None else self.attention(scores, cells)
        return self.classify(scores).index_select(0, cells.places)

    def _drop(self, values: Tensor) -> Tensor:
        return dropout(values, self.config.dropout, self.training)

    def _pair_scores(self, start: Tensor, end: Tensor, cells: Cells) -> list[Tensor]:
        """(B, L, C) of starts and of ends to (n, C) of each group's cells: biaffine + start + end + size."""
        start = torch.cat([start, self.start_score(self._drop(start))], dim=-1).flatten(0, 1)
        end = torch.cat([end, self.end_score(self._drop(end))], dim=-1).flatten(0, 1)
        heads, inner = self.biaffine.shape[:2]
        # (heads, of the start, out * of the end); under autocast of the same type as the vectors, also for the gradient.
        weight = self.biaffine.transpose(1, 2).reshape(heads, inner, inner * inner).to(start.dtype)
        parts = []
        for group in cells.groups:
            # (2, heads, blocks, starts or columns, inner): what is multiplied, and what is added.
            left, start_score = F.embedding(group.starts, start).unflatten(-1, (2, heads, inner)).permute(2, 3, 0, 1, 4)
            right, end_score = F.embedding(group.ends, end).unflatten(-1, (2, heads, inner)).permute(2, 3, 0, 1, 4)
            sizes = group.distances.clamp(-SIZE_OFFSET, SIZES - 1 - SIZE_OFFSET) + SIZE_OFFSET
            size_score = self.size_score(self._drop(self.size(sizes))).unflatten(-1, (heads, inner)).permute(2, 0, 1, 3)
            parts.append(_PairScores.apply(left.flatten(1, 2), right.flatten(0, 1), weight, start_score[:, :, None],
                                           end_score[:, :, :, None], size_score[:, None], group.picked).flatten(1))
        return parts


class _PairScores(torch.autograd.Function):
    """Biaffine scores of blocks of starts with their ends, plus ``start + end + size``, at the picked places.

    left: (heads, blocks * starts, inner). right: (heads * blocks, columns, inner). weight: (heads, inner of the start,
    out * inner of the end). start, end, size: what broadcasts to (heads, blocks, columns, starts, out). picked: (n,) of
    the blocks * columns * starts. Gives (n, heads, out).

    A function of its own to keep nothing that is large: the scores are added to in place and picked from, the products
    of starts and weight, 50 times their operands, are made again for the gradient. And as each place is picked once, its
    gradient is put, not added: three times as fast, and repeatable on a GPU.
    """

    @staticmethod
    def forward(ctx, left: Tensor, right: Tensor, weight: Tensor, start: Tensor, end: Tensor, size: Tensor,
                picked: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, weight, picked)
        ctx.shape = torch.broadcast_shapes(start.shape, end.shape)
        scores = torch.bmm(right, _products(left, weight, right).transpose(1, 2)).view(ctx.shape)
        for part in (start, end, size):
            scores += part
        return scores.flatten(1, 3).transpose(0, 1)[picked]

    @staticmethod
    def backward(ctx, grad: Tensor):
        left, right, weight, picked = ctx.saved_tensors
        scores = grad.new_zeros(ctx.shape)
        scores.flatten(1, 3).transpose(0, 1)[picked] = grad
        start, end, size = (scores.sum(dim, keepdim=True) for dim in (2, 3, 1))
        scores = scores.view(len(right), right.shape[1], -1)
        to_right = torch.bmm(scores, _products(left, weight, right))
        products = torch.bmm(scores.transpose(1, 2), right).view(len(left), left.shape[1], -1)
        to_left, to_weight = torch.bmm(products, weight.transpose(1, 2)), torch.bmm(left.transpose(1, 2), products)
        return to_left, to_right, to_weight, start, end, size, None


def _products(left: Tensor, weight: Tensor, right: Tensor) -> Tensor:
    """(heads * blocks, starts * out, inner of the end): starts times weight, see ``_PairScores``."""
    return torch.bmm(left, weight).view(len(right), -1, right.shape[2])


class LocalAttention(nn.Module):
    """Multi-head attention of each cell to the cells of its row no more than ``window`` away, added to the cell."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.heads, self.window = config.attention_heads, config.window
        self.project_in = nn.Linear(config.channels, 3 * config.channels)
        self.project_out = nn.Linear(config.channels, config.channels)
        self.norm = nn.LayerNorm(config.channels)
        nn.init.xavier_uniform_(self.project_in.weight)
        nn.init.zeros_(self.project_in.bias)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, scores: list[Tensor], cells: Cells) -> Tensor:
        """Parts of (N, C) to (N and a few more, C), in working order."""
        size, window = scores[0].shape[1], self.window
        # Rows that nobody reads: the window before the first cell, that after the last, what the last block lacks.
        before, after = scores[0].new_zeros(window, size), scores[0].new_zeros(window - sum(map(len, scores)) % -BLOCK, size)
        rows = torch.cat([before, *scores, after])
        # Three products, not one: the parts of a single result would have to be cut out, and their gradients put together.
        queries, keys, values = (F.linear(rows, weight, bias) for weight, bias in
                                 zip(self.project_in.weight.chunk(3), self.project_in.bias.chunk(3)))
        blocks = (_Blocks.apply(queries, window, 0), _Blocks.apply(keys, window, window), _Blocks.apply(values, window, window))
        mixed = F.scaled_dot_product_attention(*(x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in blocks),
                                               attn_mask=cells.mask)
        mixed = mixed.transpose(1, 2).flatten(2)
        return (_Blocks.apply(rows, window, 0) + self.norm(self.project_out(mixed))).flatten(0, 1)


class _Blocks(torch.autograd.Function):
    """(edge + blocks * BLOCK + edge, C) to (blocks, BLOCK + 2 * halo, C): each block's rows and ``halo`` on both sides.

    A view; and its gradient is one copy and two small sums, where torch would fill with zeros and add row by row. halo:
    0 or edge.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, edge: int, halo: int) -> Tensor:
        ctx.edge, ctx.halo = edge, halo
        return rows[edge - halo : len(rows) - edge + halo].unfold(0, BLOCK + 2 * halo, BLOCK).transpose(1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor):
        edge, halo = ctx.edge, ctx.halo
        result = grad.new_empty(len(grad) * BLOCK + 2 * edge, grad.shape[2])
        own = result[edge:-edge].view(len(grad), BLOCK, -1)
        own.copy_(grad[:, halo : halo + BLOCK])
        result[:edge] = result[-edge:] = 0
        if halo:
            result[:edge], result[-edge:] = grad[0, :halo], grad[-1, -halo:]
            own[1:, :halo] += grad[:-1, -halo:]
            own[:-1, -halo:] += grad[1:, :halo]
        return result, None, None
