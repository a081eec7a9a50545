"""The processes of one training: this one alone, or those that ``accelerate launch`` has started.

Every process holds the whole model, takes its share of each batch, and adds up gradients with the others, so that all
have the same weights after every step. They never differ in what they know: only the first one writes and speaks.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def launched() -> int:
    """Number of processes that were started for this work."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_helper() -> bool:
    """Whether this process is another than the first of those started together."""
    return launched() > 1 and int(os.environ.get("RANK") or 0) > 0


@dataclass(frozen=True)
class Team:
    """rank: number of this process, from 0. size: of the team. device: where this process computes."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, device: str) -> Team:
        """This process alone on ``device``; or the launched team, each process on a GPU of its own or all on the CPU."""
        import torch

        if launched() == 1:
            return cls(torch.device(device))
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        atexit.register(state.destroy_process_group)
        return cls(state.device, state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence) -> Sequence:
        """The part of these items that falls to this process."""
        return items[self.rank :: self.size]

    def gather(self, shares: list[Any]) -> list[Any]:
        """The items whose shares the processes hold, in their order; all processes must call it."""
        if self.size == 1:
            return shares
        import torch

        parts: list[list[Any]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(parts, shares)
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def add_up(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Replace each gradient by the sum over the processes, and return that of the losses; all must call it."""
        if self.size == 1:
            return loss
        import torch

        weights = list(parameters)
        parts = [loss.reshape(1), *((torch.zeros_like(w) if w.grad is None else w.grad).reshape(-1) for w in weights)]
        flat = torch.cat(parts)
        torch.distributed.all_reduce(flat)
        total, *sums = flat.split([len(part) for part in parts])
        for weight, part in zip(weights, sums):
            weight.grad = part.view_as(weight)
        return total[0]
