"""Answers from a local causal language model, through transformers and torch.

Covered: any architecture with safetensors weights, one GPU, several GPUs (layers spread over them) or the CPU, chat
templates, grammars, greedy and seeded sampling, per-request limits, recovery from memory errors.
Not covered: pickled weights, models that see images, more than one machine.

Importing this module and building the backend is cheap; torch is imported and the weights are read on first use.
"""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm import LEAST_REPLY_TOKENS, Reply, Request
from syn_pipelines.utils.llm.checkpoints import check_checkpoint, first_line, quiet
from syn_pipelines.utils.llm.decode_loop import DecodeLoop, Meter
from syn_pipelines.utils.llm.generate_batches import GenerateBatches
from syn_pipelines.utils.llm.guide import Guidance, Guide
from syn_pipelines.utils.llm.slot_cache import slots_fit
from syn_pipelines.utils.llm.transformers_loading import (
    check_gpus,
    choose_placement,
    context_length,
    end_token_ids,
    load_model,
    load_tokenizer,
    parse_gpus,
)
from syn_pipelines.utils.llm.transformers_sampling import Row, Written
from syn_pipelines.utils.llm.vocabulary import UnsupportedTokenizer

log = logging.getLogger(__name__)

# Requests are read ahead and sorted by length within this many batches: memory stays bounded on a stream.
_WINDOW_BATCHES = 32


