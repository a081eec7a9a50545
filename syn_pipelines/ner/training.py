"""Training of the span model: a plain loop with fixed steps, averaged weights, and selection on dev data only.

The same loop serves a CPU, a GPU, and several processes that ``accelerate launch`` has started.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from syn_pipelines.ner.checkpoints import Checkpoint, Checkpoints, fingerprint_of, optimizer_tensors, restore_optimizer
from syn_pipelines.ner.data import (
    MAX_TOKENS,
    LabelSet,
    Sentence,
    Vocabulary,
    batch_order,
    count_crossing,
    is_dense,
    overlaps_of,
    split_sentence,
    unknown_labels,
    within_cells,
)
from syn_pipelines.ner.encoders import PretrainedEncoder, ScratchConfig, ScratchEncoder, load_encoder
from syn_pipelines.ner.head import HeadConfig
from syn_pipelines.ner.metrics import Report, Score
from syn_pipelines.ner.model import NerModel, fitting_threads
from syn_pipelines.ner.optimization import WeightAverage, make_optimizer
from syn_pipelines.ner.pieces import load_tokenizer, loading
from syn_pipelines.ner.side_files import Row, TrainLog, tensorboard_writer
from syn_pipelines.ner.team import Team
from syn_pipelines.ner.thresholds import choose_threshold
from syn_pipelines.ner.train_config import TrainConfig, label_weights, learned, rate_at, total_steps, with_weights
from syn_pipelines.ner.word_swaps import WordSwaps
from syn_pipelines.utils.errors import UserError

log = logging.getLogger(__name__)

SCRATCH = "scratch"
# Spans wider than this are not looked for, unless a target entity of the training data is longer.
MIN_WIDTH = 12
# The head over an encoder trained from nothing is smaller than the paper's, for a try-out must end in minutes on a CPU.
# There attention took 1.5 times as long, and gained nothing (docs/results.md).
SCRATCH_HEAD = {"channels": 64, "window": 0, "attention_heads": 4, "dropout": 0.3}



@dataclass
class TrainResult:
    """What a training did. best_step: whose weights were kept; dev: their dev scores, None without dev data.

    threshold: the one that dev data chose for them.
    history: for each evaluation its ``step``, the mean ``loss`` of a step since the last one, the learning rates (``lr``,
        or ``encoder_lr`` and ``head_lr``), ``sentences_per_s`` in training, and ``dev_f1``, ``dev_precision`` and
        ``dev_recall`` in percent (None without dev data).
    last, last_threshold: the weights of the last step by name, with ``keep_last``, and the threshold that dev chose for them.
    """

    steps: int
    best_step: int = 0
    dev: Report | None = None
    threshold: float = 0.5
    history: list[Row] = field(default_factory=list)
    last: dict[str, Tensor] = field(default_factory=dict, repr=False)
    last_threshold: float = 0.5


def train_model(
    sentences: Sequence[Sentence],
    labels: LabelSet,
    config: TrainConfig,
    *,
    dev: Sequence[Sentence] = (),
    encoder: str = SCRATCH,
    output: Path | None = None,
    tensorboard: bool = False,
    restart: bool = False,
    dense: bool | None = None,
) -> tuple[NerModel, TrainResult]:
    """Train a model; on one machine the same arguments give the same weights on CPU.

    (With a pretrained encoder also the number of threads must be the same.)

    Args:
        sentences: training data; those without tokens are left out, those of more than ``MAX_TOKENS`` cut into pieces.
        dev: chooses the kept weights by strict F1 on target labels; without it the last weights are kept.
        encoder: "scratch", or folder or hub id of a transformers encoder.
        output: model folder (which the caller writes). Beside it the training keeps a checkpoint, from which the same
            call goes on after a kill and reaches the same weights, and a log (``side_files``). The caller removes the
            checkpoint (``side_files.remove_checkpoint``) when the model is saved. None: neither is written.
        tensorboard: write TensorBoard files too. restart: begin anew, whatever checkpoint is there.
        dense: whether tokens join without blanks; None: as the sentences look.
    Returns:
        the model in eval mode, and what happened.
    Raises:
        UserError: no sentences, a label that the label set does not hold, a checkpoint of another training, or a loss
            that grew beyond all numbers.
    """
    config = with_weights(config)
    sentences = learned(sentences, config)
    if not sentences:
        raise UserError("there is no training sentence. Give at least one (synthetic ones of weight 0 are left out).")
    _refuse_unknown(sentences, dev, labels)
    if tensorboard:
        tensorboard_writer()  # a missing package is told now
    team = Team.of(config.device)
    sentences = _cut_long(sentences)
    with torch.random.fork_rng([team.device] if team.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        model = build_model(sentences, labels, encoder, dense)
        fingerprint = {**fingerprint_of(model, sentences, dev, config), "device": team.device.type, "processes": team.size}
        trainer = _Trainer(model.to(team.device), sentences, dev, config, team,
                           Checkpoints(output, fingerprint, writes=team.is_first, restart=restart))
        with fitting_threads(model.encoder):
            return model, trainer.run(output if team.is_first else None, tensorboard=tensorboard)


def _refuse_unknown(sentences: Sequence[Sentence], dev: Sequence[Sentence], labels: LabelSet) -> None:
    for name, part in (("training", sentences), ("dev", dev)):
        if missing := unknown_labels(part, labels):
            label, spans = missing.most_common(1)[0]
            raise UserError(f"the {name} data hold {spans} spans of {label!r}, which is not in the label set "
                            f"({', '.join(labels.names)}). Train with the label file that belongs to these data.")


def _cut_long(sentences: Sequence[Sentence]) -> list[Sentence]:
    """Pieces of the sentences that are too long, the others as they are; says what that costs."""
    pieces = [piece for s in sentences for piece in split_sentence(s, MAX_TOKENS)]
    if len(pieces) > len(sentences):
        lost = sum(len(s.entities) for s in sentences) - sum(len(s.entities) for s in pieces)
        log.warning("%d training sentences of more than %d tokens are cut into pieces; %d entities lie in no single piece "
                    "and are left out", sum(len(s.tokens) > MAX_TOKENS for s in sentences), MAX_TOKENS, lost)
    return pieces


def build_model(
    sentences: Sequence[Sentence], labels: LabelSet, encoder: str = SCRATCH, dense: bool | None = None
) -> NerModel:
    """An untrained model with the vocabulary, span width and decode mode that fit the training sentences."""
    targets = set(labels.targets)
    widths = [end - start for s in sentences for start, end, label in s.entities if label in targets]
    width = max([MIN_WIDTH, *widths])
    too_wide = sum(end - start > width for s in sentences for start, end, _ in s.entities)
    if too_wide:
        log.info("%d extension spans of more than %d tokens are left out of the training", too_wide, width)
    if crossing := count_crossing(sentences, targets):
        log.warning("%d target entities cross another one; a prediction never holds both", crossing)
    dense = is_dense(sentences) if dense is None else dense
    head = HeadConfig(width, **(SCRATCH_HEAD if encoder == SCRATCH else {}))
    if encoder == SCRATCH:
        module: nn.Module = ScratchEncoder(ScratchConfig(), Vocabulary.build(sentences, dense))
    else:
        module = PretrainedEncoder(load_encoder(encoder), load_tokenizer(encoder), spaced=not dense)
        _try_out(module, encoder)
    return NerModel(module, labels, head, decode=overlaps_of(sentences, targets))


def _try_out(module: PretrainedEncoder, name: str) -> None:
    """UserError where this is no encoder of text, or its tokenizer is another one's."""
    with loading(name, "encoder of text", "Name an encoder such as BERT, with its own tokenizer."), torch.no_grad():
        largest = max(module.splitter.tokenizer.get_vocab().values())
        known = module.encoder.get_input_embeddings().num_embeddings
        if largest >= known:
            raise ValueError(f"its tokenizer gives the id {largest}, its embeddings end before {known}")
        module.eval()(**module.collate([module.prepare(("a", "b"))]))


