"""The span cells of a batch as flat lists, without padding.

A cell is a pair (start, last token) of a sentence. Local attention reads, for each start, the cells of neighbouring last
tokens, so a row (all cells of one start) holds its spans and the few cells before them, which lie below the diagonal
and are no spans. Neither the rest of the lower triangle nor a cell beyond the end of a sentence is ever computed.

Notation: B sentences, L tokens of the longest, W tokens of the widest span, N cells, M of them spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Cells whose attention is computed together; each block of this many queries reads as many keys and the window on both
# sides. 32 was the fastest of 8, 16, 32 and 64 on CPU.
BLOCK = 32
# Starts whose biaffine scores are computed together, with all ends that one of them reaches.
STARTS = 16


@dataclass(frozen=True)
class Group:
    """Blocks of starts of one sentence each, with the ends that one of them reaches; columns: of the block with most.

    starts: (blocks, STARTS), ends: (blocks, columns) token numbers, sentence * L + place; those that would lie outside of
    the sentence repeat its first or last token. distances: (columns, STARTS) last token less start, of every block.
    picked: (n,) which of the blocks * columns * STARTS pairs are cells.
    """

    starts: Tensor
    ends: Tensor
    distances: Tensor
    picked: Tensor


@dataclass(frozen=True)
class Cells:
    """Cells of a batch, row by row, rows by sentence and start, the last token rising.

    sentence, start, last: (N,). spans: (M,) which of the N cells are spans. rows: (B * L + 1,) number of spans before
    each row (sentence * L + start), so that the span from ``start`` to ``last`` is number ``rows[row] + last - start``.
    sentences: number of them.
    groups: how their biaffine scores are computed; all their picked cells one after the other are the N cells in another
    order, the working order. places: (M,) where in the working order each span stands.
    mask: (N / BLOCK, 1, BLOCK, BLOCK + 2 * window) true where a cell of a block, in working order, may attend to a cell
    around it.
    """

    sentence: Tensor
    start: Tensor
    last: Tensor
    spans: Tensor
    rows: Tensor
    groups: tuple[Group, ...]
    places: Tensor
    mask: Tensor
    sentences: int

    @property
    def longest(self) -> int:
        """L."""
        return (len(self.rows) - 1) // self.sentences

    def number(self, sentence: Tensor, start: Tensor, last: Tensor) -> Tensor:
        """Number of a span among the M, for arguments of one shape; the spans must be in the list."""
        return self.rows[sentence * self.longest + start] + last - start

    def to(self, device: torch.device | str) -> Cells:
        """The same cells on another device."""
        return _moved(self, device)


def _moved(value: Any, device: torch.device | str) -> Any:
    """A tensor, or a tuple or dataclass of such, on another device; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_moved(part, device) for part in value)
    if is_dataclass(value):
        return type(value)(**{f.name: _moved(getattr(value, f.name), device) for f in fields(value)})
    return value


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
    sentence, start = sentence[row], start[row]
    groups, order = _groups(sizes, longest, window, sentence, start, last)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return Cells(sentence, start, last, spans, rows, groups, places[spans], _window_mask(row[order], window), len(lengths))


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


def _groups(
    sizes: Tensor, longest: int, window: int, sentence: Tensor, start: Tensor, last: Tensor
) -> tuple[tuple[Group, ...], Tensor]:
    """The groups of these cells, and (N,) the numbers of the cells in working order."""
    counts = -(-sizes // STARTS)
    owner, turn = _ranges(torch.zeros_like(counts), counts)  # of each block: its sentence, and which of its blocks
    block = (counts.cumsum(0) - counts)[sentence] + start // STARTS  # (N,)
    column = last - start // STARTS * STARTS + window
    columns = torch.zeros_like(turn).scatter_reduce(0, block, column + 1, "amax")
    # The blocks of a group reach over fewer than twice as many ends as its narrowest.
    kinds = columns.log2().long()
    place = torch.empty_like(turn)
    groups, order = [], []
    for kind in kinds.unique().tolist():
        blocks = (kinds == kind).nonzero()[:, 0]
        cells = (kinds[block] == kind).nonzero()[:, 0]
        place[blocks] = torch.arange(len(blocks))
        width = int(columns[blocks].max())
        token, first = torch.arange(longest * len(sizes)).view(-1, longest)[owner[blocks]], turn[blocks, None] * STARTS
        final = sizes[owner[blocks], None] - 1
        starts, ends = torch.arange(STARTS), torch.arange(width) - window
        groups.append(Group(token.gather(1, (first + starts).minimum(final)),
                            token.gather(1, (first + ends).clamp(min=0).minimum(final)),
                            ends[:, None] - starts, (place[block[cells]] * width + column[cells]) * STARTS + start[cells] % STARTS))
        order.append(cells)
    return tuple(groups), torch.cat(order)


def _window_mask(row: Tensor, window: int) -> Tensor:
    """Which cells attend to which: of the same row and no more than ``window`` apart; see ``Cells.mask``."""
    spare = -len(row) % BLOCK
    rows = F.pad(row, (window, window + spare), value=-1)
    queries = rows[window : len(rows) - window].view(-1, BLOCK, 1)
    keys = rows.unfold(0, BLOCK + 2 * window, BLOCK)[:, None, :]
    apart = torch.arange(BLOCK + 2 * window)[None, :] - torch.arange(BLOCK)[:, None] - window
    return ((queries == keys) & (apart.abs() <= window))[:, None]
