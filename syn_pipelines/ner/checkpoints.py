"""Checkpoints of a training: from one a killed training goes on as if nothing had happened. No pickle.

A checkpoint is one safetensors file beside the model folder that appears complete or not at all. Its tensors are grouped
by the first part of their names; all that is no tensor is JSON in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from syn_pipelines.ner.data import Sentence
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.side_files import UnusableCheckpoint, checkpoint_path, checkpoint_workplace, remove_checkpoint
from syn_pipelines.ner.train_config import TrainConfig
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import differing
from syn_pipelines.utils.jsonl import open_regular, sync_folder

VERSION = 1
METADATA, CHECKSUM = "syn_pipelines", "sha256"
# Options that have no part in the weights.
SILENT = {"progress", "device", "keep_last"}
BEGIN_ANEW = "Begin anew with --restart, or remove that file."
# Between two checkpoints lie no more than these seconds, or that many times what writing one takes, so that at most a
# twentieth of the time goes to them: that of a BERT holds 2 GB.
EVERY_S, EVERY_WRITINGS = 30.0, 20


@dataclass
class Checkpoint:
    """State of a training after a step. tensors: by group and name; values: JSON values by name."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def fingerprint_of(
    model: NerModel, sentences: Sequence[Sentence], dev: Sequence[Sentence], config: TrainConfig
) -> dict[str, Any]:
    """All that shapes the weights: flat, JSON values. The untrained model stands for encoder, vocabulary and sizes."""
    options = {name: value for name, value in asdict(config).items() if name not in SILENT}
    return {
        "version": VERSION, "training data": _digest(sentences), "dev data": _digest(dev),
        "labels": hashlib.sha256(json.dumps(model.labels.to_dict()).encode()).hexdigest(), **options,
        "torch": torch.__version__, "untrained model": _digest_of_tensors(model.state_dict()),
    }


def write_checkpoint(folder: Path, checkpoint: Checkpoint, fingerprint: Mapping[str, Any]) -> None:
    """Put a checkpoint in the place of the one of this model folder; it is on disk when this returns.

    Raises:
        UserError: it cannot be written.
    """
    # clone: safetensors refuses tensors that share memory, as tied weights do.
    flat = {f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
            for group, tensors in checkpoint.tensors.items() for name, tensor in tensors.items()}
    content = json.dumps({"fingerprint": dict(fingerprint), "values": checkpoint.values})
    # A folder of its own, so that nothing lasts of a writing that was killed: safetensors makes up names for its files.
    path, workplace = checkpoint_path(folder), checkpoint_workplace(folder)
    part = workplace / path.name
    shutil.rmtree(workplace, ignore_errors=True)
    try:
        workplace.mkdir(parents=True)
        save_file(flat, part, {METADATA: content, CHECKSUM: _checksum(flat, content)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        workplace.rmdir()
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:  # the latter is its form of the former
        shutil.rmtree(workplace, ignore_errors=True)
        raise UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}). Mend this, such as by making "
                        "room, then run the same command again (without --restart): it goes on from the last checkpoint.") from None


def read_checkpoint(path: Path, fingerprint: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint at ``path``, tensors on the CPU; None where there is none.

    Raises:
        UnusableCheckpoint: it is broken, or of a training with other data or options (names the differences).
    """
    try:
        open_regular(path).close()  # the library would wait for the other end of a pipe
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            flat = {key: file.get_tensor(key) for key in file.keys()}
        if metadata[CHECKSUM] != _checksum(flat, metadata[METADATA]):  # else a damaged disk would give another model
            raise ValueError("its content and its checksum disagree")
        content = json.loads(metadata[METADATA])
        made_with, values = dict(content["fingerprint"]), dict(content["values"])
    except FileNotFoundError:
        return None
    except Exception as error:  # of damaged files the library raises many kinds
        raise UnusableCheckpoint(f"{path}: is no checkpoint that can be read ({' '.join(str(error).split())[:300]}). {BEGIN_ANEW}") from None
    if differences := differing(made_with, fingerprint):
        raise UnusableCheckpoint(f"{path}: this training was begun otherwise: {differences}. Go on with the same data and "
                        f"options as then. {BEGIN_ANEW}")
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        tensors.setdefault(group, {})[name] = tensor
    return Checkpoint(tensors, values)


class Checkpoints:
    """The checkpoint of one training and when to renew it. folder: of the model; None: none is read or written."""

    def __init__(self, folder: Path | None, fingerprint: Mapping[str, Any], *, writes: bool = True,
                 restart: bool = False) -> None:
        """writes: False in a process that leaves the writing to another. restart: take away one that is there."""
        self.path = checkpoint_path(folder) if folder else None
        self._folder, self._fingerprint, self._writes = folder, fingerprint, writes and folder is not None
        self._took, self._written = 0.0, time.monotonic()
        self._restart = restart
        if restart:
            self.remove()  # else a stop before the first new one would bring it back

    def read(self) -> Checkpoint | None:
        """See ``read_checkpoint``. None with ``restart``: another process may not have taken it away yet."""
        return read_checkpoint(self.path, self._fingerprint) if self.path and not self._restart else None

    def are_due(self) -> bool:
        """Whether the last one is old."""
        return self._writes and time.monotonic() - self._written > max(EVERY_S, EVERY_WRITINGS * self._took)

    def write(self, checkpoint: Checkpoint) -> None:
        """See ``write_checkpoint``."""
        if self._writes:
            started = time.monotonic()
            write_checkpoint(self._folder, checkpoint, self._fingerprint)
            self._written = time.monotonic()
            self._took = self._written - started

    def remove(self) -> None:
        """See ``remove_checkpoint``."""
        if self._writes:
            remove_checkpoint(self._folder)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What an optimiser remembers of each weight, by kind and name of the weight, as groups of a checkpoint."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, weight in model.named_parameters():
        for kind, tensor in optimizer.state.get(weight, {}).items():
            groups.setdefault(f"optimizer.{kind}", {})[name] = tensor
    return groups


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """The inverse of ``optimizer_tensors``."""
    for group, by_name in tensors.items():
        head, _, kind = group.partition(".")
        if head != "optimizer":
            continue
        for name, weight in model.named_parameters():
            if name in by_name:  # its count of steps, too: the fused AdamW wants all beside the weights
                optimizer.state[weight][kind] = by_name[name].to(weight.device)


def _digest(sentences: Sequence[Sentence]) -> str:
    digest = hashlib.sha256()
    for sentence in sentences:
        digest.update(json.dumps([sentence.tokens, sentence.entities, sentence.synthetic]).encode() + b"\n")
    return digest.hexdigest()


def _checksum(tensors: Mapping[str, Tensor], content: str) -> str:
    return hashlib.sha256((content + _digest_of_tensors(dict(sorted(tensors.items())))).encode()).hexdigest()


def _digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
