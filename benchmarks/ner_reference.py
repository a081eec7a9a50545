"""The span model's arithmetic stated plainly, to measure `syn_pipelines.ner` against: every cell of an L x L square.

Scores of all (start, last token) pairs of a padded batch, attention over whole rows with a mask that closes all but a
window, a loss over every cell, those of padding and below the diagonal included. For a sentence alone the scores are
those of ``SpanHead`` without a widest width; in a batch they are not, because attention reads the padding.

Notation: B sentences, L tokens of the longest, D encoder size, C channels, K labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syn_pipelines.ner.head import SIZE_OFFSET, SIZES, HeadConfig, SpanHead


class ReferenceModel(nn.Module):
    """An encoder and the plain span head. fused: attention by ``scaled_dot_product_attention``, over the same square."""

    def __init__(self, encoder: nn.Module, labels: int, config: HeadConfig, *, fused: bool = False) -> None:
        super().__init__()
        self.encoder, self.config, self.fused = encoder, config, fused
        size, inner = config.channels, config.channels // config.biaffine_heads
        self.head_mlp = nn.Linear(encoder.output_size, size)
        self.tail_mlp = nn.Linear(encoder.output_size, size)
        self.biaffine = nn.Parameter(torch.empty(config.biaffine_heads, inner, inner, inner))
        self.pair = nn.Parameter(torch.empty(size, 2 * (size + 1) + config.size_embedding))
        self.size = nn.Embedding(SIZES, config.size_embedding)
        self.attention = nn.MultiheadAttention(size, config.attention_heads, batch_first=True)
        self.norm = nn.LayerNorm(size)
        self.classify = nn.Linear(size, labels)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, L, L, K)."""
        states, lengths = self.encoder(**inputs), inputs["lengths"]
        start = F.leaky_relu(self.head_mlp(self._drop(states)))
        end = F.leaky_relu(self.tail_mlp(self._drop(states)))
        scores = self._bilinear(start, end) + self._linear(start, end)
        real = torch.arange(states.shape[1], device=states.device)[None, :] < lengths[:, None]
        scores = scores * (real[:, :, None] & real[:, None, :])[:, None]
        scores = scores.permute(0, 2, 3, 1)
        return self.classify(scores + self._attend(scores))

    def _drop(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.config.dropout, self.training)

    def _bilinear(self, start: Tensor, end: Tensor) -> Tensor:
        """Twice (B, L, C) to (B, C, L, L)."""
        heads = self.config.biaffine_heads
        start, end = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (start, end))
        return torch.einsum("bhxi,hoij,bhyj->bhoxy", start, self.biaffine, end).flatten(1, 2)

    def _linear(self, start: Tensor, end: Tensor) -> Tensor:
        """Twice (B, L, C) to (B, C, L, L): one matrix over the start, the end and the size of each pair."""
        batch, length, _ = start.shape
        start, end = (self._drop(F.pad(x, (0, 1), value=1.0)) for x in (start, end))
        places = torch.arange(length, device=start.device)
        distances = (places[None, :] - places[:, None]).clamp(-SIZE_OFFSET, SIZES - 1 - SIZE_OFFSET)
        sizes = self._drop(self.size(distances + SIZE_OFFSET))
        parts = (start[:, :, None], end[:, None], sizes[None])
        joined = torch.cat([x.expand(batch, length, length, -1) for x in parts], dim=-1)
        return torch.einsum("bxyi,oi->boxy", joined, self.pair)

    def _attend(self, scores: Tensor) -> Tensor:
        """(B, L, L, C) to the same: each start's row is a sequence of its own."""
        batch, length, _, size = scores.shape
        rows = scores.reshape(batch * length, length, size)
        places = torch.arange(length, device=scores.device)
        far = (places[None, :] - places[:, None]).abs() > self.config.window
        mask = torch.zeros(length, length, device=scores.device).masked_fill(far, float("-inf"))
        mixed, _ = self.attention(rows, rows, rows, attn_mask=mask, need_weights=not self.fused)
        return self.norm(mixed).view(batch, length, length, size)

    def loss(self, inputs: dict[str, Tensor], gold: Tensor, label_weights: Tensor) -> Tensor:
        """Mean over the sentences of the summed cross-entropy. gold: (B, L, L, K) of 0 and 1."""
        losses = F.binary_cross_entropy_with_logits(self(inputs), gold, reduction="none")
        return (losses * label_weights).sum(dim=(1, 2, 3)).mean()

    @torch.no_grad()
    def copy_from(self, head: SpanHead) -> None:
        """Take over the weights of our head, so that both give the same scores."""
        for mine, theirs in ((self.head_mlp, head.start), (self.tail_mlp, head.end), (self.size, head.size),
                             (self.attention.out_proj, head.attention.project_out), (self.norm, head.attention.norm),
                             (self.classify, head.classify)):
            mine.load_state_dict(theirs.state_dict())
        self.biaffine.copy_(head.biaffine)
        bias = head.start_score.bias[:, None]
        self.pair.copy_(torch.cat([head.start_score.weight, bias, head.end_score.weight, torch.zeros_like(bias),
                                   head.size_score.weight], dim=1))
        self.attention.in_proj_weight.copy_(head.attention.project_in.weight)
        self.attention.in_proj_bias.copy_(head.attention.project_in.bias)
