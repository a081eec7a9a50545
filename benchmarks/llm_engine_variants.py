"""Six ways to get the same replies out of a model, measured alike.

The baselines (``reference``, ``sorted``, ``continuous``) call transformers themselves; the others go through the
project's backend. All of them turn messages into tokens and tokens into text within the time that is measured, and
passes of the model are counted by one hook on the model, whoever calls it.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from syn_pipelines.utils.llm import Reply, Request
from syn_pipelines.utils.llm.checkpoints import quiet
from syn_pipelines.utils.llm.decode_loop import Meter
from syn_pipelines.utils.llm.transformers_backend import TransformersBackend

VARIANTS = ("reference", "sorted", "continuous", "ours_free", "ours_grammar", "ours_forced")
# ours_forced comes first: its replies say how long the replies of the others are.
ORDER = ("ours_forced", "reference", "sorted", "continuous", "ours_free", "ours_grammar")
# Of transformers' continuous batching: tokens of a page and of a pass. Pages of 16 to 128 and passes of 256 to 2048 were
# tried on a CPU, and none was faster.
_PAGE = 32
_BATCH_TOKENS = 512


@dataclass
class Measured:
    """One variant over all requests once. padding: share of the positions given to the model that held no token;
    mask_s: of ``seconds``, spent on grammars; peak_mb: of the process (CPU) or of the GPU's tensors, None if unknown."""

    replies: dict[str, Reply]
    seconds: float = 0.0
    model_steps: int = 0
    padding: float = 0.0
    mask_s: float = 0.0
    peak_mb: float | None = None

    @property
    def tokens(self) -> int:
        """Of all replies together."""
        return sum(self.lengths.values())

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of each reply by its request."""
        return {reply.id: reply.completion_tokens for reply in self.replies.values()}


class PassCounter:
    """Counts the passes of a model and the token positions in them, from the shape of what goes in."""

    def __init__(self, network: Any) -> None:
        self.passes = self.positions = self.empty = 0
        network.base_model.register_forward_pre_hook(self._see, with_kwargs=True)

    def reset(self) -> None:
        """Start from zero."""
        self.passes = self.positions = self.empty = 0

    def _see(self, _: Any, args: tuple, kwargs: dict) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self.passes += 1
        self.positions += ids.numel()
        if "cu_seq_lens_q" in kwargs:  # continuous batching may round the length of a pass up
            self.empty += ids.numel() - int(kwargs["cu_seq_lens_q"].max())


class Baselines:
    """transformers' own ways. ``batch_size``: rows of a batch, or requests under way."""

    def __init__(self, network: Any, tokenizer: Any, batch_size: int) -> None:
        self._network, self._tokenizer, self._batch_size = network, tokenizer, batch_size

    def reference(self, requests: Sequence[Request], lengths: Mapping[str, int]) -> Iterator[Reply]:
        """Batches in file order; the limit is five times the characters of the longest prompt of the batch."""
        prompts = [(request, self._encode(request)) for request in requests]
        for first in range(0, len(prompts), self._batch_size):
            batch = prompts[first:first + self._batch_size]
            limit = 5 * max(len(request.messages[-1]["content"]) for request, _ in batch)
            yield from self._batch(batch, lengths, limit)

    def sorted(self, requests: Sequence[Request], lengths: Mapping[str, int]) -> Iterator[Reply]:
        """Longest prompts first; the limit is the highest that a request of the batch has of its own."""
        prompts = [(request, self._encode(request)) for request in requests]
        prompts.sort(key=lambda pair: len(pair[1]), reverse=True)
        for first in range(0, len(prompts), self._batch_size):
            batch = prompts[first:first + self._batch_size]
            yield from self._batch(batch, lengths, max(request.max_new_tokens for request, _ in batch))

    def continuous(self, requests: Sequence[Request], lengths: Mapping[str, int]) -> Iterator[Reply]:
        """transformers' continuous batching with pages and shared beginnings."""
        from transformers import ContinuousBatchingConfig

        prompts = [(request, self._encode(request)) for request in requests]
        longest = max(len(ids) + lengths[request.id] for request, ids in prompts)
        manager = self._network.init_continuous_batching(
            generation_config=self._config(max(lengths[request.id] for request, _ in prompts)),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE, num_blocks=self._batch_size * (longest // _PAGE + 2), max_batch_tokens=_BATCH_TOKENS,
                max_requests_per_batch=self._batch_size,
                use_cuda_graph=False))  # a pass that is replayed from a graph is not seen by the hook
        manager.start()
        try:
            for request, ids in prompts:
                manager.add_request(ids, request_id=request.id, max_new_tokens=lengths[request.id])
            for _ in prompts:
                result = manager.get_result(timeout=300)
                if result is None or result.error:
                    raise RuntimeError(f"continuous batching gave no reply: {result.error if result else 'time-out'}")
                yield self._reply(result.request_id, len(result.prompt_ids), result.generated_tokens)
        finally:
            manager.stop(block=True)

    def _encode(self, request: Request) -> list[int]:
        text = self._tokenizer.apply_chat_template([dict(m) for m in request.messages], tokenize=False,
                                                   add_generation_prompt=True)
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _reply(self, identity: str, prompt_tokens: int, tokens: list[int]) -> Reply:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Reply(identity, text, "length", prompt_tokens, len(tokens))

    def _config(self, limit: int) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=self._tokenizer.eos_token_id,
                                pad_token_id=self._tokenizer.pad_token_id)

    def _batch(self, batch: Sequence[tuple[Request, list[int]]], lengths: Mapping[str, int],
               limit: int) -> Iterator[Reply]:
        """One call of plain ``generate``, padded on the left. Every row stops at its own length, and the batch with its
        longest row, as with a model that ends its replies itself."""
        import torch
        from transformers import StoppingCriteriaList

        device, pad = self._network.device, self._tokenizer.pad_token_id
        width = max(len(ids) for _, ids in batch)
        rows = [[pad] * (width - len(ids)) + ids for _, ids in batch]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for _, ids in batch]
        ends = torch.tensor([width + lengths[request.id] for request, _ in batch], device=device)
        with torch.inference_mode():
            output = self._network.generate(
                input_ids=torch.tensor(rows, device=device), attention_mask=torch.tensor(mask, device=device),
                generation_config=self._config(limit),
                stopping_criteria=StoppingCriteriaList([lambda ids, scores, **_: ends <= ids.shape[1]]))
        for (request, ids), tokens in zip(batch, output[:, width:].tolist()):
            yield self._reply(request.id, len(ids), tokens[:lengths[request.id]])


