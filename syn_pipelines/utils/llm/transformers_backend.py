"""Answers from a local causal language model, through transformers and torch.

Covered: any native architecture with safetensors weights, one GPU, several GPUs (layers spread over them) or the CPU,
chat templates, greedy and seeded sampling, per-request limits, recovery from memory errors.
Not covered: code that comes with a checkpoint, pickled weights, models that see images, more than one machine.

Importing this module and building the backend is cheap; torch is imported and the weights are read on first use.
"""

from __future__ import annotations

import copy
import gc
import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm import Reply, Request
from syn_pipelines.utils.llm.transformers_loading import (
    choose_placement,
    context_length,
    end_token_ids,
    find_checkpoint,
    first_line,
    is_out_of_memory,
    load_model,
    load_tokenizer,
    parse_gpus,
    quiet,
)
from syn_pipelines.utils.llm.transformers_sampling import Row, RowStop, TokenChooser, cut_reply

log = logging.getLogger(__name__)

# Requests are read ahead and sorted by length within this many batches: memory stays bounded on a stream.
_WINDOW_BATCHES = 32
# A prompt that leaves less room than this (or less than it asked for) is reported, not answered with a stump.
_LEAST_REPLY_TOKENS = 16


@dataclass(frozen=True)
class _Failure:
    """Why a batch gave nothing. Keeps the text only: the exception would keep the batch's tensors alive."""

    text: str
    out_of_memory: bool


