"""NER predictions by Ray workers, as ``prediction`` makes them in one process: the same batches, so the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from syn_pipelines.ner.data import chunked
from syn_pipelines.ner.decoding import Span
from syn_pipelines.ner.prediction import POOL_BATCHES, NerPredictor, choose_device
from syn_pipelines.utils.errors import ServiceError, UserError
from syn_pipelines.utils.llm.ray_desk import TRIES
from syn_pipelines.utils.llm.ray_pool import Died, Pool
from syn_pipelines.utils.options import EngineOptions

Tokens = Sequence[str]


def load_predictor(folder: Path, base: str, device: str, label_file: str, known: Sequence[str], labels: Path) -> NerPredictor:
    """The model of a folder, see ``NerPredictor.from_pretrained``.

    known: the labels of the data set, out of the file ``labels``.
    Raises:
        UserError: it cannot be loaded, or predicts other labels than those.
    """
    predictor = NerPredictor.from_pretrained(folder, base=base or None, device=device, label_file=label_file or None)
    if unknown := [label for label in predictor.labels if label not in known]:
        raise UserError(f"{folder}: the model predicts {', '.join(unknown)}, which {labels} lacks. Take a model that was "
                        "trained on this data set, or rename the tags in the id2label of a token-classification checkpoint "
                        "(in its config.json; O drops one).")
    return predictor


@dataclass(frozen=True)
class NerWork:
    """Loads a model in a worker and predicts pools of sentences with it (``ray_pool.Work``); the rest as ``load_predictor``."""

    folder: Path
    base: str
    label_file: str
    known: tuple[str, ...]
    labels: Path
    batch_size: int
    local_model: bool = True
    calls: int = 1

    def build(self, gpus: float) -> Callable[[Sequence[list[Tokens]]], Iterator[tuple[int, list[list[Span]]]]]:
        """See ``ray_pool.Work``: a row is a pool of sentences, its answer the entities of each."""
        predictor = load_predictor(self.folder, self.base, choose_device("0"), self.label_file, self.known, self.labels)

        def predict(pools: Sequence[list[Tokens]]) -> Iterator[tuple[int, list[list[Span]]]]:
            for place, sentences in enumerate(pools):
                yield place, list(predictor(sentences, self.batch_size))

        return predict


def predicted(opts: EngineOptions, work: NerWork, sentences: Iterable[Tokens]) -> Iterator[list[Span]]:
    """The entities of each sentence, in input order, by workers on a Ray cluster.

    Raises:
        UserError, ServiceError: see ``ray_pool.Pool.answers``; some sentences kill every worker.
    """
    pool = Pool(opts, work, block_rows=1, ordered=True)
    for rows, found in pool.answers(chunked(sentences, POOL_BATCHES * work.batch_size)):
        if isinstance(found, Died):
            raise ServiceError(f"the worker died {TRIES} times while it predicted the {len(rows)} sentences from "
                               f"{''.join(rows[0])[:60]!r} on. Mostly the memory did not suffice: use smaller batches "
                               "(--batch_size) or larger machines, then run the same command again.")
        yield from found