@contextmanager
def peak_memory(device: str, result: Measured) -> Iterator[None]:
    """Fill in ``result.peak_mb``: tensors on the GPU, or the process's resident memory on Linux."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        yield
        result.peak_mb = torch.cuda.max_memory_allocated() / 2**20
        return
    can_reset = _reset_peak()
    yield
    result.peak_mb = _peak_mb() if can_reset else None


def _reset_peak() -> bool:
    """Give freed memory back and let the kernel's high-water mark begin anew; False where that cannot be done."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return False
    return True


def _peak_mb() -> float | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None


class Bench:
    """The six variants over one copy of the weights.

    Args:
        folder: of the checkpoint. batch_size: rows of a batch, or requests under way. device: "cpu" or "cuda".
    """

    def __init__(self, folder: Path, *, batch_size: int, device: str) -> None:
        self._device = device
        self.backend = TransformersBackend(str(folder), batch_size=batch_size)
        self.backend._load()  # what follows needs the model itself, which a backend keeps to itself
        self.network = self.backend._network
        self._asking = copy.copy(self.backend)  # the same weights, but the model is asked for forced tokens, too
        self._asking._forcing = False
        self._baselines = Baselines(self.network, self.backend._tokenizer, batch_size)
        self._counter = PassCounter(self.network)

    def run(self, variant: str, groups: Sequence[Sequence[Request]], lengths: Mapping[str, int]) -> Measured:
        """One variant over all requests, group after group. ``lengths``: tokens of each reply, not for ours_forced."""
        backend = self._asking if variant == "ours_grammar" else self.backend
        backend.meter = meter = Meter()
        ways = {"ours_forced": lambda group: backend.generate(group),
                "ours_grammar": lambda group: backend.generate(group),
                "ours_free": lambda group: backend.generate(without_constraint(group, lengths))}
        way = ways.get(variant) or (lambda group: getattr(self._baselines, variant)(group, lengths))
        result = Measured({})
        with peak_memory(self._device, result), quiet():
            self._counter.reset()
            for group in groups:
                answers = way(group)
                begin = time.perf_counter()
                result.replies.update((reply.id, reply) for reply in islice(answers, len(group)))
                result.seconds += time.perf_counter() - begin
                answers.close()  # not timed: transformers' continuous batching takes half a second to end its thread
        result.model_steps, result.mask_s = self._counter.passes, meter.mask_seconds
        result.padding = self._padding(variant, result, meter)
        return result

    def _padding(self, variant: str, result: Measured, meter: Meter) -> float:
        positions, empty = self._counter.positions, self._counter.empty
        if variant in ("reference", "sorted"):
            # Without padding a reply would be fed but for its last token.
            empty = positions - sum(reply.prompt_tokens + reply.completion_tokens - 1 for reply in result.replies.values())
        elif variant != "continuous":
            empty = positions - meter.fed
        return empty / positions


def without_constraint(requests: Sequence[Request], lengths: Mapping[str, int]) -> list[Request]:
    """The same questions, free, and exactly as long as told (the model writes no end tokens)."""
    return [replace(request, constraint=None, max_new_tokens=lengths[request.id]) for request in requests]
