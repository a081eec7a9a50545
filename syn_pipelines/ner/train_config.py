"""Options of a training, and the numbers that follow from them and the data. No torch here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from syn_pipelines.ner.data import LabelSet, Sentence
from syn_pipelines.utils.errors import UserError, did_you_mean

# Default length of a training: this many passes, but within these steps.
DEFAULT_EPOCHS, FEWEST_STEPS, MOST_STEPS = 24, 2500, 3000
# Default loss weights of extension labels and of synthetic sentences, whatever the number of sentences. The paper's authors
# use 0 and 1 below 500 sentences, 0.13 and 1 from there on; but with 0 nothing is learned from the labels that were added,
# and 0.1 gained as much on 250 sentences as on 1,000 (docs/results.md).
EXT_WEIGHT, SYN_WEIGHT = 0.1, 1.0
LABEL_WEIGHTINGS = ("balanced", "count", "none")
FORMAT_VERSION = 2  # of a model folder; one of another version is trained anew


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training.

    epochs, max_steps: 0 means not given. Steps are ``max_steps``, or ``epochs`` passes, or the fewer of both; with
        neither, 24 passes but at least 2,500 and at most 3,000 steps, so that tiny and large sets both end in minutes.
    batch_size: sentences of a step, those of all processes together.
    lr, head_lr, encoder_lr: highest learning rates: of a model trained from nothing; of the head over a pretrained
        encoder; of that encoder. They rise during the warm-up, then fall to zero.
    warmup: steps of the warm-up, below 1 as a share of all.
    clip: longest gradient.
    average: decay of the running mean of the weights that is evaluated and kept; 0 keeps the weights themselves.
    ext_weight, label_weighting: loss weights of the extension labels, see ``label_weights``; -1: 0.1, and 1 with "count".
    syn_weight: loss weight of a synthetic sentence, 0 leaves them out; -1: 1.
    swap: share of the words and mentions that are exchanged for others of their labels each time, see ``word_swaps``.
    evaluations: how often the dev data are scored, evenly spread, the last time at the end.
    patience: evaluations in a row without a better dev F1 that end the training, counted from the first one that finds
        anything; 0: never.
    bf16: on a GPU, compute in bfloat16 where that is safe; the weights and the loss stay in float32.
    keep_last: give the last weights beside the best ones.
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
    ext_weight: float = -1.0
    syn_weight: float = -1.0
    label_weighting: str = "none"
    swap: float = 0.3
    evaluations: int = 10
    patience: int = 0
    bf16: bool = True
    keep_last: bool = False
    seed: int = 42
    device: str = "cpu"
    progress: bool = True


def total_steps(sentences: int, config: TrainConfig) -> int:
    """Number of optimiser steps; see ``TrainConfig``."""
    per_epoch = math.ceil(sentences / config.batch_size)
    if config.epochs or config.max_steps:
        given = [steps for steps in (config.epochs * per_epoch, config.max_steps) if steps]
        return min(given)
    return min(max(DEFAULT_EPOCHS * per_epoch, FEWEST_STEPS), MOST_STEPS)


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at ``step`` of 0 .. steps - 1: rises over the warm-up, then falls to 0."""
    rising = max(1.0, warmup if warmup >= 1 else warmup * steps)
    return min(1.0, (step + 1) / rising, (steps - step) / max(1.0, steps - rising))


def with_weights(config: TrainConfig) -> TrainConfig:
    """The options with both loss weights as numbers: those given, or the defaults.

    Raises:
        UserError: an unknown way of weighting.
    """
    if config.label_weighting not in LABEL_WEIGHTINGS:
        raise UserError(f"label_weighting {config.label_weighting!r} is unknown. Use one of {', '.join(LABEL_WEIGHTINGS)}.")
    ext = 1.0 if config.label_weighting == "count" else EXT_WEIGHT
    return replace(config, ext_weight=ext if config.ext_weight < 0 else config.ext_weight,
                   syn_weight=SYN_WEIGHT if config.syn_weight < 0 else config.syn_weight)


def learned(sentences: Iterable[Sentence], config: TrainConfig) -> list[Sentence]:
    """The sentences that a training learns from: those with tokens, synthetic ones only where they weigh anything."""
    return [s for s in sentences if s.tokens and (with_weights(config).syn_weight or not s.synthetic)]


def label_weights(
    sentences: Sequence[Sentence], labels: LabelSet, ext_weight: float, weighting: str = "balanced"
) -> list[float]:
    """Loss weight of each label plane: 1 for targets; for an extension label ``ext_weight`` times a factor.

    weighting: where that factor comes from.
        "balanced": min(1, r / n) with n its number of spans in these sentences and r the mean number a target label has,
            so that a part of speech with thousands of spans does not drown the targets.
        "count": min(10 / n, T / N) with n its number in the label file, T targets and N labels, as the paper's code does.
        "none": 1.
    """
    counts = Counter(label for s in sentences for _, _, label in s.entities)
    usual = max(1.0, sum(counts[name] for name in labels.targets) / len(labels.targets))
    most = len(labels.targets) / len(labels.names)
    factors = {
        "balanced": lambda name: min(1.0, usual / max(1, counts[name])),
        "count": lambda name: min(10 / labels.counts.get(name, 1), most),
        "none": lambda name: 1.0,
    }
    return [1.0] * len(labels.targets) + [ext_weight * factors[weighting](name) for name in labels.extensions]


def drop_labels(
    sentences: Sequence[Sentence], labels: LabelSet, names: Collection[str]
) -> tuple[list[Sentence], LabelSet]:
    """Sentences and labels without these extension labels.

    Raises:
        UserError: a name that is no label, or a target label.
    """
    for name in names:
        if name in labels.targets:
            raise UserError(f"label {name!r} is a target label ({', '.join(labels.targets)}). Only extension labels can "
                            "be left out.")
        if name not in labels.extensions:
            known = ", ".join(labels.extensions) or "none"
            raise UserError(f"there is no extension label {name!r}{did_you_mean(name, labels.extensions)}. "
                            f"Known here: {known}.")
    kept = tuple(name for name in labels.extensions if name not in names)
    counts = {name: count for name, count in labels.counts.items() if name not in names}
    left = [replace(s, entities=tuple(e for e in s.entities if e[2] not in names)) for s in sentences]
    return left, LabelSet(labels.targets, kept, counts)
