"""Training of the span model: a plain loop with fixed steps, averaged weights, and selection on dev data only."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from syn_pipelines.ner.data import (
    LabelSet,
    Sentence,
    Vocabulary,
    batch_order,
    has_nested,
    is_dense,
    unknown_labels,
    within_cells,
)
from syn_pipelines.ner.encoders import PretrainedEncoder, ScratchConfig, ScratchEncoder, load_encoder, load_tokenizer
from syn_pipelines.ner.head import HeadConfig
from syn_pipelines.ner.metrics import Report, evaluate
from syn_pipelines.ner.model import NerModel, fitting_threads
from syn_pipelines.ner.prediction import predict_stream
from syn_pipelines.utils.errors import UserError

log = logging.getLogger(__name__)

SCRATCH = "scratch"
# Spans wider than this are not looked for, unless a target entity of the training data is longer.
MIN_WIDTH = 12
# The head over an encoder trained from nothing is smaller than the paper's: a try-out must end in minutes on a CPU.
SCRATCH_HEAD = {"channels": 96, "attention_heads": 4, "dropout": 0.3}
# Default length of a training: this many passes, but within these steps.
DEFAULT_EPOCHS, FEWEST_STEPS, MOST_STEPS = 20, 800, 4000


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training.

    epochs, max_steps: 0 means not given. Steps are ``max_steps``, or ``epochs`` passes, or the fewer of both; with
        neither, 20 passes but at least 800 and at most 4,000 steps, so that tiny and large sets both end in minutes.
    lr, head_lr, encoder_lr: highest learning rates: of a model trained from nothing; of the head over a pretrained
        encoder; of that encoder. They rise over the first ``warmup`` share of the steps, then fall to zero.
    ext_weight: loss weight of an extension label that is as frequent as a target label; more frequent ones get less.
    average: decay of the running mean of the weights that is evaluated and kept; 0 keeps the weights themselves.
    evaluations: how often the dev data are scored, evenly spread, the last time at the end.
    """

    epochs: int = 0
    max_steps: int = 0
    batch_size: int = 8
    lr: float = 4e-3
    head_lr: float = 1e-3
    encoder_lr: float = 2e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    average: float = 0.995
    ext_weight: float = 0.1
    evaluations: int = 10
    seed: int = 42
    device: str = "cpu"
    progress: bool = True


@dataclass
class TrainResult:
    """What a training did. best_step: whose weights were kept; dev: their dev scores, None without dev data.

    history: (step, mean loss a sentence since the last row, dev F1 in percent or None).
    """

    steps: int
    best_step: int = 0
    dev: Report | None = None
    history: list[tuple[int, float, float | None]] = field(default_factory=list)


def train_model(
    sentences: Sequence[Sentence],
    labels: LabelSet,
    config: TrainConfig,
    *,
    dev: Sequence[Sentence] = (),
    encoder: str = SCRATCH,
) -> tuple[NerModel, TrainResult]:
    """Train a model; on one machine the same arguments give the same weights on CPU.

    (With a pretrained encoder also the number of threads must be the same.)

    Args:
        sentences: training data; those without tokens are left out.
        dev: chooses the kept weights by strict F1 on target labels; without it the last weights are kept.
        encoder: "scratch", or folder or hub id of a transformers encoder.
    Returns:
        the model in eval mode, and what happened.
    Raises:
        UserError: no sentences, or a label that the label set does not hold.
    """
    sentences = [s for s in sentences if s.tokens]
    if not sentences:
        raise UserError("there is no training sentence. Give at least one.")
    for name, part in (("training", sentences), ("dev", dev)):
        if missing := unknown_labels(part, labels):
            label, spans = missing.most_common(1)[0]
            raise UserError(f"the {name} data hold {spans} spans of {label!r}, which is not in the label set "
                            f"({', '.join(labels.names)}). Train with the label file that belongs to these data.")
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_model(sentences, labels, encoder).to(config.device)
        with fitting_threads(model.encoder):
            return model, _Trainer(model, sentences, dev, config).run()


