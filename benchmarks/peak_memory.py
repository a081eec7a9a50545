"""How many bytes of tensors a call holds at most, above those that were there before it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile


def peak_of_tensors(call: Callable[[], object], device: str = "cpu") -> int:
    """Run ``call`` once; the highest sum of bytes, every tensor included that an operation makes for itself.

    On the CPU the profiler tells of each allocation and release. What an operation takes from other than torch's
    allocator (the packing of a matrix library, a kernel's stack) is not in it. Tensors that were there before and are
    released by the call do not lower the sum.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = call()  # kept until the profiler has stopped
    del result
    changes = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in changes), initial=0))
