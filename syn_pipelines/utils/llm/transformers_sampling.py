"""Per-row token choice for the transformers backend: seeded sampling, limits of length, and where a reply is cut.

One batch may mix greedy and sampled rows, temperatures, seeds and limits; no row depends on its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from syn_pipelines.utils.llm import Request

# Top-p looks among this many best tokens first; sorting a vocabulary of 150,000 takes longer than a small model's step.
_NUCLEUS_GUESS = 512


@dataclass(frozen=True)
class Row:
    """A request ready to run. prompt: token ids; limit: most tokens of the reply, at least 1."""

    request: Request
    prompt: list[int]
    limit: int


class TokenChooser:
    """Picks the next token of every sampled row itself, so that generate() can go on greedily.

    Each row draws from a generator of its own seed, one number a token, and takes the token at that point of its
    cumulated probabilities (in vocabulary order, after temperature and top-p). So a reply is a function of the request,
    on any device and in any batch, up to float rounding. Rows with temperature 0 pass through.

    broken: bool (rows,), rows whose scores were not numbers; checked here because argmax answers 0 for them.
    """

    def __init__(self, rows: Sequence[Row], width: int, device: Any) -> None:
        import torch

        self.broken = torch.zeros(len(rows), dtype=torch.bool, device=device)
        self._width = width
        heat = [max(row.request.temperature, 0.0) for row in rows]
        self._any_sampled = any(heat)
        self._cut_tail = any(row.request.top_p < 1 for row in rows)
        if not self._any_sampled:
            return
        steps = max(row.limit for row in rows)
        draws = []
        for row in rows:
            numbers = random.Random(row.request.seed)
            draws.append([numbers.random() for _ in range(steps)])
        self._draws = torch.tensor(draws, dtype=torch.float64, device=device)  # rows x steps
        self._sampled = torch.tensor([value > 0 for value in heat], device=device)
        self._heat = torch.tensor([value or 1.0 for value in heat], dtype=torch.float64, device=device)[:, None]
        self._top_p = torch.tensor([row.request.top_p for row in rows], dtype=torch.float64, device=device)[:, None]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """scores: float (rows, vocabulary). Returns the same with all but the drawn token at -inf in sampled rows."""
        import torch

        top = scores.amax(dim=-1, keepdim=True)
        self.broken |= ~torch.isfinite(top[:, 0])
        if not self._any_sampled:
            return scores
        step = min(input_ids.shape[1] - self._width, self._draws.shape[1] - 1)
        probabilities = torch.softmax((scores - top).double() / self._heat, dim=-1)
        if self._cut_tail:
            probabilities = probabilities.masked_fill(probabilities < nucleus_floor(probabilities, self._top_p), 0.0)
        heap = probabilities.cumsum(dim=-1)
        point = self._draws[:, step : step + 1] * heap[:, -1:]
        drawn = torch.searchsorted(heap, point, right=True).clamp(max=scores.shape[-1] - 1)
        only = torch.full_like(scores, float("-inf")).scatter_(1, drawn, 0.0)
        return torch.where(self._sampled[:, None], only, scores)


class RowStop:
    """Stops a row at its own limit, or when its scores broke."""

    def __init__(self, rows: Sequence[Row], width: int, chooser: TokenChooser) -> None:
        import torch

        self._last = torch.tensor([width + row.limit for row in rows], device=chooser.broken.device)
        self._chooser = chooser

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Bool (rows,): which rows are done."""
        return (self._last <= input_ids.shape[1]) | self._chooser.broken


def nucleus_floor(probabilities: Any, top_p: Any) -> Any:
    """Smallest probability inside the nucleus of each row: the fewest best tokens that together reach ``top_p``.

    Tokens as likely as the last one belong to it as well, so the order of a sort among ties (frequent with bfloat16
    scores) decides nothing. The best token always belongs to it.

    Args:
        probabilities: float (rows, vocabulary), each row sums to 1.
        top_p: float (rows, 1).

    Returns:
        float (rows, 1).
    """
    size = probabilities.shape[-1]
    few = min(size, _NUCLEUS_GUESS)
    best = probabilities.topk(few, dim=-1).values
    if few < size and bool(((best.sum(dim=-1, keepdim=True) < top_p) & (top_p < 1)).any()):
        best = probabilities.sort(dim=-1, descending=True).values
    inside = (best.cumsum(dim=-1) - best) < top_p
    floor = best.gather(1, (inside.sum(dim=-1, keepdim=True) - 1).clamp(min=0))
    return floor.masked_fill(top_p >= 1, 0.0)


def cut_reply(tokens: Sequence[int], limit: int, ends: Iterable[int]) -> tuple[list[int], str]:
    """The tokens before the first end token, and "stop"; without one among the first ``limit``, those and "length"."""
    stops = set(ends)
    kept = list(tokens[:limit])
    for position, token in enumerate(kept):
        if token in stops:
            return kept[:position], "stop"
    return kept, "length"
