"""Entities of new sentences: streaming, in input order, with constant memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from syn_pipelines.ner.data import chunked, within_cells
from syn_pipelines.ner.decoding import Span
from syn_pipelines.ner.model import NerModel
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm.transformers_loading import parse_gpus

log = logging.getLogger(__name__)

# Sentences read ahead, in batches: enough to put similar lengths together.
POOL_BATCHES = 16


@lru_cache(maxsize=1)  # once a process is enough
def _say_cpu() -> None:
    log.info("no GPU on this machine: the NER model runs on the CPU")


def choose_device(n_gpu: str) -> str:
    """The first GPU that ``--n_gpu`` names, or the CPU on a machine without any.

    Raises:
        UserError: no GPU number, or one this machine does not have.
    """
    import torch

    number = parse_gpus(n_gpu)[0]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number < count:
        return f"cuda:{number}"
    if count:
        raise UserError(f"--n_gpu={n_gpu}: this machine has {count} GPU(s), numbered from 0. Name one of those.")
    _say_cpu()
    return "cpu"


def predict_stream(model: NerModel, sentences: Iterable[Sequence[str]], batch_size: int = 4) -> Iterator[list[Span]]:
    """The entities of each sentence, in input order.

    Sentences are read in pools of ``16 * batch_size`` and predicted by similar length; a sentence's entities do not
    depend on its batch. Sentences without tokens have none.
    """
    for pool in chunked(sentences, POOL_BATCHES * batch_size):
        order = sorted(range(len(pool)), key=lambda k: len(pool[k]))
        cells = [model.cells(len(tokens)) for tokens in pool]
        found: list[list[Span]] = [[] for _ in pool]
        for chunk in chunked(order, batch_size):
            for batch in within_cells(chunk, cells):
                for k, spans in zip(batch, model.predict([pool[k] for k in batch])):
                    found[k] = spans
        yield from found


class NerPredictor:
    """A trained model, ready to be called with sentences as lists of tokens."""

    def __init__(self, model: NerModel) -> None:
        self.model = model.eval()

    @classmethod
    def from_pretrained(cls, path: str | Path, base: str | None = None, device: str = "cpu") -> NerPredictor:
        """Load a model folder.

        Args:
            base: encoder (folder or hub id) that gives tokenizer and configuration where the folder lacks them.
            device: as torch names it, such as ``cpu`` or ``cuda:0``.
        Raises:
            UserError: not a model folder, or one that is incomplete or broken.
        """
        return cls(NerModel.load(path, base=base, device=device))

    def __call__(self, sentences: Iterable[Sequence[str]], batch_size: int = 4) -> Iterator[list[Span]]:
        """See ``predict_stream``."""
        return predict_stream(self.model, sentences, batch_size)
