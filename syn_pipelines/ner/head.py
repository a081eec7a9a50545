"""The KnowFREE span head: biaffine scores of (start, last token) pairs, refined by attention to neighbouring pairs.

Architecture of Lai et al., EMNLP 2025 (arXiv 2501.19093): multi-head biaffine scores and an embedding of the span's
size, then multi-head attention along the last token within a window, then one logit a label. Only the cells listed in
``cells.Cells`` are computed.

Notation for shapes: B sentences, L tokens of the longest, D encoder size, C channels, N cells, M spans, K labels.
"""

from __future__ import annotations

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
# Starts whose biaffine scores are computed together when spans have a widest width.
STARTS = 16


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
        """(B, L, D) to logits (M, K), one row for each span of ``cells``."""
        start = F.leaky_relu(self.start(self._drop(states)))
        end = F.leaky_relu(self.end(self._drop(states)))
        scores = self._pair_scores(start, end, cells)
        if self.attention is None:
            scores = scores[cells.spans]
        else:
            scores = self.attention(scores, cells)
        return self.classify(scores)

    def _drop(self, values: Tensor) -> Tensor:
        return dropout(values, self.config.dropout, self.training)

    def _pair_scores(self, start: Tensor, end: Tensor, cells: Cells) -> Tensor:
        """(B, L, C) of starts and of ends to (N, C): biaffine + start + end + size."""
        grid = _Grid.of(start.shape[1], self.config)
        heads = self.config.biaffine_heads
        batch, length, size = start.shape
        inner = size // heads
        spare = grid.blocks * grid.starts - length
        # (B, L, C) -> (heads, B * blocks * starts, inner) -> (heads, B * blocks, inner of the end, starts * out)
        left = F.pad(start, (0, 0, 0, spare)).view(-1, heads, inner).transpose(0, 1)
        left = torch.bmm(left, self.biaffine.transpose(1, 2).transpose(2, 3).reshape(heads, inner, inner * inner))
        left = left.view(heads, batch * grid.blocks, grid.starts, inner, inner).transpose(2, 3)
        right = grid.ends_of(end).view(batch * grid.blocks, grid.columns, heads, inner).permute(2, 0, 1, 3)
        pairs = torch.matmul(right, left.reshape(heads, batch * grid.blocks, inner, grid.starts * inner))
        pairs = pairs.view(heads, batch * grid.blocks, grid.columns, grid.starts, inner)
        start_score = F.pad(self.start_score(self._drop(start)), (0, 0, 0, spare))
        pairs += start_score.view(batch * grid.blocks, 1, grid.starts, heads, inner).permute(3, 0, 1, 2, 4)
        end_score = grid.ends_of(self.end_score(self._drop(end)))
        pairs += end_score.view(batch * grid.blocks, grid.columns, 1, heads, inner).permute(3, 0, 1, 2, 4)
        sizes = self.size_score(self._drop(self.size(grid.sizes(start.device))))
        pairs += sizes.view(1, grid.columns, grid.starts, heads, inner).permute(3, 0, 1, 2, 4)
        block, place = grid.find(cells)
        pairs = pairs.view(heads, batch * grid.blocks, grid.columns * grid.starts, inner)
        return _Pick.apply(pairs, block, place).reshape(-1, size)


@dataclass(frozen=True)
class _Grid:
    """How starts are put into blocks, whose scores with all ends in reach are one matrix product.

    Without a limit of the width a single block holds all starts and ends. left: ends before a block's first start.
    """

    starts: int
    blocks: int
    left: int
    columns: int

    @classmethod
    def of(cls, length: int, config: HeadConfig) -> _Grid:
        if config.max_width is None or 2 * (config.max_width + STARTS) > length:
            return cls(length, 1, 0, length)
        return cls(STARTS, -(-length // STARTS), config.window, STARTS + config.max_width - 1 + config.window)

    def ends_of(self, ends: Tensor) -> Tensor:
        """(B, L, C) to (B, blocks, columns, C): the ends in reach of each block."""
        if self.blocks == 1 and not self.left:
            return ends[:, None]
        right = (self.blocks - 1) * self.starts + self.columns - self.left - ends.shape[1]
        return F.pad(ends, (0, 0, self.left, right)).unfold(1, self.columns, self.starts).transpose(2, 3).contiguous()

    def sizes(self, device: torch.device) -> Tensor:
        """(columns, starts) numbers of the size embedding."""
        last = torch.arange(self.columns, device=device)[:, None] - self.left
        return (last - torch.arange(self.starts, device=device)).clamp(-SIZE_OFFSET, SIZES - 1 - SIZE_OFFSET) + SIZE_OFFSET

    def find(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """(N,) block and (N,) place of each cell among its block's columns * starts."""
        block = cells.start // self.starts
        place = (cells.last - block * self.starts + self.left) * self.starts + cells.start % self.starts
        return cells.sentence * self.blocks + block, place


class _Pick(torch.autograd.Function):
    """``grid[:, block, place]`` as (N, heads, inner). Each place is picked once, so that the gradient is put, not added:
    three times as fast, and repeatable on a GPU."""

    @staticmethod
    def forward(ctx, grid: Tensor, block: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(block, place)
        ctx.shape = grid.shape
        return grid.permute(1, 2, 0, 3)[block, place]

    @staticmethod
    def backward(ctx, grad: Tensor):
        block, place = ctx.saved_tensors
        result = grad.new_zeros(ctx.shape)
        result.permute(1, 2, 0, 3)[block, place] = grad
        return result, None, None


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

    def forward(self, scores: Tensor, cells: Cells) -> Tensor:
        """(N, C) of all cells to (M, C) of the spans."""
        count, size = scores.shape
        spare = -count % BLOCK
        queries, keys, values = self.project_in(scores).chunk(3, dim=-1)
        queries = F.pad(queries, (0, 0, 0, spare)).view(-1, BLOCK, self.heads, size // self.heads).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(queries, self._around(keys, spare), self._around(values, spare),
                                               attn_mask=cells.mask)
        mixed = mixed.transpose(1, 2).reshape(-1, size)[cells.spans]
        return scores[cells.spans] + self.norm(self.project_out(mixed))

    def _around(self, cells: Tensor, spare: int) -> Tensor:
        """(N, C) to (blocks, heads, BLOCK + 2 * window, C / heads): what each block of queries may read."""
        padded = F.pad(cells, (0, 0, self.window, self.window + spare))
        blocks = padded.unfold(0, BLOCK + 2 * self.window, BLOCK)
        return blocks.view(len(blocks), self.heads, -1, blocks.shape[-1]).transpose(2, 3)