class TransformersBackend:
    """Backend over a checkpoint folder or a hub name (see ``syn_pipelines.utils.llm.Backend``).

    Args:
        model_from_pretrained: folder of a checkpoint, or its name on the Hugging Face hub.
        batch_size: most requests that run together. Halved, for the rest of the run, when the memory does not suffice.
        n_gpu: GPU number or list of them (``"0"``, ``"0,1"``, ``[0, 1]``). On a machine without a GPU: the CPU.

    Raises:
        UserError: ``n_gpu`` or ``batch_size`` make no sense. What is wrong with the checkpoint is raised on first use.
    """

    name = "transformers"

    def __init__(self, model_from_pretrained: str, *, batch_size: int, n_gpu: str | int | Sequence[int] = "0") -> None:
        if batch_size < 1:
            raise UserError(f"--batch_size={batch_size}: less than 1. Choose how many requests run together.")
        self.model = model_from_pretrained
        self._gpus = parse_gpus(n_gpu)
        self._window = _WINDOW_BATCHES * batch_size
        self._rows_at_once = batch_size
        self._tokenizer: Any = None
        self._specials: list[str] = []
        self._network: Any = None
        self._ends: list[int] = []
        self._context = 0

    def check(self) -> None:
        """Look for a local checkpoint's files without importing torch. Raises UserError. Hub names: looked up, fetched
        but for the weights."""
        find_checkpoint(self.model, weights=False)

    def count_tokens(self, text: str) -> int:
        """Length of ``text`` in tokens of this model, without special tokens. Does not load the weights.

        Raises:
            UserError: the checkpoint cannot be used.
        """
        self._load_tokenizer()
        with quiet():
            return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer every request exactly once, batch by batch, longest prompts of a window first.

        A request's reply does not depend on the other requests, up to float rounding. Requests are read ahead in
        windows of 32 batches. The weights are loaded only if there is a request.

        Raises:
            UserError: before the first reply, when the checkpoint cannot be used.
        """
        source = iter(requests)
        while window := list(islice(source, self._window)):
            self._load()
            rows: list[Row] = []
            for request in window:
                ready = self._prepare(request)
                if isinstance(ready, Reply):
                    yield ready
                else:
                    rows.append(ready)
            rows.sort(key=lambda row: (len(row.prompt), row.limit), reverse=True)
            while rows:
                size = batch_length(
                    [(len(row.prompt), row.limit) for row in rows[: self._rows_at_once]], self._context
                )
                batch, rows = rows[:size], rows[size:]
                yield from self._answer(batch)

    def _load_tokenizer(self) -> None:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.model)
            added = self._tokenizer.added_tokens_decoder.values()
            self._specials = [str(token) for token in added if token.special]
            if not self._tokenizer.chat_template:
                log.warning("%s has no chat template: prompts are sent as plain text. Use a chat model", self.model)

    def _load(self) -> None:
        """Weights, end tokens and a generation config of our own."""
        if self._network is not None:
            return
        self._load_tokenizer()
        placement = choose_placement(self._gpus)
        network = load_model(self.model, placement)
        self._ends = end_token_ids(network, self._tokenizer)
        self._context = context_length(network.config, self._tokenizer)
        # generate() fills whatever is unset from here: the checkpoint's own sampling and repetition penalty would come
        # back, and a penalty on repetition makes a model avoid the words of the sentence it is asked to copy.
        network.generation_config = self._generation_config(network)
        self._network = network

    def _generation_config(self, network: Any) -> Any:
        from transformers import GenerationConfig

        pad = self._tokenizer.pad_token_id
        return GenerationConfig(
            do_sample=False,
            eos_token_id=self._ends or None,
            pad_token_id=pad if pad is not None else (self._ends or [0])[0],
            bos_token_id=self._tokenizer.bos_token_id,
            cache_implementation=getattr(network.generation_config, "cache_implementation", None),
        )

    def _prepare(self, request: Request) -> Row | Reply:
        """Tokens of the prompt and room for the reply, or the reply that says why there is none."""
        try:
            with quiet():
                prompt = self._encode([dict(message) for message in request.messages])
        except Exception as exc:  # a chat template may refuse the roles; that must not end the run
            return Reply(request.id, "", "error", error=first_line(exc))
        room = self._context - len(prompt)
        if room < max(1, min(request.max_new_tokens, _LEAST_REPLY_TOKENS)):
            error = f"prompt has {len(prompt)} tokens, the model takes {self._context}"
            return Reply(request.id, "", "too_long", prompt_tokens=len(prompt), error=error)
        return Row(request, prompt, max(1, min(request.max_new_tokens, room)))

    def _encode(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a chat. The template writes its special tokens itself, so none are added again."""
        if not self._tokenizer.chat_template:
            text = "\n\n".join(message["content"] for message in messages) + "\n"
            return self._tokenizer(text, split_special_tokens=True)["input_ids"]
        # A sentence may spell a control token ("</s>" is HTML, too). Such contents are tokenised apart, as plain text.
        contents = [message["content"] for message in messages]
        if not any(special in content for content in contents for special in self._specials):
            return self._tokenizer(self._render(messages), add_special_tokens=False)["input_ids"]
        marked = [{**message, "content": f"\ue000{i}\ue001"} for i, message in enumerate(messages)]
        ids: list[int] = []
        for i, piece in enumerate(re.split("\ue000([0-9]+)\ue001", self._render(marked))):
            literal = i % 2 == 1  # the odd pieces are the numbers of contents
            text = contents[int(piece)] if literal else piece
            ids += self._tokenizer(text, add_special_tokens=False, split_special_tokens=literal)["input_ids"]
        return ids

    def _render(self, messages: list[dict[str, str]]) -> str:
        """Text of a chat up to the point where the model speaks."""
        # enable_thinking is read by templates of models that think aloud by default and ignored by all others.
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            return self._tokenizer.apply_chat_template(messages, **options)
        except Exception:
            merged = merge_system(messages)
            if merged == messages:
                raise
            return self._tokenizer.apply_chat_template(merged, **options)

    def _answer(self, rows: list[Row]) -> Iterator[Reply]:
        """Replies to all rows: a batch that fails is run again in halves (memory) or row by row (anything else)."""
        todo = deque([rows])
        while todo:
            batch = todo.popleft()
            if len(batch) > self._rows_at_once:  # queued before the memory turned out to be smaller still
                todo.appendleft(batch[self._rows_at_once :])
                batch = batch[: self._rows_at_once]
            result = self._attempt(batch)
            if not isinstance(result, _Failure):
                yield from result
                continue
            if result.out_of_memory:
                self._free_memory()
            if len(batch) == 1:
                request = batch[0].request
                yield Reply(request.id, "", "error", prompt_tokens=len(batch[0].prompt), error=result.text)
            elif result.out_of_memory:
                self._rows_at_once = len(batch) // 2
                log.warning("out of memory with %d requests at once: going on with %d", len(batch), self._rows_at_once)
                todo.appendleft(batch)
            else:
                log.warning("a batch of %d requests failed (%s): asking them one by one", len(batch), result.text)
                todo.extendleft([row] for row in reversed(batch))

    def _attempt(self, rows: list[Row]) -> list[Reply] | _Failure:
        try:
            with quiet():
                return self._run(rows)
        except Exception as exc:
            return _Failure(first_line(exc), is_out_of_memory(exc))

    def _run(self, rows: list[Row]) -> list[Reply]:
        """One call of the model. Prompts are padded on the left, so that every reply begins in the same column."""
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
        with torch.inference_mode():
            output = self._network.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
                logits_processor=LogitsProcessorList([chooser]),
                stopping_criteria=StoppingCriteriaList([RowStop(rows, width, chooser)]),
            )
        written = output[:, width:].tolist()
        broken = chooser.broken.tolist()
        return [self._reply(row, tokens, bad) for row, tokens, bad in zip(rows, written, broken)]

    def _reply(self, row: Row, tokens: list[int], broken: bool) -> Reply:
        """Cut a row of the output at its first end token or at its own limit."""
        if broken:
            error = "ArithmeticError: the model's scores are not numbers"
            return Reply(row.request.id, "", "error", prompt_tokens=len(row.prompt), error=error)
        kept, finish = cut_reply(tokens, row.limit, self._ends)
        text = self._tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Reply(row.request.id, text, finish, len(row.prompt), len(kept))

    def _free_memory(self) -> None:
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


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


def merge_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """System text put before the first user message, for templates that know no system role."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if not system or not others or others[0]["role"] != "user":
        return messages
    first = {**others[0], "content": "\n\n".join([*system, others[0]["content"]])}
    return [first, *others[1:]]
