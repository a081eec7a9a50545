"""The other way to run a model: transformers' own ``generate``, batch by batch.

For models whose attention or cache the decode loop cannot take over, for old releases, and as the baseline. Prompts are
padded on the left, every batch waits for its longest reply, and forced tokens are asked for like all others.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from syn_pipelines.utils.llm.checkpoints import first_line, quiet
from syn_pipelines.utils.llm.guide import GrammarMasks, Guide, GuideError
from syn_pipelines.utils.llm.transformers_loading import free_memory, is_out_of_memory
from syn_pipelines.utils.llm.transformers_sampling import Row, RowStop, TokenChooser, Written, cut_reply

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    """Why a batch gave nothing. Keeps the text only: the exception would keep the batch's tensors alive."""

    text: str
    out_of_memory: bool


class GenerateBatches:
    """Writes replies in batches.

    Args:
        network: a causal language model whose generation config is as it should be used.
        slots: most rows of a batch. Halved when the memory does not suffice.
        ends: tokens that end a reply. context: most tokens of the model, prompt and reply together.
        guide_of: the grammar state of a row, or None; raises GuideError.
    """

    def __init__(self, network: Any, *, slots: int, ends: Sequence[int], context: int,
                 guide_of: Callable[[Row], Guide | None]) -> None:
        self.slots = slots
        self._network, self._ends, self._context, self._guide_of = network, ends, context, guide_of

    def run(self, rows: Iterable[Row]) -> Iterator[Written]:
        """Write a reply to every row, neighbours together."""
        source = iter(rows)
        waiting: list[Row] = []
        while True:
            waiting += islice(source, self.slots - len(waiting))
            if not waiting:
                return
            size = batch_length([(len(row.prompt), row.limit) for row in waiting[:self.slots]], self._context)
            batch, waiting = waiting[:size], waiting[size:]
            yield from self._answer(batch)

    def _answer(self, rows: list[Row]) -> Iterator[Written]:
        """All rows: a batch that fails is run again in halves (memory) or row by row (anything else)."""
        todo = deque([rows])
        while todo:
            batch = todo.popleft()
            if len(batch) > self.slots:  # queued before the memory turned out to be smaller still
                todo.appendleft(batch[self.slots:])
                batch = batch[:self.slots]
            result = self._attempt(batch)
            if not isinstance(result, _Failure):
                yield from result
                continue
            if result.out_of_memory:
                free_memory()
            if len(batch) == 1:
                yield Written(batch[0], [], "error", result.text)
            elif result.out_of_memory:
                self.slots = len(batch) // 2
                log.warning("out of memory with %d requests at once: going on with %d", len(batch), self.slots)
                todo.appendleft(batch)
            else:
                log.warning("a batch of %d requests failed (%s): asking them one by one", len(batch), result.text)
                todo.extendleft([row] for row in reversed(batch))

    def _attempt(self, rows: list[Row]) -> list[Written] | _Failure:
        try:
            with quiet():
                return self._batch(rows)
        except Exception as exc:  # a model may fail in any way; it must cost no more than the row that it fails on
            return _Failure(first_line(exc), is_out_of_memory(exc))

    def _batch(self, rows: list[Row]) -> list[Written]:
        guides, refused = self._guides(rows)
        rows = [row for row in rows if row not in refused]
        return [*refused.values(), *(self._call(rows, guides) if rows else ())]

    def _guides(self, rows: Sequence[Row]) -> tuple[list[Guide | None], dict[Row, Written]]:
        guides, refused = [], {}
        for row in rows:
            try:
                guide = self._guide_of(row)
                if guide:
                    guide.begin()
                guides.append(guide)
            except GuideError as exc:
                refused[row] = Written(row, [], exc.finish, str(exc))
        return guides, refused

    def _call(self, rows: list[Row], guides: Sequence[Guide | None]) -> list[Written]:
        """One call of the model."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        device = self._network.device
        width = max(len(row.prompt) for row in rows)
        config = copy.deepcopy(self._network.generation_config)
        config.max_new_tokens = max(row.limit for row in rows)
        pads = [width - len(row.prompt) for row in rows]
        ids = [[config.pad_token_id] * pad + row.prompt for pad, row in zip(pads, rows)]
        mask = [[0] * pad + [1] * len(row.prompt) for pad, row in zip(pads, rows)]
        chooser = TokenChooser(rows, width, device)
        masks = GrammarMasks(guides, width, [row.limit for row in rows])
        with torch.inference_mode():
            output = self._network.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
                logits_processor=LogitsProcessorList([masks, chooser]),
                stopping_criteria=StoppingCriteriaList([RowStop(rows, width, chooser), masks.over]),
            )
        written, broken = output[:, width:].tolist(), chooser.broken.tolist()
        return [self._written(row, written[i], masks, i, broken[i]) for i, row in enumerate(rows)]

    def _written(self, row: Row, tokens: list[int], masks: GrammarMasks, i: int, broken: bool) -> Written:
        """Cut a row of the output at its end."""
        if i in masks.errors:
            return Written(row, [], masks.errors[i].finish, str(masks.errors[i]))
        if broken:
            return Written(row, [], "error", "ArithmeticError: the model's scores are not numbers")
        kept, finish = cut_reply(tokens[:masks.lengths.get(i)], row.limit, self._ends)
        if i in masks.lengths:
            finish = "stop"
        guide = masks.guides[i]
        return Written(row, kept, finish, held=guide is not None, closed=guide is not None and guide.closed)


def batch_length(sizes: Sequence[tuple[int, int]], context: int) -> int:
    """How many of these rows fit one batch: the longest prompt with the longest reply must fit the context.

    A finished row goes on being padded until the last one ends, and models with learned positions fail beyond their
    context. Rows are taken from the front; the first one always fits by itself.

    Args:
        sizes: (prompt tokens, most reply tokens) of each row, at least one.
        context: most tokens of the model.
    """
    prompt = reply = 0
    for count, (tokens, limit) in enumerate(sizes):
        prompt, reply = max(prompt, tokens), max(reply, limit)
        if count and prompt + reply > context:
            return count
    return len(sizes)