class TransformersBackend:
    """Backend over a checkpoint folder or a hub name (see ``syn_pipelines.utils.llm.Backend``).

    Args:
        model_from_pretrained: folder of a checkpoint, or its name on the Hugging Face hub.
        batch_size: most requests that run together. Halved, for the rest of the run, when the memory does not suffice.
        n_gpu: GPU number or list of them (``"0"``, ``"0,1"``, ``[0, 1]``). On a machine without a GPU: the CPU.
        scheduler: "continuous" (``decode_loop``, where the model allows it) or "generate" (``generate_batches``).
        chat_template: path of a template in place of the checkpoint's own.
        trust_remote_code: run the code that comes with the checkpoint.
        forcing: append tokens that a grammar forces without asking the model (switched off only to measure it).

    Raises:
        UserError: ``n_gpu`` or ``batch_size`` make no sense. What is wrong with the checkpoint is raised on first use.
    """

    name = "transformers"

    def __init__(self, model_from_pretrained: str, *, batch_size: int, n_gpu: str | int | Sequence[int] = "0",
                 scheduler: str = "continuous", chat_template: str = "", trust_remote_code: bool = False,
                 forcing: bool = True) -> None:
        if batch_size < 1:
            raise UserError(f"--batch_size={batch_size}: less than 1. Choose how many requests run together.")
        self.model = model_from_pretrained
        self.meter = Meter()
        self._gpus = parse_gpus(n_gpu)
        self._scheduler, self._forcing = scheduler, forcing
        self._chat_template, self._trust_remote_code = chat_template, trust_remote_code
        self.resize(batch_size)
        self._tokenizer: Any = None
        self._specials: list[str] = []
        self._network: Any = None
        self._ends: list[int] = []
        self._context = 0
        self._guidance: Guidance | None = None
        self._held = True  # grammars work, or have not been tried yet

    def resize(self, batch_size: int) -> None:
        """Run so many requests together from now on."""
        self._rows_at_once, self._window = batch_size, _WINDOW_BATCHES * batch_size

    def check(self) -> None:
        """Files, architecture, tokenizer and GPUs. Raises UserError. Reads no weights; a hub name is looked up, and all
        but its weights fetched."""
        check_checkpoint(self.model, trust_remote_code=self._trust_remote_code, chat_template=self._chat_template)
        self._load_tokenizer()
        if any(self._gpus):  # a machine with a GPU has GPU 0
            check_gpus(self._gpus)

    def count_tokens(self, text: str) -> int:
        """Length of ``text`` in tokens of this model, without special tokens. Does not load the weights.

        Raises:
            UserError: the checkpoint cannot be used.
        """
        self._load_tokenizer()
        with quiet():
            return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_as_sent(self, messages: Iterable[Mapping[str, str]]) -> tuple[str, int]:
        """A chat as the model reads it: its text, special tokens spelled out, and its tokens. Does not load the weights."""
        self._load_tokenizer()
        with quiet():
            ids = self._encode([dict(message) for message in messages])
            return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False), len(ids)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer every request exactly once, longest prompts of a window first.

        A request's reply does not depend on the other requests, up to float rounding. Requests are read ahead in
        windows of 32 batches. The weights are loaded only if there is a request.

        Raises:
            UserError: before the first reply, when the checkpoint cannot be used.
        """
        source = iter(requests)
        window = list(islice(source, self._window))
        if not window:
            return
        self._load()
        refused: deque[Reply] = deque()
        rows = self._rows(window, refused)
        if not rows:
            self._refuse_small_context(window)
        prefix = os.path.commonprefix([row.prompt for row in rows]) if len(rows) > 1 else []
        later = chain.from_iterable(self._rows(more, refused)
                                    for more in iter(lambda: list(islice(source, self._window)), []))
        for reply in self._answers(chain(rows, later), prefix, slots=min(self._rows_at_once, len(window))):
            yield from _drained(refused)
            yield reply
        yield from _drained(refused)

    def load(self) -> None:
        """Read the weights now; else ``generate`` does so when it has a request. UserError for a checkpoint of no use."""
        self._load()

    def _refuse_small_context(self, requests: Sequence[Request]) -> None:
        """UserError when what the prompts have in common fills the context: then no sentence can ever be asked about."""
        contents = {request.messages[-1]["content"] for request in requests}
        shared = self.count_tokens(os.path.commonprefix(list(contents))) if len(contents) > 1 else 0
        if shared + LEAST_REPLY_TOKENS > self._context:
            raise UserError(f"--model_from_pretrained={self.model}: the model takes {self._context:,} tokens, and the "
                            f"instruction alone has {shared:,}. Use a model with a longer context.")

    def _rows(self, requests: Sequence[Request], refused: deque[Reply]) -> list[Row]:
        """Requests made ready to run, the longest first; those that cannot run are answered."""
        ready = [self._prepare(request) for request in requests]
        refused.extend(item for item in ready if isinstance(item, Reply))
        rows = [item for item in ready if isinstance(item, Row)]
        return sorted(rows, key=lambda row: (len(row.prompt), row.limit), reverse=True)

    def _answers(self, rows: Iterable[Row], prefix: Sequence[int], slots: int) -> Iterator[Reply]:
        if self._scheduler == "generate":
            engine = GenerateBatches(self._network, slots=slots, ends=self._ends, context=self._context,
                                     guide_of=lambda row: self._guide(row, forcing=False))
            written = engine.run(rows)
        else:
            engine = DecodeLoop(self._network, slots=slots, ends=self._ends, guide_of=self._guide, meter=self.meter)
            written = engine.run(rows, prefix=prefix)
        for done in written:
            if engine.slots < slots:  # the memory did not suffice for more
                self._rows_at_once = engine.slots
            try:
                reply = self._reply(done)
            except Exception as exc:  # tokens that the tokenizer cannot read back
                reply = Reply(done.row.request.id, "", "error", len(done.row.prompt), error=first_line(exc))
            yield reply

    def _guide(self, row: Row, *, forcing: bool = True) -> Guide | None:
        """The grammar of a row; None where it has none, or where this model's tokens cannot be held to one."""
        if row.request.constraint is None or not self._held:
            return None
        if self._guidance is None:
            try:
                self._guidance = Guidance(self._tokenizer, self._scores_width(self._network), self._ends)
            except (UnsupportedTokenizer, ImportError) as exc:
                self._held = False
                log.warning("%s: replies are not held to a grammar (%s)", self.model, exc)
                return None
        return Guide(self._guidance, row.request.constraint, row.limit, forcing=forcing and self._forcing)

    @staticmethod
    def _scores_width(network: Any) -> int:
        head = network.get_output_embeddings()
        return int(head.weight.shape[0] if head is not None else network.config.vocab_size)

    def _reply(self, done: Written) -> Reply:
        """A written reply as text."""
        request, prompt = done.row.request, len(done.row.prompt)
        if done.finish in ("error", "too_long"):
            return Reply(request.id, "", done.finish, prompt, error=done.error)
        if done.held and self._guidance:
            text = self._guidance.text_of(done.tokens)
        else:
            text = self._tokenizer.decode(done.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Reply(request.id, text, done.finish, prompt, len(done.tokens),
                     decoded="grammar" if done.held else "", closed=done.closed)

    def _load_tokenizer(self) -> None:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.model, trust_remote_code=self._trust_remote_code,
                                             chat_template=self._chat_template)
            added = self._tokenizer.added_tokens_decoder.values()
            self._specials = [str(token) for token in added if token.special]
            if not self._tokenizer.chat_template:
                log.warning("%s has no chat template: prompts are sent as plain text. Use a chat model, "
                            "or give a template with --chat_template", self.model)
            else:
                with quiet():
                    self._check_template()

    def _check_template(self) -> None:
        """UserError for a chat template that takes no user message, or leaves out what it says."""
        whose = f"--chat_template={self._chat_template}:" if self._chat_template else (
            f"--model_from_pretrained={self.model}: its chat template")
        try:
            says = self._render([{"role": "user", "content": "xyzzy"}])
        except Exception as exc:
            raise UserError(f"{whose} fails on a user message ({first_line(exc)}). Correct it, or give another one with "
                            "--chat_template.") from exc
        if "xyzzy" not in says:
            raise UserError(f"{whose} leaves out what the user says. Correct it, or give another one with --chat_template.")

    def _load(self) -> None:
        """Weights, end tokens and a generation config of our own."""
        if self._network is not None:
            return
        self._load_tokenizer()
        placement = choose_placement(self._gpus)
        network = load_model(self.model, placement, trust_remote_code=self._trust_remote_code)
        self._ends = end_token_ids(network, self._tokenizer)
        self._context = context_length(network.config, self._tokenizer)
        # generate() fills whatever is unset from here: the checkpoint's own sampling and repetition penalty would come
        # back, and a penalty on repetition makes a model avoid the words of the sentence it is asked to copy.
        network.generation_config = self._generation_config(network)
        self._network = network
        if self._scheduler == "continuous" and (reason := slots_fit(network)):
            log.info("--scheduler=generate is used: %s cannot run in slots (%s)", self.model, reason)
            self._scheduler = "generate"

    def _generation_config(self, network: Any) -> Any:
        from transformers import GenerationConfig

        pad = self._tokenizer.pad_token_id
        if pad is None or pad >= self._scores_width(network):  # some tokenizers got one that the model never learned of
            pad = (self._ends or [0])[0]
        return GenerationConfig(
            do_sample=False,
            eos_token_id=self._ends or None,
            pad_token_id=pad,
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
        if room < max(1, min(request.max_new_tokens, LEAST_REPLY_TOKENS)):
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


def _drained(replies: deque[Reply]) -> Iterator[Reply]:
    while replies:
        yield replies.popleft()


def merge_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """System text put before the first user message, for templates that know no system role."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if not system or not others or others[0]["role"] != "user":
        return messages
    first = {**others[0], "content": "\n\n".join([*system, others[0]["content"]])}
    return [first, *others[1:]]