def build_model(sentences: Sequence[Sentence], labels: LabelSet, encoder: str = SCRATCH) -> NerModel:
    """An untrained model with the vocabulary, span width and decode mode that fit the training sentences."""
    targets = set(labels.targets)
    widths = [end - start for s in sentences for start, end, label in s.entities if label in targets]
    width = max([MIN_WIDTH, *widths])
    too_wide = sum(end - start > width for s in sentences for start, end, _ in s.entities)
    if too_wide:
        log.info("%d extension spans of more than %d tokens are left out of the training", too_wide, width)
    dense = is_dense(sentences)
    head = HeadConfig(width, **(SCRATCH_HEAD if encoder == SCRATCH else {}))
    if encoder == SCRATCH:
        module: nn.Module = ScratchEncoder(ScratchConfig(), Vocabulary.build(sentences, dense))
    else:
        module = PretrainedEncoder(load_encoder(encoder), load_tokenizer(encoder), spaced=not dense)
    decode = "nested" if has_nested(sentences, targets) else "flat"
    return NerModel(module, labels, head, decode=decode)


def total_steps(sentences: int, config: TrainConfig) -> int:
    """Number of optimiser steps; see ``TrainConfig``."""
    per_epoch = math.ceil(sentences / config.batch_size)
    if config.epochs or config.max_steps:
        given = [steps for steps in (config.epochs * per_epoch, config.max_steps) if steps]
        return min(given)
    return min(max(DEFAULT_EPOCHS * per_epoch, FEWEST_STEPS), MOST_STEPS)


def label_weights(sentences: Sequence[Sentence], labels: LabelSet, ext_weight: float) -> list[float]:
    """Loss weight of each label plane: 1 for targets, ``ext_weight * min(1, r / n)`` for an extension label.

    n is its number of spans in these sentences and r the mean number a target label has, so that a part of speech
    with thousands of spans does not drown the targets.
    """
    counts = Counter(label for s in sentences for _, _, label in s.entities)
    usual = max(1.0, sum(counts[name] for name in labels.targets) / len(labels.targets))
    return [1.0] * len(labels.targets) + [
        ext_weight * min(1.0, usual / max(1, counts[name])) for name in labels.extensions
    ]


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at ``step`` of 0 .. steps - 1: rises over the warm-up, then falls to 0."""
    rising = max(1.0, warmup * steps)
    return min((step + 1) / rising, max(0.0, (steps - step) / max(1.0, steps - rising)))


def make_optimizer(model: NerModel, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; a pretrained encoder and the head over it have their own rates, biases and norms have no decay."""
    pretrained = isinstance(model.encoder, PretrainedEncoder)
    head_lr = config.head_lr if pretrained else config.lr
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, weight in model.named_parameters():
        lr = config.encoder_lr if pretrained and name.startswith("encoder.") else head_lr
        decay = config.weight_decay if weight.ndim > 1 else 0.0
        groups.setdefault((lr, decay), []).append(weight)
    return torch.optim.AdamW([{"params": g, "lr": lr, "weight_decay": d} for (lr, d), g in groups.items()])


class WeightAverage:
    """Running mean of a model's weights: it scores steadier from one evaluation to the next than the weights do."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.mean = {name: weight.detach().clone() for name, weight in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step; the first steps count for more, as the start is no good mean."""
        self.steps += 1
        decay = min(self.decay, self.steps / (9 + self.steps))
        for name, weight in model.state_dict().items():
            if weight.is_floating_point():
                self.mean[name].lerp_(weight, 1 - decay)


