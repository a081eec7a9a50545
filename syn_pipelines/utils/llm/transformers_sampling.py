"""Per-row token choice for models in this process: seeded sampling, limits of length, and where a reply is cut.

One batch may mix greedy and sampled rows, temperatures, seeds and limits; no row depends on its neighbours. A sampled
row draws from a generator of its own seed, one number a token, and takes the token at that point of its cumulated
probabilities (in vocabulary order, after temperature and top-p). So a reply is a function of the request, on any device
and in any batch, up to float rounding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from syn_pipelines.utils.llm import Request

# Top-p looks among this many best tokens first; sorting a vocabulary of 150,000 takes longer than a small model's step.
_NUCLEUS_GUESS = 512


@dataclass(frozen=True, eq=False)
class Row:
    """A request ready to run. prompt: token ids; limit: most tokens of the reply, at least 1."""

    request: Request
    prompt: list[int]
    limit: int


@dataclass(frozen=True)
class Written:
    """A reply as tokens. finish, error: as in ``Reply``; held: a grammar held it; closed: the grammar had to close it."""

    row: Row
    tokens: list[int]
    finish: str
    error: str = ""
    held: bool = False
    closed: bool = False


def choose_tokens(scores: Any, requests: Sequence[Request], draw: Callable[[int], float],
                  ) -> tuple[list[int], list[bool]]:
    """The next token of every row, greedily or drawn as its request says.

    Args:
        scores: float32 (rows, vocabulary), minus infinity where a token may not come.
        draw: the random number in [0, 1) of a row, asked for sampled rows only.

    Returns:
        (token of each row, whether its scores were numbers; argmax answers 0 where they are not).
    """
    import torch

    best, tokens = scores.max(dim=-1)
    sampled = [i for i, request in enumerate(requests) if request.temperature > 0]
    if sampled:
        def column(values: list[float]) -> Any:
            return torch.tensor(values, dtype=torch.float64, device=scores.device)[:, None]

        rows = scores if len(sampled) == len(requests) else scores[sampled]
        drawn = draw_tokens(rows, column([requests[i].temperature for i in sampled]),
                            column([requests[i].top_p for i in sampled]), column([draw(i) for i in sampled]))
        tokens[sampled] = drawn
    both = torch.stack([tokens, torch.isfinite(best).to(tokens.dtype)]).tolist()  # one wait for the device
    return both[0], [bool(sound) for sound in both[1]]


def draw_tokens(scores: Any, temperature: Any, top_p: Any, points: Any) -> Any:
    """The token at a point of each row's cumulated probabilities.

    Args:
        scores: float (rows, vocabulary). temperature, top_p, points: float64 (rows, 1); points in [0, 1).

    Returns:
        int64 (rows,).
    """
    import torch

    top = scores.amax(dim=-1, keepdim=True)
    probabilities = torch.softmax((scores - top).double() / temperature, dim=-1)
    if bool((top_p < 1).any()):
        probabilities = probabilities.masked_fill(probabilities < nucleus_floor(probabilities, top_p), 0.0)
    heap = probabilities.cumsum(dim=-1)
    return torch.searchsorted(heap, points * heap[:, -1:], right=True).clamp(max=scores.shape[-1] - 1)[:, 0]


class TokenChooser:
    """Picks the next token of every sampled row itself, so that generate() can go on greedily; a logits processor.

    broken: bool (rows,), rows whose scores were not numbers.
    """

    def __init__(self, rows: Sequence[Row], width: int, device: Any) -> None:
        import torch

        self.broken = torch.zeros(len(rows), dtype=torch.bool, device=device)
        self._requests = [row.request for row in rows]
        self._numbers = [random.Random(request.seed) for request in self._requests]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """scores: float (rows, vocabulary). Returns the same with all but the chosen token at -inf in sampled rows."""
        import torch

        points = [numbers.random() for numbers in self._numbers]
        tokens, sound = choose_tokens(scores, self._requests, points.__getitem__)
        self.broken |= ~torch.tensor(sound, device=self.broken.device)
        sampled = [i for i, request in enumerate(self._requests) if request.temperature > 0]
        if sampled:
            scores = scores.clone()
            scores[sampled] = float("-inf")
            scores[sampled, [tokens[i] for i in sampled]] = 0.0
        return scores


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
