"""The span cells of a batch as one flat list, without padding.

A cell is a pair (start, last token) of a sentence. Local attention reads, for each start, the cells of neighbouring last
tokens, so a row (all cells of one start) holds its spans and the few cells before them, which lie below the diagonal
and are no spans. Neither the rest of the lower triangle nor a cell beyond the end of a sentence is ever computed.

Notation: B sentences, L tokens of the longest, W tokens of the widest span, N cells, M of them spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

# Cells whose attention is computed together; each block of this many queries reads as many keys and the window on both
# sides. 32 was the fastest of 8, 16, 32 and 64 on CPU.
BLOCK = 32


@dataclass(frozen=True)
class Cells:
    """Cells of a batch, row by row, rows by sentence and start, the last token rising.

    sentence, start, last: (N,). spans: (M,) which of the N cells are spans. rows: (B * L + 1,) number of spans before
    each row (sentence * L + start), so that the span from ``start`` to ``last`` is number ``rows[row] + last - start``.
    sentences: number of them.
    mask: (N / BLOCK, 1, BLOCK, BLOCK + 2 * window) true where a cell of a block may attend to a cell around it.
    """

    sentence: Tensor
    start: Tensor
    last: Tensor
    spans: Tensor
    rows: Tensor
    mask: Tensor
    sentences: int

    def number(self, sentence: Tensor, start: Tensor, last: Tensor) -> Tensor:
        """Number of a span among the M, for arguments of one shape; the spans must be in the list."""
        longest = (len(self.rows) - 1) // self.sentences
        return self.rows[sentence * longest + start] + last - start

    def to(self, device: torch.device | str) -> Cells:
        """The same cells on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Cells(**{name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
                        for name, value in values.items()})


def cells_of(lengths: Sequence[int], max_width: int | None, window: int) -> Cells:
    """The cells of sentences with these lengths, on the CPU.

    Args:
        lengths: tokens by sentence, each at least 1.
        max_width: tokens of the widest span; None: no limit.
        window: how far attention reads to either side.
    """
    sizes = torch.tensor(lengths)
    longest = int(sizes.max())
    sentence, start = (torch.arange(longest)[None, :] < sizes[:, None]).nonzero().T
    ends = sizes[sentence]
    if max_width is not None:
        ends = torch.minimum(ends, start + max_width)
    first = (start - window).clamp(min=0)
    row, last = _ranges(first, ends)
    spans = (last >= start[row]).nonzero()[:, 0]
    widths = torch.zeros(len(lengths) * longest, dtype=torch.long)
    widths[sentence * longest + start] = ends - start
    rows = F.pad(widths.cumsum(0), (1, 0))
    return Cells(sentence[row], start[row], last, spans, rows, _window_mask(row, window), len(lengths))


def count_cells(length: int, max_width: int | None, window: int) -> int:
    """Cells of one sentence, about: those that reach below its diagonal or over its ends are counted as if there."""
    width = length if max_width is None else min(max_width, length)
    return length * (width + window) - width * (width - 1) // 2


def _ranges(first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """All numbers of the ranges [first, end), one range after the other, and the range each belongs to."""
    counts = end - first
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    offsets = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner)) - offsets[owner] + first[owner]


def _window_mask(row: Tensor, window: int) -> Tensor:
    """Which cells attend to which: of the same row and no more than ``window`` apart; see ``Cells.mask``."""
    spare = -len(row) % BLOCK
    rows = F.pad(row, (window, window + spare), value=-1)
    queries = rows[window : len(rows) - window].view(-1, BLOCK, 1)
    keys = rows.unfold(0, BLOCK + 2 * window, BLOCK)[:, None, :]
    apart = torch.arange(BLOCK + 2 * window)[None, :] - torch.arange(BLOCK)[:, None] - window
    return ((queries == keys) & (apart.abs() <= window))[:, None]