class _Trainer:
    """State of one training: what ``train_model`` would otherwise pass around."""

    def __init__(
        self, model: NerModel, sentences: Sequence[Sentence], dev: Sequence[Sentence], config: TrainConfig
    ) -> None:
        self.model, self.sentences, self.dev, self.config = model, sentences, dev, config
        self.lengths = [len(s.tokens) for s in sentences]
        self.cells = [model.cells(length) for length in self.lengths]
        self.prepared = [model.encoder.prepare(s.tokens) for s in sentences]
        self.weights = torch.tensor(label_weights(sentences, model.labels, config.ext_weight), device=config.device)
        self.average = WeightAverage(model, config.average)
        self.result = TrainResult(total_steps(len(sentences), config))
        self.best: dict[str, Tensor] = {}

    def run(self) -> TrainResult:
        """All steps; leaves the kept weights in the model."""
        config, steps = self.config, self.result.steps
        optimizer = make_optimizer(self.model, config)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: rate_at(k, steps, config.warmup))
        every = max(1, math.ceil(steps / max(1, config.evaluations)))
        if not self.dev:
            log.warning("no dev data: the last weights are kept, and no score is known")
        losses: list[float] = []
        bar = tqdm(total=steps, desc="train", unit="step", disable=None if config.progress else True,
                   mininterval=1.0)
        with bar:
            for step, batch in enumerate(self._batches(), start=1):
                losses.append(self._step(batch, optimizer))
                schedule.step()
                self.average.update(self.model)
                bar.update()
                if step == steps or (self.dev and step % every == 0):
                    f1 = self._checkpoint(step)
                    self.result.history.append((step, sum(losses) / len(losses), f1))
                    losses.clear()
                    self._tell(bar)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.result

    def _tell(self, bar: tqdm) -> None:
        """The last row of the history: beside the bar on a terminal, as a log line elsewhere."""
        step, loss, f1 = self.result.history[-1]
        shown = {"loss": f"{loss:.2f}", **({} if f1 is None else {"dev_F1": f"{f1:.1f}"})}
        bar.set_postfix(shown)
        if bar.disable:
            log.info("step %d of %d: %s", step, self.result.steps, ", ".join(f"{k} {v}" for k, v in shown.items()))

    def _batches(self) -> Iterator[list[int]]:
        """Exactly as many batches as there are steps, each epoch in its own order."""
        given = epoch = 0
        while given < self.result.steps:
            for batch in batch_order(self.lengths, self.config.batch_size, seed=self.config.seed, epoch=epoch):
                if given == self.result.steps:
                    return
                yield batch
                given += 1
            epoch += 1

    def _step(self, batch: list[int], optimizer: torch.optim.Optimizer) -> float:
        """One update; returns the mean loss of the batch's sentences."""
        self.model.train()
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        # Very long sentences or entities go through one by one: the gradient is the same, the memory stays bounded.
        for part in within_cells(batch, self.cells):
            inputs = self.model.collate([self.prepared[k] for k in part])
            gold = self.model.gold([self.sentences[k] for k in part], inputs)
            loss = self.model.loss(inputs, gold, self.weights).sum() / len(batch)
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        optimizer.step()
        return total

    def _checkpoint(self, step: int) -> float | None:
        """Score the averaged weights on dev and keep them if none were better; the later of two equals stays."""
        current = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.mean)
        report = score(self.model, self.dev, self.config.batch_size) if self.dev else None
        if report is None or self.result.dev is None or report.micro.f1 >= self.result.dev.micro.f1:
            self.result.best_step, self.result.dev = step, report
            self.best = {name: weight.clone() for name, weight in self.average.mean.items()}
        self.model.load_state_dict(current)
        return report.micro.f1 if report else None


def score(model: NerModel, sentences: Sequence[Sentence], batch_size: int = 16) -> Report:
    """Strict scores of the model's target labels; extension labels of the data play no part."""
    predicted = predict_stream(model, (s.tokens for s in sentences), batch_size)
    found = [[(span.start, span.end, span.label) for span in spans] for spans in predicted]
    return evaluate([s.entities for s in sentences], found, model.labels.targets)
