"""Training and prediction of the span model over BERT-base with random weights, and what the arithmetic allows."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from ner_work import CAPPED_WIDTH, Bert, gold_of, label_set
from peak_memory import peak_of_tensors
from torch.utils.flop_counter import FlopCounterMode

from syn_pipelines.ner.data import batch_order
from syn_pipelines.ner.head import HeadConfig
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.optimization import WeightAverage, make_optimizer
from syn_pipelines.ner.prediction import NerPredictor
from syn_pipelines.ner.train_config import TrainConfig


def bert_base(device: str, lengths: Sequence[int], *, peak_tflops: float, steps: int = 50, sentences: int = 4096,
              batch_size: int = 32, layers: int = 12, hidden: int = 768) -> dict[str, Any]:
    """Steps a second, memory, sentences a second, each speed beside its bound: operations over the device's peak.

    Trained in bfloat16 by autocast and predicted in float32, as our scripts do; batches of similar lengths, spans of up to
    12 tokens. The operations are those of matrix products and attention, as torch's counter has them.

    Args:
        lengths: of the sentences, drawn with repetition.
        peak_tflops: of the device in bfloat16, in 10 ** 12 operations a second.
    """
    torch.manual_seed(0)
    chance = random.Random(0)
    data = gold_of(chance.choices(lengths, k=sentences), chance)
    model = NerModel(Bert(layers, hidden, heads=max(1, hidden // 64)), label_set(), HeadConfig(CAPPED_WIDTH)).to(device)
    batches = batch_order([len(s.tokens) for s in data], batch_size, seed=0, epoch=0)
    given = cycle([data[k] for k in batch] for batch in batches)
    train = _trainer(model, device)
    found = {"device": torch.cuda.get_device_name() if device == "cuda" else device, "batch_size": batch_size}

    def predict() -> None:
        deque(NerPredictor(model)((s.tokens for s in data), batch_size), maxlen=0)

    work = list(islice(given, steps))
    peak = max(peak_of_tensors(partial(train, batch), device) for batch in work)  # also the warm-up

    def train_all() -> None:
        for batch in work:
            train(batch)

    count, seconds = _operations(train_all), _timed(train_all, device)
    found |= {"train_steps_per_s": steps / seconds, "train_bound_steps_per_s": steps * peak_tflops * 1e12 / count,
              "train_share_of_bound": count / seconds / peak_tflops / 1e12, "train_peak_mb": peak / 1e6}
    count, seconds = _operations(predict), _timed(predict, device)
    return found | {"predict_sentences_per_s": sentences / seconds,
                    "predict_bound_sentences_per_s": sentences * peak_tflops * 1e12 / count,
                    "predict_share_of_bound": count / seconds / peak_tflops / 1e12}


def _trainer(model: NerModel, device: str) -> Callable[[list], None]:
    """A training step as ``train_ner`` takes it, words exchanged aside: collate, loss, gradients, clipping, update, mean."""
    config = TrainConfig()
    optimizer, average = make_optimizer(model, config), WeightAverage(model, config.average)
    weights = torch.rand(len(model.labels.names), device=device)

    def train(batch: list) -> None:
        model.train()
        inputs = model.collate([model.encoder.prepare(s.tokens) for s in batch])
        with torch.autocast(device, torch.bfloat16):
            loss = model.loss(inputs, model.gold(batch, inputs), weights).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        average.update(model)
        optimizer.zero_grad(set_to_none=True)

    return train


def _operations(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, a multiplication and its addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _timed(call: Callable[[], object], device: str) -> float:
    """Seconds, the device's work included."""
    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    finish()
    started = time.perf_counter()
    call()
    finish()
    return time.perf_counter() - started