class _Trainer:
    """State of one training: what ``train_model`` would otherwise pass around. step: those done."""

    def __init__(self, model: NerModel, sentences: Sequence[Sentence], dev: Sequence[Sentence], config: TrainConfig,
                 team: Team, checkpoints: Checkpoints) -> None:
        self.model, self.sentences, self.dev, self.config = model, sentences, dev, config
        self.team, self.checkpoints = team, checkpoints
        self.lengths = [len(s.tokens) for s in sentences]
        self.swaps = WordSwaps(sentences, model.labels.targets)
        weights = label_weights(sentences, model.labels, config.ext_weight, config.label_weighting)
        self.label_weights = torch.tensor(weights, device=team.device)
        self.steps = total_steps(len(sentences), config)
        self.every = max(1, math.ceil(self.steps / max(1, config.evaluations)))
        self.optimizer = make_optimizer(model, config)
        self.average = WeightAverage(model, config.average)
        self.best: dict[str, Tensor] = {}
        self.result = TrainResult(self.steps)
        self.step = self.stale = self.summed = 0
        self.loss_sum = 0.0
        self.losses: list[Tensor] = []  # not yet summed: reading one makes a GPU wait

    def run(self, output: Path | None, *, tensorboard: bool) -> TrainResult:
        """All steps, or those after the checkpoint; leaves the kept weights in the model. output: where to log."""
        if self.team.is_first:
            self._say_start()
        self._resume()
        notes = TrainLog(output, self.result.history, tensorboard=tensorboard)
        silent = None if self.config.progress and self.team.is_first else True
        bar = tqdm(total=self.steps, initial=self.step, desc="train", unit="step", mininterval=1.0, disable=silent)
        with closing(notes), bar:
            started, trained_on = time.monotonic(), 0
            for batch in islice(self._batches(), self.step, None):
                self._train_on(batch)
                trained_on += len(batch)
                bar.update()
                if self.step % self.every and self.step < self.steps:
                    if self.checkpoints.are_due():
                        self.checkpoints.write(self._state())
                    continue
                row = self._row(trained_on / (time.monotonic() - started))
                notes.add(row | self._evaluate())
                self._tell(bar)
                if self.step == self.steps or 0 < self.config.patience <= self.stale:
                    break
                self.checkpoints.write(self._state())
                started, trained_on = time.monotonic(), 0
        return self._finish()

    def _say_start(self) -> None:
        config, labels = self.config, self.model.labels
        if not self.dev:
            log.warning("no dev data: the last weights are kept, and no score is known")
        elif not any(label in labels.targets for s in self.dev for _, _, label in s.entities):
            log.warning("the dev data hold no target entity: every score is 0, and the last weights are kept")
        if labels.extensions:
            log.info("loss weights: targets 1, %d extension labels %g (%s)", len(labels.extensions), config.ext_weight,
                     config.label_weighting)
        if synthetic := sum(s.synthetic for s in self.sentences):
            log.info("loss weights: %d synthetic sentences %g, %d others 1", synthetic, config.syn_weight,
                     len(self.sentences) - synthetic)

    def _batches(self) -> Iterator[list[int]]:
        """Exactly as many batches as there are steps, each epoch in its own order."""
        given = epoch = 0
        while given < self.steps:
            for batch in batch_order(self.lengths, self.config.batch_size, seed=self.config.seed, epoch=epoch):
                if given == self.steps:
                    return
                yield batch
                given += 1
            epoch += 1

    def _train_on(self, batch: list[int]) -> None:
        """One update with the sentences of a batch; each process of the team takes its share of them."""
        # So that dropout goes on after a restart as it would have without one.
        torch.manual_seed(seed_of(self.config.seed, self.step, self.team.rank))
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate_at(self.step, self.steps, self.config.warmup)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.team.device)
        sentences = [self._variant(k) for k in self.team.share(batch)]
        cells = [self.model.cells(len(s.tokens)) for s in sentences]
        # Very long sentences go through one by one: the gradient is the same, the memory stays bounded.
        for part in within_cells(range(len(sentences)), cells):
            loss = self._loss([sentences[k] for k in part]) / len(batch)
            loss.backward()
            total += loss.detach()
        self.losses.append(self.team.add_up(self.model.parameters(), total))
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.average.update(self.model)
        self.step += 1

    def _variant(self, k: int) -> Sentence:
        """Sentence k with some words exchanged, others in each step; as it is where it would become too long."""
        sentence = self.sentences[k]
        if not self.config.swap:
            return sentence
        varied = self.swaps.vary(sentence, self.config.swap, random.Random(f"{self.config.seed}:{self.step}:{k}"))
        return varied if len(varied.tokens) <= MAX_TOKENS else sentence

    def _loss(self, sentences: list[Sentence]) -> Tensor:
        """Sum of the weighted losses of these sentences."""
        inputs = self.model.collate([self.model.encoder.prepare(s.tokens) for s in sentences])
        gold = self.model.gold(sentences, inputs)
        on_gpu = self.team.device.type == "cuda"
        with torch.autocast(self.team.device.type, torch.bfloat16, enabled=on_gpu and self.config.bf16):
            losses = self.model.loss(inputs, gold, self.label_weights)
        weights = [self.config.syn_weight if s.synthetic else 1.0 for s in sentences]
        return (losses * torch.tensor(weights, device=losses.device)).sum()

    def _row(self, speed: float) -> Row:
        """The row of the log for the steps since the last one, scores left out."""
        self._sum_up()
        mean = self.loss_sum / max(1, self.summed)
        if not math.isfinite(mean) or not all(weight.isfinite().all() for weight in self.model.parameters()):
            self.checkpoints.remove()
            raise UserError(f"the loss is {mean} after {self.step} steps: the training has come apart. Lower the learning "
                            f"rate ({' and '.join('--' + name for name in self._rates())}), or a loss weight or a weight "
                            "decay that is far above its default.")
        self.loss_sum, self.summed = 0.0, 0
        return {"step": self.step, "loss": mean, **self._rates(), "sentences_per_s": round(speed, 2)}

    def _rates(self) -> dict[str, float]:
        return {group["rate"]: group["lr"] for group in self.optimizer.param_groups}

    def _sum_up(self) -> None:
        for loss in torch.stack(self.losses).tolist() if self.losses else ():
            self.loss_sum += loss
        self.summed += len(self.losses)
        self.losses.clear()

    def _evaluate(self) -> Row:
        """Score the averaged weights on dev and keep them if none were better; the later of two equals stays."""
        current = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.mean)
        threshold, report = self.model.threshold, None
        if self.dev:
            threshold, report = choose_threshold(self.model, self.dev, self.config.batch_size, self.team)
        self.model.load_state_dict(current)
        self.result.last_threshold = threshold
        before, now = self.result.dev, report.micro if report else None
        if report is None or before is None or now.f1 >= before.micro.f1:
            self.result.best_step, self.result.dev, self.result.threshold = self.step, report, threshold
            self.best = {name: weight.to("cpu", copy=True) for name, weight in self.average.mean.items()}
        # A model that finds nothing yet has not stopped to improve.
        improved = before is None or now.f1 > before.micro.f1 or not before.micro.f1
        self.stale = 0 if improved else self.stale + 1
        return {f"dev_{name}": getattr(now, name, None) for name in ("f1", "precision", "recall")}

    def _tell(self, bar: tqdm) -> None:
        """The last row of the history: beside the bar on a terminal, as a log line elsewhere."""
        row = self.result.history[-1]
        shown = {"loss": f"{row['loss']:.2f}", **({} if row["dev_f1"] is None else {"dev_F1": f"{row['dev_f1']:.1f}"})}
        bar.set_postfix(shown)
        if bar.disable and self.team.is_first:
            log.info("step %d of %d: %s, %.0f sentences/s", self.step, self.steps,
                     ", ".join(f"{k} {v}" for k, v in shown.items()), row["sentences_per_s"])

    def _state(self) -> Checkpoint:
        """All that the rest of the training depends on."""
        self._sum_up()
        tensors = {"model": self.model.state_dict(), "average": self.average.mean, "best": self.best,
                   **optimizer_tensors(self.optimizer, self.model)}
        return Checkpoint(tensors, {
            "step": self.step, "average_steps": self.average.steps, "stale": self.stale, "loss_sum": self.loss_sum,
            "summed": self.summed, "best_step": self.result.best_step, "threshold": self.result.threshold,
            "history": self.result.history,
            "dev": asdict(self.result.dev) if self.result.dev else None,
        })

    def _resume(self) -> None:
        """Take up the state of the checkpoint, where there is one."""
        stored = self.checkpoints.read()
        if stored is None:
            return
        tensors, values = stored.tensors, stored.values
        self.model.load_state_dict(tensors["model"])
        restore_optimizer(self.optimizer, self.model, tensors)
        self.average.mean = {name: tensor.to(self.team.device) for name, tensor in tensors["average"].items()}
        self.average.steps, self.best = values["average_steps"], tensors.get("best", {})
        self.step, self.stale = values["step"], values["stale"]
        self.loss_sum, self.summed = values["loss_sum"], values["summed"]
        self.result.best_step, self.result.history = values["best_step"], values["history"]
        self.result.threshold = values["threshold"]
        if dev := values["dev"]:
            by_label = {label: Score(**counts) for label, counts in dev["by_label"].items()}
            self.result.dev = Report(Score(**dev["micro"]), by_label)
        if self.team.is_first:
            log.info("%s: goes on after step %d of %d", self.checkpoints.path, self.step, self.steps)

    def _finish(self) -> TrainResult:
        self.result.steps = self.step
        if self.config.keep_last:
            self.result.last = self.average.mean
        self.model.load_state_dict(self.best)
        self.model.threshold = self.result.threshold
        self.model.eval()
        return self.result


def seed_of(seed: int, step: int, rank: int) -> int:
    """Seed of the random numbers of one process in one step."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}:{rank}".encode()).digest()[:7], "big")
