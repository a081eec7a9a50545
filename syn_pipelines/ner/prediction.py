"""Entities of new sentences: streaming, in input order, with constant memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from syn_pipelines.ner.data import MAX_TOKENS, LabelSet, chunked, split_long, within_cells
from syn_pipelines.ner.decoding import Span
from syn_pipelines.ner.model import NerModel
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import as_entity
from syn_pipelines.utils.llm.transformers_loading import free_memory, is_out_of_memory, parse_gpus
from syn_pipelines.utils.sentence import Look, Sentence

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


class EntityModel(Protocol):
    """What prediction needs of a model: ``NerModel`` and ``TokenClassifier`` have it."""

    labels: LabelSet

    def eval(self) -> EntityModel: ...

    def cells(self, length: int) -> int: ...

    def predict(self, sentences: Sequence[Sequence[str]]) -> list[list[Span]]: ...


def predict_stream(model: EntityModel, sentences: Iterable[Sequence[str]], batch_size: int = 4) -> Iterator[list[Span]]:
    """The entities of each sentence, in input order.

    Sentences are read in pools of ``16 * batch_size`` and predicted by similar length; a sentence's entities do not
    depend on its batch. Sentences without tokens have none. One of more than ``MAX_TOKENS`` tokens is predicted in pieces
    (``split_long``), so that no text is too long for the memory; no entity goes over the end of a piece.

    Raises:
        TypeError: a sentence is a string.
    """
    for pool in chunked(map(_tokens, sentences), POOL_BATCHES * batch_size):
        pieces = [(k, first, tokens[first:last]) for k, tokens in enumerate(pool)
                  for first, last in split_long(tokens, MAX_TOKENS)]
        order = sorted(range(len(pieces)), key=lambda n: len(pieces[n][2]))
        cells = [model.cells(len(tokens)) for _, _, tokens in pieces]
        found: list[list[Span]] = [[] for _ in pieces]
        for chunk in chunked(order, batch_size):
            for batch in within_cells(chunk, cells):
                for n, spans in zip(batch, _predict(model, [pieces[n][2] for n in batch])):
                    found[n] = spans
        whole: list[list[Span]] = [[] for _ in pool]
        for (k, first, _), spans in zip(pieces, found):
            whole[k] += [replace(s, start=s.start + first, end=s.end + first) if first else s for s in spans]
        yield from whole


def _predict(model: EntityModel, sentences: Sequence[Sequence[str]]) -> list[list[Span]]:
    """``model.predict``, in halves where the memory does not suffice for all at once."""
    try:
        return model.predict(sentences)
    except Exception as error:
        if len(sentences) == 1 or not is_out_of_memory(error):
            raise
    free_memory()  # out here no exception holds tensors any more
    half = len(sentences) // 2
    log.warning("out of memory with %d sentences at once: going on with %d", len(sentences), half)
    return _predict(model, sentences[:half]) + _predict(model, sentences[half:])


def _tokens(sentence: Sequence[str]) -> Sequence[str]:
    if isinstance(sentence, str):
        raise TypeError(f"the sentence {sentence[:30]!r} is a string. Give lists of tokens, such as list(text) for Chinese or "
                        "text.split() for English.")
    return sentence


class NerPredictor:
    """A trained model, ready to be called with sentences as lists of tokens."""

    def __init__(self, model: EntityModel) -> None:
        self.model = model.eval()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that may be predicted."""
        return self.model.labels.targets

    @classmethod
    def from_pretrained(cls, path: str | Path, base: str | None = None, device: str = "cpu",
                        label_file: str | Path | None = None) -> NerPredictor:
        """Load a model folder: one of train_ner.py, a checkpoint of the reference implementation of KnowFREE, or a
        token-classification checkpoint of the transformers library. Its config.json tells which.

        Args:
            base: encoder (folder or hub id) that gives tokenizer and configuration where the folder lacks them.
            device: as torch names it, such as ``cpu`` or ``cuda:0``.
            label_file: labels of a reference checkpoint; by default the label file in its folder. The others bring theirs.
        Raises:
            UserError: not a model folder, or one that is incomplete or broken.
        """
        from syn_pipelines.ner.reference import is_reference, load_reference
        from syn_pipelines.ner.storage import FORMAT, read_config
        from syn_pipelines.ner.token_classification import TokenClassifier, is_token_classifier

        folder = Path(path)
        config = read_config(folder)
        if config.get("format") != FORMAT and is_reference(config):
            labels = Path(label_file) if label_file else None
            return cls(load_reference(folder, config, base=base, label_file=labels, device=device))
        if config.get("format") != FORMAT and is_token_classifier(config):
            return cls(TokenClassifier.load(folder, base=base, device=device))
        return cls(NerModel.load(folder, base=base, device=device))

    def __call__(self, sentences: Iterable[Sequence[str]], batch_size: int = 4) -> Iterator[list[Span]]:
        """See ``predict_stream``."""
        if isinstance(sentences, str):
            _tokens(sentences)
        return predict_stream(self.model, sentences, batch_size)

    def sentence(self, tokens: Sequence[str]) -> Sentence:
        """One sentence with its entities, to look at: ``text`` and ``predicted``, each with its probability as ``score``.

        Raises:
            TypeError: it is a string.
            UserError: it has no token, or an empty one.
        """
        spans = next(self([tokens]))
        found = [{**as_entity(tokens, (s.start, s.end), s.label), "score": round(s.score, 4)} for s in spans]
        return Sentence({"text": list(tokens), "predicted": found}, Look(targets=self.labels))
