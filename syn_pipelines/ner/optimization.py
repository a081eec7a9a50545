"""The optimiser of a training and the running mean of the weights it makes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from syn_pipelines.ner.encoders import PretrainedEncoder
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.train_config import TrainConfig


def make_optimizer(model: NerModel, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; a pretrained encoder and the head over it have their own rates, biases and norms have no decay.

    Each group carries its highest rate as ``peak`` and that option's name as ``rate``.
    """
    pretrained = isinstance(model.encoder, PretrainedEncoder)
    groups: dict[tuple[str, float], list[Tensor]] = {}
    for name, weight in model.named_parameters():
        rate = ("encoder_lr" if name.startswith("encoder.") else "head_lr") if pretrained else "lr"
        decay = config.weight_decay if weight.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(weight)
    return torch.optim.AdamW([
        {"params": weights, "lr": getattr(config, rate), "peak": getattr(config, rate), "rate": rate, "weight_decay": decay}
        for (rate, decay), weights in groups.items()], fused=True)


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
        weights = {name: weight for name, weight in model.state_dict().items() if weight.is_floating_point()}
        torch._foreach_lerp_([self.mean[name] for name in weights], list(weights.values()), 1 - decay)
